//! Which rows a target has otherwise than SQLite, and how to mend them.
//!
//! Both sides are read in the order of the keys, of one state each: the target in a transaction that sees nobody else's changes, SQLite from
//! the log at the transaction that the target says it has. So neither is stopped, and nothing that is on its way is taken for a
//! difference. What is mended is mended in one transaction, from the present state of the log.

use std::cmp::Ordering;
use std::collections::{BTreeMap, VecDeque};

use litekeep_ltx::Txid;
use tokio::sync::mpsc;

use crate::batch::Change;
use crate::copy::{self, Chunk};
use crate::push::{DATABASE, Settings, parsed};
use crate::target::{Stage, Target, TargetTable, key_text, key_value};
use crate::{Error, Kind, Value};

/// Changes that go at once.
const BATCH: usize = 2_000;
/// Differences that are told one by one; all are counted.
const TOLD: usize = 100;

/// What is told of a row that the target lacks.
pub(crate) const MISSING: &str = "missing";

/// What was found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Found {
    /// The transaction whose state was compared.
    pub txid: Option<Txid>,
    /// Rows that were compared, of SQLite.
    pub rows: u64,
    /// Rows that the target lacks.
    pub missing: u64,
    /// Rows that only the target has.
    pub extra: u64,
    /// Rows that differ.
    pub different: u64,
    /// The first of them.
    pub told: Vec<Difference>,
    /// Rows that cannot be written there.
    pub refused: u64,
}

/// A row that is not the same on both sides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The table, as SQLite names it.
    pub table: String,
    /// Its key, or all of its values, as [`key_text`] has them.
    pub key: Vec<String>,
    /// `missing`, `extra`, or the columns that differ.
    pub what: String,
}

impl Found {
    /// Whether both sides have the same, but for what cannot be written there.
    pub fn is_equal(&self) -> bool {
        self.missing + self.extra + self.different == 0
    }

    /// Counts a row that is not as it should be, and tells it when it is one of the first.
    pub(crate) fn count(
        &mut self,
        table: &str,
        columns: &[&str],
        key: &[Value],
        (should, is): (Option<&Vec<Value>>, Option<&Vec<Value>>),
    ) {
        let what = match (should, is) {
            (Some(_), None) => {
                self.missing += 1;
                MISSING.to_owned()
            }
            (None, _) => {
                self.extra += 1;
                "extra".to_owned()
            }
            (Some(should), Some(is)) => {
                self.different += 1;
                let differ =
                    columns.iter().zip(should.iter().zip(is)).filter(|(_, (should, is))| should != is);
                match differ.map(|(column, _)| *column).collect::<Vec<_>>().join(", ") {
                    columns if columns.is_empty() => "what cannot be held".to_owned(),
                    columns => columns,
                }
            }
        };
        if self.told.len() < TOLD {
            let key = key.iter().map(key_text).collect();
            self.told.push(Difference { table: table.to_owned(), key, what });
        }
    }
}

/// Compares everything that the target has with the state that it should have. With `mend`, with the present state of the log, which
/// it has afterwards; also where it cannot go on by itself.
///
/// # Errors
/// Those of the log and of the target; nothing has changed then.
pub async fn run<T: Target>(settings: &Settings, target: &mut T, mend: bool) -> Result<Found, Error> {
    target.connect().await?;
    let found = compare_all(&mut settings.clone(), target, mend).await;
    if found.is_err() {
        // Others wait for it.
        let _ = target.roll_back().await;
    }
    found
}

async fn compare_all<T: Target>(settings: &mut Settings, target: &mut T, mend: bool) -> Result<Found, Error> {
    let Some(kept) = target.hold(mend).await? else {
        let message = format!("the sync `{}` has not begun in {}", settings.name, target.name());
        return Err(Error::with_hint(
            Kind::Invalid,
            message,
            format!("`litekeep sync run {}` makes the first copy", settings.name),
        ));
    };
    if let Stage::Copying { .. } = kept.stage {
        let message = format!("the sync `{}` makes its first copy", settings.name);
        return Err(Error::with_hint(
            Kind::Invalid,
            message,
            "wait for its end, which `litekeep status` tells",
        ));
    }
    let (at, time_ms) = kept.stage.at();
    let txid = match mend {
        true => settings.logs.last().await?,
        false => at,
    };
    let txid = txid.ok_or_else(|| Error::new(Kind::Invalid, "the log is empty"))?;
    let (database, found_ms) = settings.restored(txid).await?;
    if !mend && found_ms != time_ms {
        let message = format!("the log has another transaction {txid} than the one that the sync stands at");
        let hint = format!("`litekeep sync resync {}` goes on from the present state", settings.name);
        return Err(Error::with_hint(Kind::Invalid, message, hint));
    }
    let (send, chunks) = mpsc::channel(1);
    let (path, tables, cut) = (database.path().join(DATABASE), kept.tables.clone(), settings.cut.clone());
    let reading =
        tokio::task::spawn_blocking(move || copy::read_by_key(&copy::hold(&path)?, (&tables, &cut), &send));
    let mut found = tables_of(target, &kept.tables, chunks, mend).await?;
    reading.await.map_err(|e| Error::new(Kind::Internal, e.to_string()))??;
    found.txid = Some(txid);
    if !mend {
        target.roll_back().await?;
        return Ok(found);
    }
    for (table, _) in &kept.paused {
        target.pause(table, None).await?;
    }
    let stage = Stage::Following { txid: parsed(&txid.to_string())?.to_string(), time_ms: found_ms };
    target.commit(&stage).await?;
    found.refused = target.refused();
    Ok(found)
}

/// Compares the rows that come, table by table in the order of their keys, with those of the target, in the transaction that it holds.
pub(crate) async fn tables_of<T: Target>(
    target: &mut T,
    tables: &[T::Table],
    chunks: mpsc::Receiver<Chunk>,
    mend: bool,
) -> Result<Found, Error> {
    let mut comparison =
        Comparison { target, chunks, here: VecDeque::new(), mend, changes: vec![], found: Found::default() };
    for (nth, table) in tables.iter().enumerate() {
        comparison.table(nth, table).await?;
    }
    Ok(comparison.found)
}

struct Comparison<'a, T> {
    target: &'a mut T,
    /// Of SQLite.
    chunks: mpsc::Receiver<Chunk>,
    here: VecDeque<Vec<Value>>,
    mend: bool,
    changes: Vec<Change>,
    found: Found,
}

impl<T: Target> Comparison<'_, T> {
    async fn table(&mut self, nth: usize, table: &T::Table) -> Result<(), Error> {
        self.target.open(nth).await?;
        if table.key().is_empty() {
            return self.whole_rows(nth, table).await;
        }
        let mut is_more = true;
        let mut there: VecDeque<Vec<Value>> = VecDeque::new();
        loop {
            if self.here.is_empty() && is_more {
                is_more = self.next_chunk(nth).await?;
                continue;
            }
            if there.is_empty() {
                there = self.target.fetch().await?.into();
            }
            let order = match (self.here.front(), there.front()) {
                (None, None) => break,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(here), Some(there)) => compare(&table.key_of(here), &table.key_of(there)),
            };
            let here = if order.is_le() { self.here.pop_front() } else { None };
            let there = if order.is_ge() { there.pop_front() } else { None };
            self.found.rows += u64::from(here.is_some());
            self.pair((nth, table), here, there).await?;
        }
        self.mend_now().await
    }

    /// Of a table without a key, how often each row is there, in memory: nothing else says which rows belong together.
    async fn whole_rows(&mut self, nth: usize, table: &T::Table) -> Result<(), Error> {
        let mut surplus: BTreeMap<Vec<String>, i64> = BTreeMap::new();
        let name = |row: &[Value]| row.iter().map(key_text).collect();
        let mut is_more = true;
        while is_more {
            is_more = self.next_chunk(nth).await?;
            for row in self.here.drain(..) {
                self.found.rows += 1;
                *surplus.entry(name(&row)).or_default() += 1;
            }
        }
        loop {
            let rows = self.target.fetch().await?;
            if rows.is_empty() {
                break;
            }
            for row in rows {
                *surplus.entry(name(&row)).or_default() -= 1;
            }
        }
        for (row, surplus) in surplus {
            let values: Vec<Value> = row.iter().filter_map(|text| key_value(text)).collect();
            for _ in 0..surplus.abs() {
                let row = Some(values.clone());
                let (here, there) = if surplus > 0 { (row, None) } else { (None, row) };
                self.pair((nth, table), here, there).await?;
            }
        }
        self.mend_now().await
    }

    /// `false`: that was the last one of the table.
    async fn next_chunk(&mut self, nth: usize) -> Result<bool, Error> {
        // Where the reading has failed, its own error is told.
        let Some(chunk) = self.chunks.recv().await.filter(|chunk| chunk.table == nth) else {
            return Ok(false);
        };
        self.here.extend(chunk.rows);
        Ok(chunk.after.is_some())
    }

    async fn pair(
        &mut self,
        (nth, table): (usize, &T::Table),
        here: Option<Vec<Value>>,
        there: Option<Vec<Value>>,
    ) -> Result<(), Error> {
        if here == there {
            return Ok(());
        }
        let Some(row) = here.as_ref().or(there.as_ref()) else { return Ok(()) };
        let key = table.key_of(row);
        self.found.count(table.source(), &table.columns(), &key, (here.as_ref(), there.as_ref()));
        if self.mend {
            self.changes.push(Change { table: nth, key, after: here });
            if self.changes.len() >= BATCH {
                self.mend_now().await?;
            }
        }
        Ok(())
    }

    async fn mend_now(&mut self) -> Result<(), Error> {
        if !self.changes.is_empty() {
            self.target.apply(&std::mem::take(&mut self.changes)).await?;
        }
        Ok(())
    }
}

/// SQLite's order, text byte by byte (<https://sqlite.org/datatype3.html#sort_order>).
pub fn compare(a: &[Value], b: &[Value]) -> Ordering {
    let class = |value: &Value| match value {
        Value::Null => 0,
        Value::Integer(_) | Value::Real(_) => 1,
        Value::Text(_) => 2,
        Value::Blob(_) => 3,
    };
    let one = |(a, b): (&Value, &Value)| match (a, b) {
        (Value::Integer(a), Value::Integer(b)) => a.cmp(b),
        (Value::Real(a), Value::Real(b)) => a.partial_cmp(b).unwrap_or(Ordering::Equal),
        (Value::Integer(a), Value::Real(b)) => mixed(*a, *b),
        (Value::Real(a), Value::Integer(b)) => mixed(*b, *a).reverse(),
        (Value::Text(a), Value::Text(b)) | (Value::Blob(a), Value::Blob(b)) => a.cmp(b),
        (a, b) => class(a).cmp(&class(b)),
    };
    a.iter().zip(b).map(one).find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
}

/// An integer of 64 bits is not always a floating-point number.
fn mixed(i: i64, f: f64) -> Ordering {
    const BEYOND: f64 = 9_223_372_036_854_775_808.0;
    if f >= BEYOND {
        return Ordering::Less;
    }
    if f < -BEYOND {
        return Ordering::Greater;
    }
    let whole = f.trunc();
    i.cmp(&(whole as i64)).then_with(|| 0.0_f64.partial_cmp(&(f - whole)).unwrap_or(Ordering::Equal))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_ordered_as_sqlite_orders_them() {
        let sorted = [
            Value::Null,
            Value::Real(-1e300),
            Value::Integer(i64::MIN),
            Value::Real(-1.5),
            Value::Integer(-1),
            Value::Real(0.5),
            Value::Integer(1),
            Value::Integer(i64::MAX - 1),
            Value::Integer(i64::MAX),
            Value::Real(9.3e18),
            Value::Text(b"".to_vec()),
            Value::Text(b"B".to_vec()),
            Value::Text(b"a".to_vec()),
            Value::Blob(vec![]),
            Value::Blob(vec![255]),
        ];
        for (nth, a) in sorted.iter().enumerate() {
            for (other, b) in sorted.iter().enumerate() {
                let order = compare(std::slice::from_ref(a), std::slice::from_ref(b));
                assert_eq!(order, nth.cmp(&other), "{a:?} {b:?}");
            }
        }
    }
}
