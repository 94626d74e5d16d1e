//! Where a server is and how it is trusted.
//!
//! `mongodb://user:password@host:27017/database`, with several hosts of a replica set, or `mongodb+srv://`. TLS is verified, and required unless
//! the server is this machine or the URL says `tls=false`.

use std::fmt;
use std::time::Duration;

use litekeep_sync::{Budget, Error, Kind};
use mongodb::options::{
    Acknowledgment, ClientOptions, ConnectionString, HostInfo, ReadPreference, SelectionCriteria,
    ServerAddress, Tls, TlsOptions, WriteConcern,
};

use crate::error;

const PORT: u16 = 27017;
/// How long a server is looked for that can be written to.
const LOOKING: Duration = Duration::from_secs(10);
/// Connections by which the client watches each server, beside those that do something: one is told of changes, and one measures how far away it is.
pub(crate) const WATCHING: u32 = 2;

/// A database of a server.
#[derive(Clone)]
pub struct Address {
    url: String,
    database: String,
    user: Option<String>,
    /// The database that knows the user.
    source: String,
    is_local: bool,
    /// Without the password.
    name: String,
    /// The hosts, for those who count.
    server: String,
    /// How many connections there may be.
    pub(crate) budget: Budget,
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Address").field(&self.name).finish()
    }
}

impl Address {
    /// Reads a URL. Options are those of MongoDB: `tls`, `tlsCAFile`, `authSource`, `replicaSet`, `directConnection` and others.
    ///
    /// # Errors
    /// `Invalid` with what is wrong; passwords are never in it.
    pub fn parse(url: &str) -> Result<Address, Error> {
        let invalid = |message: String| {
            let hint = "it looks like mongodb://user:password@host:27017/database?replicaSet=rs0, with %40 for an @ in the password";
            Error::with_hint(Kind::Invalid, format!("read the address of MongoDB: {message}"), hint)
        };
        let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
        if !["mongodb", "mongodb+srv"].contains(&scheme) {
            return Err(invalid("it begins with neither mongodb:// nor mongodb+srv://".to_owned()));
        }
        let read =
            ConnectionString::parse(url).map_err(|e| invalid(without_secrets(&error::cause(&e), rest)))?;
        let Some(database) = read.default_database.filter(|name| !name.is_empty()) else {
            return Err(invalid("it names no database".to_owned()));
        };
        let (hosts, is_local) = match &read.host_info {
            HostInfo::DnsRecord(name) => (name.clone(), false),
            HostInfo::HostIdentifiers(all) => {
                let texts: Vec<String> = all.iter().map(host).collect();
                (texts.join(","), all.iter().all(is_local))
            }
            _ => return Err(invalid("it names no host".to_owned())),
        };
        let credential = read.credential.unwrap_or_default();
        let user = credential.username;
        let login = user.as_ref().map_or(String::new(), |user| format!("{user}@"));
        let name = format!("{scheme}://{login}{hosts}/{database}");
        let server = format!("mongodb://{}", hosts.to_ascii_lowercase());
        let source = credential.source.unwrap_or_else(|| database.clone());
        let (url, budget) = (url.to_owned(), Budget::default());
        Ok(Address { url, database, user, source, is_local, name, server, budget })
    }

    /// The user, the servers and the database.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The same with so many connections at most.
    #[must_use]
    pub fn within(self, budget: Budget) -> Address {
        Address { budget, ..self }
    }

    /// The servers, for those who count their connections: the same for all users and databases.
    pub fn server(&self) -> String {
        self.server.clone()
    }

    pub(crate) fn database(&self) -> &str {
        &self.database
    }

    /// The user and the database that knows it, for commands that give rights.
    pub(crate) fn user(&self) -> (&str, &str) {
        (self.user.as_deref().unwrap_or_default(), &self.source)
    }

    /// How to connect, with so many connections at most that do something. Asks the DNS where the URL says so.
    ///
    /// # Errors
    /// When the DNS does not know, or a file of authorities cannot be read.
    pub(crate) async fn options(&self, pool: u32) -> Result<ClientOptions, Error> {
        let parsed = ClientOptions::parse(self.url.as_str()).await;
        let mut options = parsed.map_err(|e| error::server(self, "read its address", &e))?;
        if options.tls.is_none() && !self.is_local {
            options.tls = Some(Tls::Enabled(TlsOptions::default()));
        }
        options.app_name.get_or_insert_with(|| "litekeep".to_owned());
        options.server_selection_timeout.get_or_insert(LOOKING);
        options.connect_timeout.get_or_insert(LOOKING);
        (options.min_pool_size, options.max_pool_size) = (Some(0), Some(pool));
        options.retry_writes = Some(true);
        // What is asked for in the URL must not weaken what is promised.
        options.selection_criteria = Some(SelectionCriteria::ReadPreference(ReadPreference::Primary));
        options.read_concern = None;
        options.write_concern = Some(durable());
        Ok(options)
    }
}

/// Written by most of the servers, on disk.
pub(crate) fn durable() -> WriteConcern {
    WriteConcern::builder().w(Acknowledgment::Majority).journal(true).build()
}

/// What the driver says of a URL, unless it repeats something of what may be a password.
fn without_secrets(message: &str, rest: &str) -> String {
    let login = rest.rsplit_once('@').map_or("", |(login, _)| login);
    let password = login.split_once(':').map_or(login, |(_, password)| password);
    let is_told = !password.is_empty() && message.contains(password);
    if is_told { "it is no URL of MongoDB".to_owned() } else { message.to_owned() }
}

fn host(address: &ServerAddress) -> String {
    match address {
        ServerAddress::Tcp { host, port } => match port.filter(|port| *port != PORT) {
            Some(port) => format!("{host}:{port}"),
            None => host.clone(),
        },
        other => other.to_string(),
    }
}

fn is_local(address: &ServerAddress) -> bool {
    match address {
        ServerAddress::Tcp { host, .. } => {
            host == "localhost" || host == "::1" || host == "[::1]" || host.starts_with("127.")
        }
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_told_without_their_password() {
        let of = |url: &str| Address::parse(url).unwrap();
        let set =
            of("mongodb://me:p%40ss@a.example.com,b.example.com:27018/app?replicaSet=rs0&authSource=admin");
        assert_eq!((set.name(), set.is_local), ("mongodb://me@a.example.com,b.example.com:27018/app", false));
        assert_eq!((set.user(), set.database()), (("me", "admin"), "app"));
        let local = of("mongodb://127.0.0.1:4000/app");
        assert_eq!((local.name(), local.is_local), ("mongodb://127.0.0.1:4000/app", true));
        assert_eq!(of("mongodb://me:p@localhost/app").user(), ("me", "app"));
        assert_eq!(
            of("mongodb+srv://me:p@cluster.example.net/app").name(),
            "mongodb+srv://me@cluster.example.net/app"
        );
        assert!(!format!("{set:?}").contains("p%40ss"));
    }

    #[test]
    fn what_is_no_address_is_refused_without_its_password() {
        for url in [
            "mongodb://",
            "mongodb:///app",
            "mongodb://me:secret@db",
            "mongodb://me:secret@db:port/app",
            "mongodb://me:secret@db/app?tls=maybe",
            "mongodb://me:secret/@db/app",
            "mongodb+srv://me:secret@a.example.com,b.example.com/app",
            "mysql://me:secret@db/app",
            "secret",
        ] {
            let error = Address::parse(url).unwrap_err();
            assert_eq!(error.kind(), Kind::Invalid);
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }
}
