//! How a replica stands, for those who look: read from what is kept beside it, without touching anything.

use crate::position::{Held, Position};
use litekeep_env::file;
use litekeep_replicate::Error;
use litekeep_replicate::local::{MetaDir, Trouble};
use std::path::{Path, PathBuf};

pub(crate) const SOURCE: &str = "replica.json";

/// Where the log is.
#[derive(serde::Serialize, serde::Deserialize)]
struct Source {
    url: String,
}

/// What is known of a replica.
#[derive(Clone, Debug)]
pub struct State {
    /// The file.
    pub path: PathBuf,
    /// Where its log is, as its follower was told.
    pub url: Option<String>,
    /// The state that it has; `None`: it was never whole.
    pub held: Option<Held>,
    /// The process that follows.
    pub follower_pid: Option<u32>,
    /// Why it does not go on.
    pub trouble: Option<Trouble>,
}

/// Whether a follower has made this file, or begun to.
pub fn is_replica(path: &Path) -> bool {
    Position::peek(&MetaDir::default_path(&real(path))).is_some()
}

impl State {
    /// Looks; `None`: it is no replica. Not for a process that has the file open in SQLite.
    pub fn read(path: &Path) -> Option<State> {
        let path = real(path);
        let meta_dir = MetaDir::default_path(&path);
        let position = Position::peek(&meta_dir)?;
        let source = std::fs::read(meta_dir.join(SOURCE)).ok();
        let source: Option<Source> = source.and_then(|text| serde_json::from_slice(&text).ok());
        Some(State {
            url: source.map(|source| source.url),
            held: position.held,
            follower_pid: MetaDir::claimed_by(&meta_dir, &path),
            trouble: Trouble::read(&meta_dir),
            path,
        })
    }
}

/// Notes where the log is.
pub(crate) fn note_source(meta_dir: &Path, url: &str) -> Result<(), Error> {
    let text = serde_json::to_vec(&Source { url: url.to_owned() }).expect("a string");
    let path = meta_dir.join(SOURCE);
    file::replace(&path, &text).map_err(Error::file("write", &path))
}

/// What a link leads to: SQLite keeps the WAL beside that.
pub(crate) fn real(path: &Path) -> PathBuf {
    match path.is_symlink() {
        true => path.canonicalize().unwrap_or_else(|_| path.to_owned()),
        false => path.to_owned(),
    }
}
