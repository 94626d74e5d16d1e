//! How far behind is a live copy while somebody writes? A thousand transactions a second of one row each; the copy is asked for the
//! newest row every millisecond: a row has arrived when an answer first tells of it or a later one. An upload each 10 ms, whatever
//! the store, so that what the store adds is seen: a look at a folder is 50 ms apart and one at a bucket a second, unless the primary tells.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use litekeep_testkit::process::eventually;
use litekeep_testkit::{Process, S3Server};
use rusqlite::{Connection, OpenFlags};

use crate::following::{TABLE, add, connect, lags, now_us, wait};
use crate::outcome::Outcome;
use crate::stage::{APP, LONG, Stage, stop};

/// Between two questions for the newest row.
const PAUSE: Duration = Duration::from_millis(1);
const TOKEN: &str = "of at least 16 characters";

pub(crate) fn by_the_backup(stage: &Stage<'_>) -> Result<Outcome> {
    play(stage, false)
}

pub(crate) fn by_the_primary(stage: &Stage<'_>) -> Result<Outcome> {
    play(stage, true)
}

fn play(stage: &Stage<'_>, streams: bool) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let db = connect(&stage.path(APP))?;
    db.execute_batch(TABLE)?;
    add(&db, 1..=1)?;
    let url = stage.store.url(APP);
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let stream = format!("[stream]\naddr = '127.0.0.1:{port}'\ntoken = '{TOKEN}'\n");
    let database = format!("[[database]]\npath = '{APP}'\nbackup = '{url}'\nupload_interval = '10ms'\n");
    let config = stage.path("litekeep.toml");
    std::fs::write(&config, format!("{database}{}", if streams { &stream } else { "" }))?;
    let litekeep = |arguments: &[&str]| {
        let mut command = Command::new(&stage.bench.litekeep);
        command.args(arguments).envs(S3Server::env()).env("LITEKEEP_STREAM_TOKEN", TOKEN);
        command
    };
    let mut command = litekeep(&["replicate", "--config"]);
    command.arg(&config);
    let mut replicator = Process::start(command, &stage.path("log"))?;
    stage.wait_for_first_copies(&mut replicator, &[APP.into()])?;
    let copy = stage.path("copy.db");
    let mut command = litekeep(&["follow", &url, "-o"]);
    command.arg(&copy);
    if streams {
        command.args(["--stream", &format!("http://127.0.0.1:{port}/{APP}")]);
    }
    let mut follower = Process::start(command, &stage.path("follow.log"))?;
    eventually("the copy follows", LONG, || {
        ensure!(follower.is_running()?, "the follower ended:\n{}", follower.output());
        std::thread::sleep(Duration::from_millis(100));
        let mut status = litekeep(&["status", "--json"]);
        let said = status.arg(&copy).output()?.stdout;
        let Ok(said) = serde_json::from_slice::<serde_json::Value>(&said) else { return Ok(false) };
        let replica = &said["replica"];
        Ok(replica["behind_transactions"] == 0 && (!streams || replica["stream"]["live"] == true))
    })?;
    let (done, asking) = ask(&copy);
    let (start, before) = (Instant::now(), follower.usage()?);
    let (mut last, mut written) = (1, BTreeMap::new());
    while start.elapsed() < stage.load() {
        last += 1;
        written.insert(last, add(&db, last..=last)?);
        wait(start, (last - 1) as u32);
    }
    let newest = reader(&copy)?;
    eventually("the last row arrives", LONG, || {
        std::thread::sleep(PAUSE);
        Ok(newest.query_row(NEWEST, [], |row| row.get::<_, i64>(0))? >= last)
    })?;
    outcome.cpu(follower.usage()?.cpu - before.cpu, start.elapsed());
    outcome.note("transactions", "a second", written.len() as f64 / start.elapsed().as_secs_f64());
    // The one that asks sees it, too.
    std::thread::sleep(PAUSE * 20);
    done.store(true, SeqCst);
    outcome.lags(lags(&written, &asking.join().expect("no panic")?)?);
    stop(follower)?;
    stop(replicator)?;
    Ok(outcome)
}

const NEWEST: &str = "SELECT max(n) FROM entries";

fn reader(copy: &Path) -> Result<Connection> {
    let db = Connection::open_with_flags(copy, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    db.busy_timeout(LONG)?;
    Ok(db)
}

type Answers = Vec<(i64, i64)>;

/// Asks the copy for its newest row until told to end.
fn ask(copy: &Path) -> (Arc<AtomicBool>, JoinHandle<Result<Answers>>) {
    let done = Arc::new(AtomicBool::new(false));
    let (ended, copy) = (done.clone(), copy.to_owned());
    let asking = std::thread::spawn(move || {
        let db = reader(&copy)?;
        let mut newest = db.prepare(NEWEST)?;
        let mut answers: Answers = vec![];
        while !ended.load(SeqCst) {
            let n = newest.query_row([], |row| row.get(0)).context("ask the copy")?;
            if answers.last().is_none_or(|(last, _)| *last < n) {
                answers.push((n, now_us()));
            }
            std::thread::sleep(PAUSE);
        }
        Ok(answers)
    });
    (done, asking)
}
