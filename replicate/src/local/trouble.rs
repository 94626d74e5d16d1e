//! Why replication is red, for other processes to read: one JSON file that is there only while something is wrong.

use crate::Error;
use crate::replicator::Phase;
use litekeep_env::disk;
use std::path::Path;

/// What is wrong, since when, and what to type next.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Trouble {
    /// The phase: `failing`, `fenced` or `refused`.
    pub phase: String,
    /// Place and cause.
    pub message: String,
    /// What to type next.
    pub hint: Option<String>,
    /// When it was last seen, milliseconds since the epoch.
    pub at_ms: i64,
}

const NAME: &str = "trouble.json";

impl Trouble {
    /// Writes the note of an error.
    pub(crate) fn note(meta_dir: &Path, phase: Phase, e: &Error, at_ms: i64) {
        let (message, hint) = (e.to_string(), e.hint().map(str::to_owned));
        Trouble { phase: phase.name().to_owned(), message, hint, at_ms }.write(meta_dir);
    }

    /// Writes the note; a failure to do so is logged only, for it must not stop anything else.
    pub fn write(&self, meta_dir: &Path) {
        let text = serde_json::to_vec(self).expect("strings and a number");
        if let Err(e) = disk::make_dir(meta_dir).and_then(|()| std::fs::write(meta_dir.join(NAME), text)) {
            tracing::warn!("could not write `{}`: {e}", meta_dir.join(NAME).display());
        }
    }

    /// Takes the note away.
    pub fn clear(meta_dir: &Path) {
        let _ = std::fs::remove_file(meta_dir.join(NAME));
    }

    /// Reads the note, if there is one.
    pub fn read(meta_dir: &Path) -> Option<Trouble> {
        serde_json::from_slice(&std::fs::read(meta_dir.join(NAME)).ok()?).ok()
    }
}
