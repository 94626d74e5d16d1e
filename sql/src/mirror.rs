//! A database some of whose tables are kept as another server has them.
//!
//! Promises:
//! - What it writes are ordinary transactions: triggers run, other connections see each whole or not at all, and one that is committed
//!   outlives a power cut (`synchronous = FULL`). Foreign keys are not enforced: the server has checked them, and rows come in its order.
//! - How far a mirror is stands in `_litekeep_sync`, the only table of ours, and is committed together with the rows.
//! - A row that the table forbids is an answer, not an error, and leaves nothing.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use litekeep_format::Value;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension as _};
use serde::{Deserialize, Serialize};

use crate::parameter::{Parameter, value};
use crate::{Error, Written, quoted};

/// The table that keeps how far mirrors are.
pub const SYNC_TABLE: &str = "_litekeep_sync";
const FORGET: &str = "forget how far the sync is";
/// How long a transaction waits for other writers.
const PATIENCE: Duration = Duration::from_secs(10);
/// Rows that are deleted at once.
const SWEPT: usize = 1_000;

/// A table that is kept as a server has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MirrorTable {
    /// Its name.
    pub name: String,
    /// Its columns.
    pub columns: Vec<MirrorColumn>,
    /// Which of them are its key. Empty where it has none and its rows only come: nothing tells one from another.
    pub key: Vec<usize>,
    /// Indexes by their names, each with its columns. They forbid nothing: what must be unique the server has checked.
    pub indexes: Vec<(String, Vec<usize>)>,
    /// What it forbids and supplies by itself; nothing, where a server goes on to do that.
    #[serde(default)]
    pub rules: MirrorRules,
}

/// What a table does by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MirrorRules {
    /// What columns have by default, as expressions of SQL.
    pub defaults: BTreeMap<usize, String>,
    /// The indexes, by their places, that are unique.
    pub unique: Vec<usize>,
    /// Its foreign keys.
    pub foreign_keys: Vec<MirrorForeignKey>,
}

/// A foreign key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MirrorForeignKey {
    /// Its columns.
    pub columns: Vec<usize>,
    /// The table that it refers to, by its name here.
    pub parent: String,
    /// The columns of that.
    pub parent_columns: Vec<String>,
    /// What follows: `ON DELETE CASCADE` and the like.
    pub actions: String,
}

/// A column of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MirrorColumn {
    /// Its name.
    pub name: String,
    /// Its type.
    pub declared: String,
    /// NULL does not come.
    pub is_not_null: bool,
}

impl MirrorTable {
    /// The statement that makes it.
    pub fn create(&self) -> String {
        // A key of one integer is the rowid itself.
        let rowid = match self.key.as_slice() {
            [only] if self.columns[*only].declared == "INTEGER" => Some(*only),
            _ => None,
        };
        let column = |(nth, column): (usize, &MirrorColumn)| {
            let rule = match (rowid == Some(nth), column.is_not_null) {
                (true, _) => " PRIMARY KEY",
                (false, true) => " NOT NULL",
                (false, false) => "",
            };
            let default =
                self.rules.defaults.get(&nth).map_or(String::new(), |text| format!(" DEFAULT ({text})"));
            format!("{} {}{rule}{default}", quoted(&column.name), column.declared)
        };
        let mut parts: Vec<String> = self.columns.iter().enumerate().map(column).collect();
        if rowid.is_none() && !self.key.is_empty() {
            parts.push(format!("PRIMARY KEY ({})", self.names(&self.key)));
        }
        parts.extend(self.rules.foreign_keys.iter().map(|key| {
            let of: Vec<String> = key.parent_columns.iter().map(|name| quoted(name)).collect();
            let (columns, parent, of) = (self.names(&key.columns), quoted(&key.parent), of.join(", "));
            format!("FOREIGN KEY ({columns}) REFERENCES {parent}({of}){}", key.actions)
        }));
        format!("CREATE TABLE {}({})", quoted(&self.name), parts.join(", "))
    }

    /// The statements that make its indexes, where they are not there.
    pub fn create_indexes(&self) -> impl Iterator<Item = String> {
        self.indexes.iter().enumerate().map(|(nth, (name, columns))| {
            let (index, table) = (quoted(name), quoted(&self.name));
            let unique = if self.rules.unique.contains(&nth) { "UNIQUE " } else { "" };
            format!("CREATE {unique}INDEX IF NOT EXISTS {index} ON {table}({})", self.names(columns))
        })
    }

    /// The table with these of its columns, the key among them, and with the indexes that need no other.
    pub fn only(&self, places: &[usize]) -> MirrorTable {
        let place = |nth: &usize| places.iter().position(|place| place == nth);
        let all = |columns: &[usize]| columns.iter().map(place).collect::<Option<Vec<usize>>>();
        let indexes = self.indexes.iter().enumerate();
        let (stay, indexes): (Vec<usize>, _) =
            indexes.filter_map(|(nth, (name, columns))| Some((nth, (name.clone(), all(columns)?)))).unzip();
        let unique = stay.iter().enumerate().filter(|(_, nth)| self.rules.unique.contains(nth));
        let foreign_keys = self.rules.foreign_keys.iter();
        let rules = MirrorRules {
            defaults: (self.rules.defaults.iter())
                .filter_map(|(nth, text)| Some((place(nth)?, text.clone())))
                .collect(),
            unique: unique.map(|(place, _)| place).collect(),
            foreign_keys: foreign_keys
                .filter_map(|key| Some(MirrorForeignKey { columns: all(&key.columns)?, ..key.clone() }))
                .collect(),
        };
        MirrorTable {
            name: self.name.clone(),
            columns: places.iter().map(|nth| self.columns[*nth].clone()).collect(),
            key: self.key.iter().filter_map(place).collect(),
            indexes,
            rules,
        }
    }

    fn names(&self, columns: &[usize]) -> String {
        columns.iter().map(|nth| quoted(&self.columns[*nth].name)).collect::<Vec<_>>().join(", ")
    }

    fn upsert(&self) -> String {
        let all: Vec<usize> = (0..self.columns.len()).collect();
        let others: Vec<usize> = all.iter().copied().filter(|nth| !self.key.contains(nth)).collect();
        let places = vec!["?"; all.len()].join(", ");
        let (table, names, key) = (quoted(&self.name), self.names(&all), self.names(&self.key));
        if key.is_empty() {
            return format!("INSERT OR ABORT INTO {table}({names}) VALUES({places})");
        }
        let action = if others.is_empty() {
            "NOTHING".to_owned()
        } else {
            let name = |nth: &usize| quoted(&self.columns[*nth].name);
            let set: Vec<String> =
                others.iter().map(name).map(|name| format!("{name} = excluded.{name}")).collect();
            // One that is there as it comes is not written again.
            let differs: Vec<String> = (others.iter().map(name))
                .map(|name| format!("{table}.{name} IS NOT excluded.{name}"))
                .collect();
            format!("UPDATE SET {} WHERE {}", set.join(", "), differs.join(" OR "))
        };
        // Whatever the table says of conflicts: no other row gives way.
        format!("INSERT OR ABORT INTO {table}({names}) VALUES({places}) ON CONFLICT({key}) DO {action}")
    }

    /// The keys of rows that are not noted.
    fn unseen(&self) -> String {
        let same: Vec<String> = (self.key.iter().enumerate())
            .map(|(place, nth)| format!("s.k{place} IS t.{}", quoted(&self.columns[*nth].name)))
            .collect();
        let key: Vec<String> =
            self.key.iter().map(|nth| format!("t.{}", quoted(&self.columns[*nth].name))).collect();
        format!(
            "SELECT {} FROM {} AS t WHERE NOT EXISTS (SELECT 1 FROM temp._litekeep_seen AS s WHERE {}) LIMIT ?1",
            key.join(", "),
            quoted(&self.name),
            same.join(" AND ")
        )
    }

    /// A condition that the key has the values from a parameter on.
    fn is_key(&self, first: usize) -> String {
        let term = |(nth, column): (usize, &usize)| {
            format!("{} IS ?{}", quoted(&self.columns[*column].name), first + nth)
        };
        self.key.iter().enumerate().map(term).collect::<Vec<_>>().join(" AND ")
    }
}

/// The name of a column that is there, and whether it wants a value.
type Found = (String, bool);

/// The files that mirrors of this process have open, by device and inode.
static OPEN: Mutex<Vec<(u64, u64)>> = Mutex::new(Vec::new());

fn open_files() -> MutexGuard<'static, Vec<(u64, u64)>> {
    OPEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a mirror of this process has the file of this device and inode open, so that closing any other descriptor of it would
/// drop the mirror's locks.
pub fn is_mirrored(file: (u64, u64)) -> bool {
    open_files().contains(&file)
}

/// A connection that writes what comes.
#[derive(Debug)]
pub struct Mirror {
    connection: Connection,
    path: PathBuf,
    /// Which file it is. After the connection, which is closed first.
    file: Option<Registered>,
    /// Under which it keeps how far it is.
    name: String,
}

/// A file that a mirror has open, by device and inode.
#[derive(Debug)]
struct Registered((u64, u64));

impl Registered {
    fn of(path: &Path) -> Option<Registered> {
        let file = identity(path)?;
        open_files().push(file);
        Some(Registered(file))
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut open = open_files();
        if let Some(at) = open.iter().position(|file| *file == self.0) {
            open.swap_remove(at);
        }
    }
}

impl Mirror {
    /// Opens a database; `name` is the mirror's. With `creates` one that is not there is made, in WAL mode.
    ///
    /// # Errors
    /// `Unavailable` when the file cannot be opened, `Corrupt` when it is no database.
    pub fn open(path: &Path, name: &str, creates: bool) -> Result<Mirror, Error> {
        // Before there is a lock to be lost.
        let known = Registered::of(path);
        let open = || {
            let is_new = creates && !path.exists();
            let mut flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            flags.set(OpenFlags::SQLITE_OPEN_CREATE, is_new);
            let connection = Connection::open_with_flags(path, flags)?;
            connection.busy_timeout(PATIENCE)?;
            connection.set_prepared_statement_cache_capacity(256);
            if is_new {
                connection.pragma_update(None, "journal_mode", "wal")?;
            }
            connection.pragma_update(None, "foreign_keys", false)?;
            connection.pragma_update(None, "synchronous", "FULL")?;
            // Reads the header, so that a file of another kind is refused here.
            connection.query_row("SELECT count(*) FROM sqlite_schema", (), |_| Ok(()))?;
            Ok(connection)
        };
        let connection = open().map_err(|e| Error::new("open the database", e))?;
        // One that was made just now.
        let file = known.or_else(|| Registered::of(path));
        Ok(Mirror { connection, path: path.to_owned(), file, name: name.to_owned() })
    }

    /// Begins a transaction: one that keeps other writers waiting, or one that reads, and notes.
    ///
    /// # Errors
    /// `Busy` when another connection writes for long, `Unavailable` when there is another file under the name now: what were
    /// written would be nowhere.
    pub fn begin(&self, to_write: bool) -> Result<(), Error> {
        const BEGIN: &str = "begin a transaction";
        if identity(&self.path) != self.file.as_ref().map(|file| file.0) {
            let message = format!("`{}` is another file now", self.path.display());
            return Err(Error::Unavailable { context: BEGIN, message });
        }
        self.run(BEGIN, if to_write { "BEGIN IMMEDIATE" } else { "BEGIN" })
    }

    /// Commits the transaction.
    ///
    /// # Errors
    /// What SQLite refuses; the transaction is still open then.
    pub fn commit(&self) -> Result<(), Error> {
        self.run("commit a transaction", "COMMIT")
    }

    /// Ends the transaction without effect.
    pub fn roll_back(&self) {
        if !self.connection.is_autocommit() {
            let _ = self.connection.execute_batch("ROLLBACK");
        }
    }

    fn run(&self, doing: &'static str, sql: &str) -> Result<(), Error> {
        self.connection.execute_batch(sql).map_err(|e| Error::new(doing, e))
    }

    /// What is kept of this mirror, by item.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn items(&self) -> Result<BTreeMap<String, String>, Error> {
        if !self.has_table(SYNC_TABLE)? {
            return Ok(BTreeMap::new());
        }
        let read = || {
            let sql = format!("SELECT item, content FROM {SYNC_TABLE} WHERE name = ?1");
            let mut select = self.connection.prepare_cached(&sql)?;
            let rows = select.query_map([&self.name], |row| Ok((row.get(0)?, row.get(1)?)))?;
            rows.collect::<rusqlite::Result<_>>()
        };
        read().map_err(|e| Error::new("read how far the sync is", e))
    }

    /// One item of it.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn item(&self, item: &str) -> Result<Option<String>, Error> {
        if !self.has_table(SYNC_TABLE)? {
            return Ok(None);
        }
        let sql = format!("SELECT content FROM {SYNC_TABLE} WHERE name = ?1 AND item = ?2");
        self.connection
            .prepare_cached(&sql)
            .and_then(|mut select| select.query_row([&self.name, item], |row| row.get(0)).optional())
            .map_err(|e| Error::new("read how far the sync is", e))
    }

    /// Keeps an item, within a transaction, or takes it away. Whether it was not there before, or is not any more.
    ///
    /// # Errors
    /// What SQLite refuses.
    pub fn set(&self, item: &str, content: Option<&str>) -> Result<bool, Error> {
        let set = || {
            let create = format!(
                "CREATE TABLE IF NOT EXISTS {SYNC_TABLE}(name TEXT, item TEXT, content TEXT NOT NULL, PRIMARY KEY(name, item)) WITHOUT ROWID"
            );
            self.connection.execute_batch(&create)?;
            let Some(content) = content else {
                let sql = format!("DELETE FROM {SYNC_TABLE} WHERE name = ?1 AND item = ?2");
                return Ok(self.connection.prepare_cached(&sql)?.execute([&self.name, item])? > 0);
            };
            let sql = format!("UPDATE {SYNC_TABLE} SET content = ?3 WHERE name = ?1 AND item = ?2");
            if self.connection.prepare_cached(&sql)?.execute([&self.name, item, content])? > 0 {
                return Ok(false);
            }
            let sql = format!("INSERT INTO {SYNC_TABLE} VALUES(?1, ?2, ?3)");
            self.connection.prepare_cached(&sql)?.execute([&self.name, item, content]).map(|_| true)
        };
        set().map_err(|e| Error::new("keep how far the sync is", e))
    }

    /// Keeps nothing of this mirror any more, and has no table of ours where that was all. Rows stay.
    ///
    /// # Errors
    /// What SQLite refuses.
    pub fn forget(&self) -> Result<(), Error> {
        self.begin(true)?;
        let forget = || {
            if self.has_table(SYNC_TABLE)? {
                let of = format!("DELETE FROM {SYNC_TABLE} WHERE name = ?1");
                self.connection.execute(&of, [&self.name]).map_err(|e| Error::new(FORGET, e))?;
                let any = format!("SELECT 1 FROM {SYNC_TABLE} LIMIT 1");
                let is_kept = self.connection.prepare(&any).and_then(|mut select| select.exists(()));
                if !is_kept.map_err(|e| Error::new(FORGET, e))? {
                    self.run(FORGET, &format!("DROP TABLE {SYNC_TABLE}"))?;
                }
            }
            self.commit()
        };
        forget().inspect_err(|_| self.roll_back())
    }

    /// Whether a table is there.
    ///
    /// # Errors
    /// When the schema cannot be read.
    pub fn has(&self, table: &MirrorTable) -> Result<bool, Error> {
        self.has_table(&table.name)
    }

    fn has_table(&self, name: &str) -> Result<bool, Error> {
        self.connection
            .prepare_cached("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?1 COLLATE NOCASE")
            .and_then(|mut select| select.exists([name]))
            .map_err(|e| Error::new("read the schema", e))
    }

    /// Makes a table, within a transaction, or takes one that is there when it is empty and can hold what comes. `Err` in it: why not.
    ///
    /// # Errors
    /// What SQLite refuses.
    pub fn make(&self, table: &MirrorTable) -> Result<Result<(), String>, Error> {
        if !self.has_table(&table.name)? {
            self.run("make a table", &table.create())?;
            return Ok(Ok(()));
        }
        let look = || {
            let (found, key) = self.columns_of(&table.name)?;
            let has = |name: &str| found.iter().any(|(found, _)| found.eq_ignore_ascii_case(name));
            if let Some(missing) = table.columns.iter().find(|column| !has(&column.name)) {
                return Ok(Err(format!("has no column `{}`", missing.name)));
            }
            let comes =
                |name: &str| table.columns.iter().any(|column| column.name.eq_ignore_ascii_case(name));
            if let Some((name, _)) = found.iter().find(|(name, must)| *must && !comes(name)) {
                return Ok(Err(format!("its column `{name}` wants a value, and none comes")));
            }
            let mut wanted: Vec<String> =
                table.key.iter().map(|nth| table.columns[*nth].name.to_lowercase()).collect();
            let mut key: Vec<String> = key.iter().map(|name| name.to_lowercase()).collect();
            wanted.sort();
            key.sort();
            if wanted != key {
                let wanted = match table.key.as_slice() {
                    [] => "it has a primary key, and what comes has none".to_owned(),
                    key => format!("its primary key is not ({})", table.names(key)),
                };
                return Ok(Err(wanted));
            }
            let any = format!("SELECT 1 FROM {} LIMIT 1", quoted(&table.name));
            if self.connection.prepare(&any)?.exists(())? {
                return Ok(Err("has rows, which are not overwritten".to_owned()));
            }
            Ok(Ok(()))
        };
        look().map_err(|e| Error::new("look into a table", e))
    }

    /// Whether a table has rows.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn has_rows(&self, table: &MirrorTable) -> Result<bool, Error> {
        let any = format!("SELECT 1 FROM {} LIMIT 1", quoted(&table.name));
        let look = || self.connection.prepare(&any)?.exists(());
        look().map_err(|e| Error::new("look into a table", e))
    }

    /// The columns, and the names of those of the primary key.
    fn columns_of(&self, table: &str) -> rusqlite::Result<(Vec<Found>, Vec<String>)> {
        let sql = "SELECT name, \"notnull\" AND dflt_value IS NULL, pk FROM pragma_table_info(?1)";
        let mut select = self.connection.prepare_cached(sql)?;
        let rows = select.query_map([table], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        let rows: Vec<(String, bool, i64)> = rows.collect::<Result<_, _>>()?;
        let key = rows.iter().filter(|(.., pk)| *pk > 0).map(|(name, ..)| name.clone()).collect();
        // A rowid gives itself.
        Ok((rows.into_iter().map(|(name, must, pk)| (name, must && pk == 0)).collect(), key))
    }

    /// Gives a table the columns that it lacks, within a transaction. Rows that are there have NULL in them.
    ///
    /// # Errors
    /// What SQLite refuses.
    pub fn add_columns(&self, table: &MirrorTable) -> Result<(), Error> {
        let add = || {
            let (found, _) = self.columns_of(&table.name)?;
            for column in &table.columns {
                if !found.iter().any(|(name, _)| name.eq_ignore_ascii_case(&column.name)) {
                    let (name, declared) = (quoted(&column.name), &column.declared);
                    let sql = format!("ALTER TABLE {} ADD COLUMN {name} {declared}", quoted(&table.name));
                    self.connection.execute_batch(&sql)?;
                }
            }
            Ok(())
        };
        add().map_err(|e| Error::new("add columns to a table", e))
    }

    /// Takes the columns out of a table that it is not to have any more, with their indexes, within a transaction.
    ///
    /// # Errors
    /// What SQLite refuses: something of somebody else's may need them.
    pub fn drop_columns(&self, before: &MirrorTable, table: &MirrorTable) -> Result<(), Error> {
        let stays = |name: &str| table.columns.iter().any(|column| column.name.eq_ignore_ascii_case(name));
        let goes = |nth: &usize| !stays(&before.columns[*nth].name);
        let take_out = || {
            for (index, _) in before.indexes.iter().filter(|(_, columns)| columns.iter().any(goes)) {
                self.connection.execute_batch(&format!("DROP INDEX IF EXISTS {}", quoted(index)))?;
            }
            let (found, _) = self.columns_of(&table.name)?;
            for (name, _) in &found {
                let is_ours = before.columns.iter().any(|column| column.name.eq_ignore_ascii_case(name));
                if is_ours && !stays(name) {
                    let sql = format!("ALTER TABLE {} DROP COLUMN {}", quoted(&table.name), quoted(name));
                    self.connection.execute_batch(&sql)?;
                }
            }
            Ok(())
        };
        take_out().map_err(|e| Error::new("drop columns of a table", e))
    }

    /// Makes the indexes of a table that are not there.
    ///
    /// # Errors
    /// What SQLite refuses.
    pub fn make_indexes(&self, table: &MirrorTable) -> Result<(), Error> {
        table.create_indexes().try_for_each(|sql| self.run("make an index", &sql))
    }

    /// Writes a row, whether it is there or not; of a table without a key one more.
    ///
    /// # Errors
    /// What SQLite refuses, but for constraints.
    pub fn put(&self, table: &MirrorTable, row: &[Value]) -> Result<Written, Error> {
        self.write(&table.upsert(), row.iter())
    }

    /// Changes those columns of a row that have a value; its key may be among them.
    ///
    /// # Errors
    /// What SQLite refuses, but for constraints.
    pub fn change(
        &self,
        table: &MirrorTable,
        key: &[Value],
        row: &[Option<Value>],
    ) -> Result<Written, Error> {
        let given: Vec<(usize, &Value)> =
            row.iter().enumerate().filter_map(|(nth, value)| Some((nth, value.as_ref()?))).collect();
        let set: Vec<String> = (given.iter().enumerate())
            .map(|(place, (nth, _))| format!("{} = ?{}", quoted(&table.columns[*nth].name), place + 1))
            .collect();
        let (name, condition) = (quoted(&table.name), table.is_key(given.len() + 1));
        let sql = format!("UPDATE OR ABORT {name} SET {} WHERE {condition}", set.join(", "));
        self.write(&sql, given.iter().map(|(_, value)| *value).chain(key))
    }

    /// Deletes a row, when it is there.
    ///
    /// # Errors
    /// What SQLite refuses, but for constraints.
    pub fn delete(&self, table: &MirrorTable, key: &[Value]) -> Result<Written, Error> {
        self.write(&format!("DELETE FROM {} WHERE {}", quoted(&table.name), table.is_key(1)), key.iter())
    }

    /// Deletes all rows.
    ///
    /// # Errors
    /// What SQLite refuses, but for constraints.
    pub fn clear(&self, table: &MirrorTable) -> Result<Written, Error> {
        self.write(&format!("DELETE FROM {}", quoted(&table.name)), [].iter())
    }

    fn write<'v>(&self, sql: &str, values: impl Iterator<Item = &'v Value>) -> Result<Written, Error> {
        let parameters = rusqlite::params_from_iter(values.map(Parameter));
        let done =
            self.connection.prepare_cached(sql).and_then(|mut statement| statement.execute(parameters));
        match done {
            Ok(rows) => Ok(Written::Rows(rows)),
            Err(e) if is_about_data(&e) && !self.connection.is_autocommit() => {
                Ok(Written::Forbidden(e.to_string()))
            }
            Err(e) => Err(Error::new("write a row", e)),
        }
    }

    /// Begins to note which rows there shall be, instead of others that were noted before. Within this connection only.
    ///
    /// # Errors
    /// What SQLite refuses.
    pub fn begin_sweep(&self, table: &MirrorTable) -> Result<(), Error> {
        let begin = || {
            let sql = "SELECT type FROM pragma_table_info(?1) WHERE name = ?2 COLLATE NOCASE";
            let mut select = self.connection.prepare_cached(sql)?;
            let (mut columns, mut names) = (vec![], vec![]);
            for (place, nth) in table.key.iter().enumerate() {
                // Of the very type that the column has here, or each comparison would read them all.
                let declared: String =
                    select.query_row([&table.name, &table.columns[*nth].name], |row| row.get(0))?;
                columns.push(format!("k{place} {declared}"));
                names.push(format!("k{place}"));
            }
            let (columns, names) = (columns.join(", "), names.join(", "));
            self.connection.execute_batch(&format!(
                "DROP TABLE IF EXISTS temp._litekeep_seen; CREATE TEMP TABLE _litekeep_seen({columns}, PRIMARY KEY({names})) WITHOUT ROWID"
            ))
        };
        begin().map_err(|e| Error::new("note rows", e))
    }

    /// Notes that there shall be a row with this key.
    ///
    /// # Errors
    /// What SQLite refuses.
    pub fn keep(&self, key: &[Value]) -> Result<(), Error> {
        let places = vec!["?"; key.len()].join(", ");
        let sql = format!("INSERT OR IGNORE INTO temp._litekeep_seen VALUES({places})");
        self.write(&sql, key.iter()).map(drop)
    }

    /// The keys of rows that are not noted, so many at most.
    ///
    /// # Errors
    /// What SQLite refuses.
    pub fn unseen(&self, table: &MirrorTable, at_most: usize) -> Result<Vec<Vec<Value>>, Error> {
        let sql = table.unseen();
        let read = || {
            let mut select = self.connection.prepare_cached(&sql)?;
            let key = |row: &rusqlite::Row<'_>| {
                (0..table.key.len()).map(|nth| Ok(value(row.get_ref(nth)?))).collect()
            };
            let at_most = i64::try_from(at_most).unwrap_or(i64::MAX);
            select.query_map([at_most], key)?.collect::<rusqlite::Result<Vec<Vec<Value>>>>()
        };
        read().map_err(|e| Error::new("look for rows that are gone", e))
    }

    /// Deletes rows that are not noted, some at once; how many. Within a transaction.
    ///
    /// # Errors
    /// What SQLite refuses.
    pub fn sweep(&self, table: &MirrorTable) -> Result<usize, Error> {
        let gone = self.unseen(table, SWEPT)?;
        for key in &gone {
            self.delete(table, key)?;
        }
        Ok(gone.len())
    }

    /// The tables to which rows of a table refer that are not there, each with how many rows do so.
    ///
    /// # Errors
    /// What SQLite refuses.
    pub fn dangling(&self, table: &MirrorTable) -> Result<Vec<(String, i64)>, Error> {
        let sql = "SELECT parent, count(*) FROM pragma_foreign_key_check(?1) GROUP BY 1 ORDER BY 1";
        let read = || {
            let mut select = self.connection.prepare_cached(sql)?;
            let rows = select.query_map([&table.name], |row| Ok((row.get(0)?, row.get(1)?)))?;
            rows.collect::<rusqlite::Result<_>>()
        };
        read().map_err(|e| Error::new("check foreign keys", e))
    }

    /// Gives the values of each row, in no order.
    ///
    /// # Errors
    /// What SQLite refuses.
    pub fn each_row(&self, table: &MirrorTable, mut given: impl FnMut(Vec<Value>)) -> Result<(), Error> {
        let all: Vec<usize> = (0..table.columns.len()).collect();
        let sql = format!("SELECT {} FROM {}", table.names(&all), quoted(&table.name));
        let mut read = || {
            let mut select = self.connection.prepare_cached(&sql)?;
            let mut rows = select.query(())?;
            while let Some(row) = rows.next()? {
                let values = all.iter().map(|nth| Ok(value(row.get_ref(*nth)?)));
                given(values.collect::<rusqlite::Result<_>>()?);
            }
            Ok(())
        };
        read().map_err(|e| Error::new("read the rows of a table", e))
    }

    /// The values of a row.
    ///
    /// # Errors
    /// What SQLite refuses.
    pub fn row(&self, table: &MirrorTable, key: &[Value]) -> Result<Option<Vec<Value>>, Error> {
        let all: Vec<usize> = (0..table.columns.len()).collect();
        let (names, name) = (table.names(&all), quoted(&table.name));
        let sql = format!("SELECT {names} FROM {name} WHERE {}", table.is_key(1));
        let read = || {
            let mut select = self.connection.prepare_cached(&sql)?;
            let mut rows = select.query(rusqlite::params_from_iter(key.iter().map(Parameter)))?;
            let Some(row) = rows.next()? else { return Ok(None) };
            all.iter().map(|nth| Ok(value(row.get_ref(*nth)?))).collect::<rusqlite::Result<_>>().map(Some)
        };
        read().map_err(|e| Error::new("read a row", e))
    }
}

/// Which file has a name; `None`: none.
fn identity(path: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

/// Whether a row is to blame: a constraint, a trigger that refuses, a value that is too big.
fn is_about_data(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::ConstraintViolation | ErrorCode::TooBig | ErrorCode::TypeMismatch)
    )
}

#[cfg(test)]
mod tests;
