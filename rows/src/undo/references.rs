//! Whether rows that were written refer to what is there, and whether what is gone was referred to.

use super::{Item, Named, Run, TableChanges};
use crate::{Error, Value};
use litekeep_sql::Reference;
use std::collections::BTreeMap;

impl Run<'_> {
    /// Whether the rows that were written, each looked at alone, tell that none refers to a missing one that did not before.
    pub(super) fn refer_to_what_is_there(&self) -> Result<bool, Error> {
        let mut references: BTreeMap<&str, Vec<Reference>> = BTreeMap::new();
        for (table, _) in &self.written {
            if !references.contains_key(table.name.as_str()) {
                references.insert(&table.name, self.editor.references(&table.name)?);
            }
        }
        for (table, item) in &self.written {
            for reference in &references[table.name.as_str()] {
                if !self.is_kept(reference, table, item)? {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Whether it is certain that this row breaks nothing.
    fn is_kept(&self, reference: &Reference, table: &TableChanges, item: &Item) -> Result<bool, Error> {
        if reference.parent_columns.is_empty() {
            return Ok(false);
        }
        let is_child = reference.child.eq_ignore_ascii_case(&table.name);
        if is_child && item.old.is_some() && item.changes(&reference.columns) {
            let key = item.key_afterwards();
            if self.editor.dangles(reference, &super::borrowed(&key))? != Some(false) {
                return Ok(false);
            }
        }
        let is_parent = reference.parent.eq_ignore_ascii_case(&table.name);
        if let Some(gone) = item.new.as_ref().filter(|_| is_parent && item.changes(&reference.parent_columns))
        {
            let [column] = &reference.parent_columns[..] else { return Ok(false) };
            let Some(value) = value(gone, column) else { return Ok(false) };
            return Ok(self.editor.is_referred_to(reference, value)? == Some(false));
        }
        Ok(true)
    }
}

impl Item {
    /// Whether taking it back writes other values into some of these columns, or may do so.
    fn changes(&self, columns: &[String]) -> bool {
        let (Some(old), Some(new)) = (&self.old, &self.new) else { return true };
        columns.iter().any(|name| {
            let (old, new) = (value(old, name), value(new, name));
            old.is_none() || old != new
        })
    }

    /// What tells the row when it is as it was.
    fn key_afterwards(&self) -> Named {
        let was = |name: &String| self.old.as_ref().and_then(|old| value(old, name)).cloned();
        self.key.iter().map(|(name, now)| (name.clone(), was(name).unwrap_or_else(|| now.clone()))).collect()
    }
}

fn value<'a>(values: &'a Named, column: &str) -> Option<&'a Value> {
    values.iter().find(|(name, _)| name.eq_ignore_ascii_case(column)).map(|(_, value)| value)
}
