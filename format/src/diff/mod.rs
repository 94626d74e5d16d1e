//! From pages to rows: what was inserted, updated and deleted between two states of a database, given the pages that were
//! written in between. Needs neither triggers nor the application's help, and time that follows the change and not the
//! database.
//!
//! Invariants:
//! - [`ParentMap`] is true for every page that is live in a table of the old state; so all tables that differ are found
//!   from the pages that were written.
//! - Real child pointers are followed from the roots, never those of the map: what it says of dead pages does no harm.
//! - Rows are compared by their values: records that are stored in another way are the same row.
//!
//! Tables are paired by name, else by the root of their tree: then one was renamed ([`pairing`]). Where it is not certain that a table
//! or a column only has another name, where columns cannot be told apart, and where a table became one WITHOUT ROWID or back, all
//! old rows are deleted and all new ones inserted. Virtual generated columns are not stored, and virtual tables have no rows but
//! those of their shadow tables.
//!
//! VACUUM numbers the rows of a table anew that has no INTEGER PRIMARY KEY: these rows then count as changed.

mod columns;
mod pairing;
mod parents;
mod plan;
mod rows;

pub use parents::{ParentMap, Written};

use crate::btree::{PageSource, Tree};
use crate::table::{Catalog, ReadLayout, RowRef, SchemaRow, Table, TableLayout, header_of, schema_row};
use columns::{Matching, matching};
use litekeep_ltx::Pgno;
use pairing::{Pairs, renamed};
use parents::PageSet;
use plan::{Plan, Scope, plan};
use rows::{Comparison, compare_rows};
use std::collections::HashSet;

/// A table in the old and in the new state; at least one of them is there.
#[derive(Clone, Copy, Debug)]
pub struct Pair<'a> {
    /// `None`: it was created.
    pub old: Option<&'a Table>,
    /// `None`: it was dropped.
    pub new: Option<&'a Table>,
}

impl<'a> Pair<'a> {
    /// The table as it is now, or as it was.
    pub fn either(&self) -> &'a Table {
        self.new.or(self.old).expect("a pair has a table")
    }

    /// Whether rows are found by a rowid that no column has: SQLite gives it to other rows when it likes.
    pub fn has_hidden_rowid(&self) -> bool {
        let layout = &self.either().layout;
        !layout.is_without_rowid() && layout.rowid_alias.is_none()
    }
}

/// How one row differs.
#[derive(Clone, Copy, Debug)]
pub enum Change<'a> {
    /// The row is new.
    Inserted(RowRef<'a>),
    /// The row as it was and as it is. Its rowid, or its key, is the same.
    Updated(RowRef<'a>, RowRef<'a>),
    /// The row is gone.
    Deleted(RowRef<'a>),
}

impl<'a> Change<'a> {
    /// The row as it was, and as it is.
    pub fn sides(self) -> (Option<RowRef<'a>>, Option<RowRef<'a>>) {
        match self {
            Change::Inserted(new) => (None, Some(new)),
            Change::Deleted(old) => (Some(old), None),
            Change::Updated(old, new) => (Some(old), Some(new)),
        }
    }
}

/// Who takes the changes.
pub trait Sink<E> {
    /// The tables before and after, and of those that were renamed both names; rows follow.
    ///
    /// # Errors
    /// Whatever shall end the diff.
    fn begin(&mut self, before: &Catalog, after: &Catalog, renamed: &[(String, String)]) -> Result<(), E>;

    /// Changes of this pair follow, perhaps none. `from`: for each column of the new table, the one of the old table that it is.
    ///
    /// # Errors
    /// Whatever shall end the diff.
    fn table(&mut self, pair: Pair<'_>, from: &[Option<usize>]) -> Result<(), E>;

    /// A row of the pair.
    ///
    /// # Errors
    /// Whatever shall end the diff.
    fn change(&mut self, pair: Pair<'_>, change: Change<'_>) -> Result<(), E>;
}

/// How to compare.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Go over all rows of all tables, whatever was written.
    pub everything: bool,
}

/// The tables of a state.
///
/// # Errors
/// Those of the source and of the layouts, and [`Error::Page`](crate::Error::Page) for damaged pages.
pub fn catalog<S: PageSource>(source: &S, layouts: &dyn ReadLayout<S::Error>) -> Result<Catalog, S::Error> {
    let Some(header) = header_of(source)? else { return Ok(Catalog::empty()) };
    Catalog::empty().changed(&header, schema(source, &header)?, layouts)
}

/// Where the trees of a state's tables begin, that of the schema included.
///
/// # Errors
/// As [`catalog`].
pub fn roots<S: PageSource>(source: &S) -> Result<Vec<Pgno>, S::Error> {
    let Some(header) = header_of(source)? else { return Ok(vec![]) };
    let tables = schema(source, &header)?.into_iter().filter_map(|(_, row)| row);
    let roots = tables.filter(|row| row.kind == "table").filter_map(|row| row.root);
    Ok(std::iter::once(Pgno::FIRST).chain(roots).collect())
}

/// The names of a state's tables, those of SQLite itself left out.
///
/// # Errors
/// As [`catalog`].
pub fn table_names<S: PageSource>(source: &S) -> Result<Vec<String>, S::Error> {
    let Some(header) = header_of(source)? else { return Ok(vec![]) };
    let tables = schema(source, &header)?.into_iter().filter_map(|(_, row)| row);
    let names = tables.filter(|row| row.kind == "table").map(|row| row.name);
    Ok(names.filter(|name| !name.starts_with("sqlite_")).collect())
}

/// All rows of the schema.
fn schema<S: PageSource>(
    source: &S,
    header: &crate::DatabaseHeader,
) -> Result<Vec<(i64, Option<SchemaRow>)>, S::Error> {
    let table = Table::schema(header.text_encoding);
    let scope_pages = PageSet::default();
    let tree = Tree { source, usable: header.usable() };
    let scope = Scope { old: tree, new: tree, written: &scope_pages, touched: &scope_pages };
    let (_, new) = plan(&scope, None, Some(Pgno::FIRST), true)?.expect("a whole plan");
    let pair = Pair { old: None, new: Some(&table) };
    schema_changes(&scope, &(Plan::default(), new), pair, &Matching::none(&table.layout))
}

/// Tells the sink what happened between two states, and returns the tables of the new one.
///
/// `parents` and `tables` are of the old state.
///
/// # Errors
/// Those of the source, the layouts and the sink, and [`Error::Page`](crate::Error::Page) for damaged pages.
pub fn diff<S, K>(
    (old, parents, tables): (&S, &ParentMap, &Catalog),
    new: &S,
    written: Written<'_>,
    options: Options,
    layouts: &dyn ReadLayout<S::Error>,
    sink: &mut K,
) -> Result<Catalog, S::Error>
where
    S: PageSource,
    K: Sink<S::Error>,
{
    let (before, after) = (header_of(old)?, header_of(new)?);
    let Some(header) = after.as_ref().or(before.as_ref()) else { return Ok(Catalog::empty()) };
    let touched = parents.touched(written.pages);
    let pages: PageSet = written.pages.iter().copied().collect();
    let usable = |of: &Option<_>| of.as_ref().map_or(header.usable(), crate::DatabaseHeader::usable);
    let scope = Scope {
        old: Tree { source: old, usable: usable(&before) },
        new: Tree { source: new, usable: usable(&after) },
        written: &pages,
        touched: &touched,
    };
    let differ = Differ { scope, options, chains_last: !written.only_different };
    let renewed = match (&before, &after) {
        (_, None) => Some(Catalog::empty()),
        (None, Some(_)) => Some(catalog(new, layouts)?),
        (Some(_), Some(after)) => differ.schema(tables, after, layouts)?,
    };
    match renewed {
        None => {
            sink.begin(tables, tables, &[])?;
            differ.same_tables(tables, sink)?;
            Ok(tables.clone())
        }
        Some(now) => {
            let pairs = differ.pairs(tables, &now)?;
            sink.begin(tables, &now, &renamed(tables, &now, &pairs))?;
            differ.other_tables((tables, &now), &pairs, sink)?;
            Ok(now)
        }
    }
}

struct Differ<'a, S> {
    scope: Scope<'a, S>,
    options: Options,
    chains_last: bool,
}

impl<S: PageSource> Differ<'_, S> {
    /// The tables of the new state; `None`: as before.
    fn schema(
        &self,
        tables: &Catalog,
        header: &crate::DatabaseHeader,
        layouts: &dyn ReadLayout<S::Error>,
    ) -> Result<Option<Catalog>, S::Error> {
        let table = Table::schema(header.text_encoding);
        let pair = Pair { old: Some(&table), new: Some(&table) };
        let root = Some(Pgno::FIRST);
        let planned = plan(&self.scope, root, root, self.options.everything)?;
        let Some(plans) = planned else { return Ok(None) };
        let rows = schema_changes(&self.scope, &plans, pair, &Matching::same(&table.layout))?;
        let is_same = rows.is_empty()
            && (tables.encoding(), tables.schema_format()) == (header.text_encoding, header.schema_format);
        if is_same { Ok(None) } else { tables.changed(header, rows, layouts).map(Some) }
    }

    fn same_tables<K: Sink<S::Error>>(&self, tables: &Catalog, sink: &mut K) -> Result<(), S::Error> {
        let all = tables.tables();
        let touched = self.scope.touched;
        let mut which: Vec<usize> = if self.options.everything {
            (0..all.len()).collect()
        } else if touched.len() < all.len() {
            touched.iter().filter_map(|pgno| tables.at_root(pgno)).collect()
        } else {
            (0..all.len()).filter(|nth| touched.contains(all[*nth].root)).collect()
        };
        which.sort_unstable();
        for nth in which {
            let table = &*all[nth];
            let pair = Pair { old: Some(table), new: Some(table) };
            self.pair(pair, &Matching::same(&table.layout), sink)?;
        }
        Ok(())
    }

    fn other_tables<K: Sink<S::Error>>(
        &self,
        (before, now): (&Catalog, &Catalog),
        pairs: &Pairs,
        sink: &mut K,
    ) -> Result<(), S::Error> {
        let drop = |table: &Table, sink: &mut K| {
            self.pair(Pair { old: Some(table), new: None }, &Matching::default(), sink)
        };
        let is_paired = |nth: usize| pairs.iter().flatten().any(|(old, _)| *old == nth);
        let old_tables = before.tables().iter().enumerate().filter(|(nth, _)| !is_paired(*nth));
        let dropped: Vec<&Table> = old_tables.map(|(_, table)| &**table).collect();
        let names: HashSet<&str> = now.tables().iter().map(|table| table.name.as_str()).collect();
        for table in dropped.iter().filter(|table| !names.contains(table.name.as_str())) {
            drop(table, sink)?;
        }
        for (table, found) in now.tables().iter().zip(pairs) {
            if let Some((old, matching)) = found {
                let pair = Pair { old: Some(&before.tables()[*old]), new: Some(table) };
                self.pair(pair, matching, sink)?;
                continue;
            }
            // What goes and what comes under one name, together.
            if let Some(table) = dropped.iter().find(|dropped| dropped.name == table.name) {
                drop(table, sink)?;
            }
            self.pair(Pair { old: None, new: Some(table) }, &Matching::none(&table.layout), sink)?;
        }
        Ok(())
    }

    fn pair<K: Sink<S::Error>>(
        &self,
        pair: Pair<'_>,
        matching: &Matching,
        sink: &mut K,
    ) -> Result<(), S::Error> {
        let (old, new) = (pair.old.map(|table| table.root), pair.new.map(|table| table.root));
        let whole = self.options.everything || matching.may_mean_other;
        let planned = plan(&self.scope, old, new, whole)?;
        let has_other_statement = match (pair.old, pair.new) {
            (Some(old), Some(new)) => (&old.name, &old.sql) != (&new.name, &new.sql),
            _ => true,
        };
        if planned.is_some() || has_other_statement {
            sink.table(pair, &matching.from)?;
        }
        let Some(plans) = planned else { return Ok(()) };
        let comparison = Comparison {
            pair,
            matching,
            bytes_decide: !matching.may_mean_other && keeps_bytes(pair, matching),
            chains_last: self.chains_last,
            tells_all: false,
        };
        compare_rows(&self.scope, &plans, &comparison, sink)
    }
}

/// Whether equal records are equal rows: every old column stands where it stood.
fn keeps_bytes(pair: Pair<'_>, matching: &Matching) -> bool {
    let (Some(old), Some(_)) = (pair.old, pair.new) else { return false };
    let from = &matching.from;
    let stays = from.iter().enumerate().all(|(nth, from)| from.is_none_or(|from| from == nth));
    stays && from.iter().flatten().count() == old.layout.columns.len()
}

/// Columns of a table that have other names: the one that each had, and the one that it has.
pub fn renamed_columns(old: &TableLayout, new: &TableLayout) -> Vec<(String, String)> {
    let from = matching(old, new).map_or(vec![], |matching| matching.from);
    let names = from.iter().zip(&new.columns).filter_map(|(from, new)| {
        let old = &old.columns[(*from)?];
        (old.name != new.name).then(|| (old.name.clone(), new.name.clone()))
    });
    names.collect()
}

/// The rows of the schema that are new, different or gone.
fn schema_changes<S: PageSource>(
    scope: &Scope<'_, S>,
    plans: &(Plan, Plan),
    pair: Pair<'_>,
    matching: &Matching,
) -> Result<Vec<(i64, Option<SchemaRow>)>, S::Error> {
    struct Rows(Vec<(i64, Option<SchemaRow>)>);
    impl<E: From<crate::Error>> Sink<E> for Rows {
        fn begin(&mut self, _: &Catalog, _: &Catalog, _: &[(String, String)]) -> Result<(), E> {
            Ok(())
        }
        fn table(&mut self, _: Pair<'_>, _: &[Option<usize>]) -> Result<(), E> {
            Ok(())
        }
        fn change(&mut self, _: Pair<'_>, change: Change<'_>) -> Result<(), E> {
            self.0.push(match change {
                Change::Inserted(new) | Change::Updated(_, new) => (new.rowid, Some(schema_row(&new)?)),
                Change::Deleted(old) => (old.rowid, None),
            });
            Ok(())
        }
    }
    let mut rows = Rows(vec![]);
    let comparison = Comparison { pair, matching, bytes_decide: true, chains_last: false, tells_all: false };
    compare_rows(scope, plans, &comparison, &mut rows)?;
    Ok(rows.0)
}
