//! Collections of MongoDB from which changes come, by a change stream.
//!
//! The server keeps nothing for the sync: it has its log for as long as that has room. Where it stands is a token of the stream, or the server's time
//! where it has none yet. What a column holds is told by documents alone, so a table gets its columns by a look at all of them, and further ones when they come.
//!
//! A change of single fields comes as those fields, so that each transaction is seen as it was. Of a change within a document or an array the whole
//! field comes, as it was after the change where the collection keeps that (`changeStreamPreAndPostImages`), else as it is when it is read.

mod changes;
mod form;
mod hub;
mod json;
mod layout;
mod position;
mod pushing;
mod reader;
mod reading;
mod stream;
mod survey;

use std::collections::{BTreeMap, VecDeque};

use async_trait::async_trait;
use bson::{Document, Timestamp};
use litekeep_schema::portable::{Level, Note};
use litekeep_sync::source::{Event, Rows, Source, SourceTable, Standing, Unfit};
use litekeep_sync::{Error, Kind, Value};

use self::changes::Open;
use self::hub::TwoWay;
use self::layout::Layout;
use self::position::Position;
use self::reader::Reader;
use self::reading::Reading;
use self::stream::{Followed, Stream};
use self::survey::Surveyor;
use crate::Address;
use crate::address::WATCHING;
use crate::session::Session;

/// What MongoDB 6.0 says of itself: the first that tells documents as they were after a change.
const IMAGES: i32 = 17;

/// Connections at most that read rows.
const READING: u32 = 1;

/// What of a database is wanted.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// The tables, by their names in SQLite; empty: all collections of the database.
    pub tables: Vec<String>,
    /// Names of collections, by those of the tables in SQLite.
    pub names: BTreeMap<String, String>,
}

/// A database of MongoDB.
pub struct MongoSource {
    address: Address,
    wanted: Wanted,
    session: Option<Session>,
    /// What the server says of itself.
    said: Document,
    /// Nothing is followed.
    is_once: bool,
    reader: Option<Reader>,
    /// What is in SQLite already.
    known: Vec<SourceTable>,
    reading: Option<Reading>,
    /// Of what was read last.
    unfit: Vec<Unfit>,
    grown: Option<SourceTable>,
    stream: Option<Stream>,
    layouts: Vec<Layout>,
    /// Up to where everything has come.
    position: Position,
    /// The transaction that is on its way.
    open: Option<Open>,
    /// It is to be told how far the stream is: with what comes next, and where it comes to where the server was when it was asked.
    is_asked: bool,
    goal: Option<Position>,
    ready: VecDeque<Event>,
    /// What it has where rows go there, too.
    two_way: Option<TwoWay>,
    /// Everything up to this moment is known, and is not told.
    is_known: Option<Timestamp>,
    /// Of a change it was not told how the document was: what has come cannot be gone on from.
    lacks_images: bool,
}

impl MongoSource {
    /// Connects to nothing yet.
    pub fn new(address: Address, wanted: Wanted) -> MongoSource {
        MongoSource {
            address,
            wanted,
            session: None,
            said: Document::new(),
            is_once: false,
            reader: None,
            known: vec![],
            reading: None,
            unfit: vec![],
            grown: None,
            stream: None,
            layouts: vec![],
            position: Position::of(Timestamp { time: 0, increment: 0 }),
            open: None,
            is_asked: false,
            goal: None,
            ready: VecDeque::new(),
            two_way: None,
            is_known: None,
            lacks_images: false,
        }
    }

    /// What asks, what waits for changes, and both ways what writes.
    fn pool(&self) -> u32 {
        if self.two_way.is_some() { 3 } else { 2 }
    }

    fn session(&self) -> Result<&Session, Error> {
        self.session.as_ref().ok_or_else(unconnected)
    }

    fn surveyor(&mut self) -> Result<Surveyor<'_>, Error> {
        let session = self.session.as_ref().ok_or_else(unconnected)?;
        let reader = self.reader.as_mut().ok_or_else(unconnected)?;
        let (address, wanted, known) = (&self.address, &self.wanted, &self.known[..]);
        Ok(Surveyor { session, reader, address, wanted, is_once: self.is_once, known })
    }

    fn followed(&self, tables: &[SourceTable]) -> Followed {
        Followed {
            address: self.address.clone(),
            collections: tables.iter().map(|table| table.source.clone()).collect(),
            has_images: self.said.get_i32("maxWireVersion").is_ok_and(|version| version >= IMAGES),
            is_two_way: self.two_way.is_some(),
            is_router: self.said.get_str("msg").is_ok_and(|msg| msg == "isdbgrid"),
        }
    }

    /// Whether the server has what comes after a position; what is read from now on is not older.
    async fn has(&mut self, position: &Position) -> Result<bool, Error> {
        let followed = self.followed(&[]);
        let session = self.session()?;
        let reader = Reader::after(session, Some(position.at)).await?;
        let has = stream::has(session.db(), &followed, position).await?;
        self.reader = Some(reader);
        Ok(has)
    }
}

fn unconnected() -> Error {
    Error::new(Kind::Internal, "use a database that is not connected")
}

/// A position of the text that is kept.
fn position_of(text: &str) -> Result<Position, Error> {
    let damaged = || Error::new(Kind::Corrupt, format!("`{text}` is no position of a change stream"));
    Position::parse(text).ok_or_else(damaged)
}

#[async_trait]
impl Source for MongoSource {
    fn name(&self) -> String {
        self.address.name().to_owned()
    }

    fn disconnect(&mut self) {
        (self.session, self.reader, self.reading, self.stream) = (None, None, None, None);
        self.layouts.clear();
        self.let_go();
    }

    fn connections(&self) -> u32 {
        self.pool() + WATCHING
    }

    fn connections_to_read(&self) -> u32 {
        READING + WATCHING
    }

    async fn connect(&mut self) -> Result<String, Error> {
        self.disconnect();
        let is_two_way = self.two_way.is_some();
        let (session, said) = Session::open_to_follow(&self.address, self.pool(), is_two_way).await?;
        if is_two_way {
            hub::check_server(&self.address, &said)?;
        }
        self.reader = Some(Reader::after(&session, None).await?);
        (self.session, self.said, self.is_once) = (Some(session), said, false);
        let set = self.said.get_str("setName").unwrap_or("a sharded cluster");
        Ok(format!("{set}/{}", self.address.database()))
    }

    async fn connect_to_copy(&mut self) -> Result<String, Error> {
        self.disconnect();
        let (session, said) = Session::open_to_follow(&self.address, READING, false).await?;
        self.reader = Some(Reader::of_one_moment(&session).await?);
        (self.session, self.said, self.is_once) = (Some(session), said, true);
        Ok(self.address.name().to_owned())
    }

    async fn connect_to_look(&mut self) -> Result<bool, Error> {
        self.disconnect();
        let (session, said) = Session::open_to_follow(&self.address, READING, false).await?;
        self.reader = Some(Reader::after(&session, None).await?);
        (self.session, self.said, self.is_once) = (Some(session), said, true);
        // What documents have they tell.
        Ok(false)
    }

    fn keep_to(&mut self, known: &[SourceTable]) {
        self.known = known.to_vec();
    }

    async fn survey(&mut self) -> Result<Vec<(SourceTable, Vec<Note>)>, Error> {
        self.surveyor()?.survey().await
    }

    async fn partial(&mut self, table: &SourceTable) -> Result<Option<Note>, Error> {
        // A change of a document comes with the fields that were changed.
        let name = &table.source;
        let message = "comes from MongoDB, of which all documents and fields come: `columns` and `where` are for other servers";
        Ok(Some(Note { table: name.clone(), column: None, level: Level::Table, message: message.to_owned() }))
    }

    async fn prepare(&mut self, _: &str, _: &[SourceTable]) -> Result<String, Error> {
        let position = Position::of(self.session()?.now().await?);
        match self.has(&position).await? {
            true => Ok(position.to_string()),
            false => {
                let message = format!("read changes in {}: the server has none", self.address.name());
                Err(Error::new(Kind::Unavailable, message))
            }
        }
    }

    async fn standing(&mut self, _: &str, position: &str) -> Result<Standing, Error> {
        let position = position_of(position)?;
        if std::mem::take(&mut self.lacks_images) {
            return Ok(Standing::Beyond);
        }
        // One that was set back would tell other changes under the times of those that have come.
        if !Position::of(self.session()?.now().await?).is_at(&position) {
            return Ok(Standing::Beyond);
        }
        Ok(if self.has(&position).await? { Standing::There } else { Standing::Beyond })
    }

    async fn open(&mut self, table: &SourceTable, rows: Rows<'_>) -> Result<(), Error> {
        self.reading = Some(Reading::of(table, rows)?);
        Ok(())
    }

    async fn fetch(&mut self) -> Result<Vec<Vec<Value>>, Error> {
        (self.unfit, self.grown) = (vec![], None);
        let Some(mut reading) = self.reading.take() else { return Ok(vec![]) };
        let session = self.session.as_ref().ok_or_else(unconnected)?;
        let fetched = reading.next(session, self.reader.as_mut().ok_or_else(unconnected)?).await?;
        if self.two_way.is_some() {
            self.check_fetched(&fetched)?;
        }
        (self.reading, self.unfit, self.grown) = (Some(reading), fetched.unfit, fetched.grown);
        Ok(fetched.rows)
    }

    fn unfit(&mut self) -> Vec<Unfit> {
        std::mem::take(&mut self.unfit)
    }

    fn grown(&mut self) -> Option<SourceTable> {
        self.grown.take()
    }

    async fn position(&mut self) -> Result<String, Error> {
        let goal = Position::of(self.session()?.now().await?);
        self.goal = Some(goal.clone());
        Ok(goal.to_string())
    }

    async fn follow(&mut self, _: &str, tables: &[SourceTable], position: &str) -> Result<(), Error> {
        self.position = position_of(position)?;
        self.is_known = self.position.moment().filter(|_| self.two_way.is_some());
        self.layouts = tables.iter().map(Layout::of).collect::<Result<_, _>>()?;
        (self.stream, self.open) = (None, None);
        self.ready.clear();
        // The first answer tells where it is.
        (self.is_asked, self.goal) = (true, None);
        let there = survey::names(self.session()?).await?;
        for (table, known) in tables.iter().enumerate() {
            if !there.contains(&known.source) {
                self.gone(table, changes::DROPPED);
            }
        }
        let followed = self.followed(tables);
        self.stream = Some(Stream::open(self.session()?.db(), followed, self.position.clone()));
        Ok(())
    }

    async fn next(&mut self) -> Result<Event, Error> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(event);
            }
            let none = || Error::new(Kind::Internal, "read changes of nothing");
            let batch = self.stream.as_mut().ok_or_else(none)?.next().await?;
            self.take(batch)?;
        }
    }

    async fn confirm(&mut self, _: &str, asks: bool) -> Result<(), Error> {
        self.is_asked |= asks;
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
        self.stream = None;
        Ok(())
    }
}
