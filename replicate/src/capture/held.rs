//! The files of one database, held open, and the lock that keeps the WAL from being reset before it is copied.
//!
//! Invariants:
//! - The descriptors of the database file and of `-shm` are opened once and closed last, or parked: closing any descriptor of
//!   these files drops the POSIX locks that SQLite holds on them in this process.
//! - A shared lock on the database's SHARED range makes us count as a connection: nobody's close is the last one, so
//!   nobody deletes the WAL or leaves WAL mode.
//! - [`Hold::Mark`]: the lock on a read mark `m` of the wal-index. No checkpoint copies frames beyond `m`, and no reset
//!   of the WAL can happen at all.
//! - [`Hold::Backfilled`]: the lock of readers that use the database file only. No checkpoint copies anything, so the
//!   WAL can be reset at most once.
//!
//! The locks are open-file-description locks, so they need no SQLite connection and cost nothing while the database is
//! idle. A crash drops them with the process.

use crate::Error;
use litekeep_env::file::{self, sibling};
use litekeep_env::lock;
use litekeep_format::locks::{
    CHECKPOINT_LOCK, DMS, READ_LOCKS, SHARED_FIRST, SHARED_SIZE, WRITE_LOCK, read_lock,
};
use litekeep_format::{DatabaseHeader, WalIndexHeader, named_pages};
use litekeep_ltx::Salt;
use litekeep_sql::{Observer, Snapshot, is_mirrored};
use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::io;
use std::ops::Deref;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What keeps the WAL in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// Nothing: it may be reset at any time.
    Nothing,
    /// It can be reset once, by the next commit.
    Backfilled,
    /// It cannot be reset; the slot of the read mark.
    Mark(u8),
}

/// A byte of the database file, far beyond any page, whose lock says that a litekeep replicates it.
const REPLICATOR_LOCK: u64 = 0x7fff_ffff_ffff_0000;
/// The byte after it: the lock says that the log has everything but what the WAL got since.
const IN_LOG_LOCK: u64 = REPLICATOR_LOCK + 1;

/// Whether some process replicates the database of this descriptor.
pub fn is_claimed(database: &File) -> io::Result<bool> {
    Ok(lock::holder(database, REPLICATOR_LOCK, 1)?.is_some())
}

/// Whether the replicator of this descriptor's database has said that the log has everything but what the WAL got since, and
/// holds the WAL. Until it does, an empty WAL proves nothing: what was committed before it came may be in the database file
/// only.
pub fn is_in_log(database: &File) -> io::Result<bool> {
    Ok(lock::holder(database, IN_LOG_LOCK, 1)?.is_some())
}

/// A connection with an open read transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reader {
    /// Its process, where the kernel knows it.
    pub pid: Option<u32>,
}

/// The processes with a read transaction on a database, each of which makes the WAL grow for as long as it lasts. One that
/// needs the WAL keeps a commit from starting it anew; one that needs the database file only keeps checkpoints from changing
/// that file, without which no commit starts the WAL anew a second time. The locks of a [`Hold`] bear no process id; for a
/// moment a process that checkpoints counts as well.
pub fn readers(database: &Path) -> io::Result<Vec<u32>> {
    lock::holders(&sibling(database, "-shm"), read_lock(0), READ_LOCKS as u64)
}

/// Device and inode.
type Identity = (u64, u64);

fn identity(file: &Metadata) -> Identity {
    (file.dev(), file.ino())
}

/// Descriptors that nobody uses, until the file is opened again: closing one would drop the locks of a mirror's connection in this
/// process.
static PARKED: Mutex<BTreeMap<Identity, Vec<Arc<File>>>> = Mutex::new(BTreeMap::new());

fn parked() -> MutexGuard<'static, BTreeMap<Identity, Vec<Arc<File>>>> {
    PARKED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A file that is open once.
#[derive(Debug)]
struct Held {
    file: Arc<File>,
    identity: Identity,
}

impl Held {
    fn open(path: &Path, open: impl FnOnce() -> io::Result<File>) -> io::Result<Held> {
        let known = identity(&path.metadata()?);
        let left = parked().get_mut(&known).and_then(Vec::pop);
        let file = match left {
            Some(file) => file,
            None => Arc::new(open()?),
        };
        let identity = identity(&file.metadata()?);
        Ok(Held { file, identity })
    }
}

impl Deref for Held {
    type Target = File;

    fn deref(&self) -> &File {
        &self.file
    }
}

/// Descriptors and locks of one database.
#[derive(Debug)]
pub struct HeldFiles {
    path: PathBuf,
    database: Held,
    shm: Held,
    hold: Hold,
    holds_checkpoints: bool,
    is_in_log: bool,
}

impl Drop for HeldFiles {
    fn drop(&mut self) {
        if !is_mirrored(self.database.identity) {
            return;
        }
        let has_name = |file: &Arc<File>| file.metadata().is_ok_and(|file| file.nlink() > 0);
        let mut parked = parked();
        parked.retain(|_, files| files.iter().any(has_name));
        for held in [&self.database, &self.shm] {
            // Our own locks go in any case.
            _ = lock::release(&held.file, 0, 0);
            parked.entry(held.identity).or_default().push(held.file.clone());
        }
    }
}

impl HeldFiles {
    /// Opens the files. The connection must be open on the same path, and must have read once, so that `-shm` exists
    /// and is valid by SQLite's own rules.
    pub fn open(path: &Path, _alongside: &Observer) -> Result<HeldFiles, Error> {
        // Writable for the sake of an exclusive lock only; nothing is ever written.
        let writable = |path: &Path| File::options().read(true).write(true).open(path);
        let database = Held::open(path, || writable(path).or_else(|_| File::open(path)));
        let database = database.map_err(Error::file("open", path))?;
        let shm_path = sibling(path, "-shm");
        // Writable for the sake of the write lock only.
        let shm = Held::open(&shm_path, || writable(&shm_path)).map_err(Error::file("open", &shm_path))?;
        lock::share(&database, SHARED_FIRST, SHARED_SIZE).map_err(Error::file("lock", path))?;
        lock::share(&shm, DMS, 1).map_err(Error::file("lock", &shm_path))?;
        Ok(HeldFiles {
            path: path.to_owned(),
            database,
            shm,
            hold: Hold::Nothing,
            holds_checkpoints: false,
            is_in_log: false,
        })
    }

    /// Makes us the database's only replicator for as long as the files are open; `false` when another process is.
    pub fn claim(&self) -> Result<bool, Error> {
        lock::exclude(&self.database, REPLICATOR_LOCK, 1).map_err(Error::file("lock", &self.path))
    }

    /// Tells other processes whether the log has everything but what the WAL gets from now on ([`is_in_log`]).
    pub fn tell_in_log(&mut self, is_so: bool) -> Result<(), Error> {
        if self.is_in_log == is_so {
            return Ok(());
        }
        let told = if is_so {
            lock::exclude(&self.database, IN_LOG_LOCK, 1)
        } else {
            lock::release(&self.database, IN_LOG_LOCK, 1).map(|()| true)
        };
        self.is_in_log = told.map_err(Error::file("lock", &self.path))? && is_so;
        Ok(())
    }

    /// The database's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The database file, for reading pages.
    pub fn database(&self) -> &File {
        &self.database
    }

    /// What is held.
    pub fn hold(&self) -> Hold {
        self.hold
    }

    /// Whether this is the file that is held.
    pub fn is(&self, file: &Metadata) -> bool {
        self.database.identity == identity(file)
    }

    /// The header of the database file.
    pub fn database_header(&self) -> Result<DatabaseHeader, Error> {
        let mut bytes = [0; 100];
        self.database.read_exact_at(&mut bytes, 0).map_err(Error::file("read the header of", &self.path))?;
        DatabaseHeader::parse(&bytes).map_err(|source| Error::Format {
            doing: "read the header of",
            path: self.path.clone(),
            source,
        })
    }

    /// The wal-index as it is now. `None` when it is being rebuilt or was never built.
    pub fn wal_index(&self) -> Result<Option<WalIndexHeader>, Error> {
        let mut bytes = [0; WalIndexHeader::LEN];
        // A writer changes the two copies within nanoseconds; a header that stays torn needs SQLite's recovery.
        for attempt in 0..50 {
            let n =
                self.shm.read_at(&mut bytes, 0).map_err(Error::file("read the wal-index of", &self.path))?;
            if let Some(header) = WalIndexHeader::parse(&bytes[..n]) {
                return Ok(Some(header));
            }
            if attempt > 10 {
                std::thread::sleep(Duration::from_micros(20));
            }
        }
        Ok(None)
    }

    /// The pages that the wal-index names for so many frames after the first `after` ones; fewer when it ends before. What
    /// SQLite shows goes by these, whatever the frames themselves say.
    pub fn named_pages(&self, after: u32, count: u32) -> Result<Vec<u32>, Error> {
        let mut pages = Vec::with_capacity(count as usize);
        let mut bytes = vec![];
        while (pages.len() as u32) < count {
            let (at, side_by_side) = named_pages(after + pages.len() as u32 + 1);
            bytes.resize(4 * side_by_side.min(count - pages.len() as u32) as usize, 0);
            let n = file::read_up_to(&self.shm, &mut bytes, at)
                .map_err(Error::file("read the wal-index of", &self.path))?;
            let (numbers, _) = bytes[..n].as_chunks::<4>();
            pages.extend(numbers.iter().map(|number| u32::from_ne_bytes(*number)));
            if n < bytes.len() {
                break;
            }
        }
        Ok(pages)
    }

    fn lock_slot(&self, slot: usize) -> Result<bool, Error> {
        lock::share(&self.shm, read_lock(slot), 1).map_err(Error::file("lock the wal-index of", &self.path))
    }

    fn unlock_slot(&self, slot: usize) -> Result<(), Error> {
        lock::release(&self.shm, read_lock(slot), 1)
            .map_err(Error::file("unlock the wal-index of", &self.path))
    }

    /// Takes SQLite's write lock; `false` when a writer is at work. Unlike a connection's, it needs no read mark and does
    /// not keep our own connection from checkpointing.
    pub fn try_lock_writers(&self) -> Result<bool, Error> {
        lock::exclude(&self.shm, WRITE_LOCK, 1).map_err(Error::file("lock the wal-index of", &self.path))
    }

    /// Gives the write lock back.
    pub fn unlock_writers(&self) -> Result<(), Error> {
        lock::release(&self.shm, WRITE_LOCK, 1).map_err(Error::file("unlock the wal-index of", &self.path))
    }

    /// Keeps everybody from checkpoints, our own connection included. An application with automatic checkpoints tries one
    /// at each commit once the WAL has 1000 pages, in vain while the hold is in the way, and each try costs as much as
    /// half a commit. Tries only; a recovery of the wal-index waits for [`HeldFiles::free_checkpoints`] too.
    pub fn hold_checkpoints(&mut self) -> Result<(), Error> {
        if !self.holds_checkpoints {
            let locked = lock::exclude(&self.shm, CHECKPOINT_LOCK, 1);
            self.holds_checkpoints = locked.map_err(Error::file("lock the wal-index of", &self.path))?;
        }
        Ok(())
    }

    /// Lets checkpoints happen again.
    pub fn free_checkpoints(&mut self) -> Result<(), Error> {
        if std::mem::take(&mut self.holds_checkpoints) {
            let freed = lock::release(&self.shm, CHECKPOINT_LOCK, 1);
            freed.map_err(Error::file("unlock the wal-index of", &self.path))?;
        }
        Ok(())
    }

    /// Another one with a read transaction that needs the WAL, and not only the database file: no commit starts it anew.
    pub fn reader_of_wal(&self) -> Result<Option<Reader>, Error> {
        self.reader_of(1)
    }

    /// Another one with any read transaction: not everything is checkpointed.
    pub fn reader(&self) -> Result<Option<Reader>, Error> {
        self.reader_of(0)
    }

    fn reader_of(&self, first_slot: usize) -> Result<Option<Reader>, Error> {
        let holder = |slot| lock::holder(&self.shm, read_lock(slot), 1).transpose();
        let holder = (first_slot..READ_LOCKS).find_map(holder).transpose();
        let holder = holder.map_err(Error::file("read the locks of the wal-index of", &self.path))?;
        Ok(holder.map(|pid| Reader { pid }))
    }

    /// Moves the hold to a read mark that protects what the open read transaction of `reader` sees. The new lock is taken
    /// before the old one is dropped and while the transaction lasts, so the WAL is protected without a gap. `false`:
    /// nothing changed, because no mark protects that state.
    pub fn hold_mark(&mut self, snapshot: &Snapshot) -> Result<bool, Error> {
        let Some(index) = self.wal_index()?.filter(|i| i.salt == snapshot.salt) else { return Ok(false) };
        // A mark at or below the snapshot protects everything beyond it; the highest blocks checkpoints least.
        let marks = index.checkpoint.read_marks;
        let mut slots: Vec<(u32, usize)> = (1..READ_LOCKS)
            .filter(|&i| marks[i] <= snapshot.max_frame && marks[i] > 0)
            .map(|i| (marks[i], i))
            .collect();
        slots.sort_unstable_by(|a, b| b.cmp(a));
        let old = self.hold;
        for (mark, slot) in slots {
            let had = old == Hold::Mark(slot as u8);
            if !had && !self.lock_slot(slot)? {
                continue;
            }
            // The slot may have been given another mark, or the WAL reset, before the lock was there.
            let valid = |i: &WalIndexHeader| i.checkpoint.read_marks[slot] == mark && i.salt == snapshot.salt;
            if self.wal_index()?.as_ref().is_some_and(valid) {
                self.hold = Hold::Mark(slot as u8);
                self.drop_hold(old)?;
                return Ok(true);
            }
            if !had {
                self.unlock_slot(slot)?;
            }
        }
        Ok(false)
    }

    /// Moves the hold to the lock of readers that use the database file only. `false`: nothing changed, because frames
    /// are left that a checkpoint has not copied. When it succeeds, every frame of `salt` up to `frames` is in the
    /// database file and no other frame of that generation exists.
    pub fn hold_backfilled(&mut self, salt: Salt, frames: u32) -> Result<bool, Error> {
        let old = self.hold;
        if old != Hold::Backfilled && !self.lock_slot(0)? {
            return Ok(false);
        }
        let is_that = |i: &WalIndexHeader| {
            i.salt == salt && i.max_frame == frames && i.checkpoint.backfilled == i.max_frame
        };
        if self.wal_index()?.as_ref().is_some_and(is_that) {
            self.hold = Hold::Backfilled;
            self.drop_hold(old)?;
            return Ok(true);
        }
        if old != Hold::Backfilled {
            self.unlock_slot(0)?;
        }
        Ok(false)
    }

    fn drop_hold(&self, old: Hold) -> Result<(), Error> {
        match old {
            _ if old == self.hold => Ok(()),
            Hold::Nothing => Ok(()),
            Hold::Backfilled => self.unlock_slot(0),
            Hold::Mark(slot) => self.unlock_slot(slot.into()),
        }
    }

    /// Lets the WAL go.
    pub fn release(&mut self) -> Result<(), Error> {
        self.tell_in_log(false)?;
        let old = std::mem::replace(&mut self.hold, Hold::Nothing);
        self.drop_hold(old)
    }
}
