//! Rows as they are now, in the order of the key, some at a time: no transaction is held for long.

use litekeep_schema::portable::mysql::{Inward, Raw, quoted};
use litekeep_sync::source::{Rows, SourceTable};
use litekeep_sync::{Error, Kind, Value};
use tokio::sync::{OwnedMutexGuard, mpsc};

use super::catalog::Catalog;
use crate::codec::Codec;
use crate::error::is_about_comparing;
use crate::session::Session;
use crate::target::statements::is_after;

/// Rows that are read at once, at first and at most, and bytes that they have about.
const FIRST: usize = 500;
const MOST: usize = 5_000;
const BYTES: usize = 4 << 20;

/// All rows of a table without a key, as they come: in no order, so that nothing else can be asked over the connection until they are here.
pub(super) struct Whole {
    codecs: Vec<Codec>,
    coming: mpsc::Receiver<Result<Vec<Vec<Option<Raw>>>, Error>>,
}

impl Whole {
    pub(super) fn of(table: &SourceTable, catalog: OwnedMutexGuard<Catalog>) -> Result<Whole, Error> {
        let (send, coming) = mpsc::channel(1);
        let codecs = codecs(table)?;
        let (sql, doing) = (select(table), format!("read the table {}", table.source));
        tokio::spawn(async move {
            let mut catalog = catalog;
            let session = catalog.session();
            if let Err(e) = session.stream_raw_rows(sql, (MOST, BYTES), &send).await {
                // Where nobody waits for them any more, nobody misses them.
                let _ = send.send(Err(session.failed(&doing, &e))).await;
            }
        });
        Ok(Whole { codecs, coming })
    }

    /// The next rows; none: there are no more.
    pub(super) async fn next(&mut self) -> Result<Vec<Vec<Value>>, Error> {
        let read = self.coming.recv().await.unwrap_or_else(|| Ok(vec![]))?;
        Ok(read.into_iter().map(|row| values(row, &self.codecs)).collect())
    }
}

/// Rows on their way.
pub(super) struct Reading {
    table: SourceTable,
    codecs: Vec<Codec>,
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
        let codecs = codecs(table)?;
        let key = key(table, &codecs);
        let written = |key: &[Value]| sought(table, &codecs, key);
        let (after, with) = match rows {
            Rows::All => (None, None),
            Rows::After(after) => (Some(written(after)), None),
            Rows::With(keys) => {
                let can_be = |key: &&Vec<Value>| {
                    key.iter().zip(&table.mirror.key).all(|(value, nth)| codecs[*nth].can_be(value))
                };
                (None, Some(keys.iter().filter(can_be).map(|key| written(key)).collect::<Vec<_>>()))
            }
        };
        let has_ended = with.as_ref().is_some_and(Vec::is_empty);
        Ok(Reading { table: table.clone(), codecs, key, after, with, count: FIRST, has_ended })
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
            let row = values(row, &self.codecs);
            bytes += row.iter().map(size).sum::<usize>();
            rows.push(row);
        }
        if let Some(last) = rows.last() {
            let key: Vec<Value> = self.table.mirror.key.iter().map(|nth| last[*nth].clone()).collect();
            self.after = Some(sought(&self.table, &self.codecs, &key));
            self.count = (BYTES / (bytes / rows.len()).max(1)).clamp(1, MOST);
        }
        Ok(rows)
    }

    pub(super) fn statement(&self) -> Vec<u8> {
        let mut sql = select(&self.table).into_bytes();
        if let Some(keys) = &self.with {
            with_keys(&self.key, keys, &mut sql);
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

fn select(table: &SourceTable) -> String {
    let columns: Vec<String> = table.coming().map(|(column, _)| quoted(&column.name)).collect();
    format!("SELECT {} FROM {}", columns.join(", "), quoted(&table.source))
}

fn size(value: &Value) -> usize {
    match value {
        Value::Text(bytes) | Value::Blob(bytes) => 32 + bytes.len(),
        _ => 32,
    }
}

/// The codecs of the columns that come.
pub(super) fn codecs(table: &SourceTable) -> Result<Vec<Codec>, Error> {
    let codecs: Option<Vec<Codec>> = table.types.iter().map(Codec::of).collect();
    codecs.ok_or_else(|| {
        Error::new(Kind::Corrupt, format!("read the plan of `{}`: a type is none", table.source))
    })
}

/// The columns of the key as they are ordered and compared.
pub(super) fn key(table: &SourceTable, codecs: &[Codec]) -> Vec<String> {
    let of = |nth: &usize| {
        ordered(&table.mirror.columns[*nth].name, codecs[*nth].inward(), &table.types[*nth].name)
    };
    table.mirror.key.iter().map(of).collect()
}

/// A key as it is compared with them.
pub(super) fn sought(table: &SourceTable, codecs: &[Codec], key: &[Value]) -> Vec<Vec<u8>> {
    key.iter().zip(&table.mirror.key).map(|(value, nth)| codecs[*nth].sought(value)).collect()
}

/// The condition that a row has one of these keys.
pub(super) fn with_keys(key: &[String], keys: &[Vec<Vec<u8>>], sql: &mut Vec<u8>) {
    for (nth, values) in keys.iter().enumerate() {
        sql.extend_from_slice(if nth == 0 { b" WHERE (" } else { b" OR (" });
        for (nth, (column, value)) in key.iter().zip(values).enumerate() {
            let and = if nth > 0 { " AND " } else { "" };
            sql.extend_from_slice(format!("{and}{column} = ").as_bytes());
            sql.extend_from_slice(value);
        }
        sql.push(b')');
    }
}

/// A row of what the server gives.
pub(super) fn values(row: Vec<Option<Raw>>, codecs: &[Codec]) -> Vec<Value> {
    let value = |(raw, codec): (Option<Raw>, &Codec)| raw.map_or(Value::Null, |raw| codec.value(raw));
    row.into_iter().zip(codecs).map(value).collect()
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

#[cfg(test)]
mod tests {
    use super::*;
    use litekeep_sql::{MirrorColumn, MirrorTable};
    use litekeep_sync::source::Part;

    fn table(columns: &[(&str, &str, Inward)]) -> SourceTable {
        let kind = |(_, name, form): &(&str, &str, Inward)| Codec::Theirs(*form).kind(*name);
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
}
