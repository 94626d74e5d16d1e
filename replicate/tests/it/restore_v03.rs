//! Goal: backups of Litestream 0.3 come back as they were. Method: the real Litestream 0.3.13 makes one of a database that
//! is written to meanwhile, through several WAL files; then pieces are damaged and taken away.

use std::path::{Path, PathBuf};
use std::time::Duration;

use litekeep_replicate::restore::{Integrity, Options, v03};
use litekeep_replicate::{Instead, Kind};
use litekeep_testkit::litestream::{Replica, Setup};
use litekeep_testkit::process::eventually;
use litekeep_testkit::{Digest, Litestream, contents};
use rusqlite::Connection;

const LONG: Duration = Duration::from_secs(60);

fn checked() -> Options {
    Options { integrity: Integrity::Full, force: true, ..Options::default() }
}

fn pieces(folder: &Path, kind: &str) -> Vec<PathBuf> {
    let generation = std::fs::read_dir(folder.join("generations")).ok().and_then(|mut g| g.next());
    let Some(Ok(generation)) = generation else { return vec![] };
    let entries = std::fs::read_dir(generation.path().join(kind)).into_iter().flatten();
    let mut found: Vec<PathBuf> = entries.map(|e| e.unwrap().path()).collect();
    found.retain(|p| p.extension().is_some_and(|e| e == "lz4"));
    found.sort();
    found
}

/// Writes to a database while Litestream backs it up, and lets it finish. Returns the number of WAL pieces.
fn back_up(dir: &Path, db: &Path, folder: &Path) -> usize {
    let app = Connection::open(db).unwrap();
    app.execute_batch(
        "PRAGMA journal_mode=WAL; PRAGMA busy_timeout=5000; CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT, b)",
    )
    .unwrap();
    let interval = Duration::from_millis(50);
    let setup = Setup { db: db.to_owned(), replica: Replica::Folder(folder.to_owned()), interval };
    let litestream = Litestream::install_v3().unwrap();
    let mut process = litestream.replicate(dir, &setup).unwrap();
    // It checkpoints, and begins a new WAL file, after about 1000 pages.
    eventually("three WAL files are backed up", LONG, || {
        for _ in 0..20 {
            app.execute_batch(
                "INSERT INTO t(b) VALUES(randomblob(20000)); UPDATE t SET b=randomblob(20000) WHERE id % 97 = 7;
                 DELETE FROM t WHERE id % 11 = 0",
            )?;
        }
        let names: Vec<_> = pieces(folder, "wal");
        let index = |p: &PathBuf| p.file_name().unwrap().to_string_lossy()[..8].to_owned();
        let mut files: Vec<_> = names.iter().map(index).collect();
        files.dedup();
        still_running(&mut process)?;
        Ok(files.len() >= 3)
    })
    .unwrap();
    process.terminate(LONG).unwrap();
    pieces(folder, "wal").len()
}

fn still_running(process: &mut litekeep_testkit::Process) -> Result<(), std::io::Error> {
    match process.is_running() {
        Ok(true) => Ok(()),
        _ => Err(std::io::Error::other(process.output())),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn backups_of_litestream_0_3_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let (db, folder) = (dir.path().join("app.db"), dir.path().join("backup"));
    let count = tokio::task::block_in_place(|| back_up(dir.path(), &db, &folder));
    assert!(count >= 3);

    let path = dir.path().join("restored.db");
    let backup = v03::find(&folder, None).unwrap().unwrap();
    let done = v03::to_path(backup.clone(), &path, &checked(), &()).await.unwrap().unwrap();
    assert_eq!(Digest::of(&path).unwrap(), Digest::of(&db).unwrap());
    assert!(done.page_count > 1);
    assert!(contents::differing_pages(&path, &db).unwrap().is_empty());

    let at = v03::find(&folder, Some(backup.time_ms)).unwrap().unwrap();
    assert_eq!(at, backup);
    assert_eq!(v03::find(&folder, Some(1_000_000_000_000)).unwrap(), None);
    assert_eq!(v03::find(dir.path(), None).unwrap(), None);

    // A damaged piece is told, and a missing one unless it ends its WAL file: no format tells how long that was.
    let wal = pieces(&folder, "wal");
    let file_of = |p: Option<&PathBuf>| p.map(|p| p.file_name().unwrap().to_string_lossy()[..8].to_owned());
    for (nth, piece) in wal.iter().enumerate() {
        let bytes = std::fs::read(piece).unwrap();
        let modified = std::fs::metadata(piece).unwrap().modified().unwrap();
        let mut bad = bytes.clone();
        let middle = bad.len() / 2;
        bad[middle] ^= 0x10;
        for damage in [Some(bad), None] {
            match &damage {
                Some(bad) => std::fs::write(piece, bad).unwrap(),
                None => std::fs::remove_file(piece).unwrap(),
            }
            if damage.is_some() || file_of(wal.get(nth + 1)) == file_of(Some(piece)) {
                let backup = v03::find(&folder, None).unwrap().unwrap();
                let restored = v03::to_path(backup, &path, &checked(), &()).await;
                let what = if damage.is_some() { "damaged" } else { "missing" };
                let error = restored.expect_err(&format!("{what}: {}", piece.display()));
                assert_eq!(error.kind(), Kind::Corrupt, "{error}");
                assert!(matches!(error.instead(), Some(Instead::Time(_))), "{error}");
            }
            std::fs::write(piece, &bytes).unwrap();
            std::fs::File::options().write(true).open(piece).unwrap().set_modified(modified).unwrap();
        }
    }
    let again =
        v03::to_path(v03::find(&folder, None).unwrap().unwrap(), &path, &checked(), &()).await.unwrap();
    assert!(again.unwrap().kept_aside.is_some());
    assert_eq!(Digest::of(&path).unwrap(), Digest::of(&db).unwrap());
}
