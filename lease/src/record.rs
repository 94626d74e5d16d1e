//! What stands in a register, as JSON.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Who wants to hold a lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its name, one in the cluster.
    pub name: String,
    /// Where the others reach it.
    pub address: Option<String>,
    /// The URL from which they stream its logs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<String>,
}

/// One link of the chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its place in the chain, from 1.
    pub turn: u64,
    /// The number of the holding, from 1.
    pub epoch: u64,
    /// Who holds it, or has released it.
    pub holder: Node,
    /// Of this holding, at random: a node that was started anew is another holder.
    pub nonce: u64,
    /// How long it holds, milliseconds.
    pub ttl_ms: u64,
    /// The holder has ended by itself; the lease is free.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub released: Option<Release>,
}

/// How a holder ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// The node that shall be next; the others leave it the lease as if it had it for one `ttl`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
}

impl Record {
    /// How long it holds.
    #[must_use]
    pub fn ttl(&self) -> Duration {
        Duration::from_millis(self.ttl_ms)
    }

    /// Whether this is another link of the same holding.
    #[must_use]
    pub fn is_of_holding(&self, other: &Record) -> bool {
        (self.epoch, self.nonce) == (other.epoch, other.nonce)
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a record has no map with other keys than text")
    }
}
