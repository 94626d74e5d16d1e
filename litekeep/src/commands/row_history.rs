//! `litekeep history --rows`: transactions with the tables that they touched; `--table` and `--key`: the life of one row.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use litekeep_ltx::Point;
use litekeep_replicate::restore::Goal;
use litekeep_rows::feed::{Feed, RowEvent, Transaction};
use litekeep_rows::{SchemaChange, Selection, Value, json, statements};
use litekeep_store::Store;
use serde::Serialize;
use serde_json::Value as Json;

use super::diff::{best_backup, goal};
use crate::args;
use crate::report::{self, Failure, Format, Outcome, text};
use crate::restore_points::Points;
use crate::settings::Stores;
use crate::settings::database::backups;

/// A transaction and how many rows of which tables it changed.
#[derive(Serialize)]
struct Touched {
    txid: String,
    first_txid: String,
    time: String,
    schema: Vec<String>,
    tables: Vec<Counts>,
}

#[derive(Serialize)]
struct Counts {
    table: String,
    inserted: u64,
    updated: u64,
    deleted: u64,
}

/// What happened to the row.
#[derive(Serialize)]
struct Event {
    txid: String,
    time: String,
    op: &'static str,
    key: Json,
    before: Option<Json>,
    after: Option<Json>,
}

pub(super) async fn run(args: &args::History, format: Format) -> Result<Outcome> {
    let target = args.target.as_deref().unwrap_or("the database");
    read(args, format).await.with_context(|| format!("read the history of the rows of `{target}`"))
}

async fn read(args: &args::History, format: Format) -> Result<Outcome> {
    if !args.rows && args.table.is_none() {
        let hint = "--rows for all transactions after it, or --table for those of a table";
        return Err(Failure::invalid("--from is for the history of rows").hint(hint).into());
    }
    let mut wanted = Selection { tables: args.table.iter().cloned().collect(), ..Selection::default() };
    let (target, config) = (args.target.as_deref(), &args.config);
    let store = match best_backup(target, config, Goal::Latest, format).await {
        Ok((_, store)) => store,
        // What is before a gap is told, and then the gap.
        Err(error) => first_backup(target, config, format)?.ok_or(error)?,
    };
    let from = match &args.from {
        Some(from) => goal(from)?,
        None => {
            let log = store.list().await?;
            let first = Points::of(&log, &litekeep_store::Times::default()).first();
            Goal::Txid(first.ok_or_else(|| Failure::invalid("nothing can be restored from the backup"))?.0)
        }
    };
    let feed = Feed::of_commits(&store, from, wanted.clone()).await?;
    feed.check_tables().await?;
    if let (Some(table), Some(key)) = (&args.table, &args.key) {
        wanted.condition = Some(condition(key, table, &feed.primary_key(table).await?)?);
    }
    drop(feed);
    let mut names = Names::of(args.table.as_deref());
    let mut shown = Shown { of_one_row: args.key.is_some(), format, held: None, is_empty: true };
    loop {
        // Nothing is told twice.
        shown.held = args.table.as_ref().map(|_| vec![]);
        let feed = Feed::of_commits(&store, from, wanted.clone()).await?;
        let read = names.read(feed, &mut shown).await;
        let Ok(Some(name)) = read else {
            read.inspect_err(|_| shown.end())?;
            break;
        };
        wanted.tables.push(name);
    }
    shown.end();
    if shown.is_empty && format == Format::Text {
        report::line(&match (&args.table, &args.key) {
            (Some(table), Some(key)) => format!(
                "no row of `{table}` with the key {key} has changed since the first point of the backup"
            ),
            _ => "nothing has changed since the first point of the backup".to_owned(),
        });
    }
    Ok(Outcome::Done)
}

/// `7`, `id=7` or `a=1,b=x` as a condition. A value without a column is that of the primary key, or of the rowid.
fn condition(key: &str, table: &str, primary_key: &[String]) -> Result<String, Failure> {
    let again = "--key 7, --key id=7, --key a=1,b=x, or in quotes --key \"a='x,y',b=x'00ff'\"";
    let only = match primary_key {
        [] => "rowid",
        [column] => column,
        several => {
            let names: Vec<_> = several.iter().map(|name| format!("{name}=…")).collect();
            if !key.contains('=') {
                let message = format!("the primary key of `{table}` has {} columns", several.len());
                return Err(Failure::invalid(message).hint(format!("--key {}", names.join(","))));
            }
            ""
        }
    };
    // It may have commas and more in it.
    let is_whole = primary_key.len() < 2 && (!key.contains('=') || is_literal(key.trim()));
    let terms = if is_whole { vec![key] } else { terms(key) };
    let terms = terms.into_iter().map(|term| {
        let (column, value) = term.split_once('=').filter(|_| !is_whole).unwrap_or((only, term));
        let column = column.trim();
        if column.is_empty() {
            return Err(Failure::invalid(format!("`{key}` has no column before `=`")).hint(again));
        }
        let value = value.trim();
        let is_rowid = column == "rowid" && primary_key.is_empty();
        let column = if is_rowid { column.to_owned() } else { litekeep_sql::quoted(column) };
        if is_literal(value) {
            return Ok(format!("{column} = {value}"));
        }
        let text = statements::literal(&Value::Text(value.as_bytes().to_vec()));
        // A column without a type, and the rowid, make no number of text.
        let number = value.parse::<i64>().ok().filter(|number| number.to_string() == value);
        Ok(match number {
            Some(number) => format!("({column} = {number} OR {column} = {text})"),
            None => format!("{column} = {text}"),
        })
    });
    Ok(terms.collect::<Result<Vec<_>, _>>()?.join(" AND "))
}

/// What stands between commas that are not in a value in quotes.
fn terms(key: &str) -> Vec<&str> {
    let is_open = |term: &str| {
        let value = term.split_once('=').map_or("", |(_, value)| value.trim());
        let text = value.strip_prefix(['x', 'X']).unwrap_or(value);
        text.starts_with('\'') && text.matches('\'').count() % 2 == 1
    };
    let (mut terms, mut start) = (vec![], 0);
    for (at, _) in key.match_indices(',') {
        if !is_open(&key[start..at]) {
            terms.push(&key[start..at]);
            start = at + 1;
        }
    }
    terms.push(&key[start..]);
    terms
}

/// `'text'` or `x'00ff'`, as SQL has it.
fn is_literal(value: &str) -> bool {
    let is_blob = value.starts_with(['x', 'X']);
    let text = value.strip_prefix(['x', 'X']).unwrap_or(value);
    let Some(inner) = text.strip_prefix('\'').and_then(|text| text.strip_suffix('\'')) else { return false };
    if is_blob {
        return inner.len() % 2 == 0 && inner.bytes().all(|byte| byte.is_ascii_hexdigit());
    }
    !inner.replace("''", "").contains('\'')
}

/// A backup of which at least a part is there.
fn first_backup(target: Option<&str>, config: &args::ConfigArgs, format: Format) -> Result<Option<Store>> {
    let backups = backups(target, config, format)?;
    backups.first().map(|backup| backup.open(&Stores::default())).transpose()
}

/// A name of the table, and when it was its name.
struct Name {
    name: String,
    after: Option<Point>,
    until: Option<Point>,
}

/// The names that a table had. Empty: all tables are asked for.
struct Names(Vec<Name>);

impl Names {
    fn of(table: Option<&str>) -> Names {
        let name = |name: &str| Name { name: name.to_owned(), after: None, until: None };
        Names(table.map(name).into_iter().collect())
    }

    fn has(&self, name: &str, at: Point) -> bool {
        let order = |point: Point| (point.txid, point.seq.unwrap_or(u32::MAX));
        let is_then = |own: &Name| {
            own.after.is_none_or(|after| order(after) < order(at))
                && own.until.is_none_or(|until| order(at) <= order(until))
        };
        self.0.is_empty() || self.0.iter().any(|own| own.name.eq_ignore_ascii_case(name) && is_then(own))
    }

    /// Shows what the feed has; another name of the table with which it must be read again.
    async fn read(&mut self, mut feed: Feed, shown: &mut Shown) -> Result<Option<String>> {
        let mut counted = BTreeMap::new();
        let mut schema = vec![];
        while let Some(transaction) = feed.next().await? {
            let at = transaction.point();
            if transaction.before == 0 {
                (counted, schema) = (BTreeMap::new(), transaction.schema.clone());
                if let Some(name) = self.other_name(&schema, at) {
                    return Ok(Some(name));
                }
            }
            for event in transaction.rows.iter().filter(|event| self.has(&event.table, at)) {
                if shown.of_one_row {
                    shown.line(Line::Event(Event::of(&transaction, event)));
                } else {
                    counted.entry(event.table.clone()).or_insert([0; 3])[nth(event)] += 1;
                }
            }
            if !shown.of_one_row && transaction.is_last && !(counted.is_empty() && schema.is_empty()) {
                shown.line(Line::Touched(Touched::of(&transaction, &schema, std::mem::take(&mut counted))));
            }
        }
        Ok(None)
    }

    /// Adds the other name of a table that was renamed, where it is new.
    fn other_name(&mut self, schema: &[SchemaChange], at: Point) -> Option<String> {
        if self.0.is_empty() {
            return None;
        }
        let is_made = |name: &str| {
            schema.iter().any(|change| {
                change.before.is_none() && change.after.as_ref().is_some_and(|row| row.name == name)
            })
        };
        for change in schema {
            let (Some(old), Some(new)) = (&change.before, &change.new_name) else { continue };
            let is_known = |name: &str| self.0.iter().any(|own| own.name.eq_ignore_ascii_case(name));
            let other = if self.has(new, at) && !is_known(&old.name) {
                Name { name: old.name.clone(), after: None, until: Some(at) }
            } else if self.has(&old.name, at) && !is_known(new) && !is_made(&old.name) {
                Name { name: new.clone(), after: Some(at), until: None }
            } else {
                continue;
            };
            let name = other.name.clone();
            self.0.push(other);
            return Some(name);
        }
        None
    }
}

enum Line {
    Touched(Touched),
    Event(Event),
}

/// Where lines go.
struct Shown {
    of_one_row: bool,
    format: Format,
    /// Until it is known that nothing is to be read again.
    held: Option<Vec<Line>>,
    is_empty: bool,
}

impl Shown {
    fn line(&mut self, line: Line) {
        match &mut self.held {
            Some(held) => held.push(line),
            None => self.print(&line),
        }
    }

    fn print(&mut self, line: &Line) {
        self.is_empty = false;
        match line {
            Line::Touched(touched) => report::line_out(self.format, touched, || touched.text()),
            Line::Event(event) => report::line_out(self.format, event, || event.text()),
        }
    }

    fn end(&mut self) {
        for line in self.held.take().unwrap_or_default() {
            self.print(&line);
        }
    }
}

impl Touched {
    fn of(transaction: &Transaction, schema: &[SchemaChange], tables: BTreeMap<String, [u64; 3]>) -> Touched {
        let named = |change: &SchemaChange| {
            let (sign, row) = match (&change.before, &change.after) {
                (None, Some(new)) => ("+", new),
                (Some(_), Some(new)) => ("~", new),
                (Some(old), None) => ("-", old),
                (None, None) => return None,
            };
            Some(format!("{sign} {} {}", row.kind, row.name))
        };
        Touched {
            txid: transaction.point().to_string(),
            first_txid: transaction.first.to_string(),
            time: text::rfc3339(transaction.time_ms),
            schema: schema.iter().filter_map(named).collect(),
            tables: tables
                .into_iter()
                .map(|(table, [inserted, updated, deleted])| Counts { table, inserted, updated, deleted })
                .collect(),
        }
    }

    fn text(&self) -> String {
        let tables = self.tables.iter().map(|counts| {
            let signs = [("+", counts.inserted), ("~", counts.updated), ("-", counts.deleted)];
            let signs =
                signs.iter().filter(|(_, rows)| *rows > 0).map(|(sign, rows)| format!(" {sign}{rows}"));
            format!("{}{}", counts.table, signs.collect::<String>())
        });
        let parts: Vec<_> = self.schema.iter().cloned().chain(tables).collect();
        format!("{}  {}  {}\n", self.txid, self.time, parts.join(", "))
    }
}

impl Event {
    fn of(transaction: &Transaction, event: &RowEvent) -> Event {
        let object = |row: &Vec<(String, Value)>| Json::Object(json::object(row));
        Event {
            txid: transaction.point().to_string(),
            time: text::rfc3339(transaction.time_ms),
            op: ["insert", "update", "delete"][nth(event)],
            key: object(&event.key),
            before: event.before.as_ref().map(object),
            after: event.after.as_ref().map(object),
        }
    }

    fn text(&self) -> String {
        let pairs = |row: &Option<Json>| -> Vec<String> {
            let columns = row.as_ref().and_then(Json::as_object).into_iter().flatten();
            columns.map(|(name, value)| format!("{name}={value}")).collect()
        };
        let (before, after) = (pairs(&self.before), pairs(&self.after));
        let what = match self.op {
            "insert" => format!("+ {}", after.join("  ")),
            "delete" => format!("- {}", before.join("  ")),
            _ => {
                let changed = |row: &[String], other: &[String]| {
                    row.iter().filter(|pair| !other.contains(pair)).cloned().collect::<Vec<_>>().join("  ")
                };
                format!("~ {} -> {}", changed(&before, &after), changed(&after, &before))
            }
        };
        format!("{}  {}  {what}\n", self.txid, self.time)
    }
}

fn nth(event: &RowEvent) -> usize {
    match (&event.before, &event.after) {
        (None, _) => 0,
        (_, None) => 2,
        _ => 1,
    }
}
