//! Following directories with one inotify descriptor for the whole process.
//!
//! Directories are watched and not files: the kernel withholds DELETE_SELF of a file that somebody still has open, and
//! one watch serves every database of a folder. After a queue overflow the caller sees [`Event::Overflow`] and must look
//! at everything once.

#![allow(unsafe_code)] // inotify has no safe form in std

use std::collections::HashMap;
use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

/// What happened to a name in a watched directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The content of a file changed.
    Modified(PathBuf),
    /// A name appeared: created, linked or moved in.
    Appeared(PathBuf),
    /// A name went away: deleted or moved out.
    Vanished(PathBuf),
    /// Events were lost.
    Overflow,
}

/// One inotify descriptor with the directories it watches.
#[derive(Debug)]
pub struct Watcher {
    fd: OwnedFd,
    dirs: Mutex<HashMap<i32, Dir>>,
}

#[derive(Debug)]
struct Dir {
    path: PathBuf,
    /// How often somebody has asked for it.
    asked: u32,
}

/// Bytes of an event with the longest name: `struct inotify_event` and `NAME_MAX + 1`.
const LONGEST_EVENT: usize = 16 + 256;

const MASK: u32 = libc::IN_MODIFY
    | libc::IN_CREATE
    | libc::IN_DELETE
    | libc::IN_MOVED_FROM
    | libc::IN_MOVED_TO
    | libc::IN_ONLYDIR;

impl Watcher {
    /// Watches nothing yet.
    pub fn new() -> io::Result<Watcher> {
        // SAFETY: a plain system call; the result is checked before it is owned.
        let fd = unsafe { libc::inotify_init1(libc::IN_CLOEXEC | libc::IN_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` is a fresh descriptor that nobody else owns.
        Ok(Watcher { fd: unsafe { OwnedFd::from_raw_fd(fd) }, dirs: Mutex::default() })
    }

    /// Watches a directory; again is harmless.
    pub fn add(&self, dir: &Path) -> io::Result<()> {
        let c = CString::new(dir.as_os_str().as_bytes())?;
        // Held across the call, so that an event of the new watch finds its directory.
        let mut dirs = self.dirs.lock().expect("no panic while held");
        // SAFETY: `c` is a NUL-terminated path that outlives the call.
        let wd = unsafe { libc::inotify_add_watch(self.fd.as_raw_fd(), c.as_ptr(), MASK) };
        if wd < 0 {
            let e = io::Error::last_os_error();
            return Err(match e.raw_os_error() {
                Some(libc::ENOSPC) => io::Error::other(
                    "the kernel's limit on watched directories is reached; raise it with `sysctl fs.inotify.max_user_watches=524288`",
                ),
                _ => e,
            });
        }
        dirs.entry(wd).or_insert(Dir { path: dir.to_owned(), asked: 0 }).asked += 1;
        Ok(())
    }

    /// Whether a directory that is to be watched is watched: `false` when its path leads to another one since, which is watched from
    /// now on, as often as it was asked for. Neither renaming a directory nor another one in its place raises an event in it.
    ///
    /// # Errors
    /// When there is none; the one that was there is watched on.
    pub fn refresh(&self, dir: &Path) -> io::Result<bool> {
        let c = CString::new(dir.as_os_str().as_bytes())?;
        let mut dirs = self.dirs.lock().expect("no panic while held");
        let known = dirs.iter().find(|(_, known)| known.path == dir).map(|(wd, known)| (*wd, known.asked));
        let add = |mask| {
            // SAFETY: `c` is a NUL-terminated path that outlives the call.
            let wd = unsafe { libc::inotify_add_watch(self.fd.as_raw_fd(), c.as_ptr(), mask) };
            if wd < 0 { Err(io::Error::last_os_error()) } else { Ok(wd) }
        };
        // Changes nothing of one that is known, which may be muted.
        let wd = add(MASK & !libc::IN_MODIFY | libc::IN_MASK_ADD)?;
        if known.is_some_and(|(known, _)| known == wd) {
            return Ok(true);
        }
        add(MASK)?;
        if let Some((former, _)) = known {
            dirs.remove(&former);
            // SAFETY: a plain system call; a watch that the kernel ended already is an error that nobody needs.
            unsafe { libc::inotify_rm_watch(self.fd.as_raw_fd(), former) };
        }
        let asked = known.map_or(1, |(_, asked)| asked);
        dirs.insert(wd, Dir { path: dir.to_owned(), asked });
        Ok(false)
    }

    /// Tells of no [`Event::Modified`] in a directory any more, or tells of them again; `false`: not so, for others have asked for it, too.
    /// Each event costs whoever writes the file a microsecond, which is of no use while the file is looked at anyway.
    pub fn mute(&self, dir: &Path, is_muted: bool) -> bool {
        let Ok(c) = CString::new(dir.as_os_str().as_bytes()) else { return false };
        // Held across the call: who asks from now on hears of everything.
        let dirs = self.dirs.lock().expect("no panic while held");
        let Some((known, _)) = dirs.iter().find(|(_, known)| known.path == dir && known.asked == 1) else {
            return false;
        };
        let mask = if is_muted { MASK & !libc::IN_MODIFY } else { MASK };
        // SAFETY: `c` is a NUL-terminated path that outlives the call.
        let wd = unsafe { libc::inotify_add_watch(self.fd.as_raw_fd(), c.as_ptr(), mask) };
        wd == *known
    }

    /// Watches a directory and everything that was watched below it no more.
    pub fn remove(&self, dir: &Path) {
        let mut dirs = self.dirs.lock().expect("no panic while held");
        dirs.retain(|wd, watched| {
            let goes = watched.path.starts_with(dir);
            if goes {
                // SAFETY: a plain system call; a watch that the kernel ended already is an error that nobody needs.
                unsafe { libc::inotify_rm_watch(self.fd.as_raw_fd(), *wd) };
            }
            !goes
        });
    }

    /// Waits until something happened or the time is over; `false` after the time.
    pub fn wait(&self, timeout: Option<Duration>) -> io::Result<bool> {
        let ms = timeout.map_or(-1, |t| t.as_millis().min(i32::MAX as u128) as i32);
        let mut p = libc::pollfd { fd: self.fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: `p` is one valid pollfd.
        let r = unsafe { libc::poll(&mut p, 1, ms) };
        match r {
            0 => Ok(false),
            n if n > 0 => Ok(true),
            _ => {
                let e = io::Error::last_os_error();
                if e.kind() == io::ErrorKind::Interrupted { Ok(false) } else { Err(e) }
            }
        }
    }

    /// Hands every queued event to `f`, without waiting. One that comes meanwhile may stay for the next call.
    pub fn drain(&self, mut f: impl FnMut(Event)) -> io::Result<()> {
        let mut buf = [0u64; 4096];
        loop {
            let len = std::mem::size_of_val(&buf);
            // SAFETY: the buffer is writable for `len` bytes; inotify aligns its records to 4 bytes at most.
            let n = unsafe { libc::read(self.fd.as_raw_fd(), buf.as_mut_ptr().cast(), len) };
            if n < 0 {
                let e = io::Error::last_os_error();
                return match e.kind() {
                    io::ErrorKind::WouldBlock => Ok(()),
                    io::ErrorKind::Interrupted => continue,
                    _ => Err(e),
                };
            }
            // SAFETY: `n` bytes of the buffer were written by the kernel.
            let mut bytes = unsafe { std::slice::from_raw_parts(buf.as_ptr().cast::<u8>(), n as usize) };
            while bytes.len() >= 16 {
                let word =
                    |i: usize| u32::from_ne_bytes(bytes[4 * i..4 * i + 4].try_into().expect("4 bytes"));
                let (wd, mask, name_len) = (word(0) as i32, word(1), word(3) as usize);
                let name = bytes[16..16 + name_len].split(|b| *b == 0).next().unwrap_or_default();
                self.translate(wd, mask, OsStr::from_bytes(name), &mut f);
                bytes = &bytes[16 + name_len..];
            }
            // The kernel fills the buffer as far as events fit, so that room for the longest one means there is no more.
            if (n as usize) < len - LONGEST_EVENT {
                return Ok(());
            }
        }
    }

    fn translate(&self, wd: i32, mask: u32, name: &OsStr, f: &mut impl FnMut(Event)) {
        if mask & libc::IN_Q_OVERFLOW != 0 {
            return f(Event::Overflow);
        }
        let mut dirs = self.dirs.lock().expect("no panic while held");
        if mask & libc::IN_IGNORED != 0 {
            // The directory itself went away.
            if let Some(dir) = dirs.remove(&wd) {
                drop(dirs);
                f(Event::Vanished(dir.path));
            }
            return;
        }
        let Some(dir) = dirs.get(&wd) else { return };
        let path = dir.path.join(OsString::from(name));
        drop(dirs);
        if mask & (libc::IN_CREATE | libc::IN_MOVED_TO) != 0 {
            f(Event::Appeared(path));
        } else if mask & (libc::IN_DELETE | libc::IN_MOVED_FROM) != 0 {
            f(Event::Vanished(path));
        } else if mask & libc::IN_MODIFY != 0 {
            f(Event::Modified(path));
        }
    }
}

impl AsFd for Watcher {
    /// Readable when something happened.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Watcher {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_watched_no_more_tells_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let below = dir.path().join("below");
        std::fs::create_dir(&below).unwrap();
        let w = Watcher::new().unwrap();
        w.add(dir.path()).unwrap();
        w.add(&below).unwrap();
        w.remove(&below);
        std::fs::write(below.join("a"), b"x").unwrap();
        std::fs::write(dir.path().join("b"), b"").unwrap();
        let mut seen = vec![];
        w.drain(|e| seen.push(e)).unwrap();
        assert_eq!(seen, [Event::Appeared(dir.path().join("b"))]);
    }

    #[test]
    fn what_is_muted_tells_of_names_only_and_never_where_two_have_asked() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        let w = Watcher::new().unwrap();
        assert!(!w.mute(dir.path(), true), "nobody has asked for it");
        w.add(dir.path()).unwrap();
        let heard = || {
            let mut seen = vec![];
            w.drain(|e| seen.push(e)).unwrap();
            seen
        };
        assert!(w.mute(dir.path(), true));
        std::fs::write(&a, b"x").unwrap();
        assert_eq!(heard(), [Event::Appeared(a.clone())]);
        assert!(w.mute(dir.path(), false));
        std::fs::write(&a, b"y").unwrap();
        assert!(heard().contains(&Event::Modified(a.clone())));
        assert!(w.mute(dir.path(), true));
        w.add(dir.path()).unwrap();
        std::fs::write(&b, b"x").unwrap();
        assert_eq!(heard(), [Event::Appeared(b.clone()), Event::Modified(b.clone())]);
        assert!(!w.mute(dir.path(), true));
        std::fs::write(&b, b"y").unwrap();
        assert!(heard().contains(&Event::Modified(b)));
    }

    #[test]
    fn another_directory_under_the_same_name_is_watched() {
        let dir = tempfile::tempdir().unwrap();
        let (data, former) = (dir.path().join("data"), dir.path().join("former"));
        std::fs::create_dir(&data).unwrap();
        let w = Watcher::new().unwrap();
        w.add(&data).unwrap();
        let heard = || {
            let mut seen = vec![];
            w.drain(|e| seen.push(e)).unwrap();
            seen
        };
        assert!(w.mute(&data, true) && w.refresh(&data).unwrap());
        std::fs::write(data.join("a"), b"x").unwrap();
        assert_eq!(heard(), [Event::Appeared(data.join("a"))], "it stays muted");
        std::fs::rename(&data, &former).unwrap();
        assert!(w.refresh(&data).is_err());
        std::fs::create_dir(&data).unwrap();
        assert!(!w.refresh(&data).unwrap());
        assert!(w.refresh(&data).unwrap());
        std::fs::write(former.join("b"), b"x").unwrap();
        std::fs::write(data.join("c"), b"x").unwrap();
        let c = data.join("c");
        assert_eq!(heard(), [Event::Appeared(c.clone()), Event::Modified(c)]);
        std::fs::remove_dir_all(&data).unwrap();
        heard();
        std::fs::create_dir(&data).unwrap();
        assert!(!w.refresh(&data).unwrap());
        std::fs::write(data.join("d"), b"").unwrap();
        assert_eq!(heard(), [Event::Appeared(data.join("d"))]);
    }

    #[test]
    fn names_appear_change_and_vanish() {
        let dir = tempfile::tempdir().unwrap();
        let w = Watcher::new().unwrap();
        w.add(dir.path()).unwrap();
        let p = dir.path().join("a");
        std::fs::write(&p, b"x").unwrap();
        std::fs::rename(&p, dir.path().join("b")).unwrap();
        std::fs::remove_file(dir.path().join("b")).unwrap();
        let mut seen = vec![];
        assert!(w.wait(Some(Duration::from_secs(5))).unwrap());
        w.drain(|e| seen.push(e)).unwrap();
        let b = dir.path().join("b");
        let want = [
            Event::Appeared(p.clone()),
            Event::Modified(p.clone()),
            Event::Vanished(p),
            Event::Appeared(b.clone()),
            Event::Vanished(b),
        ];
        assert_eq!(seen, want);
    }
}
