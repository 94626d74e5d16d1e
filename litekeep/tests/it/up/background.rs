//! Goal: a stack runs apart from the terminal, and whoever starts it so hears how that goes. Method: the real binary.

use litekeep_testkit::process::eventually;
use rusqlite::Connection;

use super::{configure, reaches};
use crate::scene::LONG;
use crate::{Place, shapes};

#[test]
fn in_the_background() {
    let place = Place::new();
    configure(&place, "", "[process.app]\ncommand = \"sleep 1000\"\n");
    shapes::matches("up", &place.run(&["up", "--detach", "--json"]).succeeded().json());
    let app = reaches(&place, "app", "healthy");
    place.run(&["down"]).succeeded();
    assert!(!std::path::Path::new(&format!("/proc/{}", app["pid"])).exists());
    // All of it is gone, so it can begin again at once.
    place.run(&["up", "--detach"]).succeeded();
    place.run(&["down"]).succeeded();

    // What does not start says why, and leaves nothing behind.
    std::fs::write(place.path("app.db"), "").unwrap();
    let connection = Connection::open(place.path("other.db")).unwrap();
    connection.execute_batch("PRAGMA journal_mode=wal; CREATE TABLE t(x); INSERT INTO t VALUES(1)").unwrap();
    place
        .run(&["replicate", "-once", "other.db", &format!("file://{}", place.path("backup").display())])
        .succeeded();
    let ran = place.run(&["up", "--detach"]);
    assert!(ran.code == 2 && ran.stderr.contains("is empty, but its backup"), "{}", ran.stderr);
    assert!(!place.path(".litekeep/control.sock").exists());
}

/// "up", and not a word of it.
#[test]
fn what_the_background_cannot_start_is_named() {
    let place = Place::new();
    let bad = [
        ("program", "command = \"./no-such-program\"", "no-such-program"),
        ("once", "command = \"./no-such-tool\"\nrestart = \"never\"", "no-such-tool"),
        ("folder", "command = \"sleep 1000\"\ncwd = \"no-such-folder\"", "no-such-folder"),
        ("user", "command = \"sleep 1000\"\nuser = \"no-such-user\"", "no-such-user"),
        ("variables", "command = \"sleep 1000\"\nenv_file = \"no-such.env\"", "no-such.env"),
    ];
    let all: String = bad.iter().map(|(name, keys, _)| format!("[process.{name}]\n{keys}\n")).collect();
    configure(&place, "", &format!("{all}[process.app]\ncommand = \"sleep 1000\"\n"));
    let ran = place.run(&["up", "--detach"]).succeeded();
    for (name, _, cause) in bad {
        let line = ran.stderr.lines().find(|line| line.contains(&format!("`{name}` does not run: ")));
        assert!(line.is_some_and(|line| line.contains(cause)), "{name}:\n{}", ran.stderr);
    }
    assert!(!ran.stderr.contains("`app`"), "{}", ran.stderr);
    reaches(&place, "app", "healthy");
    place.run(&["down"]).succeeded();
}

#[test]
fn who_waits_for_the_background_hears_for_what() {
    let place = Place::new();
    place.database("app.db", 3);
    configure(&place, "migrations = { command = 'sleep 4' }", "[process.app]\ncommand = \"sleep 1000\"\n");
    let ran = place.run(&["up", "--detach"]).succeeded();
    assert!(ran.stderr.contains("its migrations have been running for 2 s"), "{}", ran.stderr);
    place.run(&["down"]).succeeded();
}

#[test]
fn the_log_of_the_background_is_rotated() {
    let place = Place::new();
    configure(&place, "", "[process.app]\ncommand = \"sleep 1000\"\n");
    std::fs::create_dir(place.path(".litekeep")).unwrap();
    std::fs::write(place.path(".litekeep/up.log"), "a line\n".repeat(2 << 20)).unwrap();
    let up = place.run(&["up", "--detach", "--json"]).succeeded().json();
    let rotated = || Ok(place.path(".litekeep/up.log.1.gz").exists());
    eventually("the log is rotated and compressed", LONG, rotated).unwrap();
    // What it says from then on is in the new file.
    let status = std::process::Command::new("kill").arg("-HUP").arg(up["pid"].to_string()).status();
    assert!(status.unwrap().success());
    let log = || std::fs::read_to_string(place.path(".litekeep/up.log")).unwrap();
    eventually("the reload is told", LONG, || Ok(log().contains("reloaded app"))).unwrap();
    assert!(!log().contains("a line"));
    // Somebody deletes it: it is begun anew, and what was rotated stays.
    let rotated = std::fs::read(place.path(".litekeep/up.log.1.gz")).unwrap();
    std::fs::remove_file(place.path(".litekeep/up.log")).unwrap();
    eventually("there is a log again", LONG, || Ok(place.path(".litekeep/up.log").exists())).unwrap();
    let status = std::process::Command::new("kill").arg("-HUP").arg(up["pid"].to_string()).status();
    assert!(status.unwrap().success());
    eventually("the next reload is told", LONG, || Ok(log().contains("reloaded app"))).unwrap();
    assert_eq!(std::fs::read(place.path(".litekeep/up.log.1.gz")).unwrap(), rotated);
    place.run(&["down"]).succeeded();
}
