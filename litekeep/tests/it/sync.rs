//! Goal: a sync of the configuration keeps PostgreSQL in step with the database, or the database with PostgreSQL, whoever is killed in
//! between, and says how it stands. Method: the real binary beside a writer, a real server, SIGKILL at random moments; every row is compared afterwards, by the
//! product and by plain SQL.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use anyhow::Context as _;
use litekeep_testkit::postgres::Postgres;
use litekeep_testkit::process::eventually;
use litekeep_testkit::{Process, campaign};
use rusqlite::Connection;

use crate::Place;
use crate::feeds::{add, write};
use crate::scene::{LONG, Scene, Store};
use crate::shapes;

pub(crate) fn scene_with(url: &str, more: &str) -> Scene {
    scene_of(url, more, "INSERT INTO t VALUES (1, 0)")
}

/// With these rows in its first snapshot.
fn scene_of(url: &str, more: &str, rows: &str) -> Scene {
    let scene = Scene::new(Store::Folder, "upload_interval = \"20ms\"");
    let db = Connection::open(scene.db()).unwrap();
    db.execute_batch(
        &format!("PRAGMA journal_mode=WAL; CREATE TABLE t(n INTEGER PRIMARY KEY, v INTEGER); {rows};
         CREATE TABLE log(what TEXT, at DATETIME DEFAULT CURRENT_TIMESTAMP); INSERT INTO log(what) VALUES ('begun')"),
    )
    .unwrap();
    drop(db);
    scene.replicate_once().unwrap();
    add(&scene, &format!("[[sync]]\nname = \"there\"\nto = {url:?}\n{more}"));
    scene
}

/// What both sides have, by plain SQL.
pub(crate) fn rows_here(scene: &Scene) -> String {
    let db = Connection::open(scene.db()).unwrap();
    let sql = "SELECT coalesce(group_concat(n || ':' || v, ' '), '') FROM (SELECT n, v FROM t ORDER BY n)";
    db.query_row(sql, (), |row| row.get(0)).unwrap()
}

/// A server that has the table `t`, for what is the same with all of them.
pub(crate) trait Server {
    /// What it has, as [`rows_here`], by its own words.
    fn rows(&self) -> String;
    fn kill(&mut self);
    fn resume(&mut self);
}

impl Server for Postgres {
    fn rows(&self) -> String {
        let rows =
            self.query("SELECT coalesce(string_agg(n || ':' || v, ' ' ORDER BY n), '') FROM t").unwrap();
        rows[0][0].clone().unwrap()
    }

    fn kill(&mut self) {
        self.kill().unwrap();
    }

    fn resume(&mut self) {
        self.resume().unwrap();
    }
}

/// Ends litekeep's connections.
fn cut_off(server: &Postgres) {
    let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'litekeep'";
    server.query(sql).unwrap();
}

/// While litekeep runs both sides come to be the same, and the status is green and names the sync so; `verify` says it too.
fn comes_to_the_same(scene: &Scene, server: &impl Server, litekeep: &Process, named: &str) {
    eventually("both sides are the same", LONG, || Ok(server.rows() == rows_here(scene)))
        .unwrap_or_else(|error| panic!("{error}\n{}", litekeep.output()));
    let mut status = String::new();
    eventually("the status is green", LONG, || {
        let ran = scene.place.run(&["status"]);
        status = ran.stdout.clone();
        Ok(ran.code == 0 && status.contains(named))
    })
    .unwrap_or_else(|error| panic!("{error}\n{status}"));
    scene.place.run(&["sync", "verify"]).succeeded();
}

/// litekeep is killed again and again while somebody writes, and the server once.
pub(crate) fn follows_whatever_is_killed(scene: &Scene, mut server: impl Server, named: &str) {
    let db = Connection::open(scene.db()).unwrap();
    for round in 1..=3 {
        let litekeep = scene.replicate().unwrap();
        for n in 0..20 {
            let sql = format!(
                "INSERT OR REPLACE INTO t VALUES ({}, {round}); INSERT INTO log(what) VALUES ('{n}')",
                n * round
            );
            db.execute_batch(&sql).unwrap();
            std::thread::sleep(Duration::from_millis(20));
            if (round, n) == (2, 10) {
                server.kill();
                server.resume();
            }
        }
        litekeep.kill().unwrap();
    }
    let litekeep = scene.replicate().unwrap();
    comes_to_the_same(scene, &server, &litekeep, named);
    // And mends while it goes on.
    scene.place.run(&["sync", "verify", "--repair"]).succeeded();
    scene.stop(litekeep).unwrap();
}

#[test]
fn plan_run_verify_and_what_cannot_go() {
    let server = Postgres::start().unwrap();
    let scene = scene_with(&server.url("postgres"), "");
    let place = &scene.place;
    let run = |args: &[&str]| place.run(args);
    let plan = run(&["sync", "plan", "--json"]).succeeded().json();
    shapes::matches("sync plan", &plan);
    assert!(plan["tables"][1]["sql"][0].as_str().unwrap().contains("\"at\" timestamp DEFAULT"), "{plan:#}");
    run(&["sync", "verify"]).failed_with(&["the sync `there` has not begun", "litekeep sync run there"]);
    let status = run(&["sync", "status"]).succeeded();
    assert!(status.stdout.contains("sync there: has not begun"), "{}", status.stdout);

    let ran = run(&["sync", "run", "--json"]).succeeded().json();
    shapes::matches("sync run", &ran);
    assert_eq!(server.rows(), rows_here(&scene));
    let same = run(&["sync", "verify", "--json"]).succeeded().json();
    shapes::matches("sync verify", &same);
    assert_eq!((same["rows"].as_u64(), same["ok"].as_bool()), (Some(2), Some(true)), "{same:#}");

    // Somebody writes there.
    server.query("UPDATE t SET v = 7; INSERT INTO t VALUES (100, 1)").unwrap();
    let differs = run(&["sync", "verify", "--json"]);
    assert_eq!(differs.code, 1, "{}", differs.stderr);
    let differs = differs.json();
    shapes::matches("sync verify", &differs);
    let counts = ["missing", "extra", "different"].map(|key| differs[key].as_u64().unwrap());
    assert_eq!(counts, [0, 1, 1], "{differs:#}");
    assert_eq!(differs["differences"][0]["what"], "v", "{differs:#}");
    run(&["sync", "verify", "--repair"]).succeeded();
    run(&["sync", "verify"]).succeeded();

    // What has no like there.
    let db = Connection::open(scene.db()).unwrap();
    db.execute_batch("INSERT INTO t VALUES (2, 'text'), (3, 3); ALTER TABLE log RENAME TO logs").unwrap();
    drop(db);
    scene.replicate_once().unwrap();
    let ran = run(&["sync", "run"]);
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    for words in [
        "leaves the table `log` as it is: it was renamed to `logs`",
        "could not write 1 row",
        "sync refused there",
    ] {
        assert!(ran.stderr.contains(words), "{}", ran.stderr);
    }
    let refused = run(&["sync", "refused", "--json"]);
    assert_eq!(refused.code, 1);
    let refused = refused.json();
    shapes::matches("sync refused", &refused);
    assert_eq!((refused[0]["table"].as_str(), refused[0]["key"][0].as_i64()), (Some("t"), Some(2)));
    let status = run(&["sync", "status", "--json"]);
    assert_eq!(status.code, 1);
    shapes::matches("sync status", &status.json());
}

/// The rows that were come from single pages of the snapshot.
#[test]
fn nothing_of_a_damaged_backup_goes() {
    let server = Postgres::start().unwrap();
    let rows = "WITH RECURSIVE i(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM i WHERE n < 60000) INSERT INTO t SELECT n, random() FROM i";
    let scene = scene_of(&server.url("postgres"), "", rows);
    let run = || scene.place.run(&["sync", "run"]);
    run().succeeded();
    let before = server.rows();
    let db = Connection::open(scene.db()).unwrap();
    let sql = "SELECT v FROM t WHERE n BETWEEN 30000 AND 30010 AND abs(v) >> 56 > 0 LIMIT 1";
    let value: i64 = db.query_row(sql, (), |row| row.get(0)).unwrap();
    assert_eq!(db.execute("UPDATE t SET v = 1 WHERE v = ?", [value]).unwrap(), 1);
    scene.replicate_once().unwrap();
    // Random numbers stand in the file as they are.
    let snapshot = std::fs::read_dir(scene.objects().join("ltx/9")).unwrap().next().unwrap().unwrap().path();
    let whole = std::fs::read(&snapshot).unwrap();
    let at = whole.windows(8).position(|bytes| bytes == value.to_be_bytes()).unwrap();
    let mut damaged = whole.clone();
    damaged[at] ^= 1;
    std::fs::write(&snapshot, damaged).unwrap();
    run().failed_with(&["checksum mismatch", snapshot.file_name().unwrap().to_str().unwrap()]);
    assert_eq!(server.rows(), before);
    std::fs::write(&snapshot, whole).unwrap();
    run().succeeded();
    assert_eq!(server.rows(), rows_here(&scene));
}

#[test]
fn mistakes_are_told() {
    let scene = scene_with("postgres://nobody:secret@127.0.0.1:1/app", "types = { \"t.v\" = \"int4\" }\n");
    scene.place.run(&["sync", "run"]).failed_with(&["`int4`, for `t.v`, is no type", "the types are bigint"]);
    let text = std::fs::read_to_string(scene.place.path("litekeep.toml")).unwrap();
    let with = |from: &str, to: &str| {
        std::fs::write(scene.place.path("litekeep.toml"), text.replace(from, to)).unwrap();
    };
    with("types = { \"t.v\" = \"int4\" }\n", "");
    let ran =
        scene.place.run(&["sync", "run"]).failed_with(&["connect in postgres://nobody@127.0.0.1:1/app"]);
    assert!(!ran.stderr.contains("secret"), "{}", ran.stderr);
    scene
        .place
        .run(&["sync", "run", "other"])
        .failed_with(&["there is no sync `other`", "the syncs are `there`"]);
    with("types = { \"t.v\" = \"int4\" }\n", "tables = [\"gone\"]\n");
    scene.place.run(&["sync", "run"]).failed_with(&["connect in"]);
    with("[[sync]]", "[[sync]]\ndirection = \"pull\"");
    scene.place.run(&["sync", "run"]).failed_with(&["`pull` is the other way"]);
    with("postgres://", "oracle://");
    scene.place.run(&["sync", "run"]).failed_with(&["there is no sync with `oracle://`"]);
}

fn connections(server: &Postgres) -> u64 {
    let sql = "SELECT count(*)::text FROM pg_stat_activity WHERE backend_type IN ('client backend', 'walsender') AND pid <> pg_backend_pid()";
    server.query(sql).unwrap()[0][0].as_ref().unwrap().parse().unwrap()
}

fn add_here(scene: &Scene, n: u32) {
    let db = Connection::open(scene.db()).unwrap();
    db.execute("INSERT INTO t VALUES (?, 0)", [n]).unwrap();
}

/// So that a server that sleeps when nobody is connected can sleep.
#[test]
fn a_sync_with_a_schedule_lets_go_of_the_server_in_between() {
    let server = Postgres::start().unwrap();
    let scene = scene_with(&server.url("postgres"), "every = \"1s\"\n");
    let litekeep = scene.replicate().unwrap();
    for n in 2..4 {
        add_here(&scene, n);
        let is_same = || is_there(&server) && rows_here(&scene) == server.rows();
        eventually(
            "the row is there, and no connection",
            LONG,
            || Ok(is_same() && connections(&server) == 0),
        )
        .unwrap();
    }
    let status = scene.place.run(&["sync", "status"]).succeeded();
    assert!(status.stdout.contains("; connects every 1s"), "{}", status.stdout);
    scene.stop(litekeep).unwrap();
}

#[test]
fn a_paused_sync_rests_until_it_is_resumed() {
    let server = Postgres::start().unwrap();
    let scene = scene_with(&server.url("postgres"), "");
    let run = |args: &[&str]| scene.place.run(args);
    let litekeep = scene.replicate().unwrap();
    let is_same = || server.rows() == rows_here(&scene);
    eventually("the first copy is there", LONG, || Ok(is_there(&server) && is_same())).unwrap();
    let paused = run(&["sync", "pause", "--json"]).succeeded().json();
    shapes::matches("sync pause", &paused);
    eventually("no connection is left", LONG, || Ok(connections(&server) == 0)).unwrap();
    add_here(&scene, 2);
    scene.stop(litekeep).unwrap();

    // The next one heeds it, too.
    let litekeep = scene.replicate().unwrap();
    add_here(&scene, 3);
    run(&["sync", "run"]).failed_with(&["the sync `there` is paused since", "litekeep sync resume there"]);
    let status = run(&["sync", "status"]).succeeded();
    assert!(status.stdout.contains("; paused since "), "{}", status.stdout);
    assert_eq!(server.rows(), "1:0");
    assert_eq!(connections(&server), 0);
    assert_eq!(run(&["sync", "resume", "--json"]).succeeded().json()["changed"], true);
    eventually("it goes on", LONG, || Ok(is_same())).unwrap();
    assert_eq!(run(&["sync", "resume", "--json"]).succeeded().json()["changed"], false);
    scene.stop(litekeep).unwrap();
}

fn is_there(server: &Postgres) -> bool {
    server.query("SELECT 1 FROM _litekeep_sync LIMIT 1").is_ok_and(|rows| !rows.is_empty())
}

/// Rows come and go there as they begin and cease to fulfil the condition, whose columns need not go.
#[test]
fn some_columns_and_some_rows_go() {
    let server = Postgres::start().unwrap();
    let scene = scene_with(
        &server.url("postgres"),
        "tables = [\"t\", \"note\"]\ncolumns = { note = [\"id\", \"text\"] }\nwhere = { note = \"state = 'PUBLIC' AND t.n > '1'\" }\n",
    );
    let db = Connection::open(scene.db()).unwrap();
    db.execute_batch(
        "CREATE TABLE note(id INTEGER PRIMARY KEY, state TEXT COLLATE NOCASE, text TEXT, secret TEXT);
         CREATE INDEX by_secret ON note(secret);
         INSERT INTO note VALUES (1, 'PUBLIC', 'a', 's'), (2, 'draft', 'b', 's'), (3, 'public', 'c', 's')",
    )
    .unwrap();
    scene.replicate_once().unwrap();
    let run = |args: &[&str]| scene.place.run(args);
    run(&["sync", "run"]).failed_with(&["`where`: the condition on `note` is none", "no such column: t.n"]);
    let config = |from: &str, to: &str| {
        let text = std::fs::read_to_string(scene.place.path("litekeep.toml")).unwrap();
        assert!(text.contains(from), "{text}");
        std::fs::write(scene.place.path("litekeep.toml"), text.replace(from, to)).unwrap();
    };
    config(" AND t.n > '1'", "");
    config("\"id\", \"text\"]", "\"text\"]");
    run(&["sync", "plan"]).failed_with(&["`columns`: `id` is of the primary key of `note`"]);
    config("[\"text\"]", "[\"id\", \"text\"]");
    let plan = run(&["sync", "plan"]).succeeded();
    assert!(!plan.stdout.contains("secret") && !plan.stdout.contains("state"), "{}", plan.stdout);
    let there = || {
        let rows =
            server.query("SELECT coalesce(string_agg(id || text, ' ' ORDER BY id), '') FROM note").unwrap();
        rows[0][0].clone().unwrap()
    };
    run(&["sync", "run"]).succeeded();
    assert_eq!(there(), "1a", "text is compared by its bytes");
    for (sql, expected) in [
        ("UPDATE note SET state = 'PUBLIC' WHERE id = 2", "1a 2b"),
        ("UPDATE note SET text = 'A' WHERE id = 1", "1A 2b"),
        ("UPDATE note SET state = 'draft' WHERE id = 1", "2b"),
        ("UPDATE note SET id = 20 WHERE id = 2", "20b"),
        ("INSERT INTO note VALUES (5, 'PUBLIC', 'e', ''), (6, 'x', 'f', '')", "5e 20b"),
        ("DELETE FROM note WHERE id IN (3, 5)", "20b"),
        ("ALTER TABLE note ADD COLUMN more TEXT DEFAULT 'm'", "20b"),
    ] {
        db.execute_batch(sql).unwrap();
        scene.replicate_once().unwrap();
        run(&["sync", "run"]).succeeded();
        assert_eq!(there(), expected, "{sql}");
        run(&["sync", "verify"]).succeeded();
    }

    // Another condition is taken up by a comparison; other columns are not.
    config("'PUBLIC'", "'draft'");
    let verified = run(&["sync", "verify"]);
    assert_eq!(verified.code, 1, "{}", verified.stdout);
    run(&["sync", "resync"]).succeeded();
    assert_eq!(there(), "1A");
    config("[\"id\", \"text\"]", "[\"id\", \"text\", \"secret\"]");
    run(&["sync", "run"]).failed_with(&["`columns` says id, text, secret", "drop its tables there"]);
}

/// Kills litekeep, the server or the connection while somebody writes; in the end both sides are the same, and `verify` says so.
#[test]
fn kills_lose_no_row_and_repeat_none() {
    campaign::rounds("syncs", 2, |seed| {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut server = Postgres::start().unwrap();
        let scene = scene_with(&server.url("postgres"), "");
        let stop = Arc::new(AtomicBool::new(false));
        let writing = {
            let (db, stop, mut random) = (scene.db(), stop.clone(), fastrand::Rng::with_seed(seed));
            std::thread::spawn(move || write(&Connection::open(db).unwrap(), &stop, &mut random))
        };
        for _ in 0..4 {
            let litekeep = scene.replicate().unwrap();
            std::thread::sleep(Duration::from_millis(random.u64(200..2500)));
            match random.u8(0..3) {
                0 => {
                    server.kill().unwrap();
                    std::thread::sleep(Duration::from_millis(random.u64(0..500)));
                    server.resume().unwrap();
                }
                1 => cut_off(&server),
                _ => {}
            }
            std::thread::sleep(Duration::from_millis(random.u64(0..500)));
            litekeep.kill().unwrap();
        }
        stop.store(true, SeqCst);
        writing.join().unwrap();
        let litekeep = scene.replicate().unwrap();
        comes_to_the_same(&scene, &server, &litekeep, "sync there to postgres://");
        scene.stop(litekeep)
    });
}

fn pulling_from(server: &Postgres, sql: &str) -> Scene {
    server.query(sql).unwrap();
    pulling(&server.url("postgres"))
}

/// A database with rows of its own, into which those of a server come.
pub(crate) fn pulling(url: &str) -> Scene {
    let scene = Scene::new(Store::Folder, "upload_interval = \"20ms\"");
    let db = Connection::open(scene.db()).unwrap();
    db.execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE own(n INTEGER PRIMARY KEY)").unwrap();
    drop(db);
    scene.replicate_once().unwrap();
    add(&scene, &format!("[[sync]]\nname = \"pg\"\nfrom = {url:?}\n"));
    scene
}

/// Writes rows of its own into a database while something is done.
fn beside_a_writer<R>(scene: &Scene, work: impl FnOnce() -> R) -> R {
    let stop = Arc::new(AtomicBool::new(false));
    let writing = {
        let (db, stop) = (scene.db(), stop.clone());
        std::thread::spawn(move || {
            let db = Connection::open(db).unwrap();
            db.busy_timeout(LONG).unwrap();
            while !stop.load(SeqCst) {
                db.execute("INSERT INTO own DEFAULT VALUES", ()).unwrap();
                std::thread::sleep(Duration::from_millis(5));
            }
        })
    };
    let done = work();
    stop.store(true, SeqCst);
    writing.join().unwrap();
    done
}

/// What the backup has is what is there: the application's rows and those that came.
fn assert_restores(scene: &Scene) -> anyhow::Result<()> {
    let restored = scene.restore(&[])?;
    let rows = |db: &std::path::Path| -> anyhow::Result<(i64, i64)> {
        let sql = "SELECT (SELECT count(*) FROM own), (SELECT sum(n + coalesce(v, 0)) FROM t)";
        Ok(Connection::open(db)?.query_row(sql, (), |row| Ok((row.get(0)?, row.get(1)?)))?)
    };
    anyhow::ensure!(rows(&restored)? == rows(&scene.db())?, "the backup has not all");
    Ok(())
}

const PULLED: &str = "CREATE TABLE t(n int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 0), (2, NULL)";

#[test]
fn rows_of_a_server_come_into_the_database() {
    let server = Postgres::start().unwrap();
    let scene = pulling_from(&server, PULLED);
    let run = |args: &[&str]| scene.place.run(args);
    let plan = run(&["sync", "plan", "--json"]).succeeded().json();
    shapes::matches("sync plan", &plan);
    assert_eq!(plan["tables"][0]["sql"][0], "CREATE TABLE \"t\"(\"n\" INTEGER PRIMARY KEY, \"v\" INTEGER)");
    run(&["sync", "verify"]).failed_with(&["the sync `pg` has not begun", "litekeep sync run pg"]);
    run(&["sync", "refused"]).failed_with(&["the sync `pg` has not begun"]);

    let ran = run(&["sync", "run", "--json"]).succeeded().json();
    shapes::matches("sync run", &ran);
    assert!(ran["position"].is_string() && ran["txid"].is_null(), "{ran:#}");
    let same = run(&["sync", "verify", "--json"]).succeeded().json();
    shapes::matches("sync verify", &same);
    assert_eq!((same["rows"].as_u64(), same["ok"].as_bool()), (Some(2), Some(true)), "{same:#}");
    let status = run(&["sync", "status", "--json"]).succeeded().json();
    shapes::matches("sync status", &status);
    let said = run(&["sync", "status"]).succeeded().stdout;
    assert!(said.contains("sync pg from postgres://") && said.contains("follows, stands at"), "{said}");

    // Somebody writes here what is the server's.
    let db = Connection::open(scene.db()).unwrap();
    db.execute_batch("UPDATE t SET v = 7 WHERE n = 1; INSERT INTO t VALUES (100, 1)").unwrap();
    let differs = run(&["sync", "verify", "--repair", "--json"]);
    assert_eq!(differs.code, 1, "{}", differs.stderr);
    let differs = differs.json();
    shapes::matches("sync verify", &differs);
    assert_eq!(["missing", "extra", "different"].map(|key| differs[key].as_u64().unwrap()), [0, 1, 1]);
    run(&["sync", "run"]).succeeded();
    run(&["sync", "verify"]).succeeded();
    shapes::matches("sync resync", &run(&["sync", "resync", "--json"]).succeeded().json());
    run(&["sync", "run"]).succeeded();
    assert_eq!(rows_here(&scene), "1:0");
    shapes::matches("sync forget", &run(&["sync", "forget", "--json"]).succeeded().json());
    assert_eq!(server.query("SELECT 1 FROM pg_replication_slots").unwrap().len(), 0);
    run(&["sync", "verify"]).failed_with(&["has not begun"]);
    run(&["sync", "forget"]).failed_with(&["has not begun"]);
    run(&["sync", "run"]).failed_with(&["the table `t` is there and has rows", "DROP TABLE \"t\""]);
}

/// Rows come and go here as they begin and cease to fulfil the condition, whose columns need not come.
#[test]
fn some_columns_and_some_rows_come() {
    let server = Postgres::start().unwrap();
    let notes = "CREATE TABLE note(id int PRIMARY KEY, state text, text text, secret text);
        INSERT INTO note VALUES (1, 'PUBLIC', 'a', 's'), (2, 'draft', 'b', 's'), (3, 'public', 'c', 's')";
    let scene = pulling_from(&server, &format!("{PULLED}; {notes}"));
    let cut = "columns = { note = [\"id\", \"text\"] }\nwhere = { note = \"state = 'PUBLIC'\" }\n";
    let file = scene.place.path("litekeep.toml");
    std::fs::write(&file, std::fs::read_to_string(&file).unwrap() + cut).unwrap();
    let run = |args: &[&str]| scene.place.run(args);
    let needs = "ALTER TABLE \"public\".\"note\" REPLICA IDENTITY FULL;";
    let plan = run(&["sync", "plan"]);
    assert!(plan.code == 1 && plan.stdout.contains(needs), "{}", plan.stdout);
    run(&["sync", "run"]).failed_with(&["`note` cannot be pulled", needs]);
    server.query(needs).unwrap();
    let plan = run(&["sync", "plan"]).succeeded();
    assert!(!plan.stdout.contains("secret") && !plan.stdout.contains("state"), "{}", plan.stdout);
    run(&["sync", "run"]).succeeded();
    let here = || -> String {
        let sql = "SELECT coalesce(group_concat(id || text, ' '), '') FROM (SELECT * FROM note ORDER BY id)";
        Connection::open(scene.db()).unwrap().query_row(sql, (), |row| row.get(0)).unwrap()
    };
    assert_eq!(here(), "1a", "text is compared by its bytes");
    for (sql, expected) in [
        ("UPDATE note SET state = 'PUBLIC' WHERE id = 2", "1a 2b"),
        ("UPDATE note SET state = 'draft' WHERE id = 1", "2b"),
        ("UPDATE note SET id = 20 WHERE id = 2", "20b"),
        ("ALTER TABLE note ADD COLUMN more text DEFAULT 'm'", "20b"),
    ] {
        server.query(sql).unwrap();
        run(&["sync", "run"]).succeeded();
        assert_eq!(here(), expected, "{sql}");
        run(&["sync", "verify"]).succeeded();
    }
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("= 'PUBLIC'", "= 'draft'")).unwrap();
    for command in ["run", "verify"] {
        run(&["sync", command]).failed_with(&["begun with the rows of `note`", "litekeep sync resync pg"]);
    }
    run(&["sync", "resync"]).succeeded();
    run(&["sync", "run"]).succeeded();
    assert_eq!(here(), "1a");
}

/// Kills litekeep, the server or the connection while the server changes and the application writes; in the end both have the same, and
/// the backup has all of it. `change` makes a random statement of this kind, 0 to 3, for a key and a value.
pub(crate) fn pulls_whatever_is_killed<S: Server>(
    seed: u64,
    mut server: S,
    scene: &Scene,
    change: impl Fn(&S, u8, u32, u32),
    cut_off: impl Fn(&S),
) -> anyhow::Result<()> {
    let mut random = fastrand::Rng::with_seed(seed);
    let litekeep = beside_a_writer(scene, || {
        for _ in 0..5 {
            let litekeep = scene.replicate().unwrap();
            for _ in 0..random.u32(5..40) {
                let (n, v) = (random.u32(0..500), random.u32(..));
                change(&server, random.u8(0..4), n, v);
            }
            match random.u8(0..3) {
                0 => {
                    server.kill();
                    server.resume();
                }
                1 => cut_off(&server),
                _ => {}
            }
            std::thread::sleep(Duration::from_millis(random.u64(0..700)));
            litekeep.kill().unwrap();
        }
        let litekeep = scene.replicate().unwrap();
        eventually("both sides are the same", LONG, || Ok(server.rows() == rows_here(scene)))
            .unwrap_or_else(|error| panic!("seed {seed}: {error}\n{}", litekeep.output()));
        litekeep
    });
    scene.place.run(&["sync", "verify"]).succeeded();
    scene.stop(litekeep)?;
    assert_restores(scene).with_context(|| format!("seed {seed}"))
}

#[test]
fn kills_lose_no_row_of_the_server() {
    campaign::rounds("pulls", 2, |seed| {
        let server = Postgres::start().unwrap();
        let scene = pulling_from(&server, PULLED);
        server.query("INSERT INTO t SELECT i, i FROM generate_series(1000, 20000) i").unwrap();
        let change = |server: &Postgres, kind: u8, n: u32, v: u32| {
            let sql = match kind {
                0 => format!("DELETE FROM t WHERE n BETWEEN {n} AND {}", n + 20),
                1 => format!(
                    "UPDATE t SET n = n + 100000 WHERE n = {n} AND NOT EXISTS (SELECT 1 FROM t WHERE n = {n} + 100000)"
                ),
                _ => format!(
                    "INSERT INTO t SELECT i, {v} % 1000 FROM generate_series({n}, {}) i ON CONFLICT(n) DO UPDATE SET v = excluded.v",
                    n + 50
                ),
            };
            server.query(&sql).unwrap();
        };
        pulls_whatever_is_killed(seed, server, &scene, change, cut_off)
    });
}

/// What `lint` calls in order a server takes, with its keys; what it does not says why.
#[test]
fn what_would_be_elsewhere_is_told() {
    let server = Postgres::start().unwrap();
    let scene = Scene::new(Store::Folder, "");
    let db = Connection::open(scene.db()).unwrap();
    db.execute_batch(
        "CREATE TABLE people(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
         CREATE TABLE orders(id INTEGER PRIMARY KEY, who INTEGER REFERENCES people(id) ON DELETE CASCADE, made TEXT DEFAULT (strftime('%s')));
         INSERT INTO people VALUES (1, 'a'); INSERT INTO orders VALUES (1, 1, 'x')",
    )
    .unwrap();
    let path = scene.db();
    let run =
        |args: &[&str]| scene.place.run(&[args, &[path.to_str().unwrap(), "--for", "postgres"]].concat());
    let lint = run(&["lint", "--json"]).succeeded().json();
    shapes::matches("lint", &lint);
    let schema = run(&["schema", "--json"]).succeeded().json();
    shapes::matches("schema", &schema);
    let statements = run(&["schema"]).succeeded().stdout;
    assert!(statements.contains("-- rule: orders.made its default"), "{statements}");
    server.query(&statements).unwrap();
    let refused = server.query("INSERT INTO orders(id, who) VALUES (1, 7)").unwrap_err();
    assert!(format!("{refused:#}").contains("orders_who_fkey"), "{refused:#}");

    db.execute_batch("PRAGMA foreign_keys = OFF; INSERT INTO orders VALUES (2, 7000, 'y')").unwrap();
    // One in more than a hundred, so that the column keeps its type.
    db.execute_batch("WITH n(i) AS (VALUES(2) UNION ALL SELECT i + 1 FROM n WHERE i < 300) INSERT INTO people SELECT i, 'n' || i FROM n; CREATE TABLE odd(id INTEGER PRIMARY KEY, v INTEGER); INSERT INTO odd SELECT id, id FROM people; UPDATE odd SET v = 'text' WHERE id = 5").unwrap();
    let lint = run(&["lint"]);
    assert_eq!(lint.code, 1, "{}", lint.stdout);
    for said in
        ["values: odd.v 1 of 300 values are not bigint", "rule: orders 1 row refer", "not everything can go"]
    {
        assert!(lint.stdout.contains(said), "{said}: {}", lint.stdout);
    }
    scene
        .place
        .run(&["lint", "nothing.db", "--for", "postgres"])
        .failed_with(&["there is no `nothing.db`", "litekeep lint app.db --for postgres"]);
}

#[test]
fn statements_of_an_application_are_looked_at() {
    let place = Place::new();
    let file = place.path("queries.sql");
    std::fs::write(&file, "SELECT 1;\n\nSELECT name FROM t\nWHERE name GLOB 'a*';\nSELECT 'a' || 'b';\n")
        .unwrap();
    let path = file.to_str().unwrap();
    let lint = place.run(&["lint", path, "--for", "mysql", "--json"]);
    assert_eq!(lint.code, 1);
    shapes::matches("lint-sql", &lint.json());
    let said = place.run(&["lint", path, "--for", "mysql"]).stdout;
    for line in [
        "queries.sql:3: GLOB is refused there: LIKE",
        "queries.sql:5: || means something else there",
        "3 statements: not every",
    ] {
        assert!(said.contains(line), "{said}");
    }
    std::fs::write(&file, "SELECT coalesce(1, 2);").unwrap();
    assert!(
        place.run(&["lint", path, "--for", "postgres"]).succeeded().stdout.contains("1 statement: nothing")
    );
    place.run(&["lint", path, "--for", "mongodb"]).failed_with(&["MongoDB has no SQL"]);
    place.run(&["lint", path, "app.db", "--for", "mysql"]).failed_with(&["one database, or", "*.sql"]);
    place
        .run(&["lint", "nothing.sql", "--for", "mysql"])
        .failed_with(&["there is no `nothing.sql`", "give the path"]);
}
