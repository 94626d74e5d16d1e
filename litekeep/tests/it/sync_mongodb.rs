//! Goal: MongoDB is kept in step by the same commands and beside the same writers as PostgreSQL. Method: as in `sync`.

use litekeep_testkit::campaign;
use litekeep_testkit::mongodb::Mongodb;
use litekeep_testkit::mongodb::bson::{Bson, Document, doc};
use rusqlite::Connection;

use crate::scene::Scene;
use crate::shapes;
use crate::sync::{
    Server, follows_whatever_is_killed, pulling, pulls_whatever_is_killed, rows_here, scene_with,
};

impl Server for Mongodb {
    fn rows(&self) -> String {
        let row = |row: &Document| {
            let v = match row.get("v") {
                Some(Bson::String(text)) => text.clone(),
                Some(v) => v.as_i64().unwrap().to_string(),
                None => panic!("{row}"),
            };
            format!("{}:{v}", row.get_i64("_id").unwrap())
        };
        self.documents("app", "t").unwrap().iter().map(row).collect::<Vec<_>>().join(" ")
    }

    fn kill(&mut self) {
        self.kill().unwrap();
    }

    fn resume(&mut self) {
        self.resume().unwrap();
    }
}

fn execute(scene: &Scene, sql: &str) {
    Connection::open(scene.db()).unwrap().execute_batch(sql).unwrap();
}

#[test]
fn plan_run_verify_and_what_cannot_go() {
    let server = Mongodb::start().unwrap();
    let scene = scene_with(&server.url("app"), "types = { \"log.what\" = \"any\" }\n");
    let run = |args: &[&str]| scene.place.run(args);
    let plan = run(&["sync", "plan", "--json"]).succeeded().json();
    shapes::matches("sync plan", &plan);
    let made = |nth: usize| plan["tables"][nth]["sql"][0].as_str().unwrap();
    assert_eq!([made(0), made(1)], ["db.createCollection(\"t\")", "db.createCollection(\"log\")"]);
    assert!(run(&["sync", "plan"]).succeeded().stdout.contains("// rule: log.at its default"));

    let ran = run(&["sync", "run", "--json"]).succeeded().json();
    shapes::matches("sync run", &ran);
    assert_eq!(server.rows(), rows_here(&scene));
    let others = doc! { "update": "t", "updates": [{ "q": {}, "u": { "$set": { "v": 7_i64 } } }] };
    server.run("app", others).unwrap();
    server.run("app", doc! { "insert": "t", "documents": [{ "_id": 100_i64, "v": 1_i64 }] }).unwrap();
    let differs = run(&["sync", "verify", "--json"]);
    assert_eq!(differs.code, 1, "{}", differs.stderr);
    let differs = differs.json();
    let counts = ["missing", "extra", "different"].map(|key| differs[key].as_u64().unwrap());
    assert_eq!(counts, [0, 1, 1], "{differs:#}");
    run(&["sync", "verify", "--repair"]).succeeded();
    run(&["sync", "resync"]).succeeded();
    run(&["sync", "verify"]).succeeded();

    execute(&scene, "INSERT INTO t VALUES (2, 'text'), (3, CAST(x'ff' AS TEXT))");
    scene.replicate_once().unwrap();
    let ran = run(&["sync", "run"]);
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert!(ran.stderr.contains("could not write 1 row"), "{}", ran.stderr);
    assert_eq!(server.rows(), "1:0 2:text");
    let refused = run(&["sync", "refused", "--json"]).json();
    shapes::matches("sync refused", &refused);
    assert_eq!((refused[0]["table"].as_str(), refused[0]["key"][0].as_i64()), (Some("t"), Some(3)));
    let status = run(&["sync", "status", "--json"]);
    assert_eq!(status.code, 1);
    shapes::matches("sync status", &status.json());
}

#[test]
fn it_follows_beside_the_replication_whatever_is_killed() {
    let server = Mongodb::start().unwrap();
    let scene = scene_with(&server.url("app"), "");
    follows_whatever_is_killed(&scene, server, "sync there to mongodb://");
}

/// Documents of a collection that a pull keeps.
const PULLED: [(i64, i64); 2] = [(1, 0), (2, 7)];

fn documents(pairs: impl Iterator<Item = (i64, i64)>) -> Vec<Document> {
    pairs.map(|(n, v)| doc! { "_id": n, "v": v }).collect()
}

#[test]
fn documents_of_a_server_come_into_the_database() {
    let server = Mongodb::start().unwrap();
    server.run("app", doc! { "insert": "t", "documents": documents(PULLED.into_iter()) }).unwrap();
    let scene = pulling(&server.url("app"));
    let run = |args: &[&str]| scene.place.run(args);
    let plan = run(&["sync", "plan", "--json"]).succeeded().json();
    shapes::matches("sync plan", &plan);
    assert_eq!(plan["tables"][0]["sql"][0], "CREATE TABLE \"t\"(\"_id\" INTEGER PRIMARY KEY, \"v\" INTEGER)");
    assert!(run(&["sync", "plan"]).succeeded().stdout.starts_with("-- pg, mongodb://"));
    let ran = run(&["sync", "run", "--json"]).succeeded().json();
    shapes::matches("sync run", &ran);
    assert!(ran["position"].as_str().is_some_and(|position| position.contains('.')), "{ran:#}");
    let same = run(&["sync", "verify", "--json"]).succeeded().json();
    assert_eq!((same["rows"].as_u64(), same["ok"].as_bool()), (Some(2), Some(true)), "{same:#}");
    shapes::matches("sync status", &run(&["sync", "status", "--json"]).succeeded().json());
    // Somebody writes here what is the server's.
    execute(&scene, "UPDATE t SET v = 7 WHERE _id = 1; INSERT INTO t VALUES (100, 1)");
    let differs = run(&["sync", "verify", "--repair", "--json"]);
    assert_eq!(differs.code, 1, "{}", differs.stderr);
    let differs = differs.json();
    assert_eq!(["missing", "extra", "different"].map(|key| differs[key].as_u64().unwrap()), [0, 1, 1]);
    run(&["sync", "run"]).succeeded();
    run(&["sync", "verify"]).succeeded();
    run(&["sync", "resync"]).succeeded();
    run(&["sync", "run"]).succeeded();
    assert_eq!(server.rows(), documents_here(&scene));
    // What cannot be here as it is.
    server.run("app", doc! { "insert": "t", "documents": [{ "_id": 3, "v": "5" }] }).unwrap();
    let ran = run(&["sync", "run"]);
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    let refused = run(&["sync", "refused", "--json"]).json();
    shapes::matches("sync refused", &refused);
    assert_eq!((refused[0]["table"].as_str(), refused[0]["key"][0].as_i64()), (Some("t"), Some(3)));
    shapes::matches("sync forget", &run(&["sync", "forget", "--json"]).succeeded().json());
    run(&["sync", "forget"]).failed_with(&["has not begun"]);
}

fn documents_here(scene: &Scene) -> String {
    let db = Connection::open(scene.db()).unwrap();
    let sql = "SELECT group_concat(_id || ':' || v, ' ') FROM (SELECT * FROM t ORDER BY _id)";
    db.query_row(sql, (), |row| row.get::<_, Option<String>>(0)).unwrap().unwrap_or_default()
}

/// Into a table of the application's own, which calls the key otherwise, too.
#[test]
fn kills_lose_no_document_of_the_server() {
    campaign::rounds("pulls-mongodb", 2, |seed| {
        let server = Mongodb::start().unwrap();
        let insert = |first: i64, last: i64, v: i64| doc! { "insert": "t", "documents": documents((first..=last).map(|n| (n, v))) };
        server.run("app", insert(1_000, 20_000, 5)).unwrap();
        let scene = pulling(&server.url("app"));
        execute(&scene, "CREATE TABLE t(_id INTEGER PRIMARY KEY, v INT, n INT AS (_id))");
        let change = |server: &Mongodb, kind: u8, n: u32, v: u32| {
            let (n, v) = (i64::from(n), i64::from(v % 1_000));
            let gone = |last: i64| doc! { "delete": "t", "deletes": [{ "q": { "_id": { "$gte": n, "$lte": last } }, "limit": 0 }] };
            match kind {
                0 => drop(server.run("app", gone(n + 20)).unwrap()),
                1 => {
                    let update = doc! { "update": "t", "updates": [{ "q": { "_id": { "$gte": n, "$lte": n + 50 } }, "u": { "$set": { "v": v } }, "multi": true }] };
                    server.run("app", update).unwrap();
                }
                _ => server.transaction("app", vec![gone(n + 50), insert(n, n + 50, v)], true).unwrap(),
            }
        };
        let cut_off = |server: &Mongodb| drop(server.run("admin", doc! { "killAllSessions": [] }).unwrap());
        pulls_whatever_is_killed(seed, server, &scene, change, cut_off)
    });
}

#[test]
fn a_database_is_copied_there_and_back() {
    let server = Mongodb::start().unwrap();
    let (place, url) = (crate::Place::new(), server.url("app"));
    let sql = "CREATE TABLE authors(id INTEGER PRIMARY KEY, name TEXT NOT NULL, born REAL, photo BLOB, alive BOOLEAN);
        CREATE TABLE books(isbn TEXT, nth INT, title TEXT, price DECIMAL, PRIMARY KEY (isbn, nth));
        INSERT INTO authors VALUES (1, 'Ada \"A\" O''Hara', 1815.5, x'00ff', 0), (9007199254740993, 'Zoë', NULL, NULL, 1);
        INSERT INTO books VALUES ('x-1', 1, 'a\\b', 7), ('x-1', 2, NULL, 7.25);";
    Connection::open(place.path("app.db")).unwrap().execute_batch(sql).unwrap();
    place.run(&["copy", "app.db", &url]).succeeded();
    let plan = place.run(&["copy", &url, "back.db", "--dry-run", "--json"]).succeeded().json();
    shapes::matches("sync plan", &plan);
    let copied = place.run(&["copy", &url, "back.db", "--json"]).succeeded().json();
    shapes::matches("copy", &copied);
    assert_eq!(
        (copied["ok"].as_bool(), copied["compared_rows"].as_u64()),
        (Some(true), Some(4)),
        "{copied:#}"
    );
    let rows = |file: &str, key: &str| -> Vec<String> {
        let db = Connection::open(place.path(file)).unwrap();
        let sql = format!(
            "SELECT quote({key}) || name || quote(born) || quote(photo) || quote(alive) FROM authors
             UNION ALL SELECT isbn || quote(nth) || quote(title) || quote(price) FROM books ORDER BY 1"
        );
        db.prepare(&sql).unwrap().query_map((), |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
    };
    assert_eq!(rows("back.db", "_id"), rows("app.db", "id"));
    place.run(&["copy", &url, "back.db"]).failed_with(&["the table `authors` is there and has rows"]);
    let one =
        place.run(&["copy", &url, "one.db", "--table", "people", "--rename", "people=authors"]).succeeded();
    assert!(one.stdout.contains("people: 2 rows"), "{}", one.stdout);
    place
        .run(&["copy", &url, "one.db", "--schema", "x"])
        .failed_with(&["MongoDB has none beside the database"]);
}

#[test]
fn mistakes_are_told() {
    let url = "mongodb://nobody:secret@127.0.0.1:1/app?serverSelectionTimeoutMS=500";
    let scene = scene_with(url, "types = { \"t.v\" = \"int\" }\n");
    let run = || scene.place.run(&["sync", "run"]);
    run().failed_with(&["`int`, for `t.v`, is no type", "the types are long, double, number, string"]);
    let text = std::fs::read_to_string(scene.place.path("litekeep.toml")).unwrap();
    std::fs::write(scene.place.path("litekeep.toml"), text.replace("\"int\"", "\"long\"")).unwrap();
    let ran = run().failed_with(&["connect in mongodb://nobody@127.0.0.1:1/app"]);
    assert!(!ran.stderr.contains("secret"), "{}", ran.stderr);
}

/// Goal: what `schema` prints are collections that admit what the database holds, and nothing that its columns do not declare. Method: its
/// validators are given to a server, and a sync fills the collections.
#[test]
fn what_would_be_in_mongodb_is_told() {
    let server = Mongodb::start().unwrap();
    let scene = scene_with(&server.url("app"), "");
    execute(
        &scene,
        "CREATE TABLE pairs(a TEXT, b INT, x REAL NOT NULL, y JSON, PRIMARY KEY (a, b)); INSERT INTO pairs VALUES ('x', 1, 0.5, '{}'), ('x', 2, 1, NULL);
         CREATE UNIQUE INDEX pairs_y ON pairs(y); CREATE TABLE more(id INTEGER PRIMARY KEY REFERENCES t(n), odd INT); INSERT INTO more VALUES (1, 'text')",
    );
    scene.replicate_once().unwrap();
    let path = scene.db();
    let run =
        |args: &[&str]| scene.place.run(&[args, &[path.to_str().unwrap(), "--for", "mongodb"]].concat());
    let lint = run(&["lint", "--json"]).succeeded().json();
    shapes::matches("lint", &lint);
    let schema = run(&["schema", "--json"]).succeeded().json();
    shapes::matches("schema", &schema);
    let text = run(&["schema"]).succeeded().stdout;
    for said in [
        "// rule: more its foreign keys are not translated",
        "db.getCollection(\"pairs\").createIndex({\"y\": 1}, {\"name\": \"pairs_y\", \"unique\": true, \"partialFilterExpression\": {\"y\": {\"$type\":",
    ] {
        assert!(text.contains(said), "{said}: {text}");
    }
    for table in schema["tables"].as_array().unwrap() {
        let name = table["table"].as_str().unwrap();
        let create = table["sql"][0].as_str().unwrap();
        let options = create
            .strip_prefix(&format!("db.createCollection({name:?}, "))
            .unwrap()
            .strip_suffix(')')
            .unwrap();
        let options: serde_json::Value = serde_json::from_str(options).unwrap();
        let Bson::Document(validator) = Bson::try_from(options["validator"].clone()).unwrap() else {
            panic!("{create}")
        };
        server.run("app", doc! { "create": name, "validator": validator }).unwrap();
    }
    scene.place.run(&["sync", "run"]).succeeded();
    assert_eq!(server.count("app", "pairs").unwrap(), 2);
    let foreign = doc! { "insert": "pairs", "documents": [{ "_id": { "a": "y", "b": 1_i64 }, "x": "text", "y": null }] };
    let refused = server.run("app", foreign).unwrap_err();
    assert!(format!("{refused:#}").contains("Document failed validation"), "{refused:#}");
}
