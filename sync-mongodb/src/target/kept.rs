//! The collection that keeps how far syncs are.
//!
//! Each item of a sync is a document, `{_id: {sync, item}, content}`. Beside them are two of ours alone: `session`, whose transaction a killed litekeep
//! may have left open, and in the stage's `held`, who compares and mends at the moment.

use std::collections::BTreeMap;
use std::time::Duration;

use bson::{Bson, Document, doc};
use litekeep_sync::ledger::{self, STAGE};
use litekeep_sync::target::Listed;
use litekeep_sync::{Error, Kept, Kind};
use mongodb::options::ReadConcern;
use mongodb::{ClientSession, Collection};

use super::{Mongo, MongoTable};
use crate::error::code;
use crate::session::Session;

/// How long one that compares has the sync for itself without saying that it goes on, and how often it says so.
pub(crate) const LEASE: Duration = Duration::from_secs(30);
pub(super) const RENEWED: Duration = Duration::from_secs(5);
/// Looking whether it is over.
const PAUSE: Duration = Duration::from_millis(100);
/// How long a write may wait for one that is under way.
pub(crate) const UNDER_WAY: Duration = Duration::from_secs(2);
const SESSION: &str = "session";
const LEFT: &str = "wait for others";

impl Mongo {
    pub(super) fn kept_in(session: &Session) -> Collection<Document> {
        session.db().collection(ledger::TABLE)
    }

    pub(super) fn id(&self, item: &str) -> Document {
        doc! { "sync": &self.name, "item": item }
    }

    /// Those of this sync whose items begin so.
    pub(super) fn items(&self, prefix: &str) -> Document {
        let mut end = prefix.to_owned();
        end.push('\u{10ffff}');
        doc! { "_id": { "$gte": self.id(prefix), "$lt": self.id(&end) } }
    }

    pub(super) async fn has_begun(&mut self) -> Result<bool, Error> {
        let id = self.id(STAGE);
        let session = self.session()?;
        let found =
            Mongo::kept_in(session).find_one(doc! { "_id": id }).read_concern(ReadConcern::majority()).await;
        found.map(|found| found.is_some()).map_err(|e| session.failed("read how far the sync is", &e))
    }

    /// What is kept, as a session sees it.
    pub(super) async fn read_kept(
        &mut self,
        mut of: Option<&mut ClientSession>,
    ) -> Result<Option<Kept<MongoTable>>, Error> {
        const READ: &str = "read how far the sync is";
        let (all, refused) = (self.items(""), self.items(ledger::REFUSED));
        let session = self.session()?;
        let failed = |e: mongodb::error::Error| session.failed(READ, &e);
        let kept = Mongo::kept_in(session);
        let mut filter = all;
        filter.insert(
            "_id.item",
            doc! { "$not": { "$gte": ledger::REFUSED, "$lt": format!("{}\u{10ffff}", ledger::REFUSED) } },
        );
        let mut documents = vec![];
        let count = vec![doc! { "$match": refused }, doc! { "$count": "rows" }];
        let counted = match &mut of {
            Some(of) => {
                let mut cursor = kept.find(filter).session(&mut **of).await.map_err(failed)?;
                while let Some(document) = cursor.next(of).await {
                    documents.push(document.map_err(failed)?);
                }
                let mut cursor = kept.aggregate(count).session(&mut **of).await.map_err(failed)?;
                cursor.next(of).await.transpose().map_err(failed)?
            }
            None => {
                let mut cursor =
                    kept.find(filter).read_concern(ReadConcern::majority()).await.map_err(failed)?;
                while cursor.advance().await.map_err(failed)? {
                    documents.push(cursor.deserialize_current().map_err(failed)?);
                }
                let mut cursor =
                    kept.aggregate(count).read_concern(ReadConcern::majority()).await.map_err(failed)?;
                match cursor.advance().await.map_err(failed)? {
                    true => Some(cursor.deserialize_current().map_err(failed)?),
                    false => None,
                }
            }
        };
        let items: BTreeMap<String, String> = documents.iter().filter_map(item).collect();
        let rows = counted.as_ref().map_or(0, rows);
        let read = ledger::read(&items, rows, (&self.name, self.address.name()))?;
        let Some((kept, stage)) = read else { return Ok(None) };
        (self.tables, self.refused) = (kept.tables.clone(), kept.refused);
        self.stage = Some(stage);
        Ok(Some(kept))
    }

    pub(super) async fn read_listed(&mut self) -> Result<Vec<Listed>, Error> {
        let of = self.items(ledger::REFUSED);
        let session = self.session()?;
        let failed = |e: mongodb::error::Error| session.failed("list refused rows", &e);
        let kept = Mongo::kept_in(session);
        let found = kept.find(of).sort(doc! { "_id": 1 }).read_concern(ReadConcern::majority());
        let mut cursor = found.await.map_err(failed)?;
        let mut contents = vec![];
        while cursor.advance().await.map_err(failed)? {
            let document: Document = cursor.deserialize_current().map_err(failed)?;
            contents.extend(document.get_str("content").map(str::to_owned));
        }
        ledger::read_listed(contents.iter().map(String::as_str))
    }

    /// Waits until nobody is about to commit something of this sync: a commit of ours may be under way whose answer was lost. With a token the
    /// sync is ours alone afterwards.
    pub(super) async fn wait_for_others(&mut self, token: Option<&str>) -> Result<(), Error> {
        let is_free = doc! { "$or": [
            { "held": { "$exists": false } },
            { "$expr": { "$lt": ["$held.until", "$$NOW"] } },
        ] };
        let mut of = doc! { "_id": self.id(STAGE) };
        of.extend(is_free);
        let change = match token {
            Some(token) => vec![doc! { "$set": { "held": held(token), "looked_at": "$$NOW" } }],
            None => vec![doc! { "$unset": "held" }, doc! { "$set": { "looked_at": "$$NOW" } }],
        };
        let command = |wait: Duration| {
            doc! {
                "update": ledger::TABLE,
                "updates": [{ "q": of.clone(), "u": change.clone() }],
                "writeConcern": { "w": "majority", "j": true },
                "maxTimeMS": i64::try_from(wait.as_millis()).unwrap_or(i64::MAX),
            }
        };
        let begun = tokio::time::Instant::now();
        let mut wait = UNDER_WAY;
        while begun.elapsed() < 2 * LEASE {
            let said = self.session()?.try_run(command(wait)).await;
            match said {
                Ok(said) if said.get_i32("n").is_ok_and(|n| n == 1) => return Ok(()),
                Ok(_) => tokio::time::sleep(PAUSE).await,
                Err(e) if crate::error::number(&e) == Some(code::TOO_SLOW) => {
                    self.end_left_transaction().await?;
                    wait = LEASE;
                }
                Err(e) => return Err(self.session()?.failed(LEFT, &e)),
            }
        }
        Err(self.is_compared())
    }

    pub(super) fn is_compared(&self) -> Error {
        let message =
            format!("another litekeep compares the sync `{}` with {}", self.name, self.address.name());
        Error::with_hint(Kind::Unavailable, message, "it goes on when that is over")
    }

    /// A transaction that a killed litekeep has left open keeps what it has written from others, for a minute.
    pub(super) async fn end_left_transaction(&mut self) -> Result<(), Error> {
        self.find_session_before().await?;
        let session = self.session()?;
        if let Some(left) = session.before.clone() {
            let ended = session.try_admin(doc! { "killSessions": [left] }).await;
            ended.map_err(|e| session.failed("end a transaction that was left open", &e))?;
        }
        Ok(())
    }

    /// Lets others know whose transactions write.
    pub(super) async fn note_session(&mut self) -> Result<(), Error> {
        if self.session()?.is_noted {
            return Ok(());
        }
        self.find_session_before().await?;
        let id = self.id(SESSION);
        let session = self.session()?;
        let lsid = session.writing.id().clone();
        let update = doc! {
            "update": ledger::TABLE,
            "updates": [{ "q": { "_id": id }, "u": { "$set": { "lsid": lsid } }, "upsert": true }],
        };
        session.run("keep how far the sync is", update).await?;
        session.is_noted = true;
        Ok(())
    }

    async fn find_session_before(&mut self) -> Result<(), Error> {
        let id = self.id(SESSION);
        let session = self.session()?;
        if session.is_noted {
            return Ok(());
        }
        let found = Mongo::kept_in(session).find_one(doc! { "_id": id }).await;
        let found = found.map_err(|e| session.failed(LEFT, &e))?;
        let before = found.as_ref().and_then(|found| found.get_document("lsid").ok());
        session.before = before.filter(|before| *before != session.writing.id()).cloned();
        Ok(())
    }

    /// Takes the items of this sync away, and the collection where it has no others.
    pub(super) async fn delete_kept(&mut self) -> Result<(), Error> {
        const FORGET: &str = "forget how far the sync is";
        let all = self.items("");
        let session = self.session()?;
        let delete = doc! {
            "delete": ledger::TABLE,
            "deletes": [{ "q": all, "limit": 0 }],
            "writeConcern": { "w": "majority", "j": true },
        };
        session.run(FORGET, delete).await?;
        session.is_noted = false;
        let rest = Mongo::kept_in(session).find_one(doc! {}).read_concern(ReadConcern::majority()).await;
        if rest.map_err(|e| session.failed(FORGET, &e))?.is_none() {
            session.run(FORGET, doc! { "drop": ledger::TABLE }).await?;
        }
        Ok(())
    }

    /// Says that the comparison goes on.
    pub(super) fn renewal(&self, token: &str) -> Document {
        self.change_held(token, doc! { "$set": { "held": held(token) } })
    }

    pub(super) async fn let_go(&mut self, token: &str) -> Result<(), Error> {
        let change = self.change_held(token, doc! { "$unset": "held" });
        self.session()?.run("end a comparison", change).await.map(drop)
    }

    fn change_held(&self, token: &str, change: Document) -> Document {
        doc! {
            "update": ledger::TABLE,
            "updates": [{ "q": { "_id": self.id(STAGE), "held.by": token }, "u": [change] }],
            "writeConcern": { "w": "majority", "j": true },
        }
    }
}

fn held(token: &str) -> Document {
    let lease = i64::try_from(LEASE.as_millis()).unwrap_or(i64::MAX);
    doc! { "by": token, "until": { "$add": ["$$NOW", lease] } }
}

fn item(document: &Document) -> Option<(String, String)> {
    let item = document.get_document("_id").ok()?.get_str("item").ok()?;
    Some((item.to_owned(), document.get_str("content").ok()?.to_owned()))
}

/// What `$count` says.
pub(super) fn rows(counted: &Document) -> u64 {
    match counted.get("rows") {
        Some(Bson::Int32(rows)) => u64::try_from(*rows).unwrap_or(0),
        Some(Bson::Int64(rows)) => u64::try_from(*rows).unwrap_or(0),
        _ => 0,
    }
}
