//! A database with an application, a backup and everybody who may write to it: what the crash and interoperability
//! suites play in. Everything is a process or a server of its own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use litekeep_ltx::Pack;
use litekeep_testkit::bank::{self, Acks, Options, Report};
use litekeep_testkit::contents::differing_pages;
use litekeep_testkit::litestream::{Litestream, Replica, Setup, Until};
use litekeep_testkit::{FaultProxy, Process, S3Options, S3Server, s3_server};
use serde_json::Value;

use crate::Place;

/// Longer than anything takes on a loaded machine.
pub(crate) const LONG: Duration = Duration::from_secs(120);

/// Where the backup is.
pub(crate) enum Backup {
    Folder,
    S3 {
        server: S3Server,
        /// Between litekeep and the server; Litestream goes to the server itself.
        proxy: Option<FaultProxy>,
    },
}

pub(crate) struct Scene {
    pub(crate) place: Place,
    pub(crate) backup: Backup,
    /// The database's name in the folder.
    pub(crate) name: String,
    restores: std::cell::Cell<u32>,
}

/// The kinds of backup.
#[derive(Clone, Copy)]
pub(crate) enum Store {
    Folder,
    S3,
    /// S3 through a proxy.
    Proxied,
}

impl Scene {
    /// A scene without a database yet; `keys` stand in its `[[database]]`.
    pub(crate) fn new(store: Store, keys: &str) -> Scene {
        let place = Place::new();
        // In the same folder, so that the whole scene can be kept.
        let options = || S3Options { dir: Some(place.path("s3")), ..S3Options::default() };
        let server = || S3Server::start_with(options()).unwrap();
        let backup = match store {
            Store::Folder => Backup::Folder,
            Store::S3 => Backup::S3 { server: server(), proxy: None },
            Store::Proxied => {
                let server = server();
                let proxy = FaultProxy::start(server.address(), 1).unwrap();
                Backup::S3 { server, proxy: Some(proxy) }
            }
        };
        let scene = Scene { place, backup, name: "app.db".into(), restores: 0.into() };
        scene.configure("litekeep.toml", &scene.name, keys);
        scene
    }

    /// Keeps everything where it is, for a look at what went wrong.
    pub(crate) fn keep(&mut self) {
        self.place.dir.disable_cleanup(true);
    }

    /// Writes a configuration for one database with this scene's backup.
    pub(crate) fn configure(&self, file: &str, db: &str, keys: &str) {
        let toml = format!("[[database]]\npath = {db:?}\nbackup = {:?}\n{keys}\n", self.url());
        std::fs::write(self.place.path(file), toml).unwrap();
    }

    pub(crate) fn db(&self) -> PathBuf {
        self.place.path(&self.name)
    }

    pub(crate) fn proxy(&self) -> &FaultProxy {
        match &self.backup {
            Backup::S3 { proxy: Some(proxy), .. } => proxy,
            _ => panic!("this scene has no proxy"),
        }
    }

    /// The backup's URL for litekeep.
    pub(crate) fn url(&self) -> String {
        match &self.backup {
            Backup::Folder => format!("file://{}", self.place.path("backup").display()),
            Backup::S3 { .. } => self.url_of("app"),
        }
    }

    /// The URL of another backup in this scene's bucket.
    pub(crate) fn url_of(&self, name: &str) -> String {
        let Backup::S3 { server, proxy } = &self.backup else { panic!("this scene has no bucket") };
        let endpoint = proxy.as_ref().map_or(server.endpoint(), FaultProxy::endpoint);
        format!("{}?endpoint={endpoint}&region={}", server.url(name), s3_server::REGION)
    }

    /// The folder that holds the backup's objects.
    pub(crate) fn objects(&self) -> PathBuf {
        match &self.backup {
            Backup::Folder => self.place.path("backup"),
            Backup::S3 { server, .. } => server.bucket_dir().join("app"),
        }
    }

    /// litekeep, with the keys of the store.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.place.command(arguments);
        command.envs(S3Server::env());
        command
    }

    /// Runs litekeep to its end, which must be a success; returns its stdout.
    pub(crate) fn litekeep(&self, arguments: &[&str]) -> Result<String> {
        let output = self.command(arguments).output()?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        ensure!(output.status.success(), "litekeep {arguments:?}: {}\n{stdout}{stderr}", output.status);
        Ok(stdout)
    }

    /// Starts `litekeep replicate`.
    pub(crate) fn replicate(&self) -> Result<Process> {
        self.start(&["replicate"])
    }

    pub(crate) fn start(&self, arguments: &[&str]) -> Result<Process> {
        Process::start(self.command(arguments), &self.place.path("litekeep.log"))
    }

    /// Brings the backup up to date with nobody else at work.
    pub(crate) fn replicate_once(&self) -> Result<()> {
        self.litekeep(&["replicate", "-once"]).map(drop)
    }

    /// SIGTERM: everything is confirmed when it ends.
    pub(crate) fn stop(&self, litekeep: Process) -> Result<()> {
        let log = self.log();
        let status = litekeep.terminate(LONG)?;
        ensure!(status.success(), "litekeep ended with {status}:\n{log}{}", self.log());
        Ok(())
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.place.path("litekeep.log")).unwrap_or_default()
    }

    /// A file name that nothing has used.
    pub(crate) fn fresh(&self) -> PathBuf {
        self.restores.set(self.restores.get() + 1);
        self.place.path(&format!("restored-{}.db", self.restores.get()))
    }

    /// Restores by litekeep into a new file; `goal` are further arguments.
    pub(crate) fn restore(&self, goal: &[&str]) -> Result<PathBuf> {
        let path = self.fresh();
        let url = self.url();
        let mut arguments = vec!["restore", "-o", path.to_str().context("a temporary folder's name")?];
        arguments.extend(goal);
        arguments.push(&url);
        self.litekeep(&arguments)?;
        Ok(path)
    }

    /// What Litestream needs to work on this database and backup.
    pub(crate) fn setup(&self) -> Setup {
        let replica = match &self.backup {
            Backup::Folder => Replica::Folder(self.place.path("backup")),
            Backup::S3 { server, .. } => Replica::S3 { endpoint: server.endpoint(), path: "app".into() },
        };
        Setup { db: self.db(), replica, interval: Duration::from_millis(50) }
    }

    pub(crate) fn dir(&self) -> &Path {
        self.place.dir.path()
    }

    /// Restores by Litestream into a new file.
    pub(crate) fn restore_by_litestream(&self, litestream: &Litestream, until: &Until) -> Result<PathBuf> {
        let path = self.fresh();
        litestream.restore(self.dir(), &self.setup(), until, &path)?;
        Ok(path)
    }

    /// What `litekeep status` says of the database; also when it is red.
    pub(crate) fn status(&self) -> Result<Value> {
        let output = self.command(&["status", "--json"]).output()?;
        let stdout = String::from_utf8_lossy(&output.stdout);
        let status: Value = serde_json::from_str(&stdout)
            .with_context(|| format!("{stdout}{}", String::from_utf8_lossy(&output.stderr)))?;
        Ok(status["databases"][0].clone())
    }

    /// What litekeep has said to be in the backup.
    pub(crate) fn confirmed(&self) -> Result<Option<Confirmed>> {
        let Some(txid) = self.status()?["confirmed"]["txid"].as_str().map(str::to_owned) else {
            return Ok(None);
        };
        // A file's time is after its last commit, and whatever was committed before that is in the next one at the latest.
        let mut before = None;
        for file in self.history()? {
            let text = |key: &str| file[key].as_str().map(str::to_owned).context("a text");
            if text("max_txid")? < txid {
                before = before.max(Some(text("time")?.parse::<jiff::Timestamp>()?));
            }
        }
        let complete_ns = before.map_or(0, |time| (time.as_millisecond() - 1) * 1_000_000);
        Ok(Some(Confirmed { txid, complete_ns }))
    }

    /// The files of the backup, with their exact times.
    pub(crate) fn history(&self) -> Result<Vec<Value>> {
        let history: Value =
            serde_json::from_str(&self.litekeep(&["history", "--json", "--exact", &self.url()])?)?;
        history["backups"][0]["files"].as_array().cloned().with_context(|| format!("no files in {history}"))
    }

    /// The last transaction in the backup, by its listing.
    pub(crate) fn last_txid(&self) -> Result<String> {
        let history = self.history()?;
        let last = history.last().and_then(|file| file["max_txid"].as_str());
        last.map(str::to_owned).context("there is no transaction")
    }

    /// Restores, and holds the restored database against what was confirmed and acknowledged before.
    pub(crate) fn prove(&self, confirmed: Option<&Confirmed>, acks: &Acks) -> Result<Option<Report>> {
        // Nothing is promised before the first snapshot is there.
        let Some(confirmed) = confirmed else { return Ok(None) };
        let promised = acks.highest_at(confirmed.complete_ns);
        let path = self.restore(&[])?;
        let report = bank::check(&path)?;
        ensure!(report.ops >= promised, "restored {} of {promised} confirmed operations", report.ops);
        let path = self.restore(&["-txid", &confirmed.txid])?;
        let report = bank::check(&path)?;
        ensure!(report.ops >= promised, "{confirmed:?}: {} of {promised} operations", report.ops);
        Ok(Some(report))
    }

    /// Restores some of the single commits that are kept: the bank was whole after each.
    pub(crate) fn prove_single_commits(&self, random: &mut fastrand::Rng, count: usize) -> Result<()> {
        let folders = [self.objects().join("litekeep/commits"), self.place.path(".app.db-litekeep/packs")];
        let mut kept = vec![];
        for entry in folders.iter().filter_map(|folder| std::fs::read_dir(folder).ok()).flatten() {
            let Ok(pack) = Pack::scan(&std::fs::read(entry?.path())?) else { continue };
            kept.extend(pack.entries.into_iter().map(|(entry, _)| entry).filter(|entry| entry.parts > 1));
        }
        random.shuffle(&mut kept);
        for entry in kept.iter().take(count) {
            let point = format!("{}.{}", entry.txid, random.u32(1..=entry.parts));
            let path = self.fresh();
            let to = path.to_str().context("a path that is text")?;
            self.litekeep(&["restore", "app.db", "-o", to, "-txid", &point])?;
            bank::check(&path).with_context(|| format!("after commit {point}, of {entry:?}"))?;
        }
        Ok(())
    }

    /// With everybody at rest: database and restore are the same, page by page. Returns the restore.
    pub(crate) fn prove_equal_pages(&self) -> Result<PathBuf> {
        let restored = self.restore(&[])?;
        let differing = differing_pages(&self.db(), &restored)?;
        ensure!(differing.is_empty(), "the restore differs in {} pages: {differing:?}", differing.len());
        Ok(restored)
    }

    /// The same of a bank, which must be whole; and, if it is given, for Litestream's restore of the same backup.
    pub(crate) fn prove_equal(&self, litestream: Option<&Litestream>) -> Result<Report> {
        let own = bank::check(&self.db()).context("the application's own database")?;
        let by_us = self.prove_equal_pages().with_context(|| format!("{own:?}"))?;
        ensure!(bank::check(&by_us)? == own, "the restore is not {own:?}");
        if let Some(litestream) = litestream {
            let by_them = self.restore_by_litestream(litestream, &Until::Latest)?;
            let differing = differing_pages(&by_us, &by_them)?;
            ensure!(differing.is_empty(), "Litestream's restore differs in pages {differing:?}");
        }
        Ok(own)
    }

    /// A bank on this scene's database.
    pub(crate) fn bank(&self) -> Options {
        Options::new(self.db())
    }
}

/// The transaction up to which everything is in the backup, in litekeep's words.
#[derive(Debug, Clone)]
pub(crate) struct Confirmed {
    pub(crate) txid: String,
    /// Everything committed before is in it; nanoseconds since 1970.
    pub(crate) complete_ns: i64,
}
