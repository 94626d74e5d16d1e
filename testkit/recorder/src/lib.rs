//! A library for LD_PRELOAD that records what a process does to files, for `litekeep_testkit::power_cut`.
//!
//! Each process appends to a file of its own in the folder named by `LITEKEEP_RECORD_DIR`. A record is a header of seven
//! little-endian 64-bit words and two byte strings (see `power_cut::record` for the reader):
//!
//! ```text
//! kind | begin ns | end ns | file | offset or size | length a | length b | a ... | b ...
//! ```
//!
//! `begin` and `end` are CLOCK_MONOTONIC around the operation, so records of several processes have an order; `file`
//! is the inode number mixed with its birth time, since inode numbers are used again. Failed operations are not
//! recorded. fsync and fdatasync are recorded and not done: the power is cut in the replay only, and the tests are
//! faster. Copies inside the kernel are refused with ENOSYS, upon which callers copy by read and write. Writes through
//! mmap are not seen: of SQLite's files only `-shm` is written so, which no power cut leaves.
//!
//! For `litekeep_testkit::hanging_folder`: an fsync of anything below the folder `LITEKEEP_HANG_DIR`, or a listing there, ends
//! only while there is no file of that name with `.hangs` at its end.
#![allow(unsafe_code, reason = "stands in for libc's functions")]
#![allow(missing_docs, reason = "the functions are libc's own")]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::atomic::{AtomicI32, AtomicI64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use libc::{mode_t, off_t, size_t, ssize_t};

const WRITE: u64 = 1;
const RESIZE: u64 = 2;
const SYNC: u64 = 3;
const ENTRY: u64 = 4;
const RENAME: u64 = 5;
const REMOVE: u64 = 6;
const MAKE_DIR: u64 = 7;

/// Declares stand-ins: `real!(name(arguments) -> result)` calls the function of that name that comes after us.
macro_rules! real {
    ($name:ident ( $($value:expr => $kind:ty),* ) -> $result:ty) => {{
        static REAL: OnceLock<usize> = OnceLock::new();
        let address = *REAL.get_or_init(|| {
            // SAFETY: the name is a C string; the result is an address or null.
            unsafe { libc::dlsym(libc::RTLD_NEXT, concat!(stringify!($name), "\0").as_ptr().cast()) as usize }
        });
        if address == 0 {
            set_errno(libc::ENOSYS);
            -1
        } else {
            // SAFETY: libc's function of this name has this type, and the caller kept its contract.
            unsafe { std::mem::transmute::<usize, unsafe extern "C" fn($($kind),*) -> $result>(address)($($value),*) }
        }
    }};
}

fn set_errno(code: c_int) {
    // SAFETY: the address of the thread's own errno.
    unsafe { *libc::__errno_location() = code };
}

fn errno() -> c_int {
    // SAFETY: the address of the thread's own errno.
    unsafe { *libc::__errno_location() }
}

fn now() -> i64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` may be written to.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

/// The descriptor of this process's log, -1 when nothing is to be recorded.
fn log() -> c_int {
    static LOG: AtomicI32 = AtomicI32::new(-1);
    static OWNER: AtomicI64 = AtomicI64::new(0);
    // SAFETY: takes nothing.
    let pid = i64::from(unsafe { libc::getpid() });
    // A forked child would share the log: it opens its own.
    if OWNER.swap(pid, Ordering::AcqRel) != pid {
        LOG.store(open_log(pid), Ordering::Release);
    }
    LOG.load(Ordering::Acquire)
}

fn open_log(pid: i64) -> c_int {
    // SAFETY: the name is a C string; nobody changes the environment of the programs under test.
    let dir = unsafe { libc::getenv(c"LITEKEEP_RECORD_DIR".as_ptr()) };
    if dir.is_null() {
        return -1;
    }
    // SAFETY: getenv returned a C string.
    let mut path = unsafe { CStr::from_ptr(dir) }.to_bytes().to_vec();
    path.extend_from_slice(format!("/{pid}-{}\0", now()).as_bytes());
    let flags = libc::O_CREAT | libc::O_APPEND | libc::O_WRONLY | libc::O_CLOEXEC;
    real!(open(path.as_ptr().cast() => *const c_char, flags => c_int, 0o600 => mode_t) -> c_int)
}

/// Appends one record in one write, so that records of threads do not mix.
fn record(kind: u64, begin: i64, file: u64, offset: u64, a: &[u8], b: &[u8]) {
    let kept = errno();
    let descriptor = log();
    if descriptor >= 0 {
        let words = [kind, begin as u64, now() as u64, file, offset, a.len() as u64, b.len() as u64];
        let mut header = [0; 56];
        for (place, word) in header.chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        let parts = [&header[..], a, b].map(|part| libc::iovec {
            iov_base: part.as_ptr().cast_mut().cast::<c_void>(),
            iov_len: part.len(),
        });
        real!(writev(descriptor => c_int, parts.as_ptr() => *const libc::iovec, 3 => c_int) -> ssize_t);
    }
    set_errno(kept);
}

/// What a file is called in records; `None` for anything but files and folders.
fn identity(dir: c_int, path: &CStr, flags: c_int) -> Option<u64> {
    let kept = errno();
    // SAFETY: all zeros is a value of this struct of integers.
    let mut status: libc::statx = unsafe { std::mem::zeroed() };
    let mask = libc::STATX_INO | libc::STATX_BTIME | libc::STATX_TYPE;
    // SAFETY: `path` is a C string and `status` may be written to.
    let result = unsafe { libc::statx(dir, path.as_ptr(), flags, mask, &mut status) };
    set_errno(kept);
    let kind = u32::from(status.stx_mode) & libc::S_IFMT;
    if result != 0 || (kind != libc::S_IFREG && kind != libc::S_IFDIR) {
        return None;
    }
    let birth = (status.stx_btime.tv_sec as u64) << 30 ^ u64::from(status.stx_btime.tv_nsec);
    Some(status.stx_ino ^ birth.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

fn of_descriptor(descriptor: c_int) -> Option<u64> {
    identity(descriptor, c"", libc::AT_EMPTY_PATH)
}

/// The absolute form of a path that a caller gave.
///
/// # Safety
/// `path` is a C string.
unsafe fn absolute(dir: c_int, path: *const c_char) -> Vec<u8> {
    // SAFETY: the caller's promise.
    let path = unsafe { CStr::from_ptr(path) }.to_bytes();
    if path.starts_with(b"/") {
        return path.to_vec();
    }
    let link =
        if dir == libc::AT_FDCWD { "/proc/self/cwd\0".to_owned() } else { format!("/proc/self/fd/{dir}\0") };
    let mut base = vec![0u8; 4096];
    // SAFETY: `link` is a C string and `base` has that many bytes.
    let length = unsafe { libc::readlink(link.as_ptr().cast(), base.as_mut_ptr().cast(), base.len()) };
    base.truncate(usize::try_from(length).unwrap_or(0));
    [&base, path].join(&b'/')
}

/// # Safety
/// `path` is a C string.
unsafe fn opened(dir: c_int, path: *const c_char, flags: c_int, begin: i64, descriptor: c_int) {
    if descriptor < 0 || flags & (libc::O_CREAT | libc::O_TRUNC) == 0 {
        return;
    }
    let kept = errno();
    if let Some(file) = of_descriptor(descriptor) {
        if flags & libc::O_CREAT != 0 {
            // SAFETY: the caller's promise.
            record(ENTRY, begin, file, 0, &unsafe { absolute(dir, path) }, b"");
        }
        if flags & libc::O_TRUNC != 0 {
            record(RESIZE, begin, file, 0, b"", b"");
        }
    }
    set_errno(kept);
}

/// # Safety
/// `data` has `length` bytes, of which `written` were written at `offset`.
unsafe fn wrote(descriptor: c_int, begin: i64, data: *const c_void, written: ssize_t, offset: off_t) {
    let Ok(length @ 1..) = usize::try_from(written) else { return };
    if let Some(file) = of_descriptor(descriptor) {
        // SAFETY: the caller's promise.
        let data = unsafe { std::slice::from_raw_parts(data.cast::<u8>(), length) };
        record(WRITE, begin, file, offset as u64, data, b"");
    }
}

/// Writes by `done` at a descriptor's own offset, and says where that was and how much was written.
///
/// Threads that share the descriptor take turns, since each write moves the offset that is asked for after it. Only at
/// files: a pipe may block, and a forked child writes to one before it has its own program.
fn written_at_own_offset(fd: c_int, done: impl FnOnce() -> ssize_t) -> (ssize_t, off_t) {
    static TURN: Mutex<()> = Mutex::new(());
    if of_descriptor(fd).is_none() {
        return (done(), 0);
    }
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let done = done();
    // SAFETY: takes numbers only.
    let end = if done > 0 { unsafe { libc::lseek(fd, 0, libc::SEEK_CUR) } } else { 0 };
    (done, end - done as off_t)
}

/// # Safety
/// As libc's function of this name.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn write(fd: c_int, data: *const c_void, length: size_t) -> ssize_t {
    let begin = now();
    let (done, offset) = written_at_own_offset(
        fd,
        || real!(write(fd => c_int, data => *const c_void, length => size_t) -> ssize_t),
    );
    // SAFETY: so many bytes of the caller's were written.
    unsafe { wrote(fd, begin, data, done, offset) };
    done
}

/// # Safety
/// As libc's function of this name.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn writev(fd: c_int, parts: *const libc::iovec, count: c_int) -> ssize_t {
    let begin = now();
    let (done, mut offset) = written_at_own_offset(
        fd,
        || real!(writev(fd => c_int, parts => *const libc::iovec, count => c_int) -> ssize_t),
    );
    let mut left = done;
    // SAFETY: the caller's parts, since their writing succeeded.
    let parts = if done > 0 { unsafe { std::slice::from_raw_parts(parts, count as usize) } } else { &[] };
    for part in parts {
        let length = left.min(part.iov_len as ssize_t);
        // SAFETY: so many bytes of the part were written.
        unsafe { wrote(fd, begin, part.iov_base, length, offset) };
        (offset, left) = (offset + length as off_t, left - length);
    }
    done
}

macro_rules! stand_in {
    ($(fn $name:ident($($value:ident: $kind:ty),*) -> $result:ty, |$begin:ident, $done:ident| $after:expr;)*) => {$(
        /// # Safety
        /// As libc's function of this name.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($value: $kind),*) -> $result {
            let $begin = now();
            let $done: $result = real!($name($($value => $kind),*) -> $result);
            if $done >= 0 {
                // SAFETY: the arguments are the caller's, who keeps the contract of libc's function.
                #[allow(unused_unsafe, reason = "not every one needs it")]
                unsafe { $after }
            }
            $done
        }
    )*};
}

stand_in! {
    fn open(path: *const c_char, flags: c_int, mode: mode_t) -> c_int,
        |begin, fd| opened(libc::AT_FDCWD, path, flags, begin, fd);
    fn open64(path: *const c_char, flags: c_int, mode: mode_t) -> c_int,
        |begin, fd| opened(libc::AT_FDCWD, path, flags, begin, fd);
    fn openat(dir: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int,
        |begin, fd| opened(dir, path, flags, begin, fd);
    fn openat64(dir: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int,
        |begin, fd| opened(dir, path, flags, begin, fd);
    fn pwrite(fd: c_int, data: *const c_void, length: size_t, offset: off_t) -> ssize_t,
        |begin, done| wrote(fd, begin, data, done, offset);
    fn pwrite64(fd: c_int, data: *const c_void, length: size_t, offset: off_t) -> ssize_t,
        |begin, done| wrote(fd, begin, data, done, offset);
    fn ftruncate(fd: c_int, size: off_t) -> c_int, |begin, _done| resized(fd, begin, size);
    fn ftruncate64(fd: c_int, size: off_t) -> c_int, |begin, _done| resized(fd, begin, size);
    fn rename(from: *const c_char, to: *const c_char) -> c_int,
        |begin, _done| renamed(libc::AT_FDCWD, from, libc::AT_FDCWD, to, begin);
    fn renameat(from_dir: c_int, from: *const c_char, to_dir: c_int, to: *const c_char) -> c_int,
        |begin, _done| renamed(from_dir, from, to_dir, to, begin);
    fn renameat2(from_dir: c_int, from: *const c_char, to_dir: c_int, to: *const c_char, flags: u32) -> c_int,
        |begin, _done| renamed(from_dir, from, to_dir, to, begin);
    fn link(from: *const c_char, to: *const c_char) -> c_int, |begin, _done| linked(libc::AT_FDCWD, to, begin);
    fn linkat(from_dir: c_int, from: *const c_char, to_dir: c_int, to: *const c_char, flags: c_int) -> c_int,
        |begin, _done| linked(to_dir, to, begin);
    fn unlink(path: *const c_char) -> c_int,
        |begin, _done| record(REMOVE, begin, 0, 0, &absolute(libc::AT_FDCWD, path), b"");
    fn unlinkat(dir: c_int, path: *const c_char, flags: c_int) -> c_int,
        |begin, _done| record(REMOVE, begin, 0, 0, &absolute(dir, path), b"");
    fn rmdir(path: *const c_char) -> c_int,
        |begin, _done| record(REMOVE, begin, 0, 0, &absolute(libc::AT_FDCWD, path), b"");
    fn mkdir(path: *const c_char, mode: mode_t) -> c_int,
        |begin, _done| record(MAKE_DIR, begin, 0, 0, &absolute(libc::AT_FDCWD, path), b"");
}

fn resized(fd: c_int, begin: i64, size: off_t) {
    if let Some(file) = of_descriptor(fd) {
        record(RESIZE, begin, file, size as u64, b"", b"");
    }
}

/// # Safety
/// Both are C strings.
unsafe fn renamed(from_dir: c_int, from: *const c_char, to_dir: c_int, to: *const c_char, begin: i64) {
    // SAFETY: the caller's promise.
    let (from, to) = unsafe { (absolute(from_dir, from), absolute(to_dir, to)) };
    record(RENAME, begin, 0, 0, &from, &to);
}

/// # Safety
/// `to` is a C string.
unsafe fn linked(to_dir: c_int, to: *const c_char, begin: i64) {
    // SAFETY: the caller's promise.
    let (name, path) = unsafe { (CStr::from_ptr(to), absolute(to_dir, to)) };
    if let Some(file) = identity(to_dir, name, 0) {
        record(ENTRY, begin, file, 0, &path, b"");
    }
}

/// Waits while the folder hangs that a path is in, which is taken from an open folder.
///
/// # Safety
/// `path` is a C string.
unsafe fn wait_for_folder(at: c_int, path: *const c_char) {
    // SAFETY: the name is a C string; nobody changes the environment of the programs under test.
    let dir = unsafe { libc::getenv(c"LITEKEEP_HANG_DIR".as_ptr()) };
    if dir.is_null() {
        return;
    }
    // SAFETY: getenv returned a C string.
    let dir = unsafe { CStr::from_ptr(dir) }.to_bytes();
    // SAFETY: the caller's promise.
    if !unsafe { absolute(at, path) }.starts_with(dir) {
        return;
    }
    let flag = [dir, b".hangs\0"].concat();
    // SAFETY: `flag` is a C string.
    while unsafe { libc::access(flag.as_ptr().cast(), libc::F_OK) } == 0 {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

fn synced(fd: c_int) -> c_int {
    // SAFETY: an empty path is a C string.
    unsafe { wait_for_folder(fd, c"".as_ptr()) };
    match of_descriptor(fd) {
        Some(file) => {
            record(SYNC, now(), file, 0, b"", b"");
            0
        }
        None => {
            set_errno(libc::EINVAL);
            -1
        }
    }
}

/// Returns an address.
///
/// # Safety
/// As libc's function of this name.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn opendir(path: *const c_char) -> isize {
    // SAFETY: the caller's promise.
    unsafe { wait_for_folder(libc::AT_FDCWD, path) };
    real!(opendir(path => *const c_char) -> isize)
}

/// # Safety
/// As libc's function of this name.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fsync(fd: c_int) -> c_int {
    synced(fd)
}

/// # Safety
/// As libc's function of this name.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdatasync(fd: c_int) -> c_int {
    synced(fd)
}

/// # Safety
/// As libc's function of this name.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn copy_file_range(
    _from: c_int,
    _from_offset: *mut off_t,
    _to: c_int,
    _to_offset: *mut off_t,
    _length: size_t,
    _flags: u32,
) -> ssize_t {
    set_errno(libc::ENOSYS);
    -1
}

/// # Safety
/// As libc's function of this name.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sendfile64(
    _to: c_int,
    _from: c_int,
    _offset: *mut off_t,
    _length: size_t,
) -> ssize_t {
    set_errno(libc::ENOSYS);
    -1
}

/// # Safety
/// As libc's function of this name.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fallocate64(_fd: c_int, _mode: c_int, _offset: off_t, _length: off_t) -> c_int {
    set_errno(libc::EOPNOTSUPP);
    -1
}
