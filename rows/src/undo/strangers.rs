//! Rows that must not come back, since what they referred to does not: another row has its key now.

use super::{Fate, Item, Named, Run, Step, TableChanges};
use crate::{Error, statements};
use litekeep_sql::Reference;
use std::collections::HashSet;

/// Items by where they are.
pub(super) type Items = HashSet<*const Item>;

impl Run<'_> {
    /// The items whose taking back would make rows refer to a stranger, or to what does not come back because of that. To be asked
    /// when what was inserted is gone.
    pub(super) fn would_meet_strangers(&self, tables: &[&TableChanges]) -> Result<Items, Error> {
        let mut foreign_keys = vec![];
        for child in tables.iter().filter(|child| child.fate != Fate::Created) {
            let keys = self.editor.references(&child.name)?;
            for key in keys.into_iter().filter(|key| key.child.eq_ignore_ascii_case(&child.name)) {
                let is_parent = |table: &&&TableChanges| table.name.eq_ignore_ascii_case(&key.parent);
                if let Some(parent) = tables.iter().find(is_parent) {
                    foreign_keys.push((*child, *parent, key));
                }
            }
        }
        let mut gone = Items::new();
        let parents: HashSet<*const TableChanges> =
            foreign_keys.iter().map(|(_, parent, _)| std::ptr::from_ref(*parent)).collect();
        for parent in tables.iter().filter(|table| parents.contains(&std::ptr::from_ref(**table))) {
            for item in parent.items.iter().filter(|item| item.is_deleted()) {
                if matches!(self.plan(parent, item)?, Step::Conflict(_)) {
                    gone.insert(item);
                }
            }
        }
        let mut blocked = Items::new();
        while !gone.is_empty() {
            let before = blocked.len();
            for (child, parent, key) in &foreign_keys {
                let found: Vec<_> = meeting(child, parent, key, &gone, &blocked).collect();
                blocked.extend(found.iter().copied());
                gone.extend(
                    child
                        .items
                        .iter()
                        .filter(|item| item.is_deleted())
                        .map(std::ptr::from_ref)
                        .filter(|item| found.contains(item)),
                );
            }
            if blocked.len() == before {
                break;
            }
        }
        Ok(blocked)
    }
}

/// The items of a table that would refer to those that are gone.
fn meeting<'t>(
    child: &'t TableChanges,
    parent: &TableChanges,
    key: &'t Reference,
    gone: &Items,
    blocked: &'t Items,
) -> impl Iterator<Item = *const Item> + 't {
    let are_gone = parent.items.iter().filter(|item| gone.contains(&std::ptr::from_ref(*item)));
    let theirs: HashSet<String> =
        are_gone.filter_map(|item| values(&parent.was(item)?, &key.parent_columns)).collect();
    let meets = move |item: &&Item| {
        let was = child.was(item).and_then(|old| values(&old, &key.columns));
        let is = child.is(item).and_then(|new| values(&new, &key.columns));
        !blocked.contains(&std::ptr::from_ref(*item))
            && was.is_some_and(|was| Some(&was) != is.as_ref() && theirs.contains(&was))
    };
    child.items.iter().filter(meets).map(std::ptr::from_ref)
}

/// The values of these columns; `None`: one is NULL or not there, so that they refer to nothing.
fn values(row: &Named<'_>, columns: &[String]) -> Option<String> {
    let mut all = String::new();
    for column in columns {
        let (_, value) = row.iter().find(|(name, _)| name.eq_ignore_ascii_case(column))?;
        if *value == crate::Value::Null {
            return None;
        }
        all += &statements::literal(value);
        all.push(',');
    }
    Some(all)
}
