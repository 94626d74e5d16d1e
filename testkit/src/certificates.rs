//! A certificate for `localhost` by an authority that nobody knows.

use std::path::PathBuf;

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tempfile::TempDir;

const AUTHORITY: &str = "ca.pem";
const CERTIFICATE: &str = "certificate.pem";
const KEY: &str = "key.pem";

/// Both, also as files.
#[derive(Debug)]
pub struct Certificates {
    dir: TempDir,
    /// The server's certificate.
    pub(crate) certificate: CertificateDer<'static>,
    /// Its key.
    pub(crate) key: PrivateKeyDer<'static>,
}

impl Certificates {
    /// New ones.
    ///
    /// # Errors
    /// When they cannot be made or written.
    pub fn make() -> Result<Self> {
        let dir = TempDir::with_prefix("litekeep-tls-").context("make a folder for certificates")?;
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new(["localhost".to_owned()])?.signed_by(&key, &authority)?;
        let write = |name: &str, text: String| {
            std::fs::write(dir.path().join(name), text).with_context(|| format!("write `{name}`"))
        };
        write(AUTHORITY, authority.pem())?;
        write(CERTIFICATE, certificate.pem())?;
        write(KEY, key.serialize_pem())?;
        let certificate = certificate.der().clone();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        Ok(Self { dir, certificate, key })
    }

    /// The authority's certificate, PEM.
    #[must_use]
    pub fn ca_file(&self) -> PathBuf {
        self.dir.path().join(AUTHORITY)
    }

    /// The server's certificate and its key, PEM.
    #[must_use]
    pub fn files(&self) -> (PathBuf, PathBuf) {
        (self.dir.path().join(CERTIFICATE), self.dir.path().join(KEY))
    }
}
