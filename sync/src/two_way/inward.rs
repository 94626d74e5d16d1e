//! Changes of the hub on their way into SQLite, and what becomes of rows that have changed on both sides.

use std::collections::{BTreeSet, HashMap};

use litekeep_env::{Clock as _, SystemClock};
use litekeep_sql::{Mirror, MirrorTable, Written};

use super::state::{CONFLICTS, Conflict, KEPT_CONFLICTS, LOST, Policy, SEEN, Seen, image, texts};
use crate::batch::Refused;
use crate::ledger::{listed, refused_item, row_id, text as json};
use crate::{Error, Value};

/// A change of one row.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Arrival {
    /// The table, by its place in the plan.
    pub(super) table: usize,
    pub(super) key: Vec<Value>,
    /// Which image the hub had before; `None`: nobody knows.
    pub(super) old: Option<String>,
    /// How it is there; `None`: gone.
    pub(super) new: Option<Vec<Value>>,
    /// When it was made, milliseconds since the epoch, and by which node; `None`: nobody knows.
    pub(super) made: Option<(i64, String)>,
    /// It is what the hub has made of a row of ours.
    pub(super) is_ours: bool,
}

/// What is needed to decide.
pub(super) struct Judge {
    pub(super) tables: Vec<MirrorTable>,
    pub(super) paused: BTreeSet<usize>,
    pub(super) policies: Vec<Policy>,
    /// Who we are.
    pub(super) node: String,
    /// Rows that have changed here, as far as the log says, by their ids: the image, and when.
    pub(super) changed: HashMap<String, (String, i64)>,
    /// The number of this transaction of ours.
    pub(super) commit: u64,
    pub(super) any_refused: bool,
}

/// What was done.
#[derive(Debug, Default)]
pub(super) struct Applied {
    /// Rows that are refused more than before.
    pub(super) refused: i64,
    /// Conflicts.
    pub(super) conflicts: u64,
    /// Which of the arrivals came upon a change here that has won.
    pub(super) kept: Vec<usize>,
    /// Which of them the table forbids, and why.
    pub(super) forbidden: Vec<(usize, String)>,
    /// Items that say which image the hub has.
    pub(super) seen: Vec<String>,
}

impl Judge {
    /// Applies changes in their order, within a transaction.
    pub(super) fn apply(&self, mirror: &Mirror, arrivals: &[Arrival]) -> Result<Applied, Error> {
        let mut applied = Applied::default();
        for (nth, arrival) in arrivals.iter().enumerate() {
            if !self.paused.contains(&arrival.table) {
                self.one(mirror, nth, arrival, &mut applied)?;
            }
        }
        Ok(applied)
    }

    fn one(
        &self,
        mirror: &Mirror,
        nth: usize,
        arrival: &Arrival,
        applied: &mut Applied,
    ) -> Result<(), Error> {
        let table = &self.tables[arrival.table];
        let here = mirror.row(table, &arrival.key)?;
        let (image_here, image_there) = (image(here.as_deref()), image(arrival.new.as_deref()));
        if image_here == image_there {
            return Ok(());
        }
        let is_conflict = arrival.old.as_ref() != Some(&image_here);
        if is_conflict {
            let wins = arrival.is_ours || self.here_wins(arrival, here.as_deref(), &image_here);
            if wins {
                if !arrival.is_ours {
                    self.list(mirror, arrival, here.as_deref(), true, applied)?;
                }
                applied.kept.push(nth);
                return self.note(mirror, arrival, image_there, applied);
            }
        }
        let written = match &arrival.new {
            Some(row) => mirror.put(table, row)?,
            None => mirror.delete(table, &arrival.key)?,
        };
        let item = refused_item(&table.name, &arrival.key);
        if let Written::Forbidden(reason) = written {
            applied.forbidden.push((nth, reason.clone()));
            let row = Refused { table: arrival.table, key: arrival.key.clone(), reason };
            applied.refused += i64::from(mirror.set(&item, Some(&listed(&table.name, &row)))?);
            return Ok(());
        }
        if self.any_refused || applied.refused > 0 {
            applied.refused -= i64::from(mirror.set(&item, None)?);
        }
        if is_conflict {
            self.list(mirror, arrival, here.as_deref(), false, applied)?;
        }
        self.note(mirror, arrival, image_there, applied)
    }

    fn here_wins(&self, arrival: &Arrival, here: Option<&[Value]>, image_here: &str) -> bool {
        match self.policies[arrival.table] {
            Policy::Server => false,
            Policy::Sqlite => true,
            Policy::Latest => match (here, &arrival.new) {
                (None, Some(_)) => false,
                (Some(_), None) => true,
                _ => {
                    let Some((there_ms, node)) = &arrival.made else { return false };
                    let id = row_id(&self.tables[arrival.table].name, &arrival.key);
                    match self.changed.get(&id).filter(|(image, _)| image == image_here) {
                        Some((_, here_ms)) => (here_ms, &self.node) > (there_ms, node),
                        // The log has not come to it: nothing is later.
                        None => true,
                    }
                }
            },
        }
    }

    /// Keeps both images of a conflict.
    fn list(
        &self,
        mirror: &Mirror,
        arrival: &Arrival,
        here: Option<&[Value]>,
        here_wins: bool,
        applied: &mut Applied,
    ) -> Result<(), Error> {
        applied.conflicts += 1;
        let table = &self.tables[arrival.table];
        let count: u64 = mirror.item(CONFLICTS)?.and_then(|count| count.parse().ok()).unwrap_or(0);
        let (here, there) = (here.map(texts), arrival.new.as_deref().map(texts));
        let (kept, lost) = if here_wins { (here, there) } else { (there, here) };
        let conflict = Conflict {
            table: table.name.clone(),
            key: texts(&arrival.key),
            at_ms: SystemClock.unix_ms(),
            winner: if here_wins { "sqlite" } else { "server" }.to_owned(),
            kept,
            lost,
            columns: table.columns.iter().map(|column| column.name.clone()).collect(),
        };
        mirror.set(&lost_item(count), Some(&json(&conflict)))?;
        if let Some(oldest) = count.checked_sub(KEPT_CONFLICTS) {
            mirror.set(&lost_item(oldest), None)?;
        }
        mirror.set(CONFLICTS, Some(&(count + 1).to_string()))?;
        Ok(())
    }

    /// Notes which image the hub has: who reads the log then knows what of a row is ours.
    fn note(
        &self,
        mirror: &Mirror,
        arrival: &Arrival,
        image: String,
        applied: &mut Applied,
    ) -> Result<(), Error> {
        let item = format!("{SEEN}{}", row_id(&self.tables[arrival.table].name, &arrival.key));
        let seen = Seen { commit: self.commit, image, key: texts(&arrival.key) };
        mirror.set(&item, Some(&json(&seen)))?;
        applied.seen.push(item);
        Ok(())
    }
}

fn lost_item(nth: u64) -> String {
    format!("{LOST}{nth:016}")
}
