//! Changes as the server tells them, received by a task of its own: nothing is lost when nobody waits for them.
//!
//! Who asks for changes gets those that are there, or none after a while. None means that everything has come that was there, which is how the end of
//! a transaction is known that nothing follows.

use std::collections::HashMap;
use std::time::Duration;

use bson::raw::RawDocumentBuf;
use bson::{Bson, Document, doc};
use litekeep_sync::{Error, Kind, ledger};
use mongodb::error::Error as Cause;
use mongodb::options::ReadConcern;
use mongodb::{ClientSession, Database};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::layout::ID;
use super::position::Position;
use crate::error::{self, code};
use crate::{Address, error::READS};

/// Changes that are asked for at once.
const EVENTS: i32 = 2_000;
/// How long the server waits for changes; and where the end of a transaction is waited for, or nothing but how far the server is.
const PATIENCE: Duration = Duration::from_secs(1);
const SETTLING: Duration = Duration::from_millis(1);
/// Documents that are looked up at once.
const LOOKED_UP: usize = 1_000;
pub(super) const FOLLOW: &str = "read changes";
/// The item in which a node says something of its transaction.
pub(super) const SAYS: &str = "says";

/// Changes, in their order.
pub(super) struct Batch {
    pub(super) events: Vec<Came>,
    /// Up to where everything has come, where that is more than the changes say.
    pub(super) reached: Option<Position>,
    /// Whatever is open has ended: the server has no more.
    pub(super) is_all: bool,
}

/// A change.
pub(super) struct Came {
    pub(super) event: Document,
    /// The document as it is now, where the change is not told whole.
    pub(super) now: Option<Document>,
}

/// What is followed.
#[derive(Clone)]
pub(super) struct Followed {
    pub(super) address: Address,
    pub(super) collections: Vec<String>,
    /// The server can tell documents as they were after a change.
    pub(super) has_images: bool,
    /// Rows go there, too: each change is to come with the document as it was, and with what nodes say of their transactions.
    pub(super) is_two_way: bool,
    /// It puts together what several servers tell, and so may have none of it for a while.
    pub(super) is_router: bool,
}

impl Followed {
    /// What asks for changes. Without collections: for any.
    fn aggregate(&self, from: &Position, at_once: i32) -> Document {
        let (begins, at) = from.begin();
        let mut stage = doc! { begins: at };
        if self.has_images {
            stage.insert("fullDocument", "whenAvailable");
        }
        if self.is_two_way {
            stage.insert("fullDocumentBeforeChange", "whenAvailable");
        }
        let mut pipeline = vec![doc! { "$changeStream": stage }];
        if !self.collections.is_empty() {
            let ours = doc! { "$in": &self.collections };
            let whole = doc! { "$in": ["dropDatabase", "invalidate"] };
            let mut wanted = vec![
                doc! { "ns.coll": ours.clone() },
                doc! { "to.coll": ours },
                doc! { "operationType": whole },
            ];
            if self.is_two_way {
                wanted.push(doc! { "ns.coll": ledger::TABLE, "documentKey._id.item": SAYS });
            }
            pipeline.push(doc! { "$match": { "$or": wanted } });
        }
        doc! { "aggregate": 1, "pipeline": pipeline, "cursor": { "batchSize": at_once } }
    }

    fn failed(&self, e: &Cause) -> Error {
        let known = error::server_as(&self.address, READS, FOLLOW, e);
        match error::number(e) {
            // Connected anew, it is asked whether it has them still.
            Some(code::HISTORY_LOST | code::CHANGE_STREAM_FATAL | code::CAPPED_POSITION_LOST) => {
                Error::new(Kind::Unavailable, known.to_string())
            }
            Some(code::DOCUMENT_TOO_LARGE) => {
                let hint = "a change of a document of nearly 16 MiB cannot be told; `litekeep sync resync` compares all rows, and goes on from there";
                Error::with_hint(Kind::Invalid, known.to_string(), hint)
            }
            _ => known,
        }
    }
}

/// Whether a server has what comes after a position.
///
/// # Errors
/// When it does not answer, or the user may not ask.
pub(super) async fn has(db: &Database, followed: &Followed, from: &Position) -> Result<bool, Error> {
    let any = Followed { collections: vec![], ..followed.clone() };
    let mut session = db.client().start_session().await.map_err(|e| followed.failed(&e))?;
    let asked = async {
        let said = db.run_command(any.aggregate(from, 1)).session(&mut session).await?;
        if let Some(Reply { cursor: cursor @ 1.., .. }) = Reply::of(said) {
            // It goes by itself, too, after a while. Nobody may do this within a session.
            let kill = doc! { "killCursors": "$cmd.aggregate", "cursors": [cursor] };
            let _ = db.run_command(kill).await;
        }
        Ok::<(), Cause>(())
    };
    match asked.await {
        Ok(()) => Ok(true),
        Err(e) => match error::number(&e) {
            Some(code::HISTORY_LOST | code::CHANGE_STREAM_FATAL | code::INVALID_RESUME_TOKEN) => {
                tracing::warn!("{}", followed.failed(&e));
                Ok(false)
            }
            _ => Err(followed.failed(&e)),
        },
    }
}

/// Changes on their way.
pub(super) struct Stream {
    batches: mpsc::Receiver<Result<Batch, Error>>,
    receiving: JoinHandle<()>,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.receiving.abort();
    }
}

impl Stream {
    pub(super) fn open(db: &Database, followed: Followed, from: Position) -> Stream {
        let (send, batches) = mpsc::channel(1);
        let db = db.clone();
        let receiving = tokio::spawn(async move {
            if let Err(e) = receive(&db, &followed, from, &send).await {
                // Where nobody waits for it any more, nobody needs to know.
                let _ = send.send(Err(followed.failed(&e))).await;
            }
        });
        Stream { batches, receiving }
    }

    /// What comes next. Nothing is lost when it is not awaited to its end.
    pub(super) async fn next(&mut self) -> Result<Batch, Error> {
        let ended = || Error::new(Kind::Unavailable, format!("{FOLLOW}: the server has ended them"));
        self.batches.recv().await.ok_or_else(ended)?
    }
}

/// Until nobody takes them any more.
async fn receive(
    db: &Database,
    followed: &Followed,
    mut from: Position,
    to: &mpsc::Sender<Result<Batch, Error>>,
) -> Result<(), Cause> {
    // A cursor belongs to its session.
    let mut session = db.client().start_session().await?;
    loop {
        let mut said = db.run_command(followed.aggregate(&from, EVENTS)).session(&mut session).await?;
        loop {
            let Some(Reply { cursor, events, token, is_first }) = Reply::of(said) else { return Ok(()) };
            let last = events.last().and_then(position_of);
            let reached = token.filter(|token| last.as_ref() != Some(token));
            if let Some(at) = reached.as_ref().or(last.as_ref()) {
                from = at.clone();
            }
            let is_open = events.last().is_some_and(|event| event.contains_key("txnNumber"));
            let is_all = events.is_empty() && !is_first && !followed.is_router;
            let events = match followed.is_two_way {
                true => events.into_iter().map(|event| Came { event, now: None }).collect(),
                false => looked_up(db, &mut session, events).await?,
            };
            if to.send(Ok(Batch { events, reached, is_all })).await.is_err() {
                return Ok(());
            }
            if cursor == 0 {
                // A database that is dropped ends it; another one of its name may come.
                break;
            }
            // At first it tells how far the server is, where nothing comes.
            let is_short = is_first || is_open && !followed.is_router;
            let patience = if is_short { SETTLING } else { PATIENCE };
            let more = doc! {
                "getMore": cursor,
                "collection": "$cmd.aggregate",
                "batchSize": EVENTS,
                "maxTimeMS": patience.as_millis() as i64,
            };
            said = db.run_command(more).session(&mut session).await?;
        }
    }
}

/// What a server says of a cursor.
struct Reply {
    cursor: i64,
    events: Vec<Document>,
    token: Option<Position>,
    is_first: bool,
}

impl Reply {
    fn of(mut said: Document) -> Option<Reply> {
        let Some(Bson::Document(mut of)) = said.remove("cursor") else { return None };
        let is_first = of.contains_key("firstBatch");
        let events = of.remove(if is_first { "firstBatch" } else { "nextBatch" });
        let Some(Bson::Array(events)) = events else { return None };
        let event = |event| if let Bson::Document(event) = event { Some(event) } else { None };
        let events = events.into_iter().filter_map(event).collect();
        let token = of.get_document("postBatchResumeToken").ok().and_then(Position::of_token);
        Some(Reply { cursor: of.get_i64("id").ok()?, events, token, is_first })
    }
}

/// Where a stream is after a change.
pub(super) fn position_of(event: &Document) -> Option<Position> {
    Position::of_token(event.get_document(ID).ok()?)
}

/// The fields that a change of a document has set and taken away; `None`: parts of them, of which only the whole tells how they are.
pub(super) fn whole_fields(event: &Document) -> Option<(&Document, &[Bson])> {
    let described = event.get_document("updateDescription").ok()?;
    let set = described.get_document("updatedFields").ok()?;
    let gone = described.get_array("removedFields").map_or(&[][..], Vec::as_slice);
    let is_cut = described.get_array("truncatedArrays").is_ok_and(|cut| !cut.is_empty());
    let is_path = |name: &str| name.contains('.');
    let are_parts = set.keys().any(|name| is_path(name)) || gone.iter().filter_map(Bson::as_str).any(is_path);
    (!is_cut && !are_parts).then_some((set, gone))
}

/// With the documents as they are now that changes do not tell whole.
async fn looked_up(
    db: &Database,
    session: &mut ClientSession,
    events: Vec<Document>,
) -> Result<Vec<Came>, Cause> {
    let mut wanted: HashMap<String, Vec<Bson>> = HashMap::new();
    for event in events.iter().filter(|event| is_partial(event)) {
        if let (Some(collection), Some(id)) = (collection_of(event), id_of(event)) {
            wanted.entry(collection.to_owned()).or_default().push(id.clone());
        }
    }
    let mut found: HashMap<(String, Vec<u8>), Document> = HashMap::new();
    for (collection, ids) in wanted {
        let there = db.collection::<Document>(&collection);
        for ids in ids.chunks(LOOKED_UP) {
            let all = there.find(doc! { ID: { "$in": ids } }).read_concern(ReadConcern::majority());
            let mut cursor = all.session(&mut *session).await?;
            while cursor.advance(session).await? {
                let document = Document::try_from(cursor.current())?;
                if let Some(place) = document.get(ID).and_then(bytes_of) {
                    found.insert((collection.clone(), place), document);
                }
            }
        }
    }
    let with = |event: Document| {
        let place = match is_partial(&event) {
            true => collection_of(&event).map(str::to_owned).zip(id_of(&event).and_then(bytes_of)),
            false => None,
        };
        let now = place.and_then(|place| found.get(&place).cloned());
        Came { event, now }
    };
    Ok(events.into_iter().map(with).collect())
}

fn is_partial(event: &Document) -> bool {
    event.get_str("operationType").is_ok_and(|what| what == "update")
        && event.get_document("fullDocument").is_err()
        && whole_fields(event).is_none()
}

fn collection_of(event: &Document) -> Option<&str> {
    event.get_document("ns").ok()?.get_str("coll").ok()
}

fn id_of(event: &Document) -> Option<&Bson> {
    event.get_document("documentKey").ok()?.get(ID)
}

/// A key as it is written, by which it is found among others.
fn bytes_of(id: &Bson) -> Option<Vec<u8>> {
    RawDocumentBuf::try_from(&doc! { ID: id }).ok().map(RawDocumentBuf::into_bytes)
}
