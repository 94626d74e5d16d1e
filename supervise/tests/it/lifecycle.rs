//! Starts, ends and restarts.

use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

use litekeep_supervise::health::{Check, Probe};
use litekeep_supervise::job::Schedule;
use litekeep_supervise::limits::Memory;
use litekeep_supervise::policy::Restart;
use litekeep_supervise::{Condition, Until};

use super::*;

fn quick_check(script: &str) -> Check {
    let mut check = Check::new(Probe::Exec(Command::shell(script)));
    (check.interval, check.failures) = (Duration::from_millis(50), 2);
    (check.timeout, check.start_period) = (Duration::from_secs(1), Duration::ZERO);
    check
}

#[tokio::test]
async fn services_start_in_order_and_stop_in_reverse() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("events");
    let script = |name: &str| {
        let out = file.display();
        format!(
            "trap 'sleep 0.1; echo -{name} >>{out}; exit' TERM; echo +{name} >>{out}; while :; do sleep 0.02; done"
        )
    };
    let mut migrate = shell("migrate", &format!("sleep 0.2; echo +migrate >>{}", file.display()));
    migrate.spec.policy.restart = Restart::Never;
    let mut db = shell("db", &script("db"));
    db.after = vec![("migrate".into(), Until::Completed)];
    let mut web = shell("web", &script("web"));
    web.after = vec![("db".into(), Until::Healthy)];
    let supervisor = supervise(vec![web, db, migrate]);
    supervisor.start().await.unwrap();
    let waiting = reaches(one(&supervisor, "web"), State::Waiting).await;
    assert_eq!(waiting.reason, "for `db` to be ready");
    reaches(one(&supervisor, "web"), State::Healthy).await;
    assert_eq!(
        reaches(one(&supervisor, "migrate"), State::Completed).await.last_exit.unwrap().to_string(),
        "exit code 0"
    );
    supervisor.stop().await.unwrap();
    assert_eq!(lines(&file, 5).await, ["+migrate", "+db", "+web", "-web", "-db"]);
}

#[tokio::test]
async fn a_crash_is_restarted_with_a_reason_until_it_is_shown_as_failed_and_still_tried() {
    let dir = tempfile::tempdir().unwrap();
    let runs = dir.path().join("runs");
    let mut service = shell(
        "crashing",
        &format!("echo $LITEKEEP_INSTANCE >>{}; echo out of luck >&2; exit 3", runs.display()),
    );
    service.spec.policy.limit = 2;
    service.spec.policy.retry = Duration::from_millis(300);
    let supervisor = supervise(vec![service]);
    supervisor.start().await.unwrap();
    let failed = reaches(one(&supervisor, "crashing"), State::Failed).await;
    assert!(failed.reason.starts_with("exit code 3 after 0."), "{failed:?}");
    assert!(failed.reason.contains("out of luck"), "{failed:?}");
    // Three runs made it failed; more follow, slowly, and none has the name of another.
    let mut names = lines(&runs, 5).await;
    names.dedup();
    assert!(names.len() >= 5 && names[0].starts_with("crashing:"), "{names:?}");
    supervisor.stop().await.unwrap();
    assert_eq!(one(&supervisor, "crashing").status().borrow().state, State::Stopped);
}

/// It was shown as failed, and rested for five minutes.
#[tokio::test]
async fn a_worker_that_ends_well_again_and_again_is_never_failed() {
    let mut worker = shell("worker", "exit 0");
    (worker.spec.policy.restart, worker.spec.policy.limit) = (Restart::Always, 1);
    worker.spec.policy.longest = Duration::from_millis(100);
    let supervisor = supervise(vec![worker]);
    supervisor.start().await.unwrap();
    let worker = one(&supervisor, "worker");
    until(worker, |status| status.restarts >= 5).await;
    let waiting = reaches(worker, State::Waiting).await;
    assert!(waiting.reason.starts_with("exit code 0 after"), "{waiting:?}");
    let events = supervisor.events().since(0).1;
    let kinds: Vec<&str> = events.iter().map(|event| event.kind.name()).collect();
    assert!(kinds.contains(&"ended") && !kinds.contains(&"failed"), "{kinds:?}");
    supervisor.stop().await.unwrap();
}

#[tokio::test]
async fn a_condition_that_failed_is_asked_again_when_somebody_asks() {
    let (open, _) = tokio::sync::watch::channel(false);
    let gate = open.clone();
    let mut service = shell("web", "sleep 100");
    service.conditions = vec![Condition {
        what: "the database".into(),
        met: Arc::new(move || {
            let is_open = *gate.borrow();
            Box::pin(async move { if is_open { Ok(()) } else { Err("a person has to decide".into()) } })
        }),
    }];
    let supervisor = supervise(vec![service]);
    supervisor.start().await.unwrap();
    let web = one(&supervisor, "web");
    reaches(web, State::Failed).await;
    open.send_replace(true);
    web.start().await.unwrap();
    reaches(web, State::Healthy).await;
    supervisor.stop().await.unwrap();
}

#[tokio::test]
async fn a_program_that_is_not_there_is_a_crash_with_its_cause() {
    let mut service = shell("absent", "");
    service.spec.spawn.command = Command::Program { name: "/no/such/program".into(), args: vec![] };
    let supervisor = supervise(vec![service]);
    supervisor.start().await.unwrap();
    let status = until(one(&supervisor, "absent"), |status| status.restarts >= 2).await;
    assert!(
        status.restart_reason.starts_with("start `absent`: execute `/no/such/program`: No such file"),
        "{status:?}"
    );
    supervisor.stop().await.unwrap();
}

#[tokio::test]
async fn readiness_is_shown_and_liveness_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let (ready, alive) = (dir.path().join("ready"), dir.path().join("alive"));
    std::fs::write(&alive, "").unwrap();
    let mut service = shell("web", "sleep 100");
    service.spec.readiness = Some(quick_check(&format!("test -e {}", ready.display())));
    service.spec.liveness =
        Some(quick_check(&format!("test -e {} || {{ echo stuck; exit 1; }}", alive.display())));
    let supervisor = supervise(vec![service]);
    supervisor.start().await.unwrap();
    let web = one(&supervisor, "web");
    let first = reaches(web, State::Unhealthy).await;
    std::fs::write(&ready, "").unwrap();
    let healthy = reaches(web, State::Healthy).await;
    assert_eq!((healthy.pid, healthy.restarts), (first.pid, 0));
    std::fs::remove_file(&ready).unwrap();
    assert_eq!(reaches(web, State::Unhealthy).await.pid, first.pid);
    std::fs::remove_file(&alive).unwrap();
    let restarted = until(web, |status| status.restarts > 0).await;
    assert_eq!(restarted.restart_reason, "liveness: health check: exit code 1: stuck");
    supervisor.stop().await.unwrap();
}

#[tokio::test]
async fn a_condition_that_fails_is_shown_and_asked_again() {
    let asked = Arc::new(AtomicU32::new(0));
    let counter = asked.clone();
    let mut service = shell("web", "sleep 100");
    service.spec.policy.retry = Duration::from_millis(200);
    service.conditions = vec![Condition {
        what: "the database to be restored".into(),
        met: Arc::new(move || {
            let first = counter.fetch_add(1, SeqCst) == 0;
            Box::pin(async move { if first { Err("no bucket".into()) } else { Ok(()) } })
        }),
    }];
    let supervisor = supervise(vec![service]);
    supervisor.start().await.unwrap();
    let failed = reaches(one(&supervisor, "web"), State::Failed).await;
    assert_eq!(failed.reason, "the database to be restored: no bucket");
    reaches(one(&supervisor, "web"), State::Healthy).await;
    assert_eq!(asked.load(SeqCst), 2);
    supervisor.stop().await.unwrap();
}

#[tokio::test]
async fn dropping_the_supervisor_ends_its_processes() {
    let supervisor = supervise(vec![shell("web", "sleep 100")]);
    supervisor.start().await.unwrap();
    let pid = until(one(&supervisor, "web"), |status| status.pid.is_some()).await.pid.unwrap().to_string();
    drop(supervisor);
    let begin = Instant::now();
    while is_alive(&pid) {
        assert!(begin.elapsed() < Duration::from_secs(5));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn nobody_gets_past_the_conditions() {
    let dir = tempfile::tempdir().unwrap();
    let runs = dir.path().join("runs");
    let mut service = shell("web", &format!("echo run >>{}; sleep 100", runs.display()));
    let (open, _) = tokio::sync::watch::channel(false);
    let gate = open.clone();
    service.conditions = vec![Condition {
        what: "the database to be restored".into(),
        met: Arc::new(move || {
            let mut gate = gate.subscribe();
            Box::pin(async move { gate.wait_for(|open| *open).await.map(drop).map_err(|e| e.to_string()) })
        }),
    }];
    let supervisor = supervise(vec![service]);
    // Before it ever ran, while it waits, and after a stop.
    for _ in 0..2 {
        one(&supervisor, "web").restart().await.unwrap();
        one(&supervisor, "web").renew().await.unwrap();
        one(&supervisor, "web").start().await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(one(&supervisor, "web").status().borrow().state, State::Waiting);
        one(&supervisor, "web").stop().await.unwrap();
    }
    assert!(!runs.exists());
    one(&supervisor, "web").start().await.unwrap();
    open.send_replace(true);
    reaches(one(&supervisor, "web"), State::Healthy).await;
    supervisor.stop().await.unwrap();
}

#[tokio::test]
async fn limits_that_nobody_enforces_are_said_once() {
    let mut services = vec![shell("web", "sleep 100"), shell("api", "sleep 100")];
    services.iter_mut().for_each(|service| service.spec.cpu = Some(0.5));
    let mut supervisor = supervise(services.clone());
    supervisor.start().await.unwrap();
    reaches(one(&supervisor, "web"), State::Healthy).await;
    let (_, events) = supervisor.events().since(0);
    let warnings: Vec<_> = events.iter().filter(|event| event.kind.name() == "warning").collect();
    let [warning] = warnings[..] else { panic!("{warnings:?}") };
    assert!(warning.text.contains("processor time of `web`, `api` is not enforced"), "{warning:?}");
    // A reload says it of what is new.
    assert_eq!(supervisor.apply(services.clone()).await.unwrap().not_enforced, None);
    services[1].spec.cpu = Some(0.7);
    let said = supervisor.apply(services.clone()).await.unwrap().not_enforced.unwrap();
    assert!(said.starts_with("the limit on processor time of `api` is not enforced"), "{said}");
    let mut job = Job::new("job", shell("job", "true").spec, Schedule::Every(Duration::from_secs(3600)));
    job.spec.memory = Some(Memory::new(1 << 30));
    let with_job = Wanted { services, jobs: Some(vec![job]) };
    let said = supervisor.apply(with_job.clone()).await.unwrap().not_enforced.unwrap();
    assert!(said.contains("memory of `job` is measured only"), "{said}");
    assert_eq!(supervisor.apply(with_job).await.unwrap().not_enforced, None);
    supervisor.stop().await.unwrap();
}
