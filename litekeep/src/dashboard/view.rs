//! Everything that the status page and `litekeep top` show.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use jiff::tz::TimeZone;
use litekeep_config::{DatabaseConfig, Source, StoreUrl};
use litekeep_env::{Clock, SystemClock};
use litekeep_replicate::replicator::Status;
use litekeep_store::Store;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::listing::{self, Listed, Listing, Timeline};
use super::readers::{Reader, Readers};
use super::seldom::Seldom;
use super::sentence::{Fact, of_node, sentence};
use crate::args::ConfigArgs;
use crate::cluster::{AllTold, ClusterView, Link, REPORT};
use crate::commands::history::MissingRange;
use crate::commands::status::backup::Backup;
use crate::feeds::{self, Feed, FeedStatus};
use crate::program;
use crate::proof::Proof;
use crate::replication::Current;
use crate::report::text;
use crate::settings::Database;
use crate::stack::{Deploy, Stack, StackStatus};
use crate::syncs::{self, DatabaseSync, SyncStatus};
use crate::verification::{canonical, covers};

/// Databases that are shown and whose backups are listed, those in trouble first; of the others only the sentence tells.
const SHOWN: usize = 40;
/// How often it is asked which migrations there are.
const MIGRATIONS_EVERY: Duration = Duration::from_secs(30);
/// The same while some are pending: they run soon.
const PENDING_EVERY: Duration = Duration::from_secs(2);
/// The first look waits so long for the first listing.
const PATIENCE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(20);
/// How long beyond twice the upload interval a commit may wait before that is red.
const GRACE: Duration = Duration::from_secs(10);

/// One look at everything.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct View {
    pub(crate) at: String,
    pub(crate) version: String,
    pub(crate) host: String,
    /// Nobody has to look.
    pub(crate) ok: bool,
    /// The sentence is good news: every commit is where it belongs.
    pub(crate) safe: bool,
    pub(crate) sentence: String,
    /// What is wrong.
    pub(crate) problems: Vec<String>,
    pub(crate) databases: Vec<DatabaseView>,
    /// How many there are besides.
    pub(crate) more_databases: usize,
    pub(crate) stack: Option<StackStatus>,
    /// In a cluster.
    pub(crate) cluster: Option<ClusterView>,
    /// What the processes of the stack said last.
    pub(crate) last_words: Vec<LastWords>,
    /// The newest last.
    pub(crate) deploys: Vec<Deploy>,
}

/// The last lines of a process's standard error.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct LastWords {
    pub(crate) process: String,
    pub(crate) lines: Vec<String>,
}

/// One database.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct DatabaseView {
    pub(crate) path: PathBuf,
    pub(crate) ok: bool,
    /// Why it is not.
    pub(crate) red: Vec<String>,
    /// What its replication does, in one word.
    pub(crate) phase: String,
    pub(crate) size_bytes: Option<u64>,
    pub(crate) wal_bytes: u64,
    /// The last transaction that was captured, and the last that is confirmed.
    pub(crate) captured: Option<String>,
    pub(crate) durable: Option<String>,
    pub(crate) confirmed_at: Option<String>,
    /// The age of the oldest commit that is not confirmed.
    pub(crate) lag_seconds: f64,
    pub(crate) lag_transactions: u64,
    /// Captured, and not confirmed.
    pub(crate) lag_bytes: u64,
    /// Of the application, since the start.
    pub(crate) commits: u64,
    /// Who has been reading longest.
    pub(crate) oldest_reader: Option<Reader>,
    pub(crate) backups: Vec<BackupView>,
    /// What is told of its rows, and to whom.
    pub(crate) feeds: Vec<FeedStatus>,
    pub(crate) syncs: Vec<SyncStatus>,
    /// As `litekeep migrate status --json` says it; with `error` when it could not.
    pub(crate) migrations: Option<Value>,
}

/// One destination.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct BackupView {
    pub(crate) url: String,
    pub(crate) durable: Option<String>,
    /// Files that wait for it.
    pub(crate) waiting: usize,
    /// A second writer there cannot be told apart.
    pub(crate) unfenced: bool,
    pub(crate) error: Option<String>,
    /// When the rest was read; `None` while it is not known.
    pub(crate) listed_at: Option<String>,
    pub(crate) last_upload_at: Option<String>,
    pub(crate) files: Option<usize>,
    pub(crate) size_bytes: Option<u64>,
    pub(crate) gaps: Vec<MissingRange>,
    /// At list prices of S3.
    pub(crate) dollars_a_month: Option<f64>,
    /// The newest first.
    pub(crate) proofs: Vec<Proof>,
}

/// What can be restored from one destination.
#[derive(Debug, Serialize)]
pub(super) struct TimelineView {
    database: PathBuf,
    url: String,
    /// A restore to another file, up to the transaction's id.
    restore: String,
    #[serde(flatten)]
    timeline: Timeline,
}

/// Where all of this comes from.
pub(crate) struct Board {
    replication: Current,
    stack: Option<Weak<Stack>>,
    databases: Vec<Database>,
    /// Where new ones may appear.
    folders: Vec<DatabaseConfig>,
    feeds: Vec<Feed>,
    syncs: Vec<DatabaseSync>,
    config: ConfigArgs,
    listings: Mutex<HashMap<PathBuf, Seldom<Listing>>>,
    migrations: Mutex<HashMap<PathBuf, Seldom<Value>>>,
    readers: Readers,
    /// What the nodes of a cluster told last.
    told: Seldom<AllTold>,
    /// The first look was given time for the first listing.
    has_waited: AtomicBool,
}

/// What follows each database.
fn of_each<T>(statuses: &[Status], of: impl Fn(&Status) -> Vec<T>) -> Vec<(PathBuf, T)> {
    statuses.iter().flat_map(|status| of(status).into_iter().map(|one| (status.path.clone(), one))).collect()
}

impl Board {
    pub(crate) fn new(
        replication: Current,
        stack: Option<Weak<Stack>>,
        (databases, folders): (&[Database], &[DatabaseConfig]),
        (feeds, syncs): (&[Feed], &[DatabaseSync]),
        config: &ConfigArgs,
    ) -> Board {
        Board {
            replication,
            stack,
            databases: databases.to_vec(),
            folders: folders.to_vec(),
            feeds: feeds.to_vec(),
            syncs: syncs.to_vec(),
            config: config.clone(),
            listings: Mutex::default(),
            migrations: Mutex::default(),
            readers: Readers::default(),
            told: Seldom::default(),
            has_waited: AtomicBool::new(false),
        }
    }

    pub(super) fn replication(&self) -> Current {
        self.replication.clone()
    }

    /// How every database is. Gone at the end, when the last commits are being shipped.
    pub(super) fn statuses(&self) -> Vec<Status> {
        self.replication.upgrade().map(|replication| replication.statuses()).unwrap_or_default()
    }

    pub(super) fn stack(&self) -> Option<Arc<Stack>> {
        self.stack.as_ref()?.upgrade()
    }

    /// How everything is.
    pub(crate) async fn view(&self) -> View {
        let begin = SystemClock.boottime();
        loop {
            let view = self.look();
            let is_listed =
                |database: &DatabaseView| database.backups.iter().all(|backup| backup.listed_at.is_some());
            let is_over = self.has_waited.load(SeqCst) || SystemClock.boottime() - begin > PATIENCE;
            let is_told = view.cluster.is_none() || self.told.last().is_some();
            if is_over || is_told && view.databases.iter().all(is_listed) {
                self.has_waited.store(true, SeqCst);
                return view;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn look(&self) -> View {
        let now_ms = SystemClock.unix_ms();
        let mut statuses = self.statuses();
        if statuses.len() > SHOWN {
            statuses.sort_by_key(|status| !status.phase.is_red());
        }
        let (shown, more) = statuses.split_at(statuses.len().min(SHOWN));
        let (mut facts, databases): (Vec<Fact>, Vec<DatabaseView>) =
            shown.iter().map(|status| self.database(status, now_ms)).unzip();
        facts.extend(more.iter().map(|status| self.fact(status, None, None, now_ms)));
        let stack = self.stack();
        let last_words = stack.as_ref().map(|stack| stack.last_words()).unwrap_or_default();
        let deploys = stack.as_ref().map(|stack| stack.deploys()).unwrap_or_default();
        let cluster = stack.as_ref().and_then(|stack| stack.link()).map(|link| self.cluster(link));
        let stack = stack.map(|stack| stack.status());
        let more_databases = more.len();
        View {
            last_words,
            deploys,
            more_databases,
            ..view(&facts, databases, (stack, cluster), now_ms, &TimeZone::system())
        }
    }

    /// The others are asked about as seldom as they tell.
    fn cluster(&self, link: &Arc<Link>) -> ClusterView {
        let own = link.clone();
        let told = self.told.get(REPORT, |_| async move { own.all_told().await });
        link.view_with(told.map_or(Ok(vec![]), |told| (*told).clone()))
    }

    fn database(&self, status: &Status, now_ms: i64) -> (Fact, DatabaseView) {
        let database = self.configured(&status.path);
        let listing = database.as_ref().and_then(|database| self.listing(database, status));
        let fact = self.fact(status, database.as_ref(), listing.as_deref(), now_ms);
        let red = fact.red.clone();
        let listed = |place: usize| listing.as_ref().and_then(|listing| listing.backups.get(place));
        let backup =
            |place| BackupView::of(url(status, database.as_ref(), place), status, place, listed(place));
        let backups: Vec<BackupView> = (0..status.destinations.len()).map(backup).collect();
        let txid = |txid: Option<litekeep_ltx::Txid>| txid.map(|txid| txid.to_string());
        let number = |txid: Option<litekeep_ltx::Txid>| txid.map_or(0, |txid| txid.get());
        let view = DatabaseView {
            path: status.path.clone(),
            ok: red.is_empty(),
            red,
            phase: status.phase.name().to_owned(),
            size_bytes: status.path.metadata().ok().map(|metadata| metadata.len()),
            wal_bytes: status.wal_bytes,
            captured: txid(status.captured),
            durable: txid(status.durable),
            confirmed_at: status.confirmed_ms.map(text::rfc3339),
            lag_seconds: status
                .behind_since_ms
                .map_or(0.0, |since_ms| (now_ms - since_ms).max(0) as f64 / 1000.0),
            lag_transactions: number(status.captured).saturating_sub(number(status.durable)),
            lag_bytes: status.behind_bytes,
            commits: status.commits,
            oldest_reader: self.readers.oldest(&status.path, now_ms),
            backups,
            feeds: feeds::statuses(&self.feeds, &status.path, status.durable, now_ms),
            syncs: syncs::statuses(&self.syncs, &status.path, status.durable, now_ms),
            migrations: database.as_ref().and_then(|database| self.migrations(database)),
        };
        (fact, view)
    }

    fn fact(
        &self,
        status: &Status,
        database: Option<&Database>,
        listing: Option<&Listing>,
        now_ms: i64,
    ) -> Fact {
        let count = status.destinations.len();
        let whole = |place: &usize| status.destinations[*place].durable >= status.durable;
        let proven_ms = match listing {
            Some(listing) => {
                listing.backups.iter().map(|own| own.proofs.last()?.1.proven_ms()).min().flatten()
            }
            None => self.verified_ms(&status.path),
        };
        Fact {
            name: file_name(&status.path),
            red: red(status, database, listing, now_ms),
            is_begun: status.durable.is_some(),
            behind_since_ms: status.behind_since_ms,
            places: (0..count).filter(whole).map(|place| url(status, database, place)).collect(),
            proven_ms,
        }
    }

    /// When a database was last proven, as far as its schedule knows.
    fn verified_ms(&self, path: &Path) -> Option<i64> {
        let last = self.replication.upgrade()?.verifications().of(path)?;
        last.proven.then_some(last.at_ms)
    }

    /// How every feed stands.
    pub(crate) fn feeds(&self, statuses: &[Status], now_ms: i64) -> Vec<(PathBuf, FeedStatus)> {
        of_each(statuses, |status| feeds::statuses(&self.feeds, &status.path, status.durable, now_ms))
    }

    /// The same for syncs.
    pub(crate) fn syncs(&self, statuses: &[Status], now_ms: i64) -> Vec<(PathBuf, SyncStatus)> {
        of_each(statuses, |status| syncs::statuses(&self.syncs, &status.path, status.durable, now_ms))
    }

    pub(super) fn syncs_of_all(&self) -> &[DatabaseSync] {
        &self.syncs
    }

    /// What the configuration says of a database that is replicated.
    pub(super) fn configured(&self, path: &Path) -> Option<Database> {
        let named = self.databases.iter().find(|database| canonical(&database.path) == path);
        named.cloned().or_else(|| {
            let folder = self.folders.iter().find(|folder| covers(folder, path))?;
            let Source::Folder { dir, .. } = &folder.source else { return None };
            Database::in_folder(folder, &canonical(dir), path).ok()
        })
    }

    fn listing(&self, database: &Database, status: &Status) -> Option<Arc<Listing>> {
        let seldom = seldom(&self.listings, &status.path);
        // What cannot be opened now is in the replicator's own error.
        let Some(stores) = self.stores(database) else { return seldom.last() };
        let durable = status.durable;
        seldom.get(listing::every(&stores), |last| Listing::read(stores, durable, last))
    }

    pub(super) fn stores(&self, database: &Database) -> Option<Vec<(StoreUrl, Store)>> {
        let replication = self.replication.upgrade()?;
        let open = |destination: &litekeep_config::Destination| {
            Some((destination.url.clone(), replication.stores().open(destination).ok()?))
        };
        database.destinations.iter().map(open).collect()
    }

    fn migrations(&self, database: &Database) -> Option<Value> {
        database.config.migrations.as_ref()?;
        let (path, config) = (database.path.clone(), self.config.clone());
        let seldom = seldom(&self.migrations, &database.path);
        let every = match seldom.last().is_some_and(|last| has_pending(&last)) {
            true => PENDING_EVERY,
            false => MIGRATIONS_EVERY,
        };
        let answer = seldom.get(every, |_| migrations(path, config));
        answer.map(|answer| (*answer).clone())
    }

    /// What can be restored.
    pub(super) fn timelines(&self) -> Vec<TimelineView> {
        let listings = self.listings.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = Vec::new();
        for (path, listing) in listings.iter() {
            let restore = restore(path, &self.config);
            for listed in listing.last().iter().flat_map(|listing| &listing.backups) {
                let (url, restore) = (listed.backup.url.to_string(), restore.clone());
                all.push(TimelineView {
                    database: path.clone(),
                    url,
                    restore,
                    timeline: listed.timeline.clone(),
                });
            }
        }
        all.sort_by(|a, b| a.database.cmp(&b.database));
        all
    }
}

/// What is shown of these facts; who knows what the processes said adds it.
pub(crate) fn view(
    facts: &[Fact],
    databases: Vec<DatabaseView>,
    (stack, cluster): (Option<StackStatus>, Option<ClusterView>),
    now_ms: i64,
    zone: &TimeZone,
) -> View {
    let follows = cluster.as_ref().filter(|cluster| cluster.role != "primary");
    let (safe, sentence) = match follows {
        Some(cluster) => of_node(cluster, now_ms, zone),
        None => sentence(facts, now_ms, zone),
    };
    let named = |fact: &Fact| fact.red.iter().map(|red| format!("{}: {red}", fact.name)).collect::<Vec<_>>();
    let mut problems: Vec<String> = facts.iter().flat_map(named).collect();
    let feeds = databases.iter().flat_map(|database| &database.feeds);
    problems.extend(feeds.filter_map(FeedStatus::problem));
    problems.extend(databases.iter().flat_map(|database| &database.syncs).flat_map(SyncStatus::problems));
    problems.extend(stack.iter().flat_map(StackStatus::problems));
    problems.extend(cluster.iter().flat_map(|cluster| cluster.problems.clone()));
    View {
        at: text::rfc3339(now_ms),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        host: host(),
        ok: problems.is_empty() && safe,
        safe,
        sentence,
        problems,
        databases,
        more_databases: 0,
        stack,
        cluster,
        last_words: Vec::new(),
        deploys: Vec::new(),
    }
}

impl BackupView {
    fn of(url: String, status: &Status, place: usize, listed: Option<&Listed>) -> BackupView {
        let own = &status.destinations[place];
        let view = match listed {
            Some(listed) => BackupView::listed(&listed.backup, listed.at_ms),
            None => BackupView::default(),
        };
        let proofs = listed.iter().flat_map(|listed| listed.proofs.iter().rev());
        BackupView {
            url,
            durable: own.durable.map(|txid| txid.to_string()),
            waiting: own.waiting,
            unfenced: own.unfenced,
            error: own.error.clone().or(view.error),
            proofs: proofs.map(|(_, proof)| proof.clone()).collect(),
            ..view
        }
    }

    /// What a listing says.
    pub(crate) fn listed(backup: &Backup, at_ms: i64) -> BackupView {
        let contents = backup.contents.as_ref();
        BackupView {
            url: backup.url.to_string(),
            unfenced: backup.unfenced,
            error: backup.error.clone(),
            listed_at: Some(text::rfc3339(at_ms)),
            last_upload_at: contents.and_then(|contents| contents.last_upload_at.clone()),
            files: contents.map(|contents| contents.files),
            size_bytes: contents.map(|contents| contents.size_bytes),
            gaps: contents.map(|contents| contents.gaps.clone()).unwrap_or_default(),
            dollars_a_month: contents.and_then(|contents| Some(contents.month.as_ref()?.dollars)),
            ..BackupView::default()
        }
    }
}

/// The name of a destination.
fn url(status: &Status, database: Option<&Database>, place: usize) -> String {
    match database.and_then(|database| database.destinations.get(place)) {
        Some(destination) => destination.url.to_string(),
        None => status.destinations[place].place.clone(),
    }
}

/// Why somebody has to look at a database.
fn red(status: &Status, database: Option<&Database>, listing: Option<&Listing>, now_ms: i64) -> Vec<String> {
    let mut red = Vec::new();
    let interval = database.map(Database::upload_interval).unwrap_or_default();
    let behind = status.behind_since_ms.map(|since_ms| now_ms - since_ms);
    let allowed_ms = i64::try_from((2 * interval + GRACE).as_millis()).unwrap_or(i64::MAX);
    if status.phase.is_red() {
        let message = status.message.as_deref().unwrap_or(status.phase.name());
        let hint = status.hint.as_ref().map_or(String::new(), |hint| format!("; {hint}"));
        red.push(format!("{message}{hint}"));
    } else if !status.path.exists() {
        red.push("the database file does not exist".to_owned());
    } else if status.durable.is_none() {
        red.push("nothing has been confirmed yet".to_owned());
    } else if let Some(ms) = behind.filter(|ms| *ms > allowed_ms) {
        red.push(format!("commits have been waiting for {}", text::age(ms)));
    }
    let more =
        status.destinations.iter().filter_map(|own| Some(format!("{}: {}", own.place, own.error.as_ref()?)));
    let more = more.chain(listing.iter().flat_map(|listing| listing.red.clone()));
    for reason in more {
        if !red.iter().any(|said| said.contains(&reason)) {
            red.push(reason);
        }
    }
    red
}

fn seldom<T: Send + Sync + 'static>(all: &Mutex<HashMap<PathBuf, Seldom<T>>>, path: &Path) -> Seldom<T> {
    let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
    all.entry(path.to_owned()).or_default().clone()
}

fn has_pending(status: &Value) -> bool {
    let mut migrations = status["migrations"].as_array().into_iter().flatten();
    migrations.any(|migration| migration["state"] == "pending")
}

/// In a process of its own, which may open the database.
async fn migrations(path: PathBuf, config: ConfigArgs) -> Value {
    let asked = async {
        let mut command = program::again();
        command.args(["migrate", "status", "--json"]);
        config.pass_on(&mut command);
        // After `--` a path may begin with a dash.
        command.arg("--").arg(&path);
        let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await?;
        match serde_json::from_slice(&output.stdout) {
            Ok(value) => Ok(value),
            Err(_) => Err(std::io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
        }
    };
    asked.await.unwrap_or_else(|error| serde_json::json!({ "error": error.to_string() }))
}

/// The command that restores a database to a file beside it, but for the transaction.
fn restore(database: &Path, config: &ConfigArgs) -> String {
    let word = |path: &Path| text::shell_word(&path.to_string_lossy());
    let config = match &config.config {
        Some(config) => format!(" --config {}", word(&canonical(config))),
        None => String::new(),
    };
    let output = database.with_file_name(format!("restored-{}", file_name(database)));
    format!("litekeep restore {}{config} -o {} --txid ", word(database), word(&output))
}

/// Whether somebody means a database by its path, or by the end of it.
pub(crate) fn is_meant(path: &Path, wanted: &str) -> bool {
    path.ends_with(wanted) || path.strip_prefix("/").is_ok_and(|path| path == Path::new(wanted))
}

/// The name of a database as people call it.
pub(crate) fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

fn host() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
}
