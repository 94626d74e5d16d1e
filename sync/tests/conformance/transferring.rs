//! A database taken whole to a server that speaks SQL.

use litekeep_sync::Kind;
use litekeep_sync::transfer::Parts;

use crate::scene::Scene;
use crate::server::{self, server};
use crate::taking::{copied, is_kept, tables};

#[test]
fn a_database_goes_with_its_keys_and_leaves_nothing_of_ours() {
    let scene = Scene::new(
        "whole_once",
        "CREATE TABLE items(id INTEGER PRIMARY KEY, whose TEXT NOT NULL REFERENCES orders, n INT, price DECIMAL(8,2), body BLOB,
               FOREIGN KEY (n, whose) REFERENCES stock(n, whose) ON DELETE CASCADE);
             CREATE TABLE orders(code TEXT PRIMARY KEY, at DATETIME, note TEXT DEFAULT 'none');
             CREATE TABLE stock(n INT, whose TEXT, PRIMARY KEY (n, whose)) WITHOUT ROWID;
             CREATE UNIQUE INDEX by_body ON items(body); CREATE INDEX by_price ON items(price DESC);
             INSERT INTO orders SELECT 'o' || i, '2026-11-' || printf('%02d', i), NULL FROM (SELECT 1 AS i UNION SELECT 2 UNION SELECT 30);
             INSERT INTO stock VALUES (1, 'o1'), (2, 'o30');
             INSERT INTO items VALUES (1, 'o1', 1, 1.25, x'00ff'), (2, 'o30', 2, NULL, x''), (7, 'o2', NULL, 3, NULL);",
    );
    let copied = copied(&scene, Parts::All).unwrap();
    assert_eq!((&copied.refused[..], &copied.failed[..], copied.resumed), (&[][..], &[][..], false));
    let found = copied.found.unwrap();
    assert_eq!((found.rows, found.is_equal()), (8, true), "{found:?}");
    let counts = [("orders".to_owned(), 3), ("stock".to_owned(), 2), ("items".to_owned(), 3)];
    assert_eq!(copied.tables, counts);
    scene.assert_equal(&tables(&scene), &server());
    assert!(!is_kept(&scene));
    // The keys are those of SQLite, and numbers go on.
    let run = |sql: &str| server().query_in("whole_once", &server::quoted(sql));
    run("INSERT INTO items(whose) VALUES ('o1')").unwrap();
    run("INSERT INTO items(whose, n, body) VALUES ('o3', NULL, NULL)").unwrap_err();
    run("INSERT INTO items(whose, n, body) VALUES ('o1', 2, NULL)").unwrap_err();
    run("DELETE FROM stock").unwrap();
    let left = run("SELECT id FROM items ORDER BY id").unwrap();
    let left: Vec<String> = left.into_iter().map(|row| row[0].clone().unwrap()).collect();
    assert_eq!(left, ["7", "8"]);
}

#[test]
fn tables_come_first_and_rows_later() {
    let scene = Scene::new(
        "parts",
        "CREATE TABLE a(id INTEGER PRIMARY KEY, b INT REFERENCES b(id)); CREATE TABLE b(id INTEGER PRIMARY KEY);
         INSERT INTO b VALUES (1), (2); INSERT INTO a VALUES (1, 2), (2, 1)",
    );
    let missing = copied(&scene, Parts::Rows).unwrap_err();
    assert_eq!(missing.kind(), Kind::Invalid);
    assert!(missing.to_string().contains("there is no table for `b`"), "{missing}");
    let made = copied(&scene, Parts::Schema).unwrap();
    assert_eq!((made.found, made.failed), (None, vec![]));
    let count = || server().query_in("parts", "SELECT count(*) FROM a").unwrap()[0][0].clone();
    assert_eq!(count().as_deref(), Some("0"));
    assert!(copied(&scene, Parts::Rows).unwrap().found.unwrap().is_equal());
    scene.assert_equal(&tables(&scene), &server());
    let again = copied(&scene, Parts::All).unwrap_err();
    assert!(again.to_string().contains("has rows, which are not overwritten"), "{again}");
    assert_eq!(count().as_deref(), Some("2"));
    assert!(!is_kept(&scene));
}

#[test]
fn a_row_that_cannot_be_there_is_told_and_the_others_are() {
    let scene = Scene::new(
        "unfit",
        "CREATE TABLE t(id INTEGER PRIMARY KEY, x TEXT);
         INSERT INTO t VALUES (1, 'a'), (2, CAST(x'ff' AS TEXT)), (3, 'c');
         CREATE TABLE c(id INTEGER PRIMARY KEY, t INT REFERENCES t(id)); INSERT INTO c VALUES (1, 2)",
    );
    let copied = copied(&scene, Parts::All).unwrap();
    let refused: Vec<_> = copied.refused.iter().map(|row| (row.table.as_str(), row.key.join(" "))).collect();
    assert_eq!(refused, [("t", "i2".to_owned())]);
    let found = copied.found.unwrap();
    assert!(found.is_equal() && found.told.is_empty(), "{found:?}");
    // Its parent is not there, so the key cannot be.
    assert_eq!(copied.failed.len(), 1, "{:?}", copied.failed);
    assert!(copied.failed[0].contains("FOREIGN KEY"), "{:?}", copied.failed);
}
