//! Goal: a folder, a bucket and etcd keep the same promises. Method: one play for all of them, with the real servers; time moves
//! when the test says so.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use litekeep_env::ManualClock;
use litekeep_lease::{
    Attempt, Bucket, ErrorKind, Etcd, EtcdAddress, Holding, Lease, Node, Put, Record, Register, Result,
    margin,
};
use litekeep_store::{S3, Secret, Store, Target};
use litekeep_testkit::s3_server::{ACCESS_KEY, BUCKET, REGION, SECRET_KEY};
use litekeep_testkit::{Etcd as EtcdServer, S3Options, S3Server};

const TTL: Duration = Duration::from_secs(5);

struct Stage {
    clock: Arc<ManualClock>,
    register: Arc<dyn Register>,
}

impl Stage {
    fn of(register: impl Register + 'static) -> Stage {
        Stage { clock: Arc::default(), register: Arc::new(register) }
    }

    fn node(&self, name: &str) -> Lease {
        let node = Node { name: name.into(), address: Some(format!("http://{name}")), stream: None };
        Lease::new(self.register.clone(), self.clock.clone(), node, TTL)
    }

    async fn newest(&self) -> Record {
        self.register.newest(None).await.unwrap().unwrap()
    }
}

async fn held(lease: &Lease) -> Holding {
    match lease.attempt(Duration::ZERO).await.unwrap() {
        Attempt::Held(holding) => holding,
        waits => panic!("{waits:?}"),
    }
}

async fn waits(lease: &Lease, handicap: Duration) -> Duration {
    match lease.attempt(handicap).await.unwrap() {
        Attempt::Waits { left, .. } => left,
        held => panic!("{held:?}"),
    }
}

/// All that holds for every register.
async fn plays(register: impl Register + 'static) {
    let stage = Stage::of(register);
    let (a, b, c) = (stage.node("a"), stage.node("b"), stage.node("c"));
    let whole = TTL + margin(TTL);

    assert_eq!(waits(&b, Duration::from_secs(2)).await, Duration::from_secs(2), "also at the very first");
    stage.clock.advance(Duration::from_secs(1));
    assert_eq!(waits(&b, Duration::from_secs(2)).await, Duration::from_secs(1));
    let mut first = held(&a).await;
    assert_eq!((first.record().epoch, first.record().turn), (1, 1));
    assert_eq!(waits(&b, Duration::ZERO).await, whole, "counted from when it was first seen");
    stage.clock.advance(Duration::from_secs(4));
    assert_eq!(first.validity().left(), Duration::from_secs(1));
    assert!(a.renew(&mut first).await.unwrap());
    assert_eq!(first.validity().left(), TTL);
    assert_eq!(stage.newest().await, *first.record());
    assert_eq!(waits(&b, Duration::ZERO).await, whole, "a new record counts anew");

    // It dies: nobody renews.
    stage.clock.advance(TTL);
    assert!(!first.validity().is_valid());
    assert_eq!(waits(&b, Duration::ZERO).await, margin(TTL));
    stage.clock.advance(margin(TTL));
    assert_eq!(waits(&b, Duration::from_secs(2)).await, Duration::from_secs(2), "others come first");
    let second = held(&b).await;
    assert_eq!((second.record().epoch, &*second.record().holder.name), (2, "b"));
    assert_eq!(second.record().holder.address.as_deref(), Some("http://b"));
    assert!(!a.renew(&mut first).await.unwrap(), "too late");

    // Given to one of them, the others leave it alone.
    let validity = second.validity();
    assert!(b.release(second, Some("c".into())).await.unwrap());
    assert!(!validity.is_valid());
    assert_eq!(waits(&a, Duration::ZERO).await, whole);
    let third = held(&c).await;
    assert_eq!(third.record().epoch, 3);
    assert!(c.release(third, None).await.unwrap());
    assert_eq!(waits(&b, Duration::from_secs(1)).await, Duration::from_secs(1));
    let mut fourth = held(&a).await;
    assert_eq!(fourth.record().epoch, 4);

    // It sleeps within a renewal's time, and another has come.
    stage.clock.advance(Duration::from_secs(4));
    let mut before = stage.newest().await;
    before.turn += 1;
    (before.epoch, before.nonce) = (9, 9);
    stage.register.put(Some(fourth.record()), &before).await.unwrap();
    assert!(fourth.validity().is_valid());
    assert!(!a.renew(&mut fourth).await.unwrap());
    assert!(!fourth.validity().is_valid(), "what was lost is not valid for the rest of its time");

    // Of many who take it at the same time one gets it.
    _ = waits(&a, Duration::ZERO).await;
    let nodes: Vec<Arc<Lease>> = (0..8).map(|n| Arc::new(stage.node(&format!("racer{n}")))).collect();
    for node in &nodes {
        assert_eq!(waits(node, Duration::ZERO).await, whole);
    }
    stage.clock.advance(whole);
    let racing = nodes
        .iter()
        .cloned()
        .map(|node| tokio::spawn(async move { node.attempt(Duration::ZERO).await.unwrap() }));
    let mut winners = vec![];
    for ended in racing.collect::<Vec<_>>() {
        if let Attempt::Held(holding) = ended.await.unwrap() {
            winners.push(holding);
        }
    }
    let [winner] = &winners[..] else { panic!("{winners:?}") };
    assert_eq!((winner.record().epoch, stage.newest().await), (10, winner.record().clone()));

    // Whoever slept for long knows an old record, and believes it the newest.
    let sleeper = stage.node("sleeper");
    assert!(!waits(&sleeper, Duration::ZERO).await.is_zero());
    let mut winner = winners.pop().unwrap();
    let name = winner.record().holder.name.clone();
    let lease = nodes[name.trim_start_matches("racer").parse::<usize>().unwrap()].clone();
    for _ in 0..40 {
        assert!(lease.renew(&mut winner).await.unwrap());
    }
    stage.clock.advance(Duration::from_secs(4));
    assert!(lease.renew(&mut winner).await.unwrap());
    stage.clock.advance(Duration::from_secs(4));
    _ = waits(&sleeper, Duration::ZERO).await;
    assert!(winner.validity().is_valid() && lease.renew(&mut winner).await.unwrap());
    assert!(!waits(&sleeper, Duration::ZERO).await.is_zero(), "now it knows");
}

fn s3(server: &S3Server) -> Store {
    let target = S3 {
        bucket: BUCKET.into(),
        path: "app".into(),
        endpoint: Some(server.endpoint()),
        region: Some(REGION.into()),
        access_key_id: Some(ACCESS_KEY.into()),
        secret_access_key: Some(Secret::new(SECRET_KEY)),
        ..S3::default()
    };
    Store::open(&Target::S3(target)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_folder() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&Target::Folder(dir.path().to_owned())).unwrap();
    plays(Bucket::open(store.clone()).await.unwrap()).await;
    let left = store.list_records("lease").await.unwrap().len();
    assert!(left < 15, "{left} records are left");
}

/// One that is no candidate asks for what follows the record that it knows, and those that follow are deleted.
#[tokio::test(flavor = "multi_thread")]
async fn who_only_looks_learns_what_came_while_it_slept() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&Target::Folder(dir.path().to_owned())).unwrap();
    let stage = Stage::of(Bucket::open(store).await.unwrap());
    let (a, looker) = (stage.node("a"), stage.node("looker"));
    let mut holding = held(&a).await;
    assert_eq!(looker.look(Duration::ZERO).await.unwrap().unwrap().0.turn, 1);
    for _ in 0..20 {
        stage.clock.advance(Duration::from_secs(4));
        assert!(a.renew(&mut holding).await.unwrap());
    }
    let (newest, left) = looker.look(Duration::ZERO).await.unwrap().unwrap();
    assert_eq!((newest, left), (holding.record().clone(), TTL + margin(TTL)));
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_bucket() {
    let server = S3Server::start().unwrap();
    plays(Bucket::open(s3(&server)).await.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_without_conditional_writes_is_refused() {
    let server = S3Server::start_with(S3Options { ignore_conditions: true, ..S3Options::default() }).unwrap();
    let refused = Bucket::open(s3(&server)).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    assert!(refused.to_string().contains("use another store, or etcd"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_record_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&Target::Folder(dir.path().to_owned())).unwrap();
    store.put_record("lease/0000000000000001", "no record".into(), false).await.unwrap();
    let stage = Stage::of(Bucket::open(store).await.unwrap());
    let error = stage.node("a").attempt(Duration::ZERO).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("lease/0000000000000001"), "{error}");
}

/// A register to which the way dies without a word, and which others reach by another.
struct Silent {
    register: Arc<dyn Register>,
    is_silent: AtomicBool,
}

impl Silent {
    async fn say(&self) {
        if self.is_silent.swap(false, SeqCst) {
            std::future::pending::<()>().await;
        }
    }
}

#[async_trait::async_trait]
impl Register for Silent {
    async fn newest(&self, known: Option<&Record>) -> Result<Option<Record>> {
        self.say().await;
        self.register.newest(known).await
    }

    async fn put(&self, before: Option<&Record>, next: &Record) -> Result<Put> {
        self.say().await;
        self.register.put(before, next).await
    }

    fn place(&self) -> String {
        self.register.place()
    }
}

/// A request of which nothing is heard keeps no holding from being renewed by another, and no look from being followed by another.
#[tokio::test(start_paused = true)]
async fn a_register_that_says_nothing_is_asked_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&Target::Folder(dir.path().to_owned())).unwrap();
    let register = Arc::new(Bucket::open(store).await.unwrap());
    let silent = Arc::new(Silent { register, is_silent: false.into() });
    let node = Node { name: "a".into(), address: None, stream: None };
    let lease = Lease::new(silent.clone(), Arc::<ManualClock>::default(), node, TTL);
    let mut holding = held(&lease).await;
    silent.is_silent.store(true, SeqCst);
    assert!(lease.renew(&mut holding).await.unwrap());
    assert_eq!(holding.record().turn, 2);
    silent.is_silent.store(true, SeqCst);
    let refused = lease.look(Duration::ZERO).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unavailable);
    assert!(refused.to_string().contains("has not answered within 10000 ms"), "{refused}");
    assert_eq!(lease.look(Duration::ZERO).await.unwrap().unwrap().0, *holding.record());
}

/// A member that says nothing is passed over, also by renewals, which wait less long than it takes to give it up.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_of_etcd_that_says_nothing_is_passed_over() {
    let server = EtcdServer::start().unwrap();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let members = format!("etcd://{},{}/app", silent.local_addr().unwrap(), server.address());
    let clock: Arc<ManualClock> = Arc::default();
    let node = Node { name: "a".into(), address: None, stream: None };
    let own = Arc::new(etcd(&format!("etcd://{}/app", server.address())));
    let mut holding = held(&Lease::new(own, clock.clone(), node.clone(), TTL)).await;
    let all = Lease::new(Arc::new(etcd(&members)), clock, node, TTL);
    for _ in 0..3 {
        assert!(all.renew(&mut holding).await.unwrap());
    }
    assert_eq!(holding.record().turn, 4);
}

fn etcd(address: &str) -> Etcd {
    Etcd::open(EtcdAddress::parse(address).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn in_etcd() {
    let mut server = EtcdServer::start().unwrap();
    // A member that is not there is passed over.
    let address = format!("etcd://127.0.0.1:1,{}/litekeep/app", server.address());
    plays(etcd(&address)).await;
    let stage = Stage::of(etcd(&address));
    let before = stage.newest().await;
    server.kill().unwrap();
    let error = stage.node("a").attempt(Duration::ZERO).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    server.resume().unwrap();
    assert_eq!(stage.newest().await, before);
    let text = |text: &str| base64_of(text.as_bytes());
    let put = format!(r#"{{"key":"{}","value":"{}"}}"#, text("litekeep/app"), text("no record"));
    server.post("kv/put", &put).unwrap();
    let error = stage.register.newest(None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn etcd_asks_for_a_password() {
    let server = EtcdServer::start().unwrap();
    for (path, json) in [
        ("auth/user/add", r#"{"name":"root","password":"p:w/1"}"#),
        ("auth/role/add", r#"{"name":"root"}"#),
        ("auth/user/grant", r#"{"user":"root","role":"root"}"#),
        ("auth/enable", "{}"),
    ] {
        let said = server.post(path, json).unwrap();
        assert!(said.starts_with("HTTP/1.1 200"), "{path}: {said}");
    }
    let at = |login: &str| Stage::of(etcd(&format!("etcd://{login}{}/app", server.address())));
    let mut holding = held(&at("root:p%3Aw%2F1@").node("a")).await;
    for login in ["", "root:wrong@", "nobody:p@"] {
        let error = at(login).node("b").attempt(Duration::ZERO).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{login}: {error}");
    }
    // A token that is none any more is asked for again.
    let stage = at("root:p%3Aw%2F1@");
    assert!(stage.node("a").renew(&mut holding).await.unwrap());
}

#[test]
fn addresses_of_etcd() {
    for (bad, why) in [
        ("127.0.0.1:2379/app", "there is no scheme"),
        ("http://host/app", "`http` is no scheme of etcd"),
        ("etcd://host", "there is no key"),
        ("etcd://host:port/app", "`host:port`"),
        ("etcd:///app", "``"),
    ] {
        let error = EtcdAddress::parse(bad).unwrap_err();
        assert!(error.to_string().contains(why), "{bad}: {error}");
    }
    let long = EtcdAddress::parse("etcds://me:p%40w@one:1,two/a/b").unwrap();
    assert_eq!(Etcd::open(long).unwrap().place(), "etcd at https://one:1, https://two:2379 (key `a/b`)");
}

fn base64_of(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}
