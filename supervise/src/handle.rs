//! A handle on the task that cares for a process or a job.

use std::sync::Arc;

use futures::future::BoxFuture;
use tokio::sync::{mpsc, oneshot, watch};

use crate::error::{Error, Result};
use crate::log::Log;

/// Tells whoever asked what came of it.
pub(crate) type Reply = oneshot::Sender<Result<()>>;

/// What a process or job is called, where it stands and what it prints; it is asked by requests `R`. When the last handle is
/// dropped, what the task cares for is stopped.
pub struct Handle<R, S> {
    name: Arc<str>,
    requests: mpsc::Sender<(R, Reply)>,
    status: watch::Receiver<S>,
    log: Log,
}

impl<R, S> Clone for Handle<R, S> {
    fn clone(&self) -> Self {
        let (name, requests) = (self.name.clone(), self.requests.clone());
        Handle { name, requests, status: self.status.clone(), log: self.log.clone() }
    }
}

impl<R, S: Clone> Handle<R, S> {
    /// A handle, and what its task gets.
    pub(crate) fn open(
        name: &str,
        log: Log,
        status: &watch::Sender<S>,
    ) -> (Handle<R, S>, mpsc::Receiver<(R, Reply)>) {
        let (requests, receiver) = mpsc::channel(16);
        (Handle { name: name.into(), requests, status: status.subscribe(), log }, receiver)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it stands, now and from now on.
    pub fn status(&self) -> watch::Receiver<S> {
        self.status.clone()
    }

    /// What it printed.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Waits until nobody cares for it any more. Holds nothing of it.
    pub fn gone(&self) -> BoxFuture<'static, ()>
    where
        S: Send + Sync + 'static,
    {
        let mut status = self.status.clone();
        Box::pin(async move { while status.changed().await.is_ok() {} })
    }

    pub(crate) async fn ask(&self, request: R) -> Result<()> {
        let ended = || Error::Ended { process: self.name.to_string() };
        let (reply, answer) = oneshot::channel();
        self.requests.send((request, reply)).await.map_err(|_| ended())?;
        answer.await.map_err(|_| ended())?
    }
}
