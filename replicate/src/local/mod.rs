//! What litekeep keeps beside a database, in `.NAME-litekeep/`: a lock, the position in the log, the checksum of every
//! page, and the files that the store has not confirmed yet.
//!
//! Losing the whole folder loses no data: the position is then taken from the store, and the page checksums are read back
//! from it.

pub(crate) mod claims;
mod packs;
mod page_sums;
mod places;
pub(crate) mod restored;
mod slots;
mod spool;
mod state;
mod trouble;

pub(crate) use packs::MOST_BYTES;
pub use packs::Packs;
pub use page_sums::{Ascending, PageSums};
pub use places::Places;
pub use slots::Slots;
pub use spool::{Spool, SpoolWriter, Spooled};
pub use state::{State, StateFile};
pub use trouble::Trouble;

use crate::{Error, Kind};
use claims::Claimed;
use litekeep_env::lock;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

/// The folder, claimed by this process.
#[derive(Debug)]
pub struct MetaDir {
    path: PathBuf,
    /// Holds the claim for as long as it is open.
    _lock: File,
    claimed: Claimed,
}

impl MetaDir {
    /// The folder's place when the configuration names none: `app.db` -> `.app.db-litekeep`.
    pub fn default_path(database: &Path) -> PathBuf {
        let mut name = std::ffi::OsString::from(".");
        name.push(database.file_name().unwrap_or_default());
        name.push("-litekeep");
        database.with_file_name(name)
    }

    /// The database whose folder this is by its name, where the configuration names none.
    pub fn database_of(path: &Path) -> Option<PathBuf> {
        let name = path.file_name()?.to_str()?.strip_prefix('.')?.strip_suffix("-litekeep")?;
        (!name.is_empty()).then(|| path.with_file_name(name))
    }

    /// Makes the folder where needed and claims it; an error that names the other process when that has it.
    pub fn claim(path: &Path, database: &Path) -> Result<MetaDir, Error> {
        std::fs::create_dir_all(path).map_err(Error::file("create", path))?;
        let lock_path = path.join("lock");
        let mut options = File::options();
        let mut lock = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&lock_path)
            .map_err(Error::file("open", &lock_path))?;
        if !lock::exclude(&lock, 0, 1).map_err(Error::file("lock", &lock_path))? {
            let mut pid = String::new();
            let _ = lock.read_to_string(&mut pid);
            if claims::is_ours(&lock_path) {
                return Err(still_ours(database));
            }
            return Err(Error::with_hint(
                Kind::Invalid,
                format!(
                    "another litekeep (process {}) already replicates or follows `{}`",
                    pid.trim(),
                    database.display()
                ),
                "stop that process first; `litekeep status` shows what it does",
            ));
        }
        let mut write_pid = || -> std::io::Result<()> {
            lock.set_len(0)?;
            lock.rewind()?;
            writeln!(lock, "{}", std::process::id())
        };
        write_pid().map_err(Error::file("write", &lock_path))?;
        let claimed = Claimed::new(&lock).map_err(Error::file("look at", &lock_path))?;
        Ok(MetaDir { path: path.to_owned(), _lock: lock, claimed })
    }

    /// The process that replicates a database, if one does: it has claimed the folder, or, while the database rests,
    /// only the database file. Takes no lock itself, not even for a moment: a replicator that starts just then would be
    /// refused. Not for a process that has the database open in SQLite: it opens and closes the file.
    pub fn claimed_by(path: &Path, database: &Path) -> Option<u32> {
        let mut file = File::open(path.join("lock")).ok()?;
        let has_folder = lock::holder(&file, 0, 1).ok()?.is_some();
        if !has_folder
            && !File::open(database).is_ok_and(|db| crate::capture::is_claimed(&db).unwrap_or(false))
        {
            return None;
        }
        let mut pid = String::new();
        file.read_to_string(&mut pid).ok()?;
        pid.trim().parse().ok()
    }

    /// Whether its path still leads to it: it may have been moved or deleted with the folder that it is in.
    pub fn is_in_place(&self) -> bool {
        self.claimed.is_at(&self.file("lock"))
    }

    /// A file of the folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// This process has the database under a name that it had before, which it lets go of when it looks there.
pub(crate) fn still_ours(database: &Path) -> Error {
    let message = format!("`{}` is not let go yet under its former name", database.display());
    Error::new(Kind::Unavailable, message)
}

#[cfg(test)]
mod tests;
