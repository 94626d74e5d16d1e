//! SQLite's bytes: database header, b-trees and records, write-ahead log (WAL), wal-index and the bytes that its locks
//! lie on; and [`diff`], which tells from pages which rows have changed.
//!
//! Everything here is pure: bytes in, values out. Nothing opens a file, and no input makes it panic, so it can be
//! given whatever a crash, a torn read or another program left behind.
//!
//! The sources are SQLite's "Database File Format" (<https://www.sqlite.org/fileformat2.html>) and "WAL-mode File
//! Format" (<https://www.sqlite.org/walformat.html>).

mod btree;
mod chain;
mod checksum;
mod database_header;
pub mod diff;
mod error;
pub mod locks;
mod record;
mod table;
mod wal;
mod wal_index;

pub use btree::{PageBytes, PageSource};
pub use chain::{Chain, Stop};
pub use checksum::{FrameSummer, Kernel, WalChecksum, checksum_serial};
pub use database_header::{AutoVacuum, DatabaseHeader, TextEncoding};
pub use error::{Error, Kind, Result};
pub use record::{Collation, Value};
pub use table::{Catalog, Column, KeyPart, ReadLayout, RowRef, SchemaRow, Table, TableLayout};
pub use wal::{FrameHeader, WalHeader, frame_offset, frame_size};
pub use wal_index::{CheckpointInfo, READ_MARK_UNUSED, WalIndexHeader, named_pages};

/// Big-endian word at `at`; the caller has checked the length.
fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
