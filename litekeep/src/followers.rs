//! What follows the backup beside the replication: feeds and syncs.
//!
//! Promise: each is a task of its own that reads the backup like anybody else.

use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use anyhow::Result;
use litekeep_ltx::Txid;
use litekeep_store::Store;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::replication::Replication;
use crate::settings::{Database, Stores};
use crate::verification::canonical;

/// Between two looks at a folder, or at what the replicator has confirmed, which cost nothing to speak of.
const LOOK: Duration = Duration::from_millis(50);
/// Between two questions to a bucket: each is a request.
const BUCKET_PAUSE: Duration = Duration::from_secs(1);
/// Between two tries while a store does not answer.
pub(crate) const OUTAGE_PAUSE: Duration = Duration::from_secs(5);
/// How long the end waits for one that is writing its position.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Those that follow.
#[derive(Default)]
pub(crate) struct Followers {
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Followers {
    /// Begins one, which ends when it is told to.
    pub(crate) fn start<F: Future<Output = ()> + Send + 'static>(
        &mut self,
        follow: impl FnOnce(watch::Receiver<bool>) -> F,
    ) {
        self.tasks.push(tokio::spawn(follow(self.stop.subscribe())));
    }

    /// Ends them; what is not done by now is done after the next start.
    pub(crate) async fn stop(self) {
        self.stop.send_replace(true);
        for task in self.tasks {
            if tokio::time::timeout(LAST_WORDS, task).await.is_err() {
                tracing::warn!(
                    "a feed or a sync could not write its position: its last part will come again"
                );
            }
        }
    }
}

/// The backups of a database, those first that cost nothing to ask.
///
/// # Errors
/// When one cannot be opened.
pub(crate) fn opened(database: &Database, stores: &Stores) -> Result<Vec<Store>> {
    let opened: Result<Vec<Store>> =
        database.destinations.iter().map(|destination| stores.open(destination)).collect();
    let mut stores = opened?;
    stores.sort_by_key(|store| store.as_folder().is_none());
    Ok(stores)
}

/// Between two looks whether a backup has more.
pub(crate) fn pause(store: &Store) -> Duration {
    if store.as_folder().is_some() { LOOK } else { BUCKET_PAUSE }
}

/// When a backup may have more.
pub(crate) struct News {
    replication: Weak<Replication>,
    database: PathBuf,
    pause: Duration,
}

impl News {
    pub(crate) fn new(database: &Database, replication: &Arc<Replication>, store: Option<&Store>) -> News {
        News {
            replication: Arc::downgrade(replication),
            database: canonical(&database.path),
            pause: store.map_or(BUCKET_PAUSE, pause),
        }
    }

    /// Up to where the replicator has confirmed. Asks no store.
    pub(crate) fn durable(&self) -> Option<Txid> {
        self.replication.upgrade().and_then(|replication| replication.durable(&self.database))
    }

    /// Waits until the replicator has confirmed more than up to a transaction. Asks no store.
    pub(crate) async fn after(&self, at: Option<Txid>) {
        tokio::time::sleep(self.pause).await;
        while self.durable() <= at {
            tokio::time::sleep(LOOK).await;
        }
    }
}
