//! The bytes that SQLite's POSIX locks lie on.
//!
//! In the database file they lie beyond 1 GiB, in a page that holds no data
//! ([`PageSize::lock_page`](litekeep_ltx::PageSize::lock_page)); in the `-shm` file right behind the checkpoint
//! information of the wal-index. Offsets are bytes from the start of the file.
//!
//! Closing *any* descriptor of a file drops all POSIX locks that the process holds on it, so whoever shares a process
//! with SQLite opens the database file and `-shm` once and never closes them.

/// Writer's lock, in `-shm`.
pub const WRITE_LOCK: u64 = 120;
/// Checkpointer's lock, in `-shm`.
pub const CHECKPOINT_LOCK: u64 = 121;
/// Lock of the connection that rebuilds the wal-index, in `-shm`.
pub const RECOVER_LOCK: u64 = 122;
/// Number of read marks, and of their locks.
pub const READ_LOCKS: usize = 5;
/// "Dead man's switch", in `-shm`: held shared by each connection that has the wal-index open; who gets it exclusively is
/// the first, and starts with an empty wal-index.
pub const DMS: u64 = 128;

/// Lock of read mark `i`, in `-shm`. Lock 0 belongs to readers that use only the database file.
///
/// # Panics
/// If `i` is not below [`READ_LOCKS`].
pub const fn read_lock(i: usize) -> u64 {
    assert!(i < READ_LOCKS);
    123 + i as u64
}

/// A writer waits for readers to leave, in the database file.
pub const PENDING: u64 = 0x4000_0000;
/// A writer prepares, in the database file; unused in WAL mode.
pub const RESERVED: u64 = PENDING + 1;
/// First byte of the range that each connection holds shared, in the database file; in WAL mode for as long as it is
/// open, so that who gets it exclusively is the last and may delete the WAL.
pub const SHARED_FIRST: u64 = PENDING + 2;
/// Bytes of that range.
pub const SHARED_SIZE: u64 = 510;
