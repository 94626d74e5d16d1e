//! Making a file appear whole, durable and only once.
//!
//! Promises:
//! - A name shows either nothing or all the bytes, also to other processes and after a power cut.
//! - When a call returns, the bytes, the modification time, the name and the folders above it are on the disk.
//! - Without leave to overwrite, of all who publish one name exactly one wins, across threads, processes and hosts.
//!
//! A crash leaves behind at most a `*.tmp` file beside the name; listings remove it after an hour.

#![allow(unsafe_code)] // renameat2 and sync_file_range have no safe wrapper in std.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

/// The end of the names of unfinished files.
pub(crate) const TEMPORARY_SUFFIX: &str = ".tmp";

/// Whether the name was free, or is left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Published {
    Written,
    /// The name was taken; what stands there is durable.
    Exists,
}

/// An unfinished file; dropping it removes it.
#[derive(Debug)]
pub(crate) struct Temporary {
    file: File,
    path: PathBuf,
    published: bool,
}

impl Temporary {
    /// An empty file beside `target`, whose folder must exist.
    pub(crate) fn beside(target: &Path) -> io::Result<Temporary> {
        // The process id tells processes of one host apart; `create_new` catches what it does not.
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        loop {
            let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
            let mut path = target.as_os_str().to_owned();
            path.push(format!(".{:x}-{serial:x}{TEMPORARY_SUFFIX}", std::process::id()));
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(file) => return Ok(Temporary { file, path: path.into(), published: false }),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
            }
        }
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Gives the file its name. `modified_ms` is the modification time it is to show, milliseconds since the epoch.
    pub(crate) fn publish(
        mut self,
        target: &Path,
        modified_ms: Option<i64>,
        overwrite: bool,
    ) -> io::Result<Published> {
        if let Some(ms) = modified_ms {
            // Before the fsync, so that the time is as durable as the bytes.
            self.file.set_modified(system_time(ms))?;
        }
        self.file.sync_all()?;
        let outcome = if overwrite {
            std::fs::rename(&self.path, target)?;
            Published::Written
        } else {
            rename_if_absent(&self.path, target)?
        };
        self.published = outcome == Published::Written;
        // Also when the name is taken: whoever wrote it may have died between its rename and this.
        sync_folder(parent(target))?;
        Ok(outcome)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.published {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Writes `slices` one after the other and publishes them as `target`.
pub(crate) fn put(
    target: &Path,
    slices: &[&[u8]],
    modified_ms: Option<i64>,
    overwrite: bool,
) -> io::Result<Published> {
    let temporary = Temporary::beside(target)?;
    for slice in slices {
        (&temporary.file).write_all(slice)?;
    }
    temporary.publish(target, modified_ms, overwrite)
}

fn rename_if_absent(from: &Path, to: &Path) -> io::Result<Published> {
    let (c_from, c_to) = (c_path(from)?, c_path(to)?);
    // SAFETY: both pointers are NUL-terminated strings that outlive the call.
    let rc = unsafe {
        libc::renameat2(
            libc::AT_FDCWD,
            c_from.as_ptr(),
            libc::AT_FDCWD,
            c_to.as_ptr(),
            libc::RENAME_NOREPLACE,
        )
    };
    if rc == 0 {
        return Ok(Published::Written);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EEXIST) => Ok(Published::Exists),
        // File systems without the flag (NFS, some FUSE) say EINVAL, old kernels ENOSYS.
        Some(libc::EINVAL | libc::ENOSYS | libc::EOPNOTSUPP) => link_if_absent(from, to),
        _ => Err(error),
    }
}

/// The same promise from a hard link, which never replaces.
fn link_if_absent(from: &Path, to: &Path) -> io::Result<Published> {
    match std::fs::hard_link(from, to) {
        Ok(()) => {
            let _ = std::fs::remove_file(from);
            Ok(Published::Written)
        }
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(Published::Exists),
        Err(e) => Err(e),
    }
}

/// Asks the kernel to begin writing these bytes to the disk, so that the fsync at the end of a large file finds
/// little left to do. It is only a hint; a failure means nothing.
pub(crate) fn start_writeback(file: &File, offset: u64, bytes: u64) {
    let (Ok(offset), Ok(bytes)) = (i64::try_from(offset), i64::try_from(bytes)) else { return };
    // SAFETY: the descriptor is open for the duration of the borrow; no memory is passed.
    let _ = unsafe { libc::sync_file_range(file.as_raw_fd(), offset, bytes, libc::SYNC_FILE_RANGE_WRITE) };
}

/// Makes the names in a folder durable.
pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// The folder of a path, `.` where it has none.
pub(crate) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    }
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::from)
}

fn system_time(ms: i64) -> SystemTime {
    let distance = Duration::from_millis(ms.unsigned_abs());
    if ms >= 0 { SystemTime::UNIX_EPOCH + distance } else { SystemTime::UNIX_EPOCH - distance }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hard_link_never_replaces() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b, to) = (dir.path().join("a"), dir.path().join("b"), dir.path().join("to"));
        std::fs::write(&a, "first").unwrap();
        std::fs::write(&b, "second").unwrap();
        assert_eq!(link_if_absent(&a, &to).unwrap(), Published::Written);
        assert_eq!(link_if_absent(&b, &to).unwrap(), Published::Exists);
        assert_eq!(std::fs::read(&to).unwrap(), b"first");
        assert!(!a.exists());
        assert!(b.exists());
    }

    #[test]
    fn a_dropped_temporary_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let t = Temporary::beside(&dir.path().join("x")).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        drop(t);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
