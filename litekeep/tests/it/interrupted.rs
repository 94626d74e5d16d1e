//! Goal: what is ended leaves nothing behind, what a killed one has left goes with the next, and one at work is left alone.
//! Method: the real binary is ended by signals while a slow bucket keeps it at work.

use std::time::Duration;

use litekeep_testkit::Process;
use litekeep_testkit::process::eventually;
use rusqlite::Connection;

use crate::scene::{LONG, Scene, Store};

/// A database with a backup that takes its time from here on.
fn slow(keys: &str) -> Scene {
    let scene = Scene::new(Store::Proxied, keys);
    let app = Connection::open(scene.db()).unwrap();
    app.execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES(randomblob(100000))")
        .unwrap();
    scene.replicate_once().unwrap();
    scene.proxy().delay(Duration::from_secs(1), Duration::ZERO);
    scene
}

/// What is beside the database that has this in its name.
fn left(scene: &Scene, mark: &str) -> Vec<String> {
    let names = std::fs::read_dir(scene.dir()).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|name| name.contains(mark)).collect();
    names.sort();
    names
}

/// Starts it and waits until it has made so many of these, without those of before.
fn started(scene: &Scene, arguments: &[&str], mark: &str, count: usize) -> (Process, Vec<String>) {
    let before = left(scene, mark);
    let process = scene.start(arguments).unwrap();
    eventually("it is at work", LONG, || {
        let now = left(scene, mark);
        Ok(now.len() == count && now.iter().any(|name| !before.contains(name)))
    })
    .unwrap();
    (process, left(scene, mark))
}

fn is_ended_by_a_signal(scene: &Scene, arguments: &[&str], mark: &str) {
    let (process, _) = started(scene, arguments, mark, 1);
    assert_eq!(process.terminate(LONG).unwrap().code(), Some(2), "{}", scene.log());
    assert_eq!(left(scene, mark), [""; 0], "{}", scene.log());
    assert!(scene.log().contains("it was interrupted"), "{}", scene.log());
}

#[test]
fn a_restore_that_is_ended_leaves_nothing() {
    let scene = slow("");
    let (mark, restore) = (".restoring-", ["restore", "app.db", "-o", "back.db"]);
    is_ended_by_a_signal(&scene, &restore, mark);
    assert!(!scene.place.path("back.db").exists());
    let (killed, left_over) = started(&scene, &restore, mark, 1);
    killed.kill().unwrap();
    assert_eq!(left(&scene, mark), left_over);
    let restores = [restore, ["restore", "app.db", "-o", "other.db"]];
    let mut processes = restores.map(|arguments| scene.start(&arguments).unwrap());
    eventually("both are at work", LONG, || {
        let now = left(&scene, mark);
        Ok(now.len() == 2 && !now.contains(&left_over[0]))
    })
    .unwrap();
    for process in &mut processes {
        assert!(process.wait(LONG).unwrap().success(), "{}", scene.log());
    }
    assert_eq!(left(&scene, mark), [""; 0]);
}

#[test]
fn a_verification_that_is_ended_leaves_nothing() {
    let scene = slow("");
    let (mark, verify) = (".litekeep-verify-", ["verify", "app.db"]);
    is_ended_by_a_signal(&scene, &verify, mark);
    let (killed, left_over) = started(&scene, &verify, mark, 1);
    killed.kill().unwrap();
    assert_eq!(left(&scene, mark), left_over);
    let (mut first, its) = started(&scene, &verify, mark, 1);
    assert_ne!(its, left_over);
    let (mut second, both) = started(&scene, &verify, mark, 2);
    assert!(both.contains(&its[0]), "{both:?}");
    for process in [&mut first, &mut second] {
        assert!(process.wait(LONG).unwrap().success(), "{}", scene.log());
    }
    assert_eq!(left(&scene, mark), [""; 0]);
}

/// It was killed, and its scratch copy of the database stayed for ever.
#[test]
fn a_verification_on_schedule_ends_with_the_replicator() {
    let scene = slow("verify = { every = \"1s\" }");
    let (replicator, _) = started(&scene, &["replicate"], ".litekeep-verify-", 1);
    scene.stop(replicator).unwrap();
    eventually("its scratch folder is gone", LONG, || Ok(left(&scene, ".litekeep-verify-").is_empty()))
        .unwrap();
}
