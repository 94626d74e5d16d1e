//! What of a sync in both directions is MongoDB's own: documents, their types and images, transactions that nobody ends, and rights.

use std::path::Path;
use std::sync::mpsc;
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

use anyhow::Result;
use litekeep_schema::portable::mongodb::Options;
use litekeep_sync::two_way::Policy;
use litekeep_sync::{Flow as _, Kind};
use litekeep_sync_mongodb::source::Wanted;
use litekeep_sync_mongodb::{Address, MongoSource};
use litekeep_testkit::mongodb::{Kind as Of, Mongodb};
use litekeep_testkit::process::eventually;
use mongodb::Client;
use mongodb::bson::oid::ObjectId;
use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{Binary, Bson, DateTime, Document, Regex, Timestamp, Uuid, cstr, doc};
use rusqlite::Connection;

use crate::server::{Server, server};
use crate::two_way_scene::{ALL, Database, Edit, Node, PATIENCE, Rows, TABLE, shown};

pub(crate) type Hub = MongoSource;

/// Of a server that has just begun.
pub(crate) const DATABASE: &str = "test";
/// After so long the server tells that something was later.
pub(crate) const SECOND: Duration = Duration::from_millis(30);

pub(crate) fn hub(url: &str) -> Hub {
    MongoSource::two_way(Address::parse(url).unwrap(), Wanted::default(), Options::default())
}

fn command(edit: &Edit) -> Document {
    let update =
        |id: &i64, change: Bson| doc! { "update": "t", "updates": [{ "q": { "_id": id }, "u": change }] };
    match edit {
        Edit::Insert(id, v) => doc! { "insert": "t", "documents": [{ "_id": id, "v": v }] },
        Edit::Set(id, v) => update(id, doc! { "$set": { "v": v } }.into()),
        Edit::Append(id, v) => {
            let longer = doc! { "$concat": ["$v", { "$literal": v }] };
            update(id, vec![doc! { "$set": { "v": longer } }].into())
        }
        Edit::Delete(id) => doc! { "delete": "t", "deletes": [{ "q": { "_id": id }, "limit": 1 }] },
    }
}

/// Documents of `t`.
pub(crate) fn fill(server: &Server, database: &str, rows: &[(i64, &str)]) {
    let documents: Vec<Document> = rows.iter().map(|(id, v)| doc! { "_id": id, "v": v }).collect();
    server.run(database, doc! { "insert": "t", "documents": documents }).unwrap();
}

/// All documents of `t`.
pub(crate) fn all(server: &Server, database: &str) -> Rows {
    let documents = server.documents(database, "t").unwrap();
    let text = |document: &Document| {
        let id = document.get_i64("_id").unwrap();
        format!("{id} {}", document.get_str("v").unwrap_or("-"))
    };
    documents.iter().map(|document| vec![Some(text(document))]).collect()
}

/// Somebody does this.
pub(crate) fn edit(server: &Server, database: &str, edits: &[Edit]) -> Result<()> {
    edits.iter().try_for_each(|edit| server.run(database, command(edit)).map(drop))
}

/// The same, who logs in by himself.
pub(crate) fn edit_at(login: &str, edits: &[Edit]) -> Result<()> {
    within(async {
        let client = Client::with_uri_str(login).await?;
        let db = client.default_database().unwrap();
        for edit in edits {
            db.run_command(command(edit)).await?;
        }
        Ok(())
    })
}

fn within<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

/// The item of each node that says how far it is.
pub(crate) fn stages(server: &Server, database: &str) -> Vec<String> {
    let kept = server.documents(database, "_litekeep_sync").unwrap();
    let of_stage =
        |document: &&Document| document.get_document("_id").unwrap().get_str("item").unwrap() == "stage";
    kept.iter().filter(of_stage).map(|document| document.get_str("content").unwrap().to_owned()).collect()
}

/// All that is kept of nodes is gone.
pub(crate) fn lose(server: &Server, database: &str) {
    let all = doc! { "delete": "_litekeep_sync", "deletes": [{ "q": {}, "limit": 0 }] };
    server.run(database, all).unwrap();
}

/// The server keeps nothing.
pub(crate) fn end(_: &Server, _: &str) {}

/// The changes that a node goes on with are none that the server has had, as when it has let go of them.
pub(crate) fn let_go(_: &Server, database: &Path) -> Result<bool> {
    let db = Connection::open(database)?;
    let sql = "SELECT json_extract(content, '$.following.position') FROM _litekeep_sync WHERE item = 'stage'";
    let position: String = db.query_row(sql, (), |row| row.get(0))?;
    let time = position.split_once('.').map_or("", |(time, _)| time);
    let token = format!("82{:08X}000000FF2B0429296E1404", time.parse::<u32>()? - 1);
    let sql = "UPDATE _litekeep_sync SET content = replace(content, ?1, ?2) WHERE item = 'stage'";
    db.execute(sql, (&position, format!("{}.255/{token}", time.parse::<u32>()? - 1)))?;
    Ok(true)
}

/// How somebody else logs in.
pub(crate) fn login(database: &str) -> String {
    server().url(database)
}

/// A transaction of others' that is open for a while after each of its commands, once it has done the first one.
pub(crate) fn holding(database: &'static str, edits: &[Edit], seconds: f64) -> JoinHandle<Result<()>> {
    let (commands, login): (Vec<Document>, String) = (edits.iter().map(command).collect(), login(database));
    let (held, is_held) = mpsc::channel();
    let open = spawn(move || {
        within(async {
            let client = Client::with_uri_str(login).await?;
            let mut session = client.start_session().await?;
            session.start_transaction().await?;
            for command in commands {
                client.default_database().unwrap().run_command(command).session(&mut session).await?;
                let _ = held.send(());
                tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
            }
            session.commit_transaction().await?;
            Ok(())
        })
    });
    is_held.recv().unwrap();
    open
}

impl Database {
    fn run(&self, command: Document) -> Document {
        server().run(self.0, command).unwrap()
    }

    fn documents(&self, collection: &str) -> Vec<Document> {
        server().documents(self.0, collection).unwrap()
    }

    fn set(&self, collection: &str, id: impl Into<Bson>, change: Document) {
        let one = doc! { "q": { "_id": id.into() }, "u": change };
        assert_eq!(self.run(doc! { "update": collection, "updates": [one] }).get_i32("n").unwrap(), 1);
    }
}

/// Who is told what of a row, and nothing else.
fn progress(node: &Node) -> (u64, u64) {
    let progress = node.flow.as_ref().unwrap().progress().unwrap();
    assert_eq!(progress.paused, []);
    (progress.refused, progress.conflicts)
}

fn paused(node: &Node) -> Vec<(String, String)> {
    node.flow.as_ref().unwrap().progress().unwrap().paused
}

fn resync(node: &mut Node) {
    let mut flow = node.new_flow();
    node.flow = None;
    node.runtime.block_on(flow.resync()).unwrap();
    node.settle();
}

/// Goal: a document of values of every type stays as it is, to the bit, but for the field that is changed here. Method: each is changed in SQLite in one
/// column, and then written anew where it was gone.
#[test]
fn every_type_goes_there_and_back() {
    let there = Database::new("two_types");
    let binary = |subtype, bytes: &[u8]| Bson::Binary(Binary { subtype, bytes: bytes.to_vec() });
    let id = ObjectId::parse_str("0123456789abcdef01234567").unwrap();
    let one = doc! {
        "_id": id,
        "integer": 7_i32, "long": i64::MAX, "double": 0.1, "text": "ä\u{0}b", "bytes": binary(BinarySubtype::Generic, b"\0\xff"),
        "is": true, "at": DateTime::from_millis(1_767_225_600_120), "decimal": Bson::Decimal128("10.20".parse().unwrap()),
        "other": id, "uuid": binary(BinarySubtype::Uuid, &[7; 16]), "nothing": null,
        "document": { "z": 1_i32, "a": [1_i64, null, { "x": 0.5 }] }, "array": [],
        "any": 5_i32,
        "odd": Bson::RegularExpression(Regex { pattern: cstr!("^a").into(), options: cstr!("i").into() }),
        "touched": 0_i64,
    };
    let two = doc! {
        "touched": 0_i64, "_id": ObjectId::new(), "integer": 7.0, "double": 3_i32, "any": { "b": 1_i32 }, "is": 1_i32,
        "odd": Bson::Timestamp(Timestamp { time: 7, increment: 1 }), "array": [binary(BinarySubtype::Md5, b"m")],
    };
    let three =
        doc! { "_id": ObjectId::new(), "any": Uuid::from_bytes([9; 16]), "touched": 0_i64, "at": null };
    there.run(doc! { "insert": "all", "documents": [one, two, three] });
    let before = there.documents("all");
    let mut node = Node::new(&there.url(), Policy::Server, TABLE);
    node.settle();
    node.run("UPDATE \"all\" SET touched = 7");
    node.settle();
    assert_eq!(progress(&node), (0, 0));
    let touched = |mut document: Document| {
        document.insert("touched", 7_i64);
        document
    };
    let expected: Vec<Document> = before.into_iter().map(touched).collect();
    assert_eq!(there.documents("all"), expected);
    node.run("CREATE TABLE kept(id TEXT PRIMARY KEY, n INT)");
    node.run("CREATE TEMP TABLE k AS SELECT * FROM \"all\"; DELETE FROM \"all\"; INSERT INTO \"all\" SELECT * FROM k");
    node.settle();
    // Gone, and there again from SQLite alone.
    let rows = node.rows("SELECT quote(\"_id\") FROM \"all\" ORDER BY 1");
    node.run("CREATE TABLE here AS SELECT * FROM \"all\"; DELETE FROM \"all\"");
    node.settle();
    assert_eq!(there.documents("all"), []);
    node.run("INSERT INTO \"all\" SELECT * FROM here");
    node.settle();
    assert_eq!(node.rows("SELECT quote(\"_id\") FROM \"all\" ORDER BY 1"), rows);
    // Of a table without a type nobody says what else a number or a document is.
    let known = |document: &Document| {
        let mut document = document.clone();
        for name in ["integer", "long", "double", "any", "nothing", "is", "odd"] {
            document.remove(name);
        }
        let mut fields: Vec<(String, Bson)> =
            document.into_iter().filter(|(_, value)| *value != Bson::Null).collect();
        fields.sort_by(|(a, _), (b, _)| a.cmp(b));
        fields
    };
    let after = there.documents("all");
    assert_eq!(after.iter().map(known).collect::<Vec<_>>(), expected.iter().map(known).collect::<Vec<_>>());
    assert_eq!(after[0].get("long"), Some(&Bson::Int64(i64::MAX)));
    let found = node.runtime.block_on(node.new_flow().compare()).unwrap();
    assert!(found.is_equal(), "{found:?}");
}

/// Goal: a node that has the table without rows takes its values as the one that has brought it there. Method: dates and booleans, which no empty column
/// tells of, through both and back; keys of two columns; and others that write there.
#[test]
fn nodes_agree_on_what_values_are() {
    let there = Database::new("two_forms");
    let made = "CREATE TABLE v(a INT, b TEXT, is_on BOOLEAN, n NUMERIC, at DATETIME, day DATE, any, r REAL, k TEXT UNIQUE, touched INT, PRIMARY KEY (a, b));";
    let rows = "INSERT INTO v VALUES (1, 'x', 1, 12.5, '2026-01-02T03:04:05Z', '2026-01-02', 7, 0.1, 'a', 0),
         (2, 'y', 0, 7, '2026-12-31T23:59:59Z', '1999-12-31', 'seven', 1e300, 'A', 0), (3, '', NULL, NULL, NULL, NULL, x'07', NULL, NULL, 0)";
    let mut node = Node::new(&there.url(), Policy::Server, &format!("{made}{rows}"));
    node.settle();
    let mut empty = Node::new(&there.url(), Policy::Server, made);
    let mut none = Node::new(&there.url(), Policy::Server, "");
    empty.settle();
    none.settle();
    let found = there.documents("v");
    assert!(matches!(found[0].get("at"), Some(Bson::DateTime(_))), "{}", found[0]);
    let select = "SELECT quote(a) || quote(b) || quote(is_on) || quote(n) || quote(at) || quote(day) || quote(any) || quote(r) || quote(k) || touched FROM v ORDER BY a";
    let before = node.rows(select);
    assert_eq!((empty.rows(select), none.rows(select)), (before.clone(), before));
    empty.run("UPDATE v SET touched = 1, at = '2026-02-02T00:00:00Z' WHERE a = 1");
    none.run("UPDATE v SET is_on = 1, day = '2000-01-01' WHERE a = 2");
    there.set(
        "v",
        doc! { "a": 3_i64, "b": "" },
        doc! { "$set": { "at": DateTime::from_millis(0), "k": "k" } },
    );
    for _ in 0..2 {
        for node in [&mut node, &mut empty, &mut none] {
            node.settle();
            assert_eq!(progress(node), (0, 0));
        }
    }
    let after = node.rows(select);
    assert_eq!((empty.rows(select), none.rows(select)), (after.clone(), after.clone()));
    assert!(shown(&after).contains("'1970-01-01T00:00:00Z'") && shown(&after).contains("'2000-01-01'"));
    assert!(matches!(there.documents("v")[1].get("is_on"), Some(Bson::Boolean(true))));
    // A name of one's own for what alone is the key.
    let mut named = Node::new(&there.url(), Policy::Server, "CREATE TABLE w(id INTEGER PRIMARY KEY, v)");
    named.run("INSERT INTO w VALUES (1, 'w')");
    named.settle();
    let mut other = Node::new(&there.url(), Policy::Server, "CREATE TABLE w(number INTEGER PRIMARY KEY, v)");
    other.settle();
    other.run("UPDATE w SET v = 'o'");
    other.settle();
    assert_eq!(there.documents("w"), [doc! { "_id": 1_i64, "v": "o" }]);
}

/// What cannot be there is listed and goes when it is mended, beside others that go; two exchange what must be unique.
#[test]
fn rules_of_the_server_are_kept() {
    let there = Database::new("two_rules");
    let made = "CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT UNIQUE); INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c')";
    let mut node = Node::new(&there.url(), Policy::Server, made);
    node.settle();
    there.run(doc! { "collMod": "t", "validator": { "v": { "$ne": "bad" } } });
    node.run("UPDATE t SET v = 'x' WHERE id = 2; UPDATE t SET v = 'b' WHERE id = 3; UPDATE t SET v = 'c' WHERE id = 2; UPDATE t SET v = 'bad' WHERE id = 1");
    node.run("INSERT INTO t VALUES (4, CAST(x'ff' AS TEXT)), (5, 'e'), (6, zeroblob(6000000))");
    node.settle();
    assert_eq!(shown(&there.all()), "1 a, 2 c, 3 b, 5 e");
    assert_eq!(progress(&node), (3, 0));
    let listed = node.runtime.block_on(node.new_flow().listed()).unwrap().unwrap();
    for why in ["failed validation", "it is no UTF-8", "5242880 at most whose changes can be told"] {
        assert!(listed.iter().any(|row| row.reason.contains(why)), "{why}: {listed:?}");
    }
    // What is kept of the long one has no room in one document.
    let kept = there.documents("_litekeep_sync");
    let is_part = |document: &&Document| {
        document.get_document("_id").unwrap().get_str("item").unwrap().starts_with("part/")
    };
    assert!(kept.iter().filter(is_part).count() > 5);
    node.run("UPDATE t SET v = 'good' WHERE id = 1; UPDATE t SET v = 'four' WHERE id = 4; DELETE FROM t WHERE id = 6");
    node.settle();
    assert_eq!(shown(&there.all()), "1 good, 2 c, 3 b, 4 four, 5 e");
    assert_eq!((node.rows(ALL), progress(&node)), (there.all(), (0, 0)));
    assert_eq!(there.documents("_litekeep_sync").iter().filter(is_part).count(), 0);
}

#[test]
fn what_cannot_go_both_ways_is_refused_with_what_to_do() {
    let there = Database::new("two_refused");
    let told = |node: &mut Node, why: &str, mends: &str| {
        let refused = node.refused();
        assert!(refused.contains(why) && refused.contains(mends), "{why}: {refused}");
    };
    there.run(doc! { "insert": "t", "documents": [{ "_id": 1_i64, "v": "a", "more": 1 }] });
    let mut node = Node::new(&there.url(), Policy::Server, TABLE);
    told(&mut node, "`t.more: is not in SQLite: both sides must have the same columns`", "`tables`");
    there.set("t", 1_i64, doc! { "$unset": { "more": 1 } });
    for (here, why) in [
        ("CREATE TABLE t(v TEXT PRIMARY KEY, id INT)", "declare it INTEGER"),
        ("CREATE TABLE t(a INT, v TEXT, PRIMARY KEY (a, v))", "it is (a, v) in SQLite and (_id) in MongoDB"),
        ("CREATE TABLE t(id INTEGER PRIMARY KEY, v INT)", "declare it TEXT"),
        ("CREATE TABLE bare(a INT)", "has no primary key"),
    ] {
        told(&mut Node::new(&there.url(), Policy::Server, here), why, "or leave the table out");
    }
    let options = [
        (doc! { "create": "o", "capped": true, "size": 4096 }, "is capped"),
        (doc! { "create": "o", "collation": { "locale": "en", "strength": 2 } }, "has a collation"),
        (doc! { "create": "o", "timeseries": { "timeField": "at" } }, "is a time series"),
    ];
    for (create, why) in options {
        there.run(create);
        told(&mut node, why, "or leave the table out");
        there.run(doc! { "drop": "o" });
    }
    there.run(doc! { "insert": "d", "documents": [{ "_id": 1_i64, "n": Bson::Decimal128("1.50".parse().unwrap()) }] });
    let mut decimals = Node::new(
        &there.url(),
        Policy::Server,
        "CREATE TABLE d(id INTEGER PRIMARY KEY, n DECIMAL(10, 2)); CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT)",
    );
    told(&mut decimals, "d.n: is `decimals` in MongoDB and `DECIMAL(10, 2)` in SQLite", "declare it TEXT");
    there.run(doc! { "drop": "d" });
    node.settle();
    assert_eq!(shown(&node.rows(ALL)), "1 a");
    let keeps = there.run(doc! { "listCollections": 1, "filter": { "name": "t" } });
    assert!(keeps.to_string().contains("\"changeStreamPreAndPostImages\": { \"enabled\": true }"), "{keeps}");

    // A field that comes lets the table stand still, and is told until it is on both sides.
    there.set("t", 1_i64, doc! { "$set": { "more": "m" } });
    node.settle();
    let found = paused(&node);
    assert!(found.len() == 1 && found[0].1.contains("its columns were changed there"), "{found:?}");
    node.run("UPDATE t SET v = 'kept' WHERE id = 1");
    node.settle();
    assert_eq!(
        there.documents("t"),
        [doc! { "_id": 1_i64, "v": "a", "more": "m" }],
        "nothing was taken away"
    );
    let error = node.runtime.block_on(node.new_flow().resync()).unwrap_err().to_string();
    assert!(error.contains("t.more: is not in SQLite"), "{error}");
    node.run("ALTER TABLE t ADD COLUMN more TEXT");
    resync(&mut node);
    assert_eq!(shown(&node.rows("SELECT id || v || more FROM t")), "1am");
    // And so does a value that cannot be here.
    there.set("t", 1_i64, doc! { "$set": { "v": 7_i64 } });
    node.settle();
    let found = paused(&node);
    let why = "the document there with the key {\"$numberLong\":\"1\"} cannot be here: `v`: it is a number, and the column holds text";
    assert!(found.len() == 1 && found[0].1.contains(why), "{found:?}");
    let mut flow = node.new_flow();
    node.flow = None;
    node.runtime.block_on(flow.resync()).unwrap();
    told(&mut node, "cannot be here, that with the key i1: `v`: it is a number", "change it there");
    there.set("t", 1_i64, doc! { "$set": { "v": "seven" } });
    node.settle();
    assert_eq!(shown(&node.rows(ALL)), "1 seven");
    // And one that is dropped, beside others.
    there.run(doc! { "drop": "t" });
    node.settle();
    let found = paused(&node);
    assert!(found.len() == 1 && found[0].1.contains("it was dropped there"), "{found:?}");
    assert_eq!(shown(&node.rows(ALL)), "1 seven");
    // It is made anew, and a row of which nothing is known that it was there goes there.
    node.run("INSERT INTO t VALUES (2, 'two', NULL)");
    node.ship();
    resync(&mut node);
    assert_eq!(there.documents("t"), [doc! { "_id": 2_i64, "v": "two", "more": null }]);
    assert_eq!(node.rows(ALL), there.all());
    let mut flow = node.new_flow();
    node.flow = None;
    node.runtime.block_on(flow.forget()).unwrap();
    let left = there.run(doc! { "listCollections": 1, "nameOnly": true }).to_string();
    assert!(!left.contains("_litekeep_sync"), "{left}");
}

/// Goal: where a document comes without how it was before, all rows are compared, and nothing is lost. Method: somebody has the collection keep no images, on
/// both sides of which rows are changed.
#[test]
fn changes_without_images_cost_a_comparison() {
    let there = Database::with_rows("two_images", [(1, "a"), (2, "b"), (3, "c")]);
    let mut node = Node::new(&there.url(), Policy::Server, TABLE);
    node.settle();
    let images = |on: bool| doc! { "collMod": "t", "changeStreamPreAndPostImages": { "enabled": on } };
    there.run(images(false));
    there.edit(&[Edit::Set(1, "there"), Edit::Delete(3)]);
    node.run("UPDATE t SET v = 'here' WHERE id = 2");
    node.ship();
    node.sync_in_the_end();
    node.settle();
    assert_eq!(shown(&there.all()), "1 there, 2 here");
    assert_eq!((node.rows(ALL), node.conflicts()), (there.all(), vec![]));
    // From then on they come again.
    there.edit(&[Edit::Set(1, "again")]);
    node.settle();
    assert_eq!(shown(&node.rows(ALL)), "1 again, 2 here");
}

/// Goal: a transaction that a killed litekeep has left open is in nobody's way for long. Method: one of that node's session, which nobody commits.
#[test]
fn what_a_killed_litekeep_has_left_open_is_ended() {
    let there = Database::with_rows("two_left", [(1, "a")]);
    let mut node = Node::new(&there.url(), Policy::Server, TABLE);
    node.settle();
    node.flow = None;
    let says = there.documents("_litekeep_sync");
    let says =
        says.iter().find(|document| document.contains_key("lsid")).unwrap().get("_id").unwrap().clone();
    let update = |collection: &str, id: &Bson, set: Document| {
        doc! { "update": collection, "updates": [{ "q": { "_id": id }, "u": { "$set": set } }] }
    };
    let login = there.url();
    let left = async {
        let client = Client::with_uri_str(login).await?;
        let db = client.default_database().unwrap();
        let mut session = client.start_session().await?;
        // It says who it is, and is killed before it commits.
        db.run_command(update("_litekeep_sync", &says, doc! { "lsid": session.id() })).await?;
        session.start_transaction().await?;
        for (collection, id) in [("_litekeep_sync", &says), ("t", &Bson::Int64(1))] {
            db.run_command(update(collection, id, doc! { "left": 1 })).session(&mut session).await?;
        }
        Ok(session)
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let left: Result<_> = runtime.block_on(left);
    let mut held = update("t", &Bson::Int64(1), doc! { "v": "nobody" });
    held.insert("maxTimeMS", 100);
    assert!(server().run(there.0, held).is_err(), "somebody has the document");
    node.run("UPDATE t SET v = 'here'");
    node.ship();
    let begun = Instant::now();
    node.sync_in_the_end();
    // The server would have ended it after a minute.
    assert!(begun.elapsed() < Duration::from_secs(40), "{:?}", begun.elapsed());
    node.settle();
    assert_eq!(shown(&there.all()), "1 here");
    drop((left, runtime));
}

/// What a user needs, and that what is said of it is enough.
#[test]
fn rights_are_told() {
    let guarded = Mongodb::start_as(Of::Guarded).unwrap();
    let run = |command| guarded.run("rights", command).unwrap();
    run(doc! { "insert": "t", "documents": [{ "_id": 1_i64, "v": "a" }] });
    let user = doc! { "createUser": "both", "pwd": "secret", "roles": [{ "role": "read", "db": "rights" }] };
    guarded.run("admin", user).unwrap();
    let url = |login: &str| format!("{}?authSource=admin", guarded.url_with(login, "rights"));
    let mut wrong = Node::new(&url("both:wrong@"), Policy::Server, TABLE);
    assert!(wrong.refused().contains("db.changeUserPassword(\"both\""));
    let mut node = Node::new(&url("both:secret@"), Policy::Server, TABLE);
    for (why, hint, role) in [
        ("write documents of `t`", "[{ role: \"readWrite\", db: \"rights\" }]", "readWrite"),
        ("have documents of `t` kept as they were", "[{ role: \"dbAdmin\", db: \"rights\" }]", "dbAdmin"),
    ] {
        let refused = node.refused();
        assert!(refused.contains(why) && refused.contains(hint), "{why}: {refused}");
        let role = doc! { "role": role, "db": "rights" };
        guarded.run("admin", doc! { "grantRolesToUser": "both", "roles": [role] }).unwrap();
    }
    node.settle();
    node.run("UPDATE t SET v = 'b'; CREATE TABLE u(id INTEGER PRIMARY KEY); INSERT INTO u VALUES (1)");
    node.settle();
    // As the administrator might have done, after which the right to write is enough.
    guarded
        .run(
            "admin",
            doc! { "revokeRolesFromUser": "both", "roles": [{ "role": "dbAdmin", "db": "rights" }] },
        )
        .unwrap();
    node.run("UPDATE t SET v = 'c'");
    resync(&mut node);
    assert_eq!(shown(&all(&guarded, "rights")), "1 c");
    assert_eq!(guarded.count("rights", "u").unwrap(), 1);
}

/// A server without transactions, and one that does not answer.
#[test]
fn servers_that_cannot_are_told() {
    let alone = Mongodb::start_as(Of::Alone).unwrap();
    let mut node = Node::new(&alone.url("alone"), Policy::Server, TABLE);
    let refused = node.refused();
    assert!(refused.contains("it is no replica set") && refused.contains("rs.initiate()"), "{refused}");
    let gone = "mongodb://127.0.0.1:1/app?serverSelectionTimeoutMS=300";
    let error = Node::new(gone, Policy::Server, TABLE).sync().unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable, "{error}");
}

/// A server that is killed between the two, and comes back.
#[test]
fn a_server_that_goes_away_is_waited_for() {
    let mut server = Server::start().unwrap();
    let mut node =
        Node::new(&server.url(DATABASE), Policy::Server, &format!("{TABLE} INSERT INTO t VALUES (1, 'a')"));
    node.settle();
    server.kill().unwrap();
    node.run("UPDATE t SET v = 'here'");
    node.ship();
    let begun = spawn(move || {
        sleep(Duration::from_millis(300));
        server.resume().unwrap();
        server
    });
    node.sync_in_the_end();
    let server = begun.join().unwrap();
    node.settle();
    eventually("it is there", PATIENCE, || Ok(shown(&all(&server, DATABASE)) == "1 here")).unwrap();
}
