//! `litekeep sync`: other databases kept in step, by hand.

use std::path::Path;

use anyhow::{Context as _, Result};
use litekeep_config::{Direction, OtherSide};
use litekeep_env::{Clock as _, SystemClock};
use litekeep_schema::portable::{Level, Note};
use litekeep_sql::Examiner;
use litekeep_sync::compare::{self, Found};
use litekeep_sync::cut::Cut;
use litekeep_sync::push::{Step, is_wanted};
use litekeep_sync::source::{SourceTable, surveyed};
use litekeep_sync::target::Listed;
use litekeep_sync::two_way::Conflict;
use litekeep_sync::worker::State;
use litekeep_sync::{Source, Target, copy};
use serde::Serialize;

use crate::args::sync::{Named, Sync as Args, SyncAction, Verify};
use crate::report::progress::Rows;
use crate::report::{self, Failure, Format, Outcome, text};
use crate::settings::{Settings, Stores};
use crate::syncs::{DatabaseSync, SyncStatus, budget, with_side};

pub(super) async fn run(args: &Args, format: Format) -> Result<Outcome> {
    match &args.action {
        SyncAction::Plan(named) => plan(named, format).await.context("plan a sync"),
        SyncAction::Run(named) => go_on(named, format).await.context("run a sync"),
        SyncAction::Status(named) => status(named, format).await.context("tell the status of a sync"),
        SyncAction::Pause(named) => pause(named, format).context("pause a sync"),
        SyncAction::Resume(named) => resume(named, format).context("resume a sync"),
        SyncAction::Verify(args) => verify(args, format).await.context("compare both sides of a sync"),
        SyncAction::Resync(named) => {
            resync(named, format).await.context("bring both sides of a sync together")
        }
        SyncAction::Conflicts(named) => conflicts(named, format).await.context("list conflicts"),
        SyncAction::Forget(named) => forget(named, format).await.context("end a sync"),
        SyncAction::Refused(named) => refused(named, format).await.context("list refused rows"),
    }
}

fn found(named: &Named, format: Format) -> Result<DatabaseSync> {
    DatabaseSync::named(&Settings::load(&named.config, format)?, named.name.as_deref())
}

#[derive(Serialize)]
struct Plan {
    name: String,
    other: String,
    /// How many it has at most.
    connections: u32,
    /// How many all syncs with the server may have together.
    max_connections: Option<u32>,
    tables: Vec<PlannedTable>,
    ok: bool,
}

#[derive(Serialize)]
struct PlannedTable {
    table: String,
    /// The statements that make it, its indexes last.
    sql: Vec<String>,
    notes: Vec<PlannedNote>,
}

#[derive(Serialize)]
pub(super) struct PlannedNote {
    column: Option<String>,
    level: &'static str,
    message: String,
}

impl PlannedNote {
    pub(super) fn of(note: Note) -> PlannedNote {
        PlannedNote { column: note.column, level: note.level.word(), message: note.message }
    }

    pub(super) fn line(&self, table: &str) -> String {
        let column = self.column.as_ref().map_or(String::new(), |column| format!(".{column}"));
        format!("{}: {table}{column} {}\n", self.level, self.message)
    }
}

async fn plan(named: &Named, format: Format) -> Result<Outcome> {
    let settings = Settings::load(&named.config, format)?;
    let sync = DatabaseSync::named(&settings, named.name.as_deref())?;
    budget::is_enough(&sync, &DatabaseSync::all(&settings)?)?;
    plan_of(&sync, format).await
}

/// What a sync would make.
pub(super) async fn plan_of(sync: &DatabaseSync, format: Format) -> Result<Outcome> {
    let (name, connections) = (&sync.config.name, Connections::of(sync)?);
    if sync.is_cache() && !sync.follows_changes() {
        let cache = sync.cache(false, false)?;
        return Ok(told(Plan::of_tables(name, cache.place(), connections, cache.survey().await?), format));
    }
    if sync.config.direction == Direction::Pull {
        return plan_pull(name, connections, (sync.source()?, &sync.cut()), false, format).await;
    }
    if sync.is_two_way() {
        return plan_two_way(sync, connections, format).await;
    }
    let of = (sync.database.path.as_path(), name.as_str(), connections);
    with_side!(sync.side()?, target => planned(of, (&sync.config.tables, sync.cut()), &target, format).await)
}

/// How many there are at most, and may be.
#[derive(Clone, Copy)]
pub(super) struct Connections(pub(super) u32, pub(super) Option<u32>);

impl Connections {
    fn of(sync: &DatabaseSync) -> Result<Connections> {
        Ok(Connections(sync.connections()?, sync.budget.most()))
    }
}

/// The tables that are made on a server, of a database, under a name.
pub(super) async fn planned<T: Target>(
    (database, name, Connections(connections, max_connections)): (&Path, &str, Connections),
    (wanted, cut): (&[String], Cut),
    target: &T,
    format: Format,
) -> Result<Outcome> {
    let (path, wanted) = (database.to_owned(), wanted.to_owned());
    let wants = move |table: &str| is_wanted(&wanted, table);
    let surveyed =
        tokio::task::spawn_blocking(move || copy::survey(&Examiner::open(&path)?, wants, &cut)).await??;
    let mut tables = vec![];
    let mut ok = true;
    for (declared, profiles) in &surveyed {
        let (table, notes) = target.map(declared, profiles);
        ok &= notes.iter().all(|note| note.level < Level::Table);
        let notes = notes.into_iter().map(PlannedNote::of).collect();
        tables.push(PlannedTable { table: declared.name.clone(), sql: target.statements(&table), notes });
    }
    let (name, other) = (name.to_owned(), target.name());
    Ok(told(Plan { name, other, connections, max_connections, tables, ok }, format))
}

/// The tables that are made in SQLite, once or to be kept in step.
pub(super) async fn plan_pull(
    name: &str,
    connections: Connections,
    (mut source, cut): (impl Source, &Cut),
    once: bool,
    format: Format,
) -> Result<Outcome> {
    match once {
        true => source.connect_to_copy().await?,
        false => source.connect().await?,
    };
    let surveyed = surveyed(&mut source, cut).await?;
    Ok(told(Plan::of_tables(name, &source.name(), connections, surveyed), format))
}

/// The tables that either side lacks.
async fn plan_two_way(
    sync: &DatabaseSync,
    Connections(connections, max_connections): Connections,
    format: Format,
) -> Result<Outcome> {
    let mut flow = sync.two_way(sync.stores(&Stores::default())?, None)?;
    let mut tables = vec![];
    let mut ok = true;
    for pair in flow.pairs().await? {
        ok &= pair.notes.iter().all(|note| note.level < Level::Table);
        let mirror = &pair.table.mirror;
        let sql = match pair.is_here {
            true => pair.statements,
            false => std::iter::once(mirror.create()).chain(mirror.create_indexes()).collect(),
        };
        let notes = pair.notes.into_iter().map(PlannedNote::of).collect();
        tables.push(PlannedTable { table: pair.table.mirror.name, sql, notes });
    }
    let (name, other) = (sync.config.name.clone(), flow.hub().name());
    Ok(told(Plan { name, other, connections, max_connections, tables, ok }, format))
}

fn told(plan: Plan, format: Format) -> Outcome {
    report::result(format, &plan, || plan.text());
    if plan.ok { Outcome::Done } else { Outcome::No }
}

impl Plan {
    /// The tables of a source, as they are made in SQLite.
    fn of_tables(
        name: &str,
        other: &str,
        Connections(connections, max_connections): Connections,
        surveyed: Vec<(SourceTable, Vec<Note>)>,
    ) -> Plan {
        let mut tables = vec![];
        let mut ok = true;
        for (table, notes) in surveyed {
            ok &= notes.iter().all(|note| note.level < Level::Table);
            let sql = std::iter::once(table.mirror.create()).chain(table.mirror.create_indexes()).collect();
            let notes = notes.into_iter().map(PlannedNote::of).collect();
            tables.push(PlannedTable { table: table.mirror.name, sql, notes });
        }
        let (name, other) = (name.to_owned(), other.to_owned());
        Plan { name, other, connections, max_connections, tables, ok }
    }

    fn text(&self) -> String {
        // As the shell has comments that takes the statements.
        let is_mongosh = |statement: &String| statement.starts_with("db.");
        let comment = match self.tables.iter().flat_map(|table| &table.sql).any(is_mongosh) {
            true => "//",
            false => "--",
        };
        let mut out = format!("{comment} {}, {}\n", self.name, self.other);
        let connections = text::count(self.connections as usize, "connection");
        let of = self
            .max_connections
            .map_or(String::new(), |most| format!(", of {most} that all syncs with the server may have"));
        out.push_str(&format!("{comment} {connections} at most{of}\n"));
        for table in &self.tables {
            out.push('\n');
            for note in &table.notes {
                out.push_str(&format!("{comment} {}", note.line(&table.table)));
            }
            out.extend(table.sql.iter().map(|statement| format!("{statement};\n")));
        }
        out
    }
}

/// How far a run came.
#[derive(Serialize)]
struct Ran {
    name: String,
    other: String,
    txid: Option<String>,
    position: Option<String>,
    refused_rows: u64,
    paused_tables: Vec<String>,
}

async fn go_on(named: &Named, format: Format) -> Result<Outcome> {
    let sync = found(named, format)?;
    let name = &sync.config.name;
    if let Some(since_ms) = sync.pause().since() {
        let message = format!("the sync `{name}` is paused since {}", text::rfc3339(since_ms));
        return Err(Failure::invalid(message)
            .hint(format!("`litekeep sync resume {name}` lets it go on"))
            .into());
    }
    let stores = Stores::default();
    if sync.is_cache() && !sync.follows_changes() {
        return begin_cache(&sync, &stores, format).await;
    }
    let mut worker = match sync.config.direction == Direction::Pull {
        true => sync.worker(vec![], sync.may_make(&stores).await?, None)?,
        false => sync.worker(sync.stores(&stores)?, false, None)?,
    };
    let shown = Rows::new(format);
    let ran = loop {
        match worker.step().await {
            Ok(Step::More) => {}
            Ok(Step::Current) if worker.reads_another_log().await => {}
            Ok(Step::Current) => break Ok(()),
            Err(error) => break Err(error),
        }
        if let Some(rows) = worker.state().progress.as_ref().and_then(|progress| progress.copied_rows) {
            shown.at(rows);
        }
    };
    shown.end();
    worker.tell().await;
    ran?;
    Ok(ran_so_far(&sync, worker.state(), format))
}

/// Makes the tables of a cache, and removes rows that are too old.
async fn begin_cache(sync: &DatabaseSync, stores: &Stores, format: Format) -> Result<Outcome> {
    let cache = sync.cache(sync.may_make(stores).await?, false)?;
    cache.run().await?;
    Ok(ran_so_far(sync, &cache.state(), format))
}

/// How far it came.
fn ran_so_far(sync: &DatabaseSync, state: &State, format: Format) -> Outcome {
    let stands = sync.status(state.at(), SystemClock.unix_ms());
    let ran = Ran {
        name: sync.config.name.clone(),
        other: state.to.clone(),
        txid: stands.txid.clone(),
        position: stands.position.clone(),
        refused_rows: stands.refused_rows,
        paused_tables: stands.paused_tables.iter().map(|paused| paused.table.clone()).collect(),
    };
    report::result(format, &ran, || match (&ran.txid, &ran.position) {
        _ if sync.is_cache() => stands.text().trim_start().to_owned(),
        (Some(txid), _) => format!("{} has everything, up to transaction {txid}\n", ran.other),
        (None, Some(position)) => {
            let database = sync.database.path.display();
            format!("{database} has everything of {}, up to {position}\n", ran.other)
        }
        (None, None) => "the backup has nothing yet\n".to_owned(),
    });
    let problems = stands.problems();
    problems.iter().for_each(|problem| report::warning(problem, format));
    if problems.is_empty() { Outcome::Done } else { Outcome::No }
}

#[derive(Serialize)]
struct Rests {
    name: String,
    paused: bool,
    /// It was not so before.
    changed: bool,
}

fn pause(named: &Named, format: Format) -> Result<Outcome> {
    let sync = found(named, format)?;
    let rests = Rests { name: sync.config.name.clone(), paused: true, changed: sync.pause().set()? };
    report::result(format, &rests, || {
        let keeps = match (&sync.config.other, sync.config.direction) {
            _ if sync.is_cache() && !sync.follows_changes() => {
                "; only what is in SQLite is given meanwhile, for as long as it may be"
            }
            (OtherSide::Postgres(_), Direction::Pull | Direction::Both) => {
                "; the server keeps its log for it meanwhile, until its disk is full or `max_slot_wal_keep_size` is reached"
            }
            _ => "",
        };
        let name = &rests.name;
        format!("the sync `{name}` rests until `litekeep sync resume {name}`{keeps}\n")
    });
    Ok(Outcome::Done)
}

fn resume(named: &Named, format: Format) -> Result<Outcome> {
    let sync = found(named, format)?;
    let rests = Rests { name: sync.config.name.clone(), paused: false, changed: sync.pause().lift()? };
    report::result(format, &rests, || match rests.changed {
        true => format!("the sync `{}` goes on\n", rests.name),
        false => format!("the sync `{}` was not paused\n", rests.name),
    });
    Ok(Outcome::Done)
}

#[derive(Serialize)]
struct Statuses {
    ok: bool,
    syncs: Vec<SyncStatus>,
}

async fn status(named: &Named, format: Format) -> Result<Outcome> {
    let settings = Settings::load(&named.config, format)?;
    let all = match &named.name {
        Some(name) => vec![DatabaseSync::named(&settings, Some(name))?],
        None => DatabaseSync::all(&settings)?,
    };
    let now_ms = SystemClock.unix_ms();
    let stores = Stores::default();
    let mut syncs: Vec<SyncStatus> = vec![];
    for sync in &all {
        let durable = match sync.stores(&stores)?.first() {
            Some(store) if sync.config.direction != Direction::Pull => store.list().await?.last(),
            _ => None,
        };
        syncs.push(sync.status(durable, now_ms));
    }
    let status = Statuses { ok: syncs.iter().all(|sync| sync.problems().is_empty()), syncs };
    report::result(format, &status, || {
        let one = |sync: &SyncStatus| {
            let problems: String =
                sync.problems().iter().map(|problem| format!("    ! {problem}\n")).collect();
            format!("{}{problems}", sync.text())
        };
        status.syncs.iter().map(one).collect()
    });
    Ok(if status.ok { Outcome::Done } else { Outcome::No })
}

#[derive(Serialize)]
struct Compared {
    name: String,
    ok: bool,
    txid: Option<String>,
    rows: u64,
    missing: u64,
    extra: u64,
    different: u64,
    /// Both sides are the same now.
    repaired: bool,
    refused_rows: u64,
    differences: Vec<Difference>,
}

/// A row that is not the same on both sides.
#[derive(Serialize)]
pub(super) struct Difference {
    table: String,
    key: Vec<serde_json::Value>,
    what: String,
}

impl Difference {
    pub(super) fn line(&self) -> String {
        line(&self.table, &self.key, &self.what)
    }
}

/// The same for people and JSON.
pub(super) fn differences(told: &[compare::Difference]) -> Vec<Difference> {
    let one = |one: &compare::Difference| Difference {
        table: one.table.clone(),
        key: one.key.iter().map(|text| shown(text)).collect(),
        what: one.what.clone(),
    };
    told.iter().map(one).collect()
}

fn line(table: &str, key: &[serde_json::Value], what: &str) -> String {
    let key: Vec<String> = key.iter().map(ToString::to_string).collect();
    format!("{table} {}: {what}\n", key.join(", "))
}

async fn verify(args: &Verify, format: Format) -> Result<Outcome> {
    compared(&args.named, args.repair, format).await
}

async fn resync(named: &Named, format: Format) -> Result<Outcome> {
    let sync = found(named, format)?;
    if sync.is_cache() && !sync.follows_changes() {
        let cache = sync.cache(false, false)?;
        cache.resync().await?;
        let resynced = Resynced { name: sync.config.name.clone(), other: cache.place().to_owned() };
        report::result(format, &resynced, || {
            "its tables are as they are there now, and empty: rows come when they are asked for\n".to_owned()
        });
        return Ok(Outcome::Done);
    }
    if sync.is_two_way() {
        let mut flow = sync.two_way(sync.stores(&Stores::default())?, None)?;
        flow.resync().await?;
        let resynced = Resynced { name: sync.config.name.clone(), other: flow.hub().name() };
        report::result(format, &resynced, || begun_anew(&sync));
        return Ok(Outcome::Done);
    }
    if sync.config.direction != Direction::Pull {
        return compared(named, true, format).await;
    }
    let mut pull = sync.pull(false)?;
    pull.resync().await?;
    let resynced = Resynced { name: sync.config.name.clone(), other: pull.source().name() };
    report::result(format, &resynced, || begun_anew(&sync));
    Ok(Outcome::Done)
}

async fn forget(named: &Named, format: Format) -> Result<Outcome> {
    let sync = found(named, format)?;
    if sync.is_cache() && !sync.follows_changes() {
        let cache = sync.cache(false, false)?;
        cache.forget().await?;
        let forgotten = Resynced { name: sync.config.name.clone(), other: cache.place().to_owned() };
        report::result(format, &forgotten, || "its rows are gone; its tables are yours to drop\n".to_owned());
        return Ok(Outcome::Done);
    }
    if sync.is_two_way() {
        let mut flow = sync.two_way(sync.stores(&Stores::default())?, None)?;
        flow.forget().await?;
        let forgotten = Resynced { name: sync.config.name.clone(), other: flow.hub().name() };
        report::result(format, &forgotten, || {
            format!("{} keeps nothing for the sync any more; the rows stay on both sides\n", forgotten.other)
        });
        return Ok(Outcome::Done);
    }
    if sync.config.direction != Direction::Pull {
        let message = format!(
            "the sync `{}` goes to {}, which keeps nothing for it",
            sync.config.name,
            with_side!(sync.side()?, target => target.name())
        );
        let hint = "take it out of the configuration; its rows, and how far they are (`_litekeep_sync`), stay there until you drop them";
        return Err(Failure::invalid(message).hint(hint).into());
    }
    let mut pull = sync.pull(false)?;
    pull.forget().await?;
    let forgotten = Resynced { name: sync.config.name.clone(), other: pull.source().name() };
    report::result(format, &forgotten, || {
        format!("{} keeps nothing for the sync any more; the rows in SQLite stay\n", forgotten.other)
    });
    Ok(Outcome::Done)
}

async fn compared(named: &Named, repair: bool, format: Format) -> Result<Outcome> {
    let sync = found(named, format)?;
    if sync.is_cache() {
        let message =
            format!("the rows of the cache `{}` may be older than those of the server", sync.config.name);
        let hint = "`litekeep sync resync` empties it, so that they come anew";
        return Err(Failure::invalid(message).hint(hint).into());
    }
    if sync.is_pull() || sync.is_two_way() {
        return compare_live(&sync, repair, format).await;
    }
    let settings = sync.push(sync.stores(&Stores::default())?)?;
    let found = with_side!(sync.side()?, target => compare::run(&settings, &mut { target }, repair).await)?;
    let ok = repair || found.is_equal();
    let compared = Compared::new(&sync, found, repair, ok);
    report::result(format, &compared, || compared.text());
    Ok(if ok { Outcome::Done } else { Outcome::No })
}

/// The same where SQLite is written to; with `repair` all rows that differ come again, by the litekeep that runs, or by the next one.
async fn compare_live(sync: &DatabaseSync, repair: bool, format: Format) -> Result<Outcome> {
    let found = match sync.is_two_way() {
        true => {
            let mut flow = sync.two_way(sync.stores(&Stores::default())?, None)?;
            let found = flow.compare().await?;
            if repair && !found.is_equal() {
                flow.resync().await?;
            }
            found
        }
        false => {
            let mut pull = sync.pull(false)?;
            let found = pull.compare().await?;
            if repair && !found.is_equal() {
                pull.resync().await?;
            }
            found
        }
    };
    let is_equal = found.is_equal();
    let compared = Compared::new(sync, found, false, is_equal);
    report::result(format, &compared, || {
        let next = match (repair, is_equal) {
            (true, false) => begun_anew(sync),
            _ => String::new(),
        };
        format!("{}{next}", compared.text())
    });
    Ok(if is_equal { Outcome::Done } else { Outcome::No })
}

fn begun_anew(sync: &DatabaseSync) -> String {
    format!(
        "all rows are compared anew, and what differs comes again: by the litekeep that runs, or by `litekeep sync run {}`\n",
        sync.config.name
    )
}

#[derive(Serialize)]
struct Resynced {
    name: String,
    other: String,
}

impl Compared {
    fn new(sync: &DatabaseSync, found: Found, repaired: bool, ok: bool) -> Compared {
        Compared {
            name: sync.config.name.clone(),
            ok,
            txid: found.txid.map(|txid| txid.to_string()),
            rows: found.rows,
            missing: found.missing,
            extra: found.extra,
            different: found.different,
            repaired,
            refused_rows: found.refused,
            differences: differences(&found.told),
        }
    }

    fn text(&self) -> String {
        let rows = |count: u64| text::count(usize::try_from(count).unwrap_or(usize::MAX), "row");
        let mut out: String = self.differences.iter().map(Difference::line).collect();
        let at = self.txid.as_ref().map_or(String::new(), |txid| format!(" at transaction {txid}"));
        let compared = format!("{} compared{at}", rows(self.rows));
        out.push_str(&match self.missing + self.extra + self.different {
            0 => format!("{compared}: both sides have the same\n"),
            _ => format!(
                "{compared}: {} missing, {} too many, {} different there{}\n",
                self.missing,
                self.extra,
                self.different,
                if self.repaired { "; mended" } else { "" }
            ),
        });
        out
    }
}

/// A value of a key, for people and JSON.
fn shown(key: &str) -> serde_json::Value {
    litekeep_sync::target::key_value(key)
        .map_or(serde_json::Value::Null, |value| litekeep_rows::json::value(&value))
}

/// A row that cannot be written.
#[derive(Serialize)]
pub(super) struct Refused {
    table: String,
    key: Vec<serde_json::Value>,
    reason: String,
}

impl Refused {
    pub(super) fn line(&self) -> String {
        line(&self.table, &self.key, &self.reason)
    }
}

/// The same for people and JSON.
pub(super) fn refused_rows(listed: Vec<Listed>) -> Vec<Refused> {
    let row = |Listed { table, key, reason }: Listed| Refused {
        table,
        key: key.iter().map(|text| shown(text)).collect(),
        reason,
    };
    listed.into_iter().map(row).collect()
}

async fn of_target<T: Target>(mut target: T) -> Result<Option<Vec<Listed>>> {
    Ok(match target.connect().await? {
        Some(_) => Some(target.listed().await?),
        None => None,
    })
}

/// The rows that one of the sides refuses; `None`: the sync has not begun.
pub(super) async fn listed(sync: &DatabaseSync) -> Result<Option<Vec<Listed>>> {
    Ok(match sync.config.direction == Direction::Pull {
        true => sync.pull(false)?.listed().await?,
        false if sync.is_two_way() => sync.two_way(sync.stores(&Stores::default())?, None)?.listed().await?,
        false => with_side!(sync.side()?, target => of_target(target).await)?,
    })
}

async fn refused(named: &Named, format: Format) -> Result<Outcome> {
    let sync = found(named, format)?;
    if sync.is_cache() && !sync.follows_changes() {
        let message = format!(
            "the cache `{}` tells of a row that cannot be here when it is asked for",
            sync.config.name
        );
        return Err(Failure::invalid(message).into());
    }
    let Some(listed) = listed(&sync).await? else {
        let message = format!("the sync `{}` has not begun", sync.config.name);
        let hint = format!("`litekeep sync run {}` makes the first copy", sync.config.name);
        return Err(Failure::invalid(message).hint(hint).into());
    };
    let rows = refused_rows(listed);
    report::result(format, &rows, || match rows.is_empty() {
        true => "no row is refused\n".to_owned(),
        false => rows.iter().map(Refused::line).collect(),
    });
    Ok(if rows.is_empty() { Outcome::Done } else { Outcome::No })
}

#[derive(Serialize)]
struct Conflicts {
    name: String,
    /// All of them since the sync began; the last ones are listed.
    count: u64,
    conflicts: Vec<OneConflict>,
}

#[derive(Serialize)]
struct OneConflict {
    table: String,
    key: Vec<serde_json::Value>,
    at: String,
    winner: String,
    /// By column; `null`: the row is gone.
    kept: Option<serde_json::Map<String, serde_json::Value>>,
    lost: Option<serde_json::Map<String, serde_json::Value>>,
}

async fn conflicts(named: &Named, format: Format) -> Result<Outcome> {
    let sync = found(named, format)?;
    let name = sync.config.name.clone();
    if !sync.is_two_way() {
        let message = format!("the sync `{name}` goes one way, where there are no conflicts");
        let hint = "`direction = \"both\"` makes it go both ways";
        return Err(Failure::invalid(message).hint(hint).into());
    }
    let (conflicts, count) = sync.two_way(sync.stores(&Stores::default())?, None)?.conflicts().await?;
    let one = |conflict: Conflict| {
        let row = |row: Option<Vec<String>>| {
            row.map(|row| conflict.columns.iter().cloned().zip(row.iter().map(|text| shown(text))).collect())
        };
        OneConflict {
            key: conflict.key.iter().map(|text| shown(text)).collect(),
            at: text::rfc3339(conflict.at_ms),
            kept: row(conflict.kept.clone()),
            lost: row(conflict.lost.clone()),
            table: conflict.table,
            winner: conflict.winner,
        }
    };
    let told = Conflicts { name, count, conflicts: conflicts.into_iter().map(one).collect() };
    report::result(format, &told, || told.text());
    Ok(Outcome::Done)
}

impl Conflicts {
    fn text(&self) -> String {
        let row = |row: &Option<serde_json::Map<String, serde_json::Value>>| {
            row.clone().map_or("deleted".to_owned(), |row| serde_json::Value::Object(row).to_string())
        };
        let mut out: String = self
            .conflicts
            .iter()
            .map(|one| {
                let key: Vec<String> = one.key.iter().map(ToString::to_string).collect();
                let (table, key) = (&one.table, key.join(", "));
                format!(
                    "{} {table} {key}: {} won\n    kept {}\n    lost {}\n",
                    one.at,
                    one.winner,
                    row(&one.kept),
                    row(&one.lost)
                )
            })
            .collect();
        let listed = self.conflicts.len();
        let count = usize::try_from(self.count).unwrap_or(usize::MAX);
        out.push_str(&match (count, count - listed.min(count)) {
            (0, _) => "no row was changed on both sides\n".to_owned(),
            (_, 0) => format!("{}\n", text::count(count, "conflict")),
            (_, gone) => format!(
                "{}, of which the first {gone} are not kept any more\n",
                text::count(count, "conflict")
            ),
        });
        out
    }
}
