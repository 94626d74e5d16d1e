//! Values as MongoDB stores them. Each keeps its own type, so that a column may hold several.

use std::borrow::Cow;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use litekeep_format::Value;
use serde::{Deserialize, Serialize};

use crate::portable::Refusal;
use crate::portable::columns::{ColumnType, Content};
use crate::portable::date::{Form, Zone};
use crate::portable::value::utf8;

/// What the values of a column are, as far as it declares it and holds it. Others are stored all the same, as what they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MongoType {
    /// Integers.
    Long,
    /// Floating-point numbers.
    Double,
    /// Integers and floating-point numbers.
    Number,
    /// Text.
    Text,
    /// Bytes.
    Binary,
    /// The integers 0 and 1 are booleans.
    Boolean,
    /// Text of this form is a date.
    Date(Form),
    /// Text that is a decimal number of at most 34 digits is one.
    Decimal,
    /// Any value.
    Any,
}

/// A value as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub enum Stored<'a> {
    /// `null`.
    Null,
    /// `long`.
    Long(i64),
    /// `double`.
    Double(f64),
    /// `string`.
    Text(Cow<'a, str>),
    /// `binData`.
    Bytes(Cow<'a, [u8]>),
    /// `bool`.
    Bool(bool),
    /// `date`: milliseconds since the epoch.
    Millis(i64),
    /// `decimal`, as it is written.
    Decimal(Cow<'a, str>),
}

/// Digits of a date's second, and of a decimal number.
pub(super) const DATE_DIGITS: u8 = 3;
const DECIMAL_DIGITS: usize = 34;
/// A decimal number of a smaller exponent is written with it.
const LEAST_EXPONENT: i64 = -6;
const DATE: Form = Form { separator: None, fraction: 0, zone: Zone::None };

impl MongoType {
    /// Those that a configuration can ask for.
    const ALL: [MongoType; 9] = [
        MongoType::Long,
        MongoType::Double,
        MongoType::Number,
        MongoType::Text,
        MongoType::Binary,
        MongoType::Boolean,
        MongoType::Date(DATE),
        MongoType::Decimal,
        MongoType::Any,
    ];

    /// Their names.
    pub fn names() -> [&'static str; 9] {
        MongoType::ALL.map(MongoType::name)
    }

    /// By its name in a configuration.
    pub fn named(name: &str) -> Option<MongoType> {
        MongoType::ALL.into_iter().find(|mongo| mongo.name() == name)
    }

    /// Its name in a configuration.
    pub fn name(self) -> &'static str {
        match self {
            MongoType::Long => "long",
            MongoType::Double => "double",
            MongoType::Number => "number",
            MongoType::Text => "string",
            MongoType::Binary => "binary",
            MongoType::Boolean => "bool",
            MongoType::Date(_) => "date",
            MongoType::Decimal => "decimal",
            MongoType::Any => "any",
        }
    }

    /// The types that a validator admits; none: all.
    pub fn admitted(self) -> &'static [&'static str] {
        match self {
            MongoType::Long => &["long"],
            MongoType::Double => &["double"],
            MongoType::Number => &["long", "double"],
            MongoType::Text => &["string"],
            MongoType::Binary => &["binData"],
            MongoType::Boolean => &["bool"],
            MongoType::Date(_) => &["date"],
            MongoType::Decimal => &["decimal", "string"],
            MongoType::Any => &[],
        }
    }

    /// Whether values of the column can be text, which an index compares.
    pub(super) fn has_text(self) -> bool {
        !matches!(self, MongoType::Long | MongoType::Double | MongoType::Number | MongoType::Binary)
    }

    /// The value as it is stored.
    ///
    /// # Errors
    /// When it would not come back as it is.
    pub fn encode(self, value: &Value) -> Result<Stored<'_>, Refusal> {
        Ok(match (self, value) {
            (_, Value::Null) => Stored::Null,
            (MongoType::Boolean, Value::Integer(i @ (0 | 1))) => Stored::Bool(*i == 1),
            (_, Value::Integer(i)) => Stored::Long(*i),
            (_, Value::Real(f)) => Stored::Double(*f),
            (_, Value::Blob(bytes)) => Stored::Bytes(bytes.into()),
            (mongo, Value::Text(text)) => {
                let text = utf8(text)?;
                match mongo {
                    MongoType::Date(form) => {
                        millis(form, text).map_or(Stored::Text(text.into()), Stored::Millis)
                    }
                    MongoType::Decimal if is_decimal(text) => Stored::Decimal(text.into()),
                    _ => Stored::Text(text.into()),
                }
            }
        })
    }

    /// The value of what is stored. `None`: no value of this column is stored so.
    pub fn decode(self, stored: &Stored<'_>) -> Option<Value> {
        let value = match (self, stored) {
            (_, Stored::Null) => Value::Null,
            (_, Stored::Long(i)) => Value::Integer(*i),
            (_, Stored::Double(f)) if !f.is_nan() => Value::Real(*f),
            (_, Stored::Text(text)) => Value::Text(text.as_bytes().to_vec()),
            (_, Stored::Bytes(bytes)) => Value::Blob(bytes.to_vec()),
            (MongoType::Boolean, Stored::Bool(is)) => Value::Integer(i64::from(*is)),
            (MongoType::Date(form), Stored::Millis(millis)) => {
                let time = Timestamp::from_millisecond(*millis).ok()?.to_zoned(TimeZone::UTC).datetime();
                Value::Text(form.write(time).into_bytes())
            }
            (MongoType::Decimal, Stored::Decimal(text)) => Value::Text(text.as_bytes().to_vec()),
            _ => return None,
        };
        // What others have written may only look like it: a number where a boolean would be, digits that the form has no place for.
        (self.encode(&value).ok()? == *stored).then_some(value)
    }
}

impl ColumnType for MongoType {
    fn of(content: Content) -> MongoType {
        match content {
            Content::Integers => MongoType::Long,
            Content::Reals => MongoType::Double,
            Content::Numbers => MongoType::Number,
            Content::Text | Content::Json => MongoType::Text,
            Content::Bytes => MongoType::Binary,
            Content::Booleans => MongoType::Boolean,
            Content::Dates(form) if form.fraction <= DATE_DIGITS => MongoType::Date(form),
            Content::Dates(_) => MongoType::Text,
            Content::Anything => MongoType::Any,
        }
    }

    fn in_sql(self) -> Cow<'static, str> {
        self.name().into()
    }

    fn can_be_key(self) -> bool {
        true
    }

    fn holds_any() -> bool {
        true
    }
}

/// The instant of a text of exactly this form. One without a zone is taken for UTC.
fn millis(form: Form, text: &str) -> Option<i64> {
    if form.fraction > DATE_DIGITS || text.starts_with("0000") || !form.fits(text) {
        return None;
    }
    TimeZone::UTC.to_timestamp(form.parse(text)?).ok().map(Timestamp::as_millisecond)
}

/// Whether a text is a decimal number just as it would be written again.
fn is_decimal(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let are_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    let is_written = !whole.is_empty()
        && are_digits(whole)
        && are_digits(fraction)
        && (whole == "0" || !whole.starts_with('0'))
        && fraction.is_empty() != digits.contains('.');
    let significant = format!("{whole}{fraction}");
    let significant = significant.trim_start_matches('0').len().max(1);
    let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    // (<https://github.com/mongodb/specifications/blob/master/source/bson-decimal128/decimal128.md#to-string-representation>)
    is_written
        && significant <= DECIMAL_DIGITS
        && fraction.len() <= DECIMAL_DIGITS
        && count(significant) - 1 - count(fraction.len()) >= LEAST_EXPONENT
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::portable::value::tests::any_value;
    use proptest::prelude::*;

    fn types() -> Vec<MongoType> {
        let form = Form::of_shape("0000-00-00a00:00:00.000a").unwrap();
        MongoType::ALL.into_iter().chain([MongoType::Date(form)]).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(5000))]

        #[test]
        fn what_is_written_comes_back(value in any_value()) {
            for mongo in types() {
                match mongo.encode(&value) {
                    Ok(stored) => prop_assert_eq!(mongo.decode(&stored), Some(value.clone()), "{:?}: {:?}", mongo, stored),
                    Err(refusal) => prop_assert_eq!(refusal, Refusal::Utf8),
                }
            }
        }

        #[test]
        fn every_date_and_decimal_comes_back(millis in -62_135_596_800_000i64..253_402_300_799_999, decimal in "-?[0-9]{1,36}(\\.[0-9]{0,36})?") {
            for mongo in types() {
                if let Some(value) = mongo.decode(&Stored::Millis(millis)) {
                    prop_assert_eq!(mongo.encode(&value), Ok(Stored::Millis(millis)));
                }
                let text = Value::Text(decimal.clone().into_bytes());
                let stored = mongo.encode(&text).unwrap();
                prop_assert_eq!(mongo.decode(&stored), Some(text));
            }
        }
    }

    #[test]
    fn types_are_chosen_value_by_value() {
        let text = |text: &str| Value::Text(text.into());
        let form = Form::of_shape("0000-00-00 00:00:00").unwrap();
        let date = MongoType::Date(form);
        assert_eq!(date.encode(&text("2026-02-28 23:59:59")), Ok(Stored::Millis(1_772_323_199_000)));
        assert_eq!(date.encode(&text("2026-02-28")), Ok(Stored::Text("2026-02-28".into())));
        assert_eq!(date.encode(&text("0000-02-28 00:00:00")), Ok(Stored::Text("0000-02-28 00:00:00".into())));
        assert_eq!(date.decode(&Stored::Millis(1)), None, "digits that the form has no place for");
        assert_eq!(MongoType::Boolean.encode(&Value::Integer(1)), Ok(Stored::Bool(true)));
        assert_eq!(MongoType::Boolean.encode(&Value::Integer(2)), Ok(Stored::Long(2)));
        assert_eq!(MongoType::Boolean.decode(&Stored::Long(1)), None);
        assert_eq!(MongoType::Long.decode(&Stored::Bool(true)), None);
    }

    #[test]
    fn only_decimals_that_are_written_so_again_are_some() {
        for fine in ["0", "-0", "10.20", "0.000001", "-12345678901234567890.12345678901234", "0.00"] {
            assert!(is_decimal(fine), "{fine}");
        }
        for other in
            ["", "-", "1.", ".5", "007", "1e5", "0.0000001", "1_0", "12345678901234567890123456789012345"]
        {
            assert!(!is_decimal(other), "{other}");
        }
    }
}
