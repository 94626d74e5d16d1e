//! The proxy between real sockets. The instances here speak just enough HTTP, so that each can misbehave in its own way.

mod cluster;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::Duration;

use litekeep_proxy::{Instances, Settings, serve};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// A proxy with its instances.
struct Front {
    address: SocketAddr,
    instances: Arc<Instances>,
    task: JoinHandle<()>,
}

impl Drop for Front {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn front(patience: Duration) -> Front {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let instances = Arc::new(Instances::default());
    let task = tokio::spawn(serve(listener, instances.clone(), None, Settings { patience }));
    Front { address, instances, task }
}

/// Reads up to the end of a request's head.
async fn head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    Some(String::from_utf8(head).unwrap())
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// An instance: what happens on each connection. Returns where it listens.
async fn instance<F>(each: impl Fn(TcpStream) -> F + Send + 'static) -> (SocketAddr, JoinHandle<()>)
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(each(stream));
        }
    });
    (address, task)
}

/// An instance that answers every request by its name, after a while.
async fn named(name: &'static str, after: Duration) -> SocketAddr {
    let each = move |mut stream: TcpStream| async move {
        while head(&mut stream).await.is_some() {
            tokio::time::sleep(after).await;
            stream.write_all(ok(name).as_bytes()).await.unwrap();
        }
    };
    instance(each).await.0
}

/// One request on a connection of its own; the whole answer.
async fn get(address: SocketAddr) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: app.example\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

fn body(answer: &str) -> &str {
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    answer.split_once("\r\n\r\n").unwrap().1
}

#[tokio::test]
async fn a_request_waits_for_an_instance_and_for_no_longer_than_allowed() {
    let front = front(Duration::from_millis(300)).await;
    let answer = get(front.address).await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("retry-after: 1"), "{answer}");
    let waiting = tokio::spawn(get(front.address));
    tokio::time::sleep(Duration::from_millis(50)).await;
    front.instances.add(named("a", Duration::ZERO).await);
    assert_eq!(body(&waiting.await.unwrap()), "a");
}

#[tokio::test]
async fn an_instance_that_does_not_accept_is_waited_for() {
    let front = front(Duration::from_secs(5)).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    front.instances.add(address);
    let waiting = tokio::spawn(get(front.address));
    tokio::time::sleep(Duration::from_millis(100)).await;
    let listener = TcpListener::bind(address).await.unwrap();
    let (mut stream, _) = listener.accept().await.unwrap();
    let request = head(&mut stream).await.unwrap();
    stream.write_all(ok("late").as_bytes()).await.unwrap();
    assert_eq!(body(&waiting.await.unwrap()), "late");
    assert!(
        request.contains("host: app.example") && request.contains("x-forwarded-for: 127.0.0.1"),
        "{request}"
    );
    assert!(!request.contains("connection:"), "{request}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_change_under_load_and_no_request_fails() {
    let front = front(Duration::from_secs(5)).await;
    let mut present = front.instances.add(named("old", Duration::from_millis(5)).await);
    let address = front.address;
    let over = Arc::new(AtomicU32::new(0));
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let over = over.clone();
            tokio::spawn(async move {
                let mut answers = 0;
                while over.load(SeqCst) == 0 {
                    let answer = get(address).await;
                    assert!(["old", "new"].contains(&body(&answer)), "{answer}");
                    answers += 1;
                }
                answers
            })
        })
        .collect();
    for _ in 0..10 {
        let next = front.instances.add(named("new", Duration::from_millis(5)).await);
        front.instances.retire(&present).await;
        present = next;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    over.store(1, SeqCst);
    for client in clients {
        assert!(client.await.unwrap() > 0);
    }
}

#[tokio::test]
async fn a_retired_instance_finishes_what_it_has_begun() {
    let front = front(Duration::from_secs(5)).await;
    let slow = front.instances.add(named("slow", Duration::from_millis(300)).await);
    let request = tokio::spawn(get(front.address));
    tokio::time::sleep(Duration::from_millis(100)).await;
    let begin = std::time::Instant::now();
    front.instances.retire(&slow).await;
    assert!(begin.elapsed() > Duration::from_millis(100), "{:?}", begin.elapsed());
    assert_eq!(body(&request.await.unwrap()), "slow");
}

/// An instance that ends each connection after one answer without saying so, and one that ends it instead of an answer.
#[tokio::test]
async fn a_request_is_sent_again_only_if_nobody_can_have_seen_it() {
    let front = front(Duration::from_secs(5)).await;
    let seen = Arc::new(AtomicU32::new(0));
    let count = seen.clone();
    let (address, _) = instance(move |mut stream| {
        let count = count.clone();
        async move {
            if head(&mut stream).await.is_some() {
                count.fetch_add(1, SeqCst);
                stream.write_all(ok("once").as_bytes()).await.unwrap();
            }
        }
    })
    .await;
    let forgetful = front.instances.add(address);
    for _ in 0..20 {
        assert_eq!(body(&get(front.address).await), "once");
    }
    assert_eq!(seen.swap(0, SeqCst), 20);
    front.instances.retire(&forgetful).await;

    let count = seen.clone();
    let (address, _) = instance(move |mut stream| {
        let count = count.clone();
        async move {
            if head(&mut stream).await.is_some() {
                count.fetch_add(1, SeqCst);
            }
        }
    })
    .await;
    front.instances.add(address);
    let answer = get(front.address).await;
    assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
    assert_eq!(seen.load(SeqCst), 1);
}

#[tokio::test]
async fn an_upgraded_connection_goes_through_in_both_directions() {
    let front = front(Duration::from_secs(5)).await;
    let (address, _) = instance(|mut stream| async move {
        let request = head(&mut stream).await.unwrap();
        assert!(
            request.contains("upgrade: websocket") && request.contains("connection: upgrade"),
            "{request}"
        );
        let answer = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        stream.write_all(answer).await.unwrap();
        let mut frame = [0; 4];
        while stream.read_exact(&mut frame).await.is_ok() {
            frame.reverse();
            stream.write_all(&frame).await.unwrap();
        }
    })
    .await;
    let instance = front.instances.add(address);
    let mut client = TcpStream::connect(front.address).await.unwrap();
    let request = b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    client.write_all(request).await.unwrap();
    let answer = head(&mut client).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 101") && answer.contains("upgrade: websocket"), "{answer}");
    for frame in [b"abcd", b"1234"] {
        client.write_all(frame).await.unwrap();
        let mut echo = [0; 4];
        client.read_exact(&mut echo).await.unwrap();
        assert!(echo.iter().eq(frame.iter().rev()));
    }
    // It counts as a request in hand until it is closed.
    let retired = tokio::time::timeout(Duration::from_millis(100), front.instances.retire(&instance)).await;
    assert!(retired.is_err());
    drop(client);
    front.instances.retire(&instance).await;
}

#[tokio::test]
async fn large_bodies_stream_in_both_directions() {
    const SIZE: usize = 64 << 20;
    let front = front(Duration::from_secs(5)).await;
    let (address, _) = instance(|mut stream| async move {
        let request = head(&mut stream).await.unwrap();
        assert!(request.contains(&format!("content-length: {SIZE}")), "{request}");
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        // Back as it comes, long before the end of the request.
        let (mut read, mut write) = stream.split();
        tokio::io::copy(&mut (&mut read).take(SIZE as u64), &mut write).await.unwrap();
    })
    .await;
    front.instances.add(address);
    let client = TcpStream::connect(front.address).await.unwrap();
    let (mut read, mut write) = client.into_split();
    let sending = tokio::spawn(async move {
        let head =
            format!("POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {SIZE}\r\n\r\n");
        write.write_all(head.as_bytes()).await.unwrap();
        let chunk: Vec<u8> = (0..1 << 16).map(|i: u32| (i % 251) as u8).collect();
        for _ in 0..SIZE / chunk.len() {
            write.write_all(&chunk).await.unwrap();
        }
        write
    });
    let mut answer = Vec::new();
    read.read_to_end(&mut answer).await.unwrap();
    drop(sending.await.unwrap());
    let body = &answer[answer.len() - SIZE..];
    assert!(body.iter().enumerate().all(|(i, byte)| *byte == ((i % (1 << 16)) % 251) as u8));
}
