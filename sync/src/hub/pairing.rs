//! Tables of both sides as one, and what is in the way of that.

use litekeep_schema::portable::{Affinity, Level, Note};
use litekeep_sql::{Declaration, DeclaredColumn, MirrorColumn, MirrorRules, MirrorTable};

use super::Paired;
use crate::source::{Part, SourceTable, SourceType};
use crate::{Error, Kind};

/// A table as the hub has it.
#[derive(Clone, Copy, Debug)]
pub struct There<'a> {
    /// What the server is called.
    pub server: &'a str,
    /// The table's name.
    pub name: &'a str,
    /// Its columns, but for those that are computed.
    pub columns: &'a [String],
    /// The columns of its key.
    pub key: &'a [String],
}

impl There<'_> {
    /// The table that it is together with one of SQLite's. `kind_of` a column there, by its place, and of its like here: how its values
    /// come and go, and why they do not.
    pub fn beside(
        &self,
        declared: &Declaration,
        kind_of: impl Fn(usize, &DeclaredColumn) -> (SourceType, Option<String>),
        notes: &mut Vec<Note>,
    ) -> SourceTable {
        let server = self.server;
        let mut note = |column: Option<&str>, message: String| {
            let (table, column) = (declared.name.clone(), column.map(str::to_owned));
            notes.push(Note { table, column, level: Level::Table, message });
        };
        let ours = || declared.columns.iter().filter(|column| column.generated.is_none());
        for name in self.columns.iter().filter(|name| !ours().any(|column| column.name == **name)) {
            note(Some(name), "is not in SQLite: both sides must have the same columns".to_owned());
        }
        let (mut columns, mut types) = (vec![], vec![]);
        for column in ours() {
            let Some(place) = self.columns.iter().position(|name| *name == column.name) else {
                let message = format!("is not in {server}: both sides must have the same columns");
                note(Some(&column.name), message);
                continue;
            };
            let (kind, why_not) = kind_of(place, column);
            if let Some(why) = why_not {
                note(Some(&column.name), why);
            }
            columns.push(MirrorColumn {
                name: column.name.clone(),
                declared: column.declared.clone(),
                is_not_null: column.is_not_null,
            });
            types.push(kind);
        }
        let sorted = |mut names: Vec<String>| {
            names.sort();
            names
        };
        let here = declared.primary_key.iter().map(|nth| declared.columns[*nth].name.clone());
        let (here, there) = (sorted(here.collect()), sorted(self.key.to_vec()));
        if there.is_empty() || here != there {
            note(
                None,
                format!(
                    "must have the same primary key on both sides: it is ({}) in SQLite and ({}) in {server}",
                    here.join(", "),
                    there.join(", ")
                ),
            );
        }
        let place = |name: &String| columns.iter().position(|column| column.name == *name);
        let key = self.key.iter().filter_map(place).collect();
        let (name, rules) = (declared.name.clone(), MirrorRules::default());
        let mirror = MirrorTable { name, columns, key, indexes: vec![], rules };
        SourceTable { source: self.name.to_owned(), types, mirror, part: Part::default() }
    }
}

/// A table that is only here, with the name, the columns and the key that it is made with there: of each column its name there, its place here, and whether it
/// is NOT NULL.
pub fn only_here<'a>(
    declared: &Declaration,
    name: &str,
    columns: impl Iterator<Item = ((&'a str, usize, bool), SourceType)>,
    key: &[usize],
    notes: &mut Vec<Note>,
) -> SourceTable {
    if key.is_empty() {
        let message = "has no primary key that both sides can have, by which a row is known".to_owned();
        notes.push(Note { table: declared.name.clone(), column: None, level: Level::Table, message });
    }
    let mirrored = |(name, source, is_not_null): (&str, usize, bool)| MirrorColumn {
        name: name.to_owned(),
        declared: declared.columns[source].declared.clone(),
        is_not_null,
    };
    let (columns, types) = columns.map(|(column, kind)| (mirrored(column), kind)).unzip();
    let (here, rules) = (declared.name.clone(), MirrorRules::default());
    let mirror = MirrorTable { name: here, columns, key: key.to_vec(), indexes: vec![], rules };
    SourceTable { source: name.to_owned(), types, mirror, part: Part::default() }
}

/// Why a column of SQLite would not keep what comes as it comes. `there`: its type on the `server`; `wanted`: the one that it would be given
/// here.
pub fn unfit((server, there): (&str, &str), declared: &str, wanted: &str) -> Option<String> {
    let is = Affinity::of(declared);
    let fits = match Affinity::of(wanted) {
        Affinity::Integer | Affinity::Numeric => {
            matches!(is, Affinity::Integer | Affinity::Numeric | Affinity::Blob)
        }
        Affinity::Real => matches!(is, Affinity::Real | Affinity::Blob),
        Affinity::Text => matches!(is, Affinity::Text | Affinity::Blob),
        Affinity::Blob => true,
    };
    (!fits).then(|| {
        format!(
            "is `{there}` in {server} and `{declared}` in SQLite, which would store its values otherwise: declare it {wanted}"
        )
    })
}

/// What is said of a column whose values cannot go there.
pub fn read_only(there: &str) -> String {
    format!("is `{there}`, whose values are read and not written: leave the table out")
}

/// Refuses tables that are named and on neither side.
///
/// # Errors
/// `Invalid` when there is one.
pub fn check_named(paired: &[Paired], named: &[String], place: &str) -> Result<(), Error> {
    let has = |name: &&String| paired.iter().any(|pair| pair.table.mirror.name == **name);
    let Some(missing) = named.iter().find(|name| !has(name)) else { return Ok(()) };
    let message = format!("there is no table `{missing}`, neither here nor in {place}");
    Err(Error::with_hint(Kind::Invalid, message, "take it out of `tables`, or make it"))
}
