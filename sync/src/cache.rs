//! Rows of a server's tables in SQLite, each from when it is first asked for.
//!
//! Promises:
//! - A row that is older than its times allow is not given, and does not stay in SQLite while this goes on.
//! - That there is no row says the server alone, never the want of an answer.
//! - A row and since when it is known are committed together, and it is known since before the server was asked. So no crash, no older copy
//!   of the database and no other litekeep makes a row look younger than it is.
//! - However many ask for a row at the same time, the server is asked once.

pub mod figures;
mod going;
mod link;
pub(crate) mod shelf;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use litekeep_env::{Clock as _, SystemClock};
use litekeep_rows::retry::Trouble;
use litekeep_sql::MirrorTable;
use tokio::sync::watch;

use self::figures::Figures;
use self::link::Link;
pub use self::shelf::Plan;
use self::shelf::{Said, Shelf, item};
use crate::cut::Cut;
use crate::pause::Pause;
use crate::source::{Source, SourceTable};
use crate::target::{key_text, key_value};
use crate::{Error, Kind, Value};

/// Keys that a server is asked for at once, at most.
const ASKED: usize = 200;
/// How long a server may take to answer, and to be connected to.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long an answer waits until the database has it, too.
const BUSY: Duration = Duration::from_secs(2);
/// After a server has not answered, whoever asks is told so for so long without asking it again.
const AWAY: Duration = Duration::from_secs(1);

/// What is kept of what, and for how long.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The sync's name.
    pub name: String,
    /// The database.
    pub database: PathBuf,
    /// It is made where it is not there.
    pub creates: bool,
    /// What of the tables is kept; all rows can be asked for.
    pub cut: Cut,
    /// How old a row may become.
    pub times: Times,
    /// Rows that are kept at most.
    pub max_rows: usize,
    /// Where it tells how it stands.
    pub state: PathBuf,
    /// A pull of the same name keeps some rows in step, and lets others go when they change; whether a litekeep is at it.
    pub follows: Option<bool>,
}

/// How old something may become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// A row that is given without asking the server.
    pub ttl: Duration,
    /// The same, after that: while the server is asked.
    pub stale: Duration,
    /// That there is no row.
    pub negative_ttl: Duration,
}

impl Times {
    /// A row that may be here at all.
    fn oldest(&self) -> Duration {
        self.ttl + self.stale
    }
}

/// A row by the names of its columns.
pub type Row = Vec<(String, Value)>;

/// An answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// `None`: there is no such row.
    pub row: Option<Row>,
    /// Where it is from.
    pub origin: Origin,
    /// How long ago the server was asked for it.
    pub age: Duration,
    /// Why it is not newer, or not kept.
    pub trouble: Option<String>,
}

/// What is here of a row.
enum Here {
    /// It may be given.
    Answer(Answer),
    /// It may be given where the server does not answer.
    Instead(Answer),
    /// Nothing that may be given.
    Nothing,
}

/// Where an answer is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It was here.
    Hit,
    /// It was here, and is older than it should be: the server is asked, for those who come later.
    Stale,
    /// The server.
    Miss,
}

impl Origin {
    /// As it is written.
    pub fn word(self) -> &'static str {
        match self {
            Origin::Hit => "hit",
            Origin::Stale => "stale",
            Origin::Miss => "miss",
        }
    }
}

/// The key of a row: its table, and its values as [`key_text`] has them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    table: String,
    texts: Vec<String>,
}

impl Key {
    fn of(table: &SourceTable, key: &[Value]) -> Key {
        Key { table: table.mirror.name.clone(), texts: key.iter().map(key_text).collect() }
    }

    fn values(&self) -> Vec<Value> {
        self.texts.iter().filter_map(|text| key_value(text)).collect()
    }
}

/// What a server has said.
#[derive(Clone, Debug)]
struct Found {
    row: Option<Row>,
    /// Since when it is known, milliseconds since the epoch.
    at_ms: i64,
    /// Why it is not kept.
    trouble: Option<String>,
}

type Outcome = Result<Found, Arc<Error>>;

/// Somebody who waits for a row.
struct Waiting {
    key: Key,
    tell: watch::Sender<Option<Outcome>>,
}

/// A cache.
pub struct Cache {
    settings: Settings,
    place: String,
    shelf: Shelf,
    link: tokio::sync::Mutex<Link>,
    pause: Pause,
    figures: Figures,
    known: Mutex<Known>,
}

/// What is known without the database.
#[derive(Default)]
struct Known {
    /// Those for whom the server is to be asked.
    waiting: Vec<Waiting>,
    /// What it is being asked for, and is to be.
    flights: HashMap<Key, watch::Receiver<Option<Outcome>>>,
    /// How often the server has answered.
    landings: u64,
    /// Keys of which there is no row, with since when that is known.
    absent: HashMap<Key, i64>,
    /// When a row was last asked for, by its item.
    used: HashMap<String, i64>,
    /// Rows that are kept; `None`: they have not been counted yet.
    rows: Option<usize>,
    trouble: Option<Trouble>,
    /// Tables that are not as they were, by their names there, with the reason.
    paused: BTreeMap<String, String>,
}

impl std::fmt::Debug for Cache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cache").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Cache {
    /// Opens nothing yet.
    pub fn new(settings: Settings, source: Box<dyn Source>) -> Arc<Cache> {
        Arc::new(Cache {
            place: source.name(),
            shelf: Shelf::new(&settings),
            link: tokio::sync::Mutex::new(Link::new(source)),
            pause: Pause::of(&settings.state),
            figures: Figures::of(&settings.state),
            known: Mutex::default(),
            settings,
        })
    }

    /// The server, without a password.
    pub fn place(&self) -> &str {
        &self.place
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The tables. Where nothing has begun yet, it begins.
    ///
    /// # Errors
    /// Those of the database, and of the server where it has not begun.
    pub async fn tables(&self) -> Result<Arc<Plan>, Error> {
        match self.plan().await? {
            Some(plan) => Ok(plan),
            None => self.begin().await,
        }
    }

    /// The row of one of the [tables](Self::tables) with a key, in the order of the table's key.
    ///
    /// # Errors
    /// Those of the server, where nothing is here that may be given.
    pub async fn get(self: &Arc<Self>, table: &SourceTable, key: Vec<Value>) -> Result<Answer, Error> {
        let (instead, mut flight) = loop {
            let landings = self.known().landings;
            let instead = match self.here(table, &key, landings).await? {
                Here::Answer(answer) => return Ok(answer),
                Here::Instead(instead) => Some(instead),
                Here::Nothing => None,
            };
            // What has come since the look is here now.
            if let Some(flight) = self.fly(Key::of(table, &key), false, landings) {
                break (instead, flight);
            }
        };
        self.figures.count(|figures| figures.misses += 1);
        let outcome = match tokio::time::timeout(PATIENCE, flight.wait_for(Option::is_some)).await {
            Ok(Ok(outcome)) => outcome.clone(),
            Ok(Err(_)) => None,
            Err(_) => Some(Err(Arc::new(self.late()))),
        };
        let lost = || Error::new(Kind::Internal, "ask the server: whoever did it ended without a word");
        let Found { row, at_ms, trouble } = match (outcome.ok_or_else(lost)?, instead) {
            (Ok(found), _) => found,
            (Err(_), Some(instead)) => return Ok(instead),
            (Err(error), None) => return Err(told(&error)),
        };
        let age = age(at_ms, SystemClock.unix_ms()).unwrap_or_default();
        Ok(Answer { row, origin: Origin::Miss, age, trouble })
    }

    /// What is here of a row.
    async fn here(
        self: &Arc<Self>,
        table: &SourceTable,
        key: &[Value],
        landings: u64,
    ) -> Result<Here, Error> {
        let now_ms = SystemClock.unix_ms();
        let times = self.settings.times;
        let found = self.shelf.look(table, key).await?;
        let answer = |row, origin, age, trouble| Here::Answer(Answer { row, origin, age, trouble });
        match found.map(|(row, at_ms)| (named(&table.mirror, row), at_ms)) {
            Some((row, None)) => {
                return Ok(match self.behind(table, now_ms) {
                    None => {
                        self.figures.count(|figures| figures.hits += 1);
                        answer(Some(row), Origin::Hit, Duration::ZERO, None)
                    }
                    // As it was when it was still kept in step.
                    Some((age, why)) => {
                        let (row, trouble) = (Some(row), Some(why));
                        Here::Instead(Answer { row, origin: Origin::Stale, age, trouble })
                    }
                });
            }
            Some((row, Some(at_ms))) => {
                if let Some(age) = age(at_ms, now_ms).filter(|age| *age <= times.oldest()) {
                    self.known().used.insert(item(&table.mirror.name, key), now_ms);
                    if age <= times.ttl {
                        self.figures.count(|figures| figures.hits += 1);
                        return Ok(answer(Some(row), Origin::Hit, age, None));
                    }
                    self.figures.count(|figures| figures.stale += 1);
                    self.fly(Key::of(table, key), true, landings);
                    let trouble = self.known().trouble.as_ref().map(|trouble| trouble.message.clone());
                    return Ok(answer(Some(row), Origin::Stale, age, trouble));
                }
            }
            None => {}
        }
        let absent = self.known().absent.get(&Key::of(table, key)).and_then(|at_ms| age(*at_ms, now_ms));
        Ok(match absent.filter(|age| *age <= times.negative_ttl) {
            Some(age) => {
                self.figures.count(|figures| figures.negative_hits += 1);
                answer(None, Origin::Hit, age, None)
            }
            None => Here::Nothing,
        })
    }

    fn late(&self) -> Error {
        let message = format!("{} has not answered within {} s", self.place, PATIENCE.as_secs());
        Error::new(Kind::Unavailable, message)
    }

    /// Asks the server for a row, where that is not being done; `None` where answers have come since there were so many `landings`,
    /// which may have been for this row.
    fn fly(
        self: &Arc<Self>,
        key: Key,
        is_refresh: bool,
        landings: u64,
    ) -> Option<watch::Receiver<Option<Outcome>>> {
        let mut known = self.known();
        // One whose asker has ended without a word does not land.
        if let Some(flight) = known.flights.get(&key).filter(|flight| flight.has_changed().is_ok()) {
            return Some(flight.clone());
        }
        if known.landings != landings {
            return None;
        }
        if is_refresh {
            self.figures.count(|figures| figures.refreshes += 1);
        }
        let (tell, flight) = watch::channel(None);
        known.flights.insert(key.clone(), flight.clone());
        known.waiting.push(Waiting { key, tell });
        drop(known);
        tokio::spawn(self.clone().ask());
        Some(flight)
    }

    /// Asks the server for all who wait; who comes meanwhile waits for the next one.
    async fn ask(self: Arc<Self>) {
        let mut link = self.link.lock().await;
        let waiting = std::mem::take(&mut self.known().waiting);
        let mut by_table: BTreeMap<String, Vec<Waiting>> = BTreeMap::new();
        for one in waiting {
            by_table.entry(one.key.table.clone()).or_default().push(one);
        }
        for (table, mut waiting) in by_table {
            while !waiting.is_empty() {
                let some: Vec<Waiting> = waiting.drain(..waiting.len().min(ASKED)).collect();
                let keys = some.iter().map(|one| one.key.values()).collect();
                let outcomes = self.fetch(&mut link, &table, keys).await;
                self.land(some, outcomes);
            }
        }
    }

    fn land(&self, waiting: Vec<Waiting>, outcomes: Vec<Outcome>) {
        let mut known = self.known();
        known.landings += 1;
        for (Waiting { key, tell }, outcome) in waiting.into_iter().zip(outcomes) {
            match &outcome {
                Ok(Found { row: None, at_ms, .. }) => {
                    // Whoever asks for what is not there again and again fills no memory.
                    if known.absent.len() >= self.settings.max_rows {
                        known.absent.clear();
                    }
                    known.absent.insert(key.clone(), *at_ms);
                }
                Ok(_) => _ = known.absent.remove(&key),
                Err(_) => self.figures.count(|figures| figures.errors += 1),
            }
            known.flights.remove(&key);
            tell.send_replace(Some(outcome));
        }
    }

    /// What the server has of these keys, which is kept.
    async fn fetch(&self, link: &mut Link, table: &str, keys: Vec<Vec<Value>>) -> Vec<Outcome> {
        if let Some(error) = self.rests().or_else(|| link.away(AWAY)) {
            return keys.iter().map(|_| Err(error.clone())).collect();
        }
        let fetched = self.fetch_all(link, table, &keys).await;
        let mut outcomes = vec![];
        for (key, fetched) in keys.into_iter().zip(fetched) {
            outcomes.push(match fetched {
                Some(outcome) => outcome,
                None => {
                    let alone = self.fetch_all(link, table, &[key]).await.pop().flatten();
                    let none =
                        || Err(Arc::new(Error::new(Kind::Internal, "ask the server: it has not been asked")));
                    alone.unwrap_or_else(none)
                }
            });
        }
        outcomes
    }

    /// The same; `None` for those that are to be asked for alone.
    async fn fetch_all(&self, link: &mut Link, table: &str, keys: &[Vec<Value>]) -> Vec<Option<Outcome>> {
        let was_connected = link.is_connected();
        let mut fetched = self.try_fetch(link, table, keys).await;
        // A connection may have ended long ago without a word.
        if was_connected && fetched.as_ref().is_err_and(|error| error.kind() == Kind::Unavailable) {
            fetched = self.try_fetch(link, table, keys).await;
        }
        match fetched {
            Ok(outcomes) => outcomes,
            // One of them may be to blame.
            Err(error) if error.kind() == Kind::Invalid && keys.len() > 1 => vec![None; keys.len()],
            Err(error) => keys.iter().map(|_| Some(Err(error.clone()))).collect(),
        }
    }

    async fn try_fetch(
        &self,
        link: &mut Link,
        table: &str,
        keys: &[Vec<Value>],
    ) -> Result<Vec<Option<Outcome>>, Arc<Error>> {
        let plan = self.reach(link).await?;
        let is_it = |known: &&SourceTable| known.mirror.name == table;
        let known = plan.tables.iter().find(is_it).ok_or_else(|| {
            let message = format!("the table `{table}` is none of the sync's any more");
            Arc::new(Error::new(Kind::Invalid, message))
        })?;
        if let Some(reason) = self.known().paused.get(&known.source) {
            let message = format!("the table `{table}` stands still: {reason}");
            let hint = format!("`litekeep sync resync {}` takes it as it is now", self.settings.name);
            return Err(Arc::new(Error::with_hint(Kind::Invalid, message, hint)));
        }
        let stage = match self.settings.follows {
            Some(_) => self.shelf.stage().await.map_err(Arc::new)?,
            None => None,
        };
        // Before the question: what happens after it may not be in the answer.
        let at_ms = SystemClock.unix_ms();
        let looked = tokio::time::timeout(PATIENCE, link.look(known, keys)).await;
        let looked = looked.unwrap_or_else(|_| Err(self.late()));
        let looked = looked.map_err(|error| self.failed(link, error))?;
        self.goes_well();
        let columns = &looked.grown.as_ref().unwrap_or(known).mirror;
        let said: Vec<(Vec<Value>, Said)> = keys
            .iter()
            .zip(&looked.said)
            .filter_map(|(key, said)| Some((key.clone(), said.clone()?)))
            .collect();
        let mut kept = self.keep((known, looked.grown.as_ref()), said, at_ms, stage).await.into_iter();
        let mut outcome = |said: Said| {
            let trouble = kept.next().flatten();
            match said {
                Ok(row) => Ok(Found { row: row.map(|row| named(columns, row)), at_ms, trouble }),
                Err(reason) => {
                    let message = format!("a row of `{table}` cannot be here as it is there: {reason}");
                    Err(Arc::new(Error::new(Kind::Invalid, message)))
                }
            }
        };
        Ok(looked.said.into_iter().map(|said| said.map(&mut outcome)).collect())
    }

    /// Keeps what the server has said; for each key why not, where it is not kept. An application that writes without a pause may keep others
    /// from it for long: then it is written behind the answer.
    async fn keep(
        &self,
        table: (&SourceTable, Option<&SourceTable>),
        said: Vec<(Vec<Value>, Said)>,
        at_ms: i64,
        stage: Option<String>,
    ) -> Vec<Option<String>> {
        let count = said.len();
        let keeping = tokio::time::timeout(BUSY, self.try_keep(table, said, at_ms, stage));
        keeping
            .await
            .unwrap_or_else(|_| vec![Some("it is not kept yet: the database is busy".to_owned()); count])
    }

    async fn try_keep(
        &self,
        table: (&SourceTable, Option<&SourceTable>),
        said: Vec<(Vec<Value>, Said)>,
        at_ms: i64,
        stage: Option<String>,
    ) -> Vec<Option<String>> {
        let count = said.len();
        let (kept, more) = match self.shelf.keep(table, said, at_ms, stage).await {
            Ok(Some(kept)) => kept,
            // It is here when it is asked for again.
            Ok(None) => return vec![None; count],
            Err(error) => {
                let why = format!("it is not kept: {error}");
                tracing::warn!(sync = self.settings.name, "a row that was asked for: {why}");
                return vec![Some(why); count];
            }
        };
        let rows = {
            let mut known = self.known();
            known.rows = known.rows.map(|rows| rows.saturating_add_signed(more));
            known.rows
        };
        let max = self.settings.max_rows;
        // With some room, so that not each row that comes looks for one that goes.
        let at_most = if rows.is_some() { max - max / 64 } else { max };
        if rows.is_none_or(|rows| rows > max)
            && let Err(error) = self.tidy(at_most).await
        {
            tracing::warn!(sync = self.settings.name, "make room for rows: {error}");
        }
        kept
    }

    /// Waits until the server is asked for nothing.
    pub async fn settle(&self) {
        loop {
            let Some(mut flight) = self.known().flights.values().next().cloned() else { return };
            if flight.wait_for(Option::is_some).await.is_err() {
                return;
            }
            tokio::task::yield_now().await;
        }
    }
}

/// A row by the names of its columns.
fn named(table: &MirrorTable, row: Vec<Value>) -> Row {
    table.columns.iter().map(|column| column.name.clone()).zip(row).collect()
}

/// How old something is; `None`: that is not known, for the clock was set back.
fn age(at_ms: i64, now_ms: i64) -> Option<Duration> {
    u64::try_from(now_ms.checked_sub(at_ms)?).ok().map(Duration::from_millis)
}

/// An error that several are told.
fn told(error: &Arc<Error>) -> Error {
    match error.hint() {
        Some(hint) => Error::with_hint(error.kind(), error.to_string(), hint),
        None => Error::new(error.kind(), error.to_string()),
    }
}
