//! MongoDB, for the tests that every pull must pass: `orders` and `parts` are collections, of which validators tell the fields.

use litekeep_sync_mongodb::Address;
use litekeep_sync_mongodb::source::Wanted;
use litekeep_testkit::mongodb::bson::spec::BinarySubtype;
use litekeep_testkit::mongodb::bson::{Binary, Bson, Decimal128, Document, doc};

pub(crate) use litekeep_sync_mongodb::MongoSource as Source;

use crate::server::Server;

pub(crate) fn source(url: &str, tables: &[&str]) -> Source {
    let tables = tables.iter().map(|table| (*table).to_owned()).collect();
    // One that is down is not waited for.
    let url = if url.contains('?') { url.to_owned() } else { format!("{url}?serverSelectionTimeoutMS=1500") };
    Source::new(Address::parse(&url).unwrap(), Wanted { tables, ..Wanted::default() })
}

/// Of a server that has just begun.
pub(crate) const DATABASE: &str = "app";
/// The collections.
pub(crate) const TABLES: &str = "orders parts";
/// The key of `orders`, as it is called here.
pub(crate) const ID: &str = "_id";

/// Nothing is left of a sync on the server.
pub(crate) fn end(_: &str) {}

/// A new database with collections.
pub(crate) fn make(server: &Server, name: &str, collections: &str) {
    make_tables(server, name, collections);
}

pub(crate) fn make_tables(server: &Server, name: &str, collections: &str) {
    let run = |command| server.run(name, command).unwrap();
    for collection in collections.split_whitespace() {
        let of = |types: &[&str]| doc! { "bsonType": types.to_vec() };
        let properties = match collection {
            "orders" => doc! {
                "_id": of(&["int", "long"]), "name": of(&["string", "null"]), "body": of(&["binData", "null"]), "amount": of(&["decimal", "null"]),
            },
            "parts" => {
                let parts = doc! { "a": of(&["int"]), "b": of(&["string"]) };
                let id = doc! { "bsonType": "object", "required": ["a", "b"], "properties": parts };
                doc! { "_id": id, "long": of(&["string"]) }
            }
            _ => panic!("{collection}"),
        };
        run(doc! { "create": collection, "validator": { "$jsonSchema": { "properties": properties } } });
        if collection == "orders" {
            let index = doc! { "key": { "name": 1 }, "name": "name", "unique": true, "partialFilterExpression": { "name": { "$type": "string" } } };
            run(doc! { "createIndexes": "orders", "indexes": [index] });
        }
    }
}

fn decimal(text: &str) -> Bson {
    Bson::Decimal128(text.parse::<Decimal128>().unwrap())
}

fn update(collection: &str, of: Document, change: Document) -> Document {
    doc! { "update": collection, "updates": [{ "q": of, "u": change, "multi": true }] }
}

fn upsert(collection: &str, of: Document, change: Document) -> Document {
    doc! { "update": collection, "updates": [{ "q": of, "u": change, "upsert": true }] }
}

fn delete(collection: &str, of: Document) -> Document {
    doc! { "delete": collection, "deletes": [{ "q": of, "limit": 0 }] }
}

/// A change.
fn change(random: &mut fastrand::Rng) -> Document {
    let (id, other) = (random.i32(0..200), random.i32(0..200));
    let order = |random: &mut fastrand::Rng| {
        let body = Binary { subtype: BinarySubtype::Generic, bytes: vec![random.u8(..)] };
        doc! { "name": format!("n{}", random.u64(..)), "body": body, "amount": decimal(&format!("{other}.50")) }
    };
    match random.u32(0..100) {
        0..30 => upsert("orders", doc! { "_id": id }, doc! { "$setOnInsert": order(random) }),
        // The whole of it.
        30..35 => upsert("orders", doc! { "_id": id }, order(random)),
        35..40 => update("orders", doc! { "_id": id }, doc! { "$set": { "amount": null, "body": null } }),
        40..45 => update("orders", doc! { "_id": id }, doc! { "$unset": { "amount": 1, "body": 1 } }),
        45..55 => delete("orders", doc! { "_id": { "$gte": id, "$lte": id + 3 } }),
        55..62 => {
            update("orders", doc! { "_id": { "$lt": id } }, doc! { "$set": { "amount": decimal("1E+3") } })
        }
        62..80 => {
            let key = doc! { "a": id, "b": format!("b{}", random.u32(0..3)) };
            let long = format!("{}{other}", "x".repeat(9_000));
            upsert("parts", doc! { "_id": key }, doc! { "$set": { "long": long } })
        }
        80..92 => update("parts", doc! { "_id.a": id }, doc! { "$set": { "long": format!("é{other}") } }),
        _ => delete("parts", doc! { "_id.a": id }),
    }
}

/// Some transactions of all kinds, of which some are taken back, and changes outside of any.
pub(crate) fn churn(server: &Server, name: &str, random: &mut fastrand::Rng) {
    for _ in 0..random.u32(1..6) {
        let changes: Vec<Document> = (0..random.u32(1..20)).map(|_| change(random)).collect();
        match random.u32(0..10) {
            0 => server.transaction(name, changes, false).unwrap(),
            1..4 => changes.into_iter().for_each(|change| drop(server.run(name, change).unwrap())),
            _ => server.transaction(name, changes, true).unwrap(),
        }
    }
}

fn inserts(collection: &str, documents: impl Iterator<Item = Document>) -> Vec<Document> {
    let documents: Vec<Document> = documents.collect();
    documents.chunks(2_000).map(|some| doc! { "insert": collection, "documents": some.to_vec() }).collect()
}

/// Orders of these numbers.
pub(crate) fn add_orders(server: &Server, name: &str, (first, last): (u32, u32)) {
    let order = |nth: u32| doc! { "_id": i64::from(nth), "name": format!("n{nth}"), "body": null, "amount": decimal(&nth.to_string()) };
    inserts("orders", (first..=last).map(order))
        .into_iter()
        .for_each(|insert| drop(server.run(name, insert).unwrap()));
}

/// Parts of these numbers, with something long, in one transaction.
pub(crate) fn add_parts(server: &Server, name: &str, (first, last): (u32, u32), length: usize) {
    let part = |nth: u32| doc! { "_id": { "a": nth as i32, "b": "b" }, "long": "z".repeat(length) };
    server.transaction(name, inserts("parts", (first..=last).map(part)), true).unwrap();
}

/// Orders with these names.
pub(crate) fn name_orders(server: &Server, name: &str, orders: &[(i64, &str)]) {
    let documents = orders.iter().map(|(id, called)| doc! { "_id": id, "name": *called });
    inserts("orders", documents).into_iter().for_each(|insert| drop(server.run(name, insert).unwrap()));
}

pub(crate) fn rename_order(server: &Server, name: &str, id: i64, called: &str) {
    server.run(name, update("orders", doc! { "_id": id }, doc! { "$set": { "name": called } })).unwrap();
}

pub(crate) fn delete_order(server: &Server, name: &str, id: i64) {
    server.run(name, delete("orders", doc! { "_id": id })).unwrap();
}

/// How often `orders` was read, since this was asked first.
pub(crate) fn lookups(server: &Server, name: &str) -> u64 {
    server.run(name, doc! { "profile": 2 }).unwrap();
    let orders = format!("{name}.orders");
    let has =
        |document: &Document, field: &str, value: &str| document.get_str(field).is_ok_and(|is| is == value);
    let is_one = |document: &&Document| has(document, "op", "query") && has(document, "ns", &orders);
    server.documents(name, "system.profile").unwrap().iter().filter(is_one).count() as u64
}

/// Orders have a state from now on: those that are there `new`, but the second one `old`, and a third one comes.
pub(crate) fn add_states(server: &Server, name: &str) {
    let state = |of, state| update("orders", of, doc! { "$set": { "state": state } });
    server.run(name, state(doc! {}, "new")).unwrap();
    server
        .run(name, doc! { "insert": "orders", "documents": [{ "_id": 3_i64, "name": "c", "state": "new" }] })
        .unwrap();
    server.run(name, state(doc! { "_id": 2 }, "old")).unwrap();
}

/// A collection of `notes`, with a document.
pub(crate) fn make_notes(server: &Server, name: &str) {
    server.run(name, doc! { "insert": "notes", "documents": [{ "_id": 2, "text": "theirs" }] }).unwrap();
}

/// The documents of `orders` and of `parts`, each field as text.
pub(crate) fn there(server: &Server, name: &str) -> [Vec<Vec<Option<String>>>; 2] {
    let text = |value: Option<&Bson>| match value {
        None | Some(Bson::Null) => None,
        Some(Bson::Int32(i)) => Some(i.to_string()),
        Some(Bson::Int64(i)) => Some(i.to_string()),
        Some(Bson::String(text)) => Some(text.clone()),
        Some(Bson::Decimal128(decimal)) => Some(decimal.to_string()),
        Some(Bson::Binary(binary)) => Some(binary.bytes.iter().map(|byte| format!("{byte:02x}")).collect()),
        Some(other) => panic!("{other}"),
    };
    let all = |collection: &str| server.documents(name, collection).unwrap();
    let fields =
        |document: &Document, names: &[&str]| names.iter().map(|name| text(document.get(name))).collect();
    let orders =
        all("orders").iter().map(|order| fields(order, &["_id", "name", "body", "amount"])).collect();
    let part = |part: &Document| {
        let mut whole = part.get_document("_id").unwrap().clone();
        whole.insert("long", part.get("long").unwrap());
        fields(&whole, &["a", "b", "long"])
    };
    [orders, all("parts").iter().map(part).collect()]
}
