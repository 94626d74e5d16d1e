//! One database's WAL becomes level-0 files.
//!
//! Invariants:
//! - Only frames up to `mxFrame` of the wal-index are committed. A commit frame beyond it never happened (a failed fsync
//!   leaves one), so nothing is taken from the WAL's content alone.
//! - Every segment starts where the one before ended, or replaces it by a comparison of page checksums. There is no third
//!   way, so no frame is skipped silently.
//! - While a [`Hold`] lasts, no frame after the place is overwritten. Should it be lost, the next look notices by salt
//!   and checksum.
//!
//! A crash leaves locks to the kernel and nothing else; [`continuity`] decides at the next start.

pub mod continuity;
mod held;
mod pages;
mod reset;
pub mod segment;
mod wal;
mod write_block;

pub use continuity::Broken;
use continuity::damaged;
pub use held::{HeldFiles, Hold, Reader, is_claimed, is_in_log, readers};
pub use pages::Pages;
use pages::Slots;
pub use reset::Reset;
pub use segment::{Body, Segment, Stamp};
pub use wal::{Frames, Place, place_after};
pub use write_block::WriteBlock;

use crate::local::{Packs, PageSums, Spool};
use crate::{Error, Kind};
use litekeep_format::{WalHeader, WalIndexHeader, frame_size};
use litekeep_ltx::{Checksum, PageSize, Pgno, Salt, page_checksum};
use litekeep_sql::Observer;
use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;
pub(crate) use wal::Wal;

/// What a look at the WAL found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Nothing new.
    Nothing,
    /// Frames of finished commits were read, up to this place.
    Frames(Place),
    /// The WAL does not lead on from the last place.
    Broken(Broken),
}

/// One database being captured.
#[derive(Debug)]
pub struct Capture {
    /// For reads and checkpoints. Before the files: they must be closed last.
    observer: Option<Observer>,
    wal: Option<(Wal, WalHeader)>,
    files: HeldFiles,
    page_size: PageSize,
    /// `None` when the WAL held nothing at the end of the log.
    place: Option<Place>,
    /// Whether `place` says where the log ends at all.
    /// Why nobody knows what the log contains of the database.
    unknown: Option<Broken>,
    page_count: u32,
    /// The end of the WAL when [`Hold::Backfilled`] was taken: a log that has come this far has everything of the
    /// generation, so the next one continues it from its first frame.
    backfilled_at: Option<(Salt, u32)>,
    /// Frame at which the hold was taken, for deciding when it is worth moving.
    held_at: u32,
}

/// How a database was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// In WAL mode.
    Wal,
    /// In another journal mode; it was switched.
    Switched,
}

impl Capture {
    /// Attaches to an existing database, switches it to WAL mode where necessary and takes hold of the WAL. What the log
    /// has of it is not known yet.
    pub fn attach(path: &Path) -> Result<(Capture, Found), Error> {
        let observer = Observer::open(path)?;
        observer.wait_for_locks(Duration::from_secs(5))?;
        let mut found = Found::Wal;
        let mode = observer.journal_mode()?;
        if mode != "wal" {
            let now = observer.switch_to_wal()?;
            if now != "wal" {
                return Err(Error::with_hint(
                    Kind::Invalid,
                    format!("`{}` is in journal mode `{mode}` and cannot be switched to WAL", path.display()),
                    "WAL needs a local file system and an ordinary file; see `litekeep init` for what was found",
                ));
            }
            found = Found::Switched;
        }
        observer.begin_read()?;
        observer.end()?;
        let files = HeldFiles::open(path, &observer)?;
        let header = files.database_header()?;
        let mut capture = Capture {
            observer: Some(observer),
            wal: None,
            files,
            page_size: header.page_size,
            place: None,
            unknown: Some(Broken::Unknown),
            page_count: 0,
            backfilled_at: None,
            held_at: 0,
        };
        capture.renew_hold()?;
        Ok((capture, found))
    }

    /// The files.
    pub fn files(&self) -> &HeldFiles {
        &self.files
    }

    /// Page size.
    pub fn page_size(&self) -> PageSize {
        self.page_size
    }

    /// Where the log is.
    pub fn place(&self) -> Option<Place> {
        self.place
    }

    /// Pages of the database at that place.
    pub fn page_count(&self) -> u32 {
        self.page_count
    }

    /// Tells the capture what the log contains: everything up to a place in the WAL, or, with `None`, everything there
    /// is while the WAL is empty.
    pub fn set_position(&mut self, place: Option<Place>, page_count: u32) {
        self.place = place;
        self.unknown = None;
        self.page_count = page_count;
    }

    /// Tells the capture that nobody knows what the log contains of the database, and why: so says the next look.
    pub fn forget_position(&mut self, why: Broken) {
        self.place = None;
        self.unknown = Some(why);
    }

    /// Whether somebody knows what the log contains of the database.
    pub fn is_position_known(&self) -> bool {
        self.unknown.is_none()
    }

    fn observer(&mut self) -> Result<&Observer, Error> {
        if self.observer.is_none() {
            self.observer = Some(Observer::open(self.files.path())?);
        }
        Ok(self.observer.as_ref().expect("just opened"))
    }

    /// The wal-index. When it is not valid, a connection of ours makes SQLite recover it.
    fn wal_index(&mut self) -> Result<WalIndexHeader, Error> {
        for _ in 0..3 {
            if let Some(index) = self.files.wal_index()? {
                return Ok(index);
            }
            self.files.free_checkpoints()?;
            let observer = self.observer()?;
            observer.wait_for_locks(Duration::from_secs(5))?;
            observer.begin_read()?;
            observer.end()?;
        }
        let path = self.files.path().display();
        Err(Error::new(Kind::Unavailable, format!("the wal-index of `{path}` stays invalid")))
    }

    /// Where the WAL ends. While a hold lasts, whatever is committed moves it.
    pub fn wal_end(&mut self) -> Result<(Salt, u32), Error> {
        let index = self.wal_index()?;
        Ok((index.salt, index.max_frame))
    }

    /// The WAL with its header; opened again when the generation in the file is another than the one expected.
    fn wal(&mut self, salt: Option<Salt>) -> Result<Option<(&Wal, &WalHeader)>, Error> {
        let fits = |h: &WalHeader| salt.is_none_or(|s| s == h.salt);
        if let Some((wal, header)) = &mut self.wal
            && !fits(header)
            && let Some(fresh) = wal.header()?
        {
            *header = fresh;
        }
        if self.wal.as_ref().is_none_or(|(_, h)| !fits(h)) {
            self.wal = None;
            if let Some(wal) = Wal::open(self.files.path())?
                && let Some(header) = wal.header()?
            {
                self.wal = Some((wal, header));
            }
        }
        Ok(self.wal.as_ref().map(|(w, h)| (w, h)))
    }

    /// Moves the hold to the present, so that checkpoints may copy what the log has. Keeps the old hold when no better
    /// one can be had. Checkpoints may happen from here on.
    pub fn renew_hold(&mut self) -> Result<(), Error> {
        self.files.free_checkpoints()?;
        for _ in 0..5 {
            let observer = self.observer()?;
            observer.wait_for_locks(Duration::from_secs(1))?;
            let snapshot = observer.begin_read()?;
            if let Some(s) = snapshot.filter(|s| s.max_frame > 0) {
                self.enter_generation(s.salt)?;
            }
            let moved = match snapshot {
                Some(s) if s.max_frame > 0 && self.files.hold_mark(&s)? => {
                    self.backfilled_at = None;
                    self.held_at = s.max_frame;
                    true
                }
                _ => self.hold_backfilled()?,
            };
            self.observer()?.end()?;
            if moved {
                return Ok(());
            }
        }
        tracing::debug!(path = %self.files.path().display(), "no hold on the WAL could be had");
        Ok(())
    }

    /// Takes [`Hold::Backfilled`], which lets the next commit overwrite the WAL: only when the log has all of it, or when
    /// nothing is held and so nothing can become worse.
    fn hold_backfilled(&mut self) -> Result<bool, Error> {
        let index = self.wal_index()?;
        let log_has_all = match self.place {
            Some(p) => (p.salt, p.frames) == (index.salt, index.max_frame),
            None => index.max_frame == 0,
        };
        if !log_has_all && self.files.hold() != Hold::Nothing {
            return Ok(false);
        }
        let held = self.files.hold_backfilled(index.salt, index.max_frame)?;
        if held {
            self.backfilled_at = Some((index.salt, index.max_frame));
            self.held_at = index.max_frame;
        }
        Ok(held)
    }

    /// Moves the place to the beginning of the generation that continues it, while that is still provable: a new hold
    /// says nothing about the generation before.
    fn enter_generation(&mut self, salt: Salt) -> Result<(), Error> {
        if self.next_generation_continues()
            && self.place.is_none_or(|p| p.salt != salt)
            && let Some((_, h)) = self.wal(Some(salt))?.filter(|(_, h)| h.salt == salt)
        {
            self.place = Some(Place { salt: h.salt, frames: 0, checksum: h.checksum });
        }
        Ok(())
    }

    /// Whether the log has everything up to where [`Hold::Backfilled`] was taken.
    fn next_generation_continues(&self) -> bool {
        match (self.files.hold(), self.backfilled_at, self.place) {
            _ if self.unknown.is_some() => false,
            (Hold::Backfilled, Some(at), Some(p)) => at == (p.salt, p.frames),
            (Hold::Backfilled, Some((_, frames)), None) => frames == 0,
            _ => false,
        }
    }

    /// Looks for commits after the place and reads them into `out`.
    pub fn look(&mut self, out: &mut Frames) -> Result<Look, Error> {
        out.clear();
        if let Some(why) = self.unknown {
            return Ok(Look::Broken(why));
        }
        if self.files.hold() == Hold::Nothing {
            // What is found may be read a second time.
            self.renew_hold()?;
        }
        let index = self.wal_index()?;
        if let Some(p) = self.place.filter(|p| p.salt == index.salt) {
            if index.max_frame == p.frames {
                return Ok(Look::Nothing);
            }
            if index.max_frame > p.frames {
                return self.read_on(p, &index, out);
            }
            return Ok(Look::Broken(Broken::Behind));
        }
        if index.max_frame == 0 && self.next_generation_continues() {
            return Ok(Look::Nothing);
        }
        self.enter_generation(index.salt)?;
        match self.place.filter(|p| p.salt == index.salt) {
            Some(start) => self.read_on(start, &index, out),
            None => self.resume(out),
        }
    }

    fn read_on(&mut self, from: Place, index: &WalIndexHeader, out: &mut Frames) -> Result<Look, Error> {
        self.wal(Some(from.salt))?;
        let Some((wal, header)) = self.wal.as_ref().filter(|(_, h)| h.salt == from.salt) else {
            return Ok(Look::Broken(Broken::Gone));
        };
        let (end, why) = wal.skim(header, from, index, &self.files, out)?;
        let Some(broken) = damaged(why, end, index.max_frame, out) else { return Ok(Look::Frames(end)) };
        out.clear();
        Ok(Look::Broken(broken))
    }

    /// Judges what happened since the place was saved; see [`continuity`].
    pub fn resume(&mut self, out: &mut Frames) -> Result<Look, Error> {
        out.clear();
        let Some(place) = self.place else { return Ok(Look::Broken(Broken::Unknown)) };
        let index = self.wal_index()?;
        self.wal = None;
        self.wal(None)?;
        let Some((wal, _)) = &self.wal else { return Ok(Look::Broken(Broken::Gone)) };
        Ok(match continuity::resume(&self.files, wal, place, &index, out)? {
            Ok(end) if out.slots.is_empty() => {
                self.place = Some(end);
                Look::Nothing
            }
            Ok(end) => Look::Frames(end),
            Err(broken) => Look::Broken(broken),
        })
    }

    /// Encodes the frames of the last [`Look::Frames`] and moves the place to their end.
    pub fn segment(
        &mut self,
        frames: &Frames,
        end: Place,
        stamp: Stamp,
        (spool, packs): (&Spool, &mut Packs),
    ) -> Result<Segment, Error> {
        let (wal, wal_header) = self.wal.as_ref().expect("the frames were read from it");
        let of = segment::FramesOf {
            files: &self.files,
            wal,
            wal_header,
            before: self.place,
            place: end,
            page_count_before: self.page_count,
        };
        let segment = segment::from_frames(&of, frames, stamp, spool)?;
        segment::pack_frames(&of, frames, &segment, packs);
        self.place = Some(end);
        self.page_count = segment.header.commit;
        Ok(segment)
    }

    /// The present state, which the hold protects for as long as the capture is not used otherwise.
    pub fn pages(&mut self) -> Result<Pages<'_>, Error> {
        self.renew_hold()?;
        let index = self.wal_index()?;
        if index.max_frame == 0 {
            // A WAL whose header already bears the salt begins there; otherwise the next commit writes a header.
            let header = self.wal(Some(index.salt))?.map(|(_, h)| h).filter(|h| h.salt == index.salt);
            let place = header.map(|h| Place { salt: h.salt, frames: 0, checksum: h.checksum });
            return Pages::in_database(&self.files, self.page_size, place);
        }
        self.wal(Some(index.salt))?;
        let slots = match &self.wal {
            Some((wal, header)) if header.salt == index.salt => Slots::read(wal, header, index.max_frame)?,
            _ => {
                let path = self.files.path().display();
                let message = format!("the WAL of `{path}` does not fit its wal-index");
                return Err(Error::new(Kind::Unavailable, message));
            }
        };
        let slots = match slots {
            Ok(slots) => slots,
            Err(broken) => return self.copied_pages(broken),
        };
        let (wal, _) = self.wal.as_ref().expect("they were read from it");
        Pages::in_wal(&self.files, wal, self.page_size, slots)
    }

    /// The present state when frames are damaged: SQLite shows and copies them all the same, so it is in the database file
    /// once a checkpoint has copied all of them. Until then SQLite itself would lose it in a crash.
    fn copied_pages(&mut self, broken: Broken) -> Result<Pages<'_>, Error> {
        // Most of it while writers go on.
        self.observer()?.checkpoint_passive()?;
        let copied = match self.lock_writers()? {
            true => self.copy_rest(),
            false => Ok(None),
        };
        self.files.unlock_writers()?;
        let copied = copied?;
        let path = self.files.path().display();
        let Some(index) = copied else {
            return Err(Error::new(
                Kind::Unavailable,
                format!(
                    "{broken} in `{path}-wal`: its pages are compared once SQLite has copied them into the database, which readers or writers keep it from"
                ),
            ));
        };
        tracing::error!(
            %path,
            "{broken}; SQLite shows it all the same, and so the backup has it from here on: `PRAGMA integrity_check` tells whether the database is whole"
        );
        let place = Place { salt: index.salt, frames: index.max_frame, checksum: index.frame_checksum };
        Ok(Pages::copied(&self.files, self.page_size, index.page_count, place))
    }

    /// Copies all of the WAL into the database file and keeps everybody from writing there. `None`: somebody is in the way.
    fn copy_rest(&mut self) -> Result<Option<WalIndexHeader>, Error> {
        let done = self.observer()?.checkpoint_passive()?;
        let index = self.wal_index()?;
        if !done.is_complete() || !self.files.hold_backfilled(index.salt, index.max_frame)? {
            return Ok(None);
        }
        self.backfilled_at = Some((index.salt, index.max_frame));
        self.held_at = index.max_frame;
        Ok(Some(index))
    }

    /// The state that ends at this offset of this WAL generation, and `true`; without such a place, because the WAL is
    /// empty or the offset unknown, the present state, and `false`. `None` when the offset is before what the hold
    /// protects, so that the state cannot be read any more.
    pub fn pages_at_offset(&mut self, at: Option<(Salt, u64)>) -> Result<Option<(Pages<'_>, bool)>, Error> {
        let index = self.wal_index()?;
        let frame_len = frame_size(self.page_size);
        let of_this_generation = at.filter(|(salt, end)| {
            *salt == index.salt
                && *end >= WalHeader::LEN as u64
                && (end - WalHeader::LEN as u64).is_multiple_of(frame_len)
        });
        let Some((salt, end)) = of_this_generation.filter(|_| index.max_frame > 0) else {
            return match at {
                // The log ends in a generation before this one, which has frames: it is behind.
                Some(_) if index.max_frame > 0 => Ok(None),
                _ => Ok(Some((self.pages()?, false))),
            };
        };
        let frames = ((end - WalHeader::LEN as u64) / frame_len) as u32;
        // Below this a checkpoint may write pages into the database file while they are read.
        let floor = match self.files.hold() {
            Hold::Mark(_) => self.held_at,
            Hold::Backfilled => index.checkpoint.backfilled,
            Hold::Nothing => u32::MAX,
        };
        if frames < floor || frames > index.max_frame {
            return Ok(None);
        }
        if self.backfilled_at == Some((salt, frames)) && frames == index.max_frame {
            // The next commit may overwrite them, all of which are in the database file.
            let place = Place { salt, frames, checksum: index.frame_checksum };
            return Ok(Some((Pages::copied(&self.files, self.page_size, index.page_count, place), true)));
        }
        self.wal(Some(salt))?;
        let Some((wal, header)) = self.wal.as_ref().filter(|(_, h)| h.salt == salt) else { return Ok(None) };
        let slots = Slots::read(wal, header, frames)?.map_err(|broken| {
            let path = self.files.path().display();
            Error::new(Kind::Unavailable, format!("{broken} in `{path}-wal`"))
        })?;
        Ok(Some((Pages::in_wal(&self.files, wal, self.page_size, slots)?, true)))
    }

    /// The state up to the place, for as long as the capture is not used otherwise. `None`: more has been committed that has to be
    /// captured first, or nobody knows where the place is.
    pub fn captured_pages(&mut self) -> Result<Option<Pages<'_>>, Error> {
        if !self.is_position_known() {
            return Ok(None);
        }
        let at = self.place.map(|place| (place.salt, place.offset(self.page_size)));
        let is_empty = |pages: &Pages<'_>| pages.place.is_none_or(|place| place.frames == 0);
        let found = self.pages_at_offset(at)?;
        Ok(found.and_then(|(pages, is_there)| (is_there || is_empty(&pages)).then_some(pages)))
    }

    /// Compares the present state with the checksums of what the log has: the pages that differ become one segment.
    /// `None` when nothing differs. Moves the place to the present in both cases. `stamp` is asked once it is fixed
    /// which commits that present has, and `may_go_on` before each page.
    pub fn difference(
        &mut self,
        sums: &PageSums,
        stamp: impl FnOnce() -> Stamp,
        (spool, packs): (&Spool, &mut Packs),
        may_go_on: impl Fn() -> Result<(), Error>,
    ) -> Result<Option<Segment>, Error> {
        let log_count = sums.page_count()?;
        let pages = self.pages()?;
        let stamp = stamp();
        let (place, page_count) = (pages.place, pages.page_count());
        let mut changed: Vec<Pgno> = vec![];
        let mut known = sums.ascending();
        pages.for_each(|pgno, page| {
            may_go_on()?;
            if pgno.get() > log_count || known.get(pgno)? != page_checksum(pgno, page) {
                changed.push(pgno);
            }
            Ok(())
        })?;
        let mut segment = None;
        if !changed.is_empty() || page_count != log_count {
            if changed.is_empty() {
                // The database only shrank. A file of the log holds at least one page.
                changed.push(Pgno::FIRST);
            }
            let found = segment::from_pages(&pages, &changed, stamp, spool)?;
            pages.sync()?;
            segment::pack_pages(&found, packs);
            segment = Some(found);
        }
        self.set_position(place, page_count);
        Ok(segment)
    }

    /// Some pages as they are in the log's last state, as a transaction that changes nothing. `None` when the database
    /// has moved on since the last look: the log would have these pages of a later state than the others.
    pub fn restate(
        &mut self,
        which: &[Pgno],
        stamp: Stamp,
        (spool, packs): (&Spool, &mut Packs),
    ) -> Result<Option<Segment>, Error> {
        let before = self.place.map(|p| (p.salt, p.frames));
        let pages = self.pages()?;
        let now = pages.place.map(|p| (p.salt, p.frames));
        let is_same = match before {
            Some(_) => now == before,
            // The WAL was empty.
            None => now.is_none_or(|(_, frames)| frames == 0),
        };
        if !is_same {
            return Ok(None);
        }
        let (place, page_count) = (pages.place, pages.page_count());
        let segment = segment::from_pages(&pages, which, stamp, spool)?;
        segment::pack_pages(&segment, packs);
        self.set_position(place, page_count);
        Ok(Some(segment))
    }

    /// The place that a file of the log ended at, if the WAL still proves it: the frame before it is of the same
    /// generation, ends the same commit and holds the page that the file holds. `page_sum` gives that page's checksum.
    pub fn locate(
        &mut self,
        header: &litekeep_ltx::Header,
        page_sum: impl Fn(Pgno) -> Result<Option<Checksum>, Error>,
    ) -> Result<Option<Place>, Error> {
        let end = header.wal_offset + header.wal_size;
        let (frame_len, page_size) = (frame_size(self.page_size), self.page_size);
        let Some(bytes) = end.checked_sub(WalHeader::LEN as u64).filter(|n| n.is_multiple_of(frame_len))
        else {
            return Ok(None);
        };
        let Ok(frames) = u32::try_from(bytes / frame_len) else { return Ok(None) };
        let Some((wal, wal_header)) = self.wal(None)? else { return Ok(None) };
        if frames == 0 {
            let place = Place { salt: wal_header.salt, frames, checksum: wal_header.checksum };
            return Ok((wal_header.salt == header.wal_salt).then_some(place));
        }
        let Some(last) = wal.frame_header(page_size, frames - 1)? else { return Ok(None) };
        if last.salt != header.wal_salt || last.commit != header.commit {
            return Ok(None);
        }
        let mut page = vec![0; page_size.bytes()];
        wal.page(page_size, frames - 1, &mut page)?;
        let same = page_sum(last.pgno)? == Some(page_checksum(last.pgno, &page));
        Ok(same.then_some(Place { salt: last.salt, frames, checksum: last.checksum }))
    }

    /// The place that the last of some files ended at that follow the log's end, if the WAL still proves all of them: its
    /// frames since the log's place, or since the WAL began anew, hold what they hold. `sums`: the newest of each page.
    pub fn locate_all(
        &mut self,
        last: &litekeep_ltx::Header,
        sums: &HashMap<Pgno, Checksum>,
        frames: &mut Frames,
    ) -> Result<Option<Place>, Error> {
        let Some(end) = self.locate(last, |pgno| Ok(sums.get(&pgno).copied()))? else { return Ok(None) };
        let (page_size, from) = (self.page_size, self.place.filter(|p| p.salt == end.salt));
        let Some((wal, header)) = self.wal(Some(end.salt))?.filter(|(_, h)| h.salt == end.salt) else {
            return Ok(None);
        };
        let from = from.unwrap_or(Place { salt: header.salt, frames: 0, checksum: header.checksum });
        if from.frames > end.frames || wal.read(header, from, end.frames, frames)?.0 != end {
            return Ok(None);
        }
        let mut page = vec![0; page_size.bytes()];
        for (pgno, nth) in frames.newest().into_iter().filter(|(p, _)| p.get() <= last.commit) {
            wal.page(page_size, frames.slots[nth].index, &mut page)?;
            if sums.get(&pgno) != Some(&page_checksum(pgno, &page)) {
                return Ok(None);
            }
        }
        Ok(Some(end))
    }

    /// Bytes that the log has and checkpoints may not copy yet.
    pub fn bytes_pinned(&self) -> u64 {
        let frames = match (self.files.hold(), self.place) {
            (Hold::Mark(_), Some(p)) => p.frames.saturating_sub(self.held_at),
            // Under this hold no checkpoint copies anything until it is moved: after the reset nothing of the new WAL,
            // and when a reader has kept the reset from happening, nothing of what was added since.
            (Hold::Backfilled, Some(p)) => match self.backfilled_at {
                Some((salt, frames)) if salt == p.salt => p.frames.saturating_sub(frames),
                _ => return u64::MAX,
            },
            _ => 0,
        };
        u64::from(frames) * frame_size(self.page_size)
    }

    /// Bytes that the application has committed beyond the place, as far as the wal-index tells at a glance.
    pub fn bytes_ahead(&self) -> u64 {
        let Ok(Some(index)) = self.files.wal_index() else { return 0 };
        let known = self.place.filter(|p| p.salt == index.salt).map_or(0, |p| p.frames);
        u64::from(index.max_frame.saturating_sub(known)) * frame_size(self.page_size)
    }

    /// Whether a frame of the current generation stands behind the place: a commit that is about to be counted, which
    /// raises no further event, or the trace of a rollback.
    pub fn has_frames_beyond(&mut self) -> Result<bool, Error> {
        let page_size = self.page_size;
        let place = self.place;
        let Some((wal, header)) = self.wal(place.map(|p| p.salt))? else { return Ok(false) };
        let next = place.filter(|p| p.salt == header.salt).map_or(0, |p| p.frames);
        Ok(wal.frame_header(page_size, next)?.is_some_and(|f| f.salt == header.salt))
    }

    /// Whether the next commit resets the WAL already.
    pub fn is_reset_prepared(&self) -> bool {
        self.next_generation_continues()
    }

    /// Lets the WAL go: it may be reset, and what is not captured by then has to be found by page checksums.
    pub fn let_go(&mut self) -> Result<(), Error> {
        self.backfilled_at = None;
        self.files.release()
    }

    /// Tells other processes whether the log has everything that was there at the last look ([`is_in_log`]).
    pub fn tell_in_log(&mut self, is_so: bool) -> Result<(), Error> {
        self.files.tell_in_log(is_so && self.unknown.is_none() && self.files.hold() != Hold::Nothing)
    }

    /// Bytes of the WAL that the log has.
    pub fn wal_bytes(&self) -> u64 {
        self.place.map_or(0, |p| u64::from(p.frames) * frame_size(self.page_size))
    }

    /// Moves the hold to the present and copies frames into the database file up to there.
    pub fn checkpoint(&mut self) -> Result<litekeep_sql::Checkpoint, Error> {
        self.renew_hold()?;
        Ok(self.observer()?.checkpoint_passive()?)
    }

    /// Whether anybody may checkpoint, until the hold is renewed.
    pub fn let_checkpoints(&mut self, happen: bool) -> Result<(), Error> {
        if happen { self.files.free_checkpoints() } else { self.files.hold_checkpoints() }
    }

    /// Gives up connections and the WAL's descriptor; locks stay. When the log has everything it is copied into the
    /// database file first, so that the application's next commit can reset the WAL by itself.
    pub fn rest(&mut self) -> Result<(), Error> {
        let done = self.checkpoint()?;
        if done.is_complete() {
            self.hold_backfilled()?;
        }
        (self.observer, self.wal) = (None, None);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
