//! A pooler in front of the server.

use litekeep_sync::compare;

use crate::following::{TABLES, churn};
use crate::scene::Scene;
use crate::server::{Options, server};

/// Goal: everything works through a pooler that gives the server's connection to another client after each transaction.
#[test]
fn a_pooler_in_transaction_mode_is_enough() {
    let mut scene = Scene::new("pooled", TABLES);
    let pooler = server().pooler().unwrap();
    scene.url = pooler.url("pooled");
    let mut random = fastrand::Rng::with_seed(3);
    let mut push = scene.pushed();
    for _ in 0..6 {
        scene.write(|db| churn(db, &mut random));
        scene.push(&mut push).unwrap();
        // Another client, whose statements must not meet ours on the one connection of the server.
        let (settings, mut target) = scene.sides();
        let found = scene.runtime.block_on(compare::run(&settings, &mut target, false)).unwrap();
        assert!(found.is_equal(), "{found:?}");
    }
    // A copy beside a push.
    let second = Scene::new("pooled_too", TABLES);
    second.write(|db| churn(db, &mut random));
    let mut copying = second
        .pushing_to(&pooler.url("pooled"), Options { schema: Some("second".into()), ..Options::default() });
    second.push(&mut copying).unwrap();
    scene.write(|db| churn(db, &mut random));
    scene.push(&mut push).unwrap();
}
