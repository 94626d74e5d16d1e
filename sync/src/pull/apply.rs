//! Changes on their way into SQLite.

use std::collections::BTreeSet;

use litekeep_sql::{Mirror, MirrorTable, Written};

use super::sieve::Sieve;
use crate::batch::Refused;
use crate::cache::shelf;
use crate::ledger::{listed, refused_item};
use crate::source::{Incoming, Unfit};
use crate::{Error, Value};

/// What changes are applied with.
pub(super) struct Applied {
    /// The tables, by their places in the plan, each with what lets through what is kept of it.
    pub(super) tables: Vec<(MirrorTable, Sieve)>,
    /// Those that stand still.
    pub(super) paused: BTreeSet<usize>,
    /// Some rows are refused, of which one may be fine now.
    pub(super) any_refused: bool,
    /// Others are here for being asked for.
    pub(super) is_cache: bool,
}

/// Applies changes in their order; how many rows more are refused.
pub(super) fn apply(
    mirror: &Mirror,
    Applied { tables, paused, any_refused, is_cache }: &Applied,
    changes: Vec<(usize, Incoming)>,
) -> Result<i64, Error> {
    let mut listed = 0;
    for (nth, change) in changes {
        if paused.contains(&nth) {
            continue;
        }
        let (table, sieve) = &tables[nth];
        for change in sieve.change(mirror, table, change)?.into_iter().flatten() {
            if *is_cache {
                no_longer_asked_for(mirror, table, &change)?;
            }
            let any_refused = *any_refused || listed > 0;
            if !(any_refused && is_part_of_refused(mirror, table, &change)?) {
                listed += apply_one(mirror, (nth, table), change, any_refused)?;
            }
        }
    }
    Ok(listed)
}

fn apply_one(
    mirror: &Mirror,
    (nth, table): (usize, &MirrorTable),
    change: Incoming,
    any_refused: bool,
) -> Result<i64, Error> {
    let (key, written) = match change {
        Incoming::Put { row } => (key_of(table, &row), mirror.put(table, &row)?),
        Incoming::Update { key, row } => {
            let written = update(mirror, table, &key, &row)?;
            (key, written)
        }
        Incoming::Delete { key } => {
            let written = mirror.delete(table, &key)?;
            (key, written)
        }
        Incoming::Images { after: Some(row), before } => {
            let key = key_of(table, before.as_ref().unwrap_or(&row));
            let row: Vec<Option<Value>> = row.into_iter().map(Some).collect();
            let written = update(mirror, table, &key, &row)?;
            (key, written)
        }
        Incoming::Images { after: None, before } => {
            let key = before.map_or(vec![], |row| key_of(table, &row));
            let written = mirror.delete(table, &key)?;
            (key, written)
        }
        Incoming::Unfit(Unfit { key, reason }) => (key, Written::Forbidden(reason)),
        Incoming::NoLonger { key } => (key, Written::Rows(0)),
        Incoming::Clear => (vec![], mirror.clear(table)?),
    };
    match written {
        Written::Forbidden(reason) => list(mirror, &table.name, &[Refused { table: nth, key, reason }], &[]),
        Written::Rows(_) if any_refused => list(mirror, &table.name, &[], &[key]),
        Written::Rows(_) => Ok(0),
    }
}

/// The row that a change is of is here for the change from now on, and no older than that.
fn no_longer_asked_for(mirror: &Mirror, table: &MirrorTable, change: &Incoming) -> Result<(), Error> {
    let keys = match change {
        Incoming::Put { row } => vec![key_of(table, row)],
        Incoming::Delete { key } => vec![key.clone()],
        Incoming::Update { key, row } => {
            let new = table.key.iter().zip(key).map(|(nth, old)| row[*nth].as_ref().unwrap_or(old).clone());
            vec![key.clone(), new.collect()]
        }
        Incoming::Images { before, after } => {
            [before, after].into_iter().flatten().map(|row| key_of(table, row)).collect()
        }
        Incoming::Clear => return shelf::forget_times(mirror, table),
        Incoming::Unfit(_) | Incoming::NoLonger { .. } => vec![],
    };
    keys.iter().try_for_each(|key| shelf::forget_time(mirror, table, key))
}

/// The key of a row of which only a part comes.
pub(super) fn key_of_part(change: &Incoming) -> Option<&[Value]> {
    match change {
        Incoming::Update { key, row } if row.iter().any(Option::is_none) => Some(key),
        _ => None,
    }
}

/// What the row was before is not here, so a part of it would make another row: it stays refused.
fn is_part_of_refused(mirror: &Mirror, table: &MirrorTable, change: &Incoming) -> Result<bool, Error> {
    let Some(key) = key_of_part(change) else { return Ok(false) };
    Ok(mirror.item(&refused_item(&table.name, key))?.is_some())
}

/// The key of a row, or all of its values where the table has none.
pub(crate) fn key_of(table: &MirrorTable, row: &[Value]) -> Vec<Value> {
    if table.key.is_empty() {
        return row.to_vec();
    }
    table.key.iter().map(|nth| row[*nth].clone()).collect()
}

pub(super) fn update(
    mirror: &Mirror,
    table: &MirrorTable,
    key: &[Value],
    row: &[Option<Value>],
) -> Result<Written, Error> {
    let whole: Option<Vec<Value>> = row.iter().cloned().collect();
    let new_key: Vec<Value> =
        (table.key.iter().zip(key)).map(|(nth, old)| row[*nth].clone().unwrap_or(old.clone())).collect();
    let is_moved = new_key != key;
    if let (Some(whole), false) = (&whole, is_moved) {
        return Ok(mirror.put(table, whole)?);
    }
    // Until the copy is caught up with, the row may be where it goes to, and later than it is here.
    if is_moved && mirror.row(table, key)?.is_some() {
        mirror.delete(table, &new_key)?;
    }
    Ok(match (mirror.change(table, key, row)?, whole) {
        (Written::Rows(0), Some(whole)) => mirror.put(table, &whole)?,
        // It was deleted before the copy came to it, which comes too.
        (written, _) => written,
    })
}

/// Lists rows that are refused, and takes others off the list; how many rows more are on it.
pub(super) fn list(
    mirror: &Mirror,
    table: &str,
    refused: &[Refused],
    fine: &[Vec<Value>],
) -> Result<i64, Error> {
    let mut more = 0;
    for row in refused {
        more += i64::from(mirror.set(&refused_item(table, &row.key), Some(&listed(table, row)))?);
    }
    for key in fine {
        more -= i64::from(mirror.set(&refused_item(table, key), None)?);
    }
    Ok(more)
}

/// Lists rows that cannot be here, which are not gone for that; how many rows more are listed.
pub(super) fn list_unfit(
    mirror: &Mirror,
    table: &MirrorTable,
    sweeps: bool,
    unfit: Vec<Unfit>,
) -> Result<i64, Error> {
    let mut more = 0;
    for Unfit { key, reason } in unfit {
        if sweeps && key.len() == table.key.len() {
            mirror.keep(&key)?;
        }
        more += list(mirror, &table.name, &[Refused { table: 0, key, reason }], &[])?;
    }
    Ok(more)
}

pub(super) fn size(change: &Incoming) -> usize {
    let value = |value: &Value| match value {
        Value::Text(bytes) | Value::Blob(bytes) => 32 + bytes.len(),
        _ => 32,
    };
    match change {
        Incoming::Put { row } => row.iter().map(value).sum(),
        Incoming::Update { key, row } => key.iter().chain(row.iter().flatten()).map(value).sum(),
        Incoming::Delete { key } | Incoming::NoLonger { key } => key.iter().map(value).sum(),
        Incoming::Unfit(Unfit { key, reason }) => key.iter().map(value).sum::<usize>() + reason.len(),
        Incoming::Images { before, after } => {
            [before, after].into_iter().flatten().flatten().map(value).sum()
        }
        Incoming::Clear => 32,
    }
}
