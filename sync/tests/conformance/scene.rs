//! A database with its log in a folder, and a database of a server that it is pushed to. Which server, `crate::server` says.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use litekeep_sql::{Examiner, Order, RowReader};
use litekeep_store::Store;
use litekeep_sync::cut::Cut;
use litekeep_sync::push::{Push, Settings, Step};
use litekeep_sync::target::key_text;
use litekeep_sync::{Error, Flow as _, Logs, Value};
use rusqlite::Connection;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::server::{self, Options, Server, Side, Table, server};
use crate::shipping::ship;

pub(crate) struct Scene {
    dir: TempDir,
    store: Store,
    pub(crate) runtime: Runtime,
    /// Of the database on the server.
    pub(crate) url: String,
}

impl Scene {
    /// A database from these statements, and a new one of the shared server.
    pub(crate) fn new(name: &str, sql: &str) -> Scene {
        let server = server();
        server::make_database(&server, name);
        Scene::with_url(server.url(name), sql)
    }

    pub(crate) fn with_url(url: String, sql: &str) -> Scene {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&litekeep_store::Target::Folder(dir.path().join("log"))).unwrap();
        let scene = Scene { dir, store, runtime: Runtime::new().unwrap(), url };
        scene.commit(&format!("PRAGMA journal_mode = WAL; {sql}"));
        scene
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.dir.path().join("app.db")
    }

    /// One transaction of the log.
    pub(crate) fn commit(&self, sql: &str) {
        self.write(|db| db.execute_batch(sql).unwrap());
    }

    /// What is written comes into the log together.
    pub(crate) fn write(&self, body: impl FnOnce(&mut Connection)) {
        let path = self.database();
        body(&mut Connection::open(&path).unwrap());
        ship(&self.runtime, &path, &self.store);
    }

    pub(crate) fn pushing(&self) -> Push<Side> {
        self.pushing_to(&self.url, Options::default())
    }

    pub(crate) fn pushing_to(&self, url: &str, options: Options) -> Push<Side> {
        Push::new(self.settings(), server::side(url, "orders", options))
    }

    /// A push of a log that is in several folders.
    pub(crate) fn pushing_from(&self, folders: &[&Path]) -> Push<Side> {
        let open =
            |folder: &&Path| Store::open(&litekeep_store::Target::Folder(folder.to_path_buf())).unwrap();
        let logs = Logs::new(folders.iter().map(open).collect()).unwrap();
        let settings = Settings { logs, ..self.settings() };
        Push::new(settings, server::side(&self.url, "orders", Options::default()))
    }

    /// Brings another destination up to this one.
    pub(crate) fn copy_log(&self, folder: &Path) {
        std::fs::create_dir_all(folder).unwrap();
        let contents = self.log().join(".");
        let copied = Command::new("cp").arg("-r").arg(contents).arg(folder).status().unwrap();
        assert!(copied.success());
    }

    /// The folder of the log.
    pub(crate) fn log(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    /// For a comparison.
    pub(crate) fn sides(&self) -> (Settings, Side) {
        (self.settings(), server::side(&self.url, "orders", Options::default()))
    }

    fn settings(&self) -> Settings {
        Settings {
            name: "orders".into(),
            logs: Logs::new(vec![self.store.clone()]).unwrap(),
            tables: vec![],
            cut: Cut::default(),
            scratch: self.dir.path().join("scratch"),
        }
    }

    /// Until the server has everything.
    pub(crate) fn push(&self, push: &mut Push<Side>) -> Result<(), Error> {
        self.runtime.block_on(async {
            while push.step().await? == Step::More {}
            Ok(())
        })
    }

    /// A push that begins anew, until the server has everything; with what is kept of it.
    pub(crate) fn pushed(&self) -> Push<Side> {
        let mut push = self.pushing();
        self.push(&mut push).unwrap();
        push
    }

    /// Holds every value that is there against the one that is here.
    pub(crate) fn assert_equal(&self, tables: &[Table], server: &Server) {
        let database = self.url.rsplit('/').next().unwrap();
        let reader = RowReader::hold(Examiner::open(&self.database()).unwrap()).unwrap();
        let declared = reader.examiner().declarations().unwrap();
        for table in tables.iter().map(|table| &table.0) {
            let declaration = declared.iter().find(|declared| declared.name == table.source).unwrap();
            let columns: Vec<usize> = table.columns.iter().map(|column| column.source).collect();
            let mut here = BTreeMap::new();
            let count = |rows: &mut BTreeMap<Vec<String>, u32>, values: &[Value]| {
                *rows.entry(values.iter().map(key_text).collect()).or_default() += 1;
            };
            reader
                .read(declaration, &columns, &Order::stored(declaration), None, |row| {
                    count(&mut here, &row[..columns.len()]);
                    Ok::<bool, Error>(true)
                })
                .unwrap();
            let mut there = BTreeMap::new();
            for row in server::rows(server, database, table) {
                count(&mut there, &row);
            }
            let missing: Vec<_> = here.iter().filter(|(row, n)| there.get(*row) != Some(n)).take(5).collect();
            let extra: Vec<_> = there.iter().filter(|(row, n)| here.get(*row) != Some(n)).take(5).collect();
            assert!(
                missing.is_empty() && extra.is_empty(),
                "{}: missing {missing:?}, too many {extra:?}",
                table.source
            );
        }
    }
}
