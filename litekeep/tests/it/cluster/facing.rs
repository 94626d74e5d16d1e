//! Goal: a client of the proxies may go to any node at any time: what it was told to be done is there in the end, and it never sees less than it has
//! seen. Method: an application in Python on each node, clients that carry their cookies from node to node, a handover, and a primary
//! that is killed; `acknowledge = "bucket"`.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use litekeep_testkit::process::eventually;
use rusqlite::Connection;

use super::scene::{Cluster, NODES, host};
use crate::scene::LONG;
use crate::up::free_port;

/// `POST /ID` inserts it, `GET` counts.
pub(super) const APPLICATION: &str = r#"
import os, sqlite3
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
def connect():
    return sqlite3.connect("app.db", timeout=0.5, isolation_level=None)
class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *_): pass
    def answer(self, status, text):
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())
    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            db = connect()
            db.execute("BEGIN IMMEDIATE")
            db.execute("CREATE TABLE IF NOT EXISTS posts(id TEXT)")
            db.execute("INSERT INTO posts VALUES(?)", (self.path[1:],))
            db.execute("COMMIT")
            self.answer(200, "done")
        except sqlite3.Error as error:
            self.answer(500, str(error))
    def do_GET(self):
        try:
            db = connect()
            self.answer(200, str(db.execute("SELECT count(*) FROM posts").fetchone()[0]))
        except sqlite3.Error as error:
            self.answer(500, str(error))
ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"#;

/// One request on a connection of its own: status, the cookie that came, and the body.
pub(super) fn ask(
    node: &str,
    port: u16,
    request: &str,
    cookie: &str,
) -> Option<(u16, Option<String>, String)> {
    let mut stream = TcpStream::connect((host(node), port)).ok()?;
    stream.set_read_timeout(Some(LONG)).ok()?;
    let head = format!(
        "{request} HTTP/1.1\r\nHost: app\r\nConnection: close\r\nContent-Length: 0\r\nCookie: {cookie}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.get(9..12)?.parse().ok()?;
    // A proxy that is killed ends its answers.
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "))?;
    if length != body.len().to_string() {
        return None;
    }
    let cookie = head.lines().find_map(|line| line.strip_prefix("set-cookie: "));
    let cookie = cookie.and_then(|cookie| cookie.split(';').next()).map(str::to_owned);
    Some((status, cookie, body.to_owned()))
}

/// What a client was told to be done.
fn client(name: usize, port: u16, over: &AtomicBool, done: &Mutex<BTreeSet<String>>) {
    let (mut cookie, mut seen, mut n) = (String::new(), 0, 0);
    while !over.load(SeqCst) {
        n += 1;
        let id = format!("{name}-{n}");
        let mut take = |node: &str, request: String| -> Option<String> {
            let (status, new, body) = ask(node, port, &request, &cookie)?;
            cookie = new.unwrap_or(std::mem::take(&mut cookie));
            (status == 200).then_some(body)
        };
        if take(NODES[n % 3], format!("POST /{id}")).is_some() {
            done.lock().unwrap().insert(id);
        }
        for nth in [n + 1, n] {
            let Some(count) = take(NODES[nth % 3], "GET /".to_owned()) else { continue };
            let count: u64 = count.parse().unwrap();
            assert!(count >= seen, "{count} after {seen}: `{}`", NODES[nth % 3]);
            seen = count;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn clients_of_the_proxies_go_anywhere_and_lose_nothing() {
    let port = free_port();
    let mut cluster = Cluster::new(false, "");
    for node in NODES {
        let host = host(node);
        let rest = format!(
            "[process.web]\ncommand = [\"python3\", \"web.py\"]\nproxy = \"{host}:{port}\"\non_role_change = \"nothing\"\n\
             stop_timeout = \"1s\"\n[cluster.proxy]\nacknowledge = \"bucket\"\n"
        );
        cluster.configure(node, &format!("address = \"{host}\""), &rest);
        std::fs::write(cluster.path(node, "web.py"), APPLICATION).unwrap();
        cluster.start(node);
    }
    let first = cluster.primary();
    let done: Arc<Mutex<BTreeSet<String>>> = Arc::default();
    let over = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..4)
        .map(|name| {
            let (over, done) = (over.clone(), done.clone());
            std::thread::spawn(move || client(name, port, &over, &done))
        })
        .collect();
    let more = |cluster: &Cluster| {
        let before = done.lock().unwrap().len();
        let is_more = || Ok(done.lock().unwrap().len() >= before + 40);
        if let Err(error) = eventually("more is done", LONG, is_more) {
            panic!("{error}\n{}", cluster.said());
        }
    };
    more(&cluster);
    let other = NODES.into_iter().find(|node| *node != first).unwrap();
    cluster.litekeep(first, &["handoff", other]).succeeded();
    more(&cluster);
    cluster.kill(other);
    more(&cluster);
    cluster.start(other);
    more(&cluster);
    let health = |node| ask(node, port, "GET /.litekeep/health", "").map_or(0, |(status, ..)| status);
    eventually("every node is healthy", LONG, || Ok(NODES.iter().all(|node| health(node) == 200))).unwrap();
    over.store(true, SeqCst);
    for client in clients {
        client.join().unwrap_or_else(|_| panic!("{}", cluster.said()));
    }
    cluster.settle();
    let last =
        NODES.map(|node| cluster.path(node, "final.db")).into_iter().find(|path| path.exists()).unwrap();
    let last = Connection::open(last).unwrap();
    let mut posts = last.prepare("SELECT id FROM posts").unwrap();
    let all: Vec<String> = posts.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    let there: BTreeSet<String> = all.iter().cloned().collect();
    let done = done.lock().unwrap();
    let lost: Vec<&String> = done.difference(&there).collect();
    assert!(lost.is_empty(), "told to be done, and gone: {lost:?}");
    assert_eq!(all.len(), there.len(), "something was done twice");
}
