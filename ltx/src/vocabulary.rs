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
#[error(
    "a transaction id is 1 to 16 hexadecimal digits and not zero, perhaps with `.` and the number of a commit in it"
)]
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

impl fmt::Display for Pos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.txid, self.seq)
    }
}

/// A state of the log: after a transaction, or after some of its commits. Written `TXID` or `TXID.SEQ`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// The level-0 file.
    pub txid: Txid,
    /// How many of its commits; `None`: all.
    pub seq: Option<u32>,
}

impl Point {
    /// The last transaction that the state has all of; `None` before the first.
    pub fn whole(self) -> Option<Txid> {
        if self.seq.is_none() { Some(self.txid) } else { self.txid.prev() }
    }
}

impl From<Txid> for Point {
    fn from(txid: Txid) -> Point {
        Point { txid, seq: None }
    }
}

impl From<Pos> for Point {
    fn from(Pos { txid, seq }: Pos) -> Point {
        Point { txid, seq: Some(seq) }
    }
}

impl PartialOrd for Point {
    fn partial_cmp(&self, other: &Point) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Point {
    fn cmp(&self, other: &Point) -> std::cmp::Ordering {
        let key = |point: &Point| (point.txid, point.seq.unwrap_or(u32::MAX));
        key(self).cmp(&key(other))
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.seq {
            Some(seq) => Pos { txid: self.txid, seq }.fmt(f),
            None => self.txid.fmt(f),
        }
    }
}

impl FromStr for Point {
    type Err = InvalidTxid;

    fn from_str(s: &str) -> Result<Point, InvalidTxid> {
        let Some((txid, seq)) = s.split_once('.') else { return Ok(Txid::from_str(s)?.into()) };
        let is_number = !seq.is_empty() && seq.bytes().all(|b| b.is_ascii_digit());
        let seq = seq.parse().ok().filter(|seq| is_number && *seq > 0).ok_or(InvalidTxid)?;
        Ok(Pos { txid: txid.parse()?, seq }.into())
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_read_as_they_are_written_and_in_order() {
        let points = ["0000000000000001", "0000000000000002.1", "0000000000000002.10", "0000000000000002"];
        let parsed = points.map(|text| text.parse::<Point>().unwrap());
        assert_eq!(parsed.map(|point| point.to_string()), points);
        assert!(parsed.is_sorted());
        assert_eq!(parsed.map(|point| point.whole().map(Txid::get)), [Some(1), Some(1), Some(1), Some(2)]);
        assert_eq!("1.1".parse::<Point>().unwrap().whole(), None);
        for other in ["", ".", "1.", "1.0", "1.-1", "1.+1", "1.x", "0.1", "1.1.1", "1.99999999999"] {
            assert_eq!(other.parse::<Point>(), Err(InvalidTxid), "{other}");
        }
    }
}
