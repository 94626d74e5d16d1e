//! How far behind is the other side while somebody writes? A thousand transactions a second of one row each, into SQLite where a sync
//! pushes and into the server where one pulls. The other side is asked for the newest row every few milliseconds: a row has
//! arrived when an answer first tells of it or a later one, so a lag is too long by half such a pause.
//!
//! Then a tenth of the rows of `--rows`, by transactions of ten, as fast as they can be written: how many a second are on the other
//! side, counted from the first of them until the last has arrived?

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use litekeep_testkit::process::eventually;
use litekeep_testkit::{Process, clock};
use rusqlite::{Connection, params};

use crate::outcome::Outcome;
use crate::servers::{Kind, Server, feed};
use crate::stage::{LONG, Stage, stop};

const A_SECOND: u32 = 1000;
const TOGETHER: i64 = 10;
/// Between two questions for the newest row.
const PAUSE: Duration = Duration::from_millis(4);
pub(crate) const TABLE: &str =
    "CREATE TABLE entries(n BIGINT PRIMARY KEY, unix_us BIGINT NOT NULL, text VARCHAR(100) NOT NULL)";

pub(crate) fn push_to_postgres(stage: &Stage<'_>) -> Result<Outcome> {
    push(stage, Kind::Postgres)
}

pub(crate) fn push_to_mariadb(stage: &Stage<'_>) -> Result<Outcome> {
    push(stage, Kind::Mariadb)
}

pub(crate) fn push_to_mysql(stage: &Stage<'_>) -> Result<Outcome> {
    push(stage, Kind::Mysql)
}

pub(crate) fn pull_from_postgres(stage: &Stage<'_>) -> Result<Outcome> {
    pull(stage, Kind::Postgres)
}

pub(crate) fn pull_from_mariadb(stage: &Stage<'_>) -> Result<Outcome> {
    pull(stage, Kind::Mariadb)
}

pub(crate) fn pull_from_mysql(stage: &Stage<'_>) -> Result<Outcome> {
    pull(stage, Kind::Mysql)
}

fn push(stage: &Stage<'_>, kind: Kind) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let server = Server::start(kind)?;
    let db = connect(&stage.path("app.db"))?;
    db.execute_batch(TABLE)?;
    add(&db, 1..=1)?;
    let replicator = replicate(stage, &format!("from = 'app.db'\nto = {:?}", server.url()))?;
    eventually("the first copy", LONG, || {
        std::thread::sleep(Duration::from_millis(100));
        Ok(server.count("entries").is_ok_and(|count| count == 1))
    })?;
    let seen = stage.path("seen");
    let (done, asking) = ask(&server, &seen)?;
    let (start, before) = (Instant::now(), replicator.usage()?);
    let mut last = 1;
    let mut written = BTreeMap::new();
    while start.elapsed() < stage.load() {
        last += 1;
        written.insert(last, add(&db, last..=last)?);
        wait(start, (last - 1) as u32);
    }
    eventually("the last row arrives", LONG, || Ok(newest(&seen)? >= last))?;
    outcome.cpu(replicator.usage()?.cpu - before.cpu, start.elapsed());
    done.store(true, SeqCst);
    asking.join().expect("no panic")?;
    outcome.lags(lags(&written, &answers(&seen)?)?);
    let rows = (stage.bench.options.rows / 10) as i64;
    let begin = Instant::now();
    for first in (last + 1..=last + rows).step_by(TOGETHER as usize) {
        add(&db, first..=first + TOGETHER - 1)?;
    }
    outcome.more("written at once", "rows a second", rows as f64 / begin.elapsed().as_secs_f64());
    let all = (last + rows) as u64;
    eventually("all rows arrive", LONG, || {
        std::thread::sleep(Duration::from_millis(50));
        Ok(server.count("entries")? >= all)
    })?;
    outcome.more("arrived", "rows a second", rows as f64 / begin.elapsed().as_secs_f64());
    stop(replicator)?;
    Ok(outcome)
}

fn pull(stage: &Stage<'_>, kind: Kind) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let server = Server::start(kind)?;
    server.run(TABLE)?;
    server.run("INSERT INTO entries VALUES(1, 0, 'first')")?;
    let path = stage.path("app.db");
    drop(connect(&path)?);
    let replicator = replicate(stage, &format!("from = {:?}\nto = 'app.db'", server.url()))?;
    let db = connect(&path)?;
    let newest =
        || db.query_row("SELECT max(n) FROM entries", [], |row| row.get::<_, Option<i64>>(0)).ok().flatten();
    eventually("the first copy", LONG, || {
        std::thread::sleep(Duration::from_millis(100));
        Ok(newest() == Some(1))
    })?;
    let (start, before) = (Instant::now(), replicator.usage()?);
    let (load, mut n) = (stage.load(), 1);
    let writing = feed(server.client()?, &stage.path("written"), move || {
        wait(start, n as u32 - 1);
        n += 1;
        (start.elapsed() < load).then(|| insert(n..=n))
    })?;
    let mut seen = vec![];
    let mut until = None;
    while until.is_none_or(|last| newest().is_some_and(|n| n < last)) {
        if until.is_none() && writing.is_finished() {
            until = Some(server.count("entries")? as i64);
        }
        seen.extend(newest().map(|n| (n, clock::unix_ns() / 1000)));
        std::thread::sleep(Duration::from_millis(2));
        ensure!(start.elapsed() < LONG, "rows did not arrive: {:?} of {until:?}", newest());
    }
    seen.extend(newest().map(|n| (n, clock::unix_ns() / 1000)));
    writing.join().expect("no panic")?;
    outcome.cpu(replicator.usage()?.cpu - before.cpu, start.elapsed());
    let mut rows = db.prepare("SELECT n, unix_us FROM entries WHERE n > 1")?;
    let written = rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let written: BTreeMap<i64, i64> = written.collect::<rusqlite::Result<_>>()?;
    outcome.lags(lags(&written, &seen)?);
    let last = server.count("entries")? as i64;
    let rows = (stage.bench.options.rows / 10) as i64;
    let begin = Instant::now();
    let mut first = last + 1 - TOGETHER;
    let writing = feed(server.client()?, &stage.path("written"), move || {
        first += TOGETHER;
        (first <= last + rows).then(|| insert(first..=first + TOGETHER - 1))
    })?;
    writing.join().expect("no panic")?;
    outcome.more("written at once", "rows a second", rows as f64 / begin.elapsed().as_secs_f64());
    eventually("all rows arrive", LONG, || {
        std::thread::sleep(Duration::from_millis(20));
        Ok(newest().is_some_and(|n| n >= last + rows))
    })?;
    outcome.more("arrived", "rows a second", rows as f64 / begin.elapsed().as_secs_f64());
    let count: i64 = db.query_row("SELECT count(*) FROM entries", [], |row| row.get(0))?;
    if count != last + rows {
        outcome.wrong(format!("{count} of {} rows are there", last + rows));
    }
    stop(replicator)?;
    Ok(outcome)
}

pub(crate) fn connect(path: &Path) -> Result<Connection> {
    let db = Connection::open(path)?;
    db.busy_timeout(LONG)?;
    db.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL")?;
    Ok(db)
}

/// One transaction; when it was committed, microseconds.
pub(crate) fn add(db: &Connection, rows: RangeInclusive<i64>) -> Result<i64> {
    let transaction = db.unchecked_transaction()?;
    {
        let mut insert = transaction.prepare_cached("INSERT INTO entries VALUES(?, ?, ?)")?;
        for n in rows {
            insert.execute(params![n, now_us(), text(n)])?;
        }
    }
    transaction.commit()?;
    Ok(now_us())
}

/// The same as a line of SQL.
fn insert(rows: RangeInclusive<i64>) -> String {
    let rows: Vec<String> = rows.map(|n| format!("({n}, {}, '{}')", now_us(), text(n))).collect();
    format!("INSERT INTO entries VALUES {};", rows.join(", "))
}

fn text(n: i64) -> String {
    format!("entry no. {n}, made by a program that writes a thousand of them a second")
}

pub(crate) fn now_us() -> i64 {
    clock::unix_ns() / 1000
}

/// Until it is time for this one.
pub(crate) fn wait(start: Instant, nth: u32) {
    let due = Duration::from_secs(1) * nth / A_SECOND;
    std::thread::sleep(due.saturating_sub(start.elapsed()));
}

fn replicate(stage: &Stage<'_>, sync: &str) -> Result<Process> {
    let config = stage.path("litekeep.toml");
    let toml = format!(
        "[[database]]\npath = 'app.db'\nbackup = './backup'\n\n[[sync]]\nname = 'app'\ntables = ['entries']\n{sync}\n"
    );
    std::fs::write(&config, toml)?;
    let mut command = Command::new(&stage.bench.litekeep);
    command.args(["replicate", "--config"]).arg(&config);
    Process::start(command, &stage.path("log"))
}

/// Asks the server for the newest row again and again, until told to end; answers and their times go to a file.
fn ask(server: &Server, answers: &Path) -> Result<(Arc<AtomicBool>, JoinHandle<Result<()>>)> {
    let done = Arc::new(AtomicBool::new(false));
    let ended = done.clone();
    let sql = server.newest("entries");
    let asking = feed(server.client()?, answers, move || {
        std::thread::sleep(PAUSE);
        (!ended.load(SeqCst)).then(|| sql.clone())
    })?;
    Ok((done, asking))
}

/// What the server has answered so far: the newest row, and when, microseconds.
fn answers(file: &Path) -> Result<Vec<(i64, i64)>> {
    let text = std::fs::read_to_string(file)?;
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let answer = |line: &str| -> Result<(i64, i64)> {
        let (n, us) = line.split_once('\t').with_context(|| format!("an answer: {line:?}"))?;
        Ok((n.parse()?, us.parse()?))
    };
    whole.lines().map(answer).collect()
}

fn newest(file: &Path) -> Result<i64> {
    std::thread::sleep(Duration::from_millis(20));
    Ok(answers(file)?.last().map_or(0, |(n, _)| *n))
}

/// Milliseconds from each row's commit until it was first seen.
pub(crate) fn lags(written: &BTreeMap<i64, i64>, seen: &[(i64, i64)]) -> Result<Vec<f64>> {
    let lag = |(n, committed): (&i64, &i64)| {
        let at = seen.partition_point(|(newest, _)| newest < n);
        let (_, arrived) = seen.get(at).with_context(|| format!("row {n} was never seen"))?;
        Ok((arrived - committed) as f64 / 1000.0)
    };
    written.iter().map(lag).collect()
}
