//! Statements that write rows of tables that both sides have.

use async_trait::async_trait;
use litekeep_schema::portable::mysql::quoted;
use litekeep_sync::halves::Blame;
use litekeep_sync::hub::{Act, RowWriter, Writing};
use litekeep_sync::source::SourceTable;
use litekeep_sync::{Error, Value};

use super::reading::{codecs, key, sought, with_keys};
use crate::codec::Codec;
use crate::error;
use crate::session::Session;
use crate::target::statements::{groups, too_large};

/// Rows that a statement has, or that statements have that go together.
const TOGETHER: usize = 500;

/// A table, and the session that writes its rows.
pub(super) struct Writer<'a> {
    session: &'a mut Session,
    table: &'a SourceTable,
    codecs: Vec<Codec>,
    key: Vec<String>,
    doing: String,
}

/// A row as SQL has it.
pub(super) struct Encoded {
    /// How its key is found.
    key: Vec<Vec<u8>>,
    /// Its values; none: it goes.
    row: Vec<Vec<u8>>,
}

impl Encoded {
    fn size(&self) -> usize {
        const AROUND: usize = 64;
        self.key.iter().chain(&self.row).map(|text| AROUND + text.len()).sum()
    }
}

impl Writer<'_> {
    pub(super) fn new<'a>(session: &'a mut Session, table: &'a SourceTable) -> Result<Writer<'a>, Error> {
        let codecs = codecs(table)?;
        let (key, doing) = (key(table, &codecs), format!("write rows of `{}`", table.source));
        Ok(Writer { session, table, codecs, key, doing })
    }

    fn with(&self, rows: &[&Encoded], sql: &mut Vec<u8>) {
        let keys: Vec<Vec<Vec<u8>>> = rows.iter().map(|row| row.key.clone()).collect();
        with_keys(&self.key, &keys, sql);
    }

    fn sql(&self, act: Act, rows: &[&Encoded]) -> Vec<u8> {
        let path = quoted(&self.table.source);
        let names: Vec<String> =
            self.table.mirror.columns.iter().map(|column| quoted(&column.name)).collect();
        match act {
            Act::Delete => {
                let mut sql = format!("DELETE FROM {path}").into_bytes();
                self.with(rows, &mut sql);
                sql
            }
            Act::Insert => {
                let mut sql = format!("INSERT INTO {path} ({}) VALUES ", names.join(", ")).into_bytes();
                for (nth, row) in rows.iter().enumerate() {
                    sql.extend_from_slice(if nth > 0 { b", (" } else { b"(" });
                    sql.extend_from_slice(&row.row.join(&b", "[..]));
                    sql.push(b')');
                }
                sql
            }
            // One after the other, for `ON DUPLICATE KEY UPDATE` would change another row where that one has what must be unique.
            Act::Update => {
                let mut sql = vec![];
                for (nth, row) in rows.iter().enumerate() {
                    let end = if nth > 0 { "; " } else { "" };
                    sql.extend_from_slice(format!("{end}UPDATE {path} SET ").as_bytes());
                    for (nth, (name, value)) in names.iter().zip(&row.row).enumerate() {
                        let comma = if nth > 0 { ", " } else { "" };
                        sql.extend_from_slice(format!("{comma}{name} = ").as_bytes());
                        sql.extend_from_slice(value);
                    }
                    self.with(&[row], &mut sql);
                }
                sql
            }
        }
    }
}

#[async_trait]
impl RowWriter for Writer<'_> {
    type Row = Encoded;

    fn encoded(&self, writing: &Writing) -> Result<Encoded, String> {
        let written = |(nth, value): (usize, &Value)| {
            let name = &self.table.mirror.columns[nth].name;
            self.codecs[nth].written(value).map_err(|why| format!("`{name}`: {why}"))
        };
        let row = writing.row.iter().flatten().enumerate().map(written).collect::<Result<_, _>>()?;
        let row = Encoded { key: sought(self.table, &self.codecs, &writing.key), row };
        too_large(row.size(), self.session.packet()).map_or(Ok(row), Err)
    }

    async fn mark(&mut self) -> Result<(), Error> {
        self.session.run(&self.doing, "SAVEPOINT litekeep").await.map(drop)
    }

    async fn keep(&mut self) -> Result<(), Error> {
        self.session.run(&self.doing, "RELEASE SAVEPOINT litekeep").await.map(drop)
    }

    async fn take_back(&mut self) -> Result<(), Error> {
        self.session.run("take rows back", "ROLLBACK TO SAVEPOINT litekeep").await.map(drop)
    }

    async fn act(&mut self, act: Act, rows: &[&Encoded]) -> Result<Result<u64, Blame>, Error> {
        let mut count = 0;
        for rows in groups(rows, TOGETHER, self.session.packet(), |row| row.size()) {
            let sql = self.sql(act, rows);
            match self.session.try_run_all(sql).await {
                Ok(written) => count += written,
                Err(e) if error::is_about_data(&e) => {
                    let is_about_uniqueness = error::is_about_uniqueness(&e);
                    return Ok(Err(Blame { reason: error::words(&e), is_about_uniqueness }));
                }
                Err(e) => return Err(self.session.failed(&self.doing, &e)),
            }
        }
        Ok(Ok(count))
    }

    async fn has_any(&mut self, rows: &[&Encoded]) -> Result<bool, Error> {
        for rows in groups(rows, TOGETHER, self.session.packet(), |row| row.size()) {
            let mut sql = format!("SELECT 1 FROM {}", quoted(&self.table.source)).into_bytes();
            self.with(rows, &mut sql);
            sql.extend_from_slice(b" LIMIT 1 FOR UPDATE");
            let found = self.session.raw_rows(sql).await.map_err(|e| self.session.failed(&self.doing, &e))?;
            if !found.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
