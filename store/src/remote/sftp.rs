//! Files over SSH (SFTP version 3, with OpenSSH's extensions where the server has them).
//!
//! One connection serves all requests. It ends after a minute without any, so that an idle database keeps none open, and
//! the next request makes a new one.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, StreamExt, TryStreamExt};
use object_store::GetRange;
use russh::client::{self, Handle, Handler};
use russh::keys::agent::AgentIdentity;
use russh::keys::agent::client::AgentClient;
use russh::keys::{
    Algorithm, HashAlg, PrivateKeyWithHashAlg, PublicKey, PublicKeyOrCertificate, known_hosts,
};
use russh_sftp::client::RawSftpSession;
use russh_sftp::client::error::Error as SftpError;
use russh_sftp::extensions;
use russh_sftp::protocol::{FileAttributes, OpenFlags, Packet, StatusCode};
use tokio::sync::Mutex;

use super::{Content, Entry, Files, Reading, resolve};
use crate::target::Sftp;

/// Bytes of one read or write: what every server takes.
const CHUNK_BYTES: usize = 32 * 1024;

/// Reads or writes of one file under way at the same time: 1 MiB.
const PIPELINE: usize = 32;

const IDLE: Duration = Duration::from_secs(60);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// Bounds one request; at 20 KB/s a full pipeline gets through.
const REQUEST_TIMEOUT_SECS: u64 = 60;

const POSIX_RENAME: &str = "posix-rename@openssh.com";

/// The keys that `ssh` tries by itself, below the home folder.
const DEFAULT_KEYS: [&str; 3] = [".ssh/id_ed25519", ".ssh/id_ecdsa", ".ssh/id_rsa"];

/// A server, connected when needed.
pub(crate) struct Server {
    settings: Sftp,
    session: Mutex<Option<Arc<Session>>>,
}

struct Session {
    sftp: RawSftpSession,
    /// Whether `fsync@openssh.com` and `posix-rename@openssh.com` are there.
    syncs: bool,
    replaces: bool,
    connection: Handle<Verifier>,
}

impl Server {
    pub(crate) fn new(settings: &Sftp) -> Server {
        Server { settings: settings.clone(), session: Mutex::default() }
    }

    /// The open connection, or a new one.
    async fn session(&self) -> io::Result<Arc<Session>> {
        let mut open = self.session.lock().await;
        if let Some(session) = open.as_ref().filter(|session| !session.connection.is_closed()) {
            return Ok(session.clone());
        }
        *open = None;
        let connected = tokio::time::timeout(CONNECT_TIMEOUT, connect(&self.settings)).await;
        let session = Arc::new(connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?);
        *open = Some(session.clone());
        Ok(session)
    }

    /// Forgets a connection that failed under a request, so that the next request makes a new one.
    async fn checked<T>(&self, session: &Arc<Session>, outcome: Result<T, SftpError>) -> io::Result<T> {
        if !matches!(outcome, Ok(_) | Err(SftpError::Status(_))) {
            self.session.lock().await.take_if(|open| Arc::ptr_eq(open, session));
        }
        outcome.map_err(io_error)
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("sftp::Server").field(&self.settings).finish()
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.settings.name())
    }
}

#[async_trait]
impl Files for Server {
    async fn write(&self, path: &str, content: Content, modified_ms: Option<i64>) -> io::Result<()> {
        let session = self.session().await?;
        let written = session.write(&absolute(path), content, modified_ms).await;
        self.checked(&session, written).await
    }

    async fn rename(&self, from: &str, to: &str, overwrite: bool) -> io::Result<()> {
        let session = self.session().await?;
        let renamed = session.rename(&absolute(from), &absolute(to), overwrite).await;
        let failure = matches!(&renamed, Err(e) if is(e, StatusCode::Failure));
        match self.checked(&session, renamed).await {
            // The protocol has no word for a taken name.
            Err(_) if failure && !overwrite && self.look(to).await.is_ok() => {
                Err(io::Error::new(io::ErrorKind::AlreadyExists, "the file exists"))
            }
            outcome => outcome,
        }
    }

    async fn make_folder(&self, path: &str) -> io::Result<()> {
        let session = self.session().await?;
        let path = absolute(path);
        let mut made = session.sftp.mkdir(path.as_str(), FileAttributes::empty()).await.map(drop);
        // What is there is a plain failure, and above the user's own folders perhaps a refusal.
        if matches!(&made, Err(e) if is(e, StatusCode::Failure) || is(e, StatusCode::PermissionDenied))
            && session.sftp.stat(path).await.is_ok_and(|found| found.attrs.is_dir())
        {
            made = Ok(());
        }
        self.checked(&session, made).await
    }

    async fn remove(&self, path: &str) -> io::Result<()> {
        let session = self.session().await?;
        let removed = session.sftp.remove(absolute(path)).await;
        self.checked(&session, removed).await.map(drop)
    }

    async fn look(&self, path: &str) -> io::Result<Entry> {
        let session = self.session().await?;
        let found = session.sftp.stat(absolute(path)).await;
        Ok(entry(path, &self.checked(&session, found).await?.attrs))
    }

    async fn read(&self, path: &str, range: Option<GetRange>) -> io::Result<Reading> {
        let session = self.session().await?;
        let opened = session.sftp.open(absolute(path), OpenFlags::READ, FileAttributes::empty()).await;
        let handle = self.checked(&session, opened).await?.handle;
        let open = Arc::new(Open { session: session.clone(), handle });
        let found = session.sftp.fstat(open.handle.as_str()).await;
        let file = entry(path, &self.checked(&session, found).await?.attrs);
        let range = resolve(range.as_ref(), file.size)?;
        let (begin, end) = (range.start, range.end);
        let content =
            stream::iter((begin..end).step_by(CHUNK_BYTES))
                .map(move |at| {
                    let open = open.clone();
                    async move {
                        open.read(at, (end - at).min(CHUNK_BYTES as u64) as usize).await.map_err(io_error)
                    }
                })
                .buffered(PIPELINE)
                .boxed();
        Ok(Reading { file, range, content })
    }

    async fn list(&self, path: &str) -> io::Result<Vec<Entry>> {
        let session = self.session().await?;
        let listed = session.list(absolute(path)).await;
        self.checked(&session, listed).await
    }
}

impl Session {
    async fn write(
        self: &Arc<Self>,
        path: &str,
        content: Content,
        modified_ms: Option<i64>,
    ) -> Result<(), SftpError> {
        let flags = OpenFlags::WRITE | OpenFlags::CREATE | OpenFlags::EXCLUDE;
        let handle = self.sftp.open(path, flags, FileAttributes::empty()).await?.handle;
        let open = Open { session: self.clone(), handle };
        let mut end = 0;
        content
            .chunks
            .flat_map(|mut rest| {
                let next = move || (!rest.is_empty()).then(|| rest.split_to(rest.len().min(CHUNK_BYTES)));
                stream::iter(std::iter::from_fn(next))
            })
            .map(|chunk| {
                let at = end;
                end += chunk.len() as u64;
                let write = self.sftp.write(open.handle.as_str(), at, chunk.to_vec());
                async move { write.await.map(drop) }
            })
            .buffered(PIPELINE)
            .try_collect::<()>()
            .await?;
        if let Some(ms) = modified_ms {
            // Whole seconds, never before the time itself.
            let seconds =
                u32::try_from(ms.max(0).div_euclid(1000) + i64::from(ms % 1000 > 0)).unwrap_or(u32::MAX);
            let times =
                FileAttributes { atime: Some(seconds), mtime: Some(seconds), ..FileAttributes::empty() };
            self.sftp.fsetstat(open.handle.as_str(), times).await?;
        }
        if self.syncs {
            self.sftp.fsync(open.handle.as_str()).await?;
        }
        Ok(())
    }

    async fn rename(&self, from: &str, to: &str, overwrite: bool) -> Result<(), SftpError> {
        if !overwrite {
            return self.sftp.rename(from, to).await.map(drop);
        }
        if !self.replaces {
            let _ = self.sftp.remove(to).await;
            return self.sftp.rename(from, to).await.map(drop);
        }
        let names =
            [from, to].map(|name| [&(name.len() as u32).to_be_bytes(), name.as_bytes()].concat()).concat();
        match self.sftp.extended(POSIX_RENAME, names).await? {
            Packet::Status(status) if status.status_code == StatusCode::Ok => Ok(()),
            Packet::Status(status) => Err(SftpError::Status(status)),
            _ => Err(SftpError::UnexpectedPacket),
        }
    }

    async fn list(self: &Arc<Self>, path: String) -> Result<Vec<Entry>, SftpError> {
        let handle = self.sftp.opendir(path).await?.handle;
        let open = Open { session: self.clone(), handle };
        let mut entries = Vec::new();
        loop {
            match self.sftp.readdir(open.handle.as_str()).await {
                Ok(page) => {
                    let shown =
                        page.files.iter().filter(|file| file.filename != "." && file.filename != "..");
                    entries.extend(shown.map(|file| entry(&file.filename, &file.attrs)));
                }
                Err(e) if is(&e, StatusCode::Eof) => return Ok(entries),
                Err(e) => return Err(e),
            }
        }
    }
}

/// A handle of the server's; dropping it gives it back.
struct Open {
    session: Arc<Session>,
    handle: String,
}

impl Open {
    /// So many bytes, which the server may send in several answers.
    async fn read(&self, at: u64, bytes: usize) -> Result<Bytes, SftpError> {
        let mut read = Vec::new();
        while read.len() < bytes {
            let (from, missing) = (at + read.len() as u64, (bytes - read.len()) as u32);
            read.extend(self.session.sftp.read(self.handle.as_str(), from, missing).await?.data);
        }
        Ok(read.into())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let (session, handle) = (self.session.clone(), std::mem::take(&mut self.handle));
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { session.sftp.close(handle).await });
        }
    }
}

fn absolute(path: &str) -> String {
    format!("/{path}")
}

fn entry(path: &str, attributes: &FileAttributes) -> Entry {
    let seconds = u64::from(attributes.mtime.unwrap_or(0));
    Entry {
        name: path.rsplit('/').next().unwrap_or_default().to_owned(),
        folder: attributes.is_dir(),
        size: attributes.size.unwrap_or(0),
        modified: SystemTime::UNIX_EPOCH + Duration::from_secs(seconds),
    }
}

fn is(error: &SftpError, code: StatusCode) -> bool {
    matches!(error, SftpError::Status(status) if status.status_code == code)
}

fn io_error(error: SftpError) -> io::Error {
    let kind = match &error {
        SftpError::Status(status) => match status.status_code {
            StatusCode::NoSuchFile => io::ErrorKind::NotFound,
            StatusCode::PermissionDenied => io::ErrorKind::PermissionDenied,
            _ => io::ErrorKind::Other,
        },
        SftpError::Timeout => io::ErrorKind::TimedOut,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, error)
}

// ---- connecting

fn denied(message: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, message.into())
}

async fn connect(settings: &Sftp) -> io::Result<Session> {
    let verifier = Verifier::new(settings)?;
    let refusal = verifier.refusal.clone();
    let mut config =
        client::Config { inactivity_timeout: Some(IDLE), nodelay: true, ..client::Config::default() };
    // A server has keys of several kinds; it is to show one that we know.
    let known = verifier.known.iter().map(PublicKey::algorithm).collect::<Vec<_>>();
    let mut order = config.preferred.key.to_vec();
    let rsa = |algorithm: &Algorithm| matches!(algorithm, Algorithm::Rsa { .. });
    order.sort_by_key(|algorithm| !known.iter().any(|k| k == algorithm || rsa(k) && rsa(algorithm)));
    config.preferred.key = order.into();
    let address = (settings.host.as_str(), settings.port);
    let connected = client::connect(Arc::new(config), address, verifier).await;
    let mut connection =
        connected.map_err(|e| match refusal.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(message) => denied(message),
            None => io_of(e),
        })?;
    log_in(&mut connection, settings).await?;
    let channel = connection.channel_open_session().await.map_err(io_of)?;
    channel.request_subsystem(true, "sftp").await.map_err(io_of)?;
    let sftp = RawSftpSession::new(channel.into_stream());
    sftp.set_timeout(REQUEST_TIMEOUT_SECS);
    let version = sftp.init().await.map_err(io_error)?;
    let has = |extension: &str| version.extensions.contains_key(extension);
    Ok(Session { sftp, syncs: has(extensions::FSYNC), replaces: has(POSIX_RENAME), connection })
}

fn io_of(error: russh::Error) -> io::Error {
    match error {
        russh::Error::IO(e) => e,
        e => io::Error::other(e),
    }
}

/// With what the settings name; else with the agent's keys and then with those that `ssh` would try.
async fn log_in(connection: &mut Handle<Verifier>, settings: &Sftp) -> io::Result<()> {
    let user = match &settings.user {
        Some(user) => user.clone(),
        None => variable("USER").or_else(|| variable("LOGNAME")).ok_or_else(|| denied("no user is named"))?,
    };
    let hash = connection.best_supported_rsa_hash().await.map_err(io_of)?.flatten();
    let mut tried = Vec::new();
    if let Some(file) = &settings.key_file {
        tried.push(format!("the key `{}`", file.display()));
        if with_key(connection, &user, file, hash).await? {
            return Ok(());
        }
    }
    if let Some(password) = &settings.password {
        tried.push("the password".to_owned());
        if connection.authenticate_password(&user, password.expose()).await.map_err(io_of)?.success() {
            return Ok(());
        }
    }
    if tried.is_empty() {
        tried.push("the agent's keys".to_owned());
        if with_agent(connection, &user, hash).await {
            return Ok(());
        }
        let home = variable("HOME").map(PathBuf::from).unwrap_or_default();
        for file in DEFAULT_KEYS.map(|name| home.join(name)).into_iter().filter(|file| file.exists()) {
            tried.push(format!("`{}`", file.display()));
            // A default key that cannot be read, or only with a passphrase, is none.
            if with_key(connection, &user, &file, hash).await.unwrap_or(false) {
                return Ok(());
            }
        }
    }
    Err(denied(format!("the server does not let `{user}` in with {}", tried.join(", "))))
}

async fn with_key(
    connection: &mut Handle<Verifier>,
    user: &str,
    file: &std::path::Path,
    hash: Option<HashAlg>,
) -> io::Result<bool> {
    let key = russh::keys::load_secret_key(file, None)
        .map_err(|e| denied(format!("read the key `{}`: {e}", file.display())))?;
    let key = PrivateKeyWithHashAlg::new(Arc::new(key), hash);
    Ok(connection.authenticate_publickey(user, key).await.map_err(io_of)?.success())
}

async fn with_agent(connection: &mut Handle<Verifier>, user: &str, hash: Option<HashAlg>) -> bool {
    let Ok(mut agent) = AgentClient::connect_env().await else { return false };
    for identity in agent.request_identities().await.unwrap_or_default() {
        let AgentIdentity::PublicKey { key, .. } = identity else { continue };
        let hash = hash.filter(|_| key.algorithm().is_rsa());
        let answer = connection.authenticate_publickey_with(user, key, hash, &mut agent).await;
        if answer.is_ok_and(|answer| answer.success()) {
            return true;
        }
    }
    false
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Decides whether the server is the right one.
struct Verifier {
    place: String,
    known: Vec<PublicKey>,
    /// Why the server was refused.
    refusal: Arc<StdMutex<Option<String>>>,
}

impl Verifier {
    /// The configured key, else those of `known_hosts`.
    fn new(settings: &Sftp) -> io::Result<Verifier> {
        let known = match &settings.host_key {
            Some(text) => {
                let key = PublicKey::from_openssh(text.trim());
                vec![key.map_err(|e| denied(format!("`{text}` is no public key of a server: {e}")))?]
            }
            None => known_hosts::known_host_keys(&settings.host, settings.port)
                .map(|keys| keys.into_iter().map(|(_, key)| key).collect())
                .unwrap_or_default(),
        };
        Ok(Verifier { place: settings.name(), known, refusal: Arc::default() })
    }
}

impl Handler for Verifier {
    type Error = russh::Error;

    async fn check_server_key(&mut self, shown: &PublicKeyOrCertificate) -> Result<bool, russh::Error> {
        let PublicKeyOrCertificate::PublicKey { key, .. } = shown else { return Ok(false) };
        if self.known.iter().any(|known| known.key_data() == key.key_data()) {
            return Ok(true);
        }
        let key = key.to_openssh().unwrap_or_default();
        let message = match self.known.is_empty() {
            true => format!(
                "the server's key is not known: if {} has the key `{key}`, give it as the host key, or add it to ~/.ssh/known_hosts",
                self.place
            ),
            false => format!(
                "{} shows the key `{key}`, which is not the one that is known: it may be another server",
                self.place
            ),
        };
        *self.refusal.lock().unwrap_or_else(PoisonError::into_inner) = Some(message);
        Ok(false)
    }
}
