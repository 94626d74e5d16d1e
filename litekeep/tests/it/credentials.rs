//! Goal: keys come from where a machine has them, and a server with a certificate of its own authority is trusted when the
//! configuration says so, and only then. Method: a real S3 server, behind TLS and behind a proxy that sees the requests.

use litekeep_testkit::s3_server::{ACCESS_KEY, REGION, SECRET_KEY};
use litekeep_testkit::{FaultProxy, InstanceMetadata, S3Options, S3Server, TlsFront};

use crate::Place;

fn configure(place: &Place, server: &S3Server, endpoint: &str, keys: &str) {
    let text = format!(
        "[[database]]\npath = \"app.db\"\nshutdown_timeout = \"5s\"\n\n[[database.backup]]\nurl = {:?}\nendpoint = {endpoint:?}\nregion = {REGION:?}\n{keys}\n",
        server.url("app"),
    );
    std::fs::write(place.path("litekeep.toml"), text).unwrap();
}

#[test]
fn an_authority_of_ones_own_is_trusted_when_it_is_named() {
    let place = Place::new();
    place.database("app.db", 10);
    let server = S3Server::start_with(S3Options::default()).unwrap();
    let front = TlsFront::start(server.address()).unwrap();
    let once = |keys: &str| {
        configure(&place, &server, &front.endpoint(), keys);
        let mut command = place.command(&["replicate", "-once"]);
        command.envs(S3Server::env());
        crate::Ran::of(command)
    };
    let refused = once("");
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    let told = refused.stderr.lines().filter(|line| line.contains("ERROR")).count();
    assert_eq!(told, 1, "the same failure is told once: {}", refused.stderr);
    assert!(refused.stderr.to_lowercase().contains("certificate"), "{}", refused.stderr);
    let trusted = once(&format!("ca_file = {:?}", front.ca_file()));
    assert_eq!(trusted.code, 0, "{}", trusted.stderr);
}

#[test]
fn the_keys_of_an_instances_role_are_found_and_their_token_is_sent() {
    let place = Place::new();
    place.database("app.db", 10);
    let server = S3Server::start_with(S3Options::default()).unwrap();
    let proxy = FaultProxy::start(server.address(), 1).unwrap();
    let metadata = InstanceMetadata::start(ACCESS_KEY, SECRET_KEY, "a-token").unwrap();
    configure(&place, &server, &proxy.endpoint(), "");
    let mut command = place.command(&["replicate", "-once"]);
    command.env("AWS_METADATA_ENDPOINT", metadata.endpoint());
    let ran = crate::Ran::of(command);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let seen = proxy.seen();
    assert!(seen.len() > 2);
    assert!(seen.iter().all(|request| request.session_token.as_deref() == Some("a-token")), "{seen:?}");
}

#[test]
fn a_token_of_the_configuration_is_sent() {
    let place = Place::new();
    place.database("app.db", 10);
    let server = S3Server::start_with(S3Options::default()).unwrap();
    let proxy = FaultProxy::start(server.address(), 1).unwrap();
    let keys = format!(
        "access_key_id = {ACCESS_KEY:?}\nsecret_access_key = {SECRET_KEY:?}\nsession_token = \"another-token\""
    );
    configure(&place, &server, &proxy.endpoint(), &keys);
    let ran = place.run(&["replicate", "-once"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(proxy.seen().iter().all(|request| request.session_token.as_deref() == Some("another-token")));
}
