//! A database taken whole to MongoDB.

use litekeep_sync::transfer::Parts;

use crate::scene::Scene;
use crate::server::{self, server};
use crate::taking::{copied, is_kept};

#[test]
fn a_database_goes_whole_and_leaves_nothing_of_ours() {
    let scene = Scene::new(
        "copied",
        "CREATE TABLE t(id INTEGER PRIMARY KEY, x TEXT UNIQUE); INSERT INTO t VALUES (1, 'a'), (2, CAST(x'ff' AS TEXT)), (3, NULL);
         CREATE TABLE c(id INTEGER PRIMARY KEY, t INT REFERENCES t(id)); INSERT INTO c VALUES (1, 2)",
    );
    let copied = copied(&scene, Parts::All).unwrap();
    let refused: Vec<_> = copied.refused.iter().map(|row| (row.table.as_str(), row.key.join(" "))).collect();
    assert_eq!(refused, [("t", "i2".to_owned())]);
    assert!(copied.failed.is_empty() && copied.found.unwrap().is_equal());
    let counts = ["t", "c"].map(|table| server::count(&server(), "copied", table));
    assert_eq!((counts, is_kept(&scene)), ([2, 1], false));
}
