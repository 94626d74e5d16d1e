//! MongoDB as the other side of a sync.
//!
//! - [`address`]: where a server is and how it is trusted.
//! - [`target`]: collections that are kept in step.
//! - [`source`]: collections from which changes come, and to which rows go, too, where both sides are written to.
//!
//! A transaction there ends with its first error, and has no savepoints. So what one does is kept in a journal on this side until it is
//! committed, and done again without a row that the server refuses. Everything else is as with other servers.

pub mod address;
mod command;
mod error;
mod session;
pub mod source;
pub mod target;

pub use address::Address;
pub use source::MongoSource;
pub use target::Mongo;
