//! Rows of caches for whoever asks over HTTP.

use std::time::Duration;

use litekeep_dashboard::{Got, Refused, Wanted};
use litekeep_sync::Kind;

use super::view::{Board, is_meant};
use crate::caches::{self, Unanswered};
use crate::report::Report;
use crate::verification::canonical;

impl Board {
    /// A row of a cache.
    ///
    /// # Errors
    /// As [`Refused`].
    pub(super) async fn get(&self, wanted: Wanted) -> Result<Got, Refused> {
        let of_name = caches::of(self.syncs_of_all(), |sync| {
            is_meant(&canonical(&sync.database.path), &wanted.database)
        });
        let mut databases: Vec<_> =
            of_name.iter().map(|sync| sync.database.path.display().to_string()).collect();
        databases.sort();
        databases.dedup();
        if let [_, _, ..] = databases.as_slice() {
            return Err(Refused::Unknown(format!("say which database: {}\n", databases.join(", "))));
        }
        match caches::get(&of_name, &wanted.table, &wanted.key).await {
            Ok(got) => Ok(Got {
                row: got.row.map(|row| serde_json::Value::Object(row).to_string()),
                cache: got.cache,
                age: Duration::try_from_secs_f64(got.age_seconds).unwrap_or_default(),
                trouble: got.trouble,
            }),
            Err(Unanswered::Mistaken(failure)) => Err(Refused::Invalid(line(&failure.into()))),
            Err(Unanswered::Failed(error, Kind::Unavailable)) => Err(Refused::Unavailable(line(&error))),
            Err(Unanswered::Failed(error, _)) => Err(Refused::Failed(line(&error))),
        }
    }
}

fn line(error: &anyhow::Error) -> String {
    let report = Report::of(error);
    let hint = report.hint.map_or(String::new(), |hint| format!("; {hint}"));
    format!("{}{hint}\n", report.message)
}
