//! Values of MySQL and MariaDB as SQLite keeps them.
//!
//! Numbers that SQLite has are numbers, bytes are blobs, and everything else is text as the server writes it; but times of the calendar
//! have six digits after the second, and those in UTC a `Z`, so that they are ordered as text.

use serde::{Deserialize, Serialize};

use litekeep_format::Value;

use crate::portable::value::{literal, unhex};

/// How values of a type come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Inward {
    /// `tinyint` to `bigint`, `year`: an integer.
    Integer,
    /// `bigint unsigned`: an integer; text where SQLite has no such integer.
    Unsigned,
    /// `float`, `double`: a floating-point number.
    Real,
    /// `decimal`: text, of which a floating-point number would lose digits.
    Decimal,
    /// `char` to `longtext`, `enum`, `set`: text.
    Text,
    /// `json`, as the server writes it.
    Json,
    /// `binary` to `longblob`, spatial types, `vector`: a blob.
    Bytes,
    /// `bit`: a blob.
    Bits,
    /// `date`: text.
    Date,
    /// `time`, with so many digits after its second: text.
    Time(u8),
    /// `datetime`: text.
    Datetime,
    /// `timestamp`: text, in UTC.
    Timestamp,
}

/// What a server gives for a value that is not NULL, by its protocol or in its log.
#[derive(Clone, Debug, PartialEq)]
pub enum Raw {
    /// A whole number.
    Integer(i64),
    /// One that is not less than zero.
    Unsigned(u64),
    /// A floating-point number of half the size.
    Single(f32),
    /// A floating-point number.
    Double(f64),
    /// Text, or bytes.
    Bytes(Vec<u8>),
    /// A time of the calendar, whether there is such a day or not.
    Calendar(Calendar),
    /// A time between two others.
    Span {
        /// Backwards.
        is_negative: bool,
        /// Seconds.
        seconds: u64,
        /// Millionths of one.
        micros: u32,
    },
}

/// A time of the calendar.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Calendar {
    /// The year.
    pub year: u16,
    /// The month; 0: none.
    pub month: u8,
    /// The day; 0: none.
    pub day: u8,
    /// The hour.
    pub hour: u8,
    /// The minute.
    pub minute: u8,
    /// The second.
    pub second: u8,
    /// Millionths of one.
    pub micros: u32,
}

impl Calendar {
    /// Of seconds since the epoch, in UTC.
    pub fn of_epoch(seconds: u32, micros: u32) -> Calendar {
        // 0 is none, not 1970.
        if seconds == 0 && micros == 0 {
            return Calendar::default();
        }
        let at = jiff::Timestamp::from_second(i64::from(seconds)).unwrap_or_default();
        let at = at.to_zoned(jiff::tz::TimeZone::UTC).datetime();
        let small = |n: i8| n.unsigned_abs();
        Calendar {
            year: at.year().unsigned_abs(),
            month: small(at.month()),
            day: small(at.day()),
            hour: small(at.hour()),
            minute: small(at.minute()),
            second: small(at.second()),
            micros,
        }
    }

    fn date(&self) -> String {
        format!("{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }

    fn time(&self) -> String {
        format!("{:02}:{:02}:{:02}.{:06}", self.hour, self.minute, self.second, self.micros)
    }
}

impl Inward {
    /// Of a column by its type's name, `bigint`, the whole of it, `bigint unsigned`, and the digits that its times have after the second.
    /// `None`: it is none that is known.
    pub fn of(name: &str, whole: &str, digits: u8) -> Option<Inward> {
        Some(match name.to_ascii_lowercase().as_str() {
            "bigint" if whole.to_ascii_lowercase().contains("unsigned") => Inward::Unsigned,
            "tinyint" | "smallint" | "mediumint" | "int" | "bigint" | "year" => Inward::Integer,
            "float" | "double" => Inward::Real,
            "decimal" => Inward::Decimal,
            "char" | "varchar" | "tinytext" | "text" | "mediumtext" | "longtext" | "enum" | "set" => {
                Inward::Text
            }
            "json" => Inward::Json,
            "binary" | "varbinary" | "tinyblob" | "blob" | "mediumblob" | "longblob" | "vector"
            | "geometry" | "point" | "linestring" | "polygon" | "multipoint" | "multilinestring"
            | "multipolygon" | "geomcollection" | "geometrycollection" => Inward::Bytes,
            "bit" => Inward::Bits,
            "date" => Inward::Date,
            "time" => Inward::Time(digits),
            "datetime" => Inward::Datetime,
            "timestamp" => Inward::Timestamp,
            _ => return None,
        })
    }

    /// The type of the column. Those of affinity TEXT keep what looks like a number as it is written; one without a type keeps integers and
    /// text beside one another. `is_only_key`: it is the whole of the key, which an integer must be for SQLite.
    pub fn declared(self, is_only_key: bool) -> &'static str {
        match self {
            Inward::Integer => "INTEGER",
            Inward::Unsigned if is_only_key => "INTEGER",
            Inward::Unsigned => "",
            Inward::Real => "REAL",
            Inward::Bytes | Inward::Bits => "BLOB",
            _ => "TEXT",
        }
    }

    /// The value. What is none of the type, which a server does not give, is kept as text or bytes.
    pub fn value(self, raw: Raw) -> Value {
        let text = |text: String| Value::Text(text.into_bytes());
        match (self, raw) {
            (_, Raw::Integer(i)) => Value::Integer(i),
            (_, Raw::Unsigned(u)) => i64::try_from(u).map_or_else(|_| text(u.to_string()), Value::Integer),
            // As it is written, which a person means by it.
            (_, Raw::Single(f)) => Value::Real(f.to_string().parse().unwrap_or(f64::from(f))),
            (_, Raw::Double(f)) => Value::Real(f),
            (Inward::Bytes | Inward::Bits, Raw::Bytes(bytes)) => Value::Blob(bytes),
            (Inward::Integer, Raw::Bytes(bytes)) => number(&bytes).unwrap_or(Value::Text(bytes)),
            (_, Raw::Bytes(bytes)) => Value::Text(bytes),
            (Inward::Date, Raw::Calendar(time)) => text(time.date()),
            (Inward::Timestamp, Raw::Calendar(time)) if time == Calendar::default() => {
                text("0000-00-00 00:00:00".to_owned())
            }
            (Inward::Timestamp, Raw::Calendar(time)) => text(format!("{}T{}Z", time.date(), time.time())),
            (_, Raw::Calendar(time)) => text(format!("{} {}", time.date(), time.time())),
            (form, Raw::Span { is_negative, seconds, micros }) => {
                let sign = if is_negative { "-" } else { "" };
                let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
                let fraction = match form {
                    Inward::Time(0) => String::new(),
                    Inward::Time(digits) => {
                        format!(".{micros:06}").chars().take(1 + usize::from(digits)).collect()
                    }
                    _ => format!(".{micros:06}"),
                };
                text(format!("{sign}{hours:02}:{minutes:02}:{:02}{fraction}", seconds % 60))
            }
        }
    }
}

/// What a column of a type (`varchar(9)`) has by default, as an expression of SQLite; `None`: it has not the like.
pub fn default(found: &Found, form: Inward, whole: &str) -> Option<String> {
    match found {
        Found::Expression(sql) if sql.eq_ignore_ascii_case("null") => Some("NULL".to_owned()),
        Found::Expression(sql) => {
            // MySQL tells of each text in an expression what it is, and quotes it once more.
            let plain = sql.replace("_utf8mb4\\'", "'").replace("\\'", "'");
            match Found::of_sql(&plain) {
                Found::Constant(text) => constant(&text, form, whole).map(|value| literal(&value)),
                Found::Expression(sql) => now(&sql, form).map(str::to_owned),
            }
        }
        Found::Constant(text) => constant(text, form, whole).map(|value| literal(&value)),
    }
}

/// A default as a server describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// A value, as text; of bytes `0x` and hexadecimal digits, of bits `b'101'`.
    Constant(String),
    /// An expression of SQL.
    Expression(String),
}

impl Found {
    /// Of what MariaDB says, which is SQL.
    pub fn of_sql(sql: &str) -> Found {
        let is_number = |sql: &str| sql.bytes().all(|byte| byte.is_ascii_digit() || b"+-.e".contains(&byte));
        let is_value = |sql: &str| is_number(sql) || sql.starts_with("b'") || sql.starts_with("0x");
        if let Some(text) = sql.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\'')) {
            return unescaped(text).map_or_else(|| Found::Expression(sql.to_owned()), Found::Constant);
        }
        match is_value(sql) {
            true => Found::Constant(sql.to_owned()),
            false => Found::Expression(sql.to_owned()),
        }
    }
}

/// The text of a literal; `None`: there is more than one.
fn unescaped(literal: &str) -> Option<String> {
    let (mut text, mut rest) = (String::new(), literal.chars());
    while let Some(c) = rest.next() {
        text.push(match c {
            '\'' if rest.next() == Some('\'') => '\'',
            '\'' => return None,
            '\\' => match rest.next()? {
                '0' => '\0',
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                'Z' => '\u{1a}',
                c => c,
            },
            c => c,
        });
    }
    Some(text)
}

/// The present time; times have as many digits as are asked for there, and thousandths of a second at most here.
fn now(sql: &str, form: Inward) -> Option<&'static str> {
    // As a push makes it of SQLite's.
    let of_text = match sql.replace(", ", ",").as_str() {
        "date_format(utc_timestamp(),'%Y-%m-%d %H:%i:%s')" => Some("datetime('now')"),
        "date_format(utc_timestamp(),'%Y-%m-%d')" => Some("date('now')"),
        "date_format(utc_timestamp(),'%H:%i:%s')" => Some("time('now')"),
        _ => None,
    };
    if form == Inward::Text {
        return of_text;
    }
    let sql = sql.to_ascii_lowercase();
    let sql = sql.trim_start_matches('(').trim_end_matches(')');
    let (name, digits) = sql.split_once('(').unwrap_or((sql, ""));
    let is_time =
        ["current_timestamp", "now", "localtimestamp", "localtime", "utc_timestamp"].contains(&name);
    let is_whole = digits.is_empty() || digits == "0";
    match form {
        Inward::Timestamp if is_time && is_whole => Some("strftime('%Y-%m-%dT%H:%M:%S.000000Z')"),
        Inward::Timestamp if is_time => Some("strftime('%Y-%m-%dT%H:%M:%f000Z')"),
        Inward::Datetime if is_time && is_whole => Some("strftime('%Y-%m-%d %H:%M:%S.000000')"),
        Inward::Datetime if is_time => Some("strftime('%Y-%m-%d %H:%M:%f000')"),
        Inward::Date if ["curdate", "current_date", "utc_date"].contains(&name) => Some("date('now')"),
        _ => None,
    }
}

/// A value by what a server says of it, as one of that type [comes](Inward::value).
fn constant(text: &str, form: Inward, whole: &str) -> Option<Value> {
    let whole = whole.to_ascii_lowercase();
    let sized = || whole.split_once('(')?.1.split([',', ')']).next()?.parse::<usize>().ok();
    let is = |text: String| Some(Value::Text(text.into_bytes()));
    let padded = |digits: usize| {
        let (time, fraction) = text.split_once('.').unwrap_or((text, ""));
        match (digits, time.len() >= 8 && fraction.bytes().all(|byte| byte.is_ascii_digit())) {
            (_, false) => None,
            (0, true) => Some(time.to_owned()),
            (_, true) => Some(format!("{time}.{fraction:0<digits$.digits$}")),
        }
    };
    match form {
        Inward::Integer => text.parse().ok().map(Value::Integer),
        Inward::Unsigned => text.parse().ok().map(|u| form.value(Raw::Unsigned(u))),
        Inward::Real => text.parse().ok().map(Value::Real),
        Inward::Decimal => {
            let digits: usize = whole.split_once(',').map_or(Some(0), |(_, scale)| {
                scale.trim_end_matches(|c: char| !c.is_ascii_digit()).parse().ok()
            })?;
            let (number, fraction) = text.split_once('.').unwrap_or((text, ""));
            number.parse::<i128>().ok()?;
            // Another one than the column can have: it would be rounded there.
            let fraction = fraction.trim_end_matches('0');
            match digits {
                _ if fraction.len() > digits => None,
                0 => is(number.to_owned()),
                _ => is(format!("{number}.{fraction:0<digits$}")),
            }
        }
        Inward::Text | Inward::Json => is(text.to_owned()),
        Inward::Date => is(text.to_owned()).filter(|_| text.len() == 10),
        Inward::Time(digits) => padded(usize::from(digits)).and_then(is),
        Inward::Datetime => padded(6).filter(|time| time.len() == 26).and_then(is),
        // No time at all is written otherwise.
        Inward::Timestamp => padded(6)
            .filter(|time| time.len() == 26 && !time.starts_with("0000"))
            .and_then(|time| is(format!("{}Z", time.replacen(' ', "T", 1)))),
        Inward::Bytes => {
            let mut bytes = text.strip_prefix("0x").map_or_else(|| Some(text.as_bytes().to_vec()), unhex)?;
            if whole.starts_with("binary") {
                bytes.resize(sized().unwrap_or(1), 0);
            }
            Some(Value::Blob(bytes))
        }
        Inward::Bits => {
            let bits = text.strip_prefix("b'").and_then(|rest| rest.strip_suffix('\''))?;
            let bytes = u64::from_str_radix(bits, 2).ok()?.to_be_bytes();
            let width = sized().unwrap_or(1).div_ceil(8);
            Some(Value::Blob(bytes[bytes.len().checked_sub(width)?..].to_vec()))
        }
    }
}

/// Years are given as text by some.
fn number(bytes: &[u8]) -> Option<Value> {
    std::str::from_utf8(bytes).ok()?.parse().ok().map(Value::Integer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(value: Value) -> String {
        match value {
            Value::Text(text) => String::from_utf8(text).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn types_are_what_sqlite_has() {
        let of = |name: &str, whole: &str| Inward::of(name, whole, 3).map(|form| form.declared(false));
        assert_eq!(of("bigint", "bigint(20) unsigned"), Some(""));
        assert_eq!(of("bigint", "bigint"), Some("INTEGER"));
        assert_eq!(of("tinyint", "tinyint(1)"), Some("INTEGER"));
        assert_eq!(of("decimal", "decimal(10,2)"), Some("TEXT"));
        assert_eq!(of("enum", "enum('unsigned')"), Some("TEXT"));
        assert_eq!(of("bit", "bit(3)"), Some("BLOB"));
        assert_eq!(of("inet6", "inet6"), None);
        assert_eq!(Inward::of("time", "time(3)", 3), Some(Inward::Time(3)));
        assert_eq!(Inward::Unsigned.declared(true), "INTEGER");
    }

    #[test]
    fn numbers_lose_no_digit() {
        let least = 1_u64 << 63;
        assert_eq!(Inward::Unsigned.value(Raw::Unsigned(least - 1)), Value::Integer(i64::MAX));
        assert_eq!(text(Inward::Unsigned.value(Raw::Unsigned(least))), "9223372036854775808");
        assert_eq!(text(Inward::Unsigned.value(Raw::Unsigned(u64::MAX))), "18446744073709551615");
        assert_eq!(Inward::Real.value(Raw::Single(0.1)), Value::Real(0.1));
        assert_eq!(Inward::Real.value(Raw::Double(1e300)), Value::Real(1e300));
        assert_eq!(text(Inward::Decimal.value(Raw::Bytes(b"12.50".to_vec()))), "12.50");
        assert_eq!(Inward::Integer.value(Raw::Bytes(b"2026".to_vec())), Value::Integer(2026));
    }

    #[test]
    fn times_are_ordered_as_text() {
        let time = Calendar { year: 2026, month: 2, day: 28, hour: 1, minute: 2, second: 3, micros: 500_000 };
        assert_eq!(text(Inward::Datetime.value(Raw::Calendar(time))), "2026-02-28 01:02:03.500000");
        assert_eq!(text(Inward::Timestamp.value(Raw::Calendar(time))), "2026-02-28T01:02:03.500000Z");
        assert_eq!(text(Inward::Date.value(Raw::Calendar(time))), "2026-02-28");
        let none = Calendar::default();
        assert_eq!(text(Inward::Date.value(Raw::Calendar(none))), "0000-00-00");
        assert_eq!(text(Inward::Datetime.value(Raw::Calendar(none))), "0000-00-00 00:00:00.000000");
        assert_eq!(text(Inward::Timestamp.value(Raw::Calendar(none))), "0000-00-00 00:00:00");
        let span = |seconds, micros, is_negative| Raw::Span { is_negative, seconds, micros };
        assert_eq!(text(Inward::Time(0).value(span(838 * 3600 + 59 * 60 + 59, 0, true))), "-838:59:59");
        assert_eq!(text(Inward::Time(3).value(span(61, 20_000, false))), "00:01:01.020");
        assert_eq!(Calendar::of_epoch(0, 0), none);
        let of = Calendar::of_epoch(1_772_240_523, 500_000);
        assert_eq!(text(Inward::Timestamp.value(Raw::Calendar(of))), "2026-02-28T01:02:03.500000Z");
    }
}
