//! What a diff reported, and two oracles that it is held against: all rows as SQL reads them, and SQLite's session extension.

use std::collections::HashSet;

use anyhow::{Context, Result, bail, ensure};
use litekeep_format::diff::{Change, Pair, Sink};
use litekeep_format::{Catalog, RowRef};
use litekeep_rows::{Error, Value};
use litekeep_testkit::churn::{Contents, Recording, Rows, Value as Seen};

type Row = (Vec<Seen>, Vec<Seen>);

/// The changes of a pair of tables.
#[derive(Debug, Default)]
struct Changes {
    old: Option<String>,
    new: Option<String>,
    from: Vec<Option<usize>>,
    /// Of the new columns.
    defaults: Vec<Seen>,
    gone: Vec<Row>,
    come: Vec<Row>,
    deleted: HashSet<Vec<Seen>>,
    inserted: HashSet<Vec<Seen>>,
}

/// What a diff reported.
#[derive(Debug, Default)]
pub(crate) struct Reported(Vec<Changes>);

impl Sink<Error> for Reported {
    fn begin(&mut self, _: &Catalog, _: &Catalog, _: &[(String, String)]) -> Result<(), Error> {
        Ok(())
    }

    fn table(&mut self, pair: Pair<'_>, from: &[Option<usize>]) -> Result<(), Error> {
        let defaults = pair.new.map(|table| {
            let in_utf8 = |value: Value| seen(value);
            table.default_values().into_iter().map(in_utf8).collect()
        });
        self.0.push(Changes {
            old: pair.old.map(|table| table.name.clone()),
            new: pair.new.map(|table| table.name.clone()),
            from: from.to_vec(),
            defaults: defaults.unwrap_or_default(),
            ..Changes::default()
        });
        Ok(())
    }

    fn change(&mut self, _: Pair<'_>, change: Change<'_>) -> Result<(), Error> {
        let changes = self.0.last_mut().expect("a table comes first");
        match change {
            Change::Inserted(new) => {
                let new = row(&new)?;
                changes.inserted.insert(new.0.clone());
                changes.come.push(new);
            }
            Change::Deleted(old) => {
                let old = row(&old)?;
                changes.deleted.insert(old.0.clone());
                changes.gone.push(old);
            }
            Change::Updated(old, new) => {
                changes.gone.push(row(&old)?);
                changes.come.push(row(&new)?);
            }
        }
        Ok(())
    }
}

fn row(row: &RowRef<'_>) -> Result<Row, Error> {
    let values: Vec<Seen> = row.values()?.into_iter().map(seen).collect();
    let layout = &row.table.layout;
    let key = match layout.is_without_rowid() {
        true => layout.primary_key.iter().map(|nth| values[*nth].clone()).collect(),
        false => vec![Seen::Integer(row.rowid)],
    };
    Ok((key, values))
}

fn seen(value: Value) -> Seen {
    match value {
        Value::Null => Seen::Null,
        Value::Integer(i) => Seen::Integer(i),
        Value::Real(f) => Seen::Real(f.to_bits()),
        Value::Text(text) => Seen::Text(text),
        Value::Blob(bytes) => Seen::Blob(bytes),
    }
}

impl Reported {
    /// Holds it against all rows before and after.
    pub(crate) fn check(&self, before: &Contents, after: &Contents) -> Result<()> {
        let nothing = Rows::default();
        let (mut olds, mut news) = (HashSet::new(), HashSet::new());
        for changes in &self.0 {
            let names = (changes.old.as_deref(), changes.new.as_deref());
            ensure!(names.0.is_none_or(|name| olds.insert(name)), "{names:?} came twice");
            ensure!(names.1.is_none_or(|name| news.insert(name)), "{names:?} came twice");
            let (Some(old), Some(new)) =
                (rows_of(before, names.0, &nothing), rows_of(after, names.1, &nothing))
            else {
                bail!("{names:?} is not in the database")
            };
            changes.check(old, new).with_context(|| {
                let (from, defaults) = (&changes.from, &changes.defaults);
                format!(
                    "{names:?}: {:?} to {:?}, from {from:?}, defaults {defaults:?}",
                    old.columns, new.columns
                )
            })?;
        }
        for (name, rows) in &before.tables {
            let same = || after.tables.get(name).is_some_and(|now| now == rows);
            ensure!(olds.contains(name.as_str()) || same(), "a change of {name} was not reported");
        }
        let is_told = |name: &&String| news.contains(name.as_str()) || before.tables.contains_key(*name);
        ensure!(after.tables.keys().all(|name| is_told(&name)), "a new table was not reported");
        Ok(())
    }

    /// Holds it against what SQLite's session extension heard, of tables in which `contents` has these columns. Returns how many rows
    /// it heard of.
    pub(crate) fn check_recording(&self, recording: &Recording, contents: &Contents) -> Result<u64> {
        for (name, recorded) in &recording.tables {
            let columns = &contents.tables.get(name).with_context(|| format!("{name:?} is gone"))?.columns;
            let places = recorded.places(columns)?;
            let seen = |(_, row): &Row| places.iter().map(|place| row[*place].clone()).collect();
            let changes = || self.0.iter().filter(|changes| changes.new.as_ref() == Some(name));
            let gone = changes().flat_map(|changes| &changes.gone).map(|row| (Some(seen(row)), None));
            let come = changes().flat_map(|changes| &changes.come).map(|row| (None, Some(seen(row))));
            recording.check_rows(name, gone.chain(come))?;
        }
        Ok(recording.changes.len() as u64)
    }

    /// The tables that were paired, by their names, and for each column of the new one, the one that it was.
    pub(crate) fn pairs(&self) -> impl Iterator<Item = (&str, &str, &[Option<usize>])> {
        fn pair(changes: &Changes) -> Option<(&str, &str, &[Option<usize>])> {
            Some((changes.old.as_deref()?, changes.new.as_deref()?, &changes.from))
        }
        self.0.iter().filter_map(pair)
    }

    /// How many rows, each as it was and as it is.
    pub(crate) fn rows(&self) -> u64 {
        self.0.iter().map(|changes| changes.gone.len().max(changes.come.len()) as u64).sum()
    }

    /// Forgets the rows that came.
    pub(crate) fn forget(&mut self) {
        self.0.iter_mut().for_each(|changes| changes.come.clear());
    }
}

impl Changes {
    fn check(&self, old: &Rows, new: &Rows) -> Result<()> {
        ensure!(self.new.is_none() || self.from.len() == new.columns.len(), "other columns: {:?}", self.from);
        let both = self.deleted.intersection(&self.inserted).next();
        ensure!(both.is_none(), "not updated, but deleted and inserted: {both:?}");
        let is_same = |old: &[Seen], new: &[Seen]| {
            let of = |nth: usize| self.from[nth].map_or(&self.defaults[nth], |from| &old[from]);
            (0..new.len()).all(|nth| *of(nth) == new[nth])
        };
        let (mut gone, mut come) = (HashSet::new(), HashSet::new());
        for (key, row) in &old.rows {
            let now = new.rows.get(key);
            if !now.is_some_and(|now| is_same(row, now)) {
                gone.insert((key, row));
                come.extend(now.map(|now| (key, now)));
            }
        }
        come.extend(new.rows.iter().filter(|(key, _)| !old.rows.contains_key(*key)));
        same("new", &come, &self.come)?;
        same("gone", &gone, &self.gone)
    }
}

fn rows_of<'a>(contents: &'a Contents, table: Option<&str>, nothing: &'a Rows) -> Option<&'a Rows> {
    table.map_or(Some(nothing), |name| contents.tables.get(name))
}

fn same(what: &str, wanted: &HashSet<(&Vec<Seen>, &Vec<Seen>)>, reported: &[Row]) -> Result<()> {
    let mut found = HashSet::new();
    let twice = reported.iter().find(|(key, row)| !found.insert((key, row)));
    ensure!(twice.is_none(), "reported twice: {twice:?}");
    let missing: Vec<_> = wanted.difference(&found).collect();
    let wrong: Vec<_> = found.difference(wanted).collect();
    ensure!(
        missing.is_empty() && wrong.is_empty(),
        "{what}: {} missing {:#?}, {} wrong {:?}",
        missing.len(),
        missing.first(),
        wrong.len(),
        wrong.first()
    );
    Ok(())
}
