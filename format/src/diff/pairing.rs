//! Which table of the new state is which one of the old.
//!
//! By its name, else by the root of its tree: then one was renamed. The schema alone does not tell that: SQLite gives the root of a
//! table that was dropped to the next one that is made, and a column that was dropped and one that was added in its place look like one
//! column with another name. A table that goes on has pages with rows that nobody wrote, or rows that are as they were; a column that
//! goes on has values that it had. CREATE TABLE writes the root, DROP COLUMN all rows that have the column, and ALTER TABLE RENAME no
//! row at all. What shows no such trace is another table.

use super::columns::{Matching, matching};
use super::parents::PageSet;
use super::plan::plan;
use super::rows::{Comparison, compare_rows};
use super::{Change, Differ, Pair, Sink};
use crate::btree::PageSource;
use crate::record::field_count;
use crate::table::{Catalog, Table};
use std::collections::HashMap;
use std::sync::Arc;

/// Unwritten leaves in which values of columns are looked for: rows that are older than a column have none.
const LEAVES: usize = 16;

/// For each new table, the old one that it is.
pub(super) type Pairs = Vec<Option<(usize, Matching)>>;

/// Tables that have other names: the one that each had, and the one that it has.
pub(super) fn renamed(before: &Catalog, now: &Catalog, pairs: &Pairs) -> Vec<(String, String)> {
    let names = |(table, found): (&Arc<Table>, &Option<(usize, Matching)>)| {
        let old = &before.tables()[found.as_ref()?.0].name;
        (*old != table.name).then(|| (old.clone(), table.name.clone()))
    };
    now.tables().iter().zip(pairs).filter_map(names).collect()
}

impl<S: PageSource> Differ<'_, S> {
    pub(super) fn pairs(&self, before: &Catalog, now: &Catalog) -> Result<Pairs, S::Error> {
        let old = before.tables();
        let mut is_taken = vec![false; old.len()];
        let mut found: Pairs = vec![None; now.tables().len()];
        let by_name = |tables: &[Arc<Table>]| -> HashMap<String, usize> {
            tables.iter().enumerate().map(|(nth, table)| (table.name.clone(), nth)).collect()
        };
        let (old_names, new_names) = (by_name(old), by_name(now.tables()));
        for (table, found) in now.tables().iter().zip(&mut found) {
            if let Some(&nth) = old_names.get(&table.name)
                && let Some(matching) = matching(&old[nth].layout, &table.layout)
                && self.goes_on((&old[nth], table), &matching)?
            {
                is_taken[nth] = true;
                *found = Some((nth, matching));
            }
        }
        for (table, found) in now.tables().iter().zip(&mut found) {
            if !old_names.contains_key(&table.name)
                && let Some(nth) = before.at_root(table.root)
                && !is_taken[nth]
                && !new_names.contains_key(&old[nth].name)
                && is_written_as_renamed(table)
                && before.schema_rowid(&old[nth].name) == now.schema_rowid(&table.name)
                && let Some(matching) = matching(&old[nth].layout, &table.layout)
                && self.goes_on((&old[nth], table), &matching)?
            {
                is_taken[nth] = true;
                *found = Some((nth, matching));
            }
        }
        Ok(found)
    }

    /// Whether a table whose name or columns are others now is the same table.
    fn goes_on(&self, (old, new): (&Table, &Table), matching: &Matching) -> Result<bool, S::Error> {
        let has_other_name = old.name != new.name;
        if !has_other_name && matching.renamed.is_empty() || self.keeps_a_page(new, matching)? {
            return Ok(true);
        }
        // Rows that nobody wrote are as they were, unless the same bytes may be another row. So they can only show that the table goes
        // on, and are read where those that were written do not.
        let is_enough = !matching.may_mean_other && self.rows_go_on((old, new), matching, false)?;
        Ok(is_enough || self.rows_go_on((old, new), matching, true)?)
    }

    /// Whether nothing in the rows says that a table, or a column with another name, is another one.
    fn rows_go_on(
        &self,
        (old, new): (&Table, &Table),
        matching: &Matching,
        whole: bool,
    ) -> Result<bool, S::Error> {
        let Some(plans) = plan(&self.scope, Some(old.root), Some(new.root), whole)? else {
            return Ok(true);
        };
        let pair = Pair { old: Some(old), new: Some(new) };
        let comparison =
            Comparison { pair, matching, bytes_decide: false, chains_last: false, tells_all: true };
        let mut overlap = Overlap {
            matching,
            defaults: new.default_values(),
            has_old: false,
            has_same: false,
            had: vec![false; matching.renamed.len()],
            kept: vec![false; matching.renamed.len()],
        };
        compare_rows(&self.scope, &plans, &comparison, &mut overlap)?;
        let is_same_table = old.name == new.name || overlap.has_same || !overlap.has_old;
        let mut columns = overlap.kept.iter().zip(&overlap.had);
        Ok(is_same_table && columns.all(|(kept, had)| *kept || !had))
    }

    /// Whether a table has a page that was not written, with rows that have the columns whose names are others.
    fn keeps_a_page(&self, table: &Table, matching: &Matching) -> Result<bool, S::Error> {
        let fields = matching.renamed.iter().map(|nth| table.layout.field_of[*nth] + 1).max().unwrap_or(0);
        let (mut seen, mut leaves) = (PageSet::default(), LEAVES);
        // The newest rows first.
        let mut left = vec![table.root];
        while let Some(pgno) = left.pop() {
            if fields == 0 && !self.scope.touched.contains(pgno) {
                return Ok(true);
            }
            if !seen.insert(pgno) {
                continue;
            }
            let page = self.scope.new.page(pgno)?;
            if page.has_payload() && !self.scope.written.contains(pgno) {
                for nth in 0..page.cells() {
                    if field_count(page.cell(nth)?.local()) >= fields {
                        return Ok(true);
                    }
                }
                leaves -= 1;
                if leaves == 0 {
                    return Ok(false);
                }
            }
            for nth in 0..page.children() {
                left.push(page.child(nth)?);
            }
        }
        Ok(false)
    }
}

/// Whether the statement of a table has its name as ALTER TABLE RENAME writes it.
fn is_written_as_renamed(table: &Table) -> bool {
    table.sql.starts_with(&format!("CREATE TABLE \"{}\"", table.name.replace('"', "\"\"")))
}

/// What rows of both states have in common.
struct Overlap<'a> {
    matching: &'a Matching,
    defaults: Vec<crate::Value>,
    has_old: bool,
    /// A row is as it was.
    has_same: bool,
    /// For each column with another name: whether it had values other than those of a column that has just been added, and whether a row
    /// has kept one of them.
    had: Vec<bool>,
    kept: Vec<bool>,
}

impl<E: From<crate::Error>> Sink<E> for Overlap<'_> {
    fn begin(&mut self, _: &Catalog, _: &Catalog, _: &[(String, String)]) -> Result<(), E> {
        Ok(())
    }

    fn table(&mut self, _: Pair<'_>, _: &[Option<usize>]) -> Result<(), E> {
        Ok(())
    }

    fn change(&mut self, _: Pair<'_>, change: Change<'_>) -> Result<(), E> {
        let (old, new) = change.sides();
        self.has_old |= old.is_some();
        let Some(old) = old.map(|row| row.values()).transpose()? else { return Ok(()) };
        let new = new.map(|row| row.values()).transpose()?;
        let from = &self.matching.from;
        let is_kept = |nth: usize| {
            let kept = from[nth].zip(new.as_ref()).map(|(from, new)| (&old[from], &new[nth]));
            kept.is_some_and(|(old, new)| old == new)
        };
        for (place, &nth) in self.matching.renamed.iter().enumerate() {
            let value = from[nth].map(|from| &old[from]);
            let is_own =
                value.is_some_and(|value| *value != crate::Value::Null && *value != self.defaults[nth]);
            self.had[place] |= is_own;
            self.kept[place] |= is_own && is_kept(nth);
        }
        self.has_same |= (0..from.len()).all(|nth| from[nth].is_none() || is_kept(nth));
        Ok(())
    }
}
