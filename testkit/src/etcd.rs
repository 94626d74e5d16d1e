//! etcd as Debian has it, one member, on ports of its own with data of its own. Dropping the handle kills it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::leavings::folder;
use crate::process::{Process, eventually};

const START: Duration = Duration::from_secs(60);

/// A server that runs, or is down for a while.
#[derive(Debug)]
pub struct Etcd {
    dir: TempDir,
    clients: SocketAddr,
    peers: SocketAddr,
    process: Option<Process>,
}

impl Etcd {
    /// Starts one without data, and waits until it answers.
    ///
    /// # Errors
    /// When it is not installed.
    pub fn start() -> Result<Self> {
        let dir = folder().context("make a folder for etcd")?;
        // Held together, so that they differ; free when the server starts.
        let held = [TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?];
        let (clients, peers) = (held[0].local_addr()?, held[1].local_addr()?);
        drop(held);
        let mut etcd = Self { dir, clients, peers, process: None };
        etcd.resume()?;
        Ok(etcd)
    }

    /// SIGKILL, in the middle of whatever it does.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn kill(&mut self) -> Result<()> {
        self.process.take().map_or(Ok(()), |process| process.kill().map(drop))
    }

    /// Starts it again with what it has, and waits until it answers.
    ///
    /// # Errors
    /// When it does not start.
    pub fn resume(&mut self) -> Result<()> {
        let (clients, peers) = (format!("http://{}", self.clients), format!("http://{}", self.peers));
        let mut command = Command::new("etcd");
        command.args(["--name", "one", "--initial-cluster", &format!("one={peers}")]).arg("--data-dir");
        command.arg(self.dir.path().join("data")).args(["--listen-client-urls", &clients]);
        command.args(["--advertise-client-urls", &clients, "--listen-peer-urls", &peers]);
        command.args(["--initial-advertise-peer-urls", &peers]);
        let mut process = Process::start(command, &self.dir.path().join("log"))
            .context("start etcd (Debian: apt-get install etcd-server)")?;
        eventually("etcd answers", START, || {
            ensure!(process.is_running()?, "etcd ended:\n{}", process.output());
            std::thread::sleep(Duration::from_millis(20));
            // A question that only a member with a leader answers.
            Ok(self.post("kv/range", r#"{"key":"AA=="}"#).is_ok_and(|said| said.starts_with("HTTP/1.1 200")))
        })?;
        self.process = Some(process);
        Ok(())
    }

    /// `127.0.0.1:PORT`.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.clients
    }

    /// Asks its JSON gateway; the whole answer, with status and headers.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn post(&self, path: &str, json: &str) -> Result<String> {
        let mut stream = TcpStream::connect(self.clients)?;
        stream.set_read_timeout(Some(START))?;
        write!(
            stream,
            "POST /v3/{path} HTTP/1.1\r\nHost: etcd\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{json}",
            json.len()
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }
}
