//! SQLite databases with their logs, and a database of a server that they are in step with. Which server, `crate::server` and `crate::hub` say.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use litekeep_store::Store;
use litekeep_sync::cut::Cut;
use litekeep_sync::push;
use litekeep_sync::push::Step;
use litekeep_sync::two_way::{Conflict, Policies, Policy, Settings};
use litekeep_sync::{Error, Flow as _, Kind, Logs, TwoWay};
use rusqlite::Connection;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::hub::{self, Hub};
use crate::server::{make_database, server};
use crate::shipping::ship;

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) type Rows = Vec<Vec<Option<String>>>;

/// A database of SQLite with its log, and a sync with a database of a server.
pub(crate) struct Node {
    dir: TempDir,
    pub(crate) runtime: Runtime,
    store: Store,
    url: String,
    policies: Policies,
    pub(crate) flow: Option<TwoWay<Hub>>,
}

impl Node {
    pub(crate) fn new(url: &str, policy: Policy, sql: &str) -> Node {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&litekeep_store::Target::Folder(dir.path().join("log"))).unwrap();
        let policies = Policies { all: policy, ..Policies::default() };
        let runtime = Runtime::new().unwrap();
        let node = Node { dir, runtime, store, url: url.to_owned(), policies, flow: None };
        node.run(&format!("PRAGMA journal_mode = WAL; {sql}"));
        node.ship();
        node
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.dir.path().join("app.db")
    }

    pub(crate) fn run(&self, sql: &str) {
        Connection::open(self.database()).unwrap().execute_batch(sql).unwrap();
    }

    /// What was written comes into the log, all in one file.
    pub(crate) fn ship(&self) {
        ship(&self.runtime, &self.database(), &self.store);
    }

    pub(crate) fn new_flow(&self) -> TwoWay<Hub> {
        self.flow_with(hub::hub(&self.url))
    }

    pub(crate) fn flow_with(&self, hub: Hub) -> TwoWay<Hub> {
        let push = push::Settings {
            name: "both".into(),
            logs: Logs::new(vec![self.store.clone()]).unwrap(),
            tables: vec![],
            cut: Cut::default(),
            scratch: self.dir.path().join("scratch"),
        };
        let (database, policies) = (self.database(), self.policies.clone());
        TwoWay::new(Settings { push, database, policies, durable: None }, hub)
    }

    /// Until each side has what the other has now, as far as the log says it.
    pub(crate) fn sync(&mut self) -> Result<(), Error> {
        let mut flow = self.flow.take().unwrap_or_else(|| self.new_flow());
        flow.begin_anew();
        let done = self.runtime.block_on(async {
            let begin = Instant::now();
            while flow.step().await? == Step::More {
                assert!(begin.elapsed() < PATIENCE, "it does not come to rest: {:?}", flow.progress());
            }
            Ok(())
        });
        self.flow = Some(flow);
        done
    }

    /// The same, and again where the server could not; how often that was.
    pub(crate) fn sync_in_the_end(&mut self) -> usize {
        let begin = Instant::now();
        for failed in 0.. {
            match self.sync() {
                Ok(()) => return failed,
                Err(error) => {
                    assert!(error.kind() == Kind::Unavailable && begin.elapsed() < PATIENCE, "{error}");
                }
            }
        }
        unreachable!("it is tried until it is done, or time is over")
    }

    /// The same, with what comes of it.
    pub(crate) fn settle(&mut self) {
        for _ in 0..3 {
            self.ship();
            self.sync().unwrap();
        }
    }

    pub(crate) fn rows(&self, sql: &str) -> Rows {
        let db = Connection::open(self.database()).unwrap();
        let mut select = db.prepare(sql).unwrap();
        let columns = select.column_count();
        let rows = select.query_map((), |row| (0..columns).map(|nth| row.get(nth)).collect()).unwrap();
        rows.collect::<Result<_, _>>().unwrap()
    }

    pub(crate) fn conflicts(&self) -> Vec<Conflict> {
        let (conflicts, count) = self.runtime.block_on(self.new_flow().conflicts()).unwrap();
        assert_eq!(conflicts.len() as u64, count);
        conflicts
    }

    /// Pushes of each node there, and transactions of the log.
    pub(crate) fn commits(&self) -> (Vec<u64>, u64) {
        let name = self.url.rsplit('/').next().unwrap();
        let pushes = |stage: String| {
            let stage: serde_json::Value = serde_json::from_str(&stage).unwrap();
            stage["pushes"].as_u64().unwrap()
        };
        let pushes = hub::stages(&server(), name).into_iter().map(pushes).collect();
        (pushes, self.runtime.block_on(self.store.list()).unwrap().last().unwrap().get())
    }

    /// What cannot be, which is not tried again.
    pub(crate) fn refused(&mut self) -> String {
        let error = self.sync().unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid, "{error}");
        format!("{error}; {}", error.hint().unwrap_or_default())
    }
}

/// A new database of the shared server; what it keeps for those that follow it goes in the end.
pub(crate) struct Database(pub(crate) &'static str);

impl Database {
    pub(crate) fn new(name: &'static str) -> Database {
        make_database(&server(), name);
        Database(name)
    }

    /// One in which `t` is there with such rows.
    pub(crate) fn with_rows(
        name: &'static str,
        rows: impl IntoIterator<Item = (i64, &'static str)>,
    ) -> Database {
        let there = Database::new(name);
        hub::fill(&server(), name, &rows.into_iter().collect::<Vec<_>>());
        there
    }

    pub(crate) fn url(&self) -> String {
        server().url(self.0)
    }

    pub(crate) fn edit(&self, edits: &[Edit]) {
        hub::edit(&server(), self.0, edits).unwrap();
    }

    pub(crate) fn all(&self) -> Rows {
        hub::all(&server(), self.0)
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        hub::end(&server(), self.0);
    }
}

/// What somebody does to `t`.
#[derive(Clone, Debug)]
pub(crate) enum Edit {
    Insert(i64, &'static str),
    Set(i64, &'static str),
    Append(i64, String),
    Delete(i64),
}

impl Edit {
    pub(crate) fn sql(&self) -> String {
        match self {
            Edit::Insert(id, v) => format!("INSERT INTO t VALUES ({id}, '{v}')"),
            Edit::Set(id, v) => format!("UPDATE t SET v = '{v}' WHERE id = {id}"),
            Edit::Append(id, v) => format!("UPDATE t SET v = concat(v, '{v}') WHERE id = {id}"),
            Edit::Delete(id) => format!("DELETE FROM t WHERE id = {id}"),
        }
    }
}

/// All rows of `t`, of SQLite.
pub(crate) const ALL: &str = "SELECT id || ' ' || coalesce(v, '-') FROM t ORDER BY id";

pub(crate) fn shown(rows: &Rows) -> String {
    rows.iter().map(|row| row[0].clone().unwrap()).collect::<Vec<_>>().join(", ")
}

pub(crate) const TABLE: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT);";
