//! The versions that have run, in the table `schema_migrations`, as dbmate keeps it.

use crate::Error;
use litekeep_sql::{MigrationTransaction as Transaction, Migrator, Value};

const TABLE: &str = "schema_migrations";

/// The versions in the database; none where there is no table.
pub(super) fn read(database: &Migrator) -> Result<Vec<String>, Error> {
    let columns = columns(|sql, parameters| database.rows(sql, parameters))?;
    if columns.is_empty() { Ok(vec![]) } else { versions(|sql| database.rows(sql, &[])) }
}

/// The same under the write lock; makes the table where there is none.
pub(super) fn take(tx: &Transaction<'_>) -> Result<Vec<String>, Error> {
    if columns(|sql, parameters| tx.rows(sql, parameters))?.is_empty() {
        tx.execute(&format!("CREATE TABLE \"{TABLE}\" (version varchar(128) primary key)"), &[])?;
    }
    versions(|sql| tx.rows(sql, &[]))
}

pub(super) fn add(tx: &Transaction<'_>, version: &str) -> Result<(), Error> {
    Ok(tx.execute(&format!("INSERT INTO \"{TABLE}\" (version) VALUES (?1)"), &[version.into()])?)
}

pub(super) fn remove(tx: &Transaction<'_>, version: &str) -> Result<(), Error> {
    Ok(tx.execute(&format!("DELETE FROM \"{TABLE}\" WHERE version = ?1"), &[version.into()])?)
}

type Rows = Result<Vec<Vec<Value>>, litekeep_sql::Error>;

/// The table's columns; it must be one that we know how to keep.
fn columns(rows: impl Fn(&str, &[Value]) -> Rows) -> Result<Vec<String>, Error> {
    let found = rows("SELECT name FROM pragma_table_info(?1)", &[TABLE.into()])?;
    let names: Vec<String> = found.into_iter().flatten().filter_map(text).collect();
    if names.is_empty() || names == ["version"] {
        return Ok(names);
    }
    Err(Error::invalid(
        format!(
            "the table `{TABLE}` has the columns {}: it is the history of another tool",
            names.join(", ")
        ),
        "litekeep goes on with dbmate's, which has one column, `version`; run these migrations with the tool that made it",
    ))
}

fn versions(rows: impl Fn(&str) -> Rows) -> Result<Vec<String>, Error> {
    let found = rows(&format!("SELECT CAST(version AS TEXT) FROM \"{TABLE}\""))?;
    Ok(found.into_iter().flatten().filter_map(text).collect())
}

fn text(value: Value) -> Option<String> {
    match value {
        Value::Text(text) => Some(text),
        _ => None,
    }
}
