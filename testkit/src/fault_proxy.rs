//! An HTTP proxy for the way between a replicator and its S3 server: it counts requests by kind and injects the
//! faults of a real network and a real store.
//!
//! Faults modelled: the store answers an error without acting; the connection is reset before the request arrives, in
//! the middle of an upload, in the middle of an answer, or after the request has taken full effect; nobody ever
//! answers; everything is late; all of it together for a while. Not modelled: altered bytes, reordering, duplicates.
//!
//! A request that no rule catches passes unaltered, so that its signature stays valid. What a request met is decided
//! when its head arrives; a rule that is injected later catches only later requests.

mod control;
mod forward;
mod request;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use hyper::HeaderMap;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

pub use control::{Command, send};
pub use request::Kind;

use crate::clock;
use crate::serving::Serving;

/// How many of the latest requests [`FaultProxy::seen`] remembers.
const SEEN_LIMIT: usize = 1 << 16;

/// What happens to a request instead of passing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// This status is answered with an S3 error body; the store hears nothing of it.
    Status(u16),
    /// The connection is reset; the store hears nothing of it.
    Reset,
    /// The store does what it was asked, then the connection is reset in place of the answer.
    LoseReply,
    /// The connections are reset after this many bytes of the request's body; one that is no longer takes full effect.
    CutUpload(u64),
    /// The connection is reset after this many bytes of the answer's body.
    CutReply(u64),
    /// No answer, and the store hears nothing of it; the connection is reset at [`FaultProxy::clear`].
    Hang,
}

/// Which requests meet a [`Fault`]; `Rule::new(fault)` catches every one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rule {
    fault: Fault,
    #[serde(default)]
    kinds: Vec<Kind>,
    #[serde(default)]
    path: Option<String>,
    #[serde(default)]
    times: Option<u32>,
    #[serde(default = "always")]
    probability: f64,
}

fn always() -> f64 {
    1.0
}

impl Rule {
    /// A rule for all requests, for ever.
    #[must_use]
    pub fn new(fault: Fault) -> Self {
        Self { fault, kinds: Vec::new(), path: None, times: None, probability: 1.0 }
    }

    /// Only requests of this kind (or of one of several, when called again).
    #[must_use]
    pub fn on(mut self, kind: Kind) -> Self {
        self.kinds.push(kind);
        self
    }

    /// Only requests whose path and query contain `part`.
    #[must_use]
    pub fn path(mut self, part: &str) -> Self {
        self.path = Some(part.to_owned());
        self
    }

    /// Only the first `times` of the requests that match.
    #[must_use]
    pub fn times(mut self, times: u32) -> Self {
        self.times = Some(times);
        self
    }

    /// Each matching request with this probability (0..=1), drawn from the proxy's seed.
    #[must_use]
    pub fn probability(mut self, probability: f64) -> Self {
        self.probability = probability;
        self
    }

    fn matches(&self, kind: Kind, path: &str) -> bool {
        self.times != Some(0)
            && (self.kinds.is_empty() || self.kinds.contains(&kind))
            && self.path.as_ref().is_none_or(|part| path.contains(part.as_str()))
    }
}

/// What was counted of one kind of request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// Requests whose head arrived.
    pub requests: u64,
    /// Answers below 400 that the client could read from their first byte on.
    pub succeeded: u64,
    /// Requests that met a fault.
    pub faults: u64,
    /// Bytes of request bodies.
    pub bytes_in: u64,
    /// Bytes of answers' bodies.
    pub bytes_out: u64,
}

/// Counts by kind; kinds that never came are absent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts(BTreeMap<Kind, Count>);

impl Counts {
    /// The count of one kind.
    #[must_use]
    pub fn of(&self, kind: Kind) -> Count {
        self.0.get(&kind).copied().unwrap_or_default()
    }

    /// The sum over all kinds.
    #[must_use]
    pub fn total(&self) -> Count {
        self.0.values().fold(Count::default(), |sum, count| Count {
            requests: sum.requests + count.requests,
            succeeded: sum.succeeded + count.succeeded,
            faults: sum.faults + count.faults,
            bytes_in: sum.bytes_in + count.bytes_in,
            bytes_out: sum.bytes_out + count.bytes_out,
        })
    }
}

/// One request that came, in order of arrival.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The operation.
    pub kind: Kind,
    /// Path and query, undecoded.
    pub path: String,
    /// Whether it was conditional (`If-None-Match` or `If-Match`).
    pub conditional: bool,
    /// Whether its signature leaves the body out.
    pub unsigned_payload: bool,
    /// The token that goes with temporary keys.
    pub session_token: Option<String>,
    /// What it met.
    pub fault: Option<Fault>,
    /// When the head of a success (below 400) was passed on, CLOCK_MONOTONIC, nanoseconds.
    pub succeeded_ns: Option<i64>,
}

/// A running proxy; dropping it cuts all connections.
#[derive(Debug)]
pub struct FaultProxy {
    serving: Serving,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    upstream: SocketAddr,
    state: Mutex<State>,
    /// Signalled at each change of the counts: wakes `wait_until`.
    counted: Condvar,
    /// Signalled by `clear`: ends the requests that hang.
    cleared: watch::Sender<()>,
}

#[derive(Debug)]
struct State {
    rules: Vec<Rule>,
    outage: Option<Fault>,
    latency: Duration,
    jitter: Duration,
    random: fastrand::Rng,
    counts: Counts,
    seen: VecDeque<Seen>,
    /// The number of the first request in `seen`; the first of all has 0.
    seen_from: u64,
}

impl FaultProxy {
    /// Starts a proxy in front of `upstream` on a free port; all chance comes from `seed`.
    ///
    /// # Errors
    /// When no port or thread is to be had.
    pub fn start(upstream: SocketAddr, seed: u64) -> Result<Self> {
        Self::start_on(0, upstream, seed)
    }

    /// Starts a proxy on `port` of 127.0.0.1.
    ///
    /// # Errors
    /// When the port is taken or no thread is to be had.
    pub fn start_on(port: u16, upstream: SocketAddr, seed: u64) -> Result<Self> {
        let state = State {
            rules: Vec::new(),
            outage: None,
            latency: Duration::ZERO,
            jitter: Duration::ZERO,
            random: fastrand::Rng::with_seed(seed),
            counts: Counts::default(),
            seen: VecDeque::new(),
            seen_from: 0,
        };
        let shared = Arc::new(Shared {
            upstream,
            state: Mutex::new(state),
            counted: Condvar::new(),
            cleared: watch::Sender::new(()),
        });
        let serving = Serving::start("fault-proxy", port, {
            let shared = shared.clone();
            move |listener| forward::accept(listener, shared)
        })?;
        Ok(Self { serving, shared })
    }

    /// `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.serving.addr())
    }

    /// `127.0.0.1:PORT`.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.serving.addr()
    }

    /// Adds a rule; the first one that matches a request decides.
    pub fn inject(&self, rule: Rule) {
        self.shared.state().rules.push(rule);
    }

    /// Ends all rules, the outage and the latency, and resets what hangs.
    pub fn clear(&self) {
        self.shared.clear();
    }

    /// Begins (`Some`) or ends (`None`) an outage: every request meets this fault, whatever the rules say.
    pub fn outage(&self, fault: Option<Fault>) {
        self.shared.state().outage = fault;
    }

    /// Delays each request by `latency` plus up to `jitter` before it is forwarded.
    pub fn delay(&self, latency: Duration, jitter: Duration) {
        let mut state = self.shared.state();
        (state.latency, state.jitter) = (latency, jitter);
    }

    /// What came until now.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.shared.state().counts.clone()
    }

    /// The latest 65,536 requests.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.state().seen.iter().cloned().collect()
    }

    /// Forgets counts and requests.
    pub fn reset_counts(&self) {
        let mut state = self.shared.state();
        state.counts = Counts::default();
        state.seen_from += state.seen.len() as u64;
        state.seen.clear();
    }

    /// Blocks until `done` says so of the counts; false when that took longer than `timeout`.
    #[must_use]
    pub fn wait_until(&self, timeout: Duration, mut done: impl FnMut(&Counts) -> bool) -> bool {
        let deadline = Instant::now() + timeout;
        let mut state = self.shared.state();
        while !done(&state.counts) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            (state, _) =
                self.shared.counted.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner);
        }
        true
    }

    /// Serves [`Command`]s, one JSON text a line, on `port` of 127.0.0.1, until the process is killed.
    ///
    /// # Errors
    /// When the port is taken.
    pub fn run_forever(self, port: u16, on_ready: impl FnOnce(SocketAddr) -> Result<()>) -> Result<()> {
        control::serve(&self, port, on_ready)
    }
}

impl Shared {
    /// The state stays whole when a panicking test poisons the lock: every change of it is one assignment.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn clear(&self) {
        let mut state = self.state();
        state.rules.clear();
        state.outage = None;
        (state.latency, state.jitter) = (Duration::ZERO, Duration::ZERO);
        drop(state);
        self.cleared.send_replace(());
    }

    /// Counts a request that arrives; returns its number, how long it waits and what it meets.
    fn arrive(&self, kind: Kind, path: &str, headers: &HeaderMap) -> (u64, Duration, Option<Fault>) {
        let conditional = headers.contains_key("if-none-match") || headers.contains_key("if-match");
        let unsigned_payload =
            headers.get("x-amz-content-sha256").is_some_and(|value| value == "UNSIGNED-PAYLOAD");
        let session_token = headers.get("x-amz-security-token").and_then(|value| value.to_str().ok());
        let session_token = session_token.map(str::to_owned);
        let mut state = self.state();
        let fault = state.outage.or_else(|| state.caught(kind, path));
        let delay = state.latency + state.jitter.mul_f64(state.random.f64());
        if state.seen.len() == SEEN_LIMIT {
            state.seen.pop_front();
            state.seen_from += 1;
        }
        let number = state.seen_from + state.seen.len() as u64;
        let (path, succeeded_ns) = (path.to_owned(), None);
        state.seen.push_back(Seen {
            kind,
            path,
            conditional,
            unsigned_payload,
            session_token,
            fault,
            succeeded_ns,
        });
        drop(state);
        self.count(kind, |count| {
            count.requests += 1;
            count.faults += u64::from(fault.is_some());
        });
        (number, delay, fault)
    }

    /// Counts and stamps a success.
    fn succeed(&self, kind: Kind, number: u64) {
        let now = clock::monotonic_ns();
        let mut state = self.state();
        let place = number.checked_sub(state.seen_from).and_then(|place| usize::try_from(place).ok());
        if let Some(seen) = place.and_then(|place| state.seen.get_mut(place)) {
            seen.succeeded_ns = Some(now);
        }
        drop(state);
        self.count(kind, |count| count.succeeded += 1);
    }

    fn count(&self, kind: Kind, change: impl FnOnce(&mut Count)) {
        change(self.state().counts.0.entry(kind).or_default());
        self.counted.notify_all();
    }
}

impl State {
    fn caught(&mut self, kind: Kind, path: &str) -> Option<Fault> {
        for rule in &mut self.rules {
            if rule.matches(kind, path) && (rule.probability >= 1.0 || self.random.f64() < rule.probability) {
                if let Some(times) = &mut rule.times {
                    *times -= 1;
                }
                return Some(rule.fault);
            }
        }
        None
    }
}
