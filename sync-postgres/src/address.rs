//! Where a server is and how it is trusted.
//!
//! The URL is libpq's (<https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING-URIS>). TLS is verified, and
//! required unless the server is this machine or the URL says `sslmode=disable`.

use std::path::PathBuf;
use std::time::Duration;

use litekeep_sync::{Budget, Error, Kind};
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode};

pub(crate) const PORT: u16 = 5432;
/// How long a connection may take to be made: a database of Neon's that sleeps needs seconds.
const CONNECT: Duration = Duration::from_secs(20);
/// How long the other side may be silent when it should have answered the kernel.
const SILENCE: Duration = Duration::from_secs(30);

/// A database of a server.
#[derive(Clone, Debug)]
pub struct Address {
    pub(crate) config: Config,
    /// Certificate authorities to trust instead of the system's.
    pub(crate) ca_file: Option<PathBuf>,
    /// Without the password.
    name: String,
    /// How many connections there may be.
    pub(crate) budget: Budget,
}

impl Address {
    /// Reads a URL. `sslrootcert` names a file; `sslmode` is `disable`, or anything else for verified TLS.
    ///
    /// # Errors
    /// `Invalid` with what is wrong; passwords are never in it.
    pub fn parse(url: &str) -> Result<Address, Error> {
        let invalid = |message: String| {
            let hint = "it looks like postgres://user:password@host:5432/database, with %40 for an @ in the password";
            Error::with_hint(Kind::Invalid, format!("read the address of PostgreSQL: {message}"), hint)
        };
        let (base, query) = url.split_once('?').unwrap_or((url, ""));
        let (mut kept, mut mode, mut ca_file) = (vec![], None, None);
        for part in query.split('&').filter(|part| !part.is_empty()) {
            match part.split_once('=') {
                Some(("sslmode", value)) => mode = Some(value),
                Some(("sslrootcert", "system")) => {}
                Some(("sslrootcert", path)) => ca_file = Some(PathBuf::from(path)),
                _ => kept.push(part),
            }
        }
        let url = if kept.is_empty() { base.to_owned() } else { format!("{base}?{}", kept.join("&")) };
        let mut config: Config = url.parse().map_err(|e| invalid(cause(&e)))?;
        if config.get_hosts().is_empty() {
            return Err(invalid("it names no host".to_owned()));
        }
        let is_local = config.get_hosts().iter().all(is_local);
        config.ssl_mode(match mode {
            Some("disable") => SslMode::Disable,
            None if is_local => SslMode::Disable,
            None | Some("allow" | "prefer" | "require" | "verify-ca" | "verify-full") => SslMode::Require,
            Some(other) => return Err(invalid(format!("`sslmode={other}` is none of PostgreSQL's"))),
        });
        config.connect_timeout(CONNECT).tcp_user_timeout(SILENCE).keepalives_idle(SILENCE);
        if config.get_application_name().is_none() {
            config.application_name("litekeep");
        }
        let name = name(&config);
        Ok(Address { config, ca_file, name, budget: Budget::default() })
    }

    /// The user, the server and the database.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The same with so many connections at most.
    #[must_use]
    pub fn within(self, budget: Budget) -> Address {
        Address { budget, ..self }
    }

    /// The server, for those who count its connections: the same for all users and databases.
    pub fn server(&self) -> String {
        let config = &self.config;
        let port = |nth: usize| config.get_ports().get(nth).or(config.get_ports().first()).copied();
        let one = |(nth, host): (usize, &Host)| match host {
            Host::Tcp(name) => format!("{}:{}", name.to_ascii_lowercase(), port(nth).unwrap_or(PORT)),
            Host::Unix(dir) => format!("{}:{}", dir.display(), port(nth).unwrap_or(PORT)),
        };
        let hosts: Vec<String> = config.get_hosts().iter().enumerate().map(one).collect();
        format!("postgres://{}", hosts.join(","))
    }

    /// The user, for statements that give it rights.
    pub(crate) fn user(&self) -> &str {
        self.config.get_user().unwrap_or("postgres")
    }

    pub(crate) fn database(&self) -> &str {
        self.config.get_dbname().unwrap_or_else(|| self.user())
    }
}

/// What a library says, without the name of its own error.
fn cause(error: &tokio_postgres::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}

fn is_local(host: &Host) -> bool {
    match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => name == "localhost" || name == "::1" || name.starts_with("127."),
    }
}

fn name(config: &Config) -> String {
    let host = match config.get_hosts().first() {
        Some(Host::Tcp(name)) => name.clone(),
        Some(Host::Unix(path)) => path.display().to_string(),
        None => String::new(),
    };
    let port = config.get_ports().first().filter(|port| **port != PORT);
    let port = port.map_or(String::new(), |port| format!(":{port}"));
    let user = config.get_user().map_or(String::new(), |user| format!("{user}@"));
    format!("postgres://{user}{host}{port}/{}", config.get_dbname().or(config.get_user()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_told_without_their_password() {
        let of = |url: &str| Address::parse(url).unwrap();
        let neon =
            of("postgresql://me:p%40ss@ep-x.eu.aws.neon.tech/app?sslmode=require&channel_binding=require");
        assert_eq!(neon.name(), "postgres://me@ep-x.eu.aws.neon.tech/app");
        assert_eq!(neon.config.get_ssl_mode(), SslMode::Require);
        assert_eq!(neon.config.get_password(), Some(&b"p@ss"[..]));
        let local = of("postgres://me@127.0.0.1:5433/app");
        assert_eq!(
            (local.name(), local.config.get_ssl_mode()),
            ("postgres://me@127.0.0.1:5433/app", SslMode::Disable)
        );
        assert_eq!(of("postgres://me@db/app").config.get_ssl_mode(), SslMode::Require);
        assert_eq!(of("postgres://me@db/app?sslmode=disable").config.get_ssl_mode(), SslMode::Disable);
        let with_ca = of("postgres://me@db/app?sslrootcert=/etc/ca.pem&sslmode=verify-full");
        assert_eq!(with_ca.ca_file, Some(PathBuf::from("/etc/ca.pem")));
    }

    #[test]
    fn what_is_no_address_is_refused_without_its_password() {
        for url in [
            "postgres://",
            "postgres://me:secret@db/app?sslmode=x",
            "postgres://me:secret@db:port/app",
            "mysql://secret",
        ] {
            let error = Address::parse(url).unwrap_err();
            assert_eq!(error.kind(), Kind::Invalid);
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }
}
