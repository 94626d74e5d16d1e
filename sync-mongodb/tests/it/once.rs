//! A database taken whole to MongoDB.

use litekeep_sync::transfer::{self, Copied, Parts, Settings};

use crate::scene::Scene;
use crate::server::{self, Options, Side, server};

const NUMBERS: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 50000)";

fn sides(scene: &Scene) -> (Settings, Side) {
    let settings = Settings { database: scene.database(), tables: vec![], parts: Parts::All };
    (settings, server::side(&scene.url, "copy", Options::default()))
}

fn copied(scene: &Scene) -> Copied {
    let (settings, mut target) = sides(scene);
    scene.runtime.block_on(transfer::run(&settings, &mut target, |_, _| ())).unwrap()
}

fn is_kept(database: &str) -> bool {
    server::count(&server(), database, "_litekeep_sync") > 0
}

#[test]
fn a_database_goes_whole_and_leaves_nothing_of_ours() {
    let scene = Scene::new(
        "copied",
        "CREATE TABLE t(id INTEGER PRIMARY KEY, x TEXT UNIQUE); INSERT INTO t VALUES (1, 'a'), (2, CAST(x'ff' AS TEXT)), (3, NULL);
         CREATE TABLE c(id INTEGER PRIMARY KEY, t INT REFERENCES t(id)); INSERT INTO c VALUES (1, 2)",
    );
    let copied = copied(&scene);
    let refused: Vec<_> = copied.refused.iter().map(|row| (row.table.as_str(), row.key.join(" "))).collect();
    assert_eq!(refused, [("t", "i2".to_owned())]);
    assert!(copied.failed.is_empty() && copied.found.unwrap().is_equal());
    let counts = ["t", "c"].map(|table| server::count(&server(), "copied", table));
    assert_eq!((counts, is_kept("copied")), ([2, 1], false));
}

#[test]
fn one_that_was_interrupted_goes_on_and_has_the_present_rows() {
    let scene = Scene::new(
        "halfway",
        &format!(
            "CREATE TABLE a(id INTEGER PRIMARY KEY, x TEXT); {NUMBERS} INSERT INTO a SELECT i, 'x' || i FROM n;
             CREATE TABLE b(k TEXT PRIMARY KEY, x); {NUMBERS} INSERT INTO b SELECT 'k' || i, i FROM n;"
        ),
    );
    let (send, mut rows) = tokio::sync::mpsc::unbounded_channel();
    scene.runtime.block_on(async {
        let (settings, mut target) = sides(&scene);
        let run = transfer::run(&settings, &mut target, |rows, _| send.send(rows).unwrap());
        tokio::pin!(run);
        loop {
            tokio::select! {
                biased;
                Some(rows) = rows.recv() => if rows > 50_000 { break },
                ended = &mut run => panic!("it came to its end: {ended:?}"),
            }
        }
    });
    assert!(is_kept("halfway"));
    scene.commit("DELETE FROM a WHERE id % 3 = 0; UPDATE b SET x = -x WHERE x % 2 = 0; INSERT INTO a VALUES (-1, 'new')");
    let copied = copied(&scene);
    assert!(copied.resumed && copied.found.unwrap().is_equal());
    let rows = server::count(&server(), "halfway", "a");
    assert_eq!((rows, is_kept("halfway")), (33_335, false));
}
