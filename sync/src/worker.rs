//! A push or a pull that goes on by itself, and how it stands.
//!
//! Where it stands is kept by the database that is written to; the file beside the database only tells those who look.

use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use litekeep_env::{Clock, SystemClock, file};
use litekeep_ltx::Txid;
use litekeep_rows::retry::{Lacking, Pauses, Trouble};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::pause::Pause;
use crate::push::Step;
use crate::{Error, Kind};

/// Between two words of one that has not come to its end.
const NEWS_MS: u64 = 1_000;
/// Between two looks at the clock while something is not due.
const CLOCK_LOOK: Duration = Duration::from_secs(10);

/// What goes on step by step.
#[async_trait]
pub trait Flow: Send {
    /// The other side, without a password.
    fn other_side(&self) -> String;

    /// Does what is next: connects, begins, copies some rows, or applies what has come. After an error, or when it was not awaited to
    /// its end, it can be asked again, and goes on with what is not committed.
    ///
    /// # Errors
    /// Those of both sides.
    async fn step(&mut self) -> Result<Step, Error> {
        if std::mem::replace(self.is_under_way(), true) {
            self.begin_anew();
        }
        let stepped = self.try_step().await;
        *self.is_under_way() = false;
        if stepped.is_err() {
            self.begin_anew();
        }
        stepped
    }

    /// Does what is next, after an error or a step that was not awaited to its end only once [begun anew](Self::begin_anew).
    ///
    /// # Errors
    /// As [`step`](Self::step).
    async fn try_step(&mut self) -> Result<Step, Error>;

    /// Lets go of everything: what is committed is not known, and what was read beyond it must come again.
    fn begin_anew(&mut self);

    /// With everything that the log has which it reads: whether a copy of that in another place has more, and is read from now on.
    ///
    /// # Errors
    /// When none of them answers.
    async fn reads_another_log(&mut self) -> Result<bool, Error> {
        Ok(false)
    }

    /// After an error: whether that was one of the log which was read, of which a copy in another place is read from now on.
    fn leaves_log(&mut self) -> bool {
        false
    }

    /// Whether a step was not awaited to its end.
    fn is_under_way(&mut self) -> &mut bool;

    /// How far it is, as it was last read or written; `None`: nothing was read, or it has not begun.
    fn progress(&self) -> Option<Progress>;
}

/// How far a sync is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Rows of the first copy that are there, while it is made.
    pub copied_rows: Option<u64>,
    /// Where it stands once that is made: a transaction of the log, or what the other side has for it.
    pub position: Option<String>,
    /// When the last transaction that has come was made, milliseconds since the epoch.
    pub time_ms: Option<i64>,
    /// Where both directions are kept: the transaction of the log up to which the other side has everything.
    #[serde(default)]
    pub outward: Option<String>,
    /// The same: rows that both sides had changed, since it began.
    #[serde(default)]
    pub conflicts: u64,
    /// Rows that are refused.
    pub refused: u64,
    /// Tables that stand still, with the reason.
    pub paused: Vec<(String, String)>,
}

/// How a sync stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The other side, without a password.
    pub to: String,
    /// How far it is; `None`: it has not begun.
    pub progress: Option<Progress>,
    /// When something has last been confirmed, milliseconds since the epoch.
    pub confirmed_ms: Option<i64>,
    /// Why the last try failed, when it did.
    pub trouble: Option<Trouble>,
    /// Everything was there since it began, and it goes on.
    #[serde(default)]
    pub is_current: bool,
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

    /// Writes the file.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) async fn write(&self, path: &Path) -> std::io::Result<()> {
        let (path, state) = (path.to_owned(), self.clone());
        let write = move || -> std::io::Result<()> {
            if let Some(folder) = path.parent() {
                std::fs::create_dir_all(folder)?;
            }
            file::replace_until_reboot(&path, &serde_json::to_vec(&state)?)
        };
        tokio::task::spawn_blocking(write).await.map_err(std::io::Error::other).flatten()
    }

    /// Of a push: the transaction up to which the other side has everything.
    pub fn at(&self) -> Option<Txid> {
        self.progress.as_ref()?.position.as_ref()?.parse().ok()
    }
}

/// When a sync that has everything goes on.
pub enum Rhythm {
    /// As soon as there is more.
    Continuous,
    /// At the moment after one in milliseconds since the epoch, and without connections until then; `None`: never.
    Scheduled(Box<dyn Fn(i64) -> Option<i64> + Send + Sync>),
}

impl Rhythm {
    /// Waits until it is due again, where it is not always.
    async fn due(&self, since_ms: i64) {
        let Rhythm::Scheduled(next) = self else { return };
        let due_ms = next(since_ms).unwrap_or(i64::MAX);
        // Step by step: the clock may be set meanwhile, and a machine may have slept.
        while let left_ms @ 1.. = due_ms.saturating_sub(SystemClock.unix_ms()) {
            tokio::time::sleep(Duration::from_millis(left_ms.unsigned_abs()).min(CLOCK_LOOK)).await;
        }
    }
}

/// A push or a pull, and the file that tells how it stands.
pub struct Worker {
    name: String,
    flow: Box<dyn Flow>,
    path: PathBuf,
    state: State,
    written: State,
    told_ms: i64,
}

impl Worker {
    /// Opens nothing yet.
    pub fn new(name: &str, flow: Box<dyn Flow>, path: PathBuf) -> Worker {
        // What it was like is worth nothing here, but that trouble goes on.
        let written = State::read(&path).ok().flatten().unwrap_or_default();
        let state = State { to: flow.other_side(), is_current: false, ..written.clone() };
        Worker { name: name.to_owned(), flow, path, state, written, told_ms: 0 }
    }

    /// How it stands.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The next step; see [`Flow::step`].
    ///
    /// # Errors
    /// As there.
    pub async fn step(&mut self) -> Result<Step, Error> {
        let mut stepped = self.flow.step().await;
        if let Err(error) = &stepped
            && self.flow.leaves_log()
        {
            tracing::warn!(sync = self.name, "{error}: goes on with what another backup has");
            stepped = Ok(Step::More);
        }
        let progress = self.flow.progress();
        if progress.is_some() && progress != self.state.progress {
            self.state.confirmed_ms = Some(SystemClock.unix_ms());
            self.state.progress = progress;
        }
        match &stepped {
            Ok(Step::Current) => {
                self.state.is_current = true;
                if self.state.trouble.take().is_some() {
                    tracing::info!(sync = self.name, "goes on again with {}", self.state.to);
                }
            }
            Ok(Step::More) => {}
            Err(error) => {
                self.state.is_current = false;
                let known = self.state.trouble.as_ref();
                let (trouble, is_news) = Trouble::after(known, error, SystemClock.unix_ms());
                if is_news {
                    tracing::warn!(sync = self.name, "does not go on: {}", trouble.line());
                }
                self.state.trouble = Some(trouble);
            }
        }
        stepped
    }

    /// With everything that the log has which it reads: whether a copy of that in another place has more, and is read from now on.
    pub async fn reads_another_log(&mut self) -> bool {
        match self.flow.reads_another_log().await {
            Ok(reads_another) => {
                if reads_another {
                    let at = self.state.at().map_or(String::new(), |at| format!(" at transaction {at}"));
                    tracing::warn!(
                        sync = self.name,
                        "the backup ends{at} in the place where it was read; another has more, and is read from now on"
                    );
                }
                reads_another
            }
            // The next step tells.
            Err(_) => false,
        }
    }

    /// The same for those who watch long work.
    async fn tell_now_and_then(&mut self) {
        let now_ms = SystemClock.unix_ms();
        if now_ms.abs_diff(self.told_ms) >= NEWS_MS {
            self.told_ms = now_ms;
            self.tell().await;
        }
    }

    /// Writes how it stands where that has changed. A disk that does not take it is not its business.
    pub async fn tell(&mut self) {
        if self.state == self.written {
            return;
        }
        match self.state.write(&self.path).await {
            Ok(()) => self.written = self.state.clone(),
            Err(error) => tracing::warn!(sync = self.name, "write `{}`: {error}", self.path.display()),
        }
    }

    /// Lets go of every connection, of what is not committed, and of trouble, which is over.
    async fn rest(&mut self) {
        self.flow.begin_anew();
        (self.state.trouble, self.state.is_current) = (None, false);
        self.tell().await;
    }

    /// Goes on until `stop` says so, but for the time that it is paused. What fails is tried again. `news` waits until there may be
    /// more than up to a transaction.
    pub async fn follow(
        mut self,
        mut stop: watch::Receiver<bool>,
        rhythm: Rhythm,
        news: impl AsyncFn(Option<Txid>),
    ) {
        let pause = Pause::of(&self.path);
        let mut pauses = Pauses::default();
        let mut lacking = Lacking::default();
        self.tell().await;
        loop {
            if pause.since().is_some() {
                self.rest().await;
                tracing::info!(
                    sync = self.name,
                    "is paused: `litekeep sync resume {}` lets it go on",
                    self.name
                );
                tokio::select! {
                    _ = stop.wait_for(|stop| *stop) => break,
                    () = pause.until(false) => tracing::info!(sync = self.name, "goes on"),
                }
            }
            let stepped = tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => break,
                () = pause.until(true) => continue,
                stepped = self.step() => stepped,
            };
            let is_current = match stepped {
                Ok(Step::More) => {
                    self.tell_now_and_then().await;
                    continue;
                }
                Ok(Step::Current) => true,
                Err(_) => false,
            };
            if is_current {
                pauses = Pauses::default();
            }
            match rhythm {
                Rhythm::Scheduled(_) if is_current => self.rest().await,
                _ => self.tell().await,
            }
            let (at, retry) = (self.state.at(), (!is_current).then(|| pauses.longer()));
            if is_current && lacking.lasts(at).is_some_and(|lasts| lasts >= Lacking::PATIENCE) {
                lacking = Lacking::default();
                if self.reads_another_log().await {
                    continue;
                }
            }
            let wait = async {
                match retry {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => {
                        rhythm.due(SystemClock.unix_ms()).await;
                        news(at).await;
                    }
                }
            };
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => break,
                () = pause.until(true) => {}
                () = wait => if retry.is_none() { lacking.confirmed(at) },
            }
        }
        self.state.is_current = false;
        self.tell().await;
    }
}
