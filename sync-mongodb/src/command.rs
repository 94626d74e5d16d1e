//! Commands that write: how much goes into one, what they say of it, and how often they are tried.

use std::time::Duration;

use bson::{Bson, Document};
use litekeep_sync::ledger::text as json;
use litekeep_sync::{Error, Kind};
use mongodb::error::Error as Cause;

use crate::error::{self, code};
use crate::session::Session;

/// Documents and bytes that a command has, unless one document alone has more.
pub(crate) const COMMAND_ROWS: usize = 1_000;
const COMMAND_BYTES: usize = 8 << 20;
/// Tries where others are in the way, and the pause after the first of them.
const TRIES: u32 = 10;
const PAUSE: Duration = Duration::from_millis(5);
/// A transaction that is ended after so long has taken too long; the server gives it a minute by default.
const LONG: Duration = Duration::from_secs(30);
/// Or as often, however long it took.
const TIMES: u32 = 3;
const ENDED: [i32; 2] = [code::NO_SUCH_TRANSACTION, code::TRANSACTION_TOO_LONG];
pub(crate) const WRITE: &str = "write rows";

/// Tries of a transaction, as long as only others are in its way.
#[derive(Default)]
pub(crate) struct Tries {
    count: u32,
    /// How often the server has ended it.
    ended: u32,
}

impl Tries {
    /// Counts one that has failed after so long.
    ///
    /// # Errors
    /// When it was the last one.
    pub(crate) fn failed(
        &mut self,
        session: &Session,
        doing: &str,
        cause: &Cause,
        lasted: Duration,
    ) -> Result<(), Error> {
        if !error::is_transient(cause) || self.count == TRIES {
            return Err(session.failed(doing, cause));
        }
        if ENDED.iter().any(|ended| error::number(cause) == Some(*ended)) {
            self.ended += 1;
            if lasted >= LONG || self.ended == TIMES {
                return Err(too_long(session.name(), cause));
            }
        }
        self.count += 1;
        Ok(())
    }

    /// It may be one that a killed litekeep has left open.
    pub(crate) fn are_half(&self) -> bool {
        self.count == TRIES / 2
    }

    /// Until the next one.
    pub(crate) async fn pause(&self) {
        tokio::time::sleep(PAUSE * 2_u32.pow(self.count.saturating_sub(1))).await;
    }
}

fn too_long(place: &str, cause: &Cause) -> Error {
    let message = format!(
        "{WRITE} in {place}: a transaction took longer than the server lets one take: {}",
        error::cause(cause)
    );
    let hint = "as an administrator: db.adminCommand({ setParameter: 1, transactionLifetimeLimitSeconds: 600 }), on every server of the set";
    Error::with_hint(Kind::Invalid, message, hint)
}

/// The place, the number and the words of the first error of a write.
pub(crate) fn first_error(said: &Document) -> Option<(usize, i32, String)> {
    let first = said.get_array("writeErrors").ok()?.first()?.as_document()?;
    let place = usize::try_from(first.get_i32("index").unwrap_or(0)).ok()?;
    Some((place, first.get_i32("code").unwrap_or(0), words(first)))
}

/// What the server says of a document, with why a validator does not admit it.
fn words(error: &Document) -> String {
    let said = error.get_str("errmsg").unwrap_or_default();
    match error.get_document("errInfo").and_then(|info| info.get_document("details")) {
        Ok(details) => format!("{said}: {}", json(&Bson::Document(details.clone()).into_relaxed_extjson())),
        Err(_) => said.to_owned(),
    }
}

/// Of one command each.
pub(crate) fn groups<R>(rows: &[R], bytes_of: impl Fn(&R) -> usize) -> Vec<&[R]> {
    let (mut groups, mut first, mut bytes) = (vec![], 0, 0);
    for (nth, row) in rows.iter().enumerate() {
        let size = bytes_of(row);
        if nth > first && (nth - first == COMMAND_ROWS || bytes + size > COMMAND_BYTES) {
            groups.push(&rows[first..nth]);
            (first, bytes) = (nth, 0);
        }
        bytes += size;
    }
    if first < rows.len() {
        groups.push(&rows[first..]);
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_neither_too_long_nor_empty() {
        let half = vec![0_u8; COMMAND_BYTES / 2];
        let rows: Vec<&[u8]> = vec![&half, &half, &[1], &half];
        let sizes: Vec<usize> = groups(&rows, |row| row.len()).iter().map(|group| group.len()).collect();
        assert_eq!(sizes, [2, 2]);
        let many = vec![&[1_u8][..]; 2 * COMMAND_ROWS + 1];
        let sizes: Vec<usize> = groups(&many, |row| row.len()).iter().map(|group| group.len()).collect();
        assert_eq!(sizes, [COMMAND_ROWS, COMMAND_ROWS, 1]);
        assert!(groups(&[], |row: &&[u8]| row.len()).is_empty());
    }
}
