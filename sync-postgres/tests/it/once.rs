//! A database of PostgreSQL taken whole into a file, once.

use litekeep_sync::transfer::Parts;
use rusqlite::Connection;

use crate::pull_scene::Scene;
use crate::server::server;

const SCHEMA: &str = "
    CREATE TABLE authors(id serial PRIMARY KEY, name varchar(20) NOT NULL DEFAULT 'nobody', born timestamptz DEFAULT now(),
      active boolean DEFAULT true, tags text[] DEFAULT '{a,b}', rank numeric(6,2) DEFAULT 1.50, token uuid DEFAULT gen_random_uuid());
    CREATE TABLE books(isbn text PRIMARY KEY, author int NOT NULL REFERENCES authors(id) ON DELETE CASCADE,
      next text REFERENCES books(isbn) DEFERRABLE, shelf int, place int, UNIQUE (shelf, place), CHECK (shelf > 0));
    CREATE INDEX by_author ON books(author);
    INSERT INTO authors(name) SELECT 'n' || i FROM generate_series(1, 12000) i;
    INSERT INTO books SELECT 'b' || i, i, CASE WHEN i % 2 = 0 THEN 'b' || (i - 1) END, i, 7 FROM generate_series(1, 9000) i;";

#[test]
fn a_copy_has_the_rules_of_the_server() {
    let scene = Scene::new("once", SCHEMA);
    let mut pull = scene.pulling();
    let copied = scene.runtime.block_on(pull.copy_once(Parts::All, |_| ())).unwrap();
    let found = copied.found.unwrap();
    assert_eq!((found.rows, found.is_equal()), (21_000, true), "{found:?}");
    assert_eq!((&copied.failed[..], &copied.refused[..], copied.resumed), (&[][..], &[][..], false));
    assert_eq!(copied.tables, [("authors".to_owned(), 12_000), ("books".to_owned(), 9_000)]);
    let notes: Vec<String> = copied.notes.iter().map(ToString::to_string).collect();
    assert_eq!(
        notes,
        [
            "authors.token: its default `gen_random_uuid()` is not translated",
            "books: its CHECK constraints are not translated"
        ]
    );
    let db = Connection::open(scene.database()).unwrap();
    db.execute_batch("PRAGMA foreign_keys = 1; INSERT INTO authors(id) VALUES (NULL)").unwrap();
    let row = "SELECT id || name || active || tags || rank || (born GLOB '20??-??-??T??:??:??.???000Z') FROM authors WHERE id > 12000";
    let row: String = db.query_row(row, (), |row| row.get(0)).unwrap();
    assert_eq!(row, r#"12001nobody1["a","b"]1.501"#);
    let refused = |sql: &str| db.execute_batch(sql).unwrap_err().to_string();
    assert!(refused("INSERT INTO books VALUES ('x', 20000, NULL, 1, 1)").contains("FOREIGN KEY"));
    assert!(refused("INSERT INTO books VALUES ('x', 1, NULL, 5, 7)").contains("UNIQUE"));
    db.execute_batch("DELETE FROM authors WHERE id = 9000").unwrap();
    let gone =
        db.query_row("SELECT count(*) FROM books WHERE isbn = 'b9000'", (), |row| row.get::<_, i64>(0));
    assert_eq!(gone.unwrap(), 0);
    // The server keeps nothing for it, and needs no rights to changes.
    assert!(server().query_in("once", "SELECT 1 FROM pg_publication").unwrap().is_empty());
}

#[test]
fn one_that_was_interrupted_takes_the_present_state() {
    let scene = Scene::new("once_again", SCHEMA);
    let (send, mut told) = tokio::sync::mpsc::unbounded_channel();
    let mut pull = scene.pulling();
    // Its end waits for a transaction that the copy was in.
    let interrupted = tokio::runtime::Runtime::new().unwrap();
    interrupted.block_on(async {
        let copying = pull.copy_once(Parts::All, |rows| send.send(rows).unwrap());
        tokio::pin!(copying);
        loop {
            tokio::select! {
                biased;
                Some(rows) = told.recv() => if rows > 12_000 { break },
                ended = &mut copying => panic!("it came to its end: {ended:?}"),
            }
        }
    });
    drop(interrupted);
    let sql = "DELETE FROM authors WHERE id > 11000; UPDATE authors SET name = 'other' WHERE id < 50; INSERT INTO books VALUES ('new', 1)";
    server().query_in("once_again", sql).unwrap();
    let copied = scene.runtime.block_on(scene.pulling().copy_once(Parts::All, |_| ())).unwrap();
    assert!(copied.resumed && copied.found.as_ref().unwrap().is_equal(), "{copied:?}");
    assert_eq!(copied.tables, [("authors".to_owned(), 11_000), ("books".to_owned(), 9_001)]);
    let counts = "SELECT (SELECT count(*) FROM authors), (SELECT count(*) FROM authors WHERE name = 'other'), (SELECT count(*) FROM books)";
    let counts = scene.rows(&counts.replace("(SELECT", "(SELECT ''||"));
    assert_eq!(counts, [[Some("11000".into()), Some("49".into()), Some("9001".into())]]);
}

#[test]
fn whoever_may_only_read_can_copy() {
    let scene = Scene::new(
        "only_read",
        "CREATE TABLE t(id int PRIMARY KEY); INSERT INTO t VALUES (1), (2);
         DROP ROLE IF EXISTS copier; CREATE ROLE copier LOGIN PASSWORD 'r'; GRANT SELECT ON t TO copier",
    );
    let url = scene.url.replacen("postgres://postgres@", "postgres://copier:r@", 1);
    assert_ne!(url, scene.url);
    let mut pull = scene.pulling_from(&url, &[]);
    let made = scene.runtime.block_on(pull.copy_once(Parts::Schema, |_| ())).unwrap();
    assert!(made.found.is_none());
    assert_eq!(scene.rows("SELECT count(*) || '' FROM t"), [[Some("0".to_owned())]]);
    let copied = scene.runtime.block_on(pull.copy_once(Parts::Rows, |_| ())).unwrap();
    assert_eq!(copied.found.unwrap().rows, 2);
    let again = scene.runtime.block_on(pull.copy_once(Parts::All, |_| ())).unwrap_err();
    assert!(again.to_string().contains("has rows, which are not overwritten"), "{again}");
}
