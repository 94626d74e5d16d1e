//! The copy's side: a connection that is begun again and again, and what came over it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use litekeep_env::Clock;
use litekeep_ltx::{Header, Txid};
use reqwest::header::CONTENT_TYPE;
use reqwest::{Certificate, Response, StatusCode, Url};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::frame::{Frame, Frames, Now};
use crate::server::KIND;
use crate::{HEARTBEAT, LARGEST, SILENCE};

/// Bytes that wait to be applied; beyond that nothing more is read.
const WAITING: usize = 16 << 20;
/// The most that is given at once, but for the last file.
const AT_ONCE: (usize, usize) = (256, 4 << 20);
/// Between two tries, doubling ...
const PAUSE: Duration = Duration::from_millis(100);
/// ... up to this ...
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// ... or this, where the primary answers and the copy is about to get there by the backup.
const LONGEST_WHILE_BEHIND: Duration = Duration::from_secs(1);
/// What lasted so long was no failure.
const GOOD: Duration = Duration::from_secs(10);
/// Of what a server says when it refuses, characters.
const REFUSAL: usize = 300;

/// An address that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);

/// How primaries are asked: what is shown to them, and which of them are trusted with it.
#[derive(Clone)]
pub struct Access {
    token: String,
    insecure: bool,
    client: reqwest::Client,
}

/// Where a primary tells a log, and how it is asked.
#[derive(Clone)]
pub struct Address {
    url: Url,
    access: Access,
}

impl Access {
    /// `ca`: PEM of authorities to trust beside the system's. `insecure`: the token may go over a network without TLS.
    ///
    /// # Errors
    /// What is wrong with the authorities.
    pub fn new(token: &str, ca: Option<&[u8]>, insecure: bool) -> Result<Access, Error> {
        // A second program part may have chosen already, the same.
        _ = rustls::crypto::ring::default_provider().install_default();
        let mut client = reqwest::Client::builder()
            .no_proxy()
            .http1_only()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(SILENCE);
        if let Some(pem) = ca {
            let found = Certificate::from_pem_bundle(pem).map_err(|e| Error(words(&e)))?;
            if found.is_empty() {
                return Err(Error("there is no PEM certificate in the file of authorities".to_owned()));
            }
            client = client.tls_certs_merge(found);
        }
        let client = client.build().map_err(|e| Error(format!("prepare HTTP: {}", words(&e))))?;
        Ok(Access { token: token.to_owned(), insecure, client })
    }

    /// That of a database at `https://host:port`.
    ///
    /// # Errors
    /// As [`address`](Self::address).
    pub fn database(&self, primary: &str, name: &str) -> Result<Address, Error> {
        let invalid = || Error(format!("`{primary}` is no URL of a primary"));
        let mut url = Url::parse(primary).map_err(|_| invalid())?;
        url.path_segments_mut().map_err(|()| invalid())?.clear().push(name);
        self.address(url.as_str())
    }

    /// Reads `https://host:port/NAME`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn address(&self, text: &str) -> Result<Address, Error> {
        let invalid = |what: String| Error(format!("`{text}` is no stream of a log: {what}"));
        let mut url = Url::parse(text).map_err(|e| invalid(e.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return Err(invalid("write `https://host:port/NAME`".to_owned()));
        }
        if !url.username().is_empty() || url.query().is_some() || url.fragment().is_some() {
            return Err(invalid(
                "it has a host, a port and the name of a database, and nothing else".to_owned(),
            ));
        }
        let name = url.path().trim_matches('/').to_owned();
        if name.is_empty() {
            return Err(invalid(
                "the name of the database is missing: `https://host:port/app.db`".to_owned(),
            ));
        }
        if url.scheme() == "http" && !self.insecure && !is_loopback(&url) {
            return Err(invalid("without TLS whoever listens gets the token: write `https://`".to_owned()));
        }
        url.set_path(&format!("/v1/log/{name}"));
        Ok(Address { url, access: self.clone() })
    }
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// The innermost cause, which is the one that tells.
fn words(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => words(source),
        None => error.to_string(),
    }
}

/// Files that follow one another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// Of which connection they are.
    pub connection: u64,
    /// Each with one transaction.
    pub files: Vec<Bytes>,
}

/// How it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// A primary tells what comes.
    pub is_live: bool,
    /// Since when that is so, or not; milliseconds since the epoch.
    pub since_ms: i64,
    /// What the primary said last of how far it is.
    pub now: Option<Now>,
    /// Milliseconds by which the primary's clock is behind this one's, and the shortest way to here.
    pub skew_ms: Option<i64>,
    /// Why it ended last, and when.
    pub error: Option<(String, i64)>,
}

/// Follows a primary until it is dropped.
pub struct Client {
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<()>>,
}

struct Shared {
    inner: Mutex<Inner>,
    clock: Arc<dyn Clock>,
    /// Rings when something has come, or nothing comes any more.
    came: Notify,
    /// Rings when there is room, or the connection shall end.
    moved: Notify,
    /// Rings when the copy is somewhere else.
    advanced: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    /// Where the copy is.
    at: Option<Txid>,
    connection: u64,
    files: VecDeque<(Txid, Bytes)>,
    bytes: usize,
    /// Why the connection shall end.
    refused: Option<String>,
    state: State,
}

impl Inner {
    fn drop_files(&mut self, is_done: impl Fn(Txid) -> bool) {
        while let Some((_, file)) = self.files.pop_front_if(|(txid, _)| is_done(*txid)) {
            self.bytes -= file.len();
        }
    }
}

impl Client {
    /// Begins, once it is asked for something. `backup`: the identity of the store that is read beside it. `node`: as whose copy the
    /// primary hears how far it is; `None`: it does not. Call from within the runtime.
    pub fn start(address: Address, backup: &str, node: Option<&str>, clock: Arc<dyn Clock>) -> Client {
        let mut address = address;
        address.url.query_pairs_mut().append_pair("backup", backup);
        let state = State { since_ms: clock.unix_ms(), ..State::default() };
        let inner = Mutex::new(Inner { state, ..Inner::default() });
        let (came, moved, advanced) = (Notify::new(), Notify::new(), Notify::new());
        let shared = Arc::new(Shared { inner, clock, came, moved, advanced });
        let report = node.map(|node| tokio::spawn(report(shared.clone(), address.clone(), node.to_owned())));
        let tasks = [tokio::spawn(keep(shared.clone(), address))].into_iter().chain(report).collect();
        Client { shared, tasks }
    }

    /// What follows a transaction, as far as it has come; the same is given again until it is asked for what follows that.
    /// `None`: no primary tells.
    pub fn following(&self, after: Txid) -> Option<Files> {
        let mut inner = self.shared.inner();
        if inner.at.replace(after) != Some(after) {
            self.shared.moved.notify_one();
            self.shared.advanced.notify_one();
        }
        inner.drop_files(|txid| txid <= after);
        if !inner.state.is_live || inner.files.front().is_some_and(|(txid, _)| *txid != after.next()) {
            return None;
        }
        let mut files = vec![];
        let mut bytes = 0;
        for (_, file) in inner.files.iter().take(AT_ONCE.0) {
            if bytes > AT_ONCE.1 {
                break;
            }
            bytes += file.len();
            files.push(file.clone());
        }
        Some(Files { connection: inner.connection, files })
    }

    /// What came is nothing that can be applied: the connection ends.
    pub fn refuse(&self, why: &str) {
        let mut inner = self.shared.inner();
        if inner.state.is_live {
            inner.refused = Some(why.to_owned());
            self.shared.down(&mut inner, why);
            self.shared.moved.notify_one();
        }
    }

    /// Waits until something has come, or nothing comes any more.
    pub async fn news(&self) {
        self.shared.came.notified().await;
    }

    /// How it is.
    pub fn state(&self) -> State {
        self.shared.inner().state.clone()
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Client").field(&self.state()).finish()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Shared {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn up(&self) {
        let mut inner = self.inner();
        let now = self.clock.unix_ms();
        (inner.state.is_live, inner.state.since_ms, inner.state.skew_ms) = (true, now, None);
        inner.connection += 1;
        self.came.notify_one();
    }

    fn down(&self, inner: &mut Inner, why: &str) {
        let now = self.clock.unix_ms();
        if std::mem::take(&mut inner.state.is_live) {
            inner.state.since_ms = now;
            self.came.notify_one();
        }
        inner.state.error = Some((why.to_owned(), now));
        inner.state.now = None;
        inner.drop_files(|_| true);
    }

    /// Where the copy is, once somebody has said it.
    async fn at(&self) -> Txid {
        loop {
            if let Some(at) = self.inner().at {
                return at;
            }
            self.moved.notified().await;
        }
    }

    fn said(&self, now: Now) {
        let mut inner = self.inner();
        let skew = self.clock.unix_ms() - now.unix_ms;
        let state = &mut inner.state;
        state.skew_ms = Some(state.skew_ms.map_or(skew, |least| least.min(skew)));
        state.now = Some(now);
        // Who shows how far behind it is wants to know.
        self.came.notify_one();
    }

    fn refused(&self) -> Option<String> {
        self.inner().refused.clone()
    }
}

/// Why a connection ended.
struct Ended {
    why: String,
    /// The primary answers, and has nothing for where the copy is.
    is_behind: bool,
    /// Files came.
    was_good: bool,
}

async fn keep(shared: Arc<Shared>, address: Address) {
    let mut pause = PAUSE;
    loop {
        let after = shared.at().await;
        let begun = Instant::now();
        shared.inner().refused = None;
        let ended = follow(&shared, &address, after).await;
        {
            let mut inner = shared.inner();
            // What was refused was told already.
            if inner.refused.is_none() {
                shared.down(&mut inner, &ended.why);
            }
        }
        let is_good = ended.was_good && shared.refused().is_none() || begun.elapsed() >= GOOD;
        let longest = if ended.is_behind { LONGEST_WHILE_BEHIND } else { LONGEST_PAUSE };
        pause = if is_good { PAUSE } else { (pause * 2).min(longest) };
        // Many copies do not come back at the same moment.
        tokio::time::sleep(pause.mul_f64(fastrand::f64() / 2.0 + 0.5)).await;
    }
}

/// Tells the primary how far the copy is: after each transaction, and from time to time. Whether it streams is another question.
async fn report(shared: Arc<Shared>, address: Address, node: String) {
    let mut url = address.url;
    let path = url.path().replacen("/v1/log/", "/v1/at/", 1);
    url.set_path(&path);
    url.query_pairs_mut().append_pair("node", &node);
    loop {
        let Some(at) = shared.inner().at else {
            shared.advanced.notified().await;
            continue;
        };
        let mut url = url.clone();
        url.query_pairs_mut().append_pair("txid", &at.to_string());
        let told = address.access.client.post(url).bearer_auth(&address.access.token).timeout(SILENCE).send();
        let is_heard = told.await.is_ok_and(|answer| answer.status().is_success());
        if is_heard {
            _ = tokio::time::timeout(HEARTBEAT, shared.advanced.notified()).await;
        } else {
            // Why, the stream says.
            tokio::time::sleep(HEARTBEAT).await;
        }
    }
}

/// One connection, to its end.
async fn follow(shared: &Shared, address: &Address, after: Txid) -> Ended {
    let mut was_good = false;
    let ended = |why: String, was_good| Ended { why, is_behind: false, was_good };
    let mut url = address.url.clone();
    url.query_pairs_mut().append_pair("after", &after.to_string());
    let asked = address.access.client.get(url).bearer_auth(&address.access.token).send();
    let mut response = match tokio::time::timeout(SILENCE, asked).await {
        Err(_) => return ended("the primary does not answer".to_owned(), false),
        Ok(Err(e)) => return ended(words(&e), false),
        Ok(Ok(response)) => response,
    };
    let status = response.status();
    if status != StatusCode::OK {
        let why = refusal(&mut response).await;
        let is_behind = status == StatusCode::GONE;
        return Ended { why: format!("the primary refuses: {status}: {why}"), is_behind, was_good: false };
    }
    if response.headers().get(CONTENT_TYPE).is_none_or(|kind| kind != KIND) {
        return ended("what answers there is no primary of litekeep".to_owned(), false);
    }
    shared.up();
    let (mut frames, mut last) = (Frames::default(), after);
    loop {
        let frame = match frames.next() {
            Err(why) => return ended(why, was_good),
            Ok(Some(frame)) => frame,
            Ok(None) => {
                let part = tokio::select! {
                    part = tokio::time::timeout(SILENCE, response.chunk()) => part,
                    why = until_refused(shared) => return ended(why, was_good),
                };
                match part {
                    Err(_) => return ended("the primary has fallen silent".to_owned(), was_good),
                    Ok(Err(e)) => return ended(words(&e), was_good),
                    Ok(Ok(None)) => return ended("the primary has ended the stream".to_owned(), was_good),
                    Ok(Ok(Some(part))) => frames.add(&part),
                }
                continue;
            }
        };
        match frame {
            Frame::Now(now) => shared.said(now),
            Frame::End(why) => {
                return Ended { why: format!("the primary ends it: {why}"), is_behind: was_good, was_good };
            }
            Frame::File(file) => {
                let next = last.next();
                if let Err(why) = is_of(&file, next) {
                    return ended(why, was_good);
                }
                (last, was_good) = (next, true);
                if let Err(why) = take(shared, next, file).await {
                    return ended(why, was_good);
                }
            }
        }
    }
}

async fn refusal(response: &mut Response) -> String {
    let said = tokio::time::timeout(SILENCE, response.chunk()).await;
    let said = said.ok().and_then(Result::ok).flatten().unwrap_or_default();
    String::from_utf8_lossy(&said).trim().chars().take(REFUSAL).collect()
}

async fn until_refused(shared: &Shared) -> String {
    loop {
        if let Some(why) = shared.refused() {
            return why;
        }
        shared.moved.notified().await;
    }
}

/// Whether a file tells of this transaction. Its checksums are the business of whoever applies it.
fn is_of(file: &Bytes, txid: Txid) -> Result<(), String> {
    let header = Header::parse(file).map_err(|e| format!("what came is no file of a log: {e}"))?;
    match (header.min_txid, header.max_txid) == (txid, txid) {
        true => Ok(()),
        false => {
            Err(format!("transactions {} to {} came where {txid} follows", header.min_txid, header.max_txid))
        }
    }
}

/// Waits for room first.
async fn take(shared: &Shared, txid: Txid, file: Bytes) -> Result<(), String> {
    debug_assert!(file.len() <= LARGEST);
    loop {
        {
            let mut inner = shared.inner();
            if let Some(why) = &inner.refused {
                return Err(why.clone());
            }
            // The copy may have come there by the backup.
            if inner.at.is_some_and(|at| txid <= at) {
                return Ok(());
            }
            if inner.files.is_empty() || inner.bytes + file.len() <= WAITING {
                inner.bytes += file.len();
                inner.files.push_back((txid, file));
                shared.came.notify_one();
                return Ok(());
            }
        }
        shared.moved.notified().await;
    }
}
