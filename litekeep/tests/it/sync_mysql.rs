//! Goal: MariaDB is kept in step, and SQLite with it, by the same commands and beside the same writers as PostgreSQL. Method: as in `sync`.

use litekeep_testkit::campaign;
use litekeep_testkit::mysql::{Flavor, Mysql};
use rusqlite::Connection;

use crate::scene::Scene;
use crate::shapes;
use crate::sync::{
    Server, follows_whatever_is_killed, pulling, pulls_whatever_is_killed, rows_here, scene_with,
};

fn server() -> Mysql {
    let server = Mysql::start(Flavor::Mariadb).unwrap();
    server.query("CREATE DATABASE app").unwrap();
    server
}

impl Server for Mysql {
    fn rows(&self) -> String {
        let sql = "SET group_concat_max_len = 1000000;
            SELECT coalesce(group_concat(n, ':', v ORDER BY n SEPARATOR ' '), '') FROM t";
        self.query_in("app", sql).unwrap().remove(0).remove(0).unwrap()
    }

    fn kill(&mut self) {
        self.kill().unwrap();
    }

    fn resume(&mut self) {
        self.resume().unwrap();
    }
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
    assert_eq!(server.rows(), rows_here(&scene));
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
    let server = server();
    let scene = scene_with(&server.url("app"), "");
    follows_whatever_is_killed(&scene, server, "sync there to mariadb://");
}

const PULLED: &str = "CREATE TABLE t(n int PRIMARY KEY, v bigint); INSERT INTO t VALUES (1, 0), (2, 7)";

#[test]
fn rows_of_a_server_come_into_the_database() {
    let server = server();
    server.query_in("app", PULLED).unwrap();
    let scene = pulling(&server.url("app"));
    let run = |args: &[&str]| scene.place.run(args);
    let plan = run(&["sync", "plan", "--json"]).succeeded().json();
    shapes::matches("sync plan", &plan);
    assert_eq!(plan["tables"][0]["sql"][0], "CREATE TABLE \"t\"(\"n\" INTEGER PRIMARY KEY, \"v\" INTEGER)");
    let ran = run(&["sync", "run", "--json"]).succeeded().json();
    shapes::matches("sync run", &ran);
    assert!(ran["position"].as_str().is_some_and(|position| position.starts_with("0-1-")), "{ran:#}");
    let same = run(&["sync", "verify", "--json"]).succeeded().json();
    assert_eq!((same["rows"].as_u64(), same["ok"].as_bool()), (Some(2), Some(true)), "{same:#}");
    let status = run(&["sync", "status", "--json"]).succeeded().json();
    shapes::matches("sync status", &status);
    // Somebody writes here what is the server's.
    execute(&scene, "UPDATE t SET v = 7 WHERE n = 1; INSERT INTO t VALUES (100, 1)");
    let differs = run(&["sync", "verify", "--repair", "--json"]);
    assert_eq!(differs.code, 1, "{}", differs.stderr);
    let differs = differs.json();
    assert_eq!(["missing", "extra", "different"].map(|key| differs[key].as_u64().unwrap()), [0, 1, 1]);
    run(&["sync", "run"]).succeeded();
    run(&["sync", "verify"]).succeeded();
    run(&["sync", "resync"]).succeeded();
    run(&["sync", "run"]).succeeded();
    assert_eq!(server.rows(), rows_here(&scene));
    run(&["sync", "refused"]).succeeded();
    shapes::matches("sync forget", &run(&["sync", "forget", "--json"]).succeeded().json());
    run(&["sync", "forget"]).failed_with(&["has not begun"]);
    server.query("SET GLOBAL binlog_row_metadata = MINIMAL").unwrap();
    run(&["sync", "plan"])
        .failed_with(&["does not log what columns are called", "SET GLOBAL binlog_row_metadata = FULL;"]);
}

#[test]
fn kills_lose_no_row_of_the_server() {
    campaign::rounds("pulls-mysql", 2, |seed| {
        let server = server();
        server.query_in("app", PULLED).unwrap();
        server.query_in("app", "INSERT INTO t SELECT seq, seq FROM seq_1000_to_20000").unwrap();
        let scene = pulling(&server.url("app"));
        let change = |server: &Mysql, kind: u8, n: u32, v: u32| {
            let sql = match kind {
                0 => format!("DELETE FROM t WHERE n BETWEEN {n} AND {}", n + 20),
                1 => format!("UPDATE IGNORE t SET n = n + 100000 WHERE n = {n}"),
                _ => format!(
                    "INSERT INTO t SELECT seq, {v} % 1000 FROM seq_{n}_to_{} ON DUPLICATE KEY UPDATE v = VALUES(v)",
                    n + 50
                ),
            };
            server.query_in("app", &sql).unwrap();
        };
        let cut_off = |server: &Mysql| {
            let others = "SELECT id FROM information_schema.processlist WHERE id <> connection_id() AND user = 'admin'";
            for row in server.query(others).unwrap() {
                // It may have ended by itself.
                let _ = server.query(&format!("KILL {}", row[0].as_ref().unwrap()));
            }
        };
        pulls_whatever_is_killed(seed, server, &scene, change, cut_off)
    });
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
