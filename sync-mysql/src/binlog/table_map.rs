//! Which table rows are of, and what its columns are, as the server tells before the rows.

use super::Bytes;

/// Types of columns in the log.
pub(crate) mod kind {
    pub(crate) const TINY: u8 = 1;
    pub(crate) const SHORT: u8 = 2;
    pub(crate) const LONG: u8 = 3;
    pub(crate) const FLOAT: u8 = 4;
    pub(crate) const DOUBLE: u8 = 5;
    pub(crate) const TIMESTAMP: u8 = 7;
    pub(crate) const LONGLONG: u8 = 8;
    pub(crate) const INT24: u8 = 9;
    pub(crate) const DATE: u8 = 10;
    pub(crate) const TIME: u8 = 11;
    pub(crate) const DATETIME: u8 = 12;
    pub(crate) const YEAR: u8 = 13;
    pub(crate) const NEWDATE: u8 = 14;
    pub(crate) const VARCHAR: u8 = 15;
    pub(crate) const BIT: u8 = 16;
    pub(crate) const TIMESTAMP2: u8 = 17;
    pub(crate) const DATETIME2: u8 = 18;
    pub(crate) const TIME2: u8 = 19;
    pub(crate) const TYPED_ARRAY: u8 = 20;
    pub(crate) const VECTOR: u8 = 242;
    pub(crate) const JSON: u8 = 245;
    pub(crate) const NEWDECIMAL: u8 = 246;
    pub(crate) const ENUM: u8 = 247;
    pub(crate) const SET: u8 = 248;
    pub(crate) const TINY_BLOB: u8 = 249;
    pub(crate) const MEDIUM_BLOB: u8 = 250;
    pub(crate) const LONG_BLOB: u8 = 251;
    pub(crate) const BLOB: u8 = 252;
    pub(crate) const VAR_STRING: u8 = 253;
    pub(crate) const STRING: u8 = 254;
    pub(crate) const GEOMETRY: u8 = 255;
}

/// Parts of what the server tells beside types, if `binlog_row_metadata` is `FULL`.
mod part {
    pub(super) const SIGNEDNESS: u8 = 1;
    pub(super) const DEFAULT_COLLATION: u8 = 2;
    pub(super) const COLLATIONS: u8 = 3;
    pub(super) const NAMES: u8 = 4;
    pub(super) const SETS: u8 = 5;
    pub(super) const ENUMS: u8 = 6;
    pub(super) const DEFAULT_COLLATION_OF_NAMED: u8 = 10;
    pub(super) const COLLATIONS_OF_NAMED: u8 = 11;
}

/// The collation of bytes.
pub(crate) const BINARY: u64 = 63;

/// A table, as rows come of it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TableMap {
    pub(crate) id: u64,
    pub(crate) database: String,
    pub(crate) table: String,
    pub(crate) columns: Vec<MapColumn>,
    /// The server has told the names of columns.
    pub(crate) has_names: bool,
}

/// A column of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct MapColumn {
    pub(crate) kind: u8,
    /// What the type needs: a length, a precision.
    pub(crate) meta: [u8; 2],
    pub(crate) name: String,
    pub(crate) is_unsigned: bool,
    /// The number of its collation, if it has one.
    pub(crate) collation: Option<u64>,
    /// What an ENUM or SET can be, in the column's own characters.
    pub(crate) labels: Vec<Vec<u8>>,
}

impl MapColumn {
    fn is_number(&self) -> bool {
        use kind::{DOUBLE, FLOAT, INT24, LONG, LONGLONG, NEWDECIMAL, SHORT, TINY, YEAR};
        matches!(self.kind, TINY | SHORT | INT24 | LONG | LONGLONG | NEWDECIMAL | FLOAT | DOUBLE | YEAR)
    }

    /// Whether its collation is told: by MariaDB also that of spatial types.
    fn is_characters(&self, is_mariadb: bool) -> bool {
        let is_spatial = is_mariadb && self.kind == kind::GEOMETRY;
        is_spatial || matches!(self.kind, kind::STRING | kind::VAR_STRING | kind::VARCHAR | kind::BLOB)
    }

    fn is_named(&self) -> bool {
        matches!(self.kind, kind::ENUM | kind::SET)
    }

    /// The greatest length of a STRING.
    pub(crate) fn length(&self) -> usize {
        usize::from(self.meta[0]) << 8 | usize::from(self.meta[1])
    }
}

impl TableMap {
    pub(crate) fn parse(body: &[u8], is_mariadb: bool) -> Option<TableMap> {
        let mut body = Bytes(body);
        let id = body.number(6)?;
        body.take(2)?;
        let mut name = || {
            let length = usize::from(body.byte()?);
            let name = String::from_utf8_lossy(body.take(length)?).into_owned();
            body.take(1)?;
            Some(name)
        };
        let (database, table) = (name()?, name()?);
        let count = body.count()?;
        let kinds = body.take(count)?;
        let mut meta = Bytes(body.counted()?);
        let mut columns = vec![];
        for kind in kinds {
            columns.push(column(*kind, &mut meta)?);
        }
        // Which of them can be NULL.
        body.take(count.div_ceil(8))?;
        let mut map = TableMap { id, database, table, columns, has_names: false };
        while !body.0.is_empty() {
            let part = body.byte()?;
            map.add(part, Bytes(body.counted()?), is_mariadb)?;
        }
        Some(map)
    }

    fn add(&mut self, part: u8, mut body: Bytes<'_>, is_mariadb: bool) -> Option<()> {
        let is_of = |column: &MapColumn| match part {
            part::DEFAULT_COLLATION | part::COLLATIONS => column.is_characters(is_mariadb),
            _ => column.is_named(),
        };
        match part {
            part::SIGNEDNESS => {
                let numbers = self.columns.iter_mut().filter(|column| column.is_number());
                for (nth, column) in numbers.enumerate() {
                    column.is_unsigned = body.0.get(nth / 8)? << (nth % 8) & 0x80 != 0;
                }
            }
            part::DEFAULT_COLLATION | part::DEFAULT_COLLATION_OF_NAMED => {
                let default = body.count()? as u64;
                let mut others = std::collections::BTreeMap::new();
                while !body.0.is_empty() {
                    others.insert(body.count()?, body.count()? as u64);
                }
                for (nth, column) in self.columns.iter_mut().filter(|column| is_of(column)).enumerate() {
                    column.collation = Some(others.get(&nth).copied().unwrap_or(default));
                }
            }
            part::COLLATIONS | part::COLLATIONS_OF_NAMED => {
                for column in self.columns.iter_mut().filter(|column| is_of(column)) {
                    column.collation = Some(body.count()? as u64);
                }
            }
            part::NAMES => {
                for column in &mut self.columns {
                    column.name = String::from_utf8_lossy(body.counted()?).into_owned();
                }
                self.has_names = true;
            }
            part::SETS | part::ENUMS => {
                let kind = if part == part::SETS { kind::SET } else { kind::ENUM };
                for column in self.columns.iter_mut().filter(|column| column.kind == kind) {
                    let count = body.count()?;
                    column.labels =
                        (0..count).map(|_| body.counted().map(<[u8]>::to_vec)).collect::<Option<_>>()?;
                }
            }
            _ => {}
        }
        Some(())
    }
}

fn column(kind: u8, meta: &mut Bytes<'_>) -> Option<MapColumn> {
    use self::kind::*;
    let mut column = MapColumn { kind, ..MapColumn::default() };
    match kind {
        FLOAT | DOUBLE | BLOB | TINY_BLOB | MEDIUM_BLOB | LONG_BLOB | GEOMETRY | JSON | VECTOR => {
            column.meta[0] = meta.byte()?;
        }
        TIMESTAMP2 | DATETIME2 | TIME2 => column.meta[0] = meta.byte().filter(|digits| *digits <= 6)?,
        BIT | NEWDECIMAL => column.meta = meta.take(2)?.try_into().ok()?,
        VARCHAR | VAR_STRING => {
            let length = meta.number(2)? as u16;
            column.meta = length.to_be_bytes();
        }
        STRING | ENUM | SET => {
            let [first, second] = meta.take(2)?.try_into().ok()?;
            // The type itself, with two bits of the length turned round in it.
            let (kind, high) = match first & 0x30 {
                0x30 => (first, 0),
                _ => (first | 0x30, ((first & 0x30) ^ 0x30) >> 4),
            };
            column.kind = kind;
            column.meta = [high, second];
        }
        // The type of its elements, with what that needs.
        TYPED_ARRAY => {
            let of = meta.byte().filter(|of| *of != TYPED_ARRAY)?;
            self::column(of, meta)?;
        }
        _ => {}
    }
    Some(column)
}
