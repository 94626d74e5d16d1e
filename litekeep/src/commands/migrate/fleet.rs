//! `litekeep migrate up --all`: every database of the configuration by its own migrations, a few first, then in waves.
//!
//! A journal notes which are done, so that the next run after one that stopped only looks whether they still are: one may have been set
//! back meanwhile. It is for one set of migrations, and goes away when all are done.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result};
use litekeep_config::Migrations;
use litekeep_env::{Clock, SystemClock};
use litekeep_schema::migrations::{self, Folder, State};
use serde::{Deserialize, Serialize};

use super::marks::Marking;
use super::standing::Failed;
use super::turn::Turn;
use super::waiting::LITTLE_PATIENCE;
use super::{command, program};
use crate::args::{self, MigrateFleet, MigrationsDir};
use crate::report::{self, Failure, Format, Outcome, text};
use crate::settings::{Database, Settings, database};

#[derive(Serialize)]
struct Fleet {
    folders: Vec<PathBuf>,
    databases: usize,
    /// Migrations ran there.
    migrated: usize,
    up_to_date: usize,
    /// Done by the run before, says the journal.
    done_before: usize,
    failed: Vec<Failed>,
    /// Not tried, because too many had failed.
    left: usize,
    seconds: f64,
}

pub(super) fn run(args: &args::MigrateUp, format: Format) -> Result<Outcome> {
    let begin = SystemClock.boottime();
    let settings = Settings::load(&args.target.config, format)?;
    let all = database::present(&settings)?;
    if all.is_empty() {
        return Err(Failure::invalid(format!("`{}` has no databases", settings.path.display())).into());
    }
    let folders = Folders::read(&args.target.dir, &all)?;
    let path = args
        .fleet
        .journal
        .clone()
        .unwrap_or_else(|| settings.path.with_file_name(".litekeep-migrate.journal"));
    let journal = Journal::open(&path, folders.digest())?;
    let still = folders.still_done(&all, &journal, args.fleet.workers);
    let (done, todo): (Vec<_>, Vec<_>) = all.into_iter().partition(|database| still.contains(&database.path));
    let work = Work {
        folders: &folders,
        journal: Mutex::new(journal),
        format,
        failed: Mutex::default(),
        marks: Mutex::default(),
        ran: AtomicUsize::new(0),
    };
    let tried = work.waves(&todo, done.len(), &args.fleet);
    let migrated = work.ran.into_inner();
    let failed = work.failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    let fleet = Fleet {
        folders: folders.by_path.into_keys().collect(),
        databases: done.len() + todo.len(),
        migrated,
        up_to_date: tried - migrated - failed.len(),
        done_before: done.len(),
        left: todo.len() - tried,
        failed,
        seconds: (SystemClock.boottime() - begin).as_secs_f64(),
    };
    let is_done = fleet.failed.is_empty() && fleet.left == 0;
    if is_done {
        let _ = std::fs::remove_file(&path);
    }
    report::result(format, &fleet, || fleet.text(&path));
    Ok(if is_done { Outcome::Done } else { Outcome::No })
}

/// The migrations of each database.
pub(super) struct Folders<'a> {
    dir: &'a MigrationsDir,
    by_path: BTreeMap<PathBuf, Folder>,
}

/// So many databases are named in an error; of the others it says how many.
const NAMED: usize = 5;

impl Folders<'_> {
    /// Of all databases the one folder that is asked for, else of each the one that the configuration says.
    pub(super) fn read<'a>(dir: &'a MigrationsDir, all: &[Database]) -> Result<Folders<'a>> {
        let mut folders = Folders { dir, by_path: BTreeMap::new() };
        let mut without = Vec::new();
        for database in all.iter().filter(|database| program(dir, Some(database)).is_none()) {
            let Some(path) = folders.of(database) else {
                without.push(format!("`{}`", database.path.display()));
                continue;
            };
            if !folders.by_path.contains_key(path) {
                let folder = Folder::read(path, dir.convention, Some(&database.path))?;
                folders.by_path.insert(path.to_owned(), folder);
            }
        }
        if without.is_empty() {
            return Ok(folders);
        }
        let named = without[..without.len().min(NAMED)].join(", ");
        let others = match without.len().saturating_sub(NAMED) {
            0 => String::new(),
            n => format!(" and {}", text::count(n, "other")),
        };
        Err(Failure::invalid(format!("the configuration says of no migrations for {named}{others}"))
            .hint("add migrations = \"migrations\" to its [[database]], or name one folder for all with `--dir`")
            .into())
    }

    fn of<'b>(&'b self, database: &'b Database) -> Option<&'b Path> {
        self.dir.dir.as_deref().or(database.config.migrations.as_ref().and_then(Migrations::folder))
    }

    /// `None` for a database that another program migrates.
    pub(super) fn files(&self, database: &Database) -> Option<&Folder> {
        self.of(database).and_then(|path| self.by_path.get(path))
    }

    /// Those that the journal has, and in which nothing is pending. Of one that does not answer the migration will say why.
    fn still_done(&self, all: &[Database], journal: &Journal, workers: usize) -> HashSet<PathBuf> {
        let (next, still) = (AtomicUsize::new(0), Mutex::new(HashSet::new()));
        let has_all = |database: &Database| {
            let standing = self.files(database).map(|files| migrations::status(&database.path, files));
            standing.is_some_and(|all| all.is_ok_and(|all| all.iter().all(|m| m.state != State::Pending)))
        };
        let look = || {
            while let Some(database) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
                if journal.done.contains(&self.entry(database)) && has_all(database) {
                    still.lock().unwrap_or_else(PoisonError::into_inner).insert(database.path.clone());
                }
            }
        };
        std::thread::scope(|scope| {
            (0..workers.min(journal.done.len())).for_each(|_| drop(scope.spawn(look)));
        });
        still.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    fn entry(&self, database: &Database) -> Entry {
        Entry { done: database.path.clone(), by: self.of(database).map(Path::to_owned) }
    }

    fn digest(&self) -> String {
        let digests: Vec<String> = self.by_path.values().map(Folder::digest).collect();
        digests.join(" ")
    }
}

/// What the workers share.
struct Work<'a> {
    folders: &'a Folders<'a>,
    journal: Mutex<Journal>,
    format: Format,
    failed: Mutex<Vec<Failed>>,
    /// Of what ran, without the ends yet.
    marks: Mutex<Vec<Marking>>,
    /// Databases in which something ran.
    ran: AtomicUsize,
}

impl Work<'_> {
    /// Returns how many were tried. What is done already has proven the migrations as canaries do: else the one that failed in the run
    /// before would be the first of the next one, and keep all others from being tried.
    fn waves(&self, todo: &[Database], done_before: usize, fleet: &MigrateFleet) -> usize {
        let canary = fleet.canary.saturating_sub(done_before).min(todo.len());
        let mut tried = self.wave(&todo[..canary], fleet.workers, 0);
        if self.failures() > 0 {
            return tried;
        }
        for wave in todo[canary..].chunks(fleet.wave) {
            tried += self.wave(wave, fleet.workers, fleet.max_failures);
            if self.failures() > fleet.max_failures {
                break;
            }
        }
        tried
    }

    fn wave(&self, databases: &[Database], workers: usize, max_failures: usize) -> usize {
        let (next, tried) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let work = || {
            while self.failures() <= max_failures
                && let Some(database) = databases.get(next.fetch_add(1, Ordering::Relaxed))
            {
                tried.fetch_add(1, Ordering::Relaxed);
                self.one(database);
            }
        };
        std::thread::scope(|scope| {
            (0..workers.min(databases.len())).for_each(|_| drop(scope.spawn(work)));
        });
        // After the wave: all of them are confirmed in the time that one takes.
        for marking in self.marks.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            if let Err(error) = marking.end() {
                report::warning(&format!("`undo` will have to ask what is lost: {error:#}"), self.format);
            }
        }
        tried.into_inner()
    }

    fn failures(&self) -> usize {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn one(&self, database: &Database) {
        match self.migrate(database) {
            Ok(true) => drop(self.ran.fetch_add(1, Ordering::Relaxed)),
            Ok(false) => {}
            Err(error) => {
                let failed = Failed::of("migrate", database, error, self.format);
                self.failed.lock().unwrap_or_else(PoisonError::into_inner).push(failed);
            }
        }
    }

    /// Whether something ran.
    fn migrate(&self, database: &Database) -> Result<bool> {
        if let Some(program) = program(self.folders.dir, Some(database)) {
            let known = Some(database.clone());
            let _turn = Turn::wait(&database.path, known.as_ref(), LITTLE_PATIENCE, self.format)?;
            // It knows itself what is done.
            return command::migrate(&database.path, known, program, LITTLE_PATIENCE, self.format);
        }
        let mut marking = Marking::of(&database.path, Some(database.clone()), LITTLE_PATIENCE, self.format);
        let folder = self.folders.files(database);
        let folder = folder.context("a database without migrations among those with some")?;
        let ran = marking.up(folder)?;
        self.journal.lock().unwrap_or_else(PoisonError::into_inner).note(&self.folders.entry(database))?;
        self.marks.lock().unwrap_or_else(PoisonError::into_inner).push(marking);
        Ok(!ran.is_empty())
    }
}

/// Which databases are done.
struct Journal {
    file: File,
    path: PathBuf,
    done: HashSet<Entry>,
}

#[derive(PartialEq, Eq, Hash, Serialize, Deserialize)]
struct Entry {
    done: PathBuf,
    by: Option<PathBuf>,
}

#[derive(Serialize)]
struct Heading {
    migrations: String,
}

impl Journal {
    /// Goes on with the one that is there if it is for these migrations, as they are now.
    fn open(path: &Path, migrations: String) -> Result<Journal> {
        let heading = Heading { migrations };
        let heading = serde_json::to_string(&heading).context("write the journal")?;
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let mut lines = text.lines();
        let failed = |error| Failure::io(format!("write the journal `{}`", path.display()), &error);
        let mut options = File::options();
        if lines.next() == Some(&heading) {
            let done = lines.filter_map(|line| serde_json::from_str(line).ok());
            let file = options.append(true).open(path).map_err(failed)?;
            return Ok(Journal { done: done.collect(), file, path: path.to_owned() });
        }
        let mut file = options.write(true).create(true).truncate(true).open(path).map_err(failed)?;
        file.write_all(format!("{heading}\n").as_bytes()).map_err(failed)?;
        Ok(Journal { file, path: path.to_owned(), done: HashSet::new() })
    }

    fn note(&mut self, entry: &Entry) -> Result<()> {
        let line = serde_json::to_string(entry).context("write the journal")?;
        let written = self.file.write_all(format!("{line}\n").as_bytes());
        written.map_err(|error| {
            Failure::io(format!("write the journal `{}`", self.path.display()), &error).into()
        })
    }
}

impl Fleet {
    fn text(&self, journal: &Path) -> String {
        let per_second = (self.databases - self.done_before - self.left) as f64 / self.seconds.max(1e-9);
        let mut out = format!(
            "{}: {} migrated, {} up to date, {} failed, in {:.1} s ({per_second:.0} a second)\n",
            text::count(self.databases, "database"),
            self.migrated,
            self.up_to_date,
            self.failed.len(),
            self.seconds,
        );
        if self.done_before > 0 {
            out += &format!("{} were done by the run before\n", self.done_before);
        }
        if self.left > 0 {
            out += &format!("{} were not tried, because too many failed\n", self.left);
        }
        if !self.failed.is_empty() {
            out += &format!("mend these and run it again: `{}` knows what is done\n", journal.display());
        }
        out
    }
}
