//! How a database is, for people and monitors.

use litekeep_ltx::Txid;
use std::path::PathBuf;

/// What a database's replication is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// The file is not there yet, or has no content.
    #[default]
    Waiting,
    /// The file was there, and is gone or empty.
    Gone,
    /// Comparing the file with the log.
    Starting,
    /// Copying the whole database for the first time.
    Snapshot,
    /// Every commit is shipped as it comes.
    Following,
    /// Something is wrong; it is tried again.
    Failing,
    /// Another replicator owns the log: nothing is shipped until a person decides.
    Fenced,
    /// A person has to decide.
    Refused,
    /// Shut down.
    Stopped,
}

impl Phase {
    /// Whether somebody has to look.
    pub fn is_red(self) -> bool {
        matches!(self, Phase::Gone | Phase::Failing | Phase::Fenced | Phase::Refused)
    }

    /// One word, for messages and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Waiting => "waiting",
            Phase::Gone => "gone",
            Phase::Starting => "starting",
            Phase::Snapshot => "snapshot",
            Phase::Following => "following",
            Phase::Failing => "failing",
            Phase::Fenced => "fenced",
            Phase::Refused => "refused",
            Phase::Stopped => "stopped",
        }
    }
}

/// One destination's state.
#[derive(Clone, Debug, Default)]
pub struct DestinationStatus {
    /// How messages name it.
    pub place: String,
    /// The same with how it is reached, so that no two are alike.
    pub identity: String,
    /// The last transaction that it has.
    pub durable: Option<Txid>,
    /// It has been listed, so that `durable` says what there is.
    pub is_listed: bool,
    /// Files that wait for it.
    pub waiting: usize,
    /// Why the last try failed, when it did.
    pub error: Option<String>,
    /// It takes what comes: nothing has failed since the last that succeeded, nothing hangs, and it need not catch up.
    pub is_up: bool,
    /// The store does not honour conditional writes, so a second writer cannot be told apart.
    pub unfenced: bool,
}

/// One database's state.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// The database file.
    pub path: PathBuf,
    /// What is going on.
    pub phase: Phase,
    /// Why it is red, or what is worth knowing.
    pub message: Option<String>,
    /// What to type next.
    pub hint: Option<String>,
    /// The last transaction that was captured.
    pub captured: Option<Txid>,
    /// The last transaction that a destination has confirmed.
    pub durable: Option<Txid>,
    /// When that was, milliseconds since the epoch.
    pub confirmed_ms: Option<i64>,
    /// When the oldest commit that is not confirmed was seen, milliseconds since the epoch.
    pub behind_since_ms: Option<i64>,
    /// Bytes of what was captured and no destination has confirmed.
    pub behind_bytes: u64,
    /// Bytes of the WAL.
    pub wal_bytes: u64,
    /// Resets of the WAL since the start.
    pub resets: u64,
    /// Times when the WAL did not lead on and page checksums were compared. A start on an empty WAL compares, too, and is none.
    pub breaks: u64,
    /// Application commits shipped since the start.
    pub commits: u64,
    /// Each destination.
    pub destinations: Vec<DestinationStatus>,
}
