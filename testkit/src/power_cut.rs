//! Power cuts: what a machine may have on its disk after one, made from what processes did.
//!
//! Processes run under a recording library (LD_PRELOAD, `recorder/src/lib.rs`), every one that shares the files: an
//! fsync by one makes the others' writes durable too. Killed together at any moment, their records are replayed into a
//! new folder, leaving out at random what no fsync covers:
//!
//! - Bytes of a file that were written (or cut off) before an fsync of that file began are there. Of later ones each
//!   512-byte sector is there or not, in any order, as is each change of the size.
//! - Names in a folder (create, rename, link, delete) that were made before an fsync of the *folder* began are there; of
//!   later ones a prefix, since file systems journal them in order. An fsync of the file alone does not keep its name:
//!   stricter than ext4, as strict as POSIX.
//! - `-shm` files are gone: they are memory.
//!
//! The operation that a kill interrupts may be done and not recorded; it counts as lost, which a power cut may do too.
//!
//! Not modelled: sectors torn inside, disks that lie about fsync, loss of what was durable before the recording began.

mod record;
mod replay;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::programs;
use record::Record;

/// What outlives the cut of all that no fsync covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Survival {
    /// Everything, as after a kill: the files as they are.
    Everything,
    /// Nothing.
    Nothing,
    /// By chance; each file and folder has its own luck.
    Random(u64),
}

/// A folder whose changes are recorded.
#[derive(Debug)]
pub struct Recording {
    root: PathBuf,
    logs: TempDir,
    /// What was there at the start, all of it durable.
    base: Base,
}

#[derive(Debug, Default, Clone)]
struct Base {
    files: BTreeMap<u64, Vec<u8>>,
    names: BTreeMap<PathBuf, u64>,
    folders: BTreeMap<PathBuf, u64>,
}

impl Recording {
    /// Begins with what is under `root` now.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn start(root: &Path) -> Result<Self> {
        let root = root.canonicalize().with_context(|| format!("find {root:?}"))?;
        let mut base = Base::default();
        base.read(&root).with_context(|| format!("read {root:?}"))?;
        let logs = TempDir::with_prefix("litekeep-recording-").context("make a folder for the recording")?;
        Ok(Self { root, logs, base })
    }

    /// Makes a command record. Its other side (`Process::kill`) is the caller's; all recorded processes must be dead
    /// before [`Self::cut`].
    ///
    /// # Errors
    /// When the recording library cannot be built.
    pub fn record(&self, command: &mut Command) -> Result<()> {
        command.env("LD_PRELOAD", programs::recorder()?).env("LITEKEEP_RECORD_DIR", self.logs.path());
        Ok(())
    }

    /// Writes what is left of the root after a power cut into the new folder `into`.
    ///
    /// # Errors
    /// When the recording is damaged or `into` cannot be written.
    pub fn cut(&self, survival: Survival, into: &Path) -> Result<()> {
        let mut records = Vec::new();
        for entry in fs::read_dir(self.logs.path())? {
            let path = entry?.path();
            let bytes = fs::read(&path).with_context(|| format!("read {path:?}"))?;
            Record::read_all(&bytes, &mut records).with_context(|| format!("read {path:?}"))?;
        }
        records.sort_by_key(|record| record.end_ns);
        replay::Replay { root: &self.root, base: &self.base, records: &records, survival }.write(into)
    }
}

impl Base {
    fn read(&mut self, dir: &Path) -> Result<()> {
        self.folders.insert(dir.to_owned(), identity(dir)?);
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            if path.is_dir() {
                self.read(&path)?;
            } else if path.is_file() {
                let file = identity(&path)?;
                self.files.insert(file, fs::read(&path)?);
                self.names.insert(path, file);
            }
        }
        Ok(())
    }
}

/// The recorder's name for a file: inode number mixed with birth time.
fn identity(path: &Path) -> Result<u64> {
    let metadata = fs::metadata(path)?;
    let birth = metadata.created().ok().and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
    let birth = birth.map_or(0, |birth| birth.as_secs() << 30 ^ u64::from(birth.subsec_nanos()));
    Ok(metadata.ino() ^ birth.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}
