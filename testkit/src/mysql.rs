//! MariaDB as Debian has it, or MySQL, on a port of its own with data of its own. It can be killed and comes back with what it had.
//! Dropping the handle kills the server.

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Opts, Row, Value};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::certificates::Certificates;
use crate::installed::first_data;
use crate::leavings::folder;
use crate::mysql_programs;
use crate::process::{Process, eventually, user};

const START: Duration = Duration::from_secs(120);
/// The user that it runs as: it refuses to be root.
const USER: &str = "mysql";

/// Which of the two it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavor {
    /// MariaDB, of this system.
    Mariadb,
    /// MySQL, unpacked beside it.
    Mysql,
}

impl Flavor {
    /// Whether it can be had. MySQL is fetched on first use; where it cannot be, a line says why.
    #[must_use]
    pub fn is_available(self) -> bool {
        match self {
            Self::Mariadb => true,
            Self::Mysql => match mysql_programs::folder() {
                Ok(_) => true,
                Err(e) => {
                    // What a test prints is kept from who runs it.
                    let line = format!("skipped, for MySQL cannot be had: {e:#}\n");
                    let _ = std::io::stderr().write_all(line.as_bytes());
                    false
                }
            },
        }
    }
}

/// A server that runs, or is down for a while.
#[derive(Debug)]
pub struct Mysql {
    flavor: Flavor,
    dir: TempDir,
    address: SocketAddr,
    ids: Option<(u32, u32)>,
    process: Option<Process>,
    runtime: Runtime,
}

impl Mysql {
    /// Starts one without data, and waits until it answers. It speaks TLS as `localhost` to those who ask for it.
    ///
    /// # Errors
    /// When it is not installed.
    pub fn start(flavor: Flavor) -> Result<Self> {
        let dir = folder().with_context(|| format!("make a folder for {flavor:?}"))?;
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let ids = user(USER)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut server = Self { flavor, dir, address, ids, process: None, runtime };
        let certificates = Certificates::make()?;
        let (certificate, key) = certificates.files();
        // A statement a line, as the server wants it.
        let users = "CREATE USER IF NOT EXISTS admin@'127.0.0.1';\nGRANT ALL ON *.* TO admin@'127.0.0.1' WITH GRANT OPTION;\nCREATE DATABASE IF NOT EXISTS test;\n";
        std::fs::write(server.dir.path().join("users.sql"), users)?;
        for (name, from) in
            [("ca.pem", certificates.ca_file()), ("server.pem", certificate), ("server.key", key)]
        {
            std::fs::copy(from, server.dir.path().join(name))?;
        }
        if let Some((user, group)) = ids {
            chown(server.dir.path(), Some(user), Some(group)).context("give the folder to `mysql`")?;
        }
        let (name, of) = match flavor {
            Flavor::Mariadb => ("mariadb", program()),
            Flavor::Mysql => ("mysql", mysql_programs::folder()?.join("usr/sbin/mysqld")),
        };
        first_data(name, &of, &server.dir.path().join("data"), || {
            let install = match flavor {
                Flavor::Mariadb => {
                    let mut install = server.command(Path::new("mariadb-install-db"))?;
                    install.args(["--auth-root-authentication-method=normal", "--skip-test-db"]);
                    install
                }
                Flavor::Mysql => {
                    let mut install = server.command(&program())?;
                    install.args(["--initialize-insecure", "--secure-file-priv="]);
                    install
                }
            };
            let mut made = Process::start(install, &server.log())?;
            let status = made.wait(START)?;
            ensure!(status.success(), "making the first tables failed:\n{}", made.output());
            Ok(())
        })?;
        server.resume()?;
        Ok(server)
    }

    /// SIGKILL, in the middle of whatever it does.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn kill(&mut self) -> Result<()> {
        let Some(process) = self.process.take() else { return Ok(()) };
        process.kill().map(drop)
    }

    /// Starts it again with what it has, and waits until it answers.
    ///
    /// # Errors
    /// When it does not start.
    pub fn resume(&mut self) -> Result<()> {
        let dir = self.dir.path().to_owned();
        let file = |option: &str, name: &str| format!("--{option}={}", dir.join(name).display());
        let mut command = self.command(&program())?;
        if self.flavor == Flavor::Mysql {
            command.args(["--mysqlx=OFF", "--secure-file-priv=", "--local-infile=1"]);
        }
        command.args([
            "--bind-address=127.0.0.1",
            "--skip-name-resolve",
            "--max-allowed-packet=16M",
            "--innodb-buffer-pool-size=64M",
        ]);
        // With a log of all changes, as replicas follow it.
        command.args([
            "--log-bin=binlog",
            "--server-id=1",
            "--binlog-format=ROW",
            "--binlog-row-metadata=FULL",
        ]);
        command.arg(format!("--port={}", self.address.port()));
        command.args([file("socket", "socket"), file("pid-file", "pid"), file("init-file", "users.sql")]);
        command.args([
            file("ssl-ca", "ca.pem"),
            file("ssl-cert", "server.pem"),
            file("ssl-key", "server.key"),
        ]);
        self.process = Some(Process::start(command, &self.log())?);
        eventually("the server answers", START, || {
            let is_running = self.process.as_mut().map_or(Ok(false), Process::is_running)?;
            ensure!(is_running, "the server ended");
            std::thread::sleep(Duration::from_millis(50));
            Ok(self.query("SELECT 1").is_ok())
        })
        .with_context(|| self.process.as_ref().map_or(String::new(), Process::output))
    }

    /// Whether it is MariaDB, and not MySQL.
    #[must_use]
    pub fn is_mariadb(&self) -> bool {
        self.flavor == Flavor::Mariadb
    }

    /// Its URL, for the administrator and the database of this name (`test` is there).
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        self.url_with("admin@", database)
    }

    /// The same with a user, and perhaps a password: `me:secret@`.
    #[must_use]
    pub fn url_with(&self, login: &str, database: &str) -> String {
        let scheme = if self.is_mariadb() { "mariadb" } else { "mysql" };
        format!("{scheme}://{login}{}/{database}", self.address)
    }

    /// Where it listens.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// The certificate of the authority that signed its own, PEM.
    #[must_use]
    pub fn ca_file(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// Runs statements in no database; the rows of all of them as text.
    ///
    /// # Errors
    /// What the server says.
    pub fn query(&self, sql: &str) -> Result<Vec<Vec<Option<String>>>> {
        self.query_in("", sql)
    }

    /// The same in a database.
    ///
    /// # Errors
    /// What the server says.
    pub fn query_in(&self, database: &str, sql: &str) -> Result<Vec<Vec<Option<String>>>> {
        self.runtime.block_on(ask(&self.login(database), sql))
    }

    /// The rows of one statement, each value as the server stores it.
    ///
    /// # Errors
    /// What the server says.
    pub fn values_in(&self, database: &str, sql: &str) -> Result<Vec<Vec<Value>>> {
        self.runtime.block_on(async {
            let mut conn = self.connected(database).await?;
            let rows: Vec<Row> = conn.exec(sql, ()).await?;
            conn.disconnect().await?;
            Ok(rows.into_iter().map(Row::unwrap).collect())
        })
    }

    async fn connected(&self, database: &str) -> Result<Conn> {
        Ok(Conn::new(Opts::from_url(&self.login(database))?).await?)
    }

    /// The URL of a database for its client.
    #[must_use]
    pub fn login(&self, database: &str) -> String {
        format!("mysql://admin@{}/{database}?prefer_socket=false", self.address)
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    fn command(&self, program: &Path) -> Result<Command> {
        let mut command = match self.flavor {
            Flavor::Mariadb => {
                let mut command = Command::new(program);
                command.arg("--no-defaults");
                command
            }
            Flavor::Mysql => mysql_programs::program(&mysql_programs::folder()?),
        };
        command.current_dir(self.dir.path());
        command.arg(format!("--datadir={}", self.dir.path().join("data").display()));
        // Others that start in one folder take files from each other.
        command.arg(format!("--tmpdir={}", self.dir.path().display()));
        if let Some((user, group)) = self.ids {
            command.uid(user).gid(group);
        }
        Ok(command)
    }
}

/// Runs statements by a [login](Mysql::login); the rows of all of them as text.
///
/// # Errors
/// What the server says.
pub fn query_at(login: &str, sql: &str) -> Result<Vec<Vec<Option<String>>>> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(ask(login, sql))
}

async fn ask(login: &str, sql: &str) -> Result<Vec<Vec<Option<String>>>> {
    let text = |value: Value| match value {
        Value::NULL => None,
        Value::Bytes(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
        other => Some(other.as_sql(true)),
    };
    let mut conn = Conn::new(Opts::from_url(login)?).await?;
    let mut result = conn.query_iter(sql).await?;
    let mut rows: Vec<Row> = vec![];
    while !result.is_empty() {
        rows.extend(result.collect::<Row>().await?);
    }
    drop(result);
    conn.disconnect().await?;
    Ok(rows.into_iter().map(|row| row.unwrap().into_iter().map(text).collect()).collect())
}

/// Debian keeps it out of most people's PATH.
fn program() -> PathBuf {
    let in_sbin = PathBuf::from("/usr/sbin/mariadbd");
    if in_sbin.exists() { in_sbin } else { PathBuf::from("mariadbd") }
}
