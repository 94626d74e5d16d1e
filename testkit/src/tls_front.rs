//! TLS in front of a server that speaks none, with a certificate by an authority that nobody knows.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::certificates::Certificates;
use crate::serving::Serving;

/// Listens on loopback as `localhost`, and hands on what it decrypts.
#[derive(Debug)]
pub struct TlsFront {
    serving: Serving,
    certificates: Certificates,
}

impl TlsFront {
    /// In front of the server at `upstream`.
    ///
    /// # Errors
    /// When the certificates cannot be made or written, or no port is free.
    pub fn start(upstream: SocketAddr) -> Result<Self> {
        let certificates = Certificates::make()?;
        let (certificate, key) = (certificates.certificate.clone(), certificates.key.clone_key());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)?;
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let serving = Serving::start("tls front", 0, move |listener| accept(listener, acceptor, upstream))?;
        Ok(Self { serving, certificates })
    }

    /// `https://localhost:PORT`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("https://localhost:{}", self.serving.addr().port())
    }

    /// The authority's certificate, PEM.
    #[must_use]
    pub fn ca_file(&self) -> PathBuf {
        self.certificates.ca_file()
    }
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
