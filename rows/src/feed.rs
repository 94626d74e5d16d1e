//! The change feed: every transaction of a log with its rows, from a position on.
//!
//! Promises: transactions come in order, none is left out, and each position can be gone on from. Where the log has merged
//! transactions (beyond `any_second`), they come as one, which says so. A large transaction comes in parts, so that no more
//! than two of them are in memory.
//!
//! A transaction is a file of the log; of [`Feed::of_commits`] a single commit of the application, where a pack has it.

mod packs;

use crate::{Change, Error, Pair, Reader, RowRef, SchemaChange, Selection, Value, key, row};
use litekeep_format::Catalog;
use litekeep_format::diff::{self, ParentMap};
use litekeep_ltx::{FileName, Point, Txid};
use litekeep_replicate::log_state::{self, Later, LogState};
use litekeep_replicate::parents;
use litekeep_replicate::restore::Goal;
use litekeep_sql::TableReader;
use litekeep_store::{FileRef, Store, plan};
use packs::Packs;
use std::collections::VecDeque;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// A state of twice as many files as it was opened with, and so many more, is opened anew: by now the log has fewer. Where it has
/// not, all are opened again, which must be seldom.
const MORE_FILES: usize = 500;
/// And so is one that has so many bytes of single commits in memory.
const MOST_BYTES: usize = 64 << 20;
/// Between two listings of a log that has nothing new.
const LISTING_PAUSE: Duration = Duration::from_secs(30);
/// Rows of one part, and about its bytes, unless one row alone is larger.
const PART_ROWS: usize = 1000;
const PART_BYTES: usize = 1 << 20;

/// What a transaction did: most come whole, large ones in parts.
#[derive(Clone, Debug)]
pub struct Transaction {
    /// The file of the log that it is, or is part of.
    pub txid: Txid,
    /// Which of the application's commits in that file, from 1; `None`: all that comes of it.
    pub seq: Option<u32>,
    /// The state after it.
    pub end: Point,
    /// The first of those that the log has merged with it; else the same.
    pub first: Txid,
    /// When it was seen, milliseconds since the epoch.
    pub time_ms: i64,
    /// How the schema changed.
    pub schema: Vec<SchemaChange>,
    /// The rows that changed, those of one table together.
    pub rows: Vec<RowEvent>,
    /// How many changes of schema and rows came with its earlier parts.
    pub before: usize,
    /// It ends with this part.
    pub is_last: bool,
}

impl Transaction {
    /// What it is, and the position to go on from once it has ended.
    pub fn point(&self) -> Point {
        Point { txid: self.txid, seq: self.seq }
    }
}

/// A row that changed.
#[derive(Clone, Debug, PartialEq)]
pub struct RowEvent {
    /// The table.
    pub table: String,
    /// Its key, or rowid.
    pub key: Vec<(String, Value)>,
    /// As it was; `None`: it is new.
    pub before: Option<Vec<(String, Value)>>,
    /// As it is; `None`: it is gone.
    pub after: Option<Vec<(String, Value)>>,
}

/// Reads the transactions of a log.
#[derive(Debug)]
pub struct Feed {
    store: Store,
    wanted: Selection,
    /// The last transaction that was given to its end.
    at: Point,
    /// The time of the state that it began after.
    time_ms: i64,
    /// What is known of its state; opened anew after an error, and when it has become long.
    position: Option<Position>,
    /// Files of the log that were listed.
    due: VecDeque<FileRef>,
    /// When the log was listed last.
    listed_at: Option<Instant>,
    /// Where single commits come from, if they are wanted.
    packs: Option<Packs>,
    /// The transaction that is being read.
    reading: Option<Reading>,
}

#[derive(Debug)]
struct Reading {
    parts: mpsc::Receiver<Transaction>,
    /// Has the state after it. Ends early when nobody takes the parts any more.
    task: JoinHandle<Result<Position, Error>>,
}

#[derive(Debug)]
struct Position {
    state: LogState,
    /// How many files it was opened with.
    files: usize,
    parents: ParentMap,
    catalog: Catalog,
    layouts: TableReader,
}

impl Feed {
    /// Begins after a state. Call from within the runtime.
    ///
    /// # Errors
    /// Those of a restore of the state.
    pub async fn open(store: &Store, from: Goal, wanted: Selection) -> Result<Feed, Error> {
        let position = Position::open(store, from).await?;
        let (at, time_ms) = (position.state.point(), position.state.time_ms);
        let (store, position) = (store.clone(), Some(position));
        Ok(Feed {
            store,
            wanted,
            at,
            time_ms,
            position,
            due: VecDeque::new(),
            listed_at: None,
            packs: None,
            reading: None,
        })
    }

    /// The same, telling single commits apart where that is possible.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn of_commits(store: &Store, from: Goal, wanted: Selection) -> Result<Feed, Error> {
        let feed = Feed::open(store, from, wanted).await?;
        Ok(Feed { packs: Some(Packs::new(store)), ..feed })
    }

    /// After what it goes on.
    pub fn at(&self) -> Point {
        self.at
    }

    /// When the state was seen that it began after, milliseconds since the epoch.
    pub fn time_ms(&self) -> i64 {
        self.time_ms
    }

    /// The next transaction, or the next part of it; `None` when the log has no more yet. Costs one request when there is
    /// none. Nothing is lost when it is not awaited to its end.
    ///
    /// # Errors
    /// Those of the store, and `Corrupt` for a hole in the log or damaged pages. Asked again, it begins the same transaction
    /// anew.
    pub async fn next(&mut self) -> Result<Option<Transaction>, Error> {
        let next = self.try_next().await;
        if next.is_err() {
            // Everything is looked up anew: retention may have taken files away.
            (self.due, self.listed_at, self.reading) = (VecDeque::new(), None, None);
            self.list_packs_again();
        }
        next
    }

    fn list_packs_again(&mut self) {
        self.packs = self.packs.take().map(|_| Packs::new(&self.store));
    }

    async fn try_next(&mut self) -> Result<Option<Transaction>, Error> {
        loop {
            let Some(reading) = &mut self.reading else {
                if self.begin().await? {
                    continue;
                }
                return Ok(None);
            };
            if let Some(part) = reading.parts.recv().await {
                if part.is_last {
                    self.at = part.end;
                }
                return Ok(Some(part));
            }
            let read = (&mut reading.task).await;
            self.reading = None;
            let read = read.map_err(|e| Error::new(crate::Kind::Internal, format!("read the log: {e}")))?;
            self.position = Some(read?).filter(|position| !position.is_long());
        }
    }

    /// Begins to read the next transaction; `false` when there is none yet.
    async fn begin(&mut self) -> Result<bool, Error> {
        if self.position.is_none() {
            self.position = Some(Position::open(&self.store, self.at.into()).await?);
        }
        let mut has_looked = false;
        loop {
            // Nothing is awaited between what it gives and the reading of it.
            if let Some(packs) = &mut self.packs
                && let Some((page_size, single)) = packs.next(self.at).await?
            {
                let position = self.position.take().expect("opened above");
                let seq = (single.entry.parts > 1).then_some(single.seq);
                let later = position.state.after_commit(page_size, single)?;
                let first = later.txid;
                self.read(position, later, (first, seq));
                return Ok(true);
            }
            // A file holds all of its commits.
            let Point { txid: at, seq: None } = self.at else { return Err(rest_is_gone(self.at)) };
            let Some(file) = self.next_file(at).await? else { return Ok(false) };
            if !has_looked && self.packs.as_mut().is_some_and(|packs| packs.look_again(at.next())) {
                has_looked = true;
                continue;
            }
            let state = &self.position.as_ref().expect("opened above").state;
            let later = state.after(&self.store, &file).await?;
            let position = self.position.take().expect("opened above");
            self.read(position, later, (file.min().max(at.next()), None));
            return Ok(true);
        }
    }

    /// Reads what a later state has, which begins with a transaction or is one of its commits.
    fn read(&mut self, mut position: Position, later: Later, (first, seq): (Txid, Option<u32>)) {
        let (out, parts) = mpsc::channel(1);
        let part = Transaction {
            txid: later.txid,
            seq,
            end: later.point(),
            first,
            time_ms: later.time_ms,
            schema: vec![],
            rows: vec![],
            before: 0,
            is_last: false,
        };
        let (wanted, events) = (self.wanted.clone(), Events { out, part, bytes: 0 });
        let task = tokio::task::spawn_blocking(move || {
            position.read(later, &wanted, events)?;
            Ok(position)
        });
        self.reading = Some(Reading { parts, task });
    }

    async fn next_file(&mut self, at: Txid) -> Result<Option<FileRef>, Error> {
        self.due.retain(|file| file.max() > at);
        if let Some(file) = self.due.front() {
            return Ok(Some(file.clone()));
        }
        let next = FileName { min: at.next(), max: at.next() };
        if let Some(file) = self.store.find(0, next).await? {
            return Ok(Some(file));
        }
        // Compaction may have merged it, which is minutes ago then.
        if self.listed_at.is_some_and(|listed_at| listed_at.elapsed() < LISTING_PAUSE) {
            return Ok(None);
        }
        let log = self.store.list().await?;
        self.listed_at = Some(Instant::now());
        if log.last().is_none_or(|last| last <= at) {
            return Ok(None);
        }
        self.due = plan::steps(&log, at)?.into();
        self.list_packs_again();
        Ok(self.due.front().cloned())
    }
}

/// The error for a place between two commits that no pack has any more.
fn rest_is_gone(at: Point) -> Error {
    Error::with_hint(
        crate::Kind::Invalid,
        format!("what follows commit {at} of its transaction is not kept by itself any more"),
        match at.whole() {
            Some(before) => {
                format!("go on from the transaction before, `{before}`: what was seen of it comes again")
            }
            None => "begin anew".to_owned(),
        },
    )
}

impl Position {
    async fn open(store: &Store, goal: Goal) -> Result<Position, Error> {
        let state = log_state::open(store, goal).await?;
        let parents = parents::of(store, &state).await?;
        let opened = tokio::task::spawn_blocking(move || {
            let layouts = TableReader::new()?;
            let catalog = diff::catalog(&state.view(), &layouts)?;
            let files = state.files();
            Ok(Position { state, files, parents, catalog, layouts })
        });
        opened.await.map_err(|e| Error::new(crate::Kind::Internal, format!("read the log: {e}")))?
    }

    fn is_long(&self) -> bool {
        self.state.files() > 2 * self.files + MORE_FILES || self.state.commit_bytes() > MOST_BYTES
    }

    /// Gives what the later state has; it is the position then.
    fn read(&mut self, later: Later, wanted: &Selection, mut events: Events) -> Result<(), Error> {
        let (old, new) = (self.state.view(), self.state.view_of(&later));
        let states = (&old, &self.parents, &self.catalog);
        let written = later.written();
        let catalog = wanted.differences(states, &new, written, &self.layouts, &mut events)?;
        self.parents.advance((&old, self.catalog.roots()), (&new, catalog.roots()), written)?;
        self.catalog = catalog;
        self.state.advance(later);
        events.give(true)
    }
}

/// Gives rows part by part.
struct Events {
    out: mpsc::Sender<Transaction>,
    part: Transaction,
    /// About the bytes of its rows.
    bytes: usize,
}

impl Events {
    /// Waits until somebody takes the part before.
    fn give(&mut self, is_last: bool) -> Result<(), Error> {
        let before = self.part.before + self.part.schema.len() + self.part.rows.len();
        let next = Transaction { schema: vec![], rows: vec![], before, ..self.part };
        let part = Transaction { is_last, ..std::mem::replace(&mut self.part, next) };
        self.bytes = 0;
        let gone = |_| Error::new(crate::Kind::Unavailable, "nobody takes the changes any more");
        self.out.blocking_send(part).map_err(gone)
    }
}

impl Reader for Events {
    fn schema(&mut self, changes: &[SchemaChange]) -> Result<(), Error> {
        self.part.schema = changes.to_vec();
        Ok(())
    }

    fn change(&mut self, pair: Pair<'_>, change: &Change<'_>) -> Result<(), Error> {
        let (before, after) = match change {
            Change::Inserted(new) => (None, Some(new)),
            Change::Updated(old, new) => (Some(old), Some(new)),
            Change::Deleted(old) => (Some(old), None),
        };
        let named = |row: Option<&RowRef<'_>>| row.map(crate::named).transpose();
        let event = RowEvent {
            table: pair.either().name.clone(),
            key: key(&row(change))?,
            before: named(before)?,
            after: named(after)?,
        };
        self.bytes += event.bytes();
        self.part.rows.push(event);
        if self.part.rows.len() < PART_ROWS && self.bytes < PART_BYTES {
            return Ok(());
        }
        self.give(false)
    }
}

impl RowEvent {
    /// About how much memory it takes.
    fn bytes(&self) -> usize {
        let value = |value: &Value| match value {
            Value::Text(bytes) | Value::Blob(bytes) => bytes.len(),
            _ => 8,
        };
        let rows = [&self.before, &self.after].into_iter().flatten().flatten();
        rows.map(|(name, of)| name.len() + value(of)).sum()
    }
}
