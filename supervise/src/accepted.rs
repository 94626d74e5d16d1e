//! Who accepted a connection to this machine, told by the kernel, so that the program need not say it.
//!
//! A held socket is shared by the old and the new run of a reload and by all instances, and the kernel completes connections to it
//! before anybody accepts them. The other end of a connection of ours is a socket of this machine (`/proc/net/tcp`): until somebody
//! accepts it, it has no inode; then it is open (`/proc/PID/fd`) in the process that accepted it and in those that inherited it,
//! until they close it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use litekeep_env::process::{Pid, has_socket_open};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::OnceCell;

use crate::spawn::Socket;
use crate::tree::Tree;

/// From one look to the next at first, and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));

/// Who accepted a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Acceptor {
    /// A process of the tree.
    Tree,
    /// A process that is not of the tree.
    Other,
    /// Nobody can say any more: it was closed at once.
    Closed,
    /// The kernel does not let us see what this process of the tree has open.
    Hidden(Pid),
}

/// Whether the kernel tells at all; sandboxes that stand in for it may not, and then any answer has to be believed.
pub(crate) async fn is_told() -> bool {
    static IS_TOLD: OnceCell<bool> = OnceCell::const_new();
    let look = || async {
        let is_told = own_is_told().await.unwrap_or(false);
        if !is_told {
            tracing::warn!(
                "the kernel does not tell who accepts a connection: at a socket of `listen` a check believes whoever answers, also an \
                 old run; names_instance = true, and an answer with LITEKEEP_INSTANCE, tell it"
            );
        }
        is_told
    };
    *IS_TOLD.get_or_init(look).await
}

/// Whether it tells of a connection from this process to itself.
async fn own_is_told() -> io::Result<bool> {
    let anywhere = [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)];
    let listener = TcpListener::bind(&anywhere.map(|ip| SocketAddr::new(ip, 0))[..]).await?;
    let stream = TcpStream::connect(listener.local_addr()?).await?;
    let _accepted = listener.accept().await?;
    match inode_of((plain(stream.peer_addr()?), plain(stream.local_addr()?))).await? {
        Some(inode) => has_socket_open(std::process::id() as Pid, inode),
        None => Ok(false),
    }
}

/// Whether a connection goes to one of these sockets.
pub(crate) fn leads_to(stream: &TcpStream, sockets: &[Socket]) -> bool {
    let (Ok(own), Ok(peer)) = (stream.local_addr(), stream.peer_addr()) else { return false };
    let (own, peer) = (plain(own), plain(peer));
    // Another machine may have the same port.
    let is_here = peer.ip().is_loopback() || peer.ip() == own.ip();
    is_here
        && sockets
            .iter()
            .filter_map(Socket::address)
            .map(plain)
            .any(|held| held.port() == peer.port() && (held.ip() == peer.ip() || held.ip().is_unspecified()))
}

/// Waits until somebody has accepted a connection to a socket of this machine, and says who. Dropped, it leaves the connection as it is.
pub(crate) async fn by_whom(stream: &TcpStream, tree: &Tree) -> io::Result<Acceptor> {
    let ends = (plain(stream.peer_addr()?), plain(stream.local_addr()?));
    let (mut pause, mut has_spoken) = (PAUSES.0, false);
    loop {
        if let Some(inode) = inode_of(ends).await? {
            let first = holder(inode, tree).await;
            if first != Acceptor::Other {
                return Ok(first);
            }
            // The moment between the accept and the number of the descriptor.
            tokio::time::sleep(pause).await;
            return Ok(match inode_of(ends).await? {
                Some(_) => holder(inode, tree).await,
                None => Acceptor::Closed,
            });
        }
        if has_spoken {
            return Ok(Acceptor::Closed);
        }
        let mut byte = [0];
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            peeked = stream.peek(&mut byte) => match peeked {
                Ok(0) | Err(_) => return Ok(Acceptor::Closed),
                // It has been accepted, for it speaks: who it was shows now or never.
                Ok(_) => has_spoken = true,
            },
        }
        pause = (pause * 2).min(PAUSES.1);
    }
}

async fn holder(inode: u64, tree: &Tree) -> Acceptor {
    // Mostly it is the leader, for which nobody has to look through all processes.
    if who_of(vec![tree.pid()], inode).await == Acceptor::Tree {
        return Acceptor::Tree;
    }
    let members = tree.members_now().await;
    who_of(members.into_iter().map(|member| member.pid).collect(), inode).await
}

/// Whether one of these processes of a tree has it open.
async fn who_of(pids: Vec<Pid>, inode: u64) -> Acceptor {
    let look = move || {
        let mut hidden = None;
        for pid in pids {
            match has_socket_open(pid, inode) {
                Ok(true) => return Acceptor::Tree,
                Ok(false) => {}
                Err(_) => hidden = Some(pid),
            }
        }
        hidden.map_or(Acceptor::Other, Acceptor::Hidden)
    };
    tokio::task::spawn_blocking(look).await.expect("reading /proc does not panic")
}

/// The inode of the socket with these ends, its own first; none if nobody has accepted it, or it is closed.
async fn inode_of(ends: (SocketAddr, SocketAddr)) -> io::Result<Option<u64>> {
    let look = move || {
        // One that listens at `::` has connections of both kinds in the second table.
        for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
            match std::fs::read_to_string(table) {
                Ok(text) => {
                    if let Some(inode) = text.lines().skip(1).find_map(|line| inode_in(line, ends)) {
                        return Ok(Some(inode).filter(|inode| *inode != 0));
                    }
                }
                // A kernel without IPv6.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    };
    tokio::task::spawn_blocking(look).await.expect("reading /proc does not panic")
}

/// The inode in a line of `/proc/net/tcp` or `/proc/net/tcp6`, if it is the line of these ends.
fn inode_in(line: &str, (own, other): (SocketAddr, SocketAddr)) -> Option<u64> {
    let mut fields = line.split_ascii_whitespace();
    let (local, remote) = (fields.nth(1)?, fields.next()?);
    // The port first: there may be a hundred thousand lines.
    let port = |field: &str| u16::from_str_radix(field.rsplit(':').next()?, 16).ok();
    let is_it = port(local)? == own.port() && address(local)? == own && address(remote)? == other;
    if is_it { fields.nth(6)?.parse().ok() } else { None }
}

/// An address as these tables have it: words of 32 bits in the machine's own order, then the port.
fn address(field: &str) -> Option<SocketAddr> {
    let (ip, port) = field.split_once(':')?;
    let word = |at: usize| u32::from_str_radix(ip.get(at * 8..at * 8 + 8)?, 16).ok().map(u32::to_ne_bytes);
    let ip = match ip.len() {
        8 => IpAddr::from(Ipv4Addr::from(word(0)?)),
        _ => {
            let mut bytes = [0; 16];
            for (at, part) in bytes.chunks_exact_mut(4).enumerate() {
                part.copy_from_slice(&word(at)?);
            }
            IpAddr::from(Ipv6Addr::from(bytes))
        }
    };
    Some(plain(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?)))
}

/// Without what tells an address of version 4 from the same one in version 6, and without its scope.
fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests;
