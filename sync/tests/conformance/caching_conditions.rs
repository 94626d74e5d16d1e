//! Goal: of a cache with a pull beside it those rows are kept in step that fulfil a condition, and others are here from when they are asked for, until
//! they change. Method: as in `caching_changes`, on servers that speak SQL.

use litekeep_sync::cache::Origin;
use litekeep_sync::cut::Cut;

use crate::pull_scene::Scene;
use crate::pulled::{self, TABLES, WHOLE};
use crate::server::server;

fn cut() -> Cut {
    let rows = [("orders".to_owned(), "CAST(amount AS REAL) >= 100".to_owned())].into();
    Cut { rows, others_are_asked_for: true, ..Cut::default() }
}

#[test]
fn rows_that_fulfil_a_condition_are_kept_in_step_and_others_asked_for() {
    let scene = Scene::new("follow_where", &format!("{TABLES} {WHOLE}"));
    let there = |sql: &str| drop(server().query_in("follow_where", sql).unwrap());
    pulled::add_orders(&server(), "follow_where", (98, 102));
    pulled::add_parts(&server(), "follow_where", (1, 3), 10);
    let cache = scene.followed(&cut(), true);
    let mut worker = scene.worker(&cut());
    scene.go_on(&mut worker);
    assert_eq!(scene.orders_here(), ["100", "101", "102"]);
    assert!(scene.rows("SELECT b FROM parts").is_empty());
    let n = |id: i64| Some(format!("n{id}"));
    assert_eq!(scene.order(&cache, 100), (n(100), Origin::Hit));
    assert_eq!(scene.order(&cache, 98), (n(98), Origin::Miss));
    assert_eq!(scene.order(&cache, 98), (n(98), Origin::Hit));
    assert_eq!(scene.order(&cache, 99), (n(99), Origin::Miss));
    // One that fulfils it now stays, however long ago it was asked for; one that does not goes.
    there("UPDATE orders SET amount = 500 WHERE id = 98");
    there("UPDATE orders SET amount = 1 WHERE id IN (99, 101)");
    scene.go_on_until(&mut worker, || scene.orders_here() == ["98", "100", "102"]);
    scene.runtime.block_on(cache.run()).unwrap();
    scene.ages(3 * crate::caching_changes::DAY);
    scene.runtime.block_on(cache.run()).unwrap();
    assert_eq!(scene.orders_here(), ["98", "100", "102"]);
    assert_eq!(scene.order(&cache, 98), (n(98), Origin::Hit));
    assert_eq!(scene.order(&cache, 101), (n(101), Origin::Miss));
    // Where it is not kept in step the server is asked, and what is here is told for what it is.
    let alone = scene.followed(&cut(), false);
    there("UPDATE orders SET name = 'other' WHERE id = 100");
    assert_eq!(scene.order(&alone, 100), (Some("other".to_owned()), Origin::Miss));
    assert_eq!(scene.order(&cache, 100), (n(100), Origin::Hit));
    scene.go_on_until(&mut worker, || scene.order(&cache, 100).0.as_deref() == Some("other"));
}
