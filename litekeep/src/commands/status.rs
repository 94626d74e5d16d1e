//! `litekeep status`: how far each backup is behind its database, and whether anything is wrong.
//!
//! Nothing is asked of the replicator: what it wrote beside the database, SQLite's wal-index and the store's listing tell
//! the same also when it hangs. The live side is read before the store's, so that a store that lacks what was confirmed
//! has truly lost it.

pub(crate) mod backup;
pub(super) mod live;
mod replica;
mod view;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use litekeep_env::{Clock, SystemClock};
use litekeep_replicate::local::Places;
use litekeep_supervise::survivors::{self, Left};
use serde::Serialize;
use tokio::sync::Semaphore;

use crate::args;
use crate::control::{Ask, Client, Home, not_taken};
use crate::dashboard::View;
use crate::feeds::{self, Feed, FeedStatus};
use crate::report::{self, Format, Outcome, text};
use crate::settings::{Database, Settings, Stores, database, members};
use crate::stack::StackStatus;
use crate::syncs::{self, DatabaseSync, SyncStatus};

use backup::Backup;
use live::{Live, Replicates, Watch};
use replica::Replica;

/// What replicates without processes.
const REPLICATE: &str = "litekeep replicate";
/// Listings that run at the same time.
const AT_ONCE: usize = 16;
/// One that runs says at once how it stands.
const PATIENCE_OF_STACK: Duration = Duration::from_secs(2);
/// A replicator that is behind is given its upload interval and this much more to show that it moves.
const PATIENCE: Duration = Duration::from_secs(2);
/// No look at the status takes longer than this, whatever the upload interval.
const LONGEST_WATCH: Duration = Duration::from_secs(5);

#[derive(Serialize)]
struct Status {
    ok: bool,
    at: String,
    /// What is wrong with the configuration's databases as a whole.
    red: Vec<String>,
    databases: Vec<DatabaseStatus>,
    /// Databases of the configuration that are copies here: in a cluster, where another node is the primary.
    copies: Vec<Replica>,
    /// What `litekeep up` runs; `None` where it does not run, or where one database was asked for.
    stack: Option<StackStatus>,
    /// Processes or jobs are configured, and nothing runs them.
    down: bool,
    /// `litekeep up` runs and does not answer.
    hangs: bool,
    /// What goes on although nothing cares for it.
    survivors: Vec<Survivor>,
}

/// A run that outlived `litekeep up`.
#[derive(Serialize)]
struct Survivor {
    name: String,
    pid: i32,
    started: Option<String>,
}

impl Survivor {
    fn all(settings: &Settings) -> Vec<Survivor> {
        let left = survivors::left(&Home::of(settings).runs()).into_iter();
        left.map(|Left { name, pid, begun_ms }| Survivor { name, pid, started: begun_ms.map(text::rfc3339) })
            .collect()
    }
}

#[derive(Serialize)]
struct DatabaseStatus {
    path: PathBuf,
    ok: bool,
    /// Why it is not.
    red: Vec<String>,
    #[serde(flatten)]
    live: Live,
    backups: Vec<Backup>,
    feeds: Vec<FeedStatus>,
    syncs: Vec<SyncStatus>,
    /// How many of the reasons are the backup's.
    #[serde(skip)]
    red_backup: usize,
    /// Where everything went that was confirmed last, if to none of these backups.
    #[serde(skip)]
    elsewhere: Option<String>,
}

impl DatabaseStatus {
    fn new(
        database: &Database,
        live: Live,
        mut backups: Vec<Backup>,
        (feeds, syncs): (&[Feed], &[DatabaseSync]),
        by: Replicates,
    ) -> DatabaseStatus {
        let mut red = live.red(by, &database.path);
        let furthest = backups.iter().filter_map(Backup::last).max();
        if let Some(last) = furthest.filter(|_| !live.exists && live.durable().is_none()) {
            let path = text::shell_word(&database.path.to_string_lossy());
            red.push(format!(
                "its backup goes up to transaction {last}: `litekeep restore {path}` brings it back"
            ));
        }
        // What went to another place now and then says nothing of these.
        let places = Places::read(&database.meta_dir);
        for backup in &mut backups {
            backup.has_held = places.has_held(&backup.identity);
            backup.unfenced = places.is_unfenced(&backup.identity);
        }
        let elsewhere = elsewhere(&backups, &places);
        let durable = live.durable().filter(|_| elsewhere.is_none());
        red.extend(backups.iter().flat_map(|backup| backup.red(durable, furthest, live.at_ms())));
        let red_backup = red.len();
        let feeds = feeds::statuses(feeds, &database.path, live.durable(), live.at_ms());
        red.extend(feeds.iter().filter_map(FeedStatus::problem));
        let syncs = syncs::statuses(syncs, &database.path, live.durable(), live.at_ms());
        red.extend(syncs.iter().flat_map(SyncStatus::problems));
        let path = database.path.clone();
        DatabaseStatus { path, ok: red.is_empty(), red, live, backups, feeds, syncs, red_backup, elsewhere }
    }

    /// Whether a backup that is configured now has what was confirmed; unless one of them that cannot be read may have it.
    fn is_kept(&self) -> bool {
        let durable = self.live.durable();
        let may_have = |backup: &Backup| backup.error.is_some() || backup.last() >= durable;
        self.elsewhere.is_none() && self.backups.iter().any(may_have)
    }

    fn text(&self, now_ms: i64) -> String {
        let state = if self.ok { "ok " } else { "RED" };
        let mut out = format!("{state} {}\n", self.path.display());
        for reason in &self.red {
            out.push_str(&format!("    ! {reason}\n"));
        }
        out.push_str(&self.live.text(self.is_kept(), self.elsewhere.as_deref(), now_ms));
        for backup in &self.backups {
            out.push_str(&backup.text(now_ms));
        }
        out.extend(self.feeds.iter().map(FeedStatus::text));
        out.extend(self.syncs.iter().map(SyncStatus::text));
        out
    }
}

/// Where the replicator has put what it confirmed last, if to none of these.
fn elsewhere(backups: &[Backup], places: &Places) -> Option<String> {
    let is_here = backups.iter().any(|backup| places.is_current(&backup.identity));
    (!is_here && !places.current().is_empty()).then(|| places.current().join(", "))
}

pub(super) async fn run(args: &args::Status, format: Format) -> Result<Outcome> {
    let what = args
        .target
        .as_deref()
        .map_or("tell the status".to_owned(), |target| format!("tell the status of `{target}`"));
    if let Some(state) =
        args.target.as_ref().and_then(|target| litekeep_replica::State::read(Path::new(target)))
    {
        return Ok(replica::run(state, format).await);
    }
    let clock = SystemClock;
    let status = status(args, format, &clock).await.context(what)?;
    report::result(format, &status, || {
        let now_ms = clock.unix_ms();
        let mut out: String = status.databases.iter().map(|database| database.text(now_ms)).collect();
        out.extend(status.copies.iter().map(Replica::text));
        if !status.red.is_empty() {
            out.push_str("RED the configuration\n");
            status.red.iter().for_each(|reason| out.push_str(&format!("    ! {reason}\n")));
        }
        if let Some(stack) = &status.stack {
            out.push_str(&stack.text());
        } else if status.hangs {
            out.push_str("RED processes\n    ! `litekeep up` runs and does not answer\n");
        } else if status.down {
            out.push_str(
                "RED processes\n    ! they are configured, and nothing runs them: `litekeep up` does\n",
            );
            for Survivor { name, pid, .. } in &status.survivors {
                let what = "goes on in nobody's care: `litekeep up` takes it over";
                out.push_str(&format!("    ! `{name}` (process {pid}) {what}\n"));
            }
        } else if status.databases.is_empty() && status.copies.is_empty() && status.red.is_empty() {
            out.push_str("no folder of the configuration has a database yet\n");
        }
        out
    });
    Ok(if status.ok { Outcome::Done } else { Outcome::No })
}

/// The same as the status page shows it, where nothing runs that could be asked.
///
/// # Errors
/// When there is no configuration, or it has mistakes.
pub(super) async fn view(config: &args::ConfigArgs, format: Format) -> Result<View> {
    let args = args::Status { config: config.clone(), target: None };
    let status = status(&args, format, &SystemClock).await.context("tell the status")?;
    Ok(status.into_view(SystemClock.unix_ms()))
}

async fn status(args: &args::Status, format: Format, clock: &dyn Clock) -> Result<Status> {
    let (databases, red, followers, by, stack, down, hangs, survivors) = match &args.target {
        Some(target) => {
            let path = Path::new(target);
            let (databases, followers, by) = match Settings::find(&args.config, format)? {
                Some(settings) => {
                    let asked = tokio::time::timeout(PATIENCE_OF_STACK, stack(&settings)).await;
                    let is_up = asked.is_ok_and(|stack| stack.is_ok_and(|stack| stack.is_some()));
                    let databases = vec![Database::named(&settings, path)?];
                    (databases, followers(&settings)?, replicates(&settings, is_up))
                }
                None => {
                    let databases = database::databases(Some(path), &args.config, format)?;
                    (databases, (vec![], vec![]), Replicates::Command(REPLICATE))
                }
            };
            (databases, vec![], followers, by, None, false, false, vec![])
        }
        None => {
            // Also where only a litestream.yml is there.
            let loaded =
                Settings::load_stack(&args.config, format).or_else(|_| Settings::load(&args.config, format));
            let settings = match loaded {
                Ok(settings) => settings,
                Err(error) => running(error, &args.config, format).await?,
            };
            let (stack, hangs) = match tokio::time::timeout(PATIENCE_OF_STACK, stack(&settings)).await {
                Ok(stack) => (stack?, false),
                Err(_) => (None, true),
            };
            let is_down = stack.is_none() && !hangs && has_processes(&settings);
            let by = replicates(&settings, stack.is_some());
            let survivors = if is_down { Survivor::all(&settings) } else { vec![] };
            let (databases, red) = all(&settings).await?;
            (databases, red, followers(&settings)?, by, stack, is_down, hangs, survivors)
        }
    };
    let (copied, databases): (Vec<_>, Vec<_>) =
        databases.into_iter().partition(|database| litekeep_replica::is_replica(&database.path));
    let copied = copied.iter().filter_map(|database| litekeep_replica::State::read(&database.path));
    let copies = futures::future::join_all(copied.map(|state| replica::of(state, Some("litekeep up")))).await;
    let databases = statuses(&databases, (&followers.0, &followers.1), by, clock).await?;
    let is_red = !red.is_empty() || down || hangs || stack.as_ref().is_some_and(StackStatus::is_red);
    Ok(Status {
        ok: !is_red && databases.iter().all(|database| database.ok) && copies.iter().all(Replica::is_ok),
        at: text::rfc3339(clock.unix_ms()),
        red,
        databases,
        copies,
        stack,
        down,
        hangs,
        survivors,
    })
}

/// The databases of the configuration, and what is wrong with them as a whole. Those of a folder that only their logs tell of
/// are looked for where they would be restored, and where nothing else is known of the folder.
async fn all(settings: &Settings) -> Result<(Vec<Database>, Vec<String>)> {
    let (mut databases, mut red) = (database::all(settings)?, Vec::new());
    if !has_processes(settings)
        && let Err(error) = settings.require_database()
    {
        red.push(format!("{error}, so nothing is backed up"));
    }
    let stores = Stores::default();
    for config in settings.config.databases.iter().filter(|config| config.source.is_folder()) {
        let has_any = databases.iter().any(|database| database.config.source == config.source);
        if has_any && !config.restore_if_missing {
            continue;
        }
        match members::lost(config, &databases, &stores).await {
            Ok(lost) => databases.extend(lost),
            // Otherwise those that are known say so of their own backups.
            Err(error) if !has_any => red.push(format!("{}: {error:#}", config.source)),
            Err(_) => {}
        }
    }
    Ok((databases, red))
}

fn has_processes(settings: &Settings) -> bool {
    !settings.config.processes.is_empty() || !settings.config.jobs.is_empty()
}

fn replicates(settings: &Settings, is_up: bool) -> Replicates {
    match (is_up, has_processes(settings)) {
        (true, _) => Replicates::Up,
        (false, true) => Replicates::Command("litekeep up"),
        (false, false) => Replicates::Command(REPLICATE),
    }
}

/// What follows the backups.
fn followers(settings: &Settings) -> Result<(Vec<Feed>, Vec<DatabaseSync>)> {
    Ok((Feed::all(settings)?, DatabaseSync::all(settings)?))
}

async fn statuses(
    databases: &[Database],
    followers: (&[Feed], &[DatabaseSync]),
    by: Replicates,
    clock: &dyn Clock,
) -> Result<Vec<DatabaseStatus>> {
    let live = watch(databases, clock).await;
    let backups = backups(databases, clock.unix_ms()).await?;
    let each = databases.iter().zip(live).zip(backups);
    let status = |((database, live), backups)| DatabaseStatus::new(database, live, backups, followers, by);
    Ok(each.map(status).collect())
}

/// Everything that is wrong with the backups of these databases.
///
/// # Errors
/// For a destination that cannot be opened.
pub(super) async fn red(databases: &[Database], clock: &dyn Clock) -> Result<Vec<String>> {
    let statuses = statuses(databases, (&[], &[]), Replicates::Command(REPLICATE), clock).await?;
    Ok(statuses.into_iter().flat_map(|database| database.red).collect())
}

/// The configuration that a running `litekeep up` has taken, where the file that is there now has a mistake.
///
/// # Errors
/// The mistake, when none runs.
async fn running(mistake: anyhow::Error, args: &args::ConfigArgs, format: Format) -> Result<Settings> {
    let Some(place) = Settings::place_of_stack(args) else { return Err(mistake) };
    let home = Home::beside(&place);
    if Client::ask(&home, &Ask::Status).await.is_ok_and(|client| client.is_none()) {
        return Err(mistake);
    }
    let Ok(settings) = Settings::taken(place, &home.accepted(), args) else { return Err(mistake) };
    report::warning(&not_taken(&mistake), format);
    Ok(settings)
}

/// What a running `litekeep up` says; `None` when none runs.
async fn stack(settings: &Settings) -> Result<Option<StackStatus>> {
    let Some(mut client) = Client::ask(&Home::of(settings), &Ask::Status).await? else { return Ok(None) };
    let told = client.next().await?;
    Ok(told.map(serde_json::from_value).transpose()?)
}

/// Looks at all databases, and again at those that are behind until they moved or their time is over.
async fn watch(databases: &[Database], clock: &dyn Clock) -> Vec<Live> {
    let mut watches: Vec<_> = databases.iter().map(|database| Watch::begin(database, clock)).collect();
    let begin = clock.boottime();
    loop {
        let passed = clock.boottime() - begin;
        let waiting =
            |database: &Database| passed < (database.upload_interval() + PATIENCE).min(LONGEST_WATCH);
        let mut again = false;
        for (database, watch) in databases.iter().zip(&mut watches) {
            if watch.is_behind() && waiting(database) {
                watch.look(database, clock);
                again |= watch.is_behind();
            }
        }
        if !again {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    watches
        .into_iter()
        .zip(databases)
        .map(|(watch, database)| watch.end(database.upload_interval()))
        .collect()
}

/// The backups of each database.
async fn backups(databases: &[Database], now_ms: i64) -> Result<Vec<Vec<Backup>>> {
    let stores = Stores::default();
    let permits = Arc::new(Semaphore::new(AT_ONCE));
    let mut tasks = Vec::new();
    for database in databases {
        let mut own = Vec::new();
        for destination in &database.destinations {
            let (url, store) = (destination.url.clone(), stores.open(destination)?);
            let permits = permits.clone();
            own.push(tokio::spawn(async move {
                let _permit = permits.acquire_owned().await;
                Backup::read(url, &store, now_ms).await
            }));
        }
        tasks.push(own);
    }
    let mut backups = Vec::new();
    for own in tasks {
        let mut read = Vec::new();
        for task in own {
            read.push(task.await.context("list a backup")?);
        }
        backups.push(read);
    }
    Ok(backups)
}
