//! What CREATE TABLE statements say, as SQLite itself understands them.

use litekeep_format::{Collation, Column, KeyPart, ReadLayout, TableLayout, Value};
use rusqlite::limits::Limit;
use rusqlite::{Connection, Row};

use std::collections::BTreeMap;

use crate::parameter::value;
use crate::{Error, quoted};

/// Reads statements of other databases in a database of its own, in memory.
///
/// A statement goes into the schema as it stands in a database file and is parsed as when that is opened: so functions and
/// collations of the application need not be there, and what old versions of SQLite accepted is still understood.
#[derive(Debug)]
pub struct TableReader {
    connection: Connection,
}

/// A column as `table_xinfo` lists it.
struct Listed {
    cid: i64,
    name: String,
    declared: String,
    default_text: Option<String>,
    /// Its place in the primary key, from 1; 0 when it has none.
    key_place: i64,
    hidden: i64,
}

const VIRTUAL: i64 = 2;
const STORED: i64 = 3;

impl TableReader {
    /// Makes the database.
    ///
    /// # Errors
    /// When SQLite has no memory.
    pub fn new() -> Result<TableReader, Error> {
        let connection = Connection::open_in_memory().map_err(failed)?;
        // Statements come from files that anybody may have written.
        connection.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0).map_err(failed)?;
        // Pages for the roots of a table and of an index of it.
        connection.execute_batch("CREATE TABLE t(a); CREATE TABLE i(a)").map_err(failed)?;
        Ok(TableReader { connection })
    }

    /// The layout of a table. The defaults are in UTF-8, those of real columns perhaps integers. `descending`: the
    /// database's schema format knows DESC.
    ///
    /// # Errors
    /// When SQLite does not understand the statement.
    pub fn read(&self, name: &str, sql: &str, descending: bool) -> Result<TableLayout, Error> {
        self.load(name, sql).and_then(|()| self.layout(name, descending)).map_err(|e| Error::Corrupt {
            context: "read the statement of a table",
            message: format!("{e}: {sql}"),
        })
    }

    /// The columns in whose values rows must differ, alone or together with other columns; not that of a rowid. `indexes`: names
    /// and statements of those that CREATE INDEX made. `None`: it may be any column, since an index has an expression, a
    /// virtual column, only some of the rows, or a statement that is not understood.
    ///
    /// # Errors
    /// When SQLite does not understand the statement of the table.
    pub fn unique_columns(
        &self,
        (name, sql): (&str, &str),
        indexes: &[(&str, &str)],
    ) -> Result<Option<Vec<String>>, Error> {
        let failed = |e: rusqlite::Error| Error::Corrupt {
            context: "read the statement of a table",
            message: format!("{e}: {sql}"),
        };
        let mut columns = vec![];
        // One by one: there is one page for them.
        for added in std::iter::once(&indexes[..0]).chain(indexes.chunks(1)) {
            self.load(name, sql).map_err(failed)?;
            if !added.is_empty() && self.load_indexes(name, added).is_err() {
                return Ok(None);
            }
            let Some(found) = self.unique_now(name).map_err(failed)? else { return Ok(None) };
            columns.extend(found);
        }
        Ok(Some(columns))
    }

    /// The unique columns of the table that was loaded, as [`unique_columns`](Self::unique_columns) has them.
    fn unique_now(&self, name: &str) -> rusqlite::Result<Option<Vec<String>>> {
        let parts: Vec<(bool, i64, Option<String>, Option<i64>)> = self.query(
            "SELECT l.partial, i.cid, i.name, c.hidden FROM pragma_index_list(?1, 'main') AS l \
             JOIN pragma_index_xinfo(l.name, 'main') AS i LEFT JOIN pragma_table_xinfo(?1, 'main') AS c ON c.cid = i.cid \
             WHERE l.\"unique\" AND i.key",
            name,
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)),
        )?;
        let of_rowid = |cid: i64| cid == -1;
        let parts = parts.into_iter().filter(|(is_partial, cid, ..)| *is_partial || !of_rowid(*cid));
        Ok(parts
            .map(|(is_partial, _, name, hidden)| name.filter(|_| !is_partial && hidden != Some(VIRTUAL)))
            .collect())
    }

    /// The columns of a table whose text is compared by NOCASE or RTRIM, with that.
    ///
    /// # Errors
    /// When SQLite does not understand the statement.
    pub fn collations(&self, name: &str, sql: &str) -> Result<BTreeMap<String, String>, Error> {
        if !sql.to_ascii_uppercase().contains("COLLATE") {
            return Ok(BTreeMap::new());
        }
        let ask = || -> rusqlite::Result<BTreeMap<String, String>> {
            self.load(name, sql)?;
            let columns: Vec<String> =
                self.query("SELECT name FROM pragma_table_xinfo(?1, 'main')", name, |row| row.get(0))?;
            let columns: Vec<_> = columns.iter().map(|column| quoted(column)).collect();
            // An index compares as its columns do.
            let index = format!("CREATE INDEX \"of all\" ON {}({})", quoted(name), columns.join(", "));
            self.load_indexes(name, &[("of all", &index)])?;
            self.connection
                .prepare("SELECT name, coll FROM pragma_index_xinfo('of all', 'main') WHERE key AND upper(coll) IN ('NOCASE', 'RTRIM')")?
                .query_map((), |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect()
        };
        ask().map_err(|e| Error::Corrupt {
            context: "read the statement of a table",
            message: format!("{e}: {sql}"),
        })
    }

    /// Adds indexes to the table that was loaded.
    fn load_indexes(&self, table: &str, indexes: &[(&str, &str)]) -> rusqlite::Result<()> {
        self.connection.pragma_update(None, "writable_schema", true)?;
        for (name, sql) in indexes {
            self.connection
                .execute("INSERT INTO sqlite_schema VALUES('index', ?1, ?2, 3, ?3)", (name, table, sql))?;
        }
        self.connection.execute_batch("PRAGMA writable_schema=RESET")?;
        self.connection.query_row("SELECT count(*) FROM sqlite_schema", (), |_| Ok(()))
    }

    /// A database that has this table.
    pub(crate) fn loaded(self, name: &str, sql: &str) -> Result<Connection, Error> {
        self.load(name, sql).map_err(|e| Error::Corrupt {
            context: "read the statement of a table",
            message: format!("{e}: {sql}"),
        })?;
        Ok(self.connection)
    }

    fn load(&self, name: &str, sql: &str) -> rusqlite::Result<()> {
        self.connection.pragma_update(None, "writable_schema", true)?;
        self.connection.execute("DELETE FROM sqlite_schema", ())?;
        self.connection.execute("INSERT INTO sqlite_schema VALUES('table', ?1, ?1, 2, ?2)", (name, sql))?;
        self.connection.execute_batch("PRAGMA writable_schema=RESET")
    }

    fn layout(&self, name: &str, descending: bool) -> rusqlite::Result<TableLayout> {
        let (without_rowid, strict): (bool, bool) = self.connection.query_row(
            "SELECT wr, strict FROM pragma_table_list(?1) WHERE schema='main'",
            [name],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )?;
        let listed = self.query(
            "SELECT cid, name, type, dflt_value, pk, hidden FROM pragma_table_xinfo(?1, 'main') ORDER BY cid",
            name,
            |row| {
                let (cid, name, declared) = (row.get(0)?, row.get(1)?, row.get(2)?);
                let (default_text, key_place, hidden) = (row.get(3)?, row.get(4)?, row.get(5)?);
                Ok(Listed { cid, name, declared, default_text, key_place, hidden })
            },
        )?;
        let stored: Vec<&Listed> = listed.iter().filter(|column| column.hidden != VIRTUAL).collect();
        let columns =
            stored.iter().map(|column| self.column(column, strict)).collect::<Result<Vec<_>, _>>()?;
        let virtual_names = listed.iter().filter(|column| column.hidden == VIRTUAL);
        let mut primary_key: Vec<usize> =
            (0..stored.len()).filter(|nth| stored[*nth].key_place > 0).collect();
        primary_key.sort_by_key(|nth| stored[*nth].key_place);
        let index: Option<String> = self
            .query("SELECT name FROM pragma_index_list(?1, 'main') WHERE origin='pk'", name, |row| {
                row.get(0)
            })?
            .pop();
        let mut layout = TableLayout {
            field_of: (0..columns.len()).collect(),
            columns,
            rowid_alias: None,
            primary_key,
            key: vec![],
            virtual_names: virtual_names.map(|column| column.name.clone()).collect(),
        };
        match index {
            Some(index) if without_rowid => self.place_fields(&index, &stored, &mut layout, descending)?,
            // A primary key without an index of its own is the rowid.
            None if !without_rowid => layout.rowid_alias = layout.primary_key.first().copied(),
            _ => {}
        }
        Ok(layout)
    }

    /// The records of a WITHOUT ROWID table are those of its primary key's index.
    fn place_fields(
        &self,
        index: &str,
        stored: &[&Listed],
        layout: &mut TableLayout,
        descending: bool,
    ) -> rusqlite::Result<()> {
        let entries: Vec<(i64, bool, String, bool)> = self.query(
            "SELECT cid, desc, coll, key FROM pragma_index_xinfo(?1, 'main') ORDER BY seqno",
            index,
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)),
        )?;
        let mut field = 0;
        for (cid, desc, collation, is_key) in entries {
            let Some(nth) = stored.iter().position(|column| column.cid == cid) else { continue };
            layout.field_of[nth] = field;
            field += 1;
            if is_key {
                let collation = Collation::named(&collation);
                layout.key.push(KeyPart { collation, descending: desc && descending });
            }
        }
        Ok(())
    }

    fn column(&self, listed: &Listed, strict: bool) -> rusqlite::Result<Column> {
        let affinity = affinity(&listed.declared, strict);
        let is_generated = listed.hidden == STORED;
        let default = match &listed.default_text {
            Some(text) if !is_generated => self.default(text, affinity)?,
            _ => Value::Null,
        };
        Ok(Column {
            name: listed.name.clone(),
            declared: listed.declared.clone(),
            is_real: affinity == "REAL",
            is_any: strict && listed.declared.eq_ignore_ascii_case("ANY"),
            is_generated,
            default_text: listed.default_text.clone(),
            default,
        })
    }

    /// The value of a DEFAULT in rows that were there before ALTER TABLE added the column, which takes only constants: of
    /// any other expression it does not matter. It is not always what an INSERT would give: `TEXT DEFAULT 1e300` is the
    /// text `1e300` for the one and `1.0e+300` for the other.
    fn default(&self, text: &str, affinity: &str) -> rusqlite::Result<Value> {
        self.connection.execute("CREATE TEMP TABLE d(a)", ())?;
        let value = self.default_in_d(text, affinity);
        // It would stand before a table of this name.
        self.connection.execute("DROP TABLE temp.d", ())?;
        value
    }

    fn default_in_d(&self, text: &str, affinity: &str) -> rusqlite::Result<Value> {
        self.connection.execute("INSERT INTO temp.d VALUES(0)", ())?;
        let add = |text: &str| {
            let sql = format!("ALTER TABLE temp.d ADD COLUMN c {affinity} DEFAULT {text}\n");
            self.connection.execute(&sql, ())
        };
        // As it was written, since a bare word is a string only there; what stood in brackets comes without them.
        if add(text).or_else(|_| add(&format!("({text}\n)"))).is_err() {
            return Ok(Value::Null);
        }
        self.connection.query_row("SELECT c FROM temp.d", (), |row| Ok(value(row.get_ref(0)?)))
    }

    fn query<T>(
        &self,
        sql: &str,
        name: &str,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<Vec<T>> {
        self.connection.prepare_cached(sql)?.query_map([name], read)?.collect()
    }
}

impl<E: From<Error>> ReadLayout<E> for TableReader {
    fn read_layout(&self, name: &str, sql: &str, descending: bool) -> Result<TableLayout, E> {
        Ok(self.read(name, sql, descending)?)
    }
}

fn failed(e: rusqlite::Error) -> Error {
    Error::new("prepare a database in memory", e)
}

/// The type by which SQLite converts the values of a column (<https://www.sqlite.org/datatype3.html>, section 3.1).
pub(crate) fn affinity(declared: &str, strict: bool) -> &'static str {
    let declared = declared.to_ascii_uppercase();
    let has = |words: &[&str]| words.iter().any(|word| declared.contains(word));
    if strict && declared == "ANY" {
        "BLOB"
    } else if has(&["INT"]) {
        "INTEGER"
    } else if has(&["CHAR", "CLOB", "TEXT"]) {
        "TEXT"
    } else if declared.is_empty() || has(&["BLOB"]) {
        "BLOB"
    } else if has(&["REAL", "FLOA", "DOUB"]) {
        "REAL"
    } else {
        "NUMERIC"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, sql: &str) -> TableLayout {
        TableReader::new().unwrap().read(name, sql, true).unwrap()
    }

    fn defaults(sql: &str) -> Vec<Value> {
        read("t", sql).columns.into_iter().map(|column| column.default).collect()
    }

    #[test]
    fn the_rowid_alias_is_the_integer_primary_key_only() {
        for (sql, alias) in [
            ("CREATE TABLE t(a, b INTEGER PRIMARY KEY)", Some(1)),
            ("CREATE TABLE t(a, b INTEGER, PRIMARY KEY(b))", Some(1)),
            ("CREATE TABLE t(a, b INT PRIMARY KEY)", None),
            ("CREATE TABLE t(a, b INTEGER PRIMARY KEY DESC)", None),
            ("CREATE TABLE t(a, b INTEGER PRIMARY KEY) WITHOUT ROWID", None),
            ("CREATE TABLE t(a INTEGER, b INTEGER, PRIMARY KEY(b, a))", None),
        ] {
            assert_eq!(read("t", sql).rowid_alias, alias, "{sql}");
        }
    }

    #[test]
    fn records_without_rowid_begin_with_the_key() {
        let sql = "CREATE TABLE t(a, v AS (a) VIRTUAL, b TEXT COLLATE NOCASE, c, \
            PRIMARY KEY(c DESC, b)) WITHOUT ROWID";
        let layout = read("t", sql);
        assert_eq!(layout.columns.iter().map(|c| c.name.as_str()).collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!((layout.field_of, layout.primary_key), (vec![2, 1, 0], vec![2, 1]));
        let part = |collation, descending| KeyPart { collation, descending };
        assert_eq!(layout.key, [part(Collation::Binary, true), part(Collation::NoCase, false)]);
        assert!(!TableReader::new().unwrap().read("t", sql, false).unwrap().key[0].descending);
    }

    #[test]
    fn collations_of_columns_are_known() {
        let sql = "CREATE TABLE \"a b\"(a COLLATE NoCase, b TEXT COLLATE german, \"c d\" COLLATE rtrim, e, f COLLATE BINARY, v AS (a))";
        let found = TableReader::new().unwrap().collations("a b", sql).unwrap();
        let found: Vec<_> = found.iter().map(|(name, collation)| format!("{name} {collation}")).collect();
        assert_eq!(found.join(", ").to_lowercase(), "a nocase, c d rtrim");
    }

    /// The application's functions and collations are not here.
    #[test]
    fn what_belongs_to_the_application_need_not_be_there() {
        let layout = read(
            "t",
            "CREATE TABLE t(a TEXT COLLATE german, b CHECK(is_fine(b)), g AS (fine(a)) STORED, \
             PRIMARY KEY(a)) WITHOUT ROWID",
        );
        assert_eq!(layout.key[0].collation, Collation::Application("german".into()));
        assert!(layout.columns[2].is_generated);
    }

    #[test]
    fn unique_columns_are_known() {
        let reader = TableReader::new().unwrap();
        let unique = |table: &str, index: &[&str]| {
            let name = |sql: &str| if sql.contains(" j ") { "j" } else { "i" };
            let indexes: Vec<_> = index.iter().map(|sql| (name(sql), *sql)).collect();
            reader.unique_columns(("t", table), &indexes).unwrap().map(|mut names| {
                names.sort();
                names.join(" ")
            })
        };
        for (table, expected) in [
            ("CREATE TABLE t(a INTEGER PRIMARY KEY, b UNIQUE, c, d, UNIQUE(d, b))", "b b d"),
            ("CREATE TABLE t(a TEXT PRIMARY KEY, v AS (a), b)", "a"),
            ("CREATE TABLE t(a, b, PRIMARY KEY(b)) WITHOUT ROWID", "b"),
            ("CREATE TABLE t(a, g AS (a) STORED UNIQUE)", "g"),
        ] {
            assert_eq!(unique(table, &[]).unwrap(), expected, "{table}");
        }
        assert_eq!(unique("CREATE TABLE t(a, v AS (a) UNIQUE)", &[]), None);
        let table = "CREATE TABLE t(a INTEGER PRIMARY KEY, b, c COLLATE german, v AS (b))";
        for (index, expected) in [
            ("CREATE UNIQUE INDEX i ON t(b, c)", Some("b c")),
            ("CREATE UNIQUE INDEX i ON t(a)", Some("a")),
            ("CREATE INDEX i ON t(b) WHERE c", Some("")),
            ("CREATE UNIQUE INDEX i ON t(b) WHERE c", None),
            ("CREATE UNIQUE INDEX i ON t(fine(b))", None),
            ("CREATE UNIQUE INDEX i ON t(v)", None),
            ("CREATE UNIQUE INDEX i ON t(gone, away)", None),
        ] {
            assert_eq!(unique(table, &[index]).as_deref(), expected, "{index}");
        }
        let both = ["CREATE UNIQUE INDEX i ON t(b)", "CREATE INDEX j ON t(c)"];
        assert_eq!(unique(table, &both).as_deref(), Some("b"));
    }

    #[test]
    fn tables_of_sqlite_itself_are_read() {
        assert_eq!(read("sqlite_sequence", "CREATE TABLE sqlite_sequence(name,seq)").columns.len(), 2);
        assert_eq!(read("sqlite_stat1", "CREATE TABLE sqlite_stat1(tbl,idx,stat)").columns.len(), 3);
    }

    #[test]
    fn defaults_are_converted_as_the_column_does() {
        let text = |text: &str| Value::Text(text.into());
        assert_eq!(
            defaults(
                "CREATE TABLE t(a DEFAULT 7, b TEXT DEFAULT 7, c REAL DEFAULT 7, d DEFAULT word, e DEFAULT true, \
                 f DEFAULT ('x' || 'y'), g DEFAULT -1.5, h DEFAULT x'00ff', i DEFAULT (unknown(1)), j, \
                 k INT DEFAULT '12', l DEFAULT ((1)+(2)), m DEFAULT \"quoted\", n DEFAULT CURRENT_TIMESTAMP)"
            )[..13],
            [
                Value::Integer(7),
                text("7"),
                Value::Real(7.0),
                text("word"),
                Value::Integer(1),
                Value::Null,
                Value::Real(-1.5),
                Value::Blob(vec![0, 255]),
                Value::Null,
                Value::Null,
                Value::Integer(12),
                Value::Null,
                text("quoted"),
            ]
        );
        assert_eq!(defaults("CREATE TABLE t(a TEXT DEFAULT -3e300)"), [text("-3e300")]);
        assert_eq!(defaults("CREATE TABLE t(a ANY DEFAULT '12') STRICT"), [text("12")]);
        assert_eq!(defaults("CREATE TABLE t(a ANY DEFAULT '12')"), [Value::Integer(12)]);
    }

    #[test]
    fn a_statement_that_is_none_is_an_error_and_the_next_one_is_read() {
        let reader = TableReader::new().unwrap();
        for sql in ["", "CREATE TABLE", "DROP TABLE t", "CREATE TABLE t(a DEFAULT 1); DROP TABLE x"] {
            let error = reader.read("t", sql, true).unwrap_err();
            assert!(error.to_string().starts_with("read the statement of a table: "), "{error}");
        }
        assert_eq!(reader.read("a \"b\"", "CREATE TABLE \"a \"\"b\"\"\"(x)", true).unwrap().columns.len(), 1);
    }

    /// As what is made here for a moment.
    #[test]
    fn tables_may_have_any_name() {
        let reader = TableReader::new().unwrap();
        reader.read("a", "CREATE TABLE a(x DEFAULT 5)", true).unwrap();
        for name in ["d", "D", "t", "i", "of all"] {
            let sql = format!(
                "CREATE TABLE \"{name}\"(id INTEGER, body TEXT DEFAULT 'x', PRIMARY KEY(body)) WITHOUT ROWID"
            );
            let layout = reader.read(name, &sql, true).unwrap();
            let names: Vec<_> = layout.columns.iter().map(|column| column.name.as_str()).collect();
            assert_eq!(names, ["id", "body"], "{name}");
            assert!(layout.is_without_rowid() && layout.primary_key == [1], "{name}");
            assert_eq!(reader.unique_columns((name, &sql), &[]).unwrap().unwrap(), ["body"], "{name}");
        }
    }

    #[test]
    fn collations_of_a_table_without_rowid_are_found() {
        let sql = "CREATE TABLE k(a TEXT COLLATE NOCASE PRIMARY KEY, b CHECK(b <> 'collate')) WITHOUT ROWID";
        let found = TableReader::new().unwrap().collations("k", sql).unwrap();
        assert_eq!(found, BTreeMap::from([("a".to_owned(), "NOCASE".to_owned())]));
    }

    #[test]
    fn no_column_is_taken_for_the_rowid() {
        let layout = read("t", "CREATE TABLE t(a, rowid AS (a * 2) VIRTUAL, _ROWID_ AS (a) STORED)");
        assert_eq!(layout.rowid_name(), Some("oid"));
        assert_eq!(read("t", "CREATE TABLE t(rowid, oid AS (1), _rowid_)").rowid_name(), None);
    }
}
