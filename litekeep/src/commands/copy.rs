//! `litekeep copy`: a database taken whole from SQLite to a server, or from a server into SQLite.

use anyhow::{Context as _, Result};
use litekeep_config::{Direction, OtherSide, SyncConfig};
use litekeep_sync::cut::Cut;
use litekeep_sync::transfer::{self, Copied, Parts};
use litekeep_sync::{Budget, Pull, Source as _, Target, pull};
use serde::Serialize;

use super::sync::{
    Connections, Difference, PlannedNote, Refused, differences, plan_pull, planned, refused_rows,
};
use crate::args::copy::{Copy as Args, Place};
use crate::report::progress::Rows;
use crate::report::{self, Failure, Format, Outcome, text};
use crate::syncs::{budget, side, source, with_side};

pub(super) async fn run(args: &Args, format: Format) -> Result<Outcome> {
    copy(args, format).await.context("copy a database")
}

async fn copy(args: &Args, format: Format) -> Result<Outcome> {
    let config = config(args)?;
    let budget = budget::of_server(&config.other, format);
    let parts = match (args.schema_only, args.data_only) {
        (true, _) => Parts::Schema,
        (_, true) => Parts::Rows,
        _ => Parts::All,
    };
    if config.direction == Direction::Pull {
        return into_sqlite((&config, &budget), parts, args.dry_run, format).await;
    }
    if !config.database.exists() {
        let message = format!("there is no `{}`", config.database.display());
        let hint = "the first place is copied to the second: to copy from the server, exchange them";
        return Err(Failure::invalid(message).hint(hint).into());
    }
    with_side!(side(&config, &budget)?, target => to_server((&config, &budget), target, parts, args.dry_run, format).await)
}

/// The same as a sync of the configuration would be.
fn config(args: &Args) -> Result<SyncConfig> {
    let (database, url, direction) = match (Place::of(&args.from), Place::of(&args.to)) {
        (Place::Sqlite(path), Place::Server(url)) => (path, url, Direction::Push),
        (Place::Server(url), Place::Sqlite(path)) => (path, url, Direction::Pull),
        (Place::Sqlite(_), Place::Sqlite(to)) => {
            let hint = format!("to copy a file: sqlite3 {} \"VACUUM INTO '{}'\"", args.from, to.display());
            return Err(Failure::invalid("both are SQLite").hint(hint).into());
        }
        (Place::Server(_), Place::Server(_)) => {
            let hint = "copy the one into a file first, and that to the other: litekeep copy URL file.db";
            return Err(Failure::invalid("neither is SQLite").hint(hint).into());
        }
    };
    let Some(other) = OtherSide::of(url) else {
        // Without the rest of it: there may be a password in it.
        let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
        let hint =
            "it is postgres://user@host/database, mysql://, mariadb:// or mongodb://, and a path for SQLite";
        return Err(Failure::invalid(format!("`{scheme}://` is no server that can be copied"))
            .hint(hint)
            .into());
    };
    let name = transfer::name(&database);
    let (tables, schema) = (args.tables.clone(), args.schema.clone());
    let (names, types) = (args.rename.iter().cloned().collect(), args.types.iter().cloned().collect());
    let (conflict, conflicts) = Default::default();
    let (columns, rows, cache) = Default::default();
    Ok(SyncConfig {
        name,
        database,
        other,
        direction,
        tables,
        schema,
        schedule: None,
        names,
        columns,
        rows,
        types,
        cache,
        conflict,
        conflicts,
        max_connections: None,
    })
}

async fn to_server<T: Target>(
    (config, budget): (&SyncConfig, &Budget),
    mut target: T,
    parts: Parts,
    dry_run: bool,
    format: Format,
) -> Result<Outcome> {
    let (database, tables) = (config.database.clone(), config.tables.clone());
    if dry_run {
        return planned(
            (&database, "copy", Connections(target.connections(), budget.most())),
            (&tables, Cut::default()),
            &target,
            format,
        )
        .await;
    }
    let shown = Rows::new(format);
    let settings = transfer::Settings { database, tables, parts };
    let copied = transfer::run(&settings, &mut target, |rows, of| shown.of(rows, of)).await;
    shown.end();
    let from = config.database.display().to_string();
    Ok(told(from, target.name(), copied?, format))
}

async fn into_sqlite(
    (config, budget): (&SyncConfig, &Budget),
    parts: Parts,
    dry_run: bool,
    format: Format,
) -> Result<Outcome> {
    let source = source(config, budget)?;
    if dry_run {
        return plan_pull(
            "copy",
            Connections(source.connections_to_read(), budget.most()),
            (source, &Cut::default()),
            true,
            format,
        )
        .await;
    }
    let (name, database) = (config.name.clone(), config.database.clone());
    let to = database.display().to_string();
    let settings = pull::Settings { name, database, creates: true, cut: Cut::default() };
    let mut pull = Pull::new(settings, source);
    let shown = Rows::new(format);
    let copied = pull.copy_once(parts, |rows| shown.at(rows)).await;
    shown.end();
    Ok(told(litekeep_sync::Source::name(pull.source()), to, copied?, format))
}

#[derive(Serialize)]
struct Report {
    from: String,
    to: String,
    ok: bool,
    /// It went on with what an earlier try had begun.
    resumed: bool,
    tables: Vec<Table>,
    /// What is not as it was.
    notes: Vec<Noted>,
    /// Indexes and foreign keys that could not be made.
    failed: Vec<String>,
    refused: Vec<Refused>,
    /// Rows that were compared, every value of each; `null`: no rows were wanted.
    compared_rows: Option<u64>,
    differences: Vec<Difference>,
}

#[derive(Serialize)]
struct Table {
    table: String,
    rows: u64,
}

#[derive(Serialize)]
struct Noted {
    table: String,
    #[serde(flatten)]
    note: PlannedNote,
}

fn told(from: String, to: String, copied: Copied, format: Format) -> Outcome {
    let is_equal = copied.found.as_ref().is_none_or(litekeep_sync::compare::Found::is_equal);
    let ok = is_equal && copied.refused.is_empty() && copied.failed.is_empty();
    let noted = |note: litekeep_schema::portable::Note| Noted {
        table: note.table.clone(),
        note: PlannedNote::of(note),
    };
    let report = Report {
        from,
        to,
        ok,
        resumed: copied.resumed,
        tables: copied.tables.into_iter().map(|(table, rows)| Table { table, rows }).collect(),
        notes: copied.notes.into_iter().map(noted).collect(),
        failed: copied.failed,
        refused: refused_rows(copied.refused),
        compared_rows: copied.found.as_ref().map(|found| found.rows),
        differences: copied.found.map_or(vec![], |found| differences(&found.told)),
    };
    report::result(format, &report, || report.text());
    if ok { Outcome::Done } else { Outcome::No }
}

impl Report {
    fn text(&self) -> String {
        let rows = |count: u64| text::count(usize::try_from(count).unwrap_or(usize::MAX), "row");
        let mut out = String::new();
        for Noted { table, note } in &self.notes {
            out.push_str(&note.line(table));
        }
        out.extend(self.failed.iter().map(|failed| format!("not made: {failed}\n")));
        out.extend(self.refused.iter().map(|row| format!("refused: {}", row.line())));
        out.extend(self.differences.iter().map(|one| format!("differs: {}", one.line())));
        out.extend(self.tables.iter().map(|table| format!("{}: {}\n", table.table, rows(table.rows))));
        out.push_str(&match (self.compared_rows, self.differences.is_empty()) {
            (None, _) => format!("{} has the tables of {}\n", self.to, self.from),
            (Some(compared), true) if self.refused.is_empty() => {
                format!(
                    "{} has everything of {}: {} compared, every value the same\n",
                    self.to,
                    self.from,
                    rows(compared)
                )
            }
            (Some(compared), true) => {
                let refused = rows(self.refused.len() as u64);
                format!("{} compared: the same, but for {refused} that cannot be there\n", rows(compared))
            }
            (Some(compared), false) => format!("{} compared: not the same\n", rows(compared)),
        });
        out
    }
}
