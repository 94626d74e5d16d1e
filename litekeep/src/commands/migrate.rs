//! `litekeep migrate`: numbered files of SQL that each run once, under a guard.

mod command;
mod fleet;
mod fresh;
mod lint;
mod marks;
mod rehearse;
mod rewrite;
mod standing;
mod turn;
mod undo;
mod waiting;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use litekeep_config::MigrationProgram;
use litekeep_env::{Clock, SystemClock};
use litekeep_schema::migrations::{self, Done, Folder};
use serde::Serialize;

use crate::args::{self, MigrateAction};
use crate::report::{self, Failure, Format, Outcome, text};
use crate::settings::{Database, Settings, database};

use fresh::Fresh;
use marks::Marking;
use waiting::PATIENCE;

#[derive(Serialize)]
struct Made {
    file: PathBuf,
}

#[derive(Serialize)]
struct Applied {
    database: PathBuf,
    /// It was not there before.
    created: bool,
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

pub(super) async fn run(args: &args::Migrate, format: Format) -> Result<Outcome> {
    match &args.action {
        MigrateAction::New { name, dir } => make(dir, name, format).context("make a migration"),
        MigrateAction::Up(args) => match &args.command {
            Some(command) => command::run(args, command, format),
            None if args.all => fleet::run(args, format).context("run the migrations of all databases"),
            None => up(&args.target, format),
        },
        MigrateAction::Down(args) => down(args, format).context("take back the last migration"),
        MigrateAction::Rehearse(args) => rehearse::run(args, format).await,
        MigrateAction::Undo(args) => undo::run(args, format).await,
        MigrateAction::Lint(args) => lint::run(args, format),
        MigrateAction::Rewrite(args) => rewrite::run(args, format),
        MigrateAction::Status(args) => match args.all {
            true => standing::all(&args.target, format),
            false => standing::one(&args.target, format),
        }
        .context("tell where the migrations stand"),
    }
}

fn make(dir: &args::MigrationsDir, name: &str, format: Format) -> Result<Outcome> {
    let now = jiff::Timestamp::from_millisecond(SystemClock.unix_ms())?.strftime("%Y%m%d%H%M%S").to_string();
    let path = folder(dir, None)?;
    let folder = match path.exists() {
        true => Folder::read(&path, dir.convention, None)?,
        false => Folder::missing(&path, dir.convention),
    };
    let file = migrations::new_file(&folder, &now, name)?;
    let made = Made { file };
    report::result(format, &made, || {
        format!("made {}; write the statements, then `litekeep migrate up`\n", made.file.display())
    });
    Ok(Outcome::Done)
}

fn up(args: &args::MigrateTarget, format: Format) -> Result<Outcome> {
    let (database, known) = only(args, "up", format).context("run the migrations")?;
    let doing = format!("run the migrations of `{}`", database.display());
    match program(&args.dir, known.as_ref()).cloned() {
        Some(program) => command::run_program(database, known, &program, format),
        None => by_files(args, database, known, format).context(doing),
    }
}

fn by_files(
    args: &args::MigrateTarget,
    database: PathBuf,
    known: Option<Database>,
    format: Format,
) -> Result<Outcome> {
    let folder = files(args, &database, known.as_ref())?;
    let fresh = Fresh::of(&database);
    let ran = match fresh.is_new() && folder.migrations.is_empty() {
        true => Vec::new(),
        false => {
            let mut marking = Marking::of(&database, known, PATIENCE, format).told();
            let ran = marking.up(&folder);
            fresh.tell(format);
            let ran = ran?;
            marking.end().context("mark the end of the migrations")?;
            ran
        }
    };
    let applied = ran.iter().map(Ran::from).collect();
    let applied = Applied { created: fresh.is_made(), database, applied };
    report::result(format, &applied, || match applied.applied.len() {
        0 if fresh.is_new() && !applied.created => {
            format!(
                "`{}` is not there, and nothing is pending that would make it\n",
                applied.database.display()
            )
        }
        0 => format!("`{}` is up to date\n", applied.database.display()),
        n => format!("`{}`: {n} applied\n", applied.database.display()),
    });
    Ok(Outcome::Done)
}

fn down(args: &args::MigrateTarget, format: Format) -> Result<Outcome> {
    let (database, known) = only(args, "down", format)?;
    let folder = files(args, &database, known.as_ref())?;
    let undone = migrations::down(&database, &folder)?.as_ref().map(Ran::from);
    let undone = Undone { database, undone };
    report::result(format, &undone, || match &undone.undone {
        Some(ran) => ran.text("took back"),
        None => format!("`{}`: no migration has run\n", undone.database.display()),
    });
    Ok(Outcome::Done)
}

/// The migrations of a database.
fn files(args: &args::MigrateTarget, database: &Path, known: Option<&Database>) -> Result<Folder> {
    Ok(Folder::read(&folder(&args.dir, known)?, args.dir.convention, Some(database))?)
}

/// The database that is named, or the only one of the configuration.
fn only(args: &args::MigrateTarget, verb: &str, format: Format) -> Result<(PathBuf, Option<Database>)> {
    if let Some(path) = &args.database {
        let known = match database::databases(Some(path), &args.config, format) {
            Ok(mut known) => known.pop(),
            Err(error) if args.config.config.is_some() => return Err(error),
            // It need not be known: then it has no backup.
            Err(_) => None,
        };
        return Ok((path.clone(), known));
    }
    let settings = Settings::load(&args.config, format)?;
    only_of(database::present(&settings)?, &settings, verb)
}

fn only_of(mut all: Vec<Database>, settings: &Settings, verb: &str) -> Result<(PathBuf, Option<Database>)> {
    let count = all.len();
    let Some(one) = all.pop() else {
        let failure = Failure::invalid(format!("`{}` has no databases", settings.path.display()));
        return Err(failure.hint(format!("name one: `litekeep migrate {verb} app.db`")).into());
    };
    if all.is_empty() {
        return Ok((one.path.clone(), Some(one)));
    }
    let first = text::shell_word(&all[0].path.to_string_lossy());
    let of_all = match verb {
        "up" | "status" => format!(", or all with `litekeep migrate {verb} --all`"),
        _ => String::new(),
    };
    let failure = Failure::invalid(format!("`{}` has {count} databases", settings.path.display()));
    Err(failure.hint(format!("name the one: `litekeep migrate {verb} {first}`{of_all}")).into())
}

/// What is asked for, what the configuration says of the database, or `migrations`, or the folder that dbmate uses where only
/// that is there.
///
/// # Errors
/// When another program has its own.
fn folder(dir: &args::MigrationsDir, known: Option<&Database>) -> Result<PathBuf> {
    const DBMATE: &str = "db/migrations";
    if let Some(program) = program(dir, known) {
        let failure = Failure::invalid(format!("`{}` migrates this database", program.command));
        return Err(failure
            .hint("ask that program; `litekeep migrate undo` restores the state before its last run, and `--dir` names a folder of SQL files")
            .into());
    }
    let configured = known.and_then(|database| database.config.migrations.as_ref()?.folder());
    Ok(match dir.dir.as_deref().or(configured) {
        Some(dir) => dir.to_owned(),
        None if !Path::new("migrations").exists() && Path::new(DBMATE).exists() => DBMATE.into(),
        None => "migrations".into(),
    })
}

/// Who migrates the database in the place of litekeep, as its configuration says; with `--dir` nobody.
fn program<'a>(dir: &args::MigrationsDir, known: Option<&'a Database>) -> Option<&'a MigrationProgram> {
    known.filter(|_| dir.dir.is_none())?.config.migrations.as_ref()?.program()
}
