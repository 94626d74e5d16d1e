//! The checksum of every page as the log has it: 8 bytes a page, big-endian, page 1 first, the lock page as zero.
//!
//! With it a break in continuity costs one pass over the database and an upload of what differs, not a new snapshot. The
//! file is read and written with `pread` and `pwrite`, so it costs no memory. It is a cache: what it says is true up to
//! the transaction in [`State::synced`](super::State) after a power cut, and up to [`State::txid`](super::State) after a
//! killed process; applying the log's later files to it again brings it up to date.

use crate::Error;
use litekeep_env::file;
use litekeep_ltx::{Checksum, Pgno};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Sums of one block are read and written together.
const BLOCK: usize = 512;
/// Sums that [`Ascending`] reads at once.
const RUN: usize = 8192;

/// The file.
#[derive(Debug)]
pub struct PageSums {
    path: PathBuf,
    file: File,
}

impl PageSums {
    /// Opens or creates the file.
    pub fn open(path: &Path) -> Result<PageSums, Error> {
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.open(path).map_err(Error::file("open", path))?;
        Ok(PageSums { path: path.to_owned(), file })
    }

    /// Pages that have a sum.
    pub fn page_count(&self) -> Result<u32, Error> {
        let len = self.file.metadata().map_err(Error::file("read the size of", &self.path))?.len();
        Ok((len / 8).min(u32::MAX.into()) as u32)
    }

    /// Notes the sums of some pages, ascending, and that the database has `page_count` pages now.
    pub fn apply(&self, sums: &[(Pgno, Checksum)], page_count: u32) -> Result<(), Error> {
        let mut buffer = [0u8; BLOCK * 8];
        let mut rest = sums;
        while let Some((first, _)) = rest.first() {
            let block = (first.get() - 1) as usize / BLOCK;
            let n = rest.iter().take_while(|(p, _)| (p.get() - 1) as usize / BLOCK == block).count();
            let (now, later) = rest.split_at(n);
            rest = later;
            let base = (block * BLOCK * 8) as u64;
            let slot = |p: &Pgno| (p.get() - 1) as usize % BLOCK * 8;
            let (from, to) = (slot(&now[0].0), slot(&now[n - 1].0) + 8);
            if (to - from) / 8 != n {
                self.read(&mut buffer[from..to], base + from as u64)?;
            }
            for (pgno, sum) in now {
                buffer[slot(pgno)..slot(pgno) + 8].copy_from_slice(&sum.0.to_be_bytes());
            }
            self.file
                .write_all_at(&buffer[from..to], base + from as u64)
                .map_err(Error::file("write", &self.path))?;
        }
        let len = u64::from(page_count) * 8;
        if self.file.metadata().map_err(Error::file("read the size of", &self.path))?.len() != len {
            self.file.set_len(len).map_err(Error::file("resize", &self.path))?;
        }
        Ok(())
    }

    /// Reads what is there; zeros beyond the end.
    fn read(&self, bytes: &mut [u8], offset: u64) -> Result<(), Error> {
        file::read_or_zero(&self.file, bytes, offset).map_err(Error::file("read", &self.path))
    }

    /// The sums of up to `out.len()` pages from `first`; zero where there is none.
    pub fn get(&self, first: Pgno, out: &mut [Checksum]) -> Result<(), Error> {
        let mut bytes = vec![0; out.len() * 8];
        self.read(&mut bytes, u64::from(first.get() - 1) * 8)?;
        for (sum, b) in out.iter_mut().zip(bytes.chunks_exact(8)) {
            *sum = Checksum(u64::from_be_bytes(b.try_into().expect("8 bytes")));
        }
        Ok(())
    }

    /// The sums, to be asked for in ascending order.
    pub fn ascending(&self) -> Ascending<'_> {
        Ascending { sums: self, run: None, known: vec![Checksum::default(); RUN] }
    }

    /// Makes everything written so far durable.
    pub fn sync(&self) -> Result<(), Error> {
        self.file.sync_data().map_err(Error::file("sync", &self.path))
    }
}

/// Sums of pages in ascending order, read many at once.
#[derive(Debug)]
pub struct Ascending<'a> {
    sums: &'a PageSums,
    /// Which run of pages is known.
    run: Option<u32>,
    known: Vec<Checksum>,
}

impl Ascending<'_> {
    /// The sum of a page; zero where there is none.
    pub fn get(&mut self, pgno: Pgno) -> Result<Checksum, Error> {
        let (run, nth) = ((pgno.get() - 1) / RUN as u32, (pgno.get() - 1) % RUN as u32);
        if self.run != Some(run) {
            // Not every run is asked for its first page: the lock page may be that.
            let first = Pgno::new(pgno.get() - nth).expect("pages count from 1");
            self.sums.get(first, &mut self.known)?;
            self.run = Some(run);
        }
        Ok(self.known[nth as usize])
    }
}
