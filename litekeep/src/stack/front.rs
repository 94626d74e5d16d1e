//! The proxy in front of a service whose instances have ports of their own.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};

use futures::future::BoxFuture;
use litekeep_proxy::{Instance, Instances, Safety, Settings, cluster};
use litekeep_supervise::Front;
use tokio::task::JoinHandle;

use crate::cluster::Facing;
use crate::report::{Failure, Kind, text};
use crate::waiting::Waiting;

/// One service's.
#[derive(Debug, Default)]
pub(super) struct Behind {
    instances: Arc<Instances>,
    runs: Mutex<HashMap<String, Run>>,
}

#[derive(Debug)]
struct Run {
    address: SocketAddr,
    /// While it gets requests.
    instance: Option<Arc<Instance>>,
    is_ready: bool,
}

impl Behind {
    /// Listens from now on, and until the task is aborted; in a cluster for what the other nodes send on, too. `waiting` is asked when
    /// commits are safe.
    ///
    /// # Errors
    /// When the address is taken or not ours.
    pub(super) fn listen(
        address: SocketAddr,
        of_node: Option<(Facing, cluster::Settings)>,
        waiting: Waiting,
    ) -> Result<(Arc<Behind>, JoinHandle<()>), Failure> {
        let failed = |error: std::io::Error| {
            let failure =
                Failure::new(Kind::Invalid, format!("listen on {address}: {}", text::io_error(&error)));
            failure.hint("choose another `proxy` address, or end what listens there")
        };
        let listener = TcpListener::bind(address).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let listener = tokio::net::TcpListener::from_std(listener).map_err(failed)?;
        let behind = Arc::new(Behind::default());
        let instances = behind.instances.clone();
        let safety: Option<Arc<dyn Safety>> = Some(Arc::new(waiting));
        let task = match of_node {
            Some((node, settings)) => {
                tokio::spawn(cluster::serve(listener, instances, Arc::new(node), safety, settings))
            }
            None => tokio::spawn(litekeep_proxy::serve(listener, instances, safety, Settings::default())),
        };
        Ok((behind, task))
    }

    fn runs(&self) -> std::sync::MutexGuard<'_, HashMap<String, Run>> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Front for Behind {
    fn begin(&self, instance: &str, port: Option<u16>) -> litekeep_supervise::Result<u16> {
        // The kernel does not give a port again so soon; should another program take it, the run fails and the next one
        // gets another.
        let free =
            || -> std::io::Result<SocketAddr> { TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr() };
        let address =
            port.map_or_else(free, |port| Ok((Ipv4Addr::LOCALHOST, port).into())).map_err(|error| {
                litekeep_supervise::Error::File {
                    action: "find a free port".to_owned(),
                    cause: error.to_string(),
                }
            })?;
        self.runs().insert(instance.to_owned(), Run { address, instance: None, is_ready: false });
        Ok(address.port())
    }

    fn face(&self, instance: &str, is_ready: bool) {
        let mut runs = self.runs();
        let Some(run) = runs.get_mut(instance) else { return };
        run.is_ready = is_ready;
        if is_ready && run.instance.is_none() {
            run.instance = Some(self.instances.add(run.address));
        }
        // Where no other is ready an unready one keeps its requests: a slow answer is better than none.
        if runs.values().any(|run| run.is_ready) {
            for run in runs.values_mut().filter(|run| !run.is_ready) {
                run.instance.take().iter().for_each(|instance| self.instances.remove(instance));
            }
        }
    }

    fn end(&self, instance: &str) -> BoxFuture<'static, ()> {
        let run = self.runs().remove(instance);
        let instances = self.instances.clone();
        Box::pin(async move {
            if let Some(instance) = run.and_then(|run| run.instance) {
                instances.retire(&instance).await;
            }
        })
    }
}
