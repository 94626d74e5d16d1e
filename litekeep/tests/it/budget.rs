//! Goal: syncs with one server have as many connections as `max_connections` says, and never one more, whoever is killed or cut off in between. Method: the
//! real binary with two syncs that share a budget, with a user of whom the server itself admits no more connections, and a
//! look each few milliseconds at how many it has.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Result;
use litekeep_testkit::mysql::{self, Flavor, Mysql};
use litekeep_testkit::postgres::{self, Postgres};
use litekeep_testkit::process::eventually;
use rusqlite::Connection;

use crate::feeds::add;
use crate::scene::{LONG, Scene};
use crate::shapes;
use crate::sync::{Server, rows_here, scene_with};

/// Looks at how many connections there are, again and again.
struct Watch {
    most: Arc<AtomicU64>,
    is_over: Arc<AtomicBool>,
    looking: JoinHandle<()>,
}

impl Watch {
    fn begin(count: impl Fn() -> Result<u64> + Send + 'static) -> Watch {
        let (most, is_over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (seen, stop) = (most.clone(), is_over.clone());
        let looking = std::thread::spawn(move || {
            while !stop.load(SeqCst) {
                // While it is down nobody is connected.
                if let Ok(count) = count() {
                    seen.fetch_max(count, SeqCst);
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        Watch { most, is_over, looking }
    }

    fn end(self) -> u64 {
        self.is_over.store(true, SeqCst);
        self.looking.join().unwrap();
        self.most.load(SeqCst)
    }
}

/// A sync both ways that keeps its connections, and one that comes back each second, with so many together.
fn scene(url: &str, most: u64) -> Scene {
    let scene =
        scene_with(url, &format!("direction = \"both\"\ntables = [\"t\"]\nmax_connections = {most}\n"));
    let more = format!("[[sync]]\nname = \"log\"\nto = {url:?}\ntables = [\"log\"]\nevery = \"1s\"\n");
    add(&scene, &more);
    scene
}

fn write(scene: &Scene, n: u32) {
    let db = Connection::open(scene.db()).unwrap();
    let sql = format!("INSERT OR REPLACE INTO t VALUES ({n}, {n}); INSERT INTO log(what) VALUES ('{n}')");
    db.execute_batch(&sql).unwrap();
}

/// Goes on while litekeep is killed and cut off; the most connections that were seen.
fn goes_on(
    scene: &Scene,
    server: &mut impl Server,
    count: impl Fn() -> Result<u64> + Send + 'static,
    cut_off: impl Fn(),
) -> u64 {
    let watch = Watch::begin(count);
    scene.place.run(&["sync", "run", "there"]).succeeded();
    let mut output = String::new();
    for round in 1..=3 {
        let litekeep = scene.replicate().unwrap();
        write(scene, round);
        eventually("both sides are the same", LONG, || Ok(server.rows() == rows_here(scene)))
            .unwrap_or_else(|error| panic!("{error}\n{}", litekeep.output()));
        cut_off();
        write(scene, 10 + round);
        if round == 2 {
            server.kill();
            server.resume();
        }
        eventually("they are the same again", LONG, || Ok(server.rows() == rows_here(scene)))
            .unwrap_or_else(|error| panic!("{error}\n{}", litekeep.output()));
        output.push_str(&litekeep.output());
        match round {
            3 => scene.stop(litekeep).unwrap(),
            _ => _ = litekeep.kill().unwrap(),
        }
    }
    // One after the other, with nothing in between.
    for name in ["there", "log", "there"] {
        scene.place.run(&["sync", "run", name]).succeeded();
    }
    scene.place.run(&["sync", "verify", "there"]).succeeded();
    let most = watch.end();
    let refusals = ["too many connections", "max_user_connections", "remaining connection slots"];
    for refusal in refusals {
        assert!(!output.to_lowercase().contains(refusal), "the server refused:\n{output}");
    }
    most
}

fn count_of(rows: Vec<Vec<Option<String>>>) -> Result<u64> {
    Ok(rows[0][0].as_ref().unwrap().parse()?)
}

#[test]
fn postgres_is_never_asked_for_more() {
    let mut server = Postgres::start().unwrap();
    server.query("CREATE ROLE app LOGIN PASSWORD 'secret' REPLICATION CONNECTION LIMIT 4").unwrap();
    server.query("CREATE DATABASE app OWNER app").unwrap();
    let scene = scene(&server.url_with("app:secret@", "app"), 4);
    let plan = scene.place.run(&["sync", "plan", "there", "--json"]).succeeded().json();
    shapes::matches("sync plan", &plan);
    assert_eq!((plan["connections"].as_u64(), plan["max_connections"].as_u64()), (Some(3), Some(4)));
    let admin = server.url("postgres");
    let count = move || {
        count_of(postgres::query_at(&admin, "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app'")?)
    };
    let cut = server.url("postgres");
    let cut_off = move || {
        let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'";
        postgres::query_at(&cut, sql).unwrap();
    };
    let most = goes_on(&scene, &mut InApp(&mut server), count, cut_off);
    assert!((3..=4).contains(&most), "{most} connections");
    // What needs more than are left says so, and goes away.
    let litekeep = scene.replicate().unwrap();
    write(&scene, 100);
    eventually("it has connected", LONG, || Ok(InApp(&mut server).rows() == rows_here(&scene))).unwrap();
    let verify = ["sync", "verify", "there"];
    scene.place.run(&verify).failed_with(&["`max_connections` is 4", "fewer than the 3", "sync pause NAME"]);
    scene.place.run(&["sync", "pause", "there"]).succeeded();
    scene.place.run(&verify).succeeded();
    // And so does a copy of whatever else.
    scene.place.run(&["copy", &server.url_with("app:secret@", "app"), "copied.db"]).succeeded();
    scene.stop(litekeep).unwrap();
}

/// The server with what its user `app` has.
struct InApp<'a>(&'a mut Postgres);

impl Server for InApp<'_> {
    fn rows(&self) -> String {
        let sql = "SELECT coalesce(string_agg(n || ':' || v, ' ' ORDER BY n), '') FROM t";
        match self.0.query_in("app", sql) {
            Ok(rows) => rows[0][0].clone().unwrap(),
            Err(error) => error.to_string(),
        }
    }

    fn kill(&mut self) {
        self.0.kill().unwrap();
    }

    fn resume(&mut self) {
        self.0.resume().unwrap();
    }
}

#[test]
fn what_can_never_be_enough_is_refused() {
    let server = Postgres::start().unwrap();
    let scene = scene(&server.url("postgres"), 3);
    let refused = ["need 4 connections together (`there` 3, `log` 1)", "max_connections = 4, or more"];
    scene.place.run(&["sync", "plan", "there"]).failed_with(&refused);
    let litekeep = scene.replicate().unwrap();
    eventually("the log says so", LONG, || Ok(litekeep.output().contains(refused[0]))).unwrap();
    scene.stop(litekeep).unwrap();
    let url = server.url("postgres");
    add(&scene, &format!("[[sync]]\nname = \"more\"\nto = {url:?}\nmax_connections = 9\n"));
    let differ = ["`max_connections` is 3 for the sync `there` and 9 for `more`", "say it once"];
    scene.place.run(&["sync", "plan", "there"]).failed_with(&differ);
}

#[test]
fn mariadb_is_never_asked_for_more() {
    let mut server = Mysql::start(Flavor::Mariadb).unwrap();
    server
        .query(
            "CREATE DATABASE app; CREATE USER app@'127.0.0.1' IDENTIFIED BY 'secret' WITH MAX_USER_CONNECTIONS 4;
             GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, INDEX, DROP, LOCK TABLES ON app.* TO app@'127.0.0.1';
             GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO app@'127.0.0.1'",
        )
        .unwrap();
    let scene = scene(&server.url_with("app:secret@", "app"), 4);
    let admin = server.login("");
    let count = move || {
        let sql = "SELECT count(*) FROM information_schema.processlist WHERE user = 'app'";
        count_of(mysql::query_at(&admin, sql)?)
    };
    let admin = server.login("");
    let cut_off = move || _ = mysql::query_at(&admin, "KILL USER app").unwrap();
    let most = goes_on(&scene, &mut server, count, cut_off);
    assert!((3..=4).contains(&most), "{most} connections");
}

#[cfg(feature = "mongodb")]
mod mongodb {
    use litekeep_testkit::mongodb::bson::doc;
    use litekeep_testkit::mongodb::{Mongodb, asking};

    use super::*;

    #[test]
    fn mongodb_is_never_asked_for_more() {
        let mut server = Mongodb::start().unwrap();
        let scene = scene(&server.url("app"), 8);
        let ask = asking(&server.url("admin")).unwrap();
        let count = move || {
            let ours = vec![
                doc! { "$currentOp": { "allUsers": true, "idleConnections": true } },
                doc! { "$match": { "appName": "litekeep" } },
                doc! { "$count": "n" },
            ];
            let counted = ask("admin", doc! { "aggregate": 1, "pipeline": ours, "cursor": {} })?;
            let first = counted.get_document("cursor")?.get_array("firstBatch")?.first();
            Ok(first.map_or(0, |n| n.as_document().unwrap().get_i32("n").unwrap() as u64))
        };
        let most = goes_on(&scene, &mut server, count, || ());
        // Those by which a client that is gone has watched the server end by themselves.
        assert!((5..=10).contains(&most), "{most} connections");
    }
}
