//! How often a cache had what it was asked for.
//!
//! Everybody who asks counts, in one file beside the database; it is only for those who look.

use std::fs::File;
use std::io::{Error, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use litekeep_env::{file, lock};
use serde::{Deserialize, Serialize};

/// How long another one may take to write its own, in steps of so long.
const STEPS: u32 = 100;
const STEP: Duration = Duration::from_millis(10);

/// How often what has happened, since the cache began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Rows that are kept.
    pub rows: u64,
    /// Rows that were here and new enough.
    pub hits: u64,
    /// What was known not to be there.
    pub negative_hits: u64,
    /// Rows that were here and older, so that the server was asked behind them.
    pub stale: u64,
    /// What the server was asked for while somebody waited.
    pub misses: u64,
    /// What it was asked for behind a row that was given.
    pub refreshes: u64,
    /// Rows that went to make room.
    pub evictions: u64,
    /// Questions that had no answer.
    pub errors: u64,
}

impl Counts {
    /// What was answered from here, of all that was asked for; `None`: nothing was.
    pub fn hit_rate(&self) -> Option<f64> {
        let here = self.hits + self.negative_hits + self.stale;
        let all = here + self.misses;
        (all > 0).then(|| here as f64 / all as f64)
    }

    /// Those that all have told.
    pub fn read(state: &Path) -> Counts {
        // What is damaged begins anew.
        let read = std::fs::read(path(state)).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        read.unwrap_or_default()
    }

    fn add(&mut self, more: &Counts) {
        self.hits += more.hits;
        self.negative_hits += more.negative_hits;
        self.stale += more.stale;
        self.misses += more.misses;
        self.refreshes += more.refreshes;
        self.evictions += more.evictions;
        self.errors += more.errors;
    }
}

fn path(state: &Path) -> PathBuf {
    state.with_extension("figures")
}

/// What is counted here and is not yet in the file.
#[derive(Debug)]
pub(super) struct Figures {
    path: PathBuf,
    counted: Mutex<Counts>,
}

impl Figures {
    /// Those of the sync that tells how it stands in a file.
    pub(super) fn of(state: &Path) -> Figures {
        Figures { path: path(state), counted: Mutex::default() }
    }

    pub(super) fn count(&self, what: impl FnOnce(&mut Counts)) {
        what(&mut self.counted.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Adds what was counted to the file. `rows`: those that are kept, where that is known.
    pub(super) fn tell(&self, rows: Option<u64>) -> std::io::Result<()> {
        if let Some(folder) = self.path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let lock = File::create(self.path.with_extension("figures-lock"))?;
        let mut steps = 0;
        while !lock::claim(&lock)? {
            steps += 1;
            if steps > STEPS {
                return Err(Error::new(ErrorKind::TimedOut, "another litekeep has it locked"));
            }
            std::thread::sleep(STEP);
        }
        let counted = std::mem::take(&mut *self.counted.lock().unwrap_or_else(PoisonError::into_inner));
        let before = Counts::read(&self.path);
        let mut all = Counts { rows: rows.unwrap_or(before.rows), ..before };
        all.add(&counted);
        let written = match all == before {
            true => Ok(()),
            false => file::replace_until_reboot(&self.path, &serde_json::to_vec(&all)?),
        };
        if written.is_err() {
            self.count(|counts| counts.add(&counted));
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_who_count_are_in_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("sync/users.json");
        let (one, other) = (Figures::of(&state), Figures::of(&state));
        one.count(|counts| counts.hits += 2);
        other.count(|counts| counts.misses += 1);
        one.tell(Some(5)).unwrap();
        other.tell(Some(6)).unwrap();
        one.tell(None).unwrap();
        let told = Counts::read(&state);
        assert_eq!(told, Counts { rows: 6, hits: 2, misses: 1, ..Counts::default() });
        assert_eq!(told.hit_rate(), Some(2.0 / 3.0));
        assert_eq!(Counts::read(&dir.path().join("other.json")).hit_rate(), None);
    }
}
