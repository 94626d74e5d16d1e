//! PostgreSQL as the other side of a sync.
//!
//! - [`address`]: where a server is and how it is trusted.
//! - [`target`]: tables that are kept in step.
//!
//! Works through a pooler in transaction mode (PgBouncer, Neon's `-pooler`): no session state outlives a transaction, and only
//! COPY is prepared under a name, within its transaction. Everything goes as text, which the server reads with each type's own function.

pub mod address;
mod error;
mod session;
pub mod target;

pub use address::Address;
pub use target::Postgres;
