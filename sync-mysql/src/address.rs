//! Where a server is and how it is trusted.
//!
//! `mysql://user:password@host:3306/database`, or `mariadb://`. TLS is verified, and required unless the server is this machine or the URL
//! says `ssl-mode=disabled`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use litekeep_schema::portable::mysql::Flavor;
use litekeep_sync::{Budget, Error, Kind};
use mysql_async::{Opts, OptsBuilder, SslOpts, UrlError};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

/// How long the other side may be silent before the kernel asks it.
const SILENCE: Duration = Duration::from_secs(30);
const PORT: u16 = 3306;

/// A database of a server.
#[derive(Clone, Debug)]
pub struct Address {
    opts: Opts,
    has_tls: bool,
    /// Certificate authorities to trust instead of the system's.
    ca_file: Option<PathBuf>,
    /// What the URL says that it is; the server knows better.
    flavor: Flavor,
    /// Without the password.
    name: String,
    /// How many connections there may be.
    pub(crate) budget: Budget,
}

impl Address {
    /// Reads a URL. `ssl-ca` names a file; `ssl-mode` is `disabled`, or anything else for verified TLS.
    ///
    /// # Errors
    /// `Invalid` with what is wrong; passwords are never in it.
    pub fn parse(url: &str) -> Result<Address, Error> {
        let invalid = |message: String| {
            let hint =
                "it looks like mysql://user:password@host:3306/database, with %40 for an @ in the password";
            Error::with_hint(Kind::Invalid, format!("read the address of MySQL: {message}"), hint)
        };
        let (base, query) = url.split_once('?').unwrap_or((url, ""));
        let (scheme, rest) = base.split_once("://").unwrap_or(("", base));
        let flavor = match scheme {
            "mysql" => Flavor::Mysql,
            "mariadb" => Flavor::Mariadb,
            _ => return Err(invalid("it begins with neither mysql:// nor mariadb://".to_owned())),
        };
        let (mut mode, mut ca_file) = (None, None);
        for part in query.split('&').filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            match name.replace('_', "-").as_str() {
                "ssl-mode" | "sslmode" => mode = Some(value.to_ascii_lowercase().replace('-', "_")),
                "ssl-ca" | "sslca" | "sslrootcert" => ca_file = Some(PathBuf::from(value)),
                _ => return Err(invalid(format!("it knows `ssl-mode` and `ssl-ca`, not `{name}`"))),
            }
        }
        let opts = Opts::from_url(&format!("mysql://{rest}")).map_err(|e| invalid(words(&e)))?;
        if opts.ip_or_hostname().is_empty() || rest.starts_with('/') || rest.is_empty() {
            return Err(invalid("it names no host".to_owned()));
        }
        if opts.db_name().is_none_or(str::is_empty) {
            return Err(invalid("it names no database".to_owned()));
        }
        let is_local = is_local(opts.ip_or_hostname());
        let has_tls = match mode.as_deref() {
            Some("disabled" | "disable") => false,
            None => !is_local,
            Some(
                "allow" | "prefer" | "preferred" | "require" | "required" | "verify_ca" | "verify_full"
                | "verify_identity",
            ) => true,
            Some(other) => return Err(invalid(format!("`ssl-mode={other}` is none of MySQL's"))),
        };
        let name = name(scheme, &opts);
        Ok(Address { opts, has_tls, ca_file, flavor, name, budget: Budget::default() })
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
        format!("mysql://{}:{}", self.opts.ip_or_hostname().to_ascii_lowercase(), self.opts.tcp_port())
    }

    /// The user, for statements that give it rights.
    pub(crate) fn user(&self) -> &str {
        self.opts.user().unwrap_or_default()
    }

    pub(crate) fn database(&self) -> &str {
        self.opts.db_name().unwrap_or_default()
    }

    pub(crate) fn flavor(&self) -> Flavor {
        self.flavor
    }

    /// How to connect.
    ///
    /// # Errors
    /// When there is no authority to trust.
    pub(crate) fn opts(&self) -> Result<Opts, Error> {
        let tls = match self.has_tls {
            true => Some(trusting(roots(self.ca_file.as_deref())?)),
            false => None,
        };
        let opts = OptsBuilder::from_opts(self.opts.clone())
            // Rows that are found, not those that differ: the same position twice is no other pusher.
            .client_found_rows(true)
            .prefer_socket(false)
            .stmt_cache_size(0)
            .tcp_keepalive(Some(SILENCE))
            .ssl_opts(tls);
        Ok(opts.into())
    }
}

/// The authorities of a file, or those of the system.
fn roots(ca_file: Option<&Path>) -> Result<Vec<CertificateDer<'static>>, Error> {
    let found = match ca_file {
        Some(path) => {
            let failed = |e: &dyn std::fmt::Display| {
                Error::new(Kind::Invalid, format!("read `{}`: {e}", path.display()))
            };
            let found = CertificateDer::pem_file_iter(path).map_err(|e| failed(&e))?;
            found.collect::<Result<Vec<_>, _>>().map_err(|e| failed(&e))?
        }
        // Some that systems have are not in order.
        None => rustls_native_certs::load_native_certs()
            .certs
            .into_iter()
            .filter(|certificate| RootCertStore::empty().add(certificate.clone()).is_ok())
            .collect(),
    };
    if found.is_empty() {
        return Err(Error::with_hint(
            Kind::Invalid,
            "there is no certificate authority to trust",
            "install the system's (Debian: ca-certificates), or name a file by `ssl-ca`",
        ));
    }
    Ok(found)
}

fn trusting(roots: Vec<CertificateDer<'static>>) -> SslOpts {
    let roots = roots.into_iter().map(|certificate| certificate.to_vec().into());
    SslOpts::default().with_disable_built_in_roots(true).with_root_certs(roots.collect())
}

/// What is wrong with a URL; never a part of it.
fn words(error: &UrlError) -> String {
    match error {
        UrlError::Parse(cause) => cause.to_string(),
        _ => "it is incomplete".to_owned(),
    }
}

fn is_local(host: &str) -> bool {
    host == "localhost" || host == "::1" || host == "[::1]" || host.starts_with("127.")
}

fn name(scheme: &str, opts: &Opts) -> String {
    let port = Some(opts.tcp_port()).filter(|port| *port != PORT);
    let port = port.map_or(String::new(), |port| format!(":{port}"));
    let user = opts.user().map_or(String::new(), |user| format!("{user}@"));
    format!("{scheme}://{user}{}{port}/{}", opts.ip_or_hostname(), opts.db_name().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_told_without_their_password() {
        let of = |url: &str| Address::parse(url).unwrap();
        let managed = of("mysql://me:p%40ss@db.example.com:25060/app?ssl-mode=REQUIRED");
        assert_eq!((managed.name(), managed.has_tls), ("mysql://me@db.example.com:25060/app", true));
        assert_eq!(managed.opts.pass(), Some("p@ss"));
        let local = of("mariadb://me@127.0.0.1/app");
        assert_eq!((local.name(), local.has_tls), ("mariadb://me@127.0.0.1/app", false));
        assert_eq!((local.flavor(), managed.flavor()), (Flavor::Mariadb, Flavor::Mysql));
        assert!(
            of("mysql://me@db/app").has_tls && of("mysql://me@127.0.0.1/app?sslmode=verify-full").has_tls
        );
        assert!(!of("mysql://me@db/app?ssl_mode=disabled").has_tls);
        let with_ca = of("mysql://me@db/app?ssl-ca=/etc/ca.pem&ssl-mode=VERIFY_IDENTITY");
        assert_eq!((with_ca.ca_file.as_deref(), with_ca.has_tls), (Some(Path::new("/etc/ca.pem")), true));
    }

    #[test]
    fn what_is_no_address_is_refused_without_its_password() {
        for url in [
            "mysql://",
            "mysql:///app",
            "mysql://me:secret@db",
            "mysql://me:secret@db/app?ssl-mode=x",
            "mysql://me:secret@db/app?charset=utf8",
            "mysql://me:secret@db:port/app",
            "postgres://me:secret@db/app",
            "secret",
        ] {
            let error = Address::parse(url).unwrap_err();
            assert_eq!(error.kind(), Kind::Invalid);
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }
}
