//! Goal: who asks a stack learns what is so and what to type. Method: the real binary, asked also by another user and at moments at
//! which its answers were wrong.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use litekeep_testkit::process::eventually;
use rusqlite::Connection;

use super::{Up, configure, free_port, migration, process, reaches, said, status, up};
use crate::scene::LONG;
use crate::{Place, Ran};

const APP: &str = "[process.app]\ncommand = \"sleep 1000\"\n";

fn open(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// It was told that nothing is up, or that a pipe is broken.
#[test]
fn another_user_is_refused_also_where_the_socket_is_open_to_all() {
    if litekeep_env::user_id() != Some(0) {
        return eprintln!("only root can be another user");
    }
    let place = Place::new();
    configure(&place, "", APP);
    // Where it was built need not be open to all.
    let program = place.path("program");
    std::fs::copy(env!("CARGO_BIN_EXE_litekeep"), &program).unwrap();
    open(place.dir.path(), 0o755);
    let running = up(&place);
    let before = reaches(&place, "app", "healthy");
    let is_refused = |how: &str| {
        for arguments in [&["status"][..], &["stop", "app"], &["down"], &["logs"], &["top"]] {
            let mut command = Command::new(&program);
            command.args(arguments).current_dir(place.dir.path()).env_clear().uid(65534).gid(65534);
            let ran = Ran::of(command);
            let is_told = ran.stderr.contains("only the user that runs `litekeep up`, and root, may ask it");
            assert!(ran.code == 2 && is_told, "{how}, {arguments:?}: {}{}", ran.stdout, ran.stderr);
        }
    };
    is_refused("a folder of its own");
    open(&place.path(".litekeep"), 0o755);
    is_refused("a socket of its own");
    open(&place.path(".litekeep/control.sock"), 0o666);
    is_refused("a socket that is open to all");
    assert_eq!(process(&place, "app")["pid"], before["pid"], "nothing of it was done");
    running.end();
}

/// An ordinary end was an error for who followed: "ended before it had answered".
#[test]
fn who_follows_is_told_of_the_end() {
    let place = Place::new();
    configure(&place, "", "[process.app]\ncommand = \"echo hello; exec sleep 1000\"\n");
    let running = up(&place);
    reaches(&place, "app", "healthy");
    let follow = |what: &str| {
        let (out, err) = (place.path(&format!("{what}.out")), place.path(&format!("{what}.err")));
        let mut command = place.command(&[what, "-f"]);
        command.stdout(std::fs::File::create(&out).unwrap()).stderr(std::fs::File::create(&err).unwrap());
        let child = command.spawn().unwrap();
        let follows = || Ok(std::fs::metadata(&out).unwrap().len() > 0);
        eventually("it follows", LONG, follows).unwrap();
        (child, err)
    };
    let followers = ["logs", "events"].map(follow);
    place.run(&["down"]).succeeded();
    for (mut child, err) in followers {
        let (status, said) = (child.wait().unwrap(), std::fs::read_to_string(err).unwrap());
        assert!(status.success() && said == "it has ended\n", "{status}: {said}");
    }
    drop(running);
}

/// `litekeep replicate` was to be started, beside the `up` that replicates.
#[test]
fn a_database_that_the_application_has_not_made_yet_is_waited_for() {
    let place = Place::new();
    configure(&place, "", APP);
    let down = place.run(&["status"]).stdout;
    assert!(down.contains("no replicator is running: start `litekeep up`"), "{down}");
    let running = up(&place);
    reaches(&place, "app", "healthy");
    for arguments in [&["status"][..], &["status", "app.db"]] {
        let told = place.run(arguments);
        let waits = "! `litekeep up` waits for the application to create it";
        assert!(told.code == 1 && told.stdout.contains(waits), "{}{}", told.stdout, told.stderr);
        assert!(!told.stdout.contains("no replicator"), "{}", told.stdout);
    }
    place.database("app.db", 3);
    eventually("it is replicated", LONG, || Ok(place.run(&["status"]).code == 0)).unwrap();
    running.end();
}

/// It stood there once more in the error.
#[test]
fn what_was_shown_while_the_background_began_is_not_said_again() {
    let place = Place::new();
    place.database("app.db", 3);
    configure(&place, "migrations = { command = 'sleep 4; echo out of luck >&2; exit 1' }", APP);
    let ran = place.run(&["up", "--detach"]);
    let count = |text: &str| ran.stderr.matches(text).count();
    assert_eq!((ran.code, count("have been running for 2 s")), (2, 1), "{}", ran.stderr);
    assert!(count("out of luck") >= 1 && count("up.log` has what it said") == 1, "{}", ran.stderr);
}

/// The message named none.
#[test]
fn of_several_databases_the_one_whose_migration_failed_is_named() {
    let place = Place::new();
    migration(&place, 1, "CREATE TABLE t(x);");
    std::fs::create_dir(place.path("bad")).unwrap();
    std::fs::write(place.path("bad/2_step.sql"), "-- migrate:up\nDELETE FROM nowhere;\n").unwrap();
    let database = |name: &str, folder: &str| {
        format!(
            "[[database]]\npath = \"{name}.db\"\nbackup = \"./{name}-backup\"\nmigrations = \"{folder}\"\n"
        )
    };
    let write = |of_b: &str| {
        let toml = format!("{}{}{APP}", database("a", "migrations"), database("b", of_b));
        std::fs::write(place.path("litekeep.toml"), toml).unwrap();
    };
    write("bad");
    let ran = place.run(&["up"]);
    let named = |stderr: &str| {
        let line = stderr.lines().find(|line| line.contains("run the migrations of"));
        line.unwrap_or_else(|| panic!("{stderr}")).to_owned()
    };
    let line = named(&ran.stderr);
    assert!(line.contains("b.db`; those of `") && line.ends_with("a.db` have run"), "{}", ran.stderr);
    assert!(ran.code == 2 && ran.stderr.contains("no such table: nowhere"), "{}", ran.stderr);
    write("migrations");
    let running = up(&place);
    reaches(&place, "app", "healthy");
    write("bad");
    let ran = place.run(&["reload"]);
    let line = named(&ran.stderr);
    assert!(line.ends_with("b.db`") && ran.stderr.contains("no such table: nowhere"), "{}", ran.stderr);
    running.end();
}

/// It was away without a word.
#[test]
fn a_reload_says_who_is_away_until_the_new_one_is_ready() {
    let place = Place::new();
    let held = format!("[process.held]\ncommand = \"sleep 1000\"\nlisten = \"127.0.0.1:{}\"\n", free_port());
    configure(&place, "", &format!("{}{held}", APP.replace("app", "own")));
    let running = up(&place);
    reaches(&place, "own", "healthy");
    reaches(&place, "held", "healthy");
    let warnings = || place.run(&["reload", "--json"]).succeeded().json()["warnings"].clone();
    let own = "`own` is away until the new one is ready; `proxy` avoids that";
    assert_eq!(warnings(), serde_json::json!([own]));
    assert_eq!(warnings(), serde_json::json!([]), "once");
    place.run(&["reload", "own"]).succeeded();
    let names = status(&place)["stack"]["processes"].as_array().unwrap().clone();
    let names: Vec<_> = names.iter().map(|process| &process["name"]).collect();
    assert_eq!(names, ["own", "held"], "as the configuration has them");
    running.end();
}

/// There was no process of its name.
#[test]
fn stop_ends_the_run_of_a_job_and_its_schedule_stays() {
    let place = Place::new();
    let long = "[job.long]\ncommand = \"sleep 1000\"\ncron = \"0 3 1 1 *\"\n";
    configure(&place, "", &format!("{APP}{long}"));
    let running = up(&place);
    reaches(&place, "app", "healthy");
    let job = || status(&place)["stack"]["jobs"][0].clone();
    for runs in 1..=2 {
        place.run(&["start", "long"]).succeeded();
        eventually("it runs", LONG, || Ok(job()["running_since"].is_string())).unwrap();
        place.run(&["stop", "long", "app"]).succeeded();
        let stopped = job();
        assert!(stopped["running_since"].is_null() && stopped["next_due"].is_string(), "{stopped}");
        assert_eq!(stopped["history"].as_array().unwrap().len(), runs, "{stopped}");
        assert_eq!(stopped["history"][0]["outcome"], "it was stopped", "{stopped}");
        assert_eq!(process(&place, "app")["state"], "stopped");
    }
    for verb in ["restart", "reload"] {
        let parts = ["`long` is a job", "`litekeep stop long`", "`litekeep start long`"];
        place.run(&[verb, "long"]).failed_with(&parts);
    }
    running.end();
}

/// A reader keeps the WAL, and the place of the backup goes: each makes the process unhealthy, and its end makes it healthy again.
#[test]
fn the_check_of_a_database_sees_its_wal_and_how_far_the_backup_is_behind() {
    let place = Place::new();
    place.database("app.db", 3);
    let check = |name: &str, key: &str| {
        format!(
            "[process.{name}]\ncommand = \"sleep 1000\"\n\
             health = {{ type = \"sqlite\", path = \"app.db\", {key}, interval = \"200ms\", failures = 1, start_period = \"0s\" }}\n"
        )
    };
    let checks = check("wal", "max_wal = \"4MiB\"") + &check("lag", "max_lag = \"2s\"");
    configure(&place, "", &checks);
    let running = up(&place);
    reaches(&place, "wal", "healthy");
    reaches(&place, "lag", "healthy");
    let app = Connection::open(place.path("app.db")).unwrap();
    let reader = Connection::open(place.path("app.db")).unwrap();
    reader.execute_batch("BEGIN; SELECT count(*) FROM t").unwrap();
    let mut rows = reader.prepare("SELECT n FROM t").unwrap();
    let mut held = rows.query(()).unwrap();
    held.next().unwrap();
    let fill = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 6000)
        INSERT INTO t(x) SELECT hex(randomblob(500)) FROM n";
    app.execute_batch(fill).unwrap();
    let large = reaches(&place, "wal", "unhealthy");
    assert!(large["reason"].as_str().unwrap().contains("its WAL has "), "{large}");
    drop(held);
    drop(rows);
    drop(reader);
    // It begins anew, and its file keeps its size.
    eventually("the WAL is small", LONG, || {
        app.execute_batch("INSERT INTO t(x) VALUES('one more')")?;
        Ok(process(&place, "wal")["state"] == "healthy")
    })
    .unwrap();

    // A file in the place of a folder refuses every upload.
    reaches(&place, "lag", "healthy");
    let (folder, aside) = (place.path("backup/ltx"), place.path("aside"));
    std::fs::rename(&folder, &aside).unwrap();
    std::fs::write(&folder, "").unwrap();
    app.execute_batch("INSERT INTO t(x) VALUES('waits')").unwrap();
    let behind = reaches(&place, "lag", "unhealthy");
    assert!(behind["reason"].as_str().unwrap().contains("its backup is "), "{behind}\n{}", said(&place));
    std::fs::remove_file(&folder).unwrap();
    std::fs::rename(&aside, &folder).unwrap();
    reaches(&place, "lag", "healthy");
    running.end();
}

/// A database that comes by a reload is neither restored nor replicated, so nobody may begin with it.
#[test]
fn a_reload_begins_with_no_database_that_only_up_makes_fit() {
    let place = Place::new();
    place.database("other.db", 3);
    place.run(&["replicate", "-once", "other.db", "./kept"]).succeeded();
    for suffix in ["", "-wal", "-shm"] {
        _ = std::fs::remove_file(place.path(&format!("other.db{suffix}")));
    }
    let app = "[process.app]\ncommand = \"sleep 1000\"\n";
    configure(&place, "", app);
    let running = up(&place);
    reaches(&place, "app", "healthy");
    migration(&place, 1, "CREATE TABLE more(x);");
    let other = "[[database]]\npath = \"other.db\"\nbackup = \"./kept\"\nmigrations = \"migrations\"\n";
    let user = "[process.user]\ncommand = \"sleep 1000\"\ndepends_on = { \"other.db\" = \"migrated\" }\n";
    configure(&place, "", &format!("{app}{other}{user}"));
    place
        .run(&["reload"])
        .failed_with(&["other.db` has come to the configuration and is not there", "litekeep down"]);
    assert!(!place.path("other.db").exists());

    // One that is there is not migrated, so nobody who counts on that begins.
    place.run(&["restore", "-o", "other.db", "./kept"]).succeeded();
    place.run(&["reload"]).failed_with(&["`user` waits for the database", "has come to the configuration"]);
    configure(&place, "", &format!("{app}{other}"));
    let reloaded = place.run(&["reload", "--json"]).succeeded().json();
    assert!(reloaded["warnings"].to_string().contains("other.db` has changed"), "{reloaded:#}");
    let other = rusqlite::Connection::open(place.path("other.db")).unwrap();
    assert!(other.prepare("SELECT * FROM more").is_err(), "its migrations wait for `up`, too");
    running.end();
}

/// What it writes after the end would be in no backup.
#[test]
fn the_end_ends_a_program_that_migrates_with_all_that_it_started() {
    let place = Place::new();
    place.database("app.db", 1);
    let program = "migrations = { command = 'sleep 1000 & echo $! > pid; wait' }";
    configure(&place, program, "[process.app]\ncommand = \"sleep 1000\"\n");
    let mut running = up(&place);
    let pid = || std::fs::read_to_string(place.path("pid")).unwrap_or_default().trim().to_owned();
    eventually("it migrates", LONG, || Ok(!pid().is_empty())).unwrap();
    place.run(&["down"]).succeeded();
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid())).unwrap_or_default();
    assert!(stat.is_empty() || stat.contains(") Z "), "{stat}");
    assert!(running.wait().success());
}

/// `up` and `reload` waited until that had ended, too.
#[test]
fn what_a_program_that_migrates_leaves_running_is_not_waited_for() {
    let place = Place::new();
    place.database("app.db", 1);
    let daemon = "while test -e app.db && ! test -e go; do sleep 0.05; done; echo said >&2; touch went; exec sleep 300";
    let program = format!("migrations = {{ command = 'test -e pid || {{ ({daemon}) & echo $! > pid; }}' }}");
    configure(&place, &program, APP);
    let running = up(&place);
    reaches(&place, "app", "healthy");
    place.run(&["reload"]).succeeded();
    // Nor is it ended by what it says.
    std::fs::write(place.path("go"), "").unwrap();
    eventually("it goes on", LONG, || Ok(place.path("went").exists())).unwrap();
    running.end();
    let pid = std::fs::read_to_string(place.path("pid")).unwrap();
    _ = Command::new("kill").arg(pid.trim()).status();
}

/// It looked for its own file, in whose place was another: each reload failed, also with nothing pending.
#[test]
fn a_stack_goes_on_after_its_program_was_replaced() {
    let place = Place::new();
    place.database("app.db", 1);
    let program = place.path("litekeep-1");
    std::fs::copy(env!("CARGO_BIN_EXE_litekeep"), &program).unwrap();
    let who = "migrations = { command = 'tr \"\\0\" \" \" < /proc/$PPID/cmdline > called; cat /proc/$PPID/comm > named; readlink /proc/$PPID/exe > is' }";
    configure(&place, who, APP);
    let mut command = Command::new(&program);
    command
        .arg("up")
        .current_dir(place.dir.path())
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap());
    let running = Up::start(command, &place);
    reaches(&place, "app", "healthy");
    std::fs::write(place.path("other"), "no program at all").unwrap();
    std::fs::rename(place.path("other"), &program).unwrap();
    place.run(&["reload"]).succeeded();
    let told = |name: &str| std::fs::read_to_string(place.path(name)).unwrap();
    assert!(
        told("called").starts_with(&format!("{} migrate up --json", program.display())),
        "{}",
        told("called")
    );
    assert_eq!(told("named"), "litekeep-1\n");
    assert_eq!(told("is"), format!("{} (deleted)\n", program.display()), "that which began runs on");
    running.end();
}

/// A start that waits for another's transaction seemed to do nothing.
#[test]
fn a_start_says_whose_lock_its_migrations_wait_for() {
    let place = Place::new();
    let app = Connection::open(place.database("app.db", 1)).unwrap();
    migration(&place, 1, "CREATE TABLE more(x);");
    configure(&place, "migrations = \"migrations\"", APP);
    app.execute_batch("BEGIN IMMEDIATE").unwrap();
    let running = up(&place);
    let waits = format!("process {} (", std::process::id());
    eventually("it says so", LONG, || {
        Ok(said(&place).lines().any(|line| line.contains("WARN") && line.contains(&waits)))
    })
    .unwrap_or_else(|error| panic!("{error}: {}", said(&place)));
    app.execute_batch("COMMIT").unwrap();
    reaches(&place, "app", "healthy");
    assert!(app.table_exists(None, "more").unwrap());
    running.end();
}

#[test]
fn a_reload_says_of_all_that_failed() {
    let place = Place::new();
    let configured = |a: &str, b: &str, more: &str| {
        configure(
            &place,
            "",
            &format!("[process.a]\ncommand = \"{a}\"\n[process.b]\ncommand = \"{b}\"\n{more}"),
        );
    };
    configured("sleep 1000", "sleep 1000", "");
    let running = up(&place);
    reaches(&place, "b", "healthy");
    configured("false", "exit 9", "[process.c]\ncommand = \"sleep 1000\"\n");
    place.run(&["reload"]).failed_with(&["`a`", "`b`", "exit code 9", "started `c`"]);
    reaches(&place, "a", "healthy");
    running.end();
}

/// A check of a container that asks `status` would end it for a mistake in a file that nobody has taken.
#[test]
fn the_status_is_that_of_the_configuration_that_runs() {
    let place = Place::new();
    let app = "[process.app]\ncommand = \"sleep 1000\"\n";
    place.database("app.db", 1);
    configure(&place, "", app);
    let running = up(&place);
    reaches(&place, "app", "healthy");
    eventually("it is replicated", LONG, || Ok(place.run(&["status"]).code == 0)).unwrap();
    configure(&place, "", &format!("{app}a mistake\n"));
    let status = place.run(&["status"]);
    assert_eq!(status.code, 0, "{}{}", status.stdout, status.stderr);
    assert!(
        status.stderr.contains("`litekeep reload` will not take this configuration"),
        "{}",
        status.stderr
    );
    assert!(status.stdout.contains("app.db") && status.stdout.contains("healthy"), "{}", status.stdout);
    running.end();
    place.run(&["status"]).failed_with(&["this is not TOML"]);
}
