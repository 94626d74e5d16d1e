//! `litekeep graduate`: an application goes from SQLite to a server without losing a row, and may come back.
//!
//! Promises:
//! - Until the switch nothing changes for the application, and where the switch fails it goes on with SQLite.
//! - It is let to the server only when that has all that the application has committed, which can commit nothing meanwhile: a transaction of ours
//!   holds the write lock of the database.
//! - With PostgreSQL both sides are in step before the switch and after it, so that what somebody writes on the other side all the same is not lost,
//!   and the way back has everything.
//!
//! A crash leaves: the write lock goes with the process. How far it is stands in `graduate.json` among what litekeep keeps of the database, and
//! the same command goes on.

mod moment;
mod switch;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use litekeep_config::{ConflictPolicy, Direction, OtherSide, SyncConfig, format_duration};
use litekeep_env::{Clock as _, SystemClock, file};
use litekeep_replicate::local::MetaDir;
use litekeep_schema::portable::{Level, Note};
use litekeep_sql::{Declaration, Examiner, SYNC_TABLE};
use litekeep_sync::compare::{self, Found};
use litekeep_sync::cut::Cut;
use litekeep_sync::push::is_wanted;
use litekeep_sync::target::Target;
use litekeep_sync::worker::{Rhythm, State, Worker};
use litekeep_sync::{Budget, Source as _, copy, two_way};
use serde::{Deserialize, Serialize};

use self::moment::{Held, durable, reach};
use self::switch::Switch;
use super::sync::{Difference, differences, listed, plan_of, refused_rows};
use crate::args::graduate::Graduate as Args;
use crate::child::Signals;
use crate::followers::Followers;
use crate::report::progress::Rows;
use crate::report::{self, Failure, Format, Kind, Outcome, text};
use crate::settings::{Database, Settings, Stores, database};
use crate::syncs::{DatabaseSync, Side, budget, source, with_side};

/// How long rows without a parent are looked for.
const LONG: Duration = Duration::from_secs(3600);
/// Between two looks at a log that had nothing more, or for a replicator, and how many of these there are.
const LOOK: Duration = Duration::from_millis(50);
const LOOKS: u32 = 10;

pub(super) async fn run(args: &Args, format: Format) -> Result<Outcome> {
    graduate(args, format).await.context("move the application to a server")
}

async fn graduate(args: &Args, format: Format) -> Result<Outcome> {
    let switch = Switch::of(args, format).await?;
    let (graduation, is_begun) = Graduation::read(args, format).await?;
    if args.dry_run {
        return plan_of(&graduation.sync(), format).await;
    }
    if args.done {
        return graduation.end().await;
    }
    match (graduation.kept.stage, args.back) {
        (Stage::Switched, true) => graduation.come_back(args, switch).await,
        (_, true) => {
            let message = format!("the application does not use {} yet", graduation.kept.to);
            Err(Failure::invalid(message).hint("without --back it is moved there").into())
        }
        (Stage::Switched, false) => graduation.keep_current(args).await,
        (_, false) => graduation.go(args, switch, is_begun).await,
    }
}

/// Where the application is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Stage {
    /// It uses SQLite.
    Following,
    /// The switch was under way.
    Switching,
    /// It uses the server.
    Switched,
}

/// What is kept of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    /// The server, without a password.
    to: String,
    stage: Stage,
    /// The tables, by their names in SQLite.
    tables: Vec<String>,
    /// They were all that there were.
    has_all: bool,
    schema: Option<String>,
    names: BTreeMap<String, String>,
    types: BTreeMap<String, String>,
    /// Foreign keys were made there.
    has_keys: bool,
    /// When the last transaction was made that had come from the server as the switch began, milliseconds since the epoch.
    came_ms: Option<i64>,
}

struct Graduation {
    database: Database,
    other: OtherSide,
    url: String,
    kept: Kept,
    budget: Budget,
    format: Format,
}

/// What was done.
#[derive(Serialize)]
struct Report {
    database: PathBuf,
    to: String,
    /// The name under which both sides are kept in step.
    sync: String,
    /// `ready`, `switched`, `back` or `done`.
    stage: &'static str,
    ok: bool,
    /// Rows that were compared, every value of each.
    compared_rows: Option<u64>,
    differences: Vec<Difference>,
    /// Foreign keys and numbers that the server refused.
    failed: Vec<String>,
    /// How long nobody could write to SQLite.
    held_seconds: Option<f64>,
    /// They were compared then, too.
    compared_while_held: Option<bool>,
}

impl Graduation {
    /// By what was begun before, if anything was; and whether it was.
    async fn read(args: &Args, format: Format) -> Result<(Graduation, bool)> {
        let other = other(&args.to)?;
        let settings = Settings::find(&args.config, format)?;
        let mut databases = match (&settings, args.target.as_deref()) {
            (Some(settings), Some(path)) => vec![Database::named(settings, path)?],
            (Some(settings), None) => database::all(settings)?,
            (None, target) => database::databases(target, &args.config, format)?,
        };
        let (Some(database), true) = (databases.pop(), databases.is_empty()) else {
            let hint = "say which: litekeep graduate app.db --to URL";
            return Err(Failure::invalid("the configuration has not just one database").hint(hint).into());
        };
        let name = database.path.display();
        if !database.path.exists() {
            return Err(Failure::invalid(format!("there is no `{name}`")).into());
        }
        if !args.dry_run && !args.done && !is_replicated(&database).await {
            let message = format!("nothing replicates `{name}`, and what is committed comes from its backup");
            let hint = format!("start `litekeep up`, or `litekeep replicate {name}`, and leave it running");
            return Err(Failure::invalid(message).hint(hint).into());
        }
        let begun = Kept::read(&Kept::file(&database))?;
        let is_begun = begun.is_some();
        let kept = Kept {
            to: String::new(),
            stage: Stage::Following,
            tables: args.tables.clone(),
            has_all: args.tables.is_empty(),
            schema: args.schema.clone(),
            names: args.rename.iter().cloned().collect(),
            types: args.types.iter().cloned().collect(),
            has_keys: false,
            came_ms: None,
        };
        let budget = match &settings {
            Some(settings) => budget::of_configuration(settings, &other)?,
            None => Budget::default(),
        };
        let mut graduation = Graduation { database, other, url: args.to.clone(), kept, budget, format };
        // What compares is beside what keeps both in step.
        graduation.budget.fits(2 * graduation.sync().connections()?)?;
        let asked = graduation.kept.clone();
        if let Some(begun) = begun {
            graduation.kept = begun;
        } else if graduation.kept.has_all {
            graduation.kept.tables = graduation.declared()?.into_iter().map(|table| table.name).collect();
        }
        let to = match &graduation.other {
            OtherSide::Postgres(url) => {
                litekeep_sync_postgres::Address::parse(url.expose())?.name().to_owned()
            }
            _ => with_side!(graduation.sync().side()?, target => target.name()),
        };
        graduation.is_the_same(&asked, &to)?;
        graduation.kept.to = to;
        if let Some(settings) = settings.filter(|_| !args.dry_run) {
            graduation.is_alone(&settings)?;
        }
        Ok((graduation, is_begun))
    }

    /// What was begun is gone on with, and nothing else.
    fn is_the_same(&self, asked: &Kept, to: &str) -> Result<()> {
        let kept = &self.kept;
        let options = |kept: &Kept| (kept.schema.clone(), kept.names.clone(), kept.types.clone());
        let says_other = options(asked) != Default::default() && options(asked) != options(kept)
            || !asked.has_all && asked.tables != kept.tables;
        let message = match kept.to.is_empty() || kept.to == to {
            true if !says_other => return Ok(()),
            true => "it was begun with other tables, names or types".to_owned(),
            false => format!("it was begun with {}, which is not {to}", kept.to),
        };
        let hint = "go on with what it was begun with; --done ends that, and it can begin anew";
        Err(Failure::invalid(message).hint(hint).into())
    }

    /// Two cannot run one sync.
    fn is_alone(&self, settings: &Settings) -> Result<()> {
        let name = self.name();
        let is_it = |sync: &SyncConfig| sync.name == name;
        if !settings.config.syncs.iter().any(is_it) || self.sync().pause().since().is_some() {
            return Ok(());
        }
        let message = format!(
            "the sync `{name}` is in `{}`, so another litekeep keeps it current",
            settings.path.display()
        );
        let hint = format!(
            "`litekeep sync pause {name}` lets it rest meanwhile, `litekeep sync resume {name}` lets it go on afterwards"
        );
        Err(Failure::invalid(message).hint(hint).into())
    }

    /// The name under which both sides are kept in step.
    fn name(&self) -> String {
        let stem = self.database.path.file_stem().unwrap_or_default().to_string_lossy();
        let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' };
        format!("graduate-{}", stem.chars().take(50).map(plain).collect::<String>())
    }

    /// As a sync of the configuration would be. The side that the application uses wins.
    fn sync(&self) -> DatabaseSync {
        let direction = match self.other {
            OtherSide::Postgres(_) => Direction::Both,
            _ => Direction::Push,
        };
        let conflict = match self.kept.stage {
            Stage::Switched => ConflictPolicy::Server,
            _ => ConflictPolicy::Sqlite,
        };
        let kept = &self.kept;
        let config = SyncConfig {
            name: self.name(),
            database: self.database.path.clone(),
            other: self.other.clone(),
            direction,
            tables: kept.tables.clone(),
            schema: kept.schema.clone(),
            schedule: None,
            names: kept.names.clone(),
            columns: BTreeMap::new(),
            rows: BTreeMap::new(),
            types: kept.types.clone(),
            cache: None,
            conflict,
            conflicts: BTreeMap::new(),
            max_connections: None,
        };
        let mut sync = DatabaseSync::new(config, self.database.clone());
        sync.budget = self.budget.clone();
        sync
    }

    fn two_way(&self) -> Result<litekeep_sync::TwoWay<Box<dyn litekeep_sync::Hub>>> {
        let sync = self.sync();
        sync.two_way(sync.stores(&Stores::default())?, None)
    }

    fn worker(&self) -> Result<Worker> {
        let (sync, meta_dir) = (self.sync(), self.database.meta_dir.clone());
        let durable = two_way::Durable(std::sync::Arc::new(move || durable(&meta_dir)));
        sync.worker(sync.stores(&Stores::default())?, false, Some(durable))
    }

    fn keep(&mut self, stage: Stage) -> Result<()> {
        self.kept.stage = stage;
        self.kept.write(&Kept::file(&self.database))
    }

    /// The tables as they are declared now.
    fn declared(&self) -> Result<Vec<Declaration>> {
        let mut declared = Examiner::open(&self.database.path)?.declarations()?;
        declared.retain(|table| is_wanted(&self.kept.tables, &table.name));
        Ok(declared)
    }

    fn step(&self, what: &str) {
        if self.format == Format::Text {
            report::line(&what);
        }
    }

    fn report(&self, stage: &'static str) -> Report {
        Report {
            database: self.database.path.clone(),
            to: self.kept.to.clone(),
            sync: self.name(),
            stage,
            ok: true,
            compared_rows: None,
            differences: vec![],
            failed: vec![],
            held_seconds: None,
            compared_while_held: None,
        }
    }

    /// What cannot go there as it is.
    async fn lint(&self) -> Result<Vec<Note>> {
        let declared = self.declared()?;
        let is_there = |name: &&String| declared.iter().any(|table| table.name.eq_ignore_ascii_case(name));
        if let Some(missing) = self.kept.tables.iter().find(|name| !is_there(name)) {
            let message = format!("there is no table `{missing}` in `{}`", self.database.path.display());
            return Err(Failure::invalid(message).into());
        }
        let mut notes = match self.sync().is_two_way() {
            true => self.lint_pairs().await?,
            false => self.lint_target().await?,
        };
        let path = self.database.path.clone();
        let dangling = move || Examiner::open(&path)?.foreign_key_violations(LONG);
        let dangling = tokio::task::spawn_blocking(dangling).await??.unwrap_or_default();
        for (table, rows) in dangling {
            let rows = text::count(usize::try_from(rows).unwrap_or(usize::MAX), "row");
            let message = format!("{rows} refer to rows that are not there: its foreign keys cannot be made");
            notes.push(Note { table, column: None, level: Level::Rule, message });
        }
        notes.sort_by_key(|note| std::cmp::Reverse(note.level));
        Ok(notes)
    }

    async fn lint_pairs(&self) -> Result<Vec<Note>> {
        let mut flow = self.two_way()?;
        let pairs = flow.pairs().await?;
        if let Some(table) = flow.overlap(&pairs).await? {
            let message =
                format!("the table `{table}` has rows in {}, which are not overwritten", self.kept.to);
            return Err(Failure::invalid(message).hint("empty it there, or drop it").into());
        }
        Ok(pairs.into_iter().flat_map(|pair| pair.notes).collect())
    }

    async fn lint_target(&self) -> Result<Vec<Note>> {
        let (path, tables) = (self.database.path.clone(), self.kept.tables.clone());
        let survey =
            move || copy::survey(&Examiner::open(&path)?, |table| is_wanted(&tables, table), &Cut::default());
        let surveyed = tokio::task::spawn_blocking(survey).await??;
        Ok(with_side!(self.sync().side()?, target => {
            surveyed.iter().flat_map(|(table, profiles)| target.map(table, profiles).1).collect()
        }))
    }

    /// Up to where the application uses the server.
    async fn go(mut self, args: &Args, switch: Option<Switch>, is_begun: bool) -> Result<Outcome> {
        if !is_begun {
            self.step("looking at what cannot go there as it is");
            let notes = self.lint().await?;
            notes.iter().for_each(|note| self.step(&format!("{}: {note}", note.level.word())));
            if let Some(worst) = notes.iter().find(|note| note.level >= Level::Values) {
                let hint = format!(
                    "`litekeep lint {} --for {}` lists everything; --table names the tables that go, --type gives a column another type",
                    text::shell_word(&self.database.path.display().to_string()),
                    if self.sync().is_two_way() { "postgres" } else { "mysql" },
                );
                let message = format!("not everything can go to {} as it is: {worst}", self.kept.to);
                return Err(Failure::invalid(message).hint(hint).into());
            }
            self.keep(Stage::Following)?;
        }
        self.step("copying, and bringing what has changed since");
        let mut worker = self.worker()?;
        let shown = Rows::new(self.format);
        let goal = durable(&self.database.meta_dir);
        let reached = reach(&mut worker, goal, |_| true, |rows| shown.at(rows)).await;
        shown.end();
        worker.tell().await;
        reached?;
        self.is_whole(&worker).await?;
        let failed = self.settle(!self.kept.has_keys || self.sync().is_two_way()).await?;
        failed.iter().for_each(|failed| self.step(&format!("not made: {failed}")));
        self.kept.has_keys = true;
        self.keep(self.kept.stage)?;
        self.step("comparing every value");
        let begin = SystemClock.boottime();
        let found = beside(worker, self.compare()).await?;
        let took = SystemClock.boottime().saturating_sub(begin);
        let Some(switch) = switch else {
            let report = Report { failed, ..self.compared(self.report("ready"), found) };
            return Ok(self.told(&report));
        };
        let mut report = self.moment(args.within, &switch, (found, took)).await?;
        report.failed.extend(failed);
        let outcome = self.told(&report);
        match args.once || !self.sync().is_two_way() {
            true => Ok(outcome),
            false => self.follow().await,
        }
    }

    /// Nobody can write to SQLite until the server has everything and the application uses it.
    async fn moment(
        &mut self,
        within: Duration,
        switch: &Switch,
        (found, took): (Found, Duration),
    ) -> Result<Report> {
        let mut worker = self.worker()?;
        let goal = durable(&self.database.meta_dir);
        let was_killed = self.kept.stage == Stage::Switching;
        let was_switching = was_killed && self.sync().is_two_way();
        match was_switching {
            true => reach(&mut worker, goal, self.what_is_there_has_come().await?, |_| ()).await?,
            false => reach(&mut worker, goal, |_| true, |_| ()).await?,
        }
        let came_ms = worker.state().progress.as_ref().and_then(|progress| progress.time_ms);
        if was_switching && came_ms != self.kept.came_ms {
            // An earlier try was killed while it switched, and rows have come from the server since: it may use that already.
            self.step("letting the application use the server, once more");
            switch.to(&self.url).await.context("switch the application")?;
            self.keep(Stage::Switched)?;
            return Ok(self.report("switched"));
        }
        self.step("holding writes until the server has everything");
        let goes_on = "the application goes on with SQLite as before";
        let late = |message: String| {
            let hint = format!("{goes_on}; try again when it writes less, or with a longer --within");
            anyhow::Error::from(Failure::new(Kind::Unavailable, message).hint(hint))
        };
        let held = Held::take(&self.database.path, within).await;
        let held = held.map_err(|error| late(format!("hold the writes of the application: {error:#}")))?;
        let left = within.saturating_sub(took * 2);
        let drained = async {
            let goal = held.in_backup(&self.database.meta_dir).await?;
            reach(&mut worker, Some(goal), |_| false, |_| ()).await?;
            self.is_whole(&worker).await?;
            self.has_the_same_tables()?;
            let again = match found.is_equal() && held.lasts() > left {
                true => None,
                false => Some(self.compare().await?),
            };
            Ok::<_, anyhow::Error>((again, self.settle(false).await?))
        };
        let drained = tokio::time::timeout(within.saturating_sub(held.lasts()), drained).await;
        let (again, failed) = drained.map_err(|_| {
            late(format!("{} did not have everything within {}", self.kept.to, format_duration(within)))
        })??;
        let while_held = again.is_some();
        let found = again.unwrap_or(found);
        if !found.is_equal() && was_killed && !was_switching {
            // As above: what the server has over SQLite tells that the application may use it already.
            self.step("letting the application use the server, once more");
            switch.to(&self.url).await.context("switch the application")?;
            self.keep(Stage::Switched)?;
            held.release()?;
            return Ok(self.report("switched"));
        }
        if !found.is_equal() {
            held.release()?;
            let report = self.compared(self.report("ready"), found);
            let first = report.differences.first().map_or(String::new(), Difference::line);
            let message = format!("{} has not the same: {}", self.kept.to, first.trim_end());
            let hint = format!("{goes_on}; when somebody else writes there, stop that, and try again");
            return Err(Failure::invalid(message).hint(hint).into());
        }
        self.kept.came_ms = came_ms;
        self.keep(Stage::Switching)?;
        self.step("letting the application use the server");
        if let Err(error) = switch.to(&self.url).await {
            self.keep(Stage::Following)?;
            held.release()?;
            return Err(error.context(format!("switch the application, so {goes_on}")));
        }
        self.keep(Stage::Switched)?;
        let seconds = held.lasts().as_secs_f64();
        held.release()?;
        let report = self.compared(self.report("switched"), found);
        Ok(Report { failed, held_seconds: Some(seconds), compared_while_held: Some(while_held), ..report })
    }

    /// The application uses the server: SQLite is kept as that is.
    async fn keep_current(self, args: &Args) -> Result<Outcome> {
        if !self.sync().is_two_way() {
            return Err(self.no_way_back().into());
        }
        if !args.once {
            return self.follow().await;
        }
        let has_come = self.what_is_there_has_come().await?;
        let mut worker = self.worker()?;
        let reached = reach(&mut worker, durable(&self.database.meta_dir), has_come, |_| ()).await;
        worker.tell().await;
        reached?;
        Ok(self.told(&self.report("switched")))
    }

    /// Whether SQLite has what the server has now. It may never rest.
    async fn what_is_there_has_come(&self) -> Result<impl Fn(&State) -> bool + use<>> {
        let config = SyncConfig { types: BTreeMap::new(), ..self.sync().config };
        let mut source = source(&config, &self.budget)?;
        source.connect_to_copy().await?;
        let goal = source.position().await?;
        source.disconnect();
        let position = |state: &State| state.progress.as_ref()?.position.clone();
        Ok(move |state: &State| position(state).is_some_and(|at| source.is_at(&at, &goal)))
    }

    fn no_way_back(&self) -> Failure {
        let message = format!("nothing comes back by itself from {}", self.kept.to);
        Failure::invalid(message)
            .hint("`litekeep copy URL new.db` takes everything into a new file; --done ends this")
    }

    /// Keeps both sides in step until a signal comes.
    async fn follow(&self) -> Result<Outcome> {
        let mut signals = Signals::catch()?;
        let mut followers = Followers::default();
        let worker = self.worker()?;
        followers
            .start(|stop| worker.follow(stop, Rhythm::Continuous, async |_| tokio::time::sleep(LOOK).await));
        signals.end().await;
        followers.stop().await;
        Ok(Outcome::Done)
    }

    async fn come_back(mut self, args: &Args, switch: Option<Switch>) -> Result<Outcome> {
        if !self.sync().is_two_way() {
            return Err(self.no_way_back().into());
        }
        let Some(switch) = switch else {
            let hint = "--switch names the command that lets it use SQLite again, or --process a process of `litekeep up`";
            return Err(Failure::invalid("it is not said how the application comes back").hint(hint).into());
        };
        let meta_dir = self.database.meta_dir.clone();
        self.step("bringing what was written to the server");
        let mut worker = self.worker()?;
        reach(&mut worker, durable(&meta_dir), |_| false, |_| ()).await?;
        self.is_whole(&worker).await?;
        self.step("comparing every value");
        let found = self.compare().await?;
        if !found.is_equal() {
            let report = self.compared(self.report("switched"), found);
            let first = report.differences.first().map_or(String::new(), Difference::line);
            let message = format!("SQLite has not the same as {}: {}", self.kept.to, first.trim_end());
            let hint =
                "stop the application, or let it only read, and try again: what it writes there comes later";
            return Err(Failure::invalid(message).hint(hint).into());
        }
        reach(&mut worker, durable(&meta_dir), |_| false, |_| ()).await?;
        worker.tell().await;
        self.step("letting the application use SQLite");
        let path = std::path::absolute(&self.database.path)?;
        switch.to(&format!("sqlite:{}", path.display())).await.context("switch the application back")?;
        self.keep(Stage::Following)?;
        let outcome = self.told(&self.compared(self.report("back"), found));
        match args.once {
            true => Ok(outcome),
            false => self.follow().await,
        }
    }

    /// Nothing is kept in step any more.
    async fn end(self) -> Result<Outcome> {
        let sync = self.sync();
        if sync.is_two_way() {
            let mut flow = self.two_way()?;
            if flow.listed().await?.is_some() {
                flow.forget().await?;
            }
            if let Side::Postgres(mut target) = sync.side()? {
                let failed = target.let_go(&self.declared()?).await?;
                failed.iter().for_each(|failed| self.step(failed));
            }
        } else {
            with_side!(sync.side()?, target => {
                let mut target = target;
                if target.connect().await?.is_some() {
                    target.forget().await?;
                }
            });
        }
        sync.pause().lift()?;
        for path in [sync.state(), Kept::file(&self.database)] {
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Failure::io(format!("remove `{}`", path.display()), &error).into());
                }
                _ => {}
            }
        }
        _ = std::fs::remove_dir_all(sync.state().with_extension("copy"));
        Ok(self.told(&self.report("done")))
    }

    /// Whether all rows of all tables go there.
    async fn is_whole(&self, worker: &Worker) -> Result<()> {
        let progress = worker.state().progress.clone().unwrap_or_default();
        let anew = "--done ends this, and it can begin anew with empty tables there";
        if let Some((table, reason)) = progress.paused.first() {
            let message = format!("the table `{table}` stands still: {reason}");
            return Err(Failure::invalid(message).hint(anew).into());
        }
        if progress.refused == 0 {
            return Ok(());
        }
        let rows = refused_rows(listed(&self.sync()).await?.unwrap_or_default());
        let first = rows.first().map_or(String::new(), |row| row.line().trim_end().to_owned());
        let count = text::count(usize::try_from(progress.refused).unwrap_or(usize::MAX), "row");
        let message = format!("{count} cannot be on the other side: {first}");
        Err(Failure::invalid(message)
            .hint(format!("change them; or {anew}, and other types (--type)"))
            .into())
    }

    /// Tables that came since it was begun are not there.
    fn has_the_same_tables(&self) -> Result<()> {
        let declared = Examiner::open(&self.database.path)?.declarations()?;
        let is_new =
            |table: &&Declaration| table.name != SYNC_TABLE && !is_wanted(&self.kept.tables, &table.name);
        match declared.iter().find(is_new).filter(|_| self.kept.has_all) {
            None => Ok(()),
            Some(Declaration { name, .. }) => {
                let message = format!("the table `{name}` is new, and not on the server");
                let hint = "--done ends this, and it can begin anew with empty tables there";
                Err(Failure::invalid(message).hint(hint).into())
            }
        }
    }

    /// Makes what an application needs there besides rows.
    async fn settle(&self, keys: bool) -> Result<Vec<String>> {
        match self.sync().side()? {
            Side::Postgres(mut target) => Ok(target.settle(&self.declared()?, keys).await?),
            Side::Mysql(mut target) if keys => {
                target.connect().await?;
                target.begin().await?;
                let failed = target.constrain().await?;
                target.roll_back().await?;
                Ok(failed)
            }
            _ => Ok(vec![]),
        }
    }

    async fn compare(&self) -> Result<Found> {
        let sync = self.sync();
        if sync.is_two_way() {
            return Ok(self.two_way()?.compare().await?);
        }
        let settings = sync.push(sync.stores(&Stores::default())?)?;
        Ok(with_side!(sync.side()?, target => compare::run(&settings, &mut { target }, false).await)?)
    }

    fn compared(&self, report: Report, found: Found) -> Report {
        Report {
            ok: report.ok && found.is_equal(),
            compared_rows: Some(found.rows),
            differences: differences(&found.told),
            ..report
        }
    }

    fn told(&self, report: &Report) -> Outcome {
        report::result(self.format, report, || self.text(report));
        if report.ok { Outcome::Done } else { Outcome::No }
    }

    fn text(&self, report: &Report) -> String {
        let database = self.database.path.display();
        let word = text::shell_word(&database.to_string());
        let mut out: String =
            report.differences.iter().map(|one| format!("differs: {}", one.line())).collect();
        if let Some(rows) = report.compared_rows {
            let rows = text::count(usize::try_from(rows).unwrap_or(usize::MAX), "row");
            let same = if report.differences.is_empty() { "every value the same" } else { "not the same" };
            let held =
                if report.compared_while_held == Some(true) { ", while nobody could write" } else { "" };
            out.push_str(&format!("{rows} compared: {same}{held}\n"));
        }
        if let Some(seconds) = report.held_seconds {
            out.push_str(&format!("nobody could write to {database} for {seconds:.1} s\n"));
        }
        let (to, sync) = (&report.to, &report.sync);
        out.push_str(&match report.stage {
            "ready" => format!("{to} has everything of {database}; with --switch 'COMMAND' the application is let there\n"),
            "switched" if !self.sync().is_two_way() => {
                format!("the application uses {to}; `litekeep graduate {word} --to URL --done` tidies up\n")
            }
            "switched" => format!(
                "the application uses {to}\n{database} is kept as that is while this command runs, or `litekeep up` after `down` with these lines in litekeep.toml:\n\n\
                 [[sync]]\nname = \"{sync}\"\ndirection = \"both\"\nfrom = \"{database}\"\nto = \"${{DATABASE_URL}}\"\n{}\n\
                 `litekeep graduate {word} --to URL --back --switch 'COMMAND'` leads back; `--done` ends it\n",
                self.options()
            ),
            "back" => format!("the application uses {database}, and {to} follows it; `--done` ends that\n"),
            _ => format!("{to} and {database} are not kept in step any more; rows stay on both sides\n"),
        });
        out
    }

    /// The further lines of a sync in the configuration.
    fn options(&self) -> String {
        let Kept { tables, schema, names, types, .. } = &self.kept;
        let table = |pairs: &BTreeMap<String, String>| {
            let pairs: Vec<String> = pairs.iter().map(|(a, b)| format!("{a:?} = {b:?}")).collect();
            pairs.join(", ")
        };
        let mut out = format!("tables = {tables:?}\n");
        out.extend(schema.iter().map(|schema| format!("schema = {schema:?}\n")));
        for (key, pairs) in
            [("rename", names), ("types", types)].iter().filter(|(_, pairs)| !pairs.is_empty())
        {
            out.push_str(&format!("{key} = {{ {} }}\n", table(pairs)));
        }
        out
    }
}

impl Kept {
    fn file(database: &Database) -> PathBuf {
        database.meta_dir.join("graduate.json")
    }

    fn read(path: &Path) -> Result<Option<Kept>> {
        let doing = || format!("read `{}`", path.display());
        match std::fs::read(path) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes).with_context(doing)?)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Failure::io(doing(), &error).into()),
        }
    }

    fn write(&self, path: &Path) -> Result<()> {
        let written = file::replace(path, &serde_json::to_vec(self)?);
        Ok(written.map_err(|error| Failure::io(format!("write `{}`", path.display()), &error))?)
    }
}

/// Whether a replicator has the database. Opens the file, which must be done before SQLite has.
async fn is_replicated(database: &Database) -> bool {
    for _ in 0..LOOKS {
        if MetaDir::claimed_by(&database.meta_dir, &database.path).is_some() {
            return true;
        }
        // It may be between its two ways to have it.
        tokio::time::sleep(LOOK).await;
    }
    false
}

/// A server that an application of SQL can use.
fn other(url: &str) -> Result<OtherSide> {
    match OtherSide::of(url) {
        Some(other @ (OtherSide::Postgres(_) | OtherSide::Mysql(_))) => Ok(other),
        _ => {
            // Without the rest of it: there may be a password in it.
            let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
            let message = format!("`{scheme}://` is no server that an application can be moved to");
            let hint = "it is postgres://user:password@host/database, mysql:// or mariadb://";
            Err(Failure::invalid(message).hint(hint).into())
        }
    }
}

/// Does something while what changes goes on to come over.
async fn beside<T>(worker: Worker, work: impl Future<Output = Result<T>>) -> Result<T> {
    let mut followers = Followers::default();
    followers.start(|stop| worker.follow(stop, Rhythm::Continuous, async |_| tokio::time::sleep(LOOK).await));
    let done = work.await;
    followers.stop().await;
    done
}
