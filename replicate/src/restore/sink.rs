//! Where decoded pages go.

use super::plan::RestorePlan;
use crate::Error;
use litekeep_ltx::{Checksum, PageSize, Pgno, page_checksum};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Takes pages from several threads. Two versions of a page never come at the same time, and the later one counts.
pub(super) trait Sink: Send + Sync {
    /// Consecutive pages from `first` on, none beyond the end of the planned database.
    fn run(&self, first: Pgno, pages: &[u8]) -> Result<(), Error>;
}

/// A database file. What is never written (the lock page) is a hole and reads as zeros.
pub(super) struct DatabaseFile {
    file: Arc<File>,
    /// For messages.
    path: PathBuf,
    page_size: PageSize,
}

impl DatabaseFile {
    /// Empties the file and gives it its final length.
    pub(super) fn begin(file: Arc<File>, path: &Path, plan: &RestorePlan) -> Result<DatabaseFile, Error> {
        let size = || {
            file.set_len(0)?;
            file.set_len(plan.database_bytes())
        };
        size().map_err(Error::file("resize", path))?;
        Ok(DatabaseFile { file, path: path.to_owned(), page_size: plan.page_size })
    }
}

impl Sink for DatabaseFile {
    fn run(&self, first: Pgno, pages: &[u8]) -> Result<(), Error> {
        self.file.write_all_at(pages, first.offset(self.page_size)).map_err(Error::file("write", &self.path))
    }
}

/// The pages' checksums only.
pub(super) struct PageSumsOf<F> {
    page_size: PageSize,
    each: Arc<F>,
}

impl<F> PageSumsOf<F> {
    pub(super) fn new(page_size: PageSize, each: Arc<F>) -> PageSumsOf<F> {
        PageSumsOf { page_size, each }
    }
}

impl<F> Sink for PageSumsOf<F>
where
    F: Fn(&[(Pgno, Checksum)]) -> Result<(), Error> + Send + Sync,
{
    fn run(&self, first: Pgno, pages: &[u8]) -> Result<(), Error> {
        let numbers = (first.get()..).filter_map(Pgno::new);
        let pages = pages.chunks_exact(self.page_size.bytes());
        let sums: Vec<_> = numbers.zip(pages).map(|(pgno, page)| (pgno, page_checksum(pgno, page))).collect();
        (self.each)(&sums)
    }
}

/// Bytes of consecutive pages that are written at once.
const RUN_BYTES: usize = 256 << 10;

/// Joins single pages to runs, and leaves out those beyond the database's end.
pub(super) struct Runs<'a> {
    sink: &'a dyn Sink,
    page_count: u32,
    first: Pgno,
    next: u32,
    bytes: Vec<u8>,
}

impl<'a> Runs<'a> {
    pub(super) fn new(sink: &'a dyn Sink, page_count: u32) -> Runs<'a> {
        Runs { sink, page_count, first: Pgno::FIRST, next: 0, bytes: Vec::with_capacity(RUN_BYTES) }
    }

    pub(super) fn push(&mut self, pgno: Pgno, page: &[u8]) -> Result<(), Error> {
        if pgno.get() > self.page_count {
            return Ok(());
        }
        if pgno.get() != self.next || self.bytes.len() + page.len() > RUN_BYTES {
            self.flush()?;
            self.first = pgno;
        }
        self.bytes.extend_from_slice(page);
        self.next = pgno.get() + 1;
        Ok(())
    }

    pub(super) fn flush(&mut self) -> Result<(), Error> {
        if !self.bytes.is_empty() {
            self.sink.run(self.first, &self.bytes)?;
            self.bytes.clear();
        }
        Ok(())
    }
}
