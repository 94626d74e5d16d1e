//! What std's files lack: reads that go on until the end, a rename that never replaces, names beside a name.

#![allow(unsafe_code)] // renameat2 has no safe form in std

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The path whose name goes on with a suffix: `app.db` and `-wal` give `app.db-wal`.
pub fn sibling(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Reads until `bytes` is full or the file ends. Returns how many bytes that were.
pub fn read_up_to(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut n = 0;
    while n < bytes.len() {
        match file.read_at(&mut bytes[n..], offset + n as u64) {
            Ok(0) => break,
            Ok(read) => n += read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(n)
}

/// Fills `bytes`; what lies beyond the file's end is zero.
pub fn read_or_zero(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    let n = read_up_to(file, bytes, offset)?;
    bytes[n..].fill(0);
    Ok(())
}

/// Gives a file a content, whole and durable, or leaves it as it was. A crash may leave a file beside it whose name ends in `.partial`.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    replace_with(path, content, File::sync_all)
}

/// As [`replace`], for what means nothing after the machine went down: it is not waited for the disk.
pub fn replace_until_reboot(path: &Path, content: &[u8]) -> io::Result<()> {
    replace_with(path, content, |_| Ok(()))
}

fn replace_with(path: &Path, content: &[u8], settle: fn(&File) -> io::Result<()>) -> io::Result<()> {
    let partial = sibling(path, ".partial");
    let mut file = File::create(&partial)?;
    file.write_all(content)?;
    settle(&file)?;
    std::fs::rename(&partial, path)
}

/// Renames; `AlreadyExists` when the name is taken, even when it was taken a moment ago.
pub fn rename_if_absent(from: &Path, to: &Path) -> io::Result<()> {
    let c = |path: &Path| CString::new(path.as_os_str().as_bytes());
    let (c_from, c_to) = (c(from)?, c(to)?);
    // SAFETY: both strings end with NUL and outlive the call.
    let renamed = unsafe {
        libc::renameat2(
            libc::AT_FDCWD,
            c_from.as_ptr(),
            libc::AT_FDCWD,
            c_to.as_ptr(),
            libc::RENAME_NOREPLACE,
        )
    };
    if renamed == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        // File systems without the flag (NFS, some FUSE) say EINVAL, old kernels ENOSYS.
        Some(libc::EINVAL | libc::ENOSYS | libc::EOPNOTSUPP) => link_if_absent(from, to),
        _ => Err(error),
    }
}

/// The same promise from a hard link, which never replaces.
fn link_if_absent(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::hard_link(from, to)?;
    // The new name stands; a second one that cannot be removed does not undo that.
    let _ = std::fs::remove_file(from);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_end_with_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, b"0123456789").unwrap();
        let file = File::open(&path).unwrap();
        for (offset, text) in [(0, &b"0123"[..]), (8, b"89"), (10, b""), (99, b"")] {
            let mut bytes = [b'x'; 4];
            assert_eq!(read_up_to(&file, &mut bytes, offset).unwrap(), text.len());
            assert_eq!(&bytes[..text.len()], text);
            assert!(bytes[text.len()..].iter().all(|b| *b == b'x'), "not read, not touched");
            read_or_zero(&file, &mut bytes, offset).unwrap();
            assert_eq!(&bytes[..text.len()], text);
            assert!(bytes[text.len()..].iter().all(|b| *b == 0));
        }
        let folder = File::open(dir.path()).unwrap();
        assert!(read_up_to(&folder, &mut [0], 0).is_err(), "a failure is not the end of the file");
    }

    #[test]
    fn a_name_is_given_once() {
        for rename in [rename_if_absent, link_if_absent] {
            let dir = tempfile::tempdir().unwrap();
            let [a, b, to] = ["a", "b", "to"].map(|name| dir.path().join(name));
            std::fs::write(&a, "first").unwrap();
            std::fs::write(&b, "second").unwrap();
            rename(&a, &to).unwrap();
            assert_eq!(rename(&b, &to).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
            assert_eq!(std::fs::read(&to).unwrap(), b"first");
            assert!(!a.exists());
            assert!(b.exists());
            assert_eq!(rename(&a, &dir.path().join("c")).unwrap_err().kind(), io::ErrorKind::NotFound);
        }
    }
}
