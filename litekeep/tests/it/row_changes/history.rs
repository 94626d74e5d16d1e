//! `history` of rows and single rows: under other names, by every kind of key, and from a log that is not whole or was copied.

use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

use super::{lines, replicate, shop, txids};
use crate::Place;

/// How many events a row has.
fn life(place: &Place, table: &str, key: &str) -> usize {
    let arguments = ["history", "app.db", "--table", table, "--key", key, "--json"];
    lines(&place.run(&arguments).succeeded().stdout).len()
}

#[test]
fn the_life_of_a_row_goes_on_under_another_name_of_its_table() {
    let place = Place::new();
    shop(
        &place,
        &[
            "CREATE TABLE a(id INTEGER PRIMARY KEY, x); INSERT INTO a VALUES(1, 1), (2, 2)",
            "UPDATE a SET x = 5 WHERE id = 1",
            "ALTER TABLE a RENAME TO b; UPDATE b SET x = 6 WHERE id = 1",
            "ALTER TABLE b RENAME TO c; CREATE TABLE a(id INTEGER PRIMARY KEY, y)",
            "UPDATE c SET x = 7 WHERE id = 1; INSERT INTO a VALUES(1, 'another')",
        ],
    );
    assert_eq!(life(&place, "c", "1"), 4);
    assert_eq!(life(&place, "c", "2"), 1);
    let none = place.run(&["history", "app.db", "--table", "c", "--key", "3"]).succeeded().stderr;
    assert!(none.contains("no row of `c` with the key 3 has changed"), "{none}");
    let touched = place.run(&["history", "app.db", "--table", "c", "--json"]).succeeded().stdout;
    let lines = lines(&touched);
    let rows: Vec<_> = lines.iter().filter_map(|line| line["tables"][0]["table"].as_str()).collect();
    assert_eq!(rows, ["a", "a", "b", "c"], "{touched}");
}

/// The key was one condition for all time, and no column of that name was an error.
#[test]
fn the_life_of_a_row_goes_on_under_another_name_of_its_key() {
    let place = Place::new();
    shop(
        &place,
        &[
            "CREATE TABLE a(id INTEGER PRIMARY KEY, x); INSERT INTO a VALUES(1, 1), (2, 2)",
            "UPDATE a SET x = 5 WHERE id = 1",
            "ALTER TABLE a RENAME COLUMN id TO uid; UPDATE a SET x = 6 WHERE uid = 1",
            "ALTER TABLE a RENAME TO b; ALTER TABLE b ADD COLUMN id; UPDATE b SET x = 7, id = 2 WHERE uid = 1",
            "ALTER TABLE b RENAME COLUMN x TO y; DELETE FROM b WHERE uid = 1",
            "CREATE TABLE a(id TEXT); INSERT INTO a VALUES('1')",
        ],
    );
    for (table, key, expected) in [("b", "1", 5), ("b", "uid=1", 5), ("b", "2", 1), ("b", "y=7", 2)] {
        assert_eq!(life(&place, table, key), expected, "{table} {key}");
    }
    // Another column that got the name later.
    assert_eq!(life(&place, "b", "id=2"), 2, "as it was, and as it went");
    let wrong = place.run(&["history", "app.db", "--table", "b", "--key", "gone=1"]);
    wrong.failed_with(&["no such column: `b` has no `gone`", "its columns are uid, y, id"]);
    let first = txids(&place)[0].clone();
    let changes = ["changes", "app.db", "--from", &first, "--table", "a", "--where", "uid = 1"];
    let ran = place.run(&changes);
    assert!(ran.code == 2 && ran.stderr.contains("the columns of `a` are id, x then"), "{}", ran.stderr);
}

#[test]
fn every_kind_of_key_can_be_written() {
    let place = Place::new();
    shop(
        &place,
        &["CREATE TABLE names(name TEXT PRIMARY KEY COLLATE NOCASE); INSERT INTO names VALUES('x,y'), ('Ann'), ('O''Neil'), ('a=b');
           CREATE TABLE blobs(k BLOB PRIMARY KEY); INSERT INTO blobs VALUES(x'00ff');
           CREATE TABLE pairs(a, b, PRIMARY KEY(a, b)); INSERT INTO pairs VALUES('x,y', 2), ('it''s', 3)"],
    );
    for (table, key) in [
        ("names", "x,y"),
        ("names", "name='x,y'"),
        ("names", "'x,y'"),
        ("names", "ann"),
        ("names", "O'Neil"),
        ("names", "'a=b'"),
        ("blobs", "x'00ff'"),
        ("blobs", "k=X'00FF'"),
        ("pairs", "a='x,y',b=2"),
        ("pairs", "a=it's,b=3"),
        ("pairs", "a='it''s',b=3"),
    ] {
        assert_eq!(life(&place, table, key), 1, "{table} {key}");
    }
    // A condition compares as the column does, too.
    let first = txids(&place)[0].clone();
    let diff = ["diff", "app.db", "--from", &first, "--table", "names", "--where", "name = 'ANN'"];
    assert!(place.run(&diff).succeeded().stdout.contains("1 inserted"));
    let wrong = ["diff", "app.db", "--from", &first, "--table", "names", "--where", "nam = 'ANN'"];
    let refused = place.run(&wrong).failed_with(&["no such column: nam"]);
    assert!(!refused.stderr.contains("SELECT"), "{}", refused.stderr);
}

#[test]
fn a_full_text_index_is_named_with_the_table_that_has_its_rows() {
    let place = Place::new();
    shop(&place, &["CREATE VIRTUAL TABLE words USING fts5(body); INSERT INTO words VALUES('fox')"]);
    let first = txids(&place)[0].clone();
    let parts = ["`words` is a virtual table", "name `words_content`"];
    place.run(&["diff", "app.db", "--from", &first, "--table", "words"]).failed_with(&parts);
    place.run(&["history", "app.db", "--table", "words"]).failed_with(&parts);
}

fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

#[test]
fn what_is_before_a_gap_is_told() {
    let place = Place::new();
    shop(
        &place,
        &[
            "DELETE FROM orders WHERE id = 1",
            "DELETE FROM orders WHERE id = 2",
            "DELETE FROM orders WHERE id = 3",
        ],
    );
    let txids = txids(&place);
    let lost = &txids[txids.len() - 2];
    for file in files(&place.path("app.db-backup")) {
        let name = file.file_name().unwrap().to_string_lossy();
        if name.ends_with(".pack") || name.starts_with(lost.as_str()) {
            fs::remove_file(&file).unwrap();
        }
    }
    // Names are looked for up to there, too.
    for more in [&["--rows"][..], &["--table", "orders"], &["--table", "orders", "--key", "1"]] {
        let ran = place.run(&[&["history", "./app.db-backup", "--json"], more].concat());
        assert_eq!((ran.code, lines(&ran.stdout).len()), (2, 1), "{more:?}: {}{}", ran.stdout, ran.stderr);
        assert!(ran.stderr.contains(lost.as_str()), "{}", ran.stderr);
    }
}

/// Copies have other modification times.
#[test]
fn moments_are_those_of_the_files_in_a_copy() {
    let place = Place::new();
    let db = shop(&place, &["DELETE FROM orders WHERE id = 1"]);
    let (from, to) = {
        std::thread::sleep(Duration::from_millis(5));
        db.execute_batch("DELETE FROM orders WHERE id = 2").unwrap();
        replicate(&place);
        let history = lines(&place.run(&["history", "app.db", "--rows", "--json"]).succeeded().stdout);
        let time = |nth: usize| history[nth]["time"].as_str().unwrap().to_owned();
        (time(history.len() - 2), time(history.len() - 1))
    };
    let diff = || {
        let arguments = ["diff", "./app.db-backup", "--from", &from, "--to", &to, "--json"];
        place.run(&arguments).succeeded().stdout
    };
    let before = diff();
    assert_eq!(lines(&before).len(), 2, "{before}");
    for file in files(&place.path("app.db-backup")) {
        let modified = file.metadata().unwrap().modified().unwrap();
        let later = modified + Duration::from_secs(3600);
        File::options().write(true).open(file).unwrap().set_modified(later).unwrap();
    }
    assert_eq!(diff(), before);
}

/// The first destination that had the later moment won, although it did not have the earlier one.
#[test]
fn the_destination_is_taken_that_has_both_moments() {
    let place = Place::new();
    let db = shop(&place, &["UPDATE orders SET what = 'x' WHERE id = 1"]);
    let first = txids(&place)[0].clone();
    let toml = "[[database]]\npath = \"app.db\"\nbackup = [\"begun-later\", \"app.db-backup\"]\n";
    fs::write(place.path("litekeep.toml"), toml).unwrap();
    db.execute_batch("DELETE FROM orders WHERE id = 2").unwrap();
    place.run(&["replicate", "-once"]).succeeded();
    let diff = place.run(&["diff", "app.db", "--from", &first, "--json"]).succeeded().stdout;
    assert_eq!(lines(&diff).len(), 3, "{diff}");
    let undo = ["undo", "app.db", "--from", &first, "--table", "orders", "--dry-run"];
    place.run(&undo).succeeded();
    let rows = ["restore", "app.db", "--table", "orders", "-txid", &first, "--dry-run"];
    place.run(&rows).succeeded();
    for arguments in [
        &["history", "app.db", "--rows", "--json", "--from", &first][..],
        &["changes", "app.db", "--from", &first],
    ] {
        let told = place.run(arguments).succeeded().stdout;
        assert_eq!(lines(&told).len(), 2, "{told}");
    }
    let by_hand = ["changes", "app.db", "--to", "e.jsonl", "--position", "p", "--from", &first, "--json"];
    assert_eq!(place.run(&by_hand).succeeded().json()["events"], 2);
}
