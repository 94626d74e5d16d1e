//! Databases of every kind that SQLite has, and random transactions on them: what diffs of pages and of rows are tested
//! against.
//!
//! A seed gives the same database on every run, to the byte once it is checkpointed: all chance comes from the seed, in
//! SQL too, and no row holds the time. What a transaction did is told by two oracles that know nothing of pages:
//! [`Contents`] reads all rows by SQL, and [`Churn::record`] listens with SQLite's session extension.
//!
//! Statements fail now and then, as an application's do (a constraint, a table that another operation dropped). They are
//! counted by operation and message, in [`Churn::counts`]; what no application should meet (a damaged file, a syntax
//! error of ours) ends the test.

mod chance;
mod contents;
mod counts;
mod definition;
mod recording;
mod rows;
mod schema;
mod session;
mod setup;
mod table;
mod virtual_tables;

use std::cmp::Ordering;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use rusqlite::types::Value as Parameter;
use rusqlite::{Connection, params_from_iter};

use chance::Chance;
pub use contents::{Contents, Rows, Value};
pub use counts::{Count, Counts};
pub use recording::{Action, Change, Recorded, Recording};
use table::Table;

/// Where triggers write; never altered, so that they go on working.
const AUDIT: &str = "audit \"log\"";
const MOST_TABLES: usize = 9;
/// More rows are thinned out by [`Churn::shrink`].
const MOST_ROWS: i64 = 2500;

/// Makes `db` understand the collation `backwards` that tables of a [`Churn`] use: characters compared from the end.
/// Every connection that sorts or searches them needs it.
///
/// # Errors
/// When SQLite refuses it.
pub fn register(db: &Connection) -> rusqlite::Result<()> {
    let backwards = |a: &str, b: &str| -> Ordering { a.chars().rev().cmp(b.chars().rev()) };
    db.create_collation("backwards", backwards)
}

/// A database and the one connection that writes it. SQLite's checkpoints happen only by [`Churn::checkpoint`].
pub struct Churn {
    db: Connection,
    path: PathBuf,
    chance: Chance,
    counts: Counts,
    utf8: bool,
    has_constraints: bool,
}

/// When an operation may be chosen.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scope {
    /// Always: the schema stays as it is.
    Rows,
    Schema,
    /// Like `Schema`, where the application names its constraints and alters them.
    Constraints,
    /// Outside transactions only.
    Alone,
}

struct Operation {
    name: &'static str,
    weight: usize,
    scope: Scope,
    /// Says whether it changed anything.
    run: fn(&mut Churn, &Table) -> rusqlite::Result<bool>,
}

const fn operation(
    name: &'static str,
    weight: usize,
    scope: Scope,
    run: fn(&mut Churn, &Table) -> rusqlite::Result<bool>,
) -> Operation {
    Operation { name, weight, scope, run }
}

const OPERATIONS: &[Operation] = &[
    operation("insert", 220, Scope::Rows, rows::insert),
    operation("insert or", 40, Scope::Rows, rows::insert_or),
    operation("insert in bulk", 40, Scope::Rows, rows::insert_bulk),
    operation("update", 180, Scope::Rows, rows::update),
    operation("update in place", 60, Scope::Rows, rows::update_in_place),
    operation("write blob", 30, Scope::Rows, rows::write_blob),
    operation("invalid text", 10, Scope::Rows, rows::invalid_text),
    operation("update key", 20, Scope::Rows, rows::update_key),
    operation("update rowid", 10, Scope::Rows, rows::update_rowid),
    operation("delete", 120, Scope::Rows, rows::delete),
    operation("delete half", 20, Scope::Rows, rows::delete_half),
    operation("truncate", 20, Scope::Rows, rows::truncate),
    operation("revive", 10, Scope::Rows, rows::revive),
    operation("full text", 20, Scope::Rows, virtual_tables::full_text),
    operation("boxes", 15, Scope::Rows, virtual_tables::boxes),
    operation("incremental vacuum", 15, Scope::Rows, schema::incremental_vacuum),
    operation("reindex", 4, Scope::Rows, schema::reindex),
    operation("set user version", 4, Scope::Rows, schema::set_user_version),
    operation("create", 25, Scope::Schema, schema::create),
    operation("drop", 20, Scope::Schema, schema::drop),
    operation("add column", 20, Scope::Schema, schema::add_column),
    operation("drop column", 15, Scope::Schema, schema::drop_column),
    operation("redefault", 8, Scope::Schema, schema::redefault),
    operation("rename column", 15, Scope::Schema, schema::rename_column),
    operation("rename table", 20, Scope::Schema, schema::rename_table),
    operation("create index", 20, Scope::Schema, schema::create_index),
    operation("drop index", 10, Scope::Schema, schema::drop_index),
    operation("create trigger", 6, Scope::Schema, schema::create_trigger),
    operation("drop trigger", 5, Scope::Schema, schema::drop_trigger),
    operation("migrate", 15, Scope::Schema, schema::migrate),
    operation("swap names", 10, Scope::Schema, schema::swap_names),
    operation("recreate", 10, Scope::Schema, schema::recreate),
    operation("rename virtual table", 8, Scope::Constraints, virtual_tables::rename),
    operation("add constrained column", 20, Scope::Constraints, schema::add_constrained_column),
    operation("set not null", 20, Scope::Constraints, schema::set_not_null),
    operation("drop not null", 15, Scope::Constraints, schema::drop_not_null),
    operation("add constraint", 20, Scope::Constraints, schema::add_constraint),
    operation("drop constraint", 20, Scope::Constraints, schema::drop_constraint),
    operation("analyze", 10, Scope::Schema, schema::analyze),
    operation("vacuum", 14, Scope::Alone, schema::vacuum),
    operation("vacuum with auto_vacuum", 6, Scope::Alone, schema::vacuum_with_auto_vacuum),
];

const COMMIT: &str = "commit";
const ROLLBACK: &str = "rollback";
const RELEASE: &str = "release savepoint";
const ROLLBACK_TO: &str = "rollback to savepoint";
const SHRINK: &str = "shrink";

impl Churn {
    /// Makes a database at `path`, which must not be there, with a few tables and rows. Everything follows from `seed`.
    ///
    /// # Errors
    /// When the file is there or cannot be written.
    pub fn create(path: impl Into<PathBuf>, seed: u64) -> Result<Self> {
        let path = path.into();
        let mut chance = Chance::new(seed);
        let setup::Setup { db, utf8 } = setup::create(&path, &mut chance)?;
        let (has_full_text, has_rtree) = (chance.percent(30), chance.percent(30));
        let kinds = OPERATIONS.iter().map(|operation| operation.name);
        let counts = Counts::new(kinds.chain([COMMIT, ROLLBACK, RELEASE, ROLLBACK_TO]));
        // Not by chance: where there are none, all else is as if nobody knew of them.
        let has_constraints = seed % 3 != 2;
        let mut churn = Self { db, path, chance, counts, utf8, has_constraints };
        churn.fill(has_full_text, has_rtree).with_context(|| format!("fill {:?}", churn.path))?;
        Ok(churn)
    }

    fn fill(&mut self, has_full_text: bool, has_rtree: bool) -> Result<()> {
        let audit = table::quote(AUDIT);
        self.db.execute_batch(&format!("CREATE TABLE {audit}(id INTEGER PRIMARY KEY, event TEXT, value)"))?;
        if has_full_text {
            virtual_tables::create_full_text(&self.db)?;
        }
        if has_rtree {
            virtual_tables::create_rtree(&self.db)?;
        }
        for _ in 0..4 {
            self.create_table()?;
        }
        for name in Table::names(&self.db)? {
            let table = Table::read(&self.db, &name)?;
            self.tally("insert", |churn| rows::insert_rows(churn, &table, 30, "INSERT"))?;
        }
        Ok(())
    }

    /// Fails, and is counted so, when a keyword is the name of two columns.
    fn create_table(&mut self) -> Result<()> {
        let name = self.chance.name();
        self.tally("create", |churn| schema::create_named(churn, &name).map(|()| true))?;
        Ok(())
    }

    /// The database's file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The connection: for questions, and for changes of a test's own between transactions.
    #[must_use]
    pub fn db(&self) -> &Connection {
        &self.db
    }

    /// How often each kind of operation has changed something, and what failed.
    #[must_use]
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// One random transaction, or a statement or few that commit on their own. It may change the schema, roll back, or
    /// be a VACUUM.
    ///
    /// # Errors
    /// When a statement fails as none should.
    pub fn transaction(&mut self) -> Result<()> {
        let scopes = [Scope::Rows, Scope::Schema, Scope::Alone, Scope::Constraints];
        self.transact(if self.has_constraints { &scopes } else { &scopes[..3] })
    }

    /// Like [`Churn::transaction`], without changes of the schema and VACUUM.
    ///
    /// # Errors
    /// When a statement fails as none should.
    pub fn row_transaction(&mut self) -> Result<()> {
        self.transact(&[Scope::Rows])
    }

    fn transact(&mut self, scopes: &[Scope]) -> Result<()> {
        if self.chance.percent(30) {
            return self.operate(scopes);
        }
        self.db.execute_batch("BEGIN")?;
        for _ in 0..self.chance.between(1, 5) {
            if self.chance.percent(10) {
                self.operate_in_savepoint(scopes)?;
            } else {
                self.operate(scopes)?;
            }
        }
        self.end()
    }

    /// Ends the transaction, unless an `OR ROLLBACK` has.
    fn end(&mut self) -> Result<()> {
        if self.db.is_autocommit() {
            return Ok(());
        }
        if !self.chance.percent(5) && self.tally(COMMIT, |churn| churn.statement("COMMIT"))? {
            return Ok(());
        }
        // Refused by a deferred foreign key, or by chance.
        self.tally(ROLLBACK, |churn| churn.statement("ROLLBACK"))?;
        Ok(())
    }

    fn operate_in_savepoint(&mut self, scopes: &[Scope]) -> Result<()> {
        if self.db.is_autocommit() {
            return self.operate(scopes);
        }
        self.db.execute_batch("SAVEPOINT inner")?;
        self.operate(scopes)?;
        if self.db.is_autocommit() {
            return Ok(());
        }
        let (kind, sql) = if self.chance.percent(50) {
            (ROLLBACK_TO, "ROLLBACK TO inner; RELEASE inner")
        } else {
            (RELEASE, "RELEASE inner")
        };
        self.tally(kind, |churn| churn.statement(sql))?;
        Ok(())
    }

    /// One operation on one table.
    fn operate(&mut self, scopes: &[Scope]) -> Result<()> {
        let operation = self.pick_operation(scopes);
        let Some(table) = self.pick(operation.scope != Scope::Rows)? else {
            return self.create_table();
        };
        self.tally(operation.name, |churn| (operation.run)(churn, &table))?;
        Ok(())
    }

    fn pick_operation(&mut self, scopes: &[Scope]) -> &'static Operation {
        let is_alone = self.db.is_autocommit();
        let fits = |operation: &&Operation| {
            scopes.contains(&operation.scope) && (is_alone || operation.scope != Scope::Alone)
        };
        let total = OPERATIONS.iter().filter(fits).map(|operation| operation.weight).sum();
        let mut place = self.chance.below(total);
        for operation in OPERATIONS.iter().filter(fits) {
            match place.checked_sub(operation.weight) {
                Some(rest) => place = rest,
                None => return operation,
            }
        }
        unreachable!("the place is below the sum of all weights")
    }

    /// A table; only of those whose definition may change if `to_alter`.
    fn pick(&mut self, to_alter: bool) -> rusqlite::Result<Option<Table>> {
        let mut names = Table::names(&self.db)?;
        names.retain(|name| name != virtual_tables::NOTES && !(to_alter && name == AUDIT));
        if names.is_empty() {
            return Ok(None);
        }
        let name = self.chance.choose(&names);
        Table::read(&self.db, name).map(Some)
    }

    fn pick_plain(&mut self, table: &Table) -> Option<table::Column> {
        let plain = table.plain();
        if plain.is_empty() { None } else { Some(self.chance.choose(&plain).clone()) }
    }

    /// Mostly a column that is likely to hold blobs.
    fn pick_for_blobs(&mut self, table: &Table) -> Option<table::Column> {
        let mut likely = table.plain();
        likely.retain(|column| column.declared == "BLOB");
        if likely.is_empty() { self.pick_plain(table) } else { Some(self.chance.choose(&likely).clone()) }
    }

    /// Counts what `run` does under `kind`; says whether it changed anything.
    fn tally(
        &mut self,
        kind: &'static str,
        run: impl FnOnce(&mut Self) -> rusqlite::Result<bool>,
    ) -> Result<bool> {
        self.counts.begin(kind);
        let result = run(self);
        self.counts.end(result).with_context(|| format!("{kind} on {:?}", self.path))
    }

    /// Runs one of several statements of an operation, the others of which count too if it fails.
    fn attempt(&mut self, sql: &str, values: Vec<Parameter>) -> rusqlite::Result<bool> {
        let result = self.run_with(sql, values);
        self.counts.tolerate(result)
    }

    fn statement(&self, sql: &str) -> rusqlite::Result<bool> {
        self.db.execute_batch(sql).map(|()| true)
    }

    /// Runs a statement; says whether it changed a row.
    fn run(&self, sql: &str) -> rusqlite::Result<bool> {
        self.db.execute(sql, []).map(|rows| rows > 0)
    }

    fn run_with(&self, sql: &str, values: Vec<Parameter>) -> rusqlite::Result<bool> {
        self.db.prepare_cached(sql)?.execute(params_from_iter(values)).map(|rows| rows > 0)
    }

    /// Deletes nine of ten rows where there are thousands, so that contents stay quick to read.
    ///
    /// # Errors
    /// When a statement fails as none should.
    pub fn shrink(&mut self) -> Result<()> {
        let mut names = Table::names(&self.db)?;
        names.extend(virtual_tables::words(&self.db)?);
        names.extend(virtual_tables::boxes_name(&self.db)?);
        for name in names {
            let name = table::quote(&name);
            let rows: i64 =
                self.db.query_row(&format!("SELECT count(*) FROM {name}"), [], |row| row.get(0))?;
            if rows > MOST_ROWS {
                self.tally(SHRINK, |churn| {
                    churn.run(&format!("DELETE FROM {name} WHERE chance() % 10 < 9"))
                })?;
            }
        }
        Ok(())
    }

    /// Brings the WAL into the database's file and empties it.
    ///
    /// # Errors
    /// When someone else reads or writes the database.
    pub fn checkpoint(&self) -> Result<()> {
        let busy: i64 = self.db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
        ensure!(busy == 0, "{:?} is in use: end other connections' transactions first", self.path);
        Ok(())
    }

    /// All rows of all tables, as they are now.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn contents(&self) -> Result<Contents> {
        Contents::read(&self.db).with_context(|| format!("read the rows of {:?}", self.path))
    }
    /// Makes as many [`row transactions`](Churn::row_transaction) and says what SQLite's session extension heard of them.
    /// While it listens SQLite deletes all rows of a table one by one.
    ///
    /// # Errors
    /// When a statement fails as none should.
    pub fn record(&mut self, transactions: u32) -> Result<Recording> {
        let tables = session::tables(&self.db)?;
        let session = session::Session::start(&self.db, tables.keys())?;
        for _ in 0..transactions {
            self.row_transaction()?;
        }
        Ok(Recording::new(tables, session.changes()?))
    }
}
