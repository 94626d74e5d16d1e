//! `litekeep diff`: which rows differ between two moments, read from the backup.

use std::io::{BufWriter, Write};

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use litekeep_config::StoreUrl;
use litekeep_env::{Clock, SystemClock};
use litekeep_ltx::{Point, Txid};
use litekeep_replicate::restore::{self, Goal};
use litekeep_rows::statements::{self, Script};
use litekeep_rows::{Catalog, Change, Comparison, Error, Kind, Pair, Reader, SchemaChange, Selection, json};
use litekeep_store::Store;
use serde_json::json;

use crate::args;
use crate::point_in_time;
use crate::report::{self, Failure, Format, Outcome, text};
use crate::settings::Stores;
use crate::settings::database::backups;

/// The longest text that is shown whole to people.
const SHOWN: usize = 60;

pub(super) async fn run(args: &args::Diff, format: Format) -> Result<Outcome> {
    let target = args.target.as_deref().unwrap_or("the database");
    diff(args, format).await.with_context(|| format!("compare two states of `{target}`"))
}

async fn diff(args: &args::Diff, format: Format) -> Result<Outcome> {
    let (from, to) = (goal(&args.from)?, args.to.as_deref().map_or(Ok(Goal::Latest), goal)?);
    let (_, store) = best_backup(args.target.as_deref(), &args.config, &[from, to], format).await?;
    let comparison = Comparison::open(&store, from, to).await?;
    let style = match (format, args.sql, args.undo_sql) {
        (_, true, _) => Style::Redo,
        (_, _, true) => Style::Undo,
        (Format::Json, ..) => Style::Json,
        (Format::Text, ..) => Style::Text,
    };
    let selection =
        Selection { tables: args.table.clone(), condition: args.condition.clone(), ..Selection::default() };
    let done = tokio::task::spawn_blocking(move || print(comparison, &selection, style)).await;
    let missing = done.context("print the differences")??;
    for what in &missing {
        report::warning(&format!("the statements are not complete: {what}"), format);
    }
    Ok(if missing.is_empty() { Outcome::Done } else { Outcome::No })
}

/// A moment as it is written on the command line: a transaction (up to 16 hexadecimal digits, perhaps with `.` and the number
/// of a commit in it) or a time. Digits that are both are a time.
///
/// # Errors
/// What is wrong with the text.
pub(super) fn goal(text: &str) -> Result<Goal, Failure> {
    // As many decimal digits as these are Unix seconds.
    const TIME_DIGITS: std::ops::Range<usize> = 9..16;
    let digits = text.split_once('.').map_or(text, |(digits, _)| digits);
    let is_time = TIME_DIGITS.contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    if let Some(point) = (!is_time).then(|| text.parse::<Point>().ok()).flatten() {
        return Ok(point.into());
    }
    let is_first = |(txid, seq): (&str, &str)| txid.parse::<Txid>().is_ok() && seq.parse() == Ok(0);
    if !is_time && text.split_once('.').is_some_and(is_first) {
        let cause = "the commits of a transaction are numbered from 1; the state before them is that of the one before";
        return Err(Failure::invalid(format!("`{text}`: {cause}")));
    }
    let now = Timestamp::from_millisecond(SystemClock.unix_ms()).unwrap_or(Timestamp::UNIX_EPOCH);
    let instant = point_in_time::parse(text, now, &TimeZone::system()).map_err(|cause| {
        Failure::invalid(format!("`{text}`: {cause}; or name a transaction by its 16 digits"))
    })?;
    Ok(Goal::Time(instant.as_millisecond()))
}

/// Of the backups of a database the one that reaches most of the goals; of several, the one whose last goal is furthest. One may
/// begin later than another, or have merged what the other has kept apart.
///
/// # Errors
/// Those of the configuration; that of the first backup when none reaches any.
pub(super) async fn best_backup(
    target: Option<&str>,
    config: &args::ConfigArgs,
    goals: &[Goal],
    format: Format,
) -> Result<(StoreUrl, Store)> {
    let stores = Stores::default();
    let mut best: Option<((usize, Txid), StoreUrl, Store)> = None;
    let mut failed = None;
    let found = backups(target, config, format)?;
    let databases: std::collections::BTreeSet<_> =
        found.iter().filter_map(|b| b.database.as_ref().map(|d| d.path.clone())).collect();
    if databases.len() > 1 {
        let names: Vec<_> = databases.iter().map(|path| format!("`{}`", path.display())).collect();
        let hint = format!("name one of {}", names.join(", "));
        return Err(Failure::invalid("the configuration has several databases").hint(hint).into());
    }
    for backup in found {
        let (store, destination) = (backup.open(&stores)?, backup.destination);
        let mut reached = None;
        for goal in goals {
            match restore::plan(&store, *goal).await {
                Ok(plan) => reached = Some((reached.map_or(0, |(count, _)| count) + 1, plan.txid)),
                Err(error) => failed = failed.or(Some((destination.url.clone(), error))),
            }
        }
        if let Some(reached) = reached
            && best.as_ref().is_none_or(|(known, ..)| *known < reached)
        {
            best = Some((reached, destination.url, store));
        }
    }
    match (best, failed) {
        (Some((_, url, store)), _) => Ok((url, store)),
        (None, Some((url, error))) => Err(anyhow::Error::from(error).context(format!("read `{url}`"))),
        (None, None) => Err(Failure::invalid("the database has no backup").into()),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Style {
    Text,
    Json,
    Redo,
    Undo,
}

/// Prints changes as they come.
struct Printer<W> {
    out: W,
    style: Style,
    /// The two states.
    ends: ((Point, i64), (Point, i64)),
    /// The table of the last change.
    table: Option<String>,
    tables: usize,
    counts: [u64; 3],
    schemas: (Catalog, Catalog),
    script: Script,
    /// All rows come of the tables that do.
    is_whole: bool,
}

/// Returns what the statements do not do.
fn print(comparison: Comparison, selection: &Selection, style: Style) -> Result<Vec<String>, Error> {
    let (from, to) = (comparison.from(), comparison.to());
    let out = BufWriter::new(std::io::stdout().lock());
    let mut printer = Printer {
        out,
        style,
        ends: (from, to),
        table: None,
        tables: 0,
        counts: [0; 3],
        schemas: (Catalog::empty(), Catalog::empty()),
        script: Script::default(),
        is_whole: selection.condition.is_none(),
    };
    let point = |(point, ms): (Point, i64)| json!({ "txid": point.to_string(), "time": text::rfc3339(ms) });
    comparison.run(selection, &mut printer)?;
    let ended = std::mem::take(&mut printer.script).end();
    ended.statements.iter().try_for_each(|statement| printer.line(statement))?;
    let [inserted, updated, deleted] = printer.counts;
    match style {
        Style::Text => {
            let tables = text::count(printer.tables, "table");
            let rows = format!("{inserted} inserted, {updated} updated, {deleted} deleted");
            printer.line(&format!("\n{tables} changed: {rows}"))?;
        }
        Style::Json => {
            let summary = json!({
                "from": point(from), "to": point(to), "tables": printer.tables,
                "inserted": inserted, "updated": updated, "deleted": deleted,
            });
            printer.line(&summary.to_string())?;
        }
        Style::Redo | Style::Undo => printer.line("COMMIT;")?,
    }
    printer.out.flush().or_else(reader_is_gone)?;
    Ok(ended.missing)
}

/// Whoever reads has the right to stop reading (`| head`).
fn reader_is_gone(error: std::io::Error) -> Result<(), Error> {
    match error.kind() {
        std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        _ => Err(Error::new(Kind::Unavailable, format!("print: {error}"))),
    }
}

fn schema_line(change: &SchemaChange) -> Option<String> {
    match (&change.before, &change.after) {
        (None, Some(new)) => Some(format!("  + {} {}", new.kind, new.name)),
        (Some(old), None) => Some(format!("  - {} {}", old.kind, old.name)),
        (Some(old), Some(new)) => {
            Some(format!("  ~ {} {}\n      {}\n      {}", new.kind, new.name, old.sql, new.sql))
        }
        (None, None) => None,
    }
}

impl<W: Write> Printer<W> {
    fn line(&mut self, text: &str) -> Result<(), Error> {
        writeln!(self.out, "{text}").or_else(reader_is_gone)
    }
}

fn heading(pair: Pair<'_>) -> String {
    match (pair.old, pair.new) {
        (Some(old), Some(new)) if old.name != new.name => format!("{} (was {})", new.name, old.name),
        (None, Some(new)) => format!("{} (new)", new.name),
        (Some(old), None) => format!("{} (dropped)", old.name),
        _ => pair.either().name.clone(),
    }
}

/// Without what would change how the lines before and after it look: control characters, and those that turn the direction of
/// text round.
fn escaped(text: &str) -> String {
    let is_harmful = |c: char| {
        c.is_control()
            || matches!(c, '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_harmful(c) { out.extend(c.escape_unicode()) } else { out.push(c) }
    }
    out
}

/// `+` and `-` with all columns, `~` with the key and the columns that differ.
fn line_of(change: &Change<'_>) -> Result<String, Error> {
    let shown = |value: &litekeep_rows::Value| {
        let literal = escaped(&statements::literal(value));
        match literal.char_indices().nth(SHOWN) {
            Some((at, _)) => format!("{}… ({} characters)", &literal[..at], literal.chars().count()),
            None => literal,
        }
    };
    let all = |row: &litekeep_rows::RowRef<'_>| -> Result<String, Error> {
        let values = row.values()?;
        let columns = row.table.layout.columns.iter().zip(&values);
        let columns: Vec<_> =
            columns.map(|(column, value)| format!("{}={}", column.name, shown(value))).collect();
        Ok(columns.join("  "))
    };
    Ok(match change {
        Change::Inserted(new) => format!("  + {}", all(new)?),
        Change::Deleted(old) => format!("  - {}", all(old)?),
        Change::Updated(old, new) => {
            let key = litekeep_rows::key(new)?;
            let key: Vec<_> = key.iter().map(|(name, value)| format!("{name}={}", shown(value))).collect();
            let (before, after) = (old.values()?, new.values()?);
            let mut differences = vec![];
            for (nth, column) in new.table.layout.columns.iter().enumerate() {
                let was = old.table.layout.columns.iter().position(|old| old.name == column.name);
                match was.map(|was| &before[was]) {
                    Some(was) if *was == after[nth] => {}
                    Some(was) => {
                        differences.push(format!("{}: {} -> {}", column.name, shown(was), shown(&after[nth])))
                    }
                    None => differences.push(format!("{}: {}", column.name, shown(&after[nth]))),
                }
            }
            format!("  ~ {}  {}", key.join("  "), differences.join("  "))
        }
    })
}

impl<W: Write> Reader for Printer<W> {
    fn states(&mut self, before: &Catalog, after: &Catalog) {
        self.schemas = (before.clone(), after.clone());
    }

    fn schema(&mut self, changes: &[SchemaChange]) -> Result<(), Error> {
        match self.style {
            Style::Text => {
                let moment = |(point, ms): (Point, i64)| format!("{point} ({})", text::rfc3339(ms));
                self.line(&format!("from {}\nto   {}", moment(self.ends.0), moment(self.ends.1)))?;
                let lines = changes.iter().filter_map(schema_line);
                lines.enumerate().try_for_each(|(nth, line)| {
                    let heading = if nth == 0 { "\nschema\n" } else { "" };
                    self.line(&format!("{heading}{line}"))
                })
            }
            Style::Json => {
                changes.iter().try_for_each(|change| self.line(&json::schema_change(change).to_string()))
            }
            Style::Redo | Style::Undo => {
                let (before, after) = &self.schemas;
                let forth = self.style == Style::Redo;
                let (script, first) = Script::begin(changes, (before, after), forth, self.is_whole)?;
                self.script = script;
                // What foreign keys delete is among the statements.
                self.line("PRAGMA foreign_keys=OFF;\nBEGIN IMMEDIATE;")?;
                first.iter().try_for_each(|statement| self.line(statement))
            }
        }
    }

    fn table(&mut self, pair: Pair<'_>, from: &[Option<usize>]) -> Result<(), Error> {
        if matches!(self.style, Style::Redo | Style::Undo) {
            return self.script.table(pair, from)?.iter().try_for_each(|statement| self.line(statement));
        }
        Ok(())
    }

    fn change(&mut self, pair: Pair<'_>, change: &Change<'_>) -> Result<(), Error> {
        let nth = match change {
            Change::Inserted(_) => 0,
            Change::Updated(..) => 1,
            Change::Deleted(_) => 2,
        };
        self.counts[nth] += 1;
        if self.table.as_ref() != Some(&pair.either().name) {
            self.table = Some(pair.either().name.clone());
            self.tables += 1;
            if self.style == Style::Text {
                self.line(&format!("\n{}", heading(pair)))?;
            }
        }
        match self.style {
            Style::Text => self.line(&line_of(change)?),
            Style::Json => self.line(&json::change(pair, change)?.to_string()),
            Style::Redo | Style::Undo => self.script.add(pair, change),
        }
    }
}
