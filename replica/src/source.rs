//! What tells of the log's end before the store is asked.

use bytes::Bytes;
use litekeep_ltx::Txid;
use std::fmt::Debug;

/// Tells files of the log as they are confirmed. What it gives is believed as little as what the store has: each file is
/// verified, and must go on where the copy is.
pub trait Source: Debug + Send + Sync {
    /// What follows a transaction, as far as it has come; the same until it is asked for what follows that. `None`: it does not
    /// know, and the store is asked.
    fn following(&self, after: Txid) -> Option<Came>;
    /// What it gave, or did not give, is not as the log is.
    fn refuse(&self, why: &str);
}

/// Files that a source has given.
#[derive(Clone, Debug)]
pub struct Came {
    /// Another one whenever something may be missing in between, or somebody else may tell.
    pub connection: u64,
    /// LTX files that follow one another, each with one transaction.
    pub files: Vec<Bytes>,
}
