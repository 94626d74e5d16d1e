//! Syncs of the configuration, beside the replication.
//!
//! Promise: how each stands is in a file that `status` reads without asking.

pub(crate) mod budget;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use anyhow::Result;
use litekeep_config::{CacheConfig, ConflictPolicy, Direction, OtherSide, SyncConfig};
use litekeep_ltx::Txid;
use litekeep_schema::portable::Options;
use litekeep_schema::portable::mysql::MyType;
use litekeep_schema::portable::postgres::PgType;
use litekeep_store::Store;
use litekeep_sync::cache::figures::Counts;
use litekeep_sync::cache::{self, Times};
use litekeep_sync::cut::Cut;
use litekeep_sync::pause::Pause;
use litekeep_sync::two_way::{self, Durable, Policies, Policy};
use litekeep_sync::worker::{Rhythm, State, Worker};
use litekeep_sync::{Budget, Cache, Flow, Hub, Logs, Pull, Push, Source, Target as _, TwoWay, pull, push};
use litekeep_sync_mysql::{Mysql, MysqlSource};
use litekeep_sync_postgres::source::Wanted;
use litekeep_sync_postgres::{Postgres, PostgresSource};
use serde::{Deserialize, Serialize};

use crate::followers::{self, Followers, News};
use crate::replication::Replication;
use crate::report::{Failure, text};
use crate::settings::{Database, Settings, Stores};
use crate::verification::canonical;

const SYNC_LINES: &str =
    "add [[sync]] with name = \"app-to-postgres\", from = \"app.db\" and to = \"${DATABASE_URL}\"";

/// The other side of a sync.
pub(crate) enum Side {
    Postgres(Box<Postgres>),
    Mysql(Box<Mysql>),
    #[cfg(feature = "mongodb")]
    Mongodb(Box<litekeep_sync_mongodb::Mongo>),
}

/// Does the same with whichever it is.
macro_rules! with_side {
    ($side:expr, $target:ident => $body:expr) => {
        match $side {
            $crate::syncs::Side::Postgres(boxed) => {
                let $target = *boxed;
                $body
            }
            $crate::syncs::Side::Mysql(boxed) => {
                let $target = *boxed;
                $body
            }
            #[cfg(feature = "mongodb")]
            $crate::syncs::Side::Mongodb(boxed) => {
                let $target = *boxed;
                $body
            }
        }
    };
}
pub(crate) use with_side;

/// A sync and its database.
#[derive(Clone, Debug)]
pub(crate) struct DatabaseSync {
    pub(crate) config: SyncConfig,
    pub(crate) database: Database,
    /// How many connections there may be to its server.
    pub(crate) budget: Budget,
    /// What answers, of a cache, for all who have this sync.
    cache: Arc<OnceLock<Arc<Cache>>>,
}

impl DatabaseSync {
    pub(crate) fn new(config: SyncConfig, database: Database) -> DatabaseSync {
        DatabaseSync { config, database, budget: Budget::default(), cache: Arc::default() }
    }

    /// A sync of the configuration by its name.
    ///
    /// # Errors
    /// When there is none of this name.
    pub(crate) fn named(settings: &Settings, name: Option<&str>) -> Result<DatabaseSync> {
        let mut all = DatabaseSync::all(settings)?;
        let names: Vec<String> = all.iter().map(|sync| format!("`{}`", sync.config.name)).collect();
        let place = match name {
            None if all.len() == 1 => Some(0),
            _ => all.iter().position(|sync| Some(sync.config.name.as_str()) == name),
        };
        let Some(place) = place else {
            let (message, hint) = match (name, names.is_empty()) {
                (_, true) => ("there is no [[sync]] in the configuration".to_owned(), SYNC_LINES.to_owned()),
                (Some(name), _) => {
                    (format!("there is no sync `{name}`"), format!("the syncs are {}", names.join(", ")))
                }
                (None, _) => {
                    ("there are several syncs".to_owned(), format!("say which: {}", names.join(", ")))
                }
            };
            return Err(Failure::invalid(message).hint(hint).into());
        };
        Ok(all.swap_remove(place))
    }

    /// Whether SQLite is written to.
    pub(crate) fn is_pull(&self) -> bool {
        self.config.direction == Direction::Pull && !self.is_cache()
    }

    /// Whether rows are in SQLite from when they are asked for.
    pub(crate) fn is_cache(&self) -> bool {
        self.config.cache.is_some()
    }

    /// Whether rows of a cache go when they change at the server, by a pull beside it.
    pub(crate) fn follows_changes(&self) -> bool {
        self.config.cache.is_some_and(|cache| cache.follows)
    }

    /// What answers, where it is a cache. With `creates` it makes a database that is not there; `is_live`: a litekeep goes on with the sync.
    ///
    /// # Errors
    /// As [`source`](Self::source).
    pub(crate) fn cache(&self, creates: bool, is_live: bool) -> Result<Arc<Cache>> {
        let not = || Failure::invalid(format!("the sync `{}` is no cache", self.config.name));
        let CacheConfig { ttl, stale, negative_ttl, max_rows, .. } = self.config.cache.ok_or_else(not)?;
        if let Some(cache) = self.cache.get() {
            return Ok(cache.clone());
        }
        let settings = cache::Settings {
            name: self.config.name.clone(),
            database: self.database.path.clone(),
            creates,
            cut: self.cut(),
            times: Times { ttl, stale, negative_ttl },
            max_rows,
            state: self.state(),
            follows: self.follows_changes().then_some(is_live),
        };
        let cache = Cache::new(settings, self.source()?);
        Ok(self.cache.get_or_init(|| cache).clone())
    }

    /// The same, where it was asked for before.
    pub(crate) fn begun_cache(&self) -> Option<Arc<Cache>> {
        self.cache.get().cloned()
    }

    /// Whether both sides are written to.
    pub(crate) fn is_two_way(&self) -> bool {
        self.config.direction == Direction::Both
    }

    /// Where a push goes.
    ///
    /// # Errors
    /// As [`side`].
    pub(crate) fn side(&self) -> Result<Side> {
        side(&self.config, &self.budget)
    }

    /// Where a pull comes from.
    ///
    /// # Errors
    /// As [`source`].
    pub(crate) fn source(&self) -> Result<Box<dyn Source>> {
        source(&self.config, &self.budget)
    }

    /// What goes both ways. `durable`: up to where the backup has the database, where that is known without asking it.
    ///
    /// # Errors
    /// When it cannot go both ways there, or there is no backup.
    pub(crate) fn two_way(
        &self,
        stores: Vec<Store>,
        durable: Option<Durable>,
    ) -> Result<TwoWay<Box<dyn Hub>>> {
        let hub = self.hub()?;
        let policy = |policy: &ConflictPolicy| match policy {
            ConflictPolicy::Server => Policy::Server,
            ConflictPolicy::Sqlite => Policy::Sqlite,
            ConflictPolicy::Latest => Policy::Latest,
            ConflictPolicy::MergeServer => Policy::MergeServer,
            ConflictPolicy::MergeSqlite => Policy::MergeSqlite,
            ConflictPolicy::MergeLatest => Policy::MergeLatest,
        };
        let by_table = self.config.conflicts.iter().map(|(table, of)| (table.clone(), policy(of)));
        let policies = Policies { all: policy(&self.config.conflict), tables: by_table.collect() };
        let (push, database) = (self.push(stores)?, self.database.path.clone());
        let settings = two_way::Settings { push, database, policies, durable };
        Ok(TwoWay::new(settings, hub))
    }

    /// The other side of what goes both ways.
    fn hub(&self) -> Result<Box<dyn Hub>> {
        let (config, budget) = (&self.config, self.budget.clone());
        Ok(match &config.other {
            OtherSide::Postgres(url) => {
                let address = litekeep_sync_postgres::Address::parse(url.expose())?.within(budget);
                let options = options(config, PgType::named, &PgType::names())?;
                Box::new(PostgresSource::two_way(address, wanted(config), options))
            }
            OtherSide::Mysql(url) => {
                let address = litekeep_sync_mysql::Address::parse(url.expose())?.within(budget);
                no_schema(config, "MySQL")?;
                let options = options(config, MyType::named, &MyType::names())?;
                Box::new(MysqlSource::two_way(address, wanted_of_mysql(config), options))
            }
            #[cfg(feature = "mongodb")]
            OtherSide::Mongodb(url) => {
                use litekeep_schema::portable::mongodb::MongoType;
                let address = litekeep_sync_mongodb::Address::parse(url.expose())?.within(budget);
                no_schema(config, "MongoDB")?;
                let options = options(config, MongoType::named, &MongoType::names())?;
                let wanted = wanted_of_mongodb(config);
                Box::new(litekeep_sync_mongodb::MongoSource::two_way(address, wanted, options))
            }
            #[cfg(not(feature = "mongodb"))]
            OtherSide::Mongodb(_) => return Err(no_client().into()),
        })
    }

    /// How many connections it has at most.
    ///
    /// # Errors
    /// When its address or a type is none.
    pub(crate) fn connections(&self) -> Result<u32> {
        Ok(match self.config.direction {
            Direction::Push => with_side!(self.side()?, target => target.connections()),
            Direction::Both => self.hub()?.connections(),
            Direction::Pull => {
                let source = self.source()?;
                let follows = !self.is_cache() || self.follows_changes();
                let asks = if self.is_cache() { source.connections_to_read() } else { 0 };
                asks + if follows { source.connections() } else { 0 }
            }
        })
    }

    /// A pull; with `creates` it makes a database that is not there.
    ///
    /// # Errors
    /// As [`source`](Self::source).
    pub(crate) fn pull(&self, creates: bool) -> Result<Pull<Box<dyn Source>>> {
        let (name, database) = (self.config.name.clone(), self.database.path.clone());
        Ok(Pull::new(pull::Settings { name, database, creates, cut: self.cut() }, self.source()?))
    }

    /// Whether a pull may make the database: not where the backup has one.
    ///
    /// # Errors
    /// Where it is not there, and the backup has it.
    pub(crate) async fn may_make(&self, stores: &Stores) -> Result<bool> {
        let path = &self.database.path;
        if path.exists() {
            return Ok(false);
        }
        for store in self.stores(stores)? {
            if store.list().await?.last().is_some() {
                let message = format!("`{}` is not there, and its backup has it", path.display());
                let hint = format!("`litekeep restore {}` brings it back", path.display());
                return Err(Failure::invalid(message).hint(hint).into());
            }
        }
        Ok(true)
    }

    /// The backups of its database.
    ///
    /// # Errors
    /// When one cannot be opened.
    pub(crate) fn stores(&self, stores: &Stores) -> Result<Vec<Store>> {
        followers::opened(&self.database, stores)
    }

    /// What of the tables goes or comes.
    pub(crate) fn cut(&self) -> Cut {
        Cut {
            columns: self.config.columns.clone(),
            rows: self.config.rows.clone(),
            others_are_asked_for: self.follows_changes(),
        }
    }

    /// What is pushed, from the first of the backups that has it.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) fn push(&self, stores: Vec<Store>) -> Result<push::Settings> {
        Ok(push::Settings {
            name: self.config.name.clone(),
            logs: Logs::new(stores)?,
            tables: self.config.tables.clone(),
            cut: self.cut(),
            scratch: self.state().with_extension("copy"),
        })
    }

    /// Who does it. With `creates` a pull makes a database that is not there; `durable` as in [`two_way`](Self::two_way).
    ///
    /// # Errors
    /// As [`push`](Self::push), [`side`](Self::side), [`pull`](Self::pull) and [`two_way`](Self::two_way).
    pub(crate) fn worker(
        &self,
        stores: Vec<Store>,
        creates: bool,
        durable: Option<Durable>,
    ) -> Result<Worker> {
        let flow: Box<dyn Flow> = match self.config.direction {
            Direction::Push => {
                let push = self.push(stores)?;
                with_side!(self.side()?, target => Box::new(Push::new(push, target)) as Box<dyn Flow>)
            }
            Direction::Pull => Box::new(self.pull(creates)?),
            Direction::Both => Box::new(self.two_way(stores, durable)?),
        };
        Ok(Worker::new(&self.config.name, flow, self.state()))
    }

    /// The syncs of a configuration.
    ///
    /// # Errors
    /// When one is of a database that is not in it, or of something that cannot be.
    pub(crate) fn all(settings: &Settings) -> Result<Vec<DatabaseSync>> {
        let of = |config: &SyncConfig| {
            let database = Database::named(settings, &config.database)?;
            Ok(DatabaseSync::new(config.clone(), database))
        };
        let mut all = settings.config.syncs.iter().map(of).collect::<Result<Vec<_>>>()?;
        budget::share(&mut all)?;
        Ok(all)
    }

    /// Where it tells how it stands.
    pub(crate) fn state(&self) -> PathBuf {
        self.database.meta_dir.join("sync").join(format!("{}.json", self.config.name))
    }

    /// Whether somebody lets it rest.
    pub(crate) fn pause(&self) -> Pause {
        Pause::of(&self.state())
    }

    /// When it goes on.
    fn rhythm(&self) -> Result<Rhythm> {
        Ok(match &self.config.schedule {
            Some(schedule) => {
                let due = schedule.due().map_err(Failure::invalid)?;
                Rhythm::Scheduled(Box::new(move |after_ms| due(after_ms)))
            }
            None => Rhythm::Continuous,
        })
    }

    /// How it stands, where the backup ends with a transaction.
    pub(crate) fn status(&self, durable: Option<Txid>, now_ms: i64) -> SyncStatus {
        let read = State::read(&self.state());
        let error = read.as_ref().err().map(ToString::to_string);
        let state = read.ok().flatten().unwrap_or_default();
        let progress = state.progress.clone().unwrap_or_default();
        let at = match self.config.direction {
            Direction::Push => state.at(),
            Direction::Pull => None,
            Direction::Both => progress.outward.as_ref().and_then(|txid| txid.parse().ok()),
        };
        let behind = at.map(|at| durable.map_or(0, Txid::get).saturating_sub(at.get()));
        let trouble = state.trouble.as_ref();
        SyncStatus {
            name: self.config.name.clone(),
            direction: match self.config.direction {
                Direction::Push => "push",
                Direction::Pull if self.is_cache() => "cache",
                Direction::Pull => "pull",
                Direction::Both => "both",
            }
            .to_owned(),
            cache: self.is_cache().then(|| CacheFigures::of(Counts::read(&self.state()))),
            other: state.to.clone(),
            copied_rows: progress.copied_rows,
            txid: at.map(|at| at.to_string()),
            position: progress.position.filter(|_| self.config.direction != Direction::Push),
            lag_transactions: behind,
            lag_seconds_at_most: match (behind, progress.time_ms) {
                (Some(0), _) => Some(0.0),
                (Some(_), Some(time_ms)) if !self.is_two_way() => {
                    Some((now_ms - time_ms).max(0) as f64 / 1000.0)
                }
                _ => None,
            },
            refused_rows: progress.refused,
            conflicts: progress.conflicts,
            paused_tables: progress
                .paused
                .iter()
                .map(|(table, reason)| Paused { table: table.clone(), reason: reason.clone() })
                .collect(),
            schedule: self.config.schedule.as_ref().map(ToString::to_string),
            paused_since: self.pause().since().map(text::rfc3339),
            confirmed_at: state.confirmed_ms.map(text::rfc3339),
            error: error.or(trouble.map(|trouble| trouble.message.clone())),
            hint: trouble.and_then(|trouble| trouble.hint.clone()),
            error_since: trouble.map(|trouble| text::rfc3339(trouble.since_ms)),
        }
    }
}

/// How the syncs of a database stand, where its backup ends with a transaction.
pub(crate) fn statuses(
    syncs: &[DatabaseSync],
    database: &Path,
    durable: Option<Txid>,
    now_ms: i64,
) -> Vec<SyncStatus> {
    let path = canonical(database);
    let of = syncs.iter().filter(|sync| canonical(&sync.database.path) == path);
    of.map(|sync| sync.status(durable, now_ms)).collect()
}

/// How often a cache had what it was asked for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct CacheFigures {
    #[serde(flatten)]
    pub(crate) counts: Counts,
    /// What was answered from SQLite, of all that was asked for; `None`: nothing was.
    pub(crate) hit_rate: Option<f64>,
}

impl CacheFigures {
    fn of(counts: Counts) -> CacheFigures {
        CacheFigures { hit_rate: counts.hit_rate(), counts }
    }

    fn text(&self) -> String {
        let Counts { rows, hits, negative_hits, stale, misses, errors, .. } = self.counts;
        let rows = text::count(usize::try_from(rows).unwrap_or(usize::MAX), "row");
        let rate = self.hit_rate.map_or(String::new(), |rate| {
            let here = hits + negative_hits + stale;
            format!("; {:.1} % of {} from here, {stale} of them stale", rate * 100.0, here + misses)
        });
        let errors = if errors > 0 { format!(", {errors} without an answer") } else { String::new() };
        format!("has {rows}{rate}{errors}")
    }
}

/// How a sync stands.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SyncStatus {
    pub(crate) name: String,
    /// `push`, `pull`, `cache` or `both`.
    pub(crate) direction: String,
    /// Of a cache.
    pub(crate) cache: Option<CacheFigures>,
    /// The other side, without a password; empty until it has run.
    pub(crate) other: String,
    /// Rows of the first copy that are there, while it is made.
    pub(crate) copied_rows: Option<u64>,
    /// Of a push: the transaction up to which everything is there; `None` until the first copy is.
    pub(crate) txid: Option<String>,
    /// Of a pull: up to where everything is here, as the other side counts; `None` until the first copy is.
    pub(crate) position: Option<String>,
    /// Transactions of the backup that are not there.
    pub(crate) lag_transactions: Option<u64>,
    /// How old the oldest of them can be.
    pub(crate) lag_seconds_at_most: Option<f64>,
    /// Rows that the other side cannot hold.
    pub(crate) refused_rows: u64,
    /// Rows that both sides had changed, since the sync began.
    pub(crate) conflicts: u64,
    pub(crate) paused_tables: Vec<Paused>,
    /// When it goes on, where it does not always.
    pub(crate) schedule: Option<String>,
    /// Since when somebody lets it rest.
    pub(crate) paused_since: Option<String>,
    pub(crate) confirmed_at: Option<String>,
    /// Why the last try failed, when it did.
    pub(crate) error: Option<String>,
    pub(crate) hint: Option<String>,
    pub(crate) error_since: Option<String>,
}

/// A table that stands still.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Paused {
    pub(crate) table: String,
    pub(crate) reason: String,
}

impl SyncStatus {
    /// What is wrong, in words.
    pub(crate) fn problems(&self) -> Vec<String> {
        let name = &self.name;
        let error = self.error.iter().filter(|_| self.paused_since.is_none()).map(|error| {
            let since = self.error_since.as_ref().map_or(String::new(), |since| format!(" since {since}"));
            let hint = self.hint.as_ref().map_or(String::new(), |hint| format!("; {hint}"));
            let does = match self.direction.as_str() {
                "both" => "go on",
                "cache" => "reach its server",
                direction => direction,
            };
            format!("the sync `{name}` does not {does}{since}: {error}{hint}")
        });
        let paused = self.paused_tables.iter().map(|paused| {
            format!("the sync `{name}` leaves the table `{}` as it is: {}", paused.table, paused.reason)
        });
        let refused = (self.refused_rows > 0).then(|| {
            let rows = text::count(usize::try_from(self.refused_rows).unwrap_or(usize::MAX), "row");
            format!("the sync `{name}` could not write {rows}; `litekeep sync refused {name}` lists them with the reason")
        });
        error.chain(paused).chain(refused).collect()
    }

    /// How far it is, in words.
    fn stands(&self) -> String {
        let compares = if self.direction == "both" { "compares both sides" } else { "makes the first copy" };
        match (&self.txid, &self.position, self.copied_rows, self.lag_transactions) {
            (None, None, Some(rows), _) => {
                let rows = text::count(usize::try_from(rows).unwrap_or(usize::MAX), "row");
                format!("{compares}, {rows} so far")
            }
            (None, None, None, _) => "has not begun".to_owned(),
            (None, Some(position), ..) => format!("follows, stands at {position}"),
            (Some(txid), _, _, Some(0)) => format!("has everything, up to transaction {txid}"),
            (Some(txid), _, _, behind) => {
                let behind = usize::try_from(behind.unwrap_or(0)).unwrap_or(usize::MAX);
                format!("stands at transaction {txid}, {} behind", text::count(behind, "transaction"))
            }
        }
    }

    pub(crate) fn text(&self) -> String {
        let stands = match &self.cache {
            Some(cache) if self.position.is_none() && self.copied_rows.is_none() => cache.text(),
            Some(cache) => format!("{}; {}", self.stands(), cache.text()),
            None => self.stands(),
        };
        let way = match self.direction.as_str() {
            "pull" | "cache" => "from",
            "both" => "with",
            _ => "to",
        };
        let other = if self.other.is_empty() { String::new() } else { format!(" {way} {}", self.other) };
        let conflicts = match usize::try_from(self.conflicts).unwrap_or(usize::MAX) {
            0 => String::new(),
            count => format!("; {} so far, see `litekeep sync conflicts`", text::count(count, "conflict")),
        };
        let rests = match (&self.paused_since, &self.schedule) {
            (Some(since), _) => format!("; paused since {since}, until `litekeep sync resume {}`", self.name),
            (None, Some(schedule)) => format!("; connects {schedule}"),
            (None, None) => String::new(),
        };
        format!("    sync {}{other}: {stands}{conflicts}{rests}\n", self.name)
    }
}

/// Where it goes.
///
/// # Errors
/// When its address or a type is none.
pub(crate) fn side(config: &SyncConfig, budget: &Budget) -> Result<Side> {
    let (name, budget) = (&config.name, budget.clone());
    Ok(match &config.other {
        OtherSide::Postgres(url) => {
            let address = litekeep_sync_postgres::Address::parse(url.expose())?.within(budget);
            let options = options(config, PgType::named, &PgType::names())?;
            Side::Postgres(Box::new(Postgres::new(address, name, options)))
        }
        OtherSide::Mysql(url) => {
            let address = litekeep_sync_mysql::Address::parse(url.expose())?.within(budget);
            let options = options(config, MyType::named, &MyType::names())?;
            Side::Mysql(Box::new(Mysql::new(address, name, options)))
        }
        #[cfg(feature = "mongodb")]
        OtherSide::Mongodb(url) => {
            use litekeep_schema::portable::mongodb::MongoType;
            let address = litekeep_sync_mongodb::Address::parse(url.expose())?.within(budget);
            let options = options(config, MongoType::named, &MongoType::names())?;
            Side::Mongodb(Box::new(litekeep_sync_mongodb::Mongo::new(address, name, options)))
        }
        #[cfg(not(feature = "mongodb"))]
        OtherSide::Mongodb(_) => return Err(no_client().into()),
    })
}

#[cfg(not(feature = "mongodb"))]
fn no_client() -> Failure {
    Failure::invalid("this build has no client for MongoDB")
        .hint("`cargo build --release --features mongodb` makes one that has")
}

/// Refuses a schema where there is none.
fn no_schema(config: &SyncConfig, server: &str) -> Result<()> {
    let Some(schema) = &config.schema else { return Ok(()) };
    let message =
        format!("`schema` is `{schema}`; {server} has none beside the database, which is in the URL");
    Err(Failure::invalid(message).hint("take `schema` out").into())
}

/// What it is asked for.
fn options<T>(config: &SyncConfig, named: fn(&str) -> Option<T>, names: &[&str]) -> Result<Options<T>> {
    let mut options =
        Options { schema: config.schema.clone(), names: config.names.clone(), types: BTreeMap::new() };
    for (column, name) in &config.types {
        let kind = named(name).ok_or_else(|| {
            Failure::invalid(format!("`types`: `{name}`, for `{column}`, is no type that a sync knows"))
                .hint(format!("the types are {}", names.join(", ")))
        })?;
        options.types.insert(column.clone(), kind);
    }
    Ok(options)
}

fn wanted(config: &SyncConfig) -> Wanted {
    Wanted { tables: config.tables.clone(), schema: config.schema.clone(), names: config.names.clone() }
}

fn wanted_of_mysql(config: &SyncConfig) -> litekeep_sync_mysql::source::Wanted {
    let (tables, names) = (config.tables.clone(), config.names.clone());
    litekeep_sync_mysql::source::Wanted { tables, names }
}

#[cfg(feature = "mongodb")]
fn wanted_of_mongodb(config: &SyncConfig) -> litekeep_sync_mongodb::source::Wanted {
    let (tables, names) = (config.tables.clone(), config.names.clone());
    litekeep_sync_mongodb::source::Wanted { tables, names }
}

/// Where it comes from.
///
/// # Errors
/// When it cannot come from there.
pub(crate) fn source(config: &SyncConfig, budget: &Budget) -> Result<Box<dyn Source>> {
    let budget = budget.clone();
    if let Some((column, _)) = config.types.iter().next() {
        let message =
            format!("`types` is for a sync to another server; this one comes from there: `{column}`");
        return Err(Failure::invalid(message).hint("take `types` out").into());
    }
    Ok(match &config.other {
        OtherSide::Postgres(url) => {
            let address = litekeep_sync_postgres::Address::parse(url.expose())?.within(budget);
            Box::new(PostgresSource::new(address, wanted(config)))
        }
        OtherSide::Mysql(url) => {
            let address = litekeep_sync_mysql::Address::parse(url.expose())?.within(budget);
            no_schema(config, "MySQL")?;
            Box::new(MysqlSource::new(address, wanted_of_mysql(config)))
        }
        #[cfg(feature = "mongodb")]
        OtherSide::Mongodb(url) => {
            let address = litekeep_sync_mongodb::Address::parse(url.expose())?.within(budget);
            no_schema(config, "MongoDB")?;
            Box::new(litekeep_sync_mongodb::MongoSource::new(address, wanted_of_mongodb(config)))
        }
        #[cfg(not(feature = "mongodb"))]
        OtherSide::Mongodb(_) => return Err(no_client().into()),
    })
}

/// Begins them. One that cannot begin is only reported: it must not keep an application from starting.
pub(crate) fn start(syncs: &[DatabaseSync], replication: &Arc<Replication>, followers: &mut Followers) {
    for sync in syncs {
        let begun = budget::is_enough(sync, syncs).and_then(|()| begin(sync, replication, followers));
        if let Err(error) = begun {
            tracing::error!(sync = sync.config.name, "could not start: {error:#}");
        }
    }
}

fn begin(sync: &DatabaseSync, replication: &Arc<Replication>, followers: &mut Followers) -> Result<()> {
    let (database, rhythm) = (sync.database.path.display(), sync.rhythm()?);
    if sync.is_cache() {
        let cache = sync.cache(false, true)?;
        tracing::info!(
            sync = sync.config.name,
            "{database} has rows of {} that are asked for",
            cache.place()
        );
        followers.start(|stop| cache.follow(stop));
        if !sync.follows_changes() {
            return Ok(());
        }
        let worker = sync.worker(vec![], false, None)?;
        followers.start(|stop| worker.follow(stop, rhythm, async |_| ()));
        return Ok(());
    }
    if sync.is_pull() {
        let worker = sync.worker(vec![], false, None)?;
        tracing::info!(sync = sync.config.name, "pulling {database} from {}", worker.state().to);
        // It waits at the server.
        followers.start(|stop| worker.follow(stop, rhythm, async |_| ()));
        return Ok(());
    }
    let stores = sync.stores(replication.stores())?;
    let news = News::new(&sync.database, replication, stores.first());
    if sync.is_two_way() {
        let durable = Durable(Arc::new(move || news.durable()));
        let worker = sync.worker(stores, false, Some(durable))?;
        tracing::info!(sync = sync.config.name, "{database} and {} go in step", worker.state().to);
        // It waits for both.
        followers.start(|stop| worker.follow(stop, rhythm, async |_| ()));
        return Ok(());
    }
    let worker = sync.worker(stores, false, None)?;
    tracing::info!(sync = sync.config.name, "pushing {database} to {}", worker.state().to);
    followers.start(|stop| worker.follow(stop, rhythm, async move |at| news.after(at).await));
    Ok(())
}
