//! Three nodes in three folders, and one place for the log.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use litekeep_testkit::process::eventually;
use litekeep_testkit::{Process, S3Options, S3Server, s3_server};
use rusqlite::{Connection, OpenFlags};
use serde_json::Value;

use crate::scene::LONG;
use crate::{Place, Ran};

pub(super) const NODES: [&str; 3] = ["a", "b", "c"];
const WRITER: &str = include_str!("writer.py");

pub(super) struct Cluster {
    place: Place,
    _server: Option<S3Server>,
    up: [Option<Process>; 3],
    url: String,
    /// States that readers have seen on copies: so many operations, and the last one.
    seen: Vec<(usize, String)>,
}

/// What was found in the end.
pub(super) struct Report {
    pub(super) forks: usize,
    /// How often the lead went from one node to another.
    pub(super) changes: usize,
}

/// The operations of one state, in their order.
type Ops = Vec<String>;

/// Each node has an address of its own on this machine.
pub(super) fn host(node: &str) -> String {
    format!("127.0.0.{}", nth(node) + 2)
}

fn nth(node: &str) -> usize {
    NODES.iter().position(|own| *own == node).unwrap()
}

impl Cluster {
    pub(super) fn new(in_bucket: bool, rest: &str) -> Cluster {
        let place = Place::new();
        let server = in_bucket.then(|| {
            let options = S3Options { dir: Some(place.path("s3")), ..S3Options::default() };
            S3Server::start_with(options).unwrap()
        });
        let url = match &server {
            Some(server) => {
                format!("{}?endpoint={}&region={}", server.url("app"), server.endpoint(), s3_server::REGION)
            }
            None => format!("file://{}", place.path("log").display()),
        };
        for node in NODES {
            std::fs::create_dir(place.path(node)).unwrap();
            std::fs::write(place.path(node).join("writer.py"), WRITER).unwrap();
        }
        let cluster = Cluster { place, _server: server, up: [None, None, None], url, seen: vec![] };
        NODES.iter().for_each(|node| cluster.configure(node, "", rest));
        cluster
    }

    /// Writes the configuration of a node.
    pub(super) fn configure(&self, node: &str, keys: &str, rest: &str) {
        let url = &self.url;
        let toml = format!(
            "[[database]]\npath = \"app.db\"\nbackup = {url:?}\nupload_interval = \"20ms\"\n\
                 [cluster]\nnode = \"{node}\"\nttl = \"2s\"\n{keys}\n\
                 [process.writer]\ncommand = [\"python3\", \"writer.py\"]\nenv = {{ NODE = \"{node}\" }}\nif_primary = true\n\
                 stop_timeout = \"2s\"\n{rest}"
        );
        std::fs::write(self.path(node, "litekeep.toml"), toml).unwrap();
    }

    /// Keeps everything where it is, for a look at what went wrong.
    pub(super) fn keep(&mut self) -> PathBuf {
        self.place.dir.disable_cleanup(true);
        self.place.dir.path().to_owned()
    }

    pub(super) fn path(&self, node: &str, file: &str) -> PathBuf {
        self.place.path(node).join(file)
    }

    fn command(&self, node: &str, arguments: &[&str]) -> Command {
        let mut command = self.place.command(arguments);
        command.current_dir(self.place.path(node)).envs(S3Server::env());
        command
    }

    pub(super) fn litekeep(&self, node: &str, arguments: &[&str]) -> Ran {
        Ran::of(self.command(node, arguments))
    }

    pub(super) fn start(&mut self, node: &str) {
        let command = self.command(node, &["up", "--quiet"]);
        self.up[nth(node)] = Some(Process::start(command, &self.path(node, "up.out")).unwrap());
    }

    /// Ends a node, changes something, and starts it again.
    pub(super) fn restart(&mut self, node: &str, change: impl Fn(&Cluster)) {
        self.end(node).unwrap();
        change(self);
        self.start(node);
    }

    pub(super) fn is_up(&self, node: &str) -> bool {
        self.up[nth(node)].is_some()
    }

    pub(super) fn signal(&mut self, node: &str, signal: i32) {
        self.up[nth(node)].as_mut().unwrap().signal(signal).unwrap();
    }

    /// SIGKILL to litekeep alone: its processes go on.
    pub(super) fn kill_litekeep(&mut self, node: &str) {
        self.up[nth(node)].take().unwrap().kill().unwrap();
    }

    /// The machine is off: litekeep and the writer end at once.
    pub(super) fn kill(&mut self, node: &str) {
        self.kill_litekeep(node);
        self.kill_writer(node);
    }

    /// As a person does.
    #[track_caller]
    pub(super) fn stop(&mut self, node: &str) {
        self.end(node).unwrap();
    }

    fn kill_writer(&self, node: &str) {
        let pid = std::fs::read_to_string(self.path(node, "writer.pid"))
            .ok()
            .and_then(|pid| pid.parse::<i32>().ok());
        let is_writer = |pid: &i32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains("writer.py")
        };
        if let Some(pid) = pid.filter(is_writer) {
            _ = Command::new("kill").args(["-9", &pid.to_string()]).status();
        }
    }

    fn view(&self, node: &str) -> Option<Value> {
        let ran = self.litekeep(node, &["cluster", "status", "--json"]);
        serde_json::from_str(&ran.stdout).ok()
    }

    pub(super) fn is_primary(&self, node: &str) -> bool {
        self.is_up(node) && self.view(node).is_some_and(|view| view["role"] == "primary")
    }

    /// Waits until a node is the primary; which one.
    #[track_caller]
    pub(super) fn primary(&self) -> &'static str {
        let mut found = None;
        eventually("there is a primary", LONG, || {
            found = NODES.into_iter().find(|node| self.is_primary(node));
            Ok(found.is_some())
        })
        .unwrap();
        found.unwrap()
    }

    #[track_caller]
    pub(super) fn until_primary(&self, node: &str) {
        eventually("it is the primary", LONG, || Ok(self.is_primary(node)))
            .with_context(|| self.said())
            .unwrap();
    }

    pub(super) fn said(&self) -> String {
        let said = |node| std::fs::read_to_string(self.path(node, "up.out")).unwrap_or_default();
        NODES.map(|node| format!("{node}:\n{}", said(node))).join("\n")
    }

    fn acks(&self, node: &str) -> Vec<String> {
        let text = std::fs::read_to_string(self.path(node, "acks")).unwrap_or_default();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(str::to_owned).collect()
    }

    /// Reads every copy as it is now.
    pub(super) fn look(&mut self) {
        for node in NODES {
            // Only beside a copy.
            if !self.path(node, ".app.db-litekeep/primary").exists() {
                continue;
            }
            // One that is being made has no table yet.
            let Ok(ops) = self.ops(node) else { continue };
            self.seen.extend(ops.last().map(|last| (ops.len(), last.clone())));
        }
    }

    /// Waits until the writer of a node has had so many more operations acknowledged.
    #[track_caller]
    pub(super) fn acknowledges(&self, node: &str, more: usize) {
        let before = self.acks(node).len();
        eventually("operations are acknowledged", LONG, || Ok(self.acks(node).len() >= before + more))
            .with_context(|| self.said())
            .unwrap();
    }

    /// Leaves everybody alone until all have one state, and proves that nothing is missing.
    #[track_caller]
    pub(super) fn settle(&mut self) -> Report {
        let settled = self.try_settle();
        settled.with_context(|| self.said()).unwrap()
    }

    pub(super) fn try_settle(&mut self) -> Result<Report> {
        let first = self.primary();
        self.acknowledges(first, 5);
        // Everything that is acknowledged is confirmed, and nothing more comes.
        for node in NODES.into_iter().filter(|node| *node != first) {
            if self.is_up(node) {
                let up = &mut self.up[nth(node)].take();
                let is_level = || {
                    let state = self.ops(node)?;
                    Ok(state.len() > 3 && self.ops(first)?.starts_with(&state))
                };
                eventually("a copy is a beginning of the primary", LONG, is_level)?;
                self.up[nth(node)] = up.take();
            }
        }
        self.end(first)?;
        for node in NODES {
            if self.is_up(node) {
                self.end(node)?;
            }
        }
        // What the log has is the truth.
        let output = self.litekeep(first, &["restore", "-o", "final.db", "app.db"]);
        ensure!(output.code == 0, "{}", output.stderr);
        let last = read(&self.path(first, "final.db"))?;
        let mut known: BTreeSet<&String> = last.iter().collect();
        let (mut forked, mut forks): (Vec<Ops>, usize) = (Vec::new(), 0);
        for node in NODES {
            let listed = self.litekeep(node, &["forks", "list", "--json"]).json();
            for fork in listed.as_array().context("a list of forks")? {
                crate::shapes::matches("fork", fork);
                let name = fork["name"].as_str().context("a name")?;
                let file = format!("fork-{forks}.db");
                let ran = self.litekeep(node, &["forks", "restore", name, "-o", &file]);
                ensure!(ran.code == 0, "restore the fork {name}: {}", ran.stderr);
                forked.push(read(&self.path(node, &file))?);
                forks += 1;
            }
        }
        known.extend(forked.iter().flatten());
        for (count, op) in &self.seen {
            let has = |state: &Ops| state.get(count - 1) == Some(op);
            ensure!(
                has(&last) || forked.iter().any(has),
                "a reader has seen `{op}` after {count} operations, which was never so"
            );
        }
        for node in NODES {
            let copy = self.path(node, "app.db");
            if copy.exists() {
                let state = read(&copy)?;
                ensure!(last.starts_with(&state), "`{node}` has a state that the log never had");
            }
            let missing: Vec<String> = self.acks(node).into_iter().filter(|op| !known.contains(op)).collect();
            ensure!(
                missing.is_empty(),
                "acknowledged on `{node}`, and neither in the log nor in a fork: {missing:?}"
            );
        }
        let mut by: Vec<&str> = last.iter().map(|op| &op[..1]).collect();
        by.dedup();
        Ok(Report { forks, changes: by.len() - 1 })
    }

    /// Ends a node as a person does. One that is primary hands over to nobody who is up, or to somebody who ends next.
    fn end(&mut self, node: &str) -> Result<()> {
        let up = self.up[nth(node)].take().context("a node that is up")?;
        let ended = up.terminate(LONG)?;
        ensure!(ended.success(), "`{node}` ended with {ended}: {}", self.said());
        Ok(())
    }

    fn ops(&self, node: &str) -> Result<Ops> {
        read(&self.path(node, "app.db"))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in NODES {
            self.up[nth(node)] = None;
            self.kill_writer(node);
        }
    }
}

/// The operations of a database, each proven to follow the one before.
fn read(path: &std::path::Path) -> Result<Ops> {
    let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    db.busy_timeout(LONG)?;
    let mut all = db.prepare("SELECT n, id, chain FROM ops ORDER BY n")?;
    let rows = all.query_map([], |row| {
        Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?, row.get::<_, String>(2)?))
    })?;
    let (mut ops, mut chain) = (Vec::new(), String::new());
    for row in rows {
        let (n, id, own) = row?;
        ensure!(n == ops.len() as i64 + 1, "operation {n} follows {}", ops.len());
        chain = hash(&format!("{chain}{id}"));
        ensure!(own == chain, "operation {n} does not follow the one before");
        ops.push(id);
    }
    Ok(ops)
}

/// FNV-1a.
pub(super) fn hash(text: &str) -> String {
    let fold = |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    format!("{:016x}", text.bytes().fold(0xcbf2_9ce4_8422_2325, fold))
}
