//! Goal: backups of Litestream 0.3 come back as they were. Method: the real Litestream 0.3.13 makes one of a database that
//! is written to meanwhile, through several WAL files, in a folder and on a real S3 server; then pieces are damaged, cut
//! short and taken away.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use litekeep_replicate::restore::{Goal, Integrity, Options, v03};
use litekeep_replicate::{Error, Instead, Kind};
use litekeep_store::{S3, Secret, Store, Target};
use litekeep_testkit::litestream::{Replica, Setup};
use litekeep_testkit::process::eventually;
use litekeep_testkit::s3_server::{ACCESS_KEY, BUCKET, SECRET_KEY};
use litekeep_testkit::{Digest, Litestream, S3Server, contents};
use lz4_flex::frame::{FrameDecoder, FrameEncoder};
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

/// `folder`: where the replica's objects are files. Writes to a database while Litestream backs it up, and lets it finish. Returns the number of WAL pieces.
fn back_up(dir: &Path, db: &Path, replica: Replica, folder: &Path) -> usize {
    let app = Connection::open(db).unwrap();
    app.execute_batch(
        "PRAGMA journal_mode=WAL; PRAGMA busy_timeout=5000; CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT, b)",
    )
    .unwrap();
    let interval = Duration::from_millis(50);
    let setup = Setup { db: db.to_owned(), replica, interval };
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
        // Not so fast that Litestream falls behind.
        std::thread::sleep(Duration::from_millis(30));
        let names: Vec<_> = pieces(folder, "wal");
        let index = |p: &PathBuf| p.file_name().unwrap().to_string_lossy()[..8].to_owned();
        let mut files: Vec<_> = names.iter().map(index).collect();
        files.dedup();
        still_running(&mut process)?;
        Ok(files.len() >= 3)
    })
    .unwrap();
    // At its end it writes what is left; 0.3.13 has been seen to hang after that, and is killed then.
    let _ = process.terminate(Duration::from_secs(20));
    pieces(folder, "wal").len()
}

fn still_running(process: &mut litekeep_testkit::Process) -> Result<(), std::io::Error> {
    match process.is_running() {
        Ok(true) => Ok(()),
        _ => Err(std::io::Error::other(process.output())),
    }
}

fn open(folder: &Path) -> Store {
    Store::open(&Target::Folder(folder.to_owned())).unwrap()
}

async fn restore(store: &Store, goal: Goal, path: &Path) -> Result<v03::Restored, Error> {
    let backup = v03::find(store, goal).await?.expect("there is a backup");
    Ok(v03::to_path(store, backup, path, &checked(), &()).await?.expect("it is forced"))
}

/// Restores what the error says can be restored, and what a snapshot that is no database by itself says then.
async fn restore_from(store: &Store, mut error: Error, path: &Path) {
    let mut reached = i64::MIN;
    loop {
        let Some(Instead::Time(at_ms)) = error.instead() else { panic!("{error}") };
        assert!(at_ms > reached, "{error}");
        reached = at_ms;
        match restore(store, Goal::Time(at_ms), path).await {
            Ok(_) => return,
            Err(e) => error = e,
        }
    }
}

fn wal_file_of(piece: Option<&PathBuf>) -> Option<String> {
    piece.map(|p| p.file_name().unwrap().to_string_lossy()[..8].to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn backups_of_litestream_0_3_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let (db, folder) = (dir.path().join("app.db"), dir.path().join("backup"));
    let replica = Replica::Folder(folder.clone());
    let count = tokio::task::block_in_place(|| back_up(dir.path(), &db, replica, &folder));
    assert!(count >= 3);

    let (path, store) = (dir.path().join("restored.db"), open(&folder));
    let done = restore(&store, Goal::Latest, &path).await.unwrap();
    assert_eq!(Digest::of(&path).unwrap(), Digest::of(&db).unwrap());
    assert!(done.page_count > 1 && !done.backup.after_end);
    assert!(contents::differing_pages(&path, &db).unwrap().is_empty());

    let end_ms = done.backup.time_ms;
    assert_eq!(v03::find(&store, Goal::Time(end_ms)).await.unwrap().unwrap(), done.backup);
    assert!(v03::find(&store, Goal::Time(end_ms + 1)).await.unwrap().unwrap().after_end);
    assert_eq!(v03::find(&open(dir.path()), Goal::Latest).await.unwrap(), None);
    for goal in [Goal::Time(1_000_000_000_000), Goal::Txid("0000000000000001".parse().unwrap())] {
        let error = v03::find(&store, goal).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid, "{error}");
        restore_from(&store, error, &path).await;
    }

    let first = v03::find(&store, Goal::Time(0)).await.unwrap_err();
    let Some(Instead::Time(first_ms)) = first.instead() else { panic!("{first}") };
    let wal = pieces(&folder, "wal");
    for (nth, piece) in wal.iter().enumerate() {
        let bytes = std::fs::read(piece).unwrap();
        let modified = std::fs::metadata(piece).unwrap().modified().unwrap();
        let mut flipped = bytes.clone();
        flipped[bytes.len() / 2] ^= 0x10;
        // Without the end mark and the checksum: all blocks are there.
        let cut = bytes[..bytes.len() - 8].to_vec();
        for (what, damage) in [("flipped", Some(flipped)), ("cut", Some(cut)), ("missing", None)] {
            match &damage {
                Some(bad) => std::fs::write(piece, bad).unwrap(),
                None => std::fs::remove_file(piece).unwrap(),
            }
            let file = std::fs::File::options().write(true).open(piece);
            let _ = file.and_then(|file| file.set_modified(modified));
            // That the last piece of a WAL file is missing cannot be told.
            if damage.is_some() || wal_file_of(wal.get(nth + 1)) == wal_file_of(Some(piece)) {
                let restored = restore(&store, Goal::Latest, &path).await;
                let error = restored.expect_err(&format!("{what}: {}", piece.display()));
                assert_eq!(error.kind(), Kind::Corrupt, "{error}");
                let Some(Instead::Time(at_ms)) = error.instead() else { panic!("{what}: {error}") };
                assert!(at_ms < end_ms, "{what}: {error}");
                match restore(&store, Goal::Time(at_ms), &path).await {
                    Ok(nearest) => assert_eq!(nearest.backup.time_ms, at_ms),
                    // The snapshot alone may be none.
                    Err(e) => assert!(e.kind() == Kind::Corrupt && at_ms == first_ms, "{what}: {e}"),
                }
            }
            std::fs::write(piece, &bytes).unwrap();
            std::fs::File::options().write(true).open(piece).unwrap().set_modified(modified).unwrap();
        }
    }
    assert!(restore(&store, Goal::Latest, &path).await.unwrap().kept_aside.is_some());
    assert_eq!(Digest::of(&path).unwrap(), Digest::of(&db).unwrap());
}

/// The decoder takes a frame that lacks its end for a whole one.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_is_cut_short_is_not_restored() {
    let dir = tempfile::tempdir().unwrap();
    let (db, folder) = (dir.path().join("app.db"), dir.path().join("backup"));
    let replica = Replica::Folder(folder.clone());
    tokio::task::block_in_place(|| back_up(dir.path(), &db, replica, &folder));
    let snapshot = pieces(&folder, "snapshots").pop().unwrap();
    let bytes = std::fs::read(&snapshot).unwrap();
    for bad in [&bytes[..bytes.len() - 8], &[], &[bytes.as_slice(), b"more"].concat()] {
        std::fs::write(&snapshot, bad).unwrap();
        let error = restore(&open(&folder), Goal::Latest, &dir.path().join("x.db")).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt, "{error}");
        assert!(error.to_string().contains("snapshot.lz4`: it "), "{error}");
    }
}

/// Litestream 0.3 copies the database file while checkpoints go on, so a snapshot may have pages of transactions whose WAL
/// pieces come later.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_was_copied_during_a_checkpoint_restores_to_later_instants() {
    let dir = tempfile::tempdir().unwrap();
    let (db, folder) = (dir.path().join("app.db"), dir.path().join("backup"));
    let replica = Replica::Folder(folder.clone());
    tokio::task::block_in_place(|| back_up(dir.path(), &db, replica, &folder));
    let (path, store) = (dir.path().join("restored.db"), open(&folder));
    restore(&store, Goal::Latest, &path).await.unwrap();
    let whole = std::fs::read(&path).unwrap();

    // The root of the only table, as it was in the end: an interior page whose children do not exist yet.
    let snapshot = pieces(&folder, "snapshots").remove(0);
    let modified = std::fs::metadata(&snapshot).unwrap().modified().unwrap();
    let mut pages = vec![];
    FrameDecoder::new(std::fs::File::open(&snapshot).unwrap()).read_to_end(&mut pages).unwrap();
    pages[4096..8192].copy_from_slice(&whole[4096..8192]);
    let mut encoder = FrameEncoder::new(std::fs::File::create(&snapshot).unwrap());
    encoder.write_all(&pages).unwrap();
    encoder.finish().unwrap().set_modified(modified).unwrap();

    let first = v03::find(&store, Goal::Time(0)).await.unwrap_err();
    let Some(Instead::Time(first_ms)) = first.instead() else { panic!("{first}") };
    let error = restore(&store, Goal::Time(first_ms), &path).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt, "{error}");
    restore_from(&store, error, &path).await;
    restore(&store, Goal::Latest, &path).await.unwrap();
    assert!(contents::differing_pages(&path, &db).unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn backups_of_litestream_0_3_come_back_from_a_bucket() {
    let dir = tempfile::tempdir().unwrap();
    let db = dir.path().join("app.db");
    let server = S3Server::start().unwrap();
    let replica = Replica::S3 { endpoint: server.endpoint(), path: "app".into() };
    let folder = server.bucket_dir().join("app");
    tokio::task::block_in_place(|| back_up(dir.path(), &db, replica, &folder));
    let bucket = S3 {
        bucket: BUCKET.into(),
        path: "app".into(),
        endpoint: Some(server.endpoint()),
        access_key_id: Some(ACCESS_KEY.into()),
        secret_access_key: Some(Secret::new(SECRET_KEY)),
        ..S3::default()
    };
    let store = Store::open(&Target::S3(bucket)).unwrap();
    let (path, latest) = (dir.path().join("restored.db"), v03::find(&store, Goal::Latest).await.unwrap());
    let latest = latest.unwrap();
    for parallelism in [1, 8] {
        let options = Options { parallelism, ..checked() };
        let done = v03::to_path(&store, latest.clone(), &path, &options, &()).await.unwrap().unwrap();
        assert_eq!(done.backup, latest);
        assert!(contents::differing_pages(&path, &db).unwrap().is_empty());
    }
    // An instant gives the same from the bucket as from a folder with the same pieces.
    let earlier = Goal::Time(latest.time_ms - 1_000);
    let done = restore(&store, earlier, &path).await.unwrap();
    assert!(done.backup.time_ms < latest.time_ms && done.backup.bytes < latest.bytes, "{done:?}");
    let from_folder = dir.path().join("from-folder.db");
    restore(&open(&folder), earlier, &from_folder).await.unwrap();
    assert_eq!(Digest::of(&path).unwrap(), Digest::of(&from_folder).unwrap());
    assert_ne!(Digest::of(&path).unwrap(), Digest::of(&db).unwrap());
}
