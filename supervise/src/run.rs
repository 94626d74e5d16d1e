//! One run of a process or job: its tree, what watches it, what reads its output.

use std::sync::Arc;
use std::time::Duration;

use litekeep_env::process::Exit;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::error::{Error, Result};
use crate::events::Kind;
use crate::front::PORT;
use crate::health::{self, Answer, Subject, Verdict};
use crate::log::{Log, Readers};
use crate::notify::Ear;
use crate::process::{Context, Spec};
use crate::spawn::Spawn;
use crate::survivors::{Record, Survivor};
use crate::tree::Tree;

/// How long the last output of an ended tree may take to be read.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// What a run tells.
pub(crate) enum Event {
    Ready,
    Unready(String),
    /// Why it cannot be told yet whether it is ready.
    Unclear(String),
    Unfit(String),
    Exited(Exit),
    /// A check asked: of readiness, or of liveness.
    Asked(Of, Answer),
}

/// What a check is for.
#[derive(Clone, Copy)]
pub(crate) enum Of {
    Readiness,
    Liveness,
}

/// One start of a process, with what watches it.
pub(crate) struct Run {
    pub(crate) tree: Arc<Tree>,
    pub(crate) spec: Arc<Spec>,
    /// The surroundings, with what is this run's own.
    spawn: Arc<Spawn>,
    /// Its own port, behind a front.
    port: Option<u16>,
    pub(crate) instance: String,
    pub(crate) begun: Instant,
    pub(crate) begun_ms: i64,
    /// The number of its log's first line.
    pub(crate) first_line: u64,
    events: mpsc::Receiver<Event>,
    tell: mpsc::Sender<Event>,
    /// Stopped with the run.
    watchers: JoinSet<()>,
    readers: Readers,
    /// Where it says that it is ready, if it is to say so.
    ear: Option<Arc<Ear>>,
    /// For the next litekeep, if it is to find this run.
    record: Option<Record>,
}

impl Run {
    /// Starts `spec` under the name `instance`, with what watches it.
    pub(crate) async fn start(
        name: &str,
        instance: String,
        spec: Arc<Spec>,
        log: &Log,
        context: &Context,
    ) -> Result<Run> {
        let first_line = *log.count().borrow();
        let mut pipes = context.folder.as_ref().map(|folder| folder.pipes(&instance));
        let named = pipes.as_ref().map(|pipes| log.named_output(pipes)).transpose();
        let (output, readers) = match named {
            Ok(Some(named)) => named,
            Ok(None) => log.output()?,
            // A full disk is no reason not to run.
            Err(error) => {
                let text = format!("{error}; if litekeep is killed, the next write of this run fails");
                context.events.tell(name, Kind::Warning, text);
                pipes = None;
                log.output()?
            }
        };
        let ear = spec.is_notified().then(|| Ear::open(&instance, false)).transpose()?;
        let mut spawn = spec.spawn.clone();
        if ear.is_some() {
            spawn.env.push(("NOTIFY_SOCKET".into(), Ear::name(&instance).into()));
        }
        let port = spec.front.as_ref().map(|front| front.begin(&instance, None)).transpose()?;
        if let Some(port) = port {
            spawn.env.push((PORT.into(), port.to_string().into()));
        }
        let spawn = Arc::new(spawn);
        let (cgroups, own, limits) = (context.cgroups.clone(), instance.clone(), spec.limits());
        let shared = spawn.clone();
        let whose = name.to_owned();
        let start = move || {
            let group = cgroups.make(&own, limits);
            let entrances =
                group.entrances().map_err(Error::file(format!("join the cgroup of `{whose}`")))?;
            Ok((shared.start(&whose, &own, output, entrances)?, group))
        };
        let started = tokio::task::spawn_blocking(start).await.expect("starting does not panic");
        if let (Err(_), Some(pipes)) = (&started, &pipes) {
            pipes.iter().for_each(|pipe| _ = std::fs::remove_file(pipe));
        }
        let (leader, group) = started?;
        let tree = Tree::new(leader, instance.clone(), group)
            .map_err(Error::file(format!("watch the process `{name}`")))?;
        let begun = (Instant::now(), context.clock.unix_ms());
        let fingerprint = Some(spec.fingerprint());
        let mut run = Run::new(tree, instance, spec, begun, first_line, readers);
        (run.spawn, run.port) = (spawn, port);
        run.ear = ear.map(Arc::new);
        run.write_down(context, fingerprint, false).await;
        let settle = run.spec.settle;
        run.watch(settle);
        Ok(run)
    }

    /// Takes over a run that outlived an earlier litekeep; none if it lives no more.
    pub(crate) async fn adopt(
        survivor: &Survivor,
        spec: Arc<Spec>,
        log: &Log,
        context: &Context,
    ) -> Result<Option<Run>> {
        let instance = survivor.instance.clone();
        let tree = Tree::adopt(survivor.leader, instance.clone(), survivor.group())
            .map_err(Error::file(format!("take over the process `{}`", survivor.name())))?;
        let (Some(tree), Some(folder)) = (tree, &context.folder) else { return Ok(None) };
        let first_line = *log.count().borrow();
        // What is missing of it is no reason to end it.
        let warn = |error: Error| context.events.tell(survivor.name(), Kind::Warning, error.to_string());
        let readers = log.named_output_again(&folder.pipes(&instance));
        let readers = readers.map_err(warn).unwrap_or_else(|()| Readers::none());
        let ear = spec.is_notified().then(|| Ear::open(&instance, survivor.is_ready));
        let ear = ear.and_then(|ear| ear.map_err(warn).ok());
        let now_ms = context.clock.unix_ms();
        let begun_ms = survivor.begun_ms.unwrap_or(now_ms);
        let age = Duration::from_millis(now_ms.saturating_sub(begun_ms).max(0) as u64);
        let begun = (Instant::now().checked_sub(age).unwrap_or_else(Instant::now), begun_ms);
        let settle = if survivor.is_ready { Duration::ZERO } else { spec.settle };
        let mut run = Run::new(tree, instance, spec, begun, first_line, readers);
        if let Some(front) = &run.spec.front {
            let known = survivor.port().ok_or_else(|| {
                let place = format!("process `{}`", survivor.name());
                Error::invalid(
                    place,
                    "began before there was a proxy in front of it, which does not know its port",
                )
            });
            match known.and_then(|port| front.begin(&run.instance, Some(port))) {
                Ok(port) => run.port = Some(port),
                // Nobody could reach it, and nothing may be left of it beside the one that takes its place.
                Err(error) => {
                    run.write_down(context, survivor.fingerprint, survivor.is_ready).await;
                    run.stop(survivor.name()).await.1?;
                    return Err(error);
                }
            }
        }
        run.ear = ear.map(Arc::new);
        run.write_down(context, survivor.fingerprint, survivor.is_ready).await;
        run.watch(settle);
        Ok(Some(run))
    }

    fn new(
        tree: Tree,
        instance: String,
        spec: Arc<Spec>,
        (begun, begun_ms): (Instant, i64),
        first_line: u64,
        readers: Readers,
    ) -> Run {
        let (tell, events) = mpsc::channel(16);
        let tree = Arc::new(tree);
        let watchers = JoinSet::new();
        let spawn = Arc::new(spec.spawn.clone());
        Run {
            tree,
            spec,
            spawn,
            port: None,
            instance,
            begun,
            begun_ms,
            first_line,
            events,
            tell,
            watchers,
            readers,
            ear: None,
            record: None,
        }
    }

    async fn write_down(&mut self, context: &Context, fingerprint: Option<u64>, is_ready: bool) {
        let Some(folder) = &context.folder else { return };
        let (spec, begun_ms) = (&*self.spec, self.begun_ms);
        let (folder, port) = (folder.clone(), self.port);
        let record = Record::new(folder, &self.instance, &self.tree, spec, fingerprint, begun_ms, port);
        record.write(is_ready).await;
        self.record = Some(record);
    }

    /// Writes down that it may be used.
    pub(crate) fn mark_ready(&self) {
        if let Some(record) = self.record.clone() {
            tokio::spawn(async move { record.write(true).await });
        }
    }

    pub(crate) async fn next(&mut self) -> Event {
        tokio::select! {
            biased;
            exit = self.tree.exited() => Event::Exited(exit),
            Some(event) = self.events.recv() => event,
        }
    }

    /// Watches it as another spec says.
    pub(crate) async fn care_as(&mut self, spec: Arc<Spec>) {
        let is_same = self.spec.has_same_care(&spec);
        self.spec = spec;
        if !is_same {
            self.watchers.shutdown().await;
            self.tree.group().limit(self.spec.limits());
            (self.tell, self.events) = mpsc::channel(16);
            let settle = self.spec.settle;
            self.watch(settle);
        }
    }

    fn watch(&mut self, settle: Duration) {
        let tell = self.tell.clone();
        let spec = self.spec.clone();
        let subject = Arc::new(Subject {
            instance: self.instance.clone(),
            surroundings: self.spawn.clone(),
            tree: self.tree.clone(),
            port: self.port,
        });
        let (ready, ear, asked) = (tell.clone(), self.ear.clone(), subject.clone());
        // Only shown: one that finds no room is left out.
        let answered = |of| {
            let tell = tell.clone();
            move |answer| _ = tell.try_send(Event::Asked(of, answer))
        };
        let asked_for_readiness = answered(Of::Readiness);
        self.watchers.spawn(async move {
            if let (Some(check), Some(ear)) = (&spec.readiness, ear) {
                if tokio::time::timeout(check.start_period, ear.ready(&asked.tree)).await.is_err() {
                    let reason = format!("it has not said READY=1 within {:?}", check.start_period);
                    _ = ready.send(Event::Unready(reason)).await;
                    ear.ready(&asked.tree).await;
                }
                _ = ready.send(Event::Ready).await;
                return ear.drain().await;
            }
            let Some(check) = &spec.readiness else {
                tokio::time::sleep(settle).await;
                _ = ready.send(Event::Ready).await;
                return;
            };
            let tell = |verdict: Verdict| {
                let event = match verdict {
                    Verdict::Fit => Event::Ready,
                    Verdict::Unfit(reason) => Event::Unready(reason),
                    Verdict::Unclear(reason) => Event::Unclear(reason),
                };
                let ready = ready.clone();
                async move { _ = ready.send(event).await }
            };
            health::watch(check, &asked, asked_for_readiness, tell).await;
        });
        if self.spec.liveness.is_some() {
            let (spec, unfit, asked) = (self.spec.clone(), tell.clone(), answered(Of::Liveness));
            self.watchers.spawn(async move {
                let Some(check) = &spec.liveness else { return };
                let tell = |verdict: Verdict| {
                    let unfit = unfit.clone();
                    async move {
                        if let Verdict::Unfit(reason) = verdict {
                            _ = unfit.send(Event::Unfit(format!("liveness: {reason}"))).await;
                        }
                    }
                };
                health::watch(check, &subject, asked, tell).await;
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

    /// Whether it may get requests.
    pub(crate) fn face(&self, is_ready: bool) {
        if let Some(front) = &self.spec.front {
            front.face(&self.instance, is_ready);
        }
    }

    /// Ends all of it; how its leader ended.
    pub(crate) async fn stop(mut self, name: &str) -> (Option<Exit>, Result<()>) {
        self.watchers.shutdown().await;
        let mut patience = self.spec.stop_timeout;
        if let Some(front) = &self.spec.front {
            // Half of the time for its last requests, so that a connection without end leaves it time to end well.
            let begun = Instant::now();
            let last = tokio::time::timeout(patience / 2, front.end(&self.instance));
            tokio::select! {
                _ = last => {}
                _ = self.tree.exited() => {}
            }
            patience = patience.saturating_sub(begun.elapsed());
        }
        let (exit, left) = self.tree.stop(self.spec.stop_signal, patience).await;
        _ = tokio::time::timeout(LAST_WORDS, self.readers.ended()).await;
        let tree = self.tree;
        // Off this thread: a leader that hangs in the kernel is waited for.
        let last = tokio::task::spawn_blocking(move || drop(tree));
        if left == 0 {
            if let Some(record) = self.record {
                record.remove().await;
            }
            _ = last.await;
            return (exit, Ok(()));
        }
        (exit, Err(Error::Unkillable { process: name.into(), left }))
    }
}
