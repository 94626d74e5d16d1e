//! Goal: an answer that waits for replicas comes when they have what it tells of, and says so honestly where they do not; an application may ask the
//! same. Method: three nodes that stream, `acknowledge = "replica:2"`, a replica that is stopped and goes on; the copies are read the moment that an answer is there.

use std::time::{Duration, Instant};

use litekeep_testkit::process::eventually;
use rusqlite::{Connection, OpenFlags};
use serde_json::Value;

use super::facing::{APPLICATION, ask};
use super::scene::{Cluster, NODES, host};
use crate::scene::LONG;
use crate::shapes;
use crate::up::free_port;

const PATIENCE: Duration = Duration::from_secs(2);

struct Scene {
    cluster: Cluster,
    port: u16,
    metrics: u16,
}

impl Scene {
    /// Three nodes, of which `a` is the primary.
    fn new() -> Scene {
        let mut cluster = Cluster::new(false, "");
        let [port, streams, metrics] = [(); 3].map(|()| free_port());
        for node in NODES {
            let host = host(node);
            let rest = format!(
                "[process.web]\ncommand = [\"python3\", \"web.py\"]\nproxy = \"{host}:{port}\"\non_role_change = \"nothing\"\n\
                 stop_timeout = \"1s\"\n[cluster.proxy]\nacknowledge = \"replica:2\"\nacknowledge_patience = \"{}s\"\n\
                 [stream]\naddr = \"{host}:{streams}\"\ntoken = \"of at least 16 characters\"\n\
                 [metrics]\naddr = \"{host}:{metrics}\"\n",
                PATIENCE.as_secs()
            );
            cluster.configure(node, &format!("address = \"{host}\""), &rest);
            std::fs::write(cluster.path(node, "web.py"), APPLICATION).unwrap();
            cluster.start(node);
            if node == "a" {
                cluster.until_primary("a");
            }
        }
        Scene { cluster, port, metrics }
    }

    fn ask(&self, node: &str, request: &str) -> (u16, String) {
        let Some((status, _, body)) = ask(node, self.port, request, "") else {
            panic!("`{request}` to `{node}` got no answer\n{}", self.cluster.said())
        };
        (status, body)
    }

    #[track_caller]
    fn until_done(&self, request: &str) {
        let mut last = (0, String::new());
        eventually("it is done", LONG, || {
            last = ask("a", self.port, request, "")
                .map_or((0, String::new()), |(status, _, body)| (status, body));
            Ok(last.0 == 200)
        })
        .unwrap_or_else(|error| panic!("{error}: {last:?}\n{}", self.cluster.said()));
    }

    /// The value of a metric of the database.
    fn metric(&self, node: &str, name: &str, labels: &str) -> f64 {
        let (_, _, text) = ask(node, self.metrics, "GET /metrics", "").unwrap();
        let begin = format!("litekeep_{name}{{database=");
        let line = text.lines().find(|line| line.starts_with(&begin) && line.contains(labels));
        let line = line.unwrap_or_else(|| panic!("`{name}` of `{node}` is not in\n{text}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }

    /// What an application is told that waits.
    fn wait(&self, node: &str, query: &str) -> (u16, Value) {
        let (status, body) = self.ask(node, &format!("GET /.litekeep/wait?{query}"));
        let json = serde_json::from_str(&body).unwrap_or_else(|_| panic!("{status}: {body}"));
        (status, json)
    }

    fn has(&self, node: &str, id: &str) -> bool {
        let path = self.cluster.path(node, "app.db");
        let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
        db.busy_timeout(LONG).unwrap();
        db.query_row("SELECT count(*) FROM posts WHERE id = ?", [id], |row| row.get::<_, i64>(0)).unwrap()
            == 1
    }
}

#[test]
fn what_is_acknowledged_by_replicas_is_there() {
    let mut scene = Scene::new();
    scene.until_done("POST /first");
    for n in 0..12 {
        let (id, node) = (format!("n{n}"), NODES[n % 3]);
        let (status, body) = scene.ask(node, &format!("POST /{id}"));
        assert_eq!(status, 200, "{body}\n{}", scene.cluster.said());
        for copy in NODES {
            assert!(scene.has(copy, &id), "`{copy}` does not have `{id}`");
        }
    }
    let (status, all) = scene.wait("a", "mode=replica&replicas=2");
    assert_eq!((status, &all["ok"], &all["replicas"]), (200, &Value::Bool(true), &2.into()), "{all}");
    shapes::matches("wait-http", &all);

    assert!(scene.metric("a", "stream_connections", "") >= 2.0);
    assert!(scene.metric("a", "stream_bytes_total", "") > 0.0);
    let txid = u64::from_str_radix(all["txid"].as_str().unwrap(), 16).unwrap() as f64;
    assert!(scene.metric("a", "stream_replica_txid", "node=\"b\"") >= txid);
    assert_eq!(scene.metric("b", "stream_live", ""), 1.0);

    scene.cluster.signal("c", libc::SIGSTOP);
    let begun = Instant::now();
    let (status, why) = scene.ask("a", "POST /late");
    assert_eq!(status, 504, "{why}");
    assert!(why.contains("was done") && why.contains("only 1 of 2 replicas"), "{why}");
    assert!(begun.elapsed() >= PATIENCE, "it did not wait");
    assert!(scene.has("a", "late") && scene.has("b", "late"), "it says that it was done");
    assert_eq!(scene.ask("a", "GET /").0, 200, "what is only read does not wait for replicas");
    let (status, one) = scene.wait("a", "mode=replica&timeout=20s");
    assert_eq!((status, &one["replicas"]), (200, &1.into()), "{one}");
    // A stopped replica has what it had; of what comes now it knows nothing.
    let (status, two) = scene.wait("a", "mode=replica&replicas=2&timeout=300ms");
    assert_eq!((status, &two["ok"], &two["replicas"]), (504, &Value::Bool(false), &1.into()), "{two}");
    let waited =
        scene.cluster.litekeep("a", &["wait", "app.db", "--replicas", "1", "--json"]).succeeded().json();
    shapes::matches("wait", &waited);
    let in_vain = scene.cluster.litekeep("a", &["wait", "app.db", "--replicas", "2", "--timeout", "300ms"]);
    assert_eq!(in_vain.code, 1, "{}{}", in_vain.stdout, in_vain.stderr);

    // A replica knows of its own copy.
    let txid = one["txid"].as_str().unwrap();
    let (status, here) = scene.wait("b", &format!("txid={txid}&timeout=20s"));
    assert_eq!((status, &here["replicas"]), (200, &Value::Null), "{here}");
    let (status, refused) = scene.wait("b", "");
    assert_eq!(status, 503, "{refused}");
    assert!(refused["error"].as_str().unwrap().contains("the primary is `a`"), "{refused}");
    shapes::matches("wait-http-error", &refused);
    assert_eq!(scene.wait("a", "database=other.db").0, 400);
    assert_eq!(scene.wait("a", "txid=one").0, 400);
    // What came through another proxy may come from anywhere.
    let (_, text) = scene.ask("a", "GET /.litekeep/wait HTTP/1.1\r\nX-Forwarded-For: 192.0.2.1\r\nX-Rest:");
    assert!(text.parse::<u64>().is_ok(), "the application counts: {text}");

    scene.cluster.signal("c", libc::SIGCONT);
    scene.until_done("POST /again");
    assert!(scene.has("c", "again") && scene.has("c", "late"));
    let (status, all) = scene.wait("a", "mode=replica&replicas=2&timeout=20s");
    assert_eq!((status, &all["ok"]), (200, &Value::Bool(true)), "{all}");
}
