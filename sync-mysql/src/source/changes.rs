//! Changes on their way: what of the log is of the tables that are wanted.

use std::collections::BTreeMap;
use std::sync::Arc;

use litekeep_schema::portable::mysql::{Flavor, Inward, Raw};
use litekeep_schema::portable::{Level, Note};
use litekeep_sql::SYNC_TABLE;
use litekeep_sync::source::{Event, Incoming, SourceTable};
use litekeep_sync::{Error, Kind, Value};

use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use super::catalog::Catalog;
use super::hub::SAYS;
use super::{MysqlSource, cannot_follow, form, names};
use crate::binlog::charset::Charset;
use crate::binlog::event::{RowsKind, STATEMENTS};
use crate::binlog::position::{Gtid, Position};
use crate::binlog::row::{self, Cell, Row};
use crate::binlog::statement::{Alteration, Effect, Name, effect};
use crate::binlog::stream::Stamp;
use crate::binlog::table_map::{BINARY, MapColumn, TableMap, kind};
use crate::codec::Codec;

/// Tables that are told at once, at most, until they are told anew.
const MAPS: usize = 4_096;

/// The transaction that is on its way.
#[derive(Debug, Default)]
pub(super) struct Transaction {
    gtid: Option<Gtid>,
    /// When it was committed, milliseconds since the epoch, where the server tells more than the second.
    time_ms: Option<i64>,
    is_open: bool,
    /// Something of a table that is wanted was in it.
    is_wanted: bool,
}

impl Transaction {
    pub(super) fn of(gtid: Option<Gtid>, time_ms: Option<i64>, is_open: bool) -> Transaction {
        Transaction { gtid, time_ms, is_open, is_wanted: false }
    }

    pub(super) fn is_open(&self) -> bool {
        self.is_open
    }
}

/// What the server is being asked, whether somebody waits for it or not.
pub(super) struct Asked(JoinHandle<Result<Answer, Error>>);

impl Asked {
    fn of(asking: impl Future<Output = Result<Answer, Error>> + Send + 'static) -> Asked {
        Asked(tokio::spawn(asking))
    }

    /// Nothing is lost when it is not awaited to its end.
    pub(super) async fn answer(&mut self) -> Result<Answer, Error> {
        (&mut self.0).await.map_err(|e| Error::new(Kind::Internal, format!("ask the server: {e}")))?
    }
}

/// What it answers.
pub(super) enum Answer {
    /// A table after its columns were altered; `None`: it is not there.
    Altered { table: usize, now: Option<Box<SourceTable>> },
    /// Why a table cannot be followed any more after something else of it was altered.
    Unfit { table: usize, reason: Option<String> },
    /// How rows of a table come; and, where they do not come as they are known, the table as it is now.
    Layout {
        body: Vec<u8>,
        map: TableMap,
        table: usize,
        columns: Vec<ComingColumn>,
        now: Option<Box<SourceTable>>,
    },
}

/// How rows of a table come.
pub(super) enum Coming {
    /// Nobody wants them, or not in this form.
    Ignored,
    As {
        table: usize,
        map: TableMap,
        columns: Vec<ComingColumn>,
    },
    /// Of the table in which nodes say something of their transactions: where its items and what is in them are.
    Said {
        map: TableMap,
        item: usize,
        content: usize,
    },
}

impl MysqlSource {
    /// Everything of the transaction has come.
    pub(super) fn ends(&mut self, stamp: Stamp) {
        let Transaction { gtid, time_ms, is_wanted, .. } = std::mem::take(&mut self.transaction);
        match (&mut self.position, gtid) {
            (Position::File { offset, .. }, _) => *offset = stamp.end.max(*offset),
            (position, Some(gtid)) => position.add(&gtid),
            (_, None) => {}
        }
        if is_wanted {
            // Of others' changes in the same second nobody knows which was later: that of the server.
            let of_second = if self.two_way.is_some() { 999 } else { 0 };
            let time_ms = time_ms.unwrap_or(i64::from(stamp.time_s) * 1000 + of_second);
            self.ready.push_back(Event::Commit { position: self.position.to_string(), time_ms });
        }
    }

    /// A transaction of XA waits for its end, which may be long after others.
    pub(super) fn prepared(&mut self, is_committed: bool, xa: String, stamp: Stamp) -> Result<(), Error> {
        if !is_committed {
            if self.transaction.is_wanted {
                return Err(cannot_follow(&self.address, "a transaction that XA prepared", XA));
            }
            self.other_xas.insert(xa);
        }
        self.ends(stamp);
        Ok(())
    }

    pub(super) fn query(&mut self, database: String, sql: String, stamp: Stamp) -> Result<(), Error> {
        match effect(&sql) {
            Effect::Begin => self.transaction.is_open = true,
            Effect::Commit => self.ends(stamp),
            Effect::RollBack | Effect::RollBackPart if self.transaction.is_wanted => {
                return Err(cannot_follow(&self.address, "a transaction that was taken back in part", ""));
            }
            Effect::RollBack => self.ends(stamp),
            Effect::RollBackPart => {}
            Effect::Nothing => self.ends_if_alone(stamp),
            Effect::CommitPrepared { xa } => {
                if !self.other_xas.remove(&xa) {
                    return Err(cannot_follow(&self.address, "a transaction that XA prepared", XA));
                }
                self.ends(stamp);
            }
            Effect::RollBackPrepared { xa } => {
                self.other_xas.remove(&xa);
                self.ends(stamp);
            }
            Effect::Rows => {
                let ours = self.address.database();
                if database == ours || sql.contains(ours) {
                    return Err(cannot_follow(
                        &self.address,
                        "a change that was logged as a statement",
                        STATEMENTS,
                    ));
                }
                self.ends_if_alone(stamp);
            }
            defines @ (Effect::DropDatabase(_) | Effect::Definition(_)) => {
                return self.definition(&database, defines, stamp);
            }
        }
        Ok(())
    }

    fn ends_if_alone(&mut self, stamp: Stamp) {
        if !self.transaction.is_open {
            self.ends(stamp);
        }
    }

    /// A statement that defines something.
    fn definition(&mut self, database: &str, effect: Effect, stamp: Stamp) -> Result<(), Error> {
        const DROPPED: &str = "it was dropped there, or has another name";
        let ours = self.address.database().to_owned();
        let effects = match effect {
            Effect::DropDatabase(name) if name == ours => {
                let all =
                    self.tables.iter().map(|table| Name { database: None, table: table.source.clone() });
                all.map(|name| (name, Alteration::Gone)).collect()
            }
            Effect::Definition(effects) => effects,
            _ => vec![],
        };
        let (mut changed, mut altered) = (None, None);
        for (name, alteration) in effects {
            let is_ours = name.database.as_deref().unwrap_or(database) == ours;
            let place = self.tables.iter().position(|table| table.source == name.table);
            let Some(table) = place.filter(|_| is_ours) else { continue };
            match alteration {
                Alteration::Other => altered = Some(table).filter(|_| self.two_way.is_some()),
                Alteration::Columns => changed = Some(table),
                Alteration::Emptied => {
                    self.transaction.is_wanted = true;
                    self.ready.push_back(Event::Change { table, change: Incoming::Clear });
                }
                Alteration::Gone => self.ready.push_back(gone(table, DROPPED)),
                Alteration::Parts => {
                    let reason = "a part of it was dropped, emptied or exchanged there; `litekeep sync resync` compares its rows";
                    self.ready.push_back(gone(table, reason));
                }
            }
        }
        self.ends_if_alone(stamp);
        if let Some(table) = changed {
            let source = self.tables[table].source.clone();
            let catalog = self.shared()?;
            self.asked = Some(Asked::of(async move {
                let mut catalog = catalog.lock().await;
                let now = catalog.table_now(&source).await?;
                Ok(Answer::Altered { table, now: now.map(|(now, _)| Box::new(now)) })
            }));
        } else if let Some(table) = altered {
            let source = self.tables[table].source.clone();
            let catalog = self.shared()?;
            self.asked = Some(Asked::of(async move {
                let now = catalog.lock().await.table_now(&source).await?;
                Ok(Answer::Unfit { table, reason: now.and_then(|(_, notes)| unfit(&notes)) })
            }));
        }
        Ok(())
    }

    fn shared(&self) -> Result<Arc<Mutex<Catalog>>, Error> {
        let none = || Error::new(Kind::Internal, "read changes of a server that is not connected");
        self.catalog.clone().ok_or_else(none)
    }

    /// What the server has answered.
    pub(super) fn answered(&mut self, answer: Answer) -> Result<(), Error> {
        self.asked = None;
        match answer {
            Answer::Altered { table, now: None } => {
                self.ready.push_back(gone(table, "it is not there any more"))
            }
            Answer::Altered { table, now: Some(now) } => {
                let position = Some(self.position.to_string());
                self.ready.push_back(Event::Table { table, now, position });
            }
            Answer::Unfit { table, reason } => {
                self.ready.extend(reason.map(|reason| Event::Gone { table, reason }));
            }
            Answer::Layout { body, map, table, columns, now } => {
                let known = &self.tables[table];
                let fits = fits(known, &columns, &map);
                let is_told = |name: &str| map.columns.iter().any(|column| column.name == name);
                // Both ways each value that has changed must come.
                let may_lack = self.two_way.is_none();
                let is_missing = (known.coming().zip(&columns))
                    .all(|((known, _), column)| column.is_some() || may_lack && !is_told(&known.name));
                let (id, coming) = (map.id, Coming::As { table, map, columns });
                // Some columns may be computed, or not be there any more; or the rows are older than the copy of a table that has changed since.
                let coming = match now {
                    _ if fits => coming,
                    Some(now) if is_alike(known, &now) && is_missing => coming,
                    // What was of another type for a while, rows of which nobody can place.
                    Some(now) if is_alike(known, &now) => {
                        let reason = "rows of it came in another form than it has; `litekeep sync resync` compares them";
                        self.ready.push_back(gone(table, reason));
                        Coming::Ignored
                    }
                    Some(now) => {
                        self.ready.push_back(Event::Table { table, now, position: None });
                        Coming::Ignored
                    }
                    None => {
                        self.ready.push_back(gone(table, "it is not there any more"));
                        Coming::Ignored
                    }
                };
                self.coming.insert(id, (body, coming));
            }
        }
        Ok(())
    }

    /// Tells which of the tables are not there.
    pub(super) async fn look_for_tables(&mut self) -> Result<(), Error> {
        let surveyed = self.catalog().await?.surveyed().await?;
        for (table, known) in self.tables.iter().enumerate() {
            match surveyed.iter().find(|(there, _)| there.source == known.source) {
                None => self.ready.push_back(gone(table, "it was dropped there, or has another name")),
                // What the log does not tell of it any more would be missed here.
                Some((_, notes)) if self.two_way.is_some() => {
                    self.ready.extend(unfit(notes).map(|reason| Event::Gone { table, reason }));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// Which table rows are of that follow.
    pub(super) fn map(&mut self, body: Vec<u8>) -> Result<(), Error> {
        let map = TableMap::parse(&body, self.flavor == Flavor::Mariadb);
        let damaged = || {
            Error::new(
                Kind::Corrupt,
                format!("read changes in {}: a table that is cut off", self.address.name()),
            )
        };
        let map = map.ok_or_else(damaged)?;
        if self.coming.get(&map.id).is_some_and(|(known, _)| *known == body) {
            return Ok(());
        }
        if self.coming.len() >= MAPS {
            self.coming.clear();
        }
        let is_ours = map.database == self.address.database();
        if self.two_way.is_some() && is_ours && map.table == SYNC_TABLE {
            let place = |name: &str| map.columns.iter().position(|column| column.name == name);
            if let (Some(item), Some(content)) = (place("item"), place("content")) {
                self.coming.insert(map.id, (body, Coming::Said { map, item, content }));
                return Ok(());
            }
            return Err(self.without_names());
        }
        let place = self.tables.iter().position(|table| is_ours && table.source == map.table);
        let Some(table) = place else {
            self.coming.insert(map.id, (body, Coming::Ignored));
            return Ok(());
        };
        if !map.has_names {
            return Err(self.without_names());
        }
        let known = self.tables[table].clone();
        let catalog = self.shared()?;
        self.asked = Some(Asked::of(async move {
            let (mut catalog, mut map) = (catalog.lock().await, map);
            let mut columns = vec![];
            for (column, known_kind) in known.coming() {
                let at = map.columns.iter().position(|other| other.name == column.name);
                let found = match at {
                    Some(at) => form_of(&mut catalog, &mut map.columns[at])
                        .await?
                        .map(|(form, charset)| (at, form, charset)),
                    None => None,
                };
                let codec = Codec::of(known_kind);
                columns.push(found.and_then(|(at, is, charset)| {
                    Some((at, codec.filter(|codec| codec.inward() == is)?, charset))
                }));
            }
            let now = if fits(&known, &columns, &map) {
                None
            } else {
                catalog.table_now(&known.source).await?.map(|(now, _)| Box::new(now))
            };
            Ok(Answer::Layout { body, map, table, columns, now })
        }));
        Ok(())
    }

    fn without_names(&self) -> Error {
        let set = "as an administrator: SET GLOBAL binlog_row_metadata = FULL;";
        cannot_follow(&self.address, "a row without the names of its columns", set)
    }

    pub(super) fn rows(&mut self, kind: RowsKind, body: &[u8], has_extra: bool) -> Result<(), Error> {
        let place = self.address.name();
        let damaged = |what: &str| Error::new(Kind::Corrupt, format!("read changes in {place}: {what}"));
        let id = row::table_of(body).ok_or_else(|| damaged("rows that are cut off"))?;
        let (table, map, columns) = match self.coming.get(&id) {
            Some((_, Coming::As { table, map, columns })) => (*table, map, columns),
            Some((_, Coming::Said { map, item, content })) => {
                let rows = row::rows(kind, body, has_extra, map).map_err(|what| damaged(&what))?;
                let said: Vec<String> =
                    rows.into_iter().filter_map(|row| said(row, *item, *content)).collect();
                for content in said {
                    self.transaction.is_wanted = true;
                    self.ready.push_back(Event::Said { content });
                }
                return Ok(());
            }
            Some((_, Coming::Ignored)) => return Ok(()),
            // The end of a statement.
            None if id == 0x00ff_ffff => return Ok(()),
            None => return Err(damaged(&format!("a row of table {id}, which was not told before"))),
        };
        let rows = row::rows(kind, body, has_extra, map).map_err(|what| damaged(&what))?;
        let known = &self.tables[table];
        let (key, asks) = (&known.mirror.key, known.part.condition.is_some());
        let has_images = self.two_way.is_some();
        for row in rows {
            let change = match has_images {
                true => images(row, columns),
                false => change(row, columns, key, asks),
            };
            let Some(change) = change else {
                let what = format!("a row of `{}` without all of its columns", map.table);
                let set = "as an administrator: SET GLOBAL binlog_row_image = FULL;";
                return Err(cannot_follow(&self.address, &what, set));
            };
            self.ready.push_back(Event::Change { table, change });
        }
        self.transaction.is_wanted = true;
        Ok(())
    }
}

/// What avoids transactions that are prepared.
const XA: &str =
    "XA transactions on these tables cannot be pulled: end the one that is prepared (XA RECOVER lists them).";

/// How values of a column come; `None`: it is of a type that is not known.
async fn form_of(catalog: &mut Catalog, column: &mut MapColumn) -> Result<Option<(Inward, Charset)>, Error> {
    let form = match column.kind {
        kind::TINY | kind::SHORT | kind::INT24 | kind::LONG | kind::YEAR => Inward::Integer,
        kind::LONGLONG if column.is_unsigned => Inward::Unsigned,
        kind::LONGLONG => Inward::Integer,
        kind::FLOAT | kind::DOUBLE => Inward::Real,
        kind::NEWDECIMAL => Inward::Decimal,
        kind::DATE | kind::NEWDATE => Inward::Date,
        kind::TIME => Inward::Time(0),
        kind::TIME2 => Inward::Time(column.meta[0]),
        kind::DATETIME | kind::DATETIME2 => Inward::Datetime,
        kind::TIMESTAMP | kind::TIMESTAMP2 => Inward::Timestamp,
        kind::BIT => Inward::Bits,
        kind::JSON => Inward::Json,
        kind::GEOMETRY | kind::VECTOR => Inward::Bytes,
        kind::ENUM
        | kind::SET
        | kind::STRING
        | kind::VARCHAR
        | kind::VAR_STRING
        | kind::TINY_BLOB
        | kind::MEDIUM_BLOB
        | kind::LONG_BLOB
        | kind::BLOB => match column.collation {
            Some(BINARY) if column.labels.is_empty() => Inward::Bytes,
            Some(collation) => {
                let name = catalog.charsets.name(collation).map(str::to_owned);
                let Some(name) = name else { return Ok(None) };
                let Some(charset) = catalog.charset(&name).await? else { return Ok(None) };
                if column.labels.is_empty() {
                    return Ok(Some((Inward::Text, charset)));
                }
                for label in &mut column.labels {
                    *label = charset.decode(std::mem::take(label));
                }
                Inward::Text
            }
            None => return Ok(None),
        },
        _ => return Ok(None),
    };
    Ok(Some((form, Charset::Utf8)))
}

/// What keeps a table from being followed.
fn unfit(notes: &[Note]) -> Option<String> {
    let note = notes.iter().find(|note| note.level == Level::Table)?;
    Some(format!("it cannot be followed any more: {note}"))
}

fn gone(table: usize, reason: &str) -> Event {
    Event::Gone { table, reason: reason.to_owned() }
}

/// How values of a column come: where it is there, and what its values are; `None`: it does not come so.
type ComingColumn = Option<(usize, Codec, Charset)>;

/// Whether rows come with the columns that are wanted, and no others are.
fn fits(known: &SourceTable, columns: &[ComingColumn], map: &TableMap) -> bool {
    columns.iter().all(Option::is_some) && (known.part.is_some_columns || columns.len() == map.columns.len())
}

/// Whether a table has the same columns in the same forms, as far as they are wanted, and the same key.
fn is_alike(known: &SourceTable, now: &SourceTable) -> bool {
    let forms = |table: &SourceTable| {
        let pairs = table.coming();
        pairs.map(|(column, kind)| (column.name.clone(), form(kind))).collect::<BTreeMap<_, _>>()
    };
    let (forms_known, mut forms_now) = (forms(known), forms(now));
    if known.part.is_some_columns {
        forms_now.retain(|column, _| forms_known.contains_key(column));
    }
    forms_known == forms_now && names(known, &known.mirror.key) == names(now, &now.mirror.key)
}

/// Its values by the columns that come; `None`: it does not tell of one.
fn values(cells: Vec<Option<Cell>>, columns: &[ComingColumn]) -> Vec<Option<Value>> {
    let mut cells = cells;
    let value = |column: &ComingColumn| {
        let (at, codec, charset) = column.as_ref()?;
        Some(match cells.get_mut(*at)?.take()? {
            None => Value::Null,
            Some(Raw::Bytes(bytes)) => codec.value(Raw::Bytes(charset.decode(bytes))),
            Some(raw) => codec.value(raw),
        })
    };
    columns.iter().map(value).collect()
}

/// What a node says of its transaction, where that is what the row is.
fn said(row: Row, item: usize, content: usize) -> Option<String> {
    let mut cells = row.after?;
    let mut text = |nth: usize| match cells.get_mut(nth)?.take()?? {
        Raw::Bytes(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
        _ => None,
    };
    (text(item)? == SAYS).then(|| text(content)).flatten()
}

/// A row as it was and as it is. `None`: not all of it is told.
fn images(row: Row, columns: &[ComingColumn]) -> Option<Incoming> {
    let whole = |cells: Option<Vec<Option<Cell>>>| match cells {
        Some(cells) => values(cells, columns).into_iter().collect::<Option<Vec<Value>>>().map(Some),
        None => Some(None),
    };
    Some(Incoming::Images { before: whole(row.before)?, after: whole(row.after)? })
}

/// What happened to a row. `None`: its key is not told, or not all of a new one; or where a condition `asks` for it, of any.
fn change(row: Row, columns: &[ComingColumn], key: &[usize], asks: bool) -> Option<Incoming> {
    let values = |cells| values(cells, columns);
    let key_of = |row: &[Option<Value>]| -> Option<Vec<Value>> {
        key.iter().map(|nth| row.get(*nth)?.clone()).collect()
    };
    let (before, after) = (row.before.map(values), row.after.map(values));
    // A column that is not there so any more comes with the copy of the table.
    let is_told = |row: &[Option<Value>]| {
        row.iter().zip(columns).all(|(value, column)| value.is_some() || column.is_none())
    };
    match (before, after) {
        (before, None) => Some(Incoming::Delete { key: key_of(&before?)? }),
        (None, Some(after)) => {
            let key = key_of(&after).filter(|_| is_told(&after))?;
            Some(match after.iter().cloned().collect() {
                Some(row) => Incoming::Put { row },
                None => Incoming::Update { key, row: after },
            })
        }
        (Some(_), Some(after)) if asks && !is_told(&after) => None,
        (Some(before), Some(after)) => {
            let key_before = key_of(&before)?;
            let stays = key
                .iter()
                .zip(&key_before)
                .all(|(nth, old)| after[*nth].as_ref().is_none_or(|new| new == old));
            Some(match after.iter().cloned().collect() {
                Some(row) if stays => Incoming::Put { row },
                _ => Incoming::Update { key: key_before, row: after },
            })
        }
    }
}
