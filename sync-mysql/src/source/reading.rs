//! Rows as they are now, in the order of the key, some at a time: no transaction is held for long.

use litekeep_schema::portable::mysql::{Inward, Raw, quoted};
use litekeep_sync::source::{Rows, SourceTable};
use litekeep_sync::{Error, Kind, Value};

use super::form;
use crate::error::is_about_comparing;
use crate::session::Session;
use crate::target::statements::is_after;

/// Rows that are read at once, at first and at most, and bytes that they have about.
const FIRST: usize = 500;
const MOST: usize = 5_000;
const BYTES: usize = 4 << 20;

/// Rows on their way.
pub(super) struct Reading {
    table: SourceTable,
    forms: Vec<Inward>,
    /// What the rows are ordered by.
    key: Vec<String>,
    after: Option<Vec<Vec<u8>>>,
    /// Only those with one of these keys.
    with: Option<Vec<Vec<Vec<u8>>>>,
    count: usize,
    has_ended: bool,
}

impl Reading {
    pub(super) fn of(table: &SourceTable, rows: Rows<'_>) -> Result<Reading, Error> {
        let forms: Option<Vec<Inward>> = table.types.iter().map(form).collect();
        let damaged =
            || Error::new(Kind::Corrupt, format!("read the plan of `{}`: a type is none", table.source));
        let forms = forms.ok_or_else(damaged)?;
        let of =
            |nth: &usize| ordered(&table.mirror.columns[*nth].name, forms[*nth], &table.types[*nth].name);
        let key = table.mirror.key.iter().map(of).collect();
        let written = |key: &[Value]| -> Vec<Vec<u8>> {
            key.iter().zip(&table.mirror.key).map(|(value, nth)| literal(forms[*nth], value)).collect()
        };
        let (after, with) = match rows {
            Rows::All => (None, None),
            Rows::After(after) => (Some(written(after)), None),
            Rows::With(keys) => {
                let can_be = |key: &&Vec<Value>| {
                    key.iter().zip(&table.mirror.key).all(|(value, nth)| can_be(forms[*nth], value))
                };
                (None, Some(keys.iter().filter(can_be).map(|key| written(key)).collect::<Vec<_>>()))
            }
        };
        let has_ended = with.as_ref().is_some_and(Vec::is_empty);
        Ok(Reading { table: table.clone(), forms, key, after, with, count: FIRST, has_ended })
    }

    /// The next rows; none: there are no more.
    pub(super) async fn next(&mut self, session: &mut Session) -> Result<Vec<Vec<Value>>, Error> {
        if self.has_ended {
            return Ok(vec![]);
        }
        let doing = format!("read the table {}", self.table.source);
        let read = match session.raw_rows(self.statement()).await {
            // A key that its column cannot have is that of no row.
            Err(e) if self.with.as_ref().is_some_and(|keys| keys.len() == 1) && is_about_comparing(&e) => {
                vec![]
            }
            read => read.map_err(|e| session.failed(&doing, &e))?,
        };
        self.has_ended = self.with.is_some() || read.len() < self.count;
        let mut bytes = 0;
        let mut rows = Vec::with_capacity(read.len());
        for row in read {
            let value = |(raw, form): (Option<Raw>, &Inward)| raw.map_or(Value::Null, |raw| form.value(raw));
            let row: Vec<Value> = row.into_iter().zip(&self.forms).map(value).collect();
            bytes += row.iter().map(size).sum::<usize>();
            rows.push(row);
        }
        if let Some(last) = rows.last() {
            let key = self.table.mirror.key.iter();
            self.after = Some(key.map(|nth| literal(self.forms[*nth], &last[*nth])).collect());
            self.count = (BYTES / (bytes / rows.len()).max(1)).clamp(1, MOST);
        }
        Ok(rows)
    }

    fn statement(&self) -> Vec<u8> {
        let columns: Vec<String> = self.table.coming().map(|(column, _)| quoted(&column.name)).collect();
        let mut sql =
            format!("SELECT {} FROM {}", columns.join(", "), quoted(&self.table.source)).into_bytes();
        if let Some(keys) = &self.with {
            for (nth, key) in keys.iter().enumerate() {
                sql.extend_from_slice(if nth == 0 { b" WHERE (" } else { b" OR (" });
                for (nth, (column, value)) in self.key.iter().zip(key).enumerate() {
                    let and = if nth > 0 { " AND " } else { "" };
                    sql.extend_from_slice(format!("{and}{column} = ").as_bytes());
                    sql.extend_from_slice(value);
                }
                sql.push(b')');
            }
            return sql;
        }
        if let Some(after) = &self.after {
            sql.extend_from_slice(b" WHERE ");
            is_after(&self.key, after, &mut sql);
        }
        sql.extend_from_slice(format!(" ORDER BY {} LIMIT {}", self.key.join(", "), self.count).as_bytes());
        sql
    }
}

fn size(value: &Value) -> usize {
    match value {
        Value::Text(bytes) | Value::Blob(bytes) => 32 + bytes.len(),
        _ => 32,
    }
}

/// A column of the key as it is ordered and compared: by what comes of it.
fn ordered(name: &str, form: Inward, type_name: &str) -> String {
    let name = quoted(name);
    let type_name = type_name.to_ascii_lowercase();
    match form {
        // In their order they are numbers, and compared to text they are text.
        Inward::Text if type_name.starts_with("enum(") || type_name.starts_with("set(") => {
            format!("CONVERT({name} USING utf8mb4) COLLATE utf8mb4_bin")
        }
        Inward::Bits => format!("({name} + 0)"),
        _ => name,
    }
}

/// Whether a row can have this in its key: the server takes any text for a number, most of it for zero.
fn can_be(form: Inward, value: &Value) -> bool {
    match (form, value) {
        (Inward::Unsigned | Inward::Decimal, Value::Text(text)) => {
            std::str::from_utf8(text).is_ok_and(is_number)
        }
        _ => true,
    }
}

/// Whether it can stand in a statement as it is.
fn is_number(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    [whole, fraction]
        .iter()
        .all(|digits| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()))
}

/// A value of the key in a statement, in a session with `NO_BACKSLASH_ESCAPES`.
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

#[cfg(test)]
mod tests {
    use super::*;
    use litekeep_sql::{MirrorColumn, MirrorTable};
    use litekeep_sync::source::{Part, SourceType};

    fn table(columns: &[(&str, &str, Inward)]) -> SourceTable {
        let kind = |(_, name, form): &(&str, &str, Inward)| SourceType {
            name: (*name).to_owned(),
            form: serde_json::to_string(form).unwrap(),
        };
        let column = |(name, ..): &(&str, &str, Inward)| MirrorColumn {
            name: (*name).to_owned(),
            declared: String::new(),
            is_not_null: false,
        };
        let mirror = MirrorTable {
            name: "t".to_owned(),
            columns: columns.iter().map(column).collect(),
            key: (0..columns.len()).collect(),
            indexes: vec![],
            rules: Default::default(),
        };
        let (source, part) = ("t".to_owned(), Part::default());
        SourceTable { source, types: columns.iter().map(kind).collect(), mirror, part }
    }

    #[test]
    fn rows_go_on_after_a_key() {
        let table = table(&[("a", "int", Inward::Integer), ("e", "enum('x','y')", Inward::Text)]);
        let statement = |rows| String::from_utf8(Reading::of(&table, rows).unwrap().statement()).unwrap();
        let order = "ORDER BY `a`, CONVERT(`e` USING utf8mb4) COLLATE utf8mb4_bin LIMIT 500";
        assert_eq!(statement(Rows::All), format!("SELECT `a`, `e` FROM `t` {order}"));
        let key = [Value::Integer(7), Value::Text("it's".into())];
        let e = "CONVERT(`e` USING utf8mb4) COLLATE utf8mb4_bin";
        assert_eq!(
            statement(Rows::After(&key)),
            format!(
                "SELECT `a`, `e` FROM `t` WHERE `a` >= 7 AND ((`a` > 7) OR (`a` = 7 AND {e} > 'it''s')) {order}"
            )
        );
        assert_eq!(
            statement(Rows::With(&[key.to_vec(), key.to_vec()])),
            format!(
                "SELECT `a`, `e` FROM `t` WHERE (`a` = 7 AND {e} = 'it''s') OR (`a` = 7 AND {e} = 'it''s')"
            )
        );
    }

    #[test]
    fn keys_are_written_as_their_type_is() {
        let of = |form, value| String::from_utf8(literal(form, &value)).unwrap();
        assert_eq!(of(Inward::Unsigned, Value::Text("18446744073709551615".into())), "18446744073709551615");
        assert_eq!(of(Inward::Decimal, Value::Text("-10.50".into())), "-10.50");
        for text in ["1) OR (1=1", "1e3", "", "-", "1.", ".5", "0x1", "1.2.3", "'"] {
            let quoted = format!("'{}'", text.replace('\'', "''"));
            assert_eq!(of(Inward::Decimal, Value::Text(text.into())), quoted);
            assert_eq!(of(Inward::Unsigned, Value::Text(text.into())), quoted);
            assert!(!can_be(Inward::Decimal, &Value::Text(text.into())), "{text}");
        }
        assert_eq!(
            of(Inward::Timestamp, Value::Text("2026-02-28T01:02:03.500000Z".into())),
            "'2026-02-28 01:02:03.500000'"
        );
        assert_eq!(of(Inward::Bits, Value::Blob(vec![1, 2])), "258");
        assert_eq!(of(Inward::Bytes, Value::Blob(vec![0, 255])), "x'00ff'");
        assert_eq!(of(Inward::Text, Value::Text(vec![0xff])), "_utf8mb4 x'ff'");
    }
}
