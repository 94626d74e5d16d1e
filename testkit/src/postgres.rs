//! PostgreSQL as Debian has it, on a port of its own with data of its own. It can be killed and comes back with what it had.
//! Dropping the handle kills the server.

use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio_postgres::{NoTls, SimpleQueryMessage};

use crate::installed::first_data;
use crate::leavings::folder;
use crate::process::{Process, eventually, user};

const START: Duration = Duration::from_secs(120);

/// A server that runs, or is down for a while.
#[derive(Debug)]
pub struct Postgres {
    dir: TempDir,
    address: SocketAddr,
    /// The user and the group that it runs as: it refuses to be root.
    ids: Option<(u32, u32)>,
    process: Option<Process>,
    runtime: Runtime,
}

impl Postgres {
    /// Starts one without data, and waits until it answers.
    ///
    /// # Errors
    /// When it is not installed.
    pub fn start() -> Result<Self> {
        let dir = folder().context("make a folder for PostgreSQL")?;
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let ids = user("postgres")?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut server = Self { dir, address, ids, process: None, runtime };
        if let Some((user, group)) = ids {
            chown(server.dir.path(), Some(user), Some(group)).context("give the folder to `postgres`")?;
        }
        let data = server.dir.path().join("data");
        first_data("postgresql", &programs()?.join("postgres"), &data, || {
            let mut initdb = server.command("initdb")?;
            initdb.args(["-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale", "C", "--no-sync"]);
            let mut made = Process::start(initdb, &server.log())?;
            let status = made.wait(START)?;
            ensure!(status.success(), "initdb failed:\n{}", made.output());
            Ok(())
        })?;
        // Others than `postgres` need a password, as on a real server.
        let rules = "host all postgres 127.0.0.1/32 trust\nhost replication postgres 127.0.0.1/32 trust\n\
                     host all all 127.0.0.1/32 scram-sha-256\nhost replication all 127.0.0.1/32 scram-sha-256\n";
        std::fs::write(server.dir.path().join("data/pg_hba.conf"), rules)?;
        server.resume()?;
        Ok(server)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// SIGKILL to all of it, in the middle of whatever it does.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn kill(&mut self) -> Result<()> {
        let Some(process) = self.process.take() else { return Ok(()) };
        process.kill()?;
        // Its children end by themselves when they see that; until then a new one cannot begin.
        Ok(())
    }

    /// Starts it again with what it has, and waits until it answers.
    ///
    /// # Errors
    /// When it does not start.
    pub fn resume(&mut self) -> Result<()> {
        let port = self.address.port().to_string();
        eventually("PostgreSQL answers", START, || {
            if !self.process.as_mut().map_or(Ok(false), Process::is_running)? {
                // The shared memory of one that was killed is in use until its last child has ended.
                let mut command = self.command("postgres")?;
                command
                    .args(["-h", "127.0.0.1", "-p", &port, "-c", "wal_level=logical"])
                    .args(["-c", "max_replication_slots=50", "-c", "max_wal_senders=50"])
                    .arg("-k")
                    .arg(self.dir.path());
                self.process = Some(Process::start(command, &self.log())?);
            }
            std::thread::sleep(Duration::from_millis(50));
            Ok(self.query("SELECT 1").is_ok())
        })
        .with_context(|| self.process.as_ref().map_or(String::new(), Process::output))
    }

    /// Its URL, for the administrator and the database of this name.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        self.url_with("postgres@", database)
    }

    /// The same with a user, and perhaps a password: `me:secret@`.
    #[must_use]
    pub fn url_with(&self, login: &str, database: &str) -> String {
        format!("postgres://{login}{}/{database}", self.address)
    }

    /// Puts a PgBouncer in transaction mode in front of it, with one connection for all clients.
    ///
    /// # Errors
    /// When it is not installed.
    pub fn pooler(&self) -> Result<Pooler> {
        let dir = folder().context("make a folder for PgBouncer")?;
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let config = format!(
            "[databases]\n* = host={} port={} user=postgres\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {}\nauth_type = any\n\
             pool_mode = transaction\ndefault_pool_size = 1\nserver_reset_query_always = 0\nunix_socket_dir =\n",
            self.address.ip(),
            self.address.port(),
            address.port()
        );
        let file = dir.path().join("pgbouncer.ini");
        std::fs::write(&file, config)?;
        let mut command = Command::new("/usr/sbin/pgbouncer");
        command.arg(&file).current_dir(dir.path());
        if let Some((user, group)) = self.ids {
            chown(dir.path(), Some(user), Some(group))?;
            command.uid(user).gid(group);
        }
        let log = dir.path().join("log");
        let mut pooler = Pooler { address, process: Process::start(command, &log)?, _dir: dir };
        eventually("PgBouncer answers", START, || {
            ensure!(pooler.process.is_running()?, "PgBouncer ended:\n{}", pooler.process.output());
            std::thread::sleep(Duration::from_millis(20));
            Ok(std::net::TcpStream::connect(address).is_ok())
        })?;
        Ok(pooler)
    }

    /// Runs statements in the administrator's database; the rows of all of them as text.
    ///
    /// # Errors
    /// What the server says.
    pub fn query(&self, sql: &str) -> Result<Vec<Vec<Option<String>>>> {
        self.query_in("postgres", sql)
    }

    /// The same in another database.
    ///
    /// # Errors
    /// What the server says.
    pub fn query_in(&self, database: &str, sql: &str) -> Result<Vec<Vec<Option<String>>>> {
        self.runtime.block_on(ask(&self.url(database), sql))
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    fn command(&self, program: &str) -> Result<Command> {
        let mut command = Command::new(programs()?.join(program));
        command.arg("-D").arg(self.dir.path().join("data")).current_dir(self.dir.path());
        if let Some((user, group)) = self.ids {
            command.uid(user).gid(group);
        }
        Ok(command)
    }
}

/// Runs statements in the database of a URL; the rows of all of them as text.
///
/// # Errors
/// What the server says.
pub fn query_at(url: &str, sql: &str) -> Result<Vec<Vec<Option<String>>>> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(ask(url, sql))
}

async fn ask(url: &str, sql: &str) -> Result<Vec<Vec<Option<String>>>> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    let connection = tokio::spawn(connection);
    let answers = client.simple_query(sql).await;
    connection.abort();
    let rows = answers?.into_iter().filter_map(|answer| match answer {
        SimpleQueryMessage::Row(row) => {
            Some((0..row.len()).map(|nth| row.get(nth).map(str::to_owned)).collect())
        }
        _ => None,
    });
    Ok(rows.collect())
}

/// A PgBouncer that runs.
#[derive(Debug)]
pub struct Pooler {
    address: SocketAddr,
    process: Process,
    _dir: TempDir,
}

impl Pooler {
    /// The URL of a database behind it.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@{}/{database}", self.address)
    }
}

/// The folder of its programs; Debian keeps them out of PATH.
fn programs() -> Result<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let folders = versions.map(|version| version.path().join("bin"));
    let in_path = std::env::var_os("PATH").unwrap_or_default();
    let mut all = folders.chain(std::env::split_paths(&in_path));
    all.find(|dir| dir.join("initdb").exists()).context("find PostgreSQL (Debian: postgresql)")
}
