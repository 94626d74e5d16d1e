//! Running what is pending, and taking back what ran last.

use super::convention::{self, Applied};
use super::folder::{Folder, Migration, order};
use super::guard;
use crate::Error;
use litekeep_sql::{MigrationTransaction as Transaction, Migrator, Stopped};
use std::collections::HashSet;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long is waited for others, where nobody is told of it.
const PATIENCE: Duration = Duration::from_secs(60);
/// Whoever waits for the write lock is told so often that it does.
const PAUSE: Duration = Duration::from_secs(1);

/// A migration that ran.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// Its version.
    pub version: String,
    /// Its name.
    pub name: String,
    /// How long the write lock was held for it.
    pub locked: Duration,
}

/// Where a migration stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It has run.
    Applied,
    /// It has not run yet.
    Pending,
    /// It has run, and its file is not there.
    Missing,
}

/// One line of [`status`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Its version.
    pub version: String,
    /// Its name; `None` where there is no file.
    pub name: Option<String>,
    /// Where it stands.
    pub state: State,
}

/// What [`up`] is told to do besides, and whom it tells what.
pub trait Attend {
    /// Another holds the write lock, and it has been waited for so long; whether to wait on.
    fn waits(&mut self, _waited: Duration) -> bool {
        true
    }
    /// Something is pending, the write lock is held, and nothing has changed yet.
    fn begins(&mut self, _pending: &[&Migration]) {}
    /// One ran.
    fn ran(&mut self, _done: &Done) {}
    /// All ran, and the write lock is held again. `disturbed`: somebody else wrote between them.
    fn ends(&mut self, _disturbed: bool) {}
}

impl Attend for () {}

/// Runs every pending migration, each in a transaction of its own. Others that migrate or write are waited for as long as it takes.
///
/// # Errors
/// The first one that failed or did harm. Those before it have run, and it has not.
pub fn up(database: &Path, folder: &Folder, attend: &mut impl Attend) -> Result<Vec<Done>, Error> {
    let mut migrator = Migrator::open(database, PATIENCE)?;
    let (mut ran, mut disturbed, mut state) = (vec![], false, None);
    loop {
        let waiting = Instant::now();
        let mut tx = migrator.begin_after(PAUSE, || attend.waits(waiting.elapsed()))?;
        let begun = Instant::now();
        let applied = convention::take(folder, &tx)?;
        // Changes when another connection has committed, and not by what this one commits.
        let seen = tx.rows("PRAGMA data_version", &[])?;
        disturbed |= *state.get_or_insert_with(|| seen.clone()) != seen;
        let pending: Vec<_> = folder.migrations.iter().filter(|m| !applied.has(&m.version)).collect();
        let Some(next) = pending.first() else {
            if !ran.is_empty() {
                attend.ends(disturbed);
            }
            // An empty history stays: the next one finds the table.
            tx.commit()?;
            return Ok(ran);
        };
        if ran.is_empty() {
            attend.begins(&pending);
        }
        guarded(&mut tx, next, &next.up)?;
        folder.convention.add(&tx, next, begun.elapsed())?;
        tx.commit()?;
        ran.push(Done { version: next.version.clone(), name: next.name.clone(), locked: begun.elapsed() });
        ran.last().into_iter().for_each(|done| attend.ran(done));
    }
}

/// Takes back the migration that has the highest version of those that ran; `None` when none has.
///
/// # Errors
/// `Invalid` when its file, or the way back in it, is missing; else as [`up`].
pub fn down(database: &Path, folder: &Folder) -> Result<Option<Done>, Error> {
    let mut migrator = Migrator::open(database, PATIENCE)?;
    let mut tx = migrator.begin()?;
    let begun = Instant::now();
    let applied = convention::take(folder, &tx)?;
    let Some(last) = applied.named().iter().max_by(|a, b| order(a).cmp(&order(b))) else { return Ok(None) };
    let Some(migration) = folder.migrations.iter().find(|m| order(&m.version) == order(last)) else {
        return Err(Error::invalid(
            format!("migration {last} ran last, and `{}` has no file for it", folder.path.display()),
            "bring the file back: it holds the way back",
        ));
    };
    let Some(way_back) = &migration.down else {
        return Err(Error::invalid(
            format!("`{}` has no way back", migration.path.display()),
            "write one (litekeep's own stands below a line `-- migrate:down`), or restore the database to before the migration",
        ));
    };
    guarded(&mut tx, migration, way_back)?;
    let before = folder.migrations.iter().rev().find(|m| order(&m.version) < order(last));
    folder.convention.remove(&tx, last, before.map(|m| m.version.as_str()))?;
    tx.commit()?;
    Ok(Some(Done { version: last.clone(), name: migration.name.clone(), locked: begun.elapsed() }))
}

/// All migrations that the folder or the history knows, in order.
///
/// # Errors
/// When the database cannot be read or its history is another tool's.
pub fn status(database: &Path, folder: &Folder) -> Result<Vec<Status>, Error> {
    let applied = match database.exists() {
        true => convention::look(folder, &Migrator::open(database, PATIENCE)?)?,
        false => Applied::Each(vec![]),
    };
    let files = folder.migrations.iter().map(|m| Status {
        version: m.version.clone(),
        name: Some(m.name.clone()),
        state: if applied.has(&m.version) { State::Applied } else { State::Pending },
    });
    let known: HashSet<_> = folder.migrations.iter().map(|m| order(&m.version)).collect();
    let gone = applied.named().iter().filter(|version| !known.contains(&order(version)));
    let gone = gone.map(|version| Status { version: version.clone(), name: None, state: State::Missing });
    let mut all: Vec<Status> = files.chain(gone).collect();
    all.sort_by(|a, b| order(&a.version).cmp(&order(&b.version)));
    Ok(all)
}

/// Runs the statements of one part, and refuses what they did beyond what they say.
fn guarded(tx: &mut Transaction<'_>, migration: &Migration, sql: &str) -> Result<(), Error> {
    let before = tx.census()?;
    let aims = tx.run(sql).map_err(|stopped| failed(migration, stopped))?;
    let allowed = guard::allowed(sql);
    let mut harms = guard::harms(&before, &tx.census()?, &aims);
    harms.retain(|harm| !allowed.contains(&harm.code()));
    if harms.is_empty() { Ok(()) } else { Err(Error::Harm { path: migration.path.clone(), harms }) }
}

/// A statement of a migration that failed.
pub(super) fn failed(migration: &Migration, stopped: Stopped) -> Error {
    Error::Statement { path: migration.path.clone(), line: stopped.line, message: stopped.message }
}
