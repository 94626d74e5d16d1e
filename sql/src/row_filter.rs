//! Conditions on rows that are in no database.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use litekeep_format::{TableLayout, Value};
use rusqlite::Connection;
use rusqlite::config::DbConfig;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::limits::Limit;

use crate::parameter::Parameter;
use crate::table_reader::affinity;
use crate::{Error, quoted};

/// A condition in SQL on the rows of one table, as in a WHERE clause.
///
/// Columns have their types; text is compared by its bytes unless the condition says COLLATE, or their collations are told.
#[derive(Debug)]
pub struct RowFilter {
    connection: Connection,
    condition: String,
    insert: String,
    select: String,
    /// The table in which a row is while it is looked at, and its columns.
    table: String,
    columns: Vec<String>,
    takes_rowid: bool,
    hides_rowid: bool,
}

impl RowFilter {
    /// A condition, which is not looked at before it meets a table.
    ///
    /// # Errors
    /// When SQLite has no memory.
    pub fn new(condition: &str) -> Result<RowFilter, Error> {
        let open = || {
            let connection = Connection::open_in_memory()?;
            connection.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0)?;
            // A mistyped column in quotes is no text.
            connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DML, false)?;
            Ok(connection)
        };
        let connection = open().map_err(failed)?;
        let condition = condition.to_owned();
        Ok(RowFilter {
            connection,
            condition,
            insert: String::new(),
            select: String::new(),
            table: String::new(),
            columns: vec![],
            takes_rowid: false,
            hides_rowid: false,
        })
    }

    /// The same, which knows a row by its values alone: the rowid is no column.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn of_values(condition: &str) -> Result<RowFilter, Error> {
        Ok(RowFilter { hides_rowid: true, ..RowFilter::new(condition)? })
    }

    /// From here on rows are of this table, and text is compared by its bytes.
    ///
    /// # Errors
    /// `Refused` when the condition is no SQL or names columns that the table does not have.
    pub fn begin(&mut self, table: &str, layout: &TableLayout) -> Result<(), Error> {
        self.begin_collated(table, layout, &BTreeMap::new())
    }

    /// From here on rows are of this table. `collations`: of the columns whose text is not compared by its bytes.
    ///
    /// # Errors
    /// As [`begin`](Self::begin).
    pub fn begin_collated(
        &mut self,
        table: &str,
        layout: &TableLayout,
        collations: &BTreeMap<String, String>,
    ) -> Result<(), Error> {
        let columns = layout.columns.iter().enumerate();
        let columns = columns.map(|(nth, c)| {
            let key = if layout.rowid_alias == Some(nth) { " PRIMARY KEY" } else { "" };
            let collate = collations.get(&c.name).map_or(String::new(), |name| format!(" COLLATE {name}"));
            format!("{} {}{key}{collate}", quoted(&c.name), affinity(&c.declared, c.is_any))
        });
        let columns = columns.collect::<Vec<_>>().join(", ");
        let name = quoted(table);
        let names = layout.columns.iter().map(|c| quoted(&c.name));
        // What a column has that is not here is not taken for it.
        let is_rowid =
            |name: &String| ["rowid", "_rowid_", "oid"].iter().any(|n| name.eq_ignore_ascii_case(n));
        let hides_rowid = self.hides_rowid || layout.virtual_names.iter().any(is_rowid);
        let rowid = layout.rowid_name().filter(|_| !hides_rowid && layout.has_hidden_rowid());
        self.takes_rowid = rowid.is_some();
        let names: Vec<_> = rowid.map(str::to_owned).into_iter().chain(names).collect();
        let places = vec!["?"; names.len()].join(", ");
        self.insert = format!("INSERT INTO temp.{name}({}) VALUES({places})", names.join(", "));
        let rows = match hides_rowid {
            true => format!("(SELECT * FROM temp.{name}) AS {name}"),
            false => format!("temp.{name}"),
        };
        self.select = format!("SELECT 1 FROM {rows} WHERE ({}\n)", self.condition);
        let create = || {
            self.connection.execute(&format!("DROP TABLE IF EXISTS temp.{name}"), ())?;
            self.connection.execute(&format!("CREATE TEMP TABLE {name}({columns})"), ())?;
            self.connection.prepare_cached(&self.select).map(drop)
        };
        create().map_err(failed)?;
        self.table = format!("temp.{name}");
        self.columns = layout.columns.iter().map(|c| c.name.clone()).collect();
        Ok(())
    }

    /// The columns that the condition looks at, by their places in the table.
    ///
    /// # Errors
    /// What SQLite says to the condition.
    pub fn columns(&mut self) -> Result<Vec<usize>, Error> {
        let seen = Arc::new(Mutex::new(BTreeSet::new()));
        let noted = seen.clone();
        let note = move |context: AuthContext<'_>| {
            if let AuthAction::Read { column_name, .. } = context.action {
                noted.lock().unwrap_or_else(PoisonError::into_inner).insert(column_name.to_owned());
            }
            Authorization::Allow
        };
        // Of the table itself: a subselect of all columns looks at all of them.
        let select = format!("SELECT 1 FROM {} WHERE ({}\n)", self.table, self.condition);
        self.connection.authorizer(Some(note)).map_err(failed)?;
        let looked = self.connection.prepare(&select).map(drop);
        self.connection.authorizer(None::<fn(AuthContext<'_>) -> Authorization>).map_err(failed)?;
        looked.map_err(failed)?;
        let seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        let places = self.columns.iter().enumerate().filter(|(_, name)| seen.contains(*name));
        Ok(places.map(|(nth, _)| nth).collect())
    }

    /// Whether a row fulfils the condition. `values`: in the order of the table's columns.
    ///
    /// # Errors
    /// What SQLite says to the condition.
    pub fn matches(&self, rowid: i64, values: &[Value]) -> Result<bool, Error> {
        let rowid = Value::Integer(rowid);
        let ask = || {
            let all = Some(&rowid).filter(|_| self.takes_rowid).into_iter().chain(values);
            let parameters = rusqlite::params_from_iter(all.map(Parameter));
            self.connection.execute_batch("SAVEPOINT row")?;
            self.connection.prepare_cached(&self.insert)?.execute(parameters)?;
            let found = self.connection.prepare_cached(&self.select)?.exists(());
            self.connection.execute_batch("ROLLBACK TO row; RELEASE row")?;
            found
        };
        ask().map_err(failed)
    }
}

fn failed(e: rusqlite::Error) -> Error {
    match Error::new("look at the condition", e) {
        // The statement that is made of it is nobody's concern.
        Error::Refused { context, message } => {
            let end = message.find(" in SELECT 1 FROM ").unwrap_or(message.len());
            Error::Refused { context, message: message[..end].to_owned() }
        }
        error => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TableReader;

    fn filter(condition: &str) -> Result<RowFilter, Error> {
        let sql = "CREATE TABLE \"a b\"(id INTEGER PRIMARY KEY, name TEXT, n)";
        let layout = TableReader::new()?.read("a b", sql, true)?;
        let mut filter = RowFilter::new(condition)?;
        filter.begin("a b", &layout)?;
        Ok(filter)
    }

    #[test]
    fn rows_are_compared_by_their_types() {
        let row = |id, name: &str| [Value::Integer(id), Value::Text(name.into()), Value::Null];
        let first = filter("id > '5' AND name LIKE 'a%' OR n = 1 -- or so").unwrap();
        assert!(first.matches(6, &row(6, "Ann")).unwrap());
        assert!(!first.matches(5, &row(5, "Ann")).unwrap());
        assert!(!first.matches(7, &row(7, "Bob")).unwrap());
        let by_rowid = filter("rowid = 7").unwrap();
        assert!(
            by_rowid.matches(7, &row(7, "Bob")).unwrap() && !by_rowid.matches(1, &row(1, "Bob")).unwrap()
        );
        let layout = TableReader::new().unwrap().read("t", "CREATE TABLE t(a)", true).unwrap();
        let mut plain = RowFilter::new("rowid = 7").unwrap();
        plain.begin("t", &layout).unwrap();
        assert!(plain.matches(7, &[Value::Null]).unwrap() && !plain.matches(1, &[Value::Null]).unwrap());
    }

    #[test]
    fn text_is_compared_as_its_column_does() {
        let sql = "CREATE TABLE t(k TEXT COLLATE NOCASE, a)";
        let reader = TableReader::new().unwrap();
        let (layout, collations) =
            (reader.read("t", sql, true).unwrap(), reader.collations("t", sql).unwrap());
        let row = [Value::Text(b"Ann".to_vec()), Value::Text(b"Ann".to_vec())];
        for (condition, expected) in [("k = 'ann'", true), ("t.k = 'ANN'", true), ("a = 'ann'", false)] {
            let mut filter = RowFilter::new(condition).unwrap();
            filter.begin_collated("t", &layout, &collations).unwrap();
            assert_eq!(filter.matches(1, &row).unwrap(), expected, "{condition}");
        }
    }

    #[test]
    fn what_knows_a_row_by_its_values_knows_no_rowid() {
        let layout = TableReader::new().unwrap().read("t", "CREATE TABLE t(a TEXT)", true).unwrap();
        let mut by_values = RowFilter::of_values("t.a = 5").unwrap();
        by_values.begin("t", &layout).unwrap();
        assert!(by_values.matches(0, &[Value::Text(b"5".to_vec())]).unwrap(), "columns keep their types");
        for name in ["rowid", "_rowid_", "oid", "t.rowid"] {
            let mut by_rowid = RowFilter::of_values(&format!("{name} = 1")).unwrap();
            assert!(by_rowid.begin("t", &layout).is_err(), "{name}");
        }
    }

    #[test]
    fn the_columns_that_it_looks_at_are_known() {
        for (condition, columns) in [
            ("1", &[][..]),
            ("id = 1", &[0]),
            ("\"a b\".NAME LIKE 'x%' AND n IS NOT NULL", &[1, 2]),
            ("n OR 1", &[2]),
            ("(SELECT max(name) FROM \"a b\") > 'n' -- id", &[1]),
            ("CASE WHEN 1 THEN id ELSE n END", &[0, 2]),
        ] {
            assert_eq!(filter(condition).unwrap().columns().unwrap(), columns, "{condition}");
        }
        let layout = TableReader::new().unwrap().read("t", "CREATE TABLE t(a TEXT, b)", true).unwrap();
        let mut by_values = RowFilter::of_values("b = 'x'").unwrap();
        by_values.begin("t", &layout).unwrap();
        assert_eq!(by_values.columns().unwrap(), [1]);
        let row = [Value::Null, Value::Text(b"x".to_vec())];
        assert!(by_values.matches(0, &row).unwrap(), "it goes on to look at rows");
    }

    #[test]
    fn a_condition_that_is_none_is_refused() {
        for condition in ["age > 5", "\"age\" > 5", "1; DROP TABLE x", "", "id = ", "1) OR (1"] {
            let refused = filter(condition).map(drop);
            assert!(refused.is_err() || condition == "1) OR (1", "{condition}");
            let told = refused.err().map(|error| error.to_string()).unwrap_or_default();
            assert!(!told.contains("SELECT"), "{told}");
        }
    }

    #[test]
    fn values_of_any_type_are_compared_as_they_are() {
        let matches = |sql: &str, condition: &str, value: Value| {
            let layout = TableReader::new().unwrap().read("t", sql, true).unwrap();
            let mut filter = RowFilter::new(condition).unwrap();
            filter.begin("t", &layout).unwrap();
            filter.matches(1, &[value]).unwrap()
        };
        let strict = "CREATE TABLE t(a ANY) STRICT";
        assert!(matches(strict, "a = '7'", Value::Text(b"7".to_vec())));
        for other in [Value::Text(b"07".to_vec()), Value::Integer(7), Value::Real(7.0)] {
            assert!(!matches(strict, "a = '7'", other.clone()), "{other:?}");
        }
        // Elsewhere it is a type like others.
        assert!(matches("CREATE TABLE t(a ANY)", "a = '7'", Value::Text(b"07".to_vec())));
    }

    #[test]
    fn a_column_that_is_not_here_is_not_taken_for_the_rowid() {
        let sql = "CREATE TABLE t(a, rowid AS (a * 2) VIRTUAL)";
        let layout = TableReader::new().unwrap().read("t", sql, true).unwrap();
        assert!(RowFilter::new("rowid = 4").unwrap().begin("t", &layout).is_err());
        RowFilter::new("a = 4").unwrap().begin("t", &layout).unwrap();
    }
}
