//! Renews a lease for as long as it is wanted, beside whatever the node does meanwhile.

use std::sync::Arc;
use std::time::Duration;

use litekeep_lease::{Holding, Lease, Record};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// How long a release waits for a renewal that is under way, and for its own answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// A renewal that failed is tried again after this part of the time between two.
const AGAIN: u32 = 5;

pub(crate) struct Keeper {
    lease: Arc<Lease>,
    record: Record,
    task: JoinHandle<bool>,
    release: Option<oneshot::Sender<Option<String>>>,
}

impl Keeper {
    pub(crate) fn keep(lease: Arc<Lease>, holding: Holding, every: Duration) -> Keeper {
        let record = holding.record().clone();
        let (release, released) = oneshot::channel();
        let task = tokio::spawn(keep(lease.clone(), holding, every, released));
        Keeper { lease, record, task, release: Some(release) }
    }

    /// The lease is another's, or nobody's.
    pub(crate) fn is_lost(&self) -> bool {
        self.task.is_finished()
    }

    /// Gives it up without a word to the others. Whatever it stood for has ended.
    pub(crate) fn end(self) -> Record {
        self.task.abort();
        self.lease.note_over(&self.record);
        self.record.clone()
    }

    /// Gives it to a node, or to whoever comes first; `false`: the others have to wait until it has run out.
    pub(crate) async fn release(mut self, to: Option<String>) -> (Record, bool) {
        let is_heard = self.release.take().is_some_and(|release| release.send(to).is_ok());
        let is_released =
            is_heard && matches!(tokio::time::timeout(PATIENCE, &mut self.task).await, Ok(Ok(true)));
        (self.end(), is_released)
    }
}

async fn keep(
    lease: Arc<Lease>,
    mut holding: Holding,
    every: Duration,
    mut release: oneshot::Receiver<Option<String>>,
) -> bool {
    let mut pause = every;
    loop {
        tokio::select! {
            biased;
            to = &mut release => return match to {
                Ok(to) => lease.release(holding, to).await.unwrap_or(false),
                Err(_) => false,
            },
            () = tokio::time::sleep(pause) => {}
        }
        pause = every / AGAIN;
        match lease.renew(&mut holding).await {
            Ok(true) => pause = every,
            Ok(false) => {
                tracing::warn!("the lease is lost");
                return false;
            }
            Err(e) if holding.validity().is_valid() => tracing::warn!("renew the lease: {e}; trying again"),
            Err(e) => {
                tracing::warn!("the lease could not be renewed in its time: {e}");
                return false;
            }
        }
    }
}
