//! Collections that are kept in step with SQLite's tables in both directions.
//!
//! A collection keeps its documents as they were (`changeStreamPreAndPostImages`), so that changes come with them. A transaction of a node's begins with a document of
//! `_litekeep_sync` that says whose it is, which comes in the change stream before the others. How far nodes are is there, too, in the same
//! transaction.
//!
//! Nothing declares what a field holds, and what a table without rows would be is not what one with rows is. So the first node that brings a table keeps there
//! how values of its columns go and come, and all others do alike.

use std::collections::{BTreeMap, HashMap};

use async_trait::async_trait;
use bson::{Bson, Document, Timestamp, doc};
use litekeep_schema::portable::mongodb::{MongoType, Options, Table, map};
use litekeep_schema::portable::{Affinity, Level, Note};
use litekeep_sql::{Declaration, DeclaredColumn, Profile};
use litekeep_sync::hub::{self, Hub, Paired, Parted, There, Writing};
use litekeep_sync::ledger::{TABLE, text as json};
use litekeep_sync::source::{SourceTable, SourceType};
use litekeep_sync::{Error, Kind, Value};
use mongodb::options::ReadConcern;

use super::form::Inward;
use super::layout::{ID, Layout, kind};
use super::position::Position;
use super::pushing::{Ending, KEEP, Transaction, id_of};
use super::reader::Reader;
use super::reading::Fetched;
use super::stream::SAYS;
use super::survey::collections;
use super::{IMAGES, MongoSource, Wanted};
use crate::error::code;
use crate::session::Session;
use crate::target::{LEASE, UNDER_WAY, documents};
use crate::{Address, error};

const SERVER: &str = "MongoDB";
/// What is written so that the server says a time which is after all that was seen there.
const CLOCK: &str = "clock";
/// The sync of whose items one is of all nodes.
const ALL: &str = "";
/// What the names of items begin with that say how values of a collection go and come.
const COLLECTION: &str = "collection/";
/// Bytes of an item that a document has; what is longer is kept in several.
const PART: usize = 1 << 20;

/// What it has for the way there.
pub(super) struct TwoWay {
    options: Options,
    /// What collections are made of, by their names.
    makes: HashMap<String, Table>,
    transaction: Option<Transaction>,
    parted: Parted,
}

/// Whether it can be followed with documents as they were.
pub(super) fn check_server(address: &Address, said: &Document) -> Result<(), Error> {
    let refused = |what: &str, hint: &str| {
        Err(Error::with_hint(Kind::Invalid, format!("connect in {}: {what}", address.name()), hint))
    };
    if said.get_str("msg").is_ok_and(|msg| msg == "isdbgrid") {
        return refused("it is a sharded cluster", "a sync in both directions goes with a replica set");
    }
    if said.get_i32("maxWireVersion").is_ok_and(|version| version < IMAGES) {
        let what = "it is older than MongoDB 6.0, and tells changes without documents as they were before";
        return refused(what, "a sync in both directions needs MongoDB 6.0 or later");
    }
    Ok(())
}

impl MongoSource {
    /// One to which rows go, too. Connects to nothing yet.
    pub fn two_way(address: Address, wanted: Wanted, options: Options) -> MongoSource {
        let two_way = TwoWay { options, makes: HashMap::new(), transaction: None, parted: Parted::default() };
        MongoSource { two_way: Some(two_way), ..MongoSource::new(address, wanted) }
    }

    pub(super) fn let_go(&mut self) {
        if let Some(two_way) = &mut self.two_way {
            two_way.transaction = None;
        }
    }

    /// Both sides have the same columns, and values that both can have, or nothing is compared.
    pub(super) fn check_fetched(&self, fetched: &Fetched) -> Result<(), Error> {
        let refused = |message: String, hint: &str| Err(Error::with_hint(Kind::Invalid, message, hint));
        if let Some(grown) = &fetched.grown {
            let field = grown.mirror.columns.last().map_or("", |column| &column.name);
            let message = format!(
                "the collection `{}` has the field `{field}`, which is not in SQLite: both sides must have the same columns",
                grown.source
            );
            let hint = "add the column here, or take the field away there; then `litekeep sync resync`";
            return refused(message, hint);
        }
        let Some(unfit) = fetched.unfit.first() else { return Ok(()) };
        let key: Vec<String> = unfit.key.iter().map(litekeep_sync::target::key_text).collect();
        let message = format!(
            "a document of {} cannot be here, that with the key {}: {}",
            self.address.name(),
            key.join(", "),
            unfit.reason
        );
        refused(message, "change it there, or leave its table out: name the others in `tables`")
    }

    fn transaction(&mut self) -> Result<(&mut Transaction, &mut Session), Error> {
        let none = || Error::new(Kind::Internal, "write to a database without a transaction");
        let session = self.session.as_mut().ok_or_else(none)?;
        let two_way = self.two_way.as_mut().ok_or_else(none)?;
        Ok((two_way.transaction.as_mut().ok_or_else(none)?, session))
    }

    /// A user who may not do what is done later is told so, by commands that do nothing.
    async fn check_writer(&self, tables: &[Paired]) -> Result<(), Error> {
        let session = self.session()?;
        let is_refused = |pair: &&Paired| pair.notes.iter().any(|note| note.level == Level::Table);
        let there = tables.iter().filter(|pair| pair.is_there && !is_refused(pair));
        let there = there.map(|pair| pair.table.source.as_str());
        for collection in there.chain([TABLE]) {
            // No document has a key that is an array.
            let nothing = doc! { ID: { "$type": "array" } };
            let update = doc! { "q": nothing.clone(), "u": { "$set": { "nothing": 1 } } };
            let commands = [
                doc! { "update": collection, "updates": [update] },
                doc! { "delete": collection, "deletes": [{ "q": nothing, "limit": 0 }] },
            ];
            for command in commands {
                session.run(&format!("write documents of `{collection}`"), command).await?;
            }
        }
        Ok(())
    }

    /// How values of collections go and come, by their names.
    async fn agreed(&self) -> Result<HashMap<String, SourceTable>, Error> {
        let session = self.session()?;
        let of_all = doc! { "_id.sync": ALL };
        let found = self.kept(of_all).await.map_err(|e| session.failed("read what nodes have agreed", &e))?;
        let parsed = |(item, content): (String, String)| {
            let name = item.strip_prefix(COLLECTION)?.to_owned();
            Some(serde_json::from_str(&content).map(|table| (name, table)).map_err(|e| {
                let place = self.address.name();
                let message = format!("read what nodes have agreed: `{TABLE}` in {place} is damaged: {e}");
                Error::new(Kind::Corrupt, message)
            }))
        };
        found.into_iter().filter_map(parsed).collect()
    }

    /// Items with their contents.
    async fn kept(&self, filter: Document) -> Result<BTreeMap<String, String>, mongodb::error::Error> {
        let Some(session) = &self.session else { return Ok(BTreeMap::new()) };
        let all = session.db().collection::<Document>(TABLE);
        let mut cursor = all.find(filter).read_concern(ReadConcern::majority()).await?;
        let mut items = BTreeMap::new();
        while cursor.advance().await? {
            let found: Document = cursor.deserialize_current()?;
            let item = found.get_document(ID).ok().and_then(|id| id.get_str("item").ok());
            items.extend(item.map(str::to_owned).zip(found.get_str("content").ok().map(str::to_owned)));
        }
        Ok(items)
    }

    /// Keeps how values of a collection go and come, where that is not kept, or of other columns.
    async fn agree(&self, table: &SourceTable) -> Result<(), Error> {
        let agreed = self.agreed().await?.remove(&table.source);
        let (id, now) = (id_of(ALL, &format!("{COLLECTION}{}", table.source)), json(table));
        let others = || {
            let message = format!(
                "another database has brought the table `{}` to {} meanwhile",
                table.source,
                self.address.name()
            );
            Error::with_hint(Kind::Unavailable, message, "its values go as that one has begun")
        };
        let command = match agreed {
            None => doc! { "insert": TABLE, "documents": [{ ID: id, "content": now }] },
            Some(known) => {
                let forms = |of: &SourceTable| -> BTreeMap<String, String> {
                    let columns = of.mirror.columns.iter().enumerate().zip(&of.types);
                    columns
                        .map(|((nth, column), kind)| (name_in(of, nth, &column.name), kind.form.clone()))
                        .collect()
                };
                let (known_forms, forms) = (forms(&known), forms(table));
                if forms.iter().any(|(name, form)| known_forms.get(name).is_some_and(|known| known != form)) {
                    return Err(others());
                }
                if forms.len() == known_forms.len() && forms.keys().all(|name| known_forms.contains_key(name))
                {
                    return Ok(());
                }
                let one =
                    doc! { "q": { ID: id, "content": json(&known) }, "u": { "$set": { "content": now } } };
                doc! { "update": TABLE, "updates": [one] }
            }
        };
        let mut command = command;
        command.insert("writeConcern", doc! { "w": "majority", "j": true });
        let said = self.session()?.run(KEEP, command).await?;
        match said.get_i32("n") {
            Ok(1) => Ok(()),
            _ => Err(others()),
        }
    }

    /// A table of both sides. `has_documents`: they tell how values come, where nobody has agreed on it.
    fn both(
        &self,
        declared: &Declaration,
        (ours, there): (&Table, &SourceTable),
        agreed: Option<&SourceTable>,
        has_documents: bool,
        notes: &mut Vec<Note>,
    ) -> SourceTable {
        let names_of = |table: &SourceTable, key: &[usize]| -> Vec<String> {
            key.iter().map(|nth| table.mirror.columns[*nth].name.clone()).collect()
        };
        let own: Vec<String> = ours.key.iter().map(|nth| ours.columns[*nth].name.clone()).collect();
        // One column is the key there whatever it is called; several are called so in it.
        let key = match (agreed, has_documents) {
            (Some(table), _) if table.mirror.key.len() != 1 => names_of(table, &table.mirror.key),
            (None, true) if there.mirror.key.len() != 1 => names_of(there, &there.mirror.key),
            (Some(_), _) | (None, true) if own.len() != 1 => vec![ID.to_owned()],
            _ => own,
        };
        let is_key = |name: &str| key.iter().any(|key| key == name);
        let is_field = |nth: &usize| !there.mirror.key.contains(nth);
        let fields: Vec<usize> = (0..there.mirror.columns.len()).filter(is_field).collect();
        let mut columns: Vec<String> = names_of(there, &fields);
        columns.retain(|name| !is_key(name));
        if key != [ID] {
            columns.extend(key.iter().cloned());
        }
        // Documents need not have a field.
        for name in ours.columns.iter().map(|column| &column.name) {
            if !columns.contains(name) {
                columns.push(name.clone());
            }
        }
        let known = |table: &SourceTable, name: &str| -> Option<Inward> {
            let column = |nth: usize| table.mirror.columns[nth].name == name;
            let place = match key.iter().position(|key| key == name) {
                Some(place) if table.mirror.key.len() == key.len() => table.mirror.key[place],
                Some(_) => return None,
                None => (0..table.mirror.columns.len())
                    .find(|nth| !table.mirror.key.contains(nth) && column(*nth))?,
            };
            serde_json::from_str(&table.types[place].form).ok()
        };
        let kind_of = |place: usize, column: &DeclaredColumn| -> (SourceType, Option<String>) {
            let name = &columns[place];
            let of_agreed = agreed.and_then(|table| known(table, name));
            let of_documents = || known(there, name).filter(|_| has_documents);
            let inward = of_agreed.or_else(of_documents).or_else(|| {
                let ours = ours.columns.iter().find(|ours| ours.name == *name)?;
                Some(inward_of(ours.kind))
            });
            let inward = inward.unwrap_or(Inward::Any);
            (kind(inward), unfit(column, inward))
        };
        let there = There { server: SERVER, name: &ours.name, columns: &columns, key: &key };
        there.beside(declared, kind_of, notes)
    }

    /// A table that is only here, as it is made there.
    fn only_here(&self, declared: &Declaration, ours: &Table, notes: &mut Vec<Note>) -> SourceTable {
        let columns = ours.columns.iter().map(|column| {
            ((column.name.as_str(), column.source, column.is_not_null), kind(inward_of(column.kind)))
        });
        hub::only_here(declared, &ours.name, columns, &ours.key, notes)
    }

    /// What of a collection keeps it from being written to like a table.
    fn check_options(&self, options: &Document, pair: &mut Paired) {
        let table = pair.table.mirror.name.clone();
        let mut note = |level: Level, message: String| {
            pair.notes.push(Note { table: table.clone(), column: None, level, message });
        };
        let is_simple =
            |collation: &Document| collation.get_str("locale").is_ok_and(|locale| locale == "simple");
        if options.get_document("collation").is_ok_and(|collation| !is_simple(collation)) {
            let message =
                "has a collation there: text must be compared byte by byte, to tell apart what SQLite does";
            note(Level::Table, message.to_owned());
        }
        if !has_images(options) {
            let message = format!(
                "documents are kept as they were before a change from then on: {}",
                keep_images(&pair.table.source)
            );
            note(Level::Info, message);
        }
    }

    async fn keep_images(&self, collection: &str) -> Result<(), Error> {
        let session = self.session()?;
        let command = doc! {
            "collMod": collection,
            "changeStreamPreAndPostImages": { "enabled": true },
            "writeConcern": { "w": "majority" },
        };
        let Err(e) = session.try_run(command).await else { return Ok(()) };
        let failed = session.failed(&format!("have documents of `{collection}` kept as they were"), &e);
        if error::number(&e) != Some(code::UNAUTHORIZED) {
            return Err(failed);
        }
        let hint =
            format!("as an administrator: {}, or: {}", keep_images(collection), self.grants("dbAdmin"));
        Err(Error::with_hint(Kind::Invalid, failed.to_string(), hint))
    }

    fn grants(&self, role: &str) -> String {
        let quoted = |text: &str| Bson::String(text.to_owned()).into_relaxed_extjson();
        let (user, database) = (quoted(self.address.user().0), quoted(self.address.database()));
        format!("db.grantRolesToUser({user}, [{{ role: \"{role}\", db: {database} }}])")
    }

    async fn make_collection(&self, name: &str, indexes: &[Document]) -> Result<(), Error> {
        let session = self.session()?;
        let doing = format!("make the collection `{name}`");
        let command = doc! {
            "create": name,
            "changeStreamPreAndPostImages": { "enabled": true },
            "writeConcern": { "w": "majority" },
        };
        match session.try_run(command).await {
            Ok(_) => {}
            Err(e) if error::number(&e) == Some(code::NAMESPACE_EXISTS) => {
                let message = format!("{doing} in {}: it was made meanwhile", self.address.name());
                return Err(Error::new(Kind::Unavailable, message));
            }
            Err(e) => return Err(session.failed(&doing, &e)),
        }
        if !indexes.is_empty() {
            let command =
                doc! { "createIndexes": name, "indexes": indexes, "writeConcern": { "w": "majority" } };
            session.run(&format!("make the indexes of `{name}`"), command).await?;
        }
        Ok(())
    }

    /// Nobody is about to commit something of this node's any more: a commit of ours may be under way whose answer was lost, and a litekeep that was killed
    /// may have left a transaction open, which keeps what it has written from others, for a minute.
    async fn take_over(&mut self, node: &str) -> Result<(), Error> {
        const WAIT: &str = "wait for others";
        let session = self.session()?;
        let id = id_of(node, SAYS);
        let ours = session.writing.id().clone();
        let mut wait = UNDER_WAY;
        loop {
            let change = doc! { "$set": { "lsid": ours.clone() }, "$currentDate": { "begun_at": true } };
            let update = doc! {
                "update": TABLE,
                "updates": [{ "q": { ID: id.clone() }, "u": change, "upsert": true }],
                "writeConcern": { "w": "majority", "j": true },
                "maxTimeMS": i64::try_from(wait.as_millis()).unwrap_or(i64::MAX),
            };
            match session.try_run(update).await {
                Ok(_) => return Ok(()),
                Err(e) if error::number(&e) == Some(code::TOO_SLOW) && wait == UNDER_WAY => {
                    let known = session.first(WAIT, TABLE, doc! { ID: id.clone() }).await?;
                    let before = known.as_ref().and_then(|known| known.get_document("lsid").ok());
                    if let Some(before) = before.filter(|before| **before != ours) {
                        let ended = session.try_admin(doc! { "killSessions": [before.clone()] }).await;
                        ended.map_err(|e| session.failed("end a transaction that was left open", &e))?;
                    }
                    wait = LEASE;
                }
                Err(e) => return Err(session.failed(WAIT, &e)),
            }
        }
    }

    async fn is_there(&self, collection: &str) -> Result<bool, Error> {
        Ok(collections(self.session()?).await?.iter().any(|found| found.name == collection))
    }
}

/// How values of a column of ours come.
fn inward_of(kind: MongoType) -> Inward {
    match kind {
        MongoType::Long => Inward::Integer,
        MongoType::Double => Inward::Real,
        MongoType::Text => Inward::Text,
        MongoType::Binary => Inward::Bytes,
        MongoType::Boolean => Inward::Boolean,
        MongoType::Date(form) => Inward::Date(form),
        MongoType::Decimal => Inward::Decimal,
        MongoType::Number | MongoType::Any => Inward::Any,
    }
}

/// Why a column here would not keep what comes as it comes.
fn unfit(column: &DeclaredColumn, inward: Inward) -> Option<String> {
    let affinity = Affinity::of(&column.declared);
    match inward {
        // As text they are no numbers, so any column keeps them.
        Inward::Date(_) | Inward::Uuid | Inward::Json => None,
        // Numbers in a column of floating-point numbers stay what they are as far as that has them; another one is told.
        Inward::Integer if affinity == Affinity::Real => None,
        inward => hub::unfit((SERVER, inward.name()), &column.declared, inward.declared()),
    }
}

/// What a column is known by to all nodes: one that alone is the key is called differently here and there.
fn name_in(table: &SourceTable, nth: usize, name: &str) -> String {
    match table.mirror.key[..] == [nth] {
        true => ID.to_owned(),
        false => name.to_owned(),
    }
}

fn has_images(options: &Document) -> bool {
    let kept = options.get_document("changeStreamPreAndPostImages");
    kept.is_ok_and(|kept| kept.get_bool("enabled").unwrap_or(false))
}

/// The command by which documents are kept as they were.
fn keep_images(collection: &str) -> String {
    let name = Bson::String(collection.to_owned()).into_relaxed_extjson();
    format!("db.runCommand({{ collMod: {name}, changeStreamPreAndPostImages: {{ enabled: true }} }})")
}

#[async_trait]
impl Hub for MongoSource {
    async fn pair(&mut self, declared: &[(Declaration, Vec<Profile>)]) -> Result<Vec<Paired>, Error> {
        let Some(TwoWay { options, .. }) = &self.two_way else { return Ok(vec![]) };
        let options = options.clone();
        let mut agreed = self.agreed().await?;
        let surveyed = self.surveyor()?.surveyed().await?;
        let of_collections: HashMap<String, Document> = collections(self.session()?)
            .await?
            .into_iter()
            .map(|found| (found.name, found.options))
            .collect();
        let mut by_name: BTreeMap<String, (SourceTable, Vec<Note>)> =
            surveyed.into_iter().map(|(table, notes)| (table.source.clone(), (table, notes))).collect();
        let (mut paired, mut makes) = (vec![], HashMap::new());
        for (declared, profiles) in declared {
            let (ours, mut notes) = map(declared, profiles, &options);
            let found = by_name.remove(&ours.name);
            let agreed = agreed.remove(&ours.name);
            let (is_there, of_documents) = match found {
                None => (false, vec![]),
                Some((table, of_there)) => {
                    let is_wrong = |note: &Note| note.level == Level::Table;
                    let has_documents = !self.is_empty(&table).await?;
                    notes.extend(of_there.into_iter().filter(|note| has_documents || is_wrong(note)));
                    (true, if has_documents { vec![table] } else { vec![] })
                }
            };
            let table = match (&agreed, of_documents.first()) {
                (None, None) => self.only_here(declared, &ours, &mut notes),
                (agreed, there) => {
                    let empty = || SourceTable {
                        source: ours.name.clone(),
                        types: vec![],
                        mirror: litekeep_sql::MirrorTable {
                            name: declared.name.clone(),
                            columns: vec![],
                            key: vec![],
                            indexes: vec![],
                            rules: litekeep_sql::MirrorRules::default(),
                        },
                        part: Default::default(),
                    };
                    let there = there.cloned().unwrap_or_else(empty);
                    let has_documents = !of_documents.is_empty();
                    self.both(declared, (&ours, &there), agreed.as_ref(), has_documents, &mut notes)
                }
            };
            let indexes = ours.indexes.iter().map(|index| ours.create_index(index));
            let statements = match is_there {
                true => vec![],
                false => std::iter::once(ours.create(false)).chain(indexes).collect(),
            };
            let mut pair = Paired { table, notes, is_here: true, is_there, statements };
            if let Some(options) = of_collections.get(&pair.table.source) {
                self.check_options(options, &mut pair);
            }
            makes.insert(ours.name.clone(), ours);
            paired.push(pair);
        }
        let is_here =
            |name: &str| declared.iter().any(|(declared, _)| declared.name.eq_ignore_ascii_case(name));
        for (mut table, notes) in by_name.into_values().filter(|(table, _)| !is_here(&table.mirror.name)) {
            // What others have of it is told by what they have agreed, as long as it has no documents that tell.
            if let Some(agreed) = agreed.remove(&table.source) {
                let (name, indexes) = (table.mirror.name, table.mirror.indexes);
                table = agreed;
                (table.mirror.name, table.mirror.indexes) = (name, indexes);
            }
            let mut pair = Paired { table, notes, is_here: false, is_there: true, statements: vec![] };
            if let Some(options) = of_collections.get(&pair.table.source) {
                self.check_options(options, &mut pair);
            }
            paired.push(pair);
        }
        hub::check_named(&paired, &self.wanted.tables, self.address.name())?;
        self.check_writer(&paired).await?;
        if let Some(two_way) = &mut self.two_way {
            two_way.makes = makes;
        }
        Ok(paired)
    }

    async fn is_empty(&mut self, table: &SourceTable) -> Result<bool, Error> {
        let first = self.session()?.first("look into a collection", &table.source, doc! {}).await?;
        Ok(first.is_none())
    }

    async fn make(&mut self, tables: &[Paired]) -> Result<(), Error> {
        let session = self.session()?;
        let made = doc! { "create": TABLE, "writeConcern": { "w": "majority" } };
        match session.try_run(made).await {
            Ok(_) => {}
            Err(e) if error::number(&e) == Some(code::NAMESPACE_EXISTS) => {}
            Err(e) => return Err(session.failed("make the collection that keeps how far the sync is", &e)),
        }
        let there: HashMap<String, Document> =
            collections(session).await?.into_iter().map(|found| (found.name, found.options)).collect();
        for pair in tables {
            let name = &pair.table.source;
            match there.get(name) {
                Some(options) if has_images(options) => {}
                Some(_) => self.keep_images(name).await?,
                None if pair.is_there => {
                    let message = format!("there is no collection `{name}` any more");
                    let hint = "`litekeep sync resync` makes it anew from the table here";
                    return Err(Error::with_hint(Kind::Invalid, message, hint));
                }
                None => {
                    let makes = self.two_way.as_ref().and_then(|two_way| two_way.makes.get(name));
                    let indexes: Vec<Document> = makes
                        .iter()
                        .flat_map(|table| table.indexes.iter().map(|index| documents::index(table, index)))
                        .collect();
                    self.make_collection(name, &indexes).await?;
                }
            }
            self.agree(&pair.table).await?;
        }
        Ok(())
    }

    async fn picture(&mut self, _: &str, _: &[SourceTable]) -> Result<String, Error> {
        let session = self.session()?;
        let mut reader = Reader::of_one_moment(session).await?;
        let first = reader.find(session, TABLE, (doc! {}, None, 1)).await;
        first.map_err(|e| session.failed("see documents as they are at one moment", &e))?;
        let none = || Error::new(Kind::Internal, "read one state: the server does not say of which moment");
        let moment: Timestamp = reader.moment().ok_or_else(none)?;
        self.reader = Some(reader);
        Ok(Position::of(moment).to_string())
    }

    async fn end_picture(&mut self) -> Result<(), Error> {
        let reader = Reader::after(self.session()?, None).await?;
        (self.reading, self.reader) = (None, Some(reader));
        Ok(())
    }

    async fn items(&mut self, node: &str) -> Result<BTreeMap<String, String>, Error> {
        if !self.is_there(TABLE).await? {
            return Ok(BTreeMap::new());
        }
        self.take_over(node).await?;
        let session = self.session()?;
        let found = self.kept(doc! { "_id.sync": node }).await;
        let mut items = found.map_err(|e| session.failed("read how far the sync is", &e))?;
        let parted = Parted::read(&mut items);
        if let Some(two_way) = &mut self.two_way {
            two_way.parted = parted;
        }
        Ok(items)
    }

    async fn begin(&mut self, node: &str, says: Option<&str>) -> Result<(), Error> {
        if let Some(two_way) = &mut self.two_way {
            two_way.transaction = Some(Transaction::of(node, says));
        }
        Ok(())
    }

    async fn lock(&mut self, table: &SourceTable, keys: &[Vec<Value>]) -> Result<Vec<Vec<Value>>, Error> {
        let layout = Layout::of(table)?;
        let (transaction, session) = self.transaction()?;
        transaction.look(session, &layout, keys).await
    }

    /// What was seen was committed, and so has a time, before this is.
    async fn written(&mut self) -> Result<String, Error> {
        const ASK: &str = "ask where the server is";
        let node = self.transaction()?.0.node().to_owned();
        let one = doc! {
            "q": { ID: id_of(&node, CLOCK) },
            "u": { "$currentDate": { "asked_at": true } },
            "upsert": true,
        };
        let session = self.session()?;
        let said = session.run(ASK, doc! { "update": TABLE, "updates": [one] }).await?;
        let none = |_| Error::new(Kind::Invalid, format!("{ASK} in {}: it does not say", session.name()));
        Ok(Position::of(said.get_timestamp("operationTime").map_err(none)?).to_string())
    }

    async fn write(&mut self, table: &SourceTable, rows: &[Writing]) -> Result<Vec<(usize, String)>, Error> {
        let layout = Layout::of(table)?;
        let (transaction, session) = self.transaction()?;
        transaction.write(session, &layout, rows).await
    }

    async fn commit(
        &mut self,
        node: &str,
        (name, expected): (&str, Option<&str>),
        items: &[(String, Option<String>)],
    ) -> Result<(), Error> {
        let none = || Error::new(Kind::Internal, "commit without a transaction");
        let session = self.session.as_mut().ok_or_else(none)?;
        let two_way = self.two_way.as_mut().ok_or_else(none)?;
        let transaction = two_way.transaction.take().ok_or_else(none)?;
        debug_assert_eq!(transaction.node(), node);
        let stage = items.iter().find(|(item, _)| item == name).and_then(|(_, content)| content.as_deref());
        let (kept, gone) = two_way.parted.changed(items.iter().filter(|(item, _)| item != name), PART);
        let ending = Ending { stage: (name, expected, stage.ok_or_else(none)?), kept: &kept, gone: &gone };
        transaction.commit(session, ending).await
    }

    async fn roll_back(&mut self) -> Result<(), Error> {
        let transaction = self.two_way.as_mut().and_then(|two_way| two_way.transaction.take());
        let (Some(transaction), Some(session)) = (transaction, &mut self.session) else { return Ok(()) };
        transaction.roll_back(session).await;
        // What was seen is acted upon here, so it must be what stays there.
        let now = session.now().await?;
        let mut reader = Reader::after(session, Some(now)).await?;
        let seen = reader.find(session, TABLE, (doc! {}, None, 1)).await;
        seen.map(drop).map_err(|e| session.failed("wait for the other servers", &e))
    }

    async fn forget_node(&mut self, node: &str) -> Result<(), Error> {
        const FORGET: &str = "forget the sync";
        let session = self.session()?;
        let delete = doc! {
            "delete": TABLE,
            "deletes": [{ "q": { "_id.sync": node }, "limit": 0 }],
            "writeConcern": { "w": "majority", "j": true },
        };
        session.run(FORGET, delete).await?;
        let others = doc! { "_id.sync": { "$ne": ALL } };
        if session.first(FORGET, TABLE, others).await?.is_none() {
            session.run(FORGET, doc! { "drop": TABLE }).await?;
        }
        Ok(())
    }
}
