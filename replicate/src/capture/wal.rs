//! Reading the frames of the WAL, verified.
//!
//! Reads go through `pread`: a map would raise SIGBUS when the application truncates the file. A WAL descriptor may be
//! opened and closed at will, since SQLite takes no POSIX locks on the WAL.

use super::held::HeldFiles;
use crate::{Error, Kind};
use litekeep_env::file::{self, sibling};
use litekeep_format::{
    Chain, FrameHeader, Stop, WalChecksum, WalHeader, WalIndexHeader, frame_offset, frame_size,
};
use litekeep_ltx::{PageSize, Pgno, Salt};
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A place in the WAL: everything before it is in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The generation.
    pub salt: Salt,
    /// Frames of the generation that are in the log; the last one ends a commit.
    pub frames: u32,
    /// Checksum of the last of these frames, of the WAL's header when there are none.
    pub checksum: WalChecksum,
}

impl Place {
    /// Where the next frame begins in the file.
    pub fn offset(&self, page_size: PageSize) -> u64 {
        frame_offset(page_size, self.frames)
    }
}

/// The place after so many frames of a WAL, all of which SQLite counts, made durable; `None` where the file does not have them.
pub fn place_after(database: &Path, frames: u32) -> Result<Option<Place>, Error> {
    let Some(wal) = Wal::open(database)? else { return Ok(None) };
    let (Some(header), Some(last)) = (wal.header()?, frames.checked_sub(1)) else { return Ok(None) };
    let last = wal.frame_header(header.page_size, last)?;
    let Some(last) = last.filter(|last| last.salt == header.salt && last.commit > 0) else { return Ok(None) };
    wal.file.sync_data().map_err(Error::file("sync", &wal.path))?;
    Ok(Some(Place { salt: header.salt, frames, checksum: last.checksum }))
}

/// An open WAL.
#[derive(Debug)]
pub struct Wal {
    path: PathBuf,
    file: Arc<File>,
}

/// Where the WAL has a page.
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    /// The page.
    pub pgno: Pgno,
    /// The frame's index in the WAL, from 0.
    pub index: u32,
    /// Pages of the database after it when it ends a commit, else 0.
    pub commit: u32,
    /// Checksum of the frame before it, by which it can be verified alone.
    before: WalChecksum,
}

/// Frames of finished commits, in the order of the WAL.
#[derive(Debug, Default)]
pub struct Frames {
    /// Each frame.
    pub slots: Vec<Slot>,
    /// Commits among them.
    pub commits: u32,
    /// Database size in pages after the last commit.
    pub page_count: u32,
    /// Frames of the WAL up to where reading stopped.
    pub reached: u32,
    /// Begins with the bytes of the frames when they are few.
    buffer: Vec<u8>,
    /// How much of the buffer that is. It keeps its length, since filling it with zeros before every read costs a tenth of
    /// a capture.
    filled: usize,
}

impl Frames {
    /// Forgets the frames and keeps the memory.
    pub fn clear(&mut self) {
        self.slots.clear();
        (self.filled, self.commits, self.page_count, self.reached) = (0, 0, 0, 0);
    }

    /// Forgets the bytes, and keeps what the frames are.
    pub fn drop_bytes(&mut self) {
        self.filled = 0;
    }

    /// Index in [`Frames::slots`] of the last frame of each page.
    pub fn newest(&self) -> HashMap<Pgno, usize> {
        self.slots.iter().enumerate().map(|(nth, slot)| (slot.pgno, nth)).collect()
    }
}

/// How reading a chain of frames ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// At the frame number that was asked for.
    Limit,
    /// At the end of the file; `aligned` when no part of a frame follows.
    File {
        /// The file ends with a whole frame.
        aligned: bool,
    },
    /// At a frame of another generation.
    OtherSalt(Salt),
    /// At a frame whose checksum does not continue the chain, or that is not the one that the wal-index counts.
    BadChecksum,
}

/// Frames are read in pieces of about this many bytes. More are not kept in memory: whoever needs their pages reads them
/// again.
const PIECE_LEN: usize = 256 << 10;

/// Frames of one piece, at least one.
fn piece_frames(page_size: PageSize) -> usize {
    (PIECE_LEN / frame_size(page_size) as usize).max(1)
}

impl Wal {
    /// Opens the WAL of a database; `None` when there is none.
    pub fn open(database: &Path) -> Result<Option<Wal>, Error> {
        let path = sibling(database, "-wal");
        match File::open(&path) {
            Ok(file) => Ok(Some(Wal { path, file: Arc::new(file) })),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::file("open", &path)(e)),
        }
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> Result<usize, Error> {
        file::read_up_to(&self.file, bytes, offset).map_err(Error::file("read", &self.path))
    }

    /// Length of the file in bytes.
    pub fn len(&self) -> Result<u64, Error> {
        Ok(self.file.metadata().map_err(Error::file("read the size of", &self.path))?.len())
    }

    /// The file's header; `None` when it is too short or torn, as before the first commit.
    pub fn header(&self) -> Result<Option<WalHeader>, Error> {
        let mut bytes = [0; WalHeader::LEN];
        if self.read_at(&mut bytes, 0)? < bytes.len() {
            return Ok(None);
        }
        Ok(WalHeader::parse(&bytes).ok())
    }

    /// The place before the first frame of the file's generation.
    pub fn start(&self) -> Result<Option<(Place, WalHeader)>, Error> {
        Ok(self.header()?.map(|h| (Place { salt: h.salt, frames: 0, checksum: h.checksum }, h)))
    }

    /// Header of one frame, unverified; `None` beyond the end.
    pub fn frame_header(&self, page_size: PageSize, index: u32) -> Result<Option<FrameHeader>, Error> {
        let mut bytes = [0; FrameHeader::LEN];
        if self.read_at(&mut bytes, frame_offset(page_size, index))? < bytes.len() {
            return Ok(None);
        }
        Ok(FrameHeader::parse(&bytes))
    }

    /// The page that a frame holds, unverified.
    pub fn page(&self, page_size: PageSize, index: u32, page: &mut [u8]) -> Result<(), Error> {
        let offset = frame_offset(page_size, index) + FrameHeader::LEN as u64;
        if self.read_at(page, offset)? < page.len() {
            let e = io::Error::new(io::ErrorKind::UnexpectedEof, "the file was truncated");
            return Err(Error::file("read", &self.path)(e));
        }
        Ok(())
    }

    /// The descriptor, for syncing on another thread what the application has written.
    pub fn file(&self) -> Arc<File> {
        self.file.clone()
    }

    /// Reads and verifies the frames from `place` up to frame number `limit`, and puts those that belong to finished
    /// commits into `out`, which is empty. Returns the place after the last commit and why reading stopped.
    pub fn read(
        &self,
        header: &WalHeader,
        place: Place,
        limit: u32,
        out: &mut Frames,
    ) -> Result<(Place, End), Error> {
        let page_size = header.page_size;
        let frame_len = frame_size(page_size) as usize;
        let mut chain = Chain::resume(place.salt, place.checksum, page_size, header.big_endian);
        let mut run = Run::begin(place, out);
        let mut pieces = 0;
        let why = 'read: loop {
            if run.next >= limit {
                break End::Limit;
            }
            pieces += 1;
            let want = piece_frames(page_size).min((limit - run.next) as usize) * frame_len;
            if out.buffer.len() < want {
                out.buffer.resize(want, 0);
            }
            let n = self.read_at(&mut out.buffer[..want], frame_offset(page_size, run.next))?;
            for frame in out.buffer[..n].chunks_exact(frame_len) {
                match chain.step(frame) {
                    Ok(header) => run.add(&header, &mut out.slots),
                    Err(Stop::OtherSalt(salt)) => break 'read End::OtherSalt(salt),
                    Err(Stop::BadChecksum) => break 'read End::BadChecksum,
                }
            }
            if n < want {
                break End::File { aligned: n % frame_len == 0 };
            }
        };
        let end = run.finish(out);
        out.filled = if pieces == 1 { out.slots.len() * frame_len } else { 0 };
        Ok((end, why))
    }

    /// The same of all frames that the wal-index counts, of which only the headers are read: most pages of a hot writer are
    /// written again before anybody needs them. That a header names the right page is held against the wal-index; a page is
    /// verified when it is read, by a [`SlotReader`]. What fits into one piece is read whole.
    pub fn skim(
        &self,
        header: &WalHeader,
        place: Place,
        index: &WalIndexHeader,
        files: &HeldFiles,
        out: &mut Frames,
    ) -> Result<(Place, End), Error> {
        let limit = index.max_frame;
        let count = limit.saturating_sub(place.frames);
        if count as usize <= piece_frames(header.page_size) {
            return self.read(header, place, limit, out);
        }
        let mut named = files.named_pages(place.frames, count)?.into_iter();
        let mut run = Run::begin(place, out);
        let mut bytes = [0; FrameHeader::LEN];
        let why = loop {
            if run.next >= limit {
                break End::Limit;
            }
            let n = self.read_at(&mut bytes, frame_offset(header.page_size, run.next))?;
            if n < bytes.len() {
                break End::File { aligned: n == 0 };
            }
            match FrameHeader::parse(&bytes) {
                Some(frame) if frame.salt != place.salt => break End::OtherSalt(frame.salt),
                Some(frame) if named.next() == Some(frame.pgno.get()) => run.add(&frame, &mut out.slots),
                _ => break End::BadChecksum,
            }
        };
        let end = run.finish(out);
        let is_other_size = why == End::Limit && out.page_count != index.page_count;
        Ok((end, if is_other_size { End::BadChecksum } else { why }))
    }
}

/// Consecutive frames of one generation.
struct Run {
    salt: Salt,
    /// The next frame's number, and the checksum before it.
    next: u32,
    before: WalChecksum,
    /// Frames up to the last commit, commits, pages after the last one, and where it ends.
    committed: usize,
    commits: u32,
    page_count: u32,
    end: Place,
}

impl Run {
    fn begin(place: Place, out: &mut Frames) -> Run {
        out.clear();
        Run {
            salt: place.salt,
            next: place.frames,
            before: place.checksum,
            committed: 0,
            commits: 0,
            page_count: 0,
            end: place,
        }
    }

    fn add(&mut self, frame: &FrameHeader, slots: &mut Vec<Slot>) {
        slots.push(Slot { pgno: frame.pgno, index: self.next, commit: frame.commit, before: self.before });
        self.next += 1;
        self.before = frame.checksum;
        if frame.is_commit() {
            self.commits += 1;
            self.page_count = frame.commit;
            self.committed = slots.len();
            self.end = Place { salt: self.salt, frames: self.next, checksum: frame.checksum };
        }
    }

    fn finish(self, out: &mut Frames) -> Place {
        out.slots.truncate(self.committed);
        (out.commits, out.page_count, out.reached) = (self.commits, self.page_count, self.next);
        self.end
    }
}

/// The pages of frames, verified. Frames that stand side by side are read together.
pub(super) struct SlotReader<'a> {
    wal: &'a Wal,
    frames: &'a Frames,
    chain: Chain,
    page_size: PageSize,
    piece: Vec<u8>,
    /// The slots in the piece: index of the first, and how many.
    loaded: (usize, usize),
}

impl<'a> SlotReader<'a> {
    pub(super) fn new(wal: &'a Wal, header: &WalHeader, frames: &'a Frames) -> SlotReader<'a> {
        let page_size = header.page_size;
        let chain = Chain::new(header);
        SlotReader { wal, frames, chain, page_size, piece: vec![], loaded: (0, 0) }
    }

    /// The page in a slot. `run`: how many slots from there on will be asked for, of so many at most.
    pub(super) fn page(&mut self, nth: usize, run: impl FnOnce(usize) -> usize) -> Result<&[u8], Error> {
        let frame_len = frame_size(self.page_size) as usize;
        let page = FrameHeader::LEN..frame_len;
        if self.frames.filled > 0 {
            let frame = &self.frames.buffer[nth * frame_len..(nth + 1) * frame_len];
            return Ok(&frame[page]);
        }
        let (first, count) = self.loaded;
        if !(first..first + count).contains(&nth) {
            // After a reset slots are neighbours that are none in the file.
            let following = self.frames.slots[nth..].iter().take(piece_frames(self.page_size));
            let in_file = following.zip(self.frames.slots[nth].index..).take_while(|(s, i)| s.index == *i);
            let count = run(in_file.count());
            self.piece.resize(count * frame_len, 0);
            let n = self
                .wal
                .read_at(&mut self.piece, frame_offset(self.page_size, self.frames.slots[nth].index))?;
            self.loaded = (nth, n / frame_len);
        }
        let at = (nth - self.loaded.0) * frame_len;
        let slot = self.frames.slots[nth];
        let frame = self.piece.get(at..at + frame_len).filter(|_| nth < self.loaded.0 + self.loaded.1);
        let found = frame.filter(|f| self.chain.check(slot.before, f).is_some_and(|h| h.pgno == slot.pgno));
        found.map(|frame| &frame[page]).ok_or_else(|| {
            let path = self.wal.path.display();
            Error::new(
                Kind::Corrupt,
                format!(
                    "frame {} of `{path}`, which holds page {}, is not what its checksum says",
                    slot.index + 1,
                    slot.pgno
                ),
            )
        })
    }
}
