//! Changes in both directions.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use litekeep_env::{Clock as _, SystemClock};

use super::TwoWay;
use super::inward::Arrival;
use super::state::{Follows, Kept, Plan, Says, Stage, Waits, image};
use crate::gathering::Gathering;
use crate::hub::Hub;
use crate::ledger::row_id;
use crate::push::Step;
use crate::source::{Event, Incoming};
use crate::{Error, Value};

/// Changes of the hub's that are put together at most, unless one transaction alone has more.
const BATCH: usize = 2_000;
/// Between two looks at the log, and where each is a request.
const LOOK: Duration = Duration::from_millis(50);
const ASK: Duration = Duration::from_millis(200);
/// Between two questions to the hub where everything is here.
const ASKS_MS: i64 = 10_000;
/// So many times nothing comes from a hub that has answered and is current.
const SILENCE: u32 = 10;
/// Between two marks of how far it is where nothing has come.
const MARK_MS: i64 = 60_000;

/// Changes of the hub's on their way.
pub(super) struct Inflow {
    /// Where the hub was when it began: there it is current for the first time.
    goal: String,
    /// Up to where everything has come, and the last push of ours in it.
    reached: String,
    pushes: u64,
    /// Transactions that have ended.
    ended: Vec<Incomings>,
    gathering: Gathering,
    /// How many changes they have.
    count: usize,
    /// The one that is coming.
    coming: Incomings,
    is_answered: bool,
    silence: u32,
    is_current: bool,
    asked_ms: i64,
    marked_ms: i64,
}

impl Inflow {
    fn is_between(&self) -> bool {
        self.coming.changes.is_empty() && self.coming.says.is_none()
    }
}

/// A transaction of the hub's.
#[derive(Default)]
struct Incomings {
    says: Option<Says>,
    changes: Vec<(usize, Incoming)>,
    position: String,
    time_ms: i64,
}

impl<H: Hub> TwoWay<H> {
    /// Takes what has come, and pushes what was changed.
    pub(super) async fn follow(&mut self) -> Result<Step, Error> {
        if !self.open_feed().await? {
            return Ok(Step::More);
        }
        if self.inflow.is_none() {
            self.begin_inflow().await?;
        }
        let is_more = self.read_log().await?;
        let pushed = self.push_due().await?;
        let patience = match (is_more || pushed, &self.settings.durable) {
            (true, _) => Duration::ZERO,
            (false, Some(_)) => LOOK,
            (false, None) => ASK,
        };
        let is_at_rest = self.take(patience).await?;
        let (Some(way), Some(inflow)) = (&self.way, &self.inflow) else { return Ok(Step::More) };
        // What waits for the log to go on may wait long.
        let is_current = is_at_rest && !is_more && !pushed && inflow.is_current && way.flights.is_empty();
        Ok(if is_current { Step::Current } else { Step::More })
    }

    async fn begin_inflow(&mut self) -> Result<(), Error> {
        let Some(Kept { plan, stage: Stage::Following(follows), .. }) = &self.kept else { return Ok(()) };
        let (position, pushes) = (follows.position.clone(), follows.pushes);
        self.hub.follow(&plan.slot, &plan.tables, &position).await?;
        let goal = self.hub.position().await?;
        self.inflow = Some(Inflow {
            goal,
            reached: position,
            pushes,
            ended: vec![],
            gathering: Gathering::default(),
            count: 0,
            coming: Incomings::default(),
            is_answered: false,
            silence: 0,
            is_current: false,
            asked_ms: 0,
            marked_ms: SystemClock.unix_ms(),
        });
        Ok(())
    }

    /// Takes what comes, and waits for it only so long. Whether nothing has come.
    async fn take(&mut self, patience: Duration) -> Result<bool, Error> {
        loop {
            let Some(inflow) = &mut self.inflow else { return Ok(false) };
            let waits = !inflow.ended.is_empty();
            let Some(patience) = inflow.gathering.patience(waits, patience, Instant::now()) else {
                self.commit_ended().await?;
                return Ok(false);
            };
            let Ok(event) = tokio::time::timeout(patience, self.hub.next()).await else {
                if !inflow.ended.is_empty() {
                    self.commit_ended().await?;
                    return Ok(false);
                }
                return self.rest(!patience.is_zero()).await;
            };
            match event? {
                Event::Said { content } => inflow.coming.says = serde_json::from_str(&content).ok(),
                Event::Change { table, change } => inflow.coming.changes.push((table, change)),
                Event::Commit { position, time_ms } => {
                    let ended = std::mem::take(&mut inflow.coming);
                    inflow.count += ended.changes.len();
                    inflow.ended.push(Incomings { position, time_ms, ..ended });
                    if inflow.count >= BATCH {
                        self.commit_ended().await?;
                        return Ok(false);
                    }
                }
                Event::Alive { position, wants_answer } => {
                    (inflow.is_answered, inflow.silence) = (true, 0);
                    let (is_between, has_ended) = (inflow.is_between(), !inflow.ended.is_empty());
                    // What has ended is before it.
                    self.commit_ended().await?;
                    if let Some(inflow) = self.inflow.as_mut().filter(|_| is_between) {
                        inflow.reached = position;
                    }
                    if wants_answer {
                        self.confirm(false).await?;
                    }
                    if has_ended {
                        return Ok(false);
                    }
                }
                Event::Table { table, .. } | Event::Grows { table, .. } => {
                    self.stand_still(table, "its columns were changed there".to_owned()).await?;
                }
                Event::Gone { table, reason } => self.stand_still(table, reason).await?,
            }
        }
    }

    async fn stand_still(&mut self, nth: usize, reason: String) -> Result<(), Error> {
        self.commit_ended().await?;
        let Some(kept) = &self.kept else { return Ok(()) };
        let table = kept.plan.tables[nth].mirror.name.clone();
        self.pause(table, reason).await
    }

    /// Tells the hub that it need not keep what is on disk here.
    async fn confirm(&mut self, asks: bool) -> Result<(), Error> {
        let Some(Kept { stage: Stage::Following(follows), .. }) = &self.kept else { return Ok(()) };
        let position = follows.position.clone();
        self.hub.confirm(&position, asks).await
    }

    /// Nothing has come for a while. Whether nothing is under way.
    async fn rest(&mut self, has_waited: bool) -> Result<bool, Error> {
        let (Some(inflow), Some(way)) = (&self.inflow, &self.way) else { return Ok(false) };
        let Some(Kept { stage: Stage::Following(follows), .. }) = &self.kept else { return Ok(false) };
        let is_between = inflow.is_between();
        let now_ms = SystemClock.unix_ms();
        let is_due = |work: &super::state::Work| match &work.waits {
            Waits::Until(until) => {
                self.hub.is_at(&inflow.reached, until) && !self.hub.is_at(&follows.position, until)
            }
            _ => false,
        };
        let is_waited_for = way.works.values().any(is_due);
        let is_late = now_ms - inflow.marked_ms >= MARK_MS;
        if is_between && inflow.reached != follows.position && (is_late || is_waited_for) {
            let stage = self.advanced(None);
            if let Some(stage) = stage {
                self.commit(stage, |_| Ok(())).await?;
            }
        }
        let waits = self.way.iter().flat_map(|way| way.works.values());
        let is_waiting = waits.into_iter().any(|work| matches!(work.waits, Waits::Until(_)));
        let (Some(inflow), Some(Kept { stage: Stage::Following(follows), .. })) =
            (&mut self.inflow, &self.kept)
        else {
            return Ok(false);
        };
        if is_late {
            inflow.marked_ms = now_ms;
        }
        let asks = !inflow.is_current || is_waiting || now_ms - inflow.asked_ms >= ASKS_MS;
        inflow.silence += u32::from(has_waited);
        // The end of a server's log may be beyond all that it has to send.
        let is_silent = inflow.is_answered && inflow.silence >= SILENCE;
        inflow.is_current |= is_silent
            || self.hub.is_at(&inflow.reached, &inflow.goal)
            || self.hub.is_at(&follows.position, &inflow.goal);
        if asks {
            inflow.asked_ms = now_ms;
            self.confirm(true).await?;
        }
        Ok(is_between)
    }

    /// The stage at what has come.
    fn advanced(&self, at_ms: Option<i64>) -> Option<Stage> {
        let (Some(inflow), Some(Kept { stage: Stage::Following(follows), .. })) = (&self.inflow, &self.kept)
        else {
            return None;
        };
        Some(Stage::Following(Follows {
            position: inflow.reached.clone(),
            server: follows.server.clone(),
            time_ms: at_ms.or(follows.time_ms),
            pushes: inflow.pushes,
            commits: follows.commits + 1,
        }))
    }

    /// Applies the transactions that have ended.
    async fn commit_ended(&mut self) -> Result<(), Error> {
        let (Some(inflow), Some(way), Some(kept)) = (&mut self.inflow, &mut self.way, &self.kept) else {
            return Ok(());
        };
        let ended = std::mem::take(&mut inflow.ended);
        inflow.count = 0;
        let Some(last) = ended.last() else { return Ok(()) };
        let time_ms = last.time_ms;
        inflow.reached.clone_from(&last.position);
        let policies = &self.settings.policies;
        let merges = |nth: usize| policies.of(&kept.plan.tables[nth].mirror.name).merges();
        let (mut arrivals, mut emptied) = (vec![], vec![]);
        for Incomings { says, changes, time_ms, .. } in ended {
            let ours = says.as_ref().filter(|says| says.node == kept.plan.slot).map(|says| says.push);
            let made = match &says {
                Some(says) => (says.time_ms, says.node.clone()),
                None => (time_ms, String::new()),
            };
            let (rows, cleared) = by_row(&kept.plan, changes, ours.is_some());
            emptied.extend(cleared);
            for row in rows {
                let mut arrival = Arrival {
                    table: row.table,
                    key: row.key,
                    old: Some(image(row.before.as_deref())),
                    before: row.before.filter(|_| merges(row.table)),
                    new: row.after,
                    made: Some(made.clone()),
                    is_ours: false,
                };
                match (way.flights.get(&row.id), ours) {
                    (Some((push, written)), Some(ours)) if *push == ours => {
                        // What a rule there has made of it comes like any other change.
                        let is_as_written = image(arrival.new.as_deref()) == *written;
                        (arrival.old, arrival.is_ours) = (Some(written.clone()), true);
                        way.flights.remove(&row.id);
                        if !is_as_written {
                            arrivals.push(arrival);
                        }
                    }
                    // It was before what was written over it.
                    (Some(_), _) => {}
                    (None, _) => arrivals.push(arrival),
                }
            }
            if let Some(ours) = ours {
                inflow.pushes = inflow.pushes.max(ours);
                way.flights.retain(|_, (push, _)| *push > ours);
            }
        }
        // Only ours has come: that is kept now and then.
        if !arrivals.is_empty() {
            inflow.marked_ms = SystemClock.unix_ms();
            if let Some(stage) = self.advanced(Some(time_ms)) {
                self.arrive(stage, arrivals).await?;
            }
            self.confirm(false).await?;
        }
        for nth in emptied {
            let Some(kept) = &self.kept else { return Ok(()) };
            let table = kept.plan.tables[nth].mirror.name.clone();
            self.pause(
                table,
                "it was emptied there by TRUNCATE, which says nothing of single rows".to_owned(),
            )
            .await?;
        }
        Ok(())
    }
}

/// A row of a transaction.
struct Row {
    id: String,
    table: usize,
    key: Vec<Value>,
    before: Option<Vec<Value>>,
    after: Option<Vec<Value>>,
}

/// The changes of a transaction row by row, of which an update that changes the key has two; and the tables that it has emptied. `nets`: each row
/// once, as it was before and is after all of them.
fn by_row(plan: &Plan, changes: Vec<(usize, Incoming)>, nets: bool) -> (Vec<Row>, Vec<usize>) {
    let (mut rows, mut emptied): (Vec<Row>, Vec<usize>) = (vec![], vec![]);
    let mut places: HashMap<String, usize> = HashMap::new();
    for (table, change) in changes {
        let Incoming::Images { before, after } = change else {
            emptied.push(table);
            continue;
        };
        let mirror = &plan.tables[table].mirror;
        let key_of =
            |row: &Vec<Value>| -> Vec<Value> { mirror.key.iter().map(|nth| row[*nth].clone()).collect() };
        let halves = match (before.as_ref().map(key_of), after.as_ref().map(key_of)) {
            (Some(old), Some(new)) if old != new => vec![(old, before, None), (new, None, after)],
            (Some(key), _) | (None, Some(key)) => vec![(key, before, after)],
            (None, None) => vec![],
        };
        for (key, before, after) in halves {
            let id = row_id(&mirror.name, &key);
            if let Some(nth) = places.get(&id).filter(|_| nets) {
                rows[*nth].after = after;
                continue;
            }
            places.insert(id.clone(), rows.len());
            rows.push(Row { id, table, key, before, after });
        }
    }
    (rows, emptied)
}
