//! Tables without a key, copied from a server once.

use litekeep_sync::source::NO_KEY;
use litekeep_sync::transfer::Parts;
use rusqlite::Connection;

use crate::pull_scene::Scene;
use crate::pulled;
use crate::server::server;

/// 12,000 rows of two columns, each twice, and some with nothing in them.
fn tables() -> String {
    let rows = "SELECT id % 6000 AS n, name, CASE WHEN id % 7 > 0 THEN amount END AS price FROM orders";
    format!(
        "{} {}; CREATE TABLE bare AS {rows}; INSERT INTO bare SELECT * FROM bare WHERE n < 3000;",
        pulled::TABLES,
        pulled::orders(0, 11_999)
    )
}

/// Each value as text.
const THERE: &str = "SELECT CASE WHEN n IS NULL THEN NULL ELSE CONCAT(n, '') END, name, CASE WHEN price IS NULL THEN NULL ELSE CONCAT(price, '') END FROM bare";
const HERE: &str = "SELECT CAST(n AS TEXT), name, CAST(price AS TEXT) FROM bare";

#[test]
fn a_table_without_a_key_comes_whole_and_begins_anew_when_it_was_interrupted() {
    let scene = Scene::new("keyless", &tables());
    let (send, mut told) = tokio::sync::mpsc::unbounded_channel();
    let mut pull = scene.pulling_from(&scene.url, &["bare"]);
    // Its end waits for a transaction that the copy was in.
    let interrupted = tokio::runtime::Runtime::new().unwrap();
    interrupted.block_on(async {
        let copying = pull.copy_once(Parts::All, |rows| send.send(rows).unwrap());
        tokio::pin!(copying);
        loop {
            tokio::select! {
                biased;
                Some(rows) = told.recv() => if rows > 0 { break },
                ended = &mut copying => panic!("it came to its end: {ended:?}"),
            }
        }
    });
    drop((pull, interrupted));
    assert_ne!(scene.rows("SELECT n || '' FROM bare LIMIT 1").len(), 0);
    server()
        .query_in("keyless", "DELETE FROM bare WHERE n < 10; UPDATE bare SET n = -1 WHERE n = 2500")
        .unwrap();
    let copied = scene.runtime.block_on(scene.pulling().copy_once(Parts::All, |_| ()));
    // What was begun is of one table.
    let copied = copied.unwrap();
    let found = copied.found.unwrap();
    assert!(copied.resumed && found.is_equal(), "{found:?}");
    assert_eq!(copied.tables, [("bare".to_owned(), found.rows)]);
    let notes: Vec<String> = copied.notes.iter().map(ToString::to_string).collect();
    assert!(notes.contains(&format!("bare: {NO_KEY}")), "{notes:?}");
    let there = server().query_in("keyless", THERE).unwrap();
    assert_eq!(there.len() as u64, found.rows);
    assert_eq!(scene.difference_from(there, HERE), None);
    // A sync of it would not know its rows.
    let (_, why) = scene.refused(scene.pulling_from(&scene.url, &["bare"]));
    assert!(why.contains("`bare` cannot be pulled: has no primary key"), "{why}");
}

/// Into a table of somebody else's, which makes other values of some and admits others not at all.
#[test]
fn rows_without_a_key_that_are_otherwise_are_told() {
    let sql = "CREATE TABLE bare(code varchar(9), n int);
               INSERT INTO bare VALUES ('a', 1), ('007', 2), ('b', 3), ('b', 3), ('c', NULL), ('no', 5)";
    let scene = Scene::new("keyless_odd", sql);
    let db = Connection::open(scene.database()).unwrap();
    db.execute_batch("CREATE TABLE bare(code INT CHECK (code <> 'no'), n INT)").unwrap();
    let copied = scene.runtime.block_on(scene.pulling().copy_once(Parts::Rows, |_| ())).unwrap();
    let found = copied.found.unwrap();
    assert_eq!((found.rows, found.missing, found.extra, found.different), (6, 1, 1, 0), "{found:?}");
    let told: Vec<String> =
        found.told.iter().map(|told| format!("{} {}", told.what, told.key.join(" "))).collect();
    assert_eq!(told, ["extra i7 i2", "missing s007 i2"]);
    let refused: Vec<String> = copied.refused.iter().map(|row| row.key.join(" ")).collect();
    assert_eq!(refused, ["sno i5"]);
    assert_eq!(scene.rows("SELECT count(*) || '' FROM bare"), [[Some("5".to_owned())]]);
    // One that has a key would take equal rows for one.
    let scene = Scene::with_url(scene.url.clone());
    let db = Connection::open(scene.database()).unwrap();
    db.execute_batch("CREATE TABLE bare(code TEXT PRIMARY KEY, n INT)").unwrap();
    let error = scene.runtime.block_on(scene.pulling().copy_once(Parts::Rows, |_| ())).unwrap_err();
    assert!(error.to_string().contains("it has a primary key, and what comes has none"), "{error}");
}
