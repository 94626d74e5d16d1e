//! Goal: of a backup or a database that is not where it was, everybody is told what is true and what to do. Method: the
//! real binary, while folders and files are moved away.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use litekeep_testkit::Process;
use litekeep_testkit::process::eventually;
use rusqlite::Connection;

use crate::up::free_port;
use crate::{Place, Ran, rows};

const SOON: Duration = Duration::from_secs(60);

fn remove(place: &Place) {
    for suffix in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(place.path(&format!("app.db{suffix}")));
    }
}

fn insert(place: &Place) {
    Connection::open(place.path("app.db")).unwrap().execute("INSERT INTO t (x) VALUES ('more')", ()).unwrap();
}

fn page(port: u16) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).unwrap();
    page
}

/// A replicator of `app.db` that has everything, and serves its metrics at the port.
fn replicated(place: &Place) -> (Process, u16) {
    place.database("app.db", 3);
    let port = free_port();
    let toml = format!(
        "[[database]]\npath = \"app.db\"\nbackup = \"backup\"\n[metrics]\naddr = \"127.0.0.1:{port}\"\n"
    );
    std::fs::write(place.path("litekeep.toml"), toml).unwrap();
    let replicator = Process::start(place.command(&["replicate"]), &place.path("log")).unwrap();
    eventually("the status is green", SOON, || Ok(place.run(&["status"]).code == 0)).unwrap();
    (replicator, port)
}

/// The application goes on, and nothing is put where the disk is not mounted.
#[test]
fn a_backup_that_is_not_mounted_is_told_and_taken_up_again() {
    let place = Place::new();
    place.database("app.db", 3);
    place.run(&["run", "app.db", "--", "true"]).succeeded();
    std::fs::rename(place.path("app.db-backup"), place.path("away")).unwrap();
    std::fs::write(
        place.path("litekeep.toml"),
        "[[database]]\npath = \"app.db\"\nbackup = \"app.db-backup\"\nshutdown_timeout = \"1s\"\n",
    )
    .unwrap();
    let told = place.run(&["status", "app.db"]);
    assert_eq!(told.code, 1, "{}", told.stdout);
    for part in ["app.db-backup is empty, although transaction", "mount it", "--new-timeline"] {
        assert!(told.stdout.contains(part), "`{part}` is not in:\n{}", told.stdout);
    }
    insert(&place);
    let ran = place.run(&["run", "app.db", "--", "echo", "the application runs"]);
    assert_eq!((ran.code, &*ran.stdout), (2, "the application runs\n"), "{}", ran.stderr);
    Ran { stdout: String::new(), ..ran }.failed_with(&[
        "nothing is left of the log at",
        "mount it",
        "--new-timeline",
    ]);
    assert!(!place.path("app.db-backup").exists());
    std::fs::rename(place.path("away"), place.path("app.db-backup")).unwrap();
    place.run(&["run", "app.db", "--", "true"]).succeeded();
    place.run(&["restore", "-o", "back.db", "app.db-backup"]).succeeded();
    assert_eq!(rows(&place.path("back.db")), 4);
}

/// An application that found none would make an empty one, and what it writes would follow the old backup.
#[test]
fn neither_database_nor_backup_is_no_new_beginning() {
    let place = Place::new();
    place.database("app.db", 3);
    place.run(&["run", "app.db", "--", "true"]).succeeded();
    remove(&place);
    std::fs::rename(place.path("app.db-backup"), place.path("away")).unwrap();
    let ran = place.run(&["run", "app.db", "--", "touch", "started"]);
    ran.failed_with(&["bring back `app.db`", "nothing is left of the log at", "mount it", "--new-timeline"]);
    assert!(!place.path("started").exists());
    place.run(&["run", "app.db", "--new-timeline", "--", "touch", "started"]).succeeded();
    assert!(place.path("started").exists());
    std::fs::rename(place.path("away"), place.path("app.db-backup")).unwrap();
    place.run(&["run", "app.db", "--", "true"]).succeeded();
    assert_eq!(rows(&place.path("app.db")), 3);
}

/// One that rests holds nothing but locks on the file.
#[test]
fn a_database_that_is_deleted_while_it_is_replicated_is_missed() {
    let place = Place::new();
    let (replicator, port) = replicated(&place);
    let up = |value: &str| {
        page(port).lines().any(|line| line.starts_with("litekeep_up{") && line.ends_with(value))
    };
    assert!(up(" 1"));
    // It rests: nothing but locks on the file says that it is there.
    remove(&place);
    eventually("it is missed", SOON, || Ok(up(" 0"))).unwrap();
    let told = place.run(&["status"]);
    assert_eq!(told.code, 1, "{}", told.stdout);
    let pid = format!("process {}", replicator.id());
    for part in ["the database file is gone", &pid, "`litekeep restore", "transactions up to"] {
        assert!(told.stdout.contains(part), "`{part}` is not in:\n{}", told.stdout);
    }
    assert!(!told.stdout.contains("no replicator is running"), "{}", told.stdout);
    place.run(&["restore", "app.db"]).succeeded();
    eventually("it is replicated again", SOON, || Ok(place.run(&["status"]).code == 0)).unwrap();
    assert!(up(" 1"));
    replicator.kill().unwrap();
}

/// Local state is about the place that was written to last.
#[test]
fn what_went_to_another_backup_is_not_missed_in_the_configured_one() {
    let place = Place::new();
    place.database("app.db", 3);
    place.run(&["init", "app.db"]).succeeded();
    place.run(&["replicate", "-once"]).succeeded();
    insert(&place);
    let other = format!("file://{}", place.path("other").display());
    place.run(&["replicate", "-once", "app.db", &other]).succeeded();
    let told = place.run(&["status"]).stdout;
    assert!(!told.contains("although"), "{told}");
    assert!(!told.contains("everything is in the backup"), "{told}");
    let elsewhere =
        format!("in {}, and no backup that is configured now has it", place.path("other").display());
    assert!(told.contains(&elsewhere), "{told}");
    let again = place.run(&["replicate", "-once"]).succeeded();
    assert!(!again.stderr.contains("vanished"), "{}", again.stderr);
    let told = place.run(&["status"]).stdout;
    assert!(told.contains("everything is in the backup"), "{told}");
    for backup in ["other", "app.db-backup"] {
        place.run(&["restore", "-o", "back.db", "-force", backup]).succeeded();
        assert_eq!(rows(&place.path("back.db")), 4, "{backup}");
    }
}

#[test]
fn a_second_replicator_is_told_of_the_first_and_not_of_its_address() {
    let place = Place::new();
    let (first, _) = replicated(&place);
    let pid = format!("process {}", first.id());
    place.run(&["replicate"]).failed_with(&["another litekeep", &pid, "app.db", "hint:"]);
    first.kill().unwrap();
}

#[test]
fn a_backup_that_cannot_be_read_keeps_nobody_from_the_history_of_another() {
    let place = Place::new();
    place.database("app.db", 3);
    let toml = "[[database]]\npath = \"app.db\"\nbackup = [\"first\", \"second\"]\n";
    std::fs::write(place.path("litekeep.toml"), toml).unwrap();
    place.run(&["replicate", "-once"]).succeeded();
    std::fs::remove_dir_all(place.path("first")).unwrap();
    std::fs::write(place.path("first"), "").unwrap();
    let told = place.run(&["history", "app.db"]);
    assert!(told.stdout.contains("second") && told.stdout.contains("restorable from"), "{}", told.stdout);
    Ran { stdout: String::new(), ..told }
        .failed_with(&["could not list the restore points of `app.db`", "first"]);
}

/// One truncated file, or a folder that was not there, stopped the backup of everybody.
#[test]
fn a_database_in_a_bad_state_is_shown_and_does_not_keep_the_others_from_replication() {
    let place = Place::new();
    let port = free_port();
    let of = |name: &str| format!("[[database]]\npath = \"{name}\"\nbackup = \"backups/{name}\"\n");
    let metrics = format!("[metrics]\naddr = \"127.0.0.1:{port}\"\n");
    let write = |name: &str, text: &str| std::fs::write(place.path(name), text).unwrap();
    place.database("emptied.db", 3);
    write("before.toml", &of("emptied.db"));
    place.run(&["replicate", "-once", "-config", "before.toml"]).succeeded();
    for suffix in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(place.path(&format!("emptied.db{suffix}")));
    }
    std::fs::write(place.path("emptied.db"), "").unwrap();
    write("bad.toml", &(of("emptied.db") + &of("tenant/a.db")));
    place.run(&["replicate", "-config", "bad.toml"]).failed_with(&["`emptied.db` is empty, but its backup"]);

    place.database("app.db", 5);
    write("litekeep.toml", &(of("emptied.db") + &of("tenant/a.db") + &of("app.db") + &metrics));
    place.run(&["run", "--", "touch", "started"]).failed_with(&["emptied.db` is empty, but its backup"]);
    assert!(!place.path("started").exists(), "an application needs all of them");
    let replicator = Process::start(place.command(&["replicate"]), &place.path("log")).unwrap();
    let is_backed_up = |name: &str| Ok(place.run(&["history", name]).code == 0);
    eventually("the fit one is backed up", SOON, || is_backed_up("app.db"))
        .unwrap_or_else(|error| panic!("{error}\n{}", replicator.output()));
    let up = |name: &str, value: &str| {
        let page = page(port);
        let mut lines = page.lines().filter(|line| line.starts_with("litekeep_up{"));
        lines.any(|line| line.contains(name) && line.ends_with(value))
    };
    assert!(up("/app.db", " 1") && up("/emptied.db", " 0") && up("/tenant/a.db", " 0"), "{}", page(port));
    let told = place.run(&["status", "emptied.db"]);
    assert!(told.code == 1 && told.stdout.contains("! refused at 20"), "{}", told.stdout);
    assert!(!told.stdout.contains("no replicator is running"), "{}", told.stdout);
    let told = place.run(&["status", "tenant/a.db"]).stdout;
    assert!(told.contains("its folder `tenant` does not exist"), "{told}");
    assert!(!told.contains("no replicator is running"), "{told}");

    std::fs::create_dir(place.path("tenant")).unwrap();
    place.database("tenant/a.db", 2);
    eventually("it is taken up once it can be", SOON, || is_backed_up("tenant/a.db"))
        .unwrap_or_else(|error| panic!("{error}\n{}", replicator.output()));
    assert!(up("/tenant/a.db", " 1") && up("/emptied.db", " 0"), "{}", page(port));
    // The end says what is not safe.
    assert_eq!(replicator.terminate(SOON).unwrap().code(), Some(2));
    let log = std::fs::read_to_string(place.path("log")).unwrap();
    assert!(log.contains("not confirmed within") && log.contains("emptied.db` is empty"), "{log}");
    assert_eq!(log.matches("ERROR").count(), 2, "each is told once: {log}");
}
