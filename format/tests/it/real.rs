//! Databases that SQLite writes for these tests.

use rusqlite::Connection;
use std::path::PathBuf;
use tempfile::TempDir;

pub(crate) const PAGE_SIZES: [u32; 8] = [512, 1024, 2048, 4096, 8192, 16384, 32768, 65536];

/// A database in WAL mode with one connection, which never checkpoints by itself.
pub(crate) struct Database {
    pub(crate) connection: Connection,
    folder: TempDir,
}

impl Database {
    /// An empty one with the table `t`. The WAL has the frames that made the table.
    pub(crate) fn new(page_size: u32, auto_vacuum: &str, encoding: &str) -> Database {
        let folder = tempfile::tempdir().expect("make a folder");
        let connection = Connection::open(folder.path().join("app.db")).expect("open a database");
        connection
            .execute_batch(&format!(
                "PRAGMA page_size = {page_size}; PRAGMA auto_vacuum = {auto_vacuum}; PRAGMA encoding = '{encoding}';
                 PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF; PRAGMA wal_autocheckpoint = 0;
                 CREATE TABLE t (id INTEGER PRIMARY KEY, body);"
            ))
            .expect("set a database up");
        Database { connection, folder }
    }

    /// A database from files, in a folder of its own.
    pub(crate) fn from_files(main: &[u8], wal: &[u8]) -> Database {
        let folder = tempfile::tempdir().expect("make a folder");
        std::fs::write(folder.path().join("app.db"), main).expect("write the database");
        std::fs::write(folder.path().join("app.db-wal"), wal).expect("write the WAL");
        let connection = Connection::open(folder.path().join("app.db")).expect("open a database");
        Database { connection, folder }
    }

    /// Commits one transaction of so many rows of 100 bytes.
    pub(crate) fn insert(&self, rows: u32) {
        self.connection
            .execute(
                "WITH n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
                 INSERT INTO t (body) SELECT randomblob(100) FROM n",
                [rows],
            )
            .expect("insert rows");
    }

    pub(crate) fn execute(&self, sql: &str) {
        self.connection.execute_batch(sql).expect("execute SQL");
    }

    /// A number that a pragma or a query tells.
    pub(crate) fn number(&self, sql: &str) -> i64 {
        self.connection.query_row(sql, [], |row| row.get(0)).expect("query a number")
    }

    pub(crate) fn text(&self, sql: &str) -> String {
        self.connection.query_row(sql, [], |row| row.get(0)).expect("query a text")
    }

    /// The bytes of the database file. Reading it drops this process's locks, which no other process contends here.
    pub(crate) fn main(&self) -> Vec<u8> {
        self.read("app.db")
    }

    pub(crate) fn wal(&self) -> Vec<u8> {
        self.read("app.db-wal")
    }

    pub(crate) fn shm(&self) -> Vec<u8> {
        self.read("app.db-shm")
    }

    fn read(&self, name: &str) -> Vec<u8> {
        let path: PathBuf = self.folder.path().join(name);
        std::fs::read(path).expect("read a file of the database")
    }
}
