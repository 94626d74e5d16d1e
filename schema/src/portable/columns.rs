//! What all servers share of a table: which type each column has, by what it declares and by what its rows hold, and which columns
//! are the key.

use std::borrow::Cow;
use std::collections::BTreeMap;

use litekeep_sql::{Declaration, DeclaredColumn, Generated, Profile};
use serde::{Deserialize, Serialize};

use super::date::Form;
use super::{Affinity, Level, Note};
use crate::words::words;

/// Of so many values one may be of another type: it is refused, and the column keeps its own.
const SELDOM: u64 = 100;

/// A column there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column<T> {
    /// Its name.
    pub name: String,
    /// Its number in SQLite's table.
    pub source: usize,
    /// Its type.
    pub kind: T,
    /// NULL is refused.
    pub is_not_null: bool,
    /// The expression of its DEFAULT.
    pub default: Option<String>,
}

/// What a user wants otherwise.
#[derive(Clone, Debug)]
pub struct Options<T> {
    /// The schema of the tables; `None`: that of the connection.
    pub schema: Option<String>,
    /// Names of tables there.
    pub names: BTreeMap<String, String>,
    /// Types by `table.column`.
    pub types: BTreeMap<String, T>,
}

impl<T> Default for Options<T> {
    fn default() -> Options<T> {
        Options { schema: None, names: BTreeMap::new(), types: BTreeMap::new() }
    }
}

/// What the values of a column are, whatever the type for them is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    Integers,
    Reals,
    Numbers,
    Text,
    Bytes,
    Booleans,
    Json,
    /// Dates, with a time where the form has one.
    Dates(Form),
    /// Any value.
    Anything,
}

/// A type of a server.
pub(super) trait ColumnType: Copy {
    /// The type for such values.
    fn of(content: Content) -> Self;
    /// Its name in SQL.
    fn in_sql(self) -> Cow<'static, str>;
    /// Whether values can be compared by `=`, as a key needs.
    fn can_be_key(self) -> bool;
    /// Whether a column holds values of any type, whatever its own is.
    fn holds_any() -> bool {
        false
    }
}

/// What is told of a table.
pub(super) struct Notes<'a> {
    pub(super) table: &'a str,
    pub(super) notes: Vec<Note>,
}

impl<'a> Notes<'a> {
    pub(super) fn of(table: &'a str) -> Notes<'a> {
        Notes { table, notes: vec![] }
    }

    pub(super) fn add(&mut self, column: Option<&str>, level: Level, message: impl Into<String>) {
        let (table, column) = (self.table.to_owned(), column.map(str::to_owned));
        self.notes.push(Note { table, column, level, message: message.into() });
    }
}

/// The columns that are the like of the declared ones; virtual ones are left out. `default`: what a column of a type has by default,
/// `None` where it has no like.
pub(super) fn columns<T: ColumnType>(
    declared: &Declaration,
    profiles: &[Profile],
    options: &Options<T>,
    default: fn(&str, T) -> Option<String>,
    notes: &mut Notes<'_>,
) -> Vec<Column<T>> {
    let mut columns = vec![];
    for (source, (column, profile)) in declared.columns.iter().zip(profiles).enumerate() {
        let name = Some(column.name.as_str());
        if column.generated == Some(Generated::Virtual) {
            notes.add(name, Level::Info, "is computed when it is read, and left out");
            continue;
        }
        if column.generated == Some(Generated::Stored) {
            let message = "its computed values are copied; there it is an ordinary column";
            notes.add(name, Level::Info, message);
        }
        let wanted = options.types.get(&format!("{}.{}", declared.name, column.name)).copied();
        let kind = wanted.unwrap_or_else(|| choose(column, profile, notes));
        let default = column.default.as_deref().and_then(|text| {
            let default = default(text, kind);
            if default.is_none() {
                notes.add(name, Level::Rule, format!("its default `{text}` is not translated"));
            }
            default
        });
        columns.push(Column {
            name: column.name.clone(),
            source,
            kind,
            is_not_null: column.is_not_null,
            default,
        });
    }
    if has_word(&declared.sql, "CHECK") {
        notes.add(None, Level::Rule, "its CHECK constraints are not translated");
    }
    columns
}

/// A primary key there admits no NULL, and compares its values.
pub(super) fn key<T: ColumnType>(
    declared: &Declaration,
    profiles: &[Profile],
    columns: &[Column<T>],
    notes: &mut Notes<'_>,
) -> Vec<usize> {
    let place = |source: &usize| columns.iter().position(|column| column.source == *source);
    let Some(key) = declared.primary_key.iter().map(place).collect::<Option<Vec<usize>>>() else {
        return vec![];
    };
    for nth in &key {
        let Column { name, source, kind, .. } = &columns[*nth];
        if profiles[*source].nulls > 0 && declared.rowid_alias != Some(*source) {
            let message = format!(
                "is in the primary key and NULL in {} rows, so there is none there",
                profiles[*source].nulls
            );
            notes.add(Some(name), Level::Rule, message);
            return vec![];
        }
        if !kind.can_be_key() {
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

/// What is told of a table without a key.
pub(super) const NO_KEY: &str =
    "has no primary key: a changed row is found by all of its values, which reads the whole table there";

/// The name of an index there: SQLite's own ones say nothing.
pub(super) fn index_name(table: &str, declared: &Declaration, index: &litekeep_sql::DeclaredIndex) -> String {
    if !index.name.starts_with("sqlite_autoindex") {
        return index.name.clone();
    }
    let columns = index.parts.iter().flatten().map(|part| declared.columns[part.column].name.as_str());
    format!("{table}_{}_key", columns.collect::<Vec<_>>().join("_"))
}

/// The type for what a column declares and holds.
fn choose<T: ColumnType>(column: &DeclaredColumn, profile: &Profile, notes: &mut Notes<'_>) -> T {
    let declared = column.declared.to_ascii_uppercase();
    let values = profile.values();
    let name = Some(column.name.as_str());
    if declared.contains("BOOL") && is_boolean(profile) {
        return T::of(Content::Booleans);
    }
    if declared.contains("JSON") && profile.texts == values {
        return T::of(Content::Json);
    }
    if declared.contains("DATE") || declared.contains("TIME") {
        return T::of(dates(profile, name, T::holds_any(), notes));
    }
    let natural = match Affinity::of(&declared) {
        Affinity::Integer => Some(Content::Integers),
        Affinity::Real => Some(Content::Reals),
        Affinity::Text => Some(Content::Text),
        Affinity::Numeric if declared != "ANY" => Some(Content::Numbers),
        Affinity::Blob if declared.contains("BLOB") => Some(Content::Bytes),
        _ => None,
    };
    let fitting = natural.map_or(0, |content| fitting(content, profile));
    let sql = |content| T::of(content).in_sql();
    match (natural, by_values(profile)) {
        (Some(content), _) if fitting == values => T::of(content),
        (_, Some(content)) => {
            if natural.is_some() {
                let message =
                    format!("declares `{}`, and all of its values are {}", column.declared, sql(content));
                notes.add(name, Level::Info, message);
            }
            T::of(content)
        }
        (Some(content), None) if (values - fitting).saturating_mul(SELDOM) <= values && !T::holds_any() => {
            let message = format!(
                "{} of {values} values are not {}: these rows are refused; with the type `tagged` they are not",
                values - fitting,
                sql(content)
            );
            notes.add(name, Level::Values, message);
            T::of(content)
        }
        _ => {
            let is = if values == 0 {
                "declares no type and has no value yet"
            } else {
                "holds values of several types"
            };
            let message = match T::holds_any() {
                true => format!("{is}: each value keeps its own there"),
                false => format!(r#"{is}: each becomes JSON with its type, {{"t":"i","v":"7"}}"#),
            };
            notes.add(name, Level::Info, message);
            T::of(Content::Anything)
        }
    }
}

fn is_boolean(profile: &Profile) -> bool {
    let is_bit = |i: Option<i64>| i.is_none_or(|i| i == 0 || i == 1);
    profile.integers == profile.values() && is_bit(profile.least) && is_bit(profile.greatest)
}

/// How many of the values are such.
fn fitting(content: Content, profile: &Profile) -> u64 {
    match content {
        Content::Integers => profile.integers,
        Content::Reals => profile.reals,
        Content::Numbers => profile.integers + profile.reals,
        Content::Text => profile.texts,
        Content::Bytes => profile.blobs,
        _ => 0,
    }
}

/// What values are that are all alike.
fn by_values(profile: &Profile) -> Option<Content> {
    let contents = [Content::Integers, Content::Reals, Content::Numbers, Content::Text, Content::Bytes];
    contents
        .into_iter()
        .find(|content| profile.values() > 0 && fitting(*content, profile) == profile.values())
}

fn dates(profile: &Profile, name: Option<&str>, holds_any: bool, notes: &mut Notes<'_>) -> Content {
    let values = profile.values();
    if values == 0 {
        let message = "declares dates and has none yet, which would tell how they are written: text";
        notes.add(name, Level::Info, message);
        return Content::Text;
    }
    if profile.texts < values {
        return by_values(profile).unwrap_or_else(|| {
            let message = match holds_any {
                true => "holds dates as text and as numbers: each keeps its own type there",
                false => "holds dates as text and as numbers: each becomes JSON with its type",
            };
            notes.add(name, Level::Info, message);
            Content::Anything
        });
    }
    let mut shapes = profile.shapes.keys();
    let form = match (shapes.next(), shapes.next(), profile.other_shapes) {
        (Some(only), None, 0) => Form::of_shape(only),
        _ => None,
    };
    form.map_or_else(
        || {
            notes.add(name, Level::Info, "holds dates that are not written in one form: text");
            Content::Text
        },
        Content::Dates,
    )
}

/// A default as it is written in SQLite, by what it is.
pub(super) enum Written<'a> {
    /// A text, as it is quoted.
    Quoted(&'a str),
    /// A finite number, or another word in capitals: `NULL`, `TRUE`, `CURRENT_DATE`.
    Word(String),
}

pub(super) fn written(text: &str) -> Written<'_> {
    let text = text.trim();
    let is_text = text.len() >= 2
        && text.starts_with('\'')
        && text.ends_with('\'')
        && !text[1..text.len() - 1].replace("''", "").contains('\'')
        && !text.contains('\0');
    if is_text { Written::Quoted(text) } else { Written::Word(text.to_ascii_uppercase()) }
}

pub(super) fn is_number(word: &str) -> bool {
    word.parse::<f64>().is_ok_and(f64::is_finite)
}

/// Whether a word is in a statement outside of names, texts and comments.
fn has_word(sql: &str, word: &str) -> bool {
    words(sql).iter().any(|found| found.is(word))
}

/// A name of at most so many units, each character counting as `size` says.
pub(super) fn cut(name: &str, longest: usize, size: fn(char) -> usize) -> String {
    let mut room = longest;
    let fits = |c: &char| {
        let rest = room.checked_sub(size(*c));
        room = rest.unwrap_or(0);
        rest.is_some()
    };
    name.chars().take_while(fits).collect()
}
