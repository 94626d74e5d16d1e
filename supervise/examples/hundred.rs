//! What a hundred processes cost while nothing happens, and how fast the first restart is. Run it with `--release`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use litekeep_env::SystemClock;
use litekeep_env::process::{Handle, signal_number};
use litekeep_supervise::cgroup::Cgroups;
use litekeep_supervise::spawn::{Command, Spawn};
use litekeep_supervise::{Process, Service, Setup, Spec, State, Supervisor};

const COUNT: usize = 100;
const IDLE: Duration = Duration::from_secs(20);
const CRASHES: usize = 20;

#[tokio::main]
async fn main() {
    let before = memory_kb();
    let state = std::env::args().nth(1).map(std::path::PathBuf::from);
    let command = Command::Program { name: "sleep".into(), args: vec!["1000".into()] };
    let spec = Spec::new(Spawn::new(command));
    let services = (0..COUNT).map(|i| Service::new(&format!("p{i}"), spec.clone())).collect();
    let setup = Setup::new(Arc::new(SystemClock), Cgroups::default());
    let supervisor = Supervisor::set_up(Setup { services, state, ..setup }).expect("it is set up");
    let begin = Instant::now();
    supervisor.start().await.expect("all start");
    for process in supervisor.processes() {
        healthy(process).await;
    }
    println!("{COUNT} processes ready after {} ms (1 s of it they must live)", begin.elapsed().as_millis());

    let (begin, ticks) = (Instant::now(), cpu_ticks());
    tokio::time::sleep(IDLE).await;
    let idle = (cpu_ticks() - ticks) as f64 * 10.0 / begin.elapsed().as_secs_f64();
    println!("memory: {} kB ({before} kB before); idle: {idle:.1} ms of CPU a second", memory_kb());

    let mut restarts = Vec::new();
    for process in supervisor.processes().take(CRASHES) {
        restarts.push(restart(process).await);
    }
    restarts.sort();
    let median = restarts[CRASHES / 2].as_secs_f64() * 1000.0;
    let worst = restarts[CRASHES - 1].as_secs_f64() * 1000.0;
    println!("first restart after a crash: median {median:.1} ms, worst {worst:.1} ms of {CRASHES}");

    let begin = Instant::now();
    supervisor.stop().await.expect("all stop");
    println!("stop of all: {} ms", begin.elapsed().as_millis());
}

async fn healthy(process: &Process) {
    process.status().wait_for(|status| status.state == State::Healthy).await.expect("it lives");
}

/// From a crash to the next run's execution.
async fn restart(process: &Process) -> Duration {
    let mut status = process.status();
    let pid = status.borrow().pid.expect("it runs");
    let begin = Instant::now();
    Handle::open(pid).and_then(|handle| handle.signal(signal_number("KILL").unwrap())).expect("it is killed");
    let started = status.wait_for(|status| status.pid.is_some_and(|new| new != pid));
    started.await.expect("it is started again");
    begin.elapsed()
}

/// The resident memory of this process.
fn memory_kb() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches("kB").trim().parse().unwrap()
}

/// Hundredths of a second that this process ran.
fn cpu_ticks() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}
