//! Whether a process is fit: probes, and how many of them it takes to believe one.
//!
//! Readiness says whether a run may be used and never ends it; liveness ends it. Each check has a task of its own, so a slow probe
//! delays nothing but itself. Until the first success within the start period failures do not count and the next probe comes
//! sooner.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use litekeep_env::process::{Exit, signal_number};
use litekeep_env::{Clock, SystemClock};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::cgroup::Group;
use crate::error::{Error, Result};
use crate::log::{self, Log};
use crate::spawn::{Command, Spawn};
use crate::tree::Tree;

/// The longest pause between probes before the first success.
const EAGER: Duration = Duration::from_millis(200);
/// What stands for a run's own port.
const OWN_PORT: &str = "{port}";
/// Bytes of an HTTP answer that are looked at.
const LONGEST_ANSWER: u64 = 64 << 10;

/// A probe of another's making: why it failed, if it did.
pub type Closure = Arc<dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

/// How a process is asked.
#[derive(Clone)]
pub enum Probe {
    /// A GET, answered with a status below 400.
    Http(Http),
    /// Something accepts connections at `HOST:PORT`.
    Tcp(String),
    /// A command in the process's surroundings ends with 0. `LITEKEEP_PROBED` holds the run's `LITEKEEP_INSTANCE`.
    Exec(Command),
    /// It says itself when it is ready: one of its processes sends READY=1 to `NOTIFY_SOCKET` (`sd_notify(3)`). Only for readiness.
    Notify,
    /// Whatever else.
    Closure(Closure),
}

impl fmt::Debug for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Probe::Http(http) => http.fmt(f),
            Probe::Tcp(address) => write!(f, "Tcp({address})"),
            Probe::Exec(command) => command.fmt(f),
            Probe::Notify => f.write_str("Notify"),
            Probe::Closure(_) => f.write_str("Closure"),
        }
    }
}

/// Where a GET goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http {
    address: String,
    path: String,
    /// The answer must contain the run's `LITEKEEP_INSTANCE`: an old run that still answers is no proof of a new one.
    pub names_instance: bool,
}

impl Http {
    /// `http://HOST[:PORT][/PATH]`; the port may be `{port}`, for a run with a port of its own.
    pub fn parse(url: &str) -> Result<Http> {
        let invalid = || Error::invalid(format!("health url `{url}`"), "is not http://HOST[:PORT][/PATH]");
        let rest = url.strip_prefix("http://").ok_or_else(invalid)?;
        let (host, path) = rest.find('/').map_or((rest, "/"), |slash| rest.split_at(slash));
        let has_space = |text: &str| text.contains(|c: char| c.is_ascii_whitespace() || c.is_ascii_control());
        if host.is_empty() || host.contains('@') || has_space(url) {
            return Err(invalid());
        }
        let port = host.rsplit_once(':').map(|(_, port)| port).filter(|port| !port.ends_with(']'));
        let address = match port {
            Some(port) if port == OWN_PORT || port.parse::<u16>().is_ok() => host.to_owned(),
            Some(_) => return Err(invalid()),
            None => format!("{host}:80"),
        };
        Ok(Http { address, path: path.into(), names_instance: false })
    }

    async fn get(&self, instance: &str) -> Result<(), String> {
        let mut stream = connect(&self.address).await?;
        let Http { address, path, .. } = self;
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: litekeep\r\nAccept: */*\r\nConnection: close\r\n\r\n"
        );
        let failed = |e: std::io::Error| format!("GET http://{address}{path}: {e}");
        stream.write_all(request.as_bytes()).await.map_err(failed)?;
        let mut stream = stream.take(LONGEST_ANSWER);
        let mut answer = Vec::new();
        let names_it =
            |answer: &[u8]| answer.windows(instance.len()).any(|window| window == instance.as_bytes());
        while stream.read_buf(&mut answer).await.map_err(failed)? > 0 {
            let has_status = answer.contains(&b'\n');
            if has_status && (!self.names_instance || names_it(&answer)) {
                break;
            }
        }
        let line = answer.split(|b| *b == b'\n').next().unwrap_or_default();
        let line = String::from_utf8_lossy(line);
        let status = line.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)?.parse::<u16>().ok());
        match status {
            Some(200..=399) if !self.names_instance || names_it(&answer) => Ok(()),
            Some(200..=399) => Err(format!("http://{address}{path} was answered by another instance")),
            Some(status) => Err(format!("GET http://{address}{path}: status {status}")),
            None => Err(format!("GET http://{address}{path}: no HTTP answer")),
        }
    }
}

async fn connect(address: &str) -> Result<TcpStream, String> {
    TcpStream::connect(address).await.map_err(|e| format!("connect to {address}: {e}"))
}

/// How the last probe went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// When it was over, in milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// How long it took.
    pub took: Duration,
    /// It is as it should be.
    pub is_good: bool,
}

/// A check with its times and thresholds.
pub type Check = litekeep_config::Check<Probe>;

impl Probe {
    /// The probe of a run with a port of its own, which `{port}` stands for in addresses.
    fn at_port(&self, port: Option<u16>) -> Probe {
        let mut probe = self.clone();
        if let (Some(port), Probe::Http(Http { address, .. }) | Probe::Tcp(address)) = (port, &mut probe) {
            *address = address.replace(OWN_PORT, &port.to_string());
        }
        probe
    }

    /// Asks once.
    async fn ask(&self, surroundings: &Spawn, instance: &str, timeout: Duration) -> Result<(), String> {
        let in_time = |answer: BoxFuture<'static, Result<(), String>>| async move {
            let answer = tokio::time::timeout(timeout, answer).await;
            answer.unwrap_or_else(|_| Err(format!("no answer within {timeout:?}")))
        };
        match self {
            Probe::Http(http) => {
                let (http, instance) = (http.clone(), instance.to_owned());
                in_time(Box::pin(async move { http.get(&instance).await })).await
            }
            Probe::Tcp(address) => {
                let address = address.clone();
                in_time(Box::pin(async move { connect(&address).await.map(drop) })).await
            }
            Probe::Notify => Err("it says itself when it is ready, and is not asked".into()),
            Probe::Closure(closure) => in_time(closure()).await,
            // Its processes must end with the time, so it keeps the time itself.
            Probe::Exec(command) => exec(command, surroundings, instance, timeout).await,
        }
    }
}

/// Asks for ever; tells each answer, and each change of the verdict: fit, or why not. `port`: the run's own, if it has one.
pub(crate) async fn watch<F: Future<Output = ()>>(
    check: &Check,
    port: Option<u16>,
    surroundings: &Spawn,
    instance: &str,
    answered: impl Fn(Answer),
    mut tell: impl FnMut(Result<(), String>) -> F,
) {
    let (begun, probe) = (Instant::now(), check.probe.at_port(port));
    let mut tally = Tally::default();
    loop {
        let asked = Instant::now();
        let answer = probe.ask(surroundings, instance, check.timeout).await;
        let (at_ms, took) = (SystemClock.unix_ms(), asked.elapsed());
        answered(Answer { at_ms, took, is_good: answer.is_ok() });
        let is_starting = begun.elapsed() < check.start_period;
        match (tally.step(check, answer.is_ok(), is_starting), answer) {
            (Some(true), _) => tell(Ok(())).await,
            (Some(false), Err(reason)) => tell(Err(reason)).await,
            _ => {}
        }
        let eager = is_starting && tally.verdict.is_none();
        tokio::time::sleep(if eager { check.interval.min(EAGER) } else { check.interval }).await;
    }
}

/// The answers so far.
#[derive(Debug, Default)]
struct Tally {
    verdict: Option<bool>,
    in_a_row: u32,
    last: bool,
}

impl Tally {
    /// Takes note of an answer; the verdict if it changed.
    fn step(&mut self, check: &Check, is_fit: bool, is_starting: bool) -> Option<bool> {
        let excused = !is_fit && is_starting && self.verdict.is_none();
        self.in_a_row = match () {
            () if excused => 0,
            () if self.last == is_fit => self.in_a_row.saturating_add(1),
            () => 1,
        };
        self.last = is_fit;
        let needed = if is_fit { check.successes } else { check.failures }.max(1);
        if excused || self.in_a_row < needed || self.verdict == Some(is_fit) {
            return None;
        }
        self.verdict = Some(is_fit);
        self.verdict
    }
}

/// Asks by a command.
async fn exec(
    command: &Command,
    surroundings: &Spawn,
    instance: &str,
    timeout: Duration,
) -> Result<(), String> {
    let mut spawn = surroundings.beside(command.clone());
    spawn.env.push(("LITEKEEP_PROBED".into(), instance.into()));
    // Not the run's own: what a probe leaves behind must not be taken for the run's.
    let own = format!("{instance}/probe-{:x}", litekeep_env::random_u64());
    run(&spawn, "health check", &own, timeout).await
}

/// Runs a command as a tree of its own, which ends with it or with the time. The error says what it was, `what` first, and what
/// it printed last.
pub async fn run(spawn: &Spawn, what: &'static str, instance: &str, timeout: Duration) -> Result<(), String> {
    let settings = log::Settings { tail: 5, ..log::Settings::default() };
    let log = Log::open(settings, Arc::new(SystemClock)).map_err(|e| e.to_string())?;
    let (output, mut readers) = log.output().map_err(|e| e.to_string())?;
    let (spawn, name) = (spawn.clone(), instance.to_owned());
    let start = move || spawn.start(what, &name, output, vec![]);
    let leader = tokio::task::spawn_blocking(start).await.map_err(|e| e.to_string())?;
    let leader = leader.map_err(|e| e.to_string())?;
    let tree = Tree::new(leader, instance.to_owned(), Group::default()).map_err(|e| e.to_string())?;
    let exit = tokio::time::timeout(timeout, tree.exited()).await;
    tree.stop(signal_number("KILL").expect("a known signal"), Duration::ZERO).await;
    match exit {
        Ok(Exit::Code(0)) => Ok(()),
        Ok(exit) => {
            _ = tokio::time::timeout(Duration::from_millis(100), readers.ended()).await;
            Err(match log.last_words(0) {
                Some(words) => format!("{what}: {exit}: {words}"),
                None => format!("{what}: {exit}"),
            })
        }
        Err(_) => Err(format!("no answer within {timeout:?}")),
    }
}

#[cfg(test)]
mod tests;
