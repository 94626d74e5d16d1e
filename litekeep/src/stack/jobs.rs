//! From the configuration's jobs to the supervisor's.

use anyhow::{Context as _, Result};
use litekeep_config::{Config, JobConfig, Schedule};
use litekeep_supervise::limits::Memory;
use litekeep_supervise::{Job, Spec, Supervisor, job};

use super::services;
use crate::args::ConfigArgs;
use crate::control::Home;
use crate::report::Failure;

/// A job that is under care, and when it is due, in words.
#[derive(Clone)]
pub(super) struct Known {
    pub(super) handle: job::Handle,
    pub(super) schedule: String,
}

pub(super) fn of(config: &Config, args: &ConfigArgs, home: &Home) -> Result<Vec<Job>> {
    let cwd = services::folder(args)?;
    let job = |config: &JobConfig| {
        let mut spec = Spec::new(services::surroundings(&config.run, &cwd)?);
        spec.stop_signal = services::signal(&config.stop_signal)?;
        spec.stop_timeout = config.stop_timeout;
        spec.memory = config.limits.memory.map(Memory::new);
        spec.cpu = config.limits.cpu;
        anyhow::Ok(Job {
            when: config.schedule.to_string(),
            overlap: config.overlap,
            timeout: config.timeout,
            jitter: config.jitter,
            catch_up: config.catch_up,
            history: config.history as usize,
            state: Some(home.jobs().join(&config.name)),
            log: services::log_of(&config.log, &config.name, home),
            ..Job::new(&config.name, spec, schedule(&config.schedule)?)
        })
    };
    let jobs = config.jobs.iter();
    jobs.map(|config| job(config).with_context(|| format!("set up the job `{}`", config.name))).collect()
}

/// The jobs in this order, and then those that are not in it.
pub(super) fn in_order(supervisor: &Supervisor, order: &[String]) -> Vec<Known> {
    let others = supervisor.jobs().filter(|job| !order.iter().any(|name| name == job.name()));
    let all = order.iter().filter_map(|name| supervisor.job(name).ok()).chain(others);
    let known = |handle: &job::Handle| {
        let schedule = handle.status().borrow().when.clone();
        Known { handle: handle.clone(), schedule }
    };
    all.map(known).collect()
}

fn schedule(schedule: &Schedule) -> Result<job::Schedule> {
    match schedule {
        Schedule::Every(interval) => Ok(job::Schedule::Every(*interval)),
        Schedule::Cron { .. } => Ok(job::Schedule::At(schedule.due().map_err(Failure::invalid)?)),
    }
}
