//! Goal: CPU time, memory and descriptors of a process are its own. Method: shells that are known to use them.

use std::process::Command;
use std::time::Duration;

use litekeep_testkit::process::eventually;
use litekeep_testkit::usage::machine_cpu;
use litekeep_testkit::{Process, Usage};

const LONG: Duration = Duration::from_secs(60);

fn shell(script: &str) -> (tempfile::TempDir, Process) {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    let process = Process::start(command, &dir.path().join("log")).unwrap();
    (dir, process)
}

#[test]
fn a_busy_process_uses_cpu_and_a_sleeping_one_none() {
    let machine = machine_cpu().unwrap();
    let (_dir, busy) = shell("while :; do :; done");
    let (_dir, asleep) = shell("exec sleep 1000");
    let used = Duration::from_millis(200);
    eventually("the busy one has used 0.2 s", LONG, || Ok(busy.usage()?.cpu >= used)).unwrap();
    assert!(machine_cpu().unwrap() - machine >= used / 2);
    assert!(asleep.usage().unwrap().cpu < used);
}

#[test]
fn descriptors_are_counted() {
    let own = || Usage::of(std::process::id()).unwrap().descriptors;
    let before = own();
    // More than other tests of this process close meanwhile.
    let files: Vec<_> = (0..200).map(|_| std::fs::File::open("/dev/null").unwrap()).collect();
    assert!(own() >= before + 100, "{before}, with {} more {}", files.len(), own());
}

#[test]
fn memory_is_seen_and_its_peak_stays() {
    let own = || Usage::of(std::process::id()).unwrap();
    let before = own();
    let memory = vec![1u8; 64 << 20];
    assert!(own().rss >= before.rss + (48 << 20), "{before:?} {:?} {}", own(), memory.len());
    drop(memory);
    assert!(own().peak_rss >= before.rss + (48 << 20));
}

#[test]
fn a_process_that_has_ended_is_an_error() {
    let (_dir, process) = shell("exit 0");
    eventually("it has ended", LONG, || Ok(process.usage().is_err())).unwrap();
}
