//! The task of one process.

use std::sync::Arc;
use std::time::Duration;

use litekeep_env::process::Exit;
use litekeep_env::random_u64;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{Condition, Context, Spec, State, Status};
use crate::error::{Error, Result};
use crate::events::Kind;
use crate::handle::Reply;
use crate::log::Log;
use crate::policy::{self, Action, Policy};
use crate::run::{Event, Of, Run};
use crate::survivors::Survivor;

/// What a process is asked.
pub enum Request {
    /// To run.
    Start,
    /// To end.
    Stop,
    /// To end and to run again.
    Restart,
    /// To be replaced by a run with these settings.
    Reload(Arc<Spec>),
    /// A reload with the settings that it has, unless somebody stopped it.
    Renew,
    /// Other care for the same run, and other conditions of the next first start.
    Adjust(Arc<Spec>, Vec<Condition>),
}

/// What the task does next.
pub(super) enum Phase {
    /// Until somebody asks.
    Rest,
    /// Wait for the conditions and the delay, then start.
    First,
    /// Start after a wait.
    Again(Instant),
    /// Start at once.
    Start(Option<Reply>),
    Running(Box<Run>),
    /// All handles are gone.
    End,
}

pub(super) struct Task {
    pub(super) name: Arc<str>,
    spec: Arc<Spec>,
    conditions: Vec<Condition>,
    log: Log,
    context: Context,
    status: watch::Sender<Status>,
    policy: Policy,
    requests: mpsc::Receiver<(Request, Reply)>,
    /// Whether the next start follows an end that nobody asked for.
    is_again: bool,
    /// Runs that a new one has replaced, which end beside it.
    leaving: JoinSet<Result<()>>,
}

impl Task {
    pub(super) fn new(
        process: &super::Process,
        spec: Spec,
        conditions: Vec<Condition>,
        context: Context,
        status: watch::Sender<Status>,
        requests: mpsc::Receiver<(Request, Reply)>,
    ) -> Task {
        let policy = Policy::new(spec.policy);
        let (name, log, spec) = (process.name().into(), process.log().clone(), Arc::new(spec));
        let leaving = JoinSet::new();
        Task { name, spec, conditions, log, context, status, policy, requests, is_again: false, leaving }
    }

    pub(super) async fn run(mut self, survivor: Option<Survivor>) {
        let mut phase = match survivor {
            Some(survivor) => self.adopt(survivor).await,
            None => Phase::Rest,
        };
        loop {
            phase = match phase {
                Phase::Rest => {
                    let request = self.requests.recv().await;
                    self.answer_without_run(request, Phase::Rest).await
                }
                Phase::First => match self.first().await {
                    Ok(()) => Phase::Start(None),
                    Err(other) => other,
                },
                Phase::Again(at) => tokio::select! {
                    () = tokio::time::sleep_until(at) => Phase::Start(None),
                    request = self.requests.recv() => {
                        self.answer_without_run(request, Phase::Again(at)).await
                    }
                },
                Phase::Start(reply) => self.start(reply).await,
                Phase::Running(run) => self.running(run).await,
                Phase::End => {
                    self.left().await.unwrap_or_else(|error| tracing::error!("{error}"));
                    return;
                }
            };
        }
    }

    /// Goes on with a run of an earlier litekeep, if it still lives.
    async fn adopt(&mut self, survivor: Survivor) -> Phase {
        match Run::adopt(&survivor, self.spec.clone(), &self.log, &self.context).await {
            Ok(Some(run)) => {
                self.set(State::Starting, "taken over from an earlier litekeep");
                self.publish(&run);
                let needs_reload = survivor.fingerprint != Some(self.spec.fingerprint());
                self.status.send_modify(|status| status.needs_reload = needs_reload);
                let changed = if needs_reload { "; its settings changed since: reload it" } else { "" };
                self.tell(Kind::Adopted, format!("process {}{changed}", run.tree.pid()));
                Phase::Running(Box::new(run))
            }
            Ok(None) => Phase::Rest,
            Err(error) => {
                self.tell(Kind::Warning, error.to_string());
                self.set(State::Stopped, error.to_string());
                Phase::Rest
            }
        }
    }

    pub(super) fn set(&self, state: State, reason: impl Into<String>) {
        let (reason, now) = (reason.into(), self.context.clock.unix_ms());
        if matches!(&*self.status.borrow(), status if status.state == state && status.reason == reason) {
            return;
        }
        tracing::info!(process = &*self.name, ?state, reason);
        self.status.send_modify(|status| {
            if status.state != state {
                status.since_ms = now;
            }
            (status.state, status.reason) = (state, reason);
        });
    }

    pub(super) fn tell(&self, kind: Kind, text: impl Into<String>) {
        self.context.events.tell(&self.name, kind, text);
    }

    /// What a request means while nothing runs; `now` is where the process stands. What was never started, or was stopped, starts
    /// only when its conditions hold, whoever asks.
    async fn answer_without_run(&mut self, request: Option<(Request, Reply)>, now: Phase) -> Phase {
        let Some((request, reply)) = request else { return Phase::End };
        let is_start = matches!(request, Request::Start);
        match request {
            Request::Stop => {
                let left = self.left().await;
                if self.status.borrow().state != State::Stopped {
                    self.tell(Kind::Stopped, "");
                }
                self.set(State::Stopped, "");
                _ = reply.send(left);
                return Phase::Rest;
            }
            Request::Adjust(spec, conditions) => {
                self.conditions = conditions;
                self.adjust(spec);
                _ = reply.send(Ok(()));
                return now;
            }
            Request::Reload(_) | Request::Renew if self.status.borrow().state == State::Stopped => {
                if let Request::Reload(spec) = request {
                    self.take_spec(spec);
                }
                _ = reply.send(Ok(()));
                return now;
            }
            Request::Reload(spec) => self.take_spec(spec),
            Request::Start | Request::Restart | Request::Renew => {}
        }
        self.policy.step(policy::Event::Asked);
        self.is_again = false;
        let may_wait = !self.conditions.is_empty() || !self.spec.start_delay.is_zero();
        let waits = may_wait && matches!(now, Phase::Rest | Phase::First);
        if !waits && !is_start {
            return Phase::Start(Some(reply));
        }
        // Whoever asked must not take it for one that is stopped, or has failed again.
        let state = self.status.borrow().state;
        if matches!(state, State::Stopped | State::Failed | State::BackingOff) {
            self.set(if waits { State::Waiting } else { State::Starting }, "");
        }
        _ = reply.send(Ok(()));
        if waits { Phase::First } else { Phase::Start(None) }
    }

    pub(super) fn take_spec(&mut self, spec: Arc<Spec>) {
        self.policy = Policy::new(spec.policy);
        self.spec = spec;
    }

    fn adjust(&mut self, spec: Arc<Spec>) {
        if spec.policy != self.spec.policy {
            self.policy = Policy::new(spec.policy);
        }
        self.spec = spec;
    }

    /// Waits for the conditions and the start delay; the next phase if a request ends the wait.
    async fn first(&mut self) -> Result<(), Phase> {
        for condition in self.conditions.clone() {
            self.set(State::Waiting, format!("for {}", condition.what));
            while let Err(reason) = self.undisturbed((condition.met)()).await? {
                self.set(State::Failed, format!("{}: {reason}", condition.what));
                self.undisturbed(tokio::time::sleep(self.spec.policy.retry)).await?;
            }
        }
        let delay = self.spec.start_delay;
        if !delay.is_zero() {
            self.set(State::Waiting, format!("{delay:?} by its start delay"));
            self.undisturbed(tokio::time::sleep(delay)).await?;
        }
        Ok(())
    }

    /// Waits for something before the first start, and answers requests meanwhile.
    async fn undisturbed<T>(&mut self, what: impl Future<Output = T>) -> Result<T, Phase> {
        tokio::pin!(what);
        loop {
            tokio::select! {
                result = &mut what => return Ok(result),
                request = self.requests.recv() => {
                    // Other conditions are waited for anew; so are those that could not hold, when somebody asks.
                    let has_failed = self.status.borrow().state == State::Failed;
                    let begins_anew = has_failed || matches!(request, Some((Request::Adjust(..), _)));
                    match self.answer_without_run(request, Phase::First).await {
                        Phase::First if !begins_anew => {}
                        other => return Err(other),
                    }
                }
            }
        }
    }

    async fn start(&mut self, reply: Option<Reply>) -> Phase {
        self.set(State::Starting, "");
        let result = self.spawn(self.spec.clone()).await;
        let (phase, answer) = match result {
            Ok(run) => {
                self.publish(&run);
                let kind = if self.is_again { Kind::Restarted } else { Kind::Started };
                self.tell(kind, format!("process {}", run.tree.pid()));
                (Phase::Running(Box::new(run)), Ok(()))
            }
            Err(error) => {
                let unfit = policy::Event::Unfit { ran: Duration::ZERO, chance: random_u64() };
                (self.after(unfit, error.to_string()), Err(error))
            }
        };
        if let Some(reply) = reply {
            _ = reply.send(answer);
        }
        phase
    }

    /// Shows a run as the one that counts.
    pub(super) fn publish(&self, run: &Run) {
        self.status.send_modify(|status| {
            status.pid = Some(run.tree.pid());
            status.instance = Some(run.instance.clone());
            status.started_ms = Some(run.begun_ms);
            (status.readiness, status.liveness) = (None, None);
            status.needs_reload = false;
        });
    }

    /// Starts a run of `spec`, with what watches it.
    pub(super) async fn spawn(&mut self, spec: Arc<Spec>) -> Result<Run> {
        let instance = self.context.next_instance(&self.name);
        Run::start(&self.name, instance, spec, &self.log, &self.context).await
    }

    async fn running(&mut self, mut run: Box<Run>) -> Phase {
        tokio::select! {
            event = run.next() => match event {
                Event::Ready => {
                    run.face(true);
                    if self.status.borrow().state != State::Healthy {
                        self.tell(Kind::Ready, "");
                    }
                    self.set(State::Healthy, "");
                    run.mark_ready();
                    Phase::Running(run)
                }
                Event::Unready(reason) => {
                    run.face(false);
                    self.set(State::Unhealthy, &*reason);
                    self.tell(Kind::Unready, reason);
                    Phase::Running(run)
                }
                Event::Unclear(reason) => {
                    if self.status.borrow().state == State::Starting {
                        self.set(State::Starting, reason);
                    }
                    Phase::Running(run)
                }
                Event::Unfit(reason) => self.end_unfit(run, reason).await,
                Event::Asked(of, answer) => {
                    self.status.send_modify(|status| match of {
                        Of::Readiness => status.readiness = Some(answer),
                        Of::Liveness => status.liveness = Some(answer),
                    });
                    Phase::Running(run)
                }
                Event::Exited(exit) => self.ended(run, exit).await,
            },
            request = self.requests.recv() => match request {
                None => {
                    self.stop(run).await.1.unwrap_or_else(|error| tracing::error!("{error}"));
                    Phase::End
                }
                Some((Request::Start, reply)) => {
                    _ = reply.send(Ok(()));
                    Phase::Running(run)
                }
                Some((Request::Stop, reply)) => {
                    let (_, result) = self.stop(run).await;
                    self.set(State::Stopped, result.as_ref().map_or_else(|e| e.to_string(), |()| String::new()));
                    self.tell(Kind::Stopped, "");
                    _ = reply.send(result);
                    Phase::Rest
                }
                Some((Request::Restart, reply)) => {
                    let (_, result) = self.stop(run).await;
                    if let Err(error) = result {
                        tracing::error!("{error}");
                    }
                    self.policy.step(policy::Event::Asked);
                    self.is_again = false;
                    Phase::Start(Some(reply))
                }
                Some((Request::Reload(spec), reply)) => self.reload(run, spec, reply).await,
                Some((Request::Renew, reply)) => self.reload(run, self.spec.clone(), reply).await,
                Some((Request::Adjust(spec, conditions), reply)) => {
                    self.conditions = conditions;
                    self.adjust(spec.clone());
                    run.care_as(spec).await;
                    _ = reply.send(Ok(()));
                    Phase::Running(run)
                }
            },
        }
    }

    /// Ends a run because somebody wants it, and waits for those that end already.
    pub(super) async fn stop(&mut self, run: Box<Run>) -> (Option<Exit>, Result<()>) {
        self.set(State::Stopping, "");
        let (exit, result) = run.stop(&self.name).await;
        self.forget_run(exit);
        (exit, result.and(self.left().await))
    }

    /// Waits until the runs that were replaced have ended.
    async fn left(&mut self) -> Result<()> {
        let mut result = Ok(());
        while let Some(left) = self.leaving.join_next().await {
            result = result.and(left.expect("ending a run does not panic"));
        }
        result
    }

    /// Ends a run that was replaced, beside the one that took its place: it may take long, and meanwhile nobody else would look after
    /// that. Whoever wanted this hears when it is over.
    fn leave(&mut self, old: Box<Run>, reply: Reply) {
        while self.leaving.try_join_next().is_some() {}
        let name = self.name.clone();
        self.leaving.spawn(async move {
            let (_, left) = old.stop(&name).await;
            if let Err(error) = &left {
                tracing::error!("{error}");
            }
            _ = reply.send(Ok(()));
            left
        });
    }

    fn forget_run(&self, exit: Option<Exit>) {
        self.status.send_modify(|status| {
            (status.pid, status.instance, status.started_ms) = (None, None, None);
            (status.readiness, status.liveness) = (None, None);
            status.last_exit = exit;
        });
    }

    /// The run ended by itself.
    async fn ended(&mut self, run: Box<Run>, exit: Exit) -> Phase {
        let End { clean, ran, reason } = self.end(run, exit).await;
        self.after(policy::Event::Exited { clean, ran, chance: random_u64() }, reason)
    }

    /// Ends what a run that ended by itself has left behind; how it ended.
    async fn end(&mut self, run: Box<Run>, exit: Exit) -> End {
        let (ran, first_line) = (run.begun.elapsed(), run.first_line);
        let no_memory = run.tree.group().ran_out_of_memory();
        if let (_, Err(error)) = run.stop(&self.name).await {
            tracing::error!("{error}");
        }
        self.forget_run(Some(exit));
        // A leader may end well whose child was killed, as a shell does after a pipe.
        let clean = exit.is_clean() && no_memory.is_none();
        let words = self.log.last_words(first_line).filter(|_| !clean);
        let words = words.map_or_else(String::new, |words| format!(": {words}"));
        let no_memory = no_memory.map_or_else(String::new, |killed| format!("{killed}; "));
        let reason = format!("{no_memory}{exit} after {:.1} s{words}", ran.as_secs_f64());
        End { clean, ran, reason }
    }

    /// The run is not to go on.
    async fn end_unfit(&mut self, run: Box<Run>, reason: String) -> Phase {
        let ran = run.begun.elapsed();
        self.set(State::Stopping, &reason);
        let (exit, result) = run.stop(&self.name).await;
        if let Err(error) = result {
            tracing::error!("{error}");
        }
        self.forget_run(exit);
        self.after(policy::Event::Unfit { ran, chance: random_u64() }, reason)
    }

    /// What the policy says after an end.
    fn after(&mut self, event: policy::Event, reason: String) -> Phase {
        let is_clean = matches!(event, policy::Event::Exited { clean: true, .. });
        self.tell(if is_clean { Kind::Ended } else { Kind::Crashed }, &*reason);
        let wait = match self.policy.step(event) {
            Action::Rest => {
                if !is_clean {
                    self.tell(Kind::Failed, &*reason);
                }
                self.set(if is_clean { State::Completed } else { State::Failed }, reason);
                return Phase::Rest;
            }
            Action::Start { after } => {
                self.set(if is_clean { State::Waiting } else { State::BackingOff }, &*reason);
                after
            }
            Action::Fail { retry } => {
                let (crashes, retry_s) = (self.policy.crashes(), retry.as_secs());
                let text = format!("{reason} ({crashes} times; tried again in {retry_s} s)");
                self.set(State::Failed, &*text);
                self.tell(Kind::Failed, text);
                retry
            }
        };
        self.is_again = true;
        self.status
            .send_modify(|status| (status.restarts, status.restart_reason) = (status.restarts + 1, reason));
        Phase::Again(Instant::now() + wait)
    }

    /// Puts a run of `spec` in the place of `old`, once it is ready.
    async fn reload(&mut self, old: Box<Run>, spec: Arc<Spec>, reply: Reply) -> Phase {
        if !spec.overlaps {
            return self.replace(old, spec, reply).await;
        }
        let mut new = match self.spawn(spec.clone()).await {
            Ok(new) => Box::new(new),
            Err(cause) => {
                _ = reply.send(self.kept(cause, "goes on"));
                return Phase::Running(old);
            }
        };
        let mut old = Some(old);
        let mut old_end = None;
        match self.ready(&mut new, &mut old, &mut old_end).await {
            Verdict::Ready => {
                self.take_spec(spec);
                self.publish(&new);
                self.reloaded(&new);
                match old {
                    Some(old) => self.leave(old, reply),
                    None => _ = reply.send(Ok(())),
                }
                Phase::Running(new)
            }
            Verdict::Unfit(reason) => {
                if let (_, Err(error)) = new.stop(&self.name).await {
                    tracing::error!("{error}");
                }
                let cause = Error::Unready { process: self.name.to_string(), reason };
                match (old, old_end) {
                    (Some(old), _) => {
                        _ = reply.send(self.kept(cause, "goes on"));
                        Phase::Running(old)
                    }
                    (None, end) => {
                        _ = reply.send(Err(cause));
                        let End { clean, ran, reason } = end.expect("it ended or it is there");
                        self.after(policy::Event::Exited { clean, ran, chance: random_u64() }, reason)
                    }
                }
            }
            Verdict::Stop(asker) => {
                let (_, new_stopped) = new.stop(&self.name).await;
                let old_stopped = match old {
                    Some(old) => self.stop(old).await.1,
                    None => self.left().await,
                };
                self.stopped_meanwhile(reply, asker, new_stopped.and(old_stopped))
            }
        }
    }

    pub(super) fn reloaded(&self, new: &Run) {
        new.face(true);
        new.mark_ready();
        self.set(State::Healthy, "reloaded");
        self.tell(Kind::Reloaded, format!("process {}", new.tree.pid()));
    }

    /// A reload was ended by a stop: whoever wanted the reload hears that, and whoever wanted the stop how it went.
    pub(super) fn stopped_meanwhile(&self, reload: Reply, asker: Option<Reply>, result: Result<()>) -> Phase {
        self.set(State::Stopped, "");
        self.tell(Kind::Stopped, "");
        let reason = "it was stopped".into();
        _ = reload.send(Err(Error::Unready { process: self.name.to_string(), reason }));
        let Some(asker) = asker else { return Phase::End };
        _ = asker.send(result);
        Phase::Rest
    }

    /// What becomes of the only run.
    pub(super) async fn becomes_ready(&mut self, run: &mut Run) -> Verdict {
        self.ready(run, &mut None, &mut None).await
    }

    /// Waits until a new run is ready or is not going to be. The old one may end meanwhile; then `old` is empty. One that says that it
    /// is not ready may still become so, as long as it has time.
    async fn ready(
        &mut self,
        new: &mut Run,
        old: &mut Option<Box<Run>>,
        old_end: &mut Option<End>,
    ) -> Verdict {
        let patience = new.spec.ready_timeout;
        let late = tokio::time::sleep(patience);
        tokio::pin!(late);
        let mut unready = String::new();
        loop {
            tokio::select! {
                () = &mut late => return Verdict::Unfit(format!("not ready within {patience:?}{unready}")),
                event = new.next() => match event {
                    Event::Ready => return Verdict::Ready,
                    Event::Unready(reason) | Event::Unclear(reason) => unready = format!(": {reason}"),
                    Event::Unfit(reason) => return Verdict::Unfit(reason),
                    Event::Exited(exit) => return Verdict::Unfit(format!("it ended: {exit}")),
                    Event::Asked(..) => {}
                },
                exit = end_of(old) => {
                    if let Some(run) = old.take() {
                        *old_end = Some(self.end(run, exit).await);
                    }
                }
                request = self.requests.recv() => match request {
                    None => return Verdict::Stop(None),
                    Some((Request::Stop, reply)) => return Verdict::Stop(Some(reply)),
                    Some((Request::Start, reply)) => _ = reply.send(Ok(())),
                    Some((_, reply)) => {
                        let reason = "a reload is under way: ask again when it is over".into();
                        _ = reply.send(Err(Error::Unready { process: self.name.to_string(), reason }));
                    }
                },
            }
        }
    }
}

/// Waits for the end of a run's leader; for ever if there is no run.
async fn end_of(run: &Option<Box<Run>>) -> Exit {
    match run {
        Some(run) => run.tree.exited().await,
        None => std::future::pending().await,
    }
}

/// How a run ended by itself.
struct End {
    clean: bool,
    ran: Duration,
    reason: String,
}

/// What became of the new run of a reload.
pub(super) enum Verdict {
    Ready,
    Unfit(String),
    /// Everything is to end; who asked for it.
    Stop(Option<Reply>),
}
