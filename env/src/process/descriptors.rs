//! Who has a socket open.

use std::ffi::OsStr;
use std::io;
use std::os::unix::fs::MetadataExt as _;

use super::{Pid, own_identity};

/// Whether a process has the socket with this inode open; one that has ended has nothing open.
///
/// # Errors
/// When the kernel does not let this process see that (`ptrace(2)`, access mode): the other one is of another user, or runs a file
/// with capabilities.
pub fn has_socket_open(pid: Pid, inode: u64) -> io::Result<bool> {
    let wanted = format!("socket:[{inode}]");
    match looks_at(pid, wanted.as_ref()) {
        // In a container root may mostly not look into others' processes, but may become the other user.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied && own_identity().0 == 0 => {
            let Ok(owner) = std::fs::metadata(format!("/proc/{pid}")) else { return Ok(false) };
            let _other = OtherUser::become_it(owner.uid(), owner.gid());
            looks_at(pid, wanted.as_ref())
        }
        looked => looked,
    }
}

fn looks_at(pid: Pid, wanted: &OsStr) -> io::Result<bool> {
    let has_gone = |error: &io::Error| {
        error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
    };
    let look = || -> io::Result<bool> {
        for entry in std::fs::read_dir(format!("/proc/{pid}/fd"))? {
            match std::fs::read_link(entry?.path()) {
                Ok(target) if target == wanted => return Ok(true),
                // Closed meanwhile.
                Err(error) if !has_gone(&error) => return Err(error),
                _ => {}
            }
        }
        Ok(false)
    };
    look().or_else(|error| if has_gone(&error) { Ok(false) } else { Err(error) })
}

/// This thread, for access to files (so `/proc` too) another user until it is dropped. Other threads stay who they are.
struct OtherUser {
    own: (u32, u32),
}

impl OtherUser {
    fn become_it(uid: u32, gid: u32) -> OtherUser {
        // SAFETY: plain system calls on this thread alone; where they are refused it stays who it is. The group first: afterwards it
        // may not any more.
        unsafe {
            libc::setfsgid(gid);
            libc::setfsuid(uid);
        }
        OtherUser { own: own_identity() }
    }
}

impl Drop for OtherUser {
    fn drop(&mut self) {
        // SAFETY: as above; a thread may always go back to its effective user and group.
        unsafe {
            libc::setfsuid(self.own.0);
            libc::setfsgid(self.own.1);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn inode_of(socket: &impl std::os::fd::AsRawFd) -> u64 {
        std::fs::metadata(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap().ino()
    }

    #[test]
    fn an_open_socket_is_seen_and_a_closed_one_is_not() {
        let own = std::process::id() as Pid;
        let (one, other) =
            (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
        let closed = inode_of(&other);
        assert!(has_socket_open(own, inode_of(&one)).unwrap());
        assert!(has_socket_open(own, closed).unwrap());
        drop(other);
        assert!(!has_socket_open(own, closed).unwrap());
        assert!(!has_socket_open(Pid::MAX, closed).unwrap(), "nobody has this id");
    }

    #[test]
    fn whoever_becomes_another_user_is_itself_again() {
        if own_identity().0 != 0 {
            eprintln!("skipped: only root can be somebody else");
            return;
        }
        // This returns who the thread was, and changes nothing for an id that there is not.
        // SAFETY: plain system calls.
        let user = || unsafe { (libc::setfsuid(u32::MAX), libc::setfsgid(u32::MAX)) };
        {
            let _other = OtherUser::become_it(65534, 65534);
            assert_eq!(user(), (65534, 65534));
        }
        assert_eq!(user(), (0, 0));
    }
}
