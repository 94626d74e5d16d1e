//! How far a pull is, and of which tables it is.

use std::collections::BTreeMap;

use litekeep_env::random_u64;
use litekeep_schema::portable::{Level, Note};
use litekeep_sql::Mirror;
use serde::{Deserialize, Serialize};

use crate::ledger::{PAUSED, PLAN, REFUSED, STAGE};
use crate::source::SourceTable;
use crate::{Error, Kind};

/// How far a pull is. Kept in the database, beside its rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Stage {
    /// The source is to keep changes.
    Preparing {
        /// There may be rows that are not there any more.
        sweeps: bool,
    },
    /// Rows are on their way.
    Copying {
        /// From where changes are applied afterwards.
        position: String,
        /// Who the server is.
        server: String,
        /// The tables that are to come, the first of them on its way.
        tables: Vec<usize>,
        /// The key of its last row that is there, each value as [`key_text`] has it.
        after: Option<Vec<String>>,
        /// Rows that are there.
        rows: u64,
        /// There may be rows that are not there any more.
        sweeps: bool,
    },
    /// Changes are applied.
    Following {
        /// Up to where.
        position: String,
        /// Who the server is.
        server: String,
        /// When the last of them was committed, milliseconds since the epoch.
        time_ms: Option<i64>,
        /// From which position on it is as it was at one moment.
        consistent_at: String,
    },
}

#[derive(Serialize, Deserialize)]
pub(super) struct Plan {
    /// Under which the source keeps changes.
    pub(super) slot: String,
    pub(super) tables: Vec<SourceTable>,
}

/// What the database keeps of a pull.
pub(super) struct Kept {
    pub(super) plan: Plan,
    pub(super) stage: Stage,
    pub(super) paused: Vec<(String, String)>,
    pub(super) refused: u64,
}

pub(super) fn make(mirror: &Mirror, table: &SourceTable) -> Result<(), Error> {
    let Err(why) = mirror.make(&table.mirror)? else { return Ok(()) };
    let name = &table.mirror.name;
    let hint = format!(
        "if its rows can go: DROP TABLE {};, and litekeep makes it as {}",
        litekeep_sql::quoted(name),
        table.mirror.create()
    );
    Err(Error::with_hint(Kind::Invalid, format!("the table `{name}` is there and {why}"), hint))
}

/// The tables, where all of them can come.
pub(super) fn found(surveyed: Vec<(SourceTable, Vec<Note>)>) -> Result<Vec<SourceTable>, Error> {
    for note in surveyed.iter().flat_map(|(_, notes)| notes) {
        if note.level == Level::Table {
            let hint = "or leave it out: name the others in `tables`";
            let message = format!("`{}` cannot be pulled: {}", note.table, note.message);
            return Err(Error::with_hint(Kind::Invalid, message, hint));
        }
    }
    Ok(surveyed.into_iter().map(|(table, _)| table).collect())
}

/// The table with the columns that it has more now; `None`: it is changed otherwise.
pub(super) fn with_more(known: &SourceTable, now: &SourceTable) -> Option<SourceTable> {
    let place = |name: &str| now.mirror.columns.iter().position(|column| column.name == name);
    let mut longer = known.clone();
    for ((column, kind), new) in known.mirror.columns.iter().zip(&known.types).zip(&mut longer.types) {
        let nth = place(&column.name)?;
        if now.types[nth].form != kind.form {
            return None;
        }
        new.clone_from(&now.types[nth]);
    }
    let names = |table: &SourceTable| -> Vec<String> {
        table.mirror.key.iter().map(|nth| table.mirror.columns[*nth].name.clone()).collect()
    };
    if names(known) != names(now) {
        return None;
    }
    for (column, kind) in now.mirror.columns.iter().zip(&now.types) {
        if !known.mirror.columns.iter().any(|old| old.name == column.name) {
            longer.mirror.columns.push(column.clone());
            longer.types.push(kind.clone());
        }
    }
    Some(longer)
}

/// What is otherwise now, in words.
pub(super) fn changed(known: &SourceTable, now: &SourceTable) -> String {
    for (column, kind) in known.mirror.columns.iter().zip(&known.types) {
        let name = &column.name;
        match now.mirror.columns.iter().position(|other| other.name == *name) {
            None => return format!("its column `{name}` is gone or has another name"),
            Some(nth) if now.types[nth].form != kind.form => {
                return format!("its column `{name}` is {} now, and was {}", now.types[nth].name, kind.name);
            }
            Some(_) => {}
        }
    }
    "it has another key now".to_owned()
}

/// A name that no other database's sync has, from what all servers admit.
pub(crate) fn slot(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' };
    let name: String = name.chars().take(40).map(plain).collect();
    format!("litekeep_{name}_{:08x}", random_u64() as u32)
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
    }))
}

pub(super) fn parsed<T: for<'de> Deserialize<'de>>(text: &str) -> Result<T, Error> {
    serde_json::from_str(text).map_err(|e| damaged(&e.to_string()))
}

pub(super) fn damaged(what: &str) -> Error {
    let message = format!("read how far the sync is: `{}` is damaged: {what}", litekeep_sql::SYNC_TABLE);
    Error::new(Kind::Corrupt, message)
}
