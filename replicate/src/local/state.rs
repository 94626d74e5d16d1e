//! The position in the log, in two slots of 512 bytes that are written in turn.
//!
//! A write that a crash tears leaves the other slot intact; the newer valid slot counts. Neither slot is synced: after a
//! killed process the page cache still has them, and after a power cut (another boot id) whatever is there is checked
//! against the store before it is believed.

use crate::Error;
use crate::capture::Place;
use litekeep_format::WalChecksum;
use litekeep_ltx::{PageSize, Pgno, Salt, Txid, WriterId, page_checksum};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// What is known about one database at its last confirmed or spooled transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// Identity of this folder in the log (the node id of its files).
    pub writer: WriterId,
    /// The last transaction that the store has confirmed.
    pub txid: Txid,
    /// Pages of the database after it.
    pub page_count: u32,
    /// Page size.
    pub page_size: PageSize,
    /// What of the WAL is contained; `None` when the WAL was empty or unknown.
    pub place: Option<Place>,
    /// All page checksums up to this transaction were synced to disk.
    pub synced: Option<Txid>,
    /// The boot during which this was written.
    pub boot: [u8; 16],
    /// When the store confirmed the transaction, milliseconds since the epoch.
    pub confirmed_ms: i64,
    /// The time in its file, a moment after its last commit, milliseconds since the epoch.
    pub captured_ms: i64,
}

const MAGIC: &[u8; 8] = b"litekp01";
const SLOT: usize = 512;
const USED: usize = 136;

impl State {
    fn to_bytes(self, turn: u64) -> [u8; SLOT] {
        let mut b = [0; SLOT];
        b[..8].copy_from_slice(MAGIC);
        b[8..16].copy_from_slice(&turn.to_be_bytes());
        b[16..24].copy_from_slice(&self.writer.0.to_be_bytes());
        b[24..32].copy_from_slice(&self.txid.get().to_be_bytes());
        b[32..36].copy_from_slice(&self.page_count.to_be_bytes());
        b[36..40].copy_from_slice(&self.page_size.get().to_be_bytes());
        if let Some(p) = self.place {
            b[40..44].copy_from_slice(&1u32.to_be_bytes());
            b[44..48].copy_from_slice(&p.frames.to_be_bytes());
            b[48..56].copy_from_slice(&p.salt.0);
            b[56..64].copy_from_slice(&p.checksum.to_bytes());
        }
        b[64..72].copy_from_slice(&self.synced.map_or(0, Txid::get).to_be_bytes());
        b[72..88].copy_from_slice(&self.boot);
        b[88..96].copy_from_slice(&self.confirmed_ms.to_be_bytes());
        b[96..104].copy_from_slice(&self.captured_ms.to_be_bytes());
        let sum = page_checksum(Pgno::FIRST, &b[..USED - 8]);
        b[USED - 8..USED].copy_from_slice(&sum.0.to_be_bytes());
        b
    }

    fn from_bytes(b: &[u8; SLOT]) -> Option<(u64, State)> {
        let word = |o: usize| u32::from_be_bytes(b[o..o + 4].try_into().expect("4 bytes"));
        let long = |o: usize| u64::from_be_bytes(b[o..o + 8].try_into().expect("8 bytes"));
        if &b[..8] != MAGIC || page_checksum(Pgno::FIRST, &b[..USED - 8]).0 != long(USED - 8) {
            return None;
        }
        let place = (word(40) == 1).then(|| Place {
            frames: word(44),
            salt: Salt(b[48..56].try_into().expect("8 bytes")),
            checksum: WalChecksum(word(56), word(60)),
        });
        let state = State {
            writer: WriterId(long(16)),
            txid: Txid::new(long(24))?,
            page_count: word(32),
            page_size: PageSize::new(word(36))?,
            place,
            synced: Txid::new(long(64)),
            boot: b[72..88].try_into().expect("16 bytes"),
            confirmed_ms: long(88) as i64,
            captured_ms: long(96) as i64,
        };
        Some((long(8), state))
    }
}

/// The file with the two slots.
#[derive(Debug)]
pub struct StateFile {
    path: PathBuf,
    file: File,
    turn: u64,
}

impl StateFile {
    /// Opens or creates the file and reads the newer valid slot.
    pub fn open(path: &Path) -> Result<(StateFile, Option<State>), Error> {
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.open(path).map_err(Error::file("open", path))?;
        let newest = StateFile::newest(&file);
        let turn = newest.as_ref().map_or(0, |(turn, _)| *turn);
        Ok((StateFile { path: path.to_owned(), file, turn }, newest.map(|(_, s)| s)))
    }

    /// Reads the state without touching the file; `None` when there is none.
    pub fn peek(path: &Path) -> Option<State> {
        StateFile::newest(&File::open(path).ok()?).map(|(_, s)| s)
    }

    fn newest(file: &File) -> Option<(u64, State)> {
        let slot = |i: u64| {
            let mut b = [0; SLOT];
            file.read_exact_at(&mut b, i * SLOT as u64).ok()?;
            State::from_bytes(&b)
        };
        [slot(0), slot(1)].into_iter().flatten().max_by_key(|(turn, _)| *turn)
    }

    /// Writes the state into the older slot.
    pub fn save(&mut self, state: &State) -> Result<(), Error> {
        self.turn += 1;
        let at = (self.turn % 2) * SLOT as u64;
        self.file.write_all_at(&state.to_bytes(self.turn), at).map_err(Error::file("write", &self.path))
    }

    /// Makes the last save durable.
    pub fn sync(&self) -> Result<(), Error> {
        self.file.sync_data().map_err(Error::file("sync", &self.path))
    }
}
