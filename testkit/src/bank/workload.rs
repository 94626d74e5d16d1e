//! The bank at work: writers and readers on threads, one acknowledgement after each COMMIT.

use std::fs::File;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rusqlite::{Connection, TransactionBehavior};

use super::operation::{Entry, Operation};
use super::{AutoVacuum, Options, Synchronous};
use crate::clock;

/// Long enough for any other writer here, VACUUM of a large database included.
const BUSY_TIMEOUT: Duration = Duration::from_secs(60);

/// Pages of cache for a bulk transaction, which must not fit.
const SMALL_CACHE: i64 = 10;

/// Runs the bank until its options or SIGTERM end it; connections are closed in order then.
///
/// # Errors
/// At the first error of SQLite other than being busy.
pub fn run(options: &Options) -> Result<()> {
    let acks = match &options.acks {
        Some(path) => Some(
            File::options().create(true).append(true).open(path).with_context(|| format!("open {path:?}"))?,
        ),
        None => None,
    };
    let deadline = options.secs.map(|secs| Instant::now() + Duration::from_secs_f64(secs));
    let bank = Bank { options, stop: Arc::default(), deadline, acks };
    stop_at_sigterm(bank.stop.clone())?;
    bank.open()?;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..options.connections + options.readers)
            .map(|n| {
                let bank = &bank;
                scope.spawn(move || {
                    let result = if n < options.connections { bank.write(n) } else { bank.read(n) };
                    // One that ends, at its goal or by an error, ends all.
                    bank.stop.store(true, Ordering::Relaxed);
                    result
                })
            })
            .collect();
        threads.into_iter().try_for_each(|thread| match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })
}

/// Sets `stop` at SIGTERM, on a thread that lives as long as the process.
fn stop_at_sigterm(stop: Arc<AtomicBool>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut signal = {
        let _inside = runtime.enter();
        tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?
    };
    std::thread::spawn(move || {
        runtime.block_on(signal.recv());
        stop.store(true, Ordering::Relaxed);
    });
    Ok(())
}

struct Bank<'a> {
    options: &'a Options,
    stop: Arc<AtomicBool>,
    deadline: Option<Instant>,
    /// `None`: stdout.
    acks: Option<File>,
}

impl Bank<'_> {
    fn connect(&self) -> Result<Connection> {
        let db = Connection::open(&self.options.db).with_context(|| format!("open {:?}", self.options.db))?;
        db.busy_timeout(BUSY_TIMEOUT)?;
        db.set_prepared_statement_cache_capacity(64);
        let synchronous = match self.options.synchronous {
            Synchronous::Off => 0,
            Synchronous::Normal => 1,
            Synchronous::Full => 2,
            Synchronous::Extra => 3,
        };
        db.pragma_update(None, "synchronous", synchronous)?;
        db.pragma_update(None, "wal_autocheckpoint", self.options.autocheckpoint)?;
        Ok(db)
    }

    /// Makes the database, or finds it there.
    fn open(&self) -> Result<()> {
        let mut db = self.connect()?;
        db.pragma_update(None, "page_size", self.options.page_size)?;
        let auto_vacuum = match self.options.auto_vacuum {
            AutoVacuum::None => 0,
            AutoVacuum::Full => 1,
            AutoVacuum::Incremental => 2,
        };
        db.pragma_update(None, "auto_vacuum", auto_vacuum)?;
        let mode: String = db.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0))?;
        anyhow::ensure!(mode == "wal", "switch the database to WAL: it stays in {mode}");
        let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        if Entry::newest(&transaction)?.is_none() {
            let first = Operation::Open { accounts: self.options.accounts };
            let entry = first.apply(&transaction, 1, 0)?;
            transaction.commit()?;
            self.acknowledge(entry.op)?;
        }
        Ok(())
    }

    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed) && self.deadline.is_none_or(|deadline| Instant::now() < deadline)
    }

    fn write(&self, n: usize) -> Result<()> {
        let mut random = fastrand::Rng::with_seed(self.options.seed.wrapping_add(n as u64));
        let mut open = None;
        while self.goes_on() {
            let mut db = match open.take() {
                Some(db) => db,
                None => self.connect()?,
            };
            self.step(&mut db, &mut random)?;
            if self.options.reopen {
                db.close().map_err(|(_, error)| error).context("close the database")?;
            } else {
                open = Some(db);
            }
            self.pause(&mut random);
        }
        Ok(())
    }

    /// One transaction, or one of the rarer things that a connection does.
    fn step(&self, db: &mut Connection, random: &mut fastrand::Rng) -> Result<()> {
        let options = self.options;
        if random.f64() < options.vacuum {
            let done = if options.auto_vacuum == AutoVacuum::Incremental && random.bool() {
                db.execute_batch("PRAGMA incremental_vacuum(20)")
            } else {
                db.execute_batch("VACUUM")
            };
            return unless_busy(done);
        }
        if random.f64() < options.truncate {
            // It waits for readers as long as the busy timeout says: an application would not want a minute.
            db.busy_timeout(Duration::from_millis(100))?;
            let done = db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
            db.busy_timeout(BUSY_TIMEOUT)?;
            return unless_busy(done);
        }
        let bulk = random.f64() < options.bulk;
        if bulk {
            db.pragma_update(None, "cache_size", SMALL_CACHE)?;
        }
        let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut newest = Entry::newest(&transaction)?.context("find the ledger: somebody took it away")?;
        if options.ops.is_some_and(|ops| newest.op.cast_unsigned() >= ops) {
            self.stop.store(true, Ordering::Relaxed);
            return Ok(());
        }
        let operations = if bulk { random.u32(200..800) } else { random.u32(1..=3) };
        for _ in 0..operations {
            let operation = self.choose(&transaction, random)?;
            newest = operation.apply(&transaction, newest.op + 1, newest.chain)?;
        }
        if random.f64() < options.rollback {
            transaction.rollback()?;
        } else {
            transaction.commit()?;
            self.acknowledge(newest.op)?;
        }
        if bulk {
            db.pragma_update(None, "cache_size", -2000)?;
        }
        Ok(())
    }

    fn choose(&self, db: &Connection, random: &mut fastrand::Rng) -> Result<Operation> {
        if random.f64() < self.options.schema {
            return schema_change(db, random);
        }
        if self.options.blob_bytes > 0 && random.f64() < 0.1 {
            return self.blob_change(db, random);
        }
        let accounts: i64 =
            db.prepare_cached("SELECT max(id) FROM accounts")?.query_row([], |row| row.get(0))?;
        let (from, to) = (random.i64(1..=accounts), random.i64(1..=accounts));
        Ok(Operation::Transfer { from, to, amount: random.i64(1..=50) })
    }

    /// Blobs come and go; about thirty stay.
    fn blob_change(&self, db: &Connection, random: &mut fastrand::Rng) -> Result<Operation> {
        let (count, lowest, highest): (i64, i64, i64) = db
            .prepare_cached("SELECT count(*), coalesce(min(id), 0), coalesce(max(id), 0) FROM blobs")?
            .query_row([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        if random.i64(0..60) < count {
            let blob = db
                .prepare_cached("SELECT id FROM blobs WHERE id >= ? ORDER BY id LIMIT 1")?
                .query_row([random.i64(lowest..=highest)], |row| row.get(0))?;
            return Ok(Operation::Delete { blob });
        }
        // Small ones are common, the largest rare.
        let bytes = f64::from(self.options.blob_bytes) * random.f64().powi(3);
        Ok(Operation::Store { bytes: bytes as u32 })
    }

    fn read(&self, n: usize) -> Result<()> {
        let mut random = fastrand::Rng::with_seed(self.options.seed.wrapping_add(n as u64));
        let mut db = self.connect()?;
        while self.goes_on() {
            let transaction = db.transaction()?;
            let _: i64 = transaction
                .query_row("SELECT sum(balance) FROM accounts", [], |row| row.get(0))
                .or_else(|error| if is_busy(&error) { Ok(0) } else { Err(error) })?;
            std::thread::sleep(Duration::from_millis(random.u64(0..50)));
            transaction.rollback()?;
        }
        Ok(())
    }

    fn pause(&self, random: &mut fastrand::Rng) {
        if self.options.pause_us > 0 {
            std::thread::sleep(Duration::from_micros(random.u64(0..2 * self.options.pause_us)));
        }
    }

    /// One write of one line, so that lines of threads do not mix and a kill tears at most the last one.
    fn acknowledge(&self, op: i64) -> Result<()> {
        let line = format!("n {op} {} {}\n", clock::monotonic_ns(), clock::unix_ns());
        match &self.acks {
            Some(file) => (&mut &*file).write_all(line.as_bytes()),
            None => std::io::stdout().lock().write_all(line.as_bytes()),
        }
        .with_context(|| format!("acknowledge operation {op}"))
    }
}

fn schema_change(db: &Connection, random: &mut fastrand::Rng) -> Result<Operation> {
    let mut select =
        db.prepare("SELECT name FROM sqlite_schema WHERE type = 'table' AND name GLOB 'extra_*'")?;
    let tables = select.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<Vec<String>>>()?;
    if tables.len() >= random.usize(1..8) {
        let name = &tables[random.usize(..tables.len())];
        let table =
            name.trim_start_matches("extra_").parse().with_context(|| format!("read the table {name}"))?;
        return Ok(Operation::Drop { table });
    }
    Ok(Operation::Create { rows: random.u32(0..300) })
}

fn unless_busy(result: rusqlite::Result<()>) -> Result<()> {
    match result {
        Err(error) if !is_busy(&error) => Err(error.into()),
        _ => Ok(()),
    }
}

fn is_busy(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseBusy, DatabaseLocked};
    matches!(error.sqlite_error_code(), Some(DatabaseBusy | DatabaseLocked))
}
