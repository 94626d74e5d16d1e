//! What the stores have of one database.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use litekeep_config::StoreUrl;
use litekeep_env::{Clock, SystemClock};
use litekeep_ltx::Txid;
use litekeep_store::{Log, SNAPSHOT_LEVEL, Store, Times};
use serde::Serialize;

use crate::commands::history::MissingRange;
use crate::commands::status::backup::Backup;
use crate::proof::{self, Proof};
use crate::report::text;
use crate::restore_points::Points;

/// How often a bucket is listed, which costs requests, and a folder, which costs nothing.
const BUCKET_EVERY: Duration = Duration::from_secs(60);
const FOLDER_EVERY: Duration = Duration::from_secs(5);
/// Proofs that are shown.
const PROOFS: usize = 20;
/// Restore points that are shown; of more, an even choice.
const POINTS: usize = 500;

/// All destinations of one database.
#[derive(Debug, Default)]
pub(super) struct Listing {
    pub(super) backups: Vec<Listed>,
    /// What is wrong with them.
    pub(super) red: Vec<String>,
}

/// One destination.
#[derive(Debug)]
pub(super) struct Listed {
    pub(super) at_ms: i64,
    pub(super) backup: Backup,
    /// With the names of their records, the newest last.
    pub(super) proofs: Vec<(String, Proof)>,
    pub(super) timeline: Timeline,
}

/// What can be restored.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Timeline {
    any_second_since: Option<String>,
    /// The oldest first.
    points: Vec<Point>,
    gaps: Vec<MissingRange>,
}

#[derive(Clone, Debug, Serialize)]
struct Point {
    txid: String,
    time: String,
    /// A snapshot ends there.
    snapshot: bool,
}

/// How often these stores are listed.
pub(super) fn every(stores: &[(StoreUrl, Store)]) -> Duration {
    if stores.iter().all(|(_, store)| store.as_folder().is_some()) { FOLDER_EVERY } else { BUCKET_EVERY }
}

impl Listing {
    /// Lists the stores; `durable` was confirmed before that.
    pub(super) async fn read(
        stores: Vec<(StoreUrl, Store)>,
        durable: Option<Txid>,
        last: Option<Arc<Listing>>,
    ) -> Listing {
        let before = |place: usize| last.as_ref().and_then(|last| last.backups.get(place));
        let listed = stores.into_iter().enumerate();
        let listed = listed.map(|(place, (url, store))| Listed::read(url, store, before(place)));
        let backups: Vec<Listed> = join_all(listed).await;
        let furthest = backups.iter().filter_map(|listed| listed.backup.last()).max();
        let red =
            backups.iter().flat_map(|listed| listed.backup.red(durable, furthest, listed.at_ms)).collect();
        Listing { backups, red }
    }
}

impl Listed {
    /// What was there `before` stays where it cannot be read again.
    async fn read(url: StoreUrl, store: Store, before: Option<&Listed>) -> Listed {
        let known = before.map_or(&[][..], |before| &before.proofs);
        let at_ms = SystemClock.unix_ms();
        let (mut backup, log) = Backup::read_with_log(url, &store, at_ms).await;
        let proofs = match proof::recent(&store, PROOFS, known).await {
            Ok(proofs) => proofs,
            Err(error) => {
                backup.error.get_or_insert_with(|| format!("{error:#}"));
                known.to_vec()
            }
        };
        let timeline = match &log {
            Some(log) => Timeline::of(log),
            None => before.map(|before| before.timeline.clone()).unwrap_or_default(),
        };
        Listed { at_ms, backup, proofs, timeline }
    }
}

impl Timeline {
    fn of(log: &Log) -> Timeline {
        let points = Points::of(log, &Times::default());
        let snapshots: HashSet<Txid> = log.level(SNAPSHOT_LEVEL).iter().map(|file| file.max()).collect();
        let all: Vec<(Txid, i64)> = points.iter().collect();
        let step = all.len().div_ceil(POINTS).max(1);
        let shown = all.iter().enumerate().filter(|(place, (txid, _))| {
            (all.len() - 1 - place).is_multiple_of(step) || *place == 0 || snapshots.contains(txid)
        });
        let point = |(txid, at_ms): &(Txid, i64)| Point {
            txid: txid.to_string(),
            time: text::rfc3339(*at_ms),
            snapshot: snapshots.contains(txid),
        };
        Timeline {
            any_second_since: points.any_second_since_ms().map(text::rfc3339),
            points: shown.map(|(_, own)| point(own)).collect(),
            gaps: MissingRange::all(&points),
        }
    }
}
