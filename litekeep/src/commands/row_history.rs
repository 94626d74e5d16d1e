//! `litekeep history --rows`: transactions with the tables that they touched; `--table` and `--key`: the life of one row.

mod key;
mod names;

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use litekeep_replicate::restore::Goal;
use litekeep_rows::feed::{Feed, RowEvent, Transaction};
use litekeep_rows::{SchemaChange, Selection, Value, json};
use litekeep_store::Store;
use serde::Serialize;
use serde_json::Value as Json;

use super::diff::{best_backup, goal};
use crate::args;
use crate::report::{self, Failure, Format, Outcome, text};
use crate::restore_points::Points;
use crate::settings::Stores;
use crate::settings::database::backups;
use key::Key;
use names::{Names, Schemas};

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
    let from = args.from.as_deref().map(goal).transpose()?;
    let goals: Vec<Goal> = from.into_iter().chain([Goal::Latest]).collect();
    let store = match best_backup(target, config, &goals, format).await {
        Ok((_, store)) => store,
        // What is before a gap is told, and then the gap.
        Err(error) => first_backup(target, config, format)?.ok_or(error)?,
    };
    let from = match from {
        Some(from) => from,
        None => {
            let log = store.list().await?;
            let first = Points::of(&log, &litekeep_store::Times::default()).first();
            Goal::Txid(first.ok_or_else(|| Failure::invalid("nothing can be restored from the backup"))?.0)
        }
    };
    let feed = Feed::of_commits(&store, from, wanted.clone()).await?;
    feed.check_tables().await?;
    // All names are known before the first row: what is read need not be kept until then.
    let mut schemas = Schemas::default();
    let mut names = Names::default();
    if let Some(table) = &args.table {
        if !feed.has_one_schema().await.unwrap_or(false) {
            let without_rows = Selection { without_rows: true, ..Selection::default() };
            schemas = Schemas::read(Feed::of_commits(&store, from, without_rows).await?).await?;
        }
        names = Names::of(table, &schemas);
        wanted.tables = names.all();
        if let Some(key) = &args.key {
            let states = names.states(&schemas)?;
            if states.is_empty() {
                wanted.condition = Some(Key::condition(key, table, feed.layout(table).await?.as_ref())?);
            } else {
                wanted.conditions = Key::conditions(key, table, &states)?;
            }
        }
    }
    drop(feed);
    let mut shown = Shown { of_one_row: args.key.is_some(), format, is_empty: true };
    shown.read(Feed::of_commits(&store, from, wanted).await?.with_whole_rows(), &names).await?;
    if let Some(error) = schemas.failed {
        return Err(error.into());
    }
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

/// A backup of which at least a part is there.
fn first_backup(target: Option<&str>, config: &args::ConfigArgs, format: Format) -> Result<Option<Store>> {
    let backups = backups(target, config, format)?;
    backups.first().map(|backup| backup.open(&Stores::default())).transpose()
}

/// Where lines go.
struct Shown {
    of_one_row: bool,
    format: Format,
    is_empty: bool,
}

impl Shown {
    /// Shows what the feed has, as it comes, while somebody reads.
    async fn read(&mut self, mut feed: Feed, names: &Names) -> Result<()> {
        let mut counted = BTreeMap::new();
        let mut schema = vec![];
        while let Some(transaction) = feed.next().await? {
            let at = transaction.point();
            if transaction.before == 0 {
                (counted, schema) = (BTreeMap::new(), transaction.schema.clone());
            }
            for event in transaction.rows.iter().filter(|event| names.has(&event.table, at)) {
                if !self.of_one_row {
                    counted.entry(event.table.clone()).or_insert([0; 3])[nth(event)] += 1;
                    continue;
                }
                let event = Event::of(&transaction, event);
                if !self.line(&event, || event.text()) {
                    return Ok(());
                }
            }
            if !self.of_one_row && transaction.is_last && !(counted.is_empty() && schema.is_empty()) {
                let touched = Touched::of(&transaction, &schema, std::mem::take(&mut counted));
                if !self.line(&touched, || touched.text()) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// `false` when nobody reads any more.
    fn line(&mut self, line: &impl Serialize, text: impl FnOnce() -> String) -> bool {
        self.is_empty = false;
        report::line_out(self.format, line, text)
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
