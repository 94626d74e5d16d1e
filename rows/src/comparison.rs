//! Two states of a log, and what differs between them.

use crate::filters::Filters;
use crate::{Change, Error, Kind, Pair};
use litekeep_format::diff::{self, Options, ParentMap, Sink, Written};
use litekeep_format::{Catalog, RowRef, SchemaRow, Table, Value};
use litekeep_ltx::Point;
use litekeep_replicate::log_state::{self, Later, LogState, View};
use litekeep_replicate::parents;
use litekeep_replicate::restore::Goal;
use litekeep_sql::TableReader;
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
    /// Of a table that is gone because it was renamed: the name that it has now, as which it is new.
    pub new_name: Option<String>,
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
            reader.states(&before, &before);
            return reader.schema(&[]);
        }
        let states = (&old, &self.parents, &before);
        let mut filters = Filters::default();
        let known = (&layouts, &mut filters);
        let mut selected = Selected::of(wanted, known, reader);
        selected.is_strict = true;
        selected.differences(states, &new, self.new.written())?;
        Ok(())
    }
}

/// Who takes the differences.
pub trait Reader {
    /// The schemas of both states; comes before all else.
    fn states(&mut self, _before: &Catalog, _after: &Catalog) {}

    /// How the schema differs; comes before the tables.
    ///
    /// # Errors
    /// Whatever shall end the comparison.
    fn schema(&mut self, changes: &[SchemaChange]) -> Result<(), Error>;

    /// Changes of these tables follow, perhaps none. `from`: for each column of the new one, the column that it was.
    ///
    /// # Errors
    /// Whatever shall end the comparison.
    fn table(&mut self, _pair: Pair<'_>, _from: &[Option<usize>]) -> Result<(), Error> {
        Ok(())
    }

    /// How a row differs. Those of one table come together.
    ///
    /// # Errors
    /// Whatever shall end the comparison.
    fn change(&mut self, pair: Pair<'_>, change: &Change<'_>) -> Result<(), Error>;

    /// Whether rows of a table with a hidden rowid come as one that is gone and one that is new, in place of an updated one: nothing
    /// tells whether its rowid is still that of the same row. Each of the two alone has to fulfil a condition then.
    fn takes_apart(&self) -> bool {
        false
    }

    /// How a row of a wanted table differs that does not fulfil the condition.
    ///
    /// # Errors
    /// Whatever shall end the comparison.
    fn other(&mut self, _pair: Pair<'_>, _change: &Change<'_>) -> Result<(), Error> {
        Ok(())
    }

    /// The number after which AUTOINCREMENT of a wanted table went on in the earlier state, where it is another one now, or none.
    ///
    /// # Errors
    /// Whatever shall end the comparison.
    fn counter(&mut self, _table: &str, _was: i64) -> Result<(), Error> {
        Ok(())
    }
}

/// Which rows are wanted.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Of these tables; empty: of all.
    pub tables: Vec<String>,
    /// Only those that fulfil this condition, before or after.
    pub condition: Option<String>,
    /// In its place, conditions on tables as statements have made them. Rows of all others are not wanted.
    pub conditions: Vec<OfStatement>,
    /// Only how the schema changes.
    pub without_rows: bool,
    /// Of these tables only the rows that fulfil a condition on their values: others are as if they were not there, so that a row
    /// that does no more is deleted. By the names of the tables.
    pub only: BTreeMap<String, String>,
}

/// A condition on a table for as long as it is as a statement has made it: then, its columns have other names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OfStatement {
    /// The table's name.
    pub table: String,
    /// The statement.
    pub sql: String,
    /// The condition.
    pub condition: String,
}

impl Selection {
    /// Whether a table is wanted.
    pub fn has_table(&self, name: &str) -> bool {
        self.tables.is_empty() || self.tables.iter().any(|table| table.eq_ignore_ascii_case(name))
    }

    /// The condition on a table, if there is one; `None`: none of its rows are wanted.
    fn condition_on(&self, table: &Table) -> Option<Option<&str>> {
        if self.conditions.is_empty() {
            return Some(self.condition.as_deref());
        }
        let is_it = |own: &&OfStatement| own.table == table.name && own.sql == table.sql;
        Some(Some(&self.conditions.iter().find(is_it)?.condition))
    }

    /// Which rows of a table are there at all.
    fn only(&self, table: &Table) -> Option<&str> {
        let mut all = self.only.iter();
        all.find(|(name, _)| name.eq_ignore_ascii_case(&table.name)).map(|(_, condition)| condition.as_str())
    }

    /// Tells the reader how two states differ, and returns the tables of the later one. A table that is not there may come.
    /// `filters`: of the same selection.
    pub(crate) fn differences<R: Reader>(
        &self,
        states: (&View<'_>, &ParentMap, &Catalog),
        new: &View<'_>,
        written: Written<'_>,
        known: (&TableReader, &mut Filters),
        reader: &mut R,
    ) -> Result<Catalog, Error> {
        Selected::of(self, known, reader).differences(states, new, written)
    }

    pub(crate) fn check(&self, before: &Catalog, after: &Catalog) -> Result<(), Error> {
        let is_there = |name: &str| before.table(name).or(after.table(name)).is_some();
        let Some(missing) = self.tables.iter().find(|name| !is_there(name)) else { return Ok(()) };
        let names =
            |tables: &[&str]| tables.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        let found = [after, before].into_iter().find_map(|catalog| {
            let is_it = |row: &&SchemaRow| {
                row.kind == "table" && row.root.is_none() && row.name.eq_ignore_ascii_case(missing)
            };
            Some((catalog, catalog.rows().find(is_it)?))
        });
        if let Some((catalog, owner)) = found {
            let tables = catalog.tables().iter().map(|table| table.name.as_str());
            let own: Vec<_> = tables.filter(|name| is_shadow(name, owner)).collect();
            let content: Vec<_> = own.iter().copied().filter(|name| name.ends_with("_content")).collect();
            let message = format!("`{}` is a virtual table, and has its rows in other tables", owner.name);
            let hint = match (&content[..], &own[..]) {
                ([], []) => "name the table that it reads".to_owned(),
                ([], own) => format!("they are {}", names(own)),
                (content, _) => format!("name {}", names(content)),
            };
            return Err(Error::with_hint(Kind::Invalid, message, hint));
        }
        let tables: Vec<_> = after.tables().iter().map(|table| table.name.as_str()).collect();
        let hint = format!("the tables are {}", names(&tables));
        Err(Error::with_hint(Kind::Invalid, format!("there is no table `{missing}`"), hint))
    }
}

impl SchemaChange {
    /// As it is, or as it was.
    fn either(&self) -> Option<&SchemaRow> {
        self.after.as_ref().or(self.before.as_ref())
    }

    /// Whether it is something that another statement makes: a table of a virtual table, or one of SQLite's own.
    pub fn comes_by_itself(&self, all: &[SchemaChange]) -> bool {
        self.either().is_some_and(|row| row.name.starts_with("sqlite_")) || self.owner(all).is_some()
    }

    /// The virtual table that keeps what it has in this table, where it came or went with it.
    pub fn owner<'a>(&self, all: &'a [SchemaChange]) -> Option<&'a SchemaChange> {
        let own = self.either().filter(|row| row.kind == "table" && row.root.is_some())?;
        all.iter().find(|owner| {
            let is_of_the_same_time = owner.before.is_some() == self.before.is_some();
            is_of_the_same_time && owner.either().is_some_and(|owner| is_shadow(&own.name, owner))
        })
    }

    /// The table that it belongs to.
    pub fn of_table(&self) -> &str {
        self.either().map_or("", |row| &row.table)
    }

    /// The names of the table that it belongs to, before and after.
    fn tables(&self) -> impl Iterator<Item = &str> {
        [&self.before, &self.after].into_iter().flatten().map(|row| row.table.as_str())
    }
}

/// Whether a virtual table keeps what it has in the table of this name.
pub(crate) fn is_shadow(name: &str, owner: &SchemaRow) -> bool {
    let rest = name.strip_prefix(&owner.name).and_then(|rest| rest.strip_prefix('_'));
    let module = litekeep_sql::module(&owner.sql).filter(|_| owner.kind == "table" && owner.root.is_none());
    rest.zip(module).is_some_and(|(rest, module)| shadows(&module).contains(&rest))
}

/// The tables of a module of SQLite's own, by what follows the name of the virtual table and `_`.
fn shadows(module: &str) -> &'static [&'static str] {
    match module {
        "fts5" => &["data", "idx", "content", "docsize", "config"],
        "fts3" | "fts4" => &["content", "segments", "segdir", "docsize", "stat"],
        "rtree" | "rtree_i32" | "geopoly" => &["node", "rowid", "parent"],
        _ => &[],
    }
}

/// Passes on what is wanted.
struct Selected<'a, R> {
    wanted: &'a Selection,
    /// A table that neither state has is an error.
    is_strict: bool,
    layouts: &'a TableReader,
    filters: &'a mut Filters,
    /// Of the table that comes: which rows are there at all, and which of them are wanted, if any.
    only: Option<usize>,
    filter: Option<usize>,
    has_none: bool,
    /// For each column of the table as it is, the one that it was.
    from: Vec<Option<usize>>,
    reader: &'a mut R,
}

impl<'a, R: Reader> Selected<'a, R> {
    fn of(
        wanted: &'a Selection,
        (layouts, filters): (&'a TableReader, &'a mut Filters),
        reader: &'a mut R,
    ) -> Selected<'a, R> {
        let (is_strict, only, filter, has_none) = (false, None, None, false);
        Selected { wanted, is_strict, layouts, filters, only, filter, has_none, from: vec![], reader }
    }

    fn differences(
        mut self,
        states: (&View<'_>, &ParentMap, &Catalog),
        new: &View<'_>,
        written: Written<'_>,
    ) -> Result<Catalog, Error> {
        let layouts = self.layouts;
        diff::diff(states, new, written, Options::default(), layouts, &mut self)
    }

    fn has(&self, pair: Pair<'_>) -> bool {
        !self.wanted.without_rows
            && [pair.old, pair.new].into_iter().flatten().any(|table| self.wanted.has_table(&table.name))
    }

    /// Also under the other name of a table that was renamed, and the virtual table that a table belongs to.
    fn concerns(&self, change: &SchemaChange, all: &[SchemaChange]) -> bool {
        let is_wanted = |name: &str| self.wanted.has_table(name);
        let is_other_name = |name: &str| {
            let mut names = all.iter().filter_map(|gone| Some((gone.of_table(), gone.new_name.as_deref()?)));
            names.any(|(old, new)| (old == name && is_wanted(new)) || (new == name && is_wanted(old)))
        };
        let owns_wanted = || {
            let mut wanted = all.iter().filter(|other| is_wanted(other.of_table()));
            wanted.any(|other| other.owner(all).is_some_and(|owner| owner == change))
        };
        change.tables().any(|name| is_wanted(name) || is_other_name(name)) || owns_wanted()
    }

    /// The condition speaks of the columns that the table has now, or had when it is gone.
    fn fulfils(&self, pair: Pair<'_>, change: &Change<'_>) -> Result<bool, Error> {
        let Some(filter) = self.filter.map(|nth| self.filters.get(nth)) else { return Ok(true) };
        let (old, new) = change.sides();
        if let Some(old) = old
            && filter.matches(old.rowid, &self.as_it_is_now(pair, old.values()?))?
        {
            return Ok(true);
        }
        new.map_or(Ok(false), |new| Ok(filter.matches(new.rowid, &new.values()?)?))
    }

    /// The values of a row as it was, in the columns that the table has now.
    fn as_it_is_now(&self, pair: Pair<'_>, values: Vec<Value>) -> Vec<Value> {
        let Some(new) = pair.new else { return values };
        let added = new.default_values();
        let value = |(nth, from): (usize, &Option<usize>)| {
            from.map_or_else(|| added[nth].clone(), |nth| values[nth].clone())
        };
        self.from.iter().enumerate().map(value).collect()
    }

    /// Passes a change of a wanted table on.
    fn pass(&mut self, pair: Pair<'_>, change: Change<'_>) -> Result<(), Error> {
        let Some(change) = self.seen(pair, change)? else { return Ok(()) };
        if self.fulfils(pair, &change)? {
            self.reader.change(pair, &change)
        } else {
            self.reader.other(pair, &change)
        }
    }

    /// A row of `sqlite_sequence` as it was: the counter of a table.
    fn counter(&mut self, was: &RowRef<'_>) -> Result<(), Error> {
        if let [Value::Text(name), Value::Integer(number), ..] = &was.values()?[..]
            && let Ok(name) = str::from_utf8(name)
            && self.wanted.has_table(name)
        {
            self.reader.counter(name, *number)?;
        }
        Ok(())
    }

    /// What a change is for who sees only some of the rows; `None`: nothing.
    fn seen<'r>(&self, pair: Pair<'_>, change: Change<'r>) -> Result<Option<Change<'r>>, Error> {
        let Some(only) = self.only.map(|nth| self.filters.get(nth)) else { return Ok(Some(change)) };
        let is_old = |old: &RowRef<'_>| -> Result<bool, Error> {
            Ok(only.matches(old.rowid, &self.as_it_is_now(pair, old.values()?))?)
        };
        let is_new =
            |new: &RowRef<'_>| -> Result<bool, Error> { Ok(only.matches(new.rowid, &new.values()?)?) };
        Ok(match change {
            Change::Inserted(new) => is_new(&new)?.then_some(Change::Inserted(new)),
            Change::Deleted(old) => is_old(&old)?.then_some(Change::Deleted(old)),
            Change::Updated(old, new) => match (is_old(&old)?, is_new(&new)?) {
                (true, true) => Some(Change::Updated(old, new)),
                (true, false) => Some(Change::Deleted(old)),
                (false, true) => Some(Change::Inserted(new)),
                (false, false) => None,
            },
        })
    }
}

impl<R: Reader> Sink<Error> for Selected<'_, R> {
    fn begin(
        &mut self,
        before: &Catalog,
        after: &Catalog,
        renamed: &[(String, String)],
    ) -> Result<(), Error> {
        if self.is_strict {
            self.wanted.check(before, after)?;
        }
        // A condition that is none is told before anything else.
        let wanted = self.wanted;
        let tables = wanted.tables.iter().filter_map(|name| after.table(name).or(before.table(name)));
        for table in tables {
            if let Some(Some(condition)) = wanted.condition_on(table) {
                self.filters.begun(condition, table, self.layouts)?;
            }
        }
        self.reader.states(before, after);
        let changes = schema_changes(before, after, renamed);
        let changes = changes.iter().filter(|change| self.concerns(change, &changes)).cloned();
        self.reader.schema(&changes.collect::<Vec<_>>())
    }

    fn table(&mut self, pair: Pair<'_>, from: &[Option<usize>]) -> Result<(), Error> {
        self.from = from.to_vec();
        if !self.has(pair) {
            return Ok(());
        }
        let table = pair.either();
        self.filters.make_room();
        self.only = match self.wanted.only(table) {
            Some(condition) => Some(self.filters.begun_of_values(condition, table)?),
            None => None,
        };
        let condition = self.wanted.condition_on(table);
        self.has_none = condition.is_none();
        self.filter = match condition.flatten() {
            Some(condition) => Some(self.filters.begun(condition, table, self.layouts)?),
            None => None,
        };
        self.reader.table(pair, from)
    }

    fn change(&mut self, pair: Pair<'_>, change: Change<'_>) -> Result<(), Error> {
        if pair.either().name == "sqlite_sequence"
            && let Change::Updated(was, _) | Change::Deleted(was) = &change
        {
            self.counter(was)?;
        }
        if !self.has(pair) || self.has_none {
            return Ok(());
        }
        match change {
            Change::Updated(old, new) if self.reader.takes_apart() && pair.has_hidden_rowid() => {
                self.pass(pair, Change::Deleted(old))?;
                self.pass(pair, Change::Inserted(new))
            }
            change => self.pass(pair, change),
        }
    }
}

/// What differs but for where the trees begin. Indexes that SQLite makes for a table are part of the table.
fn schema_changes(before: &Catalog, after: &Catalog, renamed: &[(String, String)]) -> Vec<SchemaChange> {
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
            changes.push(SchemaChange { before: Some(row), after: now, new_name: None });
        }
    }
    let new = |row| SchemaChange { before: None, after: Some(row), new_name: None };
    changes.extend(after.into_values().map(new));
    name_anew(&mut changes, renamed);
    changes
}

/// Tells tables that were renamed from those that are gone. A virtual one has other names where its tables have.
fn name_anew(changes: &mut [SchemaChange], renamed: &[(String, String)]) {
    let is_table = |row: &&SchemaRow| row.kind == "table";
    let gone = |change: &SchemaChange| change.before.clone().filter(|_| change.after.is_none());
    let new_tables: Vec<SchemaRow> = changes
        .iter()
        .filter(|change| change.before.is_none())
        .filter_map(|change| change.after.as_ref().filter(is_table).cloned())
        .collect();
    for change in changes {
        let Some(row) = gone(change).filter(|row| is_table(&row)) else { continue };
        let mut names = renamed.iter();
        change.new_name = match row.root {
            Some(_) => names.find(|(old, _)| *old == row.name).map(|(_, new)| new.clone()),
            None => names.find_map(|(old, new)| {
                let rest = old.strip_prefix(&row.name).filter(|_| is_shadow(old, &row))?;
                let owner = new.strip_suffix(rest)?;
                let is_there = |row: &SchemaRow| row.name == owner && is_shadow(new, row);
                new_tables.iter().any(is_there).then(|| owner.to_owned())
            }),
        };
    }
}
