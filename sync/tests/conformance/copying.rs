//! The first copy.

use litekeep_schema::portable::Level;
use litekeep_sql::Examiner;
use litekeep_sync::cut::Cut;
use litekeep_sync::{Flow as _, Stage, Target, copy};

use crate::scene::Scene;
use crate::server::{self, Options, server};

#[test]
fn a_copy_goes_on_where_it_was_interrupted() {
    let rows = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 50000)";
    let scene = Scene::new(
        "interrupted",
        &format!(
            "CREATE TABLE a(id INTEGER PRIMARY KEY, x TEXT); {rows} INSERT INTO a SELECT i, 'x' || i FROM n;
             CREATE TABLE b(k TEXT PRIMARY KEY, x) WITHOUT ROWID; {rows} INSERT INTO b SELECT 'k' || i, i FROM n;
             CREATE TABLE c(x); {rows} INSERT INTO c SELECT i % 7 FROM n;"
        ),
    );
    // Each step in a process of its own, as it were.
    let mut rows = vec![];
    for _ in 0..100 {
        let mut push = scene.pushing();
        scene.runtime.block_on(async {
            push.step().await.unwrap();
            push.step().await.unwrap();
            if push.kept().is_some_and(|kept| matches!(kept.stage, Stage::Copying { .. })) {
                push.step().await.unwrap();
            }
        });
        match &push.kept().unwrap().stage {
            Stage::Copying { rows: copied, .. } => rows.push(*copied),
            Stage::Following { .. } => break,
        }
        if rows.len() == 4 {
            // The application goes on meanwhile.
            scene.commit("DELETE FROM a WHERE id % 3 = 0; UPDATE b SET x = -x; INSERT INTO c VALUES (100)");
        }
    }
    assert!(rows.len() > 6 && rows.is_sorted() && rows.last() == Some(&150_000), "{rows:?}");
    let push = scene.pushed();
    scene.assert_equal(&push.kept().unwrap().tables, &server());
}

#[test]
fn a_schema_and_other_names_are_used() {
    let scene = Scene::new(
        "renamed",
        "CREATE TABLE t(id INTEGER PRIMARY KEY, x); INSERT INTO t VALUES (1, 'a'), (2, 'b')",
    );
    let options = Options {
        schema: Some(server::SCHEMA.into()),
        names: [("t".to_owned(), "T o".to_owned())].into(),
        types: [("t.x".to_owned(), server::TAGGED)].into(),
    };
    let mut push = scene.pushing_to(&scene.url, options);
    scene.push(&mut push).unwrap();
    scene.commit("UPDATE t SET x = 7 WHERE id = 2; INSERT INTO t VALUES (3, x'00')");
    scene.push(&mut push).unwrap();
    assert_eq!(server::values(&server(), "renamed"), server::VALUES);
}

/// Goal: each statement that is made for a declared table is one that the server takes.
#[test]
fn notes_tell_what_is_not_there() {
    let scene = Scene::new(
        "notes",
        "CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT DEFAULT (lower('X')), b INT CHECK (b > 0), c TEXT PRIMARY_KEY, d DATETIME);
         INSERT INTO t(b, d) SELECT 1, '2026-01-01' UNION ALL SELECT 2, '2026-01-01 00:00:00';
         CREATE INDEX part ON t(a) WHERE b > 1; CREATE INDEX expr ON t(lower(a));
         CREATE TABLE mixed(k TEXT PRIMARY KEY, n INT); INSERT INTO mixed VALUES (NULL, 1), ('x', 'text');",
    );
    let surveyed =
        copy::survey(&Examiner::open(&scene.database()).unwrap(), |_| true, &Cut::default()).unwrap();
    let target = server::side(&scene.url, "n", Options::default());
    let mut notes = vec![];
    for (declared, profiles) in &surveyed {
        notes.extend(target.map(declared, profiles).1);
    }
    let shown: Vec<(String, Level)> = notes.iter().map(|note| (note.to_string(), note.level)).collect();
    let expected = [
        ("t.a: its default `lower('X')` is not translated", Level::Rule),
        ("t.d: holds dates that are not written in one form: text", Level::Info),
        ("t: its CHECK constraints are not translated", Level::Rule),
        ("t: its index `part` is not translated", Level::Rule),
        ("t: its index `expr` is not translated", Level::Rule),
        ("mixed.n: holds values of several types", Level::Info),
        ("mixed.k: is in the primary key and NULL in 1 rows", Level::Rule),
        ("mixed: has no primary key", Level::Info),
    ];
    assert_eq!(shown.len(), expected.len(), "{shown:#?}");
    for ((text, level), (words, expected)) in shown.iter().zip(expected) {
        assert!(text.starts_with(words) && *level == expected, "{text} ({level:?}), not {words}");
    }
}
