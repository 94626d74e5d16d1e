//! Goal: kinds of databases that random ones are seldom or never. Method: scripted changes, each compared as in `churn`.

use std::path::PathBuf;

use litekeep_format::Collation;
use litekeep_testkit::churn;
use rusqlite::Connection;
use tempfile::TempDir;

use crate::reported::Reported;
use crate::watched::Watched;

struct Scripted {
    db: Connection,
    watched: Watched,
    dir: TempDir,
}

impl Scripted {
    /// A database in WAL mode to which `prepare` has done this.
    fn new(prepare: impl FnOnce(&Connection)) -> Scripted {
        let dir = tempfile::tempdir().unwrap();
        let db = Connection::open(dir.path().join("a.db")).unwrap();
        prepare(&db);
        Scripted::watch(dir, db)
    }

    fn watch(dir: TempDir, db: Connection) -> Scripted {
        db.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF; PRAGMA wal_autocheckpoint = 0",
        )
        .unwrap();
        db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
        let watched = Watched::begin(&db).unwrap();
        Scripted { db, watched, dir }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("a.db")
    }

    /// Changes the database, and compares what a diff reports with what SQL sees.
    fn change(&mut self, sql: &str) -> Reported {
        self.db.execute_batch(sql).unwrap_or_else(|e| panic!("{e}: {sql}"));
        let (reported, _) =
            self.watched.step(&self.db, &self.path()).unwrap_or_else(|e| panic!("{sql}: {e:?}"));
        reported
    }
}

/// Rows of the numbers 1 to 2000, `backwards`' own order being far from every other.
const ROWS: &str = "WITH s(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s WHERE i < 2000)
    INSERT INTO t SELECT printf('%s %d', char(65 + i % 26), i), i, zeroblob(i % 700) FROM s;";

fn in_an_order_of_its_own(collation: &str) {
    let mut scripted = Scripted::new(|db| {
        churn::register(db).unwrap();
        // An application may have its own idea of NOCASE.
        db.create_collation("NOCASE", |a, b| b.to_lowercase().cmp(&a.to_lowercase())).unwrap();
        db.execute_batch(&format!(
            "PRAGMA page_size = 512;
             CREATE TABLE t(k TEXT COLLATE {collation}, n, b, PRIMARY KEY(k, n)) WITHOUT ROWID; {ROWS}"
        ))
        .unwrap();
    });
    for (sql, rows) in [
        ("UPDATE t SET b = 'new' WHERE n % 97 = 3", 21),
        ("DELETE FROM t WHERE n BETWEEN 700 AND 760", 61),
        ("UPDATE t SET k = lower(k) WHERE n < 20", 19),
        ("INSERT INTO t SELECT 'more ' || n, n, k FROM t WHERE n % 3 = 0", 0),
        ("UPDATE t SET b = zeroblob(5000) WHERE n = 1500", 2),
        ("UPDATE t SET b = CAST(zeroblob(4999) || x'01' AS BLOB) WHERE n = 1500", 2),
        ("DELETE FROM t", 0),
    ] {
        let reported = scripted.change(sql);
        assert!(rows == 0 || reported.rows() == rows, "{sql}: {} rows", reported.rows());
    }
}

#[test]
fn keys_in_the_order_of_an_applications_collation() {
    in_an_order_of_its_own("backwards");
}

#[test]
fn keys_in_an_order_that_an_application_gave_a_collation_of_sqlite() {
    assert_eq!(Collation::named("nocase"), Collation::NoCase);
    in_an_order_of_its_own("NOCASE");
}

#[test]
fn virtual_columns_are_no_part_of_rows() {
    for end in ["", " WITHOUT ROWID"] {
        let mut scripted = Scripted::new(|db| {
            db.execute_batch(&format!(
                "CREATE TABLE t(v AS (a || 'x') VIRTUAL, a, w INT AS (length(k) * 2) VIRTUAL, s AS (a || k) STORED, k TEXT,
                     PRIMARY KEY(k)){end};
                 CREATE INDEX i ON t(v);
                 WITH n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 900)
                 INSERT INTO t(a, k) SELECT i, hex(i * 37) || i FROM n;"
            ))
            .unwrap();
        });
        for (sql, rows) in [
            ("UPDATE t SET a = a + 1 WHERE w > 10 AND v LIKE '1%'", None),
            ("UPDATE t SET a = 'b' WHERE a = 500", Some(1)),
            ("DELETE FROM t WHERE v = 'bx'", Some(1)),
            ("ALTER TABLE t ADD COLUMN x AS (a + 1) VIRTUAL", Some(0)),
            ("INSERT INTO t(a, k) VALUES (1, 'new')", Some(1)),
            ("ALTER TABLE t RENAME COLUMN w TO ww", Some(0)),
            ("ALTER TABLE t ADD COLUMN y DEFAULT 5", Some(0)),
            ("UPDATE t SET y = 6 WHERE x = 2", None),
            ("ALTER TABLE t DROP COLUMN x", Some(0)),
            ("DELETE FROM t", None),
        ] {
            let reported = scripted.change(sql);
            assert!(rows.is_none_or(|rows| reported.rows() == rows), "{sql}: {} rows", reported.rows());
        }
    }
}

/// Each ALTER TABLE for constraints, by itself and beside renames and changed rows.
#[test]
fn constraints_that_come_and_go_change_no_row() {
    for end in ["", " WITHOUT ROWID"] {
        let mut scripted = Scripted::new(|db| {
            db.execute_batch(&format!(
                "CREATE TABLE t(k TEXT PRIMARY KEY, b CONSTRAINT has_b NOT NULL DEFAULT 5, c, UNIQUE(b, k)){end};
                 WITH n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 900)
                 INSERT INTO t SELECT hex(i * 37) || i, i, i * 0.5 FROM n"
            ))
            .unwrap();
        });
        for (sql, rows) in [
            ("ALTER TABLE t ALTER COLUMN c SET NOT NULL", 0),
            ("ALTER TABLE t ADD COLUMN d REAL CONSTRAINT small CHECK (d < 10) DEFAULT 7", 0),
            ("ALTER TABLE t ADD COLUMN e TEXT NOT NULL ON CONFLICT REPLACE DEFAULT 'x, y)'", 0),
            ("UPDATE t SET d = 8 WHERE b % 9 = 0", 100),
            ("ALTER TABLE t DROP CONSTRAINT has_b", 0),
            (
                "ALTER TABLE t DROP CONSTRAINT small; UPDATE t SET d = 99, b = NULL WHERE b BETWEEN 11 AND 20",
                10,
            ),
            ("ALTER TABLE t ADD CONSTRAINT \"not, (it\" CHECK (e <> '),')", 0),
            (
                "ALTER TABLE t RENAME COLUMN c TO f; ALTER TABLE t ALTER f DROP NOT NULL; UPDATE t SET f = NULL WHERE b < 4",
                3,
            ),
            (
                "BEGIN; ALTER TABLE t DROP CONSTRAINT \"not, (it\"; ALTER TABLE t RENAME TO u;
              ALTER TABLE u ALTER e DROP NOT NULL; DELETE FROM u WHERE b > 890; COMMIT",
                10,
            ),
            ("ALTER TABLE u DROP COLUMN e; UPDATE u SET f = 1 WHERE b = 100", 1),
        ] {
            let reported = scripted.change(sql);
            assert_eq!(reported.rows(), rows, "{sql}");
        }
    }
}

/// The page at 1 GiB belongs to nobody: trees and chains go on behind it. Pages that no table has make the file so long.
#[test]
fn trees_and_chains_cross_the_lock_page() {
    const PAGE_SIZE: u32 = 65536;
    const LOCK_PAGE: u32 = (1 << 30) / PAGE_SIZE + 1;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.db");
    let db = Connection::open(&path).unwrap();
    db.execute_batch(&format!(
        "PRAGMA page_size = {PAGE_SIZE};
         CREATE TABLE t(id INTEGER PRIMARY KEY, body);
         CREATE TABLE w(k TEXT PRIMARY KEY, body) WITHOUT ROWID;
         INSERT INTO t VALUES (1, 'first'); INSERT INTO w VALUES ('first', 1)"
    ))
    .unwrap();
    drop(db);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[28..32].copy_from_slice(&(LOCK_PAGE - 8).to_be_bytes());
    std::fs::write(&path, &bytes).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(u64::from(LOCK_PAGE - 8) * u64::from(PAGE_SIZE)).unwrap();
    let mut scripted = Scripted::watch(dir, Connection::open(&path).unwrap());
    let inserted = scripted.change(
        "INSERT INTO t VALUES (2, randomblob(900000)), (3, randomblob(300));
         INSERT INTO w VALUES ('second', randomblob(900000)), ('third', randomblob(300))",
    );
    assert_eq!(inserted.rows(), 4);
    let pages: u32 = scripted.db.query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap();
    assert!(pages > LOCK_PAGE + 8, "{pages} pages");
    let overwritten = scripted.change(
        "UPDATE t SET body = CAST(substr(body, 1, 899999) || x'00' AS BLOB) WHERE id = 2;
         UPDATE w SET body = CAST(substr(body, 1, 899999) || x'00' AS BLOB) WHERE k = 'second'",
    );
    assert_eq!(overwritten.rows(), 2);
    assert_eq!(scripted.change("DELETE FROM t WHERE id > 1; DELETE FROM w").rows(), 5);
}
