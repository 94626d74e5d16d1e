//! The transaction of a migration: foreign keys are off, nothing of the file decides when it ends, and what it did is held
//! against what it said it would do.
//!
//! `PRAGMA foreign_keys` is a no-op inside a transaction. A file that rebuilds a table (create, copy, drop, rename) in one,
//! with foreign keys on, deletes the rows of every table that refers to it with ON DELETE CASCADE, and no check notices.
//! So foreign keys are switched off *before* the transaction, and rows are counted before and after.
//!
//! Promises:
//! - Whatever a file says, its statements take effect together with [`Transaction::commit`], or not at all.
//! - BEGIN, COMMIT and pragmas about foreign keys in a file are passed over; ROLLBACK, ATTACH, DETACH and changes of the
//!   journal mode are refused.

use crate::{Error, Value, quoted};
use rusqlite::hooks::{AuthAction, AuthContext, Authorization, TransactionOperation};
use rusqlite::{Connection, OpenFlags};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// A connection that migrates one database.
#[derive(Debug)]
pub struct Migrator {
    connection: Connection,
    patience: Duration,
}

/// The write lock, held until [`commit`](Transaction::commit) or the end.
#[derive(Debug)]
pub struct Transaction<'a> {
    connection: &'a mut Connection,
    open: bool,
}

/// What a database consists of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Rows of each table.
    pub rows: BTreeMap<String, u64>,
    /// Indexes, triggers and views that were made by a statement, and the table of the first two.
    pub objects: BTreeSet<Object>,
    /// Rows that refer to nothing, by the table they are in and the one they should refer to.
    pub orphans: BTreeMap<(String, String), u64>,
    /// Tables whose references make no sense, and why: the other table has no such key.
    pub broken_references: BTreeMap<String, String>,
    /// Views that cannot be read, and why.
    pub broken_views: BTreeMap<String, String>,
}

/// An index, a trigger or a view.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Object {
    /// `index`, `trigger` or `view`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// The table that it belongs to; a view's own name.
    pub table: String,
}

/// What the statements of a file aimed at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Aims {
    /// Tables of DELETE statements, also of triggers.
    pub deleted_from: BTreeSet<String>,
    /// Tables, indexes, triggers and views that a DROP names.
    pub dropped: BTreeSet<String>,
    /// What tables were called before, by their new names.
    pub renamed: BTreeMap<String, String>,
}

/// Why a file did not run to its end.
#[derive(Debug, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct Stopped {
    /// The line of the file in which the statement begins, from 1.
    pub line: usize,
    /// SQLite's words, or why the statement is refused.
    pub message: String,
}

/// What the authorizer has seen of one statement.
#[derive(Debug, Default)]
struct Seen {
    deleted_from: Vec<String>,
    dropped_tables: Vec<String>,
    dropped_others: Vec<String>,
    altered: Vec<String>,
    refused: Option<String>,
}

impl Migrator {
    /// Opens a database, or makes one. `patience`: how long to wait for other writers.
    ///
    /// # Errors
    /// `Unavailable` when the file cannot be opened, `Corrupt` when it is no database.
    pub fn open(path: &Path, patience: Duration) -> Result<Migrator, Error> {
        const OPEN: &str = "open the database";
        let flags = OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags).map_err(|e| Error::new(OPEN, e))?;
        let set = || -> rusqlite::Result<()> {
            connection.busy_timeout(patience)?;
            connection.pragma_update(None, "synchronous", "FULL")?;
            connection.pragma_update(None, "foreign_keys", false)
        };
        set().map_err(|e| Error::new(OPEN, e))?;
        Ok(Migrator { connection, patience })
    }

    /// An empty database without a file, in which statements can be tried.
    ///
    /// # Errors
    /// `Unavailable` without memory.
    pub fn in_memory() -> Result<Migrator, Error> {
        Migrator::open(Path::new(":memory:"), Duration::ZERO)
    }

    /// Takes the write lock before anything is read, so that of several only one decides what is to be done.
    ///
    /// # Errors
    /// `Busy` when another writer does not end in time.
    pub fn begin(&mut self) -> Result<Transaction<'_>, Error> {
        self.connection.execute_batch("BEGIN IMMEDIATE").map_err(|e| Error::new("begin the migration", e))?;
        Ok(Transaction { connection: &mut self.connection, open: true })
    }

    /// The same for whoever waits on: each time that another writer has not ended within `pause`, `waits_on` is asked.
    ///
    /// # Errors
    /// `Busy` when it is not to be waited for any longer.
    pub fn begin_after(
        &mut self,
        pause: Duration,
        mut waits_on: impl FnMut() -> bool,
    ) -> Result<Transaction<'_>, Error> {
        const BEGIN: &str = "begin the migration";
        self.connection.busy_timeout(pause).map_err(|e| Error::new(BEGIN, e))?;
        let begun = loop {
            match self.connection.execute_batch("BEGIN IMMEDIATE").map_err(|e| Error::new(BEGIN, e)) {
                Err(error) if error.is_busy() && waits_on() => {}
                begun => break begun,
            }
        };
        // Outside WAL mode readers are waited for at the end, too.
        self.connection.busy_timeout(self.patience).map_err(|e| Error::new(BEGIN, e))?;
        begun?;
        Ok(Transaction { connection: &mut self.connection, open: true })
    }

    /// Runs a query outside any transaction of ours; see [`Transaction::rows`].
    ///
    /// # Errors
    /// Those of SQLite.
    pub fn rows(&self, sql: &str, parameters: &[Value]) -> Result<Vec<Vec<Value>>, Error> {
        rows(&self.connection, sql, parameters)
    }
}

impl Migrator {
    /// Counts everything in one read transaction; the number changes with the schema.
    ///
    /// # Errors
    /// Those of SQLite.
    pub fn census(&self) -> Result<(Census, u32), Error> {
        let within = |sql| self.connection.execute_batch(sql).map_err(|e| Error::new("read the database", e));
        within("BEGIN")?;
        let counted = census(&self.connection);
        let version = self.connection.query_row("PRAGMA schema_version", [], |row| row.get(0));
        within("ROLLBACK")?;
        Ok((counted?, version.map_err(|e| Error::new("read the schema", e))?))
    }

    /// Writes the database into a new file.
    ///
    /// # Errors
    /// Those of SQLite; also when the file is there.
    pub fn copy_to(&self, path: &Path) -> Result<(), Error> {
        let copied = self.connection.execute("VACUUM INTO ?1", [path.to_string_lossy()]);
        copied.map(drop).map_err(|e| Error::new("copy the database", e))
    }
}

fn rows(connection: &Connection, sql: &str, parameters: &[Value]) -> Result<Vec<Vec<Value>>, Error> {
    let read = || -> rusqlite::Result<Vec<Vec<Value>>> {
        let mut statement = connection.prepare(sql)?;
        let columns = statement.column_count();
        let found = statement.query_map(rusqlite::params_from_iter(parameters), |row| {
            (0..columns).map(|i| row.get::<_, rusqlite::types::Value>(i).map(Value::from)).collect()
        })?;
        found.collect()
    };
    read().map_err(|e| Error::new("read the database", e))
}

fn census(c: &Connection) -> Result<Census, Error> {
    let count = || -> rusqlite::Result<Census> {
        let mut census = Census::default();
        // Shadow tables and the like belong to their virtual tables, whose rows a module counts as it likes.
        let mut tables =
            c.prepare("SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'")?;
        for name in tables.query_map([], |r| r.get::<_, String>(0))? {
            let name = name?;
            let rows =
                c.query_row(&format!("SELECT count(*) FROM {}", quoted(&name)), [], |r| r.get::<_, i64>(0))?;
            census.rows.insert(name, rows.unsigned_abs());
        }
        let mut objects = c.prepare(
            "SELECT type, name, tbl_name FROM sqlite_schema WHERE type IN ('index', 'trigger', 'view') AND sql IS NOT NULL",
        )?;
        for object in
            objects.query_map([], |r| Ok(Object { kind: r.get(0)?, name: r.get(1)?, table: r.get(2)? }))?
        {
            let object = object?;
            if object.kind == "view"
                && let Err(e) = c.prepare(&format!("SELECT * FROM {}", quoted(&object.name)))
            {
                census.broken_views.insert(object.name.clone(), e.to_string());
            }
            census.objects.insert(object);
        }
        // Table by table: one whose references make no sense ends the check of all.
        for table in census.rows.keys().cloned().collect::<Vec<_>>() {
            if let Err(e) = count_orphans(c, &table, &mut census.orphans) {
                census.broken_references.insert(table, e.to_string());
            }
        }
        Ok(census)
    };
    count().map_err(|e| Error::new("count the rows of all tables", e))
}

fn count_orphans(
    connection: &Connection,
    table: &str,
    orphans: &mut BTreeMap<(String, String), u64>,
) -> rusqlite::Result<()> {
    let found = "SELECT parent, count(*) FROM pragma_foreign_key_check(?1) GROUP BY 1";
    let mut found = connection.prepare(found)?;
    for orphan in found.query_map([table], |r| Ok((r.get(0)?, r.get::<_, i64>(1)?)))? {
        let (parent, rows) = orphan?;
        orphans.insert((table.to_owned(), parent), rows.unsigned_abs());
    }
    Ok(())
}

impl Transaction<'_> {
    /// The rows of a query.
    ///
    /// # Errors
    /// Those of SQLite.
    pub fn rows(&self, sql: &str, parameters: &[Value]) -> Result<Vec<Vec<Value>>, Error> {
        rows(self.connection, sql, parameters)
    }

    /// Runs one statement of ours.
    ///
    /// # Errors
    /// Those of SQLite.
    pub fn execute(&self, sql: &str, parameters: &[Value]) -> Result<(), Error> {
        let done = self.connection.execute(sql, rusqlite::params_from_iter(parameters));
        done.map(drop).map_err(|e| Error::new("write the history of migrations", e))
    }

    /// Counts everything.
    ///
    /// # Errors
    /// Those of SQLite.
    pub fn census(&self) -> Result<Census, Error> {
        census(self.connection)
    }

    /// Runs a file's statements. When one fails, the whole transaction is to be given up.
    ///
    /// # Errors
    /// The first statement that failed or is refused, with its line.
    pub fn run(&mut self, sql: &str) -> Result<Aims, Stopped> {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let noted = seen.clone();
        let hooked = self.connection.authorizer(Some(move |context: AuthContext<'_>| {
            judge(&context.action, &mut noted.lock().unwrap_or_else(PoisonError::into_inner))
        }));
        let ran = hooked
            .map_err(|e| Stopped { line: 1, message: e.to_string() })
            .and_then(|()| self.run_watched(sql, &seen));
        let unhooked = self.connection.authorizer(None::<fn(AuthContext<'_>) -> Authorization>);
        let aims = ran?;
        unhooked.map_err(|e| Stopped { line: 1, message: e.to_string() })?;
        Ok(aims)
    }

    fn run_watched(&self, sql: &str, seen: &Mutex<Seen>) -> Result<Aims, Stopped> {
        let mut aims = Aims::default();
        for (line, statement) in statements(sql) {
            let before = self.names().map_err(|e| Stopped { line, message: e.to_string() })?;
            let stopped = |e: rusqlite::Error| {
                let refused = seen.lock().unwrap_or_else(PoisonError::into_inner).refused.take();
                Stopped { line, message: refused.unwrap_or_else(|| e.to_string()) }
            };
            let mut statement = self.connection.prepare(statement).map_err(stopped)?;
            let mut results = statement.raw_query();
            while results.next().map_err(stopped)?.is_some() {}
            drop(results);
            drop(statement);
            let seen = std::mem::take(&mut *seen.lock().unwrap_or_else(PoisonError::into_inner));
            self.take_up(&mut aims, seen, &before).map_err(|e| Stopped { line, message: e.to_string() })?;
        }
        Ok(aims)
    }

    /// The tables by their root pages, which a rename keeps.
    fn names(&self) -> Result<BTreeMap<i64, String>, Error> {
        let read = || -> rusqlite::Result<BTreeMap<i64, String>> {
            let mut tables = self
                .connection
                .prepare("SELECT rootpage, name FROM sqlite_schema WHERE type = 'table' AND rootpage > 0")?;
            tables.query_map([], |r| Ok((r.get(0)?, r.get(1)?)))?.collect()
        };
        read().map_err(|e| Error::new("read the schema", e))
    }

    fn take_up(&self, aims: &mut Aims, seen: Seen, before: &BTreeMap<i64, String>) -> Result<(), Error> {
        // DROP TABLE deletes from the schema and from the table, and drops its triggers; only the table was named.
        if seen.dropped_tables.is_empty() {
            aims.deleted_from.extend(seen.deleted_from);
            aims.dropped.extend(seen.dropped_others);
        }
        aims.dropped.extend(seen.dropped_tables);
        if !seen.altered.is_empty() {
            for (root, name) in self.names()? {
                if let Some(old) = before.get(&root).filter(|old| **old != name) {
                    let oldest = aims.renamed.remove(old).unwrap_or_else(|| old.clone());
                    aims.renamed.insert(name, oldest);
                }
            }
        }
        Ok(())
    }

    /// Makes everything so, durably.
    ///
    /// # Errors
    /// Those of SQLite; nothing has happened then.
    pub fn commit(mut self) -> Result<(), Error> {
        self.connection.execute_batch("COMMIT").map_err(|e| Error::new("commit the migration", e))?;
        self.open = false;
        Ok(())
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        if self.open {
            // A failure means that SQLite has rolled back by itself.
            let _ = self.connection.execute_batch("ROLLBACK");
        }
    }
}

fn judge(action: &AuthAction<'_>, seen: &mut Seen) -> Authorization {
    let mut refuse = |why: &str| {
        seen.refused = Some(why.to_owned());
        Authorization::Deny
    };
    match action {
        AuthAction::Transaction { operation: TransactionOperation::Rollback } => {
            refuse("ROLLBACK would undo half of the migration: it is one transaction, which ends by itself")
        }
        // The whole file is one transaction already.
        AuthAction::Transaction { .. } => Authorization::Ignore,
        AuthAction::Attach { .. } | AuthAction::Detach { .. } => refuse(
            "ATTACH and DETACH do not work in a transaction, and what is done to another file is in no backup of this one",
        ),
        AuthAction::Pragma { pragma_name, pragma_value } => match pragma_name.to_ascii_lowercase().as_str() {
            "foreign_keys" | "defer_foreign_keys" if pragma_value.is_some() => Authorization::Ignore,
            "journal_mode" if pragma_value.is_some() => {
                refuse("the journal mode cannot change in a transaction: `litekeep tune` sets it")
            }
            _ => Authorization::Allow,
        },
        AuthAction::Delete { table_name } => {
            seen.deleted_from.push((*table_name).to_owned());
            Authorization::Allow
        }
        AuthAction::DropTable { table_name } | AuthAction::DropVtable { table_name, .. } => {
            seen.dropped_tables.push((*table_name).to_owned());
            Authorization::Allow
        }
        AuthAction::DropIndex { index_name: name, .. }
        | AuthAction::DropTrigger { trigger_name: name, .. }
        | AuthAction::DropView { view_name: name } => {
            seen.dropped_others.push((*name).to_owned());
            Authorization::Allow
        }
        AuthAction::AlterTable { table_name, .. } => {
            seen.altered.push((*table_name).to_owned());
            Authorization::Allow
        }
        _ => Authorization::Allow,
    }
}

/// The statements of a file, each with the line in which it begins, from 1, and without its semicolon.
pub fn statements(sql: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut text = Text::new(sql);
    let (mut at, mut line) = (0, 1);
    std::iter::from_fn(move || {
        let begin = sql.len() - skip_blank(&sql[at..]).len();
        let end = text.statement_end(begin);
        let first = line + newlines(&sql[at..begin]);
        (at, line) = (end, first + newlines(&sql[begin..end]));
        (begin < end).then(|| (first, sql[begin..end].trim_end_matches(';')))
    })
}

fn newlines(sql: &str) -> usize {
    sql.bytes().filter(|byte| *byte == b'\n').count()
}

/// What is left behind blanks, comments and empty statements.
fn skip_blank(sql: &str) -> &str {
    let mut rest = sql;
    loop {
        let trimmed =
            rest.trim_start_matches(|c: char| c.is_ascii_whitespace() || c == ';' || c == '\u{feff}');
        let after = match trimmed {
            t if t.starts_with("--") => t.split_once('\n').map_or("", |(_, rest)| rest),
            t if t.starts_with("/*") => t[2..].split_once("*/").map_or("", |(_, rest)| rest),
            t => return t,
        };
        rest = after;
    }
}

/// SQL that SQLite may look at up to any byte, without a copy for each look.
struct Text(Vec<u8>);

impl Text {
    fn new(sql: &str) -> Text {
        Text([sql.as_bytes(), &[0]].concat())
    }

    /// Where the statement that begins there ends, by SQLite's own rule (`sqlite3_complete` knows the bodies of triggers).
    fn statement_end(&mut self, begin: usize) -> usize {
        let end = self.0.len() - 1;
        let mut at = begin;
        while at < end {
            if self.0[at] == b';' && self.is_complete(begin, at + 1) {
                return at + 1;
            }
            at = self.token_end(at);
        }
        end
    }

    /// Where a string, a name in quotes or a comment ends; else the next byte. SQLite is not asked about semicolons in these, since
    /// each time it reads the statement from its start.
    fn token_end(&self, at: usize) -> usize {
        let after = |opening: usize, closing: &[u8]| {
            let rest = &self.0[at + opening..];
            let found = rest.windows(closing.len()).position(|bytes| bytes == closing);
            found.map_or(self.0.len() - 1, |found| at + opening + found + closing.len())
        };
        match &self.0[at..] {
            [quote @ (b'\'' | b'"' | b'`'), ..] => after(1, &[*quote]),
            [b'[', ..] => after(1, b"]"),
            [b'-', b'-', ..] => after(2, b"\n"),
            [b'/', b'*', ..] => after(2, b"*/"),
            _ => at + 1,
        }
    }

    fn is_complete(&mut self, begin: usize, end: usize) -> bool {
        let next = std::mem::replace(&mut self.0[end], 0);
        // SAFETY: the argument is a NUL-terminated string that outlives the call.
        #[allow(unsafe_code)]
        let complete = unsafe { rusqlite::ffi::sqlite3_complete(self.0[begin..].as_ptr().cast()) };
        self.0[end] = next;
        complete == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_are_what_sqlite_takes_for_them() {
        let sql = "-- a; b\n;;SELECT 'x;''y', \"a;\", [b;], `c;` -- d;\n/* e; */;\n\
                   CREATE TRIGGER t AFTER INSERT ON a BEGIN\nSELECT 1; SELECT ';';\nEND;\n\nSELECT 2";
        let found: Vec<_> = statements(sql).collect();
        assert_eq!(found.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [2, 4, 8]);
        assert!(found[0].1.starts_with("SELECT 'x") && found[0].1.ends_with("/* e; */"), "{found:?}");
        assert!(found[1].1.ends_with("\nEND"), "{found:?}");
        assert_eq!(found[2].1, "SELECT 2");
        for open in ["SELECT 'a; b", "SELECT 1 /* ; ", "SELECT 1 -- ;", "SELECT \0 1; SELECT 2;"] {
            assert_eq!(statements(open).count(), 1, "{open}");
        }
    }

    #[test]
    fn a_large_file_is_read_in_one_pass() {
        let many = "INSERT INTO t VALUES(1, 'some text');\n".repeat(2 << 20 >> 5);
        let one = format!("INSERT INTO t VALUES('{}');", "&amp;".repeat(2 << 20 >> 2));
        let begin = std::time::Instant::now();
        assert_eq!(statements(&many).last().unwrap().0, 2 << 20 >> 5);
        assert_eq!(statements(&one).count(), 1);
        assert!(begin.elapsed() < std::time::Duration::from_secs(10), "it took {:?}", begin.elapsed());
    }
}
