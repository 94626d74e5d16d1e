//! What of changes is MongoDB's own: parts of documents, transactions whose end nothing tells, and collections that come and go.

use litekeep_sync::{Flow as _, Kind};
use litekeep_testkit::mongodb::bson::{Document, doc};
use rusqlite::Connection;

use crate::pull_scene::Scene;
use crate::pulled::{self, DATABASE, TABLES, churn};
use crate::server::{server, start};

fn run(database: &str, command: Document) {
    server().run(database, command).unwrap();
}

fn insert(database: &str, collection: &str, document: Document) {
    run(database, doc! { "insert": collection, "documents": [document] });
}

fn update(collection: &str, id: i32, change: Document) -> Document {
    doc! { "update": collection, "updates": [{ "q": { "_id": id }, "u": change }] }
}

/// Goal: of a change within a document or an array the whole field comes, whether the server keeps documents as they were or not.
#[test]
fn parts_of_fields_come_whole() {
    for images in [false, true] {
        let name = if images { "inward_images" } else { "inward_parts" };
        let images = doc! { "enabled": images };
        run(name, doc! { "create": "t", "changeStreamPreAndPostImages": images });
        let scene = Scene::with_url(server().url(name));
        insert(
            name,
            "t",
            doc! { "_id": 1, "d": { "a": { "b": 1 } }, "l": [1, 2, 3, 4, 5, 6, 7, 8, 9], "n": 1, "dot.ted": { "x": 1 } },
        );
        let mut pull = scene.pulled();
        for change in [
            doc! { "$set": { "d.a.b": 2 } },
            doc! { "$set": { "d.a.c": "new", "n": 2 } },
            doc! { "$unset": { "d.a.b": 1 } },
            doc! { "$push": { "l": 10 } },
            doc! { "$set": { "l.0": "first" } },
            doc! { "$pop": { "l": 1 } },
            doc! { "$push": { "l": { "$each": [], "$slice": 3 } } },
            doc! { "$unset": { "d": 1 } },
            doc! { "$set": { "d.again": [] } },
        ] {
            run(name, update("t", 1, change.clone()));
            scene.pull(&mut pull).unwrap();
            let found = scene.runtime.block_on(pull.compare()).unwrap();
            assert!(found.is_equal() && found.rows == 1, "{change}: {found:?}");
        }
        let row = scene.rows("SELECT d, l, n || '', \"dot.ted\" FROM t");
        let texts = [
            r#"{"again":[]}"#,
            r#"["first",{"$numberInt":"2"},{"$numberInt":"3"}]"#,
            "2",
            r#"{"x":{"$numberInt":"1"}}"#,
        ];
        assert_eq!(row, [texts.map(|text| Some(text.to_owned()))]);
        // Several of one document before any comes, and one that is gone by then.
        insert(name, "t", doc! { "_id": 2, "d": { "a": 1 } });
        for nth in 0..20 {
            run(name, update("t", 1, doc! { "$set": { format!("d.f{nth}"): nth, "n": nth } }));
            run(name, update("t", 2, doc! { "$inc": { "d.a": 1 } }));
        }
        run(name, doc! { "delete": "t", "deletes": [{ "q": { "_id": 2 }, "limit": 1 }] });
        scene.pull(&mut pull).unwrap();
        let found = scene.runtime.block_on(pull.compare()).unwrap();
        assert!(found.is_equal() && found.rows == 1, "{found:?}");
        assert_eq!(pull.progress().unwrap().refused, 0);
    }
}

/// Goal: a transaction of the server's is seen here whole or not at all, while more of them follow. Method: money goes from account to account in
/// two collections; whoever looks sees all of it.
#[test]
fn transactions_are_seen_whole() {
    const ACCOUNTS: i32 = 5;
    let scene = Scene::with_url(server().url("inward_whole"));
    for (id, bank) in (0..ACCOUNTS).flat_map(|id| ["one", "two"].map(|bank| (id, bank))) {
        insert("inward_whole", bank, doc! { "_id": id, "money": 100, "moved": 0 });
    }
    let mut pull = scene.pulled();
    let mut random = fastrand::Rng::with_seed(3);
    let db = Connection::open(scene.database()).unwrap();
    let look = || -> (i64, i64) {
        let sql = "SELECT sum(money), sum(moved) FROM (SELECT * FROM one UNION ALL SELECT * FROM two)";
        db.query_row(sql, (), |row| Ok((row.get(0)?, row.get(1)?))).unwrap()
    };
    let (mut moved, mut seen) = (0, vec![]);
    for _ in 0..12 {
        for _ in 0..random.u32(1..12) {
            let (from, to, money) = (random.i32(0..ACCOUNTS), random.i32(0..ACCOUNTS), random.i32(1..50));
            let take = doc! { "$inc": { "money": -money, "moved": 1 } };
            let give = doc! { "$inc": { "money": money, "moved": 1 } };
            let both = vec![update("one", from, take), update("two", to, give)];
            let commits = random.u32(0..8) > 0;
            server().transaction("inward_whole", both, commits).unwrap();
            moved += if commits { 2 } else { 0 };
        }
        scene.follow(&mut pull, || {
            let (money, so_far) = look();
            seen.push((money, so_far % 2));
            so_far == moved
        });
    }
    assert!(seen.iter().all(|seen| *seen == (i64::from(2 * ACCOUNTS) * 100, 0)), "{seen:?}");
    assert!(scene.runtime.block_on(pull.compare()).unwrap().is_equal());
}

#[test]
fn fields_that_come_later_are_columns() {
    let scene = Scene::with_url(server().url("inward_grows"));
    for id in 0..3_000 {
        if id % 1_000 == 0 {
            let some: Vec<Document> =
                (id..id + 1_000).map(|id| doc! { "_id": id, "x": "y".repeat(3_000) }).collect();
            run("inward_grows", doc! { "insert": "t", "documents": some });
        }
    }
    let mut pull = scene.pulling();
    // In the middle of the copy, before and behind what has been read.
    scene.runtime.block_on(async {
        while pull.progress().and_then(|progress| progress.copied_rows).unwrap_or(0) == 0 {
            pull.step().await.unwrap();
        }
    });
    run("inward_grows", update("t", 2_999, doc! { "$set": { "behind": 1 } }));
    run("inward_grows", update("t", 0, doc! { "$set": { "before": "b" } }));
    // Begun anew, it knows them still.
    pull = scene.pulling();
    scene.pull(&mut pull).unwrap();
    assert_eq!(
        scene.rows("SELECT before || (SELECT behind FROM t WHERE _id = 2999) FROM t WHERE _id = 0"),
        [[Some("b1".to_owned())]]
    );
    assert!(scene.runtime.block_on(pull.compare()).unwrap().is_equal());
    // By changes of all kinds; a field of nothing is none.
    insert("inward_grows", "t", doc! { "_id": 5_000, "inserted": 1.5, "nothing": null });
    run("inward_grows", update("t", 1, doc! { "replaced": true }));
    run("inward_grows", update("t", 2, doc! { "$set": { "part": { "a": 1 } } }));
    run("inward_grows", update("t", 2, doc! { "$set": { "part.b": 2 } }));
    scene.pull(&mut pull).unwrap();
    let columns = scene.rows("SELECT group_concat(name || ' ' || type) FROM pragma_table_info('t')");
    assert_eq!(
        columns,
        [[Some(
            "_id INTEGER,x TEXT,behind INTEGER,before TEXT,inserted REAL,replaced BOOLEAN,part TEXT"
                .to_owned()
        )]]
    );
    assert_eq!(pull.progress().unwrap().paused, []);
    assert!(scene.runtime.block_on(pull.compare()).unwrap().is_equal());
    // What SQLite cannot tell apart stands still, and the others go on.
    insert("inward_grows", "t", doc! { "_id": 5_001, "X": 1 });
    insert("inward_grows", "more", doc! { "_id": 1 });
    scene.pull(&mut pull).unwrap();
    let paused = pull.progress().unwrap().paused;
    assert!(
        paused.len() == 1 && paused[0].1.contains("its fields `x` and `X` are one column for SQLite"),
        "{paused:?}"
    );
    run("inward_grows", update("t", 5_001, doc! { "$rename": { "X": "x" } }));
    // It is text here, and stays so.
    run("inward_grows", update("t", 5_001, doc! { "$set": { "x": "1" } }));
    scene.runtime.block_on(pull.resync()).unwrap();
    scene.pull(&mut pull).unwrap();
    assert_eq!(pull.progress().unwrap().paused, []);
    assert_eq!(scene.rows("SELECT count(*) || '' FROM more"), [[Some("1".to_owned())]]);
    assert!(scene.runtime.block_on(pull.compare()).unwrap().is_equal());
}

#[test]
fn collections_that_go_stand_still_and_the_others_go_on() {
    let scene = Scene::with_url(server().url("inward_gone"));
    for collection in ["dropped", "renamed", "replaced", "other", "stays"] {
        insert("inward_gone", collection, doc! { "_id": 1, "x": collection });
    }
    let mut pull = scene.pulling_from(&scene.url, &["dropped", "renamed", "replaced", "stays"]);
    scene.pull_in_the_end(&mut pull);
    let rename = |from: &str, to: &str| {
        let command = doc! { "renameCollection": format!("inward_gone.{from}"), "to": format!("inward_gone.{to}"), "dropTarget": true };
        server().run("admin", command).unwrap();
    };
    run("inward_gone", doc! { "drop": "dropped" });
    insert("inward_gone", "dropped", doc! { "_id": 2, "x": "another" });
    rename("renamed", "elsewhere");
    rename("other", "replaced");
    insert("inward_gone", "stays", doc! { "_id": 2, "x": "more" });
    scene.pull(&mut pull).unwrap();
    assert_eq!(scene.rows("SELECT count(*) || '' FROM stays"), [[Some("2".to_owned())]]);
    let mut paused = pull.progress().unwrap().paused;
    paused.sort();
    let names: Vec<&str> = paused.iter().map(|(table, _)| table.as_str()).collect();
    assert_eq!(names, ["dropped", "renamed", "replaced"]);
    assert!(paused[0].1.contains("it was dropped there, or has another name"), "{paused:?}");
    assert_eq!(scene.rows("SELECT x FROM dropped"), [[Some("dropped".to_owned())]]);
    // Without the one that is not there it goes on with what is.
    let mut pull = scene.pulling_from(&scene.url, &["dropped", "replaced", "stays"]);
    scene.runtime.block_on(pull.resync()).unwrap();
    scene.pull(&mut pull).unwrap();
    assert_eq!(pull.progress().unwrap().paused, []);
    assert_eq!(
        scene.rows("SELECT x FROM dropped UNION ALL SELECT x FROM replaced"),
        [[Some("another".to_owned())], [Some("other".to_owned())]]
    );
    // The whole database goes, and another one of its name comes: the stream ends, and goes on.
    run("inward_gone", doc! { "dropDatabase": 1 });
    insert("inward_gone", "stays", doc! { "_id": 9, "x": "new" });
    scene.pull(&mut pull).unwrap();
    assert_eq!(pull.progress().unwrap().paused.len(), 3);
    for collection in ["dropped", "replaced"] {
        insert("inward_gone", collection, doc! { "_id": 9, "x": "new" });
    }
    scene.runtime.block_on(pull.resync()).unwrap();
    scene.pull(&mut pull).unwrap();
    insert("inward_gone", "stays", doc! { "_id": 10, "x": "newer" });
    scene.pull(&mut pull).unwrap();
    assert_eq!(
        scene.rows("SELECT group_concat(x) FROM (SELECT x FROM stays ORDER BY _id)"),
        [[Some("new,newer".to_owned())]]
    );
    assert!(scene.runtime.block_on(pull.compare()).unwrap().is_equal());
}

/// Goal: where the server has let go of changes, or was set back, rows are compared, and those that are gone there go here.
#[test]
fn a_history_that_is_lost_costs_a_comparison_and_no_row() {
    let scene = Scene::new("inward_lost", TABLES);
    let mut random = fastrand::Rng::with_seed(8);
    drop(scene.pulled());
    for is_token in [true, false] {
        pulled::name_orders(
            &server(),
            "inward_lost",
            &[(1_000 + i64::from(is_token), if is_token { "a" } else { "b" })],
        );
        let position = scene.pulled().progress().unwrap().position.unwrap();
        let (_, token) = position.split_once('/').unwrap();
        // A change that this server has not had, and a time that it has not yet.
        let stands = match is_token {
            true => format!(
                "{}/{}000000FF{}",
                position.split_once('.').unwrap().0.to_owned() + ".255",
                &token[..10],
                &token[18..]
            ),
            false => "4000000000.1".to_owned(),
        };
        churn(&server(), "inward_lost", &mut random);
        let db = Connection::open(scene.database()).unwrap();
        let sql = "UPDATE _litekeep_sync SET content = replace(content, ?1, ?2) WHERE item = 'stage'";
        db.execute(sql, (&position, &stands)).unwrap();
        db.execute_batch("INSERT INTO orders(_id, name) VALUES(100000, 'not there')").unwrap();
        let pull = scene.pulled();
        scene.assert_equal(&server());
        assert_ne!(pull.progress().unwrap().position, Some(stands));
    }
}

#[test]
fn another_server_is_told() {
    let scene = Scene::new("inward_other", TABLES);
    drop(scene.pulled());
    let db = Connection::open(scene.database()).unwrap();
    db.execute("UPDATE _litekeep_sync SET content = replace(content, '\"server\":\"rs0/', '\"server\":\"rs1/') WHERE item = 'stage'", ()).unwrap();
    let (kind, said) = scene.refused(scene.pulling());
    assert!(
        kind == Kind::Invalid && said.contains("is another server") && said.contains("sync resync orders"),
        "{said}"
    );
    scene.runtime.block_on(scene.pulling().resync()).unwrap();
    drop(scene.pulled());
    scene.assert_equal(&server());
}

#[test]
fn what_is_over_leaves_nothing() {
    let scene = Scene::new("inward_forgotten", TABLES);
    let mut pull = scene.pulled();
    scene.runtime.block_on(pull.forget()).unwrap();
    let tables = scene
        .rows("SELECT name FROM sqlite_schema WHERE type = 'table' AND name IN ('orders', '_litekeep_sync')");
    assert_eq!(tables, [[Some("orders".to_owned())]]);
    assert_eq!(server().count("inward_forgotten", "_litekeep_sync").unwrap(), 0, "nothing of ours is there");
}

#[test]
fn one_database_is_pulled_by_one() {
    let scene = Scene::new("inward_two", TABLES);
    let (mut first, mut second) = (scene.pulled(), scene.pulling());
    scene.pull_in_the_end(&mut second);
    pulled::name_orders(&server(), "inward_two", &[(1, "a")]);
    scene.pull_in_the_end(&mut second);
    let error = scene.runtime.block_on(async {
        loop {
            if let Err(error) = first.step().await {
                break error;
            }
        }
    });
    assert!(error.hint().is_some_and(|hint| hint.contains("end one of them")), "{error}");
    pulled::name_orders(&server(), "inward_two", &[(2, "b")]);
    scene.pull_in_the_end(&mut second);
    scene.assert_equal(&server());
}

/// Goal: a server that goes away while somebody waits for changes is told as one that does not answer, and what it has done comes when it is back.
#[test]
fn a_server_that_goes_away_is_waited_for() {
    let mut server = start();
    pulled::make_tables(&server, DATABASE, TABLES);
    let scene = Scene::with_url(server.url(DATABASE));
    let mut pull = scene.pulled();
    for round in 1..4 {
        pulled::name_orders(&server, DATABASE, &[(round, &format!("n{round}"))]);
        server.kill().unwrap();
        let error = scene.runtime.block_on(async {
            loop {
                if let Err(error) = pull.step().await {
                    break error;
                }
            }
        });
        assert_eq!(error.kind(), Kind::Unavailable, "{error}");
        server.resume().unwrap();
        scene.pull_in_the_end(&mut pull);
        scene.assert_equal(&server);
    }
}
