//! The position in the log, in two slots that are written in turn.
//!
//! Neither slot is synced: after a killed process the page cache still has them, and after a power cut (another boot id)
//! whatever is there is checked against the store before it is believed.

use super::slots::Slots;
use crate::Error;
use crate::capture::Place;
use litekeep_format::WalChecksum;
use litekeep_ltx::{PageSize, Salt, Txid, WriterId};
use std::path::Path;

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

const MAGIC: [u8; 8] = *b"litekp01";
const LEN: usize = 112;

impl State {
    fn to_bytes(self) -> [u8; LEN] {
        let mut b = [0; LEN];
        b[..8].copy_from_slice(&self.writer.0.to_be_bytes());
        b[8..16].copy_from_slice(&self.txid.get().to_be_bytes());
        b[16..20].copy_from_slice(&self.page_count.to_be_bytes());
        b[20..24].copy_from_slice(&self.page_size.get().to_be_bytes());
        if let Some(p) = self.place {
            b[24..28].copy_from_slice(&1u32.to_be_bytes());
            b[28..32].copy_from_slice(&p.frames.to_be_bytes());
            b[32..40].copy_from_slice(&p.salt.0);
            b[40..48].copy_from_slice(&p.checksum.to_bytes());
        }
        b[48..56].copy_from_slice(&self.synced.map_or(0, Txid::get).to_be_bytes());
        b[56..72].copy_from_slice(&self.boot);
        b[72..80].copy_from_slice(&self.confirmed_ms.to_be_bytes());
        b[80..88].copy_from_slice(&self.captured_ms.to_be_bytes());
        b
    }

    fn from_bytes(b: &[u8; LEN]) -> Option<State> {
        let word = |o: usize| u32::from_be_bytes(b[o..o + 4].try_into().expect("4 bytes"));
        let long = |o: usize| u64::from_be_bytes(b[o..o + 8].try_into().expect("8 bytes"));
        let place = (word(24) == 1).then(|| Place {
            frames: word(28),
            salt: Salt(b[32..40].try_into().expect("8 bytes")),
            checksum: WalChecksum(word(40), word(44)),
        });
        Some(State {
            writer: WriterId(long(0)),
            txid: Txid::new(long(8))?,
            page_count: word(16),
            page_size: PageSize::new(word(20))?,
            place,
            synced: Txid::new(long(48)),
            boot: b[56..72].try_into().expect("16 bytes"),
            confirmed_ms: long(72) as i64,
            captured_ms: long(80) as i64,
        })
    }
}

/// The file with the two slots.
#[derive(Debug)]
pub struct StateFile(Slots<LEN>);

impl StateFile {
    /// Opens or creates the file and reads the newer valid slot.
    pub fn open(path: &Path) -> Result<(StateFile, Option<State>), Error> {
        let (slots, state) = Slots::open(path, MAGIC, State::from_bytes)?;
        Ok((StateFile(slots), state))
    }

    /// Reads the state without touching the file; `None` when there is none.
    pub fn peek(path: &Path) -> Option<State> {
        Slots::peek(path, MAGIC, State::from_bytes)
    }

    /// Writes the state into the older slot.
    pub fn save(&mut self, state: &State) -> Result<(), Error> {
        self.0.save(&state.to_bytes())
    }

    /// Makes the last save durable.
    pub fn sync(&self) -> Result<(), Error> {
        self.0.sync()
    }
}
