//! Values as PostgreSQL's text representation has them, and back.

use std::borrow::Cow;
use std::fmt;

use jiff::civil::DateTime;
use litekeep_format::Value;
use serde::{Deserialize, Serialize};

use crate::portable::date::{Form, Zone};

/// The type of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PgType {
    /// Integers.
    Bigint,
    /// Floating-point numbers.
    Double,
    /// Integers and floating-point numbers.
    Numeric,
    /// Text.
    Text,
    /// Bytes.
    Bytea,
    /// The integers 0 and 1.
    Boolean,
    /// Dates without a time, all of one form.
    Date,
    /// Dates with a time, all of this form.
    Timestamp(Form),
    /// The same; UTC.
    Timestamptz(Form),
    /// JSON that keeps its spaces and its order.
    Json,
    /// Any value, as `{"t":"i","v":"7"}`: `i`nteger, `r`eal, `s`tring, `b`lob in hexadecimal digits.
    Tagged,
}

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
        }
    }
}

impl PgType {
    /// Those that a configuration can ask for.
    const ALL: [PgType; 9] = [
        PgType::Bigint,
        PgType::Double,
        PgType::Numeric,
        PgType::Text,
        PgType::Bytea,
        PgType::Boolean,
        PgType::Date,
        PgType::Json,
        PgType::Tagged,
    ];

    /// Their names.
    pub fn names() -> [&'static str; 9] {
        PgType::ALL.map(PgType::name)
    }

    /// By its name in a configuration.
    pub fn named(name: &str) -> Option<PgType> {
        PgType::ALL.into_iter().find(|pg| pg.name() == name)
    }

    /// Its name in a configuration.
    pub fn name(self) -> &'static str {
        match self {
            PgType::Tagged => "tagged",
            other => other.sql(),
        }
    }

    /// Its name in SQL.
    pub fn sql(self) -> &'static str {
        match self {
            PgType::Bigint => "bigint",
            PgType::Double => "double precision",
            PgType::Numeric => "numeric",
            PgType::Text => "text",
            PgType::Bytea => "bytea",
            PgType::Boolean => "boolean",
            PgType::Date => "date",
            PgType::Timestamp(_) => "timestamp",
            PgType::Timestamptz(_) => "timestamptz",
            PgType::Json | PgType::Tagged => "json",
        }
    }

    /// Whether values can be compared by `=`, as a key needs.
    pub fn is_comparable(self) -> bool {
        !matches!(self, PgType::Json | PgType::Tagged)
    }

    fn holds(self) -> &'static str {
        match self {
            PgType::Bigint => "integers",
            PgType::Double => "floating-point numbers",
            PgType::Numeric => "numbers",
            PgType::Text => "text",
            PgType::Bytea => "blobs",
            PgType::Boolean => "0 and 1",
            PgType::Date | PgType::Timestamp(_) | PgType::Timestamptz(_) => "dates",
            PgType::Json => "JSON",
            PgType::Tagged => "anything",
        }
    }

    /// The text of a value; `None`: NULL.
    ///
    /// # Errors
    /// When it would not come back as it is.
    pub fn encode(self, value: &Value) -> Result<Option<Cow<'_, str>>, Refusal> {
        let text: Cow<'_, str> = match (self, value) {
            (_, Value::Null) => return Ok(None),
            (PgType::Tagged, value) => tagged(value)?.into(),
            (PgType::Bigint | PgType::Numeric, Value::Integer(i)) => i.to_string().into(),
            (PgType::Boolean, Value::Integer(0)) => "f".into(),
            (PgType::Boolean, Value::Integer(1)) => "t".into(),
            (PgType::Double, Value::Real(f)) => double(*f).into(),
            (PgType::Numeric, Value::Real(f)) => numeric(*f)?.into(),
            (PgType::Text, Value::Text(text)) => utf8(text)?.into(),
            (PgType::Json, Value::Text(text)) => json(utf8(text)?)?.into(),
            (PgType::Bytea, Value::Blob(bytes)) => hex(r"\x", bytes).into(),
            (PgType::Date, Value::Text(text)) => dated(DATE, utf8(text)?)?.into(),
            (PgType::Timestamp(form) | PgType::Timestamptz(form), Value::Text(text)) => {
                dated(form, utf8(text)?)?.into()
            }
            (wanted, value) => return Err(Refusal::Type { is: class(value), wanted: wanted.holds() }),
        };
        Ok(Some(text))
    }

    /// The value of a text that PostgreSQL gives; its `TimeZone` is UTC and its `DateStyle` ISO. `None`: the text is none of
    /// this type.
    pub fn decode(self, text: &str) -> Option<Value> {
        Some(match self {
            PgType::Bigint => Value::Integer(text.parse().ok()?),
            PgType::Double => Value::Real(text.parse().ok()?),
            PgType::Numeric => number(text)?,
            PgType::Text | PgType::Json => Value::Text(text.into()),
            PgType::Bytea => Value::Blob(unhex(text.strip_prefix(r"\x")?)?),
            PgType::Boolean => Value::Integer(i64::from(match text {
                "t" | "true" => true,
                "f" | "false" => false,
                _ => return None,
            })),
            PgType::Date => Value::Text(DATE.write(time(text)?).into_bytes()),
            PgType::Timestamp(form) | PgType::Timestamptz(form) => {
                Value::Text(form.write(time(text)?).into_bytes())
            }
            PgType::Tagged => untagged(text)?,
        })
    }
}

const DATE: Form = Form { separator: None, fraction: 0, zone: Zone::None };

fn class(value: &Value) -> &'static str {
    match value {
        Value::Null => "NULL",
        Value::Integer(_) => "an integer",
        Value::Real(_) => "a floating-point number",
        Value::Text(_) => "text",
        Value::Blob(_) => "a blob",
    }
}

fn utf8(text: &[u8]) -> Result<&str, Refusal> {
    let text = std::str::from_utf8(text).map_err(|_| Refusal::Utf8)?;
    if text.contains('\0') { Err(Refusal::Nul) } else { Ok(text) }
}

fn json(text: &str) -> Result<&str, Refusal> {
    serde_json::from_str::<serde::de::IgnoredAny>(text).map(|_| text).map_err(|_| Refusal::Json)
}

/// There is no year 0 there.
fn dated(form: Form, text: &str) -> Result<&str, Refusal> {
    if form.fits(text) && !text.starts_with("0000") { Ok(text) } else { Err(Refusal::Date) }
}

/// A time as PostgreSQL writes it: `2026-01-02`, `2026-01-02 03:04:05.6`, `2026-01-02 03:04:05+00`.
fn time(text: &str) -> Option<DateTime> {
    let text = text.strip_suffix("+00").unwrap_or(text);
    if text.contains(' ') { text.parse().ok() } else { text.parse().ok().map(jiff::civil::Date::into) }
}

/// The shortest that is read as the same number.
fn double(f: f64) -> String {
    if f.is_infinite() {
        return if f > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    format!("{f:?}")
}

/// With a point where it is needed to tell it from an integer.
fn numeric(f: f64) -> Result<String, Refusal> {
    if f.is_infinite() {
        return Err(Refusal::NoLike("infinity"));
    }
    if f == 0.0 && f.is_sign_negative() {
        return Err(Refusal::NoLike("a negative zero"));
    }
    let rounded = format!("{f:.1}");
    Ok(if rounded.parse() == Ok(f) { rounded } else { format!("{f:?}") })
}

fn number(text: &str) -> Option<Value> {
    if let Ok(i) = text.parse() {
        return Some(Value::Integer(i));
    }
    text.parse().ok().map(Value::Real)
}

fn hex(prefix: &str, bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(prefix.len() + 2 * bytes.len());
    text.push_str(prefix);
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let pairs = text.as_bytes().chunks_exact(2);
    let is_whole = pairs.remainder().is_empty();
    let bytes = pairs.map(|pair| u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).ok());
    bytes.collect::<Option<Vec<u8>>>().filter(|_| is_whole)
}

fn tagged(value: &Value) -> Result<String, Refusal> {
    let (tag, text) = match value {
        Value::Null => return Err(Refusal::NoLike("NULL")),
        Value::Integer(i) => ("i", i.to_string()),
        Value::Real(f) => ("r", double(*f)),
        // JSON may hold one, but a reader there could not take it out as text.
        Value::Text(text) => ("s", utf8(text)?.to_owned()),
        Value::Blob(bytes) => ("b", hex("", bytes)),
    };
    Ok(serde_json::json!({ "t": tag, "v": text }).to_string())
}

fn untagged(text: &str) -> Option<Value> {
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
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TYPES: [PgType; 8] = [
        PgType::Bigint,
        PgType::Double,
        PgType::Numeric,
        PgType::Text,
        PgType::Bytea,
        PgType::Boolean,
        PgType::Json,
        PgType::Tagged,
    ];

    fn any_value() -> impl Strategy<Value = Value> {
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

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(5000))]

        #[test]
        fn what_is_written_comes_back(value in any_value()) {
            for pg in TYPES {
                if let Ok(Some(text)) = pg.encode(&value) {
                    prop_assert!(!text.contains('\0'));
                    prop_assert_eq!(pg.decode(&text), Some(value.clone()), "{:?}: {}", pg, text);
                }
            }
            let fits = TYPES.iter().filter(|pg| pg.encode(&value).is_ok()).count();
            let is_text = matches!(&value, Value::Text(text) if utf8(text).is_err());
            prop_assert!(fits >= 2 || is_text, "{:?} fits nowhere", value);
        }
    }

    #[test]
    fn postgres_writes_times_in_its_own_way() {
        let form = Form::of_shape("0000-00-00a00:00:00.000a").unwrap();
        let decoded = PgType::Timestamptz(form).decode("2026-02-28 23:59:59.12+00");
        assert_eq!(decoded, Some(Value::Text(b"2026-02-28T23:59:59.120Z".to_vec())));
        assert_eq!(PgType::Date.decode("2026-02-28"), Some(Value::Text(b"2026-02-28".to_vec())));
        let year_0 = Value::Text(b"0000-02-28".to_vec());
        assert_eq!(PgType::Date.encode(&year_0), Err(Refusal::Date));
    }

    #[test]
    fn refusals_say_why() {
        let refusal = |pg: PgType, value| pg.encode(&value).unwrap_err().to_string();
        assert_eq!(
            refusal(PgType::Bigint, Value::Text(b"x".to_vec())),
            "it is text, and the column holds integers"
        );
        assert_eq!(
            refusal(PgType::Text, Value::Text(b"a\0b".to_vec())),
            "it holds a NUL, which text there cannot"
        );
        assert_eq!(refusal(PgType::Numeric, Value::Real(f64::INFINITY)), "infinity has no like there");
    }
}
