//! Which of the rows that a source tells of are kept here, and which of their values.

use std::sync::{Arc, Mutex, PoisonError};

use litekeep_sql::{Mirror, MirrorTable, RowFilter};
use tokio::task::spawn_blocking;

use super::apply::key_of;
use crate::cut::filter_of_source;
use crate::source::{Incoming, SourceTable, Unfit};
use crate::{Error, Kind, Value};

/// What lets through what is kept of a table.
#[derive(Clone)]
pub(crate) struct Sieve {
    /// So many of the values that come are kept, the first of them.
    kept: usize,
    /// `None`: all rows are kept.
    condition: Option<Arc<Condition>>,
    /// A row that changes goes.
    is_asked_for: bool,
}

struct Condition {
    filter: Mutex<RowFilter>,
    /// The values that it looks at, by their places.
    looks_at: Vec<usize>,
}

/// What a change is for the rows that are kept: up to two changes, in their order.
pub(super) type Sifted = [Option<Incoming>; 2];

impl Sieve {
    /// That of a table.
    ///
    /// # Errors
    /// `Invalid` when the condition is none.
    pub(crate) fn of(table: &SourceTable) -> Result<Sieve, Error> {
        let condition = filter_of_source(table)?
            .map(|(filter, looks_at)| Arc::new(Condition { filter: Mutex::new(filter), looks_at }));
        let is_asked_for = table.part.is_asked_for;
        Ok(Sieve { kept: table.mirror.columns.len(), condition, is_asked_for })
    }

    /// Of rows as they are at the source those that are kept, as they are kept.
    ///
    /// # Errors
    /// What SQLite says to the condition.
    pub(crate) async fn rows(&self, mut rows: Vec<Vec<Value>>) -> Result<Vec<Vec<Value>>, Error> {
        if let Some(condition) = self.condition.clone() {
            let look = move || {
                let filter = condition.filter.lock().unwrap_or_else(PoisonError::into_inner);
                let has = |row: &Vec<Value>| filter.matches(0, row).map_err(Error::from);
                let with = |row: Vec<Value>| has(&row).map(|has| has.then_some(row)).transpose();
                rows.into_iter().filter_map(with).collect::<Result<Vec<_>, Error>>()
            };
            rows = spawn_blocking(look).await.map_err(|e| Error::new(Kind::Internal, e.to_string()))??;
        }
        rows.iter_mut().for_each(|row| row.truncate(self.kept));
        Ok(rows)
    }

    /// Whether a row fulfils the condition; `None`: it lacks a value that the condition looks at.
    fn has(&self, row: &[Option<Value>]) -> Result<Option<bool>, Error> {
        let Some(condition) = &self.condition else { return Ok(Some(true)) };
        if condition.looks_at.iter().any(|nth| row[*nth].is_none()) {
            return Ok(None);
        }
        let values: Vec<Value> = row.iter().map(|value| value.clone().unwrap_or(Value::Null)).collect();
        let filter = condition.filter.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Some(filter.matches(0, &values)?))
    }

    /// What a change is for the rows that are kept. One that does not tell enough to decide is left out: the table has had other columns
    /// meanwhile, and is copied again when the change of them comes.
    ///
    /// # Errors
    /// Those of SQLite.
    pub(super) fn change(
        &self,
        mirror: &Mirror,
        table: &MirrorTable,
        change: Incoming,
    ) -> Result<Sifted, Error> {
        if self.is_asked_for {
            return Ok(gone(table, change));
        }
        if self.condition.is_none() {
            return Ok([Some(self.kept_of(change)), None]);
        }
        let (key, mut row) = match change {
            Incoming::Put { row } => (key_of(table, &row), row.into_iter().map(Some).collect()),
            Incoming::Update { key, row } => (key, row),
            Incoming::Images { before, after: Some(row) } => {
                let key = key_of(table, before.as_ref().unwrap_or(&row));
                (key, row.into_iter().map(Some).collect::<Vec<_>>())
            }
            gone @ (Incoming::Images { after: None, .. }
            | Incoming::Delete { .. }
            | Incoming::Unfit(_)
            | Incoming::NoLonger { .. }
            | Incoming::Clear) => {
                return Ok([Some(gone), None]);
            }
        };
        let mut fulfils = self.has(&row)?;
        if fulfils.is_none()
            && let Some(here) = mirror.row(table, &key)?
        {
            for (value, here) in row.iter_mut().zip(here) {
                value.get_or_insert(here);
            }
            fulfils = self.has(&row)?;
        }
        Ok(match fulfils {
            Some(true) => [Some(self.kept_of(Incoming::Update { key, row })), None],
            Some(false) => {
                // What is here under its new key, when the copy is not caught up with yet, is the same row or one that is not there any more.
                gone(table, Incoming::Update { key, row })
            }
            None => [None, None],
        })
    }

    /// A change with the values that are kept.
    fn kept_of(&self, mut change: Incoming) -> Incoming {
        match &mut change {
            Incoming::Put { row } => row.truncate(self.kept),
            Incoming::Update { row, .. } => row.truncate(self.kept),
            Incoming::Images { before, after } => {
                [before, after].into_iter().flatten().for_each(|row| row.truncate(self.kept));
            }
            Incoming::Delete { .. } | Incoming::Unfit(_) | Incoming::NoLonger { .. } | Incoming::Clear => {}
        }
        change
    }
}

/// The row that a change is of goes, under its new key, too.
fn gone(table: &MirrorTable, change: Incoming) -> Sifted {
    let (key, row) = match change {
        Incoming::Put { row } => return [Some(Incoming::Delete { key: key_of(table, &row) }), None],
        Incoming::Update { key, row } => (key, row),
        Incoming::Images { before, after } => {
            let [before, after] = [before, after].map(|row| row.map(|row| key_of(table, &row)));
            let moved = after.filter(|after| before.as_ref() != Some(after));
            return [moved, before].map(|key| key.map(|key| Incoming::Delete { key }));
        }
        Incoming::Unfit(Unfit { key, .. }) => {
            let is_known = key.len() == table.key.len();
            return [is_known.then_some(Incoming::Delete { key }), None];
        }
        Incoming::NoLonger { .. } => return [None, None],
        gone @ (Incoming::Delete { .. } | Incoming::Clear) => return [Some(gone), None],
    };
    let new_key: Vec<Value> = (table.key.iter().zip(&key))
        .map(|(nth, old)| row[*nth].clone().unwrap_or_else(|| old.clone()))
        .collect();
    let moved = (new_key != key).then_some(Incoming::Delete { key: new_key });
    [moved, Some(Incoming::Delete { key })]
}

#[cfg(test)]
mod tests {
    use litekeep_sql::{MirrorColumn, MirrorRules};

    use super::*;
    use crate::source::{Part, SourceType};

    fn text(text: &str) -> Value {
        Value::Text(text.into())
    }

    /// A table with `id` and `body`, of which those rows are kept whose `body` is not empty and whose `state`, which is not kept, is `on`.
    fn table() -> SourceTable {
        let column = |name: &str, declared: &str| MirrorColumn {
            name: name.to_owned(),
            declared: declared.to_owned(),
            is_not_null: false,
        };
        let mirror = MirrorTable {
            name: "t".to_owned(),
            columns: vec![column("id", "INTEGER"), column("body", "TEXT")],
            key: vec![0],
            indexes: vec![],
            rules: MirrorRules::default(),
        };
        let part = Part {
            is_some_columns: true,
            condition: Some("state = 'on' AND body <> ''".to_owned()),
            unkept: vec![column("state", "TEXT")],
            is_asked_for: false,
        };
        let kind = SourceType { name: "text".to_owned(), form: String::new() };
        SourceTable { source: "t".to_owned(), types: vec![kind; 3], mirror, part }
    }

    #[tokio::test]
    async fn rows_that_fulfil_the_condition_are_kept() {
        let sieve = Sieve::of(&table()).unwrap();
        let row = |id, body: &str, state: &str| vec![Value::Integer(id), text(body), text(state)];
        let rows = vec![row(1, "a", "on"), row(2, "", "on"), row(3, "c", "off"), row(4, "d", "on")];
        let kept = sieve.rows(rows).await.unwrap();
        assert_eq!(kept, [vec![Value::Integer(1), text("a")], vec![Value::Integer(4), text("d")]]);
    }

    #[test]
    fn changes_are_of_the_rows_that_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let mirror = Mirror::open(&dir.path().join("a.db"), "m", true).unwrap();
        let source = table();
        let (table, sieve) = (&source.mirror, Sieve::of(&source).unwrap());
        mirror.begin(true).unwrap();
        mirror.make(table).unwrap().unwrap();
        mirror.put(table, &[Value::Integer(1), text("here")]).unwrap();
        mirror.commit().unwrap();
        let id = |id| vec![Value::Integer(id)];
        let update = |key, new: Option<i64>, body: Option<&str>, state: Option<&str>| Incoming::Update {
            key: id(key),
            row: vec![new.map(Value::Integer), body.map(text), state.map(text)],
        };
        let kept = |key, new: i64, body: Option<&str>| Incoming::Update {
            key: id(key),
            row: vec![Some(Value::Integer(new)), body.map(text)],
        };
        let delete = |key| Incoming::Delete { key: id(key) };
        for (change, expected) in [
            (update(1, Some(1), Some("b"), Some("on")), [Some(kept(1, 1, Some("b"))), None]),
            (update(1, Some(1), Some("b"), Some("off")), [None, Some(delete(1))]),
            (update(1, Some(5), Some("b"), Some("off")), [Some(delete(5)), Some(delete(1))]),
            // What is here already tells the rest.
            (update(1, Some(1), None, Some("on")), [Some(kept(1, 1, Some("here"))), None]),
            // Nothing does: the row is not here, or what it lacks is not kept.
            (update(2, Some(2), None, Some("on")), [None, None]),
            (update(1, Some(1), Some("b"), None), [None, None]),
            (Incoming::Put { row: vec![Value::Integer(3), text(""), text("on")] }, [None, Some(delete(3))]),
            (delete(9), [Some(delete(9)), None]),
            (Incoming::Clear, [Some(Incoming::Clear), None]),
        ] {
            assert_eq!(sieve.change(&mirror, table, change.clone()).unwrap(), expected, "{change:?}");
        }
        let part = Part { is_asked_for: true, ..Part::default() };
        let none = Sieve::of(&SourceTable { part, ..source.clone() }).unwrap();
        for (change, expected) in [
            (Incoming::Put { row: vec![Value::Integer(1), text("b")] }, [Some(delete(1)), None]),
            (kept(1, 1, None), [None, Some(delete(1))]),
            (kept(1, 5, None), [Some(delete(5)), Some(delete(1))]),
            (delete(1), [Some(delete(1)), None]),
            (Incoming::Clear, [Some(Incoming::Clear), None]),
            (Incoming::Unfit(Unfit { key: id(1), reason: String::new() }), [Some(delete(1)), None]),
            (Incoming::Unfit(Unfit { key: vec![], reason: String::new() }), [None, None]),
        ] {
            assert_eq!(none.change(&mirror, table, change.clone()).unwrap(), expected, "{change:?}");
        }
        let all = Sieve::of(&SourceTable { part: Part::default(), ..source.clone() }).unwrap();
        let change = update(2, Some(2), None, None);
        let Incoming::Update { key, mut row } = change.clone() else { panic!() };
        row.truncate(2);
        assert_eq!(all.change(&mirror, table, change).unwrap(), [Some(Incoming::Update { key, row }), None]);
    }
}
