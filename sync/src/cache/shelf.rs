//! What of a cache is in the database: rows in their tables, and in `_litekeep_sync` the tables and since when each row is known.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex as Lock, PoisonError};
use std::time::Duration;

use litekeep_env::{Clock as _, SystemClock};
use litekeep_sql::{Mirror, MirrorTable, Written};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use super::{Settings, age};
use crate::ledger::{PLAN, STAGE, row_id, text as json};
use crate::local::Local;
use crate::pull::apply::key_of;
use crate::pull::state::{Stage, changed, make, parsed, with_more};
use crate::source::{Part, SourceTable};
use crate::target::{key_text, key_value};
use crate::{Error, Kind, Value};

/// The item that has the tables.
pub(crate) const TABLES: &str = "cache";
/// What the names of items begin with that say since when a row is known.
const ROWS: &str = "cached/";
/// Rows that go in one transaction, so that the application need not wait for long.
const GONE: usize = 500;

/// The tables.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    pub(super) tables: Vec<SourceTable>,
}

impl Plan {
    /// The tables.
    pub fn tables(&self) -> impl Iterator<Item = &SourceTable> {
        self.tables.iter()
    }
}

/// Since when a row is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    table: String,
    key: Vec<String>,
    at_ms: i64,
}

impl Entry {
    fn values(&self) -> Option<Vec<Value>> {
        self.key.iter().map(|text| key_value(text)).collect()
    }
}

/// The item of a row.
pub(super) fn item(table: &str, key: &[Value]) -> String {
    format!("{ROWS}{}", row_id(table, key))
}

/// What was done about rows that are too old or too many.
pub(super) struct Tidied {
    /// The items of those that stay.
    pub(super) left: HashSet<String>,
    /// How many went to make room.
    pub(super) evicted: u64,
}

/// What a server has said of a key: its row, that there is none, or why it cannot be here.
pub(super) type Said = Result<Option<Vec<Value>>, String>;

/// The database: with a connection that reads, for which no writer of it need be waited for, and one that writes.
pub(super) struct Shelf {
    database: PathBuf,
    name: String,
    creates: bool,
    /// A pull makes the tables, and lets rows go that change.
    follows: bool,
    reading: Mutex<Local>,
    writing: Mutex<Local>,
    /// The tables as they were read last.
    plan: Lock<Option<(String, Arc<Plan>)>>,
}

impl Shelf {
    pub(super) fn new(settings: &Settings) -> Shelf {
        let (reading, writing) = Default::default();
        let (database, name) = (settings.database.clone(), settings.name.clone());
        let (creates, follows) = (settings.creates, settings.follows.is_some());
        Shelf { database, name, creates, follows, reading, writing, plan: Lock::default() }
    }

    async fn open(&self, local: &mut Local) -> Result<(), Error> {
        if local.is_open() {
            return Ok(());
        }
        if !self.creates && !self.database.exists() {
            let message = format!(
                "there is no `{}` yet, in which the rows of the sync `{}` come",
                self.database.display(),
                self.name
            );
            let hint = format!("the application makes it, or `litekeep sync run {}`", self.name);
            return Err(Error::with_hint(Kind::Unavailable, message, hint));
        }
        local.open(&self.database, &self.name, self.creates).await
    }

    /// Does something in a transaction.
    async fn within<R: Send + 'static>(
        &self,
        to_write: bool,
        work: impl FnOnce(&Mirror) -> Result<R, Error> + Send + 'static,
    ) -> Result<R, Error> {
        let mut local = if to_write { self.writing.lock().await } else { self.reading.lock().await };
        self.open(&mut local).await?;
        let done = local.on(move |mirror| {
            mirror.begin(to_write)?;
            let done = work(mirror).and_then(|done| {
                if to_write {
                    mirror.commit()?;
                }
                Ok(done)
            });
            mirror.roll_back();
            done
        });
        let done = done.await;
        if done.is_err() {
            // It may be another file now.
            local.close();
        }
        done
    }

    /// The tables; `None`: it has not begun.
    pub(super) async fn plan(&self) -> Result<Option<Arc<Plan>>, Error> {
        if self.creates && !self.database.exists() {
            return Ok(None);
        }
        let (name, follows) = (self.name.clone(), self.follows);
        let read = self.within(false, move |mirror| {
            let (alone, followed) = (mirror.item(TABLES)?, mirror.item(PLAN)?);
            let (text, other) = if follows { (followed, alone) } else { (alone, followed) };
            if text.is_none() && other.is_some() {
                let message = match follows {
                    true => format!("the cache `{name}` was begun without `follow`"),
                    false => format!("the sync `{name}` was begun without `mode = \"cache\"`, or with `follow`"),
                };
                let hint = format!(
                    "with the configuration as it was `litekeep sync forget {name}` ends it, and its tables can be dropped; or give it another name"
                );
                return Err(Error::with_hint(Kind::Invalid, message, hint));
            }
            Ok(text)
        });
        let Some(text) = read.await? else { return Ok(None) };
        let mut known = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, plan)) = known.as_ref().filter(|(known, _)| *known == text) {
            return Ok(Some(plan.clone()));
        }
        let plan: Arc<Plan> = Arc::new(parsed(&text)?);
        *known = Some((text, plan.clone()));
        Ok(Some(plan))
    }

    /// Makes the tables.
    pub(super) async fn begin(&self, tables: Vec<SourceTable>) -> Result<(), Error> {
        self.within(true, move |mirror| {
            for table in &tables {
                make(mirror, table)?;
                mirror.make_indexes(&table.mirror)?;
            }
            Ok(mirror.set(TABLES, Some(&json(&Plan { tables }))).map(drop)?)
        })
        .await
    }

    /// Tables are so now; rows of those that are wider go, for nobody knows what they have in the further columns.
    pub(super) async fn widen(&self, tables: Vec<SourceTable>, wider: Vec<usize>) -> Result<(), Error> {
        self.within(true, move |mirror| {
            for nth in wider {
                let table = &tables[nth].mirror;
                mirror.add_columns(table)?;
                clear(mirror, table)?;
            }
            Ok(mirror.set(TABLES, Some(&json(&Plan { tables }))).map(drop)?)
        })
        .await
    }

    /// Tables are these from now on, and none of their rows is here any more.
    pub(super) async fn resync(
        &self,
        before: Vec<SourceTable>,
        tables: Vec<SourceTable>,
    ) -> Result<(), Error> {
        self.within(true, move |mirror| {
            for old in &before {
                if mirror.has(&old.mirror)? {
                    clear(mirror, &old.mirror)?;
                }
            }
            for table in &tables {
                match before.iter().find(|old| old.mirror.name == table.mirror.name) {
                    Some(old) if mirror.has(&old.mirror)? => {
                        let kept = SourceTable { part: Part::default(), ..old.clone() };
                        if with_more(&kept, table).is_none() {
                            let (name, why) = (&table.mirror.name, changed(&kept, table));
                            let message = format!("the table `{}` is not as it was: {why}", table.source);
                            let hint = format!(
                                "DROP TABLE {};, and litekeep makes it anew",
                                litekeep_sql::quoted(name)
                            );
                            return Err(Error::with_hint(Kind::Invalid, message, hint));
                        }
                        mirror.drop_columns(&old.mirror, &table.mirror)?;
                        mirror.add_columns(&table.mirror)?;
                    }
                    _ => make(mirror, table)?,
                }
                mirror.make_indexes(&table.mirror)?;
            }
            Ok(mirror.set(TABLES, Some(&json(&Plan { tables }))).map(drop)?)
        })
        .await
    }

    /// Keeps nothing any more: neither rows, which would never be younger, nor what they are.
    pub(super) async fn forget(&self, tables: Vec<SourceTable>) -> Result<(), Error> {
        self.within(true, move |mirror| {
            for table in tables {
                if mirror.has(&table.mirror)? {
                    clear(mirror, &table.mirror)?;
                }
            }
            Ok(())
        })
        .await?;
        let mut local = self.writing.lock().await;
        self.open(&mut local).await?;
        local.on(|mirror| Ok(mirror.forget()?)).await
    }

    /// The row with a key, and since when it is known, where it is not kept in step; `None`: it is not here.
    pub(super) async fn look(
        &self,
        table: &SourceTable,
        key: &[Value],
    ) -> Result<Option<(Vec<Value>, Option<i64>)>, Error> {
        let (table, key) = (table.clone(), key.to_vec());
        let is_kept_in_step = self.follows && !table.part.is_asked_for;
        self.within(false, move |mirror| {
            let entry = entry(mirror, &item(&table.mirror.name, &key))?;
            let at_ms = match entry.filter(|entry| entry.key == texts(&key)) {
                Some(entry) => Some(entry.at_ms),
                None if is_kept_in_step => None,
                None => return Ok(None),
            };
            Ok(mirror.row(&table.mirror, &key)?.map(|row| (row, at_ms)))
        })
        .await
    }

    /// How far the pull is.
    pub(super) async fn stage(&self) -> Result<Option<String>, Error> {
        self.within(false, |mirror| Ok(mirror.item(STAGE)?)).await
    }

    /// Keeps what a server has said at a time; for each key why not, where it is not kept, and how many rows more there are. `grown`: the
    /// table as it is now. `None`: the pull is not any more at the stage that it was at before the server was asked, so that a change may
    /// have come here which is not in what was said.
    pub(super) async fn keep(
        &self,
        (table, grown): (&SourceTable, Option<&SourceTable>),
        said: Vec<(Vec<Value>, Said)>,
        at_ms: i64,
        stage: Option<String>,
    ) -> Result<Option<(Vec<Option<String>>, isize)>, Error> {
        // Of one that is followed the pull knows what columns it has.
        let (table, grown) = (table.clone(), grown.filter(|_| !self.follows).cloned());
        let (now_ms, follows) = (SystemClock.unix_ms(), self.follows);
        self.within(true, move |mirror| {
            if follows {
                // Before it keeps changes the server tells of none.
                let is_told = match &stage {
                    Some(stage) => !matches!(parsed(stage)?, Stage::Preparing { .. }),
                    None => false,
                };
                if !is_told || mirror.item(STAGE)? != stage {
                    return Ok(None);
                }
            }
            let is_kept_in_step = follows && !table.part.is_asked_for;
            let table = match grown {
                Some(longer) => grow(mirror, longer)?,
                None => table.mirror,
            };
            let (mut kept, mut more) = (vec![], 0);
            for (key, said) in said {
                let (why, change) = match said {
                    Ok(Some(mut row)) => {
                        row.resize(table.columns.len(), Value::Null);
                        let key = key_of(&table, &row);
                        let item = item(&table.name, &key);
                        match is_kept_in_step
                            && mirror.item(&item)?.is_none()
                            && mirror.row(&table, &key)?.is_some()
                        {
                            true => (None, 0),
                            false => put(mirror, &table, &row, at_ms, now_ms)?,
                        }
                    }
                    Ok(None) => (None, -isize::from(remove(mirror, &table, &key)?)),
                    // What is here of it is as old as it was.
                    Err(_) => (None, 0),
                };
                kept.push(why);
                more += change;
            }
            Ok(Some((kept, more)))
        })
        .await
    }

    /// Removes rows that are older than so long, and of the others those that were used longest ago, until so many are left. `used`: when,
    /// by their items.
    pub(super) async fn tidy(
        &self,
        used: HashMap<String, i64>,
        oldest: Duration,
        at_most: usize,
    ) -> Result<Tidied, Error> {
        let items = self.within(false, |mirror| Ok(mirror.items()?)).await?;
        let now_ms = SystemClock.unix_ms();
        let (mut gone, mut left) = (vec![], vec![]);
        for (item, text) in items.into_iter().filter(|(item, _)| item.starts_with(ROWS)) {
            let entry: Entry = parsed(&text)?;
            match age(entry.at_ms, now_ms).is_some_and(|age| age <= oldest) {
                true => {
                    left.push((used.get(&item).map_or(entry.at_ms, |at| *at.max(&entry.at_ms)), item, text))
                }
                false => gone.push((item, text)),
            }
        }
        left.sort();
        let evicted = left.len().saturating_sub(at_most);
        gone.extend(left.drain(..evicted).map(|(_, item, text)| (item, text)));
        let plan_item = if self.follows { PLAN } else { TABLES };
        for some in gone.chunks(GONE) {
            let some = some.to_vec();
            self.within(true, move |mirror| {
                for (item, text) in some {
                    // One that has been asked for again meanwhile stays.
                    if mirror.item(&item)?.as_ref() == Some(&text) {
                        let entry: Entry = parsed(&text)?;
                        let table = keyed(mirror, plan_item, &entry.table)?;
                        match (table, entry.values()) {
                            (Some(table), Some(key)) => remove(mirror, &table, &key)?,
                            _ => mirror.set(&item, None)?,
                        };
                    }
                }
                Ok(())
            })
            .await?;
        }
        let left = left.into_iter().map(|(_, item, _)| item).collect();
        Ok(Tidied { left, evicted: evicted as u64 })
    }
}

fn texts(key: &[Value]) -> Vec<String> {
    key.iter().map(key_text).collect()
}

fn entry(mirror: &Mirror, item: &str) -> Result<Option<Entry>, Error> {
    mirror.item(item)?.map(|text| parsed(&text)).transpose()
}

fn plan(mirror: &Mirror, item: &str) -> Result<Plan, Error> {
    let text = mirror.item(item)?.unwrap_or_else(|| json(&Plan { tables: vec![] }));
    parsed(&text)
}

/// A table of the plan.
fn keyed(mirror: &Mirror, item: &str, name: &str) -> Result<Option<MirrorTable>, Error> {
    let tables = plan(mirror, item)?.tables.into_iter().map(|table| table.mirror);
    Ok(tables.into_iter().find(|table| table.name == name))
}

/// A table gets the columns that documents have.
fn grow(mirror: &Mirror, longer: SourceTable) -> Result<MirrorTable, Error> {
    let mut plan = plan(mirror, TABLES)?;
    let table = longer.mirror.clone();
    mirror.add_columns(&table)?;
    if let Some(known) = plan.tables.iter_mut().find(|known| known.source == longer.source) {
        *known = longer;
    }
    mirror.set(TABLES, Some(&json(&plan)))?;
    Ok(table)
}

/// Writes a row with since when it is known; why it is not kept, and how many rows more there are.
fn put(
    mirror: &Mirror,
    table: &MirrorTable,
    row: &[Value],
    at_ms: i64,
    now_ms: i64,
) -> Result<(Option<String>, isize), Error> {
    let key = key_of(table, row);
    let item = item(&table.name, &key);
    let known = entry(mirror, &item)?;
    let texts = texts(&key);
    if let Some(known) = &known {
        // Somebody else has asked later, and written sooner.
        if known.key == texts
            && known.at_ms > at_ms
            && known.at_ms <= now_ms
            && mirror.row(table, &key)?.is_some()
        {
            return Ok((None, 0));
        }
        if let Some(other) = known.values().filter(|_| known.key != texts) {
            mirror.delete(table, &other)?;
        }
    }
    let had = isize::from(known.is_some());
    match mirror.put(table, row)? {
        Written::Rows(_) => {
            let entry = Entry { table: table.name.clone(), key: texts, at_ms };
            mirror.set(&item, Some(&json(&entry)))?;
            Ok((None, 1 - had))
        }
        Written::Forbidden(why) => {
            remove(mirror, table, &key)?;
            Ok((Some(format!("it is not kept: {why}")), -had))
        }
    }
}

/// Removes a row that is here for being asked for; whether there was one.
fn remove(mirror: &Mirror, table: &MirrorTable, key: &[Value]) -> Result<bool, Error> {
    let item = item(&table.name, key);
    let is_known = entry(mirror, &item)?.is_some_and(|entry| entry.key == texts(key));
    if is_known {
        mirror.delete(table, key)?;
        mirror.set(&item, None)?;
    }
    Ok(is_known)
}

/// Removes all rows of a table.
pub(crate) fn clear(mirror: &Mirror, table: &MirrorTable) -> Result<(), Error> {
    mirror.clear(table)?;
    forget_times(mirror, table)
}

/// Rows of a table that are here for being asked for go.
pub(crate) fn drop_asked_for(mirror: &Mirror, table: &MirrorTable) -> Result<(), Error> {
    let is_here = mirror.has(table)?;
    for (item, text) in mirror.items()?.iter().filter(|(item, _)| item.starts_with(ROWS)) {
        let entry: Entry = parsed(text)?;
        if entry.table == table.name {
            if let Some(key) = entry.values().filter(|_| is_here) {
                mirror.delete(table, &key)?;
            }
            mirror.set(item, None)?;
        }
    }
    Ok(())
}

/// A row is not here for being asked for any more.
pub(crate) fn forget_time(mirror: &Mirror, table: &MirrorTable, key: &[Value]) -> Result<(), Error> {
    Ok(mirror.set(&item(&table.name, key), None).map(drop)?)
}

/// The same of all rows of a table.
pub(crate) fn forget_times(mirror: &Mirror, table: &MirrorTable) -> Result<(), Error> {
    for (item, text) in mirror.items()?.iter().filter(|(item, _)| item.starts_with(ROWS)) {
        if parsed::<Entry>(text)?.table == table.name {
            mirror.set(item, None)?;
        }
    }
    Ok(())
}
