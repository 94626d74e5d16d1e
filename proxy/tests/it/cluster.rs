//! Goal: what writes is answered by the primary, once, and a client never sees less than it has seen. Method: nodes whose databases are numbers,
//! each with an application that says what it got, behind real proxies.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use litekeep_ltx::Txid;
use litekeep_proxy::Instances;
use litekeep_proxy::cluster::{Node, Positions, Settings, Withheld, Writer, serve};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::{body, head, instance, ok};

/// A node of which a test says how it stands.
struct Stand {
    writer: watch::Sender<Writer>,
    at: watch::Sender<u64>,
    /// How much of it is safe.
    safe: watch::Sender<u64>,
    may_answer: watch::Sender<bool>,
}

fn positions(n: u64) -> Positions {
    Positions(Txid::new(n).map(|txid| ("app.db".to_owned(), txid)).into_iter().collect())
}

fn number(positions: &Positions) -> u64 {
    positions.0.get("app.db").map_or(0, |txid| txid.get())
}

#[async_trait]
impl Node for Stand {
    fn writer(&self) -> Writer {
        self.writer.borrow().clone()
    }

    async fn writer_changed(&self, from: &Writer) {
        self.writer.subscribe().wait_for(|now| now != from).await.unwrap();
    }

    async fn positions(&self) -> Result<Positions, String> {
        if *self.may_answer.borrow() {
            Ok(positions(*self.at.borrow()))
        } else {
            Err("its lease has run out".to_owned())
        }
    }

    async fn acknowledge(&self, term: u64, positions: &Positions, _: bool) -> Result<(), Withheld> {
        self.safe.subscribe().wait_for(|safe| *safe >= number(positions)).await.unwrap();
        let is_its = *self.may_answer.borrow() && matches!(self.writer(), Writer::Here(now) if now == term);
        if is_its { Ok(()) } else { Err(Withheld::Lost("its lease has run out".to_owned())) }
    }

    async fn has(&self, positions: &Positions) {
        self.at.subscribe().wait_for(|at| *at >= number(positions)).await.unwrap();
    }

    fn lag(&self) -> Option<Duration> {
        match *self.at.borrow() {
            0 => None,
            at => Some(Duration::from_secs(at)),
        }
    }
}

/// A node with an application, whose requests are written down.
struct Place {
    stand: Arc<Stand>,
    address: SocketAddr,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Place {
    async fn new(name: &'static str, settings: Settings) -> Place {
        let stand = Arc::new(Stand {
            writer: watch::Sender::new(Writer::Nobody),
            at: watch::Sender::new(1),
            safe: watch::Sender::new(u64::MAX),
            may_answer: watch::Sender::new(true),
        });
        let seen: Arc<Mutex<Vec<String>>> = Arc::default();
        let (written, at) = (seen.clone(), stand.clone());
        let each = move |mut stream: TcpStream| {
            let (written, at) = (written.clone(), at.clone());
            async move {
                while let Some(head) = head(&mut stream).await {
                    let upgrade = head.contains("upgrade: websocket");
                    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
                    stream.read_exact(&mut body).await.unwrap();
                    let first = head.lines().next().unwrap().to_owned();
                    written.lock().unwrap().push(format!("{first} {}", String::from_utf8(body).unwrap()));
                    if first.starts_with("POST") {
                        at.at.send_modify(|at| *at += 1);
                    }
                    if upgrade {
                        let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
                        stream.write_all(switch.as_bytes()).await.unwrap();
                        stream.write_all(name.as_bytes()).await.unwrap();
                        return;
                    }
                    stream.write_all(ok(name).as_bytes()).await.unwrap();
                }
            }
        };
        let (application, _) = instance(each).await;
        let instances = Arc::new(Instances::default());
        instances.add(application);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(listener, instances, stand.clone(), None, settings));
        Place { stand, address, seen }
    }

    fn knows(&self, writer: Writer) {
        self.stand.writer.send_replace(writer);
    }

    fn seen(&self) -> Vec<String> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }
}

fn at(place: &Place) -> Writer {
    Writer::At(place.address.to_string())
}

/// Two nodes, the first of which is primary.
async fn two(settings: &Settings) -> (Place, Place) {
    let (a, b) = (Place::new("a", settings.clone()).await, Place::new("b", settings.clone()).await);
    a.knows(Writer::Here(1));
    b.knows(at(&a));
    (a, b)
}

async fn ask(address: SocketAddr, method: &str, path: &str, headers: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: app.example\r\nConnection: close\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

fn told(answer: &str) -> Option<&str> {
    answer.lines().find_map(|line| line.strip_prefix("set-cookie: "))?.split(';').next()
}

fn quick() -> Settings {
    Settings {
        patience: Duration::from_secs(20),
        read_patience: Duration::from_millis(100),
        ..Settings::default()
    }
}

#[tokio::test]
async fn what_writes_goes_to_the_primary_and_reads_stay() {
    let settings = Settings { to_primary: vec!["/admin".to_owned()], ..quick() };
    let (a, b) = two(&settings).await;
    assert_eq!(body(&ask(b.address, "POST", "/x", "", "1").await), "a");
    assert_eq!(body(&ask(b.address, "GET", "/x", "", "").await), "b");
    assert_eq!(body(&ask(b.address, "GET", "/admin/x", "", "").await), "a");
    assert_eq!(a.seen(), ["POST /x HTTP/1.1 1", "GET /admin/x HTTP/1.1 "]);
    assert_eq!(b.seen(), ["GET /x HTTP/1.1 "]);
}

#[tokio::test]
async fn a_client_never_sees_less_than_it_has_seen() {
    let (_a, b) = two(&Settings { read_patience: Duration::from_secs(20), ..quick() }).await;
    let answer = ask(b.address, "POST", "/", "", "").await;
    let cookie = told(&answer).unwrap().to_owned();
    assert_eq!(cookie, "litekeep-txid=app.db:2");
    assert_eq!(body(&ask(b.address, "GET", "/", "", "").await), "b");
    let with = format!("Cookie: x=y; {cookie}\r\n");
    let waiting = tokio::spawn(async move { ask(b.address, "GET", "/", &with, "").await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!waiting.is_finished());
    b.stand.at.send_replace(5);
    let answer = waiting.await.unwrap();
    assert_eq!((body(&answer), told(&answer)), ("b", Some("litekeep-txid=app.db:5")));
    assert!(b.seen().len() == 2);
}

#[tokio::test]
async fn a_copy_that_stays_behind_leaves_the_answer_to_the_primary() {
    let (a, b) = two(&quick()).await;
    a.stand.at.send_replace(7);
    let answer = ask(b.address, "GET", "/", "Litekeep-Txid: app.db:7\r\n", "").await;
    assert_eq!((body(&answer), told(&answer)), ("a", None));
}

/// Requests come while there is no primary, and each is done once.
#[tokio::test(flavor = "multi_thread")]
async fn writes_are_held_until_there_is_a_primary() {
    let (a, b) = two(&quick()).await;
    // It is primary no more, and the other one does not know yet.
    a.knows(Writer::Nobody);
    let asking: Vec<_> = (0..20)
        .map(|n| {
            let address = if n % 2 == 0 { a.address } else { b.address };
            tokio::spawn(async move { ask(address, "POST", "/", "", &n.to_string()).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(asking.iter().all(|asking| !asking.is_finished()));
    assert!(a.seen().is_empty() && b.seen().is_empty());
    b.knows(Writer::Here(1));
    tokio::time::sleep(Duration::from_millis(50)).await;
    a.knows(at(&b));
    for asking in asking {
        assert_eq!(body(&asking.await.unwrap()), "b");
    }
    let mut done = b.seen();
    done.sort();
    done.dedup();
    assert_eq!((done.len(), a.seen().len()), (20, 0));
}

/// Two nodes that take each other for the primary.
#[tokio::test]
async fn no_request_goes_to_and_fro() {
    let (a, b) = two(&Settings { patience: Duration::from_millis(500), ..quick() }).await;
    a.knows(at(&b));
    let answer = ask(a.address, "POST", "/", "", "").await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(a.seen().is_empty() && b.seen().is_empty());
}

#[tokio::test]
async fn an_answer_is_released_when_its_write_is_safe_and_not_after_the_lease() {
    let (a, _b) = two(&quick()).await;
    a.stand.safe.send_replace(1);
    let address = a.address;
    let waiting = tokio::spawn(async move { ask(address, "POST", "/", "", "").await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(a.seen().len() == 1 && !waiting.is_finished());
    a.stand.safe.send_replace(2);
    assert_eq!(body(&waiting.await.unwrap()), "a");
    let waiting = tokio::spawn(async move { ask(address, "POST", "/", "", "").await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    // Primary again, but not without having been none: what was written may be gone.
    a.knows(Writer::Here(2));
    a.stand.safe.send_replace(3);
    let answer = waiting.await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("is not known"), "{answer}");
}

#[tokio::test]
async fn reads_of_a_primary_wait_where_they_must() {
    let (a, _b) = two(&Settings { reads_wait: true, ..quick() }).await;
    a.stand.safe.send_replace(0);
    let address = a.address;
    let waiting = tokio::spawn(async move { ask(address, "GET", "/", "", "").await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!waiting.is_finished());
    a.stand.safe.send_replace(1);
    assert_eq!(body(&waiting.await.unwrap()), "a");
}

#[tokio::test]
async fn a_websocket_leads_to_the_primary() {
    let (a, b) = two(&quick()).await;
    let mut stream = TcpStream::connect(b.address).await.unwrap();
    let request = "GET /live HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let answer = head(&mut stream).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
    let mut said = String::new();
    stream.read_to_string(&mut said).await.unwrap();
    assert_eq!((said.as_str(), a.seen().len(), b.seen().len()), ("a", 1, 0));
}

/// A body that is too long to be kept cannot be sent twice.
#[tokio::test]
async fn a_long_body_is_sent_once() {
    let (a, b) = two(&quick()).await;
    let long = "x".repeat(200_000);
    assert_eq!(body(&ask(b.address, "POST", "/", "", &long).await), "a");
    a.knows(at(&b));
    let answer = ask(b.address, "POST", "/", "", &long).await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("changed"), "{answer}");
    assert_eq!((a.seen().len(), b.seen().len()), (1, 0));
}

#[tokio::test]
async fn a_node_that_is_far_behind_is_not_healthy() {
    let (a, b) = two(&quick()).await;
    let answer = ask(a.address, "GET", "/.litekeep/health", "", "").await;
    assert_eq!(body(&answer), "{\"role\":\"primary\",\"lag_ms\":1000}\n");
    for (at, lag) in [(11, "11000"), (0, "null")] {
        b.stand.at.send_replace(at);
        let answer = ask(b.address, "GET", "/.litekeep/health", "", "").await;
        assert!(
            answer.starts_with("HTTP/1.1 503") && answer.contains(&format!("\"lag_ms\":{lag}}}")),
            "{answer}"
        );
    }
    assert!(a.seen().is_empty() && b.seen().is_empty());
}
