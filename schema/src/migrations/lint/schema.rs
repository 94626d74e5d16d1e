//! Tables, columns and indexes, as they are compared; and what is asked of the rows of a real database.

use crate::Error;
use litekeep_sql::{MigrationTransaction as Transaction, Migrator, Value, quoted};
use std::collections::BTreeMap;
use std::fmt;

/// From how many rows on a table counts as large.
pub(super) const MANY: u64 = 100_000;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Column {
    pub(super) not_null: bool,
    pub(super) has_default: bool,
}

/// Columns that must be unique together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unique {
    table: String,
    /// `None`: an expression.
    columns: Vec<Option<String>>,
    is_partial: bool,
}

impl Unique {
    /// Whether it holds of plain columns of all rows.
    pub(super) fn is_whole(&self) -> bool {
        !self.is_partial && self.columns.iter().all(Option::is_some)
    }
}

impl fmt::Display for Unique {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns: Vec<_> = self.columns.iter().map(|column| column.as_deref().unwrap_or("…")).collect();
        f.write_str(&columns.join(", "))
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Schema {
    pub(super) tables: BTreeMap<String, BTreeMap<String, Column>>,
    uniques: Vec<Unique>,
    /// Indexes that a statement made, and their tables.
    pub(super) indexes: BTreeMap<String, String>,
    /// Triggers and their tables.
    triggers: BTreeMap<String, String>,
}

impl Schema {
    pub(super) fn of(tx: &Transaction<'_>) -> Result<Schema, Error> {
        let mut schema = Schema::default();
        let text = |value: &Value| if let Value::Text(text) = value { text.clone() } else { String::new() };
        let is = |value: &Value| matches!(value, Value::Integer(n) if *n != 0);
        let columns = "SELECT t.name, c.name, c.\"notnull\", c.dflt_value IS NOT NULL FROM pragma_table_list t, pragma_table_xinfo(t.name) c \
                       WHERE t.schema = 'main' AND t.type = 'table' AND t.name NOT LIKE 'sqlite\\_%' ESCAPE '\\'";
        for row in tx.rows(columns, &[])? {
            let column = Column { not_null: is(&row[2]), has_default: is(&row[3]) };
            schema.tables.entry(text(&row[0])).or_default().insert(text(&row[1]), column);
        }
        for row in tx.rows("SELECT type, name, tbl_name FROM sqlite_schema WHERE sql IS NOT NULL", &[])? {
            let place = match text(&row[0]).as_str() {
                "index" => &mut schema.indexes,
                "trigger" => &mut schema.triggers,
                _ => continue,
            };
            place.insert(text(&row[1]), text(&row[2]));
        }
        for table in schema.tables.keys() {
            let list = "SELECT name, partial FROM pragma_index_list(?1) WHERE \"unique\" AND origin <> 'pk'";
            for index in tx.rows(list, &[table.as_str().into()])? {
                let parts = tx.rows("SELECT name FROM pragma_index_info(?1)", &[index[0].clone()])?;
                let name = |value| if let Value::Text(name) = value { Some(name) } else { None };
                let columns = parts.into_iter().flatten().map(name).collect();
                schema.uniques.push(Unique { table: table.clone(), columns, is_partial: is(&index[1]) });
            }
        }
        Ok(schema)
    }

    /// A table as it is really called.
    pub(super) fn table(&self, name: &str) -> Option<&str> {
        self.tables.keys().find(|table| table.eq_ignore_ascii_case(name)).map(String::as_str)
    }

    pub(super) fn uniques<'a>(&'a self, table: &'a str) -> impl Iterator<Item = &'a Unique> {
        self.uniques.iter().filter(move |unique| unique.table == table)
    }

    /// Everything that can come and go: a table, its columns, its demands, its indexes and triggers.
    pub(super) fn places(&self) -> impl Iterator<Item = (String, String)> {
        let tables = self.tables.keys().map(|table| (table.clone(), String::new()));
        let columns = self
            .tables
            .iter()
            .flat_map(|(table, columns)| columns.keys().map(move |column| (table.clone(), column.clone())));
        let uniques = self.uniques.iter().map(|unique| (unique.table.clone(), format!("unique {unique}")));
        let others =
            self.indexes.iter().chain(&self.triggers).map(|(name, table)| (table.clone(), name.clone()));
        tables.chain(columns).chain(uniques).chain(others)
    }

    pub(super) fn has(&self, place: &(String, String)) -> bool {
        self.places().any(|own| own == *place)
    }
}

/// How many rows of a table fulfil a condition; `None` where nobody can be asked, or the table is not there yet.
pub(super) fn count(data: Option<&Migrator>, table: &str, condition: &str) -> Result<Option<i64>, Error> {
    asked(data, table, &format!("SELECT count(*) FROM {} {condition}", quoted(table)))
}

/// How many values are there more than once; rows with a NULL are all different.
pub(super) fn duplicates(
    data: Option<&Migrator>,
    table: &str,
    unique: &Unique,
) -> Result<Option<i64>, Error> {
    let columns: Vec<_> = unique.columns.iter().flatten().map(|column| quoted(column)).collect();
    let are_there: Vec<_> = columns.iter().map(|column| format!("{column} IS NOT NULL")).collect();
    let groups = format!(
        "SELECT count(*) FROM (SELECT 1 FROM {} WHERE {} GROUP BY {} HAVING count(*) > 1)",
        quoted(table),
        are_there.join(" AND "),
        columns.join(", ")
    );
    asked(data, table, &groups)
}

/// Whether a table has more than [`MANY`] rows.
pub(super) fn rows_are_many(data: &Migrator, table: &str) -> Result<bool, Error> {
    let some = format!("SELECT count(*) > {MANY} FROM (SELECT 1 FROM {} LIMIT {MANY} + 1)", quoted(table));
    Ok(asked(Some(data), table, &some)? == Some(1))
}

fn asked(data: Option<&Migrator>, table: &str, sql: &str) -> Result<Option<i64>, Error> {
    let Some(data) = data else { return Ok(None) };
    let is_there =
        data.rows("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?1", &[table.into()])?;
    if is_there.is_empty() {
        return Ok(None);
    }
    // A column that an earlier file adds is not there yet.
    Ok(data.rows(sql, &[]).ok().and_then(|rows| rows.first()?.first()?.as_integer()))
}
