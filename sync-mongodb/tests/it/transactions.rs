//! What MongoDB's transactions do otherwise: they end with their first error, and stay open when nobody ends them.

use litekeep_sync::{Flow as _, Kind, Target as _, compare};
use mongodb::bson::{Document, doc};

use crate::following::TABLES;
use crate::scene::Scene;
use crate::server::{self, server};

/// Goal: in one large transaction every row that can arrive does, and each that cannot is listed with why.
#[test]
fn refused_rows_leave_the_rest_of_a_large_transaction_whole() {
    let scene = Scene::new(
        "blamed",
        "CREATE TABLE t(id INTEGER PRIMARY KEY, n INT, x TEXT); INSERT INTO t VALUES (1, 1, 'a'), (2, 2, 'b')",
    );
    let mut push = scene.pushed();
    let validator = doc! { "x": { "$ne": "bad" } };
    let index = doc! { "key": { "n": 1 }, "name": "theirs", "unique": true };
    server().run("blamed", doc! { "createIndexes": "t", "indexes": [index] }).unwrap();
    server().run("blamed", doc! { "collMod": "t", "validator": validator }).unwrap();
    scene.commit(
        "WITH RECURSIVE i(i) AS (SELECT 10 UNION ALL SELECT i + 1 FROM i WHERE i < 7000)
         INSERT INTO t SELECT i, i, CASE WHEN i % 1000 = 7 THEN 'bad' ELSE 'x' || i END FROM i;
         UPDATE t SET n = 5000 WHERE id = 1; UPDATE t SET n = 1 WHERE id = 6999; UPDATE t SET n = 5000, x = 'B' WHERE id = 2",
    );
    scene.push(&mut push).unwrap();
    // 1007 to 6007 by the validator. Of those that want 5000 row 1 has it; row 2 is as it was, row 5000 is not there; and row 6999 has what row 1 had.
    let listed = server::listed(&server(), "blamed");
    assert_eq!(push.kept().unwrap().refused, listed.len() as u64);
    assert_eq!(
        listed.iter().filter(|row| row.contains("Document failed validation")).count(),
        6,
        "{listed:#?}"
    );
    assert_eq!((server::count(&server(), "blamed", "t"), listed.len()), (6993 - 7, 8), "{listed:#?}");
    let rows = server().documents("blamed", "t").unwrap();
    assert_eq!(
        rows[..2],
        [doc! { "_id": 1_i64, "n": 5000_i64, "x": "a" }, doc! { "_id": 2_i64, "n": 2_i64, "x": "b" }]
    );
    assert!(rows.contains(&doc! { "_id": 6999_i64, "n": 1_i64, "x": "x6999" }));
    server().run("blamed", doc! { "dropIndexes": "t", "index": "theirs" }).unwrap();
    server().run("blamed", doc! { "collMod": "t", "validator": {} }).unwrap();
    scene.commit("UPDATE t SET x = x || '!'");
    scene.push(&mut push).unwrap();
    assert_eq!(push.kept().unwrap().refused, 0);
    scene.assert_equal(&push.kept().unwrap().tables, &server());
}

/// Goal: rows exchange a unique value also where they are far from each other in one transaction.
#[test]
fn unique_values_move_through_a_large_transaction() {
    let scene = Scene::new(
        "moved",
        "CREATE TABLE t(id INTEGER PRIMARY KEY, n INT UNIQUE, x TEXT);
         WITH RECURSIVE i(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM i WHERE i < 9000) INSERT INTO t SELECT i, i, 'x' FROM i",
    );
    let mut push = scene.pushed();
    scene.write(|db| {
        let tx = db.transaction().unwrap();
        tx.execute_batch("UPDATE t SET n = -n; UPDATE t SET n = 9001 + n").unwrap();
        tx.commit().unwrap();
    });
    scene.push(&mut push).unwrap();
    assert_eq!(push.kept().unwrap().refused, 0);
    scene.assert_equal(&push.kept().unwrap().tables, &server());
}

/// A transaction that somebody has left open keeps others from what it has written, for a minute: it is ended.
#[test]
fn a_transaction_that_was_left_open_is_no_obstacle() {
    let scene = Scene::new("left", &format!("{TABLES} INSERT INTO t VALUES (1, 'a', 0)"));
    let push = scene.pushed();
    drop(push);
    let stage = doc! { "sync": "orders", "item": "stage" };
    for (collection, key) in [("t", doc! { "_id": 1_i64 }), ("_litekeep_sync", doc! { "_id": stage })] {
        let (client, mut session) = scene.runtime.block_on(async {
            let client = mongodb::Client::with_uri_str(&scene.url).await.unwrap();
            let mut session = client.start_session().await.unwrap();
            session.start_transaction().await.unwrap();
            let of = client.database("left").collection::<Document>(collection);
            let updated =
                of.update_one(key, doc! { "$set": { "name": "open" } }).session(&mut session).await.unwrap();
            assert_eq!(updated.matched_count, 1);
            (client, session)
        });
        // As if it were that of the last pusher.
        let id = doc! { "sync": "orders", "item": "session" };
        let of = doc! { "update": "_litekeep_sync", "updates": [{ "q": { "_id": id }, "u": { "$set": { "lsid": session.id().clone() } } }] };
        server().run("left", of).unwrap();
        let begun = std::time::Instant::now();
        scene.commit("UPDATE t SET x = x + 1; INSERT INTO bare VALUES ('y', 1)");
        let mut push = scene.pushing();
        while let Err(error) = scene.push(&mut push) {
            assert_eq!(error.kind(), Kind::Unavailable, "{error}");
        }
        assert!(begun.elapsed().as_secs() < 20, "{:?}", begun.elapsed());
        scene.assert_equal(&push.kept().unwrap().tables, &server());
        let _ = scene.runtime.block_on(async { session.abort_transaction().await });
        drop(client);
    }
}

/// Goal: who mends has the sync for itself, and who pushes goes on afterwards. Method: a commit in the middle of a comparison.
#[test]
fn who_mends_and_who_pushes_do_not_disturb_each_other() {
    let scene = Scene::new("mends", &format!("{TABLES} INSERT INTO t VALUES (1, 'a', 0)"));
    let mut push = scene.pushed();
    let (_, mut target) = scene.sides();
    scene.commit("INSERT INTO t VALUES (2, 'b', 0)");
    scene.runtime.block_on(async {
        target.connect().await.unwrap();
        let kept = target.hold(true).await.unwrap().unwrap();
        target.open(0).await.unwrap();
        let stepped = push.step().await.unwrap_err();
        assert!(stepped.kind() == Kind::Unavailable && stepped.to_string().contains("compares"), "{stepped}");
        assert_eq!(target.fetch().await.unwrap().len(), 1);
        target.commit(&kept.stage).await.unwrap();
    });
    scene.push(&mut push).unwrap();
    scene.assert_equal(&push.kept().unwrap().tables, &server());
    // One that was killed meanwhile is waited for half a minute at most.
    let (settings, mut target) = scene.sides();
    scene.runtime.block_on(async {
        target.connect().await.unwrap();
        target.hold(true).await.unwrap();
        drop(target);
    });
    scene.commit("INSERT INTO t VALUES (3, 'c', 0)");
    let push = scene.pushed();
    scene.assert_equal(&push.kept().unwrap().tables, &server());
    let (_, mut target) = scene.sides();
    assert!(scene.runtime.block_on(compare::run(&settings, &mut target, false)).unwrap().is_equal());
}
