//! One look at a database: what was committed since the last one becomes a segment, and the WAL is kept small. It blocks.

use super::database::{Database, Work, lock};
use super::status::Phase;
use crate::capture::{Broken, Capture, Frames, Hold, Look, Reset, Stamp};
use crate::{Error, Kind};
use litekeep_ltx::{Pgno, Txid};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

/// More commits in one capture than this are those of a hot writer.
pub(super) const FEW_COMMITS: u32 = 16;
/// Frames that checkpoints may not copy yet are worth a move of the hold beyond this many bytes.
const PINNED_BYTES: u64 = 4 << 20;
/// A WAL of this size is reset when the last reset is long ago; a larger one at a quarter of the limit at most, at once.
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
/// A hot writer that has not been looked at for so long may checkpoint by itself.
const HOT_TIME: Duration = Duration::from_millis(200);

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
    /// The blocking part of a step.
    pub(super) fn look(self: &Arc<Self>) -> Result<Step, Error> {
        self.look_with(&mut self.work())
    }

    /// The same for whoever has found something under the lock that must still hold.
    pub(super) fn look_with(self: &Arc<Self>, work: &mut Work) -> Result<Step, Error> {
        thread_local! {
            // A place of 16 bytes or so for each frame of the largest look; there are only a few threads.
            static FRAMES: std::cell::RefCell<Frames> = std::cell::RefCell::default();
        }
        FRAMES.with_borrow_mut(|frames| {
            let step = self.capture(work, frames).and_then(|step| match step {
                Step::MustDrain => Ok(step),
                _ => self.tend(work, frames).map(|()| step),
            });
            self.let_checkpoints(work, !matches!(step, Ok(Step::Captured { hot: true, .. })))?;
            let step = step?;
            if let Some(c) = &work.capture {
                let (bytes, last) = (c.wal_bytes(), work.last);
                self.set_status(|s| {
                    s.wal_bytes = bytes;
                    s.captured = last;
                });
                let phase = lock(&self.status).phase;
                let is_capturing = !matches!(step, Step::MustDrain);
                if is_capturing
                    && matches!(phase, Phase::Failing | Phase::Refused)
                    && !self.fenced.load(SeqCst)
                {
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
                    let Some(mut work) = this.try_work() else { continue };
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

    fn tell_of_limit(&self) {
        let message = format!(
            "as much waits as may wait on this disk (`spool_limit` is {} bytes, and the disk must stay usable); what is committed from here on stays in the database only until a destination answers",
            self.settings.spool_limit
        );
        let hint =
            "make the destination reachable; the seconds until then will not be points in time of their own";
        self.note_failure(&Error::with_hint(Kind::Unavailable, message, hint), 0);
    }

    /// Captures what a file that has its name no more still has to give, by the descriptors that are open.
    pub(super) fn last_look(self: &Arc<Self>) -> Result<(), Error> {
        let mut work = self.work();
        let Some(local) = work.local.clone() else { return Ok(()) };
        let stamp = Stamp { timestamp_ms: self.next_time(), ..self.next_stamp(&work) };
        let Work { capture: Some(capture), packs, .. } = &mut *work else { return Ok(()) };
        // Without a hold, another file's might be taken.
        if !capture.is_position_known() || capture.files().hold() == Hold::Nothing {
            return Ok(());
        }
        let mut frames = Frames::default();
        if let Look::Frames(end) = capture.look(&mut frames)? {
            let segment = capture.segment(&frames, end, stamp, (&local.spool, packs))?;
            self.enqueue(&mut work, segment)?;
        }
        Ok(())
    }

    pub(super) fn capture(self: &Arc<Self>, work: &mut Work, frames: &mut Frames) -> Result<Step, Error> {
        if work.is_cut {
            return Ok(Step::MustDrain);
        }
        if work.capture.is_none() {
            return Ok(Step::Absent);
        }
        let stamp = self.next_stamp(work);
        let local = work.local.clone().expect("set when the capture was");
        let Work { capture: Some(capture), must_put, packs, may_be_older, is_over_limit, .. } = work else {
            return Ok(Step::Absent);
        };
        let drained = local.state().is_some_and(|s| Some(s.txid) == stamp.txid.prev());
        let was_over_limit = std::mem::replace(is_over_limit, self.is_over_limit());
        if *is_over_limit {
            capture.let_go()?;
            if !was_over_limit {
                self.tell_of_limit();
            }
            return Ok(Step::MustDrain);
        }
        let is_start = !capture.is_position_known();
        let may_be_older = std::mem::take(may_be_older) && is_start;
        let look = capture.look(frames)?;
        // Nothing leads on from an empty WAL, whether or not anything was written since.
        let is_break = !(is_start && matches!(look, Look::Broken(Broken::NoPlace | Broken::Gone)));
        // After the look: everything that it found was committed before.
        let now = || Stamp { timestamp_ms: self.next_time(), ..stamp };
        let captured = match look {
            Look::Nothing => Ok(None),
            Look::Broken(why) => Err(why.to_string()),
            Look::Frames(end) => match capture.segment(frames, end, now(), (&local.spool, packs)) {
                Err(e) if e.kind() == Kind::Corrupt => Err(e.to_string()),
                segment => Ok(Some(segment?)),
            },
        };
        let segment = match captured {
            Ok(segment) => segment,
            // Page checksums know the log only up to what is confirmed.
            Err(_) if !drained => return Ok(Step::MustDrain),
            Err(why) => {
                capture.tell_in_log(false)?;
                let path = self.settings.path.display();
                match is_start {
                    true => tracing::info!(%path, "{why}; comparing page checksums"),
                    false => tracing::warn!(%path, "{why}; comparing page checksums"),
                }
                self.set_status(|s| s.breaks += u64::from(is_break));
                let differing =
                    capture.difference(&local.sums, now, (&local.spool, packs), || self.may_go_on())?;
                if let Some(differing) = differing.as_ref().filter(|_| may_be_older) {
                    self.compare_with_past(&differing.sums);
                }
                differing
            }
        };
        let segment = match segment {
            None if *must_put => capture.restate(&[Pgno::FIRST], now(), (&local.spool, packs))?,
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
            None => {
                capture.tell_in_log(drained)?;
                if drained {
                    // A comparison has found the end of the log in the WAL, and no confirmation will tell of it.
                    local.note_place(capture.place())?;
                }
                Ok(Step::Quiet { more_coming: *must_put || capture.has_frames_beyond()? })
            }
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
        let reset_at = work.reset_at.unwrap_or(self.settings.wal_limit / 4);
        if may_try && (bytes >= reset_at || (bytes >= RESET_BYTES && rested)) {
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
        let Work { capture: Some(capture), packs, .. } = &mut *work else { return Ok(()) };
        let limit = self.settings.wal_limit;
        let is_far_beyond = capture.wal_bytes() > MANY_TIMES * limit;
        let patience = if is_far_beyond { LAST_PATIENCE } else { PATIENCE };
        let mut captured = None;
        let outcome = capture.reset(
            frames,
            (&local.spool, packs),
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
            let reached = work.capture.as_ref().map_or(0, Capture::wal_bytes);
            work.reset_at = Some(reset_at(work.reset_at.unwrap_or(limit / 4), reached, limit));
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
}

/// At which size the next reset begins. A fast writer adds several times as much while one is prepared, and how much depends on the
/// disk, too: the last one began at `last`, and the WAL had `reached` another size when it ended.
fn reset_at(last: u64, reached: u64, limit: u64) -> u64 {
    let (most, least) = (limit / 4, RESET_BYTES.min(limit / 4));
    match reached {
        _ if reached > limit / 4 * 3 => (last / 2).max(least),
        _ if reached < limit / 2 => (last + last / 4).min(most),
        _ => last,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replicator::{
        database::tests::{begun, database, pages_of, rested},
        start,
    };
    use crate::restore::{Goal, Options, to_path};
    use litekeep_env::Clock;
    use litekeep_env::file::sibling;
    use litekeep_store::plan::Policy;
    use rusqlite::Connection;
    use std::os::unix::fs::FileExt;
    use std::path::Path;
    use std::sync::Mutex;

    /// Writers that add this many times the size at which a reset begins, and as much besides.
    #[test]
    fn a_reset_begins_early_enough_for_the_limit() {
        let (limit, mib) = (64 << 20, 1 << 20);
        for (times, besides) in [(1, 0), (4, 0), (6, 10), (3, 30), (0, 45)] {
            let (mut at, mut reached) = (limit / 4, vec![]);
            for _ in 0..40 {
                reached.push(at * times + besides * mib);
                at = reset_at(at, at * times + besides * mib, limit);
                assert!((RESET_BYTES..=limit / 4).contains(&at));
            }
            assert!(reached[10..].iter().all(|&bytes| bytes < limit), "{times}, {besides}: {reached:?}");
        }
        let calm = (0..40).fold(RESET_BYTES, |at, _| reset_at(at, at * 2, limit));
        assert_eq!(calm, limit / 4, "and no sooner than that wants");
    }

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

    /// Whoever reads the time ends litekeep.
    struct Ending(Mutex<Option<Arc<Database>>>);

    impl Clock for Ending {
        fn unix_ms(&self) -> i64 {
            if let Some(db) = &*lock(&self.0) {
                db.shared.stopping.store(true, SeqCst);
            }
            0
        }

        fn boottime(&self) -> Duration {
            Duration::ZERO
        }
    }

    /// That of a large database takes minutes.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_shutdown_does_not_wait_for_the_end_of_a_comparison() {
        let dir = tempfile::tempdir().unwrap();
        let app = Connection::open(dir.path().join("app.db")).unwrap();
        app.execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE t(x)").unwrap();
        let clock = Arc::new(Ending(Mutex::default()));
        let db = database(dir.path(), clock.clone(), Policy::default());
        start::begin(&db).await.unwrap();
        assert!(db.sync().await);
        rested(&db).await;
        app.execute("INSERT INTO t VALUES(1)", []).unwrap();
        db.work().capture.as_mut().unwrap().forget_position(Broken::Unknown);
        *lock(&clock.0) = Some(db.clone());
        let ended = db.look().err().map(|e| (e.kind(), e.to_string()));
        *lock(&clock.0) = None;
        assert_eq!(ended, Some((Kind::Unavailable, "litekeep stops".to_owned())));
        assert_eq!(db.status().breaks, 1);
        assert!(db.destinations()[0].queue.is_empty());
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
        let (_dir, _app, db) = begun(Policy::default()).await;
        db.failed(&Error::new(Kind::Corrupt, "a frame is not what its checksum says"), 0);
        assert!(!db.is_following());
        db.look().unwrap();
        assert!(db.is_following());
    }

    /// The backup goes on with what SQLite shows, and nobody has to do anything.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_damaged_frame_does_not_end_the_backup() {
        let (dir, app, db) = begun(Policy::default()).await;
        app.execute_batch("PRAGMA wal_autocheckpoint=0; INSERT INTO t VALUES(zeroblob(1000000))").unwrap();
        let wal = sibling(&dir.path().join("app.db"), "-wal");
        let wal = std::fs::File::options().write(true).open(wal).unwrap();
        let end = wal.metadata().unwrap().len();
        wal.write_all_at(b"damaged", end - 2000).unwrap();
        assert!(matches!(db.look().unwrap(), Step::Captured { .. }));
        assert_eq!(db.status().breaks, 1);
        app.execute("INSERT INTO t VALUES(1)", []).unwrap();
        assert!(db.sync().await && db.is_following());
        let to = dir.path().join("restored.db");
        let (store, options) = (db.settings.stores[0].clone(), Options::default());
        to_path(&store, Goal::Latest, &to, &options, &()).await.unwrap();
        // By connections of their own: the writer may have the page in its cache.
        assert!(pages_of(&to) == pages_of(&dir.path().join("app.db")));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn checkpoints_happen_again_whoever_has_the_lock_meanwhile() {
        let (_dir, app, db) = begun(Policy::default()).await;
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
