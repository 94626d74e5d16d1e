//! `litekeep restore`: the last state, or that of any transaction or instant.
//!
//! Of several destinations the one that reaches the goal best is used: the greatest transaction, then the first named.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use litekeep_config::StoreUrl;
use litekeep_env::{Clock, SystemClock};
use litekeep_replicate::restore::{self, Damaged, Goal, Integrity, Options, RestorePlan, Restored};
use litekeep_store::Store;
use serde::Serialize;

use crate::args::{self, IntegrityCheck};
use crate::point_in_time;
use crate::report::progress::Shown;
use crate::report::{self, Failure, Format, Outcome, text};
use crate::settings::database::{Backup, backups};
use crate::settings::{Stores, is_store};

/// What was, or would be, restored.
#[derive(Debug, Serialize)]
struct Summary {
    path: PathBuf,
    url: StoreUrl,
    txid: String,
    time: String,
    page_size: u32,
    pages: u32,
    database_bytes: u64,
    files: usize,
    read_bytes: u64,
    /// The goal is an instant after the last transaction of the backup.
    after_end: bool,
    damaged: Vec<DamagedFile>,
}

#[derive(Debug, Serialize)]
struct DamagedFile {
    file: String,
    cause: String,
}

#[derive(Serialize)]
struct Done {
    restored: bool,
    /// Why nothing was restored.
    reason: Option<&'static str>,
    seconds: Option<f64>,
    kept_aside: Option<PathBuf>,
    #[serde(flatten)]
    summary: Option<Summary>,
}

#[derive(Serialize)]
struct DryRun {
    dry_run: bool,
    #[serde(flatten)]
    summary: Summary,
    plan: Vec<PlannedFile>,
}

#[derive(Serialize)]
struct PlannedFile {
    level: u8,
    min_txid: String,
    max_txid: String,
    size_bytes: u64,
}

/// A backup with the plan that brings the goal back from it.
struct Source {
    url: StoreUrl,
    store: Store,
    plan: RestorePlan,
}

pub(super) async fn run(args: &args::Restore, format: Format) -> Result<Outcome> {
    let what = match (&args.txid, args.timestamp.as_ref().or(args.at.as_ref())) {
        (Some(txid), _) => format!("restore `{}` to transaction {txid}", args.target),
        (None, Some(when)) => format!("restore `{}` to {when}", args.target),
        (None, None) => format!("restore `{}`", args.target),
    };
    restore(args, format).await.context(what)
}

async fn restore(args: &args::Restore, format: Format) -> Result<Outcome> {
    let goal = goal(args, &SystemClock, format)?;
    let path = output(args)?;
    if args.if_db_not_exists && path.symlink_metadata().is_ok() {
        return Ok(nothing(format, "the database exists", &path));
    }
    let Some(source) = source(args, goal, format).await? else {
        return Ok(nothing(format, "there is no backup", &path));
    };
    if args.dry_run {
        report_plan(&source, path, format);
        return Ok(Outcome::Done);
    }
    let options = Options {
        force: args.force,
        if_not_exists: args.if_db_not_exists,
        integrity: match args.integrity_check {
            IntegrityCheck::None => Integrity::None,
            IntegrityCheck::Quick => Integrity::Quick,
            IntegrityCheck::Full => Integrity::Full,
        },
        parallelism: args.parallelism,
        ..Options::default()
    };
    let begin = SystemClock.boottime();
    let shown = Shown::new(format);
    // The plan's transaction and not the goal: what was announced is what is restored.
    let restored =
        restore::to_path(&source.store, Goal::Txid(source.plan.txid), &path, &options, &shown).await;
    shown.end();
    match restored? {
        Some(restored) => report_restored(source, restored, path, SystemClock.boottime() - begin, format),
        None => return Ok(nothing(format, "the database exists", &path)),
    }
    Ok(Outcome::Done)
}

/// What the user asked for; an instant is echoed in UTC.
fn goal(args: &args::Restore, clock: &dyn Clock, format: Format) -> Result<Goal> {
    if let Some(txid) = args.txid {
        return Ok(Goal::Txid(txid));
    }
    let now = Timestamp::from_millisecond(clock.unix_ms()).context("read the clock")?;
    let (text, read) = match (&args.timestamp, &args.at) {
        (Some(text), _) => (text, point_in_time::parse_rfc3339(text, now)),
        (None, Some(text)) => (text, point_in_time::parse(text, now, &TimeZone::system())),
        (None, None) => return Ok(Goal::Latest),
    };
    let instant = read.map_err(|cause| Failure::invalid(format!("`{text}`: {cause}")))?;
    if format == Format::Text {
        eprintln!("restoring the state at {instant}");
    }
    Ok(Goal::Time(instant.as_millisecond()))
}

fn output(args: &args::Restore) -> Result<PathBuf, Failure> {
    match &args.output {
        Some(path) => Ok(path.clone()),
        None if is_store(&args.target) => {
            Err(Failure::invalid("a backup does not say where its database belongs")
                .hint("name the file with -o"))
        }
        None => Ok(PathBuf::from(&args.target)),
    }
}

/// The backup that reaches the goal best; `None` when all are empty and that is no error.
async fn source(args: &args::Restore, goal: Goal, format: Format) -> Result<Option<Source>> {
    let stores = Stores::default();
    let mut best: Option<Source> = None;
    let mut failed = Vec::new();
    for Backup { destination, .. } in backups(Some(&args.target), &args.config, format)? {
        let store = stores.open(&destination)?;
        match restore::plan(&store, goal).await {
            Ok(plan) if best.as_ref().is_none_or(|best| best.plan.txid < plan.txid) => {
                best = Some(Source { url: destination.url, store, plan });
            }
            Ok(_) => {}
            Err(error) => failed.push((destination.url, error)),
        }
    }
    let is_empty = |error: &litekeep_replicate::Error| {
        matches!(error, litekeep_replicate::Error::Store(litekeep_store::Error::Empty))
    };
    if best.is_none() {
        if args.if_replica_exists && failed.iter().all(|(_, error)| is_empty(error)) {
            return Ok(None);
        }
        // An empty destination says less than one that has something and cannot.
        failed.sort_by_key(|(_, error)| is_empty(error));
        if let Some((url, error)) = failed.into_iter().next() {
            return Err(anyhow::Error::new(error).context(format!("restore from `{url}`")));
        }
    } else {
        for (url, error) in failed {
            report::warning(&format!("`{url}` is of no use: {error}"), format);
        }
    }
    Ok(best)
}

fn nothing(format: Format, reason: &'static str, path: &Path) -> Outcome {
    let done = Done { restored: false, reason: Some(reason), seconds: None, kept_aside: None, summary: None };
    report::result(format, &done, || format!("{reason}: `{}` is left as it is\n", path.display()));
    Outcome::Done
}

fn damaged(store: &Store, damaged: &[Damaged]) -> Vec<DamagedFile> {
    let of = |damaged: &Damaged| DamagedFile {
        file: store.place_of_file(damaged.file.level, damaged.file.name),
        cause: damaged.cause.clone(),
    };
    damaged.iter().map(of).collect()
}

fn report_plan(source: &Source, path: PathBuf, format: Format) {
    let plan = &source.plan;
    let files = plan.files.iter().map(|file| PlannedFile {
        level: file.level,
        min_txid: file.min().to_string(),
        max_txid: file.max().to_string(),
        size_bytes: file.size,
    });
    let dry_run = DryRun {
        dry_run: true,
        plan: files.collect(),
        summary: Summary {
            path,
            url: source.url.clone(),
            txid: plan.txid.to_string(),
            time: text::rfc3339(plan.time_ms),
            page_size: plan.page_size.get(),
            pages: plan.page_count,
            database_bytes: plan.database_bytes(),
            files: plan.files.len(),
            read_bytes: plan.bytes(),
            after_end: plan.after_end,
            damaged: damaged(&source.store, &plan.damaged),
        },
    };
    report::result(format, &dry_run, || format!("would restore {}", dry_run.summary.text()));
}

fn report_restored(source: Source, restored: Restored, path: PathBuf, took: Duration, format: Format) {
    let summary = Summary {
        path,
        url: source.url,
        txid: restored.txid.to_string(),
        time: text::rfc3339(restored.time_ms),
        page_size: restored.page_size.get(),
        pages: restored.page_count,
        database_bytes: u64::from(restored.page_count) * u64::from(restored.page_size.get()),
        files: restored.files,
        read_bytes: restored.bytes,
        after_end: source.plan.after_end,
        damaged: damaged(&source.store, &restored.damaged),
    };
    for file in &summary.damaged {
        report::warning(&format!("gone around a damaged file: {}", file.cause), format);
    }
    let mut text = format!("restored {}", summary.text());
    text.push_str(&format!("in {:.1} s\n", took.as_secs_f64()));
    if let Some(kept) = &restored.kept_aside {
        text.push_str(&format!("the former database is kept as {}\n", kept.display()));
    }
    let done = Done {
        restored: true,
        reason: None,
        seconds: Some(took.as_secs_f64()),
        kept_aside: restored.kept_aside,
        summary: Some(summary),
    };
    report::result(format, &done, || text);
}

impl Summary {
    fn text(&self) -> String {
        let end = if self.after_end { ", the last state in the backup" } else { "" };
        format!(
            "{} as of {} (transaction {}{end})\nfrom {}: {} in {}, a database of {}\n",
            self.path.display(),
            self.time,
            self.txid,
            self.url,
            text::size(self.read_bytes),
            text::count(self.files, "file"),
            text::size(self.database_bytes)
        )
    }
}
