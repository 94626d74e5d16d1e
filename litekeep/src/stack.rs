//! What `litekeep up` runs: the databases with their backups, and the processes beside them.
//!
//! Promises:
//! - No process starts before its databases are fit: missing ones restored, foreign ones refused, pending migrations run.
//! - At the end processes stop first, dependants before what they depend on; then the backups are completed and confirmed.
//! - A configuration that is not accepted and a migration that fails leave the processes and jobs as they are; a new command that does
//!   not become ready leaves its process as it is, and the others have theirs.

mod conditions;
mod deploys;
mod front;
mod hooks;
mod jobs;
mod migrations;
mod older;
mod output;
mod roles;
mod services;
mod sockets;
mod status;
mod untaken;
mod written;

pub(crate) use deploys::Deploy;
pub(crate) use hooks::LAST_HOOKS;
pub(crate) use output::{Happened, Line};
pub(crate) use roles::{Place, note_primary};
pub(crate) use services::log_files;
pub(crate) use status::{JobStatus, NodeStatus, ProcessStatus, StackStatus};

use std::collections::HashSet;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::Result;
use futures::future::join_all;
use litekeep_config::Config;
use litekeep_env::notify::ServiceManager;
use litekeep_env::{Clock, SystemClock};
use litekeep_supervise::cgroup::Cgroups;
use litekeep_supervise::{Applied, Begun, Error, Events, Process, Service, Setup, Supervisor, Wanted, job};
use serde::{Deserialize, Serialize};
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, watch};

use crate::args::ConfigArgs;
use crate::child::Signals;
use crate::cluster::Link;
use crate::control::{Ask, Home, Out};
use crate::dashboard::Board;
use crate::replication::{Current, Replication};
use crate::report::{Failure, Format, Kind, Report};
use crate::served::Pages;
use crate::settings::Settings;
use crate::waiting::Waiting;
use deploys::Deploys;
use hooks::Hooks;
use sockets::Sockets;

/// The whole of it, from before the first restore until the last confirmation.
pub(crate) struct Stack {
    /// The configuration that was read, so that a reload reads the same file.
    args: ConfigArgs,
    home: Home,
    begun_ms: i64,
    replication: Current,
    /// In a cluster.
    place: Mutex<Option<Place>>,
    node: OnceLock<Arc<Link>>,
    board: OnceLock<Arc<Board>>,
    deploys: Arc<Deploys>,
    /// Held while something is replaced, which may take as long as a process needs to become ready.
    changing: tokio::sync::Mutex<Changing>,
    is_up: AtomicBool,
    /// Ends a reload that is under way, for everything ends.
    ending: watch::Sender<bool>,
    /// Ends those that are under way or wait, for everything is stopped.
    stopping: Notify,
    stage: Mutex<Stage>,
    /// What runs, for those who ask while something is being replaced.
    running: Mutex<Running>,
    down: Notify,
    /// How everything ended, when it has.
    ended: watch::Sender<Option<Result<(), Report>>>,
}

/// How far a reload is.
#[derive(Clone, Copy, Default, PartialEq)]
enum Stage {
    /// None is under way.
    #[default]
    None,
    Migrating,
    Replacing,
}

#[derive(Clone, Default)]
struct Running {
    /// In the order of the configuration.
    processes: Vec<Process>,
    /// Those that a reload under way has begun.
    begun: Begun,
    jobs: Vec<jobs::Known>,
    events: Option<Events>,
}

#[derive(Default)]
struct Changing {
    /// What `up` began with.
    begun: Config,
    /// What was read last and could be taken.
    accepted: Option<Settings>,
    pages: Option<Pages>,
    /// Names of processes as the configuration has them.
    order: Vec<String>,
    /// Names of jobs, the same.
    jobs: Vec<String>,
    hooks: Option<Hooks>,
    /// `None` until the databases are fit, and after the end.
    supervisor: Option<Supervisor>,
    sockets: Sockets,
    /// Of which processes it was said that they are away while they are replaced.
    told_away: HashSet<String>,
}

impl Stack {
    pub(crate) fn new(args: ConfigArgs, home: Home) -> Stack {
        Stack {
            args,
            deploys: Arc::new(Deploys::read(&home.deploys())),
            home,
            begun_ms: SystemClock.unix_ms(),
            replication: Current::default(),
            place: Mutex::default(),
            node: OnceLock::new(),
            board: OnceLock::new(),
            changing: tokio::sync::Mutex::default(),
            is_up: AtomicBool::new(false),
            ending: watch::Sender::new(false),
            stopping: Notify::new(),
            stage: Mutex::default(),
            running: Mutex::default(),
            down: Notify::new(),
            ended: watch::Sender::new(None),
        }
    }

    /// The databases that processes wait for are now under replication.
    pub(crate) fn replicated(&self, replication: &Arc<Replication>) {
        self.replication.set(replication);
    }

    /// Everything is shown there.
    pub(crate) async fn shown_on(&self, board: &Arc<Board>, pages: Pages) {
        _ = self.board.set(board.clone());
        self.changing.lock().await.pages = Some(pages);
    }

    /// It is one of a cluster.
    pub(crate) fn is_node(&self, link: &Arc<Link>) {
        _ = self.node.set(link.clone());
    }

    /// The node of a cluster that it is.
    pub(crate) fn link(&self) -> Option<&Arc<Link>> {
        self.node.get()
    }

    pub(crate) fn node(&self) -> Result<&Arc<Link>> {
        let alone = || {
            let failure = Failure::invalid("this `litekeep up` is not one of a cluster");
            failure.hint("[cluster] in litekeep.toml makes it one")
        };
        Ok(self.node.get().ok_or_else(alone)?)
    }

    /// Waits for a signal that ends litekeep, or for somebody who asks for the end. Others that come meanwhile are followed.
    pub(crate) async fn ended_by(self: &Arc<Self>, signals: &mut Signals) {
        loop {
            tokio::select! {
                () = self.downed() => return,
                signal = signals.next() => match signal {
                    libc::SIGHUP => self.reload_by_signal(),
                    libc::SIGTERM | libc::SIGINT | libc::SIGQUIT => return,
                    _ => {}
                },
            }
        }
    }

    /// What is replicated, now and later.
    pub(crate) fn replication(&self) -> Current {
        self.replication.clone()
    }

    /// Runs pending migrations and starts the processes, each when what it waits for is there.
    ///
    /// # Errors
    /// When a migration fails or the processes cannot be as the configuration wants them; then none has started.
    pub(crate) async fn start(&self, settings: &Settings) -> Result<()> {
        let config = &settings.config;
        let place = self.place();
        if place.is_none_or(Place::has_primarys) {
            migrations::run(settings, None, &self.args).await?;
        }
        let mut changing = self.changing.lock().await;
        let services = self.services(config, &mut changing.sockets)?;
        changing.order = names(&services);
        let setup = Setup {
            services,
            jobs: self.jobs(config)?,
            state: Some(self.home.runs()),
            ..Setup::new(Arc::new(SystemClock), Cgroups::detect())
        };
        let supervisor = Supervisor::set_up(setup)?;
        let (deploys, path) = (self.deploys.clone(), self.home.deploys());
        let news = supervisor.events().subscribe(0);
        tokio::spawn(async move { deploys.follow(news, &path).await });
        changing.hooks = Some(Hooks::watch(config, supervisor.events(), &self.args));
        changing.begun.clone_from(config);
        changing.jobs = names_of_jobs(config);
        let jobs = jobs::in_order(&supervisor, &changing.jobs);
        let (begun, events) = (supervisor.begun().clone(), Some(supervisor.events().clone()));
        *self.running() = Running { processes: in_order(&supervisor, &changing.order), begun, jobs, events };
        supervisor.start().await?;
        changing.supervisor = Some(supervisor);
        changing.accepted = Some(settings.clone());
        self.keep_accepted(settings);
        self.is_up.store(true, SeqCst);
        Ok(())
    }

    /// What runs can be asked about also when its file has a mistake since.
    fn keep_accepted(&self, settings: &Settings) {
        let kept = self.home.accepted();
        if let Err(error) = std::fs::copy(&settings.path, &kept) {
            tracing::warn!("copy the configuration to `{}`: {error}", kept.display());
        }
    }

    /// Stops the processes, dependants first.
    ///
    /// # Errors
    /// When some of their processes outlive SIGKILL.
    pub(crate) async fn stop(&self) -> Result<()> {
        self.is_up.store(false, SeqCst);
        self.ending.send_replace(true);
        let mut changing = self.changing.lock().await;
        let Some(supervisor) = changing.supervisor.take() else { return Ok(()) };
        let stopped = supervisor.stop().await;
        if let Some(hooks) = changing.hooks.take() {
            hooks.finish().await;
        }
        Ok(stopped?)
    }

    /// Waits until somebody asked for the end.
    pub(crate) async fn downed(&self) {
        self.down.notified().await;
    }

    /// Tells those that asked for the end how it went, and waits a moment until they have heard it.
    pub(crate) async fn tell_end(&self, result: Result<(), Report>) {
        self.ended.send_replace(Some(result));
        for _ in 0..100 {
            if self.ended.receiver_count() == 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub(crate) fn processes(&self) -> Vec<Process> {
        let running = self.running();
        let is_known = |new: &Process| running.processes.iter().any(|known| known.log().is(new.log()));
        let begun = running.begun.processes().into_iter().filter(|new| !is_known(new));
        running.processes.iter().cloned().chain(begun).collect()
    }

    pub(crate) fn deploys(&self) -> Vec<Deploy> {
        self.deploys.all()
    }

    fn stage(&self) -> Stage {
        *self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reaches(&self, stage: Stage) {
        *self.stage.lock().unwrap_or_else(PoisonError::into_inner) = stage;
    }

    fn running(&self) -> std::sync::MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers a question.
    ///
    /// # Errors
    /// What the asker is told.
    pub(crate) async fn answer(&self, ask: Ask, out: &mut Out) -> Result<()> {
        match ask {
            Ask::Status => out.item(&self.status()).await,
            Ask::Board => out.item(&self.board.get().ok_or_else(starting)?.view().await).await,
            Ask::Start { names } if names.is_empty() => self.start_all().await,
            Ask::Start { names } => self.start_some(&names).await,
            Ask::Events { lines, follow } => {
                let events = self.running().events.clone().ok_or_else(starting)?;
                output::happened(&events, lines, follow, out).await
            }
            // All at once is the supervisor's order; some by name are the asker's.
            Ask::Stop { names } if names.is_empty() => self.stop_all().await,
            Ask::Stop { names } => self.stop_some(&names).await,
            Ask::Restart { names } => self.restart(&names).await,
            Ask::Reload { names } => {
                let reloaded = self.reload(&names).await?;
                out.item(&reloaded).await
            }
            Ask::Logs { names, lines, follow } => {
                output::send(self.printing(&names)?, lines, follow, out).await
            }
            Ask::Cluster => out.item(&self.node()?.view().await).await,
            Ask::Promote { yes } => out.item(&self.node()?.promote(yes).await?).await,
            Ask::HandOff { to } => self.node()?.hand_off(to).await,
            Ask::Wait(wanted) => {
                let waiting = Waiting { replication: self.replication(), link: self.node.get().cloned() };
                out.item(&waiting.wait(&wanted).await?).await
            }
            // The server's own, which stays to tell how it went.
            Ask::Down => Ok(()),
        }
    }

    /// How everything ended, once it has; whoever holds this is waited for.
    pub(crate) fn ended(&self) -> watch::Receiver<Option<Result<(), Report>>> {
        self.ended.subscribe()
    }

    /// Asks for the end and waits for it. Until what comes with the result is dropped, this process stays to be heard.
    pub(crate) async fn end(&self) -> (Result<(), Report>, watch::Receiver<Option<Result<(), Report>>>) {
        let mut ended = self.ended();
        self.down.notify_one();
        // The sender lives as long as `self`.
        let end = ended.wait_for(Option::is_some).await.ok().and_then(|end| end.clone());
        (end.unwrap_or(Ok(())), ended)
    }

    async fn start_all(&self) -> Result<()> {
        if self.stage() != Stage::None {
            let hint = "ask again when it is over; `litekeep start NAME` does it now";
            return Err(under_way().hint(hint).into());
        }
        let changing = self.changing.lock().await;
        Ok(supervisor(&changing)?.start().await?)
    }

    pub(crate) async fn restart(&self, names: &[String]) -> Result<()> {
        each(&self.named(names)?, Process::restart).await
    }

    /// Processes start, jobs run once.
    async fn start_some(&self, names: &[String]) -> Result<()> {
        let (jobs, processes) = self.jobs_and_processes(names)?;
        for job in jobs {
            job.run().await?;
        }
        each(&processes, Process::start).await
    }

    /// Processes stop; of jobs the run ends, and they are due as before.
    async fn stop_some(&self, names: &[String]) -> Result<()> {
        let (jobs, processes) = self.jobs_and_processes(names)?;
        let (jobs, processes) =
            tokio::join!(join_all(jobs.iter().map(job::Handle::end_run)), each(&processes, Process::stop));
        jobs.into_iter().collect::<litekeep_supervise::Result<()>>()?;
        processes
    }

    fn jobs_and_processes(&self, names: &[String]) -> Result<(Vec<job::Handle>, Vec<Process>)> {
        let all = self.running().jobs.clone();
        let is_job = |name: &&String| all.iter().any(|job| job.handle.name() == **name);
        let (wanted, rest): (Vec<&String>, Vec<&String>) = names.iter().partition(is_job);
        let rest: Vec<String> = rest.into_iter().cloned().collect();
        let processes = if rest.is_empty() { Vec::new() } else { self.named(&rest)? };
        let jobs = all.into_iter().map(|job| job.handle);
        Ok((jobs.filter(|job| wanted.iter().any(|name| *name == job.name())).collect(), processes))
    }

    /// Why there is no process of this name.
    fn no_process(&self, name: &str, known: &[&str]) -> Failure {
        if self.running().jobs.iter().any(|job| job.handle.name() == name) {
            let failure = Failure::invalid(format!("`{name}` is a job, which each time has a new run"));
            let hint = format!(
                "`litekeep stop {name}` ends the run that goes on, `litekeep start {name}` begins one now"
            );
            return failure.hint(hint);
        }
        unknown(name, known)
    }

    /// A reload that is under way gives way; its migrations do not, which only the end of everything breaks off.
    async fn stop_all(&self) -> Result<()> {
        if self.stage() == Stage::Migrating {
            let hint = "`litekeep stop NAME` stops some now; `litekeep down` ends the migrations, too";
            return Err(under_way().hint(hint).into());
        }
        self.stopping.notify_waiters();
        let changing = self.changing.lock().await;
        Ok(supervisor(&changing)?.stop().await?)
    }

    /// The processes of these names; of a service with several instances all, all for no name.
    fn named(&self, names: &[String]) -> Result<Vec<Process>> {
        let all = self.processes();
        if names.is_empty() {
            return Ok(all);
        }
        let belongs = |process: &Process, name: &str| belongs(process.name(), name);
        for name in names {
            if !all.iter().any(|process| belongs(process, name)) {
                let known: Vec<&str> = all.iter().map(Process::name).collect();
                return Err(self.no_process(name, &known).into());
            }
        }
        Ok(all.into_iter().filter(|process| names.iter().any(|name| belongs(process, name))).collect())
    }

    /// What processes and jobs of these names print; of all processes for no name.
    fn printing(&self, names: &[String]) -> Result<Vec<output::Printed>> {
        let jobs = self.running().jobs.clone();
        let (of_jobs, rest): (Vec<String>, Vec<String>) =
            names.iter().cloned().partition(|name| jobs.iter().any(|job| job.handle.name() == *name));
        let processes = if rest.is_empty() && !names.is_empty() { Vec::new() } else { self.named(&rest)? };
        let jobs = jobs.iter().filter(|job| of_jobs.iter().any(|name| name == job.handle.name()));
        let of_jobs = jobs.map(|job| output::Printed::of_job(&job.handle));
        Ok(processes.iter().map(output::Printed::of_process).chain(of_jobs).collect())
    }

    /// Takes the configuration as it is now: migrations first, then the processes, each new run ready before its old one
    /// goes. Those that are named, or all, get new runs also where nothing changed: what they execute may have. Jobs are taken with
    /// all of it.
    ///
    /// # Errors
    /// When nothing was touched, or some of it was unfit: the rest is done then, and the error says what that was.
    pub(crate) async fn reload(&self, wanted: &[String]) -> Result<Reloaded> {
        let settings = Settings::load_stack(&self.args, Format::Text)?;
        let mut stopping = pin!(self.stopping.notified());
        stopping.as_mut().enable();
        let mut changing = self.changing.lock().await;
        supervisor(&changing)?;
        let reloaded = self.reload_until(stopping, &mut changing, &settings, wanted).await;
        self.reaches(Stage::None);
        reloaded
    }

    /// Reloads, unless everything is stopped or ended meanwhile. A configuration that is in force by then is taken all the same.
    async fn reload_until(
        &self,
        mut stopping: Pin<&mut Notified<'_>>,
        changing: &mut Changing,
        settings: &Settings,
        wanted: &[String],
    ) -> Result<Reloaded> {
        let replaced = self.replace(changing, settings, wanted);
        let replaced = self.unless_over(stopping.as_mut(), replaced).await;
        if let Some(supervisor) = &changing.supervisor {
            let mut running = self.running();
            running.processes = in_order(supervisor, &changing.order);
            running.jobs = jobs::in_order(supervisor, &changing.jobs);
        }
        let Replaced { mut done, mut failed } = replaced.map_err(Failure::invalid)??;
        self.keep_accepted(settings);
        changing.accepted = Some(settings.clone());
        if let Some(hooks) = &changing.hooks {
            hooks.change(&settings.config, &self.args);
        }
        done.warnings.extend(take_pages(changing, &settings.config).await);
        done.warnings.extend(untaken::warnings(&changing.begun, &settings.config));
        let renewed = {
            let is_over = |name: &str| {
                has_failed(&failed, name) || done.reloaded.iter().chain(&done.started).any(|new| new == name)
            };
            let renewed = supervisor(changing)?.renew(|name| is_meant(wanted, name) && !is_over(name));
            self.unless_over(stopping, renewed).await
        };
        let renewed = match renewed {
            Ok(renewed) => renewed,
            Err(over) => {
                let over = Failure::invalid(format!("the configuration has been taken, but {over}"));
                return Err(done.but(over.into(), failed));
            }
        };
        done.reloaded.extend(renewed.renewed);
        done.reloaded.sort_by_key(|name| changing.order.iter().position(|known| known == name));
        failed.extend(renewed.failed);
        let away = tell_away(changing, &done.reloaded);
        done.warnings.extend(away);
        if failed.is_empty() {
            return Ok(done);
        }
        let (_, first) = failed.remove(0);
        Err(done.but(first.into(), failed))
    }

    /// What comes of a step, or why it is left.
    async fn unless_over<T>(
        &self,
        stopping: Pin<&mut Notified<'_>>,
        step: impl Future<Output = T>,
    ) -> Result<T, &'static str> {
        let mut ending = self.ending.subscribe();
        tokio::select! {
            biased;
            _ = ending.wait_for(|ending| *ending) => Err("everything is being ended"),
            () = stopping => Err("everything is being stopped"),
            result = step => Ok(result),
        }
    }

    /// Migrates and applies the configuration. Whoever drops this leaves nothing that a stop would not reach.
    async fn replace(
        &self,
        changing: &mut Changing,
        settings: &Settings,
        wanted: &[String],
    ) -> Result<Replaced> {
        let config = &settings.config;
        let mut services = self.services(config, &mut changing.sockets)?;
        if let Some(name) = wanted.iter().find(|name| !services.iter().any(|service| service.name == **name))
        {
            let known: Vec<&str> = services.iter().map(|service| service.name.as_str()).collect();
            return Err(self.no_process(name, &known).into());
        }
        let Some(supervisor) = &mut changing.supervisor else { return Err(starting().into()) };
        let order = names(&services);
        if !wanted.is_empty() {
            // The others stay as they are in force.
            services.retain(|service| is_meant(wanted, &service.name));
            let others = supervisor.services().filter(|service| !is_meant(wanted, &service.name));
            services.extend(others.cloned());
        }
        untaken::check(&changing.begun, config)?;
        let jobs = wanted.is_empty().then(|| self.jobs(config)).transpose()?;
        let all = Wanted { services, jobs };
        supervisor.check(&all)?;
        self.reaches(Stage::Migrating);
        if self.place().is_none_or(Place::has_primarys) {
            migrations::run(settings, Some(&changing.begun), &self.args).await?;
        }
        self.reaches(Stage::Replacing);
        let Applied { started, stopped, reloaded, failed, not_enforced } = supervisor.apply(all).await?;
        changing.order = order;
        if wanted.is_empty() {
            changing.jobs = names_of_jobs(config);
            // What has failed goes on with what it has.
            if failed.is_empty() {
                changing.sockets.close_unwanted();
            }
        }
        let warnings = not_enforced.into_iter().collect();
        Ok(Replaced { done: Reloaded { reloaded, started, stopped, warnings }, failed })
    }
}

/// What was replaced, and what was unfit.
struct Replaced {
    done: Reloaded,
    failed: Vec<(String, Error)>,
}

fn has_failed(failed: &[(String, Error)], name: &str) -> bool {
    failed.iter().any(|(own, _)| own == name)
}

/// Whether a service is among those that are wanted, which are all where none is named.
fn is_meant(wanted: &[String], name: &str) -> bool {
    wanted.is_empty() || wanted.iter().any(|wanted| wanted == name)
}

/// Says once of each that was reloaded alone that it was away.
fn tell_away(changing: &mut Changing, reloaded: &[String]) -> Vec<String> {
    let Changing { supervisor: Some(supervisor), told_away, .. } = changing else { return Vec::new() };
    let is_alone =
        |name: &str| supervisor.services().any(|service| service.name == name && !service.spec.overlaps);
    let told = reloaded.iter().filter(|name| is_alone(name) && told_away.insert((*name).clone()));
    told.map(|name| format!("`{name}` is away until the new one is ready; `proxy` avoids that")).collect()
}

/// Serves the pages as the configuration has them now; why one cannot be is said.
async fn take_pages(changing: &mut Changing, config: &Config) -> Vec<String> {
    let Changing { begun, pages: Some(pages), .. } = changing else { return Vec::new() };
    let mut failed = Vec::new();
    if begun.dashboard != config.dashboard {
        match pages.dashboard(config.dashboard.as_ref()).await {
            Ok(()) => begun.dashboard.clone_from(&config.dashboard),
            Err(error) => failed.push(error),
        }
    }
    if begun.metrics != config.metrics {
        match pages.metrics(config.metrics.as_ref()).await {
            Ok(()) => begun.metrics.clone_from(&config.metrics),
            Err(error) => failed.push(error),
        }
    }
    if begun.cluster.is_none() && begun.stream != config.stream {
        match pages.stream(config.stream.as_ref()).await {
            Ok(()) => begun.stream.clone_from(&config.stream),
            Err(error) => failed.push(error),
        }
    }
    failed.iter().map(Failure::to_string).collect()
}

/// What a reload did.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Reloaded {
    /// New runs took the places of old ones.
    pub(crate) reloaded: Vec<String>,
    pub(crate) started: Vec<String>,
    pub(crate) stopped: Vec<String>,
    pub(crate) warnings: Vec<String>,
}

impl Reloaded {
    /// The error of a reload in which some were unfit; it says what else was done.
    fn but(self, first: anyhow::Error, others: Vec<(String, Error)>) -> anyhow::Error {
        self.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        let mut also: Vec<String> = others.iter().map(|(_, error)| format!("also: {error}")).collect();
        let done = [("started", self.started), ("reloaded", self.reloaded), ("stopped", self.stopped)];
        let done = done.iter().filter(|(_, names)| !names.is_empty());
        also.extend(done.map(|(did, names)| format!("{did} `{}`", names.join("`, `"))));
        if also.is_empty() { first } else { first.context(also.join("; ")) }
    }
}

fn names_of_jobs(config: &Config) -> Vec<String> {
    config.jobs.iter().map(|job| job.name.clone()).collect()
}

fn names(services: &[Service]) -> Vec<String> {
    services.iter().map(|service| service.name.clone()).collect()
}

impl Stack {
    /// SIGHUP, as `systemctl reload` sends it.
    pub(crate) fn reload_by_signal(self: &Arc<Self>) {
        let stack = self.clone();
        tokio::spawn(async move {
            let manager = ServiceManager::from_env();
            _ = manager.as_ref().map(ServiceManager::reloading);
            match stack.reload(&[]).await {
                Ok(reloaded) => {
                    tracing::info!("reloaded {}", reloaded.reloaded.join(", "));
                    reloaded.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
                }
                Err(error) => tracing::error!("could not reload: {error:#}"),
            }
            _ = manager.as_ref().map(ServiceManager::ready);
        });
    }
}

/// Whether a process has this name, or is an instance of the service of this name.
pub(crate) fn belongs(process: &str, name: &str) -> bool {
    let rest = process.strip_prefix(name);
    rest.is_some_and(|rest| {
        rest.is_empty() || rest.strip_prefix('.').is_some_and(|n| n.parse::<u32>().is_ok())
    })
}

fn supervisor(changing: &Changing) -> Result<&Supervisor, Failure> {
    changing.supervisor.as_ref().ok_or_else(starting)
}

fn starting() -> Failure {
    let failure = Failure::new(
        Kind::Unavailable,
        "the processes have not started yet: the databases are looked at first",
    );
    failure.hint("`litekeep status` shows how far it is")
}

fn under_way() -> Failure {
    Failure::new(Kind::Unavailable, "a reload is under way")
}

fn unknown(name: &str, known: &[&str]) -> Failure {
    let failure = Failure::invalid(format!("there is no process `{name}`"));
    match known.is_empty() {
        true => failure.hint("none is configured or none has started yet"),
        false => failure.hint(format!("there are {}", known.join(", "))),
    }
}

/// The processes in this order, and then those that are not in it.
fn in_order(supervisor: &Supervisor, order: &[String]) -> Vec<Process> {
    let others = supervisor.services().map(|service| &service.name).filter(|name| !order.contains(name));
    let names = order.iter().chain(others);
    names.flat_map(|name| supervisor.service(name).unwrap_or_default().to_vec()).collect()
}

/// The same to all of them at once; the first failure counts.
async fn each(
    processes: &[Process],
    act: impl AsyncFn(&Process) -> litekeep_supervise::Result<()>,
) -> Result<()> {
    let all = join_all(processes.iter().map(async |process| act(process).await)).await;
    Ok(all.into_iter().collect::<litekeep_supervise::Result<()>>()?)
}
