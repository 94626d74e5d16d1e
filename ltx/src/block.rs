//! One page as it stands in a file.
//!
//! ```text
//!   block encoding              frame encoding (Litestream before 0.5.16; read only)
//!   0  pgno u32                 0  pgno u32
//!   4  flags u16 = 1            4  flags u16 = 0
//!   6  length u32               6  a complete LZ4 frame, which tells its own end
//!  10  LZ4 block
//! ```
//!
//! Six zero bytes end the blocks: page number 0.
//!
//! Nothing here trusts a length: what a page of the given size can never need is refused before anything is read or
//! allocated for it.

use std::io::Read;

use crate::crc::Crc;
use crate::{PageSize, Pgno};

pub(crate) const END_OF_BLOCKS: [u8; 6] = [0; 6];
/// Bytes before the LZ4 block.
pub(crate) const BLOCK_HEADER_LEN: usize = 10;
const FRAME_HEADER_LEN: usize = 6;
const FLAG_BLOCK: u16 = 1;

const FRAME_MAGIC: [u8; 4] = 0x184D_2204u32.to_le_bytes();
/// The block size code for 64 KiB in a frame descriptor: as large as a page gets, and what Litestream wrote.
const FRAME_64_KIB: u8 = 4;

/// Where one page stands in the bytes that it was parsed from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) pgno: Pgno,
    /// Bytes before the compressed page.
    header_len: usize,
    /// Bytes in all.
    pub(crate) len: usize,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Parsed {
    /// At least so many bytes are needed to go on.
    Need(usize),
    Block(Block),
    EndOfBlocks,
}

/// The most bytes that LZ4 makes of a page, for any compressor.
pub(crate) fn max_compressed_len(page_size: PageSize) -> usize {
    lz4_flex::block::get_maximum_output_size(page_size.bytes())
}

/// The most bytes that one block, of either encoding, may take: bounds what a reader must hold.
pub(crate) fn max_len(page_size: PageSize) -> usize {
    // A frame: 19 bytes of descriptor at most, and generously many block lengths and checksums.
    FRAME_HEADER_LEN + max_compressed_len(page_size) + 512
}

/// The header of a block as the encoder writes it.
pub(crate) fn block_header(pgno: Pgno, compressed_len: usize) -> [u8; BLOCK_HEADER_LEN] {
    let mut header = [0; BLOCK_HEADER_LEN];
    header[..4].copy_from_slice(&pgno.get().to_be_bytes());
    header[4..6].copy_from_slice(&FLAG_BLOCK.to_be_bytes());
    header[6..].copy_from_slice(&u32::try_from(compressed_len).expect("below 2^17").to_be_bytes());
    header
}

/// Finds out where the page at the beginning of `bytes` ends.
pub(crate) fn parse(page_size: PageSize, bytes: &[u8]) -> Result<Parsed, String> {
    let Some(header) = bytes.first_chunk::<FRAME_HEADER_LEN>() else {
        return Ok(Parsed::Need(FRAME_HEADER_LEN));
    };
    let pgno = u32::from_be_bytes(header[..4].try_into().expect("4 bytes"));
    let flags = u16::from_be_bytes(header[4..].try_into().expect("2 bytes"));
    match (Pgno::new(pgno), flags) {
        (None, 0) => Ok(Parsed::EndOfBlocks),
        (None, _) => Err(format!("page number 0 with flags {flags:#x}")),
        (Some(pgno), FLAG_BLOCK) => parse_block(page_size, pgno, bytes),
        (Some(pgno), 0) => parse_frame(page_size, pgno, bytes),
        (Some(_), _) => Err(format!("page {pgno} with unknown flags {flags:#x}")),
    }
}

fn parse_block(page_size: PageSize, pgno: Pgno, bytes: &[u8]) -> Result<Parsed, String> {
    if bytes.len() < BLOCK_HEADER_LEN {
        return Ok(Parsed::Need(BLOCK_HEADER_LEN));
    }
    let compressed = crate::header::be32(bytes, 6) as usize;
    if compressed == 0 || compressed > max_compressed_len(page_size) {
        return Err(format!("page {pgno} takes {compressed} bytes compressed"));
    }
    let len = BLOCK_HEADER_LEN + compressed;
    if bytes.len() < len {
        return Ok(Parsed::Need(len));
    }
    Ok(Parsed::Block(Block { pgno, header_len: BLOCK_HEADER_LEN, len }))
}

/// Walks over an LZ4 frame (`lz4_Frame_format.md` of the LZ4 project) without decompressing it.
fn parse_frame(page_size: PageSize, pgno: Pgno, bytes: &[u8]) -> Result<Parsed, String> {
    let bad = |what: &str| Err(format!("page {pgno}: {what}"));
    let descriptor = FRAME_HEADER_LEN + 7;
    if bytes.len() < descriptor {
        return Ok(Parsed::Need(descriptor));
    }
    if bytes[FRAME_HEADER_LEN..][..4] != FRAME_MAGIC {
        return bad("no LZ4 frame");
    }
    let (flg, bd) = (bytes[FRAME_HEADER_LEN + 4], bytes[FRAME_HEADER_LEN + 5]);
    let set = |bit: u8| usize::from(flg >> bit & 1);
    if flg >> 6 != 1 || set(0) == 1 || bd >> 4 != FRAME_64_KIB {
        return bad("LZ4 frame with a dictionary, blocks over 64 KiB, or of an unknown version");
    }
    let (block_checksum, content_size, content_checksum) = (set(4) * 4, set(3) * 8, set(2) * 4);

    let mut at = descriptor + content_size;
    loop {
        let Some(size) = bytes.get(at..at + 4) else { return Ok(Parsed::Need(at + 4)) };
        let size = u32::from_le_bytes(size.try_into().expect("4 bytes"));
        at += 4;
        if size == 0 {
            at += content_checksum;
            break;
        }
        // The top bit marks a block that is stored rather than compressed.
        at += (size & 0x7fff_ffff) as usize + block_checksum;
        if at > max_len(page_size) {
            return bad("LZ4 frame longer than a page can need");
        }
    }
    if bytes.len() < at {
        return Ok(Parsed::Need(at));
    }
    Ok(Parsed::Block(Block { pgno, header_len: FRAME_HEADER_LEN, len: at }))
}

impl Block {
    /// The LZ4 block in the bytes that this was parsed from, which can stand in another file as it is; `None` for
    /// the frame encoding.
    pub(crate) fn lz4_block<'a>(&self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        (self.header_len == BLOCK_HEADER_LEN).then(|| &bytes[BLOCK_HEADER_LEN..self.len])
    }

    /// Decompresses into `page`, which has the page size, and adds header and page to the file's checksum.
    ///
    /// `bytes` are those that the block was parsed from.
    pub(crate) fn decode(&self, bytes: &[u8], page: &mut [u8], file: &mut Crc) -> Result<(), String> {
        let (header, compressed) = bytes[..self.len].split_at(self.header_len);
        let whole = if self.header_len == BLOCK_HEADER_LEN {
            lz4_flex::block::decompress_into(compressed, page).is_ok_and(|n| n == page.len())
        } else {
            decompress_frame(compressed, page).is_ok()
        };
        if !whole {
            return Err(format!("page {} does not decompress to a whole page", self.pgno));
        }
        file.update(header);
        file.update(page);
        Ok(())
    }
}

fn decompress_frame(frame: &[u8], page: &mut [u8]) -> std::io::Result<()> {
    let mut decoder = lz4_flex::frame::FrameDecoder::new(frame);
    decoder.read_exact(page)?;
    // Reading on to the end checks the frame's own checksum.
    match decoder.read(&mut [0])? {
        0 if decoder.get_ref().is_empty() => Ok(()),
        _ => Err(std::io::ErrorKind::InvalidData.into()),
    }
}
