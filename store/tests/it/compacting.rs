//! Goal: compacting and deleting in a real store changes nothing that can be restored. Method: a database is committed
//! through hours of simulated time; all that the plans ask for is executed; restores are held against the pages.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use litekeep_store::plan::{self, Goal, Merge, Policy};
use litekeep_store::{ErrorKind, FileRef, Log, Store, Target, Times};

use crate::files::{Database, restore};
use crate::s3::Server;

const START_MS: i64 = 1_700_000_100_000;

async fn read_all(store: &Store, files: &[FileRef]) -> Vec<Bytes> {
    let mut bodies = Vec::new();
    for file in files {
        bodies.push(store.get(file).await.unwrap());
    }
    bodies
}

async fn housekeeping(store: &Store, log: &mut Log, times: &mut Times, now_ms: i64) -> usize {
    let policy = Policy { any_transaction: Duration::ZERO, ..Policy::default() };
    let mut done = 0;
    loop {
        store.learn_times(plan::untimed(log), times).await.unwrap();
        let merges = plan::compaction(log, times, now_ms, &policy);
        if merges.is_empty() {
            break;
        }
        for merge in merges {
            log.insert(store.compact(&merge).await.unwrap());
            done += 1;
        }
    }
    let gone = plan::retention(log, times, &[], now_ms, &policy);
    store.delete(gone.clone()).await.unwrap();
    log.remove_all(&gone);
    done
}

async fn run(store: &Store) {
    let mut database = Database::new(11);
    let mut states: BTreeMap<u64, (i64, BTreeMap<u32, Vec<u8>>)> = BTreeMap::new();
    let mut now_ms = START_MS;
    let (mut log, mut times) = (Log::default(), Times::default());
    for i in 0..240 {
        // Bursts of four captures a second, then minutes of quiet; the database grows and shrinks.
        now_ms += if i % 40 == 39 { 17 * 60 * 1000 } else { 250 };
        let pages = 20 + (i * 7) % 30;
        let (name, bytes) = database.commit(4, pages, now_ms);
        store.put(0, name, bytes, now_ms).await.unwrap();
        states.insert(database.txid, (now_ms, database.pages.clone()));
        if i % 60 == 59 {
            log = store.list().await.unwrap();
            housekeeping(store, &mut log, &mut times, now_ms).await;
        }
    }
    now_ms += 3 * plan::HOUR_MS;
    let merges = housekeeping(store, &mut log, &mut times, now_ms).await;
    assert!(merges > 0);
    let listed = store.list().await.unwrap();
    let names = |log: &Log| log.files().map(|f| (f.level, f.name)).collect::<Vec<_>>();
    assert_eq!(names(&listed), names(&log), "the log in memory followed the store");
    for level in 1..=3 {
        assert!(!log.level(level).is_empty(), "level {level} has files");
    }
    assert!(log.level(0).len() < 120, "{} captures are left", log.level(0).len());

    // The last transaction of each second is there, page for page, and found by its time.
    for (txid, (time, pages)) in &states {
        let next = states.get(&(txid + 1)).map(|(time, _)| *time);
        if next.is_some_and(|next| next / 1000 == time / 1000) {
            continue;
        }
        let found = plan::at_time(&listed, time / 1000 * 1000 + 999, |f| {
            let store = store.clone();
            async move { store.time_of(&f).await }
        });
        let found = found.await.unwrap().unwrap();
        assert_eq!(found.get(), *txid);
        let chain = plan::restore(&listed, Goal::Txid(found)).unwrap();
        assert_eq!(&restore(&read_all(store, &chain).await), pages, "transaction {txid}");
    }
    let snapshot = plan::snapshot(&listed).unwrap().unwrap();
    let snapshot = store.compact(&snapshot).await.unwrap();
    assert_eq!(restore(&read_all(store, &[snapshot]).await), database.pages);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_compacts_without_loss() {
    let dir = tempfile::tempdir().unwrap();
    run(&Store::open(&Target::Folder(dir.path().to_owned())).unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_compacts_without_loss() {
    let server = Server::start();
    run(&server.store("app")).await;
}

async fn three_files(store: &Store) -> (Log, Merge) {
    let mut database = Database::new(5);
    for i in 0..3 {
        let (name, bytes) = database.commit(3, 6, START_MS + i);
        store.put(0, name, bytes, START_MS + i).await.unwrap();
    }
    let log = store.list().await.unwrap();
    let inputs = log.level(0)[1..].to_vec();
    let name = crate::files::name(2, 3);
    (log, Merge { level: 2, inputs, name })
}

#[tokio::test]
async fn a_merge_made_before_is_taken_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&Target::Folder(dir.path().to_owned())).unwrap();
    let (_, merge) = three_files(&store).await;
    let first = store.compact(&merge).await.unwrap();
    assert_eq!(store.compact(&merge).await.unwrap(), first);
}

#[tokio::test]
async fn a_damaged_input_makes_no_output() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&Target::Folder(dir.path().to_owned())).unwrap();
    let (log, merge) = three_files(&store).await;
    let path = dir.path().join(format!("ltx/0/{}", merge.inputs[1].name));
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let error = store.compact(&merge).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert_eq!(store.list().await.unwrap().level(2), &[]);
    assert_eq!(log.level(0).len(), 3);
    assert_eq!(std::fs::read_dir(dir.path().join("ltx")).unwrap().count(), 1, "not even a folder was made");
}

/// Housekeeping runs in tasks of a runtime with many threads; that this compiles is the test.
#[test]
fn its_futures_may_move_between_threads() {
    fn movable(_: &impl Send) {}
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&Target::Folder(dir.path().to_owned())).unwrap();
    let merge = Merge { level: 1, inputs: Vec::new(), name: crate::files::name(1, 1) };
    let (log, mut times) = (Log::default(), Times::default());
    movable(&store.compact(&merge));
    movable(&store.list());
    movable(&store.probe());
    movable(&store.put_record("a", Bytes::new(), true));
    movable(&store.delete(Vec::new()));
    movable(&store.learn_times(Vec::new(), &mut times));
    movable(&store.put_from(9, merge.name, 0, None, |_| Ok::<(), litekeep_store::Error>(())));
    movable(&plan::at_time(&log, 0, |f| {
        let store = store.clone();
        async move { store.time_of(&f).await }
    }));
}
