//! Services that come, change and go at run time.

use litekeep_supervise::Until;
use litekeep_supervise::events::Kind;
use litekeep_supervise::health::{Check, Probe};

use super::*;

/// The process ids of all that run, by name.
fn pids(supervisor: &Supervisor) -> Vec<(String, i32)> {
    let pid = |process: &Process| Some((process.name().to_owned(), process.status().borrow().pid?));
    supervisor.processes().filter_map(pid).collect()
}

async fn all_healthy(supervisor: &Supervisor) {
    for process in supervisor.processes() {
        reaches(process, State::Healthy).await;
    }
}

#[tokio::test]
async fn a_bad_new_definition_never_takes_the_healthy_old_one_down() {
    let good = || vec![shell("web", "sleep 100"), shell("db", "sleep 100")];
    let mut supervisor = supervise(good());
    supervisor.start().await.unwrap();
    all_healthy(&supervisor).await;
    let before = pids(&supervisor);
    let with = |change: &dyn Fn(&mut Service)| {
        let mut services = good();
        services[0].spec.ready_timeout = Duration::from_millis(500);
        change(&mut services[0]);
        services
    };
    // Refused as a whole: not even the service that is gone from the new definition stops.
    let circle = with(&|web| web.after = vec![("web".into(), Until::Started)]);
    let no_user = with(&|web| web.spec.spawn.user = Some("no-such-user".into()));
    let no_file = with(&|web| web.spec.spawn.env_file = Some("/no/such/file".into()));
    let no_folder = with(&|web| web.spec.spawn.cwd = Some("/no/such/folder".into()));
    let absent = with(&|web| {
        web.spec.spawn.command = Command::Program { name: "no-such-program".into(), args: vec![] };
    });
    let no_log = with(&|web| web.log.path = Some("/proc/no/such.log".into()));
    let causes =
        ["circle", "there is none", "read `/no/such/file`", "make it", "no such program", "open the log"];
    for (mut services, cause) in [circle, no_user, no_file, no_folder, absent, no_log].into_iter().zip(causes)
    {
        services.pop();
        let error = supervisor.apply(services).await.unwrap_err().to_string();
        assert!(error.contains(cause), "{error}");
        assert_eq!(pids(&supervisor), before);
    }
    // Found out only by trying.
    let crashing = with(&|web| web.spec.spawn.command = Command::shell("exit 1"));
    let unready = with(&|web| {
        web.spec.spawn.command = Command::shell("sleep 101");
        web.spec.readiness = Some(Check::new(Probe::Exec(Command::shell("false"))));
    });
    let second_crashes = with(&|web| {
        web.spec.spawn.command =
            Command::shell("case $LITEKEEP_INSTANCE in web.2:*) exit 1;; esac; sleep 102");
        // The first time is enough, long before it counts as failed.
        (web.instances, web.spec.ready_timeout) = (2, Duration::from_secs(20));
    });
    let causes = ["it ended: exit code 1", "not ready within 500ms", "exit code 1"];
    for (services, cause) in [crashing, unready, second_crashes].into_iter().zip(causes) {
        let applied = supervisor.apply(services).await.unwrap();
        assert_eq!(applied.failed.len(), 1, "{applied:?}");
        assert!(
            applied.failed[0].0 == "web" && applied.failed[0].1.to_string().contains(cause),
            "{applied:?}"
        );
        assert_eq!(pids(&supervisor), before, "{cause}");
        assert_eq!(one(&supervisor, "web").status().borrow().state, State::Healthy);
    }
    assert!(before.iter().all(|(_, pid)| is_alive(&pid.to_string())));
    supervisor.stop().await.unwrap();
}

#[tokio::test]
async fn services_come_change_and_go_and_what_is_the_same_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let ends = dir.path().join("ends");
    let noted = |name: &str| {
        let trap = format!("trap 'sleep 0.1; echo {name} >>{}; exit' TERM", ends.display());
        shell(name, &format!("{trap}; while :; do sleep 0.02; done"))
    };
    let depends = |mut service: Service, other: &str| {
        service.after = vec![(other.into(), Until::Healthy)];
        service
    };
    let mut supervisor = supervise(vec![
        shell("same", "sleep 100"),
        shell("changed", "sleep 100"),
        noted("low"),
        depends(noted("high"), "low"),
    ]);
    supervisor.start().await.unwrap();
    all_healthy(&supervisor).await;
    let before = pids(&supervisor);
    let mut changed = shell("changed", "sleep 200");
    changed.after = vec![("same".into(), Until::Healthy)];
    let mut same = shell("same", "sleep 100");
    same.spec.policy.limit = 3;
    let services = vec![same, changed, depends(shell("fresh", "sleep 100"), "changed")];
    let applied = supervisor.apply(services.clone()).await.unwrap();
    assert_eq!(lines(&ends, 2).await, ["high", "low"], "dependants end first");
    assert_eq!((applied.started, applied.reloaded), (vec!["fresh".to_owned()], vec!["changed".to_owned()]));
    assert_eq!((applied.stopped, applied.failed.len()), (vec!["high".to_owned(), "low".to_owned()], 0));
    all_healthy(&supervisor).await;
    let after = pids(&supervisor);
    assert_eq!(after.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["changed", "fresh", "same"]);
    assert_eq!(after[2], before[3]);
    assert!(after[0].1 != before[0].1 && !is_alive(&before[0].1.to_string()));
    assert!(supervisor.service("low").is_err());
    // Again: nothing to do.
    let applied = supervisor.apply(services).await.unwrap();
    assert!(applied.started.is_empty() && applied.reloaded.is_empty() && applied.stopped.is_empty());
    assert_eq!(pids(&supervisor), after);
    supervisor.stop().await.unwrap();
    assert!(!after.iter().any(|(_, pid)| is_alive(&pid.to_string())));
}

#[tokio::test]
async fn instances_come_before_others_go() {
    let mut supervisor = supervise(vec![shell("web", "sleep 100")]);
    supervisor.start().await.unwrap();
    all_healthy(&supervisor).await;
    let mut events = supervisor.events().subscribe(supervisor.events().next_number());
    let mut web = shell("web", "sleep 100");
    web.instances = 3;
    supervisor.apply(vec![web.clone()]).await.unwrap();
    let names: Vec<String> = pids(&supervisor).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["web.1", "web.2", "web.3"]);
    let mut ready = 0;
    loop {
        let litekeep_supervise::events::Next::Event(event) = events.next().await else { panic!("a gap") };
        match event.kind {
            Kind::Ready => ready += 1,
            Kind::Stopped => break assert_eq!((event.name.as_str(), ready), ("web", 3)),
            _ => {}
        }
    }
    let before = pids(&supervisor);
    web.instances = 2;
    supervisor.apply(vec![web]).await.unwrap();
    assert_eq!(pids(&supervisor), before[..2]);
    assert!(!is_alive(&before[2].1.to_string()));
    supervisor.stop().await.unwrap();
}

/// It was waited for until its time was over.
#[tokio::test]
async fn an_instance_that_somebody_stops_is_not_waited_for() {
    let mut supervisor = supervise(vec![shell("web", "sleep 100")]);
    supervisor.start().await.unwrap();
    all_healthy(&supervisor).await;
    let before = pids(&supervisor);
    let mut web = shell("web", "sleep 100");
    (web.instances, web.spec.settle) = (2, Duration::from_secs(600));
    web.spec.ready_timeout = Duration::from_secs(600);
    let begun = supervisor.begun().clone();
    let stop = async {
        let second = loop {
            let second = begun.processes().into_iter().find(|process| process.name() == "web.2");
            match second {
                Some(second) => break second,
                None => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        };
        until(&second, |status| status.pid.is_some()).await;
        second.stop().await.unwrap();
    };
    let (applied, ()) = tokio::join!(supervisor.apply(vec![web]), stop);
    let failed = applied.unwrap().failed;
    assert_eq!(failed[0].1.to_string(), "start `web.2`: it was stopped");
    assert_eq!(pids(&supervisor), before, "what ran before goes on");
    assert!(begun.processes().is_empty());
    supervisor.stop().await.unwrap();
}

#[tokio::test]
async fn other_care_and_another_log_leave_the_run() {
    let dir = tempfile::tempdir().unwrap();
    let script = "while :; do echo tick; sleep 0.05; done";
    let mut supervisor = supervise(vec![shell("web", script)]);
    supervisor.start().await.unwrap();
    all_healthy(&supervisor).await;
    let before = pids(&supervisor);
    let mut web = shell("web", script);
    let mut check = Check::new(Probe::Exec(Command::shell("false")));
    (check.interval, check.start_period, check.failures) = (Duration::from_millis(50), Duration::ZERO, 1);
    web.spec.readiness = Some(check);
    web.log.path = Some(dir.path().join("web.log"));
    let applied = supervisor.apply(vec![web]).await.unwrap();
    assert!(applied.reloaded.is_empty(), "{applied:?}");
    reaches(one(&supervisor, "web"), State::Unhealthy).await;
    assert_eq!(lines(&dir.path().join("web.log"), 2).await[0], "tick");
    assert_eq!(pids(&supervisor), before);
    supervisor.stop().await.unwrap();
}

#[tokio::test]
async fn who_was_stopped_by_hand_stays_stopped() {
    let mut supervisor = supervise(vec![shell("web", "sleep 100")]);
    supervisor.start().await.unwrap();
    all_healthy(&supervisor).await;
    one(&supervisor, "web").stop().await.unwrap();
    supervisor.apply(vec![shell("web", "sleep 200")]).await.unwrap();
    one(&supervisor, "web").renew().await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(one(&supervisor, "web").status().borrow().state, State::Stopped);
    one(&supervisor, "web").start().await.unwrap();
    let pid = reaches(one(&supervisor, "web"), State::Healthy).await.pid.unwrap();
    let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
    assert!(command.contains("200"), "{command}");
    supervisor.stop().await.unwrap();
}

/// They had no time to end well.
#[tokio::test]
async fn a_stop_reaches_what_an_apply_that_was_dropped_had_in_hand() {
    let dir = tempfile::tempdir().unwrap();
    let ends = dir.path().join("ends");
    let noted = |name: &str| {
        let trap = format!("trap 'sleep 1; echo {name} >>{}; exit' TERM", ends.display());
        shell(
            name,
            &format!("{trap}; echo ready >{}; while :; do sleep 0.02; done", dir.path().join(name).display()),
        )
    };
    let slow = || {
        let mut slow = shell("slow", "sleep 100");
        slow.spec.settle = Duration::from_secs(600);
        slow
    };
    // A fresh one, while another one is not ready yet.
    let mut supervisor = supervise(vec![shell("slow", "sleep 200")]);
    supervisor.start().await.unwrap();
    all_healthy(&supervisor).await;
    let fresh = dir.path().join("fresh");
    tokio::select! {
        applied = supervisor.apply(vec![slow(), noted("fresh")]) => panic!("{applied:?}"),
        _ = lines(&fresh, 1) => {}
    }
    supervisor.stop().await.unwrap();
    assert_eq!(std::fs::read_to_string(&ends).unwrap_or_default(), "fresh\n");

    // One that is gone, while it ends.
    let mut supervisor = supervise(vec![noted("gone")]);
    supervisor.start().await.unwrap();
    lines(&dir.path().join("gone"), 1).await;
    let gone = one(&supervisor, "gone").clone();
    tokio::select! {
        applied = supervisor.apply(vec![]) => panic!("{applied:?}"),
        _ = reaches(&gone, State::Stopping) => {}
    }
    drop(gone);
    supervisor.stop().await.unwrap();
    assert_eq!(std::fs::read_to_string(&ends).unwrap(), "fresh\ngone\n");
}

/// Says nothing, and gives all runs one port.
#[derive(Debug)]
struct Mute;

impl litekeep_supervise::Front for Mute {
    fn begin(&self, _: &str, port: Option<u16>) -> litekeep_supervise::Result<u16> {
        Ok(port.unwrap_or(4321))
    }

    fn face(&self, _: &str, _: bool) {}

    fn end(&self, _: &str) -> futures::future::BoxFuture<'static, ()> {
        Box::pin(std::future::ready(()))
    }
}

#[tokio::test]
async fn another_front_means_another_run() {
    let mut supervisor = supervise(vec![shell("web", "sleep 100")]);
    supervisor.start().await.unwrap();
    all_healthy(&supervisor).await;
    let mut behind = shell("web", "sleep 100");
    behind.spec.front = Some(Arc::new(Mute));
    let mut other = behind.clone();
    other.spec.front = Some(Arc::new(Mute));
    let mut before = pids(&supervisor);
    // Added, changed, the same, and gone.
    for (web, is_new) in
        [(behind, true), (other.clone(), true), (other, false), (shell("web", "sleep 100"), true)]
    {
        let applied = supervisor.apply(vec![web]).await.unwrap();
        let after = pids(&supervisor);
        assert_eq!((applied.reloaded.len(), after != before), (usize::from(is_new), is_new), "{applied:?}");
        before = after;
    }
    supervisor.stop().await.unwrap();
}

#[tokio::test]
async fn what_was_stopped_is_not_started_by_a_reload_and_has_the_new_settings_later() {
    let mut supervisor = supervise(vec![shell("web", "sleep 100")]);
    supervisor.start().await.unwrap();
    for script in ["sleep 101", "sleep 102"] {
        all_healthy(&supervisor).await;
        one(&supervisor, "web").stop().await.unwrap();
        let new = shell("web", &format!("exec {script}"));
        apply(&mut supervisor, vec![new]).await.unwrap();
        assert_eq!(one(&supervisor, "web").status().borrow().state, State::Stopped);
        one(&supervisor, "web").start().await.unwrap();
        let pid = reaches(one(&supervisor, "web"), State::Healthy).await.pid.unwrap();
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap();
        assert_eq!(String::from_utf8_lossy(&command).replace('\0', " ").trim(), script);
    }
    supervisor.stop().await.unwrap();
}

/// What did not run was told to be reloaded as soon as its program had been executed.
#[tokio::test]
async fn what_did_not_run_must_prove_itself_too() {
    let crashing = |code: u32| {
        let mut service = shell("crashing", &format!("sleep 0.2; echo out of luck >&2; exit {code}"));
        service.spec.settle = Duration::from_secs(5);
        // After the first restart, which comes at once, it waits until somebody asks.
        (service.spec.policy.shortest, service.spec.policy.longest) =
            (Duration::from_secs(100), Duration::from_secs(100));
        service
    };
    let failing = |code: u32| {
        let mut service = shell("failing", &format!("exit {code}"));
        service.spec.policy.limit = 1;
        service
    };
    let once = |script: &str| {
        let mut service = shell("once", script);
        service.spec.policy.restart = litekeep_supervise::policy::Restart::Never;
        service
    };
    let mut supervisor = supervise(vec![crashing(1), failing(3), once("true")]);
    supervisor.start().await.unwrap();
    until(one(&supervisor, "crashing"), |status| status.state == State::BackingOff && status.restarts == 2)
        .await;
    reaches(one(&supervisor, "failing"), State::Failed).await;
    reaches(one(&supervisor, "once"), State::Completed).await;
    let bad = || vec![crashing(2), failing(4), once("exit 7")];
    let applied = supervisor.apply(bad()).await.unwrap();
    let mut errors: Vec<String> = applied.failed.iter().map(|(_, error)| error.to_string()).collect();
    errors.sort();
    for (error, wanted) in errors.iter().zip([
        "start `crashing`: exit code 2",
        "start `failing`: exit code 4",
        "start `once`: exit code 7",
    ]) {
        assert!(error.starts_with(wanted), "{errors:?}");
    }
    assert!(errors.len() == 3 && applied.reloaded.is_empty(), "{applied:?}");
    // It is in force, and tried as such: nothing has changed since.
    let again = supervisor.apply(bad()).await.unwrap();
    assert!(again.failed.is_empty() && again.reloaded.is_empty(), "{again:?}");
    let mended = vec![shell("crashing", "sleep 100"), shell("failing", "sleep 100"), once("exit 0")];
    let applied = supervisor.apply(mended).await.unwrap();
    assert!(applied.failed.is_empty(), "{applied:?}");
    assert_eq!(applied.reloaded, ["crashing", "failing", "once"]);
    assert_eq!(one(&supervisor, "once").status().borrow().state, State::Completed);
    supervisor.stop().await.unwrap();
}

/// A litekeep that has moved below its unit's group cannot be started again by systemd while survivors of a kill are there.
#[tokio::test]
async fn controllers_are_passed_on_only_when_something_has_a_limit() {
    let group = tempfile::tempdir().unwrap();
    let passed = || std::fs::read_to_string(group.path().join("cgroup.subtree_control")).ok();
    let cgroups = Cgroups { v2: Some(group.path().into()), ..Cgroups::default() };
    let services = vec![shell("web", "sleep 100")];
    let mut supervisor = Supervisor::new(services, Arc::new(SystemClock), cgroups).unwrap();
    supervisor.apply(vec![shell("web", "sleep 100")]).await.unwrap();
    assert_eq!(passed(), None);
    let mut limited = shell("web", "sleep 100");
    limited.spec.cpu = Some(0.5);
    supervisor.apply(vec![limited]).await.unwrap();
    assert_eq!(passed().as_deref(), Some("+cpu"));
    supervisor.stop().await.unwrap();
}
