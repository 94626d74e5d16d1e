//! The key of a row as conditions on its table.

use litekeep_format::TableLayout;
use litekeep_format::diff::renamed_columns;
use litekeep_rows::{OfStatement, Value, statements};

use super::names::State;
use crate::report::Failure;
use crate::row_key::{self, Term, is_literal};

/// A key, term by term.
pub(super) struct Key<'a>(Vec<Term<'a>>);

impl<'a> Key<'a> {
    /// The key of a table that was never altered.
    ///
    /// # Errors
    /// When it is none.
    pub(super) fn condition(
        key: &'a str,
        table: &str,
        layout: Option<&TableLayout>,
    ) -> Result<String, Failure> {
        let Key(terms) = Key::parse(key, table, layout)?;
        let layouts: Vec<_> = layout.into_iter().collect();
        let of = |term: &Term<'_>| -> Result<String, Failure> {
            let name = term.names(table, &layouts)?.pop().flatten();
            Ok(term.condition(name.as_deref().or(term.column)))
        };
        Ok(terms.iter().map(of).collect::<Result<Vec<_>, _>>()?.join(" AND "))
    }

    /// The key in each state of its table, in which its columns may have had other names.
    ///
    /// # Errors
    /// When it is none.
    pub(super) fn conditions(
        key: &'a str,
        table: &str,
        states: &[State],
    ) -> Result<Vec<OfStatement>, Failure> {
        let Key(terms) = Key::parse(key, table, states.last().map(|state| &state.layout))?;
        let layouts: Vec<_> = states.iter().map(|state| &state.layout).collect();
        let names = terms.iter().map(|term| term.names(table, &layouts)).collect::<Result<Vec<_>, _>>()?;
        let condition = |nth: usize| {
            let of = terms.iter().zip(&names).map(|(term, names)| term.condition(names[nth].as_deref()));
            of.collect::<Vec<_>>().join(" AND ")
        };
        let each = states.iter().enumerate();
        let of = each.map(|(nth, State { table, sql, .. })| OfStatement {
            table: table.clone(),
            sql: sql.clone(),
            condition: condition(nth),
        });
        Ok(of.collect())
    }

    fn parse(key: &'a str, table: &str, layout: Option<&TableLayout>) -> Result<Key<'a>, Failure> {
        let primary_key = layout.map_or(vec![], primary_key);
        row_key::parse(key, (table, &primary_key), "--key ").map(Key)
    }
}

impl Term<'_> {
    /// As SQL has it, the name of the column in each state of the table; `None` where it has none.
    fn names(&self, table: &str, states: &[&TableLayout]) -> Result<Vec<Option<String>>, Failure> {
        let Some(column) = self.column else { return Ok(states.iter().map(|layout| only(layout)).collect()) };
        let known = (0..states.len()).rev().find_map(|nth| Some((nth, named(states[nth], column)?)));
        let Some((known, name)) = known else {
            let is_rowid = column == "rowid" && states.iter().any(|layout| layout.primary_key.is_empty());
            return match states.last() {
                Some(last) if !is_rowid => Err(no_column(column, table, last)),
                _ => Ok(vec![Some(column.to_owned()); states.len()]),
            };
        };
        let mut names = vec![None; states.len()];
        names[known] = Some(name);
        for nth in known + 1..states.len() {
            names[nth] = names[nth - 1].as_ref().and_then(|name| called(name, states[nth - 1], states[nth]));
        }
        for nth in (0..known).rev() {
            names[nth] =
                names[nth + 1].as_ref().and_then(|name| was_called(name, states[nth], states[nth + 1]));
        }
        Ok(names.into_iter().map(|name| name.map(|name| litekeep_sql::quoted(&name))).collect())
    }

    /// `column`: as SQL has it. Without it there is no such row.
    fn condition(&self, column: Option<&str>) -> String {
        let Some(column) = column else { return "0".to_owned() };
        let value = self.value;
        if is_literal(value) {
            return format!("{column} = {value}");
        }
        let text = statements::literal(&Value::Text(value.as_bytes().to_vec()));
        // A column without a type, and the rowid, make no number of text.
        let integer = value.parse::<i64>().ok().filter(|number| number.to_string() == value);
        let real = || {
            value.parse::<f64>().ok().filter(|_| value.starts_with(|c: char| c == '-' || c.is_ascii_digit()))
        };
        match integer.map(Value::Integer).or_else(|| real().map(Value::Real)) {
            Some(number) => format!("({column} = {} OR {column} = {text})", statements::literal(&number)),
            None => format!("{column} = {text}"),
        }
    }
}

/// The column that a value without one is of.
fn only(layout: &TableLayout) -> Option<String> {
    match &primary_key(layout)[..] {
        [] => Some("rowid".to_owned()),
        [only] => Some(litekeep_sql::quoted(only)),
        _ => None,
    }
}

fn no_column(column: &str, table: &str, layout: &TableLayout) -> Failure {
    let names: Vec<_> = layout.columns.iter().map(|column| column.name.as_str()).collect();
    Failure::invalid(format!("no such column: `{table}` has no `{column}`"))
        .hint(format!("its columns are {}", names.join(", ")))
}

fn primary_key(layout: &TableLayout) -> Vec<&str> {
    layout.primary_key.iter().map(|nth| layout.columns[*nth].name.as_str()).collect()
}

/// A column, as the table spells it.
fn named(layout: &TableLayout, column: &str) -> Option<String> {
    let mut names = layout.columns.iter().map(|column| &column.name);
    names.find(|name| name.eq_ignore_ascii_case(column)).cloned()
}

/// What a column is called in the state of the table that follows.
fn called(column: &str, before: &TableLayout, after: &TableLayout) -> Option<String> {
    other_name(column, &renamed_columns(before, after), after)
}

/// And in the one before.
fn was_called(column: &str, before: &TableLayout, after: &TableLayout) -> Option<String> {
    let renamed = renamed_columns(before, after).into_iter().map(|(old, new)| (new, old));
    other_name(column, &renamed.collect::<Vec<_>>(), before)
}

fn other_name(column: &str, renamed: &[(String, String)], layout: &TableLayout) -> Option<String> {
    let known = renamed.iter().find(|(from, _)| from == column).map(|(_, to)| to.clone());
    let is_another = renamed.iter().any(|(_, to)| to == column);
    known.or_else(|| named(layout, column).filter(|_| !is_another))
}
