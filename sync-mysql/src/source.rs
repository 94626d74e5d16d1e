//! Tables of MySQL or MariaDB from which changes come, by the log that replicas follow.
//!
//! The server keeps nothing for the sync: it has its log for as long as it is set to. Where it stands is the numbers of transactions that
//! have come, or a place in a file where the server numbers none. Rows need the server to tell what their columns are called
//! (`binlog_row_metadata = FULL`), since the log may be older than the table as it is now.

mod catalog;
mod changes;
mod hub;
mod reading;
mod rules;
mod survey;
mod writing;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use async_trait::async_trait;
use litekeep_schema::portable::Note;
use litekeep_schema::portable::mysql::{Flavor, Inward};
use litekeep_sync::source::{Event, Rows, Source, SourceTable, SourceType, Standing};
use litekeep_sync::{Error, Kind, Permits, Value};

use tokio::sync::{Mutex, OwnedMutexGuard};

use self::catalog::Catalog;
use self::changes::{Asked, Coming, Transaction};
use self::hub::TwoWay;
use self::reading::{Reading, Whole};
use crate::Address;
use crate::binlog::event;
use crate::binlog::position::Position;
use crate::binlog::stream::{Refused, Stamp, Stream};
use crate::codec::Codec;

/// What of a database is wanted.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// The tables, by their names in SQLite; empty: all of the database.
    pub tables: Vec<String>,
    /// Names of tables there, by those in SQLite.
    pub names: BTreeMap<String, String>,
}

/// A database of MySQL or MariaDB.
pub struct MysqlSource {
    address: Address,
    wanted: Wanted,
    /// What the server is asked, on a connection of its own.
    catalog: Option<Arc<Mutex<Catalog>>>,
    /// Which of the two it is, and whether MySQL's transactions have numbers.
    flavor: Flavor,
    has_gtids: bool,
    reading: Option<Reading>,
    whole: Option<Whole>,
    stream: Option<Stream>,
    /// As which replica changes are taken.
    replica_id: u32,
    /// Up to where everything has come.
    position: Position,
    /// Where the server was when it was asked last.
    goal: Option<Position>,
    /// It is to be told how far the server is.
    is_asked: bool,
    tables: Vec<SourceTable>,
    /// Tables by their numbers in the log, each with how it was told.
    coming: HashMap<u64, (Vec<u8>, Coming)>,
    /// What has been received and is understood when the server has answered.
    asked: Option<Asked>,
    transaction: Transaction,
    /// Prepared transactions in which nothing happens that is wanted.
    other_xas: HashSet<String>,
    ready: VecDeque<Event>,
    /// What it has where rows go there, too.
    two_way: Option<TwoWay>,
    /// While it is connected.
    permits: Permits,
}

impl Drop for MysqlSource {
    fn drop(&mut self) {
        self.disconnect();
    }
}

impl MysqlSource {
    /// Connects to nothing yet.
    pub fn new(address: Address, wanted: Wanted) -> MysqlSource {
        let flavor = address.flavor();
        MysqlSource {
            address,
            wanted,
            catalog: None,
            flavor,
            has_gtids: false,
            reading: None,
            whole: None,
            stream: None,
            replica_id: 0,
            position: Position::Domains(BTreeMap::new()),
            goal: None,
            is_asked: false,
            tables: vec![],
            coming: HashMap::new(),
            asked: None,
            transaction: Transaction::default(),
            other_xas: HashSet::new(),
            ready: VecDeque::new(),
            two_way: None,
            permits: Permits::default(),
        }
    }

    async fn catalog(&self) -> Result<OwnedMutexGuard<Catalog>, Error> {
        let none = || Error::new(Kind::Internal, "use a database that is not connected");
        Ok(self.catalog.clone().ok_or_else(none)?.lock_owned().await)
    }

    /// A position of the text that is kept.
    fn position_of(&self, text: &str) -> Result<Position, Error> {
        let damaged = || Error::new(Kind::Corrupt, format!("`{text}` is no position of a log"));
        let position = Position::parse(text).ok_or_else(damaged)?;
        // Nothing is written alike for both.
        Ok(match (self.flavor, &position) {
            (Flavor::Mysql, Position::Domains(domains)) if domains.is_empty() => {
                Position::Executed(BTreeMap::new())
            }
            _ => position,
        })
    }
}

/// How values of a column come.
fn form(kind: &SourceType) -> Option<Inward> {
    Codec::of(kind).map(Codec::inward)
}

fn names(table: &SourceTable, columns: &[usize]) -> Vec<String> {
    columns.iter().map(|nth| table.mirror.columns[*nth].name.clone()).collect()
}

#[async_trait]
impl Source for MysqlSource {
    fn name(&self) -> String {
        self.address.name().to_owned()
    }

    fn disconnect(&mut self) {
        (self.reading, self.whole, self.asked) = (None, None, None);
        if let (Some(stream), Some(catalog), true) =
            (self.stream.take(), &self.catalog, self.permits.are_counted())
        {
            let catalog = catalog.clone();
            std::mem::take(&mut self.permits).keep_until(async move {
                stream.close(catalog.lock().await.session()).await;
                true
            });
        }
        self.catalog = None;
        self.tables.clear();
        self.let_go_of_writer();
        self.permits = Permits::default();
    }

    /// What asks, what the log comes over, and both ways what writes.
    fn connections(&self) -> u32 {
        if self.two_way.is_some() { 3 } else { 2 }
    }

    fn connections_to_read(&self) -> u32 {
        1
    }

    async fn connect(&mut self) -> Result<String, Error> {
        self.disconnect();
        self.permits = self.address.budget.take(self.connections()).await?;
        let is_written_to = self.two_way.is_some();
        let (catalog, server) =
            Catalog::open(&self.address, &self.wanted, &self.permits, is_written_to).await?;
        (self.flavor, self.has_gtids) = (catalog.flavor(), catalog.has_gtids());
        self.catalog = Some(Arc::new(Mutex::new(catalog)));
        self.connect_writer().await?;
        Ok(format!("{server}/{}", self.address.database()))
    }

    async fn connect_to_copy(&mut self) -> Result<String, Error> {
        self.disconnect();
        self.permits = self.address.budget.take(self.connections_to_read()).await?;
        let catalog = Catalog::open_to_copy(&self.address, &self.wanted, &self.permits).await?;
        (self.flavor, self.has_gtids) = (catalog.flavor(), catalog.has_gtids());
        self.catalog = Some(Arc::new(Mutex::new(catalog)));
        Ok(self.address.name().to_owned())
    }

    async fn connect_to_look(&mut self) -> Result<bool, Error> {
        self.disconnect();
        self.permits = self.address.budget.take(self.connections_to_read()).await?;
        let catalog = Catalog::open_to_look(&self.address, &self.wanted, &self.permits).await?;
        self.flavor = catalog.flavor();
        self.catalog = Some(Arc::new(Mutex::new(catalog)));
        Ok(true)
    }

    async fn survey(&mut self) -> Result<Vec<(SourceTable, Vec<Note>)>, Error> {
        self.catalog().await?.survey().await
    }

    /// Its log has all values of each row, since `binlog_row_image` must be `FULL`.
    async fn partial(&mut self, _: &SourceTable) -> Result<Option<Note>, Error> {
        Ok(None)
    }

    async fn prepare(&mut self, slot: &str, _: &[SourceTable]) -> Result<String, Error> {
        let mut catalog = self.catalog().await?;
        let position = catalog.visible().await?;
        let replica = catalog.replica(slot);
        catalog.try_log(&position, replica).await.map_err(Refused::error)?;
        Ok(position.to_string())
    }

    async fn standing(&mut self, slot: &str, position: &str) -> Result<Standing, Error> {
        let position = self.position_of(position)?;
        let has_gtids = self.flavor == Flavor::Mariadb || self.has_gtids;
        let mut catalog = self.catalog().await?;
        if !has_gtids && !matches!(position, Position::File { .. }) {
            return Ok(Standing::Beyond);
        }
        // One that was set back would send other transactions under the numbers of those that have come.
        if !matches!(position, Position::Domains(_)) && !catalog.now().await?.is_at(&position) {
            return Ok(Standing::Beyond);
        }
        let replica = catalog.replica(slot);
        match catalog.try_log(&position, replica).await {
            Ok(()) => Ok(Standing::There),
            Err(Refused::Purged(error)) => {
                tracing::warn!("{error}");
                Ok(Standing::Beyond)
            }
            Err(Refused::Other(error)) => Err(error),
        }
    }

    async fn open(&mut self, table: &SourceTable, rows: Rows<'_>) -> Result<(), Error> {
        self.whole = None;
        if table.mirror.key.is_empty() {
            self.reading = None;
            self.whole = Some(Whole::of(table, self.catalog().await?)?);
            return Ok(());
        }
        self.reading = Some(Reading::of(table, rows)?);
        Ok(())
    }

    async fn fetch(&mut self) -> Result<Vec<Vec<Value>>, Error> {
        if let Some(whole) = &mut self.whole {
            return whole.next().await;
        }
        let Some(mut reading) = self.reading.take() else { return Ok(vec![]) };
        let rows = reading.next(self.catalog().await?.session()).await?;
        self.reading = Some(reading);
        Ok(rows)
    }

    async fn position(&mut self) -> Result<String, Error> {
        (self.reading, self.whole) = (None, None);
        let goal = self.catalog().await?.now().await?;
        self.goal = Some(goal.clone());
        Ok(goal.to_string())
    }

    async fn follow(&mut self, slot: &str, tables: &[SourceTable], position: &str) -> Result<(), Error> {
        self.position = self.position_of(position)?;
        self.replica_id = self.catalog().await?.replica(slot);
        self.tables = tables.to_vec();
        self.coming.clear();
        self.other_xas.clear();
        self.ready.clear();
        (self.asked, self.goal, self.is_asked) = (None, None, false);
        if let Some(used) = self.stream.take() {
            used.close(self.catalog().await?.session()).await;
        }
        self.transaction = Transaction::default();
        let (replica, position) = (self.replica_id, &self.position);
        let stream = Stream::open(&self.address, self.flavor, replica, position, &self.permits).await;
        self.stream = Some(stream.map_err(Refused::error)?);
        self.look_for_tables().await
    }

    async fn next(&mut self) -> Result<Event, Error> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(event);
            }
            if let Some(asked) = &mut self.asked {
                let answer = asked.answer().await?;
                self.answered(answer)?;
                continue;
            }
            let none = || Error::new(Kind::Internal, "read changes of nothing");
            let (event, stamp) = self.stream.as_mut().ok_or_else(none)?.next(self.replica_id).await?;
            self.take(event, stamp)?;
            if std::mem::take(&mut self.is_asked) {
                self.ready
                    .push_back(Event::Alive { position: self.position.to_string(), wants_answer: false });
            }
        }
    }

    async fn confirm(&mut self, _: &str, asks: bool) -> Result<(), Error> {
        let is_there = self.goal.as_ref().is_some_and(|goal| self.position.is_at(goal));
        match asks && is_there && !self.transaction.is_open() {
            true => {
                let position = self.position.to_string();
                self.ready.push_back(Event::Alive { position, wants_answer: false });
            }
            false => self.is_asked |= asks,
        }
        Ok(())
    }

    fn is_at(&self, position: &str, goal: &str) -> bool {
        match (Position::parse(position), Position::parse(goal)) {
            (Some(position), Some(goal)) => position.is_at(&goal),
            _ => false,
        }
    }

    /// The server keeps nothing.
    async fn forget(&mut self, _: &str) -> Result<(), Error> {
        if let Some(used) = self.stream.take() {
            used.close(self.catalog().await?.session()).await;
        }
        Ok(())
    }
}

/// A change that cannot be followed.
fn cannot_follow(address: &Address, what: &str, hint: &str) -> Error {
    let message = format!("read changes in {}: {what} came, which cannot be followed", address.name());
    let resync = "`litekeep sync resync` compares all rows, and goes on from there";
    let hint = if hint.is_empty() { resync.to_owned() } else { format!("{hint} Then {resync}") };
    Error::with_hint(Kind::Invalid, message, hint)
}

impl MysqlSource {
    /// What comes, as far as nobody needs to be asked.
    fn take(&mut self, event: event::Event, stamp: Stamp) -> Result<(), Error> {
        use event::Event as Came;
        match event {
            Came::File { name, offset } => {
                if let Position::File { .. } = self.position {
                    self.position = Position::File { name, offset };
                }
            }
            Came::Begin { gtid, time_ms, is_standalone } => {
                let is_open = self.flavor == Flavor::Mariadb && !is_standalone;
                self.transaction = Transaction::of(gtid, time_ms, is_open);
            }
            Came::Commit => self.ends(stamp),
            Came::Prepared { is_committed, xa } => self.prepared(is_committed, xa, stamp)?,
            Came::Alive => {
                if let (Position::File { offset, .. }, false) =
                    (&mut self.position, self.transaction.is_open())
                {
                    *offset = stamp.end.max(*offset);
                }
            }
            Came::Query { database, sql } => self.query(database, sql, stamp)?,
            Came::Table(body) => self.map(body)?,
            Came::Rows { kind, body, has_extra } => self.rows(kind, &body, has_extra)?,
            Came::Unknown { what, hint } => return Err(cannot_follow(&self.address, what, hint)),
        }
        Ok(())
    }
}
