//! What processes wait for beside other processes: the state of a database.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use litekeep_replicate::replicator::{Phase, Status};
use litekeep_supervise::Condition;

use crate::replication::Current;

/// Between two looks at a backup.
const PAUSE: Duration = Duration::from_millis(100);

/// Waits until a backup has its first copy and goes well, where there is a database.
pub(super) fn replicating(database: &Path, replication: &Current) -> Condition {
    let (database, replication) = (database.to_owned(), replication.clone());
    let what = format!("the first copy of `{}`", database.display());
    let met = move || -> BoxFuture<'static, Result<(), String>> {
        let (database, replication) = (database.clone(), replication.clone());
        Box::pin(async move {
            loop {
                let status = of(&database, &replication).ok_or("its database is not replicated")?;
                match status.phase {
                    // There is nothing to copy before somebody makes it, who may be the one that waits.
                    Phase::Waiting | Phase::Gone if !database.exists() => return Ok(()),
                    Phase::Following | Phase::Stopped => return Ok(()),
                    // A person has to decide.
                    Phase::Fenced | Phase::Refused => {
                        return Err(status.message.unwrap_or_else(|| status.phase.name().to_owned()));
                    }
                    // An outage passes, too.
                    Phase::Starting | Phase::Snapshot | Phase::Waiting | Phase::Gone | Phase::Failing => {
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            }
        })
    };
    Condition { what, met: Arc::new(met) }
}

/// Where the backup of a database stands.
pub(super) fn of(database: &Path, replication: &Current) -> Option<Status> {
    let canonical = canonical(database);
    replication
        .upgrade()?
        .statuses()
        .into_iter()
        .find(|status| status.path == canonical || status.path == database)
}

/// As the replicator spells it.
fn canonical(path: &Path) -> PathBuf {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match (parent.canonicalize(), path.file_name()) {
        (Ok(parent), Some(name)) => parent.join(name),
        _ => path.to_owned(),
    }
}
