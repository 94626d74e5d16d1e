//! Goal: what a user types, and what comes back, is as documented. Method: the real binary in a folder of its own, with
//! real databases and a real store; JSON is compared with the shapes in `docs/json-output.md`.

mod bench;
mod budget;
mod cache;
mod cluster;
mod command_line;
mod copy;
mod credentials;
mod damage;
mod dashboard;
mod destinations;
mod doctor;
mod documents;
mod examples;
mod feeds;
mod follow;
mod graduate;
mod import;
mod interop;
mod interrupted;
mod kills;
mod lifecycle;
mod migrate;
mod offline;
mod outages;
mod power_cuts;
mod rails;
#[cfg(any(feature = "sftp", feature = "webdav"))]
mod remote;
mod replication;
mod round_trip;
mod row_changes;
mod scene;
mod set_back;
mod shapes;
mod sync;
mod sync_damage;
#[cfg(feature = "mongodb")]
mod sync_mongodb;
mod sync_mysql;
mod tune;
mod two_way;
mod up;
mod vanished;
mod waiting;
mod wrapped_restart;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use rusqlite::Connection;
use serde_json::Value;
use tempfile::TempDir;

/// A folder in which litekeep runs.
struct Place {
    dir: TempDir,
}

/// How a run ended.
struct Ran {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Place {
    fn new() -> Place {
        Place { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The binary, with nothing of the environment that could change what it does.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_litekeep"));
        command.args(arguments).current_dir(self.dir.path()).env_clear().env("TZ", "UTC");
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        Ran::of(self.command(arguments))
    }

    /// Files of a project.
    fn write_all(&self, files: &[(&str, &str)]) {
        for (name, content) in files {
            let path = self.path(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
    }

    /// Makes a database in WAL mode with so many rows.
    fn database(&self, name: &str, rows: u32) -> PathBuf {
        let path = self.path(name);
        let connection = Connection::open(&path).unwrap();
        connection.pragma_update(None, "journal_mode", "wal").unwrap();
        connection.execute_batch("CREATE TABLE IF NOT EXISTS t (n INTEGER PRIMARY KEY, x TEXT)").unwrap();
        for _ in 0..rows {
            connection.execute("INSERT INTO t (x) VALUES (hex(randomblob(200)))", ()).unwrap();
        }
        path
    }
}

impl Ran {
    fn of(mut command: Command) -> Ran {
        Ran::from(command.output().unwrap())
    }

    fn from(Output { status, stdout, stderr }: Output) -> Ran {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Ran { code: status.code().unwrap(), stdout: text(stdout), stderr: text(stderr) }
    }

    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}{}", self.stdout, self.stderr))
    }

    /// The error on stderr.
    #[track_caller]
    fn json_error(&self) -> Value {
        let last = self.stderr.lines().last().unwrap_or_default();
        let value: Value =
            serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {}", self.stderr));
        value["error"].clone()
    }

    #[track_caller]
    fn succeeded(self) -> Ran {
        assert_eq!(self.code, 0, "{}{}", self.stdout, self.stderr);
        self
    }

    /// An error whose text has all these parts.
    #[track_caller]
    fn failed_with(self, parts: &[&str]) -> Ran {
        assert_eq!(self.code, 2, "{}{}", self.stdout, self.stderr);
        assert!(self.stdout.is_empty(), "{}", self.stdout);
        for part in parts {
            assert!(self.stderr.contains(part), "`{part}` is not in:\n{}", self.stderr);
        }
        self
    }
}

fn rows(path: &Path) -> i64 {
    Connection::open(path).unwrap().query_row("SELECT count(*) FROM t", (), |row| row.get(0)).unwrap()
}
