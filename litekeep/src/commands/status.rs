//! `litekeep status`: how far each backup is behind its database, and whether anything is wrong.
//!
//! Nothing is asked of the replicator: what it wrote beside the database, SQLite's wal-index and the store's listing tell
//! the same also when it hangs. The live side is read before the store's, so that a store that lacks what was confirmed
//! has truly lost it.

mod backup;
mod live;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use litekeep_env::{Clock, SystemClock};
use serde::Serialize;
use tokio::sync::Semaphore;

use crate::args;
use crate::report::{self, Format, Outcome, text};
use crate::settings::{Database, Stores, database};

use backup::Backup;
use live::{Live, Watch};

/// Listings that run at the same time.
const AT_ONCE: usize = 16;
/// A replicator that is behind is given its upload interval and this much more to show that it moves.
const PATIENCE: Duration = Duration::from_secs(2);
/// No look at the status takes longer than this, whatever the upload interval.
const LONGEST_WATCH: Duration = Duration::from_secs(5);

#[derive(Serialize)]
struct Status {
    ok: bool,
    at: String,
    databases: Vec<DatabaseStatus>,
}

#[derive(Serialize)]
struct DatabaseStatus {
    path: PathBuf,
    ok: bool,
    /// Why it is not.
    red: Vec<String>,
    #[serde(flatten)]
    live: Live,
    backups: Vec<Backup>,
}

impl DatabaseStatus {
    fn new(database: &Database, live: Live, backups: Vec<Backup>) -> DatabaseStatus {
        let mut red = live.red();
        let furthest = backups.iter().filter_map(Backup::last).max();
        red.extend(backups.iter().flat_map(|backup| backup.red(live.durable(), furthest, live.at_ms())));
        DatabaseStatus { path: database.path.clone(), ok: red.is_empty(), red, live, backups }
    }

    fn text(&self, now_ms: i64) -> String {
        let state = if self.ok { "ok " } else { "RED" };
        let mut out = format!("{state} {}\n", self.path.display());
        for reason in &self.red {
            out.push_str(&format!("    ! {reason}\n"));
        }
        out.push_str(&self.live.text(now_ms));
        for backup in &self.backups {
            out.push_str(&backup.text(now_ms));
        }
        out
    }
}

pub(super) async fn run(args: &args::Status, format: Format) -> Result<Outcome> {
    let what = args
        .target
        .as_deref()
        .map_or("tell the status".to_owned(), |target| format!("tell the status of `{target}`"));
    let clock = SystemClock;
    let status = status(args, format, &clock).await.context(what)?;
    report::result(format, &status, || {
        let now_ms = clock.unix_ms();
        let mut out: String = status.databases.iter().map(|database| database.text(now_ms)).collect();
        if status.databases.is_empty() {
            out.push_str("the configuration names no database\n");
        }
        out
    });
    Ok(if status.ok { Outcome::Done } else { Outcome::No })
}

async fn status(args: &args::Status, format: Format, clock: &dyn Clock) -> Result<Status> {
    let databases = database::databases(args.target.as_deref().map(Path::new), &args.config, format)?;
    let live = watch(&databases, clock).await;
    let backups = backups(&databases, clock.unix_ms()).await?;
    let databases: Vec<_> = databases
        .iter()
        .zip(live)
        .zip(backups)
        .map(|((database, live), backups)| DatabaseStatus::new(database, live, backups))
        .collect();
    Ok(Status {
        ok: databases.iter().all(|database| database.ok),
        at: text::rfc3339(clock.unix_ms()),
        databases,
    })
}

/// Looks at all databases, and again at those that are behind until they moved or their time is over.
async fn watch(databases: &[Database], clock: &dyn Clock) -> Vec<Live> {
    let mut watches: Vec<_> = databases.iter().map(|database| Watch::begin(database, clock)).collect();
    let begin = clock.boottime();
    loop {
        let passed = clock.boottime() - begin;
        let waiting = |database: &Database| passed < (interval(database) + PATIENCE).min(LONGEST_WATCH);
        let mut again = false;
        for (database, watch) in databases.iter().zip(&mut watches) {
            if watch.is_behind() && waiting(database) {
                watch.look(database, clock);
                again |= watch.is_behind();
            }
        }
        if !again {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    watches.into_iter().zip(databases).map(|(watch, database)| watch.end(interval(database))).collect()
}

/// The longest of the destinations' upload intervals.
fn interval(database: &Database) -> Duration {
    let intervals =
        database.destinations.iter().map(|destination| database.config.upload_interval_for(destination));
    intervals.max().unwrap_or_default()
}

/// The backups of each database.
async fn backups(databases: &[Database], now_ms: i64) -> Result<Vec<Vec<Backup>>> {
    let stores = Stores::default();
    let permits = Arc::new(Semaphore::new(AT_ONCE));
    let mut tasks = Vec::new();
    for database in databases {
        let mut own = Vec::new();
        for destination in &database.destinations {
            let (url, store) = (destination.url.clone(), stores.open(destination)?);
            let permits = permits.clone();
            own.push(tokio::spawn(async move {
                let _permit = permits.acquire_owned().await;
                Backup::read(url, &store, now_ms).await
            }));
        }
        tasks.push(own);
    }
    let mut backups = Vec::new();
    for own in tasks {
        let mut read = Vec::new();
        for task in own {
            read.push(task.await.context("list a backup")?);
        }
        backups.push(read);
    }
    Ok(backups)
}
