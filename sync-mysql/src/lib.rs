//! MySQL and MariaDB as the other side of a sync.
//!
//! - [`address`]: where a server is and how it is trusted.
//! - [`target`]: tables that are kept in step.
//!
//! Rows go as text, by LOAD DATA or in statements, and are read back by the binary protocol, which rounds no number. Statements that make or change a
//! table commit what was done before them, so they come first in a transaction and can be done twice.

pub mod address;
mod error;
mod session;
pub mod target;

pub use address::Address;
pub use target::Mysql;
