//! Goal: whatever happens to the file, replication never stops silently: it goes on, or says why not. Method: the real
//! binary while the database comes, goes, is replaced or changes its mode; every case ends with equal pages or with the
//! message that a user needs.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use litekeep_env::lock;
use litekeep_format::locks::read_lock;
use litekeep_testkit::bank::{self, Bank, Options};
use litekeep_testkit::contents::differing_pages;
use litekeep_testkit::process::eventually;
use litekeep_testkit::{Digest, Process};
use rusqlite::Connection;

use crate::Place;
use crate::scene::{LONG, Scene, Store};

/// Runs a bank until it has this many more operations; returns how many it has had then.
fn work(options: &Options, ops: u64) -> u64 {
    let mut bank = Bank::start(options).unwrap();
    let begin = bank.acks().unwrap().highest();
    bank.wait_for(begin + ops, LONG).unwrap();
    bank.stop().unwrap().highest()
}

fn remove(scene: &Scene, suffixes: &[&str]) {
    for suffix in suffixes {
        let _ = std::fs::remove_file(scene.place.path(&format!("app.db{suffix}")));
    }
}

/// Waits until everything that is in the database now is in the backup.
fn wait_until_restored(scene: &Scene, litekeep: &Process) {
    let expected = Digest::of(&scene.db()).unwrap();
    let same = || Ok(scene.restore(&[]).and_then(|path| Digest::of(&path)).is_ok_and(|d| d == expected));
    if let Err(error) = eventually("the backup has everything", LONG, same) {
        panic!("{error}\n{:?}\n{}", scene.restore(&[]), litekeep.output());
    }
}

#[test]
fn a_database_that_is_created_later() {
    let scene = Scene::new(Store::Folder, "");
    let litekeep = scene.replicate().unwrap();
    eventually("litekeep says that it waits", LONG, || Ok(scene.log().contains("is not there; waiting")))
        .unwrap();
    work(&scene.bank(), 100);
    wait_until_restored(&scene, &litekeep);
    scene.stop(litekeep).unwrap();
    scene.prove_equal(None).unwrap();
}

#[test]
fn a_database_that_is_deleted_and_made_again() {
    let scene = Scene::new(Store::Folder, "");
    let litekeep = scene.replicate().unwrap();
    let ops = work(&scene.bank(), 100);
    wait_until_restored(&scene, &litekeep);
    let before = scene.last_txid().unwrap();
    let old = scene.fresh();
    std::fs::copy(scene.restore(&[]).unwrap(), &old).unwrap();

    remove(&scene, &["", "-wal", "-shm", ".acks"]);
    // One that has seen less is taken for a mistake.
    work(&Options { seed: 2, accounts: 77, ..scene.bank() }, 2 * ops);
    wait_until_restored(&scene, &litekeep);
    scene.stop(litekeep).unwrap();
    assert_eq!(scene.prove_equal(None).unwrap().accounts, 77);
    // The one that was deleted by mistake is still there.
    let again = scene.restore(&["-txid", &before]).unwrap();
    assert_eq!(Digest::of(&again).unwrap(), Digest::of(&old).unwrap());
}

/// The file is swapped under a running litekeep, for one of this page size.
fn replaced(page_size: u32) -> (Scene, Process, String) {
    let scene = Scene::new(Store::Folder, "");
    let litekeep = scene.replicate().unwrap();
    let ops = work(&scene.bank(), 100);
    wait_until_restored(&scene, &litekeep);
    let before = scene.last_txid().unwrap();
    let other = Options { seed: 2, accounts: 77, page_size, ..Options::new(scene.place.path("other.db")) };
    // One that has seen less is taken for a mistake.
    work(&other, 2 * ops);
    // Without these SQLite itself would replay the old WAL into the new file.
    remove(&scene, &["-wal", "-shm", ".acks"]);
    std::fs::rename(&other.db, scene.db()).unwrap();
    (scene, litekeep, before)
}

#[test]
fn a_database_that_is_replaced_by_another_file() {
    let (scene, litekeep, before) = replaced(4096);
    wait_until_restored(&scene, &litekeep);
    assert!(scene.log().contains("replaced by another file"), "{}", scene.log());
    scene.stop(litekeep).unwrap();
    assert_eq!(scene.prove_equal(None).unwrap().accounts, 77);
    bank::check(&scene.restore(&["-txid", &before]).unwrap()).unwrap();
}

/// Pages of two sizes cannot be in one chain of changes: the new file begins a chain of its own.
#[test]
fn a_database_that_is_replaced_by_one_of_another_page_size() {
    let (scene, litekeep, before) = replaced(1024);
    wait_until_restored(&scene, &litekeep);
    scene.stop(litekeep).unwrap();
    assert_eq!(scene.prove_equal(None).unwrap().page_size, 1024);
    bank::check(&scene.restore(&["-txid", &before]).unwrap()).unwrap();
}

#[test]
fn a_database_does_not_leave_wal_mode_while_it_is_replicated() {
    let scene = Scene::new(Store::Folder, "");
    let litekeep = scene.replicate().unwrap();
    work(&scene.bank(), 50);
    wait_until_restored(&scene, &litekeep);
    let app = Connection::open(scene.db()).unwrap();
    app.busy_timeout(std::time::Duration::ZERO).unwrap();
    let refused = app.query_row("PRAGMA journal_mode = delete", (), |row| row.get::<_, String>(0));
    assert_eq!(refused.unwrap_err().sqlite_error_code(), Some(rusqlite::ErrorCode::DatabaseBusy));
    drop(app);
    work(&scene.bank(), 50);
    scene.stop(litekeep).unwrap();
    scene.prove_equal(None).unwrap();
}

#[test]
fn a_database_that_is_not_in_wal_mode_is_switched() {
    let scene = Scene::new(Store::Folder, "");
    work(&scene.bank(), 50);
    let app = Connection::open(scene.db()).unwrap();
    app.query_row("PRAGMA journal_mode = delete", (), |row| row.get::<_, String>(0)).unwrap();
    drop(app);
    let output = scene.command(&["replicate", "-once"]).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && stderr.contains("was not in WAL mode"), "{stderr}");
    scene.prove_equal(None).unwrap();
    let mode: String =
        Connection::open(scene.db()).unwrap().query_row("PRAGMA journal_mode", (), |row| row.get(0)).unwrap();
    assert_eq!(mode, "wal");
}

/// While the application keeps it from being switched, litekeep is red and tries on.
#[test]
fn a_database_that_cannot_be_switched_yet_is_switched_later() {
    let scene = Scene::new(Store::Folder, "");
    work(&scene.bank(), 50);
    let app = Connection::open(scene.db()).unwrap();
    app.query_row("PRAGMA journal_mode = delete", (), |row| row.get::<_, String>(0)).unwrap();
    app.execute_batch("BEGIN; SELECT count(*) FROM ledger").unwrap();
    let litekeep = scene.replicate().unwrap();
    eventually("litekeep says that it failed", LONG, || Ok(scene.log().contains("failing"))).unwrap();
    app.execute_batch("COMMIT").unwrap();
    drop(app);
    wait_until_restored(&scene, &litekeep);
    scene.stop(litekeep).unwrap();
    scene.prove_equal(None).unwrap();
}

/// What is committed after the signal is not waited for: under load that would never end.
#[test]
fn a_shutdown_under_load_ends_with_everything_before_it() {
    let scene = Scene::new(Store::Folder, "");
    let litekeep = scene.replicate().unwrap();
    let mut bank = Bank::start(&Options { connections: 4, ..scene.bank() }).unwrap();
    bank.wait_for(500, LONG).unwrap();
    eventually("there is a backup", LONG, || Ok(scene.confirmed()?.is_some())).unwrap();
    let acknowledged = bank.acks().unwrap().highest();
    scene.stop(litekeep).unwrap();
    let restored = bank::check(&scene.restore(&[]).unwrap()).unwrap();
    bank.stop().unwrap();
    assert!(restored.ops >= acknowledged, "{restored:?}, {acknowledged} before the signal");
}

/// Byte for byte, in pieces: the files are too large for a comparison through SQLite.
fn assert_same_bytes(a: &Path, b: &Path) {
    let (mut a, mut b) = (File::open(a).unwrap(), File::open(b).unwrap());
    assert_eq!(a.metadata().unwrap().len(), b.metadata().unwrap().len());
    let (mut of_a, mut of_b) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    for at in 0.. {
        let n = a.read(&mut of_a).unwrap();
        b.read_exact(&mut of_b[..n]).unwrap();
        if n == 0 {
            break;
        }
        assert!(of_a[..n] == of_b[..n], "the piece {at} differs");
    }
}

/// The page at 1 GiB never holds anything, and the log must not either.
#[test]
fn a_database_beyond_the_lock_page() {
    let scene = Scene::new(Store::Folder, "");
    let app = Connection::open(scene.db()).unwrap();
    app.execute_batch(
        "PRAGMA page_size = 65536; PRAGMA journal_mode = off; PRAGMA synchronous = off;
         CREATE TABLE t (id INTEGER PRIMARY KEY, data BLOB);
         INSERT INTO t VALUES (1, zeroblob(540000000)), (2, zeroblob(540000000));
         PRAGMA journal_mode = wal",
    )
    .unwrap();
    let pages: i64 = app.query_row("PRAGMA page_count", (), |row| row.get(0)).unwrap();
    assert!(pages > 0x4000_0000 / 65536 + 1);
    let litekeep = scene.replicate().unwrap();
    app.execute("INSERT INTO t VALUES (3, randomblob(300000))", ()).unwrap();
    eventually("the snapshot is there", LONG, || Ok(scene.confirmed()?.is_some())).unwrap();
    app.execute("INSERT INTO t VALUES (4, randomblob(300000))", ()).unwrap();
    scene.stop(litekeep).unwrap();
    // The last to close copies the WAL into the file.
    drop(app);
    assert_same_bytes(&scene.db(), &scene.restore(&[]).unwrap());
}

#[test]
fn a_second_litekeep_on_the_same_database_is_refused() {
    let scene = Scene::new(Store::Folder, "");
    work(&scene.bank(), 50);
    let litekeep = scene.replicate().unwrap();
    eventually("it is replicated", LONG, || Ok(scene.confirmed()?.is_some())).unwrap();
    let pid = format!("process {}", litekeep.id());
    scene.place.run(&["replicate", "-once"]).failed_with(&["another litekeep", &pid, "hint:"]);
    scene.place.run(&["run", "app.db", "--", "touch", "started"]).failed_with(&["another litekeep", &pid]);
    assert!(!scene.place.path("started").exists());
    scene.stop(litekeep).unwrap();
    scene.prove_equal(None).unwrap();
}

#[test]
fn an_unrelated_database_is_refused_by_a_backup_that_exists() {
    let scene = Scene::new(Store::Folder, "");
    work(&scene.bank(), 100);
    scene.replicate_once().unwrap();
    let before = scene.last_txid().unwrap();
    let other = Options { seed: 2, accounts: 900, ..Options::new(scene.place.path("other.db")) };
    work(&other, 100);
    scene.configure("other.toml", "other.db", "");
    let refused = scene.place.run(&["replicate", "-once", "-config", "other.toml"]);
    refused.failed_with(&["seems to be another database", "--new-timeline", "hint:"]);
    assert_eq!(scene.last_txid().unwrap(), before, "nothing was written");

    scene.litekeep(&["replicate", "-once", "-config", "other.toml", "--new-timeline"]).unwrap();
    let restored = scene.restore(&[]).unwrap();
    assert_eq!(differing_pages(&restored, &other.db).unwrap(), [0; 0]);
    assert_eq!(differing_pages(&scene.restore(&["-txid", &before]).unwrap(), &scene.db()).unwrap(), [0; 0]);
}

/// Local state beside it says whose place it is in.
#[test]
fn another_database_in_the_place_of_one_is_refused_and_a_vacuum_is_not() {
    let place = Place::new();
    let sql = |sql: &str| Connection::open(place.path("app.db")).unwrap().execute_batch(sql).unwrap();
    let remove = || {
        ["app.db", "app.db-wal", "app.db-shm"]
            .iter()
            .for_each(|name| drop(std::fs::remove_file(place.path(name))))
    };
    place.database("app.db", 300);
    place.run(&["run", "app.db", "--", "true"]).succeeded();
    // No page is where it was, and the WAL is gone.
    sql("DELETE FROM t WHERE n % 2; VACUUM");
    place.run(&["run", "app.db", "--", "echo", "runs"]).succeeded();
    sql("PRAGMA journal_mode = DELETE; PRAGMA page_size = 1024; VACUUM; PRAGMA journal_mode = WAL");
    place.run(&["run", "app.db", "--", "echo", "runs"]).succeeded();
    for (other, has) in [
        (
            "PRAGMA journal_mode = WAL; CREATE TABLE other(x); INSERT INTO other VALUES (1)",
            "none of them, but `other`",
        ),
        (
            "PRAGMA page_size = 8192; PRAGMA journal_mode = WAL; CREATE TABLE other(x)",
            "none of them, but `other`",
        ),
        ("PRAGMA journal_mode = WAL; PRAGMA user_version = 1", "no table"),
    ] {
        remove();
        sql(other);
        let ran = place.run(&["run", "app.db", "--", "echo", "runs"]);
        assert!(!ran.stdout.contains("runs"), "{other}: {}", ran.stdout);
        ran.failed_with(&["has the tables `t`", has, "it seems to be another database", "--new-timeline"]);
    }
    place.run(&["run", "app.db", "--new-timeline", "--", "true"]).succeeded();
    place.run(&["verify", "app.db"]).succeeded();
}

/// Whoever keeps the WAL from being reset is named, and when he leaves it does not grow any more.
#[test]
fn a_reader_that_stays_is_named() {
    let scene = Scene::new(Store::Folder, "wal_limit = \"1MiB\"");
    let litekeep = scene.replicate().unwrap();
    let options = Options { blob_bytes: 100_000, ..scene.bank() };
    let mut bank = Bank::start(&options).unwrap();
    bank.wait_for(30, LONG).unwrap();
    let reader = Connection::open(scene.db()).unwrap();
    reader.execute_batch("BEGIN; SELECT count(*) FROM ledger").unwrap();
    let named = || Ok(scene.status()?["wal_reader_pid"].as_u64() == Some(std::process::id().into()));
    eventually("the reader is named by status", LONG, named).unwrap();
    let warning = format!("process {} has a read transaction open", std::process::id());
    eventually("and in the log", LONG, || Ok(scene.log().contains(&warning))).unwrap();
    reader.execute_batch("COMMIT").unwrap();
    let bytes = || std::fs::metadata(scene.place.path("app.db-wal")).unwrap().len();
    let grows_no_more = || {
        let before = bytes();
        let begin = bank.acks()?.highest();
        bank.wait_for(begin + 300, LONG)?;
        Ok(bytes() == before)
    };
    eventually("the WAL grows no more", LONG, grows_no_more).unwrap();
    bank.stop().unwrap();
    drop(reader);
    scene.stop(litekeep).unwrap();
    scene.prove_equal(None).unwrap();
}

/// Also one that needs the database file only, which no checkpoint may change then.
#[test]
fn a_reader_of_the_database_file_is_named() {
    let scene = Scene::new(Store::Folder, "wal_limit = \"1MiB\"");
    let app = scene.place.database("app.db", 10);
    let litekeep = scene.replicate().unwrap();
    eventually("the first copy is confirmed", LONG, || Ok(scene.confirmed()?.is_some())).unwrap();
    let app = Connection::open(app).unwrap();
    // With everything checkpointed a reader takes no mark.
    let is_file_only = || -> anyhow::Result<Option<Connection>> {
        app.execute_batch("PRAGMA wal_checkpoint")?;
        let reader = Connection::open(scene.db())?;
        reader.execute_batch("BEGIN; SELECT count(*) FROM t")?;
        let slot_0 = read_lock(0);
        let readers = lock::holders(&scene.place.path("app.db-shm"), slot_0, 1)?;
        Ok(readers.contains(&std::process::id()).then_some(reader))
    };
    let mut reader = None;
    eventually("a reader needs the database file only", LONG, || {
        reader = is_file_only()?;
        Ok(reader.is_some())
    })
    .unwrap();
    let write = || app.execute("INSERT INTO t (x) VALUES (zeroblob(100000))", ()).unwrap();
    eventually("the reader is named by status", LONG, || {
        write();
        Ok(scene.status()?["wal_reader_pid"].as_u64() == Some(std::process::id().into()))
    })
    .unwrap();
    let warning = format!("process {} has a read transaction open", std::process::id());
    eventually("and in the log", LONG, || {
        write();
        Ok(scene.log().contains(&warning))
    })
    .unwrap();
    drop(reader);
    scene.stop(litekeep).unwrap();
    scene.prove_equal_pages().unwrap();
}

/// Files of the backup are gone: what that costs is said, and from the next start on everything can be restored again.
#[test]
fn a_hole_in_the_backup_is_named_and_followed_by_a_snapshot() {
    let scene = Scene::new(Store::Folder, "");
    for _ in 0..5 {
        scene.place.database("app.db", 1);
        scene.replicate_once().unwrap();
    }
    let level = scene.objects().join("ltx/0");
    let mut names: Vec<_> = std::fs::read_dir(&level).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    std::fs::remove_file(&names[names.len() - 3]).unwrap();
    let status = scene.place.run(&["status"]);
    assert_eq!(status.code, 1, "{}", status.stdout);
    let gap = status.stdout.lines().find(|line| line.contains("GAP: ")).expect(&status.stdout);
    assert!(gap.contains("! ") && gap.contains(" are missing: nothing after 20"), "{gap}");
    let unproven = scene.place.run(&["verify"]);
    assert!(unproven.code == 1 && unproven.stdout.contains("are missing"), "{}", unproven.stdout);

    scene.replicate_once().unwrap();
    scene.prove_equal_pages().unwrap();
    scene.place.run(&["verify"]).succeeded();
    for told in [scene.place.run(&["status", "app.db"]).stdout, scene.litekeep(&["history"]).unwrap()] {
        let gap = told.lines().find(|line| line.contains("GAP: ")).expect(&told);
        assert!(
            !gap.contains('!') && gap.contains(" and before 20") && gap.contains(" is the next"),
            "{gap}"
        );
    }
    let lost = names[names.len() - 2].file_name().unwrap().to_str().unwrap()[17..33].to_owned();
    scene.place.run(&["restore", "-o", "lost.db", "-txid", &lost, "app.db"]).failed_with(&["missing"]);
}

/// Local state knows of another backup only.
#[test]
fn of_a_backup_that_lacks_everything_nobody_says_that_everything_is_there() {
    let scene = Scene::new(Store::Folder, "");
    scene.place.database("app.db", 3);
    scene.replicate_once().unwrap();
    let told = scene.place.run(&["status"]).stdout;
    assert!(told.contains("everything is in the backup, up to transaction"), "{told}");
    let toml = "[[database]]\npath = \"app.db\"\nbackup = \"./elsewhere\"\n";
    std::fs::write(scene.place.path("litekeep.toml"), toml).unwrap();
    let told = scene.place.run(&["status"]).stdout;
    assert!(told.contains("elsewhere is empty"), "{told}");
    let former = scene.objects().display().to_string();
    assert!(told.contains(&format!("in {former}, and no backup that is configured now has it")), "{told}");
    assert!(!told.contains("everything is in the backup"), "{told}");
}

/// It was told as an error, which the next try took back.
#[test]
fn an_application_that_is_just_creating_its_database_is_waited_for_quietly() {
    let scene = Scene::new(Store::Folder, "");
    let app = Connection::open(scene.db()).unwrap();
    // A moment of each commit while it is not in WAL mode yet, and of the switch to it.
    app.execute_batch("CREATE TABLE t(x); BEGIN EXCLUSIVE; INSERT INTO t VALUES(1)").unwrap();
    let litekeep = scene.replicate().unwrap();
    eventually("litekeep is there", LONG, || Ok(scene.log().contains("replicating to"))).unwrap();
    std::thread::sleep(Duration::from_secs(1));
    let status = scene.status().unwrap();
    assert!(!status["red"].to_string().contains("locked"), "{status:#}");
    app.execute_batch("COMMIT").unwrap();
    wait_until_restored(&scene, &litekeep);
    scene.stop(litekeep).unwrap();
    assert!(!scene.log().contains("locked"), "{}", scene.log());
}
