//! Changes as SQL.
//!
//! Every statement names its row by the primary key, or by the rowid where there is none, and sets what is stored: generated
//! columns come by themselves. Text that is no UTF-8 is written as bytes.

use crate::{Change, Error, Pair, RowRef, SchemaChange, Table, Value, key};
use litekeep_format::{SchemaRow, TableLayout};
use litekeep_sql::quoted;
use std::fmt::Write as _;

/// Statements for the rows of one table, in an order in which no unique value is taken twice: rows whose unique values
/// change are deleted and inserted. Values that are exchanged under a CREATE UNIQUE INDEX still can collide.
#[derive(Debug, Default)]
pub struct Script {
    first: Vec<String>,
    then: Vec<String>,
}

impl Script {
    /// Adds what makes a change again (`forth`), or takes it back.
    ///
    /// # Errors
    /// `Corrupt` for a damaged row.
    pub fn add(&mut self, pair: Pair<'_>, change: &Change<'_>, forth: bool) -> Result<(), Error> {
        let (had, gets) = match change {
            Change::Inserted(new) => (None, Some(new)),
            Change::Updated(old, new) => (Some(old), Some(new)),
            Change::Deleted(old) => (Some(old), None),
        };
        let (had, gets) = if forth { (had, gets) } else { (gets, had) };
        let table = &pair.either().name;
        match (had, gets) {
            (Some(had), Some(gets)) if !has_other_unique_values(had, gets)? => {
                self.then.extend(update(pair, had, gets, table)?);
            }
            (had, gets) => {
                self.first.extend(had.map(|row| delete(row, table)).transpose()?);
                self.then.extend(gets.map(|row| insert(row, table)).transpose()?);
            }
        }
        Ok(())
    }

    /// The statements, in order.
    pub fn end(self) -> impl Iterator<Item = String> {
        self.first.into_iter().chain(self.then)
    }
}

fn has_other_unique_values(had: &RowRef<'_>, gets: &RowRef<'_>) -> Result<bool, Error> {
    let (before, after) = (had.values()?, gets.values()?);
    Ok(gets.table.layout.unique.iter().any(|nth| before.get(*nth) != Some(&after[*nth])))
}

/// What changes tables, before rows are inserted into them: `forth` to do it, else to undo it.
pub fn tables(changes: &[SchemaChange], forth: bool) -> Vec<String> {
    let made = changes.iter().filter(|change| !change.comes_by_itself(changes)).cloned().collect::<Vec<_>>();
    ends(&made, forth)
        .filter_map(|(had, gets)| match (had, gets) {
            (None, Some(gets)) if gets.kind == "table" => Some(format!("{};", gets.sql)),
            (Some(had), Some(gets)) if gets.kind == "table" => {
                let one_line = |sql: &str| sql.split_whitespace().collect::<Vec<_>>().join(" ");
                Some(format!(
                    "-- the table was altered, from: {}\n-- to: {}",
                    one_line(&had.sql),
                    one_line(&gets.sql)
                ))
            }
            _ => None,
        })
        .collect()
}

/// What changes indexes, views and triggers, and drops tables, after rows were changed.
pub fn the_rest(changes: &[SchemaChange], forth: bool) -> Vec<String> {
    let mut statements = vec![];
    let made = changes.iter().filter(|change| !change.comes_by_itself(changes)).cloned().collect::<Vec<_>>();
    for (had, gets) in ends(&made, forth) {
        let is_table = had.or(gets).is_some_and(|row| row.kind == "table");
        if let Some(had) = had.filter(|_| !is_table || gets.is_none()) {
            statements.push(format!("DROP {} IF EXISTS {};", had.kind.to_uppercase(), quoted(&had.name)));
        }
        if let Some(gets) = gets.filter(|_| !is_table) {
            statements.push(format!("{};", gets.sql));
        }
    }
    statements
}

fn ends(
    changes: &[SchemaChange],
    forth: bool,
) -> impl Iterator<Item = (Option<&SchemaRow>, Option<&SchemaRow>)> {
    changes.iter().map(move |change| {
        let ends = (change.before.as_ref(), change.after.as_ref());
        if forth { ends } else { (ends.1, ends.0) }
    })
}

fn insert(row: &RowRef<'_>, table: &str) -> Result<String, Error> {
    let mut values = writable(row)?;
    let layout = &row.table.layout;
    if !layout.is_without_rowid()
        && layout.rowid_alias.is_none()
        && let Some(rowid) = rowid_name(row.table)
    {
        values.insert(0, (rowid.to_owned(), Value::Integer(row.rowid)));
    }
    let join = |parts: Vec<String>| parts.join(", ");
    let names = join(values.iter().map(|(name, _)| quoted(name)).collect());
    let values = join(values.iter().map(|(_, value)| literal(value)).collect());
    Ok(format!("INSERT INTO {}({names}) VALUES({values});", quoted(table)))
}

fn delete(row: &RowRef<'_>, table: &str) -> Result<String, Error> {
    Ok(format!("DELETE FROM {} WHERE {};", quoted(table), condition(row)?))
}

fn update(pair: Pair<'_>, had: &RowRef<'_>, gets: &RowRef<'_>, table: &str) -> Result<Option<String>, Error> {
    let is_in_table = |name: &str| pair.either().layout.columns.iter().any(|column| column.name == name);
    let before = writable(had)?;
    let set: Vec<String> = writable(gets)?
        .iter()
        .filter(|(name, value)| is_in_table(name) && !before.iter().any(|(n, v)| n == name && v == value))
        .map(|(name, value)| format!("{}={}", quoted(name), literal(value)))
        .collect();
    if set.is_empty() {
        return Ok(None);
    }
    Ok(Some(format!("UPDATE {} SET {} WHERE {};", quoted(table), set.join(", "), condition(had)?)))
}

fn condition(row: &RowRef<'_>) -> Result<String, Error> {
    let terms = key(row)?.into_iter().map(|(name, value)| match value {
        Value::Null => format!("{} IS NULL", quoted(&name)),
        value => format!("{}={}", quoted(&name), literal(&value)),
    });
    Ok(terms.collect::<Vec<_>>().join(" AND "))
}

/// The columns that a statement can set.
pub(crate) fn writable(row: &RowRef<'_>) -> Result<Vec<(String, Value)>, Error> {
    let columns = row.table.layout.columns.iter().zip(row.values()?);
    Ok(columns
        .filter(|(column, _)| !column.is_generated)
        .map(|(column, value)| (column.name.clone(), value))
        .collect())
}

/// A name for the rowid that no column has. `None`: all three are columns.
pub(crate) fn rowid_name(table: &Table) -> Option<&'static str> {
    free_rowid_name(&table.layout)
}

/// As [`rowid_name`], of a layout.
pub(crate) fn free_rowid_name(layout: &TableLayout) -> Option<&'static str> {
    let is_column = |name: &str| layout.columns.iter().any(|column| column.name.eq_ignore_ascii_case(name));
    ["rowid", "_rowid_", "oid"].into_iter().find(|name| !is_column(name))
}

/// A value as SQL.
pub fn literal(value: &Value) -> String {
    match value {
        Value::Null => "NULL".to_owned(),
        Value::Integer(i) => i.to_string(),
        Value::Real(f) if f.is_infinite() => if *f > 0.0 { "9e999" } else { "-9e999" }.to_owned(),
        Value::Real(f) => format!("{f:?}"),
        Value::Text(text) => match str::from_utf8(text) {
            Ok(text) => {
                let parts = text.split('\0').map(|part| format!("'{}'", part.replace('\'', "''")));
                let parts: Vec<_> = parts.collect();
                if parts.len() > 1 { format!("({})", parts.join("||char(0)||")) } else { parts.concat() }
            }
            Err(_) => format!("CAST({} AS TEXT)", blob(text)),
        },
        Value::Blob(bytes) => blob(bytes),
    }
}

fn blob(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(3 + 2 * bytes.len());
    text.push_str("x'");
    for byte in bytes {
        write!(text, "{byte:02x}").expect("a string takes all");
    }
    text.push('\'');
    text
}
