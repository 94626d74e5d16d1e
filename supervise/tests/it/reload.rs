//! A new run in the place of an old one.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use litekeep_supervise::health::{Check, Http, Probe};
use litekeep_supervise::spawn::Socket;

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

fn server(socket: &Socket, address: SocketAddr) -> Service {
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

fn get(address: SocketAddr) -> std::io::Result<String> {
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
    let service = server(&socket, address);
    let mut spec = service.spec.clone();
    let mut supervisor = supervise(vec![service]);
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
    spec.spawn.env = vec![("SLOW".into(), "0.5".into())];
    supervisor.reload("web", spec).await.unwrap();
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
    let mut unready = bad(Command::shell("sleep 100"));
    unready.readiness = Some(Check::new(Probe::Exec(Command::shell("false"))));
    let expected = ["execute `no-such-program`", "it ended: exit code 1", "not ready within 500ms"];
    for (spec, cause) in [absent, crashing, unready].into_iter().zip(expected) {
        let error = supervisor.reload("web", spec).await.unwrap_err().to_string();
        assert!(error.contains(cause) && error.ends_with("the one before goes on"), "{error}");
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
    let mut spec = Spec::new(Spawn::new(Command::shell(script)));
    spec.settle = Duration::from_millis(100);
    let before: Vec<_> = supervisor.processes().map(|p| p.status().borrow().pid).collect();
    supervisor.reload("web", spec).await.unwrap_err();
    let after: Vec<_> = supervisor.processes().map(|p| p.status().borrow().pid).collect();
    assert_eq!(before[1..], after[1..]);
    let first = after[0].unwrap();
    let command = std::fs::read(format!("/proc/{first}/cmdline")).unwrap();
    assert!(!String::from_utf8_lossy(&command).contains("case"), "the first has the old command again");
    supervisor.stop().await.unwrap();
}
