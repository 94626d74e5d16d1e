//! Foreign keys that SQLite calls mismatched: what they refer to need not be unique, so it checks none of the table's.

use rusqlite::{Connection, OptionalExtension as _};

use super::{Dangling, references};
use crate::quoted;

/// Whether that is why a check failed.
pub(super) fn is_mismatch(error: &rusqlite::Error) -> bool {
    error.to_string().contains("foreign key mismatch")
}

/// The rows of a table that refer to one that is not there. Of a foreign key whose columns are not there nothing can be told.
pub(super) fn dangling(db: &Connection, child: &str) -> rusqlite::Result<Vec<Dangling>> {
    let mut found = vec![];
    let is_without_rowid: bool =
        db.query_row("SELECT wr FROM pragma_table_list(?1) WHERE schema='main'", [child], |row| row.get(0))?;
    let rowid = if is_without_rowid { "NULL" } else { "rowid" };
    let keys = references::read(db, child)?;
    for key in keys.into_iter().filter(|key| key.child.eq_ignore_ascii_case(child)) {
        let parent: Option<String> = db
            .query_row(
                "SELECT name FROM sqlite_schema WHERE type='table' AND name=?1 COLLATE NOCASE",
                [&key.parent],
                |row| row.get(0),
            )
            .optional()?;
        let columns: Vec<String> = key.columns.iter().map(|name| quoted(name)).collect();
        let mut terms: Vec<String> = columns.iter().map(|name| format!("{name} IS NOT NULL")).collect();
        if parent.is_some() {
            if key.parent_columns.is_empty() {
                continue;
            }
            let theirs: Vec<String> = key.parent_columns.iter().map(|name| quoted(name)).collect();
            let are_there: Vec<String> = theirs.iter().map(|name| format!("{name} IS NOT NULL")).collect();
            terms.push(format!(
                "({}) NOT IN (SELECT {} FROM {} WHERE {})",
                columns.join(", "),
                theirs.join(", "),
                quoted(&key.parent),
                are_there.join(" AND ")
            ));
        }
        let sql = format!("SELECT {rowid} FROM {} WHERE {}", quoted(child), terms.join(" AND "));
        let mut select = db.prepare(&sql)?;
        for rowid in select.query_map((), |row| row.get(0))? {
            found.push((child.to_owned(), rowid?, key.parent.clone(), key.id));
        }
    }
    Ok(found)
}
