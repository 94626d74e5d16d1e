//! Whether rows that were written refer to what is there, and whether what is gone was referred to.

use super::{Item, Named, Run, TableChanges, WrittenRow};
use crate::{Error, Value};
use litekeep_sql::Reference;
use std::collections::BTreeMap;

impl Run<'_> {
    /// Whether the rows that were written, each looked at alone, tell that none refers to a missing one that did not before.
    pub(super) fn refer_to_what_is_there(&self) -> Result<bool, Error> {
        let mut references: BTreeMap<&str, Vec<Reference>> = BTreeMap::new();
        for WrittenRow { table, .. } in &self.written {
            if !references.contains_key(table.name.as_str()) {
                references.insert(&table.name, self.editor.references(&table.name)?);
            }
        }
        for row in &self.written {
            for reference in &references[row.table.name.as_str()] {
                if !self.is_kept(reference, row)? {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Whether it is certain that this row breaks nothing.
    fn is_kept(&self, reference: &Reference, row: &WrittenRow<'_>) -> Result<bool, Error> {
        if reference.parent_columns.is_empty() {
            return Ok(false);
        }
        let WrittenRow { table, item, .. } = *row;
        let is_child = reference.child.eq_ignore_ascii_case(&table.name);
        if is_child && !item.is_inserted() && table.changes(item, &reference.columns) {
            let key = row.key_afterwards();
            if self.editor.dangles(reference, &super::borrowed(&key))? != Some(false) {
                return Ok(false);
            }
        }
        let is_parent = reference.parent.eq_ignore_ascii_case(&table.name);
        let changes = is_parent && table.changes(item, &reference.parent_columns);
        if let Some(gone) = table.is(item).filter(|_| changes) {
            let [column] = &reference.parent_columns[..] else { return Ok(false) };
            let Some(value) = value(&gone, column) else { return Ok(false) };
            return Ok(self.editor.is_referred_to(reference, value)? == Some(false));
        }
        Ok(true)
    }
}

impl TableChanges {
    /// Whether taking a row back writes other values into some of these columns, or may do so.
    fn changes(&self, item: &Item, columns: &[String]) -> bool {
        let (Some(old), Some(new)) = (self.was(item), self.is(item)) else { return true };
        columns.iter().any(|name| {
            let (old, new) = (value(&old, name), value(&new, name));
            old.is_none() || old != new
        })
    }
}

impl<'a> WrittenRow<'a> {
    /// What tells the row when it is as it was.
    fn key_afterwards(&self) -> Named<'a> {
        let old = self.table.was(self.item).unwrap_or_default();
        let now = self.table.key(self.item).into_iter().map(|(name, now)| match self.rowid {
            Some(rowid) => (name, Value::Integer(rowid)),
            None => (name, value(&old, name).cloned().unwrap_or(now)),
        });
        now.collect()
    }
}

fn value<'v>(values: &'v Named<'_>, column: &str) -> Option<&'v Value> {
    values.iter().find(|(name, _)| name.eq_ignore_ascii_case(column)).map(|(_, value)| value)
}
