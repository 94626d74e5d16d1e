//! Children that say themselves when they are ready, and what litekeep says to its own service manager.

use std::ffi::OsStr;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use litekeep_env::notify::{NotifySocket, ServiceManager};
use litekeep_supervise::health::{Check, Probe};
use litekeep_supervise::notify::keep_alive;

use super::*;

/// Says READY=1 as the libraries of several languages do.
const SAY_READY: &str = "python3 -c 'import os, socket; s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); \
     s.connect(chr(0) + os.environ[\"NOTIFY_SOCKET\"][1:]); s.sendall(b\"STATUS=up\\nREADY=1\\n\")'";

fn notified(script: &str) -> Service {
    let mut service = shell("web", script);
    let mut check = Check::new(Probe::Notify);
    check.start_period = Duration::from_millis(300);
    service.spec.readiness = Some(check);
    service
}

#[tokio::test]
async fn a_process_is_ready_when_one_of_its_tree_says_so_and_no_stranger() {
    let dir = tempfile::tempdir().unwrap();
    let (name, go) = (dir.path().join("name"), dir.path().join("go"));
    let script = format!(
        "echo $NOTIFY_SOCKET >{}; while ! test -e {}; do sleep 0.02; done; {SAY_READY}; sleep 100",
        name.display(),
        go.display()
    );
    let supervisor = supervise(vec![notified(&script)]);
    supervisor.start().await.unwrap();
    let web = one(&supervisor, "web");
    let name = lines(&name, 1).await[0].clone();
    // This process is no member of the tree.
    let address = SocketAddr::from_abstract_name(name.strip_prefix('@').unwrap()).unwrap();
    UnixDatagram::unbound().unwrap().send_to_addr(b"READY=1", &address).unwrap();
    let unready = reaches(web, State::Unhealthy).await;
    assert_eq!(unready.reason, "it has not said READY=1 within 300ms");
    std::fs::write(go, "").unwrap();
    let ready = reaches(web, State::Healthy).await;
    assert_eq!((ready.pid, ready.restarts), (unready.pid, 0));
    // Another run has another socket, and the probes of a run have none.
    web.restart().await.unwrap();
    reaches(web, State::Healthy).await;
    supervisor.stop().await.unwrap();
}

#[tokio::test]
async fn the_tool_of_systemd_is_understood() {
    if std::process::Command::new("systemd-notify").arg("--version").output().is_err() {
        eprintln!("skipped: no systemd-notify here");
        return;
    }
    let supervisor = supervise(vec![notified("systemd-notify --ready; sleep 100")]);
    supervisor.start().await.unwrap();
    reaches(one(&supervisor, "web"), State::Healthy).await;
    supervisor.stop().await.unwrap();
}

#[tokio::test]
async fn a_new_run_that_never_says_it_is_ready_leaves_the_old_one() {
    let ready = notified(&format!("{SAY_READY}; sleep 100"));
    let mut supervisor = supervise(vec![ready]);
    supervisor.start().await.unwrap();
    let old = reaches(one(&supervisor, "web"), State::Healthy).await;
    let mut silent = notified("sleep 100");
    silent.spec.ready_timeout = Duration::from_secs(1);
    let error = apply(&mut supervisor, vec![silent]).await.unwrap_err().to_string();
    assert!(error.contains("not ready within 1s: it has not said READY=1 within 300ms"), "{error}");
    assert_eq!(one(&supervisor, "web").status().borrow().pid, old.pid);
    supervisor.stop().await.unwrap();
}

/// It was unfit once its start period was over.
#[tokio::test]
async fn a_new_run_may_become_ready_as_long_as_it_has_time() {
    let dir = tempfile::tempdir().unwrap();
    let go = dir.path().join("go");
    let script = format!("while ! test -e {}; do sleep 0.02; done; {SAY_READY}; sleep 100", go.display());
    std::fs::write(&go, "").unwrap();
    let supervisor = supervise(vec![notified(&script)]);
    supervisor.start().await.unwrap();
    let web = one(&supervisor, "web").clone();
    let old = reaches(&web, State::Healthy).await;
    std::fs::remove_file(&go).unwrap();
    let renewed = web.clone();
    let renewal = tokio::spawn(async move { renewed.renew().await });
    // Longer than its start period.
    tokio::time::sleep(Duration::from_secs(1)).await;
    std::fs::write(&go, "").unwrap();
    renewal.await.unwrap().unwrap();
    let new = web.status().borrow().clone();
    assert!(new.state == State::Healthy && new.pid != old.pid, "{new:?}");
    supervisor.stop().await.unwrap();
}

#[tokio::test]
async fn liveness_cannot_be_told() {
    let mut service = shell("web", "sleep 100");
    service.spec.liveness = Some(Check::new(Probe::Notify));
    let setup = Setup::new(Arc::new(SystemClock), Cgroups::default());
    let error = Supervisor::set_up(Setup { services: vec![service], ..setup }).map(drop).unwrap_err();
    assert!(error.to_string().contains("readiness only"), "{error}");
}

#[tokio::test]
async fn the_service_manager_gets_signs_of_life_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let socket = NotifySocket::bind(path.to_str().unwrap()).unwrap();
    let manager = ServiceManager::new(Some(OsStr::new(&path)), Some("200000")).unwrap();
    _ = tokio::time::timeout(Duration::from_millis(450), keep_alive(&manager)).await;
    let mut signs = 0;
    while let Some((_, message)) = socket.receive().unwrap() {
        assert_eq!(message, b"WATCHDOG=1");
        signs += 1;
    }
    assert!((3..=5).contains(&signs), "{signs}");
}
