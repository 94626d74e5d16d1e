//! Whether a replicator may put transactions now.

use std::sync::Arc;

/// Asked before each put of a transaction: a lease may have run out. What may not be put waits as in an outage. Where a name was free
/// again because compaction has merged what had it, nothing else would keep a replicator that has slept from putting there.
#[derive(Clone, Default)]
pub struct Gate(Option<Arc<dyn Fn() -> bool + Send + Sync>>);

impl Gate {
    /// One that is open while this says so.
    pub fn new(is_open: impl Fn() -> bool + Send + Sync + 'static) -> Gate {
        Gate(Some(Arc::new(is_open)))
    }

    /// Whether it is open; that of nobody in particular always is.
    pub fn is_open(&self) -> bool {
        self.0.as_ref().is_none_or(|is_open| is_open())
    }
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Gate").field(&self.is_open()).finish()
    }
}
