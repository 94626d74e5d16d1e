//! Where everything stands, as it is asked for over the socket.

use std::path::PathBuf;
use std::sync::atomic::Ordering::SeqCst;

use litekeep_env::{Clock, SystemClock};
use litekeep_supervise::health::Answer;
use litekeep_supervise::{Process, State, job};
use serde::{Deserialize, Serialize};

use super::Stack;
use super::jobs::Known;
use crate::cluster::Copied;
use crate::report::text;

/// A running stack.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct StackStatus {
    /// The process id of `litekeep up`.
    pub(crate) pid: u32,
    /// Whether the databases were fit and the processes have been started.
    pub(crate) up: bool,
    pub(crate) started: String,
    /// Where it keeps its socket and logs.
    pub(crate) state_dir: PathBuf,
    pub(crate) processes: Vec<ProcessStatus>,
    pub(crate) jobs: Vec<JobStatus>,
    /// In a cluster.
    pub(crate) node: Option<NodeStatus>,
}

/// A node of a cluster.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct NodeStatus {
    pub(crate) name: String,
    /// `replica`, `promoting`, `primary` or `fencing`.
    pub(crate) role: String,
    pub(crate) epoch: Option<u64>,
    pub(crate) primary: Option<String>,
    /// What is wrong.
    pub(crate) trouble: Option<String>,
}

/// One process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ProcessStatus {
    pub(crate) name: String,
    /// `waiting`, `starting`, `healthy`, `unhealthy`, `stopping`, `backing_off`, `failed`, `completed` or `stopped`.
    pub(crate) state: String,
    /// Why; empty when there is nothing to say.
    pub(crate) reason: String,
    /// Since when it is in this state.
    pub(crate) since: String,
    pub(crate) pid: Option<i32>,
    /// The name of this run, which no other run ever has.
    pub(crate) instance: Option<String>,
    /// Since when it runs.
    pub(crate) started: Option<String>,
    /// How often it was started again after it ended by itself or was unfit.
    pub(crate) restarts: u64,
    /// Why it was the last time.
    pub(crate) restart_reason: String,
    /// How the last run ended.
    pub(crate) last_exit: Option<String>,
    /// The last probe of `health`, and of `liveness`.
    pub(crate) health: Option<Probed>,
    pub(crate) liveness: Option<Probed>,
    /// It was taken over from an earlier litekeep and runs by other settings than the configuration has now.
    pub(crate) needs_reload: bool,
}

/// How a probe went.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Probed {
    pub(crate) at: String,
    pub(crate) took_ms: f64,
    pub(crate) ok: bool,
}

impl From<Answer> for Probed {
    fn from(answer: Answer) -> Probed {
        // Microseconds are enough.
        let took_ms = answer.took.as_micros() as f64 / 1000.0;
        Probed { at: text::rfc3339(answer.at_ms), took_ms, ok: answer.is_good }
    }
}

/// One job.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct JobStatus {
    pub(crate) name: String,
    pub(crate) schedule: String,
    /// `None` while it is stopped, and when it is never due again.
    pub(crate) next_due: Option<String>,
    /// Since when it runs.
    pub(crate) running_since: Option<String>,
    /// The newest first.
    pub(crate) history: Vec<JobRun>,
}

/// What became of a due moment.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct JobRun {
    /// `None` when somebody asked for it.
    pub(crate) due: Option<String>,
    /// `None` when it was left out.
    pub(crate) started: Option<String>,
    pub(crate) ended: String,
    pub(crate) ok: bool,
    /// It was left out.
    pub(crate) skipped: bool,
    pub(crate) outcome: String,
    /// The last line that it printed.
    pub(crate) last_words: String,
}

impl JobStatus {
    fn of(job: &Known) -> JobStatus {
        let status = job.handle.status().borrow().clone();
        let run = |entry: &job::Entry| JobRun {
            due: entry.due_ms.map(text::rfc3339),
            started: entry.started_ms.map(text::rfc3339),
            ended: text::rfc3339(entry.ended_ms),
            ok: entry.outcome.is_good(),
            skipped: matches!(entry.outcome, job::Outcome::Skipped(_)),
            outcome: entry.outcome.to_string(),
            last_words: entry.last_words.clone(),
        };
        JobStatus {
            name: job.handle.name().to_owned(),
            schedule: job.schedule.clone(),
            next_due: status.next_due_ms.map(text::rfc3339),
            running_since: status.running.map(|running| text::rfc3339(running.since_ms)),
            history: status.history.iter().rev().map(run).collect(),
        }
    }

    /// The last run that was not left out ended badly.
    pub(crate) fn is_red(&self) -> bool {
        self.history.iter().find(|run| !run.skipped).is_some_and(|run| !run.ok)
    }
}

impl Stack {
    /// How the copies of a node stream.
    pub(crate) fn copied(&self) -> Vec<(PathBuf, Copied)> {
        self.node.get().map(|link| link.copied()).unwrap_or_default()
    }

    pub(crate) fn status(&self) -> StackStatus {
        StackStatus {
            pid: std::process::id(),
            up: self.is_up.load(SeqCst),
            started: text::rfc3339(self.begun_ms),
            state_dir: self.home.dir.clone(),
            processes: self.processes().iter().map(ProcessStatus::of).collect(),
            jobs: self.running().jobs.iter().map(JobStatus::of).collect(),
            node: self.node.get().map(|link| link.status()),
        }
    }
}

impl ProcessStatus {
    fn of(process: &Process) -> ProcessStatus {
        let status = process.status().borrow().clone();
        ProcessStatus {
            name: process.name().to_owned(),
            state: word(status.state).to_owned(),
            reason: status.reason,
            since: text::rfc3339(status.since_ms),
            pid: status.pid,
            instance: status.instance,
            started: status.started_ms.map(text::rfc3339),
            restarts: status.restarts,
            restart_reason: status.restart_reason,
            last_exit: status.last_exit.map(|exit| exit.to_string()),
            health: status.readiness.map(Probed::from),
            liveness: status.liveness.map(Probed::from),
            needs_reload: status.needs_reload,
        }
    }

    /// Whether somebody should look.
    pub(crate) fn is_red(&self) -> bool {
        matches!(self.state.as_str(), "failed" | "unhealthy" | "backing_off")
    }
}

fn word(state: State) -> &'static str {
    match state {
        State::Waiting => "waiting",
        State::Starting => "starting",
        State::Healthy => "healthy",
        State::Unhealthy => "unhealthy",
        State::Stopping => "stopping",
        State::BackingOff => "backing_off",
        State::Failed => "failed",
        State::Completed => "completed",
        State::Stopped => "stopped",
    }
}

impl StackStatus {
    /// What is wrong, in words.
    pub(crate) fn problems(&self) -> Vec<String> {
        let processes = self.processes.iter().filter(|process| process.is_red()).map(|process| {
            let why = [&process.reason, &process.restart_reason].into_iter().find(|why| !why.is_empty());
            let why = why.map_or(String::new(), |why| format!(": {why}"));
            format!("{} is {}{why}", process.name, process.state.replace('_', " "))
        });
        let jobs = self.jobs.iter().filter(|job| job.is_red()).map(|job| {
            let last = job.history.iter().find(|run| run.started.is_some());
            format!("{} did not end well: {}", job.name, last.map_or("", |run| &run.outcome))
        });
        processes.chain(jobs).collect()
    }

    pub(crate) fn is_red(&self) -> bool {
        let is_in_trouble = |node: &NodeStatus| node.trouble.is_some() || node.role == "fencing";
        self.processes.iter().any(ProcessStatus::is_red)
            || self.jobs.iter().any(JobStatus::is_red)
            || self.node.as_ref().is_some_and(is_in_trouble)
    }

    pub(crate) fn text(&self) -> String {
        let now_ms = SystemClock.unix_ms();
        let age = |at: &str| {
            let at: Option<jiff::Timestamp> = at.parse().ok();
            at.map_or_else(String::new, |at| text::age(now_ms - at.as_millisecond()))
        };
        let row = |process: &ProcessStatus| {
            let mut why = process.reason.clone();
            if process.needs_reload {
                why = "its settings have changed: `litekeep reload`".to_owned();
            } else if why.is_empty() && process.restarts > 0 {
                why = format!("restarted because: {}", process.restart_reason);
            }
            vec![
                process.name.clone(),
                process.state.replace('_', " "),
                age(&process.since),
                process.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string()),
                process.restarts.to_string(),
                why,
            ]
        };
        let rows: Vec<_> = self.processes.iter().map(row).collect();
        let mut out = String::new();
        if let Some(NodeStatus { name, role, trouble, .. }) = &self.node {
            let trouble = trouble.as_ref().map_or(String::new(), |trouble| format!("    ! {trouble}\n"));
            out = format!("node {name}: {role}; `litekeep cluster status` shows the others\n{trouble}");
        }
        if !self.up && rows.is_empty() {
            out += "    `litekeep up` makes the databases fit, and runs their migrations; the processes start then\n";
        }
        if !rows.is_empty() {
            out += &text::table(&["PROCESS", "STATE", "FOR", "PID", "RESTARTS", "WHY"], &[2, 3, 4], &rows);
        }
        let row = |job: &JobStatus| {
            let next = match (&job.running_since, &job.next_due) {
                (Some(since), _) => format!("runs since {since}"),
                (None, next) => next.clone().unwrap_or_else(|| "never".to_owned()),
            };
            let last = job.history.first();
            let last = last.map_or_else(String::new, |run| format!("{}: {}", run.ended, run.outcome));
            vec![job.name.clone(), job.schedule.clone(), next, last]
        };
        if !self.jobs.is_empty() {
            let rows: Vec<_> = self.jobs.iter().map(row).collect();
            out.push_str(&text::table(&["JOB", "SCHEDULE", "NEXT", "LAST"], &[], &rows));
        }
        out
    }
}
