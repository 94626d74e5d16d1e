//! Values as MySQL reads them from text, and as it gives them in its binary protocol.

use std::borrow::Cow;

use jiff::civil::{Date, DateTime, Time};
use litekeep_format::Value;
use serde::{Deserialize, Serialize};

use crate::portable::Refusal;
use crate::portable::columns::{ColumnType, Content};
use crate::portable::date::{Form, Zone};
use crate::portable::value::{class, dated, tagged, untagged, utf8};

/// The type of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MyType {
    /// Integers.
    Bigint,
    /// Floating-point numbers.
    Double,
    /// Integers and floating-point numbers, of 35 digits before the point and 30 after it.
    Decimal,
    /// Text.
    Text,
    /// Text of at most so many characters, which can be a key.
    Varchar(u16),
    /// Bytes.
    Blob,
    /// At most so many bytes, which can be a key.
    Varbinary(u16),
    /// The integers 0 and 1.
    Boolean,
    /// Dates without a time, all of one form.
    Date,
    /// Dates with a time, all of this form.
    Datetime(Form),
    /// Any value, as `{"t":"i","v":"7"}`: `i`nteger, `r`eal, `s`tring, `b`lob in hexadecimal digits.
    Tagged,
}

/// What the server gives for a value that is not NULL.
#[derive(Clone, Debug, PartialEq)]
pub enum Given {
    /// A whole number.
    Integer(i64),
    /// A floating-point number.
    Real(f64),
    /// Everything that it has no form of its own for.
    Bytes(Vec<u8>),
    /// A date, with a time or without.
    Time(DateTime),
}

impl Given {
    /// A date in its parts; `None`: there is no such day or time.
    pub fn time(date: (u16, u8, u8), time: (u8, u8, u8), micros: u32) -> Option<Given> {
        let small = |n: u8| i8::try_from(n).ok();
        let date = Date::new(i16::try_from(date.0).ok()?, small(date.1)?, small(date.2)?).ok()?;
        let nanos = i32::try_from(micros).ok()?.checked_mul(1000)?;
        let time = Time::new(small(time.0)?, small(time.1)?, small(time.2)?, nanos).ok()?;
        Some(Given::Time(date.to_datetime(time)))
    }

    /// The same as a value of a type is [encoded](MyType::encode), to be compared with.
    pub fn encoded(&self, my: MyType) -> Vec<u8> {
        match self {
            Given::Integer(i) => i.to_string().into_bytes(),
            Given::Real(f) => format!("{f:e}").into_bytes(),
            Given::Bytes(bytes) => bytes.clone(),
            Given::Time(time) if my == MyType::Date => DATE.write(*time).into_bytes(),
            Given::Time(time) => TIME.write(*time).into_bytes(),
        }
    }
}

/// Digits of DECIMAL(65,30).
const WHOLE_DIGITS: usize = 35;
const FRACTION_DIGITS: usize = 30;
const DATE: Form = Form { separator: None, fraction: 0, zone: Zone::None };
/// As literals have it.
const TIME: Form = Form { separator: Some(' '), fraction: 6, zone: Zone::None };

impl MyType {
    /// Those that a configuration can ask for.
    const ALL: [MyType; 8] = [
        MyType::Bigint,
        MyType::Double,
        MyType::Decimal,
        MyType::Text,
        MyType::Blob,
        MyType::Boolean,
        MyType::Date,
        MyType::Tagged,
    ];

    /// Their names.
    pub fn names() -> [&'static str; 8] {
        MyType::ALL.map(MyType::name)
    }

    /// By its name in a configuration.
    pub fn named(name: &str) -> Option<MyType> {
        MyType::ALL.into_iter().find(|my| my.name() == name)
    }

    /// Its name in a configuration.
    pub fn name(self) -> &'static str {
        match self {
            MyType::Bigint => "bigint",
            MyType::Double => "double",
            MyType::Decimal => "decimal",
            MyType::Text | MyType::Varchar(_) => "text",
            MyType::Blob | MyType::Varbinary(_) => "blob",
            MyType::Boolean => "boolean",
            MyType::Date => "date",
            MyType::Datetime(_) => "datetime",
            MyType::Tagged => "tagged",
        }
    }

    /// Its name in SQL, as the server gives it.
    pub fn sql(self) -> Cow<'static, str> {
        match self {
            MyType::Bigint => "bigint".into(),
            MyType::Double => "double".into(),
            MyType::Decimal => "decimal(65,30)".into(),
            MyType::Text | MyType::Tagged => "longtext".into(),
            MyType::Varchar(most) => format!("varchar({most})").into(),
            MyType::Blob => "longblob".into(),
            MyType::Varbinary(most) => format!("varbinary({most})").into(),
            MyType::Boolean => "tinyint(1)".into(),
            MyType::Date => "date".into(),
            MyType::Datetime(_) => "datetime(6)".into(),
        }
    }

    /// Whether the server compares it by a collation.
    pub fn is_text(self) -> bool {
        matches!(self, MyType::Text | MyType::Varchar(_) | MyType::Tagged)
    }

    fn holds(self) -> &'static str {
        match self {
            MyType::Bigint => "integers",
            MyType::Double => "floating-point numbers",
            MyType::Decimal => "numbers",
            MyType::Text | MyType::Varchar(_) => "text",
            MyType::Blob | MyType::Varbinary(_) => "blobs",
            MyType::Boolean => "0 and 1",
            MyType::Date | MyType::Datetime(_) => "dates",
            MyType::Tagged => "anything",
        }
    }

    /// The text of a value; `None`: NULL.
    ///
    /// # Errors
    /// When it would not come back as it is.
    pub fn encode(self, value: &Value) -> Result<Option<Cow<'_, [u8]>>, Refusal> {
        let owned = |text: String| Cow::Owned(text.into_bytes());
        Ok(Some(match (self, value) {
            (_, Value::Null) => return Ok(None),
            (MyType::Tagged, value) => owned(tagged(value)?),
            (MyType::Bigint | MyType::Decimal, Value::Integer(i)) => owned(i.to_string()),
            (MyType::Boolean, Value::Integer(i @ (0 | 1))) => owned(i.to_string()),
            (MyType::Double, Value::Real(f)) => owned(double(*f)?),
            (MyType::Decimal, Value::Real(f)) => owned(decimal(*f)?),
            (MyType::Text, Value::Text(text)) => utf8(text)?.as_bytes().into(),
            (MyType::Varchar(most), Value::Text(text)) => {
                let text = utf8(text)?;
                has_room(text.chars().count(), most, "characters")?;
                text.as_bytes().into()
            }
            (MyType::Blob, Value::Blob(bytes)) => bytes.into(),
            (MyType::Varbinary(most), Value::Blob(bytes)) => {
                has_room(bytes.len(), most, "bytes")?;
                bytes.into()
            }
            (MyType::Date, Value::Text(text)) => dated(DATE, utf8(text)?)?.as_bytes().into(),
            (MyType::Datetime(form), Value::Text(text)) => {
                let time = form.parse(dated(form, utf8(text)?)?).ok_or(Refusal::Date)?;
                owned(TIME.write(time))
            }
            (wanted, value) => return Err(Refusal::Type { is: class(value), wanted: wanted.holds() }),
        }))
    }

    /// Writes what was [encoded](Self::encode) as SQL has it, in a session with `NO_BACKSLASH_ESCAPES`.
    pub fn write(self, encoded: &[u8], sql: &mut Vec<u8>) {
        let before: &[u8] = match self {
            MyType::Bigint | MyType::Double | MyType::Decimal | MyType::Boolean => {
                return sql.extend_from_slice(encoded);
            }
            MyType::Text | MyType::Varchar(_) | MyType::Tagged => b"'",
            MyType::Blob | MyType::Varbinary(_) => b"_binary'",
            MyType::Date => b"DATE'",
            MyType::Datetime(_) => b"TIMESTAMP'",
        };
        sql.extend_from_slice(before);
        for (nth, part) in encoded.split(|byte| *byte == b'\'').enumerate() {
            if nth > 0 {
                sql.extend_from_slice(b"''");
            }
            sql.extend_from_slice(part);
        }
        sql.push(b'\'');
    }

    /// The value of what the server gives. `None`: it is none of this type.
    pub fn decode(self, given: Given) -> Option<Value> {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).ok();
        Some(match (self, given) {
            (MyType::Bigint, Given::Integer(i)) | (MyType::Boolean, Given::Integer(i @ (0 | 1))) => {
                Value::Integer(i)
            }
            (MyType::Double, Given::Real(f)) => Value::Real(f),
            (MyType::Decimal, Given::Bytes(bytes)) => number(&text(bytes)?)?,
            (MyType::Text | MyType::Varchar(_), Given::Bytes(bytes)) => Value::Text(bytes),
            (MyType::Blob | MyType::Varbinary(_), Given::Bytes(bytes)) => Value::Blob(bytes),
            (MyType::Date, Given::Time(time)) => Value::Text(DATE.write(time).into_bytes()),
            (MyType::Datetime(form), Given::Time(time)) => {
                let written = form.write(time);
                // Somebody has written digits that the form has no place for.
                (form.parse(&written)? == time).then(|| Value::Text(written.into_bytes()))?
            }
            (MyType::Tagged, Given::Bytes(bytes)) => untagged(&text(bytes)?)?,
            _ => return None,
        })
    }
}

impl ColumnType for MyType {
    fn of(content: Content) -> MyType {
        match content {
            Content::Integers => MyType::Bigint,
            Content::Reals => MyType::Double,
            Content::Numbers => MyType::Decimal,
            Content::Text | Content::Json => MyType::Text,
            Content::Bytes => MyType::Blob,
            Content::Booleans => MyType::Boolean,
            Content::Dates(form) if form.is_date() => MyType::Date,
            Content::Dates(form) => MyType::Datetime(form),
            Content::Anything => MyType::Tagged,
        }
    }

    fn in_sql(self) -> Cow<'static, str> {
        self.sql()
    }

    fn can_be_key(self) -> bool {
        self != MyType::Tagged
    }
}

fn has_room(size: usize, most: u16, unit: &'static str) -> Result<(), Refusal> {
    if size > usize::from(most) { Err(Refusal::TooLong { most, unit }) } else { Ok(()) }
}

/// With an exponent, so that it is no DECIMAL; the shortest that is read as the same number.
fn double(f: f64) -> Result<String, Refusal> {
    if f.is_infinite() {
        return Err(Refusal::NoLike("infinity"));
    }
    // MariaDB stores the other zero.
    if f == 0.0 && f.is_sign_negative() {
        return Err(Refusal::NoLike("a negative zero"));
    }
    Ok(format!("{f:e}"))
}

/// All of its digits. One that is whole would come back as an integer.
fn decimal(f: f64) -> Result<String, Refusal> {
    const INTEGERS: f64 = 9_223_372_036_854_775_808.0;
    if f.is_infinite() {
        return Err(Refusal::NoLike("infinity"));
    }
    if f.fract() == 0.0 && (-INTEGERS..INTEGERS).contains(&f) {
        return Err(Refusal::NoLike("a floating-point number that is whole, among integers,"));
    }
    let text = f.to_string();
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    if whole.trim_start_matches('-').len() > WHOLE_DIGITS || fraction.len() > FRACTION_DIGITS {
        return Err(Refusal::NoLike("a number of so many digits"));
    }
    Ok(text)
}

/// What DECIMAL is given as: always with all digits after the point.
fn number(text: &str) -> Option<Value> {
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { text };
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

    const TYPES: [MyType; 9] = [
        MyType::Bigint,
        MyType::Double,
        MyType::Decimal,
        MyType::Text,
        MyType::Varchar(5),
        MyType::Blob,
        MyType::Varbinary(5),
        MyType::Boolean,
        MyType::Tagged,
    ];

    /// What the server makes of a text.
    fn given(my: MyType, encoded: &[u8]) -> Given {
        let text = || String::from_utf8(encoded.to_vec()).unwrap();
        match my {
            MyType::Bigint | MyType::Boolean => Given::Integer(text().parse().unwrap()),
            MyType::Double => Given::Real(text().parse().unwrap()),
            MyType::Decimal => {
                let text = text();
                let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
                assert!(whole.len() <= 36 && fraction.len() <= 30, "{text}");
                Given::Bytes(format!("{whole}.{fraction:0<30}").into_bytes())
            }
            _ => Given::Bytes(encoded.to_vec()),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(5000))]

        #[test]
        fn what_is_written_comes_back(value in any_value()) {
            for my in TYPES {
                if let Ok(Some(encoded)) = my.encode(&value) {
                    let given = given(my, &encoded);
                    prop_assert_eq!(my.decode(given), Some(value.clone()), "{:?}: {:?}", my, encoded);
                }
            }
            let fits = TYPES.iter().any(|my| my.encode(&value).is_ok());
            let is_text = matches!(&value, Value::Text(text) if utf8(text).is_err());
            prop_assert!(fits || is_text, "{:?} fits nowhere", value);
        }
    }

    #[test]
    fn literals_end_where_they_should() {
        let literal = |my: MyType, text: &str| {
            let mut sql = vec![];
            my.write(text.as_bytes(), &mut sql);
            String::from_utf8(sql).unwrap()
        };
        assert_eq!(literal(MyType::Text, r"it's \' "), r"'it''s \'' '");
        assert_eq!(literal(MyType::Blob, "''"), "_binary''''''");
        assert_eq!(literal(MyType::Bigint, "-7"), "-7");
        assert_eq!(literal(MyType::Date, "2026-01-02"), "DATE'2026-01-02'");
    }

    #[test]
    fn times_keep_their_form() {
        let form = Form::of_shape("0000-00-00a00:00:00.000a").unwrap();
        let value = Value::Text(b"2026-02-28T23:59:59.120Z".to_vec());
        let my = MyType::Datetime(form);
        assert_eq!(my.encode(&value).unwrap().unwrap(), &b"2026-02-28 23:59:59.120000"[..]);
        let given = |micros| Given::time((2026, 2, 28), (23, 59, 59), micros).unwrap();
        assert_eq!(my.decode(given(120_000)), Some(value));
        assert_eq!(my.decode(given(120_001)), None, "not as the column's others");
        assert_eq!(Given::time((2026, 0, 28), (0, 0, 0), 0), None);
    }

    #[test]
    fn refusals_say_why() {
        let refusal = |my: MyType, value| my.encode(&value).unwrap_err().to_string();
        assert_eq!(refusal(MyType::Double, Value::Real(f64::INFINITY)), "infinity has no like there");
        assert_eq!(
            refusal(MyType::Varchar(2), Value::Text("äöü".into())),
            "it has more than 2 characters, the most that the key there has room for"
        );
        assert_eq!(
            refusal(MyType::Decimal, Value::Real(1e-300)),
            "a number of so many digits has no like there"
        );
    }
}
