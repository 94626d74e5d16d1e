//! Goal: an application runs from one file, with its database, its backup and its operations. Method: the real binary
//! with real servers (Python) as its processes, asked by the commands that a user types.

mod asked;
mod background;
mod flood;
mod held_socket;
mod litestream;
mod reloads;
mod waits;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use litekeep_testkit::process::eventually;
use litekeep_testkit::{Digest, Process};
use rusqlite::Connection;
use serde_json::Value;

use crate::scene::LONG;
use crate::{Place, Ran, shapes};

/// An application: each request is a row, and is answered by the instance's name. `LISTEN_FDS` or `PORT` says where.
const SERVER: &str = r#"
import os, signal, socket, sqlite3, sys, time
db = sqlite3.connect("app.db", timeout=10, isolation_level=None)
db.execute("CREATE TABLE IF NOT EXISTS hits(instance TEXT)")
if os.environ.get("LISTEN_FDS"): s = socket.socket(fileno=3)
else:
    s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(("127.0.0.1", int(os.environ["PORT"]))); s.listen(100)
s.settimeout(0.05)
over = []
signal.signal(signal.SIGTERM, lambda *_: over.append(1))
print("listening", VERSION, flush=True)
if os.environ.get("NOTIFY_SOCKET"):
    socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"READY=1", os.environ["NOTIFY_SOCKET"].replace("@", "\0"))
while not over:
    try: c, _ = s.accept()
    except TimeoutError: continue
    c.settimeout(5)
    if not c.recv(4096): c.close(); continue
    db.execute("INSERT INTO hits VALUES (?)", (os.environ["LITEKEEP_INSTANCE"],))
    body = f"{VERSION} {os.environ['LITEKEEP_INSTANCE']}".encode()
    c.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    c.close()
db.close()
print("closed", flush=True)
"#;

fn write_server(place: &Place, version: u32) {
    std::fs::write(place.path("server.py"), format!("VERSION = {version}\n{SERVER}")).unwrap();
}

pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A configuration with one database and what else stands in it.
fn configure(place: &Place, database_keys: &str, rest: &str) {
    let toml = format!("[[database]]\npath = \"app.db\"\nbackup = \"./backup\"\n{database_keys}\n{rest}\n");
    std::fs::write(place.path("litekeep.toml"), toml).unwrap();
}

/// A stack that is up. What litekeep runs outlives it by design, so a test that fails must end it, too.
struct Up(Option<Process>, PathBuf);

impl Up {
    fn start(command: std::process::Command, place: &Place) -> Up {
        let says = place.path("up.out");
        Up(Some(Process::start(command, &says).unwrap()), says)
    }

    fn wait(&mut self) -> std::process::ExitStatus {
        self.0.take().unwrap().wait(LONG).unwrap()
    }

    /// SIGTERM: it must end well.
    fn end(mut self) {
        let status = self.0.take().unwrap().terminate(LONG).unwrap();
        assert!(status.success(), "{status}\n{}", std::fs::read_to_string(&self.1).unwrap_or_default());
    }

    fn kill(mut self) {
        self.0.take().unwrap().kill().unwrap();
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        if let Some(process) = self.0.take() {
            _ = process.terminate(Duration::from_secs(20));
        }
    }
}

fn up(place: &Place) -> Up {
    Up::start(place.command(&["up"]), place)
}

fn status(place: &Place) -> Value {
    let ran = place.run(&["status", "--json"]);
    serde_json::from_str(&ran.stdout).unwrap_or_else(|_| panic!("{}", ran.stderr))
}

fn process(place: &Place, name: &str) -> Value {
    let status = status(place);
    let all = status["stack"]["processes"].as_array().cloned().unwrap_or_default();
    all.into_iter().find(|process| process["name"] == name).unwrap_or_default()
}

/// Waits until a process is in a state.
fn reaches(place: &Place, name: &str, state: &str) -> Value {
    let is_there = || Ok(process(place, name)["state"] == state);
    if let Err(error) = eventually(&format!("{name} is {state}"), LONG, is_there) {
        panic!("{error}\n{:#}\n{}", status(place), said(place));
    }
    process(place, name)
}

fn said(place: &Place) -> String {
    std::fs::read_to_string(place.path("up.out")).unwrap_or_default()
}

fn get(port: u16) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port)))?;
    stream.set_read_timeout(Some(LONG))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: app\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let ok = answer.starts_with("HTTP/1.1 200");
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
    body.filter(|_| ok).ok_or_else(|| std::io::Error::other(answer))
}

#[test]
fn an_application_from_one_file() {
    let place = Place::new();
    let port = free_port();
    write_server(&place, 1);
    let rest = format!(
        "[process.web]\ncommand = \"python3 server.py\"\nenv = {{ PORT = \"{port}\" }}\n\
         health = {{ address = \"127.0.0.1:{port}\" }}\ndepends_on = {{ seed = \"completed_successfully\" }}\n\
         [process.seed]\ncommand = \"echo sowing; sleep 0.3; echo 'to stderr' >&2\"\nrestart = \"never\"\n\
         [process.replica-watcher]\ncommand = \"sleep 1000\"\ndepends_on = {{ \"app.db\" = \"replicating\" }}\n"
    );
    configure(&place, "", &rest);
    // Nothing is up: that is red, and the questions say what to do.
    let ran = place.run(&["status"]);
    assert_eq!(ran.code, 1, "{}{}", ran.stdout, ran.stderr);
    assert!(ran.stdout.contains("nothing runs them: `litekeep up` does"), "{}", ran.stdout);
    let ran = place.run(&["restart", "web"]);
    assert!(ran.code == 2 && ran.stderr.contains("`litekeep up` starts it"), "{}", ran.stderr);

    let mut running = up(&place);
    let web = reaches(&place, "web", "healthy");
    reaches(&place, "seed", "completed");
    reaches(&place, "replica-watcher", "healthy");
    assert!(get(port).unwrap().contains(web["instance"].as_str().unwrap()));
    eventually("everything is green", LONG, || Ok(status(&place)["ok"] == true)).unwrap();
    shapes::matches("stack", &status(&place)["stack"]);
    let text = place.run(&["status"]).succeeded().stdout;
    assert!(text.contains("PROCESS") && text.contains("web") && text.contains("healthy"), "{text}");

    // The socket is the user's own.
    let mode = |name: &str| place.path(name).metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(".litekeep"), mode(".litekeep/control.sock")), (0o700, 0o600));
    let ran = place.run(&["up"]);
    assert!(ran.code == 2 && ran.stderr.contains("is up already"), "{}", ran.stderr);

    let logs = place.run(&["logs", "seed"]).succeeded().stdout;
    assert_eq!(logs, "seed | sowing\nseed | to stderr\n");
    assert_eq!(std::fs::read_to_string(place.path(".litekeep/log/seed.log")).unwrap(), "sowing\nto stderr\n");
    assert!(said(&place).contains("| listening 1"), "{}", said(&place));
    let line = place.run(&["logs", "seed", "-n", "1", "--json"]).succeeded().stdout;
    shapes::matches("logs", &serde_json::from_str(&line).unwrap());

    shapes::matches("act", &place.run(&["restart", "web", "--json"]).succeeded().json());
    let again = reaches(&place, "web", "healthy");
    assert!(again["pid"] != web["pid"] && again["restarts"] == 0, "{again}");
    place.run(&["stop", "replica-watcher"]).succeeded();
    reaches(&place, "replica-watcher", "stopped");
    place.run(&["start", "replica-watcher"]).succeeded();
    reaches(&place, "replica-watcher", "healthy");
    let ran = place.run(&["stop", "wbe"]);
    assert!(ran.code == 2 && ran.stderr.contains("there are web, seed, replica-watcher"), "{}", ran.stderr);

    for _ in 0..20 {
        get(port).unwrap();
    }
    place.run(&["down"]).succeeded();
    assert!(running.wait().success());
    assert!(said(&place).contains("| closed"), "{}", said(&place));
    let ran = place.run(&["logs", "seed", "web", "-n", "1"]).succeeded();
    assert_eq!(ran.stdout, "web  | closed\nseed | to stderr\n");
    assert!(ran.stderr.contains("this is what the files have"), "{}", ran.stderr);
    // All is in the backup, and in the database file itself.
    let expected = Digest::of(&place.path("app.db")).unwrap();
    place.run(&["restore", "app.db", "-o", "restored.db"]).succeeded();
    assert_eq!(Digest::of(&place.path("restored.db")).unwrap(), expected);
    std::fs::copy(place.path("app.db"), place.path("alone.db")).unwrap();
    assert_eq!(Digest::of(&place.path("alone.db")).unwrap(), expected);
    assert!(!place.path(".litekeep/control.sock").exists());
}

#[test]
fn a_lost_database_is_back_before_the_application_starts() {
    let place = Place::new();
    place.database("app.db", 100);
    let expected = Digest::of(&place.path("app.db")).unwrap();
    configure(&place, "", "[process.app]\ncommand = \"stat -c %s app.db; sleep 1000\"\n");
    place.run(&["replicate", "-once"]).succeeded();
    for suffix in ["", "-wal", "-shm"] {
        _ = std::fs::remove_file(place.path(&format!("app.db{suffix}")));
    }
    let running = up(&place);
    reaches(&place, "app", "healthy");
    let logs = place.run(&["logs", "app"]).succeeded().stdout;
    assert!(
        logs.starts_with("app | ") && !logs.contains("| 0\n") && !logs.contains("No such file"),
        "{logs}"
    );
    running.end();
    assert_eq!(Digest::of(&place.path("app.db")).unwrap(), expected);
}

fn migration(place: &Place, version: u32, sql: &str) {
    std::fs::create_dir_all(place.path("migrations")).unwrap();
    let path = place.path(&format!("migrations/{version}_step.sql"));
    std::fs::write(path, format!("-- migrate:up\n{sql}\n")).unwrap();
}

/// A program that makes each version once, by SQL from a file.
const MIGRATE: &str = "
import os, sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute('CREATE TABLE IF NOT EXISTS version(n)')
n = db.execute('SELECT count(*) FROM version').fetchone()[0]
for sql in open('steps.sql').read().splitlines()[n:]:
    db.executescript('BEGIN; INSERT INTO version VALUES(1); ' + sql + '; COMMIT')
";

#[test]
fn another_program_migrates_under_the_guard_at_the_start_and_at_each_reload() {
    let place = Place::new();
    place.database("app.db", 3);
    std::fs::create_dir(place.path("app")).unwrap();
    std::fs::write(place.path("app/migrate.py"), MIGRATE).unwrap();
    let steps = |steps: &str| std::fs::write(place.path("app/steps.sql"), steps).unwrap();
    steps("CREATE TABLE a(x)\n");
    let migrations = "migrations = { command = \"python3 migrate.py {db}\", cwd = \"app\", rehearse = true }";
    configure(&place, migrations, "[process.app]\ncommand = \"sleep 1000\"\n");
    let up = up(&place);
    let first = reaches(&place, "app", "healthy");
    let has = |table: &str| {
        let connection = Connection::open(place.path("app.db")).unwrap();
        connection.table_exists(None, table).unwrap()
    };
    assert!(has("a"));
    let marks = || {
        let status = place.run(&["migrate", "status", "app.db", "--json"]).succeeded().json();
        shapes::matches("migrate-status", &status);
        assert_eq!(status["command"], "python3 migrate.py {db}");
        status["marks"].as_array().unwrap().len()
    };
    assert_eq!(marks(), 1);
    // Nothing to do: that leaves no mark, or the state before the last change would be forgotten.
    place.run(&["reload"]).succeeded();
    assert_eq!(marks(), 1);
    steps("CREATE TABLE a(x)\nCREATE TABLE b(x)\n");
    let ran = place.run(&["migrate", "up", "app.db", "--json"]).succeeded().json();
    shapes::matches("migrate-command", &ran);
    assert!(ran["changed"] == true && ran["rehearsed"] == true && has("b") && marks() == 2);
    let second = reaches(&place, "app", "healthy");
    assert!(second["pid"] != first["pid"]);
    // What it would lose is found on a copy, and nothing has happened.
    steps("CREATE TABLE a(x)\nCREATE TABLE b(x)\nDELETE FROM t\n");
    let ran = place.run(&["reload"]);
    assert!(ran.code == 2 && ran.stderr.contains("on the copy `t` would have 0 rows"), "{}", ran.stderr);
    assert_eq!(
        (crate::rows(&place.path("app.db")), process(&place, "app")["pid"].clone()),
        (3, second["pid"].clone())
    );
    place.run(&["migrate", "rehearse", "app.db"]).failed_with(&["migrates this database", "migrate undo"]);
    configure(
        &place,
        &migrations.replace("rehearse = true", "allow = [\"rows\"]"),
        "[process.app]\ncommand = \"sleep 1000\"\n",
    );
    place.run(&["reload"]).failed_with(&["`rows` cannot be allowed", "lost-rows, lost-object"]);
    up.end();
}

/// Only [[database]] was told.
#[test]
fn a_reload_says_of_everything_that_it_does_not_take() {
    let place = Place::new();
    let app = "[process.app]\ncommand = \"sleep 1000\"\n";
    configure(&place, "", app);
    let up = up(&place);
    reaches(&place, "app", "healthy");
    // The folder of migrations is taken.
    migration(&place, 1, "CREATE TABLE t(x);");
    configure(&place, "migrations = \"migrations\"", app);
    let warnings = || place.run(&["reload", "--json"]).succeeded().json()["warnings"].clone();
    let away = "`app` is away until the new one is ready; `proxy` avoids that";
    assert_eq!((warnings(), warnings()), (serde_json::json!([away]), serde_json::json!([])), "once");
    let rest = "[log]\nlevel = \"debug\"\n[[sync]]\nname = \"s\"\nto = \"postgres://u@127.0.0.1/d\"\n";
    let database = "migrations = \"migrations\"\nkeep = \"9d\"";
    configure(&place, database, &format!("{rest}{app}"));
    let warnings = place.run(&["reload", "--json"]).succeeded().json()["warnings"].to_string();
    for table in ["the [[database]] of `app.db`", "[[sync]]", "[log]"] {
        let warning = format!("{table} has changed: it is taken by `litekeep down` and `litekeep up`");
        assert!(warnings.contains(&warning), "{warnings}");
    }
    assert!(place.run(&["reload"]).succeeded().stderr.contains("[log] has changed"));
    // Another folder hides the stack from its own commands, and they say so; a signal reaches it.
    let pid = status(&place)["stack"]["pid"].to_string();
    configure(&place, database, &format!("{app}[supervisor]\nstate_dir = \"elsewhere\"\n"));
    place.run(&["reload"]).failed_with(&["what began with another `state_dir`"]);
    assert!(std::process::Command::new("kill").args(["-HUP", &pid]).status().unwrap().success());
    eventually("it is told", LONG, || Ok(said(&place).contains("[supervisor] has changed"))).unwrap();
    up.end();
}

#[test]
fn a_reload_migrates_first_and_keeps_what_runs_when_that_fails() {
    let place = Place::new();
    migration(&place, 1, "CREATE TABLE t(x);");
    let app = |command: &str| format!("[process.app]\ncommand = \"{command}\"\n");
    configure(&place, "migrations = \"migrations\"", &app("sleep 1000"));
    let running = up(&place);
    let first = reaches(&place, "app", "healthy");
    let tables = || {
        let connection = Connection::open(place.path("app.db")).unwrap();
        let sql = "SELECT group_concat(name) FROM (SELECT name FROM sqlite_schema WHERE name GLOB '[t-u]' ORDER BY 1)";
        connection.query_row(sql, (), |row| row.get::<_, Option<String>>(0)).unwrap().unwrap_or_default()
    };
    assert_eq!(tables(), "t");

    migration(&place, 2, "CREATE TABLE u(x);");
    configure(&place, "migrations = \"migrations\"", &app("sleep 2000"));
    let ran = place.run(&["reload", "--json"]).succeeded();
    shapes::matches("reload", &ran.json());
    assert_eq!(ran.json()["reloaded"], serde_json::json!(["app"]));
    assert_eq!(tables(), "t,u");
    let second = reaches(&place, "app", "healthy");
    assert!(second["pid"] != first["pid"]);

    migration(&place, 3, "DROP TABLE nowhere;");
    configure(&place, "migrations = \"migrations\"", &app("sleep 3000"));
    let ran = place.run(&["reload", "app"]);
    assert!(ran.code == 2 && ran.stderr.contains("no such table: nowhere"), "{}", ran.stderr);
    assert_eq!(process(&place, "app")["pid"], second["pid"]);

    // A configuration with a mistake changes nothing either.
    configure(&place, "", "[process.app]\ncomand = \"true\"\n");
    let ran = place.run(&["reload"]);
    assert!(ran.code == 2 && ran.stderr.contains("did you mean `command`"), "{}", ran.stderr);
    assert!(std::path::Path::new(&format!("/proc/{}", second["pid"])).exists());
    // And it keeps nobody from asking.
    let ran = place.run(&["restart", "app"]).succeeded();
    assert!(ran.stderr.contains("will not take this configuration"), "{}", ran.stderr);
    running.end();
}

/// Ends the clients, also when an assertion ends their test.
struct OnDrop<'a>(&'a AtomicBool);

impl Drop for OnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

/// Clients ask all the time while the application is reloaded; every request must be answered.
fn reload_under_load(listen: &str, port: u16) {
    let place = Place::new();
    write_server(&place, 1);
    let web = |extra: &str| {
        format!(
            "[process.web]\ncommand = \"python3 server.py\"\n{listen}\nready_timeout = \"30s\"\n{extra}\n"
        )
    };
    configure(&place, "", &web(""));
    let running = up(&place);
    reaches(&place, "web", "healthy");
    let (over, answers) = (AtomicBool::new(false), Mutex::new(Vec::<std::io::Result<String>>::new()));
    let sees = |version: u32| {
        let prefix = format!("{version} ");
        let seen = || Ok(answers.lock().unwrap().iter().flatten().any(|answer| answer.starts_with(&prefix)));
        eventually(&format!("version {version} answers"), LONG, seen).unwrap();
    };
    let ask = || {
        while !over.load(SeqCst) {
            let answer = get(port);
            answers.lock().unwrap().push(answer);
        }
    };
    std::thread::scope(|threads| {
        let _over = OnDrop(&over);
        for _ in 0..4 {
            threads.spawn(ask);
        }
        sees(1);
        for version in 2..4 {
            write_server(&place, version);
            place.run(&["reload", "web"]).succeeded();
            assert!(get(port).unwrap().starts_with(&version.to_string()));
            sees(version);
        }
        // A new version that does not start is not let in.
        std::fs::write(place.path("server.py"), "raise SystemExit(7)").unwrap();
        let ran = place.run(&["reload", "web"]);
        assert!(ran.code == 2 && ran.stderr.contains("the one before goes on"), "{}", ran.stderr);
        assert!(get(port).unwrap().starts_with('3'));
    });
    let answers = answers.into_inner().unwrap();
    let failed: Vec<_> = answers.iter().filter_map(|answer| answer.as_ref().err()).collect();
    assert!(failed.is_empty(), "{} of {}: {:?}\n{}", failed.len(), answers.len(), failed[0], said(&place));
    running.end();
}

/// Without a check of its own, having lived for a second would be enough, in which a program that is about to fail may not even have
/// begun.
#[test]
fn a_reload_with_a_held_socket_refuses_nobody() {
    let port = free_port();
    reload_under_load(&format!("listen = \"127.0.0.1:{port}\"\nhealth = {{ type = \"notify\" }}"), port);
}

#[test]
fn a_reload_behind_the_proxy_refuses_nobody() {
    let port = free_port();
    reload_under_load(&format!("proxy = \"127.0.0.1:{port}\""), port);
}

#[test]
fn what_is_not_confirmed_at_the_end_is_said_to_who_asked_for_it() {
    let scene = crate::scene::Scene::new(crate::scene::Store::Proxied, "shutdown_timeout = \"1s\"");
    let place = &scene.place;
    let toml = std::fs::read_to_string(place.path("litekeep.toml")).unwrap();
    std::fs::write(place.path("litekeep.toml"), format!("{toml}\n[process.app]\ncommand = \"sleep 1000\"\n"))
        .unwrap();
    place.database("app.db", 10);
    let mut running = Up::start(scene.command(&["up"]), place);
    reaches(place, "app", "healthy");
    scene.proxy().outage(Some(litekeep_testkit::fault_proxy::Fault::Reset));
    place.database("app.db", 10);
    let ran = Ran::of(scene.command(&["down"]));
    assert!(ran.code == 2 && ran.stderr.contains("not confirmed within 1s"), "{}", ran.stderr);
    assert_eq!(running.wait().code(), Some(2));
}

#[test]
fn jobs_events_and_hooks() {
    let place = Place::new();
    configure(
        &place,
        "",
        "[process.app]\ncommand = \"echo from the app; exit 3\"\nrestart_limit = 1\n\
         hooks = { crashed = \"echo $LITEKEEP_PROCESS $LITEKEEP_EVENT: $LITEKEEP_REASON >>hooked\" }\n\
         [job.tick]\ncommand = \"echo tick\"\nevery = \"1s\"\n\
         [job.sweep]\ncommand = \"echo broom >&2; exit 4\"\ncron = \"0 3 1 1 *\"\ntime_zone = \"Europe/Berlin\"\n\
         [job.absent]\ncommand = [\"no-such-program\"]\ncron = \"0 3 1 1 *\"\n",
    );
    let running = up(&place);
    let failed = reaches(&place, "app", "failed");
    assert!(failed["reason"].as_str().unwrap().contains("exit code 3"), "{failed}");
    let job = |name: &str| {
        let status = status(&place);
        let all = status["stack"]["jobs"].as_array().cloned().unwrap_or_default();
        all.into_iter().find(|job| job["name"] == name).unwrap_or_default()
    };
    let runs = |name: &str| job(name)["history"].as_array().map_or(0, Vec::len);
    eventually("the job runs now and then", LONG, || Ok(runs("tick") >= 3)).unwrap();
    let sweep = job("sweep");
    assert!(sweep["next_due"].as_str().unwrap().ends_with("-01-01T02:00:00.000Z"), "{sweep}");
    assert_eq!(runs("sweep"), 0);
    place.run(&["start", "sweep"]).succeeded();
    eventually("it ran because somebody asked", LONG, || Ok(runs("sweep") == 1)).unwrap();
    // One that cannot even be started is red as well.
    place.run(&["start", "absent"]);
    eventually("it failed", LONG, || Ok(runs("absent") == 1)).unwrap();
    assert!(job("absent")["history"][0]["ok"] == false, "{}", job("absent"));
    let run = &job("sweep")["history"][0];
    assert!(run["ok"] == false && run["outcome"] == "exit code 4" && run["last_words"] == "broom", "{run}");
    shapes::matches("stack", &status(&place)["stack"]);
    assert_eq!(place.run(&["status"]).code, 1);

    let events = place.run(&["events", "-n", "1000"]).succeeded().stdout;
    for wanted in [
        "  app  crashed  exit code 3",
        "  app  failed",
        "  tick  job ended",
        "  sweep  job failed  exit code 4",
    ] {
        assert!(events.contains(wanted), "{wanted} is not in\n{events}");
    }
    let line = place.run(&["events", "-n", "1", "--json"]).succeeded().stdout;
    shapes::matches("events", &serde_json::from_str(&line).unwrap());
    let hooked = || std::fs::read_to_string(place.path("hooked")).unwrap_or_default();
    eventually("the hook ran", LONG, || Ok(hooked().contains("app crashed: exit code 3"))).unwrap();
    assert!(hooked().contains("from the app"), "{}", hooked());
    running.end();
}

/// litekeep had ended before they had.
#[test]
fn the_end_waits_for_the_hooks_of_what_it_stopped_but_not_for_ever() {
    let place = Place::new();
    let rest = "[process.app]\ncommand = \"sleep 1000\"\nhooks = { stopped = \"sleep 1; echo $LITEKEEP_EVENT > stopped\" }\n";
    configure(&place, "", rest);
    let mut running = up(&place);
    reaches(&place, "app", "healthy");
    place.run(&["down"]).succeeded();
    assert_eq!(std::fs::read_to_string(place.path("stopped")).unwrap(), "stopped\n");
    assert!(running.wait().success());

    configure(&place, "", &rest.replace("sleep 1;", "sleep 20;"));
    let running = up(&place);
    reaches(&place, "app", "healthy");
    running.end();
    assert!(said(&place).contains("hooks still run after 10 s"), "{}", said(&place));
}

/// A watched folder of databases had new runs at each commit.
#[test]
fn what_litekeep_and_sqlite_write_below_watched_folders_reloads_nobody() {
    let place = Place::new();
    std::fs::create_dir_all(place.path("data/late")).unwrap();
    let toml = "[[database]]\ndir = \"data\"\npattern = \"*.db\"\nrecursive = true\nbackup = \"./data/backup\"\n\
                [[database]]\npath = \"data/app.sqlite\"\nbackup = \"./data\"\n\
                [process.web]\ncommand = \"sleep 1000\"\n\
                watch = { paths = [\"data\", \".litekeep\"], delay = \"50ms\" }\n\
                [process.loud]\ncommand = \"while :; do date; sleep 0.1; done\"\nlog = { path = \"data/loud.out\" }\n";
    std::fs::write(place.path("litekeep.toml"), toml).unwrap();
    let open = |name: &str| {
        let db = Connection::open(place.path(name)).unwrap();
        db.pragma_update(None, "journal_mode", "wal").unwrap();
        db.execute_batch("CREATE TABLE IF NOT EXISTS t(x)").unwrap();
        db
    };
    let mut all = vec![open("data/a.db"), open("data/app.sqlite")];
    let up = up(&place);
    reaches(&place, "web", "healthy");
    let events = || place.run(&["events", "--json", "-n", "1000"]).stdout;
    all.extend([open("data/later.db"), open("data/late/one.db")]);
    for db in all.iter().cycle().take(30) {
        db.execute_batch("INSERT INTO t VALUES (1)").unwrap();
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(!events().contains("files_changed"), "{}", events());
    assert!(place.path("data/backup/late/one.db/ltx").exists());
    std::fs::write(place.path("data/app.js"), "").unwrap();
    eventually("the change is seen", LONG, || Ok(events().contains("app.js"))).unwrap();
    up.end();
}

/// Kill -9 of litekeep does not end the application, and the next litekeep takes it over with its socket and its output.
#[test]
fn an_application_outlives_litekeep_and_is_taken_over() {
    let place = Place::new();
    let port = free_port();
    write_server(&place, 1);
    let rest = format!(
        "[process.web]\ncommand = \"python3 server.py\"\nlisten = \"127.0.0.1:{port}\"\n\
         [process.talker]\ncommand = \"i=0; while :; do i=$((i + 1)); echo line $i; sleep 0.05; done\"\n\
         [process.gone]\ncommand = \"sleep 1000\"\n"
    );
    configure(&place, "", &rest);
    let running = up(&place);
    let before: Vec<Value> = ["web", "talker", "gone"].map(|name| reaches(&place, name, "healthy")).into();
    get(port).unwrap();
    running.kill();
    std::thread::sleep(Duration::from_millis(300));
    assert!(get(port).unwrap().contains(before[0]["instance"].as_str().unwrap()));
    let ran = place.run(&["status", "--json"]);
    assert_eq!(ran.code, 1);
    shapes::matches("status", &ran.json());
    let survivors = ran.json()["survivors"].as_array().unwrap().clone();
    assert_eq!(survivors.len(), 3, "{survivors:?}");
    for (survivor, before) in survivors.iter().zip([&before[2], &before[1], &before[0]]) {
        assert_eq!([&survivor["name"], &survivor["pid"]], [&before["name"], &before["pid"]]);
    }
    let told = place.run(&["status"]).stdout;
    assert!(
        told.contains(&format!("`web` (process {}) goes on in nobody's care", before[0]["pid"])),
        "{told}"
    );

    configure(&place, "", rest.split("[process.gone]").next().unwrap());
    let running = up(&place);
    for (name, before) in ["web", "talker"].into_iter().zip(&before) {
        let now = reaches(&place, name, "healthy");
        assert_eq!(
            (&now["pid"], &now["instance"], &now["restarts"]),
            (&before["pid"], &before["instance"], &0.into())
        );
    }
    let gone = format!("/proc/{}", before[2]["pid"]);
    eventually("what is not configured any more ends", LONG, || Ok(!std::path::Path::new(&gone).exists()))
        .unwrap();
    get(port).unwrap();
    let lines = || std::fs::read_to_string(place.path(".litekeep/log/talker.log")).unwrap();
    let count = lines().lines().count();
    eventually("its output goes on", LONG, || Ok(lines().lines().count() > count + 5)).unwrap();
    let expected: Vec<String> = (1..=lines().lines().count()).map(|i| format!("line {i}")).collect();
    assert_eq!(lines().lines().take(expected.len()).collect::<Vec<_>>(), expected, "no line is lost");
    place.run(&["down"]).succeeded();
    drop(running);
    assert!(get(port).is_err());
}

/// The stack of the article: an `oxfile.toml` with a `litestream replicate` among its processes.
#[test]
fn an_oxfile_runs_as_it_is_and_its_litestream_is_litekeep() {
    let place = Place::new();
    let port = free_port();
    write_server(&place, 1);
    let oxfile = format!(
        "[processes.api]\ncommand = \"python3 server.py\"\ncwd = {:?}\nenv = {{ DATABASE_URL = \"file:./app.db\", PORT = \"{port}\" }}\n\
         restart = \"on-failure\"\nstop_signal = \"SIGTERM\"\nstop_timeout = \"15s\"\n\
         [processes.api.health]\ntype = \"http\"\nurl = \"http://127.0.0.1:{port}/health\"\ninterval = \"10s\"\n\
         [processes.api.limits]\nmemory = \"512M\"\n\
         [processes.after]\ncommand = \"sleep 1000\"\ndepends_on = [\"litestream\"]\n\
         [processes.litestream]\ncommand = \"/usr/local/bin/litestream replicate -config {}\"\nrestart = \"always\"\n",
        place.dir.path(),
        place.path("conf/litestream.yml").display()
    );
    std::fs::create_dir(place.path("conf")).unwrap();
    std::fs::write(place.path("oxfile.toml"), oxfile).unwrap();
    let yaml = format!(
        "dbs:\n  - path: {}\n    replicas:\n      - url: file://{}\n",
        place.path("app.db").display(),
        place.path("backup").display()
    );
    std::fs::write(place.path("conf/litestream.yml"), yaml).unwrap();
    let running = up(&place);
    reaches(&place, "api", "healthy");
    get(port).unwrap();
    let all = status(&place);
    assert_eq!(all["stack"]["processes"].as_array().unwrap().len(), 2, "{all:#}");
    reaches(&place, "after", "healthy");
    eventually("its backup goes well", LONG, || Ok(status(&place)["databases"][0]["ok"] == true)).unwrap();
    running.end();
    // Its databases are known to all commands.
    let known = place.run(&["databases", "--json"]).succeeded().json();
    assert_eq!(known["databases"].as_array().unwrap().len(), 1, "{known:#}");
    place.run(&["history"]).succeeded();
    // Where the program itself is wanted, the database is left to it.
    let oxfile = std::fs::read_to_string(place.path("oxfile.toml")).unwrap();
    std::fs::write(
        place.path("foreign.toml"),
        format!("{}native = false\n", oxfile.replace("[processes.", "[process.")),
    )
    .unwrap();
    let all = place.run(&["databases", "--config", "foreign.toml", "--json"]).succeeded().json();
    assert_eq!(all["databases"].as_array().unwrap().len(), 0, "{all:#}");
    let expected = Digest::of(&place.path("app.db")).unwrap();
    let backup = format!("file://{}", place.path("backup").display());
    place.run(&["restore", &backup, "-o", "restored.db"]).succeeded();
    assert_eq!(Digest::of(&place.path("restored.db")).unwrap(), expected);
}

#[test]
fn a_service_that_systemd_accepts() {
    let place = Place::new();
    configure(
        &place,
        "shutdown_timeout = \"7s\"",
        "[process.app]\ncommand = \"sleep 1000\"\nstop_timeout = \"3s\"\n",
    );
    let install = ["service", "install", "--name", "my-app", "--dir", "units"];
    let ran = place.run(&[&install[..], &["--json"]].concat()).succeeded();
    shapes::matches("service", &ran.json());
    let unit = std::fs::read_to_string(place.path("units/my-app.service")).unwrap();
    let config = place.path("litekeep.toml").canonicalize().unwrap();
    assert!(unit.contains(&format!(" up --quiet --config \"{}\"\n", config.display())), "{unit}");
    assert!(unit.contains("TimeoutStopSec=25s\n") && unit.contains("Delegate=yes\n"), "{unit}");
    // Its own it writes again, another's never.
    place.run(&install).succeeded();
    std::fs::write(place.path("units/my-app.service"), "[Service]\nExecStart=/bin/true\n").unwrap();
    let ran = place.run(&install);
    assert!(ran.code == 2 && ran.stderr.contains("not litekeep's"), "{}", ran.stderr);
    let ran = place.run(&["service", "show", "--name", "a b"]);
    assert!(ran.code == 2 && ran.stderr.contains("cannot name a service"), "{}", ran.stderr);
}

#[test]
fn the_service_manager_hears_when_everything_has_started() {
    let place = Place::new();
    configure(&place, "", "[process.app]\ncommand = \"test -z \\\"$NOTIFY_SOCKET\\\" && sleep 1000\"\n");
    let socket = std::os::unix::net::UnixDatagram::bind(place.path("notify")).unwrap();
    socket.set_read_timeout(Some(LONG)).unwrap();
    let mut command = place.command(&["up"]);
    command.env("NOTIFY_SOCKET", place.path("notify")).env("WATCHDOG_USEC", "200000");
    let running = Up::start(command, &place);
    let mut heard = Vec::new();
    let mut hear = |wanted: &str| {
        while !heard.iter().any(|message: &String| message == wanted) {
            let mut message = [0; 1000];
            let length =
                socket.recv(&mut message).unwrap_or_else(|e| panic!("{wanted} is not heard: {e}; {heard:?}"));
            heard.push(String::from_utf8_lossy(&message[..length]).into_owned());
        }
    };
    hear("READY=1");
    reaches(&place, "app", "healthy");
    hear("WATCHDOG=1");
    let ended = std::thread::spawn(move || running.end());
    hear("STOPPING=1");
    ended.join().unwrap();
}

#[test]
fn the_end_is_heard_while_migrations_run_and_while_nobody_reads_what_is_printed() {
    let place = Place::new();
    let endless = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c";
    migration(&place, 1, &format!("CREATE TABLE t AS {endless};"));
    configure(&place, "migrations = \"migrations\"", "[process.app]\ncommand = \"sleep 1000\"\n");
    let running = up(&place);
    let asked = || Ok(place.path(".litekeep/control.sock").exists() && status(&place)["stack"].is_object());
    eventually("it answers", LONG, asked).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    running.end();
    assert!(
        !place.path("app.db").exists()
            || Connection::open(place.path("app.db")).unwrap().prepare("SELECT * FROM t").is_err()
    );

    configure(&place, "", "[process.app]\ncommand = \"yes\"\n");
    let mut command = place.command(&["up"]);
    let mut child =
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::null()).spawn().unwrap();
    reaches(&place, "app", "healthy");
    place.run(&["down"]).succeeded();
    assert!(child.wait().unwrap().success());
}

#[test]
fn the_status_of_one_that_hangs_is_red() {
    let place = Place::new();
    configure(&place, "", "[process.app]\ncommand = \"sleep 1000\"\n");
    let mut running = up(&place);
    reaches(&place, "app", "healthy");
    running.0.as_mut().unwrap().signal(libc::SIGSTOP).unwrap();
    let ran = place.run(&["status"]);
    let asked = place.run(&["stop", "app"]);
    running.0.as_mut().unwrap().signal(libc::SIGCONT).unwrap();
    asked.failed_with(&["runs and does not answer", "kill -CONT"]);
    assert!(ran.code == 1 && ran.stdout.contains("runs and does not answer"), "{}{}", ran.stdout, ran.stderr);
    running.end();
}
