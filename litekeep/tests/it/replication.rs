//! The verbs together: replicate or run, then look, then restore.

use std::io::Write as _;
use std::time::Duration;

use crate::{Place, rows, shapes};
use litekeep_testkit::Process;
use litekeep_testkit::litestream::{Litestream, Replica, Setup};
use litekeep_testkit::process::eventually;
use rusqlite::Connection;

const SOON: Duration = Duration::from_secs(60);

#[test]
fn once_and_back() {
    let place = Place::new();
    let app = place.database("app.db", 50);
    let url = format!("file://{}", place.path("backup").display());
    place.run(&["replicate", "-once", "app.db", &url]).succeeded();
    place.run(&["restore", "-o", "back.db", "-integrity-check", "full", &url]).succeeded();
    assert_eq!(rows(&place.path("back.db")), rows(&app));

    place.run(&["restore", "-o", "back.db", &url]).failed_with(&["back.db"]);
    let skipped = place.run(&["restore", "-o", "back.db", "-if-db-not-exists", &url]).succeeded();
    assert!(skipped.stdout.contains("the database exists"), "{}", skipped.stdout);
    let kept = place.run(&["restore", "-o", "back.db", "-force", &url]).succeeded();
    assert!(kept.stdout.contains("the former database is kept as"), "{}", kept.stdout);
}

#[test]
fn run_passes_the_exit_code_on_and_has_everything_safe_before() {
    let place = Place::new();
    let app = place.database("app.db", 1);
    let insert = "import sqlite3; c = sqlite3.connect('app.db'); c.execute(\"INSERT INTO t (x) VALUES ('last')\"); c.commit(); raise SystemExit(7)";
    let ran = place.run(&["run", "./app.db", "--", "python3", "-c", insert]);
    assert_eq!(ran.code, 7, "{}", ran.stderr);
    place.run(&["restore", "-o", "back.db", "app.db-backup"]).succeeded();
    assert_eq!((rows(&place.path("back.db")), rows(&app)), (2, 2));

    // The disk is lost; the next start brings the database back before the command sees it.
    for suffix in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(place.path(&format!("app.db{suffix}")));
    }
    std::fs::remove_dir_all(place.path(".app.db-litekeep")).unwrap();
    let count = "import sqlite3; raise SystemExit(sqlite3.connect('app.db').execute('SELECT count(*) FROM t').fetchone()[0])";
    let ran = place.run(&["run", "./app.db", "--", "python3", "-c", count]);
    assert_eq!(ran.code, 2, "the rows are its exit code: {}", ran.stderr);
    assert!(ran.stderr.contains("did not exist and was restored"), "{}", ran.stderr);
}

#[test]
fn an_empty_file_over_a_backup_is_refused() {
    let place = Place::new();
    place.database("app.db", 1);
    place.run(&["run", "app.db", "--", "true"]).succeeded();
    for suffix in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(place.path(&format!("app.db{suffix}")));
    }
    std::fs::write(place.path("app.db"), "").unwrap();
    let ran = place.run(&["run", "app.db", "--", "touch", "started"]);
    ran.failed_with(&["`app.db` is empty, but its backup", "--new-timeline"]);
    assert!(!place.path("started").exists());
}

#[test]
fn a_command_that_is_not_there() {
    let place = Place::new();
    place.database("app.db", 1);
    place.run(&["run", "app.db", "--", "no-such-program"]).failed_with(&[
        "error: could not run `no-such-program`",
        "start `no-such-program`: it does not exist",
        "hint: check its name",
    ]);
}

#[test]
fn status_is_green_while_replicated_and_red_after() {
    let place = Place::new();
    place.database("app.db", 3);
    place.run(&["init", "app.db"]).succeeded();
    let never = place.run(&["status"]);
    assert_eq!(never.code, 1, "{}", never.stderr);
    assert!(never.stdout.contains("no replicator is running"), "{}", never.stdout);

    let replicator = Process::start(place.command(&["replicate"]), &place.path("log")).unwrap();
    let green = || Ok(place.run(&["status"]).code == 0);
    if let Err(error) = eventually("the status is green", SOON, green) {
        let status = place.run(&["status"]);
        panic!("{error}\n{}{}\n{}", status.stdout, status.stderr, replicator.output());
    }
    let status = place.run(&["status", "--json"]).json();
    assert_eq!(status["databases"][0]["replicator_pid"], replicator.id());
    let status = replicator.terminate(SOON).unwrap();
    assert!(status.success(), "{status}");
    assert_eq!(place.run(&["status"]).code, 1);
}

/// It was said that no replicator is running, while one waited for the file.
#[test]
fn of_a_database_that_is_not_there_yet_nobody_says_that_no_replicator_runs() {
    let place = Place::new();
    place.write_all(&[("litekeep.toml", "[[database]]\npath = \"app.db\"\nbackup = \"backup\"\n")]);
    let replicator = Process::start(place.command(&["replicate"]), &place.path("log")).unwrap();
    eventually("it runs", SOON, || Ok(replicator.output().contains("replicating to"))).unwrap();
    for arguments in [&["status"][..], &["status", "app.db"]] {
        let told = place.run(arguments);
        assert_eq!(told.code, 1, "{}", told.stdout);
        assert!(told.stdout.contains("unless one runs, start `litekeep replicate`"), "{}", told.stdout);
        assert!(!told.stdout.contains("no replicator"), "{}", told.stdout);
    }
    let table = place.run(&["databases"]).succeeded().stdout;
    assert!(table.contains("once it is there"), "{table}");
    assert!(!place.path(".app.db-litekeep").exists(), "a path that may be mistyped gets nothing");
    place.database("app.db", 3);
    eventually("it is replicated", SOON, || Ok(place.run(&["status"]).code == 0)).unwrap();
    let table = place.run(&["databases"]).succeeded().stdout;
    assert!(table.contains(&format!("by process {}", replicator.id())), "{table}");
    replicator.terminate(SOON).unwrap();
    // Of one that was there it is known.
    std::fs::remove_file(place.path("app.db")).unwrap();
    let told = place.run(&["status"]).stdout;
    assert!(told.contains("no replicator is running"), "{told}");
}

#[test]
fn restore_to_an_instant_and_to_a_transaction() {
    let place = Place::new();
    place.database("app.db", 5);
    let url = format!("file://{}", place.path("app.db-backup").display());
    place.run(&["replicate", "-once", "app.db", &url]).succeeded();
    let before = place.run(&["history", "--json", &url]).json();
    let txid = before["backups"][0]["summary"]["last"]["txid"].as_str().unwrap().to_owned();
    let time = before["backups"][0]["summary"]["last"]["time"].as_str().unwrap().to_owned();
    let delete = "import sqlite3; c = sqlite3.connect('app.db'); c.execute('DELETE FROM t'); c.commit()";
    place.run(&["run", "app.db", "--", "python3", "-c", delete]).succeeded();

    place.run(&["restore", "-txid", &txid, "-o", "by-txid.db", &url]).succeeded();
    place.run(&["restore", "-timestamp", &time, "-o", "by-time.db", &url]).succeeded();
    place.run(&["restore", "-o", "latest.db", &url]).succeeded();
    let restored = ["by-txid.db", "by-time.db", "latest.db"].map(|name| rows(&place.path(name)));
    assert_eq!(restored, [5, 5, 0]);
    place.run(&["restore", "-txid", "ff", "-o", "x.db", &url]).failed_with(&["hint:", "restores"]);
    assert!(!place.path("x.db").exists());
}

#[test]
fn databases_that_appear_in_a_watched_folder_are_taken_up() {
    let place = Place::new();
    std::fs::create_dir(place.path("tenants")).unwrap();
    let text = "[[database]]\ndir = \"tenants\"\npattern = \"*.db\"\nbackup = \"./backup\"\n";
    std::fs::write(place.path("litekeep.toml"), text).unwrap();
    let replicator = Process::start(place.command(&["replicate"]), &place.path("log")).unwrap();
    place.database("tenants/a.db", 4);
    let backed_up = || Ok(place.run(&["history", "tenants/a.db"]).code == 0);
    if let Err(error) = eventually("the new database has a backup", SOON, backed_up) {
        panic!("{error}\n{}", replicator.output());
    }
    assert!(replicator.terminate(SOON).unwrap().success());
    place.run(&["restore", "-o", "back.db", "tenants/a.db"]).succeeded();
    assert_eq!(rows(&place.path("back.db")), 4);
}

/// The first look at a part of a file refused it for a minute.
#[test]
fn a_database_that_is_copied_into_a_watched_folder_is_taken_up_when_it_is_whole() {
    let place = Place::new();
    std::fs::create_dir(place.path("tenants")).unwrap();
    let text = "[[database]]\ndir = \"tenants\"\npattern = \"*.db\"\nbackup = \"./backup\"\n";
    std::fs::write(place.path("litekeep.toml"), text).unwrap();
    let whole = std::fs::read(place.database("app.db", 500)).unwrap();
    let replicator = Process::start(place.command(&["replicate"]), &place.path("log")).unwrap();
    place.database("tenants/other.db", 1);
    eventually("it has begun", SOON, || Ok(place.run(&["history", "tenants/other.db"]).code == 0)).unwrap();
    let mut copy = std::fs::File::create(place.path("tenants/a.db")).unwrap();
    // Pages that are not whole SQLite does not see.
    for part in whole.chunks((whole.len() / 4096).div_ceil(10) * 4096) {
        copy.write_all(part).unwrap();
        std::thread::sleep(Duration::from_millis(150));
    }
    let backed_up = || Ok(place.run(&["history", "tenants/a.db"]).code == 0);
    if let Err(error) = eventually("the copy has a backup", SOON, backed_up) {
        panic!("{error}\n{}", replicator.output());
    }
    let log = replicator.output();
    assert!(!log.contains("refused") && !log.contains("malformed"), "{log}");
    assert!(replicator.terminate(SOON).unwrap().success());
    place.run(&["restore", "-o", "back.db", "tenants/a.db"]).succeeded();
    assert_eq!(rows(&place.path("back.db")), 500);
}

/// What a verification that was killed left behind was backed up as a customer's.
#[test]
fn hidden_folders_have_no_databases() {
    let place = Place::new();
    let text =
        "[[database]]\ndir = \"tenants\"\npattern = \"*.db\"\nrecursive = true\nbackup = \"./backup\"\n";
    std::fs::write(place.path("litekeep.toml"), text).unwrap();
    for folder in ["tenants/.litekeep-verify-0123", "tenants/north"] {
        std::fs::create_dir_all(place.path(folder)).unwrap();
        place.database(&format!("{folder}/a.db"), 1);
    }
    let listed = place.run(&["databases", "--json"]).succeeded().stdout;
    assert!(listed.contains("north/a.db") && !listed.contains("litekeep-verify"), "{listed}");
}

#[test]
fn verify_leaves_a_database_in_another_journal_mode_as_it_is() {
    let place = Place::new();
    let path = place.database("app.db", 3);
    place.run(&["init", "app.db"]).succeeded();
    place.run(&["replicate", "-once"]).succeeded();
    Connection::open(&path).unwrap().pragma_update(None, "journal_mode", "delete").unwrap();
    let before = std::fs::read(&path).unwrap();
    place.run(&["verify", "app.db"]).failed_with(&["`app.db` is not in WAL mode", "hint:"]);
    assert_eq!(std::fs::read(&path).unwrap(), before);
    assert!(!place.path("app.db-wal").exists() && !place.path("app.db-shm").exists());
    let status = place.run(&["status", "--json"]).json();
    assert!(status["databases"][0]["backups"][0]["contents"]["last_proof"].is_null(), "{status}");
}

/// Half of what was stored, and paid for, was left out.
#[test]
fn status_counts_everything_that_stands_in_the_backup() {
    fn size(folder: &std::path::Path) -> u64 {
        let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
        let size = |entry: std::fs::DirEntry| match entry.metadata().unwrap() {
            metadata if metadata.is_dir() => size(&entry.path()),
            metadata => metadata.len(),
        };
        entries.map(size).sum()
    }
    let place = Place::new();
    place.database("app.db", 3);
    let toml = "[[database]]\npath = \"app.db\"\nbackup = \"app.db-backup\"\nupload_interval = \"60s\"\n";
    std::fs::write(place.path("litekeep.toml"), toml).unwrap();
    let replicator = Process::start(place.command(&["replicate"]), &place.path("log")).unwrap();
    let is_green = || Ok(place.run(&["status"]).code == 0);
    eventually("the status is green", SOON, is_green).unwrap();
    // The first is uploaded at once, the others together at the end, which packs tell apart.
    let db = Connection::open(place.path("app.db")).unwrap();
    db.execute("INSERT INTO t (x) VALUES ('first')", ()).unwrap();
    eventually("it is uploaded", SOON, is_green).unwrap();
    db.execute_batch("INSERT INTO t (x) VALUES ('a'); INSERT INTO t (x) VALUES ('b')").unwrap();
    assert!(replicator.terminate(SOON).unwrap().success());
    let packs = std::fs::read_dir(place.path("app.db-backup/litekeep/commits")).unwrap().count();
    assert!(packs > 0, "it has single commits");
    let status = place.run(&["status", "--json"]).json();
    let told = status["databases"][0]["backups"][0]["contents"]["size_bytes"].as_u64();
    assert_eq!(told, Some(size(&place.path("app.db-backup"))));
}

#[test]
fn status_says_what_the_replicator_says_is_wrong() {
    let place = Place::new();
    place.database("app.db", 300);
    place.run(&["init", "app.db"]).succeeded();
    place.run(&["replicate", "-once"]).succeeded();
    for suffix in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(place.path(&format!("app.db{suffix}")));
    }
    std::fs::remove_dir_all(place.path(".app.db-litekeep")).unwrap();
    place.database("app.db", 200);

    let replicator = Process::start(place.command(&["replicate"]), &place.path("log")).unwrap();
    let refused = || {
        let status = place.run(&["status"]);
        Ok(status.code == 1 && status.stdout.contains("! refused at 20"))
    };
    if let Err(error) = eventually("the status says why", SOON, refused) {
        panic!("{error}\n{}{}", place.run(&["status"]).stdout, replicator.output());
    }
    let status = place.run(&["status"]).stdout;
    assert!(
        status.contains("it seems to be another database") && status.contains("--new-timeline"),
        "{status}"
    );
    replicator.kill().unwrap();
}

#[test]
fn verify_proves_the_live_database_and_finds_a_page_that_differs() {
    let place = Place::new();
    place.database("app.db", 30);
    place.run(&["init", "app.db"]).succeeded();
    let replicator = Process::start(place.command(&["replicate"]), &place.path("log")).unwrap();
    let green = || Ok(place.run(&["status"]).code == 0);
    eventually("the status is green", SOON, green).unwrap();
    let proven = place.run(&["verify", "app.db"]).succeeded().stdout;
    assert!(proven.contains("proven: app.db from ./app.db-backup"), "{proven}");
    let status = place.run(&["status", "--json"]).json();
    assert_eq!(status["databases"][0]["backups"][0]["contents"]["last_proof"]["proven"], true);
    assert!(replicator.terminate(SOON).unwrap().success());

    // Bytes of the live file that no commit wrote.
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::options().write(true).open(place.path("app.db")).unwrap();
    file.write_all_at(b"changed by nobody", 2 * 4096 - 100).unwrap();
    let ran = place.run(&["verify", "--patience", "0", "app.db"]);
    assert_eq!(ran.code, 1, "{}{}", ran.stdout, ran.stderr);
    assert!(ran.stdout.contains("1 pages differ: 2"), "{}", ran.stdout);
    assert!(place.run(&["status"]).stdout.contains("failed: 1 pages differ"));
    let left = std::fs::read_dir(place.path(".")).unwrap();
    let left = left.filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().contains("verify"));
    assert_eq!(left.count(), 0, "scratch folders are removed");
}

#[test]
fn verification_runs_on_schedule_beside_the_replication() {
    let place = Place::new();
    place.database("app.db", 10);
    let text = "[[database]]\npath = \"app.db\"\nbackup = \"./backup\"\nverify = { every = \"1s\" }\n";
    std::fs::write(place.path("litekeep.toml"), text).unwrap();
    let replicator = Process::start(place.command(&["replicate"]), &place.path("log")).unwrap();
    let verified = || Ok(replicator.output().matches("verified: a restore gives").count() >= 2);
    if let Err(error) = eventually("two verifications are made", SOON, verified) {
        panic!("{error}\n{}", replicator.output());
    }
    let status = place.run(&["status", "--json"]).json();
    assert_eq!(status["databases"][0]["backups"][0]["contents"]["last_proof"]["proven"], true, "{status:#}");
    assert!(replicator.terminate(SOON).unwrap().success());
}

#[test]
fn a_backup_of_litestream_0_3_comes_back() {
    let place = Place::new();
    let app = place.database("app.db", 20);
    let folder = place.path("former");
    let replica = Replica::Folder(folder.clone());
    let setup = Setup { db: app.clone(), replica, interval: Duration::from_millis(50) };
    let mut litestream = Litestream::install_v3().unwrap().replicate(&place.path("."), &setup).unwrap();
    let entries = |dir: &std::path::Path| {
        std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect::<Vec<_>>()
    };
    let is_there = || {
        let generations = entries(&folder.join("generations"));
        let whole = generations.iter().any(|dir| !entries(&dir.join("snapshots")).is_empty());
        Ok(litestream.is_running()? && whole)
    };
    eventually("a snapshot is there", SOON, is_there).unwrap();
    litestream.terminate(SOON).unwrap();

    let planned = place.run(&["restore", "-dry-run", "-json", "-o", "back.db", "former"]).succeeded().json();
    shapes::matches("restore-dry-run", &planned);
    assert!(planned["txid"].is_null() && planned["read_bytes"].as_u64() > Some(0), "{planned:#}");
    let ran = place.run(&["restore", "-json", "-o", "back.db", "former"]).succeeded().json();
    shapes::matches("restore", &ran);
    assert!(ran["restored"] == true && ran["page_size"] == 4096, "{ran:#}");
    assert_eq!(ran["database_bytes"], std::fs::metadata(place.path("back.db")).unwrap().len(), "{ran:#}");
    assert_eq!(rows(&place.path("back.db")), 20);
    place.run(&["restore", "-o", "x.db", "-txid", "1", "former"]).failed_with(&["former"]);
}

#[test]
fn the_demo_brings_every_confirmed_commit_back() {
    let place = Place::new();
    let mut command = place.command(&["demo", "--seconds", "1", "--json"]);
    let output = command.env("TMPDIR", place.path(".")).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    let found: serde_json::Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}\n{stderr}", output.status));
    shapes::matches("demo", &found);
    assert!(output.status.success() && found["ok"] == true, "{found:#}");
    assert!(stderr.is_empty(), "{stderr}");
    let number =
        |part: &str, key: &str| found[part][key].as_f64().unwrap_or_else(|| panic!("{key}: {found:#}"));
    for (part, keys) in [
        (
            "load",
            &["commits", "commits_per_second", "uploads", "uploaded_bytes", "lag_p50_ms", "lag_p99_ms"][..],
        ),
        ("after_loss", &["restore_seconds", "database_bytes"][..]),
        ("before_delete", &["deleted_accounts", "restore_seconds"][..]),
    ] {
        for key in keys {
            assert!(number(part, key) > 0.0, "{key}: {found:#}");
        }
    }
    assert_eq!(number("after_loss", "confirmed_but_missing"), 0.0, "{found:#}");
    assert_eq!(number("before_delete", "missing_commits"), 0.0, "{found:#}");
    // Accounts, one row for each writer, and a line in the ledger for each commit that was not lost; a writer that was
    // killed between its last commit and the acknowledgement adds one.
    let kept = number("load", "commits") - number("after_loss", "lost_commits");
    let (accounts, writers) = (found["accounts"].as_f64().unwrap(), found["writers"].as_f64().unwrap());
    let more = number("after_loss", "rows_checked") - accounts - writers - kept;
    assert!((0.0..=writers).contains(&more), "{more}: {found:#}");
    assert_eq!(std::fs::read_dir(place.path(".")).unwrap().count(), 0, "the temporary folder is gone");
}
