//! The rows that changed, each in as few bytes as it has.
//!
//! A table with a hidden rowid tells its rows by their primary key, or by nothing. Its rowids tell nothing: SQLite gives them again once
//! the last row is gone, and `REPLACE` and VACUUM give rows other ones. So its rows come as those that are gone and those that are new,
//! and are paired here: by the primary key; without one, rows of the same values are the same row, and what is left on both sides
//! of a rowid may be one row or two.

use super::Fate;
use crate::{Change, Error, Pair, RowRef, Value};
use litekeep_format::TableLayout;
use litekeep_ltx::Pgno;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

/// Columns with their values.
pub(super) type Named<'a> = Vec<(&'a str, Value)>;

/// The changes of a table.
#[derive(Debug)]
pub(super) struct TableChanges {
    pub(super) name: String,
    pub(super) fate: Fate,
    /// Where its rows are in the later state.
    pub(super) root: Option<Pgno>,
    pub(super) items: Vec<Item>,
    old: Side,
    new: Side,
    /// Its rowids tell nothing, and the rows are not paired yet.
    is_unpaired: bool,
}

/// What rows have in one of the two states, under the names that the columns have in the later one.
#[derive(Debug, Default, PartialEq, Eq)]
struct Side {
    names: Vec<String>,
    /// Where the primary key is among them.
    key: Vec<usize>,
    /// What the rowid is called.
    rowid: Option<&'static str>,
}

/// A row that changed, with the values that can be written.
#[derive(Debug)]
pub(super) struct Item {
    rowid: i64,
    old: Option<Packed>,
    new: Option<Packed>,
    is_wanted: bool,
}

impl Item {
    /// The row is new.
    pub(super) fn is_inserted(&self) -> bool {
        self.old.is_none()
    }

    /// The row is gone.
    pub(super) fn is_deleted(&self) -> bool {
        self.new.is_none()
    }

    /// Its rowid; 0 where it has none.
    pub(super) fn rowid(&self) -> i64 {
        self.rowid
    }

    /// About the bytes that it takes in memory.
    fn size(&self) -> usize {
        let packed = [&self.old, &self.new].into_iter().flatten();
        size_of::<Item>() + packed.map(|packed| packed.0.len() + ALLOCATED).sum::<usize>()
    }
}

/// What the allocator takes for itself.
const ALLOCATED: usize = 16;

/// Values one after the other. Equal bytes are equal values.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Packed(Box<[u8]>);

impl Packed {
    fn of<'v>(values: impl Iterator<Item = &'v Value>) -> Packed {
        let mut bytes = vec![];
        for value in values {
            let (tag, body): (u8, &[u8]) = match value {
                Value::Null => (0, &[]),
                Value::Integer(i) => (1, &i.to_le_bytes()),
                Value::Real(f) => (2, &f.to_bits().to_le_bytes()),
                Value::Text(text) => (3, text),
                Value::Blob(blob) => (4, blob),
            };
            bytes.push(tag);
            if tag > 2 {
                // No value of SQLite is longer.
                bytes.extend((body.len() as u32).to_le_bytes());
            }
            bytes.extend(body);
        }
        Packed(bytes.into())
    }

    fn values(&self) -> Unpacked<'_> {
        Unpacked(&self.0)
    }
}

struct Unpacked<'a>(&'a [u8]);

impl Unpacked<'_> {
    fn take(&mut self, len: usize) -> &[u8] {
        let (taken, rest) = self.0.split_at(len);
        self.0 = rest;
        taken
    }

    fn number(&mut self) -> [u8; 8] {
        self.take(8).try_into().expect("eight bytes")
    }

    fn bytes(&mut self) -> Vec<u8> {
        let len = u32::from_le_bytes(self.take(4).try_into().expect("four bytes"));
        self.take(len as usize).to_vec()
    }
}

impl Iterator for Unpacked<'_> {
    type Item = Value;

    fn next(&mut self) -> Option<Value> {
        let (tag, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(match *tag {
            0 => Value::Null,
            1 => Value::Integer(i64::from_le_bytes(self.number())),
            2 => Value::Real(f64::from_bits(u64::from_le_bytes(self.number()))),
            3 => Value::Text(self.bytes()),
            _ => Value::Blob(self.bytes()),
        })
    }
}

impl Side {
    /// The columns that can be written. `names`: what some of them are called in the later state.
    fn of(layout: &TableLayout, names: &BTreeMap<String, String>) -> Side {
        let written = || layout.columns.iter().enumerate().filter(|(_, column)| !column.is_generated);
        let place = |nth: &usize| written().position(|(other, _)| other == *nth);
        let name = |name: &String| names.get(name).unwrap_or(name).clone();
        Side {
            names: written().map(|(_, column)| name(&column.name)).collect(),
            key: layout.primary_key.iter().map_while(place).collect(),
            rowid: layout.rowid_name(),
        }
    }

    fn named(&self, row: &Packed) -> Named<'_> {
        self.names.iter().map(String::as_str).zip(row.values()).collect()
    }

    /// The primary key of a row; `None`: there is none, or a part of it is missing.
    fn primary_key(&self, row: &Packed) -> Option<Named<'_>> {
        let values: Vec<Value> = row.values().collect();
        let part = |nth: &usize| (self.names[*nth].as_str(), values[*nth].clone());
        let key: Named<'_> = self.key.iter().map(part).collect();
        (!key.is_empty() && key.iter().all(|(_, value)| *value != Value::Null)).then_some(key)
    }
}

impl TableChanges {
    /// `names`: what some columns of the earlier state are called in the later one.
    pub(super) fn of(pair: Pair<'_>, fate: Fate, names: &BTreeMap<String, String>) -> TableChanges {
        let side =
            |layout: Option<&TableLayout>, names| layout.map_or_else(Side::default, |l| Side::of(l, names));
        TableChanges {
            name: pair.either().name.clone(),
            fate,
            root: pair.new.map(|table| table.root),
            items: vec![],
            old: side(pair.old.map(|table| &table.layout), names),
            new: side(pair.new.map(|table| &table.layout), &BTreeMap::new()),
            is_unpaired: pair.has_hidden_rowid(),
        }
    }

    /// Adds a row; about how many bytes it takes. `is_wanted`: it is to be taken back, and not only the other half of one that is.
    pub(super) fn add(&mut self, change: &Change<'_>, is_wanted: bool) -> Result<usize, Error> {
        if !is_wanted && !self.is_unpaired {
            return Ok(0);
        }
        let (old, new) = match change {
            Change::Inserted(new) => (None, Some(new)),
            Change::Deleted(old) => (Some(old), None),
            Change::Updated(old, new) => (Some(old), Some(new)),
        };
        let packed = |row: Option<&RowRef<'_>>| row.map(packed).transpose();
        let item = Item { rowid: crate::row(change).rowid, old: packed(old)?, new: packed(new)?, is_wanted };
        let size = item.size();
        self.items.push(item);
        Ok(size)
    }

    /// About the bytes that its rows take.
    pub(super) fn size(&self) -> usize {
        self.items.iter().map(Item::size).sum()
    }

    /// The row as it was.
    pub(super) fn was(&self, item: &Item) -> Option<Named<'_>> {
        item.old.as_ref().map(|row| self.old.named(row))
    }

    /// The row as it is in the later state.
    pub(super) fn is(&self, item: &Item) -> Option<Named<'_>> {
        item.new.as_ref().map(|row| self.new.named(row))
    }

    /// What tells the row. Empty: nothing does.
    pub(super) fn key(&self, item: &Item) -> Named<'_> {
        self.primary_key(item).unwrap_or_else(|| {
            let side = if item.new.is_some() { &self.new } else { &self.old };
            side.rowid.map(|name| (name, Value::Integer(item.rowid))).into_iter().collect()
        })
    }

    /// Whether a rowid, which VACUUM may give to another row, is all that tells it.
    pub(super) fn is_by_rowid(&self, item: &Item) -> bool {
        self.primary_key(item).is_none()
    }

    fn primary_key(&self, item: &Item) -> Option<Named<'_>> {
        match (&item.new, &item.old) {
            (Some(new), _) => self.new.primary_key(new),
            (None, old) => self.old.primary_key(old.as_ref()?),
        }
    }

    /// The columns that rows have values for.
    pub(super) fn columns(&self) -> impl Iterator<Item = &str> {
        let has_old = self.items.iter().any(|item| item.old.is_some());
        let has_new = self.items.iter().any(|item| item.new.is_some());
        let old = self.old.names.iter().filter(move |_| has_old);
        old.chain(self.new.names.iter().filter(move |_| has_new)).map(String::as_str)
    }

    /// Whether a column had values in the later state.
    pub(super) fn knows(&self, column: &str) -> bool {
        self.new.names.iter().any(|name| name == column)
    }

    /// Pairs the rows that are gone with those that are new, where they came so.
    pub(super) fn pair(&mut self) {
        if !std::mem::take(&mut self.is_unpaired) {
            return;
        }
        if self.items.iter().any(Item::is_inserted) && self.items.iter().any(Item::is_deleted) {
            self.pair_by_what_tells_them();
            self.pair_by_rowid();
        }
        let same_columns = self.old.names == self.new.names;
        self.items.retain(|item| {
            let is_same = same_columns && item.old == item.new;
            item.is_wanted && !is_same && (item.old.is_some() || item.new.is_some())
        });
        self.items.shrink_to_fit();
    }

    fn pair_by_what_tells_them(&mut self) {
        let deleted = self.items.iter().enumerate().filter(|(_, item)| item.is_deleted());
        let hashed = deleted.filter_map(|(nth, item)| Some((hash(&self.told_by(item)?), nth)));
        // Those that are not paired yet: of many equal rows each is looked at once.
        let mut gone: BTreeSet<(u64, usize)> = hashed.collect();
        for nth in 0..self.items.len() {
            if !self.items[nth].is_inserted() {
                continue;
            }
            let Some(told_by) = self.told_by(&self.items[nth]) else { continue };
            let hash = hash(&told_by);
            let alike = gone.range((hash, 0)..=(hash, usize::MAX)).copied();
            let is_it = |(_, old): &(u64, usize)| self.told_by(&self.items[*old]).as_ref() == Some(&told_by);
            if let Some(found) = alike.into_iter().find(is_it) {
                gone.remove(&found);
                self.join(found.1, nth);
            }
        }
    }

    /// The primary key, or all values where there is none; `None`: it tells nothing in the other state.
    fn told_by(&self, item: &Item) -> Option<(bool, Packed)> {
        if let Some(key) = self.primary_key(item) {
            let names = |side: &Side| side.key.iter().map(|nth| side.names[*nth].clone()).collect::<Vec<_>>();
            let key = Packed::of(key.iter().map(|(_, value)| value));
            return (names(&self.old) == names(&self.new)).then_some((true, key));
        }
        let row = item.old.as_ref().or(item.new.as_ref()).filter(|_| self.old.names == self.new.names);
        row.map(|row| (false, row.clone()))
    }

    /// What is left without a key.
    fn pair_by_rowid(&mut self) {
        let is_left = |item: &Item| item.is_inserted() != item.is_deleted() && self.is_by_rowid(item);
        let mut left: Vec<(i64, bool, usize)> = vec![];
        for (nth, item) in self.items.iter().enumerate().filter(|(_, item)| is_left(item)) {
            left.push((item.rowid, item.is_inserted(), nth));
        }
        left.sort_unstable();
        for pair in left.windows(2) {
            if let [(old_rowid, false, old), (new_rowid, true, new)] = pair
                && old_rowid == new_rowid
            {
                self.join(*old, *new);
            }
        }
    }

    /// Puts a row that is new to one that is gone. Nothing is left of it where it was.
    fn join(&mut self, old: usize, new: usize) {
        let (rowid, is_wanted) = (self.items[new].rowid, self.items[new].is_wanted);
        let values = self.items[new].new.take();
        let item = &mut self.items[old];
        (item.rowid, item.new) = (rowid, values);
        item.is_wanted |= is_wanted;
    }
}

fn hash(told_by: &(bool, Packed)) -> u64 {
    let mut hasher = DefaultHasher::new();
    told_by.hash(&mut hasher);
    hasher.finish()
}

fn packed(row: &RowRef<'_>) -> Result<Packed, Error> {
    let columns = row.table.layout.columns.iter().zip(row.values()?);
    let written: Vec<Value> =
        columns.filter(|(column, _)| !column.is_generated).map(|(_, value)| value).collect();
    Ok(Packed::of(written.iter()))
}
