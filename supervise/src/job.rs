//! Jobs: what runs now and then.
//!
//! [`machine`] decides, purely, what a due moment means; the task of each job carries it out. A run is a tree with a log and limits
//! as a process's run is. The last due moment that was dealt with is kept in a file, if one is given: written before the run
//! starts, so a litekeep that dies in the middle of a run does not begin it again.

use std::collections::VecDeque;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use litekeep_config::Overlap;
use litekeep_env::process::{Exit, Pid};
use tokio::sync::watch;

use crate::error::Result;
use crate::log::{self, Log};
use crate::process::{Context, Spec};
use crate::survivors::Survivor;
use task::{Request, Task};

mod machine;
mod task;

/// The first due moment after another one, both in milliseconds since the Unix epoch; none if there is none any more.
pub type NextDue = Arc<dyn Fn(i64) -> Option<i64> + Send + Sync>;

/// When a job is due.
#[derive(Clone)]
pub enum Schedule {
    /// This long after the moment before; the wall clock does not matter.
    Every(Duration),
    /// By the wall clock.
    At(NextDue),
}

impl fmt::Debug for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Schedule::Every(interval) => write!(f, "Every({interval:?})"),
            Schedule::At(_) => f.write_str("At"),
        }
    }
}

/// What runs now and then.
#[derive(Clone)]
pub struct Job {
    /// Its name, which no service has.
    pub name: String,
    /// What it is. Restart policy, checks and start delay mean nothing here.
    pub spec: Spec,
    /// When it is due.
    pub schedule: Schedule,
    /// The same in words, for its status.
    pub when: String,
    /// What happens when it is due while it still runs.
    pub overlap: Overlap,
    /// A run that takes longer is ended.
    pub timeout: Option<Duration>,
    /// Each run starts at a random moment within this time after it is due.
    pub jitter: Duration,
    /// Whether one that was due while nobody cared for it is made up for, once.
    pub catch_up: bool,
    /// How many runs its history holds.
    pub history: usize,
    /// Where the last due moment is kept.
    pub state: Option<PathBuf>,
    /// Where its output goes.
    pub log: log::Settings,
}

impl Job {
    /// A job with the usual care.
    pub fn new(name: &str, spec: Spec, schedule: Schedule) -> Job {
        Job {
            name: name.into(),
            spec,
            schedule,
            when: String::new(),
            overlap: Overlap::default(),
            timeout: None,
            jitter: Duration::ZERO,
            catch_up: false,
            history: 20,
            state: None,
            log: log::Settings::default(),
        }
    }
}

/// What became of a due moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It ended by itself.
    Exited(Exit),
    /// It took too long and was ended.
    TimedOut,
    /// It was ended for the next one.
    Overtaken,
    /// It was ended because the job was stopped.
    Stopped,
    /// It was ended because it used too much.
    Unfit(String),
    /// It could not be started.
    NotStarted(String),
    /// It was left out.
    Skipped(String),
}

impl Outcome {
    /// Exit code 0.
    pub fn is_good(&self) -> bool {
        matches!(self, Outcome::Exited(exit) if exit.is_clean())
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Exited(exit) => exit.fmt(f),
            Outcome::TimedOut => f.write_str("it took too long and was ended"),
            Outcome::Overtaken => f.write_str("it was ended for the next one"),
            Outcome::Stopped => f.write_str("it was stopped"),
            Outcome::Unfit(reason) => write!(f, "it was ended: {reason}"),
            Outcome::NotStarted(reason) => write!(f, "it could not be started: {reason}"),
            Outcome::Skipped(reason) => write!(f, "left out: {reason}"),
        }
    }
}

/// One entry of a job's history; all times in milliseconds since the Unix epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// When it was due; none if somebody asked for it.
    pub due_ms: Option<i64>,
    /// When it was started; none if it was not.
    pub started_ms: Option<i64>,
    /// When it was over.
    pub ended_ms: i64,
    /// What became of it.
    pub outcome: Outcome,
    /// The last line that it printed.
    pub last_words: String,
}

/// A run that goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    /// Its name.
    pub instance: String,
    /// The process id, once it is started.
    pub pid: Option<Pid>,
    /// When it was due; none if somebody asked for it.
    pub due_ms: Option<i64>,
    /// Since when it runs.
    pub since_ms: i64,
}

/// A job at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// When it is due, in the words of its job.
    pub when: String,
    /// When it is due next, in milliseconds since the Unix epoch; none while it is stopped, or if it is never due again.
    pub next_due_ms: Option<i64>,
    /// The run that goes on.
    pub running: Option<Running>,
    /// Whether one waits for its end.
    pub is_queued: bool,
    /// What was, the newest last.
    pub history: VecDeque<Entry>,
}

/// A handle on a job. When the last one is dropped, the job is stopped.
pub type Handle = crate::handle::Handle<Request, Status>;

impl Handle {
    /// Takes a job into care; it runs from when it is started. There may be a run of an earlier litekeep.
    pub(crate) fn new(job: Job, log: Log, context: Context, survivor: Option<Survivor>) -> Handle {
        let status = watch::Sender::new(Status { when: job.when.clone(), ..Status::default() });
        let (handle, requests) = Handle::open(&job.name, log.clone(), &status);
        tokio::spawn(Task::new(job, log, context, status).run(requests, survivor));
        handle
    }

    /// From now on it runs when it is due.
    pub async fn start(&self) -> Result<()> {
        self.ask(Request::Start).await
    }

    /// Runs it now, or as its overlap says. Returns at once: the status tells what becomes of it.
    pub async fn run(&self) -> Result<()> {
        self.ask(Request::Run).await
    }

    /// Ends what runs and lets nothing start any more; returns when that is done.
    pub async fn stop(&self) -> Result<()> {
        self.ask(Request::Stop).await
    }

    /// Ends what runs or waits to; its schedule stays. Returns when that is done.
    pub async fn end_run(&self) -> Result<()> {
        self.ask(Request::EndRun).await
    }

    /// From the next run on it is as `job` says. What was due and dealt with is not due again.
    pub(crate) async fn change(&self, job: Job) -> Result<()> {
        self.ask(Request::Change(Box::new(job))).await
    }
}
