//! Decisions over a listing of the log, without any I/O.
//!
//! A file takes any state from `min - 1` up to before `max` to `max`; a file with `min` 1 needs no state (a *base*).
//! A transaction is *restorable* when a chain of files that begins with a base ends exactly there.
//!
//! Promises, held against a brute-force model by the tests:
//! - [`restore`] finds a chain whenever there is one, and never passes over a hole.
//! - Executing any part of [`compaction`] and [`retention`], in any order, with a crash anywhere in between, leaves
//!   every second of `any_second` and every hour of `keep` restorable, and every level-0 file of `any_transaction`, by
//!   itself or by a pack.

mod between;
mod compaction;
mod restore;
mod retention;
mod single;
mod time;

#[cfg(test)]
mod tests;

use std::time::Duration;

use litekeep_ltx::Txid;

pub use between::{between, steps};
pub use compaction::{GRACE_MS, HOUR_MS, Merge, WINDOW_MS, compaction, snapshot, snapshot_due, untimed};
pub use restore::{Goal, restore};
pub use retention::retention;
pub use single::{Step, expired_packs, steps_to};
pub use time::at_time;

use crate::log::FileRef;

/// How long the log keeps what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// How far back every single commit can be told apart; zero: no packs are kept.
    pub any_transaction: Duration,
    /// How far back every second can be restored.
    pub any_second: Duration,
    /// How far back every hour can be restored.
    pub keep: Duration,
    /// How often a snapshot is made while there is something new.
    pub snapshot_every: Duration,
}

impl Default for Policy {
    fn default() -> Policy {
        let day = Duration::from_secs(24 * 3600);
        Policy { any_transaction: day, any_second: day, keep: day * 30, snapshot_every: day }
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// The restorable transactions, ascending.
fn restorable<'a>(files: impl IntoIterator<Item = &'a FileRef>) -> Vec<Txid> {
    let mut files: Vec<&FileRef> = files.into_iter().collect();
    files.sort_by_key(|f| f.max());
    let mut points: Vec<Txid> = Vec::new();
    for file in files {
        // Only points before the file's end count; they all are in the list, since files come by their end.
        let before = points.last().filter(|p| **p < file.max()).or_else(|| points.iter().rev().nth(1));
        let reached = file.is_base() || before.is_some_and(|p| p.next() >= file.min());
        if reached && points.last() != Some(&file.max()) {
            points.push(file.max());
        }
    }
    points
}

/// Finds the file of one level that includes another file's transactions.
struct Cover<'a> {
    /// By first transaction; each with the file that reaches furthest up to here.
    files: Vec<(Txid, &'a FileRef)>,
}

impl<'a> Cover<'a> {
    fn new(level: &'a [FileRef]) -> Cover<'a> {
        let mut files: Vec<(Txid, &FileRef)> = level.iter().map(|f| (f.min(), f)).collect();
        files.sort_by_key(|(min, f)| (*min, f.max()));
        for i in 1..files.len() {
            if files[i - 1].1.max() > files[i].1.max() {
                files[i].1 = files[i - 1].1;
            }
        }
        Cover { files }
    }

    fn of(&self, file: &FileRef) -> Option<&'a FileRef> {
        let after = self.files.partition_point(|(min, _)| *min <= file.min());
        let widest = self.files[..after].last()?.1;
        widest.contains(file).then_some(widest)
    }
}
