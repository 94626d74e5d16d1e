//! Goal: a live copy is what the backup has, state by state, for readers with any SQLite; and whatever is in its way is told.
//! Method: banks that are replicated to a folder or over S3, followers that are killed, readers in Python with the system's
//! SQLite; at rest the copy is compared with a restore of the same transaction, byte for byte but for what each SQLite writes
//! anew in page 1.

mod hindrances;
mod interruptions;
mod readers;
mod streamed;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use litekeep_testkit::Process;
use litekeep_testkit::contents::differing_pages;
use litekeep_testkit::process::eventually;
use rusqlite::{Connection, OpenFlags};
use serde_json::Value;

use crate::scene::{LONG, Scene};

/// Of page 1, what each SQLite writes anew.
const MASKED: [std::ops::Range<usize>; 3] = [18..20, 24..28, 92..100];

/// The copy of a scene's database.
struct Replica<'a> {
    scene: &'a Scene,
    path: PathBuf,
}

impl<'a> Replica<'a> {
    fn of(scene: &'a Scene) -> Replica<'a> {
        Replica { scene, path: scene.place.path("replica.db") }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.scene.command(&["follow", &self.scene.url(), "-o"]);
        command.arg(&self.path).args(arguments);
        command
    }

    fn run(&self, arguments: &[&str]) -> crate::Ran {
        crate::Ran::of(self.command(arguments))
    }

    fn start(&self) -> Result<Process> {
        Process::start(self.command(&[]), &self.scene.place.path("follow.log"))
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.scene.place.path("follow.log")).unwrap_or_default()
    }

    fn stop(&self, follower: Process) -> Result<()> {
        let status = follower.terminate(LONG)?;
        ensure!(status.success(), "the follower ended with {status}:\n{}", self.log());
        Ok(())
    }

    /// What `litekeep status` says of it, with the exit code.
    fn status(&self) -> Result<(i32, Value)> {
        let ran =
            crate::Ran::of(self.scene.command(&["status", "--json", self.path.to_str().context("a text")?]));
        Ok((
            ran.code,
            serde_json::from_str(&ran.stdout).with_context(|| format!("{}{}", ran.stdout, ran.stderr))?,
        ))
    }

    /// Waits until it has the last transaction of the backup; returns that.
    fn level(&self, follower: &mut Process) -> Result<String> {
        let mut txid = String::new();
        eventually("the copy is level", LONG, || {
            ensure!(follower.is_running()?, "the follower ended:\n{}", follower.output());
            // Until there is a copy, nobody knows of one.
            let Ok((_, status)) = self.status() else { return Ok(false) };
            let replica = &status["replica"];
            txid = replica["has"]["txid"].as_str().unwrap_or_default().to_owned();
            Ok(replica["behind_transactions"] == 0)
        })
        .with_context(|| self.log())?;
        Ok(txid)
    }

    fn txid(&self) -> Result<String> {
        let (_, status) = self.status()?;
        Ok(status["replica"]["has"]["txid"].as_str().context("a transaction")?.to_owned())
    }

    /// It is what a restore of its transaction gives.
    fn prove(&self) -> Result<()> {
        let txid = self.txid()?;
        let restored = self.scene.restore(&["-txid", &txid])?;
        equal(&self.path, &restored).with_context(|| format!("transaction {txid}"))
    }

    fn reader(&self, seconds: &str) -> Result<Process> {
        let script = self.scene.place.path("reader.py");
        std::fs::write(&script, include_str!("follow/reader.py"))?;
        let mut command = Command::new("python3");
        command.arg(script).arg(&self.path).arg(seconds);
        Process::start(command, &self.scene.place.path(&format!("reader-{seconds}.log")))
    }

    fn connection(&self) -> Connection {
        Connection::open_with_flags(&self.path, OpenFlags::SQLITE_OPEN_READ_WRITE).unwrap()
    }
}

/// Byte for byte, but for what each SQLite writes anew.
fn equal(a: &Path, b: &Path) -> Result<()> {
    let mut differing = differing_pages(a, b)?;
    if differing.first() == Some(&1) {
        let first = |path: &Path| -> Result<Vec<u8>> {
            let connection = Connection::open(path)?;
            let sql = "SELECT data FROM sqlite_dbpage WHERE pgno = 1";
            let mut page: Vec<u8> = connection.query_row(sql, [], |row| row.get(0))?;
            MASKED.into_iter().for_each(|range| page[range].fill(0));
            Ok(page)
        };
        if first(a)? == first(b)? {
            differing.remove(0);
        }
    }
    ensure!(differing.is_empty(), "{} pages differ: {differing:?}", differing.len());
    Ok(())
}

/// A reader that goes on, and has seen so many states.
fn has_seen(reader: &mut Process, states: usize) -> Result<()> {
    eventually("a reader has seen enough", LONG, || {
        ensure!(reader.is_running()?, "a reader ended:\n{}", reader.output());
        Ok(reader.output().lines().count() >= states)
    })
}

const SOON: Duration = Duration::from_secs(60);
