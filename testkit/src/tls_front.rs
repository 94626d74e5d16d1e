//! TLS in front of a server that speaks none, with a certificate by an authority that nobody knows.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::serving::Serving;

/// Listens on loopback as `localhost`, and hands on what it decrypts.
#[derive(Debug)]
pub struct TlsFront {
    serving: Serving,
    dir: TempDir,
}

impl TlsFront {
    /// In front of the server at `upstream`.
    ///
    /// # Errors
    /// When the certificates cannot be made or written, or no port is free.
    pub fn start(upstream: SocketAddr) -> Result<Self> {
        let dir = TempDir::with_prefix("litekeep-tls-").context("make a folder for certificates")?;
        let issued = issue()?;
        std::fs::write(ca_file(dir.path()), issued.authority).context("write the authority's certificate")?;

        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(issued.key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![issued.certificate.der().clone()], key)?;
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let serving = Serving::start("tls front", 0, move |listener| accept(listener, acceptor, upstream))?;
        Ok(Self { serving, dir })
    }

    /// `https://localhost:PORT`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("https://localhost:{}", self.serving.addr().port())
    }

    /// The authority's certificate, PEM.
    #[must_use]
    pub fn ca_file(&self) -> PathBuf {
        ca_file(self.dir.path())
    }
}

/// A certificate for `localhost`.
pub(crate) struct Issued {
    /// That of the authority, PEM.
    pub(crate) authority: String,
    pub(crate) certificate: Certificate,
    pub(crate) key: KeyPair,
}

/// By an authority that nobody knows.
pub(crate) fn issue() -> Result<Issued> {
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;
    let key = KeyPair::generate()?;
    let certificate = CertificateParams::new(["localhost".to_owned()])?.signed_by(&key, &authority)?;
    Ok(Issued { authority: authority.pem(), certificate, key })
}

fn ca_file(dir: &Path) -> PathBuf {
    dir.join("ca.pem")
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, upstream: SocketAddr) {
    while let Ok((client, _)) = listener.accept().await {
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            // A client that does not trust us breaks off.
            let mut client = acceptor.accept(client).await?;
            let mut server = TcpStream::connect(upstream).await?;
            tokio::io::copy_bidirectional(&mut client, &mut server).await
        });
    }
}
