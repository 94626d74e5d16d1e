//! Whether rows refer to rows that are not there, looked at one by one.
//!
//! Promise: of a row that `PRAGMA foreign_key_check` names it is never said that all is well. Where saying so would take all rows of a
//! table, nothing is said.

use litekeep_format::Value;
use rusqlite::Connection;

use super::{RowEditor, condition};
use crate::parameter::Parameter;
use crate::table_reader::affinity;
use crate::{Error, quoted};

/// A foreign key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// Which one of its table.
    pub(super) id: i64,
    /// The table that has it.
    pub child: String,
    /// Its columns there.
    pub columns: Vec<String>,
    /// The table that it refers to, which need not be there.
    pub parent: String,
    /// The columns there; none when that table or one of them is not there.
    pub parent_columns: Vec<String>,
    /// Who refers to a row is found by an index, and is equal just when the numbers are.
    is_by_number: bool,
}

const READ: &str = "read the foreign keys";
const CHECK: &str = "check a foreign key";

impl RowEditor {
    /// The foreign keys of a table, and those of others that refer to it.
    ///
    /// # Errors
    /// When the schema cannot be read.
    pub fn references(&self, table: &str) -> Result<Vec<Reference>, Error> {
        let mut found = read(&self.connection, table).map_err(|e| Error::new(READ, e))?;
        for reference in &mut found {
            reference.is_by_number = self.is_by_number(reference)?;
        }
        Ok(found)
    }

    fn is_by_number(&self, reference: &Reference) -> Result<bool, Error> {
        let ([column], [parent_column]) = (&reference.columns[..], &reference.parent_columns[..]) else {
            return Ok(false);
        };
        let Some((parent, _)) = self.table(&reference.parent)? else { return Ok(false) };
        let alias = parent.rowid_alias.map(|nth| &parent.columns[nth].name);
        if !alias.is_some_and(|alias| alias.eq_ignore_ascii_case(parent_column)) {
            return Ok(false);
        }
        let Some((child, _)) = self.table(&reference.child)? else { return Ok(false) };
        let is_number = |declared: &str| {
            // In a STRICT table it is no number.
            !declared.eq_ignore_ascii_case("ANY")
                && matches!(affinity(declared, false), "INTEGER" | "NUMERIC")
        };
        let declared = child.columns.iter().find(|other| other.name.eq_ignore_ascii_case(column));
        if !declared.is_some_and(|column| is_number(&column.declared)) {
            return Ok(false);
        }
        let is_indexed = || -> rusqlite::Result<bool> {
            let mut select = self.connection.prepare_cached(
                "SELECT 1 FROM pragma_index_list(?1) AS l JOIN pragma_index_info(l.name) AS i \
                 WHERE NOT l.partial AND i.seqno=0 AND i.name=?2 COLLATE NOCASE",
            )?;
            select.exists([&reference.child, column])
        };
        is_indexed().map_err(|e| Error::new(READ, e))
    }

    /// Whether the row of the child with this key refers to one that is not there. `None`: there is no such row, or it takes
    /// more to know.
    ///
    /// # Errors
    /// What SQLite refuses.
    pub fn dangles(&self, reference: &Reference, key: &[(&str, &Value)]) -> Result<Option<bool>, Error> {
        if reference.parent_columns.is_empty() {
            return Ok(None);
        }
        // A plus takes a column's type away: the parent's decides, and its collation.
        let is_equal = reference.parent_columns.iter().zip(&reference.columns);
        let is_equal = is_equal.map(|(parent, child)| format!("p.{}=+c.{}", quoted(parent), quoted(child)));
        let is_equal = is_equal.collect::<Vec<_>>().join(" AND ");
        let is_set = reference.columns.iter().map(|child| format!("c.{} IS NOT NULL", quoted(child)));
        let is_set = is_set.collect::<Vec<_>>().join(" AND ");
        let sql = format!(
            "SELECT count(*), sum({is_set} AND NOT EXISTS(SELECT 1 FROM {} AS p WHERE {is_equal})) FROM {} AS c WHERE {}",
            quoted(&reference.parent),
            quoted(&reference.child),
            condition(key, 1)
        );
        let ask = || -> rusqlite::Result<(i64, Option<i64>)> {
            let parameters = rusqlite::params_from_iter(key.iter().map(|(_, value)| Parameter(value)));
            let mut select = self.connection.prepare_cached(&sql)?;
            select.query_row(parameters, |row| Ok((row.get(0)?, row.get(1)?)))
        };
        let (rows, dangling) = ask().map_err(|e| Error::new(CHECK, e))?;
        Ok((rows > 0).then_some(dangling.unwrap_or(0) > 0))
    }

    /// Whether rows of the child refer to a row of the parent that has this value. `None`: it takes more to know.
    ///
    /// # Errors
    /// What SQLite refuses.
    pub fn is_referred_to(&self, reference: &Reference, value: &Value) -> Result<Option<bool>, Error> {
        let ([column], Value::Integer(number)) = (&reference.columns[..], value) else { return Ok(None) };
        if !reference.is_by_number {
            return Ok(None);
        }
        let sql = format!("SELECT 1 FROM {} WHERE {}=?1", quoted(&reference.child), quoted(column));
        let ask = || self.connection.prepare_cached(&sql)?.exists([number]);
        ask().map(Some).map_err(|e| Error::new(CHECK, e))
    }
}

/// The foreign keys of a table, and those of others that refer to it; whether numbers tell more of them is not known yet.
pub(super) fn read(db: &Connection, table: &str) -> rusqlite::Result<Vec<Reference>> {
    let mut select = db.prepare_cached(
        "SELECT s.name, f.id, f.seq, f.\"table\", f.\"from\", f.\"to\" FROM sqlite_schema AS s \
         JOIN pragma_foreign_key_list(s.name) AS f \
         WHERE s.type='table' AND (s.name=?1 COLLATE NOCASE OR f.\"table\"=?1 COLLATE NOCASE) \
         ORDER BY s.name, f.id, f.seq",
    )?;
    let mut rows = select.query([table])?;
    let mut found: Vec<Reference> = vec![];
    while let Some(row) = rows.next()? {
        if row.get::<_, i64>(2)? == 0 {
            found.push(Reference {
                id: row.get(1)?,
                child: row.get(0)?,
                columns: vec![],
                parent: row.get(3)?,
                parent_columns: vec![],
                is_by_number: false,
            });
        }
        let reference = found.last_mut().expect("its first column comes first");
        reference.columns.push(row.get(4)?);
        reference.parent_columns.extend(row.get::<_, Option<String>>(5)?);
    }
    found.iter_mut().try_for_each(|reference| complete(db, reference))?;
    Ok(found)
}

/// Finds the columns of the parent.
fn complete(db: &Connection, reference: &mut Reference) -> rusqlite::Result<()> {
    let mut select = db.prepare_cached("SELECT name, pk FROM pragma_table_xinfo(?1) ORDER BY pk")?;
    let columns = select.query_map([&reference.parent], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let columns: Vec<(String, i64)> = columns.collect::<Result<_, _>>()?;
    let named = &mut reference.parent_columns;
    if named.is_empty() {
        named.extend(columns.iter().filter(|(_, place)| *place > 0).map(|(name, _)| name.clone()));
    }
    let is_there = |name: &String| columns.iter().any(|(column, _)| column.eq_ignore_ascii_case(name));
    if named.len() != reference.columns.len() || !named.iter().all(is_there) {
        named.clear();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row_editor::tests::editor;

    const VALUES: &str = "(NULL), (1), (2), (1.0), (2.5), ('1'), ('01'), ('a'), ('A'), ('a '), ('b'), (x'31'), (9007199254740993), (' 2')";

    /// Every type and collation on both sides.
    #[test]
    fn a_row_alone_is_told_as_the_check_of_its_table_tells_it() {
        let types =
            ["INTEGER", "TEXT", "BLOB", "REAL", "NUMERIC", "TEXT COLLATE NOCASE", "COLLATE RTRIM", ""];
        let (mut dangling, mut fine) = (0, 0);
        for parent in types {
            for child in types {
                let (_dir, editor) = editor(&format!(
                    "PRAGMA foreign_keys=OFF; PRAGMA synchronous=OFF; CREATE TABLE p(id INTEGER PRIMARY KEY, k {parent} UNIQUE);
                     CREATE TABLE c(id INTEGER PRIMARY KEY, k {child} REFERENCES p(k));
                     WITH v(k) AS (VALUES {VALUES}) INSERT INTO c(k) SELECT k FROM v;
                     INSERT OR IGNORE INTO p(k) VALUES (1), ('a'), (x'31'), (9007199254740992), (2.5)"
                ));
                let found = editor.dangling("c").unwrap();
                let references = editor.references("p").unwrap();
                assert_eq!(references, editor.references("C").unwrap());
                let [reference] = &references[..] else { panic!("{references:?}") };
                for id in 1..=14 {
                    let is_told = found.contains_key(&("c".to_owned(), Some(id), "p".to_owned(), 0));
                    let alone = editor.dangles(reference, &[("id", &Value::Integer(id))]).unwrap();
                    // The integer that no real is comes to be one before the check compares it.
                    if !(parent == "REAL" && id == 13) {
                        assert_eq!(alone, Some(is_told), "{child} refers to {parent}, row {id}");
                    }
                    dangling += u32::from(is_told);
                    fine += u32::from(!is_told);
                }
                assert_eq!(editor.dangles(reference, &[("id", &Value::Integer(99))]).unwrap(), None);
            }
        }
        assert!(dangling > 100 && fine > 100, "{dangling} {fine}");
    }

    #[test]
    fn who_refers_to_a_number_is_found_by_an_index() {
        let number = Value::Integer(5);
        for (child, index, expected) in [
            ("k INTEGER REFERENCES p", "", None),
            ("k INTEGER REFERENCES p", "CREATE INDEX i ON c(k)", Some(true)),
            ("k INTEGER REFERENCES p", "CREATE INDEX i ON c(id, k)", None),
            ("k INTEGER REFERENCES p", "CREATE INDEX i ON c(k) WHERE id > 7", None),
            ("k DECIMAL(10) UNIQUE REFERENCES P(ID)", "", Some(true)),
            // '05' is the same number for a check, and another text.
            ("k TEXT UNIQUE REFERENCES p", "", None),
            ("k UNIQUE REFERENCES p", "", None),
            ("k INTEGER UNIQUE REFERENCES p(name)", "", None),
            ("k INTEGER, l INTEGER UNIQUE, FOREIGN KEY(l, k) REFERENCES p(id, name)", "", None),
        ] {
            let (_dir, editor) = editor(&format!(
                "PRAGMA foreign_keys=OFF; CREATE TABLE p(id INTEGER PRIMARY KEY, name UNIQUE, UNIQUE(id, name));
                 CREATE TABLE c(id INTEGER PRIMARY KEY, {child}); {index}; INSERT INTO c(k) VALUES('5')"
            ));
            let references = editor.references("p").unwrap();
            assert_eq!(editor.is_referred_to(&references[0], &number).unwrap(), expected, "{child} {index}");
            let other = editor.is_referred_to(&references[0], &Value::Integer(6)).unwrap();
            assert_eq!(other, expected.map(|_| false), "{child} {index}");
        }
    }

    #[test]
    fn of_a_parent_that_is_not_there_nothing_is_said() {
        for parent in ["nowhere", "p(absent)", "p"] {
            let (_dir, editor) = editor(&format!(
                "PRAGMA foreign_keys=OFF; CREATE TABLE p(a); CREATE TABLE c(id INTEGER PRIMARY KEY, k REFERENCES {parent}); INSERT INTO c VALUES(1, 1)"
            ));
            let references = editor.references("c").unwrap();
            assert!(references.len() == 1 && references[0].parent_columns.is_empty(), "{references:?}");
            assert_eq!(editor.dangles(&references[0], &[("id", &Value::Integer(1))]).unwrap(), None);
        }
    }
}
