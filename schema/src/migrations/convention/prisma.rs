//! Prisma's layout: a folder `VERSION_name` with a file `migration.sql` for each. The table `_prisma_migrations` has a row for
//! each try, with the SHA-256 of the file; one that is neither finished nor rolled back has failed.

use super::{Applied, Rows, Tool, listed, numbered, text_of, texts};
use crate::Error;
use crate::migrations::folder::{Folder, Migration, failed};
use litekeep_sql::{MigrationTransaction as Transaction, Value};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::time::Duration;

const FILE: &str = "migration.sql";

pub(super) struct Prisma;

pub(super) fn is_folder(folder: &Path) -> bool {
    let Ok(mut entries) = std::fs::read_dir(folder) else { return false };
    folder.join("migration_lock.toml").exists()
        || entries.any(|entry| entry.is_ok_and(|entry| entry.path().join(FILE).exists()))
}

impl Tool for Prisma {
    fn name(&self) -> &'static str {
        "prisma"
    }

    fn table(&self) -> &'static str {
        "_prisma_migrations"
    }

    fn columns(&self) -> &'static [&'static str] {
        &[
            "id",
            "checksum",
            "finished_at",
            "migration_name",
            "logs",
            "rolled_back_at",
            "started_at",
            "applied_steps_count",
        ]
    }

    fn create(&self) -> &'static str {
        "CREATE TABLE \"_prisma_migrations\" (\"id\" TEXT PRIMARY KEY NOT NULL, \"checksum\" TEXT NOT NULL, \"finished_at\" DATETIME, \
         \"migration_name\" TEXT NOT NULL, \"logs\" TEXT, \"rolled_back_at\" DATETIME, \
         \"started_at\" DATETIME NOT NULL DEFAULT current_timestamp, \"applied_steps_count\" INTEGER UNSIGNED NOT NULL DEFAULT 0)"
    }

    fn read(&self, folder: &Path) -> Result<Vec<Migration>, Error> {
        let mut migrations = vec![];
        for entry in listed(folder)? {
            let entry = entry.map_err(failed("list the migrations in", folder))?;
            let path = entry.path().join(FILE);
            if !path.exists() {
                continue;
            }
            let directory = entry.file_name().to_string_lossy().into_owned();
            let (version, name) = numbered(&directory, &entry.path())?;
            let (version, name, text) = (version.to_owned(), name.to_owned(), text_of(&path)?);
            migrations.push(Migration { version, name, up: text.clone(), text, path, down: None });
        }
        Ok(migrations)
    }

    fn applied(&self, rows: &Rows<'_>) -> Result<Applied, Error> {
        let having = |condition: &str| {
            rows(
                &format!(
                    "SELECT migration_name FROM _prisma_migrations WHERE rolled_back_at IS NULL AND finished_at {condition}"
                ),
                &[],
            )
        };
        if let Some(name) = texts(having("IS NULL")?).first() {
            return Err(Error::invalid(
                format!("Prisma began migration `{name}` and did not finish it"),
                format!(
                    "look what of it has happened and mend that, then `prisma migrate resolve --rolled-back {name}` (or `--applied`)"
                ),
            ));
        }
        let digits = |name: String| name.chars().take_while(char::is_ascii_digit).collect();
        Ok(Applied::Each(texts(having("IS NOT NULL")?).into_iter().map(digits).collect()))
    }

    fn add(&self, tx: &Transaction<'_>, migration: &Migration, took: Duration) -> Result<(), Error> {
        let checksum: String =
            Sha256::digest(&migration.text).iter().map(|byte| format!("{byte:02x}")).collect();
        let directory = migration.path.parent().and_then(Path::file_name).unwrap_or_default();
        // A random UUID. Prisma's native engine writes milliseconds since the epoch, its drivers RFC 3339, and each reads both: one
        // kind in a table sorts.
        let insert = "WITH r(h) AS (SELECT lower(hex(randomblob(16)))), \
                      t(now) AS (SELECT CAST(unixepoch('subsec') * 1000 AS INTEGER)), \
                      i(begun, ended) AS (SELECT now - ?3, now FROM t) \
                      INSERT INTO _prisma_migrations (id, checksum, migration_name, started_at, finished_at, applied_steps_count) \
                      SELECT substr(h, 1, 8) || '-' || substr(h, 9, 4) || '-4' || substr(h, 13, 3) || '-a' || substr(h, 16, 3) || '-' || substr(h, 19, 12), \
                      ?1, ?2, \
                      iif(numbers, begun, strftime('%Y-%m-%dT%H:%M:%f+00:00', begun / 1000.0, 'unixepoch')), \
                      iif(numbers, ended, strftime('%Y-%m-%dT%H:%M:%f+00:00', ended / 1000.0, 'unixepoch')), 1 \
                      FROM r, i, (SELECT EXISTS (SELECT 1 FROM _prisma_migrations WHERE typeof(started_at) = 'integer') AS numbers)";
        let took = i64::try_from(took.as_millis()).unwrap_or(0);
        let name = directory.to_string_lossy().into_owned();
        Ok(tx.execute(insert, &[checksum.into(), name.into(), Value::Integer(took)])?)
    }

    fn remove(&self, _: &Transaction<'_>, _: &str, _: Option<&str>) -> Result<(), Error> {
        Err(Error::invalid(
            "Prisma's migrations have no way back",
            "write one that undoes it, or restore the database to before it",
        ))
    }

    fn blank(&self, folder: &Folder, now: &str, name: &str) -> Result<Vec<(PathBuf, String)>, Error> {
        Ok(vec![(folder.path.join(format!("{now}_{name}")).join(FILE), "\n".to_owned())])
    }
}
