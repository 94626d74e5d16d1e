//! Which files to merge.
//!
//! | level | one file per | made of |
//! | --- | --- | --- |
//! | 0 | capture | |
//! | 1 | second, in windows with clearly more captures than seconds | level 0 |
//! | 2 | window of five minutes | levels 1 and 0 |
//! | 3 | hour | level 2 |
//! | 9 | snapshot | the database, or all before it |
//!
//! Only windows that ended a while ago are merged. Bases are never merged into another level, so that the whole
//! database is not copied from level to level. Files that arrive late get a merge of their own.

use litekeep_ltx::{FileName, Txid};

use super::{Cover, Goal, Policy, millis, restore};
use crate::error::Result;
use crate::log::{FileRef, Log, SNAPSHOT_LEVEL, Times};

/// A window of level 2, milliseconds.
pub const WINDOW_MS: i64 = 5 * 60 * 1000;
/// A window of level 3, milliseconds.
pub const HOUR_MS: i64 = 60 * 60 * 1000;
/// How long after its end a window is merged, milliseconds.
pub const GRACE_MS: i64 = 5 * 60 * 1000;

const SECOND_MS: i64 = 1000;

/// One merge to make. Its inputs stay until [`super::retention`] lets them go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merge {
    /// Where the output goes.
    pub level: u8,
    /// Consecutive files, in order.
    pub inputs: Vec<FileRef>,
    /// The output's transactions.
    pub name: FileName,
}

impl Merge {
    fn new(level: u8, inputs: Vec<FileRef>) -> Option<Merge> {
        let name = FileName { min: inputs.first()?.min(), max: inputs.last()?.max() };
        Some(Merge { level, inputs, name })
    }
}

/// Files whose timestamps [`compaction`] goes by: learn them (`Store::learn_times`) before, since a modification time
/// would put what was uploaded after an outage into one second.
pub fn untimed(log: &Log) -> Vec<FileRef> {
    let mut files = pieces(log);
    files.extend(windows(log));
    files
}

/// The merges that are due at `now_ms` (milliseconds since the epoch). After executing them, plan again: merges of a
/// higher level may then be due.
pub fn compaction(log: &Log, times: &Times, now_ms: i64, policy: &Policy) -> Vec<Merge> {
    let mut merges = Vec::new();
    let mut pending_from = None;
    for (window, group) in runs(pieces(log), times, WINDOW_MS) {
        if !finished(window, WINDOW_MS, now_ms) {
            pending_from = pending_from.or(Some(window * WINDOW_MS));
            break;
        }
        pending_from = pending_from.or(Some(window * WINDOW_MS));
        let seconds =
            if millis(policy.any_second) > WINDOW_MS { by_second(&group, times) } else { Vec::new() };
        if seconds.is_empty() {
            merges.extend(Merge::new(2, group));
        } else {
            merges.extend(seconds);
        }
    }
    for (hour, group) in runs(windows(log), times, HOUR_MS) {
        let waits = pending_from.is_some_and(|from| from < (hour + 1) * HOUR_MS);
        if waits || !finished(hour, HOUR_MS, now_ms) {
            break;
        }
        merges.extend(Merge::new(3, group));
    }
    merges
}

/// Whether a new snapshot should be made: there is none, or the newest is old and something followed it.
pub fn snapshot_due(log: &Log, times: &Times, now_ms: i64, policy: &Policy) -> bool {
    match log.files().filter(|f| f.is_base()).max_by_key(|f| f.max()) {
        None => true,
        Some(base) => {
            log.last() > Some(base.max())
                && now_ms.saturating_sub(times.of(base)) >= millis(policy.snapshot_every)
        }
    }
}

/// A snapshot of the latest transaction from the log itself, without the database. `None` when the newest file is one
/// already, or when files overlap, as another program may have left them.
///
/// # Errors
/// Those of [`restore`].
pub fn snapshot(log: &Log) -> Result<Option<Merge>> {
    let chain = restore(log, Goal::Latest)?;
    let consecutive = chain.windows(2).all(|pair| pair[0].max().next() == pair[1].min());
    Ok(if consecutive && chain.len() > 1 { Merge::new(SNAPSHOT_LEVEL, chain) } else { None })
}

/// Files of levels 1 and 0 that no higher level includes yet.
fn pieces(log: &Log) -> Vec<FileRef> {
    let covers: Vec<Cover<'_>> = (2..SNAPSHOT_LEVEL).map(|level| Cover::new(log.level(level))).collect();
    let seconds = Cover::new(log.level(1));
    let open = |f: &&FileRef| !f.is_base() && covers.iter().all(|cover| cover.of(f).is_none());
    let merged = log.level(1).iter().filter(open);
    let single = log.level(0).iter().filter(open).filter(|f| seconds.of(f).is_none());
    merged.chain(single).cloned().collect()
}

/// Files of level 2 that no higher level includes yet.
fn windows(log: &Log) -> Vec<FileRef> {
    let covers: Vec<Cover<'_>> = (3..SNAPSHOT_LEVEL).map(|level| Cover::new(log.level(level))).collect();
    let open = |f: &&FileRef| !f.is_base() && covers.iter().all(|cover| cover.of(f).is_none());
    log.level(2).iter().filter(open).cloned().collect()
}

/// Splits files into runs that are consecutive and of one window, in order; each with the number of its window.
fn runs(mut files: Vec<FileRef>, times: &Times, window_ms: i64) -> Vec<(i64, Vec<FileRef>)> {
    files.sort_by_key(|f| (f.min(), f.max()));
    let mut runs: Vec<(i64, Vec<FileRef>)> = Vec::new();
    let mut last: Option<Txid> = None;
    let mut latest = i64::MIN;
    for file in files {
        // Times ascend with transactions; where a foreign writer's clock stepped back, they are held.
        latest = latest.max(times.of(&file));
        let window = latest.div_euclid(window_ms);
        let continues = last.map(Txid::next) == Some(file.min());
        last = last.max(Some(file.max()));
        match runs.last_mut() {
            Some((of, run)) if continues && *of == window => run.push(file),
            _ => runs.push((window, vec![file])),
        }
    }
    runs
}

/// Merges of level 0 into seconds, when that saves clearly many files.
fn by_second(group: &[FileRef], times: &Times) -> Vec<Merge> {
    let seconds = runs(group.to_vec(), times, SECOND_MS);
    if group.len() * 2 <= seconds.len() * 3 {
        return Vec::new();
    }
    let mut merges = Vec::new();
    for (_, second) in seconds {
        for captures in second.split(|f| f.level != 0).filter(|captures| captures.len() > 1) {
            merges.extend(Merge::new(1, captures.to_vec()));
        }
    }
    merges
}

fn finished(window: i64, window_ms: i64, now_ms: i64) -> bool {
    (window + 1) * window_ms + GRACE_MS <= now_ms
}
