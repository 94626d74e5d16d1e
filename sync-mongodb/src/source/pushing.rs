//! Rows on their way into collections, in one transaction.
//!
//! It reads what is there at one moment, and the server ends it where somebody has changed a document since that it changes. So nothing is overwritten that was
//! not seen. It ends with its first error, too. What it does is therefore kept on this side until it is committed, and done again without a row that the
//! server refuses, or when somebody was in the way: but only where all documents that were looked at are as they were then.

use std::collections::HashMap;

use bson::raw::RawDocumentBuf;
use bson::{Bson, Document, RawArrayBuf, doc, rawdoc};
use litekeep_sync::ledger::{self, TABLE};
use litekeep_sync::{Error, Kind, Value, hub};
use mongodb::error::Error as Cause;
use tokio::time::Instant;

use super::layout::{ID, Layout, Taken};
use super::stream::SAYS;
use crate::command::{COMMAND_ROWS, Tries, WRITE, first_error, groups};
use crate::error::{self, code};
use crate::session::{Session, Uncommitted};

/// Bytes of a document at most: a change of it comes with the document as it was, as it is, and what is otherwise, which have 16 MiB together.
const LARGEST: usize = 5 << 20;
/// What a value is of a document that cannot be here, so that it is like none that is known.
const UNFIT: &[u8] = b"\0no value of SQLite's: ";
pub(super) const KEEP: &str = "keep how far the sync is";
const LOOK: &str = "look at documents";

/// A transaction of a node's.
pub(super) struct Transaction {
    node: String,
    says: Option<String>,
    looked_at: Vec<LookedAt>,
    groups: Vec<Group>,
    /// What is done in the one that is open.
    open: Option<Open>,
}

struct Open {
    since: Instant,
    has_said: bool,
    done: usize,
}

/// Documents as they were there.
struct LookedAt {
    collection: String,
    keys: Vec<Bson>,
    found: Vec<RawDocumentBuf>,
}

/// Documents of a collection that are written together, each with its place among the rows.
#[derive(Default)]
struct Group {
    collection: String,
    gone: Vec<(usize, Bson)>,
    changed: Vec<(usize, Changed)>,
    new: Vec<(usize, RawDocumentBuf)>,
    /// Those that are changed go before any comes: documents that exchange what must be unique can only go together.
    goes_first: bool,
    /// Those that the server refuses, with the reason.
    refused: Vec<(usize, String)>,
}

struct Changed {
    id: Bson,
    /// What is set in it.
    set: Document,
    whole: RawDocumentBuf,
}

/// What a transaction ends with.
pub(super) struct Ending<'a> {
    /// The item that says how far the node is, as it must be and as it is then.
    pub(super) stage: (&'a str, Option<&'a str>, &'a str),
    pub(super) kept: &'a [(String, std::borrow::Cow<'a, str>)],
    pub(super) gone: &'a [String],
}

/// Why a try has failed. Nothing of it is there.
enum Failed {
    /// The server refuses a document of a group.
    Row {
        group: usize,
        place: usize,
        words: String,
        is_about_uniqueness: bool,
    },
    /// What the server says.
    Server(&'static str, Cause),
    Other(Error),
}

/// The key of an item of a node's.
pub(super) fn id_of(node: &str, item: &str) -> Document {
    doc! { "sync": node, "item": item }
}

impl Transaction {
    pub(super) fn of(node: &str, says: Option<&str>) -> Transaction {
        let (node, says) = (node.to_owned(), says.map(str::to_owned));
        Transaction { node, says, looked_at: vec![], groups: vec![], open: None }
    }

    pub(super) fn node(&self) -> &str {
        &self.node
    }

    /// Rows with these keys as they are.
    pub(super) async fn look(
        &mut self,
        session: &mut Session,
        layout: &Layout,
        keys: &[Vec<Value>],
    ) -> Result<Vec<Vec<Value>>, Error> {
        // No document has a key that is none there.
        let ids: Vec<Bson> = keys.iter().filter_map(|key| layout.written_key(key).ok()).collect();
        let first = self.looked_at.len();
        for keys in groups(&ids, id_size) {
            let (collection, keys) = (layout.table.source.clone(), keys.to_vec());
            self.looked_at.push(LookedAt { collection, keys, found: vec![] });
        }
        let mut tries = Tries::default();
        while let Err(failed) = self.try_look(session, first).await {
            let lasted = self.ends(session).await;
            match failed {
                Failed::Server(doing, cause) => tries.failed(session, doing, &cause, lasted)?,
                Failed::Other(error) => return Err(error),
                Failed::Row { .. } => {}
            }
            tries.pause().await;
        }
        let mut rows = vec![];
        for document in self.looked_at[first..].iter().flat_map(|looked_at| &looked_at.found) {
            let document = document_of(document)?;
            match layout.row(&document) {
                Taken { row: Ok(row), more } if more.is_empty() => rows.push(row),
                _ => rows.extend(unfit_row(layout, &document)),
            }
        }
        Ok(rows)
    }

    async fn try_look(&mut self, session: &mut Session, first: usize) -> Result<(), Failed> {
        self.open(session, first).await?;
        for looked_at in &mut self.looked_at[first..] {
            looked_at.found = looked_at.look(session).await?;
        }
        Ok(())
    }

    /// Opens it where it is not, if the first documents that were looked at are as they were.
    async fn open(&mut self, session: &mut Session, looked_at: usize) -> Result<(), Failed> {
        if self.open.is_some() {
            return Ok(());
        }
        session.begin_at_a_moment().await.map_err(|e| Failed::Server("begin a transaction", e))?;
        self.open = Some(Open { since: Instant::now(), has_said: false, done: 0 });
        for looked_at in &self.looked_at[..looked_at] {
            if looked_at.look(session).await? != looked_at.found {
                return Err(Failed::Other(changed_meanwhile(session)));
            }
        }
        Ok(())
    }

    /// Writes rows, and tells which the server refuses.
    pub(super) async fn write(
        &mut self,
        session: &mut Session,
        layout: &Layout,
        rows: &[hub::Writing],
    ) -> Result<Vec<(usize, String)>, Error> {
        let group = self.group(layout, rows)?;
        self.groups.push(group);
        self.advance(session, None).await?;
        let Some(group) = self.groups.last_mut() else { return Ok(vec![]) };
        let mut refused = std::mem::take(&mut group.refused);
        refused.sort();
        Ok(refused)
    }

    /// Keeps how far the node is, and commits.
    pub(super) async fn commit(mut self, session: &mut Session, ending: Ending<'_>) -> Result<(), Error> {
        self.advance(session, Some(&ending)).await
    }

    /// Ends it without effect.
    pub(super) async fn roll_back(mut self, session: &mut Session) {
        self.ends(session).await;
    }

    /// What is to be done with rows.
    fn group(&self, layout: &Layout, rows: &[hub::Writing]) -> Result<Group, Error> {
        let collection = layout.table.source.clone();
        let mut group = Group { collection, ..Group::default() };
        let looked_at = self.looked_at.iter().filter(|looked_at| looked_at.collection == group.collection);
        let mut there: HashMap<Vec<u8>, &RawDocumentBuf> = HashMap::new();
        for document in looked_at.flat_map(|looked_at| &looked_at.found) {
            let id = document.get(ID).ok().flatten().and_then(|id| Bson::try_from(id).ok());
            there.extend(id.and_then(|id| layout.key(Some(&id)).ok()).map(|key| (text_of(&key), document)));
        }
        for (place, row) in rows.iter().enumerate() {
            let old = there.get(&text_of(&row.key)).map(|old| document_of(old)).transpose()?;
            let id = old.as_ref().and_then(|old| old.get(ID)).cloned();
            match (&row.row, id.zip(old)) {
                (None, Some((id, _))) => group.gone.push((place, id)),
                // It is gone already.
                (None, None) => {}
                (Some(row), Some((id, old))) => match changed(layout, id, old, row) {
                    Ok(Some(changed)) => group.changed.push((place, changed)),
                    Ok(None) => {}
                    Err(why) => group.refused.push((place, why)),
                },
                (Some(row), None) => match layout.document(row).and_then(|new| raw_document(&new)) {
                    Ok(document) => group.new.push((place, document)),
                    Err(why) => group.refused.push((place, why)),
                },
            }
        }
        Ok(group)
    }

    /// Does what is next, and what was done before where that is needed. The last group may lose rows that the server refuses.
    async fn advance(&mut self, session: &mut Session, ending: Option<&Ending<'_>>) -> Result<(), Error> {
        let mut tries = Tries::default();
        loop {
            let failed = match self.try_advance(session, ending).await {
                Ok(()) => return Ok(()),
                Err(failed) => failed,
            };
            let lasted = self.ends(session).await;
            match failed {
                Failed::Row { group, place, words, is_about_uniqueness } => {
                    let is_last = group + 1 == self.groups.len() && ending.is_none();
                    let Some(group) = self.groups.get_mut(group).filter(|_| is_last) else {
                        // It was admitted before.
                        return Err(changed_meanwhile(session));
                    };
                    group.blame(place, words, is_about_uniqueness);
                }
                Failed::Server(doing, cause) => {
                    tries.failed(session, doing, &cause, lasted)?;
                    tries.pause().await;
                }
                Failed::Other(error) => return Err(error),
            }
        }
    }

    /// Nothing of it is there. How long it was open.
    async fn ends(&mut self, session: &mut Session) -> std::time::Duration {
        let Some(open) = self.open.take() else { return std::time::Duration::ZERO };
        // It has ended by itself for most errors.
        let _ = session.writing.abort_transaction().await;
        open.since.elapsed()
    }

    async fn try_advance(
        &mut self,
        session: &mut Session,
        ending: Option<&Ending<'_>>,
    ) -> Result<(), Failed> {
        self.open(session, self.looked_at.len()).await?;
        let Some(open) = &mut self.open else { return Ok(()) };
        if !open.has_said {
            say(&self.node, self.says.as_deref(), session).await?;
            open.has_said = true;
        }
        for (nth, group) in self.groups.iter().enumerate().skip(open.done) {
            group.write(nth, session).await?;
            open.done = nth + 1;
        }
        let Some(ending) = ending else { return Ok(()) };
        ending.keep(&self.node, session).await?;
        match session.commit().await {
            Ok(()) => {}
            Err(Uncommitted::Not(e)) => return Err(Failed::Server("commit rows", e)),
            Err(Uncommitted::Perhaps(error)) => return Err(Failed::Other(error)),
        }
        self.open = None;
        Ok(())
    }
}

/// Before all that it writes. Who begins anew writes to the same document, and so waits for the end of this.
async fn say(node: &str, says: Option<&str>, session: &mut Session) -> Result<(), Failed> {
    let says = doc! { "$set": { "content": says }, "$inc": { "transactions": 1_i64 } };
    let one = doc! { "q": { ID: id_of(node, SAYS) }, "u": says, "upsert": true };
    within(session, &doc! { "update": TABLE, "updates": [one] }).await.map(drop)
}

impl LookedAt {
    async fn look(&self, session: &mut Session) -> Result<Vec<RawDocumentBuf>, Failed> {
        session.find_within(&self.collection, &self.keys).await.map_err(|e| Failed::Server(LOOK, e))
    }
}

impl Group {
    /// The server refuses a document.
    fn blame(&mut self, place: usize, words: String, is_about_uniqueness: bool) {
        // It may only be in the way of one that goes away.
        if is_about_uniqueness && !self.goes_first && self.changed.len() > 1 {
            self.goes_first = true;
            return;
        }
        self.goes_first = false;
        self.gone.retain(|(nth, _)| *nth != place);
        self.changed.retain(|(nth, _)| *nth != place);
        self.new.retain(|(nth, _)| *nth != place);
        self.refused.push((place, words));
    }

    async fn write(&self, nth: usize, session: &mut Session) -> Result<(), Failed> {
        let first = self.changed.iter().filter(|_| self.goes_first).map(|(place, one)| (*place, &one.id));
        let gone: Vec<(usize, &Bson)> =
            self.gone.iter().map(|(place, id)| (*place, id)).chain(first).collect();
        for gone in groups(&gone, |(_, id)| id_size(id)) {
            let deletes: Vec<Document> =
                gone.iter().map(|(_, id)| doc! { "q": { ID: (*id).clone() }, "limit": 1 }).collect();
            let command = doc! { "delete": &self.collection, "deletes": deletes };
            let places: Vec<usize> = gone.iter().map(|(place, _)| *place).collect();
            self.run(nth, session, raw(&command)?, &places).await?;
        }
        let in_place = if self.goes_first { &[][..] } else { &self.changed[..] };
        for changed in groups(in_place, |(_, one)| size(&one.whole)) {
            let updates: Vec<Document> = changed
                .iter()
                .map(|(_, one)| doc! { "q": { ID: one.id.clone() }, "u": { "$set": one.set.clone() } })
                .collect();
            let command = doc! { "update": &self.collection, "updates": updates };
            let places: Vec<usize> = changed.iter().map(|(place, _)| *place).collect();
            self.run(nth, session, raw(&command)?, &places).await?;
        }
        let again = self.changed.iter().filter(|_| self.goes_first).map(|(place, one)| (*place, &one.whole));
        let new: Vec<(usize, &RawDocumentBuf)> =
            again.chain(self.new.iter().map(|(place, new)| (*place, new))).collect();
        for new in groups(&new, |(_, new)| size(new)) {
            let mut documents = RawArrayBuf::new();
            new.iter().for_each(|(_, new)| documents.push((*new).clone()));
            let command = rawdoc! { "insert": self.collection.as_str(), "documents": documents };
            let places: Vec<usize> = new.iter().map(|(place, _)| *place).collect();
            self.run(nth, session, command, &places).await?;
        }
        Ok(())
    }

    async fn run(
        &self,
        group: usize,
        session: &mut Session,
        command: RawDocumentBuf,
        places: &[usize],
    ) -> Result<(), Failed> {
        let said = session.within(command).await.map_err(|e| Failed::Server(WRITE, e))?;
        match first_error(&said) {
            Some((at, number, words)) => match places.get(at).filter(|_| error::is_about_data(number)) {
                Some(place) => {
                    let is_about_uniqueness = code::DUPLICATE.contains(&number);
                    Err(Failed::Row { group, place: *place, words, is_about_uniqueness })
                }
                None => {
                    let message = format!("{WRITE} of `{}` in {}: {words}", self.collection, session.name());
                    Err(Failed::Other(Error::new(Kind::Unavailable, message)))
                }
            },
            // What was seen a moment ago is there.
            None if said.get_i32("n").is_ok_and(|n| usize::try_from(n) == Ok(places.len())) => Ok(()),
            None => Err(Failed::Other(changed_meanwhile(session))),
        }
    }
}

impl Ending<'_> {
    async fn keep(&self, node: &str, session: &mut Session) -> Result<(), Failed> {
        let (stage, expected, now) = self.stage;
        let id = id_of(node, stage);
        let fenced = Failed::Other(ledger::fenced(node, session.name()));
        let command = match expected {
            None => doc! { "insert": TABLE, "documents": [{ ID: id, "content": now }] },
            Some(expected) => {
                let one = doc! { "q": { ID: id, "content": expected }, "u": { "$set": { "content": now } } };
                doc! { "update": TABLE, "updates": [one] }
            }
        };
        let said = session.within(raw(&command)?).await.map_err(|e| Failed::Server(KEEP, e))?;
        match first_error(&said) {
            Some((_, number, _)) if code::DUPLICATE.contains(&number) => return Err(fenced),
            Some((_, _, words)) => return Err(unkept(session, &words)),
            None if said.get_i32("n").is_ok_and(|n| n == 1) => {}
            None => return Err(fenced),
        }
        for gone in self.gone.chunks(COMMAND_ROWS) {
            let ids: Vec<Document> = gone.iter().map(|item| id_of(node, item)).collect();
            let all = doc! { "q": { ID: { "$in": ids } }, "limit": 0 };
            within(session, &doc! { "delete": TABLE, "deletes": [all] }).await?;
        }
        for kept in groups(self.kept, |(item, content)| 256 + item.len() + content.len()) {
            let one = |(item, content): &(String, std::borrow::Cow<'_, str>)| {
                doc! { "q": { ID: id_of(node, item) }, "u": { "$set": { "content": &**content } }, "upsert": true }
            };
            let updates: Vec<Document> = kept.iter().map(one).collect();
            within(session, &doc! { "update": TABLE, "updates": updates }).await?;
        }
        Ok(())
    }
}

/// Runs a command that none of the user's data is in the way of.
async fn within(session: &mut Session, command: &Document) -> Result<Document, Failed> {
    let said = session.within(raw(command)?).await.map_err(|e| Failed::Server(KEEP, e))?;
    match first_error(&said) {
        None => Ok(said),
        Some((_, _, words)) => Err(unkept(session, &words)),
    }
}

fn unkept(session: &Session, words: &str) -> Failed {
    Failed::Other(Error::new(Kind::Invalid, format!("{KEEP} in {}: {words}", session.name())))
}

/// What is to be written was decided by what is there no more.
fn changed_meanwhile(session: &Session) -> Error {
    let message = format!("{WRITE} in {}: somebody has changed documents meanwhile", session.name());
    Error::with_hint(Kind::Unavailable, message, "they are looked at again")
}

/// What a document gets so that it is a row; `None`: it is.
fn changed(layout: &Layout, id: Bson, mut old: Document, row: &[Value]) -> Result<Option<Changed>, String> {
    let set = layout.change(&old, row)?;
    if set.is_empty() {
        return Ok(None);
    }
    old.extend(set.clone());
    Ok(Some(Changed { id, set, whole: raw_document(&old)? }))
}

/// A document that is not too large to be followed.
fn raw_document(document: &Document) -> Result<RawDocumentBuf, String> {
    let raw = RawDocumentBuf::try_from(document).map_err(|e| e.to_string())?;
    match size(&raw) {
        size if size > LARGEST => Err(format!(
            "it has {size} bytes there, and a document {LARGEST} at most whose changes can be told with how it was before"
        )),
        _ => Ok(raw),
    }
}

/// A document that cannot be here, as a row that is like none: what comes of it lets its table stand still.
fn unfit_row(layout: &Layout, document: &Document) -> Option<Vec<Value>> {
    let key = layout.key(document.get(ID)).ok()?;
    let unfit = [UNFIT, document.to_string().as_bytes()].concat();
    let mut row = vec![Value::Blob(unfit); layout.table.mirror.columns.len()];
    layout.table.mirror.key.iter().zip(key).for_each(|(nth, value)| row[*nth] = value);
    Some(row)
}

fn text_of(key: &[Value]) -> Vec<u8> {
    key.iter()
        .flat_map(|value| [litekeep_sync::target::key_text(value).into_bytes(), vec![0]])
        .flatten()
        .collect()
}

fn document_of(raw: &RawDocumentBuf) -> Result<Document, Error> {
    let damaged = |e: bson::error::Error| Error::new(Kind::Corrupt, format!("{LOOK}: {e}"));
    Document::try_from(&**raw).map_err(damaged)
}

fn raw(command: &Document) -> Result<RawDocumentBuf, Failed> {
    let failed = |e| Failed::Other(Error::new(Kind::Internal, format!("encode a command: {e}")));
    RawDocumentBuf::try_from(command).map_err(failed)
}

fn id_size(id: &Bson) -> usize {
    RawDocumentBuf::try_from(&doc! { ID: id }).map_or(0, |document| size(&document))
}

fn size(document: &RawDocumentBuf) -> usize {
    document.as_bytes().len()
}
