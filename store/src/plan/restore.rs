//! Which files bring a transaction back.

use litekeep_ltx::Txid;

use super::restorable;
use crate::error::{Error, Result};
use crate::log::{FileRef, Log};

/// What to restore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// The last transaction of the log.
    Latest,
    /// Exactly this transaction.
    Txid(Txid),
}

/// The files that bring the goal back, in the order in which they are applied: the newest base, then always the file
/// that reaches furthest, so that they are few and large.
///
/// # Errors
/// [`Error::Empty`], [`Error::BeyondEnd`], [`Error::Merged`] when the transaction cannot be told apart from its
/// neighbours any more, [`Error::Hole`] when transactions are missing.
pub fn restore(log: &Log, goal: Goal) -> Result<Vec<FileRef>> {
    let last = log.last().ok_or(Error::Empty)?;
    let wanted = match goal {
        Goal::Latest => last,
        Goal::Txid(txid) if txid > last => return Err(Error::BeyondEnd { wanted: txid, last }),
        Goal::Txid(txid) => txid,
    };
    let mut files: Vec<&FileRef> = log.files().filter(|f| f.max() <= wanted).collect();
    files.sort_by_key(|f| f.min());

    let base = files.iter().filter(|f| f.is_base()).max_by_key(|f| (f.max(), f.level));
    let Some(base) = base else { return Err(unreachable_goal(log, wanted, None)) };
    let mut chain = vec![(*base).clone()];
    let mut reached = base.max();
    let mut rest = files.iter().peekable();
    let mut furthest = *base;
    while reached < wanted {
        while let Some(file) = rest.next_if(|f| f.min() <= reached.next()) {
            // Of those that reach equally far the one with the fewest transactions repeats the least.
            if (file.max(), file.min(), file.level) > (furthest.max(), furthest.min(), furthest.level) {
                furthest = file;
            }
        }
        if furthest.max() <= reached {
            return Err(unreachable_goal(log, wanted, Some(reached)));
        }
        reached = furthest.max();
        chain.push(furthest.clone());
    }
    Ok(chain)
}

/// Why the chain ends at `reached`, which is the greatest restorable transaction up to the wanted one.
fn unreachable_goal(log: &Log, wanted: Txid, reached: Option<Txid>) -> Error {
    let first_missing = reached.map_or(Txid::FIRST, Txid::next);
    let is_there = log.files().any(|f| f.max() == wanted);
    // A later base spans everything, also what was lost before it.
    let spans = |f: &FileRef| f.min() <= first_missing && f.max() > wanted && !(is_there && f.is_base());
    let across = log.files().any(spans);
    if across && let Some(after) = restorable(log.files()).into_iter().find(|txid| *txid > wanted) {
        return Error::Merged { wanted, before: reached, after };
    }
    let next = log.files().map(FileRef::min).filter(|min| *min > first_missing).min();
    let last_missing = next.and_then(Txid::prev).unwrap_or(first_missing);
    Error::Hole { wanted, first_missing, last_missing, nearest: reached }
}
