//! `litekeep migrate`: numbered files of SQL that each run once, under a guard.

mod rehearse;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use litekeep_env::{Clock, SystemClock};
use litekeep_schema::migrations::{self, Done, Folder, State};
use serde::Serialize;

use crate::args::{self, MigrateAction};
use crate::report::{self, Failure, Format, Outcome, text};
use crate::settings::{Settings, database};

#[derive(Serialize)]
struct Made {
    file: PathBuf,
}

#[derive(Serialize)]
struct Applied {
    database: PathBuf,
    applied: Vec<Ran>,
}

#[derive(Serialize)]
struct Undone {
    database: PathBuf,
    undone: Option<Ran>,
}

#[derive(Serialize)]
struct Ran {
    version: String,
    name: String,
    locked_seconds: f64,
}

impl From<&Done> for Ran {
    fn from(done: &Done) -> Ran {
        let (version, name) = (done.version.clone(), done.name.clone());
        Ran { version, name, locked_seconds: done.locked.as_secs_f64() }
    }
}

impl Ran {
    fn text(&self, verb: &str) -> String {
        format!("{verb} {} {} ({:.0} ms)\n", self.version, self.name, self.locked_seconds * 1000.0)
    }
}

#[derive(Serialize)]
struct Standing {
    database: PathBuf,
    folder: PathBuf,
    migrations: Vec<Entry>,
}

#[derive(Serialize)]
struct Entry {
    version: String,
    name: Option<String>,
    state: &'static str,
}

pub(super) async fn run(args: &args::Migrate, format: Format) -> Result<Outcome> {
    match &args.action {
        MigrateAction::New { name, dir } => {
            make(dir.dir.as_deref(), name, format).context("make a migration")
        }
        MigrateAction::Up(args) => up(args, format).context("run the migrations"),
        MigrateAction::Down(args) => down(args, format).context("take back the last migration"),
        MigrateAction::Rehearse(args) => rehearse::run(args, format).await,
        MigrateAction::Status(args) => status(args, format).context("tell where the migrations stand"),
    }
}

fn make(dir: Option<&Path>, name: &str, format: Format) -> Result<Outcome> {
    let now = jiff::Timestamp::from_millisecond(SystemClock.unix_ms())?.strftime("%Y%m%d%H%M%S").to_string();
    let file = migrations::new_file(&folder(dir), &now, name)?;
    let made = Made { file };
    report::result(format, &made, || {
        format!("made {}; write the statements, then `litekeep migrate up`\n", made.file.display())
    });
    Ok(Outcome::Done)
}

fn up(args: &args::MigrateTarget, format: Format) -> Result<Outcome> {
    let (database, folder) = target(args, format)?;
    let each = |done: &Done| {
        if format == Format::Text {
            report::line(&Ran::from(done).text("applied").trim_end());
        }
    };
    let applied: Vec<Ran> = migrations::up(&database, &folder, each)?.iter().map(Ran::from).collect();
    let applied = Applied { database, applied };
    report::result(format, &applied, || match applied.applied.len() {
        0 => format!("`{}` is up to date\n", applied.database.display()),
        n => format!("`{}`: {n} applied\n", applied.database.display()),
    });
    Ok(Outcome::Done)
}

fn down(args: &args::MigrateTarget, format: Format) -> Result<Outcome> {
    let (database, folder) = target(args, format)?;
    let undone = migrations::down(&database, &folder)?.as_ref().map(Ran::from);
    let undone = Undone { database, undone };
    report::result(format, &undone, || match &undone.undone {
        Some(ran) => ran.text("took back"),
        None => format!("`{}`: no migration has run\n", undone.database.display()),
    });
    Ok(Outcome::Done)
}

fn status(args: &args::MigrateTarget, format: Format) -> Result<Outcome> {
    let (database, folder) = target(args, format)?;
    let all = migrations::status(&database, &folder)?;
    let is_current = all.iter().all(|m| m.state != State::Pending);
    let entry = |m: migrations::Status| {
        let state = match m.state {
            State::Applied => "applied",
            State::Pending => "pending",
            State::Missing => "missing",
        };
        Entry { version: m.version, name: m.name, state }
    };
    let standing =
        Standing { database, folder: folder.path, migrations: all.into_iter().map(entry).collect() };
    report::result(format, &standing, || {
        let row = |m: &Entry| vec![m.version.clone(), m.name.clone().unwrap_or_default(), m.state.to_owned()];
        let rows: Vec<_> = standing.migrations.iter().map(row).collect();
        text::table(&["VERSION", "NAME", "STATE"], &[], &rows)
    });
    Ok(if is_current { Outcome::Done } else { Outcome::No })
}

/// The database that is named, or the only one of the configuration, and its migrations.
fn target(args: &args::MigrateTarget, format: Format) -> Result<(PathBuf, Folder)> {
    let folder = Folder::read(&folder(args.dir.dir.as_deref()))?;
    if let Some(path) = &args.database {
        return Ok((path.clone(), folder));
    }
    let settings = Settings::load(&args.config, format)?;
    let mut all = database::all(&settings)?;
    match (all.pop(), all.len()) {
        (Some(only), 0) => Ok((only.path, folder)),
        (_, others) => Err(Failure::invalid(format!(
            "`{}` has {} databases",
            settings.path.display(),
            if others == 0 { 0 } else { others + 1 }
        ))
        .hint("name the one to migrate: `litekeep migrate up app.db`")
        .into()),
    }
}

/// `migrations`, or the folder that dbmate uses where only that is there.
fn folder(dir: Option<&Path>) -> PathBuf {
    const DBMATE: &str = "db/migrations";
    match dir {
        Some(dir) => dir.to_owned(),
        None if !Path::new("migrations").exists() && Path::new(DBMATE).exists() => DBMATE.into(),
        None => "migrations".into(),
    }
}
