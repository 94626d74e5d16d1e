//! `litekeep tune`: what persists in the file, as it should be in production.
//!
//! It shows what it would do, and does it with `--apply`. It never rewrites the file: what needs a `VACUUM` is said, and left to
//! a quiet hour. Settings that belong to each connection cannot be tuned from outside; their lines are printed for the
//! drivers of the project.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use litekeep_env::disk::{self, FileSystem};
use litekeep_sql::{Examiner, Layout, Stale, Tuner};
use serde::Serialize;

use crate::args;
use crate::commands::doctor::{App, Driver, apps};
use crate::report::{self, Failure, Format, Outcome, text};
use crate::settings::{Settings, database};

/// How long rows are counted.
const PATIENCE: Duration = Duration::from_secs(5);

const JOURNAL_MODE: &str = "journal_mode";

/// What each connection of the application sets for itself.
const OF_A_CONNECTION: [(&str, &str); 6] = [
    ("synchronous", "NORMAL"),
    ("foreign_keys", "ON"),
    ("busy_timeout", "5000"),
    ("cache_size", "-64000"),
    ("mmap_size", "268435456"),
    ("temp_store", "MEMORY"),
];

#[derive(Serialize)]
struct Tuned {
    databases: Vec<TunedDatabase>,
    /// What only the application can set, by driver.
    connections: Vec<Lines>,
}

#[derive(Serialize)]
struct TunedDatabase {
    path: PathBuf,
    steps: Vec<Step>,
}

#[derive(Serialize)]
struct Lines {
    driver: &'static str,
    lines: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    /// There is nothing to do.
    InPlace,
    /// `--apply` does it.
    Planned,
    Done,
    /// It needs more than `tune` does.
    ByHand,
}

#[derive(Debug, Serialize)]
struct Step {
    name: &'static str,
    state: State,
    reason: String,
    sql: Vec<String>,
}

pub(super) fn run(args: &args::Tune, format: Format) -> Result<Outcome> {
    let what = args
        .target
        .as_deref()
        .map_or("tune the databases".to_owned(), |target| format!("tune `{}`", target.display()));
    let tuned = tune(args, format).context(what)?;
    report::result(format, &tuned, || tuned.text());
    Ok(Outcome::Done)
}

fn tune(args: &args::Tune, format: Format) -> Result<Tuned> {
    let settings = match args.target {
        Some(_) => Settings::find(&args.config, format)?,
        None => Some(Settings::load(&args.config, format)?),
    };
    let paths = match (&args.target, &settings) {
        (Some(path), _) => vec![path.clone()],
        (None, Some(settings)) => {
            database::present(settings)?.into_iter().map(|database| database.path).collect()
        }
        (None, None) => Vec::new(),
    };
    let mut databases = Vec::new();
    for path in paths {
        let steps = tune_one(&path, args.apply).with_context(|| format!("change `{}`", path.display()))?;
        databases.push(TunedDatabase { path, steps });
    }
    Ok(Tuned { databases, connections: lines(&apps(settings.as_ref())) })
}

fn tune_one(path: &Path, apply: bool) -> Result<Vec<Step>> {
    // Before SQLite has it open in this process.
    database::look(path, File::options().read(true).write(true))?;
    let file_system = disk::file_system(path)
        .map_err(|error| Failure::io(format!("look for the file system of `{}`", path.display()), &error))?;
    let mut examiner = Examiner::open(path)?;
    let mut steps = steps(&examiner.layout()?, examiner.stale_statistics(PATIENCE)?, &file_system);
    drop(examiner);
    if !apply {
        return Ok(steps);
    }
    let tuner = Tuner::open(path)?;
    for step in steps.iter_mut().filter(|step| step.state == State::Planned) {
        tuner.run(&step.sql).with_context(|| format!("set {}", step.name))?;
        step.state = State::Done;
    }
    drop(tuner);
    // SQLite answers with the old mode where it cannot switch, and calls that no error.
    let mode = Examiner::open(path)?.layout()?.journal_mode;
    if mode != "wal" && steps.iter().any(|step| step.name == JOURNAL_MODE && step.state == State::Done) {
        return Err(Failure::invalid(format!("SQLite keeps journal mode {mode}"))
            .hint("`litekeep doctor` says what is wrong with the place of the file")
            .into());
    }
    Ok(steps)
}

/// What is to be done, in an order in which it works: the layout of an empty file is open until its first page, which WAL
/// mode writes.
fn steps(layout: &Layout, stale: Option<Vec<Stale>>, file_system: &FileSystem) -> Vec<Step> {
    vec![page_size(layout), auto_vacuum(layout), wal(layout, file_system), statistics(stale)]
}

fn step(name: &'static str, state: State, reason: impl Into<String>, sql: &[&str]) -> Step {
    Step { name, state, reason: reason.into(), sql: sql.iter().map(|&line| line.to_owned()).collect() }
}

fn page_size(layout: &Layout) -> Step {
    let name = "page_size";
    match layout.page_size {
        4096.. => step(name, State::InPlace, format!("{} bytes", layout.page_size), &[]),
        _ if layout.pages == 0 => step(
            name,
            State::Planned,
            "the file is empty, so it can still be chosen",
            &["PRAGMA page_size = 4096;"],
        ),
        size => step(
            name,
            State::ByHand,
            format!(
                "{size} bytes, smaller than a page of the disk; changing it rewrites the file outside WAL mode"
            ),
            &[
                "PRAGMA journal_mode = DELETE;",
                "PRAGMA page_size = 4096;",
                "VACUUM;",
                "PRAGMA journal_mode = WAL;",
            ],
        ),
    }
}

fn auto_vacuum(layout: &Layout) -> Step {
    const INCREMENTAL: &str = "PRAGMA auto_vacuum = INCREMENTAL;";
    let name = "auto_vacuum";
    match layout.auto_vacuum {
        2 => step(name, State::InPlace, "incremental", &[]),
        1 => step(
            name,
            State::Planned,
            "full moves pages at each commit; incremental does when it is asked",
            &[INCREMENTAL],
        ),
        _ if layout.pages == 0 => step(
            name,
            State::Planned,
            "the file is empty, so free pages can be made to come back by PRAGMA incremental_vacuum",
            &[INCREMENTAL],
        ),
        _ => step(
            name,
            State::ByHand,
            "none: a file that has grown never shrinks, which hurts only after large deletes; changing it rewrites the file, \
             which needs twice its space, keeps writers waiting, and sends all of it to the backup",
            &[INCREMENTAL, "VACUUM;"],
        ),
    }
}

fn wal(layout: &Layout, file_system: &FileSystem) -> Step {
    const WAL: &str = "PRAGMA journal_mode = WAL;";
    let name = JOURNAL_MODE;
    match (layout.journal_mode.as_str(), file_system) {
        ("wal", _) => step(name, State::InPlace, "wal", &[]),
        (mode, FileSystem::Shared { name: kind, reason }) => step(
            name,
            State::ByHand,
            format!("{mode}: the file is on {kind}: {reason}; move it to a local disk first"),
            &[WAL],
        ),
        (mode, _) => {
            step(name, State::Planned, format!("{mode}: readers and the writer wait for each other"), &[WAL])
        }
    }
}

/// `stale` is `None` where counting takes too long: SQLite decides by itself then.
fn statistics(stale: Option<Vec<Stale>>) -> Step {
    let name = "statistics";
    let Some(stale) = stale else {
        return step(name, State::Planned, "rows are too many to count", &["PRAGMA optimize = 0x10002;"]);
    };
    if stale.is_empty() {
        return step(name, State::InPlace, "the planner knows about how many rows there are", &[]);
    }
    let tables: Vec<&str> = stale.iter().map(|stale| stale.table.as_str()).collect();
    let reason = format!(
        "missing or far off for {}; PRAGMA optimize, once a day in the application, keeps them right",
        tables.join(", ")
    );
    // Bounded, so that a large table costs no more than a small one.
    let analyze = stale.iter().map(Stale::analyze);
    let sql = std::iter::once("PRAGMA analysis_limit = 1000;".to_owned()).chain(analyze).collect();
    Step { name, state: State::Planned, reason, sql }
}

/// The lines for each driver of the project, or as SQL where there is none.
fn lines(apps: &[App]) -> Vec<Lines> {
    let mut drivers: Vec<Driver> = Vec::new();
    for driver in apps.iter().flat_map(App::drivers) {
        if !drivers.contains(&driver) {
            drivers.push(driver);
        }
    }
    let all =
        |line: &dyn Fn(&str, &str) -> String| OF_A_CONNECTION.map(|(name, value)| line(name, value)).to_vec();
    if drivers.is_empty() {
        let sql = |name: &str, value: &str| format!("PRAGMA {name} = {value};");
        return vec![Lines { driver: "sql", lines: all(&sql) }];
    }
    let of =
        |driver: Driver| Lines { driver: driver.name(), lines: all(&|name, value| driver.line(name, value)) };
    drivers.into_iter().map(of).collect()
}

impl Tuned {
    fn text(&self) -> String {
        let mut out = String::new();
        for TunedDatabase { path, steps } in &self.databases {
            out.push_str(&format!("{}\n", path.display()));
            out.extend(steps.iter().map(Step::text));
            let planned = steps.iter().filter(|step| step.state == State::Planned).count();
            if planned > 0 {
                let path = text::shell_word(&path.to_string_lossy());
                out.push_str(&format!(
                    "  {} to do: litekeep tune {path} --apply\n",
                    text::count(planned, "step")
                ));
            }
        }
        out.push_str(
            "the rest belongs to each connection of the application, which sets it when it opens one\n",
        );
        for Lines { driver, lines } in &self.connections {
            out.push_str(&format!("  {driver}\n"));
            out.extend(lines.iter().map(|line| format!("    {line}\n")));
        }
        out
    }
}

impl Step {
    fn text(&self) -> String {
        let state = match self.state {
            State::InPlace => "in place",
            State::Planned => "to do",
            State::Done => "done",
            State::ByHand => "by hand",
        };
        let mut out = format!("    {state:<8} {}: {}\n", self.name, self.reason);
        out.extend(self.sql.iter().map(|line| format!("             > {line}\n")));
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(pages: u64) -> Layout {
        Layout {
            journal_mode: "delete".into(),
            page_size: 1024,
            pages,
            free_pages: 0,
            auto_vacuum: 0,
            user_version: 0,
            application_id: 0,
        }
    }

    fn states(layout: &Layout, file_system: &FileSystem) -> Vec<State> {
        steps(layout, Some(Vec::new()), file_system).iter().map(|step| step.state).collect()
    }

    #[test]
    fn what_needs_the_file_rewritten_is_left_to_a_person() {
        use State::{ByHand, InPlace, Planned};
        let local = FileSystem::Local("ext4");
        assert_eq!(states(&layout(0), &local), [Planned, Planned, Planned, InPlace]);
        assert_eq!(states(&layout(7), &local), [ByHand, ByHand, Planned, InPlace]);
        let full = Layout { auto_vacuum: 1, page_size: 4096, journal_mode: "wal".into(), ..layout(7) };
        assert_eq!(states(&full, &local), [InPlace, Planned, InPlace, InPlace]);
        let shared = FileSystem::Shared { name: "NFS (or EFS)", reason: "no shared memory" };
        assert_eq!(states(&layout(7), &shared)[2], ByHand);
        let all = steps(&layout(7), None, &local);
        let planned = all.iter().filter(|step| step.state == Planned);
        assert!(
            planned.clone().count() == 2
                && planned.flat_map(|step| &step.sql).all(|sql| !sql.contains("VACUUM;"))
        );
    }
}
