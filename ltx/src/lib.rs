//! The log's vocabulary and the LTX codec.
//!
//! LTX is the file format of the log: one file holds the pages that a range of transactions changed. litekeep writes
//! the dialect that Litestream 0.5 reads, and reads both page encodings that Litestream has written.
//! Everything here is pure: bytes in, bytes out, `std::io` only.
//!
//! ```text
//! header, 100 bytes │ one block a page, ascending │ 6 zero bytes │ page index │ trailer, 16 bytes
//! ```
//!
//! - [`Encoder`] writes a file, [`Decoder`] reads one front to back; both need little memory.
//! - [`PageIndex`] finds single pages, and cuts a file into pieces to decode at once ([`decode_chunk`],
//!   [`verify_parts`]).
//! - [`merge`] compacts consecutive files into one.
//! - [`PageChecks`] tell of single pages whether they are what was written.
//! - A [`Pack`] keeps, beside the files, the single commits that level-0 files have put together.

mod block;
mod chunk;
mod crc;
mod decoder;
mod encoder;
mod error;
mod file_name;
mod header;
mod index;
mod merge;
mod order;
mod pack;
mod page_checks;
mod uvarint;
mod vocabulary;

pub use chunk::{PartialChecksum, decode_chunk, decode_file, decode_page, verify_parts};
pub use crc::page_checksum;
pub use decoder::Decoder;
pub use encoder::{Encoded, Encoder};
pub use error::{Error, ErrorKind};
pub use file_name::{FileName, InvalidFileName};
pub use header::{Header, TRAILER_LEN, Trailer};
pub use index::{Chunk, IndexTail, PageIndex};
pub use merge::merge;
pub use pack::{Commit, Pack, PackCapture, PackDecoder, PackEncoder, PackEntry};
pub use page_checks::PageChecks;
pub use vocabulary::{Checksum, Epoch, InvalidTxid, PageSize, Pgno, Point, Pos, Salt, Txid, WriterId};
