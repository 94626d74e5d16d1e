//! sqlx's layout: `VERSION_description.sql`, or `.up.sql` and `.down.sql`. The table `_sqlx_migrations` has a row for each that
//! has run, with the SHA-384 of its file: sqlx refuses to go on when a file has changed.

use super::{Applied, Rows, Tool, blank_pair, pairs, texts};
use crate::Error;
use crate::migrations::folder::{Folder, Migration};
use litekeep_sql::{MigrationTransaction as Transaction, Value};
use sha2::{Digest, Sha384};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub(super) struct Sqlx;

impl Tool for Sqlx {
    fn name(&self) -> &'static str {
        "sqlx"
    }

    fn table(&self) -> &'static str {
        "_sqlx_migrations"
    }

    fn columns(&self) -> &'static [&'static str] {
        &["version", "description", "installed_on", "success", "checksum", "execution_time"]
    }

    fn create(&self) -> &'static str {
        "CREATE TABLE _sqlx_migrations (version BIGINT PRIMARY KEY, description TEXT NOT NULL, \
         installed_on TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP, success BOOLEAN NOT NULL, checksum BLOB NOT NULL, \
         execution_time BIGINT NOT NULL)"
    }

    fn read(&self, folder: &Path) -> Result<Vec<Migration>, Error> {
        pairs(folder)
    }

    fn applied(&self, rows: &Rows<'_>) -> Result<Applied, Error> {
        let failed = texts(rows("SELECT version FROM _sqlx_migrations WHERE NOT success", &[])?);
        if let Some(version) = failed.first() {
            return Err(Error::invalid(
                format!("migration {version} is marked as failed in `_sqlx_migrations`"),
                format!(
                    "look what of it has happened and mend that, then `DELETE FROM _sqlx_migrations WHERE version = {version}`"
                ),
            ));
        }
        Ok(Applied::Each(texts(rows("SELECT version FROM _sqlx_migrations", &[])?)))
    }

    fn add(&self, tx: &Transaction<'_>, migration: &Migration, took: Duration) -> Result<(), Error> {
        let version = migration.version.parse::<i64>().map_err(|_| {
            let path = migration.path.display();
            Error::invalid(
                format!("the version of `{path}` is too great for sqlx"),
                "give it one below 9223372036854775808",
            )
        })?;
        let checksum = Value::Blob(Sha384::digest(&migration.text).to_vec());
        let took = i64::try_from(took.as_nanos()).unwrap_or(i64::MAX);
        let insert = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (?1, ?2, TRUE, ?3, ?4)";
        let description = migration.name.replace('_', " ");
        Ok(tx.execute(insert, &[version.into(), description.into(), checksum, took.into()])?)
    }

    fn remove(&self, tx: &Transaction<'_>, version: &str, _: Option<&str>) -> Result<(), Error> {
        Ok(tx.execute("DELETE FROM _sqlx_migrations WHERE version = ?1", &[version.into()])?)
    }

    fn blank(&self, folder: &Folder, now: &str, name: &str) -> Result<Vec<(PathBuf, String)>, Error> {
        Ok(blank_pair(folder, now, name, false))
    }
}
