//! Tables of PostgreSQL from which changes come, by logical replication.
//!
//! The server keeps changes in a replication slot, of the tables in a publication; both have one name, which is the sync's own. It needs
//! the server itself: a pooler passes no replication on.

mod catalog;
mod hub;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::pin::Pin;
use std::time::Duration;

use async_trait::async_trait;
use bytes::BytesMut;
use futures::StreamExt as _;
use litekeep_schema::portable::postgres::{Inward, quoted};
use litekeep_schema::portable::{Level, Note};
use litekeep_sql::{MirrorColumn, MirrorRules, MirrorTable};
use litekeep_sync::source::{
    Event, Incoming, NO_KEY, Part, Rows as Which, Source, SourceTable, SourceType, Standing,
};
use litekeep_sync::{Error, Kind, Permits, Value};
use tokio_postgres::CopyOutStream;

use self::hub::TwoWay;
use crate::Address;
use crate::codec::{Codec, can_be, written};
use crate::error::is_about_data;
use crate::pgoutput::{self, Cell, Message, Relation};
use crate::replication::{Received, Replication, lsn, lsn_text};
use crate::rules::Rules;
use crate::session::{Session, read_row};

/// Rows that are read at once, and bytes, unless one row alone has more.
const FETCHED: usize = 5_000;
const FETCHED_BYTES: usize = 4 << 20;

/// How often, and how long, is waited until the server has seen that whoever took the changes before takes them no more.
const LETS_GO: u32 = 20;
const LET_GO: Duration = Duration::from_millis(100);

/// What of a database is wanted.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// The tables, by their names in SQLite; empty: all of the schema.
    pub tables: Vec<String>,
    /// The schema; `None`: that of the connection.
    pub schema: Option<String>,
    /// Names of tables there, by those in SQLite.
    pub names: BTreeMap<String, String>,
}

/// A database of PostgreSQL.
pub struct PostgresSource {
    address: Address,
    wanted: Wanted,
    session: Option<Session>,
    schema: String,
    reading: Option<Reading>,
    replication: Option<Replication>,
    tables: Vec<SourceTable>,
    /// The tables by their numbers there, as the changes to come have them.
    relations: HashMap<u32, Coming>,
    /// A table whose form has come and is not yet known.
    coming: Option<Relation>,
    ready: VecDeque<Event>,
    /// What it has where rows go there, too.
    two_way: Option<TwoWay>,
    /// It was connected to only to copy, so that tables have rules of their own.
    is_once: bool,
    /// While it is connected.
    permits: Permits,
}

/// Rows on their way.
struct Reading {
    stream: Pin<Box<CopyOutStream>>,
    forms: Vec<Codec>,
    received: BytesMut,
    has_ended: bool,
}

/// How rows of a table come.
enum Coming {
    /// Nobody wants them, or not in this form.
    Ignored,
    As {
        table: usize,
        /// Where each of its columns is, and what its values are.
        columns: Vec<(usize, Codec)>,
    },
}

impl PostgresSource {
    /// Connects to nothing yet.
    pub fn new(address: Address, wanted: Wanted) -> PostgresSource {
        PostgresSource {
            address,
            wanted,
            session: None,
            schema: String::new(),
            reading: None,
            replication: None,
            tables: vec![],
            relations: HashMap::new(),
            coming: None,
            ready: VecDeque::new(),
            two_way: None,
            is_once: false,
            permits: Permits::default(),
        }
    }

    /// Connects anew, where so many connections may be.
    async fn open_session(&mut self, connections: u32) -> Result<(), Error> {
        self.disconnect();
        self.is_once = false;
        self.tables.clear();
        self.permits = self.address.budget.take(connections).await?;
        let session = Session::open(&self.address, &self.permits).await?;
        session.set().await?;
        self.schema = match &self.wanted.schema {
            Some(schema) => schema.clone(),
            None => {
                let rows = session.rows("read the schema", "SELECT current_schema()::text", &[]).await?;
                rows.first().and_then(|row| row.get(0)).unwrap_or_else(|| "public".to_owned())
            }
        };
        self.session = Some(session);
        Ok(())
    }

    fn session(&self) -> Result<&Session, Error> {
        let none = || Error::new(Kind::Internal, "use a database that is not connected");
        self.session.as_ref().ok_or_else(none)
    }

    fn path(&self, table: &SourceTable) -> String {
        format!("{}.{}", quoted(&self.schema), quoted(&table.source))
    }

    /// The name in SQLite of a table there; `None`: it is not wanted.
    fn wanted(&self, there: &str) -> Option<String> {
        let renamed = self.wanted.names.iter().find(|(_, name)| *name == there);
        let here = renamed.map_or(there, |(here, _)| here);
        let is_wanted = self.wanted.tables.is_empty() || self.wanted.tables.iter().any(|name| name == here);
        (is_wanted && there != litekeep_sql::SYNC_TABLE).then(|| here.to_owned())
    }

    /// What the server must be set to, and what the user must be allowed.
    async fn check_rights(&self) -> Result<(), Error> {
        let session = self.session()?;
        let level = session.rows("read a setting", "SELECT current_setting('wal_level')", &[]).await?;
        let level: String = level.first().map_or(String::new(), |row| row.get(0));
        let name = self.address.name();
        if level != "logical" {
            let hint = "as an administrator: ALTER SYSTEM SET wal_level = logical; then restart the server \
                        (Neon: switch logical replication on in the project's settings; Amazon: rds.logical_replication = 1)";
            let message = format!("{name} keeps no changes of rows: its wal_level is `{level}`");
            return Err(Error::with_hint(Kind::Invalid, message, hint));
        }
        let sql = "SELECT rolreplication OR rolsuper OR EXISTS (SELECT 1 FROM pg_roles g WHERE g.rolname IN \
                   ('rds_replication', 'neon_superuser') AND pg_has_role(current_user, g.oid, 'MEMBER')) \
                   FROM pg_roles WHERE rolname = current_user";
        let may = session.rows("read the user's rights", sql, &[]).await?;
        if !may.first().is_some_and(|row| row.get(0)) {
            let hint =
                format!("as an administrator: ALTER ROLE {} REPLICATION;", quoted(self.address.user()));
            let message = format!("the user may not take changes from {name}: it lacks REPLICATION");
            return Err(Error::with_hint(Kind::Invalid, message, hint));
        }
        Ok(())
    }

    /// Makes the publication, or adds what it lacks.
    async fn publish(&self, publication: &str, tables: &[SourceTable]) -> Result<(), Error> {
        let session = self.session()?;
        let sql = "SELECT r.prrelid IS NOT NULL, c.relname::text FROM pg_publication p \
                   LEFT JOIN pg_publication_rel r ON r.prpubid = p.oid \
                   LEFT JOIN pg_class c ON c.oid = r.prrelid AND c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = $2) \
                   WHERE p.pubname = $1";
        let found = session.rows("read the publication", sql, &[publication, &self.schema]).await?;
        let published: HashSet<String> =
            found.iter().filter_map(|row| row.get::<_, Option<String>>(1)).collect();
        let missing: Vec<String> = (tables.iter().filter(|table| !published.contains(&table.source)))
            .map(|table| self.path(table))
            .collect();
        let name = quoted(publication);
        let statement = match (found.is_empty(), missing.is_empty()) {
            (true, _) => format!(
                "CREATE PUBLICATION {name} FOR TABLE {} WITH (publish_via_partition_root = true)",
                missing.join(", ")
            ),
            (false, false) => format!("ALTER PUBLICATION {name} ADD TABLE {}", missing.join(", ")),
            (false, true) => return Ok(()),
        };
        session.run("make the publication", &statement).await.map_err(|error| match error.kind() {
            Kind::Invalid => {
                let (user, database) = (quoted(self.address.user()), quoted(self.address.database()));
                let hint = format!(
                    "as an administrator, who may do it instead: GRANT CREATE ON DATABASE {database} TO {user}; and make {user} the owner of the \
                     tables; or at once: {statement}; ALTER PUBLICATION {name} OWNER TO {user};"
                );
                Error::with_hint(Kind::Invalid, error.to_string(), hint)
            }
            _ => error,
        })
    }

    /// Drops the slot, if it is there, as soon as nobody takes the changes any more.
    async fn drop_slot(&self, slot: &str) -> Result<(), Error> {
        let sql =
            "SELECT pg_drop_replication_slot(slot_name)::text FROM pg_replication_slots WHERE slot_name = $1";
        let mut patience = LETS_GO;
        while let Err(error) = self.session()?.rows("drop the replication slot", sql, &[slot]).await {
            if !is_taken(&error) || patience == 0 {
                return Err(error);
            }
            patience -= 1;
            tokio::time::sleep(LET_GO).await;
        }
        Ok(())
    }

    /// Tells which of the tables are not there.
    async fn look_for_tables(&mut self) -> Result<(), Error> {
        for (table, known) in self.tables.iter().enumerate() {
            let path = self.path(known);
            let sql = "SELECT to_regclass($1) IS NOT NULL";
            let found = self.session()?.rows("look for a table", sql, &[&path]).await?;
            if !found.first().is_some_and(|row| row.get(0)) {
                let reason = "it was dropped there, or has another name".to_owned();
                self.ready.push_back(Event::Gone { table, reason });
            }
        }
        Ok(())
    }

    /// What comes of a table from now on.
    async fn relation(&mut self, relation: &Relation) -> Result<(), Error> {
        let place = self.tables.iter().position(|table| table.source == relation.name);
        let Some(nth) = place.filter(|_| relation.schema == self.schema) else {
            self.look_for_tables().await?;
            self.relations.insert(relation.id, Coming::Ignored);
            return Ok(());
        };
        let kinds = self.kinds(relation).await?;
        let known = &self.tables[nth];
        let place = |name: &str| relation.columns.iter().position(|column| column.name == name);
        if self.two_way.is_some() && relation.identity != b'f' {
            let reason = format!(
                "its changes come without the row as it was: ALTER TABLE {} REPLICA IDENTITY FULL;",
                self.path(known)
            );
            self.relations.insert(relation.id, Coming::Ignored);
            self.ready.push_back(Event::Gone { table: nth, reason });
            return Ok(());
        }
        let columns: Option<Vec<(usize, Codec)>> = known
            .coming()
            .map(|(column, kind)| {
                let at = place(&column.name).filter(|at| kinds[*at].name == kind.name)?;
                Some((at, Codec::of(kind)?))
            })
            .collect();
        let are_all = |columns: &Vec<_>| columns.len() == relation.columns.len();
        let Some(columns) = columns.filter(|columns| known.part.is_some_columns || are_all(columns)) else {
            // What is not in the plan: the columns that come now, with the key that is there now.
            let surveyed = self.survey().await?;
            let there =
                surveyed.into_iter().map(|(table, _)| table).find(|table| table.source == relation.name);
            let key = there.map_or(vec![], |table| names(&table, &table.mirror.key));
            let now = Box::new(of_relation(&self.tables[nth], relation, kinds, &key));
            self.relations.insert(relation.id, Coming::Ignored);
            self.ready.push_back(Event::Table { table: nth, now, position: None });
            return Ok(());
        };
        self.relations.insert(relation.id, Coming::As { table: nth, columns });
        Ok(())
    }

    async fn kinds(&self, relation: &Relation) -> Result<Vec<SourceType>, Error> {
        let rows: Vec<String> = (relation.columns.iter().enumerate())
            .map(|(nth, column)| format!("({nth}, {}::oid, {})", column.type_id, column.type_modifier))
            .collect();
        if rows.is_empty() {
            return Ok(vec![]);
        }
        let sql = format!(
            "SELECT format_type(v.o, v.m), coalesce(b.typname, t.typname, '')::text FROM (VALUES {}) AS v(n, o, m) \
             LEFT JOIN pg_type t ON t.oid = v.o LEFT JOIN pg_type b ON t.typtype = 'd' AND b.oid = t.typbasetype ORDER BY v.n",
            rows.join(", ")
        );
        let found = self.session()?.rows("read the types of columns", &sql, &[]).await?;
        Ok(found.iter().map(|row| kind(row.get(0), row.get(1))).collect())
    }

    fn take(&mut self, message: Message) -> Result<(), Error> {
        let (relation, change) = match message {
            Message::Commit { end, time_ms } => {
                self.ready.push_back(Event::Commit { position: lsn_text(end), time_ms });
                return Ok(());
            }
            Message::Truncate { relations } => {
                for id in relations {
                    if let Some(Coming::As { table, .. }) = self.relations.get(&id) {
                        self.ready.push_back(Event::Change { table: *table, change: Incoming::Clear });
                    }
                }
                return Ok(());
            }
            Message::Insert { relation, row } => (relation, (None, Some(row))),
            Message::Update { relation, old, row } => (relation, (old, Some(row))),
            Message::Delete { relation, old } => (relation, (Some(old), None)),
            Message::Said { prefix, content } => {
                if prefix == hub::SAYS {
                    let content = String::from_utf8_lossy(&content).into_owned();
                    self.ready.push_back(Event::Said { content });
                }
                return Ok(());
            }
            Message::Begin | Message::Relation(_) | Message::Other => return Ok(()),
        };
        let (table, columns) = match self.relations.get(&relation) {
            Some(Coming::As { table, columns }) => (table, columns),
            Some(Coming::Ignored) => return Ok(()),
            None => {
                let message = format!("read changes: a row of table {relation}, which was not told before");
                return Err(Error::new(Kind::Corrupt, message));
            }
        };
        let key_columns = &self.tables[*table].mirror.key;
        let values = |cells: &[Cell]| -> Option<Vec<Option<Value>>> {
            let value = |(at, form): &(usize, Codec)| {
                Some(match cells.get(*at)? {
                    Cell::Null => Some(Value::Null),
                    Cell::Unchanged => None,
                    Cell::Text(text) => Some(form.value(text)),
                })
            };
            columns.iter().map(value).collect()
        };
        let key = |row: &[Option<Value>]| -> Option<Vec<Value>> {
            key_columns.iter().map(|nth| row.get(*nth)?.clone()).collect()
        };
        let images = |(before, after): (Option<Vec<Cell>>, Option<Vec<Cell>>)| {
            let before = match before {
                Some(cells) => Some(values(&cells)?.into_iter().collect::<Option<Vec<Value>>>()?),
                None => None,
            };
            let after = match after {
                Some(cells) => {
                    let value = |(nth, value): (usize, Option<Value>)| {
                        value.or_else(|| before.as_ref().map(|row| row[nth].clone()))
                    };
                    Some(values(&cells)?.into_iter().enumerate().map(value).collect::<Option<Vec<Value>>>()?)
                }
                None => None,
            };
            Some(Incoming::Images { before, after })
        };
        let change = (|| {
            if self.two_way.is_some() {
                return images(change);
            }
            let (old, row) = change;
            let old = match old {
                Some(cells) => Some(values(&cells)?),
                None => None,
            };
            let Some(row) = row else { return Some(Incoming::Delete { key: key(&old?)? }) };
            let mut row = values(&row)?;
            // What is as it was stands in the row as it was, where that came whole; else there is NULL, which no such value is.
            for (new, old) in row.iter_mut().zip(old.iter().flatten()) {
                if new.is_none() && *old != Some(Value::Null) {
                    new.clone_from(old);
                }
            }
            let whole: Option<Vec<Value>> = row.iter().cloned().collect();
            let key = match old {
                Some(old) => key(&old)?,
                None => key(&row)?,
            };
            let stays = key_columns
                .iter()
                .zip(&key)
                .all(|(nth, key)| row[*nth].as_ref().is_none_or(|new| new == key));
            Some(match whole {
                Some(row) if stays => Incoming::Put { row },
                _ => Incoming::Update { key, row },
            })
        })();
        let known = &self.tables[*table];
        let name = &known.source;
        let damaged =
            || Error::new(Kind::Corrupt, format!("read changes of `{name}`: a row without its key"));
        let change = change.ok_or_else(damaged)?;
        if let (Incoming::Update { row, .. }, Some(_)) = (&change, &known.part.condition)
            && row.iter().any(Option::is_none)
        {
            let reason = format!(
                "a long value that stayed as it was did not come with a changed row, and `where` cannot be decided without it: \
                 ALTER TABLE {} REPLICA IDENTITY FULL; and then `litekeep sync resync`",
                self.path(known)
            );
            self.ready.push_back(Event::Gone { table: *table, reason });
            return Ok(());
        }
        self.ready.push_back(Event::Change { table: *table, change });
        Ok(())
    }
}

/// Whether somebody takes the changes.
fn is_taken(error: &Error) -> bool {
    error.to_string().contains("is active for PID")
}

/// A type by its name and that of the type below it.
fn kind(name: String, base: &str) -> SourceType {
    let form = serde_json::to_string(&Inward::of(base)).unwrap_or_default();
    SourceType { name, form }
}

fn form(kind: &SourceType) -> Option<Inward> {
    serde_json::from_str(&kind.form).ok()
}

fn names(table: &SourceTable, columns: &[usize]) -> Vec<String> {
    columns.iter().map(|nth| table.mirror.columns[*nth].name.clone()).collect()
}

/// A known table with the columns that come now.
fn of_relation(
    known: &SourceTable,
    relation: &Relation,
    types: Vec<SourceType>,
    key: &[String],
) -> SourceTable {
    let place = |name: &String| relation.columns.iter().position(|column| column.name == *name);
    let columns = relation.columns.iter().zip(&types).map(|(column, kind)| MirrorColumn {
        name: column.name.clone(),
        declared: form(kind).unwrap_or(Inward::Text).declared().to_owned(),
        is_not_null: false,
    });
    let mirror = MirrorTable {
        name: known.mirror.name.clone(),
        columns: columns.collect(),
        key: key.iter().filter_map(place).collect(),
        indexes: known.mirror.indexes.clone(),
        rules: known.mirror.rules.clone(),
    };
    SourceTable { source: known.source.clone(), types, mirror, part: Part::default() }
}

#[async_trait]
impl Source for PostgresSource {
    fn name(&self) -> String {
        self.address.name().to_owned()
    }

    /// What asks, what brings changes, and both ways what writes.
    fn connections(&self) -> u32 {
        if self.two_way.is_some() { 3 } else { 2 }
    }

    fn connections_to_read(&self) -> u32 {
        1
    }

    async fn connect(&mut self) -> Result<String, Error> {
        self.open_session(self.connections()).await?;
        self.check_rights().await?;
        let mut replication = Replication::open(&self.address, &self.permits).await?;
        let server = replication.identify().await?;
        self.replication = Some(replication);
        self.connect_writer().await?;
        Ok(format!("{server}/{}", self.address.database()))
    }

    fn disconnect(&mut self) {
        (self.session, self.reading, self.replication) = (None, None, None);
        self.let_go_of_writer();
        self.permits = Permits::default();
    }

    async fn connect_to_copy(&mut self) -> Result<String, Error> {
        self.open_session(self.connections_to_read()).await?;
        let sql = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
        self.session()?.run("hold the state of the database", sql).await?;
        self.is_once = true;
        Ok(self.address.name().to_owned())
    }

    async fn connect_to_look(&mut self) -> Result<bool, Error> {
        self.open_session(self.connections_to_read()).await?;
        Ok(true)
    }

    async fn survey(&mut self) -> Result<Vec<(SourceTable, Vec<Note>)>, Error> {
        let (columns, keys, mut indexes) = (self.columns().await?, self.keys().await?, self.indexes().await?);
        let rules = match self.is_once {
            true => Some(Rules::read(self.session()?, &self.schema).await?),
            false => None,
        };
        let mut found: Vec<(SourceTable, Vec<Note>)> = vec![];
        let mut seen = HashSet::new();
        for of_table in columns.chunk_by(|a, b| a.table == b.table) {
            let table = &of_table[0].table;
            let Some(here) = self.wanted(table) else { continue };
            let mut notes = vec![];
            let mut note = |column: Option<&str>, level, message: String| {
                let (table, column) = (table.clone(), column.map(str::to_owned));
                notes.push(Note { table, column, level, message });
            };
            if here.to_ascii_lowercase().starts_with("sqlite_") || !seen.insert(here.to_lowercase()) {
                let hint = "give it another name in `rename`";
                note(
                    None,
                    Level::Table,
                    format!("SQLite cannot have a table `{here}` beside the others: {hint}"),
                );
            }
            let (mut types, mut mirrored, mut in_lower_case) = (vec![], vec![], HashSet::new());
            for column in of_table {
                let name = column.name.as_str();
                if column.is_generated {
                    note(
                        Some(name),
                        Level::Info,
                        "is computed there, which is not published: left out".to_owned(),
                    );
                    continue;
                }
                if !in_lower_case.insert(name.to_lowercase()) {
                    let message = "another column has the same name in lower case, which are one for SQLite";
                    note(Some(name), Level::Table, message.to_owned());
                }
                let form = form(&column.kind).unwrap_or(Inward::Text);
                mirrored.push(MirrorColumn {
                    name: name.to_owned(),
                    declared: form.declared().to_owned(),
                    is_not_null: column.is_not_null,
                });
                types.push(column.kind.clone());
            }
            let place = |name: &String| mirrored.iter().position(|column| column.name == *name);
            let key: Option<Vec<usize>> = keys.get(table).and_then(|key| key.iter().map(place).collect());
            if key.is_none() && self.is_once {
                note(None, Level::Info, NO_KEY.to_owned());
            } else if key.is_none() {
                let path = format!("{}.{}", quoted(&self.schema), quoted(table));
                let message = format!(
                    "has no primary key, by which changed rows are known: ALTER TABLE {path} ADD PRIMARY KEY (...), or with a unique index on \
                     columns that are NOT NULL: ALTER TABLE {path} REPLICA IDENTITY USING INDEX ..."
                );
                note(None, Level::Table, message);
            }
            let indexes = indexes.remove(table).unwrap_or_default().into_iter();
            let indexes = indexes.filter_map(|(name, columns)| {
                Some((name, columns.iter().map(place).collect::<Option<Vec<usize>>>()?))
            });
            let indexes = indexes.collect();
            let key = key.unwrap_or_default();
            let mut mirror =
                MirrorTable { name: here, columns: mirrored, key, indexes, rules: MirrorRules::default() };
            if let Some(rules) = &rules {
                mirror.rules =
                    rules.of((table.as_str(), &types), &mirror, |there| self.wanted(there), &mut note);
            }
            let (source, part) = (table.clone(), Part::default());
            found.push((SourceTable { source, types, mirror, part }, notes));
        }
        let is_there = |name: &&String| found.iter().any(|(table, _)| table.mirror.name == **name);
        if let Some(missing) = self.wanted.tables.iter().find(|name| !is_there(name)) {
            let there = self.wanted.names.get(missing).unwrap_or(missing);
            let message = format!("there is no table `{}.{there}` in {}", self.schema, self.address.name());
            let hint =
                "or the user may not see it: as an administrator: GRANT SELECT, and USAGE on its schema";
            return Err(Error::with_hint(Kind::Invalid, message, hint));
        }
        if found.is_empty() {
            let message =
                format!("there is no table in the schema `{}` of {}", self.schema, self.address.name());
            return Err(Error::with_hint(Kind::Invalid, message, "`schema` names another one"));
        }
        Ok(found)
    }

    async fn partial(&mut self, table: &SourceTable) -> Result<Option<Note>, Error> {
        let statements = self.whole_rows(table).await?;
        Ok((!statements.is_empty()).then(|| Note {
            table: table.source.clone(),
            column: None,
            level: Level::Table,
            message: format!(
                "its changes come without long values that stay as they are, so that `where` cannot be decided: {}",
                statements.join(" ")
            ),
        }))
    }

    async fn prepare(&mut self, slot: &str, tables: &[SourceTable]) -> Result<String, Error> {
        self.publish(slot, tables).await?;
        let session = self.session()?;
        let sql = "SELECT confirmed_flush_lsn::text, wal_status = 'lost' FROM pg_replication_slots WHERE slot_name = $1";
        let found = session.rows("read the replication slot", sql, &[slot]).await?;
        if let Some(row) = found.first() {
            let is_lost: Option<bool> = row.get(1);
            match row.get::<_, Option<String>>(0) {
                Some(position) if is_lost != Some(true) => return Ok(position),
                _ => {
                    let sql = "SELECT pg_drop_replication_slot($1)::text";
                    session.rows("drop the replication slot", sql, &[slot]).await?;
                }
            }
        }
        let sql = "SELECT lsn::text FROM pg_create_logical_replication_slot($1, 'pgoutput')";
        let made = session.rows("make the replication slot", sql, &[slot]).await?;
        let none = || Error::new(Kind::Internal, "make the replication slot: there is none");
        made.first().map(|row| row.get(0)).ok_or_else(none)
    }

    async fn standing(&mut self, slot: &str, position: &str) -> Result<Standing, Error> {
        let sql = "SELECT confirmed_flush_lsn::text, wal_status = 'lost' FROM pg_replication_slots WHERE slot_name = $1";
        let found = self.session()?.rows("read the replication slot", sql, &[slot]).await?;
        let Some(row) = found.first() else { return Ok(Standing::Gone) };
        let (confirmed, is_lost): (Option<String>, Option<bool>) = (row.get(0), row.get(1));
        Ok(match confirmed {
            _ if is_lost == Some(true) => Standing::Gone,
            Some(confirmed) if self.is_at(position, &confirmed) => Standing::There,
            Some(_) => Standing::Beyond,
            None => Standing::Gone,
        })
    }

    async fn open(&mut self, table: &SourceTable, rows: Which<'_>) -> Result<(), Error> {
        let joined =
            |names: Vec<String>| names.iter().map(|name| quoted(name)).collect::<Vec<_>>().join(", ");
        let all = joined(table.coming().map(|(column, _)| column.name.clone()).collect());
        let key = joined(names(table, &table.mirror.key));
        let row = |key: &[Value]| key.iter().map(written).collect::<Vec<_>>().join(", ");
        let condition = match rows {
            Which::All => String::new(),
            Which::After(after) => format!(" WHERE ({key}) > ({})", row(after)),
            Which::With(keys) => {
                let rows: Vec<String> =
                    keys.iter().filter(|key| can_be(key)).map(|key| format!("({})", row(key))).collect();
                if rows.is_empty() {
                    self.reading = None;
                    return Ok(());
                }
                format!(" WHERE ({key}) IN ({})", rows.join(", "))
            }
        };
        // Without a key they come all, and in no order.
        let order = if key.is_empty() { String::new() } else { format!(" ORDER BY {key}") };
        let sql = format!("COPY (SELECT {all} FROM {}{condition}{order}) TO STDOUT", self.path(table));
        let forms: Option<Vec<Codec>> = table.types.iter().map(Codec::of).collect();
        let damaged =
            || Error::new(Kind::Corrupt, format!("read the plan of `{}`: a type is none", table.source));
        let stream = match self.session()?.try_copy_out(&sql).await {
            Ok(stream) => stream,
            // A key that its column cannot have is that of no row.
            Err(error) if matches!(rows, Which::With([_])) && is_about_data(&error) => {
                self.reading = None;
                return Ok(());
            }
            Err(error) => {
                return Err(self.session()?.failed(&format!("read the table {}", table.source), &error));
            }
        };
        self.reading = Some(Reading {
            stream: Box::pin(stream),
            forms: forms.ok_or_else(damaged)?,
            received: BytesMut::new(),
            has_ended: false,
        });
        Ok(())
    }

    async fn fetch(&mut self) -> Result<Vec<Vec<Value>>, Error> {
        let Some(reading) = &mut self.reading else { return Ok(vec![]) };
        let (mut rows, mut bytes) = (vec![], 0);
        while rows.len() < FETCHED && bytes < FETCHED_BYTES {
            let Some(end) = reading.received.iter().position(|byte| *byte == b'\n') else {
                if reading.has_ended {
                    break;
                }
                match reading.stream.next().await {
                    Some(Ok(block)) => reading.received.extend_from_slice(&block),
                    Some(Err(e)) => {
                        let failed = crate::error::server(&self.address, "read a table", &e);
                        self.reading = None;
                        return Err(failed);
                    }
                    None => reading.has_ended = true,
                }
                continue;
            };
            let line = reading.received.split_to(end + 1);
            bytes += line.len();
            let value = |(field, form): (Option<Cow<'_, [u8]>>, &Codec)| match field {
                Some(text) => form.value(&text),
                None => Value::Null,
            };
            rows.push(read_row(&line[..end]).zip(&reading.forms).map(value).collect());
        }
        Ok(rows)
    }

    async fn position(&mut self) -> Result<String, Error> {
        self.reading = None;
        let sql = "SELECT pg_current_wal_flush_lsn()::text";
        let rows = self.session()?.rows("ask where the server is", sql, &[]).await?;
        let none = || Error::new(Kind::Internal, "ask where the server is: no answer");
        rows.first().map(|row| row.get(0)).ok_or_else(none)
    }

    async fn follow(&mut self, slot: &str, tables: &[SourceTable], position: &str) -> Result<(), Error> {
        let from = lsn(position);
        let from = from.ok_or_else(|| Error::new(Kind::Corrupt, format!("`{position}` is no position")))?;
        // One that was used is at the end of what it can do.
        if let Some(used) = self.replication.take_if(|_| !self.tables.is_empty()) {
            used.close().await;
        }
        let mut patience = LETS_GO;
        loop {
            let mut replication = match self.replication.take() {
                Some(unused) => unused,
                None => Replication::open(&self.address, &self.permits).await?,
            };
            match replication.start(slot, slot, from, self.two_way.is_some()).await {
                Ok(()) => {
                    self.replication = Some(replication);
                    break;
                }
                Err(error) if is_taken(&error) && patience > 0 => patience -= 1,
                Err(error) => return Err(error),
            }
            tokio::time::sleep(LET_GO).await;
        }
        (self.tables, self.relations, self.coming) = (tables.to_vec(), HashMap::new(), None);
        self.ready.clear();
        self.look_for_tables().await
    }

    async fn next(&mut self) -> Result<Event, Error> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(event);
            }
            if let Some(relation) = self.coming.clone() {
                self.relation(&relation).await?;
                self.coming = None;
                continue;
            }
            let none = || Error::new(Kind::Internal, "read changes of nothing");
            let received = self.replication.as_mut().ok_or_else(none)?.next().await?;
            let data = match received {
                Received::Alive { end, wants_answer } => {
                    return Ok(Event::Alive { position: lsn_text(end), wants_answer });
                }
                Received::Data(data) => data,
            };
            let message = pgoutput::parse(&data).map_err(|what| {
                let place = self.address.name();
                Error::new(Kind::Corrupt, format!("read changes in {place}: {what}"))
            })?;
            match message {
                // Not awaited to its end it must come again.
                Message::Relation(relation) => self.coming = Some(relation),
                message => self.take(message)?,
            }
        }
    }

    async fn confirm(&mut self, position: &str, asks: bool) -> Result<(), Error> {
        let Some(replication) = &mut self.replication else { return Ok(()) };
        match lsn(position) {
            Some(position) => replication.confirm(position, asks).await,
            None => Ok(()),
        }
    }

    fn is_at(&self, position: &str, goal: &str) -> bool {
        lsn(position) >= lsn(goal)
    }

    async fn forget(&mut self, slot: &str) -> Result<(), Error> {
        self.replication = None;
        self.drop_slot(slot).await?;
        let session = self.session()?;
        let sql = format!("DROP PUBLICATION IF EXISTS {}", quoted(slot));
        session.run("drop the publication", &sql).await
    }
}
