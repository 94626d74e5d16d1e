//! Goal: a reload that is refused has touched nothing, one that finds something unfit does all the rest, and what is shown afterwards is
//! what is in force. Method: the real binary with processes whose scripts are broken and mended.

use std::io::Write as _;
use std::process::{Child, Stdio};
use std::time::Duration;

use litekeep_testkit::process::eventually;
use rusqlite::Connection;
use serde_json::{Value, json};

use super::{configure, migration, process, reaches, said, status, up};
use crate::scene::LONG;
use crate::{Place, Ran, shapes};

const FOREVER: &str = "exec sleep 1000\n";

/// At once: who reads half of a script ends well.
fn write(place: &Place, name: &str, content: &str) {
    std::fs::write(place.path("new"), content).unwrap();
    std::fs::rename(place.path("new"), place.path(name)).unwrap();
}

/// Processes that run scripts of their names, with keys of their own.
fn scripts(names: &[&str], keys: &str) -> String {
    let one = |name: &&str| format!("[process.{name}]\ncommand = \"sh {name}.sh\"\n{keys}\n");
    names.iter().map(one).collect()
}

/// What is asked while the test goes on.
fn begin(place: &Place, arguments: &[&str]) -> Child {
    place.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn ended(child: Child) -> Ran {
    Ran::from(child.wait_with_output().unwrap())
}

fn jobs(place: &Place) -> Value {
    let all = status(place)["stack"]["jobs"].as_array().unwrap().clone();
    all.iter().map(|job| (job["name"].as_str().unwrap().to_owned(), job["schedule"].clone())).collect()
}

/// The first that was unfit ended it: what came after it had no new run, no hook was taken, and nobody tried what had failed.
#[test]
fn a_reload_goes_on_after_one_that_is_unfit_and_tries_what_has_failed() {
    let place = Place::new();
    let names = ["a", "b", "c", "failed"];
    for name in names {
        write(&place, &format!("{name}.sh"), FOREVER);
    }
    write(&place, "failed.sh", "exit 3\n");
    let processes = scripts(&names, "restart_limit = 1");
    configure(&place, "", &processes);
    let running = up(&place);
    let before = ["a", "b", "c"].map(|name| reaches(&place, name, "healthy")["pid"].clone());
    reaches(&place, "failed", "failed");
    write(&place, "failed.sh", FOREVER);
    write(&place, "b.sh", "echo out of luck >&2; exit 1\n");
    let more = "[process.c.hooks]\nstopped = \"echo $LITEKEEP_EVENT > hooked\"\n\
                [job.nightly]\ncommand = \"true\"\ncron = \"0 3 * * *\"\n";
    configure(&place, "", &format!("{processes}{more}"));
    place.run(&["reload"]).failed_with(&["reload `b`", "reloaded `a`, `c`, `failed`"]);
    assert!(reaches(&place, "a", "healthy")["pid"] != before[0]);
    assert!(reaches(&place, "c", "healthy")["pid"] != before[2]);
    assert_eq!(process(&place, "failed")["state"], "healthy");
    assert_eq!(jobs(&place), json!({ "nightly": "0 3 * * *" }));
    place.run(&["stop", "c"]).succeeded();
    let hooked = || Ok(std::fs::read_to_string(place.path("hooked")).is_ok_and(|text| text == "stopped\n"));
    eventually("its hook runs", LONG, hooked).unwrap();

    // By name, and one that fails again.
    write(&place, "failed.sh", "echo no luck >&2; exit 4\n");
    place.run(&["restart", "failed"]).succeeded();
    reaches(&place, "failed", "failed");
    place.run(&["reload", "failed"]).failed_with(&["start `failed`: exit code 4", "no luck"]);
    write(&place, "failed.sh", FOREVER);
    let reloaded = place.run(&["reload", "failed", "--json"]).succeeded().json();
    assert_eq!(reloaded["reloaded"], json!(["failed"]));
    assert_eq!(process(&place, "failed")["state"], "healthy");
    running.end();
}

/// Its migrations had run by then, and its jobs had been taken.
#[test]
fn a_reload_that_is_refused_has_touched_nothing() {
    let place = Place::new();
    migration(&place, 1, "CREATE TABLE t(x);");
    let rest = |command: &str, hour: u32, turn: &str| {
        configure(
            &place,
            "migrations = \"migrations\"",
            &format!(
                "[process.app]\ncommand = {command:?}\n\
                 [job.nightly]\ncommand = \"true\"\ncron = \"0 {hour} * * *\"\n{turn}"
            ),
        );
    };
    let as_process = "[process.turn]\ncommand = \"sleep 1000\"\n";
    rest("sleep 1000", 3, as_process);
    let running = up(&place);
    let app = reaches(&place, "app", "healthy");
    reaches(&place, "turn", "healthy");
    migration(&place, 2, "CREATE TABLE u(x);");
    let has_migrated = || Connection::open(place.path("app.db")).unwrap().table_exists(None, "u").unwrap();
    rest("./nosuch", 5, as_process);
    place.run(&["reload"]).failed_with(&["./nosuch"]);
    assert_eq!((jobs(&place), has_migrated()), (json!({ "nightly": "0 3 * * *" }), false));
    assert_eq!(process(&place, "app")["pid"], app["pid"]);

    // A process becomes a job of its name, and a process again.
    rest("sleep 1000", 3, "[job.turn]\ncommand = \"true\"\nevery = \"1h\"\n");
    let reloaded = place.run(&["reload", "--json"]).succeeded().json();
    assert_eq!(reloaded["stopped"], json!(["turn"]), "{reloaded}");
    assert!(has_migrated() && jobs(&place)["turn"] == "every 1h", "{}", jobs(&place));
    rest("sleep 1000", 3, as_process);
    let reloaded = place.run(&["reload", "--json"]).succeeded().json();
    assert_eq!(reloaded["started"], json!(["turn"]), "{reloaded}");
    reaches(&place, "turn", "healthy");
    running.end();
}

/// `status` had those of the new file, and `stop` did not know one that was due as before.
#[test]
fn a_reload_by_name_shows_the_jobs_that_are_in_force() {
    let place = Place::new();
    let rest = |hour: u32, more: &str| {
        let app = "[process.app]\ncommand = \"sleep 1000\"\n";
        let nightly = format!("[job.nightly]\ncommand = \"true\"\ncron = \"0 {hour} * * *\"\n");
        configure(&place, "", &format!("{app}{nightly}{more}"));
    };
    rest(3, "[job.weekly]\ncommand = \"true\"\ncron = \"@weekly\"\n");
    let running = up(&place);
    reaches(&place, "app", "healthy");
    let before = jobs(&place);
    rest(5, "");
    place.run(&["reload", "app"]).succeeded();
    assert_eq!(jobs(&place), before);
    place.run(&["stop", "weekly"]).succeeded();
    place.run(&["reload"]).succeeded();
    assert_eq!(jobs(&place), json!({ "nightly": "0 5 * * *" }));
    running.end();
}

/// They waited for it, without a word.
#[test]
fn a_stop_of_everything_ends_a_reload_but_not_its_migrations() {
    let place = Place::new();
    place.database("app.db", 1);
    write(&place, "ready", "");
    let migrations = "migrations = { command = 'touch migrating; while test -e slow; do sleep 0.1; done' }";
    let check = "health = { command = \"test -e ready\" }\nready_timeout = \"10m\"\n";
    configure(&place, migrations, &format!("[process.app]\ncommand = \"sleep 1000\"\n{check}"));
    let running = up(&place);
    reaches(&place, "app", "healthy");
    std::fs::remove_file(place.path("migrating")).unwrap();
    std::fs::remove_file(place.path("ready")).unwrap();
    write(&place, "slow", "");
    let reload = begin(&place, &["reload"]);
    eventually("it migrates", LONG, || Ok(place.path("migrating").exists())).unwrap();
    for verb in ["stop", "start"] {
        place.run(&[verb]).failed_with(&["a reload is under way", &format!("`litekeep {verb} NAME`")]);
    }
    std::fs::remove_file(place.path("slow")).unwrap();
    eventually("it waits for the new one", LONG, || Ok(process(&place, "app")["reason"] == "in a reload"))
        .unwrap();
    place.run(&["start"]).failed_with(&["a reload is under way"]);
    place.run(&["stop"]).succeeded();
    assert_eq!(process(&place, "app")["state"], "stopped");
    ended(reload).failed_with(&["everything is being stopped"]);
    write(&place, "ready", "");
    place.run(&["start"]).succeeded();
    reaches(&place, "app", "healthy");
    running.end();
}

/// It ran with one configuration, and its hooks, and what is shown when the file is broken, were those of another.
#[test]
fn a_stop_while_only_new_runs_are_awaited_leaves_the_configuration_taken() {
    let place = Place::new();
    write(&place, "ready", "");
    let app = "[process.app]\ncommand = \"sleep 1000\"\nhealth = { command = \"test -e ready\" }\nready_timeout = \"10m\"\n";
    configure(&place, "", app);
    let running = up(&place);
    reaches(&place, "app", "healthy");
    std::fs::remove_file(place.path("ready")).unwrap();
    let more = format!(
        "[process.app.hooks]\nstopped = \"echo $LITEKEEP_EVENT > hooked\"\n{}\
         [job.nightly]\ncommand = \"true\"\ncron = \"0 3 * * *\"\n",
        scripts(&["fresh"], "")
    );
    write(&place, "fresh.sh", FOREVER);
    configure(&place, "", &format!("{app}{more}"));
    let reload = begin(&place, &["reload"]);
    let waits = || Ok(process(&place, "app")["reason"] == "in a reload");
    eventually("it waits for the new one", LONG, waits).unwrap();
    // Who has come is known by its name.
    place.run(&["stop", "fresh"]).succeeded();
    assert_eq!(process(&place, "fresh")["state"], "stopped");
    place.run(&["stop"]).succeeded();
    let parts = ["started `fresh`", "the configuration has been taken, but everything is being stopped"];
    ended(reload).failed_with(&parts);
    assert_eq!(jobs(&place), json!({ "nightly": "0 3 * * *" }));
    let hooked = || Ok(std::fs::read_to_string(place.path("hooked")).is_ok_and(|text| text == "stopped\n"));
    eventually("its hook runs", LONG, hooked).unwrap();
    let accepted = std::fs::read(place.path("litekeep.toml")).unwrap();
    write(&place, "ready", "");
    place.run(&["start"]).succeeded();
    reaches(&place, "app", "healthy");
    reaches(&place, "fresh", "healthy");
    let is_kept = |file: std::fs::DirEntry| std::fs::read(file.path()).is_ok_and(|text| text == accepted);
    let mut state = std::fs::read_dir(place.path(".litekeep")).unwrap();
    assert!(state.any(|file| is_kept(file.unwrap())), "the configuration is kept as accepted");
    running.end();
}

/// There was no process of its name until the reload was over.
#[test]
fn who_comes_in_a_reload_can_be_stopped_by_its_name_while_others_are_awaited() {
    let place = Place::new();
    write(&place, "ready", "");
    let slow = "[process.slow]\ncommand = \"sleep 1000\"\nhealth = { command = \"test -e ready\" }\nready_timeout = \"10m\"\n";
    configure(&place, "", slow);
    let running = up(&place);
    reaches(&place, "slow", "healthy");
    std::fs::remove_file(place.path("ready")).unwrap();
    write(&place, "fresh.sh", "echo hello\nexec sleep 1000\n");
    let changed = slow.replace("1000", "2000");
    configure(&place, "", &format!("{changed}{}", scripts(&["fresh"], "")));
    let reload = begin(&place, &["reload"]);
    eventually("the other one is awaited", LONG, || Ok(process(&place, "slow")["reason"] == "in a reload"))
        .unwrap();
    reaches(&place, "fresh", "healthy");
    assert_eq!(place.run(&["logs", "fresh"]).succeeded().stdout, "fresh | hello\n");
    place.run(&["stop", "fresh"]).succeeded();
    write(&place, "ready", "");
    ended(reload).succeeded();
    let names = status(&place)["stack"]["processes"].as_array().unwrap().clone();
    let names: Vec<_> = names.iter().map(|process| json!([process["name"], process["state"]])).collect();
    assert_eq!(names, [json!(["slow", "healthy"]), json!(["fresh", "stopped"])]);
    running.end();
}

/// It ran, and nobody could see or end it.
#[test]
fn a_job_that_a_reload_had_begun_before_a_stop_is_known() {
    let place = Place::new();
    let app = "[process.app]\ncommand = \"sleep 1000\"\n";
    configure(&place, "", app);
    let running = up(&place);
    reaches(&place, "app", "healthy");
    let job = |name: &str, hour: u32| {
        format!("[job.{name}]\ncommand = \"sleep 1000\"\ncron = \"0 {hour} 1 1 *\"\n")
    };
    configure(&place, "", &format!("{app}{}{}", job("first", 3), job("second", 4)));
    // Who reads when the second one was due waits there.
    let due = |name: &str| place.path(&format!(".litekeep/jobs/{name}"));
    std::fs::create_dir_all(due("second").parent().unwrap()).unwrap();
    litekeep_env::process::make_fifo(&due("second")).unwrap();
    let reload = begin(&place, &["reload"]);
    eventually("the first one is begun", LONG, || Ok(due("first").exists())).unwrap();
    place.run(&["stop"]).succeeded();
    ended(reload).failed_with(&["everything is being stopped"]);
    assert_eq!(jobs(&place), json!({ "first": "0 3 1 1 *" }));
    std::fs::write(due("second"), "").unwrap();
    eventually("the second one has its file", LONG, || Ok(due("second").metadata()?.is_file())).unwrap();
    place.run(&["start"]).succeeded();
    place.run(&["start", "first"]).succeeded();
    place.run(&["stop", "first"]).succeeded();
    let first = status(&place)["stack"]["jobs"][0].clone();
    assert_eq!(first["history"][0]["outcome"], "it was stopped", "{first}");
    place.run(&["reload"]).succeeded();
    assert_eq!(jobs(&place), json!({ "first": "0 3 1 1 *", "second": "0 4 1 1 *" }));
    running.end();
}

/// They were killed in the middle of their end, and their files were left.
#[test]
fn the_end_in_the_middle_of_a_reload_lets_new_processes_end_well() {
    let place = Place::new();
    write(&place, "ready", "");
    let slow = "[process.slow]\ncommand = \"sleep 1000\"\nhealth = { command = \"test -e ready\" }\nready_timeout = \"10m\"\n";
    configure(&place, "", slow);
    let mut running = up(&place);
    reaches(&place, "slow", "healthy");
    std::fs::remove_file(place.path("ready")).unwrap();
    let end = "trap 'sleep 1; echo well >ended; exit' TERM; echo >begun; while :; do sleep 0.1; done\n";
    write(&place, "fresh.sh", end);
    let changed = slow.replace("1000", "2000");
    configure(&place, "", &format!("{changed}{}", scripts(&["fresh"], "")));
    let reload = begin(&place, &["reload"]);
    eventually("the new one runs", LONG, || Ok(place.path("begun").exists())).unwrap();
    place.run(&["down"]).succeeded();
    assert_eq!(std::fs::read_to_string(place.path("ended")).unwrap_or_default(), "well\n");
    assert!(running.wait().success());
    ended(reload).failed_with(&["everything is being ended"]);
    let left = std::fs::read_dir(place.path(".litekeep/run")).unwrap().map(|file| file.unwrap().file_name());
    assert_eq!(left.collect::<Vec<_>>(), ["lock"]);
}

/// It rested for five minutes after the first failure.
#[test]
fn who_waits_for_a_backup_starts_when_an_outage_is_over() {
    let place = Place::new();
    place.database("app.db", 1);
    // A file in the place of a folder refuses every upload.
    std::fs::create_dir(place.path("backup")).unwrap();
    write(&place, "backup/ltx", "");
    let depends = "depends_on = { \"app.db\" = \"replicating\" }";
    configure(&place, "", &format!("[process.app]\ncommand = \"sleep 1000\"\n{depends}\n"));
    let running = up(&place);
    let has_failed = || Ok(place.run(&["top", "--json"]).stdout.contains("\"phase\": \"failing\""));
    eventually("it fails", LONG, has_failed).unwrap();
    // Time for several looks at the backup.
    std::thread::sleep(Duration::from_secs(1));
    let waiting = process(&place, "app");
    assert_eq!(waiting["state"], "waiting", "{waiting}");
    assert!(waiting["reason"].as_str().unwrap().contains("the first copy of"), "{waiting}");
    std::fs::remove_file(place.path("backup/ltx")).unwrap();
    reaches(&place, "app", "healthy");
    running.end();
}

/// It was taken for the one before, whose output nobody follows any more.
#[test]
fn the_output_of_a_process_that_comes_back_is_shown_and_of_one_that_is_gone_ends() {
    let place = Place::new();
    let web = |instances: u32| {
        let command = "command = \"echo this is $LITEKEEP_INSTANCE; exec sleep 1000\"";
        configure(&place, "", &format!("[process.web]\n{command}\ninstances = {instances}\n"));
    };
    web(1);
    let running = up(&place);
    let is_shown = |name: &str| {
        let process = reaches(&place, name, "healthy");
        let line = format!("| this is {}", process["instance"].as_str().unwrap());
        eventually(&line, LONG, || Ok(said(&place).contains(&line))).unwrap();
    };
    is_shown("web");
    let shown = place.path("shown");
    let mut logs = place.command(&["logs", "-f", "web"]);
    let mut logs = logs.stdout(std::fs::File::create(&shown).unwrap()).spawn().unwrap();
    let count = || std::fs::read_to_string(&shown).unwrap().lines().count();
    eventually("it is followed", LONG, || Ok(count() == 1)).unwrap();
    web(2);
    place.run(&["reload"]).succeeded();
    is_shown("web.1");
    is_shown("web.2");
    assert!(logs.wait().unwrap().success());
    assert_eq!(count(), 1);
    web(1);
    place.run(&["reload"]).succeeded();
    is_shown("web");
    running.end();
}

/// There were 500 at most, and none from before.
#[test]
fn as_many_lines_are_shown_as_the_file_has() {
    let place = Place::new();
    let app = |script: &str| configure(&place, "", &format!("[process.app]\ncommand = {script:?}\n"));
    app("seq 3000; exec sleep 1000");
    let running = up(&place);
    reaches(&place, "app", "healthy");
    let file = place.path(".litekeep/log/app.log");
    let count = || std::fs::read_to_string(&file).unwrap_or_default().lines().count();
    eventually("all is printed", LONG, || Ok(count() == 3000)).unwrap();
    let numbers = |from: u32, to: u32| (from..=to).map(|n| format!("app | {n}\n")).collect::<String>();
    assert_eq!(place.run(&["logs", "-n", "2000"]).succeeded().stdout, numbers(1001, 3000));
    assert_eq!(place.run(&["logs", "-n", "100", "app"]).succeeded().stdout, numbers(2901, 3000));
    running.end();
    app("echo again; exec sleep 1000");
    let running = up(&place);
    reaches(&place, "app", "healthy");
    let wanted = numbers(2997, 3000) + "app | again\n";
    assert_eq!(place.run(&["logs", "-n", "5"]).succeeded().stdout, wanted);
    let lines = place.run(&["logs", "-n", "2", "--json"]).succeeded().stdout;
    for line in lines.lines() {
        shapes::matches("logs", &serde_json::from_str(line).unwrap());
    }
    // What is not in the file is counted.
    std::fs::write(&file, "").unwrap();
    app("seq 3000; exec sleep 1000");
    place.run(&["reload"]).succeeded();
    eventually("all is printed", LONG, || Ok(count() == 3000)).unwrap();
    std::fs::write(&file, "").unwrap();
    let shown = place.run(&["logs", "-n", "2000"]).succeeded().stdout;
    assert!(shown.starts_with("app | [2501 lines are only in the file]\napp | 2501\n"), "{shown}");
    running.end();
}

/// Whichever stood in the row by then was restarted.
#[test]
fn top_restarts_the_one_that_it_asked_about() {
    let place = Place::new();
    let both = |first: &str, second: &str| {
        let one = |name: &str| format!("[process.{name}]\ncommand = \"sleep 1000\"\n");
        configure(&place, "", &(one(first) + &one(second)));
    };
    both("asked", "other");
    let running = up(&place);
    reaches(&place, "other", "healthy");
    let mut terminal = std::process::Command::new("script");
    let command = format!("stty rows 40 cols 120; {} top", env!("CARGO_BIN_EXE_litekeep"));
    terminal.args(["-qec", &command, "/dev/null"]).current_dir(place.dir.path()).env("TERM", "xterm");
    terminal.stdin(Stdio::piped()).stdout(std::fs::File::create(place.path("screen")).unwrap());
    let mut terminal = terminal.spawn().expect("script of util-linux");
    let mut keys = terminal.stdin.take().unwrap();
    let screen = || String::from_utf8_lossy(&std::fs::read(place.path("screen")).unwrap()).into_owned();
    eventually("it is drawn", LONG, || Ok(screen().contains("q quit"))).unwrap();
    keys.write_all(b"r").unwrap();
    eventually("it asks", LONG, || Ok(screen().contains("Restart asked?"))).unwrap();
    both("other", "asked");
    place.run(&["reload"]).succeeded();
    let pids = || ["asked", "other"].map(|name| process(&place, name)["pid"].clone());
    let before = pids();
    // It looks each second, and what it shows has the time.
    let mut lengths = vec![screen().len()];
    let has_looked = || {
        let length = screen().len();
        lengths.extend((lengths.last() != Some(&length)).then_some(length));
        Ok(lengths.len() > 3)
    };
    eventually("it has looked again", LONG, has_looked).unwrap();
    keys.write_all(b"y").unwrap();
    eventually("it is restarted", LONG, || Ok(pids() != before && !pids()[0].is_null())).unwrap();
    assert_eq!(pids()[1], before[1]);
    keys.write_all(b"q").unwrap();
    assert!(terminal.wait().unwrap().success());
    running.end();
}
