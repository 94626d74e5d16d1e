//! PostgreSQL: the tables, and how each value is written as text, which COPY, parameters and logical replication share.

mod inward;
mod table;
mod value;

pub use inward::{Inward, default};
pub use table::{Column, Options, Table, map, quoted};
pub use value::PgType;
