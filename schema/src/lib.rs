//! What a database is made of, how it changes ([`migrations`]), and what other databases have the like of ([`portable`]).

mod error;
pub mod migrations;
pub mod portable;
mod words;

pub use error::{Error, Kind};
