//! Goal: the state before an `up` comes back, and nobody loses later writes without being told. Method: a real replicator beside
//! a real application.

use litekeep_testkit::Process;
use litekeep_testkit::process::eventually;
use rusqlite::Connection;

use crate::scene::{LONG, Scene, Store};
use crate::shapes::matches;
use crate::{Ran, rows};

/// A database with three rows and a migration that deletes them, replicated.
pub(super) fn scene() -> Scene {
    let scene = Scene::new(Store::Folder, "");
    scene.place.database("app.db", 3);
    std::fs::create_dir(scene.place.path("migrations")).unwrap();
    let delete = "-- migrate:up\nDELETE FROM t;\nCREATE TABLE more(x);\n";
    std::fs::write(scene.place.path("migrations/1_delete.sql"), delete).unwrap();
    scene
}

fn run(scene: &Scene, arguments: &[&str]) -> Ran {
    Ran::of(scene.command(arguments))
}

/// A replicator that has everything.
pub(super) fn replicate(scene: &Scene) -> Process {
    let litekeep = scene.replicate().unwrap();
    let has_it = || Ok(scene.status()?["replicator_pid"].is_number() && scene.confirmed()?.is_some());
    eventually("it replicates, and the first snapshot is there", LONG, has_it).unwrap();
    litekeep
}

fn app(scene: &Scene) -> Connection {
    Connection::open(scene.db()).unwrap()
}

#[test]
fn the_state_before_up_comes_back() {
    let scene = scene();
    let litekeep = replicate(&scene);
    // Not in the backup yet when `up` begins.
    app(&scene).execute_batch("INSERT INTO t(x) VALUES('last')").unwrap();
    run(&scene, &["migrate", "up", "app.db"]).succeeded();
    assert_eq!(rows(&scene.db()), 0);
    let status = run(&scene, &["migrate", "status", "app.db", "--json"]).succeeded().json();
    matches("migrate-status", &status);
    assert!(status["marks"][0]["txid"].is_string() && status["marks"][0]["end"].is_string(), "{status:#}");
    let in_use = run(&scene, &["migrate", "undo", "app.db", "--yes"]);
    in_use.failed_with(&["has it open"]);
    scene.stop(litekeep).unwrap();
    // Nothing came after, so nobody is asked.
    let undone = run(&scene, &["migrate", "undo", "app.db", "--json"]).succeeded().json();
    matches("migrate-undo", &undone);
    assert_eq!(
        (&undone["txid"], &undone["lost"]["transactions"]),
        (&status["marks"][0]["txid"], &0.into()),
        "{undone:#}"
    );
    assert_eq!(rows(&scene.db()), 4);
    assert_eq!(run(&scene, &["migrate", "status", "app.db"]).code, 1, "it is pending again");
    assert_eq!(rows(&scene.place.path(undone["kept_aside"].as_str().unwrap())), 0, "the former database");
    run(&scene, &["migrate", "undo", "app.db"]).failed_with(&["no `up` has left a mark", "litekeep history"]);
    // The backup goes on with what is there now.
    scene.replicate_once().unwrap();
    scene.prove_equal_pages().unwrap();
}

/// The copy was an older state without a word.
#[test]
fn a_rehearsal_says_when_the_backup_is_behind() {
    let scene = scene();
    scene.replicate_once().unwrap();
    let is_behind = || {
        let ran = run(&scene, &["migrate", "rehearse", "app.db"]).succeeded();
        ran.stderr.contains("the copy is an older state than the database")
    };
    assert!(!is_behind());
    app(&scene).execute_batch("PRAGMA journal_mode=wal; INSERT INTO t(x) VALUES('last')").unwrap();
    assert!(is_behind());
    // With a replicator it is waited for.
    let litekeep = replicate(&scene);
    app(&scene).execute_batch("INSERT INTO t(x) VALUES('more')").unwrap();
    assert!(!is_behind());
    scene.stop(litekeep).unwrap();
}

/// In a real terminal.
#[test]
fn undo_asks_whoever_sits_there() {
    let scene = scene();
    let litekeep = replicate(&scene);
    run(&scene, &["migrate", "up", "app.db"]).succeeded();
    app(&scene).execute_batch("INSERT INTO t(x) VALUES('later')").unwrap();
    scene.stop(litekeep).unwrap();
    let answer = |answer: &str| {
        let mut terminal = std::process::Command::new("script");
        let command = format!("{} migrate undo app.db", env!("CARGO_BIN_EXE_litekeep"));
        terminal.args(["-qec", &command, "/dev/null"]).current_dir(scene.dir());
        let pipe = std::process::Stdio::piped;
        let mut terminal = terminal.stdin(pipe()).stdout(pipe()).spawn().expect("script of util-linux");
        std::io::Write::write_all(terminal.stdin.as_mut().unwrap(), format!("{answer}\n").as_bytes())
            .unwrap();
        // What it prints comes through the terminal; its end is that of the command.
        let output = terminal.wait_with_output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (code, said) = answer("n");
    assert!(code == Some(2) && said.contains("1 later transactions of the backup are lost"), "{said}");
    assert!(said.contains("go on? [y/N]") && rows(&scene.db()) == 1, "{said}");
    let (code, said) = answer("y");
    assert!(code == Some(0) && said.contains("is as after transaction") && rows(&scene.db()) == 3, "{said}");
}

#[test]
fn later_writes_are_named_and_need_a_yes() {
    let scene = scene();
    let litekeep = replicate(&scene);
    run(&scene, &["migrate", "up", "app.db"]).succeeded();
    app(&scene).execute_batch("INSERT INTO t(x) VALUES('later')").unwrap();
    scene.stop(litekeep).unwrap();
    let refused = run(&scene, &["migrate", "undo", "app.db"]);
    refused.failed_with(&["1 later transactions of the backup are lost, at 20", "--yes"]);
    assert_eq!(rows(&scene.db()), 1);
    app(&scene).execute_batch("INSERT INTO t(x) VALUES('unsaved')").unwrap();
    let refused = run(&scene, &["migrate", "undo", "app.db"]);
    refused.failed_with(&["commits that are not in the backup"]);
    let undone = run(&scene, &["migrate", "undo", "app.db", "--yes", "--json"]).succeeded().json();
    assert_eq!(undone["lost"]["transactions"], 1, "{undone:#}");
    assert_eq!(rows(&scene.db()), 3);
}

#[test]
fn without_a_replicator_the_mark_says_that_there_is_no_way_back() {
    let scene = scene();
    run(&scene, &["migrate", "up", "app.db"]).succeeded();
    let status = run(&scene, &["migrate", "status", "app.db"]).succeeded().stdout;
    assert!(status.contains("there is no way back to before it: no replicator ran"), "{status}");
    run(&scene, &["migrate", "undo", "app.db", "--yes"])
        .failed_with(&["no replicator ran", "litekeep history"]);
    assert_eq!(rows(&scene.db()), 0);
}

/// Each failing `up` left a mark, so that `undo` went back to before it instead of to before the last one that changed something; and a
/// service manager that tries again had pushed that mark out after twenty.
#[test]
fn a_failing_up_leaves_no_mark() {
    let scene = scene();
    let litekeep = replicate(&scene);
    run(&scene, &["migrate", "up", "app.db"]).succeeded();
    let marks = || {
        let status = run(&scene, &["migrate", "status", "app.db", "--json"]).json();
        status["marks"].as_array().unwrap().clone()
    };
    let good = marks();
    assert_eq!(good.len(), 1);
    let bad = scene.place.path("migrations/2_bad.sql");
    std::fs::write(&bad, "-- migrate:up\nDELETE FROM nowhere;\n").unwrap();
    run(&scene, &["migrate", "up", "app.db"]).failed_with(&["no such table: nowhere"]);
    let fleet = run(&scene, &["migrate", "up", "--all", "--dir", "migrations"]);
    assert!(fleet.code == 1 && fleet.stderr.contains("no such table: nowhere"), "{}", fleet.stderr);
    assert_eq!(marks(), good);
    scene.stop(litekeep).unwrap();
    run(&scene, &["migrate", "undo", "app.db", "--yes"]).succeeded();
    assert_eq!(rows(&scene.db()), 3, "the state before the first one");
}

/// One that has run is to be undone, whatever comes after it.
#[test]
fn an_up_that_fails_in_its_second_file_leaves_its_mark() {
    let scene = scene();
    let litekeep = replicate(&scene);
    std::fs::write(scene.place.path("migrations/2_bad.sql"), "-- migrate:up\nDELETE FROM nowhere;\n")
        .unwrap();
    run(&scene, &["migrate", "up", "app.db"]);
    assert_eq!(rows(&scene.db()), 0, "the first file has run");
    run(&scene, &["migrate", "up", "app.db"]).failed_with(&["no such table: nowhere"]);
    scene.stop(litekeep).unwrap();
    run(&scene, &["migrate", "undo", "app.db", "--yes"]).succeeded();
    assert_eq!(rows(&scene.db()), 3);
}

/// The write lock is held while the mark is made: no commit comes between it and the migration.
#[test]
fn what_is_written_until_the_migration_begins_is_in_the_mark() {
    let scene = scene();
    let litekeep = replicate(&scene);
    let stop = std::sync::atomic::AtomicBool::new(false);
    let path = scene.db();
    // The migration may begin before the writer does.
    app(&scene).execute_batch("CREATE TABLE log(n)").unwrap();
    let written = std::thread::scope(|threads| {
        let writer = threads.spawn(|| {
            let (app, mut written) = (Connection::open(&path).unwrap(), 0);
            app.busy_timeout(LONG).unwrap();
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                app.execute("INSERT INTO log SELECT count(*) FROM t", []).unwrap();
                written += 1;
                // Whoever waits for the lock gets it between two commits only by chance.
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            written
        });
        run(&scene, &["migrate", "up", "app.db"]).succeeded();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        writer.join().unwrap()
    });
    // Rows that were written before the migration saw three rows in the other table, those after it none.
    let before: i64 =
        app(&scene).query_row("SELECT count(*) FROM log WHERE n = 3", [], |row| row.get(0)).unwrap();
    assert!(written > 0);
    scene.stop(litekeep).unwrap();
    run(&scene, &["migrate", "undo", "app.db", "--yes"]).succeeded();
    let restored: i64 = app(&scene).query_row("SELECT count(*) FROM log", [], |row| row.get(0)).unwrap();
    assert_eq!(restored, before);
    assert_eq!(rows(&scene.db()), 3);
}
