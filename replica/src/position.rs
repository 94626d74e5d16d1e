//! Which state of the log the file has, and what is under way.
//!
//! It is written before each transaction and after it, and not waited for: after a kill the page cache has it. After a power cut
//! (another boot) only what it says of the last time that all was synced is believed.

use litekeep_env::disk;
use litekeep_ltx::{Header, PageSize, Salt, Txid, WriterId};
use litekeep_replicate::Error;
use litekeep_replicate::local::Slots;
use std::path::Path;

const MAGIC: [u8; 8] = *b"litekr01";
const LEN: usize = 96;

/// A state of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// The transaction that it is after.
    pub txid: Txid,
    /// When that was seen, milliseconds since the epoch.
    pub time_ms: i64,
    /// When it came into the file, milliseconds since the epoch.
    pub applied_ms: i64,
    /// Pages.
    pub page_count: u32,
    /// Bytes of a page.
    pub page_size: PageSize,
    pub(crate) mark: Mark,
}

/// By which the end of a file of the log is known again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    /// Who wrote the file.
    pub(crate) node: WriterId,
    /// The WAL generation and the offset that it ends at.
    pub(crate) wal: (Salt, u64),
}

impl Mark {
    pub(crate) fn of(header: &Header) -> Mark {
        Mark { node: header.node, wal: (header.wal_salt, header.wal_offset + header.wal_size) }
    }

    /// Whether a file begins in the WAL where that one ended.
    pub(crate) fn leads_to(&self, next: &Header) -> bool {
        next.wal_size > 0 && self.wal == (next.wal_salt, next.wal_offset) && self.node == next.node
    }
}

/// What may be half done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Doing {
    /// One transaction of all that the log has up to another state.
    Commit,
    /// A file is put in the place of the one that is there, or of none.
    File,
    /// One transaction of the pages that a restored state has otherwise.
    Patch,
}

/// The position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// What the file has; `None`: it was never whole.
    pub held: Option<Held>,
    /// On the way to a transaction.
    pub(crate) doing: Option<(Doing, Txid)>,
    /// The last state that was synced, with the page checksums.
    pub(crate) synced: Option<Txid>,
    /// Nothing has come since that was synced.
    pub(crate) is_closed: bool,
    /// The boot during which this was written.
    pub(crate) boot: [u8; 16],
}

impl Position {
    /// Nothing yet.
    pub(crate) fn none() -> Position {
        Position { held: None, doing: None, synced: None, is_closed: false, boot: disk::boot_id() }
    }

    /// Reads what stands beside a replica; `None` when nothing does.
    pub fn peek(meta_dir: &Path) -> Option<Position> {
        Slots::peek(&meta_dir.join(NAME), MAGIC, Position::from_bytes)
    }

    /// Whether the machine may have lost what was written after the last sync.
    pub(crate) fn is_doubtful(&self) -> bool {
        self.boot != disk::boot_id() && !self.is_closed
    }

    fn to_bytes(self) -> [u8; LEN] {
        let mut b = [0; LEN];
        if let Some(held) = self.held {
            b[..8].copy_from_slice(&held.txid.get().to_be_bytes());
            b[8..16].copy_from_slice(&held.time_ms.to_be_bytes());
            b[16..24].copy_from_slice(&held.applied_ms.to_be_bytes());
            b[24..28].copy_from_slice(&held.page_count.to_be_bytes());
            b[28..32].copy_from_slice(&held.page_size.get().to_be_bytes());
            b[32..40].copy_from_slice(&held.mark.node.0.to_be_bytes());
            b[40..48].copy_from_slice(&held.mark.wal.0.0);
            b[48..56].copy_from_slice(&held.mark.wal.1.to_be_bytes());
        }
        b[56..64].copy_from_slice(&self.synced.map_or(0, Txid::get).to_be_bytes());
        if let Some((doing, txid)) = self.doing {
            let doing: u32 = match doing {
                Doing::Commit => 1,
                Doing::File => 2,
                Doing::Patch => 3,
            };
            b[64..72].copy_from_slice(&txid.get().to_be_bytes());
            b[72..76].copy_from_slice(&doing.to_be_bytes());
        }
        b[76..80].copy_from_slice(&u32::from(self.is_closed).to_be_bytes());
        b[80..96].copy_from_slice(&self.boot);
        b
    }

    fn from_bytes(b: &[u8; LEN]) -> Option<Position> {
        let word = |o: usize| u32::from_be_bytes(b[o..o + 4].try_into().expect("4 bytes"));
        let long = |o: usize| u64::from_be_bytes(b[o..o + 8].try_into().expect("8 bytes"));
        let held = match Txid::new(long(0)) {
            None => None,
            Some(txid) => Some(Held {
                txid,
                time_ms: long(8) as i64,
                applied_ms: long(16) as i64,
                page_count: word(24),
                page_size: PageSize::new(word(28))?,
                mark: Mark {
                    node: WriterId(long(32)),
                    wal: (Salt(b[40..48].try_into().expect("8 bytes")), long(48)),
                },
            }),
        };
        let doing = match word(72) {
            0 => None,
            1 => Some(Doing::Commit),
            2 => Some(Doing::File),
            3 => Some(Doing::Patch),
            _ => return None,
        };
        Some(Position {
            held,
            doing: doing.map(|doing| Some((doing, Txid::new(long(64))?))).unwrap_or_default(),
            synced: Txid::new(long(56)),
            is_closed: word(76) == 1,
            boot: b[80..96].try_into().expect("16 bytes"),
        })
    }
}

/// The name of the file in the folder of local state.
pub(crate) const NAME: &str = "replica";

/// The file with the position.
#[derive(Debug)]
pub(crate) struct PositionFile(Slots<LEN>);

impl PositionFile {
    pub(crate) fn open(path: &Path) -> Result<(PositionFile, Option<Position>), Error> {
        let (slots, position) = Slots::open(path, MAGIC, Position::from_bytes)?;
        Ok((PositionFile(slots), position))
    }

    pub(crate) fn save(&mut self, position: &Position) -> Result<(), Error> {
        self.0.save(&position.to_bytes())
    }

    pub(crate) fn sync(&self) -> Result<(), Error> {
        self.0.sync()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    fn txid(n: u64) -> Txid {
        Txid::new(n).unwrap()
    }

    #[test]
    fn a_torn_write_leaves_the_position_before() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(NAME);
        let (mut file, none) = PositionFile::open(&path).unwrap();
        assert_eq!(none, None);
        let begun = Position { doing: Some((Doing::File, txid(7))), ..Position::none() };
        file.save(&begun).unwrap();
        assert_eq!(Position::peek(dir.path()), Some(begun));
        let held = Held {
            txid: txid(7),
            time_ms: -1,
            applied_ms: 2,
            page_count: 3,
            page_size: PageSize::new(65536).unwrap(),
            mark: Mark { node: WriterId(4), wal: (Salt(*b"saltSALT"), 5) },
        };
        let position =
            Position { held: Some(held), synced: Some(txid(6)), is_closed: true, ..Position::none() };
        file.save(&position).unwrap();
        for doing in [Doing::Commit, Doing::Patch] {
            let doing = Position { doing: Some((doing, txid(9))), ..position };
            file.save(&doing).unwrap();
            assert_eq!(Position::peek(dir.path()), Some(doing));
        }
        // The last save is torn in the middle: the one before counts.
        let raw = File::options().write(true).open(&path).unwrap();
        raw.write_all_at(&[0xff; 8], 40).unwrap();
        let commit = Position { doing: Some((Doing::Commit, txid(9))), ..position };
        assert_eq!(Position::peek(dir.path()), Some(commit));
        let elsewhere = Position { boot: [1; 16], is_closed: false, ..position };
        assert!(elsewhere.is_doubtful() && !position.is_doubtful());
    }
}
