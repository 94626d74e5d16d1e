//! What was written to a database comes into its log: for the tests of those that read logs.

use std::path::Path;
use std::time::Duration;

use litekeep_replicate::local::MetaDir;
use litekeep_replicate::replicator::{Gate, Replicator, Settings};
use litekeep_store::Store;
use litekeep_store::plan::Policy;
use tokio::runtime::Runtime;

const PATIENCE: Duration = Duration::from_secs(60);

/// Brings the log up to date, by a replicator that ends properly: what is new in the database comes into one file.
pub(crate) fn ship(runtime: &Runtime, database: &Path, store: &Store) {
    let settings = Settings {
        path: database.to_owned(),
        meta_dir: MetaDir::default_path(database),
        stores: vec![store.clone()],
        upload_interval: Duration::from_millis(10),
        policy: Policy::default(),
        wal_limit: 64 << 20,
        spool_limit: 1 << 30,
        new_timeline: false,
        newcomer_watch: Duration::from_millis(100),
        absence_patience: Duration::from_secs(60),
        gate: Gate::default(),
    };
    runtime.block_on(async {
        let replicator = Replicator::start().unwrap();
        replicator.add(settings).unwrap();
        let left = replicator.shut_down(PATIENCE).await;
        assert!(left.is_empty(), "{left:?}");
    });
}
