//! The reset of a WAL that has grown: nothing is lost, and the writer is blocked for milliseconds only.
//!
//! 1. Twice: capture, move the hold, copy frames into the database file, sync that file. A partial checkpoint never
//!    syncs the database, so without this the last one would pay for all while the writer waits.
//! 2. Take the write lock. Capture what came meanwhile: now the log has everything.
//! 3. Copy the few frames that are left. When every frame is copied, hold the lock of readers that use the database file
//!    only, and give the write lock back: the next commit starts a new WAL, which can happen only once.
//!
//! A reader of an older state stands in the way twice: frames that it does not see are not copied, and while it uses the
//! WAL no commit starts it anew. Readers that begin under the write lock do neither, so it is kept for as long as the
//! caller has patience, until the others have left. When one stays, or a long write transaction is open, the WAL stays
//! as it is and the caller tries again later.

use super::{Capture, Frames, Look, Reader, Segment, Stamp};
use crate::Error;
use crate::local::{Packs, Spool};
use std::time::{Duration, Instant};

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset {
    /// The next commit starts a new WAL.
    Done,
    /// A writer had the lock all the time.
    WriterBusy,
    /// A reader of an older state did not leave.
    ReaderInTheWay(Option<Reader>),
    /// Capture found a break; the caller has to deal with it first.
    Broken,
}

/// Tries for the write lock, 50 µs apart.
const LOCK_TRIES: u32 = 2000;
/// Between two looks at readers and at another checkpoint, while the writers wait.
const LOOK_PAUSE: Duration = Duration::from_micros(200);

impl Capture {
    /// Prepares a reset: everything that the log has is copied into the database file and synced.
    pub fn shrink(&mut self) -> Result<(), Error> {
        self.checkpoint()?;
        self.files.database().sync_data().map_err(Error::file("sync", self.files.path()))
    }

    pub(super) fn lock_writers(&self) -> Result<bool, Error> {
        for _ in 0..LOCK_TRIES {
            if self.files.try_lock_writers()? {
                return Ok(true);
            }
            std::thread::sleep(Duration::from_micros(50));
        }
        Ok(false)
    }

    /// Step 2 and 3, after [`Capture::shrink`]; the writers wait for readers for at most as long as there is `patience`.
    /// A segment that was captured under the write lock is handed to `capture`, which must not wait for the network.
    pub fn reset(
        &mut self,
        frames: &mut Frames,
        keep: (&Spool, &mut Packs),
        patience: Duration,
        next: impl FnOnce() -> Stamp,
        capture: impl FnOnce(Segment),
    ) -> Result<Reset, Error> {
        if !self.lock_writers()? {
            return Ok(Reset::WriterBusy);
        }
        let result = self.reset_locked(frames, keep, patience, next, capture);
        self.files.unlock_writers()?;
        result
    }

    fn reset_locked(
        &mut self,
        frames: &mut Frames,
        keep: (&Spool, &mut Packs),
        patience: Duration,
        next: impl FnOnce() -> Stamp,
        capture: impl FnOnce(Segment),
    ) -> Result<Reset, Error> {
        match self.look(frames)? {
            Look::Nothing => {}
            Look::Frames(end) => capture(self.segment(frames, end, next(), keep)?),
            Look::Broken(_) => return Ok(Reset::Broken),
        }
        self.renew_hold()?;
        let until = Instant::now() + patience;
        loop {
            let done = self.observer()?.checkpoint_passive()?;
            if done.is_complete() && self.hold_backfilled()? {
                break;
            }
            // The application's own checkpoint may be running; nothing new can come, so it ends soon.
            if Instant::now() >= until {
                return Ok(Reset::ReaderInTheWay(self.files.reader()?));
            }
            std::thread::sleep(LOOK_PAUSE);
        }
        while let Some(reader) = self.files.reader_of_wal()? {
            if Instant::now() >= until {
                return Ok(Reset::ReaderInTheWay(Some(reader)));
            }
            std::thread::sleep(LOOK_PAUSE);
        }
        Ok(Reset::Done)
    }
}
