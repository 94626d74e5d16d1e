//! One transaction from its journal. It is tried again without each row that the server refuses, which says of every one only when it comes to
//! it, and again where somebody else was in the way.

use std::collections::{BTreeMap, BTreeSet};

use bson::{Bson, Document, RawArrayBuf, RawDocumentBuf, doc, rawdoc};
use litekeep_schema::portable::mongodb::Table;
use litekeep_sync::ledger::{self, STAGE};
use litekeep_sync::target::TargetTable as _;
use litekeep_sync::{Error, Kind, Refused};
use mongodb::error::Error as Cause;
use tokio::time::Instant;

use super::documents::{self, ID};
use super::journal::{Journal, Segment};
use super::kept::rows;
use super::{Mongo, MongoTable};
use crate::command::{COMMAND_ROWS, Tries, WRITE, first_error, groups};
use crate::error::{self, code};
use crate::session::Uncommitted;

const KEEP: &str = "keep how far the sync is";

/// What a transaction does.
pub(super) struct Pending {
    pub(super) journal: Journal,
    /// Collections that are made, by their tables' places in the plan; with their indexes.
    pub(super) made: Vec<(usize, bool)>,
    /// Items with their contents; `None`: they go.
    pub(super) items: Vec<(String, Option<String>)>,
    /// It is the first of its sync.
    pub(super) is_first: bool,
}

impl Pending {
    pub(super) fn new() -> Pending {
        Pending { journal: Journal::new(), made: vec![], items: vec![], is_first: false }
    }
}

/// Rows that the server refuses, by segment and place in it.
#[derive(Default)]
struct Blamed {
    rows: BTreeMap<(usize, usize), Reason>,
    /// All keys that change go before any row comes: rows that exchange a unique value can only go together.
    goes_first: bool,
    /// Those that were refused for a unique value are tried once more when others are refused, too.
    is_again_wanted: bool,
    was_again: bool,
}

struct Reason {
    words: String,
    is_about_uniqueness: bool,
}

/// Why a try has failed. Nothing of it is there.
enum Failed {
    /// The server refuses a row.
    Row((usize, usize), Reason),
    /// Once more, with what was refused for a unique value.
    Again,
    /// What the server says.
    Server(&'static str, Cause),
    /// Anything else.
    Other(Error),
}

impl Mongo {
    pub(super) async fn write(&mut self, mut pending: Pending, stage: &str) -> Result<(), Error> {
        self.note_session().await?;
        let (mut blamed, mut tries) = (Blamed::default(), Tries::default());
        loop {
            let begun = Instant::now();
            match self.try_write(&mut pending, &mut blamed, stage).await {
                Ok(refused) => {
                    self.refused = refused;
                    return Ok(());
                }
                Err(Failed::Row(place, reason)) => blamed.add(place, reason),
                Err(Failed::Again) => blamed.again(),
                Err(Failed::Other(error)) => return Err(error),
                Err(Failed::Server(doing, cause)) => {
                    tries.failed(self.session()?, doing, &cause, begun.elapsed())?;
                    if tries.are_half() {
                        self.end_left_transaction().await?;
                    }
                    tries.pause().await;
                }
            }
        }
    }

    /// How many rows are refused afterwards.
    async fn try_write(
        &mut self,
        pending: &mut Pending,
        blamed: &mut Blamed,
        stage: &str,
    ) -> Result<u64, Failed> {
        self.connected()?.begin().await.map_err(|e| Failed::Server("begin a transaction", e))?;
        let written = self.write_all(pending, blamed, stage).await;
        let Ok(refused) = written else {
            // It has ended by itself for most of these.
            let _ = self.connected()?.writing.abort_transaction().await;
            return written;
        };
        match self.connected()?.commit().await {
            Ok(()) => Ok(refused),
            Err(Uncommitted::Not(e)) => Err(Failed::Server("commit rows", e)),
            Err(Uncommitted::Perhaps(error)) => Err(Failed::Other(error)),
        }
    }

    async fn write_all(
        &mut self,
        pending: &mut Pending,
        blamed: &mut Blamed,
        stage: &str,
    ) -> Result<u64, Failed> {
        for (nth, has_indexes) in pending.made.clone() {
            self.make(nth, has_indexes).await?;
        }
        if blamed.goes_first {
            for nth in 0..pending.journal.len() {
                let segment = read(&mut pending.journal, nth)?;
                if !self.tables[segment.table].0.key.is_empty() {
                    self.delete_of(nth, &segment, blamed).await?;
                }
            }
        }
        let mut is_listed = self.refused > 0;
        for nth in 0..pending.journal.len() {
            let segment = read(&mut pending.journal, nth)?;
            if !segment.is_new {
                self.delete_of(nth, &segment, blamed).await?;
            }
            self.insert_of(nth, &segment, blamed).await?;
            is_listed |= self.list(nth, &segment, blamed, is_listed).await?;
        }
        if blamed.is_again_wanted && !blamed.was_again {
            return Err(Failed::Again);
        }
        for (item, content) in &pending.items {
            self.set(item, content.as_deref()).await?;
        }
        let refused = if is_listed { self.count_refused().await? } else { 0 };
        self.set_stage(stage, pending.is_first).await?;
        Ok(refused)
    }

    /// A collection, and what its columns must be unique in.
    async fn make(&mut self, nth: usize, has_indexes: bool) -> Result<(), Failed> {
        let table = self.tables[nth].0.clone();
        match self.connected()?.within(rawdoc! { "create": table.name.as_str() }).await {
            Ok(_) => {}
            Err(e) if error::number(&e) == Some(code::NAMESPACE_EXISTS) => {
                let message = format!(
                    "make a collection in {}: `{}` was made meanwhile",
                    self.address.name(),
                    table.name
                );
                return Err(Failed::Other(Error::new(Kind::Unavailable, message)));
            }
            Err(e) => return Err(Failed::Server("make a collection", e)),
        }
        if has_indexes && !table.indexes.is_empty() {
            let indexes: Vec<Document> =
                table.indexes.iter().map(|index| documents::index(&table, index)).collect();
            let command = doc! { "createIndexes": &table.name, "indexes": indexes };
            self.within("make the indexes of a collection", raw(&command)?).await?;
        }
        Ok(())
    }

    /// Deletes what goes, and what comes anew.
    async fn delete_of(&mut self, nth: usize, segment: &Segment, blamed: &Blamed) -> Result<(), Failed> {
        let MongoTable(table) = self.tables[segment.table].clone();
        if table.key.is_empty() {
            for group in groups(&segment.gone, size) {
                let one = |row: &RawDocumentBuf| rawdoc! { "q": row.clone(), "limit": 1 };
                self.delete(&table, group.iter().map(one)).await?;
            }
            return Ok(());
        }
        let mut keys: Vec<RawDocumentBuf> = segment.gone.clone();
        for (row, document) in segment.come.iter().enumerate() {
            if !blamed.rows.contains_key(&(nth, row)) {
                keys.push(key(document));
            }
        }
        for group in groups(&keys, size) {
            let mut ids = RawArrayBuf::new();
            group.iter().filter_map(|key| key.get(ID).ok().flatten()).for_each(|id| ids.push(id));
            let all = rawdoc! { "q": { "_id": { "$in": ids } }, "limit": 0 };
            self.delete(&table, std::iter::once(all)).await?;
        }
        Ok(())
    }

    async fn delete(
        &mut self,
        table: &Table,
        statements: impl Iterator<Item = RawDocumentBuf>,
    ) -> Result<(), Failed> {
        let mut deletes = RawArrayBuf::new();
        statements.for_each(|statement| deletes.push(statement));
        let command = rawdoc! { "delete": table.name.as_str(), "deletes": deletes };
        let said = self.within(WRITE, command).await?;
        match first_error(&said) {
            None => Ok(()),
            Some((_, _, words)) => {
                let message =
                    format!("delete documents of `{}` in {}: {words}", table.name, self.address.name());
                Err(Failed::Other(Error::new(Kind::Invalid, message)))
            }
        }
    }

    async fn insert_of(&mut self, nth: usize, segment: &Segment, blamed: &Blamed) -> Result<(), Failed> {
        let table = self.tables[segment.table].0.name.clone();
        let rows: Vec<usize> =
            (0..segment.come.len()).filter(|row| !blamed.rows.contains_key(&(nth, *row))).collect();
        for group in groups(&rows, |row| size(&segment.come[*row])) {
            let mut all = RawArrayBuf::new();
            group.iter().for_each(|row| all.push(&segment.come[*row]));
            let said = self.within(WRITE, rawdoc! { "insert": table.as_str(), "documents": all }).await?;
            let Some((place, number, words)) = first_error(&said) else { continue };
            let Some(row) = group.get(place).filter(|_| error::is_about_data(number)) else {
                let message = format!("write documents of `{table}` in {}: {words}", self.address.name());
                return Err(Failed::Other(Error::new(Kind::Unavailable, message)));
            };
            let is_about_uniqueness = code::DUPLICATE.contains(&number);
            return Err(Failed::Row((nth, *row), Reason { words, is_about_uniqueness }));
        }
        Ok(())
    }

    /// Lists rows that are refused, and takes others off the list; whether any is listed.
    async fn list(
        &mut self,
        nth: usize,
        segment: &Segment,
        blamed: &Blamed,
        is_listed: bool,
    ) -> Result<bool, Failed> {
        let MongoTable(table) = self.tables[segment.table].clone();
        let of_server = |((_, row), reason): (&(usize, usize), &Reason)| {
            let values = documents::row(&table, &segment.come[*row]);
            let key = MongoTable(table.clone()).key_of(&values);
            Refused { table: segment.table, key, reason: reason.words.clone() }
        };
        let refused = blamed.rows.range((nth, 0)..(nth + 1, 0)).map(of_server);
        let refused: Vec<Refused> = refused.chain(segment.refused.iter().cloned()).collect();
        let items: BTreeSet<String> =
            refused.iter().map(|row| ledger::refused_item(&table.source, &row.key)).collect();
        if is_listed {
            let fine: Vec<Bson> = segment
                .fine
                .iter()
                .filter(|item| !items.contains(*item))
                .map(|item| self.id(item).into())
                .collect();
            for group in fine.chunks(COMMAND_ROWS) {
                let gone = doc! { "delete": ledger::TABLE, "deletes": [{ "q": { "_id": { "$in": group } }, "limit": 0 }] };
                self.within(KEEP, raw(&gone)?).await?;
            }
        }
        for row in &refused {
            let item = ledger::refused_item(&table.source, &row.key);
            self.set(&item, Some(&ledger::listed(&table.source, row))).await?;
        }
        Ok(!refused.is_empty())
    }

    async fn set(&mut self, item: &str, content: Option<&str>) -> Result<(), Failed> {
        let id = self.id(item);
        let command = match content {
            Some(content) => doc! {
                "update": ledger::TABLE,
                "updates": [{
                    "q": { "_id": id },
                    "u": { "$set": { "content": content }, "$currentDate": { "changed_at": true } },
                    "upsert": true,
                }],
            },
            None => doc! { "delete": ledger::TABLE, "deletes": [{ "q": { "_id": id }, "limit": 1 }] },
        };
        let said = self.within(KEEP, raw(&command)?).await?;
        self.is_fine(&said)
    }

    async fn count_refused(&mut self) -> Result<u64, Failed> {
        let pipeline = vec![doc! { "$match": self.items(ledger::REFUSED) }, doc! { "$count": "rows" }];
        let command = doc! { "aggregate": ledger::TABLE, "pipeline": pipeline, "cursor": {} };
        let said = self.within("count refused rows", raw(&command)?).await?;
        Ok(first_of(&said).map_or(0, rows))
    }

    /// The stage is as the last commit of ours left it, or nothing of this transaction comes to be.
    async fn set_stage(&mut self, stage: &str, is_first: bool) -> Result<(), Failed> {
        let id = self.id(STAGE);
        if is_first {
            let begin = doc! { "insert": ledger::TABLE, "documents": [{ "_id": id, "content": stage }] };
            let said = self.within(KEEP, raw(&begin)?).await?;
            return match first_error(&said) {
                Some((_, number, _)) if code::DUPLICATE.contains(&number) => {
                    Err(Failed::Other(self.fenced()))
                }
                _ => self.is_fine(&said),
            };
        }
        let holder = self.hold.as_ref().map_or(String::new(), |hold| hold.token.clone());
        let change = doc! {
            "update": ledger::TABLE,
            "updates": [{
                "q": {
                    "_id": id,
                    "content": self.stage.clone().unwrap_or_default(),
                    "$or": [
                        { "held": { "$exists": false } },
                        { "held.by": holder },
                        { "$expr": { "$lt": ["$held.until", "$$NOW"] } },
                    ],
                },
                "u": [{ "$set": { "content": { "$literal": stage }, "changed_at": "$$NOW" } }, { "$unset": "held" }],
            }],
        };
        let said = self.within(KEEP, raw(&change)?).await?;
        self.is_fine(&said)?;
        if said.get_i32("n").is_ok_and(|n| n == 1) {
            return Ok(());
        }
        let find = doc! { "find": ledger::TABLE, "filter": { "_id": self.id(STAGE) }, "limit": 1 };
        let said = self.within(KEEP, raw(&find)?).await?;
        let is_same = |found: &Document| found.get_str("content").ok() == self.stage.as_deref();
        Err(Failed::Other(match first_of(&said).is_some_and(is_same) {
            // Only somebody who compares is in the way, and nothing has changed yet.
            true => self.is_compared(),
            false => self.fenced(),
        }))
    }

    fn fenced(&self) -> Error {
        ledger::fenced(&self.name, self.address.name())
    }

    fn is_fine(&self, said: &Document) -> Result<(), Failed> {
        match first_error(said) {
            None => Ok(()),
            Some((_, _, words)) => {
                let message = format!("{KEEP} in {}: {words}", self.address.name());
                Err(Failed::Other(Error::new(Kind::Invalid, message)))
            }
        }
    }

    async fn within(&mut self, doing: &'static str, command: RawDocumentBuf) -> Result<Document, Failed> {
        self.connected()?.within(command).await.map_err(|e| Failed::Server(doing, e))
    }

    fn connected(&mut self) -> Result<&mut crate::session::Session, Failed> {
        self.session().map_err(Failed::Other)
    }
}

impl Blamed {
    fn add(&mut self, place: (usize, usize), reason: Reason) {
        if reason.is_about_uniqueness && !std::mem::replace(&mut self.goes_first, true) {
            // It may only be in the way of one that comes later.
            return;
        }
        let is_other =
            !reason.is_about_uniqueness && self.rows.values().any(|known| known.is_about_uniqueness);
        self.is_again_wanted |= is_other;
        self.rows.insert(place, reason);
    }

    fn again(&mut self) {
        self.was_again = true;
        self.rows.retain(|_, reason| !reason.is_about_uniqueness);
    }
}

/// The first document of what a command finds.
fn first_of(said: &Document) -> Option<&Document> {
    said.get_document("cursor").ok()?.get_array("firstBatch").ok()?.first()?.as_document()
}

fn key(document: &RawDocumentBuf) -> RawDocumentBuf {
    let mut key = RawDocumentBuf::new();
    if let Ok(Some(id)) = document.get(ID) {
        key.append(bson::cstr!("_id"), id);
    }
    key
}

fn size(document: &RawDocumentBuf) -> usize {
    document.as_bytes().len()
}

fn read(journal: &mut Journal, nth: usize) -> Result<Segment, Failed> {
    let failed =
        |e| Failed::Other(Error::new(Kind::Unavailable, format!("read the journal of a transaction: {e}")));
    journal.read(nth).map_err(failed)
}

fn raw(command: &Document) -> Result<RawDocumentBuf, Failed> {
    let failed = |e| Failed::Other(Error::new(Kind::Internal, format!("encode a command: {e}")));
    RawDocumentBuf::try_from(command).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused_for_a_unique_value_gets_a_second_chance() {
        let reason = |is_about_uniqueness| Reason { words: String::new(), is_about_uniqueness };
        let mut blamed = Blamed::default();
        blamed.add((0, 1), reason(true));
        assert!(blamed.goes_first && blamed.rows.is_empty(), "first all keys go before any row comes");
        blamed.add((0, 1), reason(true));
        assert!(!blamed.is_again_wanted);
        blamed.add((0, 2), reason(false));
        assert!(blamed.is_again_wanted);
        blamed.again();
        assert_eq!(blamed.rows.keys().collect::<Vec<_>>(), [&(0, 2)]);
    }
}
