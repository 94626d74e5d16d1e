//! refinery's layout: `V1__name.sql` (and `U1__name.sql`, which may run out of order). The table `refinery_schema_history` has a row
//! for each that has run, with a SipHash of name, version and statements: refinery refuses to go on when a file has changed.

use super::{Applied, Rows, Tool, sql_files, text_of, texts};
use crate::Error;
use crate::migrations::folder::{Folder, Migration};
use litekeep_sql::{MigrationTransaction as Transaction, Value};
use siphasher::sip::SipHasher13;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub(super) struct Refinery;

/// `V1__name`: version and name.
pub(super) fn parse(stem: &str) -> Option<(&str, &str)> {
    let (version, name) = stem.strip_prefix(['V', 'U'])?.split_once("__")?;
    let is_version = !version.is_empty() && version.bytes().all(|b| b.is_ascii_digit());
    (is_version && !name.is_empty()).then_some((version, name))
}

/// What refinery itself computes; versions are 32 bits wide unless its feature `int8-versions` is on.
fn checksum(name: &str, version: i64, sql: &str, is_wide: bool) -> u64 {
    let mut hasher = SipHasher13::new();
    name.hash(&mut hasher);
    match i32::try_from(version) {
        Ok(version) if !is_wide => version.hash(&mut hasher),
        _ => version.hash(&mut hasher),
    }
    sql.hash(&mut hasher);
    hasher.finish()
}

impl Tool for Refinery {
    fn name(&self) -> &'static str {
        "refinery"
    }

    fn table(&self) -> &'static str {
        "refinery_schema_history"
    }

    fn columns(&self) -> &'static [&'static str] {
        &["version", "name", "applied_on", "checksum"]
    }

    fn create(&self) -> &'static str {
        "CREATE TABLE refinery_schema_history(version int4 PRIMARY KEY, name VARCHAR(255), applied_on VARCHAR(255), checksum VARCHAR(255))"
    }

    fn read(&self, folder: &Path) -> Result<Vec<Migration>, Error> {
        let mut migrations = vec![];
        for (path, stem) in sql_files(folder)? {
            let Some((version, name)) = parse(&stem) else {
                return Err(Error::invalid(
                    format!("`{}` is no migration of refinery's", path.display()),
                    "name it like V1__what_it_does.sql",
                ));
            };
            let (version, name, text) = (version.to_owned(), name.to_owned(), text_of(&path)?);
            migrations.push(Migration { version, name, up: text.clone(), text, path, down: None });
        }
        Ok(migrations)
    }

    fn applied(&self, rows: &Rows<'_>) -> Result<Applied, Error> {
        Ok(Applied::Each(texts(rows("SELECT version FROM refinery_schema_history", &[])?)))
    }

    fn add(&self, tx: &Transaction<'_>, migration: &Migration, _: Duration) -> Result<(), Error> {
        let version = migration.version.parse::<i64>().map_err(|_| {
            Error::invalid(
                format!("the version of `{}` is too great for refinery", migration.path.display()),
                "give it a smaller one",
            )
        })?;
        let width =
            "SELECT lower(type) FROM pragma_table_info('refinery_schema_history') WHERE name = 'version'";
        let is_wide = texts(tx.rows(width, &[])?) == ["int8"];
        let checksum = checksum(&migration.name, version, &migration.text, is_wide).to_string();
        let insert = "INSERT INTO refinery_schema_history (version, name, applied_on, checksum) \
                      VALUES (?1, ?2, strftime('%Y-%m-%dT%H:%M:%fZ', 'now'), ?3)";
        let name = Value::from(migration.name.as_str());
        Ok(tx.execute(insert, &[version.into(), name, checksum.into()])?)
    }

    fn remove(&self, tx: &Transaction<'_>, version: &str, _: Option<&str>) -> Result<(), Error> {
        Ok(tx.execute("DELETE FROM refinery_schema_history WHERE version = ?1", &[version.into()])?)
    }

    fn blank(&self, folder: &Folder, _: &str, name: &str) -> Result<Vec<(PathBuf, String)>, Error> {
        let last = folder.migrations.last().and_then(|m| m.version.parse::<u64>().ok()).unwrap_or(0);
        Ok(vec![(folder.path.join(format!("V{}__{name}.sql", last.saturating_add(1))), "\n".to_owned())])
    }
}
