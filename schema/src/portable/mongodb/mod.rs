//! MongoDB: a table is a collection, its primary key `_id`, and each value keeps a type of its own.

mod table;
mod value;

pub use table::{Column, Index, Options, Part, Table, field_name, map};
pub use value::{MongoType, Stored};
