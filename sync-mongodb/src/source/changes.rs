//! Changes of documents as changes of rows.

use std::collections::BTreeSet;

use bson::{Bson, Document};
use litekeep_sync::source::{Event, Incoming, Unfit};
use litekeep_sync::{Error, Kind, ledger};

use super::MongoSource;
use super::form::Inward;
use super::layout::{ID, Layout, Part, Taken};
use super::position::Position;
use super::stream::{self, Batch, Came, FOLLOW, SAYS};

pub(super) const DROPPED: &str = "it was dropped there, or has another name";
const REPLACED: &str = "another collection was given its name there";

/// A transaction that is on its way. What is in none is one by itself.
#[derive(Debug)]
pub(super) struct Open {
    /// The session and its number there.
    id: Option<(Document, i64)>,
    /// Where it is.
    position: Position,
    time_ms: i64,
    /// Something of a table that is wanted was in it.
    is_wanted: bool,
}

/// What comes of a change.
enum Comes {
    Nothing,
    Change(Incoming),
    /// The server does not tell how the document was.
    Untold,
    /// The table needs further columns before.
    Wider(Vec<(String, Inward)>),
}

impl MongoSource {
    pub(super) fn take(&mut self, batch: Batch) -> Result<(), Error> {
        let Batch { events, reached, is_all } = batch;
        for came in events {
            self.came(came)?;
        }
        if reached.is_some() || is_all {
            self.ends();
        }
        if let Some(reached) = reached {
            self.position = reached;
        }
        let is_there = self.goal.as_ref().is_some_and(|goal| self.position.is_at(goal));
        if self.open.is_none() && (is_there || self.is_asked) {
            self.is_asked = false;
            self.goal = self.goal.take().filter(|_| !is_there);
            self.ready.push_back(Event::Alive { position: self.position.to_string(), wants_answer: false });
        }
        Ok(())
    }

    /// The transaction that was on its way has ended.
    fn ends(&mut self) {
        let Some(Open { position, time_ms, is_wanted, .. }) = self.open.take() else { return };
        if is_wanted {
            self.ready.push_back(Event::Commit { position: position.to_string(), time_ms });
        }
    }

    pub(super) fn gone(&mut self, table: usize, reason: &str) {
        self.ready.push_back(Event::Gone { table, reason: reason.to_owned() });
    }

    fn damaged(&self, what: &str) -> Error {
        Error::new(Kind::Corrupt, format!("{FOLLOW} in {}: a change without {what}", self.address.name()))
    }

    fn came(&mut self, came: Came) -> Result<(), Error> {
        let event = &came.event;
        let position = stream::position_of(event).ok_or_else(|| self.damaged("its place"))?;
        if self.is_known.is_some_and(|known| position.at <= known) {
            return Ok(());
        }
        let id = event.get_document("lsid").ok().cloned().zip(event.get_i64("txnNumber").ok());
        if self.open.as_ref().is_some_and(|open| open.id != id || open.position.at != position.at) {
            self.ends();
        }
        let known = |name: &str| {
            let collection = event.get_document(name).ok()?.get_str("coll").ok()?;
            self.layouts.iter().position(|layout| layout.table.source == collection)
        };
        let (of, to) = (known("ns"), known("to"));
        let mut is_wanted = self.open.as_ref().is_some_and(|open| open.is_wanted);
        match event.get_str("operationType").unwrap_or_default() {
            "insert" | "replace" | "update" | "delete" => {
                if let Some(content) = said(event).filter(|_| self.two_way.is_some()) {
                    is_wanted = true;
                    self.ready.push_back(Event::Said { content: content.to_owned() });
                }
                if let Some(table) = of {
                    is_wanted = true;
                    self.changed(table, &came)?;
                }
            }
            "drop" | "rename" => {
                of.iter().for_each(|table| self.gone(*table, DROPPED));
                to.iter().for_each(|table| self.gone(*table, REPLACED));
            }
            "dropDatabase" => (0..self.layouts.len()).for_each(|table| self.gone(table, DROPPED)),
            _ => {}
        }
        let wall = event.get_datetime("wallTime").map(|time| time.timestamp_millis());
        let time_ms = wall.unwrap_or(i64::from(position.at.time) * 1000);
        self.position = position.clone();
        let is_alone = id.is_none();
        self.open = Some(Open { id, position, time_ms, is_wanted });
        if is_alone {
            self.ends();
        }
        Ok(())
    }

    /// A document was changed.
    fn changed(&mut self, table: usize, came: &Came) -> Result<(), Error> {
        let key = came.event.get_document("documentKey").ok().and_then(|key| key.get(ID));
        let key = key.ok_or_else(|| self.damaged("the key of its document"))?;
        let layout = &self.layouts[table];
        let comes = match self.two_way {
            Some(_) => both(layout, &came.event),
            None => comes(layout, key, came),
        };
        match comes {
            Comes::Nothing => {}
            Comes::Change(Incoming::Unfit(Unfit { reason, .. })) if self.two_way.is_some() => {
                let id = super::json::text(key);
                self.gone(table, &format!("the document there with the key {id} cannot be here: {reason}"));
            }
            Comes::Untold => {
                self.lacks_images = true;
                let source = &layout.table.source;
                let message = format!(
                    "{FOLLOW} in {}: a document of `{source}` came without how it was before",
                    self.address.name()
                );
                return Err(Error::with_hint(
                    Kind::Unavailable,
                    message,
                    "all rows of both sides are compared, and it goes on from there",
                ));
            }
            Comes::Change(change) => self.ready.push_back(Event::Change { table, change }),
            Comes::Wider(more) => match layout.with(more) {
                Ok(wider) => self.ready.push_back(Event::Grows { table, now: Box::new(wider.table) }),
                Err(why) => self.gone(table, &format!("it cannot follow: {why}")),
            },
        }
        Ok(())
    }
}

/// What a node says of its transaction.
fn said(event: &Document) -> Option<&str> {
    let is_says = event.get_document("ns").ok()?.get_str("coll").ok()? == ledger::TABLE
        && event.get_document("documentKey").ok()?.get_document(ID).ok()?.get_str("item").ok()? == SAYS;
    let set =
        event.get_document("updateDescription").and_then(|described| described.get_document("updatedFields"));
    let of = set.or_else(|_| event.get_document("fullDocument")).ok()?;
    of.get_str("content").ok().filter(|_| is_says)
}

/// A document as it was and as it is.
fn both(layout: &Layout, event: &Document) -> Comes {
    let (had, has) = match event.get_str("operationType").unwrap_or_default() {
        "insert" => (false, true),
        "delete" => (true, false),
        _ => (true, true),
    };
    let mut images = [None, None];
    let sides = [(had, "fullDocumentBeforeChange"), (has, "fullDocument")];
    for (image, (_, name)) in images.iter_mut().zip(sides).filter(|(_, (is, _))| *is) {
        let Ok(document) = event.get_document(name) else { return Comes::Untold };
        match layout.row(document) {
            Taken { more, .. } if !more.is_empty() => return Comes::Wider(more),
            Taken { row: Ok(row), .. } => *image = Some(row),
            Taken { row: Err(unfit), .. } => return Comes::Change(Incoming::Unfit(unfit)),
        }
    }
    let [before, after] = images;
    Comes::Change(Incoming::Images { before, after })
}

fn comes(layout: &Layout, id: &Bson, came: &Came) -> Comes {
    let what = came.event.get_str("operationType").unwrap_or_default();
    if what == "delete" {
        return Comes::Change(match layout.key(Some(id)) {
            Ok(key) => Incoming::Delete { key },
            Err(Unfit { key, .. }) => Incoming::NoLonger { key },
        });
    }
    if let Ok(document) = came.event.get_document("fullDocument") {
        return match layout.row(document) {
            Taken { more, .. } if !more.is_empty() => Comes::Wider(more),
            Taken { row: Ok(row), .. } => Comes::Change(Incoming::Put { row }),
            Taken { row: Err(unfit), .. } => Comes::Change(Incoming::Unfit(unfit)),
        };
    }
    let key = match layout.key(Some(id)) {
        Ok(key) => key,
        Err(unfit) => return Comes::Change(Incoming::Unfit(unfit)),
    };
    let part = match (stream::whole_fields(&came.event), &came.now) {
        (Some((set, gone)), _) => {
            let gone = gone.iter().filter_map(Bson::as_str).map(|name| (name, &Bson::Null));
            layout.part(set.iter().map(|(name, value)| (name.as_str(), value)).chain(gone))
        }
        (None, Some(now)) => {
            let names = touched(&came.event);
            layout.part(names.iter().map(|name| (*name, now.get(name).unwrap_or(&Bson::Null))))
        }
        // It is gone by now, which comes, too.
        (None, None) => return Comes::Nothing,
    };
    match part {
        Part { more, .. } if !more.is_empty() => Comes::Wider(more),
        Part { row: Err(reason), .. } => Comes::Change(Incoming::Unfit(Unfit { key, reason })),
        Part { row: Ok(row), .. } if row.iter().all(Option::is_none) => Comes::Nothing,
        Part { row: Ok(row), .. } => Comes::Change(Incoming::Update { key, row }),
    }
}

/// The fields of which something was changed. A dot leads into one, or is a part of its name.
fn touched<'a>(event: &'a Document) -> BTreeSet<&'a str> {
    let Ok(described) = event.get_document("updateDescription") else { return BTreeSet::new() };
    let set = described.get_document("updatedFields").into_iter().flatten().map(|(path, _)| path.as_str());
    let gone = described.get_array("removedFields").into_iter().flatten().filter_map(Bson::as_str);
    let cut = described.get_array("truncatedArrays").into_iter().flatten();
    let cut = cut.filter_map(|cut| cut.as_document()?.get_str("field").ok());
    let both = |path: &'a str| [Some(path), path.split_once('.').map(|(field, _)| field)];
    set.chain(gone).chain(cut).flat_map(both).flatten().collect()
}
