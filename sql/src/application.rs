//! A connection of an application: what litekeep uses where it writes to a database of its own, as the demo does.
//!
//! Promises, but for [`Application::with_pragmas`]: WAL mode with `synchronous = NORMAL`, SQLite's own automatic checkpoints, foreign keys enforced, and a wait
//! instead of an error while another connection writes. A transaction that does not come to its end has no effect.

use crate::Error;
use rusqlite::types::ToSqlOutput;
use rusqlite::{Connection, OpenFlags, ToSql};
use std::path::Path;
use std::time::Duration;

/// What opening is called in errors.
const OPEN: &str = "open the database";

/// How long a statement waits for a lock.
const PATIENCE: Duration = Duration::from_secs(10);

/// One value of a row or a parameter.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// NULL.
    Null,
    /// INTEGER.
    Integer(i64),
    /// REAL.
    Real(f64),
    /// TEXT.
    Text(String),
    /// BLOB.
    Blob(Vec<u8>),
}

impl Value {
    /// The integer, where it is one.
    pub fn as_integer(&self) -> Option<i64> {
        match self {
            Value::Integer(n) => Some(*n),
            _ => None,
        }
    }
}

impl From<i64> for Value {
    fn from(n: i64) -> Value {
        Value::Integer(n)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Value {
        Value::Text(text)
    }
}

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        match self {
            Value::Null => rusqlite::types::Null.to_sql(),
            Value::Integer(n) => n.to_sql(),
            Value::Real(x) => x.to_sql(),
            Value::Text(text) => text.to_sql(),
            Value::Blob(bytes) => bytes.to_sql(),
        }
    }
}

impl From<rusqlite::types::Value> for Value {
    fn from(value: rusqlite::types::Value) -> Value {
        use rusqlite::types::Value as V;
        match value {
            V::Null => Value::Null,
            V::Integer(n) => Value::Integer(n),
            V::Real(x) => Value::Real(x),
            V::Text(text) => Value::Text(text),
            V::Blob(bytes) => Value::Blob(bytes),
        }
    }
}

/// A connection that reads and writes.
#[derive(Debug)]
pub struct Application {
    connection: Connection,
}

impl Application {
    /// Opens a database, or makes one.
    ///
    /// # Errors
    /// `Unavailable` when the file cannot be opened, `Corrupt` when it is no database.
    pub fn create(path: &Path) -> Result<Application, Error> {
        Application::with(path, OpenFlags::SQLITE_OPEN_CREATE)
    }

    /// Opens a database that exists.
    ///
    /// # Errors
    /// As [`create`](Self::create), and `Unavailable` when it does not exist.
    pub fn open(path: &Path) -> Result<Application, Error> {
        Application::with(path, OpenFlags::empty())
    }

    /// Opens a database, or makes one, with these pragmas, and with SQLite's defaults for all others.
    ///
    /// # Errors
    /// As [`create`](Self::create).
    pub fn with_pragmas(path: &Path, pragmas: &[(&str, &str)]) -> Result<Application, Error> {
        let connection = connect(path, OpenFlags::SQLITE_OPEN_CREATE)?;
        for (name, value) in pragmas {
            connection.pragma_update(None, name, value).map_err(|e| Error::new(OPEN, e))?;
        }
        Ok(Application { connection })
    }

    fn with(path: &Path, flags: OpenFlags) -> Result<Application, Error> {
        let connection = connect(path, flags)?;
        let set = || -> rusqlite::Result<()> {
            connection.busy_timeout(PATIENCE)?;
            connection.pragma_update(None, "journal_mode", "wal")?;
            connection.pragma_update(None, "synchronous", "NORMAL")?;
            connection.pragma_update(None, "foreign_keys", true)
        };
        set().map_err(|e| Error::new(OPEN, e))?;
        Ok(Application { connection })
    }

    /// Runs statements without parameters, separated by semicolons.
    ///
    /// # Errors
    /// What SQLite refuses; statements before the one that failed have run.
    pub fn execute_batch(&self, sql: &str) -> Result<(), Error> {
        self.connection.execute_batch(sql).map_err(|e| Error::new("run statements", e))
    }

    /// Runs one statement and returns how many rows it changed. The statement stays prepared.
    ///
    /// # Errors
    /// What SQLite refuses.
    pub fn execute(&self, sql: &str, parameters: &[Value]) -> Result<usize, Error> {
        let run = || self.connection.prepare_cached(sql)?.execute(rusqlite::params_from_iter(parameters));
        run().map_err(|e| Error::new("run a statement", e))
    }

    /// All rows of a query. The statement stays prepared.
    ///
    /// # Errors
    /// What SQLite refuses.
    pub fn query(&self, sql: &str, parameters: &[Value]) -> Result<Vec<Vec<Value>>, Error> {
        let run = || {
            let mut statement = self.connection.prepare_cached(sql)?;
            let columns = statement.column_count();
            let row = |row: &rusqlite::Row<'_>| {
                (0..columns).map(|nth| row.get::<_, rusqlite::types::Value>(nth).map(Value::from)).collect()
            };
            let rows = statement.query_map(rusqlite::params_from_iter(parameters), row)?;
            rows.collect::<rusqlite::Result<Vec<Vec<Value>>>>()
        };
        run().map_err(|e| Error::new("run a query", e))
    }

    /// Runs `body` in one write transaction, which is committed when it succeeds and rolled back when it does not.
    ///
    /// # Errors
    /// Those of `body`, and those of beginning and committing.
    pub fn transaction<T>(&self, body: impl FnOnce(&Application) -> Result<T, Error>) -> Result<T, Error> {
        let step = |sql: &str, doing| {
            let run = || self.connection.prepare_cached(sql)?.execute(());
            run().map(drop).map_err(|e| Error::new(doing, e))
        };
        step("BEGIN IMMEDIATE", "begin a transaction")?;
        let outcome = body(self).and_then(|value| step("COMMIT", "commit a transaction").map(|()| value));
        if outcome.is_err() && !self.connection.is_autocommit() {
            let _ = self.connection.execute_batch("ROLLBACK");
        }
        outcome
    }
}

fn connect(path: &Path, flags: OpenFlags) -> Result<Connection, Error> {
    let flags = flags | OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Connection::open_with_flags(path, flags).map_err(|e| Error::new(OPEN, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back_as_they_went_in() {
        let dir = tempfile::tempdir().unwrap();
        let db = Application::create(&dir.path().join("a.db")).unwrap();
        db.execute_batch("CREATE TABLE t(a, b, c, d, e)").unwrap();
        let row =
            [Value::Null, 7.into(), Value::Real(0.5), "text".into(), Value::Blob(vec![0, 255])].to_vec();
        assert_eq!(db.execute("INSERT INTO t VALUES(?1, ?2, ?3, ?4, ?5)", &row).unwrap(), 1);
        assert_eq!(db.query("SELECT * FROM t WHERE b = ?1", &[7.into()]).unwrap(), [row]);
    }

    #[test]
    fn a_transaction_that_fails_leaves_nothing_and_the_next_one_works() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        assert!(Application::open(&path).is_err(), "there is no database yet");
        let db = Application::create(&path).unwrap();
        db.execute_batch("CREATE TABLE t(n INTEGER PRIMARY KEY)").unwrap();
        let twice = db.transaction(|db| {
            db.execute("INSERT INTO t VALUES(1)", &[])?;
            db.execute("INSERT INTO t VALUES(1)", &[])
        });
        assert!(twice.is_err());
        db.transaction(|db| db.execute("INSERT INTO t VALUES(2)", &[])).unwrap();
        let other = Application::open(&path).unwrap();
        assert_eq!(other.query("SELECT n FROM t", &[]).unwrap(), [vec![Value::Integer(2)]]);
    }
}
