//! The servers that databases are copied to and kept in step with, each new for every run, on this machine.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::JoinHandle;

use anyhow::{Context, Result, ensure};
use litekeep_testkit::mongodb::Mongodb;
use litekeep_testkit::mysql::{Flavor, Mysql};
use litekeep_testkit::postgres::Postgres;

/// The database on the server.
pub(crate) const DATABASE: &str = "app";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Postgres,
    Mariadb,
    Mysql,
    Mongodb,
}

pub(crate) enum Server {
    Postgres(Postgres),
    Mysql(Mysql),
    Mongodb(Mongodb),
}

impl Server {
    pub(crate) fn start(kind: Kind) -> Result<Server> {
        let create = format!("CREATE DATABASE {DATABASE}");
        let mysql = |flavor| {
            let server = Mysql::start(flavor)?;
            server.query(&create)?;
            Ok(Server::Mysql(server))
        };
        match kind {
            Kind::Postgres => {
                let server = Postgres::start()?;
                server.query(&create)?;
                Ok(Server::Postgres(server))
            }
            Kind::Mariadb => mysql(Flavor::Mariadb),
            Kind::Mysql => mysql(Flavor::Mysql),
            Kind::Mongodb => Ok(Server::Mongodb(Mongodb::start()?)),
        }
    }

    pub(crate) fn url(&self) -> String {
        match self {
            Server::Postgres(server) => server.url(DATABASE),
            Server::Mysql(server) => server.url(DATABASE),
            Server::Mongodb(server) => server.url(DATABASE),
        }
    }

    pub(crate) fn count(&self, table: &str) -> Result<u64> {
        let sql = format!("SELECT count(*) FROM {table}");
        let rows = match self {
            Server::Postgres(server) => server.query_in(DATABASE, &sql)?,
            Server::Mysql(server) => server.query_in(DATABASE, &sql)?,
            Server::Mongodb(server) => return server.count(DATABASE, table),
        };
        let count = rows.first().and_then(|row| row.first()?.as_deref()).context("a count")?;
        Ok(count.parse()?)
    }

    /// A question for the highest `n` of a table, and when it was answered, microseconds.
    pub(crate) fn newest(&self, table: &str) -> String {
        let now = match self {
            Server::Postgres(_) => "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint",
            _ => "CAST(UNIX_TIMESTAMP(SYSDATE(6)) * 1000000 AS SIGNED)",
        };
        format!("SELECT max(n), {now} FROM {table};")
    }

    /// Statements of SQL, one after the other.
    pub(crate) fn run(&self, sql: &str) -> Result<()> {
        match self {
            Server::Postgres(server) => server.query_in(DATABASE, sql).map(drop),
            Server::Mysql(server) => server.query_in(DATABASE, sql).map(drop),
            Server::Mongodb(_) => anyhow::bail!("it has no SQL"),
        }
    }

    /// The client program that comes with the server, which prints rows as values with a character between them.
    pub(crate) fn client(&self) -> Result<Command> {
        let mut command;
        match self {
            Server::Postgres(server) => {
                command = Command::new("psql");
                command
                    .args(["-q", "-A", "-t", "-F", "\t", "-v", "ON_ERROR_STOP=1"])
                    .arg(server.url(DATABASE));
            }
            Server::Mysql(server) => {
                command = Command::new("mariadb");
                command.args([
                    "--no-defaults",
                    "-N",
                    "-B",
                    "-n",
                    "-h",
                    "127.0.0.1",
                    "-u",
                    "admin",
                    "--skip-ssl",
                ]);
                command.arg("-P").arg(server.port().to_string()).arg(DATABASE);
            }
            Server::Mongodb(_) => anyhow::bail!("it has no client that is installed"),
        }
        Ok(command)
    }
}

/// Sends lines of SQL to a server's client as they come, from a thread; ends when `next` has no more.
pub(crate) fn feed(
    mut client: Command,
    output: &Path,
    mut next: impl FnMut() -> Option<String> + Send + 'static,
) -> Result<JoinHandle<Result<()>>> {
    let output = std::fs::File::create(output)?;
    let mut child =
        client.stdin(Stdio::piped()).stdout(output).spawn().context("start the server's client")?;
    let mut input = child.stdin.take().context("its input")?;
    Ok(std::thread::spawn(move || {
        while let Some(line) = next() {
            writeln!(input, "{line}")?;
            input.flush()?;
        }
        drop(input);
        let status = child.wait()?;
        ensure!(status.success(), "the server's client ended with {status}");
        Ok(())
    }))
}
