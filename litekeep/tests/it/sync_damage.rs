//! Goal: what is damaged in one backup comes from another, by one run of a sync. Method: the real binary with two folders, of which the first has each file
//! that is new with a byte otherwise.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use litekeep_testkit::postgres::Postgres;
use rusqlite::Connection;

use crate::scene::Scene;
use crate::sync::{Server as _, rows_here, scene_with};

fn files(folder: &Path) -> BTreeSet<PathBuf> {
    let mut all = BTreeSet::new();
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        match entry.path() {
            path if path.is_dir() => all.extend(files(&path)),
            path => _ = all.insert(path),
        }
    }
    all
}

/// Commits something, and damages what the first backup has of it.
fn commit(scene: &Scene, n: u32) {
    let db = Connection::open(scene.db()).unwrap();
    let before = files(&scene.objects());
    db.execute_batch(&format!("INSERT INTO t VALUES ({n}, {n}); INSERT INTO log(what) VALUES ('{n}')"))
        .unwrap();
    scene.replicate_once().unwrap();
    let new: Vec<PathBuf> = files(&scene.objects()).difference(&before).cloned().collect();
    assert!(!new.is_empty());
    for path in new {
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(path, bytes).unwrap();
    }
}

fn goes_on(more: &str) {
    let server = Postgres::start().unwrap();
    let scene = scene_with(&server.url("postgres"), more);
    let path = scene.place.path("litekeep.toml");
    let other = format!("file://{}", scene.place.path("other").display());
    let toml = std::fs::read_to_string(&path).unwrap();
    let two = toml.replace(&format!("{:?}", scene.url()), &format!("[{:?}, {other:?}]", scene.url()));
    assert_ne!(toml, two);
    std::fs::write(path, two).unwrap();
    scene.replicate_once().unwrap();
    scene.place.run(&["sync", "run"]).succeeded();
    commit(&scene, 2);
    let ran = scene.place.run(&["sync", "run"]).succeeded();
    assert!(ran.stderr.contains("goes on with what another backup has"), "{}", ran.stderr);
    assert_eq!(server.rows(), rows_here(&scene));
}

/// A push stopped at a damaged file, though another backup had the same whole.
#[test]
fn a_push_takes_what_is_damaged_in_one_backup_from_another() {
    goes_on("");
}

/// The same both ways.
#[test]
fn both_ways_what_is_damaged_in_one_backup_comes_from_another() {
    goes_on("direction = \"both\"\ntables = [\"t\"]\n");
}
