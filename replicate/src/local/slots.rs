//! A file of two slots of 512 bytes that are written in turn.
//!
//! A write that a crash tears leaves the other slot intact; the newer valid slot counts.
//!
//! ```text
//!   0  magic, 8 bytes     16  content     16 + content  checksum of all before it, 8 bytes
//!   8  turn u64                                         all big-endian, the rest is zero
//! ```

use crate::Error;
use litekeep_ltx::{Pgno, page_checksum};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const SLOT: usize = 512;
const BEFORE: usize = 16;

/// The file. `LEN`: bytes of a content.
#[derive(Debug)]
pub struct Slots<const LEN: usize> {
    path: PathBuf,
    file: File,
    magic: [u8; 8],
    turn: u64,
}

impl<const LEN: usize> Slots<LEN> {
    /// Opens or creates the file and reads the newer valid slot. `parse` may refuse a content.
    pub fn open<T>(
        path: &Path,
        magic: [u8; 8],
        parse: impl Fn(&[u8; LEN]) -> Option<T>,
    ) -> Result<(Slots<LEN>, Option<T>), Error> {
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.open(path).map_err(Error::file("open", path))?;
        let (turn, newest) = match newest(&file, magic, parse) {
            Some((turn, newest)) => (turn, Some(newest)),
            None => (0, None),
        };
        Ok((Slots { path: path.to_owned(), file, magic, turn }, newest))
    }

    /// Reads the newer valid slot without touching the file; `None` when there is none.
    pub fn peek<T>(path: &Path, magic: [u8; 8], parse: impl Fn(&[u8; LEN]) -> Option<T>) -> Option<T> {
        newest(&File::open(path).ok()?, magic, parse).map(|(_, newest)| newest)
    }

    /// Writes a content into the older slot.
    pub fn save(&mut self, content: &[u8; LEN]) -> Result<(), Error> {
        self.turn += 1;
        let mut slot = [0; SLOT];
        slot[..8].copy_from_slice(&self.magic);
        slot[8..BEFORE].copy_from_slice(&self.turn.to_be_bytes());
        slot[BEFORE..BEFORE + LEN].copy_from_slice(content);
        let sum = page_checksum(Pgno::FIRST, &slot[..BEFORE + LEN]);
        slot[BEFORE + LEN..BEFORE + LEN + 8].copy_from_slice(&sum.0.to_be_bytes());
        let at = (self.turn % 2) * SLOT as u64;
        self.file.write_all_at(&slot, at).map_err(Error::file("write", &self.path))
    }

    /// Makes the last save durable.
    pub fn sync(&self) -> Result<(), Error> {
        self.file.sync_data().map_err(Error::file("sync", &self.path))
    }
}

fn newest<T, const LEN: usize>(
    file: &File,
    magic: [u8; 8],
    parse: impl Fn(&[u8; LEN]) -> Option<T>,
) -> Option<(u64, T)> {
    let slot = |nth: u64| {
        let mut slot = [0; SLOT];
        file.read_exact_at(&mut slot, nth * SLOT as u64).ok()?;
        let (before, sum) = slot[..BEFORE + LEN + 8].split_at(BEFORE + LEN);
        let sum = u64::from_be_bytes(sum.try_into().expect("8 bytes"));
        if before[..8] != magic || page_checksum(Pgno::FIRST, before).0 != sum {
            return None;
        }
        let turn = u64::from_be_bytes(before[8..BEFORE].try_into().expect("8 bytes"));
        Some((turn, parse(before[BEFORE..].try_into().expect("as long"))?))
    };
    [slot(0), slot(1)].into_iter().flatten().max_by_key(|(turn, _)| *turn)
}
