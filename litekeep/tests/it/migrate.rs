//! Goal: `litekeep migrate` as a user meets it; what the guard finds is held in the crate `schema`. Method: the real binary,
//! and ten of them at once.

use litekeep_testkit::installed;

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

/// The real dbmate on a database of the same place.
fn dbmate(place: &Place, arguments: &[&str]) -> String {
    let mut command = std::process::Command::new(installed::dbmate().unwrap());
    command.args(["--no-dump-schema", "-d", "migrations", "-u", "sqlite:app.db"]).args(arguments);
    command.current_dir(place.dir.path());
    Ran::of(command).succeeded().stdout
}

#[test]
fn dbmate_and_litekeep_go_on_where_the_other_stopped() {
    let place = place();
    dbmate(&place, &["up"]);
    let second = UP.replace("orders", "invoices");
    std::fs::write(place.path("migrations/99990101000000_invoices.sql"), second).unwrap();
    let applied = place.run(&["migrate", "up", "app.db", "--json"]).succeeded().json();
    assert_eq!(applied["applied"].as_array().unwrap().len(), 1, "{applied}");
    assert!(dbmate(&place, &["status"]).contains("Pending: 0"));
    dbmate(&place, &["down"]);
    place.run(&["migrate", "down", "app.db"]).succeeded();
    assert!(dbmate(&place, &["status"]).contains("Applied: 0"));
}

/// What Drizzle says that has run, after it has run what was pending.
fn drizzle(place: &Place, folder: &str) -> serde_json::Value {
    let mut command = std::process::Command::new("node");
    command.arg(installed::drizzle().unwrap()).args(["app.db", folder]).current_dir(place.dir.path());
    Ran::of(command).succeeded().json()
}

/// The files are such as drizzle-kit writes them.
#[test]
fn drizzle_and_litekeep_go_on_where_the_other_stopped() {
    let files = [
        "CREATE TABLE `parent` (`id` integer PRIMARY KEY NOT NULL, `name` text);
--> statement-breakpoint
CREATE TABLE `child` (`id` integer PRIMARY KEY NOT NULL, `parent` integer REFERENCES parent(id) ON DELETE cascade)",
        "PRAGMA foreign_keys=OFF;--> statement-breakpoint
CREATE TABLE `__new_parent` (`id` integer PRIMARY KEY NOT NULL, `name` text NOT NULL);
--> statement-breakpoint
INSERT INTO `__new_parent`(\"id\", \"name\") SELECT \"id\", \"name\" FROM `parent`;--> statement-breakpoint
DROP TABLE `parent`;--> statement-breakpoint
ALTER TABLE `__new_parent` RENAME TO `parent`;--> statement-breakpoint
PRAGMA foreign_keys=ON;",
    ];
    let begun = || {
        let place = Place::new();
        for (folder, count) in [("one", 1), ("both", 2)] {
            std::fs::create_dir_all(place.path(folder).join("meta")).unwrap();
            let entry = |n: usize| serde_json::json!({"idx": n, "when": 1_767_225_600_000_u64 + n as u64, "tag": format!("{n:04}_x")});
            let entries: Vec<_> = (0..count).map(entry).collect();
            let journal = serde_json::json!({"version": "7", "dialect": "sqlite", "entries": entries});
            std::fs::write(place.path(folder).join("meta/_journal.json"), journal.to_string()).unwrap();
            for (n, text) in files.iter().enumerate().take(count) {
                std::fs::write(place.path(folder).join(format!("{n:04}_x.sql")), text).unwrap();
            }
        }
        drizzle(&place, "one");
        let app = rusqlite::Connection::open(place.path("app.db")).unwrap();
        let rows = "INSERT INTO parent VALUES(1, 'a'); INSERT INTO child VALUES(1, 1), (2, 1), (3, 1)";
        app.execute_batch(rows).unwrap();
        (place, app)
    };
    let children = |app: &rusqlite::Connection| {
        app.query_row("SELECT count(*) FROM child", [], |r| r.get::<_, i64>(0)).unwrap()
    };

    let (place, _) = begun();
    let by_drizzle = drizzle(&place, "both");
    let (place, app) = begun();
    assert_eq!(place.run(&["migrate", "status", "--dir", "both", "app.db"]).code, 1);
    place.run(&["migrate", "up", "--dir", "both", "app.db"]).succeeded();
    assert_eq!(children(&app), 3);
    assert_eq!(
        drizzle(&place, "both"),
        by_drizzle,
        "there is nothing to do for Drizzle, and the history is its own"
    );
}

/// The danger that this is all about: with foreign keys on, as its driver has them when told so, the same file costs dbmate
/// the children.
#[test]
fn children_that_dbmate_loses_stay() {
    let rebuild = "-- migrate:up
PRAGMA foreign_keys=OFF;
CREATE TABLE new(id INTEGER PRIMARY KEY, name TEXT NOT NULL);
INSERT INTO new SELECT id, name FROM parent;
DROP TABLE parent;
ALTER TABLE new RENAME TO parent;
PRAGMA foreign_keys=ON;
-- migrate:down
";
    let children = |by: &dyn Fn(&Place)| {
        let place = Place::new();
        let app = rusqlite::Connection::open(place.path("app.db")).unwrap();
        app.execute_batch(
            "CREATE TABLE parent(id INTEGER PRIMARY KEY, name TEXT);
             CREATE TABLE child(id INTEGER PRIMARY KEY, parent INTEGER REFERENCES parent(id) ON DELETE CASCADE);
             INSERT INTO parent VALUES(1, 'a'); INSERT INTO child VALUES(1, 1), (2, 1), (3, 1)",
        )
        .unwrap();
        std::fs::create_dir(place.path("migrations")).unwrap();
        std::fs::write(place.path("migrations/1_name_not_null.sql"), rebuild).unwrap();
        by(&place);
        app.query_row("SELECT count(*) FROM child", [], |row| row.get::<_, i64>(0)).unwrap()
    };
    let by_dbmate = |place: &Place| {
        dbmate(place, &["-u", "sqlite:app.db?_fk=1", "up"]);
    };
    assert_eq!(children(&by_dbmate), 0);
    let by_litekeep = |place: &Place| {
        place.run(&["migrate", "up", "app.db"]).succeeded();
    };
    assert_eq!(children(&by_litekeep), 3);
}
