//! Goal: `litekeep migrate` as a user meets it; what the guard finds is held in the crate `schema`. Method: the real binary,
//! and ten of them at once.

mod command;
mod fleet;
mod native;
mod texts;
mod undo;

use litekeep_testkit::process::eventually;
use rusqlite::Connection;

use crate::scene::LONG;
use crate::shapes::matches;
use crate::{Place, Ran};

const UP: &str =
    "-- migrate:up\nCREATE TABLE orders(id INTEGER PRIMARY KEY);\n-- migrate:down\nDROP TABLE orders;\n";

/// A place with a database and one migration.
fn place() -> Place {
    let place = Place::new();
    place.database("app.db", 3);
    let made = place.run(&["migrate", "new", "add orders", "--json"]).succeeded().json();
    matches("migrate-new", &made);
    std::fs::write(place.path(made["file"].as_str().unwrap()), UP).unwrap();
    place
}

#[test]
fn up_status_and_down() {
    let place = place();
    let pending = place.run(&["migrate", "status", "app.db", "--json"]);
    assert_eq!(pending.code, 1);
    matches("migrate-status", &pending.json());
    matches("migrate-up", &place.run(&["migrate", "up", "app.db", "--json"]).succeeded().json());
    let status = place.run(&["migrate", "status", "app.db"]).succeeded();
    assert!(status.stdout.contains("add_orders") && status.stdout.contains("applied"), "{}", status.stdout);
    assert_eq!(place.run(&["migrate", "up", "app.db"]).succeeded().stdout, "`app.db` is up to date\n");
    matches("migrate-down", &place.run(&["migrate", "down", "app.db", "--json"]).succeeded().json());
    assert!(place.run(&["migrate", "down", "app.db"]).succeeded().stdout.contains("no migration has run"));
}

#[test]
fn what_a_file_would_lose_is_said_with_the_fix() {
    let place = place();
    let rebuild = "-- migrate:up
CREATE TABLE new(x);
INSERT INTO new SELECT x FROM t LIMIT 1;
DROP TABLE t;
ALTER TABLE new RENAME TO t;
";
    std::fs::write(place.path("migrations/99990101000000_rebuild.sql"), rebuild).unwrap();
    let ran = place.run(&["migrate", "up", "app.db"]);
    assert_eq!(ran.code, 2, "{}", ran.stdout);
    for part in [
        "error: could not run the migrations",
        "99990101000000_rebuild.sql`: `t` would have 1 rows instead of 3, and no DELETE says so",
        "hint: copy every row of `t`",
        "-- litekeep:allow lost-rows REASON",
    ] {
        assert!(ran.stderr.contains(part), "`{part}` is not in:\n{}", ran.stderr);
    }
    assert!(ran.stderr.contains("applied ") && ran.stderr.contains("add_orders"), "{}", ran.stderr);
}

#[test]
fn a_rehearsal_changes_a_copy_from_the_backup() {
    let place = place();
    place.run(&["init", "app.db"]).succeeded();
    place.run(&["replicate", "-once"]).succeeded();
    let rehearsed = place.run(&["migrate", "rehearse", "app.db", "--json"]).succeeded().json();
    matches("migrate-rehearse", &rehearsed);
    assert_eq!(rehearsed["applied"].as_array().unwrap().len(), 1, "{rehearsed:#}");
    let cost = |key: &str| rehearsed["cost"][key].as_u64().unwrap();
    assert!(cost("size_after_bytes") > cost("size_before_bytes"), "{rehearsed:#}");
    assert!((100..cost("changed_bytes")).contains(&cost("upload_bytes")), "compressed: {rehearsed:#}");
    assert_eq!(cost("disk_bytes"), cost("size_after_bytes") + cost("wal_bytes"), "{rehearsed:#}");
    assert!(cost("wal_bytes") >= cost("changed_bytes") && cost("changed_bytes") >= 3 * 4096, "{rehearsed:#}");
    assert_eq!(place.run(&["migrate", "status", "app.db"]).code, 1, "the database itself has not changed");
    std::fs::write(place.path("migrations/99990101000000_bad.sql"), "-- migrate:up\nDELETE FROM nowhere;\n")
        .unwrap();
    let failed = place.run(&["migrate", "rehearse", "app.db"]);
    assert_eq!(failed.code, 2);
    assert!(failed.stderr.contains("no such table: nowhere"), "{}", failed.stderr);
    let left = std::fs::read_dir(place.dir.path()).unwrap().flatten().map(|entry| entry.file_name());
    assert!(left.into_iter().all(|name| !name.to_string_lossy().contains("rehearsal")), "the copy goes away");
}

#[test]
fn the_database_of_the_configuration_is_migrated_when_there_is_one() {
    let place = place();
    place.run(&["init", "app.db"]).succeeded();
    place.run(&["migrate", "up"]).succeeded();
    std::fs::rename(place.path("migrations"), place.path("elsewhere")).unwrap();
    let toml = std::fs::read_to_string(place.path("litekeep.toml")).unwrap();
    let named = toml.replacen("[[database]]", "[[database]]\nmigrations = './elsewhere'", 1);
    std::fs::write(place.path("litekeep.toml"), named).unwrap();
    for arguments in [&["migrate", "status"][..], &["migrate", "status", "app.db"]] {
        assert!(place.run(arguments).succeeded().stdout.contains("add_orders"));
    }
    let two = ["a", "b"]
        .map(|name| format!("[[database]]\npath = '{name}.db'\nbackup = './{name}-backup'\n"))
        .concat();
    std::fs::write(place.path("litekeep.toml"), two).unwrap();
    let ran = place.run(&["migrate", "up"]);
    assert_eq!(ran.code, 2);
    assert!(
        ran.stderr.contains("has 2 databases") && ran.stderr.contains("hint: name the one"),
        "{}",
        ran.stderr
    );
    // Who asks where they stand is not told to migrate.
    for verb in ["status", "down", "rehearse"] {
        let ran = place.run(&["migrate", verb]);
        let hint = format!("`litekeep migrate {verb} a.db`");
        assert!(ran.stderr.contains(&hint) && !ran.stderr.contains("migrate up"), "{}", ran.stderr);
    }
}

/// A mistyped name was a new database without a word.
#[test]
fn a_new_database_is_said_and_goes_away_where_nothing_ran() {
    let place = place();
    let ran = place.run(&["migrate", "up", "appp.db"]).succeeded();
    assert!(ran.stderr.contains("created `appp.db`"), "{}", ran.stderr);
    let ran = place.run(&["migrate", "up", "appp.db"]).succeeded();
    assert!(!ran.stderr.contains("created"), "{}", ran.stderr);
    assert_eq!(place.run(&["migrate", "up", "three.db", "--json"]).succeeded().json()["created"], true);
    let made = |name: &str| place.path(name).exists();
    std::fs::create_dir(place.path("bad")).unwrap();
    let none = place.run(&["migrate", "up", "none.db", "--dir", "bad", "--convention", "dbmate"]).succeeded();
    assert!(none.stdout.contains("nothing is pending") && !made("none.db"), "{}", none.stdout);
    std::fs::write(place.path("bad/1_bad.sql"), "-- migrate:up\nDELETE FROM nowhere;\n").unwrap();
    place.run(&["migrate", "up", "none.db", "--dir", "bad"]).failed_with(&["no such table: nowhere"]);
    assert!(!made("none.db"));
    place.run(&["migrate", "up", "none.db", "--command", "exit 3"]).failed_with(&["exit status: 3"]);
    assert!(!made("none.db"));
    // What is there stays, also if it is empty.
    std::fs::write(place.path("none.db"), "").unwrap();
    place.run(&["migrate", "up", "none.db", "--dir", "bad"]).failed_with(&["no such table: nowhere"]);
    assert!(made("none.db"));
}

#[test]
fn of_ten_processes_one_runs_it_and_nine_wait() {
    let place = place();
    let children: Vec<_> = (0..10)
        .map(|_| {
            let mut command = place.command(&["migrate", "up", "app.db", "--json"]);
            command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
            command.spawn().unwrap()
        })
        .collect();
    let ran: Vec<usize> = children
        .into_iter()
        .map(|child| {
            Ran::from(child.wait_with_output().unwrap()).succeeded().json()["applied"]
                .as_array()
                .unwrap()
                .len()
        })
        .collect();
    assert_eq!(ran.iter().sum::<usize>(), 1, "{ran:?}");
}

/// It was waited for a minute without a word, and all but one gave up then.
#[test]
fn whoever_waits_for_the_lock_says_for_whom() {
    let place = place();
    let app = Connection::open(place.path("app.db")).unwrap();
    app.execute_batch("BEGIN IMMEDIATE; INSERT INTO t(x) VALUES('more')").unwrap();
    let words = |nth: usize| place.path(&format!("words-{nth}"));
    let start = |nth: usize| {
        let mut command = place.command(&["migrate", "up", "app.db", "--json"]);
        command.stdout(std::process::Stdio::piped()).stderr(std::fs::File::create(words(nth)).unwrap());
        command.spawn().unwrap()
    };
    let children: Vec<_> = (0..3).map(start).collect();
    let me = format!("process {} (", std::process::id());
    let says = |nth: usize| {
        let said = std::fs::read_to_string(words(nth)).unwrap();
        said.contains("waiting for ") && said.contains(&me) && said.contains("has the write lock of `app.db`")
    };
    eventually("all say so", LONG, || Ok((0..3).all(says))).unwrap();
    app.execute_batch("COMMIT").unwrap();
    let applied = |child: std::process::Child| {
        let ran = Ran::from(child.wait_with_output().unwrap()).succeeded().json();
        ran["applied"].as_array().unwrap().len()
    };
    assert_eq!(children.into_iter().map(applied).sum::<usize>(), 1);
}
