//! Reading the frames of the WAL, verified.
//!
//! Reads go through `pread`: a map would raise SIGBUS when the application truncates the file. A WAL descriptor may be
//! opened and closed at will, since SQLite takes no POSIX locks on the WAL.

use crate::Error;
use litekeep_env::file::{self, sibling};
use litekeep_format::{Chain, FrameHeader, Stop, WalChecksum, WalHeader, frame_offset, frame_size};
use litekeep_ltx::{PageSize, Pgno, Salt};
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

/// An open WAL.
#[derive(Debug)]
pub struct Wal {
    path: PathBuf,
    file: Arc<File>,
}

/// Frames that were read and verified, in the order of the WAL.
#[derive(Debug, Default)]
pub struct Frames {
    /// Page and index in the WAL (from 0) of each frame.
    pub pages: Vec<(Pgno, u32)>,
    /// Commits among them.
    pub commits: u32,
    /// Database size in pages after the last commit.
    pub page_count: u32,
    /// Begins with the bytes of the frames, without gaps, while they fit into the limit.
    buffer: Vec<u8>,
    /// How much of the buffer that is; 0 when they did not fit. The buffer keeps its length, since filling it with
    /// zeros before every read costs a tenth of a capture.
    filled: usize,
}

impl Frames {
    /// Forgets the frames and keeps the memory.
    pub fn clear(&mut self) {
        self.pages.clear();
        (self.filled, self.commits, self.page_count) = (0, 0, 0);
    }

    /// The bytes of the frames, in order; empty when they are too many to be kept.
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[..self.filled]
    }

    /// Forgets the bytes, and keeps what the frames are.
    pub fn drop_bytes(&mut self) {
        self.filled = 0;
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
    /// At a frame whose checksum does not continue the chain.
    BadChecksum,
}

/// Frames are read in pieces of about this many bytes.
const READ_LEN: usize = 256 << 10;
/// Frames beyond this many bytes are not kept in memory; whoever needs their pages reads them again.
pub(super) const KEEP_LEN: usize = 8 << 20;

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

    /// Reads and verifies the frames from `place` up to frame number `limit`, appending to `out` those that belong to
    /// finished commits. Returns the place after the last commit and why reading stopped.
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
        let mut next = place.frames;
        let mut end = place;
        let mut keep = out.filled == out.pages.len() * frame_len;
        let mut committed = out.pages.len();
        let mut piece = vec![];
        let why = 'read: loop {
            if next >= limit {
                break End::Limit;
            }
            let want = ((READ_LEN / frame_len).max(1)).min((limit - next) as usize) * frame_len;
            // Straight into the caller's memory while frames are kept; otherwise into one piece that is used again.
            let (buffer, from) =
                if keep { (&mut out.buffer, out.pages.len() * frame_len) } else { (&mut piece, 0) };
            if buffer.len() < from + want {
                buffer.resize(from + want, 0);
            }
            let n = self.read_at(&mut buffer[from..from + want], frame_offset(page_size, next))?;
            for frame in buffer[from..from + n].chunks_exact(frame_len) {
                match chain.step(frame) {
                    Ok(f) => {
                        out.pages.push((f.pgno, next));
                        next += 1;
                        if f.is_commit() {
                            out.commits += 1;
                            out.page_count = f.commit;
                            committed = out.pages.len();
                            end = Place { salt: place.salt, frames: next, checksum: chain.checksum() };
                        }
                    }
                    Err(Stop::OtherSalt(salt)) => break 'read End::OtherSalt(salt),
                    Err(Stop::BadChecksum) => break 'read End::BadChecksum,
                }
            }
            if n < want {
                break End::File { aligned: n % frame_len == 0 };
            }
            keep &= from + want <= KEEP_LEN;
        };
        out.pages.truncate(committed);
        out.filled = if keep { committed * frame_len } else { 0 };
        Ok((end, why))
    }
}
