//! Goal: one command takes a whole database to a server, or from one into a file, compares every value, and overwrites nothing.
//! Method: the real binary and real servers; both sides read by plain SQL.

use litekeep_testkit::mysql::{Flavor, Mysql};
use litekeep_testkit::postgres::Postgres;
use rusqlite::Connection;

use crate::{Place, shapes};

const SQL: &str = "CREATE TABLE authors(id INTEGER PRIMARY KEY, name TEXT NOT NULL, born REAL, photo BLOB);
    CREATE TABLE books(isbn TEXT PRIMARY KEY, author INT NOT NULL REFERENCES authors(id), title TEXT, pages INT);
    CREATE INDEX by_author ON books(author);
    INSERT INTO authors VALUES (1, 'Ada \"A\" O''Hara', 1815.5, x'00ff'), (9007199254740993, 'Zoë', NULL, NULL);
    INSERT INTO books VALUES ('x-1', 1, 'a\\b', 7), ('x-2', 9007199254740993, NULL, NULL);";

fn place() -> Place {
    let place = Place::new();
    Connection::open(place.path("app.db")).unwrap().execute_batch(SQL).unwrap();
    place
}

/// All that the tables hold, as one text.
fn rows(place: &Place, file: &str) -> String {
    let db = Connection::open(place.path(file)).unwrap();
    let sql = "SELECT (SELECT group_concat(id || name || quote(born) || quote(photo), ';') FROM (SELECT * FROM authors ORDER BY id))
        || (SELECT group_concat(isbn || author || quote(title) || quote(pages), ';') FROM (SELECT * FROM books ORDER BY isbn))";
    db.query_row(sql, (), |row| row.get(0)).unwrap()
}

#[test]
fn a_database_goes_to_postgres_and_comes_back_the_same() {
    let server = Postgres::start().unwrap();
    let (place, url) = (place(), server.url("postgres"));
    let plan = place.run(&["copy", "app.db", &url, "--dry-run", "--json"]).succeeded().json();
    shapes::matches("sync plan", &plan);
    assert!(server.query("SELECT 1 FROM authors").is_err());
    let copied = place.run(&["copy", "app.db", &url, "--json"]).succeeded().json();
    shapes::matches("copy", &copied);
    assert_eq!(
        (copied["ok"].as_bool(), copied["compared_rows"].as_u64()),
        (Some(true), Some(4)),
        "{copied:#}"
    );
    server.query("INSERT INTO books VALUES ('x-3', 5, NULL, NULL)").unwrap_err();
    assert!(server.query("SELECT 1 FROM _litekeep_sync").is_err());
    let again = place.run(&["copy", "app.db", &url]);
    again
        .failed_with(&["the table \"authors\" is there and has rows, which are not overwritten", "TRUNCATE"]);

    let back = place.run(&["copy", &url, "sqlite:back.db"]).succeeded();
    assert!(back.stdout.contains("4 rows compared, every value the same"), "{}", back.stdout);
    assert_eq!(rows(&place, "back.db"), rows(&place, "app.db"));
    let db = Connection::open(place.path("back.db")).unwrap();
    let names = "SELECT group_concat(name, ' ') FROM (SELECT name FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%' ORDER BY name)";
    let names: String = db.query_row(names, (), |row| row.get(0)).unwrap();
    assert_eq!(names, "authors books by_author");
    drop(db);
    place.run(&["copy", &url, "back.db"]).failed_with(&["the table `authors` is there and has rows"]);
    // One table under another name.
    let one =
        place.run(&["copy", &url, "one.db", "--table", "people", "--rename", "people=authors"]).succeeded();
    assert!(one.stdout.contains("people: 2 rows"), "{}", one.stdout);
}

#[test]
fn a_database_goes_to_mariadb() {
    let server = Mysql::start(Flavor::Mariadb).unwrap();
    let (place, url) = (place(), server.url("test"));
    server.query("CREATE DATABASE IF NOT EXISTS test").unwrap();
    let copied = place.run(&["copy", "app.db", &url]).succeeded();
    assert!(copied.stdout.contains("4 rows compared, every value the same"), "{}", copied.stdout);
    server.query_in("test", "INSERT INTO books VALUES ('x-3', 5, NULL, NULL)").unwrap_err();
}

#[test]
fn what_is_no_copy_is_told_without_a_password() {
    let place = place();
    let fails = |args: &[&str], words: &[&str]| {
        let ran = place.run(&[&["copy"], args].concat());
        assert!(!ran.stderr.contains("secret"), "{}", ran.stderr);
        ran.failed_with(words);
    };
    fails(&["app.db", "other.db"], &["both are SQLite", "VACUUM INTO 'other.db'"]);
    fails(&["postgres://a:secret@h/d", "mysql://a:secret@h/d"], &["neither is SQLite", "into a file first"]);
    fails(&["app.db", "oracle://a:secret@h/d"], &["`oracle://` is no server that can be copied"]);
    fails(&["absent.db", "postgres://a:secret@127.0.0.1:1/d"], &["there is no `absent.db`", "exchange them"]);
    fails(&["app.db", "postgres://a:secret@127.0.0.1:1/d"], &["127.0.0.1"]);
    fails(&["postgres://a:secret@127.0.0.1:1/d", "new.db"], &["127.0.0.1"]);
    assert!(!place.path("new.db").exists());
    fails(&["app.db", "postgres://a:secret@127.0.0.1:1/d", "--rename", "x"], &["it has no `=`"]);
}
