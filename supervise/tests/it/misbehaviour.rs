//! Defects of another process manager, each with children that provoke it.

use litekeep_supervise::health::{Check, Probe};
use litekeep_supervise::limits::Memory;
use litekeep_supervise::policy::Restart;

use super::*;

#[tokio::test]
async fn one_slow_health_check_delays_no_other_process() {
    let mut slow = shell("slow", "sleep 100");
    let mut check = Check::new(Probe::Exec(Command::shell("sleep 60")));
    check.timeout = Duration::from_secs(60);
    slow.spec.readiness = Some(check.clone());
    slow.spec.liveness = Some(check);
    let supervisor = supervise(vec![slow, shell("quick", "sleep 100")]);
    supervisor.start().await.unwrap();
    until(one(&supervisor, "slow"), |status| status.pid.is_some()).await;
    let begin = Instant::now();
    let quick = one(&supervisor, "quick");
    reaches(quick, State::Healthy).await;
    quick.restart().await.unwrap();
    quick.stop().await.unwrap();
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    assert_eq!(one(&supervisor, "slow").status().borrow().state, State::Starting);
    // Its own stop does not wait for the check either.
    supervisor.stop().await.unwrap();
    assert!(begin.elapsed() < Duration::from_secs(4), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn a_start_delay_blocks_nobody() {
    let mut late = shell("late", "sleep 100");
    late.spec.start_delay = Duration::from_secs(3600);
    let supervisor = supervise(vec![late, shell("prompt", "sleep 100")]);
    let begin = Instant::now();
    supervisor.start().await.unwrap();
    reaches(one(&supervisor, "prompt"), State::Healthy).await;
    let waiting = reaches(one(&supervisor, "late"), State::Waiting).await;
    assert!(waiting.reason.contains("3600"), "{waiting:?}");
    supervisor.stop().await.unwrap();
    assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn a_line_that_is_not_utf8_neither_ends_the_process_nor_its_log() {
    let mut noisy = shell("noisy", "while :; do printf '\\377\\200\\n' || exit 9; sleep 0.01; done");
    let dir = tempfile::tempdir().unwrap();
    noisy.log.path = Some(dir.path().join("noisy.log"));
    let supervisor = supervise(vec![noisy]);
    supervisor.start().await.unwrap();
    let noisy = one(&supervisor, "noisy");
    noisy.log().count().wait_for(|count| *count >= 20).await.unwrap();
    let status = noisy.status().borrow().clone();
    assert_eq!((status.state, status.restarts), (State::Healthy, 0));
    supervisor.stop().await.unwrap();
    noisy.log().written().await;
    let written = std::fs::read(dir.path().join("noisy.log")).unwrap();
    assert!(written.starts_with(b"\xff\x80\n\xff\x80\n"));
}

#[tokio::test]
async fn grandchildren_that_ignore_term_or_call_setsid_do_not_survive_a_stop() {
    let dir = tempfile::tempdir().unwrap();
    let pids = dir.path().join("pids");
    let script = format!(
        "exec >>{}; sh -c 'trap \"\" TERM; echo $$; while :; do sleep 1; done' & \
         (setsid sh -c 'trap \"\" TERM HUP; echo $$; while :; do sleep 1; done' &) ; wait",
        pids.display()
    );
    let mut service = shell("family", &script);
    service.spec.stop_timeout = Duration::from_millis(300);
    let supervisor = supervise(vec![service]);
    supervisor.start().await.unwrap();
    let pids = lines(&pids, 2).await;
    assert!(pids.iter().all(|pid| is_alive(pid)));
    supervisor.stop().await.unwrap();
    assert!(!pids.iter().any(|pid| is_alive(pid)), "{pids:?}");
}

#[tokio::test]
async fn what_hides_entirely_ends_with_the_supervisor_at_the_latest() {
    let dir = tempfile::tempdir().unwrap();
    let pids = dir.path().join("pids");
    let script = format!(
        "(setsid env -u LITEKEEP_INSTANCE sh -c 'echo $$ >>{}; exec sleep 100' &); sleep 0.3",
        pids.display()
    );
    let mut hiding = shell("hiding", &script);
    hiding.spec.policy.restart = Restart::Never;
    let supervisor = supervise(vec![hiding]);
    supervisor.start().await.unwrap();
    let pids = lines(&pids, 1).await;
    reaches(one(&supervisor, "hiding"), State::Completed).await;
    supervisor.stop().await.unwrap();
    assert!(!is_alive(&pids[0]));
}

#[tokio::test]
async fn the_memory_limit_sees_the_child_of_a_shell() {
    let dir = tempfile::tempdir().unwrap();
    let runs = dir.path().join("runs");
    // The shell stays: it has something to do after its child.
    let script = format!(
        "echo run >>{}; python3 -c 'import time; x = bytearray(80 << 20); time.sleep(100)'; true",
        runs.display()
    );
    let mut greedy = shell("greedy", &script);
    greedy.spec.memory = Some(Memory { max: 40 << 20, samples: 2, every: Duration::from_millis(100) });
    let supervisor = supervise(vec![greedy]);
    supervisor.start().await.unwrap();
    let greedy = one(&supervisor, "greedy");
    let status = until(greedy, |status| status.restarts > 0).await;
    assert!(status.restart_reason.starts_with("memory: its processes use"), "{status:?}");
    assert!(status.restart_reason.ends_with("the limit is 40.0 MiB"), "{status:?}");
    lines(&runs, 2).await;
    supervisor.stop().await.unwrap();
}

/// The shell reports the end of the last command of a pipe: the process was shown as completed, and a job as done.
#[tokio::test]
async fn who_ends_well_after_a_kill_at_the_memory_limit_has_not_ended_well() {
    let cgroups = Cgroups::detect();
    if !cgroups.limits_memory() {
        eprintln!("skipped: no cgroup here that limits memory");
        return;
    }
    let limited = |name: &str| {
        let mut service = shell(name, "python3 -c 'x = bytearray(400 << 20)' | cat");
        service.spec.memory = Some(Memory::new(40 << 20));
        service
    };
    let job = litekeep_supervise::job::Schedule::Every(Duration::from_secs(3600));
    let job = Job::new("job", limited("job").spec, job);
    let mut once = limited("once");
    once.spec.policy.restart = Restart::Never;
    let setup = Setup::new(Arc::new(SystemClock), cgroups);
    let services = vec![limited("web"), once];
    let supervisor = Supervisor::set_up(Setup { services, jobs: vec![job], ..setup }).unwrap();
    supervisor.start().await.unwrap();
    let killed = "memory: the kernel killed a process at its limit; exit code 0";
    let status = until(one(&supervisor, "web"), |status| status.restarts > 0).await;
    assert!(status.restart_reason.starts_with(killed), "{status:?}");
    let status = reaches(one(&supervisor, "once"), State::Failed).await;
    assert!(status.reason.starts_with(killed), "{status:?}");
    let job = supervisor.job("job").unwrap();
    job.run().await.unwrap();
    let status = job.status().wait_for(|status| !status.history.is_empty()).await.unwrap().clone();
    let outcome = &status.history[0].outcome;
    assert!(!outcome.is_good() && outcome.to_string().contains(killed), "{outcome}");
    supervisor.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_processes_stop_in_parallel() {
    let services = (0..100).map(|i| {
        // Each needs half a second to end, and a tenth of them does not react at all.
        let trap = if i % 10 == 0 { "trap '' TERM" } else { "trap 'sleep 0.5; exit 0' TERM" };
        let mut service = shell(&format!("p{i}"), &format!("{trap}; while :; do sleep 0.2; done"));
        service.spec.stop_timeout = Duration::from_secs(1);
        service
    });
    let supervisor = supervise(services.collect());
    let begin = Instant::now();
    supervisor.start().await.unwrap();
    for process in supervisor.processes() {
        reaches(process, State::Healthy).await;
    }
    let started = begin.elapsed();
    let pids: Vec<String> =
        supervisor.processes().map(|p| p.status().borrow().pid.unwrap().to_string()).collect();
    let begin = Instant::now();
    supervisor.stop().await.unwrap();
    let took = begin.elapsed();
    eprintln!("100 processes: ready after {started:?}, stopped after {took:?}");
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert!(!pids.iter().any(|pid| is_alive(pid)));
}

#[tokio::test]
async fn a_start_that_hangs_holds_up_neither_other_starts_nor_their_logs() {
    // A FIFO as env_file: whoever opens it waits until somebody writes.
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("fifo");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let mut hanging = shell("hanging", "sleep 100");
    hanging.spec.spawn.env_file = Some(fifo.clone());
    let mut oneshot = shell("oneshot", "echo done");
    oneshot.spec.policy.restart = Restart::Never;
    let supervisor = supervise(vec![hanging, oneshot]);
    supervisor.start().await.unwrap();
    reaches(one(&supervisor, "hanging"), State::Starting).await;
    reaches(one(&supervisor, "oneshot"), State::Completed).await;
    assert_eq!(one(&supervisor, "oneshot").log().lines_from(0)[0].bytes, b"done");
    std::fs::write(fifo, "A=1\n").unwrap();
    reaches(one(&supervisor, "hanging"), State::Healthy).await;
    supervisor.stop().await.unwrap();
}
