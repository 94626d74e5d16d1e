//! What stands in front of a process and hands requests to its runs, each of which has a port of its own.

use std::fmt::Debug;

use futures::future::BoxFuture;

use crate::error::Result;

/// The variable by which a run learns its port.
pub(crate) const PORT: &str = "PORT";

/// A proxy, as the supervisor sees it.
pub trait Front: Debug + Send + Sync {
    /// A run is going to be started, or one that has a port already is taken over: its port.
    fn begin(&self, instance: &str, port: Option<u16>) -> Result<u16>;
    /// Whether a run may get requests.
    fn face(&self, instance: &str, is_ready: bool);
    /// A run is going to be ended, or has ended: it gets no further request. Waits until its last one is over.
    fn end(&self, instance: &str) -> BoxFuture<'static, ()>;
}
