//! As PID 1 of a namespace: this test binary, started anew by `unshare`.

use litekeep_supervise::policy::Restart;

use super::*;

/// Set for the process that plays PID 1.
const ROLE: &str = "LITEKEEP_TEST_PID_1";

#[test]
fn as_pid_1_zombies_are_reaped_and_a_one_shot_that_ends_well_ends_nobody_else() {
    let unshare = |rest: &[&std::ffi::OsStr]| {
        let mut command = std::process::Command::new("unshare");
        command.args(["-pf", "--mount-proc", "--kill-child"]).args(rest).env(ROLE, "1");
        command.output()
    };
    match unshare(&["true".as_ref()]) {
        Ok(output) if output.status.success() => {}
        other => {
            eprintln!("skipped: no pid namespace here: {other:?}");
            return;
        }
    }
    let own = std::env::current_exe().unwrap();
    let test = "init::role_of_pid_1";
    let output =
        unshare(&[own.as_os_str(), "--exact".as_ref(), test.as_ref(), "--nocapture".as_ref()]).unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("PID 1 is done"), "{text}{errors}");
}

/// Does nothing but in the namespace.
#[tokio::test]
async fn role_of_pid_1() {
    if std::env::var_os(ROLE).is_none() {
        return;
    }
    assert_eq!(std::process::id(), 1);
    let mut oneshot = shell("oneshot", "(setsid sh -c 'sleep 0.2; exit 5' &) ; exit 0");
    oneshot.spec.policy.restart = Restart::Never;
    // Its orphans end all the time, some of them in sessions of their own.
    let orphans = "while :; do (sleep 0.05 &); (setsid sleep 0.05 &); (exit 3) & sleep 0.02; wait; done";
    let supervisor = supervise(vec![oneshot, shell("web", "sleep 100"), shell("orphans", orphans)]);
    supervisor.start().await.unwrap();
    reaches(one(&supervisor, "oneshot"), State::Completed).await;
    // Exit codes of children that other code starts are not taken from it.
    for code in 0..20 {
        let child = tokio::process::Command::new("sh").args(["-c", &format!("exit {code}")]).status();
        assert_eq!(child.await.unwrap().code(), Some(code));
    }
    // Whoever is a zombie now is not one for long.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let seen = zombies();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let stay: Vec<_> = zombies().into_iter().filter(|pid| seen.contains(pid)).collect();
    assert!(stay.is_empty(), "zombies stay: {stay:?}");
    let web = reaches(one(&supervisor, "web"), State::Healthy).await;
    assert_eq!(web.restarts, 0);
    supervisor.stop().await.unwrap();
    let begin = Instant::now();
    while others().next().is_some() {
        assert!(begin.elapsed() < Duration::from_secs(2), "they stay: {:?}", others().collect::<Vec<_>>());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    println!("PID 1 is done");
}

/// The processes of this namespace but PID 1.
fn others() -> impl Iterator<Item = String> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name != "1" && name.parse::<u32>().is_ok())
}

fn zombies() -> Vec<String> {
    let is_zombie = |pid: &String| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.contains(") Z ")
    };
    others().filter(is_zombie).collect()
}
