//! Reads an LTX file front to back, in memory that does not grow with the file.
//!
//! - Pages are handed out before the file's end has been seen. Only [`Decoder::next_page`] returning `None` says
//!   that the file is whole: index, trailer and checksum were right, and nothing followed.
//! - After an error the decoder returns errors only: a damaged file never looks like a short one.
//! - No input makes it panic, or allocate more than a constant amount.

use std::io::{self, Read};

use crate::block::{self, Block, END_OF_BLOCKS, Parsed};
use crate::crc::Crc;
use crate::header::{TRAILER_LEN, be64};
use crate::index::ExpectedIndex;
use crate::order::PageOrder;
use crate::{Checksum, Error, Header, Pgno, Trailer};

/// Bytes read at once.
const READ_LEN: usize = 32 << 10;

/// Reads the pages of one file, ascending, and verifies it. See the module for what it promises.
pub struct Decoder<R> {
    input: Input<R>,
    header: Header,
    order: PageOrder,
    file: Crc,
    /// See [`PageChecks::seal_of`](crate::PageChecks::seal_of).
    seal: Crc,
    index: ExpectedIndex,
    last: Option<Block>,
    state: State,
}

enum State {
    Pages,
    Verified(Trailer),
    Failed,
}

impl<R: Read> Decoder<R> {
    /// Reads the header. `reader` must end with the file; it need not be buffered.
    ///
    /// # Errors
    /// [`Error::Corrupt`] where this is not an LTX file.
    pub fn new(reader: R) -> Result<Decoder<R>, Error> {
        let mut input = Input { reader, buffer: vec![0; READ_LEN], filled: 0, used: 0, offset: 0 };
        let bytes = input.peek(Header::LEN)?;
        let header = Header::parse(bytes)?;
        let mut file = Crc::new();
        file.update(bytes);
        input.consume(Header::LEN);
        Ok(Decoder {
            input,
            header,
            order: PageOrder::new(&header),
            seal: file,
            file,
            index: ExpectedIndex::new(),
            last: None,
            state: State::Pages,
        })
    }

    /// The file's header. Not yet verified by the checksum before [`Decoder::next_page`] has returned `None`.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The trailer, once the whole file was verified.
    pub fn trailer(&self) -> Option<Trailer> {
        match self.state {
            State::Verified(trailer) => Some(trailer),
            State::Pages | State::Failed => None,
        }
    }

    /// Decodes the next page into `page`, which has the header's page size; `None` at the end of a verified file.
    ///
    /// # Errors
    /// [`Error::Corrupt`] and [`Error::Checksum`] for a damaged file, [`Error::Invalid`] where `page` has another
    /// size.
    pub fn next_page(&mut self, page: &mut [u8]) -> Result<Option<Pgno>, Error> {
        match self.state {
            State::Verified(_) => return Ok(None),
            State::Failed => return Err(Error::invalid("the file cannot be read on after an error")),
            State::Pages => {}
        }
        if page.len() != self.header.page_size.bytes() {
            return Err(Error::invalid(format!(
                "a buffer of {} bytes for pages of {}",
                page.len(),
                self.header.page_size.get()
            )));
        }
        let result = self.decode_next(page);
        if result.is_err() {
            self.state = State::Failed;
        }
        result
    }

    /// Reads and discards what is left, and verifies the file.
    ///
    /// # Errors
    /// Those of [`Decoder::next_page`].
    pub fn verify(&mut self) -> Result<Trailer, Error> {
        let mut page = vec![0; self.header.page_size.bytes()];
        while self.next_page(&mut page)?.is_some() {}
        Ok(self.trailer().expect("no more pages means verified"))
    }

    /// The seal of the file, which counts once the whole file was verified.
    pub(crate) fn seal(&self) -> Checksum {
        self.seal.checksum()
    }

    /// The page that was read last, still compressed, if it stands in the encoding that is written today.
    pub(crate) fn lz4_block(&self) -> Option<&[u8]> {
        self.last.and_then(|block| block.lz4_block(self.input.consumed(block.len)))
    }

    fn decode_next(&mut self, page: &mut [u8]) -> Result<Option<Pgno>, Error> {
        self.last = None;
        let offset = self.input.offset;
        let corrupt = |what: String| Error::corrupt(offset, what);
        let mut needed = END_OF_BLOCKS.len();
        let block = loop {
            match block::parse(self.header.page_size, self.input.peek(needed)?).map_err(corrupt)? {
                Parsed::Need(more) => needed = more,
                Parsed::Block(block) => break block,
                Parsed::EndOfBlocks => return self.finish().map(|()| None),
            }
        };
        self.order.accept(block.pgno).map_err(corrupt)?;
        block.decode(self.input.peek(block.len)?, page, &mut self.file).map_err(corrupt)?;
        self.index.push(block.pgno, offset, block.len as u64);
        self.input.consume(block.len);
        self.last = Some(block);
        Ok(Some(block.pgno))
    }

    /// Verifies everything after the last page.
    fn finish(&mut self) -> Result<(), Error> {
        self.order.finish().map_err(|what| Error::corrupt(self.input.offset, what))?;
        self.file.update(&END_OF_BLOCKS);
        self.seal.update(&END_OF_BLOCKS);
        self.input.consume(END_OF_BLOCKS.len());

        let offset = self.input.offset;
        let mut found = Crc::new();
        let mut left = self.index.len();
        while left > 0 {
            let len = left.min(READ_LEN as u64) as usize;
            let bytes = self.input.peek(len)?;
            found.update(bytes);
            self.file.update(bytes);
            self.seal.update(bytes);
            self.input.consume(len);
            left -= len as u64;
        }

        let fixed = self.input.peek(8 + TRAILER_LEN)?;
        let index_len = be64(fixed, 0);
        let trailer = Trailer::parse(fixed[8..].try_into().expect("16 bytes"));
        self.file.update(&fixed[..16]);
        self.seal.update(fixed);
        self.input.consume(8 + TRAILER_LEN);
        if self.file.checksum() != trailer.file {
            return Err(Error::Checksum { expected: trailer.file, found: self.file.checksum() });
        }
        // A right checksum over a wrong index is a writer's mistake, and would send range requests astray.
        if found.value() != self.index.value() || index_len != self.index.len() {
            return Err(Error::corrupt(offset, "the page index does not match the pages"));
        }
        if self.input.is_at_end()? {
            self.state = State::Verified(trailer);
            Ok(())
        } else {
            Err(Error::corrupt(self.input.offset, "bytes after the end of the file"))
        }
    }
}

/// A buffered reader that gives a wanted number of bytes in one piece.
struct Input<R> {
    reader: R,
    buffer: Vec<u8>,
    filled: usize,
    used: usize,
    /// Of the first unused byte in the file.
    offset: u64,
}

impl<R: Read> Input<R> {
    /// The next `len` bytes; asks for no more than a block at most takes, or [`READ_LEN`].
    fn peek(&mut self, len: usize) -> Result<&[u8], Error> {
        while self.filled - self.used < len {
            if self.read_more(len)? == 0 {
                return Err(Error::corrupt(
                    self.offset + (self.filled - self.used) as u64,
                    "the file ends early",
                ));
            }
        }
        Ok(&self.buffer[self.used..self.used + len])
    }

    fn consume(&mut self, len: usize) {
        self.used += len;
        self.offset += len as u64;
        debug_assert!(self.used <= self.filled);
    }

    /// The last `len` bytes consumed; they stay in place until more is read.
    fn consumed(&self, len: usize) -> &[u8] {
        &self.buffer[self.used - len..self.used]
    }

    fn is_at_end(&mut self) -> Result<bool, Error> {
        Ok(self.used == self.filled && self.read_more(1)? == 0)
    }

    fn read_more(&mut self, wanted: usize) -> Result<usize, Error> {
        self.buffer.copy_within(self.used..self.filled, 0);
        self.filled -= self.used;
        self.used = 0;
        if self.buffer.len() < wanted {
            self.buffer.resize(wanted.next_multiple_of(READ_LEN), 0);
        }
        loop {
            match self.reader.read(&mut self.buffer[self.filled..]) {
                Ok(read) => {
                    self.filled += read;
                    return Ok(read);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(Error::Io { doing: "read LTX file", source }),
            }
        }
    }
}
