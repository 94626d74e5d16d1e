//! Changes on their way to a target: the last image of each key.

use std::collections::HashMap;

use litekeep_rows::feed::RowEvent;

use crate::Value;
use crate::target::{TargetTable, key_text};

/// A change of one row.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// The table, by its place in the plan.
    pub table: usize,
    /// The values of its key; of a table without one, those of the row as it was, or as it is when it is new.
    pub key: Vec<Value>,
    /// The values that it has now; `None`: it is gone.
    pub after: Option<Vec<Value>>,
}

/// A row that the target cannot hold.
#[derive(Clone, Debug, PartialEq)]
pub struct Refused {
    /// The table, by its place in the plan.
    pub table: usize,
    /// Its key, as in [`Change`].
    pub key: Vec<Value>,
    /// Why.
    pub reason: String,
}

/// Changes of one or more transactions, in which each key of a table has at most one. Of a table without a key, what comes
/// and goes again leaves nothing, so that those that go can always be done before those that come.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// `None`: it was taken back.
    changes: Vec<Option<Change>>,
    /// Which change has the key; of a table without one: which have the row, all coming or all going.
    by_key: HashMap<(usize, Vec<String>), Vec<usize>>,
}

impl Batch {
    /// Changes at most.
    pub(crate) fn len(&self) -> usize {
        self.changes.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.changes.iter().all(Option::is_none)
    }

    /// Adds what happened to a row of a table.
    pub(crate) fn add<T: TargetTable>(&mut self, nth: usize, table: &T, event: RowEvent) {
        let columns = table.columns();
        let before = event.before.map(|row| picked(&columns, row));
        let after = event.after.map(|row| picked(&columns, row));
        if table.key().is_empty() {
            // One without a key is known by all of its values: both halves of an update stand for themselves.
            if let Some(before) = before {
                self.whole(Change { table: nth, key: before, after: None });
            }
            if let Some(after) = after {
                self.whole(Change { table: nth, key: after.clone(), after: Some(after) });
            }
            return;
        }
        let key_of =
            |row: &Vec<Value>| -> Vec<Value> { table.key().iter().map(|nth| row[*nth].clone()).collect() };
        let (old, new) = (before.as_ref().map(key_of), after.as_ref().map(key_of));
        if let Some(old) = old.filter(|old| Some(old) != new.as_ref()) {
            self.set(Change { table: nth, key: old, after: None });
        }
        if let Some(key) = new {
            self.set(Change { table: nth, key, after });
        }
    }

    fn set(&mut self, change: Change) {
        let places = self.by_key.entry(name(&change)).or_default();
        match places.first() {
            Some(nth) => self.changes[*nth] = Some(change),
            None => {
                places.push(self.changes.len());
                self.changes.push(Some(change));
            }
        }
    }

    fn whole(&mut self, change: Change) {
        let places = self.by_key.entry(name(&change)).or_default();
        let takes_back = places.last().filter(|nth| {
            self.changes[**nth].as_ref().is_some_and(|other| other.after.is_some() != change.after.is_some())
        });
        if let Some(nth) = takes_back.copied() {
            places.pop();
            self.changes[nth] = None;
        } else {
            places.push(self.changes.len());
            self.changes.push(Some(change));
        }
    }

    pub(crate) fn take(&mut self) -> Vec<Change> {
        self.by_key.clear();
        std::mem::take(&mut self.changes).into_iter().flatten().collect()
    }
}

fn name(change: &Change) -> (usize, Vec<String>) {
    (change.table, change.key.iter().map(key_text).collect())
}

/// The values of these columns; NULL where a row has none of the name, as before a column was added.
pub(crate) fn picked(columns: &[&str], row: Vec<(String, Value)>) -> Vec<Value> {
    if columns.len() == row.len() && columns.iter().zip(&row).all(|(column, (name, _))| column == name) {
        return row.into_iter().map(|(_, value)| value).collect();
    }
    let value = |column: &&str| {
        let found = row.iter().find(|(name, _)| name == column);
        found.map_or(Value::Null, |(_, value)| value.clone())
    };
    columns.iter().map(value).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::{Deserialize, Serialize};

    #[derive(Clone, Serialize, Deserialize)]
    struct Plain {
        key: Vec<usize>,
    }

    impl TargetTable for Plain {
        fn source(&self) -> &str {
            "t"
        }
        fn columns(&self) -> Vec<&str> {
            vec!["id", "name"]
        }
        fn key(&self) -> &[usize] {
            &self.key
        }
        fn with_more_columns(&self, other: Plain) -> Plain {
            other
        }
    }

    fn row(id: i64, name: &str) -> Vec<(String, Value)> {
        vec![("id".to_owned(), Value::Integer(id)), ("name".to_owned(), Value::Text(name.into()))]
    }

    fn event(before: Option<(i64, &str)>, after: Option<(i64, &str)>) -> RowEvent {
        let of = |row_of: Option<(i64, &str)>| row_of.map(|(id, name)| row(id, name));
        RowEvent { table: "t".into(), key: vec![], before: of(before), after: of(after) }
    }

    /// Keys with the name that the row has now.
    fn shown(batch: &mut Batch) -> Vec<(i64, Option<String>)> {
        let text = |value: &Value| match value {
            Value::Text(text) => String::from_utf8(text.clone()).unwrap(),
            _ => String::new(),
        };
        let id = |value: &Value| if let Value::Integer(i) = value { *i } else { -1 };
        batch.take().iter().map(|c| (id(&c.key[0]), c.after.as_ref().map(|row| text(&row[1])))).collect()
    }

    #[test]
    fn each_key_has_its_last_image() {
        let (table, mut batch) = (Plain { key: vec![0] }, Batch::default());
        for (before, after) in [
            (None, Some((1, "a"))),
            (Some((1, "a")), Some((1, "b"))),
            (None, Some((2, "c"))),
            (Some((2, "c")), None),
            // The key changes.
            (Some((1, "b")), Some((3, "b"))),
            (None, Some((1, "new"))),
        ] {
            batch.add(0, &table, event(before, after));
        }
        assert_eq!(shown(&mut batch), [(1, Some("new".to_owned())), (2, None), (3, Some("b".to_owned()))]);
        assert!(batch.is_empty() && batch.by_key.is_empty());
    }

    #[test]
    fn rows_without_a_key_come_and_go() {
        let (table, mut batch) = (Plain { key: vec![] }, Batch::default());
        for (before, after) in [
            (None, Some((1, "a"))),
            (Some((1, "a")), Some((1, "b"))),
            (Some((2, "x")), Some((2, "y"))),
            (Some((2, "y")), Some((2, "x"))),
            (None, Some((3, "c"))),
            (None, Some((3, "c"))),
            (Some((3, "c")), None),
        ] {
            batch.add(0, &table, event(before, after));
        }
        assert_eq!(shown(&mut batch), [(1, Some("b".to_owned())), (3, Some("c".to_owned()))]);
    }

    #[test]
    fn columns_are_found_by_their_names() {
        let mut longer = row(7, "x");
        longer.insert(0, ("extra".into(), Value::Null));
        assert_eq!(picked(&["id", "name"], longer), [Value::Integer(7), Value::Text(b"x".to_vec())]);
        assert_eq!(picked(&["id", "gone"], row(7, "x")), [Value::Integer(7), Value::Null]);
    }
}
