//! Writes an LTX file front to back.
//!
//! - Pages that LTX does not allow in their place are refused before anything of them is written.
//! - The checksum is the last thing written: whatever is left behind by a crash or an error has no valid trailer.
//! - After a failed write the encoder refuses everything: how much of the output exists is unknown.
//!
//! Memory: about half a MiB, and some 14 bytes a page: for the index, which stands at the file's end, and for the page's checksum.

use std::io::Write;

use lz4_flex::block::CompressTable;

use crate::block::{self, BLOCK_HEADER_LEN, END_OF_BLOCKS};
use crate::crc::Crc;
use crate::index;
use crate::order::PageOrder;
use crate::page_checks::page_check;
use crate::{Checksum, Error, Header, PageChecks, PageSize, Pgno};

/// Output is handed to the writer in pieces of at least this many bytes.
const FLUSH_LEN: usize = 256 << 10;

/// Writes the pages of one file, ascending. See the module for what it promises.
pub struct Encoder<W> {
    writer: W,
    page_size: PageSize,
    order: PageOrder,
    file: Crc,
    seal: Crc,
    checks: Vec<u32>,
    index: Vec<u8>,
    /// Always initialised to its full length; `filled` bytes of it wait to be written.
    buffer: Vec<u8>,
    filled: usize,
    written: u64,
    table: CompressTable,
    failed: bool,
}

/// A finished file.
#[derive(Debug)]
pub struct Encoded<W> {
    /// The writer, which was not flushed.
    pub writer: W,
    /// Bytes written.
    pub size: u64,
    /// The checksum in the trailer.
    pub checksum: Checksum,
    /// Pages written.
    pub pages: u64,
    /// The checksums of these pages.
    pub checks: PageChecks,
}

impl<W: Write> Encoder<W> {
    /// Begins a file. Nothing reaches `writer` before a good part of the file is there.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a header that could not be read back.
    pub fn new(writer: W, header: &Header) -> Result<Encoder<W>, Error> {
        header.check()?;
        let page_size = header.page_size;
        let mut encoder = Encoder {
            writer,
            page_size,
            order: PageOrder::new(header),
            file: Crc::new(),
            seal: Crc::new(),
            checks: Vec::new(),
            index: Vec::new(),
            buffer: Vec::new(),
            filled: 0,
            written: 0,
            // Half the table to clear for each page where positions fit 16 bits.
            table: if page_size.bytes() < usize::from(u16::MAX) {
                CompressTable::small()
            } else {
                CompressTable::large()
            },
            failed: false,
        };
        let header = header.to_bytes();
        encoder.file.update(&header);
        encoder.seal = encoder.file;
        encoder.room(header.len())[..header.len()].copy_from_slice(&header);
        encoder.filled += header.len();
        Ok(encoder)
    }

    /// Adds a page.
    ///
    /// # Errors
    /// [`Error::Invalid`] where the page must not stand here (order, size, lock page, beyond the commit, a gap in a
    /// snapshot); the encoder can go on without it. [`Error::Io`] ends the file.
    pub fn page(&mut self, pgno: Pgno, page: &[u8]) -> Result<(), Error> {
        self.accept(pgno, page)?;
        self.room(BLOCK_HEADER_LEN + block::max_compressed_len(self.page_size));
        let space = &mut self.buffer[self.filled + BLOCK_HEADER_LEN..];
        let compressed = lz4_flex::block::compress_into_with_table(page, space, &mut self.table)
            .expect("the space fits what any page compresses to");
        self.end_block(pgno, page, compressed)
    }

    /// Adds a page that was compressed before: `lz4_block` is what `page` was decompressed from.
    pub(crate) fn compressed_page(&mut self, pgno: Pgno, page: &[u8], lz4_block: &[u8]) -> Result<(), Error> {
        self.accept(pgno, page)?;
        self.room(BLOCK_HEADER_LEN + lz4_block.len())[BLOCK_HEADER_LEN..][..lz4_block.len()]
            .copy_from_slice(lz4_block);
        self.end_block(pgno, page, lz4_block.len())
    }

    fn accept(&mut self, pgno: Pgno, page: &[u8]) -> Result<(), Error> {
        self.check_usable()?;
        if page.len() != self.page_size.bytes() {
            return Err(Error::invalid(format!(
                "page {pgno} has {} bytes instead of {}",
                page.len(),
                self.page_size.get()
            )));
        }
        self.order.accept(pgno).map_err(Error::Invalid)
    }

    /// Puts the header before a compressed page that stands in the buffer, and takes both into checksum and index.
    fn end_block(&mut self, pgno: Pgno, page: &[u8], compressed: usize) -> Result<(), Error> {
        let header = block::block_header(pgno, compressed);
        self.buffer[self.filled..][..BLOCK_HEADER_LEN].copy_from_slice(&header);
        self.file.update(&header);
        self.file.update(page);
        self.checks.push(page_check(page));
        let len = BLOCK_HEADER_LEN + compressed;
        index::put_entry(&mut self.index, pgno, self.written + self.filled as u64, len as u64);
        self.filled += len;
        if self.filled >= FLUSH_LEN { self.flush() } else { Ok(()) }
    }

    /// Writes index and trailer and gives the writer back; it is neither flushed nor synced.
    ///
    /// # Errors
    /// [`Error::Invalid`] where a snapshot lacks pages.
    pub fn finish(mut self) -> Result<Encoded<W>, Error> {
        self.check_usable()?;
        self.order.finish().map_err(Error::Invalid)?;
        self.flush()?;

        let mut tail = std::mem::take(&mut self.index);
        tail.push(0);
        let index_len = tail.len() as u64;
        tail.extend_from_slice(&index_len.to_be_bytes());
        tail.extend_from_slice(&Checksum::default().0.to_be_bytes());
        self.file.update(&END_OF_BLOCKS);
        self.file.update(&tail);
        let checksum = self.file.checksum();
        tail.extend_from_slice(&checksum.0.to_be_bytes());
        self.seal.update(&END_OF_BLOCKS);
        self.seal.update(&tail);

        self.write_through(&END_OF_BLOCKS)?;
        self.write_through(&tail)?;
        let checks = PageChecks::new(self.seal.checksum(), self.checks);
        Ok(Encoded { writer: self.writer, size: self.written, checksum, pages: self.order.pages(), checks })
    }

    fn check_usable(&self) -> Result<(), Error> {
        if self.failed {
            Err(Error::invalid("the file cannot be continued after a failed write"))
        } else {
            Ok(())
        }
    }

    /// Makes room for `len` bytes; grows by doubling, so that a small file costs a small buffer.
    fn room(&mut self, len: usize) -> &mut [u8] {
        if self.buffer.len() - self.filled < len {
            let wanted = (self.filled + len).max(self.buffer.len() * 2).max(16 << 10);
            self.buffer.resize(wanted.min(FLUSH_LEN + len).max(self.filled + len), 0);
        }
        &mut self.buffer[self.filled..]
    }

    fn flush(&mut self) -> Result<(), Error> {
        let written = self.writer.write_all(&self.buffer[..self.filled]);
        self.written += self.filled as u64;
        self.filled = 0;
        self.note(written)
    }

    fn write_through(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let written = self.writer.write_all(bytes);
        self.written += bytes.len() as u64;
        self.note(written)
    }

    fn note(&mut self, written: std::io::Result<()>) -> Result<(), Error> {
        written.map_err(|source| {
            self.failed = true;
            Error::Io { doing: "write LTX file", source }
        })
    }
}
