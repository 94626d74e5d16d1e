//! What is told to people.

use litekeep_sync::Kind;

use crate::pushers::{TABLE, error, told};
use crate::scene::Scene;
use crate::server::server;

const GRANT: &str = "GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, INDEX, DROP, LOCK TABLES ON";

#[test]
fn who_may_not_is_told_what_to_grant() {
    let scene = Scene::new("rights", TABLE);
    server()
        .query("CREATE USER reader@'%' IDENTIFIED BY 'secret'; GRANT SELECT ON rights.* TO reader@'%'")
        .unwrap();
    let url = |login: &str, database: &str| server().url_with(login, database);
    let wrong = error(&scene, &url("reader:wrong@", "rights"));
    told(&wrong, "://reader@127.0.0.1", "ALTER USER 'reader'@'%' IDENTIFIED BY");
    assert!(!wrong.to_string().contains("wrong"), "{wrong}");
    told(
        &error(&scene, &url("admin@", "nowhere")),
        "Unknown database 'nowhere'",
        "CREATE DATABASE `nowhere`",
    );
    let elsewhere = error(&scene, &url("reader:secret@", "mysql"));
    told(&elsewhere, "Access denied", GRANT);
    let rights = error(&scene, &url("reader:secret@", "rights"));
    told(&rights, "command denied to user 'reader'", GRANT);
    // And what it says is enough.
    let hint = rights.hint().unwrap().strip_prefix("as an administrator: ").unwrap().to_owned();
    server().query(&hint).unwrap();
    let mut push = scene.pushing_to(&url("reader:secret@", "rights"), Default::default());
    scene.push(&mut push).unwrap();
    scene.commit(
        "ALTER TABLE t ADD COLUMN y INT; CREATE TABLE more(a INT UNIQUE); INSERT INTO more VALUES (1)",
    );
    scene.push(&mut push).unwrap();
    scene.assert_equal(&push.kept().unwrap().tables, &server());
}

#[test]
fn what_is_there_is_not_overwritten() {
    let scene = Scene::new("taken", TABLE);
    let query = |sql: &str| server().query_in("taken", sql).unwrap();
    query("CREATE TABLE t(id int PRIMARY KEY, x longtext) ENGINE=MyISAM");
    told(&error(&scene, &scene.url), "is not InnoDB's", "CREATE TABLE `t`");
    query("ALTER TABLE t ENGINE=InnoDB");
    told(&error(&scene, &scene.url), "its column `id` is int", "CREATE TABLE `t`");
    query("ALTER TABLE t MODIFY id bigint, ADD y int NOT NULL, MODIFY x longtext CHARACTER SET latin1");
    told(&error(&scene, &scene.url), "its column `x` has the collation latin1", "CREATE TABLE `t`");
    query("ALTER TABLE t MODIFY x longtext CHARACTER SET utf8mb4");
    told(&error(&scene, &scene.url), "its column `y` wants a value", "CREATE TABLE `t`");
    query("ALTER TABLE t MODIFY y int NULL; INSERT INTO t(id, x) VALUES (7, 'theirs')");
    told(&error(&scene, &scene.url), "is there and has rows", "TRUNCATE `t`");
    query("ALTER TABLE t DROP PRIMARY KEY, ADD UNIQUE (id, x(10))");
    told(&error(&scene, &scene.url), "has no primary key, and no unique index", "CREATE TABLE `t`");
    query("ALTER TABLE t ADD UNIQUE (id)");
    assert_eq!(query("SHOW TABLES LIKE '%litekeep%'").len(), 0, "nothing was begun");
    query("TRUNCATE t");
    scene.pushed();
    assert_eq!(query("SELECT id, x, y FROM t"), [[Some("1".to_owned()), Some("a".to_owned()), None]]);
}

#[test]
fn no_answer_and_no_trust_are_told_apart() {
    let scene = Scene::new("silent", TABLE);
    let gone = error(&scene, "mysql://me@127.0.0.1:1/app");
    assert_eq!(gone.kind(), Kind::Unavailable, "{gone}");
    assert!(gone.hint().is_some_and(|hint| hint.starts_with("nothing listens there")), "{gone:?}");
    let unknown = error(&scene, "mysql://me@nowhere.invalid/app");
    assert!(unknown.hint().is_some_and(|hint| hint.starts_with("nobody knows a host")), "{unknown:?}");
    // Its authority is none of the system's.
    let (url, ca) = {
        let server = server();
        (format!("mysql://admin@localhost:{}/silent", server.port()), server.ca_file())
    };
    told(
        &error(&scene, &format!("{url}?ssl-mode=verify_identity")),
        "invalid peer certificate",
        "ssl-mode=disabled",
    );
    let mut push =
        scene.pushing_to(&format!("{url}?ssl-mode=required&ssl-ca={}", ca.display()), Default::default());
    scene.push(&mut push).unwrap();
    scene.assert_equal(&push.kept().unwrap().tables, &server());
}
