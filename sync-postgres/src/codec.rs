//! How the values of a column are written, and read back.

use std::borrow::Cow;

use litekeep_schema::portable::postgres::{Inward, PgType};
use litekeep_sync::Value;
use litekeep_sync::source::SourceType;
use serde::{Deserialize, Serialize};

use crate::literal;

/// By which rules. One is told from the other by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Codec {
    /// Those for columns of the server's.
    Theirs(Inward),
    /// Those for columns of SQLite's that have their like on the server.
    Ours(PgType),
}

impl Codec {
    /// That of a column in a plan; `None`: it is damaged.
    pub(crate) fn of(kind: &SourceType) -> Option<Codec> {
        serde_json::from_str(&kind.form).ok()
    }

    /// A column whose type the server calls so.
    pub(crate) fn kind(self, name: String) -> SourceType {
        SourceType { name, form: serde_json::to_string(&self).unwrap_or_default() }
    }

    /// A value by what the server writes; what is none of its type is kept as it is written.
    pub(crate) fn value(self, text: &[u8]) -> Value {
        match self {
            Codec::Theirs(inward) => inward.value(text),
            Codec::Ours(pg) => {
                let read = std::str::from_utf8(text).ok().and_then(|text| pg.decode(text));
                match (pg, read) {
                    // SQLite keeps an integral number of a NUMERIC column as an integer.
                    (PgType::Numeric, Some(Value::Real(f))) if is_integral(f) => Value::Integer(f as i64),
                    (_, Some(value)) => value,
                    (_, None) => Value::Text(text.to_vec()),
                }
            }
        }
    }

    /// The text of a value; `None`: NULL. `Err`: why the server cannot have it.
    pub(crate) fn text(self, value: &Value) -> Result<Option<Cow<'_, str>>, String> {
        let inward = match self {
            Codec::Ours(pg) => return pg.encode(value).map_err(|refusal| refusal.to_string()),
            Codec::Theirs(inward) => inward,
        };
        let pg = match inward {
            Inward::Integer => PgType::Bigint,
            Inward::Boolean => PgType::Boolean,
            Inward::Bytes => PgType::Bytea,
            // What is not a number is text here.
            Inward::Real if matches!(value, Value::Real(_)) => PgType::Double,
            Inward::Real if matches!(value, Value::Integer(_)) => PgType::Bigint,
            _ => PgType::Text,
        };
        pg.encode(value).map_err(|refusal| refusal.to_string())
    }

    /// Whether values can go there and come back: JSON of an array is none that the server reads.
    pub(crate) fn goes_both_ways(self) -> bool {
        !matches!(self, Codec::Theirs(Inward::Integers | Inward::Booleans | Inward::Reals | Inward::Texts))
    }
}

fn is_integral(f: f64) -> bool {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    f.fract() == 0.0 && f.abs() <= EXACT
}

/// Whether the server can have such a key: its text is UTF-8 without NUL.
pub(crate) fn can_be(key: &[Value]) -> bool {
    let is_text = |text: &[u8]| std::str::from_utf8(text).is_ok_and(|text| !text.contains('\0'));
    key.iter().all(|value| !matches!(value, Value::Text(text) if !is_text(text)))
}

/// A value of a key in a statement; the column it is compared with gives it its type.
pub(crate) fn written(value: &Value) -> String {
    match value {
        Value::Null => "NULL".to_owned(),
        Value::Integer(i) => format!("'{i}'"),
        Value::Real(f) if f.is_infinite() => format!("'{}Infinity'", if *f < 0.0 { "-" } else { "" }),
        Value::Real(f) => format!("'{f:?}'"),
        Value::Text(text) => literal(&String::from_utf8_lossy(text)),
        Value::Blob(bytes) => {
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("'\\x{hex}'")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_told_apart_by_their_names() {
        for codec in [
            Codec::Theirs(Inward::Text),
            Codec::Theirs(Inward::Boolean),
            Codec::Ours(PgType::Text),
            Codec::Ours(PgType::Boolean),
            Codec::Ours(PgType::Bigint),
        ] {
            assert_eq!(Codec::of(&codec.kind("x".to_owned())), Some(codec));
        }
        assert_eq!(Codec::of(&SourceType { name: "x".to_owned(), form: "\"y\"".to_owned() }), None);
    }

    #[test]
    fn what_the_server_writes_goes_back_as_it_came() {
        for (inward, text) in [
            (Inward::Integer, "-7"),
            (Inward::Boolean, "t"),
            (Inward::Real, "1.5"),
            (Inward::Real, "NaN"),
            (Inward::Bytes, "\\x00ff"),
            (Inward::Timestamp, "2026-01-02 03:04:05.500000"),
            (Inward::Text, "12.50"),
        ] {
            let codec = Codec::Theirs(inward);
            let value = codec.value(text.as_bytes());
            assert_eq!(codec.text(&value).unwrap().unwrap(), text, "{inward:?}");
        }
        let numeric = Codec::Ours(PgType::Numeric);
        assert_eq!(numeric.value(b"12.00"), Value::Integer(12));
        assert_eq!(numeric.value(b"12.5"), Value::Real(12.5));
    }
}
