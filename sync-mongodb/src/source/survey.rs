//! Which collections there are, and what tables they are in SQLite.
//!
//! Nothing declares what a document holds. So all of them are looked through, by the server, for their fields and the types of those; a validator
//! and what a push of litekeep keeps of its tables tell more.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use bson::spec::BinarySubtype;
use bson::{Bson, Document, doc};
use litekeep_schema::portable::mongodb::{MongoType, Table};
use litekeep_schema::portable::{Level, Note};
use litekeep_sql::{MirrorRules, MirrorTable};
use litekeep_sync::ledger;
use litekeep_sync::source::{Part, SourceTable, SourceType};
use litekeep_sync::{Error, Kind};

use super::Wanted;
use super::form::{DATE, Inward};
use super::layout::{COLUMNS, ID, Layout, column, kind, no_column};
use super::reader::Reader;
use crate::session::Session;
use crate::target::MongoTable;
use crate::{Address, error};

/// Forms of keys of several fields that are looked at, at most.
const KEYS: i32 = 1_000;
/// What a value is of that is nothing.
const NOTHING: [&str; 3] = ["null", "undefined", "missing"];
/// What has no form of its own in SQLite beside documents and arrays.
const SCALARS: [&str; 8] = ["int", "long", "double", "string", "bool", "date", "decimal", "objectId"];

/// A field as its documents have it.
#[derive(Clone, Debug, Default)]
struct Field {
    types: BTreeSet<String>,
    /// Where it is among the fields of a document, at last.
    place: i64,
    /// What its bytes are.
    bytes: Bytes,
}

/// What bytes are, as far as their subtypes tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Bytes {
    #[default]
    Plain,
    Uuids,
    /// Of another subtype.
    Others,
}

impl Bytes {
    /// Of the least and the most of them, which are ordered by their length and then by their subtype.
    fn of(least: Option<&Bson>, most: Option<&Bson>) -> Bytes {
        let (Some(Bson::Binary(least)), Some(Bson::Binary(most))) = (least, most) else {
            return Bytes::Plain;
        };
        match [least, most] {
            all if all.iter().all(|bytes| bytes.to_uuid().is_ok()) => Bytes::Uuids,
            all if all.iter().any(|bytes| bytes.subtype == BinarySubtype::Generic) => Bytes::Plain,
            _ => Bytes::Others,
        }
    }
}

impl Field {
    fn of_types(types: &[&str]) -> Field {
        let types = types.iter().map(|name| (*name).to_owned()).collect();
        Field { types, ..Field::default() }
    }

    /// The types of its values, without those of nothing.
    fn types(&self) -> Vec<&str> {
        self.types.iter().map(String::as_str).filter(|name| !NOTHING.contains(name)).collect()
    }

    fn inward(&self) -> Inward {
        let types = self.types();
        match types.as_slice() {
            [] => Inward::Any,
            ["int" | "long"] | ["int", "long"] => Inward::Integer,
            ["double"] => Inward::Real,
            ["string"] => Inward::Text,
            ["binData"] => match self.bytes {
                Bytes::Plain => Inward::Bytes,
                Bytes::Uuids => Inward::Uuid,
                Bytes::Others => Inward::Json,
            },
            ["bool"] => Inward::Boolean,
            ["date"] => Inward::Date(DATE),
            ["decimal"] => Inward::Decimal,
            ["objectId"] => Inward::ObjectId,
            several if !several.iter().any(|name| SCALARS.contains(name) || *name == "binData") => {
                Inward::Json
            }
            _ => Inward::Any,
        }
    }
}

/// What is known of a collection before its documents are looked at.
pub(super) struct Found {
    pub(super) name: String,
    pub(super) options: Document,
    is_collection: bool,
}

/// What looks.
pub(super) struct Surveyor<'a> {
    pub(super) session: &'a Session,
    pub(super) reader: &'a mut Reader,
    pub(super) address: &'a Address,
    pub(super) wanted: &'a Wanted,
    /// Nothing is followed.
    pub(super) is_once: bool,
    /// What is in SQLite already.
    pub(super) known: &'a [SourceTable],
}

impl Surveyor<'_> {
    /// The tables that are wanted; all of those that are named must be there.
    pub(super) async fn survey(&mut self) -> Result<Vec<(SourceTable, Vec<Note>)>, Error> {
        let found = self.surveyed().await?;
        self.check_found(&found)?;
        Ok(found)
    }

    /// Those of them that are there.
    pub(super) async fn surveyed(&mut self) -> Result<Vec<(SourceTable, Vec<Note>)>, Error> {
        let collections = collections(self.session).await?;
        let pushed = match collections.iter().any(|found| found.name == ledger::TABLE) {
            true => self.pushed().await?,
            false => HashMap::new(),
        };
        let (mut found, mut seen) = (vec![], HashSet::new());
        for collection in collections {
            let Some(here) = self.wanted(&collection.name) else { continue };
            let mut notes = Notes { table: &here, notes: vec![] };
            if here.to_ascii_lowercase().starts_with("sqlite_") || !seen.insert(here.to_lowercase()) {
                let hint = "give it another name in `rename`";
                notes.no_table(format!("SQLite cannot have a table `{here}` beside the others: {hint}"));
            }
            if !collection.is_collection {
                notes.no_table("is a time series, whose documents have no key".to_owned());
                found.push((unread(&collection.name, &here), notes.notes));
                continue;
            }
            if collection.options.get_bool("capped").unwrap_or(false) && !self.is_once {
                notes.no_table("is capped: what it drops by itself is not told".to_owned());
            }
            let table = self.table(&collection, &here, pushed.get(&collection.name), &mut notes).await?;
            found.push((table, notes.notes));
        }
        Ok(found)
    }

    /// The name in SQLite of a collection; `None`: it is not wanted.
    fn wanted(&self, there: &str) -> Option<String> {
        let renamed = self.wanted.names.iter().find(|(_, name)| *name == there);
        let here = renamed.map_or(there, |(here, _)| here);
        let is_wanted = self.wanted.tables.is_empty() || self.wanted.tables.iter().any(|name| name == here);
        (is_wanted && there != ledger::TABLE && !there.starts_with("system.")).then(|| here.to_owned())
    }

    /// The tables that litekeep pushes, by their collections.
    async fn pushed(&mut self) -> Result<HashMap<String, Table>, Error> {
        const READ: &str = "read which tables are pushed";
        let filter = doc! { "_id.item": ledger::PLAN };
        let found = self.reader.find(self.session, ledger::TABLE, (filter, None, 0)).await;
        let found = found.map_err(|e| self.session.failed(READ, &e))?;
        let plans = found.iter().filter_map(|document| document.get_str("content").ok());
        // A plan that another version has written says nothing.
        let tables = plans.filter_map(|plan| serde_json::from_str::<Vec<MongoTable>>(plan).ok()).flatten();
        Ok(tables.map(|MongoTable(table)| (table.name.clone(), table)).collect())
    }

    async fn table(
        &mut self,
        collection: &Found,
        here: &str,
        pushed: Option<&Table>,
        notes: &mut Notes<'_>,
    ) -> Result<SourceTable, Error> {
        let name = &collection.name;
        let mut fields = self.fields(name).await?;
        let is_empty = fields.is_empty();
        let declared = Declared::of(&collection.options);
        for (field, types) in declared.fields {
            let place = fields.len() as i64;
            let known = fields.entry(field).or_insert_with(|| Field { place, ..Field::default() });
            known.types.extend(types);
        }
        let id = fields.remove(ID).unwrap_or_default();
        let mut fields: Vec<(String, Field)> = fields.into_iter().collect();
        fields.sort_by(|(a, x), (b, y)| (x.place, a).cmp(&(y.place, b)));
        if let Some(known) =
            self.known.iter().find(|known| known.source == *name && known.mirror.name == here)
        {
            return grown(known, &fields, notes);
        }
        let parts = match id.types().as_slice() {
            ["object"] if is_empty => declared.key,
            ["object"] => self.parts(name).await?,
            _ => None,
        };
        let mut table = Columns::default();
        match pushed {
            Some(pushed) => table.push_all(pushed, &id, parts.as_deref(), &fields),
            None => table.key(&id, parts, &fields),
        }
        for (field, found) in &fields {
            if table.is_there(field, pushed) {
                continue;
            }
            if let Some(why) = no_column(&table.mirror, field) {
                notes.no_table(why);
                break;
            }
            let inward = found.inward();
            table.add(field, inward, inward.declared());
            let types = found.types().join(", ");
            let message = match inward {
                Inward::Any if types.is_empty() => continue,
                Inward::Any => format!("holds values of several types ({types}): each comes as its own"),
                Inward::Json => format!("holds what SQLite has not ({types}): extended JSON"),
                _ => continue,
            };
            notes.add(Some(field), Level::Info, message);
        }
        if table.mirror.columns.len() > COLUMNS {
            notes
                .no_table(format!("has more fields than a table of SQLite has columns, which are {COLUMNS}"));
        }
        if is_empty && table.mirror.columns.len() == 1 {
            notes.add(None, Level::Info, "has no documents yet, and gets its columns with them".to_owned());
        }
        table.mirror.name = here.to_owned();
        table.mirror.indexes = self.indexes(name, here, &table.mirror).await?;
        Ok(SourceTable {
            source: name.clone(),
            types: table.types,
            mirror: table.mirror,
            part: Part::default(),
        })
    }

    /// The fields of all documents.
    async fn fields(&mut self, collection: &str) -> Result<BTreeMap<String, Field>, Error> {
        let is_short = doc! { "$lte": [{ "$binarySize": "$field.v" }, 16] };
        let of_bytes = |then: Bson, otherwise: Bson| {
            let is_bytes = doc! { "$eq": [{ "$type": "$field.v" }, "binData"] };
            doc! { "$cond": [is_bytes, then, otherwise] }
        };
        let remove = Bson::from("$$REMOVE");
        let short = of_bytes(doc! { "$cond": [is_short.clone(), "$field.v", "$$REMOVE"] }.into(), remove);
        let long = of_bytes(doc! { "$not": [is_short] }.into(), false.into());
        let pipeline = vec![
            doc! { "$project": { ID: 0, "field": { "$objectToArray": "$$ROOT" } } },
            doc! { "$unwind": { "path": "$field", "includeArrayIndex": "place" } },
            doc! { "$group": {
                ID: { "name": "$field.k", "type": { "$type": "$field.v" } },
                "place": { "$max": "$place" },
                "least": { "$min": short.clone() },
                "most": { "$max": short },
                "is_long": { "$max": long },
            } },
        ];
        let doing = format!("look through the collection `{collection}`");
        let found = self.reader.aggregate(self.session, collection, pipeline).await;
        let mut fields: BTreeMap<String, Field> = BTreeMap::new();
        for of in found.map_err(|e| self.session.failed(&doing, &e))? {
            let Ok(id) = of.get_document(ID) else { continue };
            let (Ok(name), Ok(kind)) = (id.get_str("name"), id.get_str("type")) else { continue };
            let field = fields.entry(name.to_owned()).or_default();
            field.place = field.place.max(of.get_i64("place").unwrap_or(0));
            field.types.insert(kind.to_owned());
            if !of.get_bool("is_long").unwrap_or(false) && kind == "binData" {
                field.bytes = Bytes::of(of.get("least"), of.get("most"));
            }
        }
        Ok(fields)
    }

    /// What keys of several fields are made of, where all have the same in the same order.
    async fn parts(&mut self, collection: &str) -> Result<Option<Vec<(String, Field)>>, Error> {
        let part = doc! { "name": "$$this.k", "type": { "$type": "$$this.v" } };
        let parts = doc! { "$map": { "input": { "$objectToArray": "$_id" }, "in": part } };
        let pipeline = vec![doc! { "$group": { ID: parts } }, doc! { "$limit": KEYS }];
        let doing = format!("look through the keys of `{collection}`");
        let found = self.reader.aggregate(self.session, collection, pipeline).await;
        let found = found.map_err(|e| self.session.failed(&doing, &e))?;
        if found.len() >= usize::try_from(KEYS).unwrap_or(usize::MAX) {
            return Ok(None);
        }
        let mut all: Option<Vec<(String, Field)>> = None;
        for of in &found {
            let parts = of.get_array(ID).map_or(&[][..], Vec::as_slice).iter().filter_map(Bson::as_document);
            let parts: Vec<(String, Field)> = parts
                .filter_map(|part| {
                    Some((
                        part.get_str("name").ok()?.to_owned(),
                        Field::of_types(&[part.get_str("type").ok()?]),
                    ))
                })
                .collect();
            match &mut all {
                None => all = Some(parts),
                Some(all) => {
                    let names = |parts: &[(String, Field)]| -> Vec<String> {
                        parts.iter().map(|(name, _)| name.clone()).collect()
                    };
                    if names(all) != names(&parts) {
                        return Ok(None);
                    }
                    all.iter_mut().zip(parts).for_each(|((_, of), (_, more))| of.types.extend(more.types));
                }
            }
        }
        Ok(all)
    }

    /// Those of the indexes that are of whole columns. None is unique here: the server has checked that.
    async fn indexes(
        &mut self,
        collection: &str,
        here: &str,
        mirror: &MirrorTable,
    ) -> Result<Vec<(String, Vec<usize>)>, Error> {
        const NO_COLLECTION: i32 = 26;
        let found = match self.session.all_of(doc! { "listIndexes": collection }).await {
            Ok(found) => found,
            Err(e) if error::number(&e) == Some(NO_COLLECTION) => vec![],
            Err(e) => return Err(self.session.failed("read the indexes of a collection", &e)),
        };
        let place = |path: &str| {
            let name = path.strip_prefix("_id.").filter(|_| mirror.key.len() > 1).unwrap_or(path);
            match path {
                ID if mirror.key.len() == 1 => mirror.key.first().copied(),
                _ => mirror.columns.iter().position(|column| column.name == name),
            }
        };
        let of = |index: &Document| {
            let name = index.get_str("name").ok().filter(|name| *name != "_id_")?;
            let parts = index.get_document("key").ok()?.iter().map(|(path, direction)| match direction {
                Bson::Int32(_) | Bson::Int64(_) | Bson::Double(_) => place(path),
                _ => None,
            });
            let parts = parts.collect::<Option<Vec<usize>>>()?;
            // Names of indexes are a collection's own there, and the database's here.
            Some((format!("{here}_{name}"), parts))
        };
        Ok(found.iter().filter_map(of).collect())
    }

    fn check_found(&self, found: &[(SourceTable, Vec<Note>)]) -> Result<(), Error> {
        let name = self.address.name();
        let is_there = |name: &&String| found.iter().any(|(table, _)| table.mirror.name == **name);
        if let Some(missing) = self.wanted.tables.iter().find(|name| !is_there(name)) {
            let there = self.wanted.names.get(missing).unwrap_or(missing);
            let message = format!("there is no collection `{there}` in {name}");
            let hint = "a view is none; `db.getCollectionNames()` in mongosh lists them";
            return Err(Error::with_hint(Kind::Invalid, message, hint));
        }
        if found.is_empty() {
            let message = format!("there is no collection in {name}");
            let hint = "the database is the one that the URL names";
            return Err(Error::with_hint(Kind::Invalid, message, hint));
        }
        Ok(())
    }
}

/// The collections of the database, without views.
pub(super) async fn collections(session: &Session) -> Result<Vec<Found>, Error> {
    let listed = session.all_of(doc! { "listCollections": 1 }).await;
    let of = |found: Document| {
        let kind = found.get_str("type").unwrap_or_default().to_owned();
        (kind != "view").then(|| Found {
            name: found.get_str("name").unwrap_or_default().to_owned(),
            options: found.get_document("options").cloned().unwrap_or_default(),
            is_collection: kind == "collection",
        })
    };
    let listed = listed.map_err(|e| session.failed("list the collections", &e))?;
    let mut found: Vec<Found> = listed.into_iter().filter_map(of).collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// The names of the collections.
pub(super) async fn names(session: &Session) -> Result<Vec<String>, Error> {
    Ok(collections(session).await?.into_iter().map(|found| found.name).collect())
}

/// A table that cannot come.
fn unread(there: &str, here: &str) -> SourceTable {
    let mut table = Columns::default();
    table.mirror.name = here.to_owned();
    SourceTable { source: there.to_owned(), types: vec![], mirror: table.mirror, part: Part::default() }
}

/// A table that is here, with the fields that it has more.
fn grown(
    known: &SourceTable,
    fields: &[(String, Field)],
    notes: &mut Notes<'_>,
) -> Result<SourceTable, Error> {
    let layout = Layout::of(known)?;
    let beside = known.mirror.columns.iter().enumerate().filter(|(nth, _)| !known.mirror.key.contains(nth));
    let there: HashSet<&str> = beside.map(|(_, column)| column.name.as_str()).collect();
    let more =
        fields.iter().filter(|(name, field)| !there.contains(name.as_str()) && !field.types().is_empty());
    match layout.with(more.map(|(name, field)| (name.clone(), field.inward())).collect()) {
        Ok(longer) => Ok(longer.table),
        Err(why) => {
            notes.no_table(why);
            Ok(known.clone())
        }
    }
}

/// Columns on their way to a table.
struct Columns {
    types: Vec<SourceType>,
    mirror: MirrorTable,
}

impl Default for Columns {
    fn default() -> Columns {
        let (name, columns, key) = (String::new(), vec![], vec![]);
        let mirror = MirrorTable { name, columns, key, indexes: vec![], rules: MirrorRules::default() };
        Columns { types: vec![], mirror }
    }
}

impl Columns {
    fn add(&mut self, name: &str, inward: Inward, declared: &str) {
        self.mirror.columns.push(column(name, declared));
        self.types.push(kind(inward));
    }

    fn add_key(&mut self, name: &str, inward: Inward) {
        self.mirror.key.push(self.mirror.columns.len());
        self.add(name, inward, inward.declared());
    }

    /// The key of a collection that others fill.
    fn key(&mut self, id: &Field, parts: Option<Vec<(String, Field)>>, fields: &[(String, Field)]) {
        let is_field =
            |name: &str| fields.iter().any(|(field, _)| field.to_lowercase() == name.to_lowercase());
        let mut names = HashSet::new();
        let mut is_column = |(name, field): &(String, Field)| {
            let are_scalars = field.types.iter().all(|name| SCALARS.contains(&name.as_str()));
            are_scalars
                && !name.is_empty()
                && name != ID
                && !is_field(name)
                && names.insert(name.to_lowercase())
        };
        let parts = parts.filter(|parts| parts.len() > 1 && parts.iter().all(&mut is_column));
        match parts {
            Some(parts) => parts.iter().for_each(|(name, field)| self.add_key(name, field.inward())),
            None => self.add_key(ID, id.inward()),
        }
    }

    /// A table as it was pushed.
    fn push_all(
        &mut self,
        pushed: &Table,
        id: &Field,
        parts: Option<&[(String, Field)]>,
        fields: &[(String, Field)],
    ) {
        if pushed.key.is_empty() {
            self.add_key(ID, Inward::ObjectId);
        }
        self.mirror.key.extend(pushed.key.iter());
        let nothing = Field::default();
        for (nth, of) in pushed.columns.iter().enumerate() {
            let found = |all: &[(String, Field)]| -> Option<Field> {
                all.iter().find(|(name, _)| *name == of.name).map(|(_, field)| field.clone())
            };
            let field = match (pushed.key.contains(&nth), pushed.key.len()) {
                (true, 1) => Some(id.clone()),
                (true, _) => parts.and_then(found),
                (false, _) => found(fields),
            };
            let field = field.unwrap_or_else(|| nothing.clone());
            let (inward, declared) = as_pushed(of.kind, &field);
            self.add(&of.name, inward, declared);
        }
    }

    fn is_there(&self, field: &str, pushed: Option<&Table>) -> bool {
        pushed.is_some_and(|pushed| {
            let columns = pushed.columns.iter().enumerate();
            columns.filter(|(nth, _)| !pushed.key.contains(nth)).any(|(_, column)| column.name == field)
        })
    }
}

/// How values of a column come back that was pushed, and the type of a column that changes none of them.
fn as_pushed(kind: MongoType, field: &Field) -> (Inward, &'static str) {
    let types = field.types();
    let only = |known: &[&str]| types.iter().all(|name| known.contains(name));
    let inward = match kind {
        MongoType::Boolean => Inward::Boolean,
        MongoType::Date(form) => Inward::Date(form),
        MongoType::Decimal => Inward::Decimal,
        MongoType::Long if types.is_empty() => Inward::Integer,
        MongoType::Double if types.is_empty() => Inward::Real,
        MongoType::Text if types.is_empty() => Inward::Text,
        MongoType::Binary if types.is_empty() => Inward::Bytes,
        _ => field.inward(),
    };
    let is_kept = match inward {
        Inward::Boolean => only(&["bool"]),
        Inward::Date(_) => only(&["date", "string"]),
        // Beside those that are text are numbers, which the column had as such.
        Inward::Decimal => false,
        _ => true,
    };
    (inward, if is_kept { inward.declared() } else { "" })
}

/// What a validator says.
#[derive(Default)]
struct Declared {
    fields: Vec<(String, Vec<String>)>,
    /// What a key of several fields is made of.
    key: Option<Vec<(String, Field)>>,
}

impl Declared {
    fn of(options: &Document) -> Declared {
        let schema =
            options.get_document("validator").and_then(|validator| validator.get_document("$jsonSchema"));
        let Ok(schema) = schema else { return Declared::default() };
        let properties = |schema: &Document| -> Vec<(String, Document)> {
            let all = schema.get_document("properties").into_iter().flatten();
            all.filter_map(|(name, of)| Some((name.clone(), of.as_document()?.clone()))).collect()
        };
        let all = properties(schema);
        let key = all.iter().find(|(name, _)| name == ID).and_then(|(_, id)| {
            let (order, parts) = (id.get_array("required").ok()?, properties(id));
            let part = |name: &Bson| {
                let (name, of) = parts.iter().find(|(part, _)| Some(part.as_str()) == name.as_str())?;
                let types = types(of);
                let types: Vec<&str> = types.iter().map(String::as_str).collect();
                Some((name.clone(), Field::of_types(&types)))
            };
            order.iter().map(part).collect()
        });
        Declared { fields: all.iter().map(|(name, of)| (name.clone(), types(of))).collect(), key }
    }
}

fn types(property: &Document) -> Vec<String> {
    let named = |name: &str| match name {
        "number" => ["int", "long", "double", "decimal"].map(str::to_owned).to_vec(),
        name => vec![name.to_owned()],
    };
    match property.get("bsonType") {
        Some(Bson::String(name)) => named(name),
        Some(Bson::Array(names)) => names.iter().filter_map(Bson::as_str).flat_map(named).collect(),
        _ => vec![],
    }
}

struct Notes<'a> {
    table: &'a str,
    notes: Vec<Note>,
}

impl Notes<'_> {
    fn add(&mut self, column: Option<&str>, level: Level, message: String) {
        let (table, column) = (self.table.to_owned(), column.map(str::to_owned));
        self.notes.push(Note { table, column, level, message });
    }

    fn no_table(&mut self, message: String) {
        self.add(None, Level::Table, message);
    }
}
