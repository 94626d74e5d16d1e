//! Goal: an application has rows of a server from its SQLite file, by `litekeep get` and over HTTP, and sees how old they are, whoever is killed.
//! Method: the real binary beside a real server that is changed, killed and started again.

use std::time::Duration;

use litekeep_testkit::Process;
use litekeep_testkit::postgres::Postgres;
use litekeep_testkit::process::eventually;
use rusqlite::Connection;
use serde_json::{Value, json};

use crate::dashboard::{Answer, ask};
use crate::feeds::add;
use crate::scene::{LONG, Scene, Store};
use crate::shapes;
use crate::up::free_port;

const TOKEN: &str = "correct-horse-battery";
const TABLES: &str = "CREATE TABLE users(id bigint PRIMARY KEY, name text); INSERT INTO users VALUES (1, 'Ann'), (2, 'Bob');
     CREATE TABLE seats(hall text, seat int, taken boolean, PRIMARY KEY(hall, seat)); INSERT INTO seats VALUES ('a/b,c', 7, true);
     CREATE TABLE words(word text PRIMARY KEY, n int, body bytea); INSERT INTO words VALUES ('it''s 100%', 1, '\\x00ff')";

fn scene(server: &Postgres, keys: &str) -> Scene {
    server.query(TABLES).unwrap();
    let scene = Scene::new(Store::Folder, "upload_interval = \"20ms\"");
    let db = Connection::open(scene.db()).unwrap();
    db.execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE own(n); INSERT INTO own VALUES(1)").unwrap();
    drop(db);
    let url = server.url("postgres");
    add(&scene, &format!("[[sync]]\nname = \"users\"\nmode = \"cache\"\nfrom = {url:?}\n{keys}"));
    scene
}

/// Everything that is here is so much older.
fn age(scene: &Scene, seconds: i64) {
    let db = Connection::open(scene.db()).unwrap();
    let sql = "UPDATE _litekeep_sync SET content = json_set(content, '$.at_ms', json_extract(content, '$.at_ms') - ?1) WHERE item LIKE 'cached/%'";
    db.execute(sql, [seconds * 1000]).unwrap();
}

fn names(scene: &Scene) -> Vec<String> {
    let db = Connection::open(scene.db()).unwrap();
    let mut select = db.prepare("SELECT name FROM users ORDER BY id").unwrap();
    select.query_map((), |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
}

#[test]
fn rows_by_the_command() {
    let mut server = Postgres::start().unwrap();
    let scene = scene(&server, "tables = [\"users\", \"seats\", \"words\"]\nttl = \"1h\"\n");
    let run = |args: &[&str]| scene.place.run(args);
    let plan = run(&["sync", "plan", "--json"]).succeeded().json();
    shapes::matches("sync plan", &plan);
    let got = run(&["get", "app.db", "users", "1"]).succeeded();
    assert_eq!(got.stdout, "{\"id\":1,\"name\":\"Ann\"}\n", "{}", got.stderr);
    assert_eq!(names(&scene), ["Ann"]);
    server.query("UPDATE users SET name = 'Anna' WHERE id = 1").unwrap();
    let got = run(&["get", "app.db", "USERS", "id=1", "--json"]).succeeded().json();
    shapes::matches("get", &got);
    assert_eq!(
        (&got["cache"], &got["row"]["name"], &got["key"]),
        (&json!("hit"), &json!("Ann"), &json!({ "id": 1 }))
    );
    let absent = run(&["get", "app.db", "users", "-7", "--json"]);
    assert_eq!(absent.code, 1, "{}", absent.stderr);
    let absent = absent.json();
    shapes::matches("get", &absent);
    assert_eq!(
        (&absent["found"], &absent["row"], &absent["cache"]),
        (&json!(false), &Value::Null, &json!("miss"))
    );
    for (table, key, column, value) in [
        ("seats", "seat=7,hall='a/b,c'", "taken", json!(1)),
        ("words", "it's 100%", "n", json!(1)),
        ("words", "word='it''s 100%'", "body", json!({ "blob": "00ff" })),
    ] {
        let got = run(&["get", "app.db", table, key, "--json"]).succeeded().json();
        assert_eq!(got["row"][column], value, "{key}: {got:#}");
    }
    for (args, said) in [
        (["app.db", "users", "x"], "`x` is no integer, as `id` of `users` is"),
        (["app.db", "seats", "7"], "the primary key of `seats` has 2 columns"),
        (["app.db", "nothing", "7"], "no cache of the database has a table `nothing`"),
        (["other.db", "users", "7"], "is not in the configuration"),
    ] {
        run(&["get", args[0], args[1], args[2]]).failed_with(&[said]);
    }
    let status = run(&["sync", "status", "--json"]).succeeded().json();
    shapes::matches("sync status", &status);
    let figures = &status["syncs"][0]["cache"];
    assert_eq!(status["syncs"][0]["direction"], "cache", "{status:#}");
    assert_eq!(
        ["rows", "hits", "misses", "errors"].map(|name| figures[name].as_u64().unwrap()),
        [3, 2, 4, 0],
        "{status:#}"
    );
    let text = run(&["sync", "status"]).succeeded().stdout;
    assert!(text.contains("has 3 rows; 33.3 % of 6 from here"), "{text}");

    // Older than it should be, with and without the server.
    age(&scene, 5_000);
    let stale = run(&["get", "app.db", "users", "1"]).succeeded();
    assert!(
        stale.stdout.contains("\"Ann\"") && stale.stderr.contains("old, and is being asked for anew"),
        "{}",
        stale.stderr
    );
    assert_eq!(names(&scene), ["Anna"]);
    server.kill().unwrap();
    age(&scene, 5_000);
    let stale = run(&["get", "app.db", "users", "1", "--json"]).succeeded().json();
    assert_eq!((&stale["cache"], &stale["row"]["name"]), (&json!("stale"), &json!("Anna")));
    let away = run(&["get", "app.db", "users", "2"]);
    assert_eq!(away.code, 2, "{}", away.stdout);
    away.failed_with(&["nothing listens there"]);
    age(&scene, 5_000);
    assert_eq!(run(&["get", "app.db", "users", "1"]).code, 2);
    server.resume().unwrap();

    // A cache that rests, begins anew, and ends.
    run(&["get", "app.db", "users", "1"]).succeeded();
    run(&["sync", "pause"]).succeeded();
    run(&["get", "app.db", "users", "1"]).succeeded();
    run(&["get", "app.db", "users", "2"]).failed_with(&["has been paused", "litekeep sync resume users"]);
    run(&["sync", "resume"]).succeeded();
    run(&["sync", "verify"]).failed_with(&["may be older than those of the server"]);
    shapes::matches("sync run", &run(&["sync", "run", "--json"]).succeeded().json());
    shapes::matches("sync resync", &run(&["sync", "resync", "--json"]).succeeded().json());
    assert!(names(&scene).is_empty());
    run(&["get", "app.db", "users", "2"]).succeeded();
    shapes::matches("sync forget", &run(&["sync", "forget", "--json"]).succeeded().json());
    assert!(names(&scene).is_empty());
    let db = Connection::open(scene.db()).unwrap();
    let ours = "SELECT count(*) FROM sqlite_schema WHERE name = '_litekeep_sync'";
    assert_eq!(db.query_row::<i64, _, _>(ours, (), |row| row.get(0)).unwrap(), 0);
}

fn get(port: u16, path: &str) -> Answer {
    ask(port, &format!("GET {path}"), &[&format!("Authorization: Bearer {TOKEN}")])
}

fn begun(scene: &Scene, port: u16) -> Process {
    let litekeep = scene.replicate().unwrap();
    eventually("the page is there", LONG, || Ok(std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()))
        .unwrap();
    litekeep
}

#[test]
fn rows_over_http() {
    let mut server = Postgres::start().unwrap();
    let (port, metrics) = (free_port(), free_port());
    let scene = scene(&server, "ttl = \"1h\"\nnegative_ttl = \"1h\"\nmax_rows = 100\n");
    add(
        &scene,
        &format!(
            "[dashboard]\naddr = \"127.0.0.1:{port}\"\ntoken = {TOKEN:?}\n[metrics]\naddr = \"127.0.0.1:{metrics}\"\n"
        ),
    );
    let litekeep = begun(&scene, port);
    let got = get(port, "/get/app.db/users/1");
    assert_eq!(
        (got.code, got.header("x-litekeep-cache"), got.header("age")),
        (200, Some("miss"), Some("0")),
        "{}",
        got.body
    );
    assert_eq!(got.json(), json!({ "id": 1, "name": "Ann" }));
    assert_eq!(names(&scene), ["Ann"]);
    assert_eq!(get(port, "/get/app.db/users/1").header("x-litekeep-cache"), Some("hit"));
    let path = format!("/get{}/users/id=2", scene.db().display());
    assert_eq!(get(port, &path).json()["name"], "Bob");
    assert_eq!(get(port, "/get/app.db/seats/hall='a%2Fb,c',seat=7").json()["taken"], 1);
    assert_eq!(get(port, "/get/app.db/words/it's%20100%25").json()["n"], 1);
    for round in ["miss", "hit"] {
        let absent = get(port, "/get/app.db/users/77");
        assert_eq!(
            (absent.code, absent.header("x-litekeep-cache"), absent.body.as_str()),
            (404, Some(round), "null")
        );
    }
    for (path, code, said) in [
        ("/get/app.db/users/x", 400, "`x` is no integer, as `id` of `users` is"),
        ("/get/app.db/users/", 400, "ask for /get/DATABASE/TABLE/KEY"),
        ("/get/app.db/users/1?stale=1", 400, "there is no parameter `stale`"),
        ("/get/app.db/nothing/1", 400, "no cache of the database has a table `nothing`"),
        ("/get/other.db/users/1", 400, "the database has no cache"),
    ] {
        let refused = get(port, path);
        assert!(
            refused.code == code && refused.body.contains(said),
            "{path}: {} {}",
            refused.code,
            refused.body
        );
    }
    assert_eq!(ask(port, "GET /get/app.db/users/1", &[]).code, 401);
    let foreign = ["Sec-Fetch-Site: cross-site", &format!("Authorization: Bearer {TOKEN}")];
    assert_eq!(ask(port, "GET /get/app.db/users/1", &foreign).code, 403);

    // Killed, it has what it had, and how old that is.
    litekeep.kill().unwrap();
    age(&scene, 4_000);
    server.query("UPDATE users SET name = 'Anna' WHERE id = 1").unwrap();
    let litekeep = begun(&scene, port);
    let stale = get(port, "/get/app.db/users/1");
    assert_eq!((stale.code, stale.header("x-litekeep-cache")), (200, Some("stale")));
    assert!(stale.header("age").unwrap().parse::<u64>().unwrap() >= 4_000, "{:?}", stale.header("age"));
    eventually("it is asked for behind", LONG, || {
        Ok(names(&scene).first().is_some_and(|name| name == "Anna"))
    })
    .unwrap();
    assert_eq!(get(port, "/get/app.db/users/1").header("x-litekeep-cache"), Some("hit"));

    // The server is away.
    server.kill().unwrap();
    age(&scene, 4_000);
    let away = get(port, "/get/app.db/users/3");
    assert_eq!((away.code, away.header("retry-after")), (503, Some("1")), "{}", away.body);
    eventually("what is stale says why", LONG, || {
        let stale = get(port, "/get/app.db/users/1");
        assert_eq!((stale.code, stale.json()["name"].as_str()), (200, Some("Anna")));
        Ok(stale.header("x-litekeep-error").is_some_and(|why| why.contains("refused")))
    })
    .unwrap();
    eventually("the status is red", LONG, || {
        let status = scene.place.run(&["sync", "status"]);
        Ok(status.code == 1 && status.stdout.contains("the sync `users` does not reach its server"))
    })
    .unwrap();
    server.resume().unwrap();
    eventually("the status is green", LONG, || Ok(scene.place.run(&["sync", "status"]).code == 0)).unwrap();
    eventually("the metrics tell", LONG, || {
        let told = ask(metrics, "GET /metrics", &[]).body;
        let has = |name: &str| told.lines().any(|line| line.starts_with(&format!("litekeep_cache_{name}{{")));
        Ok(["rows", "hits_total", "stale_total", "errors_total"].iter().all(|name| has(name)))
    })
    .unwrap();
    eventually("the page tells", LONG, || {
        let board = get(port, "/api/status").json();
        shapes::matches("board", &board);
        // What a killed one has counted in its last second is lost.
        Ok(board["databases"][0]["syncs"][0]["cache"]["hits"].as_u64().unwrap() >= 1)
    })
    .unwrap();
    scene.stop(litekeep).unwrap();
}

/// What is too old goes also where nobody asks for it.
#[test]
fn rows_do_not_stay_longer_than_they_may() {
    let server = Postgres::start().unwrap();
    let port = free_port();
    let scene = scene(&server, "tables = [\"users\"]\nttl = \"1s\"\nstale = \"1s\"\n");
    add(&scene, &format!("[dashboard]\naddr = \"127.0.0.1:{port}\"\ntoken = {TOKEN:?}\n"));
    let litekeep = begun(&scene, port);
    assert_eq!(get(port, "/get/app.db/users/1").code, 200);
    eventually("the row is gone", LONG, || {
        std::thread::sleep(Duration::from_millis(100));
        Ok(names(&scene).is_empty())
    })
    .unwrap();
    scene.stop(litekeep).unwrap();
}

/// With a pull beside it: rows that fulfil a condition are here without being asked for, others until they change.
#[test]
fn rows_go_as_soon_as_they_change_there() {
    let server = Postgres::start().unwrap();
    let port = free_port();
    let keys =
        "tables = [\"users\", \"words\"]\nttl = \"1h\"\nfollow = true\nwhere = { words = \"n > 5\" }\n";
    let scene = scene(&server, keys);
    let words = "ALTER TABLE words REPLICA IDENTITY FULL; INSERT INTO words VALUES ('more', 7, NULL)";
    server.query(words).unwrap();
    add(&scene, &format!("[dashboard]\naddr = \"127.0.0.1:{port}\"\ntoken = {TOKEN:?}\n"));
    let run = |args: &[&str]| scene.place.run(args);
    shapes::matches("sync plan", &run(&["sync", "plan", "--json"]).succeeded().json());
    run(&["get", "app.db", "users", "1"])
        .failed_with(&["the sync `users` has not begun", "litekeep sync run users"]);
    let litekeep = begun(&scene, port);
    let words = || {
        let db = Connection::open(scene.db()).unwrap();
        let mut select = db.prepare("SELECT word FROM words ORDER BY word")?;
        select.query_map((), |row| row.get(0))?.collect::<Result<Vec<String>, _>>()
    };
    eventually("what fulfils the condition is here", LONG, || {
        Ok(words().is_ok_and(|words| words == ["more"]))
    })
    .unwrap();
    eventually("it is in step", LONG, || {
        Ok(get(port, "/get/app.db/words/more").header("x-litekeep-cache") == Some("hit"))
    })
    .unwrap();
    assert_eq!(get(port, "/get/app.db/users/1").json()["name"], "Ann");
    assert_eq!(get(port, "/get/app.db/users/1").header("x-litekeep-cache"), Some("hit"));
    server.query("UPDATE users SET name = 'Anna' WHERE id = 1; UPDATE words SET n = 8").unwrap();
    eventually("the row is gone", LONG, || Ok(names(&scene).is_empty())).unwrap();
    eventually("another one is here", LONG, || Ok(words()? == ["it's 100%", "more"])).unwrap();
    let got = run(&["get", "app.db", "users", "1", "--json"]).succeeded().json();
    assert_eq!((&got["cache"], &got["row"]["name"]), (&json!("miss"), &json!("Anna")));
    assert_eq!(run(&["get", "app.db", "words", "more", "--json"]).succeeded().json()["cache"], "hit");
    let status = run(&["sync", "status"]).succeeded().stdout;
    assert!(status.contains("follows, stands at") && status.contains("from here"), "{status}");
    scene.stop(litekeep).unwrap();
    // Nobody keeps it in step any more.
    server.query("UPDATE words SET n = 9 WHERE word = 'more'").unwrap();
    let got = run(&["get", "app.db", "words", "more", "--json"]).succeeded().json();
    assert_eq!((&got["cache"], &got["row"]["n"]), (&json!("miss"), &json!(9)));
    run(&["sync", "run"]).succeeded();
    run(&["sync", "forget"]).succeeded();
    assert!(names(&scene).is_empty());
    let slots = server.query("SELECT count(*)::text FROM pg_replication_slots").unwrap();
    assert_eq!(slots[0][0].as_deref(), Some("0"));
}
