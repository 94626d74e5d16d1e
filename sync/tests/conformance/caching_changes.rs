//! Goal: with a pull beside it a cache has no row that is not as it is there, whether it was asked for or fulfils a condition. Method: real logs, and
//! rows that are asked for while others change them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use litekeep_sync::cache::{Answer, Origin, Settings, Times};
use litekeep_sync::cut::Cut;
use litekeep_sync::push::Step;
use litekeep_sync::worker::Worker;
use litekeep_sync::{Cache, Kind, Value};

use crate::caching::get;
use crate::pull_scene::Scene;
use crate::pulled::{self, ID, TABLES, churn};
use crate::server::server;

pub(crate) const DAY: Duration = Duration::from_secs(86_400);

fn cut() -> Cut {
    Cut { others_are_asked_for: true, ..Cut::default() }
}

impl Scene {
    pub(crate) fn followed(&self, cut: &Cut, is_live: bool) -> Arc<Cache> {
        let state = self.database().with_file_name("orders.json");
        let (name, database, cut) = ("orders".to_owned(), self.database(), cut.clone());
        let times = Times { ttl: DAY, stale: DAY, negative_ttl: Duration::ZERO };
        let (max_rows, follows) = (1_000, Some(is_live));
        let settings = Settings { name, database, creates: false, cut, times, max_rows, state, follows };
        Cache::new(settings, Box::new(pulled::source(&self.url, &["orders", "parts"])))
    }

    /// The pull beside it.
    pub(crate) fn worker(&self, cut: &Cut) -> Worker {
        let state = self.database().with_file_name("orders.json");
        let pull = self.pull_of(&self.url, &["orders", "parts"], cut.clone());
        Worker::new("orders", Box::new(pull), state)
    }

    pub(crate) fn go_on(&self, worker: &mut Worker) {
        self.runtime.block_on(async {
            while worker.step().await.unwrap() == Step::More {}
            worker.tell().await;
        });
    }

    /// Until something holds.
    pub(crate) fn go_on_until(&self, worker: &mut Worker, mut holds: impl FnMut() -> bool) {
        for _ in 0..600 {
            if holds() {
                return;
            }
            self.runtime.block_on(worker.step()).unwrap();
        }
        panic!("it does not come");
    }

    pub(crate) fn order(&self, cache: &Arc<Cache>, id: i64) -> (Option<String>, Origin) {
        let answer = self.runtime.block_on(get(cache, "orders", &[Value::Integer(id)])).unwrap();
        assert_eq!(answer.trouble, None);
        (name(&answer), answer.origin)
    }

    pub(crate) fn orders_here(&self) -> Vec<String> {
        let rows = self.rows(&format!("SELECT CAST({ID} AS TEXT) FROM orders ORDER BY {ID}"));
        rows.into_iter().flatten().flatten().collect()
    }
}

fn name(answer: &Answer) -> Option<String> {
    let (_, value) = answer.row.as_ref()?.iter().find(|(column, _)| column == "name")?;
    match value {
        Value::Text(text) => Some(String::from_utf8(text.clone()).unwrap()),
        _ => None,
    }
}

fn some(name: &str) -> Option<String> {
    Some(name.to_owned())
}

#[test]
fn a_row_that_was_asked_for_goes_when_it_changes() {
    let scene = Scene::new("follow_goes", TABLES);
    pulled::name_orders(&server(), "follow_goes", &[(1, "a"), (2, "b"), (3, "c")]);
    let cache = scene.followed(&cut(), true);
    let mut worker = scene.worker(&cut());
    scene.go_on(&mut worker);
    assert!(scene.orders_here().is_empty());
    assert_eq!(scene.order(&cache, 1), (some("a"), Origin::Miss));
    assert_eq!(scene.order(&cache, 2), (some("b"), Origin::Miss));
    assert_eq!(scene.order(&cache, 1), (some("a"), Origin::Hit));
    pulled::rename_order(&server(), "follow_goes", 1, "new");
    pulled::rename_order(&server(), "follow_goes", 3, "newer");
    scene.go_on_until(&mut worker, || scene.orders_here() == ["2"]);
    assert_eq!(scene.order(&cache, 1), (some("new"), Origin::Miss));
    pulled::delete_order(&server(), "follow_goes", 2);
    scene.go_on_until(&mut worker, || scene.orders_here() == ["1"]);
    assert_eq!(scene.order(&cache, 2), (None, Origin::Miss));
    // Nobody knows what has happened to it while all rows are compared.
    let mut pull = scene.pull_of(&scene.url, &["orders", "parts"], cut());
    drop(worker);
    scene.runtime.block_on(pull.resync()).unwrap();
    let mut worker = scene.worker(&cut());
    scene.go_on(&mut worker);
    assert!(scene.orders_here().is_empty());
    // In the end nothing of it is here.
    assert_eq!(scene.order(&cache, 1), (some("new"), Origin::Miss));
    drop(worker);
    scene.runtime.block_on(pull.forget()).unwrap();
    assert!(scene.orders_here().is_empty());
    let tables = scene.rows("SELECT name FROM sqlite_schema WHERE name = '_litekeep_sync'");
    assert!(tables.is_empty());
}

/// Goal: no row is here otherwise than it is there, however rows are asked for while they change.
#[test]
fn rows_are_as_they_are_there_whenever_they_were_asked_for() {
    let scene = Scene::new("follow_churn", TABLES);
    let mut random = fastrand::Rng::with_seed(31);
    (0..5).for_each(|_| churn(&server(), "follow_churn", &mut random));
    let cache = scene.followed(&cut(), true);
    let mut worker = scene.worker(&cut());
    scene.go_on(&mut worker);
    let ends = Arc::new(AtomicBool::new(false));
    let asking: Vec<_> = (0..3)
        .map(|seed| {
            let (cache, ends) = (cache.clone(), ends.clone());
            scene.runtime.spawn(async move {
                let mut random = fastrand::Rng::with_seed(seed);
                let mut asked = 0;
                while !ends.load(SeqCst) {
                    get(&cache, "orders", &[Value::Integer(random.i64(0..200))]).await.unwrap();
                    asked += 1;
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                asked
            })
        })
        .collect();
    for _ in 0..20 {
        churn(&server(), "follow_churn", &mut random);
        for _ in 0..3 {
            scene.runtime.block_on(worker.step()).unwrap();
        }
    }
    ends.store(true, SeqCst);
    let asked: usize = asking.into_iter().map(|one| scene.runtime.block_on(one).unwrap()).sum();
    scene.runtime.block_on(cache.settle());
    scene.go_on(&mut worker);
    let [there, _] = pulled::there(&server(), "follow_churn");
    let columns = format!("CAST({ID} AS TEXT), name, iif(body IS NULL, NULL, lower(hex(body))), amount");
    let here = scene.rows(&format!("SELECT {columns} FROM orders"));
    let others: Vec<_> = here.iter().filter(|row| !there.contains(row)).collect();
    assert!(others.is_empty() && asked > 100 && !here.is_empty(), "{asked} {others:?}");
}

#[test]
fn what_is_asked_for_is_told_from_what_is_not_followed_any_more() {
    let scene = Scene::new("follow_not", TABLES);
    let cache = scene.followed(&cut(), true);
    let error = scene.runtime.block_on(get(&cache, "orders", &[Value::Integer(1)])).unwrap_err();
    assert!(error.kind() == Kind::Unavailable, "{error}");
    scene.go_on(&mut scene.worker(&cut()));
    assert_eq!(scene.order(&cache, 1), (None, Origin::Miss));
    // One that keeps all rows in step, or none, is another thing.
    let (kind, said) = scene.refused(scene.pulling_from(&scene.url, &["orders", "parts"]));
    assert!(kind == Kind::Invalid && said.contains("the rows of `orders` that are asked for"), "{said}");
}
