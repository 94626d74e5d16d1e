//! What is told to people.

use litekeep_sync::{Error, Kind};

use crate::scene::{Scene, server};

const TABLE: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, x TEXT); INSERT INTO t VALUES (1, 'a')";

fn told(error: &Error, words: &str, hint: &str) {
    assert_eq!(error.kind(), Kind::Invalid, "{error}");
    assert!(error.to_string().contains(words), "{error}");
    assert!(error.hint().is_some_and(|said| said.contains(hint)), "{:?}", error.hint());
}

fn error(scene: &Scene, url: &str) -> Error {
    let mut push = scene.pushing_to(url, Default::default());
    scene.push(&mut push).unwrap_err()
}

#[test]
fn who_may_not_is_told_what_to_grant() {
    let scene = Scene::new("rights", TABLE);
    server().query("CREATE ROLE reader LOGIN PASSWORD 'secret'").unwrap();
    let url = |login: &str, database: &str| server().url_with(login, database);
    let wrong = error(&scene, &url("reader:wrong@", "rights"));
    told(&wrong, "connect in postgres://reader@127.0.0.1", "ALTER ROLE \"reader\" LOGIN PASSWORD");
    assert!(!wrong.to_string().contains("wrong"), "{wrong}");
    told(
        &error(&scene, &url("postgres@", "nowhere")),
        "\"nowhere\" does not exist",
        "CREATE DATABASE \"nowhere\"",
    );
    let rights = error(&scene, &url("reader:secret@", "rights"));
    told(
        &rights,
        "permission denied for schema public",
        "GRANT USAGE, CREATE ON SCHEMA public TO \"reader\"",
    );
    // And that is enough.
    server().query_in("rights", "GRANT USAGE, CREATE ON SCHEMA public TO \"reader\"").unwrap();
    let mut push = scene.pushing_to(&url("reader:secret@", "rights"), Default::default());
    scene.push(&mut push).unwrap();
}

#[test]
fn what_is_there_is_not_overwritten() {
    let scene = Scene::new("taken", TABLE);
    let query = |sql: &str| server().query_in("taken", sql).unwrap();
    query("CREATE TABLE t(id int PRIMARY KEY, x text)");
    told(&error(&scene, &scene.url), "its column `id` is integer, not bigint", "CREATE TABLE \"t\"");
    query("ALTER TABLE t ALTER id TYPE bigint, ADD y int NOT NULL");
    told(&error(&scene, &scene.url), "its column `y` wants a value", "CREATE TABLE \"t\"");
    query("ALTER TABLE t ALTER y DROP NOT NULL; INSERT INTO t VALUES (7, 'theirs')");
    told(&error(&scene, &scene.url), "is there and has rows", "TRUNCATE \"t\"");
    query("ALTER TABLE t DROP CONSTRAINT t_pkey; CREATE UNIQUE INDEX ON t(id, x)");
    told(&error(&scene, &scene.url), "has no primary key, and no unique index", "CREATE TABLE \"t\"");
    query("CREATE UNIQUE INDEX ON t(id)");
    assert_eq!(query("SELECT to_regclass('_litekeep_sync')"), [[None]], "nothing was begun");
    query("TRUNCATE t");
    scene.pushed();
    assert_eq!(query("SELECT id, x, y FROM t"), [[Some("1".to_owned()), Some("a".to_owned()), None]]);
}

#[test]
fn two_pushers_of_one_sync_are_told_apart() {
    let scene = Scene::new("fenced", TABLE);
    let (mut first, mut second) = (scene.pushed(), scene.pushed());
    scene.commit("INSERT INTO t VALUES (2, 'b')");
    scene.push(&mut first).unwrap();
    let refused = scene.push(&mut second).unwrap_err();
    assert_eq!(refused.kind(), Kind::Fenced, "{refused}");
    assert_eq!(server().query_in("fenced", "SELECT count(*) FROM t").unwrap()[0][0].as_deref(), Some("2"));
}

#[test]
fn another_history_is_not_gone_on_from() {
    let scene = Scene::new("history", TABLE);
    scene.pushed();
    let other = Scene::with_url(scene.url.clone(), TABLE);
    other.commit("INSERT INTO t VALUES (9, 'other')");
    let error = other.push(&mut other.pushing()).unwrap_err();
    told(&error, "the log has another transaction", "litekeep sync resync orders");
}

#[test]
fn no_answer_and_no_tls_are_told_apart() {
    let scene = Scene::new("silent", TABLE);
    let gone = error(&scene, "postgres://me@127.0.0.1:1/app");
    assert_eq!(gone.kind(), Kind::Unavailable, "{gone}");
    let url = format!("{}?sslmode=verify-full", scene.url);
    told(&error(&scene, &url), "TLS", "sslmode=disable");
}
