//! Files of other process managers, translated into the tables of a `litekeep.toml`.
//!
//! Promises:
//! - A translation is read by the reader of `litekeep.toml` itself, whether it is used at once ([`Config::from_oxfile`]) or written
//!   down first ([`import`]): both come to the same processes.
//! - Every key is translated, or told in a warning, which [`import`] also writes as a comment; unknown ones too.
//! - A number keeps its unit: what was written in milliseconds is `ms` here.

mod app;
mod oxfile;
mod pm2;
mod procfile;
mod render;

use std::ops::Range;
use std::path::Path;

use crate::diagnostic::{Error, Report, Warning};
use crate::names;
use crate::node::{Entry, Node, Value, entry};
use crate::reader::{Dialect, Reader};
use crate::settings::{Config, Input};

/// Files that [`import`] reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Foreign {
    /// `oxfile.toml` of Oxmgr.
    Oxfile,
    /// `ecosystem.config.json` of PM2, or the same as YAML.
    Pm2,
    /// `Procfile` of Heroku and foreman.
    Procfile,
}

/// A file that was translated.
#[derive(Clone, Debug, PartialEq)]
pub struct Imported {
    /// A commented `litekeep.toml`.
    pub text: String,
    /// The names of its processes.
    pub processes: Vec<String>,
    /// The names of its jobs.
    pub jobs: Vec<String>,
    /// What has no equivalent, or another meaning.
    pub warnings: Vec<Warning>,
}

/// Translates a file into the text of a `litekeep.toml`. `folder` is the file's own folder where the text will stand in another one:
/// relative paths begin there then.
///
/// # Errors
/// Every mistake of the file, with its place.
pub fn import(format: Foreign, path: &Path, text: &str, folder: Option<&Path>) -> Result<Imported, Error> {
    // What the variables hold is known where the processes run, not here.
    let input = Input { path, text, env: &|_| Some("unknown".into()), read_file: &|_| Ok("unknown".into()) };
    let mut translation = Translation::new(&input, folder);
    translation.translate(format);
    let named = |kind: Kind| {
        translation.tables.iter().filter(|table| table.kind == kind).map(|table| table.name.clone()).collect()
    };
    let (processes, jobs) = (named(Kind::Process), named(Kind::Job));
    let rendered = render::file(path, &translation);
    let config = translation.read()?;
    Ok(Imported { text: rendered, processes, jobs, warnings: config.warnings })
}

impl Config {
    /// Reads an `oxfile.toml`, as Oxmgr 0.5 parses it (`[[apps]]`) or as its articles write it (`[processes.NAME]`). Keys without
    /// an equivalent give a warning.
    ///
    /// # Errors
    /// Every mistake of the file, with its place.
    pub fn from_oxfile(input: &Input<'_>) -> Result<Self, Error> {
        let mut translation = Translation::new(input, None);
        translation.translate(Foreign::Oxfile);
        translation.read()
    }
}

/// What becomes of a key.
#[derive(Clone, Copy)]
enum To {
    /// It has this name.
    Same(&'static str),
    /// It is a number of seconds, and has this name.
    Seconds(&'static str),
    /// It is a number of milliseconds, and has this name.
    Millis(&'static str),
    /// It is a number of mebibytes, of which 0 is no limit.
    Mebibytes(&'static str),
    /// It is a number of hundredths, of which 0 is no limit.
    Percent(&'static str),
    /// It is translated together with others.
    Together,
    /// It is told, with this reason, unless it is `false`.
    NoEffect(&'static str),
}

type Keys = &'static [(&'static str, To)];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Process,
    Job,
}

/// One `[process.NAME]` or `[job.NAME]`. Its texts are those of a `litekeep.toml`: what was a literal `${` is `$${`.
struct Table {
    kind: Kind,
    name: String,
    span: Range<usize>,
    entries: Vec<Entry>,
    remarks: Vec<String>,
}

impl Table {
    fn new(name: String, span: Range<usize>) -> Self {
        Self { kind: Kind::Process, name, span, entries: Vec::new(), remarks: Vec::new() }
    }

    fn set(&mut self, key: &str, span: &Range<usize>, value: Value) {
        self.entries.push(new_entry(key, span, value));
    }

    /// Puts a key into one of its tables, which is made if need be.
    fn set_in(&mut self, table: &str, key: &str, span: &Range<usize>, value: Value) {
        let inner = new_entry(key, span, value);
        match self.entries.iter_mut().find(|entry| entry.key == table) {
            Some(Entry { node: Node { value: Value::Table(entries), .. }, .. }) => entries.push(inner),
            Some(_) => {}
            None => self.set(table, span, Value::Table(vec![inner])),
        }
    }
}

impl Table {
    /// The path of its log.
    fn log(&self) -> Option<&String> {
        match &entry(&self.entries, "log")?.node.entry("path")?.node.value {
            Value::String(path) => Some(path),
            _ => None,
        }
    }
}

fn new_entry(key: &str, span: &Range<usize>, value: Value) -> Entry {
    Entry { key: key.into(), key_span: span.clone(), node: Node { span: span.clone(), value } }
}

struct Translation<'a> {
    input: &'a Input<'a>,
    report: Report<'a>,
    /// Where the file's relative paths begin, if not where those of the result do.
    folder: Option<&'a Path>,
    tables: Vec<Table>,
    /// Remarks that belong to no table.
    remarks: Vec<String>,
}

impl<'a> Translation<'a> {
    fn new(input: &'a Input<'a>, folder: Option<&'a Path>) -> Self {
        let report = Report::new(input.path, input.text);
        Self { input, report, folder, tables: Vec::new(), remarks: Vec::new() }
    }

    fn translate(&mut self, format: Foreign) {
        match format {
            Foreign::Oxfile => self.oxfile(),
            Foreign::Pm2 => self.pm2(),
            Foreign::Procfile => self.procfile(),
        }
    }

    /// The tables as the reader of `litekeep.toml` understands them.
    fn read(self) -> Result<Config, Error> {
        let tables = |kind: Kind| {
            let tables = self.tables.iter().filter(move |table| table.kind == kind);
            tables
                .map(|table| new_entry(&table.name, &table.span, Value::Table(table.entries.clone())))
                .collect()
        };
        let root = [("process", tables(Kind::Process)), ("job", tables(Kind::Job))];
        let root = root.map(|(key, tables)| new_entry(key, &(0..0), Value::Table(tables)));
        let mut config = Config::default();
        let mut reader = Reader { input: self.input, report: self.report, dialect: Dialect::Litekeep };
        reader.root(&root, &mut config);
        config.warnings = reader.report.finish()?;
        Ok(config)
    }

    /// Takes up a table, whose name must be its own.
    fn push(&mut self, table: Table) {
        if let Some(first) = self.tables.iter().find(|other| other.name == table.name) {
            let line = self.report.line_of(&first.span);
            let message =
                format!("`{}` is there already, in line {line}: give each its own name", table.name);
            self.report.error(&table.span, message);
        }
        self.tables.push(table);
    }

    /// A warning that also stands as a comment in what is written.
    fn remark(&mut self, table: Option<&mut Table>, span: &Range<usize>, remark: String) {
        self.report.warn(span, remark.clone());
        table.map_or(&mut self.remarks, |table| &mut table.remarks).push(remark);
    }

    /// Advice about a key that nobody has.
    fn unknown(&self, key: &str, keys: Keys, place: &str) -> String {
        let known = || keys.iter().map(|(name, _)| *name);
        match names::nearest(key, known()) {
            Some(near) => format!("unknown key `{key}`: did you mean `{near}`?"),
            None => format!("unknown key `{key}`: {place} has no such key"),
        }
    }

    /// Translates what needs no other key; whether it did, or told it.
    fn translate_key(&mut self, table: &mut Table, found: &Entry, to: To) -> bool {
        let span = &found.node.span;
        match to {
            To::Together => return false,
            To::NoEffect(_) if matches!(found.node.value, Value::Bool(false)) => {}
            To::NoEffect(reason) => {
                self.remark(Some(table), &found.key_span, format!("`{}` has no effect: {reason}", found.key));
            }
            To::Same(key) | To::Seconds(key) | To::Millis(key) | To::Mebibytes(key) | To::Percent(key)
                if entry(&table.entries, key).is_some() =>
            {
                let message =
                    format!("`{}` says again what another key says: keep one of the two", found.key);
                self.report.error(&found.key_span, message);
            }
            To::Same(key) => table.set(key, span, literal(&found.node).value),
            To::Seconds(key) | To::Millis(key) | To::Mebibytes(key) | To::Percent(key) => {
                if let Some(value) = self.with_unit(found, to) {
                    table.set(key, span, value);
                }
            }
        }
        true
    }

    /// A number with the unit that its key says; `None` for no limit, and after an error.
    fn with_unit(&mut self, found: &Entry, to: To) -> Option<Value> {
        let (unit, what) = match to {
            To::Seconds(_) => ("s", "seconds"),
            To::Millis(_) => ("ms", "milliseconds"),
            To::Mebibytes(_) => ("MiB", "MiB"),
            _ => ("", "hundredths of a processor"),
        };
        let (Value::Integer(text) | Value::Float(text) | Value::String(text)) = &found.node.value else {
            let message =
                format!("`{}` must be a number of {what}, found {}", found.key, found.node.describe());
            self.report.error(&found.node.span, message);
            return None;
        };
        let number = text.trim().parse::<f64>().ok().filter(|number| number.is_finite() && *number >= 0.0);
        match (to, number) {
            (To::Mebibytes(_) | To::Percent(_), Some(0.0)) => None,
            (To::Percent(_), Some(number)) => Some(Value::Float((number / 100.0).to_string())),
            (_, Some(_)) => Some(Value::String(format!("{}{unit}", text.trim()))),
            // "15s": a duration or size that has its unit already, which the reader judges.
            (_, None) => Some(Value::String(escaped(text))),
        }
    }
}

/// A literal text for a reader that takes `${...}` for a variable.
fn escaped(text: &str) -> String {
    text.replace("${", "$${")
}

/// The value with every text in it literal.
fn literal(node: &Node) -> Node {
    let value = match &node.value {
        Value::String(text) => Value::String(escaped(text)),
        Value::Array(nodes) => Value::Array(nodes.iter().map(literal).collect()),
        Value::Table(entries) => Value::Table(
            entries.iter().map(|entry| Entry { node: literal(&entry.node), ..entry.clone() }).collect(),
        ),
        other => other.clone(),
    };
    Node { span: node.span.clone(), value }
}

/// What a name becomes where it has characters that names do not have here.
fn plain_name(name: &str) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let plain: String = name.trim().chars().map(|c| if allowed(c) { c } else { '-' }).take(64).collect();
    let plain = plain.trim_start_matches(['-', '.']);
    if plain.is_empty() { "app".into() } else { plain.into() }
}
