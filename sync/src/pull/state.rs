//! How far a pull is, and of which tables it is.

use std::collections::BTreeMap;

use litekeep_env::random_u64;
use litekeep_schema::portable::{Level, Note};
use litekeep_sql::Mirror;
use serde::{Deserialize, Serialize};

use crate::cache::shelf::TABLES;
use crate::ledger::{PAUSED, PLAN, REFUSED, STAGE};
use crate::source::{SourceTable, SourceType};
use crate::{Error, Kind};

/// How far a pull is. Kept in the database, beside its rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Stage {
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

pub(crate) fn make(mirror: &Mirror, table: &SourceTable) -> Result<(), Error> {
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
pub(crate) fn found(surveyed: Vec<(SourceTable, Vec<Note>)>) -> Result<Vec<SourceTable>, Error> {
    for note in surveyed.iter().flat_map(|(_, notes)| notes) {
        if note.level == Level::Table {
            let hint = "or leave it out: name the others in `tables`";
            let message = format!("`{}` cannot be pulled: {}", note.table, note.message);
            return Err(Error::with_hint(Kind::Invalid, message, hint));
        }
    }
    Ok(surveyed.into_iter().map(|(table, _)| table).collect())
}

/// The table with the columns that it has more now; `None`: it is changed otherwise. What is not wanted of a table is as if it were not there.
pub(crate) fn with_more(known: &SourceTable, now: &SourceTable) -> Option<SourceTable> {
    let mut longer = known.clone();
    for ((column, kind), new) in known.coming().zip(&mut longer.types) {
        match found_in(now, &column.name) {
            Some(found) if found.form == kind.form => new.clone_from(found),
            None if now.part.is_some_columns => {}
            _ => return None,
        }
    }
    let names = |table: &SourceTable| -> Vec<String> {
        table.mirror.key.iter().map(|nth| table.mirror.columns[*nth].name.clone()).collect()
    };
    if names(known) != names(now) {
        return None;
    }
    if !known.part.is_some_columns {
        for (column, kind) in now.coming() {
            if found_in(known, &column.name).is_none() {
                longer.mirror.columns.push(column.clone());
                longer.types.push(kind.clone());
            }
        }
    }
    Some(longer)
}

/// The type of a column that comes.
fn found_in<'a>(table: &'a SourceTable, column: &str) -> Option<&'a SourceType> {
    table.coming().find(|(other, _)| other.name == column).map(|(_, kind)| kind)
}

/// What is otherwise now, in words.
pub(crate) fn changed(known: &SourceTable, now: &SourceTable) -> String {
    for (column, kind) in known.coming() {
        let name = &column.name;
        match found_in(now, name) {
            None if now.part.is_some_columns => {}
            None => return format!("its column `{name}` is gone or has another name"),
            Some(found) if found.form != kind.form => {
                return format!("its column `{name}` is {} now, and was {}", found.name, kind.name);
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
    if items.contains_key(TABLES) {
        let message = "the sync was begun with `mode = \"cache\"`";
        let hint =
            "put `mode` back, `litekeep sync forget`, and drop its tables; or give the sync another name";
        return Err(Error::with_hint(Kind::Invalid, message, hint));
    }
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

pub(crate) fn parsed<T: for<'de> Deserialize<'de>>(text: &str) -> Result<T, Error> {
    serde_json::from_str(text).map_err(|e| damaged(&e.to_string()))
}

pub(super) fn damaged(what: &str) -> Error {
    let message = format!("read how far the sync is: `{}` is damaged: {what}", litekeep_sql::SYNC_TABLE);
    Error::new(Kind::Corrupt, message)
}

#[cfg(test)]
mod tests {
    use litekeep_sql::{MirrorColumn, MirrorRules, MirrorTable};

    use super::*;
    use crate::source::Part;

    /// A table with these columns, the first of which is its key; one with a capital is of another type.
    fn table(columns: &[&str], is_some_columns: bool) -> SourceTable {
        let column = |name: &&str| MirrorColumn {
            name: name.to_lowercase(),
            declared: "TEXT".to_owned(),
            is_not_null: false,
        };
        let kind = |name: &&str| SourceType { name: (*name).to_owned(), form: name[..1].to_owned() };
        let mirror = MirrorTable {
            name: "t".to_owned(),
            columns: columns.iter().map(column).collect(),
            key: vec![0],
            indexes: vec![],
            rules: MirrorRules::default(),
        };
        let part = Part { is_some_columns, ..Part::default() };
        SourceTable { source: "t".to_owned(), types: columns.iter().map(kind).collect(), mirror, part }
    }

    fn names(table: &SourceTable) -> Vec<&str> {
        table.coming().map(|(column, _)| column.name.as_str()).collect()
    }

    #[test]
    fn further_columns_follow_where_all_are_wanted() {
        let now = table(&["id", "new", "a"], false);
        assert_eq!(names(&with_more(&table(&["id", "a"], false), &now).unwrap()), ["id", "a", "new"]);
        assert_eq!(names(&with_more(&table(&["id", "a"], true), &now).unwrap()), ["id", "a"]);
        for (known, why) in [
            (&["id", "b"], "its column `b` is gone or has another name"),
            (&["id", "A"], "its column `a` is a now, and was A"),
            (&["a", "id"], "it has another key now"),
        ] {
            for is_some_columns in [false, true] {
                let known = table(known, is_some_columns);
                assert!(with_more(&known, &now).is_none(), "{why}");
                assert_eq!(changed(&known, &now), why);
            }
        }
        // What is not wanted any more is not missed.
        assert!(with_more(&table(&["id", "b"], false), &table(&["id"], true)).is_some());
    }
}
