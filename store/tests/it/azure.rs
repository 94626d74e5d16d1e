//! Azure Blob Storage, as Azurite speaks it over HTTP.

use litekeep_store::{Azure, Secret, Store, Target};
use litekeep_testkit::installed::Azurite;

use crate::suite;

fn target(server: &Azurite) -> Azure {
    Azure {
        account: Azurite::ACCOUNT.into(),
        container: Azurite::CONTAINER.into(),
        path: "some/where".into(),
        endpoint: Some(server.endpoint()),
        ..Azure::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn azure_keeps_the_promises() {
    let server = Azurite::start().unwrap();
    let azure = Azure { account_key: Some(Secret::new(Azurite::KEY)), ..target(&server) };
    suite::run_all(&Store::open(&Target::Azure(azure)).unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn azure_takes_a_shared_access_signature() {
    let server = Azurite::start().unwrap();
    let azure = Azure { sas_token: Some(Secret::new(server.sas_token())), ..target(&server) };
    suite::run_all(&Store::open(&Target::Azure(azure)).unwrap()).await;

    let other = Azure {
        sas_token: Some(Secret::new(server.sas_token().replace("sig=", "sig=A"))),
        ..target(&server)
    };
    let error = Store::open(&Target::Azure(other)).unwrap().list().await.unwrap_err();
    assert!(error.to_string().contains("access denied"), "{error}");
    assert!(!error.to_string().contains("sig="), "{error}");
}
