//! What a database is made of, and how it changes: [`migrations`].

mod error;
pub mod migrations;

pub use error::{Error, Kind};
