//! Which rows differ, and mending them.

use litekeep_sync::Kind;
use litekeep_sync::compare::{self, Found};

use crate::scene::Scene;
use crate::server::{self, server};

const TABLES: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, name TEXT UNIQUE, x REAL);
    CREATE TABLE words(word TEXT PRIMARY KEY COLLATE NOCASE, n NUMERIC); CREATE TABLE bare(a TEXT, at DATETIME, doc JSON);
    INSERT INTO t VALUES (1, 'a', 0.5), (2, 'b', 0.25), (3, 'c', 1e300);
    INSERT INTO words VALUES ('Zebra', 1), ('apple', 2.5), ('_', 3), ('é', 4), ('', NULL);
    INSERT INTO bare VALUES ('x', '2026-01-01T00:00:00Z', '{}'), ('x', '2026-01-01T00:00:00Z', '{}'), (NULL, NULL, NULL), ('y', NULL, '[1,  2]');";

fn compared(scene: &Scene, mend: bool) -> Found {
    let (settings, mut target) = scene.sides();
    scene.runtime.block_on(compare::run(&settings, &mut target, mend)).unwrap()
}

#[test]
fn what_is_the_same_is_the_same() {
    let scene = Scene::new("same", TABLES);
    scene.pushed();
    let found = compared(&scene, false);
    assert_eq!((found.rows, found.is_equal(), found.told.len()), (12, true, 0), "{found:?}");
}

#[test]
fn what_differs_is_told_and_mended() {
    let scene = Scene::new("differs", TABLES);
    scene.pushed();
    server::differ(&server(), "differs");
    let found = compared(&scene, false);
    let counts = (found.missing, found.extra, found.different);
    assert_eq!(counts, (3, 3, 2), "{found:#?}");
    let told: Vec<String> =
        found.told.iter().map(|one| format!("{} {} {}", one.table, one.key[0], one.what)).collect();
    let expected = [
        "t i1 name",
        "t i2 missing",
        "t i7 extra",
        "words s n",
        "words sApple extra",
        "words sapple missing",
        "bare n extra",
        "bare sx missing",
    ];
    assert_eq!(told, expected);
    compared(&scene, true);
    assert!(compared(&scene, false).is_equal());
    let mut push = scene.pushed();
    scene.assert_equal(&push.kept().unwrap().tables, &server());
    // And it goes on.
    scene.commit("UPDATE t SET x = x + 1; DELETE FROM bare WHERE a IS NULL");
    scene.push(&mut push).unwrap();
    scene.assert_equal(&push.kept().unwrap().tables, &server());
}

#[test]
fn another_history_is_gone_on_from_when_it_is_told_to() {
    let scene = Scene::new("resynced", TABLES);
    scene.pushed();
    let other = Scene::with_url(scene.url.clone(), TABLES);
    other.commit("UPDATE t SET name = 'other' || id; DELETE FROM words");
    let (settings, mut target) = other.sides();
    let error = other.runtime.block_on(compare::run(&settings, &mut target, false)).unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid, "{error}");
    assert!(error.to_string().contains("the log has another transaction"), "{error}");
    let found = compared(&other, true);
    assert_eq!((found.different, found.extra), (3, 5), "{found:?}");
    let push = other.pushed();
    other.assert_equal(&push.kept().unwrap().tables, &server());
}

#[test]
fn a_table_that_stood_still_goes_on() {
    let scene = Scene::new("stood_still", TABLES);
    let mut push = scene.pushed();
    scene.commit("ALTER TABLE t RENAME TO gone; INSERT INTO gone VALUES (8, 'h', 0)");
    scene.push(&mut push).unwrap();
    assert_eq!(push.kept().unwrap().paused.len(), 1);
    let (settings, mut target) = scene.sides();
    let error = scene.runtime.block_on(compare::run(&settings, &mut target, true)).unwrap_err();
    assert!(error.to_string().contains("there is no table `t` any more"), "{error}");
    scene.commit("ALTER TABLE gone RENAME TO t; INSERT INTO t VALUES (9, 'i', 0)");
    scene.push(&mut push).unwrap();
    compared(&scene, true);
    let push = scene.pushed();
    assert_eq!(push.kept().unwrap().paused.len(), 0);
    scene.assert_equal(&push.kept().unwrap().tables, &server());
}
