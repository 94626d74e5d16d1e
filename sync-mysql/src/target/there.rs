//! Tables that are there already, and their indexes.

use std::collections::{BTreeMap, BTreeSet};

use litekeep_schema::portable::mysql::Table;
use litekeep_sync::{Error, Kind};

use super::Mysql;
use crate::error;

impl Mysql {
    pub(super) async fn has_rows(&mut self, path: &str) -> Result<bool, Error> {
        let sql = format!("SELECT 1 FROM {path} LIMIT 1");
        Ok(!self.session()?.texts("look into a table", &sql).await?.is_empty())
    }

    /// Refuses a table that is there, unless it is empty and has what is needed.
    pub(super) async fn check(&mut self, table: &Table) -> Result<(), Error> {
        let path = table.path(&self.options);
        let create = self.create(table);
        let refused = |why: String| {
            let hint = format!("make it as it is expected, or let litekeep make it: {create}");
            Err(Error::with_hint(Kind::Invalid, format!("the table {path} is there and {why}"), hint))
        };
        let made = format!("SHOW CREATE TABLE {path}");
        let made = self.session()?.texts("read the definition of a table", &made).await?;
        let made = made.first().and_then(|row| row.get(1)?.clone()).unwrap_or_default();
        if !made.lines().any(|line| line.starts_with(") ENGINE=InnoDB")) {
            return refused("is not InnoDB's, whose transactions are needed".to_owned());
        }
        let found = self.columns(&path).await?;
        let collation = self.flavor().collation();
        for (nth, column) in table.columns.iter().enumerate() {
            let (name, wanted) = (&column.name, column.kind.sql());
            let Some(found) = found.iter().find(|found| found.name.eq_ignore_ascii_case(name)) else {
                return refused(format!("has no column `{name}`"));
            };
            if found.kind != wanted {
                return refused(format!("its column `{name}` is {}, not {wanted}", found.kind));
            }
            let is_compared = table.key.is_empty()
                || table.key.contains(&nth)
                || table
                    .indexes
                    .iter()
                    .any(|index| index.is_unique && index.parts.iter().any(|part| part.column == nth));
            let is_fine = match (&found.collation, is_compared) {
                (None, _) => true,
                (Some(is), true) => is == collation,
                (Some(is), false) => is.starts_with("utf8mb4"),
            };
            if !is_fine {
                let is = found.collation.as_deref().unwrap_or_default();
                return refused(format!(
                    "its column `{name}` has the collation {is}; {collation} tells apart what SQLite does"
                ));
            }
        }
        let is_ours = |name: &str| table.columns.iter().any(|column| column.name.eq_ignore_ascii_case(name));
        if let Some(other) = found.iter().find(|found| found.wants_a_value && !is_ours(&found.name)) {
            return refused(format!("its column `{}` wants a value, and none comes", other.name));
        }
        if !table.key.is_empty() && !self.has_key(table).await? {
            return refused("has no primary key, and no unique index, on the columns of the key".to_owned());
        }
        if self.has_rows(&path).await? {
            let hint = format!("if its rows can go: TRUNCATE {path};");
            let message = format!("the table {path} is there and has rows, which are not overwritten");
            return Err(Error::with_hint(Kind::Invalid, message, hint));
        }
        Ok(())
    }

    pub(super) async fn columns(&mut self, path: &str) -> Result<Vec<Found>, Error> {
        let sql = format!("SHOW FULL COLUMNS FROM {path}");
        let rows = self.session()?.texts("read the columns of a table", &sql).await?;
        Ok(rows.into_iter().filter_map(Found::of).collect())
    }

    /// Whether exactly the columns of its key are unique in a table that is there.
    async fn has_key(&mut self, table: &Table) -> Result<bool, Error> {
        let lower = |name: &str| name.to_lowercase();
        let mut unique: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for row in self.indexes(table).await? {
            if row.is_whole_and_unique {
                unique.entry(row.index).or_default().insert(lower(&row.column));
            } else {
                // Something that no column is called.
                unique.entry(row.index).or_default().insert(String::new());
            }
        }
        let wanted: BTreeSet<String> = table.key.iter().map(|nth| lower(&table.columns[*nth].name)).collect();
        Ok(unique.values().any(|columns| *columns == wanted))
    }

    async fn indexes(&mut self, table: &Table) -> Result<Vec<IndexRow>, Error> {
        let sql = format!("SHOW INDEX FROM {}", table.path(&self.options));
        let rows = self.session()?.texts("read the indexes of a table", &sql).await?;
        Ok(rows.into_iter().filter_map(IndexRow::of).collect())
    }

    /// Makes the indexes of a table that are not there; which failed, and why.
    pub(super) async fn make_indexes(&mut self, table: &Table) -> Result<Vec<String>, Error> {
        let mut failed = vec![];
        let there = self.indexes(table).await?;
        for index in &table.indexes {
            if there.iter().any(|row| row.index.eq_ignore_ascii_case(&index.name)) {
                continue;
            }
            let statement = table.create_index(index, &self.options);
            let session = self.session()?;
            match session.try_run(&statement).await {
                Ok(_) => {}
                Err(e) if error::is_for_later(&e) => return Err(session.failed("make an index", &e)),
                Err(e) => failed.push(format!("`{statement}` failed: {}", error::words(&e))),
            }
        }
        Ok(failed)
    }
}

/// A column of a table that is there.
pub(super) struct Found {
    pub(super) name: String,
    /// Without the width that integers are shown with.
    pub(super) kind: String,
    collation: Option<String>,
    wants_a_value: bool,
}

impl Found {
    /// Field, Type, Collation, Null, Key, Default, Extra.
    fn of(row: Vec<Option<String>>) -> Option<Found> {
        let [name, kind, collation, null, _, default, extra] =
            row.into_iter().take(7).collect::<Vec<_>>().try_into().ok()?;
        let kind: String = type_of(&kind?).to_owned();
        let extra = extra.unwrap_or_default().to_ascii_lowercase();
        let comes_by_itself = extra.contains("auto_increment") || extra.contains("generated");
        let wants_a_value = null.as_deref() == Some("NO") && default.is_none() && !comes_by_itself;
        Some(Found { name: name?, kind, collation, wants_a_value })
    }
}

/// A type as a server describes it, without the width that integers are shown with.
pub(crate) fn type_of(shown: &str) -> &str {
    match shown.strip_prefix("bigint(").and_then(|rest| rest.strip_suffix(')')) {
        Some(_) => "bigint",
        None => shown,
    }
}

/// A column of an index that is there.
struct IndexRow {
    index: String,
    column: String,
    is_whole_and_unique: bool,
}

impl IndexRow {
    /// Table, Non_unique, Key_name, Seq_in_index, Column_name, Collation, Cardinality, Sub_part.
    fn of(row: Vec<Option<String>>) -> Option<IndexRow> {
        let [_, non_unique, index, _, column, _, _, prefix] =
            row.into_iter().take(8).collect::<Vec<_>>().try_into().ok()?;
        let is_whole_and_unique = non_unique.as_deref() == Some("0") && prefix.is_none() && column.is_some();
        Some(IndexRow { index: index?, column: column.unwrap_or_default(), is_whole_and_unique })
    }
}
