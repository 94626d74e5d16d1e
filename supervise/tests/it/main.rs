//! Goal: misbehaving processes are kept in order, each defect known of other process managers among them. Method: real children.

mod adoption;
mod apply;
mod held_socket;
mod init;
mod jobs;
mod lifecycle;
mod misbehaviour;
mod notify;
mod reload;
mod renew;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use litekeep_env::SystemClock;
use litekeep_supervise::cgroup::Cgroups;
use litekeep_supervise::spawn::{Command, Spawn};
use litekeep_supervise::{Job, Process, Service, Setup, Spec, State, Status, Supervisor, Wanted};

/// A service that runs a shell script, ready after 50 ms.
fn shell(name: &str, script: &str) -> Service {
    let mut spec = Spec::new(Spawn::new(Command::shell(script)));
    spec.settle = Duration::from_millis(50);
    Service::new(name, spec)
}

/// A supervisor without cgroups, so that processes must be found without them.
fn supervise(services: Vec<Service>) -> Supervisor {
    Supervisor::new(services, Arc::new(SystemClock), Cgroups::default()).unwrap()
}

/// A supervisor of services and jobs, without cgroups.
fn supervise_jobs(services: Vec<Service>, jobs: Vec<Job>) -> Supervisor {
    let setup = Setup::new(Arc::new(SystemClock), Cgroups::default());
    Supervisor::set_up(Setup { services, jobs, ..setup }).unwrap()
}

/// Makes these the services, as `litekeep reload` does; the first that is unfit is the error.
async fn apply(supervisor: &mut Supervisor, services: Vec<Service>) -> litekeep_supervise::Result<()> {
    let applied = supervisor.apply(services).await?;
    applied.failed.into_iter().next().map_or(Ok(()), |(_, error)| Err(error))
}

fn one<'a>(supervisor: &'a Supervisor, name: &str) -> &'a Process {
    &supervisor.service(name).unwrap()[0]
}

/// Waits until a process is as wanted.
async fn until(process: &Process, wanted: impl Fn(&Status) -> bool) -> Status {
    let mut status = process.status();
    let reached =
        tokio::time::timeout(Duration::from_secs(20), status.wait_for(|status| wanted(status))).await;
    let reached = reached.map(|status| status.unwrap().clone());
    reached.unwrap_or_else(|_| panic!("{} stays {:?}", process.name(), *process.status().borrow()))
}

async fn reaches(process: &Process, state: State) -> Status {
    until(process, |status| status.state == state).await
}

/// Waits until a file has so many lines, and returns them.
async fn lines(path: &Path, count: usize) -> Vec<String> {
    let begin = Instant::now();
    loop {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        if text.lines().count() >= count {
            return text.lines().map(String::from).collect();
        }
        assert!(begin.elapsed() < Duration::from_secs(20), "{path:?} has only {text:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Whether a process lives; a zombie does not.
fn is_alive(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}
