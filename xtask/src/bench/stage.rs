//! One run: a folder with databases, an empty store, and the system that is measured.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use litekeep_testkit::process::eventually;
use litekeep_testkit::{Digest, Process, Usage};
use tempfile::TempDir;

use crate::arrivals::{Arrival, Store};
use crate::outcome::Outcome;
use crate::shipped::{Shipped, is_first_copy, lags_ms, states};
use crate::source::{Commit, Source, newest_of};
use crate::system::System;
use crate::{Bench, Target};

/// Longer than anything takes on a loaded machine.
pub(crate) const LONG: Duration = Duration::from_secs(300);

/// Litestream looks once a second: who is quiet for longer has at least shipped what it had begun.
pub(crate) const QUIET: Duration = Duration::from_millis(2_500);

/// Who ships nothing for so long will not ship the rest either. Preparing a big file takes many seconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// The name of the database of scenarios with only one.
pub(crate) const APP: &str = "app.db";

/// In the name of each file that begins with the first transaction.
const FIRST: &str = "/0000000000000001-";

pub(crate) struct Stage<'a> {
    pub(crate) bench: &'a Bench,
    pub(crate) system: System,
    pub(crate) store: Store,
    // After the store, which watches a folder in it.
    dir: TempDir,
}

/// A finished restore.
pub(crate) struct Restored {
    pub(crate) path: PathBuf,
    pub(crate) wall: Duration,
    /// As last seen, a few milliseconds before its end.
    pub(crate) usage: Usage,
}

impl<'a> Stage<'a> {
    pub(crate) fn set(bench: &'a Bench, system: System, target: Target) -> Result<Self> {
        let dir = tempfile::tempdir().context("make a folder for the run")?;
        let store = Store::open(target, dir.path())?;
        Ok(Self { bench, system, store, dir })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn load(&self) -> Duration {
        self.bench.options.load()
    }

    /// A copy of the big database under the name [`APP`].
    pub(crate) fn big(&self) -> Result<Source> {
        let made = self.bench.dir.path().join("big.db");
        if !made.exists() {
            let mut source = Source::create(&made, 100)?;
            source.commit_big(self.bench.options.big_bytes())?;
            source.checkpoint_truncate()?;
        }
        let path = self.path(APP);
        std::fs::copy(&made, &path).with_context(|| format!("copy {made:?}"))?;
        std::fs::File::open(&path)?.sync_all()?;
        Source::open(&path)
    }

    /// Small databases, all alike; their names.
    pub(crate) fn databases(&self, count: usize) -> Result<Vec<String>> {
        let template = self.path("template");
        Source::create(&template, 20)?.checkpoint_truncate()?;
        let names: Vec<String> = (0..count).map(|n| format!("d{n:04}.db")).collect();
        for name in &names {
            std::fs::copy(&template, self.path(name)).context("copy a small database")?;
        }
        Ok(names)
    }

    /// Starts to replicate the databases of these names.
    pub(crate) fn replicate(&self, names: &[String]) -> Result<Process> {
        let paths: Vec<PathBuf> = names.iter().map(|name| self.path(name)).collect();
        let replicas = names.iter().map(|name| self.store.replica(name));
        let yaml = self.system.config(&self.bench.options, paths.iter().map(PathBuf::as_path).zip(replicas));
        let config = self.path("litestream.yml");
        std::fs::write(&config, yaml).with_context(|| format!("write {config:?}"))?;
        self.start()
    }

    /// Starts again what [`Self::replicate`] had started.
    pub(crate) fn start(&self) -> Result<Process> {
        let command = self.system.command(self.bench, "replicate", &self.path("litestream.yml"))?;
        Process::start(command, &self.path("log"))
    }

    /// Starts to replicate [`APP`], and waits until its first copy is there and nothing more follows.
    pub(crate) fn replicate_app(&self) -> Result<Process> {
        let mut replicator = self.replicate(&[APP.into()])?;
        self.wait_for_first_copies(&mut replicator, &[APP.into()])?;
        self.settle(QUIET)?;
        Ok(replicator)
    }

    /// Waits until each database can be restored; returns when the last one came, CLOCK_MONOTONIC, nanoseconds.
    pub(crate) fn wait_for_first_copies(&self, replicator: &mut Process, names: &[String]) -> Result<i64> {
        let mut last = 0;
        eventually("a first copy of each database", LONG, || {
            ensure!(replicator.is_running()?, "the replicator ended:\n{}", replicator.output());
            std::thread::sleep(Duration::from_millis(20));
            let arrivals = self.store.arrivals()?;
            let firsts: Vec<&Arrival> =
                arrivals.iter().filter(|arrival| arrival.key.contains(FIRST)).collect();
            let first = |name: &String| firsts.iter().find(|arrival| is_first_copy(arrival, name));
            let there: Option<Vec<i64>> = names.iter().map(|name| Some(first(name)?.ns)).collect();
            last = there.as_ref().and_then(|there| there.iter().copied().max()).unwrap_or(0);
            Ok(there.is_some())
        })?;
        Ok(last)
    }

    /// Waits until nothing has come to the store for so long.
    pub(crate) fn settle(&self, quiet: Duration) -> Result<()> {
        let (mut last, mut since) = (None, Instant::now());
        eventually("a quiet store", LONG, || {
            let now = (self.store.arrivals()?.len(), self.store.uploaded());
            if last.replace(now) != Some(now) {
                since = Instant::now();
            }
            std::thread::sleep(Duration::from_millis(20));
            Ok(since.elapsed() >= quiet)
        })
    }

    /// Waits until the store holds the newest commit of each database, or nothing has come to it for [`PATIENCE`];
    /// returns the states of each that it came to hold.
    pub(crate) fn shipped(&self, names: &[String]) -> Result<Vec<Vec<Shipped>>> {
        let due = names.iter().map(|name| newest_of(&self.path(name))).collect::<Result<Vec<_>>>()?;
        let mut quiet = Instant::now();
        loop {
            self.settle(QUIET)?;
            let came = self.store.arrivals()?.len();
            let shipped = names
                .iter()
                .map(|name| states(&self.store, name, self.dir.path()))
                .collect::<Result<Vec<_>>>()?;
            let holds = |(states, due): (&Vec<Shipped>, &i64)| {
                states.last().is_some_and(|state| state.newest >= *due)
            };
            if shipped.iter().zip(&due).all(holds) || quiet.elapsed() > PATIENCE {
                return Ok(shipped);
            }
            while self.store.arrivals()?.len() == came && quiet.elapsed() <= PATIENCE {
                std::thread::sleep(Duration::from_millis(50));
            }
            if self.store.arrivals()?.len() > came {
                quiet = Instant::now();
            }
        }
    }

    /// Restores a database, up to an instant if there is one; an error when the system fails to.
    pub(crate) fn restore(&self, name: &str, instant: Option<&str>) -> Result<Restored> {
        let path = self.path("restored.db");
        for suffix in ["", "-wal", "-shm"] {
            let old = self.path(&format!("restored.db{suffix}"));
            if old.exists() {
                std::fs::remove_file(old)?;
            }
        }
        let mut command = self.system.command(self.bench, "restore", &self.path("litestream.yml"))?;
        command.arg("-o").arg(&path);
        if let Some(instant) = instant {
            command.arg("-timestamp").arg(instant);
        }
        command.arg(self.path(name));
        let log = self.path("restore.log");
        let start = Instant::now();
        let mut process = Process::start(command, &log)?;
        let usage = to_end(&mut process)?;
        let wall = start.elapsed();
        let status = process.wait(LONG)?;
        if !status.success() {
            let said = process.output();
            std::fs::remove_file(&log)?;
            bail!("restore {name}: {status}\n{said}");
        }
        Ok(Restored { path, wall, usage })
    }

    /// Restores a database; what is missing or differs is noted as wrong.
    pub(crate) fn check(&self, name: &str, outcome: &mut Outcome) -> Result<()> {
        let restored = match self.restore(name, None) {
            Ok(restored) => restored,
            Err(error) => {
                outcome.wrong(format!("{error:#}"));
                return Ok(());
            }
        };
        let (source, copy) = (rows(&self.path(name))?, rows(&restored.path)?);
        if source != copy {
            outcome.wrong(format!("{name} differs: {:?}, restored {:?}", source.tables, copy.tables));
        }
        Ok(())
    }

    /// How late the store held the commits; those that it never did are noted as wrong.
    pub(crate) fn lags(
        &self,
        names: &[String],
        commits: &[Commit],
        outcome: &mut Outcome,
    ) -> Result<Vec<f64>> {
        let mut lags = Vec::new();
        for (db, states) in self.shipped(names)?.iter().enumerate() {
            let (late, missing) = lags_ms(commits.iter().filter(|commit| commit.db == db), states);
            lags.extend(late);
            if missing > 0 {
                outcome.wrong(format!("{}: {missing} commits never came", names[db]));
            }
        }
        Ok(lags)
    }
}

/// Waits for a process's end; what it used as last seen.
pub(crate) fn to_end(process: &mut Process) -> Result<Usage> {
    let mut last = process.usage()?;
    eventually("its end", LONG, || {
        // Fails once it has ended.
        if let Ok(usage) = process.usage() {
            last = usage;
        }
        Ok(!process.is_running()?)
    })?;
    Ok(last)
}

/// Ends a replicator in order.
pub(crate) fn stop(replicator: Process) -> Result<()> {
    replicator.terminate(LONG).map(drop)
}

/// All rows, but those that Litestream keeps for itself.
fn rows(db: &Path) -> Result<Digest> {
    let mut digest = Digest::of(db)?;
    digest.tables.retain(|name, _| !name.starts_with("_litestream"));
    digest.schema.retain(|(_, name), _| !name.starts_with("_litestream"));
    Ok(digest)
}
