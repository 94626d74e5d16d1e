//! `litekeep forks`: what was committed on this node and is not in the log.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use litekeep_replica::Fork;
use serde::Serialize;

use crate::args::ConfigArgs;
use crate::args::cluster::{Forks, ForksCommand};
use crate::report::progress::Shown;
use crate::report::{self, Failure, Format, Outcome, text};
use crate::settings::{Database, Settings, Stores, database};

#[derive(Serialize)]
struct Shape {
    name: String,
    database: PathBuf,
    path: PathBuf,
    kept_at: String,
    /// The transaction of the log that it goes on from.
    base: Option<String>,
    files: usize,
    size_bytes: u64,
    pages: Option<u64>,
}

#[derive(Serialize)]
struct Restored {
    name: String,
    database: PathBuf,
    output: PathBuf,
}

pub(super) async fn run(args: &Forks, format: Format) -> Result<Outcome> {
    match &args.command {
        ForksCommand::List(args) => {
            let forks = all(&args.config, args.database.as_deref(), format).context("list forks")?;
            let shapes: Vec<Shape> = forks.iter().map(|(database, fork)| shape(database, fork)).collect();
            report::result(format, &shapes, || match shapes.is_empty() {
                true => "there are no forks\n".to_owned(),
                false => shapes.iter().map(words).collect(),
            });
        }
        ForksCommand::Show(args) => {
            let (database, fork) = named(&args.config, &args.name, format).context("show a fork")?;
            let shape = shape(&database, &fork);
            report::result(format, &shape, || {
                let name = &shape.name;
                format!(
                    "{}in {}\n`litekeep forks restore {name} -o FILE` writes the database with it; `litekeep forks list` is shorter when its folder is moved away\n",
                    words(&shape),
                    shape.path.display()
                )
            });
        }
        ForksCommand::Restore(args) => {
            let doing = || format!("restore the fork `{}`", args.name);
            let (database, fork) = named(&args.config, &args.name, format).with_context(doing)?;
            if args.output.symlink_metadata().is_ok() {
                let failure = Failure::invalid(format!("`{}` is there already", args.output.display()));
                return Err(anyhow::Error::from(failure.hint("name a file that does not exist")))
                    .with_context(doing);
            }
            let store = Stores::default().open(&database.destinations[0]).with_context(doing)?;
            let shown = Shown::new(format);
            fork.restore(&store, &args.output, &shown).await.with_context(doing)?;
            shown.end();
            let done = Restored { name: fork.name, database: database.path, output: args.output.clone() };
            report::result(format, &done, || {
                format!("{} is the database as it was with the fork `{}`\n", done.output.display(), done.name)
            });
        }
    }
    Ok(Outcome::Done)
}

fn all(config: &ConfigArgs, path: Option<&Path>, format: Format) -> Result<Vec<(Database, Fork)>> {
    let settings = Settings::load(config, format)?;
    let databases = match path {
        Some(path) => vec![Database::named(&settings, path)?],
        None => database::all(&settings)?,
    };
    let mut forks = Vec::new();
    for database in databases {
        forks.extend(Fork::all(&database.meta_dir)?.into_iter().map(|fork| (database.clone(), fork)));
    }
    Ok(forks)
}

fn named(config: &ConfigArgs, name: &str, format: Format) -> Result<(Database, Fork)> {
    let mut found = all(config, None, format)?;
    found.retain(|(_, fork)| fork.name == name);
    let unknown =
        || Failure::invalid(format!("there is no fork `{name}`")).hint("`litekeep forks list` names them");
    Ok(found.pop().ok_or_else(unknown)?)
}

fn shape(database: &Database, fork: &Fork) -> Shape {
    Shape {
        name: fork.name.clone(),
        database: database.path.clone(),
        path: fork.path.clone(),
        kept_at: text::rfc3339(fork.since_ms()),
        base: fork.base.map(|base| base.to_string()),
        files: fork.files.len(),
        size_bytes: fork.bytes,
        pages: fork.about.as_ref().map(|about| about.pages),
    }
}

fn words(fork: &Shape) -> String {
    let from = fork.base.as_ref().map_or("on its own".to_owned(), |base| format!("after transaction {base}"));
    let what = match fork.pages {
        Some(pages) => format!("{pages} pages"),
        None => text::count(fork.files, "transaction"),
    };
    format!(
        "{}: {}, kept at {}: {what} {from}, {} bytes\n",
        fork.name,
        fork.database.display(),
        fork.kept_at,
        fork.size_bytes
    )
}
