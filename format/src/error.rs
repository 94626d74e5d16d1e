//! What can be wrong with bytes that should be SQLite's.

use litekeep_ltx::Pgno;

/// The result of reading SQLite's bytes.
pub type Result<T> = std::result::Result<T, Error>;

/// What the caller must do about an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The bytes were SQLite's and are damaged.
    Corrupt,
    /// The bytes are not what they were taken for: another kind of file, or a newer format.
    Invalid,
}

/// Bytes that SQLite would refuse.
///
/// The messages do not name the file, which only the caller knows: wrap them in "read `app.db`" or the like.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file ends within the database header. An empty file is a database without pages; the caller knows its
    /// length and decides.
    #[error(
        "the database header needs 100 bytes and the file has {len}; wait until the application has created its database"
    )]
    ShortDatabaseHeader {
        /// Bytes that were there.
        len: usize,
    },
    /// The first 16 bytes are not `SQLite format 3\0`: another kind of file, or an encrypted database.
    #[error("the file is not a SQLite database (or is encrypted): it does not begin with `SQLite format 3`")]
    NotADatabase,
    /// A read version above 2, which no SQLite 3 writes.
    #[error(
        "the database's read version is {0}, and only 1 (rollback) and 2 (WAL) are known; check the file with the program that wrote it"
    )]
    UnknownReadVersion(u8),
    /// A page size that is not a power of two from 512 to 65536.
    #[error(
        "the page size in the header is {0}, not a power of two from 512 to 65536; check the file with `PRAGMA integrity_check`"
    )]
    PageSize(u32),
    /// So many reserved bytes that fewer than 480 of a page are usable.
    #[error(
        "the header reserves {reserved} of {page_size} bytes in each page, and SQLite needs 480; check the file with `PRAGMA integrity_check`"
    )]
    ReservedBytes {
        /// Reserved bytes at the end of each page.
        reserved: u8,
        /// Bytes of a page.
        page_size: u32,
    },
    /// The payload fractions, bytes 21 to 23, are fixed by the format and differ.
    #[error(
        "the payload fractions in the header are {0:?} and must be [64, 32, 32]; check the file with `PRAGMA integrity_check`"
    )]
    PayloadFractions([u8; 3]),
    /// The first four bytes are not a WAL's. SQLite takes such a WAL for an empty one.
    #[error("the file is not a WAL: it begins with {0:#010x}; SQLite treats such a WAL as empty")]
    NotAWal(u32),
    /// A WAL format other than 3007000. SQLite refuses to open the database.
    #[error(
        "the WAL's format version is {0}, and only 3007000 is known; check the file with the program that wrote it"
    )]
    UnknownWalVersion(u32),
    /// The checksum of the WAL header does not match: torn by a crash. SQLite takes such a WAL for an empty one.
    #[error("the WAL header's checksum does not match; SQLite treats such a WAL as empty")]
    WalHeaderChecksum,
    /// A page is not what its place in a tree says.
    #[error("page {pgno} is damaged: {what}; check the database with `PRAGMA integrity_check`")]
    Page {
        /// Which one.
        pgno: Pgno,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The bytes of a row are no record.
    #[error("a row is damaged: its record ends too early; check the database with `PRAGMA integrity_check`")]
    Record,
}

impl Error {
    /// What the caller must do.
    pub fn kind(&self) -> Kind {
        match self {
            Error::ShortDatabaseHeader { .. }
            | Error::NotADatabase
            | Error::UnknownReadVersion(_)
            | Error::NotAWal(_)
            | Error::UnknownWalVersion(_) => Kind::Invalid,
            Error::PageSize(_)
            | Error::ReservedBytes { .. }
            | Error::PayloadFractions(_)
            | Error::WalHeaderChecksum
            | Error::Page { .. }
            | Error::Record => Kind::Corrupt,
        }
    }
}
