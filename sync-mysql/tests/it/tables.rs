//! Statements that make tables, which commit by themselves, and rules that others made.

use litekeep_sync::Flow as _;
use litekeep_sync::push::Step;

use crate::following::TABLES;
use crate::scene::Scene;
use crate::server::server;

fn query(database: &str, sql: &str) -> Vec<Vec<Option<String>>> {
    server().query_in(database, sql).unwrap()
}

/// Goal: a start that was interrupted after some of the tables is begun again, also where the tables would be others now.
#[test]
fn half_a_start_is_begun_again() {
    let scene = Scene::new("half", &format!("{TABLES} INSERT INTO t VALUES (1, 'a', 0)"));
    let mut push = scene.pushing();
    assert_eq!(scene.runtime.block_on(push.step()).unwrap(), Step::More);
    scene.runtime.block_on(push.step()).unwrap();
    // All is made, and what says so is lost.
    query(
        "half",
        "UPDATE _litekeep_sync SET item = 'making', content = '[\"t\",\"pairs\",\"bare\"]' WHERE item = 'plan'",
    );
    query("half", "DELETE FROM _litekeep_sync WHERE item = 'stage'; ALTER TABLE t MODIFY x int");
    let push = scene.pushed();
    scene.assert_equal(&push.kept().unwrap().tables, &server());
    assert_eq!(
        query("half", "SELECT item FROM _litekeep_sync ORDER BY item").len(),
        2,
        "the plan and the stage"
    );
}

/// Goal: a table and a column that are there already, because a kill came before the commit, are taken as they are.
#[test]
fn what_was_made_before_a_kill_is_taken() {
    let scene = Scene::new("remade", &format!("{TABLES} INSERT INTO t VALUES (1, 'a', 0)"));
    let mut push = scene.pushed();
    let before =
        query("remade", "SELECT content FROM _litekeep_sync WHERE item IN ('plan', 'stage') ORDER BY item");
    scene.commit(
        "INSERT INTO bare VALUES ('before', 1); ALTER TABLE t ADD COLUMN more TEXT NOT NULL DEFAULT 'none'; ALTER TABLE t ADD COLUMN n INT;
         INSERT INTO t VALUES (2, 'b', 0, 'some', 2); CREATE TABLE later(id INTEGER PRIMARY KEY, w TEXT UNIQUE); INSERT INTO later VALUES (1, 'w')",
    );
    scene.push(&mut push).unwrap();
    // As if it had been killed with only the statements of tables done.
    let [plan, stage] = [&before[0][0], &before[1][0]].map(|text| text.clone().unwrap().replace('\'', "''"));
    query(
        "remade",
        &format!("UPDATE _litekeep_sync SET content = '{}' WHERE item = 'plan'", plan.replace('\\', "\\\\")),
    );
    query(
        "remade",
        &format!(
            "UPDATE _litekeep_sync SET content = '{}' WHERE item = 'stage'",
            stage.replace('\\', "\\\\")
        ),
    );
    query("remade", "DELETE FROM t WHERE id = 2; DELETE FROM later; DELETE FROM bare");
    let push = scene.pushed();
    let kept = push.kept().unwrap();
    assert_eq!((kept.tables.len(), kept.paused.len(), kept.refused), (4, 0, 0));
    scene.assert_equal(&kept.tables, &server());
    let made = query("remade", "SHOW CREATE TABLE later").remove(0)[1].clone().unwrap();
    assert_eq!(made.matches("UNIQUE KEY").count(), 1, "{made}");
}

/// Goal: what was applied before a table is made is never committed without its position. Method: a rule makes the transaction after the
/// new table fail; rows before it must be there once.
#[test]
fn a_table_in_the_middle_of_a_batch_commits_nothing_too_early() {
    let scene = Scene::new("middle", TABLES);
    let mut push = scene.pushed();
    scene.commit("INSERT INTO bare VALUES ('x', 1)");
    scene.commit("CREATE TABLE later(id INTEGER PRIMARY KEY); INSERT INTO later VALUES (1); INSERT INTO bare VALUES ('y', 1)");
    query("middle", "CREATE TABLE later(id bigint PRIMARY KEY, theirs int NOT NULL)");
    for _ in 0..3 {
        let error = scene.push(&mut push).unwrap_err();
        assert!(error.to_string().contains("`theirs` wants a value"), "{error}");
        assert_eq!(query("middle", "SELECT a FROM bare"), [[Some("x".to_owned())]]);
    }
    query("middle", "DROP TABLE later");
    scene.push(&mut push).unwrap();
    scene.assert_equal(&push.kept().unwrap().tables, &server());
}

/// A unique index that somebody has made there must not let a row take another's place.
#[test]
fn another_row_is_never_changed_in_a_rows_stead() {
    let scene = Scene::new(
        "instead",
        "CREATE TABLE t(id INTEGER PRIMARY KEY, name TEXT, n INT); INSERT INTO t VALUES (1, 'a', 1), (2, 'b', 2)",
    );
    let mut push = scene.pushed();
    query("instead", "ALTER TABLE t ADD UNIQUE (n)");
    scene.commit("INSERT INTO t VALUES (3, 'c', 1); UPDATE t SET name = 'B' WHERE id = 2");
    scene.push(&mut push).unwrap();
    assert_eq!(push.kept().unwrap().refused, 1);
    let there: Vec<String> =
        query("instead", "SELECT name FROM t ORDER BY id").into_iter().flatten().flatten().collect();
    assert_eq!(there, ["a", "B"]);
}

/// Rows that go and come again take nothing of others with them.
#[test]
fn a_changed_row_sets_off_no_cascade() {
    let scene = Scene::new(
        "cascaded",
        "CREATE TABLE t(id INTEGER PRIMARY KEY, x TEXT); INSERT INTO t VALUES (1, 'a')",
    );
    let mut push = scene.pushed();
    query(
        "cascaded",
        "CREATE TABLE theirs(t bigint, FOREIGN KEY (t) REFERENCES t(id) ON DELETE CASCADE) ENGINE=InnoDB; INSERT INTO theirs VALUES (1)",
    );
    scene.commit("UPDATE t SET x = 'b'");
    scene.push(&mut push).unwrap();
    assert_eq!(query("cascaded", "SELECT t FROM theirs").len(), 1);
    scene.assert_equal(&push.kept().unwrap().tables, &server());
}

/// Where LOAD DATA LOCAL is not allowed, rows go by statements.
#[test]
fn a_server_that_takes_no_files_gets_statements() {
    let mut own = crate::server::start();
    own.query("SET GLOBAL local_infile = 0; CREATE DATABASE app").unwrap();
    let rows = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 25000)";
    let scene = Scene::with_url(
        own.url("app"),
        &format!(
            "{TABLES} {rows} INSERT INTO t SELECT i, 'it''s \\' || i, i FROM n; INSERT INTO bare SELECT name, id % 7 FROM t; UPDATE t SET x = 'text' WHERE id % 9000 = 5"
        ),
    );
    let push = scene.pushed();
    assert_eq!(push.kept().unwrap().refused, 3);
    let count = own.query_in("app", "SELECT count(*) FROM t").unwrap().remove(0).remove(0);
    assert_eq!(count.as_deref(), Some("24997"));
    own.kill().unwrap();
}
