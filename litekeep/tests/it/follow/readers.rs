//! What readers see.

use litekeep_testkit::bank::{self, AutoVacuum, Bank, Options};

use std::os::unix::fs::PermissionsExt;

use super::{LONG, Replica, SOON, has_seen};
use crate::scene::{Scene, Store};
use litekeep_testkit::process::eventually;

fn follow_a_bank(scene: Scene, options: &Options) {
    let replica = Replica::of(&scene);
    let litekeep = scene.replicate().unwrap();
    let mut bank = Bank::start(options).unwrap();
    bank.wait_for(20, LONG).unwrap();
    eventually("there is a backup", LONG, || Ok(scene.confirmed()?.is_some())).unwrap();
    let mut follower = replica.start().unwrap();
    eventually("the copy is there", LONG, || Ok(replica.path.exists())).unwrap();
    let mut readers = [replica.reader("0").unwrap(), replica.reader("0.3").unwrap()];
    bank.wait_for(400, LONG).unwrap();
    for (reader, states) in readers.iter_mut().zip([20, 5]) {
        has_seen(reader, states).unwrap();
    }
    // Every row of the bank follows from its ledger.
    let seen = bank::check(&replica.path).unwrap();
    let acknowledged = bank.stop().unwrap().highest();
    scene.stop(litekeep).unwrap();
    replica.level(&mut follower).unwrap();
    let report = bank::check(&replica.path).unwrap();
    assert_eq!(report.ops, acknowledged);
    assert!(seen.ops <= report.ops);
    for mut reader in readers {
        assert!(reader.is_running().unwrap(), "{}", reader.output());
        let last = || reader.output().lines().last().map(str::to_owned);
        eventually("the reader sees the end", SOON, || Ok(last() == Some(acknowledged.to_string()))).unwrap();
    }
    replica.prove().unwrap();
    replica.stop(follower).unwrap();
    replica.prove().unwrap();
}

#[test]
fn readers_see_only_states_that_were_committed_and_in_order() {
    let scene = Scene::new(Store::Folder, "");
    let options = Options { schema: 0.05, vacuum: 0.01, connections: 3, ..scene.bank() };
    follow_a_bank(scene, &options);
}

#[test]
fn so_they_do_through_s3_and_with_auto_vacuum() {
    let scene = Scene::new(Store::S3, "upload_interval = \"50ms\"");
    let options = Options {
        auto_vacuum: AutoVacuum::Full,
        schema: 0.05,
        vacuum: 0.01,
        page_size: 1024,
        ..scene.bank()
    };
    follow_a_bank(scene, &options);
}

#[test]
fn a_reader_that_stays_pins_the_wal_and_is_named() {
    let scene = Scene::new(Store::Folder, "");
    let replica = Replica::of(&scene);
    scene.place.database("app.db", 10);
    let litekeep = scene.replicate().unwrap();
    eventually("there is a backup", LONG, || Ok(scene.confirmed()?.is_some())).unwrap();
    let mut follower = replica.start().unwrap();
    replica.level(&mut follower).unwrap();
    let script = "import sqlite3, sys, time\ndb = sqlite3.connect(sys.argv[1], isolation_level=None)\n\
        db.execute('BEGIN')\nprint(db.execute('SELECT count(*) FROM t').fetchone()[0], flush=True)\n\
        time.sleep(600)\n";
    let mut command = std::process::Command::new("python3");
    command.args(["-c", script]).arg(&replica.path);
    let mut reader = litekeep_testkit::Process::start(command, &scene.place.path("pin.log")).unwrap();
    has_seen(&mut reader, 1).unwrap();
    let app = rusqlite::Connection::open(scene.db()).unwrap();
    let blob = "UPDATE t SET x = randomblob(1000000) WHERE n <= 8";
    for _ in 0..10 {
        app.execute(blob, []).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    let limit = 64 << 20;
    eventually("the reader is named", LONG, || {
        app.execute(blob, [])?;
        let (code, status) = replica.status()?;
        anyhow::ensure!(code == 0, "{status:#}\n{}", replica.log());
        Ok(status["replica"]["wal_reader_pid"] == reader.id())
    })
    .unwrap();
    let text = scene.litekeep(&["status", replica.path.to_str().unwrap()]).unwrap();
    assert!(text.contains("the WAL grows because process"), "{text}");
    drop(reader);
    eventually("the WAL is short again", LONG, || {
        app.execute(blob, [])?;
        let (_, status) = replica.status()?;
        Ok(status["replica"]["wal_reader_pid"].is_null()
            && status["replica"]["wal_bytes"].as_u64().is_some_and(|bytes| bytes <= limit))
    })
    .unwrap();
    drop(app);
    scene.stop(litekeep).unwrap();
    replica.level(&mut follower).unwrap();
    replica.prove().unwrap();
    replica.stop(follower).unwrap();
}

/// SQLite writes beside a database also to read it, unless everything is there already.
#[test]
fn users_who_may_not_write_read_at_any_time() {
    if litekeep_env::user_id() != Some(0) {
        return;
    }
    let scene = Scene::new(Store::Folder, "");
    std::fs::set_permissions(scene.dir(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let replica = Replica::of(&scene);
    let script = "import os, sqlite3, sys\nos.setgroups([]); os.setgid(65534); os.setuid(65534)\n\
        db = sqlite3.connect(sys.argv[1], isolation_level=None)\n\
        print(db.execute('SELECT count(*) FROM t').fetchone()[0])\n\
        try:\n    db.execute('DELETE FROM t')\n\
        except sqlite3.OperationalError as error:\n    assert 'readonly' in str(error), error\n\
        else:\n    sys.exit('it could write')\n";
    let read = || {
        let mut command = std::process::Command::new("python3");
        command.args(["-c", script]).arg(&replica.path);
        let ran = crate::Ran::of(command).succeeded();
        ran.stdout.trim().parse::<u32>().unwrap()
    };
    scene.place.database("app.db", 20);
    scene.replicate_once().unwrap();
    let mut follower = replica.start().unwrap();
    replica.level(&mut follower).unwrap();
    assert_eq!(read(), 20);
    scene.place.database("app.db", 20);
    scene.replicate_once().unwrap();
    eventually("it is there", LONG, || Ok(read() == 40)).unwrap();
    follower.kill().unwrap();
    assert_eq!(read(), 40, "while nobody has it open");
    replica.run(&["--once"]).succeeded();
    assert_eq!(read(), 40, "after an end in order");
}

/// A file's pages have one size: where that changes, a new file takes the place of the one that readers have open.
#[test]
fn pages_of_another_size_come_when_nobody_reads() {
    let scene = Scene::new(Store::Folder, "");
    let replica = Replica::of(&scene);
    let app = rusqlite::Connection::open(scene.place.database("app.db", 100)).unwrap();
    scene.replicate_once().unwrap();
    let mut follower = replica.start().unwrap();
    replica.level(&mut follower).unwrap();
    let reader = replica.connection();
    let page_size = |connection: &rusqlite::Connection| -> u32 {
        connection.query_row("PRAGMA page_size", [], |row| row.get(0)).unwrap()
    };
    let count = || reader.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(count(), 100);
    app.execute_batch("PRAGMA journal_mode = DELETE; PRAGMA page_size = 1024; VACUUM; PRAGMA journal_mode = WAL; DELETE FROM t WHERE n > 50")
        .unwrap();
    scene.replicate_once().unwrap();
    eventually("it is told", LONG, || {
        let (code, status) = replica.status()?;
        let told = status["replica"]["red"].to_string();
        let is_told = told.contains("1024 bytes instead of 4096") && told.contains("readers see transaction");
        Ok(code == 1 && is_told)
    })
    .unwrap();
    assert_eq!(count(), 100, "they see the state before");
    drop(reader);
    replica.level(&mut follower).unwrap();
    assert_eq!(page_size(&replica.connection()), 1024);
    replica.prove().unwrap();
    let left: Vec<_> =
        std::fs::read_dir(scene.dir()).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().contains("before-restore")), "{left:?}");
    // And it goes on.
    app.execute("DELETE FROM t WHERE n > 20", []).unwrap();
    scene.replicate_once().unwrap();
    replica.level(&mut follower).unwrap();
    replica.prove().unwrap();
    replica.stop(follower).unwrap();
}
