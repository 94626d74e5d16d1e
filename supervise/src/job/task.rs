//! The task of one job: does what the machine says.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use litekeep_env::file::replace;
use litekeep_env::process::Exit;
use litekeep_env::random_u64;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use super::machine::{Action, Event, Machine, Now, Reason, Settings};
use super::{Entry, Job, Outcome, Running, Status};
use crate::error::{Error, Result};
use crate::events::Kind;
use crate::handle::Reply;
use crate::log::Log;
use crate::process::{Context, Spec};
use crate::run::{self, Run};
use crate::survivors::Survivor;

/// How long a run waits for its due moment to be written down.
const WRITE_PATIENCE: Duration = Duration::from_secs(1);

/// A run under way.
struct Live {
    due_ms: Option<i64>,
    begun_ms: i64,
    /// Why the machine ended it.
    reason: Option<Reason>,
    end: Option<oneshot::Sender<()>>,
    over: JoinHandle<Over>,
}

/// How a run ended.
struct Over {
    outcome: Outcome,
    last_words: String,
    /// What is left of it.
    left: Result<()>,
}

/// What a job is asked.
pub enum Request {
    /// To run when it is due.
    Start,
    /// To run now.
    Run,
    /// To end.
    Stop,
    /// To end its run.
    EndRun,
    /// To be another one from the next run on.
    Change(Box<Job>),
}

pub(super) struct Task {
    name: Arc<str>,
    spec: Arc<Spec>,
    state: Option<PathBuf>,
    history: usize,
    log: Log,
    context: Context,
    status: watch::Sender<Status>,
    machine: Machine,
    /// What steady time counts from: wall time and boot time of the same moment.
    origin: (i64, Duration),
    live: Option<Live>,
    /// Who waits for the end of the run.
    stopping: Vec<Reply>,
}

impl Task {
    pub(super) fn new(job: Job, log: Log, context: Context, status: watch::Sender<Status>) -> Task {
        let origin = (context.clock.unix_ms(), context.clock.boottime());
        let settings = Settings::of(&job);
        Task {
            name: job.name.into(),
            spec: Arc::new(job.spec),
            state: job.state,
            history: job.history,
            log,
            context,
            status,
            machine: Machine::new(settings),
            origin,
            live: None,
            stopping: Vec::new(),
        }
    }

    pub(super) async fn run(
        mut self,
        mut requests: mpsc::Receiver<(Request, Reply)>,
        survivor: Option<Survivor>,
    ) {
        if let Some(survivor) = survivor {
            self.adopt(survivor).await;
        }
        loop {
            self.publish();
            let wake = self.machine.wake_in(self.now());
            tokio::select! {
                () = tokio::time::sleep(wake) => {
                    self.step(Event::Look).await;
                }
                over = over(&mut self.live) => {
                    self.record_end(over);
                    self.step(Event::Ended).await;
                }
                request = requests.recv() => match request {
                    Some((request, reply)) => self.answer(request, reply).await,
                    None => {
                        self.step(Event::Stop).await;
                        if self.live.is_some() {
                            over(&mut self.live).await;
                        }
                        return;
                    }
                },
            }
        }
    }

    fn now(&self) -> Now {
        let passed = self.context.clock.boottime().saturating_sub(self.origin.1);
        Now {
            wall_ms: self.context.clock.unix_ms(),
            steady_ms: self.origin.0.saturating_add(passed.as_millis() as i64),
        }
    }

    async fn answer(&mut self, request: Request, reply: Reply) {
        match request {
            Request::Start => {
                let last_ms = self.last_due().await;
                self.step(Event::Begin { last_ms }).await;
                _ = reply.send(Ok(()));
            }
            Request::Run => {
                let refused = self.step(Event::Asked).await;
                let process = self.name.to_string();
                let refused =
                    refused.map(|reason| Error::Unready { process, reason: format!("left out: {reason}") });
                _ = reply.send(refused.map_or(Ok(()), Err));
            }
            Request::Change(job) => {
                let changed = self.log.reconfigure(job.log.clone());
                if changed.is_ok() {
                    self.machine.change(Settings::of(&job));
                    self.status.send_modify(|status| status.when.clone_from(&job.when));
                    (self.spec, self.state, self.history) = (Arc::new(job.spec), job.state, job.history);
                }
                _ = reply.send(changed);
            }
            Request::Stop | Request::EndRun => {
                let is_stop = matches!(request, Request::Stop);
                self.step(if is_stop { Event::Stop } else { Event::EndRun }).await;
                if self.live.is_some() {
                    self.stopping.push(reply);
                } else {
                    _ = reply.send(Ok(()));
                }
            }
        }
    }

    /// Tells the machine and does what it says; why a run that somebody asked for is left out.
    async fn step(&mut self, event: Event) -> Option<&'static str> {
        let mut refused = None;
        for action in self.machine.step(event, self.now(), random_u64()) {
            match action {
                Action::Start { due_ms } => self.start(due_ms),
                Action::End(reason) => {
                    if let Some(live) = &mut self.live {
                        live.reason = Some(reason);
                        live.end = None;
                    }
                }
                Action::Skip { due_ms: None, reason } => refused = Some(reason),
                Action::Skip { due_ms: Some(due_ms), reason } => {
                    let due_ms = self.to_wall(due_ms);
                    self.context.events.tell(&self.name, Kind::JobSkipped, reason);
                    let ended_ms = self.context.clock.unix_ms();
                    let outcome = Outcome::Skipped(reason.into());
                    let last_words = String::new();
                    self.record(Entry {
                        due_ms: Some(due_ms),
                        started_ms: None,
                        ended_ms,
                        outcome,
                        last_words,
                    });
                }
                Action::Remember { up_to_ms } => self.remember(up_to_ms).await,
            }
        }
        refused
    }

    /// A moment of the schedule's clock by the wall clock.
    fn to_wall(&self, moment_ms: i64) -> i64 {
        let now = self.now();
        let apart = now.wall_ms - self.machine.time(now);
        // Both clocks round; only a jump is worth telling.
        if apart.abs() < 1000 { moment_ms } else { moment_ms + apart }
    }

    fn publish(&self) {
        let next_due_ms = self.machine.next_due_ms().map(|due| self.to_wall(due));
        let is_queued = self.machine.is_queued();
        self.status.send_if_modified(|status| {
            let changed = (status.next_due_ms, status.is_queued) != (next_due_ms, is_queued);
            (status.next_due_ms, status.is_queued) = (next_due_ms, is_queued);
            changed
        });
    }

    fn start(&mut self, due_ms: Option<i64>) {
        let instance = self.context.next_instance(&self.name);
        let due_ms = due_ms.map(|due| self.to_wall(due));
        let begun_ms = self.context.clock.unix_ms();
        let running = Running { instance: instance.clone(), pid: None, due_ms, since_ms: begun_ms };
        self.status.send_modify(|status| status.running = Some(running));
        let (end, ended) = oneshot::channel();
        let (name, spec, log, context) =
            (self.name.clone(), self.spec.clone(), self.log.clone(), self.context.clone());
        let status = self.status.clone();
        let over = tokio::spawn(async move {
            match Run::start(&name, instance, spec, &log, &context).await {
                Ok(run) => {
                    let pid = run.tree.pid();
                    context.events.tell(&name, Kind::JobStarted, format!("process {pid}"));
                    status.send_modify(|status| {
                        if let Some(running) = &mut status.running {
                            running.pid = Some(pid);
                        }
                    });
                    attend(&name, run, ended, &log).await
                }
                Err(error) => Over {
                    outcome: Outcome::NotStarted(error.to_string()),
                    last_words: String::new(),
                    left: Ok(()),
                },
            }
        });
        self.live = Some(Live { due_ms, begun_ms, reason: None, end: Some(end), over });
    }

    /// Goes on with a run of an earlier litekeep, if it still lives. When it was due is not known any more.
    async fn adopt(&mut self, survivor: Survivor) {
        let run = match Run::adopt(&survivor, self.spec.clone(), &self.log, &self.context).await {
            Ok(Some(run)) => run,
            Ok(None) => return,
            Err(error) => return self.context.events.tell(&self.name, Kind::Warning, error.to_string()),
        };
        let (pid, begun_ms) = (run.tree.pid(), run.begun_ms);
        self.context.events.tell(&self.name, Kind::Adopted, format!("process {pid}"));
        self.machine.adopt(self.now(), run.begun.elapsed());
        let running =
            Running { instance: survivor.instance, pid: Some(pid), due_ms: None, since_ms: begun_ms };
        self.status.send_modify(|status| status.running = Some(running));
        let (end, ended) = oneshot::channel();
        let (name, log) = (self.name.clone(), self.log.clone());
        let over = tokio::spawn(async move { attend(&name, run, ended, &log).await });
        self.live = Some(Live { due_ms: None, begun_ms, reason: None, end: Some(end), over });
    }

    fn record_end(&mut self, over: Over) {
        let Some(live) = self.live.take() else { return };
        let outcome = match live.reason {
            Some(Reason::TimedOut) => Outcome::TimedOut,
            Some(Reason::Overtaken) => Outcome::Overtaken,
            Some(Reason::Stopped) => Outcome::Stopped,
            None => over.outcome,
        };
        let ended_ms = self.context.clock.unix_ms();
        let started_ms = (!matches!(outcome, Outcome::NotStarted(_))).then_some(live.begun_ms);
        let kind = if outcome.is_good() { Kind::JobEnded } else { Kind::JobFailed };
        let words = match over.last_words.as_str() {
            words if !outcome.is_good() && !words.is_empty() => format!(": {words}"),
            _ => String::new(),
        };
        self.context.events.tell(&self.name, kind, format!("{outcome}{words}"));
        if let Err(error) = &over.left {
            tracing::error!("{error}");
        }
        self.status.send_modify(|status| status.running = None);
        self.record(Entry {
            due_ms: live.due_ms,
            started_ms,
            ended_ms,
            outcome,
            last_words: over.last_words,
        });
        for reply in self.stopping.drain(..) {
            _ = reply.send(over.left.clone());
        }
    }

    fn record(&self, entry: Entry) {
        self.status.send_modify(|status| {
            status.history.push_back(entry);
            while status.history.len() > self.history {
                status.history.pop_front();
            }
        });
    }

    async fn last_due(&self) -> Option<i64> {
        let path = self.state.clone()?;
        let read = move || std::fs::read_to_string(path).ok()?.trim().parse().ok();
        tokio::task::spawn_blocking(read).await.ok()?
    }

    /// Writes down up to where the schedule was dealt with. A disk that hangs delays the run only for a moment.
    async fn remember(&self, up_to_ms: i64) {
        let Some(path) = self.state.clone() else { return };
        let name = self.name.clone();
        let write = move || {
            let parent = path.parent().unwrap_or(Path::new(""));
            let text = format!("{up_to_ms}\n");
            let written = std::fs::create_dir_all(parent).and_then(|()| replace(&path, text.as_bytes()));
            if let Err(error) = written {
                tracing::warn!(
                    "could not write when the job `{name}` was due to `{}`: {error}; it may run twice after a crash",
                    path.display()
                );
            }
        };
        _ = tokio::time::timeout(WRITE_PATIENCE, tokio::task::spawn_blocking(write)).await;
    }
}

/// Waits for the end of the run; for ever if there is none.
async fn over(live: &mut Option<Live>) -> Over {
    match live {
        Some(live) => (&mut live.over).await.expect("a run's task does not panic"),
        None => std::future::pending().await,
    }
}

/// Waits until a run ends, is unfit or is to end (its sender is dropped), and ends all of it.
async fn attend(name: &str, mut run: Run, mut ended: oneshot::Receiver<()>, log: &Log) -> Over {
    let (mut outcome, first_line) = (None, run.first_line);
    while outcome.is_none() {
        tokio::select! {
            event = run.next() => match event {
                run::Event::Exited(exit) => {
                    // The leader may end well whose child was killed, as a shell does after a pipe.
                    let no_memory = run.tree.group().ran_out_of_memory();
                    let unfit = no_memory.map(|killed| Outcome::Unfit(format!("{killed}; {exit}")));
                    outcome = Some(unfit.unwrap_or(Outcome::Exited(exit)));
                }
                run::Event::Unfit(reason) => outcome = Some(Outcome::Unfit(reason)),
                run::Event::Ready
                | run::Event::Unready(_)
                | run::Event::Unclear(_)
                | run::Event::Asked(..) => {}
            },
            _ = &mut ended => break,
        }
    }
    let (exit, left) = run.stop(name).await;
    let outcome = outcome.unwrap_or(Outcome::Exited(exit.unwrap_or(Exit::Signal(0))));
    Over { outcome, last_words: log.last_words(first_line).unwrap_or_default(), left }
}
