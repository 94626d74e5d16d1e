//! The reset of a WAL that has grown: nothing is lost, and the writer is blocked for milliseconds only.
//!
//! 1. Twice: capture, move the hold, copy frames into the database file, sync that file. A partial checkpoint never
//!    syncs the database, so without this the last one would pay for all while the writer waits.
//! 2. Take the write lock. Capture what came meanwhile: now the log has everything.
//! 3. Copy the few frames that are left. When every frame is copied, hold the lock of readers that use the database file
//!    only, and give the write lock back: the next commit starts a new WAL, which can happen only once.
//!
//! When anything stands in the way (a reader of an old state, a long write transaction), the WAL stays as it is and the
//! caller tries again later.

use super::{Capture, Frames, Look, Segment, Stamp};
use crate::Error;
use crate::local::Spool;
use litekeep_sql::Observer;
use std::time::Duration;

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset {
    /// The next commit starts a new WAL.
    Done,
    /// A writer had the lock all the time.
    WriterBusy,
    /// A reader still needs frames that are not copied yet.
    ReaderInTheWay,
    /// Capture found a break; the caller has to deal with it first.
    Broken,
}

/// Tries for the write lock, 50 µs apart.
const LOCK_TRIES: u32 = 2000;
/// Tries for the checkpoint lock, 200 µs apart, while the writers wait.
const CHECKPOINT_TRIES: u32 = 100;

impl Capture {
    /// Prepares a reset: everything that the log has is copied into the database file and synced.
    pub fn shrink(&mut self) -> Result<(), Error> {
        self.checkpoint()?;
        self.files.database().sync_data().map_err(Error::file("sync", self.files.path()))
    }

    fn lock_writers(&mut self) -> Result<bool, Error> {
        if self.locker.is_none() {
            self.locker = Some(Observer::open(self.files.path())?);
        }
        let locker = self.locker.as_ref().expect("just opened");
        for _ in 0..LOCK_TRIES {
            if locker.try_lock_writers()? {
                return Ok(true);
            }
            std::thread::sleep(Duration::from_micros(50));
        }
        Ok(false)
    }

    /// Step 2 and 3, after [`Capture::shrink`]. A segment that was captured under the write lock is handed to `capture`,
    /// which must not wait for the network.
    pub fn reset(
        &mut self,
        frames: &mut Frames,
        spool: &Spool,
        next: impl FnOnce() -> Stamp,
        capture: impl FnOnce(Segment),
    ) -> Result<Reset, Error> {
        if !self.lock_writers()? {
            return Ok(Reset::WriterBusy);
        }
        let result = self.reset_locked(frames, spool, next, capture);
        if let Some(locker) = &self.locker {
            locker.end()?;
        }
        result
    }

    fn reset_locked(
        &mut self,
        frames: &mut Frames,
        spool: &Spool,
        next: impl FnOnce() -> Stamp,
        capture: impl FnOnce(Segment),
    ) -> Result<Reset, Error> {
        match self.look(frames)? {
            Look::Nothing => {}
            Look::Frames(end) => capture(self.segment(frames, end, next(), spool)?),
            Look::Broken(_) => return Ok(Reset::Broken),
        }
        self.renew_hold()?;
        let mut done = self.observer()?.checkpoint_passive()?;
        // The application's own checkpoint may be running; nothing new can come, so it ends soon.
        for _ in 0..CHECKPOINT_TRIES {
            if !done.busy {
                break;
            }
            std::thread::sleep(Duration::from_micros(200));
            done = self.observer()?.checkpoint_passive()?;
        }
        if !done.is_complete() || !self.hold_backfilled()? {
            return Ok(Reset::ReaderInTheWay);
        }
        Ok(Reset::Done)
    }
}
