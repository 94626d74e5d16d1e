//! A cache that goes on by itself: it begins, connects, lets go of what is too old, and tells how it stands.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use litekeep_env::{Clock as _, SystemClock};
use litekeep_rows::retry::{Pauses, Trouble};
use litekeep_schema::portable::Level;
use tokio::sync::watch;

use super::link::Link;
use super::shelf::Plan;
use super::{Cache, PATIENCE, age, told};
use crate::pull::state::{changed, found, with_more};
use crate::source::{SourceTable, surveyed};
use crate::worker::{Progress, State};
use crate::{Error, Kind};

/// Between two looks at everything.
const LOOK: Duration = Duration::from_secs(1);
/// A connection that nobody has used for so long is let go of, so that a server that sleeps can.
const IDLE: Duration = Duration::from_secs(60);
/// Between two looks for rows that are too old, at least and at most.
const TIDY: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(60)];
/// How long the first look at the tables may take: of MongoDB it is one at all documents.
const FIRST_SURVEY: Duration = Duration::from_secs(3_600);

impl Cache {
    /// The tables, as they were begun with; `None`: it has not begun.
    pub(super) async fn plan(&self) -> Result<Option<Arc<Plan>>, Error> {
        let plan = self.shelf.plan().await?;
        if let Some(plan) = &plan {
            self.settings.cut.is_same(&self.settings.name, &plan.tables)?;
        }
        Ok(plan)
    }

    /// Connects, and makes the tables where that has not been done.
    ///
    /// # Errors
    /// Those of the server and of the database.
    pub(super) async fn begin(&self) -> Result<Arc<Plan>, Error> {
        let mut link = self.link.lock().await;
        match self.rests() {
            Some(error) => Err(told(&error)),
            None => self.reach(&mut link).await.map_err(|error| told(&error)),
        }
    }

    /// Why the server is not asked: somebody lets the sync rest.
    pub(super) fn rests(&self) -> Option<Arc<Error>> {
        let since_ms = self.pause.since()?;
        let name = &self.settings.name;
        let since = SystemClock.unix_ms().saturating_sub(since_ms) / 1000;
        let message =
            format!("the sync `{name}` has been paused for {since} s, and what is asked for is not here");
        let hint = format!("`litekeep sync resume {name}` lets it go on");
        Some(Arc::new(Error::with_hint(Kind::Unavailable, message, hint)))
    }

    /// The tables, with a connection to the server.
    pub(super) async fn reach(&self, link: &mut Link) -> Result<Arc<Plan>, Arc<Error>> {
        let plan = self.plan().await.map_err(Arc::new)?;
        match self.try_reach(link, plan).await {
            Ok(plan) => Ok(plan),
            Err(error) => Err(self.failed(link, error)),
        }
    }

    /// Why a row that is kept in step may not be as it is there, and for how long at least; `None`: it is.
    pub(super) fn behind(&self, table: &SourceTable, now_ms: i64) -> Option<(Duration, String)> {
        let is_live = self.settings.follows?;
        let since = |since_ms: i64| age(since_ms, now_ms).unwrap_or_default();
        if let Some(since_ms) = self.pause.since() {
            return Some((since(since_ms), "the sync is paused".to_owned()));
        }
        let state = State::read(&self.settings.state).ok().flatten().unwrap_or_default();
        if let Some(trouble) = state.trouble {
            return Some((since(trouble.since_ms), trouble.message));
        }
        let progress = state.progress.unwrap_or_default();
        if let Some((_, why)) = progress.paused.into_iter().find(|(paused, _)| *paused == table.source) {
            return Some((Duration::ZERO, format!("the table stands still: {why}")));
        }
        let is_current = state.is_current && progress.position.is_some();
        match (is_live, is_current) {
            (true, true) => None,
            (true, false) => {
                Some((Duration::ZERO, "changes that are not here yet are on their way".to_owned()))
            }
            (false, _) => Some((Duration::ZERO, "no litekeep runs that keeps it in step".to_owned())),
        }
    }

    async fn try_reach(&self, link: &mut Link, plan: Option<Arc<Plan>>) -> Result<Arc<Plan>, Error> {
        if self.settings.follows.is_some() && plan.is_none() {
            let name = &self.settings.name;
            let message = format!("the sync `{name}` has not begun");
            let hint = format!("`litekeep replicate`, `run` or `up` begin it, or `litekeep sync run {name}`");
            return Err(Error::with_hint(Kind::Unavailable, message, hint));
        }
        let known = plan.as_ref().map_or(&[][..], |plan| &plan.tables);
        let late = |_| self.late();
        tokio::time::timeout(PATIENCE, link.connect(known)).await.map_err(late)??;
        let Some(plan) = plan else {
            let surveying = surveyed(&mut link.source, &self.settings.cut);
            let surveyed = tokio::time::timeout(FIRST_SURVEY, surveying).await.map_err(late)??;
            self.shelf.begin(found(surveyed)?).await?;
            return self.begun().await;
        };
        if self.settings.follows.is_some() || !link.surveys() {
            return Ok(plan);
        }
        let surveying = surveyed(&mut link.source, &self.settings.cut);
        let now = tokio::time::timeout(PATIENCE, surveying).await.map_err(late)??;
        let (mut tables, mut wider, mut paused) = (plan.tables.clone(), vec![], BTreeMap::new());
        for (nth, known) in tables.iter_mut().enumerate() {
            let there = now.iter().find(|(table, _)| table.source == known.source);
            let why = match there {
                None => Some("it was dropped there, or has another name".to_owned()),
                Some((table, notes)) => match with_more(known, table) {
                    None => Some(changed(known, table)),
                    Some(longer) => {
                        if longer.mirror.columns.len() > known.mirror.columns.len() {
                            wider.push(nth);
                        }
                        *known = longer;
                        let note = notes.iter().find(|note| note.level == Level::Table);
                        note.map(|note| note.message.clone())
                    }
                },
            };
            if let Some(why) = why {
                paused.insert(known.source.clone(), why);
            }
        }
        for (table, why) in &paused {
            if self.known().paused.get(table) != Some(why) {
                tracing::warn!(sync = self.settings.name, "the table `{table}` stands still: {why}");
            }
        }
        self.known().paused = paused;
        if tables == plan.tables {
            return Ok(plan);
        }
        self.shelf.widen(tables, wider).await?;
        self.begun().await
    }

    async fn begun(&self) -> Result<Arc<Plan>, Error> {
        let none = || Error::new(Kind::Internal, "read the tables of the cache: there are none");
        self.shelf.plan().await?.ok_or_else(none)
    }

    /// What has gone wrong at the server.
    pub(super) fn failed(&self, link: &mut Link, error: Error) -> Arc<Error> {
        let error = Arc::new(error);
        link.fail(&error, error.kind() == Kind::Unavailable);
        let mut known = self.known();
        let (trouble, is_news) = Trouble::after(known.trouble.as_ref(), &error, SystemClock.unix_ms());
        if is_news {
            tracing::warn!(sync = self.settings.name, "does not go on: {}", trouble.line());
        }
        known.trouble = Some(trouble);
        error
    }

    pub(super) fn goes_well(&self) {
        if self.known().trouble.take().is_some() {
            tracing::info!(sync = self.settings.name, "goes on again with {}", self.place);
        }
    }

    /// Removes rows that are too old, and of the others those that were not asked for longest, until so many are left.
    pub(super) async fn tidy(&self, at_most: usize) -> Result<(), Error> {
        let times = self.settings.times;
        let used = self.known().used.clone();
        let tidied = self.shelf.tidy(used, times.oldest(), at_most).await?;
        self.figures.count(|figures| figures.evictions += tidied.evicted);
        let now_ms = SystemClock.unix_ms();
        let mut known = self.known();
        known.rows = Some(tidied.left.len());
        known.used.retain(|item, _| tidied.left.contains(item));
        known.absent.retain(|_, at_ms| age(*at_ms, now_ms).is_some_and(|age| age <= times.negative_ttl));
        Ok(())
    }

    /// What was counted goes where others read it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn tell_figures(self: &Arc<Self>) -> std::io::Result<()> {
        let cache = self.clone();
        let tell = move || cache.figures.tell(cache.known().rows.map(|rows| rows as u64));
        tokio::task::spawn_blocking(tell).await.map_err(std::io::Error::other)?
    }

    /// How it stands.
    pub fn state(&self) -> State {
        let known = self.known();
        let paused = known.paused.iter().map(|(table, why)| (table.clone(), why.clone())).collect();
        State {
            to: self.place.clone(),
            progress: known.rows.map(|_| Progress { paused, ..Progress::default() }),
            confirmed_ms: None,
            trouble: known.trouble.clone(),
            is_current: known.trouble.is_none(),
        }
    }

    /// Begins where it has not begun, and removes rows that are too old or too many.
    ///
    /// # Errors
    /// Those of the server and of the database.
    pub async fn run(self: &Arc<Self>) -> Result<(), Error> {
        let begun = self.begin().await;
        if begun.is_ok() {
            self.goes_well();
            self.tidy(self.settings.max_rows).await?;
        }
        // Of one that is followed the pull tells how it stands.
        let written = match self.settings.follows {
            Some(_) => Ok(()),
            None => self.state().write(&self.settings.state).await,
        };
        written.and(self.tell_figures().await).unwrap_or_else(|error| self.untold(&error));
        begun.map(drop)
    }

    fn untold(&self, error: &std::io::Error) {
        tracing::warn!(
            sync = self.settings.name,
            "tell how it stands in `{}`: {error}",
            self.settings.state.display()
        );
    }

    /// Goes on until `stop` says so.
    pub async fn follow(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        let mut written = None;
        let (mut pauses, mut due, mut tidied) = (Pauses::default(), Some(Duration::ZERO), None);
        let every = (self.settings.times.oldest() / 4).clamp(TIDY[0], TIDY[1]);
        loop {
            let now = SystemClock.boottime();
            if self.pause.since().is_some() {
                self.link.lock().await.disconnect();
                self.known().trouble = None;
                due = Some(now);
            } else if self.settings.follows.is_some() {
                due = None;
            } else if due.is_some_and(|due| now >= due) {
                let begun = tokio::select! {
                    _ = stop.wait_for(|stop| *stop) => break,
                    begun = self.begin() => begun,
                };
                due = match begun {
                    Ok(_) => {
                        self.goes_well();
                        pauses = Pauses::default();
                        None
                    }
                    Err(_) => Some(now + pauses.longer()),
                };
            } else if due.is_none() && self.known().trouble.is_some() {
                due = Some(now + pauses.longer());
            }
            if tidied.is_none_or(|at| now - at >= every) && matches!(self.plan().await, Ok(Some(_))) {
                tidied = Some(now);
                if let Err(error) = self.tidy(self.settings.max_rows).await {
                    tracing::warn!(sync = self.settings.name, "remove rows that are too old: {error}");
                }
            }
            // Whoever is asking uses it.
            if let Ok(mut link) = self.link.try_lock() {
                link.rest(IDLE);
            }
            let state = self.state();
            // Of one that is followed the pull tells.
            if self.settings.follows.is_none() && written.as_ref() != Some(&state) {
                match state.write(&self.settings.state).await {
                    Ok(()) => written = Some(state),
                    Err(error) => self.untold(&error),
                }
            }
            if let Err(error) = self.tell_figures().await {
                self.untold(&error);
            }
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => break,
                () = tokio::time::sleep(LOOK) => {}
            }
        }
        self.settle().await;
        if let Err(error) = self.tell_figures().await {
            self.untold(&error);
        }
    }

    /// Takes the tables as they are now, without any row.
    ///
    /// # Errors
    /// Those of the server and of the database; `Invalid` when a table cannot be as it is there.
    pub async fn resync(&self) -> Result<(), Error> {
        let Some(plan) = self.shelf.plan().await? else { return Ok(()) };
        let mut link = self.link.lock().await;
        link.disconnect();
        let resync = async {
            link.connect(&[]).await?;
            let tables = found(surveyed(&mut link.source, &self.settings.cut).await?)?;
            self.shelf.resync(plan.tables.clone(), tables).await
        };
        let resynced = resync.await;
        link.disconnect();
        resynced
    }

    /// Keeps nothing any more. Its rows go, for they would be younger never again.
    ///
    /// # Errors
    /// Those of the database; `Invalid` when it has not begun.
    pub async fn forget(&self) -> Result<(), Error> {
        let Some(plan) = self.shelf.plan().await? else {
            let message = format!("the sync `{}` has not begun: nothing is kept for it", self.settings.name);
            return Err(Error::new(Kind::Invalid, message));
        };
        self.shelf.forget(plan.tables.clone()).await
    }

    /// The tables as they would be made, with what of them does not come as it is there.
    ///
    /// # Errors
    /// Those of the server.
    pub async fn survey(&self) -> Result<Vec<(SourceTable, Vec<litekeep_schema::portable::Note>)>, Error> {
        let mut link = self.link.lock().await;
        link.connect(&[]).await?;
        let surveyed = surveyed(&mut link.source, &self.settings.cut).await;
        link.disconnect();
        surveyed
    }
}
