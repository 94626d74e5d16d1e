//! Row changes from the log: what was inserted, updated and deleted between any two moments, taken from the backup itself.
//!
//! - [`comparison`]: two states of a log, and the rows in which they differ.
//! - [`statements`]: a change as SQL, to do it again or to take it back.
//! - [`feed`]: every transaction with its rows, as it comes.
//! - [`undo`]: taking changes back on the live database.
//! - [`json`]: a change as JSON.
//! - [`retry`]: what follows the log goes on after errors.
//!
//! No triggers, no cooperation of the application, and no restored database: pages are read from the log as far as they
//! are needed. The algorithm is [`litekeep_format::diff`].

pub mod comparison;
pub mod feed;
mod filters;
pub mod json;
pub mod retry;
pub mod statements;
pub mod undo;

pub use comparison::{Comparison, OfStatement, Reader, SchemaChange, Selection};
pub use litekeep_format::diff::{Change, Pair};
pub use litekeep_format::{Catalog, RowRef, SchemaRow, Table, Value};
pub use litekeep_replicate::{Error, Kind};

/// The changed row itself: as it is, or as it was when it is gone.
pub fn row<'a>(change: &Change<'a>) -> RowRef<'a> {
    match change {
        Change::Inserted(row) | Change::Updated(_, row) | Change::Deleted(row) => *row,
    }
}

/// What tells a row from the others of its table: its primary key, or its rowid where a part of that is missing. Empty: its
/// columns have taken all names of the rowid.
///
/// # Errors
/// `Corrupt` for a damaged row.
pub fn key(row: &RowRef<'_>) -> Result<Vec<(String, Value)>, Error> {
    let layout = &row.table.layout;
    let values = row.values()?;
    let named = |nth: &usize| (layout.columns[*nth].name.clone(), values[*nth].clone());
    let key: Vec<_> = layout.primary_key.iter().map(named).collect();
    if key.is_empty() || !layout.is_without_rowid() && key.iter().any(|(_, value)| *value == Value::Null) {
        let rowid = layout.rowid_name();
        return Ok(rowid.map(|name| (name.to_owned(), Value::Integer(row.rowid))).into_iter().collect());
    }
    Ok(key)
}

/// The columns of a row with their names.
///
/// # Errors
/// `Corrupt` for a damaged row.
pub fn named(row: &RowRef<'_>) -> Result<Vec<(String, Value)>, Error> {
    let columns = row.table.layout.columns.iter().map(|column| column.name.clone());
    Ok(columns.zip(row.values()?).collect())
}
