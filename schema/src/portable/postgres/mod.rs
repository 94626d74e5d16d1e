//! PostgreSQL: the tables, and how each value is written as text, which COPY, parameters and logical replication share.

mod table;
mod value;

pub use table::{Column, Options, Table, map, quoted};
pub use value::PgType;
