//! A folder that goes away with its owner, who has it locked. A killed process leaves it behind; the next one of the same
//! purpose removes it from where it would make its own ([`Scratch::beside`]).

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use litekeep_env::lock;

use crate::report::Failure;

/// The folder.
#[derive(Debug)]
pub(crate) struct Scratch {
    path: PathBuf,
    kept: bool,
    /// Locked: it is no leftover.
    _own: File,
}

impl Scratch {
    /// Makes a folder whose name begins so.
    ///
    /// # Errors
    /// When that is not possible in `parent`.
    pub(crate) fn new(parent: &Path, prefix: &str) -> Result<Scratch, Failure> {
        loop {
            let path = parent.join(format!("{prefix}{:016x}", litekeep_env::random_u64()));
            std::fs::create_dir(&path)
                .map_err(|error| Failure::io(format!("make the folder `{}`", path.display()), &error))?;
            match File::open(&path) {
                Ok(own) if lock::claim_own(&path, &own) => {
                    return Ok(Scratch { path, kept: false, _own: own });
                }
                // Somebody has taken it for a leftover.
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => {
                    return Err(Failure::io(format!("open the folder `{}`", path.display()), &error));
                }
            }
        }
    }

    /// The same in the folder of somebody's database, after what killed processes have left of such folders there was
    /// removed.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub(crate) fn beside(parent: &Path, prefix: &str) -> Result<Scratch, Failure> {
        for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let digits = name.to_str().and_then(|name| name.strip_prefix(prefix));
            let is_one = digits
                .is_some_and(|digits| digits.len() == 16 && digits.bytes().all(|b| b.is_ascii_hexdigit()));
            if is_one && let Some(claimed) = lock::claim_leftover(&entry.path()) {
                tracing::info!(path = %entry.path().display(), "removing what a killed process left behind");
                remove(&entry.path());
                drop(claimed);
            }
        }
        Scratch::new(parent, prefix)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves the folder where it is.
    pub(crate) fn keep(&mut self) {
        self.kept = true;
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.kept {
            remove(&self.path);
        }
    }
}

fn remove(path: &Path) {
    if let Err(error) = std::fs::remove_dir_all(path) {
        tracing::warn!("could not remove `{}`: {error}", path.display());
    }
}
