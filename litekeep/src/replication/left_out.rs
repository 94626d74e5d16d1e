//! Databases that could not be taken up beside others that could.
//!
//! Promise: each is shown red with its reason, by everything that shows how databases are, until it is taken up after all.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use litekeep_env::{Clock, SystemClock};
use litekeep_replicate::local::{MetaDir, StateFile, Trouble};
use litekeep_replicate::replicator::{Phase, Status};

use crate::report::{Kind, Report};
use crate::settings::Database;
use crate::verification::canonical;

/// All of them.
#[derive(Default)]
pub(super) struct LeftOut(Mutex<Vec<Entry>>);

struct Entry {
    database: Database,
    status: Status,
    /// Others see that somebody waits for it.
    claim: Option<MetaDir>,
}

impl LeftOut {
    fn lock(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves a database out, or notes why it still is.
    pub(super) fn add(&self, database: &Database, error: &anyhow::Error) {
        let Report { kind, message, causes, hint } = Report::of(error);
        let phase = if kind == Kind::Unavailable { Phase::Failing } else { Phase::Refused };
        let message = [vec![message], causes].concat().join(": ");
        let path = canonical(&database.path);
        let known = self.remove(&path);
        if known.is_none_or(|known| known.status.message.as_ref() != Some(&message)) {
            let hint = hint.as_ref().map_or(String::new(), |hint| format!("; {hint}"));
            tracing::error!(path = %path.display(), "not replicated, and tried again: {message}{hint}");
        }
        let durable = StateFile::peek(&database.meta_dir.join("state")).map(|state| state.txid);
        let (said, told) = (Some(message.clone()), hint.clone());
        let status = Status { path, phase, durable, message: said, hint: told, ..Status::default() };
        // Nothing is made where nothing is: a disk may not be mounted, or the path be mistyped.
        let is_there = database.path.exists() || database.meta_dir.is_dir();
        // Nor is anything taken from another replicator: while a database rests, that holds no more than the file.
        let is_free = is_there && MetaDir::claimed_by(&database.meta_dir, &database.path).is_none();
        let claim = is_free
            .then(|| MetaDir::claim(&database.meta_dir, &database.path).ok())
            .flatten()
            .inspect(|_| {
                let at_ms = SystemClock.unix_ms();
                Trouble { phase: phase.name().to_owned(), message, hint, at_ms }.write(&database.meta_dir);
            });
        self.lock().push(Entry { database: database.clone(), status, claim });
    }

    fn remove(&self, path: &Path) -> Option<Entry> {
        let mut all = self.lock();
        let nth = all.iter().position(|entry| entry.status.path == path)?;
        Some(all.remove(nth))
    }

    /// A database was taken up.
    pub(super) fn take(&self, database: &Database) {
        self.remove(&canonical(&database.path));
    }

    /// Lets whoever tries it again have what is its own.
    pub(super) fn let_go(&self, database: &Database) {
        let path = canonical(&database.path);
        if let Some(entry) = self.lock().iter_mut().find(|entry| entry.status.path == path) {
            entry.claim = None;
        }
    }

    pub(super) fn databases(&self) -> Vec<Database> {
        self.lock().iter().map(|entry| entry.database.clone()).collect()
    }

    pub(super) fn statuses(&self) -> Vec<Status> {
        self.lock().iter().map(|entry| entry.status.clone()).collect()
    }

    /// Where they are, as the replicator spells it.
    pub(super) fn paths(&self) -> Vec<PathBuf> {
        self.lock().iter().map(|entry| entry.status.path.clone()).collect()
    }
}
