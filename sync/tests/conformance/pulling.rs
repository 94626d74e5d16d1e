//! What SQLite has of a server, whatever happens: by real logs, and with both sides read by others than litekeep and held against each other.

use std::time::Duration;

use litekeep_sync::transfer::Parts;
use litekeep_sync::{Flow as _, Kind};
use rusqlite::Connection;

use crate::pull_scene::Scene;
use crate::pulled::{self, DATABASE, ID, TABLES, churn};
use crate::server::{cut_off, server, start};

#[test]
fn what_happens_there_happens_here() {
    let scene = Scene::new("inward_churn", TABLES);
    let mut random = fastrand::Rng::with_seed(5);
    let mut pull = scene.pulling();
    for round in 0..25 {
        churn(&server(), "inward_churn", &mut random);
        match round % 5 {
            0 => scene.pull(&mut pull).unwrap(),
            _ => scene.follow(&mut pull, || scene.difference(&server()).is_none()),
        }
        scene.assert_equal(&server());
    }
    let found = scene.runtime.block_on(pull.compare()).unwrap();
    assert!(found.is_equal() && found.rows > 0, "{found:?}");
    assert_eq!(scene.rows("SELECT name FROM sqlite_schema WHERE type = 'index' AND sql NOT NULL").len(), 1);
}

#[test]
fn one_copy_has_what_the_server_has_and_keeps_nothing() {
    let scene = Scene::new("inward_once", TABLES);
    let mut random = fastrand::Rng::with_seed(9);
    (0..5).for_each(|_| churn(&server(), "inward_once", &mut random));
    let copied = scene.runtime.block_on(scene.pulling().copy_once(Parts::All, |_| ())).unwrap();
    let found = copied.found.unwrap();
    assert!(found.is_equal() && found.rows > 0, "{found:?}");
    scene.assert_equal(&server());
    let tables = scene.rows(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%' ORDER BY name",
    );
    assert_eq!(tables, [[Some("orders".to_owned())], [Some("parts".to_owned())]]);
}

/// Goal: no row is lost and none comes twice, whenever the server is killed, the connection cut, or the puller begins anew; in the copy, too,
/// and while rows change.
#[test]
fn kills_lose_nothing_and_repeat_nothing() {
    let mut server = start();
    pulled::make_tables(&server, DATABASE, TABLES);
    pulled::add_orders(&server, DATABASE, (1_000, 30_000));
    pulled::add_parts(&server, DATABASE, (1_000, 3_000), 3_000);
    let scene = Scene::with_url(server.url(DATABASE));
    let mut random = fastrand::Rng::with_seed(12);
    let mut pull = scene.pulling();
    for round in 0..18 {
        for _ in 0..random.u32(1..4) {
            churn(&server, DATABASE, &mut random);
        }
        let steps = random.u32(0..4);
        let moment = Duration::from_micros(random.u64(100..40_000));
        scene.runtime.block_on(async {
            for _ in 0..steps {
                let _ = pull.step().await;
            }
            let _ = tokio::time::timeout(moment, pull.step()).await;
        });
        match round % 3 {
            0 => pull = scene.pulling(),
            1 => {
                server.kill().unwrap();
                let error = scene.pull(&mut pull).unwrap_err();
                assert_eq!(error.kind(), Kind::Unavailable, "{error}");
                server.resume().unwrap();
            }
            _ => {
                cut_off(&server);
                pull = scene.pulling();
            }
        }
    }
    scene.pull_in_the_end(&mut pull);
    scene.assert_equal(&server);
}

/// Goal: a transaction that is too big to be held is seen here whole or not at all.
#[test]
fn a_big_transaction_is_one() {
    let scene = Scene::new("inward_big", TABLES);
    let mut pull = scene.pulled();
    pulled::add_parts(&server(), "inward_big", (1, 20_000), 2_000);
    let db = Connection::open(scene.database()).unwrap();
    let mut seen = vec![];
    scene.follow(&mut pull, || {
        let count: i64 = db.query_row("SELECT count(*) FROM parts", (), |row| row.get(0)).unwrap();
        seen.push(count);
        count == 20_000
    });
    assert!(seen.iter().all(|count| [0, 20_000].contains(count)), "{seen:?}");
    scene.assert_equal(&server());
}

#[test]
fn columns_that_are_added_come_with_their_values() {
    let scene = Scene::new("inward_columns", TABLES);
    pulled::name_orders(&server(), "inward_columns", &[(1, "a"), (2, "b")]);
    let mut pull = scene.pulled();
    pulled::add_states(&server(), "inward_columns");
    scene.pull(&mut pull).unwrap();
    let states = scene.rows(&format!("SELECT state FROM orders ORDER BY {ID}"));
    assert_eq!(states, [["new"], ["old"], ["new"]].map(|[state]| [Some(state.to_owned())]));
    assert_eq!(pull.progress().unwrap().paused, []);
    scene.assert_equal(&server());
}

/// A table of the application's that has the name of a new one there is not taken for one of the sync's.
#[test]
fn nobody_elses_rows_are_swept_away() {
    let scene = Scene::new("inward_swept", TABLES);
    let mut pull = scene.pulled();
    let db = Connection::open(scene.database()).unwrap();
    db.execute_batch(&format!(
        "CREATE TABLE notes({ID} INTEGER PRIMARY KEY, text TEXT); INSERT INTO notes VALUES(1, 'mine')"
    ))
    .unwrap();
    pulled::make_notes(&server(), "inward_swept");
    let error = scene.runtime.block_on(pull.resync()).unwrap_err();
    assert!(error.to_string().contains("the table `notes` is there and has rows"), "{error}");
    scene.pull_in_the_end(&mut pull);
    assert_eq!(scene.rows("SELECT text FROM notes"), [[Some("mine".to_owned())]]);
    scene.assert_equal(&server());
}

#[test]
fn what_differs_is_found_and_mended() {
    let scene = Scene::new("inward_differs", TABLES);
    pulled::add_orders(&server(), "inward_differs", (1, 50));
    let mut pull = scene.pulled();
    let db = Connection::open(scene.database()).unwrap();
    db.execute_batch(&format!(
        "UPDATE orders SET name = 'other' WHERE {ID} = 7; DELETE FROM orders WHERE {ID} = 9; INSERT INTO orders({ID}, name) VALUES(99, 'x')"
    ))
    .unwrap();
    let found = scene.runtime.block_on(pull.compare()).unwrap();
    assert_eq!((found.rows, found.missing, found.extra, found.different), (50, 1, 1, 1), "{found:?}");
    assert!(found.told.iter().any(|one| one.key == ["i7"] && one.what == "name"), "{found:?}");
    scene.runtime.block_on(pull.resync()).unwrap();
    scene.pull(&mut pull).unwrap();
    scene.assert_equal(&server());
    assert!(scene.runtime.block_on(pull.compare()).unwrap().is_equal());
}

/// What the application forbids in its own table is listed, and comes when it is mended there.
#[test]
fn rows_that_are_forbidden_here_are_listed() {
    let scene = Scene::new("inward_forbidden", TABLES);
    let db = Connection::open(scene.database()).unwrap();
    db.execute_batch(&format!(
        "PRAGMA journal_mode = WAL; CREATE TABLE orders({ID} INTEGER PRIMARY KEY, name TEXT CHECK(name NOT LIKE 'bad%'), body BLOB, amount TEXT)"
    ))
    .unwrap();
    pulled::name_orders(&server(), "inward_forbidden", &[(1, "good"), (2, "bad"), (3, "fine")]);
    let mut pull = scene.pulled();
    assert_eq!(pull.progress().unwrap().refused, 1);
    pulled::rename_order(&server(), "inward_forbidden", 1, "bad too");
    scene.pull(&mut pull).unwrap();
    let listed = scene.runtime.block_on(scene.pulling().listed()).unwrap().unwrap();
    let keys: Vec<_> = listed.iter().map(|row| row.key.clone()).collect();
    assert!(keys.contains(&vec!["i1".to_owned()]) && keys.contains(&vec!["i2".to_owned()]), "{listed:?}");
    assert!(listed[0].reason.contains("CHECK"), "{listed:?}");
    for (id, name) in [(1, "better1"), (2, "better2")] {
        pulled::rename_order(&server(), "inward_forbidden", id, name);
    }
    scene.pull(&mut pull).unwrap();
    assert_eq!(pull.progress().unwrap().refused, 0);
    scene.assert_equal(&server());
}
