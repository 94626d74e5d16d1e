//! From pages to a level-0 file.
//!
//! A segment holds the newest version of each page that the transactions since the last one wrote, and every page by
//! which the database grew, whether it was written or not. Small ones stay in memory; large ones are written to the
//! spool, so that memory is bounded whatever the size of a transaction.

use super::held::HeldFiles;
use super::pages::{Pages, Slots};
use super::wal::{Frames, Place, SlotReader, Wal};
use crate::local::{MOST_BYTES, Packs, Spool, SpoolWriter, Spooled};
use crate::{Error, Kind};
use litekeep_format::WalHeader;
use litekeep_ltx::{
    Checksum, Decoder, Encoded, Encoder, FileName, Header, PackEncoder, PageSize, Pgno, Salt, Txid, WriterId,
    page_checksum,
};
use std::fs::File;
use std::io::{self, BufReader, Write};
use std::sync::Arc;

/// What a segment becomes in the log, decided by the caller.
#[derive(Clone, Copy, Debug)]
pub struct Stamp {
    /// The transaction to be.
    pub txid: Txid,
    /// Who writes it.
    pub writer: WriterId,
    /// When its last commit was first seen, milliseconds since the epoch.
    pub timestamp_ms: i64,
}

/// Where the bytes of a segment are.
#[derive(Clone, Debug)]
pub enum Body {
    /// The whole file.
    Memory(bytes::Bytes),
    /// In the spool under its name.
    Spooled,
}

/// One level-0 file, ready to be put.
#[derive(Clone, Debug)]
pub struct Segment {
    /// Its header.
    pub header: Header,
    /// Its bytes.
    pub body: Body,
    /// Bytes in all.
    pub size: u64,
    /// The checksums of its pages, ascending.
    pub sums: Vec<(Pgno, Checksum)>,
    /// What of the WAL the log contains once this is there.
    pub place: Option<Place>,
    /// The application's commits in it.
    pub commits: u32,
    /// The WAL that it was read from, to be synced before the segment is put.
    pub wal: Option<Arc<File>>,
}

impl Segment {
    /// The transaction.
    pub fn txid(&self) -> Txid {
        self.header.max_txid
    }

    /// A segment that a crash or a shutdown left in the spool. Where it ended in the WAL has to be located again.
    pub fn from_spool(spool: &Spool, file: &Spooled) -> Result<Segment, Error> {
        let failed = |source| Error::Ltx { doing: format!("read {} from the spool", file.name), source };
        let mut decoder = Decoder::new(BufReader::new(spool.open(file.name)?)).map_err(failed)?;
        let header = *decoder.header();
        let mut page = vec![0; header.page_size.bytes()];
        let mut sums = vec![];
        while let Some(pgno) = decoder.next_page(&mut page).map_err(failed)? {
            sums.push((pgno, page_checksum(pgno, &page)));
        }
        Ok(Segment { header, body: Body::Spooled, size: file.size, sums, place: None, commits: 0, wal: None })
    }

    /// Name in the log.
    pub fn name(&self) -> FileName {
        FileName { min: self.header.min_txid, max: self.header.max_txid }
    }
}

/// A segment of more pages than fit into so many bytes goes to the spool.
const MEMORY_LEN: usize = 8 << 20;

/// Where an encoder writes.
enum Sink {
    Memory(Vec<u8>),
    Spool(SpoolWriter),
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Sink::Memory(v) => v.write(bytes),
            Sink::Spool(w) => w.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An LTX encoder that also notes the checksum of each page.
struct Draft {
    encoder: Encoder<Sink>,
    header: Header,
    sums: Vec<(Pgno, Checksum)>,
}

impl Draft {
    /// `expected` pages decide between memory and spool.
    fn begin(header: Header, expected: usize, spool: &Spool) -> Result<Draft, Error> {
        let len = expected * header.page_size.bytes();
        let sink = if len <= MEMORY_LEN {
            Sink::Memory(Vec::with_capacity(len / 2 + 4096))
        } else {
            Sink::Spool(spool.begin(FileName { min: header.min_txid, max: header.max_txid })?)
        };
        let encoder = Encoder::new(sink, &header).map_err(|e| failed(&header, e))?;
        Ok(Draft { encoder, header, sums: Vec::with_capacity(expected) })
    }

    fn page(&mut self, pgno: Pgno, page: &[u8]) -> Result<(), Error> {
        self.encoder.page(pgno, page).map_err(|e| failed(&self.header, e))?;
        self.sums.push((pgno, page_checksum(pgno, page)));
        Ok(())
    }

    fn finish(self, place: Option<Place>, commits: u32) -> Result<Segment, Error> {
        let header = self.header;
        let done = self.encoder.finish().map_err(|e| failed(&header, e))?;
        let body = match done.writer {
            Sink::Memory(v) => Body::Memory(v.into()),
            Sink::Spool(w) => {
                w.finish()?;
                Body::Spooled
            }
        };
        Ok(Segment { header, body, size: done.size, sums: self.sums, place, commits, wal: None })
    }
}

fn failed(header: &Header, source: litekeep_ltx::Error) -> Error {
    Error::Ltx { doing: format!("encode transaction {}", header.max_txid), source }
}

/// The part of a header that comes from the WAL.
fn header(stamp: Stamp, page_size: PageSize, page_count: u32, from: u64, to: u64, salt: Salt) -> Header {
    Header {
        page_size,
        commit: page_count,
        min_txid: stamp.txid,
        max_txid: stamp.txid,
        timestamp_ms: stamp.timestamp_ms,
        wal_offset: from,
        wal_size: to - from,
        wal_salt: salt,
        node: stamp.writer,
    }
}

/// The WAL range that a state names when no frames led to it: its end, with size 0.
fn state_header(stamp: Stamp, pages: &Pages<'_>) -> Header {
    let (at, salt) = match pages.place {
        Some(p) => (p.offset(pages.page_size()), p.salt),
        // Litestream reads no offset below the WAL's header.
        None => (WalHeader::LEN as u64, Salt::default()),
    };
    header(stamp, pages.page_size(), pages.page_count(), at, at, salt)
}

/// What frames became of, and what came before them.
pub struct FramesOf<'a> {
    /// The files they were read from.
    pub files: &'a HeldFiles,
    /// The WAL.
    pub wal: &'a Wal,
    /// Its header.
    pub wal_header: &'a WalHeader,
    /// Where the last segment ended; frames of that generation continue it.
    pub before: Option<Place>,
    /// Where these frames end.
    pub place: Place,
    /// Pages of the database before them.
    pub page_count_before: u32,
}

/// Encodes the frames of one or more commits as one transaction.
pub fn from_frames(
    of: &FramesOf<'_>,
    frames: &Frames,
    stamp: Stamp,
    spool: &Spool,
) -> Result<Segment, Error> {
    let page_size = of.wal_header.page_size;
    let from = match of.before {
        Some(p) if p.salt == of.place.salt => p.offset(page_size),
        _ => WalHeader::LEN as u64,
    };
    let header = header(stamp, page_size, frames.page_count, from, of.place.offset(page_size), of.place.salt);
    let latest = latest_of_each(frames);
    let missing = growth_without_frames(&latest, of.page_count_before, frames.page_count, page_size);
    let mut draft = Draft::begin(header, latest.len() + missing.len(), spool)?;
    let mut slots = SlotReader::new(of.wal, of.wal_header, frames);
    let mut unwritten = Unwritten::new(of, missing)?;
    for (i, &(pgno, nth)) in latest.iter().enumerate() {
        unwritten.up_to(pgno.get() - 1, |pgno, page| draft.page(pgno, page))?;
        draft.page(pgno, slots.page(nth, |most| run_from(&latest[i..], most))?)?;
    }
    unwritten.up_to(frames.page_count, |pgno, page| draft.page(pgno, page))?;
    let segment = draft.finish(Some(of.place), frames.commits)?;
    Ok(Segment { wal: Some(of.wal.file()), ..segment })
}

/// How many of these frames stand side by side, of so many at most.
fn run_from(latest: &[(Pgno, usize)], most: usize) -> usize {
    let first = latest[0].1;
    (first..).zip(latest).take(most).take_while(|(nth, (_, n))| n == nth).count()
}

/// Adds the commits of a segment that was made of frames to the packs, each by itself; those of a writer that is too fast
/// together.
pub fn pack_frames(of: &FramesOf<'_>, frames: &Frames, segment: &Segment, packs: &mut Packs) {
    let apart = packs.allows(frames.slots.len());
    let count = if apart { frames.slots.len() } else { segment.sums.len() };
    if count * of.wal_header.page_size.bytes() > MOST_BYTES {
        return;
    }
    let Some(encoder) = packs.begin(segment.txid(), of.wal_header.page_size) else { return };
    match commits_from_frames(of, frames, apart, encoder) {
        Ok(()) => packs.finish(&segment.header, frames.commits, if apart { frames.commits } else { 1 }),
        Err(e) => packs.give_up(&e),
    }
}

/// Adds a segment that was made by comparing pages to the packs, unless it is large.
pub fn pack_pages(segment: &Segment, packs: &mut Packs) {
    let Body::Memory(bytes) = &segment.body else { return };
    let Some(encoder) = packs.begin(segment.txid(), segment.header.page_size) else { return };
    let decoded = Decoder::new(&bytes[..]).and_then(|mut decoder| {
        let mut page = vec![0; segment.header.page_size.bytes()];
        while let Some(pgno) = decoder.next_page(&mut page)? {
            encoder.page(pgno, &page);
        }
        encoder.commit(segment.header.commit);
        Ok(())
    });
    match decoded {
        Ok(()) => packs.finish(&segment.header, 0, 1),
        Err(e) => packs.give_up(&failed(&segment.header, e)),
    }
}

/// Commit by commit, or only their outcome. Pages by which the database grew and that nobody wrote come with the commit
/// that made it grow.
fn commits_from_frames(
    of: &FramesOf<'_>,
    frames: &Frames,
    apart: bool,
    pack: &mut PackEncoder,
) -> Result<(), Error> {
    let page_size = of.wal_header.page_size;
    let latest = latest_of_each(frames);
    let missing = growth_without_frames(&latest, of.page_count_before, frames.page_count, page_size);
    let mut unwritten = Unwritten::new(of, missing)?;
    let mut slots = SlotReader::new(of.wal, of.wal_header, frames);
    if !apart {
        for (i, &(pgno, nth)) in latest.iter().enumerate() {
            pack.page(pgno, slots.page(nth, |most| run_from(&latest[i..], most))?);
        }
        return end_commit(&mut unwritten, frames.page_count, pack);
    }
    for (nth, slot) in frames.slots.iter().enumerate() {
        pack.page(slot.pgno, slots.page(nth, |most| most)?);
        if slot.commit > 0 {
            end_commit(&mut unwritten, slot.commit, pack)?;
        }
    }
    Ok(())
}

fn end_commit(unwritten: &mut Unwritten<'_>, page_count: u32, pack: &mut PackEncoder) -> Result<(), Error> {
    unwritten.up_to(page_count, |pgno, page| {
        pack.page(pgno, page);
        Ok(())
    })?;
    pack.commit(page_count);
    Ok(())
}

/// Pages by which the database grew and that no frame has: they are what the file or an earlier frame has.
struct Unwritten<'a> {
    pages: std::iter::Peekable<std::vec::IntoIter<Pgno>>,
    state: Option<Pages<'a>>,
    page: Vec<u8>,
}

impl<'a> Unwritten<'a> {
    fn new(of: &FramesOf<'a>, pages: Vec<Pgno>) -> Result<Unwritten<'a>, Error> {
        let page_size = of.wal_header.page_size;
        let state = match pages.is_empty() {
            true => None,
            false => {
                let slots = Slots::read(of.wal, of.wal_header, of.place.frames)?;
                let slots = slots.map_err(|broken| Error::new(Kind::Corrupt, broken.to_string()))?;
                Some(Pages::in_wal(of.files, of.wal, page_size, slots)?)
            }
        };
        Ok(Unwritten { pages: pages.into_iter().peekable(), state, page: vec![0; page_size.bytes()] })
    }

    /// Those up to a number that have not come yet.
    fn up_to(
        &mut self,
        last: u32,
        mut each: impl FnMut(Pgno, &[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        while let (Some(pgno), Some(state)) = (self.pages.next_if(|p| p.get() <= last), &self.state) {
            state.read(pgno, &mut self.page)?;
            each(pgno, &self.page)?;
        }
        Ok(())
    }
}

/// The last frame of each page that still belongs to the database, ascending: page and position in `frames.slots`.
fn latest_of_each(frames: &Frames) -> Vec<(Pgno, usize)> {
    let mut latest: Vec<(Pgno, usize)> = frames.newest().into_iter().collect();
    latest.retain(|(p, _)| p.get() <= frames.page_count);
    latest.sort_unstable();
    latest
}

/// SQLite does not write free pages at the end of a database that grows; a log file must hold them all the same.
fn growth_without_frames(
    latest: &[(Pgno, usize)],
    before: u32,
    after: u32,
    page_size: PageSize,
) -> Vec<Pgno> {
    let at = latest.partition_point(|(p, _)| p.get() <= before);
    let grown = &latest[at..];
    let lock = page_size.lock_page();
    let lock_inside = u32::from((before + 1..=after).contains(&lock.get()));
    if after <= before || grown.len() as u32 + lock_inside == after - before {
        return vec![];
    }
    let mut have = grown.iter().map(|(p, _)| *p).peekable();
    (before + 1..=after)
        .filter_map(Pgno::new)
        .filter(|p| *p != lock && have.next_if_eq(p).is_none())
        .collect()
}

/// Encodes some pages of a state as one transaction: what differs after a break in continuity.
pub fn from_pages(pages: &Pages<'_>, which: &[Pgno], stamp: Stamp, spool: &Spool) -> Result<Segment, Error> {
    let mut draft = Draft::begin(state_header(stamp, pages), which.len(), spool)?;
    let mut page = vec![0; pages.page_size().bytes()];
    for pgno in which {
        pages.read(*pgno, &mut page)?;
        draft.page(*pgno, &page)?;
    }
    draft.finish(pages.place, 0)
}

/// Encodes a whole state as a snapshot of everything up to `stamp.txid`, into any writer. `each` sees every page's checksum,
/// ascending.
pub fn snapshot<W: Write>(
    pages: &Pages<'_>,
    stamp: Stamp,
    writer: W,
    mut each: impl FnMut(Pgno, Checksum) -> Result<(), Error>,
) -> Result<(Header, Encoded<W>), Error> {
    if pages.page_count() == 0 {
        return Err(Error::new(Kind::Internal, "a database without pages has no snapshot"));
    }
    let header = Header { min_txid: Txid::FIRST, ..state_header(stamp, pages) };
    let mut encoder = Encoder::new(writer, &header).map_err(|e| failed(&header, e))?;
    pages.for_each(|pgno, page| {
        encoder.page(pgno, page).map_err(|e| failed(&header, e))?;
        each(pgno, page_checksum(pgno, page))
    })?;
    let done = encoder.finish().map_err(|e| failed(&header, e))?;
    Ok((header, done))
}
