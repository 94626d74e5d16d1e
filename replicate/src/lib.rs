//! Capture, restore, verify: how a database gets into the log and out again.
//!
//! - [`capture`]: one database's WAL becomes level-0 files, each commit exactly once and none silently skipped.
//! - [`local`]: what litekeep keeps beside the database: position, page checksums, spool.

pub mod capture;
mod error;
pub mod local;
pub mod replicator;
pub mod restore;

pub use error::{Error, Kind};
