//! From a source to SQLite.
//!
//! First the source is made to keep changes, then the rows are copied as they are while it goes on, and then the changes are applied from the
//! moment before the copy on. What was copied later than a change has that change already; since each change says how its row is
//! then, all of it is as it was at one moment of the source as soon as the changes have come up to the end of the copy.

pub(crate) mod apply;
pub(crate) mod compare;
mod copying;
mod following;
mod keyless;
mod once;
mod part;
pub(crate) mod sieve;
pub(crate) mod state;

use std::collections::BTreeMap;
use std::path::PathBuf;

use litekeep_sql::Mirror;

use self::following::Following;
use self::sieve::Sieve;
use self::state::{Kept, Plan, Stage, changed, found, kept, make, slot, with_more};
use crate::cache::shelf::{clear, drop_asked_for};
use crate::cut::Cut;
use crate::ledger::{PAUSED, PLAN, REFUSED, STAGE, read_listed, text as json};
use crate::local::Local;
use crate::push::Step;
use crate::source::{Part, Source, SourceTable, Standing, surveyed};
use crate::target::Listed;
use crate::worker::{Flow, Progress};
use crate::{Error, Kind};

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
