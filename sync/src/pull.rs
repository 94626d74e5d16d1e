//! From a source to SQLite.
//!
//! First the source is made to keep changes, then the rows are copied as they are while it goes on, and then the changes are applied from the
//! moment before the copy on. What was copied later than a change has that change already; since each change says how its row is
//! then, all of it is as it was at one moment of the source as soon as the changes have come up to the end of the copy.

pub(crate) mod apply;
pub(crate) mod compare;
mod once;
mod part;
pub(crate) mod sieve;
pub(crate) mod state;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use litekeep_env::{Clock as _, SystemClock};
use litekeep_sql::{Mirror, MirrorTable, Written};

use self::apply::{Applied, apply, key_of, list, list_unfit, size};
use self::sieve::Sieve;
use self::state::{Kept, Plan, Stage, changed, damaged, found, kept, make, slot, with_more};
use crate::batch::Refused;
use crate::cache::shelf::{clear, drop_asked_for, forget_time};
use crate::cut::Cut;
use crate::ledger::{PAUSED, PLAN, REFUSED, STAGE, read_listed, text as json};
use crate::local::Local;
use crate::push::Step;
use crate::source::{Event, Incoming, Part, Rows, Source, SourceTable, Standing, surveyed};
use crate::target::{Listed, key_text, key_value};
use crate::worker::{Flow, Progress};
use crate::{Error, Kind, Value};

/// Changes that are put together at most, in rows and bytes, unless one transaction alone has more.
const BATCH: usize = 2_000;
const BATCH_BYTES: usize = 8 << 20;
/// How long more is waited for where something has come.
const GATHER: Duration = Duration::from_millis(5);
/// How long is waited where nothing has.
const QUIET: Duration = Duration::from_millis(200);
/// The same once everything is here, and between two questions to the source then.
const IDLE: Duration = Duration::from_secs(2);
const ASKS_MS: i64 = 10_000;
/// So many times nothing comes from a source that has answered and is current.
const SILENCE: u32 = 5;
/// Between two marks of how far it is where nothing has come: each is a write, and until then the server keeps its log.
const MARK_MS: i64 = 60_000;

/// What is pulled where to.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The sync's name.
    pub name: String,
    /// The database.
    pub database: PathBuf,
    /// It is made where it is not there.
    pub creates: bool,
    /// What of the tables comes.
    pub cut: Cut,
}

/// A pull on its way.
pub struct Pull<S: Source> {
    settings: Settings,
    source: S,
    local: Local,
    kept: Option<Kept>,
    /// Who the server is that it is connected to; `None`: it is connected to anew.
    server: Option<String>,
    /// The last step was not awaited to its end.
    is_under_way: bool,
    /// The table whose rows are on their way lets these through.
    copying: Option<Sieve>,
    following: Option<Following>,
}

/// Changes on their way.
struct Following {
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
    /// A part of a transaction is applied and not committed.
    is_open: bool,
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
    /// Opens nothing yet.
    pub fn new(settings: Settings, source: S) -> Pull<S> {
        Pull {
            settings,
            source,
            local: Local::default(),
            kept: None,
            server: None,
            is_under_way: false,
            copying: None,
            following: None,
        }
    }

    /// The source.
    pub fn source(&self) -> &S {
        &self.source
    }

    /// Runs something in a transaction of its own, at whose end the pull is at a stage.
    async fn commit<R: Send + 'static>(
        &mut self,
        stage: Stage,
        work: impl FnOnce(&Mirror) -> Result<R, Error> + Send + 'static,
    ) -> Result<R, Error> {
        let expected = self.kept.as_ref().map(|kept| json(&kept.stage));
        let (text, name) = (json(&stage), self.settings.name.clone());
        let is_open = self.following.as_mut().is_some_and(|following| std::mem::take(&mut following.is_open));
        let done = self.local.on(move |mirror| {
            if !is_open {
                mirror.begin(true)?;
            }
            let done = (|| {
                if mirror.item(STAGE)? != expected {
                    let message = format!("another litekeep runs the sync `{name}` in this database");
                    return Err(Error::with_hint(Kind::Invalid, message, "end one of them"));
                }
                let done = work(mirror)?;
                mirror.set(STAGE, Some(&text))?;
                mirror.commit()?;
                Ok(done)
            })();
            if done.is_err() {
                mirror.roll_back();
            }
            done
        });
        let done = done.await?;
        if let Some(kept) = &mut self.kept {
            kept.stage = stage;
        }
        Ok(done)
    }

    /// Opens the database; what it keeps.
    async fn open(&mut self) -> Result<BTreeMap<String, String>, Error> {
        let Settings { name, database, creates, .. } = self.settings.clone();
        if !creates && !database.exists() {
            let message = format!(
                "there is no `{}` yet, in which the rows of the sync `{name}` come",
                database.display()
            );
            let hint = format!("the application makes it, or `litekeep sync run {name}`");
            return Err(Error::with_hint(Kind::Unavailable, message, hint));
        }
        self.local.open(&database, &name, creates).await?;
        self.local.on(|mirror| Ok(mirror.items()?)).await
    }

    async fn connect(&mut self) -> Result<(), Error> {
        // One that is made is made when it is known what comes into it.
        let is_new = self.settings.creates && !self.settings.database.exists();
        self.kept = if is_new { None } else { kept(&self.open().await?)? };
        if let Some(kept) = &self.kept {
            self.settings.cut.is_same(&self.settings.name, &kept.plan.tables)?;
        }
        let server = self.source.connect().await?;
        if let Some(Kept { plan, stage, .. }) = &self.kept
            && let Stage::Copying { position, server: known, .. }
            | Stage::Following { position, server: known, .. } = stage
        {
            let name = &self.settings.name;
            if *known != server {
                let message = format!(
                    "{} is another server than the one that the sync `{name}` came from",
                    self.source.name()
                );
                let hint =
                    format!("`litekeep sync resync {name}` compares all rows, and goes on from this one");
                return Err(Error::with_hint(Kind::Invalid, message, hint));
            }
            let why = match self.source.standing(&plan.slot, position).await? {
                Standing::There => None,
                Standing::Gone => Some("keeps no changes for it any more"),
                Standing::Beyond => Some("has let go of changes that are not here"),
            };
            if let Some(why) = why {
                tracing::warn!(sync = name, "{} {why}: all rows are compared", self.source.name());
                self.commit(Stage::Preparing { sweeps: true }, |_| Ok(())).await?;
            }
        }
        self.server = Some(server);
        Ok(())
    }

    /// Compares all rows, from the present state of the source on. Tables that stood still go on.
    ///
    /// # Errors
    /// Those of the source and of the database; `Invalid` when a table cannot go on.
    pub async fn resync(&mut self) -> Result<(), Error> {
        self.begin_anew();
        self.kept = kept(&self.open().await?)?;
        let Some(kept) = &self.kept else {
            self.begin_anew();
            return Ok(());
        };
        let (slot, paused) = (kept.plan.slot.clone(), kept.paused.clone());
        let known = kept.plan.tables.clone();
        let here = known.clone();
        let here = self.local.on(move |mirror| {
            let is_here = here.into_iter().map(|table| Ok((mirror.has(&table.mirror)?, table)));
            is_here.collect::<Result<Vec<_>, Error>>()
        });
        let here: Vec<SourceTable> =
            here.await?.into_iter().filter(|(is_here, _)| *is_here).map(|(_, table)| table).collect();
        self.source.connect().await?;
        self.source.keep_to(&here);
        let tables = found(surveyed(&mut self.source, &self.settings.cut).await?)?;
        // What came for a condition only need not come any more.
        let kept_of = |old: &SourceTable| SourceTable { part: Part::default(), ..old.clone() };
        if let Some((old, new)) = known
            .iter()
            .filter_map(|old| Some((kept_of(old), tables.iter().find(|new| new.source == old.source)?)))
            .find(|(old, new)| old.mirror.name == new.mirror.name && with_more(old, new).is_none())
        {
            let message = format!("the table `{}` is not as it was: {}", new.source, changed(&old, new));
            let hint =
                format!("if its rows here can go: DROP TABLE {};", litekeep_sql::quoted(&old.mirror.name));
            // One that was dropped here is made anew.
            if here.iter().any(|table| table.source == old.source) {
                return Err(Error::with_hint(Kind::Invalid, message, hint));
            }
        }
        let plan = Plan { slot, tables };
        let text = json(&plan);
        let stage = Stage::Preparing { sweeps: true };
        let made = plan.tables.clone();
        self.commit(stage, move |mirror| {
            for table in &made {
                // One of the same name that is not of this sync is the application's.
                match known.iter().find(|old| old.mirror.name == table.mirror.name) {
                    Some(old) if mirror.has(&table.mirror)? => {
                        mirror.drop_columns(&old.mirror, &table.mirror)?;
                        mirror.add_columns(&table.mirror)?;
                    }
                    _ => make(mirror, table)?,
                }
            }
            for (table, _) in &paused {
                mirror.set(&format!("{PAUSED}{table}"), None)?;
            }
            mirror.set(PLAN, Some(&text)).map(drop).map_err(Error::from)
        })
        .await?;
        self.begin_anew();
        self.kept = None;
        Ok(())
    }

    /// Ends the sync: the source keeps nothing for it any more, and the database knows nothing of it. Rows stay.
    ///
    /// # Errors
    /// Those of the source and of the database.
    pub async fn forget(&mut self) -> Result<(), Error> {
        self.begin_anew();
        let items = self.open().await?;
        let Some(kept) = kept(&items)? else {
            let message = format!("the sync `{}` has not begun: nothing is kept for it", self.settings.name);
            return Err(Error::new(Kind::Invalid, message));
        };
        self.source.connect().await?;
        self.source.forget(&kept.plan.slot).await?;
        let tables = kept.plan.tables;
        self.commit_alone(move |mirror| tables.iter().try_for_each(|table| let_go(mirror, table))).await?;
        self.keep_nothing().await
    }

    async fn keep_nothing(&mut self) -> Result<(), Error> {
        self.local.on(|mirror| Ok(mirror.forget()?)).await?;
        self.kept = None;
        self.begin_anew();
        Ok(())
    }

    /// Rows that the database refuses.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn listed(&mut self) -> Result<Option<Vec<Listed>>, Error> {
        let items = self.open().await?;
        self.begin_anew();
        if !items.contains_key(STAGE) {
            return Ok(None);
        }
        listed_in(&items).map(Some)
    }

    async fn set_up(&mut self) -> Result<(), Error> {
        let tables = found(surveyed(&mut self.source, &self.settings.cut).await?)?;
        if !self.local.is_open() {
            self.open().await?;
        }
        let plan = Plan { slot: slot(&self.settings.name), tables };
        let (text, made) = (json(&plan), plan.tables.clone());
        let stage = Stage::Preparing { sweeps: false };
        self.commit(stage.clone(), move |mirror| {
            made.iter().try_for_each(|table| make(mirror, table))?;
            mirror.set(PLAN, Some(&text)).map(drop).map_err(Error::from)
        })
        .await?;
        self.kept = Some(Kept { plan, stage, paused: vec![], refused: 0 });
        Ok(())
    }

    async fn prepare(&mut self, sweeps: bool) -> Result<(), Error> {
        let Some(Kept { plan, .. }) = &self.kept else { return Ok(()) };
        let position = self.source.prepare(&plan.slot, &plan.tables).await?;
        // Nothing of a table that stands still is changed here.
        let comes = |nth: &usize| !self.stands_still(*nth) && !plan.tables[*nth].part.is_asked_for;
        let tables = (0..plan.tables.len()).filter(comes).collect();
        let server = self.server.clone().unwrap_or_default();
        let stage = Stage::Copying { position, server, tables, after: None, rows: 0, sweeps };
        let all = plan.tables.clone();
        // Where all rows are seen again, those that are refused are listed again, and those that were asked for have to be again.
        self.commit(stage, move |mirror| {
            if sweeps {
                all.iter().try_for_each(|table| let_go(mirror, table))?;
            }
            let listed = if sweeps { mirror.items()? } else { BTreeMap::new() };
            let mut listed = listed.into_keys().filter(|item| item.starts_with(REFUSED));
            listed.try_for_each(|item| Ok(mirror.set(&item, None).map(drop)?))
        })
        .await?;
        if let Some(kept) = self.kept.as_mut().filter(|_| sweeps) {
            kept.refused = 0;
        }
        Ok(())
    }

    /// Copies the next rows, or ends a table.
    async fn copy_some(&mut self) -> Result<(), Error> {
        let Some(Kept { plan, stage, refused, .. }) = &self.kept else { return Ok(()) };
        let Stage::Copying { position, server, tables, after, rows, sweeps } = stage else {
            return Ok(());
        };
        let (begun, any_refused) = (stage.clone(), *refused > 0);
        let is_cache = self.settings.cut.others_are_asked_for;
        let (position, server, sweeps) = (position.clone(), server.clone(), *sweeps);
        let (mut tables, mut after, mut rows) = (tables.clone(), after.clone(), *rows);
        let Some(nth) = tables.first().copied() else {
            let consistent_at = self.source.position().await?;
            let stage = Stage::Following { position, server, time_ms: None, consistent_at };
            for failed in self.end_copy(stage).await? {
                tracing::warn!(sync = self.settings.name, "{failed}");
            }
            return Ok(());
        };
        let table = plan.tables[nth].clone();
        let sieve = if let Some(sieve) = &self.copying {
            sieve.clone()
        } else {
            // What was seen is forgotten with the connection: then all of it is seen again.
            after = after.filter(|_| !sweeps);
            let key = after.as_ref().map(|key| key.iter().map(|text| key_value(text)).collect());
            let key: Option<Vec<Value>> = match key {
                Some(None) => return Err(damaged("its key")),
                Some(key) => key,
                None => None,
            };
            self.source.open(&table, key.as_deref().map_or(Rows::All, Rows::After)).await?;
            if sweeps {
                let mirrored = table.mirror.clone();
                self.local.on(move |mirror| Ok(mirror.begin_sweep(&mirrored)?)).await?;
            }
            self.copying.insert(Sieve::of(&table)?).clone()
        };
        let found = self.source.fetch().await?;
        let unfit = self.source.unfit();
        let grown = self.source.grown().and_then(|now| with_more(&table, &now));
        if found.is_empty() {
            self.copying = None;
            tables.remove(0);
            let stage = Stage::Copying { position, server, tables, after: None, rows, sweeps };
            if !unfit.is_empty() {
                let mirrored = table.mirror.clone();
                let listed = self.commit(begun, move |mirror| list_unfit(mirror, &mirrored, sweeps, unfit));
                let listed = listed.await?;
                self.count(listed);
            }
            while sweeps && self.sweep(&table.mirror).await? > 0 {}
            return self.commit(stage, |_| Ok(())).await;
        }
        let table = grown.clone().unwrap_or(table);
        // Of one that has grown more is kept.
        let sieve = if grown.is_some() { self.copying.insert(Sieve::of(&table)?).clone() } else { sieve };
        let plan = self.kept.as_mut().filter(|_| grown.is_some()).map(|kept| {
            kept.plan.tables[nth] = table.clone();
            json(&kept.plan)
        });
        after = found.last().map(|row| key_of(&table.mirror, row).iter().map(key_text).collect());
        let found = sieve.rows(found).await?;
        rows += found.len() as u64;
        let stage = Stage::Copying { position, server, tables, after, rows, sweeps };
        let mirrored = table.mirror.clone();
        let written = self.commit(stage, move |mirror| {
            if plan.is_some() {
                mirror.add_columns(&mirrored)?;
                mirror.set(PLAN, plan.as_deref())?;
            }
            let (mut refused, mut fine) = (vec![], vec![]);
            for row in &found {
                if sweeps {
                    mirror.keep(&key_of(&mirrored, row))?;
                }
                if is_cache {
                    forget_time(mirror, &mirrored, &key_of(&mirrored, row))?;
                }
                match mirror.put(&mirrored, row)? {
                    Written::Forbidden(reason) => {
                        refused.push(Refused { table: nth, key: key_of(&mirrored, row), reason });
                    }
                    Written::Rows(_) if any_refused => fine.push(key_of(&mirrored, row)),
                    Written::Rows(_) => {}
                }
            }
            let listed = list(mirror, &mirrored.name, &refused, &fine)?;
            Ok(listed + list_unfit(mirror, &mirrored, sweeps, unfit)?)
        });
        let listed = written.await?;
        self.count(listed);
        Ok(())
    }

    /// Makes the indexes, and tells those that cannot be made.
    async fn end_copy(&mut self, stage: Stage) -> Result<Vec<String>, Error> {
        let Some(Kept { plan, .. }) = &self.kept else { return Ok(vec![]) };
        let all: Vec<MirrorTable> = plan.tables.iter().map(|table| table.mirror.clone()).collect();
        let make = move |mirror: &Mirror| {
            Ok(all
                .iter()
                .filter_map(|table| mirror.make_indexes(table).err())
                .map(|e| e.to_string())
                .collect())
        };
        self.commit(stage, make).await
    }

    async fn sweep(&mut self, table: &MirrorTable) -> Result<usize, Error> {
        let table = table.clone();
        self.commit_alone(move |mirror| Ok(mirror.sweep(&table)?)).await
    }

    /// Runs something in a transaction of its own, which moves nothing on.
    async fn commit_alone<R: Send + 'static>(
        &mut self,
        work: impl FnOnce(&Mirror) -> Result<R, Error> + Send + 'static,
    ) -> Result<R, Error> {
        let done = self.local.on(move |mirror| {
            mirror.begin(true)?;
            let done = work(mirror).and_then(|done| Ok(mirror.commit().map(|()| done)?));
            if done.is_err() {
                mirror.roll_back();
            }
            done
        });
        done.await
    }

    /// So many rows more are refused.
    fn count(&mut self, more: i64) {
        if let Some(kept) = &mut self.kept {
            kept.refused = kept.refused.saturating_add_signed(more);
        }
    }

    /// Applies what has come, as much as makes a batch.
    async fn follow(&mut self) -> Result<Step, Error> {
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
            let patience = match (&following.ended, following.is_current) {
                (Some(_), _) => GATHER,
                (None, false) => QUIET,
                (None, true) => IDLE,
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

    fn stands_still(&self, nth: usize) -> bool {
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

/// Rows that are here for being asked for go.
fn let_go(mirror: &Mirror, table: &SourceTable) -> Result<(), Error> {
    match table.part.is_asked_for && mirror.has(&table.mirror)? {
        true => clear(mirror, &table.mirror),
        false => drop_asked_for(mirror, &table.mirror),
    }
}

/// The rows that are refused, of what is kept.
fn listed_in(items: &BTreeMap<String, String>) -> Result<Vec<Listed>, Error> {
    let refused = items.iter().filter(|(item, _)| item.starts_with(REFUSED));
    read_listed(refused.map(|(_, content)| content.as_str()))
}

#[async_trait::async_trait]
impl<S: Source> Flow for Pull<S> {
    fn other_side(&self) -> String {
        self.source.name()
    }

    async fn try_step(&mut self) -> Result<Step, Error> {
        if self.server.is_none() {
            self.connect().await?;
            return Ok(Step::More);
        }
        let Some(kept) = &self.kept else {
            self.set_up().await?;
            return Ok(Step::More);
        };
        match kept.stage {
            Stage::Preparing { sweeps } => self.prepare(sweeps).await.map(|()| Step::More),
            Stage::Copying { .. } => self.copy_some().await.map(|()| Step::More),
            Stage::Following { .. } => self.follow().await,
        }
    }

    fn begin_anew(&mut self) {
        self.source.disconnect();
        self.local.close();
        (self.server, self.following, self.copying) = (None, None, None);
    }

    fn is_under_way(&mut self) -> &mut bool {
        &mut self.is_under_way
    }

    fn progress(&self) -> Option<Progress> {
        let kept = self.kept.as_ref()?;
        let mut progress =
            Progress { refused: kept.refused, paused: kept.paused.clone(), ..Progress::default() };
        match &kept.stage {
            Stage::Preparing { .. } => {}
            Stage::Copying { rows, .. } => progress.copied_rows = Some(*rows),
            Stage::Following { position, time_ms, .. } => {
                (progress.position, progress.time_ms) = (Some(position.clone()), *time_ms);
            }
        }
        Some(progress)
    }
}
