//! What each kind of operation did, and which failures are an application's ordinary ones.

use std::collections::BTreeMap;

use rusqlite::{Error, ErrorCode, ffi};

/// What operations of one kind did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Count {
    /// Those that changed something.
    pub changed: u64,
    /// Those that found nothing to change.
    pub idle: u64,
    /// Statements that failed, by message (as far as it names no table).
    pub failed: BTreeMap<String, u64>,
}

/// [`Count`]s by kind of operation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    by_kind: BTreeMap<&'static str, Count>,
    current: &'static str,
}

impl Counts {
    /// With all `kinds` at zero.
    pub(super) fn new(kinds: impl Iterator<Item = &'static str>) -> Self {
        Self { by_kind: kinds.map(|kind| (kind, Count::default())).collect(), current: "" }
    }

    /// All kinds of operation, those that never ran too.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &Count)> {
        self.by_kind.iter().map(|(kind, count)| (*kind, count))
    }

    /// Adds what another database saw.
    pub fn add(&mut self, other: &Self) {
        for (kind, count) in &other.by_kind {
            let sum = self.by_kind.entry(kind).or_default();
            sum.changed += count.changed;
            sum.idle += count.idle;
            for (message, n) in &count.failed {
                *sum.failed.entry(message.clone()).or_default() += n;
            }
        }
    }

    /// What follows belongs to an operation of this kind.
    pub(super) fn begin(&mut self, kind: &'static str) {
        self.current = kind;
    }

    /// The operation has ended so; says whether it changed anything.
    pub(super) fn end(&mut self, result: rusqlite::Result<bool>) -> rusqlite::Result<bool> {
        let has_failed = result.is_err();
        let changed = self.tolerate(result)?;
        let count = self.by_kind.entry(self.current).or_default();
        match (changed, has_failed) {
            (true, _) => count.changed += 1,
            (false, true) => {}
            (false, false) => count.idle += 1,
        }
        Ok(changed)
    }

    /// Counts an ordinary failure, which then changed nothing.
    pub(super) fn tolerate(&mut self, result: rusqlite::Result<bool>) -> rusqlite::Result<bool> {
        let Err(error) = result else { return result };
        let Some(message) = ordinary(&error) else { return Err(error) };
        let count = self.by_kind.entry(self.current).or_default();
        *count.failed.entry(message).or_default() += 1;
        Ok(false)
    }
}

/// The message of a failure that an application meets; none for those that mean a damaged file or a mistake here.
fn ordinary(error: &Error) -> Option<String> {
    let (code, message) = match error {
        Error::SqliteFailure(code, message) => (code, message.as_deref().unwrap_or_default()),
        Error::SqlInputError { error, msg, .. } => (error, msg.as_str()),
        _ => return None,
    };
    let is_ordinary =
        matches!(code.code, ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch | ErrorCode::TooBig)
            || (code.extended_code == ffi::SQLITE_ERROR && !is_mistake(message));
    is_ordinary.then(|| without_names(message).to_owned())
}

/// The message up to the first name of a table, column, index or trigger.
fn without_names(message: &str) -> &str {
    let ends = [":", " \"", " column ", " table ", " index ", " trigger "];
    let place =
        |end: &str| message.find(end).map(|place| place + end.trim_end_matches([':', ' ', '"']).len());
    let end = ends.into_iter().filter_map(place).min();
    message[..end.unwrap_or(message.len())].trim_end()
}

/// Whether SQL was wrong whatever the tables are.
fn is_mistake(message: &str) -> bool {
    let mistakes =
        ["syntax error", "unrecognized token", "no such function", "no such collation", "incomplete input"];
    mistakes.iter().any(|mistake| message.contains(mistake))
}
