//! Documents as they are now, in the order of their keys, some at a time.

use bson::{Bson, Document, doc};
use litekeep_sync::source::{Rows, SourceTable, Unfit};
use litekeep_sync::{Error, Kind, Value};
use mongodb::error::Error as Cause;

use super::layout::{ID, Layout};
use super::reader::Reader;
use super::survey;
use crate::session::Session;

/// Documents that are read at once, at first and at most, and bytes that they have about.
const FIRST: usize = 200;
const MOST: usize = 5_000;
const BYTES: usize = 4 << 20;

/// Documents on their way.
pub(super) struct Reading {
    layout: Layout,
    /// It has more columns than the rows that were read last.
    has_grown: bool,
    after: Option<Bson>,
    /// Only those with one of these keys.
    with: Option<Vec<Bson>>,
    count: usize,
    has_ended: bool,
}

/// Some of them.
#[derive(Default)]
pub(super) struct Fetched {
    pub(super) rows: Vec<Vec<Value>>,
    pub(super) unfit: Vec<Unfit>,
    pub(super) grown: Option<SourceTable>,
}

impl Reading {
    pub(super) fn of(table: &SourceTable, rows: Rows<'_>) -> Result<Reading, Error> {
        let layout = Layout::of(table)?;
        let (after, with) = match rows {
            Rows::All => (None, None),
            Rows::After(key) => (layout.id(key), None),
            // No document has a key that is none there.
            Rows::With(keys) => (None, Some(keys.iter().filter_map(|key| layout.id(key)).collect())),
        };
        Ok(Reading { layout, has_grown: false, after, with, count: FIRST, has_ended: false })
    }

    /// The next rows; none: there are no more.
    pub(super) async fn next(&mut self, session: &Session, reader: &mut Reader) -> Result<Fetched, Error> {
        let mut fetched = Fetched::default();
        while fetched.rows.is_empty() && !self.has_ended {
            let doing = format!("read the collection `{}`", self.layout.table.source);
            let is_first = self.after.is_none() && self.with.is_none();
            let found = self.read(session, reader).await.map_err(|e| session.failed(&doing, &e))?;
            if is_first && found.is_empty() {
                self.check_there(session).await?;
            }
            for document in found {
                self.take(&document, &mut fetched);
            }
        }
        if std::mem::take(&mut self.has_grown) {
            let columns = self.layout.table.mirror.columns.len();
            fetched.rows.iter_mut().for_each(|row| row.resize(columns, Value::Null));
            fetched.grown = Some(self.layout.table.clone());
        }
        Ok(fetched)
    }

    /// A collection that is not there looks as if it had no documents, and those that are here would go.
    async fn check_there(&self, session: &Session) -> Result<(), Error> {
        let source = &self.layout.table.source;
        if survey::names(session).await?.contains(source) {
            return Ok(());
        }
        let message = format!("there is no collection `{source}` any more, of which rows are here");
        let hint = "take it out of `tables` where it is named; `litekeep sync resync` goes on without it";
        Err(Error::with_hint(Kind::Invalid, message, hint))
    }

    async fn read(&mut self, session: &Session, reader: &mut Reader) -> Result<Vec<Document>, Cause> {
        let source = &self.layout.table.source;
        if let Some(keys) = self.with.take() {
            self.has_ended = true;
            if keys.is_empty() {
                return Ok(vec![]);
            }
            return reader.find(session, source, (doc! { ID: { "$in": keys } }, None, 0)).await;
        }
        let from = self.after.as_ref().map(|after| doc! { ID: after });
        // The one that it goes on after comes, too.
        let limit = self.count + usize::from(from.is_some());
        let mut found = reader.find(session, source, (doc! {}, from, limit)).await?;
        self.has_ended = found.len() < limit;
        if let (Some(after), Some(first)) = (&self.after, found.first())
            && is_same(after, first.get(ID))
        {
            found.remove(0);
        }
        if let Some(last) = found.last() {
            self.after = last.get(ID).cloned();
            let bytes: usize = found.iter().map(size).sum();
            self.count = (BYTES / (bytes / found.len()).max(1)).clamp(1, MOST);
        }
        Ok(found)
    }

    fn take(&mut self, document: &Document, fetched: &mut Fetched) {
        let taken = self.layout.row(document);
        if taken.more.is_empty() {
            match taken.row {
                Ok(row) => fetched.rows.push(row),
                Err(unfit) => fetched.unfit.push(unfit),
            }
            return;
        }
        match (self.layout.with(taken.more), taken.row) {
            (Ok(longer), _) => {
                (self.layout, self.has_grown) = (longer, true);
                self.take(document, fetched);
            }
            (Err(reason), Ok(row)) => {
                let key = self.layout.table.mirror.key.iter().map(|nth| row[*nth].clone()).collect();
                fetched.unfit.push(Unfit { key, reason });
            }
            (Err(_), Err(unfit)) => fetched.unfit.push(unfit),
        }
    }
}

/// Whether a key is that of a document: numbers are one whatever their type.
fn is_same(key: &Bson, found: Option<&Bson>) -> bool {
    let number = |value: &Bson| match value {
        Bson::Int32(i) => Some(i64::from(*i)),
        Bson::Int64(i) => Some(*i),
        Bson::Double(f) if (*f as i64) as f64 == *f => Some(*f as i64),
        _ => None,
    };
    match found {
        Some(found) => key == found || number(key).is_some() && number(key) == number(found),
        None => false,
    }
}

/// Bytes that a document has about.
pub(super) fn size(document: &Document) -> usize {
    document.values().map(size_of).sum()
}

fn size_of(value: &Bson) -> usize {
    16 + match value {
        Bson::String(text) => text.len(),
        Bson::Binary(binary) => binary.bytes.len(),
        Bson::Document(document) => size(document),
        Bson::Array(values) => values.iter().map(size_of).sum(),
        _ => 16,
    }
}
