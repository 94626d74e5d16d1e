//! Goal: MariaDB is kept in step by the same commands and beside the same writers as PostgreSQL. Method: as in `sync`.

use std::time::Duration;

use litekeep_testkit::mariadb::Mariadb;
use litekeep_testkit::process::eventually;
use rusqlite::Connection;

use crate::scene::{LONG, Scene};
use crate::shapes;
use crate::sync::{rows_here, scene_with};

fn server() -> Mariadb {
    let server = Mariadb::start().unwrap();
    server.query("CREATE DATABASE app").unwrap();
    server
}

fn rows_there(server: &Mariadb) -> String {
    let sql = "SELECT coalesce(group_concat(n, ':', v ORDER BY n SEPARATOR ' '), '') FROM t";
    server
        .query_in("app", &format!("SET group_concat_max_len = 1000000; {sql}"))
        .unwrap()
        .remove(0)
        .remove(0)
        .unwrap()
}

fn execute(scene: &Scene, sql: &str) {
    Connection::open(scene.db()).unwrap().execute_batch(sql).unwrap();
}

#[test]
fn plan_run_verify_and_what_cannot_go() {
    let server = server();
    let scene = scene_with(&server.url("app"), "types = { \"log.what\" = \"text\" }\n");
    let run = |args: &[&str]| scene.place.run(args);
    let plan = run(&["sync", "plan", "--json"]).succeeded().json();
    shapes::matches("sync plan", &plan);
    let made = plan["tables"][1]["sql"][0].as_str().unwrap();
    assert!(made.contains("`at` datetime(6) DEFAULT (utc_timestamp())"), "{made}");
    assert!(made.ends_with("COLLATE=utf8mb4_nopad_bin"), "{made}");

    let ran = run(&["sync", "run", "--json"]).succeeded().json();
    shapes::matches("sync run", &ran);
    assert_eq!(rows_there(&server), rows_here(&scene));
    server.query_in("app", "UPDATE t SET v = 7; INSERT INTO t VALUES (100, 1)").unwrap();
    let differs = run(&["sync", "verify", "--json"]);
    assert_eq!(differs.code, 1, "{}", differs.stderr);
    let differs = differs.json();
    let counts = ["missing", "extra", "different"].map(|key| differs[key].as_u64().unwrap());
    assert_eq!(counts, [0, 1, 1], "{differs:#}");
    run(&["sync", "verify", "--repair"]).succeeded();
    run(&["sync", "resync"]).succeeded();
    run(&["sync", "verify"]).succeeded();

    execute(&scene, "INSERT INTO t VALUES (2, 'text'), (3, 3)");
    scene.replicate_once().unwrap();
    let ran = run(&["sync", "run"]);
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert!(ran.stderr.contains("could not write 1 row"), "{}", ran.stderr);
    let refused = run(&["sync", "refused", "--json"]).json();
    shapes::matches("sync refused", &refused);
    assert_eq!((refused[0]["table"].as_str(), refused[0]["key"][0].as_i64()), (Some("t"), Some(2)));
    let status = run(&["sync", "status", "--json"]);
    assert_eq!(status.code, 1);
    shapes::matches("sync status", &status.json());
}

#[test]
fn it_follows_beside_the_replication_whatever_is_killed() {
    let mut server = server();
    let scene = scene_with(&server.url("app"), "");
    for round in 1..=3 {
        let litekeep = scene.replicate().unwrap();
        for n in 0..20 {
            execute(
                &scene,
                &format!(
                    "INSERT OR REPLACE INTO t VALUES ({}, {round}); INSERT INTO log(what) VALUES ('{n}')",
                    n * round
                ),
            );
            std::thread::sleep(Duration::from_millis(20));
            if (round, n) == (2, 10) {
                server.kill().unwrap();
                server.resume().unwrap();
            }
        }
        litekeep.kill().unwrap();
    }
    let litekeep = scene.replicate().unwrap();
    eventually("both sides are the same", LONG, || Ok(rows_there(&server) == rows_here(&scene)))
        .unwrap_or_else(|error| panic!("{error}\n{}", litekeep.output()));
    let mut status = String::new();
    eventually("the status is green", LONG, || {
        let ran = scene.place.run(&["status"]);
        status = ran.stdout.clone();
        Ok(ran.code == 0 && status.contains("sync there to mariadb://"))
    })
    .unwrap_or_else(|error| panic!("{error}\n{status}"));
    scene.place.run(&["sync", "verify"]).succeeded();
    scene.stop(litekeep).unwrap();
}

#[test]
fn mistakes_are_told() {
    let scene = scene_with("mysql://nobody:secret@127.0.0.1:1/app", "types = { \"t.v\" = \"int\" }\n");
    let run = || scene.place.run(&["sync", "run"]);
    run().failed_with(&["`int`, for `t.v`, is no type", "the types are bigint, double, decimal"]);
    let text = std::fs::read_to_string(scene.place.path("litekeep.toml")).unwrap();
    std::fs::write(scene.place.path("litekeep.toml"), text.replace("\"int\"", "\"bigint\"")).unwrap();
    let ran = run().failed_with(&["connect in mysql://nobody@127.0.0.1:1/app"]);
    assert!(!ran.stderr.contains("secret"), "{}", ran.stderr);
}
