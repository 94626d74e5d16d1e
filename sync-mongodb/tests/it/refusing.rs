//! What is told to people.

use litekeep_sync::{Flow as _, Kind};
use litekeep_testkit::mongodb::{Kind as Of, Mongodb};
use mongodb::bson::doc;

use crate::pushers::{TABLE, error, told};
use crate::scene::Scene;
use crate::server::{self, server};

#[test]
fn who_may_not_is_told_what_to_grant() {
    let guarded = Mongodb::start_as(Of::Guarded).unwrap();
    let scene = Scene::with_url(guarded.url("rights"), TABLE);
    let user =
        doc! { "createUser": "reader", "pwd": "secret", "roles": [{ "role": "read", "db": "rights" }] };
    guarded.run("admin", user).unwrap();
    let url = |login: &str| format!("{}?authSource=admin", guarded.url_with(login, "rights"));
    let wrong = error(&scene, &url("reader:wrong@"));
    told(
        &wrong,
        "connect in mongodb://reader@127.0.0.1",
        "in the database `admin`: db.changeUserPassword(\"reader\"",
    );
    assert!(!wrong.to_string().contains("wrong"), "{wrong}");
    told(
        &error(&scene, &guarded.url_with("reader:secret@", "rights")),
        "uthentication failed",
        "`authSource`",
    );
    told(
        &error(&scene, &guarded.url_with("", "rights")),
        "requires authentication",
        "name a user in the URL",
    );
    let rights = error(&scene, &url("reader:secret@"));
    told(
        &rights,
        "not authorized on rights",
        "db.grantRolesToUser(\"reader\", [{ role: \"readWrite\", db: \"rights\" }])",
    );
    // And what it says is enough.
    let role = doc! { "role": "readWrite", "db": "rights" };
    guarded.run("admin", doc! { "grantRolesToUser": "reader", "roles": [role] }).unwrap();
    let mut push = scene.pushing_to(&url("reader:secret@"), Default::default());
    scene.push(&mut push).unwrap();
    scene.commit(
        "ALTER TABLE t ADD COLUMN y INT; CREATE TABLE more(a INT UNIQUE); INSERT INTO more VALUES (1); DELETE FROM t WHERE id = 1",
    );
    scene.push(&mut push).unwrap();
    assert_eq!((server::count(&guarded, "rights", "more"), server::count(&guarded, "rights", "t")), (1, 0));
    let (settings, _) = scene.sides();
    let mut side = server::side(&url("reader:secret@"), "orders", Default::default());
    let found = scene.runtime.block_on(litekeep_sync::compare::run(&settings, &mut side, true)).unwrap();
    assert!(found.is_equal(), "{found:?}");
}

/// Transactions are what everything rests on.
#[test]
fn a_server_that_has_no_transactions_is_refused() {
    let scene = Scene::new("alone", TABLE);
    let alone = Mongodb::start_as(Of::Alone).unwrap();
    told(&error(&scene, &alone.url("alone")), "it is no replica set", "rs.initiate()");
    let waiting = Mongodb::start_as(Of::NotBegun).unwrap();
    let url = format!("{}?serverSelectionTimeoutMS=1000", waiting.url("alone"));
    told(&error(&scene, &url), "its replica set has not begun", "rs.initiate()");
}

#[test]
fn what_is_there_is_not_overwritten() {
    let scene = Scene::new("taken", TABLE);
    let run = |command| server().run("taken", command).unwrap();
    run(doc! { "create": "t", "capped": true, "size": 4096 });
    told(&error(&scene, &scene.url), "is capped", "db.createCollection(\"t\")");
    run(doc! { "drop": "t" });
    run(doc! { "create": "t", "collation": { "locale": "en", "strength": 2 } });
    told(&error(&scene, &scene.url), "has a collation", "db.createCollection(\"t\")");
    run(doc! { "drop": "t" });
    run(doc! { "create": "t", "viewOn": "other", "pipeline": [] });
    told(&error(&scene, &scene.url), "is a view", "db.createCollection(\"t\")");
    run(doc! { "drop": "t" });
    run(doc! { "insert": "t", "documents": [{ "_id": 7, "x": "theirs" }] });
    told(&error(&scene, &scene.url), "has documents", "db.getCollection(\"t\").deleteMany({})");
    assert_eq!(server::count(&server(), "taken", "_litekeep_sync"), 0, "nothing was begun");
    run(doc! { "delete": "t", "deletes": [{ "q": {}, "limit": 0 }] });
    scene.pushed();
    assert_eq!(server().documents("taken", "t").unwrap(), [doc! { "_id": 1_i64, "x": "a" }]);
}

#[test]
fn no_answer_and_no_trust_are_told_apart() {
    let scene = Scene::new("silent", TABLE);
    let gone = error(&scene, "mongodb://127.0.0.1:1/app?serverSelectionTimeoutMS=500");
    assert_eq!(gone.kind(), Kind::Unavailable, "{gone}");
    assert!(gone.hint().is_some_and(|hint| hint.starts_with("nothing listens there")), "{gone:?}");
    let unknown = error(&scene, "mongodb://nowhere.invalid/app?serverSelectionTimeoutMS=500");
    assert!(unknown.hint().is_some_and(|hint| hint.starts_with("nobody knows a host")), "{unknown:?}");
    // Its authority is none of those that are known.
    let (url, ca) = {
        let server = server();
        (
            format!("mongodb://localhost:{}/silent?serverSelectionTimeoutMS=2000", server.port()),
            server.ca_file(),
        )
    };
    told(&error(&scene, &format!("{url}&tls=true")), "certificate", "tlsCAFile=FILE");
    let mut push =
        scene.pushing_to(&format!("{url}&tls=true&tlsCAFile={}", ca.display()), Default::default());
    scene.push(&mut push).unwrap();
    assert_eq!(push.progress().unwrap().refused, 0);
    assert_eq!(server::count(&server(), "silent", "t"), 1);
}
