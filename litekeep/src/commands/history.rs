//! `litekeep history`: which points can be restored, and what is missing between them.

use anyhow::{Context as _, Result};
use litekeep_config::StoreUrl;
use litekeep_ltx::Txid;
use litekeep_store::{Log, SNAPSHOT_LEVEL, Store, Times};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

use crate::args;
use crate::report::{self, Format, Outcome, text};
use crate::restore_points::{Gap, Points};
use crate::settings::Stores;
use crate::settings::database::{Backup, backups};

#[derive(Serialize)]
struct Histories {
    backups: Vec<History>,
}

#[derive(Serialize)]
struct History {
    database: Option<PathBuf>,
    url: StoreUrl,
    files: Vec<File>,
    gaps: Vec<MissingRange>,
    summary: Option<Summary>,
}

#[derive(Serialize)]
struct File {
    level: u8,
    min_txid: String,
    max_txid: String,
    time: String,
    size_bytes: u64,
    restorable: bool,
}

/// Transactions that are missing, and what cannot be restored for that.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct MissingRange {
    first_missing: String,
    last_missing: String,
    last_restorable_before: Option<String>,
    first_restorable_after: Option<String>,
    /// When these two were: no instant in between can be restored.
    from: Option<String>,
    to: Option<String>,
}

impl MissingRange {
    /// All of a log.
    pub(crate) fn all(points: &Points) -> Vec<MissingRange> {
        let text = |txid: Option<Txid>| txid.map(|txid| txid.to_string());
        let time = |txid: Option<Txid>| txid.and_then(|txid| points.time_of(txid)).map(text::rfc3339);
        let range = |gap: &Gap| MissingRange {
            first_missing: gap.first.to_string(),
            last_missing: gap.last.to_string(),
            last_restorable_before: text(gap.before),
            first_restorable_after: text(gap.after),
            from: time(gap.before),
            to: time(gap.after),
        };
        points.gaps().iter().map(range).collect()
    }

    /// Whether what came after it can be restored again.
    pub(crate) fn is_over(&self) -> bool {
        self.first_restorable_after.is_some()
    }
}

#[derive(Serialize)]
struct Summary {
    first: Point,
    last: Point,
    any_second_since: Option<String>,
    size_bytes: u64,
}

#[derive(Serialize)]
struct Point {
    txid: String,
    time: String,
}

impl From<(Txid, i64)> for Point {
    fn from((txid, time_ms): (Txid, i64)) -> Self {
        Point { txid: txid.to_string(), time: text::rfc3339(time_ms) }
    }
}

impl History {
    async fn read(backup: Backup, stores: &Stores, exact: bool) -> Result<History> {
        let store = stores.open(&backup.destination)?;
        let log = store.list().await?;
        let times = times(&store, &log, exact).await?;
        let points = Points::of(&log, &times);
        let mut files: Vec<_> = log.files().collect();
        files.sort_by_key(|file| (file.max(), file.level));
        let summary = points.first().zip(points.last()).map(|(first, last)| Summary {
            first: first.into(),
            last: last.into(),
            any_second_since: points.any_second_since_ms().map(text::rfc3339),
            size_bytes: log.size(),
        });
        Ok(History {
            database: backup.database.map(|database| database.path),
            url: backup.destination.url,
            files: files
                .into_iter()
                .map(|file| File {
                    level: file.level,
                    min_txid: file.min().to_string(),
                    max_txid: file.max().to_string(),
                    time: text::rfc3339(times.of(file)),
                    size_bytes: file.size,
                    restorable: points.contains(file.max()),
                })
                .collect(),
            gaps: MissingRange::all(&points),
            summary,
        })
    }

    fn text(&self) -> String {
        let mut out = match &self.database {
            Some(database) => format!("{} in {}\n", database.display(), self.url),
            None => format!("{}\n", self.url),
        };
        let rows: Vec<_> = self.files.iter().map(File::row).collect();
        if !rows.is_empty() {
            out.push_str(&text::table(&["LEVEL", "FROM TXID", "TO TXID", "TIME", "SIZE", ""], &[4], &rows));
        }
        for gap in &self.gaps {
            out.push_str(&gap.text());
        }
        match &self.summary {
            Some(summary) => out.push_str(&summary.text()),
            None => out.push_str("nothing can be restored from here\n"),
        }
        out
    }
}

/// The files' times: exact in a folder; elsewhere those of the uploads, unless each file is asked.
async fn times(store: &Store, log: &Log, exact: bool) -> Result<Times> {
    let mut times = Times::default();
    if exact && store.as_folder().is_none() {
        store.learn_times(log.files().cloned().collect(), &mut times).await?;
    }
    Ok(times)
}

impl File {
    fn row(&self) -> Vec<String> {
        let level = match self.level {
            SNAPSHOT_LEVEL => "snapshot".to_owned(),
            level => level.to_string(),
        };
        let remark = if self.restorable { "" } else { "out of reach" };
        vec![
            level,
            self.min_txid.clone(),
            self.max_txid.clone(),
            self.time.clone(),
            text::size(self.size_bytes),
            remark.to_owned(),
        ]
    }
}

impl MissingRange {
    pub(crate) fn text(&self) -> String {
        let since = self.from.as_ref().map_or(String::new(), |from| format!(" after {from}"));
        let until = match (&self.first_restorable_after, &self.to) {
            (Some(txid), Some(to)) => {
                format!(" and before {to} can be restored; transaction {txid} is the next")
            }
            _ => " can be restored".to_owned(),
        };
        format!(
            "GAP: transactions {} to {} are missing: nothing{since}{until}\n",
            self.first_missing, self.last_missing
        )
    }
}

impl Summary {
    fn text(&self) -> String {
        let mut out = format!(
            "restorable from {} ({}) to {} ({}), {}\n",
            self.first.time,
            self.first.txid,
            self.last.time,
            self.last.txid,
            text::size(self.size_bytes)
        );
        if let Some(since) = &self.any_second_since {
            out.push_str(&format!("any second since {since}\n"));
        }
        out
    }
}

pub(super) async fn run(args: &args::History, format: Format) -> Result<Outcome> {
    let what = args.target.as_deref().map_or("list the restore points".to_owned(), |target| {
        format!("list the restore points of `{target}`")
    });
    let (histories, failed) = read(args, format).await.context(what.clone())?;
    // What there is of the others is told all the same.
    if failed.is_none() || !histories.backups.is_empty() {
        report::result(format, &histories, || {
            histories.backups.iter().map(History::text).collect::<Vec<_>>().join("\n")
        });
    }
    if let Some(error) = failed {
        return Err(error.context(what));
    }
    let empty = histories.backups.iter().any(|history| history.summary.is_none());
    Ok(if empty { Outcome::No } else { Outcome::Done })
}

/// Every backup, and the first of those that could not be read.
async fn read(args: &args::History, format: Format) -> Result<(Histories, Option<anyhow::Error>)> {
    let stores = Stores::default();
    let (mut read, mut failures) = (Vec::new(), Vec::new());
    for backup in backups(args.target.as_deref(), &args.config, format)? {
        let doing = format!("read `{}`", backup.destination.url);
        match History::read(backup, &stores, args.exact).await.context(doing) {
            Ok(history) => read.push(history),
            Err(error) => failures.push(error),
        }
    }
    let mut failures = failures.into_iter();
    let first = failures.next();
    failures.for_each(|error| report::warning(&format!("{error:#}"), format));
    Ok((Histories { backups: read }, first))
}
