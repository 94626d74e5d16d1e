//! A file that was never taken up and is no whole database: somebody may still be copying it to where it is.

use super::database::Database;
use crate::{Error, Kind};
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

/// Whoever copies writes again before so long.
const QUIET_MS: i128 = 2000;
/// What was written to that recently is looked at again after this, ...
const PAUSE: Duration = Duration::from_millis(250);
/// ... and what is wrong with it is told after so many looks.
const LOOKS: u32 = 40;

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
        Some(Arrival { changed_ns, is_recent: changed_ns.is_some_and(|ns| quiet_ms(ns) < QUIET_MS) })
    }

    /// When to look again without a word.
    pub(super) fn pause(self, looks: u32) -> Option<Duration> {
        (self.is_recent && looks < LOOKS).then_some(PAUSE)
    }

    /// Whether more of the file has come.
    pub(super) fn goes_on(self, db: &Database) -> bool {
        changed_ns(db) != self.changed_ns
    }
}

/// The time that nobody can set: a copy may get that of its original.
fn changed_ns(db: &Database) -> Option<i128> {
    let metadata = std::fs::metadata(&db.settings.path).ok()?;
    Some(i128::from(metadata.ctime()) * 1_000_000_000 + i128::from(metadata.ctime_nsec()))
}
