//! One process: a task of its own that starts, watches, stops, restarts and replaces it.
//!
//! A slow start, stop or check is awaited here and nowhere else, so it delays no other process. Each run has an instance name that
//! no other run ever has. Everything that one run started has ended before the next one starts, except in a reload, where the
//! new run must be ready before the old one is asked to end.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use litekeep_env::process::{Exit, Pid, signal_number};
use litekeep_env::{Clock, random_u64};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::cgroup::Cgroups;
use crate::error::{Error, Result};
use crate::health::Check;
use crate::limits::Memory;
use crate::log::{Log, Readers};
use crate::policy::{self, Action, Policy};
use crate::spawn::Spawn;
use crate::tree::Tree;

/// How long the last output of an ended tree may take to be read.
const LAST_WORDS: Duration = Duration::from_millis(200);

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
        }
    }
}

/// Where a process stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// For its conditions or its start delay.
    Waiting,
    /// It runs and is not ready yet.
    Starting,
    /// It runs and is ready.
    Healthy,
    /// It runs, and its readiness check fails.
    Unhealthy,
    /// It was asked to end.
    Stopping,
    /// It ended and starts again after a wait.
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
}

enum Request {
    Start,
    Stop,
    Restart,
    Reload(Arc<Spec>),
}

type Reply = oneshot::Sender<Result<()>>;

/// A handle on a process. When the last one is dropped, the process is stopped.
#[derive(Clone)]
pub struct Process {
    name: Arc<str>,
    requests: mpsc::Sender<(Request, Reply)>,
    status: watch::Receiver<Status>,
    log: Log,
}

impl Process {
    /// Takes a process into care; it starts when it is asked to.
    pub fn new(name: &str, spec: Spec, conditions: Vec<Condition>, log: Log, context: Context) -> Process {
        let (requests, receiver) = mpsc::channel(16);
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
        });
        let name: Arc<str> = name.into();
        let process = Process { name: name.clone(), requests, status: status.subscribe(), log: log.clone() };
        let policy = Policy::new(spec.policy);
        let task = Task {
            name,
            spec: Arc::new(spec),
            conditions,
            log,
            context,
            status,
            policy,
            requests: receiver,
            runs: 0,
        };
        tokio::spawn(task.run());
        process
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it stands, now and from now on.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// What it printed.
    pub fn log(&self) -> &Log {
        &self.log
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
    pub async fn reload(&self, spec: Spec) -> Result<()> {
        self.ask(Request::Reload(Arc::new(spec))).await
    }

    async fn ask(&self, request: Request) -> Result<()> {
        let ended = || Error::Ended { process: self.name.to_string() };
        let (reply, answer) = oneshot::channel();
        self.requests.send((request, reply)).await.map_err(|_| ended())?;
        answer.await.map_err(|_| ended())?
    }
}

/// What a run tells.
enum Event {
    Ready,
    Unready(String),
    Unfit(String),
    Exited(Exit),
}

/// One start of a process, with what watches it.
struct Run {
    tree: Arc<Tree>,
    spec: Arc<Spec>,
    instance: String,
    begun: Instant,
    begun_ms: i64,
    /// The number of its log's first line.
    first_line: u64,
    events: mpsc::Receiver<Event>,
    /// Stopped with the run.
    watchers: JoinSet<()>,
    readers: Readers,
}

impl Run {
    async fn next(&mut self) -> Event {
        tokio::select! {
            biased;
            exit = self.tree.exited() => Event::Exited(exit),
            Some(event) = self.events.recv() => event,
        }
    }

    fn watch(&mut self, tell: mpsc::Sender<Event>) {
        let (spec, instance) = (self.spec.clone(), self.instance.clone());
        let ready = tell.clone();
        self.watchers.spawn(async move {
            let Some(check) = &spec.readiness else {
                tokio::time::sleep(spec.settle).await;
                _ = ready.send(Event::Ready).await;
                return;
            };
            let tell = |verdict: Result<(), String>| {
                let event = verdict.map_or_else(Event::Unready, |()| Event::Ready);
                let ready = ready.clone();
                async move { _ = ready.send(event).await }
            };
            check.watch(&spec.spawn, &instance, tell).await;
        });
        if self.spec.liveness.is_some() {
            let (spec, instance, unfit) = (self.spec.clone(), self.instance.clone(), tell.clone());
            self.watchers.spawn(async move {
                let Some(check) = &spec.liveness else { return };
                let tell = |verdict: Result<(), String>| {
                    let unfit = unfit.clone();
                    async move {
                        if let Err(reason) = verdict {
                            _ = unfit.send(Event::Unfit(format!("liveness: {reason}"))).await;
                        }
                    }
                };
                check.watch(&spec.spawn, &instance, tell).await;
            });
        }
        if let Some(memory) = self.spec.memory {
            let tree = self.tree.clone();
            self.watchers.spawn(async move {
                let reason = memory.exceeded(&tree).await;
                _ = tell.send(Event::Unfit(format!("memory: {reason}"))).await;
            });
        }
    }

    /// Ends all of it; how its leader ended.
    async fn stop(mut self, name: &str) -> (Option<Exit>, Result<()>) {
        self.watchers.shutdown().await;
        let (exit, left) = self.tree.stop(self.spec.stop_signal, self.spec.stop_timeout).await;
        _ = tokio::time::timeout(LAST_WORDS, self.readers.ended()).await;
        let tree = self.tree;
        // Off this thread: a leader that hangs in the kernel is waited for.
        let last = tokio::task::spawn_blocking(move || drop(tree));
        if left == 0 {
            _ = last.await;
            return (exit, Ok(()));
        }
        (exit, Err(Error::Unkillable { process: name.into(), left }))
    }
}

/// What the task does next.
enum Phase {
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

struct Task {
    name: Arc<str>,
    spec: Arc<Spec>,
    conditions: Vec<Condition>,
    log: Log,
    context: Context,
    status: watch::Sender<Status>,
    policy: Policy,
    requests: mpsc::Receiver<(Request, Reply)>,
    /// How many runs there were, for their names.
    runs: u64,
}

impl Task {
    async fn run(mut self) {
        let mut phase = Phase::Rest;
        loop {
            phase = match phase {
                Phase::Rest => {
                    let request = self.requests.recv().await;
                    self.answer_without_run(request, Phase::Rest)
                }
                Phase::First => match self.first().await {
                    Ok(()) => Phase::Start(None),
                    Err(other) => other,
                },
                Phase::Again(at) => tokio::select! {
                    () = tokio::time::sleep_until(at) => Phase::Start(None),
                    request = self.requests.recv() => self.answer_without_run(request, Phase::Again(at)),
                },
                Phase::Start(reply) => self.start(reply).await,
                Phase::Running(run) => self.running(run).await,
                Phase::End => return,
            };
        }
    }

    fn set(&self, state: State, reason: impl Into<String>) {
        let (reason, now) = (reason.into(), self.context.clock.unix_ms());
        tracing::info!(process = &*self.name, ?state, reason);
        self.status.send_modify(|status| {
            if status.state != state {
                status.since_ms = now;
            }
            (status.state, status.reason) = (state, reason);
        });
    }

    /// What a request means while nothing runs; `now` is where the process stands. What was never started, or was stopped, starts
    /// only when its conditions hold, whoever asks.
    fn answer_without_run(&mut self, request: Option<(Request, Reply)>, now: Phase) -> Phase {
        let Some((request, reply)) = request else { return Phase::End };
        let is_start = matches!(request, Request::Start);
        match request {
            Request::Stop => {
                self.set(State::Stopped, "");
                _ = reply.send(Ok(()));
                return Phase::Rest;
            }
            Request::Reload(spec) => self.take_spec(spec),
            Request::Start | Request::Restart => {}
        }
        self.policy.step(policy::Event::Asked);
        let may_wait = !self.conditions.is_empty() || !self.spec.start_delay.is_zero();
        match now {
            Phase::Rest | Phase::First if may_wait => {
                _ = reply.send(Ok(()));
                Phase::First
            }
            _ if is_start => {
                _ = reply.send(Ok(()));
                Phase::Start(None)
            }
            _ => Phase::Start(Some(reply)),
        }
    }

    fn take_spec(&mut self, spec: Arc<Spec>) {
        self.policy = Policy::new(spec.policy);
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
                request = self.requests.recv() => match self.answer_without_run(request, Phase::First) {
                    Phase::First => {}
                    other => return Err(other),
                },
            }
        }
    }

    async fn start(&mut self, reply: Option<Reply>) -> Phase {
        self.set(State::Starting, "");
        let result = self.spawn(self.spec.clone()).await;
        let (phase, answer) = match result {
            Ok(run) => {
                self.publish(&run);
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
    fn publish(&self, run: &Run) {
        self.status.send_modify(|status| {
            status.pid = Some(run.tree.pid());
            status.instance = Some(run.instance.clone());
            status.started_ms = Some(run.begun_ms);
        });
    }

    /// Starts a run of `spec`, with what watches it.
    async fn spawn(&mut self, spec: Arc<Spec>) -> Result<Run> {
        self.runs += 1;
        let instance = format!("{}:{}:{}", self.name, self.context.id, self.runs);
        let first_line = *self.log.count().borrow();
        let (output, readers) = self.log.output()?;
        let (name, shared, cgroups) = (self.name.clone(), spec.clone(), self.context.cgroups.clone());
        let own = instance.clone();
        let start = move || {
            let group = cgroups.make(&own);
            let entrances = group.entrances().map_err(Error::file(format!("join the cgroup of `{name}`")))?;
            Ok((shared.spawn.start(&name, &own, output, entrances)?, group))
        };
        let (leader, group) = tokio::task::spawn_blocking(start).await.expect("starting does not panic")?;
        let tree = Tree::new(leader, instance.clone(), group)
            .map_err(Error::file(format!("watch the process `{}`", self.name)))?;
        let (tell, events) = mpsc::channel(16);
        let mut run = Run {
            tree: Arc::new(tree),
            spec,
            instance,
            begun: Instant::now(),
            begun_ms: self.context.clock.unix_ms(),
            first_line,
            events,
            watchers: JoinSet::new(),
            readers,
        };
        run.watch(tell);
        Ok(run)
    }

    async fn running(&mut self, mut run: Box<Run>) -> Phase {
        tokio::select! {
            event = run.next() => match event {
                Event::Ready => {
                    self.set(State::Healthy, "");
                    Phase::Running(run)
                }
                Event::Unready(reason) => {
                    self.set(State::Unhealthy, reason);
                    Phase::Running(run)
                }
                Event::Unfit(reason) => self.end_unfit(run, reason).await,
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
                    _ = reply.send(result);
                    Phase::Rest
                }
                Some((Request::Restart, reply)) => {
                    let (_, result) = self.stop(run).await;
                    if let Err(error) = result {
                        tracing::error!("{error}");
                    }
                    self.policy.step(policy::Event::Asked);
                    Phase::Start(Some(reply))
                }
                Some((Request::Reload(spec), reply)) => self.reload(run, spec, reply).await,
            },
        }
    }

    /// Ends a run because somebody wants it.
    async fn stop(&mut self, run: Box<Run>) -> (Option<Exit>, Result<()>) {
        self.set(State::Stopping, "");
        let (exit, result) = run.stop(&self.name).await;
        self.forget_run(exit);
        (exit, result)
    }

    fn forget_run(&self, exit: Option<Exit>) {
        self.status.send_modify(|status| {
            (status.pid, status.instance, status.started_ms) = (None, None, None);
            status.last_exit = exit;
        });
    }

    /// The run ended by itself; what it left behind ends too.
    async fn ended(&mut self, run: Box<Run>, exit: Exit) -> Phase {
        let (ran, first_line) = (run.begun.elapsed(), run.first_line);
        if let (_, Err(error)) = run.stop(&self.name).await {
            tracing::error!("{error}");
        }
        self.forget_run(Some(exit));
        let words = self.log.last_words(first_line).filter(|_| !exit.is_clean());
        let words = words.map_or_else(String::new, |words| format!(": {words}"));
        let reason = format!("{exit} after {:.1} s{words}", ran.as_secs_f64());
        let clean = exit.is_clean();
        self.after(policy::Event::Exited { clean, ran, chance: random_u64() }, reason)
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
        let wait = match self.policy.step(event) {
            Action::Rest => {
                let is_clean = matches!(event, policy::Event::Exited { clean: true, .. });
                self.set(if is_clean { State::Completed } else { State::Failed }, reason);
                return Phase::Rest;
            }
            Action::Start { after } => {
                self.set(State::BackingOff, &*reason);
                after
            }
            Action::Fail { retry } => {
                let crashes = self.policy.crashes();
                self.set(
                    State::Failed,
                    format!("{reason} ({crashes} times; tried again in {} s)", retry.as_secs()),
                );
                retry
            }
        };
        self.status
            .send_modify(|status| (status.restarts, status.restart_reason) = (status.restarts + 1, reason));
        Phase::Again(Instant::now() + wait)
    }

    /// Puts a run of `spec` in the place of `old`, once it is ready.
    async fn reload(&mut self, old: Box<Run>, spec: Arc<Spec>, reply: Reply) -> Phase {
        let failed = |name: &str, cause| Err(Error::Reload { process: name.into(), cause: Box::new(cause) });
        let mut new = match self.spawn(spec.clone()).await {
            Ok(new) => Box::new(new),
            Err(cause) => {
                _ = reply.send(failed(&self.name, cause));
                return Phase::Running(old);
            }
        };
        let mut old = Some(old);
        let mut old_end = None;
        let verdict =
            tokio::time::timeout(spec.ready_timeout, self.ready(&mut new, &mut old, &mut old_end)).await;
        let late = || Verdict::Unfit(format!("not ready within {:?}", spec.ready_timeout));
        match verdict.unwrap_or_else(|_| late()) {
            Verdict::Ready => {
                self.take_spec(spec);
                self.publish(&new);
                self.set(State::Healthy, "reloaded");
                if let Some(old) = old
                    && let (_, Err(error)) = old.stop(&self.name).await
                {
                    tracing::error!("{error}");
                }
                _ = reply.send(Ok(()));
                Phase::Running(new)
            }
            Verdict::Unfit(reason) => {
                if let (_, Err(error)) = new.stop(&self.name).await {
                    tracing::error!("{error}");
                }
                let cause = Error::Unready { process: self.name.to_string(), reason };
                match (old, old_end) {
                    (Some(old), _) => {
                        _ = reply.send(failed(&self.name, cause));
                        Phase::Running(old)
                    }
                    (None, end) => {
                        _ = reply.send(Err(cause));
                        let (exit, ran) = end.expect("it ended or it is there");
                        let event =
                            policy::Event::Exited { clean: exit.is_clean(), ran, chance: random_u64() };
                        self.after(event, format!("{exit} after {:.1} s", ran.as_secs_f64()))
                    }
                }
            }
            Verdict::Stop(stop) => {
                let (_, new_stopped) = new.stop(&self.name).await;
                let old_stopped = match old {
                    Some(old) => self.stop(old).await.1,
                    None => Ok(()),
                };
                self.set(State::Stopped, "");
                let cause =
                    Error::Unready { process: self.name.to_string(), reason: "it was stopped".into() };
                _ = reply.send(Err(cause));
                let Some(stop) = stop else { return Phase::End };
                _ = stop.send(new_stopped.and(old_stopped));
                Phase::Rest
            }
        }
    }

    /// Waits until a new run is ready or is not going to be. The old one may end meanwhile; then `old` is empty.
    async fn ready(
        &mut self,
        new: &mut Run,
        old: &mut Option<Box<Run>>,
        old_end: &mut Option<(Exit, Duration)>,
    ) -> Verdict {
        loop {
            tokio::select! {
                event = new.next() => match event {
                    Event::Ready => return Verdict::Ready,
                    Event::Unready(reason) | Event::Unfit(reason) => return Verdict::Unfit(reason),
                    Event::Exited(exit) => return Verdict::Unfit(format!("it ended: {exit}")),
                },
                exit = end_of(old) => {
                    if let Some(run) = old.take() {
                        *old_end = Some((exit, run.begun.elapsed()));
                        if let (_, Err(error)) = run.stop(&self.name).await {
                            tracing::error!("{error}");
                        }
                        self.forget_run(Some(exit));
                    }
                }
                request = self.requests.recv() => match request {
                    None => return Verdict::Stop(None),
                    Some((Request::Stop, reply)) => return Verdict::Stop(Some(reply)),
                    Some((Request::Start, reply)) => _ = reply.send(Ok(())),
                    Some((Request::Restart | Request::Reload(_), reply)) => {
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

/// What became of the new run of a reload.
enum Verdict {
    Ready,
    Unfit(String),
    /// Everything is to end; who asked for it.
    Stop(Option<Reply>),
}
