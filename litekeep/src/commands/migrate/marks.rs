//! Marks: the transaction of the backup that is the state before migrations ran, so that `undo` finds the way back.
//!
//! A mark is *exact*: the write lock is held, and what the local state calls confirmed is all that the WAL has. So is the migrations'
//! own end, when nobody else wrote meanwhile. What is not known is `None`, and `undo` asks.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use litekeep_env::{Clock, SystemClock};
use litekeep_ltx::Txid;
use litekeep_replicate::local::{MetaDir, State, StateFile};
use litekeep_schema::migrations::{self, Attend, Done, Folder, Migration};
use litekeep_sql::{Observer, Snapshot};
use serde::{Deserialize, Serialize};

use super::Ran;
use super::waiting::{Patience, Waiting, writer_of};
use crate::commands::status::live::Look;
use crate::report::{self, Failure, Format, Kind, text};
use crate::settings::Database;

/// How long the backup may take to come up under the write lock, for which others wait.
const PATIENCE_LOCKED: Duration = Duration::from_secs(4);
/// How often it is looked.
const PAUSE: Duration = Duration::from_millis(20);
/// Marks that are kept.
const KEPT: usize = 20;

/// The state before an `up`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    /// When it was made.
    pub(super) at: String,
    /// The transaction whose state it is; `None`: the backup did not have it.
    pub(super) txid: Option<String>,
    /// Why it did not.
    pub(super) reason: Option<String>,
    /// The last transaction of the migrations; `None`: not known, or others wrote meanwhile.
    pub(super) end: Option<String>,
    /// The versions that were pending.
    pub(super) versions: Vec<String>,
}

/// The marks of a database, the newest last.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Marks(pub(super) Vec<Mark>);

impl Marks {
    fn file(database: &Database) -> PathBuf {
        database.meta_dir.join("marks.json")
    }

    pub(super) fn read(database: &Database) -> Result<Marks> {
        let path = Marks::file(database);
        match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).with_context(|| format!("read `{}`", path.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Marks::default()),
            Err(error) => Err(Failure::io(format!("read `{}`", path.display()), &error).into()),
        }
    }

    /// Whoever changes them has the folder's lock for that moment, or one of two would take back what the other did.
    fn change(database: &Database, change: impl FnOnce(&mut Vec<Mark>)) -> Result<()> {
        let lock = || format!("lock `{}`", database.meta_dir.display());
        let failed = |error: std::io::Error| Failure::io(lock(), &error);
        std::fs::create_dir_all(&database.meta_dir).map_err(failed)?;
        let folder = File::open(&database.meta_dir).map_err(failed)?;
        let claimed = wait(PATIENCE_LOCKED, || {
            litekeep_env::lock::claim(&folder).map(|got| got.then_some(())).transpose()
        });
        let held = || Failure::new(Kind::Unavailable, format!("{}: another process has it", lock()));
        claimed.ok_or_else(held)?.map_err(failed)?;
        let mut marks = Marks::read(database)?;
        change(&mut marks.0);
        marks.write(database)
    }

    /// One goes; those that others made meanwhile stay.
    pub(super) fn remove(database: &Database, mark: &Mark) -> Result<()> {
        Marks::change(database, |marks| {
            if let Some(at) = marks.iter().rposition(|one| one == mark) {
                marks.remove(at);
            }
        })
    }

    fn write(&self, database: &Database) -> Result<()> {
        let path = Marks::file(database);
        let temporary = path.with_extension("tmp");
        let newest = &self.0[self.0.len().saturating_sub(KEPT)..];
        let written = serde_json::to_vec_pretty(newest).map_err(std::io::Error::from);
        let written = written
            .and_then(|text| std::fs::write(&temporary, text))
            .and_then(|()| std::fs::rename(&temporary, &path));
        written.map_err(|error| Failure::io(format!("write `{}`", path.display()), &error).into())
    }
}

/// Makes the mark of one `up`, and says what ran.
pub(super) struct Marking {
    /// With a backup; without one there is no way back.
    database: Option<Database>,
    replicated: bool,
    /// How long to wait; under the lock less.
    patience: Patience,
    waiting: Waiting,
    /// The one that migrates.
    path: PathBuf,
    /// What a program found that does not hold the lock.
    before: Option<Footprint>,
    mark: Option<Mark>,
    /// A migration has run.
    ran: bool,
    /// What the migrations left, when nobody else wrote meanwhile.
    end: Option<Snapshot>,
    format: Format,
    /// Each migration is told.
    told: bool,
}

impl Marking {
    /// Before SQLite opens the database: whoever replicates it is given time to come up to it.
    pub(super) fn of(path: &Path, database: Option<Database>, patience: Patience, format: Format) -> Marking {
        let database = database.filter(|d| !d.destinations.is_empty() && d.path.exists());
        let replicated = database.as_ref().is_some_and(is_replicated);
        if let Some(database) = database.as_ref().filter(|_| replicated) {
            come_up(database, patience.backup);
        }
        Marking {
            database,
            replicated,
            patience,
            waiting: Waiting::new(patience, format),
            path: path.to_owned(),
            before: None,
            mark: None,
            ran: false,
            end: None,
            format,
            told: false,
        }
    }

    /// Says of each migration that it ran.
    pub(super) fn told(self) -> Marking {
        Marking { told: self.format == Format::Text, ..self }
    }

    /// Runs what is pending. Where nothing ran no mark stays: `undo` would go back to here instead of to before the last one that did,
    /// and a service manager that tries again and again would push that one out.
    pub(super) fn up(&mut self, folder: &Folder) -> Result<Vec<Done>> {
        let ran = migrations::up(&self.path.clone(), folder, self);
        if ran.is_err()
            && !self.ran
            && let Err(error) = self.withdraw()
        {
            report::warning(
                &format!("`undo` will go back to this run, which did nothing: {error:#}"),
                self.format,
            );
        }
        Ok(ran?)
    }

    /// Makes the mark now, for a program that will not hold the lock.
    pub(super) fn set(&mut self, what: &str) -> Result<()> {
        self.before = self.database.as_ref().map(Footprint::of);
        self.begin(vec![what.to_owned()])
    }

    /// After such a program. One that is run at each start mostly does nothing, and the marks that are kept are few.
    pub(super) fn keep_if_changed(self) -> Result<()> {
        let (Some(database), Some(before)) = (&self.database, &self.before) else { return Ok(()) };
        if Footprint::of(database) != *before { Ok(()) } else { self.withdraw() }
    }

    fn withdraw(&self) -> Result<()> {
        let (Some(database), Some(mark)) = (&self.database, &self.mark) else { return Ok(()) };
        Marks::remove(database, mark)
    }

    /// There is a state to go back to.
    pub(super) fn has_way_back(&self) -> bool {
        self.mark.as_ref().is_some_and(|mark| mark.txid.is_some())
    }

    /// After the migrations: where they end in the log, when the backup has them.
    pub(super) fn end(self) -> Result<()> {
        let (Some(database), Some(mark), Some(end)) = (&self.database, &self.mark, self.end) else {
            return Ok(());
        };
        let reached = || match state(database)?.place {
            // What others wrote since is in the same transaction.
            Some(place) if place.salt == end.salt && place.frames > end.max_frame => Some(None),
            _ => confirmed(database, end).map(Some),
        };
        let end = wait(self.patience.backup, reached).flatten();
        Marks::change(database, |marks| {
            // Without the lock another may have made one meanwhile.
            if let Some(own) = marks.iter_mut().rfind(|one| *one == mark) {
                own.end = end.map(|txid| txid.to_string());
            }
        })
    }

    fn begin(&mut self, versions: Vec<String>) -> Result<()> {
        let Some(database) = &self.database else { return Ok(()) };
        let snapshot = snapshot(&database.path);
        let look = || match snapshot {
            Some(snapshot) => confirmed(database, snapshot),
            // An empty WAL: the file is the state, and must not be younger than what was confirmed.
            None => state(database)
                .filter(|state| modified_ms(database).is_some_and(|ms| ms <= state.confirmed_ms))
                .map(|state| state.txid),
        };
        let patience = self.patience.backup.min(PATIENCE_LOCKED);
        let txid = if self.replicated { wait(patience, look) } else { look() };
        let reason = match (&txid, self.replicated) {
            (Some(_), _) => None,
            (None, true) => {
                Some(format!("the backup did not have everything within {} s", patience.as_secs()))
            }
            (None, false) => Some("no replicator ran".to_owned()),
        };
        if let (true, Some(reason)) = (self.replicated, &reason) {
            report::warning(&format!("`undo` will not find the way back: {reason}"), self.format);
        }
        let mark = Mark {
            at: text::rfc3339(SystemClock.unix_ms()),
            txid: txid.map(|txid| txid.to_string()),
            reason,
            end: None,
            versions,
        };
        Marks::change(database, |marks| marks.push(mark.clone()))?;
        self.mark = Some(mark);
        Ok(())
    }
}

impl Attend for Marking {
    fn waits(&mut self, waited: Duration) -> bool {
        self.waiting.goes_on(waited, || writer_of(&self.path))
    }

    fn ends(&mut self, disturbed: bool) {
        let database = self.database.as_ref().filter(|_| self.replicated && !disturbed);
        self.end = database.and_then(|database| snapshot(&database.path));
    }

    fn begins(&mut self, pending: &[&Migration]) {
        let versions = pending.iter().map(|migration| migration.version.clone()).collect();
        if let Err(error) = self.begin(versions) {
            report::warning(&format!("there will be no way back by `undo`: {error:#}"), self.format);
        }
    }

    fn ran(&mut self, done: &Done) {
        self.ran = true;
        if self.told {
            report::line(&Ran::from(done).text("applied").trim_end());
        }
    }
}

/// What differs when anybody has committed.
#[derive(PartialEq, Eq)]
struct Footprint {
    wal: Option<Snapshot>,
    modified_ms: Option<i64>,
}

impl Footprint {
    fn of(database: &Database) -> Footprint {
        Footprint { wal: snapshot(&database.path), modified_ms: modified_ms(database) }
    }
}

fn is_replicated(database: &Database) -> bool {
    MetaDir::claimed_by(&database.meta_dir, &database.path).is_some()
}

/// Waits until the backup has everything, or nearly: who writes all the time is never up to date, and what is left after an
/// upload is little. Without a replicator nothing comes.
pub(super) fn come_up(database: &Database, patience: Duration) -> bool {
    let last = state(database).map(|state| state.txid);
    let moved = || state(database).map(|state| state.txid) != last;
    let look = || (moved() || Look::at(database, &SystemClock).is_confirmed()).then_some(());
    let patience = if is_replicated(database) { patience } else { Duration::ZERO };
    wait(patience, look).is_some()
}

fn state(database: &Database) -> Option<State> {
    StateFile::peek(&database.meta_dir.join("state"))
}

fn modified_ms(database: &Database) -> Option<i64> {
    let metadata = database.path.metadata().ok()?;
    Some(metadata.mtime() * 1000 + metadata.mtime_nsec() / 1_000_000)
}

/// What SQLite has committed: by a connection, because this process would drop its locks if it opened the files itself.
fn snapshot(path: &Path) -> Option<Snapshot> {
    let observer = Observer::open(path).ok()?;
    observer.begin_read().ok().flatten()
}

/// The confirmed transaction, if it is this state.
fn confirmed(database: &Database, snapshot: Snapshot) -> Option<Txid> {
    let state = state(database)?;
    let place = state.place?;
    (place.salt == snapshot.salt && place.frames == snapshot.max_frame).then_some(state.txid)
}

fn wait<T>(patience: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let begin = SystemClock.boottime();
    loop {
        let found = look();
        if found.is_some() || SystemClock.boottime() - begin > patience {
            return found;
        }
        std::thread::sleep(PAUSE);
    }
}

impl Mark {
    pub(super) fn text(&self) -> String {
        let what = format!("the last `up` began at {}", self.at);
        match (&self.txid, &self.reason) {
            (Some(txid), _) => {
                format!("{what}, after transaction {txid}: `litekeep migrate undo` goes back there\n")
            }
            (None, reason) => {
                let reason = reason.as_deref().unwrap_or("that state is not in the backup");
                format!("{what}; there is no way back to before it: {reason}\n")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;

    fn mark(txid: &str, end: Option<&str>) -> Mark {
        let at = "2026-08-21T10:00:00.000Z".to_owned();
        let end = end.map(str::to_owned);
        Mark { at, txid: Some(txid.to_owned()), reason: None, end, versions: vec!["1".to_owned()] }
    }

    /// By it `undo` counts what would be lost.
    #[test]
    fn an_end_goes_into_its_own_mark() {
        let dir = tempfile::tempdir().unwrap();
        let database = Database::unconfigured(&dir.path().join("app.db"));
        let (own, other) = (mark("1", None), mark("3", Some("4")));
        for one in [&own, &other] {
            Marks::change(&database, |marks| marks.push(one.clone())).unwrap();
        }
        let patience = Patience { backup: Duration::ZERO, others: None };
        let mut marking = Marking::of(&database.path, None, patience, Format::Json);
        marking.database = Some(database.clone());
        marking.mark = Some(own.clone());
        // Nobody replicates it, so that the end stays unknown.
        marking.end = Some(Snapshot { max_frame: 1, page_count: 2, salt: Default::default() });
        marking.end().unwrap();
        assert_eq!(Marks::read(&database).unwrap().0, [own, other]);
    }

    #[test]
    fn of_marks_that_come_at_the_same_time_none_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let database = Database::unconfigured(&dir.path().join("app.db"));
        let begin = Barrier::new(4);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (database, begin) = (&database, &begin);
                scope.spawn(move || {
                    begin.wait();
                    for nth in 0..5 {
                        let own = mark(&format!("{thread}{nth}"), None);
                        Marks::change(database, |marks| marks.push(own)).unwrap();
                    }
                });
            }
        });
        assert_eq!(Marks::read(&database).unwrap().0.len(), KEPT);
        Marks::remove(&database, &mark("03", None)).unwrap();
        let left = Marks::read(&database).unwrap().0;
        assert!(left.len() == KEPT - 1 && left.iter().all(|one| one.txid.as_deref() != Some("03")));
    }
}
