//! Tables of MySQL or MariaDB that are kept in step.
//!
//! How far a sync is, which rows are refused and which tables stand still is in one table, `_litekeep_sync`, and is committed together
//! with the rows. Two litekeeps cannot push the same sync: each commit expects to find what its last one left.
//!
//! A row that changes goes by its key and comes again. `ON DUPLICATE KEY UPDATE` would change another row where that one has what must be
//! unique, and say nothing.

pub(crate) mod statements;
mod there;

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use litekeep_schema::portable::Note;
use litekeep_schema::portable::mysql::{Column, Flavor, Given, Options, Table, map, path, quoted};
use litekeep_sql::{Declaration, Profile};
use litekeep_sync::halves::{Blame, Halves};
use litekeep_sync::ledger::{self, Encoded, PAUSED, PLAN, STAGE, text as json};
use litekeep_sync::target::{Listed, TargetTable};
use litekeep_sync::{Change, Error, Kept, Kind, Refused, Stage, Target, Value};
use serde::{Deserialize, Serialize};

pub(crate) use self::there::type_of;

use self::statements::{DELETED, FETCHED, literal, size, write};
use crate::session::{Session, Text};
use crate::{Address, error};

/// The item that names the tables that are about to be made: those may be made anew when that was interrupted.
const MAKING: &str = "making";

/// A database of MySQL or MariaDB.
pub struct Mysql {
    address: Address,
    /// The sync's name.
    name: String,
    options: Options,
    session: Option<Session>,
    tables: Vec<MyTable>,
    /// What the last commit left, as text.
    stage: Option<String>,
    /// Rows that are refused.
    refused: u64,
    reading: Option<Reading>,
}

/// A table as it is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MyTable(pub Table);

impl TargetTable for MyTable {
    fn source(&self) -> &str {
        &self.0.source
    }

    fn columns(&self) -> Vec<&str> {
        self.0.columns.iter().map(|column| column.name.as_str()).collect()
    }

    fn key(&self) -> &[usize] {
        &self.0.key
    }

    fn with_more_columns(&self, mut other: MyTable) -> MyTable {
        let mut longer = self.clone();
        longer.0.columns.extend(other.0.columns.drain(self.0.columns.len()..));
        longer
    }
}

/// A table that is being read.
struct Reading {
    table: usize,
    /// The key of the last row, as SQL has it.
    after: Option<Vec<Vec<u8>>>,
    /// It has no more. What is written now must not be read.
    is_done: bool,
}

#[derive(Clone, Copy)]
enum Put {
    /// None of them is there.
    New,
    /// Some may be.
    Instead,
}

impl Mysql {
    /// Connects to nothing yet. `name`: the sync's.
    pub fn new(address: Address, name: impl Into<String>, options: Options) -> Mysql {
        let name = name.into();
        let (tables, stage, refused, reading) = (vec![], None, 0, None);
        Mysql { address, name, options, session: None, tables, stage, refused, reading }
    }

    fn create(&self, table: &Table) -> String {
        table.create(&self.options, self.flavor())
    }

    /// What the server says, or the URL before anybody is connected.
    fn flavor(&self) -> Flavor {
        self.session.as_ref().map_or(self.address.flavor(), Session::flavor)
    }

    /// The bytes that a statement can have.
    fn packet(&self) -> usize {
        self.session.as_ref().map_or(usize::MAX, Session::packet)
    }

    fn session(&mut self) -> Result<&mut Session, Error> {
        self.session
            .as_mut()
            .ok_or_else(|| Error::new(Kind::Internal, "use a database that is not connected"))
    }

    async fn run(&mut self, doing: &str, sql: &str) -> Result<u64, Error> {
        self.session()?.run(doing, sql).await
    }

    /// The table that keeps how far syncs are, in the database of the tables.
    fn state(&self) -> String {
        path(ledger::TABLE, &self.options)
    }

    /// Which of its rows are this sync's, by the item.
    fn item(&self, item: &str) -> String {
        format!("name = {} AND item = {}", literal(&self.name), literal(item))
    }

    /// The server itself is asked, for it alone knows how it compares names.
    async fn is_there(&mut self, path: &str) -> Result<bool, Error> {
        let session = self.session()?;
        match session.try_run(format!("SELECT 1 FROM {path} LIMIT 0")).await {
            Ok(_) => Ok(true),
            Err(e) if error::is_no_table(&e) => Ok(false),
            Err(e) => Err(session.failed("look for a table", &e)),
        }
    }

    async fn read_kept(&mut self) -> Result<Option<Kept<MyTable>>, Error> {
        const READ: &str = "read how far the sync is";
        let (state, name) = (self.state(), literal(&self.name));
        let sql =
            format!("SELECT item, content FROM {state} WHERE name = {name} AND item NOT LIKE 'refused/%'");
        let rows = self.session()?.texts(READ, &sql).await?;
        let items: BTreeMap<String, String> = rows.into_iter().filter_map(pair).collect();
        let sql = format!("SELECT count(*) FROM {state} WHERE name = {name} AND item LIKE 'refused/%'");
        let counted = self.session()?.texts(READ, &sql).await?;
        let count = counted.first().and_then(|row| row.first()?.as_ref()?.parse().ok());
        let read = ledger::read(&items, count.unwrap_or(0), (&self.name, self.address.name()))?;
        let Some((kept, stage)) = read else { return Ok(None) };
        (self.tables, self.refused) = (kept.tables.clone(), kept.refused);
        self.stage = Some(stage);
        Ok(Some(kept))
    }

    /// Waits until nobody is about to commit something of this sync: a commit of ours may be under way whose answer was lost.
    async fn wait_for_others(&mut self) -> Result<(), Error> {
        let sql = format!("SELECT 1 FROM {} WHERE {} FOR UPDATE", self.state(), self.item(STAGE));
        self.session()?.texts("wait for others", &sql).await.map(drop)
    }

    /// Whether it is a new item.
    async fn set(&mut self, item: &str, content: &str) -> Result<bool, Error> {
        const KEEP: &str = "keep how far the sync is";
        let (state, of, content) = (self.state(), self.item(item), literal(content));
        if self.run(KEEP, &format!("UPDATE {state} SET content = {content} WHERE {of}")).await? > 0 {
            return Ok(false);
        }
        let (name, item) = (literal(&self.name), literal(item));
        let sql = format!("INSERT INTO {state} (name, item, content) VALUES ({name}, {item}, {content})");
        self.run(KEEP, &sql).await.map(|_| true)
    }

    async fn unset(&mut self, item: &str) -> Result<(), Error> {
        let sql = format!("DELETE FROM {} WHERE {}", self.state(), self.item(item));
        self.run("keep how far the sync is", &sql).await.map(drop)
    }

    async fn set_plan(&mut self) -> Result<(), Error> {
        let plan = json(&self.tables);
        self.set(PLAN, &plan).await.map(drop)
    }

    /// The tables that an earlier try was about to make.
    async fn was_making(&mut self) -> Result<BTreeSet<String>, Error> {
        let state = self.state();
        if !self.is_there(&state).await? {
            return Ok(BTreeSet::new());
        }
        let sql = format!("SELECT content FROM {state} WHERE {}", self.item(MAKING));
        let rows = self.session()?.texts("read what was about to be made", &sql).await?;
        let content = rows.first().and_then(|row| row.first()?.as_deref());
        Ok(content.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default())
    }

    fn encode(&self, nth: usize, key: &[Value], row: &[Value]) -> Result<Encoded<Text>, Refused> {
        let refused = |reason: String| Refused { table: nth, key: key.to_vec(), reason };
        let table = &self.tables[nth].0;
        let mut texts = Vec::with_capacity(row.len());
        for (column, value) in table.columns.iter().zip(row) {
            let text = column.kind.encode(value);
            let text = text.map_err(|refusal| refused(format!("`{}`: {refusal}", column.name)))?;
            texts.push(text.map(Into::into));
        }
        let size: usize = texts.iter().map(size).sum();
        if let Some(reason) = statements::too_large(size, self.packet()) {
            return Err(refused(reason));
        }
        Ok(Encoded { key: key.to_vec(), row: texts })
    }

    /// Writes rows that come. Those that the server refuses are told; the others are written.
    async fn put(
        &mut self,
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
        &mut self,
        nth: usize,
        rows: &[&Encoded<Text>],
        how: Put,
    ) -> Result<Result<(), Blame>, Error> {
        let table = &self.tables[nth].0;
        let mut statements = vec![];
        if matches!(how, Put::Instead) && !table.key.is_empty() {
            let keys: Vec<Vec<&Text>> =
                rows.iter().map(|row| table.key.iter().map(|nth| &row.row[*nth]).collect()).collect();
            statements = statements::delete(&self.options, table, &keys, self.packet());
        }
        statements.extend(statements::insert(&self.options, table, rows, self.packet()));
        let doing = format!("write rows of `{}`", table.name);
        let session = self.session()?;
        session.run("begin to write rows", "SAVEPOINT litekeep").await?;
        for statement in statements {
            match session.try_run(statement).await {
                Ok(_) => {}
                Err(e) if error::is_about_data(&e) => {
                    session.run("take rows back", "ROLLBACK TO SAVEPOINT litekeep").await?;
                    let is_about_uniqueness = error::is_about_uniqueness(&e);
                    return Ok(Err(Blame { reason: error::words(&e), is_about_uniqueness }));
                }
                Err(e) => return Err(session.failed(&doing, &e)),
            }
        }
        session.run("write rows", "RELEASE SAVEPOINT litekeep").await?;
        Ok(Ok(()))
    }

    /// All of the rows as a file; `false`: the server does not take it so, and has none of them.
    async fn load_all(&mut self, nth: usize, rows: &[Encoded<Text>]) -> Result<bool, Error> {
        let table = &self.tables[nth].0;
        let (sql, doing) =
            (statements::load(&self.options, table), format!("write rows of `{}`", table.name));
        let session = self.session()?;
        session.run("begin to write rows", "SAVEPOINT litekeep").await?;
        let loaded = session.load(&sql, rows.iter().map(|row| row.row.as_slice())).await;
        match loaded {
            // Otherwise it has left rows out, or taken values for others.
            Ok(Some(count)) if count == rows.len() as u64 => {
                session.run("write rows", "RELEASE SAVEPOINT litekeep").await?;
                return Ok(true);
            }
            Ok(_) => {}
            Err(e) if error::is_about_data(&e) || error::is_about_local_files(&e) => {}
            Err(e) => return Err(session.failed(&doing, &e)),
        }
        session.run("take rows back", "ROLLBACK TO SAVEPOINT litekeep").await?;
        Ok(false)
    }

    async fn delete(&mut self, nth: usize, keys: &[&[Value]]) -> Result<(), Error> {
        let table = &self.tables[nth].0;
        let statements: Vec<Vec<u8>> = if table.key.is_empty() {
            // One that cannot be written there is not there.
            let rows = keys.iter().filter_map(|row| self.encode(nth, &[], row).ok());
            rows.map(|row| statements::delete_whole(&self.options, table, &row.row)).collect()
        } else {
            let encoded = |key: &&[Value]| -> Option<Vec<Text>> {
                let parts = table.key.iter().zip(*key);
                let texts = parts.map(|(nth, value)| table.columns[*nth].kind.encode(value));
                texts.map(|text| text.ok().map(|text| text.map(Into::into))).collect()
            };
            let keys: Vec<Vec<Text>> = keys.iter().filter_map(encoded).collect();
            let keys: Vec<Vec<&Text>> = keys.iter().map(|key| key.iter().collect()).collect();
            statements::delete(&self.options, table, &keys, self.packet())
        };
        let doing = format!("delete rows of `{}`", table.name);
        let session = self.session()?;
        for statement in statements {
            session.run(&doing, statement).await?;
        }
        Ok(())
    }

    /// Lists rows that are refused, and takes others off the list.
    async fn list(&mut self, refused: &[Refused], fine: &[String]) -> Result<(), Error> {
        for items in fine.chunks(DELETED) {
            let items: Vec<String> = items.iter().map(|item| literal(item)).collect();
            let sql = format!(
                "DELETE FROM {} WHERE name = {} AND item IN ({})",
                self.state(),
                literal(&self.name),
                items.join(", ")
            );
            let gone = self.run("take rows off the list of refused ones", &sql).await?;
            self.refused = self.refused.saturating_sub(gone);
        }
        for row in refused {
            let table = self.tables[row.table].source();
            let (item, content) = (ledger::refused_item(table, &row.key), ledger::listed(table, row));
            let is_new = self.set(&item, &content).await?;
            self.refused += u64::from(is_new);
        }
        Ok(())
    }
}

fn pair(row: Vec<Option<String>>) -> Option<(String, String)> {
    let [first, second] = row.try_into().ok()?;
    Some((first?, second?))
}

#[async_trait]
impl Target for Mysql {
    type Table = MyTable;

    fn name(&self) -> String {
        self.address.name().to_owned()
    }

    fn refused(&self) -> u64 {
        self.refused
    }

    async fn listed(&mut self) -> Result<Vec<Listed>, Error> {
        let sql = format!(
            "SELECT content FROM {} WHERE name = {} AND item LIKE 'refused/%' ORDER BY item",
            self.state(),
            literal(&self.name)
        );
        let rows = self.session()?.texts("list refused rows", &sql).await?;
        ledger::read_listed(rows.iter().filter_map(|row| row.first()?.as_deref()))
    }

    fn map(&self, declared: &Declaration, profiles: &[Profile]) -> (MyTable, Vec<Note>) {
        let (table, notes) = map(declared, profiles, &self.options);
        (MyTable(table), notes)
    }

    fn statements(&self, MyTable(table): &MyTable) -> Vec<String> {
        let indexes = table.indexes.iter().map(|index| table.create_index(index, &self.options));
        std::iter::once(self.create(table)).chain(indexes).collect()
    }

    fn connections(&self) -> u32 {
        1
    }

    async fn connect(&mut self) -> Result<Option<Kept<MyTable>>, Error> {
        self.session = None;
        let permits = self.address.budget.take(self.connections()).await?;
        self.session = Some(Session::open(&self.address, &permits).await?);
        let state = self.state();
        if !self.is_there(&state).await? {
            return Ok(None);
        }
        self.wait_for_others().await?;
        self.read_kept().await
    }

    fn disconnect(&mut self) {
        self.session = None;
    }

    async fn set_up(&mut self, tables: &[MyTable], stage: &Stage) -> Result<(), Error> {
        let mut making = self.was_making().await?;
        let mut absent = vec![];
        for MyTable(table) in tables {
            let path = table.path(&self.options);
            if !self.is_there(&path).await? {
                absent.push(table);
            } else if making.contains(&table.name) && !self.has_rows(&path).await? {
                // Half of an earlier try, which may have had it otherwise.
                self.run("make a table anew", &format!("DROP TABLE {path}")).await?;
                absent.push(table);
            } else {
                self.check(table).await?;
            }
        }
        if let Some(schema) = &self.options.schema {
            let sql = format!("CREATE DATABASE IF NOT EXISTS {} CHARACTER SET utf8mb4", quoted(schema));
            self.run("make the database", &sql).await?;
        }
        let sql = statements::make_state(&self.state(), self.flavor());
        self.run("make the table that keeps how far the sync is", &sql).await?;
        making.extend(absent.iter().map(|table| table.name.clone()));
        self.set(MAKING, &json(&making)).await?;
        for table in absent {
            let (path, create) = (table.path(&self.options), self.create(table));
            self.run(&format!("make the table {path}"), &create).await?;
        }
        self.tables = tables.to_vec();
        let (stage, state) = (json(stage), self.state());
        self.run("begin a transaction", "START TRANSACTION").await?;
        self.unset(MAKING).await?;
        let begin = format!(
            "INSERT INTO {state} (name, item, content) VALUES ({}, '{STAGE}', {})",
            literal(&self.name),
            literal(&stage)
        );
        let session = self.session()?;
        if let Err(e) = session.try_run(begin).await {
            return Err(match error::is_about_uniqueness(&e) {
                true => ledger::fenced(&self.name, self.address.name()),
                false => session.failed("keep how far the sync is", &e),
            });
        }
        self.set_plan().await?;
        self.run("commit the tables", "COMMIT").await?;
        self.stage = Some(stage);
        Ok(())
    }

    async fn has(&mut self, table: &MyTable) -> Result<bool, Error> {
        let path = table.0.path(&self.options);
        self.is_there(&path).await
    }

    async fn add_table(&mut self, table: MyTable) -> Result<(), Error> {
        let (path, create) = (table.0.path(&self.options), self.create(&table.0));
        if self.is_there(&path).await? {
            self.check(&table.0).await?;
        } else {
            self.run(&format!("make the table {path}"), &create).await?;
        }
        if let Some(failed) = self.make_indexes(&table.0).await?.into_iter().next() {
            return Err(Error::new(
                Kind::Invalid,
                format!("make an index in {}: {failed}", self.address.name()),
            ));
        }
        self.begin().await?;
        self.tables.push(table);
        self.set_plan().await
    }

    async fn add_columns(&mut self, nth: usize, table: MyTable) -> Result<(), Error> {
        let path = table.0.path(&self.options);
        let there = self.columns(&path).await?;
        for (place, column) in table.0.columns.iter().enumerate().skip(self.tables[nth].0.columns.len()) {
            let wanted = column.kind.sql();
            match there.iter().find(|found| found.name.eq_ignore_ascii_case(&column.name)) {
                Some(found) if found.kind == wanted => {}
                Some(found) => {
                    let (name, is) = (&column.name, &found.kind);
                    let message = format!(
                        "the table {path} has a column `{name}` already, and it is {is}, not {wanted}"
                    );
                    let hint = format!("if it can go: ALTER TABLE {path} DROP COLUMN {};", quoted(name));
                    return Err(Error::with_hint(Kind::Invalid, message, hint));
                }
                None => {
                    let add = table.0.add_column(place, &self.options, self.flavor());
                    self.run(&format!("add a column to {path}"), &add).await?;
                }
            }
        }
        self.begin().await?;
        self.tables[nth] = table;
        self.set_plan().await
    }

    async fn pause(&mut self, table: &str, reason: Option<&str>) -> Result<(), Error> {
        let item = format!("{PAUSED}{table}");
        match reason {
            Some(reason) => self.set(&item, reason).await.map(drop),
            None => self.unset(&item).await,
        }
    }

    async fn begin(&mut self) -> Result<(), Error> {
        self.run("begin a transaction", "START TRANSACTION").await.map(drop)
    }

    async fn load(&mut self, table: usize, rows: &[Vec<Value>]) -> Result<Vec<Refused>, Error> {
        let encode = |nth: usize, key: &[Value], row: &[Value]| self.encode(nth, key, row);
        let (encoded, mut refused) = ledger::encoded((table, &self.tables[table]), rows, encode);
        let is_done = encoded.is_empty()
            || (self.session()?.has_local_files() && self.load_all(table, &encoded).await?);
        if !is_done {
            self.put(table, &encoded, Put::New, &mut refused).await?;
        }
        self.list(&refused, &[]).await?;
        Ok(refused)
    }

    async fn apply(&mut self, changes: &[Change]) -> Result<Vec<Refused>, Error> {
        let encode = |nth: usize, key: &[Value], row: &[Value]| self.encode(nth, key, row);
        let (by_table, mut refused) = ledger::by_table(changes, encode);
        for (nth, of) in &by_table {
            self.delete(*nth, &of.gone).await?;
            self.put(*nth, &of.come, Put::Instead, &mut refused).await?;
        }
        let fine = match self.refused {
            0 => vec![],
            _ => ledger::fine_items(changes, &refused, &self.tables),
        };
        self.list(&refused, &fine).await?;
        Ok(refused)
    }

    async fn hold(&mut self, to_write: bool) -> Result<Option<Kept<MyTable>>, Error> {
        let state = self.state();
        if !self.is_there(&state).await? {
            return Ok(None);
        }
        // The first row that is read without a lock decides which state is seen.
        self.begin().await?;
        if to_write {
            self.wait_for_others().await?;
        }
        self.read_kept().await
    }

    async fn open(&mut self, table: usize) -> Result<(), Error> {
        self.reading = Some(Reading { table, after: None, is_done: false });
        Ok(())
    }

    async fn fetch(&mut self) -> Result<Vec<Vec<Value>>, Error> {
        let Some(reading) = self.reading.take().filter(|reading| !reading.is_done) else {
            return Ok(vec![]);
        };
        let table = self.tables[reading.table].0.clone();
        let sql = statements::read(&self.options, &table, reading.after.as_deref());
        let doing = format!("read the table {}", table.name);
        let rows = self.session()?.rows(&doing, sql).await?;
        let after = rows.last().map(|row| {
            let part = |nth: &usize| {
                let mut sql = vec![];
                let kind = table.columns[*nth].kind;
                write(kind, &row[*nth].as_ref().map(|given| given.encoded(kind)), &mut sql);
                sql
            };
            table.key.iter().map(part).collect()
        });
        let is_done = table.key.is_empty() || rows.len() < FETCHED;
        self.reading = Some(Reading { table: reading.table, after, is_done });
        let value = |column: &Column, given: Option<Given>| {
            let Some(given) = given else { return Value::Null };
            let foreign = given.encoded(column.kind);
            column.kind.decode(given).unwrap_or(Value::Blob(foreign))
        };
        let row = |row: Vec<Option<Given>>| {
            table.columns.iter().zip(row).map(|(column, given)| value(column, given)).collect()
        };
        Ok(rows.into_iter().map(row).collect())
    }

    async fn roll_back(&mut self) -> Result<(), Error> {
        self.run("end the transaction", "ROLLBACK").await.map(drop)
    }

    async fn finish(&mut self) -> Result<Vec<String>, Error> {
        let mut failed = vec![];
        for MyTable(table) in self.tables.clone() {
            failed.extend(self.make_indexes(&table).await?);
        }
        // Making one has ended the transaction.
        self.begin().await?;
        Ok(failed)
    }

    async fn constrain(&mut self) -> Result<Vec<String>, Error> {
        let mut failed = vec![];
        // Otherwise rows that are there are not looked at.
        self.run("look at the rows that are there", "SET foreign_key_checks = 1").await?;
        for MyTable(table) in self.tables.clone() {
            for statement in table.foreign_keys {
                let session = self.session()?;
                match session.try_run(statement.as_str()).await {
                    Ok(_) => {}
                    Err(e) if error::is_for_later(&e) => return Err(session.failed("make a foreign key", &e)),
                    Err(e) => failed.push(format!("`{statement}` failed: {}", error::words(&e))),
                }
            }
        }
        self.run("look at no more rows", "SET foreign_key_checks = 0").await?;
        // Making one has ended the transaction.
        self.begin().await?;
        Ok(failed)
    }

    async fn forget(&mut self) -> Result<(), Error> {
        const FORGET: &str = "forget how far the sync is";
        let state = self.state();
        self.run(FORGET, &format!("LOCK TABLES {state} WRITE")).await?;
        self.run(FORGET, &format!("DELETE FROM {state} WHERE name = {}", literal(&self.name))).await?;
        if self.session()?.texts(FORGET, &format!("SELECT 1 FROM {state} LIMIT 1")).await?.is_empty() {
            self.run(FORGET, &format!("DROP TABLE {state}")).await?;
        }
        self.run(FORGET, "UNLOCK TABLES").await?;
        (self.tables, self.stage, self.refused) = (vec![], None, 0);
        Ok(())
    }

    async fn commit(&mut self, stage: &Stage) -> Result<(), Error> {
        let stage = json(stage);
        let sql = format!(
            "UPDATE {} SET content = {} WHERE {} AND content = {}",
            self.state(),
            literal(&stage),
            self.item(STAGE),
            literal(self.stage.as_deref().unwrap_or_default())
        );
        if self.run("keep how far the sync is", &sql).await? != 1 {
            return Err(ledger::fenced(&self.name, self.address.name()));
        }
        self.run("commit rows", "COMMIT").await?;
        self.stage = Some(stage);
        Ok(())
    }
}
