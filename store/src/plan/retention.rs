//! Which files may go.
//!
//! Why deleting them is safe:
//! - A point is the answer to the instants from its time until that of the point after it.
//! - A file goes for one of a higher level only when that file's *last* point, which stays, is at or before the horizon
//!   of `any_second`: then the points between answer to no instant since, and a chain to any younger point leads
//!   through the higher file. Level 0 goes for level 1 at once: both end within one second.
//! - Level 0 goes for a file that ends within `any_transaction` only when a pack tells its commits apart, unless these
//!   files are too many. Its own end does not decide: later transactions of the same second are reached through it.
//! - Of the bases at or before the horizon of `keep` the newest stays; nothing that ends before it is needed by any
//!   younger point.
//!
//! Times may be later than the truth (modification times), which only delays.

use std::collections::{BTreeMap, HashSet};

use litekeep_ltx::{FileName, Txid};

use super::{Cover, Policy, millis, restorable};
use crate::log::{FileRef, Log, SNAPSHOT_LEVEL, Times};
use crate::packs::PackRef;

/// So many files stay for the sake of their single commits at most: a log that grows without bound serves nobody.
pub(super) const MOST_HELD: usize = 100_000;

/// Packs that begin before a transaction and may still have it: one after a restart may repeat what the one before has.
const MOST_OVERLAPPING: usize = 4;

/// The files that nothing within the policy's horizons needs any more at `now_ms`. The newest level-0 file always
/// stays: Litestream would begin anew without one. Should the outcome not keep what it must, nothing is deleted.
///
/// `packs`: those of the log, by first transaction.
pub fn retention(log: &Log, times: &Times, packs: &[PackRef], now_ms: i64, policy: &Policy) -> Vec<FileRef> {
    let points = Points::new(log, times);
    let any_transaction = now_ms.saturating_sub(millis(policy.any_transaction));
    let any_second = now_ms.saturating_sub(millis(policy.any_second));
    let keep = now_ms.saturating_sub(millis(policy.keep.max(policy.any_second)));

    let newest_l0 = log.newest_l0().map(|f| f.name);
    let oldest_base =
        log.files().filter(|f| f.is_base() && points.ended(f.max(), keep)).max_by_key(|f| (f.max(), f.level));
    let seconds = Cover::new(log.level(1));
    let covers: Vec<(u8, Cover<'_>)> =
        (2..SNAPSHOT_LEVEL).map(|level| (level, Cover::new(log.level(level)))).collect();

    let is_packed = |txid: Txid| {
        let before = &packs[..packs.partition_point(|pack| pack.name.min <= txid)];
        before.iter().rev().take(MOST_OVERLAPPING).any(|pack| pack.has(txid))
    };
    let superseded = |file: &FileRef| {
        if file.is_base() || file.level == SNAPSHOT_LEVEL {
            return false;
        }
        let in_second = file.level == 0 && seconds.of(file).is_some();
        in_second
            || covers.iter().any(|(level, cover)| {
                *level > file.level
                    && cover.of(file).is_some_and(|wider| points.ended(wider.max(), any_second))
            })
    };
    let is_held = |file: &FileRef| {
        let end = seconds.of(file).unwrap_or(file).max();
        file.level == 0 && !points.ended(end, any_transaction) && !is_packed(file.max())
    };
    let may_hold = log.level(0).iter().filter(|f| is_held(f) && superseded(f)).count() <= MOST_HELD;
    let before_base =
        |file: &FileRef| oldest_base.is_some_and(|base| file.max() <= base.max() && file != base);
    let gone: Vec<FileRef> = log
        .files()
        .filter(|f| !(f.level == 0 && Some(f.name) == newest_l0))
        .filter(|f| superseded(f) && !(may_hold && is_held(f)) || before_base(f))
        .cloned()
        .collect();

    match check(log, &gone, &points, any_second, keep) {
        Ok(()) => gone,
        Err(lost) => {
            tracing::error!(%lost, "retention would lose a restorable transaction; nothing is deleted");
            Vec::new()
        }
    }
}

/// The ends of files and when they were.
struct Points {
    times: BTreeMap<Txid, i64>,
}

impl Points {
    fn new(log: &Log, times: &Times) -> Points {
        let mut points = BTreeMap::new();
        for file in log.files() {
            let time = times.of(file);
            points.entry(file.max()).and_modify(|t: &mut i64| *t = time.min(*t)).or_insert(time);
        }
        Points { times: points }
    }

    /// The point is at or before the horizon.
    fn ended(&self, point: Txid, horizon_ms: i64) -> bool {
        self.times.get(&point).is_some_and(|time| *time <= horizon_ms)
    }

    /// The point after it is at or before the horizon: it answers to no instant since.
    fn expired(&self, point: Txid, horizon_ms: i64) -> bool {
        self.times.range(point.next()..).next().is_some_and(|(_, time)| *time <= horizon_ms)
    }
}

/// The module's promise, checked on the outcome by other means than those that led to it.
fn check(log: &Log, gone: &[FileRef], points: &Points, any_second: i64, keep: i64) -> Result<(), Txid> {
    if gone.is_empty() {
        return Ok(());
    }
    let gone: HashSet<(u8, FileName)> = gone.iter().map(|f| (f.level, f.name)).collect();
    let mut left = log.clone();
    left.remove_all(&log.files().filter(|f| gone.contains(&(f.level, f.name))).cloned().collect::<Vec<_>>());
    let after: HashSet<Txid> = restorable(left.files()).into_iter().collect();
    let before = restorable(log.files());
    let newest = before.last().copied();
    let seconds = Cover::new(left.level(1));
    let covers: Vec<Cover<'_>> = (2..SNAPSHOT_LEVEL).map(|level| Cover::new(left.level(level))).collect();
    for point in before {
        let probe = FileRef { level: 0, name: FileName { min: point, max: point }, size: 0, modified_ms: 0 };
        let held = |cover: &Cover<'_>| cover.of(&probe).is_some_and(|wider| after.contains(&wider.max()));
        let kept = after.contains(&point)
            || Some(point) != newest
                && (points.expired(point, keep)
                    || held(&seconds)
                    || points.expired(point, any_second) && covers.iter().any(held));
        if !kept {
            return Err(point);
        }
    }
    Ok(())
}
