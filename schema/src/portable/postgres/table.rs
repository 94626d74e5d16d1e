//! Tables of a SQLite database as PostgreSQL would have them.

use litekeep_sql::{Declaration, DeclaredIndex, ForeignKey, Profile};
use serde::{Deserialize, Serialize};

use super::value::PgType;
use crate::portable::columns::{self, Notes, Written, is_number, written};
use crate::portable::{Level, Note};

/// Longer names are cut by PostgreSQL, and may then be those of something else.
const LONGEST_NAME: usize = 63;

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
pub type Column = columns::Column<PgType>;

/// What a user wants otherwise.
pub type Options = columns::Options<PgType>;

/// A name as SQL has it.
pub fn quoted(name: &str) -> String {
    litekeep_sql::quoted(name)
}

/// The table that is the like of a declared one with such values, and what it lacks. With a note of [`Level::Table`] it must
/// not be made.
pub fn map(declared: &Declaration, profiles: &[Profile], options: &Options) -> (Table, Vec<Note>) {
    let mut notes = Notes::of(&declared.name);
    let name = options.names.get(&declared.name).unwrap_or(&declared.name).clone();
    check_name(&mut notes, None, &name);
    for column in &declared.columns {
        check_name(&mut notes, Some(&column.name), &column.name);
    }
    let columns = columns::columns(declared, profiles, options, default, &mut notes);
    let place = |source: &usize| columns.iter().position(|column| column.source == *source);
    let key = columns::key(declared, profiles, &columns, &mut notes);
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
        notes.add(None, Level::Info, columns::NO_KEY);
    }
    let indexes =
        declared.indexes.iter().filter_map(|index| table.index(declared, index, options, &mut notes));
    table.indexes = indexes.collect();
    let keys = declared.foreign_keys.iter();
    table.foreign_keys = keys.filter_map(|key| table.foreign_key(declared, key, options)).collect();
    (table, notes.notes)
}

fn check_name(notes: &mut Notes<'_>, column: Option<&str>, name: &str) {
    if name.len() > LONGEST_NAME || name.contains('\0') || name.is_empty() {
        let message = format!("its name has {} bytes, and PostgreSQL's have 1 to {LONGEST_NAME}", name.len());
        notes.add(column, Level::Table, message);
    }
}

/// What a column has by default there; `None`: it has no like.
fn default(text: &str, pg: PgType) -> Option<String> {
    let word = match written(text) {
        // A backslash is one, whatever `standard_conforming_strings` says elsewhere.
        Written::Quoted(text) if pg == PgType::Text => return Some(text.to_owned()),
        Written::Quoted(text) if pg == PgType::Json => {
            let plain = text[1..text.len() - 1].replace("''", "'");
            return serde_json::from_str::<serde::de::IgnoredAny>(&plain).ok().map(|_| text.to_owned());
        }
        Written::Quoted(_) => return None,
        Written::Word(word) => word,
    };
    match (pg, word.as_str()) {
        (_, "NULL") => Some("NULL".to_owned()),
        (PgType::Boolean, "0" | "FALSE") => Some("false".to_owned()),
        (PgType::Boolean, "1" | "TRUE") => Some("true".to_owned()),
        (PgType::Bigint | PgType::Numeric, "TRUE") => Some("1".to_owned()),
        (PgType::Bigint | PgType::Numeric, "FALSE") => Some("0".to_owned()),
        (PgType::Bigint, number) if number.parse::<i64>().is_ok() => Some(number.to_owned()),
        (PgType::Double | PgType::Numeric, number) if is_number(number) => Some(number.to_owned()),
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
                format!("{} {}{identity}{not_null}{default}", quoted(&column.name), column.kind.sql())
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
            let is_text = column.kind == PgType::Text;
            let name = quoted(&column.name);
            let text = match part.collation.to_ascii_uppercase().as_str() {
                "BINARY" => name,
                "NOCASE" if is_text => format!("lower({name})"),
                _ if !is_text => name,
                _ => return None,
            };
            let descending = if part.is_descending { " DESC" } else { "" };
            column.kind.is_comparable().then(|| format!("{text}{descending}"))
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
        // Names of indexes are one space with those of tables there.
        let name = cut(&columns::index_name(&self.name, declared, index));
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
    columns::cut(name, LONGEST_NAME, char::len_utf8)
}
