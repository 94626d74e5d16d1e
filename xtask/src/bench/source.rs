//! The databases and their writer. Each transaction inserts one row and updates one other, which holds the newest
//! commit's number: a database is whole exactly when that number, the highest row and the count of rows agree.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use litekeep_testkit::clock;
use rusqlite::{Connection, OpenFlags, params};

const SCHEMA: &str = "
    CREATE TABLE commits(n INTEGER PRIMARY KEY, unix_ns INTEGER NOT NULL, payload BLOB NOT NULL);
    CREATE TABLE newest(n INTEGER NOT NULL);
    INSERT INTO newest VALUES (0);
    CREATE TABLE big(id INTEGER PRIMARY KEY, words TEXT NOT NULL, noise BLOB NOT NULL);
";

/// Half of a row of `big` are words, half are bytes that do not compress.
const BIG_HALF: usize = 240;

/// A database with its one connection.
pub(crate) struct Source {
    path: PathBuf,
    db: Connection,
    newest: i64,
    random: fastrand::Rng,
}

/// One commit; CLOCK_MONOTONIC, nanoseconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Commit {
    /// Which of the writer's databases.
    pub(crate) db: usize,
    pub(crate) n: i64,
    /// Before BEGIN.
    pub(crate) began_ns: i64,
    /// After COMMIT.
    pub(crate) done_ns: i64,
}

impl Source {
    /// A new database of this many commits in one transaction.
    pub(crate) fn create(path: &Path, commits: usize) -> Result<Self> {
        let db = connect(path)?;
        db.pragma_update(None, "journal_mode", "wal")?;
        db.execute_batch(SCHEMA)?;
        let mut source = Self { path: path.to_owned(), db, newest: 0, random: fastrand::Rng::with_seed(1) };
        source.transaction(|source| (0..commits).try_for_each(|_| source.add()))?;
        Ok(source)
    }

    /// One that is there.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let db = connect(path)?;
        let newest = db.query_row("SELECT n FROM newest", [], |row| row.get(0))?;
        Ok(Self { path: path.to_owned(), db, newest, random: fastrand::Rng::with_seed(2) })
    }

    /// One transaction.
    pub(crate) fn commit(&mut self) -> Result<Commit> {
        let began_ns = clock::monotonic_ns();
        self.transaction(Self::add)?;
        Ok(Commit { db: 0, n: self.newest, began_ns, done_ns: clock::monotonic_ns() })
    }

    /// One transaction that also updates one of the older rows, anywhere.
    pub(crate) fn commit_scattered(&mut self) -> Result<()> {
        let older = self.random.i64(1..=self.newest);
        self.transaction(|source| {
            source.add()?;
            let mut update = source.db.prepare_cached("UPDATE commits SET unix_ns = ? WHERE n = ?")?;
            update.execute(params![clock::unix_ns(), older])?;
            Ok(())
        })
    }

    /// One transaction that also appends about this much to `big`.
    pub(crate) fn commit_big(&mut self, bytes: u64) -> Result<Commit> {
        let began_ns = clock::monotonic_ns();
        self.transaction(|source| {
            source.add_big(bytes)?;
            source.add()
        })?;
        Ok(Commit { db: 0, n: self.newest, began_ns, done_ns: clock::monotonic_ns() })
    }

    /// Empties the WAL, if nobody holds it.
    pub(crate) fn checkpoint_truncate(&self) -> Result<()> {
        let busy: bool = self.db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
        ensure!(!busy, "checkpoint {:?}: somebody holds its WAL", self.path);
        Ok(())
    }

    fn transaction(&mut self, change: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        self.db.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        change(self)?;
        self.db.prepare_cached("COMMIT")?.execute([])?;
        Ok(())
    }

    fn add(&mut self) -> Result<()> {
        self.newest += 1;
        let mut payload = [0; 100];
        self.random.fill(&mut payload);
        let mut insert = self.db.prepare_cached("INSERT INTO commits VALUES (?, ?, ?)")?;
        insert.execute(params![self.newest, clock::unix_ns(), payload])?;
        self.db.prepare_cached("UPDATE newest SET n = ?")?.execute([self.newest])?;
        Ok(())
    }

    fn add_big(&mut self, bytes: u64) -> Result<()> {
        const WORDS: &[&str] =
            &["invoice ", "order ", "shipped ", "Berlin ", "2026-01-01 ", "EUR ", "quick brown fox "];
        let mut insert = self.db.prepare_cached("INSERT INTO big(words, noise) VALUES (?, ?)")?;
        let mut noise = [0; BIG_HALF];
        for _ in 0..bytes / (2 * BIG_HALF as u64) {
            let mut words = String::with_capacity(BIG_HALF + 16);
            while words.len() < BIG_HALF {
                words.push_str(WORDS[self.random.usize(..WORDS.len())]);
            }
            self.random.fill(&mut noise);
            insert.execute(params![words, noise])?;
        }
        Ok(())
    }

    fn wal_bytes(&self) -> u64 {
        let mut wal = self.path.clone().into_os_string();
        wal.push("-wal");
        std::fs::metadata(wal).map_or(0, |wal| wal.len())
    }
}

fn connect(path: &Path) -> Result<Connection> {
    let db = Connection::open(path).with_context(|| format!("open {path:?}"))?;
    db.busy_timeout(Duration::from_secs(60))?;
    db.pragma_update(None, "synchronous", "normal")?;
    Ok(db)
}

/// The newest commit of a database.
///
/// # Errors
/// When it is damaged or a mixture of several states.
pub(crate) fn newest_of(path: &Path) -> Result<i64> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(path, flags).with_context(|| format!("open {path:?}"))?;
    let damage: String = db.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    ensure!(damage == "ok", "quick_check: {damage}");
    let (newest, highest, count): (i64, i64, i64) = db.query_row(
        "SELECT newest.n, (SELECT coalesce(max(n), 0) FROM commits), (SELECT count(*) FROM commits) FROM newest",
        [],
        |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
    )?;
    ensure!(
        newest == highest && newest == count,
        "newest {newest}, highest row {highest}, {count} rows: not one state"
    );
    Ok(newest)
}

/// A thread that commits to its databases in turn until it is stopped.
pub(crate) struct Writer {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Written>>,
}

/// What a writer did.
pub(crate) struct Written {
    /// Still open, so that no close is a checkpoint in the middle of a measurement.
    _sources: Vec<Source>,
    pub(crate) commits: Vec<Commit>,
    pub(crate) wall: Duration,
    /// The largest WAL that was seen, bytes.
    pub(crate) largest_wal: u64,
}

impl Writer {
    /// One commit every `pause`, give or take half of it, so that it is never in phase with somebody's timer; or, with
    /// zero, as many as it can.
    pub(crate) fn start(mut sources: Vec<Source>, pause: Duration) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let thread = std::thread::spawn({
            let stop = stop.clone();
            move || {
                let (mut commits, mut largest_wal) = (Vec::new(), 0);
                let (mut random, start) = (fastrand::Rng::with_seed(3), Instant::now());
                let mut next = start;
                while !stop.load(Ordering::Relaxed) {
                    let db = commits.len() % sources.len();
                    commits.push(Commit { db, ..sources[db].commit()? });
                    if !pause.is_zero() || commits.len() % 256 == 0 {
                        largest_wal = sources[db].wal_bytes().max(largest_wal);
                    }
                    next = (next + pause.mul_f64(0.5 + random.f64())).max(Instant::now());
                    std::thread::sleep(next.saturating_duration_since(Instant::now()));
                }
                Ok(Written { _sources: sources, commits, wall: start.elapsed(), largest_wal })
            }
        });
        Self { stop, thread }
    }

    /// Ends it.
    pub(crate) fn stop(self) -> Result<Written> {
        self.stop.store(true, Ordering::Relaxed);
        match self.thread.join() {
            Ok(written) => written.context("write"),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// Lets it work for so long, and ends it.
    pub(crate) fn work(self, time: Duration) -> Result<Written> {
        std::thread::sleep(time);
        self.stop()
    }
}
