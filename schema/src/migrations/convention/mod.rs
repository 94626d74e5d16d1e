//! The tools whose folders are read as they are and whose histories are kept as they keep them, so that a user can go back.

pub(super) mod dbmate;
pub(super) mod drizzle;

use super::folder::{Migration, order};
use crate::Error;
use litekeep_sql::{MigrationTransaction as Transaction, Migrator, Value};
use std::path::Path;

/// Whose layout a folder has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Convention {
    /// dbmate's, and litekeep's own.
    Dbmate,
    /// Drizzle's.
    Drizzle,
}

/// What has run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Applied {
    /// These versions.
    Each(Vec<String>),
    /// Everything that is not later than the latest of these.
    UpTo(Vec<String>),
}

impl Applied {
    /// The versions that the history names.
    pub(super) fn named(&self) -> &[String] {
        let (Applied::Each(versions) | Applied::UpTo(versions)) = self;
        versions
    }

    pub(super) fn has(&self, version: &str) -> bool {
        let version = order(version);
        match self {
            Applied::Each(versions) => versions.iter().any(|v| order(v) == version),
            Applied::UpTo(versions) => versions.iter().any(|v| order(v) >= version),
        }
    }
}

impl Convention {
    pub(super) fn of(folder: &Path) -> Convention {
        if drizzle::journal(folder).exists() { Convention::Drizzle } else { Convention::Dbmate }
    }

    /// What has run, by a database that is only looked at.
    pub(super) fn look(self, database: &Migrator) -> Result<Applied, Error> {
        let applied = self.applied(&|sql, parameters| database.rows(sql, parameters))?;
        Ok(applied.unwrap_or(Applied::Each(vec![])))
    }

    /// The same under the write lock; makes the history where there is none.
    pub(super) fn take(self, tx: &Transaction<'_>) -> Result<Applied, Error> {
        if let Some(applied) = self.applied(&|sql, parameters| tx.rows(sql, parameters))? {
            return Ok(applied);
        }
        match self {
            Convention::Dbmate => dbmate::create(tx)?,
            Convention::Drizzle => drizzle::create(tx)?,
        }
        Ok(Applied::Each(vec![]))
    }

    fn applied(self, rows: &Rows<'_>) -> Result<Option<Applied>, Error> {
        match self {
            Convention::Dbmate => dbmate::applied(rows),
            Convention::Drizzle => drizzle::applied(rows),
        }
    }

    /// Notes that a migration has run.
    pub(super) fn add(self, tx: &Transaction<'_>, migration: &Migration) -> Result<(), Error> {
        match self {
            Convention::Dbmate => dbmate::add(tx, &migration.version),
            Convention::Drizzle => drizzle::add(tx, migration),
        }
    }

    /// Notes that a migration was taken back.
    pub(super) fn remove(self, tx: &Transaction<'_>, version: &str) -> Result<(), Error> {
        match self {
            Convention::Dbmate => dbmate::remove(tx, version),
            Convention::Drizzle => Err(Error::invalid(
                "Drizzle's migrations have no way back",
                "write one that undoes it, or restore the database to before it",
            )),
        }
    }
}

/// A query of the database.
type Rows<'a> = dyn Fn(&str, &[Value]) -> Result<Vec<Vec<Value>>, litekeep_sql::Error> + 'a;

/// The columns of a table; none where there is no such table.
fn columns(rows: &Rows<'_>, table: &str) -> Result<Vec<String>, Error> {
    let found = rows("SELECT name FROM pragma_table_info(?1)", &[table.into()])?;
    let text = |value| if let Value::Text(text) = value { Some(text) } else { None };
    Ok(found.into_iter().flatten().filter_map(text).collect())
}

/// Versions, whatever type a tool gives them.
fn digits(rows: Vec<Vec<Value>>) -> Vec<String> {
    let text = |value| match value {
        Value::Text(text) => Some(text),
        Value::Integer(n) => Some(n.to_string()),
        Value::Real(x) => Some(format!("{x:.0}")),
        Value::Null | Value::Blob(_) => None,
    };
    rows.into_iter().flatten().filter_map(text).collect()
}
