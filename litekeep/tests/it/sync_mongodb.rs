//! Goal: MongoDB is kept in step by the same commands and beside the same writers as PostgreSQL. Method: as in `sync`.

use litekeep_testkit::mongodb::Mongodb;
use litekeep_testkit::mongodb::bson::{Bson, Document, doc};
use rusqlite::Connection;

use crate::scene::Scene;
use crate::shapes;
use crate::sync::{Server, follows_whatever_is_killed, rows_here, scene_with};

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
