//! Values of documents as SQLite keeps them, and values of keys as they are there.
//!
//! Numbers, text and bytes come as they are; everything else as what the form of its column says, and in no other column, so that what comes from two
//! values is one only where they are alike. A value that the column here would change, or that cannot be told from another in a key, does not come.

use std::str::FromStr as _;

use bson::oid::ObjectId;
use bson::spec::BinarySubtype;
use bson::{Binary, Bson, DateTime, Decimal128, Uuid};
use litekeep_schema::portable::Affinity;
use litekeep_schema::portable::date::{Form, Zone};
use litekeep_schema::portable::mongodb::{MongoType, Stored};
use litekeep_sync::Value;
use serde::{Deserialize, Serialize};

/// How dates are written of which nobody says otherwise: RFC 3339, UTC.
pub(super) const DATE: Form = Form { separator: Some('T'), fraction: 3, zone: Zone::Z };
/// The largest integer up to which a floating-point number has them all.
const EXACT: u64 = 1 << 53;

/// How values of a column come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Inward {
    /// `int`, `long`: integers.
    Integer,
    /// `double`: floating-point numbers.
    Real,
    /// `string`: text.
    Text,
    /// `binData`: blobs.
    Bytes,
    /// `bool`: 0 and 1.
    Boolean,
    /// `date`: text of this form.
    Date(Form),
    /// `decimal`: text.
    Decimal,
    /// `objectId`: 24 hexadecimal digits.
    ObjectId,
    /// `binData` of the subtype 4: text.
    Uuid,
    /// Documents, arrays, and what has no other form: canonical extended JSON.
    Json,
    /// Values of several types, each as its own.
    Any,
}

/// What a value is, for a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    /// An integer, a floating-point number, text or bytes, which SQLite has.
    Plain,
    Boolean,
    Date,
    Decimal,
    ObjectId,
    Uuid,
    Other,
}

impl Inward {
    /// For people.
    pub(super) fn name(self) -> &'static str {
        match self {
            Inward::Integer => "integers",
            Inward::Real => "floating-point numbers",
            Inward::Text => "text",
            Inward::Bytes => "bytes",
            Inward::Boolean => "booleans",
            Inward::Date(_) => "dates",
            Inward::Decimal => "decimals",
            Inward::ObjectId => "ObjectIds",
            Inward::Uuid => "UUIDs",
            Inward::Json => "documents and arrays",
            Inward::Any => "values of several types",
        }
    }

    /// The type of the column that holds nothing else.
    pub(super) fn declared(self) -> &'static str {
        match self {
            Inward::Integer => "INTEGER",
            Inward::Real => "REAL",
            Inward::Bytes => "BLOB",
            Inward::Boolean => "BOOLEAN",
            Inward::Any => "",
            _ => "TEXT",
        }
    }

    /// That of a value which is the first of its column; `None`: it is nothing.
    pub(super) fn of(value: &Bson) -> Option<Inward> {
        Some(match class(value) {
            Class::Plain => match value {
                Bson::Int32(_) | Bson::Int64(_) => Inward::Integer,
                Bson::Double(_) => Inward::Real,
                Bson::String(_) => Inward::Text,
                _ => Inward::Bytes,
            },
            Class::Boolean => Inward::Boolean,
            Class::Date => Inward::Date(DATE),
            Class::Decimal => Inward::Decimal,
            Class::ObjectId => Inward::ObjectId,
            Class::Uuid => Inward::Uuid,
            Class::Other if is_nothing(value) => return None,
            Class::Other => Inward::Json,
        })
    }

    fn class(self) -> Class {
        match self {
            Inward::Integer | Inward::Real | Inward::Text | Inward::Bytes | Inward::Any => Class::Plain,
            Inward::Boolean => Class::Boolean,
            Inward::Date(_) => Class::Date,
            Inward::Decimal => Class::Decimal,
            Inward::ObjectId => Class::ObjectId,
            Inward::Uuid => Class::Uuid,
            Inward::Json => Class::Other,
        }
    }

    /// The value here. `Err`: why it cannot be.
    pub(super) fn value(self, affinity: Affinity, found: &Bson) -> Result<Value, String> {
        if is_nothing(found) {
            return Ok(Value::Null);
        }
        let class = class(found);
        if !(class == Class::Plain || class == self.class() || self == Inward::Any) {
            return Err(format!("it is {}, and the column holds {}", kind(found), self.name()));
        }
        settled(self.plain(found)?, affinity)
    }

    /// The same in a key, where two values must stay two.
    pub(super) fn key(self, affinity: Affinity, found: &Bson) -> Result<Value, String> {
        let class = class(found);
        let value = match (self, found) {
            _ if is_nothing(found) => return Err("it is the key and null".to_owned()),
            (_, Bson::Double(f)) if f.is_nan() => return Err("it is the key and no number".to_owned()),
            (Inward::Any, Bson::String(text)) if text.starts_with('{') || is_object_id(text) => {
                return Err("it is text just as a key of another type is written".to_owned());
            }
            (Inward::Any, Bson::ObjectId(_)) => self.plain(found)?,
            (Inward::Any, _) if class != Class::Plain => {
                let json = json_of(found);
                if !json.starts_with('{') {
                    return Err(format!("it is {}, and other keys are not", kind(found)));
                }
                text(json)
            }
            _ if class == self.class() => self.plain(found)?,
            _ => return Err(format!("it is {}, and the other keys are {}", kind(found), self.name())),
        };
        let key = settled(value, affinity)?;
        // Where integers are the rowid there is nothing else.
        match self == Inward::Integer && !matches!(key, Value::Integer(_)) {
            true => Err(format!("it is {}, and the other keys are {}", kind(found), self.name())),
            false => Ok(key),
        }
    }

    fn plain(self, found: &Bson) -> Result<Value, String> {
        Ok(match found {
            Bson::Int32(i) => Value::Integer(i64::from(*i)),
            Bson::Int64(i) => Value::Integer(*i),
            // SQLite has none.
            Bson::Double(f) if f.is_nan() => text("NaN".to_owned()),
            Bson::Double(f) => Value::Real(*f),
            Bson::String(string) => text(string.clone()),
            Bson::Binary(Binary { subtype: BinarySubtype::Generic, bytes }) => Value::Blob(bytes.clone()),
            Bson::Boolean(is) => Value::Integer(i64::from(*is)),
            Bson::DateTime(time) => {
                let form = if let Inward::Date(form) = self { form } else { DATE };
                let millis = Stored::Millis(time.timestamp_millis());
                MongoType::Date(form).decode(&millis).ok_or_else(|| {
                    format!("it is the date {}, which cannot be written as the others are", json_of(found))
                })?
            }
            Bson::Decimal128(decimal) => text(decimal.to_string()),
            Bson::ObjectId(id) => text(id.to_hex()),
            Bson::Binary(binary) => match binary.to_uuid() {
                Ok(uuid) => text(uuid.to_string()),
                Err(_) => text(json_of(found)),
            },
            other => text(json_of(other)),
        })
    }

    /// A value as it is there, in the place of `old`. `Err`: why it cannot be there so that it comes back as it is.
    pub(super) fn written(
        self,
        affinity: Affinity,
        value: &Value,
        old: Option<&Bson>,
    ) -> Result<Bson, String> {
        let own = old.filter(|old| self == Inward::Any && class(old) != Class::Plain).and_then(Inward::of);
        let written = own.unwrap_or(self).encoded(value)?;
        let comes = self.value(affinity, &written);
        let is_same = match (&comes, value) {
            (Ok(Value::Real(a)), Value::Real(b)) => a == b,
            (Ok(comes), value) => comes == value,
            (Err(_), _) => false,
        };
        match is_same {
            true => Ok(written),
            false => Err("it would not come back as it is".to_owned()),
        }
    }

    fn encoded(self, value: &Value) -> Result<Bson, String> {
        let kind = match self {
            Inward::Boolean => MongoType::Boolean,
            Inward::Date(form) => MongoType::Date(form),
            Inward::Decimal => MongoType::Decimal,
            _ => MongoType::Any,
        };
        let stored = kind.encode(value).map_err(|refusal| refusal.to_string())?;
        Ok(match (self, stored) {
            (_, Stored::Null) => Bson::Null,
            (_, Stored::Long(i)) => Bson::Int64(i),
            (_, Stored::Double(f)) => Bson::Double(f),
            (_, Stored::Bytes(bytes)) => {
                Bson::Binary(Binary { subtype: BinarySubtype::Generic, bytes: bytes.into_owned() })
            }
            (_, Stored::Bool(is)) => Bson::Boolean(is),
            (_, Stored::Millis(millis)) => Bson::DateTime(DateTime::from_millis(millis)),
            (_, Stored::Decimal(text)) => {
                let decimal = Decimal128::from_str(&text).map_err(|e| e.to_string())?;
                Bson::Decimal128(decimal)
            }
            (Inward::ObjectId, Stored::Text(text)) if is_object_id(&text) => {
                Bson::ObjectId(ObjectId::parse_str(&*text).map_err(|e| e.to_string())?)
            }
            (Inward::Uuid, Stored::Text(text)) => match Uuid::parse_str(&*text) {
                Ok(uuid) if uuid.to_string() == *text => Bson::Binary(Binary::from_uuid(uuid)),
                _ => Bson::String(text.into_owned()),
            },
            (Inward::Json, Stored::Text(text)) => json_written(text.into_owned())?,
            (_, Stored::Text(text)) => Bson::String(text.into_owned()),
        })
    }

    /// A value of a key as it is there; `None`: no key there is so.
    pub(super) fn bson(self, value: &Value) -> Option<Bson> {
        let text = match value {
            Value::Null => return None,
            Value::Integer(i) if self == Inward::Boolean => return Some(Bson::Boolean(*i == 1)),
            Value::Integer(i) => return Some(Bson::Int64(*i)),
            Value::Real(f) => return Some(Bson::Double(*f)),
            Value::Blob(bytes) => {
                let (subtype, bytes) = (BinarySubtype::Generic, bytes.clone());
                return Some(Bson::Binary(Binary { subtype, bytes }));
            }
            Value::Text(text) => std::str::from_utf8(text).ok()?,
        };
        Some(match self {
            Inward::Date(form) => match MongoType::Date(form).encode(value).ok()? {
                Stored::Millis(millis) => Bson::DateTime(DateTime::from_millis(millis)),
                _ => return None,
            },
            Inward::Decimal => Bson::Decimal128(Decimal128::from_str(text).ok()?),
            Inward::ObjectId => Bson::ObjectId(ObjectId::parse_str(text).ok()?),
            Inward::Uuid => Bson::Binary(Binary::from_uuid(Uuid::parse_str(text).ok()?)),
            Inward::Json => super::json::parse(text)?,
            Inward::Any if text.starts_with('{') => super::json::parse(text)?,
            Inward::Any if is_object_id(text) => Bson::ObjectId(ObjectId::parse_str(text).ok()?),
            _ => Bson::String(text.to_owned()),
        })
    }
}

/// What a text stands for that is written as documents and arrays are; any other is text.
fn json_written(text: String) -> Result<Bson, String> {
    if !text.starts_with(['{', '[']) {
        return Ok(Bson::String(text));
    }
    match super::json::parse(&text) {
        None => Ok(Bson::String(text)),
        Some(value) if json_of(&value) == text => Ok(value),
        Some(value) => {
            let said: String = json_of(&value).chars().take(200).collect();
            Err(format!("it is no canonical extended JSON, in which it may be {said}"))
        }
    }
}

/// Whether it is written as an ObjectId is.
fn is_object_id(text: &str) -> bool {
    text.len() == 24 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn json_of(value: &Bson) -> String {
    super::json::text(value)
}

fn text(text: String) -> Value {
    Value::Text(text.into_bytes())
}

/// What is NULL here.
pub(super) fn is_nothing(value: &Bson) -> bool {
    matches!(value, Bson::Null | Bson::Undefined)
}

fn class(value: &Bson) -> Class {
    match value {
        Bson::Int32(_) | Bson::Int64(_) | Bson::Double(_) | Bson::String(_) => Class::Plain,
        Bson::Binary(Binary { subtype: BinarySubtype::Generic, .. }) => Class::Plain,
        Bson::Boolean(_) => Class::Boolean,
        Bson::DateTime(_) => Class::Date,
        Bson::Decimal128(_) => Class::Decimal,
        Bson::ObjectId(_) => Class::ObjectId,
        Bson::Binary(binary) if binary.to_uuid().is_ok() => Class::Uuid,
        _ => Class::Other,
    }
}

fn kind(value: &Bson) -> &'static str {
    match value {
        Bson::Int32(_) | Bson::Int64(_) => "an integer",
        Bson::Double(_) => "a floating-point number",
        Bson::String(_) => "text",
        Bson::Boolean(_) => "a boolean",
        Bson::DateTime(_) => "a date",
        Bson::Decimal128(_) => "a decimal",
        Bson::ObjectId(_) => "an ObjectId",
        Bson::Binary(Binary { subtype: BinarySubtype::Generic, .. }) => "bytes",
        Bson::Binary(_) => "bytes of a subtype of their own",
        Bson::Document(_) => "a document",
        Bson::Array(_) => "an array",
        _ => "of a type of MongoDB's own",
    }
}

/// A value as the column has it, where that is the same; `Err`: SQLite would make another one of it
/// (<https://sqlite.org/datatype3.html#type_affinity>).
fn settled(value: Value, affinity: Affinity) -> Result<Value, String> {
    let holds_numbers = matches!(affinity, Affinity::Integer | Affinity::Numeric);
    match value {
        Value::Real(f)
            if f == 0.0 && f.is_sign_negative() && (holds_numbers || affinity == Affinity::Real) =>
        {
            Err("it is a negative zero, of which the column makes zero".to_owned())
        }
        Value::Real(f) if holds_numbers && f.fract() == 0.0 => {
            let whole = f as i64;
            let is_one = whole as f64 == f && whole > i64::MIN && whole < i64::MAX;
            Ok(if is_one { Value::Integer(whole) } else { Value::Real(f) })
        }
        Value::Integer(i) if affinity == Affinity::Real => match i.unsigned_abs() <= EXACT {
            true => Ok(Value::Real(i as f64)),
            false => Err(format!("it is the integer {i}, and the column holds floating-point numbers")),
        },
        Value::Integer(_) | Value::Real(_) if affinity == Affinity::Text => {
            Err("it is a number, and the column holds text".to_owned())
        }
        Value::Text(text) if (holds_numbers || affinity == Affinity::Real) && is_number(&text) => {
            Err("it is text that is written as a number is, and the column holds numbers".to_owned())
        }
        value => Ok(value),
    }
}

/// Whether SQLite takes a text for a number.
fn is_number(text: &[u8]) -> bool {
    // As far as a NUL.
    let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
    let Ok(text) = std::str::from_utf8(text) else { return false };
    let text = text.trim_matches([' ', '\t', '\n', '\r', '\x0b', '\x0c']);
    let has_digit = text.bytes().any(|byte| byte.is_ascii_digit());
    has_digit && text.bytes().all(|byte| b"0123456789+-.eE".contains(&byte)) && f64::from_str(text).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::{Regex, bson};
    use proptest::prelude::*;

    const ALL: [Inward; 11] = [
        Inward::Integer,
        Inward::Real,
        Inward::Text,
        Inward::Bytes,
        Inward::Boolean,
        Inward::Date(DATE),
        Inward::Decimal,
        Inward::ObjectId,
        Inward::Uuid,
        Inward::Json,
        Inward::Any,
    ];

    fn any_value() -> impl Strategy<Value = Bson> {
        let bytes = prop::collection::vec(any::<u8>(), 0..4);
        let subtype = prop_oneof![Just(BinarySubtype::Generic), Just(BinarySubtype::Md5)];
        prop_oneof![
            any::<i32>().prop_map(Bson::Int32),
            any::<i64>().prop_map(Bson::Int64),
            any::<f64>().prop_map(Bson::Double),
            (-9i32..9).prop_map(|i| Bson::Double(f64::from(i))),
            "[ -9a-z{]{0,5}".prop_map(Bson::String),
            any::<String>().prop_map(Bson::String),
            (subtype, bytes).prop_map(|(subtype, bytes)| Bson::Binary(Binary { subtype, bytes })),
            any::<[u8; 16]>().prop_map(|bytes| Bson::Binary(Binary::from_uuid(Uuid::from_bytes(bytes)))),
            any::<bool>().prop_map(Bson::Boolean),
            any::<i64>().prop_map(|millis| Bson::DateTime(DateTime::from_millis(millis))),
            (0i64..4_000_000_000_000).prop_map(|millis| Bson::DateTime(DateTime::from_millis(millis))),
            "-?[0-9]{1,30}\\.[0-9]{1,4}".prop_map(|text| Bson::Decimal128(text.parse().unwrap())),
            any::<[u8; 12]>().prop_map(|bytes| Bson::ObjectId(ObjectId::from_bytes(bytes))),
            "[a-z]{1,2}".prop_map(|name| bson!({ name: [1, "x"], "b": 2.5 })),
            Just(Bson::Null),
            Just(Bson::MaxKey),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        /// Goal: a key that comes leads back to its document, so no two have the same, and SQLite keeps it as it came.
        #[test]
        fn keys_lead_back(value in any_value()) {
            let db = rusqlite::Connection::open_in_memory().unwrap();
            for inward in ALL {
                let affinity = Affinity::of(inward.declared());
                let Ok(key) = inward.key(affinity, &value) else { continue };
                let back = inward.bson(&key).unwrap();
                let same = match (&back, &value) {
                    (Bson::Int64(a), Bson::Int32(b)) => *a == i64::from(*b),
                    (Bson::Int64(a), Bson::Double(b)) => *a as f64 == *b,
                    (Bson::Double(a), Bson::Int64(b)) => *a == *b as f64,
                    (Bson::Double(a), Bson::Int32(b)) => *a == f64::from(*b),
                    (a, b) => a == b,
                };
                prop_assert!(same, "{inward:?}: {value} is {key:?} is {back}");
                prop_assert_eq!(&stored(&db, inward.declared(), &key), &key, "{:?}: {}", inward, value);
            }
        }

        /// Goal: a value that is written comes back as it is, and one that came is written as it was where it is not the number of another type.
        #[test]
        fn what_is_written_comes_back(value in any_value()) {
            for inward in ALL {
                let affinity = Affinity::of(inward.declared());
                let Ok(came) = inward.value(affinity, &value) else { continue };
                let Ok(written) = inward.written(affinity, &came, Some(&value)) else { continue };
                prop_assert_eq!(inward.value(affinity, &written), Ok(came), "{:?}: {}", inward, value);
                let is_of_its_own = class(&value) != Class::Plain && class(&value) == inward.class();
                prop_assert!(!is_of_its_own || written == value, "{:?}: {} is {}", inward, value, written);
            }
        }

        /// Goal: SQLite keeps every value as it came.
        #[test]
        fn values_are_kept_as_they_come(value in any_value()) {
            let db = rusqlite::Connection::open_in_memory().unwrap();
            for inward in ALL {
                if let Ok(came) = inward.value(Affinity::of(inward.declared()), &value) {
                    prop_assert_eq!(&stored(&db, inward.declared(), &came), &came, "{:?}: {}", inward, value);
                }
                prop_assert!(inward != Inward::Any || inward.value(Affinity::Blob, &value).is_ok() || matches!(value, Bson::DateTime(_)));
            }
        }
    }

    /// What a column of a declared type makes of a value.
    fn stored(db: &rusqlite::Connection, declared: &str, value: &Value) -> Value {
        use rusqlite::types::{ToSqlOutput, Value as Owned, ValueRef};
        db.execute_batch(&format!("DROP TABLE IF EXISTS t; CREATE TABLE t(x {declared})")).unwrap();
        let bound = match value {
            Value::Null => ValueRef::Null,
            Value::Integer(i) => ValueRef::Integer(*i),
            Value::Real(f) => ValueRef::Real(*f),
            Value::Text(text) => ValueRef::Text(text),
            Value::Blob(bytes) => ValueRef::Blob(bytes),
        };
        db.execute("INSERT INTO t VALUES(?1)", [ToSqlOutput::Borrowed(bound)]).unwrap();
        let found: Owned = db.query_row("SELECT x FROM t", (), |row| row.get(0)).unwrap();
        match found {
            Owned::Null => Value::Null,
            Owned::Integer(i) => Value::Integer(i),
            Owned::Real(f) => Value::Real(f),
            Owned::Text(text) => Value::Text(text.into_bytes()),
            Owned::Blob(bytes) => Value::Blob(bytes),
        }
    }

    #[test]
    fn values_come_as_their_column_says() {
        let of = |inward: Inward, value: Bson| inward.value(Affinity::of(inward.declared()), &value);
        let said = |text: &str| Ok(Value::Text(text.into()));
        assert_eq!(of(Inward::Integer, bson!(7.0)), Ok(Value::Integer(7)));
        assert_eq!(of(Inward::Integer, bson!(7.5)), Ok(Value::Real(7.5)));
        assert_eq!(of(Inward::Integer, bson!("x")), said("x"));
        assert_eq!(of(Inward::Real, bson!(5_i32)), Ok(Value::Real(5.0)));
        assert_eq!(of(Inward::Real, Bson::Double(f64::NAN)), said("NaN"));
        assert_eq!(of(Inward::Any, bson!(5_i32)), Ok(Value::Integer(5)));
        assert_eq!(of(Inward::Any, bson!("5")), said("5"));
        assert_eq!(
            of(Inward::Date(DATE), Bson::DateTime(DateTime::from_millis(1_767_225_600_120))),
            said("2026-01-01T00:00:00.120Z")
        );
        assert_eq!(of(Inward::Decimal, Bson::Decimal128("1E+3".parse().unwrap())), said("1E+3"));
        assert_eq!(
            of(Inward::Json, bson!({ "b": 1_i32, "a": [] })),
            said(r#"{"b":{"$numberInt":"1"},"a":[]}"#)
        );
        for (inward, value, why) in [
            (
                Inward::Integer,
                bson!(" 7 "),
                "it is text that is written as a number is, and the column holds numbers",
            ),
            (Inward::Integer, bson!(true), "it is a boolean, and the column holds integers"),
            (
                Inward::Real,
                bson!(i64::MAX),
                "it is the integer 9223372036854775807, and the column holds floating-point numbers",
            ),
            (Inward::Text, bson!(7_i32), "it is a number, and the column holds text"),
            (Inward::Text, bson!({}), "it is a document, and the column holds text"),
            (
                Inward::Date(DATE),
                Bson::ObjectId(ObjectId::new()),
                "it is an ObjectId, and the column holds dates",
            ),
        ] {
            assert_eq!(of(inward, value), Err(why.to_owned()));
        }
        let regex = Regex { pattern: bson::cstr!("a").into(), options: bson::cstr!("").into() };
        assert_eq!(
            of(Inward::Json, Bson::RegularExpression(regex)),
            said(r#"{"$regularExpression":{"options":"","pattern":"a"}}"#)
        );
    }
}
