//! What SQLite has of a server whose tables have columns that can go.

use litekeep_sync::Flow as _;

use crate::pull_scene::Scene;
use crate::pulled::{self, TABLES};
use crate::server::server;

#[test]
fn a_table_that_changes_otherwise_stands_still_and_the_others_go_on() {
    let scene = Scene::new("inward_changed", TABLES);
    server().query_in("inward_changed", "INSERT INTO orders(id, name) VALUES(1, 'a')").unwrap();
    let mut pull = scene.pulled();
    let sql = "ALTER TABLE orders DROP COLUMN body; INSERT INTO orders(id, name) VALUES(2, 'b'); INSERT INTO parts VALUES(1, 'x', 'y')";
    server().query_in("inward_changed", sql).unwrap();
    scene.pull(&mut pull).unwrap();
    assert_eq!(scene.rows("SELECT count(*) || '' FROM orders"), [[Some("1".to_owned())]]);
    assert_eq!(scene.rows("SELECT b FROM parts"), [[Some("x".to_owned())]]);
    let paused = pull.progress().unwrap().paused;
    assert_eq!(paused, [("orders".to_owned(), "its column `body` is gone or has another name".to_owned())]);
    // A rename is told, though no row of it comes any more.
    server()
        .query_in(
            "inward_changed",
            "ALTER TABLE parts RENAME TO pieces; INSERT INTO pieces VALUES(2, 'x', 'y')",
        )
        .unwrap();
    scene.pull(&mut pull).unwrap();
    let paused = pull.progress().unwrap().paused;
    assert!(paused[1].1.contains("dropped there, or has another name"), "{paused:?}");
    server()
        .query_in(
            "inward_changed",
            &format!(
                "ALTER TABLE pieces RENAME TO parts; ALTER TABLE orders ADD COLUMN body {}",
                pulled::BYTES
            ),
        )
        .unwrap();
    scene.runtime.block_on(pull.resync()).unwrap();
    scene.pull(&mut pull).unwrap();
    assert_eq!(pull.progress().unwrap().paused, []);
    scene.assert_equal(&server());
}
