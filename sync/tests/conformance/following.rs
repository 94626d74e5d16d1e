//! Everything after the copy.

use std::collections::BTreeMap;
use std::time::Duration;

use litekeep_sync::push::Step;
use litekeep_sync::{Flow as _, Kind, Stage};
use rusqlite::Connection;

use crate::scene::Scene;
use crate::server::{self, server, start};

pub(crate) const TABLES: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, name TEXT UNIQUE, x REAL);
    CREATE TABLE pairs(a TEXT, b INTEGER, x BLOB, PRIMARY KEY (a, b)) WITHOUT ROWID;
    CREATE TABLE bare(a TEXT, b INTEGER);";

/// A random transaction.
pub(crate) fn churn(db: &mut Connection, random: &mut fastrand::Rng) {
    let tx = db.transaction().unwrap();
    for _ in 0..random.u32(1..30) {
        let (id, text) = (random.i64(0..60), format!("n{}", random.u32(0..200)));
        let _ = match random.u32(0..9) {
            0 | 1 => tx.execute("INSERT OR REPLACE INTO t VALUES (?1, ?2, ?1 / 8.0)", (id, text)),
            2 => tx.execute("UPDATE OR IGNORE t SET id = id + 100, name = ?2 WHERE id = ?1", (id, text)),
            3 => tx.execute("DELETE FROM t WHERE id % 7 = ?1 % 7", [id]),
            4 | 5 => tx.execute("INSERT OR REPLACE INTO pairs VALUES (?2, ?1, randomblob(?1))", (id, text)),
            6 => tx.execute("UPDATE OR REPLACE pairs SET b = b + 1 WHERE b = ?1", [id]),
            7 => tx.execute("INSERT INTO bare VALUES (?2, ?1 % 3)", (id, text)),
            _ => tx.execute("DELETE FROM bare WHERE rowid % 5 = ?1 % 5", [id]),
        };
    }
    tx.commit().unwrap();
}

#[test]
fn transactions_arrive_one_after_the_other() {
    let scene = Scene::new("follow", TABLES);
    let mut push = scene.pushed();
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..25 {
        scene.write(|db| churn(db, &mut random));
        scene.push(&mut push).unwrap();
        scene.assert_equal(&push.kept().unwrap().tables, &server());
    }
    // Many at once, and again from what the server keeps.
    for _ in 0..15 {
        scene.write(|db| churn(db, &mut random));
    }
    scene.commit("VACUUM");
    let push = scene.pushed();
    scene.assert_equal(&push.kept().unwrap().tables, &server());
    assert_eq!(push.kept().unwrap().refused, 0);
}

#[test]
fn a_transaction_is_seen_whole_or_not_at_all() {
    let scene = Scene::new("whole", "CREATE TABLE t(id INTEGER PRIMARY KEY, x INT)");
    let mut push = scene.pushed();
    scene.commit(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 60000) INSERT INTO t SELECT i, i FROM n",
    );
    let pushing = std::thread::spawn(move || {
        scene.push(&mut push).unwrap();
        scene
    });
    let mut seen = vec![];
    while !pushing.is_finished() {
        seen.push(server::count(&server(), "whole", "t"));
    }
    pushing.join().unwrap();
    assert!(seen.iter().all(|count| [0, 60_000].contains(count)), "{seen:?}");
}

#[test]
fn unique_values_can_be_exchanged() {
    let scene = Scene::new(
        "exchanged",
        &format!("{TABLES} INSERT INTO t VALUES (1, 'a', 0), (2, 'b', 0), (3, 'c', 0)"),
    );
    let mut push = scene.pushed();
    scene.write(|db| {
        let tx = db.transaction().unwrap();
        tx.execute_batch("UPDATE t SET name = 'x' WHERE id = 1; UPDATE t SET name = 'a' WHERE id = 2; UPDATE t SET name = 'b' WHERE id = 1")
            .unwrap();
        tx.commit().unwrap();
    });
    scene.push(&mut push).unwrap();
    assert_eq!(push.kept().unwrap().refused, 0);
    scene.assert_equal(&push.kept().unwrap().tables, &server());
}

/// Goal: rows that exchange a value arrive beside one that cannot, which the server alone refuses.
#[test]
fn what_is_exchanged_arrives_beside_what_is_refused() {
    let scene = Scene::new(
        "torn",
        &format!(
            "{TABLES} INSERT INTO t SELECT value, 'n' || value, 0 FROM json_each('[1,2,3,4,5,6,7,8,9]')"
        ),
    );
    let mut push = scene.pushed();
    server::admit_no_5(&server(), "torn");
    scene.commit(
        "UPDATE t SET name = 'x' WHERE id = 1; UPDATE t SET name = 'n1' WHERE id = 9; UPDATE t SET name = 'n9' WHERE id = 1;
         UPDATE t SET x = 5 WHERE id BETWEEN 4 AND 5; UPDATE t SET x = 1 WHERE id NOT IN (1, 5, 9)",
    );
    scene.push(&mut push).unwrap();
    assert_eq!(push.kept().unwrap().refused, 1);
    let there = server::names(&server(), "torn");
    assert_eq!([&there[&1], &there[&9]], ["n9", "n1"]);
}

#[test]
fn new_tables_and_columns_follow_and_other_changes_stand_still() {
    let scene = Scene::new("altered", &format!("{TABLES} INSERT INTO t VALUES (1, 'a', 0)"));
    let mut push = scene.pushed();
    scene.commit(
        "ALTER TABLE t ADD COLUMN more TEXT NOT NULL DEFAULT 'none'; INSERT INTO t VALUES (2, 'b', 0, 'some');
         CREATE TABLE later(id INTEGER PRIMARY KEY, made DATETIME, is_on BOOLEAN); CREATE INDEX later_made ON later(made);
         INSERT INTO later VALUES (1, '2026-01-01', 1)",
    );
    scene.push(&mut push).unwrap();
    let kept = push.kept().unwrap().clone();
    assert_eq!((kept.tables.len(), kept.paused.len()), (4, 0));
    scene.assert_equal(&kept.tables, &server());
    scene.commit(
        "ALTER TABLE t RENAME COLUMN more TO less; DROP TABLE bare; ALTER TABLE later RENAME TO later_still;
         INSERT INTO t VALUES (3, 'c', 0, 'x'); INSERT INTO pairs VALUES ('still', 1, NULL)",
    );
    scene.push(&mut push).unwrap();
    let paused = push.kept().unwrap().paused.clone();
    let names: Vec<&str> = paused.iter().map(|(table, _)| table.as_str()).collect();
    assert_eq!(names, ["bare", "later", "t"], "{paused:?}");
    assert!(paused[1].1.starts_with("it was renamed to `later_still` in transaction"), "{paused:?}");
    // Those that stand still are as they were; the others go on, also after a restart.
    scene.commit("INSERT INTO t VALUES (4, 'd', 0, 'x'); INSERT INTO pairs VALUES ('still', 2, NULL)");
    let push = scene.pushed();
    assert_eq!(push.kept().unwrap().paused, paused);
    let pairs: Vec<_> =
        push.kept().unwrap().tables.iter().filter(|table| table.0.source == "pairs").cloned().collect();
    let server = server();
    scene.assert_equal(&pairs, &server);
    assert_eq!(server::count(&server, "altered", "t"), 2);
}

#[test]
fn a_row_that_cannot_go_there_is_listed_until_it_can() {
    let scene = Scene::new(
        "refused",
        &format!("{TABLES} INSERT INTO t VALUES (1, 'a', 1), (2, CAST(x'62ff63' AS TEXT), 2)"),
    );
    let mut push = scene.pushed();
    assert_eq!(push.kept().unwrap().refused, 1);
    scene.commit(server::NOT_THERE);
    scene.push(&mut push).unwrap();
    let listed = server::listed(&server(), "refused");
    assert_eq!(listed.len(), 4, "{listed:#?}");
    assert!(listed[0].contains(r#""key":["i1"]"#) && listed[0].contains(server::WHY_NOT), "{listed:#?}");
    let there = server::names(&server(), "refused");
    let expected = BTreeMap::from([(1, "a".to_owned()), (3, "fine".to_owned())]);
    assert_eq!(there, expected, "what was there of a refused row stays");
    scene.commit("UPDATE t SET name = 'n' || id, x = id WHERE id <> 3; DELETE FROM t WHERE id = 5");
    scene.push(&mut push).unwrap();
    assert_eq!(push.kept().unwrap().refused, 0);
    assert_eq!(server::listed(&server(), "refused").len(), 0);
    scene.assert_equal(&push.kept().unwrap().tables, &server());
}

/// Goal: no row is lost and none comes twice, whenever the server is killed or the pusher begins anew.
#[test]
fn kills_lose_nothing_and_repeat_nothing() {
    let mut server = start();
    server::make_database(&server, "killed");
    let scene = Scene::with_url(
        server.url("killed"),
        &format!("{TABLES} INSERT INTO bare VALUES ('x', 1), ('x', 1)"),
    );
    let mut random = fastrand::Rng::with_seed(11);
    let mut push = scene.pushing();
    for round in 0..12 {
        for _ in 0..random.u32(1..4) {
            scene.write(|db| churn(db, &mut random));
        }
        // Some steps, the last of which is cut off at a random moment.
        let steps = random.u32(0..3);
        let moment = Duration::from_micros(random.u64(100..20_000));
        scene.runtime.block_on(async {
            for _ in 0..steps {
                let _ = push.step().await;
            }
            let _ = tokio::time::timeout(moment, push.step()).await;
        });
        match round % 3 {
            0 => push = scene.pushing(),
            1 => {
                server.kill().unwrap();
                let error = scene.push(&mut push).unwrap_err();
                assert_eq!(error.kind(), Kind::Unavailable, "{error}");
                server.resume().unwrap();
            }
            _ => {
                server::cut_off(&server);
                push = scene.pushing();
            }
        }
    }
    let push = scene.pushed();
    let kept = push.kept().unwrap();
    assert!(matches!(kept.stage, Stage::Following { .. }));
    scene.assert_equal(&kept.tables, &server);
}

#[test]
fn nothing_is_done_when_nothing_has_changed() {
    let scene = Scene::new("idle", TABLES);
    let mut push = scene.pushed();
    assert_eq!(scene.runtime.block_on(push.step()).unwrap(), Step::Current);
}

/// The application and the backup go on in the other one, and so does the sync.
#[test]
fn a_log_that_cannot_be_read_is_left_for_the_other_one() {
    let scene = Scene::new("leaving", TABLES);
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("copy");
    scene.copy_log(&copy);
    let mut push = scene.pushing_from(&[&scene.log(), &copy]);
    scene.push(&mut push).unwrap();
    scene.commit("INSERT INTO bare VALUES ('in both', 1)");
    scene.copy_log(&copy);
    std::fs::rename(scene.log(), folder.path().join("away")).unwrap();
    std::fs::write(scene.log(), "no folder").unwrap();
    // What was begun may fail once.
    scene.push(&mut push).or_else(|_| scene.push(&mut push)).unwrap();
    scene.assert_equal(&push.kept().unwrap().tables, &server());
    // And from there at once.
    let mut again = scene.pushing_from(&[&scene.log(), &copy]);
    scene.push(&mut again).unwrap();
    assert_eq!(push.kept().unwrap().stage, again.kept().unwrap().stage);
}

/// Its destination takes no files, but can be read.
#[test]
fn a_log_that_lags_behind_is_left_for_the_other_one() {
    let scene = Scene::new("lagging", TABLES);
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("copy");
    scene.copy_log(&copy);
    let mut push = scene.pushing_from(&[&copy, &scene.log()]);
    scene.push(&mut push).unwrap();
    scene.commit("INSERT INTO bare VALUES ('in one', 1)");
    scene.push(&mut push).unwrap();
    assert!(scene.runtime.block_on(push.reads_another_log()).unwrap());
    scene.push(&mut push).unwrap();
    scene.assert_equal(&push.kept().unwrap().tables, &server());
    assert!(!scene.runtime.block_on(push.reads_another_log()).unwrap());
}

/// In one transaction and in one batch, rows get the keys of others that come later.
#[test]
fn rows_may_exchange_their_keys() {
    let scene = Scene::new(
        "exchange",
        "CREATE TABLE t(name TEXT PRIMARY KEY, n INT); INSERT INTO t VALUES ('x', 1), ('y', 2), ('z', 3)",
    );
    let mut push = scene.pushed();
    for sql in [
        "DELETE FROM t WHERE name = 'z'; UPDATE t SET name = 'z' WHERE name = 'x'",
        "UPDATE t SET name = name || '-'; UPDATE t SET name = CASE name WHEN 'y-' THEN 'z' ELSE 'y' END",
        "INSERT INTO t VALUES ('a', 1), ('b', 2); UPDATE t SET name = 'c' WHERE name = 'a'; INSERT INTO t VALUES ('a', 9)",
    ] {
        scene.commit(&format!("BEGIN; {sql}; COMMIT"));
        scene.push(&mut push).unwrap();
        scene.assert_equal(&push.kept().unwrap().tables, &server());
    }
}
