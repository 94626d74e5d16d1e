//! Making a file appear whole, durable and only once.
//!
//! Promises:
//! - A name shows either nothing or all the bytes, also to other processes and after a power cut.
//! - When a call returns, the bytes, the modification time, the name and the folders above it are on the disk.
//! - Without leave to overwrite, of all who publish one name exactly one wins, across threads, processes and hosts.
//!
//! A crash leaves behind at most a `*.tmp` file beside the name; listings remove it after an hour.

#![allow(unsafe_code)] // sync_file_range has no safe form in std

pub(crate) use litekeep_env::disk::sync_dir as sync_folder;
use litekeep_env::file::rename_if_absent;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

/// The end of the names of unfinished files.
pub(crate) const TEMPORARY_SUFFIX: &str = ".tmp";

/// Whether a name is that of an unfinished file of ours, `NAME.<hex>-<hex>.tmp`: other programs have `*.tmp` files too.
pub(crate) fn is_temporary(name: &str) -> bool {
    let Some((_, end)) = name.strip_suffix(TEMPORARY_SUFFIX).and_then(|n| n.rsplit_once('.')) else {
        return false;
    };
    let is_hex = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_hexdigit());
    end.split_once('-').is_some_and(|(pid, serial)| is_hex(pid) && is_hex(serial))
}

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
            published(rename_if_absent(&self.path, target))?
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

/// Whether a rename that replaces nothing found the name free.
fn published(renamed: io::Result<()>) -> io::Result<Published> {
    match renamed {
        Ok(()) => Ok(Published::Written),
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

/// The folder of a path, `.` where it has none.
pub(crate) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    }
}

fn system_time(ms: i64) -> SystemTime {
    let distance = Duration::from_millis(ms.unsigned_abs());
    if ms >= 0 { SystemTime::UNIX_EPOCH + distance } else { SystemTime::UNIX_EPOCH - distance }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_temporary_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let t = Temporary::beside(&dir.path().join("x")).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        let name = t.path.file_name().unwrap().to_str().unwrap().to_owned();
        assert!(
            is_temporary(&name) && !is_temporary("00000001.wal.lz4.tmp") && !is_temporary("a.tmp"),
            "{name}"
        );
        drop(t);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
