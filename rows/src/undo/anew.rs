//! Rows of tables without any key, whose rowids others have taken.

use super::{Item, Run, TableChanges};
use crate::{Error, statements};
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

impl Run<'_> {
    /// Whether the table has a row like this one, which then is counted no more: it may have come back already.
    pub(super) fn has_its_like(&mut self, table: &TableChanges, item: &Item) -> Result<bool, Error> {
        let Some(old) = table.was(item) else { return Ok(false) };
        if !self.alike.contains_key(&table.name) {
            let columns: Vec<&str> = old.iter().map(|(name, _)| *name).collect();
            let mut found: HashMap<u64, u64> = HashMap::new();
            self.editor
                .each_row(&table.name, &columns, &mut |row| *found.entry(hash(&row)).or_default() += 1)?;
            self.alike.insert(table.name.clone(), found);
        }
        let values: Vec<_> = old.into_iter().map(|(_, value)| value).collect();
        let found = self.alike.get_mut(&table.name).and_then(|found| found.get_mut(&hash(&values)));
        let Some(count) = found.filter(|count| **count > 0) else { return Ok(false) };
        *count -= 1;
        Ok(true)
    }
}

fn hash(row: &[crate::Value]) -> u64 {
    let mut hasher = DefaultHasher::new();
    row.iter().for_each(|value| statements::literal(value).hash(&mut hasher));
    hasher.finish()
}
