//! One process: a task of its own that starts, watches, stops, restarts and replaces it.
//!
//! A slow start, stop or check is awaited here and nowhere else, so it delays no other process. Each run has an instance name that
//! no other run ever has. Everything that one run started has ended before the next one starts, except in a reload, where the
//! new run must be ready before the old one is asked to end; it is cared for from then on, however long the old one takes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use futures::future::BoxFuture;
use litekeep_env::Clock;
use litekeep_env::process::{Exit, Pid, signal_number};
use tokio::sync::watch;

use crate::cgroup::{Cgroups, Limits};
use crate::error::Result;
use crate::events::Events;
use crate::front::Front;
use crate::handle::Handle;
use crate::health::{Answer, Check, Probe};
use crate::limits::Memory;
use crate::log::Log;
use crate::policy;
use crate::spawn::Spawn;
use crate::survivors::{Folder, Survivor};
use task::{Request, Task};

mod replace;
mod task;

/// What a process is and how it is cared for.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Command and surroundings.
    pub spawn: Spawn,
    /// When it is started again.
    pub policy: policy::Settings,
    /// Waited once its conditions are met, before the first start.
    pub start_delay: Duration,
    /// The signal that asks it to end.
    pub stop_signal: i32,
    /// How long its processes may take to end before they are killed.
    pub stop_timeout: Duration,
    /// Whether a run may be used. Without it a run that has lived for `settle` is ready.
    pub readiness: Option<Check>,
    /// Whether a run is to be ended and started anew.
    pub liveness: Option<Check>,
    /// How long a run without a readiness check must live to be ready.
    pub settle: Duration,
    /// How long the new run of a reload may take to become ready.
    pub ready_timeout: Duration,
    /// The limit on the memory of all its processes.
    pub memory: Option<Memory>,
    /// How many processors all its processes may use together: 0.5 is half of one.
    pub cpu: Option<f64>,
    /// Whether the new run of a reload is started beside the old one. If not, the old one ends first, and comes back if the
    /// new one does not become ready.
    pub overlaps: bool,
    /// Who hands requests to its runs.
    pub front: Option<Arc<dyn Front>>,
}

impl Spec {
    /// A process with the usual care.
    pub fn new(spawn: Spawn) -> Spec {
        Spec {
            spawn,
            policy: policy::Settings::default(),
            start_delay: Duration::ZERO,
            stop_signal: signal_number("TERM").expect("a known signal"),
            stop_timeout: Duration::from_secs(10),
            readiness: None,
            liveness: None,
            settle: Duration::from_secs(1),
            ready_timeout: Duration::from_secs(60),
            memory: None,
            cpu: None,
            overlaps: true,
            front: None,
        }
    }
}

impl Spec {
    /// Whether a run says itself when it is ready.
    pub(crate) fn is_notified(&self) -> bool {
        self.readiness.as_ref().is_some_and(|check| matches!(check.probe, Probe::Notify))
    }

    /// A number that is another one when a run of it would be another one.
    pub(crate) fn fingerprint(&self) -> u64 {
        let bits = [self.is_notified(), self.cpu.is_some(), self.front.is_some()];
        let bits = bits.into_iter().enumerate().map(|(at, bit)| u64::from(bit) << at);
        bits.fold(self.spawn.fingerprint(), |all, bit| all ^ bit)
    }

    pub(crate) fn limits(&self) -> Limits {
        Limits { memory: self.memory.map(|memory| memory.max), cpu: self.cpu }
    }

    /// Whether a run of the other one would be the same, with the very same sockets and front.
    pub(crate) fn has_same_run(&self, other: &Spec) -> bool {
        let has_same_front = match (&self.front, &other.front) {
            (Some(own), Some(others)) => Arc::ptr_eq(own, others),
            (own, others) => own.is_none() && others.is_none(),
        };
        has_same_front
            && self.fingerprint() == other.fingerprint()
            && self.spawn.has_same_sockets(&other.spawn)
    }

    /// Whether what is done for a run, and with it, is the same; a closure is never taken for the same.
    pub(crate) fn has_same_care(&self, other: &Spec) -> bool {
        let care = |spec: &Spec| {
            let Spec {
                spawn: _,
                policy,
                start_delay,
                stop_signal,
                stop_timeout,
                readiness,
                liveness,
                settle,
                ready_timeout,
                memory,
                cpu,
                overlaps,
                front,
            } = spec;
            let front = front.as_ref().map(Arc::as_ptr);
            format!(
                "{policy:?}{start_delay:?}{stop_signal}{stop_timeout:?}{readiness:?}{liveness:?}{settle:?}{ready_timeout:?}{memory:?}{cpu:?}{overlaps}{front:?}"
            )
        };
        let mut checks = [&self.readiness, &self.liveness].into_iter().flatten();
        care(self) == care(other) && !checks.any(|check| matches!(check.probe, Probe::Closure(_)))
    }
}

/// Where a process stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// For its conditions or its start delay, or for its next start after it ended well.
    Waiting,
    /// It runs and is not ready yet.
    Starting,
    /// It runs and is ready.
    Healthy,
    /// It runs, and its readiness check fails.
    Unhealthy,
    /// It was asked to end.
    Stopping,
    /// It ended badly and starts again after a wait.
    BackingOff,
    /// It ended too often, or badly and for good. In the first case it is still tried again, slowly.
    Failed,
    /// It ended well, and nothing more is to be done.
    Completed,
    /// Somebody stopped it.
    Stopped,
}

/// A process at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Where it stands.
    pub state: State,
    /// Why; empty if there is nothing to say.
    pub reason: String,
    /// Since when, in milliseconds since the Unix epoch.
    pub since_ms: i64,
    /// The process id of the run.
    pub pid: Option<Pid>,
    /// The name of the run.
    pub instance: Option<String>,
    /// When the run began, in milliseconds since the Unix epoch.
    pub started_ms: Option<i64>,
    /// How many runs followed another one that ended by itself or was unfit.
    pub restarts: u64,
    /// Why the last of them was needed.
    pub restart_reason: String,
    /// How the last run ended.
    pub last_exit: Option<Exit>,
    /// How the run's last probe for readiness went.
    pub readiness: Option<Answer>,
    /// The same for liveness.
    pub liveness: Option<Answer>,
    /// The run was taken over from an earlier litekeep and started from other settings: a reload gives it these.
    pub needs_reload: bool,
}

/// Something that must hold before the first start.
#[derive(Clone)]
pub struct Condition {
    /// What is waited for, for the status.
    pub what: String,
    /// Waits until it holds, or says why it cannot; then it is asked again, slowly.
    pub met: Arc<dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync>,
}

/// What processes share.
#[derive(Clone)]
pub struct Context {
    /// Wall time for the status.
    pub clock: Arc<dyn Clock>,
    /// Where each run gets a group of its own.
    pub cgroups: Cgroups,
    /// Tells this supervisor's runs from any other's.
    pub id: String,
    /// Where it is told what happens.
    pub events: Events,
    /// Where runs are written down for the next litekeep.
    pub folder: Option<Arc<Folder>>,
    /// How many runs there were, for their names.
    pub runs: Arc<AtomicU64>,
}

impl Context {
    /// The name of the next run of a process or a job. One that comes anew under an old name repeats none.
    pub(crate) fn next_instance(&self, name: &str) -> String {
        format!("{name}:{}:{}", self.id, self.runs.fetch_add(1, Relaxed) + 1)
    }
}

/// A handle on a process. When the last one is dropped, the process is stopped.
pub type Process = Handle<Request, Status>;

impl Process {
    /// Takes a process into care, which may have a run of an earlier litekeep; it starts when it is asked to.
    pub(crate) fn new(
        name: &str,
        spec: Spec,
        conditions: Vec<Condition>,
        log: Log,
        context: Context,
        survivor: Option<Survivor>,
    ) -> Process {
        let status = watch::Sender::new(Status {
            state: State::Stopped,
            reason: String::new(),
            since_ms: context.clock.unix_ms(),
            pid: None,
            instance: None,
            started_ms: None,
            restarts: 0,
            restart_reason: String::new(),
            last_exit: None,
            readiness: None,
            liveness: None,
            needs_reload: false,
        });
        let (process, requests) = Process::open(name, log, &status);
        let task = Task::new(&process, spec, conditions, context, status, requests);
        tokio::spawn(task.run(survivor));
        process
    }

    /// Starts it unless it runs. Returns at once: the status tells what became of it.
    pub async fn start(&self) -> Result<()> {
        self.ask(Request::Start).await
    }

    /// Ends all of it, and returns when that is done.
    pub async fn stop(&self) -> Result<()> {
        self.ask(Request::Stop).await
    }

    /// Ends it and starts it at once; returns when the program is executed.
    pub async fn restart(&self) -> Result<()> {
        self.ask(Request::Restart).await
    }

    /// Replaces it: the new run is ready before the old one is asked to end, and if it does not become ready, the old one goes on.
    /// One that was stopped stays so, and starts with these settings the next time.
    pub async fn reload(&self, spec: Spec) -> Result<()> {
        self.ask(Request::Reload(Arc::new(spec))).await
    }

    /// Replaces it as [`Process::reload`] does, with the settings that it has. One that was stopped stays so.
    pub async fn renew(&self) -> Result<()> {
        self.ask(Request::Renew).await
    }

    /// Cares for it as `spec` says from now on; the run stays.
    pub(crate) async fn adjust(&self, spec: Spec, conditions: Vec<Condition>) -> Result<()> {
        self.ask(Request::Adjust(Arc::new(spec), conditions)).await
    }
}
