//! Follows the checksums of a WAL from frame to frame.
//!
//! Each frame's checksum continues the one before, so a frame that passes proves that every frame since the header is the
//! one that was written after its predecessor. A chain can be resumed from the salt and checksum at any frame, which is
//! all that has to be saved over a restart.

use crate::checksum::{FrameSummer, WalChecksum};
use crate::wal::{FrameHeader, WalHeader, salt_at};
use litekeep_ltx::{PageSize, Salt};

/// Why a chain does not go on with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The frame bears another salt: left over from an earlier generation, or the WAL was reset since.
    OtherSalt(Salt),
    /// The checksum does not continue the chain, or the frame is cut short or names page 0, with which SQLite ends the log
    /// as well: not yet written in full, torn by a crash, or damaged.
    BadChecksum,
}

/// Verifies consecutive frames of one generation of a WAL.
#[derive(Clone, Debug)]
pub struct Chain {
    salt: Salt,
    checksum: WalChecksum,
    summer: FrameSummer,
}

impl Chain {
    /// Starts before the first frame.
    pub fn new(header: &WalHeader) -> Chain {
        Chain::resume(header.salt, header.checksum, header.page_size, header.big_endian)
    }

    /// Starts behind the frame that has this checksum.
    pub fn resume(salt: Salt, checksum: WalChecksum, page_size: PageSize, big_endian: bool) -> Chain {
        Chain { salt, checksum, summer: FrameSummer::new(page_size, big_endian) }
    }

    /// Verifies the next frame, header and page, and moves behind it. At a [`Stop`] the chain stays where it is, so the
    /// same place can be tried again.
    ///
    /// # Panics
    /// If `frame` is longer than one frame.
    ///
    /// # Errors
    /// The frame does not continue the chain.
    pub fn step(&mut self, frame: &[u8]) -> Result<FrameHeader, Stop> {
        let frame_len = FrameHeader::LEN + self.summer.page_size().bytes();
        assert!(frame.len() <= frame_len, "{} bytes are more than one frame of {frame_len}", frame.len());
        if frame.len() < frame_len {
            return Err(Stop::BadChecksum);
        }
        let salt = salt_at(frame, 8);
        if salt != self.salt {
            return Err(Stop::OtherSalt(salt));
        }
        let header = self.check(self.checksum, frame).ok_or(Stop::BadChecksum)?;
        self.checksum = header.checksum;
        Ok(header)
    }

    /// Verifies one whole frame by itself, of any generation, whose predecessor has the checksum `before`.
    pub fn check(&self, before: WalChecksum, frame: &[u8]) -> Option<FrameHeader> {
        let header = frame.first_chunk().and_then(FrameHeader::parse)?;
        (self.summer.chain(before, frame) == header.checksum).then_some(header)
    }

    /// The checksum up to where the chain is: what [`Chain::resume`] takes.
    pub fn checksum(&self) -> WalChecksum {
        self.checksum
    }

    /// The generation that the chain follows.
    pub fn salt(&self) -> Salt {
        self.salt
    }
}
