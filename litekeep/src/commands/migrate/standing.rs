//! `litekeep migrate status`: what has run and what is pending, in one database or in all of the configuration.

use std::path::PathBuf;

use anyhow::Result;
use litekeep_schema::migrations::{self, Folder, State};
use serde::Serialize;

use super::fleet::Folders;
use super::marks::{Mark, Marks};
use super::{files, only, program};
use crate::args::{self, MigrationsDir};
use crate::report::{self, Failure, Format, Outcome, Report, text};
use crate::settings::{Database, Settings, database};

#[derive(Serialize)]
struct Standing {
    database: PathBuf,
    /// Where litekeep finds the files; `None` where another program has its own.
    folder: Option<PathBuf>,
    command: Option<String>,
    migrations: Vec<Entry>,
    /// What `undo` can go back to, the newest last.
    marks: Vec<Mark>,
}

#[derive(Serialize)]
struct Entry {
    version: String,
    name: Option<String>,
    state: &'static str,
}

pub(super) fn one(args: &args::MigrateTarget, format: Format) -> Result<Outcome> {
    let (database, known) = only(args, "status", format)?;
    let command = program(&args.dir, known.as_ref()).map(|program| program.command.clone());
    let (folder, all) = match command {
        Some(_) => (None, Vec::new()),
        None => {
            let files = files(args, &database, known.as_ref())?;
            let all = migrations::status(&database, &files)?;
            (Some(files.path), all)
        }
    };
    let is_current = all.iter().all(|m| m.state != State::Pending);
    let entry = |m: migrations::Status| {
        let state = match m.state {
            State::Applied => "applied",
            State::Pending => "pending",
            State::Missing => "missing",
        };
        Entry { version: m.version, name: m.name, state }
    };
    let marks = known.as_ref().map(Marks::read).transpose()?.unwrap_or_default().0;
    let migrations = all.into_iter().map(entry).collect();
    let standing = Standing { marks, database, folder, command, migrations };
    report::result(format, &standing, || {
        let row = |m: &Entry| vec![m.version.clone(), m.name.clone().unwrap_or_default(), m.state.to_owned()];
        let rows: Vec<_> = standing.migrations.iter().map(row).collect();
        let mut out = match &standing.command {
            Some(command) => format!("`{command}` migrates it, and knows what is pending\n"),
            None => text::table(&["VERSION", "NAME", "STATE"], &[], &rows),
        };
        if let Some(mark) = standing.marks.last() {
            out += &mark.text();
        }
        out
    });
    Ok(if is_current { Outcome::Done } else { Outcome::No })
}

#[derive(Serialize)]
struct Fleet {
    databases: usize,
    up_to_date: usize,
    /// Another program migrates them.
    by_programs: usize,
    /// Those in which a migration is pending, or ran whose file is not there.
    behind: Vec<Behind>,
    failed: Vec<Failed>,
}

#[derive(Serialize)]
struct Behind {
    database: PathBuf,
    pending: Vec<String>,
    missing: Vec<String>,
}

#[derive(Serialize)]
pub(super) struct Failed {
    pub(super) database: PathBuf,
    pub(super) error: Report,
}

impl Failed {
    /// Of `verb`, told at once where a person reads.
    pub(super) fn of(verb: &str, database: &Database, error: anyhow::Error, format: Format) -> Failed {
        let error = Report::of(&error.context(format!("{verb} `{}`", database.path.display())));
        if format == Format::Text {
            report::line(&error);
        }
        Failed { database: database.path.clone(), error }
    }
}

pub(super) fn all(args: &args::MigrateTarget, format: Format) -> Result<Outcome> {
    let settings = Settings::load(&args.config, format)?;
    let all = database::present(&settings)?;
    if all.is_empty() {
        return Err(Failure::invalid(format!("`{}` has no databases", settings.path.display())).into());
    }
    let folders = Folders::read(&args.dir, &all)?;
    let mut fleet =
        Fleet { databases: all.len(), up_to_date: 0, by_programs: 0, behind: Vec::new(), failed: Vec::new() };
    for database in &all {
        fleet.add(database, &folders, &args.dir, format);
    }
    report::result(format, &fleet, || fleet.text());
    let is_current = fleet.failed.is_empty() && fleet.behind.iter().all(|behind| behind.pending.is_empty());
    Ok(if is_current { Outcome::Done } else { Outcome::No })
}

impl Fleet {
    fn add(&mut self, database: &Database, folders: &Folders<'_>, dir: &MigrationsDir, format: Format) {
        let Some(folder) = folders.files(database) else {
            debug_assert!(program(dir, Some(database)).is_some(), "a database without migrations");
            self.by_programs += 1;
            return;
        };
        match Behind::of(database, folder) {
            Ok(Some(behind)) => self.behind.push(behind),
            Ok(None) => self.up_to_date += 1,
            Err(error) => self.failed.push(Failed::of("read", database, error, format)),
        }
    }

    fn text(&self) -> String {
        let pending = self.behind.iter().filter(|behind| !behind.pending.is_empty()).count();
        let mut out = format!(
            "{}: {} up to date, {pending} with pending migrations, {} that cannot be read\n",
            text::count(self.databases, "database"),
            self.up_to_date,
            self.failed.len(),
        );
        if self.by_programs > 0 {
            out += &format!("{} by another program, which knows what is pending\n", self.by_programs);
        }
        if !self.behind.is_empty() {
            let row = |behind: &Behind| {
                let database = behind.database.display().to_string();
                vec![database, behind.pending.join(" "), behind.missing.join(" ")]
            };
            let rows: Vec<_> = self.behind.iter().map(row).collect();
            out += &text::table(&["DATABASE", "PENDING", "FILE IS MISSING"], &[], &rows);
        }
        if pending > 0 {
            out += "run them with `litekeep migrate up --all`\n";
        }
        out
    }
}

impl Behind {
    /// `None` where all that the folder has ran, and nothing else.
    fn of(database: &Database, folder: &Folder) -> Result<Option<Behind>> {
        let all = migrations::status(&database.path, folder)?;
        let of = |state: State| -> Vec<String> {
            all.iter().filter(|m| m.state == state).map(|m| m.version.clone()).collect()
        };
        let behind = Behind {
            database: database.path.clone(),
            pending: of(State::Pending),
            missing: of(State::Missing),
        };
        Ok((!behind.pending.is_empty() || !behind.missing.is_empty()).then_some(behind))
    }
}
