use tokio::net::TcpListener;

use super::*;
use crate::spawn::Socket;
use crate::tree::tests::tree_of;

/// Asks about a run that does nothing and holds these sockets.
async fn ask_with(probe: Probe, sockets: Vec<Socket>, timeout: Duration) -> Verdict {
    let run = Spawn { sockets, ..Spawn::new(Command::shell("sleep 100")) };
    let subject = Subject {
        instance: "web#7".into(),
        tree: Arc::new(tree_of(&run, "web#7", Group::default())),
        surroundings: Arc::new(run),
        port: None,
    };
    let verdict = probe.ask(&subject, timeout).await;
    subject.tree.stop(signal_number("KILL").unwrap(), Duration::ZERO).await;
    verdict
}

async fn ask(probe: Probe) -> Verdict {
    ask_with(probe, vec![], Duration::from_millis(300)).await
}

impl Verdict {
    fn reason(&self) -> &str {
        match self {
            Verdict::Fit => "",
            Verdict::Unfit(reason) | Verdict::Unclear(reason) => reason,
        }
    }
}

/// Answers every connection with these bytes and closes it.
async fn server(answer: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            _ = stream.read(&mut request).await;
            _ = stream.write_all(answer).await;
        }
    });
    address
}

#[test]
fn both_thresholds_hold_and_the_start_is_excused_until_the_first_success() {
    let check = Check { successes: 2, failures: 2, ..Check::new(Probe::Tcp(String::new())) };
    let mut tally = Tally::default();
    let mut step = |is_fit, is_starting| tally.step(&check, is_fit, is_starting);
    assert_eq!([step(false, true), step(false, true), step(false, true)], [None; 3]);
    assert_eq!([step(true, true), step(true, true)], [None, Some(true)]);
    assert_eq!([step(false, true), step(true, true), step(false, true)], [None; 3]);
    assert_eq!([step(false, true), step(false, false)], [Some(false), None]);
    assert_eq!([step(true, false), step(true, false)], [None, Some(true)]);
    let mut never = Tally::default();
    assert_eq!([never.step(&check, false, true), never.step(&check, false, false)], [None; 2]);
    assert_eq!(never.step(&check, false, false), Some(false));
}

#[test]
fn urls_are_http_only() {
    let parsed = Http::parse("http://localhost:8080/up?x=1").unwrap();
    assert_eq!((parsed.address.as_str(), parsed.path.as_str()), ("localhost:8080", "/up?x=1"));
    assert_eq!(Http::parse("http://[::1]").unwrap().address, "[::1]:80");
    for wrong in ["https://x/", "http://", "http://a b/", "http://x:port/", "http://x/\r\nA: b"] {
        assert!(Http::parse(wrong).is_err(), "{wrong}");
    }
}

#[tokio::test]
async fn http_is_judged_by_its_status_and_by_who_answers() {
    let http = |address: String| Http::parse(&format!("http://{address}/health")).unwrap();
    let fine = server(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nweb#7").await;
    let old = server(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nweb#6").await;
    let broken = server(b"HTTP/1.1 503 Busy\r\n\r\n").await;
    let noise = server(b"SSH-2.0-x\r\n").await;
    let named = |address| Probe::Http(Http { names_instance: true, ..http(address) });
    assert_eq!(ask(Probe::Http(http(fine.clone()))).await, Verdict::Fit);
    assert_eq!(ask(named(fine)).await, Verdict::Fit);
    let other = ask(named(old)).await;
    assert!(matches!(&other, Verdict::Unclear(reason) if reason.contains("another instance")), "{other:?}");
    let broken = ask(Probe::Http(http(broken))).await;
    assert!(matches!(&broken, Verdict::Unfit(reason) if reason.contains("503")), "{broken:?}");
    assert!(ask(Probe::Http(http(noise))).await.reason().contains("no HTTP"));
}

#[tokio::test]
async fn tcp_and_closures_are_asked() {
    // Nobody else listens at this address, also once the port is free.
    let listener = TcpListener::bind("127.0.73.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    assert_eq!(ask(Probe::Tcp(address.clone())).await, Verdict::Fit);
    // Accepts and never answers.
    let silent = Probe::Http(Http::parse(&format!("http://{address}/")).unwrap());
    assert!(ask(silent).await.reason().contains("no answer within"));
    drop(listener);
    assert!(ask(Probe::Tcp(address)).await.reason().starts_with("connect to"));
    let closure: Closure = Arc::new(|| Box::pin(async { Err("lag 7 s".into()) }));
    assert_eq!(ask(Probe::Closure(closure)).await, Verdict::Unfit("lag 7 s".into()));
}

/// The kernel completes connections to a socket that nobody accepts from, and the test accepts in the place of an old run.
#[tokio::test]
async fn at_a_held_socket_only_the_run_itself_is_believed() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let held = Socket { name: "web".into(), fd: Arc::new(listener.try_clone().unwrap().into()) };
    let http = Probe::Http(Http::parse(&format!("http://{address}/")).unwrap());
    for probe in [Probe::Tcp(address.clone()), http.clone()] {
        let verdict = ask_with(probe, vec![held.clone()], Duration::from_secs(3)).await;
        assert!(
            matches!(&verdict, Verdict::Unfit(reason) if reason.contains("nobody accepted")),
            "{verdict:?}"
        );
    }
    listener.set_nonblocking(true).unwrap();
    let listener = TcpListener::from_std(listener).unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = [0; 1024];
                _ = stream.read(&mut request).await;
                _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
            });
        }
    });
    for probe in [Probe::Tcp(address), http] {
        let verdict = ask_with(probe.clone(), vec![held.clone()], Duration::from_secs(3)).await;
        assert!(
            matches!(&verdict, Verdict::Unclear(reason) if reason.contains("another run")),
            "{verdict:?}"
        );
        assert_eq!(ask(probe).await, Verdict::Fit, "a socket that is not held is nobody's business");
    }
}

#[tokio::test]
async fn an_exec_probes_whole_tree_is_killed_on_timeout() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pids");
    let child = format!("sh -c 'echo $$ >>{}; sleep 50; sleep 50' & ", file.display());
    let script = format!("trap '' TERM; {child} setsid {child} wait; wait");
    let answer = ask(Probe::Exec(Command::shell(script))).await;
    assert!(answer.reason().contains("no answer within"));
    let pids = std::fs::read_to_string(file).unwrap();
    assert_eq!(pids.lines().count(), 2);
    for pid in pids.lines() {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        assert!(stat.is_empty() || stat.contains(") Z "), "{stat}");
    }
}

#[tokio::test]
async fn an_exec_probe_tells_its_last_words() {
    assert_eq!(ask(Probe::Exec(Command::shell("test $LITEKEEP_PROBED = 'web#7'"))).await, Verdict::Fit);
    let answer = ask(Probe::Exec(Command::shell("echo no database >&2; exit 3"))).await;
    assert_eq!(answer.reason(), "health check: exit code 3: no database");
}
