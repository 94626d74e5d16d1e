//! The write-ahead log file: one header, then frames, each a frame header and a page. All numbers are big-endian.
//!
//! ```text
//! WAL header                                   frame header
//!  0 magic 0x377f0682 or 0x377f0683   4         0 page number                          4
//!  4 version 3007000                  4         4 pages after commit, 0 = no commit    4
//!  8 page size                        4         8 salt                                 8
//! 12 checkpoint sequence              4        16 checksum of all up to here           8
//! 16 salt                             8        24 page                         page size
//! 24 checksum of bytes 0 to 23        8
//! ```
//!
//! The last bit of the magic tells the byte order in which *checksums read their words*; it is the byte order of the
//! machine that created the WAL. A frame counts only if its salt is the header's and its checksum continues the
//! previous frame's ([`Chain`](crate::Chain)); what follows is left over from an earlier generation or torn.
//!
//! That a frame counts does not mean that its transaction exists: see [`WalIndexHeader`](crate::WalIndexHeader).

use crate::be32;
use crate::checksum::{WalChecksum, checksum_serial};
use crate::error::{Error, Result};
use litekeep_ltx::{PageSize, Pgno, Salt};

const MAGIC: u32 = 0x377f_0682;
const VERSION: u32 = 3_007_000;

/// The header of a WAL file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalHeader {
    /// Checksums read their words in big-endian order (magic 0x377f0683).
    pub big_endian: bool,
    /// Bytes of a page.
    pub page_size: PageSize,
    /// Checkpoint sequence: counts the resets that one connection has made; not comparable between connections.
    pub sequence: u32,
    /// Names the generation of the WAL: each reset changes it, so frames of the generation before do not count.
    pub salt: Salt,
    /// Of the header itself; the first frame's checksum continues it.
    pub checksum: WalChecksum,
}

impl WalHeader {
    /// Bytes of the header.
    pub const LEN: usize = 32;

    /// A header with its checksum.
    pub fn new(big_endian: bool, page_size: PageSize, sequence: u32, salt: Salt) -> WalHeader {
        let mut header =
            WalHeader { big_endian, page_size, sequence, salt, checksum: WalChecksum::default() };
        let bytes = header.to_bytes();
        header.checksum = checksum_serial(big_endian, &bytes[..24], WalChecksum::default());
        header
    }

    /// Reads and verifies a header.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid) for a wrong magic or version, [`Kind::Corrupt`](crate::Kind::Corrupt) for a
    /// wrong page size or checksum. In all of these but the version, SQLite takes the WAL for an empty one.
    pub fn parse(bytes: &[u8; Self::LEN]) -> Result<WalHeader> {
        let magic = be32(bytes, 0);
        if magic & !1 != MAGIC {
            return Err(Error::NotAWal(magic));
        }
        let big_endian = magic & 1 == 1;
        let checksum = WalChecksum(be32(bytes, 24), be32(bytes, 28));
        if checksum_serial(big_endian, &bytes[..24], WalChecksum::default()) != checksum {
            return Err(Error::WalHeaderChecksum);
        }
        let version = be32(bytes, 4);
        if version != VERSION {
            return Err(Error::UnknownWalVersion(version));
        }
        let size = be32(bytes, 8);
        let page_size = PageSize::new(size).ok_or(Error::PageSize(size))?;
        Ok(WalHeader { big_endian, page_size, sequence: be32(bytes, 12), salt: salt_at(bytes, 16), checksum })
    }

    /// The bytes of this header, with `checksum` as it stands.
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..4].copy_from_slice(&(MAGIC | u32::from(self.big_endian)).to_be_bytes());
        bytes[4..8].copy_from_slice(&VERSION.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.page_size.get().to_be_bytes());
        bytes[12..16].copy_from_slice(&self.sequence.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.salt.0);
        bytes[24..].copy_from_slice(&self.checksum.to_bytes());
        bytes
    }
}

/// The header of one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// The page that the frame holds.
    pub pgno: Pgno,
    /// Pages in the database after the commit that this frame ends, 0 if it ends none.
    pub commit: u32,
    /// Generation that the frame belongs to.
    pub salt: Salt,
    /// Of everything up to this frame's page, without the frames' salts and checksums.
    pub checksum: WalChecksum,
}

impl FrameHeader {
    /// Bytes of the header.
    pub const LEN: usize = 24;

    /// Reads a frame header, verifying nothing; `None` for page 0, with which SQLite, too, ends the log.
    pub fn parse(bytes: &[u8; Self::LEN]) -> Option<FrameHeader> {
        Some(FrameHeader {
            pgno: Pgno::new(be32(bytes, 0))?,
            commit: be32(bytes, 4),
            salt: salt_at(bytes, 8),
            checksum: WalChecksum(be32(bytes, 16), be32(bytes, 20)),
        })
    }

    /// The bytes of this header.
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..4].copy_from_slice(&self.pgno.get().to_be_bytes());
        bytes[4..8].copy_from_slice(&self.commit.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.salt.0);
        bytes[16..].copy_from_slice(&self.checksum.to_bytes());
        bytes
    }

    /// Whether the frame ends a transaction.
    pub fn is_commit(&self) -> bool {
        self.commit != 0
    }
}

/// Bytes of a frame: its header and a page.
pub const fn frame_size(page_size: PageSize) -> u64 {
    FrameHeader::LEN as u64 + page_size.get() as u64
}

/// Byte offset in the WAL of the frame with this index, which counts from 0. SQLite counts frames from 1, so this is also
/// the offset at which the WAL ends when `mxFrame` is `index0`.
pub const fn frame_offset(page_size: PageSize, index0: u32) -> u64 {
    WalHeader::LEN as u64 + index0 as u64 * frame_size(page_size)
}

/// The salt that stands at `at`; the caller has checked the length.
pub(crate) fn salt_at(bytes: &[u8], at: usize) -> Salt {
    let mut salt = [0; 8];
    salt.copy_from_slice(&bytes[at..at + 8]);
    Salt(salt)
}
