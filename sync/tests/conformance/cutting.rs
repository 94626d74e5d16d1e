//! Goal: of a table with `columns` and `where` SQLite has what the server finds under the same condition, and no more, whatever happens.
//! Method: real logs, and what the server selects held against what is here.

use std::time::Duration;

use litekeep_sync::cut::Cut;
use litekeep_sync::{Flow as _, Kind, Pull};

use crate::pull_scene::Scene;
use crate::pulled::{self, LONG, NAMES, PARTS, Source, TABLES, WHOLE, churn, transaction};
use crate::server::{Server, server};

const ORDERS_WITH: &str = "amount IS NOT NULL AND id % 3 <> 1";

fn cut_of(columns: &[(&str, &[&str])], rows: &[(&str, &str)]) -> Cut {
    let named = |(table, columns): &(&str, &[&str])| {
        ((*table).to_owned(), columns.iter().map(|column| (*column).to_owned()).collect())
    };
    let rows = rows.iter().map(|(table, condition)| ((*table).to_owned(), (*condition).to_owned()));
    Cut { columns: columns.iter().map(named).collect(), rows: rows.collect(), ..Cut::default() }
}

/// Orders without two columns, one of which the condition looks at; parts by their key and what is long.
fn cut() -> Cut {
    let parts = "a % 2 = 0 AND substr(long, -1) <> '5'";
    cut_of(&[("orders", &["name", "id"])], &[("orders", ORDERS_WITH), ("PARTS", parts)])
}

impl Scene {
    /// A part of the tables.
    pub(crate) fn pulling_cut(&self, cut: &Cut) -> Pull<Source> {
        self.pull_of(&self.url, &[], cut.clone())
    }
}

fn scene(name: &str) -> Scene {
    Scene::new(name, &format!("{TABLES} {WHOLE}"))
}

/// What there is otherwise than [`cut`] says.
fn difference(scene: &Scene, server: &Server) -> Option<String> {
    let orders = format!("SELECT {NAMES} FROM orders WHERE {ORDERS_WITH}");
    let parts = format!("SELECT {PARTS} FROM parts WHERE a % 2 = 0 AND right({LONG}, 1) <> '5'");
    let here = ["SELECT CAST(id AS TEXT), name FROM orders", "SELECT CAST(a AS TEXT), b, long FROM parts"];
    let there = |sql: &str| server.query_in(scene.name(), sql).unwrap();
    let orders = scene.difference_from(there(&orders), here[0]).map(|what| format!("orders: {what}"));
    orders.or_else(|| scene.difference_from(there(&parts), here[1]))
}

fn columns(scene: &Scene, table: &str) -> Vec<String> {
    let rows = scene.rows(&format!("SELECT name FROM pragma_table_info('{table}') ORDER BY cid"));
    rows.into_iter().flatten().flatten().collect()
}

#[test]
fn what_fulfils_a_condition_is_here_whatever_happens_there() {
    let scene = scene("inward_cut");
    let mut random = fastrand::Rng::with_seed(21);
    let mut pull = scene.pulling_cut(&cut());
    for round in 0..30 {
        churn(&server(), "inward_cut", &mut random);
        match round % 5 {
            0 => {
                pull = scene.pulling_cut(&cut());
                scene.pull_in_the_end(&mut pull);
            }
            1 => {
                let moment = Duration::from_micros(random.u64(100..40_000));
                scene.runtime.block_on(async {
                    let _ = tokio::time::timeout(moment, pull.step()).await;
                });
                scene.pull_in_the_end(&mut pull);
            }
            _ => scene.follow(&mut pull, || difference(&scene, &server()).is_none()),
        }
        assert_eq!(difference(&scene, &server()), None, "round {round}");
    }
    let found = scene.runtime.block_on(pull.compare()).unwrap();
    assert!(found.is_equal() && found.rows > 0, "{found:?}");
    let all = server().query_in("inward_cut", "SELECT 1 FROM orders UNION ALL SELECT 1 FROM parts").unwrap();
    assert!((found.rows as usize) < all.len(), "the condition has left nothing out");
    assert_eq!(columns(&scene, "orders"), ["id", "name"]);
}

#[test]
fn rows_come_and_go_as_they_begin_and_cease_to_fulfil_it() {
    let scene = scene("inward_moves");
    let long = |end: u32| format!("concat(repeat('y', 9000), '{end}')");
    let (one, two, five) = (long(1), long(2), long(5));
    let sql = format!(
        "INSERT INTO orders(id, name, amount) VALUES(1, 'a', 1), (2, 'b', 2), (3, 'c', NULL); \
         INSERT INTO parts VALUES(2, 'b', {one}), (3, 'b', {one}), (4, 'b', {five})"
    );
    server().query_in("inward_moves", &sql).unwrap();
    let mut pull = scene.pulling_cut(&cut());
    scene.pull_in_the_end(&mut pull);
    let here = |sql: &str| scene.rows(&format!("SELECT coalesce(group_concat(x, ' '), '') FROM ({sql})"));
    let all = || {
        let orders = here("SELECT id || name AS x FROM orders ORDER BY id");
        let parts = here("SELECT a || b || substr(long, -1) || length(long) AS x FROM parts ORDER BY a");
        [orders, parts].map(|rows| rows[0][0].clone().unwrap())
    };
    assert_eq!(all(), ["2b", "2b19001"]);
    let replaced = format!("UPDATE parts SET {LONG} = {two} WHERE a = 8");
    let in_one = format!(
        "INSERT INTO parts VALUES(10, 'b', {one}); UPDATE parts SET a = 11 WHERE a = 10; UPDATE parts SET a = 12 WHERE a = 11; \
         INSERT INTO orders(id, name, amount) VALUES(20, 'in', 1); UPDATE orders SET amount = NULL WHERE id = 20; \
         INSERT INTO orders(id, name, amount) VALUES(21, 'out', NULL); UPDATE orders SET amount = 2 WHERE id = 21;"
    );
    for (sql, orders, parts) in [
        ("UPDATE orders SET amount = 3 WHERE id = 3", "2b 3c", "2b19001"),
        ("UPDATE orders SET amount = NULL WHERE id = 2", "3c", "2b19001"),
        ("UPDATE orders SET name = concat('x', id) WHERE id <> 2", "3x3", "2b19001"),
        // Keys, out, in, and within.
        ("UPDATE orders SET id = 4 WHERE id = 3", "", "2b19001"),
        ("UPDATE orders SET id = 5 WHERE id = 1", "5x1", "2b19001"),
        ("UPDATE orders SET id = 6 WHERE id = 5", "6x1", "2b19001"),
        // What is long stays as it was.
        ("UPDATE parts SET b = 'c' WHERE a = 2", "6x1", "2c19001"),
        ("UPDATE parts SET a = 6 WHERE a = 3", "6x1", "2c19001 6b19001"),
        ("UPDATE parts SET a = 7 WHERE a = 2", "6x1", "6b19001"),
        ("UPDATE parts SET a = 8 WHERE a = 4", "6x1", "6b19001"),
        (replaced.as_str(), "6x1", "6b19001 8b29001"),
        (transaction(&in_one).as_str(), "6x1 21out", "6b19001 8b29001 12b19001"),
        ("DELETE FROM orders WHERE id < 20", "21out", "6b19001 8b29001 12b19001"),
    ] {
        server().query_in("inward_moves", sql).unwrap();
        scene.pull(&mut pull).unwrap();
        assert_eq!(all(), [orders, parts], "{sql}");
        assert_eq!(difference(&scene, &server()), None, "{sql}");
    }
    assert_eq!(pull.progress().unwrap().paused, []);
}

#[test]
fn columns_that_are_not_named_do_not_come_and_pause_nothing() {
    let scene = scene("inward_unnamed");
    let query = |sql: &str| server().query_in("inward_unnamed", sql).unwrap();
    query("INSERT INTO orders(id, name, amount) VALUES(2, 'b', 1)");
    let mut pull = scene.pulling_cut(&cut());
    scene.pull_in_the_end(&mut pull);
    query(
        "ALTER TABLE orders ADD COLUMN state varchar(9) NOT NULL DEFAULT 'new'; INSERT INTO orders(id, name, amount) VALUES(3, 'c', 1); \
         ALTER TABLE orders DROP COLUMN body; UPDATE orders SET name = 'd' WHERE id = 3; INSERT INTO orders(id, name) VALUES(5, 'e')",
    );
    scene.pull(&mut pull).unwrap();
    assert_eq!(pull.progress().unwrap().paused, []);
    assert_eq!(columns(&scene, "orders"), ["id", "name"]);
    assert_eq!(difference(&scene, &server()), None);
    let found = scene.runtime.block_on(pull.compare()).unwrap();
    assert!(found.is_equal() && found.rows == 2, "{found:?}");
    // Without that of the condition nobody knows which rows there shall be.
    query(
        "ALTER TABLE orders DROP COLUMN amount; INSERT INTO orders(id, name) VALUES(9, 'z'); INSERT INTO parts VALUES(2, 'x', 'y')",
    );
    scene.pull(&mut pull).unwrap();
    let paused = pull.progress().unwrap().paused;
    assert_eq!(paused, [("orders".to_owned(), "its column `amount` is gone or has another name".to_owned())]);
    assert_eq!(scene.rows("SELECT b FROM parts"), [[Some("x".to_owned())]]);
}

/// Goal: nothing is pulled by another condition or with other columns than the rows that are here, until all of them are compared.
#[test]
fn another_cut_is_taken_up_by_a_comparison() {
    let scene = scene("inward_recut");
    server().query_in("inward_recut", &pulled::orders(1, 30)).unwrap();
    drop(scene.pulled());
    let numbers = || {
        let rows = scene.rows("SELECT group_concat(id, ' ') FROM (SELECT id FROM orders ORDER BY id)");
        rows[0][0].clone().unwrap()
    };
    let few = cut_of(&[("orders", &["id", "amount"])], &[("orders", "id <= 3")]);
    let (kind, said) = scene.refused(scene.pulling_cut(&few));
    assert_eq!(kind, Kind::Invalid);
    assert!(
        said.contains("it was begun with all columns of `orders`, and `columns` says id, amount")
            && said.contains("`litekeep sync resync orders`"),
        "{said}"
    );
    let error = scene.runtime.block_on(scene.pulling_cut(&few).compare()).unwrap_err();
    assert!(error.to_string().contains("`columns` says id, amount"), "{error}");
    let taken_up = |cut: &Cut| {
        let mut pull = scene.pulling_cut(cut);
        scene.runtime.block_on(pull.resync()).unwrap();
        scene.pull_in_the_end(&mut pull);
        let found = scene.runtime.block_on(pull.compare()).unwrap();
        assert!(found.is_equal(), "{found:?}");
    };
    taken_up(&few);
    assert_eq!(numbers(), "1 2 3");
    assert_eq!(columns(&scene, "orders"), ["id", "amount"]);
    let indexes = "SELECT name FROM sqlite_schema WHERE type = 'index' AND tbl_name = 'orders'";
    assert_eq!(scene.rows(indexes).len(), 0, "that of the names has gone with them");
    // Amounts are text here, as the server writes them.
    let others = cut_of(&[("orders", &["id", "name"])], &[("orders", "CAST(amount AS REAL) > 27")]);
    let (_, said) = scene.refused(scene.pulling_cut(&others));
    assert!(
        said.contains("begun with the columns id, amount of `orders`, and `columns` says id, name"),
        "{said}"
    );
    taken_up(&others);
    assert_eq!(numbers(), "28 29 30");
    assert_eq!(columns(&scene, "orders"), ["id", "name"]);
    assert_eq!(scene.rows("SELECT name FROM orders WHERE id = 28"), [[Some("n28".to_owned())]]);
    // The condition alone.
    let same = cut_of(&[("ORDERS", &["NAME", "id"])], &[("orders", "CAST(amount AS REAL) > 28")]);
    let (_, said) = scene.refused(scene.pulling_cut(&same));
    assert!(
        said.contains("begun with the rows of `orders` that fulfil \"CAST(amount AS REAL) > 27\", and `where` says \"CAST"),
        "{said}"
    );
    taken_up(&same);
    assert_eq!(numbers(), "29 30");
    let (_, said) = scene.refused(scene.pulling());
    assert!(
        said.contains("begun with the columns id, name of `orders`, and `columns` says nothing of it"),
        "{said}"
    );
    taken_up(&Cut::default());
    scene.assert_equal(&server());
}

#[test]
fn a_cut_that_cannot_be_is_refused_before_anything_is_made() {
    let scene = scene("inward_miscut");
    for (cut, said) in [
        (cut_of(&[("orders", &["name"])], &[]), "`columns`: `id` is of the primary key of `orders`"),
        (cut_of(&[("orders", &["id", "nam"])], &[]), "`columns`: the table `orders` has no column `nam`"),
        (
            cut_of(&[("order", &["id"])], &[]),
            "`columns`: there is no table `order` in the sync; the tables are `orders`, `parts`",
        ),
        (cut_of(&[], &[("order", "id > 1")]), "`where`: there is no table `order` in the sync"),
        (cut_of(&[], &[("orders", "nam = 'x'")]), "`where`: the condition on `orders` is none"),
        (cut_of(&[], &[("orders", "rowid > 1")]), "no such column: rowid"),
    ] {
        let (kind, told) = scene.refused(scene.pulling_cut(&cut));
        assert_eq!(kind, Kind::Invalid, "{told}");
        assert!(told.contains(said), "{said}: {told}");
    }
    assert!(!scene.database().exists());
}
