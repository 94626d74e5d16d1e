//! New runs for what has not changed.

use litekeep_supervise::Until;

use super::*;

/// A service whose script stands in a file.
fn from_file(dir: &Path, name: &str, script: &str) -> Service {
    write(dir, name, script);
    let mut service = shell(name, &format!("exec sh {}", dir.join(name).display()));
    (service.spec.policy.limit, service.spec.ready_timeout) = (1, Duration::from_secs(10));
    service
}

fn write(dir: &Path, name: &str, script: &str) {
    std::fs::write(dir.join(name), script).unwrap();
}

/// The first that was unfit ended it for those after it, and nobody tried what had failed.
#[tokio::test]
async fn one_that_is_unfit_keeps_no_other_from_its_new_run_and_what_has_failed_is_tried() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let forever = "exec sleep 100";
    let mut services: Vec<Service> =
        ["a", "b", "c", "stopped"].iter().map(|name| from_file(dir, name, forever)).collect();
    services[2].after = vec![("b".into(), Until::Started)];
    services.extend([from_file(dir, "failed", "exit 3"), from_file(dir, "hopeless", "exit 4")]);
    services.push(from_file(dir, "done", "exit 0"));
    let supervisor = supervise(services);
    supervisor.start().await.unwrap();
    one(&supervisor, "stopped").stop().await.unwrap();
    let mut before = Vec::new();
    for name in ["a", "b", "c"] {
        before.push(reaches(one(&supervisor, name), State::Healthy).await.pid);
    }
    reaches(one(&supervisor, "failed"), State::Failed).await;
    reaches(one(&supervisor, "hopeless"), State::Failed).await;
    reaches(one(&supervisor, "done"), State::Completed).await;
    write(dir, "b", "echo out of luck >&2; exit 1");
    write(dir, "failed", forever);
    let mut done = supervisor.renew(|_| true).await;
    done.renewed.sort();
    assert_eq!(done.renewed, ["a", "c", "failed"]);
    let errors: Vec<String> = done.failed.iter().map(|(name, error)| format!("{name}: {error}")).collect();
    assert!(
        errors.len() == 2
            && errors[0].starts_with("b: reload `b`: ")
            && errors[0].ends_with("the one before goes on")
            && errors[1].starts_with("hopeless: start `hopeless`: exit code 4"),
        "{errors:?}"
    );
    let pid = |name| one(&supervisor, name).status().borrow().pid;
    assert!(pid("a") != before[0] && pid("b") == before[1] && pid("c") != before[2]);
    assert_eq!(one(&supervisor, "failed").status().borrow().state, State::Healthy);
    assert_eq!(one(&supervisor, "stopped").status().borrow().state, State::Stopped);
    assert_eq!(one(&supervisor, "done").status().borrow().state, State::Completed);

    // By name: nobody else.
    let a = pid("a");
    assert_eq!(supervisor.renew(|name| name == "c").await.renewed, ["c"]);
    assert_eq!(pid("a"), a);
    supervisor.stop().await.unwrap();
}
