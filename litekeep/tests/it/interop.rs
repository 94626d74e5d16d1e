//! Goal: litekeep and Litestream 0.5.17 write one format: each restores what the other wrote, and goes on where the other
//! stopped. Method: a bank as the application, the two real programs in turn on one path, in a folder and over S3; every
//! restore of the same state by both must have equal pages, and those of the database where that is at rest.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use litekeep_testkit::bank::{self, AutoVacuum, Bank, Options};
use litekeep_testkit::contents::differing_pages;
use litekeep_testkit::litestream::{Litestream, Replica, Until};
use litekeep_testkit::process::eventually;
use litekeep_testkit::{Process, S3Server};
use serde_json::Value;

use crate::scene::{Backup, LONG, Scene, Store};

/// Litestream's level 1 holds the files of one such interval, level 2 of three.
const LEVEL: Duration = Duration::from_secs(1);

fn scenes() -> [Scene; 2] {
    [Store::Folder, Store::S3].map(|store| Scene::new(store, "upload_interval = \"20ms\""))
}

/// A bank with everything in it, not in a hurry.
fn options(scene: &Scene) -> Options {
    Options { schema: 0.02, pause_us: 2_000, blob_bytes: 20_000, ..scene.bank() }
}

/// The bank makes so many more operations and closes, while `replicator` is at work.
fn work(options: &Options, ops: u64) {
    let mut bank = Bank::start(options).unwrap();
    let begin = bank.acks().unwrap().highest();
    bank.wait_for(begin + ops, LONG).unwrap();
    bank.stop().unwrap();
}

/// One turn of litekeep: the bank works meanwhile, and all of it is confirmed at the end.
fn turn_of_litekeep(scene: &Scene, options: &Options) {
    let head = scene.last_txid().ok();
    let litekeep = scene.replicate().unwrap();
    if let Some(head) = head {
        // A database of a few pages that changes while the log is still watched is soon another one.
        let goes_on = || Ok(scene.confirmed()?.is_some_and(|confirmed| confirmed.txid >= head));
        eventually("litekeep goes on with the log", LONG, goes_on)
            .unwrap_or_else(|error| panic!("{error}\n{}", litekeep.output()));
    }
    // In parts, so that a bank that is faster than the first copy does not come to one file.
    for _ in 0..5 {
        let before = scene.last_txid().ok();
        work(options, 30);
        eventually("a part is confirmed", LONG, || Ok(scene.last_txid().ok() > before))
            .unwrap_or_else(|error| panic!("{error}\n{}", litekeep.output()));
    }
    scene.stop(litekeep).unwrap();
}

/// One turn of Litestream, long enough for compactions; it ends when its own restore has everything.
fn turn_of_litestream(scene: &Scene, options: &Options, litestream: &Litestream) {
    let config = scene.place.path("levels.yml");
    std::fs::write(&config, levels(scene)).unwrap();
    let mut command = Command::new(litestream.binary());
    command.arg("replicate").arg("-config").arg(&config);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"AWS_")) {
        command.env_remove(name);
    }
    command.envs(S3Server::env());
    let replicator = Process::start(command, &scene.place.path("levels.log")).unwrap();
    work(options, 150);
    let compacted = |level: u8| match &scene.backup {
        Backup::Folder => has_files(&scene.objects().join(format!("ltx/{level}"))),
        Backup::S3 { .. } => has_files(&scene.objects().join(format!("{level:04x}"))),
    };
    eventually("Litestream compacts into level 2", LONG, || Ok(compacted(1) && compacted(2)))
        .unwrap_or_else(|error| panic!("{error}\n{}", replicator.output()));
    work(options, 50);
    let all = bank::check(&options.db).unwrap().ops;
    eventually("Litestream has shipped everything", LONG, || {
        let path = scene.restore_by_litestream(litestream, &Until::Latest)?;
        Ok(bank::check(&path)?.ops == all)
    })
    .unwrap_or_else(|error| panic!("{error:?}\n{}", replicator.output()));
    replicator.terminate(LONG).unwrap();
}

fn has_files(dir: &Path) -> bool {
    std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some())
}

/// A configuration of Litestream with levels that fill within the test.
fn levels(scene: &Scene) -> String {
    let setup = scene.setup();
    let replica = match &setup.replica {
        Replica::Folder(path) => format!("      type: file\n      path: {path:?}\n"),
        Replica::S3 { endpoint, path } => format!(
            "      type: s3\n      bucket: {}\n      path: {path:?}\n      endpoint: {endpoint}\n      region: {}\n      force-path-style: true\n",
            litekeep_testkit::s3_server::BUCKET,
            litekeep_testkit::s3_server::REGION
        ),
    };
    format!(
        "levels:\n  - interval: {}s\n  - interval: {}s\ndbs:\n  - path: {:?}\n    monitor-interval: 50ms\n    replica:\n{replica}      sync-interval: 50ms\n",
        LEVEL.as_secs(),
        3 * LEVEL.as_secs(),
        setup.db
    )
}

#[test]
fn litestream_restores_every_transaction_that_litekeep_wrote() {
    let litestream = Litestream::install().unwrap();
    for scene in scenes() {
        turn_of_litekeep(&scene, &options(&scene));
        scene.prove_equal(Some(&litestream)).unwrap();
        let files = scene.history().unwrap();
        assert!(files.len() > 3, "{files:?}");
        let text = |file: &Value, key: &str| file[key].as_str().unwrap().to_owned();
        for file in files.iter().step_by((files.len() / 6).max(1)) {
            let txid = text(file, "max_txid");
            let by_us = scene.restore(&["-txid", &txid]).unwrap();
            let by_them = scene.restore_by_litestream(&litestream, &Until::Txid(txid.clone())).unwrap();
            assert_eq!(differing_pages(&by_us, &by_them).unwrap(), [0; 0], "transaction {txid}");
            bank::check(&by_us).unwrap();
        }
        // Between two files, so that it does not matter on which side of an instant a file counts.
        let time = |file: &Value| text(file, "time").parse::<jiff::Timestamp>().unwrap().as_millisecond();
        let gap = files.windows(2).rev().find(|pair| time(&pair[1]) - time(&pair[0]) > 2).unwrap();
        let instant = jiff::Timestamp::from_millisecond(time(&gap[0]) + 1).unwrap().to_string();
        let by_us = scene.restore(&["-timestamp", &instant]).unwrap();
        let by_them = scene.restore_by_litestream(&litestream, &Until::Timestamp(instant.clone())).unwrap();
        assert_eq!(differing_pages(&by_us, &by_them).unwrap(), [0; 0], "{instant}");
        assert_ne!(differing_pages(&by_us, &scene.db()).unwrap(), [0; 0], "{instant} is in the past");
    }
}

#[test]
fn litestream_takes_over_from_litekeep_and_litekeep_again() {
    let litestream = Litestream::install().unwrap();
    for scene in scenes() {
        let options = Options { accounts: 20_000, ..options(&scene) };
        // The first snapshot is large, so that checksums of its pages stand beside the levels.
        work(&options, 2);
        for _ in 0..2 {
            turn_of_litekeep(&scene, &options);
            assert!(has_files(&scene.objects().join("litekeep/checksums")));
            scene.prove_equal(Some(&litestream)).unwrap();
            turn_of_litestream(&scene, &options, &litestream);
            scene.prove_equal(Some(&litestream)).unwrap();
        }
        turn_of_litekeep(&scene, &options);
        scene.prove_equal(Some(&litestream)).unwrap();
    }
}

#[test]
fn litekeep_takes_over_from_litestream() {
    let litestream = Litestream::install().unwrap();
    for scene in scenes() {
        let options = options(&scene);
        turn_of_litestream(&scene, &options, &litestream);
        scene.prove_equal(Some(&litestream)).unwrap();
        // What nobody replicated is found by comparison.
        work(&options, 2);
        turn_of_litekeep(&scene, &options);
        scene.prove_equal(Some(&litestream)).unwrap();
    }
}

#[test]
fn a_restored_database_goes_on_in_the_backup_that_litestream_wrote() {
    let litestream = Litestream::install().unwrap();
    let scene = Scene::new(Store::Folder, "");
    let options = options(&scene);
    turn_of_litestream(&scene, &options, &litestream);
    for name in ["app.db", "app.db-wal", "app.db-shm"] {
        let _ = std::fs::remove_file(scene.place.path(name));
    }
    scene.litekeep(&["restore", "app.db"]).unwrap();
    turn_of_litekeep(&scene, &options);
    scene.prove_equal(Some(&litestream)).unwrap();
}

#[test]
fn backups_of_litestream_0_3_are_restored() {
    let litestream = Litestream::install_v3().unwrap();
    for scene in [Store::Folder, Store::S3].map(|store| Scene::new(store, "")) {
        let nothing = ["restore", "-if-replica-exists", "-o", "none.db", &scene.url()];
        assert!(scene.litekeep(&nothing).unwrap().contains("there is no backup"));
        let options = Options { autocheckpoint: 0, ..options(&scene) };
        let replicator = litestream.replicate(scene.dir(), &scene.setup()).unwrap();
        work(&options, 150);
        let all = bank::check(&scene.db()).unwrap().ops;
        // A first snapshot may be under way, without anything to restore.
        let has =
            |ops| Ok(scene.restore(&[]).and_then(|path| bank::check(&path)).is_ok_and(|r| r.ops == ops));
        let complete = |ops| {
            if let Err(error) = eventually("litekeep restores everything", LONG, || has(ops)) {
                panic!("{error}: {:?}\n{}", scene.restore(&[]), replicator.output());
            }
        };
        complete(all);
        // Between whole seconds, which is all that some servers tell of a time.
        std::thread::sleep(Duration::from_millis(1_100));
        let now = litekeep_env::Clock::unix_ms(&litekeep_env::SystemClock);
        let instant = jiff::Timestamp::from_millisecond(now).unwrap().to_string();
        std::thread::sleep(Duration::from_millis(1_100));
        work(&options, 50);
        complete(bank::check(&scene.db()).unwrap().ops);
        replicator.terminate(LONG).unwrap();
        scene.prove_equal(None).unwrap();

        let earlier = scene.restore(&["-timestamp", &instant, "-parallelism", "2"]).unwrap();
        assert_eq!(bank::check(&earlier).unwrap().ops, all);
        let theirs = scene.restore_by_litestream(&litestream, &Until::Timestamp(instant)).unwrap();
        assert_eq!(bank::check(&theirs).unwrap().ops, all);
        // Something is there, so that a goal outside of it is an error.
        for goal in [["-timestamp", "2001-01-01T00:00:00Z"], ["-txid", "1"]] {
            let mut command = scene.command(&["restore", "-if-replica-exists", "-o", "none.db"]);
            let output = command.args(goal).arg(scene.url()).output().unwrap();
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{stderr}");
            assert!(stderr.contains("hint: ") && stderr.contains("-timestamp 20"), "{stderr}");
        }
    }
}

#[test]
fn every_page_size_and_vacuum_mode() {
    let litestream = Litestream::install().unwrap();
    let modes = [AutoVacuum::None, AutoVacuum::Full, AutoVacuum::Incremental];
    for (n, page_size) in [512, 1024, 2048, 4096, 8192, 16384, 32768, 65536].into_iter().enumerate() {
        let scene = Scene::new(Store::Folder, "");
        let options = Options {
            page_size,
            auto_vacuum: modes[n % 3],
            vacuum: 0.02,
            schema: 0.05,
            blob_bytes: 100_000,
            seed: n as u64,
            ..scene.bank()
        };
        turn_of_litekeep(&scene, &options);
        let report = scene.prove_equal(Some(&litestream)).unwrap();
        assert_eq!(report.page_size, page_size);
        turn_of_litekeep(&scene, &options);
        scene.prove_equal(Some(&litestream)).unwrap();
    }
}
