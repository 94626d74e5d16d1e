//! What is read beside the changes: everything up to a moment at least, or all of it as at one.

use bson::{Document, Timestamp};
use litekeep_sync::Error;
use mongodb::error::Error as Cause;
use mongodb::options::{Hint, ReadConcern};
use mongodb::{ClientSession, SessionCursor};

use super::layout::ID;
use crate::session::Session;

/// A session that reads.
pub(super) struct Reader {
    state: ClientSession,
    /// What most of the servers have; `None`: one state for all that is read.
    concern: Option<ReadConcern>,
}

impl Reader {
    /// Sees everything up to a moment, and nothing that may be rolled back.
    pub(super) async fn after(session: &Session, at: Option<Timestamp>) -> Result<Reader, Error> {
        Ok(Reader { state: session.after(at).await?, concern: Some(ReadConcern::majority()) })
    }

    /// Sees the state of its first read, for as long as the server keeps that.
    pub(super) async fn of_one_moment(session: &Session) -> Result<Reader, Error> {
        Ok(Reader { state: session.snapshot().await?, concern: None })
    }

    /// Of which moment that is; `None`: of none, or nothing was read yet.
    pub(super) fn moment(&self) -> Option<Timestamp> {
        self.state.snapshot_time()
    }

    /// What a pipeline makes of a collection.
    pub(super) async fn aggregate(
        &mut self,
        session: &Session,
        collection: &str,
        pipeline: Vec<Document>,
    ) -> Result<Vec<Document>, Cause> {
        let collection = session.db().collection::<Document>(collection);
        let found = collection.aggregate(pipeline).allow_disk_use(true);
        let found = match &self.concern {
            Some(concern) => found.read_concern(concern.clone()),
            None => found,
        };
        let cursor = found.session(&mut self.state).await?;
        self.all(cursor).await
    }

    /// Documents in the order of their keys, from one on, so many at most; or all with a condition.
    pub(super) async fn find(
        &mut self,
        session: &Session,
        collection: &str,
        (filter, from, limit): (Document, Option<Document>, usize),
    ) -> Result<Vec<Document>, Cause> {
        let by_key = bson::doc! { ID: 1 };
        let collection = session.db().collection::<Document>(collection);
        let found = collection.find(filter).sort(by_key.clone()).limit(i64::try_from(limit).unwrap_or(0));
        // Conditions compare within one type only; this goes on in the order of all.
        let found = match from {
            Some(from) => found.min(from).hint(Hint::Keys(by_key)),
            None => found,
        };
        let found = match &self.concern {
            Some(concern) => found.read_concern(concern.clone()),
            None => found,
        };
        let cursor = found.session(&mut self.state).await?;
        self.all(cursor).await
    }

    async fn all(&mut self, mut cursor: SessionCursor<Document>) -> Result<Vec<Document>, Cause> {
        let mut all = vec![];
        while cursor.advance(&mut self.state).await? {
            all.push(Document::try_from(cursor.current())?);
        }
        Ok(all)
    }
}
