//! A new run in the place of an old one.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use litekeep_supervise::health::{Check, Http, Probe};
use litekeep_supervise::spawn::Socket;
use litekeep_supervise::watch;

use super::*;

/// Serves the handed-over socket; each answer names the instance. Ends when told to, after the connections it has.
const SERVER: &str = "
import os, signal, socket, sys, time
assert int(os.environ['LISTEN_PID']) == os.getpid()
s = socket.socket(fileno=3)
s.settimeout(0.05)
ending = []
signal.signal(signal.SIGTERM, lambda *_: ending.append(1))
time.sleep(float(os.environ.get('SLOW', '0')))
while not ending:
    try: c, _ = s.accept()
    except TimeoutError: continue
    c.settimeout(5)
    c.recv(4096)
    body = os.environ['LITEKEEP_INSTANCE'].encode()
    c.sendall(b'HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n' % len(body) + body)
    c.close()
";

pub(super) fn server(socket: &Socket, address: SocketAddr) -> Service {
    let mut service = shell("web", "");
    service.spec.spawn.command =
        Command::Program { name: "python3".into(), args: vec!["-c".into(), SERVER.into()] };
    service.spec.spawn.sockets = vec![socket.clone()];
    let mut http = Http::parse(&format!("http://{address}/")).unwrap();
    http.names_instance = true;
    let mut check = Check::new(Probe::Http(http));
    check.timeout = Duration::from_millis(500);
    service.spec.readiness = Some(check);
    service
}

pub(super) fn get(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.rsplit("\r\n").next().unwrap().to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_refuses_no_connection() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let socket = Socket { name: "http".into(), fd: Arc::new(listener.into()) };
    let mut service = server(&socket, address);
    let mut supervisor = supervise(vec![service.clone()]);
    supervisor.start().await.unwrap();
    let old = reaches(one(&supervisor, "web"), State::Healthy).await;
    let over = Arc::new(AtomicBool::new(false));
    let is_over = over.clone();
    let client = std::thread::spawn(move || {
        let mut answers = Vec::new();
        while !is_over.load(SeqCst) {
            answers.push(get(address));
        }
        answers
    });
    service.spec.spawn.env = vec![("SLOW".into(), "0.5".into())];
    apply(&mut supervisor, vec![service]).await.unwrap();
    over.store(true, SeqCst);
    let answers = client.join().unwrap();
    let refused: Vec<_> = answers.iter().filter_map(|answer| answer.as_ref().err()).collect();
    assert!(refused.is_empty(), "{} of {}: {refused:?}", refused.len(), answers.len());
    let new = one(&supervisor, "web").status().borrow().clone();
    assert_eq!((new.state, new.restarts), (State::Healthy, 0));
    assert!(new.pid != old.pid && !is_alive(&old.pid.unwrap().to_string()));
    assert_eq!(get(address).unwrap(), new.instance.unwrap());
    supervisor.stop().await.unwrap();
}

#[tokio::test]
async fn a_bad_new_command_leaves_the_healthy_old_one() {
    let mut supervisor = supervise(vec![shell("web", "sleep 100")]);
    supervisor.start().await.unwrap();
    let old = reaches(one(&supervisor, "web"), State::Healthy).await;
    let bad = |command| {
        let mut spec = Spec::new(Spawn::new(command));
        spec.ready_timeout = Duration::from_millis(500);
        spec
    };
    let absent = bad(Command::Program { name: "no-such-program".into(), args: vec![] });
    let crashing = bad(Command::shell("exit 1"));
    let mut unready = bad(Command::shell("sleep 101"));
    unready.readiness = Some(Check::new(Probe::Exec(Command::shell("false"))));
    let goes_on = "the one before goes on";
    // What can be seen before is seen before.
    let expected =
        [("no-such-program", ""), ("it ended: exit code 1", goes_on), ("not ready within 500ms", goes_on)];
    for (spec, (cause, end)) in [absent, crashing, unready].into_iter().zip(expected) {
        let error = apply(&mut supervisor, vec![Service::new("web", spec)]).await.unwrap_err().to_string();
        assert!(error.contains(cause) && error.ends_with(end), "{error}");
        let status = one(&supervisor, "web").status().borrow().clone();
        assert_eq!((status.state, status.pid, status.restarts), (State::Healthy, old.pid, 0));
        assert!(is_alive(&old.pid.unwrap().to_string()));
    }
    supervisor.stop().await.unwrap();
}

#[tokio::test]
async fn a_stop_in_the_middle_of_a_reload_ends_both() {
    let supervisor = supervise(vec![shell("web", "sleep 100")]);
    supervisor.start().await.unwrap();
    let web = one(&supervisor, "web").clone();
    reaches(&web, State::Healthy).await;
    let dir = tempfile::tempdir().unwrap();
    let pid = dir.path().join("pid");
    let script = format!("echo $$ >{}; exec sleep 100", pid.display());
    let mut spec = Spec::new(Spawn::new(Command::shell(script)));
    spec.settle = Duration::from_secs(60);
    let reloading = web.clone();
    let reload = tokio::spawn(async move { reloading.reload(spec).await });
    let new = lines(&pid, 1).await;
    web.stop().await.unwrap();
    assert!(reload.await.unwrap().unwrap_err().to_string().contains("it was stopped"));
    assert!(!is_alive(&new[0]));
    assert_eq!(web.status().borrow().state, State::Stopped);
}

/// As long as the old one took to end, nobody saw what became of the new one.
#[tokio::test]
async fn the_new_run_is_cared_for_while_the_old_one_ends() {
    let dir = tempfile::tempdir().unwrap();
    let runs = dir.path().join("runs");
    let mut slow = shell("web", "trap '' TERM; while :; do sleep 0.1; done");
    slow.spec.stop_timeout = Duration::from_secs(100);
    let supervisor = supervise(vec![slow.clone()]);
    supervisor.start().await.unwrap();
    let web = one(&supervisor, "web").clone();
    let old = reaches(&web, State::Healthy).await.pid.unwrap().to_string();
    let script =
        format!("echo $$ >>{0}; test $(wc -l <{0}) -gt 1 && exec sleep 100; sleep 1; exit 1", runs.display());
    slow.spec.spawn.command = Command::shell(script);
    let reloading = web.clone();
    let reload = tokio::spawn(async move { reloading.reload(slow.spec).await });
    let status = until(&web, |status| status.restarts > 0).await;
    assert!(status.restart_reason.starts_with("exit code 1"), "{status:?}");
    let new = reaches(&web, State::Healthy).await.pid.unwrap().to_string();
    assert!(is_alive(&old) && is_alive(&new));
    assert!(!reload.is_finished(), "the reload is over when the old one is");

    // A stop ends both, and waits for both.
    let stopping = web.clone();
    let stop = tokio::spawn(async move { stopping.stop().await });
    reaches(&web, State::Stopping).await;
    while is_alive(&new) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(is_alive(&old) && !stop.is_finished());
    assert!(std::process::Command::new("kill").args(["-KILL", &old]).status().unwrap().success());
    stop.await.unwrap().unwrap();
    reload.await.unwrap().unwrap();
    assert!(!is_alive(&old));
    assert_eq!(web.status().borrow().state, State::Stopped);
}

#[tokio::test]
async fn instances_are_replaced_one_after_another_or_not_at_all() {
    let mut web = shell("web", "sleep 100");
    web.instances = 3;
    let mut supervisor = supervise(vec![web]);
    supervisor.start().await.unwrap();
    for process in supervisor.processes() {
        reaches(process, State::Healthy).await;
    }
    // The second instance refuses the new command.
    let script = "case $LITEKEEP_INSTANCE in web.2:*) exit 1;; esac; sleep 100";
    let mut new = shell("web", script);
    new.instances = 3;
    let before: Vec<_> = supervisor.processes().map(|p| p.status().borrow().pid).collect();
    apply(&mut supervisor, vec![new]).await.unwrap_err();
    let after: Vec<_> = supervisor.processes().map(|p| p.status().borrow().pid).collect();
    assert_eq!(before[1..], after[1..]);
    let first = after[0].unwrap();
    let command = std::fs::read(format!("/proc/{first}/cmdline")).unwrap();
    assert!(!String::from_utf8_lossy(&command).contains("case"), "the first has the old command again");
    supervisor.stop().await.unwrap();
}

/// A server that binds its port itself, as most do; a second one cannot.
fn own_port(port: u16, then: &str) -> Spec {
    let script = format!(
        "import socket, sys, time, os\n{then}\ns = socket.socket()\n\
         s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\ns.bind((\"127.0.0.1\", {port}))\ns.listen()\n\
         while True: s.accept()[0].close()"
    );
    let program = Command::Program { name: "python3".into(), args: vec!["-c".into(), script.into()] };
    let mut spec = Spec::new(Spawn::new(program));
    spec.readiness = Some(Check::new(Probe::Tcp(format!("127.0.0.1:{port}"))));
    spec.overlaps = false;
    spec.ready_timeout = Duration::from_secs(5);
    spec
}

#[tokio::test]
async fn a_process_that_must_be_alone_is_replaced_and_comes_back_when_the_new_one_is_bad() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let with = |spec| vec![Service::new("web", spec), shell("other", "sleep 100")];
    let mut supervisor = supervise(with(own_port(port, "")));
    supervisor.start().await.unwrap();
    let old = reaches(one(&supervisor, "web"), State::Healthy).await;
    apply(&mut supervisor, with(own_port(port, "print(1)"))).await.unwrap();
    let new = one(&supervisor, "web").status().borrow().clone();
    assert_eq!((new.state, new.restarts), (State::Healthy, 0));
    assert!(new.pid != old.pid && !is_alive(&old.pid.unwrap().to_string()));

    // What can be seen before is seen before: the present one is not touched.
    let mut absent = own_port(port, "");
    absent.spawn.command = Command::Program { name: "no-such-program".into(), args: vec![] };
    let error = apply(&mut supervisor, with(absent)).await.unwrap_err().to_string();
    assert!(error.contains("no-such-program"), "{error}");
    assert_eq!(one(&supervisor, "web").status().borrow().pid, new.pid);

    let error = apply(&mut supervisor, with(own_port(port, "sys.exit(3)"))).await.unwrap_err().to_string();
    assert!(error.contains("exit code 3") && error.ends_with("the one before is started again"), "{error}");
    let back = reaches(one(&supervisor, "web"), State::Healthy).await;
    let command = std::fs::read(format!("/proc/{}/cmdline", back.pid.unwrap())).unwrap();
    assert!(String::from_utf8_lossy(&command).contains("print(1)"), "the one before is back");
    supervisor.stop().await.unwrap();
}

fn watch_all(dir: &Path) -> watch::Settings {
    watch::Settings::new(vec![dir.into()], Duration::from_millis(50))
}

/// It was replaced for what it printed itself, without end.
#[tokio::test]
async fn the_own_log_of_a_process_below_a_watched_folder_gives_it_no_new_run() {
    let dir = tempfile::tempdir().unwrap();
    let mut web = shell("web", "while :; do echo alive; sleep 0.3; done");
    (web.instances, web.log.path) = (2, Some(dir.path().join("web.out")));
    web.watch = Some(watch_all(dir.path()));
    let supervisor = supervise(vec![web]);
    supervisor.start().await.unwrap();
    for name in ["web.1.out", "web.2.out"] {
        lines(&dir.path().join(name), 4).await;
    }
    let changes = supervisor.events().since(0).1;
    assert!(!changes.iter().any(|event| event.kind.name() == "files_changed"), "{changes:?}");
    std::fs::write(dir.path().join("app.js"), "").unwrap();
    until(one(&supervisor, "web"), |status| status.reason == "reloaded").await;
    supervisor.stop().await.unwrap();
}

#[tokio::test]
async fn a_change_of_watched_files_gives_a_new_run_and_a_bad_one_leaves_the_old() {
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("app.sh");
    std::fs::write(&script, "exec sleep 100").unwrap();
    let mut web = shell("web", &format!("exec sh {}", script.display()));
    web.spec.ready_timeout = Duration::from_secs(2);
    web.watch = Some(watch::Settings { ignore: vec!["*.log".into()], ..watch_all(dir.path()) });
    let supervisor = supervise(vec![web]);
    supervisor.start().await.unwrap();
    let first = reaches(one(&supervisor, "web"), State::Healthy).await;
    std::fs::write(dir.path().join("app.log"), "noise").unwrap();
    std::fs::write(&script, "exec sleep 200").unwrap();
    let second = until(one(&supervisor, "web"), |status| status.pid != first.pid).await;
    assert_eq!((second.state, second.restarts), (State::Healthy, 0));
    std::fs::write(&script, "exit 1").unwrap();
    let mut events = supervisor.events().subscribe(0);
    loop {
        let litekeep_supervise::events::Next::Event(event) = events.next().await else { panic!("a gap") };
        if event.kind == litekeep_supervise::events::Kind::ReloadFailed {
            break;
        }
    }
    assert_eq!(one(&supervisor, "web").status().borrow().pid, second.pid);
    let changes = supervisor.events().since(0).1;
    let changes = changes.iter().filter(|event| event.kind.name() == "files_changed");
    assert!(changes.map(|event| &event.text).all(|text| text.ends_with("app.sh")));
    supervisor.stop().await.unwrap();
}
