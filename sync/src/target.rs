//! What a database must be able to do to be kept in step.

use async_trait::async_trait;
use litekeep_ltx::Txid;
use litekeep_schema::portable::Note;
use litekeep_sql::{Declaration, Profile};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::{Change, Error, Refused, Value};

/// How far a sync is. Kept by the target, beside its rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// The rows of one state are on their way.
    Copying {
        /// The state after this transaction.
        txid: String,
        /// When that was seen, milliseconds since the epoch: tells another history with the same numbers.
        time_ms: i64,
        /// The table, by its place in the plan.
        table: usize,
        /// The key of its last row that is there, each value as [`key_text`] has it.
        after: Option<Vec<String>>,
        /// Rows that are there.
        rows: u64,
    },
    /// Everything up to a transaction is there.
    Following {
        /// The transaction.
        txid: String,
        /// When it was seen, milliseconds since the epoch.
        time_ms: i64,
    },
}

impl Stage {
    /// The transaction that it speaks of, and its time.
    pub fn at(&self) -> (Option<Txid>, i64) {
        match self {
            Stage::Copying { txid, time_ms, .. } | Stage::Following { txid, time_ms } => {
                (txid.parse().ok(), *time_ms)
            }
        }
    }
}

/// What a target keeps of a sync.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept<Table> {
    /// The tables, in the order of the plan, as they were made.
    pub tables: Vec<Table>,
    /// Tables that stand still, with the reason.
    pub paused: Vec<(String, String)>,
    /// How far it is.
    pub stage: Stage,
    /// Rows that are refused.
    pub refused: u64,
}

/// A row that is refused, as the target lists it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// The table, as SQLite names it.
    pub table: String,
    /// Its key, or all of its values, each as [`key_text`] has it.
    pub key: Vec<String>,
    /// Why.
    pub reason: String,
}

/// A table as a target has it.
pub trait TargetTable: Clone + Send + Sync + Serialize + DeserializeOwned + 'static {
    /// Its name in SQLite.
    fn source(&self) -> &str;
    /// The columns that are kept in step, by their names in SQLite, in the order of a row's values.
    fn columns(&self) -> Vec<&str>;
    /// Which of them are its key; empty: a row is known by all of its values.
    fn key(&self) -> &[usize];
    /// The key of a row; of a table without one all of its values.
    fn key_of(&self, row: &[Value]) -> Vec<Value> {
        match self.key() {
            [] => row.to_vec(),
            key => key.iter().map(|nth| row[*nth].clone()).collect(),
        }
    }
    /// The same table with the columns that the other, of the same declaration, has after its own.
    fn with_more_columns(&self, other: Self) -> Self;
}

/// A database that is kept in step. Everything between [`begin`](Self::begin) and [`commit`](Self::commit) is one transaction;
/// after an error it has not happened, and [`connect`](Self::connect) comes next.
#[async_trait]
pub trait Target: Send {
    /// How it describes a table.
    type Table: TargetTable;

    /// The server and the database, without a password.
    fn name(&self) -> String;

    /// How many rows are refused, by what was done last.
    fn refused(&self) -> u64;

    /// The rows that are refused.
    ///
    /// # Errors
    /// When there is no answer.
    async fn listed(&mut self) -> Result<Vec<Listed>, Error>;

    /// The tables that would be made for declared ones, and what they lack.
    fn map(&self, declared: &Declaration, profiles: &[Profile]) -> (Self::Table, Vec<Note>);

    /// The statements that make a table, its indexes last.
    fn statements(&self, table: &Self::Table) -> Vec<String>;

    /// How many connections it has at most.
    fn connections(&self) -> u32;

    /// Connects anew, and tells what is kept of the sync; `None`: it has not begun.
    ///
    /// # Errors
    /// `Unavailable` when there is no answer, `Invalid` when a person must change something.
    async fn connect(&mut self) -> Result<Option<Kept<Self::Table>>, Error>;

    /// Lets the connection go, and with it what is not committed: nothing there stays locked by it.
    fn disconnect(&mut self);

    /// Makes the tables that are not there, and begins to keep how far the sync is; all or, as it is asked again, nothing.
    ///
    /// # Errors
    /// `Invalid` when one of the tables is there and has rows or other columns: they are never overwritten.
    async fn set_up(&mut self, tables: &[Self::Table], stage: &Stage) -> Result<(), Error>;

    /// Whether there is a table where this one would be.
    ///
    /// # Errors
    /// When there is no answer.
    async fn has(&mut self, table: &Self::Table) -> Result<bool, Error>;

    /// Makes a further table, at the beginning of a transaction: a server may commit what was done before in it.
    ///
    /// # Errors
    /// As [`set_up`](Self::set_up).
    async fn add_table(&mut self, table: Self::Table) -> Result<(), Error>;

    /// Gives a table further columns, at the beginning of a transaction: it is as the new description says then. Both may be asked
    /// again for what is there already, where one was killed before it could commit.
    ///
    /// # Errors
    /// When the server refuses.
    async fn add_columns(&mut self, nth: usize, table: Self::Table) -> Result<(), Error>;

    /// Remembers that a table stands still, within a transaction; `None`: it does not any more.
    ///
    /// # Errors
    /// When there is no answer.
    async fn pause(&mut self, table: &str, reason: Option<&str>) -> Result<(), Error>;

    /// Begins a transaction.
    ///
    /// # Errors
    /// When there is no answer.
    async fn begin(&mut self) -> Result<(), Error>;

    /// Puts rows of the first copy into a table, and tells which it refuses.
    ///
    /// # Errors
    /// When there is no answer, or the server refuses all of them.
    async fn load(&mut self, table: usize, rows: &[Vec<Value>]) -> Result<Vec<Refused>, Error>;

    /// Changes rows, at most one change a key, and tells which it refuses.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    async fn apply(&mut self, changes: &[Change]) -> Result<Vec<Refused>, Error>;

    /// Begins a transaction in which nobody else's changes are seen, and tells what is kept in it; with `to_write` nobody else
    /// commits anything of this sync until it ends.
    ///
    /// # Errors
    /// When there is no answer.
    async fn hold(&mut self, to_write: bool) -> Result<Option<Kept<Self::Table>>, Error>;

    /// Begins to read a table in the order of its key, text byte by byte, within a transaction; one without a key in any order.
    ///
    /// # Errors
    /// When the server refuses.
    async fn open(&mut self, table: usize) -> Result<(), Error>;

    /// The next rows of what was [opened](Self::open); none: it has no more. A value that is none of its type comes as a blob.
    ///
    /// # Errors
    /// When there is no answer.
    async fn fetch(&mut self) -> Result<Vec<Vec<Value>>, Error>;

    /// Ends the transaction without effect.
    ///
    /// # Errors
    /// When there is no answer.
    async fn roll_back(&mut self) -> Result<(), Error>;

    /// Makes what is made after the rows, in a transaction that has none: indexes, numbers to go on from.
    ///
    /// # Errors
    /// When the server refuses one of them; it says which.
    async fn finish(&mut self) -> Result<Vec<String>, Error>;

    /// Makes what makes rows of one table need those of another, in a transaction that has no rows: foreign keys.
    ///
    /// # Errors
    /// When there is no answer. Those that the server refuses are told.
    async fn constrain(&mut self) -> Result<Vec<String>, Error>;

    /// Keeps nothing of the sync any more. Its rows stay.
    ///
    /// # Errors
    /// When there is no answer.
    async fn forget(&mut self) -> Result<(), Error>;

    /// Commits the transaction, with how far it is.
    ///
    /// # Errors
    /// When it is not known to be committed.
    async fn commit(&mut self, stage: &Stage) -> Result<(), Error>;
}

/// A part of a key, as text that keeps its type.
pub fn key_text(value: &Value) -> String {
    match value {
        Value::Null => "n".to_owned(),
        Value::Integer(i) => format!("i{i}"),
        Value::Real(f) => format!("r{:x}", f.to_bits()),
        Value::Text(text) => match std::str::from_utf8(text) {
            Ok(text) if !text.contains('\0') => format!("s{text}"),
            _ => format!("t{}", hex(text)),
        },
        Value::Blob(bytes) => format!("b{}", hex(bytes)),
    }
}

/// The value of [`key_text`]; `None`: it is none.
pub fn key_value(text: &str) -> Option<Value> {
    let rest = text.get(1..)?;
    Some(match text.as_bytes()[0] {
        b'n' => Value::Null,
        b'i' => Value::Integer(rest.parse().ok()?),
        b'r' => Value::Real(f64::from_bits(u64::from_str_radix(rest, 16).ok()?)),
        b's' => Value::Text(rest.into()),
        b't' => Value::Text(unhex(rest)?),
        b'b' => Value::Blob(unhex(rest)?),
        _ => return None,
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> =
        text.chars().map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok())).collect();
    let digits = digits.filter(|digits| digits.len() % 2 == 0)?;
    Some(digits.chunks(2).map(|pair| pair[0] * 16 + pair[1]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_back() {
        let values = [
            Value::Null,
            Value::Integer(i64::MIN),
            Value::Real(-0.0),
            Value::Real(1e300),
            Value::Text(b"a\"\\b".to_vec()),
            Value::Text(vec![0, 255]),
            Value::Text(vec![]),
            Value::Blob(vec![7, 0]),
        ];
        for value in values {
            assert_eq!(key_value(&key_text(&value)), Some(value));
        }
        for damaged in ["", "x", "ix", "b0", "bgg"] {
            assert_eq!(key_value(damaged), None, "{damaged}");
        }
    }
}
