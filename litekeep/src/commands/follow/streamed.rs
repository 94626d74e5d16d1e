//! The primary that tells of the log's end, where one is named.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use litekeep_env::{Clock as _, SystemClock};
use litekeep_ltx::Txid;
use litekeep_replica::{Came, Held, Source, Streaming};
use litekeep_store::Store;
use litekeep_stream::{Address, Client};

use crate::args::follow::Follow;
use crate::report::Failure;
use crate::settings::env;

const TOKEN: &str = "LITEKEEP_STREAM_TOKEN";
/// Between two notes of how it goes, and two looks whether somebody else has written.
const NOTE_PAUSE: Duration = Duration::from_secs(1);

/// The connection, and what was told of it.
pub(super) struct Streamed {
    source: Arc<Primary>,
    url: String,
    lag_ms: Option<i64>,
    told: Option<Streaming>,
    told_at: Instant,
}

#[derive(Debug)]
struct Primary(Client);

impl Source for Primary {
    fn following(&self, after: Txid) -> Option<Came> {
        let came = self.0.following(after)?;
        Some(Came { connection: came.connection, files: came.files })
    }

    fn refuse(&self, why: &str) {
        tracing::warn!("the stream is cut: {why}");
        self.0.refuse(why);
    }
}

/// Reads what the arguments say, and asks nobody yet.
pub(super) fn address(args: &Follow) -> Result<Option<Address>> {
    let Some(url) = &args.stream else { return Ok(None) };
    let read = |path: &Path| {
        std::fs::read(path).map_err(|error| Failure::io(format!("read `{}`", path.display()), &error))
    };
    let token = match &args.stream_token_file {
        Some(path) => Some(String::from_utf8_lossy(&read(path)?).trim().to_owned()),
        None => env(TOKEN),
    };
    let token = token.filter(|token| !token.is_empty()).ok_or_else(|| {
        Failure::invalid(format!("`{url}` wants a token"))
            .hint(format!("put it into {TOKEN}, or into a file for --stream-token-file"))
    })?;
    let ca = args.stream_ca.as_deref().map(read).transpose()?;
    let address = Address::new(url, &token, ca.as_deref(), args.stream_insecure);
    let address = address.map_err(|error| Failure::invalid(error.to_string())).context("read --stream")?;
    Ok(Some(address))
}

impl Streamed {
    pub(super) fn start(address: Address, url: &str, store: &Store) -> Streamed {
        let client = Client::start(address, &store.identity(), Arc::new(SystemClock));
        let source = Arc::new(Primary(client));
        Streamed { source, url: url.to_owned(), lag_ms: None, told: None, told_at: Instant::now() }
    }

    pub(super) fn source(&self) -> Arc<dyn Source> {
        self.source.clone()
    }

    /// How long to wait for something when nothing is there; `pause`: while only the store says what comes.
    pub(super) async fn rest(&self, pause: Duration) {
        let pause = if self.source.0.state().is_live { NOTE_PAUSE } else { pause };
        _ = tokio::time::timeout(pause, self.source.0.news()).await;
    }

    /// Something came into the file.
    pub(super) fn applied(&mut self, held: &Held) {
        let skew = self.source.0.state().skew_ms;
        self.lag_ms = skew.map(|skew| (held.applied_ms - skew - held.time_ms).max(0));
    }

    /// Tells those who look how it goes: at once where it begins or ends, else once a second.
    pub(super) fn tell(&mut self, replica: &Path) {
        let state = self.source.0.state();
        let streaming = Streaming {
            url: self.url.clone(),
            is_live: state.is_live,
            since_ms: state.since_ms,
            at_ms: SystemClock.unix_ms(),
            primary_txid: state.now.map(|now| now.captured),
            lag_ms: self.lag_ms.filter(|_| state.is_live),
            error: state.error,
        };
        let before = self.told.as_ref();
        let is_turn = before.is_none_or(|told| {
            (told.is_live, told.since_ms, &told.error)
                != (streaming.is_live, streaming.since_ms, &streaming.error)
        });
        if !is_turn && self.told_at.elapsed() < NOTE_PAUSE {
            return;
        }
        if before.is_none_or(|told| told.is_live != streaming.is_live) {
            match (&streaming.error, streaming.is_live) {
                (_, true) => tracing::info!("streaming from {}", self.url),
                (Some((why, _)), false) => {
                    tracing::warn!("not streaming from {}, reading the backup instead: {why}", self.url);
                }
                (None, false) => {}
            }
        }
        self.told_at = Instant::now();
        Streaming::tell(replica, Some(&streaming));
        self.told = Some(streaming);
    }
}
