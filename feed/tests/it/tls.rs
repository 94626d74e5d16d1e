//! Whoever is connected to by TLS must show a certificate for its name, by an authority that `ca_file` names.

use litekeep_feed::{Kind, Settings, State};
use litekeep_testkit::Broker;
use litekeep_testkit::brokers;

use crate::log::Log;

pub(crate) fn is_trusted_by_its_authority_and_name_only(kind: brokers::Kind) {
    let log = Log::new();
    log.insert(1, 3);
    let broker = Broker::start_with_tls(kind).unwrap();
    broker.declare("secure").unwrap();
    let settings = |host: &str, ca_file| Settings {
        ca_file,
        position: log.path(&format!("feeds/{host}")),
        ..log.settings(&broker.url_with_tls(host, "secure"))
    };
    for (host, ca_file) in [("localhost", None), ("127.0.0.1", broker.ca_file())] {
        let settings = settings(host, ca_file);
        let error = log.deliver(&settings).map(drop).unwrap_err().to_string();
        assert!(error.contains(&format!("{host}:")) && error.contains("certificate"), "{error}");
        assert_eq!(State::read(&settings.position).unwrap(), None, "{host}");
    }
    let (nowhere, nothing) = (log.path("nowhere.pem"), log.path("nothing.pem"));
    std::fs::write(&nothing, "no certificate").unwrap();
    for (file, said) in
        [(nowhere, "nowhere.pem`: No such file"), (nothing, "nothing.pem`: it has no certificate")]
    {
        let error = log.deliver(&settings("localhost", Some(file))).map(drop).unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid, "{error}");
        assert!(error.to_string().contains(said), "{error}");
    }
    assert!(broker.received("secure").unwrap().is_empty());

    log.deliver(&settings("localhost", broker.ca_file())).unwrap();
    let received = broker.received("secure").unwrap().into_iter();
    let ids: Vec<String> = received.map(|event| event.id.rsplit('/').next().unwrap().to_owned()).collect();
    assert_eq!(ids, log.ids());
}
