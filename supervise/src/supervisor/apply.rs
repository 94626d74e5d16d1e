//! Services that come, change and go while the others run.
//!
//! Everything that can be known before is looked at first, and refused as a whole. From then on each service is for itself: what
//! is new in it must prove itself before what it replaces goes, and if it does not, the service stays as it was.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::{join_all, try_join_all};

use super::order::{check_jobs, conditions, levels, log_of};
use super::{Service, Supervisor, job_of, limit, process_of};
use crate::error::{Error, Result};
use crate::job::{Handle, Job};
use crate::process::{Condition, Process, Spec, State};

/// What became of the services that were applied.
#[derive(Debug, Default)]
pub struct Applied {
    /// Services that are new.
    pub started: Vec<String>,
    /// Services that are gone.
    pub stopped: Vec<String>,
    /// Services that have new runs.
    pub reloaded: Vec<String>,
    /// Services that go on as they were, with the reason: what was new is unfit.
    pub failed: Vec<(String, Error)>,
    /// Limits that are new and that nobody enforces, in words.
    pub not_enforced: Option<String>,
}

impl Supervisor {
    /// Makes these the services under care: stops those that are gone, dependants first, starts new ones, and reloads those that
    /// changed. An error means that nothing was touched but the files of logs; a new definition that turns out to be unfit is told in
    /// [`Applied::failed`], and what ran before goes on.
    pub async fn apply(&mut self, services: Vec<Service>) -> Result<Applied> {
        let levels = levels(&services)?;
        self.check(&services)?;
        let mut wanted: BTreeMap<String, Service> =
            services.into_iter().map(|service| (service.name.clone(), service)).collect();
        self.configure_logs(&wanted)?;
        let specs = wanted.values().map(|service| (service.name.as_str(), &service.spec));
        let not_enforced = limit(&self.context, &mut self.limited, specs);
        let stopped = self.stop_unwanted(&wanted).await;
        let mut applied = Applied { stopped, not_enforced, ..Applied::default() };
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
                    Ok(Change { processes, is_reloaded }) => {
                        match (self.services.contains_key(&name), is_reloaded) {
                            (false, _) => applied.started.push(name.clone()),
                            (true, true) => applied.reloaded.push(name.clone()),
                            (true, false) => {}
                        }
                        processes
                    }
                    Err(error) => {
                        applied.failed.push((name.clone(), error));
                        let Some((old, processes)) = self.services.remove(&name) else { continue };
                        (service.spec, service.instances) = (old.spec, old.instances);
                        processes
                    }
                };
                self.services.insert(name, (service, processes));
            }
        }
        self.levels = levels;
        self.watch_files();
        Ok(applied)
    }

    /// Makes these the jobs under care: stops those that are gone, starts to care for new ones, and changes the others from their next
    /// run on. Gives back which limits are new and nobody enforces, in words.
    pub async fn apply_jobs(&mut self, jobs: Vec<Job>) -> Result<Option<String>> {
        check_jobs(&jobs, self.services.values().map(|(service, _)| service))?;
        let specs = jobs.iter().map(|job| (job.name.as_str(), &job.spec));
        let not_enforced = limit(&self.context, &mut self.limited, specs);
        let is_wanted = |name: &String| jobs.iter().any(|job| job.name == *name);
        let gone: Vec<String> = self.jobs.keys().filter(|name| !is_wanted(name)).cloned().collect();
        let gone: Vec<Handle> = gone.iter().filter_map(|name| self.jobs.remove(name)).collect();
        let mut result: Result<()> = join_all(gone.iter().map(Handle::stop)).await.into_iter().collect();
        for job in jobs {
            let applied = match self.jobs.get(&job.name) {
                Some(known) => known.change(job).await,
                None => self.begin_job(job).await,
            };
            result = result.and(applied);
        }
        result.map(|()| not_enforced)
    }

    async fn begin_job(&mut self, job: Job) -> Result<()> {
        let (name, job) = (job.name.clone(), job_of(job, &self.context, None)?);
        job.start().await?;
        self.jobs.insert(name, job);
        Ok(())
    }

    fn check(&self, services: &[Service]) -> Result<()> {
        for service in services {
            // What a new one needs may be made by what it waits for; what runs is not asked again.
            let must_be_there = match self.services.get(&service.name) {
                Some((old, _)) => !old.spec.has_same_run(&service.spec),
                None => service.after.is_empty() && service.conditions.is_empty(),
            };
            if must_be_there {
                service.spec.spawn.check()?;
            }
            if let Some(name) = service.instance_names().iter().find(|name| self.jobs.contains_key(*name)) {
                let place = format!("process `{name}`");
                return Err(Error::invalid(place, "a job has this name: give it another one"));
            }
        }
        Ok(())
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
        for level in self.levels.iter().rev() {
            let gone = level.iter().filter(|name| !wanted.contains_key(*name));
            let gone: Vec<_> = gone.filter_map(|name| self.services.remove(name)).collect();
            let processes = gone.iter().flat_map(|(_, processes)| processes);
            for error in join_all(processes.map(Process::stop)).await.into_iter().filter_map(Result::err) {
                tracing::error!("{error}");
            }
            stopped.extend(gone.into_iter().map(|(service, _)| service.name));
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
        if let (true, Some(old)) = (needs_reload, old) {
            reload_each(&stay, &new.spec, &old.spec).await?;
        }
        let is_there = |name: &String| running.iter().any(|process| process.name() == name);
        let fresh = names.iter().filter(|name| !is_there(name));
        let fresh = fresh.map(|name| process_of(new, name, conditions.clone(), &self.context, None));
        let fresh: Vec<Process> = fresh.collect::<Result<_>>()?;
        try_join_all(fresh.iter().map(Process::start)).await?;
        // Those that go are needed until the fresh ones do their work.
        if !go.is_empty()
            && let Err(error) =
                try_join_all(fresh.iter().map(|process| ready(process, new.spec.ready_timeout))).await
        {
            join_all(fresh.iter().map(Process::stop)).await;
            return Err(error);
        }
        try_join_all(go.iter().map(|process| process.stop())).await?;
        try_join_all(stay.iter().map(|process| process.adjust(new.spec.clone(), conditions.clone()))).await?;
        let is_reloaded = old.is_some() && (needs_reload || !fresh.is_empty() || !go.is_empty());
        let mut processes: Vec<Process> = stay.into_iter().cloned().chain(fresh).collect();
        processes.sort_by_key(|process| names.iter().position(|name| name == process.name()));
        Ok(Change { processes, is_reloaded })
    }
}

struct Change {
    processes: Vec<Process>,
    is_reloaded: bool,
}

/// Gives processes new runs, one after another; if one is unfit, those before it get their old settings back.
async fn reload_each(processes: &[&Process], new: &Spec, old: &Spec) -> Result<()> {
    for (i, process) in processes.iter().enumerate() {
        if let Err(error) = process.reload(new.clone()).await {
            for replaced in &processes[..i] {
                replaced.reload(old.clone()).await?;
            }
            return Err(error);
        }
    }
    Ok(())
}

/// Waits until a new process is ready, or ended well.
async fn ready(process: &Process, patience: Duration) -> Result<()> {
    let mut status = process.status();
    let is_settled = |state| matches!(state, State::Healthy | State::Completed | State::Failed);
    let settled = tokio::time::timeout(patience, status.wait_for(|status| is_settled(status.state))).await;
    let reason = match settled {
        Ok(Ok(status)) if status.state != State::Failed => return Ok(()),
        Ok(Ok(status)) => status.reason.clone(),
        Ok(Err(_)) => "its supervisor has ended".into(),
        Err(_) => format!("not ready within {patience:?}"),
    };
    Err(Error::Unready { process: process.name().into(), reason })
}
