//! Drizzle's layout: files in the order of `meta/_journal.json`, whose `when` is the version. The table
//! `__drizzle_migrations` has a row for each that has run; one that is not later than the latest of them counts as run.

use super::{Applied, Rows, Tool, texts};
use crate::Error;
use crate::migrations::folder::{Folder, Migration, failed};
use litekeep_sql::{MigrationTransaction as Transaction, Value};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Stands between statements, which need no semicolon then.
pub(super) const BREAKPOINT: &str = "--> statement-breakpoint";

#[derive(Deserialize)]
struct Journal {
    entries: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    /// Milliseconds since the epoch.
    when: u64,
    tag: String,
}

pub(super) fn journal(folder: &Path) -> PathBuf {
    folder.join("meta/_journal.json")
}

pub(super) struct Drizzle;

impl Tool for Drizzle {
    fn name(&self) -> &'static str {
        "drizzle"
    }

    fn table(&self) -> &'static str {
        "__drizzle_migrations"
    }

    fn columns(&self) -> &'static [&'static str] {
        &["id", "hash", "created_at"]
    }

    fn create(&self) -> &'static str {
        "CREATE TABLE \"__drizzle_migrations\" (id SERIAL PRIMARY KEY, hash text NOT NULL, created_at numeric)"
    }

    fn read(&self, folder: &Path) -> Result<Vec<Migration>, Error> {
        let path = journal(folder);
        let text = std::fs::read_to_string(&path).map_err(failed("read", &path))?;
        let journal: Journal = serde_json::from_str(&text).map_err(|e| {
            Error::invalid(format!("read `{}`: {e}", path.display()), "`drizzle-kit generate` makes it anew")
        })?;
        let read = |Entry { when, tag }: Entry| {
            let path = folder.join(format!("{tag}.sql"));
            let text = std::fs::read_to_string(&path).map_err(failed("read", &path))?;
            let up = text.replace(BREAKPOINT, &format!(";{BREAKPOINT}"));
            Ok(Migration { version: when.to_string(), name: tag, path, text, up, down: None })
        };
        journal.entries.into_iter().map(read).collect()
    }

    fn applied(&self, rows: &Rows<'_>) -> Result<Applied, Error> {
        Ok(Applied::UpTo(texts(rows("SELECT created_at FROM __drizzle_migrations", &[])?)))
    }

    fn add(&self, tx: &Transaction<'_>, migration: &Migration, _: Duration) -> Result<(), Error> {
        let hash: String = Sha256::digest(&migration.text).iter().map(|byte| format!("{byte:02x}")).collect();
        let when = migration.version.parse::<i64>().map_or(Value::Null, Value::Integer);
        let insert = "INSERT INTO __drizzle_migrations (hash, created_at) VALUES (?1, ?2)";
        Ok(tx.execute(insert, &[hash.into(), when])?)
    }

    fn remove(&self, _: &Transaction<'_>, _: &str, _: Option<&str>) -> Result<(), Error> {
        Err(Error::invalid(
            "Drizzle's migrations have no way back",
            "write one that undoes it, or restore the database to before it",
        ))
    }

    fn blank(&self, folder: &Folder, _: &str, _: &str) -> Result<Vec<(PathBuf, String)>, Error> {
        Err(Error::invalid(
            format!("`{}` is a folder of Drizzle's migrations", folder.path.display()),
            "`drizzle-kit generate` makes a new one; name another folder with --dir",
        ))
    }
}
