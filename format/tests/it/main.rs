//! What this crate reads, against what SQLite itself writes and says.

mod any_bytes;
mod database_header;
mod real;
mod wal;
mod wal_index;
