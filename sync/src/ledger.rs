//! What a target keeps of a sync beside its rows: one table of named items, committed together with the rows.

use std::collections::BTreeMap;
use std::hash::Hasher as _;

use serde::Serialize;
use siphasher::sip::SipHasher13;

use crate::target::{Listed, TargetTable, key_text};
use crate::{Change, Error, Kept, Kind, Refused, Stage, Value};

/// The name of that table.
pub use litekeep_sql::SYNC_TABLE as TABLE;

/// The item that has the tables, in order.
pub const PLAN: &str = "plan";
/// The item that has the [`Stage`].
pub const STAGE: &str = "stage";
/// What the names of items begin with that say why a table stands still.
pub const PAUSED: &str = "paused/";
/// What the names of items begin with that list a refused row.
pub const REFUSED: &str = "refused/";

/// Reads the items but those of refused rows, which are only counted; with the stage as it is written. `None`: the sync has not begun.
/// `place`: the server, for people.
///
/// # Errors
/// `Corrupt` when they are damaged.
pub fn read<T: TargetTable>(
    items: &BTreeMap<String, String>,
    refused: u64,
    (sync, place): (&str, &str),
) -> Result<Option<(Kept<T>, String)>, Error> {
    let (Some(plan), Some(stage)) = (items.get(PLAN), items.get(STAGE)) else { return Ok(None) };
    let damaged = |e: serde_json::Error| {
        let message = format!("read how far the sync is: `{TABLE}` in {place} is damaged: {e}");
        let hint = format!("`litekeep sync resync {sync}` begins anew");
        Error::with_hint(Kind::Corrupt, message, hint)
    };
    let tables: Vec<T> = serde_json::from_str(plan).map_err(damaged)?;
    let parsed: Stage = serde_json::from_str(stage).map_err(damaged)?;
    let paused = items
        .iter()
        .filter_map(|(item, reason)| Some((item.strip_prefix(PAUSED)?.to_owned(), reason.clone())));
    let kept = Kept { tables, paused: paused.collect(), stage: parsed, refused };
    Ok(Some((kept, stage.clone())))
}

/// Content of an item.
///
/// # Panics
/// Not with what a sync keeps: its maps have text as keys.
pub fn text(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("maps have text as keys")
}

/// The item that lists a refused row: a short name, for an index has no room for a long key.
pub fn refused_item(table: &str, key: &[Value]) -> String {
    format!("{REFUSED}{}", row_id(table, key))
}

/// A short name of a row.
pub fn row_id(table: &str, key: &[Value]) -> String {
    let mut hasher = SipHasher13::new();
    for value in key {
        hasher.write(key_text(value).as_bytes());
        hasher.write_u8(0);
    }
    format!("{table}/{:016x}", hasher.finish())
}

/// Its content.
pub fn listed(table: &str, row: &Refused) -> String {
    let key = row.key.iter().map(key_text).collect();
    text(&Listed { table: table.to_owned(), key, reason: row.reason.clone() })
}

/// Reads what lists refused rows.
///
/// # Errors
/// `Corrupt` when it is damaged.
pub fn read_listed<'a>(contents: impl Iterator<Item = &'a str>) -> Result<Vec<Listed>, Error> {
    let damaged = |e| Error::new(Kind::Corrupt, format!("read the list of refused rows: {e}"));
    contents.map(serde_json::from_str).collect::<Result<_, _>>().map_err(damaged)
}

/// Somebody else has committed something of this sync.
pub fn fenced(sync: &str, place: &str) -> Error {
    let message = format!("another litekeep pushes the sync `{sync}` to {place}");
    Error::with_hint(Kind::Fenced, message, "stop one of the two, or give this sync another name")
}

/// What each value of a row is written as, with what the row is known by.
#[derive(Clone, Debug)]
pub struct Encoded<V> {
    /// Its key, as in [`Change`].
    pub key: Vec<Value>,
    /// The values.
    pub row: Vec<V>,
}

/// Changes of one table.
#[derive(Debug)]
pub struct OfTable<'a, V> {
    /// The keys of rows that go.
    pub gone: Vec<&'a [Value]>,
    /// Rows that come.
    pub come: Vec<Encoded<V>>,
}

/// Changes by table, and the rows that cannot be encoded.
pub fn by_table<'a, V>(
    changes: &'a [Change],
    encode: impl Fn(usize, &[Value], &[Value]) -> Result<Encoded<V>, Refused>,
) -> (BTreeMap<usize, OfTable<'a, V>>, Vec<Refused>) {
    let (mut by_table, mut refused) = (BTreeMap::new(), vec![]);
    for change in changes {
        let of = by_table.entry(change.table).or_insert_with(|| OfTable { gone: vec![], come: vec![] });
        let Some(row) = &change.after else {
            of.gone.push(change.key.as_slice());
            continue;
        };
        match encode(change.table, &change.key, row) {
            Ok(row) => of.come.push(row),
            Err(row) => refused.push(row),
        }
    }
    (by_table, refused)
}

/// Rows of a table that are encoded, and those that cannot be.
pub fn encoded<T: TargetTable, V>(
    (nth, table): (usize, &T),
    rows: &[Vec<Value>],
    encode: impl Fn(usize, &[Value], &[Value]) -> Result<Encoded<V>, Refused>,
) -> (Vec<Encoded<V>>, Vec<Refused>) {
    let (mut fine, mut refused) = (Vec::with_capacity(rows.len()), vec![]);
    for row in rows {
        match encode(nth, &table.key_of(row), row) {
            Ok(row) => fine.push(row),
            Err(row) => refused.push(row),
        }
    }
    (fine, refused)
}

/// The items of rows that have changed and are not refused, which the list must not have any more.
pub fn fine_items<T: TargetTable>(changes: &[Change], refused: &[Refused], tables: &[T]) -> Vec<String> {
    let is_refused =
        |change: &&Change| refused.iter().any(|row| row.table == change.table && row.key == change.key);
    let fine = changes.iter().filter(|change| !is_refused(change));
    fine.map(|change| refused_item(tables[change.table].source(), &change.key)).collect()
}
