//! golang-migrate's layout: `VERSION_name.up.sql` and `VERSION_name.down.sql`. The table `schema_migrations` has one row, the last
//! version that has run, and whether it failed halfway ("dirty"); every earlier one counts as run.

use super::{Applied, Rows, Tool, blank_pair, pairs, texts};
use crate::Error;
use crate::migrations::folder::{Folder, Migration};
use litekeep_sql::{MigrationTransaction as Transaction, Value};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub(super) struct GolangMigrate;

impl Tool for GolangMigrate {
    fn name(&self) -> &'static str {
        "golang-migrate"
    }

    fn table(&self) -> &'static str {
        "schema_migrations"
    }

    fn columns(&self) -> &'static [&'static str] {
        &["version", "dirty"]
    }

    fn create(&self) -> &'static str {
        "CREATE TABLE schema_migrations (version uint64,dirty bool); CREATE UNIQUE INDEX version_unique ON schema_migrations (version)"
    }

    fn read(&self, folder: &Path) -> Result<Vec<Migration>, Error> {
        // One file without a direction is none of its own.
        let is_up = |m: &Migration| {
            m.path.file_name().is_some_and(|name| name.to_string_lossy().ends_with(".up.sql"))
        };
        Ok(pairs(folder)?.into_iter().filter(is_up).collect())
    }

    fn applied(&self, rows: &Rows<'_>) -> Result<Applied, Error> {
        let dirty = "SELECT version FROM schema_migrations WHERE dirty NOT IN (0, 'false')";
        if let Some(version) = texts(rows(dirty, &[])?).first() {
            return Err(Error::invalid(
                format!(
                    "the database is marked dirty at version {version}: golang-migrate did not finish that migration"
                ),
                format!(
                    "look what of it has happened and mend that, then `migrate -path … -database … force {version}` (or the version before it, when nothing of it is left)"
                ),
            ));
        }
        Ok(Applied::UpTo(texts(rows("SELECT version FROM schema_migrations", &[])?)))
    }

    fn add(&self, tx: &Transaction<'_>, migration: &Migration, _: Duration) -> Result<(), Error> {
        set(tx, Some(&migration.version))
    }

    fn remove(&self, tx: &Transaction<'_>, _: &str, before: Option<&str>) -> Result<(), Error> {
        set(tx, before)
    }

    fn blank(&self, folder: &Folder, now: &str, name: &str) -> Result<Vec<(PathBuf, String)>, Error> {
        // Consecutive numbers of one width go on as they are.
        let next = match folder.migrations.last() {
            Some(last) if last.version.len() < 10 => {
                let next = last.version.parse::<u64>().map_or(1, |last| last + 1);
                format!("{next:0width$}", width = last.version.len())
            }
            _ => now.to_owned(),
        };
        Ok(blank_pair(folder, &next, name, true))
    }
}

fn set(tx: &Transaction<'_>, version: Option<&str>) -> Result<(), Error> {
    tx.execute("DELETE FROM schema_migrations", &[])?;
    if let Some(version) = version {
        let number = version.parse::<i64>().map_or_else(|_| version.into(), Value::Integer);
        tx.execute("INSERT INTO schema_migrations (version, dirty) VALUES (?1, 0)", &[number])?;
    }
    Ok(())
}
