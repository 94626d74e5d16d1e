//! MySQL and MariaDB as the other side of a sync.
//!
//! - [`address`]: where a server is and how it is trusted.
//! - [`target`]: tables that are kept in step.
//! - [`source`]: tables from which changes come, by the log that replicas follow, and to which rows go in a sync in both directions.
//!
//! Rows go as text, by LOAD DATA or in statements, and are read back by the binary protocol, which rounds no number. Statements that make or change a
//! table commit what was done before them, so they come first in a transaction and can be done twice.

pub mod address;
mod binlog;
mod codec;
mod error;
mod session;
pub mod source;
pub mod target;

pub use address::Address;
pub use source::MysqlSource;
pub use target::Mysql;

/// Reads what may be no log, for the fuzz target.
#[cfg(feature = "fuzzing")]
pub fn decode_any_bytes(bytes: &[u8]) {
    binlog::any_bytes::run(bytes);
}
