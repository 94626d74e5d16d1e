//! Where the events of a feed go: `file:///srv/events.jsonl`, `nats://host/subject`, `redis://host/0?stream=changes`,
//! `amqp://host/vhost?exchange=x&routing_key=k`.
//!
//! Invariant: `Display` gives a URL without its password.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::diagnostic::Error;
use crate::names;
use crate::secret::Secret;
use crate::store_url::{self, Parts, decode, host_and_port, is_scheme, require_host, split, take};

const SCHEMES: [&str; 7] = ["file", "nats", "tls", "redis", "rediss", "amqp", "amqps"];

/// Where events go. `{table}` in a subject, a stream or a routing key stands for the name of the event's table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FeedUrl {
    /// A file, one event a line.
    File {
        /// The file.
        path: PathBuf,
    },
    /// A subject of NATS JetStream.
    Nats {
        /// The server.
        server: FeedServer,
        /// The subject.
        subject: String,
    },
    /// A stream of Redis.
    Redis {
        /// The server.
        server: FeedServer,
        /// The number of the database.
        database: u16,
        /// The stream's key.
        stream: String,
        /// About how many events the stream keeps; `None`: all.
        max_len: Option<u64>,
    },
    /// An exchange of RabbitMQ.
    RabbitMq {
        /// The server.
        server: FeedServer,
        /// The virtual host.
        vhost: String,
        /// The exchange; empty: the default one, which routes to the queue that the key names.
        exchange: String,
        /// The routing key.
        routing_key: String,
    },
}

/// A server and who we are there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedServer {
    /// Whether it is spoken to over TLS.
    pub tls: bool,
    /// Its name or address, without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The user.
    pub user: Option<String>,
    /// The password.
    pub password: Option<Secret>,
}

impl FeedUrl {
    /// Parses a URL, or the path of a file.
    ///
    /// # Errors
    /// What is wrong and what to write instead. A message never shows the URL's password.
    pub fn parse(text: &str) -> Result<FeedUrl, Error> {
        FeedUrl::parse_with(text, &mut |path| Ok(path.to_owned())).map_err(Error::message)
    }

    /// The same; `resolve` says what a path means that does not begin at the root.
    pub(crate) fn parse_with(
        text: &str,
        resolve: &mut dyn FnMut(&Path) -> Result<PathBuf, String>,
    ) -> Result<FeedUrl, String> {
        let Some((scheme, rest)) = text.split_once("://").filter(|(scheme, _)| is_scheme(scheme)) else {
            return Ok(FeedUrl::File { path: resolve(Path::new(text))? });
        };
        let scheme = scheme.to_ascii_lowercase();
        if scheme == "file" {
            let Some(path) = rest.strip_prefix('/') else {
                return Err(format!("`file://{rest}` has two slashes: write file:///{rest} for /{rest}"));
            };
            return Ok(FeedUrl::File { path: Path::new("/").join(decode(path)?) });
        }
        if !SCHEMES.contains(&scheme.as_str()) {
            let known = names::list(SCHEMES);
            return Err(match names::nearest(&scheme, SCHEMES) {
                Some(near) => format!("a feed cannot go to `{scheme}://`: did you mean `{near}://`?"),
                None => format!("a feed cannot go to `{scheme}://` (there are {known})"),
            });
        }
        let mut parts = split(rest)?;
        let url = match scheme.as_str() {
            "nats" | "tls" => nats(&mut parts, scheme == "tls"),
            "redis" | "rediss" => redis(&mut parts, scheme == "rediss"),
            _ => rabbitmq(&mut parts, scheme == "amqps"),
        }?;
        match parts.query.first() {
            Some((name, _)) => Err(unknown_parameter(&scheme, name)),
            None => Ok(url),
        }
    }
}

fn unknown_parameter(scheme: &str, name: &str) -> String {
    let known: &[&str] = match scheme {
        "redis" | "rediss" => &["stream", "maxlen"],
        "amqp" | "amqps" => &["exchange", "routing_key"],
        _ => return format!("unknown parameter `{name}`: {scheme}:// URLs have none"),
    };
    let known = names::list(known.iter().copied());
    format!("unknown parameter `{name}` in the URL: {scheme}:// URLs have {known}")
}

fn server(parts: &mut Parts, tls: bool, port: u16, form: &str) -> Result<FeedServer, String> {
    let (host, own_port) = host_and_port(&parts.host)?;
    require_host(&host, form)?;
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let (user, password) = (parts.user.take(), parts.password.take());
    Ok(FeedServer { tls, host, port: own_port.unwrap_or(port), user, password })
}

fn nats(parts: &mut Parts, tls: bool) -> Result<FeedUrl, String> {
    let server = server(parts, tls, 4222, "nats://host/subject")?;
    let subject = std::mem::take(&mut parts.path);
    let is_odd = |token: &str| token.is_empty() || token.contains(['*', '>', ' ', '/']);
    if subject.split('.').any(is_odd) {
        return Err("the subject behind the host is missing or has `*`, `>`, spaces or empty parts: write \
                    nats://host/app.changes"
            .into());
    }
    Ok(FeedUrl::Nats { server, subject })
}

fn redis(parts: &mut Parts, tls: bool) -> Result<FeedUrl, String> {
    const FORM: &str = "redis://host/0?stream=changes";
    let server = server(parts, tls, 6379, FORM)?;
    let database = match std::mem::take(&mut parts.path).as_str() {
        "" => 0,
        number => number
            .parse()
            .map_err(|_| format!("`{number}` is not the number of a database of Redis: write {FORM}"))?,
    };
    let stream = take(&mut parts.query, "stream").ok_or(format!("the stream is missing: write {FORM}"))?;
    let max_len = take(&mut parts.query, "maxlen").map(|number| match number.parse() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err(format!("`{number}` is not a number of events: write maxlen=1000000")),
    });
    Ok(FeedUrl::Redis { server, database, stream, max_len: max_len.transpose()? })
}

fn rabbitmq(parts: &mut Parts, tls: bool) -> Result<FeedUrl, String> {
    const FORM: &str = "amqp://host/vhost?exchange=x&routing_key=k";
    let port = if tls { 5671 } else { 5672 };
    let server = server(parts, tls, port, FORM)?;
    let vhost = match std::mem::take(&mut parts.path) {
        path if path.is_empty() => "/".to_owned(),
        path => path,
    };
    let exchange = take(&mut parts.query, "exchange").unwrap_or_default();
    let routing_key = take(&mut parts.query, "routing-key").unwrap_or_default();
    if exchange.is_empty() && routing_key.is_empty() {
        return Err(format!("write {FORM}, or amqp://host/vhost?routing_key=QUEUE for a queue"));
    }
    for name in [&vhost, &exchange, &routing_key] {
        if name.len() > 255 {
            return Err("a name of RabbitMQ has at most 255 bytes".into());
        }
    }
    Ok(FeedUrl::RabbitMq { server, vhost, exchange, routing_key })
}

impl FeedServer {
    /// `host:port`, an IPv6 address in brackets.
    pub fn address(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    fn fmt(&self, f: &mut fmt::Formatter<'_>, scheme: &str) -> fmt::Result {
        write!(f, "{scheme}://")?;
        // A user without a password may be a token.
        if self.password.is_some() {
            store_url::user(f, self.user.as_deref())?;
        }
        f.write_str(&self.address())
    }
}

impl fmt::Display for FeedUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FeedUrl::File { path } => write!(f, "file://{}", path.display()),
            FeedUrl::Nats { server, subject } => {
                server.fmt(f, if server.tls { "tls" } else { "nats" })?;
                store_url::path(f, subject)
            }
            FeedUrl::Redis { server, database, stream, max_len } => {
                server.fmt(f, if server.tls { "rediss" } else { "redis" })?;
                write!(f, "/{database}")?;
                let max_len = max_len.map(|max_len| max_len.to_string());
                store_url::query(f, &[("stream", Some(stream.clone())), ("maxlen", max_len)])
            }
            FeedUrl::RabbitMq { server, vhost, exchange, routing_key } => {
                server.fmt(f, if server.tls { "amqps" } else { "amqp" })?;
                store_url::path(f, if vhost == "/" { "" } else { vhost })?;
                let some = |name: &String| Some(name.clone()).filter(|name| !name.is_empty());
                store_url::query(f, &[("exchange", some(exchange)), ("routing_key", some(routing_key))])
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_and_what_is_shown_of_them() {
        for (text, shown) in [
            ("/srv/e.jsonl", "file:///srv/e.jsonl"),
            ("file:///srv/a%20b.jsonl", "file:///srv/a b.jsonl"),
            ("nats://host/app.changes", "nats://host:4222/app.changes"),
            ("nats://secret@host/app.{table}", "nats://host:4222/app.{table}"),
            ("tls://me:secret@[::1]:99/a", "tls://me@[::1]:99/a"),
            ("redis://:secret@host?stream=s", "redis://host:6379/0?stream=s"),
            ("rediss://host/3?stream=a:b&maxlen=10", "rediss://host:6379/3?stream=a:b&maxlen=10"),
            ("amqp://me:secret@host?routing_key=q", "amqp://me@host:5672?routing_key=q"),
            ("amqp://host/%2F?exchange=x", "amqp://host:5672?exchange=x"),
            (
                "amqps://host/v?exchange=x&routing_key=app.{table}",
                "amqps://host:5671/v?exchange=x&routing_key=app.{table}",
            ),
        ] {
            let url = FeedUrl::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(url.to_string(), shown, "{text}");
            assert!(!format!("{url:?}").contains("secret") || text.starts_with("nats://secret"), "{url:?}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_what_would_be_right() {
        for (text, said) in [
            ("kafka://host/topic", "a feed cannot go to `kafka://` (there are"),
            ("rabbit://host/topic", "a feed cannot go to `rabbit://`"),
            ("nats://host", "write nats://host/app.changes"),
            ("nats://host/a.>", "write nats://host/app.changes"),
            ("nats:///subject", "write nats://host/subject"),
            ("nats://host:0/a", "`0` is not a port"),
            ("redis://host/0", "the stream is missing"),
            ("redis://host/x?stream=s", "`x` is not the number"),
            ("redis://host?stream=s&maxlen=0", "`0` is not a number of events"),
            ("redis://host?stream=s&queue=s", "unknown parameter `queue` in the URL: redis:// URLs have"),
            ("amqp://host/v", "amqp://host/vhost?routing_key=QUEUE"),
            ("file://srv/x", "has two slashes"),
        ] {
            let error = FeedUrl::parse(text).expect_err(text).to_string();
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
