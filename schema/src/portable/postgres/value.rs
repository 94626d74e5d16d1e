//! Values as PostgreSQL's text representation has them, and back.

use std::borrow::Cow;

use jiff::civil::DateTime;
use litekeep_format::Value;
use serde::{Deserialize, Serialize};

use crate::portable::Refusal;
use crate::portable::columns::{ColumnType, Content};
use crate::portable::date::{Form, Zone};
use crate::portable::value::{class, dated, hex, tagged, unhex, untagged, utf8};

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
            // JSON may hold a NUL, but a reader there could not take it out as text.
            (PgType::Tagged, Value::Text(text)) => plain(text).and_then(|_| tagged(value))?.into(),
            (PgType::Tagged, value) => tagged(value)?.into(),
            (PgType::Bigint | PgType::Numeric, Value::Integer(i)) => i.to_string().into(),
            (PgType::Boolean, Value::Integer(0)) => "f".into(),
            (PgType::Boolean, Value::Integer(1)) => "t".into(),
            (PgType::Double, Value::Real(f)) => double(*f).into(),
            (PgType::Numeric, Value::Real(f)) => numeric(*f)?.into(),
            (PgType::Text, Value::Text(text)) => plain(text)?.into(),
            (PgType::Json, Value::Text(text)) => json(plain(text)?)?.into(),
            (PgType::Bytea, Value::Blob(bytes)) => hex(r"\x", bytes).into(),
            (PgType::Date, Value::Text(text)) => dated(DATE, plain(text)?)?.into(),
            (PgType::Timestamp(form) | PgType::Timestamptz(form), Value::Text(text)) => {
                dated(form, plain(text)?)?.into()
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

impl ColumnType for PgType {
    fn of(content: Content) -> PgType {
        match content {
            Content::Integers => PgType::Bigint,
            Content::Reals => PgType::Double,
            Content::Numbers => PgType::Numeric,
            Content::Text => PgType::Text,
            Content::Bytes => PgType::Bytea,
            Content::Booleans => PgType::Boolean,
            Content::Json => PgType::Json,
            Content::Dates(form) if form.is_date() => PgType::Date,
            Content::Dates(form) if form.zone == Zone::None => PgType::Timestamp(form),
            Content::Dates(form) => PgType::Timestamptz(form),
            Content::Anything => PgType::Tagged,
        }
    }

    fn in_sql(self) -> Cow<'static, str> {
        self.sql().into()
    }

    fn can_be_key(self) -> bool {
        self.is_comparable()
    }
}

const DATE: Form = Form { separator: None, fraction: 0, zone: Zone::None };

fn plain(text: &[u8]) -> Result<&str, Refusal> {
    let text = utf8(text)?;
    if text.contains('\0') { Err(Refusal::Nul) } else { Ok(text) }
}

fn json(text: &str) -> Result<&str, Refusal> {
    serde_json::from_str::<serde::de::IgnoredAny>(text).map(|_| text).map_err(|_| Refusal::Json)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::portable::value::tests::any_value;
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
            let is_text = matches!(&value, Value::Text(text) if plain(text).is_err());
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
