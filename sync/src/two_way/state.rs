//! What is kept of a sync in both directions: here beside the rows, and there.

use std::collections::BTreeMap;
use std::hash::Hasher as _;

use serde::{Deserialize, Serialize};
use siphasher::sip128::{Hasher128 as _, SipHasher13};

use crate::ledger::{PAUSED, PLAN, REFUSED, STAGE, text as json};
use crate::source::SourceTable;
use crate::target::{key_text, key_value};
use crate::{Error, Kind, Value};

/// What the names of items begin with that say which image of a row the hub has, as the pull has seen it.
pub(super) const SEEN: &str = "row/";
/// What the names of items begin with that hold the two images of a conflict.
pub(super) const LOST: &str = "lost/";
/// The item that counts conflicts.
pub(super) const CONFLICTS: &str = "conflicts";
/// Conflicts that are kept; older ones go.
pub(super) const KEPT_CONFLICTS: u64 = 1_000;
/// There: what the names of items begin with that hold a row which could not be written yet.
pub(super) const PENDING: &str = "pending/";
/// There: what the names of items begin with that say which rows a push has written, until the push has come back.
pub(super) const FLIGHT: &str = "flight/";

/// Who wins where both sides have changed a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// The server.
    #[default]
    Server,
    /// SQLite.
    Sqlite,
    /// The change that was made later; one that keeps the row over one that deletes it.
    Latest,
    /// Each column as the side has it that alone has changed it; of what both have changed, or one has deleted, the server.
    MergeServer,
    /// The same, else SQLite.
    MergeSqlite,
    /// The same, else the change that was made later.
    MergeLatest,
}

impl Policy {
    /// Whether columns are decided about one by one.
    pub(super) fn merges(self) -> bool {
        matches!(self, Policy::MergeServer | Policy::MergeSqlite | Policy::MergeLatest)
    }
}

/// The same by table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policies {
    /// Of all others.
    pub all: Policy,
    /// By the name of the table in SQLite.
    pub tables: BTreeMap<String, Policy>,
}

impl Policies {
    pub(super) fn of(&self, table: &str) -> Policy {
        self.tables.get(table).copied().unwrap_or(self.all)
    }
}

/// The image of no row.
pub(super) const NONE: &str = "-";

/// By what images of a row are told apart.
pub(super) fn image(row: Option<&[Value]>) -> String {
    let Some(row) = row else { return NONE.to_owned() };
    let mut hasher = SipHasher13::new();
    for value in row {
        // SQLite keeps no sign of a zero.
        let text = match value {
            Value::Real(f) if *f == 0.0 => key_text(&Value::Real(0.0)),
            value => key_text(value),
        };
        hasher.write_usize(text.len());
        hasher.write(text.as_bytes());
    }
    format!("{:032x}", hasher.finish128().as_u128())
}

pub(super) fn texts(row: &[Value]) -> Vec<String> {
    row.iter().map(key_text).collect()
}

pub(super) fn values(texts: &[String]) -> Result<Vec<Value>, Error> {
    let values: Option<Vec<Value>> = texts.iter().map(|text| key_value(text)).collect();
    values.ok_or_else(|| damaged("a row"))
}

/// How far it is. Kept here, beside the rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Stage {
    /// All rows of both sides are compared.
    Merging {
        /// Transactions of ours so far.
        commits: u64,
    },
    /// Changes go both ways.
    Following(Follows),
}

impl Stage {
    pub(super) fn commits(&self) -> u64 {
        match self {
            Stage::Merging { commits } | Stage::Following(Follows { commits, .. }) => *commits,
        }
    }
}

/// Up to where changes of the hub are here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Follows {
    /// The position.
    pub(super) position: String,
    /// Who the server is.
    pub(super) server: String,
    /// When the last of them was committed, milliseconds since the epoch.
    pub(super) time_ms: Option<i64>,
    /// The last push of ours among them.
    pub(super) pushes: u64,
    /// Transactions of ours so far.
    pub(super) commits: u64,
}

/// How far the hub is with what is here. Kept there, beside the rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Outward {
    /// Everything up to this transaction of the log is there, or among what is pending.
    pub(super) txid: String,
    /// When that was seen, milliseconds since the epoch: tells another history with the same numbers.
    pub(super) time_ms: i64,
    /// Pushes so far.
    pub(super) pushes: u64,
    /// All rows of both sides are compared.
    pub(super) is_merging: bool,
}

#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Plan {
    /// Under which the hub keeps changes, and how far the node is.
    pub(super) slot: String,
    pub(super) tables: Vec<SourceTable>,
}

/// What the database keeps.
pub(super) struct Kept {
    pub(super) plan: Plan,
    pub(super) stage: Stage,
    pub(super) paused: Vec<(String, String)>,
    pub(super) refused: u64,
    pub(super) conflicts: u64,
}

impl Kept {
    /// Whether a table stands still, by its place in the plan.
    pub(super) fn is_paused(&self, nth: usize) -> bool {
        let name = &self.plan.tables[nth].mirror.name;
        self.paused.iter().any(|(paused, _)| paused == name)
    }
}

pub(super) fn kept(items: &BTreeMap<String, String>) -> Result<Option<Kept>, Error> {
    let (Some(plan), Some(stage)) = (items.get(PLAN), items.get(STAGE)) else { return Ok(None) };
    let paused = items
        .iter()
        .filter_map(|(item, reason)| Some((item.strip_prefix(PAUSED)?.to_owned(), reason.clone())));
    let refused = items.keys().filter(|item| item.starts_with(REFUSED)).count();
    Ok(Some(Kept {
        plan: parsed(plan)?,
        stage: parsed(stage)?,
        paused: paused.collect(),
        refused: refused as u64,
        conflicts: items.get(CONFLICTS).and_then(|count| count.parse().ok()).unwrap_or(0),
    }))
}

pub(super) fn parsed<T: for<'de> Deserialize<'de>>(text: &str) -> Result<T, Error> {
    serde_json::from_str(text).map_err(|e| damaged(&e.to_string()))
}

pub(super) fn damaged(what: &str) -> Error {
    let message = format!("read how far the sync is: `{}` is damaged: {what}", litekeep_sql::SYNC_TABLE);
    Error::new(Kind::Corrupt, message)
}

/// Which image of a row the hub has, as the pull has seen it in a transaction of ours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Seen {
    /// The transaction, by its number.
    pub(super) commit: u64,
    pub(super) image: String,
    pub(super) key: Vec<String>,
    /// Where the row here has columns of both sides since then: its image, and when it was changed here, milliseconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) merged: Option<(String, i64)>,
}

impl Seen {
    /// When the row here was changed, as far as it is known that it was not in that very moment.
    pub(super) fn changed_ms(&self, image_here: &str) -> Option<i64> {
        self.merged.as_ref().filter(|(image, _)| image == image_here).map(|(_, ms)| *ms)
    }
}

/// A row that shall be otherwise in the hub.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Work {
    /// The table, by its place in the plan.
    pub(super) table: usize,
    pub(super) key: Vec<Value>,
    /// How it shall be; `None`: gone.
    pub(super) want: Option<Vec<Value>>,
    /// Which image it replaces. Where the hub has another one, nothing is written.
    pub(super) base: String,
    /// When it was changed here, milliseconds since the epoch.
    pub(super) time_ms: i64,
    pub(super) waits: Waits,
    /// The pull has come to where it waited for it.
    pub(super) is_late: bool,
}

/// What it waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Waits {
    /// Nothing.
    Due,
    /// The hub had another image: until the pull has come to this position, which brings it.
    Until(String),
    /// The hub refuses it, until it changes.
    Refused(String),
}

/// The same as it is kept.
#[derive(Serialize, Deserialize)]
pub(super) struct Pending {
    pub(super) table: String,
    pub(super) key: Vec<String>,
    pub(super) want: Option<Vec<String>>,
    pub(super) base: String,
    pub(super) time_ms: i64,
    pub(super) reason: Option<String>,
}

#[cfg(test)]
thread_local! {
    /// How many were written.
    pub(super) static WRITTEN: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

impl Work {
    /// Why the hub refuses it, if it does.
    fn reason(&self) -> Option<&String> {
        match &self.waits {
            Waits::Refused(reason) => Some(reason),
            _ => None,
        }
    }

    /// Whether both are [kept](Self::kept) alike, which is told without writing either.
    pub(super) fn is_kept_as(&self, other: &Work) -> bool {
        (self.table, self.time_ms, &self.base) == (other.table, other.time_ms, &other.base)
            && self.reason() == other.reason()
            && self.key == other.key
            && self.want == other.want
    }

    pub(super) fn kept(&self, plan: &Plan) -> String {
        #[cfg(test)]
        WRITTEN.with(|written| written.set(written.get() + 1));
        let reason = self.reason().cloned();
        json(&Pending {
            table: plan.tables[self.table].mirror.name.clone(),
            key: texts(&self.key),
            want: self.want.as_deref().map(texts),
            base: self.base.clone(),
            time_ms: self.time_ms,
            reason,
        })
    }

    /// As it was kept; `None`: its table is in the plan no more.
    pub(super) fn read(content: &str, plan: &Plan) -> Result<Option<Work>, Error> {
        let Pending { table, key, want, base, time_ms, reason } = parsed(content)?;
        let Some(table) = plan.tables.iter().position(|known| known.mirror.name == table) else {
            return Ok(None);
        };
        let want = want.as_deref().map(values).transpose()?;
        let waits = reason.map_or(Waits::Due, Waits::Refused);
        Ok(Some(Work { table, key: values(&key)?, want, base, time_ms, waits, is_late: false }))
    }
}

/// What a transaction of a node's says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Says {
    pub(super) node: String,
    /// Which of its pushes it is.
    pub(super) push: u64,
    /// When the last of its changes was made there, milliseconds since the epoch.
    pub(super) time_ms: i64,
}

/// A row that both sides have changed, with both images.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conflict {
    /// The table, as SQLite names it.
    pub table: String,
    /// Its key, each value as [`key_text`] has it.
    pub key: Vec<String>,
    /// When it was decided, milliseconds since the epoch.
    pub at_ms: i64,
    /// Who won: `server` or `sqlite`.
    pub winner: String,
    /// What the winner has, by column; `None`: the row is gone.
    pub kept: Option<Vec<String>>,
    /// What has lost.
    pub lost: Option<Vec<String>>,
    /// The columns; where these are decided about one by one, those that both sides have changed.
    pub columns: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_told_apart() {
        let of = |row: &[Value]| image(Some(row));
        let text = |text: &str| Value::Text(text.into());
        assert_ne!(of(&[text("ab"), text("c")]), of(&[text("a"), text("bc")]));
        assert_ne!(of(&[Value::Integer(1)]), of(&[Value::Real(1.0)]));
        assert_ne!(of(&[Value::Null]), of(&[text("")]));
        assert_ne!(of(&[]), image(None));
        assert_eq!(of(&[Value::Real(-0.0)]), of(&[Value::Real(0.0)]));
    }
}
