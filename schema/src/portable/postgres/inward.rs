//! Values of PostgreSQL as SQLite keeps them.
//!
//! Numbers that SQLite has are numbers, bytes are blobs, and everything else is text: as the server writes it, but that times have
//! six digits after the second, and an offset of `Z`, so that they are ordered as text; and that arrays are JSON.

use serde::{Deserialize, Serialize};

use litekeep_format::Value;

use crate::portable::value::{literal, unhex};

/// How values of a type come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Inward {
    /// `smallint` to `bigint`, `oid`: an integer.
    Integer,
    /// `boolean`: 0 or 1.
    Boolean,
    /// `real`, `double precision`: a floating-point number; text where it is not a number.
    Real,
    /// `bytea`: a blob.
    Bytes,
    /// `timestamp with time zone`.
    Timestamptz,
    /// `timestamp`.
    Timestamp,
    /// An array of integers: JSON, as all arrays.
    Integers,
    /// An array of booleans.
    Booleans,
    /// An array of floating-point numbers.
    Reals,
    /// An array of anything else: JSON with text in it.
    Texts,
    /// Anything else, `numeric` included, of which a floating-point number would lose digits.
    Text,
}

impl Inward {
    /// Of a type by its name in `pg_type`; for a domain, that of the type below it.
    pub fn of(type_name: &str) -> Inward {
        match type_name {
            "int2" | "int4" | "int8" | "oid" => Inward::Integer,
            "bool" => Inward::Boolean,
            "float4" | "float8" => Inward::Real,
            "bytea" => Inward::Bytes,
            "timestamptz" => Inward::Timestamptz,
            "timestamp" => Inward::Timestamp,
            "_int2" | "_int4" | "_int8" | "_oid" => Inward::Integers,
            "_bool" => Inward::Booleans,
            "_float4" | "_float8" => Inward::Reals,
            // Of boxes, which are separated in another way.
            "_box" => Inward::Text,
            array if array.starts_with('_') => Inward::Texts,
            _ => Inward::Text,
        }
    }

    /// The type of the column. Those of affinity TEXT keep what looks like a number as it is written.
    pub fn declared(self) -> &'static str {
        match self {
            Inward::Integer => "INTEGER",
            Inward::Boolean => "BOOLEAN",
            Inward::Real => "REAL",
            Inward::Bytes => "BLOB",
            _ => "TEXT",
        }
    }

    /// A value by what the server writes with `DateStyle` ISO, `TimeZone` UTC and `bytea_output` hex. What is none of its type, which
    /// a server does not write, is kept as text.
    pub fn value(self, text: &[u8]) -> Value {
        let as_text = || Value::Text(text.to_vec());
        let Ok(read) = std::str::from_utf8(text) else { return as_text() };
        let found = match self {
            Inward::Integer => read.parse().ok().map(Value::Integer),
            Inward::Boolean => boolean(read).map(|is| Value::Integer(i64::from(is))),
            // SQLite would make NULL of what is not a number.
            Inward::Real => read.parse::<f64>().ok().filter(|number| !number.is_nan()).map(Value::Real),
            Inward::Bytes => read.strip_prefix("\\x").and_then(unhex).map(Value::Blob),
            Inward::Timestamptz => read
                .strip_suffix("+00")
                .and_then(padded)
                .map(|time| Value::Text(format!("{}Z", time.replacen(' ', "T", 1)).into_bytes())),
            Inward::Timestamp => padded(read).map(|time| Value::Text(time.into_bytes())),
            Inward::Integers | Inward::Booleans | Inward::Reals | Inward::Texts => {
                array(read, self).map(|json| Value::Text(json.into_bytes()))
            }
            Inward::Text => None,
        };
        found.unwrap_or_else(as_text)
    }
}

/// What a column has by default, from how the server writes it; `None`: SQLite has not the like.
pub fn default(expression: &str, form: Inward) -> Option<String> {
    if let Some(now) = made_here(expression, form) {
        return Some(now.to_owned());
    }
    // Its type comes after the value: `'7'::bigint`, `'{}'::text[]`, `'2026-01-01'::timestamp without time zone`.
    let (value, _) = expression
        .rsplit_once("::")
        .filter(|(_, kind)| !kind.contains(['\'', '(', ')']))
        .unwrap_or((expression, ""));
    let value = value.trim().trim_start_matches('(').trim_end_matches(')');
    let text = value.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\''));
    let text = text.filter(|text| !text.replace("''", "").contains('\'')).map(|text| text.replace("''", "'"));
    let is_now = matches!(
        value.to_ascii_lowercase().as_str(),
        "now("
            | "now"
            | "current_timestamp"
            | "localtimestamp"
            | "transaction_timestamp("
            | "statement_timestamp("
            | "clock_timestamp("
    );
    match (form, text) {
        (_, None) if value.eq_ignore_ascii_case("null") => Some("NULL".to_owned()),
        (Inward::Timestamptz, None) if is_now => Some("strftime('%Y-%m-%dT%H:%M:%f000Z')".to_owned()),
        (Inward::Timestamp, None) if is_now => Some("strftime('%Y-%m-%d %H:%M:%f000')".to_owned()),
        (_, Some(text)) => Some(literal(&form.value(text.as_bytes()))),
        (_, None) if value.parse::<f64>().is_ok() || boolean(value).is_some() => {
            Some(literal(&form.value(value.as_bytes())))
        }
        _ => None,
    }
}

/// The present time as a push makes it of SQLite's, in which the server writes types and parentheses of its own.
fn made_here(expression: &str, form: Inward) -> Option<&'static str> {
    let plain: String = expression.replace("::text", "").chars().filter(|c| !"() ".contains(*c)).collect();
    match (form, plain.as_str()) {
        (Inward::Timestamp, "date_trunc'second',nowATTIMEZONE'utc'") => {
            Some("strftime('%Y-%m-%d %H:%M:%S.000000')")
        }
        (Inward::Text, "to_charnowATTIMEZONE'utc','YYYY-MM-DDHH24:MI:SS'") => Some("datetime('now')"),
        (Inward::Text, "to_charnowATTIMEZONE'utc','YYYY-MM-DD'" | "nowATTIMEZONE'utc'::date") => {
            Some("date('now')")
        }
        (Inward::Text, "to_charnowATTIMEZONE'utc','HH24:MI:SS'") => Some("time('now')"),
        _ => None,
    }
}

fn boolean(text: &str) -> Option<bool> {
    match text {
        "t" | "true" => Some(true),
        "f" | "false" => Some(false),
        _ => None,
    }
}

/// A time with six digits after its second; `None`: it is infinite, or before the year 1.
fn padded(time: &str) -> Option<String> {
    let (second, fraction) = time.split_once('.').unwrap_or((time, ""));
    let is_time = second.len() >= 19 && second.bytes().all(|byte| b"0123456789-: ".contains(&byte));
    let is_fraction = fraction.len() <= 6 && fraction.bytes().all(|byte| byte.is_ascii_digit());
    (is_time && is_fraction).then(|| format!("{second}.{fraction:0<6}"))
}

/// The JSON of an array as the server writes it
/// (<https://www.postgresql.org/docs/current/arrays.html#ARRAYS-IO>); `None`: it is none.
fn array(text: &str, of: Inward) -> Option<String> {
    // Bounds other than from 1, which JSON does not have.
    let body = match text.strip_prefix('[') {
        Some(bounded) => bounded.split_once("]=")?.1,
        None => text,
    };
    let mut json = String::with_capacity(body.len() + 8);
    let mut rest = body.chars().peekable();
    let mut depth = 0usize;
    loop {
        match rest.next()? {
            '{' => {
                depth += 1;
                json.push('[');
            }
            '}' => {
                depth = depth.checked_sub(1)?;
                json.push(']');
                if depth == 0 {
                    return rest.next().is_none().then_some(json);
                }
            }
            ',' => json.push(','),
            '"' => {
                let mut element = String::new();
                loop {
                    match rest.next()? {
                        '\\' => element.push(rest.next()?),
                        '"' => break,
                        other => element.push(other),
                    }
                }
                json.push_str(&serde_json::to_string(&element).ok()?);
            }
            first => {
                let mut element = String::from(first);
                while let Some(next) = rest.next_if(|next| !matches!(next, ',' | '}')) {
                    // Where it is not quoted, a backslash may be all the same.
                    element.push(if next == '\\' { rest.next()? } else { next });
                }
                json.push_str(&element_json(&element, of)?);
            }
        }
        if depth == 0 {
            return None;
        }
    }
}

fn element_json(element: &str, of: Inward) -> Option<String> {
    if element == "NULL" {
        return Some("null".to_owned());
    }
    match of {
        Inward::Integers if element.parse::<i64>().is_ok() => Some(element.to_owned()),
        Inward::Booleans => boolean(element).map(|is| is.to_string()),
        Inward::Reals => match element.parse::<f64>() {
            Ok(number) if number.is_finite() => serde_json::to_string(&number).ok(),
            _ => serde_json::to_string(element).ok(),
        },
        _ => serde_json::to_string(element).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(value: Value) -> String {
        match value {
            Value::Text(text) => String::from_utf8(text).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn defaults_are_translated_or_left_out() {
        for (expression, form, expected) in [
            ("7", Inward::Integer, Some("7")),
            ("'-7'::integer", Inward::Integer, Some("-7")),
            ("(-7)", Inward::Integer, Some("-7")),
            ("nextval('t_id_seq'::regclass)", Inward::Integer, None),
            ("true", Inward::Boolean, Some("1")),
            ("0.50", Inward::Text, Some("'0.50'")),
            ("1.5", Inward::Real, Some("1.5")),
            ("'it''s'::text", Inward::Text, Some("'it''s'")),
            ("'a::b'::character varying", Inward::Text, Some("'a::b'")),
            ("'{1,2}'::integer[]", Inward::Integers, Some("'[1,2]'")),
            ("'\\x00ff'::bytea", Inward::Bytes, Some("x'00ff'")),
            ("'{\"a\": 1}'::jsonb", Inward::Text, Some("'{\"a\": 1}'")),
            ("now()", Inward::Timestamptz, Some("strftime('%Y-%m-%dT%H:%M:%f000Z')")),
            ("CURRENT_TIMESTAMP", Inward::Timestamp, Some("strftime('%Y-%m-%d %H:%M:%f000')")),
            ("CURRENT_DATE", Inward::Text, None),
            ("NULL::character varying", Inward::Text, Some("NULL")),
            ("gen_random_uuid()", Inward::Text, None),
            ("lower('A'::text)", Inward::Text, None),
            ("('a'::text || 'b'::text)", Inward::Text, None),
        ] {
            assert_eq!(default(expression, form).as_deref(), expected, "{expression}");
        }
    }

    #[test]
    fn types_come_as_what_sqlite_has() {
        let of = |name: &str, text: &str| Inward::of(name).value(text.as_bytes());
        assert_eq!(of("int8", "-9223372036854775808"), Value::Integer(i64::MIN));
        assert_eq!(of("bool", "t"), Value::Integer(1));
        assert_eq!(of("float8", "1e-300"), Value::Real(1e-300));
        assert_eq!(of("float8", "-Infinity"), Value::Real(f64::NEG_INFINITY));
        assert_eq!(text(of("float8", "NaN")), "NaN");
        assert_eq!(text(of("numeric", "12.50")), "12.50");
        assert_eq!(of("bytea", r"\x00ff"), Value::Blob(vec![0, 255]));
        assert_eq!(of("bytea", r"\x"), Value::Blob(vec![]));
        assert_eq!(text(of("timestamptz", "2026-01-02 03:04:05.5+00")), "2026-01-02T03:04:05.500000Z");
        assert_eq!(text(of("timestamp", "2026-01-02 03:04:05")), "2026-01-02 03:04:05.000000");
        assert_eq!(text(of("timestamptz", "infinity")), "infinity");
        assert_eq!(text(of("timestamptz", "0044-03-15 12:00:00+00 BC")), "0044-03-15 12:00:00+00 BC");
        assert_eq!(text(of("uuid", "b7f1...")), "b7f1...");
    }

    #[test]
    fn arrays_become_json() {
        let of = |name: &str, text_of: &str| text(Inward::of(name).value(text_of.as_bytes()));
        assert_eq!(of("_int4", "{1,NULL,-3}"), "[1,null,-3]");
        assert_eq!(of("_int4", "{}"), "[]");
        assert_eq!(of("_int4", "[0:1]={7,8}"), "[7,8]");
        assert_eq!(of("_text", r#"{a,"b,c","d\"e\\f",NULL,"NULL"}"#), r#"["a","b,c","d\"e\\f",null,"NULL"]"#);
        assert_eq!(of("_bool", "{{t,f},{f,NULL}}"), "[[true,false],[false,null]]");
        assert_eq!(of("_float8", "{1.5,NaN}"), r#"[1.5,"NaN"]"#);
        assert_eq!(of("_numeric", "{1.50}"), r#"["1.50"]"#);
        // What is none stays what it was.
        for damaged in ["", "{", "{1", "1}", "{1}}", "{1}x", r#"{"a}"#, "[0:1]{1}"] {
            assert_eq!(of("_int4", damaged), damaged);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn every_array_of_texts_is_its_json(elements in prop::collection::vec(prop::option::of("[a-z\\\\\"{},é\n ]{0,6}|NULL"), 0..5)) {
            let written: Vec<String> = elements.iter().map(|element| match element {
                Some(element) => format!("\"{}\"", element.replace('\\', "\\\\").replace('"', "\\\"")),
                None => "NULL".to_owned(),
            }).collect();
            let json = text(Inward::Texts.value(format!("{{{}}}", written.join(",")).as_bytes()));
            prop_assert_eq!(serde_json::from_str::<Vec<Option<String>>>(&json).unwrap(), elements);
        }

        #[test]
        fn every_blob_comes_back(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            prop_assert_eq!(Inward::Bytes.value(format!("\\x{hex}").as_bytes()), Value::Blob(bytes));
        }
    }
}
