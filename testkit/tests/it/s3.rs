//! Goal: the S3 server is as strict as the stores that it stands for. Method: `object_store`'s S3 client against it.

use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use litekeep_testkit::s3_server::{ACCESS_KEY, BUCKET, REGION, SECRET_KEY};
use litekeep_testkit::{S3Options, S3Server};
use object_store::aws::{AmazonS3, AmazonS3Builder, S3ConditionalPut};
use object_store::path::Path;
use object_store::{
    Attribute, Error, GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutMode, PutMultipartOptions,
    PutOptions,
};

pub(crate) fn client(endpoint: &str) -> AmazonS3 {
    // The second test of the process finds it installed.
    let _ = rustls::crypto::ring::default_provider().install_default();
    AmazonS3Builder::new()
        .with_endpoint(endpoint)
        .with_allow_http(true)
        .with_bucket_name(BUCKET)
        .with_region(REGION)
        .with_access_key_id(ACCESS_KEY)
        .with_secret_access_key(SECRET_KEY)
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        .with_retry(object_store::RetryConfig { max_retries: 0, ..Default::default() })
        .build()
        .unwrap()
}

#[tokio::test]
async fn of_racing_conditional_puts_exactly_one_wins() {
    let server = S3Server::start().unwrap();
    let client = Arc::new(client(&server.endpoint()));
    for round in 0..20 {
        let key = Path::from(format!("race/{round}"));
        let puts = (0..16u8).map(|writer| {
            let (client, key) = (client.clone(), key.clone());
            tokio::spawn(async move {
                let body = Bytes::from(vec![writer; 10_000]);
                (writer, client.put_opts(&key, body.into(), PutMode::Create.into()).await)
            })
        });
        let mut winners = Vec::new();
        for (writer, result) in futures::future::try_join_all(puts).await.unwrap() {
            match result {
                Ok(_) => winners.push(writer),
                Err(Error::AlreadyExists { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
        let [winner] = winners[..] else { panic!("round {round}: winners {winners:?}") };
        let body = client.get(&key).await.unwrap().bytes().await.unwrap();
        assert_eq!(body, vec![winner; 10_000], "the object is the winner's");
    }
}

#[tokio::test]
async fn a_store_without_conditions_overwrites() {
    let server = S3Server::start_with(S3Options { ignore_conditions: true, ..S3Options::default() }).unwrap();
    let client = client(&server.endpoint());
    let key = Path::from("a");
    for body in ["first", "second"] {
        client.put_opts(&key, body.into(), PutMode::Create.into()).await.unwrap();
    }
    assert_eq!(client.get(&key).await.unwrap().bytes().await.unwrap(), "second");
}

#[tokio::test]
async fn objects_keep_their_metadata_and_serve_ranges() {
    let server = S3Server::start().unwrap();
    let client = client(&server.endpoint());
    let key = Path::from("db/0000/x.ltx");
    let mut options = PutOptions::default();
    options
        .attributes
        .insert(Attribute::Metadata("litestream-timestamp".into()), "2026-01-02T03:04:05Z".into());
    client.put_opts(&key, Bytes::from_static(b"0123456789").into(), options).await.unwrap();

    let ranged = GetOptions { range: Some(GetRange::Bounded(3..6)), ..GetOptions::default() };
    let got = client.get_opts(&key, ranged).await.unwrap();
    let metadata = got.attributes.get(&Attribute::Metadata("litestream-timestamp".into())).cloned();
    assert_eq!(metadata.unwrap().as_ref(), "2026-01-02T03:04:05Z");
    assert_eq!(got.bytes().await.unwrap(), "345");
    assert!(matches!(client.head(&Path::from("db/0000/y")).await, Err(Error::NotFound { .. })));
}

#[tokio::test]
async fn multipart_uploads_appear_whole() {
    let server = S3Server::start().unwrap();
    let client = client(&server.endpoint());
    let key = Path::from("snapshot");
    let mut upload = client.put_multipart_opts(&key, PutMultipartOptions::default()).await.unwrap();
    let (first, last) = (Bytes::from(vec![1u8; 5 << 20]), Bytes::from(vec![2u8; 1000]));
    upload.put_part(first.clone().into()).await.unwrap();
    upload.put_part(last.clone().into()).await.unwrap();
    assert!(
        matches!(client.head(&key).await, Err(Error::NotFound { .. })),
        "not there before its completion"
    );
    upload.complete().await.unwrap();
    let body = client.get(&key).await.unwrap().bytes().await.unwrap();
    assert_eq!(body, [first, last].concat());
}

#[tokio::test]
async fn listing_survives_deletions_and_sees_what_stays() {
    let server = S3Server::start().unwrap();
    let client = Arc::new(client(&server.endpoint()));
    let put = |name: String| {
        let client = client.clone();
        async move { client.put(&Path::from(name), "x".into()).await.unwrap() }
    };
    for n in 0..40 {
        put(format!("list/keep/{n}")).await;
    }
    let churn = tokio::spawn({
        let client = client.clone();
        async move {
            for n in 0..150 {
                let key = Path::from(format!("list/churn/{}", n % 7));
                client.put(&key, "x".into()).await.unwrap();
                client.delete(&key).await.unwrap();
            }
        }
    });
    while !churn.is_finished() {
        let kept = client.list(Some(&Path::from("list/keep"))).try_collect::<Vec<_>>().await.unwrap();
        assert_eq!(kept.len(), 40);
        client
            .list(Some(&Path::from("list")))
            .map(|found| found.map(drop))
            .try_collect::<Vec<()>>()
            .await
            .unwrap();
    }
    churn.await.unwrap();
}

#[tokio::test]
async fn objects_outlive_a_restart_of_the_server() {
    let dir = tempfile::tempdir().unwrap();
    let options = S3Options { dir: Some(dir.path().to_owned()), ..S3Options::default() };
    let server = S3Server::start_with(options.clone()).unwrap();
    let port = server.address().port();
    client(&server.endpoint()).put(&Path::from("a"), "x".into()).await.unwrap();
    drop(server);
    let server = S3Server::start_with(S3Options { port, ..options }).unwrap();
    let body = client(&server.endpoint()).get(&Path::from("a")).await.unwrap().bytes().await.unwrap();
    assert_eq!(body, "x");
}

#[tokio::test]
async fn a_wrong_secret_is_refused() {
    let server = S3Server::start().unwrap();
    let client = AmazonS3Builder::new()
        .with_endpoint(server.endpoint())
        .with_allow_http(true)
        .with_bucket_name(BUCKET)
        .with_region(REGION)
        .with_access_key_id(ACCESS_KEY)
        .with_secret_access_key("wrong")
        .build()
        .unwrap();
    assert!(matches!(client.put(&Path::from("a"), "x".into()).await, Err(Error::PermissionDenied { .. })));
}
