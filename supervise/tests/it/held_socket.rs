//! A socket that several runs share: what one of them answers says nothing about another.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use litekeep_supervise::health::{Check, Http, Probe};
use litekeep_supervise::spawn::Socket;

use super::reload::{get, server};
use super::*;

fn listen() -> (Socket, SocketAddr) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (Socket { name: "http".into(), fd: Arc::new(listener.into()) }, address)
}

/// Both probes of the network; none of them asks the application for anything.
fn probes(address: SocketAddr) -> [Probe; 2] {
    [Probe::Http(Http::parse(&format!("http://{address}/")).unwrap()), Probe::Tcp(address.to_string())]
}

/// A check that takes no excuse.
fn strict(probe: Probe) -> Check {
    Check {
        start_period: Duration::ZERO,
        interval: Duration::from_millis(50),
        timeout: Duration::from_secs(5),
        failures: 1,
        ..Check::new(probe)
    }
}

/// The old one answered the probe of the new one, which was taken for ready; the old one was ended, and nobody answered any more.
#[tokio::test]
async fn a_new_run_that_does_not_accept_leaves_the_one_that_does() {
    let (socket, address) = listen();
    for probe in probes(address) {
        let mut web = server(&socket, address);
        let readiness = Check { timeout: Duration::from_secs(2), ..Check::new(probe) };
        web.spec.readiness = Some(readiness);
        web.spec.ready_timeout = Duration::from_secs(6);
        let mut supervisor = supervise(vec![web.clone()]);
        supervisor.start().await.unwrap();
        let old = reaches(one(&supervisor, "web"), State::Healthy).await;
        let bad = [
            ("sleep 100", "not ready within 6s: "),
            ("sleep 0.3; echo no module >&2; exit 1", "it ended: exit code 1"),
        ];
        for (script, cause) in bad {
            let mut new = web.clone();
            new.spec.spawn.command = Command::shell(script);
            let error = apply(&mut supervisor, vec![new]).await.unwrap_err().to_string();
            assert!(error.contains(cause) && error.ends_with("the one before goes on"), "{error}");
            let status = one(&supervisor, "web").status().borrow().clone();
            assert_eq!((status.state, status.pid, status.restarts), (State::Healthy, old.pid, 0));
            assert_eq!(Some(get(address).unwrap()), old.instance);
        }
        // And a good one is found to be ready while the old one still answers.
        web.spec.spawn.env = vec![("VERSION".into(), "2".into())];
        web.spec.ready_timeout = Duration::from_secs(20);
        apply(&mut supervisor, vec![web]).await.unwrap();
        let new = one(&supervisor, "web").status().borrow().clone();
        assert!(new.pid != old.pid && !is_alive(&old.pid.unwrap().to_string()));
        assert_eq!(Some(get(address).unwrap()), new.instance);
        supervisor.stop().await.unwrap();
    }
}

/// The kernel completes connections before anybody accepts them.
#[tokio::test]
async fn a_process_that_never_accepts_is_not_ready() {
    let (socket, address) = listen();
    for probe in probes(address) {
        let mut deaf = shell("deaf", "sleep 100");
        deaf.spec.spawn.sockets = vec![socket.clone()];
        deaf.spec.readiness = Some(Check { timeout: Duration::from_secs(1), ..strict(probe) });
        let supervisor = supervise(vec![deaf]);
        supervisor.start().await.unwrap();
        let status = reaches(one(&supervisor, "deaf"), State::Unhealthy).await;
        assert!(status.reason.contains("nobody accepted the connection"), "{status:?}");
        supervisor.stop().await.unwrap();
    }
}

/// Each was ended again and again for what another one had answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_are_not_ended_for_the_answers_of_others() {
    let (socket, address) = listen();
    let [http, tcp] = probes(address);
    let Probe::Http(mut naming) = http.clone() else { unreachable!() };
    naming.names_instance = true;
    for probe in [Probe::Http(naming), http, tcp] {
        let mut web = server(&socket, address);
        web.instances = 3;
        web.spec.readiness = Some(Check::new(probe.clone()));
        // On a busy machine each of the servers, which answer one after another, needs a while.
        let (interval, timeout) = (Duration::from_millis(300), Duration::from_secs(15));
        web.spec.liveness = Some(Check { interval, timeout, ..strict(probe) });
        let supervisor = supervise(vec![web]);
        supervisor.start().await.unwrap();
        for process in supervisor.processes() {
            reaches(process, State::Healthy).await;
            let mut answers = BTreeSet::new();
            while answers.len() < 2 {
                let status = until(process, |status| {
                    status.restarts > 0 || status.liveness.is_some_and(|last| !answers.contains(&last.at_ms))
                });
                let status = status.await;
                assert_eq!(status.restarts, 0, "{}", status.restart_reason);
                answers.extend(status.liveness.map(|last| last.at_ms));
            }
        }
        supervisor.stop().await.unwrap();
    }
}

/// One that has accepted and does not answer is found all the same.
#[tokio::test]
async fn an_instance_that_hangs_is_ended() {
    let (socket, address) = listen();
    let [http, _] = probes(address);
    let mut hangs = server(&socket, address);
    let code =
        "import socket, time\ns = socket.socket(fileno=3)\nkept = []\nwhile True: kept.append(s.accept())";
    hangs.spec.spawn.command =
        Command::Program { name: "python3".into(), args: vec!["-c".into(), code.into()] };
    hangs.spec.readiness = None;
    hangs.spec.settle = Duration::from_millis(50);
    hangs.spec.liveness = Some(strict(http));
    let supervisor = supervise(vec![hangs]);
    supervisor.start().await.unwrap();
    let status = until(one(&supervisor, "web"), |status| status.restarts > 0).await;
    assert!(status.restart_reason.contains("no answer within"), "{status:?}");
    supervisor.stop().await.unwrap();
}
