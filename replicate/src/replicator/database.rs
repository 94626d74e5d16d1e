//! One database: from the event that wakes it to the confirmation of the store.

use super::destination::Destination;
use super::status::{DestinationStatus, Phase, Status};
use super::{Settings, Shared, shipping, start};
use crate::capture::{Body, Capture, Frames, Look, Reset, Stamp};
use crate::local::{MetaDir, PageSums, Spool, State, StateFile, Trouble};
use crate::{Error, Kind};
use litekeep_ltx::{Pgno, Txid, WriterId};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// Looks at frames that are there but not counted: the last minute of them is a second apart. Whatever is not a commit
/// by then is what a rollback left behind.
const MOST_LOOKS_BEYOND: u32 = 16 + 60;
/// A put that takes longer is not waited for.
const PUT_PATIENCE: Duration = Duration::from_millis(500);
/// How often the queue is looked at that has to drain.
const DRAIN_TICK: Duration = Duration::from_millis(200);
/// More commits in one capture than this are those of a hot writer.
pub(super) const FEW_COMMITS: u32 = 16;
/// When only a person can help, the situation is looked at again after this.
const REFUSED_PAUSE: Duration = Duration::from_secs(60);
/// A failure that stays the same is told again after so many tries, about every five minutes.
const TELL_AGAIN: u32 = 16;
/// An awake database without anything to do goes to rest after this.
const LINGER: Duration = Duration::from_secs(3);
/// Frames that checkpoints may not copy yet are worth a move of the hold beyond this many bytes.
const PINNED_BYTES: u64 = 4 << 20;
/// A WAL of this size is reset when the last reset is long ago; a larger one at a quarter of the limit, at once.
const RESET_BYTES: u64 = 4 << 20;
const RESET_PAUSE: Duration = Duration::from_secs(60);
/// How long writers may wait for readers in a reset ...
const PATIENCE: Duration = Duration::from_millis(20);
/// ... and when the WAL has grown to many times its limit.
const LAST_PATIENCE: Duration = Duration::from_millis(100);
const MANY_TIMES: u64 = 8;
/// A reset that did not come about is tried again after this, doubling ...
const RESET_RETRY: Duration = Duration::from_millis(20);
/// ... up to this.
const LONGEST_RESET_RETRY: Duration = Duration::from_secs(10);
/// So many tries in, after some seconds, people are told who keeps the WAL from being reset.
const TELL_OF_READER: u32 = 8;
/// A capture that takes this long is followed by a pause of so many times as long, ...
const CAPTURE_SHARE: u32 = 6;
/// ... but of no more than this.
const MOST_SPREAD: Duration = Duration::from_millis(60);
/// While no destination answers, captures are so far apart at least: what is spooled is one file each.
const OUTAGE_PAUSE: Duration = Duration::from_secs(1);
/// A hot writer that has not been looked at for so long may checkpoint by itself.
const HOT_TIME: Duration = Duration::from_millis(200);
/// While an upload is not due yet, a WAL that grows by this much is captured all the same.
const EARLY_BYTES: u64 = 16 << 20;
/// How often that is looked at.
const GROWTH_TICK: Duration = Duration::from_millis(20);

/// A file of the local state that is there while another replicator owns the log.
const OVERTAKEN: &str = "overtaken";

/// State beside the database.
pub(crate) struct Local {
    pub(crate) meta: MetaDir,
    pub(crate) writer: WriterId,
    pub(crate) sums: PageSums,
    pub(crate) spool: Spool,
    pub(crate) state: Mutex<(StateFile, Option<State>)>,
}

/// What capturing needs; locked while a blocking thread works on it.
#[derive(Default)]
pub(crate) struct Work {
    pub(crate) local: Option<Arc<Local>>,
    pub(crate) capture: Option<Capture>,
    /// The last transaction that was given a number.
    pub(crate) last: Option<Txid>,
    /// The next look must put something, so that the log has a level-0 file of ours.
    pub(crate) must_put: bool,
    pub(crate) last_reset: Option<Instant>,
    /// Resets that did not come about since the last one that did, and when the next one may be tried.
    reset_failures: u32,
    retry_reset: Option<Instant>,
    /// When the last look found a hot writer, for whose sake checkpoints are kept from happening.
    hot_at: Option<Instant>,
    pub(crate) sums_synced: Option<Instant>,
}

pub(crate) struct Database {
    pub(crate) settings: Settings,
    pub(crate) shared: Arc<Shared>,
    pub(crate) work: Arc<Mutex<Work>>,
    pub(crate) destinations: Mutex<Vec<Destination>>,
    status: Mutex<Status>,
    /// The failure that was told last, until all is well.
    told: Mutex<Option<String>>,
    /// Something happened since the last look.
    dirty: AtomicBool,
    /// A task is at work.
    pub(super) awake: AtomicBool,
    /// Another writer owns the log. Final: whoever was overtaken must not take over again by itself.
    pub(super) fenced: AtomicBool,
    /// The file is not there: events of the file itself matter then.
    waiting: AtomicBool,
    bell: Notify,
    /// A destination confirmed something, or the task went to rest.
    pub(super) progress: Notify,
}

/// What a look led to.
pub(super) enum Step {
    /// The file is not there.
    Absent,
    /// Nothing new. With frames beyond the wal-index a commit may be on its way without another event.
    Quiet { more_coming: bool },
    /// A segment was queued; with commits of the application in it, or without, or with those of a hot writer.
    Captured { active: bool, hot: bool, more_coming: bool },
    /// The log must catch up first.
    MustDrain,
}

impl Database {
    pub(crate) fn new(settings: Settings, shared: Arc<Shared>) -> Arc<Database> {
        let destinations = settings.stores.iter().cloned().map(Destination::new).collect();
        // Not waiting before the first look: that would count as nothing to do.
        let status = Status { path: settings.path.clone(), phase: Phase::Starting, ..Status::default() };
        Arc::new(Database {
            settings,
            shared,
            work: Arc::default(),
            destinations: Mutex::new(destinations),
            status: Mutex::new(status),
            told: Mutex::default(),
            dirty: AtomicBool::new(false),
            awake: AtomicBool::new(false),
            fenced: AtomicBool::new(false),
            waiting: AtomicBool::new(true),
            bell: Notify::new(),
            progress: Notify::new(),
        })
    }

    pub(crate) fn destinations(&self) -> MutexGuard<'_, Vec<Destination>> {
        lock(&self.destinations)
    }

    pub(crate) fn work(&self) -> MutexGuard<'_, Work> {
        lock(&self.work)
    }

    pub(super) fn set_status(&self, change: impl FnOnce(&mut Status)) {
        change(&mut lock(&self.status));
    }

    pub(crate) fn phase(&self, phase: Phase) {
        let was_red = {
            let mut status = lock(&self.status);
            (status.message, status.hint) = (None, None);
            std::mem::replace(&mut status.phase, phase).is_red()
        };
        if phase == Phase::Following {
            *lock(&self.told) = None;
        }
        if was_red || phase == Phase::Following {
            Trouble::clear(&self.settings.meta_dir);
        }
    }

    pub(crate) fn is_following(&self) -> bool {
        lock(&self.status).phase == Phase::Following
    }

    pub(crate) fn status(&self) -> Status {
        let mut status = lock(&self.status).clone();
        let destinations = self.destinations();
        status.durable = destinations.iter().filter_map(|d| d.durable).max();
        let oldest = destinations.iter().filter_map(|d| d.queue.front()).map(|s| s.header.timestamp_ms).min();
        status.behind_since_ms = oldest;
        status.destinations = destinations
            .iter()
            .map(|d| DestinationStatus {
                place: d.store.place(),
                durable: d.durable,
                waiting: d.queue.len(),
                error: d.error.clone(),
                unfenced: d.unfenced,
            })
            .collect();
        status
    }

    /// Whether an event of this file matters.
    pub(crate) fn concerns(&self, path: &Path) -> bool {
        self.waiting.load(SeqCst) || path != self.settings.path
    }

    /// Something was written: look.
    pub(crate) fn wake(self: &Arc<Self>) {
        self.dirty.store(true, SeqCst);
        if self.awake.swap(true, SeqCst) {
            self.bell.notify_one();
        } else {
            self.shared.runtime.spawn(self.clone().run());
        }
    }

    /// The task of an awake database.
    async fn run(self: Arc<Self>) {
        let mut failures = 0u32;
        let mut active = false;
        let (mut beyond, mut looks_beyond) = (Duration::ZERO, 0u32);
        let mut captured_at: Option<(Instant, Duration)> = None;
        loop {
            if let Some((begun, took)) = captured_at.take() {
                self.wait_until_due(begun, took).await;
            }
            if self.fenced.load(SeqCst) || self.shared.stopping.load(SeqCst) {
                break;
            }
            let begun = Instant::now();
            self.dirty.store(false, SeqCst);
            let linger = match self.clone().step().await {
                Ok(Step::Absent) => Duration::ZERO,
                Ok(Step::Quiet { more_coming: true }) if looks_beyond < MOST_LOOKS_BEYOND => {
                    looks_beyond += 1;
                    beyond = (beyond * 2).clamp(Duration::from_micros(20), Duration::from_secs(1));
                    beyond
                }
                Ok(Step::Quiet { .. }) => {
                    (failures, beyond) = (0, Duration::ZERO);
                    // After a start, thousands at once have nothing to linger for.
                    if active { LINGER } else { Duration::ZERO }
                }
                Ok(Step::Captured { active: now, more_coming, .. }) => {
                    active |= now;
                    (failures, beyond, looks_beyond) = (0, Duration::ZERO, 0);
                    captured_at = Some((begun, begun.elapsed()));
                    if more_coming {
                        continue;
                    }
                    if active { LINGER } else { Duration::ZERO }
                }
                Ok(Step::MustDrain) => {
                    let _ = tokio::time::timeout(DRAIN_TICK, self.progress.notified()).await;
                    continue;
                }
                Err(e) => {
                    let wait = self.failed(&e, failures);
                    failures += 1;
                    match wait {
                        Some(wait) => {
                            self.pause(wait).await;
                            continue;
                        }
                        None => break,
                    }
                }
            };
            let rung = self.is_rung_within(linger).await;
            if rung {
                looks_beyond = 0;
            }
            if rung || beyond > Duration::ZERO {
                continue;
            }
            if self.clone().rest().await {
                self.awake.store(false, SeqCst);
                self.progress.notify_waiters();
                // An event between the last look and here found us awake and rang a bell that nobody hears.
                if !self.dirty.load(SeqCst) || self.awake.swap(true, SeqCst) {
                    return;
                }
            }
        }
        // Stopped or refused: stays "awake", so that no event begins another task.
        self.progress.notify_waiters();
    }

    /// Waits for something to happen.
    async fn is_rung_within(&self, time: Duration) -> bool {
        let until = Instant::now() + time;
        while !self.dirty.load(SeqCst) && !self.shared.stopping.load(SeqCst) {
            // The bell may still ring for what a look has found since.
            let rung = tokio::time::timeout_at(until.into(), self.bell.notified()).await;
            if rung.is_err() {
                return false;
            }
        }
        true
    }

    /// Waits after a failure. The application's writes do not end it: each would cost another try.
    async fn pause(&self, at_most: Duration) {
        let until = Instant::now() + at_most;
        while !self.shared.stopping.load(SeqCst) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left.min(DRAIN_TICK)).await;
        }
    }

    /// Before the look that follows a capture: waits for its confirmation and for the interval, but not while the WAL
    /// grows fast. A hot writer's pages are captured less often, so that capture takes a small share of one core.
    /// During an outage nothing is waited for: each of its seconds stays a point in time.
    pub(super) async fn wait_until_due(self: &Arc<Self>, begun: Instant, took: Duration) {
        let spread = (took * CAPTURE_SHARE).min(MOST_SPREAD);
        let pause = self.settings.upload_interval.max(spread);
        loop {
            let (drained, is_outage) = {
                let destinations = self.destinations();
                let drained = destinations.iter().any(|d| !d.lags && d.queue.is_empty() && d.error.is_none());
                (drained, shipping::is_outage(&destinations))
            };
            let pause = if drained { pause } else { pause.max(OUTAGE_PAUSE) };
            let left = (begun + pause).saturating_duration_since(Instant::now());
            if (drained || is_outage) && left.is_zero() {
                return;
            }
            let tick = if drained { left.min(GROWTH_TICK) } else { GROWTH_TICK };
            let _ = tokio::time::timeout(tick, self.progress.notified()).await;
            if self.shared.stopping.load(SeqCst) || self.grows_fast() {
                return;
            }
        }
    }

    fn grows_fast(&self) -> bool {
        // Whoever has the lock is about to find out.
        let Ok(work) = self.work.try_lock() else { return false };
        work.capture.as_ref().is_some_and(|c| c.bytes_ahead() >= EARLY_BYTES)
    }

    /// Runs something that blocks where it may.
    pub(crate) async fn run_blocking<T: Send + 'static>(
        &self,
        f: impl FnOnce() -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        match self.shared.runtime.spawn_blocking(f).await {
            Ok(result) => result,
            Err(e) => Err(self.panicked(&e)),
        }
    }

    fn panicked(&self, e: &tokio::task::JoinError) -> Error {
        Error::new(Kind::Internal, format!("replicate `{}`: {e}", self.settings.path.display()))
    }

    /// Notes an error; how long to wait before the next try, `None` when only a person can help.
    pub(super) fn failed(&self, e: &Error, failures: u32) -> Option<Duration> {
        let path = self.settings.path.display();
        let phase = match e.kind() {
            Kind::Unavailable | Kind::Internal => Phase::Failing,
            Kind::Fenced => Phase::Fenced,
            Kind::Corrupt | Kind::Invalid => Phase::Refused,
        };
        let message = e.to_string();
        let is_known = lock(&self.told).replace(message.clone()).as_ref() == Some(&message);
        if is_known && !failures.is_multiple_of(TELL_AGAIN) {
            tracing::debug!(%path, "{}: {message}", phase.name());
        } else {
            tracing::error!(%path, "{}: {message}", phase.name());
        }
        if e.kind() == Kind::Internal {
            // Nothing in memory can be believed: begin again from what is confirmed.
            self.work().capture = None;
        }
        self.set_status(|s| {
            s.phase = phase;
            s.message = Some(message);
            s.hint = e.hint().map(str::to_owned);
        });
        Trouble::note(&self.settings.meta_dir, phase, e, self.shared.clock.unix_ms());
        match phase {
            Phase::Failing => {
                Some(Duration::from_millis(10 << failures.min(11)).min(Duration::from_secs(20)))
            }
            Phase::Refused => Some(REFUSED_PAUSE),
            _ => None,
        }
    }

    /// One look: begin where necessary, capture, and hand over to the destinations.
    async fn step(self: Arc<Self>) -> Result<Step, Error> {
        let file = std::fs::metadata(&self.settings.path).ok().filter(|m| m.is_file() && m.len() > 0);
        let Some(file) = file else {
            let mut work = self.work();
            if work.capture.take().is_some() {
                tracing::warn!(path = %self.settings.path.display(), "the database is gone; waiting for it to come back");
            }
            drop(work);
            self.waiting.store(true, SeqCst);
            self.phase(Phase::Waiting);
            return Ok(Step::Absent);
        };
        self.waiting.store(false, SeqCst);
        if !self.is_attached(&file) {
            // What was captured of the former file goes first: page checksums know only what is confirmed. Once one
            // destination has it, the others copy it from there.
            if !self.destinations().iter().any(|d| !d.lags && d.queue.is_empty()) {
                self.ship();
                return Ok(Step::MustDrain);
            }
            let _permit = self.shared.starting.acquire().await;
            start::begin(&self).await?;
            self.ship();
        }
        if self.work().local.is_none() {
            start::open_local(&self).await?;
        }
        // Set before the put, which a folder that hangs may never end: that must not keep the WAL from being captured.
        let found = Arc::new(Mutex::new(None));
        let (this, tell) = (self.clone(), found.clone());
        let mut look_and_ship = self.shared.runtime.spawn_blocking(move || {
            let step = this.look();
            let is_captured = matches!(step, Ok(Step::Captured { .. }));
            // What failed may have come after a capture.
            let is_queued = is_captured || step.is_err();
            *lock(&tell) = Some(step);
            if is_captured {
                this.ship_here();
            }
            if is_queued {
                this.ship();
            }
        });
        loop {
            let ended = tokio::time::timeout(PUT_PATIENCE, &mut look_and_ship).await;
            if let Some(step) = lock(&found).take() {
                return step;
            }
            if let Ok(Err(e)) = ended {
                return Err(self.panicked(&e));
            }
        }
    }

    fn is_attached(&self, file: &std::fs::Metadata) -> bool {
        let mut work = self.work();
        if work.capture.as_ref().is_some_and(|c| !c.files().is(file)) {
            tracing::warn!(path = %self.settings.path.display(), "the database was replaced by another file");
            work.capture = None;
        }
        work.capture.is_some()
    }

    /// The blocking part of a step.
    pub(super) fn look(self: &Arc<Self>) -> Result<Step, Error> {
        thread_local! {
            // Grows to a few MiB on the threads that see large transactions; there are only a few threads.
            static FRAMES: std::cell::RefCell<Frames> = std::cell::RefCell::default();
        }
        FRAMES.with_borrow_mut(|frames| {
            let mut work = self.work();
            let step = self.capture(&mut work, frames).and_then(|step| match step {
                Step::MustDrain => Ok(step),
                _ => self.tend(&mut work, frames).map(|()| step),
            });
            self.let_checkpoints(&mut work, !matches!(step, Ok(Step::Captured { hot: true, .. })))?;
            let step = step?;
            if let Some(c) = &work.capture {
                let (bytes, last) = (c.wal_bytes(), work.last);
                self.set_status(|s| {
                    s.wal_bytes = bytes;
                    s.captured = last;
                });
                let phase = lock(&self.status).phase;
                if matches!(phase, Phase::Failing | Phase::Refused) && !self.fenced.load(SeqCst) {
                    self.phase(Phase::Following);
                }
            }
            Ok(step)
        })
    }

    /// Lets the application checkpoint, or keeps it from that until the next look, and if there is none, for a moment.
    fn let_checkpoints(self: &Arc<Self>, work: &mut Work, happen: bool) -> Result<(), Error> {
        let Some(capture) = &mut work.capture else { return Ok(()) };
        capture.let_checkpoints(happen)?;
        if !happen {
            work.hot_at = Some(Instant::now());
            let this = self.clone();
            self.shared.runtime.spawn(async move {
                loop {
                    tokio::time::sleep(HOT_TIME).await;
                    let mut work = match this.work.try_lock() {
                        Ok(work) => work,
                        Err(TryLockError::Poisoned(e)) => e.into_inner(),
                        Err(TryLockError::WouldBlock) => continue,
                    };
                    if work.hot_at.is_some_and(|t| t.elapsed() >= HOT_TIME) {
                        let _ = this.let_checkpoints(&mut work, true);
                    }
                    return;
                }
            });
        }
        Ok(())
    }

    fn next_stamp(&self, work: &Work) -> Stamp {
        let local = work.local.as_ref().expect("set when the capture was");
        Stamp {
            txid: work.last.map_or(Txid::FIRST, Txid::next),
            writer: local.writer,
            timestamp_ms: self.next_time(),
        }
    }

    /// Now, but never earlier than the last file of the log. Rounded up, so that a restore to an instant never holds a
    /// commit that came after it.
    pub(super) fn next_time(&self) -> i64 {
        let newest = self.destinations().iter().filter_map(|d| d.newest_time()).max();
        (self.shared.clock.unix_ms() + 1).max(newest.unwrap_or(i64::MIN))
    }

    fn capture(self: &Arc<Self>, work: &mut Work, frames: &mut Frames) -> Result<Step, Error> {
        if work.capture.is_none() {
            return Ok(Step::Absent);
        }
        let stamp = self.next_stamp(work);
        let local = work.local.clone().expect("set when the capture was");
        let Work { capture: Some(capture), must_put, .. } = work else { return Ok(Step::Absent) };
        let drained = local.state().is_some_and(|s| Some(s.txid) == stamp.txid.prev());
        if self.is_over_limit() {
            capture.let_go()?;
            return Ok(Step::MustDrain);
        }
        let look = capture.look(frames)?;
        // After the look: everything that it found was committed before.
        let now = || Stamp { timestamp_ms: self.next_time(), ..stamp };
        let segment = match look {
            Look::Frames(end) => Some(capture.segment(frames, end, now(), &local.spool)?),
            // Page checksums know the log only up to what is confirmed.
            Look::Broken(_) if !drained => return Ok(Step::MustDrain),
            Look::Broken(why) => {
                tracing::warn!(path = %self.settings.path.display(), "{why}; comparing page checksums");
                self.set_status(|s| s.breaks += 1);
                capture.difference(&local.sums, now, &local.spool)?
            }
            Look::Nothing => None,
        };
        let segment = match segment {
            None if *must_put => capture.restate(&[Pgno::FIRST], now(), &local.spool)?,
            other => other,
        };
        match segment {
            Some(segment) => {
                *must_put = false;
                let (active, hot) = (segment.commits > 0, segment.commits > FEW_COMMITS);
                let more_coming = capture.has_frames_beyond();
                // Whatever becomes of the rest: the capture has moved on.
                self.enqueue(work, segment)?;
                Ok(Step::Captured { active, hot, more_coming: more_coming? })
            }
            None => Ok(Step::Quiet { more_coming: *must_put || capture.has_frames_beyond()? }),
        }
    }

    /// Checkpoints and resets, so that the WAL stays small.
    fn tend(self: &Arc<Self>, work: &mut Work, frames: &mut Frames) -> Result<(), Error> {
        let Some(capture) = &mut work.capture else { return Ok(()) };
        if capture.is_reset_prepared() {
            return Ok(());
        }
        let bytes = capture.wal_bytes();
        let rested = work.last_reset.is_none_or(|t| t.elapsed() >= RESET_PAUSE);
        let may_try = work.retry_reset.is_none_or(|t| Instant::now() >= t);
        // A fast writer adds as much again while the reset is prepared.
        if may_try && (bytes >= self.settings.wal_limit / 4 || (bytes >= RESET_BYTES && rested)) {
            return self.reset(work, frames);
        }
        if capture.bytes_pinned() >= PINNED_BYTES {
            capture.checkpoint()?;
        }
        Ok(())
    }

    fn reset(self: &Arc<Self>, work: &mut Work, frames: &mut Frames) -> Result<(), Error> {
        for _ in 0..2 {
            let Some(capture) = &mut work.capture else { return Ok(()) };
            capture.shrink()?;
            if matches!(self.capture(work, frames)?, Step::MustDrain) {
                return Ok(());
            }
        }
        let stamp = self.next_stamp(work);
        let local = work.local.clone().expect("set when the capture was");
        let Some(capture) = &mut work.capture else { return Ok(()) };
        let limit = self.settings.wal_limit;
        let is_far_beyond = capture.wal_bytes() > MANY_TIMES * limit;
        let patience = if is_far_beyond { LAST_PATIENCE } else { PATIENCE };
        let mut captured = None;
        let outcome = capture.reset(
            frames,
            &local.spool,
            patience,
            || Stamp { timestamp_ms: self.next_time(), ..stamp },
            |segment| captured = Some(segment),
        );
        // Also when what came after it failed: the capture has moved on.
        if let Some(segment) = captured {
            self.enqueue(work, segment)?;
        }
        let outcome = outcome?;
        if outcome == Reset::Done {
            (work.last_reset, work.retry_reset, work.reset_failures) = (Some(Instant::now()), None, 0);
            self.set_status(|s| s.resets += 1);
            return Ok(());
        }
        let pause = RESET_RETRY * (1 << work.reset_failures.min(16));
        work.retry_reset = Some(Instant::now() + pause.min(LONGEST_RESET_RETRY));
        work.reset_failures += 1;
        let path = self.settings.path.display();
        match outcome {
            Reset::ReaderInTheWay(Some(reader)) if work.reset_failures == TELL_OF_READER => {
                let who = reader.pid.map_or("a process".to_owned(), |pid| format!("process {pid}"));
                tracing::warn!(%path, "the WAL cannot be reset and grows: {who} has a read transaction open and does not end it");
            }
            other => tracing::debug!(%path, "the WAL was not reset: {other:?}"),
        }
        Ok(())
    }

    pub(crate) fn local(&self) -> Result<Arc<Local>, Error> {
        let local = self.work().local.clone();
        local.ok_or_else(|| Error::new(Kind::Internal, "the local state is not open"))
    }

    /// Lets go of connections; `false` when something came up.
    async fn rest(self: Arc<Self>) -> bool {
        let this = self.clone();
        let rested = self.run_blocking(move || {
            let mut work = this.work();
            let Some(capture) = &mut work.capture else { return Ok(true) };
            capture.rest()?;
            let mut none = Frames::default();
            let quiet = matches!(capture.look(&mut none)?, Look::Nothing);
            if quiet
                && this.destinations().iter().all(|d| d.queue.is_empty() && !d.shipping)
                && let Some(local) = work.local.take()
            {
                local.sync_sums()?;
            }
            Ok(quiet)
        });
        match rested.await {
            Ok(quiet) => quiet,
            Err(e) => {
                tracing::debug!(path = %self.settings.path.display(), "could not go to rest: {e}");
                true
            }
        }
    }

    /// Waits until everything committed before the call is confirmed everywhere; what is committed meanwhile may wait, so
    /// that this ends under any load. `false`: a person has to decide first, so that waiting is of no use.
    pub(crate) async fn sync(self: &Arc<Self>) -> bool {
        self.wake();
        let mut goal = None;
        loop {
            let notified = self.progress.notified();
            if goal.is_none() {
                goal = self.capture_present().await;
            }
            let is_there = |goal| self.destinations().iter().all(|d| !d.lags && d.durable >= goal);
            if goal.is_some_and(is_there) {
                return true;
            }
            if matches!(lock(&self.status).phase, Phase::Fenced | Phase::Refused) {
                return false;
            }
            let _ = tokio::time::timeout(Duration::from_millis(100), notified).await;
        }
    }

    /// Captures what is committed now, whatever the upload interval. Returns the last transaction that has something of
    /// it (`None` in it: there is no database); `None` when that is not possible yet.
    pub(super) async fn capture_present(self: &Arc<Self>) -> Option<Option<Txid>> {
        if lock(&self.status).phase == Phase::Waiting {
            return Some(None);
        }
        let this = self.clone();
        let captured = self.run_blocking(move || {
            {
                let mut work = this.work();
                let (last, rests) = (work.last, work.local.is_none());
                let Some(capture) = work.capture.as_mut().filter(|_| last.is_some()) else { return Ok(None) };
                if rests {
                    let nothing_new = matches!(capture.look(&mut Frames::default())?, Look::Nothing);
                    return Ok(nothing_new.then_some(last));
                }
            }
            Ok(match this.look()? {
                Step::Captured { .. } | Step::Quiet { .. } => Some(this.work().last),
                Step::Absent | Step::MustDrain => None,
            })
        });
        let captured = captured.await.unwrap_or(None);
        self.ship();
        if captured.is_none() {
            self.wake();
        }
        captured
    }

    /// Lets go of everything. Page checksums are synced, so that the next start can believe them.
    pub(crate) async fn close(self: Arc<Self>) {
        let this = self.clone();
        let closed = self.run_blocking(move || {
            let mut work = this.work();
            work.capture = None;
            let Some(local) = work.local.take() else { return Ok(()) };
            let waiting: Vec<_> =
                this.destinations().iter().filter(|d| !d.lags).flat_map(|d| d.queue.clone()).collect();
            for segment in waiting {
                if let Body::Memory(bytes) = &segment.body {
                    local.spool.add(segment.name(), bytes)?;
                }
            }
            local.sync_sums()
        });
        if let Err(e) = closed.await {
            tracing::debug!("could not sync local state: {e}");
        }
        self.phase(Phase::Stopped);
        self.bell.notify_one();
    }
}

/// Locks although a panic may have happened under the lock: whatever it left behind is dropped by
/// [`Database::failed`], and the database begins again from what the store has confirmed.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Local {
    /// Another replicator has taken over the log, and this database may have what the log does not: remembered until
    /// they agree again, or a person has decided.
    pub(crate) fn note_overtaken(&self, is_so: bool) -> Result<(), Error> {
        let note = self.meta.file(OVERTAKEN);
        match if is_so { std::fs::write(&note, "") } else { std::fs::remove_file(&note) } {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::file("write", &note)(e)),
            _ => Ok(()),
        }
    }

    pub(crate) fn was_overtaken(&self) -> bool {
        self.meta.file(OVERTAKEN).exists()
    }

    pub(crate) fn state(&self) -> Option<State> {
        lock(&self.state).1
    }

    /// Makes the page checksums durable and notes up to where they are.
    pub(crate) fn sync_sums(&self) -> Result<(), Error> {
        let mut guard = lock(&self.state);
        let (file, state) = &mut *guard;
        if let Some(state) = state.as_mut().filter(|s| s.synced != Some(s.txid)) {
            self.sums.sync()?;
            state.synced = Some(state.txid);
            file.save(state)?;
            file.sync()?;
        }
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use litekeep_env::file::sibling;
    use litekeep_env::watch::Watcher;
    use litekeep_env::{Clock, SystemClock};
    use litekeep_store::plan::Policy;
    use litekeep_store::{Store, Target};
    use rusqlite::Connection;
    use tokio::sync::Semaphore;

    /// Whoever reads the time commits; where the write lock keeps it from that, it takes the WAL's frames away.
    struct Saboteur(Mutex<Option<Connection>>);

    impl Clock for Saboteur {
        fn unix_ms(&self) -> i64 {
            if let Some(app) = &*lock(&self.0)
                && app.execute("INSERT INTO t VALUES(1)", []).is_err()
            {
                let wal = sibling(Path::new(app.path().unwrap()), "-wal");
                std::fs::File::options().write(true).open(wal).unwrap().set_len(32).unwrap();
            }
            0
        }

        fn boottime(&self) -> Duration {
            Duration::ZERO
        }
    }

    /// `app.db` in a folder, with a bucket beside it.
    pub(in super::super) fn database(dir: &Path, clock: Arc<dyn Clock>, policy: Policy) -> Arc<Database> {
        let shared = Arc::new(Shared {
            clock,
            runtime: tokio::runtime::Handle::current(),
            stopping: AtomicBool::new(false),
            starting: Semaphore::new(1),
            maintaining: Semaphore::new(1),
            watcher: Watcher::new().unwrap(),
        });
        let settings = Settings {
            meta_dir: dir.join("meta"),
            stores: vec![Store::open(&Target::Folder(dir.join("bucket"))).unwrap()],
            path: dir.join("app.db"),
            upload_interval: Duration::ZERO,
            policy,
            wal_limit: 64 << 20,
            spool_limit: 1 << 30,
            new_timeline: false,
            newcomer_watch: Duration::ZERO,
        };
        Database::new(settings, shared)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_segment_of_a_reset_that_fails_is_queued() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.db");
        let app = Connection::open(&path).unwrap();
        app.execute_batch("PRAGMA journal_mode=WAL; PRAGMA busy_timeout=0; CREATE TABLE t(x)").unwrap();
        let clock = Arc::new(Saboteur(Mutex::default()));
        let db = database(dir.path(), clock.clone(), Policy::default());
        start::begin(&db).await.unwrap();
        *lock(&clock.0) = Some(app);
        let mut work = db.work();
        db.reset(&mut work, &mut Frames::default()).unwrap_err();
        let place = work.capture.as_ref().unwrap().place().unwrap();
        let captured = db.destinations()[0].queue.back().unwrap().place;
        assert_eq!(captured, Some(place), "the capture has moved on without its segment");
    }

    /// A failure that ends by itself needs no person any more.
    #[tokio::test(flavor = "multi_thread")]
    async fn what_was_refused_and_works_again_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let app = Connection::open(dir.path().join("app.db")).unwrap();
        app.execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE t(x)").unwrap();
        let db = database(dir.path(), Arc::new(SystemClock), Policy::default());
        start::begin(&db).await.unwrap();
        db.failed(&Error::new(Kind::Corrupt, "a frame is not what its checksum says"), 0);
        assert!(!db.is_following());
        db.look().unwrap();
        assert!(db.is_following());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn checkpoints_happen_again_whoever_has_the_lock_meanwhile() {
        let dir = tempfile::tempdir().unwrap();
        let app = Connection::open(dir.path().join("app.db")).unwrap();
        app.execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE t(x)").unwrap();
        let db = database(dir.path(), Arc::new(SystemClock), Policy::default());
        start::begin(&db).await.unwrap();
        {
            let mut work = db.work();
            db.let_checkpoints(&mut work, false).unwrap();
            std::thread::sleep(2 * HOT_TIME);
        }
        tokio::time::sleep(3 * HOT_TIME).await;
        let is_busy: bool = app.query_row("PRAGMA wal_checkpoint", [], |r| r.get(0)).unwrap();
        assert!(!is_busy);
    }
}
