//! A server on a thread and runtime of its own, so that it outlives any test's runtime and also serves tests that
//! have none. Dropping the handle stops accepting, cuts the open connections and joins the thread.

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::mpsc;
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

/// Where a server listens, and what ends it.
#[derive(Debug)]
pub(crate) struct Serving {
    addr: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Serving {
    /// Binds `port` on loopback (0: any free port) and runs `serve` until the handle is dropped.
    pub(crate) fn start<F, Fut>(name: &str, port: u16, serve: F) -> Result<Self>
    where
        F: FnOnce(TcpListener) -> Fut + Send + 'static,
        Fut: Future<Output = ()>,
    {
        Self::start_at(name, (Ipv4Addr::LOCALHOST, port).into(), serve)
    }

    /// The same at any address.
    pub(crate) fn start_at<F, Fut>(name: &str, address: SocketAddr, serve: F) -> Result<Self>
    where
        F: FnOnce(TcpListener) -> Fut + Send + 'static,
        Fut: Future<Output = ()>,
    {
        let (stop, stopped) = oneshot::channel::<()>();
        let (bound, addr) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                let runtime = match tokio::runtime::Builder::new_multi_thread()
                    .worker_threads(2)
                    .max_blocking_threads(16)
                    .enable_all()
                    .build()
                {
                    Ok(runtime) => runtime,
                    Err(error) => return drop(bound.send(Err(error))),
                };
                runtime.block_on(async move {
                    let listener = match TcpListener::bind(address).await {
                        Ok(listener) => listener,
                        Err(error) => return drop(bound.send(Err(error))),
                    };
                    // A receiver that is gone means that the starter panicked; `stopped` then ends us too.
                    let _ = bound.send(listener.local_addr());
                    tokio::select! {
                        () = serve(listener) => {}
                        _ = stopped => {}
                    }
                });
                // Open connections are tasks of this runtime: they end here, in the middle of a request if need be.
                runtime.shutdown_background();
            })
            .with_context(|| format!("start the thread of {name}"))?;
        let addr = addr
            .recv()
            .with_context(|| format!("start {name}"))?
            .with_context(|| format!("bind {address} for {name}"))?;
        Ok(Self { addr, stop: Some(stop), thread: Some(thread) })
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Blocks until the server ends by itself, which it does only when its thread dies.
    pub(crate) fn join(mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
