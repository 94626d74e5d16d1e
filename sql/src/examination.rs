//! Questions about a database that cost little, or are given up after a while.

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags, Row};

use crate::{Error, observer, quoted};

/// How often a long statement looks at its time, in SQLite's virtual instructions.
const LOOK_EVERY: i32 = 1000;
/// Tables with fewer rows are scanned as fast as they are searched.
const SMALL: u64 = 1000;
/// Statistics that are wrong by this factor can lead to another plan.
const FAR: u64 = 4;

/// A connection that looks at a database: it writes nothing, never checkpoints, also not when it is closed, and leaves
/// `-wal` and `-shm` as they are.
#[derive(Debug)]
pub struct Examiner {
    pub(crate) connection: Connection,
}

/// How the file is laid out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// `wal`, `delete`, ...
    pub journal_mode: String,
    /// Bytes of a page.
    pub page_size: u64,
    /// All pages.
    pub pages: u64,
    /// Pages that hold nothing.
    pub free_pages: u64,
    /// 0 none, 1 full, 2 incremental.
    pub auto_vacuum: u64,
    /// The application's own number.
    pub user_version: i64,
    /// The file's type, as the application has set it.
    pub application_id: i64,
}

/// A foreign key whose child rows can be found only by reading the whole table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unindexed {
    /// The child.
    pub table: String,
    /// Its columns.
    pub columns: Vec<String>,
    /// What they refer to.
    pub parent: String,
}

impl Unindexed {
    /// The statement that makes the index.
    pub fn create_index(&self) -> String {
        let columns: Vec<String> = self.columns.iter().map(|column| quoted(column)).collect();
        let name = quoted(&format!("{}_{}", self.table, self.columns.join("_")));
        format!("CREATE INDEX {name} ON {}({});", quoted(&self.table), columns.join(", "))
    }
}

/// What the query planner believes of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stale {
    /// The table.
    pub table: String,
    /// Its rows.
    pub rows: u64,
    /// Its rows by `sqlite_stat1`; `None`: it is not there.
    pub believed: Option<u64>,
}

impl Stale {
    /// The statement that counts anew.
    pub fn analyze(&self) -> String {
        format!("ANALYZE {};", quoted(&self.table))
    }
}

impl Examiner {
    /// Opens a database that exists.
    ///
    /// # Errors
    /// `Unavailable` when the file cannot be opened, `Corrupt` when it is no database.
    pub fn open(path: &Path) -> Result<Examiner, Error> {
        const OPEN: &str = "open the database";
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags).map_err(|e| Error::new(OPEN, e))?;
        let set = || -> rusqlite::Result<()> {
            connection.busy_timeout(Duration::from_secs(1))?;
            observer::never_checkpoint(&connection)?;
            connection.pragma_update(None, "query_only", true)
        };
        set().map_err(|e| Error::new(OPEN, e))?;
        Ok(Examiner { connection })
    }

    /// The file's layout.
    ///
    /// # Errors
    /// Those of SQLite.
    pub fn layout(&self) -> Result<Layout, Error> {
        let number =
            |pragma: &str| self.connection.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0));
        let count = |pragma: &str| number(pragma).map(i64::unsigned_abs);
        let read = || -> rusqlite::Result<Layout> {
            Ok(Layout {
                journal_mode: self.connection.pragma_query_value(None, "journal_mode", |row| row.get(0))?,
                page_size: count("page_size")?,
                pages: count("page_count")?,
                free_pages: count("freelist_count")?,
                auto_vacuum: count("auto_vacuum")?,
                user_version: number("user_version")?,
                application_id: number("application_id")?,
            })
        };
        read().map_err(|e| Error::new("read the layout", e))
    }

    /// The foreign keys, by table.
    ///
    /// # Errors
    /// Those of SQLite.
    pub fn foreign_keys(&self) -> Result<u64, Error> {
        let sql =
            format!("SELECT count(*) FROM {TABLES} JOIN pragma_foreign_key_list(t.name) k WHERE k.seq = 0");
        self.connection.query_row(&sql, (), |row| count(row, 0)).map_err(|e| Error::new("read the schema", e))
    }

    /// Foreign keys without an index that begins with their columns.
    ///
    /// # Errors
    /// Those of SQLite.
    pub fn unindexed_foreign_keys(&self) -> Result<Vec<Unindexed>, Error> {
        let sql = format!(
            "SELECT t.name, k.id, k.\"table\", k.\"from\" FROM {TABLES} JOIN pragma_foreign_key_list(t.name) k \
             ORDER BY t.name, k.id, k.seq"
        );
        let columns = self.rows("read the foreign keys", &sql, |row| {
            Ok((
                row.get::<_, String>(0)?,
                row.get::<_, i64>(1)?,
                row.get::<_, String>(2)?,
                row.get::<_, String>(3)?,
            ))
        })?;
        let mut keys: Vec<(i64, Unindexed)> = Vec::new();
        for (table, id, parent, column) in columns {
            match keys.last_mut().filter(|(last, key)| *last == id && key.table == table) {
                Some((_, key)) => key.columns.push(column),
                None => keys.push((id, Unindexed { table, columns: vec![column], parent })),
            }
        }
        let mut found = Vec::new();
        for (_, key) in keys {
            let known = self.index_columns(&key.table)?;
            if !known.iter().any(|index| begins_with(index, &key.columns)) && !found.contains(&key) {
                found.push(key);
            }
        }
        Ok(found)
    }

    /// The columns of each whole index of a table, the row id among them where it has a name.
    fn index_columns(&self, table: &str) -> Result<Vec<Vec<String>>, Error> {
        let doing = "read the indexes";
        let quoted = table.replace('\'', "''");
        let sql = format!(
            "SELECT i.name, c.name FROM pragma_index_list('{quoted}') i JOIN pragma_index_info(i.name) c \
             WHERE i.partial = 0 ORDER BY i.seq, c.seqno"
        );
        let mut indexes: Vec<(String, Vec<String>)> = Vec::new();
        for (index, column) in self.rows(doing, &sql, |row| {
            // An index on an expression has a column without a name.
            Ok((row.get::<_, String>(0)?, row.get::<_, Option<String>>(1)?.unwrap_or_default()))
        })? {
            match indexes.last_mut().filter(|(last, _)| *last == index) {
                Some((_, columns)) => columns.push(column),
                None => indexes.push((index, vec![column])),
            }
        }
        let row_id = format!(
            "SELECT name FROM pragma_table_info('{quoted}') WHERE pk = 1 AND upper(type) = 'INTEGER' \
             AND (SELECT max(pk) FROM pragma_table_info('{quoted}')) = 1"
        );
        let row_id = self.rows(doing, &row_id, |row| row.get::<_, String>(0))?;
        Ok(indexes
            .into_iter()
            .map(|(_, columns)| columns)
            .chain(row_id.into_iter().map(|id| vec![id]))
            .collect())
    }

    /// Rows that refer to nothing, counted by table; `None` when that takes longer than allowed.
    ///
    /// # Errors
    /// Those of SQLite.
    pub fn foreign_key_violations(&mut self, at_most: Duration) -> Result<Option<Vec<(String, u64)>>, Error> {
        let sql = "SELECT \"table\", count(*) FROM pragma_foreign_key_check GROUP BY 1 ORDER BY 1";
        self.bounded(at_most, |this| {
            this.rows("check the foreign keys", sql, |row| Ok((row.get(0)?, count(row, 1)?)))
        })
    }

    /// Tables whose statistics are missing or far from the truth, only those with an index that they could matter to;
    /// `None` when counting takes longer than allowed.
    ///
    /// # Errors
    /// Those of SQLite.
    pub fn stale_statistics(&mut self, at_most: Duration) -> Result<Option<Vec<Stale>>, Error> {
        let indexed = format!(
            "SELECT DISTINCT t.name FROM {TABLES} JOIN pragma_index_list(t.name) i WHERE i.partial = 0 ORDER BY 1"
        );
        let doing = "read the statistics";
        let tables = self.rows(doing, &indexed, |row| row.get::<_, String>(0))?;
        let believed = self.believed_rows()?;
        self.bounded(at_most, |this| {
            let mut stale = Vec::new();
            for table in tables {
                let sql = format!("SELECT count(*) FROM {}", quoted(&table));
                let counted = this.connection.query_row(&sql, (), |row| count(row, 0));
                let rows = counted.map_err(|e| interrupted(doing, e))?;
                let believed = believed.iter().find(|(name, _)| *name == table).map(|(_, rows)| *rows);
                if is_stale(rows, believed) {
                    stale.push(Stale { table, rows, believed });
                }
            }
            Ok(stale)
        })
    }

    fn believed_rows(&self) -> Result<Vec<(String, u64)>, Error> {
        let doing = "read the statistics";
        let has = "SELECT name FROM sqlite_schema WHERE name = 'sqlite_stat1'";
        if self.rows(doing, has, |row| row.get::<_, String>(0))?.is_empty() {
            return Ok(Vec::new());
        }
        // `stat` begins with the number of rows.
        let sql = "SELECT tbl, max(CAST(stat AS INTEGER)) FROM sqlite_stat1 GROUP BY tbl";
        self.rows(doing, sql, |row| Ok((row.get(0)?, count(row, 1)?)))
    }

    /// Tables that have no primary key of their own.
    ///
    /// # Errors
    /// Those of SQLite.
    pub fn tables_without_primary_key(&self) -> Result<Vec<String>, Error> {
        let sql = format!(
            "SELECT t.name FROM {TABLES} WHERE (SELECT max(pk) FROM pragma_table_info(t.name)) = 0 ORDER BY 1"
        );
        self.rows("read the schema", &sql, |row| row.get(0))
    }

    /// Views that read more than so many tables, with how many these are.
    ///
    /// # Errors
    /// Those of SQLite.
    pub fn wide_views(&self, tables: usize) -> Result<Vec<(String, usize)>, Error> {
        let names = "SELECT name FROM sqlite_schema WHERE type = 'view' ORDER BY 1";
        let mut wide = Vec::new();
        for view in self.rows("read the schema", names, |row| row.get::<_, String>(0))? {
            let plan = format!("EXPLAIN QUERY PLAN SELECT * FROM {}", quoted(&view));
            // A view of what is not there any more has no plan.
            let steps = self.rows("plan a view", &plan, |row| row.get::<_, String>(3)).unwrap_or_default();
            let reads = |step: &&String| step.starts_with("SCAN") || step.starts_with("SEARCH");
            let read = steps.iter().filter(reads).count();
            if read > tables {
                wide.push((view, read));
            }
        }
        Ok(wide)
    }

    pub(crate) fn rows<T>(
        &self,
        doing: &'static str,
        sql: &str,
        of: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, Error> {
        let mut statement = self.connection.prepare(sql).map_err(|e| interrupted(doing, e))?;
        let rows = statement.query_map((), of).and_then(Iterator::collect);
        rows.map_err(|e| interrupted(doing, e))
    }

    /// Runs `body`, whose statements end after a while.
    fn bounded<T>(
        &mut self,
        at_most: Duration,
        body: impl FnOnce(&Examiner) -> Result<T, Error>,
    ) -> Result<Option<T>, Error> {
        let begin = Instant::now();
        let failed = |e| Error::new("bound a statement", e);
        let is_over = move || begin.elapsed() > at_most;
        self.connection.progress_handler(LOOK_EVERY, Some(is_over)).map_err(failed)?;
        let outcome = body(self);
        self.connection.progress_handler(0, None::<fn() -> bool>).map_err(failed)?;
        match outcome {
            Ok(value) => Ok(Some(value)),
            Err(Error::Busy { context: GIVEN_UP }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The user's tables, as `t`; virtual ones may need a module that is not here.
const TABLES: &str = "(SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table' \
                      AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\') t";

/// How [`Examiner::bounded`] knows its own interruption.
const GIVEN_UP: &str = "wait for the answer";

fn interrupted(doing: &'static str, error: rusqlite::Error) -> Error {
    match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::OperationInterrupted) => Error::Busy { context: GIVEN_UP },
        _ => Error::new(doing, error),
    }
}

fn count(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(column).map(i64::unsigned_abs)
}

/// Whether the first columns of an index are these, in any order.
fn begins_with(index: &[String], columns: &[String]) -> bool {
    let is_among = |column: &String| columns.iter().any(|wanted| wanted.eq_ignore_ascii_case(column));
    index.len() >= columns.len() && index[..columns.len()].iter().all(is_among)
}

fn is_stale(rows: u64, believed: Option<u64>) -> bool {
    match believed {
        None => rows > SMALL,
        Some(believed) => rows.abs_diff(believed) > SMALL && rows.max(believed) > FAR * rows.min(believed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn examined(sql: &str) -> (tempfile::TempDir, Examiner) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        Connection::open(&path).unwrap().execute_batch(&format!("PRAGMA journal_mode = WAL; {sql}")).unwrap();
        let examiner = Examiner::open(&path).unwrap();
        (dir, examiner)
    }

    #[test]
    fn nothing_is_written() {
        let (_dir, examiner) = examined("CREATE TABLE t(n)");
        assert!(examiner.connection.execute_batch("INSERT INTO t VALUES(1)").is_err());
    }

    #[test]
    fn the_layout_is_that_of_the_file() {
        let (_dir, examiner) = examined(
            "PRAGMA user_version = 7; PRAGMA application_id = -9; CREATE TABLE t(x); \
             INSERT INTO t VALUES(zeroblob(100000)); DELETE FROM t",
        );
        let layout = examiner.layout().unwrap();
        assert_eq!((layout.journal_mode.as_str(), layout.page_size, layout.auto_vacuum), ("wal", 4096, 0));
        assert_eq!((layout.user_version, layout.application_id), (7, -9));
        assert!(layout.free_pages > 20 && layout.pages > layout.free_pages, "{layout:?}");
    }

    #[test]
    fn a_foreign_key_needs_an_index_that_begins_with_it() {
        let (_dir, examiner) = examined(
            "CREATE TABLE parent(id INTEGER PRIMARY KEY, a, b, UNIQUE(a, b));
             CREATE TABLE bare(parent_id REFERENCES parent, other_id INTEGER REFERENCES parent(id));
             CREATE INDEX other ON bare(other_id);
             CREATE TABLE swapped(x, y, FOREIGN KEY (x, y) REFERENCES parent(a, b));
             CREATE INDEX xy ON swapped(y, x);
             CREATE TABLE later(x, y, FOREIGN KEY (y) REFERENCES parent(id));
             CREATE INDEX later_xy ON later(x, y);
             CREATE TABLE partial_only(x REFERENCES parent(id));
             CREATE INDEX some ON partial_only(x) WHERE x > 7;
             CREATE TABLE same(id INTEGER PRIMARY KEY REFERENCES parent(id));
             CREATE TABLE \"o'dd \"\"name\"(x PRIMARY KEY REFERENCES parent(id)) WITHOUT ROWID",
        );
        assert_eq!(examiner.foreign_keys().unwrap(), 7);
        let found = examiner.unindexed_foreign_keys().unwrap();
        let lines: Vec<String> = found.iter().map(Unindexed::create_index).collect();
        assert_eq!(
            lines,
            [
                r#"CREATE INDEX "bare_parent_id" ON "bare"("parent_id");"#,
                r#"CREATE INDEX "later_y" ON "later"("y");"#,
                r#"CREATE INDEX "partial_only_x" ON "partial_only"("x");"#,
            ]
        );
    }

    #[test]
    fn rows_without_a_parent_are_counted_or_given_up() {
        let (_dir, mut examiner) = examined(
            "PRAGMA foreign_keys = OFF; CREATE TABLE parent(id INTEGER PRIMARY KEY);
             CREATE TABLE child(p REFERENCES parent);
             WITH n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n WHERE i < 20000) INSERT INTO child SELECT i FROM n",
        );
        let found = examiner.foreign_key_violations(LONG).unwrap();
        assert_eq!(found, Some(vec![("child".to_owned(), 20_000)]));
        assert_eq!(examiner.foreign_key_violations(Duration::ZERO).unwrap(), None);
        assert_eq!(
            examiner.foreign_key_violations(LONG).unwrap().unwrap().len(),
            1,
            "the bound is off again"
        );
    }

    #[test]
    fn statistics_age() {
        let rows =
            |n| format!("WITH n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n WHERE i < {n}) INSERT INTO");
        let (_dir, mut examiner) = examined(&format!(
            "CREATE TABLE old(x); CREATE INDEX old_x ON old(x); {} old SELECT i FROM n; ANALYZE;
             {} old SELECT i FROM n;
             CREATE TABLE never(x UNIQUE); {} never SELECT i FROM n;
             CREATE TABLE small(x UNIQUE); INSERT INTO small VALUES(1);
             CREATE TABLE no_index(x); {} no_index SELECT i FROM n",
            rows(100),
            rows(5000),
            rows(2000),
            rows(2000)
        ));
        let stale = examiner.stale_statistics(LONG).unwrap().unwrap();
        let of = |table: &str, rows, believed| Stale { table: table.to_owned(), rows, believed };
        assert_eq!(stale, [of("never", 2000, None), of("old", 5100, Some(100))]);
    }

    #[test]
    fn notes_about_tables_and_views() {
        let many: Vec<String> = (0..11).map(|n| format!("t AS t{n}")).collect();
        let (_dir, examiner) = examined(&format!(
            "CREATE TABLE t(x); CREATE TABLE k(a, b, PRIMARY KEY(a, b)); CREATE VIEW few AS SELECT * FROM t;
             CREATE VIEW many AS SELECT 1 FROM {}",
            many.join(", ")
        ));
        assert_eq!(examiner.tables_without_primary_key().unwrap(), ["t"]);
        assert_eq!(examiner.wide_views(10).unwrap(), [("many".to_owned(), 11)]);
    }
}
