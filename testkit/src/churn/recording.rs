//! What a session heard, and whether other accounts of the same transactions agree with it.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Context, Result, bail, ensure};

use super::{Contents, Rows, Value};

/// What happened to a row between the start and the end of a [`Recording`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "SQL's words")]
pub enum Action {
    Insert,
    Update,
    Delete,
}

/// The net change of one row. Values are in the order of [`Recorded::columns`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The table's name.
    pub table: String,
    /// What happened.
    pub action: Action,
    /// Before; none for an insert. An update has the key and what changed.
    pub old: Vec<Option<Value>>,
    /// After; none for a delete. An update has what changed.
    pub new: Vec<Option<Value>>,
}

/// How rows of a table were recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// All columns but generated ones.
    pub columns: Vec<String>,
    /// Where the columns of the primary key stand.
    pub key: Vec<usize>,
    /// Where columns of REAL affinity stand.
    pub(super) reals: Vec<usize>,
}

/// What SQLite's session extension says of some transactions that left the schema as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recording {
    /// The tables that could be recorded; of all others nothing is said.
    pub tables: BTreeMap<String, Recorded>,
    /// The changed rows, in no order.
    pub changes: Vec<Change>,
}

/// A row's values in the order of [`Recorded::columns`].
type Row = Vec<Value>;
/// A row before and after.
type Pair = (Option<Row>, Option<Row>);

impl Recording {
    pub(super) fn new(tables: BTreeMap<String, Recorded>, mut changes: Vec<Change>) -> Self {
        changes.retain_mut(|change| {
            tables.get(&change.table).is_none_or(|recorded| change.correct_reals(&recorded.reals))
        });
        Self { tables, changes }
    }

    /// Compares with the rows before and after.
    ///
    /// # Errors
    /// With the first row on which they disagree.
    pub fn check_contents(&self, before: &Contents, after: &Contents) -> Result<()> {
        for (name, recorded) in &self.tables {
            let table = |contents: &Contents| -> Result<Vec<Row>> {
                let rows =
                    contents.tables.get(name).with_context(|| format!("there is no table {name:?}"))?;
                recorded.project(rows)
            };
            let old = table(before)?.into_iter().map(|row| (Some(row), None));
            let new = table(after)?.into_iter().map(|row| (None, Some(row)));
            self.check_rows(name, old.chain(new))?;
        }
        Ok(())
    }

    /// Compares with a list of changed rows of one recorded table, old and new, each with all columns of
    /// [`Recorded::columns`]. Several changes of a row count as one, those that change nothing as none.
    ///
    /// # Errors
    /// With the first row on which they disagree.
    pub fn check_rows(&self, table: &str, rows: impl IntoIterator<Item = Pair>) -> Result<()> {
        let recorded = self.tables.get(table).with_context(|| format!("table {table:?} was not recorded"))?;
        let mut expected = recorded.net(rows).with_context(|| format!("rows of {table:?}"))?;
        for change in self.changes.iter().filter(|change| change.table == table) {
            let side = if change.action == Action::Insert { &change.new } else { &change.old };
            let key: Option<Vec<Value>> = recorded.key.iter().map(|place| side[*place].clone()).collect();
            let key = key.with_context(|| format!("{change:?} has no key"))?;
            let found = expected.remove(&key);
            ensure!(
                found.as_ref().is_some_and(|(old, new)| change.is(old.as_ref(), new.as_ref())),
                "SQLite's session says {change:?}, the rows {found:?}"
            );
        }
        if let Some((key, change)) = expected.iter().next() {
            bail!("SQLite's session says nothing of row {key:?} in {table:?}, the rows {change:?}");
        }
        Ok(())
    }
}

impl Recorded {
    /// Where its columns stand among others.
    ///
    /// # Errors
    /// When one is not among them.
    pub fn places(&self, among: &[String]) -> Result<Vec<usize>> {
        let place = |name: &String| {
            among.iter().position(|column| column == name).with_context(|| format!("no column {name:?}"))
        };
        self.columns.iter().map(place).collect()
    }

    /// The rows of the table as a session sees them.
    fn project(&self, rows: &Rows) -> Result<Vec<Row>> {
        let places = self.places(&rows.columns)?;
        let row = |values: &Row| places.iter().map(|place| values[*place].clone()).collect();
        Ok(rows.rows.values().map(row).collect())
    }

    /// The changed rows by key. Those with NULL in it, which many may share, are left out, as sessions do.
    fn net(&self, rows: impl IntoIterator<Item = Pair>) -> Result<HashMap<Row, Pair>> {
        let mut net: HashMap<Row, Pair> = HashMap::new();
        let key = |row: &Row| -> Row { self.key.iter().map(|place| row[*place].clone()).collect() };
        let has_key = |row: &Row| !key(row).contains(&Value::Null);
        for (old, new) in rows {
            if let Some(old) = old.filter(has_key) {
                let known = net.entry(key(&old)).or_default().0.replace(old);
                ensure!(known.is_none(), "two old rows have the key of {known:?}");
            }
            if let Some(new) = new.filter(has_key) {
                let known = net.entry(key(&new)).or_default().1.replace(new);
                ensure!(known.is_none(), "two new rows have the key of {known:?}");
            }
        }
        net.retain(|_, (old, new)| !same_rows(old.as_ref(), new.as_ref()));
        Ok(net)
    }
}

impl Change {
    /// Where a record is older than its column, sessions give the default as it is written: the integer 7 for `REAL
    /// DEFAULT 7`, which reads as 7.0. Says whether a change is left.
    fn correct_reals(&mut self, reals: &[usize]) -> bool {
        for place in reals {
            let Some(old) = self.old.get_mut(*place) else { continue };
            if let Some(Value::Integer(value)) = old {
                *old = Some(Value::Real((*value as f64).to_bits()));
            }
            if old.is_some() && self.new.get(*place) == Some(old) {
                *old = None;
                self.new[*place] = None;
            }
        }
        self.action != Action::Update || self.new.iter().any(Option::is_some)
    }

    fn is(&self, old: Option<&Row>, new: Option<&Row>) -> bool {
        match (self.action, old, new) {
            (Action::Insert, None, Some(row)) => is_whole(&self.new, row),
            (Action::Delete, Some(row), None) => is_whole(&self.old, row),
            (Action::Update, Some(old), Some(new)) => {
                (0..old.len()).all(|place| match (&self.old[place], &self.new[place]) {
                    (Some(before), Some(after)) => same(before, &old[place]) && same(after, &new[place]),
                    // A column of the key, or one that did not change.
                    (_, None) => same(&old[place], &new[place]),
                    (None, Some(_)) => false,
                })
            }
            _ => false,
        }
    }
}

fn is_whole(values: &[Option<Value>], row: &Row) -> bool {
    values.len() == row.len()
        && values.iter().zip(row).all(|(value, other)| value.as_ref().is_some_and(|value| same(value, other)))
}

fn same_rows(a: Option<&Row>, b: Option<&Row>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        _ => false,
    }
}

/// Sessions compare reals as numbers: a change from 0.0 to -0.0 is none.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Real(a), Value::Real(b)) => f64::from_bits(*a) == f64::from_bits(*b),
        _ => a == b,
    }
}
