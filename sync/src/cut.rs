//! Which columns, and which rows, of the tables go to a target.

use std::collections::BTreeMap;

use litekeep_sql::{Declaration, NoSuchCut, RowFilter, TableReader};

use crate::{Error, Kind, Value};

/// What of the tables is there for a target; the rest is as if it were not there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cut {
    /// Of these tables only these columns.
    pub columns: BTreeMap<String, Vec<String>>,
    /// Of these tables only the rows that fulfil this condition of SQL on their values.
    pub rows: BTreeMap<String, String>,
}

fn of<'a, T>(all: &'a BTreeMap<String, T>, table: &str) -> Option<&'a T> {
    all.iter().find(|(name, _)| name.eq_ignore_ascii_case(table)).map(|(_, of)| of)
}

impl Cut {
    /// The columns of a table that go; `None`: all.
    pub(crate) fn columns_of(&self, table: &str) -> Option<&[String]> {
        of(&self.columns, table).map(Vec::as_slice)
    }

    /// A table with the columns that go.
    ///
    /// # Errors
    /// `Invalid` when one is not there, or one of the key is left out.
    pub(crate) fn declared(&self, table: Declaration) -> Result<Declaration, Error> {
        let Some(columns) = self.columns_of(&table.name) else { return Ok(table) };
        let name = table.name.clone();
        table.only(columns).map_err(|mistake| {
            let (message, hint) = match mistake {
                NoSuchCut::Unknown(column) => (
                    format!("`columns`: the table `{name}` has no column `{column}`"),
                    "name a column that it has, or take `columns` of it out".to_owned(),
                ),
                NoSuchCut::Computed(column) => (
                    format!("`columns`: `{column}` of `{name}` is computed when it is read, and does not go"),
                    "take it out".to_owned(),
                ),
                NoSuchCut::OfKey(column) => (
                    format!(
                        "`columns`: `{column}` is of the primary key of `{name}`, by which its rows are known"
                    ),
                    format!("add \"{column}\" to the columns"),
                ),
            };
            Error::with_hint(Kind::Invalid, message, hint)
        })
    }

    /// Which rows of a table, with all of its columns, go; `None`: all.
    ///
    /// # Errors
    /// `Invalid` when the condition is none.
    pub(crate) fn rows_of(&self, table: &Declaration) -> Result<Option<Rows>, Error> {
        let Some(condition) = of(&self.rows, &table.name) else { return Ok(None) };
        let layout = TableReader::new()?.read(&table.name, &table.sql, true)?;
        let mut filter = RowFilter::of_values(condition)?;
        filter.begin(&table.name, &layout).map_err(|error| {
            let message = format!("`where`: the condition on `{}` is none: {error}", table.name);
            Error::with_hint(
                Kind::Invalid,
                message,
                "it is SQL on the columns of the table, as behind WHERE: \"total > 0\"",
            )
        })?;
        let place = |name: &String| table.columns.iter().position(|column| column.name == *name);
        let columns: Option<Vec<usize>> = layout.columns.iter().map(|column| place(&column.name)).collect();
        let lacks = || Error::new(Kind::Internal, format!("read the columns of `{}`", table.name));
        Ok(Some(Rows { filter, columns: columns.ok_or_else(lacks)? }))
    }

    /// That each of the tables that are named is there.
    ///
    /// # Errors
    /// `Invalid` for one that is not.
    pub(crate) fn check<'a>(&self, tables: impl Iterator<Item = &'a str> + Clone) -> Result<(), Error> {
        let named = self.columns.keys().map(|table| ("columns", table));
        for (key, table) in named.chain(self.rows.keys().map(|table| ("where", table))) {
            if !tables.clone().any(|there| there.eq_ignore_ascii_case(table)) {
                let names: Vec<String> = tables.map(|table| format!("`{table}`")).collect();
                let message = format!("`{key}`: there is no table `{table}` in the sync");
                let hint = format!("the tables are {}", names.join(", "));
                return Err(Error::with_hint(Kind::Invalid, message, hint));
            }
        }
        Ok(())
    }
}

/// Which rows of a table go.
pub(crate) struct Rows {
    filter: RowFilter,
    /// The columns that the condition sees, by their places in the declaration.
    pub(crate) columns: Vec<usize>,
}

impl Rows {
    /// Whether a row goes. `values`: of [`columns`](Self::columns).
    ///
    /// # Errors
    /// What SQLite says to the condition.
    pub(crate) fn has(&self, values: &[Value]) -> Result<bool, Error> {
        Ok(self.filter.matches(0, values)?)
    }
}
