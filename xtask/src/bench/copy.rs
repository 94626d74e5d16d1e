//! How fast does a whole database come to a server? One table of eight columns, with `litekeep copy`, which compares every value
//! afterwards, and with the program that people use for it: pgloader, or sqlite3-to-mysql. The server is on the same machine.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Result, bail, ensure};
use litekeep_testkit::{Process, installed};
use rusqlite::Connection;

use crate::outcome::Outcome;
use crate::servers::{DATABASE, Kind, Server};
use crate::stage::{LONG, Stage, to_end};
use crate::system::System;

pub(crate) fn to_postgres(stage: &Stage<'_>) -> Result<Outcome> {
    play(stage, Kind::Postgres)
}

pub(crate) fn to_mariadb(stage: &Stage<'_>) -> Result<Outcome> {
    play(stage, Kind::Mariadb)
}

pub(crate) fn to_mysql(stage: &Stage<'_>) -> Result<Outcome> {
    play(stage, Kind::Mysql)
}

pub(crate) fn to_mongodb(stage: &Stage<'_>) -> Result<Outcome> {
    play(stage, Kind::Mongodb)
}

fn play(stage: &Stage<'_>, kind: Kind) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let rows = stage.bench.options.rows;
    let database = stage.path("orders.db");
    make(&database, rows)?;
    let server = Server::start(kind)?;
    let command = match (stage.system, &server) {
        (System::Litekeep, _) => {
            let mut command = Command::new(&stage.bench.litekeep);
            command.arg("copy").arg(&database).arg(server.url());
            command
        }
        (System::Pgloader, Server::Postgres(_)) => {
            let mut command = Command::new("pgloader");
            command.arg(&database).arg(server.url());
            command
        }
        (System::Sqlite3ToMysql, Server::Mysql(mysql)) => {
            let mut command = Command::new(installed::sqlite3_to_mysql()?);
            command.args(["-h", "127.0.0.1", "-u", "admin", "--skip-ssl", "-q", "-d", DATABASE]);
            command.arg("-P").arg(mysql.port().to_string()).arg("-f").arg(&database);
            command
        }
        (system, _) => bail!("{} copies nothing there", system.name()),
    };
    let start = Instant::now();
    let mut process = Process::start(command, &stage.path("log"))?;
    let usage = to_end(&mut process)?;
    let time = start.elapsed();
    ensure!(process.wait(LONG)?.success(), "it failed:\n{}", process.output());
    outcome.time("time", time);
    outcome.more("rows", "a second", rows as f64 / time.as_secs_f64());
    outcome.time("CPU", usage.cpu);
    outcome.mib("peak memory", usage.peak_rss);
    let count = server.count("orders")?;
    if count != rows {
        outcome.wrong(format!("{count} of {rows} rows are there:\n{}", process.output()));
    }
    Ok(outcome)
}

fn make(path: &Path, rows: u64) -> Result<()> {
    let db = Connection::open(path)?;
    db.execute_batch(&format!(
        "PRAGMA journal_mode = WAL;
         PRAGMA synchronous = OFF;
         CREATE TABLE orders(id INTEGER PRIMARY KEY, customer INTEGER NOT NULL, number VARCHAR(20) NOT NULL, total REAL NOT NULL,
             paid INTEGER NOT NULL, made DATETIME NOT NULL, note TEXT, seal BLOB NOT NULL);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})
         INSERT INTO orders SELECT i, i % 9973, printf('A-%08d', i), (i % 100000) / 4.0, i % 2,
             datetime('2026-01-01', (i % 8000000) || ' seconds'), CASE WHEN i % 3 THEN 'order no. ' || i || ' by mail' END,
             randomblob(16) FROM n;
         PRAGMA wal_checkpoint(TRUNCATE);"
    ))?;
    Ok(())
}
