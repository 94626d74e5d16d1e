//! How far a feed has come: kept in a file, which is replaced as a whole.
//!
//! Invariant: the position that the file has was confirmed. What is newer costs repeated events, never lost ones.

use std::path::{Path, PathBuf};
use std::time::Duration;

use litekeep_env::{Clock, SystemClock, file};
use litekeep_ltx::Txid;
use litekeep_rows::retry::Trouble;
use serde::{Deserialize, Serialize};

use crate::{Error, Kind};

/// Each write waits for the disk.
pub(crate) const EVERY: Duration = Duration::from_millis(200);

/// How a feed stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The last transaction whose every event is confirmed, or after which the feed began.
    pub txid: Option<String>,
    /// When that transaction was seen, milliseconds since the epoch.
    pub time_ms: Option<i64>,
    /// When the last event was confirmed.
    pub delivered_ms: Option<i64>,
    /// Where the events go.
    pub to: String,
    /// Why the last try failed, when it did.
    pub trouble: Option<Trouble>,
}

impl State {
    /// Reads the file; `None` when there is none.
    ///
    /// # Errors
    /// `Invalid` when it cannot be read or is damaged.
    pub fn read(path: &Path) -> Result<Option<State>, Error> {
        let doing = || format!("read the feed's position `{}`", path.display());
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::new(Kind::Invalid, format!("{}: {error}", doing()))),
        };
        let state: Option<State> = serde_json::from_slice(&bytes).ok();
        let is_whole = |state: &State| state.txid.as_ref().is_none_or(|txid| txid.parse::<Txid>().is_ok());
        state.filter(is_whole).map(Some).ok_or_else(|| {
            let hint = "remove it to begin where `from` says; events in between are then not delivered";
            Error::with_hint(Kind::Invalid, format!("{}: it is damaged", doing()), hint)
        })
    }

    /// The position.
    pub fn at(&self) -> Option<Txid> {
        self.txid.as_ref()?.parse().ok()
    }
}

/// The file and what is to be written to it.
pub(crate) struct Position {
    pub(crate) path: PathBuf,
    pub(crate) state: State,
    /// What the file has.
    kept: State,
    kept_at: Duration,
}

impl Position {
    pub(crate) fn read(path: &Path, to: String) -> Result<Position, Error> {
        let kept = State::read(path)?.unwrap_or_default();
        let state = State { to, ..kept.clone() };
        Ok(Position { path: path.to_owned(), state, kept, kept_at: Duration::ZERO })
    }

    /// Whether the file has everything.
    pub(crate) fn is_kept(&self) -> bool {
        self.state == self.kept
    }

    /// Writes what has changed, unless that was done a moment ago.
    pub(crate) async fn keep(&mut self) -> Result<(), Error> {
        if SystemClock.boottime().saturating_sub(self.kept_at) < EVERY {
            Ok(())
        } else {
            self.keep_now().await
        }
    }

    /// Writes what has changed.
    ///
    /// # Errors
    /// `Unavailable` when the disk does not take it.
    pub(crate) async fn keep_now(&mut self) -> Result<(), Error> {
        if self.is_kept() {
            return Ok(());
        }
        let state = self.state.clone();
        let path = self.path.clone();
        let bytes = serde_json::to_vec(&state).map_err(|e| Error::new(Kind::Internal, e.to_string()))?;
        let write = move || {
            if let Some(folder) = path.parent() {
                std::fs::create_dir_all(folder)?;
            }
            file::replace(&path, &bytes)
        };
        let written = match tokio::task::spawn_blocking(write).await {
            Ok(written) => written,
            Err(error) => Err(std::io::Error::other(error)),
        };
        written.map_err(|error| {
            let path = self.path.display();
            Error::new(Kind::Unavailable, format!("write the feed's position `{path}`: {error}"))
        })?;
        (self.kept, self.kept_at) = (state, SystemClock.boottime());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_position_is_kept_and_a_damaged_one_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("feeds/a");
        assert_eq!(State::read(&path).unwrap(), None);
        let mut position = Position::read(&path, "file:///e".into()).unwrap();
        position.state.txid = Some("000000000000002a".into());
        position.keep_now().await.unwrap();
        let read = State::read(&path).unwrap().unwrap();
        assert_eq!(read.at(), Txid::new(42));
        for damaged in ["", "{", "{\"txid\":\"x\",\"to\":\"\"}", "{\"txid\":3}"] {
            std::fs::write(&path, damaged).unwrap();
            assert_eq!(State::read(&path).unwrap_err().kind(), Kind::Invalid, "{damaged}");
        }
    }
}
