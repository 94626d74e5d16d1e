//! The only owner of the real world: clock, randomness, files and their locks, file watching, child processes
//! and what the disk is.
//!
//! Everything above asks here, so that a test can hand in a clock of its own and so that each system call has one home.
//! Linux only: open-file-description locks, inotify and `statfs` magic numbers are what litekeep stands on.

pub mod clock;
pub mod disk;
pub mod file;
pub mod lock;
pub mod notify;
pub mod process;
pub mod watch;

pub use clock::{Clock, ManualClock, SystemClock};

/// 64 random bits, for identities (not for secrets).
pub fn random_u64() -> u64 {
    fastrand::u64(1..)
}

/// The user that this process runs as.
pub fn user_id() -> Option<u32> {
    std::fs::metadata("/proc/self").ok().map(|metadata| std::os::unix::fs::MetadataExt::uid(&metadata))
}
