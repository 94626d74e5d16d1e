//! All processes and jobs together: who starts after whom, and the end of all of them.
//!
//! Every process waits for what it depends on by itself, so a start takes as long as its slowest chain. A stop goes level by level,
//! dependants first; those of one level stop at the same time. What a run left behind and nobody can be asked for any more is
//! adopted by this process: it is reaped when it ends, and killed at the end of the stop.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::future::{BoxFuture, join_all};
use litekeep_env::{Clock, process};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;

use crate::cgroup::{Cgroups, Limits};
use crate::error::{Error, Result};
use crate::events::{Events, Kind};
use crate::job::{self, Job};
use crate::limits::not_enforced;
use crate::log::{self, Log};
use crate::process::{Condition, Context, Process, Spec, State, Status};
use crate::run::Run;
use crate::spawn::{Command, Spawn};
use crate::survivors::{Folder, Survivor, take};
use crate::tree::kill_adopted;
use crate::watch::{self, Files, Watch};
pub use apply::{Applied, Wanted};
use order::{check_jobs, conditions, levels, log_of};
pub use renew::Renewed;

mod apply;
mod order;
mod renew;

/// How often adopted zombies are looked for when no signal tells of them.
const REAP_EVERY: Duration = Duration::from_secs(5);

/// What another process must have reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// It runs.
    Started,
    /// It is ready.
    Healthy,
    /// It ended with exit code 0.
    Completed,
}

impl Until {
    fn is_met(self, status: &Status) -> bool {
        match self {
            Until::Started => status.pid.is_some() || status.state == State::Completed,
            Until::Healthy => status.state == State::Healthy,
            Until::Completed => status.state == State::Completed,
        }
    }
}

/// A process or several alike.
#[derive(Clone)]
pub struct Service {
    /// Its name; with several instances they are `NAME.1` and so on.
    pub name: String,
    /// What it is.
    pub spec: Spec,
    /// How many of it there are.
    pub instances: u32,
    /// Other services, and what they must have reached before it starts.
    pub after: Vec<(String, Until)>,
    /// What else must hold before it starts.
    pub conditions: Vec<Condition>,
    /// Where its output goes; with several instances each has a file with its number.
    pub log: log::Settings,
    /// Files whose change gives it new runs, one instance after another.
    pub watch: Option<watch::Settings>,
}

impl Service {
    /// One process that depends on nothing.
    pub fn new(name: &str, spec: Spec) -> Service {
        let log = log::Settings::default();
        Service { name: name.into(), spec, instances: 1, after: vec![], conditions: vec![], log, watch: None }
    }

    fn instance_names(&self) -> Vec<String> {
        match self.instances {
            1 => vec![self.name.clone()],
            n => (1..=n).map(|i| format!("{}.{i}", self.name)).collect(),
        }
    }
}

/// What a supervisor is made of.
#[derive(Clone)]
pub struct Setup {
    /// What runs all the time.
    pub services: Vec<Service>,
    /// What runs now and then.
    pub jobs: Vec<Job>,
    /// Wall time.
    pub clock: Arc<dyn Clock>,
    /// Where each run gets a group of its own.
    pub cgroups: Cgroups,
    /// Where runs are written down. With it they outlive a litekeep that is killed, and the next one takes them over; without
    /// it a write of theirs fails when litekeep is gone.
    pub state: Option<PathBuf>,
}

impl Setup {
    /// Nothing to care for.
    pub fn new(clock: Arc<dyn Clock>, cgroups: Cgroups) -> Setup {
        Setup { services: vec![], jobs: vec![], clock, cgroups, state: None }
    }
}

/// Processes that an [`apply`](Supervisor::apply) has begun, also while it is under way: its supervisor cannot be asked then.
#[derive(Clone, Default)]
pub struct Begun(Arc<Mutex<BTreeMap<String, Vec<Process>>>>);

impl Begun {
    /// Those that are there now, also some that have a place in their service by now.
    pub fn processes(&self) -> Vec<Process> {
        self.by_service().values().flatten().cloned().collect()
    }

    /// By the names of the services that they are for.
    fn by_service(&self) -> MutexGuard<'_, BTreeMap<String, Vec<Process>>> {
        self.0.lock().expect("no panic while held")
    }
}

/// All processes under care.
pub struct Supervisor {
    services: BTreeMap<String, (Service, Vec<Process>)>,
    /// Names by level: each depends only on levels before its own.
    levels: Vec<Vec<String>>,
    jobs: BTreeMap<String, job::Handle>,
    begun: Begun,
    /// Of services, by their names.
    watches: BTreeMap<String, Watch>,
    /// The limits that each process and job is known to want.
    limited: BTreeMap<String, Limits>,
    context: Context,
    reaper: JoinHandle<()>,
    /// Ends what an earlier litekeep left and nobody wants any more.
    strays: Mutex<Option<JoinHandle<()>>>,
}

impl Supervisor {
    /// Takes services into care, as [`Supervisor::set_up`] does.
    pub fn new(services: Vec<Service>, clock: Arc<dyn Clock>, cgroups: Cgroups) -> Result<Supervisor> {
        Supervisor::set_up(Setup { services, ..Setup::new(clock, cgroups) })
    }

    /// Takes services and jobs into care, within a tokio runtime; nothing starts yet. This process adopts their orphans from now on.
    pub fn set_up(setup: Setup) -> Result<Supervisor> {
        let Setup { services, jobs, clock, cgroups, state } = setup;
        let levels = levels(&services)?;
        check_jobs(&jobs, services.iter())?;
        process::become_subreaper().map_err(Error::file("adopt orphans (PR_SET_CHILD_SUBREAPER)".into()))?;
        let id = format!("{:016x}", litekeep_env::random_u64());
        let events = Events::new(clock.clone());
        let (folder, mut survivors) = match &state {
            Some(dir) => Folder::open(dir).map(|(folder, survivors)| (Some(Arc::new(folder)), survivors))?,
            None => (None, vec![]),
        };
        let runs = Arc::new(AtomicU64::new(0));
        let context = Context { clock, cgroups, id, events, folder, runs };
        let specs = services.iter().map(|service| (service.name.as_str(), &service.spec));
        let specs = specs.chain(jobs.iter().map(|job| (job.name.as_str(), &job.spec)));
        let mut limited = BTreeMap::new();
        limit(&context, &mut limited, specs);
        let mut all: BTreeMap<String, (Service, Vec<Process>)> = BTreeMap::new();
        let by_name: BTreeMap<&str, &Service> = services.iter().map(|s| (s.name.as_str(), s)).collect();
        for name in levels.iter().flatten() {
            let service = by_name[name.as_str()];
            let conditions = conditions(service, &all);
            let names = service.instance_names().into_iter();
            let processes = names.map(|name| {
                let survivor = take(&mut survivors, &name);
                process_of(service, &name, conditions.clone(), &context, survivor)
            });
            let processes = processes.collect::<Result<_>>()?;
            all.insert(name.clone(), (service.clone(), processes));
        }
        let jobs = jobs.into_iter().map(|job| {
            let survivor = take(&mut survivors, &job.name);
            Ok((job.name.clone(), job_of(job, &context, survivor)?))
        });
        let jobs = jobs.collect::<Result<_>>()?;
        let reaper = tokio::spawn(reap());
        let strays = tokio::spawn(stop_strays(survivors, context.clone()));
        let strays = Mutex::new(Some(strays));
        let (begun, watches) = (Begun::default(), BTreeMap::new());
        let mut supervisor =
            Supervisor { services: all, levels, jobs, begun, watches, limited, context, reaper, strays };
        supervisor.watch_files();
        Ok(supervisor)
    }

    /// Watches the files of all services as they are now.
    fn watch_files(&mut self) {
        self.watches.clear();
        let of_processes = self.processes().map(Process::log);
        let logs = of_processes.chain(self.jobs().map(job::Handle::log)).filter_map(Log::path);
        let logs: Arc<[PathBuf]> = logs.flat_map(|log| [watch::real(&log), log]).collect();
        for (name, (service, processes)) in &self.services {
            let Some(mut settings) = service.watch.clone() else { continue };
            let (never, logs) = (settings.never, logs.clone());
            settings.never =
                Arc::new(move |path| never(path) || logs.iter().any(|log| watch::is_log(path, log)));
            let (own, processes, events) = (name.clone(), processes.clone(), self.context.events.clone());
            let on_change = move |path: PathBuf| {
                events.tell(&own, Kind::FilesChanged, path.display().to_string());
                let processes = processes.clone();
                let renew: BoxFuture<'static, ()> = Box::pin(async move {
                    for process in processes {
                        // The first that is unfit speaks for the others; the process tells why.
                        if process.renew().await.is_err() {
                            return;
                        }
                    }
                });
                renew
            };
            let (own, events) = (name.clone(), self.context.events.clone());
            let watch = Watch::new(async move {
                match Files::watch(settings).await {
                    Ok(files) => files.follow(on_change).await,
                    Err(error) => events.tell(&own, Kind::Warning, error.to_string()),
                }
            });
            self.watches.insert(name.clone(), watch);
        }
    }

    /// What happens from now on.
    pub fn events(&self) -> &Events {
        &self.context.events
    }

    /// What comes at run time.
    pub fn begun(&self) -> &Begun {
        &self.begun
    }

    /// Every job, by its name.
    pub fn jobs(&self) -> impl Iterator<Item = &job::Handle> {
        self.jobs.values()
    }

    /// One job.
    pub fn job(&self, name: &str) -> Result<&job::Handle> {
        let found = self.jobs.get(name);
        found.ok_or_else(|| Error::invalid(format!("job `{name}`"), "there is none of this name"))
    }

    /// Every process, by its name.
    pub fn processes(&self) -> impl Iterator<Item = &Process> {
        self.services.values().flat_map(|(_, processes)| processes)
    }

    /// Every service as it is cared for, by its name.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.services.values().map(|(service, _)| service)
    }

    /// The instances of a service.
    pub fn service(&self, name: &str) -> Result<&[Process]> {
        let found = self.services.get(name).map(|(_, processes)| processes.as_slice());
        found.ok_or_else(|| Error::invalid(format!("process `{name}`"), "there is none of this name"))
    }

    /// Starts everything: each process when what it waits for holds, each job when it is due. Returns at once.
    pub async fn start(&self) -> Result<()> {
        join_all(self.jobs().map(job::Handle::start)).await.into_iter().collect::<Result<()>>()?;
        join_all(self.processes().map(Process::start)).await.into_iter().collect()
    }

    /// Waits until what an earlier litekeep left and nobody wants has ended.
    pub async fn strays_gone(&self) {
        let strays = self.strays.lock().expect("no panic while held").take();
        if let Some(strays) = strays {
            _ = strays.await;
        }
    }

    /// Stops everything, jobs first, then dependants before what they depend on, and then whatever they left behind. Goes on after a failure and tells the first.
    /// What an [`apply`](Supervisor::apply) that was dropped has begun is stopped with it.
    pub async fn stop(&self) -> Result<()> {
        let mut result: Result<()> = join_all(self.jobs().map(job::Handle::stop)).await.into_iter().collect();
        for level in self.levels.iter().rev() {
            let known = level.iter().filter_map(|name| self.services.get(name)).flat_map(|(_, all)| all);
            let begun: Vec<Process> = {
                let begun = self.begun.by_service();
                level.iter().filter_map(|name| begun.get(name)).flatten().cloned().collect()
            };
            for stopped in join_all(known.chain(&begun).map(Process::stop)).await {
                result = result.and(stopped);
            }
        }
        self.begun.by_service().clear();
        self.strays_gone().await;
        let own = format!(":{}:", self.context.id);
        let killed = kill_adopted(|instance| instance.contains(':') && !instance.contains(&own)).await;
        if killed > 0 {
            tracing::warn!("killed {killed} processes that nobody was in charge of");
        }
        result
    }
}

/// Lets runs have the limits that are not known yet. What of these nobody enforces is told, and given back.
fn limit<'a>(
    context: &Context,
    known: &mut BTreeMap<String, Limits>,
    specs: impl Iterator<Item = (&'a str, &'a Spec)>,
) -> Option<String> {
    let specs: Vec<_> = specs.filter(|(name, spec)| known.get(*name) != Some(&spec.limits())).collect();
    known.extend(specs.iter().map(|(name, spec)| ((*name).to_owned(), spec.limits())));
    context.cgroups.pass_on_for(specs.iter().map(|(_, spec)| spec.limits()));
    let text = not_enforced(&context.cgroups, specs.into_iter())?;
    tracing::warn!("{text}");
    context.events.tell("", Kind::Warning, &*text);
    Some(text)
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.reaper.abort();
    }
}

/// A process of a service, which waits to be started.
fn process_of(
    service: &Service,
    name: &str,
    conditions: Vec<Condition>,
    context: &Context,
    survivor: Option<Survivor>,
) -> Result<Process> {
    let log = Log::open(log_of(service, name), context.clock.clone())?;
    Ok(Process::new(name, service.spec.clone(), conditions, log, context.clone(), survivor))
}

/// A job, which waits to be started.
fn job_of(job: Job, context: &Context, survivor: Option<Survivor>) -> Result<job::Handle> {
    let log = Log::open(job.log.clone(), context.clock.clone())?;
    Ok(job::Handle::new(job, log, context.clone(), survivor))
}

/// Ends runs of an earlier litekeep that are not configured any more, all at once, each as it was to be ended.
async fn stop_strays(strays: Vec<Survivor>, context: Context) {
    let stop = async |stray: Survivor| {
        let mut spec = Spec::new(Spawn::new(Command::shell("")));
        (spec.stop_signal, spec.stop_timeout) = (stray.stop_signal, stray.stop_timeout);
        // Its output is read, so that it does not wait for a reader instead of ending.
        let log = Log::open(log::Settings::default(), context.clock.clone())?;
        let Some(run) = Run::adopt(&stray, Arc::new(spec), &log, &context).await? else { return Ok(()) };
        run.stop(stray.name()).await.1?;
        let text =
            format!("process {} of an earlier litekeep: it is not configured any more", stray.leader.pid);
        context.events.tell(stray.name(), Kind::Stopped, text);
        Ok::<_, Error>(())
    };
    for error in join_all(strays.into_iter().map(stop)).await.into_iter().filter_map(Result::err) {
        context.events.tell("", Kind::Warning, error.to_string());
    }
}

/// Reaps adopted children whenever a child ended.
async fn reap() {
    let Ok(mut child_ended) = signal(SignalKind::child()) else {
        return tracing::error!("could not listen for SIGCHLD: orphans stay zombies");
    };
    loop {
        process::reap_adopted();
        _ = tokio::time::timeout(REAP_EVERY, child_ended.recv()).await;
    }
}
