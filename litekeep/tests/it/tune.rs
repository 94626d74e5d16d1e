//! Goal: `tune` does what persists, only when it is told to, and never rewrites a file. Method: real files before and after.

use rusqlite::Connection;
use serde_json::Value;

use crate::{Place, shapes};

fn tune(place: &Place, arguments: &[&str]) -> Value {
    let tuned = place.run(&[&["tune", "app.db", "--json"], arguments].concat()).succeeded().json();
    shapes::matches("tune", &tuned);
    tuned
}

fn state(tuned: &Value, name: &str) -> String {
    let steps = tuned["databases"][0]["steps"].as_array().unwrap();
    let step =
        steps.iter().find(|step| step["name"] == name).unwrap_or_else(|| panic!("no {name} in {tuned:#}"));
    step["state"].as_str().unwrap().to_owned()
}

#[test]
fn it_shows_first_and_then_does() {
    let place = Place::new();
    let database = Connection::open(place.path("app.db")).unwrap();
    database
        .execute_batch(
            "CREATE TABLE empty(x UNIQUE); CREATE TABLE other(x UNIQUE); CREATE TABLE t(x UNIQUE); WITH n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n WHERE i < 5000)
             INSERT INTO t SELECT i FROM n",
        )
        .unwrap();
    let before = std::fs::read(place.path("app.db")).unwrap();
    let shown = tune(&place, &[]);
    let states = ["page_size", "auto_vacuum", "journal_mode", "statistics"].map(|name| state(&shown, name));
    assert_eq!(states, ["in_place", "by_hand", "planned", "planned"], "{shown:#}");
    assert_eq!(std::fs::read(place.path("app.db")).unwrap(), before, "nothing was touched");
    let text = place.run(&["tune", "app.db"]).succeeded().stdout;
    assert!(text.contains("2 steps to do: litekeep tune app.db --apply"), "{text}");
    assert!(text.contains("PRAGMA foreign_keys = ON;"), "{text}");

    let done = tune(&place, &["--apply"]);
    assert_eq!((state(&done, "journal_mode"), state(&done, "statistics")), ("done".into(), "done".into()));
    let known: i64 = database.query_row("SELECT count(*) FROM sqlite_stat1", (), |row| row.get(0)).unwrap();
    let mode: String = database.query_row("PRAGMA journal_mode", (), |row| row.get(0)).unwrap();
    assert_eq!((mode.as_str(), known), ("wal", 1));
    let again = tune(&place, &["--apply"]);
    assert_eq!(
        (state(&again, "journal_mode"), state(&again, "statistics")),
        ("in_place".into(), "in_place".into())
    );
    assert_eq!(state(&again, "auto_vacuum"), "by_hand", "it never rewrites the file");
}

#[test]
fn an_empty_file_gets_its_layout() {
    let place = Place::new();
    std::fs::write(place.path("app.db"), "").unwrap();
    std::fs::write(place.path("requirements.txt"), "").unwrap();
    let done = tune(&place, &["--apply"]);
    assert_eq!((state(&done, "auto_vacuum"), state(&done, "journal_mode")), ("done".into(), "done".into()));
    let database = Connection::open(place.path("app.db")).unwrap();
    let auto_vacuum: i64 = database.query_row("PRAGMA auto_vacuum", (), |row| row.get(0)).unwrap();
    assert_eq!(auto_vacuum, 2);
    assert_eq!(done["connections"][0]["driver"], "python");
    let line = "connection.execute(\"PRAGMA busy_timeout = 5000\")";
    assert!(done["connections"][0]["lines"][2].as_str().unwrap().starts_with(line), "{done:#}");
}

#[test]
fn a_database_in_use_is_left_for_later() {
    let place = Place::new();
    let database = Connection::open(place.path("app.db")).unwrap();
    database.execute_batch("CREATE TABLE t(x); BEGIN IMMEDIATE; INSERT INTO t VALUES(1)").unwrap();
    let ran = place.run(&["tune", "app.db", "--apply"]);
    ran.failed_with(&["set journal_mode", "locked by another connection", "hint: try again"]);
    place.run(&["tune", "gone.db"]).failed_with(&["`gone.db` does not exist"]);
}
