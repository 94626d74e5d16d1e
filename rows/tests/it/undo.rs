//! Goal: an undo takes back what the changes did and nothing else, whatever rowids, tables and columns were given again. Method: as
//! in `scripts`.

use litekeep_rows::Selection;
use litekeep_rows::undo::{Options, Undo};
use litekeep_sql::RowEditor;
use rusqlite::Connection;

use crate::scripts::{States, count, reasons, tables};

/// SQLite gives rowids again when the last rows are gone.
#[test]
fn rows_written_since_stay_though_they_have_the_rowids_of_deleted_ones() {
    let states = States::new(&[
        "CREATE TABLE users(id TEXT PRIMARY KEY, name); INSERT INTO users VALUES('A', 'a'), ('B', 'b'), ('C', 'c')",
        "DELETE FROM users",
        "INSERT INTO users VALUES('X', 'x'), ('Y', 'y')",
    ]);
    let (done, path) = states.undo((2, 4), &tables(&["users"]), true);
    let counts = done.tables["users"];
    assert_eq!((counts.inserted, counts.updated, done.conflict_count), (3, 0, 0), "{done:?}");
    assert_eq!(
        ["users", "users WHERE (id, name) IN (VALUES('X', 'x'), ('Y', 'y'))"].map(|from| count(&path, from)),
        [5, 2]
    );
}

/// The same rows in another order have other rowids.
#[test]
fn a_row_that_nobody_touched_is_not_lost_where_all_were_written_anew() {
    let states = States::new(&[
        "CREATE TABLE u(id TEXT PRIMARY KEY, n); INSERT INTO u VALUES('C', 1), ('D', 2)",
        "DELETE FROM u; INSERT INTO u VALUES('D', 2), ('X', 3), ('C', 1)",
        "UPDATE u SET n = 20 WHERE id = 'D'",
    ]);
    let (done, path) = states.undo((2, 3), &Selection::default(), false);
    let counts = done.tables["u"];
    assert_eq!((counts.deleted, counts.inserted, done.conflict_count), (1, 0, 0), "{done:?}");
    let found = ["u", "u WHERE id = 'C' AND n = 1", "u WHERE id = 'D' AND n = 20"];
    assert_eq!(found.map(|from| count(&path, from)), [2, 1, 1]);
}

/// REPLACE deletes a row and inserts it under another rowid.
#[test]
fn a_replaced_row_gets_its_old_values() {
    let states = States::new(&[
        "CREATE TABLE u(id TEXT PRIMARY KEY, state, n); INSERT INTO u VALUES('C', 'open', 1), ('D', 'open', 2), ('E', 'open', 3)",
        "REPLACE INTO u VALUES('C', 'done', 1), ('D', 'done', 2)",
        "UPDATE u SET n = 10 WHERE id = 'C'",
    ]);
    // The condition is that of one of its halves.
    for condition in [None, Some("state = 'done'".to_owned())] {
        let wanted = Selection { condition, ..tables(&["u"]) };
        for keep_new in [false, true] {
            let (done, path) = states.undo((2, 3), &wanted, keep_new);
            assert_eq!((done.tables["u"].updated, done.conflict_count), (2, 0), "{done:?}");
            let found = ["u", "u WHERE state = 'open'", "u WHERE id = 'C' AND n = 10"];
            assert_eq!(found.map(|from| count(&path, from)), [3, 3, 1]);
        }
    }
}

#[test]
fn a_deleted_row_comes_back_when_the_one_with_its_rowid_was_changed_since() {
    let states = States::new(&[
        "CREATE TABLE u(id TEXT PRIMARY KEY, n); INSERT INTO u VALUES('A', 1), ('B', 2)",
        "DELETE FROM u WHERE id = 'B'; INSERT INTO u VALUES('N', 3)",
        "UPDATE u SET n = 30 WHERE id = 'N'",
    ]);
    let (done, path) = states.undo((2, 3), &Selection::default(), false);
    assert_eq!(reasons(&done), ["u: it was changed since"]);
    assert_eq!(done.tables["u"].inserted, 1, "{done:?}");
    let found = ["u", "u WHERE id = 'B' AND n = 2", "u WHERE id = 'N' AND n = 30"];
    assert_eq!(found.map(|from| count(&path, from)), [3, 1, 1]);
    // Of each row the condition is asked by itself.
    let wanted = Selection { condition: Some("n > 2".to_owned()), ..tables(&["u"]) };
    let (done, path) = states.undo((2, 3), &wanted, false);
    assert_eq!((done.conflict_count, count(&path, "u")), (1, 2), "{done:?}");
}

/// Nothing tells whether a row without a key is another one now.
#[test]
fn a_new_row_without_a_key_is_not_overwritten() {
    let states = States::new(&[
        "CREATE TABLE log(msg); INSERT INTO log VALUES('one'), ('two'), ('six'); CREATE TABLE part(a, b, PRIMARY KEY(a, b));
         INSERT INTO part VALUES(1, NULL), (2, NULL)",
        "DELETE FROM log; DELETE FROM part",
        "INSERT INTO log VALUES('three'); INSERT INTO part VALUES(3, NULL)",
    ]);
    let wanted = tables(&["log", "part"]);
    let (done, path) = states.undo((2, 4), &wanted, true);
    let why = "it has no key: either it was changed, or it was deleted and a new row has its rowid; --exact gives it its old values";
    let told = [format!("log: {why}"), format!("part: {why}")];
    assert!(done.conflict_count == 2 && told.iter().all(|told| reasons(&done).contains(told)), "{done:?}");
    let found = ["log", "log WHERE msg IN ('three', 'two', 'six')", "part", "part WHERE a = 3"];
    assert_eq!(found.map(|from| count(&path, from)), [3, 3, 2, 1]);
    let (done, path) = states.undo((2, 4), &wanted, false);
    assert_eq!(done.conflict_count, 0, "{done:?}");
    assert_eq!(
        ["log", "log WHERE msg = 'three'", "part WHERE a < 3"].map(|from| count(&path, from)),
        [3, 0, 2]
    );
}

/// One that stands where it stood is not one of those that come back elsewhere.
#[test]
fn rows_that_are_all_the_same_come_back_in_their_number() {
    let states = States::new(&[
        "CREATE TABLE log(msg); INSERT INTO log VALUES('x'), ('x'), ('x'), ('x')",
        "DELETE FROM log",
        "INSERT INTO log VALUES('new'), ('newer')",
    ]);
    let (done, path) = states.undo((2, 3), &Selection::default(), false);
    assert_eq!((done.conflict_count, count(&path, "log WHERE msg = 'x'")), (0, 4), "{done:?}");
    // Once only.
    let again = states.undo_in(&path, (2, 3), &Selection::default(), false);
    assert!(again.is_nothing() && count(&path, "log") == 6, "{again:?}");
}

/// Its one column that was changed is as it was, and the others are those of another row.
#[test]
fn a_row_without_a_key_is_as_before_only_as_a_whole() {
    let states = States::new(&[
        "CREATE TABLE log(msg, n); INSERT INTO log VALUES('one', NULL)",
        "UPDATE log SET n = 1",
        "DELETE FROM log; INSERT INTO log VALUES('two', NULL)",
    ]);
    let (done, path) = states.undo((2, 3), &Selection::default(), false);
    assert_eq!(reasons(&done), ["log: it was changed since"]);
    assert_eq!(count(&path, "log WHERE msg = 'two'"), 1);
}

#[test]
fn a_row_that_gets_another_rowid_must_refer_to_something_too() {
    let states = States::new(&[
        "CREATE TABLE acc(id INTEGER PRIMARY KEY, n); CREATE TABLE log(acc REFERENCES acc, what);
         INSERT INTO acc VALUES(1, 1), (2, 2); INSERT INTO log VALUES(1, 'a'), (1, 'b')",
        "DELETE FROM log",
        "INSERT INTO log VALUES(2, 'c'), (2, 'd'); DELETE FROM acc WHERE id = 1",
    ]);
    let undo = Undo::of(states.comparison(2, 3), &Selection::default()).unwrap();
    let path = states.state(4);
    let options = Options { write: true, keep_new: false };
    let refused = undo.apply(&RowEditor::open(&path).unwrap(), options).unwrap_err().to_string();
    assert!(refused.contains("2 rows would refer to rows that are not there"), "{refused}");
    assert_eq!(count(&path, "log"), 2);
}

#[test]
fn numbers_of_a_table_that_comes_back_are_not_given_again() {
    let states = States::new(&[
        "CREATE TABLE a(id INTEGER PRIMARY KEY AUTOINCREMENT, x); INSERT INTO a(x) VALUES('u'), ('v'), ('w');
         DELETE FROM a WHERE id > 1; CREATE TABLE b(id INTEGER PRIMARY KEY AUTOINCREMENT); INSERT INTO b VALUES(7)",
        "DROP TABLE a",
    ]);
    for wanted in [Selection::default(), tables(&["a"])] {
        let (done, path) = states.undo((2, 3), &wanted, false);
        assert_eq!((done.brought_back, count(&path, "a")), (1, 1), "{done:?}");
        let db = Connection::open(&path).unwrap();
        db.execute_batch("INSERT INTO a(x) VALUES('new'); INSERT INTO b DEFAULT VALUES").unwrap();
        assert_eq!((count(&path, "a WHERE id = 4"), count(&path, "b WHERE id = 8")), (1, 1));
    }
}

#[test]
fn a_name_that_is_taken_stops_the_one_table_only() {
    let states = States::new(&[
        "CREATE TABLE t1(id INTEGER PRIMARY KEY, x); INSERT INTO t1 VALUES(1, 1), (2, 2); CREATE TABLE none(x);
         CREATE TABLE other(id INTEGER PRIMARY KEY); INSERT INTO other VALUES(1)",
        "DROP TABLE t1; DROP TABLE none; DELETE FROM other",
        "CREATE VIEW t1 AS SELECT * FROM other; CREATE VIEW none AS SELECT 1",
    ]);
    let (done, path) = states.undo((2, 3), &Selection::default(), false);
    assert_eq!((done.tables["other"].inserted, done.stay, done.conflict_count), (1, 2, 2), "{done:?}");
    assert!(
        reasons(&done)[0].starts_with("t1: the table cannot be made again: view t1 already exists (2 rows)"),
        "{done:?}"
    );
    let note = "the table `none` was dropped, and cannot be made again: view none already exists; `litekeep restore DB -o FILE";
    assert!(done.notes.iter().any(|n| n.starts_with(note)), "{done:?}");
    assert_eq!(count(&path, "other"), 1);
}

#[test]
fn more_rows_than_memory_is_given_are_refused() {
    let states = States::new(&[
        "CREATE TABLE w(a TEXT PRIMARY KEY, b, c, d); WITH n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<1000)
         INSERT INTO w SELECT i, 'some text', i, NULL FROM n",
        "DELETE FROM w",
    ]);
    let held = |most: usize| Undo::within(most, states.comparison(2, 3), &Selection::default());
    assert_eq!(held(200_000).unwrap().rows(), 1000);
    let refused = held(40_000).unwrap_err();
    assert!(refused.to_string().contains("take more than"), "{refused}");
    assert!(refused.hint().unwrap_or_default().contains("diff --undo-sql"), "{refused:?}");
}

/// SQLite gives the page where the one began to the other.
#[test]
fn a_table_in_the_place_of_another_is_another() {
    for create in [
        "CREATE TABLE tokens(id INTEGER PRIMARY KEY, secret TEXT, scope TEXT)",
        "CREATE TABLE \"tokens\"(id INTEGER PRIMARY KEY, secret TEXT, scope TEXT)",
        "CREATE TABLE \"tokens\"(id INTEGER PRIMARY KEY, user TEXT, note TEXT)",
    ] {
        let drop = format!("DROP TABLE sessions; {create}; INSERT INTO tokens VALUES(1, 's1', 'all')");
        let states = States::new(&[
            "CREATE TABLE sessions(id INTEGER PRIMARY KEY, user TEXT, note TEXT); INSERT INTO sessions VALUES(1, 'u1', 'n1')",
            &drop,
        ]);
        let (done, path) = states.undo((2, 3), &tables(&["sessions"]), true);
        assert_eq!((done.conflict_count, done.brought_back), (0, 1), "{done:?}");
        assert_eq!(count(&path, "sessions WHERE user = 'u1' AND note = 'n1'"), 1, "{create}");
        let token: String =
            Connection::open(&path).unwrap().query_row("SELECT * FROM tokens", (), |row| row.get(1)).unwrap();
        assert_eq!(token, "s1", "{create}");
        states.go_forth_and_back(2, 3);
    }
}

#[test]
fn a_column_in_the_place_of_another_is_another() {
    let states = States::new(&[
        "CREATE TABLE c(id INTEGER PRIMARY KEY, name, phone TEXT); INSERT INTO c VALUES(1, 'a', '555'), (2, 'b', '556');
         CREATE TABLE k(code TEXT PRIMARY KEY, v); INSERT INTO k VALUES('x', 1)",
        "ALTER TABLE c DROP COLUMN phone; ALTER TABLE c ADD COLUMN email TEXT",
        "DROP TABLE k; CREATE TABLE k(kode TEXT PRIMARY KEY, v); INSERT INTO k VALUES('y', 1)",
        "ALTER TABLE c RENAME COLUMN email TO mail; UPDATE c SET mail = 'a@b' WHERE id = 1",
    ]);
    let (done, path) = states.undo((2, 3), &Selection::default(), false);
    let why = "c: the table was made anew, and its rows cannot be told apart (2 rows)";
    assert_eq!(reasons(&done), [why, why]);
    for (note, is_told) in [("`phone` of `c` was dropped", true), ("is new", true), ("was renamed", false)] {
        assert_eq!(done.notes.iter().any(|n| n.contains(note)), is_told, "{note}: {done:?}");
    }
    assert_eq!(count(&path, "c WHERE mail = 'a@b'"), 1);
    // Nobody can tell, and nothing is lost, where there was nothing.
    let (done, path) = states.undo((4, 5), &Selection::default(), false);
    assert_eq!((done.conflict_count, count(&path, "c WHERE mail IS NULL")), (0, 2), "{done:?}");
    for (from, to) in [(2, 3), (3, 4), (2, 4)] {
        states.go_forth_and_back(from, to);
    }
}
