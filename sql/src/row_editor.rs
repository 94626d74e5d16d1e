//! Changing single rows of the user's database, as an ordinary connection does.
//!
//! Promises:
//! - Triggers do not run and foreign keys delete nothing: what is written is what was asked for. Whether foreign keys
//!   still hold can be asked before a commit.
//! - It never checkpoints, and a transaction that was not committed leaves nothing.

mod mismatch;
mod references;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use litekeep_format::{TableLayout, Value};
use litekeep_ltx::Pgno;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension as _};

use crate::parameter::{Parameter, value};
use crate::{Error, TableReader, observer, quoted};

pub use references::Reference;

/// How long a transaction waits for other writers.
const PATIENCE: Duration = Duration::from_secs(10);

/// `PRAGMA cache_size`, kibibytes: rows in no order of an index touch many of its pages, and each that is read again keeps other
/// writers waiting.
const CACHE_KIB: i64 = -(64 << 10);

/// A connection that changes rows.
#[derive(Debug)]
pub struct RowEditor {
    connection: Connection,
    reader: TableReader,
}

/// What kind of table it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TableKind {
    /// One that applications make.
    Ordinary,
    /// One of SQLite's own: `sqlite_sequence`, statistics.
    Internal,
    /// Where a virtual table of this name keeps what it has.
    Shadow(String),
}

/// What became of a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Written {
    /// It changed so many rows.
    Rows(usize),
    /// A constraint of the table forbids it; SQLite's words.
    Forbidden(String),
}

/// A row that refers to one that is not there: table, rowid (none of a WITHOUT ROWID table), the table that it refers to, and
/// which of its foreign keys.
pub type Dangling = (String, Option<i64>, String, i64);

impl RowEditor {
    /// Opens a database that exists.
    ///
    /// # Errors
    /// `Unavailable` when the file cannot be opened, `Corrupt` when it is no database.
    pub fn open(path: &Path) -> Result<RowEditor, Error> {
        const OPEN: &str = "open the database";
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let open = || {
            let connection = Connection::open_with_flags(path, flags)?;
            connection.busy_timeout(PATIENCE)?;
            observer::never_checkpoint(&connection)?;
            connection.pragma_update(None, "foreign_keys", false)?;
            connection.pragma_update(None, "cache_size", CACHE_KIB)?;
            connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
            // Reads the header, so that a file of another kind is refused here.
            connection.query_row("SELECT count(*) FROM sqlite_schema", (), |_| Ok(()))?;
            Ok(connection)
        };
        let connection = open().map_err(|e| Error::new(OPEN, e))?;
        Ok(RowEditor { connection, reader: TableReader::new()? })
    }

    /// Begins a transaction: one that keeps other writers waiting, or one that only reads.
    ///
    /// # Errors
    /// `Busy` when another connection writes for long.
    pub fn begin(&self, to_write: bool) -> Result<(), Error> {
        self.run(if to_write { "BEGIN IMMEDIATE" } else { "BEGIN" }, "begin a transaction")
    }

    /// Commits the transaction.
    ///
    /// # Errors
    /// What SQLite refuses; the transaction is still open then.
    pub fn commit(&self) -> Result<(), Error> {
        self.run("COMMIT", "commit a transaction")
    }

    /// Ends the transaction without effect.
    pub fn roll_back(&self) {
        if !self.connection.is_autocommit() {
            let _ = self.connection.execute_batch("ROLLBACK");
        }
    }

    fn run(&self, sql: &str, doing: &'static str) -> Result<(), Error> {
        self.connection.execute_batch(sql).map_err(|e| Error::new(doing, e))
    }

    /// The layout of a table as it is now, and what kind it is. `None`: there is no such table.
    ///
    /// # Errors
    /// When the schema cannot be read.
    pub fn table(&self, name: &str) -> Result<Option<(TableLayout, TableKind)>, Error> {
        const READ: &str = "read the schema";
        let found: Option<(String, String)> = self
            .connection
            .prepare_cached(
                "SELECT name, sql FROM sqlite_schema WHERE type='table' AND name=?1 COLLATE NOCASE",
            )
            .and_then(|mut select| select.query_row([name], |row| Ok((row.get(0)?, row.get(1)?))).optional())
            .map_err(|e| Error::new(READ, e))?;
        let Some((name, sql)) = found else { return Ok(None) };
        let layout = self.reader.read(&name, &sql, true)?;
        let is_shadow: bool = self
            .connection
            .prepare_cached("SELECT type='shadow' FROM pragma_table_list(?1) WHERE schema='main'")
            .and_then(|mut select| select.query_row([&name], |row| row.get(0)))
            .map_err(|e| Error::new(READ, e))?;
        let kind = if is_shadow {
            let owner = name.rsplit_once('_').map_or(name.as_str(), |(owner, _)| owner);
            TableKind::Shadow(owner.to_owned())
        } else if name.starts_with("sqlite_") {
            TableKind::Internal
        } else {
            TableKind::Ordinary
        };
        Ok(Some((layout, kind)))
    }

    /// The statement that made a virtual table.
    ///
    /// # Errors
    /// When the schema cannot be read.
    pub fn virtual_table(&self, name: &str) -> Result<Option<String>, Error> {
        self.connection
            .prepare_cached("SELECT sql FROM sqlite_schema WHERE type='table' AND rootpage=0 AND name=?1")
            .and_then(|mut select| select.query_row([name], |row| row.get(0)).optional())
            .map_err(|e| Error::new("read the schema", e))
    }

    /// The statement of a table, index, view or trigger; `None`: there is none of this name.
    ///
    /// # Errors
    /// When the schema cannot be read.
    pub fn object(&self, kind: &str, name: &str) -> Result<Option<String>, Error> {
        self.connection
            .prepare_cached("SELECT sql FROM sqlite_schema WHERE type=?1 AND name=?2 COLLATE NOCASE")
            .and_then(|mut select| select.query_row([kind, name], |row| row.get(0)).optional())
            .map_err(|e| Error::new("read the schema", e))
    }

    /// The table whose rows begin at a page.
    ///
    /// # Errors
    /// When the schema cannot be read.
    pub fn table_at(&self, root: Pgno) -> Result<Option<String>, Error> {
        self.connection
            .prepare_cached("SELECT name FROM sqlite_schema WHERE type='table' AND rootpage=?1")
            .and_then(|mut select| select.query_row([root.get()], |row| row.get(0)).optional())
            .map_err(|e| Error::new("read the schema", e))
    }

    /// Columns of all rows of a table, one after the other.
    ///
    /// # Errors
    /// What SQLite refuses.
    pub fn each_row(
        &self,
        table: &str,
        columns: &[&str],
        with: &mut dyn FnMut(Vec<Value>),
    ) -> Result<(), Error> {
        let names: Vec<_> = columns.iter().map(|name| quoted(name)).collect();
        let mut read = || -> rusqlite::Result<()> {
            let sql = format!("SELECT {} FROM {}", names.join(", "), quoted(table));
            let mut select = self.connection.prepare(&sql)?;
            let mut rows = select.query(())?;
            while let Some(row) = rows.next()? {
                let values: rusqlite::Result<Vec<Value>> =
                    (0..columns.len()).map(|nth| Ok(value(row.get_ref(nth)?))).collect();
                with(values?);
            }
            Ok(())
        };
        read().map_err(|e| Error::new("read the rows of a table", e))
    }

    /// The columns of the row whose key columns have these values; of several, any.
    ///
    /// # Errors
    /// What SQLite refuses.
    pub fn row(
        &self,
        table: &str,
        columns: &[&str],
        key: &[(&str, &Value)],
    ) -> Result<Option<Vec<Value>>, Error> {
        let columns_sql: Vec<_> = columns.iter().map(|name| quoted(name)).collect();
        let sql =
            format!("SELECT {} FROM {} WHERE {}", columns_sql.join(", "), quoted(table), condition(key, 1));
        let read = || {
            let mut select = self.connection.prepare_cached(&sql)?;
            let parameters = rusqlite::params_from_iter(key.iter().map(|(_, value)| Parameter(value)));
            let row = |row: &rusqlite::Row<'_>| {
                (0..columns.len()).map(|nth| Ok(value(row.get_ref(nth)?))).collect()
            };
            select.query_row(parameters, row).optional()
        };
        read().map_err(|e| Error::new("read a row", e))
    }

    /// Inserts a row.
    ///
    /// # Errors
    /// What SQLite refuses, but for constraints.
    pub fn insert(&self, table: &str, values: &[(&str, &Value)]) -> Result<Written, Error> {
        let names: Vec<_> = values.iter().map(|(name, _)| quoted(name)).collect();
        let places = vec!["?"; values.len()].join(", ");
        // Whatever the table says of conflicts: nobody else's row gives way.
        let sql = format!("INSERT OR ABORT INTO {}({}) VALUES({places})", quoted(table), names.join(", "));
        self.write(&sql, values.iter().map(|(_, value)| *value))
    }

    /// The rowid of the row that was inserted last.
    pub fn last_rowid(&self) -> i64 {
        self.connection.last_insert_rowid()
    }

    /// Lets AUTOINCREMENT of a table go on after this number at the earliest.
    ///
    /// # Errors
    /// What SQLite refuses: a database that never had such a table has no counters.
    pub fn raise_counter(&self, table: &str, to: i64) -> Result<(), Error> {
        let raise = || {
            let raise = "UPDATE sqlite_sequence SET seq=max(coalesce(seq, 0), ?2) WHERE name=?1";
            if self.connection.execute(raise, (table, to))? == 0 {
                self.connection
                    .execute("INSERT INTO sqlite_sequence(name, seq) VALUES(?1, ?2)", (table, to))?;
            }
            Ok(())
        };
        raise().map_err(|e| Error::new("raise a counter", e))
    }

    /// Changes columns of the row whose key columns have these values.
    ///
    /// # Errors
    /// What SQLite refuses, but for constraints.
    pub fn update(
        &self,
        table: &str,
        values: &[(&str, &Value)],
        key: &[(&str, &Value)],
    ) -> Result<Written, Error> {
        let set: Vec<_> = values
            .iter()
            .enumerate()
            .map(|(nth, (name, _))| format!("{}=?{}", quoted(name), nth + 1))
            .collect();
        let condition = condition(key, values.len() + 1);
        let sql = format!("UPDATE OR ABORT {} SET {} WHERE {condition}", quoted(table), set.join(", "));
        self.write(&sql, values.iter().chain(key).map(|(_, value)| *value))
    }

    /// Deletes the row whose key columns have these values.
    ///
    /// # Errors
    /// What SQLite refuses, but for constraints.
    pub fn delete(&self, table: &str, key: &[(&str, &Value)]) -> Result<Written, Error> {
        let sql = format!("DELETE FROM {} WHERE {}", quoted(table), condition(key, 1));
        self.write(&sql, key.iter().map(|(_, value)| *value))
    }

    /// What SQLite says to any statement that changes rows of a table, such as that a collation or a function is not there which
    /// only the application's connections have; `None`: nothing.
    ///
    /// # Errors
    /// All else.
    pub fn why_not_written(&self, table: &str, columns: &[&str]) -> Result<Option<String>, Error> {
        let names: Vec<_> = columns.iter().map(|name| quoted(name)).collect();
        let set: Vec<_> = names.iter().map(|name| format!("{name}=?")).collect();
        let is: Vec<_> = names.iter().map(|name| format!("{name} IS ?")).collect();
        let (table, places) = (quoted(table), vec!["?"; names.len()].join(", "));
        for sql in [
            format!("INSERT INTO {table}({}) VALUES({places})", names.join(", ")),
            format!("UPDATE {table} SET {} WHERE {}", set.join(", "), is.join(" AND ")),
        ] {
            match self.connection.prepare(&sql).map_err(|e| Error::new("prepare a statement", e)) {
                Err(Error::Refused { message, .. }) => {
                    let message = message.split(" in INSERT").next().unwrap_or_default();
                    return Ok(Some(message.split(" in UPDATE").next().unwrap_or_default().to_owned()));
                }
                prepared => drop(prepared?),
            }
        }
        Ok(None)
    }

    fn write<'v>(&self, sql: &str, values: impl Iterator<Item = &'v Value>) -> Result<Written, Error> {
        let parameters = rusqlite::params_from_iter(values.map(Parameter));
        let done =
            self.connection.prepare_cached(sql).and_then(|mut statement| statement.execute(parameters));
        match done {
            Ok(rows) => Ok(Written::Rows(rows)),
            Err(e)
                if e.sqlite_error_code() == Some(ErrorCode::ConstraintViolation)
                    && !self.connection.is_autocommit() =>
            {
                Ok(Written::Forbidden(e.to_string()))
            }
            Err(e) => Err(Error::new("change a row", e)),
        }
    }

    /// Runs one statement.
    ///
    /// # Errors
    /// What SQLite refuses.
    pub fn execute(&self, sql: &str) -> Result<(), Error> {
        self.connection.execute(sql, ()).map(drop).map_err(|e| Error::new("run a statement", e))
    }

    /// The full-text indexes of a table's content, and whether it has triggers.
    ///
    /// # Errors
    /// When the schema cannot be read.
    pub fn followers(&self, table: &str) -> Result<(Vec<String>, bool), Error> {
        let ask = || {
            let mut select = self
                .connection
                .prepare_cached("SELECT name, sql FROM sqlite_schema WHERE type='table' AND rootpage=0")?;
            let rows = select.query_map((), |row| Ok((row.get(0)?, row.get(1)?)))?;
            let made: Vec<(String, String)> = rows.collect::<Result<_, _>>()?;
            let indexes = made.into_iter().filter(|(_, sql)| is_full_text_of(sql, table));
            let has_triggers = self
                .connection
                .prepare_cached(
                    "SELECT 1 FROM sqlite_schema WHERE type='trigger' AND tbl_name=?1 COLLATE NOCASE",
                )?
                .exists([table])?;
            Ok((indexes.map(|(name, _)| name).collect(), has_triggers))
        };
        ask().map_err(|e| Error::new("read the schema", e))
    }

    /// Makes a virtual table for full-text search read its content anew.
    ///
    /// # Errors
    /// What SQLite refuses: one without content cannot.
    pub fn rebuild(&self, name: &str) -> Result<(), Error> {
        let name = quoted(name);
        self.execute(&format!("INSERT INTO {name}({name}) VALUES('rebuild')"))
    }

    /// Rows that refer to one that is not there, in a table and in those that refer to it.
    ///
    /// # Errors
    /// What SQLite refuses.
    pub fn dangling(&self, table: &str) -> Result<BTreeMap<Dangling, u64>, Error> {
        let ask = || {
            let mut children = self.connection.prepare_cached(
                "SELECT DISTINCT s.name FROM sqlite_schema AS s JOIN pragma_foreign_key_list(s.name) AS f \
                 WHERE s.type='table' AND (s.name=?1 OR f.\"table\"=?1 COLLATE NOCASE)",
            )?;
            let children: Vec<String> =
                children.query_map([table], |row| row.get(0))?.collect::<Result<_, _>>()?;
            let mut found = BTreeMap::new();
            for child in children {
                let mut check = self.connection.prepare_cached(
                    "SELECT \"table\", rowid, parent, fkid FROM pragma_foreign_key_check(?1)",
                )?;
                let rows = check
                    .query_map([&child], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))
                    .and_then(|rows| rows.collect::<Result<Vec<Dangling>, _>>());
                let rows = match rows {
                    Err(e) if mismatch::is_mismatch(&e) => mismatch::dangling(&self.connection, &child)?,
                    rows => rows?,
                };
                for row in rows {
                    *found.entry(row).or_default() += 1;
                }
            }
            Ok(found)
        };
        ask().map_err(|e| Error::new("check the foreign keys", e))
    }
}

/// Whether a statement makes a virtual table for full-text search.
pub fn is_full_text(sql: &str) -> bool {
    module(sql).is_some_and(|module| module.starts_with("fts"))
}

/// Whether a statement makes a virtual table for full-text search that has the rows of this table as its content.
pub fn is_full_text_of(sql: &str, table: &str) -> bool {
    let plain = |text: &str| text.replace(['"', '\'', '`', ' ', '[', ']'], "").to_lowercase();
    let content = format!("content={}", plain(table));
    let text = plain(sql);
    let is_content = |(at, _): (usize, &str)| text[at + content.len()..].starts_with([',', ')']);
    is_full_text(sql) && text.match_indices(&content).any(is_content)
}

/// The module of a virtual table, in small letters; `None` for the statement of anything else.
pub fn module(sql: &str) -> Option<String> {
    let words: Vec<&str> = sql.split_whitespace().collect();
    let is_virtual = words.get(1).is_some_and(|word| word.eq_ignore_ascii_case("virtual"));
    let using = words.iter().position(|word| word.eq_ignore_ascii_case("using")).filter(|_| is_virtual)?;
    let name = words.get(using + 1)?.split('(').next()?.trim_matches(['"', '`', '[', ']']);
    Some(name.to_ascii_lowercase())
}

/// A condition that key columns have the values from parameter `first` on.
fn condition(key: &[(&str, &Value)], first: usize) -> String {
    let terms =
        key.iter().enumerate().map(|(nth, (name, _))| format!("{} IS ?{}", quoted(name), first + nth));
    terms.collect::<Vec<_>>().join(" AND ")
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn editor(sql: &str) -> (tempfile::TempDir, RowEditor) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        let db = Connection::open(&path).unwrap();
        db.execute_batch(&format!("PRAGMA journal_mode=WAL; PRAGMA foreign_keys=ON; {sql}")).unwrap();
        (dir, RowEditor::open(&path).unwrap())
    }

    const PARENTS: &str = "CREATE TABLE p(id INTEGER PRIMARY KEY, name UNIQUE); \
        CREATE TABLE c(id INTEGER PRIMARY KEY, p REFERENCES p ON DELETE CASCADE); \
        CREATE TABLE seen(what); CREATE TRIGGER t AFTER DELETE ON p BEGIN INSERT INTO seen VALUES(old.id); END; \
        INSERT INTO p VALUES(1, 'a'), (2, 'b'); INSERT INTO c VALUES(1, 1)";

    #[test]
    fn only_what_was_asked_for_happens() {
        let (_dir, editor) = editor(PARENTS);
        let one = Value::Integer(1);
        editor.begin(true).unwrap();
        assert_eq!(editor.delete("p", &[("id", &one)]).unwrap(), Written::Rows(1));
        assert_eq!(editor.row("c", &["p"], &[("id", &one)]).unwrap(), Some(vec![one.clone()]));
        assert_eq!(editor.row("seen", &["what"], &[("what", &one)]).unwrap(), None);
        let dangling = editor.dangling("p").unwrap();
        assert_eq!(dangling.into_iter().collect::<Vec<_>>(), [(("c".into(), Some(1), "p".into(), 0), 1)]);
        editor.roll_back();
        assert!(editor.row("p", &["id"], &[("id", &one)]).unwrap().is_some());
    }

    #[test]
    fn a_constraint_is_an_answer() {
        let (_dir, editor) = editor(PARENTS);
        editor.begin(true).unwrap();
        let (three, a) = (Value::Integer(3), Value::Text("a".into()));
        let written = editor.insert("p", &[("id", &three), ("name", &a)]).unwrap();
        assert!(matches!(written, Written::Forbidden(why) if why.contains("UNIQUE")));
        assert!(editor.insert("p", &[("nonsense", &three)]).is_err());
    }

    /// Whatever the table says.
    #[test]
    fn nobody_elses_row_gives_way() {
        let (_dir, editor) = editor(
            "CREATE TABLE t(id INTEGER PRIMARY KEY, a UNIQUE ON CONFLICT REPLACE); INSERT INTO t VALUES(1, 'a')",
        );
        editor.begin(true).unwrap();
        let (two, a) = (Value::Integer(2), Value::Text("a".into()));
        assert!(matches!(editor.insert("t", &[("id", &two), ("a", &a)]).unwrap(), Written::Forbidden(_)));
        assert!(editor.row("t", &["a"], &[("id", &Value::Integer(1))]).unwrap().is_some());
    }

    #[test]
    fn a_foreign_key_to_what_need_not_be_unique_is_checked_all_the_same() {
        let (_dir, editor) = editor(
            "PRAGMA foreign_keys=OFF; CREATE TABLE t(id INTEGER PRIMARY KEY, v);
             CREATE TABLE mis(o REFERENCES t(v), t REFERENCES t, x REFERENCES t(other), y REFERENCES gone);
             INSERT INTO t VALUES(1, 'a'), (2, 'a'), (3, NULL); INSERT INTO mis VALUES('a', 1, 5, NULL), ('b', 9, NULL, NULL), (NULL, NULL, NULL, 3)",
        );
        let found = editor.dangling("t").unwrap();
        let found: Vec<_> =
            found.keys().map(|(_, rowid, parent, _)| format!("{} {parent}", rowid.unwrap())).collect();
        assert_eq!(found, ["2 t", "2 t", "3 gone"]);
    }

    #[test]
    fn full_text_indexes_of_a_table_are_known() {
        let (_dir, editor) = editor(
            "CREATE TABLE docs(a); CREATE TABLE gifts(a); CREATE VIRTUAL TABLE f USING fts5(a, content='docs', content_rowid='rowid');
             CREATE TRIGGER x AFTER DELETE ON docs BEGIN SELECT 1; END",
        );
        assert_eq!(editor.followers("docs").unwrap(), (vec!["f".to_owned()], true));
        assert_eq!(editor.followers("gifts").unwrap(), (vec![], false));
        assert!(!is_full_text("CREATE VIRTUAL TABLE gifts USING rtree(id, a, b)"));
    }

    #[test]
    fn tables_are_told_by_their_kind() {
        let (_dir, editor) = editor(
            "CREATE VIRTUAL TABLE ft USING fts5(a); CREATE TABLE o(id INTEGER PRIMARY KEY AUTOINCREMENT)",
        );
        let kind = |name| editor.table(name).unwrap().map(|(_, kind)| kind);
        assert_eq!(kind("o"), Some(TableKind::Ordinary));
        assert_eq!(kind("sqlite_sequence"), Some(TableKind::Internal));
        assert_eq!(kind("ft_data"), Some(TableKind::Shadow("ft".into())));
        assert_eq!(kind("nothing"), None);
        assert!(editor.virtual_table("ft").unwrap().unwrap().contains("fts5"));
    }
}
