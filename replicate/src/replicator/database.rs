//! One database: from the event that wakes it to the confirmation of the store.

use super::arrival::Arrival;
use super::destination::{Destination, Standing};
use super::look::Step;
use super::recent::Recent;
use super::status::{DestinationStatus, Phase, Status};
use super::stranded::stranded;
use super::{Settings, Shared, shipping, start};
use crate::capture::{Body, Capture, Frames, Look};
use crate::local::{MetaDir, Packs, PageSums, Places, Spool, State, StateFile, Trouble};
use crate::{Error, Kind};
use litekeep_ltx::{Txid, WriterId};
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
/// A start that takes longer lets others start beside it: it copies much, or its folder hangs.
const START_PATIENCE: Duration = Duration::from_secs(2);
/// How often the queue is looked at that has to drain.
const DRAIN_TICK: Duration = Duration::from_millis(200);
/// When only a person can help, the situation is looked at again after this, doubling ...
const REFUSED_PAUSE: Duration = Duration::from_secs(1);
/// ... up to this: a database that is just being made has something in common with nothing, a moment later it may.
const LONGEST_REFUSED_PAUSE: Duration = Duration::from_secs(60);
/// A failure that stays the same is told again after so many tries, about every five minutes.
const TELL_AGAIN: u32 = 16;
/// An awake database without anything to do goes to rest after this.
const LINGER: Duration = Duration::from_secs(3);
/// A capture that takes this long is followed by a pause of so many times as long, ...
const CAPTURE_SHARE: u32 = 6;
/// ... but of no more than this.
const MOST_SPREAD: Duration = Duration::from_millis(60);
/// While no destination answers, captures are so far apart at least: what is spooled is one file each.
const OUTAGE_PAUSE: Duration = Duration::from_secs(1);
/// While an upload is not due yet, a WAL that grows by this much is captured all the same.
const EARLY_BYTES: u64 = 16 << 20;
/// How often that is looked at.
const GROWTH_TICK: Duration = Duration::from_millis(20);

/// The folder of the local state for single commits. A pack takes so long at most, or so many uploads: its put is to cost
/// little beside theirs.
pub const PACKS: &str = "packs";
const PACK_TIME: Duration = Duration::from_secs(60);
const PACK_UPLOADS: u32 = 10;

/// A file of the local state that is there while another replicator owns the log.
const OVERTAKEN: &str = "overtaken";

/// State beside the database.
pub(crate) struct Local {
    pub(crate) meta: MetaDir,
    pub(crate) writer: WriterId,
    pub(crate) sums: PageSums,
    pub(crate) spool: Spool,
    pub(crate) state: Mutex<(StateFile, Option<State>)>,
    pub(crate) places: Mutex<Places>,
}

/// What capturing needs; locked while a blocking thread works on it.
#[derive(Default)]
pub(crate) struct Work {
    pub(crate) local: Option<Arc<Local>>,
    pub(crate) capture: Option<Capture>,
    /// Where single commits are kept.
    pub(super) packs: Packs,
    /// The last transaction that was given a number.
    pub(crate) last: Option<Txid>,
    /// The next look must put something, so that the log has a level-0 file of ours.
    pub(crate) must_put: bool,
    /// A snapshot of what has been captured is being made: meanwhile nothing is captured, and nothing begins again.
    pub(super) is_cut: bool,
    /// How often everything was to begin again.
    pub(super) begun_again: u64,
    pub(crate) last_reset: Option<Instant>,
    /// At which size of the WAL the next one begins, once there was one.
    pub(super) reset_at: Option<u64>,
    /// Resets that did not come about since the last one that did, and when the next one may be tried.
    pub(super) reset_failures: u32,
    pub(super) retry_reset: Option<Instant>,
    /// When the last look found a hot writer, for whose sake checkpoints are kept from happening.
    pub(super) hot_at: Option<Instant>,
    pub(crate) sums_synced: Option<Instant>,
    /// More waits than may: nothing is captured.
    pub(super) is_over_limit: bool,
    /// Page 1 does not say whether the file is an older copy: the pages that differ may.
    pub(super) may_be_older: bool,
}

impl Work {
    /// The next step begins again.
    fn forget_capture(&mut self) {
        self.capture = None;
        self.begun_again += 1;
    }
}

pub(crate) struct Database {
    pub(crate) settings: Settings,
    pub(crate) shared: Arc<Shared>,
    pub(crate) work: Arc<Mutex<Work>>,
    pub(crate) destinations: Mutex<Vec<Destination>>,
    /// What destinations have got last.
    pub(super) recent: Arc<Recent>,
    pub(super) status: Mutex<Status>,
    /// The failure that was told last, until all is well.
    pub(super) told: Mutex<Option<String>>,
    /// Something happened since the last look.
    dirty: AtomicBool,
    /// A task is at work.
    pub(super) awake: AtomicBool,
    /// Another writer owns the log. Final: whoever was overtaken must not take over again by itself.
    pub(super) fenced: AtomicBool,
    /// The file is not there: events of the file itself matter then.
    waiting: AtomicBool,
    /// Maintenance is under way.
    pub(super) maintained: AtomicBool,
    bell: Notify,
    /// Rings when it is fenced.
    pub(super) fence: Notify,
    /// A destination confirmed something, or the task went to rest.
    pub(super) progress: Notify,
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
            recent: Arc::default(),
            status: Mutex::new(status),
            told: Mutex::default(),
            dirty: AtomicBool::new(false),
            awake: AtomicBool::new(false),
            fenced: AtomicBool::new(false),
            waiting: AtomicBool::new(true),
            maintained: AtomicBool::new(false),
            bell: Notify::new(),
            fence: Notify::new(),
            progress: Notify::new(),
        })
    }

    pub(crate) fn destinations(&self) -> MutexGuard<'_, Vec<Destination>> {
        lock(&self.destinations)
    }

    pub(crate) fn work(&self) -> MutexGuard<'_, Work> {
        lock(&self.work)
    }

    /// `None`: somebody works on it.
    pub(super) fn try_work(&self) -> Option<MutexGuard<'_, Work>> {
        match self.work.try_lock() {
            Err(TryLockError::WouldBlock) => None,
            Err(TryLockError::Poisoned(e)) => Some(e.into_inner()),
            Ok(work) => Some(work),
        }
    }

    pub(super) fn set_status(&self, change: impl FnOnce(&mut Status)) {
        change(&mut lock(&self.status));
    }

    pub(crate) fn phase(&self, phase: Phase) {
        if self.fenced.load(SeqCst) && phase != Phase::Stopped {
            return;
        }
        let had_failed = {
            let mut status = lock(&self.status);
            status.phase = phase;
            // Another try is no success: until then it is known why the last one failed.
            if phase == Phase::Starting {
                return;
            }
            status.hint = None;
            status.message.take().is_some()
        };
        if phase == Phase::Following {
            *lock(&self.told) = None;
        }
        if phase == Phase::Following || had_failed && self.may_note() {
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
        let is_nowhere = |txid| Some(txid) > status.durable;
        let nowhere =
            |d: &Destination| d.queue.iter().find(|s| is_nowhere(s.txid())).map(|s| s.header.timestamp_ms);
        let oldest = destinations.iter().filter_map(nowhere).min();
        let behind = |d: &Destination| d.queue.iter().filter(|s| is_nowhere(s.txid())).map(|s| s.size).sum();
        // One that lags has let its queue go.
        status.behind_since_ms = oldest;
        status.behind_bytes = destinations.iter().map(behind).max().unwrap_or(0);
        status.destinations = destinations
            .iter()
            .map(|d| DestinationStatus {
                place: d.store.place(),
                identity: d.store.identity(),
                durable: d.durable,
                is_listed: d.standing != Standing::Unlisted,
                waiting: d.queue.len(),
                error: d.error.clone(),
                is_up: !d.lags && d.error.is_none() && d.answers(),
                unfenced: d.unfenced,
            })
            .collect();
        status
    }

    /// The same with what local state knows to have been confirmed at one of the destinations, if none of them could be asked.
    pub(super) fn last_status(&self) -> Status {
        let mut status = self.status();
        if status.durable.is_none() {
            let known = StateFile::peek(&self.settings.meta_dir.join("state"));
            let places = Places::read(&self.settings.meta_dir);
            let is_here = self.destinations().iter().any(|d| places.is_current(&d.store.identity()));
            status.durable = known.filter(|_| is_here).map(|known| known.txid);
        }
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
        let (mut failures, mut failing_since) = (0u32, None);
        let mut active = false;
        let (mut beyond, mut looks_beyond) = (Duration::ZERO, 0u32);
        let mut captured_at: Option<(Instant, Duration)> = None;
        let mut is_muted = false;
        loop {
            if let Some((begun, took)) = captured_at.take() {
                self.wait_until_due(begun, took).await;
            }
            if self.fenced.load(SeqCst) || self.shared.stopping.load(SeqCst) {
                break;
            }
            let begun = Instant::now();
            self.dirty.store(false, SeqCst);
            let stepped = self.clone().step().await;
            let is_hot = matches!(stepped, Ok(Step::Captured { hot: true, .. }));
            let was_muted = std::mem::replace(&mut is_muted, is_hot && self.mute(true));
            // What was written since the look has told nobody.
            let is_unheard = was_muted && !is_muted && {
                self.mute(false);
                true
            };
            if stepped.is_ok() {
                failing_since = None;
            }
            let linger = match stepped {
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
                    let since = *failing_since.get_or_insert(begun);
                    let arrival = Arrival::of(&self, &e, since);
                    let silence = arrival.and_then(Arrival::silence);
                    let wait = silence.or_else(|| self.failed(&e, failures));
                    failures += 1;
                    match wait {
                        Some(wait) => {
                            match arrival {
                                Some(arrival) => arrival.wait(&self, &e, wait).await,
                                None => self.pause(wait).await,
                            }
                            continue;
                        }
                        None => break,
                    }
                }
            };
            if is_muted || is_unheard {
                continue;
            }
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

    /// Whether its folder tells of no writes now, for a hot writer is looked at again and again anyway.
    fn mute(&self, is_muted: bool) -> bool {
        self.settings.path.parent().is_some_and(|dir| self.shared.watcher.mute(dir, is_muted))
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
        let Some(work) = self.try_work() else { return false };
        work.capture.as_ref().is_some_and(|c| c.bytes_ahead() >= EARLY_BYTES)
    }

    /// Puts a capture to work. When another writer has taken over the log meanwhile, the WAL is let go instead.
    pub(super) fn take_up(&self, work: &mut Work, capture: Capture) -> Result<(), Error> {
        self.may_go_on()?;
        work.capture = Some(capture);
        Ok(())
    }

    /// Goes on with the packs of a log that ends at `last`; of another writer's, and of one that goes on without what was
    /// before, begins anew.
    pub(super) fn take_up_packs(&self, work: &mut Work, local: &Local, last: Option<Txid>) {
        let is_on = self.settings.policy.any_transaction > Duration::ZERO;
        let longest = PACK_TIME.max(self.settings.upload_interval * PACK_UPLOADS);
        let mut packs = Packs::open(&local.meta.file(PACKS), local.writer, longest);
        packs.resume(last.filter(|_| is_on));
        work.packs = if is_on { packs } else { Packs::default() };
    }

    /// For whatever takes long: an error as soon as it is of no use.
    pub(super) fn may_go_on(&self) -> Result<(), Error> {
        if self.fenced.load(SeqCst) {
            return Err(Error::new(Kind::Fenced, "another replicator owns the log"));
        }
        if self.shared.stopping.load(SeqCst) {
            return Err(Error::new(Kind::Unavailable, "litekeep stops"));
        }
        Ok(())
    }

    /// Lists the logs and brings everything in step with them, as at a start.
    pub(super) fn begin_again(self: &Arc<Self>) {
        self.work().forget_capture();
        self.wake();
    }

    /// Runs something that blocks where it may.
    pub(crate) async fn run_blocking<T: Send + 'static>(
        &self,
        f: impl FnOnce() -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let _permit = self.shared.working.acquire().await;
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
        // Whatever ends because of a fence says less than the fence, and at the end it is no failure.
        if self.may_go_on().is_err() { None } else { self.note_failure(e, failures) }
    }

    pub(super) fn note_failure(&self, e: &Error, failures: u32) -> Option<Duration> {
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
            self.work().forget_capture();
        }
        self.set_status(|s| {
            s.phase = phase;
            s.message = Some(message);
            s.hint = e.hint().map(str::to_owned);
        });
        if self.may_note() {
            Trouble::note(&self.settings.meta_dir, phase, e, self.shared.clock.unix_ms());
        }
        match phase {
            Phase::Failing => {
                Some(Duration::from_millis(10 << failures.min(11)).min(Duration::from_secs(20)))
            }
            Phase::Refused => Some((REFUSED_PAUSE * (1 << failures.min(6))).min(LONGEST_REFUSED_PAUSE)),
            _ => None,
        }
    }

    /// Whether the notes in the folder of the local state are this process's to write: another one that replicates the database
    /// has its own troubles.
    fn may_note(&self) -> bool {
        // Whoever works on it has it.
        let has = self.try_work().is_none_or(|work| work.local.is_some() || work.capture.is_some());
        has || MetaDir::claimed_by(&self.settings.meta_dir, &self.settings.path).is_none()
    }

    /// One look: begin where necessary, capture, and hand over to the destinations.
    pub(super) async fn step(self: Arc<Self>) -> Result<Step, Error> {
        let file = std::fs::metadata(&self.settings.path).ok().filter(|m| m.is_file() && m.len() > 0);
        let is_former = |c: &Capture| file.as_ref().is_none_or(|file| !c.files().is(file));
        let (is_cut, is_former) = {
            let work = self.work();
            (work.is_cut, work.capture.as_ref().is_some_and(is_former))
        };
        if is_cut {
            return Ok(Step::MustDrain);
        }
        if is_former {
            self.part_from_former(file.is_some()).await;
        }
        if file.is_none() {
            self.waiting.store(true, SeqCst);
            self.tell_of_absence().await;
            return Ok(Step::Absent);
        }
        self.waiting.store(false, SeqCst);
        let (is_cut, is_none) = {
            let work = self.work();
            (work.is_cut, work.capture.is_none())
        };
        if is_none && !is_cut {
            // What was captured of the former file goes first: page checksums know only what is confirmed. Once one
            // destination has it, the others copy it from there.
            if !self.destinations().iter().any(|d| !d.lags && d.queue.is_empty()) {
                self.ship();
                return Ok(Step::MustDrain);
            }
            self.let_go_of_moved_local();
            self.begin().await?;
            self.ship();
        }
        if self.work().local.is_none() {
            start::open_local(&self).await?;
        }
        // Set before the put, which a folder that hangs may never end: that must not keep the WAL from being captured.
        let found = Arc::new(Mutex::new(None));
        let (this, tell) = (self.clone(), found.clone());
        // Until the look is done, and not until the put is.
        let _permit = self.shared.working.acquire().await;
        let mut look_and_ship = self.shared.runtime.spawn_blocking(move || {
            let step = this.look();
            let is_captured = matches!(step, Ok(Step::Captured { .. }));
            *lock(&tell) = Some(step);
            if is_captured {
                this.ship_here();
            }
            // Whatever it told of: a reset captures, too, and what failed may have come after a capture.
            this.ship();
        });
        loop {
            let ended = tokio::time::timeout(PUT_PATIENCE, &mut look_and_ship).await;
            if let Some(step) = lock(&found).take() {
                if ended.is_err() {
                    // The other destinations do not wait for this put either.
                    self.ship();
                }
                return step;
            }
            if let Ok(Err(e)) = ended {
                return Err(self.panicked(&e));
            }
        }
    }

    async fn begin(self: &Arc<Self>) -> Result<(), Error> {
        let permit = self.shared.starting.acquire().await;
        let mut begun = std::pin::pin!(start::begin(self));
        match tokio::time::timeout(START_PATIENCE, &mut begun).await {
            Ok(begun) => begun,
            Err(_) => {
                drop(permit);
                begun.await
            }
        }
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
            work.packs.rest();
            let confirmed = work.local.as_ref().and_then(|local| local.state());
            let drained = confirmed.is_some_and(|state| Some(state.txid) == work.last);
            let Some(capture) = &mut work.capture else { return Ok(true) };
            capture.rest()?;
            let mut none = Frames::default();
            let quiet = matches!(capture.look(&mut none)?, Look::Nothing);
            if quiet && drained {
                capture.tell_in_log(true)?;
            }
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
            let phase = lock(&self.status).phase;
            // What an earlier replicator left is put by a restore.
            let is_stranded = phase == Phase::Gone
                && goal.is_some()
                && self.destinations().iter().all(|d| d.queue.is_empty());
            if matches!(phase, Phase::Fenced | Phase::Refused) || is_stranded {
                return false;
            }
            let _ = tokio::time::timeout(Duration::from_millis(100), notified).await;
        }
    }

    /// Captures what is committed now, whatever the upload interval. Returns the last transaction that has something of
    /// it (`None` in it: there is nothing); `None` when that is not possible yet.
    pub(super) async fn capture_present(self: &Arc<Self>) -> Option<Option<Txid>> {
        if matches!(lock(&self.status).phase, Phase::Waiting | Phase::Gone) {
            let waits = stranded(&self.settings.meta_dir).map(|stranded| stranded.last);
            return Some(self.work().last.max(waits));
        }
        let this = self.clone();
        let captured = self.run_blocking(move || {
            let mut work = this.work();
            let (last, rests) = (work.last, work.local.is_none());
            let Some(capture) = work.capture.as_mut().filter(|_| last.is_some()) else { return Ok(None) };
            if rests {
                let nothing_new = matches!(capture.look(&mut Frames::default())?, Look::Nothing);
                return Ok(nothing_new.then_some(last));
            }
            Ok(match this.look_with(&mut work)? {
                Step::Captured { .. } | Step::Quiet { .. } => Some(work.last),
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

    /// Where what is committed now is, or will be; captures nothing, for each capture is an upload.
    pub(crate) async fn position(self: &Arc<Self>) -> Option<Txid> {
        let this = self.clone();
        let found = self.run_blocking(move || {
            let mut work = this.work();
            let (last, must_put) = (work.last, work.must_put);
            let Some(capture) = work.capture.as_mut().filter(|c| c.is_position_known()) else {
                return Ok(None);
            };
            let (salt, frames) = capture.wal_end()?;
            let is_captured = match capture.place() {
                Some(place) => (place.salt, place.frames) == (salt, frames),
                None => frames == 0,
            };
            // A capture takes everything that is there, so the next one has it.
            Ok(last.map(|last| if is_captured && !must_put { last } else { last.next() }))
        });
        found.await.unwrap_or(None)
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
pub(super) mod tests;
