//! Tables of PostgreSQL that are kept in step with SQLite's in both directions.
//!
//! Changes come with the whole row as it was (`REPLICA IDENTITY FULL`), and each transaction of a node's begins with a message of its own.
//! A row is written while it is locked, in a session of its own; how far nodes are is in `_litekeep_sync`, in the same transaction.

use std::collections::BTreeMap;

use async_trait::async_trait;
use litekeep_schema::portable::postgres::{Inward, Options, PgType, Table, map, quoted};
use litekeep_schema::portable::{Level, Note};
use litekeep_sql::{Declaration, DeclaredColumn, Profile, SYNC_TABLE};
use litekeep_sync::halves::Blame;
use litekeep_sync::hub::{self, Act, Hub, Paired, RowWriter, There, Writing};
use litekeep_sync::source::{Source as _, SourceTable};
use litekeep_sync::{Error, Kind, Value, ledger};

use super::catalog::FoundColumn;
use super::{PostgresSource, Wanted};
use crate::codec::Codec;
use crate::session::{Session, Text};
use crate::target::full_name;
use crate::{Address, error, literal};

const SERVER: &str = "PostgreSQL";
/// What messages of nodes are called.
pub(super) const SAYS: &str = "litekeep";
/// Keys that are locked at once.
const LOCKED: usize = 2_000;
/// What it has for the way there.
pub(super) struct TwoWay {
    options: Options,
    writer: Option<Session>,
}

impl PostgresSource {
    /// One to which rows go, too. Connects to nothing yet.
    pub fn two_way(address: Address, wanted: Wanted, options: Options) -> PostgresSource {
        let two_way = Some(TwoWay { options, writer: None });
        PostgresSource { two_way, ..PostgresSource::new(address, wanted) }
    }

    pub(super) async fn connect_writer(&mut self) -> Result<(), Error> {
        let Some(two_way) = &mut self.two_way else { return Ok(()) };
        two_way.writer = None;
        let writer = Session::open(&self.address, &self.permits).await?;
        writer.set().await?;
        let sql =
            "SELECT current_setting('server_version_num')::int >= 140000, current_setting('server_version')";
        let version = writer.rows("ask for the server's version", sql, &[]).await?;
        if let Some(row) = version.first().filter(|row| !row.get::<_, bool>(0)) {
            let (version, place): (String, &str) = (row.get(1), self.address.name());
            let message = format!(
                "{place} is PostgreSQL {version}, whose changes do not tell which node has made them"
            );
            return Err(Error::with_hint(
                Kind::Invalid,
                message,
                "a sync in both directions needs version 14 or later",
            ));
        }
        two_way.writer = Some(writer);
        Ok(())
    }

    pub(super) fn let_go_of_writer(&mut self) {
        if let Some(two_way) = &mut self.two_way {
            two_way.writer = None;
        }
    }

    fn writer(&self) -> Result<&Session, Error> {
        let none = || Error::new(Kind::Internal, "write to a database that is not connected");
        self.two_way.as_ref().and_then(|two_way| two_way.writer.as_ref()).ok_or_else(none)
    }

    fn state(&self) -> String {
        format!("{}.{SYNC_TABLE}", quoted(&self.schema))
    }

    async fn has_state(&self) -> Result<bool, Error> {
        let sql = "SELECT to_regclass($1) IS NOT NULL";
        let found = self.writer()?.rows("look for a table", sql, &[&self.state()]).await?;
        Ok(found.first().is_some_and(|row| row.get(0)))
    }

    /// The columns here and there, where both have the table.
    fn both(
        &self,
        declared: &Declaration,
        ours: &Table,
        there: &[&FoundColumn],
        key: &[String],
        notes: &mut Vec<Note>,
    ) -> SourceTable {
        let there: Vec<&FoundColumn> = there.iter().filter(|column| !column.is_generated).copied().collect();
        let columns: Vec<String> = there.iter().map(|column| column.name.clone()).collect();
        let kind_of = |place: usize, column: &DeclaredColumn| {
            let found = &there[place].kind;
            let inward = super::form(found).unwrap_or(Inward::Text);
            let pg = ours.columns.iter().find(|ours| ours.name == column.name).map(|ours| ours.kind);
            let codec = match pg {
                Some(pg) if full_name(pg) == found.name && pg != PgType::Tagged => Codec::Ours(pg),
                _ => Codec::Theirs(inward),
            };
            (codec.kind(found.name.clone()), unfit(codec, &column.declared, &found.name))
        };
        let there = There { server: SERVER, name: &ours.name, columns: &columns, key };
        there.beside(declared, kind_of, notes)
    }

    /// A table that is only here, as it is made there.
    fn only_here(&self, declared: &Declaration, ours: &Table, notes: &mut Vec<Note>) -> SourceTable {
        let columns = ours.columns.iter().map(|column| {
            (
                (column.name.as_str(), column.source, column.is_not_null),
                Codec::Ours(column.kind).kind(full_name(column.kind).to_owned()),
            )
        });
        hub::only_here(declared, &ours.name, columns, &ours.key, notes)
    }

    /// Values of columns as the server reads them; `Err`: why it cannot have them.
    fn encoded(
        table: &SourceTable,
        columns: impl Iterator<Item = usize>,
        values: &[Value],
    ) -> Result<Vec<Text>, String> {
        columns
            .zip(values)
            .map(|(nth, value)| {
                let codec = Codec::of(&table.types[nth]).ok_or("the plan is damaged")?;
                let text = codec
                    .text(value)
                    .map_err(|why| format!("`{}`: {why}", table.mirror.columns[nth].name))?;
                Ok(text.map(Into::into))
            })
            .collect()
    }

    fn sql(&self, table: &SourceTable, act: Act) -> String {
        let path = self.path(table);
        let all: Vec<usize> = (0..table.mirror.columns.len()).collect();
        let key = &table.mirror.key;
        let name = |nth: &usize| quoted(&table.mirror.columns[*nth].name);
        let names = |columns: &[usize]| columns.iter().map(name).collect::<Vec<_>>().join(", ");
        match act {
            Act::Delete => {
                format!("DELETE FROM {path} t USING {} WHERE {}", unnested(table, key), is_key(table, key))
            }
            Act::Insert => {
                let given = all.iter().map(|nth| format!("n.c{nth}")).collect::<Vec<_>>().join(", ");
                format!(
                    "INSERT INTO {path} ({}) OVERRIDING SYSTEM VALUE SELECT {given} FROM {} ON CONFLICT ({}) DO NOTHING",
                    names(&all),
                    unnested(table, &all),
                    names(key)
                )
            }
            Act::Update => {
                let others = all.iter().filter(|nth| !key.contains(nth));
                let mut set: Vec<String> = others.map(|nth| format!("{} = n.c{nth}", name(nth))).collect();
                if set.is_empty() {
                    // Of a table that is all key a row has nothing else to be set.
                    set = vec![format!("{} = n.c{}", name(&key[0]), key[0])];
                }
                let set = set.join(", ");
                format!(
                    "UPDATE {path} t SET {set} FROM {} WHERE {}",
                    unnested(table, &all),
                    is_key(table, key)
                )
            }
        }
    }
}

/// Parameters that are columns of text, read as their types.
fn unnested(table: &SourceTable, columns: &[usize]) -> String {
    let joined = |of: &dyn Fn(usize, usize) -> String| {
        columns.iter().enumerate().map(|(place, nth)| of(place, *nth)).collect::<Vec<_>>().join(", ")
    };
    format!(
        "(SELECT {} FROM unnest({}) AS given({})) n",
        joined(&|_, nth| format!("given.c{nth}::{} AS c{nth}", table.types[nth].name)),
        joined(&|place, _| format!("${}", place + 1)),
        joined(&|_, nth| format!("c{nth}")),
    )
}

fn is_key(table: &SourceTable, key: &[usize]) -> String {
    let is = |nth: &usize| format!("t.{} = n.c{nth}", quoted(&table.mirror.columns[*nth].name));
    key.iter().map(is).collect::<Vec<_>>().join(" AND ")
}

/// Why a column of SQLite would not keep what comes as it comes.
fn unfit(codec: Codec, declared: &str, there: &str) -> Option<String> {
    if !codec.goes_both_ways() {
        return Some(hub::read_only(there));
    }
    let Codec::Theirs(inward) = codec else { return None };
    hub::unfit((SERVER, there), declared, inward.declared())
}

#[async_trait]
impl Hub for PostgresSource {
    async fn pair(&mut self, declared: &[(Declaration, Vec<Profile>)]) -> Result<Vec<Paired>, Error> {
        let Some(TwoWay { options, .. }) = &self.two_way else { return Ok(vec![]) };
        let options = Options { schema: Some(self.schema.clone()), ..options.clone() };
        let (columns, keys) = (self.columns().await?, self.keys().await?);
        let mut by_table: BTreeMap<&str, Vec<&FoundColumn>> = BTreeMap::new();
        columns.iter().for_each(|column| by_table.entry(&column.table).or_default().push(column));
        let mut paired = vec![];
        for (declared, profiles) in declared {
            let (ours, of_ours) = map(declared, profiles, &options);
            let Some(there) = by_table.remove(ours.name.as_str()) else {
                let mut notes = of_ours;
                let table = self.only_here(declared, &ours, &mut notes);
                let statements = std::iter::once(ours.create(&options)).chain(ours.indexes.iter().cloned());
                let statements = statements.collect();
                paired.push(Paired { table, notes, is_here: true, is_there: false, statements });
                continue;
            };
            let mut notes = vec![];
            let key = keys.get(&ours.name).cloned().unwrap_or_default();
            let table = self.both(declared, &ours, &there, &key, &mut notes);
            paired.push(Paired { table, notes, is_here: true, is_there: true, statements: vec![] });
        }
        let is_here =
            |name: &str| declared.iter().any(|(declared, _)| declared.name.eq_ignore_ascii_case(name));
        let missing: Vec<String> =
            by_table.keys().filter_map(|there| self.wanted(there)).filter(|here| !is_here(here)).collect();
        if !missing.is_empty() {
            let named = std::mem::replace(&mut self.wanted.tables, missing);
            let surveyed = self.survey().await;
            self.wanted.tables = named;
            for (table, mut notes) in surveyed? {
                for (column, kind) in table.mirror.columns.iter().zip(&table.types) {
                    if Codec::of(kind).is_none_or(|codec| !codec.goes_both_ways()) {
                        let message = hub::read_only(&kind.name);
                        let (table, column) = (table.mirror.name.clone(), Some(column.name.clone()));
                        notes.push(Note { table, column, level: Level::Table, message });
                    }
                }
                paired.push(Paired { table, notes, is_here: false, is_there: true, statements: vec![] });
            }
        }
        hub::check_named(&paired, &self.wanted.tables, self.address.name())?;
        Ok(paired)
    }

    async fn is_empty(&mut self, table: &SourceTable) -> Result<bool, Error> {
        let sql = format!("SELECT 1 FROM {} LIMIT 1", self.path(table));
        Ok(self.writer()?.rows("look into a table", &sql, &[]).await?.is_empty())
    }

    async fn make(&mut self, tables: &[Paired]) -> Result<(), Error> {
        let session = self.writer()?;
        session.run("begin a transaction", "BEGIN").await?;
        let sql = "SELECT 1 FROM pg_namespace WHERE nspname = $1";
        if session.rows("look for the schema", sql, &[&self.schema]).await?.is_empty() {
            session.run("make the schema", &format!("CREATE SCHEMA {}", quoted(&self.schema))).await?;
        }
        if !self.has_state().await? {
            let sql = format!(
                "CREATE TABLE IF NOT EXISTS {} (name text, item text, content text NOT NULL, \
                 changed_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (name, item))",
                self.state()
            );
            session.run("make the table that keeps how far the sync is", &sql).await?;
        }
        for pair in tables {
            let path = self.path(&pair.table);
            if !pair.is_there {
                for statement in &pair.statements {
                    session.run(&format!("make the table {path}"), statement).await?;
                }
            }
            let sql = "SELECT relreplident = 'f' FROM pg_class WHERE oid = to_regclass($1)";
            let found = session.rows("read a table's replica identity", sql, &[&path]).await?;
            if !found.first().is_some_and(|row| row.get(0)) {
                let sql = format!("ALTER TABLE {path} REPLICA IDENTITY FULL");
                session.run("have old rows come with changes", &sql).await.map_err(|error| {
                    match error.kind() {
                        Kind::Invalid => {
                            let hint = format!("as the owner of the table, or an administrator: {sql};");
                            Error::with_hint(Kind::Invalid, error.to_string(), hint)
                        }
                        _ => error,
                    }
                })?;
            }
        }
        session.run("commit the tables", "COMMIT").await
    }

    async fn picture(&mut self, slot: &str, tables: &[SourceTable]) -> Result<String, Error> {
        self.publish(slot, tables).await?;
        self.drop_slot(slot).await?;
        let none = || Error::new(Kind::Internal, "make a slot without a connection");
        let (position, picture) = self.replication.as_mut().ok_or_else(none)?.make_slot(slot).await?;
        let sql = format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT {}",
            literal(&picture)
        );
        self.session()?.run("see all rows at one moment", &sql).await?;
        Ok(position)
    }

    async fn end_picture(&mut self) -> Result<(), Error> {
        self.reading = None;
        self.session()?.run("see rows as they are", "COMMIT").await
    }

    async fn items(&mut self, node: &str) -> Result<BTreeMap<String, String>, Error> {
        if !self.has_state().await? {
            return Ok(BTreeMap::new());
        }
        let sql = format!("SELECT item, content FROM {} WHERE name = $1", self.state());
        let rows = self.writer()?.rows("read how far the sync is", &sql, &[node]).await?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    async fn begin(&mut self, _: &str, says: Option<&str>) -> Result<(), Error> {
        let mut sql = "BEGIN ISOLATION LEVEL READ COMMITTED; SET CONSTRAINTS ALL IMMEDIATE".to_owned();
        if let Some(says) = says {
            let (of, says) = (literal(SAYS), literal(says));
            sql.push_str(&format!("; SELECT pg_logical_emit_message(true, {of}, {says})"));
        }
        self.writer()?.run("begin a transaction", &sql).await
    }

    async fn lock(&mut self, table: &SourceTable, keys: &[Vec<Value>]) -> Result<Vec<Vec<Value>>, Error> {
        let session = self.writer()?;
        let codecs: Option<Vec<Codec>> = table.types.iter().map(Codec::of).collect();
        let damaged =
            || Error::new(Kind::Corrupt, format!("read the plan of `{}`: a type is none", table.source));
        let codecs = codecs.ok_or_else(damaged)?;
        // As COPY writes it: a cast to text is not always the same.
        let texts: Vec<String> = (table.mirror.columns.iter())
            .map(|column| quoted(&column.name))
            .map(|name| format!("CASE WHEN t.{name} IS NOT NULL THEN format('%s', t.{name}) END"))
            .collect();
        let key = &table.mirror.key;
        let order = key.iter().map(|nth| format!("n.c{nth}")).collect::<Vec<_>>().join(", ");
        let sql = format!(
            "SELECT {} FROM {} t JOIN {} ON {} ORDER BY {order} FOR UPDATE OF t",
            texts.join(", "),
            self.path(table),
            unnested(table, key),
            is_key(table, key),
        );
        let mut found = vec![];
        for keys in keys.chunks(LOCKED) {
            let mut columns: Vec<Vec<Text>> = vec![vec![]; key.len()];
            for given in keys {
                // One that cannot be written there is not there.
                let Ok(texts) = PostgresSource::encoded(table, key.iter().copied(), given) else { continue };
                columns.iter_mut().zip(texts).for_each(|(column, text)| column.push(text));
            }
            if columns.first().is_none_or(Vec::is_empty) {
                continue;
            }
            let rows = session.rows_of(&format!("lock rows of `{}`", table.source), &sql, &columns).await?;
            let value = |row: &tokio_postgres::Row, nth: usize, codec: &Codec| match row
                .get::<_, Option<&str>>(nth)
            {
                Some(text) => codec.value(text.as_bytes()),
                None => Value::Null,
            };
            found.extend(rows.iter().map(|row| -> Vec<Value> {
                codecs.iter().enumerate().map(|(nth, codec)| value(row, nth, codec)).collect()
            }));
        }
        Ok(found)
    }

    async fn written(&mut self) -> Result<String, Error> {
        let sql = "SELECT pg_current_wal_insert_lsn()::text";
        let rows = self.writer()?.rows("ask where the server is", sql, &[]).await?;
        let none = || Error::new(Kind::Internal, "ask where the server is: no answer");
        rows.first().map(|row| row.get(0)).ok_or_else(none)
    }

    async fn write(&mut self, table: &SourceTable, rows: &[Writing]) -> Result<Vec<(usize, String)>, Error> {
        hub::write_rows(&mut Writer { hub: self, table }, rows).await
    }

    async fn commit(
        &mut self,
        node: &str,
        (name, expected): (&str, Option<&str>),
        items: &[(String, Option<String>)],
    ) -> Result<(), Error> {
        const KEEP: &str = "keep how far the sync is";
        let session = self.writer()?;
        let state = self.state();
        let sql = format!("SELECT content FROM {state} WHERE name = $1 AND item = $2 FOR UPDATE");
        let found = session.rows(KEEP, &sql, &[node, name]).await?;
        let found: Option<&str> = found.first().map(|row| row.get(0));
        if found != expected {
            return Err(ledger::fenced(node, self.address.name()));
        }
        let kept = items.iter().filter_map(|(item, content)| Some((item.clone(), content.clone()?)));
        let (names, contents): (Vec<Text>, Vec<Text>) =
            kept.map(|(item, content)| (Some(item), Some(content))).unzip();
        let gone: Vec<Text> = items
            .iter()
            .filter(|(_, content)| content.is_none())
            .map(|(item, _)| Some(item.clone()))
            .collect();
        let node = literal(node);
        if !names.is_empty() {
            let sql = format!(
                "INSERT INTO {state} (name, item, content) SELECT {node}, given.i, given.c FROM unnest($1, $2) AS given(i, c) \
                 ON CONFLICT (name, item) DO UPDATE SET content = excluded.content, changed_at = now()"
            );
            session.execute(&sql, &[names, contents]).await.map_err(|e| session.failed(KEEP, &e))?;
        }
        if !gone.is_empty() {
            let sql = format!("DELETE FROM {state} WHERE name = {node} AND item = ANY($1)");
            session.execute(&sql, &[gone]).await.map_err(|e| session.failed(KEEP, &e))?;
        }
        session.run("commit rows", "COMMIT").await
    }

    async fn roll_back(&mut self) -> Result<(), Error> {
        self.writer()?.run("end the transaction", "ROLLBACK").await
    }

    async fn forget_node(&mut self, node: &str) -> Result<(), Error> {
        if !self.has_state().await? {
            return Ok(());
        }
        let (session, state) = (self.writer()?, self.state());
        let sql = format!("DELETE FROM {state} WHERE name = $1");
        session.rows("forget the sync", &sql, &[node]).await?;
        if session.rows("forget the sync", &format!("SELECT 1 FROM {state} LIMIT 1"), &[]).await?.is_empty() {
            // Somebody else's may be beginning, or own the table: then it stays.
            let drop = format!(
                "BEGIN; LOCK TABLE {state} IN ACCESS EXCLUSIVE MODE; DO $$ BEGIN IF NOT EXISTS (SELECT 1 FROM {state}) THEN DROP TABLE {state}; \
                 END IF; END $$; COMMIT"
            );
            if session.try_run(&drop).await.is_err() {
                session.run("forget the sync", "ROLLBACK").await?;
            }
        }
        Ok(())
    }
}

/// A table that rows are written into.
struct Writer<'a> {
    hub: &'a PostgresSource,
    table: &'a SourceTable,
}

/// A row as text.
struct Encoded {
    key: Vec<Text>,
    /// Its values; none: it goes.
    row: Vec<Text>,
}

impl Writer<'_> {
    fn doing(&self) -> String {
        format!("write rows of `{}`", self.table.source)
    }
}

/// Values of rows column by column.
fn by_column<'a>(rows: impl Iterator<Item = &'a Vec<Text>>) -> Vec<Vec<Text>> {
    let mut columns: Vec<Vec<Text>> = vec![];
    for row in rows {
        columns.resize(row.len(), vec![]);
        columns.iter_mut().zip(row).for_each(|(column, text)| column.push(text.clone()));
    }
    columns
}

#[async_trait]
impl RowWriter for Writer<'_> {
    type Row = Encoded;

    fn encoded(&self, writing: &Writing) -> Result<Encoded, String> {
        let (table, key) = (self.table, self.table.mirror.key.iter().copied());
        let key = PostgresSource::encoded(table, key, &writing.key)?;
        let row = match &writing.row {
            Some(row) => PostgresSource::encoded(table, 0..row.len(), row)?,
            None => vec![],
        };
        Ok(Encoded { key, row })
    }

    async fn mark(&mut self) -> Result<(), Error> {
        self.hub.writer()?.run(&self.doing(), "SAVEPOINT rows").await
    }

    async fn keep(&mut self) -> Result<(), Error> {
        self.hub.writer()?.run(&self.doing(), "RELEASE SAVEPOINT rows").await
    }

    async fn take_back(&mut self) -> Result<(), Error> {
        self.hub.writer()?.run("take rows back", "ROLLBACK TO SAVEPOINT rows").await
    }

    async fn act(&mut self, act: Act, rows: &[&Encoded]) -> Result<Result<u64, Blame>, Error> {
        let session = self.hub.writer()?;
        let columns = match act {
            Act::Delete => by_column(rows.iter().map(|row| &row.key)),
            Act::Update | Act::Insert => by_column(rows.iter().map(|row| &row.row)),
        };
        match session.execute(&self.hub.sql(self.table, act), &columns).await {
            Ok(count) => Ok(Ok(count)),
            Err(e) if error::is_about_data(&e) => {
                let is_about_uniqueness = error::is_about_uniqueness(&e);
                Ok(Err(Blame { reason: error::words(&e), is_about_uniqueness }))
            }
            Err(e) => Err(session.failed(&self.doing(), &e)),
        }
    }

    async fn has_any(&mut self, rows: &[&Encoded]) -> Result<bool, Error> {
        let (table, key) = (self.table, &self.table.mirror.key);
        let (path, keys_of) = (self.hub.path(table), unnested(table, key));
        let sql = format!("SELECT 1 FROM {path} t JOIN {keys_of} ON {} LIMIT 1", is_key(table, key));
        let (doing, keys) = (format!("look for rows of `{}`", table.source), rows.iter().map(|row| &row.key));
        Ok(!self.hub.writer()?.rows_of(&doing, &sql, &by_column(keys)).await?.is_empty())
    }
}
