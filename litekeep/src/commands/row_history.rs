//! `litekeep history --rows`: transactions with the tables that they touched; `--table` and `--key`: the life of one row.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use litekeep_replicate::restore::Goal;
use litekeep_rows::feed::{Feed, RowEvent, Transaction};
use litekeep_rows::{SchemaChange, Selection, Value, json, statements};
use serde::Serialize;
use serde_json::Value as Json;

use super::diff::{best_backup, goal};
use crate::args;
use crate::report::{self, Failure, Format, Outcome, text};
use crate::restore_points::Points;

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
    let (_, store) = best_backup(args.target.as_deref(), &args.config, Goal::Latest, format).await?;
    let from = match &args.from {
        Some(from) => goal(from)?,
        None => {
            let log = store.list().await?;
            let first = Points::of(&log, &litekeep_store::Times::default()).first();
            Goal::Txid(first.ok_or_else(|| Failure::invalid("nothing can be restored from the backup"))?.0)
        }
    };
    let of_one_row = args.key.is_some();
    let mut feed = Feed::of_commits(&store, from, wanted.clone()).await?;
    feed.check_tables().await?;
    if let (Some(table), Some(key)) = (&args.table, &args.key) {
        wanted.condition = Some(condition(key, table, &feed.primary_key(table).await?)?);
        feed = Feed::of_commits(&store, from, wanted).await?;
    }
    let mut is_empty = true;
    let mut counted = BTreeMap::new();
    let mut schema = vec![];
    while let Some(transaction) = feed.next().await? {
        if of_one_row {
            for event in &transaction.rows {
                is_empty = false;
                let event = Event::of(&transaction, event);
                report::line_out(format, &event, || event.text());
            }
            continue;
        }
        if transaction.before == 0 {
            (counted, schema) = (BTreeMap::new(), transaction.schema.clone());
        }
        for event in &transaction.rows {
            counted.entry(event.table.clone()).or_insert([0; 3])[nth(event)] += 1;
        }
        if transaction.is_last && !(counted.is_empty() && schema.is_empty()) {
            is_empty = false;
            let touched = Touched::of(&transaction, &schema, std::mem::take(&mut counted));
            report::line_out(format, &touched, || touched.text());
        }
    }
    if is_empty && format == Format::Text {
        report::line(&"nothing has changed since the first point of the backup");
    }
    Ok(Outcome::Done)
}

/// `7`, `id=7` or `a=1,b=x` as a condition. A value without a column is that of the primary key, or of the rowid.
fn condition(key: &str, table: &str, primary_key: &[String]) -> Result<String, Failure> {
    let again = "--key 7, --key id=7, or --key a=1,b=x";
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
    let terms = key.split(',').map(|term| {
        let (column, value) = term.split_once('=').unwrap_or((only, term));
        let column = column.trim();
        if column.is_empty() {
            return Err(Failure::invalid(format!("`{key}` has no column before `=`")).hint(again));
        }
        let value = value.trim();
        let text = statements::literal(&Value::Text(value.as_bytes().to_vec()));
        let is_rowid = column == "rowid" && primary_key.is_empty();
        let column = if is_rowid { column.to_owned() } else { litekeep_sql::quoted(column) };
        // A column without a type, and the rowid, make no number of text.
        let number = value.parse::<i64>().ok().filter(|number| number.to_string() == value);
        Ok(match number {
            Some(number) => format!("({column} = {number} OR {column} = {text})"),
            None => format!("{column} = {text}"),
        })
    });
    Ok(terms.collect::<Result<Vec<_>, _>>()?.join(" AND "))
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
