//! Goal: a backup that is damaged is known as one, is in nobody's way, and is mended by a new snapshot. Method: bytes of files in the
//! store are overwritten under the real binary.

use std::path::{Path, PathBuf};

use litekeep_testkit::Process;
use litekeep_testkit::process::eventually;
use rusqlite::Connection;

use crate::scene::LONG;
use crate::{Place, Ran, rows, shapes};

/// Overwrites the middle of the snapshot of a backup.
fn damage_snapshot(backup: &Path) -> PathBuf {
    let mut files = std::fs::read_dir(backup.join("ltx/9")).unwrap().map(|entry| entry.unwrap().path());
    let path = files.next().unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 4].iter_mut().for_each(|byte| *byte ^= 0xff);
    std::fs::write(&path, bytes).unwrap();
    path
}

/// Two databases, the first with two backups, all of it shipped.
fn place() -> Place {
    let place = Place::new();
    place.database("app.db", 100);
    place.database("z.db", 10);
    let config = "[[database]]\npath = \"app.db\"\nbackup = [\"b1\", \"b2\"]\n[[database]]\npath = \"z.db\"\nbackup = \"bz\"\n";
    std::fs::write(place.path("litekeep.toml"), config).unwrap();
    place.run(&["replicate", "-once"]).succeeded();
    place
}

#[test]
fn a_backup_that_cannot_be_restored_is_red_and_keeps_no_other_from_its_proof() {
    let place = place();
    place.run(&["verify"]).succeeded();
    damage_snapshot(&place.path("b1"));
    let verified = place.run(&["verify", "--json"]);
    assert_eq!(verified.code, 1, "{}", verified.stderr);
    let verified = verified.json();
    shapes::matches("verify", &verified);
    let proven: Vec<bool> =
        verified["backups"].as_array().unwrap().iter().map(|backup| backup["proven"] == true).collect();
    assert_eq!(proven, [false, true, true], "{verified:#}");
    let reason = verified["backups"][0]["reason"].as_str().unwrap();
    assert!(reason.starts_with("it cannot be restored: "), "{reason}");
    let status = place.run(&["status"]);
    assert_eq!(status.code, 1, "{}", status.stdout);
    assert!(
        status.stdout.contains("b1") && status.stdout.contains("it cannot be restored"),
        "{}",
        status.stdout
    );
    // A database that is not there is an error, and the others are proven all the same.
    std::fs::remove_file(place.path("z.db")).unwrap();
    let verified = place.run(&["verify"]);
    assert_eq!(verified.code, 2, "{}", verified.stderr);
    assert!(
        verified.stdout.contains("proven: app.db from") && verified.stderr.contains("z.db"),
        "{}",
        verified.stdout
    );
}

#[test]
fn another_backup_that_has_as_much_takes_its_place() {
    let place = place();
    damage_snapshot(&place.path("b1"));
    let restored = place.run(&["restore", "app.db", "-o", "x.db"]).succeeded();
    assert!(restored.stderr.contains("b1` is of no use"), "{}", restored.stderr);
    let rows = |file: &str| -> i64 {
        let db = Connection::open(place.path(file)).unwrap();
        db.query_row("SELECT count(*) FROM t", (), |row| row.get(0)).unwrap()
    };
    assert_eq!(rows("x.db"), 100);
    for file in ["app.db", "app.db-wal", "app.db-shm"] {
        let _ = std::fs::remove_file(place.path(file));
    }
    let ran = place.run(&["run", "app.db", "--", "echo", "runs"]).succeeded();
    assert!(ran.stdout.contains("runs"), "{}", ran.stdout);
    assert_eq!(rows("app.db"), 100);
    // Nothing is restored by itself from one that has less.
    for file in ["app.db", "app.db-wal", "app.db-shm"] {
        let _ = std::fs::remove_file(place.path(file));
    }
    damage_snapshot(&place.path("b2"));
    let refused = place.run(&["run", "app.db", "--", "echo", "runs"]);
    assert!(!refused.stdout.contains("runs"), "{}", refused.stdout);
    refused.failed_with(&["each of its backups can be restored by itself", "`litekeep restore -o app.db "]);
}

/// Pages of a large file come one by one: whoever reads them sees what was written, or an error that names the file. With the
/// checksums that are kept beside it, and where those are missing or not its own.
#[test]
fn nothing_of_a_damaged_file_is_shown_or_written_into_the_database() {
    let place = Place::new();
    let app = Connection::open(place.path("app.db")).unwrap();
    app.execute_batch(
        "PRAGMA journal_mode=WAL; CREATE TABLE t(id INTEGER PRIMARY KEY, x BLOB);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<400)
           INSERT INTO t SELECT i, randomblob(3000) FROM n",
    )
    .unwrap();
    let row = || app.query_row("SELECT x FROM t WHERE id = 105", (), |row| row.get::<_, Vec<u8>>(0));
    let replicate = || place.run(&["replicate", "-once", "app.db"]).succeeded();
    replicate();
    let blob = row().unwrap();
    app.execute("DELETE FROM t WHERE id BETWEEN 100 AND 110", ()).unwrap();
    replicate();
    let only = |folder: &str| {
        let entries = std::fs::read_dir(place.path("app.db-backup").join(folder)).unwrap();
        let paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        assert_eq!(paths.len(), 1, "{paths:?}");
        paths.into_iter().next().unwrap()
    };
    let (snapshot, record) = (only("ltx/9"), only("litekeep/checksums"));
    let (whole, checksums) = (std::fs::read(&snapshot).unwrap(), std::fs::read(&record).unwrap());
    // Random bytes stand in the file as they are.
    let at = whole.windows(16).position(|window| window == &blob[1000..1016]).unwrap();
    let mut damaged = whole.clone();
    damaged[at] ^= 1;
    let name = snapshot.file_name().unwrap().to_str().unwrap();
    let readers = [
        &["diff", "app.db", "--from", "1"][..],
        &["diff", "app.db", "--from", "1", "--json"],
        &["diff", "app.db", "--from", "1", "--undo-sql"],
        &["changes", "app.db", "--from", "1"],
        &["changes", "app.db", "--from", "1", "--to", "events.jsonl", "--position", "position"],
        &["history", "app.db", "--rows"],
    ];
    let writers = [
        &["undo", "app.db", "--from", "1", "--yes"][..],
        &["restore", "app.db", "--table", "t", "-txid", "1", "--yes"],
    ];
    let not_its_own = [&[0; 8], &checksums[8..]].concat();
    for beside in [Some(&checksums), None, Some(&not_its_own)] {
        match beside {
            Some(bytes) => std::fs::write(&record, bytes).unwrap(),
            None => std::fs::remove_file(&record).unwrap(),
        }
        std::fs::write(&snapshot, &damaged).unwrap();
        for command in readers {
            let Ran { code, stdout, stderr } = place.run(command);
            assert!(
                code == 2 && stderr.contains("checksum mismatch") && stderr.contains(name),
                "{command:?}: {stderr}"
            );
            assert!(!stdout.contains("COMMIT;"), "what was printed has no effect: {stdout}");
        }
        for command in writers {
            place.run(command).failed_with(&["checksum mismatch", name, "nothing was changed"]);
        }
        assert_eq!(rows(&place.path("app.db")), 389);
        std::fs::write(&snapshot, &whole).unwrap();
        for command in readers {
            place.run(command).succeeded();
            let _ = std::fs::remove_file(place.path("position"));
            let _ = std::fs::remove_file(place.path("events.jsonl"));
        }
    }
    place.run(writers[1]).succeeded();
    assert!(row().unwrap() == blob);
}

#[test]
fn the_end_of_what_is_damaged_is_a_new_snapshot() {
    let place = Place::new();
    place.database("app.db", 100);
    let config = "[[database]]\npath = \"app.db\"\nbackup = \"b\"\nsnapshot_every = \"1s\"\n";
    std::fs::write(place.path("litekeep.toml"), config).unwrap();
    place.run(&["replicate", "-once"]).succeeded();
    let damaged = damage_snapshot(&place.path("b"));
    let app = Connection::open(place.path("app.db")).unwrap();
    let litekeep = Process::start(place.command(&["replicate"]), &place.path("log")).unwrap();
    eventually("a new snapshot", LONG, || {
        app.execute("INSERT INTO t (x) VALUES ('more')", ())?;
        std::thread::sleep(std::time::Duration::from_millis(200));
        let snapshots = std::fs::read_dir(place.path("b/ltx/9"))?.count();
        Ok(snapshots > 1)
    })
    .unwrap();
    let rows: i64 = app.query_row("SELECT count(*) FROM t", (), |row| row.get(0)).unwrap();
    litekeep.terminate(LONG).unwrap();
    assert!(damaged.exists(), "it is left as it is");
    place.run(&["restore", "app.db", "-o", "x.db"]).succeeded();
    let restored = Connection::open(place.path("x.db")).unwrap();
    assert_eq!(restored.query_row("SELECT count(*) FROM t", (), |row| row.get::<_, i64>(0)).unwrap(), rows);
}

#[test]
fn what_is_left_of_a_file_is_a_gap() {
    let place = Place::new();
    place.database("app.db", 1);
    let app = Connection::open(place.path("app.db")).unwrap();
    for _ in 0..3 {
        app.execute("INSERT INTO t (x) VALUES ('more')", ()).unwrap();
        place.run(&["replicate", "-once", "app.db", "b"]).succeeded();
    }
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(place.path("b/ltx/0")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    std::fs::write(&files[files.len() - 2], b"").unwrap();
    let history = place.run(&["history", "b"]);
    assert!(history.stdout.to_lowercase().contains("gap"), "{}", history.stdout);
}

#[test]
fn a_link_to_a_database_is_named_with_what_it_leads_to() {
    let place = Place::new();
    std::fs::create_dir(place.path("data")).unwrap();
    place.database("data/real.db", 1);
    std::os::unix::fs::symlink("data/real.db", place.path("app.db")).unwrap();
    let words = ["`app.db` is a symbolic link", "data/real.db` instead"];
    place.run(&["replicate", "-once", "app.db", "b"]).failed_with(&words);
    place.run(&["run", "app.db", "--", "true"]).failed_with(&words);
    place.run(&["init", "app.db"]).failed_with(&words);
}
