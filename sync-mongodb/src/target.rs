//! Collections of MongoDB that are kept in step.
//!
//! How far a sync is, which rows are refused and which tables stand still is in one collection, `_litekeep_sync`, and is committed together
//! with the rows. Two litekeeps cannot push the same sync: each commit expects to find what its last one left.
//!
//! A row that changes goes by its key and comes again, so that rows can exchange what must be unique.

pub(crate) mod documents;
mod journal;
mod kept;
mod reading;
mod there;
mod writing;

use async_trait::async_trait;
use bson::doc;
use bson::raw::RawDocumentBuf;
use litekeep_schema::portable::Note;
use litekeep_schema::portable::mongodb::{Options, Table, map};
use litekeep_sql::{Declaration, Profile};
use litekeep_sync::ledger::{self, Encoded, PAUSED, PLAN, text as json};
use litekeep_sync::target::{Listed, TargetTable};
use litekeep_sync::{Change, Error, Kept, Kind, Refused, Stage, Target, Value};
use serde::{Deserialize, Serialize};

use self::journal::Segment;
pub(crate) use self::kept::{LEASE, UNDER_WAY};
use self::reading::{Hold, Reading};
use self::writing::Pending;
use crate::address::WATCHING;
use crate::error::code;
use crate::session::Session;
use crate::{Address, error};

/// Connections at most that write rows.
const WRITING: u32 = 1;

/// A database of MongoDB.
pub struct Mongo {
    address: Address,
    /// The sync's name.
    name: String,
    options: Options,
    session: Option<Session>,
    tables: Vec<MongoTable>,
    /// What the last commit left, as text.
    stage: Option<String>,
    /// Rows that are refused.
    refused: u64,
    /// The transaction that is open.
    pending: Option<Pending>,
    /// The sync is ours alone while that is compared.
    hold: Option<Hold>,
    reading: Option<Reading>,
}

/// A collection as it is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MongoTable(pub Table);

impl TargetTable for MongoTable {
    fn source(&self) -> &str {
        &self.0.source
    }

    fn columns(&self) -> Vec<&str> {
        self.0.columns.iter().map(|column| column.name.as_str()).collect()
    }

    fn key(&self) -> &[usize] {
        &self.0.key
    }

    fn with_more_columns(&self, mut other: MongoTable) -> MongoTable {
        let mut longer = self.clone();
        longer.0.columns.extend(other.0.columns.drain(self.0.columns.len()..));
        longer
    }
}

impl Mongo {
    /// Connects to nothing yet. `name`: the sync's.
    pub fn new(address: Address, name: impl Into<String>, options: Options) -> Mongo {
        Mongo {
            address,
            name: name.into(),
            options,
            session: None,
            tables: vec![],
            stage: None,
            refused: 0,
            pending: None,
            hold: None,
            reading: None,
        }
    }

    fn session(&mut self) -> Result<&mut Session, Error> {
        self.session
            .as_mut()
            .ok_or_else(|| Error::new(Kind::Internal, "use a database that is not connected"))
    }

    fn pending(&mut self) -> Result<&mut Pending, Error> {
        self.pending.as_mut().ok_or_else(|| Error::new(Kind::Internal, "write without a transaction"))
    }

    fn push(&mut self, segment: &Segment) -> Result<(), Error> {
        let failed = |e| Error::new(Kind::Unavailable, format!("keep the journal of a transaction: {e}"));
        self.pending()?.journal.push(segment).map_err(failed)
    }

    fn encode(&self, nth: usize, key: &[Value], row: &[Value]) -> Result<Encoded<RawDocumentBuf>, Refused> {
        let document = documents::of_row((nth, &self.tables[nth].0), key, row)?;
        Ok(Encoded { key: key.to_vec(), row: vec![document] })
    }

    async fn make_kept(&mut self) -> Result<(), Error> {
        let session = self.session()?;
        match session.try_run(doc! { "create": ledger::TABLE }).await {
            Ok(_) => Ok(()),
            Err(e) if error::number(&e) == Some(code::NAMESPACE_EXISTS) => Ok(()),
            Err(e) => Err(session.failed("make the collection that keeps how far the sync is", &e)),
        }
    }
}

#[async_trait]
impl Target for Mongo {
    type Table = MongoTable;

    fn name(&self) -> String {
        self.address.name().to_owned()
    }

    fn refused(&self) -> u64 {
        self.refused
    }

    async fn listed(&mut self) -> Result<Vec<Listed>, Error> {
        self.read_listed().await
    }

    fn map(&self, declared: &Declaration, profiles: &[Profile]) -> (MongoTable, Vec<Note>) {
        let (table, notes) = map(declared, profiles, &self.options);
        (MongoTable(table), notes)
    }

    fn statements(&self, MongoTable(table): &MongoTable) -> Vec<String> {
        let indexes = table.indexes.iter().map(|index| table.create_index(index));
        std::iter::once(table.create(false)).chain(indexes).collect()
    }

    fn connections(&self) -> u32 {
        WRITING + WATCHING
    }

    async fn connect(&mut self) -> Result<Option<Kept<MongoTable>>, Error> {
        self.disconnect();
        self.session = Some(Session::open(&self.address, WRITING, self.options.schema.as_deref()).await?);
        if !self.has_begun().await? {
            return Ok(None);
        }
        self.wait_for_others(None).await?;
        self.read_kept(None).await
    }

    fn disconnect(&mut self) {
        (self.session, self.pending, self.hold, self.reading) = (None, None, None, None);
    }

    async fn set_up(&mut self, tables: &[MongoTable], stage: &Stage) -> Result<(), Error> {
        let mut pending = Pending::new();
        for (nth, MongoTable(table)) in tables.iter().enumerate() {
            if !self.check(table).await? {
                pending.made.push((nth, false));
            }
        }
        self.make_kept().await?;
        self.tables = tables.to_vec();
        pending.is_first = true;
        pending.items.push((PLAN.to_owned(), Some(json(&self.tables))));
        let stage = json(stage);
        self.write(pending, &stage).await?;
        self.stage = Some(stage);
        Ok(())
    }

    async fn has(&mut self, table: &MongoTable) -> Result<bool, Error> {
        Ok(self.find_collection(&table.0.name).await?.is_some())
    }

    async fn add_table(&mut self, table: MongoTable) -> Result<(), Error> {
        let is_there = self.check(&table.0).await?;
        if is_there && let Some(failed) = self.make_indexes(&table.0).await?.into_iter().next() {
            let message = format!("make an index in {}: {failed}", self.address.name());
            return Err(Error::new(Kind::Invalid, message));
        }
        self.tables.push(table);
        let (nth, plan) = (self.tables.len() - 1, json(&self.tables));
        let pending = self.pending()?;
        if !is_there {
            pending.made.push((nth, true));
        }
        pending.items.push((PLAN.to_owned(), Some(plan)));
        Ok(())
    }

    async fn add_columns(&mut self, nth: usize, table: MongoTable) -> Result<(), Error> {
        for column in self.tables[nth].0.columns.len()..table.0.columns.len() {
            let (name, kind) = (&table.0.columns[column].name, table.0.columns[column].kind);
            let Some(default) = documents::bson(kind, &table.0.default_of(column)) else { continue };
            let update = doc! {
                "update": &table.0.name,
                "updates": [{ "q": { name: { "$exists": false } }, "u": { "$set": { name: default } }, "multi": true }],
                "writeConcern": { "w": "majority", "j": true },
            };
            self.session()?.run(&format!("add a field to `{}`", table.0.name), update).await?;
        }
        self.tables[nth] = table;
        let plan = json(&self.tables);
        self.pending()?.items.push((PLAN.to_owned(), Some(plan)));
        Ok(())
    }

    async fn pause(&mut self, table: &str, reason: Option<&str>) -> Result<(), Error> {
        self.pending()?.items.push((format!("{PAUSED}{table}"), reason.map(str::to_owned)));
        Ok(())
    }

    async fn begin(&mut self) -> Result<(), Error> {
        self.pending = Some(Pending::new());
        Ok(())
    }

    async fn load(&mut self, table: usize, rows: &[Vec<Value>]) -> Result<Vec<Refused>, Error> {
        let encode = |nth: usize, key: &[Value], row: &[Value]| self.encode(nth, key, row);
        let (encoded, refused) = ledger::encoded((table, &self.tables[table]), rows, encode);
        let come = encoded.into_iter().flat_map(|row| row.row).collect();
        self.push(&Segment { table, come, is_new: true, refused: refused.clone(), ..Segment::default() })?;
        Ok(refused)
    }

    async fn apply(&mut self, changes: &[Change]) -> Result<Vec<Refused>, Error> {
        let encode = |nth: usize, key: &[Value], row: &[Value]| self.encode(nth, key, row);
        let (by_table, refused) = ledger::by_table(changes, encode);
        let mut segments = vec![];
        for (nth, of) in by_table {
            let table = &self.tables[nth].0;
            let find = |key: &&[Value]| match table.key.is_empty() {
                true => documents::whole(table, key),
                false => documents::of_key(table, key),
            };
            // One that cannot be written there is not there.
            let gone = of.gone.iter().filter_map(|key| find(key).ok()).collect();
            let come = of.come.into_iter().flat_map(|row| row.row).collect();
            segments.push(Segment { table: nth, gone, come, ..Segment::default() });
        }
        for row in &refused {
            match segments.iter_mut().find(|segment| segment.table == row.table) {
                Some(segment) => segment.refused.push(row.clone()),
                None => segments.push(Segment {
                    table: row.table,
                    refused: vec![row.clone()],
                    ..Segment::default()
                }),
            }
        }
        for segment in &mut segments {
            let of: Vec<Change> =
                changes.iter().filter(|change| change.table == segment.table).cloned().collect();
            segment.fine = ledger::fine_items(&of, &segment.refused, &self.tables);
            self.push(segment)?;
        }
        Ok(refused)
    }

    async fn hold(&mut self, to_write: bool) -> Result<Option<Kept<MongoTable>>, Error> {
        self.hold_state(to_write).await
    }

    async fn open(&mut self, table: usize) -> Result<(), Error> {
        self.open_table(table).await
    }

    async fn fetch(&mut self) -> Result<Vec<Vec<Value>>, Error> {
        self.fetch_rows().await
    }

    async fn roll_back(&mut self) -> Result<(), Error> {
        (self.pending, self.reading) = (None, None);
        match self.hold.take() {
            Some(Hold { token, alone: Some(_), .. }) => self.let_go(&token).await,
            _ => Ok(()),
        }
    }

    async fn finish(&mut self) -> Result<Vec<String>, Error> {
        let mut failed = vec![];
        for MongoTable(table) in self.tables.clone() {
            failed.extend(self.make_indexes(&table).await?);
        }
        Ok(failed)
    }

    async fn constrain(&mut self) -> Result<Vec<String>, Error> {
        // Documents do not need each other there.
        Ok(vec![])
    }

    async fn forget(&mut self) -> Result<(), Error> {
        self.delete_kept().await?;
        (self.tables, self.stage, self.refused) = (vec![], None, 0);
        Ok(())
    }

    async fn commit(&mut self, stage: &Stage) -> Result<(), Error> {
        let stage = json(stage);
        let pending = self.pending.take().unwrap_or_else(Pending::new);
        self.write(pending, &stage).await?;
        (self.stage, self.hold, self.reading) = (Some(stage), None, None);
        Ok(())
    }
}
