//! Waiting for others that migrate or write: whoever does it says so now and then, and for whom.

use std::path::Path;
use std::time::Duration;

use litekeep_env::file::sibling;
use litekeep_env::lock;
use litekeep_format::locks::{PENDING, WRITE_LOCK};

use crate::report::{self, Format, text};

/// How long others are waited for.
#[derive(Clone, Copy)]
pub(super) struct Patience {
    /// The backup may take so long to come up before the write lock is taken, and after the migrations.
    pub(super) backup: Duration,
    /// Others may migrate or write for so long; `None`: as long as it takes.
    pub(super) others: Option<Duration>,
}

pub(super) const PATIENCE: Patience = Patience { backup: Duration::from_secs(10), others: None };
/// For each of many databases, of which one may keep none of the others waiting.
pub(super) const LITTLE_PATIENCE: Patience =
    Patience { backup: Duration::from_secs(1), others: Some(Duration::from_secs(60)) };

/// After so long it is said; then at twice the time, and so on.
const FIRST_SIGN: Duration = Duration::from_secs(2);

/// What it is said with, and when next.
pub(super) struct Waiting {
    limit: Option<Duration>,
    next: Duration,
    format: Format,
}

impl Waiting {
    pub(super) fn new(patience: Patience, format: Format) -> Waiting {
        Waiting { limit: patience.others, next: FIRST_SIGN, format }
    }

    /// So long it has been waited, for what is told then; whether it is to be waited on.
    pub(super) fn goes_on(&mut self, waited: Duration, what: impl FnOnce() -> String) -> bool {
        if waited >= self.next {
            report::warning(&format!("waiting for {} s: {}", waited.as_secs(), what()), self.format);
            self.next *= 2;
        }
        self.limit.is_none_or(|limit| waited < limit)
    }
}

/// Who has the write lock of a database, as far as the kernel knows it: of litekeep's own locks it does not.
pub(super) fn writer_of(database: &Path) -> String {
    let in_wal_mode = lock::holders(&sibling(database, "-shm"), WRITE_LOCK, 1);
    let in_others = lock::holders(database, PENDING, 2);
    let own = std::process::id();
    let holder = in_wal_mode.into_iter().chain(in_others).flatten().find(|pid| *pid != own);
    let who = holder.map_or_else(|| "another connection".to_owned(), text::process);
    format!("{who} has the write lock of `{}`", database.display())
}
