//! MongoDB, for the tests that every server must pass.

use std::collections::BTreeMap;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

pub(crate) use litekeep_schema::portable::mongodb::Options;
use litekeep_schema::portable::mongodb::{self as portable, MongoType, Stored};
use litekeep_sync::Value;
use litekeep_sync_mongodb::Address;
pub(crate) use litekeep_sync_mongodb::Mongo as Side;
pub(crate) use litekeep_sync_mongodb::target::MongoTable as Table;
pub(crate) use litekeep_testkit::mongodb::Mongodb as Server;
use mongodb::bson::{Binary, Bson, Document, doc};

pub(crate) const TAGGED: MongoType = MongoType::Any;
pub(crate) const SCHEMA: &str = "from-lite";
/// Rows of `t` that cannot be there beside one that can, and why the first one cannot.
pub(crate) const NOT_THERE: &str =
    "INSERT INTO t VALUES (3, 'fine', 3), (4, CAST(x'ff' AS TEXT), 'text'), (5, CAST(x'c3' AS TEXT), 5);
     UPDATE t SET name = CAST(x'e9' AS TEXT) WHERE id = 1";
pub(crate) const WHY_NOT: &str = "`name`: it is no UTF-8";
/// How `'a'`, 7 and `x'00'` are there.
pub(crate) const VALUES: [&str; 3] =
    [r#""a""#, r#"{"$numberLong":"7"}"#, r#"{"$binary":{"base64":"AA==","subType":"00"}}"#];

/// A server of a test's own.
pub(crate) fn start() -> Server {
    Server::start().unwrap()
}

/// One server for all tests that do not kill it.
static SERVER: LazyLock<Mutex<Server>> = LazyLock::new(|| Mutex::new(start()));

pub(crate) fn server() -> MutexGuard<'static, Server> {
    SERVER.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn side(url: &str, name: &str, options: Options) -> Side {
    Side::new(Address::parse(url).unwrap(), name, options)
}

/// It is made with its first collection.
pub(crate) fn make_database(_: &Server, _: &str) {}

/// Ends all sessions, and with them what they are about to do.
pub(crate) fn cut_off(server: &Server) {
    server.run("admin", doc! { "killAllSessions": [] }).unwrap();
}

pub(crate) fn update(server: &Server, database: &str, collection: &str, of: Document, set: Document) {
    let update = doc! { "update": collection, "updates": [{ "q": of, "u": { "$set": set } }] };
    assert_eq!(server.run(database, update).unwrap().get_i32("nModified").unwrap(), 1);
}

pub(crate) fn delete(server: &Server, database: &str, collection: &str, of: Document) -> Document {
    let found = server.documents(database, collection).unwrap();
    let gone =
        found.into_iter().find(|document| of.iter().all(|(name, value)| document.get(name) == Some(value)));
    let gone = gone.unwrap();
    let delete = doc! { "delete": collection, "deletes": [{ "q": { "_id": gone.get("_id") }, "limit": 1 }] };
    server.run(database, delete).unwrap();
    gone
}

pub(crate) fn insert(server: &Server, database: &str, collection: &str, document: Document) {
    server.run(database, doc! { "insert": collection, "documents": [document] }).unwrap();
}

/// Changes rows of every table there.
pub(crate) fn differ(server: &Server, database: &str) {
    update(server, database, "t", doc! { "_id": 1 }, doc! { "name": "z" });
    delete(server, database, "t", doc! { "_id": 2_i64 });
    insert(server, database, "t", doc! { "_id": 7_i64, "name": "b", "x": 0.0 });
    let apple = delete(server, database, "words", doc! { "_id": "apple" });
    insert(server, database, "words", doc! { "_id": "Apple", "n": apple.get("n") });
    update(server, database, "words", doc! { "_id": "" }, doc! { "n": 2_i64 });
    delete(server, database, "bare", doc! { "a": "x" });
    insert(server, database, "bare", doc! { "a": null, "at": null, "doc": null });
}

/// The values of `x` in the collection `T o` of the other database.
pub(crate) fn values(server: &Server, _: &str) -> Vec<String> {
    let documents = server.documents(SCHEMA, "T o").unwrap();
    let text = |document: &Document| document.get("x").unwrap().clone().into_canonical_extjson().to_string();
    documents.iter().map(text).collect()
}

pub(crate) fn count(server: &Server, database: &str, table: &str) -> u64 {
    server.count(database, table).unwrap()
}

/// Whether it has anything of what litekeep keeps.
pub(crate) fn is_kept(server: &Server, database: &str) -> bool {
    count(server, database, "_litekeep_sync") > 0
}

/// The names of `t` by their keys.
pub(crate) fn names(server: &Server, database: &str) -> BTreeMap<i64, String> {
    let documents = server.documents(database, "t").unwrap();
    let pair = |document: &Document| {
        (document.get_i64("_id").unwrap(), document.get_str("name").unwrap().to_owned())
    };
    documents.iter().map(pair).collect()
}

/// What the server keeps of refused rows.
pub(crate) fn listed(server: &Server, database: &str) -> Vec<String> {
    let documents = server.documents(database, "_litekeep_sync").unwrap();
    let is_refused = |document: &&Document| {
        document.get_document("_id").unwrap().get_str("item").unwrap().starts_with("refused/")
    };
    let contents =
        documents.iter().filter(is_refused).map(|document| document.get_str("content").unwrap().to_owned());
    let mut contents: Vec<String> = contents.collect();
    contents.sort();
    contents
}

/// From now on row 5 cannot have an x of 5.
pub(crate) fn admit_no_5(server: &Server, database: &str) {
    let validator = doc! { "$or": [{ "name": { "$ne": "n5" } }, { "x": { "$ne": 5 } }] };
    server.run(database, doc! { "collMod": "t", "validator": validator }).unwrap();
}

/// All rows of a table, each value as it was in SQLite.
pub(crate) fn rows(server: &Server, database: &str, table: &portable::Table) -> Vec<Vec<Value>> {
    let value = |document: &Document, nth: usize| {
        let column = &table.columns[nth];
        let found = match (table.key.contains(&nth), table.key.len()) {
            (true, 1) => document.get("_id"),
            (true, _) => document.get_document("_id").unwrap().get(&column.name),
            (false, _) => document.get(&column.name),
        };
        let stored = match found.unwrap_or_else(|| panic!("{column:?} is not in {document}")).clone() {
            Bson::Null => Stored::Null,
            Bson::Int64(i) => Stored::Long(i),
            Bson::Double(f) => Stored::Double(f),
            Bson::String(text) => Stored::Text(text.into()),
            Bson::Binary(Binary { bytes, .. }) => Stored::Bytes(bytes.into()),
            Bson::Boolean(is) => Stored::Bool(is),
            Bson::DateTime(time) => Stored::Millis(time.timestamp_millis()),
            Bson::Decimal128(decimal) => Stored::Decimal(decimal.to_string().into()),
            other => panic!("{column:?}: {other:?}"),
        };
        column.kind.decode(&stored).unwrap_or_else(|| panic!("{column:?}: {stored:?}"))
    };
    let documents = server.documents(database, &table.name).unwrap();
    documents
        .iter()
        .map(|document| (0..table.columns.len()).map(|nth| value(document, nth)).collect())
        .collect()
}
