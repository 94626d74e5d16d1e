//! The store's side of one database: what is there, whether it is whole, when it was proven, what it costs.

use std::time::Duration;

use anyhow::Result;
use litekeep_config::StoreUrl;
use litekeep_ltx::Txid;
use litekeep_store::{Counts, Log, ObjectRef, Store, Times, price};
use serde::Serialize;

use crate::commands::history::MissingRange;
use crate::proof::{self, Proof};
use crate::report::text;
use crate::restore_points::Points;

/// Requests are counted over this window, or since the first file where that is younger.
const WINDOW_MS: i64 = 24 * 3600 * 1000;
/// A shorter time says nothing about a month.
const LEAST_WINDOW_MS: i64 = 60_000;

/// One of several destinations may be behind the others this long.
const LAG_MS: i64 = 120_000;

/// What to do about a backup of which nothing is left.
const VANISHED: &str = ": if its disk is not mounted, mount it; if it was deleted on purpose, start litekeep once with --new-timeline";

#[derive(Debug, Serialize)]
pub(crate) struct Backup {
    pub(crate) url: StoreUrl,
    /// As the replicator calls it.
    #[serde(skip)]
    pub(crate) identity: String,
    /// The replicator knows the log to have been there.
    #[serde(skip)]
    pub(crate) has_held: bool,
    /// The replicator has found that a second writer there cannot be told apart.
    pub(crate) unfenced: bool,
    /// Why the rest is not known.
    pub(crate) error: Option<String>,
    pub(crate) contents: Option<Contents>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Contents {
    last_txid: Option<String>,
    pub(crate) last_upload_at: Option<String>,
    pub(crate) files: usize,
    /// With what stands beside the log: single commits, parent maps, proofs.
    pub(crate) size_bytes: u64,
    pub(crate) gaps: Vec<MissingRange>,
    pub(crate) last_proof: Option<Proof>,
    /// `None` for a folder, and until a minute of uploads is there to count.
    pub(crate) month: Option<Month>,
    #[serde(skip)]
    last: Option<Txid>,
    #[serde(skip)]
    last_upload_ms: Option<i64>,
}

/// A month in which everything goes on as in the last day, at the list prices of S3 Standard.
#[derive(Debug, Serialize)]
pub(crate) struct Month {
    put_requests: u64,
    dollars_requests: f64,
    dollars_storage: f64,
    pub(crate) dollars: f64,
}

impl Backup {
    pub(crate) async fn read(url: StoreUrl, store: &Store, now_ms: i64) -> Backup {
        Backup::read_with_log(url, store, now_ms).await.0
    }

    /// The same with the listing, where there is one.
    pub(crate) async fn read_with_log(url: StoreUrl, store: &Store, now_ms: i64) -> (Backup, Option<Log>) {
        let (error, contents, log) = match Contents::read(store, now_ms).await {
            Ok((contents, log)) => (None, Some(contents), Some(log)),
            Err(error) => (Some(format!("{error:#}")), None, None),
        };
        let identity = store.identity();
        (Backup { url, identity, has_held: false, unfenced: false, error, contents }, log)
    }

    /// The last transaction that is there.
    pub(crate) fn last(&self) -> Option<Txid> {
        self.contents.as_ref()?.last
    }

    /// What is wrong, when one of the backups confirmed `durable` and the one that is furthest ends at `furthest`.
    pub(crate) fn red(&self, durable: Option<Txid>, furthest: Option<Txid>, now_ms: i64) -> Vec<String> {
        let mut red = Vec::new();
        if let Some(error) = &self.error {
            red.push(error.clone());
        }
        let Some(contents) = &self.contents else { return red };
        let has = contents.last.map_or("is empty".to_owned(), |last| format!("ends at {last}"));
        let next = if contents.last.is_none() && self.has_held { VANISHED } else { "" };
        let quiet_ms = contents.last_upload_ms.map(|last_ms| now_ms - last_ms);
        match (durable, furthest) {
            (Some(durable), furthest) if furthest < Some(durable) => {
                red.push(format!("{} {has}, although transaction {durable} was confirmed{next}", self.url));
            }
            (Some(durable), _) if contents.last < Some(durable) && quiet_ms.is_none_or(|ms| ms > LAG_MS) => {
                red.push(format!("{} {has}, while another destination has {durable}{next}", self.url));
            }
            _ if contents.last.is_none() => red.push(format!("{} is empty", self.url)),
            _ => {}
        }
        let open = contents.gaps.iter().filter(|gap| !gap.is_over());
        red.extend(open.map(|gap| format!("{}: {}", self.url, gap.text().trim_end())));
        if let Some(proof) = contents.last_proof.as_ref().filter(|proof| !proof.proven) {
            let reason = proof.reason.as_deref().unwrap_or("it differs from the database");
            red.push(format!("{}: the verification at {} failed: {reason}", self.url, proof.at));
        }
        red
    }

    pub(crate) fn text(&self, now_ms: i64) -> String {
        let mut out = format!("    {}: ", self.url);
        let Some(contents) = &self.contents else {
            out.push_str("unknown\n");
            return out;
        };
        out.push_str(&format!(
            "{}, {}",
            text::count(contents.files, "file"),
            text::size(contents.size_bytes)
        ));
        if let Some(last_ms) = contents.last_upload_ms {
            out.push_str(&format!(", last upload {} ago", text::age(now_ms - last_ms)));
        }
        if let Some(month) = &contents.month {
            out.push_str(&format!(", about ${:.2} a month (S3 list price)", month.dollars));
        }
        match &contents.last_proof {
            Some(proof) if proof.proven => out.push_str(&format!(", proven restorable at {}\n", proof.at)),
            Some(_) => out.push('\n'),
            None => out.push_str(", not yet proven restorable\n"),
        }
        if self.unfenced {
            out.push_str("      unfenced: the store ignores conditional writes, so a second writer cannot be told apart\n");
        }
        for gap in contents.gaps.iter().filter(|gap| gap.is_over()) {
            out.push_str(&format!("      {}", gap.text()));
        }
        out
    }
}

impl Contents {
    async fn read(store: &Store, now_ms: i64) -> Result<(Contents, Log)> {
        let log = store.list().await?;
        let records = store.list_records("").await?;
        let points = Points::of(&log, &Times::default());
        let last_upload_ms = log.files().map(|file| file.modified_ms).max();
        let contents = Contents {
            last_txid: log.last().map(|txid| txid.to_string()),
            last_upload_at: last_upload_ms.map(text::rfc3339),
            files: log.files().count(),
            size_bytes: stored(&log, &records),
            gaps: MissingRange::all(&points),
            last_proof: proof::newest_of(store, &records).await?,
            month: if store.as_folder().is_some() { None } else { month(&log, &records, &points, now_ms) },
            last: log.last(),
            last_upload_ms,
        };
        Ok((contents, log))
    }
}

fn stored(log: &Log, records: &[ObjectRef]) -> u64 {
    log.size() + records.iter().map(|record| record.size).sum::<u64>()
}

/// Transaction ids number uploads, so two points tell how many were made between them, also of files that compaction has
/// replaced since.
fn month(log: &Log, records: &[ObjectRef], points: &Points, now_ms: i64) -> Option<Month> {
    let (first, first_ms) = points.first()?;
    let (last, _) = points.last()?;
    let since_ms = first_ms.max(now_ms - WINDOW_MS);
    let window_ms = now_ms - since_ms;
    if window_ms < LEAST_WINDOW_MS {
        return None;
    }
    let uploads = last.get() - points.at(since_ms).unwrap_or(first).get();
    let merged = log.files().filter(|file| file.level > 0 && file.modified_ms >= since_ms).count();
    let beside = records.iter().filter(|record| record.modified_ms >= since_ms).count();
    let counts = Counts { put: uploads + (merged + beside) as u64, ..Counts::default() };
    let window = Duration::from_millis(window_ms.unsigned_abs());
    let price = price::monthly(&counts, window, stored(log, records));
    Some(Month {
        put_requests: (counts.put as f64 * 30.0 * WINDOW_MS as f64 / window_ms as f64) as u64,
        dollars_requests: price.requests,
        dollars_storage: price.storage,
        dollars: price.total(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use litekeep_ltx::FileName;
    use litekeep_store::FileRef;

    #[test]
    fn uploads_are_counted_although_compaction_took_their_files() {
        let txid = |n| Txid::new(n).unwrap();
        let file = |level, min, max, modified_ms| FileRef {
            level,
            name: FileName { min: txid(min), max: txid(max) },
            size: 500_000_000,
            modified_ms,
        };
        // A day with 86,400 uploads, of which one merged file and the newest are left.
        let log =
            Log::new([file(9, 1, 1, 0), file(2, 2, 86_400, WINDOW_MS), file(0, 86_401, 86_401, WINDOW_MS)]);
        let points = Points::of(&log, &Times::default());
        // Of the packs of commits, one for each minute, the first is older than a day.
        let pack = |minute: i64| ObjectRef {
            name: format!("commits/{minute}.pack"),
            size: 1_000_000,
            modified_ms: minute * 60_000 - 1,
        };
        let packs: Vec<_> = (0..=1440).map(pack).collect();
        let month = month(&log, &packs, &points, WINDOW_MS).unwrap();
        assert_eq!(month.put_requests, 30 * (86_401 + 1 + 1440));
        // 2,635,260 puts at 5 dollars a million, and 2.941 GB.
        assert!((month.dollars_requests - 13.1763).abs() < 1e-9, "{month:?}");
        assert!((month.dollars_storage - 0.067_643).abs() < 1e-9, "{month:?}");
    }

    #[test]
    fn a_minute_is_too_short_for_a_price() {
        let file = FileRef {
            level: 0,
            name: FileName { min: Txid::FIRST, max: Txid::FIRST },
            size: 1,
            modified_ms: 1000,
        };
        let log = Log::new([file]);
        assert!(month(&log, &[], &Points::of(&log, &Times::default()), 60_999).is_none());
    }
}
