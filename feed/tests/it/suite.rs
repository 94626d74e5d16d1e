//! What every sink must do.

use std::path::PathBuf;

use litekeep_config::FeedUrl;
use litekeep_feed::{Kind, Settings, State};
use litekeep_testkit::Broker;

use crate::file::lines;
use crate::log::Log;

/// Where events go.
pub(crate) enum Target {
    File(PathBuf),
    Broker(Box<Broker>),
}

/// When an event comes twice.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repeats {
    /// The other side knows them.
    Never,
    /// Where a position was lost.
    AtSeams,
}

impl Target {
    fn url(&self, name: &str) -> String {
        match self {
            Target::File(path) => path.with_extension(name).to_str().unwrap().to_owned(),
            Target::Broker(broker) => broker.url(name),
        }
    }

    fn declare(&self, name: &str) {
        if let Target::Broker(broker) = self {
            broker.declare(name).unwrap();
        }
    }

    /// The ids of what came, in order.
    fn received(&self, name: &str) -> Vec<String> {
        match self {
            Target::File(path) => lines(&path.with_extension(name)),
            Target::Broker(broker) => {
                let received = broker.received(name).unwrap();
                received.into_iter().map(|event| event.id.rsplit('/').next().unwrap().to_owned()).collect()
            }
        }
    }
}

pub(crate) fn conforms(target: &mut Target, repeats: Repeats) {
    let log = Log::new();
    log.insert(1, 3);
    log.commit("UPDATE t SET x = 'y' WHERE n < 3; DELETE FROM t WHERE n = 3; CREATE TABLE u(a)");
    // In several parts.
    log.insert(10, 2500);
    refuses_what_nobody_takes(&log, target);
    everything_comes_once_and_in_order(&log, target);
    what_was_delivered_comes_again_only_where_the_position_was_lost(&log, target, repeats);
    a_server_that_goes_away_is_waited_for(&log, target, repeats);
    only_wanted_tables_come_each_by_its_name(&log, target);
    the_wrong_login_is_told(&log, target);
}

/// Without a stream or a queue nothing counts as delivered.
fn refuses_what_nobody_takes(log: &Log, target: &Target) {
    let Target::Broker(broker) = target else { return };
    let settings = Settings { position: log.path("feeds/nobody"), ..log.settings(&broker.url("nobody")) };
    let Err(error) = log.deliver(&settings) else {
        // Redis makes the stream.
        assert!(matches!(settings.to, FeedUrl::Redis { .. }));
        return;
    };
    assert_eq!(error.kind(), Kind::Invalid, "{error}");
    let said = format!("{error}; {}", error.hint().unwrap());
    assert!(
        said.contains("nobody") && (said.contains("nats stream add") || said.contains("declare")),
        "{said}"
    );
    let position = State::read(&settings.position).unwrap().unwrap();
    assert_eq!(position.txid.as_deref(), Some("0000000000000001"), "it has begun, and not moved");
}

fn everything_comes_once_and_in_order(log: &Log, target: &Target) {
    target.declare("all");
    let settings = log.settings(&target.url("all"));
    let delivery = log.deliver(&settings).unwrap();
    let last = log.ids().pop().unwrap();
    assert_eq!(delivery.state().txid.as_deref(), last.split('-').next());
    drop(delivery);
    let received = target.received("all");
    assert_eq!(received, log.ids());
    let of_large: Vec<&str> = received.iter().filter_map(|id| id.strip_prefix(&last[..17])).collect();
    let orders = of_large.iter().map(|rest| rest.split('-').next().unwrap().parse::<usize>().unwrap());
    assert!(orders.eq(1..=2500), "its parts go on counting: {of_large:?}");
    // And nothing again.
    log.deliver(&settings).unwrap();
    assert_eq!(target.received("all"), log.ids());
}

fn what_was_delivered_comes_again_only_where_the_position_was_lost(
    log: &Log,
    target: &Target,
    repeats: Repeats,
) {
    let settings = log.settings(&target.url("all"));
    let before = std::fs::read(&settings.position).unwrap();
    let known = log.ids();
    log.insert(5000, 5);
    log.deliver(&settings).unwrap();
    let first = target.received("all");
    // As if it had been killed before it could write the position.
    std::fs::write(&settings.position, before).unwrap();
    log.deliver(&settings).unwrap();
    let again = target.received("all");
    match repeats {
        Repeats::Never => assert_eq!(again, first),
        Repeats::AtSeams => {
            let new = &log.ids()[known.len()..];
            assert_eq!(again[..first.len()], first[..]);
            assert_eq!(again[first.len()..], *new);
        }
    }
}

fn a_server_that_goes_away_is_waited_for(log: &Log, target: &mut Target, repeats: Repeats) {
    let settings = log.settings(&target.url("all"));
    let before = target.received("all");
    let known = log.ids();
    let Target::Broker(broker) = target else { return };
    log.insert(6000, 1500);
    let mut delivery = litekeep_feed::Delivery::new(settings).unwrap();
    log.runtime.block_on(async {
        // It knows the server before it is gone.
        assert!(delivery.step().await.unwrap());
    });
    broker.kill().unwrap();
    let error = loop {
        match log.runtime.block_on(delivery.step()) {
            Ok(more) => assert!(more, "nothing is delivered while the server is down"),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), Kind::Unavailable, "{error}");
    let error = log.runtime.block_on(delivery.step()).unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable, "{error}");
    assert!(error.to_string().contains(&broker.address().to_string()), "{error}");
    broker.resume().unwrap();
    log.runtime.block_on(async { while delivery.step().await.unwrap() {} });
    let received = target.received("all");
    let new = &log.ids()[known.len()..];
    assert_eq!(received[..before.len()], before[..]);
    let mut came = received[before.len()..].to_vec();
    if repeats == Repeats::AtSeams {
        let mut seen = std::collections::HashSet::new();
        came.retain(|id| seen.insert(id.clone()));
    }
    assert_eq!(came, new);
}

fn only_wanted_tables_come_each_by_its_name(log: &Log, target: &Target) {
    let name = match target {
        Target::File(_) => "some",
        Target::Broker(_) => "some.{table}",
    };
    target.declare("some");
    if let (Target::Broker(broker), FeedUrl::RabbitMq { .. }) = (target, log.settings(&target.url("q")).to) {
        broker.declare("some.odd_name").unwrap();
    }
    let mut settings = log.settings(&target.url(name));
    settings.wanted.tables = vec!["odd.name".into()];
    settings.position = log.path("feeds/some");
    log.commit(
        "CREATE TABLE \"odd.name\"(a); INSERT INTO \"odd.name\" VALUES(1); INSERT INTO t VALUES(-1, 1)",
    );
    log.deliver(&settings).unwrap();
    let received = match target {
        Target::Broker(_) if !matches!(settings.to, FeedUrl::Nats { .. }) => target.received("some.odd_name"),
        _ => target.received("some"),
    };
    assert_eq!(received.len(), 2, "the table itself, and its row: {received:?}");
}

fn the_wrong_login_is_told(log: &Log, target: &Target) {
    let Target::Broker(broker) = target else { return };
    for login in ["litekeep:wrong@", ""] {
        let settings =
            Settings { position: log.path("feeds/wrong"), ..log.settings(&broker.url_with(login, "all")) };
        let error = log.deliver(&settings).map(drop).unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid, "{login}: {error}");
        assert!(error.hint().is_some_and(|hint| hint.contains("user and password")), "{error}");
        assert!(!error.to_string().contains("wrong"), "{error}");
    }
}
