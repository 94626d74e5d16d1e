//! Goal: a feed of the configuration delivers every change at least once and in order, whoever is killed in between, and says
//! how it stands. Method: the real binary beside a writer, real servers, SIGKILL at random moments; what came is held against
//! the log and against the database itself.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead as _, BufReader, ErrorKind};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use litekeep_replicate::restore::Goal;
use litekeep_rows::feed::Feed;
use litekeep_rows::{Selection, json};
use litekeep_store::Target;
use litekeep_testkit::process::eventually;
use litekeep_testkit::{Broker, Process};
use rusqlite::Connection;
use serde_json::Value;

use crate::dashboard::{ask, connect};
use crate::scene::{LONG, Scene, Store};
use crate::up::free_port;
use crate::{Place, shapes};

/// A row as it is after an event.
type Rows = BTreeMap<i64, i64>;

const FIRST: &str = "0000000000000001";

/// Where a feed of the scene goes.
struct Sink {
    name: &'static str,
    broker: Option<Broker>,
}

impl Sink {
    fn file() -> Sink {
        Sink { name: "file", broker: None }
    }

    fn url(&self, scene: &Scene) -> String {
        if let Some(broker) = &self.broker {
            return broker.url("changes");
        }
        scene.place.path("events.jsonl").to_str().unwrap().to_owned()
    }

    /// The events that came, in order.
    fn received(&self, scene: &Scene) -> Result<Vec<Value>> {
        let lines: Vec<String> = match self {
            Sink { broker: Some(broker), .. } => {
                broker.received("changes")?.into_iter().map(|event| event.body).collect()
            }
            _ => {
                let text = std::fs::read_to_string(scene.place.path("events.jsonl")).unwrap_or_default();
                text.split_inclusive('\n').filter(|line| line.ends_with('\n')).map(str::to_owned).collect()
            }
        };
        lines.iter().map(|line| serde_json::from_str(line).with_context(|| line.clone())).collect()
    }
}

/// Transaction and order of an event.
fn place(event: &Value) -> (String, u64) {
    let of = &event["transaction"];
    (of["id"].as_str().unwrap().to_owned(), of["total_order"].as_u64().unwrap())
}

fn scene_with(feeds: &str) -> Scene {
    scene_every("20ms", feeds)
}

fn scene_every(interval: &str, feeds: &str) -> Scene {
    let scene = Scene::new(Store::Folder, &format!("upload_interval = {interval:?}"));
    let db = Connection::open(scene.db()).unwrap();
    db.execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE t(n INTEGER PRIMARY KEY, v INTEGER)").unwrap();
    drop(db);
    scene.replicate_once().unwrap();
    add(&scene, feeds);
    scene
}

pub(crate) fn add(scene: &Scene, toml: &str) {
    let path = scene.place.path("litekeep.toml");
    let before = std::fs::read_to_string(&path).unwrap();
    std::fs::write(path, before + toml).unwrap();
}

fn feed(name: &str, url: &str) -> String {
    format!("[[feed]]\nname = {name:?}\nto = {url:?}\nfrom = {FIRST:?}\n")
}

/// Inserts, updates and deletes until it is told to stop.
pub(crate) fn write(db: &Connection, stop: &AtomicBool, random: &mut fastrand::Rng) {
    let mut next = 1;
    while !stop.load(SeqCst) {
        let some = random.i64(1..=next);
        let statement = match random.u8(0..10) {
            0..6 => {
                next += 1;
                format!("INSERT INTO t VALUES({next}, 0)")
            }
            6..9 => format!("UPDATE t SET v = v + 1 WHERE n BETWEEN {some} AND {}", some + 20),
            _ => format!("DELETE FROM t WHERE n = {some}"),
        };
        db.execute_batch(&statement).unwrap();
        std::thread::sleep(Duration::from_micros(random.u64(0..3000)));
    }
}

/// Holds what came against the log: everything, in order, and again only from a seam on. Returns how many seams there are.
fn check(expected: &[(String, u64)], received: &[Value], name: &str) -> usize {
    let nth: HashMap<&(String, u64), usize> =
        expected.iter().enumerate().map(|(nth, place)| (place, nth)).collect();
    let (mut next, mut seams, mut reached) = (0, 0, 0);
    for event in received {
        let at = nth[&place(event)];
        assert!(at <= reached, "{name}: {:?} came before {:?}", expected[at], expected[reached]);
        seams += usize::from(at != next);
        next = at + 1;
        reached = reached.max(next);
    }
    assert_eq!(reached, expected.len(), "{name}: the end is missing");
    seams
}

/// What is there when all events are applied as they came.
fn apply(received: &[Value]) -> Rows {
    let mut rows = Rows::new();
    for event in received.iter().filter(|event| event.get("op").is_some()) {
        let key = event["key"]["n"].as_i64().unwrap();
        match event["after"]["v"].as_i64() {
            Some(value) => rows.insert(key, value),
            None => rows.remove(&key),
        };
    }
    rows
}

fn table(db: &Connection) -> Rows {
    let mut statement = db.prepare("SELECT n, v FROM t").unwrap();
    let rows = statement.query_map((), |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    rows.collect::<rusqlite::Result<_>>().unwrap()
}

/// The events of the log after its first transaction, upload by upload.
fn expected(scene: &Scene) -> Vec<(String, u64)> {
    let store = litekeep_store::Store::open(&Target::Folder(scene.objects())).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let from = Goal::Txid(FIRST.parse().unwrap());
        let mut feed = Feed::open(&store, from, Selection::default()).await.unwrap();
        let mut places = vec![];
        while let Some(transaction) = feed.next().await.unwrap() {
            places.extend(json::envelopes("app.db", &transaction, 0).map(|event| place(&event)));
        }
        places
    })
}

/// Kills whoever is there at random, and proves what came in the end.
fn survives_kills(sinks: &mut [Sink], kills: usize, seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let scene = scene_with("");
    for sink in &*sinks {
        add(&scene, &feed(sink.name, &sink.url(&scene)));
    }
    let mut litekeep = scene.replicate().unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let writer = std::thread::spawn({
        let (stop, path, mut random) = (stop.clone(), scene.db(), random.fork());
        move || {
            let db = Connection::open(path).unwrap();
            db.busy_timeout(LONG).unwrap();
            write(&db, &stop, &mut random);
        }
    });
    for _ in 0..kills {
        std::thread::sleep(Duration::from_millis(random.u64(100..900)));
        if random.bool() {
            let mut brokers: Vec<_> = sinks.iter_mut().filter_map(|sink| sink.broker.as_mut()).collect();
            let nth = random.usize(0..brokers.len().max(1));
            if let Some(broker) = brokers.get_mut(nth) {
                broker.kill().unwrap();
                std::thread::sleep(Duration::from_millis(random.u64(0..500)));
                broker.resume().unwrap();
                continue;
            }
        }
        litekeep.kill().unwrap();
        litekeep = scene.replicate().unwrap();
    }
    stop.store(true, SeqCst);
    writer.join().unwrap();
    let db = Connection::open(scene.db()).unwrap();
    let rows = table(&db);
    eventually("everything is in the backup", LONG, || Ok(scene.status()?["pending_frames"] == 0)).unwrap();
    let expected = expected(&scene);
    assert!(expected.len() > 100, "{} events", expected.len());
    for sink in &*sinks {
        let is_last = |received: Vec<Value>| {
            received.last().is_some_and(|event| place(event) == expected[expected.len() - 1])
        };
        let arrived = eventually(sink.name, LONG, || {
            std::thread::sleep(Duration::from_millis(100));
            Ok(is_last(sink.received(&scene)?))
        });
        arrived.unwrap_or_else(|error| {
            let last = sink.received(&scene).unwrap().last().map(place);
            let (name, wanted) = (sink.name, &expected[expected.len() - 1]);
            panic!("{name}: {error}: its last event is {last:?} and not {wanted:?}\n{}", scene.log())
        });
        let received = sink.received(&scene).unwrap();
        let seams = check(&expected, &received, sink.name);
        // A kill in the middle of a delivery is one; a server that comes back may break two connections.
        assert!(seams <= 2 * kills, "{}: {seams} seams after {kills} kills", sink.name);
        if sink.name == "file" || sink.name == "nats" {
            assert_eq!(received.len(), expected.len(), "{}: repeated events", sink.name);
        }
        assert_eq!(apply(&received), rows, "{}", sink.name);
    }
    scene.stop(litekeep).unwrap();
}

#[test]
fn a_file_has_every_change_once_whatever_is_killed() {
    survives_kills(&mut [Sink::file()], 12, 1);
}

#[cfg(all(feature = "nats", feature = "redis", feature = "rabbitmq"))]
#[test]
fn every_change_reaches_every_broker_whatever_is_killed() {
    use litekeep_testkit::brokers::Kind;
    let broker = |name, kind| {
        let broker = Broker::start(kind).unwrap();
        broker.declare("changes").unwrap();
        Sink { name, broker: Some(broker) }
    };
    let mut sinks = [
        Sink::file(),
        broker("nats", Kind::Nats),
        broker("redis", Kind::Redis),
        broker("rabbitmq", Kind::RabbitMq),
    ];
    survives_kills(&mut sinks, 16, 2);
}

/// A server that does not answer, another that takes nothing: neither delays the backup or the other feed.
#[test]
fn a_feed_that_hangs_delays_nobody_and_is_told_once() {
    let hanging = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = |scheme: &str, rest: &str| format!("{scheme}://{}/{rest}", hanging.local_addr().unwrap());
    let scene = scene_with("");
    add(&scene, &feed("file", "events.jsonl"));
    add(&scene, &feed("nowhere", "/nowhere/at/all.jsonl"));
    #[cfg(feature = "redis")]
    add(&scene, &feed("hangs", &url("redis", "0?stream=s")));
    #[cfg(not(feature = "redis"))]
    let _ = url;
    let metrics = free_port();
    add(&scene, &format!("[metrics]\naddr = \"127.0.0.1:{metrics}\"\n"));
    let litekeep = scene.replicate().unwrap();
    let db = Connection::open(scene.db()).unwrap();
    db.execute_batch("INSERT INTO t VALUES(1, 1)").unwrap();
    eventually("the other feed delivers", LONG, || Ok(!Sink::file().received(&scene)?.is_empty())).unwrap();
    let told = |status: &Value, name: &str| {
        let feeds = status["feeds"].as_array().unwrap();
        feeds.iter().find(|feed| feed["name"] == name).unwrap().clone()
    };
    eventually("what is wrong is told", LONG, || {
        let status = scene.status()?;
        let hangs = cfg!(not(feature = "redis")) || told(&status, "hangs")["error"].is_string();
        let stands = told(&status, "file")["lag_transactions"] == 0;
        Ok(hangs && stands && told(&status, "nowhere")["error"].is_string())
    })
    .unwrap();
    let status = scene.status().unwrap();
    assert_eq!(status["ok"], false);
    let red = status["red"].as_array().unwrap();
    assert!(red[0].as_str().unwrap().contains("the feed `nowhere` does not deliver since "), "{red:?}");
    assert!(red[0].as_str().unwrap().contains("No such file or directory"), "{red:?}");
    let text = ask(metrics, "GET /metrics", &[]).body;
    let database = scene.db().canonicalize().unwrap();
    for (name, feed, value) in [("up", "file", 1), ("up", "nowhere", 0), ("lag_transactions", "file", 0)] {
        let line =
            format!("litekeep_feed_{name}{{database=\"{}\",feed=\"{feed}\"}} {value}", database.display());
        assert!(text.lines().any(|own| own == line), "{line}: {text}");
    }
    // More tries than one, told once.
    std::thread::sleep(Duration::from_secs(2));
    let log = scene.log();
    assert_eq!(log.matches("No such file or directory").count(), 1, "{log}");
    assert_eq!(log.matches("ERROR").count(), 0, "{log}");
    scene.stop(litekeep).unwrap();
    let output = String::from_utf8(scene.command(&["status"]).output().unwrap().stdout).unwrap();
    assert!(output.contains("feed file to file://"), "{output}");
}

#[test]
fn changes_are_delivered_by_hand_too() {
    let place = Place::new();
    let path = place.database("app.db", 3);
    place.run(&["replicate", "-once", "app.db", "./app.db-backup"]).succeeded();
    Connection::open(&path).unwrap().execute_batch("UPDATE t SET x = 'y'").unwrap();
    place.run(&["replicate", "-once", "app.db", "./app.db-backup"]).succeeded();
    let to = ["changes", "app.db", "--to", "e.jsonl", "--position", "p"];
    place.run(&to).failed_with(&["say from where on"]);
    let begun = place.run(&[&to[..], &["--from", FIRST, "--json"]].concat()).succeeded().json();
    shapes::matches("changes-delivered", &begun);
    let lines = || std::fs::read_to_string(place.path("e.jsonl")).unwrap().lines().count();
    assert_eq!(lines(), 3);
    assert_eq!(begun["events"], 3);
    let again = place.run(&to).succeeded();
    assert_eq!(lines(), 3, "it goes on where it was");
    assert!(again.stdout.contains("nothing new for file://"), "{}", again.stdout);
    let begin = [&to[..], &["--from", FIRST]].concat();
    place.run(&begin).failed_with(&["`p` goes on after transaction", "leave --from out"]);
    let elsewhere = place.run(&["changes", "app.db", "--to", "other.jsonl", "--position", "p"]).succeeded();
    assert!(elsewhere.stderr.contains("e.jsonl: nothing up to transaction"), "{}", elsewhere.stderr);
    assert!(elsewhere.stdout.contains("nothing new for"), "{}", elsewhere.stdout);
    let run = |url: &str| place.run(&["changes", "app.db", "--to", url, "--position", "q", "--from", FIRST]);
    run("kafka://h/t").failed_with(&["a feed cannot go to `kafka://`"]);
    run("/nowhere/e.jsonl").failed_with(&["open `/nowhere/e.jsonl`: No such file or directory"]);
    place.run(&["changes", "app.db", "--to", "e.jsonl"]).failed_with(&["--position"]);
    std::fs::write(place.path("p"), "{").unwrap();
    place.run(&to).failed_with(&["read the feed's position `p`: it is damaged", "remove it"]);
    #[cfg(feature = "redis")]
    {
        let port = free_port();
        run(&format!("redis://127.0.0.1:{port}?stream=s"))
            .failed_with(&[&format!("connect to redis://127.0.0.1:{port}"), "refused"]);
    }
    #[cfg(not(feature = "redis"))]
    run("redis://h?stream=s").failed_with(&["this build has no client for it", "--features redis"]);
}

/// A mistake in a name would deliver nothing, for ever.
#[test]
fn a_table_that_is_not_there_is_told_before_anything_is_delivered() {
    let place = Place::new();
    let path = place.database("app.db", 3);
    let replicate = || place.run(&["replicate", "-once", "app.db", "./app.db-backup"]).succeeded();
    replicate();
    Connection::open(&path).unwrap().execute_batch("UPDATE t SET x = 'y'; CREATE TABLE later(a)").unwrap();
    replicate();
    let deliver = |table: &str, more: &[&str]| {
        let arguments = ["changes", "app.db", "--to", "e.jsonl", "--position", "p", "--table", table];
        place.run(&[&arguments[..], more].concat())
    };
    let parts = ["there is no table `ts`", "the tables are `t`, `later`"];
    deliver("ts", &["--from", FIRST]).failed_with(&parts);
    assert!(!place.path("e.jsonl").exists() && !place.path("p").exists());
    // Of the last state alone, and in any case of its letters.
    for (table, events) in [("later", 1), ("T", 3)] {
        deliver(table, &["--from", FIRST]).succeeded();
        let text = std::fs::read_to_string(place.path("e.jsonl")).unwrap();
        assert_eq!(text.lines().count(), events, "{table}: {text}");
        std::fs::remove_file(place.path("e.jsonl")).unwrap();
        std::fs::remove_file(place.path("p")).unwrap();
    }
    deliver("later", &["--from", FIRST]).succeeded();
    // Going on from a position, too.
    deliver("ts", &[]).failed_with(&parts);

    let scene = scene_with(&format!("{}tables = [\"ts\"]\n", feed("file", "events.jsonl")));
    let litekeep = scene.replicate().unwrap();
    eventually("it is told", LONG, || Ok(scene.log().contains("there is no table `ts`"))).unwrap();
    let db = Connection::open(scene.db()).unwrap();
    db.execute_batch("CREATE TABLE ts(a); INSERT INTO ts VALUES(1)").unwrap();
    eventually("what was made later is delivered", LONG, || Ok(!Sink::file().received(&scene)?.is_empty()))
        .unwrap();
    scene.stop(litekeep).unwrap();
}

/// What was told of each commit, by upload and number.
type Commits = BTreeMap<(String, u64), Vec<Value>>;

/// Takes note of the lines that a `litekeep changes` has printed to their end; what came before comes again as it was.
fn note(commits: &mut Commits, lines: &str) {
    let whole = lines.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    for event in whole.filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        let position = event["source"]["position"].as_str().unwrap().to_owned();
        let (txid, seq) = position.split_once('.').unwrap_or((&position, "0"));
        let told = commits.entry((txid.to_owned(), seq.parse().unwrap())).or_default();
        let row = serde_json::json!([event["op"], event["key"]["n"], event["after"]["v"]]);
        if !told.contains(&row) {
            told.push(row);
        }
    }
}

/// Each commit numbers itself in one row and inserts another: where two were told as one, a number would be missing. A
/// follower that is killed goes on after the last commit that it has whole.
#[test]
fn every_single_commit_is_told_by_itself_whatever_is_killed() {
    const COMMITS: i64 = 1500;
    let mut random = fastrand::Rng::with_seed(3);
    let scene = scene_every("300ms", "");
    let db = Connection::open(scene.db()).unwrap();
    db.busy_timeout(LONG).unwrap();
    // A checkpoint while litekeep is dead would leave no frames to tell commits apart by.
    db.execute_batch("PRAGMA wal_autocheckpoint = 0; INSERT INTO t VALUES(0, 0)").unwrap();
    scene.replicate_once().unwrap();
    let begun = scene.last_txid().unwrap();
    let mut litekeep = scene.replicate().unwrap();
    // It begins with an empty WAL, and compares all pages: commits of that moment are told as one.
    eventually("litekeep has looked at everything", LONG, || Ok(scene.place.run(&["status"]).code == 0))
        .unwrap();
    let mut pauses = random.fork();
    let writer = std::thread::spawn(move || {
        for n in 1..=COMMITS {
            let both = format!("UPDATE t SET v = {n} WHERE n = 0; INSERT INTO t VALUES({n}, 0)");
            db.execute_batch(&format!("BEGIN; {both}; COMMIT")).unwrap();
            std::thread::sleep(Duration::from_micros(pauses.u64(0..8000)));
        }
        db
    });
    let mut told = Commits::new();
    let follow = |told: &Commits, run: usize| {
        let whole = told.iter().rfind(|(_, rows)| rows.len() == 2);
        let from = match whole {
            Some(((txid, 0), _)) => txid.clone(),
            Some(((txid, seq), _)) => format!("{txid}.{seq}"),
            None => begun.clone(),
        };
        let path = scene.place.path(&format!("changes-{run}.jsonl"));
        let command = scene.command(&["changes", "app.db", "--follow", "--from", &from]);
        Process::start(command, &path).unwrap()
    };
    let mut runs = 0;
    let mut follower = follow(&told, runs);
    while !writer.is_finished() {
        std::thread::sleep(Duration::from_millis(random.u64(200..1000)));
        if random.bool() {
            litekeep.kill().unwrap();
            litekeep = scene.replicate().unwrap();
        } else {
            follower.signal(libc::SIGKILL).unwrap();
            follower.wait(LONG).unwrap();
            note(&mut told, &follower.output());
            runs += 1;
            follower = follow(&told, runs);
        }
    }
    assert!(runs > 0);
    let db = writer.join().unwrap();
    let has_last =
        |told: &Commits| told.values().any(|rows| rows.contains(&serde_json::json!(["c", COMMITS, 0])));
    eventually("the last commit is told", LONG, || {
        std::thread::sleep(Duration::from_millis(100));
        note(&mut told, &follower.output());
        Ok(has_last(&told))
    })
    .unwrap_or_else(|error| panic!("{error}: {:?}\n{}", told.last_key_value(), scene.log()));
    drop(follower);
    drop(db);
    scene.stop(litekeep).unwrap();
    let expected: Vec<Vec<Value>> =
        (1..=COMMITS).map(|n| vec![serde_json::json!(["u", 0, n]), serde_json::json!(["c", n, 0])]).collect();
    let rows: Vec<Vec<Value>> = told.values().cloned().collect();
    assert_eq!(rows, expected, "{told:#?}");
    // And from the backup alone.
    let mut kept = Commits::new();
    note(&mut kept, &scene.litekeep(&["changes", &scene.url(), "--from", &begun]).unwrap());
    assert_eq!(kept, told);
}

/// Server-sent events, read one by one.
struct Stream(BufReader<TcpStream>);

impl Stream {
    fn open(port: u16, path: &str, headers: &[&str]) -> Stream {
        let mut reader = BufReader::new(connect(port, &format!("GET {path}"), headers));
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        assert!(line.contains("200"), "{line}");
        Stream(reader)
    }

    /// Kind, id and data of the next one.
    fn next(&mut self) -> (String, String, Value) {
        let (mut kind, mut id) = (String::new(), String::new());
        loop {
            let mut line = String::new();
            assert!(self.0.read_line(&mut line).unwrap() > 0, "the stream has ended");
            if let Some(text) = line.strip_prefix("event: ") {
                kind = text.trim().to_owned();
            } else if let Some(text) = line.strip_prefix("id: ") {
                id = text.trim().to_owned();
            } else if let Some(text) = line.strip_prefix("data: ") {
                let data = serde_json::from_str(text.trim()).unwrap();
                // What follows may be the id.
                while line.trim() != "" {
                    line.clear();
                    self.0.read_line(&mut line).unwrap();
                    if let Some(text) = line.strip_prefix("id: ") {
                        id = text.trim().to_owned();
                    }
                }
                return (kind, id, data);
            }
        }
    }

    /// Rows up to the next position.
    fn transaction(&mut self) -> (Vec<Value>, String) {
        let mut rows = Vec::new();
        loop {
            let (kind, id, data) = self.next();
            if kind == "position" {
                assert_eq!(data["txid"], id);
                return (rows, id);
            }
            assert!(kind.is_empty() && id.is_empty(), "a row has no position: {kind} {id}");
            rows.push(data);
        }
    }
}

#[test]
fn changes_are_followed_over_http_and_gone_on_with() {
    let port = free_port();
    let scene =
        scene_with(&format!("[dashboard]\naddr = \"127.0.0.1:{port}\"\ntoken = \"correct-horse-battery\"\n"));
    let litekeep = scene.replicate().unwrap();
    let token = "Authorization: Bearer correct-horse-battery";
    eventually("it is served", LONG, || Ok(TcpStream::connect(("127.0.0.1", port)).is_ok())).unwrap();
    let db = Connection::open(scene.db()).unwrap();
    let mut all = Stream::open(port, "/changes/app.db", &[token]);
    let (rows, begun) = all.transaction();
    assert!(rows.is_empty());
    db.execute_batch("INSERT INTO t VALUES(1, 1), (2, 2)").unwrap();
    let (rows, first) = all.transaction();
    assert_eq!(rows.iter().map(|row| &row["key"]["n"]).collect::<Vec<_>>(), [1, 2]);
    assert_eq!((&rows[0]["op"], &rows[0]["source"]["name"]), (&"c".into(), &"app.db".into()));
    db.execute_batch("CREATE TABLE other(a); INSERT INTO other VALUES(1); UPDATE t SET v = 7 WHERE n = 1")
        .unwrap();
    let (_, last) = loop {
        let (rows, id) = all.transaction();
        if rows.iter().any(|row| row["op"] == "u") {
            break (rows, id);
        }
    };
    assert!(begun < first && first < last);
    // A browser that comes back.
    let back = format!("Last-Event-ID: {first}");
    let mut again = Stream::open(port, "/changes/app.db?tables=other", &[token, &back]);
    assert_eq!(again.transaction().1, first);
    let mut tables = Vec::new();
    while tables.len() < 2 {
        tables.extend(again.transaction().0.into_iter().map(|row| row["source"]["table"].clone()));
    }
    assert_eq!(tables, ["other", "other"], "the table itself, and its row");
    let whole = format!("/changes{}?from={first}", scene.db().canonicalize().unwrap().display());
    assert_eq!(Stream::open(port, &whole, &[token]).transaction().1, first);

    let answer = |path: &str, headers: &[&str]| ask(port, &format!("GET {path}"), headers);
    let refused = answer("/changes/app.db", &[]);
    assert_eq!(refused.code, 401);
    let unknown = answer("/changes/nothing.db", &[token]);
    assert!(unknown.code == 404 && unknown.body.contains("/app.db"), "{}", unknown.body);
    // All of a transaction comes to whoever stopped within it.
    let within = format!("/changes/app.db?from={first}.1");
    assert!(Stream::open(port, &within, &[token]).transaction().1 < first);
    for (query, code) in
        [("from=0000000000ffffff", 410), ("from=x", 400), ("form=1", 400), ("tables=other,none", 400)]
    {
        let refused = answer(&format!("/changes/app.db?{query}"), &[token]);
        assert_eq!(refused.code, code, "{query}: {}", refused.body);
    }
    // Nobody reads, and everything goes on.
    let idle = connect(port, "GET /changes/app.db", &[token]);
    db.execute_batch(
        "WITH RECURSIVE n(i) AS (SELECT 100 UNION ALL SELECT i+1 FROM n WHERE i<20000) INSERT INTO t SELECT i, i FROM n",
    )
    .unwrap();
    let mut count = 0;
    while count < 19_901 {
        count += all.transaction().0.len();
    }
    drop(idle);
    drop((all, again));
    scene.stop(litekeep).unwrap();
}

/// More than the system takes for somebody who reads nothing: it costs little memory, delays nobody, and ends.
#[test]
fn a_follower_that_takes_nothing_is_cut_off_and_delays_nobody() {
    let port = free_port();
    let scene = scene_with(&format!("[dashboard]\naddr = \"127.0.0.1:{port}\"\n"));
    let litekeep = scene.replicate().unwrap();
    eventually("it is served", LONG, || Ok(TcpStream::connect(("127.0.0.1", port)).is_ok())).unwrap();
    let db = Connection::open(scene.db()).unwrap();
    db.execute_batch("CREATE TABLE large(x)").unwrap();
    let mut small = Stream::open(port, "/changes/app.db?tables=t", &[]);
    let begun = small.transaction().1;
    let before = litekeep.usage().unwrap().rss;
    let idle = connect(port, &format!("GET /changes/app.db?from={begun}"), &[]);
    for n in 1..=60 {
        db.execute_batch(&format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<10)
               INSERT INTO large SELECT hex(randomblob(50000)) FROM n;
             INSERT INTO t VALUES({n}, 0)"
        ))
        .unwrap();
        let asked = Instant::now();
        while !small.transaction().0.iter().any(|row| row["key"]["n"] == n) {}
        assert!(asked.elapsed() < Duration::from_secs(10), "row {n} came after {:?}", asked.elapsed());
    }
    let grown = litekeep.usage().unwrap().rss.saturating_sub(before);
    assert!(grown < 200 << 20, "{} MiB more", grown >> 20);
    // It notices without reading.
    eventually("it is cut off", LONG, || {
        std::thread::sleep(Duration::from_millis(100));
        Ok(idle.take_error()?.is_some_and(|error| error.kind() == ErrorKind::ConnectionReset))
    })
    .unwrap();
    db.execute_batch("INSERT INTO t VALUES(100, 0)").unwrap();
    while !small.transaction().0.iter().any(|row| row["key"]["n"] == 100) {}
    drop((small, db));
    scene.stop(litekeep).unwrap();
    scene.prove_equal_pages().unwrap();
}

/// A database that is backed up to `b1` and `b2`, which both have it, and its replicator.
fn backed_up_twice(toml: &str) -> (Place, Connection, Process) {
    let place = Place::new();
    place.database("app.db", 1);
    let twice = "[[database]]\npath = \"app.db\"\nbackup = [\"b1\", \"b2\"]\nupload_interval = \"20ms\"\n";
    std::fs::write(place.path("litekeep.toml"), twice.to_owned() + toml).unwrap();
    let replicator = Process::start(place.command(&["replicate"]), &place.path("log")).unwrap();
    for folder in ["./b1", "./b2"] {
        eventually(folder, LONG, || Ok(place.run(&["history", folder]).code == 0)).unwrap();
    }
    let db = Connection::open(place.path("app.db")).unwrap();
    (place, db, replicator)
}

fn insert_word(db: &Connection, word: &str) {
    db.execute("INSERT INTO t (x) VALUES (?1)", [word]).unwrap();
}

/// It stood still without a word, although the other destination had everything.
#[test]
fn a_feed_goes_on_from_the_other_destination_when_one_is_away() {
    let (place, db, replicator) = backed_up_twice(&feed("file", "events.jsonl"));
    let events = || std::fs::read_to_string(place.path("events.jsonl")).unwrap_or_default();
    let delivers = |word: &str| {
        insert_word(&db, word);
        let arrived = eventually(word, LONG, || Ok(events().contains(word)));
        arrived.unwrap_or_else(|error| panic!("{error}\n{}", replicator.output()));
    };
    delivers("both are there");
    std::fs::rename(place.path("b1"), place.path("away")).unwrap();
    delivers("the first is away");
    assert!(replicator.output().contains("although more is confirmed"), "{}", replicator.output());
    let status = || place.run(&["status", "--json"]).json()["databases"][0]["feeds"][0].clone();
    eventually("the trouble is over", LONG, || Ok(status()["error"].is_null())).unwrap();
    replicator.kill().unwrap();
}

/// Over HTTP whoever comes back, as browsers do, is served from there.
#[test]
fn a_follower_is_sent_to_the_other_destination_when_one_is_away() {
    let port = free_port();
    let (place, db, replicator) = backed_up_twice(&format!("[dashboard]\naddr = \"127.0.0.1:{port}\"\n"));
    let mut stream = Stream::open(port, "/changes/app.db", &[]);
    let begun = stream.transaction().1;
    std::fs::rename(place.path("b1"), place.path("away")).unwrap();
    insert_word(&db, "the first is away");
    let mut rest = String::new();
    std::io::Read::read_to_string(&mut stream.0, &mut rest).unwrap();
    assert!(!rest.contains("data:"), "{rest}");
    let back = format!("Last-Event-ID: {begun}");
    let mut again = Stream::open(port, "/changes/app.db", &[&back]);
    while again.transaction().0.iter().all(|row| row["after"]["x"] != "the first is away") {}
    replicator.kill().unwrap();
}
