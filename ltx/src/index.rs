//! The page index: where each page stands in the file, so that one can be fetched by a range request.
//!
//! ```text
//!   uvarint pgno, uvarint offset of the block, uvarint length of the block     once for each page, ascending
//!   00
//!   u64 bytes of the index so far
//!   trailer, 16 bytes
//! ```
//!
//! An index that was accepted is consistent: blocks follow one another without a gap from the header to the index.
//! Whether they hold what was written is for the file checksum to say ([`crate::verify_parts`],
//! [`crate::Decoder`]), and for that of a page ([`crate::PageChecks`]).

use std::ops::Range;

use crate::block::END_OF_BLOCKS;
use crate::crc::Crc;
use crate::header::{TRAILER_LEN, be64};
use crate::uvarint::{put_uvarint, take_uvarint};
use crate::{Error, Header, Pgno};

/// The index's length and the trailer.
const FIXED_TAIL_LEN: usize = 8 + TRAILER_LEN;

/// Where each page of a file stands. Takes 4 bytes of memory a page, and 8 more for each run of pages without a gap: a snapshot has
/// but one or two.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageIndex {
    /// The first page of each run, ascending, and how many pages the runs before it have.
    runs: Vec<(u32, u32)>,
    /// Bytes of each block.
    lens: Vec<u32>,
    /// Where every [`STRIDE`]th block begins.
    begins: Vec<u64>,
    blocks_end: u64,
    file_len: u64,
}

/// How many lengths are added at most to find a block.
const STRIDE: usize = 64;

/// What the last bytes of a file give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IndexTail {
    /// The index.
    Index(PageIndex),
    /// The index begins before the bytes given: ask again with the last so many bytes of the file.
    Need(u64),
}

/// A run of blocks to fetch and decode at once, see [`crate::decode_chunk`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Bytes of the file.
    pub range: Range<u64>,
    /// How many pages stand there.
    pub pages: u64,
}

impl PageIndex {
    /// Reads the index from the last bytes of a file of `file_len` bytes.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for an index that no writer leaves behind.
    pub fn from_tail(file_len: u64, tail: &[u8]) -> Result<IndexTail, Error> {
        // The shortest file has a header and no page.
        let least = (Header::LEN + END_OF_BLOCKS.len() + 1 + FIXED_TAIL_LEN) as u64;
        if file_len < least {
            return Err(Error::corrupt(
                file_len,
                format!("the file is shorter than any LTX file ({least} bytes)"),
            ));
        }
        let Some(fixed_at) = tail.len().checked_sub(FIXED_TAIL_LEN) else {
            return Ok(IndexTail::Need(FIXED_TAIL_LEN as u64));
        };
        let fixed_offset = file_len - FIXED_TAIL_LEN as u64;
        let index_len = be64(tail, fixed_at);
        let Some(index_offset) = fixed_offset
            .checked_sub(index_len)
            .filter(|offset| index_len > 0 && *offset >= (Header::LEN + END_OF_BLOCKS.len()) as u64)
        else {
            return Err(Error::corrupt(
                fixed_offset,
                format!("index of {index_len} bytes in a file of {file_len}"),
            ));
        };
        let blocks_end = index_offset - END_OF_BLOCKS.len() as u64;
        let needed = file_len - blocks_end;
        if (tail.len() as u64) < needed {
            return Ok(IndexTail::Need(needed));
        }
        let index_at = fixed_at - index_len as usize;
        if tail[index_at - END_OF_BLOCKS.len()..index_at] != END_OF_BLOCKS {
            return Err(Error::corrupt(blocks_end, "no end of pages before the index"));
        }
        let index = parse_entries(&tail[index_at..fixed_at], index_offset, blocks_end)?;
        Ok(IndexTail::Index(PageIndex { file_len, ..index }))
    }

    /// The bytes of the page's block with its header, for [`crate::decode_page`].
    pub fn get(&self, pgno: Pgno) -> Option<Range<u64>> {
        let nth = self.nth(pgno)?;
        let known = nth - nth % STRIDE;
        let between: u64 = self.lens[known..nth].iter().map(|len| u64::from(*len)).sum();
        let begin = self.begins[nth / STRIDE] + between;
        Some(begin..begin + u64::from(self.lens[nth]))
    }

    /// How many pages stand before the page.
    pub fn nth(&self, pgno: Pgno) -> Option<usize> {
        let run = self.runs.partition_point(|(first, _)| *first <= pgno.get()).checked_sub(1)?;
        let (first, before) = self.runs[run];
        let nth = before as usize + (pgno.get() - first) as usize;
        let end = self.runs.get(run + 1).map_or(self.lens.len(), |(_, before)| *before as usize);
        (nth < end).then_some(nth)
    }

    /// All pages, ascending, with the bytes of their blocks.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (Pgno, Range<u64>)> + '_ {
        let (mut run, mut end) = (0, Header::LEN as u64);
        self.lens.iter().enumerate().map(move |(nth, len)| {
            if self.runs.get(run + 1).is_some_and(|(_, before)| *before as usize == nth) {
                run += 1;
            }
            let (first, before) = self.runs[run];
            let begin = end;
            end += u64::from(*len);
            (Pgno::new(first + (nth as u32 - before)).expect("page number 0 ends the index"), begin..end)
        })
    }

    /// How many pages the file holds.
    pub fn pages(&self) -> u64 {
        self.lens.len() as u64
    }

    /// Everything after the blocks, which [`crate::verify_parts`] needs.
    pub fn tail_range(&self) -> Range<u64> {
        self.blocks_end()..self.file_len
    }

    /// Cuts the blocks into runs of at most `max_bytes` (but at least one page).
    pub fn split(&self, max_bytes: u64) -> Vec<Chunk> {
        let mut chunks: Vec<Chunk> = Vec::new();
        for (_, block) in self.iter() {
            match chunks.last_mut() {
                Some(chunk) if block.end - chunk.range.start <= max_bytes => {
                    chunk.range.end = block.end;
                    chunk.pages += 1;
                }
                _ => chunks.push(Chunk { range: block, pages: 1 }),
            }
        }
        chunks
    }

    pub(crate) fn blocks_end(&self) -> u64 {
        self.blocks_end
    }

    fn push(&mut self, pgno: u32, len: u32) {
        let nth = self.lens.len();
        let next = self.runs.last().map(|(first, before)| first + (nth as u32 - before));
        if next != Some(pgno) {
            self.runs.push((pgno, nth as u32));
        }
        if nth.is_multiple_of(STRIDE) {
            self.begins.push(self.blocks_end);
        }
        self.lens.push(len);
        self.blocks_end += u64::from(len);
    }
}

/// `entries` with their terminator, at byte `offset` of the file.
fn parse_entries(entries: &[u8], offset: u64, blocks_end: u64) -> Result<PageIndex, Error> {
    let mut index = PageIndex { blocks_end: Header::LEN as u64, ..PageIndex::default() };
    let (mut rest, mut last) = (entries, 0);
    loop {
        let at = offset + (entries.len() - rest.len()) as u64;
        let bad = |what: &str| Error::corrupt(at, format!("page index: {what}"));
        let mut number = || take_uvarint(&mut rest).ok_or_else(|| bad("no number"));
        let pgno = number()?;
        if pgno == 0 {
            break;
        }
        let (block, len) = (number()?, number()?);
        let pgno = u32::try_from(pgno).map_err(|_| bad("page number over 32 bits"))?;
        if pgno <= last {
            return Err(bad("pages out of order"));
        }
        let end = block.checked_add(len).filter(|&end| end <= blocks_end && len > END_OF_BLOCKS.len() as u64);
        let len = u32::try_from(len).ok().filter(|_| end.is_some() && block == index.blocks_end);
        index.push(pgno, len.ok_or_else(|| bad("a page where none can be"))?);
        last = pgno;
    }
    if !rest.is_empty() || index.blocks_end != blocks_end {
        return Err(Error::corrupt(offset, "page index: does not cover the pages"));
    }
    index.runs.shrink_to_fit();
    index.lens.shrink_to_fit();
    index.begins.shrink_to_fit();
    Ok(index)
}

/// Appends one entry.
pub(crate) fn put_entry(index: &mut Vec<u8>, pgno: Pgno, offset: u64, len: u64) {
    for number in [u64::from(pgno.get()), offset, len] {
        put_uvarint(index, number);
    }
}

/// The index that the pages seen so far call for, as length and CRC: compares with the one in the file without
/// holding either.
#[derive(Debug)]
pub(crate) struct ExpectedIndex {
    len: u64,
    crc: Crc,
    entry: Vec<u8>,
}

impl ExpectedIndex {
    pub(crate) fn new() -> ExpectedIndex {
        ExpectedIndex { len: 0, crc: Crc::new(), entry: Vec::new() }
    }

    pub(crate) fn push(&mut self, pgno: Pgno, offset: u64, len: u64) {
        self.entry.clear();
        put_entry(&mut self.entry, pgno, offset, len);
        self.len += self.entry.len() as u64;
        self.crc.update(&self.entry);
    }

    /// Length with the terminator, which is what the file states.
    pub(crate) fn len(&self) -> u64 {
        self.len + 1
    }

    /// CRC with the terminator.
    pub(crate) fn value(&self) -> u64 {
        let mut crc = self.crc;
        crc.update(&[0]);
        crc.value()
    }
}
