//! File locks.
//!
//! Open-file-description locks (`fcntl` F_OFD_SETLK) belong to the descriptor and not to the process: closing another
//! descriptor of the same file does not drop them, which it does with the POSIX locks that SQLite uses. They conflict
//! with POSIX locks of every process, our own included, exactly as POSIX locks of another process would.

#![allow(unsafe_code)] // fcntl and flock have no safe form in std for byte ranges

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

fn range(kind: libc::c_int, start: u64, len: u64) -> libc::flock {
    // SAFETY: flock is plain data for which all-zero bytes are a valid value.
    let mut l: libc::flock = unsafe { std::mem::zeroed() };
    l.l_type = kind as libc::c_short;
    l.l_whence = libc::SEEK_SET as libc::c_short;
    l.l_start = start as libc::off_t;
    l.l_len = len as libc::off_t;
    l
}

fn ofd(file: &File, kind: libc::c_int, start: u64, len: u64) -> io::Result<bool> {
    let mut l = range(kind, start, len);
    // SAFETY: the descriptor is open for as long as `file` is borrowed, and `l` is a valid flock.
    let r = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &mut l) };
    if r == 0 {
        return Ok(true);
    }
    let e = io::Error::last_os_error();
    match e.raw_os_error() {
        Some(libc::EAGAIN) | Some(libc::EACCES) => Ok(false),
        _ => Err(e),
    }
}

/// Takes a shared lock on `start..start+len` without waiting; `false` when somebody holds it exclusively.
pub fn share(file: &File, start: u64, len: u64) -> io::Result<bool> {
    ofd(file, libc::F_RDLCK, start, len)
}

/// Takes an exclusive lock on `start..start+len` without waiting; `false` when somebody holds any lock there. The file
/// must be open for writing.
pub fn exclude(file: &File, start: u64, len: u64) -> io::Result<bool> {
    ofd(file, libc::F_WRLCK, start, len)
}

/// Drops what this descriptor holds in `start..start+len`.
pub fn release(file: &File, start: u64, len: u64) -> io::Result<()> {
    ofd(file, libc::F_UNLCK, start, len).map(|_| ())
}

/// Whether anybody but this descriptor holds a lock that overlaps `start..start+len`; with the process id where the
/// kernel knows it (an open-file-description lock has none).
pub fn holder(file: &File, start: u64, len: u64) -> io::Result<Option<Option<u32>>> {
    let mut l = range(libc::F_WRLCK, start, len);
    // SAFETY: as in `ofd`.
    let r = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &mut l) };
    if r != 0 {
        return Err(io::Error::last_os_error());
    }
    if l.l_type == libc::F_UNLCK as libc::c_short {
        return Ok(None);
    }
    Ok(Some(u32::try_from(l.l_pid).ok().filter(|p| *p > 0)))
}

/// Which processes hold POSIX locks in `start..start+len` of a file, by the kernel's list. Nothing is opened: to close it would
/// drop the locks that this process has there. Only the inode is compared, as layered file systems list another device.
pub fn holders(path: &Path, start: u64, len: u64) -> io::Result<Vec<u32>> {
    let inode = std::fs::metadata(path)?.ino();
    Ok(listed(&std::fs::read_to_string("/proc/locks")?, inode, start, len))
}

/// Lines such as `3: POSIX  ADVISORY  READ 4711 fe:01:394867 124 124`.
fn listed(locks: &str, inode: u64, start: u64, len: u64) -> Vec<u32> {
    let holder = |line: &str| {
        let [_, "POSIX", _, _, pid, file, first, last] = line.split_whitespace().collect::<Vec<_>>()[..]
        else {
            return None;
        };
        let is_own = file.rsplit(':').next()?.parse() == Ok(inode);
        let first: u64 = first.parse().ok()?;
        let last = last.parse().unwrap_or(u64::MAX);
        (is_own && first < start + len && last >= start).then(|| pid.parse().ok())?
    };
    let mut pids: Vec<u32> = locks.lines().filter_map(holder).collect();
    pids.sort_unstable();
    pids.dedup();
    pids
}

/// Takes an exclusive `flock` on a whole file without waiting; `false` when another process holds it. It goes with the
/// descriptor, so a killed process never leaves it behind.
pub fn claim(file: &File) -> io::Result<bool> {
    // SAFETY: the descriptor is open for as long as `file` is borrowed.
    if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0 {
        return Ok(true);
    }
    let e = io::Error::last_os_error();
    if e.raw_os_error() == Some(libc::EWOULDBLOCK) { Ok(false) } else { Err(e) }
}

/// Claims a file or folder of a name that nobody else uses, which this process has just made and will remove: until `file` is
/// closed it is no leftover. `false`: somebody was faster and took it for one; make another. Where the file system has no
/// such locks, nobody can take it for one.
pub fn claim_own(path: &Path, file: &File) -> bool {
    claim(file).map_or(true, |is_claimed| is_claimed && path.symlink_metadata().is_ok())
}

/// Claims what a killed process has left; `None` while whoever made it is at work, or where that cannot be told.
pub fn claim_leftover(path: &Path) -> Option<File> {
    let file = File::open(path).ok()?;
    claim(&file).is_ok_and(|is_claimed| is_claimed).then_some(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holders_are_read_from_the_kernels_list() {
        let locks = "1: POSIX  ADVISORY  READ 4711 fe:01:99 124 124\n\
                     2: POSIX  ADVISORY  READ 4711 fe:01:99 125 125\n\
                     2: -> POSIX  ADVISORY  WRITE 4713 fe:01:99 124 124\n\
                     3: OFDLCK ADVISORY  READ -1 fe:01:99 124 124\n\
                     4: POSIX  ADVISORY  WRITE 4712 fe:01:99 120 120\n\
                     5: POSIX  ADVISORY  READ 4714 fe:01:98 124 124\n\
                     6: POSIX  ADVISORY  WRITE 4715 fe:01:99 0 EOF\n\
                     7: FLOCK  ADVISORY  WRITE 4716 fe:01:99 0 EOF\n";
        assert_eq!(listed(locks, 99, 123, 5), [4711, 4715]);
    }

    #[test]
    fn ranges_conflict_between_descriptors_and_end_with_them() {
        let f = tempfile::NamedTempFile::new().unwrap();
        let open = || File::options().read(true).write(true).open(f.path()).unwrap();
        let (a, b) = (open(), open());
        assert!(share(&a, 123, 1).unwrap());
        assert!(share(&b, 123, 1).unwrap());
        assert!(!exclude(&b, 123, 1).unwrap());
        assert!(exclude(&b, 124, 1).unwrap());
        assert!(holder(&a, 124, 1).unwrap().is_some());
        release(&a, 123, 1).unwrap();
        assert!(exclude(&b, 123, 1).unwrap());
        drop(b);
        assert_eq!(holder(&a, 0, 200).unwrap(), None);
    }

    #[test]
    fn a_claim_excludes_another_descriptor() {
        let f = tempfile::NamedTempFile::new().unwrap();
        let a = File::open(f.path()).unwrap();
        let b = File::open(f.path()).unwrap();
        assert!(claim(&a).unwrap());
        assert!(!claim(&b).unwrap());
        drop(a);
        assert!(claim(&b).unwrap());
    }

    #[test]
    fn a_leftover_is_what_nobody_is_at_work_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("folder");
        std::fs::create_dir(&path).unwrap();
        let own = File::open(&path).unwrap();
        assert!(claim_own(&path, &own));
        assert!(claim_leftover(&path).is_none());
        drop(own);
        let late = File::open(&path).unwrap();
        let leftover = claim_leftover(&path).unwrap();
        assert!(!claim_own(&path, &late), "somebody is about to remove it");
        std::fs::remove_dir(&path).unwrap();
        drop(leftover);
        assert!(!claim_own(&path, &late), "it was removed");
        assert!(claim_leftover(&path).is_none());
    }
}
