//! Which files hold what was written between two transactions.

use litekeep_ltx::Txid;

use crate::error::{Error, Result};
use crate::log::{FileRef, Log};

/// Files that hold every page that was written after `from` and up to `to`, in the order in which they are applied to the
/// state after `from`; as few and as large as possible. The first may begin earlier: more pages than were written, and no
/// other state in the end.
///
/// # Errors
/// [`Error::Hole`] when transactions are missing, [`Error::BeyondEnd`] when the log ends before `to`.
pub fn between(log: &Log, from: Txid, to: Txid) -> Result<Vec<FileRef>> {
    let last = log.last().ok_or(Error::Empty)?;
    if to > last {
        return Err(Error::BeyondEnd { wanted: to, last });
    }
    // A base has every page of the database.
    chain(log.files().filter(|f| !f.is_base()), from, to).or_else(|_| chain(log.files(), from, to))
}

/// The files after a transaction up to the log's end, each with as few transactions as possible.
///
/// # Errors
/// [`Error::Hole`] when transactions are missing.
pub fn steps(log: &Log, from: Txid) -> Result<Vec<FileRef>> {
    let last = log.last().ok_or(Error::Empty)?;
    let files: Vec<&FileRef> = log.files().filter(|f| !f.is_base() && f.max() > from).collect();
    let mut steps = vec![];
    let mut reached = from;
    while reached < last {
        let reaching = files.iter().filter(|f| f.min() <= reached.next() && f.max() > reached);
        let Some(file) = reaching.min_by_key(|f| (f.max(), std::cmp::Reverse(f.min()))) else {
            return Err(hole(&files, reached, last));
        };
        reached = file.max();
        steps.push((*file).clone());
    }
    Ok(steps)
}

fn hole(files: &[&FileRef], reached: Txid, wanted: Txid) -> Error {
    let next = files.iter().map(|f| f.min()).filter(|min| *min > reached).min();
    let last_missing = next.and_then(Txid::prev).unwrap_or(wanted);
    Error::Hole { wanted, first_missing: reached.next(), last_missing, nearest: Some(reached) }
}

fn chain<'a>(files: impl Iterator<Item = &'a FileRef>, from: Txid, to: Txid) -> Result<Vec<FileRef>> {
    let files: Vec<&FileRef> = files.filter(|f| f.max() <= to && f.max() > from).collect();
    let mut chain = vec![];
    let mut reached = from;
    while reached < to {
        let reaching = files.iter().filter(|f| f.min() <= reached.next() && f.max() > reached);
        let Some(file) = reaching.max_by_key(|f| (f.max(), f.min(), f.level)) else {
            return Err(hole(&files, reached, to));
        };
        reached = file.max();
        chain.push((*file).clone());
    }
    Ok(chain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use litekeep_ltx::FileName;

    fn file(level: u8, min: u64, max: u64) -> FileRef {
        let txid = |n| Txid::new(n).unwrap();
        let name = FileName { min: txid(min), max: txid(max) };
        FileRef { level, name, size: 1, modified_ms: 0 }
    }

    fn found(files: &[FileRef], from: u64, to: u64) -> Result<Vec<(u8, u64, u64)>> {
        let log = Log::new(files.iter().cloned());
        let found = between(&log, Txid::new(from).unwrap(), Txid::new(to).unwrap())?;
        Ok(found.iter().map(|f| (f.level, f.min().get(), f.max().get())).collect())
    }

    #[test]
    fn the_largest_files_and_bases_only_where_nothing_else_is_there() {
        let mut files: Vec<FileRef> = (1..=10).map(|n| file(0, n, n)).collect();
        files.extend([file(2, 2, 5), file(2, 6, 8), file(9, 1, 6)]);
        assert_eq!(found(&files, 3, 9).unwrap(), [(2, 2, 5), (2, 6, 8), (0, 9, 9)]);
        assert_eq!(found(&files, 3, 4).unwrap(), [(0, 4, 4)]);
        assert_eq!(found(&files, 4, 4).unwrap(), []);
        files.retain(|f| f.min().get() != 3 && f.level != 2);
        assert_eq!(found(&files, 2, 7).unwrap(), [(9, 1, 6), (0, 7, 7)]);
    }

    #[test]
    fn steps_are_small() {
        let files =
            [file(9, 1, 6), file(2, 2, 5), file(0, 4, 4), file(0, 5, 5), file(1, 6, 8), file(0, 6, 6)];
        let steps = |from| -> Vec<_> {
            let found = steps(&Log::new(files.iter().cloned()), Txid::new(from).unwrap()).unwrap();
            found.iter().map(|f| (f.min().get(), f.max().get())).collect()
        };
        assert_eq!(steps(3), [(4, 4), (5, 5), (6, 6), (6, 8)]);
        assert_eq!(steps(1), [(2, 5), (6, 6), (6, 8)]);
        assert_eq!(steps(8), []);
    }

    #[test]
    fn a_hole_and_an_end_are_told() {
        let files = [file(9, 1, 2), file(0, 3, 3), file(0, 6, 6)];
        let hole = found(&files, 2, 6).unwrap_err();
        assert!(matches!(hole, Error::Hole { first_missing, last_missing, .. }
            if (first_missing.get(), last_missing.get()) == (4, 5)));
        assert!(matches!(found(&files, 2, 7).unwrap_err(), Error::BeyondEnd { .. }));
    }
}
