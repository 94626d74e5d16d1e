//! Rows of the caches of a database, for whoever asks: `litekeep get` and the status page.

use std::sync::Arc;

use litekeep_sync::cache::{Answer, Cache, Origin};
use litekeep_sync::{Error, Kind};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

use crate::report::Failure;
use crate::row_key;
use crate::syncs::DatabaseSync;

/// A row, or that there is none.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Got {
    pub(crate) sync: String,
    pub(crate) table: String,
    pub(crate) key: Map<String, Json>,
    pub(crate) found: bool,
    /// `hit`, `stale` or `miss`.
    pub(crate) cache: String,
    /// How long ago the server was asked for it.
    pub(crate) age_seconds: f64,
    /// Why it is not newer, or not kept.
    pub(crate) trouble: Option<String>,
    pub(crate) row: Option<Map<String, Json>>,
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Unanswered {
    /// What was asked for is nothing that there can be.
    Mistaken(Failure),
    /// The server, or the database, does not answer, or refuses.
    Failed(anyhow::Error, Kind),
}

impl From<Error> for Unanswered {
    fn from(error: Error) -> Unanswered {
        let kind = error.kind();
        Unanswered::Failed(error.into(), kind)
    }
}

/// The row of a table with a key, of the caches of one database.
///
/// # Errors
/// As [`Unanswered`].
pub(crate) async fn get(syncs: &[DatabaseSync], table: &str, key: &str) -> Result<Got, Unanswered> {
    if syncs.is_empty() {
        let failure = Failure::invalid("the database has no cache");
        let hint = "add a [[sync]] with mode = \"cache\", from = \"${DATABASE_URL}\" and ttl = \"5m\"";
        return Err(Unanswered::Mistaken(failure.hint(hint)));
    }
    let mut tables: Vec<String> = vec![];
    for sync in syncs {
        let named = &sync.config.tables;
        if !named.is_empty() && !named.iter().any(|name| name.eq_ignore_ascii_case(table)) {
            tables.extend_from_slice(named);
            continue;
        }
        let cache = sync.cache(false, true).map_err(|error| Unanswered::Failed(error, Kind::Invalid))?;
        let plan = cache.tables().await?;
        if let Some(source) = plan.tables().find(|found| found.mirror.name.eq_ignore_ascii_case(table)) {
            let found = &source.mirror;
            let values = row_key::values(key, found).map_err(Unanswered::Mistaken)?;
            let names = found.key.iter().map(|nth| found.columns[*nth].name.clone());
            let key = names.zip(values.iter().map(litekeep_rows::json::value)).collect();
            let answer = cache.get(source, values).await?;
            return Ok(Got::new(sync.config.name.clone(), found.name.clone(), key, answer));
        }
        tables.extend(plan.tables().map(|table| table.mirror.name.clone()));
    }
    let failure = Failure::invalid(format!("no cache of the database has a table `{table}`"));
    let hint = format!("there are {}; `litekeep sync resync` takes up others", tables.join(", "));
    Err(Unanswered::Mistaken(failure.hint(hint)))
}

impl Got {
    fn new(sync: String, table: String, key: Map<String, Json>, answer: Answer) -> Got {
        Got {
            sync,
            table,
            key,
            found: answer.row.is_some(),
            cache: answer.origin.word().to_owned(),
            age_seconds: answer.age.as_millis() as f64 / 1000.0,
            trouble: answer.trouble,
            row: answer.row.map(|row| litekeep_rows::json::object(&row)),
        }
    }

    /// It is older than it should be.
    pub(crate) fn is_stale(&self) -> bool {
        self.cache == Origin::Stale.word()
    }
}

/// The caches among syncs.
pub(crate) fn of(syncs: &[DatabaseSync], is_meant: impl Fn(&DatabaseSync) -> bool) -> Vec<DatabaseSync> {
    syncs.iter().filter(|sync| sync.is_cache() && is_meant(sync)).cloned().collect()
}

/// What is asked behind answers comes to its end, and what was counted is told.
pub(crate) async fn settle(cache: &Arc<Cache>) {
    cache.settle().await;
    // Figures are only for those who look.
    _ = cache.tell_figures().await;
}
