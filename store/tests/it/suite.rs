//! Goal: every kind of store keeps the same promises. Method: one suite, run on each.

use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;
use litekeep_ltx::FileName;
use litekeep_store::plan::Merge;
use litekeep_store::{Conditional, ErrorKind, FileRef, Layout, Put, Store, Target};
use object_store::memory::InMemory;

use crate::files::{Database, name};
use crate::s3::Server;

#[tokio::test]
async fn a_folder_keeps_the_promises() {
    let dir = tempfile::tempdir().unwrap();
    run_all(&Store::open(&Target::Folder(dir.path().join("not/yet/there"))).unwrap()).await;
}

#[tokio::test]
async fn memory_keeps_the_promises() {
    for layout in [Layout::Flat, Layout::Ltx] {
        run_all(&Store::from_object_store(Arc::new(InMemory::new()), "some/where", layout).unwrap()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_keeps_the_promises() {
    let server = Server::start();
    run_all(&server.store("some/where")).await;
}

pub(crate) async fn run_all(store: &Store) {
    run_sequential(store).await;
    of_racing_writers_one_wins(&store.join("race").unwrap()).await;
}

/// All promises but those that hold between writers of one instant.
pub(crate) async fn run_sequential(store: &Store) {
    files_are_put_once(&store.join("once").unwrap()).await;
    files_are_listed_and_read(&store.join("read").unwrap()).await;
    levels_are_told_from_what_stands_beside(&store.join("levels").unwrap()).await;
    files_that_follow_are_opened_together(&store.join("following").unwrap()).await;
    uploads_of_any_size(&store.join("upload").unwrap()).await;
    records_stand_beside(&store.join("records").unwrap()).await;
    checksums_come_and_go_with_large_files(&store.join("checksums").unwrap()).await;
    names_below_are_those_of_logs(&store.join("names").unwrap()).await;
    assert_eq!(store.probe().await.unwrap(), Conditional::Honoured);
}

async fn files_are_put_once(store: &Store) {
    let (name, ours) = Database::new(1).commit(3, 5, 1_000);
    let (_, theirs) = Database::new(2).commit(3, 5, 2_000);
    assert_eq!(store.put(0, name, ours.clone(), 1_000).await.unwrap(), Put::Written);
    assert_eq!(store.put(0, name, ours.clone(), 1_000).await.unwrap(), Put::AlreadyThere);
    let error = store.put(0, name, theirs, 2_000).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fenced);
    let message = error.to_string();
    assert!(message.contains("writer 0000000000000007"), "{message}");
    assert!(
        message.contains("1970-01-01T00:00:01Z") && message.contains("1970-01-01T00:00:02Z"),
        "{message}"
    );
    let file = store.list().await.unwrap().level(0)[0].clone();
    assert_eq!(store.get(&file).await.unwrap(), ours);
}

async fn files_are_listed_and_read(store: &Store) {
    assert!(store.list().await.unwrap().is_empty());
    let mut database = Database::new(3);
    let mut bodies = Vec::new();
    for i in 0..3 {
        let timestamp_ms = 1_700_000_000_123 + i * 1000;
        let (name, bytes) = database.commit(10, 20, timestamp_ms);
        store.put(0, name, bytes.clone(), timestamp_ms).await.unwrap();
        bodies.push(bytes);
    }
    let (name, snapshot) = database.snapshot(1_700_000_005_000);
    store.put(9, name, snapshot.clone(), 1_700_000_005_000).await.unwrap();

    let log = store.list().await.unwrap();
    assert_eq!((log.level(0).len(), log.level(9).len(), log.files().count()), (3, 1, 4));
    assert!(log.strays.is_empty(), "{:?}", log.strays);
    assert_eq!(log.last(), Some(name.max));
    for (i, (file, body)) in log.level(0).iter().zip(&bodies).enumerate() {
        assert_eq!(file.size, body.len() as u64);
        assert_eq!(store.get(file).await.unwrap(), body);
        assert_eq!(store.get_range(file, 50..99).await.unwrap(), body.slice(50..99));
        let streamed: Vec<Bytes> = store.get_stream(file).await.unwrap().try_collect().await.unwrap();
        assert_eq!(streamed.concat(), body.as_ref());
        assert_eq!(store.header(file).await.unwrap().timestamp_ms, 1_700_000_000_123 + i as i64 * 1000);
        assert_eq!(store.time_of(file).await.unwrap(), 1_700_000_000_123 + i as i64 * 1000);
    }
    let gone = log.level(0)[..2].to_vec();
    store.delete(gone.clone()).await.unwrap();
    store.delete(gone.clone()).await.unwrap();
    let left = store.list().await.unwrap();
    assert_eq!(left.files().count(), 2);
    assert!(store.get(&gone[0]).await.unwrap_err().is_missing());
}

/// Small and large ones up to the first that is not there. What is damaged ends them, and is told once it is the first.
async fn files_that_follow_are_opened_together(store: &Store) {
    let mut database = Database::new(5);
    for n in 1..=9u32 {
        let (writes, pages) = if n == 4 { (0, 4000) } else { (5, 20) };
        let (name, mut bytes) = database.commit(writes, pages, n.into());
        if n == 7 {
            let mut damaged = bytes.to_vec();
            damaged[150] ^= 1;
            bytes = damaged.into();
        }
        if n != 6 {
            store.put(0, name, bytes, n.into()).await.unwrap();
        }
    }
    let first = |n: u64| name(n, n).min;
    for at_once in [0, 1, 3, 100] {
        let (mut found, mut at) = (vec![], first(1));
        loop {
            let files = store.open_following(at, at_once).await.unwrap();
            let Some(last) = files.last() else { break };
            at = last.header().max_txid;
            for file in files {
                assert_eq!((file.file().level, file.file().name), (0, FileName::from(file.header())));
                let pages: Vec<_> = file.pages().collect();
                assert_eq!(file.read(&pages).await.unwrap().len(), pages.len());
                found.push((file.header().max_txid.get(), file.decoded().is_some()));
            }
        }
        assert_eq!(found, [(2, true), (3, true), (4, false), (5, true)], "{at_once}");
    }
    let error = store.open_following(first(6), 3).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    let last = store.open_following(first(7), 3).await.unwrap();
    assert_eq!(last.iter().map(|file| file.header().max_txid.get()).collect::<Vec<_>>(), [8, 9]);
    assert_eq!(store.open_following(first(9), 3).await.unwrap().len(), 0);
}

async fn levels_are_told_from_what_stands_beside(store: &Store) {
    let (name, bytes) = Database::new(4).commit(3, 5, 1_000);
    let put = |store: Store, level| {
        let bytes = bytes.clone();
        async move { store.put(level, name, bytes, 1_000).await.unwrap() }
    };
    for level in 0..=9 {
        put(store.clone(), level).await;
    }
    let layout = store.layout();
    for beside in ["below", "below/0000", "000a", "00001", "ltx/10", "ltx/a", "litekeep/x"] {
        put(store.join(beside).unwrap(), 0).await;
    }
    let inside = store.join(&layout.level_dir(3)).unwrap();
    put(inside.clone(), 0).await;
    let before = store.counters().read().list;
    let log = store.list().await.unwrap();
    assert_eq!(store.counters().read().list, before + 1);
    assert_eq!(log.files().map(|f| f.level).collect::<Vec<_>>(), (0..=9).collect::<Vec<_>>());
    assert_eq!(log.strays.len(), 1, "{:?}", log.strays);
    assert!(log.strays[0].ends_with(&format!("{}/{}/{name}", layout.level_dir(3), layout.level_dir(0))));
}

async fn uploads_of_any_size(store: &Store) {
    const MIB: usize = 1 << 20;
    for (serial, size) in [0, 1, 100, 8 * MIB, 8 * MIB + 1, 21 * MIB + 17].into_iter().enumerate() {
        let mut bytes = vec![0; size];
        fastrand::Rng::with_seed(size as u64).fill(&mut bytes);
        let bytes = Bytes::from(bytes);
        let name = name(1, serial as u64 + 1);
        for expected in [Put::Written, Put::AlreadyThere] {
            let mut upload = store.put_stream(9, name, 5_000);
            for piece in bytes.chunks(700_001) {
                upload.write(bytes.slice_ref(piece)).await.unwrap();
            }
            assert_eq!(upload.finish().await.unwrap(), expected, "{size} bytes");
        }
        let log = store.list().await.unwrap();
        let file = log.level(9).iter().find(|f| f.name == name).unwrap();
        assert_eq!(store.get(file).await.unwrap(), bytes);

        let mut other = bytes.to_vec();
        other.push(1);
        let mut upload = store.put_stream(9, name, 5_000);
        upload.write(other.into()).await.unwrap();
        assert_eq!(upload.finish().await.unwrap_err().kind(), ErrorKind::Fenced);
        assert_eq!(store.get(file).await.unwrap(), bytes);
    }
    let before = store.list().await.unwrap();
    let mut upload = store.put_stream(9, name(1, 99), 5_000);
    upload.write(vec![7; 9 * MIB].into()).await.unwrap();
    upload.abort().await;
    drop(upload);
    assert_eq!(store.list().await.unwrap(), before, "an aborted upload leaves nothing");
}

/// Files of some size, from level 2 on, have a record of their pages' checksums as long as they are there.
async fn checksums_come_and_go_with_large_files(store: &Store) {
    let other = store.join("copied").unwrap();
    let mut database = Database::new(3);
    // Of a page of 512 bytes, 64 are random.
    let (_, small) = database.commit(0, 100, 1_000);
    let (_, large) = database.commit(0, 6_000, 2_000);
    assert!(small.len() < 256 << 10 && large.len() > 256 << 10, "{} and {}", small.len(), large.len());
    store.put(0, name(1, 1), small.clone(), 1_000).await.unwrap();
    store.put(0, name(2, 2), large, 2_000).await.unwrap();
    let log = store.list().await.unwrap();
    let merged = async |level, inputs: &[FileRef]| {
        let name = name(inputs[0].min().get(), inputs[inputs.len() - 1].max().get());
        store.compact(&Merge { level, inputs: inputs.to_vec(), name }).await.unwrap()
    };
    let (l0_small, l0_large) = log.level(0).split_at(1);
    let files = [
        merged(1, l0_large).await,
        merged(2, l0_small).await,
        merged(2, l0_large).await,
        merged(9, log.level(0)).await,
    ];
    let names = async |store: &Store| {
        let records = store.list_records("checksums").await.unwrap();
        records.into_iter().map(|record| record.name).collect::<Vec<_>>()
    };
    let record = |level: u8, min: u64, max: u64| format!("checksums/{level}-{min:016x}-{max:016x}");
    let both = [record(2, 2, 2), record(9, 1, 2)];
    assert_eq!(names(store).await, both);
    for file in &files {
        store.copy_checks(&other, file).await.unwrap();
        let before = store.counters().read();
        store.open_pages(file).await.unwrap();
        let read = store.counters().read().since(&before).bytes_in;
        let is_in_part = both
            .iter()
            .any(|record| *record == format!("checksums/{}-{}-{}", file.level, file.min(), file.max()));
        assert_eq!(read < file.size, is_in_part, "{read} bytes read of {file:?}");
    }
    assert_eq!(names(&other).await, both);
    store.delete_stray_checks(&store.list().await.unwrap()).await.unwrap();
    assert_eq!(names(store).await, both);
    store.delete(vec![files[3].clone(), files[1].clone()]).await.unwrap();
    assert_eq!(names(store).await, both[..1]);
    store.put_record(&both[1], Bytes::from_static(b"left behind"), false).await.unwrap();
    store.delete_stray_checks(&store.list().await.unwrap()).await.unwrap();
    assert_eq!(names(store).await, both[..1]);
    store.delete(files.to_vec()).await.unwrap();
    assert_eq!(names(store).await, [""; 0]);
}

async fn records_stand_beside(store: &Store) {
    assert_eq!(store.get_record("epoch/0001").await.unwrap(), None);
    assert_eq!(store.put_record("epoch/0001", "a".into(), true).await.unwrap(), Put::Written);
    assert_eq!(store.put_record("epoch/0001", "a".into(), true).await.unwrap(), Put::AlreadyThere);
    let taken = store.put_record("epoch/0001", "b".into(), true).await.unwrap_err();
    assert_eq!(taken.kind(), ErrorKind::Fenced);
    store.put_record("epoch/0002", "c".into(), true).await.unwrap();
    store.put_record("proof", "d".into(), false).await.unwrap();
    store.put_record("proof", "e".into(), false).await.unwrap();
    assert_eq!(store.get_record("proof").await.unwrap(), Some("e".into()));
    let names =
        |records: Vec<litekeep_store::ObjectRef>| records.into_iter().map(|r| r.name).collect::<Vec<_>>();
    assert_eq!(names(store.list_records("epoch").await.unwrap()), ["epoch/0001", "epoch/0002"]);
    assert_eq!(names(store.list_records("").await.unwrap()), ["epoch/0001", "epoch/0002", "proof"]);
    assert!(store.list().await.unwrap().is_empty(), "records are no files of the log");
    let below = store.list_below("litekeep/epoch").await.unwrap();
    assert_eq!(names(below.clone()), ["litekeep/epoch/0001", "litekeep/epoch/0002"]);
    assert_eq!(store.list_below("litekeep/nothing").await.unwrap(), []);
    assert_eq!(store.read(&below[1].name, 0..below[1].size).await.unwrap(), "c");
    assert_eq!(store.read(&below[1].name, 0..2).await.unwrap_err().kind(), ErrorKind::Corrupt);
    store.delete_records(&["epoch/0001".into()]).await.unwrap();
    assert_eq!(names(store.list_records("epoch").await.unwrap()), ["epoch/0002"]);
}

async fn names_below_are_those_of_logs(store: &Store) {
    assert_eq!(store.names_below().await.unwrap(), [""; 0]);
    let (name, bytes) = Database::new(6).commit(3, 5, 1_000);
    for log in ["a.db", "b c.db", "deeper/c.db"] {
        store.join(log).unwrap().put(0, name, bytes.clone(), 1_000).await.unwrap();
    }
    let mut names = store.names_below().await.unwrap();
    names.sort();
    assert_eq!(names, ["a.db", "b c.db", "deeper"]);
    assert_eq!(store.join("deeper").unwrap().names_below().await.unwrap(), ["c.db"]);
    assert!(!store.join(&names[1]).unwrap().list().await.unwrap().is_empty());
}

async fn of_racing_writers_one_wins(store: &Store) {
    for round in 1..=10 {
        let puts = (0..12u64).map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                let bytes = Bytes::from(vec![writer as u8; 5000]);
                (writer, store.put(0, name(round, round), bytes, 1_000).await)
            })
        });
        let mut winners = Vec::new();
        for outcome in futures::future::try_join_all(puts).await.unwrap() {
            match outcome {
                (writer, Ok(put)) => {
                    assert_eq!(put, Put::Written);
                    winners.push(writer);
                }
                (_, Err(e)) => assert_eq!(e.kind(), ErrorKind::Fenced, "{e}"),
            }
        }
        assert_eq!(winners.len(), 1, "round {round}");
        let file = store.list().await.unwrap().level(0)[round as usize - 1].clone();
        assert_eq!(store.get(&file).await.unwrap(), vec![winners[0] as u8; 5000]);
    }
}
