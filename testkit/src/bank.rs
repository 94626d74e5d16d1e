//! A bank: a workload that can prove what it wrote, and a check that finds out whether a copy of its database is a
//! state that the bank was really in.
//!
//! Every change is an operation with a number, written into the table `ledger` in the transaction that makes it; numbers
//! have no gaps and each row's `chain` covers all rows before it. Everything else in the database (accounts, blobs,
//! tables that come and go) follows from the ledger alone, so [`check`] replays the ledger and compares every row. A
//! copy that mixes pages of two moments, lacks a committed transaction in the middle or has a part of one cannot pass.
//!
//! An operation is *acknowledged* when COMMIT has returned: only then the bank appends `n OP MONOTONIC-NS UNIX-NS`
//! to its log of acknowledgements. Operations commit in the order of their numbers, so all numbers up to an
//! acknowledged one are committed. A kill can lose an acknowledgement, never a commit.

mod check;
mod operation;
mod workload;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};

pub use check::{Report, check};
pub use workload::run;

use crate::process::{Process, eventually};
use crate::programs;

/// `PRAGMA synchronous`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs, reason = "SQLite's names")]
pub enum Synchronous {
    Off,
    Normal,
    Full,
    Extra,
}

/// `PRAGMA auto_vacuum`, in effect when the database is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs, reason = "SQLite's names")]
pub enum AutoVacuum {
    None,
    Full,
    Incremental,
}

/// What the bank does; probabilities are per transaction.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// The database; made if it is not there, gone on with if it is.
    #[arg(long)]
    pub db: PathBuf,
    /// The log of acknowledgements, appended to; without it: stdout.
    #[arg(long)]
    pub acks: Option<PathBuf>,
    /// Where all chance comes from.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Connections (threads) that write.
    #[arg(long, default_value_t = 2)]
    pub connections: usize,
    /// Connections that read in transactions of random length, so that checkpoints cannot finish.
    #[arg(long, default_value_t = 0)]
    pub readers: usize,
    /// Open the database for each transaction and close it afterwards.
    #[arg(long)]
    pub reopen: bool,
    /// Accounts that a new bank opens with.
    #[arg(long, default_value_t = 200)]
    pub accounts: u32,
    /// Page size of a new database, bytes.
    #[arg(long, default_value_t = 4096)]
    pub page_size: u32,
    /// Auto-vacuum mode of a new database.
    #[arg(long, value_enum, default_value_t = AutoVacuum::None)]
    pub auto_vacuum: AutoVacuum,
    /// `PRAGMA wal_autocheckpoint`, pages; 0: never.
    #[arg(long, default_value_t = 1000)]
    pub autocheckpoint: u32,
    /// `PRAGMA synchronous`.
    #[arg(long, value_enum, default_value_t = Synchronous::Normal)]
    pub synchronous: Synchronous,
    /// Mean pause between two transactions of a connection, microseconds.
    #[arg(long, default_value_t = 0)]
    pub pause_us: u64,
    /// The largest blob, bytes; 0: no blobs.
    #[arg(long, default_value_t = 50_000)]
    pub blob_bytes: u32,
    /// Probability of a transaction of hundreds of operations that overflows the page cache into the WAL.
    #[arg(long, default_value_t = 0.005)]
    pub bulk: f64,
    /// Probability of a transaction that is rolled back.
    #[arg(long, default_value_t = 0.03)]
    pub rollback: f64,
    /// Probability of a table that is made or dropped.
    #[arg(long, default_value_t = 0.0)]
    pub schema: f64,
    /// Probability of a VACUUM.
    #[arg(long, default_value_t = 0.0)]
    pub vacuum: f64,
    /// Probability of a `wal_checkpoint(TRUNCATE)` by the application itself.
    #[arg(long, default_value_t = 0.0)]
    pub truncate: f64,
    /// End after this many seconds.
    #[arg(long)]
    pub secs: Option<f64>,
    /// End when the ledger has this many operations.
    #[arg(long)]
    pub ops: Option<u64>,
}

impl Options {
    /// The defaults of the command line, for this database.
    #[must_use]
    pub fn new(db: impl Into<PathBuf>) -> Self {
        Self {
            db: db.into(),
            acks: None,
            seed: 1,
            connections: 2,
            readers: 0,
            reopen: false,
            accounts: 200,
            page_size: 4096,
            auto_vacuum: AutoVacuum::None,
            autocheckpoint: 1000,
            synchronous: Synchronous::Normal,
            pause_us: 0,
            blob_bytes: 50_000,
            bulk: 0.005,
            rollback: 0.03,
            schema: 0.0,
            vacuum: 0.0,
            truncate: 0.0,
            secs: None,
            ops: None,
        }
    }

    /// Everything at once, drawn from `seed`: page size, modes, connections, VACUUM, tables that come and go. For
    /// campaigns that should meet each combination at some time.
    #[must_use]
    pub fn random(db: impl Into<PathBuf>, seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut sometimes = |probability: f64, then: f64| if random.f64() < probability { then } else { 0.0 };
        let (vacuum, truncate, schema) = (sometimes(0.3, 0.002), sometimes(0.3, 0.005), sometimes(0.5, 0.02));
        Self {
            seed: random.u64(..),
            connections: random.usize(1..=4),
            readers: random.usize(0..=1),
            reopen: random.f64() < 0.2,
            accounts: random.u32(50..=1000),
            page_size: 512 << random.u32(0..=7),
            auto_vacuum: *[AutoVacuum::None, AutoVacuum::Full, AutoVacuum::Incremental]
                .get(random.usize(0..6))
                .unwrap_or(&AutoVacuum::None),
            autocheckpoint: [0, 10, 100, 1000][random.usize(0..4)],
            synchronous: if random.bool() { Synchronous::Normal } else { Synchronous::Full },
            pause_us: [0, 200, 5_000][random.usize(0..3)],
            blob_bytes: [0, 5_000, 200_000][random.usize(0..3)],
            vacuum,
            truncate,
            schema,
            ..Self::new(db)
        }
    }

    /// The command line that says the same.
    #[must_use]
    pub fn to_args(&self) -> Vec<OsString> {
        let mut args: Vec<OsString> = vec!["bank".into(), "--db".into(), self.db.clone().into()];
        let mut arg = |name: &str, value: OsString| args.extend([OsString::from(name), value]);
        if let Some(acks) = &self.acks {
            arg("--acks", acks.clone().into());
        }
        let value_name = |value: Option<clap::builder::PossibleValue>| {
            value.map(|value| value.get_name().to_owned()).unwrap_or_default()
        };
        for (name, value) in [
            ("--seed", self.seed.to_string()),
            ("--connections", self.connections.to_string()),
            ("--readers", self.readers.to_string()),
            ("--accounts", self.accounts.to_string()),
            ("--page-size", self.page_size.to_string()),
            ("--auto-vacuum", value_name(self.auto_vacuum.to_possible_value())),
            ("--autocheckpoint", self.autocheckpoint.to_string()),
            ("--synchronous", value_name(self.synchronous.to_possible_value())),
            ("--pause-us", self.pause_us.to_string()),
            ("--blob-bytes", self.blob_bytes.to_string()),
            ("--bulk", self.bulk.to_string()),
            ("--rollback", self.rollback.to_string()),
            ("--schema", self.schema.to_string()),
            ("--vacuum", self.vacuum.to_string()),
            ("--truncate", self.truncate.to_string()),
        ] {
            arg(name, value.into());
        }
        if let Some(secs) = self.secs {
            arg("--secs", secs.to_string().into());
        }
        if let Some(ops) = self.ops {
            arg("--ops", ops.to_string().into());
        }
        if self.reopen {
            args.push("--reopen".into());
        }
        args
    }
}

/// A bank that runs as a process.
#[derive(Debug)]
pub struct Bank {
    process: Process,
    acks: PathBuf,
}

impl Bank {
    /// Starts the bank; acknowledgements go to `<db>.acks` unless the options say otherwise, messages to `<db>.log`.
    ///
    /// # Errors
    /// When the program cannot be built or started.
    pub fn start(options: &Options) -> Result<Self> {
        Self::start_under(options, |_| {})
    }

    /// As [`Self::start`], with changes to the command (environment, working directory) before it starts.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_under(options: &Options, prepare: impl FnOnce(&mut Command)) -> Result<Self> {
        let mut options = options.clone();
        let acks = options.acks.get_or_insert_with(|| beside(&options.db, ".acks")).clone();
        let mut command = Command::new(programs::testkit()?);
        command.args(options.to_args());
        prepare(&mut command);
        let process = Process::start(command, &beside(&options.db, ".log"))?;
        Ok(Self { process, acks })
    }

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// What was acknowledged until now.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn acks(&self) -> Result<Acks> {
        Acks::read(&self.acks)
    }

    /// Waits until operation `op` is acknowledged.
    ///
    /// # Errors
    /// When that takes longer than `timeout`, or the bank ends before.
    pub fn wait_for(&mut self, op: u64, timeout: Duration) -> Result<()> {
        eventually(&format!("operation {op} is acknowledged"), timeout, || {
            // Asked before the log is read: what it did last is in the log then.
            let running = self.process.is_running()?;
            let done = Acks::read(&self.acks)?.highest() >= op;
            anyhow::ensure!(
                done || running,
                "the bank ended before operation {op}:\n{}",
                self.process.output()
            );
            Ok(done)
        })
    }

    /// SIGKILL; returns what was acknowledged.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn kill(self) -> Result<Acks> {
        self.process.kill()?;
        Acks::read(&self.acks)
    }

    /// SIGTERM: the bank finishes its transactions and closes its connections. Returns what was acknowledged.
    ///
    /// # Errors
    /// When it fails or does not end within a minute.
    pub fn stop(mut self) -> Result<Acks> {
        self.process.signal(libc::SIGTERM)?;
        self.finish(Duration::from_secs(60))
    }

    /// Waits for its end (`secs`, `ops`). Returns what was acknowledged.
    ///
    /// # Errors
    /// When it fails or does not end within `timeout`.
    pub fn finish(mut self, timeout: Duration) -> Result<Acks> {
        let status: ExitStatus = self.process.wait(timeout)?;
        anyhow::ensure!(status.success(), "the bank failed ({status}):\n{}", self.process.output());
        Acks::read(&self.acks)
    }
}

fn beside(db: &Path, suffix: &str) -> PathBuf {
    let mut name = db.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// One acknowledged commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack {
    /// The highest operation of the transaction.
    pub op: u64,
    /// CLOCK_MONOTONIC after COMMIT returned, nanoseconds.
    pub monotonic_ns: i64,
    /// CLOCK_REALTIME after COMMIT returned, nanoseconds since 1970.
    pub unix_ns: i64,
}

/// The acknowledgements of a bank, in the order of their operations.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Acks(Vec<Ack>);

impl Acks {
    /// Reads a log; none is an empty one, and a last line without its end is left out.
    ///
    /// # Errors
    /// When the log cannot be read or a whole line of it is not an acknowledgement.
    pub fn read(path: &Path) -> Result<Self> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(error).with_context(|| format!("read {path:?}")),
        };
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let mut acks = whole
            .lines()
            .map(|line| {
                Ack::parse(line).with_context(|| format!("read the acknowledgement {line:?} of {path:?}"))
            })
            .collect::<Result<Vec<_>>>()?;
        // Threads append after their commits, in any order.
        acks.sort_by_key(|ack| ack.op);
        Ok(Self(acks))
    }

    /// The highest acknowledged operation; 0 when there is none.
    #[must_use]
    pub fn highest(&self) -> u64 {
        self.0.last().map_or(0, |ack| ack.op)
    }

    /// The highest operation that was acknowledged at an instant (nanoseconds since 1970); 0 when there was none.
    #[must_use]
    pub fn highest_at(&self, unix_ns: i64) -> u64 {
        self.0.iter().filter(|ack| ack.unix_ns <= unix_ns).map(|ack| ack.op).max().unwrap_or(0)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Ack> {
        self.0.iter()
    }
}

impl Ack {
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        if words.next() != Some("n") {
            return None;
        }
        let ack = Self {
            op: words.next()?.parse().ok()?,
            monotonic_ns: words.next()?.parse().ok()?,
            unix_ns: words.next()?.parse().ok()?,
        };
        words.next().is_none().then_some(ack)
    }
}
