//! MySQL and MariaDB: the tables, and how each value is written, which statements and LOAD DATA share.

mod table;
mod value;

pub use table::{Column, Flavor, Index, Options, Part, Table, map, path, quoted};
pub use value::{Given, MyType};
