//! Checksums of the pages of one file, one by one: what tells that a page which was read alone is the one that was written, since the
//! format has a checksum for a whole file only.
//!
//! ```text
//!  0  "litekeep checks\0"       16
//! 16  seal                       8   numbers are big-endian; CRC-64/GO-ISO of the file without its pages
//! 24  for each page, in the order of the file: CRC-32C of the page, uncompressed   4
//!     checksum                   8   CRC-64/GO-ISO of all bytes before
//! ```
//!
//! The seal is over the header and all that follows the pages. Its trailer has the checksum of the whole file, so a record belongs to one
//! file and to no other; and its page index says which page stands where, so no checksum needs the page's number.

use std::io::Read;

use crate::crc::Crc;
use crate::header::be64;
use crate::{Checksum, Decoder, Error};

const MAGIC: &[u8; 16] = b"litekeep checks\0";
const HEADER_LEN: usize = MAGIC.len() + 8;
const CHECKSUM_LEN: usize = 8;

/// The checksums of the pages of one file. Takes 4 bytes a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageChecks {
    seal: Checksum,
    pages: Vec<u32>,
}

impl PageChecks {
    pub(crate) fn new(seal: Checksum, pages: Vec<u32>) -> PageChecks {
        PageChecks { seal, pages }
    }

    /// Those of a file, which is read to its end and verified. See [`Decoder::new`].
    ///
    /// # Errors
    /// Those of [`Decoder::next_page`].
    pub fn of(reader: impl Read) -> Result<PageChecks, Error> {
        let mut decoder = Decoder::new(reader)?;
        let mut page = vec![0; decoder.header().page_size.bytes()];
        let mut pages = vec![];
        while decoder.next_page(&mut page)?.is_some() {
            pages.push(page_check(&page));
        }
        pages.shrink_to_fit();
        Ok(PageChecks { seal: decoder.seal(), pages })
    }

    /// What tells one file from all others: `header` its first 100 bytes, `tail` everything after the blocks
    /// ([`PageIndex::tail_range`](crate::PageIndex::tail_range)).
    pub fn seal_of(header: &[u8], tail: &[u8]) -> Checksum {
        let mut seal = Crc::new();
        seal.update(header);
        seal.update(tail);
        seal.checksum()
    }

    /// The seal of the file that they are of.
    pub fn seal(&self) -> Checksum {
        self.seal
    }

    /// How many pages the file holds.
    pub fn pages(&self) -> usize {
        self.pages.len()
    }

    /// Whether this is what was written as the file's `nth` page ([`PageIndex::nth`](crate::PageIndex::nth)).
    pub fn is_page(&self, nth: usize, page: &[u8]) -> bool {
        self.pages.get(nth) == Some(&page_check(page))
    }

    /// The record.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_LEN + 4 * self.pages.len() + CHECKSUM_LEN);
        bytes.extend(MAGIC);
        bytes.extend(self.seal.0.to_be_bytes());
        self.pages.iter().for_each(|check| bytes.extend(check.to_be_bytes()));
        bytes.extend(checksum(&bytes).0.to_be_bytes());
        bytes
    }

    /// Reads a record.
    ///
    /// # Errors
    /// [`Error::Corrupt`] and [`Error::Checksum`] for bytes that are not what was written.
    pub fn parse(bytes: &[u8]) -> Result<PageChecks, Error> {
        let Some((content, stated)) =
            bytes.split_last_chunk::<CHECKSUM_LEN>().filter(|(content, _)| content.starts_with(MAGIC))
        else {
            return Err(Error::corrupt(0, "not a record of page checksums"));
        };
        let (expected, found) = (Checksum(u64::from_be_bytes(*stated)), checksum(content));
        if expected != found {
            return Err(Error::Checksum { expected, found });
        }
        let ends_early = || Error::corrupt(content.len() as u64, "the record of page checksums ends early");
        let (header, pages) = content.split_at_checked(HEADER_LEN).ok_or_else(ends_early)?;
        let (pages, rest) = pages.as_chunks::<4>();
        if !rest.is_empty() {
            return Err(ends_early());
        }
        let pages = pages.iter().map(|check| u32::from_be_bytes(*check)).collect();
        Ok(PageChecks { seal: Checksum(be64(header, MAGIC.len())), pages })
    }
}

pub(crate) fn page_check(page: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(page)
}

fn checksum(content: &[u8]) -> Checksum {
    let mut crc = Crc::new();
    crc.update(content);
    crc.checksum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn catalogue_check_value() {
        assert_eq!(page_check(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn a_record_is_read_as_it_was_written_and_refused_when_damaged() {
        for pages in [vec![], vec![7], (0..1000u32).map(|n| n.wrapping_mul(0x9e37_79b9)).collect()] {
            let checks = PageChecks::new(Checksum(9), pages);
            let bytes = checks.to_bytes();
            assert_eq!(PageChecks::parse(&bytes).unwrap(), checks);
            for at in 0..bytes.len() {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << (at % 8);
                PageChecks::parse(&damaged).unwrap_err();
                PageChecks::parse(&bytes[..at]).unwrap_err();
            }
            PageChecks::parse(&[&bytes[..], &[0; 4]].concat()).unwrap_err();
        }
    }

    #[test]
    fn a_record_with_half_a_checksum_is_none() {
        let mut content = [&MAGIC[..], &[1; 8 + 6]].concat();
        content.extend(checksum(&content).0.to_be_bytes());
        let refused = PageChecks::parse(&content).unwrap_err().to_string();
        assert!(refused.contains("ends early"), "{refused}");
        let mut content = MAGIC.to_vec();
        content.extend(checksum(&content).0.to_be_bytes());
        PageChecks::parse(&content).unwrap_err();
    }
}
