//! Goal: a cache gives what the server has, no older than it may be, asks as seldom as it can, and never makes a row or its absence up. Method: a
//! real server that others change and kill, questions counted by the server itself, and times that are moved in the database instead of waited for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use litekeep_sync::cache::figures::Counts;
use litekeep_sync::cache::{Answer, Origin, Settings, Times};
use litekeep_sync::cut::Cut;
use litekeep_sync::transfer::Parts;
use litekeep_sync::{Cache, Error, Kind, Value};
use rusqlite::Connection;

use crate::pull_scene::Scene;
use crate::pulled::{self, DATABASE, ID, TABLES, churn};
use crate::server::{server, start};

const HOUR: Duration = Duration::from_secs(3_600);
const ALWAYS: Times = Times { ttl: HOUR, stale: HOUR, negative_ttl: HOUR };
/// Longer than it takes to ask a server.
const PATIENCE: Duration = Duration::from_secs(60);

impl Scene {
    fn settings(&self, times: Times, max_rows: usize) -> Settings {
        let state = self.database().with_file_name("users.json");
        let (name, database, cut) = ("orders".to_owned(), self.database(), Cut::default());
        Settings { name, database, creates: true, cut, times, max_rows, state, follows: None }
    }

    fn cache(&self, times: Times) -> Arc<Cache> {
        self.cache_of(times, 100_000)
    }

    fn cache_of(&self, times: Times, max_rows: usize) -> Arc<Cache> {
        Cache::new(self.settings(times, max_rows), Box::new(pulled::source(&self.url, &["orders", "parts"])))
    }

    fn try_get(&self, cache: &Arc<Cache>, table: &str, key: &[Value]) -> Result<Answer, Error> {
        self.runtime.block_on(get(cache, table, key))
    }

    fn get(&self, cache: &Arc<Cache>, id: i64) -> Answer {
        self.try_get(cache, "orders", &[Value::Integer(id)]).unwrap()
    }

    /// The name of an order, and where it is from.
    fn name_of(&self, cache: &Arc<Cache>, id: i64) -> (Option<String>, Origin) {
        let answer = self.get(cache, id);
        assert_eq!(answer.trouble, None);
        (name(&answer), answer.origin)
    }

    /// Everything that is here is so much older.
    pub(crate) fn ages(&self, by: Duration) {
        let sql = "UPDATE _litekeep_sync SET content = json_set(content, '$.at_ms', json_extract(content, '$.at_ms') - ?1) WHERE item LIKE 'cached/%'";
        let db = Connection::open(self.database()).unwrap();
        db.execute(sql, [i64::try_from(by.as_millis()).unwrap()]).unwrap();
    }

    /// The numbers of the orders that are here.
    fn here(&self) -> Vec<String> {
        let rows = self.rows(&format!("SELECT CAST({ID} AS TEXT) FROM orders ORDER BY {ID}"));
        rows.into_iter().flatten().flatten().collect()
    }

    fn counts(&self, cache: &Arc<Cache>) -> Counts {
        self.runtime.block_on(cache.tell_figures()).unwrap();
        Counts::read(&self.settings(ALWAYS, 1).state)
    }
}

pub(crate) async fn get(cache: &Arc<Cache>, table: &str, key: &[Value]) -> Result<Answer, Error> {
    let plan = cache.tables().await?;
    let table = plan.tables().find(|found| found.mirror.name == table).unwrap();
    cache.get(table, key.to_vec()).await
}

fn name(answer: &Answer) -> Option<String> {
    let named = |(column, value): &(String, Value)| match value {
        Value::Text(text) if column == "name" => Some(String::from_utf8(text.clone()).unwrap()),
        _ => None,
    };
    answer.row.as_ref()?.iter().find_map(named)
}

fn text(text: &str) -> Value {
    Value::Text(text.into())
}

fn some(name: &str) -> Option<String> {
    Some(name.to_owned())
}

#[test]
fn a_row_comes_from_the_server_and_is_here_then() {
    let scene = Scene::new("cache_first", TABLES);
    pulled::name_orders(&server(), "cache_first", &[(1, "a"), (2, "b")]);
    let cache = scene.cache(ALWAYS);
    assert_eq!(scene.name_of(&cache, 1), (some("a"), Origin::Miss));
    assert_eq!(scene.here(), ["1"]);
    pulled::rename_order(&server(), "cache_first", 1, "new");
    assert_eq!(scene.name_of(&cache, 1), (some("a"), Origin::Hit));
    assert_eq!(scene.name_of(&cache, 2), (some("b"), Origin::Miss));
    assert_eq!(scene.here(), ["1", "2"]);
    let counts = scene.counts(&cache);
    assert_eq!((counts.rows, counts.hits, counts.misses), (2, 1, 2), "{counts:?}");
    // Nothing of ours but what is known of the rows.
    let tables = scene.rows(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%' ORDER BY name",
    );
    assert_eq!(tables.concat(), ["_litekeep_sync", "orders", "parts"].map(some));
}

#[test]
fn values_are_those_of_a_copy() {
    let scene = Scene::new("cache_values", TABLES);
    let mut random = fastrand::Rng::with_seed(21);
    (0..20).for_each(|_| churn(&server(), "cache_values", &mut random));
    let copied = Scene::with_url(scene.url.clone());
    copied.runtime.block_on(copied.pulling().copy_once(Parts::All, |_| ())).unwrap();
    let cache = scene.cache(ALWAYS);
    let orders = copied.here();
    for id in &orders {
        assert_eq!(scene.get(&cache, id.parse().unwrap()).origin, Origin::Miss);
    }
    let parts = copied.rows("SELECT CAST(a AS TEXT), b FROM parts");
    for part in &parts {
        let key =
            [Value::Integer(part[0].as_ref().unwrap().parse().unwrap()), text(part[1].as_ref().unwrap())];
        assert!(scene.try_get(&cache, "parts", &key).unwrap().row.is_some());
    }
    assert!(orders.len() > 20 && parts.len() > 20, "{} {}", orders.len(), parts.len());
    let of_all = "name, typeof(name), hex(body), typeof(body), CAST(amount AS TEXT), typeof(amount)";
    let orders = format!("SELECT CAST({ID} AS TEXT), typeof({ID}), {of_all} FROM orders ORDER BY {ID}");
    let parts =
        "SELECT CAST(a AS TEXT), typeof(a), b, typeof(b), long, typeof(long) FROM parts ORDER BY a, b";
    assert_eq!(scene.rows(&orders), copied.rows(&orders));
    assert_eq!(scene.rows(parts), copied.rows(parts));
}

#[test]
fn an_old_row_is_given_while_the_server_is_asked() {
    let scene = Scene::new("cache_stale", TABLES);
    pulled::name_orders(&server(), "cache_stale", &[(1, "a")]);
    let cache = scene.cache(ALWAYS);
    scene.get(&cache, 1);
    pulled::rename_order(&server(), "cache_stale", 1, "new");
    scene.ages(HOUR * 3 / 2);
    let answer = scene.get(&cache, 1);
    assert_eq!((name(&answer), answer.origin), (some("a"), Origin::Stale));
    assert!(answer.age > HOUR * 3 / 2, "{answer:?}");
    scene.runtime.block_on(cache.settle());
    assert_eq!(scene.name_of(&cache, 1), (some("new"), Origin::Hit));
    let counts = scene.counts(&cache);
    assert_eq!((counts.stale, counts.refreshes, counts.misses), (1, 1, 1), "{counts:?}");
    // One that has gone there meanwhile goes here, too.
    scene.ages(HOUR * 3 / 2);
    pulled::delete_order(&server(), "cache_stale", 1);
    assert_eq!(scene.get(&cache, 1).origin, Origin::Stale);
    scene.runtime.block_on(cache.settle());
    assert_eq!(scene.name_of(&cache, 1), (None, Origin::Hit));
    assert!(scene.here().is_empty());
}

#[test]
fn a_row_that_is_too_old_is_asked_for_and_goes() {
    let scene = Scene::new("cache_old", TABLES);
    pulled::name_orders(&server(), "cache_old", &[(1, "a"), (2, "b")]);
    let cache = scene.cache(ALWAYS);
    scene.get(&cache, 1);
    scene.get(&cache, 2);
    pulled::rename_order(&server(), "cache_old", 1, "new");
    scene.ages(2 * HOUR + Duration::from_secs(1));
    assert_eq!(scene.name_of(&cache, 1), (some("new"), Origin::Miss));
    // Nobody has asked for the other one.
    scene.runtime.block_on(cache.run()).unwrap();
    assert_eq!(scene.here(), ["1"]);
    // Of a time that has not come yet nobody knows how long ago it is.
    scene.get(&cache, 2);
    let db = Connection::open(scene.database()).unwrap();
    db.execute("UPDATE _litekeep_sync SET content = json_set(content, '$.at_ms', 9000000000000000) WHERE item LIKE 'cached/%'", ()).unwrap();
    pulled::rename_order(&server(), "cache_old", 1, "newer");
    assert_eq!(scene.name_of(&cache, 1), (some("newer"), Origin::Miss));
    assert_eq!(scene.name_of(&cache, 1), (some("newer"), Origin::Hit));
    scene.runtime.block_on(cache.run()).unwrap();
    assert_eq!(scene.here(), ["1"]);
}

#[test]
fn that_there_is_no_row_is_remembered_for_a_while() {
    let scene = Scene::new("cache_negative", TABLES);
    let cache = scene.cache(ALWAYS);
    assert_eq!(scene.name_of(&cache, 7), (None, Origin::Miss));
    pulled::name_orders(&server(), "cache_negative", &[(7, "late")]);
    assert_eq!(scene.name_of(&cache, 7), (None, Origin::Hit));
    let counts = scene.counts(&cache);
    assert_eq!((counts.negative_hits, counts.misses, counts.rows), (1, 1, 0), "{counts:?}");
    let forgets = scene.cache(Times { negative_ttl: Duration::from_millis(20), ..ALWAYS });
    assert_eq!(scene.name_of(&forgets, 8), (None, Origin::Miss));
    pulled::name_orders(&server(), "cache_negative", &[(8, "later")]);
    std::thread::sleep(Duration::from_millis(40));
    assert_eq!(scene.name_of(&forgets, 8), (some("later"), Origin::Miss));
    // What one has brought, the other has, too.
    assert_eq!(scene.name_of(&cache, 8), (some("later"), Origin::Hit));
}

/// Method: the server counts.
#[test]
fn the_server_is_asked_once_however_many_ask() {
    let server = start();
    pulled::make_tables(&server, DATABASE, TABLES);
    pulled::add_orders(&server, DATABASE, (1, 500));
    let scene = Scene::with_url(server.url(DATABASE));
    let cache = scene.cache(ALWAYS);
    scene.get(&cache, 500);
    let before = pulled::lookups(&server, DATABASE);
    let many = |ids: Vec<i64>| {
        scene.runtime.block_on(async {
            let asking = ids.into_iter().map(|id| {
                let cache = cache.clone();
                tokio::spawn(async move { get(&cache, "orders", &[Value::Integer(id)]).await.unwrap() })
            });
            let mut answers = vec![];
            for one in asking.collect::<Vec<_>>() {
                answers.push(one.await.unwrap());
            }
            answers
        })
    };
    for id in 7..27 {
        let answers = many(vec![id; 100]);
        assert!(answers.iter().all(|answer| name(answer) == some(&format!("n{id}"))), "{answers:?}");
    }
    assert_eq!(pulled::lookups(&server, DATABASE) - before, 20);
    // Those who come while it is asked are asked for together.
    scene.get(&cache, 499);
    let before = pulled::lookups(&server, DATABASE);
    let answers = many((100..400).collect());
    assert!(answers.iter().zip(100..).all(|(answer, id)| name(answer) == some(&format!("n{id}"))));
    let asked = pulled::lookups(&server, DATABASE) - before;
    assert!(asked < 100, "{asked}");
    let counts = scene.counts(&cache);
    assert_eq!((counts.errors, counts.rows), (0, 322), "{counts:?}");
}

#[test]
fn what_was_not_asked_for_longest_makes_room() {
    let scene = Scene::new("cache_room", TABLES);
    pulled::add_orders(&server(), "cache_room", (1, 9));
    let cache = scene.cache_of(ALWAYS, 3);
    for id in [1, 2, 3] {
        scene.get(&cache, id);
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(scene.name_of(&cache, 1).1, Origin::Hit);
    scene.get(&cache, 4);
    assert_eq!(scene.here(), ["1", "3", "4"]);
    std::thread::sleep(Duration::from_millis(5));
    scene.get(&cache, 3);
    std::thread::sleep(Duration::from_millis(5));
    scene.get(&cache, 5);
    assert_eq!(scene.here(), ["3", "4", "5"]);
    let counts = scene.counts(&cache);
    assert_eq!((counts.evictions, counts.rows), (2, 3), "{counts:?}");
    // Whoever begins later counts what is there.
    let other = scene.cache_of(ALWAYS, 3);
    scene.get(&other, 6);
    assert_eq!(scene.here(), ["4", "5", "6"]);
}

/// Goal: what is here is given for as long as it may be, with a mark; nothing is made up.
#[test]
fn a_server_that_is_away_is_no_answer() {
    let mut server = start();
    pulled::make_tables(&server, DATABASE, TABLES);
    pulled::name_orders(&server, DATABASE, &[(1, "a"), (2, "b")]);
    let scene = Scene::with_url(server.url(DATABASE));
    let cache = scene.cache(Times { negative_ttl: Duration::ZERO, ..ALWAYS });
    scene.get(&cache, 1);
    assert_eq!(scene.name_of(&cache, 9), (None, Origin::Miss));
    server.kill().unwrap();
    assert_eq!(scene.name_of(&cache, 1), (some("a"), Origin::Hit));
    std::thread::sleep(Duration::from_millis(2));
    for id in [2, 9] {
        let error = scene.try_get(&cache, "orders", &[Value::Integer(id)]).unwrap_err();
        assert_eq!(error.kind(), Kind::Unavailable, "{error}");
    }
    assert!(cache.state().trouble.is_some());
    scene.ages(HOUR * 3 / 2);
    let answer = scene.get(&cache, 1);
    assert_eq!((name(&answer), answer.origin), (some("a"), Origin::Stale));
    assert!(answer.trouble.is_some(), "{answer:?}");
    scene.runtime.block_on(cache.settle());
    assert_eq!(scene.here(), ["1"]);
    // One that has begun is here without the server, too, and as old as it is.
    let again = scene.cache(ALWAYS);
    let answer = scene.get(&again, 1);
    assert_eq!((name(&answer), answer.origin), (some("a"), Origin::Stale));
    scene.ages(HOUR);
    let error = scene.try_get(&again, "orders", &[Value::Integer(1)]).unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable, "{error}");
    assert!(scene.counts(&cache).errors >= 2);
    server.resume().unwrap();
    let begin = Instant::now();
    let back = loop {
        match scene.try_get(&cache, "orders", &[Value::Integer(1)]) {
            Ok(answer) => break answer,
            Err(error) => assert!(begin.elapsed() < PATIENCE, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    assert_eq!((name(&back), back.origin, back.trouble), (some("a"), Origin::Miss, None));
    assert_eq!(cache.state().trouble, None);
}

#[test]
fn a_connection_that_was_lost_is_made_anew() {
    let server = start();
    pulled::make_tables(&server, DATABASE, TABLES);
    pulled::name_orders(&server, DATABASE, &[(1, "a"), (2, "b")]);
    let scene = Scene::with_url(server.url(DATABASE));
    let cache = scene.cache(ALWAYS);
    scene.get(&cache, 1);
    crate::server::cut_off(&server);
    assert_eq!(scene.name_of(&cache, 2), (some("b"), Origin::Miss));
    assert_eq!(scene.counts(&cache).errors, 0);
}

#[test]
fn keys_of_several_columns_and_of_text_are_what_they_are() {
    let scene = Scene::new("cache_keys", TABLES);
    pulled::add_parts(&server(), "cache_keys", (1, 3), 10);
    let cache = scene.cache(ALWAYS);
    let part = |a: i64, b: &str| scene.try_get(&cache, "parts", &[Value::Integer(a), text(b)]);
    assert!(part(2, "b").unwrap().row.is_some());
    assert_eq!(part(2, "b").unwrap().origin, Origin::Hit);
    for (a, b) in [
        (2, "c"),
        (9, "b"),
        (2, ""),
        (2, "b' OR '1'='1"),
        (2, "b\\"),
        (2, "\u{e9}\u{1f600}"),
        (2, "a\0b"),
        (i64::MAX, "b"),
    ] {
        let answer = part(a, b).unwrap_or_else(|error| panic!("{a} {b:?}: {error}"));
        assert_eq!((answer.row, answer.origin), (None, Origin::Miss), "{a} {b:?}");
    }
    assert_eq!(scene.rows("SELECT CAST(a AS TEXT), b FROM parts"), [[some("2"), some("b")]]);
    // Several at once, of which some can be none.
    let many = scene.runtime.block_on(async {
        let keys = [(1, "b"), (i64::MAX, "b"), (3, "b"), (3, "x\0"), (3, "none")];
        let asking = keys.map(|(a, b)| {
            let cache = cache.clone();
            tokio::spawn(async move {
                get(&cache, "parts", &[Value::Integer(a), text(b)]).await.unwrap().row.is_some()
            })
        });
        let mut found = vec![];
        for one in asking {
            found.push(one.await.unwrap());
        }
        found
    });
    assert_eq!(many, [true, false, true, false, false]);
}

#[test]
fn what_is_cached_outlives_whoever_cached_it() {
    let scene = Scene::new("cache_restart", TABLES);
    pulled::name_orders(&server(), "cache_restart", &[(1, "a")]);
    scene.get(&scene.cache(ALWAYS), 1);
    scene.ages(HOUR / 2);
    pulled::rename_order(&server(), "cache_restart", 1, "new");
    let cache = scene.cache(ALWAYS);
    let answer = scene.get(&cache, 1);
    assert_eq!((name(&answer), answer.origin), (some("a"), Origin::Hit));
    assert!(answer.age >= HOUR / 2, "{answer:?}");
    // An older copy of the database is as old as it is.
    let copy = scene.database().with_extension("copy");
    let db = Connection::open(scene.database()).unwrap();
    db.execute("VACUUM INTO ?1", [copy.to_str().unwrap()]).unwrap();
    drop((db, cache));
    scene.ages(HOUR);
    let cache = scene.cache(ALWAYS);
    assert_eq!(scene.get(&cache, 1).origin, Origin::Stale);
    scene.runtime.block_on(cache.settle());
    assert_eq!(scene.name_of(&cache, 1), (some("new"), Origin::Hit));
    drop(cache);
    for end in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{end}", scene.database().display()));
    }
    std::fs::copy(&copy, scene.database()).unwrap();
    let answer = scene.get(&scene.cache(ALWAYS), 1);
    assert_eq!(name(&answer), some("a"));
    assert!(answer.age >= HOUR / 2, "{answer:?}");
}

/// Goal: readers and writers of the application neither wait for a server nor see half a row.
#[test]
fn the_application_reads_and_writes_meanwhile() {
    let scene = Scene::new("cache_beside", TABLES);
    pulled::add_orders(&server(), "cache_beside", (1, 300));
    let cache = scene.cache_of(ALWAYS, 100);
    scene.get(&cache, 1);
    let ends = Arc::new(AtomicBool::new(false));
    let path = scene.database();
    // Here, for one that writes without a pause may keep the others from it until the end.
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE own(n)").unwrap();
    let applications: Vec<_> = (0..3)
        .map(|nth| {
            let (ends, path) = (ends.clone(), path.clone());
            std::thread::spawn(move || {
                let db = Connection::open(path).unwrap();
                db.busy_timeout(PATIENCE).unwrap();
                let (mut written, mut read) = (0, 0);
                while !ends.load(SeqCst) {
                    if nth == 0 {
                        written += db.execute("INSERT INTO own VALUES(1)", ()).unwrap();
                        continue;
                    }
                    let sql = format!("SELECT {ID}, name FROM orders");
                    let mut select = db.prepare_cached(&sql).unwrap();
                    let rows = select
                        .query_map((), |row| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?)))
                        .unwrap();
                    for row in rows {
                        let (id, name) = row.unwrap();
                        assert_eq!(name, format!("n{id}"));
                        read += 1;
                    }
                }
                (written, read)
            })
        })
        .collect();
    scene.runtime.block_on(async {
        for round in 0..3 {
            let asking = (1..=300).map(|id| {
                let cache = cache.clone();
                tokio::spawn(async move {
                    let answer =
                        get(&cache, "orders", &[Value::Integer((id * 7 + round) % 300 + 1)]).await.unwrap();
                    // Who writes without a pause may keep others from writing.
                    let is_told = |why: &String| why.contains("it is not kept");
                    assert!(answer.trouble.as_ref().is_none_or(is_told), "{:?}", answer.trouble);
                    assert!(answer.row.is_some());
                })
            });
            for one in asking.collect::<Vec<_>>() {
                one.await.unwrap();
            }
        }
    });
    ends.store(true, SeqCst);
    let done: Vec<(usize, usize)> = applications.into_iter().map(|one| one.join().unwrap()).collect();
    assert!(done[0].0 > 0 && done[1].1 > 0 && done[2].1 > 0, "{done:?}");
    let own = scene.rows("SELECT CAST(count(*) AS TEXT) FROM own");
    assert_eq!(own, [[some(&done[0].0.to_string())]]);
    scene.runtime.block_on(cache.run()).unwrap();
    assert!(scene.here().len() <= 100);
}

/// What the application forbids in its own table is given all the same, and told.
#[test]
fn a_row_that_is_forbidden_here_is_given_and_not_kept() {
    let scene = Scene::new("cache_forbidden", TABLES);
    let db = Connection::open(scene.database()).unwrap();
    db.execute_batch(&format!(
        "PRAGMA journal_mode = WAL; CREATE TABLE orders({ID} INTEGER PRIMARY KEY, name TEXT CHECK(name NOT LIKE 'bad%'), body BLOB, amount TEXT)"
    ))
    .unwrap();
    pulled::name_orders(&server(), "cache_forbidden", &[(1, "good")]);
    let cache = scene.cache(ALWAYS);
    assert_eq!(scene.name_of(&cache, 1), (some("good"), Origin::Miss));
    pulled::rename_order(&server(), "cache_forbidden", 1, "bad");
    scene.ages(3 * HOUR);
    let answer = scene.get(&cache, 1);
    assert_eq!((name(&answer), answer.origin), (some("bad"), Origin::Miss));
    assert!(answer.trouble.as_ref().is_some_and(|why| why.contains("it is not kept: CHECK")), "{answer:?}");
    assert!(scene.here().is_empty());
}

#[test]
fn tables_of_the_application_are_left_alone() {
    let scene = Scene::new("cache_own", TABLES);
    let db = Connection::open(scene.database()).unwrap();
    db.execute_batch(&format!(
        "CREATE TABLE orders({ID} INTEGER PRIMARY KEY, name TEXT, body BLOB, amount TEXT); INSERT INTO orders({ID}, name) VALUES(1, 'mine')"
    ))
    .unwrap();
    let error = scene.runtime.block_on(scene.cache(ALWAYS).run()).unwrap_err();
    assert!(
        error.to_string().contains("the table `orders` is there and has rows, which are not overwritten"),
        "{error}"
    );
    assert_eq!(scene.here(), ["1"]);
    assert_eq!(scene.rows("SELECT name FROM sqlite_schema").concat(), [some("orders")]);
}

/// A sync of the same name that keeps everything in step is another thing.
#[test]
fn a_pull_and_a_cache_are_not_taken_for_each_other() {
    let scene = Scene::new("cache_or_pull", TABLES);
    pulled::name_orders(&server(), "cache_or_pull", &[(1, "a")]);
    scene.get(&scene.cache(ALWAYS), 1);
    let (kind, said) = scene.refused(scene.pulling());
    assert!(kind == Kind::Invalid && said.contains("begun with `mode = \"cache\"`"), "{said}");
    let cache = scene.cache(ALWAYS);
    scene.runtime.block_on(cache.forget()).unwrap();
    assert!(scene.here().is_empty());
    scene.pulled();
    assert_eq!(scene.here(), ["1"]);
    let error = scene.try_get(&cache, "orders", &[Value::Integer(1)]).unwrap_err();
    assert!(error.to_string().contains("begun without `mode = \"cache\"`"), "{error}");
}

#[test]
fn columns_that_are_added_there_come() {
    let scene = Scene::new("cache_columns", TABLES);
    pulled::name_orders(&server(), "cache_columns", &[(1, "a"), (2, "b")]);
    let cache = scene.cache(ALWAYS);
    scene.get(&cache, 1);
    pulled::add_states(&server(), "cache_columns");
    let state = |answer: Answer| {
        let row = answer.row.unwrap();
        row.into_iter().find(|(column, _)| column == "state").map(|(_, value)| value)
    };
    let again = scene.cache(ALWAYS);
    assert_eq!(state(scene.get(&again, 2)), Some(text("old")));
    assert_eq!(scene.rows(&format!("SELECT state FROM orders WHERE {ID} = 2")), [[some("old")]]);
    // What is here from before gets it when it is asked for anew.
    scene.ages(3 * HOUR);
    assert_eq!(state(scene.get(&again, 1)), Some(text("new")));
    // A new look at everything leaves nothing that is older.
    scene.runtime.block_on(again.resync()).unwrap();
    assert!(scene.here().is_empty());
    assert_eq!(state(scene.get(&scene.cache(ALWAYS), 2)), Some(text("old")));
}
