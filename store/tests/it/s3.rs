//! What only a store behind a network must stand.

use bytes::Bytes;
use futures::StreamExt;
use litekeep_store::{Conditional, ErrorKind, Put, S3, Secret, Store, Target};
use litekeep_testkit::fault_proxy::{Fault, Kind, Rule};
use litekeep_testkit::s3_server::{ACCESS_KEY, BUCKET, REGION, SECRET_KEY};
use litekeep_testkit::{FaultProxy, S3Options, S3Server};

use crate::files::{Database, name};

/// A server with a proxy in front, which does nothing until it is told.
pub(crate) struct Server {
    pub(crate) proxy: FaultProxy,
    _server: S3Server,
}

impl Server {
    pub(crate) fn start() -> Server {
        Server::start_with(S3Options::default())
    }

    fn start_with(options: S3Options) -> Server {
        let server = S3Server::start_with(options).unwrap();
        let proxy = FaultProxy::start(server.address(), 1).unwrap();
        Server { proxy, _server: server }
    }

    pub(crate) fn store(&self, path: &str) -> Store {
        Store::open(&Target::S3(self.target(path))).unwrap()
    }

    fn target(&self, path: &str) -> S3 {
        S3 {
            bucket: BUCKET.into(),
            path: path.into(),
            endpoint: Some(self.proxy.endpoint()),
            region: Some(REGION.into()),
            access_key_id: Some(ACCESS_KEY.into()),
            secret_access_key: Some(Secret::new(SECRET_KEY)),
            ..S3::default()
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_reply_is_resolved() {
    let server = Server::start();
    let store = server.store("app");
    let mut database = Database::new(1);
    for fault in [Fault::LoseReply, Fault::Reset, Fault::Status(503), Fault::CutUpload(100)] {
        let (name, bytes) = database.commit(3, 5, 1_000);
        server.proxy.inject(Rule::new(fault).on(Kind::PutObject).times(1));
        let put = store.put(0, name, bytes.clone(), 1_000).await;
        // Whether the client's own retry or the read-back settles it: the caller hears of success, or may try again.
        let landed = matches!(put, Ok(Put::Written | Put::AlreadyThere))
            || put.is_err_and(|e| e.kind() == ErrorKind::Unavailable)
                && store.put(0, name, bytes.clone(), 1_000).await.is_ok();
        assert!(landed, "{fault:?}");
        server.proxy.clear();
        let log = store.list().await.unwrap();
        assert_eq!(store.get(log.level(0).last().unwrap()).await.unwrap(), bytes, "{fault:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_lost_after_another_writer_won_is_fenced() {
    let server = Server::start();
    let store = server.store("app");
    let (name, ours) = Database::new(1).commit(3, 5, 1_000);
    let (_, theirs) = Database::new(2).commit(3, 5, 1_000);
    store.put(0, name, theirs, 1_000).await.unwrap();
    server.proxy.inject(Rule::new(Fault::LoseReply).on(Kind::PutObject).times(1));
    let error = store.put(0, name, ours, 1_000).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_is_unavailable_and_passes() {
    let server = Server::start();
    let store = server.store("app");
    let (name, bytes) = Database::new(1).commit(3, 5, 1_000);
    server.proxy.outage(Some(Fault::Reset));
    let error = store.put(0, name, bytes.clone(), 1_000).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains("app/0000/0000000000000001-0000000000000001.ltx"), "{error}");
    assert!(store.counters().read().errors > 0);
    server.proxy.outage(None);
    assert_eq!(store.put(0, name, bytes, 1_000).await.unwrap(), Put::Written);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_completion_of_a_large_upload_is_resolved() {
    let server = Server::start();
    let store = server.store("app");
    server.proxy.inject(Rule::new(Fault::LoseReply).on(Kind::CompleteMultipartUpload).times(1));
    let mut upload = store.put_stream(9, name(1, 1), 1_000);
    let bytes = Bytes::from(vec![3; 20 << 20]);
    upload.write(bytes.clone()).await.unwrap();
    upload.finish().await.unwrap();
    let log = store.list().await.unwrap();
    assert_eq!(store.get(&log.level(9)[0]).await.unwrap(), bytes);
}

/// Two snapshots of one name that are completed at the same moment: the looking before does not help here.
#[tokio::test(flavor = "multi_thread")]
async fn of_racing_large_uploads_one_wins() {
    let server = Server::start();
    let store = server.store("app");
    for round in 1..=3 {
        let uploads = (0..4u8).map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut upload = store.put_stream(9, name(1, round), 1_000);
                upload.write(vec![writer; 9 << 20].into()).await.unwrap();
                upload.finish().await
            })
        });
        let outcomes = futures::future::try_join_all(uploads).await.unwrap();
        let won = outcomes.iter().filter(|o| matches!(o, Ok(Put::Written))).count();
        let fenced =
            outcomes.iter().filter(|o| o.as_ref().is_err_and(|e| e.kind() == ErrorKind::Fenced)).count();
        assert_eq!((won, fenced), (1, 3), "{outcomes:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_without_conditions_is_recognised_and_works() {
    let server = Server::start_with(S3Options { ignore_conditions: true, ..S3Options::default() });
    let store = server.store("app");
    assert_eq!(store.probe().await.unwrap(), Conditional::Ignored);
    let asked = store.counters().read().put;
    assert_eq!(store.join("other").unwrap().probe().await.unwrap(), Conditional::Ignored);
    assert_eq!(store.counters().read().put, asked, "one client asks once");
    let (name, bytes) = Database::new(1).commit(3, 5, 1_000);
    assert_eq!(store.put(0, name, bytes, 1_000).await.unwrap(), Put::Written);
}

/// Some stores answer conditions wrongly, so one that is not to be asked must not hear any.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_assumed_unfenced_hears_no_condition() {
    let server = Server::start();
    for (store, conditional) in [(server.store("a"), true), (server.store("b").assume_unfenced(), false)] {
        server.proxy.reset_counts();
        let (name, bytes) = Database::new(1).commit(3, 5, 1_000);
        store.put(0, name, bytes, 1_000).await.unwrap();
        let mut upload = store.put_stream(9, name, 1_000);
        upload.write(vec![3; 9 << 20].into()).await.unwrap();
        assert_eq!(upload.finish().await.unwrap(), Put::Written);
        let seen = server.proxy.seen();
        for kind in [Kind::PutObject, Kind::CompleteMultipartUpload] {
            let seen: Vec<_> = seen.iter().filter(|seen| seen.kind == kind).collect();
            assert!(!seen.is_empty() && seen.iter().all(|seen| seen.conditional == conditional), "{seen:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_are_signed_as_configured() {
    let server = Server::start();
    for (sign_payload, unsigned) in [(None, false), (Some(true), false), (Some(false), true)] {
        server.proxy.reset_counts();
        let s3 = S3 { sign_payload, ..server.target("app") };
        let store = Store::open(&Target::S3(s3)).unwrap();
        let (name, bytes) = Database::new(1).commit(3, 5, 1_000);
        store.put(0, name, bytes, 1_000).await.unwrap();
        let seen = server.proxy.seen();
        assert!(seen.iter().all(|seen| seen.unsigned_payload == unsigned), "{sign_payload:?}: {seen:?}");
    }
}

/// One page of a listing has 1,000 keys, and what stands beside the levels is on none.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_log_is_listed_page_by_page() {
    let server = Server::start();
    let store = server.store("");
    let put = |store: Store, txid: u64| async move {
        store.put(0, name(txid, txid), vec![b'x'; 116].into(), 1_000).await.unwrap();
    };
    let below = store.join("below").unwrap();
    let puts =
        (1..=1001).map(|txid| put(store.clone(), txid)).chain((1..=10).map(|txid| put(below.clone(), txid)));
    futures::stream::iter(puts).buffer_unordered(32).collect::<Vec<_>>().await;
    server.proxy.reset_counts();
    assert_eq!(store.list().await.unwrap().level(0).len(), 1001);
    assert_eq!(server.proxy.counts().of(Kind::ListObjects).requests, 2);
    assert_eq!(below.list().await.unwrap().level(0).len(), 10);
    assert_eq!(server.proxy.counts().of(Kind::ListObjects).requests, 3);
    assert_eq!(store.counters().read().list, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_keys_are_named_as_such() {
    let server = Server::start();
    let s3 = S3 {
        bucket: BUCKET.into(),
        endpoint: Some(server.proxy.endpoint()),
        access_key_id: Some(ACCESS_KEY.into()),
        secret_access_key: Some(Secret::new("wrong")),
        ..S3::default()
    };
    let error = Store::open(&Target::S3(s3)).unwrap().list().await.unwrap_err();
    assert!(error.to_string().contains("access denied"), "{error}");
    assert!(!error.to_string().contains("wrong"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_is_one_short_line() {
    let server = Server::start();
    let said = |error: litekeep_store::Error| {
        let text = error.to_string();
        assert!(text.len() < 250 && !text.contains('\n') && !text.contains("retries"), "{text}");
        text
    };
    server.proxy.outage(Some(Fault::Status(503)));
    let down = said(server.store("app").list().await.unwrap_err());
    assert!(down.contains("503") && down.contains(&format!("(GET {}/", server.proxy.endpoint())), "{down}");
    server.proxy.outage(Some(Fault::Reset));
    said(server.store("app").list().await.unwrap_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_counters_agree_with_the_wire() {
    let server = Server::start();
    let store = server.store("app");
    let (name, bytes) = Database::new(1).commit(3, 5, 1_000);
    store.put(0, name, bytes.clone(), 1_000).await.unwrap();
    let log = store.list().await.unwrap();
    store.get(&log.level(0)[0]).await.unwrap();
    store.header(&log.level(0)[0]).await.unwrap();
    store.delete(log.level(0).to_vec()).await.unwrap();
    let (counts, wire) = (store.counters().read(), server.proxy.counts());
    assert_eq!(counts.put, wire.of(Kind::PutObject).requests);
    assert_eq!(counts.get, wire.of(Kind::GetObject).requests);
    assert_eq!(counts.list, wire.of(Kind::ListObjects).requests);
    assert_eq!((counts.put, counts.get, counts.list, counts.delete), (1, 2, 1, 1));
    assert_eq!(wire.of(Kind::DeleteObjects).requests, 1);
    assert_eq!((counts.bytes_out, counts.bytes_in), (bytes.len() as u64, bytes.len() as u64 + 100));
}
