//! Tables of a SQLite database as PostgreSQL would have them.

use std::collections::BTreeMap;

use litekeep_sql::{Declaration, DeclaredColumn, DeclaredIndex, ForeignKey, Generated, Profile};
use serde::{Deserialize, Serialize};

use super::value::PgType;
use crate::portable::date::{Form, Zone};
use crate::portable::{Affinity, Level, Note};
use crate::words::words;

/// Longer names are cut by PostgreSQL, and may then be those of something else.
const LONGEST_NAME: usize = 63;
/// Of so many values one may be of another type: it is refused, and the column keeps its own.
const SELDOM: u64 = 100;

/// A table there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// Its name in SQLite.
    pub source: String,
    /// Its name there.
    pub name: String,
    /// Its columns; virtual ones are left out.
    pub columns: Vec<Column>,
    /// Which of them are the primary key; empty: it has none.
    pub key: Vec<usize>,
    /// The column that gives itself numbers.
    pub identity: Option<usize>,
    /// Statements that make its indexes.
    pub indexes: Vec<String>,
    /// Statements that make its foreign keys.
    pub foreign_keys: Vec<String>,
}

/// A column there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its number in SQLite's table.
    pub source: usize,
    /// Its type.
    pub pg: PgType,
    /// NULL is refused.
    pub is_not_null: bool,
    /// The expression of its DEFAULT.
    pub default: Option<String>,
}

/// What a user wants otherwise.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The schema of the tables; `None`: that of the connection.
    pub schema: Option<String>,
    /// Names of tables there.
    pub names: BTreeMap<String, String>,
    /// Types by `table.column`.
    pub types: BTreeMap<String, PgType>,
}

/// A name as SQL has it.
pub fn quoted(name: &str) -> String {
    litekeep_sql::quoted(name)
}

/// The table that is the like of a declared one with such values, and what it lacks. With a note of [`Level::Table`] it must
/// not be made.
pub fn map(declared: &Declaration, profiles: &[Profile], options: &Options) -> (Table, Vec<Note>) {
    let mut notes = Notes { table: &declared.name, notes: vec![] };
    let name = options.names.get(&declared.name).unwrap_or(&declared.name).clone();
    notes.name(None, &name);
    let mut columns = vec![];
    for (source, (column, profile)) in declared.columns.iter().zip(profiles).enumerate() {
        notes.name(Some(&column.name), &column.name);
        if column.generated == Some(Generated::Virtual) {
            notes.add(Some(&column.name), Level::Info, "is computed when it is read, and left out");
            continue;
        }
        if column.generated == Some(Generated::Stored) {
            notes.add(
                Some(&column.name),
                Level::Info,
                "its computed values are copied; there it is an ordinary column",
            );
        }
        let wanted = options.types.get(&format!("{}.{}", declared.name, column.name)).copied();
        let pg = wanted.unwrap_or_else(|| choose(column, profile, &mut notes));
        let default = column.default.as_deref().and_then(|text| {
            let default = default(text, pg);
            if default.is_none() {
                let message = format!("its default `{text}` is not translated");
                notes.add(Some(&column.name), Level::Rule, message);
            }
            default
        });
        columns.push(Column {
            name: column.name.clone(),
            source,
            pg,
            is_not_null: column.is_not_null,
            default,
        });
    }
    if has_word(&declared.sql, "CHECK") {
        notes.add(None, Level::Rule, "its CHECK constraints are not translated");
    }
    let place = |source: &usize| columns.iter().position(|column| column.source == *source);
    let key = key(declared, profiles, &columns, &mut notes);
    let identity = declared.rowid_alias.as_ref().and_then(place).filter(|_| !key.is_empty());
    let mut table = Table {
        source: declared.name.clone(),
        name,
        columns,
        key,
        identity,
        indexes: vec![],
        foreign_keys: vec![],
    };
    if table.key.is_empty() {
        let message = "has no primary key: a changed row is found by all of its values, which reads the whole table there";
        notes.add(None, Level::Info, message);
    }
    let indexes =
        declared.indexes.iter().filter_map(|index| table.index(declared, index, options, &mut notes));
    table.indexes = indexes.collect();
    let keys = declared.foreign_keys.iter();
    table.foreign_keys = keys.filter_map(|key| table.foreign_key(declared, key, options)).collect();
    (table, notes.notes)
}

struct Notes<'a> {
    table: &'a str,
    notes: Vec<Note>,
}

impl Notes<'_> {
    fn add(&mut self, column: Option<&str>, level: Level, message: impl Into<String>) {
        let (table, column) = (self.table.to_owned(), column.map(str::to_owned));
        self.notes.push(Note { table, column, level, message: message.into() });
    }

    fn name(&mut self, column: Option<&str>, name: &str) {
        if name.len() > LONGEST_NAME || name.contains('\0') || name.is_empty() {
            let message =
                format!("its name has {} bytes, and PostgreSQL's have 1 to {LONGEST_NAME}", name.len());
            self.add(column, Level::Table, message);
        }
    }
}

/// A primary key there admits no NULL, and compares its values.
fn key(
    declared: &Declaration,
    profiles: &[Profile],
    columns: &[Column],
    notes: &mut Notes<'_>,
) -> Vec<usize> {
    let place = |source: &usize| columns.iter().position(|column| column.source == *source);
    let Some(key) = declared.primary_key.iter().map(place).collect::<Option<Vec<usize>>>() else {
        return vec![];
    };
    for nth in &key {
        let Column { name, source, pg, .. } = &columns[*nth];
        if profiles[*source].nulls > 0 && declared.rowid_alias != Some(*source) {
            let message = format!(
                "is in the primary key and NULL in {} rows, so there is none there",
                profiles[*source].nulls
            );
            notes.add(Some(name), Level::Rule, message);
            return vec![];
        }
        if !pg.is_comparable() {
            notes.add(
                Some(name),
                Level::Rule,
                "is in the primary key and JSON there, so there is none there",
            );
            return vec![];
        }
    }
    key
}

/// The type for what a column declares and holds.
fn choose(column: &DeclaredColumn, profile: &Profile, notes: &mut Notes<'_>) -> PgType {
    let declared = column.declared.to_ascii_uppercase();
    let values = profile.values();
    let name = Some(column.name.as_str());
    if declared.contains("BOOL") && is_boolean(profile) {
        return PgType::Boolean;
    }
    if declared.contains("JSON") && profile.texts == values {
        return PgType::Json;
    }
    if declared.contains("DATE") || declared.contains("TIME") {
        return dates(profile, name, notes);
    }
    let natural = match Affinity::of(&declared) {
        Affinity::Integer => Some(PgType::Bigint),
        Affinity::Real => Some(PgType::Double),
        Affinity::Text => Some(PgType::Text),
        Affinity::Numeric if declared != "ANY" => Some(PgType::Numeric),
        Affinity::Blob if declared.contains("BLOB") => Some(PgType::Bytea),
        _ => None,
    };
    let fitting = natural.map_or(0, |pg| fitting(pg, profile));
    match (natural, by_values(profile)) {
        (Some(pg), _) if fitting == values => pg,
        (_, Some(pg)) => {
            if natural.is_some() {
                let message =
                    format!("declares `{}`, and all of its values are {}", column.declared, pg.sql());
                notes.add(name, Level::Info, message);
            }
            pg
        }
        (Some(pg), None) if (values - fitting).saturating_mul(SELDOM) <= values => {
            let message = format!(
                "{} of {values} values are not {}: these rows are refused; with the type `tagged` they are not",
                values - fitting,
                pg.sql()
            );
            notes.add(name, Level::Values, message);
            pg
        }
        _ => {
            let is = if values == 0 {
                "declares no type and has no value yet"
            } else {
                "holds values of several types"
            };
            let message = format!(r#"{is}: each becomes JSON with its type, {{"t":"i","v":"7"}}"#);
            notes.add(name, Level::Info, message);
            PgType::Tagged
        }
    }
}

fn is_boolean(profile: &Profile) -> bool {
    let is_bit = |i: Option<i64>| i.is_none_or(|i| i == 0 || i == 1);
    profile.integers == profile.values() && is_bit(profile.least) && is_bit(profile.greatest)
}

/// How many of the values a type holds.
fn fitting(pg: PgType, profile: &Profile) -> u64 {
    match pg {
        PgType::Bigint => profile.integers,
        PgType::Double => profile.reals,
        PgType::Numeric => profile.integers + profile.reals,
        PgType::Text => profile.texts,
        PgType::Bytea => profile.blobs,
        _ => 0,
    }
}

/// The type of values that are all alike.
fn by_values(profile: &Profile) -> Option<PgType> {
    let types = [PgType::Bigint, PgType::Double, PgType::Numeric, PgType::Text, PgType::Bytea];
    types.into_iter().find(|pg| profile.values() > 0 && fitting(*pg, profile) == profile.values())
}

fn dates(profile: &Profile, name: Option<&str>, notes: &mut Notes<'_>) -> PgType {
    let values = profile.values();
    if values == 0 {
        let message = "declares dates and has none yet, which would tell how they are written: text";
        notes.add(name, Level::Info, message);
        return PgType::Text;
    }
    if profile.texts < values {
        return by_values(profile).unwrap_or_else(|| {
            notes.add(
                name,
                Level::Info,
                "holds dates as text and as numbers: each becomes JSON with its type",
            );
            PgType::Tagged
        });
    }
    let mut shapes = profile.shapes.keys();
    let form = match (shapes.next(), shapes.next(), profile.other_shapes) {
        (Some(only), None, 0) => Form::of_shape(only),
        _ => None,
    };
    match form {
        Some(form) if form.is_date() => PgType::Date,
        Some(form) if form.zone == Zone::None => PgType::Timestamp(form),
        Some(form) => PgType::Timestamptz(form),
        None => {
            notes.add(name, Level::Info, "holds dates that are not written in one form: text");
            PgType::Text
        }
    }
}

/// What a column has by default there; `None`: it has no like.
fn default(text: &str, pg: PgType) -> Option<String> {
    let text = text.trim();
    let is_number = text.parse::<f64>().is_ok_and(f64::is_finite);
    let is_text = text.len() >= 2
        && text.starts_with('\'')
        && text.ends_with('\'')
        && !text[1..text.len() - 1].replace("''", "").contains('\'')
        && !text.contains('\0');
    match (pg, text.to_ascii_uppercase().as_str()) {
        (_, "NULL") => Some("NULL".to_owned()),
        (PgType::Boolean, "0" | "FALSE") => Some("false".to_owned()),
        (PgType::Boolean, "1" | "TRUE") => Some("true".to_owned()),
        (PgType::Bigint | PgType::Numeric, "TRUE") => Some("1".to_owned()),
        (PgType::Bigint | PgType::Numeric, "FALSE") => Some("0".to_owned()),
        (PgType::Bigint, number) if number.parse::<i64>().is_ok() => Some(number.to_owned()),
        (PgType::Double | PgType::Numeric, number) if is_number => Some(number.to_owned()),
        // A backslash is one, whatever `standard_conforming_strings` says elsewhere.
        (PgType::Text, _) if is_text => Some(text.to_owned()),
        (PgType::Json, _) if is_text => {
            let plain = text[1..text.len() - 1].replace("''", "'");
            serde_json::from_str::<serde::de::IgnoredAny>(&plain).ok().map(|_| text.to_owned())
        }
        (PgType::Text, "CURRENT_TIMESTAMP") => Some(now("YYYY-MM-DD HH24:MI:SS")),
        (PgType::Text, "CURRENT_DATE") => Some(now("YYYY-MM-DD")),
        (PgType::Text, "CURRENT_TIME") => Some(now("HH24:MI:SS")),
        (PgType::Date, "CURRENT_DATE") => Some("(now() AT TIME ZONE 'utc')::date".to_owned()),
        // SQLite's has no fraction.
        (PgType::Timestamp(form), "CURRENT_TIMESTAMP") if form.fraction == 0 => {
            Some("date_trunc('second', now() AT TIME ZONE 'utc')".to_owned())
        }
        _ => None,
    }
}

fn now(format: &str) -> String {
    format!("to_char(now() AT TIME ZONE 'utc', '{format}')")
}

/// Whether a word is in a statement outside of names, texts and comments.
fn has_word(sql: &str, word: &str) -> bool {
    words(sql).iter().any(|found| found.is(word))
}

impl Table {
    /// Its whole name.
    pub fn path(&self, options: &Options) -> String {
        path(&self.name, options)
    }

    /// The statement that makes it, without indexes and foreign keys.
    pub fn create(&self, options: &Options) -> String {
        let mut lines: Vec<String> = self
            .columns
            .iter()
            .enumerate()
            .map(|(nth, column)| {
                let identity =
                    if self.identity == Some(nth) { " GENERATED BY DEFAULT AS IDENTITY" } else { "" };
                let is_not_null = column.is_not_null || self.key.contains(&nth);
                let not_null = if is_not_null && identity.is_empty() { " NOT NULL" } else { "" };
                let default = column.default.as_ref().filter(|_| identity.is_empty());
                let default = default.map_or(String::new(), |text| format!(" DEFAULT {text}"));
                format!("{} {}{identity}{not_null}{default}", quoted(&column.name), column.pg.sql())
            })
            .collect();
        if !self.key.is_empty() {
            lines.push(format!("PRIMARY KEY ({})", self.names(&self.key)));
        }
        format!("CREATE TABLE {} (\n    {}\n)", self.path(options), lines.join(",\n    "))
    }

    /// The statement that lets it go on numbering after the greatest number that it has.
    pub fn restart_identity(&self, options: &Options) -> Option<String> {
        let column = &self.columns[self.identity?].name;
        let (path, name) = (self.path(options), quoted(column));
        let (table, of) = (path.replace('\'', "''"), column.replace('\'', "''"));
        Some(format!(
            "SELECT setval(pg_get_serial_sequence('{table}', '{of}'), greatest(max({name}), 1), max({name}) >= 1) FROM {path}"
        ))
    }

    fn names(&self, columns: &[usize]) -> String {
        columns.iter().map(|nth| quoted(&self.columns[*nth].name)).collect::<Vec<_>>().join(", ")
    }

    fn place(&self, source: usize) -> Option<usize> {
        self.columns.iter().position(|column| column.source == source)
    }

    fn index(
        &self,
        declared: &Declaration,
        index: &DeclaredIndex,
        options: &Options,
        notes: &mut Notes<'_>,
    ) -> Option<String> {
        let name = &index.name;
        let columns = index.parts.iter().map(|part| {
            let part = part.as_ref()?;
            let column = &self.columns[self.place(part.column)?];
            let is_text = column.pg == PgType::Text;
            let name = quoted(&column.name);
            let text = match part.collation.to_ascii_uppercase().as_str() {
                "BINARY" => name,
                "NOCASE" if is_text => format!("lower({name})"),
                _ if !is_text => name,
                _ => return None,
            };
            let descending = if part.is_descending { " DESC" } else { "" };
            column.pg.is_comparable().then(|| format!("{text}{descending}"))
        });
        let columns = columns.collect::<Option<Vec<String>>>().filter(|_| !index.is_partial);
        let Some(columns) = columns else {
            let message = format!(
                "its index `{name}` is not translated: it has only some rows, or is on an expression, on JSON or in a collation of its own"
            );
            notes.add(None, Level::Rule, message);
            return None;
        };
        let unique = if index.is_unique { "UNIQUE " } else { "" };
        // Names of indexes are one space with those of tables there, and SQLite's own ones say nothing.
        let name = if name.starts_with("sqlite_autoindex") {
            let of: Vec<&str> = index
                .parts
                .iter()
                .flatten()
                .map(|part| declared.columns[part.column].name.as_str())
                .collect();
            format!("{}_{}_key", self.name, of.join("_"))
        } else {
            name.clone()
        };
        let name: String = cut(&name);
        Some(format!(
            "CREATE {unique}INDEX {} ON {} ({})",
            quoted(&name),
            self.path(options),
            columns.join(", ")
        ))
    }

    fn foreign_key(&self, declared: &Declaration, key: &ForeignKey, options: &Options) -> Option<String> {
        let columns: Vec<usize> = key.columns.iter().map(|nth| self.place(*nth)).collect::<Option<_>>()?;
        let parent = options.names.get(&key.parent).unwrap_or(&key.parent);
        let of = match key.parent_columns.len() {
            0 => String::new(),
            _ => {
                let names: Vec<String> = key.parent_columns.iter().map(|name| quoted(name)).collect();
                format!(" ({})", names.join(", "))
            }
        };
        let names: Vec<&str> = key.columns.iter().map(|nth| declared.columns[*nth].name.as_str()).collect();
        let name = cut(&format!("{}_{}_fkey", self.name, names.join("_")));
        let action = |what: &str, action: &str| match action {
            "NO ACTION" => String::new(),
            action => format!(" ON {what} {action}"),
        };
        Some(format!(
            "ALTER TABLE {} ADD CONSTRAINT {} FOREIGN KEY ({}) REFERENCES {}{of}{}{} DEFERRABLE INITIALLY DEFERRED",
            self.path(options),
            quoted(&name),
            self.names(&columns),
            path(parent, options),
            action("UPDATE", &key.on_update),
            action("DELETE", &key.on_delete),
        ))
    }
}

fn path(name: &str, options: &Options) -> String {
    match &options.schema {
        Some(schema) => format!("{}.{}", quoted(schema), quoted(name)),
        None => quoted(name),
    }
}

fn cut(name: &str) -> String {
    let mut end = name.len().min(LONGEST_NAME);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    name[..end].to_owned()
}
