//! From the log to a target.

use std::path::PathBuf;

use async_trait::async_trait;
use litekeep_ltx::Txid;
use litekeep_replicate::restore::{self, Goal};
use litekeep_rows::feed::{Feed, Transaction};
use litekeep_rows::{SchemaChange, SchemaRow, Selection};
use litekeep_schema::portable::Level;
use litekeep_sql::{Declaration, Examiner, Profile, SYNC_TABLE};
use litekeep_store::Store;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::batch::Batch;
use crate::copy::{self, Chunk};
use crate::cut::Cut;
use crate::target::{Kept, Stage, Target, TargetTable};
use crate::worker::{Flow, Progress};
use crate::{Error, Kind, Logs};

/// Changes that are put together at most, unless one transaction alone has more.
const BATCH: usize = 2_000;

/// What is pushed.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The sync's name, for messages.
    pub name: String,
    /// The log of the database.
    pub logs: Logs,
    /// The tables; empty: all.
    pub tables: Vec<String>,
    /// What of them goes.
    pub cut: Cut,
    /// A folder of its own, in which a copy of the database can be for a while.
    pub scratch: PathBuf,
}

/// Whether a table is one of those that are named, where any are, and not one of ours.
pub fn is_wanted(tables: &[String], table: &str) -> bool {
    table != SYNC_TABLE && (tables.is_empty() || tables.iter().any(|name| name.eq_ignore_ascii_case(table)))
}

impl Settings {
    fn wants(&self, table: &str) -> bool {
        is_wanted(&self.tables, table)
    }

    /// A copy of the state after a transaction, and the time of that.
    pub(crate) async fn restored(&mut self, txid: Txid) -> Result<(TempDir, i64), Error> {
        let scratch = &self.scratch;
        // One that was killed has left its own behind.
        let made = std::fs::remove_dir_all(scratch)
            .or_else(|e| if e.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(e) })
            .and_then(|()| std::fs::create_dir_all(scratch))
            .and_then(|()| tempfile::tempdir_in(scratch));
        let database = made.map_err(|e| {
            Error::new(Kind::Unavailable, format!("make a folder in `{}`: {e}", scratch.display()))
        })?;
        let path = database.path().join(DATABASE);
        let (path, options) = (&path, &restore::Options::default());
        let restored = self.logs.read(|store| async move {
            restore::to_path(&store, Goal::Txid(txid), path, options, &()).await
        });
        let time_ms = restored.await?.map_or(0, |restored| restored.time_ms);
        Ok((database, time_ms))
    }

    /// Reads on after a transaction of a time.
    ///
    /// # Errors
    /// `Unavailable` where that may pass; otherwise why there is no going on from there.
    pub(crate) async fn feed(
        &mut self,
        (at, time_ms): (Txid, i64),
        wanted: &Selection,
    ) -> Result<Feed, Error> {
        let open = |store: Store| async move {
            let lost = |why| Err(Error::new(Kind::Invalid, why));
            let log = store.list().await?;
            if log.last().is_none_or(|last| at > last) {
                let end = log.last().map_or("is empty".to_owned(), |last| format!("ends at {last}"));
                return lost(format!("it stands at transaction {at}, and the log {end}"));
            }
            match Feed::open(&store, Goal::Txid(at), wanted.clone()).await {
                Err(error) if error.kind() == Kind::Unavailable => Err(error),
                Err(error) => lost(format!("the log cannot be read after transaction {at} ({error})")),
                Ok(feed) if feed.time_ms() != time_ms => lost(another(at)),
                Ok(feed) => Ok(feed),
            }
        };
        self.logs.read(open).await
    }
}

/// How a step went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// There may be more to do.
    More,
    /// The target has everything that the log has.
    Current,
}

/// A push on its way.
pub struct Push<T: Target> {
    settings: Settings,
    target: T,
    kept: Option<Kept<T::Table>>,
    /// `false`: the target is connected to anew, and what it keeps is read again.
    is_connected: bool,
    /// The last step was not awaited to its end.
    is_under_way: bool,
    copying: Option<Copying>,
    feed: Option<Feed>,
}

/// The state that is being copied.
struct Copying {
    chunks: mpsc::Receiver<Chunk>,
    reading: JoinHandle<Result<(), Error>>,
    _database: TempDir,
}

impl<T: Target> Push<T> {
    /// Opens nothing yet.
    pub fn new(settings: Settings, target: T) -> Push<T> {
        Push {
            settings,
            target,
            kept: None,
            is_connected: false,
            is_under_way: false,
            copying: None,
            feed: None,
        }
    }

    /// What the target keeps, as it was last read or written; `None`: nothing was read, or it has not begun.
    pub fn kept(&self) -> Option<&Kept<T::Table>> {
        self.kept.as_ref()
    }

    /// The target.
    pub fn target(&self) -> &T {
        &self.target
    }

    /// Chooses the state to begin with, and makes the tables.
    async fn set_up(&mut self) -> Result<Step, Error> {
        let Some(txid) = self.settings.logs.last().await? else { return Ok(Step::Current) };
        let (database, time_ms) = self.settings.restored(txid).await?;
        let settings = self.settings.clone();
        let path = database.path().join(DATABASE);
        let survey =
            move || copy::survey(&Examiner::open(&path)?, |table| settings.wants(table), &settings.cut);
        let surveyed = blocking(survey).await?;
        let tables = mapped(&self.target, &surveyed, &self.settings.tables)?;
        let (txid, table) = (txid.to_string(), 0);
        let stage = Stage::Copying { txid, time_ms, table, after: None, rows: 0 };
        self.target.set_up(&tables, &stage).await?;
        self.kept = Some(Kept { tables, paused: vec![], stage, refused: 0 });
        self.copying = Some(self.reading(database, (0, None)));
        Ok(Step::More)
    }

    fn reading(&self, database: TempDir, (first, after): (usize, Option<Vec<String>>)) -> Copying {
        let (send, chunks) = mpsc::channel(1);
        let (path, cut) = (database.path().join(DATABASE), self.settings.cut.clone());
        let tables = self.kept.as_ref().map_or(vec![], |kept| kept.tables.clone());
        let reading = tokio::task::spawn_blocking(move || {
            copy::read(&copy::hold(&path)?, (&tables, &cut), (first, after.as_deref()), &send)
        });
        Copying { chunks, reading, _database: database }
    }

    async fn copy_chunk(&mut self) -> Result<(), Error> {
        let kept = self.kept.as_ref().expect("a stage was kept");
        let Stage::Copying { txid, time_ms, table, after, rows } = kept.stage.clone() else { return Ok(()) };
        let Some(copying) = &mut self.copying else {
            // Begun before a restart: the same state again, from the last row that is there.
            let at = parsed(&txid)?;
            let (database, restored_ms) = self.settings.restored(at).await?;
            if restored_ms != time_ms {
                return Err(self.lost(another(at)));
            }
            self.copying = Some(self.reading(database, (table, after)));
            return Ok(());
        };
        let Some(chunk) = copying.chunks.recv().await else {
            let read = (&mut copying.reading).await.map_err(|e| Error::new(Kind::Internal, e.to_string()))?;
            self.copying = None;
            read?;
            return self.finish_copy(txid, time_ms).await;
        };
        self.target.begin().await?;
        self.target.load(chunk.table, &chunk.rows).await?;
        let rows = rows + chunk.rows.len() as u64;
        let (table, after) = match chunk.after {
            Some(after) => (chunk.table, Some(after)),
            None => (chunk.table + 1, None),
        };
        let stage = Stage::Copying { txid, time_ms, table, after, rows };
        self.target.commit(&stage).await?;
        self.committed(stage);
        Ok(())
    }

    /// The target has this now.
    fn committed(&mut self, stage: Stage) {
        let kept = self.kept.as_mut().expect("a stage was kept");
        (kept.stage, kept.refused) = (stage, self.target.refused());
        self.settings.logs.has_told();
    }

    async fn finish_copy(&mut self, txid: String, time_ms: i64) -> Result<(), Error> {
        self.target.begin().await?;
        for failed in self.target.finish().await? {
            tracing::warn!(sync = self.settings.name, "{failed}");
        }
        let stage = Stage::Following { txid, time_ms };
        self.target.commit(&stage).await?;
        self.committed(stage);
        Ok(())
    }

    /// Applies what the log has more, as much as makes a batch.
    async fn follow(&mut self) -> Result<Step, Error> {
        if self.feed.is_none() {
            self.feed = Some(self.open_feed().await?);
        }
        let mut batch = Batch::default();
        let mut is_begun = false;
        let mut last = None;
        loop {
            let feed = self.feed.as_mut().expect("opened above");
            // In the middle of a transaction the rest of it is there.
            let part = feed.next().await.inspect_err(|_| self.settings.logs.leave())?;
            let Some(part) = part else { break };
            let stage = Stage::Following { txid: part.txid.to_string(), time_ms: part.time_ms };
            let is_last = part.is_last;
            if !part.schema.is_empty() {
                // Some servers commit when a table is made, so what is complete is committed before.
                if let Some(stage) = last.take() {
                    self.commit(stage, &mut batch, &mut is_begun).await?;
                }
                self.schema_changes(&part, &mut is_begun).await?;
            }
            self.take(part, &mut batch);
            if is_last {
                last = Some(stage);
            }
            if batch.len() >= BATCH {
                self.flush(&mut batch, &mut is_begun).await?;
                if is_last {
                    break;
                }
            }
        }
        let Some(stage) = last else {
            if let Some(at) = self.at()
                && self.settings.logs.is_best_back(at).await
            {
                self.feed = None;
            }
            return Ok(Step::Current);
        };
        self.commit(stage, &mut batch, &mut is_begun).await?;
        Ok(Step::More)
    }

    /// Up to where the target has everything, once it follows.
    fn at(&self) -> Option<Txid> {
        match &self.kept.as_ref()?.stage {
            Stage::Following { txid, .. } => txid.parse().ok(),
            Stage::Copying { .. } => None,
        }
    }

    /// Where nothing concerned the target, the position moves all the same, or the log would be read again after a restart.
    async fn commit(&mut self, stage: Stage, batch: &mut Batch, is_begun: &mut bool) -> Result<(), Error> {
        self.flush(batch, is_begun).await?;
        self.begin(is_begun).await?;
        self.target.commit(&stage).await?;
        *is_begun = false;
        self.committed(stage);
        Ok(())
    }

    async fn flush(&mut self, batch: &mut Batch, is_begun: &mut bool) -> Result<(), Error> {
        if batch.is_empty() {
            return Ok(());
        }
        self.begin(is_begun).await?;
        self.target.apply(&batch.take()).await.map(drop)
    }

    async fn begin(&mut self, is_begun: &mut bool) -> Result<(), Error> {
        if !*is_begun {
            self.target.begin().await?;
            *is_begun = true;
        }
        Ok(())
    }

    fn take(&self, part: Transaction, batch: &mut Batch) {
        let kept = self.kept.as_ref().expect("a stage was kept");
        for event in part.rows {
            let is_paused = kept.paused.iter().any(|(table, _)| *table == event.table);
            let found = kept.tables.iter().enumerate().find(|(_, table)| table.source() == event.table);
            if let Some((nth, table)) = found.filter(|_| !is_paused) {
                batch.add(nth, table, event);
            }
        }
    }

    async fn open_feed(&mut self) -> Result<Feed, Error> {
        let kept = self.kept.as_ref().expect("a stage was kept");
        let (at, time_ms) = kept.stage.at();
        let at = at.ok_or_else(damaged)?;
        self.is_same_cut()?;
        let (tables, only) = (self.settings.tables.clone(), self.settings.cut.rows.clone());
        let wanted = Selection { tables, only, ..Selection::default() };
        self.settings.feed((at, time_ms), &wanted).await.map_err(|error| match error.kind() {
            Kind::Unavailable => error,
            _ => self.lost(error.to_string()),
        })
    }

    /// Columns that are wanted only now are not there, and their values would have to be.
    fn is_same_cut(&self) -> Result<(), Error> {
        let kept = self.kept.as_ref().expect("a stage was kept");
        for table in &kept.tables {
            let Some(wanted) = self.settings.cut.columns_of(table.source()) else { continue };
            let has = table.columns();
            let is_it = |column: &&str| wanted.iter().any(|wanted| wanted.eq_ignore_ascii_case(column));
            if has.len() != wanted.len() || !has.iter().all(is_it) {
                let (name, table) = (&self.settings.name, table.source());
                let message = format!(
                    "the sync `{name}` cannot go on: it was begun with the columns {} of `{table}`, and `columns` says {}",
                    has.join(", "),
                    wanted.join(", ")
                );
                let hint = "take the change back; or give the sync another name, and drop its tables there, so that it begins anew";
                return Err(Error::with_hint(Kind::Invalid, message, hint));
            }
        }
        Ok(())
    }

    fn lost(&self, why: String) -> Error {
        let name = &self.settings.name;
        let hint =
            format!("`litekeep sync resync {name}` compares all rows and goes on from the present state");
        Error::with_hint(Kind::Invalid, format!("the sync `{name}` cannot go on: {why}"), hint)
    }

    /// New tables and columns follow; a table that changed otherwise stands still.
    async fn schema_changes(&mut self, part: &Transaction, is_begun: &mut bool) -> Result<(), Error> {
        for change in &part.schema {
            let is_table = |row: &SchemaRow| row.kind == "table";
            let concerns = change.after.as_ref().or(change.before.as_ref()).is_some_and(is_table);
            if !concerns || !self.settings.wants(change.of_table()) || change.comes_by_itself(&part.schema) {
                continue;
            }
            self.begin(is_begun).await?;
            self.schema_change(change, part).await?;
        }
        Ok(())
    }

    async fn schema_change(&mut self, change: &SchemaChange, part: &Transaction) -> Result<(), Error> {
        let name = change.of_table().to_owned();
        let kept = self.kept.as_ref().expect("a stage was kept");
        let known = kept.tables.iter().position(|table| table.source() == name);
        let txid = part.txid;
        let Some(after) = &change.after else {
            let why = match &change.new_name {
                Some(to) => format!("it was renamed to `{to}` in transaction {txid}"),
                None => format!("it was dropped in transaction {txid}"),
            };
            return if known.is_some() { self.pause(name, why).await } else { Ok(()) };
        };
        let is_renamed = part.schema.iter().any(|gone| gone.new_name.as_ref() == Some(&name));
        if after.root.is_none() || is_renamed {
            return Ok(());
        }
        let declared = self.settings.cut.declared(Declaration::read(&after.name, &after.sql)?)?;
        let profiles = vec![Profile::default(); declared.columns.len()];
        let (mapped, notes) = self.target.map(&declared, &profiles);
        let Some(nth) = known else {
            self.target.add_table(mapped.clone()).await?;
            self.kept.as_mut().expect("a stage was kept").tables.push(mapped);
            return Ok(());
        };
        let table = &kept.tables[nth];
        let (old, new) = (table.columns(), mapped.columns());
        if old == new {
            return Ok(());
        }
        if new.len() < old.len() || new[..old.len()] != old[..] {
            let why = format!("its columns were changed in transaction {txid}, and not only added to");
            return self.pause(name, why).await;
        }
        // Rows that are there have the default without being written.
        let is_new =
            |column: &Option<String>| column.as_ref().is_some_and(|name| !old.contains(&name.as_str()));
        if let Some(note) = notes.iter().find(|note| note.level >= Level::Rule && is_new(&note.column)) {
            return self
                .pause(name, format!("a column was added in transaction {txid}, and {}", note.message))
                .await;
        }
        let longer = table.with_more_columns(mapped);
        self.target.add_columns(nth, longer.clone()).await?;
        self.kept.as_mut().expect("a stage was kept").tables[nth] = longer;
        Ok(())
    }

    async fn pause(&mut self, table: String, reason: String) -> Result<(), Error> {
        let kept = self.kept.as_mut().expect("a stage was kept");
        if kept.paused.iter().any(|(paused, _)| *paused == table) {
            return Ok(());
        }
        tracing::warn!(sync = self.settings.name, "the table `{table}` stands still: {reason}");
        self.target.pause(&table, Some(&reason)).await?;
        kept.paused.push((table, reason));
        Ok(())
    }
}

#[async_trait]
impl<T: Target> Flow for Push<T> {
    fn other_side(&self) -> String {
        self.target.name()
    }

    async fn try_step(&mut self) -> Result<Step, Error> {
        if !self.is_connected {
            self.kept = self.target.connect().await?;
            self.is_connected = true;
            return Ok(Step::More);
        }
        let Some(kept) = &self.kept else { return self.set_up().await };
        match kept.stage.clone() {
            Stage::Copying { .. } => self.copy_chunk().await.map(|()| Step::More),
            Stage::Following { .. } => self.follow().await,
        }
    }

    fn begin_anew(&mut self) {
        self.target.disconnect();
        (self.is_connected, self.copying, self.feed) = (false, None, None);
    }

    async fn reads_another_log(&mut self) -> Result<bool, Error> {
        let Some(at) = self.at() else { return Ok(false) };
        let reads_another = self.settings.logs.have_more(at).await?;
        if reads_another {
            self.feed = None;
        }
        Ok(reads_another)
    }

    fn leaves_log(&mut self) -> bool {
        self.settings.logs.may_go_on()
    }

    fn is_under_way(&mut self) -> &mut bool {
        &mut self.is_under_way
    }

    fn progress(&self) -> Option<Progress> {
        let kept = self.kept.as_ref()?;
        let mut progress =
            Progress { refused: kept.refused, paused: kept.paused.clone(), ..Progress::default() };
        match &kept.stage {
            Stage::Copying { rows, .. } => progress.copied_rows = Some(*rows),
            Stage::Following { txid, time_ms } => {
                (progress.position, progress.time_ms) = (Some(txid.clone()), Some(*time_ms));
            }
        }
        Some(progress)
    }
}

/// The tables as the target has them, where all that are wanted can be there.
pub(crate) fn mapped<T: Target>(
    target: &T,
    surveyed: &[(Declaration, Vec<Profile>)],
    wanted: &[String],
) -> Result<Vec<T::Table>, Error> {
    let is_there = |name: &&String| surveyed.iter().any(|(table, _)| table.name.eq_ignore_ascii_case(name));
    if let Some(missing) = wanted.iter().find(|name| !is_there(name)) {
        return Err(Error::new(Kind::Invalid, format!("there is no table `{missing}` in the database")));
    }
    let mut tables = vec![];
    for (declared, profiles) in surveyed {
        let (table, notes) = target.map(declared, profiles);
        if let Some(note) = notes.iter().find(|note| note.level == Level::Table) {
            let hint = "leave it out: name the others in `tables`";
            let message = format!("`{}` cannot go there: {}", note.table, note.message);
            return Err(Error::with_hint(Kind::Invalid, message, hint));
        }
        tables.push(table);
    }
    Ok(tables)
}

pub(crate) const DATABASE: &str = "state.db";

/// Numbers are given again where a history was begun anew; times are not.
fn another(at: Txid) -> String {
    format!("the log has another transaction {at} than the one that it stands at")
}

pub(crate) fn parsed(txid: &str) -> Result<Txid, Error> {
    txid.parse().map_err(|_| damaged())
}

fn damaged() -> Error {
    Error::new(Kind::Corrupt, "read how far the sync is: its position is damaged")
}

pub(crate) async fn blocking<R: Send + 'static>(
    work: impl FnOnce() -> Result<R, Error> + Send + 'static,
) -> Result<R, Error> {
    let ended = tokio::task::spawn_blocking(work).await;
    ended.unwrap_or_else(|e| Err(Error::new(Kind::Internal, format!("read the database: {e}"))))
}
