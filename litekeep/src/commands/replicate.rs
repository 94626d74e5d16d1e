//! `litekeep replicate`: continuous backup, until a signal or the end of the command that runs beside it.

use std::ffi::OsString;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use litekeep_config::{Config, DatabaseConfig, Destination, Log, Metrics};

use crate::args::{self, ConfigArgs};
use crate::child::{self, Signals};
use crate::metrics;
use crate::replication::{Choices, Replication};
use crate::report::{Failure, Format, Outcome, log};
use crate::settings::{Database, Settings, database, env};
use crate::verification::Schedule;

pub(super) async fn run(args: &args::Replicate, format: Format) -> Result<Outcome> {
    let scope = read(args, format).context("replicate")?;
    log::start(scope.log, format);
    let exec = args.exec.clone().or_else(|| scope.exec.clone()).filter(|_| !args.once);
    let run = Run {
        choices: Choices {
            restore_missing: args.restore_if_db_not_exists,
            // The application may be at work already.
            roll_forward: false,
            new_timeline: args.new_timeline,
        },
        command: exec.map(|exec| ["/bin/sh", "-c", &exec].map(OsString::from).to_vec()),
        once: args.once,
        scope,
    };
    run.run().await.context("replicate")
}

fn read(args: &args::Replicate, format: Format) -> Result<Scope> {
    match &args.database {
        Some(path) if !args.urls.is_empty() => {
            let parsed: Result<Vec<_>, _> =
                args.urls.iter().map(|url| Destination::parse(url, &env)).collect();
            Ok(Scope::of(Database { destinations: parsed?, ..Database::unconfigured(path) }))
        }
        Some(path) => Scope::of_one(path, &args.config, format),
        None => Scope::of_all(&args.config, format),
    }
}

/// What is replicated, and what the configuration says beside it.
#[derive(Default)]
pub(super) struct Scope {
    databases: Vec<Database>,
    /// Where new databases may appear.
    folders: Vec<DatabaseConfig>,
    metrics: Option<Metrics>,
    pub(super) log: Log,
    exec: Option<String>,
    /// The configuration that was read.
    config: ConfigArgs,
}

impl Scope {
    fn of(database: Database) -> Scope {
        Scope { databases: vec![database], ..Scope::default() }
    }

    /// One database, as the configuration has it; with the default destination where there is no configuration.
    pub(super) fn of_one(path: &Path, config: &ConfigArgs, format: Format) -> Result<Scope> {
        let Some(settings) = Settings::find(config, format)? else {
            return Ok(Scope::of(Database::unconfigured(path)));
        };
        let database = Database::named(&settings, path)?;
        let config = settings.args(config);
        Ok(Scope {
            metrics: settings.config.metrics,
            log: settings.config.log,
            config,
            ..Scope::of(database)
        })
    }

    /// Everything in the configuration.
    pub(super) fn of_all(config: &ConfigArgs, format: Format) -> Result<Scope> {
        let settings = Settings::load(config, format)?;
        let databases = database::all(&settings)?;
        let config = settings.args(config);
        let Config { databases: folders, metrics, log, exec, .. } = settings.config;
        Ok(Scope { databases, folders, metrics, log, exec, config })
    }
}

/// Replication, with a command beside it or without.
pub(super) struct Run {
    pub(super) scope: Scope,
    pub(super) choices: Choices,
    pub(super) command: Option<Vec<OsString>>,
    pub(super) once: bool,
}

impl Run {
    pub(super) async fn run(self) -> Result<Outcome> {
        let mut signals = Signals::catch().context("catch signals")?;
        self.refuse_unfit()?;
        let starting = Replication::start(&self.scope.databases, self.choices);
        let replication = tokio::select! {
            replication = starting => Arc::new(replication?),
            () = signals.end() => return Ok(Outcome::Done),
        };
        if let Some(metrics) = &self.scope.metrics {
            metrics::serve(metrics.addr, Arc::downgrade(&replication)).await?;
        }
        for database in &self.scope.databases {
            let urls: Vec<String> = database.destinations.iter().map(|d| d.url.to_string()).collect();
            tracing::info!(path = %database.path.display(), "replicating to {}", urls.join(", "));
        }
        let outcome = self.until_the_end(&replication, &mut signals).await;
        let confirmed = shut_down(replication).await;
        match (outcome, confirmed) {
            (Ok(Outcome::Child(code)), Err(error)) if code != 0 => {
                tracing::error!("{error:#}");
                Ok(Outcome::Child(code))
            }
            (Err(error), _) | (Ok(_), Err(error)) => Err(error),
            (Ok(outcome), Ok(())) => Ok(outcome),
        }
    }

    /// Finds what SQLite or the replicator would only fail at again and again. With other databases beside it, and nobody
    /// who waits for all of them, one that is not fit is only reported.
    fn refuse_unfit(&self) -> Result<()> {
        let Scope { databases, .. } = &self.scope;
        let unfit: Vec<Failure> = databases.iter().filter_map(unfit).collect();
        let all_are_needed = self.once || self.command.is_some() || unfit.len() == databases.len();
        for failure in unfit {
            if all_are_needed {
                return Err(failure.into());
            }
            tracing::error!("{failure}");
        }
        Ok(())
    }

    /// With `-once` nobody waits until a missing database appears.
    fn refuse_missing(&self) -> Result<()> {
        let missing = self.scope.databases.iter().find(|database| !database.path.exists());
        let Some(Database { path, .. }) = missing else { return Ok(()) };
        let failure = Failure::invalid(format!("`{}` does not exist", path.display()));
        Err(failure
            .hint("check the path; -restore-if-db-not-exists brings it back where there is a backup")
            .into())
    }

    async fn until_the_end(&self, replication: &Arc<Replication>, signals: &mut Signals) -> Result<Outcome> {
        if self.once {
            tokio::select! {
                copied = replication.copied() => copied?,
                () = signals.end() => return Ok(Outcome::Done),
            }
            // The end waits for the confirmation of all of it.
            return self.refuse_missing().map(|()| Outcome::Done);
        }
        replication.follow_folders(&self.scope.folders)?;
        let Scope { config, databases, folders, .. } = &self.scope;
        let Some(schedule) = Schedule::new(config.clone(), databases, folders) else {
            return self.beside(replication, signals).await;
        };
        tokio::select! {
            outcome = self.beside(replication, signals) => outcome,
            () = schedule.keep(replication) => unreachable!("a schedule has no end"),
        }
    }

    /// Runs the command, or waits for a signal.
    async fn beside(&self, replication: &Replication, signals: &mut Signals) -> Result<Outcome> {
        let Some(command) = &self.command else {
            signals.end().await;
            return Ok(Outcome::Done);
        };
        tokio::select! {
            settled = replication.settled() => settled?,
            () = signals.end() => return Ok(Outcome::Done),
        }
        let mut child = child::start(command)?;
        child::wait(&mut child, signals).await.map(Outcome::Child)
    }
}

/// Why a database that is there cannot be replicated.
fn unfit(database: &Database) -> Option<Failure> {
    // A missing one may be restored, or be made by the application.
    if !database.path.exists() {
        return None;
    }
    // As SQLite opens it, so that it may take its locks.
    let failure = database::look(&database.path, File::options().read(true).write(true)).err();
    failure.or_else(|| {
        let made = std::fs::create_dir_all(&database.meta_dir);
        let error = made.err()?;
        let failure = Failure::io(format!("make the folder `{}`", database.meta_dir.display()), &error);
        Some(failure.hint("litekeep keeps its own state there: make the folder writable, or name another one as `meta_dir` in litekeep.toml"))
    })
}

/// A request for metrics may still hold the replication for as long as it takes to answer.
async fn shut_down(mut replication: Arc<Replication>) -> Result<()> {
    loop {
        match Arc::try_unwrap(replication) {
            Ok(replication) => return replication.shut_down().await,
            Err(shared) => replication = shared,
        }
        tokio::task::yield_now().await;
    }
}
