//! A file that was never taken up and is no whole database: somebody may still be copying it to where it is.
//!
//! It is looked at again when nothing has been written to it for a moment: of a file that is all there but for its last bytes SQLite
//! would say nothing, and what is copied without it is in no WAL.

use super::database::Database;
use crate::{Error, Kind};
use std::os::unix::fs::MetadataExt as _;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

/// Whoever copies writes again before so long.
const QUIET: Duration = Duration::from_secs(2);
/// So long nothing is written to a file that may be whole.
const PAUSE: Duration = Duration::from_millis(250);
const TICK: Duration = Duration::from_millis(50);
/// A copy that takes longer is told.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Clone, Copy)]
pub(super) struct Arrival {
    /// When the file was last written to, nanoseconds since the epoch.
    changed_ns: Option<i128>,
    is_recent: bool,
}

impl Arrival {
    /// What an error has to do with one.
    pub(super) fn of(db: &Database, e: &Error) -> Option<Arrival> {
        if e.kind() != Kind::Corrupt || db.work().last.is_some() {
            return None;
        }
        let changed_ns = changed_ns(db);
        let quiet_ms = |ns: i128| i128::from(db.shared.clock.unix_ms()) - ns / 1_000_000;
        let is_recent = changed_ns.is_some_and(|ns| quiet_ms(ns) < QUIET.as_millis() as i128);
        Some(Arrival { changed_ns, is_recent })
    }

    /// How long to wait before the next look without a word.
    pub(super) fn silence(self) -> Option<Duration> {
        self.is_recent.then_some(PAUSE)
    }

    /// Waits until more of it has come and no more comes, or so long when nothing comes.
    pub(super) async fn wait(self, db: &Database, e: &Error, at_most: Duration) {
        let (begun, mut seen) = (Instant::now(), self.changed_ns);
        let (mut written_at, mut is_told) = (None, !self.is_recent);
        while !db.shared.stopping.load(SeqCst) {
            tokio::time::sleep(TICK).await;
            let now = changed_ns(db);
            if now != seen {
                (seen, written_at) = (now, Some(Instant::now()));
            }
            let is_over = match written_at {
                Some(written_at) => written_at.elapsed() >= PAUSE,
                None => begun.elapsed() >= at_most,
            };
            if is_over {
                return;
            }
            if !is_told && begun.elapsed() >= PATIENCE {
                db.note_failure(e, 0);
                is_told = true;
            }
        }
    }
}

/// The time that nobody can set: a copy may get that of its original.
fn changed_ns(db: &Database) -> Option<i128> {
    let metadata = std::fs::metadata(&db.settings.path).ok()?;
    Some(i128::from(metadata.ctime()) * 1_000_000_000 + i128::from(metadata.ctime_nsec()))
}
