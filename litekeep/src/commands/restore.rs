//! `litekeep restore`: the last state, or that of any transaction or instant.
//!
//! Of several destinations the one that reaches the goal best is used: the greatest transaction, then the first named. Where that turns out
//! to be damaged, the next one that reaches as far.
//! Where no destination has a log, one that has a backup of Litestream 0.3 is restored from that.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use litekeep_config::StoreUrl;
use litekeep_env::{Clock, SystemClock};
use litekeep_replicate::replicator::{self, Stranded, stranded};
use litekeep_replicate::restore::{self, Damaged, Goal, Integrity, Options, RestorePlan, Restored, v03};
use litekeep_replicate::{Instead, Kind};
use litekeep_store::Store;
use serde::Serialize;

use crate::args::{self, IntegrityCheck};
use crate::child::Signals;
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
    /// `None`, as all that follow, where a backup of Litestream 0.3 does not tell it.
    txid: Option<String>,
    time: String,
    page_size: Option<u32>,
    pages: Option<u32>,
    database_bytes: Option<u64>,
    files: Option<usize>,
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

/// Where the goal is brought back from.
enum Found {
    /// One or more that reach equally far.
    Log(Vec<Source>),
    Former(Box<Former>),
    Nothing,
}

/// A backup with the plan that brings the goal back from it.
struct Source {
    /// litekeep's own state of the database, if that is the one that is restored.
    meta_dir: Option<PathBuf>,
    url: StoreUrl,
    store: Store,
    plan: RestorePlan,
}

/// A backup of Litestream 0.3.
struct Former {
    url: StoreUrl,
    store: Store,
    backup: v03::Backup,
}

pub(super) async fn run(args: &args::Restore, format: Format) -> Result<Outcome> {
    let what = match (&args.txid, args.timestamp.as_ref().or(args.at.as_ref())) {
        (Some(txid), _) => format!("restore `{}` to transaction {txid}", args.target),
        (None, Some(when)) => format!("restore `{}` to {when}", args.target),
        (None, None) => format!("restore `{}`", args.target),
    };
    let goal = goal(args, &SystemClock, format).context(what.clone())?;
    if !args.table.is_empty() {
        // It may ask, and a signal ends it while it does: SQLite takes back what was begun.
        return super::undo::restore_rows(args, goal, format).await.context(what);
    }
    let mut signals = Signals::catch_unignored().context("catch signals")?;
    signals.unless_ended(restore(args, goal, format)).await.context(what)
}

async fn restore(args: &args::Restore, goal: Goal, format: Format) -> Result<Outcome> {
    let path = output(args)?;
    if args.if_db_not_exists && path.symlink_metadata().is_ok() {
        return Ok(nothing(format, "the database exists", &path));
    }
    let found = find(args, goal, format).await?;
    if args.dry_run {
        match &found {
            Found::Log(sources) => report_plan(&sources[0], path, format),
            Found::Former(former) => report_former_plan(former, path, format),
            Found::Nothing => return Ok(nothing(format, "there is no backup", &path)),
        }
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
    let took = || SystemClock.boottime() - begin;
    match found {
        Found::Log(sources) => {
            let mut sources = sources.into_iter().peekable();
            while let Some(source) = sources.next() {
                // The plan's transaction and not the goal: what was announced is what is restored.
                let goal = source.plan.point().into();
                let options = Options { meta_dir: source.meta_dir.clone(), ..options.clone() };
                let restored = restore::to_path(&source.store, goal, &path, &options, &shown).await;
                shown.end();
                match (restored, sources.peek()) {
                    (Err(error), Some(next)) if error.kind() == Kind::Corrupt => {
                        let message =
                            format!("`{}` is of no use: {error}; going on with `{}`", source.url, next.url);
                        report::warning(&message, format);
                    }
                    (restored, _) => match restored.map_err(|error| with_next_step(error, args))? {
                        Some(restored) => {
                            report_restored(source, restored, path, took(), format);
                            break;
                        }
                        None => return Ok(nothing(format, "the database exists", &path)),
                    },
                }
            }
        }
        Found::Former(former) => {
            let Former { url, store, backup } = *former;
            let restored = v03::to_path(&store, backup, &path, &options, &shown).await;
            shown.end();
            match restored.map_err(|error| with_next_step(error, args))? {
                Some(restored) => report_former(url, restored, path, took(), format),
                None => return Ok(nothing(format, "the database exists", &path)),
            }
        }
        Found::Nothing => return Ok(nothing(format, "there is no backup", &path)),
    }
    Ok(Outcome::Done)
}

/// What the user asked for; an instant is echoed in UTC.
fn goal(args: &args::Restore, clock: &dyn Clock, format: Format) -> Result<Goal> {
    if let Some(point) = args.txid {
        return Ok(point.into());
    }
    let now = Timestamp::from_millisecond(clock.unix_ms()).context("read the clock")?;
    let (text, read) = match (&args.timestamp, &args.at) {
        (Some(text), _) => (text, point_in_time::parse_rfc3339(text, now)),
        (None, Some(text)) => (text, point_in_time::parse(text, now, &TimeZone::system())),
        (None, None) => return Ok(Goal::Latest),
    };
    let instant = read.map_err(|cause| Failure::invalid(format!("`{text}`: {cause}")))?;
    if format == Format::Text {
        report::line(&format_args!("restoring the state at {instant}"));
    }
    Ok(Goal::Time(instant.as_millisecond()))
}

fn output(args: &args::Restore) -> Result<PathBuf, Failure> {
    match &args.output {
        Some(path) => Ok(path.clone()),
        None if is_store(&args.target) => {
            let again = again(args, goal_words(args), Some("app.db".to_owned()));
            let hint = format!("name the file: {again}");
            Err(Failure::invalid("a backup does not say where its database belongs").hint(hint))
        }
        None => Ok(PathBuf::from(&args.target)),
    }
}

/// The backup that reaches the goal best; nothing when all are empty and that is no error.
async fn find(args: &args::Restore, goal: Goal, format: Format) -> Result<Found> {
    let stores = Stores::default();
    let mut best: Vec<Source> = vec![];
    let mut failed = Vec::new();
    let mut former = None;
    let backups = backups(Some(&args.target), &args.config, format)?;
    put_stranded(args, &backups, &stores, format).await?;
    for backup in backups {
        let store = backup.open(&stores)?;
        let (database, destination) = (backup.database, backup.destination);
        let meta_dir = database.filter(|_| args.output.is_none()).map(|database| database.meta_dir);
        match restore::plan(&store, goal).await {
            Ok(plan) => best.push(Source { meta_dir, url: destination.url, store, plan }),
            Err(error) if is_empty(&error) || begins_later(&error) => match v03::find(&store, goal).await {
                Ok(Some(backup)) if former.is_none() => {
                    former = Some(Former { url: destination.url, store, backup });
                }
                Err(former) if is_empty(&error) => failed.push((destination.url, former)),
                Ok(_) | Err(_) => failed.push((destination.url, error)),
            },
            Err(error) => failed.push((destination.url, error)),
        }
    }
    let furthest = best.iter().map(|source| source.plan.txid).max();
    best.retain(|source| Some(source.plan.txid) == furthest);
    let found = match (furthest.map(|_| best), former) {
        (Some(best), former) => {
            failed.extend(former.map(|former| (former.url, litekeep_store::Error::Empty.into())));
            Found::Log(best)
        }
        (None, Some(former)) => Found::Former(Box::new(former)),
        (None, None) if failed.iter().all(|(_, error)| is_empty(error)) && args.if_replica_exists => {
            return Ok(Found::Nothing);
        }
        (None, None) => {
            // An empty destination says less than one that has something and cannot.
            failed.sort_by_key(|(_, error)| is_empty(error));
            let Some((url, error)) = failed.into_iter().next() else { return Ok(Found::Nothing) };
            return Err(with_next_step(error, args).context(format!("restore from `{url}`")));
        }
    };
    for (url, error) in failed {
        report::warning(&format!("`{url}` is of no use: {error}"), format);
    }
    Ok(found)
}

/// Where something else can be restored, the hint is the command for it.
fn with_next_step(error: litekeep_replicate::Error, args: &args::Restore) -> anyhow::Error {
    let Some(instead) = error.instead() else { return error.into() };
    let hint = match instead {
        Instead::Txid(txid) => {
            let again = again(args, ["-txid".to_owned(), txid.to_string()], None);
            format!("{again} restores the nearest intact point before it")
        }
        Instead::Time(at_ms) => {
            let again = again(args, ["-timestamp".to_owned(), text::rfc3339(at_ms)], None);
            format!("{again} restores the nearest point")
        }
        Instead::Force => {
            let beside =
                format!("{}-restored", args.output.as_deref().unwrap_or(args.target.as_ref()).display());
            let over = again(args, goal_words(args).into_iter().chain(["-force".to_owned()]), None);
            let beside = again(args, goal_words(args), Some(beside));
            format!("{over} restores over it and keeps the old one aside; {beside} restores beside it")
        }
        Instead::Earlier => {
            let history = command(args, ["history".to_owned()]);
            format!("the original was damaged by then: {history} lists earlier points to restore")
        }
    };
    Failure::new(error.kind().into(), error.to_string()).hint(hint).into()
}

/// The goal as it was given.
fn goal_words(args: &args::Restore) -> Vec<String> {
    let txid = args.txid.map(|txid| txid.to_string());
    let given = [("-txid", &txid), ("-timestamp", &args.timestamp), ("-at", &args.at)];
    let given = given.into_iter().filter_map(|(flag, value)| Some([flag.to_owned(), value.clone()?]));
    given.flatten().collect()
}

/// The same restore for pasting, with another goal, or to another file.
fn again(args: &args::Restore, words: impl IntoIterator<Item = String>, output: Option<String>) -> String {
    let output = output.or_else(|| Some(args.output.as_ref()?.display().to_string()));
    let output = output.into_iter().flat_map(|output| ["-o".to_owned(), output]);
    let force = args.force.then(|| "-force".to_owned());
    command(args, ["restore".to_owned()].into_iter().chain(words).chain(force).chain(output))
}

/// A command about the same backup, for pasting.
fn command(args: &args::Restore, words: impl IntoIterator<Item = String>) -> String {
    let config =
        args.config.config.iter().flat_map(|path| ["-config".to_owned(), path.display().to_string()]);
    let literal = args.config.no_expand_env.then(|| "-no-expand-env".to_owned());
    let words = words.into_iter().chain(config).chain(literal).chain([args.target.clone()]);
    let quoted: Vec<String> = words.map(|word| text::shell_word(&word)).collect();
    format!("`litekeep {}`", quoted.join(" "))
}

/// What an outage left on this machine of a database whose file is gone comes back only by way of the backup.
async fn put_stranded(
    args: &args::Restore,
    backups: &[Backup],
    stores: &Stores,
    format: Format,
) -> Result<()> {
    let Some(database) = backups.iter().find_map(|backup| backup.database.as_ref()) else { return Ok(()) };
    let Some(Stranded { first, last }) = stranded(&database.meta_dir) else { return Ok(()) };
    let what = format!("transactions {first} to {last} of `{}`", database.path.display());
    let is_there = database.path.metadata().is_ok_and(|file| file.len() > 0);
    if args.dry_run || is_there {
        let who = if is_there { "a replicator" } else { "a restore" };
        report::warning(&format!("{what} wait on this machine: {who} puts them into the backup"), format);
        return Ok(());
    }
    let opened: Result<Vec<Store>> = backups.iter().map(|backup| backup.open(stores)).collect();
    let put = replicator::put_stranded(&opened?, &database.path, &database.meta_dir).await;
    match put {
        Ok(_) => {
            report::warning(&format!("{what}, which waited on this machine, are in the backup now"), format)
        }
        // It goes elsewhere, and everything stays where it is.
        Err(error) if args.output.is_some() => {
            report::warning(&format!("{what} wait on this machine, and are not restored: {error}"), format);
        }
        Err(error) => {
            return Err(anyhow::Error::from(error).context(format!("put {what}, which wait on this machine")));
        }
    }
    Ok(())
}

/// Before the log, Litestream 0.3 may have written in the same place.
fn begins_later(error: &litekeep_replicate::Error) -> bool {
    matches!(error.instead(), Some(Instead::Time(_)))
}

fn is_empty(error: &litekeep_replicate::Error) -> bool {
    matches!(error, litekeep_replicate::Error::Store(litekeep_store::Error::Empty))
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
            txid: Some(plan.point().to_string()),
            time: text::rfc3339(plan.time_ms),
            page_size: Some(plan.page_size.get()),
            pages: Some(plan.page_count),
            database_bytes: Some(plan.database_bytes()),
            files: Some(plan.files.len()),
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
        txid: Some(restored.point.to_string()),
        time: text::rfc3339(restored.time_ms),
        page_size: Some(restored.page_size.get()),
        pages: Some(restored.page_count),
        database_bytes: Some(u64::from(restored.page_count) * u64::from(restored.page_size.get())),
        files: Some(restored.files),
        read_bytes: restored.bytes,
        after_end: source.plan.after_end,
        damaged: damaged(&source.store, &restored.damaged),
    };
    for file in &summary.damaged {
        report::warning(&format!("gone around a damaged file: {}", file.cause), format);
    }
    report_done(summary, restored.kept_aside, took, format);
}

fn former_summary(url: StoreUrl, backup: &v03::Backup, path: PathBuf) -> Summary {
    Summary {
        path,
        url,
        txid: None,
        time: text::rfc3339(backup.time_ms),
        page_size: None,
        pages: None,
        database_bytes: None,
        files: None,
        read_bytes: backup.bytes,
        after_end: backup.after_end,
        damaged: Vec::new(),
    }
}

fn report_former_plan(former: &Former, path: PathBuf, format: Format) {
    let summary = former_summary(former.url.clone(), &former.backup, path);
    let dry_run = DryRun { dry_run: true, plan: Vec::new(), summary };
    report::result(format, &dry_run, || format!("would restore {}", dry_run.summary.text()));
}

fn report_former(url: StoreUrl, restored: v03::Restored, path: PathBuf, took: Duration, format: Format) {
    let (page_size, pages) = (restored.page_size.get(), restored.page_count);
    let summary = Summary {
        page_size: Some(page_size),
        pages: Some(pages),
        database_bytes: Some(u64::from(page_size) * u64::from(pages)),
        ..former_summary(url, &restored.backup, path)
    };
    report_done(summary, restored.kept_aside, took, format);
}

fn report_done(summary: Summary, kept_aside: Option<PathBuf>, took: Duration, format: Format) {
    let mut text = format!("restored {}", summary.text());
    text.push_str(&format!("in {:.1} s\n", took.as_secs_f64()));
    if let Some(kept) = &kept_aside {
        text.push_str(&format!("the former database is kept as {}\n", kept.display()));
    }
    let seconds = Some(took.as_secs_f64());
    let done = Done { restored: true, reason: None, seconds, kept_aside, summary: Some(summary) };
    report::result(format, &done, || text);
}

impl Summary {
    fn text(&self) -> String {
        let end = if self.after_end { ", the last state in the backup" } else { "" };
        let what = match &self.txid {
            Some(txid) => format!("transaction {txid}{end}"),
            None => format!("a backup of Litestream 0.3{end}"),
        };
        let files = self.files.map_or(String::new(), |files| format!(" in {}", text::count(files, "file")));
        let size = self.database_bytes.map_or("unknown size".to_owned(), text::size);
        format!(
            "{} as of {} ({what})\nfrom {}: {}{files}, a database of {size}\n",
            self.path.display(),
            self.time,
            self.url,
            text::size(self.read_bytes),
        )
    }
}
