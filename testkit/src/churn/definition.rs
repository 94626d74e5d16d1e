//! `CREATE TABLE` in all its kinds, and the columns that `ALTER TABLE` adds.

use super::chance::{Chance, STRICT_TYPES, TYPES};
use super::table::{Column, quote};

/// Mostly values that SQLite stores in the schema only: rows that are older than their column do not have them.
/// `CURRENT_TIMESTAMP` stands only where each row is given a value.
const GREATEST: &str = "9223372036854775807";

const DEFAULTS: &[&str] = &[
    "7",
    "-12345678901",
    "+5",
    "0x1F",
    GREATEST,
    "-9223372036854775808",
    "9223372036854775808",
    "2.5",
    "-3e300",
    "1e400",
    "-0.0",
    "'it''s é'",
    "'12'",
    "' 12.0 '",
    "''",
    "x'0102'",
    "x''",
    "NULL",
    "TRUE",
    "FALSE",
    "bareword",
    "\"quoted\"",
    "(1 + 2)",
    "(lower('ABC'))",
    "CURRENT_TIMESTAMP",
];

const COLLATIONS: &[&str] = &["", "", "", " COLLATE NOCASE", " COLLATE RTRIM", " COLLATE backwards"];

/// What a column's value can follow from.
const EXPRESSIONS: &[&str] =
    &["length({}) * 2.0", "hex({}) || '-'", "typeof({})", "abs({})", "{} IS NULL", "{}"];

/// What CHECK may ask of a column: what all rows fulfil, and what few do not.
const CHECKS: &[&str] = &[
    "typeof({}) <> 'nothing'",
    "{} IS NULL OR {} = {}",
    "length({}) < 2000",
    "{} IS NOT 0",
    "coalesce({}, ',') <> '),('",
];

/// `CREATE TABLE`. `parent` is a table and its INTEGER PRIMARY KEY that rows may refer to (both quoted). Some constraints have names
/// if `named`.
pub(super) fn table(chance: &mut Chance, name: &str, parent: Option<(&str, &str)>, named: bool) -> String {
    let mut draft = Draft { strict: chance.percent(20), named, ..Draft::default() };
    draft.add_key(chance);
    for _ in 0..=chance.below(5) {
        draft.add_column(chance);
    }
    if let Some((table, id)) = parent.filter(|_| chance.percent(30)) {
        draft.add_reference(chance, table, id);
    }
    // Any column may come first, the key last.
    chance.shuffle(&mut draft.columns);
    draft.into_sql(name)
}

#[derive(Default)]
struct Draft {
    columns: Vec<String>,
    key: Option<String>,
    /// A column (quoted) that others may be generated from.
    source: Option<String>,
    without_rowid: bool,
    strict: bool,
    /// Constraints that have a name, for DROP CONSTRAINT.
    named: bool,
}

impl Draft {
    fn add_key(&mut self, chance: &mut Chance) {
        match chance.below(8) {
            0 | 1 => self.add_integer_key(chance),
            2 => self.add_single_key(chance),
            3 => {}
            4 | 5 => {
                self.without_rowid = true;
                self.add_single_key(chance);
            }
            6 => self.add_composite_key(chance),
            _ => {
                self.without_rowid = true;
                self.add_composite_key(chance);
            }
        }
    }

    /// The rowid's alias; with DESC it is not one.
    fn add_integer_key(&mut self, chance: &mut Chance) {
        let option = chance.choose(&["", "", "", " AUTOINCREMENT", " DESC"]);
        self.columns.push(format!("id INTEGER PRIMARY KEY{option}"));
        self.source = Some("id".to_owned());
    }

    fn add_single_key(&mut self, chance: &mut Chance) {
        let name = quote(&chance.name());
        let (declared, collation) = (self.declared(chance), chance.choose(COLLATIONS));
        let order = chance.choose(&["", " DESC"]);
        self.columns.push(format!("{name} {declared} PRIMARY KEY{order}{collation}"));
        self.source = Some(name);
    }

    /// Key columns in another order than in the table, each with a direction, and a collation that need not be the
    /// column's own.
    fn add_composite_key(&mut self, chance: &mut Chance) {
        let mut parts = Vec::new();
        for _ in 0..chance.between(2, 3) {
            let name = quote(&chance.name());
            let (declared, collation) = (self.declared(chance), chance.choose(COLLATIONS));
            self.columns.push(format!("{name} {declared}{collation}"));
            let collation = if chance.percent(20) { *chance.choose(COLLATIONS) } else { "" };
            parts.push(format!("{name}{collation}{}", chance.choose(&["", "", " DESC"])));
            self.source = Some(name);
        }
        chance.shuffle(&mut parts);
        self.key = Some(parts.join(", "));
    }

    fn add_column(&mut self, chance: &mut Chance) {
        let name = quote(&chance.name());
        let declared = self.declared(chance);
        match &self.source {
            Some(source) if chance.percent(10) => {
                let kind = chance.choose(&["STORED", "VIRTUAL"]);
                self.columns.push(format!("{name} {declared} {} {kind}", generated(chance, source)));
            }
            _ => {
                let mut constraint = constraint(chance);
                if self.named && chance.percent(25) {
                    constraint += &named_constraint(chance, &name);
                }
                self.columns.push(format!("{name} {declared}{constraint}"));
                self.source.get_or_insert(name);
            }
        }
    }

    fn add_reference(&mut self, chance: &mut Chance, table: &str, id: &str) {
        let name = quote(&chance.unique(Column::REFERENCE));
        let update = chance.choose(&["", " ON UPDATE CASCADE"]);
        let deferred = chance.choose(&["", "", " DEFERRABLE INITIALLY DEFERRED"]);
        self.columns
            .push(format!("{name} INTEGER REFERENCES {table}({id}) ON DELETE CASCADE{update}{deferred}"));
    }

    fn declared(&self, chance: &mut Chance) -> &'static str {
        let types = if self.strict { STRICT_TYPES } else { TYPES };
        types[chance.below(types.len())]
    }

    fn into_sql(self, name: &str) -> String {
        let columns = self.columns.join(", ");
        let key = self.key.map(|key| format!(", PRIMARY KEY({key})")).unwrap_or_default();
        let options = [(self.without_rowid, "WITHOUT ROWID"), (self.strict, "STRICT")];
        let options: Vec<_> =
            options.into_iter().filter_map(|(is_set, option)| is_set.then_some(option)).collect();
        format!("CREATE TABLE {}({columns}{key}) {}", quote(name), options.join(", "))
    }
}

/// What may follow a column's type in `CREATE TABLE`.
fn constraint(chance: &mut Chance) -> String {
    let mut constraint = String::new();
    if chance.percent(25) {
        constraint += &format!(" DEFAULT {}", chance.choose(DEFAULTS));
    }
    if chance.percent(5) {
        constraint += " NOT NULL DEFAULT 1";
    } else if chance.percent(4) {
        constraint += " UNIQUE";
    }
    constraint + *chance.choose(COLLATIONS)
}

/// A constraint of a column (quoted) that has a name.
fn named_constraint(chance: &mut Chance, column: &str) -> String {
    let name = constraint_name(chance);
    match chance.below(5) {
        0 | 1 => format!(" {name}{}", check(chance, column)),
        2 => format!(" {name}UNIQUE"),
        _ => format!(" {name}NOT NULL"),
    }
}

/// What ends in a number has had no other constraint as its name.
const CONSTRAINT: &str = "constraint ";

/// `CONSTRAINT name `, as it stands before one.
pub(super) fn constraint_name(chance: &mut Chance) -> String {
    format!("CONSTRAINT {} ", quote(&chance.unique(CONSTRAINT)))
}

/// The names (quoted) that [`constraint_name`] gave constraints of this table.
pub(super) fn constraint_names(sql: &str) -> Vec<String> {
    let beginning = format!("CONSTRAINT \"{CONSTRAINT}");
    let rests = sql.match_indices(&beginning).map(|(at, _)| &sql[at + beginning.len()..]);
    rests.filter_map(|rest| Some(quote(&format!("{CONSTRAINT}{}", rest.split_once('"')?.0)))).collect()
}

/// `CHECK` of a column (quoted).
pub(super) fn check(chance: &mut Chance, column: &str) -> String {
    format!("CHECK ({})", chance.choose(CHECKS).replace("{}", column))
}

/// What follows `ALTER TABLE ... ADD COLUMN` for a column with constraints. `source` is one of the others, `parent` a table that
/// rows may refer to.
pub(super) fn constrained_column(
    chance: &mut Chance,
    strict: bool,
    source: &str,
    parent: Option<&str>,
) -> String {
    let declared = *chance.choose(if strict { STRICT_TYPES } else { TYPES });
    let (kind, default) = (chance.below(6), added_default(chance, declared));
    if let Some(parent) = parent.filter(|_| kind == 0) {
        let name = quote(&chance.unique(Column::REFERENCE));
        let constraint = constraint_name(chance);
        return format!("{name} INTEGER {constraint}REFERENCES {parent}(id) ON DELETE SET NULL");
    }
    let (name, constraint) = (quote(&chance.name()), constraint_name(chance));
    match kind {
        // The rows that are there must fulfil it with the default.
        1 => format!("{name} {declared} DEFAULT {default} {constraint}{}", check(chance, &name)),
        2 => format!("{name} {declared} {}", check(chance, source)),
        3 => format!("{name} {declared} {constraint}NOT NULL ON CONFLICT REPLACE DEFAULT {default}"),
        // Where the table is empty.
        4 => format!("{name} {declared} NOT NULL"),
        _ => {
            let kind = chance.choose(&["STORED", "VIRTUAL"]);
            format!("{name} {declared} {constraint}NOT NULL {} {kind}", generated(chance, source))
        }
    }
}

/// What follows `ALTER TABLE ... ADD COLUMN` for a column with this name (quoted). `source` is one of the others.
pub(super) fn added_column(chance: &mut Chance, name: &str, strict: bool, source: &str) -> String {
    let declared = chance.choose(if strict { STRICT_TYPES } else { TYPES });
    match chance.below(10) {
        0 => format!("{name} {declared} {} VIRTUAL", generated(chance, source)),
        1 | 2 => format!("{name} {declared}"),
        3 => format!("{name} {declared} NOT NULL DEFAULT {}", added_default(chance, declared)),
        _ => {
            format!(
                "{name} {declared} DEFAULT {}{}",
                added_default(chance, declared),
                chance.choose(COLLATIONS)
            )
        }
    }
}

/// The default of a column that is added. An integer that no floating-point number is, in a column of these, is one that SQLite (seen
/// in 3.51.3 and 3.54.1) loses from the column's index when another column is dropped.
fn added_default(chance: &mut Chance, declared: &str) -> &'static str {
    let default = *chance.choose(DEFAULTS);
    let is_real = ["REAL", "FLOA", "DOUB"].iter().any(|word| declared.contains(word));
    if is_real && default == GREATEST { "0" } else { default }
}

fn generated(chance: &mut Chance, source: &str) -> String {
    format!("AS ({})", chance.choose(EXPRESSIONS).replace("{}", source))
}

/// The rest of `CREATE INDEX` behind the table's name.
pub(super) fn indexed(chance: &mut Chance, column: &Column) -> String {
    let name = &column.name;
    match chance.below(5) {
        0 => format!("({name} DESC)"),
        1 => format!("(length({name}))"),
        2 => format!("({name} COLLATE backwards)"),
        3 => format!("({name}) WHERE {name} IS NOT NULL"),
        _ => format!("({name})"),
    }
}
