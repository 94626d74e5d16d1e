//! TLS in front of a page. A certificate that is renewed is taken by the next connection.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use axum::serve::Listener;
use litekeep_config::TlsFiles;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::patience::{Connection, Patient};
use crate::report::Failure;

/// Whoever has not agreed on keys after so long is cut off.
const PATIENCE: Duration = Duration::from_secs(10);
/// Those who are about to, at the same time.
const AGREEING: usize = 64;

/// What a server shows, as its files have it.
pub(super) struct Certificate {
    files: TlsFiles,
    /// With the times of the files.
    loaded: Mutex<([Option<SystemTime>; 2], Arc<ServerConfig>)>,
}

impl Certificate {
    /// # Errors
    /// When the files are not there, or not what they should be.
    pub(super) fn load(files: &TlsFiles) -> Result<Certificate, Failure> {
        let loaded = (times(files), config(files)?);
        Ok(Certificate { files: files.clone(), loaded: Mutex::new(loaded) })
    }

    fn current(&self) -> Arc<ServerConfig> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let now = times(&self.files);
        if now != loaded.0 {
            // What cannot be read now may be half written: a later change is another try.
            loaded.0 = now;
            match config(&self.files) {
                Ok(config) => loaded.1 = config,
                Err(error) => tracing::error!("the former certificate goes on: {error}"),
            }
        }
        loaded.1.clone()
    }
}

fn times(files: &TlsFiles) -> [Option<SystemTime>; 2] {
    [&files.cert, &files.key].map(|path| path.metadata().and_then(|file| file.modified()).ok())
}

fn config(files: &TlsFiles) -> Result<Arc<ServerConfig>, Failure> {
    let failed = |path: &std::path::Path, what: &str, cause: &dyn std::fmt::Display| {
        Failure::invalid(format!("read {what} `{}`: {cause}", path.display()))
            .hint("`tls_cert` and `tls_key` below [stream] name PEM files")
    };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(&files.cert).and_then(Iterator::collect);
    let chain = chain.map_err(|error| failed(&files.cert, "the certificate", &error))?;
    if chain.is_empty() {
        return Err(failed(&files.cert, "the certificate", &"there is none in it"));
    }
    let key = PrivateKeyDer::from_pem_file(&files.key);
    let key = key.map_err(|error| failed(&files.key, "the key", &error))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.and_then(|config| config.with_no_client_auth().with_single_cert(chain, key));
    config.map(Arc::new).map_err(|error| failed(&files.cert, "the certificate", &error))
}

/// Whose connections are encrypted.
pub(super) struct Encrypted {
    agreed: mpsc::Receiver<(TlsStream<Connection>, SocketAddr)>,
    addr: io::Result<SocketAddr>,
    task: JoinHandle<()>,
}

impl Encrypted {
    pub(super) fn new(listener: Patient, certificate: Certificate) -> Encrypted {
        let addr = listener.local_addr();
        let (tell, agreed) = mpsc::channel(AGREEING);
        let task = tokio::spawn(accept(listener, Arc::new(certificate), tell));
        Encrypted { agreed, addr, task }
    }
}

impl Drop for Encrypted {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(
    mut listener: Patient,
    certificate: Arc<Certificate>,
    tell: mpsc::Sender<(TlsStream<Connection>, SocketAddr)>,
) {
    let places = Arc::new(Semaphore::new(AGREEING));
    loop {
        let (connection, addr) = listener.accept().await;
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let (certificate, tell) = (certificate.clone(), tell.clone());
        tokio::spawn(async move {
            let agreeing = TlsAcceptor::from(certificate.current()).accept(connection);
            match timeout(PATIENCE, agreeing).await {
                Ok(Ok(stream)) => _ = tell.send((stream, addr)).await,
                Ok(Err(error)) => tracing::debug!("{addr} does not agree on TLS: {error}"),
                Err(_) => tracing::debug!("{addr} says nothing"),
            }
            drop(place);
        });
    }
}

impl Listener for Encrypted {
    type Io = TlsStream<Connection>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (TlsStream<Connection>, SocketAddr) {
        match self.agreed.recv().await {
            Some(agreed) => agreed,
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.addr.as_ref().copied().map_err(|error| error.kind().into())
    }
}
