use std::os::fd::OwnedFd;
use std::sync::Arc;

use litekeep_env::process::signal_number;

use super::*;
use crate::cgroup::Group;
use crate::spawn::{Command, Spawn};
use crate::tree::tests::tree_of;

/// Takes one connection and holds it.
const ACCEPTS: &str = "import socket, time; c, _ = socket.socket(fileno=3).accept(); time.sleep(100)";

fn tree(code: &str, instance: &str, sockets: Vec<Socket>) -> Tree {
    let command = Command::Program { name: "python3".into(), args: vec!["-c".into(), code.into()] };
    tree_of(&Spawn { sockets, ..Spawn::new(command) }, instance, Group::default())
}

async fn end(tree: Tree) {
    tree.stop(signal_number("KILL").unwrap(), Duration::ZERO).await;
}

#[test]
fn both_tables_of_the_kernel_are_read() {
    let four = "   1: 0100007F:0BB8 0100007F:D431 01 00000000:00000000 00:00000000 00000000  1000        0 559665 1 0000 20 4 30 10 -1";
    let six = "   0: 0000000000000000FFFF00000100007F:0BB8 0000000000000000FFFF00000100007F:D431 01 00000000:00000000 00:00000000 00000000     0        0 0 1 0000 20 0 0 10 -1";
    let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let ends = (at(3000), at(54321));
    assert_eq!(inode_in(four, ends), Some(559_665));
    assert_eq!(inode_in(six, ends), Some(0));
    assert_eq!(inode_in(four, (ends.1, ends.0)), None);
    assert_eq!(inode_in("nonsense", ends), None);
    let loopback = "00000000000000000000000001000000:1F90";
    assert_eq!(address(loopback), Some("[::1]:8080".parse().unwrap()));
}

#[tokio::test]
async fn who_accepts_is_told_and_nobody_is_told_of_what_only_waits() {
    for host in ["127.0.0.1:0", "[::]:0"] {
        let listener = std::net::TcpListener::bind(host).unwrap();
        let held: Arc<OwnedFd> = Arc::new(listener.try_clone().unwrap().into());
        let socket = Socket { name: "web".into(), fd: held };
        listener.set_nonblocking(true).unwrap();
        let listener = TcpListener::from_std(listener).unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], listener.local_addr().unwrap().port()));
        let idle = tree("import time; time.sleep(100)", "web#1", vec![socket.clone()]);

        let stream = TcpStream::connect(address).await.unwrap();
        assert!(leads_to(&stream, std::slice::from_ref(&socket)));
        let waits = tokio::time::timeout(Duration::from_millis(200), by_whom(&stream, &idle)).await;
        assert!(waits.is_err(), "{waits:?}");
        let (ours, _) = listener.accept().await.unwrap();
        assert_eq!(by_whom(&stream, &idle).await.unwrap(), Acceptor::Other);
        drop(ours);
        assert_eq!(by_whom(&stream, &idle).await.unwrap(), Acceptor::Closed);

        let stream = TcpStream::connect(address).await.unwrap();
        let busy = tree(ACCEPTS, "web#2", vec![socket]);
        assert_eq!(by_whom(&stream, &busy).await.unwrap(), Acceptor::Tree);
        assert_eq!(by_whom(&stream, &idle).await.unwrap(), Acceptor::Other);
        end(idle).await;
        end(busy).await;
    }
}

#[tokio::test]
async fn the_kernel_here_tells() {
    assert!(own_is_told().await.unwrap());
}

#[tokio::test]
async fn another_address_is_no_held_socket() {
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let socket = Socket { name: "web".into(), fd: Arc::new(held.into()) };
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let stream = TcpStream::connect(other.local_addr().unwrap()).await.unwrap();
    assert!(!leads_to(&stream, &[socket]));
}
