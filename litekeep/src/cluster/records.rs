//! What the nodes tell each other, as records in the place of the first database's log: how each stands, and who shall lead.

use anyhow::Result;
use litekeep_store::Store;
use serde::{Deserialize, Serialize};

const NODES: &str = "nodes";
const WISH: &str = "wish";

/// How a node stands, in its own words.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct NodeRecord {
    pub(crate) node: String,
    pub(crate) role: String,
    /// Since when, by its own clock.
    #[serde(default)]
    pub(crate) since: Option<String>,
    pub(crate) epoch: Option<u64>,
    /// By its own clock.
    pub(crate) at: String,
    pub(crate) candidate: bool,
    pub(crate) trouble: Option<String>,
    pub(crate) databases: Vec<super::DatabaseView>,
}

/// A node's record, and when it was put.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    pub(crate) node: NodeRecord,
    /// By the clock of the store, milliseconds since the epoch.
    pub(crate) put_ms: i64,
}

/// Somebody asks for another primary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Wish {
    pub(crate) to: Option<String>,
    /// Of the time as primary that is to end.
    pub(crate) epoch: u64,
    pub(crate) nonce: u64,
}

/// The records.
#[derive(Clone)]
pub(crate) struct Records(Store);

impl Records {
    pub(crate) fn of(store: &Store) -> Records {
        Records(store.clone())
    }

    pub(crate) async fn put(&self, record: &NodeRecord) -> Result<()> {
        let text = serde_json::to_vec(record)?;
        self.0.put_record(&format!("{NODES}/{}", record.node), text.into(), false).await?;
        Ok(())
    }

    /// All nodes that have told of themselves and are not forgotten.
    pub(crate) async fn nodes(&self) -> Result<Vec<Told>> {
        let mut nodes = Vec::new();
        for record in self.0.list_records(NODES).await? {
            // One that is being deleted, or of a later litekeep.
            if let Some(bytes) = self.0.get_record(&record.name).await?
                && let Ok(node) = serde_json::from_slice(&bytes)
            {
                nodes.push(Told { node, put_ms: record.modified_ms });
            }
        }
        Ok(nodes)
    }

    /// Forgets nodes; who is there tells of himself again.
    pub(crate) async fn forget(&self, names: &[String]) -> Result<()> {
        let records: Vec<String> = names.iter().map(|name| format!("{NODES}/{name}")).collect();
        Ok(self.0.delete_records(&records).await?)
    }

    pub(super) async fn wish(&self, wish: &Wish) -> Result<()> {
        self.0.put_record(WISH, serde_json::to_vec(wish)?.into(), false).await?;
        Ok(())
    }

    pub(super) async fn wished(&self) -> Result<Option<Wish>> {
        let bytes = self.0.get_record(WISH).await?;
        Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
    }
}
