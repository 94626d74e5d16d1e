//! A note that a restore has put the database file there: whoever asked for an earlier state wants to go on from it.
//!
//! It speaks of one file, and means nothing once another one stands in its place. A crash between the file and the note
//! leaves a file that nobody is known to have wanted.

use crate::Error;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

const NAME: &str = "restored";

/// Notes it where there is local state of the database.
pub(crate) fn note(meta_dir: &Path, file: &Metadata) -> Result<(), Error> {
    let note = meta_dir.join(NAME);
    match meta_dir.is_dir() {
        true => std::fs::write(&note, which(file)).map_err(Error::file("write", &note)),
        false => Ok(()),
    }
}

/// Whether the database file is the one that was restored last.
pub(crate) fn is_noted(meta_dir: &Path, database: &Path) -> bool {
    let note = std::fs::read_to_string(meta_dir.join(NAME));
    note.is_ok_and(|note| std::fs::metadata(database).is_ok_and(|file| which(&file) == note))
}

/// The log goes on from there: what comes next is something else.
pub(crate) fn forget(meta_dir: &Path) {
    let _ = std::fs::remove_file(meta_dir.join(NAME));
}

fn which(file: &Metadata) -> String {
    format!("device {} inode {}\n", file.dev(), file.ino())
}
