//! A database and its log in a folder.

use std::path::PathBuf;

use litekeep_config::{FeedFrom, FeedUrl};
use litekeep_feed::{Delivery, Error, Event, Settings};
use litekeep_ltx::{FileName, Txid};
use litekeep_replicate::restore::Goal;
use litekeep_rows::Selection;
use litekeep_rows::feed::Feed;
use litekeep_store::{Store, Target};
use rusqlite::Connection;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::shipping::ship;

pub(crate) struct Log {
    dir: TempDir,
    pub(crate) store: Store,
    pub(crate) runtime: Runtime,
}

impl Log {
    /// With a table, and nothing in it.
    pub(crate) fn new() -> Log {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&Target::Folder(dir.path().join("log"))).unwrap();
        let runtime = Runtime::new().unwrap();
        let log = Log { dir, store, runtime };
        log.commit("PRAGMA journal_mode=WAL; CREATE TABLE t(n INTEGER PRIMARY KEY, x)");
        log
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// One transaction of the log.
    pub(crate) fn commit(&self, sql: &str) {
        let path = self.path("app.db");
        Connection::open(&path).unwrap().execute_batch(sql).unwrap();
        ship(&self.runtime, &path, &self.store);
    }

    /// So many rows in one transaction.
    pub(crate) fn insert(&self, from: u32, count: u32) {
        let to = from + count - 1;
        self.commit(&format!(
            "WITH RECURSIVE n(i) AS (SELECT {from} UNION ALL SELECT i+1 FROM n WHERE i<{to}) INSERT INTO t SELECT i, 'x'||i FROM n"
        ));
    }

    pub(crate) fn settings(&self, to: &str) -> Settings {
        Settings {
            name: "orders".into(),
            database: "app.db".into(),
            stores: vec![self.store.clone()],
            wanted: Selection::default(),
            from: FeedFrom::Beginning,
            to: FeedUrl::parse(to).unwrap(),
            ca_file: None,
            position: self.path("feeds/orders"),
        }
    }

    /// Delivers everything that there is, as a process that ends properly does.
    pub(crate) fn deliver(&self, settings: &Settings) -> Result<Delivery, Error> {
        self.runtime.block_on(async {
            let mut delivery = Delivery::new(settings.clone())?;
            while delivery.step().await? {}
            delivery.keep().await?;
            Ok(delivery)
        })
    }

    /// The ids of all events after the oldest state of the log.
    pub(crate) fn ids(&self) -> Vec<String> {
        self.runtime.block_on(async {
            let first = Goal::Txid(Txid::FIRST);
            let mut feed = Feed::open(&self.store, first, Selection::default()).await.unwrap();
            let mut ids = vec![];
            while let Some(part) = feed.next().await.unwrap() {
                ids.extend(Event::of("app.db", &part, 0).into_iter().map(|event| event.id));
            }
            ids
        })
    }

    /// Takes the files of these transactions out of the log.
    pub(crate) fn lose(&self, transactions: impl IntoIterator<Item = u64>) {
        for n in transactions {
            let txid = Txid::new(n).unwrap();
            let name = FileName { min: txid, max: txid };
            for level in [0, 9] {
                let file = self.path("log").join(format!("ltx/{level}/{name}"));
                let _ = std::fs::remove_file(file);
            }
        }
    }
}
