//! Changes of what persists in a database file besides its tables.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use crate::{Error, observer};

/// How long a change waits for other connections.
const PATIENCE: Duration = Duration::from_secs(5);

/// A connection that changes how a file is laid out. It checkpoints nothing and never rewrites the file (`VACUUM`).
#[derive(Debug)]
pub struct Tuner {
    connection: Connection,
}

impl Tuner {
    /// Opens a database that exists.
    ///
    /// # Errors
    /// `Unavailable` when the file cannot be opened, `Corrupt` when it is no database.
    pub fn open(path: &Path) -> Result<Tuner, Error> {
        const OPEN: &str = "open the database";
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags).map_err(|e| Error::new(OPEN, e))?;
        connection.busy_timeout(PATIENCE).map_err(|e| Error::new(OPEN, e))?;
        observer::never_checkpoint(&connection).map_err(|e| Error::new(OPEN, e))?;
        Ok(Tuner { connection })
    }

    /// Runs the statements of one step, in this order.
    ///
    /// # Errors
    /// `Busy` when other connections are in the way for long, and what SQLite refuses.
    pub fn run(&self, statements: &[String]) -> Result<(), Error> {
        // Pragmas answer with rows, which `execute_batch` passes over.
        statements.iter().try_for_each(|statement| {
            self.connection.execute_batch(statement).map_err(|e| Error::new("change the database", e))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Examiner;

    #[test]
    fn an_empty_file_takes_everything() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        std::fs::write(&path, "").unwrap();
        let lines =
            ["PRAGMA page_size = 4096;", "PRAGMA auto_vacuum = INCREMENTAL;", "PRAGMA journal_mode = WAL;"];
        Tuner::open(&path).unwrap().run(&lines.map(str::to_owned)).unwrap();
        let layout = Examiner::open(&path).unwrap().layout().unwrap();
        assert_eq!((layout.journal_mode.as_str(), layout.page_size, layout.auto_vacuum), ("wal", 4096, 2));
    }
}
