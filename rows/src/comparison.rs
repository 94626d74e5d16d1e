//! Two states of a log, and what differs between them.

use crate::{Change, Error, Kind, Pair};
use litekeep_format::diff::{self, Options, ParentMap, Sink, Written};
use litekeep_format::{Catalog, SchemaRow};
use litekeep_ltx::Point;
use litekeep_replicate::log_state::{self, Later, LogState, View};
use litekeep_replicate::parents;
use litekeep_replicate::restore::Goal;
use litekeep_sql::{RowFilter, TableReader};
use litekeep_store::Store;
use std::collections::BTreeMap;

/// Two states of a log.
#[derive(Debug)]
pub struct Comparison {
    old: LogState,
    new: Later,
    parents: ParentMap,
}

/// A table, index, view or trigger that is not as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchemaChange {
    /// As it was; `None`: it is new.
    pub before: Option<SchemaRow>,
    /// As it is; `None`: it is gone.
    pub after: Option<SchemaRow>,
}

impl Comparison {
    /// Opens two states. Call from within the runtime.
    ///
    /// # Errors
    /// Those of a restore of either state, and `Invalid` when the second is before the first.
    pub async fn open(store: &Store, from: Goal, to: Goal) -> Result<Comparison, Error> {
        let (old, new) = log_state::open_both(store, from, to).await?;
        let parents =
            if old.point() == new.point() { ParentMap::default() } else { parents::of(store, &old).await? };
        Ok(Comparison { old, new, parents })
    }

    /// Where the earlier state stands, and its time, milliseconds since the epoch.
    pub fn from(&self) -> (Point, i64) {
        (self.old.point(), self.old.time_ms)
    }

    /// Where the later state stands, and its time, milliseconds since the epoch.
    pub fn to(&self) -> (Point, i64) {
        (self.new.point(), self.new.time_ms)
    }

    /// Tells the reader how the schema and which of the wanted rows differ. On a blocking thread.
    ///
    /// # Errors
    /// Those of the store and the reader, `Corrupt` for pages that are damaged, `Invalid` for tables that neither state has.
    pub fn run<R: Reader>(self, wanted: &Selection, reader: &mut R) -> Result<(), Error> {
        let (old, new) = (self.old.view(), self.old.view_of(&self.new));
        let layouts = TableReader::new()?;
        let before = diff::catalog(&old, &layouts)?;
        if self.old.point() == self.new.point() {
            wanted.check(&before, &before)?;
            return reader.schema(&[]);
        }
        let states = (&old, &self.parents, &before);
        let selected = Selected { wanted, is_strict: true, filter: wanted.filter()?, from: vec![], reader };
        selected.differences(states, &new, self.new.written(), &layouts)?;
        Ok(())
    }
}

/// Who takes the differences.
pub trait Reader {
    /// How the schema differs; comes first.
    ///
    /// # Errors
    /// Whatever shall end the comparison.
    fn schema(&mut self, changes: &[SchemaChange]) -> Result<(), Error>;

    /// How a row differs. Those of one table come together.
    ///
    /// # Errors
    /// Whatever shall end the comparison.
    fn change(&mut self, pair: Pair<'_>, change: &Change<'_>) -> Result<(), Error>;
}

/// Which rows are wanted.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Of these tables; empty: of all.
    pub tables: Vec<String>,
    /// Only those that fulfil this condition, before or after.
    pub condition: Option<String>,
}

impl Selection {
    /// Whether a table is wanted.
    pub fn has_table(&self, name: &str) -> bool {
        self.tables.is_empty() || self.tables.iter().any(|table| table.eq_ignore_ascii_case(name))
    }

    fn filter(&self) -> Result<Option<RowFilter>, Error> {
        Ok(self.condition.as_deref().map(RowFilter::new).transpose()?)
    }

    /// Tells the reader how two states differ, and returns the tables of the later one. A table that is not there may come.
    pub(crate) fn differences<R: Reader>(
        &self,
        states: (&View<'_>, &ParentMap, &Catalog),
        new: &View<'_>,
        written: Written<'_>,
        layouts: &TableReader,
        reader: &mut R,
    ) -> Result<Catalog, Error> {
        let selected =
            Selected { wanted: self, is_strict: false, filter: self.filter()?, from: vec![], reader };
        selected.differences(states, new, written, layouts)
    }

    fn check(&self, before: &Catalog, after: &Catalog) -> Result<(), Error> {
        let is_there = |name: &str| before.table(name).or(after.table(name)).is_some();
        let Some(missing) = self.tables.iter().find(|name| !is_there(name)) else { return Ok(()) };
        let names: Vec<_> = after.tables().iter().map(|table| format!("`{}`", table.name)).collect();
        let hint = format!("the tables are {}", names.join(", "));
        Err(Error::with_hint(Kind::Invalid, format!("there is no table `{missing}`"), hint))
    }
}

impl SchemaChange {
    /// Whether it is something that another statement makes: a table of a virtual table, or one of SQLite's own.
    pub fn comes_by_itself(&self, all: &[SchemaChange]) -> bool {
        let name = |change: &SchemaChange| {
            change.after.as_ref().or(change.before.as_ref()).map(|row| row.name.clone())
        };
        let Some(own) = name(self) else { return false };
        let is_virtual = |change: &&SchemaChange| {
            change
                .after
                .as_ref()
                .or(change.before.as_ref())
                .is_some_and(|row| row.kind == "table" && row.root.is_none())
        };
        own.starts_with("sqlite_")
            || all
                .iter()
                .filter(is_virtual)
                .filter_map(name)
                .any(|owner| own.starts_with(&format!("{owner}_")))
    }

    /// The table that it belongs to.
    pub fn of_table(&self) -> &str {
        self.after.as_ref().or(self.before.as_ref()).map_or("", |row| &row.table)
    }
}

/// Passes on what is wanted.
struct Selected<'a, R> {
    wanted: &'a Selection,
    /// A table that neither state has is an error.
    is_strict: bool,
    filter: Option<RowFilter>,
    /// For each column of the table as it is, the one that it was.
    from: Vec<Option<usize>>,
    reader: &'a mut R,
}

impl<R: Reader> Selected<'_, R> {
    fn differences(
        mut self,
        states: (&View<'_>, &ParentMap, &Catalog),
        new: &View<'_>,
        written: Written<'_>,
        layouts: &TableReader,
    ) -> Result<Catalog, Error> {
        diff::diff(states, new, written, Options::default(), layouts, &mut self)
    }

    fn has(&self, pair: Pair<'_>) -> bool {
        [pair.old, pair.new].into_iter().flatten().any(|table| self.wanted.has_table(&table.name))
    }

    /// The condition speaks of the columns that the table has now, or had when it is gone.
    fn fulfils(&self, pair: Pair<'_>, change: &Change<'_>) -> Result<bool, Error> {
        let Some(filter) = &self.filter else { return Ok(true) };
        let (old, new) = match change {
            Change::Inserted(new) => (None, Some(new)),
            Change::Deleted(old) => (Some(old), None),
            Change::Updated(old, new) => (Some(old), Some(new)),
        };
        if let Some(old) = old {
            let mut values = old.values()?;
            if pair.new.is_some() {
                let value = |from: &Option<usize>| from.map_or(crate::Value::Null, |nth| values[nth].clone());
                values = self.from.iter().map(value).collect();
            }
            if filter.matches(old.rowid, &values)? {
                return Ok(true);
            }
        }
        new.map_or(Ok(false), |new| Ok(filter.matches(new.rowid, &new.values()?)?))
    }
}

impl<R: Reader> Sink<Error> for Selected<'_, R> {
    fn begin(&mut self, before: &Catalog, after: &Catalog) -> Result<(), Error> {
        if self.is_strict {
            self.wanted.check(before, after)?;
        }
        // A condition that is none is told before anything else.
        let tables = self.wanted.tables.iter().filter_map(|name| after.table(name).or(before.table(name)));
        for table in tables {
            if let Some(filter) = &mut self.filter {
                filter.begin(&table.name, &table.layout)?;
            }
        }
        let mut changes = schema_changes(before, after);
        changes.retain(|change| self.wanted.has_table(change.of_table()));
        self.reader.schema(&changes)
    }

    fn table(&mut self, pair: Pair<'_>, from: &[Option<usize>]) -> Result<(), Error> {
        self.from = from.to_vec();
        if self.has(pair)
            && let Some(filter) = &mut self.filter
        {
            filter.begin(&pair.either().name, &pair.either().layout)?;
        }
        Ok(())
    }

    fn change(&mut self, pair: Pair<'_>, change: Change<'_>) -> Result<(), Error> {
        if self.has(pair) && self.fulfils(pair, &change)? {
            self.reader.change(pair, &change)?;
        }
        Ok(())
    }
}

/// What differs but for where the trees begin. Indexes that SQLite makes for a table are part of the table.
fn schema_changes(before: &Catalog, after: &Catalog) -> Vec<SchemaChange> {
    if after.is_clone_of(before) {
        return vec![];
    }
    let named = |catalog: &Catalog| -> BTreeMap<(String, String), SchemaRow> {
        let rows = catalog.rows().filter(|row| !row.sql.is_empty()).cloned();
        rows.map(|row| ((row.kind.clone(), row.name.clone()), row)).collect()
    };
    let (before, mut after) = (named(before), named(after));
    let mut changes = vec![];
    for (name, row) in before {
        let now = after.remove(&name);
        if now.as_ref().is_none_or(|now| now.sql != row.sql) {
            changes.push(SchemaChange { before: Some(row), after: now });
        }
    }
    changes.extend(after.into_values().map(|row| SchemaChange { before: None, after: Some(row) }));
    changes
}
