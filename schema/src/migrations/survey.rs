//! What another program did to a database: everything is counted before and after.

use super::guard::{self, Harm};
use crate::Error;
use litekeep_sql::{Aims, Census, Migrator};
use std::path::Path;
use std::time::Duration;

/// How long to wait for a writer that keeps readers out.
const PATIENCE: Duration = Duration::from_secs(10);

/// The rows and objects of a database at one instant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    census: Census,
    schema: u32,
}

impl Survey {
    /// Counts everything in one read transaction; where there is no database yet, nothing.
    ///
    /// # Errors
    /// Those of SQLite.
    pub fn of(database: &Path) -> Result<Survey, Error> {
        if !database.exists() {
            return Ok(Survey::default());
        }
        let migrator = Migrator::open(database, PATIENCE)?;
        let (census, schema) = migrator.census()?;
        Ok(Survey { census, schema })
    }

    /// What is lost in a later one. Nothing is known of what the program meant, so whatever shall go must be in `allowed`.
    pub fn harms(&self, later: &Survey, allowed: &[String]) -> Vec<Harm> {
        let mut harms = guard::harms(&self.census, &later.census, &Aims::default());
        harms.retain(|harm| !allowed.iter().any(|code| code == harm.code()));
        harms
    }
}

/// Copies a database as it is now, with what is in its WAL; one that is not there yet has no copy.
///
/// # Errors
/// Those of SQLite.
pub fn copy(database: &Path, to: &Path) -> Result<(), Error> {
    if database.exists() { Ok(Migrator::open(database, PATIENCE)?.copy_to(to)?) } else { Ok(()) }
}
