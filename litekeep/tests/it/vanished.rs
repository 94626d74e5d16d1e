//! Goal: of a backup or a database that is not where it was, everybody is told what is true and what to do. Method: the
//! real binary, while folders and files are moved away.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use litekeep_testkit::fault_proxy::Fault;
use litekeep_testkit::litestream::{Replica, Setup};
use litekeep_testkit::process::eventually;
use litekeep_testkit::{Litestream, Process};
use rusqlite::Connection;

use crate::scene::{Scene, Store};
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

/// The metrics at a port.
pub(crate) fn page(port: u16) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).unwrap();
    page
}

/// A replicator of `app.db` that has everything, and serves its metrics at the port.
fn replicated(place: &Place) -> (Process, u16) {
    replicated_with(place, "")
}

fn replicated_with(place: &Place, keys: &str) -> (Process, u16) {
    place.database("app.db", 3);
    let port = free_port();
    let toml = format!(
        "[[database]]\npath = \"app.db\"\nbackup = \"backup\"\n{keys}\n[metrics]\naddr = \"127.0.0.1:{port}\"\n"
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

/// It stayed, did nothing, and made the status of the first one red.
#[test]
fn a_second_replicator_ends_or_goes_on_with_what_nobody_has_and_leaves_the_first_alone() {
    let place = Place::new();
    place.database("app.db", 3);
    place.run(&["init", "app.db"]).succeeded();
    let first = Process::start(place.command(&["replicate"]), &place.path("first.log")).unwrap();
    let is_green = |name: &str| place.run(&["status", name]).code == 0;
    eventually("the first has it", SOON, || Ok(is_green("app.db"))).unwrap();
    let pid = format!("process {}", first.id());
    let is_left_alone = || {
        assert!(is_green("app.db"), "{}", place.run(&["status", "app.db"]).stdout);
        assert!(!place.path(".app.db-litekeep/trouble.json").exists());
    };
    // While it is at work, and while it rests: then only a lock on the file tells of it.
    for _ in 0..2 {
        let mut second = Process::start(place.command(&["replicate"]), &place.path("second.log")).unwrap();
        assert_eq!(second.wait(SOON).unwrap().code(), Some(2), "{}", second.output());
        let said = second.output();
        assert!(said.contains("another litekeep") && said.contains(&pid), "{said}");
        is_left_alone();
        eventually("the first rests", SOON, || Ok(!has_open(&first, "lock"))).unwrap();
    }
    // Beside it there is another database, which nobody has.
    place.database("other.db", 3);
    let both = ["app.db", "other.db"]
        .map(|name| format!("[[database]]\npath = \"{name}\"\nbackup = \"{name}-backup\"\n"));
    std::fs::write(place.path("both.toml"), both.concat()).unwrap();
    let arguments = ["replicate", "-config", "both.toml"];
    let second = Process::start(place.command(&arguments), &place.path("third.log")).unwrap();
    let is_other_green = || Ok(place.run(&["status", "-config", "both.toml", "other.db"]).code == 0);
    eventually("the second has the other", SOON, is_other_green)
        .unwrap_or_else(|error| panic!("{error}\n{}", second.output()));
    assert!(second.output().contains(&pid), "{}", second.output());
    is_left_alone();
    first.terminate(SOON).unwrap();
    eventually("the second takes it up then", SOON, || Ok(is_green("app.db")))
        .unwrap_or_else(|error| panic!("{error}\n{}", second.output()));
    assert!(place.run(&["status", "app.db"]).stdout.contains(&format!("process {}", second.id())));
    second.kill().unwrap();
}

/// Whether a process has a file of this name open.
fn has_open(process: &Process, name: &str) -> bool {
    let descriptors = std::fs::read_dir(format!("/proc/{}/fd", process.id())).unwrap();
    let files = descriptors.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    files.into_iter().any(|file| file.file_name().is_some_and(|own| own == name))
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

/// A database that is gone, with two rows in its spool; its backup is `away`.
fn stranded(place: &Place) {
    let (mut replicator, _) = replicated_with(place, "shutdown_timeout = \"1s\"");
    std::fs::rename(place.path("backup"), place.path("away")).unwrap();
    insert(place);
    eventually("it cannot be put", SOON, || Ok(replicator.output().contains("trying again"))).unwrap();
    insert(place);
    let are_spooled = || {
        let files = std::fs::read_dir(place.path(".app.db-litekeep/spool"));
        Ok(files.is_ok_and(|files| files.count() == 2))
    };
    eventually("both are on the disk", SOON, are_spooled).unwrap();
    remove(place);
    eventually("it is missed", SOON, || {
        Ok(place.run(&["status"]).stdout.contains("the database file is gone"))
    })
    .unwrap();
    replicator.signal(libc::SIGTERM).unwrap();
    let ended = replicator.wait(SOON).unwrap();
    assert_eq!(ended.code(), Some(2), "{}", replicator.output());
}

/// It restored the backup without what waited beside the database, which nobody could have had again.
#[test]
fn what_an_outage_left_is_in_the_backup_before_a_missing_database_comes_back() {
    for back in [&["restore", "app.db"][..], &["run", "app.db", "--", "true"]] {
        let place = Place::new();
        stranded(&place);
        // The next one has it from the disk only.
        let ran = place.run(&["replicate", "-once"]);
        assert_ne!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
        std::fs::rename(place.path("away"), place.path("backup")).unwrap();
        let ran = place.run(back).succeeded();
        assert!(ran.stderr.contains("are in the backup now"), "{}", ran.stderr);
        assert_eq!(rows(&place.path("app.db")), 5);
        place.run(&["replicate", "-once"]).succeeded();
        place.run(&["restore", "-o", "again.db", "app.db"]).succeeded();
        assert_eq!(rows(&place.path("again.db")), 5);
    }
}

/// It had the spool, put nothing, and was in the way of the restore that its status recommends.
#[test]
fn a_replicator_puts_what_an_earlier_one_left_of_a_file_that_is_gone() {
    let place = Place::new();
    stranded(&place);
    let mut replicator = Process::start(place.command(&["replicate"]), &place.path("second.log")).unwrap();
    let told = || place.run(&["status"]).stdout;
    eventually("it says what waits", SOON, || Ok(told().contains("wait on this machine"))).unwrap();
    std::fs::rename(place.path("away"), place.path("backup")).unwrap();
    eventually("it is put", SOON, || Ok(!told().contains("wait on this machine"))).unwrap();
    place.run(&["restore", "app.db"]).succeeded();
    assert_eq!(rows(&place.path("app.db")), 5);
    eventually("all is well", SOON, || Ok(place.run(&["status"]).code == 0)).unwrap();
    replicator.signal(libc::SIGTERM).unwrap();
    assert_eq!(replicator.wait(SOON).unwrap().code(), Some(0), "{}", replicator.output());
}

/// Another replicator has gone on with the log meanwhile.
#[test]
fn what_does_not_continue_the_backup_is_put_nowhere() {
    let place = Place::new();
    place.database("app.db", 3);
    place.run(&["init", "app.db"]).succeeded();
    place.run(&["replicate", "-once"]).succeeded();
    let spool = place.path(".app.db-litekeep/spool");
    std::fs::create_dir_all(&spool).unwrap();
    let first = std::fs::read_dir(place.path("app.db-backup/ltx/0")).unwrap().next().unwrap().unwrap();
    std::fs::copy(first.path(), spool.join("0000000000000009-0000000000000009.ltx")).unwrap();
    remove(&place);
    let parts = ["wait in", "do not continue the log at", "move that folder away"];
    place.run(&["restore", "app.db"]).failed_with(&parts);
    place.run(&["run", "app.db", "--", "touch", "started"]).failed_with(&parts);
    assert!(!place.path("started").exists());
    std::fs::rename(&spool, place.path("kept")).unwrap();
    place.run(&["restore", "app.db"]).succeeded();
}

/// Its files were still open, and nobody looked into them again.
#[test]
fn the_last_commits_of_a_deleted_database_are_in_the_backup() {
    let place = Place::new();
    let (replicator, _) = replicated_with(&place, "upload_interval = \"20s\"");
    insert(&place);
    let restored = || {
        place.run(&["restore", "-force", "-o", "back.db", "app.db"]);
        rows(&place.path("back.db"))
    };
    eventually("the first one is uploaded at once", SOON, || Ok(restored() == 4)).unwrap();
    insert(&place);
    remove(&place);
    eventually("the last one is there", SOON, || Ok(restored() == 5)).unwrap();
    replicator.kill().unwrap();
}

/// Tables of the same names were enough, and the newest backup had next to nothing.
#[test]
fn a_new_database_in_the_place_of_one_that_was_lost_is_refused() {
    let place = Place::new();
    place.database("app.db", 500);
    place.run(&["run", "app.db", "--", "true"]).succeeded();
    remove(&place);
    place.database("app.db", 2);
    let ran = place.run(&["run", "app.db", "--", "touch", "started"]);
    ran.failed_with(&["seems to be a new database", "`litekeep restore --force ", "--new-timeline"]);
    assert!(!place.path("started").exists());
    place.run(&["restore", "--force", "app.db"]).succeeded();
    assert_eq!(rows(&place.path("app.db")), 500);
    // One that has shrunk by itself is the same.
    let app = Connection::open(place.path("app.db")).unwrap();
    app.execute_batch("DELETE FROM t WHERE n > 2; VACUUM; PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    drop(app);
    place.run(&["run", "app.db", "--", "true"]).succeeded();
}

/// Removes what begins with these names in a folder: a database with its WAL, and its local state where that is named.
fn remove_in(folder: &std::path::Path, names: &[&str]) {
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        if !names.iter().any(|begin| name.starts_with(begin)) {
            continue;
        }
        let is_folder = entry.file_type().unwrap().is_dir();
        if is_folder { std::fs::remove_dir_all(entry.path()) } else { std::fs::remove_file(entry.path()) }
            .unwrap();
    }
}

/// It was in no list any more: nobody restored it, and everything was green without it.
#[test]
fn a_database_of_a_folder_whose_file_is_gone_is_missed_and_comes_back() {
    let place = Place::new();
    let dbs = place.path("dbs");
    let write = |keys: &str| {
        let toml = format!("[[database]]\ndir = \"dbs\"\npattern = \"*.db\"\nbackup = \"bk\"\n{keys}\n");
        std::fs::write(place.path("litekeep.toml"), toml).unwrap();
    };
    std::fs::create_dir(&dbs).unwrap();
    place.database("dbs/one.db", 3);
    place.database("dbs/two.db", 5);
    write("");
    let are_there = || [rows(&dbs.join("one.db")), rows(&dbs.join("two.db"))];
    let replicate = |log: &str| Process::start(place.command(&["replicate"]), &place.path(log)).unwrap();
    let is_green = || Ok(place.run(&["status"]).code == 0);
    let replicator = replicate("first.log");
    eventually("both are replicated", SOON, is_green).unwrap();
    remove_in(&dbs, &["one.db"]);
    // Whether it runs or not.
    let is_missed = || {
        let told = place.run(&["status"]);
        assert!(told.stdout.contains("dbs/one.db"), "{}", told.stdout);
        Ok(told.code == 1 && told.stdout.contains("the database file is gone"))
    };
    eventually("it is missed", SOON, is_missed).unwrap();
    replicator.terminate(SOON).unwrap();
    assert!(is_missed().unwrap());
    assert!(place.run(&["databases"]).succeeded().stdout.contains("dbs/one.db"));
    let replicator = replicate("second.log");
    eventually("the next one misses it", SOON, || {
        let told = place.run(&["status", "dbs/one.db"]);
        Ok(told.code == 1 && !told.stdout.contains("no replicator is"))
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", replicator.output()));
    replicator.kill().unwrap();
    place
        .run(&["replicate", "-once"])
        .failed_with(&["dbs/one.db` does not exist", "-restore-if-db-not-exists"]);

    write("restore_if_missing = true");
    let replicator = replicate("third.log");
    eventually("it is back", SOON, is_green)
        .unwrap_or_else(|error| panic!("{error}\n{}", replicator.output()));
    assert_eq!(are_there(), [3, 5]);
    replicator.terminate(SOON).unwrap();

    // A new disk: nothing but the backup knows of them.
    let lose = || remove_in(&dbs, &["one.db", "two.db", ".one.db-", ".two.db-"]);
    for keys in ["restore_if_missing = true", ""] {
        write(keys);
        lose();
        let told = place.run(&["status"]);
        assert_eq!(told.code, 1, "{}", told.stdout);
        for part in ["dbs/one.db", "dbs/two.db", "its backup goes up to transaction", "`litekeep restore "] {
            assert!(told.stdout.contains(part), "`{part}` is not in:\n{}", told.stdout);
        }
        place.run(&["replicate", "-once", "-restore-if-db-not-exists"]).succeeded();
        assert_eq!(are_there(), [3, 5]);
        lose();
        place.run(&["run", "--", "test", "-e", "dbs/one.db", "-a", "-e", "dbs/two.db"]).succeeded();
        assert_eq!(are_there(), [3, 5]);
    }
    // For good.
    remove_in(&dbs, &["one.db", ".one.db-"]);
    std::fs::rename(place.path("bk/one.db"), place.path("kept")).unwrap();
    place.run(&["run", "--", "test", "!", "-e", "dbs/one.db"]).succeeded();
    assert!(!place.run(&["status"]).stdout.contains("one.db"));
}

/// The same in a bucket, in folders within the folder, with local state in another place.
#[test]
fn lost_databases_of_a_folder_come_back_from_a_bucket() {
    let scene = Scene::new(Store::Proxied, "");
    let place = &scene.place;
    let toml = format!(
        "[[database]]\ndir = \"dbs\"\npattern = \"*.db\"\nrecursive = true\nmeta_dir = \"meta\"\nbackup = {:?}\nshutdown_timeout = \"1s\"\n",
        scene.url()
    );
    std::fs::write(place.path("litekeep.toml"), toml).unwrap();
    std::fs::create_dir_all(place.path("dbs/x/y")).unwrap();
    place.database("dbs/a.db", 3);
    place.database("dbs/x/y/b.db", 5);
    let run = |command: &[&str]| Ran::of(scene.command(&[&["run", "--"], command].concat()));
    let are_there = || [rows(&place.path("dbs/a.db")), rows(&place.path("dbs/x/y/b.db"))];
    run(&["true"]).succeeded();

    std::fs::remove_dir_all(place.path("dbs/x")).unwrap();
    let told = Ran::of(scene.command(&["status"]));
    assert!(told.code == 1 && told.stdout.contains("dbs/x/y/b.db"), "{}", told.stdout);
    run(&["true"]).succeeded();
    assert_eq!(are_there(), [3, 5]);

    std::fs::remove_dir_all(place.path("meta")).unwrap();
    std::fs::remove_dir_all(place.path("dbs")).unwrap();
    std::fs::create_dir(place.path("dbs")).unwrap();
    scene.proxy().outage(Some(Fault::Status(503)));
    run(&["touch", "started"]).failed_with(&["look for databases of", "503"]);
    let told = Ran::of(scene.command(&["status"]));
    assert!(told.code == 1 && told.stdout.contains("503"), "{}{}", told.stdout, told.stderr);
    scene.proxy().outage(None);
    let told = Ran::of(scene.command(&["status"]));
    for name in ["dbs/a.db", "dbs/x/y/b.db"] {
        assert!(told.code == 1 && told.stdout.contains(name), "{}", told.stdout);
    }
    run(&["true"]).succeeded();
    assert_eq!(are_there(), [3, 5]);
    // Where some are known, an outage stops nobody.
    scene.proxy().outage(Some(Fault::Status(503)));
    let ran = run(&["touch", "started"]);
    assert!(place.path("started").exists(), "{}", ran.stderr);
}

/// Nothing tells of another folder under the same name.
#[test]
fn a_database_whose_folder_is_replaced_is_replicated_on() {
    let place = Place::new();
    std::fs::create_dir(place.path("data")).unwrap();
    place.database("data/app.db", 3);
    std::fs::write(
        place.path("litekeep.toml"),
        "[[database]]\npath = \"data/app.db\"\nbackup = \"backup\"\n",
    )
    .unwrap();
    let replicator = Process::start(place.command(&["replicate"]), &place.path("log")).unwrap();
    let is_green = || Ok(place.run(&["status"]).code == 0);
    eventually("the status is green", SOON, is_green).unwrap();
    let insert = || {
        let app = Connection::open(place.path("data/app.db")).unwrap();
        app.execute("INSERT INTO t (x) VALUES ('more')", ()).unwrap();
    };
    let has = |count: i64| {
        place.run(&["restore", "-force", "-o", "back.db", "data/app.db"]);
        Ok(rows(&place.path("back.db")) == count)
    };
    std::fs::rename(place.path("data"), place.path("former")).unwrap();
    let copied =
        std::process::Command::new("cp").args(["-a", "former", "copy"]).current_dir(place.path(".")).status();
    assert!(copied.unwrap().success());
    std::fs::rename(place.path("copy"), place.path("data")).unwrap();
    insert();
    eventually("the copy is replicated", SOON, || has(4)).unwrap();
    // litekeep may write there meanwhile.
    let is_removed = || Ok(std::fs::remove_dir_all(place.path("data")).is_ok());
    eventually("it is removed", SOON, is_removed).unwrap();
    std::fs::create_dir(place.path("data")).unwrap();
    place.run(&["restore", "data/app.db"]).succeeded();
    insert();
    eventually("what was restored is replicated", SOON, || has(5)).unwrap();
    eventually("all is well", SOON, is_green).unwrap();
    replicator.kill().unwrap();
}

/// litekeep refused it for a minute, and named itself as the reason.
#[test]
fn a_folder_that_is_renamed_below_a_watched_one_is_replicated_under_its_new_name() {
    let place = Place::new();
    std::fs::create_dir_all(place.path("tenants/x")).unwrap();
    place.database("tenants/x/c.db", 3);
    let toml = "[[database]]\ndir = \"tenants\"\npattern = \"*.db\"\nrecursive = true\nbackup = \"backup\"\n";
    std::fs::write(place.path("litekeep.toml"), toml).unwrap();
    let replicator = Process::start(place.command(&["replicate"]), &place.path("log")).unwrap();
    eventually("it is replicated", SOON, || Ok(place.path("backup/x/c.db/ltx/0").exists())).unwrap();
    std::fs::rename(place.path("tenants/x"), place.path("tenants/y")).unwrap();
    eventually("it is replicated anew", SOON, || Ok(place.path("backup/y/c.db/ltx/0").exists())).unwrap();
    assert!(!replicator.output().contains("another litekeep"), "{}", replicator.output());
    replicator.kill().unwrap();
}

/// The application began with an empty database, and its log took the place of the former backup.
#[test]
fn a_backup_of_litestream_0_3_brings_a_missing_database_back() {
    let place = Place::new();
    let db = place.database("app.db", 3);
    let backup = place.path("app.db-backup");
    let setup = Setup { db, replica: Replica::Folder(backup.clone()), interval: Duration::from_millis(50) };
    let litestream = Litestream::install_v3().unwrap();
    let process = litestream.replicate(&place.path("."), &setup).unwrap();
    insert(&place);
    let is_there = || {
        let generations = std::fs::read_dir(backup.join("generations")).into_iter().flatten().flatten();
        Ok(generations.into_iter().any(|generation| generation.path().join("wal").exists()))
    };
    eventually("Litestream has it", SOON, is_there).unwrap();
    _ = process.terminate(Duration::from_secs(20));
    remove(&place);
    let begun = place.run(&["run", "app.db", "--", "true"]).succeeded();
    assert!(begun.stderr.contains("a backup of Litestream 0.3"), "{}", begun.stderr);
    let count = rows(&place.path("app.db"));
    assert!((3..=4).contains(&count), "{count}");
    // Moments before the new log are in the former one.
    let at = place.run(&["restore", "-timestamp", "2000-01-01T00:00:00Z", "-o", "no.db", "app.db"]);
    at.failed_with(&["begins later"]);
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
    assert!(log.contains("not confirmed:") && log.contains("emptied.db` is empty"), "{log}");
    assert_eq!(log.matches("ERROR").count(), 2, "each is told once: {log}");
}

/// The folder of a disk that was not mounted was made anew, to note there that nothing could be restored.
#[test]
fn a_verification_of_no_backup_is_an_error_and_makes_none() {
    let place = Place::new();
    place.database("app.db", 3);
    let toml = "[[database]]\npath = \"app.db\"\nbackup = \"app.db-backup\"\n";
    std::fs::write(place.path("litekeep.toml"), toml).unwrap();
    let verify = || place.run(&["verify"]);
    verify().failed_with(&["there is no backup at", "app.db-backup` yet", "`litekeep replicate` makes it"]);
    assert!(!place.path("app.db-backup").exists());
    place.run(&["replicate", "-once"]).succeeded();
    verify().succeeded();
    std::fs::rename(place.path("app.db-backup"), place.path("away")).unwrap();
    verify().failed_with(&["nothing is left of the log at", "mount it"]);
    assert!(!place.path("app.db-backup").exists());
}

/// A backup that had everything was red until the next commit.
#[test]
fn what_an_outage_left_waits_no_more_once_it_is_put() {
    let place = Place::new();
    let (replicator, _) = replicated_with(&place, "shutdown_timeout = \"1s\"");
    let app = Connection::open(place.path("app.db")).unwrap();
    let insert = || app.execute("INSERT INTO t (x) VALUES ('more')", ()).unwrap();
    std::fs::rename(place.path("backup"), place.path("away")).unwrap();
    insert();
    // Else both may be in one file, which is put from memory.
    eventually("it cannot be put", SOON, || Ok(replicator.output().contains("trying again"))).unwrap();
    insert();
    let spool = place.path(".app.db-litekeep/spool");
    eventually("it waits on the disk", SOON, || {
        Ok(std::fs::read_dir(&spool).is_ok_and(|mut all| all.next().is_some()))
    })
    .unwrap();
    assert_eq!(replicator.terminate(SOON).unwrap().code(), Some(2));
    std::fs::rename(place.path("away"), place.path("backup")).unwrap();
    place.run(&["replicate", "-once"]).succeeded();
    let replicator = Process::start(place.command(&["replicate"]), &place.path("log")).unwrap();
    eventually("the status is green", SOON, || Ok(place.run(&["status"]).code == 0)).unwrap();
    assert_eq!(pending(&place), Some(0));
    replicator.terminate(SOON).unwrap();
    assert_eq!(pending(&place), Some(0));
}

/// The place in the WAL that a comparison found was forgotten with the process.
#[test]
fn what_was_compared_and_is_the_same_does_not_wait() {
    let place = Place::new();
    place.database("app.db", 3);
    let app = Connection::open(place.path("app.db")).unwrap();
    place.run(&["replicate", "-once", "app.db"]).succeeded();
    // Two generations of the WAL later nothing leads on from where litekeep was, and the pages are what they were.
    let was: String = app.query_row("SELECT x FROM t WHERE n = 1", (), |row| row.get(0)).unwrap();
    for _ in 0..3 {
        app.query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |_| Ok(())).unwrap();
        for x in [&"x".repeat(was.len()), &was] {
            app.execute("UPDATE t SET x = ?1 WHERE n = 1", [x]).unwrap();
        }
    }
    place.run(&["replicate", "-once", "app.db"]).succeeded();
    assert_eq!(pending(&place), Some(0));
}

fn pending(place: &Place) -> Option<u64> {
    place.run(&["status", "app.db", "--json"]).json()["databases"][0]["pending_frames"].as_u64()
}
