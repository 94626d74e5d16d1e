//! What only a folder promises.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};

use litekeep_store::{ErrorKind, Put, Store, Target};

use crate::files::{Database, name};

fn open(path: &Path) -> Store {
    Store::open(&Target::Folder(path.to_owned())).unwrap()
}

/// Litestream finds files by these names and goes by their modification times.
#[tokio::test]
async fn files_stand_where_litestream_looks_for_them() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).join("app").unwrap();
    let (name, bytes) = Database::new(1).commit(1, 1, 1_700_000_000_123);
    store.put(0, name, bytes.clone(), 1_700_000_000_123).await.unwrap();
    let path = dir.path().join("app/ltx/0/0000000000000001-0000000000000001.ltx");
    let metadata = fs::metadata(&path).unwrap();
    assert_eq!((metadata.mtime(), metadata.mtime_nsec()), (1_700_000_000, 123_000_000));
    assert_eq!(fs::read(&path).unwrap(), bytes);

    let mut upload = store.put_stream(9, name, 1_600_000_000_001);
    upload.write(vec![1; 9 << 20].into()).await.unwrap();
    upload.finish().await.unwrap();
    let metadata = fs::metadata(dir.path().join("app/ltx/9/0000000000000001-0000000000000001.ltx")).unwrap();
    assert_eq!((metadata.mtime(), metadata.mtime_nsec()), (1_600_000_000, 1_000_000));
}

#[test]
fn blocking_puts_need_no_runtime() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (name, bytes) = Database::new(1).commit(1, 1, 1_000);
    assert_eq!(store.put_blocking(0, name, bytes.clone(), 1_000).unwrap(), Some(Put::Written));
    assert_eq!(store.put_blocking(0, name, bytes, 1_000).unwrap(), Some(Put::AlreadyThere));
    let (_, other) = Database::new(2).commit(1, 1, 1_000);
    assert_eq!(store.put_blocking(0, name, other, 1_000).unwrap_err().kind(), ErrorKind::Fenced);
    // The folder may be taken away under a running program.
    fs::remove_dir_all(dir.path().join("ltx")).unwrap();
    let (name, bytes) = Database::new(1).commit(1, 1, 1_000);
    assert_eq!(store.put_blocking(0, name, bytes, 1_000).unwrap(), Some(Put::Written));
}

#[tokio::test]
async fn foreign_files_are_reported_and_unfinished_ones_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (name, bytes) = Database::new(1).commit(1, 1, 1_000);
    store.put(0, name, bytes, 1_000).await.unwrap();
    let level = dir.path().join("ltx/0");
    fs::write(level.join("notes.txt"), "").unwrap();
    // The same range in another spelling would be a second key for it.
    fs::write(level.join("000000000000000A-000000000000000A.ltx"), "").unwrap();
    fs::write(level.join("0000000000000002-0000000000000002.ltx.1-1.tmp"), "").unwrap();
    let log = store.list().await.unwrap();
    assert_eq!(log.files().count(), 1);
    let mut strays = log.strays;
    strays.sort();
    assert_eq!(strays, ["ltx/0/000000000000000A-000000000000000A.ltx", "ltx/0/notes.txt"]);
    assert!(level.join("0000000000000002-0000000000000002.ltx.1-1.tmp").exists(), "it may be in use");
}

const CHILD: &str = "LITEKEEP_TEST_RACE";
const ROUNDS: u64 = 50;

/// Several processes put the same names; each name has one winner, whose bytes stand there. The test starts itself.
#[test]
fn of_racing_processes_one_wins() {
    if let Ok(child) = std::env::var(CHILD) {
        let (writer, dir) = child.split_once(':').unwrap();
        let store = open(Path::new(dir));
        for round in 1..=ROUNDS {
            let bytes = vec![writer.parse::<u8>().unwrap(); 3000];
            match store.put_blocking(0, name(round, round), bytes.into(), 1_000) {
                Ok(_) => fs::write(Path::new(dir).join(format!("won-{round}-{writer}")), "").unwrap(),
                Err(e) => assert_eq!(e.kind(), ErrorKind::Fenced, "{e}"),
            }
        }
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let start = |writer: u8| {
        Command::new(std::env::current_exe().unwrap())
            .args(["folder::of_racing_processes_one_wins", "--exact"])
            .env(CHILD, format!("{writer}:{}", dir.path().display()))
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    };
    let children: Vec<_> = (0..5).map(start).collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let mut winners_seen = std::collections::BTreeSet::new();
    for round in 1..=ROUNDS {
        let won = |writer: &u8| dir.path().join(format!("won-{round}-{writer}")).exists();
        let winners: Vec<u8> = (0..5).filter(won).collect();
        assert_eq!(winners.len(), 1, "round {round}: {winners:?}");
        let path = dir.path().join(format!("ltx/0/{}", name(round, round)));
        assert_eq!(fs::read(path).unwrap(), vec![winners[0]; 3000]);
        winners_seen.insert(winners[0]);
    }
    let left = fs::read_dir(dir.path().join("ltx/0")).unwrap().count();
    assert_eq!(left as u64, ROUNDS, "no temporary file is left");
}
