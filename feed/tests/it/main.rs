//! Goal: whatever a feed goes to, every event arrives, in order, and again only where something broke. Method: one suite that
//! every sink runs, with real logs and real servers that are killed and come back.

mod file;
mod log;
#[path = "../../../replicate/tests/shared/shipping.rs"]
mod shipping;
mod suite;
mod tls;

use litekeep_testkit::Broker;
use litekeep_testkit::brokers::Kind;

use suite::{Repeats, Target};

#[test]
fn a_file_conforms() {
    let dir = tempfile::tempdir().unwrap();
    suite::conforms(&mut Target::File(dir.path().join("events.jsonl")), Repeats::Never);
}

#[cfg(feature = "nats")]
#[test]
fn nats_conforms() {
    suite::conforms(&mut Target::Broker(Box::new(Broker::start(Kind::Nats).unwrap())), Repeats::Never);
}

#[cfg(feature = "redis")]
#[test]
fn redis_conforms() {
    suite::conforms(&mut Target::Broker(Box::new(Broker::start(Kind::Redis).unwrap())), Repeats::AtSeams);
}

#[cfg(feature = "rabbitmq")]
#[test]
fn rabbitmq_conforms() {
    suite::conforms(&mut Target::Broker(Box::new(Broker::start(Kind::RabbitMq).unwrap())), Repeats::AtSeams);
}

#[cfg(feature = "nats")]
#[test]
fn nats_is_trusted_by_its_authority_and_name_only() {
    tls::is_trusted_by_its_authority_and_name_only(Kind::Nats);
}

#[cfg(feature = "redis")]
#[test]
fn redis_is_trusted_by_its_authority_and_name_only() {
    tls::is_trusted_by_its_authority_and_name_only(Kind::Redis);
}

#[cfg(feature = "rabbitmq")]
#[test]
fn rabbitmq_is_trusted_by_its_authority_and_name_only() {
    tls::is_trusted_by_its_authority_and_name_only(Kind::RabbitMq);
}
