//! What the tables of a database declare, and what their rows hold, for those who make the like elsewhere.

use std::collections::BTreeMap;

use litekeep_format::Value;
use rusqlite::types::ValueRef;

use crate::parameter::value;
use crate::{Error, Examiner, TableReader, quoted};

/// A table that has rows of its own: no view, no virtual table, none that a virtual table keeps, none of SQLite's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declaration {
    /// Its name.
    pub name: String,
    /// The statement that made it.
    pub sql: String,
    /// All columns but hidden ones, in the order of the table.
    pub columns: Vec<DeclaredColumn>,
    /// The columns of the declared primary key, in its order.
    pub primary_key: Vec<usize>,
    /// The column that is another name of the rowid.
    pub rowid_alias: Option<usize>,
    /// Rows are found by their key.
    pub is_without_rowid: bool,
    /// The indexes but that of the primary key.
    pub indexes: Vec<DeclaredIndex>,
    /// The foreign keys.
    pub foreign_keys: Vec<ForeignKey>,
}

/// A column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeclaredColumn {
    /// Its name.
    pub name: String,
    /// The declared type, as it is written.
    pub declared: String,
    /// NULL is refused.
    pub is_not_null: bool,
    /// The expression of its DEFAULT.
    pub default: Option<String>,
    /// Whether it is computed.
    pub generated: Option<Generated>,
}

/// How a computed column has its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generated {
    /// They are stored.
    Stored,
    /// They are computed when they are read.
    Virtual,
}

/// An index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeclaredIndex {
    /// Its name; one that SQLite made for a UNIQUE begins with `sqlite_autoindex`.
    pub name: String,
    /// Values are unique.
    pub is_unique: bool,
    /// It has only some of the rows.
    pub is_partial: bool,
    /// What it is ordered by; `None`: an expression.
    pub parts: Vec<Option<IndexPart>>,
}

/// A column of an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexPart {
    /// Which column of the table.
    pub column: usize,
    /// From great to small.
    pub is_descending: bool,
    /// How text is compared.
    pub collation: String,
}

/// A foreign key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignKey {
    /// The columns that refer.
    pub columns: Vec<usize>,
    /// The table that is referred to.
    pub parent: String,
    /// Its columns; empty: its primary key, and the table is not there.
    pub parent_columns: Vec<String>,
    /// `CASCADE`, `SET NULL`, ..., `NO ACTION`.
    pub on_update: String,
    /// The same.
    pub on_delete: String,
}

/// What the values of a column are.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Profile {
    /// NULLs.
    pub nulls: u64,
    /// Integers, and the least and greatest of them.
    pub integers: u64,
    /// The least integer.
    pub least: Option<i64>,
    /// The greatest integer.
    pub greatest: Option<i64>,
    /// Floating-point numbers.
    pub reals: u64,
    /// Texts.
    pub texts: u64,
    /// Bytes of the longest text or blob.
    pub longest: u64,
    /// Texts by their shape: digits are `0`, letters `a`; of a few shapes only.
    pub shapes: BTreeMap<String, u64>,
    /// Texts of further shapes.
    pub other_shapes: u64,
    /// Blobs.
    pub blobs: u64,
}

/// More shapes than a date has in one column say that it has no form.
const MOST_SHAPES: usize = 8;
/// Longer text is no date and no number.
const LONGEST_SHAPE: usize = 40;

impl Declaration {
    /// What the statement of a table says. Its functions and collations need not be there.
    ///
    /// # Errors
    /// When SQLite does not understand the statement.
    pub fn read(name: &str, sql: &str) -> Result<Declaration, Error> {
        let connection = TableReader::new()?.loaded(name, sql)?;
        let found = Examiner { connection }.declarations()?;
        found.into_iter().find(|table| table.name == name).ok_or_else(|| Error::Corrupt {
            context: READ,
            message: format!("it makes no table `{name}`: {sql}"),
        })
    }
}

impl Declaration {
    /// The same with only these of its columns, and only the indexes and foreign keys that are on them. A column that the primary key
    /// has must be among them.
    ///
    /// # Errors
    /// The name of a column that the table does not have, or that is left out and must not be.
    pub fn only(mut self, wanted: &[String]) -> Result<Declaration, NoSuchCut> {
        let is_it = |name: &str| wanted.iter().any(|wanted| wanted.eq_ignore_ascii_case(name));
        let is_there = |name: &&String| !self.columns.iter().any(|c| c.name.eq_ignore_ascii_case(name));
        if let Some(name) = wanted.iter().find(is_there) {
            return Err(NoSuchCut::Unknown(name.clone()));
        }
        let is_computed = |c: &&DeclaredColumn| c.generated == Some(Generated::Virtual) && is_it(&c.name);
        if let Some(column) = self.columns.iter().find(is_computed) {
            return Err(NoSuchCut::Computed(column.name.clone()));
        }
        if let Some(nth) = self.primary_key.iter().find(|nth| !is_it(&self.columns[**nth].name)) {
            return Err(NoSuchCut::OfKey(self.columns[*nth].name.clone()));
        }
        let mut places = vec![];
        let mut next = 0;
        for column in &self.columns {
            places.push(is_it(&column.name).then_some(next));
            next += usize::from(is_it(&column.name));
        }
        let moved = |nth: &usize| places[*nth];
        self.columns.retain(|column| is_it(&column.name));
        self.primary_key = self.primary_key.iter().filter_map(moved).collect();
        self.rowid_alias = self.rowid_alias.as_ref().and_then(moved);
        self.indexes.retain_mut(|index| {
            let parts = index.parts.iter().map(|part| {
                let part = part.clone()?;
                Some(moved(&part.column).map(|column| IndexPart { column, ..part }))
            });
            // An expression stays what it is; a column that is left out takes the index along.
            let parts: Option<Vec<Option<IndexPart>>> =
                parts.map(|part| part.map_or(Some(None), |part| part.map(Some))).collect();
            parts.map(|parts| index.parts = parts).is_some()
        });
        self.foreign_keys.retain_mut(|key| {
            let columns: Option<Vec<usize>> = key.columns.iter().map(moved).collect();
            columns.map(|columns| key.columns = columns).is_some()
        });
        Ok(self)
    }
}

/// Why a table cannot be with only some of its columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoSuchCut {
    /// It does not have this one.
    Unknown(String),
    /// This one is computed when it is read.
    Computed(String),
    /// This one is of its primary key.
    OfKey(String),
}

impl Examiner {
    /// The tables, in the order in which they were made.
    ///
    /// # Errors
    /// Those of SQLite.
    pub fn declarations(&self) -> Result<Vec<Declaration>, Error> {
        let found = self.rows(
            READ,
            "SELECT l.name, s.sql, l.wr FROM pragma_table_list l JOIN sqlite_schema s ON s.name = l.name AND s.type = 'table' \
             WHERE l.schema = 'main' AND l.type = 'table' AND l.name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY s.rowid",
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
        )?;
        found.into_iter().map(|(name, sql, wr)| self.declaration(name, sql, wr)).collect()
    }

    fn declaration(&self, name: String, sql: String, is_without_rowid: bool) -> Result<Declaration, Error> {
        let table = name.replace('\'', "''");
        let listed = self.rows(
            READ,
            &format!(
                "SELECT name, type, \"notnull\", dflt_value, pk, hidden FROM pragma_table_xinfo('{table}') WHERE hidden <> 1 ORDER BY cid"
            ),
            |row| {
                let column = DeclaredColumn {
                    name: row.get(0)?,
                    declared: row.get(1)?,
                    is_not_null: row.get(2)?,
                    default: row.get(3)?,
                    generated: match row.get::<_, i64>(5)? {
                        2 => Some(Generated::Virtual),
                        3 => Some(Generated::Stored),
                        _ => None,
                    },
                };
                Ok((column, row.get::<_, u32>(4)?))
            },
        )?;
        let mut key: Vec<(u32, usize)> = listed
            .iter()
            .enumerate()
            .filter(|(_, (_, place))| *place > 0)
            .map(|(nth, (_, place))| (*place, nth))
            .collect();
        key.sort_unstable();
        let primary_key: Vec<usize> = key.into_iter().map(|(_, nth)| nth).collect();
        let columns: Vec<DeclaredColumn> = listed.into_iter().map(|(column, _)| column).collect();
        let has_key_index = self.indexes_of(&table, &columns, true)?;
        // A primary key that is no alias of the rowid has an index of its own; also INTEGER PRIMARY KEY DESC.
        let rowid_alias = match primary_key[..] {
            [only] if !is_without_rowid && has_key_index.is_empty() => Some(only),
            _ => None,
        };
        Ok(Declaration {
            indexes: self.indexes_of(&table, &columns, false)?,
            foreign_keys: self.foreign_keys_of(&table, &columns)?,
            name,
            sql,
            columns,
            primary_key,
            rowid_alias,
            is_without_rowid,
        })
    }

    fn indexes_of(
        &self,
        table: &str,
        columns: &[DeclaredColumn],
        of_primary_key: bool,
    ) -> Result<Vec<DeclaredIndex>, Error> {
        let sql = format!(
            "SELECT i.name, i.\"unique\", i.partial, c.name, c.\"desc\", c.coll FROM pragma_index_list('{table}') i \
             JOIN pragma_index_xinfo(i.name) c WHERE c.key AND (i.origin = 'pk') = {of_primary_key} ORDER BY i.seq DESC, c.seqno"
        );
        let mut indexes: Vec<DeclaredIndex> = vec![];
        let parts = self.rows(READ, &sql, |row| {
            let (index, is_unique, is_partial) = (row.get::<_, String>(0)?, row.get(1)?, row.get(2)?);
            let column: Option<String> = row.get(3)?;
            let (is_descending, collation) =
                (row.get(4)?, row.get::<_, Option<String>>(5)?.unwrap_or_default());
            let nth = column.and_then(|name| columns.iter().position(|column| column.name == name));
            let part = nth.map(|column| IndexPart { column, is_descending, collation });
            Ok((DeclaredIndex { name: index, is_unique, is_partial, parts: vec![] }, part))
        })?;
        for (index, part) in parts {
            if indexes.last().is_none_or(|last| last.name != index.name) {
                indexes.push(index);
            }
            indexes.last_mut().expect("pushed above").parts.push(part);
        }
        Ok(indexes)
    }

    fn foreign_keys_of(&self, table: &str, columns: &[DeclaredColumn]) -> Result<Vec<ForeignKey>, Error> {
        let sql = format!(
            "SELECT id, \"table\", \"from\", \"to\", on_update, on_delete FROM pragma_foreign_key_list('{table}') ORDER BY id DESC, seq"
        );
        let mut keys: Vec<(i64, ForeignKey)> = vec![];
        for (id, parent, from, to, on_update, on_delete) in self.rows(READ, &sql, |row| {
            let (from, to): (String, Option<String>) = (row.get(2)?, row.get(3)?);
            Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?, from, to, row.get(4)?, row.get(5)?))
        })? {
            if keys.last().is_none_or(|(last, _)| *last != id) {
                let key =
                    ForeignKey { columns: vec![], parent, parent_columns: vec![], on_update, on_delete };
                keys.push((id, key));
            }
            let key = &mut keys.last_mut().expect("pushed above").1;
            key.columns.extend(columns.iter().position(|column| column.name.eq_ignore_ascii_case(&from)));
            key.parent_columns.extend(to);
        }
        let mut keys: Vec<ForeignKey> = keys.into_iter().map(|(_, key)| key).collect();
        for key in keys.iter_mut().filter(|key| key.parent_columns.is_empty()) {
            let parent = key.parent.replace('\'', "''");
            let sql = format!("SELECT name FROM pragma_table_info('{parent}') WHERE pk > 0 ORDER BY pk");
            key.parent_columns = self.rows(READ, &sql, |row| row.get(0))?;
        }
        Ok(keys)
    }

    /// What the columns of a table hold, by reading all of it; virtual columns are left out.
    ///
    /// # Errors
    /// Those of SQLite.
    pub fn profiles(&self, table: &Declaration) -> Result<Vec<Profile>, Error> {
        const LOOK: &str = "look at the values of a table";
        let names: Vec<String> = table
            .columns
            .iter()
            .map(|column| match column.generated {
                Some(Generated::Virtual) => "NULL".to_owned(),
                _ => quoted(&column.name),
            })
            .collect();
        let sql = format!("SELECT {} FROM {}", names.join(", "), quoted(&table.name));
        let mut profiles = vec![Profile::default(); table.columns.len()];
        let mut read = || -> rusqlite::Result<()> {
            let mut statement = self.connection.prepare(&sql)?;
            let mut rows = statement.query(())?;
            while let Some(row) = rows.next()? {
                for (nth, profile) in profiles.iter_mut().enumerate() {
                    profile.add(row.get_ref(nth)?);
                }
            }
            Ok(())
        };
        read().map_err(|e| Error::new(LOOK, e))?;
        Ok(profiles)
    }
}

const READ: &str = "read the schema";

impl Profile {
    fn add(&mut self, value: ValueRef<'_>) {
        match value {
            ValueRef::Null => self.nulls += 1,
            ValueRef::Integer(i) => {
                self.integers += 1;
                self.least = Some(self.least.map_or(i, |least| least.min(i)));
                self.greatest = Some(self.greatest.map_or(i, |greatest| greatest.max(i)));
            }
            ValueRef::Real(_) => self.reals += 1,
            ValueRef::Text(text) => self.add_text(text),
            ValueRef::Blob(bytes) => {
                self.blobs += 1;
                self.longest = self.longest.max(bytes.len() as u64);
            }
        }
    }

    fn add_text(&mut self, text: &[u8]) {
        self.texts += 1;
        self.longest = self.longest.max(text.len() as u64);
        let has_room = |shape: &String| self.shapes.len() < MOST_SHAPES || self.shapes.contains_key(shape);
        match shape(text).filter(has_room) {
            Some(shape) => *self.shapes.entry(shape).or_default() += 1,
            None => self.other_shapes += 1,
        }
    }

    /// Values that are not NULL.
    pub fn values(&self) -> u64 {
        self.integers + self.reals + self.texts + self.blobs
    }
}

/// What a short text looks like: digits are `0`, letters `a`, all else is as it is.
fn shape(text: &[u8]) -> Option<String> {
    if text.len() > LONGEST_SHAPE || !text.is_ascii() {
        return None;
    }
    let plain = |byte: &u8| match byte {
        b'0'..=b'9' => '0',
        b'a'..=b'z' | b'A'..=b'Z' => 'a',
        other => char::from(*other),
    };
    Some(text.iter().map(plain).collect())
}

/// Rows of one moment, table by table, in the order of their keys.
#[derive(Debug)]
pub struct RowReader {
    examiner: Examiner,
}

impl RowReader {
    /// Holds the present state of a database; what is committed later is not seen.
    ///
    /// # Errors
    /// Those of SQLite.
    pub fn hold(examiner: Examiner) -> Result<RowReader, Error> {
        let begin = || {
            examiner.connection.execute_batch("BEGIN")?;
            examiner.connection.query_row("SELECT count(*) FROM sqlite_schema", (), |_| Ok(()))
        };
        begin().map_err(|e| Error::new("hold the state of the database", e))?;
        Ok(RowReader { examiner })
    }

    /// Who asks about the same state.
    pub fn examiner(&self) -> &Examiner {
        &self.examiner
    }

    /// How many rows a table has.
    ///
    /// # Errors
    /// Those of SQLite.
    pub fn count(&self, table: &str) -> Result<u64, Error> {
        let sql = format!("SELECT count(*) FROM {}", quoted(table));
        let count = self.examiner.connection.query_row(&sql, (), |row| row.get::<_, i64>(0));
        count.map(i64::unsigned_abs).map_err(|e| Error::new("count rows", e))
    }

    /// Gives the rows to `each`, until it says `false`: these columns, then those that they are ordered by; of the rows only those
    /// that come after these values.
    ///
    /// # Errors
    /// Those of SQLite, and those of `each`.
    pub fn read<E: From<Error>>(
        &self,
        table: &Declaration,
        columns: &[usize],
        order: &Order,
        after: Option<&[Value]>,
        mut each: impl FnMut(&[Value]) -> Result<bool, E>,
    ) -> Result<(), E> {
        const READ_ROWS: &str = "read the rows of a table";
        let failed = |e| E::from(Error::new(READ_ROWS, e));
        let order = order.0.join(", ");
        let names: Vec<String> = columns.iter().map(|nth| quoted(&table.columns[*nth].name)).collect();
        let places = after.map_or(0, <[Value]>::len);
        let condition = match after {
            Some(_) => format!(" WHERE ({order}) > ({})", vec!["?"; places].join(", ")),
            None => String::new(),
        };
        let sql = format!(
            "SELECT {}, {order} FROM {}{condition} ORDER BY {order}",
            names.join(", "),
            quoted(&table.name)
        );
        let mut statement = self.examiner.connection.prepare(&sql).map_err(failed)?;
        let parameters = after.unwrap_or_default().iter().map(crate::parameter::Parameter);
        let mut rows = statement.query(rusqlite::params_from_iter(parameters)).map_err(failed)?;
        let mut found = vec![];
        while let Some(row) = rows.next().map_err(failed)? {
            found.clear();
            for nth in 0.. {
                match row.get_ref(nth) {
                    Ok(found_value) => found.push(value(found_value)),
                    Err(rusqlite::Error::InvalidColumnIndex(_)) => break,
                    Err(e) => return Err(failed(e)),
                }
            }
            if !each(&found)? {
                break;
            }
        }
        Ok(())
    }
}

/// What rows are read in the order of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order(Vec<String>);

impl Order {
    /// As they are stored: by the primary key of a WITHOUT ROWID table, by the rowid of all others.
    pub fn stored(table: &Declaration) -> Order {
        if table.is_without_rowid {
            return Order(table.primary_key.iter().map(|nth| quoted(&table.columns[*nth].name)).collect());
        }
        if let Some(alias) = table.rowid_alias {
            return Order(vec![quoted(&table.columns[alias].name)]);
        }
        // A column may have one of its names.
        let is_free =
            |name: &&str| !table.columns.iter().any(|column| column.name.eq_ignore_ascii_case(name));
        let name = ["rowid", "_rowid_", "oid"].into_iter().find(is_free);
        Order(vec![name.unwrap_or("rowid").to_owned()])
    }

    /// By these columns, text byte by byte.
    pub fn by(table: &Declaration, columns: &[usize]) -> Order {
        Order(
            columns
                .iter()
                .map(|nth| format!("{} COLLATE BINARY", quoted(&table.columns[*nth].name)))
                .collect(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only(columns: &[&str]) -> Result<Declaration, NoSuchCut> {
        let sql = "CREATE TABLE t(a, b REFERENCES p(x), id INTEGER PRIMARY KEY, v AS (a), c UNIQUE, d, UNIQUE(d, a))";
        let columns: Vec<String> = columns.iter().map(|&name| name.to_owned()).collect();
        Declaration::read("t", sql).unwrap().only(&columns)
    }

    #[test]
    fn a_table_can_be_with_some_of_its_columns() {
        let cut = only(&["D", "id", "c"]).unwrap();
        let names: Vec<&str> = cut.columns.iter().map(|column| column.name.as_str()).collect();
        assert_eq!(names, ["id", "c", "d"]);
        assert_eq!((&cut.primary_key[..], cut.rowid_alias), (&[0][..], Some(0)));
        let indexes: Vec<Vec<usize>> = cut
            .indexes
            .iter()
            .map(|index| index.parts.iter().flatten().map(|part| part.column).collect())
            .collect();
        assert_eq!(indexes, [[1]], "the one that has a column which is left out goes along");
        assert!(cut.foreign_keys.is_empty());
        assert_eq!(only(&["id", "b"]).unwrap().foreign_keys[0].columns, [0]);
    }

    #[test]
    fn a_cut_that_cannot_be_is_refused() {
        assert_eq!(only(&["id", "gone"]), Err(NoSuchCut::Unknown("gone".to_owned())));
        assert_eq!(only(&["a"]), Err(NoSuchCut::OfKey("id".to_owned())));
        assert_eq!(only(&["id", "v"]), Err(NoSuchCut::Computed("v".to_owned())));
    }
}
