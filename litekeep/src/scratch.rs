//! A folder that goes away with its owner. A killed process leaves it behind, under a name that says whose it was.

use std::path::{Path, PathBuf};

use crate::report::Failure;

/// The folder.
#[derive(Debug)]
pub(crate) struct Scratch {
    path: PathBuf,
    kept: bool,
}

impl Scratch {
    /// Makes a folder whose name begins so.
    ///
    /// # Errors
    /// When that is not possible in `parent`.
    pub(crate) fn new(parent: &Path, prefix: &str) -> Result<Scratch, Failure> {
        let path = parent.join(format!("{prefix}{:016x}", litekeep_env::random_u64()));
        std::fs::create_dir(&path)
            .map_err(|error| Failure::io(format!("make the folder `{}`", path.display()), &error))?;
        Ok(Scratch { path, kept: false })
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
        if self.kept {
            return;
        }
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            tracing::warn!("could not remove `{}`: {error}", self.path.display());
        }
    }
}
