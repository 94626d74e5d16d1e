//! What is told to people.

use litekeep_sync::Kind;

use crate::pushers::{TABLE, error, told};
use crate::scene::Scene;
use crate::server::server;

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
fn no_answer_and_no_tls_are_told_apart() {
    let scene = Scene::new("silent", TABLE);
    let gone = error(&scene, "postgres://me@127.0.0.1:1/app");
    assert_eq!(gone.kind(), Kind::Unavailable, "{gone}");
    assert!(gone.hint().is_some_and(|hint| hint.starts_with("nothing listens there")), "{gone:?}");
    let unknown = error(&scene, "postgres://me@nowhere.invalid/app");
    assert!(unknown.hint().is_some_and(|hint| hint.starts_with("nobody knows a host")), "{unknown:?}");
    let url = format!("{}?sslmode=verify-full", scene.url);
    told(&error(&scene, &url), "TLS", "sslmode=disable");
}
