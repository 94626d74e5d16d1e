//! Decoding a file in pieces, so that many can be fetched and decoded at once, without giving up the file checksum.
//!
//! 1. [`PageIndex::from_tail`] reads the index, [`PageIndex::split`] cuts the file.
//! 2. [`decode_chunk`] decodes each piece, in any order and on any thread.
//! 3. [`verify_parts`] joins the pieces' checksums in the file's order and compares with the trailer.
//!
//! Pages come out in step 2; until step 3 has succeeded they are not to be trusted.

use crate::block::{self, Parsed};
use crate::crc::Crc;
use crate::header::TRAILER_LEN;
use crate::index::{IndexTail, PageIndex};
use crate::order::{PageOrder, pages_of_snapshot};
use crate::{Error, Header, PageSize, Pgno, Trailer};

/// What a run of blocks adds to the checksum and shape of its file.
#[derive(Clone, Debug)]
pub struct PartialChecksum {
    crc: Crc,
    /// Over number and length of each block, to compare with the index.
    layout: Crc,
    /// In the file, that is compressed.
    bytes: u64,
    pages: u64,
    /// The first and the last page.
    ends: Option<(Pgno, Pgno)>,
}

impl PartialChecksum {
    /// Joins this run with the one that follows it in the file.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when the pages do not ascend from one to the other.
    pub fn combine(mut self, next: &PartialChecksum) -> Result<PartialChecksum, Error> {
        self.ends = match (self.ends, next.ends) {
            (Some((_, last)), Some((first, _))) if last >= first => {
                return Err(Error::corrupt(self.bytes, format!("page {first} after page {last}")));
            }
            (Some((first, _)), Some((_, last))) => Some((first, last)),
            (ends, None) | (None, ends) => ends,
        };
        self.crc.append(&next.crc);
        self.layout.append(&next.layout);
        self.bytes += next.bytes;
        self.pages += next.pages;
        Ok(self)
    }

    /// How many pages were decoded.
    pub fn pages(&self) -> u64 {
        self.pages
    }

    fn empty() -> PartialChecksum {
        PartialChecksum { crc: Crc::new(), layout: Crc::new(), bytes: 0, pages: 0, ends: None }
    }
}

/// Decodes a run of blocks (a [`crate::Chunk`]'s range), calling `each` with every page in order.
///
/// The pages are not verified before [`verify_parts`] has succeeded.
///
/// # Errors
/// [`Error::Corrupt`] where the bytes are not whole blocks of ascending pages; `each` may have been called before.
pub fn decode_chunk(
    page_size: PageSize,
    bytes: &[u8],
    mut each: impl FnMut(Pgno, &[u8]),
) -> Result<PartialChecksum, Error> {
    let mut page = vec![0; page_size.bytes()];
    let mut part = PartialChecksum::empty();
    let mut rest = bytes;
    while !rest.is_empty() {
        let corrupt = |what: String| Error::corrupt((bytes.len() - rest.len()) as u64, what);
        let block = match block::parse(page_size, rest).map_err(corrupt)? {
            Parsed::Block(block) => block,
            Parsed::Need(_) => return Err(corrupt("the chunk ends within a page".into())),
            Parsed::EndOfBlocks => return Err(corrupt("the pages end within the chunk".into())),
        };
        if let Some((_, last)) = part.ends.filter(|(_, last)| *last >= block.pgno) {
            return Err(corrupt(format!("page {} after page {last}", block.pgno)));
        }
        block.decode(rest, &mut page, &mut part.crc).map_err(corrupt)?;
        add_to_layout(&mut part.layout, block.pgno, block.len as u64);
        each(block.pgno, &page);
        part.pages += 1;
        part.ends = Some((part.ends.map_or(block.pgno, |(first, _)| first), block.pgno));
        rest = &rest[block.len..];
    }
    part.bytes = bytes.len() as u64;
    Ok(part)
}

fn add_to_layout(layout: &mut Crc, pgno: Pgno, len: u64) {
    let entry = u64::from(pgno.get()) << 32 | len;
    layout.update(&entry.to_be_bytes());
}

/// Decodes the one block that [`PageIndex::get`] found into `page`, which has the page size.
///
/// The format has a checksum for the file only: whether this is the page that was written is for [`crate::PageChecks`] to say.
///
/// # Errors
/// [`Error::Corrupt`] where the bytes are not one whole block, [`Error::Invalid`] where `page` has another size.
pub fn decode_page(page_size: PageSize, bytes: &[u8], page: &mut [u8]) -> Result<Pgno, Error> {
    if page.len() != page_size.bytes() {
        return Err(Error::invalid(format!(
            "a buffer of {} bytes for pages of {}",
            page.len(),
            page_size.get()
        )));
    }
    let corrupt = |what: String| Error::corrupt(0, what);
    match block::parse(page_size, bytes).map_err(corrupt)? {
        Parsed::Block(block) if block.len == bytes.len() => {
            block.decode(bytes, page, &mut Crc::new()).map_err(corrupt)?;
            Ok(block.pgno)
        }
        _ => Err(corrupt("not exactly one page".into())),
    }
}

/// Decodes a file that is whole in memory, calling `each` with every page in order, and verifies it.
///
/// The pages are not verified before this has succeeded.
///
/// # Errors
/// [`Error::Corrupt`] and [`Error::Checksum`] where the file is not the one that was written.
pub fn decode_file(bytes: &[u8], mut each: impl FnMut(Pgno, &[u8])) -> Result<(Header, PageIndex), Error> {
    let IndexTail::Index(index) = PageIndex::from_tail(bytes.len() as u64, bytes)? else {
        return Err(Error::corrupt(bytes.len() as u64, "the file ends before its page index"));
    };
    let header = Header::parse(bytes)?;
    let mut order = PageOrder::new(&header);
    let mut page = vec![0; header.page_size.bytes()];
    // One checksum from front to back: joining two costs more than the whole of a small file.
    let mut file = Crc::new();
    file.update(&bytes[..Header::LEN]);
    for (pgno, range) in index.iter() {
        let corrupt = |what: String| Error::corrupt(range.start, what);
        let stored = &bytes[range.start as usize..range.end as usize];
        let block = match block::parse(header.page_size, stored).map_err(corrupt)? {
            Parsed::Block(block) if (block.pgno, block.len) == (pgno, stored.len()) => block,
            _ => return Err(corrupt("the page index does not match the pages".into())),
        };
        order.accept(pgno).map_err(corrupt)?;
        block.decode(stored, &mut page, &mut file).map_err(corrupt)?;
        each(pgno, &page);
    }
    let blocks_end = index.blocks_end();
    order.finish().map_err(|what| Error::corrupt(blocks_end, what))?;
    let (rest, trailer) = bytes[blocks_end as usize..].split_last_chunk().expect("the index was found");
    let trailer = Trailer::parse(trailer);
    file.update(rest);
    file.update(&trailer.post_apply.0.to_be_bytes());
    if file.checksum() != trailer.file {
        return Err(Error::Checksum { expected: trailer.file, found: file.checksum() });
    }
    Ok((header, index))
}

/// Verifies a file that was decoded in pieces: `header` its first 100 bytes, `parts` all its pieces in order,
/// `tail` everything after the blocks ([`PageIndex::tail_range`]).
///
/// # Errors
/// [`Error::Corrupt`] and [`Error::Checksum`] where the file is not the one that was written.
pub fn verify_parts(header: &[u8], parts: &[PartialChecksum], tail: &[u8]) -> Result<Trailer, Error> {
    if header.len() != Header::LEN {
        return Err(Error::invalid(format!("a header of {} bytes", header.len())));
    }
    let parsed = Header::parse(header)?;
    let blocks = parts.iter().try_fold(PartialChecksum::empty(), PartialChecksum::combine)?;
    let blocks_end = Header::LEN as u64 + blocks.bytes;
    let corrupt = |what: &str| Error::corrupt(blocks_end, what);
    let index = match PageIndex::from_tail(blocks_end + tail.len() as u64, tail)? {
        IndexTail::Index(index) if index.blocks_end() == blocks_end => index,
        _ => return Err(corrupt("the page index does not begin after the pages")),
    };
    let trailer_at = tail.len() - TRAILER_LEN;
    let trailer = Trailer::parse(tail[trailer_at..].try_into().expect("16 bytes"));

    let mut file = Crc::new();
    file.update(header);
    file.append(&blocks.crc);
    file.update(&tail[..trailer_at + 8]);
    if file.checksum() != trailer.file {
        return Err(Error::Checksum { expected: trailer.file, found: file.checksum() });
    }
    let mut layout = Crc::new();
    index.iter().for_each(|(pgno, block)| add_to_layout(&mut layout, pgno, block.end - block.start));
    if layout.value() != blocks.layout.value() || index.pages() != blocks.pages {
        return Err(corrupt("the page index does not match the pages"));
    }
    let lock_page = parsed.page_size.lock_page();
    if index.get(lock_page).is_some() || blocks.ends.is_some_and(|(_, last)| last.get() > parsed.commit) {
        return Err(corrupt("a page that the database cannot have"));
    }
    if parsed.is_snapshot() && blocks.pages != pages_of_snapshot(parsed.page_size, parsed.commit) {
        return Err(corrupt("a snapshot that lacks pages"));
    }
    Ok(trailer)
}
