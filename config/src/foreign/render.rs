//! The text of a translation.

use std::fmt::Write as _;
use std::path::Path;

use super::{Kind, Table, Translation};
use crate::node::{Entry, Value};
use crate::template::toml_text;

pub(super) fn file(from: &Path, translation: &Translation<'_>) -> String {
    let name = from.file_name().unwrap_or_default().to_string_lossy();
    let mut out = String::new();
    comment(
        &mut out,
        &format!(
            "Made of {name} by `litekeep import`. What is not written has its default: see docs/processes.md."
        ),
    );
    comment(&mut out, "To back up a database beside them:");
    comment(&mut out, "  [[database]]");
    comment(&mut out, "  path = \"app.db\"");
    comment(&mut out, "  backup = \"s3://my-bucket/app\"");
    translation.remarks.iter().for_each(|remark| comment(&mut out, remark));
    translation.tables.iter().for_each(|table| write_table(&mut out, table));
    out
}

fn comment(out: &mut String, text: &str) {
    // A remark quotes the file, which may have anything.
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let _ = writeln!(out, "# {line}");
}

fn write_table(out: &mut String, table: &Table) {
    let kind = if table.kind == Kind::Job { "job" } else { "process" };
    let title = format!("{kind}.{}", key_text(&table.name));
    out.push('\n');
    table.remarks.iter().for_each(|remark| comment(out, remark));
    let _ = writeln!(out, "[{title}]");
    // Variables are many, and a table on a line of its own is long: theirs comes last.
    let (variables, others): (Vec<&Entry>, _) = table.entries.iter().partition(|entry| entry.key == "env");
    others.iter().for_each(|entry| write_entry(out, entry));
    for entry in variables {
        let Value::Table(variables) = &entry.node.value else {
            write_entry(out, entry);
            continue;
        };
        let _ = writeln!(out, "\n[{title}.env]");
        variables.iter().for_each(|variable| write_entry(out, variable));
    }
}

fn write_entry(out: &mut String, entry: &Entry) {
    let _ = writeln!(out, "{} = {}", key_text(&entry.key), value_text(&entry.node.value));
}

fn key_text(key: &str) -> String {
    let is_bare = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if !key.is_empty() && key.chars().all(is_bare) { key.to_owned() } else { toml_text(key) }
}

fn value_text(value: &Value) -> String {
    match value {
        Value::Bool(value) => value.to_string(),
        Value::Integer(digits) => digits.clone(),
        Value::Float(digits) if digits.contains(['.', 'e', 'E', 'n']) => digits.clone(),
        Value::Float(digits) => format!("{digits}.0"),
        Value::String(text) | Value::Plain(text) => toml_text(text),
        Value::Array(nodes) => {
            let values: Vec<String> = nodes.iter().map(|node| value_text(&node.value)).collect();
            format!("[{}]", values.join(", "))
        }
        Value::Table(entries) => {
            let pair =
                |entry: &Entry| format!("{} = {}", key_text(&entry.key), value_text(&entry.node.value));
            let pairs: Vec<String> = entries.iter().map(pair).collect();
            if pairs.is_empty() { "{}".into() } else { format!("{{ {} }}", pairs.join(", ")) }
        }
        // The reader refuses these, so that nothing with one is ever written.
        Value::Null | Value::Datetime => "\"\"".into(),
    }
}
