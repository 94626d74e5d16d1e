//! A database without rows, in which migrations are tried: the schema that they meet, and what they make of it.

use super::convention;
use super::folder::{Folder, Migration};
use crate::Error;
use litekeep_sql::{MigrationTransaction as Transaction, Migrator, Value};
use std::path::Path;
use std::time::Duration;

/// How long a look at the database waits for others.
const PATIENCE: Duration = Duration::from_secs(10);

/// What migrations meet.
#[derive(Clone, Debug, Default)]
pub(super) struct Before {
    /// The statements that make the schema.
    schema: Vec<String>,
    /// What has not run.
    pending: Vec<Migration>,
}

impl Before {
    /// The schema of a database, and what has not run there; without one nothing has run yet.
    pub(super) fn of(folder: &Folder, database: Option<&Path>) -> Result<Before, Error> {
        let Some(database) = database else {
            return Ok(Before { schema: vec![], pending: folder.migrations.clone() });
        };
        if !database.exists() {
            let message = format!("there is no database `{}`", database.display());
            return Err(Error::invalid(message, "without one, the schema is what the migrations make"));
        }
        let database = Migrator::open(database, PATIENCE)?;
        let applied = convention::look(folder, &database)?;
        // What an index or a trigger needs comes before it.
        let schema = "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' \
                      ORDER BY type <> 'table', type = 'trigger', rowid";
        let schema = database.rows(schema, &[])?.into_iter().flatten();
        let text = |value| if let Value::Text(text) = value { Some(text) } else { None };
        let pending = folder.migrations.iter().filter(|m| !applied.has(&m.version)).cloned();
        Ok(Before { schema: schema.filter_map(text).collect(), pending: pending.collect() })
    }

    /// What has not run.
    pub(super) fn pending(&self) -> &[Migration] {
        &self.pending
    }

    /// Makes the schema. What cannot be made, such as a virtual table of a module that is not here, is not in it.
    pub(super) fn make(&self, tx: &mut Transaction<'_>) {
        for statement in &self.schema {
            let _ = tx.run(statement);
        }
    }
}
