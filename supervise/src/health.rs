//! Whether a process is fit: probes, and how many of them it takes to believe one.
//!
//! Readiness says whether a run may be used and never ends it; liveness ends it. Each check has a task of its own, so a slow probe
//! delays nothing but itself. Until the first success within the start period failures do not count and the next probe comes
//! sooner.
//!
//! A socket that litekeep holds is shared by the old and the new run of a reload, and by all instances. What one of them answers says
//! nothing about another, so it is found out who has accepted ([`accepted`]), and an answer of another run counts neither as a success
//! nor as a failure.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use litekeep_env::process::{Exit, signal_number};
use litekeep_env::{Clock, SystemClock};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use crate::accepted::{self, Acceptor};
use crate::cgroup::Group;
use crate::error::{Error, Result};
use crate::log::{self, Log};
use crate::spawn::{Command, Spawn};
use crate::tree::Tree;

/// The longest pause between probes before the first success.
const EAGER: Duration = Duration::from_millis(200);
/// From one try to reach the run that is meant to the next, at first and at most.
const AGAIN: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(200));
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
    /// The answer must contain the run's `LITEKEEP_INSTANCE`, for where another run may answer and the kernel does not tell: behind
    /// what stands in front of the process.
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

    /// Asks; a connection that is to stay open after the answer shows longer who accepted it.
    async fn send(&self, stream: &mut TcpStream, stays: bool) -> std::io::Result<()> {
        let Http { address, path, .. } = self;
        let connection = if stays { "" } else { "Connection: close\r\n" };
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: litekeep\r\nAccept: */*\r\n{connection}\r\n"
        );
        stream.write_all(request.as_bytes()).await
    }

    async fn answer(&self, stream: TcpStream, instance: &str) -> std::io::Result<Verdict> {
        let Http { address, path, .. } = self;
        let mut stream = stream.take(LONGEST_ANSWER);
        let mut answer = Vec::new();
        let names_it =
            |answer: &[u8]| answer.windows(instance.len()).any(|window| window == instance.as_bytes());
        while stream.read_buf(&mut answer).await? > 0 {
            let has_status = answer.contains(&b'\n');
            if has_status && (!self.names_instance || names_it(&answer)) {
                break;
            }
        }
        let line = answer.split(|b| *b == b'\n').next().unwrap_or_default();
        let line = String::from_utf8_lossy(line);
        let status = line.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)?.parse::<u16>().ok());
        Ok(match status {
            Some(200..=399) if !self.names_instance || names_it(&answer) => Verdict::Fit,
            Some(200..=399) => {
                Verdict::Unclear(format!("http://{address}{path} was answered by another instance"))
            }
            Some(status) => Verdict::Unfit(format!("GET http://{address}{path}: status {status}")),
            None => Verdict::Unfit(format!("GET http://{address}{path}: no HTTP answer")),
        })
    }
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

/// What a probe says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Fit,
    /// Why it is not.
    Unfit(String),
    /// Nothing about the run that is meant: another one answered, or nobody knows who.
    Unclear(String),
}

impl From<Result<(), String>> for Verdict {
    fn from(answer: Result<(), String>) -> Verdict {
        answer.map_or_else(Verdict::Unfit, |()| Verdict::Fit)
    }
}

/// Whom a probe is about.
pub(crate) struct Subject {
    pub(crate) instance: String,
    pub(crate) surroundings: Arc<Spawn>,
    pub(crate) tree: Arc<Tree>,
    /// Its own port, if it has one.
    pub(crate) port: Option<u16>,
}

/// How long a probe may take.
#[derive(Clone, Copy)]
struct Time {
    allowed: Duration,
    end: Instant,
}

impl Time {
    /// Until when nothing is said before somebody has accepted, and another try is begun.
    fn of_silence(self) -> Instant {
        self.end - self.allowed / 4
    }

    fn over(self) -> String {
        format!("no answer within {:?}", self.allowed)
    }
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
    async fn ask(&self, subject: &Subject, timeout: Duration) -> Verdict {
        match self {
            Probe::Http(http) => reach(&http.address, Some(http), subject, timeout).await,
            Probe::Tcp(address) => reach(address, None, subject, timeout).await,
            Probe::Notify => Verdict::Unfit("it says itself when it is ready, and is not asked".into()),
            Probe::Closure(closure) => {
                let answer = tokio::time::timeout(timeout, closure()).await;
                answer.unwrap_or_else(|_| Err(format!("no answer within {timeout:?}"))).into()
            }
            // Its processes must end with the time, so it keeps the time itself.
            Probe::Exec(command) => {
                exec(command, &subject.surroundings, &subject.instance, timeout).await.into()
            }
        }
    }
}

/// Asks by the network, again and again as long as others answer and there is time: who of those that share a socket accepts is
/// chance.
async fn reach(address: &str, http: Option<&Http>, subject: &Subject, timeout: Duration) -> Verdict {
    let time = Time { allowed: timeout, end: Instant::now() + timeout };
    let (mut pause, mut unclear) = (AGAIN.0, None);
    loop {
        match try_to_reach(address, http, subject, time).await {
            // The first reason: the last try has the least time to find one.
            Ok(Verdict::Unclear(reason)) => {
                let reason = unclear.get_or_insert(reason);
                if Instant::now() + pause >= time.of_silence() {
                    return Verdict::Unclear(reason.clone());
                }
            }
            Ok(clear) => return clear,
            Err(late) => return unclear.map_or(Verdict::Unfit(late), Verdict::Unclear),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(AGAIN.1);
    }
}

/// One try; the error says that the time was over before somebody was there to answer.
async fn try_to_reach(
    address: &str,
    http: Option<&Http>,
    subject: &Subject,
    time: Time,
) -> Result<Verdict, String> {
    let connected = timeout_at(time.end, TcpStream::connect(address)).await;
    let mut stream = match connected.map_err(|_| time.over())? {
        Ok(stream) => stream,
        Err(error) => return Ok(Verdict::Unfit(format!("connect to {address}: {error}"))),
    };
    let (mut has_asked, names_itself) = (false, http.is_some_and(|http| http.names_instance));
    if accepted::leads_to(&stream, &subject.surroundings.sockets) && accepted::is_told().await {
        // Who has accepted waits for the question, so it shows before it can close; who accepts only what has said something
        // (TCP_DEFER_ACCEPT) hears it when most of the time is over.
        let silent_until = http.map_or(time.end, |_| time.of_silence());
        let mut by = timeout_at(silent_until, accepted::by_whom(&stream, &subject.tree)).await.ok();
        if let (None, Some(http)) = (&by, http) {
            let sent = timeout_at(time.end, http.send(&mut stream, !names_itself)).await;
            has_asked = sent.map_err(|_| time.over())?.is_ok();
            by = timeout_at(time.end, accepted::by_whom(&stream, &subject.tree)).await.ok();
        }
        let nobody = || format!("nobody accepted the connection to {address} within {:?}", time.allowed);
        match by.ok_or_else(nobody)? {
            Ok(Acceptor::Tree) => {}
            // The answer will tell.
            Ok(Acceptor::Hidden(_)) | Err(_) if names_itself => {}
            Ok(other) => return Ok(Verdict::Unclear(not_by_it(address, &other))),
            Err(error) => {
                return Ok(Verdict::Unclear(format!("who answers at {address} cannot be told: {error}")));
            }
        }
    }
    let Some(http) = http else { return Ok(Verdict::Fit) };
    let exchange = async {
        if !has_asked {
            http.send(&mut stream, false).await?;
        }
        http.answer(stream, &subject.instance).await
    };
    Ok(match timeout_at(time.end, exchange).await {
        Ok(Ok(verdict)) => verdict,
        Ok(Err(error)) => Verdict::Unfit(format!("GET http://{address}{}: {error}", http.path)),
        Err(_) => Verdict::Unfit(time.over()),
    })
}

/// Why an answer counts for nothing.
fn not_by_it(address: &str, acceptor: &Acceptor) -> String {
    match acceptor {
        Acceptor::Closed => {
            format!("who answers at {address} cannot be told: the connection was closed at once")
        }
        Acceptor::Hidden(pid) => format!(
            "who answers at {address} cannot be told: nobody may see what process {pid} has open; write a `url` with \
             names_instance = true, and answer with LITEKEEP_INSTANCE"
        ),
        Acceptor::Other | Acceptor::Tree => format!("{address} was answered by another run"),
    }
}

/// Asks for ever; tells each answer, and each change of the verdict. What is unclear is told each time and changes nothing.
pub(crate) async fn watch<F: Future<Output = ()>>(
    check: &Check,
    subject: &Subject,
    answered: impl Fn(Answer),
    mut tell: impl FnMut(Verdict) -> F,
) {
    let (begun, probe) = (Instant::now(), check.probe.at_port(subject.port));
    let mut tally = Tally::default();
    loop {
        let asked = Instant::now();
        let verdict = probe.ask(subject, check.timeout).await;
        let is_starting = begun.elapsed() < check.start_period;
        let is_fit = verdict == Verdict::Fit;
        if matches!(verdict, Verdict::Unclear(_)) {
            tell(verdict).await;
        } else {
            answered(Answer { at_ms: SystemClock.unix_ms(), took: asked.elapsed(), is_good: is_fit });
            if tally.step(check, is_fit, is_starting).is_some() {
                tell(verdict).await;
            }
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
