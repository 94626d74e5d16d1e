//! Records: the payload of a row or of an index entry.
//!
//! ```text
//! bytes of the header, itself included   varint
//! serial type of each field              varint each    0 NULL  1-6 integers  7 real  8, 9 the integers 0, 1
//! fields, one after the other                           N even: blob of (N-12)/2 bytes  N odd: text of (N-13)/2
//! ```

use crate::TextEncoding;
use crate::error::{Error, Result};
use std::cmp::Ordering;

/// A number of one to nine bytes, and how many it took. `None`: the bytes end before it does.
pub(crate) fn varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let first = *bytes.first()?;
    if first < 0x80 {
        return Some((first.into(), 1));
    }
    let mut value = u64::from(first & 0x7f);
    for n in 1..8 {
        let byte = *bytes.get(n)?;
        value = value << 7 | u64::from(byte & 0x7f);
        if byte < 0x80 {
            return Some((value, n + 1));
        }
    }
    Some((value << 8 | u64::from(*bytes.get(8)?), 9))
}

/// A field of a record, where it stands. Text is in the database's encoding.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Field<'a> {
    Null,
    Integer(i64),
    Real(f64),
    Text(&'a [u8]),
    Blob(&'a [u8]),
}

/// Bit for bit: 0.0 is not -0.0.
impl PartialEq for Field<'_> {
    fn eq(&self, other: &Field<'_>) -> bool {
        match (self, other) {
            (Field::Null, Field::Null) => true,
            (Field::Integer(a), Field::Integer(b)) => a == b,
            (Field::Real(a), Field::Real(b)) => a.to_bits() == b.to_bits(),
            (Field::Text(a), Field::Text(b)) | (Field::Blob(a), Field::Blob(b)) => a == b,
            _ => false,
        }
    }
}

/// A value of a row.
#[derive(Clone, Debug)]
pub enum Value {
    /// NULL.
    Null,
    /// An integer.
    Integer(i64),
    /// A floating-point number; never NaN.
    Real(f64),
    /// Text in UTF-8, which SQLite does not check.
    Text(Vec<u8>),
    /// Bytes.
    Blob(Vec<u8>),
}

/// Bit for bit: 0.0 is not -0.0, and 1 is not 1.0.
impl PartialEq for Value {
    fn eq(&self, other: &Value) -> bool {
        match (self, other) {
            (Value::Null, Value::Null) => true,
            (Value::Integer(a), Value::Integer(b)) => a == b,
            (Value::Real(a), Value::Real(b)) => a.to_bits() == b.to_bits(),
            (Value::Text(a), Value::Text(b)) | (Value::Blob(a), Value::Blob(b)) => a == b,
            _ => false,
        }
    }
}
impl Eq for Value {}

impl std::hash::Hash for Value {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        std::mem::discriminant(self).hash(state);
        match self {
            Value::Null => {}
            Value::Integer(i) => i.hash(state),
            Value::Real(f) => f.to_bits().hash(state),
            Value::Text(bytes) | Value::Blob(bytes) => bytes.hash(state),
        }
    }
}

impl Field<'_> {
    pub(crate) fn to_value(self, encoding: TextEncoding) -> Value {
        match self {
            Field::Null => Value::Null,
            Field::Integer(i) => Value::Integer(i),
            Field::Real(f) => Value::Real(f),
            Field::Text(bytes) => Value::Text(to_utf8(bytes, encoding)),
            Field::Blob(bytes) => Value::Blob(bytes.to_vec()),
        }
    }
}

impl Value {
    /// The value as a record of a database in this encoding has it.
    pub(crate) fn in_encoding(self, encoding: TextEncoding) -> Value {
        match self {
            Value::Text(text) => Value::Text(from_utf8(text, encoding)),
            other => other,
        }
    }

    /// As a field, of a value that is in the database's encoding already.
    pub(crate) fn as_field(&self) -> Field<'_> {
        match self {
            Value::Null => Field::Null,
            Value::Integer(i) => Field::Integer(*i),
            Value::Real(f) => Field::Real(*f),
            Value::Text(text) => Field::Text(text),
            Value::Blob(bytes) => Field::Blob(bytes),
        }
    }
}

/// Text of a database in UTF-8. What is no UTF-16 becomes U+FFFD, as when SQLite converts it.
fn to_utf8(bytes: &[u8], encoding: TextEncoding) -> Vec<u8> {
    let unit = match encoding {
        TextEncoding::Utf8 => return bytes.to_vec(),
        TextEncoding::Utf16Le => u16::from_le_bytes,
        TextEncoding::Utf16Be => u16::from_be_bytes,
    };
    let units = bytes.chunks_exact(2).map(|pair| unit([pair[0], pair[1]]));
    let chars = char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER));
    chars.collect::<String>().into_bytes()
}

fn from_utf8(text: Vec<u8>, encoding: TextEncoding) -> Vec<u8> {
    let bytes = match encoding {
        TextEncoding::Utf8 => return text,
        TextEncoding::Utf16Le => u16::to_le_bytes,
        TextEncoding::Utf16Be => u16::to_be_bytes,
    };
    String::from_utf8_lossy(&text).encode_utf16().flat_map(bytes).collect()
}

/// Bytes of a field.
fn field_len(serial: u64) -> usize {
    const SHORT: [usize; 12] = [0, 1, 2, 3, 4, 6, 8, 8, 0, 0, 0, 0];
    match usize::try_from(serial) {
        Ok(serial) => SHORT.get(serial).copied().unwrap_or_else(|| (serial - 12) / 2),
        Err(_) => usize::MAX,
    }
}

/// `bytes` are exactly the field's. Types 10 and 11, which SQLite never writes, are NULL to it.
fn field(serial: u64, bytes: &[u8]) -> Field<'_> {
    match serial {
        0 | 10 | 11 => Field::Null,
        1..=6 => {
            let negative = bytes[0] & 0x80 != 0;
            let mut wide = [if negative { 0xff } else { 0 }; 8];
            wide[8 - bytes.len()..].copy_from_slice(bytes);
            Field::Integer(i64::from_be_bytes(wide))
        }
        7 => match f64::from_be_bytes(bytes.try_into().expect("eight bytes")) {
            // SQLite has no NaN: it reads one as NULL.
            nan if nan.is_nan() => Field::Null,
            real => Field::Real(real),
        },
        8 => Field::Integer(0),
        9 => Field::Integer(1),
        _ if serial.is_multiple_of(2) => Field::Blob(bytes),
        _ => Field::Text(bytes),
    }
}

/// Goes over the fields of a record.
pub(crate) struct Fields<'a> {
    record: &'a [u8],
    header_at: usize,
    header_end: usize,
    body_at: usize,
}

impl<'a> Fields<'a> {
    /// The fields of a record, or of its beginning.
    pub(crate) fn of(record: &'a [u8]) -> Result<Fields<'a>> {
        if record.is_empty() {
            return Ok(Fields { record, header_at: 0, header_end: 0, body_at: 0 });
        }
        let (header_end, header_at) = varint(record).ok_or(Error::Record)?;
        let header_end = usize::try_from(header_end).map_err(|_| Error::Record)?;
        Ok(Fields { record, header_at, header_end, body_at: header_end })
    }

    /// Where the next field stands, perhaps beyond the bytes that are there.
    fn step(&mut self) -> Result<Option<(u64, std::ops::Range<usize>)>> {
        if self.header_at >= self.header_end {
            return Ok(None);
        }
        let header = self.record.get(self.header_at..self.header_end.min(self.record.len()));
        let (serial, len) = header.and_then(varint).ok_or(Error::Record)?;
        self.header_at += len;
        let begin = self.body_at;
        self.body_at = begin.checked_add(field_len(serial)).ok_or(Error::Record)?;
        Ok(Some((serial, begin..self.body_at)))
    }

    /// The next field; `None` after the last.
    pub(crate) fn next(&mut self) -> Result<Option<Field<'a>>> {
        let Some((serial, at)) = self.step()? else { return Ok(None) };
        let bytes = self.record.get(at).ok_or(Error::Record)?;
        Ok(Some(field(serial, bytes)))
    }

    /// Those that follow, so many at most: a damaged record may have a thousand times more.
    pub(crate) fn up_to(mut self, count: usize, out: &mut Vec<Field<'a>>) -> Result<()> {
        out.clear();
        while out.len() < count
            && let Some(field) = self.next()?
        {
            out.push(field);
        }
        Ok(())
    }
}

/// How many fields a record has, as far as its beginning tells.
pub(crate) fn field_count(beginning: &[u8]) -> usize {
    let Ok(mut fields) = Fields::of(beginning) else { return 0 };
    std::iter::from_fn(|| fields.step().ok().flatten()).count()
}

/// Whether the first fields of a record stand within its first bytes.
pub(crate) fn has_fields(beginning: &[u8], count: usize) -> bool {
    let Ok(mut fields) = Fields::of(beginning) else { return false };
    fields.header_end <= beginning.len()
        && (0..count).all(|_| fields.step().is_ok_and(|_| fields.body_at <= beginning.len()))
}

/// How text is ordered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Collation {
    /// By the bytes of the database's encoding, UTF-16 included.
    Binary,
    /// ASCII letters without their case.
    NoCase,
    /// Without spaces at the end.
    RTrim,
    /// Of the application; nobody else knows its order.
    Application(String),
}

impl Collation {
    /// By its name, in any case.
    pub fn named(name: &str) -> Collation {
        match name.to_ascii_uppercase().as_str() {
            "BINARY" => Collation::Binary,
            "NOCASE" => Collation::NoCase,
            "RTRIM" => Collation::RTrim,
            _ => Collation::Application(name.to_owned()),
        }
    }
}

/// SQLite's order: NULL, numbers, text, blobs.
pub(crate) fn compare(a: Field<'_>, b: Field<'_>, collation: &Collation, encoding: TextEncoding) -> Ordering {
    match (a, b) {
        (Field::Integer(a), Field::Integer(b)) => a.cmp(&b),
        (Field::Real(a), Field::Real(b)) => a.partial_cmp(&b).unwrap_or(Ordering::Equal),
        (Field::Integer(a), Field::Real(b)) => compare_integer_real(a, b),
        (Field::Real(a), Field::Integer(b)) => compare_integer_real(b, a).reverse(),
        (Field::Blob(a), Field::Blob(b)) => a.cmp(b),
        (Field::Text(a), Field::Text(b)) => compare_text(a, b, collation, encoding),
        _ => class(a).cmp(&class(b)),
    }
}

fn class(field: Field<'_>) -> u8 {
    match field {
        Field::Null => 0,
        Field::Integer(_) | Field::Real(_) => 1,
        Field::Text(_) => 2,
        Field::Blob(_) => 3,
    }
}

/// Without the loss of turning the integer into a real.
fn compare_integer_real(integer: i64, real: f64) -> Ordering {
    const BEYOND: f64 = 9_223_372_036_854_775_808.0;
    if real < -BEYOND {
        return Ordering::Greater;
    }
    if real >= BEYOND {
        return Ordering::Less;
    }
    let whole = real as i64;
    integer.cmp(&whole).then_with(|| (whole as f64).partial_cmp(&real).unwrap_or(Ordering::Equal))
}

/// NOCASE and RTRIM are defined for UTF-8: SQLite converts text to it first.
fn compare_text(a: &[u8], b: &[u8], collation: &Collation, encoding: TextEncoding) -> Ordering {
    if *collation != Collation::Binary && encoding != TextEncoding::Utf8 {
        return compare_text(&to_utf8(a, encoding), &to_utf8(b, encoding), collation, TextEncoding::Utf8);
    }
    match collation {
        Collation::NoCase => {
            let lower = |bytes: &[u8]| bytes.to_ascii_lowercase();
            lower(a).cmp(&lower(b))
        }
        Collation::RTrim => {
            let trimmed = |bytes: &[u8]| bytes.len() - bytes.iter().rev().take_while(|b| **b == b' ').count();
            a[..trimmed(a)].cmp(&b[..trimmed(b)])
        }
        Collation::Binary | Collation::Application(_) => a.cmp(b),
    }
}
