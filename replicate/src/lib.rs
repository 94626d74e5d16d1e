//! Capture, restore, verify: how a database gets into the log and out again.
//!
//! - [`capture`]: one database's WAL becomes level-0 files, each commit exactly once and none silently skipped.
//! - [`replicator`]: many databases, woken by events, shipped in order, kept small.
//! - [`restore`]: any transaction or instant of a log becomes a database file again.
//! - [`log_state`], [`parents`]: single pages of any transaction of a log, and what leads from them to their tables.
//! - [`verify`]: proof that a restore gives the live database.
//! - [`local`]: what litekeep keeps beside the database: position, page checksums, spool.

pub mod capture;
mod commits;
mod error;
pub mod local;
pub mod log_state;
pub mod parents;
pub mod replicator;
pub mod restore;
pub mod verify;

pub use commits::{CommitReader, Overlay, Single, commits_of};
pub use error::{Error, Instead, Kind};
