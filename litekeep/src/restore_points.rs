//! What a listing of the log says can be restored.
//!
//! A *point* is the last transaction of a file that a chain of files leads to. A *gap* is a range of transactions that is
//! missing before files which nothing leads to: what lies after it can be restored only from the next base on.

use std::collections::BTreeMap;

use litekeep_ltx::Txid;
use litekeep_store::{FileRef, Log, Times};

/// The files' summary.
#[derive(Debug, Default)]
pub(crate) struct Points {
    /// Each restorable transaction with its time, milliseconds since the epoch.
    times: BTreeMap<Txid, i64>,
    gaps: Vec<Gap>,
    any_second_since_ms: Option<i64>,
}

/// Transactions that are in no file but a later base, before files that need them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gap {
    pub(crate) first: Txid,
    pub(crate) last: Txid,
    /// The last point before it.
    pub(crate) before: Option<Txid>,
    /// The first point after it.
    pub(crate) after: Option<Txid>,
}

impl Points {
    pub(crate) fn of(log: &Log, times: &Times) -> Points {
        let mut files: Vec<&FileRef> = log.files().collect();
        files.sort_by_key(|file| file.max());
        let mut points = BTreeMap::new();
        for file in &files {
            let before = file.min().prev().unwrap_or(Txid::FIRST)..file.max();
            let reached = file.is_base()
                || points.contains_key(&file.max())
                || !before.is_empty() && points.range(before).next().is_some();
            if reached {
                let time = times.of(file);
                // A snapshot may be stamped later than its last transaction.
                points.entry(file.max()).and_modify(|t: &mut i64| *t = time.min(*t)).or_insert(time);
            }
        }
        let gaps = gaps(&files, &points);
        let any_second_since_ms = any_second_since(log, &points);
        Points { times: points, gaps, any_second_since_ms }
    }

    /// Whether a restore to this transaction is possible.
    pub(crate) fn contains(&self, txid: Txid) -> bool {
        self.times.contains_key(&txid)
    }

    /// All of them with their times, the earliest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Txid, i64)> {
        self.times.iter().map(|(txid, time)| (*txid, *time))
    }

    /// The time of a point.
    pub(crate) fn time_of(&self, txid: Txid) -> Option<i64> {
        self.times.get(&txid).copied()
    }

    /// The earliest point and its time.
    pub(crate) fn first(&self) -> Option<(Txid, i64)> {
        self.times.first_key_value().map(|(txid, time)| (*txid, *time))
    }

    /// The latest point and its time.
    pub(crate) fn last(&self) -> Option<(Txid, i64)> {
        self.times.last_key_value().map(|(txid, time)| (*txid, *time))
    }

    /// When the first and the last point after a transaction were, milliseconds since the epoch.
    pub(crate) fn times_after(&self, txid: Option<Txid>) -> Option<(i64, i64)> {
        let after = self.times.iter().filter(|(own, _)| txid.is_none_or(|txid| **own > txid));
        let times = after.map(|(_, time)| *time);
        times.clone().min().zip(times.max())
    }

    /// The last point at or before an instant.
    pub(crate) fn at(&self, time_ms: i64) -> Option<Txid> {
        self.times.iter().rev().find(|(_, time)| **time <= time_ms).map(|(txid, _)| *txid)
    }

    pub(crate) fn gaps(&self) -> &[Gap] {
        &self.gaps
    }

    /// Since when every upload, or every second's last upload, is still a point of its own.
    pub(crate) fn any_second_since_ms(&self) -> Option<i64> {
        self.any_second_since_ms
    }
}

fn gaps(files: &[&FileRef], points: &BTreeMap<Txid, i64>) -> Vec<Gap> {
    let mut by_min: Vec<_> = files.iter().filter(|file| !file.is_base()).collect();
    by_min.sort_by_key(|file| file.min());
    let mut gaps = Vec::new();
    let mut next = Txid::FIRST;
    for file in by_min {
        let before = points.range(..file.min()).next_back().map(|(txid, _)| txid.next());
        next = next.max(before.unwrap_or(Txid::FIRST));
        if file.min() > next
            && !points.contains_key(&file.max())
            && let Some(last) = file.min().prev()
        {
            let gap = Gap {
                first: next,
                last,
                before: points.range(..next).next_back().map(|(txid, _)| *txid),
                after: points.range(last..).next().map(|(txid, _)| *txid),
            };
            // With nothing before it, and a base after it, it is only what is left of a deletion.
            gaps.extend((gap.before.is_some() || gap.after.is_none()).then_some(gap));
        }
        next = next.max(file.max().next());
    }
    gaps
}

/// Follows the levels that merge nothing beyond a second back from the last point.
fn any_second_since(log: &Log, points: &BTreeMap<Txid, i64>) -> Option<i64> {
    let mut dense: Vec<&FileRef> = log.level(0).iter().chain(log.level(1)).collect();
    dense.sort_by_key(|file| (file.max(), file.min()));
    let (&last, _) = points.last_key_value()?;
    let mut since = last;
    let mut reach = last.next();
    for file in dense.into_iter().rev() {
        if file.max().next() < reach {
            break;
        }
        if points.contains_key(&file.max()) {
            since = since.min(file.max());
            reach = reach.min(file.min());
        }
    }
    points.get(&since).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use litekeep_ltx::FileName;
    use litekeep_store::plan::{self, Goal};
    use proptest::prelude::*;

    fn txid(n: u64) -> Txid {
        Txid::new(n).unwrap()
    }

    fn log(files: &[(u8, u64, u64)]) -> Log {
        Log::new(files.iter().map(|&(level, min, max)| FileRef {
            level,
            name: FileName { min: txid(min), max: txid(max) },
            size: 1,
            modified_ms: max.cast_signed() * 1000,
        }))
    }

    fn points(files: &[(u8, u64, u64)]) -> Points {
        Points::of(&log(files), &Times::default())
    }

    #[test]
    fn a_gap_ends_at_the_next_base() {
        let points = points(&[(0, 1, 1), (0, 2, 2), (0, 5, 5), (0, 6, 6)]);
        let gap = Gap { first: txid(3), last: txid(4), before: Some(txid(2)), after: None };
        assert_eq!(points.gaps(), [gap]);
        assert_eq!(points.last(), Some((txid(2), 2000)));
        assert!(!points.contains(txid(6)));
    }

    /// A later base ends a gap, and does not hide it; where nothing needs what is not there, there is none.
    #[test]
    fn a_base_brings_nothing_back_that_lies_before_it() {
        let points = points(&[(0, 1, 1), (0, 2, 2), (0, 4, 4), (0, 6, 6), (9, 1, 7), (0, 8, 8), (9, 1, 20)]);
        let gap = |n, after| Gap { first: txid(n), last: txid(n), before: Some(txid(2)), after };
        assert_eq!(points.gaps(), [gap(3, Some(txid(7))), gap(5, Some(txid(7)))]);
    }

    #[test]
    fn merging_is_no_gap_but_ends_the_seconds() {
        let points = points(&[(9, 1, 1), (2, 2, 40), (1, 41, 43), (0, 44, 44), (0, 45, 45)]);
        assert!(points.gaps().is_empty());
        assert_eq!(points.any_second_since_ms(), Some(43_000));
        assert_eq!((points.at(44_999), points.at(999)), (Some(txid(44)), None));
    }

    #[test]
    fn an_empty_log_has_nothing() {
        let points = points(&[]);
        assert!(points.first().is_none() && points.any_second_since_ms().is_none());
    }

    proptest! {
        /// A transaction is a point exactly when the store can plan a restore to it.
        #[test]
        fn points_are_what_can_be_planned(
            files in proptest::collection::vec((0_u8..4, 1_u64..12, 0_u64..6), 0..14)
        ) {
            let files: Vec<_> = files.into_iter().map(|(level, min, len)| (level, min, min + len)).collect();
            let log = log(&files);
            let points = Points::of(&log, &Times::default());
            for n in 1..=20 {
                let planned = plan::restore(&log, Goal::Txid(txid(n))).is_ok();
                prop_assert_eq!(points.contains(txid(n)), planned, "{}", n);
            }
            for gap in points.gaps() {
                let holds = |file: &FileRef| file.max() >= gap.first && file.min() <= gap.last;
                prop_assert!(!log.files().any(|file| !file.is_base() && holds(file)));
                prop_assert!(points.iter().all(|(txid, _)| txid < gap.first || txid > gap.last));
            }
            let is_lost = |file: &FileRef| !points.contains(file.max());
            prop_assert!(points.gaps().is_empty() || log.files().any(is_lost));
        }
    }
}
