//! Keeping logs up to date while applications write.
//!
//! One inotify descriptor wakes databases; a woken database is a task that captures, ships and goes away again. An idle
//! database has no task, no timer and no SQLite connection, and costs the store no request.
//!
//! Invariants:
//! - Level-0 files are put in order, one at a time for each destination, under names that must be free.
//! - Local state never runs ahead of the log: position and page checksums move when a destination has confirmed.
//! - What cannot be shipped is kept: in memory, then in the spool, and beyond its limit in the database itself, to be
//!   found again by page checksums.
//! - When anything fails the application goes on; the status says what is wrong.

mod absence;
mod arrival;
mod copying;
mod database;
mod destination;
mod gate;
mod kinship;
mod left_behind;
mod look;
mod maintain;
mod packing;
mod places;
mod recent;
mod set_back;
mod shipping;
mod start;
mod status;
mod stranded;

pub use database::PACKS;
pub use gate::Gate;
pub use recent::{Following, Reached, Tail};
pub use status::{DestinationStatus, Phase, Status};
pub use stranded::{Stranded, put_stranded, stranded};

use crate::{Error, Kind};
use database::Database;
use litekeep_env::file::sibling;
use litekeep_env::watch::{Event, Watcher};
use litekeep_env::{Clock, SystemClock};
use litekeep_ltx::Txid;
use litekeep_store::Store;
use litekeep_store::plan::Policy;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

/// How one database is replicated.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The database file; it need not exist yet.
    pub path: PathBuf,
    /// Where litekeep keeps its own state of it.
    pub meta_dir: PathBuf,
    /// Where its log goes.
    pub stores: Vec<Store>,
    /// At most one upload in this time; the first after a pause is at once.
    pub upload_interval: Duration,
    /// What the log keeps how long.
    pub policy: Policy,
    /// The WAL is reset before it grows beyond this many bytes.
    pub wal_limit: u64,
    /// Bytes that may wait on the local disk during an outage.
    pub spool_limit: u64,
    /// Go on where the log ends although the database shares no history with it.
    pub new_timeline: bool,
    /// How long the log is watched for another writer before a newcomer takes it over.
    pub newcomer_watch: Duration,
    /// How long a destination may show nothing while another one lacks what it has, before that goes on with a snapshot.
    pub absence_patience: Duration,
    /// Whether transactions may be put.
    pub gate: Gate,
}

/// Shared by all databases of a process.
pub(crate) struct Shared {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) runtime: tokio::runtime::Handle,
    pub(crate) stopping: AtomicBool,
    /// Databases that start at the same time.
    pub(crate) starting: Semaphore,
    /// Threads that look at databases at the same time. Each keeps its buffers while it lives, so there are few.
    pub(crate) working: Semaphore,
    pub(crate) watcher: Watcher,
}

impl Shared {
    fn new(clock: Arc<dyn Clock>, watcher: Watcher) -> Shared {
        Shared {
            clock,
            runtime: tokio::runtime::Handle::current(),
            stopping: AtomicBool::new(false),
            starting: Semaphore::new(STARTING),
            working: Semaphore::new(WORKING),
            watcher,
        }
    }
}

/// Replicates databases until it is shut down.
pub struct Replicator {
    shared: Arc<Shared>,
    databases: Arc<Mutex<Names>>,
}

/// Says how a file in a watched folder is replicated, if it is a database to be replicated at all.
pub type Choose = Box<dyn Fn(&Path) -> Option<Settings> + Send + Sync>;

/// A folder whose databases are replicated as they appear.
struct Folder {
    dir: PathBuf,
    recursive: bool,
    choose: Choose,
}

/// Databases by the names that events speak of.
#[derive(Default)]
struct Names {
    all: Vec<Arc<Database>>,
    by_event: BTreeMap<PathBuf, Arc<Database>>,
    folders: Vec<Arc<Folder>>,
}

const STARTING: usize = 4;
const WORKING: usize = 16;
/// Between two rounds of events: a hot writer raises thousands a second, each of which would wake us.
const EVENT_PAUSE: Duration = Duration::from_micros(300);
/// The same after so many rounds without a quiet moment.
const HOT_EVENT_PAUSE: Duration = Duration::from_millis(5);
const HOT_ROUNDS: u32 = 30;
/// No event for this long is a quiet moment.
const QUIET: Duration = Duration::from_millis(5);
/// How often compaction, retention and snapshots are considered.
const MAINTENANCE_TICK: Duration = Duration::from_secs(10);
/// At the end, packs are put within this time, or left to the next start.
const LAST_PACKS: Duration = Duration::from_secs(3);
/// And so long whatever is still under way is waited for.
const LAST_STEPS: Duration = Duration::from_secs(1);
/// One database's maintenance that takes longer goes on beside that of the others: its folder may hang.
const MAINTENANCE_PATIENCE: Duration = Duration::from_secs(60);

impl Replicator {
    /// Starts the watcher; no database yet. Call from within a tokio runtime.
    pub fn start() -> Result<Replicator, Error> {
        let watcher =
            Watcher::new().map_err(|e| Error::new(Kind::Unavailable, format!("start inotify: {e}")))?;
        let shared = Arc::new(Shared::new(Arc::new(SystemClock), watcher));
        let replicator = Replicator { shared: shared.clone(), databases: Arc::default() };
        let names = replicator.databases.clone();
        std::thread::Builder::new()
            .name("watch".into())
            .spawn(move || follow_events(&shared, &names))
            .map_err(|e| Error::new(Kind::Unavailable, format!("start the watching thread: {e}")))?;
        replicator.shared.runtime.spawn(keep_up(replicator.shared.clone(), replicator.databases.clone()));
        Ok(replicator)
    }

    /// Adds a database and begins to replicate it. What goes wrong from here on is in its status.
    pub fn add(&self, settings: Settings) -> Result<(), Error> {
        add(&self.shared, &self.databases, settings)
    }

    /// Adds every database of a folder that `choose` accepts, now and whenever one appears.
    pub fn add_folder(&self, dir: &Path, recursive: bool, choose: Choose) -> Result<(), Error> {
        let dir = dir.canonicalize().map_err(Error::file("find", dir))?;
        let folder = Arc::new(Folder { dir: dir.clone(), recursive, choose });
        lock(&self.databases).folders.push(folder.clone());
        scan(&self.shared, &self.databases, &folder, &dir)
    }

    /// How every database is.
    pub fn statuses(&self) -> Vec<Status> {
        let all = lock(&self.databases).all.clone();
        all.iter().map(|d| d.status()).collect()
    }

    /// How the database at this path is, if it is replicated.
    pub fn status_of(&self, path: &Path) -> Option<Status> {
        let database = lock(&self.databases).by_event.get(path).cloned();
        Some(database?.status())
    }

    /// The end of a database's log, for whoever follows it at this [destination](litekeep_store::Store::identity).
    pub fn tail_of(&self, path: &Path, destination: &str) -> Option<Tail> {
        let database = lock(&self.databases).by_event.get(path).cloned();
        Some(Tail::new(&database?, destination))
    }

    /// Whether a database at this path is replicated.
    pub fn has(&self, path: &Path) -> bool {
        lock(&self.databases).by_event.contains_key(path)
    }

    /// The transaction that has, or will have, everything that is committed now in the database at this path; `None`: nobody can tell, for
    /// it is not replicated, or has just begun to be.
    pub async fn position(&self, path: &Path) -> Option<Txid> {
        let database = lock(&self.databases).by_event.get(path).cloned()?;
        database.position().await
    }

    /// Captures and ships everything there is now, and waits for the confirmation of every destination, at most so long.
    /// Returns what is not safe.
    pub async fn sync(&self, timeout: Duration) -> Vec<Status> {
        let all = lock(&self.databases).all.clone();
        let waits =
            all.iter().map(|d| async move { (d, tokio::time::timeout(timeout, d.sync()).await == Ok(true)) });
        let done = futures::future::join_all(waits).await;
        done.into_iter().filter(|(_, ok)| !ok).map(|(d, _)| d.last_status()).collect()
    }

    /// Ships what is left, then lets go of every database. Returns what is not safe.
    pub async fn shut_down(self, timeout: Duration) -> Vec<Status> {
        let unsafe_ones = self.sync(timeout).await;
        let all = lock(&self.databases).all.clone();
        let packs = futures::future::join_all(all.iter().map(|d| d.ship_packs(true)));
        // What is not put now is put by the next start.
        let _ = tokio::time::timeout(timeout.min(LAST_PACKS), packs).await;
        self.shared.stopping.store(true, SeqCst);
        drop(std::mem::take(&mut *lock(&self.databases)));
        let closed: Vec<_> = all.iter().map(Arc::downgrade).collect();
        for database in all {
            database.close().await;
        }
        // Whoever still has one is about to see that it ends; until then it may write beside the database.
        let until = Instant::now() + LAST_STEPS;
        while closed.iter().any(|database| database.strong_count() > 0) && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        unsafe_ones
    }
}

fn lock(names: &Mutex<Names>) -> MutexGuard<'_, Names> {
    names.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn add(shared: &Arc<Shared>, names: &Mutex<Names>, settings: Settings) -> Result<(), Error> {
    let path = std::path::absolute(&settings.path).map_err(Error::file("find", &settings.path))?;
    let parent = path.parent().map(Path::to_owned).unwrap_or_default();
    if !parent.is_dir() {
        return Err(Error::with_hint(
            Kind::Invalid,
            format!("the folder `{}` does not exist", parent.display()),
            format!("create it with `mkdir -p '{}'`", parent.display()),
        ));
    }
    // The folder as the kernel knows it, so that its events are recognised.
    let dir = parent.canonicalize().map_err(Error::file("find", &parent))?;
    let path = dir.join(path.file_name().unwrap_or_default());
    shared.watcher.add(&dir).map_err(Error::file("watch", &dir))?;
    let database = Database::new(Settings { path: path.clone(), ..settings }, shared.clone());
    {
        let mut names = lock(names);
        if names.by_event.contains_key(&path) {
            return Err(Error::new(Kind::Invalid, format!("`{}` is replicated already", path.display())));
        }
        names.by_event.insert(sibling(&path, "-wal"), database.clone());
        names.by_event.insert(path, database.clone());
        names.all.push(database.clone());
    }
    database.wake();
    Ok(())
}

/// Watches a folder, and adds what is in it. The watch comes first, so that nothing appears unseen in between.
fn scan(shared: &Arc<Shared>, names: &Mutex<Names>, folder: &Folder, dir: &Path) -> Result<(), Error> {
    shared.watcher.add(dir).map_err(Error::file("watch", dir))?;
    for entry in std::fs::read_dir(dir).map_err(Error::file("list", dir))? {
        let path = entry.map_err(Error::file("list", dir))?.path();
        consider(shared, names, folder, &path);
    }
    Ok(())
}

/// Adds a file that a folder's rule accepts, or looks into a folder within it.
fn consider(shared: &Arc<Shared>, names: &Mutex<Names>, folder: &Folder, path: &Path) {
    // Links could lead in a circle, and hidden folders are litekeep's own or somebody's private matter.
    let is_hidden = path.file_name().is_some_and(|n| n.as_encoded_bytes().starts_with(b"."));
    let is_folder = std::fs::symlink_metadata(path).is_ok_and(|m| m.is_dir());
    let result = if is_folder {
        if !folder.recursive || is_hidden {
            return;
        }
        scan(shared, names, folder, path)
    } else if lock(names).by_event.contains_key(path) {
        Ok(())
    } else {
        (folder.choose)(path).map_or(Ok(()), |settings| add(shared, names, settings))
    };
    if let Err(e) = result {
        tracing::error!(path = %path.display(), "could not replicate: {e}");
    }
}

fn follow_events(shared: &Arc<Shared>, names: &Mutex<Names>) {
    let (mut rounds, mut last) = (0, Instant::now());
    while !shared.stopping.load(SeqCst) {
        match shared.watcher.wait(Some(Duration::from_secs(1))) {
            Ok(true) => {}
            Ok(false) => continue,
            Err(e) => {
                tracing::error!("waiting for file events failed: {e}");
                std::thread::sleep(Duration::from_secs(1));
                continue;
            }
        }
        rounds = if last.elapsed() < QUIET { rounds + 1 } else { 0 };
        let mut overflow = false;
        let mut appeared: Vec<PathBuf> = vec![];
        let drained = shared.watcher.drain(|event| match event {
            Event::Overflow => overflow = true,
            Event::Modified(path) => {
                if let Some(d) = lock(names).by_event.get(&path).filter(|d| d.concerns(&path)) {
                    d.wake();
                }
            }
            Event::Appeared(path) | Event::Vanished(path) => {
                let names = lock(names);
                match names.by_event.get(&path) {
                    Some(d) => d.wake(),
                    None => {
                        // A folder that came or went with all that is in it.
                        let behind = names.by_event.range(path.clone()..);
                        let within = behind.take_while(|(below, _)| below.starts_with(&path));
                        within.for_each(|(_, database)| database.wake());
                        appeared.push(path);
                    }
                }
            }
        });
        for path in appeared {
            let folders = lock(names).folders.clone();
            let within = |f: &&Arc<Folder>| {
                path.parent().is_some_and(|p| p == f.dir || (f.recursive && p.starts_with(&f.dir)))
            };
            for folder in folders.iter().filter(within) {
                consider(shared, names, folder, &path);
            }
        }
        if overflow {
            let (all, folders) = {
                let names = lock(names);
                (names.all.clone(), names.folders.clone())
            };
            all.iter().for_each(|d| d.wake());
            for folder in folders {
                if let Err(e) = scan(shared, names, &folder, &folder.dir) {
                    tracing::error!("after lost file events: {e}");
                }
            }
        }
        if let Err(e) = drained {
            tracing::error!("reading file events failed: {e}");
        }
        std::thread::sleep(if rounds > HOT_ROUNDS { HOT_EVENT_PAUSE } else { EVENT_PAUSE });
        last = Instant::now();
    }
}

/// Looks whether each folder is still the one that is watched, and whether what waits of a file that is gone can be put.
fn watch_anew(shared: &Arc<Shared>, names: &Mutex<Names>) {
    let (all, watched) = {
        let names = lock(names);
        (names.all.clone(), names.folders.clone())
    };
    let parents = all.iter().filter_map(|database| database.settings.path.parent());
    let mut folders: Vec<&Path> = parents.chain(watched.iter().map(|folder| &*folder.dir)).collect();
    folders.sort_unstable();
    folders.dedup();
    for folder in folders {
        let refreshed = shared.watcher.refresh(folder);
        if !matches!(refreshed, Ok(true)) {
            let within = all.iter().filter(|database| database.settings.path.parent() == Some(folder));
            within.for_each(Database::wake);
        }
        if matches!(refreshed, Ok(false)) {
            for rule in watched.iter().filter(|rule| folder.starts_with(&rule.dir)) {
                if let Err(e) = scan(shared, names, rule, folder) {
                    tracing::error!(path = %folder.display(), "look through a folder that is another than before: {e}");
                }
            }
        }
    }
    all.iter().filter(|database| database.has_stranded()).for_each(Database::wake);
}

/// Compaction, retention and snapshots of every database, one after the other.
async fn keep_up(shared: Arc<Shared>, names: Arc<Mutex<Names>>) {
    let mut looking: Option<JoinHandle<()>> = None;
    while !shared.stopping.load(SeqCst) {
        tokio::time::sleep(MAINTENANCE_TICK).await;
        if looking.as_ref().is_none_or(JoinHandle::is_finished) {
            let (shared, names) = (shared.clone(), names.clone());
            // A folder may hang.
            looking = Some(tokio::task::spawn_blocking(move || watch_anew(&shared, &names)));
        }
        let all = lock(&names).all.clone();
        for database in all {
            if shared.stopping.load(SeqCst) {
                return;
            }
            let maintained = shared.runtime.spawn(async move { database.maintain().await });
            let _ = tokio::time::timeout(MAINTENANCE_PATIENCE, maintained).await;
        }
    }
}
