//! MySQL and MariaDB: the tables, and how each value is written, which statements and LOAD DATA share.

mod inward;
mod table;
mod value;

pub use inward::{Calendar, Found, Inward, Raw, default};
pub use table::{Column, Flavor, Index, Options, Part, Table, map, path, quoted};
pub use value::{Given, MyType};
