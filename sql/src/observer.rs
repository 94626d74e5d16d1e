//! A connection that watches a database which belongs to another process.

use crate::Error;
use litekeep_ltx::Salt;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use std::path::Path;
use std::time::Duration;

/// The state that a read transaction sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Frames of the WAL that belong to the state, from the first.
    pub max_frame: u32,
    /// Pages of the database.
    pub page_count: u32,
    /// The WAL generation.
    pub salt: Salt,
}

/// Answer of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// It could not run to its end because of a lock.
    pub busy: bool,
    /// Frames in the WAL.
    pub frames: u32,
    /// Frames that are in the database file now.
    pub backfilled: u32,
}

impl Checkpoint {
    /// Every frame is in the database file.
    pub fn is_complete(self) -> bool {
        !self.busy && self.frames == self.backfilled
    }
}

/// A connection for observing: it reads, checkpoints on request, and holds the write lock for a moment, but never
/// writes a page and never checkpoints by itself.
#[derive(Debug)]
pub struct Observer {
    connection: Connection,
}

/// The connection checkpoints neither at a commit nor when it is closed.
pub(crate) fn never_checkpoint(connection: &Connection) -> rusqlite::Result<()> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    connection.pragma_update(None, "wal_autocheckpoint", 0)
}

/// Runs a checkpoint.
pub(crate) fn checkpoint(connection: &Connection, pragma: &str) -> Result<Checkpoint, Error> {
    let done = connection.query_row(pragma, [], |r| {
        let frames = |i| r.get::<_, i64>(i).map(|n| u32::try_from(n).unwrap_or(0));
        Ok(Checkpoint { busy: r.get::<_, i64>(0)? != 0, frames: frames(1)?, backfilled: frames(2)? })
    });
    done.map_err(|e| Error::new("checkpoint", e))
}

impl Observer {
    /// Opens an existing database. The wal-index is built or recovered by SQLite's own rules at the first read.
    pub fn open(path: &Path) -> Result<Observer, Error> {
        const OPEN: &str = "open the database";
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags).map_err(|e| Error::new(OPEN, e))?;
        let set = || -> rusqlite::Result<()> {
            connection.busy_timeout(Duration::ZERO)?;
            never_checkpoint(&connection)?;
            // Observers read a handful of pages; the default of 2 MiB a database would add up over thousands.
            connection.pragma_update(None, "cache_size", 10)?;
            connection.pragma_update(None, "synchronous", "NORMAL")
        };
        set().map_err(|e| Error::new(OPEN, e))?;
        Ok(Observer { connection })
    }

    /// How long the next statements wait for a lock.
    pub fn wait_for_locks(&self, at_most: Duration) -> Result<(), Error> {
        self.connection.busy_timeout(at_most).map_err(|e| Error::new("set the busy timeout", e))
    }

    /// The journal mode as SQLite names it: `wal`, `delete`, ...
    pub fn journal_mode(&self) -> Result<String, Error> {
        self.connection
            .query_row("PRAGMA journal_mode", [], |r| r.get(0))
            .map_err(|e| Error::new("read the journal mode", e))
    }

    /// Switches to WAL mode and returns the mode that is in force afterwards.
    pub fn switch_to_wal(&self) -> Result<String, Error> {
        self.connection
            .query_row("PRAGMA journal_mode = WAL", [], |r| r.get(0))
            .map_err(|e| Error::new("switch to WAL mode", e))
    }

    /// Begins a read transaction. `None` as the snapshot means that the WAL holds nothing: the database file is the
    /// state.
    pub fn begin_read(&self) -> Result<Option<Snapshot>, Error> {
        const READ: &str = "begin a read transaction";
        self.connection.execute_batch("BEGIN").map_err(|e| Error::new(READ, e))?;
        let touch =
            self.connection.query_row("SELECT count(*) FROM sqlite_schema", [], |r| r.get::<_, i64>(0));
        match touch {
            Ok(_) => Ok(self.snapshot()),
            Err(e) => {
                let _ = self.end();
                Err(Error::new(READ, e))
            }
        }
    }

    /// Keeps everybody else from writing until [`end`](Self::end), or until the connection goes; writes nothing itself.
    ///
    /// # Errors
    /// `Busy` when somebody else writes for longer than this connection [waits](Self::wait_for_locks).
    pub fn hold_writes(&self) -> Result<(), Error> {
        self.connection
            .execute_batch("BEGIN IMMEDIATE")
            .map_err(|e| Error::new("keep others from writing", e))
    }

    /// The state that the open transaction sees.
    #[allow(unsafe_code)]
    fn snapshot(&self) -> Option<Snapshot> {
        let mut p: *mut rusqlite::ffi::sqlite3_snapshot = std::ptr::null_mut();
        // SAFETY: the handle lives as long as the connection, the schema name is NUL-terminated, `p` is written on
        // success only and freed below. `sqlite3_snapshot` is documented as 48 opaque bytes; they are the wal-index
        // header (sqlite.org/walformat.html#the_wal_index_header), in native byte order but for the salts.
        unsafe {
            let rc =
                rusqlite::ffi::sqlite3_snapshot_get(self.connection.handle(), c"main".as_ptr(), &raw mut p);
            if rc != rusqlite::ffi::SQLITE_OK || p.is_null() {
                return None;
            }
            let b = (*p).hidden;
            rusqlite::ffi::sqlite3_snapshot_free(p);
            let word = |o: usize| u32::from_ne_bytes(b[o..o + 4].try_into().expect("4 bytes"));
            Some(Snapshot {
                max_frame: word(16),
                page_count: word(20),
                salt: Salt(b[32..40].try_into().expect("8 bytes")),
            })
        }
    }

    /// Ends whatever transaction is open, without effect.
    pub fn end(&self) -> Result<(), Error> {
        if self.connection.is_autocommit() {
            return Ok(());
        }
        self.connection.execute_batch("ROLLBACK").map_err(|e| Error::new("end a transaction", e))
    }

    /// Copies what may be copied from the WAL into the database file; waits for nobody.
    pub fn checkpoint_passive(&self) -> Result<Checkpoint, Error> {
        checkpoint(&self.connection, "PRAGMA wal_checkpoint(PASSIVE)")
    }

    /// Whether the schema holds a table and any table holds a row.
    pub fn has_rows(&self) -> Result<bool, Error> {
        const LOOK: &str = "look for rows";
        let tables = || -> rusqlite::Result<Vec<String>> {
            let mut s = self.connection.prepare(
                "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'",
            )?;
            s.query_map([], |r| r.get(0))?.collect()
        };
        for table in tables().map_err(|e| Error::new(LOOK, e))? {
            let quoted = table.replace('"', "\"\"");
            match self.connection.query_row(&format!("SELECT 1 FROM \"{quoted}\" LIMIT 1"), [], |_| Ok(())) {
                Ok(()) => return Ok(true),
                Err(rusqlite::Error::QueryReturnedNoRows) => {}
                // A virtual table whose module is not loaded here says nothing about the rows of the others.
                Err(_) => {}
            }
        }
        Ok(false)
    }

    /// `PRAGMA integrity_check` or `quick_check`; empty when all is well.
    pub fn integrity(&self, quick: bool) -> Result<Vec<String>, Error> {
        const CHECK: &str = "check integrity";
        let pragma = if quick { "PRAGMA quick_check" } else { "PRAGMA integrity_check" };
        let mut s = self.connection.prepare(pragma).map_err(|e| Error::new(CHECK, e))?;
        let rows = s.query_map([], |r| r.get::<_, String>(0)).map_err(|e| Error::new(CHECK, e))?;
        let mut found = vec![];
        for row in rows {
            let row = row.map_err(|e| Error::new(CHECK, e))?;
            if row != "ok" {
                found.push(row);
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database() -> (tempfile::TempDir, std::path::PathBuf, Connection) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        let app = Connection::open(&path).unwrap();
        app.execute_batch("PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0; CREATE TABLE t(x)").unwrap();
        (dir, path, app)
    }

    #[test]
    fn a_snapshot_names_the_frames_it_sees() {
        let (_dir, path, app) = database();
        let o = Observer::open(&path).unwrap();
        let a = o.begin_read().unwrap().unwrap();
        app.execute_batch("INSERT INTO t VALUES(1)").unwrap();
        assert_eq!(o.snapshot().unwrap(), a);
        o.end().unwrap();
        let b = o.begin_read().unwrap().unwrap();
        assert!(b.max_frame > a.max_frame && b.salt == a.salt && b.page_count == 2);
    }

    #[test]
    fn an_observer_leaves_the_wal_alone() {
        let (_dir, path, app) = database();
        let wal = path.with_file_name("a.db-wal");
        let size = std::fs::metadata(&wal).unwrap().len();
        let o = Observer::open(&path).unwrap();
        o.begin_read().unwrap();
        drop(app);
        drop(o);
        assert_eq!(std::fs::metadata(&wal).unwrap().len(), size);
        let _app = Connection::open(&path).unwrap();
        let o = Observer::open(&path).unwrap();
        assert!(o.checkpoint_passive().unwrap().is_complete());
    }

    #[test]
    fn nobody_writes_while_writes_are_held_and_the_state_can_be_told() {
        let (_dir, path, app) = database();
        let (held, reader) = (Observer::open(&path).unwrap(), Observer::open(&path).unwrap());
        held.hold_writes().unwrap();
        app.busy_timeout(Duration::ZERO).unwrap();
        assert!(app.execute_batch("INSERT INTO t VALUES(1)").is_err());
        assert!(Observer::open(&path).unwrap().hold_writes().is_err_and(|e| e.is_busy()));
        let before = reader.begin_read().unwrap().unwrap();
        reader.end().unwrap();
        drop(held);
        app.execute_batch("INSERT INTO t VALUES(1)").unwrap();
        assert_eq!(reader.begin_read().unwrap().unwrap().max_frame, before.max_frame + 1);
    }

    #[test]
    fn rows_are_told_from_none() {
        let (_dir, path, app) = database();
        let o = Observer::open(&path).unwrap();
        assert!(!o.has_rows().unwrap());
        app.execute_batch("INSERT INTO t VALUES(1)").unwrap();
        assert!(o.has_rows().unwrap());
        assert!(o.integrity(false).unwrap().is_empty());
    }
}
