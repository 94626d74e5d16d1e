//! Goal: each fault does to client and store what it says, and the counts are right. Method: `object_store`'s S3 client,
//! without retries, through the proxy; a second client behind it looks at what the store has.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use futures::TryStreamExt;
use litekeep_testkit::clock::monotonic_ns;
use litekeep_testkit::fault_proxy::{self, Fault, Kind, Rule};
use litekeep_testkit::{FaultProxy, S3Server};
use object_store::aws::AmazonS3;
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode};

use crate::s3::client;

struct Scene {
    _server: S3Server,
    proxy: FaultProxy,
    /// Behind the proxy.
    direct: AmazonS3,
    /// Through the proxy.
    client: AmazonS3,
}

fn scene() -> Scene {
    let server = S3Server::start().unwrap();
    let proxy = FaultProxy::start(server.address(), 1).unwrap();
    let (direct, through) = (client(&server.endpoint()), client(&proxy.endpoint()));
    Scene { _server: server, proxy, direct, client: through }
}

async fn exists(store: &AmazonS3, key: &str) -> bool {
    match store.head(&Path::from(key)).await {
        Ok(_) => true,
        Err(Error::NotFound { .. }) => false,
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn what_no_rule_catches_passes_and_is_counted() {
    let s = scene();
    let before = monotonic_ns();
    let key = Path::from("db/0000/a");
    s.client.put_opts(&key, "0123456789".into(), PutMode::Create.into()).await.unwrap();
    assert_eq!(s.client.get(&key).await.unwrap().bytes().await.unwrap(), "0123456789");
    let found: Vec<_> = s.client.list(Some(&Path::from("db"))).try_collect().await.unwrap();
    assert_eq!(found.len(), 1);
    s.client.delete(&key).await.unwrap();

    let counts = s.proxy.counts();
    let (put, get) = (counts.of(Kind::PutObject), counts.of(Kind::GetObject));
    assert_eq!((put.requests, put.succeeded, put.bytes_in), (1, 1, 10));
    assert_eq!((get.requests, get.succeeded, get.bytes_out), (1, 1, 10));
    assert_eq!(counts.of(Kind::ListObjects).requests, 1);
    assert_eq!((counts.total().requests, counts.total().faults), (4, 0));
    let seen = s.proxy.seen();
    let answers: Vec<_> = seen.iter().map(|seen| seen.succeeded_ns.unwrap()).collect();
    assert!(before < answers[0] && answers.is_sorted() && answers[3] < monotonic_ns());
    assert!(seen[0].conditional && seen[0].path.ends_with("/db/0000/a"));
    assert!(!seen[1].conditional);
}

#[tokio::test]
async fn a_lost_reply_leaves_the_object_there() {
    let s = scene();
    s.proxy.inject(Rule::new(Fault::LoseReply).on(Kind::PutObject).times(1));
    s.client.put(&Path::from("a"), "x".into()).await.unwrap_err();
    assert!(exists(&s.direct, "a").await);
    s.client.put(&Path::from("b"), "x".into()).await.unwrap();
}

#[tokio::test]
async fn errors_resets_and_broken_uploads_leave_nothing_there() {
    let s = scene();
    for fault in [Fault::Status(503), Fault::Reset, Fault::CutUpload(1000)] {
        s.proxy.inject(Rule::new(fault).on(Kind::PutObject).path("/a").times(1));
        s.client.put(&Path::from("a"), vec![7; 100_000].into()).await.unwrap_err();
        assert!(!exists(&s.direct, "a").await, "{fault:?}");
    }
    assert_eq!(s.proxy.counts().of(Kind::PutObject).faults, 3);
}

#[tokio::test]
async fn a_cut_reply_breaks_off_in_the_body() {
    let s = scene();
    let key = Path::from("a");
    s.client.put(&key, vec![7; 100_000].into()).await.unwrap();
    s.proxy.inject(Rule::new(Fault::CutReply(5_000)).on(Kind::GetObject));
    // A reset may overtake what was sent before it, the answer's head included.
    if let Ok(reply) = s.client.get(&key).await {
        let mut body = reply.into_stream();
        let mut got = 0;
        let end = loop {
            match body.try_next().await {
                Ok(Some(chunk)) => got += chunk.len(),
                end => break end,
            }
        };
        end.unwrap_err();
        assert!(got <= 5_000, "{got} bytes of 5,000");
    }
    s.proxy.clear();
    assert_eq!(s.client.get(&key).await.unwrap().bytes().await.unwrap().len(), 100_000);
}

#[tokio::test]
async fn an_outage_begins_and_ends() {
    let s = scene();
    for fault in [Fault::Status(503), Fault::Reset] {
        s.proxy.outage(Some(fault));
        s.client.put(&Path::from("a"), "x".into()).await.unwrap_err();
        s.client.list(None).try_collect::<Vec<_>>().await.unwrap_err();
        s.proxy.outage(None);
        s.client.put(&Path::from("a"), "x".into()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_hangs_is_reset_at_the_end() {
    let s = scene();
    s.proxy.inject(Rule::new(Fault::Hang).on(Kind::PutObject));
    let put = tokio::spawn({
        let client = client(&s.proxy.endpoint());
        async move { client.put(&Path::from("a"), "x".into()).await }
    });
    let came = tokio::task::block_in_place(|| {
        s.proxy.wait_until(Duration::from_secs(30), |counts| counts.of(Kind::PutObject).requests == 1)
    });
    assert!(came);
    assert!(!put.is_finished());
    s.proxy.clear();
    put.await.unwrap().unwrap_err();
    assert!(!exists(&s.direct, "a").await);
}

#[tokio::test]
async fn chance_comes_from_the_seed() {
    let server = S3Server::start().unwrap();
    let mut outcomes = Vec::new();
    for seed in [1, 1, 2] {
        let proxy = FaultProxy::start(server.address(), seed).unwrap();
        proxy.inject(Rule::new(Fault::Status(500)).probability(0.5));
        let client = client(&proxy.endpoint());
        let mut failed = Vec::new();
        for n in 0..32 {
            failed.push(client.put(&Path::from(format!("{n}")), "x".into()).await.is_err());
        }
        outcomes.push(failed);
    }
    assert_eq!(outcomes[0], outcomes[1]);
    assert_ne!(outcomes[0], outcomes[2]);
    assert!(outcomes[0].contains(&true) && outcomes[0].contains(&false));
}

#[tokio::test]
async fn the_process_obeys_its_control_port() {
    let server = S3Server::start().unwrap();
    let mut process = Command::new(env!("CARGO_BIN_EXE_testkit"))
        .args(["fault-proxy", "--upstream", &server.address().to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let mut words = line.split_whitespace();
    assert_eq!(words.next(), Some("ready"));
    let endpoint = format!("http://{}", words.next().unwrap());
    let control = words.next().unwrap().parse().unwrap();

    let client = client(&endpoint);
    let send = |command| fault_proxy::send(control, &command).unwrap();
    send(fault_proxy::Command::Outage(Some(Fault::Status(503))));
    client.put(&Path::from("a"), "x".into()).await.unwrap_err();
    send(fault_proxy::Command::Clear);
    send(fault_proxy::Command::Inject(Rule::new(Fault::LoseReply).on(Kind::PutObject).times(1)));
    client.put(&Path::from("a"), "x".into()).await.unwrap_err();
    client.put(&Path::from("a"), "x".into()).await.unwrap();
    let counts = send(fault_proxy::Command::Counts).unwrap();
    process.kill().unwrap();
    process.wait().unwrap();
    let put = counts.of(Kind::PutObject);
    assert_eq!((put.requests, put.faults, put.succeeded), (3, 2, 1));
}
