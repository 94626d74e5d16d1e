//! Where events go.

use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use litekeep_config::FeedUrl;
use litekeep_ltx::Txid;

use crate::file::EventFile;
use crate::{Error, Event, Kind};

/// How long a server may take to let us in.
#[cfg(any(feature = "nats", feature = "redis", feature = "rabbitmq"))]
pub(crate) const CONNECT: Duration = Duration::from_secs(10);
/// How long the confirmation of one part of a transaction may take.
const CONFIRM: Duration = Duration::from_secs(60);

/// Something that takes events. After an error it is dropped and opened anew.
#[async_trait]
pub trait Sink: Send {
    /// After which transaction to go on, where the sink knows it by itself.
    fn at(&self) -> Option<Txid> {
        None
    }

    /// What keeps less than it promises there.
    fn caveat(&self) -> Option<&str> {
        None
    }

    /// Delivers events in their order. `Ok`: the other side has confirmed every one of them.
    ///
    /// # Errors
    /// `Unavailable`: try again, from the first of them; `Invalid`: a person has to change something there first.
    async fn deliver(&mut self, events: &[Event]) -> Result<(), Error>;
}

/// Opens what a URL names. `feed`: the name under which repeated events are known; `at`: the position, where there is one.
///
/// # Errors
/// `Unavailable` when it does not answer, `Invalid` when it does not let us in or this build has no client for it.
pub async fn open(
    to: &FeedUrl,
    ca_file: Option<&Path>,
    feed: &str,
    at: Option<Txid>,
) -> Result<Box<dyn Sink>, Error> {
    let sink: Box<dyn Sink> = match to {
        FeedUrl::File { path } => Box::new(EventFile::open(path, at).await?),
        #[cfg(feature = "nats")]
        FeedUrl::Nats { server, subject } => {
            Box::new(crate::nats::Nats::open(server, subject, ca_file, feed).await?)
        }
        #[cfg(feature = "redis")]
        FeedUrl::Redis { server, database, stream, max_len } => {
            Box::new(crate::redis::Redis::open(server, (*database, stream, *max_len), ca_file).await?)
        }
        #[cfg(feature = "rabbitmq")]
        FeedUrl::RabbitMq { server, vhost, exchange, routing_key } => {
            let place = (vhost.as_str(), exchange.as_str(), routing_key.as_str());
            Box::new(crate::rabbitmq::RabbitMq::open(server, place, ca_file, feed).await?)
        }
        #[allow(unreachable_patterns, reason = "a build with every client has none left")]
        _ => {
            let _ = (ca_file, feed);
            return Err(no_client(to));
        }
    };
    Ok(sink)
}

#[allow(dead_code, reason = "a build with every client has no use for it")]
fn no_client(to: &FeedUrl) -> Error {
    let feature = match to {
        FeedUrl::Nats { .. } => "nats",
        FeedUrl::Redis { .. } => "redis",
        _ => "rabbitmq",
    };
    Error::with_hint(
        Kind::Invalid,
        format!("open {to}: this build has no client for it"),
        format!("`cargo build --release --features {feature}` makes one that has"),
    )
}

/// Waits no longer than so long for the other side.
///
/// # Errors
/// `Unavailable` when the time is over.
pub(crate) async fn within<T>(
    time: Duration,
    doing: impl FnOnce() -> String,
    answer: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    match tokio::time::timeout(time, answer).await {
        Ok(answer) => answer,
        Err(_) => {
            let seconds = time.as_secs();
            Err(Error::new(Kind::Unavailable, format!("{}: no answer within {seconds} s", doing())))
        }
    }
}

/// Delivers, and waits no longer than a confirmation may take.
///
/// # Errors
/// As [`Sink::deliver`].
pub(crate) async fn deliver(sink: &mut dyn Sink, to: &FeedUrl, events: &[Event]) -> Result<(), Error> {
    within(CONFIRM, || format!("deliver to {to}"), sink.deliver(events)).await
}

/// The certificates of a file, PEM.
///
/// # Errors
/// `Invalid` when it cannot be read or has none.
#[cfg(any(feature = "nats", feature = "redis", feature = "rabbitmq"))]
pub(crate) fn authorities(ca_file: &Path) -> Result<String, Error> {
    let failed = |cause: &dyn std::fmt::Display| {
        let message = format!("read the certificate authorities of `{}`: {cause}", ca_file.display());
        Error::with_hint(Kind::Invalid, message, "`ca_file` names a file of certificates in PEM")
    };
    let text = std::fs::read_to_string(ca_file).map_err(|error| failed(&error))?;
    if text.contains("-----BEGIN CERTIFICATE-----") {
        Ok(text)
    } else {
        Err(failed(&"it has no certificate"))
    }
}

/// A name with `{table}` in it, for an event. What is no letter or digit in a table's name is `_`, for `.`, `*`, `#` and
/// spaces mean something where names are matched.
#[cfg(any(feature = "nats", feature = "redis", feature = "rabbitmq"))]
pub(crate) fn of_table(name: &str, table: &str) -> String {
    let plain = |c: char| if c.is_alphanumeric() || c == '_' || c == '-' { c } else { '_' };
    name.replace("{table}", &table.chars().map(plain).collect::<String>())
}
