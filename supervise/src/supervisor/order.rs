//! Who starts after whom, and which definitions cannot work.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::sync::watch;

use super::{Service, Until};
use crate::error::{Error, Result};
use crate::health::Probe;
use crate::job::{Job, Schedule};
use crate::log;
use crate::process::{Condition, Process, Status};

/// What a service waits for, with its dependencies among `all`.
pub(super) fn conditions(
    service: &Service,
    all: &BTreeMap<String, (Service, Vec<Process>)>,
) -> Vec<Condition> {
    // A dependency that could not be taken into care never holds.
    let of = |(other, until): &(String, Until)| {
        let watched = all.get(other).map(|(_, processes)| processes.iter().map(Process::status).collect());
        reached(other, *until, watched)
    };
    service.after.iter().map(of).chain(service.conditions.iter().cloned()).collect()
}

/// A condition that all of these have reached something.
fn reached(name: &str, until: Until, watched: Option<Vec<watch::Receiver<Status>>>) -> Condition {
    let what = match until {
        Until::Started => format!("`{name}` to start"),
        Until::Healthy => format!("`{name}` to be ready"),
        Until::Completed => format!("`{name}` to complete"),
    };
    let met = move || {
        let mut watched = watched.clone();
        let all: futures::future::BoxFuture<'static, Result<(), String>> = Box::pin(async move {
            let gone = || "it is not supervised any more".to_owned();
            for status in watched.as_mut().ok_or_else(gone)? {
                status.wait_for(|status| until.is_met(status)).await.map_err(|_| gone())?;
            }
            Ok(())
        });
        all
    };
    Condition { what, met: Arc::new(met) }
}

pub(super) fn log_of(service: &Service, instance: &str) -> log::Settings {
    let mut settings = service.log.clone();
    if let (Some(path), true) = (&mut settings.path, service.instances > 1) {
        let number = instance.rsplit('.').next().and_then(|number| number.parse().ok()).unwrap_or_default();
        *path = log::of_instance(path, number);
    }
    settings
}

fn check_name(place: &str, name: &str) -> Result<()> {
    if !litekeep_config::is_name(name) {
        let cause =
            "a name has up to 64 letters, digits, `-`, `_` and `.`, and begins with a letter, a digit or `_`";
        return Err(Error::invalid(place, cause));
    }
    Ok(())
}

pub(super) fn check_jobs<'a>(jobs: &[Job], services: impl Iterator<Item = &'a Service>) -> Result<()> {
    let mut taken: BTreeSet<String> = services.flat_map(Service::instance_names).collect();
    for job in jobs {
        let place = format!("job `{}`", job.name);
        check_name(&place, &job.name)?;
        if !taken.insert(job.name.clone()) {
            return Err(Error::invalid(place, "a process or another job has this name: give it another one"));
        }
        if matches!(job.schedule, Schedule::Every(interval) if interval.is_zero()) {
            return Err(Error::invalid(
                place,
                "is due all the time: its interval must be longer than nothing",
            ));
        }
    }
    Ok(())
}

/// Names by level: each depends only on levels before its own.
pub(super) fn levels(services: &[Service]) -> Result<Vec<Vec<String>>> {
    let mut open: BTreeMap<&str, &Service> = BTreeMap::new();
    for service in services {
        let place = || format!("process `{}`", service.name);
        check_name(&place(), &service.name)?;
        if service.spec.liveness.as_ref().is_some_and(|check| matches!(check.probe, Probe::Notify)) {
            return Err(Error::invalid(
                place(),
                "is asked for liveness by `notify`, which tells readiness only",
            ));
        }
        if service.instances == 0 {
            return Err(Error::invalid(place(), "has no instances: at least one is needed"));
        }
        if open.insert(&service.name, service).is_some() {
            return Err(Error::invalid(place(), "is there twice"));
        }
    }
    // Who is called so has one log and one state.
    let mut taken: BTreeMap<String, &str> = BTreeMap::new();
    for service in services {
        for name in service.instance_names() {
            if let Some(other) = taken.insert(name.clone(), &service.name) {
                let instances = if *other == *name { &service.name } else { other };
                let cause = format!(
                    "`{instances}` has instances, of which one is called so, too: give one of both another name"
                );
                return Err(Error::invalid(format!("process `{name}`"), cause));
            }
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
    use crate::process::Spec;
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

    #[test]
    fn an_instance_and_a_process_cannot_have_one_name() {
        let of = |name: &str, instances| Service { instances, ..service(name, &[]) };
        for services in [[of("a", 2), of("a.1", 1)], [of("a.1", 1), of("a", 2)]] {
            let error = levels(&services).unwrap_err().to_string();
            assert!(error.contains("a.1") && error.contains("`a` has instances"), "{error}");
        }
        assert!(levels(&[of("a", 1), of("a.1", 1)]).is_ok());
    }
}
