//! What litekeep listens on for its processes, itself or for them: opened once, and open while processes come and go.

use std::collections::{HashMap, HashSet};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::sync::Arc;

use anyhow::Result;
use litekeep_config::Listen;
use litekeep_proxy::cluster;
use litekeep_supervise::spawn::Socket;
use tokio::task::JoinHandle;

use super::front::Behind;
use crate::cluster::Facing;
use crate::waiting::Waiting;

/// Those that are open.
#[derive(Default)]
pub(super) struct Sockets {
    handed_over: HashMap<String, Socket>,
    fronts: HashMap<SocketAddr, (Arc<Behind>, JoinHandle<()>)>,
    /// Those that the configuration of now wants.
    wanted: HashSet<String>,
}

impl Sockets {
    /// The socket of an address, under its name for the process; `left` is the one that a process still has from a litekeep
    /// that was killed.
    ///
    /// # Errors
    /// When it is taken or not ours.
    pub(super) fn get(
        &mut self,
        name: &str,
        listen: &Listen,
        left: impl Fn() -> Option<Socket>,
    ) -> Result<Socket> {
        let key = format!("{listen:?}");
        self.wanted.insert(key.clone());
        if !self.handed_over.contains_key(&key) {
            let left = left().filter(|socket| is_at(socket, listen));
            let socket = match (left, listen) {
                (Some(left), _) => left,
                (None, Listen::Tcp(address)) => Socket::tcp(name, *address)?,
                (None, Listen::Unix(path)) => Socket::unix(name, path)?,
            };
            self.handed_over.insert(key.clone(), socket);
        }
        Ok(Socket { name: name.to_owned(), fd: self.handed_over[&key].fd.clone() })
    }

    /// The proxy at an address.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub(super) fn front(
        &mut self,
        address: SocketAddr,
        of_node: impl FnOnce() -> Option<(Facing, cluster::Settings)>,
        waiting: impl FnOnce() -> Waiting,
    ) -> Result<Arc<Behind>> {
        self.wanted.insert(address.to_string());
        if let Some((front, _)) = self.fronts.get(&address) {
            return Ok(front.clone());
        }
        let (front, task) = Behind::listen(address, of_node(), waiting())?;
        self.fronts.insert(address, (front.clone(), task));
        Ok(front)
    }

    /// Before the configuration is read: nothing is wanted yet.
    pub(super) fn begin(&mut self) {
        self.wanted.clear();
    }

    /// Closes what is not wanted any more.
    pub(super) fn close_unwanted(&mut self) {
        self.handed_over.retain(|key, _| self.wanted.contains(key));
        self.fronts.retain(|address, (_, task)| {
            let stays = self.wanted.contains(&address.to_string());
            if !stays {
                task.abort();
            }
            stays
        });
    }
}

/// Whether a socket listens at this address.
fn is_at(socket: &Socket, listen: &Listen) -> bool {
    let Ok(fd) = socket.fd.try_clone() else { return false };
    match listen {
        Listen::Tcp(address) => TcpListener::from(fd).local_addr().is_ok_and(|own| own == *address),
        Listen::Unix(path) => {
            UnixListener::from(fd).local_addr().is_ok_and(|own| own.as_pathname() == Some(path))
        }
    }
}
