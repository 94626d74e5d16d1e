//! TOML to [`Node`], through the `toml` crate's spanned document.

use toml::de::{DeTable, DeValue};

use super::{Entry, MAX_DEPTH, Node, Value};
use crate::diagnostic::Report;

/// The document as a table; `None` after a syntax error, which then stands in `report`.
pub(crate) fn parse_toml(text: &str, report: &mut Report<'_>) -> Option<Vec<Entry>> {
    match DeTable::parse(text) {
        Ok(table) => table_entries(table.get_ref(), 0, report),
        Err(error) => {
            let span = error.span().unwrap_or(0..0);
            report.error(&span, format!("this is not TOML: {}", error.message().replace('\n', ", ")));
            None
        }
    }
}

fn table_entries(table: &DeTable<'_>, depth: usize, report: &mut Report<'_>) -> Option<Vec<Entry>> {
    let mut entries = Vec::with_capacity(table.len());
    for (key, value) in table {
        let node = node(value.get_ref(), value.span(), depth + 1, report)?;
        entries.push(Entry { key: key.get_ref().to_string(), key_span: key.span(), node });
    }
    entries.sort_by_key(|entry| entry.key_span.start);
    Some(entries)
}

fn node(
    value: &DeValue<'_>,
    span: std::ops::Range<usize>,
    depth: usize,
    report: &mut Report<'_>,
) -> Option<Node> {
    if depth > MAX_DEPTH {
        report.error(&span, "values are nested too deeply");
        return None;
    }
    let value = match value {
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Integer(integer) => Value::Integer(integer.to_string()),
        DeValue::Float(float) => Value::Float(float.to_string()),
        DeValue::Boolean(value) => Value::Bool(*value),
        DeValue::Datetime(_) => Value::Datetime,
        DeValue::Array(items) => {
            let nodes = items.iter().map(|item| node(item.get_ref(), item.span(), depth + 1, report));
            Value::Array(nodes.collect::<Option<_>>()?)
        }
        DeValue::Table(table) => Value::Table(table_entries(table, depth, report)?),
    };
    Some(Node { span, value })
}
