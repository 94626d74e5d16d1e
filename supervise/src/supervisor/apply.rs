//! Services and jobs that come, change and go while the others run.
//!
//! Everything that can be known before is looked at first, and refused as a whole. From then on each service is for itself: what
//! is new in it must prove itself before what it replaces goes, and if it does not, the service stays as it was. Jobs that are gone
//! end first, and the others change last, so that a name can go from the one kind to the other.
//!
//! Whoever drops an `apply` under way leaves nothing that a stop would not reach.

use std::collections::BTreeMap;

use futures::future::{join_all, try_join_all};

use super::order::{check_jobs, conditions, levels, log_of};
use super::renew::{Wait, proves_itself};
use super::{Service, Supervisor, job_of, limit, process_of};
use crate::error::{Error, Result};
use crate::job::{Handle, Job};
use crate::log::{self, Log};
use crate::process::{Condition, Process, Spec, State};

/// What is to be under care.
#[derive(Clone)]
pub struct Wanted {
    /// All services.
    pub services: Vec<Service>,
    /// All jobs; `None`: they stay as they are.
    pub jobs: Option<Vec<Job>>,
}

impl From<Vec<Service>> for Wanted {
    fn from(services: Vec<Service>) -> Wanted {
        Wanted { services, jobs: None }
    }
}

/// What became of the services that were applied.
#[derive(Debug, Default)]
pub struct Applied {
    /// Services that are new.
    pub started: Vec<String>,
    /// Services that are gone.
    pub stopped: Vec<String>,
    /// Services that have new runs.
    pub reloaded: Vec<String>,
    /// Services and jobs of which what is new is unfit, with the reason. They go on as they were; where nothing ran, what is new is
    /// in force, and tried again as its policy says.
    pub failed: Vec<(String, Error)>,
    /// Limits that are new and that nobody enforces, in words.
    pub not_enforced: Option<String>,
}

impl Supervisor {
    /// Makes these the services and jobs under care: stops those that are gone, dependants first, starts new ones, and reloads services
    /// that changed; jobs change from their next run on. An error means that nothing was touched but the files of logs; a new
    /// definition that turns out to be unfit is told in [`Applied::failed`], and what ran before goes on.
    pub async fn apply(&mut self, wanted: impl Into<Wanted>) -> Result<Applied> {
        let wanted = wanted.into();
        self.check(&wanted)?;
        let Wanted { services, jobs } = wanted;
        let levels = levels(&services)?;
        let mut wanted: BTreeMap<String, Service> =
            services.into_iter().map(|service| (service.name.clone(), service)).collect();
        self.configure_logs(&wanted)?;
        self.begun.by_service().retain(|name, _| !self.services.contains_key(name));
        let specs = wanted.values().map(|service| (service.name.as_str(), &service.spec));
        let of_jobs = jobs.iter().flatten().map(|job| (job.name.as_str(), &job.spec));
        let not_enforced = limit(&self.context, &mut self.limited, specs.chain(of_jobs));
        let mut applied = Applied { not_enforced, ..Applied::default() };
        if let Some(jobs) = &jobs {
            applied.failed = self.stop_unwanted_jobs(jobs).await;
        }
        applied.stopped = self.stop_unwanted(&wanted).await;
        self.levels.clone_from(&levels);
        for level in &levels {
            let of_level = level.iter().map(|name| wanted.remove(name).expect("a name of one level"));
            let changes: Vec<_> = of_level
                .map(|service| {
                    let conditions = conditions(&service, &self.services);
                    async { (self.change(&service, conditions).await, service) }
                })
                .collect();
            for (change, mut service) in join_all(changes).await {
                let name = service.name.clone();
                let processes = match change {
                    Ok(Change { processes, is_reloaded, unfit }) => {
                        match (unfit, self.services.contains_key(&name), is_reloaded) {
                            (Some(error), ..) => applied.failed.push((name.clone(), error)),
                            (None, false, _) => applied.started.push(name.clone()),
                            (None, true, true) => applied.reloaded.push(name.clone()),
                            (None, true, false) => {}
                        }
                        processes
                    }
                    Err(error) => {
                        self.begun.by_service().remove(&name);
                        applied.failed.push((name.clone(), error));
                        let Some((old, processes)) = self.services.remove(&name) else { continue };
                        (service.spec, service.instances) = (old.spec, old.instances);
                        processes
                    }
                };
                self.services.insert(name, (service, processes));
            }
        }
        for job in jobs.into_iter().flatten() {
            let name = job.name.clone();
            let changed = match self.jobs.get(&name) {
                Some(known) => known.change(job).await,
                None => self.begin_job(job).await,
            };
            applied.failed.extend(changed.err().map(|error| (name, error)));
        }
        self.watch_files();
        Ok(applied)
    }

    /// Whether these could be under care, as far as that can be said before something is touched.
    pub fn check(&self, wanted: &Wanted) -> Result<()> {
        let Wanted { services, jobs } = wanted;
        levels(services)?;
        if let Some(jobs) = jobs {
            check_jobs(jobs, services.iter())?;
        }
        for service in services {
            // What a new one needs may be made by what it waits for; what runs is not asked again.
            let must_be_there = match self.services.get(&service.name) {
                Some((old, _)) => !old.spec.has_same_run(&service.spec),
                None => service.after.is_empty() && service.conditions.is_empty(),
            };
            if must_be_there {
                service.spec.spawn.check()?;
            }
            let names = service.instance_names();
            if let Some(name) = names.iter().find(|name| jobs.is_none() && self.jobs.contains_key(*name)) {
                let place = format!("process `{name}`");
                return Err(Error::invalid(place, "a job has this name: give it another one"));
            }
            for name in &names {
                let known = self.processes().find(|process| process.name() == name).map(Process::log);
                check_log(known, &log_of(service, name))?;
            }
        }
        for job in jobs.iter().flatten() {
            check_log(self.jobs.get(&job.name).map(Handle::log), &job.log)?;
        }
        Ok(())
    }

    async fn begin_job(&mut self, job: Job) -> Result<()> {
        let (name, job) = (job.name.clone(), job_of(job, &self.context, None)?);
        job.start().await?;
        self.jobs.insert(name, job);
        Ok(())
    }

    /// Stops jobs that are not wanted any more, all at once; what is left of which of them.
    async fn stop_unwanted_jobs(&mut self, wanted: &[Job]) -> Vec<(String, Error)> {
        let is_wanted = |name: &str| wanted.iter().any(|job| job.name == name);
        let gone = self.jobs.values().filter(|job| !is_wanted(job.name()));
        let stopped = join_all(gone.map(async |job| (job.name().to_owned(), job.stop().await))).await;
        // Not before: a stop of everything must reach them.
        self.jobs.retain(|name, _| is_wanted(name));
        stopped.into_iter().filter_map(|(name, stopped)| Some((name, stopped.err()?))).collect()
    }

    fn configure_logs(&self, wanted: &BTreeMap<String, Service>) -> Result<()> {
        for (service, processes) in self.services.values() {
            let Some(new) = wanted.get(&service.name).filter(|new| new.log != service.log) else { continue };
            for process in processes {
                process.log().reconfigure(log_of(new, process.name()))?;
            }
        }
        Ok(())
    }

    /// Stops services that are not wanted any more, dependants first.
    async fn stop_unwanted(&mut self, wanted: &BTreeMap<String, Service>) -> Vec<String> {
        let mut stopped = Vec::new();
        for level in self.levels.clone().iter().rev() {
            let gone: Vec<&String> = level.iter().filter(|name| !wanted.contains_key(*name)).collect();
            let services = gone.iter().filter_map(|name| self.services.get(*name));
            let processes = services.flat_map(|(_, processes)| processes);
            for error in join_all(processes.map(Process::stop)).await.into_iter().filter_map(Result::err) {
                tracing::error!("{error}");
            }
            for name in gone {
                self.watches.remove(name);
                // Not before: a stop of everything must reach them.
                stopped.extend(self.services.remove(name).map(|(service, _)| service.name));
            }
        }
        stopped
    }

    /// Brings one service to its new definition, or leaves it as it was.
    async fn change(&self, new: &Service, conditions: Vec<Condition>) -> Result<Change> {
        let (old, running) = match self.services.get(&new.name) {
            Some((old, processes)) => (Some(old), processes.as_slice()),
            None => (None, &[][..]),
        };
        let names = new.instance_names();
        let (stay, go): (Vec<&Process>, Vec<&Process>) =
            running.iter().partition(|process| names.iter().any(|name| name == process.name()));
        let needs_reload = old.is_some_and(|old| !old.spec.has_same_run(&new.spec))
            || stay.iter().any(|process| process.status().borrow().needs_reload);
        let mut unfit = None;
        if let (true, Some(old)) = (needs_reload, old) {
            unfit = reload_each(&stay, new, &old.spec).await?;
        }
        let is_there = |name: &String| running.iter().any(|process| process.name() == name);
        let fresh = names.iter().filter(|name| !is_there(name));
        let fresh = fresh.map(|name| process_of(new, name, conditions.clone(), &self.context, None));
        let fresh: Vec<Process> = fresh.collect::<Result<_>>()?;
        self.begun.by_service().insert(new.name.clone(), fresh.clone());
        try_join_all(fresh.iter().map(Process::start)).await?;
        // Those that go are needed until the fresh ones do their work.
        if !go.is_empty()
            && let Err(error) =
                try_join_all(fresh.iter().map(|process| proves_itself(new, process, Wait::Counts))).await
        {
            join_all(fresh.iter().map(Process::stop)).await;
            return Err(error);
        }
        try_join_all(go.iter().map(|process| process.stop())).await?;
        try_join_all(stay.iter().map(|process| process.adjust(new.spec.clone(), conditions.clone()))).await?;
        let is_reloaded = old.is_some() && (needs_reload || !fresh.is_empty() || !go.is_empty());
        let mut processes: Vec<Process> = stay.into_iter().cloned().chain(fresh).collect();
        processes.sort_by_key(|process| names.iter().position(|name| name == process.name()));
        Ok(Change { processes, is_reloaded, unfit })
    }
}

struct Change {
    processes: Vec<Process>,
    is_reloaded: bool,
    /// What is wrong with one that has the new definition because it did not run before.
    unfit: Option<Error>,
}

/// Whether output can go there, if it does not do so yet.
fn check_log(known: Option<&Log>, wanted: &log::Settings) -> Result<()> {
    match &wanted.path {
        Some(path) if known.is_none_or(|known| !known.is_at(path)) => log::check(path),
        _ => Ok(()),
    }
}

/// Gives processes new runs, one after another; if one is unfit, it goes on as it was, and those before it get their old settings back.
/// Of one that did not run there is nothing that could go on: it has the new settings in any case, and what is wrong with it is given
/// back.
async fn reload_each(processes: &[&Process], new: &Service, old: &Spec) -> Result<Option<Error>> {
    let mut unfit = None;
    for (i, process) in processes.iter().enumerate() {
        let (runs, state) = {
            let status = process.status();
            let status = status.borrow();
            (status.pid.is_some(), status.state)
        };
        let mut reloaded = process.reload(new.spec.clone()).await;
        // This says only that the program could be executed.
        if reloaded.is_ok() && !runs && state != State::Stopped {
            reloaded = proves_itself(new, process, Wait::IsFine).await;
        }
        match reloaded {
            Err(error) if runs => {
                for replaced in &processes[..i] {
                    replaced.reload(old.clone()).await?;
                }
                return Err(error);
            }
            Err(error) => _ = unfit.get_or_insert(error),
            Ok(()) => {}
        }
    }
    Ok(unfit)
}
