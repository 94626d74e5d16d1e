//! Goal: the rows that a diff of pages reports are exactly those that differ, whatever was done. Method: random databases
//! and transactions (`testkit::churn`); after each step the reported changes are held against all rows as SQL reads them,
//! in each way in which a diff can be asked for, and the parent map against one that is made anew. In every fourth database
//! SQLite's session extension listens too. It knows rows by their declared PRIMARY KEY, so it says nothing of tables without one, of
//! rows with NULL in it, of tables whose keys compare otherwise than by their bytes, of virtual tables' and SQLite's own
//! tables, and of what changes with the schema.

use anyhow::{Context, Result};
use litekeep_testkit::campaign;
use litekeep_testkit::churn::Churn;

use crate::watched::Watched;

/// Steps of one seed.
const STEPS: u64 = 40;
/// The WAL is emptied when it has so many bytes.
const LONG_WAL: u64 = 4_000_000;

#[test]
fn rows_differ_as_sql_sees_it() {
    let mut totals = Totals::default();
    campaign::rounds("rows", 12, |seed| Run::play(seed, &mut totals));
    let Totals { transactions, rows, heard } = totals;
    println!("{transactions} transactions; {rows} rows reported, {heard} heard of by sessions");
}

/// Below the parent that the map names for it since it was last in use, while its overflow pages were another row's.
#[test]
fn a_free_page_comes_back_unwritten() {
    Run::play(5615, &mut Totals::default()).unwrap();
}

/// Rows that a diff does not report are missed by what a session heard alone.
#[test]
fn a_session_finds_what_was_not_reported() {
    let dir = tempfile::tempdir().unwrap();
    let mut run = Run::begin(Churn::create(dir.path().join("a.db"), 4).unwrap(), true).unwrap();
    for _ in 0..20 {
        let recording = run.churn.record(4).unwrap();
        let (mut reported, _) = run.watched.step(run.churn.db(), run.churn.path()).unwrap();
        reported.check_recording(&recording, &run.watched.contents).unwrap();
        if !recording.changes.is_empty() {
            reported.forget();
            if reported.check_recording(&recording, &run.watched.contents).is_err() {
                return;
            }
        }
    }
    panic!("nothing was missed");
}

/// What was compared.
#[derive(Default)]
struct Totals {
    /// That the WALs have.
    transactions: u64,
    rows: u64,
    heard: u64,
}

/// A database and those who watch it.
struct Run {
    churn: Churn,
    watched: Watched,
    has_sessions: bool,
}

impl Run {
    fn play(seed: u64, totals: &mut Totals) -> Result<()> {
        let dir = tempfile::tempdir()?;
        let churn = Churn::create(dir.path().join("a.db"), seed)?;
        let mut run = Run::begin(churn, seed.is_multiple_of(4))?;
        (0..STEPS).try_for_each(|step| run.step(step, totals).with_context(|| format!("step {step}")))
    }

    fn begin(churn: Churn, has_sessions: bool) -> Result<Run> {
        churn.checkpoint()?;
        let watched = Watched::begin(churn.db())?;
        Ok(Run { churn, watched, has_sessions })
    }

    fn step(&mut self, step: u64, totals: &mut Totals) -> Result<()> {
        let transactions = [1, 1, 1, 2, 3, 6][step as usize % 6];
        // Sessions do not see changes of the schema.
        let recording = match self.has_sessions && step % 3 != 2 {
            true => Some(self.churn.record(transactions)?),
            false => None,
        };
        if recording.is_none() {
            (0..transactions).try_for_each(|_| self.churn.transaction())?;
            self.churn.shrink()?;
        }
        let (reported, commits) = self.watched.step(self.churn.db(), self.churn.path())?;
        if let Some(recording) = recording {
            totals.heard += reported.check_recording(&recording, &self.watched.contents)?;
        }
        totals.transactions += commits;
        totals.rows += reported.rows();
        if std::fs::metadata(self.churn.path().with_extension("db-wal"))?.len() > LONG_WAL || step % 17 == 16
        {
            self.churn.checkpoint()?;
            self.watched.checkpointed();
        }
        Ok(())
    }
}
