//! How the values of a column come, and how they are written.

use litekeep_schema::portable::mysql::{Given, Inward, MyType, Raw};
use litekeep_sync::Value;
use litekeep_sync::source::SourceType;
use serde::{Deserialize, Serialize};

/// By which rules. One is told from the other by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Codec {
    /// Those for columns of the server's.
    Theirs(Inward),
    /// Those for columns of SQLite's that have their like on the server.
    Ours(MyType),
}

impl Codec {
    /// That of a column in a plan; `None`: it is damaged.
    pub(crate) fn of(kind: &SourceType) -> Option<Codec> {
        serde_json::from_str(&kind.form).ok()
    }

    /// A column whose type the server calls so.
    pub(crate) fn kind(self, name: impl Into<String>) -> SourceType {
        SourceType { name: name.into(), form: serde_json::to_string(&self).unwrap_or_default() }
    }

    /// How the server gives its values.
    pub(crate) fn inward(self) -> Inward {
        match self {
            Codec::Theirs(inward) => inward,
            Codec::Ours(my) => match my {
                MyType::Bigint | MyType::Boolean => Inward::Integer,
                MyType::Double => Inward::Real,
                MyType::Decimal => Inward::Decimal,
                MyType::Text | MyType::Varchar(_) | MyType::Tagged => Inward::Text,
                MyType::Blob | MyType::Varbinary(_) => Inward::Bytes,
                MyType::Date => Inward::Date,
                MyType::Datetime(_) => Inward::Datetime,
            },
        }
    }

    /// A value by what the server gives; what is none of ours is as one of theirs.
    pub(crate) fn value(self, raw: Raw) -> Value {
        let ours = match self {
            Codec::Theirs(_) => None,
            Codec::Ours(my) => given(&raw).and_then(|given| my.decode(given)),
        };
        ours.unwrap_or_else(|| self.inward().value(raw))
    }

    /// A value as SQL has it, in a session with `NO_BACKSLASH_ESCAPES`. `Err`: why the server cannot have it.
    pub(crate) fn written(self, value: &Value) -> Result<Vec<u8>, String> {
        let my = match (self, value) {
            (Codec::Ours(my), _) => my,
            (Codec::Theirs(inward), value) => like(inward, value),
        };
        let Some(encoded) = my.encode(value).map_err(|refusal| refusal.to_string())? else {
            return Ok(b"NULL".to_vec());
        };
        if let Codec::Theirs(inward @ (Inward::Bits | Inward::Timestamp)) = self {
            return Ok(literal(inward, value));
        }
        let mut sql = Vec::with_capacity(encoded.len() + 16);
        my.write(&encoded, &mut sql);
        Ok(sql)
    }

    /// A value of a key in a statement, whether the server can have it or not.
    pub(crate) fn sought(self, value: &Value) -> Vec<u8> {
        match self {
            Codec::Theirs(inward) => literal(inward, value),
            // What the server has that is none of ours has come as one of theirs.
            Codec::Ours(_) => self.written(value).unwrap_or_else(|_| literal(self.inward(), value)),
        }
    }

    /// Whether a row can have this in its key: the server takes any text for a number, most of it for zero.
    pub(crate) fn can_be(self, value: &Value) -> bool {
        match (self.inward(), value) {
            (Inward::Unsigned | Inward::Decimal, Value::Text(text)) => {
                std::str::from_utf8(text).is_ok_and(is_number)
            }
            _ => true,
        }
    }
}

/// Which of our types has values as one of theirs, of such as this one.
fn like(inward: Inward, value: &Value) -> MyType {
    match (inward, value) {
        (Inward::Unsigned | Inward::Decimal, Value::Text(_)) => MyType::Text,
        (Inward::Integer | Inward::Unsigned, _) => MyType::Bigint,
        (Inward::Real | Inward::Decimal, Value::Integer(_)) => MyType::Bigint,
        (Inward::Real | Inward::Decimal, _) => MyType::Double,
        (Inward::Bytes | Inward::Bits, _) => MyType::Blob,
        _ => MyType::Text,
    }
}

fn given(raw: &Raw) -> Option<Given> {
    Some(match raw {
        Raw::Integer(i) => Given::Integer(*i),
        Raw::Unsigned(u) => Given::Integer(i64::try_from(*u).ok()?),
        Raw::Single(f) => Given::Real(f64::from(*f)),
        Raw::Double(f) => Given::Real(*f),
        Raw::Bytes(bytes) => Given::Bytes(bytes.clone()),
        Raw::Calendar(at) => {
            Given::time((at.year, at.month, at.day), (at.hour, at.minute, at.second), at.micros)?
        }
        Raw::Span { .. } => return None,
    })
}

/// A value of the server's in a statement, in a session with `NO_BACKSLASH_ESCAPES`.
fn literal(form: Inward, value: &Value) -> Vec<u8> {
    let hex = |prefix: &str, bytes: &[u8]| {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{prefix}'{hex}'").into_bytes()
    };
    match value {
        Value::Null => b"NULL".to_vec(),
        Value::Integer(i) => i.to_string().into_bytes(),
        Value::Real(f) => format!("{f:e}").into_bytes(),
        Value::Blob(bytes) if form == Inward::Bits => {
            bytes.iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte)).to_string().into_bytes()
        }
        Value::Blob(bytes) => hex("x", bytes),
        Value::Text(text) => match (form, std::str::from_utf8(text)) {
            (Inward::Unsigned | Inward::Decimal, Ok(number)) if is_number(number) => {
                number.as_bytes().to_vec()
            }
            (Inward::Timestamp, Ok(time)) => {
                let time = time.trim_end_matches('Z').replacen('T', " ", 1);
                format!("'{}'", time.replace('\'', "''")).into_bytes()
            }
            (_, Ok(text)) => format!("'{}'", text.replace('\'', "''")).into_bytes(),
            (_, Err(_)) => hex("_utf8mb4 x", text),
        },
    }
}

/// Whether a text is a number without an exponent.
fn is_number(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    [whole, fraction].iter().all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use litekeep_schema::portable::mysql::Calendar;

    #[test]
    fn rules_are_told_apart_by_their_names() {
        for codec in [
            Codec::Theirs(Inward::Text),
            Codec::Theirs(Inward::Date),
            Codec::Theirs(Inward::Time(3)),
            Codec::Theirs(Inward::Decimal),
            Codec::Ours(MyType::Text),
            Codec::Ours(MyType::Date),
            Codec::Ours(MyType::Decimal),
            Codec::Ours(MyType::Varchar(9)),
        ] {
            assert_eq!(Codec::of(&codec.kind("x")), Some(codec));
        }
        assert_eq!(Codec::of(&SourceType { name: "x".to_owned(), form: "\"y\"".to_owned() }), None);
    }

    #[test]
    fn what_is_sought_is_written_as_its_type_is() {
        let of = |form, value| String::from_utf8(Codec::Theirs(form).sought(&value)).unwrap();
        assert_eq!(of(Inward::Unsigned, Value::Text("18446744073709551615".into())), "18446744073709551615");
        assert_eq!(of(Inward::Decimal, Value::Text("-12.50".into())), "-12.50");
        for text in ["1) OR (1=1", "1e3", "", "-", "1.", ".5", "0x1", "1.2.3", "'"] {
            let quoted = format!("'{}'", text.replace('\'', "''"));
            assert_eq!(of(Inward::Decimal, Value::Text(text.into())), quoted);
            assert_eq!(of(Inward::Unsigned, Value::Text(text.into())), quoted);
            assert!(!Codec::Theirs(Inward::Decimal).can_be(&Value::Text(text.into())), "{text}");
        }
        assert_eq!(
            of(Inward::Timestamp, Value::Text("2026-02-28T01:02:03.500000Z".into())),
            "'2026-02-28 01:02:03.500000'"
        );
        assert_eq!(of(Inward::Bits, Value::Blob(vec![1, 2])), "258");
        assert_eq!(of(Inward::Bytes, Value::Blob(vec![0, 255])), "x'00ff'");
        assert_eq!(of(Inward::Text, Value::Text(vec![0xff])), "_utf8mb4 x'ff'");
    }

    #[test]
    fn what_the_server_gives_goes_back_as_it_came_or_not_at_all() {
        let back =
            |codec: Codec, raw: Raw| String::from_utf8(codec.written(&codec.value(raw)).unwrap()).unwrap();
        let text = |text: &str| Raw::Bytes(text.as_bytes().to_vec());
        let time = Calendar { year: 2026, month: 2, day: 28, hour: 1, minute: 2, second: 3, micros: 500_000 };
        assert_eq!(back(Codec::Theirs(Inward::Integer), Raw::Integer(-7)), "-7");
        assert_eq!(back(Codec::Theirs(Inward::Unsigned), Raw::Unsigned(u64::MAX)), "'18446744073709551615'");
        assert_eq!(back(Codec::Theirs(Inward::Real), Raw::Single(0.1)), "1e-1");
        assert_eq!(back(Codec::Theirs(Inward::Decimal), text("12.50")), "'12.50'");
        assert_eq!(back(Codec::Theirs(Inward::Text), text("it's")), "'it''s'");
        assert_eq!(back(Codec::Theirs(Inward::Bits), Raw::Bytes(vec![1, 2])), "258");
        assert_eq!(
            back(Codec::Theirs(Inward::Timestamp), Raw::Calendar(time)),
            "'2026-02-28 01:02:03.500000'"
        );
        assert_eq!(
            back(Codec::Theirs(Inward::Datetime), Raw::Calendar(time)),
            "'2026-02-28 01:02:03.500000'"
        );
        assert_eq!(back(Codec::Ours(MyType::Tagged), text(r#"{"t":"i","v":"7"}"#)), r#"'{"t":"i","v":"7"}'"#);
        let decimal = Codec::Ours(MyType::Decimal);
        assert_eq!(decimal.value(text("12.000")), Value::Integer(12));
        assert_eq!(decimal.value(text("12.500")), Value::Real(12.5));
        // Somebody has written what is none of ours.
        assert_eq!(Codec::Ours(MyType::Boolean).value(Raw::Integer(7)), Value::Integer(7));
        let refused = |form, value| Codec::Theirs(form).written(&value).unwrap_err();
        assert_eq!(
            refused(Inward::Integer, Value::Text("7".into())),
            "it is text, and the column holds integers"
        );
        assert!(refused(Inward::Text, Value::Text(vec![0xff])).contains("UTF-8"));
    }
}
