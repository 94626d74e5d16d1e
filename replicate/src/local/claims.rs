//! Which files this process has claimed, by device and inode: a process id does not say it, for in containers every process may be
//! the first.

use std::collections::BTreeSet;
use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

type Identity = (u64, u64);

static CLAIMED: Mutex<BTreeSet<Identity>> = Mutex::new(BTreeSet::new());

fn claimed() -> MutexGuard<'static, BTreeSet<Identity>> {
    CLAIMED.lock().unwrap_or_else(PoisonError::into_inner)
}

fn identity(file: &Metadata) -> Identity {
    (file.dev(), file.ino())
}

/// A file that this process has claimed, for as long as this lives.
#[derive(Debug)]
pub(crate) struct Claimed(Identity);

impl Claimed {
    pub(crate) fn new(file: &File) -> std::io::Result<Claimed> {
        let identity = identity(&file.metadata()?);
        claimed().insert(identity);
        Ok(Claimed(identity))
    }

    /// Whether it is what stands at this path.
    pub(crate) fn is_at(&self, path: &Path) -> bool {
        path.metadata().is_ok_and(|file| identity(&file) == self.0)
    }
}

impl Drop for Claimed {
    fn drop(&mut self) {
        claimed().remove(&self.0);
    }
}

/// Whether this process has claimed what stands at this path.
pub(crate) fn is_ours(path: &Path) -> bool {
    path.metadata().is_ok_and(|file| claimed().contains(&identity(&file)))
}
