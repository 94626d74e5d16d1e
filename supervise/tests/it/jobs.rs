//! Jobs, and the events that they and processes leave.

use std::sync::Mutex;

use litekeep_env::ManualClock;
use litekeep_supervise::events::{Kind, Next};
use litekeep_supervise::job::{Handle, Outcome, Overlap, Schedule, Status as JobStatus};

use super::*;

/// A job that runs a shell script, due each `every_ms`.
fn job(script: &str, every_ms: u64) -> Job {
    let spec = shell("", script).spec;
    Job::new("job", spec, Schedule::Every(Duration::from_millis(every_ms)))
}

const NEVER: u64 = 3600 * 1000;

async fn job_until(job: &Handle, wanted: impl Fn(&JobStatus) -> bool) -> JobStatus {
    let mut status = job.status();
    let reached = tokio::time::timeout(Duration::from_secs(20), status.wait_for(|status| wanted(status)));
    let reached = reached.await.map(|status| status.unwrap().clone());
    reached.unwrap_or_else(|_| panic!("the job stays {:?}", *job.status().borrow()))
}

async fn ended(job: &Handle, runs: usize) -> JobStatus {
    job_until(job, |status| status.history.len() >= runs).await
}

#[tokio::test]
async fn a_job_runs_when_due_with_history_log_and_events() {
    let supervisor = supervise_jobs(vec![], vec![job("echo hello; echo out of luck >&2; exit 4", 300)]);
    let job = supervisor.job("job").unwrap();
    assert_eq!(job.status().borrow().next_due_ms, None);
    supervisor.start().await.unwrap();
    let status = ended(job, 2).await;
    let [first, second] = [0, 1].map(|i| status.history[i].clone());
    assert_eq!(first.outcome.to_string(), "exit code 4");
    assert_eq!(first.last_words, "out of luck");
    assert_eq!((second.due_ms.unwrap() - first.due_ms.unwrap()) % 300, 0);
    let (due, started) = (first.due_ms.unwrap(), first.started_ms.unwrap());
    assert!((due..due + 2000).contains(&started) && first.ended_ms >= started, "{first:?}");
    assert!(job.log().lines_from(0).iter().any(|line| line.bytes == b"hello"));
    supervisor.stop().await.unwrap();
    let (_, events) = supervisor.events().since(0);
    let kinds: Vec<Kind> = events.iter().map(|event| event.kind).take(4).collect();
    assert_eq!(kinds, [Kind::JobStarted, Kind::JobFailed, Kind::JobStarted, Kind::JobFailed]);
    assert_eq!(events[1].text, "exit code 4: out of luck");
    let runs = job.status().borrow().history.len();
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert_eq!(job.status().borrow().history.len(), runs, "nothing runs after a stop");
}

#[tokio::test]
async fn a_job_runs_on_request_and_is_refused_while_it_runs() {
    let supervisor = supervise_jobs(vec![], vec![job("sleep 0.3", NEVER)]);
    supervisor.start().await.unwrap();
    let job = supervisor.job("job").unwrap();
    job.run().await.unwrap();
    let refused = job.run().await.unwrap_err().to_string();
    assert_eq!(refused, "start `job`: left out: the one before still runs");
    job_until(job, |status| status.running.as_ref().is_some_and(|run| run.pid.is_some())).await;
    let status = ended(job, 1).await;
    assert_eq!((status.history[0].due_ms, status.running), (None, None));
    assert!(status.history[0].outcome.is_good());
    supervisor.stop().await.unwrap();
    assert!(job.run().await.unwrap_err().to_string().contains("it is stopped"));
}

#[tokio::test]
async fn a_timeout_ends_the_whole_tree_of_a_run() {
    let dir = tempfile::tempdir().unwrap();
    let pids = dir.path().join("pids");
    let script =
        format!("(setsid sh -c 'echo $$ >>{0}; sleep 100' &) ; echo $$ >>{0}; sleep 100", pids.display());
    let mut slow = job(&script, NEVER);
    slow.timeout = Some(Duration::from_millis(500));
    let supervisor = supervise_jobs(vec![], vec![slow]);
    supervisor.start().await.unwrap();
    let job = supervisor.job("job").unwrap();
    job.run().await.unwrap();
    let pids = lines(&pids, 2).await;
    assert_eq!(ended(job, 1).await.history[0].outcome, Outcome::TimedOut);
    assert!(!pids.iter().any(|pid| is_alive(pid)), "{pids:?}");
    supervisor.stop().await.unwrap();
}

#[tokio::test]
async fn a_stop_ends_the_run_and_jobs_end_before_processes() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("events");
    let script = |name: &str| {
        let out = file.display();
        format!(
            "trap 'sleep 0.2; echo -{name} >>{out}; exit' TERM; echo +{name} >>{out}; while :; do sleep 0.02; done"
        )
    };
    let supervisor = supervise_jobs(vec![shell("web", &script("web"))], vec![job(&script("job"), 100)]);
    supervisor.start().await.unwrap();
    lines(&file, 2).await;
    supervisor.stop().await.unwrap();
    assert_eq!(lines(&file, 4).await[2..], ["-job", "-web"]);
    let status = supervisor.job("job").unwrap().status().borrow().clone();
    assert_eq!(status.history.back().unwrap().outcome, Outcome::Stopped);
}

#[tokio::test]
async fn overlap_kill_ends_the_run_for_the_next() {
    let mut stuck = job("exec sleep 100", 300);
    stuck.overlap = Overlap::Kill;
    let supervisor = supervise_jobs(vec![], vec![stuck]);
    supervisor.start().await.unwrap();
    let job = supervisor.job("job").unwrap();
    let status = ended(job, 2).await;
    assert!(status.history.iter().all(|entry| entry.outcome == Outcome::Overtaken), "{status:?}");
    supervisor.stop().await.unwrap();
}

#[tokio::test]
async fn a_run_that_cannot_start_is_a_failed_one_in_the_history() {
    let mut absent = job("", NEVER);
    absent.spec.spawn.command = Command::Program { name: "/no/such/program".into(), args: vec![] };
    let supervisor = supervise_jobs(vec![], vec![absent]);
    supervisor.start().await.unwrap();
    let job = supervisor.job("job").unwrap();
    job.run().await.unwrap();
    let entry = ended(job, 1).await.history[0].clone();
    assert!(entry.outcome.to_string().contains("No such file"), "{entry:?}");
    assert_eq!((entry.started_ms, entry.outcome.is_good()), (None, false));
    supervisor.stop().await.unwrap();
    let (_, events) = supervisor.events().since(0);
    let told: Vec<_> = events.iter().map(|event| (event.name.as_str(), event.kind)).collect();
    assert_eq!(told, [("job", Kind::JobFailed)]);
    assert!(events[0].text.contains("/no/such/program"), "{}", events[0].text);
}

#[tokio::test]
async fn what_was_due_meanwhile_runs_once_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (runs, state) = (dir.path().join("runs"), dir.path().join("state/job.due"));
    let clock = Arc::new(ManualClock::new(1_800_000_000_000));
    let supervise = || {
        let mut job = job(&format!("echo run >>{}", runs.display()), 60_000);
        (job.catch_up, job.state) = (true, Some(state.clone()));
        let hourly = |after: i64| Some(after - after.rem_euclid(3_600_000) + 3_600_000);
        job.schedule = Schedule::At(Arc::new(hourly));
        let setup = Setup::new(clock.clone(), Cgroups::default());
        Supervisor::set_up(Setup { jobs: vec![job], ..setup }).unwrap()
    };
    let runs = || std::fs::read_to_string(&runs).unwrap_or_default().lines().count();
    let first = supervise();
    first.start().await.unwrap();
    assert_eq!(runs(), 0, "nothing was due before it was known");
    first.stop().await.unwrap();
    clock.advance(5 * Duration::from_secs(3600));
    for _ in 0..2 {
        let again = supervise();
        again.start().await.unwrap();
        if runs() == 0 {
            ended(again.job("job").unwrap(), 1).await;
        }
        again.stop().await.unwrap();
        assert_eq!(runs(), 1, "five were due, one runs, and not again");
    }
}

#[tokio::test]
async fn jobs_come_change_and_go_at_run_time() {
    let named = |name: &str, script: &str| Job { name: name.into(), ..job(script, NEVER) };
    let mut supervisor = supervise_jobs(
        vec![shell("web", "sleep 100")],
        vec![named("gone", "sleep 100"), named("stays", "echo one; sleep 0.2")],
    );
    supervisor.start().await.unwrap();
    let (gone, stays) = (supervisor.job("gone").unwrap().clone(), supervisor.job("stays").unwrap().clone());
    gone.run().await.unwrap();
    stays.run().await.unwrap();
    let with = |jobs| Wanted { services: vec![shell("web", "sleep 100")], jobs: Some(jobs) };
    let taken = supervisor.apply(with(vec![named("web", "true")])).await.unwrap_err().to_string();
    assert!(taken.contains("has this name"), "{taken}");
    let changed = vec![named("stays", "echo two"), named("fresh", "echo hello")];
    supervisor.apply(with(changed)).await.unwrap();
    assert_eq!(gone.status().borrow().history[0].outcome, Outcome::Stopped);
    assert!(supervisor.job("gone").is_err());
    assert!(ended(&stays, 1).await.history[0].outcome.is_good(), "its run was left alone");
    stays.run().await.unwrap();
    assert_eq!(ended(&stays, 2).await.history[1].last_words, "two");
    let fresh = supervisor.job("fresh").unwrap();
    fresh.run().await.unwrap();
    assert_eq!(ended(fresh, 1).await.history[0].last_words, "hello");
    supervisor.stop().await.unwrap();
}

/// A job of each 24 hours never ran where litekeep was started anew each day.
#[tokio::test]
async fn an_interval_goes_on_over_restarts_before_the_first_run() {
    let dir = tempfile::tempdir().unwrap();
    let (runs, state) = (dir.path().join("runs"), dir.path().join("state/job.due"));
    let clock = Arc::new(ManualClock::new(1_800_000_000_000));
    for hours in [0, 20, 20] {
        clock.advance(hours * Duration::from_secs(3600));
        let mut job = job(&format!("echo run >>{}", runs.display()), 24 * NEVER);
        (job.catch_up, job.state) = (true, Some(state.clone()));
        let setup = Setup::new(clock.clone(), Cgroups::default());
        let supervisor = Supervisor::set_up(Setup { jobs: vec![job], ..setup }).unwrap();
        supervisor.start().await.unwrap();
        let job = supervisor.job("job").unwrap();
        let due = job.status().borrow().next_due_ms;
        if due.is_some_and(|due| due > 1_800_000_000_000 + 24 * 3_600_000) {
            ended(job, 1).await;
        }
        supervisor.stop().await.unwrap();
    }
    assert_eq!(lines(&runs, 1).await, ["run"]);
}

#[tokio::test]
async fn a_name_goes_from_a_process_to_a_job_and_back_at_once() {
    let mut supervisor = supervise(vec![shell("x", "sleep 100")]);
    supervisor.start().await.unwrap();
    let process = reaches(one(&supervisor, "x"), State::Healthy).await;
    let named = |script: &str| Job { name: "x".into(), ..job(script, NEVER) };
    let as_job = Wanted { services: vec![], jobs: Some(vec![named("exec sleep 100")]) };
    let applied = supervisor.apply(as_job).await.unwrap();
    assert_eq!((applied.stopped.as_slice(), applied.failed.len()), (&["x".to_owned()][..], 0));
    assert!(!is_alive(&process.pid.unwrap().to_string()));
    let job = supervisor.job("x").unwrap().clone();
    job.run().await.unwrap();
    let run = job_until(&job, |status| status.running.as_ref().is_some_and(|run| run.pid.is_some())).await;
    let of_job = run.running.unwrap();
    let applied = supervisor.apply(Wanted { services: vec![shell("x", "sleep 100")], jobs: Some(vec![]) });
    assert_eq!(applied.await.unwrap().started, ["x"]);
    assert!(!is_alive(&of_job.pid.unwrap().to_string()));
    let again = reaches(one(&supervisor, "x"), State::Healthy).await;
    let names = [process.instance, Some(of_job.instance), again.instance];
    assert!(names[0] != names[1] && names[1] != names[2] && names[0] != names[2], "{names:?}");
    supervisor.stop().await.unwrap();
}

#[tokio::test]
async fn events_tell_a_crash_with_its_last_words() {
    let mut service = shell("web", "sleep 0.1; echo out of luck >&2; exit 3");
    service.spec.policy.limit = 1;
    let supervisor = supervise(vec![service]);
    let mut subscription = supervisor.events().subscribe(0);
    supervisor.start().await.unwrap();
    let seen = Mutex::new(Vec::new());
    let reading = async {
        while seen.lock().unwrap().last() != Some(&Kind::Failed) {
            let Next::Event(event) = subscription.next().await else { panic!("a gap") };
            if event.kind == Kind::Crashed {
                assert!(
                    event.text.starts_with("exit code 3 after 0.") && event.text.ends_with("out of luck")
                );
            }
            seen.lock().unwrap().push(event.kind);
        }
    };
    tokio::time::timeout(Duration::from_secs(20), reading).await.unwrap();
    use Kind::{Crashed, Failed, Ready, Restarted, Started};
    assert_eq!(*seen.lock().unwrap(), [Started, Ready, Crashed, Restarted, Ready, Crashed, Failed]);
    supervisor.stop().await.unwrap();
    assert_eq!(supervisor.events().since(0).1.last().unwrap().kind, Kind::Stopped);
}
