//! The change feed: every transaction of a log with its rows, from a position on.
//!
//! Promises: transactions come in order, none is left out, and each position can be gone on from. Where the log has merged
//! transactions (beyond `any_second`), they come as one, which says so. A large transaction comes in parts, so that no more
//! than two of them are in memory. Small ones are opened and read many at a time where many are there.
//!
//! A consumer that applies the rows of a transaction one after the other, by their keys, comes to its state: of a table whose
//! rows can exchange keys, those that leave one come first.
//!
//! A transaction is a file of the log; of [`Feed::of_commits`] a single commit of the application, where a pack has it.

mod packs;

use crate::filters::Filters;
use crate::{Change, Error, Pair, Reader, RowRef, SchemaChange, Selection, Table, Value, key};
use litekeep_format::diff::{self, ParentMap};
use litekeep_format::{Catalog, DatabaseHeader, PageSource as _, TableLayout};
use litekeep_ltx::{FileName, Pgno, Point, Txid};
use litekeep_replicate::log_state::{self, Later, LogState};
use litekeep_replicate::parents;
use litekeep_replicate::restore::Goal;
use litekeep_sql::TableReader;
use litekeep_store::{Error as StoreError, FileRef, Log, PageFile, Store, plan};
use packs::Packs;
use std::collections::VecDeque;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// A state that has twice as many bytes of pages in memory as it was opened with, and so many more, is opened anew: by now the
/// log has merged most of them into large files. Where it has not, all are read again, which must be seldom.
const MORE_BYTES: usize = 16 << 20;
/// And so is one that keeps so many more files open.
const MORE_FILES: usize = 100;
/// Commits of packs that are read together, and about the bytes of their pages.
const COMMITS: usize = 256;
const COMMIT_BYTES: usize = 4 << 20;
/// Whoever takes the rows waits no longer for those of further transactions.
const TOGETHER: Duration = Duration::from_millis(10);
/// Between two listings of a log that has nothing new.
const LISTING_PAUSE: Duration = Duration::from_secs(30);
/// Rows of one part, and about its bytes, unless one row alone is larger.
const PART_ROWS: usize = 1000;
const PART_BYTES: usize = 1 << 20;

/// Of a transaction that has written so many pages, the rows of a table are held until all that leave a key have come.
const FEW_PAGES: usize = 64;

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
    /// How many events came with its earlier parts.
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
    keeps_rows_whole: bool,
    /// The last transaction that was given to its end.
    at: Point,
    /// The time of the state that it began after.
    time_ms: i64,
    /// What is known of its state; opened anew after an error, and when it has become long.
    position: Option<Position>,
    /// Files of the log that were listed.
    due: VecDeque<FileRef>,
    /// How many of its files were found one after the other since one was not there yet.
    found: usize,
    /// What comes after the position, opened.
    ahead: Vec<Step>,
    /// Why no more of it could be opened.
    failed: Option<Error>,
    /// When the log was listed last.
    listed_at: Option<Instant>,
    /// Where single commits come from, if they are wanted.
    packs: Option<Packs>,
    /// The transactions that are being read.
    reading: Option<Reading>,
    /// What was read of them.
    ready: VecDeque<Transaction>,
}

#[derive(Debug)]
struct Reading {
    parts: mpsc::Receiver<Vec<Transaction>>,
    /// Has the state after them. Ends early when nobody takes the parts any more.
    task: JoinHandle<Result<Position, Error>>,
}

/// A transaction to read.
#[derive(Debug)]
struct Step {
    later: Later,
    first: Txid,
    seq: Option<u32>,
}

#[derive(Debug)]
struct Position {
    state: LogState,
    /// How many files it was opened with, and bytes of pages.
    files: usize,
    bytes: usize,
    parents: ParentMap,
    /// Of the schema, as it was opened with: each change counts.
    version: u32,
    catalog: Catalog,
    layouts: TableReader,
    filters: Filters,
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
            keeps_rows_whole: false,
            at,
            time_ms,
            position,
            due: VecDeque::new(),
            found: 0,
            ahead: vec![],
            failed: None,
            listed_at: None,
            packs: None,
            reading: None,
            ready: VecDeque::new(),
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

    /// A row that gets another key comes as one that is updated, and not as one that is gone and one that is new. Rows come in any
    /// order then.
    #[must_use]
    pub fn with_whole_rows(self) -> Feed {
        Feed { keeps_rows_whole: true, ..self }
    }

    /// Whether each of the wanted tables is there, in the state that it began after or in the last one of the log.
    ///
    /// # Errors
    /// `Invalid` for one that is in neither; those of a restore of the last state.
    pub fn check_tables(&self) -> impl Future<Output = Result<(), Error>> + Send + use<> {
        let (store, wanted) = (self.store.clone(), self.wanted.clone());
        let first = self.position.as_ref().map_or_else(Catalog::empty, |position| position.catalog.clone());
        async move {
            if wanted.check(&first, &first).is_ok() {
                return Ok(());
            }
            let last = Position::open(&store, Goal::Latest).await?.catalog;
            wanted.check(&first, &last)
        }
    }

    /// How rows of a table are laid out in the state that it began after, or else in the last one of the log.
    ///
    /// # Errors
    /// Those of a restore of the last state.
    pub fn layout(
        &self,
        table: &str,
    ) -> impl Future<Output = Result<Option<TableLayout>, Error>> + Send + use<> {
        let (store, table) = (self.store.clone(), table.to_owned());
        let of = move |catalog: &Catalog| catalog.table(&table).map(|table| table.layout.clone());
        let first = self.position.as_ref().and_then(|position| of(&position.catalog));
        async move {
            match first {
                Some(layout) => Ok(Some(layout)),
                None => Ok(of(&Position::open(&store, Goal::Latest).await?.catalog)),
            }
        }
    }

    /// Whether the schema is the same in the state that it began after and in the last one of the log, and has not changed in
    /// between.
    ///
    /// # Errors
    /// Those of a restore of the last state.
    pub fn has_one_schema(&self) -> impl Future<Output = Result<bool, Error>> + Send + use<> {
        let store = self.store.clone();
        let first = self.position.as_ref().map(|position| (position.version, position.catalog.clone()));
        async move {
            let last = Position::open(&store, Goal::Latest).await?;
            Ok(first.is_some_and(|(version, catalog)| {
                version == last.version && catalog.rows().eq(last.catalog.rows())
            }))
        }
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
            (self.ahead, self.failed) = (vec![], None);
            self.list_packs_again();
        }
        next
    }

    fn list_packs_again(&mut self) {
        self.packs = self.packs.take().map(|_| Packs::new(&self.store));
    }

    async fn try_next(&mut self) -> Result<Option<Transaction>, Error> {
        loop {
            if let Some(part) = self.ready.pop_front() {
                if part.is_last {
                    self.at = part.end;
                }
                return Ok(Some(part));
            }
            let Some(reading) = &mut self.reading else {
                if self.begin().await? {
                    continue;
                }
                return Ok(None);
            };
            if let Some(parts) = reading.parts.recv().await {
                self.ready = parts.into();
                continue;
            }
            let read = (&mut reading.task).await;
            self.reading = None;
            let read = read.map_err(|e| Error::new(crate::Kind::Internal, format!("read the log: {e}")))?;
            self.position = Some(read?).filter(|position| !position.is_long());
        }
    }

    /// Begins to read the next transactions; `false` when there are none yet.
    async fn begin(&mut self) -> Result<bool, Error> {
        if self.position.is_none() {
            self.position = Some(Position::open(&self.store, self.at.into()).await?);
        }
        if self.failed.is_none() {
            // Those before it come first.
            self.failed = self.open_ahead().await.err();
        }
        if self.ahead.is_empty() {
            return self.failed.take().map_or(Ok(false), Err);
        }
        let position = self.position.take().expect("opened above");
        let steps = std::mem::take(&mut self.ahead);
        self.read(position, steps);
        Ok(true)
    }

    /// Opens what comes after the position, as far as it is there. Nothing of it is lost when this is not awaited to its end.
    async fn open_ahead(&mut self) -> Result<(), Error> {
        if self.packs.is_some() && self.open_commits().await? {
            return Ok(());
        }
        // A file holds all of its commits.
        let Point { txid: at, seq: None } = self.at else { return Err(rest_is_gone(self.at)) };
        let mut files = self.open_files(at).await?;
        let Some(first) = files.first().map(|file| file.header().max_txid) else { return Ok(()) };
        if let Some(packs) = &mut self.packs {
            if packs.look_again(at.next()) && self.open_commits().await? {
                return Ok(());
            }
            // A pack tells more than a file. One that cannot be read has been forgotten.
            let packs = self.packs.as_ref();
            let is_packed = |file: &PageFile| packs.is_some_and(|packs| packs.has(file.header().max_txid));
            let to = files.iter().position(|file| file.header().max_txid != first && is_packed(file));
            files.truncate(to.unwrap_or(files.len()));
        }
        let state = &self.position.as_ref().expect("there is one").state;
        let mut reached = at;
        for file in files {
            let first = file.header().min_txid.max(reached.next());
            reached = file.header().max_txid;
            match state.after_file(file) {
                Ok(later) => self.ahead.push(Step { later, first, seq: None }),
                Err(e) if self.ahead.is_empty() => return Err(e),
                Err(_) => break,
            }
        }
        Ok(())
    }

    /// Opens the commits of packs that come next; whether there are any.
    async fn open_commits(&mut self) -> Result<bool, Error> {
        let Some(packs) = &mut self.packs else { return Ok(false) };
        let mut bytes: usize = self.ahead.iter().map(|step| step.later.bytes()).sum();
        while self.ahead.len() < COMMITS && bytes < COMMIT_BYTES {
            let at = self.ahead.last().map_or(self.at, |step| step.later.point());
            let Some((page_size, single)) = packs.next(at).await? else { break };
            let seq = (single.entry.parts > 1).then_some(single.seq);
            let state = &self.position.as_ref().expect("there is one").state;
            let later = state.after_commit(page_size, single)?;
            bytes += later.bytes();
            self.ahead.push(Step { first: later.txid, later, seq });
        }
        Ok(!self.ahead.is_empty())
    }

    /// Reads what later states have, each of which is over the one before.
    fn read(&mut self, mut position: Position, steps: Vec<Step>) {
        let (out, parts) = mpsc::channel(1);
        let (wanted, keeps_rows_whole) = (self.wanted.clone(), self.keeps_rows_whole);
        let task = tokio::task::spawn_blocking(move || {
            let mut events = Events::new(out, keeps_rows_whole);
            let read = position.read(steps, &wanted, &mut events);
            events.send()?;
            read.map(|()| position)
        });
        self.reading = Some(Reading { parts, task });
    }

    /// Opens the files that follow a transaction, as far as they are there.
    async fn open_files(&mut self, at: Txid) -> Result<Vec<PageFile>, Error> {
        while self.due.pop_front_if(|file| file.max() <= at).is_some() {}
        let next = FileName { min: at.next(), max: at.next() };
        if let Some(file) = self.due.front().filter(|file| (file.level, file.name) != (0, next)) {
            return Ok(vec![self.store.open_pages(file).await?]);
        }
        let files = self.store.open_following(at, self.found).await?;
        self.found = if files.is_empty() { 0 } else { self.found + files.len() };
        // Compaction may have merged it, which is minutes ago then.
        let is_due = self.due.is_empty()
            && self.listed_at.is_some_and(|listed_at| listed_at.elapsed() < LISTING_PAUSE);
        if !files.is_empty() || is_due {
            return Ok(files);
        }
        let log = self.store.list().await?;
        self.listed_at = Some(Instant::now());
        self.due.clear();
        if log.last().is_none_or(|last| last <= at) {
            return Ok(vec![]);
        }
        self.due = plan::steps(&log, at).map_err(|error| begins_anew(&log, error))?.into();
        self.list_packs_again();
        match self.due.front() {
            Some(file) => Ok(vec![self.store.open_pages(file).await?]),
            None => Ok(vec![]),
        }
    }
}

/// The error for transactions of which the log has only a snapshot after them.
fn begins_anew(log: &Log, error: StoreError) -> Error {
    let StoreError::Hole { first_missing, .. } = &error else { return error.into() };
    let snapshots = log.files().filter(|file| file.is_base() && file.max() >= *first_missing);
    let Some(snapshot) = snapshots.map(FileRef::max).min() else { return error.into() };
    Error::with_hint(
        crate::Kind::Invalid,
        format!(
            "the log begins anew with a snapshot after transaction {snapshot}, as where the pages get another size: which rows \
             transactions {first_missing} to {snapshot} have changed is not known"
        ),
        format!("`--from {snapshot}` goes on after it"),
    )
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
            let version = match state.view().page_count() {
                0 => 0,
                _ => DatabaseHeader::parse(&state.view().page(Pgno::FIRST)?)?.schema_cookie,
            };
            let (files, bytes) = (state.files(), state.bytes());
            let filters = Filters::default();
            Ok(Position { state, files, bytes, parents, version, catalog, layouts, filters })
        });
        opened.await.map_err(|e| Error::new(crate::Kind::Internal, format!("read the log: {e}")))?
    }

    fn is_long(&self) -> bool {
        self.state.files() > 2 * self.files + MORE_FILES || self.state.bytes() > 2 * self.bytes + MORE_BYTES
    }

    /// Gives what later states have, one after the other; it is the last one's position then.
    fn read(&mut self, steps: Vec<Step>, wanted: &Selection, events: &mut Events) -> Result<(), Error> {
        for step in steps {
            events.begin(&step);
            self.read_one(step.later, wanted, events)?;
            events.end()?;
        }
        Ok(())
    }

    fn read_one(&mut self, later: Later, wanted: &Selection, events: &mut Events) -> Result<(), Error> {
        let (old, new) = (self.state.view(), self.state.view_of(&later));
        let states = (&old, &self.parents, &self.catalog);
        let written = later.written();
        let is_large = written.pages.len() > FEW_PAGES;
        let can_exchange = |table: &Table| wanted.has_table(&table.name) && has_keys_apart(table);
        let passes: &[Pass] = match events.keeps_rows_whole {
            true => &[Pass::Whole],
            false if is_large && self.catalog.tables().iter().any(|table| can_exchange(table)) => {
                &[Pass::Leaving, Pass::Coming]
            }
            false => &[Pass::Sorted],
        };
        let mut catalog = self.catalog.clone();
        for pass in passes {
            events.pass = *pass;
            let known = (&self.layouts, &mut self.filters);
            catalog = wanted.differences(states, &new, written, known, events)?;
        }
        self.parents.advance((&old, self.catalog.roots()), (&new, catalog.roots()), written)?;
        self.catalog = catalog;
        self.state.advance(later);
        Ok(())
    }
}

/// Whether rows have keys that are not where they are found: they can exchange them.
fn has_keys_apart(table: &Table) -> bool {
    table.layout.has_hidden_rowid() && !table.layout.primary_key.is_empty()
}

/// Which rows come of tables whose rows can exchange keys.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pass {
    /// All, as they are found.
    Whole,
    /// First those that leave a key.
    Sorted,
    /// Only those, and of no other tables.
    Leaving,
    /// All others.
    Coming,
}

/// Gives rows part by part, and small transactions together.
struct Events {
    keeps_rows_whole: bool,
    pass: Pass,
    /// Rows of the table that come after those that leave a key.
    coming: Vec<RowEvent>,
    out: mpsc::Sender<Vec<Transaction>>,
    /// Parts that are whole.
    whole: Vec<Transaction>,
    /// Their rows, and about the bytes of these.
    rows: usize,
    bytes: usize,
    sent_at: Instant,
    /// The part that is being made, and about the bytes of its rows.
    part: Option<Transaction>,
    part_bytes: usize,
}

impl Events {
    fn new(out: mpsc::Sender<Vec<Transaction>>, keeps_rows_whole: bool) -> Events {
        let (whole, coming, sent_at) = (vec![], vec![], Instant::now());
        let (pass, part) = (Pass::Whole, None);
        Events { keeps_rows_whole, pass, coming, out, whole, rows: 0, bytes: 0, sent_at, part, part_bytes: 0 }
    }

    fn begin(&mut self, step: &Step) {
        let Step { later, first, seq } = step;
        self.part_bytes = 0;
        self.part = Some(Transaction {
            txid: later.txid,
            seq: *seq,
            end: later.point(),
            first: *first,
            time_ms: later.time_ms,
            schema: vec![],
            rows: vec![],
            before: 0,
            is_last: false,
        });
    }

    /// The transaction has no more rows.
    fn end(&mut self) -> Result<(), Error> {
        self.end_table()?;
        self.finish_part(true);
        let is_much = self.rows >= PART_ROWS || self.bytes >= PART_BYTES;
        if is_much || self.sent_at.elapsed() >= TOGETHER { self.send() } else { Ok(()) }
    }

    fn part(&mut self) -> &mut Transaction {
        self.part.as_mut().expect("a transaction has begun")
    }

    fn finish_part(&mut self, is_last: bool) {
        let part = self.part();
        let before = part.before + part.schema.len() + part.rows.len();
        let next = Transaction { schema: vec![], rows: vec![], before, ..*part };
        let part = Transaction { is_last, ..std::mem::replace(part, next) };
        self.rows += part.rows.len();
        self.bytes += std::mem::take(&mut self.part_bytes);
        self.whole.push(part);
    }

    /// Waits until somebody takes what was sent before.
    fn send(&mut self) -> Result<(), Error> {
        (self.rows, self.bytes, self.sent_at) = (0, 0, Instant::now());
        let whole = std::mem::take(&mut self.whole);
        if whole.is_empty() {
            return Ok(());
        }
        let gone = |_| Error::new(crate::Kind::Unavailable, "nobody takes the changes any more");
        self.out.blocking_send(whole).map_err(gone)
    }

    fn end_table(&mut self) -> Result<(), Error> {
        std::mem::take(&mut self.coming).into_iter().try_for_each(|event| self.push(event))
    }

    fn push(&mut self, event: RowEvent) -> Result<(), Error> {
        self.part_bytes += event.bytes();
        let rows = &mut self.part().rows;
        rows.push(event);
        if rows.len() < PART_ROWS && self.part_bytes < PART_BYTES {
            return Ok(());
        }
        self.finish_part(false);
        self.send()
    }
}

impl Reader for Events {
    fn schema(&mut self, changes: &[SchemaChange]) -> Result<(), Error> {
        if self.pass != Pass::Coming {
            self.part().schema = changes.to_vec();
        }
        Ok(())
    }

    fn table(&mut self, _: Pair<'_>, _: &[Option<usize>]) -> Result<(), Error> {
        self.end_table()
    }

    fn change(&mut self, pair: Pair<'_>, change: &Change<'_>) -> Result<(), Error> {
        let (before, after) = change.sides();
        if self.pass == Pass::Whole || !has_keys_apart(pair.either()) {
            return match self.pass {
                Pass::Leaving => Ok(()),
                _ => self.push(RowEvent::of(pair, before, after)?),
            };
        }
        let leaves = match (&before, &after) {
            // Names of columns are no part of a key.
            (Some(old), Some(new)) => !values(&key(old)?).eq(values(&key(new)?)),
            (before, _) => before.is_some(),
        };
        if leaves && self.pass != Pass::Coming {
            self.push(RowEvent::of(pair, before, None)?)?;
        }
        if after.is_none() || self.pass == Pass::Leaving {
            return Ok(());
        }
        let event = RowEvent::of(pair, before.filter(|_| !leaves), after)?;
        match self.pass {
            Pass::Sorted => self.coming.push(event),
            _ => self.push(event)?,
        }
        Ok(())
    }
}

fn values(key: &[(String, Value)]) -> impl Iterator<Item = &Value> {
    key.iter().map(|(_, value)| value)
}

impl RowEvent {
    fn of(pair: Pair<'_>, before: Option<RowRef<'_>>, after: Option<RowRef<'_>>) -> Result<RowEvent, Error> {
        let named = |row: Option<RowRef<'_>>| row.as_ref().map(crate::named).transpose();
        let row = after.or(before);
        Ok(RowEvent {
            table: pair.either().name.clone(),
            key: row.as_ref().map_or(Ok(vec![]), key)?,
            before: named(before)?,
            after: named(after)?,
        })
    }

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
