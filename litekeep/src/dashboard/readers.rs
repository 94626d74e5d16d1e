//! Who has read transactions open, as far as looks once a second tell.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use litekeep_env::file::sibling;
use litekeep_env::lock;
use serde::{Deserialize, Serialize};

use crate::report::text;

/// The first of the bytes of the wal-index that a reader locks, and how many they are.
const READ_LOCKS: (u64, u64) = (123, 5);
/// Between two looks at most, for a reader to be the same.
const SAME_MS: i64 = 5_000;

/// A process that was reading at each look.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Reader {
    pub(crate) pid: u32,
    /// Its name, where it is still there.
    pub(crate) command: Option<String>,
    pub(crate) since: String,
}

/// The first and the last look at which each reader was there.
#[derive(Debug, Default)]
pub(super) struct Readers(Mutex<HashMap<(PathBuf, u32), (i64, i64)>>);

impl Readers {
    /// The reader of a database that has been there longest, of those that were there at two looks.
    pub(super) fn oldest(&self, database: &Path, now_ms: i64) -> Option<Reader> {
        let (start, length) = READ_LOCKS;
        let found = lock::holders(&sibling(database, "-shm"), start, length).unwrap_or_default();
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for pid in found.into_iter().filter(|pid| *pid != std::process::id()) {
            let look = seen.entry((database.to_owned(), pid)).or_insert((now_ms, now_ms));
            look.1 = now_ms;
        }
        seen.retain(|(path, _), (_, last_ms)| {
            *last_ms == now_ms || path != database && now_ms - *last_ms < SAME_MS
        });
        let own = seen.iter().filter(|((path, _), (first_ms, _))| path == database && *first_ms < now_ms);
        let ((_, pid), (since_ms, _)) = own.min_by_key(|(_, (first_ms, _))| *first_ms)?;
        let command = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok();
        Some(Reader {
            pid: *pid,
            command: command.map(|name| name.trim().to_owned()),
            since: text::rfc3339(*since_ms),
        })
    }
}
