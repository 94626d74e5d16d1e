//! Tables of MySQL or MariaDB that are kept in step with SQLite's in both directions.
//!
//! The log has each row as it was and as it is (`binlog_row_image = FULL`). A transaction of a node's begins with a row of `_litekeep_sync` that says
//! whose it is, so that it comes in the log before the others. How far nodes are is in the same table, in the same transaction.
//!
//! Rows are written by a session of its own, with READ COMMITTED: what is read is locked and as it is at that moment, whatever the transaction has
//! read before, and no gap between rows is locked, where others insert theirs. Where two transactions are in each other's way, the server
//! ends one of them or lets it wait in vain; when it is ours, it is done again from what is known then.

use std::collections::BTreeMap;

use async_trait::async_trait;
use litekeep_schema::portable::Note;
use litekeep_schema::portable::mysql::{Flavor, Inward, MyType, Options, Table, map, quoted};
use litekeep_sql::{Declaration, DeclaredColumn, Profile, SYNC_TABLE};
use litekeep_sync::hub::{self, Hub, Paired, Parted, There, Writing};
use litekeep_sync::source::{Rows, SourceTable};
use litekeep_sync::{Error, Kind, Value, ledger};

use super::reading::{Reading, codecs, values};
use super::writing::Writer;
use super::{MysqlSource, Wanted, catalog, names};
use crate::binlog::position::Position;
use crate::codec::Codec;
use crate::session::Session;
use crate::target::statements::{groups, literal, make_state};
use crate::target::type_of;
use crate::{Address, error};

/// The item in which a node says something of its transaction.
pub(super) const SAYS: &str = "says";
/// Keys that are locked at once.
const LOCKED: usize = 500;
/// Seconds after which the server ends a session of which it hears nothing: within a transaction, which has rows locked, and else.
const SILENCE_WITHIN: u32 = 60;
const SILENCE: u32 = 2_147_483;
/// Seconds that others may have to wait until the tables are locked for the moment at which they are seen.
const PATIENCE: u32 = 5;

/// Bytes of an item that a row has: what is longer, as a row that could not be written may be, has no room in a statement and is kept in parts.
const PART: usize = 1 << 20;

/// What it has for the way there.
pub(super) struct TwoWay {
    options: Options,
    writer: Option<Session>,
    parted: Parted,
}

impl MysqlSource {
    /// One to which rows go, too. Connects to nothing yet.
    pub fn two_way(address: Address, wanted: Wanted, options: Options) -> MysqlSource {
        let mut source = MysqlSource::new(address, wanted);
        source.two_way = Some(TwoWay { options, writer: None, parted: Parted::default() });
        source
    }

    pub(super) async fn connect_writer(&mut self) -> Result<(), Error> {
        let Some(two_way) = &mut self.two_way else { return Ok(()) };
        two_way.writer = None;
        let mut writer = Session::open(&self.address, &self.permits).await?;
        // Rules of the server hold for what comes from SQLite, too.
        let settings =
            "SET SESSION foreign_key_checks = 1; SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED";
        writer.try_run_all(settings).await.map_err(|e| writer.failed("connect", &e))?;
        two_way.writer = Some(writer);
        Ok(())
    }

    pub(super) fn let_go_of_writer(&mut self) {
        if let Some(two_way) = &mut self.two_way {
            two_way.writer = None;
        }
    }

    fn writer(&mut self) -> Result<&mut Session, Error> {
        let none = || Error::new(Kind::Internal, "write to a database that is not connected");
        self.two_way.as_mut().and_then(|two_way| two_way.writer.as_mut()).ok_or_else(none)
    }

    fn server(&self) -> &'static str {
        match self.flavor {
            Flavor::Mysql => "MySQL",
            Flavor::Mariadb => "MariaDB",
        }
    }

    /// Refuses a user who may not do what is done later, by statements that do nothing.
    async fn check_writer(&mut self, tables: &[Paired]) -> Result<(), Error> {
        const NOTHING: &str = "_litekeep_nothing";
        let mut tried =
            vec![("make a table".to_owned(), format!("CREATE TABLE {NOTHING} LIKE {NOTHING}_either"))];
        if self.flavor == Flavor::Mysql {
            tried.push(("lock a table".to_owned(), format!("LOCK TABLES {NOTHING} READ")));
        }
        for pair in tables.iter().filter(|pair| pair.is_there) {
            let Some(column) = pair.table.mirror.columns.first() else { continue };
            let (path, column) = (quoted(&pair.table.source), quoted(&column.name));
            let doing = || format!("write rows of {path}");
            tried.extend([
                (
                    doing(),
                    format!("EXPLAIN INSERT INTO {path} ({column}) SELECT {column} FROM {path} WHERE 1 = 0"),
                ),
                (doing(), format!("EXPLAIN UPDATE {path} SET {column} = {column} WHERE 1 = 0")),
                (doing(), format!("EXPLAIN DELETE FROM {path} WHERE 1 = 0")),
            ]);
        }
        let writer = self.writer()?;
        for (doing, sql) in tried {
            // Whatever else is in the way of such a statement, the server looks at the rights first.
            if let Err(e) = writer.try_run(sql).await
                && (error::is_denied(&e) || error::is_for_later(&e))
            {
                return Err(writer.failed(&doing, &e));
            }
        }
        Ok(())
    }

    /// The columns here and there, where both have the table.
    fn both(
        &self,
        declared: &Declaration,
        ours: &Table,
        there: &SourceTable,
        notes: &mut Vec<Note>,
    ) -> SourceTable {
        let server = self.server();
        let columns: Vec<String> = there.mirror.columns.iter().map(|column| column.name.clone()).collect();
        let key = names(there, &there.mirror.key);
        let is_only_key = |name: &str| key.len() == 1 && key[0] == name;
        let kind_of = |place: usize, column: &DeclaredColumn| {
            let found = &there.types[place];
            let inward = super::form(found).unwrap_or(Inward::Text);
            let my = ours.columns.iter().find(|ours| ours.name == column.name).map(|ours| ours.kind);
            let codec = match my {
                Some(my) if my.sql() == type_of(&found.name) && my != MyType::Tagged => Codec::Ours(my),
                _ => Codec::Theirs(inward),
            };
            let why_not = match codec {
                Codec::Ours(_) => None,
                // An integer that is the whole key is kept, or refused, but none becomes a floating-point number.
                Codec::Theirs(Inward::Unsigned) if !is_only_key(&column.name) => {
                    unsigned(server, &there.source, column, &found.name)
                }
                Codec::Theirs(inward) => {
                    let wanted = inward.declared(is_only_key(&column.name));
                    hub::unfit((server, &found.name), &column.declared, wanted)
                }
            };
            (codec.kind(found.name.clone()), why_not)
        };
        let there = There { server, name: &there.source, columns: &columns, key: &key };
        there.beside(declared, kind_of, notes)
    }

    /// A table that is only here, as it is made there.
    fn only_here(&self, declared: &Declaration, ours: &Table, notes: &mut Vec<Note>) -> SourceTable {
        let columns = ours.columns.iter().map(|column| {
            (
                (column.name.as_str(), column.source, column.is_not_null),
                Codec::Ours(column.kind).kind(column.kind.sql()),
            )
        });
        hub::only_here(declared, &ours.name, columns, &ours.key, notes)
    }

    /// Whether the table that keeps how far nodes are is there.
    async fn has_state(&mut self) -> Result<bool, Error> {
        let writer = self.writer()?;
        match writer.try_run(format!("SELECT 1 FROM {SYNC_TABLE} LIMIT 0")).await {
            Ok(_) => Ok(true),
            Err(e) if error::is_no_table(&e) => Ok(false),
            Err(e) => Err(writer.failed("look for a table", &e)),
        }
    }
}

/// Why a column would not keep numbers that SQLite has no integers for, which come as text.
fn unsigned(server: &str, table: &str, column: &DeclaredColumn, there: &str) -> Option<String> {
    (!column.declared.is_empty()).then(|| {
        let (declared, table, name) = (&column.declared, quoted(table), quoted(&column.name));
        format!(
            "is `{there}` in {server} and `{declared}` in SQLite, which has no integers of 2^63 and more: ALTER TABLE {table} MODIFY {name} bigint \
             there, or declare it without a type here"
        )
    })
}

#[async_trait]
impl Hub for MysqlSource {
    async fn pair(&mut self, declared: &[(Declaration, Vec<Profile>)]) -> Result<Vec<Paired>, Error> {
        let Some(TwoWay { options, .. }) = &self.two_way else { return Ok(vec![]) };
        let (options, flavor) = (options.clone(), self.flavor);
        let surveyed = self.catalog().await?.surveyed().await?;
        let mut by_name: BTreeMap<String, (SourceTable, Vec<Note>)> =
            surveyed.into_iter().map(|(table, notes)| (table.source.clone(), (table, notes))).collect();
        let mut paired = vec![];
        for (declared, profiles) in declared {
            let (ours, mut notes) = map(declared, profiles, &options);
            let Some((there, of_there)) = by_name.remove(&ours.name) else {
                let table = self.only_here(declared, &ours, &mut notes);
                let statements = vec![ours.create_whole(&options, flavor)];
                paired.push(Paired { table, notes, is_here: true, is_there: false, statements });
                continue;
            };
            let mut notes = of_there;
            let table = self.both(declared, &ours, &there, &mut notes);
            paired.push(Paired { table, notes, is_here: true, is_there: true, statements: vec![] });
        }
        let is_here =
            |name: &str| declared.iter().any(|(declared, _)| declared.name.eq_ignore_ascii_case(name));
        for (table, notes) in by_name.into_values().filter(|(table, _)| !is_here(&table.mirror.name)) {
            paired.push(Paired { table, notes, is_here: false, is_there: true, statements: vec![] });
        }
        hub::check_named(&paired, &self.wanted.tables, self.address.name())?;
        self.check_writer(&paired).await?;
        Ok(paired)
    }

    async fn is_empty(&mut self, table: &SourceTable) -> Result<bool, Error> {
        let sql = format!("SELECT 1 FROM {} LIMIT 1", quoted(&table.source));
        Ok(self.writer()?.texts("look into a table", &sql).await?.is_empty())
    }

    async fn make(&mut self, tables: &[Paired]) -> Result<(), Error> {
        let flavor = self.flavor;
        let writer = self.writer()?;
        let made = make_state(SYNC_TABLE, flavor);
        writer.run("make the table that keeps how far the sync is", &made).await?;
        for pair in tables.iter().filter(|pair| !pair.is_there) {
            for statement in &pair.statements {
                writer.run(&format!("make the table {}", quoted(&pair.table.source)), statement).await?;
            }
        }
        Ok(())
    }

    async fn picture(&mut self, _: &str, tables: &[SourceTable]) -> Result<String, Error> {
        // MySQL does not tell where in the log a snapshot is, so nobody may write meanwhile. Whoever has written has ended when the lock is there.
        let is_locked = self.flavor == Flavor::Mysql;
        if is_locked {
            let tables: Vec<String> =
                tables.iter().map(|table| format!("{} READ", quoted(&table.source))).collect();
            let lock =
                format!("SET SESSION lock_wait_timeout = {PATIENCE}; LOCK TABLES {}", tables.join(", "));
            let writer = self.writer()?;
            let locked = writer.try_run_all(lock).await;
            locked.map_err(|e| writer.failed("lock the tables for a moment", &e))?;
        }
        let position = self.catalog().await?.snapshot().await?;
        if is_locked {
            self.writer()?.run("let go of the tables", "UNLOCK TABLES").await?;
        }
        Ok(position.to_string())
    }

    async fn end_picture(&mut self) -> Result<(), Error> {
        self.reading = None;
        self.catalog().await?.session().run("see rows as they are", "COMMIT").await.map(drop)
    }

    async fn items(&mut self, node: &str) -> Result<BTreeMap<String, String>, Error> {
        if !self.has_state().await? {
            return Ok(BTreeMap::new());
        }
        // A commit of ours may be under way whose answer was lost: it is waited for.
        let sql = format!("SELECT item, content FROM {SYNC_TABLE} WHERE name = {} FOR UPDATE", literal(node));
        let rows = self.writer()?.texts("read how far the sync is", &sql).await?;
        let pair = |row: Vec<Option<String>>| {
            let mut row = row.into_iter().flatten();
            Some((row.next()?, row.next()?))
        };
        let mut items: BTreeMap<String, String> = rows.into_iter().filter_map(pair).collect();
        let parted = Parted::read(&mut items);
        if let Some(two_way) = &mut self.two_way {
            two_way.parted = parted;
        }
        Ok(items)
    }

    async fn begin(&mut self, node: &str, says: Option<&str>) -> Result<(), Error> {
        let mut sql = format!("SET SESSION wait_timeout = {SILENCE_WITHIN}; START TRANSACTION");
        if let Some(says) = says {
            let (node, says) = (literal(node), literal(says));
            sql.push_str(&format!(
                "; REPLACE INTO {SYNC_TABLE} (name, item, content) VALUES ({node}, '{SAYS}', {says})"
            ));
        }
        let writer = self.writer()?;
        writer.try_run_all(sql).await.map(drop).map_err(|e| writer.failed("begin a transaction", &e))
    }

    async fn lock(&mut self, table: &SourceTable, keys: &[Vec<Value>]) -> Result<Vec<Vec<Value>>, Error> {
        let codecs = codecs(table)?;
        let doing = format!("lock rows of `{}`", table.source);
        let writer = self.writer()?;
        let mut found = vec![];
        for keys in keys.chunks(LOCKED) {
            let mut sql = Reading::of(table, Rows::With(keys))?.statement();
            sql.extend_from_slice(b" FOR UPDATE");
            let rows = writer.raw_rows(sql).await.map_err(|e| writer.failed(&doing, &e))?;
            found.extend(rows.into_iter().map(|row| values(row, &codecs)));
        }
        Ok(found)
    }

    async fn written(&mut self) -> Result<String, Error> {
        let has_gtids = self.has_gtids;
        let writer = self.writer()?;
        // MySQL lets go of rows before it numbers the transaction as done: its number is owned until then.
        let owned = match writer.flavor() {
            Flavor::Mysql if has_gtids => {
                let rows = writer.texts("ask where the server is", "SELECT @@global.gtid_owned").await?;
                Position::owned(&rows.into_iter().flatten().next().flatten().unwrap_or_default())
            }
            _ => vec![],
        };
        let mut position = catalog::now(writer, has_gtids).await?;
        owned.iter().for_each(|gtid| position.add(gtid));
        Ok(position.to_string())
    }

    async fn write(&mut self, table: &SourceTable, rows: &[Writing]) -> Result<Vec<(usize, String)>, Error> {
        hub::write_rows(&mut Writer::new(self.writer()?, table)?, rows).await
    }

    async fn commit(
        &mut self,
        node: &str,
        (name, expected): (&str, Option<&str>),
        items: &[(String, Option<String>)],
    ) -> Result<(), Error> {
        const KEEP: &str = "keep how far the sync is";
        let fenced = ledger::fenced(node, self.address.name());
        let Some(TwoWay { writer: Some(writer), parted, .. }) = &mut self.two_way else {
            return Err(Error::new(Kind::Internal, "write to a database that is not connected"));
        };
        let (node, most) = (literal(node), writer.packet());
        // As a quote is written, each character may be two.
        let room = PART.min(most / 2);
        let of = |item: &str| format!("FROM {SYNC_TABLE} WHERE name = {node} AND item = {}", literal(item));
        let found = writer.texts(KEEP, &format!("SELECT content {} FOR UPDATE", of(name))).await?;
        if found.into_iter().flatten().next().flatten().as_deref() != expected {
            return Err(fenced);
        }
        let (kept, gone) = parted.changed(items, room);
        for gone in gone.chunks(LOCKED) {
            let gone: Vec<String> = gone.iter().map(|item| literal(item)).collect();
            let sql =
                format!("DELETE FROM {SYNC_TABLE} WHERE name = {node} AND item IN ({})", gone.join(", "));
            writer.run(KEEP, &sql).await?;
        }
        // Where there is nothing yet, another one may be about to begin, too.
        let is_first = |item: &str| expected.is_none() && item == name;
        for (first, verb) in [(true, "INSERT"), (false, "REPLACE")] {
            let kept: Vec<_> = kept.iter().filter(|(item, _)| is_first(item) == first).collect();
            for kept in groups(&kept, LOCKED, most, |(item, content)| item.len() + content.len()) {
                let rows: Vec<String> = kept
                    .iter()
                    .map(|(item, content)| format!("({node}, {}, {})", literal(item), literal(content)))
                    .collect();
                let sql =
                    format!("{verb} INTO {SYNC_TABLE} (name, item, content) VALUES {}", rows.join(", "));
                match writer.try_run(sql).await {
                    Ok(_) => {}
                    Err(e) if error::is_about_uniqueness(&e) => return Err(fenced),
                    Err(e) => return Err(writer.failed(KEEP, &e)),
                }
            }
        }
        self.end("commit rows", "COMMIT").await
    }

    async fn roll_back(&mut self) -> Result<(), Error> {
        self.end("end the transaction", "ROLLBACK").await
    }

    async fn forget_node(&mut self, node: &str) -> Result<(), Error> {
        const FORGET: &str = "forget the sync";
        if !self.has_state().await? {
            return Ok(());
        }
        let writer = self.writer()?;
        let sql = format!("DELETE FROM {SYNC_TABLE} WHERE name = {}", literal(node));
        writer.run(FORGET, &sql).await?;
        // Who may not lock or drop it leaves it.
        if writer.try_run(format!("LOCK TABLES {SYNC_TABLE} WRITE")).await.is_err() {
            return Ok(());
        }
        if writer.texts(FORGET, &format!("SELECT 1 FROM {SYNC_TABLE} LIMIT 1")).await?.is_empty() {
            let _ = writer.try_run(format!("DROP TABLE {SYNC_TABLE}")).await;
        }
        writer.run(FORGET, "UNLOCK TABLES").await.map(drop)
    }
}

impl MysqlSource {
    /// Ends a transaction.
    async fn end(&mut self, doing: &str, how: &str) -> Result<(), Error> {
        let writer = self.writer()?;
        let ended = writer.try_run_all(format!("{how}; SET SESSION wait_timeout = {SILENCE}")).await;
        ended.map(drop).map_err(|e| writer.failed(doing, &e))
    }
}
