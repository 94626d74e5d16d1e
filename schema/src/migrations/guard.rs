//! What a migration may not do silently.

use litekeep_sql::{Aims, Census};
use std::fmt;

/// What a line begins with that allows something.
pub(super) const ALLOW: &str = "-- litekeep:allow ";
/// All codes of [`Harm`].
pub const CODES: [&str; 5] = ["lost-rows", "lost-object", "orphans", "broken-reference", "broken-view"];

/// Something that would be lost, although no statement of the file names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Harm {
    /// A table has fewer rows, and nothing was deleted from it by name.
    LostRows {
        /// The table.
        table: String,
        /// Rows before the file ran.
        before: u64,
        /// Rows after it.
        after: u64,
    },
    /// An index, a trigger or a view is gone that was not dropped by name, as when its table was made anew.
    LostObject {
        /// `index`, `trigger` or `view`.
        kind: String,
        /// Its name.
        name: String,
        /// Its table.
        table: String,
    },
    /// Rows refer to rows that are not there, which they did not before.
    Orphans {
        /// The table with these rows.
        table: String,
        /// The table that they refer to.
        parent: String,
        /// How many more there are than before.
        rows: u64,
    },
    /// A table refers to a key that another does not have, so that SQLite refuses to write to one of them.
    BrokenReference {
        /// The table.
        table: String,
        /// SQLite's words.
        why: String,
    },
    /// A view cannot be read any more.
    BrokenView {
        /// Its name.
        name: String,
        /// SQLite's words.
        why: String,
    },
}

impl Harm {
    /// What the comment `-- litekeep:allow CODE reason` calls it.
    pub fn code(&self) -> &'static str {
        match self {
            Harm::LostRows { .. } => "lost-rows",
            Harm::LostObject { .. } => "lost-object",
            Harm::Orphans { .. } => "orphans",
            Harm::BrokenReference { .. } => "broken-reference",
            Harm::BrokenView { .. } => "broken-view",
        }
    }

    /// What to change in the file.
    pub fn fix(&self) -> String {
        let fix = match self {
            Harm::LostRows { table, .. } => {
                format!(
                    "copy every row of `{table}` (no WHERE, LIMIT or OR IGNORE), or write the DELETE that is meant"
                )
            }
            Harm::LostObject { kind, name, table } if kind == "view" => {
                format!("make the view `{name}` again, or drop it by name (`{table}` is not enough)")
            }
            Harm::LostObject { kind, name, table } => {
                format!("make the {kind} `{name}` again after `{table}` was made anew, or drop it by name")
            }
            Harm::Orphans { table, parent, .. } => {
                format!(
                    "delete or mend the rows of `{table}` that refer to missing rows of `{parent}`, in the same file"
                )
            }
            Harm::BrokenReference { table, .. } => {
                format!("give what `{table}` refers to a PRIMARY KEY or a UNIQUE index on these columns")
            }
            Harm::BrokenView { name, .. } => format!("drop the view `{name}` and make it again to fit"),
        };
        let rebuild = match self {
            Harm::LostObject { kind, .. } if kind == "view" => "",
            Harm::LostObject { .. } | Harm::Orphans { .. } | Harm::BrokenReference { .. } => {
                "; where the file rebuilds a table, `litekeep migrate rewrite FILE` does that"
            }
            _ => "",
        };
        format!(
            "{fix}{rebuild}; if it must be so, add `-- litekeep:allow {} REASON` to the file",
            self.code()
        )
    }
}

impl fmt::Display for Harm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Harm::LostRows { table, before, after } => {
                write!(f, "`{table}` would have {after} rows instead of {before}, and no DELETE says so")
            }
            Harm::LostObject { kind, name, table } if kind == "view" || name == table => {
                write!(f, "the {kind} `{name}` would be lost")
            }
            Harm::LostObject { kind, name, table } => {
                write!(f, "the {kind} `{name}` of `{table}` would be lost")
            }
            Harm::Orphans { table, parent, rows } => {
                write!(f, "{rows} rows of `{table}` would refer to rows of `{parent}` that are not there")
            }
            Harm::BrokenReference { table, why } => {
                write!(f, "the references of `{table}` would make no sense: {why}")
            }
            Harm::BrokenView { name, why } => write!(f, "the view `{name}` would not work any more: {why}"),
        }
    }
}

/// What a file did beyond what it said.
pub(super) fn harms(before: &Census, after: &Census, aims: &Aims) -> Vec<Harm> {
    let mut harms = vec![];
    for (table, &rows) in &before.rows {
        // The table may have another name by now; one of the old name may be a new table.
        let moved = aims.renamed.iter().filter(|(_, old)| *old == table).map(|(new, _)| new);
        let left = moved.chain([table]).filter_map(|name| after.rows.get(name)).max();
        let is_dropped = left.is_none() && aims.dropped.contains(table);
        let was_called = aims.renamed.get(table).into_iter().chain([table]);
        let is_deleted_from = was_called.into_iter().any(|name| aims.deleted_from.contains(name));
        let left = left.copied().unwrap_or(0);
        if left < rows && !is_dropped && !is_deleted_from {
            harms.push(Harm::LostRows { table: table.clone(), before: rows, after: left });
        }
    }
    for object in &before.objects {
        let is_there = after.objects.iter().any(|o| (&o.kind, &o.name) == (&object.kind, &object.name));
        let went_with_its_table = object.kind != "view" && !after.rows.contains_key(&object.table);
        if !is_there && !went_with_its_table && !aims.dropped.contains(&object.name) {
            let (kind, name, table) = (object.kind.clone(), object.name.clone(), object.table.clone());
            harms.push(Harm::LostObject { kind, name, table });
        }
    }
    for ((table, parent), &rows) in &after.orphans {
        let known = before.orphans.get(&(table.clone(), parent.clone())).copied().unwrap_or(0);
        if rows > known {
            harms.push(Harm::Orphans { table: table.clone(), parent: parent.clone(), rows: rows - known });
        }
    }
    for (table, why) in &after.broken_references {
        if !before.broken_references.contains_key(table) {
            harms.push(Harm::BrokenReference { table: table.clone(), why: why.clone() });
        }
    }
    for (name, why) in &after.broken_views {
        if !before.broken_views.contains_key(name) {
            harms.push(Harm::BrokenView { name: name.clone(), why: why.clone() });
        }
    }
    harms
}

/// The codes that a file allows, each with a reason.
pub(super) fn allowed(sql: &str) -> Vec<&str> {
    let comments = sql.lines().filter_map(|line| line.trim().strip_prefix(ALLOW));
    let with_reason = comments.filter_map(|rest| rest.trim().split_once(char::is_whitespace));
    with_reason.filter(|(_, reason)| !reason.trim().is_empty()).map(|(code, _)| code).collect()
}
