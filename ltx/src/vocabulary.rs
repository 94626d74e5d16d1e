//! Types for the numbers of the log, so that no function takes one for another.

use std::fmt;
use std::num::{NonZeroU32, NonZeroU64};
use std::str::FromStr;

/// Transaction id of the log: numbers one level-0 file. The first is 1; written as 16 lower-case hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Txid(NonZeroU64);

impl Txid {
    /// The first transaction of every log.
    pub const FIRST: Txid = Txid(NonZeroU64::MIN);

    /// `None` for 0, which is not a transaction.
    pub const fn new(n: u64) -> Option<Txid> {
        match NonZeroU64::new(n) {
            Some(n) => Some(Txid(n)),
            None => None,
        }
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0.get()
    }

    /// The transaction after this one.
    pub fn next(self) -> Txid {
        Txid(self.0.checked_add(1).expect("2^64 transactions are beyond any log"))
    }

    /// The transaction before this one, `None` before the first.
    pub fn prev(self) -> Option<Txid> {
        Txid::new(self.get() - 1)
    }
}

impl fmt::Display for Txid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.get())
    }
}

impl FromStr for Txid {
    type Err = InvalidTxid;

    /// Hexadecimal, at most 16 digits.
    fn from_str(s: &str) -> Result<Txid, InvalidTxid> {
        if s.is_empty() || s.len() > 16 || !s.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(InvalidTxid);
        }
        u64::from_str_radix(s, 16).ok().and_then(Txid::new).ok_or(InvalidTxid)
    }
}

/// Not 1 to 16 hexadecimal digits, or zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a transaction id is 1 to 16 hexadecimal digits and not zero")]
pub struct InvalidTxid;

/// A place in the log at the granularity of the application's own commits: `seq` counts the commits within the
/// level-0 file `txid`, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pos {
    /// The level-0 file.
    pub txid: Txid,
    /// The commit within it.
    pub seq: u32,
}

/// Page number, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pgno(NonZeroU32);

impl Pgno {
    /// The page with the database header.
    pub const FIRST: Pgno = Pgno(NonZeroU32::MIN);

    /// `None` for 0, which is not a page.
    pub const fn new(n: u32) -> Option<Pgno> {
        match NonZeroU32::new(n) {
            Some(n) => Some(Pgno(n)),
            None => None,
        }
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0.get()
    }

    /// Byte offset of this page in the database file.
    pub const fn offset(self, page_size: PageSize) -> u64 {
        (self.get() as u64 - 1) * page_size.get() as u64
    }
}

impl fmt::Display for Pgno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A page size that SQLite accepts: a power of two from 512 to 65536 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageSize(u32);

impl PageSize {
    /// `None` where SQLite would refuse the size.
    pub const fn new(bytes: u32) -> Option<PageSize> {
        if bytes.is_power_of_two() && bytes >= 512 && bytes <= 65536 { Some(PageSize(bytes)) } else { None }
    }

    /// Bytes.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// Bytes, for slices.
    pub const fn bytes(self) -> usize {
        self.0 as usize
    }

    /// The page that holds SQLite's lock bytes at 1 GiB; it never holds data and is never in the log.
    pub const fn lock_page(self) -> Pgno {
        match Pgno::new(0x4000_0000 / self.0 + 1) {
            Some(p) => p,
            None => unreachable!(),
        }
    }
}

/// CRC-64/GO-ISO with bit 63 set, as LTX uses it for pages and files. Zero means "no checksum".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Checksum(pub u64);

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The two salts of a WAL generation, as the 8 bytes in which they stand in WAL header and frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Salt(pub [u8; 8]);

impl Salt {
    /// The first salt, which SQLite increments at each reset of the WAL.
    pub fn first(self) -> u32 {
        u32::from_be_bytes(self.0[..4].try_into().expect("4 bytes"))
    }

    /// The second salt, random for each generation.
    pub fn second(self) -> u32 {
        u32::from_be_bytes(self.0[4..].try_into().expect("4 bytes"))
    }
}

/// Fencing number of a writer: grows by one each time another writer takes the log over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

/// Identity of one run of a replicator, random; stands in the LTX header as the node id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct WriterId(pub u64);

impl fmt::Display for WriterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}
