//! Which files and packs lead to a single commit, or to a transaction that compaction has merged with others.

use litekeep_ltx::{Point, Txid};

use super::Policy;
use crate::error::{Error, Result};
use crate::log::{FileRef, Log, Times};
use crate::packs::PackRef;

/// A step from one state to a later one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// All of a file of the log.
    File(FileRef),
    /// The commits of a pack up to the end of the step.
    Pack(PackRef),
}

impl Step {
    /// Bytes that are read.
    pub fn size(&self) -> u64 {
        match self {
            Step::File(file) => file.size,
            Step::Pack(pack) => pack.size,
        }
    }

    /// The transaction that it leads to on the way to another one.
    pub fn end(&self, goal: Txid) -> Txid {
        match self {
            Step::File(file) => file.max(),
            Step::Pack(pack) => pack.name.max.min(goal),
        }
    }
}

/// The steps that lead from the state after a transaction, or without one from a base, to another state; few and large
/// ones. The last step to a state within a transaction is a pack.
///
/// # Errors
/// [`Error::Empty`], [`Error::BeyondEnd`], [`Error::Hole`] when nothing leads there.
pub fn steps_to(log: &Log, packs: &[PackRef], from: Option<Txid>, to: Point) -> Result<Vec<Step>> {
    let last = log.last().ok_or(Error::Empty)?;
    let goal = to.txid;
    if goal > last {
        return Err(Error::BeyondEnd { wanted: goal, last });
    }
    // Files go whole transactions only.
    let limit = to.whole();
    let hole = |reached: Option<Txid>| {
        let first_missing = reached.map_or(Txid::FIRST, Txid::next);
        Error::Hole { wanted: goal, first_missing, last_missing: first_missing.max(goal), nearest: reached }
    };
    let mut files: Vec<&FileRef> = log.files().filter(|f| Some(f.max()) <= limit).collect();
    let mut steps = vec![];
    let mut reached = match from {
        Some(from) => from,
        None => {
            let base = files.iter().filter(|f| f.is_base()).max_by_key(|f| (f.max(), f.level));
            let base = base.ok_or_else(|| hole(None))?;
            steps.push(Step::File((*base).clone()));
            base.max()
        }
    };
    files.retain(|f| !f.is_base());
    while reached < goal {
        let follows = |min: Txid, max: Txid| min <= reached.next() && max > reached;
        let file = files.iter().filter(|f| follows(f.min(), f.max()));
        let file = file.max_by_key(|f| (f.max(), f.min(), f.level)).map(|f| Step::File((*f).clone()));
        let pack = packs.iter().filter(|p| follows(p.name.min, p.name.max));
        // Of those that reach equally far one that stays: what is on this machine grows and goes.
        let pack = pack.max_by_key(|p| (p.name.max.min(goal), p.path.is_none(), p.name.min));
        let pack = pack.map(|p| Step::Pack(p.clone()));
        let step = match (file, pack) {
            (Some(file), Some(pack)) => Some(if pack.end(goal) > file.end(goal) { pack } else { file }),
            (file, pack) => file.or(pack),
        };
        let step = step.ok_or_else(|| hole(Some(reached)))?;
        reached = step.end(goal);
        steps.push(step);
    }
    Ok(steps)
}

/// The packs that no instant within `any_transaction` needs at `now_ms`.
pub fn expired_packs(
    log: &Log,
    times: &Times,
    packs: &[PackRef],
    now_ms: i64,
    policy: &Policy,
) -> Vec<PackRef> {
    let horizon = now_ms.saturating_sub(super::millis(policy.any_transaction));
    let mut ends: Vec<(Txid, i64)> = log.files().map(|f| (f.max(), times.of(f))).collect();
    ends.sort_unstable();
    let is_over = |pack: &&PackRef| {
        let after = &ends[ends.partition_point(|(txid, _)| *txid < pack.name.max)..];
        after.first().is_some_and(|(_, time)| *time <= horizon)
    };
    packs.iter().filter(is_over).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use litekeep_ltx::FileName;
    use std::time::Duration;

    fn txid(n: u64) -> Txid {
        Txid::new(n).unwrap()
    }

    fn file(level: u8, min: u64, max: u64) -> FileRef {
        let name = FileName { min: txid(min), max: txid(max) };
        FileRef { level, name, size: 1, modified_ms: max as i64 * 1000 }
    }

    fn pack(min: u64, max: u64) -> PackRef {
        PackRef { name: FileName { min: txid(min), max: txid(max) }, size: 1, path: None }
    }

    fn after(n: u64) -> Point {
        txid(n).into()
    }

    fn within(n: u64) -> Point {
        Point { txid: txid(n), seq: Some(1) }
    }

    /// `f` or `p`, first and last.
    fn shown(steps: Result<Vec<Step>>) -> Vec<String> {
        let show = |step: Step| match step {
            Step::File(f) => format!("f{}-{}", f.min().get(), f.max().get()),
            Step::Pack(p) => format!("p{}-{}", p.name.min.get(), p.name.max.get()),
        };
        steps.unwrap().into_iter().map(show).collect()
    }

    #[test]
    fn packs_lead_where_files_do_not() {
        // 13 was made by comparing pages, so that no pack has it.
        let log = Log::new([file(9, 1, 4), file(2, 5, 9), file(2, 10, 20), file(0, 13, 13), file(0, 21, 21)]);
        let packs = [pack(3, 7), pack(8, 12), pack(14, 20)];
        let to = |end| shown(steps_to(&log, &packs, None, end));
        assert_eq!(to(after(9)), ["f1-4", "f5-9"]);
        assert_eq!(to(after(6)), ["f1-4", "p3-7"]);
        assert_eq!(to(within(9)), ["f1-4", "p3-7", "p8-12"]);
        assert_eq!(to(within(16)), ["f1-4", "f5-9", "p8-12", "f13-13", "p14-20"]);
        assert_eq!(to(after(21)), ["f1-4", "f5-9", "f10-20", "f21-21"]);
        assert_eq!(shown(steps_to(&log, &packs, Some(txid(11)), after(20))), ["f10-20"]);
        assert_eq!(shown(steps_to(&log, &packs, Some(txid(11)), within(12))), ["p8-12"]);
    }

    #[test]
    fn a_commit_of_no_pack_is_told() {
        let log = Log::new([file(9, 1, 4), file(0, 5, 5), file(0, 6, 6)]);
        let to = |end| steps_to(&log, &[pack(6, 6)], None, end);
        assert!(matches!(to(within(5)).unwrap_err(), Error::Hole { nearest: Some(n), .. } if n == txid(4)));
        assert!(matches!(to(after(7)).unwrap_err(), Error::BeyondEnd { .. }));
        to(within(6)).unwrap();
    }

    #[test]
    fn packs_go_when_they_are_old() {
        let log = Log::new([file(9, 1, 4), file(2, 5, 9), file(0, 10, 10)]);
        let policy = Policy { any_transaction: Duration::from_secs(10), ..Policy::default() };
        let packs = [pack(1, 4), pack(5, 8), pack(10, 10)];
        let gone = |now_ms| expired_packs(&log, &Times::default(), &packs, now_ms, &policy).len();
        assert_eq!([gone(13_000), gone(14_000), gone(18_999), gone(19_000), gone(20_000)], [0, 1, 1, 2, 3]);
    }
}
