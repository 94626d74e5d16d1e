//! Three nodes on machines of their own, the store and etcd on two more, and clients on one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use litekeep_testkit::process::eventually;
use litekeep_testkit::{Network, Process, S3Server, clock, programs, s3_server};
use serde_json::Value;

use crate::scene::LONG;
use crate::{Place, Ran};

pub(super) const NODES: [&str; 3] = ["a", "b", "c"];
const STORE: &str = "store";
pub(super) const ETCD: &str = "etcd";
const CLIENTS: &str = "clients";
const BANK: &str = include_str!("bank.py");
const PROGRAMS: [(&str, &str); 2] =
    [("clients.py", include_str!("clients.py")), ("watcher.py", include_str!("watcher.py"))];
/// What a node may keep.
const DISK: u64 = 48 << 20;
const PORT: u16 = 3000;

pub(super) struct Scene {
    pub(super) place: Place,
    pub(super) network: Network,
    pub(super) acknowledge: &'static str,
    in_etcd: bool,
    up: [Option<Process>; 3],
    clients: Option<Process>,
    /// Servers and watchers: they end with the scene.
    others: Vec<Process>,
    /// Who has held the lease in the bucket, by epoch.
    pub(super) holders: BTreeMap<u64, String>,
}

pub(super) fn nth(node: &str) -> usize {
    NODES.iter().position(|own| *own == node).expect("a node")
}

impl Scene {
    pub(super) fn new(acknowledge: &'static str, in_etcd: bool) -> Result<Scene> {
        let place = Place::new();
        let network = Network::start(&[&NODES[..], &[STORE, ETCD, CLIENTS]].concat())?;
        let mut scene = Scene {
            place,
            network,
            acknowledge,
            in_etcd,
            up: [None, None, None],
            clients: None,
            others: vec![],
            holders: BTreeMap::new(),
        };
        for (name, text) in PROGRAMS {
            std::fs::write(scene.place.path(name), text)?;
        }
        scene.serve()?;
        for node in NODES {
            std::fs::create_dir(scene.place.path(node))?;
            scene.network.mount(&scene.place.path(node), DISK)?;
            std::fs::write(scene.path(node, "bank.py"), BANK)?;
            scene.configure(node, "")?;
            std::fs::write(scene.clock(node), "+0\n")?;
        }
        Ok(scene)
    }

    fn serve(&mut self) -> Result<()> {
        let mut store = self.network.command(STORE, self.place.dir.path(), programs::testkit()?);
        store.args(["s3-server", "--port", "9000", "--dir"]).arg(self.place.path("s3"));
        store.args(["--host", &self.network.address(STORE).to_string()]);
        self.others.push(Process::start(store, &self.place.path("s3.log"))?);
        if self.in_etcd {
            let host = self.network.address(ETCD);
            let (own, peers) = (format!("http://{host}:2379"), format!("http://{host}:2380"));
            let mut etcd = self.network.command(ETCD, self.place.dir.path(), "etcd");
            etcd.args(["--name", "one", "--data-dir", "etcd", "--initial-cluster", &format!("one={peers}")]);
            etcd.args(["--listen-client-urls", &own, "--advertise-client-urls", &own]);
            etcd.args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers]);
            self.others.push(Process::start(etcd, &self.place.path("etcd.log"))?);
        }
        for node in NODES {
            let mut watcher = self.network.command(CLIENTS, self.place.dir.path(), "python3");
            watcher.args(["watcher.py", &format!("{node}/app.db"), &format!("watched-{node}")]);
            self.others.push(Process::start(watcher, &self.place.path("watcher.log"))?);
        }
        Ok(())
    }

    /// Writes the configuration of a node.
    pub(super) fn configure(&self, node: &str, keys: &str) -> Result<()> {
        let (own, store) = (self.network.address(node), self.network.address(STORE));
        let url = format!(
            "s3://{}/app?endpoint=http://{store}:9000&region={}",
            s3_server::BUCKET,
            s3_server::REGION
        );
        let lease = match self.in_etcd {
            true => format!("lease = \"etcd://{}:2379/app\"\n", self.network.address(ETCD)),
            false => String::new(),
        };
        let test = std::process::id();
        let toml = format!(
            "[[database]]\npath = \"app.db\"\nbackup = {url:?}\nupload_interval = \"20ms\"\n\
             [cluster]\nnode = \"{node}\"\nttl = \"2s\"\naddress = \"{own}\"\n{lease}{keys}\n\
             [process.bank]\ncommand = [\"python3\", \"bank.py\"]\nproxy = \"{own}:{PORT}\"\n\
             env = {{ NODE = \"{node}\", TEST = \"{test}\", LD_PRELOAD = \"\" }}\n\
             on_role_change = \"nothing\"\nstop_timeout = \"1s\"\n\
             [cluster.proxy]\nacknowledge = \"{}\"\n",
            self.acknowledge
        );
        Ok(std::fs::write(self.path(node, "litekeep.toml"), toml)?)
    }

    /// A file of a node, for us.
    pub(super) fn path(&self, node: &str, file: &str) -> PathBuf {
        self.network.path(&self.place.path(node).join(file))
    }

    fn clock(&self, node: &str) -> PathBuf {
        self.place.path(&format!("clock-{node}"))
    }

    /// Has the wall clock of a node, as litekeep sees it, jump to so many seconds ahead.
    pub(super) fn jump(&self, node: &str, ahead_s: i64) -> Result<()> {
        Ok(std::fs::write(self.clock(node), format!("{ahead_s:+}\n"))?)
    }

    fn command(&self, node: &str, arguments: &[&str]) -> Command {
        let own = self.place.command(&[]);
        let mut command = self.network.command(node, &self.place.path(node), own.get_program());
        command.args(arguments).env_clear().env("TZ", "UTC").envs(S3Server::env());
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command
    }

    pub(super) fn litekeep(&self, node: &str, arguments: &[&str]) -> Ran {
        Ran::of(self.command(node, arguments))
    }

    pub(super) fn start(&mut self, node: &str) -> Result<()> {
        let mut command = self.command(node, &["up", "--quiet"]);
        clock::jumping(&mut command, &self.clock(node))?;
        self.up[nth(node)] = Some(Process::start(command, &self.place.path(&format!("up-{node}.log")))?);
        Ok(())
    }

    pub(super) fn start_clients(&mut self) -> Result<()> {
        let mut command = self.network.command(CLIENTS, self.place.dir.path(), "python3");
        command.args(["clients.py", "told", "5"]);
        command.args(NODES.map(|node| format!("{}:{PORT}", self.network.address(node))));
        self.clients = Some(Process::start(command, &self.place.path("clients.log"))?);
        Ok(())
    }

    pub(super) fn end_clients(&mut self) -> Result<()> {
        let clients = self.clients.take().context("clients")?;
        let said = clients.output();
        ensure!(clients.terminate(LONG)?.success() && said.is_empty(), "the clients said: {said}");
        Ok(())
    }

    /// One signal to litekeep.
    pub(super) fn signal(&mut self, node: &str, signal: i32) -> Result<()> {
        self.up[nth(node)].as_mut().context("a node that is up")?.signal(signal)
    }

    /// One signal to all that runs on a node.
    pub(super) fn signal_all(&self, node: &str, signal: i32) -> Result<()> {
        let all = self.network.processes(node)?;
        let pids = all.iter().map(i32::to_string);
        // One that has ended meanwhile makes it fail.
        _ = Command::new("kill").arg(format!("-{signal}")).args(pids).output()?;
        Ok(())
    }

    pub(super) fn kill_litekeep(&mut self, node: &str) -> Result<()> {
        self.up[nth(node)].take().context("a node that is up")?.kill().map(drop)
    }

    /// The machine is off.
    pub(super) fn kill_all(&mut self, node: &str) -> Result<()> {
        let up = self.up[nth(node)].take();
        eventually("all of the node is dead", LONG, || {
            self.signal_all(node, libc::SIGKILL)?;
            // Our child is a zombie until it is waited for.
            let own = up.as_ref().map(|up| up.id().cast_signed());
            Ok(self.network.processes(node)?.iter().all(|pid| Some(*pid) == own))
        })
    }

    pub(super) fn is_up(&self, node: &str) -> bool {
        self.up[nth(node)].is_some()
    }

    /// Takes the rest of a node's disk.
    pub(super) fn fill(&self, node: &str) -> Result<()> {
        let mut ballast = std::fs::File::create(self.path(node, "ballast"))?;
        let full = loop {
            if let Err(error) = std::io::Write::write_all(&mut ballast, &[1; 4096]) {
                break error;
            }
        };
        ensure!(full.kind() == std::io::ErrorKind::StorageFull, "fill the disk of `{node}`: {full}");
        Ok(())
    }

    pub(super) fn empty(&self, node: &str) -> Result<()> {
        Ok(std::fs::remove_file(self.path(node, "ballast"))?)
    }

    /// The other nodes.
    pub(super) fn others_than(node: &str) -> Vec<&'static str> {
        NODES.into_iter().filter(|other| *other != node).collect()
    }

    /// Where a node's lease is.
    pub(super) fn place_of_lease(&self) -> &'static str {
        if self.in_etcd { ETCD } else { STORE }
    }

    pub(super) fn part_from_store(&self, nodes: &[&str]) -> Result<()> {
        self.network.part(STORE, nodes)
    }

    /// What a node says of itself.
    pub(super) fn role(&self, node: &str) -> Option<String> {
        let ran = self.is_up(node).then(|| self.litekeep(node, &["status", "--json"]))?;
        let status: Value = serde_json::from_str(&ran.stdout).ok()?;
        Some(status["stack"]["node"]["role"].as_str()?.to_owned())
    }

    /// Asks a node for one operation; the status of its answer, `None`: nothing for a minute.
    pub(super) fn ask(&self, node: &str, op: &str) -> Option<u16> {
        const ASK: &str = "import http.client, sys\n\
            connection = http.client.HTTPConnection(sys.argv[1], timeout=60)\n\
            connection.request('POST', sys.argv[2], headers={'Content-Length': '0'})\n\
            print(connection.getresponse().status)";
        let mut python = self.network.command(CLIENTS, self.place.dir.path(), "python3");
        python.args(["-c", ASK, &format!("{}:{PORT}", self.network.address(node)), &format!("/{op}")]);
        String::from_utf8(python.output().ok()?.stdout).ok()?.trim().parse().ok()
    }

    #[track_caller]
    pub(super) fn until(&self, what: &str, mut is_so: impl FnMut(&Scene) -> bool) {
        let said = || NODES.map(|node| self.said(node)).join("\n");
        eventually(what, LONG, || Ok(is_so(self))).with_context(said).unwrap();
    }

    pub(super) fn said(&self, node: &str) -> String {
        std::fs::read_to_string(self.place.path(&format!("up-{node}.log"))).unwrap_or_default()
    }

    /// Waits until a node is the primary; which one.
    pub(super) fn primary(&mut self) -> Result<&'static str> {
        let mut found = None;
        eventually("there is a primary", LONG, || {
            found = NODES.into_iter().find(|node| self.role(node).is_some_and(|role| role == "primary"));
            std::thread::sleep(Duration::from_millis(50));
            Ok(found.is_some())
        })?;
        found.context("a primary")
    }

    /// Looks at the lease behind everybody's back: each epoch has one holder.
    pub(super) fn look_at_lease(&mut self) -> Result<()> {
        let folder = self.place.path(&format!("s3/{}/app/litekeep/lease", s3_server::BUCKET));
        let Ok(records) = std::fs::read_dir(folder) else { return Ok(()) };
        for record in records.flatten() {
            // One that is being deleted, or what the store keeps beside it.
            let Ok(text) = std::fs::read(record.path()) else { continue };
            let Ok(record) = serde_json::from_slice::<Value>(&text) else { continue };
            let epoch = record["epoch"].as_u64().context("an epoch")?;
            let who = format!("{} {}", record["holder"]["name"], record["nonce"]);
            let known = self.holders.entry(epoch).or_insert_with(|| who.clone());
            ensure!(*known == who, "epoch {epoch} is held by {known}, and by {who}");
        }
        Ok(())
    }

    /// Lets time go by, with an eye on the lease.
    pub(super) fn pass(&mut self, time: Duration) -> Result<()> {
        let begun = std::time::Instant::now();
        while begun.elapsed() < time {
            self.look_at_lease()?;
            std::thread::sleep(Duration::from_millis(100).min(time));
        }
        Ok(())
    }

    pub(super) fn told(&self) -> String {
        std::fs::read_to_string(self.place.path("told")).unwrap_or_default()
    }

    /// How many operations the clients were told to be done.
    fn done(&self) -> usize {
        self.told()
            .lines()
            .filter(|line| line.starts_with("w ") && line.split(' ').nth(6) == Some("200"))
            .count()
    }

    /// Waits until more operations are done.
    pub(super) fn progress(&mut self, more: usize) -> Result<()> {
        let before = self.done();
        eventually("operations are done", LONG, || {
            self.pass(Duration::from_millis(100))?;
            Ok(self.done() >= before + more)
        })
    }

    /// The last state that somebody has seen on a node.
    pub(super) fn last_watched(&self, node: &str) -> Option<String> {
        let text = std::fs::read_to_string(self.place.path(&format!("watched-{node}"))).ok()?;
        text.lines().last().map(str::to_owned)
    }

    /// Ends a node as a person does.
    pub(super) fn terminate(&mut self, node: &str) -> Result<ExitStatus> {
        self.up[nth(node)].take().context("a node that is up")?.terminate(LONG)
    }

    pub(super) fn end(&mut self, node: &str) -> Result<()> {
        let ended = self.terminate(node)?;
        ensure!(ended.success(), "`{node}` ended with {ended}");
        Ok(())
    }

    /// A database of a node that nobody has open, where SQLite finds it.
    pub(super) fn taken(&self, node: &str) -> Result<PathBuf> {
        let taken = self.place.path(&format!("taken-{node}.db"));
        for suffix in ["", "-wal"] {
            let from = self.path(node, &format!("app.db{suffix}"));
            if from.exists() {
                let mut to = taken.clone().into_os_string();
                to.push(suffix);
                std::fs::copy(from, Path::new(&to))?;
            }
        }
        Ok(taken)
    }

    /// Keeps everything for a look at what went wrong; where.
    pub(super) fn keep(&mut self) -> String {
        self.place.dir.disable_cleanup(true);
        for node in NODES {
            let kept = self.place.path(&format!("kept-{node}"));
            _ = Command::new("cp").arg("-r").arg(self.path(node, "")).arg(kept).status();
        }
        self.place.dir.path().display().to_string()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        for node in NODES {
            _ = self.signal_all(node, libc::SIGKILL);
        }
    }
}
