//! Collections as they are at one moment, row by row in SQLite's order, while others write.

use bson::raw::RawDocumentBuf;
use bson::{Bson, Document, doc};
use litekeep_sync::target::TargetTable as _;
use litekeep_sync::{Error, Kept, Kind, Value};
use mongodb::{ClientSession, SessionCursor};
use tokio::task::JoinHandle;

use super::documents::{self, ID};
use super::kept::RENEWED;
use super::writing::Pending;
use super::{Mongo, MongoTable};

/// Rows and bytes that are fetched at once.
const FETCHED: usize = 2_000;
const FETCHED_BYTES: usize = 4 << 20;
const READ: &str = "read a collection";

/// One state that is compared.
pub(super) struct Hold {
    pub(super) token: String,
    state: ClientSession,
    /// Nobody else commits meanwhile, and waits only for one that goes on.
    pub(super) alone: Option<Renewing>,
}

/// Says now and then that a comparison goes on; ends when it is dropped.
pub(super) struct Renewing(JoinHandle<()>);

impl Drop for Renewing {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A collection that is being read.
pub(super) struct Reading {
    table: usize,
    rows: Rows,
}

enum Rows {
    /// As the server gives them.
    Served(Box<SessionCursor<RawDocumentBuf>>),
    /// By their keys in SQLite's order, the next one last: the server orders blobs by their lengths.
    ByKey(Vec<Bson>),
}

impl Mongo {
    pub(super) async fn hold_state(&mut self, to_write: bool) -> Result<Option<Kept<MongoTable>>, Error> {
        if !self.has_begun().await? {
            return Ok(None);
        }
        let token = format!("{:032x}", fastrand::u128(..));
        let alone = match to_write {
            true => {
                self.wait_for_others(Some(&token)).await?;
                Some(self.renewing(&token)?)
            }
            false => None,
        };
        let mut state = self.session()?.snapshot().await?;
        let kept = self.read_kept(Some(&mut state)).await?;
        self.hold = Some(Hold { token, state, alone });
        self.pending = Some(Pending::new());
        Ok(kept)
    }

    pub(super) async fn open_table(&mut self, nth: usize) -> Result<(), Error> {
        let MongoTable(table) = self.tables[nth].clone();
        let session = self.session.as_ref().ok_or_else(unheld)?;
        let state = &mut self.hold.as_mut().ok_or_else(unheld)?.state;
        let failed = |e: mongodb::error::Error| session.failed(READ, &e);
        let collection = session.db().collection::<RawDocumentBuf>(&table.name);
        let blobs: Vec<Document> =
            table.key.iter().map(|nth| doc! { table.path(*nth): { "$type": "binData" } }).collect();
        let has_blobs = !blobs.is_empty() && {
            let found = collection.find_one(doc! { "$or": blobs }).projection(doc! { ID: 1 });
            found.session(&mut *state).await.map_err(failed)?.is_some()
        };
        let rows = if has_blobs {
            let found = collection.find(doc! {}).projection(doc! { ID: 1 }).batch_size(20_000);
            let mut cursor = found.session(&mut *state).await.map_err(failed)?;
            let mut keys: Vec<(Vec<Value>, Bson)> = vec![];
            while cursor.advance(state).await.map_err(failed)? {
                let document = cursor.current();
                let key = MongoTable(table.clone()).key_of(&documents::row(&table, document));
                let id = document.get(ID).ok().flatten().and_then(|id| Bson::try_from(id).ok());
                keys.extend(id.map(|id| (key, id)));
            }
            keys.sort_by(|(a, _), (b, _)| litekeep_sync::compare::compare(b, a));
            Rows::ByKey(keys.into_iter().map(|(_, id)| id).collect())
        } else {
            let found = collection.find(doc! {}).batch_size(u32::try_from(FETCHED).unwrap_or(u32::MAX));
            let found = if table.key.is_empty() { found } else { found.sort(doc! { ID: 1 }) };
            Rows::Served(Box::new(found.session(&mut *state).await.map_err(failed)?))
        };
        self.reading = Some(Reading { table: nth, rows });
        Ok(())
    }

    pub(super) async fn fetch_rows(&mut self) -> Result<Vec<Vec<Value>>, Error> {
        let Some(mut reading) = self.reading.take() else { return Ok(vec![]) };
        let table = &self.tables[reading.table].0;
        let session = self.session.as_ref().ok_or_else(unheld)?;
        let state = &mut self.hold.as_mut().ok_or_else(unheld)?.state;
        let failed = |e: mongodb::error::Error| session.failed(READ, &e);
        let (mut rows, mut bytes) = (vec![], 0);
        match &mut reading.rows {
            Rows::Served(cursor) => {
                while rows.len() < FETCHED
                    && bytes < FETCHED_BYTES
                    && cursor.advance(state).await.map_err(failed)?
                {
                    bytes += cursor.current().as_bytes().len();
                    rows.push(documents::row(table, cursor.current()));
                }
            }
            Rows::ByKey(keys) => {
                let next = keys.split_off(keys.len().saturating_sub(FETCHED));
                let found = session.db().collection::<RawDocumentBuf>(&table.name);
                let found = found.find(doc! { ID: { "$in": next } });
                let mut cursor = found.session(&mut *state).await.map_err(failed)?;
                while cursor.advance(state).await.map_err(failed)? {
                    rows.push(documents::row(table, cursor.current()));
                }
                let of = MongoTable(table.clone());
                rows.sort_by(|a, b| litekeep_sync::compare::compare(&of.key_of(a), &of.key_of(b)));
            }
        }
        if !rows.is_empty() {
            self.reading = Some(reading);
        }
        Ok(rows)
    }

    /// Where the server does not answer in time, the commit finds that somebody else has gone on.
    fn renewing(&mut self, token: &str) -> Result<Renewing, Error> {
        let renew = self.renewal(token);
        let db = self.session()?.db().clone();
        Ok(Renewing(tokio::spawn(async move {
            loop {
                tokio::time::sleep(RENEWED).await;
                let _ = db.run_command(renew.clone()).await;
            }
        })))
    }
}

fn unheld() -> Error {
    Error::new(Kind::Internal, "read a state that is not held")
}
