//! A file as a tree of values, each with its span: the one shape that both formats are read from.
//!
//! Invariants: the keys of a table are unique and in the order of the file; spans are byte ranges of the text;
//! the depth is at most [`MAX_DEPTH`].

mod toml;
mod yaml;

use std::ops::Range;

pub(crate) use self::toml::parse_toml;
pub(crate) use self::yaml::parse_yaml;

/// Deeper files are refused: no setting stands deeper than five, and recursion over the tree must stay bounded.
const MAX_DEPTH: usize = 64;

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) span: Range<usize>,
    pub(crate) value: Value,
}

#[derive(Clone, Debug)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    /// The digits as written: numbers are only ever read as counts.
    Integer(String),
    Float(String),
    Datetime,
    String(String),
    /// YAML without quotes: what it is depends on what is wanted.
    Plain(String),
    Array(Vec<Node>),
    Table(Vec<Entry>),
}

/// One `key = value`.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) key_span: Range<usize>,
    pub(crate) node: Node,
}

impl Node {
    /// What a table has under a key.
    pub(crate) fn entry(&self, key: &str) -> Option<&Entry> {
        match &self.value {
            Value::Table(entries) => entry(entries, key),
            _ => None,
        }
    }

    /// What the value is, for "expected a table, found ...".
    pub(crate) fn describe(&self) -> String {
        match &self.value {
            Value::Null => "nothing".into(),
            Value::Bool(value) => format!("`{value}`"),
            Value::Integer(digits) => format!("the number {digits}"),
            Value::Float(digits) => format!("the number {digits}"),
            Value::Datetime => "a date".into(),
            // The text may be a secret, so it is not repeated: the quoted line shows it, masked.
            Value::String(_) | Value::Plain(_) => "a text".into(),
            Value::Array(_) => "a list".into(),
            Value::Table(_) => "a table".into(),
        }
    }
}

pub(crate) fn entry<'a>(entries: &'a [Entry], key: &str) -> Option<&'a Entry> {
    entries.iter().find(|entry| entry.key == key)
}
