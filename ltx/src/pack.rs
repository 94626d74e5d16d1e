//! A pack: the application's single commits of consecutive level-0 files, which such a file has only put together.
//!
//! A level-0 file holds the newest version of each page that its commits wrote. A pack holds the version of every commit,
//! mostly as its difference from the version before. Applied in order to any state that the log has of its first
//! transaction's predecessor or of a transaction within, it gives the state after every commit up to its end. Litestream
//! knows nothing of packs, and nothing but single commits is lost without them.
//!
//! ```text
//!  0  "litekeep commits"           16
//! 16  page size                     4   numbers are big-endian
//! 20  writer                        8
//! 28  entries, one for each level-0 file, in order:
//!      0  transaction               8
//!      8  time, ms since the epoch  8
//!     16  commits                   4   of the application in the file; 0: it was made by comparing pages
//!     20  commits told apart        4   the same number, or 1
//!     24  bytes of the body         4   and of its LZ4 block
//!     28  bytes of the LZ4 block    4
//!     32  checksum                  8   CRC-64/GO-ISO of the 32 bytes before and of the LZ4 block
//!     40  LZ4 block of the body: for each commit
//!           uvarint pgno, uvarint kind   a page
//!             kind 0: the page
//!             kind n: n times uvarint bytes that are as before, uvarint bytes that follow, these bytes
//!           uvarint 0, uvarint pages of the database after it
//! ```
//!
//! A pack grows by whole entries. A reader takes those that are whole and stops before one that is not: a crash while it
//! was written leaves a shorter pack.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use crate::crc::Crc;
use crate::header::{be32, be64};
use crate::uvarint::{put_uvarint, take_uvarint};
use crate::{Checksum, Error, PageSize, Pgno, Txid, WriterId};

const MAGIC: &[u8; 16] = b"litekeep commits";
const ENTRY_LEN: usize = 40;
/// What a body may take at most, in bytes: bounds what a reader must hold.
const MAX_BODY: usize = 256 << 20;
/// Bytes as before that are not worth the two numbers of another run.
const LEAST_GAP: usize = 8;

/// What an entry is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackEntry {
    /// The level-0 file.
    pub txid: Txid,
    /// Its time, milliseconds since the epoch.
    pub timestamp_ms: i64,
    /// The application's commits in it; 0 when it was made by comparing pages.
    pub commits: u32,
    /// How many are told apart: all, or 1 for all of them together.
    pub parts: u32,
}

/// What a commit wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Pages of the database after it.
    pub page_count: u32,
    /// Each page that it wrote, in the order of writing.
    pub pages: Vec<(Pgno, Arc<[u8]>)>,
}

/// A level-0 file as single commits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackCapture {
    /// What it is about.
    pub entry: PackEntry,
    /// Its commits, as far as they are told apart.
    pub commits: Vec<Commit>,
}

/// Makes the entries of a pack, one after the other.
#[derive(Debug)]
pub struct PackEncoder {
    page_size: PageSize,
    /// The newest version of pages that the pack has already, as far as there is room.
    versions: HashMap<Pgno, Box<[u8]>>,
    room: usize,
    body: Vec<u8>,
    parts: u32,
}

impl PackEncoder {
    /// For a pack that is empty, or whose entries were made by another encoder. `room`: bytes of pages that are remembered.
    pub fn new(page_size: PageSize, room: usize) -> PackEncoder {
        PackEncoder { page_size, versions: HashMap::new(), room, body: vec![], parts: 0 }
    }

    /// The bytes that a pack begins with.
    pub fn header(page_size: PageSize, writer: WriterId) -> Vec<u8> {
        let mut header = MAGIC.to_vec();
        header.extend(page_size.get().to_be_bytes());
        header.extend(writer.0.to_be_bytes());
        header
    }

    /// Adds a page to the commit.
    pub fn page(&mut self, pgno: Pgno, page: &[u8]) {
        debug_assert_eq!(page.len(), self.page_size.bytes());
        put_uvarint(&mut self.body, pgno.get().into());
        match self.versions.get_mut(&pgno) {
            Some(before) => {
                put_difference(&mut self.body, before, page);
                before.copy_from_slice(page);
            }
            None => {
                put_uvarint(&mut self.body, 0);
                self.body.extend(page);
                if (self.versions.len() + 1) * page.len() > self.room {
                    self.versions.clear();
                }
                self.versions.insert(pgno, page.into());
            }
        }
    }

    /// Ends the commit.
    pub fn commit(&mut self, page_count: u32) {
        put_uvarint(&mut self.body, 0);
        put_uvarint(&mut self.body, page_count.into());
        self.parts += 1;
    }

    /// Forgets the entry that was begun, and what the pack has.
    pub fn abandon(&mut self) {
        (self.versions, self.body, self.parts) = (HashMap::new(), vec![], 0);
    }

    /// Ends the entry and returns its bytes. `commits`: see [`PackEntry::commits`].
    ///
    /// # Errors
    /// `Invalid` for an entry without a commit, or of more bytes than a reader takes; it is abandoned.
    pub fn finish(&mut self, txid: Txid, timestamp_ms: i64, commits: u32) -> Result<Vec<u8>, Error> {
        if self.parts == 0 || self.body.len() > MAX_BODY {
            let len = self.body.len();
            self.abandon();
            return Err(Error::invalid(format!("an entry of {len} bytes is none of a pack")));
        }
        let mut entry = Vec::with_capacity(ENTRY_LEN + self.body.len() / 2);
        entry.extend(txid.get().to_be_bytes());
        entry.extend(timestamp_ms.to_be_bytes());
        entry.extend(commits.to_be_bytes());
        entry.extend(self.parts.to_be_bytes());
        entry.extend((self.body.len() as u32).to_be_bytes());
        let block = lz4_flex::block::compress(&self.body);
        entry.extend((block.len() as u32).to_be_bytes());
        let checksum = entry_checksum(&entry, &block);
        entry.extend(checksum.0.to_be_bytes());
        entry.extend(block);
        self.parts = 0;
        if self.body.capacity() > self.room {
            self.body = vec![];
        }
        self.body.clear();
        Ok(entry)
    }
}

impl PackDecoder<Vec<u8>> {
    /// Adds bytes that have come to the end of a pack since; whether there is anything whole among them.
    pub fn grow(&mut self, rest: &[u8]) -> bool {
        let end = self.pack.end();
        self.bytes.truncate(end);
        self.bytes.extend(rest);
        self.pack.scan_from(&self.bytes);
        self.pack.end() > end
    }
}

fn entry_checksum(header: &[u8], block: &[u8]) -> Checksum {
    let mut crc = Crc::new();
    crc.update(header);
    crc.update(block);
    crc.checksum()
}

/// Appends the number of runs and the runs in which a page differs from the version before; at least one run, for no run at
/// all means a whole page.
fn put_difference(body: &mut Vec<u8>, before: &[u8], after: &[u8]) {
    let runs = runs(before, after);
    put_uvarint(body, runs.len() as u64);
    let mut at = 0;
    for run in runs {
        put_uvarint(body, (run.start - at) as u64);
        put_uvarint(body, run.len() as u64);
        at = run.end;
        body.extend(&after[run]);
    }
}

fn runs(before: &[u8], after: &[u8]) -> Vec<Range<usize>> {
    const WORD: usize = 8;
    const LINE: usize = 64;
    let mut runs: Vec<Range<usize>> = vec![];
    let lines = before.chunks_exact(LINE).zip(after.chunks_exact(LINE)).enumerate();
    for (line, (old, new)) in lines.filter(|(_, (old, new))| old != new) {
        let words = old.chunks_exact(WORD).zip(new.chunks_exact(WORD)).enumerate();
        for (word, (old, new)) in words.filter(|(_, (old, new))| old != new) {
            let at = line * LINE + word * WORD;
            let first = at + old.iter().zip(new).take_while(|(old, new)| old == new).count();
            let last = at + WORD - old.iter().zip(new).rev().take_while(|(old, new)| old == new).count();
            match runs.last_mut() {
                Some(run) if first - run.end < LEAST_GAP => run.end = last,
                _ => runs.push(first..last),
            }
        }
    }
    if runs.is_empty() {
        runs.push(0..0);
    }
    runs
}

/// A pack's bytes, and what it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pack {
    /// Size of its pages.
    pub page_size: PageSize,
    /// Who wrote it.
    pub writer: WriterId,
    /// Each entry that is whole, in order, with where it stands.
    pub entries: Vec<(PackEntry, Range<usize>)>,
}

impl Pack {
    /// The length of a pack's header in bytes.
    pub const HEADER_LEN: usize = MAGIC.len() + 4 + 8;

    /// What a pack has, up to the first entry that is not whole or does not follow. Bodies are verified and not decoded.
    ///
    /// # Errors
    /// `Corrupt` for bytes that begin as no pack does.
    pub fn scan(bytes: &[u8]) -> Result<Pack, Error> {
        let header = bytes.get(..Pack::HEADER_LEN).filter(|header| header.starts_with(MAGIC));
        let header = header.ok_or_else(|| Error::corrupt(0, "this is no pack"))?;
        let page_size = PageSize::new(be32(header, 16));
        let page_size = page_size.ok_or_else(|| Error::corrupt(16, "a pack's page size"))?;
        let mut pack = Pack { page_size, writer: WriterId(be64(header, 20)), entries: vec![] };
        pack.scan_from(bytes);
        Ok(pack)
    }

    /// Adds the entries that follow.
    fn scan_from(&mut self, bytes: &[u8]) {
        let mut at = self.end();
        while let Some((entry, len)) = whole_entry(&bytes[at..]) {
            if self.entries.last().is_some_and(|(last, _)| last.txid.next() != entry.txid) {
                break;
            }
            self.entries.push((entry, at..at + len));
            at += len;
        }
    }

    /// Where the whole entries end, bytes.
    pub fn end(&self) -> usize {
        self.entries.last().map_or(Pack::HEADER_LEN, |(_, range)| range.end)
    }
}

fn whole_entry(bytes: &[u8]) -> Option<(PackEntry, usize)> {
    let header = bytes.get(..ENTRY_LEN)?;
    let entry = PackEntry {
        txid: Txid::new(be64(header, 0))?,
        timestamp_ms: be64(header, 8) as i64,
        commits: be32(header, 16),
        parts: be32(header, 20),
    };
    let len = ENTRY_LEN + be32(header, 28) as usize;
    let block = bytes.get(ENTRY_LEN..len)?;
    let is_whole = entry_checksum(&header[..32], block).0 == be64(header, 32);
    let is_sound = entry.parts > 0 && (entry.parts == 1 || entry.parts == entry.commits);
    (is_whole && is_sound).then_some((entry, len))
}

/// Reads a pack from its beginning: each version of a page may be told by its difference from the one before.
#[derive(Debug)]
pub struct PackDecoder<B> {
    bytes: B,
    pack: Pack,
    next: usize,
    versions: HashMap<Pgno, Arc<[u8]>>,
}

impl<B: AsRef<[u8]>> PackDecoder<B> {
    /// Scans the bytes of a pack.
    ///
    /// # Errors
    /// As [`Pack::scan`].
    pub fn new(bytes: B) -> Result<PackDecoder<B>, Error> {
        let pack = Pack::scan(bytes.as_ref())?;
        Ok(PackDecoder { bytes, pack, next: 0, versions: HashMap::new() })
    }

    /// What the pack has.
    pub fn pack(&self) -> &Pack {
        &self.pack
    }

    /// The next level-0 file; `None` after the last one.
    ///
    /// # Errors
    /// `Corrupt` for a body that no encoder leaves behind.
    pub fn next_capture(&mut self) -> Result<Option<PackCapture>, Error> {
        let Some((entry, range)) = self.pack.entries.get(self.next).cloned() else { return Ok(None) };
        self.next += 1;
        let bad = |what: &str| Error::corrupt(range.start as u64, format!("pack, {}: {what}", entry.txid));
        let header = &self.bytes.as_ref()[range.clone()];
        let len = be32(header, 24) as usize;
        let block = &header[ENTRY_LEN..];
        // LZ4 makes no more than 255 bytes of one.
        if len > MAX_BODY || len / 256 > block.len() {
            return Err(bad("a body that is too large"));
        }
        let body = lz4_flex::block::decompress(block, len).map_err(|e| bad(&e.to_string()))?;
        let mut rest = &body[..];
        let mut commits = vec![];
        while !rest.is_empty() {
            commits.push(self.take_commit(&mut rest).ok_or_else(|| bad("a commit that ends early"))?);
        }
        if commits.len() != entry.parts as usize {
            return Err(bad("another number of commits"));
        }
        Ok(Some(PackCapture { entry, commits }))
    }

    fn take_commit(&mut self, body: &mut &[u8]) -> Option<Commit> {
        let mut pages = vec![];
        loop {
            let pgno = u32::try_from(take_uvarint(body)?).ok()?;
            let Some(pgno) = Pgno::new(pgno) else {
                let page_count = u32::try_from(take_uvarint(body)?).ok()?;
                return Some(Commit { page_count, pages });
            };
            let page = self.take_page(pgno, body)?;
            self.versions.insert(pgno, page.clone());
            pages.push((pgno, page));
        }
    }

    fn take_page(&self, pgno: Pgno, body: &mut &[u8]) -> Option<Arc<[u8]>> {
        let page_len = self.pack.page_size.bytes();
        let runs = take_uvarint(body)?;
        if runs == 0 {
            return Some(take_bytes(body, page_len)?.into());
        }
        let mut page = self.versions.get(&pgno)?.to_vec();
        let mut at = 0usize;
        for _ in 0..runs {
            let (skip, len) = (take_uvarint(body)?, take_uvarint(body)?);
            let begin = at.checked_add(usize::try_from(skip).ok()?)?;
            let end = begin.checked_add(usize::try_from(len).ok()?)?;
            page.get_mut(begin..end)?.copy_from_slice(take_bytes(body, end - begin)?);
            // A run that moves nowhere would let a few bytes keep a reader busy for long.
            if end == at && runs > 1 {
                return None;
            }
            at = end;
        }
        Some(page.into())
    }
}

fn take_bytes<'a>(body: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (taken, rest) = body.split_at_checked(len)?;
    *body = rest;
    Some(taken)
}

#[cfg(test)]
mod tests;
