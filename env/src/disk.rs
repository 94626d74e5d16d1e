//! What lies under a path: file system, free space, the machine's boot.

#![allow(unsafe_code)] // statfs has no safe form in std

use std::collections::HashMap;
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// A file system, as far as it matters to SQLite's WAL mode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileSystem {
    /// Local: shared memory and locks work.
    Local(&'static str),
    /// Reachable from several machines or through another kernel: WAL's shared memory does not work across them.
    Shared {
        /// The file system's usual name.
        name: &'static str,
        /// Why WAL mode must not be used there, in one sentence.
        reason: &'static str,
    },
    /// A container's layered root: works, but goes away with the container.
    Overlay,
    /// A magic number that is not in the table; treated as local.
    Unknown(u64),
}

/// Magic numbers of `statfs(2)`.
pub fn file_system(path: &Path) -> io::Result<FileSystem> {
    let s = statfs(path)?;
    const NETWORK: &str = "WAL mode needs memory shared between all processes that use the file, which a network file system cannot give";
    const GUEST: &str = "the host's kernel and the guest's do not share memory maps and locks, so WAL mode can lose or tear commits";
    Ok(match s.f_type as u64 & 0xffff_ffff {
        0xef53 => FileSystem::Local("ext4"),
        0x5846_5342 => FileSystem::Local("xfs"),
        0x9123_683e => FileSystem::Local("btrfs"),
        0x0102_1994 => FileSystem::Local("tmpfs"),
        0x2fc1_2fc1 => FileSystem::Local("zfs"),
        0xf2f5_2010 => FileSystem::Local("f2fs"),
        0x794c_7630 => FileSystem::Overlay,
        0x6969 => FileSystem::Shared { name: "NFS (or EFS)", reason: NETWORK },
        0xff53_4d42 | 0xfe53_4d42 | 0x517b => FileSystem::Shared { name: "SMB/CIFS", reason: NETWORK },
        0x00c3_6400 => FileSystem::Shared { name: "CephFS", reason: NETWORK },
        0x6573_5546 => FileSystem::Shared { name: "FUSE (or virtiofs)", reason: GUEST },
        0x0102_1997 => FileSystem::Shared { name: "9p", reason: GUEST },
        0x786f_4256 => FileSystem::Shared { name: "vboxsf", reason: GUEST },
        n => FileSystem::Unknown(n),
    })
}

fn statfs(path: &Path) -> io::Result<libc::statfs> {
    let c = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: statfs is plain data for which all-zero bytes are valid; the path outlives the call.
    let mut s: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are valid for the call.
    if unsafe { libc::statfs(c.as_ptr(), &mut s) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(s)
}

/// Bytes free to an ordinary user and bytes in all, on the file system of `path`.
pub fn space(path: &Path) -> io::Result<(u64, u64)> {
    let s = statfs(path)?;
    Ok((s.f_bavail * s.f_bsize as u64, s.f_blocks * s.f_bsize as u64))
}

/// Identifies this boot of the machine: page cache contents survive a killed process, but not a new boot.
pub fn boot_id() -> [u8; 16] {
    static ID: OnceLock<[u8; 16]> = OnceLock::new();
    *ID.get_or_init(read_boot_id)
}

fn read_boot_id() -> [u8; 16] {
    let mut id = [0; 16];
    if let Ok(s) = std::fs::read_to_string("/proc/sys/kernel/random/boot_id") {
        let hex: Vec<u8> = s.bytes().filter(u8::is_ascii_hexdigit).collect();
        for (b, pair) in id.iter_mut().zip(hex.chunks_exact(2)) {
            *b = std::str::from_utf8(pair).ok().and_then(|p| u8::from_str_radix(p, 16).ok()).unwrap_or(0);
        }
    }
    id
}

/// Makes a directory's entries durable.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// How long it takes to make 4 KiB durable at the end of a file in this folder: so many measurements, sorted.
///
/// # Errors
/// When the folder cannot be written.
pub fn sync_latencies(dir: &Path, count: usize) -> io::Result<Vec<Duration>> {
    let path = dir.join(format!(".litekeep-sync-{:016x}", crate::random_u64()));
    let file = File::options().write(true).create_new(true).open(&path)?;
    let measured = (0..count).map(|_| {
        let begin = Instant::now();
        (&file).write_all(&[0x5a; 4096])?;
        file.sync_data()?;
        Ok(begin.elapsed())
    });
    let measured: io::Result<Vec<Duration>> = measured.collect();
    std::fs::remove_file(&path)?;
    let mut measured = measured?;
    measured.sort_unstable();
    Ok(measured)
}

/// For each of these files the processes that have it open for writing, as far as `/proc` shows them to this user; this process is left
/// out.
pub fn processes_that_may_write(paths: &[&Path]) -> Vec<Vec<u32>> {
    processes_where(paths, |process, descriptor| {
        let info = std::fs::read_to_string(process.join("fdinfo").join(descriptor)).unwrap_or_default();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
        let flags = flags.and_then(|flags| i32::from_str_radix(flags.trim(), 8).ok());
        flags.is_some_and(|flags| flags & libc::O_ACCMODE != libc::O_RDONLY)
    })
}

/// The processes that have a file open, as far as `/proc` shows them to this user; this process is left out.
pub fn processes_with_open(path: &Path) -> Vec<u32> {
    processes_where(&[path], |_, _| true).remove(0)
}

/// For each file those with a descriptor of it that is as wanted; it is told the process's folder and the descriptor's name. All
/// processes are looked at once.
fn processes_where(paths: &[&Path], is_wanted: impl Fn(&Path, &OsStr) -> bool) -> Vec<Vec<u32>> {
    let targets: Vec<Option<PathBuf>> = paths.iter().map(|path| path.canonicalize().ok()).collect();
    let mut found: HashMap<&Path, Vec<u32>> =
        targets.iter().flatten().map(|target| (target.as_path(), vec![])).collect();
    let me = std::process::id();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
        if pid == me {
            continue;
        }
        let process = entry.path();
        for fd in std::fs::read_dir(process.join("fd")).into_iter().flatten().flatten() {
            let Ok(target) = std::fs::read_link(fd.path()) else { continue };
            let Some(pids) = found.get_mut(target.as_path()) else { continue };
            if pids.last() != Some(&pid) && is_wanted(&process, &fd.file_name()) {
                pids.push(pid);
            }
        }
    }
    let of = |target: &Option<PathBuf>| target.as_deref().and_then(|target| found.get(target)).cloned();
    targets.iter().map(|target| of(target).unwrap_or_default()).collect()
}

/// The command line of a process, as far as `/proc` shows it to this user.
pub fn command_of(pid: u32) -> Option<String> {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let line = String::from_utf8_lossy(&line).trim_end_matches('\0').replace('\0', " ");
    (!line.is_empty()).then_some(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sync_takes_some_time() {
        let dir = tempfile::tempdir().unwrap();
        let measured = sync_latencies(dir.path(), 5).unwrap();
        assert!(measured.len() == 5 && measured.is_sorted() && measured[0] > Duration::ZERO, "{measured:?}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "the file is gone");
        assert!(sync_latencies(&dir.path().join("gone"), 1).is_err());
    }

    #[test]
    fn writers_are_told_from_readers() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let sleep = |stdin: File| std::process::Command::new("sleep").arg("60").stdin(stdin).spawn().unwrap();
        let mut reader = sleep(File::open(file.path()).unwrap());
        let mut writer = sleep(File::options().append(true).open(file.path()).unwrap());
        let all = processes_with_open(file.path());
        assert!(all.contains(&reader.id()) && all.contains(&writer.id()), "{all:?}");
        let other = tempfile::NamedTempFile::new().unwrap();
        let gone = Path::new("/no/such/file");
        let writers = processes_that_may_write(&[other.path(), file.path(), gone, file.path()]);
        assert_eq!(writers, [vec![], vec![writer.id()], vec![], vec![writer.id()]]);
        assert_eq!(command_of(writer.id()).as_deref(), Some("sleep 60"));
        for child in [&mut reader, &mut writer] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert_eq!(command_of(u32::MAX), None);
    }
}
