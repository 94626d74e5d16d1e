//! A database file against the checksums that its pages must have.

use crate::Error;
use litekeep_env::file;
use litekeep_ltx::{Checksum, PageSize, Pgno, page_checksum};
use std::fs::File;
use std::path::Path;

/// How a file differs from what was expected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Differences {
    /// Bytes of the file, if it has another length than the database.
    pub length: Option<u64>,
    /// The first pages that differ, ascending.
    pub pages: Vec<Pgno>,
    /// How many pages differ in all.
    pub count: u32,
}

impl Differences {
    /// Whether the file is what was expected.
    pub fn is_none(&self) -> bool {
        self.length.is_none() && self.count == 0
    }
}

/// Bytes that are read at once.
const READ_BYTES: usize = 1 << 20;

/// Compares every page but the lock page. `expected` fills in the checksums of consecutive pages from the one given
/// on, as [`PageSums::get`](crate::local::PageSums::get) does. At most `limit` pages are named.
///
/// Nobody may have the file open in SQLite: it is read as it is, without its WAL.
///
/// # Errors
/// When the file cannot be read, and those of `expected`.
pub fn differences(
    path: &Path,
    page_size: PageSize,
    page_count: u32,
    limit: usize,
    expected: impl Fn(Pgno, &mut [Checksum]) -> Result<(), Error>,
) -> Result<Differences, Error> {
    let file = File::open(path).map_err(Error::file("open", path))?;
    let len = file.metadata().map_err(Error::file("read the size of", path))?.len();
    let mut found = Differences {
        length: (len != u64::from(page_count) * u64::from(page_size.get())).then_some(len),
        ..Differences::default()
    };
    let run = (READ_BYTES / page_size.bytes()) as u32;
    let mut bytes = vec![0; READ_BYTES];
    let mut sums = vec![Checksum::default(); run as usize];
    for first in (1..=page_count).step_by(run as usize).filter_map(Pgno::new) {
        let pages = run.min(page_count - first.get() + 1) as usize;
        let bytes = &mut bytes[..pages * page_size.bytes()];
        // That the length differs is reported anyway.
        file::read_or_zero(&file, bytes, first.offset(page_size)).map_err(Error::file("read", path))?;
        expected(first, &mut sums[..pages])?;
        let numbers = (first.get()..).filter_map(Pgno::new);
        for ((pgno, page), sum) in numbers.zip(bytes.chunks_exact(page_size.bytes())).zip(&sums) {
            if pgno != page_size.lock_page() && page_checksum(pgno, page) != *sum {
                found.count += 1;
                if found.pages.len() < limit {
                    found.pages.push(pgno);
                }
            }
        }
    }
    Ok(found)
}
