//! Documents, arrays and what else SQLite has no like of, as text: canonical extended JSON
//! (<https://www.mongodb.com/docs/manual/reference/mongodb-extended-json/>), with the fields in their order.

use bson::Bson;

/// The text of a value.
pub(super) fn text(value: &Bson) -> String {
    let mut text = String::new();
    write(value, &mut text);
    text
}

/// The value of such a text; `None`: it is none.
pub(super) fn parse(text: &str) -> Option<Bson> {
    serde_json::from_str(text).ok()
}

fn write(value: &Bson, to: &mut String) {
    match value {
        Bson::Document(fields) => {
            to.push('{');
            for (nth, (name, value)) in fields.iter().enumerate() {
                if nth > 0 {
                    to.push(',');
                }
                to.push_str(&quoted(name));
                to.push(':');
                write(value, to);
            }
            to.push('}');
        }
        Bson::Array(values) => {
            to.push('[');
            for (nth, value) in values.iter().enumerate() {
                if nth > 0 {
                    to.push(',');
                }
                write(value, to);
            }
            to.push(']');
        }
        Bson::Double(f) => {
            let number = match f {
                f if f.is_nan() => "NaN".to_owned(),
                f if f.is_infinite() => if *f > 0.0 { "Infinity" } else { "-Infinity" }.to_owned(),
                f => format!("{f:?}"),
            };
            to.push_str(&format!("{{\"$numberDouble\":\"{number}\"}}"));
        }
        other => to.push_str(&other.clone().into_canonical_extjson().to_string()),
    }
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::oid::ObjectId;
    use bson::spec::BinarySubtype;
    use bson::{Binary, DateTime, Regex, Timestamp, bson};

    #[test]
    fn values_come_back_in_their_order() {
        let id = ObjectId::parse_str("0123456789abcdef01234567").unwrap();
        for (value, expected) in [
            (
                bson!({ "z": 1_i32, "a": [1_i64, null, { "ü\"": true }] }),
                r#"{"z":{"$numberInt":"1"},"a":[{"$numberLong":"1"},null,{"ü\"":true}]}"#,
            ),
            (bson!([]), "[]"),
            (bson!({}), "{}"),
            (
                bson!({ "x": [0.1, -0.0, 1e300, 5e-324, 7.0] }),
                r#"{"x":[{"$numberDouble":"0.1"},{"$numberDouble":"-0.0"},{"$numberDouble":"1e300"},{"$numberDouble":"5e-324"},{"$numberDouble":"7.0"}]}"#,
            ),
            (Bson::Double(f64::INFINITY), r#"{"$numberDouble":"Infinity"}"#),
            (Bson::ObjectId(id), r#"{"$oid":"0123456789abcdef01234567"}"#),
            (Bson::DateTime(DateTime::from_millis(-1)), r#"{"$date":{"$numberLong":"-1"}}"#),
            (Bson::Decimal128("1.50".parse().unwrap()), r#"{"$numberDecimal":"1.50"}"#),
            (Bson::Timestamp(Timestamp { time: 7, increment: 1 }), r#"{"$timestamp":{"i":1,"t":7}}"#),
            (
                Bson::Binary(Binary { subtype: BinarySubtype::Md5, bytes: vec![1] }),
                r#"{"$binary":{"base64":"AQ==","subType":"05"}}"#,
            ),
            (Bson::MinKey, r#"{"$minKey":1}"#),
        ] {
            let text = text(&value);
            assert_eq!(text, expected);
            assert_eq!(parse(&text), Some(value));
        }
        let regex = Bson::RegularExpression(Regex {
            pattern: bson::cstr!("^a").into(),
            options: bson::cstr!("i").into(),
        });
        assert_eq!(parse(&text(&regex)), Some(regex));
        assert_eq!(parse("{"), None);
    }
}
