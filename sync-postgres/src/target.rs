//! Tables of PostgreSQL that are kept in step.
//!
//! How far a sync is, which rows are refused and which tables stand still is in one table, `_litekeep_sync`, and is committed together
//! with the rows. Two litekeeps cannot push the same sync: each commit expects to find what its last one left.

use std::collections::BTreeMap;

use async_trait::async_trait;
use litekeep_schema::portable::Note;
use litekeep_schema::portable::postgres::{Column, Options, PgType, Table, map, quoted};
use litekeep_sql::{Declaration, Profile};
use litekeep_sync::halves::{Blame, Halves};
use litekeep_sync::ledger::{self, Encoded, PAUSED, PLAN, STAGE, text as json};
use litekeep_sync::target::{Listed, TargetTable};
use litekeep_sync::{Change, Error, Kept, Kind, Refused, Stage, Target, Value};
use serde::{Deserialize, Serialize};

use crate::session::{Session, Text};
use crate::{Address, error, literal};

/// Rows that are read at once.
const FETCHED: usize = 5_000;

/// A database of PostgreSQL.
pub struct Postgres {
    address: Address,
    /// The sync's name.
    name: String,
    options: Options,
    session: Option<Session>,
    tables: Vec<PgTable>,
    /// What the last commit left, as text.
    stage: Option<String>,
    /// Rows that are refused.
    refused: u64,
    /// The table that is being read.
    reading: Option<usize>,
}

/// A table as it is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PgTable(pub Table);

impl TargetTable for PgTable {
    fn source(&self) -> &str {
        &self.0.source
    }

    fn columns(&self) -> Vec<&str> {
        self.0.columns.iter().map(|column| column.name.as_str()).collect()
    }

    fn key(&self) -> &[usize] {
        &self.0.key
    }

    fn with_more_columns(&self, mut other: PgTable) -> PgTable {
        let mut longer = self.clone();
        longer.0.columns.extend(other.0.columns.drain(self.0.columns.len()..));
        longer
    }
}

impl Postgres {
    /// Connects to nothing yet. `name`: the sync's.
    pub fn new(address: Address, name: impl Into<String>, options: Options) -> Postgres {
        let name = name.into();
        Postgres {
            address,
            name,
            options,
            session: None,
            tables: vec![],
            stage: None,
            refused: 0,
            reading: None,
        }
    }

    async fn open_session(&mut self) -> Result<(), Error> {
        self.session = None;
        let permits = self.address.budget.take(self.connections()).await?;
        self.session = Some(Session::open(&self.address, &permits).await?);
        Ok(())
    }

    fn session(&self) -> Result<&Session, Error> {
        self.session
            .as_ref()
            .ok_or_else(|| Error::new(Kind::Internal, "use a database that is not connected"))
    }

    /// The table that keeps how far syncs are, in the schema of the tables.
    fn state(&self) -> String {
        match &self.options.schema {
            Some(schema) => format!("{}.{}", quoted(schema), ledger::TABLE),
            None => ledger::TABLE.to_owned(),
        }
    }

    async fn is_there(&self, path: &str) -> Result<bool, Error> {
        let rows =
            self.session()?.rows("look for a table", "SELECT to_regclass($1) IS NOT NULL", &[path]).await?;
        Ok(rows.first().is_some_and(|row| row.get(0)))
    }

    async fn read_kept(&mut self) -> Result<Option<Kept<PgTable>>, Error> {
        const READ: &str = "read how far the sync is";
        let state = self.state();
        if !self.is_there(&state).await? {
            return Ok(None);
        }
        let sql = format!("SELECT item, content FROM {state} WHERE name = $1 AND item NOT LIKE 'refused/%'");
        let rows = self.session()?.rows(READ, &sql, &[&self.name]).await?;
        let items: BTreeMap<String, String> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        let sql = format!("SELECT count(*) FROM {state} WHERE name = $1 AND item LIKE 'refused/%'");
        let refused: i64 =
            self.session()?.rows(READ, &sql, &[&self.name]).await?.first().map_or(0, |row| row.get(0));
        let read = ledger::read(&items, refused.unsigned_abs(), (&self.name, self.address.name()))?;
        let Some((kept, stage)) = read else { return Ok(None) };
        (self.tables, self.refused) = (kept.tables.clone(), kept.refused);
        self.stage = Some(stage);
        Ok(Some(kept))
    }

    /// Makes a table, or takes one that is there when it is empty and has what is needed.
    async fn make(&self, table: &Table) -> Result<(), Error> {
        let path = table.path(&self.options);
        let session = self.session()?;
        if !self.is_there(&path).await? {
            return session.run(&format!("make the table {path}"), &table.create(&self.options)).await;
        }
        let columns = "SELECT a.attname::text, format_type(a.atttypid, NULL), a.attnotnull AND NOT a.atthasdef AND a.attidentity = '' \
                       FROM pg_attribute a WHERE a.attrelid = to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped";
        let found = session.rows("read the columns of a table", columns, &[&path]).await?;
        let found: BTreeMap<String, (String, bool)> =
            found.iter().map(|row| (row.get(0), (row.get(1), row.get(2)))).collect();
        let refused = |why: String| {
            let hint = format!(
                "make it as it is expected, or let litekeep make it: {}",
                table.create(&self.options)
            );
            Err(Error::with_hint(Kind::Invalid, format!("the table {path} is there and {why}"), hint))
        };
        for column in &table.columns {
            let wanted = full_name(column.kind);
            match found.get(&column.name) {
                None => return refused(format!("has no column `{}`", column.name)),
                Some((is, _)) if is != wanted => {
                    return refused(format!("its column `{}` is {is}, not {wanted}", column.name));
                }
                Some(_) => {}
            }
        }
        let is_ours = |name: &str| table.columns.iter().any(|column| column.name == name);
        if let Some((name, _)) = found.iter().find(|(name, (_, must))| *must && !is_ours(name)) {
            return refused(format!("its column `{name}` wants a value, and none comes"));
        }
        if !table.key.is_empty() && !self.has_key(table).await? {
            return refused("has no primary key, and no unique index, on the columns of the key".to_owned());
        }
        let any = session.rows("look into a table", &format!("SELECT 1 FROM {path} LIMIT 1"), &[]).await?;
        if !any.is_empty() {
            let hint = format!("if its rows can go: TRUNCATE {path};");
            let message = format!("the table {path} is there and has rows, which are not overwritten");
            return Err(Error::with_hint(Kind::Invalid, message, hint));
        }
        Ok(())
    }

    /// Whether exactly the columns of its key are unique in a table that is there.
    async fn has_key(&self, table: &Table) -> Result<bool, Error> {
        let unique = "SELECT 1 FROM pg_index i WHERE i.indrelid = to_regclass($1) AND i.indisunique AND i.indpred IS NULL \
                      AND i.indexprs IS NULL AND (SELECT string_agg(a.attname::text, chr(1) ORDER BY a.attname::text COLLATE \"C\") \
                      FROM pg_attribute a WHERE a.attrelid = i.indrelid AND a.attnum = ANY(i.indkey)) = $2";
        let mut names: Vec<&str> = table.key.iter().map(|nth| table.columns[*nth].name.as_str()).collect();
        names.sort_unstable();
        let path = table.path(&self.options);
        let found = self
            .session()?
            .rows("read the indexes of a table", unique, &[&path, &names.join("\u{1}")])
            .await?;
        Ok(!found.is_empty())
    }

    /// Whether it is a new item.
    async fn set(&self, item: &str, content: &str) -> Result<bool, Error> {
        // A row that was there has been locked for the update.
        let sql = format!(
            "INSERT INTO {} (name, item, content) VALUES ($1, $2, $3) \
             ON CONFLICT (name, item) DO UPDATE SET content = excluded.content, changed_at = now() RETURNING xmax = 0",
            self.state()
        );
        let rows =
            self.session()?.rows("keep how far the sync is", &sql, &[&self.name, item, content]).await?;
        Ok(rows.first().is_some_and(|row| row.get(0)))
    }

    /// Makes tables fit for an application, which are there and have rows: it goes on numbering after the greatest number, and with `keys` the
    /// foreign keys are made that are not there. Those that the server refuses are told.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn settle(&mut self, declared: &[Declaration], keys: bool) -> Result<Vec<String>, Error> {
        let tables = self.declared(declared);
        self.open_session().await?;
        self.begin().await?;
        let numbers: Vec<String> =
            tables.iter().filter_map(|table| table.restart_identity(&self.options)).collect();
        let mut failed = self.try_all("go on numbering", numbers.into_iter()).await?;
        for table in tables.iter().filter(|_| keys) {
            let sql =
                "SELECT conname::text FROM pg_constraint WHERE conrelid = to_regclass($1) AND contype = 'f'";
            let found =
                self.session()?.rows("read the foreign keys", sql, &[&table.path(&self.options)]).await?;
            let found: Vec<String> =
                found.iter().map(|row| format!(" ADD CONSTRAINT {} ", quoted(row.get(0)))).collect();
            let is_there = |statement: &&String| found.iter().any(|made| statement.contains(made));
            let missing = table.foreign_keys.iter().filter(|statement| !is_there(statement)).cloned();
            failed.extend(self.try_all("make a foreign key", missing).await?);
        }
        self.session()?.run("commit the foreign keys", "COMMIT").await?;
        Ok(failed)
    }

    /// Ends what a sync in both directions needed of tables: changes come by their keys again, and not with the whole row as it was. Tables that
    /// somebody else follows stay as they are.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn let_go(&mut self, declared: &[Declaration]) -> Result<Vec<String>, Error> {
        let paths: Vec<String> =
            self.declared(declared).iter().map(|table| table.path(&self.options)).collect();
        self.open_session().await?;
        let mut statements = vec![];
        for path in paths {
            let sql = "SELECT 1 FROM pg_class c WHERE c.oid = to_regclass($1) AND c.relreplident = 'f' \
                       AND NOT EXISTS (SELECT 1 FROM pg_publication_rel p WHERE p.prrelid = c.oid)";
            if !self.session()?.rows("read a table's replica identity", sql, &[&path]).await?.is_empty() {
                statements.push(format!("ALTER TABLE {path} REPLICA IDENTITY DEFAULT"));
            }
        }
        self.begin().await?;
        let failed = self.try_all("set a table's replica identity", statements.into_iter()).await?;
        self.session()?.run("commit", "COMMIT").await?;
        Ok(failed)
    }

    /// Tables by their names, keys and what they refer to: what their columns hold does not matter.
    fn declared(&self, declared: &[Declaration]) -> Vec<Table> {
        let one = |declared: &Declaration| {
            map(declared, &vec![Profile::default(); declared.columns.len()], &self.options).0
        };
        declared.iter().map(one).collect()
    }

    /// Runs statements within a transaction, and tells those that the server refuses.
    async fn try_all(
        &self,
        doing: &str,
        statements: impl Iterator<Item = String>,
    ) -> Result<Vec<String>, Error> {
        let session = self.session()?;
        let mut failed = vec![];
        for statement in statements {
            session.run(doing, "SAVEPOINT rows").await?;
            match session.try_run(&statement).await {
                Ok(()) => session.run(doing, "RELEASE SAVEPOINT rows").await?,
                Err(e) if e.as_db_error().is_some() => {
                    session.run("go on without it", "ROLLBACK TO SAVEPOINT rows").await?;
                    failed.push(format!("`{statement}` failed: {}", error::words(&e)));
                }
                Err(e) => return Err(session.failed(doing, &e)),
            }
        }
        Ok(failed)
    }

    async fn set_plan(&self) -> Result<(), Error> {
        self.set(PLAN, &json(&self.tables)).await.map(drop)
    }

    fn encode(&self, nth: usize, key: &[Value], row: &[Value]) -> Result<Encoded<Text>, Refused> {
        let table = &self.tables[nth].0;
        let texts = table.columns.iter().zip(row).map(|(column, value)| {
            let text = column.kind.encode(value);
            text.map(|text| text.map(Into::into)).map_err(|refusal| format!("`{}`: {refusal}", column.name))
        });
        let row = texts.collect::<Result<Vec<Text>, String>>();
        let row = row.map_err(|reason| Refused { table: nth, key: key.to_vec(), reason })?;
        Ok(Encoded { key: key.to_vec(), row })
    }

    /// Writes rows that come, of which some may be there already. Those that the server refuses are told; the others are written.
    async fn put(
        &self,
        nth: usize,
        rows: &[Encoded<Text>],
        how: Put,
        refused: &mut Vec<Refused>,
    ) -> Result<(), Error> {
        let mut halves = Halves::of(rows);
        while let Some(group) = halves.next_group() {
            if let Err(blame) = self.put_all(nth, &group, how).await? {
                halves.refused(group, blame);
            }
        }
        let blamed = halves.blamed().into_iter();
        refused.extend(blamed.map(|(row, blame)| Refused {
            table: nth,
            key: row.key.clone(),
            reason: blame.reason,
        }));
        Ok(())
    }

    /// Writes all of the rows or none; `Err` in it: what the server says of one of them.
    async fn put_all(
        &self,
        nth: usize,
        rows: &[&Encoded<Text>],
        how: Put,
    ) -> Result<Result<(), Blame>, Error> {
        let session = self.session()?;
        let table = &self.tables[nth].0;
        session.run("begin to write rows", "SAVEPOINT rows").await?;
        let written = match how {
            Put::New => {
                let rows: Vec<Vec<Text>> = rows.iter().map(|encoded| encoded.row.clone()).collect();
                session.copy(&self.copy_sql(table), &rows).await
            }
            Put::OrUpdate => {
                session.execute(&self.upsert_sql(table), &columns(rows, table.columns.len())).await
            }
        };
        let failed = match written {
            Ok(_) => {
                session.run("write rows", "RELEASE SAVEPOINT rows").await?;
                return Ok(Ok(()));
            }
            Err(e) if error::is_about_data(&e) => e,
            Err(e) => return Err(session.failed(&format!("write rows of `{}`", table.name), &e)),
        };
        session.run("take rows back", "ROLLBACK TO SAVEPOINT rows").await?;
        // Rows that exchange a unique value are in each other's way, unless all of them go first.
        if matches!(how, Put::OrUpdate) && rows.len() > 1 && error::is_about_uniqueness(&failed) {
            let keys: Vec<Vec<Text>> = (table.key.iter())
                .map(|part| rows.iter().map(|encoded| encoded.row[*part].clone()).collect())
                .collect();
            let exchanged = async {
                session.execute(&self.delete_sql(table), &keys).await?;
                session.execute(&self.upsert_sql(table), &columns(rows, table.columns.len())).await
            };
            match exchanged.await {
                Ok(_) => {
                    session.run("write rows", "RELEASE SAVEPOINT rows").await?;
                    return Ok(Ok(()));
                }
                Err(e) if error::is_about_data(&e) => {
                    session.run("take rows back", "ROLLBACK TO SAVEPOINT rows").await?;
                }
                Err(e) => return Err(session.failed(&format!("write rows of `{}`", table.name), &e)),
            }
        }
        Ok(Err(Blame {
            reason: error::words(&failed),
            is_about_uniqueness: error::is_about_uniqueness(&failed),
        }))
    }

    async fn delete(&self, nth: usize, keys: &[&[Value]]) -> Result<(), Error> {
        let table = &self.tables[nth].0;
        let session = self.session()?;
        let failed = |e| session.failed(&format!("delete rows of `{}`", table.name), &e);
        if table.key.is_empty() {
            let sql = self.delete_whole_sql(table);
            for row in keys {
                // One that cannot be written there is not there.
                let Ok(encoded) = self.encode(nth, &[], row) else { continue };
                let values: Vec<&Text> = encoded.row.iter().collect();
                session.execute_one(&sql, &values).await.map_err(failed)?;
            }
            return Ok(());
        }
        let mut columns: Vec<Vec<Text>> = vec![vec![]; table.key.len()];
        for key in keys {
            let texts = table.key.iter().zip(*key).map(|(nth, value)| table.columns[*nth].kind.encode(value));
            let texts: Result<Vec<Text>, _> =
                texts.map(|text| text.map(|text| text.map(Into::into))).collect();
            let Ok(texts) = texts else { continue };
            columns.iter_mut().zip(texts).for_each(|(column, text)| column.push(text));
        }
        if columns.first().is_some_and(|column| !column.is_empty()) {
            session.execute(&self.delete_sql(table), &columns).await.map_err(failed)?;
        }
        Ok(())
    }

    /// Lists rows that are refused, and takes others off the list.
    async fn list(&mut self, refused: &[Refused], fine: Vec<String>) -> Result<(), Error> {
        if !fine.is_empty() {
            let items: Vec<Text> = fine.into_iter().map(Some).collect();
            let sql = format!(
                "DELETE FROM {} WHERE name = {} AND item = ANY($1)",
                self.state(),
                literal(&self.name)
            );
            let session = self.session()?;
            let gone = session.execute(&sql, &[items]).await;
            let gone = gone.map_err(|e| session.failed("take rows off the list of refused ones", &e))?;
            self.refused = self.refused.saturating_sub(gone);
        }
        for row in refused {
            let table = self.tables[row.table].source();
            let item = ledger::refused_item(table, &row.key);
            let is_new = self.set(&item, &ledger::listed(table, row)).await?;
            self.refused += u64::from(is_new);
        }
        Ok(())
    }

    fn copy_sql(&self, table: &Table) -> String {
        format!("COPY {} ({}) FROM STDIN", table.path(&self.options), names(table, 0..table.columns.len()))
    }

    fn upsert_sql(&self, table: &Table) -> String {
        let all = 0..table.columns.len();
        let (casts, parameters, aliases) = unnested(table, all.clone());
        let insert = format!(
            "INSERT INTO {} ({}) SELECT {casts} FROM unnest({parameters}) AS new({aliases})",
            table.path(&self.options),
            names(table, all.clone()),
        );
        if table.key.is_empty() {
            return insert;
        }
        let others: Vec<String> = all
            .filter(|nth| !table.key.contains(nth))
            .map(|nth| quoted(&table.columns[nth].name))
            .map(|name| format!("{name} = excluded.{name}"))
            .collect();
        let action = if others.is_empty() {
            "NOTHING".to_owned()
        } else {
            format!("UPDATE SET {}", others.join(", "))
        };
        format!("{insert} ON CONFLICT ({}) DO {action}", names(table, table.key.iter().copied()))
    }

    fn delete_sql(&self, table: &Table) -> String {
        let (casts, parameters, aliases) = unnested(table, table.key.iter().copied());
        let is_it: Vec<String> = (table.key.iter().enumerate())
            .map(|(place, nth)| format!("t.{} = gone.k{place}", quoted(&table.columns[*nth].name)))
            .collect();
        let keys: Vec<String> =
            casts.split(", ").enumerate().map(|(nth, cast)| format!("{cast} AS k{nth}")).collect();
        format!(
            "DELETE FROM {} t USING (SELECT {} FROM unnest({parameters}) AS new({aliases})) gone WHERE {}",
            table.path(&self.options),
            keys.join(", "),
            is_it.join(" AND "),
        )
    }

    /// Of rows that are alike, one.
    fn delete_whole_sql(&self, table: &Table) -> String {
        let is_it: Vec<String> = (table.columns.iter().enumerate())
            .map(|(nth, column)| {
                let (name, parameter) = (quoted(&column.name), format!("${}", nth + 1));
                match column.kind.is_comparable() {
                    true => format!("{name} IS NOT DISTINCT FROM {parameter}::{}", column.kind.sql()),
                    false => format!("{name}::text IS NOT DISTINCT FROM {parameter}"),
                }
            })
            .collect();
        let path = table.path(&self.options);
        format!(
            "DELETE FROM {path} WHERE ctid = (SELECT ctid FROM {path} WHERE {} LIMIT 1)",
            is_it.join(" AND ")
        )
    }
}

#[derive(Clone, Copy)]
enum Put {
    /// None of them is there.
    New,
    /// Some may be.
    OrUpdate,
}

/// The rows, column by column.
fn columns(rows: &[&Encoded<Text>], count: usize) -> Vec<Vec<Text>> {
    (0..count).map(|nth| rows.iter().map(|encoded| encoded.row[nth].clone()).collect()).collect()
}

fn names(table: &Table, columns: impl IntoIterator<Item = usize>) -> String {
    columns.into_iter().map(|nth| quoted(&table.columns[nth].name)).collect::<Vec<_>>().join(", ")
}

/// What reads columns of text as their types: the casts, the parameters, and the names between them.
fn unnested(table: &Table, columns: impl IntoIterator<Item = usize>) -> (String, String, String) {
    let columns: Vec<usize> = columns.into_iter().collect();
    let joined = |of: &dyn Fn(usize, usize) -> String| {
        columns.iter().enumerate().map(|(place, nth)| of(place, *nth)).collect::<Vec<_>>().join(", ")
    };
    (
        joined(&|place, nth| format!("new.c{place}::{}", table.columns[nth].kind.sql())),
        joined(&|place, _| format!("${}", place + 1)),
        joined(&|place, _| format!("c{place}")),
    )
}

/// As `format_type` names it.
pub(crate) fn full_name(pg: PgType) -> &'static str {
    match pg {
        PgType::Timestamp(_) => "timestamp without time zone",
        PgType::Timestamptz(_) => "timestamp with time zone",
        other => other.sql(),
    }
}

#[async_trait]
impl Target for Postgres {
    type Table = PgTable;

    fn name(&self) -> String {
        self.address.name().to_owned()
    }

    fn refused(&self) -> u64 {
        self.refused
    }

    async fn listed(&mut self) -> Result<Vec<Listed>, Error> {
        let sql = format!(
            "SELECT content FROM {} WHERE name = $1 AND item LIKE 'refused/%' ORDER BY item",
            self.state()
        );
        let rows = self.session()?.rows("list refused rows", &sql, &[&self.name]).await?;
        ledger::read_listed(rows.iter().map(|row| row.get(0)))
    }

    fn map(&self, declared: &Declaration, profiles: &[Profile]) -> (PgTable, Vec<Note>) {
        let (table, notes) = map(declared, profiles, &self.options);
        (PgTable(table), notes)
    }

    fn statements(&self, table: &PgTable) -> Vec<String> {
        let create = table.0.create(&self.options);
        std::iter::once(create).chain(table.0.indexes.iter().cloned()).collect()
    }

    fn connections(&self) -> u32 {
        1
    }

    async fn connect(&mut self) -> Result<Option<Kept<PgTable>>, Error> {
        self.open_session().await?;
        self.read_kept().await
    }

    fn disconnect(&mut self) {
        self.session = None;
    }

    async fn set_up(&mut self, tables: &[PgTable], stage: &Stage) -> Result<(), Error> {
        let session = self.session()?;
        session.run("begin a transaction", "BEGIN").await?;
        if let Some(schema) = &self.options.schema {
            let sql = format!("CREATE SCHEMA IF NOT EXISTS {}", quoted(schema));
            session.run("make the schema", &sql).await?;
        }
        let sql = format!(
            "CREATE TABLE IF NOT EXISTS {} (name text, item text, content text NOT NULL, \
             changed_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (name, item))",
            self.state()
        );
        session.run("make the table that keeps how far the sync is", &sql).await?;
        for table in tables {
            self.make(&table.0).await?;
        }
        self.tables = tables.to_vec();
        self.set_plan().await?;
        let stage = json(stage);
        self.set(STAGE, &stage).await?;
        self.session()?.run("commit the tables", "COMMIT").await?;
        self.stage = Some(stage);
        Ok(())
    }

    async fn has(&mut self, table: &PgTable) -> Result<bool, Error> {
        self.is_there(&table.0.path(&self.options)).await
    }

    async fn add_table(&mut self, table: PgTable) -> Result<(), Error> {
        self.make(&table.0).await?;
        for index in &table.0.indexes {
            self.session()?.run("make an index", index).await?;
        }
        self.tables.push(table);
        self.set_plan().await
    }

    async fn add_columns(&mut self, nth: usize, table: PgTable) -> Result<(), Error> {
        let path = table.0.path(&self.options);
        for column in &table.0.columns[self.tables[nth].0.columns.len()..] {
            let not_null = if column.is_not_null { " NOT NULL" } else { "" };
            let default = column.default.as_ref().map_or(String::new(), |text| format!(" DEFAULT {text}"));
            let (name, sql) = (quoted(&column.name), column.kind.sql());
            let add = format!("ALTER TABLE {path} ADD COLUMN {name} {sql}{not_null}{default}");
            self.session()?.run(&format!("add a column to {path}"), &add).await?;
        }
        self.tables[nth] = table;
        self.set_plan().await
    }

    async fn pause(&mut self, table: &str, reason: Option<&str>) -> Result<(), Error> {
        let item = format!("{PAUSED}{table}");
        match reason {
            Some(reason) => self.set(&item, reason).await.map(drop),
            None => {
                let sql = format!("DELETE FROM {} WHERE name = $1 AND item = $2", self.state());
                self.session()?.rows("let a table go on", &sql, &[&self.name, &item]).await.map(drop)
            }
        }
    }

    async fn begin(&mut self) -> Result<(), Error> {
        self.session()?.run("begin a transaction", "BEGIN").await
    }

    async fn load(&mut self, table: usize, rows: &[Vec<Value>]) -> Result<Vec<Refused>, Error> {
        let encode = |nth: usize, key: &[Value], row: &[Value]| self.encode(nth, key, row);
        let (encoded, mut refused) = ledger::encoded((table, &self.tables[table]), rows, encode);
        self.put(table, &encoded, Put::New, &mut refused).await?;
        self.list(&refused, vec![]).await?;
        Ok(refused)
    }

    async fn apply(&mut self, changes: &[Change]) -> Result<Vec<Refused>, Error> {
        let encode = |nth: usize, key: &[Value], row: &[Value]| self.encode(nth, key, row);
        let (by_table, mut refused) = ledger::by_table(changes, encode);
        for (nth, of) in &by_table {
            self.delete(*nth, &of.gone).await?;
            self.put(*nth, &of.come, Put::OrUpdate, &mut refused).await?;
        }
        let fine = match self.refused {
            0 => vec![],
            _ => ledger::fine_items(changes, &refused, &self.tables),
        };
        self.list(&refused, fine).await?;
        Ok(refused)
    }

    async fn hold(&mut self, to_write: bool) -> Result<Option<Kept<PgTable>>, Error> {
        let session = self.session()?;
        session.run("begin a transaction", "BEGIN ISOLATION LEVEL REPEATABLE READ").await?;
        if !self.is_there(&self.state()).await? {
            return Ok(None);
        }
        if to_write {
            let sql = format!("SELECT 1 FROM {} WHERE name = $1 AND item = 'stage' FOR UPDATE", self.state());
            session.rows("wait for others", &sql, &[&self.name]).await?;
        }
        self.read_kept().await
    }

    async fn open(&mut self, table: usize) -> Result<(), Error> {
        let table = &self.tables[table].0;
        let columns: Vec<String> = table
            .columns
            .iter()
            .map(|column| match column.kind {
                // Whatever the session's time zone is.
                PgType::Timestamptz(_) => format!("(t.{} AT TIME ZONE 'UTC')::text", quoted(&column.name)),
                _ => format!("t.{}::text", quoted(&column.name)),
            })
            .collect();
        let order = table.key.iter().map(|nth| {
            let column = &table.columns[*nth];
            let collation = if column.kind == PgType::Text { " COLLATE \"C\"" } else { "" };
            // Without the alias it would be the text of the same name.
            format!("t.{}{collation}", quoted(&column.name))
        });
        let order: Vec<String> = order.collect();
        let order = if order.is_empty() { String::new() } else { format!(" ORDER BY {}", order.join(", ")) };
        let sql = format!(
            "CLOSE ALL; DECLARE compared NO SCROLL CURSOR FOR SELECT {} FROM {} t{order}",
            columns.join(", "),
            table.path(&self.options),
        );
        self.reading = self.tables.iter().position(|other| other.0 == *table);
        self.session()?.run(&format!("read the table {}", table.name), &sql).await
    }

    async fn fetch(&mut self) -> Result<Vec<Vec<Value>>, Error> {
        let Some(table) = self.reading.map(|nth| &self.tables[nth].0) else { return Ok(vec![]) };
        let sql = format!("FETCH {FETCHED} FROM compared");
        let rows = self.session()?.rows(&format!("read the table {}", table.name), &sql, &[]).await?;
        let value = |column: &Column, text: Option<&str>| match text {
            None => Value::Null,
            Some(text) => column.kind.decode(text).unwrap_or_else(|| Value::Blob(text.into())),
        };
        let row = |row: &tokio_postgres::Row| {
            table.columns.iter().enumerate().map(|(nth, column)| value(column, row.get(nth))).collect()
        };
        Ok(rows.iter().map(row).collect())
    }

    async fn roll_back(&mut self) -> Result<(), Error> {
        self.session()?.run("end the transaction", "ROLLBACK").await
    }

    async fn finish(&mut self) -> Result<Vec<String>, Error> {
        let more = |PgTable(table): &PgTable| {
            table.indexes.iter().cloned().chain(table.restart_identity(&self.options)).collect::<Vec<_>>()
        };
        self.try_all("make an index", self.tables.iter().flat_map(more)).await
    }

    async fn constrain(&mut self) -> Result<Vec<String>, Error> {
        let keys = self.tables.iter().flat_map(|PgTable(table)| table.foreign_keys.clone());
        self.try_all("make a foreign key", keys).await
    }

    async fn forget(&mut self) -> Result<(), Error> {
        const FORGET: &str = "forget how far the sync is";
        let (state, session) = (self.state(), self.session()?);
        session.run(FORGET, &format!("BEGIN; LOCK TABLE {state} IN ACCESS EXCLUSIVE MODE")).await?;
        let sql = format!("DELETE FROM {state} WHERE name = $1");
        session.rows(FORGET, &sql, &[&self.name]).await?;
        if session.rows(FORGET, &format!("SELECT 1 FROM {state} LIMIT 1"), &[]).await?.is_empty() {
            session.run(FORGET, &format!("DROP TABLE {state}")).await?;
        }
        session.run(FORGET, "COMMIT").await?;
        (self.tables, self.stage, self.refused) = (vec![], None, 0);
        Ok(())
    }

    async fn commit(&mut self, stage: &Stage) -> Result<(), Error> {
        let stage = json(stage);
        let before = self.stage.clone().unwrap_or_default();
        let sql = format!(
            "UPDATE {} SET content = $1, changed_at = now() WHERE name = $2 AND item = 'stage' AND content = $3 RETURNING 1",
            self.state()
        );
        let session = self.session()?;
        let kept = session.rows("keep how far the sync is", &sql, &[&stage, &self.name, &before]).await?;
        if kept.len() != 1 {
            return Err(ledger::fenced(&self.name, self.address.name()));
        }
        session.run("commit rows", "COMMIT").await?;
        self.stage = Some(stage);
        Ok(())
    }
}
