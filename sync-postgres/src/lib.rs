//! PostgreSQL as the other side of a sync.
//!
//! - [`address`]: where a server is and how it is trusted.
//! - [`target`]: tables that are kept in step with SQLite's.
//! - [`source`]: tables that SQLite's are kept in step with, by logical replication.
//!
//! A target works through a pooler in transaction mode (PgBouncer, Neon's `-pooler`): no session state outlives a transaction, and only
//! COPY is prepared under a name, within its transaction. Everything goes as text, which the server reads with each type's own function.

pub mod address;
mod codec;
mod error;
mod pgoutput;
mod replication;
mod rules;
mod session;
mod socket;
pub mod source;
pub mod target;

pub use address::Address;
pub use session::connect;
pub use source::PostgresSource;
pub use target::Postgres;

/// Text in a statement.
fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
