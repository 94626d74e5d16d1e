//! The pages of a database as of a certain frame of its WAL.
//!
//! Right while a hold protects that state: a page with a frame up to there is read from the WAL, any other from the
//! database file, which no checkpoint writes beyond the hold.

use super::continuity::{Broken, damaged};
use super::held::HeldFiles;
use super::wal::{Frames, Place, Wal};
use crate::Error;
use litekeep_env::file;
use litekeep_format::{PageBytes, PageSource, WalHeader};
use litekeep_ltx::{PageSize, Pgno};
use std::collections::HashMap;

/// Where the WAL has the pages of a state.
#[derive(Debug)]
pub struct Slots {
    of: HashMap<Pgno, u32>,
    page_count: u32,
    place: Place,
}

impl Slots {
    /// Those after the first `frames` frames of the WAL's generation, all of which are verified.
    pub fn read(wal: &Wal, header: &WalHeader, frames: u32) -> Result<Result<Slots, Broken>, Error> {
        let start = Place { salt: header.salt, frames: 0, checksum: header.checksum };
        let mut read = Frames::default();
        let (place, why) = wal.read(header, start, frames, &mut read)?;
        if let Some(broken) = damaged(why, place, frames, &read) {
            return Ok(Err(broken));
        }
        let of = read.slots.into_iter().map(|s| (s.pgno, s.index)).collect();
        Ok(Ok(Slots { of, page_count: read.page_count, place }))
    }
}

/// A state of the database.
#[derive(Debug)]
pub struct Pages<'a> {
    files: &'a HeldFiles,
    wal: Option<&'a Wal>,
    slots: HashMap<Pgno, u32>,
    page_size: PageSize,
    page_count: u32,
    /// Where in the WAL the state ends; `None` when the WAL holds nothing of it.
    pub place: Option<Place>,
}

impl<'a> Pages<'a> {
    /// The state of these slots.
    pub fn in_wal(
        files: &'a HeldFiles,
        wal: &'a Wal,
        page_size: PageSize,
        slots: Slots,
    ) -> Result<Pages<'a>, Error> {
        let Slots { of: slots, page_count, place } = slots;
        let page_count = if place.frames == 0 { in_file(files, page_size)? } else { page_count };
        Ok(Pages { files, wal: Some(wal), slots, page_size, page_count, place: Some(place) })
    }

    /// The state of a WAL that a checkpoint has copied into the database file, up to `place`, with so many pages.
    pub fn copied(files: &'a HeldFiles, page_size: PageSize, page_count: u32, place: Place) -> Pages<'a> {
        Pages { files, wal: None, slots: HashMap::new(), page_size, page_count, place: Some(place) }
    }

    /// The state in the database file alone; `place` is where the empty WAL begins, if it has a header.
    pub fn in_database(
        files: &'a HeldFiles,
        page_size: PageSize,
        place: Option<Place>,
    ) -> Result<Pages<'a>, Error> {
        let page_count = in_file(files, page_size)?;
        Ok(Pages { files, wal: None, slots: HashMap::new(), page_size, page_count, place })
    }

    /// Page size.
    pub fn page_size(&self) -> PageSize {
        self.page_size
    }

    /// Pages of the database.
    pub fn page_count(&self) -> u32 {
        self.page_count
    }

    /// Whether the WAL has it, and the database file perhaps an earlier version.
    pub fn is_in_wal(&self, pgno: Pgno) -> bool {
        self.slots.contains_key(&pgno)
    }

    /// Reads a page. Pages that the database has but nobody ever wrote (free pages at its end) are zeros.
    pub fn read(&self, pgno: Pgno, page: &mut [u8]) -> Result<(), Error> {
        if let (Some(wal), Some(slot)) = (self.wal, self.slots.get(&pgno)) {
            return wal.page(self.page_size, *slot, page);
        }
        read_or_zero(self.files, pgno.offset(self.page_size), page)
    }

    /// Makes durable what the state was read from: the store must not get ahead of it.
    pub fn sync(&self) -> Result<(), Error> {
        if let Some(wal) = self.wal {
            let synced = wal.file().sync_data();
            synced.map_err(Error::file("sync the WAL of", self.files.path()))?;
        }
        self.files.database().sync_data().map_err(Error::file("sync", self.files.path()))
    }

    /// Every page but the lock page, ascending, in order of the file.
    pub fn for_each(&self, mut f: impl FnMut(Pgno, &[u8]) -> Result<(), Error>) -> Result<(), Error> {
        let size = self.page_size.bytes();
        // One read for a run of pages: most of them come from the database file.
        let run = ((1 << 20) / size).max(1) as u32;
        let mut buffer = vec![0; run as usize * size];
        let mut first = 1;
        while first <= self.page_count {
            let n = run.min(self.page_count - first + 1);
            let pgno = Pgno::new(first).expect("pages count from 1");
            read_or_zero(self.files, pgno.offset(self.page_size), &mut buffer[..n as usize * size])?;
            for (i, page) in buffer.chunks_exact_mut(size).take(n as usize).enumerate() {
                let pgno = Pgno::new(first + i as u32).expect("pages count from 1");
                if pgno == self.page_size.lock_page() {
                    continue;
                }
                if let (Some(wal), Some(slot)) = (self.wal, self.slots.get(&pgno)) {
                    wal.page(self.page_size, *slot, page)?;
                }
                f(pgno, page)?;
            }
            first += n;
        }
        Ok(())
    }
}

/// Pages of the database when the WAL holds nothing: the size of the file says.
fn in_file(files: &HeldFiles, page_size: PageSize) -> Result<u32, Error> {
    let len = files.database().metadata().map_err(Error::file("read the size of", files.path()))?.len();
    Ok((len / u64::from(page_size.get())).min(u32::MAX.into()) as u32)
}

/// Reads from the database file; what lies beyond its end is zero.
fn read_or_zero(files: &HeldFiles, offset: u64, bytes: &mut [u8]) -> Result<(), Error> {
    file::read_or_zero(files.database(), bytes, offset).map_err(Error::file("read", files.path()))
}

impl PageSource for Pages<'_> {
    type Error = Error;

    fn page_count(&self) -> u32 {
        self.page_count
    }

    fn page(&self, pgno: Pgno) -> Result<PageBytes, Error> {
        let mut page = vec![0; self.page_size.bytes()];
        self.read(pgno, &mut page)?;
        Ok(page.into())
    }
}
