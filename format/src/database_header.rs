//! The first 100 bytes of a database file, big-endian:
//!
//! ```text
//!  0 "SQLite format 3\0"            16
//! 16 page size (1 = 65536)           2
//! 18 write version, read version     1+1   1 rollback journal, 2 WAL
//! 20 reserved bytes in each page     1
//! 21 payload fractions 64, 32, 32    3
//! 24 change counter                  4
//! 28 pages in the database           4     valid if 92 equals 24
//! 32 first freelist page, its count  4+4
//! 40 schema cookie, schema format    4+4
//! 48 default cache size              4
//! 52 largest root page               4     not 0 = auto-vacuum
//! 56 text encoding                   4
//! 60 user version                    4
//! 64 incremental vacuum              4
//! 68 application id                  4
//! 72 zero                           20
//! 92 change counter that 28 is for   4
//! 96 SQLite version of the writer    4
//! ```
//!
//! In WAL mode the newest header is the newest frame of page 1, not the file's first bytes.

use crate::be32;
use crate::error::{Error, Result};
use litekeep_ltx::PageSize;

/// How a database gives free pages back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AutoVacuum {
    /// Free pages stay in the file.
    None,
    /// The file shrinks at each commit.
    Full,
    /// The file shrinks when `PRAGMA incremental_vacuum` asks for it.
    Incremental,
}

/// Encoding of all text in a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextEncoding {
    /// UTF-8.
    Utf8,
    /// UTF-16, little-endian.
    Utf16Le,
    /// UTF-16, big-endian.
    Utf16Be,
}

/// The database header, as far as it describes the whole database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabaseHeader {
    /// Bytes of a page.
    pub page_size: PageSize,
    /// 1 rollback journal, 2 WAL; SQLite opens a file with a greater one read-only.
    pub write_version: u8,
    /// 1 rollback journal, 2 WAL.
    pub read_version: u8,
    /// Bytes at the end of each page that SQLite leaves to extensions.
    pub reserved: u8,
    /// Grows by one with each transaction; in WAL mode only with those that write page 1.
    pub change_counter: u32,
    /// Pages in the database, as the header has it; see [`DatabaseHeader::valid_page_count`].
    pub page_count: u32,
    /// Pages on the freelist.
    pub freelist_count: u32,
    /// Grows with each change of the schema (`PRAGMA schema_version`).
    pub schema_cookie: u32,
    /// 1 to 4; 0 in a database that never had a table.
    pub schema_format: u32,
    /// How free pages are given back.
    pub auto_vacuum: AutoVacuum,
    /// Encoding of text; UTF-8 in a database that never had a table, where SQLite has not decided yet.
    pub text_encoding: TextEncoding,
    /// `PRAGMA user_version`.
    pub user_version: i32,
    /// `PRAGMA application_id`.
    pub application_id: i32,
    /// Change counter of the transaction that wrote `page_count` and `sqlite_version`.
    pub version_valid_for: u32,
    /// Version of the SQLite that wrote last, as in `SQLITE_VERSION_NUMBER`.
    pub sqlite_version: u32,
}

impl DatabaseHeader {
    /// Bytes of the header.
    pub const LEN: usize = 100;

    /// Reads the header from the beginning of a database file or of a page 1; more bytes may follow. Accepts what SQLite
    /// accepts.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid) for too few bytes, another kind of file or an unknown version,
    /// [`Kind::Corrupt`](crate::Kind::Corrupt) for fields that SQLite refuses.
    pub fn parse(bytes: &[u8]) -> Result<DatabaseHeader> {
        let h: &[u8; Self::LEN] =
            bytes.first_chunk().ok_or(Error::ShortDatabaseHeader { len: bytes.len() })?;
        if !h.starts_with(b"SQLite format 3\0") {
            return Err(Error::NotADatabase);
        }
        let (write_version, read_version, reserved) = (h[18], h[19], h[20]);
        if read_version > 2 {
            return Err(Error::UnknownReadVersion(read_version));
        }
        if h[21..24] != [64, 32, 32] {
            return Err(Error::PayloadFractions([h[21], h[22], h[23]]));
        }
        let size = u32::from(h[16]) << 8 | u32::from(h[17]) << 16;
        let page_size = PageSize::new(size).ok_or(Error::PageSize(size))?;
        if size - u32::from(reserved) < 480 {
            return Err(Error::ReservedBytes { reserved, page_size: size });
        }
        Ok(DatabaseHeader {
            page_size,
            write_version,
            read_version,
            reserved,
            change_counter: be32(h, 24),
            page_count: be32(h, 28),
            freelist_count: be32(h, 36),
            schema_cookie: be32(h, 40),
            schema_format: be32(h, 44),
            auto_vacuum: match (be32(h, 52), be32(h, 64)) {
                (0, _) => AutoVacuum::None,
                (_, 0) => AutoVacuum::Full,
                _ => AutoVacuum::Incremental,
            },
            // SQLite looks at the two low bits only.
            text_encoding: match be32(h, 56) & 3 {
                2 => TextEncoding::Utf16Le,
                3 => TextEncoding::Utf16Be,
                _ => TextEncoding::Utf8,
            },
            user_version: be32(h, 60).cast_signed(),
            application_id: be32(h, 68).cast_signed(),
            version_valid_for: be32(h, 92),
            sqlite_version: be32(h, 96),
        })
    }

    /// Bytes of each page that are SQLite's.
    pub fn usable(&self) -> usize {
        self.page_size.bytes() - usize::from(self.reserved)
    }

    /// Whether the database is in WAL mode.
    pub fn is_wal(&self) -> bool {
        self.read_version == 2
    }

    /// Pages in the database, or `None` if the last writer was older than SQLite 3.7.0, which did not maintain the
    /// number: then the length of the file tells.
    pub fn valid_page_count(&self) -> Option<u32> {
        (self.page_count != 0 && self.change_counter == self.version_valid_for).then_some(self.page_count)
    }
}
