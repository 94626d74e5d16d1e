//! Keeps everybody from writing to a database, for as long as this process lives.
//!
//! Promises:
//! - While it is closed no connection commits: a write ends with SQLITE_BUSY. Whoever reads goes on.
//! - Nothing is written, and nobody's close is the last one, so the WAL stays as it is.
//!
//! It is SQLite's own write lock, held by an open-file-description lock, so that no connection has to be kept. To let go of the
//! files drops the locks of this process's connections to them: that is for a moment in which it has none.

use super::held::HeldFiles;
use crate::Error;
use litekeep_sql::Observer;
use std::path::Path;

/// The block of one database.
#[derive(Debug)]
pub struct WriteBlock {
    files: HeldFiles,
    is_closed: bool,
}

impl WriteBlock {
    /// Opens the files of a database in WAL mode; nobody is kept from writing yet. `None`: there is no file, or it is not in WAL mode.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(path: &Path) -> Result<Option<WriteBlock>, Error> {
        if !path.metadata().is_ok_and(|file| file.is_file() && file.len() > 0) {
            return Ok(None);
        }
        let observer = Observer::open(path)?;
        if observer.journal_mode()? != "wal" {
            return Ok(None);
        }
        // The wal-index is there then, and valid.
        observer.begin_read()?;
        observer.end()?;
        let files = HeldFiles::open(path, &observer)?;
        Ok(Some(WriteBlock { files, is_closed: false }))
    }

    /// Keeps everybody from writing; `false` while a transaction that writes is open somewhere.
    ///
    /// # Errors
    /// When the files cannot be locked.
    pub fn close(&mut self) -> Result<bool, Error> {
        if !self.is_closed {
            self.is_closed = self.files.try_lock_writers()?;
        }
        Ok(self.is_closed)
    }

    /// Lets them write again.
    ///
    /// # Errors
    /// When the lock cannot be given back.
    pub fn lift(&mut self) -> Result<(), Error> {
        if std::mem::take(&mut self.is_closed) {
            self.files.unlock_writers()?;
        }
        Ok(())
    }

    /// Whether nobody writes.
    pub fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Whether it is that of the file at this path now.
    pub fn is_at(&self, path: &Path) -> bool {
        path.metadata().is_ok_and(|file| self.files.is(&file))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rusqlite::Connection;

    #[test]
    fn nobody_writes_while_it_is_closed_and_the_wal_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.db");
        let app = Connection::open(&path).unwrap();
        assert!(WriteBlock::open(&path).unwrap().is_none());
        app.execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES(1)").unwrap();
        app.busy_timeout(std::time::Duration::from_millis(10)).unwrap();
        let mut block = WriteBlock::open(&path).unwrap().unwrap();
        app.execute_batch("BEGIN IMMEDIATE; INSERT INTO t VALUES(2)").unwrap();
        assert!(!block.close().unwrap(), "a transaction is open");
        app.execute_batch("COMMIT").unwrap();
        assert!(block.close().unwrap() && block.is_closed());
        let refused = app.execute("INSERT INTO t VALUES(3)", []).unwrap_err();
        assert_eq!(refused.sqlite_error_code(), Some(rusqlite::ErrorCode::DatabaseBusy));
        let count =
            |app: &Connection| app.query_row("SELECT count(*) FROM t", [], |r| r.get::<_, i64>(0)).unwrap();
        assert_eq!(count(&app), 2);
        // The last close of the application leaves the WAL, and another process finds it and the block.
        drop(app);
        assert!(litekeep_env::file::sibling(&path, "-wal").metadata().unwrap().len() > 0);
        let app = Connection::open(&path).unwrap();
        app.busy_timeout(std::time::Duration::ZERO).unwrap();
        assert_eq!(count(&app), 2);
        assert!(app.execute("INSERT INTO t VALUES(3)", []).is_err());
        block.lift().unwrap();
        app.execute("INSERT INTO t VALUES(3)", []).unwrap();
    }
}
