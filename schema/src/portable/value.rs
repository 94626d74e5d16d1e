//! Values as the servers share them, and why one cannot be written.

use std::fmt;

use litekeep_format::Value;

use super::date::Form;

/// Why a value cannot be written in a type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It is of another type.
    Type {
        /// What it is.
        is: &'static str,
        /// What the column holds.
        wanted: &'static str,
    },
    /// PostgreSQL's text holds no NUL.
    Nul,
    /// It is no UTF-8.
    Utf8,
    /// It is not as all other dates of its column.
    Date,
    /// It is no JSON.
    Json,
    /// It has no like.
    NoLike(&'static str),
    /// An index there has no room for it.
    TooLong {
        /// The most that there is room for.
        most: u16,
        /// Of what.
        unit: &'static str,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Type { is, wanted } => write!(f, "it is {is}, and the column holds {wanted}"),
            Refusal::Nul => write!(f, "it holds a NUL, which text there cannot"),
            Refusal::Utf8 => write!(f, "it is no UTF-8"),
            Refusal::Date => write!(f, "it is no date of the form that the others of its column have"),
            Refusal::Json => write!(f, "it is no JSON"),
            Refusal::NoLike(what) => write!(f, "{what} has no like there"),
            Refusal::TooLong { most, unit } => {
                write!(f, "it has more than {most} {unit}, the most that the key there has room for")
            }
        }
    }
}

/// As SQLite's SQL has it.
pub(super) fn literal(value: &Value) -> String {
    match value {
        Value::Null => "NULL".to_owned(),
        Value::Integer(i) => i.to_string(),
        Value::Real(f) if f.is_infinite() => if *f > 0.0 { "9e999" } else { "-9e999" }.to_owned(),
        Value::Real(f) => format!("{f:?}"),
        Value::Text(text) => format!("'{}'", String::from_utf8_lossy(text).replace('\'', "''")),
        Value::Blob(bytes) => {
            format!("x'{}'", bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
        }
    }
}

pub(super) fn class(value: &Value) -> &'static str {
    match value {
        Value::Null => "NULL",
        Value::Integer(_) => "an integer",
        Value::Real(_) => "a floating-point number",
        Value::Text(_) => "text",
        Value::Blob(_) => "a blob",
    }
}

pub(super) fn utf8(text: &[u8]) -> Result<&str, Refusal> {
    std::str::from_utf8(text).map_err(|_| Refusal::Utf8)
}

/// There is no year 0 there.
pub(super) fn dated(form: Form, text: &str) -> Result<&str, Refusal> {
    if form.fits(text) && !text.starts_with("0000") { Ok(text) } else { Err(Refusal::Date) }
}

pub(super) fn hex(prefix: &str, bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(prefix.len() + 2 * bytes.len());
    text.push_str(prefix);
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text
}

pub(super) fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let pairs = text.as_bytes().chunks_exact(2);
    let is_whole = pairs.remainder().is_empty();
    let bytes = pairs.map(|pair| u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).ok());
    bytes.collect::<Option<Vec<u8>>>().filter(|_| is_whole)
}

/// A value with its type: `{"t":"i","v":"7"}`.
pub(super) fn tagged(value: &Value) -> Result<String, Refusal> {
    let (tag, text) = match value {
        Value::Null => return Err(Refusal::NoLike("NULL")),
        Value::Integer(i) => ("i", i.to_string()),
        Value::Real(f) if f.is_infinite() => {
            ("r", if *f > 0.0 { "Infinity" } else { "-Infinity" }.to_owned())
        }
        Value::Real(f) => ("r", format!("{f:?}")),
        Value::Text(text) => ("s", utf8(text)?.to_owned()),
        Value::Blob(bytes) => ("b", hex("", bytes)),
    };
    Ok(serde_json::json!({ "t": tag, "v": text }).to_string())
}

pub(super) fn untagged(text: &str) -> Option<Value> {
    let read: serde_json::Value = serde_json::from_str(text).ok()?;
    let value = read.get("v")?.as_str()?;
    Some(match read.get("t")?.as_str()? {
        "i" => Value::Integer(value.parse().ok()?),
        "r" => Value::Real(value.parse().ok()?),
        "s" => Value::Text(value.into()),
        "b" => Value::Blob(unhex(value)?),
        _ => return None,
    })
}

#[cfg(test)]
pub(super) mod tests {
    use litekeep_format::Value;
    use proptest::prelude::*;

    pub(in crate::portable) fn any_value() -> impl Strategy<Value = Value> {
        prop_oneof![
            any::<i64>().prop_map(Value::Integer),
            (0i64..3).prop_map(Value::Integer),
            any::<f64>().prop_filter("SQLite makes NULL of it", |f| !f.is_nan()).prop_map(Value::Real),
            (-1000i32..1000).prop_map(|i| Value::Real(f64::from(i) / 8.0)),
            (0i32..300).prop_map(|i| Value::Real(10f64.powi(i))),
            ".*".prop_map(|text| Value::Text(text.into_bytes())),
            prop::collection::vec(any::<u8>(), 0..20).prop_map(Value::Text),
            prop::collection::vec(any::<u8>(), 0..20).prop_map(Value::Blob),
            Just(Value::Text(br#"{"a": [1, "x"]}"#.to_vec())),
        ]
    }
}
