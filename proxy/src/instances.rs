//! The instances of an application behind the proxy.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::client::conn::http1::SendRequest;
use tokio::sync::{Notify, watch};

/// Connections that wait for the next request, for each instance.
const IDLE: usize = 64;

/// What is sent to an instance.
pub(crate) type Sender = SendRequest<UnsyncBoxBody<Bytes, hyper::Error>>;

/// All instances that may get requests.
#[derive(Debug, Default)]
pub struct Instances {
    ready: watch::Sender<Vec<Arc<Instance>>>,
}

/// One instance.
pub struct Instance {
    address: SocketAddr,
    busy: AtomicUsize,
    quiet: Notify,
    is_retired: AtomicBool,
    idle: Mutex<Vec<Sender>>,
}

impl std::fmt::Debug for Instance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Instance({}, {} busy)", self.address, self.busy.load(SeqCst))
    }
}

impl Instances {
    /// An instance that is ready: it gets requests from now on.
    pub fn add(&self, address: SocketAddr) -> Arc<Instance> {
        let instance = Arc::new(Instance {
            address,
            busy: AtomicUsize::new(0),
            quiet: Notify::new(),
            is_retired: AtomicBool::new(false),
            idle: Mutex::default(),
        });
        self.ready.send_modify(|ready| ready.push(instance.clone()));
        instance
    }

    /// Takes an instance out and waits until its last request is over.
    pub async fn retire(&self, instance: &Arc<Instance>) {
        self.remove(instance);
        loop {
            let quiet = instance.quiet.notified();
            tokio::pin!(quiet);
            quiet.as_mut().enable();
            if instance.busy.load(SeqCst) == 0 {
                return;
            }
            quiet.await;
        }
    }

    /// Takes an instance out that is gone.
    pub fn remove(&self, instance: &Arc<Instance>) {
        self.ready.send_modify(|ready| ready.retain(|other| !Arc::ptr_eq(other, instance)));
        instance.is_retired.store(true, SeqCst);
        instance.idle().clear();
    }

    /// The instance with the fewest requests; waits while there is none.
    pub(crate) async fn choose(&self) -> Busy {
        let mut ready = self.ready.subscribe();
        loop {
            // Counted while the list is borrowed, so that a retirement either sees the request or keeps it away.
            let chosen = {
                let all = ready.borrow_and_update();
                all.iter().min_by_key(|instance| instance.busy.load(SeqCst)).cloned().map(Busy::new)
            };
            if let Some(busy) = chosen {
                return busy;
            }
            if ready.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

impl Instance {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Sender>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection that waits, if there is one that is still good.
    pub(crate) fn take_idle(&self) -> Option<Sender> {
        let mut idle = self.idle();
        while let Some(sender) = idle.pop() {
            if sender.is_ready() {
                return Some(sender);
            }
        }
        None
    }

    /// Keeps a connection for the next request.
    pub(crate) fn keep(&self, sender: Sender) {
        let mut idle = self.idle();
        if idle.len() < IDLE && !self.is_retired.load(SeqCst) {
            idle.push(sender);
        }
    }
}

/// A request that an instance has in hand.
#[derive(Debug)]
pub(crate) struct Busy(Arc<Instance>);

impl Busy {
    fn new(instance: Arc<Instance>) -> Busy {
        instance.busy.fetch_add(1, SeqCst);
        Busy(instance)
    }

    pub(crate) fn instance(&self) -> &Arc<Instance> {
        &self.0
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        if self.0.busy.fetch_sub(1, SeqCst) == 1 {
            self.0.quiet.notify_waiters();
        }
    }
}
