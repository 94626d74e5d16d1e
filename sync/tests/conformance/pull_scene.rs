//! A database of a server, and one of SQLite that is kept as it. Which server, `crate::server` and `crate::pulled` say.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use litekeep_sync::cut::Cut;
use litekeep_sync::pull::Settings;
use litekeep_sync::push::Step;
use litekeep_sync::{Error, Flow as _, Kind, Pull};
use rusqlite::Connection;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::pulled::{self, Source};
use crate::server::{Server, server};

const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Scene {
    dir: TempDir,
    pub(crate) runtime: Runtime,
    pub(crate) url: String,
}

impl Scene {
    /// A new database of the shared server, with these tables.
    pub(crate) fn new(name: &str, tables: &str) -> Scene {
        let server = server();
        pulled::make(&server, name, tables);
        Scene::with_url(server.url(name))
    }

    pub(crate) fn with_url(url: String) -> Scene {
        Scene { dir: tempfile::tempdir().unwrap(), runtime: Runtime::new().unwrap(), url }
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.dir.path().join("app.db")
    }

    pub(crate) fn pulling(&self) -> Pull<Source> {
        self.pulling_from(&self.url, &[])
    }

    /// These tables of a database, or all.
    pub(crate) fn pulling_from(&self, url: &str, tables: &[&str]) -> Pull<Source> {
        self.pull_of(url, tables, Cut::default())
    }

    pub(crate) fn pull_of(&self, url: &str, tables: &[&str], cut: Cut) -> Pull<Source> {
        let settings = Settings { name: "orders".into(), database: self.database(), creates: true, cut };
        Pull::new(settings, pulled::source(url, tables))
    }

    /// Until SQLite has everything that the server has now, which it is asked anew.
    pub(crate) fn pull(&self, pull: &mut Pull<Source>) -> Result<(), Error> {
        pull.begin_anew();
        self.runtime.block_on(async {
            while pull.step().await? == Step::More {}
            Ok(())
        })
    }

    /// Until SQLite has everything, whatever is not there for a while.
    pub(crate) fn pull_in_the_end(&self, pull: &mut Pull<Source>) {
        for _ in 0..100 {
            match self.pull(pull) {
                Ok(()) => return,
                Err(error) if error.kind() == Kind::Unavailable => {
                    std::thread::sleep(Duration::from_millis(100))
                }
                Err(error) => panic!("{error}"),
            }
        }
        panic!("it does not come to its end");
    }

    pub(crate) fn pulled(&self) -> Pull<Source> {
        let mut pull = self.pulling();
        self.pull_in_the_end(&mut pull);
        pull
    }

    /// Goes on with what has begun until something holds.
    pub(crate) fn follow(&self, pull: &mut Pull<Source>, mut holds: impl FnMut() -> bool) {
        let begin = Instant::now();
        while !holds() {
            assert!(begin.elapsed() < PATIENCE, "it does not come");
            self.runtime.block_on(pull.step()).unwrap();
        }
    }

    /// What cannot be, with what to do.
    pub(crate) fn refused(&self, mut pull: Pull<Source>) -> (Kind, String) {
        let error = self.pull(&mut pull).unwrap_err();
        (error.kind(), format!("{error}; {}", error.hint().unwrap_or_default()))
    }

    /// Rows of SQLite as text.
    pub(crate) fn rows(&self, sql: &str) -> Vec<Vec<Option<String>>> {
        let db = Connection::open(self.database()).unwrap();
        let mut select = db.prepare(sql).unwrap();
        let columns = select.column_count();
        let rows = select.query_map((), |row| (0..columns).map(|nth| row.get(nth)).collect()).unwrap();
        rows.collect::<Result<_, _>>().unwrap()
    }

    pub(crate) fn name(&self) -> &str {
        self.url.rsplit('/').next().unwrap()
    }

    /// Holds all rows of the tables of [`pulled::TABLES`] against each other.
    pub(crate) fn assert_equal(&self, server: &Server) {
        assert_eq!(self.difference(server), None);
    }

    pub(crate) fn difference(&self, server: &Server) -> Option<String> {
        let orders =
            format!("CAST({} AS TEXT), name, iif(body IS NULL, NULL, lower(hex(body))), amount", pulled::ID);
        let columns = [("orders", orders.as_str()), ("parts", "CAST(a AS TEXT), b, long")];
        columns.into_iter().zip(pulled::there(server, self.name())).find_map(|((table, columns), there)| {
            let difference = self.difference_from(there, &format!("SELECT {columns} FROM {table}"))?;
            Some(format!("{table}: {difference}"))
        })
    }

    /// Holds rows that are there against what a statement finds here.
    pub(crate) fn difference_from(&self, mut there: Vec<Vec<Option<String>>>, here: &str) -> Option<String> {
        let mut here = self.rows(here);
        there.sort();
        here.sort();
        let missing: Vec<_> = there.iter().filter(|row| !here.contains(row)).take(3).collect();
        let extra: Vec<_> = here.iter().filter(|row| !there.contains(row)).take(3).collect();
        (here != there).then(|| format!("missing {missing:?}, too many {extra:?}"))
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        pulled::end(self.name());
    }
}
