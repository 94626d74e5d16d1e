//! The moment in which an application can commit nothing, until it uses the server.
//!
//! Promise: nothing opens the database but SQLite while it is held: whoever closes a descriptor of it drops the locks of this process.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use litekeep_env::{Clock as _, SystemClock};
use litekeep_ltx::Txid;
use litekeep_replicate::local::StateFile;
use litekeep_sql::{Application, Observer, Snapshot};
use litekeep_sync::Kind;
use litekeep_sync::push::Step;
use litekeep_sync::worker::{State, Worker};

use crate::report::Failure;

/// Between two looks at what has been confirmed.
const LOOK: Duration = Duration::from_millis(20);
/// After an error that may pass by itself.
const AGAIN: Duration = Duration::from_secs(1);

/// Up to where the backup has the database, as its replicator says.
pub(super) fn durable(meta_dir: &Path) -> Option<Txid> {
    StateFile::peek(&meta_dir.join("state")).map(|state| state.txid)
}

/// Up to where the server has everything.
fn at(state: &State) -> Option<Txid> {
    let progress = state.progress.as_ref()?;
    progress.outward.as_ref().or(progress.position.as_ref())?.parse().ok()
}

/// Goes on until the server has everything up to a transaction, or something at least where none is given, and nothing more is on its way in either
/// direction, or what there is is enough. What may pass by itself is tried again.
pub(super) async fn reach(
    worker: &mut Worker,
    goal: Option<Txid>,
    is_enough: impl Fn(&State) -> bool,
    copied: impl Fn(u64),
) -> Result<()> {
    loop {
        let stepped = worker.step().await;
        let state = worker.state();
        if let Some(rows) = state.progress.as_ref().and_then(|progress| progress.copied_rows) {
            copied(rows);
        }
        let is_there = at(state).is_some_and(|at| goal.is_none_or(|goal| at >= goal));
        match stepped {
            Err(error) if error.kind() != Kind::Unavailable => return Err(error.into()),
            Err(_) => tokio::time::sleep(AGAIN).await,
            Ok(Step::Current) if is_there => return Ok(()),
            Ok(Step::More) if is_there && is_enough(state) => return Ok(()),
            Ok(Step::More) => {}
            Ok(Step::Current) => {
                if !worker.reads_another_log().await {
                    tokio::time::sleep(LOOK).await;
                }
            }
        }
    }
}

/// The database while nobody can write to it. Others can as soon as this is dropped.
pub(super) struct Held {
    observer: Observer,
    path: PathBuf,
    since: Duration,
}

impl Held {
    /// Keeps everybody else from writing, as soon as nobody writes.
    ///
    /// # Errors
    /// When somebody writes for longer.
    pub(super) async fn take(path: &Path, within: Duration) -> Result<Held> {
        let path = path.to_owned();
        let take = move || -> Result<Held> {
            touch(&path)?;
            let observer = Observer::open(&path)?;
            observer.wait_for_locks(within)?;
            observer.hold_writes()?;
            Ok(Held { observer, path, since: SystemClock.boottime() })
        };
        tokio::task::spawn_blocking(take).await?
    }

    /// How long that is now.
    pub(super) fn lasts(&self) -> Duration {
        SystemClock.boottime().saturating_sub(self.since)
    }

    /// Waits until the backup has everything that was committed: its last transaction.
    pub(super) async fn in_backup(&self, meta_dir: &Path) -> Result<Txid> {
        let Some(Snapshot { max_frame, salt, .. }) = self.committed()? else {
            return Err(Failure::invalid("the database is not in WAL mode any more").into());
        };
        loop {
            let state = StateFile::peek(&meta_dir.join("state"));
            let has_all = |state: &litekeep_replicate::local::State| {
                state.place.is_some_and(|place| place.salt == salt && place.frames >= max_frame)
            };
            if let Some(state) = state.filter(has_all) {
                return Ok(state.txid);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// What was committed last, which stays so. A connection of its own sees it, for one that may write cannot tell.
    fn committed(&self) -> Result<Option<Snapshot>> {
        let reader = Observer::open(&self.path)?;
        Ok(reader.begin_read()?)
    }

    /// Lets the others write.
    pub(super) fn release(self) -> Result<()> {
        Ok(self.observer.end()?)
    }
}

/// Commits something that changes nothing: of a WAL without a commit nobody can tell whether the backup has what was in it.
fn touch(path: &Path) -> Result<()> {
    let database = Application::open(path)?;
    let version = database.query("PRAGMA user_version", &[])?;
    let version = version.first().and_then(|row| row.first()?.as_integer()).unwrap_or(0);
    Ok(database.execute_batch(&format!("PRAGMA user_version = {version}"))?)
}
