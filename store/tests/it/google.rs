//! Google Cloud Storage's client, over HTTP against a server that takes requests as Google's XML API does.

use litekeep_store::{Conditional, Gcs, Store, Target};
use litekeep_testkit::s3_server::BUCKET;
use litekeep_testkit::{S3Options, S3Server};

use crate::suite;

fn store(server: &S3Server) -> Store {
    let endpoint = Some(server.endpoint());
    let gcs = Gcs { bucket: BUCKET.into(), path: "some/where".into(), endpoint, ..Gcs::default() };
    Store::open(&Target::Gcs(gcs)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn google_keeps_the_promises() {
    let server = S3Server::start_with(S3Options { google: true, ..S3Options::default() }).unwrap();
    suite::run_all(&store(&server)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_emulator_of_google_without_conditions_is_recognised() {
    let options = S3Options { google: true, ignore_conditions: true, ..S3Options::default() };
    let server = S3Server::start_with(options).unwrap();
    assert_eq!(store(&server).probe().await.unwrap(), Conditional::Ignored);
}
