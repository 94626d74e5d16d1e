//! Conditions, begun for the tables that they are on.
//!
//! To begin one takes SQLite longer than most transactions take, so it is done when a table is met first, and again when the
//! table was altered or the condition is another one.

use crate::{Error, Kind};
use litekeep_format::Table;
use litekeep_sql::{Declaration, DeclaredColumn, Generated, RowFilter, TableReader};

/// Each is a connection of SQLite.
const MOST: usize = 64;

#[derive(Debug, Default)]
pub(crate) struct Filters(Vec<Begun>);

#[derive(Debug)]
struct Begun {
    condition: String,
    /// It knows a row by its values alone.
    of_values: bool,
    table: String,
    /// The statement that has made the table.
    sql: String,
    filter: RowFilter,
}

impl Filters {
    /// Lets all go when there are many. What was begun before cannot be got any more then.
    pub(crate) fn make_room(&mut self) {
        if self.0.len() >= MOST {
            self.0.clear();
        }
    }

    /// The place of a condition on a table.
    ///
    /// # Errors
    /// `Invalid` when it is none on this table.
    pub(crate) fn begun(
        &mut self,
        condition: &str,
        table: &Table,
        layouts: &TableReader,
    ) -> Result<usize, Error> {
        self.place(condition, table, false, || {
            let collations = layouts.collations(&table.name, &table.sql)?;
            let mut filter = RowFilter::new(condition)?;
            filter.begin_collated(&table.name, &table.layout, &collations)?;
            Ok(filter)
        })
    }

    /// The same, of a condition that knows a row by its values alone, and compares text by its bytes.
    ///
    /// # Errors
    /// As [`begun`](Self::begun).
    pub(crate) fn begun_of_values(&mut self, condition: &str, table: &Table) -> Result<usize, Error> {
        self.place(condition, table, true, || {
            let mut filter = RowFilter::of_values(condition)?;
            filter.begin(&table.name, &table.layout)?;
            Ok(filter)
        })
    }

    fn place(
        &mut self,
        condition: &str,
        table: &Table,
        of_values: bool,
        begin: impl FnOnce() -> Result<RowFilter, litekeep_sql::Error>,
    ) -> Result<usize, Error> {
        let known = self.0.iter().position(|own| own.of_values == of_values && own.table == table.name);
        let is_same = |nth: &usize| self.0[*nth].condition == condition && self.0[*nth].sql == table.sql;
        if let Some(nth) = known.filter(is_same) {
            return Ok(nth);
        }
        let filter = begin().map_err(|error| why_not(error, table))?;
        let (condition, table, sql) = (condition.to_owned(), table.name.clone(), table.sql.clone());
        let begun = Begun { condition, of_values, table, sql, filter };
        match known {
            Some(nth) => self.0[nth] = begun,
            None => self.0.push(begun),
        }
        Ok(known.unwrap_or(self.0.len() - 1))
    }

    pub(crate) fn get(&self, place: usize) -> &RowFilter {
        &self.0[place].filter
    }
}

/// What is wrong with a condition: a column that it names may be none that is stored, or none at this place of the log.
fn why_not(error: litekeep_sql::Error, table: &Table) -> Error {
    let text = error.to_string();
    let named = |column: &DeclaredColumn| {
        let unknown = format!("no such column: {}", column.name);
        let rest = text.find(&unknown).map(|at| &text[at + unknown.len()..]);
        rest.is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_'))
    };
    let columns = Declaration::read(&table.name, &table.sql).map_or(vec![], |declared| declared.columns);
    if let Some(column) = columns.iter().find(|c| c.generated == Some(Generated::Virtual) && named(c)) {
        return Error::with_hint(
            Kind::Invalid,
            format!("the column `{}` of `{}` is computed and not stored", column.name, table.name),
            "name the columns that it is computed from",
        );
    }
    if !text.contains("no such column") {
        return error.into();
    }
    let names: Vec<_> = table.layout.columns.iter().map(|column| column.name.as_str()).collect();
    let hint = format!(
        "the columns of `{name}` are {} then; what it was called when shows `litekeep history --table {name}`",
        names.join(", "),
        name = table.name
    );
    Error::with_hint(Kind::Invalid, text, hint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use litekeep_format::{TextEncoding, Value};
    use litekeep_ltx::Pgno;

    fn table(layouts: &TableReader, sql: &str) -> Table {
        let layout = layouts.read("t", sql, true).unwrap();
        let (name, sql, encoding) = ("t".to_owned(), sql.to_owned(), TextEncoding::Utf8);
        Table { name, sql, root: Pgno::new(2).unwrap(), layout, encoding }
    }

    #[test]
    fn a_condition_is_begun_once_and_again_for_a_table_that_was_altered() {
        let layouts = TableReader::new().unwrap();
        let (before, after) = (table(&layouts, "CREATE TABLE t(a)"), table(&layouts, "CREATE TABLE t(b, a)"));
        let mut filters = Filters::default();
        let row = [Value::Integer(1), Value::Integer(2)];
        let place = filters.begun("a = 1", &before, &layouts).unwrap();
        assert!(filters.get(place).matches(1, &row[..1]).unwrap());
        let again = filters.place("a = 1", &before, false, || panic!("it was begun before"));
        assert_eq!(again.unwrap(), place);
        let altered = filters.begun("a = 2", &after, &layouts).unwrap();
        assert!(filters.get(altered).matches(1, &row).unwrap());
        let of_values = filters.begun_of_values("a = 1", &after).unwrap();
        assert!(of_values != altered && !filters.get(of_values).matches(1, &row).unwrap());
    }
}
