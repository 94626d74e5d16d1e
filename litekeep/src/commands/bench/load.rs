//! The loads that are measured.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use litekeep_sql::{Application, Error, Value};

/// Rows before the measurements: 20 MB, ten times SQLite's default cache.
pub(super) const ROWS: u64 = 100_000;
const PAYLOAD: usize = 180;
/// Reads for each write of the mixed load.
const READS: u64 = 4;

/// The settings of all connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// SQLite's own.
    Default,
    /// The seven.
    Normal,
    /// The same, with each commit synced.
    Full,
}

impl Mode {
    pub(super) fn name(self) -> &'static str {
        match self {
            Mode::Default => "default",
            Mode::Normal => "normal",
            Mode::Full => "full",
        }
    }

    fn pragmas(self) -> Vec<(&'static str, &'static str)> {
        let synchronous = match self {
            Mode::Default => return Vec::new(),
            Mode::Normal => "NORMAL",
            Mode::Full => "FULL",
        };
        vec![
            ("journal_mode", "WAL"),
            ("synchronous", synchronous),
            ("foreign_keys", "ON"),
            ("busy_timeout", "5000"),
            ("cache_size", "-64000"),
            ("mmap_size", "268435456"),
            ("temp_store", "MEMORY"),
        ]
    }
}

/// How often, and how long each took.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    pub(super) per_second: f64,
    pub(super) p50: Duration,
    pub(super) p99: Duration,
}

/// A database with rows, on which loads run for some time.
pub(super) struct Bench {
    path: PathBuf,
    pub(super) mode: Mode,
    time: Duration,
}

impl Bench {
    pub(super) fn new(path: &Path, mode: Mode, time: Duration) -> Result<Bench> {
        let bench = Bench { path: path.to_owned(), mode, time };
        let connection = bench.connect()?;
        connection.execute_batch(
            "CREATE TABLE items(id INTEGER PRIMARY KEY, n INTEGER NOT NULL, x BLOB NOT NULL);
             CREATE TABLE log(id INTEGER PRIMARY KEY, item INTEGER NOT NULL, x BLOB NOT NULL)",
        )?;
        connection.transaction(|connection| {
            for id in 1..=ROWS {
                insert(connection, "INSERT INTO items VALUES(?1, 0, ?2)", id)?;
            }
            Ok(())
        })?;
        Ok(bench)
    }

    fn connect(&self) -> Result<Application, Error> {
        Application::with_pragmas(&self.path, &self.mode.pragmas())
    }

    /// Operations a second, one of five of them a write in a transaction of its own.
    pub(super) fn mixed(&self) -> Result<f64> {
        let connection = self.connect()?;
        let mut nth = 0;
        let pace = repeat(self.time, || {
            nth += 1;
            if nth % (READS + 1) == 0 { change(&connection) } else { read(&connection) }
        })?;
        Ok(pace.per_second)
    }

    /// Rows a second, so many in each transaction.
    pub(super) fn inserts(&self, rows: u64) -> Result<f64> {
        let connection = self.connect()?;
        let pace = repeat(self.time, || {
            connection.transaction(|connection| {
                (0..rows).try_for_each(|_| {
                    insert(connection, "INSERT INTO log(item, x) VALUES(?1, ?2)", random_id())
                })
            })
        })?;
        Ok(pace.per_second * rows as f64)
    }

    pub(super) fn reads(&self) -> Result<Pace> {
        let connection = self.connect()?;
        // The cache is filled first: what is asked is SQLite, not the disk.
        connection.query("SELECT sum(length(x)) FROM items", &[])?;
        repeat(self.time, || read(&connection))
    }

    /// Small transactions: an update and an insert each.
    pub(super) fn writer(&self) -> Result<Pace> {
        let connection = self.connect()?;
        repeat(self.time, || change(&connection))
    }

    /// The same beside readers, and how much all of these read in a second.
    pub(super) fn writer_beside(&self, readers: usize) -> Result<(Pace, f64)> {
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let reader = || -> Result<u64> {
                let connection = self.connect()?;
                let mut count = 0;
                while !over.load(Ordering::Relaxed) {
                    read(&connection)?;
                    count += 1;
                }
                Ok(count)
            };
            let reading: Vec<_> = (0..readers).map(|_| scope.spawn(reader)).collect();
            let begin = Instant::now();
            let pace = self.writer();
            over.store(true, Ordering::Relaxed);
            let took = begin.elapsed().as_secs_f64();
            let mut count = 0;
            for reader in reading {
                count += reader.join().map_err(|_| anyhow!("a reader ended badly"))??;
            }
            Ok((pace?, count as f64 / took))
        })
    }
}

pub(super) fn random_id() -> u64 {
    litekeep_env::random_u64() % ROWS + 1
}

fn integer(n: u64) -> Value {
    Value::Integer(n.cast_signed())
}

fn insert(connection: &Application, sql: &str, id: u64) -> Result<(), Error> {
    connection.execute(sql, &[integer(id), Value::Blob(vec![7; PAYLOAD])]).map(drop)
}

fn read(connection: &Application) -> Result<(), Error> {
    connection.query("SELECT n, x FROM items WHERE id = ?1", &[integer(random_id())]).map(drop)
}

fn change(connection: &Application) -> Result<(), Error> {
    connection.transaction(|connection| {
        let id = random_id();
        connection.execute("UPDATE items SET n = n + 1 WHERE id = ?1", &[integer(id)])?;
        insert(connection, "INSERT INTO log(item, x) VALUES(?1, ?2)", id)
    })
}

/// Does it again and again until the time is over.
fn repeat(time: Duration, mut once: impl FnMut() -> Result<(), Error>) -> Result<Pace> {
    let mut times = Vec::new();
    let begin = Instant::now();
    let mut last = Duration::ZERO;
    while last < time {
        once()?;
        let now = begin.elapsed();
        times.push(now - last);
        last = now;
    }
    Ok(pace(times, last))
}

/// What these times, one after the other, amount to.
pub(super) fn pace(mut times: Vec<Duration>, all: Duration) -> Pace {
    times.sort_unstable();
    Pace {
        per_second: times.len() as f64 / all.as_secs_f64(),
        p50: percentile(&times, 50),
        p99: percentile(&times, 99),
    }
}

/// Of sorted times; zero where there are none.
pub(super) fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let nth = sorted.len().saturating_sub(1) * percent / 100;
    sorted.get(nth).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_of_sorted_times() {
        let times: Vec<Duration> = (1..=100).map(Duration::from_millis).collect();
        assert_eq!(percentile(&times, 50), Duration::from_millis(50));
        assert_eq!(percentile(&times, 99), Duration::from_millis(99));
        assert_eq!(percentile(&[], 50), Duration::ZERO);
    }

    #[test]
    fn each_mode_has_its_settings() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        for (mode, journal, synchronous, cache) in [
            (Mode::Default, "delete", 2, -2000),
            (Mode::Full, "wal", 2, -64_000),
            (Mode::Normal, "wal", 1, -64_000),
        ] {
            let connection = Application::with_pragmas(&path, &mode.pragmas()).unwrap();
            let asked =
                |pragma: &str| connection.query(&format!("PRAGMA {pragma}"), &[]).unwrap()[0][0].clone();
            assert_eq!(asked("journal_mode"), Value::from(journal), "{mode:?}");
            assert_eq!(
                (asked("synchronous"), asked("cache_size")),
                (Value::from(synchronous), Value::from(cache))
            );
        }
    }
}
