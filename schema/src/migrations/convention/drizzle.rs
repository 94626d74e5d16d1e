//! Drizzle's layout: files in the order of `meta/_journal.json`, whose `when` is the version. The table
//! `__drizzle_migrations` has a row for each that has run; one that is not later than the latest of them counts as run.

use super::{Applied, Rows, columns, digits};
use crate::Error;
use crate::migrations::folder::{Migration, failed};
use litekeep_sql::{MigrationTransaction as Transaction, Value};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

const TABLE: &str = "__drizzle_migrations";
/// Stands between statements, which need no semicolon then.
const BREAKPOINT: &str = "--> statement-breakpoint";

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

pub(in crate::migrations) fn read(folder: &Path) -> Result<Vec<Migration>, Error> {
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

pub(super) fn applied(rows: &Rows<'_>) -> Result<Option<Applied>, Error> {
    if columns(rows, TABLE)?.is_empty() {
        return Ok(None);
    }
    Ok(Some(Applied::UpTo(digits(rows(&format!("SELECT created_at FROM \"{TABLE}\""), &[])?))))
}

pub(super) fn create(tx: &Transaction<'_>) -> Result<(), Error> {
    let columns = "id SERIAL PRIMARY KEY, hash text NOT NULL, created_at numeric";
    Ok(tx.execute(&format!("CREATE TABLE \"{TABLE}\" ({columns})"), &[])?)
}

pub(super) fn add(tx: &Transaction<'_>, migration: &Migration) -> Result<(), Error> {
    let hash: String = Sha256::digest(&migration.text).iter().map(|byte| format!("{byte:02x}")).collect();
    let when = migration.version.parse::<i64>().map_or(Value::Null, Value::Integer);
    let insert = format!("INSERT INTO \"{TABLE}\" (hash, created_at) VALUES (?1, ?2)");
    Ok(tx.execute(&insert, &[hash.into(), when])?)
}
