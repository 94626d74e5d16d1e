//! The file's pages against checksums.
//!
//! A page 1 has a few bytes that each SQLite writes anew when it writes the page; they are left out.

use litekeep_ltx::{Checksum, Pgno, page_checksum};
use litekeep_replicate::Error;
use litekeep_replicate::local::PageSums;
use litekeep_sql::PageWriter;
use std::ops::Range;

/// Of page 1: the versions of the file format, which are those of WAL mode here; the change counter, and the SQLite that wrote it.
pub(crate) const MASKED: [Range<usize>; 3] = [18..20, 24..28, 92..100];
/// Pages that are named when they differ.
const NAMED: usize = 20;
/// Sums that are written together.
pub(crate) const RUN: usize = 4096;

/// The checksum of a page.
pub(crate) fn sum_of(pgno: Pgno, page: &[u8]) -> Checksum {
    if pgno != Pgno::FIRST {
        return page_checksum(pgno, page);
    }
    let mut page = page.to_vec();
    MASKED.into_iter().for_each(|range| page[range].fill(0));
    page_checksum(pgno, &page)
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// Pages of the file.
    pub(crate) page_count: u32,
    /// Pages that differ although nothing explains it, and the first of them.
    pub(crate) count: u32,
    pub(crate) named: Vec<Pgno>,
    /// Pages that differ as they may.
    pub(crate) explained: u32,
}

impl Found {
    /// `2 of its pages: 7, 9`.
    pub(crate) fn text(&self) -> String {
        let named: Vec<String> = self.named.iter().map(Pgno::to_string).collect();
        let more = if self.count as usize > named.len() { ", …" } else { "" };
        format!("{} of its pages: {}{more}", self.count, named.join(", "))
    }
}

/// Compares all pages of the file. `may_differ`: those that something explains.
pub(crate) fn compare(
    writer: &mut PageWriter,
    sums: &PageSums,
    may_differ: impl Fn(Pgno) -> bool,
) -> Result<Found, Error> {
    let (mut found, mut known) = (Found::default(), sums.ascending());
    found.page_count = writer.read_all(|pgno, page| {
        if known.get(pgno)? == sum_of(pgno, page) {
            return Ok(());
        }
        if may_differ(pgno) {
            found.explained += 1;
            return Ok(());
        }
        found.count += 1;
        if found.named.len() < NAMED {
            found.named.push(pgno);
        }
        Ok::<(), Error>(())
    })?;
    Ok(found)
}

/// Takes the sums of all pages as they are.
pub(crate) fn take(writer: &mut PageWriter, sums: &PageSums) -> Result<u32, Error> {
    let page_count = writer.page_count()?;
    let mut run = Vec::with_capacity(RUN);
    let count = writer.read_all(|pgno, page| {
        run.push((pgno, sum_of(pgno, page)));
        if run.len() == RUN {
            sums.apply(&run, page_count)?;
            run.clear();
        }
        Ok::<(), Error>(())
    })?;
    sums.apply(&run, count)?;
    Ok(count)
}
