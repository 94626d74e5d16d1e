//! Changes of the hub on their way into SQLite, and what becomes of rows that have changed on both sides.

use std::collections::{BTreeSet, HashMap};

use litekeep_env::{Clock as _, SystemClock};
use litekeep_sql::{Mirror, MirrorTable, Written};

use super::state::{CONFLICTS, Conflict, KEPT_CONFLICTS, LOST, Policy, SEEN, Seen, image, parsed, texts};
use crate::batch::Refused;
use crate::ledger::{listed, refused_item, row_id, text as json};
use crate::target::key_text;
use crate::{Error, Value};

/// A change of one row.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Arrival {
    /// The table, by its place in the plan.
    pub(super) table: usize,
    pub(super) key: Vec<Value>,
    /// Which image the hub had before; `None`: nobody knows.
    pub(super) old: Option<String>,
    /// The same row, where its columns may be decided about one by one.
    pub(super) before: Option<Vec<Value>>,
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
        let both = here.as_deref().zip(arrival.before.as_deref()).zip(arrival.new.as_deref());
        if let Some(((here, before), there)) = both
            && is_conflict
            && self.policies[arrival.table].merges()
            && self.merge(mirror, nth, arrival, [here, before, there], applied)?
        {
            return Ok(());
        }
        if is_conflict {
            let wins = arrival.is_ours || self.here_wins(mirror, arrival, here.as_deref(), &image_here)?;
            if wins {
                if !arrival.is_ours {
                    self.list(
                        mirror,
                        arrival,
                        (here.as_deref(), arrival.new.as_deref()),
                        true,
                        None,
                        applied,
                    )?;
                }
                applied.kept.push(nth);
                return self.note(mirror, arrival, image_there, None, applied);
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
            self.list(mirror, arrival, (here.as_deref(), arrival.new.as_deref()), false, None, applied)?;
        }
        self.note(mirror, arrival, image_there, None, applied)
    }

    /// Gives a row that both sides have changed each column as the side has it that has changed it; of those that both have, the policy decides.
    /// `false`: that cannot be, and nothing is done. The hub gets what is here as any other change.
    fn merge(
        &self,
        mirror: &Mirror,
        nth: usize,
        arrival: &Arrival,
        [here, before, there]: [&[Value]; 3],
        applied: &mut Applied,
    ) -> Result<bool, Error> {
        let table = &self.tables[arrival.table];
        // One that was refused is here as it was before that: what differs was not changed here.
        if arrival.is_ours || mirror.item(&refused_item(&table.name, &arrival.key))?.is_some() {
            return Ok(false);
        }
        let image_here = image(Some(here));
        let (here_wins, here_ms) = (
            self.here_wins(mirror, arrival, Some(here), &image_here)?,
            self.changed_ms(mirror, arrival, &image_here)?,
        );
        let (mut row, mut disputed) = (there.to_vec(), vec![]);
        for (nth, value) in row.iter_mut().enumerate() {
            let (is_here, is_there) = (here[nth] != before[nth], there[nth] != before[nth]);
            let is_disputed = is_here && is_there && here[nth] != there[nth];
            if is_disputed {
                disputed.push(nth);
            }
            if is_here && (here_wins || !is_disputed) {
                value.clone_from(&here[nth]);
            }
        }
        if let Written::Forbidden(_) = mirror.put(table, &row)? {
            return Ok(false);
        }
        if !disputed.is_empty() {
            self.list(mirror, arrival, (Some(here), Some(there)), here_wins, Some(&disputed), applied)?;
        }
        let image_now = image(Some(&row));
        if image_now == image_here {
            applied.kept.push(nth);
        }
        let merged = here_ms.map(|ms| (image_now, ms));
        self.note(mirror, arrival, image(Some(there)), merged, applied)?;
        Ok(true)
    }

    fn here_wins(
        &self,
        mirror: &Mirror,
        arrival: &Arrival,
        here: Option<&[Value]>,
        image_here: &str,
    ) -> Result<bool, Error> {
        Ok(match self.policies[arrival.table] {
            Policy::Server | Policy::MergeServer => false,
            Policy::Sqlite | Policy::MergeSqlite => true,
            Policy::Latest | Policy::MergeLatest => match (here, &arrival.new) {
                (None, Some(_)) => false,
                (Some(_), None) => true,
                _ => {
                    let Some((there_ms, node)) = &arrival.made else { return Ok(false) };
                    match self.changed_ms(mirror, arrival, image_here)? {
                        Some(here_ms) => (here_ms, &self.node) > (*there_ms, node),
                        // The log has not come to it: nothing is later.
                        None => true,
                    }
                }
            },
        })
    }

    /// When a row was changed here; `None`: later than what the log has.
    fn changed_ms(&self, mirror: &Mirror, arrival: &Arrival, image_here: &str) -> Result<Option<i64>, Error> {
        let id = row_id(&self.tables[arrival.table].name, &arrival.key);
        if let Some((_, ms)) = self.changed.get(&id).filter(|(image, _)| image == image_here) {
            return Ok(Some(*ms));
        }
        let Some(seen) = mirror.item(&format!("{SEEN}{id}"))? else { return Ok(None) };
        Ok(parsed::<Seen>(&seen)?.changed_ms(image_here))
    }

    /// Keeps both images of a conflict, or of them only these columns.
    fn list(
        &self,
        mirror: &Mirror,
        arrival: &Arrival,
        (here, there): (Option<&[Value]>, Option<&[Value]>),
        here_wins: bool,
        columns: Option<&[usize]>,
        applied: &mut Applied,
    ) -> Result<(), Error> {
        applied.conflicts += 1;
        let table = &self.tables[arrival.table];
        let count: u64 = mirror.item(CONFLICTS)?.and_then(|count| count.parse().ok()).unwrap_or(0);
        let all: Vec<usize> = (0..table.columns.len()).collect();
        let columns = columns.unwrap_or(&all);
        let of = |row: &[Value]| columns.iter().map(|nth| key_text(&row[*nth])).collect();
        let (here, there) = (here.map(of), there.map(of));
        let (kept, lost) = if here_wins { (here, there) } else { (there, here) };
        let conflict = Conflict {
            table: table.name.clone(),
            key: texts(&arrival.key),
            at_ms: SystemClock.unix_ms(),
            winner: if here_wins { "sqlite" } else { "server" }.to_owned(),
            kept,
            lost,
            columns: columns.iter().map(|nth| table.columns[*nth].name.clone()).collect(),
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
        merged: Option<(String, i64)>,
        applied: &mut Applied,
    ) -> Result<(), Error> {
        let item = format!("{SEEN}{}", row_id(&self.tables[arrival.table].name, &arrival.key));
        let seen = Seen { commit: self.commit, image, key: texts(&arrival.key), merged };
        mirror.set(&item, Some(&json(&seen)))?;
        applied.seen.push(item);
        Ok(())
    }
}

fn lost_item(nth: u64) -> String {
    format!("{LOST}{nth:016}")
}
