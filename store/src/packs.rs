//! Packs: the single commits that level-0 files have put together ([`litekeep_ltx::Pack`]), kept beside the levels.
//!
//! Promises:
//! - A pack is put only after all files of the log that it is about, and is deleted before anything that leads to it.
//! - The newest commits are on the machine of the database only, until a pack of them is put: whoever may read there
//!   ([`Store::with_packs_in`]) sees both.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use litekeep_ltx::{FileName, Pack, Txid};

use crate::error::{Error, Result};
use crate::store::{Put, Store};

const FOLDER: &str = "commits";
const EXTENSION: &str = ".pack";

/// A pack, as a listing shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackRef {
    /// First and last transaction.
    pub name: FileName,
    /// Bytes.
    pub size: u64,
    /// Where it is on this machine, if it is not in the store yet.
    pub path: Option<PathBuf>,
}

impl PackRef {
    /// Whether the pack has the transaction.
    pub fn has(&self, txid: Txid) -> bool {
        (self.name.min..=self.name.max).contains(&txid)
    }

    /// The name of a pack of these transactions.
    pub fn file_name(name: FileName) -> String {
        format!("{}-{}{EXTENSION}", name.min, name.max)
    }

    /// The transactions of a pack of this name.
    pub fn parse(file_name: &str) -> Option<FileName> {
        format!("{}.ltx", file_name.strip_suffix(EXTENSION)?).parse().ok()
    }
}

impl Store {
    /// The same log, whose newest commits are in a folder of this machine.
    #[must_use]
    pub fn with_packs_in(self, folder: &Path) -> Store {
        Store { packs_here: Some(Arc::from(folder)), ..self }
    }

    /// The packs on this machine; `None` where this is another one than that of the database.
    pub fn packs_here(&self) -> Option<Vec<PackRef>> {
        self.packs_here.as_deref().map(packs_in)
    }

    /// All packs, by first transaction. Those on this machine may end later than they say: they grow.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer.
    pub async fn list_packs(&self) -> Result<Vec<PackRef>> {
        // First: what is put meanwhile is seen twice, and not missed.
        let mut packs = self.packs_here().unwrap_or_default();
        let records = self.list_records(FOLDER).await?;
        packs.extend(records.iter().filter_map(|record| {
            let name = PackRef::parse(record.name.rsplit('/').next()?)?;
            Some(PackRef { name, size: record.size, path: None })
        }));
        packs.sort_by_key(|pack| (pack.name.min, pack.name.max));
        Ok(packs)
    }

    /// The bytes of a pack.
    ///
    /// # Errors
    /// [`Error::is_missing`] when it is gone; `Unavailable` when it cannot be read.
    pub async fn get_pack(&self, pack: &PackRef) -> Result<Bytes> {
        if let Some(path) = &pack.path
            && let Ok(bytes) = std::fs::read(path)
        {
            return Ok(bytes.into());
        }
        // It may have been put since the listing.
        let found = self.get_record(&record(pack.name)).await?;
        found.ok_or_else(|| self.pack_is_gone(pack))
    }

    /// The error for a pack that is not what it was listed as: another listing helps.
    pub fn pack_is_gone(&self, pack: &PackRef) -> Error {
        Error::Missing {
            action: format!("read `{}`", self.place_of_object(&format!("litekeep/{}", record(pack.name)))),
        }
    }

    /// Puts a pack.
    ///
    /// # Errors
    /// `Fenced` when another one has this name.
    pub async fn put_pack(&self, name: FileName, bytes: Bytes) -> Result<Put> {
        self.put_record(&record(name), bytes, true).await
    }

    /// Deletes packs; one that is gone already is no error.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer.
    pub async fn delete_packs(&self, packs: &[FileName]) -> Result<()> {
        self.delete_records(&packs.iter().copied().map(record).collect::<Vec<_>>()).await
    }
}

fn record(name: FileName) -> String {
    format!("{FOLDER}/{}", PackRef::file_name(name))
}

/// The packs in a folder of this machine. What cannot be read has no commits to give.
fn packs_in(folder: &Path) -> Vec<PackRef> {
    let Ok(entries) = std::fs::read_dir(folder) else { return vec![] };
    let packs = entries.filter_map(|entry| {
        let path = entry.ok()?.path();
        let bytes = std::fs::read(&path).ok()?;
        let pack = Pack::scan(&bytes).ok()?;
        let (first, last) = (pack.entries.first()?.0, pack.entries.last()?.0);
        let name = FileName { min: first.txid, max: last.txid };
        Some(PackRef { name, size: bytes.len() as u64, path: Some(path) })
    });
    packs.collect()
}
