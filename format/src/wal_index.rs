//! The beginning of the wal-index, the `-shm` file that SQLite's connections share as memory. Numbers are in the machine's
//! byte order, but for the salts, which are bytes.
//!
//! ```text
//!   0 version 3007000    4   |  96 frames backfilled           4
//!   4 unused             4   | 100 read marks 0 to 4        5 x 4
//!   8 change counter     4   | 120 lock bytes                  8
//!  12 initialised        1   | 128 frames backfill attempted   4
//!  13 big-endian sums    1   | 132 unused                      4
//!  14 page size          2
//!  16 mxFrame            4
//!  20 pages              4
//!  24 frame checksum     8
//!  32 salt               8
//!  40 checksum of 0..39  8
//!  48 the same once more
//! ```
//!
//! This header, not the WAL file, says which frames belong to committed transactions: a commit whose fsync failed leaves
//! its frames in the WAL, checksums and all, but `mxFrame` never covers them.
//!
//! SQLite writes the second copy first, and the first last; a reader takes them in the opposite order. One `pread` of
//! [`WalIndexHeader::LEN`] bytes reads upwards and so in the right order; with equal copies and a right checksum it is
//! consistent. The checkpoint information is not covered by this: each of its numbers is written on its own.

use crate::checksum::{WalChecksum, checksum_serial};
use crate::locks::READ_LOCKS;
use crate::wal::salt_at;
use litekeep_ltx::{PageSize, Salt};

const VERSION: u32 = 3_007_000;
const COPY_LEN: usize = 48;

/// Value of a read mark that no reader uses.
pub const READ_MARK_UNUSED: u32 = 0xffff_ffff;

/// The state of the WAL that the next reader will see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalIndexHeader {
    /// Grows by one with each transaction.
    pub change: u32,
    /// SQLite sets it in every header that it writes; a header without it is not parsed.
    pub is_init: bool,
    /// The WAL's checksums read their words in big-endian order.
    pub big_endian_checksums: bool,
    /// Bytes of a page; `None` while no frame has been seen since the wal-index was built from an empty WAL.
    pub page_size: Option<PageSize>,
    /// Number of the last valid frame, which ends a commit; frames count from 1, and 0 is an empty WAL.
    pub max_frame: u32,
    /// Pages in the database.
    pub page_count: u32,
    /// Checksum of frame `max_frame`.
    pub frame_checksum: WalChecksum,
    /// Generation of the WAL. After a reset this is ahead of the WAL file until the next commit writes the file's header.
    pub salt: Salt,
    /// How far checkpoints have come; may be newer than the rest.
    pub checkpoint: CheckpointInfo,
}

impl WalIndexHeader {
    /// Bytes to read from the beginning of `-shm`: both copies of the header and the checkpoint information.
    pub const LEN: usize = 136;

    /// Reads the beginning of a `-shm` file; more bytes may follow. `None` if it is too short, not initialised, of an
    /// unknown version, or caught in the middle of a change: then read again, or let SQLite recover.
    pub fn parse(bytes: &[u8]) -> Option<WalIndexHeader> {
        let bytes: &[u8; Self::LEN] = bytes.first_chunk()?;
        let (header, rest) = bytes.split_at(COPY_LEN);
        if header != &rest[..COPY_LEN] || native32(header, 0) != VERSION || header[12] == 0 {
            return None;
        }
        let checksum = checksum_serial(cfg!(target_endian = "big"), &header[..40], WalChecksum::default());
        if checksum != WalChecksum(native32(header, 40), native32(header, 44)) {
            return None;
        }
        Some(WalIndexHeader {
            change: native32(header, 8),
            is_init: true,
            big_endian_checksums: header[13] != 0,
            page_size: match u16::from_ne_bytes([header[14], header[15]]) {
                0 => None,
                1 => Some(PageSize::new(65536)?),
                size => Some(PageSize::new(size.into())?),
            },
            max_frame: native32(header, 16),
            page_count: native32(header, 20),
            frame_checksum: WalChecksum(native32(header, 24), native32(header, 28)),
            salt: salt_at(header, 32),
            checkpoint: CheckpointInfo::at_96(bytes),
        })
    }
}

/// How far checkpoints and readers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointInfo {
    /// Frames that are in the database file, and synced.
    pub backfilled: u32,
    /// The `mxFrame` of the readers that hold the lock of each mark, or [`READ_MARK_UNUSED`]. Mark 0 stays 0: its readers
    /// use the database file only. A mark keeps its value when its readers leave; the lock tells whether it counts.
    pub read_marks: [u32; READ_LOCKS],
    /// Frames that a checkpoint has begun to copy; those beyond `backfilled` may be in the database file in part.
    pub backfill_attempted: u32,
}

impl CheckpointInfo {
    fn at_96(bytes: &[u8; WalIndexHeader::LEN]) -> CheckpointInfo {
        CheckpointInfo {
            backfilled: native32(bytes, 96),
            read_marks: std::array::from_fn(|i| native32(bytes, 100 + 4 * i)),
            backfill_attempted: native32(bytes, 128),
        }
    }
}

/// Bytes of a block of the wal-index, at whose beginning stand the pages of so many frames.
const BLOCK_LEN: u64 = 32 << 10;
const BLOCK_FRAMES: u32 = 4096;
/// The same of the first block, which begins with the header.
const FIRST_BLOCK_FRAMES: u32 = BLOCK_FRAMES - WalIndexHeader::LEN as u32 / 4;

/// Where `-shm` names the page of a frame, 4 bytes in the machine's order, and of how many frames from there on side by side.
/// Frames count from 1. SQLite finds pages by these numbers alone, and not by those in the frames.
pub fn named_pages(frame: u32) -> (u64, u32) {
    if frame <= FIRST_BLOCK_FRAMES {
        let at = WalIndexHeader::LEN as u64 + 4 * u64::from(frame.saturating_sub(1));
        return (at, FIRST_BLOCK_FRAMES - frame.saturating_sub(1));
    }
    let after_first = frame - FIRST_BLOCK_FRAMES - 1;
    let (block, nth) = (1 + after_first / BLOCK_FRAMES, after_first % BLOCK_FRAMES);
    (u64::from(block) * BLOCK_LEN + 4 * u64::from(nth), BLOCK_FRAMES - nth)
}

fn native32(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
