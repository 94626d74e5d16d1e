//! Goal: digests and page comparisons see every difference and no other. Method: small databases with one change each.

use std::path::{Path, PathBuf};

use litekeep_testkit::contents::{Digest, differing_pages};
use rusqlite::Connection;

const ROWS: &str = "
    CREATE TABLE t(id INTEGER PRIMARY KEY, a, b);
    CREATE INDEX t_by_a ON t(a);
    CREATE TABLE u(k TEXT PRIMARY KEY, v) WITHOUT ROWID;
    CREATE TABLE \"a \"\"b\"(x);
    INSERT INTO t SELECT value, value * 7 % 100, hex(value) FROM generate_series(1, 2000);
    INSERT INTO u VALUES ('x', 1), ('y', NULL), ('z', x'00');
";

fn database(dir: &Path, name: &str, change: &str) -> PathBuf {
    let path = dir.join(name);
    let db = Connection::open(&path).unwrap();
    let series =
        "WITH RECURSIVE s(value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM s LIMIT 2000) SELECT * FROM s";
    let rows = ROWS.replace("generate_series(1, 2000)", &format!("({series})"));
    db.execute_batch(&format!("PRAGMA journal_mode = wal; {rows} {change}")).unwrap();
    path
}

#[test]
fn digests_tell_databases_apart_by_their_rows() {
    let dir = tempfile::tempdir().unwrap();
    let original = Digest::of(&database(dir.path(), "original", "")).unwrap();
    assert_eq!(original.tables["t"].0, 2000);
    for (n, same) in
        ["VACUUM", "DELETE FROM t WHERE id = 5; INSERT INTO t VALUES (5, 35, hex(5))"].iter().enumerate()
    {
        assert_eq!(Digest::of(&database(dir.path(), &format!("same{n}"), same)).unwrap(), original, "{same}");
    }
    for (n, other) in [
        "UPDATE t SET b = b || 'x' WHERE id = 2000",
        "UPDATE t SET a = CAST(a AS TEXT) WHERE id = 1",
        "UPDATE u SET v = 0 WHERE k = 'y'",
        "DELETE FROM t WHERE id = 1000",
        "INSERT INTO \"a \"\"b\" VALUES (1)",
        "DROP INDEX t_by_a",
        "CREATE TABLE v(x)",
    ]
    .iter()
    .enumerate()
    {
        assert_ne!(
            Digest::of(&database(dir.path(), &format!("other{n}"), other)).unwrap(),
            original,
            "{other}"
        );
    }
}

#[test]
fn pages_are_compared_with_their_wal() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    let original = database(dir.path(), "original", "");
    std::fs::copy(&original, &a).unwrap();
    std::fs::copy(&original, &b).unwrap();
    assert_eq!(differing_pages(&a, &b).unwrap(), Vec::<u32>::new());

    let db = Connection::open(&b).unwrap();
    db.execute_batch("UPDATE u SET v = 2 WHERE k = 'x'").unwrap();
    let changed = differing_pages(&a, &b).unwrap();
    let root: u32 =
        db.query_row("SELECT rootpage FROM sqlite_schema WHERE name = 'u'", [], |row| row.get(0)).unwrap();
    assert!(changed.contains(&root) && changed.len() <= 2, "{changed:?}, the table is at page {root}");

    let pages: u32 = db.query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap();
    db.execute_batch("CREATE TABLE w(x)").unwrap();
    assert!(differing_pages(&a, &b).unwrap().contains(&(pages + 1)), "a page that only one has");
    assert!(differing_pages(&a, Path::new("/nonexistent")).is_err());
}
