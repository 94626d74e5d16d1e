//! The log's vocabulary and the LTX codec.
//!
//! LTX is the file format of the log: one file holds the pages that a range of transactions changed. litekeep writes
//! the dialect that Litestream 0.5 reads, and reads both page encodings that Litestream has written.
//! Everything here is pure: bytes in, bytes out, `std::io` only.

mod vocabulary;

pub use vocabulary::{Checksum, Epoch, PageSize, Pgno, Pos, Salt, Txid, WriterId};
