//! Foreign keys that SQLite calls mismatched: what they refer to need not be unique, so it checks none of the table's.

use rusqlite::{Connection, OptionalExtension as _};

use super::{Dangling, RowEditor};
use crate::{Error, quoted};

/// Whether that is why a check failed.
pub(super) fn is_mismatch(error: &rusqlite::Error) -> bool {
    error.to_string().contains("foreign key mismatch")
}

/// A foreign key: the columns, and those that they refer to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignColumns {
    id: i64,
    /// Its columns.
    pub columns: Vec<String>,
    /// The table that they refer to, which need not be there.
    pub parent: String,
    /// The columns there; empty: they are not known.
    pub parent_columns: Vec<String>,
}

impl RowEditor {
    /// The foreign keys of a table.
    ///
    /// # Errors
    /// When the schema cannot be read.
    pub fn foreign_columns(&self, child: &str) -> Result<Vec<ForeignColumns>, Error> {
        keys(&self.connection, child).map_err(|e| Error::new("read the foreign keys", e))
    }
}

/// The rows of a table that refer to one that is not there. Of a foreign key whose columns are not there nothing can be told.
pub(super) fn dangling(db: &Connection, child: &str) -> rusqlite::Result<Vec<Dangling>> {
    let mut found = vec![];
    let is_without_rowid: bool =
        db.query_row("SELECT wr FROM pragma_table_list(?1) WHERE schema='main'", [child], |row| row.get(0))?;
    let rowid = if is_without_rowid { "NULL" } else { "rowid" };
    for key in keys(db, child)? {
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
            let theirs = key.parent_columns;
            let all = names(db, "SELECT name FROM pragma_table_xinfo(?1)", &key.parent)?;
            let is_there = |name: &String| all.iter().any(|other| other.eq_ignore_ascii_case(name));
            if theirs.len() != columns.len() || !theirs.iter().all(is_there) {
                continue;
            }
            let theirs: Vec<String> = theirs.iter().map(|name| quoted(name)).collect();
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

fn names(db: &Connection, sql: &str, table: &str) -> rusqlite::Result<Vec<String>> {
    db.prepare_cached(sql)?.query_map([table], |row| row.get(0))?.collect()
}

fn keys(db: &Connection, child: &str) -> rusqlite::Result<Vec<ForeignColumns>> {
    let mut select = db.prepare_cached(
        "SELECT id, \"table\", \"from\", \"to\" FROM pragma_foreign_key_list(?1) ORDER BY id, seq",
    )?;
    let mut rows = select.query([child])?;
    let mut found: Vec<ForeignColumns> = vec![];
    while let Some(row) = rows.next()? {
        let id = row.get(0)?;
        if found.last().is_none_or(|last| last.id != id) {
            found.push(ForeignColumns { id, parent: row.get(1)?, columns: vec![], parent_columns: vec![] });
        }
        let key = found.last_mut().expect("pushed above");
        key.columns.push(row.get(2)?);
        key.parent_columns.extend(row.get::<_, Option<String>>(3)?);
    }
    for key in found.iter_mut().filter(|key| key.parent_columns.is_empty()) {
        let primary_key = "SELECT name FROM pragma_table_info(?1) WHERE pk>0 ORDER BY pk";
        key.parent_columns = names(db, primary_key, &key.parent)?;
    }
    Ok(found)
}
