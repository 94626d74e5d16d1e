//! Goal: the replay leaves exactly what a power cut may leave. Method: a bank under the recorder, killed at random; its
//! whole recording must reproduce the disk byte by byte (so nothing that it does goes unseen), and what SQLite promises
//! of each `synchronous` must hold after every cut, and no more than that.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use litekeep_testkit::bank::{self, Acks, Bank, Options, Synchronous};
use litekeep_testkit::campaign;
use litekeep_testkit::power_cut::{Recording, Survival};
use rusqlite::Connection;

const LONG: Duration = Duration::from_secs(120);

/// All files but the ones that no recorded process writes: memory, and the log that the starter opened.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    entries
        .map(|path| (name(&path), fs::read(&path).unwrap()))
        .filter(|(name, _)| !name.ends_with("-shm") && !name.ends_with(".log"))
        .collect()
}

/// A bank in `root`, killed after `ops` operations.
fn killed_bank(recording: &Recording, options: &Options, ops: u64) -> anyhow::Result<Acks> {
    let mut recorded = Ok(());
    let mut bank = Bank::start_under(options, |command| recorded = recording.record(command))?;
    recorded?;
    bank.wait_for(ops, LONG)?;
    bank.kill()
}

fn scene() -> anyhow::Result<(tempfile::TempDir, std::path::PathBuf)> {
    let dir = tempfile::tempdir()?;
    let root = dir.path().join("root");
    fs::create_dir(&root)?;
    Ok((dir, root))
}

#[test]
fn a_whole_recording_reproduces_the_disk() {
    for seed in 1..=4 {
        let (dir, root) = scene().unwrap();
        let options = Options { vacuum: 0.02, ..Options::random(root.join("app.db"), seed) };
        let mut done = 0;
        for round in 0..2 {
            // The second begins with the files of the first.
            let recording = Recording::start(&root).unwrap();
            let mut recorded = Ok(());
            let mut bank =
                Bank::start_under(&options, |command| recorded = recording.record(command)).unwrap();
            recorded.unwrap();
            // Some of its own, so that it hears a signal: the acknowledgements are of both.
            bank.wait_for(done + 50, LONG).unwrap();
            // Ends in order, so that no operation is under way, but not as the last to close: the WAL stays.
            let other = Connection::open(&options.db).unwrap();
            let _: i64 = other.query_row("SELECT count(*) FROM ledger", [], |row| row.get(0)).unwrap();
            done = bank.stop().unwrap().highest();
            let left = dir.path().join(format!("left{round}"));
            recording.cut(Survival::Everything, &left).unwrap();
            let (left, disk) = (files(&left), files(&root));
            assert!(disk.contains_key("app.db-wal"));
            assert_eq!(left.keys().collect::<Vec<_>>(), disk.keys().collect::<Vec<_>>(), "seed {seed}");
            for (name, content) in &disk {
                assert!(left[name] == *content, "seed {seed}, round {round}: {name} differs");
            }
        }
    }
}

#[test]
fn threads_that_share_a_descriptor_are_recorded_in_place() {
    const WRITERS: &str = "
import os, sys, threading
file = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY | os.O_APPEND)
write = lambda n: [os.write(file, b'%d %d\\n' % (n, i)) for i in range(5000)]
threads = [threading.Thread(target=write, args=[n]) for n in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
";
    let (dir, root) = scene().unwrap();
    let recording = Recording::start(&root).unwrap();
    let mut python = Command::new("python3");
    python.args(["-c", WRITERS]).arg(root.join("lines"));
    recording.record(&mut python).unwrap();
    assert!(python.status().unwrap().success());
    let left = dir.path().join("left");
    recording.cut(Survival::Everything, &left).unwrap();
    assert!(files(&left) == files(&root));
}

#[test]
fn sqlite_keeps_its_promises() {
    campaign::rounds("power-cut-bank", 4, |seed| {
        let (dir, root) = scene()?;
        let options = Options::random(root.join("app.db"), seed);
        let recording = Recording::start(&root)?;
        let acknowledged = killed_bank(&recording, &options, 80)?.highest();
        let cuts = (0..6).map(|n| Survival::Random(seed * 100 + n)).chain([Survival::Nothing]);
        for (n, survival) in cuts.enumerate() {
            let left = dir.path().join(format!("left{n}"));
            recording.cut(survival, &left)?;
            let db = left.join("app.db");
            let report = if db.exists() { bank::check(&db)?.ops } else { 0 };
            let durable = if options.synchronous == Synchronous::Full { acknowledged } else { 0 };
            anyhow::ensure!(
                report >= durable,
                "{survival:?}: {report} of {acknowledged} acknowledged, {options:?}"
            );
        }
        Ok(())
    });
}

/// With NORMAL and no checkpoint nothing is synced after the beginning: the cut must show that.
#[test]
fn what_no_fsync_covers_is_lost() {
    let (dir, root) = scene().unwrap();
    let options = Options { autocheckpoint: 0, ..Options::new(root.join("app.db")) };
    let recording = Recording::start(&root).unwrap();
    let acknowledged = killed_bank(&recording, &options, 80).unwrap().highest();
    let left = dir.path().join("left");
    recording.cut(Survival::Nothing, &left).unwrap();
    let ops = if left.join("app.db").exists() { bank::check(&left.join("app.db")).unwrap().ops } else { 0 };
    assert!(ops < acknowledged, "{ops} of {acknowledged}");
}

/// Without fsync SQLite promises nothing, and some cut must break it.
#[test]
fn a_database_that_never_syncs_breaks() {
    let (dir, root) = scene().unwrap();
    let options =
        Options { synchronous: Synchronous::Off, autocheckpoint: 10, ..Options::new(root.join("app.db")) };
    let recording = Recording::start(&root).unwrap();
    killed_bank(&recording, &options, 300).unwrap();
    let broken = (0..20u64).any(|n| {
        let left = dir.path().join(format!("left{n}"));
        recording.cut(Survival::Random(n), &left).unwrap();
        left.join("app.db").exists() && bank::check(&left.join("app.db")).is_err()
    });
    assert!(broken);
}
