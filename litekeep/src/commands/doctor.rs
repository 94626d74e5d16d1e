//! `litekeep doctor`: looks at everything that a SQLite database in production needs, and says which line to change.
//!
//! litekeep can enforce what it does itself, and some settings persist in the file; all others belong to each connection of
//! the application, so the application's own driver is asked for them.
//!
//! The order matters: what opens a database's files by itself comes before the first SQLite connection of this process to it,
//! whose locks it would drop. That connection stays open while drivers are asked, so that theirs is never the last one,
//! which would delete the WAL.

mod backup;
mod check;
mod driver;
mod file;
mod limits;
mod machine;
mod settings;

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use litekeep_env::{Clock, SystemClock};
use litekeep_replicate::local::MetaDir;
use litekeep_sql::Examiner;
use serde::Serialize;
use tokio::sync::Mutex;

use crate::args;
use crate::commands::status;
use crate::report::progress::Steps;
use crate::report::{self, Failure, Format, Outcome, text};
use crate::settings::{Database, Settings, database, default_backup};

use check::{Area, Check, Hold, Verdict};
use driver::Answers;
pub(super) use driver::App;
pub(crate) use driver::Driver;
use limits::Limit;
use machine::{Disks, Seen};
use settings::Asked;

/// Databases that are examined at the same time.
const AT_ONCE: usize = 4;

#[derive(Serialize)]
struct Diagnosis {
    ok: bool,
    at: String,
    databases: Vec<Diagnosed>,
    limits: Vec<Limit>,
}

#[derive(Serialize)]
struct Diagnosed {
    path: PathBuf,
    ok: bool,
    checks: Vec<Check>,
}

/// What is looked at: a database, and whether anything backs it up.
struct Patient {
    database: Database,
    has_backup: bool,
}

pub(super) async fn run(args: &args::Doctor, format: Format) -> Result<Outcome> {
    let what = args
        .target
        .as_deref()
        .map_or("examine the databases".to_owned(), |target| format!("examine `{}`", target.display()));
    let diagnosis = diagnose(args, format).await.context(what)?;
    report::result(format, &diagnosis, || diagnosis.text());
    Ok(if diagnosis.ok { Outcome::Done } else { Outcome::No })
}

async fn diagnose(args: &args::Doctor, format: Format) -> Result<Diagnosis> {
    let settings = match args.target {
        Some(_) => Settings::find(&args.config, format)?,
        None => Some(Settings::load(&args.config, format)?),
    };
    let patients = patients(args.target.as_deref(), settings.as_ref())?;
    let steps = (patients.len() > 1).then(|| Steps::new(format, patients.len() as u64));
    let apps = apps(settings.as_ref());
    let (answers, disks, line) = (Answers::default(), Arc::default(), Mutex::new(()));
    let doctor = &Doctor { args, apps, answers, disks, line };
    let at_once = if are_distinct(&patients) { AT_ONCE } else { 1 };
    let mut databases = Vec::new();
    for some in patients.chunks(machine::WATCHED) {
        let paths: Vec<PathBuf> = some.iter().map(|patient| patient.database.path.clone()).collect();
        let watch = move || Seen::watch(&paths.iter().map(PathBuf::as_path).collect::<Vec<_>>());
        let seen = tokio::task::spawn_blocking(watch).await.context("watch")?;
        let examined = stream::iter(some.iter().zip(seen)).map(async |(patient, seen)| {
            let path = patient.database.path.clone();
            steps.iter().for_each(|steps| steps.next(&format!("examining `{}`", path.display())));
            let checks = doctor.examine(patient, seen).await?;
            let ok = checks.iter().all(|check| check.verdict != Verdict::Problem);
            anyhow::Ok(Diagnosed { path, ok, checks })
        });
        databases.extend(examined.buffered(at_once).try_collect::<Vec<_>>().await?);
    }
    steps.iter().for_each(Steps::end);
    Ok(Diagnosis {
        ok: databases.iter().all(|database| database.ok),
        at: text::rfc3339(SystemClock.unix_ms()),
        databases,
        limits: if args.limits { limits::ALL.to_vec() } else { Vec::new() },
    })
}

/// The database that was named, which need not be in the configuration, or all of it.
fn patients(target: Option<&Path>, settings: Option<&Settings>) -> Result<Vec<Patient>> {
    let Some(path) = target else {
        let known = settings.map(database::all).transpose()?.unwrap_or_default();
        return Ok(known.into_iter().map(|database| Patient { database, has_backup: true }).collect());
    };
    database::look(path, File::options().read(true))?;
    let known = settings.and_then(|settings| Database::named(settings, path).ok());
    let has_backup = known.is_some() || settings.is_none() && default_backup(path).is_dir();
    let database = known.unwrap_or_else(|| Database::unconfigured(path));
    Ok(vec![Patient { database, has_backup }])
}

/// One file that two of them name would lose the locks of the one connection when it is opened for the other.
fn are_distinct(patients: &[Patient]) -> bool {
    let files = patients.iter().filter_map(|patient| patient.database.path.canonicalize().ok());
    let mut known = HashSet::new();
    files.into_iter().all(|file| known.insert(file))
}

/// The current folder, with the variables of a process that runs there, and where the other processes of the configuration run.
pub(super) fn apps(settings: Option<&Settings>) -> Vec<App> {
    let mut apps = vec![App::here()];
    let Some(settings) = settings else { return apps };
    let home = settings.path.parent().unwrap_or(Path::new("."));
    for process in &settings.config.processes {
        let app = App::of(&process.run, home);
        if app.dir == apps[0].dir && apps[0].env.is_empty() && apps[0].env_file.is_none() {
            (apps[0].env, apps[0].env_file) = (app.env.clone(), app.env_file.clone());
        }
        if !apps.contains(&app) {
            apps.push(app);
        }
    }
    apps
}

/// What the examinations of all databases share.
struct Doctor<'a> {
    args: &'a args::Doctor,
    apps: Vec<App>,
    answers: Answers,
    disks: Arc<Disks>,
    /// Who has it measures a store.
    line: Mutex<()>,
}

impl Doctor<'_> {
    async fn examine(&self, patient: &Patient, seen: Seen) -> Result<Vec<Check>> {
        let database = &patient.database;
        if let Err(failure) = database::look(&database.path, File::options().read(true)) {
            let broken =
                Check::new(Area::File, "readable", Hold::Checked, Verdict::Problem, failure.to_string());
            return Ok(vec![broken.fix("litekeep history  # shows what can be restored")]);
        }
        let replicator = MetaDir::claimed_by(&database.meta_dir, &database.path);
        let (path, config, disks) = (database.path.clone(), database.config.clone(), self.disks.clone());
        let look = move || machine::look(&path, &config, &seen, &disks, replicator);
        let machine = tokio::task::spawn_blocking(look).await.context("look at the machine")?;
        let backup = match patient.has_backup {
            true => {
                let red = status::red(std::slice::from_ref(database), &SystemClock).await?;
                backup::checks(database, &red, &self.line, &SystemClock).await?
            }
            false => backup::none(database),
        };
        let path = database.path.clone();
        let inside = tokio::task::spawn_blocking(move || look_inside(&path)).await.context("look inside")?;
        let mut checks = match inside {
            Ok((examiner, facts, file)) => {
                let asked = self.ask(&database.path, &facts, machine.is_local).await;
                drop(examiner);
                asked?.into_iter().chain(file).collect()
            }
            Err(error) => {
                let reason = format!("{error:#}");
                let broken = Check::new(Area::File, "readable", Hold::Checked, Verdict::Problem, reason);
                vec![broken.fixes(report::Report::of(&error).hint)]
            }
        };
        checks.extend(machine.checks);
        checks.extend(backup);
        Ok(checks)
    }

    /// Asks each driver, or the user's own command.
    ///
    /// # Errors
    /// When one that was named does not answer.
    async fn ask(&self, database: &Path, facts: &Facts, is_local: bool) -> Result<Vec<Check>> {
        let database = std::path::absolute(database).context("find the database")?;
        let Facts { page_size, database_bytes, foreign_keys, ref journal_mode } = *facts;
        let judge = |driver, of: &str, found: &driver::Found| {
            Asked { driver, of, found, page_size, database_bytes, foreign_keys, is_local }.checks()
        };
        let refused = |of: &str, cause: String| {
            Failure::invalid(format!("ask `{of}` for its settings: {cause}"))
                .hint("docs/doctor.md has a snippet for each driver, for --command")
        };
        if let Some(line) = &self.args.command {
            let found = self.answers.run(line, &database).await.map_err(|cause| refused(line, cause))?;
            return Ok(judge(None, line, &found));
        }
        let answer = async |driver, app| self.answers.of(driver, app, &database, journal_mode).await;
        if let Some(driver) = self.args.driver {
            let found = answer(driver, &self.apps[0]).await;
            let found = found.map_err(|cause| refused(driver.name(), cause))?;
            return Ok(judge(Some(driver), &found.of(driver.name()), &found));
        }
        let (mut checks, mut known) = (Vec::new(), Vec::new());
        for app in &self.apps {
            for driver in app.drivers() {
                let of = match app.dir.as_path() {
                    dir if dir == Path::new(".") => driver.name().to_owned(),
                    dir => format!("{} in {}", driver.name(), dir.display()),
                };
                if known.contains(&of) {
                    continue;
                }
                match answer(driver, app).await {
                    Ok(found) => checks.extend(judge(Some(driver), &found.of(&of), &found)),
                    Err(cause) => checks.push(unasked(cause).of(&of)),
                }
                known.push(of);
            }
        }
        if checks.is_empty() {
            checks.push(unasked("no application with a known driver is here".to_owned()));
        }
        Ok(checks)
    }
}

/// What settings are held against.
struct Facts {
    page_size: u64,
    database_bytes: u64,
    foreign_keys: u64,
    journal_mode: String,
}

fn look_inside(path: &Path) -> Result<(Examiner, Facts, Vec<Check>)> {
    let mut examiner = Examiner::open(path)?;
    let layout = examiner.layout()?;
    let facts = Facts {
        page_size: layout.page_size,
        database_bytes: layout.pages * layout.page_size,
        foreign_keys: examiner.foreign_keys()?,
        journal_mode: layout.journal_mode.clone(),
    };
    let checks = file::checks(&mut examiner, &layout)?;
    Ok((examiner, facts, checks))
}

fn unasked(cause: String) -> Check {
    Check::new(Area::Settings, "connection", Hold::Checked, Verdict::NotChecked, cause)
        .fix("litekeep doctor --command '...'  # the application's own code: docs/doctor.md")
}

impl Diagnosis {
    fn text(&self) -> String {
        let mut out: String = self.databases.iter().map(Diagnosed::text).collect();
        if !self.limits.is_empty() {
            out.push_str("what SQLite and litekeep are not for\n");
        }
        for Limit { text, instead, .. } in &self.limits {
            out.push_str(&format!("    {text}: {instead}\n"));
        }
        out
    }
}

impl Diagnosed {
    fn text(&self) -> String {
        let mut out = format!("{}\n", self.path.display());
        for area in Area::ALL {
            let mut last = None;
            for check in self.checks.iter().filter(|check| check.area == area) {
                if last != Some(&check.of) {
                    let of = check.of.as_ref().map_or(String::new(), |of| format!(", {of}"));
                    out.push_str(&format!("  {}{of}\n", area.title()));
                    last = Some(&check.of);
                }
                out.push_str(&check.text());
            }
        }
        let mut counts = BTreeMap::new();
        for check in &self.checks {
            *counts.entry(check.verdict).or_insert(0) += 1;
        }
        let count = |verdict| counts.get(&verdict).copied().unwrap_or(0);
        out.push_str(&format!(
            "  {}, {}, {} not checked, {} ok\n",
            text::count(count(Verdict::Problem), "problem"),
            text::count(count(Verdict::Warning), "warning"),
            count(Verdict::NotChecked),
            count(Verdict::Ok)
        ));
        out
    }
}
