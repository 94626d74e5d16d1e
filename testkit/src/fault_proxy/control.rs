//! The proxy's remote control, for a proxy that is a process: one JSON text of a [`Command`] a line, one line of JSON
//! back (the counts for `Counts`, else `null`; an unreadable command ends the connection).

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::{Counts, Fault, FaultProxy, Rule};

/// What a proxy can be told; each does what the method of its name does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Command {
    /// [`FaultProxy::inject`].
    Inject(Rule),
    /// [`FaultProxy::clear`].
    Clear,
    /// [`FaultProxy::outage`].
    Outage(Option<Fault>),
    /// [`FaultProxy::delay`], in milliseconds.
    Delay {
        /// Added to every request.
        latency_ms: u64,
        /// The most that chance adds to it.
        jitter_ms: u64,
    },
    /// [`FaultProxy::counts`].
    Counts,
    /// [`FaultProxy::reset_counts`].
    ResetCounts,
}

/// Sends one command to the control port of a proxy; the counts are those of the moment after it took effect.
///
/// # Errors
/// When nobody listens or the answer is not one.
pub fn send(control: SocketAddr, command: &Command) -> Result<Option<Counts>> {
    let mut stream =
        TcpStream::connect(control).with_context(|| format!("reach the proxy's control at {control}"))?;
    let mut line = serde_json::to_string(command)?;
    line.push('\n');
    stream.write_all(line.as_bytes())?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    serde_json::from_str(&answer).with_context(|| format!("read the proxy's answer to {command:?}"))
}

pub(super) fn serve(
    proxy: &FaultProxy,
    port: u16,
    on_ready: impl FnOnce(SocketAddr) -> Result<()>,
) -> Result<()> {
    let listener =
        TcpListener::bind(("127.0.0.1", port)).with_context(|| format!("bind the control port {port}"))?;
    on_ready(listener.local_addr()?)?;
    for stream in listener.incoming() {
        // One controller at a time, and its mistakes end only its own connection.
        let Ok(stream) = stream else { continue };
        if let Err(error) = converse(proxy, &stream) {
            eprintln!("control: {error:#}");
        }
    }
    Ok(())
}

fn converse(proxy: &FaultProxy, mut stream: &TcpStream) -> Result<()> {
    for line in BufReader::new(stream).lines() {
        let line = line?;
        let command = serde_json::from_str(&line).with_context(|| format!("read the command {line:?}"))?;
        let mut answer = serde_json::to_string(&obey(proxy, command))?;
        answer.push('\n');
        stream.write_all(answer.as_bytes())?;
    }
    Ok(())
}

fn obey(proxy: &FaultProxy, command: Command) -> Option<Counts> {
    match command {
        Command::Inject(rule) => proxy.inject(rule),
        Command::Clear => proxy.clear(),
        Command::Outage(fault) => proxy.outage(fault),
        Command::Delay { latency_ms, jitter_ms } => {
            proxy.delay(Duration::from_millis(latency_ms), Duration::from_millis(jitter_ms));
        }
        Command::Counts => return Some(proxy.counts()),
        Command::ResetCounts => proxy.reset_counts(),
    }
    None
}
