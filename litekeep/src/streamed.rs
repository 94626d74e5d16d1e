//! What a copy streams from, and what is told of it beside the copy.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use litekeep_env::{Clock as _, SystemClock};
use litekeep_ltx::Txid;
use litekeep_replica::{Came, Held, Source, Streaming};
use litekeep_store::Store;
use litekeep_stream::{Address, Client};

/// Between two notes of how it goes, and two looks whether somebody else has written.
const NOTE_PAUSE: Duration = Duration::from_secs(1);

/// The connection, and what was told of it.
pub(crate) struct Streamed {
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

impl Streamed {
    /// `node`: as whose copy the primary hears how far it is.
    pub(crate) fn start(address: Address, url: &str, store: &Store, node: Option<&str>) -> Streamed {
        let client = Client::start(address, &store.identity(), node, Arc::new(SystemClock));
        let source = Arc::new(Primary(client));
        Streamed { source, url: url.to_owned(), lag_ms: None, told: None, told_at: Instant::now() }
    }

    pub(crate) fn source(&self) -> Arc<dyn Source> {
        self.source.clone()
    }

    /// How long to wait for something when nothing is there; `pause`: while only the store says what comes.
    pub(crate) async fn rest(&self, pause: Duration) {
        let pause = if self.source.0.state().is_live { NOTE_PAUSE } else { pause };
        _ = tokio::time::timeout(pause, self.source.0.news()).await;
    }

    /// Something came into the file.
    pub(crate) fn applied(&mut self, held: &Held) {
        let skew = self.source.0.state().skew_ms;
        self.lag_ms = skew.map(|skew| (held.applied_ms - skew - held.time_ms).max(0));
    }

    /// How it goes.
    pub(crate) fn now(&self) -> Streaming {
        let state = self.source.0.state();
        Streaming {
            url: self.url.clone(),
            is_live: state.is_live,
            since_ms: state.since_ms,
            at_ms: SystemClock.unix_ms(),
            primary_txid: state.now.map(|now| now.captured),
            lag_ms: self.lag_ms.filter(|_| state.is_live),
            error: state.error,
        }
    }

    /// Tells those who look how it goes: at once where it begins or ends, else once a second.
    pub(crate) fn tell(&mut self, replica: &Path) {
        let streaming = self.now();
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
