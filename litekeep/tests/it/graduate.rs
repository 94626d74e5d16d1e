//! Goal: an application goes from SQLite to PostgreSQL while it works, and comes back, without losing an operation that was acknowledged; what fails or is killed
//! in between leaves it where it was. Method: the real binary and the real server beside a bank that moves money from account to account, each time
//! with an operation of its own name. It asks a file which database it uses, as an application asks its environment, and is stopped and let go on by files. Both
//! sides are read by plain SQL.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use litekeep_testkit::campaign;
use litekeep_testkit::mysql::{self, Flavor, Mysql};
use litekeep_testkit::postgres::Postgres;
use litekeep_testkit::process::eventually;
use rusqlite::Connection;
use serde_json::Value;

use crate::feeds::add;
use crate::scene::{LONG, Scene, Store};
use crate::shapes;

const ACCOUNTS: u32 = 20;
const BANK: &str = "CREATE TABLE operations(id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE,
        giver INTEGER NOT NULL REFERENCES accounts(id), taker INTEGER NOT NULL REFERENCES accounts(id), amount INTEGER NOT NULL);
    CREATE TABLE accounts(id INTEGER PRIMARY KEY, balance INTEGER NOT NULL);
    CREATE INDEX by_giver ON operations(giver);";
/// Each balance with what the operations make of it, and the names of these.
const CHECK: &str = "SELECT count(*) FROM accounts a WHERE a.balance <> 1000
        + (SELECT coalesce(sum(o.amount), 0) FROM operations o WHERE o.taker = a.id) - (SELECT coalesce(sum(o.amount), 0) FROM operations o WHERE o.giver = a.id)";
const NAMES: &str = "SELECT name FROM operations ORDER BY name";

/// Waits until the application rests, lets it use `$DATABASE_URL`, and lets it go on; one at a time.
const SWITCH: &str = r#"exec 9> switch.lock; flock 9; touch stop; while [ ! -e stopped ]; do sleep 0.02; done
    printf %s "$DATABASE_URL" > url.new; mv url.new url; rm -f stopped stop"#;

fn bank() -> Scene {
    let scene = Scene::new(Store::Folder, "upload_interval = \"20ms\"");
    let db = Connection::open(scene.db()).unwrap();
    let accounts: Vec<String> = (1..=ACCOUNTS).map(|id| format!("({id}, 1000)")).collect();
    let accounts = accounts.join(", ");
    db.execute_batch(&format!("PRAGMA journal_mode = WAL; {BANK} INSERT INTO accounts VALUES {accounts}"))
        .unwrap();
    drop(db);
    scene.replicate_once().unwrap();
    scene
}

/// An application that goes on until it is dropped.
struct Application {
    place: PathBuf,
    ends: Arc<AtomicBool>,
    acknowledged: Arc<Mutex<Vec<String>>>,
    works: Option<JoinHandle<()>>,
}

impl Application {
    /// `on_server`: whether a transaction was done there.
    fn start(scene: &Scene, on_server: impl Fn(&str) -> bool + Send + 'static) -> Application {
        let (place, db) = (scene.dir().to_owned(), scene.db());
        let (ends, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(vec![])));
        let (over, done, here) = (ends.clone(), acknowledged.clone(), place.clone());
        let works = std::thread::spawn(move || {
            let mut random = fastrand::Rng::with_seed(7);
            for nth in 0.. {
                let name = format!("o{nth}");
                let (giver, taker) = (random.u32(1..=ACCOUNTS), random.u32(1..=ACCOUNTS));
                let sql = format!(
                    "UPDATE accounts SET balance = balance - 5 WHERE id = {giver}; UPDATE accounts SET balance = balance + 5 WHERE id = {taker}; \
                     INSERT INTO operations(name, giver, taker, amount) VALUES ('{name}', {giver}, {taker}, 5)"
                );
                // Until it is done, wherever that is.
                while !over.load(SeqCst) {
                    rest(&here, &over);
                    let is_there = std::fs::read_to_string(here.join("url"))
                        .is_ok_and(|url| !url.is_empty() && !url.starts_with("sqlite:"));
                    let is_done = match is_there {
                        true => on_server(&format!("BEGIN; {sql}; COMMIT")),
                        false => on_sqlite(&db, &sql),
                    };
                    if is_done {
                        done.lock().unwrap().push(name);
                        break;
                    }
                }
                if over.load(SeqCst) {
                    break;
                }
                std::thread::sleep(Duration::from_millis(random.u64(5..40)));
            }
        });
        Application { place, ends, acknowledged, works: Some(works) }
    }

    fn count(&self) -> usize {
        self.acknowledged.lock().unwrap().len()
    }

    fn goes_on(&self) {
        let before = self.count();
        eventually("the application goes on", LONG, || Ok(self.count() > before + 5)).unwrap();
    }

    fn stop(&self) {
        std::fs::write(self.place.join("stop"), "").unwrap();
        eventually("the application rests", LONG, || Ok(self.place.join("stopped").exists())).unwrap();
    }

    /// Ends it; what it was told to be done.
    fn end(mut self) -> BTreeSet<String> {
        self.ends.store(true, SeqCst);
        self.works.take().unwrap().join().unwrap();
        self.acknowledged.lock().unwrap().iter().cloned().collect()
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        self.ends.store(true, SeqCst);
        if let Some(works) = self.works.take() {
            _ = works.join();
        }
    }
}

fn on_postgres(server: &Arc<Postgres>) -> impl Fn(&str) -> bool + Send + use<> {
    let server = server.clone();
    move |sql| server.query(sql).is_ok()
}

/// Rests as long as it is told to.
fn rest(place: &std::path::Path, over: &AtomicBool) {
    if place.join("stop").exists() {
        std::fs::write(place.join("stopped"), "").unwrap();
    }
    while place.join("stop").exists() && !over.load(SeqCst) {
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// `false`: somebody else holds the write lock, and nothing was done.
fn on_sqlite(db: &std::path::Path, sql: &str) -> bool {
    let db = Connection::open(db).unwrap();
    db.busy_timeout(Duration::from_millis(100)).unwrap();
    db.execute_batch("PRAGMA foreign_keys = ON").unwrap();
    match db.execute_batch("BEGIN IMMEDIATE") {
        Ok(()) => {
            db.execute_batch(&format!("{sql}; COMMIT")).unwrap();
            true
        }
        Err(error) => {
            assert_eq!(error.sqlite_error_code(), Some(rusqlite::ErrorCode::DatabaseBusy), "{error}");
            false
        }
    }
}

fn texts(rows: Vec<Vec<Option<String>>>) -> BTreeSet<String> {
    rows.into_iter().filter_map(|row| row.into_iter().next().flatten()).collect()
}

fn here(scene: &Scene, sql: &str) -> Result<BTreeSet<String>> {
    let db = Connection::open(scene.db())?;
    let mut select = db.prepare(&format!("SELECT CAST(x.v AS TEXT) FROM ({sql}) x"))?;
    let rows = select.query_map((), |row| row.get(0))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// It balances, and has everything that was acknowledged.
fn is_whole(of: &dyn Fn(&str) -> Result<BTreeSet<String>>, acknowledged: &BTreeSet<String>) -> Result<()> {
    let wrong = of(&CHECK.replace("count(*)", "count(*) AS v"))?;
    ensure!(wrong == BTreeSet::from(["0".to_owned()]), "{wrong:?} accounts are wrong");
    let names = of(&NAMES.replace("SELECT name", "SELECT name AS v"))?;
    let lost: Vec<_> = acknowledged.difference(&names).collect();
    ensure!(lost.is_empty(), "lost: {lost:?}");
    Ok(())
}

fn is_whole_here(scene: &Scene, acknowledged: &BTreeSet<String>) -> Result<()> {
    is_whole(&|sql| here(scene, sql), acknowledged).context("SQLite")
}

fn is_whole_there(server: &Postgres, acknowledged: &BTreeSet<String>) -> Result<()> {
    is_whole(&|sql| Ok(texts(server.query(sql)?)), acknowledged).context("PostgreSQL")
}

fn uses(scene: &Scene) -> String {
    std::fs::read_to_string(scene.place.path("url")).unwrap_or_default()
}

#[test]
fn an_application_goes_to_postgres_and_comes_back() {
    let server = Arc::new(Postgres::start().unwrap());
    let scene = bank();
    let url = server.url("postgres");
    let run = |more: &[&str]| scene.place.run(&[&["graduate", "app.db", "--to", &url], more].concat());
    run(&[]).failed_with(&["nothing replicates `app.db`", "litekeep up"]);
    let plan = run(&["--dry-run", "--json"]).succeeded().json();
    shapes::matches("sync plan", &plan);
    assert!(server.query("SELECT 1 FROM accounts").is_err());

    let litekeep = scene.replicate().unwrap();
    eventually("it replicates", LONG, || Ok(scene.status()?["replicator_pid"].is_number())).unwrap();
    let application = Application::start(&scene, on_postgres(&server));
    run(&["--back"]).failed_with(&["does not use", "without --back"]);
    let ready = run(&["--json"]);
    // What changes all the time may not be the same at any one look.
    assert!(ready.code < 2, "{}", ready.stderr);
    shapes::matches("graduate", &ready.json());
    assert!(
        server.query("INSERT INTO operations(name, giver, taker, amount) VALUES ('x', 1, 9999, 1)").is_err()
    );

    // A switch that fails leaves everything as it was.
    let failed = run(&["--switch", "echo this is said; exit 3", "--once"]);
    assert!(failed.stderr.contains("this is said"), "{}", failed.stderr);
    failed.failed_with(&["the switch command failed: exit status: 3", "goes on with SQLite as before"]);
    application.goes_on();
    assert_eq!(uses(&scene), "");
    // So does a limit that is too short.
    run(&["--switch", SWITCH, "--within", "1ms"]).failed_with(&["goes on with SQLite as before", "--within"]);
    application.goes_on();
    assert_eq!(uses(&scene), "");

    // It is let there, and SQLite follows.
    let graduate = scene.start(&["graduate", "app.db", "--to", &url, "--switch", SWITCH]).unwrap();
    eventually("it uses PostgreSQL", LONG, || Ok(uses(&scene) == url))
        .unwrap_or_else(|error| panic!("{error}\n{}", graduate.output()));
    application.goes_on();
    application.stop();
    let acknowledged: BTreeSet<String> = application.acknowledged.lock().unwrap().iter().cloned().collect();
    is_whole_there(&server, &acknowledged).unwrap();
    let same =
        || Ok(here(&scene, &NAMES.replace("name FROM", "name AS v FROM"))? == texts(server.query(NAMES)?));
    eventually("SQLite follows", LONG, same).unwrap_or_else(|error| panic!("{error}\n{}", graduate.output()));
    is_whole_here(&scene, &acknowledged).unwrap();
    let said = graduate.output();
    for words in
        ["every value the same", "nobody could write to app.db for", "name = \"graduate-app\"", "--back"]
    {
        assert!(said.contains(words), "{words} is not in\n{said}");
    }
    assert!(graduate.terminate(LONG).unwrap().success());
    std::fs::remove_file(scene.place.path("stopped")).unwrap();
    std::fs::remove_file(scene.place.path("stop")).unwrap();
    application.goes_on();

    // And back.
    application.stop();
    run(&["--back"]).failed_with(&["it is not said how the application comes back"]);
    let back = "printf %s \"$DATABASE_URL\" > url; rm -f stopped stop";
    let back = run(&["--back", "--switch", back, "--once", "--json"]).succeeded().json();
    shapes::matches("graduate", &back);
    assert_eq!(back["stage"], "back", "{back:#}");
    assert!(uses(&scene).starts_with("sqlite:/"), "{}", uses(&scene));
    application.goes_on();
    let acknowledged = application.end();
    is_whole_here(&scene, &acknowledged).unwrap();

    let done = run(&["--done", "--json"]).succeeded().json();
    shapes::matches("graduate", &done);
    for left in [
        "pg_replication_slots",
        "pg_publication",
        "pg_class WHERE relname = '_litekeep_sync' OR relname = 'accounts' AND relreplident <> 'd'",
    ] {
        assert_eq!(server.query(&format!("SELECT 1 FROM {left}")).unwrap().len(), 0, "{left}");
    }
    assert!(
        here(&scene, "SELECT name AS v FROM sqlite_schema WHERE name = '_litekeep_sync'").unwrap().is_empty()
    );
    assert!(!scene.place.path(".app.db-litekeep/graduate.json").exists());
    run(&[]).failed_with(&["has rows in postgres://", "drop it"]);
    scene.stop(litekeep).unwrap();
}

/// The command is killed again and again, at any moment, and goes on in the end.
#[test]
fn killed_in_the_middle_it_goes_on() {
    campaign::rounds("graduate", 1, |seed| {
        let mut random = fastrand::Rng::with_seed(seed);
        let server = Arc::new(Postgres::start()?);
        let scene = bank();
        let url = server.url("postgres");
        let litekeep = scene.replicate()?;
        eventually("it replicates", LONG, || Ok(scene.status()?["replicator_pid"].is_number()))?;
        let application = Application::start(&scene, on_postgres(&server));
        let graduate = || {
            scene
                .start(&["graduate", "app.db", "--to", &url, "--switch", SWITCH, "--within", "30s", "--once"])
        };
        for _ in 0..6 {
            let process = graduate()?;
            std::thread::sleep(Duration::from_millis(random.u64(20..2500)));
            process.kill()?;
        }
        let mut process = graduate()?;
        let status = process.wait(LONG)?;
        ensure!(status.success(), "{status}\n{}", process.output());
        ensure!(uses(&scene) == url, "it uses `{}`\n{}", uses(&scene), process.output());
        application.goes_on();
        let acknowledged = application.end();
        is_whole_there(&server, &acknowledged).with_context(|| process.output())?;
        // SQLite gets what was written there.
        scene.litekeep(&["graduate", "app.db", "--to", &url, "--once"])?;
        is_whole_here(&scene, &acknowledged).with_context(|| process.output())?;
        scene.stop(litekeep)
    });
}

/// A process of `litekeep up` finds another line in its `env_file`, or the old one when it does not start with that.
#[test]
fn a_process_of_up_is_started_anew() {
    let server = Arc::new(Postgres::start().unwrap());
    let scene = bank();
    let url = server.url("postgres");
    let run = |more: &[&str]| scene.place.run(&[&["graduate", "--to", &url, "--once"], more].concat());
    // It takes only a database that it knows.
    let command = "case \"$DATABASE_URL\" in sqlite:*|*/postgres) echo uses $DATABASE_URL; exec sleep 600;; *) exit 7;; esac";
    add(&scene, &format!("[process.app]\ncommand = {command:?}\nrestart = \"never\"\n"));
    run(&["--process", "app"]).failed_with(&["has no `env_file`", "env_file = \"app.env\""]);
    add(&scene, "env_file = \"app.env\"\n");
    scene.place.write_all(&[("app.env", "A=1\n")]);
    run(&["--process", "app"]).failed_with(&["does not say DATABASE_URL"]);
    scene.place.write_all(&[("app.env", "A=1\nDATABASE_URL=sqlite:app.db\n")]);
    run(&["--process", "app"]).failed_with(&["is up"]);
    run(&["--process", "other"]).failed_with(&["there is no [process.other]"]);
    scene.litekeep(&["up", "--detach"]).unwrap();
    let _down = Down(&scene);
    let logs = || scene.litekeep(&["logs", "app"]);
    eventually("it uses SQLite", LONG, || Ok(logs()?.contains("uses sqlite:app.db"))).unwrap();
    let file = || std::fs::read_to_string(scene.place.path("app.env")).unwrap();

    server.query("CREATE DATABASE other").unwrap();
    let other = server.url("other");
    let failed = scene.place.run(&["graduate", "--to", &other, "--process", "app", "--once"]);
    failed.failed_with(&["`app` is failed with the new DATABASE_URL", "goes on with SQLite as before"]);
    assert_eq!(file(), "A=1\nDATABASE_URL=sqlite:app.db\n");
    eventually("it uses SQLite again", LONG, || Ok(logs()?.matches("uses sqlite:app.db").count() == 2))
        .unwrap();
    run(&[]).failed_with(&["it was begun with postgres://", "--done"]);
    scene.litekeep(&["graduate", "--to", &other, "--done"]).unwrap();

    let switched = run(&["--process", "app", "--json"]).succeeded().json();
    shapes::matches("graduate", &switched);
    assert_eq!(
        (&switched["stage"], &switched["compared_while_held"]),
        (&"switched".into(), &Value::Bool(true))
    );
    assert_eq!(file(), format!("A=1\nDATABASE_URL='{url}'\n"));
    assert!(logs().unwrap().contains(&format!("uses {url}")));
}

struct Down<'a>(&'a Scene);

impl Drop for Down<'_> {
    fn drop(&mut self) {
        _ = self.0.litekeep(&["down"]);
    }
}

#[test]
fn an_application_goes_to_mariadb_from_where_nothing_comes_back() {
    let server = Mysql::start(Flavor::Mariadb).unwrap();
    server.query("CREATE DATABASE app").unwrap();
    let scene = bank();
    let url = server.url("app");
    let run = |more: &[&str]| scene.place.run(&[&["graduate", "app.db", "--to", &url], more].concat());
    let litekeep = scene.replicate().unwrap();
    eventually("it replicates", LONG, || Ok(scene.status().unwrap()["replicator_pid"].is_number())).unwrap();
    assert!(on_sqlite(
        &scene.db(),
        "INSERT INTO operations(name, giver, taker, amount) VALUES ('x', 1, 2, 0)"
    ));
    run(&[]).succeeded();
    // A table that came since is not there.
    let db = Connection::open(scene.db()).unwrap();
    db.execute_batch("CREATE TABLE late(id INTEGER PRIMARY KEY)").unwrap();
    run(&["--switch", "true"]).failed_with(&["the table `late` is new, and not on the server", "--done"]);
    db.execute_batch("DROP TABLE late").unwrap();
    drop(db);
    let switched = run(&["--switch", "printf %s \"$DATABASE_URL\" > url", "--json"]).succeeded().json();
    shapes::matches("graduate", &switched);
    assert_eq!(uses(&scene), url);
    let rows = server.query_in("app", "SELECT name FROM operations").unwrap();
    assert_eq!(rows[0][0].as_deref(), Some("x"));
    let dangling = "INSERT INTO operations(name, giver, taker, amount) VALUES ('y', 1, 9999, 0)";
    server.query_in("app", dangling).unwrap_err();
    run(&["--back", "--switch", "true"]).failed_with(&["nothing comes back by itself", "litekeep copy"]);
    run(&["--done"]).succeeded();
    assert!(server.query_in("app", "SELECT 1 FROM _litekeep_sync").is_err());
    scene.stop(litekeep).unwrap();
}

/// The same to MariaDB, from which nothing comes back: killed after the application was let there, it must not take it for an application that uses SQLite.
#[test]
fn killed_in_the_middle_of_the_way_to_mariadb_it_goes_on() {
    campaign::rounds("graduate-mariadb", 1, |seed| {
        let mut random = fastrand::Rng::with_seed(seed);
        let server = Mysql::start(Flavor::Mariadb)?;
        server.query("CREATE DATABASE app")?;
        let scene = bank();
        let url = server.url("app");
        let litekeep = scene.replicate()?;
        eventually("it replicates", LONG, || Ok(scene.status()?["replicator_pid"].is_number()))?;
        let login = server.login("app");
        let application = Application::start(&scene, move |sql| mysql::query_at(&login, sql).is_ok());
        let graduate = |switch: &str| {
            let of = ["graduate", "app.db", "--to", &url, "--switch", switch, "--within", "30s", "--once"];
            scene.start(&of)
        };
        for _ in 0..3 {
            let process = graduate(SWITCH)?;
            std::thread::sleep(Duration::from_millis(random.u64(20..2500)));
            process.kill()?;
        }
        if uses(&scene).is_empty() {
            // At the very moment at which it is there, and nobody has noted it.
            let process = graduate(&format!("{SWITCH}; sleep 60"))?;
            eventually("it uses MariaDB", LONG, || Ok(uses(&scene) == url))
                .with_context(|| process.output())?;
            application.goes_on();
            process.kill()?;
        }
        let mut process = graduate(SWITCH)?;
        let status = process.wait(LONG)?;
        ensure!(uses(&scene) == url, "{status}: it uses `{}`\n{}", uses(&scene), process.output());
        application.goes_on();
        let acknowledged = application.end();
        is_whole(&|sql| Ok(texts(server.query_in("app", sql)?)), &acknowledged)
            .with_context(|| format!("MariaDB\n{}", process.output()))?;
        let kept = std::fs::read_to_string(scene.place.path(".app.db-litekeep/graduate.json"))?;
        ensure!(kept.contains("switched"), "{kept}\n{}", process.output());
        scene.stop(litekeep)
    });
}

#[test]
fn what_cannot_go_is_told_before_anything_is_made() {
    let server = Postgres::start().unwrap();
    let scene = bank();
    let url = server.url("postgres");
    let run = |more: &[&str]| scene.place.run(&[&["graduate", "app.db", "--to", &url], more].concat());
    let litekeep = scene.replicate().unwrap();
    eventually("it replicates", LONG, || Ok(scene.status()?["replicator_pid"].is_number())).unwrap();
    for url in ["mongodb://a:secret@h/d", "oracle://a:secret@h/d"] {
        let ran = scene.place.run(&["graduate", "app.db", "--to", url]);
        assert!(!ran.stderr.contains("secret"), "{}", ran.stderr);
        ran.failed_with(&["is no server that an application can be moved to"]);
    }
    let db = Connection::open(scene.db()).unwrap();
    db.execute_batch("CREATE TABLE plain(a INT, b TEXT); INSERT INTO plain VALUES ('text', 'x')").unwrap();
    run(&[]).failed_with(&["plain", "has no primary key", "litekeep lint app.db --for postgres", "--table"]);
    assert!(server.query("SELECT 1 FROM accounts").is_err());
    let ready = run(&["--table", "accounts", "--table", "operations", "--json"]).succeeded().json();
    assert_eq!((&ready["stage"], &ready["compared_rows"]), (&"ready".into(), &Value::from(ACCOUNTS)));
    run(&["--table", "accounts"]).failed_with(&["it was begun with other tables", "--done"]);
    // A row that cannot be there keeps the application here.
    db.execute_batch("UPDATE accounts SET balance = 'much' WHERE id = 1").unwrap();
    run(&["--switch", "false"]).failed_with(&["1 row cannot be on the other side", "accounts 1"]);
    run(&["--done"]).succeeded();
    scene.stop(litekeep).unwrap();
}
