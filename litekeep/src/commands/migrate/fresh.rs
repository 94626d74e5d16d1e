//! A database that is not there yet. A mistyped name is one, too: that it was made is said, and where nothing came of it the empty file
//! goes away again.

use std::path::{Path, PathBuf};

use litekeep_env::disk;

use crate::report::{self, Format};

pub(super) struct Fresh {
    path: PathBuf,
    is_new: bool,
}

impl Fresh {
    /// Before SQLite opens it, which makes the file.
    pub(super) fn of(path: &Path) -> Fresh {
        Fresh { path: path.to_owned(), is_new: !path.exists() }
    }

    pub(super) fn is_new(&self) -> bool {
        self.is_new
    }

    /// Whether the database is there now and was not before.
    pub(super) fn is_made(&self) -> bool {
        self.is_new && size(&self.path).is_some_and(|size| size > 0)
    }

    /// Says that it was made.
    pub(super) fn tell(&self, format: Format) {
        if format == Format::Text && self.is_made() {
            report::line(&format!("created `{}`", self.path.display()));
        }
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        // Nothing was ever committed into an empty file; who has it open would go on with a file that has no name.
        if self.is_new && size(&self.path) == Some(0) && disk::processes_with_open(&self.path).is_empty() {
            _ = std::fs::remove_file(&self.path);
        }
    }
}

fn size(path: &Path) -> Option<u64> {
    path.metadata().ok().map(|metadata| metadata.len())
}
