//! Goal: a churn meets everything that it promises, again for the same seed, and its two oracles agree. Method: databases
//! of many seeds, each oracle against a plainer one and against the other.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Context;
use litekeep_testkit::churn::{Action, Contents, Counts, Recording, Rows, Value};
use litekeep_testkit::{Churn, campaign};
use rusqlite::{Connection, params_from_iter};

/// A database of `seed` after so many steps.
fn churned(dir: &Path, name: &str, seed: u64, transactions: u32) -> Churn {
    let mut churn = Churn::create(dir.join(name), seed).unwrap();
    for _ in 0..transactions {
        churn.transaction().unwrap();
        churn.shrink().unwrap();
    }
    churn
}

#[test]
fn a_seed_gives_the_same_database_to_the_byte() {
    let dir = tempfile::tempdir().unwrap();
    let mut different = Vec::new();
    for seed in 1..=8 {
        let bytes = ["a", "b"].map(|copy| {
            let churn = churned(dir.path(), &format!("{copy}{seed}"), seed, 100);
            churn.checkpoint().unwrap();
            std::fs::read(churn.path()).unwrap()
        });
        assert!(bytes[0] == bytes[1], "seed {seed}");
        different.push(bytes[0].clone());
    }
    different.dedup();
    assert_eq!(different.len(), 8, "seeds give different databases");
}

#[test]
fn each_kind_of_operation_succeeds() {
    let dir = tempfile::tempdir().unwrap();
    let mut sum = Counts::default();
    for seed in 1..=40 {
        let churn = churned(dir.path(), &format!("{seed}"), seed, 150);
        let verdict: String = churn.db().query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(verdict, "ok", "seed {seed}");
        sum.add(churn.counts());
    }
    let never: Vec<_> = sum.iter().filter(|(_, count)| count.changed == 0).map(|(kind, _)| kind).collect();
    assert!(never.is_empty(), "never did anything: {never:?}");
}

#[test]
fn contents_are_what_each_row_alone_says() {
    let dir = tempfile::tempdir().unwrap();
    for seed in 1..=8 {
        let churn = churned(dir.path(), &format!("{seed}"), seed, 60);
        let contents = churn.contents().unwrap();
        let mut select = churn
            .db()
            .prepare("SELECT name FROM sqlite_schema WHERE rootpage > 0 AND type = 'table'")
            .unwrap();
        let names: BTreeSet<String> =
            select.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
        assert_eq!(contents.tables.keys().cloned().collect::<BTreeSet<_>>(), names, "seed {seed}");
        for (name, rows) in &contents.tables {
            check_rows(churn.db(), name, rows);
        }
    }
}

#[test]
fn rows_are_known_by_their_rowid_where_a_virtual_column_hides_its_name() {
    let db = Connection::open_in_memory().unwrap();
    db.execute_batch("CREATE TABLE t(a, rowid AS (7) VIRTUAL); INSERT INTO t VALUES (10), (20)").unwrap();
    let contents = Contents::read(&db).unwrap();
    let keys: BTreeSet<_> = contents.tables["t"].rows.keys().cloned().collect();
    assert_eq!(keys, [1, 2].map(|id| vec![Value::Integer(id)]).into());
}

fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Looks up each row by its key and asks SQLite whether it has these values, and whether it has as many rows.
fn check_rows(db: &Connection, name: &str, table: &Rows) {
    let count: usize = db
        .query_row(&format!("SELECT count(*) FROM {}", quote(name)), [], |row| row.get::<_, u32>(0))
        .unwrap() as usize;
    assert_eq!(count, table.rows.len(), "{name:?}");
    let columns = table.columns.iter().enumerate().map(|(place, column)| {
        let (column, value) = (quote(column), place + 1);
        format!("{column} COLLATE BINARY IS ?{value} AND typeof({column}) = typeof(?{value})")
    });
    let mut conditions: Vec<String> = columns.collect();
    if !table.without_rowid {
        conditions.push(format!("_rowid_ = ?{}", table.columns.len() + 1));
    }
    let sql = format!("SELECT count(*) FROM {} WHERE {}", quote(name), conditions.join(" AND "));
    let mut select = db.prepare(&sql).unwrap();
    for (key, values) in &table.rows {
        let id = if table.without_rowid { &[] } else { key.as_slice() };
        let found: u32 =
            select.query_row(params_from_iter(values.iter().chain(id)), |row| row.get(0)).unwrap();
        assert_eq!(found, 1, "{name:?} has no row {key:?} {values:?}");
    }
}

#[test]
fn sessions_and_contents_agree() {
    let mut changes = Vec::new();
    campaign::rounds("churn", 40, |seed| {
        let dir = tempfile::tempdir()?;
        let mut churn = churned(dir.path(), "db", seed, 20);
        for step in 0..20 {
            let before = churn.contents()?;
            let recording = churn.record(1 + step % 4)?;
            recording.check_contents(&before, &churn.contents()?).with_context(|| format!("step {step}"))?;
            changes.extend(recording.changes.iter().map(|change| change.action));
            churn.transaction()?;
            churn.shrink()?;
        }
        Ok(())
    });
    for action in [Action::Insert, Action::Update, Action::Delete] {
        assert!(changes.contains(&action), "no {action:?} was recorded");
    }
}

/// A row that only one of the two accounts has, or has otherwise, is found.
#[test]
fn a_session_finds_what_contents_lack() {
    let dir = tempfile::tempdir().unwrap();
    let mut churn = churned(dir.path(), "a", 1, 5);
    let before = churn.contents().unwrap();
    let recording = loop {
        let recording = churn.record(1).unwrap();
        if !recording.changes.is_empty() {
            break recording;
        }
    };
    let after = churn.contents().unwrap();
    recording.check_contents(&before, &after).unwrap();
    recording.check_contents(&before, &before).unwrap_err();
    let unheard = Recording { changes: Vec::new(), ..recording };
    unheard.check_contents(&before, &after).unwrap_err();
}
