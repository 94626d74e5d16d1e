//! Rows of tables without any key, whose rowids others have taken.

use super::{Item, Run, TableChanges};
use crate::{Error, Value, statements};
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

impl Run<'_> {
    /// Whether the table has a row like this one, which then is counted no more: it may have come back already. Those that stand where
    /// they stood are themselves. To be asked when these are there again.
    pub(super) fn has_its_like(&mut self, table: &TableChanges, item: &Item) -> Result<bool, Error> {
        let Some(old) = table.was(item) else { return Ok(false) };
        if !self.alike.contains_key(&table.name) {
            let found = self.count_alike(table, item)?;
            self.alike.insert(table.name.clone(), found);
        }
        let values: Vec<_> = old.into_iter().map(|(_, value)| value).collect();
        let found = self.alike.get_mut(&table.name).and_then(|found| found.get_mut(&hash(&values)));
        let Some(count) = found.filter(|count| **count > 0) else { return Ok(false) };
        *count -= 1;
        Ok(true)
    }

    /// How many rows of a table have the same values, by their hashes. `item`: one of its rows.
    fn count_alike(&self, table: &TableChanges, item: &Item) -> Result<HashMap<u64, u64>, Error> {
        let (old, key) = (table.was(item).unwrap_or_default(), table.key(item));
        let columns: Vec<&str> = old.iter().chain(&key).map(|(name, _)| *name).collect();
        let by_rowid = |item: &&Item| item.is_deleted() && table.is_by_rowid(item);
        let deleted: HashMap<i64, &Item> =
            table.items.iter().filter(by_rowid).map(|item| (item.rowid(), item)).collect();
        let mut found: HashMap<u64, u64> = HashMap::new();
        self.editor.each_row(&table.name, &columns, &mut |mut row| {
            let Some(Value::Integer(rowid)) = row.pop() else { return };
            let stood = deleted.get(&rowid).and_then(|item| table.was(item)).unwrap_or_default();
            if !row.iter().eq(stood.iter().map(|(_, value)| value)) {
                *found.entry(hash(&row)).or_default() += 1;
            }
        })?;
        Ok(found)
    }
}

fn hash(row: &[Value]) -> u64 {
    let mut hasher = DefaultHasher::new();
    row.iter().for_each(|value| statements::literal(value).hash(&mut hasher));
    hasher.finish()
}
