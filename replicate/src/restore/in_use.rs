//! Whether anybody has a database open: its files must not be exchanged under him.
//!
//! `/proc` names processes that this user may look at; locks tell of all others on this machine, containers included.

use crate::{Error, Kind};
use litekeep_env::file::sibling;
use litekeep_env::{disk, lock};
use litekeep_format::locks;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// What SQLite keeps beside a database: WAL, wal-index, rollback journal.
pub(super) const SIDECARS: [&str; 3] = ["-wal", "-shm", "-journal"];

/// Keeps everybody out of an existing database for as long as it lasts.
#[derive(Debug)]
pub(super) struct Exclusive {
    _database: Option<File>,
}

/// Makes sure that nobody has the database at `path` open, and that nobody can open it until the result is dropped.
///
/// # Errors
/// `Invalid`, naming the processes.
pub(super) fn exclude(path: &Path) -> Result<Exclusive, Error> {
    let files: Vec<PathBuf> =
        [""].iter().chain(&SIDECARS).map(|s| sibling(path, s)).filter(|f| f.exists()).collect();
    let mut pids: Vec<u32> = files.iter().flat_map(|f| disk::processes_with_open(f)).collect();
    // Opening and closing a file that this process has open elsewhere would drop SQLite's locks on it.
    if files.iter().any(|f| open_here(f)) {
        pids.push(std::process::id());
    }
    if !pids.is_empty() {
        pids.sort_unstable();
        pids.dedup();
        let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
        return Err(in_use(path, &format!("process {}", pids.join(", "))));
    }
    let shm = sibling(path, "-shm");
    if let Some(file) = open(&shm)? {
        let held = lock::holder(&file, locks::WRITE_LOCK, locks::DMS - locks::WRITE_LOCK + 1);
        refuse_holder(path, held.map_err(Error::file("read the locks of", &shm))?)?;
    }
    let database = open(path)?;
    if let Some(file) = &database {
        let len = locks::SHARED_FIRST + locks::SHARED_SIZE - locks::PENDING;
        if !lock::exclude(file, locks::PENDING, len).map_err(Error::file("lock", path))? {
            let held = lock::holder(file, locks::PENDING, len);
            refuse_holder(path, held.map_err(Error::file("read the locks of", path))?.or(Some(None)))?;
        }
    }
    Ok(Exclusive { _database: database })
}

fn open(path: &Path) -> Result<Option<File>, Error> {
    match File::options().read(true).write(true).open(path) {
        Ok(file) => Ok(Some(file)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::file("open", path)(e)),
    }
}

fn refuse_holder(path: &Path, holder: Option<Option<u32>>) -> Result<(), Error> {
    match holder {
        None => Ok(()),
        Some(Some(pid)) => Err(in_use(path, &format!("process {pid}"))),
        // The locks of a replicator bear no process id.
        Some(None) => Err(in_use(path, "another process (it holds a lock)")),
    }
}

fn in_use(path: &Path, who: &str) -> Error {
    Error::with_hint(
        Kind::Invalid,
        format!("restore over `{}`: {who} has it open", path.display()),
        "stop what uses the database first, or restore to another path with -o",
    )
}

/// Whether this process has a descriptor of the file.
fn open_here(path: &Path) -> bool {
    let Ok(target) = path.canonicalize() else { return false };
    let fds = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    fds.into_iter().any(|fd| std::fs::read_link(fd.path()).is_ok_and(|link| link == target))
}
