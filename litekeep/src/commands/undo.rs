//! `litekeep undo`: takes changes back on the live database; `litekeep restore --table` does the same for all changes of
//! some rows since a moment.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use litekeep_ltx::{Point, Txid};
use litekeep_replicate::commits_of;
use litekeep_replicate::restore::Goal;
use litekeep_rows::undo::{Conflict, Done, Options, Undo};
use litekeep_rows::{Comparison, Error, Kind, Selection, json};
use litekeep_sql::RowEditor;
use serde::Serialize;

use super::diff::{best_backup, goal};
use crate::args;
use crate::report::{self, Failure, Format, Outcome, text};
use crate::settings::is_store;

/// Conflicts that are shown to people.
const SHOWN: usize = 20;

#[derive(Serialize)]
struct Report {
    applied: bool,
    database: PathBuf,
    from: Moment,
    to: Moment,
    tables: Vec<Counts>,
    conflicts: Vec<Refused>,
    conflict_count: u64,
    notes: Vec<String>,
    /// Into how many commits the transaction could be told apart, when one is taken back whole.
    #[serde(skip)]
    commits: u32,
}

#[derive(Serialize)]
struct Moment {
    txid: String,
    time: String,
}

impl From<(Point, i64)> for Moment {
    fn from((point, ms): (Point, i64)) -> Moment {
        Moment { txid: point.to_string(), time: text::rfc3339(ms) }
    }
}

#[derive(Serialize)]
struct Counts {
    table: String,
    inserted: u64,
    updated: u64,
    deleted: u64,
    unchanged: u64,
}

#[derive(Serialize)]
struct Refused {
    table: String,
    key: BTreeMap<String, serde_json::Value>,
    reason: String,
}

pub(super) async fn run(args: &args::Undo, format: Format) -> Result<Outcome> {
    let what = format!("take changes back in `{}`", args.database.display());
    undo(args, format).await.context(what)
}

async fn undo(args: &args::Undo, format: Format) -> Result<Outcome> {
    if is_store(&args.database.to_string_lossy()) {
        let hint = "name the database; a backup alone can be looked at with `litekeep diff`, and restored";
        return Err(Failure::invalid("changes are taken back in the live database").hint(hint).into());
    }
    let (from, to) = match (args.txid, &args.from) {
        (Some(point), _) => {
            let before = before(point).ok_or_else(|| {
                Failure::invalid("the first transaction is the database itself, and cannot be taken back")
            })?;
            (before.into(), point.into())
        }
        (None, Some(from)) => (goal(from)?, args.to.as_deref().map_or(Ok(Goal::Latest), goal)?),
        (None, None) => {
            let hint = "--txid 000000000000001f, or --from \"5 min ago\"; `litekeep diff` shows what changed";
            return Err(Failure::invalid("say what to take back").hint(hint).into());
        }
    };
    let selection =
        Selection { tables: args.table.clone(), condition: args.condition.clone(), ..Selection::default() };
    let consent = Consent { yes: args.yes, dry_run: args.dry_run };
    let whole = args.txid.filter(|point| point.seq.is_none()).map(|point| point.txid);
    let (database, config) = (&args.database, &args.config);
    TakeBack { database, config, from, to, whole, selection, keep_new: false, consent }.run(format).await
}

/// The state before a transaction, or before the last of some of its commits.
fn before(Point { txid, seq }: Point) -> Option<Point> {
    match seq {
        Some(seq) if seq > 1 => Some(Point { txid, seq: Some(seq - 1) }),
        _ => Some(txid.prev()?.into()),
    }
}

/// `litekeep restore --table`: rows are as they were at a moment, without those that are new since, unless told so.
pub(super) async fn restore_rows(args: &args::Restore, from: Goal, format: Format) -> Result<Outcome> {
    if is_store(&args.target) || args.output.is_some() {
        let hint =
            "name the database, without -o; `litekeep diff --sql` writes rows of a backup as statements";
        return Err(Failure::invalid("rows are brought back into the live database").hint(hint).into());
    }
    if matches!(from, Goal::Latest) {
        let hint = "--at \"5 min ago\", or --txid; `litekeep diff` shows what changed since";
        return Err(Failure::invalid("say as of when the rows shall come back").hint(hint).into());
    }
    let database = Path::new(&args.target);
    let selection =
        Selection { tables: args.table.clone(), condition: args.condition.clone(), ..Selection::default() };
    let consent = Consent { yes: args.yes, dry_run: args.dry_run };
    let (to, keep_new) = (Goal::Latest, !args.exact);
    let config = &args.config;
    TakeBack { database, config, from, to, whole: None, selection, keep_new, consent }.run(format).await
}

#[derive(Clone, Copy)]
struct Consent {
    yes: bool,
    dry_run: bool,
}

struct TakeBack<'a> {
    database: &'a Path,
    config: &'a args::ConfigArgs,
    from: Goal,
    to: Goal,
    /// It is this transaction, with all of its commits.
    whole: Option<Txid>,
    selection: Selection,
    keep_new: bool,
    consent: Consent,
}

impl TakeBack<'_> {
    async fn run(self, format: Format) -> Result<Outcome> {
        let name = self.database.to_string_lossy();
        let (_, store) = best_backup(Some(&name), self.config, &[self.from, self.to], format).await?;
        let comparison = Comparison::open(&store, self.from, self.to).await.map_err(or_restore)?;
        let (from, to) = (comparison.from(), comparison.to());
        let selection = self.selection;
        let keep_new = self.keep_new;
        let is_agreed = self.consent.yes;
        let (undo, editor, first) = {
            let database = self.database.to_owned();
            blocking(move || {
                let undo = Undo::of(comparison, &selection).map_err(or_restore)?;
                let editor = RowEditor::open(&database)?;
                // Who has agreed needs no preview, for which the write lock would be held as well.
                let first = undo.apply(&editor, Options { write: is_agreed, keep_new })?;
                Ok((undo, editor, first))
            })
            .await?
        };
        let commits = match self.whole {
            // Nothing depends on it.
            Some(txid) => commits_of(&store, txid).await.unwrap_or(1),
            None => 1,
        };
        let report =
            |done: &Done, applied| Report { commits, ..Report::of(done, applied, self.database, from, to) };
        let done = if is_agreed || self.consent.dry_run || first.is_nothing() {
            first
        } else {
            self.consent.ask(&report(&first, false), format)?;
            blocking(move || undo.apply(&editor, Options { write: true, keep_new })).await?
        };
        let is_applied = !self.consent.dry_run && !done.is_nothing();
        let report = report(&done, is_applied);
        report::result(format, &report, || report.text(if is_applied { "were" } else { "would be" }));
        Ok(outcome(&done))
    }
}

/// What can be done about a file of the backup that is damaged.
fn or_restore(error: Error) -> Error {
    if error.kind() != Kind::Corrupt || error.hint().is_some() {
        return error;
    }
    let hint = "nothing was changed; `litekeep restore -o FILE` goes around a damaged file where others have the same transactions, and \
                tells where none has";
    Error::with_hint(Kind::Corrupt, error.to_string(), hint)
}

/// Exit code 1: something was left alone.
fn outcome(done: &Done) -> Outcome {
    if done.conflict_count == 0 && done.stay == 0 { Outcome::Done } else { Outcome::No }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T> {
    Ok(tokio::task::spawn_blocking(work).await.context("compare the states")??)
}

impl Consent {
    /// Asks whoever sits there, or wants it said on the command line.
    fn ask(self, report: &Report, format: Format) -> Result<(), Failure> {
        if format == Format::Text {
            report::line(&report.text("would be").trim_end());
        }
        if report::is_agreed(format) {
            return Ok(());
        }
        let failure = Failure::invalid("nothing was changed");
        Err(failure.hint("add --yes to do it, or --dry-run to only see it"))
    }
}

impl Report {
    fn of(done: &Done, applied: bool, database: &Path, from: (Point, i64), to: (Point, i64)) -> Report {
        let counts = |(name, counts): (&String, &litekeep_rows::undo::Counts)| Counts {
            table: name.clone(),
            inserted: counts.inserted,
            updated: counts.updated,
            deleted: counts.deleted,
            unchanged: counts.unchanged,
        };
        let refused = |conflict: &Conflict| Refused {
            table: conflict.table.clone(),
            key: conflict.key.iter().map(|(name, value)| (name.clone(), json::value(value))).collect(),
            reason: conflict.reason.clone(),
        };
        Report {
            applied,
            database: database.to_owned(),
            from: from.into(),
            to: to.into(),
            tables: done.tables.iter().map(counts).collect(),
            conflicts: done.conflicts.iter().map(refused).collect(),
            conflict_count: done.conflict_count,
            notes: done.notes.clone(),
            commits: 1,
        }
    }

    fn text(&self, verb: &str) -> String {
        let mut out = format!(
            "{}: changes after {} ({}) up to {} ({})\n",
            self.database.display(),
            self.from.time,
            self.from.txid,
            self.to.time,
            self.to.txid
        );
        for counts in &self.tables {
            let parts = [
                (counts.inserted, "brought back"),
                (counts.updated, "given their old values"),
                (counts.deleted, "removed"),
            ];
            let parts: Vec<_> = parts
                .iter()
                .filter(|(rows, _)| *rows > 0)
                .map(|(rows, what)| format!("{rows} {verb} {what}"))
                .collect();
            let as_before = match counts.unchanged {
                0 => String::new(),
                rows => format!("{}{rows} are as before already", if parts.is_empty() { "" } else { ", " }),
            };
            out.push_str(&format!("  {}: {}{as_before}\n", counts.table, parts.join(", ")));
        }
        if self.tables.is_empty() && self.notes.is_empty() {
            out.push_str("  there is nothing to take back\n");
        }
        for note in &self.notes {
            out.push_str(&format!("  {note}\n"));
        }
        if self.commits > 1 {
            let (txid, count) = (&self.to.txid, self.commits);
            out.push_str(&format!(
                "  it is {count} commits, {txid}.1 to {txid}.{count}: --txid takes back one of them, too\n"
            ));
        }
        if self.conflict_count > 0 {
            let rows = text::count(self.conflict_count as usize, "row");
            out.push_str(&format!("{rows} left alone:\n"));
        }
        for conflict in self.conflicts.iter().take(SHOWN) {
            let key = conflict.key.iter().map(|(name, value)| format!(" {name}={value}"));
            out.push_str(&format!("  {}{}: {}\n", conflict.table, key.collect::<String>(), conflict.reason));
        }
        if self.conflict_count as usize > SHOWN {
            out.push_str("  … --json lists more\n");
        }
        out
    }
}
