//! The values of rows, as the log has them
//! (<https://dev.mysql.com/doc/dev/mysql-server/latest/classbinary__log_1_1Rows__event.html>).

use litekeep_schema::portable::mysql::{Calendar, Raw};

use super::event::RowsKind;
use super::table_map::{BINARY, MapColumn, TableMap, kind};
use super::{Bytes, json};

/// A value: `None` where it is NULL.
pub(crate) type Cell = Option<Raw>;

/// The rows of an event: each as it was, and as it is; what a row does not tell of is `None`.
#[derive(Debug, PartialEq)]
pub(crate) struct Row {
    pub(crate) before: Option<Vec<Option<Cell>>>,
    pub(crate) after: Option<Vec<Option<Cell>>>,
}

/// The number of the table that rows are of.
pub(crate) fn table_of(body: &[u8]) -> Option<u64> {
    Bytes(body).number(6)
}

/// Rows of an event.
pub(crate) fn rows(kind: RowsKind, body: &[u8], has_extra: bool, map: &TableMap) -> Result<Vec<Row>, String> {
    let cut = || format!("rows of `{}` that are cut off", map.table);
    let mut body = Bytes(body);
    let mut head = || {
        body.take(8)?;
        if has_extra {
            let extra = usize::try_from(body.number(2)?).ok()?;
            body.take(extra.checked_sub(2)?)?;
        }
        let columns = body.count()?;
        let bitmap = columns.div_ceil(8);
        let first = body.take(bitmap)?;
        let second = if kind == RowsKind::Update { body.take(bitmap)? } else { first };
        Some((columns, first, second))
    };
    let (columns, first, second) = head().ok_or_else(cut)?;
    if columns != map.columns.len() {
        return Err(format!("rows of `{}` with {columns} columns, of {}", map.table, map.columns.len()));
    }
    let mut rows = vec![];
    while !body.0.is_empty() {
        let left = body.0.len();
        let mut image = |present: &[u8]| image(&mut body, present, map);
        rows.push(match kind {
            RowsKind::Insert => Row { before: None, after: Some(image(second)?) },
            RowsKind::Delete => Row { before: Some(image(first)?), after: None },
            RowsKind::Update => {
                let before = Some(image(first)?);
                Row { before, after: Some(image(second)?) }
            }
        });
        if body.0.len() == left {
            return Err(format!("rows of `{}` that tell of no column", map.table));
        }
    }
    Ok(rows)
}

fn image(body: &mut Bytes<'_>, present: &[u8], map: &TableMap) -> Result<Vec<Option<Cell>>, String> {
    let bit = |bits: &[u8], nth: usize| bits.get(nth / 8).is_some_and(|byte| byte >> (nth % 8) & 1 != 0);
    let count = (0..map.columns.len()).filter(|nth| bit(present, *nth)).count();
    let nulls =
        body.take(count.div_ceil(8)).ok_or_else(|| format!("a row of `{}` that is cut off", map.table))?;
    let mut told = 0;
    let mut cells = Vec::with_capacity(map.columns.len());
    for (nth, column) in map.columns.iter().enumerate() {
        if !bit(present, nth) {
            cells.push(None);
            continue;
        }
        let is_null = bit(nulls, told);
        told += 1;
        cells.push(Some(match is_null {
            true => None,
            false => Some(value(body, column).ok_or_else(|| {
                format!("a value of `{}`.`{}`, of the type {}", map.table, column.name, column.kind)
            })?),
        }));
    }
    Ok(cells)
}

/// `None`: it is cut off, or of a type that is not known.
fn value(body: &mut Bytes<'_>, column: &MapColumn) -> Option<Raw> {
    let meta = column.meta;
    Some(match column.kind {
        kind::TINY => integer(body, 1, column.is_unsigned)?,
        kind::SHORT => integer(body, 2, column.is_unsigned)?,
        kind::INT24 => integer(body, 3, column.is_unsigned)?,
        kind::LONG => integer(body, 4, column.is_unsigned)?,
        kind::LONGLONG => integer(body, 8, column.is_unsigned)?,
        kind::FLOAT => Raw::Single(f32::from_le_bytes(body.take(4)?.try_into().ok()?)),
        kind::DOUBLE => Raw::Double(f64::from_le_bytes(body.take(8)?.try_into().ok()?)),
        kind::NEWDECIMAL => {
            Raw::Bytes(decimal(body, usize::from(meta[0]), usize::from(meta[1]))?.into_bytes())
        }
        kind::YEAR => match body.byte()? {
            0 => Raw::Integer(0),
            year => Raw::Integer(1900 + i64::from(year)),
        },
        kind::DATE | kind::NEWDATE => {
            let date = body.number(3)?;
            let (year, month, day) = (date >> 9, date >> 5 & 15, date & 31);
            Raw::Calendar(Calendar {
                year: year as u16,
                month: month as u8,
                day: day as u8,
                ..Calendar::default()
            })
        }
        kind::DATETIME2 => {
            let packed = body.big_endian(5)?.checked_sub(1 << 39)?;
            Raw::Calendar(calendar(packed, fraction(body, meta[0])?))
        }
        kind::TIMESTAMP2 => {
            let seconds = body.big_endian(4)? as u32;
            Raw::Calendar(Calendar::of_epoch(seconds, fraction(body, meta[0])?))
        }
        kind::TIME2 => {
            let digits = usize::from(meta[0]).div_ceil(2);
            let packed = body.big_endian(3 + digits)? as i64 - (1 << (23 + 8 * digits));
            let (size, is_negative) = (packed.unsigned_abs(), packed < 0);
            let micros = scaled(size & ((1 << (8 * digits)) - 1), digits);
            Raw::Span { is_negative, seconds: seconds(size >> (8 * digits)), micros }
        }
        // As servers before MySQL 5.6 and MariaDB 10.1 made them.
        kind::TIMESTAMP => Raw::Calendar(Calendar::of_epoch(body.number(4)? as u32, 0)),
        kind::DATETIME => Raw::Calendar(written(body.number(8)?)),
        kind::TIME => {
            let size = body.number(3)?;
            // Of 24 bits.
            let (size, is_negative) = if size >> 23 != 0 { ((1 << 24) - size, true) } else { (size, false) };
            let seconds = size / 10_000 * 3600 + size / 100 % 100 * 60 + size % 100;
            Raw::Span { is_negative, seconds, micros: 0 }
        }
        kind::BIT => {
            let count = usize::from(meta[1]) + usize::from(meta[0] > 0);
            Raw::Bytes(body.take(count)?.to_vec())
        }
        kind::ENUM => {
            let nth = usize::try_from(body.number(usize::from(meta[1]))?).ok()?;
            // 0 is what was none of them, which is an empty text.
            let label = nth.checked_sub(1).map(|nth| column.labels.get(nth));
            Raw::Bytes(label.map_or(Some(vec![]), |label| label.cloned())?)
        }
        kind::SET => {
            let bits = body.number(usize::from(meta[1]))?;
            let labels = column
                .labels
                .iter()
                .enumerate()
                .filter(|(nth, _)| bits.checked_shr(*nth as u32).is_some_and(|bits| bits & 1 != 0));
            let labels: Vec<&[u8]> = labels.map(|(_, label)| label.as_slice()).collect();
            Raw::Bytes(labels.join(&b","[..]))
        }
        kind::STRING => {
            let length = body.number(if column.length() > 255 { 2 } else { 1 })?;
            let mut bytes = body.take(usize::try_from(length).ok()?)?.to_vec();
            if column.collation == Some(BINARY) {
                // Zeros at the end are left out.
                bytes.resize(column.length().max(bytes.len()), 0);
            }
            Raw::Bytes(bytes)
        }
        kind::VARCHAR | kind::VAR_STRING => {
            let length = body.number(if column.length() > 255 { 2 } else { 1 })?;
            Raw::Bytes(body.take(usize::try_from(length).ok()?)?.to_vec())
        }
        kind::TINY_BLOB
        | kind::MEDIUM_BLOB
        | kind::LONG_BLOB
        | kind::BLOB
        | kind::GEOMETRY
        | kind::VECTOR => {
            let length = body.number(usize::from(meta[0]))?;
            Raw::Bytes(body.take(usize::try_from(length).ok()?)?.to_vec())
        }
        kind::JSON => {
            let length = body.number(usize::from(meta[0]))?;
            Raw::Bytes(json::text(body.take(usize::try_from(length).ok()?)?)?.into_bytes())
        }
        _ => return None,
    })
}

fn integer(body: &mut Bytes<'_>, size: usize, is_unsigned: bool) -> Option<Raw> {
    let number = body.number(size)?;
    if is_unsigned {
        return Some(Raw::Unsigned(number));
    }
    let unused = 64 - 8 * size;
    Some(Raw::Integer((number << unused) as i64 >> unused))
}

/// Digits after a second, as millionths.
fn fraction(body: &mut Bytes<'_>, digits: u8) -> Option<u32> {
    let bytes = usize::from(digits).div_ceil(2);
    Some(scaled(body.big_endian(bytes)?, bytes))
}

fn scaled(fraction: u64, bytes: usize) -> u32 {
    let scale = match bytes {
        1 => 10_000,
        2 => 100,
        _ => 1,
    };
    fraction as u32 * scale
}

/// Of 17 bits for months, then 5, 5, 6 and 6.
pub(super) fn calendar(packed: u64, micros: u32) -> Calendar {
    let months = packed >> 22;
    Calendar {
        year: (months / 13) as u16,
        month: (months % 13) as u8,
        day: (packed >> 17 & 31) as u8,
        hour: (packed >> 12 & 31) as u8,
        minute: (packed >> 6 & 63) as u8,
        second: (packed & 63) as u8,
        micros,
    }
}

/// Of 10 bits for hours, 6 and 6.
pub(super) fn seconds(packed: u64) -> u64 {
    (packed >> 12 & 0x3ff) * 3600 + (packed >> 6 & 63) * 60 + (packed & 63)
}

/// Of a number that has its digits, `20260228010203`.
fn written(digits: u64) -> Calendar {
    let two = |place: u64| (digits / 100_u64.pow(place as u32) % 100) as u8;
    Calendar {
        year: (digits / 10_000_000_000) as u16,
        month: two(4),
        day: two(3),
        hour: two(2),
        minute: two(1),
        second: two(0),
        micros: 0,
    }
}

/// Nine digits are four bytes, and fewer as few as they need.
pub(super) fn decimal(body: &mut Bytes<'_>, precision: usize, scale: usize) -> Option<String> {
    const SIZES: [usize; 10] = [0, 1, 1, 2, 2, 3, 3, 4, 4, 4];
    let whole = precision.checked_sub(scale)?;
    let parts = |digits: usize| (digits / 9, digits % 9);
    let ((wholes, first), (fractions, last)) = (parts(whole), parts(scale));
    let size = 4 * (wholes + fractions) + SIZES[first] + SIZES[last];
    let mut bytes = body.take(size)?.to_vec();
    let is_negative = bytes.first()? & 0x80 == 0;
    bytes[0] ^= 0x80;
    if is_negative {
        bytes.iter_mut().for_each(|byte| *byte = !*byte);
    }
    let mut bytes = Bytes(&bytes);
    let mut digits = String::new();
    if first > 0 {
        digits.push_str(&format!("{:0first$}", bytes.big_endian(SIZES[first])?));
    }
    for _ in 0..wholes {
        digits.push_str(&format!("{:09}", bytes.big_endian(4)?));
    }
    let digits = digits.trim_start_matches('0');
    let mut text =
        format!("{}{}", if is_negative { "-" } else { "" }, if digits.is_empty() { "0" } else { digits });
    if scale > 0 {
        text.push('.');
    }
    for _ in 0..fractions {
        text.push_str(&format!("{:09}", bytes.big_endian(4)?));
    }
    if last > 0 {
        text.push_str(&format!("{:0last$}", bytes.big_endian(SIZES[last])?));
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(kind: u8, meta: [u8; 2], bytes: &[u8]) -> Option<Raw> {
        value(&mut Bytes(bytes), &MapColumn { kind, meta, ..MapColumn::default() })
    }

    #[test]
    fn decimals_keep_all_digits() {
        let decimal = |precision, scale, bytes: &[u8]| decimal(&mut Bytes(bytes), precision, scale);
        // From the manual: 1234567890.1234 as DECIMAL(14,4).
        let bytes = [0x81, 0x0d, 0xfb, 0x38, 0xd2, 0x04, 0xd2];
        assert_eq!(decimal(14, 4, &bytes).unwrap(), "1234567890.1234");
        let negative: Vec<u8> = bytes.iter().map(|byte| !byte).collect();
        assert_eq!(decimal(14, 4, &negative).unwrap(), "-1234567890.1234");
        assert_eq!(decimal(3, 2, &[0x80, 0x05]).unwrap(), "0.05");
        assert_eq!(decimal(14, 4, &bytes[..6]), None);
    }

    #[test]
    fn times_go_backwards_too() {
        let span = |is_negative, seconds, micros| Some(Raw::Span { is_negative, seconds, micros });
        assert_eq!(of(kind::TIME2, [0, 0], &[0x80, 0x10, 0x83]), span(false, 3600 + 2 * 60 + 3, 0));
        assert_eq!(of(kind::TIME2, [0, 0], &[0x7f, 0xef, 0x7d]), span(true, 3600 + 2 * 60 + 3, 0));
        // -00:00:00.5
        assert_eq!(of(kind::TIME2, [1, 0], &[0x7f, 0xff, 0xff, 0xce]), span(true, 0, 500_000));
        assert_eq!(of(kind::TIME, [0, 0], &[0xff, 0xff, 0xff]), span(true, 1, 0));
    }

    #[test]
    fn integers_have_their_sign() {
        assert_eq!(of(kind::INT24, [0, 0], &[0xff, 0xff, 0xff]), Some(Raw::Integer(-1)));
        let column = MapColumn { kind: kind::LONGLONG, is_unsigned: true, ..MapColumn::default() };
        assert_eq!(value(&mut Bytes(&[0xff; 8]), &column), Some(Raw::Unsigned(u64::MAX)));
        assert_eq!(value(&mut Bytes(&[0xff; 7]), &column), None);
    }

    #[test]
    fn labels_are_looked_up() {
        let labels = vec![b"a".to_vec(), b"b".to_vec(), b"c".to_vec()];
        let column = |kind| MapColumn { kind, meta: [0, 1], labels: labels.clone(), ..MapColumn::default() };
        let text = |kind, byte: u8| match value(&mut Bytes(&[byte]), &column(kind)) {
            Some(Raw::Bytes(bytes)) => String::from_utf8(bytes).ok(),
            _ => None,
        };
        assert_eq!(text(kind::ENUM, 2).as_deref(), Some("b"));
        assert_eq!(text(kind::ENUM, 0).as_deref(), Some(""));
        assert_eq!(text(kind::ENUM, 4), None);
        assert_eq!(text(kind::SET, 0b101).as_deref(), Some("a,c"));
        assert_eq!(text(kind::SET, 0).as_deref(), Some(""));
    }
}
