//! Changes of a source, on their way into SQLite.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use litekeep_env::{Clock as _, SystemClock};

use super::apply::{Applied, apply, size};
use super::sieve::Sieve;
use super::state::{Kept, Stage, changed, kept, with_more};
use super::{Pull, let_go};
use crate::Error;
use crate::gathering::Gathering;
use crate::ledger::{PAUSED, PLAN, text as json};
use crate::push::Step;
use crate::source::{Event, Incoming, Source, SourceTable};

/// Changes that are put together at most, in rows and bytes, unless one transaction alone has more.
const BATCH: usize = 2_000;
const BATCH_BYTES: usize = 8 << 20;
/// How long is waited where nothing has.
const QUIET: Duration = Duration::from_millis(200);
/// The same once everything is here, and between two questions to the source then.
const IDLE: Duration = Duration::from_secs(2);
const ASKS_MS: i64 = 10_000;
/// So many times nothing comes from a source that has answered and is current.
const SILENCE: u32 = 5;
/// Between two marks of how far it is where nothing has come: each is a write, and until then the server keeps its log.
const MARK_MS: i64 = 60_000;

/// Changes on their way.
pub(super) struct Following {
    /// What is let through of the tables, by their places in the plan.
    sieves: Vec<Sieve>,
    /// Where the source was when it began: there it is current for the first time.
    goal: String,
    /// Up to where everything has come.
    reached: String,
    changes: Vec<(usize, Incoming)>,
    bytes: usize,
    /// How many of the changes are of transactions that have ended, and where the last of these ended, and when.
    ended: Option<(usize, String, i64)>,
    gathering: Gathering,
    /// A part of a transaction is applied and not committed.
    pub(super) is_open: bool,
    /// The source has told how far it is.
    is_answered: bool,
    /// How often nothing has come since.
    silence: u32,
    marked_ms: i64,
    /// Everything was here once.
    is_current: bool,
    asked_ms: i64,
}

impl Following {
    fn is_between_transactions(&self) -> bool {
        let ended = self.ended.as_ref().map_or(0, |(count, ..)| *count);
        !self.is_open && self.changes.len() == ended
    }
}

impl<S: Source> Pull<S> {
    /// Applies what has come, as much as makes a batch.
    pub(super) async fn follow(&mut self) -> Result<Step, Error> {
        let Some(Kept { plan, stage: Stage::Following { position, .. }, .. }) = &self.kept else {
            return Ok(Step::More);
        };
        let confirmed = position.clone();
        if self.following.is_none() {
            let sieves = plan.tables.iter().map(Sieve::of).collect::<Result<_, _>>()?;
            self.source.follow(&plan.slot, &plan.tables, position).await?;
            let goal = self.source.position().await?;
            self.following = Some(Following {
                sieves,
                goal,
                reached: position.clone(),
                changes: vec![],
                bytes: 0,
                ended: None,
                gathering: Gathering::default(),
                is_open: false,
                is_answered: false,
                silence: 0,
                marked_ms: SystemClock.unix_ms(),
                is_current: false,
                asked_ms: 0,
            });
        }
        loop {
            let Some(following) = &mut self.following else { return Ok(Step::More) };
            let otherwise = if following.is_current { IDLE } else { QUIET };
            let patience = following.gathering.patience(following.ended.is_some(), otherwise, Instant::now());
            let Some(patience) = patience else {
                self.commit_ended().await?;
                return Ok(Step::More);
            };
            let Ok(event) = tokio::time::timeout(patience, self.source.next()).await else {
                if following.ended.is_some() {
                    self.commit_ended().await?;
                    return Ok(Step::More);
                }
                return self.rest().await;
            };
            match event? {
                Event::Change { table, change } => {
                    following.bytes += size(&change);
                    following.changes.push((table, change));
                    if following.bytes >= BATCH_BYTES {
                        if following.ended.is_some() {
                            self.commit_ended().await?;
                            return Ok(Step::More);
                        }
                        self.apply_open().await?;
                    }
                }
                Event::Commit { position, time_ms } => {
                    following.ended = Some((following.changes.len(), position, time_ms));
                    if following.changes.len() >= BATCH || following.bytes >= BATCH_BYTES || following.is_open
                    {
                        self.commit_ended().await?;
                        return Ok(Step::More);
                    }
                }
                Event::Said { .. } => {}
                Event::Alive { position, wants_answer } => {
                    if following.is_between_transactions() {
                        following.reached = position;
                    }
                    (following.is_answered, following.silence) = (true, 0);
                    if wants_answer {
                        self.source.confirm(&confirmed, false).await?;
                    }
                }
                Event::Table { table, .. } | Event::Grows { table, .. } | Event::Gone { table, .. }
                    if self.stands_still(table) => {}
                Event::Table { table, now, position } => {
                    self.leave_off().await?;
                    self.table_changed(table, &now, position).await?;
                    return Ok(Step::More);
                }
                Event::Grows { table, now } => {
                    self.leave_off().await?;
                    self.table_grows(table, &now).await?;
                    return Ok(Step::More);
                }
                Event::Gone { table, reason } => {
                    self.leave_off().await?;
                    self.pause(table, reason).await?;
                    return Ok(Step::More);
                }
            }
        }
    }

    /// Nothing has come for a while.
    async fn rest(&mut self) -> Result<Step, Error> {
        let (Some(following), Some(Kept { stage: Stage::Following { position, .. }, .. })) =
            (&self.following, &self.kept)
        else {
            return Ok(Step::More);
        };
        let mut position = position.clone();
        let now_ms = SystemClock.unix_ms();
        let is_late = now_ms - following.marked_ms >= MARK_MS;
        if is_late && following.is_between_transactions() && following.reached != position {
            position = following.reached.clone();
            self.mark(position.clone(), None).await?;
        }
        let Some(following) = &mut self.following else { return Ok(Step::More) };
        if is_late {
            following.marked_ms = now_ms;
        }
        if !following.is_current || now_ms - following.asked_ms >= ASKS_MS {
            following.asked_ms = now_ms;
            self.source.confirm(&position, true).await?;
        }
        following.silence += 1;
        // The end of a server's log may be beyond all that it has to send.
        let is_silent = following.is_answered && following.silence >= SILENCE;
        following.is_current |= is_silent
            || self.source.is_at(&following.reached, &following.goal)
            || self.source.is_at(&position, &following.goal);
        Ok(if following.is_current && following.is_between_transactions() {
            Step::Current
        } else {
            Step::More
        })
    }

    async fn mark(&mut self, position: String, time_ms: Option<i64>) -> Result<(), Error> {
        let Some(stage) = self.advanced(position, time_ms) else { return Ok(()) };
        self.commit(stage, |_| Ok(())).await
    }

    /// The stage at a further position.
    fn advanced(&self, position: String, at_ms: Option<i64>) -> Option<Stage> {
        let Stage::Following { server, time_ms, consistent_at, .. } = &self.kept.as_ref()?.stage else {
            return None;
        };
        let (server, consistent_at) = (server.clone(), consistent_at.clone());
        Some(Stage::Following { position, server, time_ms: at_ms.or(*time_ms), consistent_at })
    }

    /// What has come is applied with this.
    fn applied(&self) -> Applied {
        let (Some(Kept { plan, paused, refused, .. }), Some(following)) = (&self.kept, &self.following)
        else {
            return Applied { tables: vec![], paused: BTreeSet::new(), any_refused: false, is_cache: false };
        };
        let tables = plan.tables.iter().map(|table| table.mirror.clone()).zip(following.sieves.clone());
        let stands = |table: &SourceTable| paused.iter().any(|(paused, _)| *paused == table.source);
        let paused = plan.tables.iter().enumerate().filter(|(_, table)| stands(table)).map(|(nth, _)| nth);
        let is_cache = self.settings.cut.others_are_asked_for;
        Applied { tables: tables.collect(), paused: paused.collect(), any_refused: *refused > 0, is_cache }
    }

    /// Commits the transactions that have ended.
    async fn commit_ended(&mut self) -> Result<(), Error> {
        let Some(following) = &mut self.following else { return Ok(()) };
        let Some((count, position, time_ms)) = following.ended.take() else { return Ok(()) };
        let rest = following.changes.split_off(count);
        let mut changes = std::mem::replace(&mut following.changes, rest);
        following.bytes = following.changes.iter().map(|(_, change)| size(change)).sum();
        following.reached.clone_from(&position);
        following.marked_ms = SystemClock.unix_ms();
        self.complete(&mut changes).await?;
        let with = self.applied();
        let Some(stage) = self.advanced(position.clone(), Some(time_ms)) else { return Ok(()) };
        let listed = self.commit(stage, move |mirror| apply(mirror, &with, changes)).await?;
        self.count(listed);
        self.source.confirm(&position, false).await
    }

    /// Applies a part of a transaction that is too big to be held.
    async fn apply_open(&mut self) -> Result<(), Error> {
        let Some(following) = &mut self.following else { return Ok(()) };
        let mut changes = std::mem::take(&mut following.changes);
        following.bytes = 0;
        let was_open = std::mem::replace(&mut following.is_open, true);
        self.complete(&mut changes).await?;
        let with = self.applied();
        let listed = self.local.on(move |mirror| {
            if !was_open {
                mirror.begin(true)?;
            }
            let applied = apply(mirror, &with, changes);
            if applied.is_err() {
                mirror.roll_back();
            }
            applied
        });
        let listed = listed.await?;
        self.count(listed);
        Ok(())
    }

    pub(super) fn stands_still(&self, nth: usize) -> bool {
        self.kept.as_ref().is_some_and(|kept| {
            let source = &kept.plan.tables[nth].source;
            kept.paused.iter().any(|(paused, _)| paused == source)
        })
    }

    /// Commits what has come whole, and lets go of the rest, which comes again.
    async fn leave_off(&mut self) -> Result<(), Error> {
        if self.following.as_ref().is_some_and(|following| following.is_open) {
            let items = self.local.on(|mirror| {
                mirror.roll_back();
                Ok(mirror.items()?)
            });
            self.kept = kept(&items.await?)?;
        } else {
            self.commit_ended().await?;
        }
        self.following = None;
        Ok(())
    }

    async fn pause(&mut self, nth: usize, reason: String) -> Result<(), Error> {
        let Some(kept) = &mut self.kept else { return Ok(()) };
        let table = kept.plan.tables[nth].source.clone();
        tracing::warn!(sync = self.settings.name, "the table `{table}` stands still: {reason}");
        let (item, text, stage) = (format!("{PAUSED}{table}"), reason.clone(), kept.stage.clone());
        kept.paused.push((table, reason));
        self.commit(stage, move |mirror| Ok(mirror.set(&item, Some(&text)).map(drop)?)).await
    }

    /// Further columns follow, with their values; a table that changed otherwise stands still.
    async fn table_changed(
        &mut self,
        nth: usize,
        now: &SourceTable,
        after: Option<String>,
    ) -> Result<(), Error> {
        let Some(Kept { stage: Stage::Following { position, server, .. }, .. }) = &self.kept else {
            return Ok(());
        };
        let (position, server) = (after.unwrap_or_else(|| position.clone()), server.clone());
        // Where values have changed with the columns, rows may fulfil a condition no more.
        let sweeps = self.kept.as_ref().is_some_and(|kept| kept.plan.tables[nth].part.condition.is_some());
        // Rows that are there may have values in the further columns, which did not come.
        let is_asked_for = self.kept.as_ref().is_some_and(|kept| kept.plan.tables[nth].part.is_asked_for);
        let tables = if is_asked_for { vec![] } else { vec![nth] };
        let stage = Stage::Copying { position, server, tables, after: None, rows: 0, sweeps };
        self.widen(nth, now, stage).await
    }

    /// Further columns follow, in which rows that are here have nothing.
    async fn table_grows(&mut self, nth: usize, now: &SourceTable) -> Result<(), Error> {
        let Some(stage) = self.kept.as_ref().map(|kept| kept.stage.clone()) else { return Ok(()) };
        self.widen(nth, now, stage).await
    }

    async fn widen(&mut self, nth: usize, now: &SourceTable, stage: Stage) -> Result<(), Error> {
        let Some(kept) = &mut self.kept else { return Ok(()) };
        let known = &kept.plan.tables[nth];
        let Some(longer) = with_more(known, now) else {
            let reason = changed(known, now);
            return self.pause(nth, reason).await;
        };
        let mirrored = longer.mirror.clone();
        kept.plan.tables[nth] = longer;
        let plan = json(&kept.plan);
        let table = kept.plan.tables[nth].clone();
        self.commit(stage, move |mirror| {
            mirror.add_columns(&mirrored)?;
            let_go(mirror, &table)?;
            mirror.set(PLAN, Some(&plan)).map(drop).map_err(Error::from)
        })
        .await
    }
}
