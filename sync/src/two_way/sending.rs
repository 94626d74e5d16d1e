//! Rows on their way to the hub.

use std::collections::{BTreeMap, HashMap};

use litekeep_env::{Clock as _, SystemClock};
use litekeep_ltx::Txid;
use litekeep_rows::Selection;
use litekeep_rows::retry::Lacking;
use litekeep_sql::SYNC_TABLE;

use super::TwoWay;
use super::inward::Arrival;
use super::outward::{Diff, Way, found};
use super::state::{Kept, Outward, Says, Seen, Stage, Waits, Work, image, values};
use crate::hub::{Hub, Writing};
use crate::ledger::{STAGE, row_id, text as json};
use crate::local::Local;
use crate::push::{DATABASE, parsed as txid_of};
use crate::{Error, Kind, Value};

/// Rows that are put together at most, unless one file of the log has more.
const BATCH: usize = 2_000;
/// Between two marks of how far the log was read where nothing was to be pushed: each is a transaction there.
const MARK_MS: i64 = 60_000;

impl<H: Hub> TwoWay<H> {
    /// Begins to read the log; `false`: it cannot be followed, and all rows are compared.
    pub(super) async fn open_feed(&mut self) -> Result<bool, Error> {
        let Some(way) = &mut self.way else { return Ok(false) };
        if way.feed.is_some() {
            return Ok(true);
        }
        let Some(Outward { txid, time_ms, .. }) = &way.at else { return Ok(false) };
        let (at, time_ms) = (txid_of(txid)?, *time_ms);
        let mut wanted = Selection { tables: self.settings.push.tables.clone(), ..Selection::default() };
        if !wanted.tables.is_empty() {
            wanted.tables.push(SYNC_TABLE.to_owned());
        }
        match self.settings.push.feed((at, time_ms), &wanted).await {
            Err(error) if error.kind() == Kind::Unavailable => return Err(error),
            Err(error) => {
                self.compare_anew(&error.to_string()).await?;
                return Ok(false);
            }
            Ok(feed) => {
                way.read = Some((at, time_ms));
                way.diff = Diff::default();
                way.feed = Some(feed);
            }
        }
        Ok(true)
    }

    /// Reads what the log has more, as much as makes a batch. Whether there may be more of it.
    pub(super) async fn read_log(&mut self) -> Result<bool, Error> {
        let asked = match &self.settings.durable {
            Some(durable) => durable.0(),
            None => None,
        };
        loop {
            let (Some(way), Some(kept)) = (&mut self.way, &self.kept) else { return Ok(false) };
            let (Some(feed), Some((read, _))) = (&mut way.feed, way.read) else { return Ok(false) };
            if way.works.values().filter(|work| work.waits == Waits::Due).count() >= BATCH {
                return Ok(true);
            }
            if self.settings.durable.is_some() && asked.is_none_or(|asked| asked <= read) {
                return Ok(false);
            }
            let part = feed.next().await.inspect_err(|_| self.settings.push.logs.leave())?;
            let Some(part) = part else { return self.lacks_what_is_confirmed(read, asked).await };
            let (txid, time_ms, is_last) = (part.txid, part.time_ms, part.is_last);
            way.diff.add(&kept.plan, &self.settings.push.name, part)?;
            if !is_last {
                continue;
            }
            let mut diff = std::mem::take(&mut way.diff);
            let changed = std::mem::take(&mut diff.changed);
            if let Some(stage) = diff.stage.take() {
                way.seen = Some(stage);
            }
            let unknown = diff.fold(&mut way.works, time_ms);
            if !unknown.is_empty() {
                self.look_up(unknown, (txid, time_ms)).await?;
            }
            if let Some(way) = &mut self.way {
                way.read = Some((txid, time_ms));
            }
            self.wake();
            for (table, reason) in changed {
                self.pause(table, reason).await?;
            }
            // Of one that stands still all rows are compared before it goes on.
            if let (Some(way), Some(kept)) = (&mut self.way, &self.kept) {
                way.works.retain(|_, work| !kept.is_paused(work.table));
            }
        }
    }

    /// The log has nothing after a transaction; where more is confirmed, another copy of it is read before long.
    async fn lacks_what_is_confirmed(&mut self, read: Txid, asked: Option<Txid>) -> Result<bool, Error> {
        let lasts = self.lacking.lasts(Some(read));
        if asked > Some(read) {
            self.lacking.confirmed(Some(read));
        }
        if lasts.is_none_or(|lasts| lasts < Lacking::PATIENCE) {
            return Ok(false);
        }
        self.lacking = Lacking::default();
        if !self.settings.push.logs.have_more(read).await? {
            return Ok(false);
        }
        let message = format!("its backup ends at transaction {read} in the place where it is read");
        Err(Error::new(Kind::Unavailable, format!("{message}, and has more in another, which is read now")))
    }

    /// Rows that wait for what the pull was to bring by now.
    fn wake(&mut self) {
        let Some(way) = &mut self.way else { return };
        let Some(Stage::Following(follows)) = &way.seen else { return };
        let position = follows.position.clone();
        for work in way.works.values_mut() {
            if matches!(&work.waits, Waits::Until(until) if self.hub.is_at(&position, until)) {
                work.waits = Waits::Due;
                // The image that the hub has now is none that it had before.
                work.is_late = true;
            }
        }
    }

    /// Rows that the pull has come upon, and that are as they were: the state of the log says how that is.
    async fn look_up(
        &mut self,
        unknown: Vec<(String, Seen)>,
        (txid, time_ms): (Txid, i64),
    ) -> Result<(), Error> {
        let Some(kept) = &self.kept else { return Ok(()) };
        let (database, _) = self.settings.push.restored(txid).await?;
        let mut state = Local::default();
        state.open(&database.path().join(DATABASE), &self.settings.push.name, false).await?;
        let tables: Vec<_> = kept.plan.tables.iter().map(|table| table.mirror.clone()).collect();
        let look = move |mirror: &litekeep_sql::Mirror| {
            let mut rows = vec![];
            for (id, seen) in unknown {
                let name = id.rsplit_once('/').map_or("", |(name, _)| name);
                let Some(nth) = tables.iter().position(|table| table.name == name) else { continue };
                let row = mirror.row(&tables[nth], &values(&seen.key)?)?;
                rows.push(((id, seen), (nth, row)));
            }
            Ok(rows)
        };
        let rows = state.on(look).await?;
        let Some(way) = &mut self.way else { return Ok(()) };
        rows.into_iter().try_for_each(|(seen, row)| found(&mut way.works, seen, row, time_ms))
    }

    /// Writes what is due, over the images that are known. Whether there was anything.
    pub(super) async fn push_due(&mut self) -> Result<bool, Error> {
        self.wake();
        let (Some(way), Some(kept)) = (&self.way, &self.kept) else { return Ok(false) };
        let mut due: BTreeMap<usize, Vec<(String, Work)>> = BTreeMap::new();
        let works =
            way.works.iter().filter(|(_, work)| work.waits == Waits::Due && !kept.is_paused(work.table));
        for (id, work) in works {
            due.entry(work.table).or_default().push((id.clone(), work.clone()));
        }
        if due.is_empty() {
            return self.mark_read().await.map(|()| false);
        }
        let Kept { plan, stage, .. } = kept;
        let (plan, is_merging) = (plan.clone(), matches!(stage, Stage::Merging { .. }));
        let landed = match stage {
            Stage::Following(follows) => follows.pushes,
            Stage::Merging { .. } => 0,
        };
        let push = way.pushes() + 1;
        let time_ms = due.values().flatten().map(|(_, work)| work.time_ms).max().unwrap_or(0);
        let says = json(&Says { node: plan.slot.clone(), push, time_ms });
        self.hub.begin(&plan.slot, Some(&says)).await?;
        // All of them are locked before it is asked where the hub is: what others have done to them is before that.
        let mut there: HashMap<String, Vec<Value>> = HashMap::new();
        for (nth, works) in &due {
            let keys: Vec<Vec<Value>> = works.iter().map(|(_, work)| work.key.clone()).collect();
            let mirror = &plan.tables[*nth].mirror;
            for row in self.hub.lock(&plan.tables[*nth], &keys).await? {
                let key: Vec<Value> = mirror.key.iter().map(|nth| row[*nth].clone()).collect();
                there.insert(row_id(&mirror.name, &key), row);
            }
        }
        let until = self.hub.written().await?;
        let mut outcome = Outcome::default();
        let mut refused: Vec<(usize, Vec<(String, Work)>)> = vec![];
        for (nth, works) in due {
            let left = self.write_table(&plan.tables[nth], works, &there, &until, &mut outcome).await?;
            refused.push((nth, left));
        }
        // Those of one table may have been in the way of another's: as long as that helps, they are tried again.
        let count = |refused: &[(usize, Vec<(String, Work)>)]| -> usize {
            refused.iter().map(|(_, works)| works.len()).sum()
        };
        loop {
            let before = count(&refused);
            for (nth, works) in refused.iter_mut().filter(|(_, works)| !works.is_empty()) {
                let again = std::mem::take(works);
                *works = self.write_table(&plan.tables[*nth], again, &there, &until, &mut outcome).await?;
            }
            if count(&refused) == before {
                break;
            }
        }
        for (id, mut work) in refused.into_iter().flat_map(|(_, works)| works) {
            work.waits = outcome.reasons.remove(&id).map_or(Waits::Due, Waits::Refused);
            outcome.left.push((id, work));
        }
        let Some(way) = &mut self.way else { return Ok(false) };
        for (id, _) in &outcome.written {
            way.works.remove(id);
        }
        outcome.done.iter().for_each(|id| drop(way.works.remove(id)));
        way.works.extend(outcome.left);
        let mut items = way.pending(&plan);
        if outcome.written.is_empty() && items.is_empty() {
            self.hub.roll_back().await?;
            return self.settle(outcome.settled).await.map(|()| true);
        }
        let Some((txid, read_ms)) = way.read else { return Ok(false) };
        let at = Outward { txid: txid.to_string(), time_ms: read_ms, pushes: push, is_merging };
        let text = json(&at);
        items.push((STAGE.to_owned(), Some(text.clone())));
        if !outcome.written.is_empty() {
            items.push(Way::flight(push, &outcome.written));
            way.kept_flights.insert(push);
        }
        items.extend(way.landed(landed));
        self.hub.commit(&plan.slot, (STAGE, way.written.as_deref()), &items).await?;
        way.saved(&items);
        self.settings.push.logs.has_told();
        way.kept_flights.retain(|push| *push > landed);
        way.flights.extend(outcome.written.into_iter().map(|(id, image)| (id, (push, image))));
        (way.at, way.written, way.marked_ms) = (Some(at), Some(text), SystemClock.unix_ms());
        self.settle(outcome.settled).await.map(|()| true)
    }

    /// Writes rows of a table; those that the hub refuses.
    async fn write_table(
        &mut self,
        table: &crate::source::SourceTable,
        works: Vec<(String, Work)>,
        there: &HashMap<String, Vec<Value>>,
        until: &str,
        outcome: &mut Outcome,
    ) -> Result<Vec<(String, Work)>, Error> {
        let (mut writings, mut written) = (vec![], vec![]);
        for (id, mut work) in works {
            let row = there.get(&id);
            let image_there = image(row.map(Vec::as_slice));
            if image_there == image(work.want.as_deref()) {
                outcome.done.push(id);
                continue;
            }
            if image_there != work.base {
                if work.is_late {
                    // Nothing that comes will tell of this image.
                    outcome.settled.push(Arrival {
                        table: work.table,
                        key: work.key.clone(),
                        old: None,
                        before: None,
                        new: row.cloned(),
                        made: None,
                        is_ours: false,
                    });
                }
                (work.waits, work.is_late) = (Waits::Until(until.to_owned()), false);
                outcome.left.push((id, work));
                continue;
            }
            writings.push(Writing { key: work.key.clone(), is_there: row.is_some(), row: work.want.clone() });
            written.push((id, work));
        }
        if writings.is_empty() {
            return Ok(vec![]);
        }
        let refused: HashMap<usize, String> = self.hub.write(table, &writings).await?.into_iter().collect();
        let mut left = vec![];
        for (nth, (id, work)) in written.into_iter().enumerate() {
            match refused.get(&nth) {
                Some(reason) => {
                    outcome.reasons.insert(id.clone(), reason.clone());
                    left.push((id, work));
                }
                None => outcome.written.push((id, image(work.want.as_deref()))),
            }
        }
        Ok(left)
    }

    /// Decides about rows of which nothing comes that tells how the hub came to them.
    async fn settle(&mut self, arrivals: Vec<Arrival>) -> Result<(), Error> {
        let Some(Kept { stage: Stage::Following(follows), .. }) = &self.kept else { return Ok(()) };
        if arrivals.is_empty() {
            return Ok(());
        }
        let mut follows = follows.clone();
        follows.commits += 1;
        let ids: Vec<String> = arrivals
            .iter()
            .map(|arrival| {
                row_id(
                    self.kept.as_ref().map_or("", |kept| &kept.plan.tables[arrival.table].mirror.name),
                    &arrival.key,
                )
            })
            .collect();
        let applied = self.arrive(Stage::Following(follows), arrivals).await?;
        let Some(way) = &mut self.way else { return Ok(()) };
        for (nth, reason) in applied.forbidden {
            if let Some(work) = way.works.get_mut(&ids[nth]) {
                work.waits =
                    Waits::Refused(format!("the server has it otherwise, which cannot be here: {reason}"));
            }
        }
        Ok(())
    }

    /// Keeps how far the log was read, now and then.
    async fn mark_read(&mut self) -> Result<(), Error> {
        let (Some(way), Some(kept)) = (&mut self.way, &self.kept) else { return Ok(()) };
        let Stage::Following(follows) = &kept.stage else { return Ok(()) };
        let now_ms = SystemClock.unix_ms();
        if way.marked_ms == 0 {
            way.marked_ms = now_ms;
        }
        let is_read = |at: &Outward| way.read.is_some_and(|(txid, _)| txid.to_string() == at.txid);
        let is_new = !way.at.as_ref().is_some_and(is_read) || !way.landed(follows.pushes).is_empty();
        // What is not pending any more must not come back after a restart.
        let is_due = is_new && now_ms - way.marked_ms >= MARK_MS || !way.pending(&kept.plan).is_empty();
        if is_due {
            way.marked_ms = now_ms;
            self.keep_way(false).await?;
        }
        Ok(())
    }
}

/// How a push went.
#[derive(Default)]
struct Outcome {
    /// Rows that were written, with their images.
    written: Vec<(String, String)>,
    /// Rows that were as they shall be.
    done: Vec<String>,
    /// Rows that are not as they shall be.
    left: Vec<(String, Work)>,
    /// Why rows were refused.
    reasons: HashMap<String, String>,
    /// Rows to decide about.
    settled: Vec<Arrival>,
}
