//! `litekeep replicate`: continuous backup, until a signal or the end of the command that runs beside it.

use std::ffi::OsString;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use litekeep_config::{Config, Dashboard, DatabaseConfig, Destination, Log, Metrics, Stream};
use litekeep_env::notify::ServiceManager;
use litekeep_sql::Observer;

use crate::args::{self, ConfigArgs};
use crate::child::{self, Signals};
use crate::dashboard::Board;
use crate::feeds::{self, Feed};
use crate::followers::Followers;
use crate::memory;
use crate::replication::{self, Choices, Current, Replication};
use crate::report::{Failure, Format, Outcome, log};
use crate::served::Pages;
use crate::settings::{Database, Settings, database, env};
use crate::stack::Stack;
use crate::syncs::{self, DatabaseSync};
use crate::verification::{Schedule, canonical};

/// After so long a start is over.
const STARTED: Duration = Duration::from_secs(3);

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
            each_by_itself: exec.is_none() && !args.once,
        },
        beside: exec.map_or(Beside::Nothing, |exec| {
            Beside::Command(["/bin/sh", "-c", &exec].map(OsString::from).to_vec())
        }),
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
    dashboard: Option<Dashboard>,
    stream: Option<Stream>,
    pub(super) log: Log,
    exec: Option<String>,
    feeds: Vec<Feed>,
    syncs: Vec<DatabaseSync>,
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
        refuse_cluster(&settings)?;
        let database = Database::named(&settings, path)?;
        let config = settings.args(config);
        let mut feeds = Feed::all(&settings)?;
        feeds.retain(|feed| feed.database.path == database.path);
        let mut syncs = DatabaseSync::all(&settings)?;
        syncs.retain(|sync| sync.database.path == database.path);
        Ok(Scope {
            feeds,
            syncs,
            metrics: settings.config.metrics,
            dashboard: settings.config.dashboard,
            stream: settings.config.stream,
            log: settings.config.log,
            config,
            ..Scope::of(database)
        })
    }

    /// Everything in the configuration, which has something to back up.
    pub(super) fn of_all(config: &ConfigArgs, format: Format) -> Result<Scope> {
        let settings = Settings::load(config, format)?;
        settings.require_database()?;
        refuse_cluster(&settings)?;
        Scope::of_settings(settings, config)
    }

    /// The same, of what was read by these arguments.
    pub(super) fn of_settings(settings: Settings, config: &ConfigArgs) -> Result<Scope> {
        let databases = database::all(&settings)?;
        let config = settings.args(config);
        let (feeds, syncs) = (Feed::all(&settings)?, DatabaseSync::all(&settings)?);
        let Config { databases: folders, metrics, dashboard, stream, log, exec, .. } = settings.config;
        Ok(Scope { databases, folders, metrics, dashboard, stream, log, exec, feeds, syncs, config })
    }
}

/// In a cluster only the primary may replicate, and `up` knows which node that is.
fn refuse_cluster(settings: &Settings) -> Result<()> {
    if settings.config.cluster.is_none() {
        return Ok(());
    }
    let failure = Failure::invalid(format!(
        "`{}` is the configuration of a node of a cluster",
        settings.path.display()
    ));
    Err(failure
        .hint("`litekeep up` replicates its databases while the node is the primary, and follows them else")
        .into())
}

/// What runs beside the replication, and ends it when it ends.
pub(super) enum Beside {
    Nothing,
    Command(Vec<OsString>),
    Stack {
        stack: Arc<Stack>,
        settings: Box<Settings>,
        /// How what the processes print is shown, if at all.
        prints: Option<Format>,
    },
}

/// Replication, with something beside it or without.
pub(super) struct Run {
    pub(super) scope: Scope,
    pub(super) choices: Choices,
    pub(super) beside: Beside,
    pub(super) once: bool,
}

impl Run {
    pub(super) async fn run(mut self) -> Result<Outcome> {
        let mut signals = Signals::catch().context("catch signals")?;
        self.refuse_unfit()?;
        let Scope { databases, folders, .. } = &self.scope;
        let lost = tokio::select! {
            lost = replication::lost(folders, databases, self.choices) => lost?,
            () = self.ended(&mut signals) => return Ok(Outcome::Done),
        };
        self.scope.databases.extend(lost);
        // Asked while nothing here has the files open.
        let rival = self.scope.databases.iter().find_map(replication::rival);
        let starting = Replication::start(&self.scope.databases, self.choices);
        let replication = tokio::select! {
            replication = starting => Arc::new(replication?),
            () = self.ended(&mut signals) => return Ok(Outcome::Done),
        };
        // Of two for the same database the second finds the first one's addresses taken, too, and that says less.
        let _pages =
            self.show(&replication).await.map_err(|error| rival.map_or(error, anyhow::Error::from))?;
        let left_out = replication.left_out();
        let is_replicated = |path: &Path| !left_out.contains(&canonical(path));
        for database in self.scope.databases.iter().filter(|database| is_replicated(&database.path)) {
            let urls: Vec<String> = database.destinations.iter().map(|d| d.url.to_string()).collect();
            tracing::info!(path = %database.path.display(), "replicating to {}", urls.join(", "));
            if !self.once && !database.path.exists() {
                tracing::warn!(path = %database.path.display(), "the database is not there; waiting for it to appear");
            }
        }
        // A run that ends by itself is no time to follow anything.
        let mut followers = Followers::default();
        if !self.once {
            self.follow(is_replicated, &replication, &mut followers);
        }
        let outcome = tokio::select! {
            outcome = self.until_the_end(&replication, &mut signals) => outcome,
            () = self.take_up(&replication, &mut followers) => unreachable!("there may always be one more"),
        };
        followers.stop().await;
        let confirmed = shut_down(replication).await;
        if confirmed.is_ok() && !matches!(self.beside, Beside::Nothing) {
            self.scope.databases.iter().for_each(checkpoint);
        }
        match (outcome, confirmed) {
            (Ok(Outcome::Child(code)), Err(error)) if code != 0 => {
                tracing::error!("{error:#}");
                Ok(Outcome::Child(code))
            }
            (Err(error), _) | (Ok(_), Err(error)) => Err(error),
            (Ok(outcome), Ok(())) => Ok(outcome),
        }
    }

    /// Begins what follows these databases.
    fn follow(
        &self,
        is_meant: impl Fn(&Path) -> bool,
        replication: &Arc<Replication>,
        followers: &mut Followers,
    ) {
        let Scope { feeds, syncs, .. } = &self.scope;
        let feeds: Vec<Feed> = feeds.iter().filter(|feed| is_meant(&feed.database.path)).cloned().collect();
        feeds::start(&feeds, replication, followers);
        let syncs: Vec<_> = syncs.iter().filter(|sync| is_meant(&sync.database.path)).cloned().collect();
        syncs::start(&syncs, replication, followers);
    }

    /// Takes databases up that were left out at the start, as they become fit. Does not return.
    async fn take_up(&self, replication: &Arc<Replication>, followers: &mut Followers) {
        loop {
            let path = replication.taken_up().await;
            self.follow(|own| canonical(own) == path, replication, followers);
        }
    }

    fn stack(&self) -> Option<&Arc<Stack>> {
        match &self.beside {
            Beside::Stack { stack, .. } => Some(stack),
            _ => None,
        }
    }

    /// Puts up the board, and serves the pages where that is wanted: for as long as what is given back, or the stack, lives.
    async fn show(&self, replication: &Arc<Replication>) -> Result<Option<Pages>> {
        let Scope { databases, folders, config, dashboard, metrics, stream, feeds, syncs, .. } = &self.scope;
        let stack = self.stack();
        let of_stack = stack.map(Arc::downgrade);
        let replication = Current::of(replication);
        let board =
            Board::new(replication.clone(), of_stack.clone(), (databases, folders), (feeds, syncs), config);
        let board = Arc::new(board);
        let mut pages = Pages::new(board.clone(), replication, of_stack);
        pages.metrics(metrics.as_ref()).await?;
        pages.dashboard(dashboard.as_ref()).await?;
        pages.stream(stream.as_ref()).await?;
        let Some(stack) = stack else { return Ok(Some(pages)) };
        stack.shown_on(&board, pages).await;
        Ok(None)
    }

    /// Finds what SQLite or the replicator would only fail at again and again. With other databases beside it, and nobody
    /// who waits for all of them, one that is not fit is only reported.
    fn refuse_unfit(&self) -> Result<()> {
        let Scope { databases, .. } = &self.scope;
        let unfit: Vec<Failure> = databases.iter().filter_map(unfit).collect();
        let is_beside = !matches!(self.beside, Beside::Nothing);
        let all_are_needed = self.once || is_beside || unfit.len() == databases.len();
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
        tokio::spawn(async {
            tokio::time::sleep(STARTED).await;
            memory::let_go_of_start();
        });
        let Scope { config, databases, folders, .. } = &self.scope;
        let Some(schedule) = Schedule::new(config.clone(), databases, folders) else {
            return self.beside(replication, signals).await;
        };
        tokio::select! {
            outcome = self.beside(replication, signals) => outcome,
            () = schedule.keep(replication) => unreachable!("a schedule has no end"),
        }
    }

    /// Runs what is beside, or waits for a signal.
    async fn beside(&self, replication: &Arc<Replication>, signals: &mut Signals) -> Result<Outcome> {
        if matches!(self.beside, Beside::Nothing) {
            signals.end().await;
            return Ok(Outcome::Done);
        }
        if let Beside::Stack { stack, .. } = &self.beside {
            stack.replicated(replication);
        }
        tokio::select! {
            settled = replication.settled() => settled?,
            () = self.ended(signals) => return Ok(Outcome::Done),
        }
        match &self.beside {
            Beside::Nothing => {}
            Beside::Command(command) => {
                let mut child = child::start(command)?;
                return child::wait(&mut child, signals).await.map(Outcome::Child);
            }
            Beside::Stack { stack, settings, prints } => {
                let manager = ServiceManager::from_env().context("reach the service manager")?;
                tokio::select! {
                    started = stack.start(settings) => started?,
                    () = self.ended(signals) => return Ok(Outcome::Done),
                }
                manager.ready();
                tokio::select! {
                    () = self.ended(signals) => {}
                    () = stack.print(*prints) => unreachable!("printing has no end"),
                }
                manager.stopping();
                stack.stop().await?;
            }
        }
        Ok(Outcome::Done)
    }

    /// Waits for a signal that ends litekeep, or for somebody who asks for the end.
    async fn ended(&self, signals: &mut Signals) {
        match &self.beside {
            Beside::Stack { stack, .. } => stack.ended_by(signals).await,
            _ => signals.end().await,
        }
    }
}

/// Why a database that is there cannot be replicated.
fn unfit(database: &Database) -> Option<Failure> {
    // A missing one may be restored, or be made by the application.
    if !database.path.exists() {
        return None;
    }
    // As SQLite opens it, so that it may take its locks.
    let fits = database::refuse_link(&database.path)
        .and_then(|()| database::look(&database.path, File::options().read(true).write(true)).map(drop));
    fits.err().or_else(|| {
        let made = std::fs::create_dir_all(&database.meta_dir);
        let error = made.err()?;
        let failure = Failure::io(format!("make the folder `{}`", database.meta_dir.display()), &error);
        Some(failure.hint("litekeep keeps its own state there: make the folder writable, or name another one as `meta_dir` in litekeep.toml"))
    })
}

/// Copies what is in the WAL into the database file: while its backup was held, the application's own last close did not.
pub(crate) fn checkpoint(database: &Database) {
    let path = &database.path;
    if path.metadata().is_ok_and(|metadata| metadata.len() > 0)
        && let Err(error) = Observer::open(path).and_then(|observer| observer.checkpoint_passive())
    {
        tracing::warn!(path = %path.display(), "could not checkpoint at the end: {error}");
    }
}

/// A request for metrics may still hold the replication for as long as it takes to answer.
async fn shut_down(replication: Arc<Replication>) -> Result<()> {
    alone(replication).await.shut_down().await
}

/// Waits until nobody else has it.
pub(crate) async fn alone(mut replication: Arc<Replication>) -> Replication {
    loop {
        match Arc::try_unwrap(replication) {
            Ok(replication) => return replication,
            Err(shared) => replication = shared,
        }
        tokio::task::yield_now().await;
    }
}
