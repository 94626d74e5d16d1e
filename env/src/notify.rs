//! `sd_notify(3)`, both ends of it: what this process tells its service manager, and what children tell this process.

#![allow(unsafe_code)] // SO_PASSCRED and recvmsg have no safe form in std

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use crate::process::Pid;

/// Bytes of a message that are read.
const LONGEST: usize = 4096;

/// A path, or an abstract name after `@`.
fn address(name: &OsStr) -> io::Result<SocketAddr> {
    match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(name),
    }
}

/// Who started this process and wants to know how it is; without one nothing is sent.
#[derive(Debug)]
pub struct ServiceManager {
    socket: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl ServiceManager {
    /// The one that the environment names (`NOTIFY_SOCKET`, `WATCHDOG_USEC`, `WATCHDOG_PID`).
    pub fn from_env() -> io::Result<ServiceManager> {
        let pid = std::env::var("WATCHDOG_PID").ok();
        let is_for_us = pid.is_none_or(|pid| pid == std::process::id().to_string());
        let usec = std::env::var("WATCHDOG_USEC").ok().filter(|_| is_for_us);
        ServiceManager::new(std::env::var_os("NOTIFY_SOCKET").as_deref(), usec.as_deref())
    }

    /// One that listens there and expects a sign of life within so many microseconds.
    pub fn new(socket: Option<&OsStr>, watchdog_usec: Option<&str>) -> io::Result<ServiceManager> {
        let socket = socket.filter(|name| !name.is_empty());
        let socket = socket.map(|name| Ok::<_, io::Error>((UnixDatagram::unbound()?, address(name)?)));
        let usec = watchdog_usec.and_then(|usec| usec.parse().ok()).filter(|usec| *usec > 0);
        Ok(ServiceManager { socket: socket.transpose()?, watchdog: usec.map(Duration::from_micros) })
    }

    /// How often [`ServiceManager::alive`] is to be called: twice as often as is expected.
    pub fn watchdog(&self) -> Option<Duration> {
        self.socket.as_ref().and(self.watchdog).map(|within| within / 2)
    }

    /// Started, or done with a reload.
    pub fn ready(&self) {
        self.send("READY=1");
    }

    /// What is going on, in one line.
    pub fn status(&self, text: &str) {
        self.send(&format!("STATUS={}", text.replace('\n', " ")));
    }

    /// A reload begins.
    pub fn reloading(&self) {
        // systemd tells by this time that the message is not of a reload before.
        let now = crate::SystemClock.monotonic().as_micros();
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={now}"));
    }

    /// The end begins.
    pub fn stopping(&self) {
        self.send("STOPPING=1");
    }

    /// A sign of life.
    pub fn alive(&self) {
        self.send("WATCHDOG=1");
    }

    /// A manager that cannot be reached is no reason to stop.
    fn send(&self, message: &str) {
        if let Some((socket, address)) = &self.socket {
            _ = socket.send_to_addr(message.as_bytes(), address);
        }
    }
}

/// Who sent a message, by the kernel's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sender {
    /// Its process id when it sent it.
    pub pid: Pid,
    /// Its user.
    pub uid: u32,
}

/// Where children tell how they are.
#[derive(Debug)]
pub struct NotifySocket(UnixDatagram);

impl NotifySocket {
    /// Listens under a name: a path, or an abstract name after `@`.
    pub fn bind(name: &str) -> io::Result<NotifySocket> {
        let socket = UnixDatagram::bind_addr(&address(OsStr::new(name))?)?;
        socket.set_nonblocking(true)?;
        let on: libc::c_int = 1;
        let (value, len) = ((&raw const on).cast(), size_of::<libc::c_int>() as libc::socklen_t);
        // SAFETY: `value` points to `len` bytes for the duration of the call.
        let set =
            unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PASSCRED, value, len) };
        if set == 0 { Ok(NotifySocket(socket)) } else { Err(io::Error::last_os_error()) }
    }

    /// The next message; none for now.
    pub fn receive(&self) -> io::Result<Option<(Sender, Vec<u8>)>> {
        let mut bytes = vec![0u8; LONGEST];
        // Room for the credentials only: descriptors that somebody sends along are closed by the kernel.
        let mut control = [0u64; 4];
        let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
        // SAFETY: msghdr is plain data; everything that it points to outlives the calls, and the kernel bounds `control`.
        let (read, sender) = unsafe {
            let mut message: libc::msghdr = std::mem::zeroed();
            (message.msg_iov, message.msg_iovlen) = (&mut part, 1);
            message.msg_control = control.as_mut_ptr().cast();
            message.msg_controllen = size_of_val(&control) as _;
            let read = libc::recvmsg(self.0.as_raw_fd(), &mut message, libc::MSG_CMSG_CLOEXEC);
            if read < 0 {
                let error = io::Error::last_os_error();
                return if error.kind() == io::ErrorKind::WouldBlock { Ok(None) } else { Err(error) };
            }
            let header = libc::CMSG_FIRSTHDR(&message);
            let is_credentials = !header.is_null()
                && (*header).cmsg_level == libc::SOL_SOCKET
                && (*header).cmsg_type == libc::SCM_CREDENTIALS;
            let sender = is_credentials.then(|| {
                let sender = libc::CMSG_DATA(header).cast::<libc::ucred>().read_unaligned();
                Sender { pid: sender.pid, uid: sender.uid }
            });
            (read as usize, sender)
        };
        bytes.truncate(read);
        let sender =
            sender.ok_or_else(|| io::Error::other("a message without the credentials of its sender"))?;
        Ok(Some((sender, bytes)))
    }
}

impl AsFd for NotifySocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for NotifySocket {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manager_is_told_by_path_and_by_abstract_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify").to_str().unwrap().to_owned();
        for name in [path, format!("@litekeep-test-{:x}", crate::random_u64())] {
            let socket = NotifySocket::bind(&name).unwrap();
            assert!(socket.receive().unwrap().is_none());
            let manager = ServiceManager::new(Some(OsStr::new(&name)), Some("3000000")).unwrap();
            assert_eq!(manager.watchdog(), Some(Duration::from_millis(1500)));
            manager.ready();
            manager.status("two\nlines");
            manager.reloading();
            manager.stopping();
            manager.alive();
            let next = || {
                let (sender, text) = socket.receive().unwrap().unwrap();
                assert_eq!((sender.pid as u32, Some(sender.uid)), (std::process::id(), crate::user_id()));
                String::from_utf8(text).unwrap()
            };
            assert_eq!([next(), next()], ["READY=1", "STATUS=two lines"]);
            assert!(next().starts_with("RELOADING=1\nMONOTONIC_USEC="));
            assert_eq!([next(), next()], ["STOPPING=1", "WATCHDOG=1"]);
        }
    }

    #[test]
    fn without_a_manager_nothing_happens() {
        for socket in [None, Some(OsStr::new(""))] {
            let manager = ServiceManager::new(socket, Some("1000")).unwrap();
            manager.ready();
            assert_eq!(manager.watchdog(), None);
        }
        let gone = ServiceManager::new(Some(OsStr::new("/no/such/socket")), Some("never")).unwrap();
        gone.ready();
        assert_eq!(gone.watchdog(), None);
    }
}
