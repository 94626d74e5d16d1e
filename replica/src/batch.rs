//! One transaction of several files of the log: the newest version of each page that is there in the end.

use crate::position::{Held, Mark};
use litekeep_ltx::{PageSize, Pgno, Txid};
use litekeep_replicate::{Error, Kind};
use litekeep_store::PageFile;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::runtime::Handle;

/// Pages whose requests are made together.
const CHUNK: usize = 512;

/// Files of the log that follow one another, of pages of one size.
#[derive(Debug)]
pub(crate) struct Batch {
    files: Vec<PageFile>,
    /// Ascending, with the file that has the newest version.
    pages: Vec<(Pgno, usize)>,
    runtime: Handle,
}

impl Batch {
    /// Of at least one file. Call from within the runtime.
    pub(crate) fn new(files: Vec<PageFile>) -> Batch {
        let last = files.last().expect("a batch has files").header();
        let (page_count, lock_page) = (last.commit, last.page_size.lock_page());
        let all = files.iter().enumerate().flat_map(|(nth, file)| file.pages().map(move |pgno| (pgno, nth)));
        let mut pages: Vec<(Pgno, usize)> =
            all.filter(|(pgno, _)| pgno.get() <= page_count && *pgno != lock_page).collect();
        if files.len() > 1 {
            pages.sort_unstable_by_key(|(pgno, nth)| (*pgno, std::cmp::Reverse(*nth)));
            pages.dedup_by_key(|(pgno, _)| *pgno);
        }
        Batch { files, pages, runtime: Handle::current() }
    }

    /// The transaction that it leads to.
    pub(crate) fn to(&self) -> Txid {
        self.last().file().max()
    }

    fn last(&self) -> &PageFile {
        self.files.last().expect("a batch has files")
    }

    pub(crate) fn page_size(&self) -> PageSize {
        self.last().header().page_size
    }

    /// The state after it.
    pub(crate) fn held(&self, applied_ms: i64) -> Held {
        let header = self.last().header();
        Held {
            txid: header.max_txid,
            time_ms: header.timestamp_ms,
            applied_ms,
            page_count: header.commit,
            page_size: header.page_size,
            mark: Mark::of(header),
        }
    }

    pub(crate) fn files(&self) -> usize {
        self.files.len()
    }

    pub(crate) fn len(&self) -> usize {
        self.pages.len()
    }

    /// Whether it writes a page, or cuts it off.
    pub(crate) fn changes(&self, pgno: Pgno) -> bool {
        pgno.get() > self.last().header().commit
            || self.pages.binary_search_by_key(&pgno, |(pgno, _)| *pgno).is_ok()
    }

    /// Gives the pages, ascending. Not from a thread of the runtime.
    ///
    /// # Errors
    /// Those of the store, and of `each`.
    pub(crate) fn for_each(
        &self,
        mut each: impl FnMut(Pgno, &[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        for chunk in self.pages.chunks(CHUNK) {
            let fetched = self.fetch(chunk)?;
            for (pgno, nth) in chunk {
                let page = match self.files[*nth].read_here(*pgno) {
                    Some(page) => page?,
                    None => fetched.get(pgno).cloned().ok_or_else(|| {
                        Error::new(Kind::Internal, format!("page {pgno} was read and is not there"))
                    })?,
                };
                each(*pgno, &page)?;
            }
        }
        Ok(())
    }

    /// Those that take requests.
    fn fetch(&self, chunk: &[(Pgno, usize)]) -> Result<HashMap<Pgno, Arc<[u8]>>, Error> {
        let mut fetched = HashMap::new();
        for (nth, file) in self.files.iter().enumerate().filter(|(_, file)| file.is_remote()) {
            let of_file: Vec<Pgno> =
                chunk.iter().filter(|(_, of)| *of == nth).map(|(pgno, _)| *pgno).collect();
            if !of_file.is_empty() {
                fetched.extend(self.runtime.block_on(file.read(&of_file))?);
            }
        }
        Ok(fetched)
    }
}
