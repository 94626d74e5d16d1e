//! What of a SQLite database other databases have the like of: types, keys, indexes, and how each value is written there.
//!
//! Promises:
//! - A value comes back exactly as it was, type included, or it is refused with the reason ([`postgres::PgType::encode`], [`mysql::MyType::encode`],
//!   [`mongodb::MongoType::encode`]); none is changed silently.
//! - What has no like is named in a [`Note`], never left out silently.
//!
//! Types are chosen by what a column declares and by what its rows hold, for SQLite promises nothing of either.

mod columns;
pub mod date;
pub mod dialect;
pub mod mongodb;
pub mod mysql;
pub mod postgres;
mod value;

use std::fmt;

pub use columns::{Column, Options};
pub use value::Refusal;

/// Something that is not on the other side as it is here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The table.
    pub table: String,
    /// The column, if it is about one.
    pub column: Option<String>,
    /// How bad it is.
    pub level: Level,
    /// What is not there, and why.
    pub message: String,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Good to know: no value and no rule is lost.
    Info,
    /// A rule of the schema is not there: an index, a default, a check.
    Rule,
    /// Rows or values cannot go there as they are.
    Values,
    /// The table cannot go there at all.
    Table,
}

impl Level {
    /// In a word, for people and JSON.
    pub fn word(self) -> &'static str {
        match self {
            Level::Info => "info",
            Level::Rule => "rule",
            Level::Values => "values",
            Level::Table => "table",
        }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.table)?;
        if let Some(column) = &self.column {
            write!(f, ".{column}")?;
        }
        write!(f, ": {}", self.message)
    }
}

/// How SQLite prefers to store what is put into a column of a declared type
/// (<https://sqlite.org/datatype3.html#determination_of_column_affinity>).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Affinity {
    /// Integers.
    Integer,
    /// Text.
    Text,
    /// As it comes.
    Blob,
    /// Floating point.
    Real,
    /// Numbers.
    Numeric,
}

impl Affinity {
    /// Of a declared type.
    pub fn of(declared: &str) -> Affinity {
        let declared = declared.to_ascii_uppercase();
        let has = |word: &str| declared.contains(word);
        if has("INT") {
            Affinity::Integer
        } else if has("CHAR") || has("CLOB") || has("TEXT") {
            Affinity::Text
        } else if has("BLOB") || declared.is_empty() {
            Affinity::Blob
        } else if has("REAL") || has("FLOA") || has("DOUB") {
            Affinity::Real
        } else {
            Affinity::Numeric
        }
    }
}
