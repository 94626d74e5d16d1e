//! Tables of a SQLite database as collections of MongoDB.
//!
//! Two values that SQLite tells apart are two values there: text is compared byte by byte. A unique index there takes NULL for a value of
//! which there is one, so it only has the rows without any.

use litekeep_format::Value;
use litekeep_sql::{Declaration, DeclaredColumn, DeclaredIndex, IndexPart, Profile};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json, json};

use super::value::{DATE_DIGITS, MongoType};
use crate::portable::columns::{self, Notes, Written, is_number, written};
use crate::portable::date::Form;
use crate::portable::{Affinity, Level, Note};

/// Bytes of a collection's name: with that of its database they are 255 at most.
const LONGEST_NAME: usize = 190;
/// Columns of an index, and indexes of a collection beside that of `_id`.
const INDEX_PARTS: usize = 32;
const INDEXES: usize = 63;
/// The field that is the key.
const ID: &str = "_id";
/// What is not NULL.
const VALUES: [&str; 7] = ["long", "double", "string", "binData", "bool", "date", "decimal"];

/// A collection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// The table's name in SQLite.
    pub source: String,
    /// Its name there.
    pub name: String,
    /// Its columns; virtual ones are left out.
    pub columns: Vec<Column>,
    /// Which of them are the primary key, in `_id`; empty: it has none.
    pub key: Vec<usize>,
    /// Its indexes.
    pub indexes: Vec<Index>,
}

/// A column there.
pub type Column = columns::Column<MongoType>;

/// What a user wants otherwise. A schema is a database there.
pub type Options = columns::Options<MongoType>;

/// An index there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    /// Its name, which no other of the collection has.
    pub name: String,
    /// Values are unique.
    pub is_unique: bool,
    /// What it is ordered by.
    pub parts: Vec<Part>,
}

/// A column of an index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Which of the table's.
    pub column: usize,
    /// From great to small.
    pub is_descending: bool,
}

/// The collection that is the like of a declared table with such values, and what it lacks. With a note of [`Level::Table`] it must
/// not be made.
pub fn map(declared: &Declaration, profiles: &[Profile], options: &Options) -> (Table, Vec<Note>) {
    let mut notes = Notes::of(&declared.name);
    let name = options.names.get(&declared.name).unwrap_or(&declared.name).clone();
    check_name(&mut notes, &name);
    let mut columns = columns::columns(declared, profiles, options, |text, _| Some(text.into()), &mut notes);
    let mut has_defaults = false;
    for column in &mut columns {
        let of = &declared.columns[column.source];
        if let Some(text) = column.default.take() {
            column.default = default(&text, Affinity::of(&of.declared));
            match &column.default {
                Some(_) => has_defaults = true,
                None => {
                    let message = format!("its default `{text}` is not translated");
                    notes.add(Some(&column.name), Level::Rule, message);
                }
            }
        }
        if is_too_fine(of, &profiles[column.source]) && column.kind == MongoType::Text {
            let message = "holds dates with more than milliseconds, which a date there has: text";
            notes.add(Some(&column.name), Level::Info, message);
        }
    }
    // Column by column, then what is of the table.
    let place = |name: &String| declared.columns.iter().position(|column| column.name == *name);
    notes.notes.sort_by_key(|note| note.column.as_ref().and_then(place).unwrap_or(usize::MAX));
    if has_defaults {
        notes.add(
            None,
            Level::Info,
            "its defaults are for rows of SQLite: documents that others insert do not get them",
        );
    }
    let key = columns::key(declared, profiles, &columns, &mut notes);
    let mut table = Table { source: declared.name.clone(), name, columns, key, indexes: vec![] };
    table.check_fields(&mut notes);
    if table.key.is_empty() {
        notes.add(None, Level::Info, columns::NO_KEY);
    }
    for index in &declared.indexes {
        match table.index(declared, index) {
            Ok(Some(index)) => table.indexes.push(index),
            Ok(None) => {}
            Err(why) => {
                notes.add(None, Level::Rule, format!("its index `{}` is not translated: {why}", index.name));
            }
        }
    }
    table.choose_kinds(declared);
    (table, notes.notes)
}

fn check_name(notes: &mut Notes<'_>, name: &str) {
    if name.is_empty() || name.len() > LONGEST_NAME {
        let message =
            format!("its name has {} bytes, and a collection's has 1 to {LONGEST_NAME}", name.len());
        notes.add(None, Level::Table, message);
    } else if name.contains(['$', '\0']) || name.starts_with("system.") {
        notes.add(
            None,
            Level::Table,
            "its name holds a `$` or a NUL, or begins with `system.`, which a collection's must not",
        );
    }
}

/// Whether all values of a column are dates that a date there would cut.
fn is_too_fine(column: &DeclaredColumn, profile: &Profile) -> bool {
    let declared = column.declared.to_ascii_uppercase();
    let mut shapes = profile.shapes.keys();
    (declared.contains("DATE") || declared.contains("TIME"))
        && matches!((shapes.next(), shapes.next()), (Some(only), None) if Form::of_shape(only).is_some_and(|form| form.fraction > DATE_DIGITS))
}

/// A default that is a value, as [`Table::default_of`] reads it; `None`: it is none, or SQLite makes another value of it.
fn default(text: &str, affinity: Affinity) -> Option<String> {
    let is_number_there = matches!(affinity, Affinity::Integer | Affinity::Real | Affinity::Numeric);
    let integer = |i: i64| match affinity {
        Affinity::Text => format!("s{i}"),
        Affinity::Real => format!("r{:x}", (i as f64).to_bits()),
        _ => format!("i{i}"),
    };
    match written(text) {
        Written::Quoted(quoted) => {
            let text = quoted[1..quoted.len() - 1].replace("''", "'");
            let is_kept = !is_number_there || text.trim().parse::<f64>().is_err();
            is_kept.then(|| format!("s{text}"))
        }
        Written::Word(word) => match (word.as_str(), word.parse::<i64>()) {
            ("NULL", _) => Some("n".to_owned()),
            ("TRUE", _) => Some(integer(1)),
            ("FALSE", _) => Some(integer(0)),
            (_, Ok(i)) => Some(integer(i)),
            (number, Err(_)) if is_number(number) && affinity == Affinity::Real => {
                number.parse::<f64>().ok().map(|f| format!("r{:x}", f.to_bits()))
            }
            _ => None,
        },
    }
}

/// Whether a field can be called so: a dot is a path there, and a `$` an operator.
pub fn field_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(['.', '\0']) && !name.starts_with('$')
}

impl Table {
    /// Where a column is in a document: `_id`, `_id.b`, or its name.
    pub fn path(&self, nth: usize) -> String {
        match (self.key.contains(&nth), self.key.len()) {
            (true, 1) => ID.to_owned(),
            (true, _) => format!("{ID}.{}", self.columns[nth].name),
            (false, _) => self.columns[nth].name.clone(),
        }
    }

    /// What rows that are there have in a column that is added.
    pub fn default_of(&self, nth: usize) -> Value {
        let Some((tag, rest)) =
            self.columns[nth].default.as_deref().and_then(|text| text.split_at_checked(1))
        else {
            return Value::Null;
        };
        match tag {
            "i" => rest.parse().map_or(Value::Null, Value::Integer),
            "r" => {
                u64::from_str_radix(rest, 16).map_or(Value::Null, |bits| Value::Real(f64::from_bits(bits)))
            }
            "s" => Value::Text(rest.into()),
            _ => Value::Null,
        }
    }

    /// The columns that must not be NULL for a row to be in an index.
    pub fn not_null_in<'a>(&'a self, index: &'a Index) -> impl Iterator<Item = usize> + 'a {
        let can_be_null = |nth: &usize| !self.columns[*nth].is_not_null && !self.key.contains(nth);
        let columns = index.parts.iter().map(|part| part.column);
        columns.filter(move |nth| index.is_unique && can_be_null(nth))
    }

    /// What its documents must be, as `$jsonSchema` says it.
    pub fn validator(&self) -> Json {
        let mut properties = Map::new();
        let mut required = vec![];
        if !self.key.is_empty() {
            required.push(ID.to_owned());
        }
        match &self.key[..] {
            [] => {}
            [only] => _ = properties.insert(ID.to_owned(), admitted(&self.columns[*only], false)),
            several => {
                let columns = several.iter().map(|nth| &self.columns[*nth]);
                let of: Map<String, Json> =
                    columns.clone().map(|column| (column.name.clone(), admitted(column, false))).collect();
                let names: Vec<&String> = columns.map(|column| &column.name).collect();
                let id = json!({ "bsonType": "object", "required": names, "properties": of });
                properties.insert(ID.to_owned(), id);
            }
        }
        for (nth, column) in self.columns.iter().enumerate().filter(|(nth, _)| !self.key.contains(nth)) {
            required.push(self.path(nth));
            properties.insert(column.name.clone(), admitted(column, !column.is_not_null));
        }
        json!({ "$jsonSchema": { "bsonType": "object", "required": required, "properties": properties } })
    }

    /// The command that makes it, as mongosh takes it; with a validator or without.
    pub fn create(&self, has_validator: bool) -> String {
        let options = if has_validator {
            format!(", {}", json!({ "validator": self.validator() }))
        } else {
            String::new()
        };
        format!("db.createCollection({}{options})", json!(self.name))
    }

    /// The command that makes an index.
    pub fn create_index(&self, index: &Index) -> String {
        let part = |part: &Part| {
            let direction = if part.is_descending { -1 } else { 1 };
            format!("{}: {direction}", json!(self.path(part.column)))
        };
        let parts: Vec<String> = index.parts.iter().map(part).collect();
        let mut options = format!("\"name\": {}", json!(index.name));
        if index.is_unique {
            options.push_str(", \"unique\": true");
        }
        let filter: Vec<String> = self
            .not_null_in(index)
            .map(|nth| format!("{}: {}", json!(self.path(nth)), json!({ "$type": VALUES })))
            .collect();
        if !filter.is_empty() {
            options.push_str(&format!(", \"partialFilterExpression\": {{{}}}", filter.join(", ")));
        }
        format!("db.getCollection({}).createIndex({{{}}}, {{{options}}})", json!(self.name), parts.join(", "))
    }

    /// What is not NULL, by the names of its types.
    pub fn values() -> [&'static str; 7] {
        VALUES
    }

    fn check_fields(&self, notes: &mut Notes<'_>) {
        for (nth, column) in self.columns.iter().enumerate() {
            if !field_name(&column.name) {
                let message =
                    "its name is empty, holds a dot or a NUL, or begins with `$`, which a field's must not";
                notes.add(Some(&column.name), Level::Table, message);
            } else if column.name == ID && !self.key.contains(&nth) {
                notes.add(
                    Some(&column.name),
                    Level::Table,
                    "has the name of the key there, and is not the key",
                );
            }
        }
    }

    /// `None`: it is there without being made.
    fn index(&self, declared: &Declaration, index: &DeclaredIndex) -> Result<Option<Index>, String> {
        if index.is_partial {
            return Err("it has only some of the rows".to_owned());
        }
        let part = |part: &Option<IndexPart>| {
            let part = part.as_ref().ok_or("it is on an expression")?;
            let column = self.columns.iter().position(|column| column.source == part.column);
            let column = column.ok_or("it is on a column that is not there")?;
            if self.columns[column].kind.has_text() && !part.collation.eq_ignore_ascii_case("BINARY") {
                return Err("it is in a collation that has no like");
            }
            Ok(Part { column, is_descending: part.is_descending })
        };
        let parts = index.parts.iter().map(part).collect::<Result<Vec<_>, _>>()?;
        if parts.len() > INDEX_PARTS {
            return Err(format!("it has more than {INDEX_PARTS} columns"));
        }
        if self.indexes.len() == INDEXES {
            return Err(format!("there is room for {INDEXES}"));
        }
        if matches!(&parts[..], [only] if self.key == [only.column]) {
            return Ok(None);
        }
        Ok(Some(Index { name: self.index_name(declared, index), is_unique: index.is_unique, parts }))
    }

    fn index_name(&self, declared: &Declaration, index: &DeclaredIndex) -> String {
        let wanted = columns::index_name(&self.name, declared, index).replace('\0', "_");
        let is_taken = |name: &String| {
            name.is_empty()
                || name == "_id_"
                || name == "*"
                || self.indexes.iter().any(|other| other.name == *name)
        };
        let plain = columns::cut(&wanted, LONGEST_NAME, char::len_utf8);
        let numbered = (2..)
            .map(|nth: u32| format!("{}_{nth}", columns::cut(&wanted, LONGEST_NAME - 11, char::len_utf8)));
        std::iter::once(plain).chain(numbered).find(|name| !is_taken(name)).unwrap_or(wanted)
    }

    /// A key is stored as it is, so that it has the order that it has in SQLite; and what is unique is never a decimal number, of which
    /// `1.0` and `1.00` are one.
    fn choose_kinds(&mut self, declared: &Declaration) {
        let is_unique = |nth: usize, table: &Table| {
            table
                .indexes
                .iter()
                .any(|index| index.is_unique && index.parts.iter().any(|part| part.column == nth))
        };
        for nth in 0..self.columns.len() {
            let of = declared.columns[self.columns[nth].source].declared.to_ascii_uppercase();
            let kind = match self.columns[nth].kind {
                MongoType::Boolean if self.key.contains(&nth) => MongoType::Long,
                MongoType::Date(_) | MongoType::Decimal if self.key.contains(&nth) => MongoType::Text,
                MongoType::Decimal if is_unique(nth, self) => MongoType::Text,
                MongoType::Text
                    if ["DECIMAL", "NUMERIC"].iter().any(|word| of.contains(word))
                        && !self.key.contains(&nth)
                        && !is_unique(nth, self) =>
                {
                    MongoType::Decimal
                }
                kind => kind,
            };
            self.columns[nth].kind = kind;
        }
    }
}

fn admitted(column: &Column, can_be_null: bool) -> Json {
    match column.kind.admitted() {
        [] => json!({}),
        types => {
            let null = can_be_null.then_some("null");
            json!({ "bsonType": types.iter().copied().chain(null).collect::<Vec<_>>() })
        }
    }
}
