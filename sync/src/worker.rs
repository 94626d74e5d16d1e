//! A push that goes on by itself, and how it stands.
//!
//! Where it stands is kept by the target; the file beside the database only tells those who look.

use std::path::{Path, PathBuf};

use litekeep_env::{Clock, SystemClock, file};
use litekeep_ltx::Txid;
use litekeep_rows::retry::{Pauses, Trouble};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::push::Step;
use crate::{Error, Kind, Push, Stage, Target};

/// How a sync stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The other side, without a password.
    pub to: String,
    /// How far it is; `None`: it has not begun.
    pub stage: Option<Stage>,
    /// Rows that are refused.
    pub refused: u64,
    /// Tables that stand still, with the reason.
    pub paused: Vec<(String, String)>,
    /// When the target has last confirmed something, milliseconds since the epoch.
    pub confirmed_ms: Option<i64>,
    /// Why the last try failed, when it did.
    pub trouble: Option<Trouble>,
}

impl State {
    /// Reads the file; `None` when there is none.
    ///
    /// # Errors
    /// `Unavailable` when it cannot be read, `Corrupt` when it is damaged.
    pub fn read(path: &Path) -> Result<Option<State>, Error> {
        let failed = |kind, cause: String| Error::new(kind, format!("read `{}`: {cause}", path.display()));
        match std::fs::read(path) {
            Ok(bytes) => {
                serde_json::from_slice(&bytes).map(Some).map_err(|e| failed(Kind::Corrupt, e.to_string()))
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(failed(Kind::Unavailable, e.to_string())),
        }
    }

    /// The transaction up to which the target has everything.
    pub fn at(&self) -> Option<Txid> {
        match &self.stage {
            Some(Stage::Following { txid, .. }) => txid.parse().ok(),
            _ => None,
        }
    }
}

/// A push, and the file that tells how it stands.
pub struct Worker<T: Target> {
    name: String,
    push: Push<T>,
    path: PathBuf,
    state: State,
    written: State,
}

impl<T: Target> Worker<T> {
    /// Opens nothing yet.
    pub fn new(name: &str, push: Push<T>, path: PathBuf) -> Worker<T> {
        // What it was like is worth nothing here, but that trouble goes on.
        let written = State::read(&path).ok().flatten().unwrap_or_default();
        let state = State { to: push.target().name(), ..written.clone() };
        Worker { name: name.to_owned(), push, path, state, written }
    }

    /// How it stands.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The next step; see [`Push::step`].
    ///
    /// # Errors
    /// As there.
    pub async fn step(&mut self) -> Result<Step, Error> {
        let stepped = self.push.step().await;
        if let Some(kept) = self.push.kept() {
            if self.state.stage.as_ref() != Some(&kept.stage) {
                self.state.confirmed_ms = Some(SystemClock.unix_ms());
            }
            self.state.stage = Some(kept.stage.clone());
            (self.state.refused, self.state.paused) = (kept.refused, kept.paused.clone());
        }
        match &stepped {
            Ok(Step::Current) => {
                if self.state.trouble.take().is_some() {
                    tracing::info!(sync = self.name, "pushes again to {}", self.state.to);
                }
            }
            Ok(Step::More) => {}
            Err(error) => {
                let known = self.state.trouble.as_ref();
                let (trouble, is_news) = Trouble::after(known, error, SystemClock.unix_ms());
                if is_news {
                    tracing::warn!(sync = self.name, "does not push: {}", trouble.line());
                }
                self.state.trouble = Some(trouble);
            }
        }
        stepped
    }

    /// Writes how it stands where that has changed. A disk that does not take it is not its business.
    pub async fn tell(&mut self) {
        if self.state == self.written {
            return;
        }
        let (path, state) = (self.path.clone(), self.state.clone());
        let write = move || -> std::io::Result<()> {
            if let Some(folder) = path.parent() {
                std::fs::create_dir_all(folder)?;
            }
            file::replace_until_reboot(&path, &serde_json::to_vec(&state)?)
        };
        match tokio::task::spawn_blocking(write).await.map_err(std::io::Error::other).flatten() {
            Ok(()) => self.written = self.state.clone(),
            Err(error) => tracing::warn!(sync = self.name, "write `{}`: {error}", self.path.display()),
        }
    }

    /// Pushes until `stop` says so. What fails is tried again. `news` waits until the log may have more than up to a transaction.
    pub async fn follow(mut self, mut stop: watch::Receiver<bool>, news: impl AsyncFn(Option<Txid>)) {
        let mut pauses = Pauses::default();
        loop {
            let stepped = tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => break,
                stepped = self.step() => stepped,
            };
            match stepped {
                Ok(Step::More) => {}
                Ok(Step::Current) => {
                    pauses = Pauses::default();
                    self.tell().await;
                    let at = self.state.at();
                    tokio::select! {
                        _ = stop.wait_for(|stop| *stop) => break,
                        () = news(at) => {}
                    }
                }
                Err(_) => {
                    self.tell().await;
                    tokio::select! {
                        _ = stop.wait_for(|stop| *stop) => break,
                        () = tokio::time::sleep(pauses.longer()) => {}
                    }
                }
            }
        }
        self.tell().await;
    }
}
