//! What keeps a copy from going on, or from being made.

use std::os::unix::fs::PermissionsExt;

use litekeep_ltx::{Pgno, page_checksum};
use litekeep_replicate::local::{MetaDir, PageSums};
use litekeep_testkit::process::eventually;

use super::{LONG, Replica};
use crate::Place;
use crate::scene::{Scene, Store};
use crate::shapes;

fn replicated(rows: u32) -> Scene {
    let scene = Scene::new(Store::Folder, "");
    scene.place.database("app.db", rows);
    scene.replicate_once().unwrap();
    scene
}

#[test]
fn what_somebody_else_writes_ends_the_following_and_stays() {
    let scene = replicated(20);
    let replica = Replica::of(&scene);
    let mut follower = replica.start().unwrap();
    replica.level(&mut follower).unwrap();
    // A checkpoint of a reader is no writing.
    replica.connection().execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    scene.place.database("app.db", 20);
    scene.replicate_once().unwrap();
    replica.level(&mut follower).unwrap();
    replica.connection().execute("UPDATE t SET x = 'theirs' WHERE n = 7", []).unwrap();
    let ended = follower.wait(LONG).unwrap();
    assert_eq!(ended.code(), Some(2), "{}", replica.log());
    for part in ["somebody else has written to the replica", "of its pages", "--force` keeps it aside"] {
        assert!(replica.log().contains(part), "`{part}` is not in:\n{}", replica.log());
    }
    let (code, status) = replica.status().unwrap();
    let red = status["replica"]["red"][0].as_str().unwrap();
    assert!(code == 1 && red.starts_with("refused") && red.contains("--force"), "{status:#}");
    shapes::matches("status-replica", &status);
    // Nor does the next one overwrite it.
    scene.place.database("app.db", 20);
    scene.replicate_once().unwrap();
    let refused = replica.run(&["--once", "--json"]);
    assert_eq!(refused.json_error()["kind"], "invalid");
    let theirs = || -> String {
        replica.connection().query_row("SELECT x FROM t WHERE n = 7", [], |row| row.get(0)).unwrap()
    };
    assert_eq!(theirs(), "theirs");
    replica.run(&["--once", "--force", "--verify"]).succeeded();
    assert_ne!(theirs(), "theirs");
    let kept = std::fs::read_dir(scene.dir()).unwrap().flatten().map(|entry| entry.path());
    let kept =
        kept.into_iter().find(|path| path.to_string_lossy().contains("replica.db.before-restore-")).unwrap();
    let x: String = rusqlite::Connection::open(kept)
        .unwrap()
        .query_row("SELECT x FROM t WHERE n = 7", [], |row| row.get(0))
        .unwrap();
    assert_eq!(x, "theirs", "what they wrote is kept");
    assert_eq!(replica.status().unwrap().1["replica"]["red"].to_string().matches("refused").count(), 0);
}

#[test]
fn what_somebody_writes_while_nobody_follows_is_found_at_the_start() {
    let scene = replicated(20);
    let replica = Replica::of(&scene);
    replica.run(&["--once"]).succeeded();
    replica.run(&["--once"]).succeeded();
    for change in ["PRAGMA user_version = 7", "PRAGMA user_version = 0; INSERT INTO t (x) VALUES ('theirs')"]
    {
        replica.connection().execute_batch(change).unwrap();
        replica.run(&["--once"]).failed_with(&["somebody else has written to the replica"]);
    }
    replica.connection().execute_batch("DELETE FROM t WHERE x = 'theirs'").unwrap();
    // The same rows, and not the same pages.
    replica.run(&["--once"]).failed_with(&["somebody else has written to the replica"]);
}

#[test]
fn another_log_is_not_taken_for_the_former_one() {
    let scene = replicated(20);
    let replica = Replica::of(&scene);
    scene.place.database("app.db", 20);
    scene.replicate_once().unwrap();
    replica.run(&["--once"]).succeeded();
    let reader = replica.connection();
    let count = || reader.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0)).unwrap();
    let begin_anew = |transactions: u32| {
        std::fs::remove_dir_all(scene.objects()).unwrap();
        std::fs::remove_dir_all(scene.place.path(".app.db-litekeep")).unwrap();
        for suffix in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(scene.place.path(&format!("app.db{suffix}")));
        }
        for _ in 0..transactions {
            scene.place.database("app.db", 5);
            scene.replicate_once().unwrap();
        }
    };
    let txid = u32::from_str_radix(&replica.txid().unwrap(), 16).unwrap();
    // One that is shorter, one that has a transaction of the same number, one that has gone beyond that.
    for transactions in [1, txid, txid + 3] {
        begin_anew(transactions);
        replica.run(&["--once"]).failed_with(&["is another one than before", "--new-timeline"]);
        assert_eq!(count(), 40);
    }
    let (code, status) = replica.status().unwrap();
    assert!(code == 1 && status["replica"]["red"].to_string().contains("--new-timeline"), "{status:#}");
    replica.run(&["--once", "--new-timeline", "--verify"]).succeeded();
    assert_eq!(count(), i64::from(5 * (txid + 3)), "the connection that was open goes over");
    replica.prove().unwrap();
    scene.place.database("app.db", 5);
    scene.replicate_once().unwrap();
    replica.run(&["--once", "--verify"]).succeeded();
    // The log is exchanged while it is followed.
    let mut follower = replica.start().unwrap();
    let follows = || Ok(replica.log().contains("has transaction"));
    eventually("it follows", LONG, follows).unwrap();
    begin_anew(txid + 12);
    assert_eq!(follower.wait(LONG).unwrap().code(), Some(2), "{}", replica.log());
    assert!(replica.log().contains("is another one than before"), "{}", replica.log());
    replica.connection().query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0)).unwrap();
}

#[test]
fn what_is_not_a_replica_is_left_alone() {
    let scene = replicated(20);
    let place = &scene.place;
    let url = scene.url();
    let follow = |output: &str| place.run(&["follow", &url, "-o", output, "--once"]);
    place.database("other.db", 3);
    follow("other.db").failed_with(&["a file is at `other.db` already, and it is no replica", "--force"]);
    follow("app.db").failed_with(&["`app.db` is a database of", "name another file"]);
    std::fs::remove_file(place.path("litekeep.toml")).unwrap();
    follow("app.db").failed_with(&["`app.db` is a database that litekeep replicates", "name another file"]);
    place
        .run(&["follow", &url, "-o", "app.db", "--once", "--force"])
        .failed_with(&["that litekeep replicates"]);
    follow(".").failed_with(&["is a folder"]);
    let nowhere = place.path("nowhere");
    let nowhere = nowhere.to_str().unwrap();
    place
        .run(&["follow", &format!("file://{nowhere}"), "-o", "replica.db"])
        .failed_with(&["follow `file://", "check the URL"]);
    assert!(!place.path(".replica.db-litekeep").exists() && !place.path("replica.db").exists());
    follow("/proc/replica.db").failed_with(&["/proc/.replica.db-litekeep"]);
    place.run(&["follow", &url]).failed_with(&["--output"]);
    place.run(&["follow", &url, "-o", "replica.db", "--onse"]).failed_with(&["--onse"]);
    place.run(&["follow", &url, "-o", "replica.db", "--verify"]).failed_with(&["--once"]);
    follow("replica.db").succeeded();
    // Others read it.
    let mode = place.path("replica.db").metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o644);
    place.run(&["follow", &url, "-o", "other.db", "--once", "--force"]).succeeded();
}

#[test]
fn a_second_follower_and_a_replicator_are_refused() {
    let scene = replicated(20);
    let replica = Replica::of(&scene);
    let mut follower = replica.start().unwrap();
    replica.level(&mut follower).unwrap();
    let pid = format!("process {}", follower.id());
    replica.run(&["--once"]).failed_with(&["already replicates or follows", &pid]);
    let path = replica.path.to_str().unwrap();
    let elsewhere = scene.place.path("elsewhere");
    let elsewhere = elsewhere.to_str().unwrap();
    std::fs::remove_file(scene.place.path("litekeep.toml")).unwrap();
    let replicate = scene.place.run(&["replicate", path, elsewhere, "-once"]);
    assert_eq!(replicate.code, 2, "{}{}", replicate.stdout, replicate.stderr);
    assert!(replicate.stderr.contains(&pid), "{}", replicate.stderr);
    let (code, status) = replica.status().unwrap();
    assert!(code == 0 && status["replica"]["follower_pid"] == follower.id(), "{status:#}");
    // The file is taken away.
    std::fs::rename(&replica.path, scene.place.path("away.db")).unwrap();
    assert_eq!(follower.wait(LONG).unwrap().code(), Some(2), "{}", replica.log());
    assert!(replica.log().contains("is gone while it was followed"), "{}", replica.log());
    replica.run(&["--once", "--verify"]).succeeded();
}

#[test]
fn what_it_prints_has_the_documented_shapes() {
    let scene = replicated(20);
    let replica = Replica::of(&scene);
    let lines = |ran: crate::Ran| -> Vec<serde_json::Value> {
        ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let begun = lines(replica.run(&["--once", "--json", "--verify"]).succeeded());
    assert_eq!(begun.len(), 2, "{begun:#?}");
    shapes::matches("follow", &begun[0]);
    shapes::matches("follow-verify", &begun[1]);
    scene.place.database("app.db", 20);
    scene.replicate_once().unwrap();
    let gone_on = lines(replica.run(&["--once", "--json"]).succeeded());
    let last = gone_on.last().unwrap();
    shapes::matches("follow", last);
    assert!(last["transactions"].as_u64().unwrap() >= 1 && last["steps"] == 1, "{gone_on:#?}");
    shapes::matches("status-replica", &replica.status().unwrap().1);
    let place = Place::new();
    let status = place.run(&["status", "nothing.db"]);
    assert_eq!(status.code, 2, "no replica is no replica: {}{}", status.stdout, status.stderr);
}

/// The checksums beside the file say what it must be, and the backup says it again.
#[test]
fn a_proof_asks_the_backup() {
    let scene = replicated(20);
    let replica = Replica::of(&scene);
    replica.run(&["--once", "--verify"]).succeeded();
    let connection = replica.connection();
    connection.execute("UPDATE t SET x = 'theirs' WHERE n = 7", []).unwrap();
    let sums = PageSums::open(&MetaDir::default_path(&replica.path).join("replica-pages")).unwrap();
    let mut pages = connection.prepare("SELECT pgno, data FROM sqlite_dbpage WHERE pgno > 1").unwrap();
    let pages = pages.query_map([], |row| Ok((row.get::<_, u32>(0)?, row.get::<_, Vec<u8>>(1)?))).unwrap();
    let pages: Vec<(Pgno, Vec<u8>)> =
        pages.map(|page| page.map(|(pgno, page)| (Pgno::new(pgno).unwrap(), page)).unwrap()).collect();
    let new: Vec<_> = pages.iter().map(|(pgno, page)| (*pgno, page_checksum(*pgno, page))).collect();
    sums.apply(&new, new.len() as u32 + 1).unwrap();
    let proof = replica.run(&["--once", "--verify", "--json"]);
    assert_eq!(proof.code, 1, "{}{}", proof.stdout, proof.stderr);
    let found: serde_json::Value = serde_json::from_str(proof.stdout.lines().last().unwrap()).unwrap();
    shapes::matches("follow-verify", &found);
    assert!(
        found["proven"] == false && found["reason"].as_str().unwrap().starts_with("1 of its pages"),
        "{found:#}"
    );
    let text = replica.run(&["--once", "--verify"]);
    assert!(text.code == 1 && text.stdout.contains("NOT PROVEN"), "{}{}", text.stdout, text.stderr);
}
