//! Goal: `bench` measures what it says and leaves nothing behind. Method: a short run; figures are held only against what
//! must be true on any machine.

use litekeep_testkit::Certificates;
use litekeep_testkit::process::eventually;

use crate::scene::LONG;
use crate::{Place, shapes};

#[test]
fn figures_are_measured_and_nothing_stays() {
    let place = Place::new();
    let ran = place.run(&["bench", "--dir", ".", "--seconds", "5", "--json"]).succeeded();
    let figures = ran.json();
    shapes::matches("bench", &figures);
    let number = |pointer: &str| figures.pointer(pointer).and_then(serde_json::Value::as_f64).unwrap();
    for pointer in [
        "/sync_p50_ms",
        "/mixed/default_per_second",
        "/batches/0/ratio",
        "/point_reads/p99_us",
        "/small_transactions_per_second",
        "/beside_readers/reads_per_second",
    ] {
        assert!(number(pointer) > 0.0, "{pointer} in {figures:#}");
    }
    // Each row in a transaction of its own costs more than a thousandth of one.
    assert!((0..3).all(|nth| number(&format!("/batches/{nth}/ratio")) > 1.0), "{figures:#}");
    assert!(number("/point_reads/p99_us") >= number("/point_reads/p50_us"));
    assert_eq!(std::fs::read_dir(place.path(".")).unwrap().count(), 0);
    place.run(&["bench", "--dir", "gone"]).failed_with(&["measure SQLite in `gone`", "it does not exist"]);
}

#[test]
fn postgres_answers_the_same_question() {
    let server = litekeep_testkit::postgres::Postgres::start().unwrap();
    let place = Place::new();
    let url = server.url("postgres");
    let figures = place.run(&["bench", "--seconds", "5", "--json", "--postgres", &url]).succeeded().json();
    shapes::matches("bench", &figures);
    assert!(figures["postgres"]["ratio"].as_f64().unwrap() > 1.0, "{figures:#}");
    // A pooler gives each transaction another session.
    let pooler = server.pooler().unwrap();
    place.run(&["bench", "--seconds", "5", "--postgres", &pooler.url("postgres")]).succeeded();
    drop((pooler, server));
    let ran = place.run(&["bench", "--seconds", "5", "--postgres", "postgres://nobody@127.0.0.1:1/x"]);
    ran.failed_with(&["could not measure Postgres", "connect in postgres://nobody@127.0.0.1:1/x"]);
}

/// As hosted ones want it; it was told that they could not be measured.
#[test]
fn postgres_is_asked_by_tls_and_has_to_be_trusted() {
    let server = litekeep_testkit::postgres::Postgres::start().unwrap();
    let certificates = Certificates::make().unwrap();
    let (certificate, key) = certificates.files();
    for (path, name) in [(certificate, "server.crt"), (key, "server.key")] {
        let pem = std::fs::read_to_string(path).unwrap();
        let lines = format!("SELECT unnest(string_to_array('{}', E'\\n'))", pem.trim());
        server.query(&format!("COPY ({lines}) TO PROGRAM 'umask 077; cat > {name}'")).unwrap();
    }
    server.query("ALTER SYSTEM SET ssl = on").unwrap();
    server.query("SELECT pg_reload_conf()").unwrap();
    let is_on = || Ok(server.query("SHOW ssl")? == [[Some("on".to_owned())]]);
    eventually("it takes TLS", LONG, is_on).unwrap();
    let place = Place::new();
    // The certificate is for this name.
    let url = server.url("postgres").replace("127.0.0.1", "localhost") + "?sslmode=require";
    let bench = |url: &str| place.run(&["bench", "--seconds", "5", "--json", "--postgres", url]);
    let untrusted = bench(&url);
    assert_eq!(untrusted.code, 2);
    let error = untrusted.json_error().to_string();
    assert!(error.contains("certificate") && error.contains("sslrootcert=FILE"), "{error}");
    let url = format!("{url}&sslrootcert={}", certificates.ca_file().display());
    let figures = bench(&url).succeeded().json();
    assert!(figures["postgres"]["per_second"].as_f64().unwrap() > 0.0, "{figures:#}");
}
