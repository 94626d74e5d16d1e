//! Telling by `sd_notify(3)`: a child that says itself when it is ready, and litekeep to its own service manager.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use litekeep_env::notify::{NotifySocket, Sender, ServiceManager};
use tokio::io::unix::AsyncFd;

use crate::error::{Error, Result};
use crate::tree::Tree;

/// Gives the service manager a sign of life as often as it wants one, for ever. Drop it to stop.
pub async fn keep_alive(manager: &ServiceManager) {
    let Some(every) = manager.watchdog() else { return std::future::pending().await };
    loop {
        manager.alive();
        tokio::time::sleep(every).await;
    }
}

/// The socket of one run.
#[derive(Debug)]
pub(crate) struct Ear {
    socket: AsyncFd<NotifySocket>,
    is_ready: AtomicBool,
}

impl Ear {
    /// The value of `NOTIFY_SOCKET` for a run. An abstract name needs no rights on any folder.
    pub(crate) fn name(instance: &str) -> String {
        format!("@litekeep/notify/{instance}")
    }

    /// Listens for a run; `is_ready` if it said so before.
    pub(crate) fn open(instance: &str, is_ready: bool) -> Result<Ear> {
        let name = Ear::name(instance);
        let socket = NotifySocket::bind(&name).and_then(|socket| {
            // Its replacement is unsafe: the descriptor must stay open and the same, as it does here until both are dropped.
            #[allow(deprecated)]
            AsyncFd::new(socket)
        });
        let socket = socket.map_err(Error::file(format!("listen on `{name}` for its readiness")))?;
        Ok(Ear { socket, is_ready: AtomicBool::new(is_ready) })
    }

    /// Waits until a process of the tree says that it is ready; at once if one did.
    pub(crate) async fn ready(&self, tree: &Tree) {
        while !self.is_ready.load(SeqCst) {
            let (sender, message) = self.next().await;
            if message.split(|b| *b == b'\n').any(|line| line == b"READY=1") && tree.sent(sender).await {
                self.is_ready.store(true, SeqCst);
            }
        }
    }

    /// Takes what else is said, so that nobody who says it waits.
    pub(crate) async fn drain(&self) {
        loop {
            self.next().await;
        }
    }

    async fn next(&self) -> (Sender, Vec<u8>) {
        loop {
            if let Ok(Some(message)) = self.socket.get_ref().receive() {
                return message;
            }
            match self.socket.readable().await {
                Ok(mut guard) => guard.clear_ready(),
                // Only when the runtime goes down: nobody waits for the answer any more.
                Err(_) => std::future::pending().await,
            }
        }
    }
}
