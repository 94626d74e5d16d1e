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

/// How it goes beside the log's store: what a primary tells of the log's end.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Streaming {
    /// Where the primary is.
    pub url: String,
    /// It tells what comes.
    pub is_live: bool,
    /// Since when that is so, or not; milliseconds since the epoch.
    pub since_ms: i64,
    /// When this was written; milliseconds since the epoch.
    pub at_ms: i64,
    /// The last transaction that the primary has captured, hexadecimal.
    pub primary_txid: Option<String>,
    /// How long after its commit the last transaction was in the file, by the primary's clock.
    pub lag_ms: Option<i64>,
    /// Why it ended last, and when.
    pub error: Option<(String, i64)>,
}

impl Streaming {
    const FILE: &str = "stream.json";

    /// Tells those who look; `None`: nothing is streamed. That it cannot be written is no reason to end.
    pub fn tell(replica: &Path, streaming: Option<&Streaming>) {
        let path = MetaDir::default_path(&real(replica)).join(Streaming::FILE);
        let told = match streaming {
            Some(streaming) => serde_json::to_vec(streaming).map_err(std::io::Error::from),
            None => return drop(std::fs::remove_file(&path)),
        };
        if let Err(e) = told.and_then(|text| file::replace(&path, &text)) {
            tracing::debug!("write `{}`: {e}", path.display());
        }
    }

    fn read(meta_dir: &Path) -> Option<Streaming> {
        serde_json::from_slice(&std::fs::read(meta_dir.join(Streaming::FILE)).ok()?).ok()
    }
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
    /// What a primary tells beside it, where one was named.
    pub streaming: Option<Streaming>,
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
            streaming: Streaming::read(&meta_dir),
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
