//! Which transaction was the last at an instant.

use std::collections::BTreeMap;
use std::future::Future;

use litekeep_ltx::Txid;

use crate::error::Result;
use crate::log::{FileRef, Log};

/// The greatest transaction whose file's timestamp is at or before `at_ms` (milliseconds since the epoch); `None` when
/// the log begins later. Timestamps ascend with transactions, so this is a search; it begins where the modification
/// times point, which in a folder takes two calls of `time_of`, and elsewhere a few more.
///
/// # Errors
/// Those of `time_of`.
pub async fn at_time<F, Answer>(log: &Log, at_ms: i64, mut time_of: F) -> Result<Option<Txid>>
where
    F: FnMut(FileRef) -> Answer,
    Answer: Future<Output = Result<i64>>,
{
    // A snapshot may be stamped later than its last transaction: the lowest level knows the time best.
    let mut points: BTreeMap<Txid, &FileRef> = BTreeMap::new();
    for file in log.files() {
        points.entry(file.max()).or_insert(file);
    }
    let points: Vec<&FileRef> = points.into_values().collect();

    // All before `low` are at or before the instant, all from `high` on after it.
    let (mut low, mut high) = (0, points.len());
    let guess = points.partition_point(|file| file.modified_ms <= at_ms);
    let mut probe = guess.saturating_sub(1);
    let mut step = 1;
    let mut upwards = None;
    while low < high {
        if time_of(points[probe].clone()).await? <= at_ms {
            low = probe + 1;
            if upwards == Some(false) {
                step = 0;
            }
            upwards = upwards.or(Some(true));
        } else {
            high = probe;
            if upwards == Some(true) {
                step = 0;
            }
            upwards = upwards.or(Some(false));
        }
        if low >= high {
            break;
        }
        // Ever longer steps away from the guess until the instant lies between, then halves.
        probe = match (step, upwards) {
            (0, _) => low + (high - low) / 2,
            (_, Some(true)) => (low + step - 1).min(high - 1),
            (_, _) => high.saturating_sub(step).max(low),
        };
        step *= 2;
    }
    Ok(low.checked_sub(1).map(|i| points[i].max()))
}
