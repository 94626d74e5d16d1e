//! How long does nobody write when a primary fails, and when it hands over? Three nodes and a store, each on a machine with a network of its own;
//! on each node an application behind a proxy that answers a write when the bucket has it, and a client that writes as fast as it gets
//! answers, and asks again after a second. All of the primary's machine is killed, and no packet leaves it any more: from then until one of the
//! clients of the others has an answer, with the default `ttl`. Later the primary hands over, and what counts is the longest time that any client had no answer.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use litekeep_testkit::process::eventually;
use litekeep_testkit::{Network, Process, S3Server, clock, programs, s3_server};

use crate::outcome::Outcome;
use crate::stage::{LONG, Stage};

const NODES: [&str; 3] = ["a", "b", "c"];
const STORE: &str = "store";
const ETCD: &str = "etcd";
const CLIENTS: &str = "clients";
const DISK: u64 = 256 << 20;
const PORT: u16 = 3000;

/// `POST` inserts a row.
const APPLICATION: &str = r#"
import os, sqlite3, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *_): pass
    def do_POST(self):
        status = 200
        try:
            db = sqlite3.connect("app.db", timeout=0.5, isolation_level=None)
            db.execute("BEGIN IMMEDIATE")
            db.execute("CREATE TABLE IF NOT EXISTS t(n INTEGER PRIMARY KEY, x BLOB)")
            db.execute("INSERT INTO t(x) VALUES(randomblob(200))")
            db.execute("COMMIT")
            db.close()
        except sqlite3.Error: status = 500
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()
def ends_with(pid):
    while os.path.exists(f"/proc/{pid}"): time.sleep(0.5)
    os._exit(1)
threading.Thread(target=ends_with, args=(os.environ["BENCH"],), daemon=True).start()
ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"#;

/// A client of each address, which notes when it had an answer: its number and CLOCK_MONOTONIC, nanoseconds.
const CLIENT: &str = r#"
import http.client, sys, threading, time
def write(nth, address):
    while True:
        try:
            connection = http.client.HTTPConnection(address, timeout=1)
            connection.request("POST", "/", headers={"Content-Length": "0"})
            if connection.getresponse().status == 200: print(nth, time.monotonic_ns(), flush=True)
            connection.close()
        except (OSError, http.client.HTTPException): pass
        time.sleep(0.01)
for nth, address in enumerate(sys.argv[1:]): threading.Thread(target=write, args=(nth, address)).start()
"#;

struct Cluster<'a> {
    stage: &'a Stage<'a>,
    network: Network,
    nodes: Vec<Option<Process>>,
    clients: Process,
    _servers: Vec<Process>,
}

pub(crate) fn by_the_bucket(stage: &Stage<'_>) -> Result<Outcome> {
    play(stage, false)
}

pub(crate) fn by_etcd(stage: &Stage<'_>) -> Result<Outcome> {
    play(stage, true)
}

fn play(stage: &Stage<'_>, in_etcd: bool) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let mut cluster = Cluster::start(stage, in_etcd)?;
    cluster.wait_for_answers(20)?;
    let primary = cluster.primary()?;
    // The others are level, and have looked at the lease.
    std::thread::sleep(Duration::from_secs(2));
    let killed = clock::monotonic_ns();
    cluster.power_off(primary)?;
    let is_next = |(node, at): &(usize, i64)| *node != primary && *at > killed;
    eventually("another node answers", LONG, || Ok(cluster.answers().iter().any(is_next)))?;
    let next = cluster.answers().into_iter().find(is_next).context("an answer")?;
    outcome.less("killed until the next answer", "s", (next.1 - killed) as f64 / 1e9);
    cluster.power_on(primary)?;
    cluster.wait_for_answers(200)?;
    std::thread::sleep(Duration::from_secs(2));
    let (from, to) = (cluster.primary()?, primary);
    ensure!(from != to, "another node has taken over");
    let begin = clock::monotonic_ns();
    let mut handoff = cluster.litekeep(from, &["handoff", NODES[to]]);
    let output = handoff.output().context("run litekeep handoff")?;
    ensure!(output.status.success(), "handoff: {}", String::from_utf8_lossy(&output.stderr));
    cluster.wait_for_answers(100)?;
    outcome.less("longest pause of a handoff", "s", cluster.longest_pause(begin)? as f64 / 1e9);
    ensure!(cluster.primary()? == to, "the lease has gone to the other node");
    Ok(outcome)
}

impl<'a> Cluster<'a> {
    fn start(stage: &'a Stage<'a>, in_etcd: bool) -> Result<Cluster<'a>> {
        let network = Network::start(&[&NODES[..], &[STORE, ETCD, CLIENTS]].concat())?;
        let dir = stage.path("");
        let host = network.address(STORE);
        let mut store = network.command(STORE, &dir, programs::testkit()?);
        store.args(["s3-server", "--port", "9000", "--host", &host.to_string(), "--dir", "s3"]);
        let mut servers = vec![Process::start(store, &stage.path("s3.log"))?];
        if in_etcd {
            let host = network.address(ETCD);
            let (own, peers) = (format!("http://{host}:2379"), format!("http://{host}:2380"));
            let mut etcd = network.command(ETCD, &dir, "etcd");
            etcd.args(["--name", "one", "--data-dir", "etcd", "--initial-cluster", &format!("one={peers}")]);
            etcd.args(["--listen-client-urls", &own, "--advertise-client-urls", &own]);
            etcd.args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers]);
            servers.push(Process::start(etcd, &stage.path("etcd.log"))?);
        }
        let lease = match in_etcd {
            true => format!("lease = 'etcd://{}:2379/app'\n", network.address(ETCD)),
            false => String::new(),
        };
        std::fs::write(stage.path("app.py"), APPLICATION)?;
        std::fs::write(stage.path("client.py"), CLIENT)?;
        for node in NODES {
            let folder = stage.path(node);
            std::fs::create_dir(&folder)?;
            network.mount(&folder, DISK)?;
            let toml = configuration(node, network.address(node), host, &lease);
            std::fs::write(network.path(&folder.join("litekeep.toml")), toml)?;
        }
        let mut clients = network.command(CLIENTS, &dir, "python3");
        clients.arg("client.py").args(NODES.map(|node| format!("{}:{PORT}", network.address(node))));
        let clients = Process::start(clients, &stage.path("answers"))?;
        let mut cluster =
            Cluster { stage, network, nodes: vec![None, None, None], clients, _servers: servers };
        (0..NODES.len()).try_for_each(|nth| cluster.power_on(nth))?;
        Ok(cluster)
    }

    fn litekeep(&self, nth: usize, arguments: &[&str]) -> Command {
        let folder = self.stage.path(NODES[nth]);
        let mut command = self.network.command(NODES[nth], &folder, &self.stage.bench.litekeep);
        command.args(arguments).envs(S3Server::env());
        command
    }

    fn log(&self, nth: usize) -> PathBuf {
        self.stage.path(&format!("{}.log", NODES[nth]))
    }

    fn power_on(&mut self, nth: usize) -> Result<()> {
        self.network.mend()?;
        let up = self.litekeep(nth, &["up", "--quiet"]);
        self.nodes[nth] = Some(Process::start(up, &self.log(nth))?);
        Ok(())
    }

    fn power_off(&mut self, nth: usize) -> Result<()> {
        let rest = [&NODES[..], &[STORE, ETCD, CLIENTS]].concat();
        self.network.part(NODES[nth], &rest)?;
        self.kill_all(nth)?;
        self.nodes[nth] = None;
        Ok(())
    }

    fn kill_all(&self, nth: usize) -> Result<()> {
        let pids = self.network.processes(NODES[nth])?;
        _ = Command::new("kill").arg("-9").args(pids.iter().map(i32::to_string)).output()?;
        Ok(())
    }

    fn answers(&self) -> Vec<(usize, i64)> {
        let said = self.clients.output();
        let answer = |line: &str| {
            let (nth, at) = line.split_once(' ')?;
            Some((nth.parse().ok()?, at.parse().ok()?))
        };
        said.lines().filter_map(answer).collect()
    }

    fn wait_for_answers(&self, more: usize) -> Result<()> {
        let before = self.answers().len();
        let said = || (0..NODES.len()).map(|nth| std::fs::read_to_string(self.log(nth)).unwrap_or_default());
        eventually("the clients have answers", LONG, || {
            std::thread::sleep(Duration::from_millis(20));
            Ok(self.answers().len() >= before + more)
        })
        .with_context(|| said().collect::<Vec<_>>().join("\n"))
    }

    fn primary(&self) -> Result<usize> {
        let is_primary = |nth: &usize| {
            let said = self.litekeep(*nth, &["status", "--json"]).output().map(|output| output.stdout);
            let status = said.ok().and_then(|said| serde_json::from_slice::<serde_json::Value>(&said).ok());
            status.is_some_and(|status| status["stack"]["node"]["role"] == "primary")
        };
        (0..NODES.len()).find(is_primary).context("one of the nodes is the primary")
    }

    /// Between two answers of one client, from an instant on.
    fn longest_pause(&self, begin: i64) -> Result<i64> {
        let answers = self.answers();
        let pause = |nth: usize| {
            let own: Vec<i64> = answers.iter().filter(|(node, _)| *node == nth).map(|(_, at)| *at).collect();
            own.windows(2).filter(|pair| pair[1] > begin).map(|pair| pair[1] - pair[0]).max()
        };
        (0..NODES.len()).filter_map(pause).max().context("a client had answers")
    }
}

impl Drop for Cluster<'_> {
    fn drop(&mut self) {
        for nth in 0..NODES.len() {
            _ = self.kill_all(nth);
        }
    }
}

fn configuration(node: &str, own: Ipv4Addr, store: Ipv4Addr, lease: &str) -> String {
    let url =
        format!("s3://{}/app?endpoint=http://{store}:9000&region={}", s3_server::BUCKET, s3_server::REGION);
    format!(
        "[[database]]\npath = 'app.db'\nbackup = '{url}'\nupload_interval = '50ms'\n\
         [cluster]\nnode = '{node}'\naddress = '{own}'\n{lease}\
         [process.app]\ncommand = ['python3', '../app.py']\nproxy = '{own}:{PORT}'\non_role_change = 'nothing'\n\
         env = {{ BENCH = '{}' }}\n\
         [cluster.proxy]\nacknowledge = 'bucket'\n",
        std::process::id()
    )
}
