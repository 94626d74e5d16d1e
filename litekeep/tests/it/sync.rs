//! Goal: a sync of the configuration keeps PostgreSQL in step with the database, whoever is killed in between, and says how it
//! stands. Method: the real binary beside a writer, a real server, SIGKILL at random moments; every row is compared afterwards, by the
//! product and by plain SQL.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use litekeep_testkit::campaign;
use litekeep_testkit::postgres::Postgres;
use litekeep_testkit::process::eventually;
use rusqlite::Connection;

use crate::feeds::{add, write};
use crate::scene::{LONG, Scene, Store};
use crate::shapes;

pub(crate) fn scene_with(url: &str, more: &str) -> Scene {
    let scene = Scene::new(Store::Folder, "upload_interval = \"20ms\"");
    let db = Connection::open(scene.db()).unwrap();
    db.execute_batch(
        "PRAGMA journal_mode=WAL; CREATE TABLE t(n INTEGER PRIMARY KEY, v INTEGER); INSERT INTO t VALUES (1, 0);
         CREATE TABLE log(what TEXT, at DATETIME DEFAULT CURRENT_TIMESTAMP); INSERT INTO log(what) VALUES ('begun')",
    )
    .unwrap();
    drop(db);
    scene.replicate_once().unwrap();
    add(&scene, &format!("[[sync]]\nname = \"there\"\nto = {url:?}\n{more}"));
    scene
}

/// What both sides have, by plain SQL.
pub(crate) fn rows_here(scene: &Scene) -> String {
    let db = Connection::open(scene.db()).unwrap();
    let sql = "SELECT coalesce(group_concat(n || ':' || v, ' '), '') FROM (SELECT n, v FROM t ORDER BY n)";
    db.query_row(sql, (), |row| row.get(0)).unwrap()
}

fn rows_there(server: &Postgres) -> String {
    let rows = server.query("SELECT coalesce(string_agg(n || ':' || v, ' ' ORDER BY n), '') FROM t").unwrap();
    rows[0][0].clone().unwrap()
}

#[test]
fn plan_run_verify_and_what_cannot_go() {
    let server = Postgres::start().unwrap();
    let scene = scene_with(&server.url("postgres"), "");
    let place = &scene.place;
    let run = |args: &[&str]| place.run(args);
    let plan = run(&["sync", "plan", "--json"]).succeeded().json();
    shapes::matches("sync plan", &plan);
    assert!(plan["tables"][1]["sql"][0].as_str().unwrap().contains("\"at\" timestamp DEFAULT"), "{plan:#}");
    run(&["sync", "verify"]).failed_with(&["the sync `there` has not begun", "litekeep sync run there"]);
    let status = run(&["sync", "status"]).succeeded();
    assert!(status.stdout.contains("sync there: has not begun"), "{}", status.stdout);

    let ran = run(&["sync", "run", "--json"]).succeeded().json();
    shapes::matches("sync run", &ran);
    assert_eq!(rows_there(&server), rows_here(&scene));
    let same = run(&["sync", "verify", "--json"]).succeeded().json();
    shapes::matches("sync verify", &same);
    assert_eq!((same["rows"].as_u64(), same["ok"].as_bool()), (Some(2), Some(true)), "{same:#}");

    // Somebody writes there.
    server.query("UPDATE t SET v = 7; INSERT INTO t VALUES (100, 1)").unwrap();
    let differs = run(&["sync", "verify", "--json"]);
    assert_eq!(differs.code, 1, "{}", differs.stderr);
    let differs = differs.json();
    shapes::matches("sync verify", &differs);
    let counts = ["missing", "extra", "different"].map(|key| differs[key].as_u64().unwrap());
    assert_eq!(counts, [0, 1, 1], "{differs:#}");
    assert_eq!(differs["differences"][0]["what"], "v", "{differs:#}");
    run(&["sync", "verify", "--repair"]).succeeded();
    run(&["sync", "verify"]).succeeded();

    // What has no like there.
    let db = Connection::open(scene.db()).unwrap();
    db.execute_batch("INSERT INTO t VALUES (2, 'text'), (3, 3); ALTER TABLE log RENAME TO logs").unwrap();
    drop(db);
    scene.replicate_once().unwrap();
    let ran = run(&["sync", "run"]);
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    for words in [
        "leaves the table `log` as it is: it was renamed to `logs`",
        "could not write 1 row",
        "sync refused there",
    ] {
        assert!(ran.stderr.contains(words), "{}", ran.stderr);
    }
    let refused = run(&["sync", "refused", "--json"]);
    assert_eq!(refused.code, 1);
    let refused = refused.json();
    shapes::matches("sync refused", &refused);
    assert_eq!((refused[0]["table"].as_str(), refused[0]["key"][0].as_i64()), (Some("t"), Some(2)));
    let status = run(&["sync", "status", "--json"]);
    assert_eq!(status.code, 1);
    shapes::matches("sync status", &status.json());
}

#[test]
fn mistakes_are_told() {
    let scene = scene_with("postgres://nobody:secret@127.0.0.1:1/app", "types = { \"t.v\" = \"int4\" }\n");
    scene.place.run(&["sync", "run"]).failed_with(&["`int4`, for `t.v`, is no type", "the types are bigint"]);
    let text = std::fs::read_to_string(scene.place.path("litekeep.toml")).unwrap();
    let with = |from: &str, to: &str| {
        std::fs::write(scene.place.path("litekeep.toml"), text.replace(from, to)).unwrap();
    };
    with("types = { \"t.v\" = \"int4\" }\n", "");
    let ran =
        scene.place.run(&["sync", "run"]).failed_with(&["connect in postgres://nobody@127.0.0.1:1/app"]);
    assert!(!ran.stderr.contains("secret"), "{}", ran.stderr);
    scene
        .place
        .run(&["sync", "run", "other"])
        .failed_with(&["there is no sync `other`", "the syncs are `there`"]);
    with("types = { \"t.v\" = \"int4\" }\n", "tables = [\"gone\"]\n");
    scene.place.run(&["sync", "run"]).failed_with(&["connect in"]);
    with("[[sync]]", "[[sync]]\ndirection = \"pull\"");
    scene.place.run(&["sync", "run"]).failed_with(&["`pull` is not there yet"]);
    with("postgres://", "oracle://");
    scene.place.run(&["sync", "run"]).failed_with(&["there is no sync with `oracle://`"]);
}

/// Kills litekeep, the server or the connection while somebody writes; in the end both sides are the same, and `verify` says so.
#[test]
fn kills_lose_no_row_and_repeat_none() {
    campaign::rounds("syncs", 2, |seed| {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut server = Postgres::start().unwrap();
        let scene = scene_with(&server.url("postgres"), "");
        let stop = Arc::new(AtomicBool::new(false));
        let writing = {
            let (db, stop, mut random) = (scene.db(), stop.clone(), fastrand::Rng::with_seed(seed));
            std::thread::spawn(move || write(&Connection::open(db).unwrap(), &stop, &mut random))
        };
        for _ in 0..4 {
            let litekeep = scene.replicate().unwrap();
            std::thread::sleep(Duration::from_millis(random.u64(200..2500)));
            match random.u8(0..3) {
                0 => {
                    server.kill().unwrap();
                    std::thread::sleep(Duration::from_millis(random.u64(0..500)));
                    server.resume().unwrap();
                }
                1 => drop(server.query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'litekeep'")),
                _ => {}
            }
            std::thread::sleep(Duration::from_millis(random.u64(0..500)));
            litekeep.kill().unwrap();
        }
        stop.store(true, SeqCst);
        writing.join().unwrap();
        let litekeep = scene.replicate().unwrap();
        eventually("both sides are the same", LONG, || Ok(rows_there(&server) == rows_here(&scene)))
            .unwrap_or_else(|error| panic!("seed {seed}: {error}\n{}", litekeep.output()));
        let mut status = String::new();
        eventually("the status is green", LONG, || {
            let ran = scene.place.run(&["status"]);
            status = ran.stdout.clone();
            Ok(ran.code == 0 && status.contains("sync there to postgres://"))
        })
        .unwrap_or_else(|error| panic!("seed {seed}: {error}\n{status}"));
        scene.place.run(&["sync", "verify"]).succeeded();
        scene.stop(litekeep)
    });
}
