//! Databases of the configuration under replication, for `replicate` and `run`.
//!
//! Promises: a database file that is missing while its backup has something is restored first where that was asked for,
//! and is never replaced by an empty one; the end waits for the confirmation of the last commits and says what is not
//! safe.

mod left_out;

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures::future::{join_all, try_join_all};
use futures::stream::{self, StreamExt as _};
use litekeep_config::{DatabaseConfig, Source};
use litekeep_env::{Clock, SystemClock};
use litekeep_ltx::Txid;
use litekeep_replicate::local::{MetaDir, Places, StateFile};
use litekeep_replicate::replicator::{
    Choose, Gate, Phase, Replicator, Settings, Status, Stranded, Tail, put_stranded,
};
use litekeep_replicate::restore::{self, Goal, v03};
use litekeep_store::Store;
use litekeep_store::plan::Policy;
use tokio::sync::Semaphore;

use crate::report::{Failure, Kind, Report, text};
use crate::settings::{Database, Stores, database, members};
use crate::streams::Audience;
use crate::verification::{Verifications, canonical};
use left_out::LeftOut;

/// Between two looks at the replicator's status while something is waited for.
const PAUSE: Duration = Duration::from_millis(5);
/// Beyond twice the upload interval, how long a log that another wrote is watched before it is taken over.
const NEWCOMER_WATCH: Duration = Duration::from_secs(3);
/// A log is never watched longer than this.
const LONGEST_WATCH: Duration = Duration::from_secs(30);
/// A store that restarts is back before.
const ABSENCE_PATIENCE: Duration = Duration::from_secs(30);
/// Databases that are looked at before they are used, at the same time: a folder that hangs keeps each for a minute.
const PREPARING: usize = 32;
/// Of these, such as are restored at the same time: each needs memory of its own.
const RESTORING: usize = 2;
/// After this a database that could not be taken up is looked at again, which costs its stores a listing.
const AGAIN: Duration = Duration::from_secs(15);
/// "For ever", for a plan that calculates with it.
const FOR_EVER: Duration = Duration::from_secs(1000 * 365 * 86_400);

/// What the command line says about all databases.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Choices {
    /// Restore a missing file also where the configuration does not say so.
    pub(crate) restore_missing: bool,
    /// Bring a database that has lost transactions to the end of its backup; nobody uses it yet.
    pub(crate) roll_forward: bool,
    pub(crate) new_timeline: bool,
    /// One that cannot be taken up does not keep the others from it: nobody waits for all of them.
    pub(crate) each_by_itself: bool,
}

impl Choices {
    /// An application begins when all of its databases are fit.
    pub(crate) fn of_all(new_timeline: bool) -> Choices {
        Choices { restore_missing: true, roll_forward: true, new_timeline, each_by_itself: false }
    }

    /// Somebody begins only when all of them are fit.
    fn is_waited_for(self) -> bool {
        !self.each_by_itself
    }
}

/// The replication of now, if there is one: in a cluster it comes and goes.
#[derive(Clone, Default)]
pub(crate) struct Current(Arc<Mutex<Weak<Replication>>>);

impl Current {
    pub(crate) fn of(replication: &Arc<Replication>) -> Current {
        let current = Current::default();
        current.set(replication);
        current
    }

    pub(crate) fn set(&self, replication: &Arc<Replication>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(replication);
    }

    pub(crate) fn upgrade(&self) -> Option<Arc<Replication>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).upgrade()
    }
}

/// Databases that are being replicated.
pub(crate) struct Replication {
    replicator: Replicator,
    stores: Arc<Stores>,
    choices: Choices,
    gate: Gate,
    left_out: LeftOut,
    shutdown_timeout: Duration,
    verifications: Verifications,
    audience: Arc<Audience>,
}

impl Replication {
    /// Restores what is missing and begins to replicate.
    ///
    /// # Errors
    /// When a database must not be touched: it is empty and its backup is not, or cannot be restored. Where each is taken up by
    /// itself, only when none can be.
    pub(crate) async fn start(databases: &[Database], choices: Choices) -> Result<Replication> {
        Replication::start_behind(Gate::default(), databases, choices).await
    }

    /// The same, and puts transactions only while a gate is open.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub(crate) async fn start_behind(
        gate: Gate,
        databases: &[Database],
        choices: Choices,
    ) -> Result<Replication> {
        litekeep_sql::check_build()?;
        let timeouts = databases.iter().map(|database| database.config.shutdown_timeout);
        let replication = Replication {
            replicator: Replicator::start()?,
            stores: Arc::default(),
            choices,
            gate,
            left_out: LeftOut::default(),
            verifications: Verifications::default(),
            audience: Arc::default(),
            shutdown_timeout: timeouts.max().unwrap_or(Duration::from_secs(30)),
        };
        let restoring = Semaphore::new(RESTORING);
        let mut failures = Vec::new();
        {
            // In the order of the configuration.
            let prepared = databases.iter().map(|database| {
                let prepared = replication.prepare(database, &restoring);
                async move { (database, prepared.await) }
            });
            let mut prepared = pin!(stream::iter(prepared).buffered(PREPARING));
            while let Some((database, settings)) = prepared.next().await {
                // Two of the same path are a mistake of the configuration.
                let is_twice = replication.replicator.has(&canonical(&database.path));
                match settings.and_then(|settings| replication.add(settings)) {
                    Err(error) if choices.each_by_itself && !is_twice => failures.push((database, error)),
                    added => added?,
                }
            }
        }
        if failures.len() < databases.len() {
            failures.iter().for_each(|(database, error)| replication.left_out.add(database, error));
            return Ok(replication);
        }
        failures.into_iter().next().map_or(Ok(replication), |(_, error)| Err(error))
    }

    fn add(&self, settings: Settings) -> Result<()> {
        let name = settings.path.display().to_string();
        self.replicator.add(settings).with_context(|| format!("replicate `{name}`"))
    }

    /// The databases that could not be taken up, as the replicator spells them.
    pub(crate) fn left_out(&self) -> Vec<PathBuf> {
        self.left_out.paths()
    }

    /// Tries those again that could not be taken up, until one of them is: this one. It returns for nothing else.
    pub(crate) async fn taken_up(&self) -> PathBuf {
        let restoring = Semaphore::new(RESTORING);
        loop {
            if self.left_out.databases().is_empty() {
                std::future::pending().await
            }
            tokio::time::sleep(AGAIN).await;
            for database in self.left_out.databases() {
                let path = canonical(&database.path);
                self.left_out.let_go(&database);
                // In a watched folder somebody else may have been first.
                let taken = match self.replicator.has(&path) {
                    true => Ok(()),
                    false => {
                        self.prepare(&database, &restoring).await.and_then(|settings| self.add(settings))
                    }
                };
                match taken {
                    Ok(()) => {
                        self.left_out.take(&database);
                        tracing::info!(path = %path.display(), "replicated after all");
                        return path;
                    }
                    Err(error) => self.left_out.add(&database, &error),
                }
            }
        }
    }

    /// Makes a database fit to be used, or says why it is not.
    async fn prepare(&self, database: &Database, restoring: &Semaphore) -> Result<Settings> {
        if let Some(rival) = rival(database) {
            return Err(rival.into());
        }
        let name = database.path.display();
        let opened: Result<Vec<Store>> = database.destinations.iter().map(|d| self.stores.open(d)).collect();
        let stores = opened?;
        if database.config.restore_if_missing || self.choices.restore_missing {
            if !self.choices.new_timeline {
                refuse_vanished(database, &stores)
                    .await
                    .with_context(|| format!("bring back `{name}`, which is missing or empty"))?;
            }
            restore_missing(database, &stores, restoring)
                .await
                .with_context(|| format!("restore `{name}` before it is used"))?;
        }
        if self.choices.roll_forward && !self.choices.new_timeline {
            roll_forward(database, &stores, restoring)
                .await
                .with_context(|| format!("look at `{name}` before it is used"))?;
        }
        if !self.choices.new_timeline {
            refuse_empty(database, &stores, self.choices).await?;
        }
        let gate = self.gate.clone();
        Ok(Settings { gate, ..settings(database, stores, self.choices.new_timeline) })
    }

    pub(crate) fn statuses(&self) -> Vec<Status> {
        let mut statuses = self.replicator.statuses();
        let left_out = self.left_out.statuses().into_iter();
        statuses.extend(left_out.filter(|status| !self.replicator.has(&status.path)));
        statuses
    }

    /// The last transaction of a database that a destination has confirmed. `path` is spelled as the replicator does.
    pub(crate) fn durable(&self, path: &Path) -> Option<Txid> {
        self.replicator.status_of(path)?.durable
    }

    /// The transaction that has, or will have, what is committed now; `None`: nobody can tell yet.
    pub(crate) async fn position(&self, path: &Path) -> Option<Txid> {
        self.replicator.position(path).await
    }

    /// The end of a database's log, for whoever reads this backup. `path` is spelled as the replicator does.
    pub(crate) fn tail_of(&self, path: &Path, backup: &str) -> Option<Tail> {
        self.replicator.tail_of(path, backup)
    }

    /// Who streams from here.
    pub(crate) fn audience(&self) -> &Arc<Audience> {
        &self.audience
    }

    /// What verifications on schedule have found.
    pub(crate) fn verifications(&self) -> &Verifications {
        &self.verifications
    }

    /// The clients, whose requests are counted.
    pub(crate) fn stores(&self) -> &Stores {
        &self.stores
    }

    /// Waits until each database is found fit, or is not there yet, or its store does not answer, which does not keep an
    /// application from starting. The first copy goes on beside the application.
    ///
    /// # Errors
    /// When a person must decide first.
    pub(crate) async fn settled(&self) -> Result<()> {
        self.until(|status| status.phase == Phase::Starting || is_unseen(status)).await
    }

    /// The same, and waits for the first copies, however long they take.
    ///
    /// # Errors
    /// As [`settled`](Self::settled).
    pub(crate) async fn copied(&self) -> Result<()> {
        self.until(|status| matches!(status.phase, Phase::Starting | Phase::Snapshot) || is_unseen(status))
            .await
    }

    async fn until(&self, waiting: impl Fn(&Status) -> bool) -> Result<()> {
        loop {
            let statuses = self.statuses();
            if let Some(status) = statuses.iter().find(|s| matches!(s.phase, Phase::Refused | Phase::Fenced))
            {
                return Err(failure(status).into());
            }
            if !statuses.iter().any(&waiting) {
                return Ok(());
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Takes up databases that appear in watched folders, from now on.
    ///
    /// # Errors
    /// When a folder cannot be watched.
    pub(crate) fn follow_folders(&self, configs: &[DatabaseConfig]) -> Result<()> {
        for config in configs {
            if let Source::Folder { dir, recursive, watch: true, .. } = &config.source {
                let doing = || format!("watch `{}` for databases", dir.display());
                // As the replicator spells it.
                let canonical = dir.canonicalize().map_err(|error| Failure::io(doing(), &error))?;
                let choose = self.choose(config.clone(), canonical);
                self.replicator.add_folder(dir, *recursive, choose).with_context(doing)?;
            }
        }
        Ok(())
    }

    /// How a file that appears in a folder is replicated.
    fn choose(&self, config: DatabaseConfig, dir: PathBuf) -> Choose {
        let (stores, new_timeline) = (self.stores.clone(), self.choices.new_timeline);
        let choose = move |path: &Path| -> Result<Option<Settings>> {
            let Some(database) = database::appeared(&config, &dir, path)? else { return Ok(None) };
            let opened: Result<Vec<Store>> = database.destinations.iter().map(|d| stores.open(d)).collect();
            Ok(Some(settings(&database, opened?, new_timeline)))
        };
        Box::new(move |path| match choose(path) {
            Ok(chosen) => {
                if chosen.is_some() {
                    tracing::info!(path = %path.display(), "new database");
                }
                chosen
            }
            Err(error) => {
                tracing::error!(path = %path.display(), "could not take up a new database: {error:#}");
                None
            }
        })
    }

    /// Ships what there is, waits for the confirmation, and lets go of the databases.
    ///
    /// # Errors
    /// When a destination did not confirm within the shutdown timeout; names what is not safe.
    pub(crate) async fn shut_down(self) -> Result<()> {
        let (clock, timeout) = (SystemClock, self.shutdown_timeout);
        let begin = clock.boottime();
        let left = self.until_seen().await;
        let left_out = self.left_out.statuses().into_iter();
        let left_out: Vec<Status> = left_out.filter(|status| !self.replicator.has(&status.path)).collect();
        let unconfirmed = [self.replicator.shut_down(left).await, left_out].concat();
        if unconfirmed.is_empty() {
            return Ok(());
        }
        // What is refused is not waited for.
        let waited = (clock.boottime() - begin >= timeout).then_some(timeout);
        Err(not_confirmed(&unconfirmed, waited))
    }

    /// Ships what is there now, and waits for its confirmation within a time.
    ///
    /// # Errors
    /// When a destination has not confirmed it; names what is not safe.
    pub(crate) async fn confirm(&self, within: Duration) -> Result<()> {
        let unconfirmed = self.replicator.sync(within).await;
        if unconfirmed.is_empty() { Ok(()) } else { Err(not_confirmed(&unconfirmed, Some(within))) }
    }

    /// Lets go of the databases without waiting for anything.
    pub(crate) async fn leave(self) {
        self.replicator.shut_down(Duration::ZERO).await;
    }

    /// Waits until no database is left that the replicator takes for absent because it has not looked yet. Returns what
    /// is left of the shutdown timeout.
    async fn until_seen(&self) -> Duration {
        let clock = SystemClock;
        let deadline = clock.boottime() + self.shutdown_timeout;
        loop {
            let left = deadline.saturating_sub(clock.boottime());
            if left.is_zero() || !self.statuses().iter().any(is_unseen) {
                return left;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// There is a database that the replicator has not looked at yet.
fn is_unseen(status: &Status) -> bool {
    matches!(status.phase, Phase::Waiting | Phase::Gone)
        && status.path.metadata().is_ok_and(|metadata| metadata.len() > 0)
}

/// Databases of folders that nothing but their logs tells of, where such are to be restored.
///
/// # Errors
/// When these cannot be listed and nothing of a folder is known, so that all of it may be lost.
pub(crate) async fn lost(
    folders: &[DatabaseConfig],
    known: &[Database],
    choices: Choices,
) -> Result<Vec<Database>> {
    let is_restored = |config: &&DatabaseConfig| choices.restore_missing || config.restore_if_missing;
    let (stores, mut all) = (Stores::default(), Vec::new());
    for config in folders.iter().filter(|config| config.source.is_folder()).filter(is_restored) {
        let doing = || format!("look for databases of `{}` in their backup", config.source);
        match members::lost(config, known, &stores).await.with_context(doing) {
            Ok(lost) => all.extend(lost),
            Err(error) => {
                let has_any = known.iter().any(|database| database.config.source == config.source);
                if choices.is_waited_for() && !has_any {
                    return Err(error);
                }
                // An application must start although its store does not answer.
                tracing::warn!(
                    "could not {error:#}; one whose file is gone, and litekeep's state of it, is not restored"
                );
            }
        }
    }
    Ok(all)
}

fn settings(database: &Database, stores: Vec<Store>, new_timeline: bool) -> Settings {
    let config = &database.config;
    let upload_interval = database.upload_interval();
    Settings {
        path: database.path.clone(),
        meta_dir: database.meta_dir.clone(),
        stores,
        upload_interval,
        policy: Policy {
            any_transaction: config.any_transaction,
            any_second: config.any_second,
            keep: config.keep.unwrap_or(FOR_EVER),
            snapshot_every: config.snapshot_every,
        },
        wal_limit: config.wal_limit,
        spool_limit: config.spool_limit,
        new_timeline,
        newcomer_watch: (2 * upload_interval + NEWCOMER_WATCH).min(LONGEST_WATCH),
        absence_patience: ABSENCE_PATIENCE,
        gate: Gate::default(),
    }
}

/// Another litekeep that replicates a database, which nobody here has open.
pub(crate) fn rival(database: &Database) -> Option<Failure> {
    let pid = MetaDir::claimed_by(&database.meta_dir, &database.path)?;
    let message =
        format!("another litekeep (process {pid}) already replicates `{}`", database.path.display());
    Some(Failure::invalid(message).hint("stop that process first; `litekeep status` shows what it does"))
}

/// Restores a file that does not exist, from the backup that is furthest. Empty backups are those of a new database.
async fn restore_missing(database: &Database, stores: &[Store], restoring: &Semaphore) -> Result<()> {
    if database.path.symlink_metadata().is_ok() {
        return Ok(());
    }
    if let Some(Stranded { first, last }) = put_stranded(stores, &database.path, &database.meta_dir).await? {
        tracing::warn!(
            path = %database.path.display(),
            "transactions {first} to {last}, which waited on this machine, are in the backup now"
        );
    }
    // A store that does not answer may be the one with the newest state.
    let furthest = furthest(stores).await.map_err(|error| with_other_ways(error, database))?;
    let _turn = restoring.acquire().await;
    let options = restore::Options { if_not_exists: true, ..restore::Options::default() };
    if furthest.is_empty() {
        return restore_former(database, stores, &options).await;
    }
    let mut stores = furthest.into_iter().peekable();
    while let Some(store) = stores.next() {
        let path = &database.path;
        match restore::to_path(store, Goal::Latest, path, &options, &()).await {
            Ok(Some(restored)) => tracing::info!(
                path = %path.display(), txid = %restored.txid, time = text::rfc3339(restored.time_ms),
                "the database did not exist and was restored from {}", store.place()
            ),
            Ok(None) => {}
            Err(error) if error.kind() == litekeep_replicate::Kind::Corrupt && stores.peek().is_some() => {
                let place = store.place();
                tracing::warn!(path = %path.display(), "{place} is of no use: {error}; going on with another backup that has as much");
                continue;
            }
            Err(error) => return Err(with_other_ways(error.into(), database)),
        }
        break;
    }
    Ok(())
}

/// The same from a backup of Litestream 0.3, where one is in the place of an empty log.
async fn restore_former(database: &Database, stores: &[Store], options: &restore::Options) -> Result<()> {
    let found = try_join_all(stores.iter().map(|store| v03::find(store, Goal::Latest))).await?;
    let newest = stores.iter().zip(found).filter_map(|(store, backup)| Some((store, backup?)));
    let Some((store, backup)) = newest.max_by_key(|(_, backup)| backup.time_ms) else { return Ok(()) };
    let path = &database.path;
    if let Some(restored) = v03::to_path(store, backup, path, options, &()).await? {
        tracing::info!(
            path = %path.display(), time = text::rfc3339(restored.backup.time_ms),
            "the database did not exist and was restored from {}, a backup of Litestream 0.3", store.place()
        );
    }
    Ok(())
}

/// What else there is to do when a missing database cannot come back by itself.
fn with_other_ways(error: anyhow::Error, database: &Database) -> anyhow::Error {
    let report = Report::of(&error);
    let path = text::shell_word(&database.path.display().to_string());
    let ways: Vec<String> = (database.destinations.iter())
        .map(|destination| {
            format!("`litekeep restore -o {path} {}`", text::shell_word(&destination.url.to_string()))
        })
        .collect();
    if ways.len() < 2 {
        return error;
    }
    let own = report.hint.map_or(String::new(), |hint| format!("{hint}; "));
    let hint = format!("{own}each of its backups can be restored by itself: {}", ways.join(" or "));
    Failure::new(report.kind, format!("{error:#}")).hint(hint).into()
}

/// The backups that have most; all of them have as much.
async fn furthest(stores: &[Store]) -> Result<Vec<&Store>> {
    let lasts = try_join_all(stores.iter().map(async |store| anyhow::Ok(store.list().await?.last()))).await?;
    let most = lasts.iter().flatten().max();
    let with_most = stores.iter().zip(&lasts).filter(|(_, last)| most.is_some() && last.as_ref() == most);
    Ok(with_most.map(|(store, _)| store).collect())
}

/// A database that has lost what its backup has goes on from the backup.
async fn roll_forward(database: &Database, stores: &[Store], restoring: &Semaphore) -> Result<()> {
    if !database.path.metadata().is_ok_and(|metadata| metadata.len() > 0) {
        return Ok(());
    }
    let path = &database.path;
    let found = async {
        let Some(store) = furthest(stores).await?.into_iter().next() else { return Ok(None) };
        let outrun = restore::outrun(store, path, &database.meta_dir, &SystemClock).await?;
        let set_back = match outrun {
            None => restore::set_back(store, path, &database.meta_dir).await?,
            Some(_) => None,
        };
        anyhow::Ok(Some((store, outrun, set_back)))
    };
    let (store, outrun) = match found.await {
        Ok(Some((store, _, Some(set_back)))) => return Err(set_back.refusal(path, store).into()),
        Ok(Some((store, Some(outrun), None))) => (store, outrun),
        Ok(_) => return Ok(()),
        // An application must start although its store does not answer; but not on what is plainly another file.
        Err(error) => {
            restore::refuse_stranger(path, &database.meta_dir)?;
            let path = path.display();
            tracing::warn!(%path, "could not find out whether the backup has more than the database: {error:#}");
            return Ok(());
        }
    };
    let _turn = restoring.acquire().await;
    let restored = restore::roll_forward(store, path, &outrun, &restore::Options::default(), &()).await?;
    tracing::warn!(
        path = %path.display(), txid = %restored.txid, time = text::rfc3339(restored.time_ms),
        "the database had lost transactions that {} has, and was rolled forward; the former file is kept as `{}`",
        store.place(), restored.kept_aside.unwrap_or_default().display()
    );
    Ok(())
}

/// A database that is not there, and nothing left of the backup that it had: where neither disk is mounted, nobody begins
/// anew.
async fn refuse_vanished(database: &Database, stores: &[Store]) -> Result<()> {
    if database.path.metadata().is_ok_and(|metadata| metadata.len() > 0) {
        return Ok(());
    }
    let places = Places::read(&database.meta_dir);
    if !stores.iter().any(|store| places.has_held(&store.identity())) {
        return Ok(());
    }
    let known = StateFile::peek(&database.meta_dir.join("state")).map(|state| state.txid);
    // What does not answer is asked again by whoever needs it.
    let logs = join_all(stores.iter().map(async |store| store.list().await.ok())).await;
    if logs.iter().flatten().any(|log| !log.is_empty() && log.last() >= known) {
        return Ok(());
    }
    let listed = stores.iter().zip(&logs).filter_map(|(store, log)| Some((store, log.as_ref()?)));
    let mut vanished = listed.filter(|(store, log)| log.is_empty() && places.has_held(&store.identity()));
    vanished.next().map_or(Ok(()), |(store, _)| Err(store.vanished().into()))
}

/// An empty file over a backup that is not: a volume that was not mounted, or a path that was mistyped.
async fn refuse_empty(database: &Database, stores: &[Store], choices: Choices) -> Result<()> {
    if !database.path.metadata().is_ok_and(|metadata| metadata.len() == 0) {
        return Ok(());
    }
    let name = database.path.display();
    let lasts = join_all(stores.iter().map(async |store| anyhow::Ok(store.list().await?.last()))).await;
    let mut unknown = None;
    for (store, last) in stores.iter().zip(lasts) {
        match last {
            Ok(None) => {}
            Ok(Some(last)) => {
                let failure = Failure::invalid(format!(
                    "`{name}` is empty, but its backup {} goes up to transaction {last}",
                    store.place()
                ));
                return Err(failure
                    .hint(format!(
                        "remove the empty file and run `litekeep restore {name}`; to begin anew add --new-timeline"
                    ))
                    .into());
            }
            Err(error) => _ = unknown.get_or_insert(error),
        }
    }
    match unknown {
        // An application would fill it, and go on without all that it ever had.
        Some(error) if choices.is_waited_for() => {
            let kind = Report::of(&error).kind;
            let message = format!("find out whether `{name}`, which is empty, has a backup: {error:#}");
            let hint =
                "start again when the store answers; to begin anew whatever it has, add --new-timeline";
            Err(Failure::new(kind, message).hint(hint).into())
        }
        // The replicator asks again, and refuses then.
        _ => Ok(()),
    }
}

fn failure(status: &Status) -> Failure {
    let kind = if status.phase == Phase::Fenced { Kind::Fenced } else { Kind::Invalid };
    let message = status.message.clone().unwrap_or_else(|| status.phase.name().to_owned());
    let failure = Failure::new(kind, message);
    match &status.hint {
        Some(hint) => failure.hint(hint.clone()),
        None => failure,
    }
}

/// `waited`: how long the confirmation was waited for, where it was.
fn not_confirmed(unsafe_ones: &[Status], waited: Option<Duration>) -> anyhow::Error {
    let each: Vec<String> = unsafe_ones.iter().map(unconfirmed).collect();
    // What only a person can change comes first.
    let is = |phase| unsafe_ones.iter().any(|status| status.phase == phase);
    let kind = match () {
        () if is(Phase::Fenced) => Kind::Fenced,
        () if is(Phase::Refused) => Kind::Invalid,
        () => Kind::Unavailable,
    };
    let mut hints: Vec<String> = Vec::new();
    for hint in unsafe_ones.iter().map(to_be_safe) {
        if !hints.contains(&hint) {
            hints.push(hint);
        }
    }
    let within =
        waited.map_or(String::new(), |time| format!(" within {}", litekeep_config::format_duration(time)));
    let failure = Failure::new(kind, format!("not confirmed{within}:\n{}", each.join("\n")));
    failure.hint(hints.join("; ")).into()
}

/// What makes the rest of a database safe.
fn to_be_safe(status: &Status) -> String {
    match (status.phase, &status.hint) {
        (Phase::Fenced, _) => {
            let fenced =
                status.destinations.iter().find(|d| d.error.is_some()).or(status.destinations.first());
            let place = fenced.map_or("the backup", |d| &d.place);
            let name = status.path.display();
            format!(
                "another replicator writes to {place}: stop it, or give `{name}` a destination of its own; then start \
                 litekeep again"
            )
        }
        (Phase::Refused, Some(hint)) => hint.clone(),
        (Phase::Refused, None) => format!(
            "nothing of `{}` is copied until what the message names is changed: then start litekeep again",
            status.path.display()
        ),
        _ => "nothing is lost while the database file is: start litekeep again on this machine".to_owned(),
    }
}

/// What of a database is not safe.
fn unconfirmed(status: &Status) -> String {
    let safe = match status.durable {
        Some(txid) => format!("safe up to transaction {txid}"),
        None if status.phase == Phase::Gone => "not all of it is in the backup".to_owned(),
        // Of one that was left out nobody knows more.
        None if status.destinations.is_empty() || status.destinations.iter().any(|d| !d.is_listed) => {
            "it is not known what of it is in the backup".to_owned()
        }
        None => "nothing of it is in the backup".to_owned(),
    };
    let errors =
        status.destinations.iter().filter_map(|d| Some(format!("{}: {}", d.place, d.error.as_ref()?)));
    let why: Vec<String> = status.message.clone().into_iter().chain(errors).collect();
    let why = if why.is_empty() { String::new() } else { format!(" ({})", why.join("; ")) };
    format!("`{}`: {safe}{why}", status.path.display())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Report;

    fn status(phase: Phase, hint: Option<&str>) -> Status {
        Status { path: "app.db".into(), phase, hint: hint.map(str::to_owned), ..Status::default() }
    }

    #[test]
    fn a_refusal_keeps_its_own_hint_and_each_hint_is_said_once() {
        let down = || status(Phase::Failing, None);
        let refused = status(Phase::Refused, Some("stop that process first"));
        let report = Report::of(&not_confirmed(&[down(), refused, down()], None));
        assert_eq!(report.kind, Kind::Invalid);
        let hint = report.hint.unwrap();
        assert!(hint.ends_with("; stop that process first"), "{hint}");
        assert_eq!(hint.matches("start litekeep again on this machine").count(), 1, "{hint}");
    }
}
