//! SQLite and a hub in step in both directions.
//!
//! The hub is a database server to which any number of nodes come, each a SQLite file with a litekeep beside it; others may write there, too. The order in
//! which the hub commits is the one history, and all that a node does is to join it:
//!
//! - **Outward.** A row that was changed here is written there only over the image that the node knows the hub to have of it: the row is locked,
//!   compared, and written, or left as it is. So nothing that the node has not seen is ever overwritten.
//! - **Inward.** A change of the hub's comes with the row as it was before. Where the row here is as it was there, it becomes as it is there. Where it is not, both sides have
//!   changed it: a conflict, which is decided here, by the table's [`Policy`], in the transaction that would write it. The image that loses is kept in a list.
//!   Since only this one place decides, and what it decides goes through the hub like any other change, all nodes come to the same.
//!
//! What keeps it from going in circles and from losing its way:
//!
//! - Each push begins with a message that names the node, by which it knows its own changes when they come back. Until then changes of
//!   others to these rows are those that were before it, and have been overwritten knowingly: they are passed over. Which rows that are is kept in the hub with the push.
//! - Each transaction of the pull notes which image the hub has of the rows that it has come upon, in the same transaction. Who reads the log so knows of each row whether it is as
//!   the pull has left it, or was changed here afterwards, even where the log has put both into one file: what the pull wrote is not pushed, and what the
//!   application wrote beside it is. Notes go once the log has been read beyond them.
//! - Rows that could not be written there, for a change that is on its way or a rule of the table, are kept in the hub together with how far the log was read.
//!
//! Where the two cannot be followed any more (a slot that was dropped, a log that was begun anew), and at the beginning, the rows of one state of the log are compared
//! with those of one moment of the hub. By what is noted of a row it is known who has changed it; where nothing is noted, a row of one side goes to the other,
//! and one that both have otherwise is a conflict.
//!
//! A crash leaves: here, whole transactions with how far the pull is; there, whole pushes with how far the log was read. What was read and not
//! committed is read again and comes to the same.

mod follow;
mod inward;
mod merge;
mod outward;
mod sending;
mod state;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use litekeep_ltx::Txid;
use litekeep_rows::retry::Lacking;
use litekeep_sql::{Examiner, Mirror, MirrorTable};

use self::follow::Inflow;
use self::inward::{Applied, Arrival, Judge};
use self::merge::Merge;
pub use self::state::{Conflict, Policies, Policy};
use self::state::{Follows, Kept, LOST, Outward, Plan, SEEN, Seen, Stage, Waits, kept, parsed};
use crate::compare::Found;
use crate::copy;
use crate::cut::Cut;
use crate::hub::{Hub, Paired};
use crate::ledger::{PAUSED, PLAN, REFUSED, STAGE, read_listed, text as json};
use crate::local::Local;
use crate::push::{self, Step, is_wanted};
use crate::source::{SourceTable, Standing};
use crate::target::Listed;
use crate::two_way::outward::Way;
use crate::worker::{Flow, Progress};
use crate::{Error, Kind};

/// Notes that are taken away with one transaction of ours.
const NOTES: usize = 5_000;

/// Tells up to where the log has what is here, where that can be told without asking the store.
#[derive(Clone)]
pub struct Durable(pub Arc<dyn Fn() -> Option<Txid> + Send + Sync>);

impl fmt::Debug for Durable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Durable")
    }
}

/// What is kept in step.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its name, the log, the tables, and a folder of its own.
    pub push: push::Settings,
    /// The database.
    pub database: PathBuf,
    /// Who wins.
    pub policies: Policies,
    /// `None`: the store is asked.
    pub durable: Option<Durable>,
}

/// A sync in both directions on its way.
pub struct TwoWay<H: Hub> {
    settings: Settings,
    hub: H,
    local: Local,
    kept: Option<Kept>,
    /// Who the server is that it is connected to; `None`: it is connected to anew.
    server: Option<String>,
    /// Both sides may have rows: they are compared.
    consents: bool,
    is_under_way: bool,
    way: Option<Way>,
    inflow: Option<Inflow>,
    merge: Option<Merge>,
    lacking: Lacking,
    /// Notes that are in the database, with the transactions that made them.
    notes: BTreeMap<String, u64>,
}

impl<H: Hub> TwoWay<H> {
    /// Opens nothing yet.
    pub fn new(settings: Settings, hub: H) -> TwoWay<H> {
        TwoWay {
            settings,
            hub,
            local: Local::default(),
            kept: None,
            server: None,
            consents: false,
            is_under_way: false,
            way: None,
            inflow: None,
            merge: None,
            lacking: Lacking::default(),
            notes: BTreeMap::new(),
        }
    }

    /// The hub.
    pub fn hub(&self) -> &H {
        &self.hub
    }

    fn name(&self) -> &str {
        &self.settings.push.name
    }

    async fn open(&mut self) -> Result<BTreeMap<String, String>, Error> {
        let database = &self.settings.database;
        if !database.exists() {
            let message = format!(
                "there is no `{}` yet, which the sync `{}` keeps in step",
                database.display(),
                self.settings.push.name
            );
            return Err(Error::with_hint(Kind::Unavailable, message, "the application makes it"));
        }
        self.local.open(database, &self.settings.push.name, false).await?;
        self.local.on(|mirror| Ok(mirror.items()?)).await
    }

    /// Runs something in a transaction of its own, at whose end the pull is at a stage.
    async fn commit<R: Send + 'static>(
        &mut self,
        stage: Stage,
        work: impl FnOnce(&Mirror) -> Result<R, Error> + Send + 'static,
    ) -> Result<R, Error> {
        let expected = self.kept.as_ref().map(|kept| json(&kept.stage));
        let (text, name) = (json(&stage), self.name().to_owned());
        let passed = self.way.as_ref().map_or(0, |way| way.passed);
        let old: Vec<String> = (self.notes.iter())
            .filter(|(_, commit)| **commit <= passed)
            .take(NOTES)
            .map(|(item, _)| item.clone())
            .collect();
        let gone = old.clone();
        let done = self.local.on(move |mirror| {
            mirror.begin(true)?;
            let done = (|| {
                if mirror.item(STAGE)? != expected {
                    let message = format!("another litekeep runs the sync `{name}` in this database");
                    return Err(Error::with_hint(Kind::Invalid, message, "end one of them"));
                }
                // Before the work, which may note the same row anew.
                for item in &gone {
                    mirror.set(item, None)?;
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
        for item in &old {
            self.notes.remove(item);
        }
        if let Some(kept) = &mut self.kept {
            kept.stage = stage;
        }
        Ok(done)
    }

    /// Applies changes of the hub's in a transaction of its own.
    async fn arrive(&mut self, stage: Stage, arrivals: Vec<Arrival>) -> Result<Applied, Error> {
        let Some(kept) = &self.kept else { return Ok(Applied::default()) };
        let changed = match &self.way {
            Some(way) => {
                let image = |work: &state::Work| (state::image(work.want.as_deref()), work.time_ms);
                way.works.iter().map(|(id, work)| (id.clone(), image(work))).collect()
            }
            None => HashMap::new(),
        };
        let tables: Vec<MirrorTable> = kept.plan.tables.iter().map(|table| table.mirror.clone()).collect();
        let commit = stage.commits();
        let judge = Judge {
            policies: tables.iter().map(|table| self.settings.policies.of(&table.name)).collect(),
            paused: (0..tables.len()).filter(|nth| kept.is_paused(*nth)).collect::<BTreeSet<_>>(),
            tables,
            node: kept.plan.slot.clone(),
            changed,
            commit,
            any_refused: kept.refused > 0,
        };
        let applied: Applied = self.commit(stage, move |mirror| judge.apply(mirror, &arrivals)).await?;
        self.notes.extend(applied.seen.iter().map(|item| (item.clone(), commit)));
        if let Some(kept) = &mut self.kept {
            kept.refused = kept.refused.saturating_add_signed(applied.refused);
            kept.conflicts += applied.conflicts;
        }
        Ok(applied)
    }

    async fn connect(&mut self) -> Result<(), Error> {
        let items = self.open().await?;
        self.kept = kept(&items)?;
        self.notes = items
            .iter()
            .filter(|(item, _)| item.starts_with(SEEN))
            .map(|(item, content)| Ok((item.clone(), parsed::<Seen>(content)?.commit)))
            .collect::<Result<_, Error>>()?;
        let server = self.hub.connect().await?;
        self.server = Some(server.clone());
        let Some(Kept { plan, stage, .. }) = &self.kept else { return Ok(()) };
        let (plan, stage) = (plan.clone(), stage.clone());
        let there = self.hub.items(&plan.slot).await?;
        let Stage::Following(Follows { position, server: known, pushes, .. }) = &stage else {
            self.way = Some(Way::read(&there, &plan, u64::MAX)?);
            return Ok(());
        };
        if *known != server {
            let name = self.name();
            let message =
                format!("{} is another server than the one that the sync `{name}` is with", self.hub.name());
            let hint = format!("`litekeep sync resync {name}` compares all rows, and goes on with this one");
            return Err(Error::with_hint(Kind::Invalid, message, hint));
        }
        let way = Way::read(&there, &plan, *pushes)?;
        let why = match (self.hub.standing(&plan.slot, position).await?, &way.at) {
            (Standing::Gone, _) => Some("keeps no changes for it any more"),
            (Standing::Beyond, _) => Some("has let go of changes that are not here"),
            (Standing::There, None | Some(Outward { is_merging: true, .. })) => {
                Some("does not know how far it is with what is here")
            }
            (Standing::There, Some(_)) => None,
        };
        self.way = Some(way);
        match why {
            Some(why) => self.compare_anew(&format!("{} {why}", self.hub.name())).await,
            None => Ok(()),
        }
    }

    /// All rows are compared, since the changes cannot be followed any more.
    async fn compare_anew(&mut self, why: &str) -> Result<(), Error> {
        tracing::warn!(sync = self.name(), "{why}: all rows of both sides are compared");
        let commits = self.kept.as_ref().map_or(0, |kept| kept.stage.commits()) + 1;
        self.commit(Stage::Merging { commits }, |_| Ok(())).await?;
        // A connection on which changes come can do nothing else.
        (self.server, self.inflow, self.merge) = (None, None, None);
        Ok(())
    }

    /// The tables of both sides.
    ///
    /// # Errors
    /// Those of both sides.
    pub async fn pairs(&mut self) -> Result<Vec<Paired>, Error> {
        self.hub.connect().await?;
        self.paired().await
    }

    /// The first of these [pairs](Self::pairs) that has rows on both sides.
    ///
    /// # Errors
    /// Those of both sides.
    pub async fn overlap(&mut self, pairs: &[Paired]) -> Result<Option<String>, Error> {
        self.open().await?;
        let found = self.with_rows_on_both(pairs).await;
        self.begin_anew();
        found
    }

    async fn with_rows_on_both(&mut self, pairs: &[Paired]) -> Result<Option<String>, Error> {
        for pair in pairs.iter().filter(|pair| pair.is_here && pair.is_there) {
            let table = pair.table.mirror.clone();
            let has_rows = self.local.on(move |mirror| Ok(mirror.has_rows(&table)?)).await?;
            if has_rows && !self.hub.is_empty(&pair.table).await? {
                return Ok(Some(pair.table.mirror.name.clone()));
            }
        }
        Ok(None)
    }

    async fn paired(&mut self) -> Result<Vec<Paired>, Error> {
        let (path, wanted) = (self.settings.database.clone(), self.settings.push.tables.clone());
        let survey =
            move || copy::survey(&Examiner::open(&path)?, |table| is_wanted(&wanted, table), &Cut::default());
        let declared = push::blocking(survey).await?;
        self.hub.pair(&declared).await
    }

    /// Makes the tables that one side lacks.
    async fn set_up(&mut self) -> Result<Step, Error> {
        if self.settings.push.logs.last().await?.is_none() {
            return Ok(Step::Current);
        }
        let slot = match &self.kept {
            Some(kept) => kept.plan.slot.clone(),
            None => crate::pull::state::slot(self.name()),
        };
        let pairs = self.paired().await?;
        let name = self.name().to_owned();
        let notes = pairs.iter().flat_map(|pair| &pair.notes);
        if let Some(note) =
            notes.into_iter().find(|note| note.level == litekeep_schema::portable::Level::Table)
        {
            let hint = "or leave the table out: name the others in `tables`";
            return Err(Error::with_hint(Kind::Invalid, format!("`{note}`"), hint));
        }
        if pairs.is_empty() {
            return Err(Error::new(Kind::Invalid, "there is no table on either side"));
        }
        let both = if self.consents { None } else { self.with_rows_on_both(&pairs).await? };
        if let Some(table) = both {
            let message = format!("the table `{table}` has rows on both sides");
            let hint = format!(
                "`litekeep sync resync {name}` brings them together: a row of one side goes to the other, and of one that both have otherwise \
                 `conflict` says who wins; the other is listed"
            );
            return Err(Error::with_hint(Kind::Invalid, message, hint));
        }
        self.hub.make(&pairs).await?;
        let missing: Vec<MirrorTable> =
            pairs.iter().filter(|pair| !pair.is_here).map(|pair| pair.table.mirror.clone()).collect();
        let tables: Vec<SourceTable> = pairs.into_iter().map(|pair| pair.table).collect();
        let plan = Plan { slot, tables };
        let commits = self.kept.as_ref().map_or(0, |kept| kept.stage.commits()) + 1;
        let paused = self.kept.as_ref().map_or(vec![], |kept| kept.paused.clone());
        let text = json(&plan);
        let stage = Stage::Merging { commits };
        let made = self.commit(stage.clone(), move |mirror| {
            for table in &missing {
                if let Err(why) = mirror.make(table)? {
                    return Err(Error::new(
                        Kind::Invalid,
                        format!("the table `{}` is there and {why}", table.name),
                    ));
                }
            }
            for (table, _) in &paused {
                mirror.set(&format!("{PAUSED}{table}"), None)?;
            }
            mirror.set(PLAN, Some(&text)).map(drop).map_err(Error::from)
        });
        made.await?;
        let there = self.hub.items(&plan.slot).await?;
        self.way = Some(Way::read(&there, &plan, u64::MAX)?);
        let (refused, conflicts) = self.kept.as_ref().map_or((0, 0), |kept| (kept.refused, kept.conflicts));
        self.kept = Some(Kept { plan, stage, paused: vec![], refused, conflicts });
        Ok(Step::More)
    }

    /// Compares all rows of both sides: those of one go to the other, and of those that both have otherwise the policy decides. Tables that stood
    /// still go on.
    ///
    /// # Errors
    /// Those of both sides; `Invalid` when a table cannot go on.
    pub async fn resync(&mut self) -> Result<(), Error> {
        self.begin_anew();
        let items = self.open().await?;
        self.kept = kept(&items)?;
        self.hub.connect().await?;
        self.consents = true;
        let set_up = self.set_up().await;
        self.consents = false;
        self.begin_anew();
        self.kept = None;
        match set_up? {
            Step::More => Ok(()),
            Step::Current => {
                let message = "the backup has nothing yet, and a sync in both directions is read from it";
                Err(Error::with_hint(Kind::Invalid, message, "`litekeep replicate` makes the backup"))
            }
        }
    }

    /// Ends the sync: the hub keeps nothing for it any more, and the database knows nothing of it. Rows stay on both sides.
    ///
    /// # Errors
    /// Those of both sides.
    pub async fn forget(&mut self) -> Result<(), Error> {
        self.begin_anew();
        let items = self.open().await?;
        let Some(kept) = kept(&items)? else { return Err(self.has_not_begun()) };
        self.hub.connect().await?;
        self.hub.forget(&kept.plan.slot).await?;
        self.hub.forget_node(&kept.plan.slot).await?;
        self.local.on(|mirror| Ok(mirror.forget()?)).await?;
        self.kept = None;
        self.begin_anew();
        Ok(())
    }

    fn has_not_begun(&self) -> Error {
        let name = self.name();
        let hint = format!("`litekeep sync run {name}` begins it");
        Error::with_hint(Kind::Invalid, format!("the sync `{name}` has not begun"), hint)
    }

    /// Rows that one of the sides refuses.
    ///
    /// # Errors
    /// When one cannot be read.
    pub async fn listed(&mut self) -> Result<Option<Vec<Listed>>, Error> {
        let items = self.open().await?;
        self.local.close();
        let Some(kept) = kept(&items)? else { return Ok(None) };
        let refused = items.iter().filter(|(item, _)| item.starts_with(REFUSED));
        let mut listed = read_listed(refused.map(|(_, content)| content.as_str()))?;
        self.hub.connect().await?;
        let there = self.hub.items(&kept.plan.slot).await?;
        for (_, content) in there.iter().filter(|(item, _)| item.starts_with(state::PENDING)) {
            let pending: state::Pending = parsed(content)?;
            let (table, key) = (pending.table, pending.key);
            listed.extend(pending.reason.map(|reason| Listed { table, key, reason }));
        }
        Ok(Some(listed))
    }

    /// Rows that both sides have changed, the newest last, and how many there were in all.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn conflicts(&mut self) -> Result<(Vec<Conflict>, u64), Error> {
        let items = self.open().await?;
        self.local.close();
        let Some(kept) = kept(&items)? else { return Err(self.has_not_begun()) };
        let conflicts = items.iter().filter(|(item, _)| item.starts_with(LOST));
        Ok((conflicts.map(|(_, content)| parsed(content)).collect::<Result<_, _>>()?, kept.conflicts))
    }

    /// Compares all rows of both sides, while both go on.
    ///
    /// # Errors
    /// Those of both sides; `Invalid` when it has not begun.
    pub async fn compare(&mut self) -> Result<Found, Error> {
        self.begin_anew();
        let items = self.open().await?;
        let Some(kept) = kept(&items)? else { return Err(self.has_not_begun()) };
        self.hub.connect().await?;
        let mut found = Found { refused: kept.refused, ..Found::default() };
        for (nth, table) in kept.plan.tables.iter().enumerate() {
            if !kept.is_paused(nth) {
                let mut sides = crate::pull::compare::Sides { source: &mut self.hub, local: &mut self.local };
                sides.compare(table, &mut found).await?;
            }
        }
        self.begin_anew();
        Ok(found)
    }

    /// A table stands still until both sides are compared.
    async fn pause(&mut self, table: String, reason: String) -> Result<(), Error> {
        let Some(kept) = &mut self.kept else { return Ok(()) };
        if kept.paused.iter().any(|(paused, _)| *paused == table) {
            return Ok(());
        }
        let name = &self.settings.push.name;
        let reason = format!(
            "{reason}: make it the same on both sides, then `litekeep sync resync {name}` compares its rows"
        );
        tracing::warn!(sync = name, "the table `{table}` stands still: {reason}");
        let (item, text, stage) = (format!("{PAUSED}{table}"), reason.clone(), kept.stage.clone());
        kept.paused.push((table, reason));
        self.commit(stage, move |mirror| Ok(mirror.set(&item, Some(&text)).map(drop)?)).await
    }
}

#[async_trait::async_trait]
impl<H: Hub> Flow for TwoWay<H> {
    fn other_side(&self) -> String {
        self.hub.name()
    }

    async fn try_step(&mut self) -> Result<Step, Error> {
        if self.server.is_none() {
            self.connect().await?;
            return Ok(Step::More);
        }
        match self.kept.as_ref().map(|kept| kept.stage.clone()) {
            None => self.set_up().await,
            Some(Stage::Merging { .. }) => self.merge_some().await.map(|()| Step::More),
            Some(Stage::Following(_)) => self.follow().await,
        }
    }

    fn begin_anew(&mut self) {
        self.hub.disconnect();
        self.local.close();
        (self.server, self.way, self.inflow, self.merge) = (None, None, None, None);
        self.notes.clear();
    }

    async fn reads_another_log(&mut self) -> Result<bool, Error> {
        let read = self.way.as_ref().and_then(|way| way.read);
        let Some((read, _)) = read.filter(|_| self.settings.durable.is_none()) else { return Ok(false) };
        let reads_another = self.settings.push.logs.have_more(read).await?;
        if reads_another {
            self.begin_anew();
        }
        Ok(reads_another)
    }

    fn leaves_log(&mut self) -> bool {
        self.settings.push.logs.may_go_on()
    }

    fn is_under_way(&mut self) -> &mut bool {
        &mut self.is_under_way
    }

    fn progress(&self) -> Option<Progress> {
        let kept = self.kept.as_ref()?;
        let refused_there = self.way.iter().flat_map(|way| way.works.values());
        let refused_there = refused_there.filter(|work| matches!(work.waits, Waits::Refused(_))).count();
        let mut progress = Progress {
            refused: kept.refused + refused_there as u64,
            paused: kept.paused.clone(),
            conflicts: kept.conflicts,
            ..Progress::default()
        };
        match &kept.stage {
            Stage::Merging { .. } => {
                progress.copied_rows = Some(self.merge.as_ref().map_or(0, |merge| merge.rows));
            }
            Stage::Following(follows) => {
                (progress.position, progress.time_ms) = (Some(follows.position.clone()), follows.time_ms);
                let read = self.way.as_ref().and_then(|way| way.read);
                progress.outward = read.map(|(txid, _)| txid.to_string());
            }
        }
        Some(progress)
    }
}
