//! Goal: a restore never loses the database that stands at its target, and never puts a file under somebody's feet.
//! Method: targets that exist, have a WAL, are open in this process and in others; leftovers of crashed restores.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use litekeep_env::{ManualClock, lock};
use litekeep_replicate::restore::{Goal, Integrity, Options, Restored, to_path};
use litekeep_replicate::{Instead, Kind};
use litekeep_testkit::bank::{self, Bank};
use rusqlite::Connection;
use rusqlite::config::DbConfig;

use crate::origin::Origin;

/// A log of one database with one row.
async fn origin() -> Origin {
    let mut origin = Origin::new(4096);
    let path = origin.path("origin.db");
    let db = Connection::open(&path).unwrap();
    db.execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES('from the log')")
        .unwrap();
    origin.commit_file(&db, &path).await;
    origin
}

fn forced() -> Options {
    let clock = Arc::new(ManualClock::new(1_790_000_000_000));
    Options { force: true, clock, integrity: Integrity::Quick, ..Options::default() }
}

async fn restore(
    origin: &Origin,
    path: &Path,
    options: &Options,
) -> Result<Option<Restored>, litekeep_replicate::Error> {
    to_path(&origin.store, Goal::Latest, path, options, &()).await
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn rows(path: &Path) -> Vec<String> {
    let db = Connection::open(path).unwrap();
    let mut select = db.prepare("SELECT x FROM t ORDER BY rowid").unwrap();
    select.query_map([], |r| r.get(0)).unwrap().map(Result::unwrap).collect()
}

/// A database whose last row is in its WAL only, as a killed application leaves it.
fn crashed_database(path: &Path) {
    let db = Connection::open(path).unwrap();
    db.execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES('old')").unwrap();
    db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    db.execute_batch("INSERT INTO t VALUES('old, in the WAL')").unwrap();
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
    drop(db);
    assert!(std::fs::metadata(beside(path, "-wal")).unwrap().len() > 0);
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn an_existing_database_is_refused_or_kept_with_its_wal() {
    let origin = origin().await;
    let folder = origin.path("app");
    std::fs::create_dir(&folder).unwrap();
    let path = folder.join("app.db");
    crashed_database(&path);

    let error = restore(&origin, &path, &Options::default()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
    assert!(error.instead() == Some(Instead::Force), "{error}");
    let unless = Options { if_not_exists: true, ..forced() };
    assert!(restore(&origin, &path, &unless).await.unwrap().is_none());
    assert_eq!(names(&folder), ["app.db", "app.db-shm", "app.db-wal"]);

    let done = restore(&origin, &path, &forced()).await.unwrap().unwrap();
    let kept = done.kept_aside.unwrap();
    assert_eq!(kept, folder.join("app.db.before-restore-20260921T141320"));
    assert!(!beside(&path, "-wal").exists(), "an old WAL would be replayed into the restored file");
    assert_eq!(rows(&path), ["from the log"]);
    assert_eq!(rows(&kept), ["old", "old, in the WAL"]);

    // Again in the same second: nothing is overwritten.
    let again = restore(&origin, &path, &forced()).await.unwrap().unwrap().kept_aside.unwrap();
    assert_eq!(again, folder.join("app.db.before-restore-20260921T141320-2"));
    assert_eq!(rows(&again), ["from the log"]);
    assert_eq!(rows(&kept), ["old", "old, in the WAL"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stray_wal_is_moved_aside() {
    let origin = origin().await;
    let path = origin.path("app.db");
    crashed_database(&path);
    std::fs::remove_file(&path).unwrap();
    let options = Options { force: false, ..forced() };
    let kept = restore(&origin, &path, &options).await.unwrap().unwrap().kept_aside.unwrap();
    assert!(beside(&kept, "-wal").exists() && !kept.exists());
    assert_eq!(rows(&path), ["from the log"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_in_use_is_left_alone() {
    let origin = origin().await;
    let path = origin.path("bank.db");
    let mut bank = Bank::start(&bank::Options::new(&path)).unwrap();
    bank.wait_for(5, Duration::from_secs(120)).unwrap();
    let pid = bank.process().id();
    let error = restore(&origin, &path, &forced()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
    assert!(error.to_string().contains(&format!("process {pid} has it open")), "{error}");

    // Even without the database file: its WAL and wal-index are open.
    std::fs::remove_file(&path).unwrap();
    let error = restore(&origin, &path, &forced()).await.unwrap_err();
    assert!(error.to_string().contains(&format!("process {pid} has it open")), "{error}");
    bank.kill().unwrap();
    restore(&origin, &path, &forced()).await.unwrap().unwrap();
    assert_eq!(rows(&path), ["from the log"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_this_process_uses_or_locks_is_left_alone() {
    let origin = origin().await;
    let path = origin.path("mine.db");
    crashed_database(&path);
    let db = Connection::open(&path).unwrap();
    db.query_row("SELECT count(*) FROM t", [], |_| Ok(())).unwrap();
    let error = restore(&origin, &path, &forced()).await.unwrap_err();
    assert!(error.to_string().contains(&format!("process {} has it open", std::process::id())), "{error}");
    // SQLite's locks are still there: another connection cannot become the only one.
    let other = std::fs::File::options().read(true).write(true).open(&path).unwrap();
    assert!(!lock::exclude(&other, litekeep_format::locks::SHARED_FIRST, 1).unwrap());
    assert_eq!(rows(&path), ["old", "old, in the WAL"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn leftovers_of_crashed_restores_go_away() {
    let origin = origin().await;
    let folder = origin.path("app");
    std::fs::create_dir(&folder).unwrap();
    let leftover = |n: u8| folder.join(format!("app.db.restoring-{n:016x}"));
    let suffixed = |n: u8, suffix: &str| beside(&leftover(n), suffix);
    let files = [
        leftover(1),
        leftover(2),
        suffixed(1, "-wal"),
        suffixed(3, "-wal"),
        suffixed(4, "-shm"),
        folder.join("app.db.restoring-me"),
    ];
    for path in files {
        std::fs::write(path, "x").unwrap();
    }
    // One that a restore is still at work on.
    let busy = std::fs::File::create(leftover(3)).unwrap();
    assert!(lock::claim(&busy).unwrap());
    restore(&origin, &folder.join("app.db"), &Options::default()).await.unwrap();
    let at_work = "app.db.restoring-0000000000000003";
    assert_eq!(names(&folder), ["app.db", at_work, &format!("{at_work}-wal"), "app.db.restoring-me"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_is_followed_and_a_folder_refused() {
    let origin = origin().await;
    let (real, link) = (origin.path("real.db"), origin.path("link.db"));
    crashed_database(&real);
    std::os::unix::fs::symlink(&real, &link).unwrap();
    let kept = restore(&origin, &link, &forced()).await.unwrap().unwrap().kept_aside.unwrap();
    assert!(link.is_symlink() && kept.file_name().unwrap().to_string_lossy().starts_with("real.db."));
    assert_eq!(rows(&real), ["from the log"]);

    let error = restore(&origin, &origin.path(""), &forced()).await.unwrap_err();
    assert!(error.to_string().contains("it is a folder"), "{error}");
}
