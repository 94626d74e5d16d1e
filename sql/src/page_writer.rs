//! A connection that writes whole pages into a database which other processes read with any SQLite.
//!
//! Promises:
//! - Readers see each transaction of pages as a whole, as they see any other.
//! - Whatever somebody else has written is noticed before a page is written over it.
//! - It never checkpoints by itself and leaves WAL and wal-index where they are when it is closed, so that users who may not
//!   write beside the database can read it at any time.
//!
//! The pages go through `sqlite_dbpage` of an attached database: in *main* the first page that does not fit the schema would
//! end the transaction. SQLite knows nothing of what pages hold that were written so, and takes those that it has parsed for what
//! they were: no statement of that connection may look at the schema after the beginning, so another one reads. A crash leaves what that of any writer leaves: the transaction as a whole, or nothing of it.

use std::path::Path;
use std::time::Duration;

use litekeep_format::{AutoVacuum, DatabaseHeader};
use litekeep_ltx::{PageSize, Pgno};
use rusqlite::config::DbConfig;
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, OpenFlags};

use crate::Error;
use crate::observer::{Checkpoint, checkpoint, never_checkpoint};

/// How long a write waits for somebody else's.
const PATIENCE: Duration = Duration::from_secs(5);
const WRITE: &str = "write pages";
const READ: &str = "read pages";
const INSERT: &str = "INSERT INTO sqlite_dbpage(pgno, data, schema) VALUES (?1, ?2, 'r')";

/// The connections.
#[derive(Debug)]
pub struct PageWriter {
    connection: Connection,
    reader: Connection,
    page_size: PageSize,
    /// SQLite's count of the transactions of others.
    known: i64,
    /// The same as of the last pages that were read.
    seen: i64,
    /// The header before the open transaction, and the pages.
    before: Option<(DatabaseHeader, u32)>,
}

impl PageWriter {
    /// Opens a database that exists, and switches it to WAL mode where it is not. A WAL that is begun anew keeps no more than
    /// `wal_bytes` of the disk.
    ///
    /// # Errors
    /// `Unavailable` when the file cannot be opened, `Corrupt` when it is no database.
    pub fn open(path: &Path, wal_bytes: u64) -> Result<PageWriter, Error> {
        const OPEN: &str = "open the replica";
        let failed = |e| Error::new(OPEN, e);
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(":memory:", flags).map_err(failed)?;
        let reader = Connection::open_with_flags(path, flags).map_err(failed)?;
        let set = || -> rusqlite::Result<(String, u32)> {
            connection.busy_timeout(PATIENCE)?;
            // Pages of a schema that is half there must not be looked at.
            connection.set_db_config(DbConfig::SQLITE_DBCONFIG_WRITABLE_SCHEMA, true)?;
            never_checkpoint(&connection)?;
            reader.busy_timeout(PATIENCE)?;
            never_checkpoint(&reader)?;
            let path = ToSqlOutput::Borrowed(ValueRef::Text(path.as_os_str().as_encoded_bytes()));
            connection.execute("ATTACH ?1 AS r", [path])?;
            let mode = connection.query_row("PRAGMA r.journal_mode = WAL", [], |row| row.get(0))?;
            connection.pragma_update(Some("r"), "synchronous", "NORMAL")?;
            connection.pragma_update(Some("r"), "journal_size_limit", wal_bytes.cast_signed())?;
            drop(connection.prepare_cached(INSERT)?);
            Ok((mode, number(&reader, "PRAGMA page_size")?))
        };
        let (mode, page_size) = set().map_err(failed)?;
        let refused = |message: String| Error::Refused { context: OPEN, message };
        if mode != "wal" {
            return Err(refused(format!("SQLite keeps it in {mode} mode, and not in WAL mode")));
        }
        let page_size =
            PageSize::new(page_size).ok_or_else(|| refused(format!("pages of {page_size} bytes")))?;
        let mut writer = PageWriter { connection, reader, page_size, known: 0, seen: 0, before: None };
        writer.known = writer.version(OPEN)?;
        Ok(writer)
    }

    /// Bytes of a page.
    pub fn page_size(&self) -> PageSize {
        self.page_size
    }

    fn version(&self, context: &'static str) -> Result<i64, Error> {
        number(&self.connection, "PRAGMA r.data_version").map_err(|e| Error::new(context, e))
    }

    /// Whether anybody else may have written since what he wrote last was [accepted](Self::accept). A checkpoint of his that
    /// begins the WAL anew counts, too.
    pub fn is_foreign(&self) -> Result<bool, Error> {
        Ok(self.version("look for what others wrote")? != self.known)
    }

    /// What others had written is in the pages that were read last, and known.
    pub fn accept(&mut self) {
        self.known = self.seen;
    }

    /// Begins a transaction, whatever others have written before: from here on it is known, and nobody writes more.
    pub fn begin_over(&mut self) -> Result<(), Error> {
        self.known = self.version(WRITE)?;
        while !self.begin()? {
            self.known = self.version(WRITE)?;
        }
        Ok(())
    }

    /// Begins a transaction; `false`, and nothing begun, when anybody else may have written before.
    pub fn begin(&mut self) -> Result<bool, Error> {
        self.run("BEGIN IMMEDIATE")?;
        let looked = || -> Result<_, Error> { Ok((self.version(WRITE)?, self.header()?)) };
        let (version, before) = looked().inspect_err(|_| self.rollback())?;
        if version != self.known {
            self.rollback();
            return Ok(false);
        }
        self.before = Some(before);
        Ok(true)
    }

    /// Writes a page. The lock page has none.
    pub fn write(&self, pgno: Pgno, page: &[u8]) -> Result<(), Error> {
        if pgno != Pgno::FIRST {
            return self.insert(pgno.get(), Some(page));
        }
        let header = parse(page, WRITE)?;
        let was_full = self.before.as_ref().is_some_and(|(before, _)| before.auto_vacuum == AutoVacuum::Full);
        // A commit would move pages, by the mode as it was before: the file is as it shall be already.
        if header.freelist_count > 0 && was_full {
            // What it does to the connection it does when it is prepared.
            let keep = self.connection.execute_batch("PRAGMA r.auto_vacuum = INCREMENTAL");
            keep.map_err(|e| Error::new(WRITE, e))?;
        }
        let mut page = page.to_vec();
        page[18..20].fill(2);
        self.insert(pgno.get(), Some(&page))
    }

    fn insert(&self, pgno: u32, page: Option<&[u8]>) -> Result<(), Error> {
        let insert = self.connection.prepare_cached(INSERT);
        let inserted = insert.and_then(|mut insert| insert.execute((pgno, page)));
        inserted.map(drop).map_err(|e| Error::new(WRITE, e))
    }

    /// Ends the transaction; the database has so many pages then.
    pub fn commit(&self, page_count: u32) -> Result<(), Error> {
        // Last of all: a page that is written afterwards cancels it.
        let before = self.before.as_ref().map_or(0, |(_, page_count)| *page_count);
        let cut = if page_count < before { self.insert(page_count + 1, None) } else { Ok(()) };
        cut.and_then(|()| self.run("COMMIT")).inspect_err(|_| self.rollback())
    }

    /// Ends the transaction without effect.
    pub fn rollback(&self) {
        if !self.connection.is_autocommit() {
            let _ = self.connection.execute_batch("ROLLBACK");
        }
    }

    fn run(&self, sql: &str) -> Result<(), Error> {
        let run = self.connection.prepare_cached(sql).and_then(|mut statement| statement.execute([]));
        run.map(drop).map_err(|e| Error::new(WRITE, e))
    }

    /// Pages of the database.
    pub fn page_count(&self) -> Result<u32, Error> {
        self.header().map(|(_, page_count)| page_count)
    }

    /// Page 1 as it is now.
    pub fn first_page(&self) -> Result<Vec<u8>, Error> {
        let failed = |e| Error::new(READ, e);
        let sql = "SELECT data FROM sqlite_dbpage WHERE pgno = 1";
        let mut first = self.reader.prepare_cached(sql).map_err(failed)?;
        first.query_row([], |row| row.get(0)).map_err(failed)
    }

    /// The header, and the pages.
    fn header(&self) -> Result<(DatabaseHeader, u32), Error> {
        let failed = |e| Error::new(READ, e);
        let header = parse(&self.first_page()?, READ)?;
        // Programs of old do not keep it.
        let count = || number(&self.reader, "SELECT count(*) FROM sqlite_dbpage");
        let page_count = header.valid_page_count().map_or_else(count, Ok).map_err(failed)?;
        Ok((header, page_count))
    }

    /// Gives each page but the lock page, ascending, all of one moment. Returns how many pages the database has.
    ///
    /// # Errors
    /// SQLite's, and those of `each`.
    pub fn read_all<E: From<Error>>(
        &mut self,
        mut each: impl FnMut(Pgno, &[u8]) -> Result<(), E>,
    ) -> Result<u32, E> {
        let failed = |e| Error::new(READ, e);
        let lock_page = self.page_size.lock_page();
        // What comes between the two is read, and counts as not known.
        let version = self.version(READ)?;
        self.reader.execute_batch("BEGIN").map_err(failed)?;
        let mut read = || -> Result<u32, E> {
            let count = self.page_count()?;
            let mut select = self.reader.prepare_cached("SELECT data FROM sqlite_dbpage").map_err(failed)?;
            let mut rows = select.query([]).map_err(failed)?;
            let mut pages = (1..).filter_map(Pgno::new);
            while let (Some(pgno), Some(row)) = (pages.next(), rows.next().map_err(failed)?) {
                let page = row.get_ref(0).map_err(failed)?;
                if let ValueRef::Blob(page) = page
                    && pgno != lock_page
                {
                    each(pgno, page)?;
                }
            }
            Ok(count)
        };
        let read = read();
        let _ = self.reader.execute_batch("ROLLBACK");
        self.seen = version;
        read
    }

    /// Copies what may be copied from the WAL into the database file; waits for nobody.
    pub fn checkpoint(&self) -> Result<Checkpoint, Error> {
        checkpoint(&self.connection, "PRAGMA r.wal_checkpoint(PASSIVE)")
    }

    /// The same, and waits for so long for readers, so that the next transaction begins the WAL anew.
    pub fn checkpoint_all(&self, patience: Duration) -> Result<Checkpoint, Error> {
        let wait = |patience| {
            self.connection.busy_timeout(patience).map_err(|e| Error::new("set the busy timeout", e))
        };
        wait(patience)?;
        let done = checkpoint(&self.connection, "PRAGMA r.wal_checkpoint(RESTART)");
        wait(PATIENCE)?;
        done
    }
}

fn parse(page: &[u8], context: &'static str) -> Result<DatabaseHeader, Error> {
    DatabaseHeader::parse(page).map_err(|e| Error::Corrupt { context, message: e.to_string() })
}

fn number<T: rusqlite::types::FromSql>(connection: &Connection, sql: &str) -> rusqlite::Result<T> {
    connection.prepare_cached(sql)?.query_row([], |row| row.get(0))
}

#[cfg(test)]
mod tests;
