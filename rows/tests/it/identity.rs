//! Goal: a diff takes no table and no column for one that it is not, and knows those that only have another name. Method: random tables
//! whose pages and places are given again, and a model that numbers tables and columns when they are made. `churn` takes from the
//! diff what is which, so it cannot tell.

use anyhow::{Context, Result, ensure};
use litekeep_testkit::campaign;
use litekeep_testkit::churn::{Contents, Value};
use rusqlite::Connection;

use crate::watched::Watched;

#[derive(Clone, Debug)]
struct Table {
    number: u32,
    name: String,
    columns: Vec<Column>,
}

#[derive(Clone, Debug)]
struct Column {
    number: u32,
    name: String,
    declared: &'static str,
    default: Option<String>,
}

struct Run {
    random: fastrand::Rng,
    db: Connection,
    tables: Vec<Table>,
    next: u32,
    /// Whether rows were written, or tables and columns came or went, since the last look.
    is_certain: bool,
}

/// What was compared.
#[derive(Debug, Default)]
struct Totals {
    others: u32,
    renamed: u32,
}

#[test]
fn tables_and_columns_are_taken_for_no_others() {
    let mut totals = Totals::default();
    campaign::rounds("identity", 30, |seed| play(seed, &mut totals));
    let Totals { others, renamed } = totals;
    println!("{others} tables and columns in the place of others, {renamed} with other names");
    assert!(others > 20 && renamed > 50, "{totals:?}");
}

fn play(seed: u64, totals: &mut Totals) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("a.db");
    let db = Connection::open(&path)?;
    db.execute_batch(
        "PRAGMA page_size = 512; PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF; PRAGMA wal_autocheckpoint = 0",
    )?;
    let random = fastrand::Rng::with_seed(seed);
    let mut run = Run { random, db, tables: vec![], next: 0, is_certain: true };
    for _ in 0..3 {
        run.create()?;
    }
    run.db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    let mut watched = Watched::begin(&run.db)?;
    for step in 0..30 {
        let (before, old) = (run.tables.clone(), Contents::read(&run.db)?);
        run.is_certain = true;
        let mut done = vec![];
        for _ in 0..run.random.usize(1..5) {
            done.push(run.operate()?);
        }
        let (reported, _) = watched.step(&run.db, &path).with_context(|| format!("{step}: {done:#?}"))?;
        let pairs: Vec<_> = reported.pairs().collect();
        run.check(&before, &old, &pairs, totals).with_context(|| format!("{step}: {done:#?}, {pairs:?}"))?;
    }
    Ok(())
}

impl Run {
    fn number(&mut self) -> u32 {
        self.next += 1;
        self.next
    }

    fn column(&mut self) -> Column {
        let number = self.number();
        let declared = *self.random.choice(&["TEXT", "TEXT", "TEXT", "BLOB"]).expect("there are some");
        Column { number, name: format!("c{number}"), declared, default: None }
    }

    fn run(&self, sql: String) -> Result<String> {
        self.db.execute_batch(&sql).with_context(|| sql.clone())?;
        Ok(sql)
    }

    fn operate(&mut self) -> Result<String> {
        if self.tables.len() < 2 {
            return self.create();
        }
        let nth = self.random.usize(..self.tables.len());
        let Table { name, columns, .. } = self.tables[nth].clone();
        let last = columns.last().map(|column| column.name.clone()).unwrap_or_default();
        let operation = self.random.u8(..20);
        self.is_certain &= operation < 6;
        match operation {
            0..3 => {
                let new = format!("t{}", self.number());
                self.tables[nth].name.clone_from(&new);
                self.run(format!("ALTER TABLE {name} RENAME TO {new}"))
            }
            3..6 => {
                let (number, nth_column) = (self.number(), self.random.usize(..columns.len()));
                let new = format!("c{number}");
                self.tables[nth].columns[nth_column].name.clone_from(&new);
                let old = &columns[nth_column].name;
                self.run(format!("ALTER TABLE {name} RENAME COLUMN {old} TO {new}"))
            }
            6..9 if columns.len() > 1 => {
                self.tables[nth].columns.pop();
                let dropped = self.run(format!("ALTER TABLE {name} DROP COLUMN {last}"))?;
                if self.random.u8(..3) == 0 {
                    return Ok(dropped);
                }
                let added = self.add(nth)?;
                Ok(format!("{dropped}; {added}"))
            }
            6..9 => self.add(nth),
            9..12 => {
                self.tables.remove(nth);
                let dropped = self.run(format!("DROP TABLE {name}"))?;
                // Mostly another one takes its place.
                if self.random.u8(..3) == 0 {
                    return Ok(dropped);
                }
                let has_same_names = self.random.bool();
                let like = |column: Column| {
                    let new = self.column();
                    let name = if has_same_names { column.name } else { new.name };
                    Column { name, declared: column.declared, ..new }
                };
                let columns = columns.into_iter().map(like).collect();
                let created = self.create_of(columns)?;
                Ok(format!("{dropped}; {created}"))
            }
            12 => self.create(),
            13 => self.run(format!(
                "UPDATE {name} SET {last} = {last} || 'x' WHERE id = (SELECT max(id) FROM {name})"
            )),
            14 => self.run(format!("UPDATE {name} SET {last} = {last} || 'y'")),
            15 => self.run(format!("DELETE FROM {name} WHERE id % 3 = 0")),
            16 => self.run(format!("DELETE FROM {name}")),
            _ => self.insert(nth),
        }
    }

    fn add(&mut self, nth: usize) -> Result<String> {
        let has_default = self.random.bool();
        let mut column = self.column();
        // Of its own: columns with the same default and the same changes are alike.
        column.default = has_default.then(|| format!("none {}", column.number));
        let default = column.default.as_ref().map_or(String::new(), |text| format!(" DEFAULT '{text}'"));
        let sql = format!(
            "ALTER TABLE {} ADD COLUMN {} {}{default}",
            self.tables[nth].name, column.name, column.declared
        );
        self.tables[nth].columns.push(column);
        let added = self.run(sql)?;
        if self.random.bool() { Ok(added) } else { Ok(format!("{added}; {}", self.insert(nth)?)) }
    }

    fn create(&mut self) -> Result<String> {
        let columns = (0..2).map(|_| Column { declared: "TEXT", ..self.column() }).collect();
        self.create_of(columns)
    }

    fn create_of(&mut self, columns: Vec<Column>) -> Result<String> {
        let number = self.number();
        let list: String =
            columns.iter().map(|column| format!(", {} {}", column.name, column.declared)).collect();
        let name = format!("t{number}");
        self.tables.push(Table { number, name: name.clone(), columns });
        let quote = if self.random.bool() { "\"" } else { "" };
        let created = self.run(format!("CREATE TABLE {quote}{name}{quote}(id INTEGER PRIMARY KEY{list})"))?;
        if self.random.u8(..3) == 0 {
            return Ok(created);
        }
        let inserted = self.insert(self.tables.len() - 1)?;
        Ok(format!("{created}; {inserted}"))
    }

    /// Values that no other row has.
    fn insert(&mut self, nth: usize) -> Result<String> {
        let rows = if self.random.u8(..4) == 0 { 60 } else { self.random.u8(1..6) };
        let number = self.number();
        let Table { name, columns, .. } = &self.tables[nth];
        let names: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
        let values: Vec<String> = names.iter().map(|name| format!("'{name} {number} ' || i")).collect();
        self.run(format!(
            "WITH n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows}) INSERT INTO {name}({}) SELECT {} FROM n",
            names.join(", "),
            values.join(", ")
        ))
    }

    fn check(
        &self,
        before: &[Table],
        old: &Contents,
        pairs: &[(&str, &str, &[Option<usize>])],
        totals: &mut Totals,
    ) -> Result<()> {
        let rows = |contents: &Contents, name: &str| contents.tables[name].rows.len();
        for now in &self.tables {
            let was = before.iter().find(|was| was.number == now.number);
            let pair = pairs.iter().find(|(_, new, _)| *new == now.name);
            if let Some((name, _, from)) = pair
                && *name != now.name
            {
                // Of a table that was empty nothing tells it.
                ensure!(
                    rows(old, name) == 0 || was.is_some_and(|was| was.name == *name),
                    "{name} was taken for {}",
                    now.name
                );
                totals.renamed += 1;
                ensure!(from.len() == now.columns.len() + 1, "other columns: {from:?}");
            }
            if let Some((name, _, from)) = pair
                && let Some(was) = before.iter().find(|was| was.name == *name)
            {
                for (column, from) in now.columns.iter().zip(&from[1..]) {
                    let Some(from) = from.filter(|from| was.columns[from - 1].name != column.name) else {
                        continue;
                    };
                    // Where it had only what a new column has, nothing tells it.
                    let default = Value::Text(column.default.clone().unwrap_or_default().into());
                    let mut rows = old.tables[*name].rows.values();
                    let had = rows.any(|row| row[from] != Value::Null && row[from] != default);
                    let had_number = was.columns[from - 1].number;
                    ensure!(
                        !had || had_number == column.number,
                        "column {had_number} was taken for {column:?}"
                    );
                    totals.renamed += 1;
                }
            }
            // Nothing but names changed.
            if self.is_certain
                && let Some(was) = was.filter(|was| was.name != now.name)
            {
                ensure!(pair.is_some_and(|(name, ..)| *name == was.name), "{} was not known again", now.name);
            }
            totals.others += u32::from(was.is_none() && pair.is_none() && !self.is_certain);
        }
        Ok(())
    }
}
