//! All processes together: who starts after whom, and the end of all of them.
//!
//! Every process waits for what it depends on by itself, so a start takes as long as its slowest chain. A stop goes level by level,
//! dependants first; those of one level stop at the same time. What a run left behind and nobody can be asked for any more is
//! adopted by this process: it is reaped when it ends, and killed at the end of the stop.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use litekeep_env::{Clock, process};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::cgroup::Cgroups;
use crate::error::{Error, Result};
use crate::log::{self, Log};
use crate::process::{Condition, Context, Process, Spec, State, Status};
use crate::tree::kill_adopted;

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
}

impl Service {
    /// One process that depends on nothing.
    pub fn new(name: &str, spec: Spec) -> Service {
        let log = log::Settings::default();
        Service { name: name.into(), spec, instances: 1, after: vec![], conditions: vec![], log }
    }

    fn instance_names(&self) -> Vec<String> {
        match self.instances {
            1 => vec![self.name.clone()],
            n => (1..=n).map(|i| format!("{}.{i}", self.name)).collect(),
        }
    }
}

/// All processes under care.
pub struct Supervisor {
    services: BTreeMap<String, (Service, Vec<Process>)>,
    /// Names by level: each depends only on levels before its own.
    levels: Vec<Vec<String>>,
    id: String,
    reaper: JoinHandle<()>,
}

impl Supervisor {
    /// Takes services into care, within a tokio runtime; nothing starts yet. This process adopts their orphans from now on.
    pub fn new(services: Vec<Service>, clock: Arc<dyn Clock>, cgroups: Cgroups) -> Result<Supervisor> {
        let levels = levels(&services)?;
        process::become_subreaper().map_err(Error::file("adopt orphans (PR_SET_CHILD_SUBREAPER)".into()))?;
        let id = format!("{:016x}", litekeep_env::random_u64());
        let context = Context { clock, cgroups, id: id.clone() };
        let mut all: BTreeMap<String, (Service, Vec<Process>)> = BTreeMap::new();
        let by_name: BTreeMap<&str, &Service> = services.iter().map(|s| (s.name.as_str(), s)).collect();
        for name in levels.iter().flatten() {
            let service = by_name[name.as_str()];
            let mut conditions: Vec<Condition> = Vec::new();
            for (other, until) in &service.after {
                let watched = all[other].1.iter().map(Process::status).collect();
                conditions.push(reached(other, *until, watched));
            }
            conditions.extend(service.conditions.iter().cloned());
            let processes = service.instance_names().into_iter().map(|name| {
                let log = Log::open(log_of(service, &name), context.clock.clone())?;
                Ok(Process::new(&name, service.spec.clone(), conditions.clone(), log, context.clone()))
            });
            let processes = processes.collect::<Result<_>>()?;
            all.insert(name.clone(), (service.clone(), processes));
        }
        let reaper = tokio::spawn(reap());
        Ok(Supervisor { services: all, levels, id, reaper })
    }

    /// Every process, by its name.
    pub fn processes(&self) -> impl Iterator<Item = &Process> {
        self.services.values().flat_map(|(_, processes)| processes)
    }

    /// The instances of a service.
    pub fn service(&self, name: &str) -> Result<&[Process]> {
        let found = self.services.get(name).map(|(_, processes)| processes.as_slice());
        found.ok_or_else(|| Error::invalid(format!("process `{name}`"), "there is none of this name"))
    }

    /// Starts everything; each process when what it waits for holds. Returns at once.
    pub async fn start(&self) -> Result<()> {
        join_all(self.processes().map(Process::start)).await.into_iter().collect()
    }

    /// Stops everything, dependants first, and then whatever they left behind. Goes on after a failure and tells the first.
    pub async fn stop(&self) -> Result<()> {
        let mut result = Ok(());
        for level in self.levels.iter().rev() {
            let processes = level.iter().flat_map(|name| &self.services[name].1);
            for stopped in join_all(processes.map(Process::stop)).await {
                result = result.and(stopped);
            }
        }
        let own = format!(":{}:", self.id);
        let killed = kill_adopted(|instance| instance.contains(':') && !instance.contains(&own)).await;
        if killed > 0 {
            tracing::warn!("killed {killed} processes that nobody was in charge of");
        }
        result
    }

    /// Stops and starts every instance of a service, one after another.
    pub async fn restart(&self, name: &str) -> Result<()> {
        for process in self.service(name)? {
            process.restart().await?;
        }
        Ok(())
    }

    /// Replaces a service, one instance after another; each new one is ready before its old one goes. If one does not become ready,
    /// those before it get the old settings back.
    pub async fn reload(&mut self, name: &str, spec: Spec) -> Result<()> {
        let processes = self.service(name)?.to_vec();
        let old = self.services[name].0.spec.clone();
        for (i, process) in processes.iter().enumerate() {
            if let Err(error) = process.reload(spec.clone()).await {
                for replaced in &processes[..i] {
                    replaced.reload(old.clone()).await?;
                }
                return Err(error);
            }
        }
        if let Some((service, _)) = self.services.get_mut(name) {
            service.spec = spec;
        }
        Ok(())
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.reaper.abort();
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

/// A condition that all of these have reached something.
fn reached(name: &str, until: Until, watched: Vec<watch::Receiver<Status>>) -> Condition {
    let what = match until {
        Until::Started => format!("`{name}` to start"),
        Until::Healthy => format!("`{name}` to be ready"),
        Until::Completed => format!("`{name}` to complete"),
    };
    let met = move || {
        let mut watched = watched.clone();
        let all: futures::future::BoxFuture<'static, Result<(), String>> = Box::pin(async move {
            for status in &mut watched {
                let reached = status.wait_for(|status| until.is_met(status)).await;
                reached.map_err(|_| "it is not supervised any more".to_owned())?;
            }
            Ok(())
        });
        all
    };
    Condition { what, met: Arc::new(met) }
}

fn log_of(service: &Service, instance: &str) -> log::Settings {
    let mut settings = service.log.clone();
    if let (Some(path), true) = (&mut settings.path, service.instances > 1) {
        let number = instance.rsplit('.').next().unwrap_or_default();
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let extension = path.extension().map_or_else(String::new, |e| format!(".{}", e.to_string_lossy()));
        path.set_file_name(format!("{stem}.{number}{extension}"));
    }
    settings
}

/// Names by level: each depends only on levels before its own.
fn levels(services: &[Service]) -> Result<Vec<Vec<String>>> {
    let mut open: BTreeMap<&str, &Service> = BTreeMap::new();
    for service in services {
        let place = || format!("process `{}`", service.name);
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if service.name.is_empty() || !service.name.chars().all(plain) {
            return Err(Error::invalid(place(), "a name has only letters, digits, `-`, `_` and `.`"));
        }
        if service.instances == 0 {
            return Err(Error::invalid(place(), "has no instances: at least one is needed"));
        }
        if open.insert(&service.name, service).is_some() {
            return Err(Error::invalid(place(), "is there twice"));
        }
    }
    for service in services {
        if let Some((other, _)) = service.after.iter().find(|(other, _)| !open.contains_key(other.as_str())) {
            let cause = format!("depends on `{other}`, which is not there");
            return Err(Error::invalid(format!("process `{}`", service.name), cause));
        }
    }
    let mut levels = Vec::new();
    while !open.is_empty() {
        let is_free =
            |service: &Service| !service.after.iter().any(|(other, _)| open.contains_key(other.as_str()));
        let level: Vec<String> =
            open.values().filter(|service| is_free(service)).map(|service| service.name.clone()).collect();
        if level.is_empty() {
            let names: Vec<&str> = open.keys().copied().collect();
            return Err(Error::invalid(
                format!("processes `{}`", names.join("`, `")),
                "depend on each other in a circle",
            ));
        }
        level.iter().for_each(|name| _ = open.remove(name.as_str()));
        levels.push(level);
    }
    Ok(levels)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spawn::{Command, Spawn};

    fn service(name: &str, after: &[&str]) -> Service {
        let mut service = Service::new(name, Spec::new(Spawn::new(Command::shell("true"))));
        service.after = after.iter().map(|other| (other.to_string(), Until::Started)).collect();
        service
    }

    #[test]
    fn levels_follow_the_dependencies() {
        let services = [service("web", &["db", "cache"]), service("db", &[]), service("cache", &["db"])];
        assert_eq!(levels(&services).unwrap(), [["db"], ["cache"], ["web"]]);
    }

    #[test]
    fn circles_strangers_and_twins_are_refused() {
        let message = |services: &[Service]| levels(services).unwrap_err().to_string();
        assert!(message(&[service("a", &["b"]), service("b", &["a"])]).contains("circle"));
        assert!(message(&[service("a", &["a"])]).contains("circle"));
        assert!(message(&[service("a", &["b"])]).contains("depends on `b`"));
        assert!(message(&[service("a", &[]), service("a", &[])]).contains("twice"));
        assert!(message(&[service("a/b", &[])]).contains("letters"));
    }

    #[test]
    fn each_instance_has_a_log_of_its_own() {
        let mut web = service("web", &[]);
        web.log.path = Some("/var/log/web.log".into());
        assert_eq!(log_of(&web, "web").path.unwrap().to_str(), Some("/var/log/web.log"));
        web.instances = 2;
        assert_eq!(log_of(&web, "web.2").path.unwrap().to_str(), Some("/var/log/web.2.log"));
    }
}
