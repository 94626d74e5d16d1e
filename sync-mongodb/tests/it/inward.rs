//! What of a pull is MongoDB's own: types that no column declares, keys of all kinds, and what has been pushed coming back.

use litekeep_sync::transfer::Parts;
use litekeep_sync::{Flow as _, Kind, Pull, pull};
use litekeep_testkit::mongodb::bson::oid::ObjectId;
use litekeep_testkit::mongodb::bson::spec::BinarySubtype;
use litekeep_testkit::mongodb::bson::{
    Binary, Bson, DateTime, Decimal128, Document, Regex, Timestamp, Uuid, doc,
};
use litekeep_testkit::mongodb::{Kind as Of, Mongodb};
use rusqlite::Connection;

use crate::pull_scene::Scene;
use crate::pulled;
use crate::scene::Scene as Pushing;
use crate::server::server;
use crate::values::ODD;

fn insert(database: &str, collection: &str, documents: Vec<Document>) {
    for some in documents.chunks(1_000) {
        server().run(database, doc! { "insert": collection, "documents": some.to_vec() }).unwrap();
    }
}

fn decimal(text: &str) -> Decimal128 {
    text.parse().unwrap()
}

/// Each column, with the type and the value that a document has.
fn assert_row(scene: &Scene, of: &str, expected: &[(&str, &str)]) {
    for (column, value) in expected {
        let sql = format!("SELECT typeof({column}) || ' ' || {column} FROM {of}");
        assert_eq!(scene.rows(&sql), [[Some((*value).to_owned())]], "{column}");
    }
}

#[test]
fn every_type_comes_as_it_is() {
    let scene = Scene::with_url(server().url("inward_types"));
    let id = ObjectId::parse_str("0123456789abcdef01234567").unwrap();
    let uuid = Uuid::parse_str("00112233-4455-6677-8899-aabbccddeeff").unwrap();
    let document = doc! {
        "_id": id, "i": 7_i32, "l": i64::MAX, "d": 0.1, "whole": 5.0, "inf": f64::NEG_INFINITY, "nan": f64::NAN,
        "s": "a\tb\0c 😀", "b": Binary { subtype: BinarySubtype::Generic, bytes: vec![0, 255] }, "yes": true, "no": false,
        "at": DateTime::from_millis(1_767_225_600_120), "before": DateTime::from_millis(-1), "dec": decimal("12345678901234567890.10"), "odd": decimal("NaN"),
        "ref": id, "uuid": Binary::from_uuid(uuid), "md5": Binary { subtype: BinarySubtype::Md5, bytes: vec![1] },
        "doc": { "z": 1_i32, "a": [1_i64, null, { "x": 1e300 }] }, "list": ["x", 2.0], "empty": [], "null": null,
        "re": Regex { pattern: "^a".try_into().unwrap(), options: "i".try_into().unwrap() }, "ts": Timestamp { time: 7, increment: 1 }, "min": Bson::MinKey,
        "mixed": "text", "odd.name": 1_i32, "group": "a word of SQL",
    };
    let more = doc! { "_id": ObjectId::from_bytes([255; 12]), "mixed": 5_i32, "i": i64::MIN, "whole": 7.5, "late": "only here" };
    insert("inward_types", "all_types", vec![document.clone(), more]);
    let mut pull = scene.pulled();
    let expected = [
        ("_id", "text 0123456789abcdef01234567"),
        ("i", "integer 7"),
        ("l", "integer 9223372036854775807"),
        ("d", "real 0.1"),
        ("whole", "real 5.0"),
        ("inf", "real -Inf"),
        ("nan", "text NaN"),
        ("hex(s)", "text 610962006320F09F9880"),
        ("hex(b)", "text 00FF"),
        ("yes", "integer 1"),
        ("no", "integer 0"),
        ("at", "text 2026-01-01T00:00:00.120Z"),
        ("before", "text 1969-12-31T23:59:59.999Z"),
        ("dec", "text 12345678901234567890.10"),
        ("odd", "text NaN"),
        ("ref", "text 0123456789abcdef01234567"),
        ("uuid", "text 00112233-4455-6677-8899-aabbccddeeff"),
        ("md5", r#"text {"$binary":{"base64":"AQ==","subType":"05"}}"#),
        (
            "doc",
            r#"text {"z":{"$numberInt":"1"},"a":[{"$numberLong":"1"},null,{"x":{"$numberDouble":"1e300"}}]}"#,
        ),
        ("list", r#"text ["x",{"$numberDouble":"2.0"}]"#),
        ("empty", "text []"),
        ("re", r#"text {"$regularExpression":{"options":"i","pattern":"^a"}}"#),
        ("ts", r#"text {"$timestamp":{"i":1,"t":7}}"#),
        ("\"min\"", r#"text {"$minKey":1}"#),
        ("mixed", "text text"),
        ("\"odd.name\"", "integer 1"),
        ("\"group\"", "text a word of SQL"),
    ];
    let check = |scene: &Scene| {
        assert_row(scene, "all_types WHERE _id LIKE '01%'", &expected);
        assert_row(
            scene,
            "all_types WHERE _id LIKE 'ff%'",
            &[
                ("i", "integer -9223372036854775808"),
                ("whole", "real 7.5"),
                ("mixed", "integer 5"),
                ("late", "text only here"),
            ],
        );
        assert_eq!(scene.rows("SELECT \"null\" FROM all_types WHERE yes"), [[None]]);
    };
    check_refused(&scene, &mut pull, &[]);
    check(&scene);
    let declared = scene.rows("SELECT name || ' ' || type FROM pragma_table_info('all_types') WHERE name IN ('_id', 'i', 'd', 's', 'b', 'yes', 'at', 'doc', 'mixed') ORDER BY cid");
    let declared: Vec<String> = declared.into_iter().map(|row| row[0].clone().unwrap()).collect();
    assert_eq!(
        declared,
        [
            "_id TEXT",
            "i INTEGER",
            "d REAL",
            "s TEXT",
            "b BLOB",
            "yes BOOLEAN",
            "at TEXT",
            "doc TEXT",
            "mixed "
        ]
    );
    // By the stream the values come as by the copy: a document that is new, one that is another, and single fields.
    server()
        .run("inward_types", doc! { "delete": "all_types", "deletes": [{ "q": { "_id": id }, "limit": 1 }] })
        .unwrap();
    scene.pull(&mut pull).unwrap();
    assert_eq!(scene.rows("SELECT count(*) || '' FROM all_types"), [[Some("1".to_owned())]]);
    insert("inward_types", "all_types", vec![document.clone()]);
    scene.pull(&mut pull).unwrap();
    check(&scene);
    let write = |change: Document| {
        let update =
            doc! { "update": "all_types", "updates": [{ "q": { "_id": id }, "u": change, "upsert": true }] };
        server().run("inward_types", update).unwrap();
    };
    write(doc! { "i": 8_i32 });
    scene.pull(&mut pull).unwrap();
    assert_eq!(scene.rows("SELECT s FROM all_types WHERE i = 8"), [[None]]);
    let mut fields = document.clone();
    fields.remove("_id");
    fields.remove("odd.name");
    write(doc! { "$set": fields });
    scene.pull(&mut pull).unwrap();
    write(document.clone());
    scene.pull(&mut pull).unwrap();
    check(&scene);
    let found = scene.runtime.block_on(pull.compare()).unwrap();
    assert!(found.is_equal() && found.rows == 2, "{found:?}");
    assert_eq!(pull.progress().unwrap().paused, []);
}

/// The rows that are refused, each with its key and why.
fn check_refused(scene: &Scene, pull: &mut Pull<pulled::Source>, expected: &[(&str, &str)]) {
    let listed = scene.runtime.block_on(scene.pulling().listed()).unwrap().unwrap();
    let mut listed: Vec<(String, String)> =
        listed.into_iter().map(|row| (row.key.join(" "), row.reason)).collect();
    listed.sort();
    let fits = listed
        .iter()
        .zip(expected)
        .all(|((key, reason), (wanted, why))| key == wanted && reason.contains(why));
    assert!(fits && listed.len() == expected.len(), "{listed:#?}");
    assert_eq!(pull.progress().unwrap().refused, expected.len() as u64);
}

#[test]
fn what_cannot_be_here_exactly_is_listed_until_it_can() {
    let scene = Scene::with_url(server().url("inward_unfit"));
    let run = |command| server().run("inward_unfit", command).unwrap();
    let set = |id: i32, change: Document| {
        run(doc! { "update": "t", "updates": [{ "q": { "_id": id }, "u": change }] })
    };
    let documents = (1..=5).map(|id| doc! { "_id": id, "n": id, "s": "x", "at": DateTime::from_millis(0) });
    insert("inward_unfit", "t", documents.collect());
    let mut pull = scene.pulled();
    // By the stream: a field, a document, a key, and all of it in one transaction.
    set(1, doc! { "$set": { "s": 5, "n": 10 } });
    set(2, doc! { "$set": { "n": "7" } });
    insert(
        "inward_unfit",
        "t",
        vec![
            doc! { "_id": "key", "n": 1 },
            doc! { "_id": 7, "at": DateTime::from_millis(i64::MAX) },
            doc! { "_id": { "a": 1 } },
        ],
    );
    scene.pull(&mut pull).unwrap();
    check_refused(
        &scene,
        &mut pull,
        &[
            ("i1", "`s`: it is a number, and the column holds text"),
            ("i2", "`n`: it is text that is written as a number is"),
            ("i7", "`at`: it is the date"),
            ("s\"key\"", "`_id`: it is text"),
            ("s{\"a\":{\"$numberInt\":\"1\"}}", "`_id`: it is a document, and the other keys are integers"),
        ],
    );
    let rows = || scene.rows("SELECT _id || ' ' || n || ' ' || s FROM t ORDER BY _id");
    let row = |text: &str| vec![Some(text.to_owned())];
    // What was there stays, and the others go on.
    assert_eq!(rows(), [row("1 1 x"), row("2 2 x"), row("3 3 x"), row("4 4 x"), row("5 5 x")]);
    let found = scene.runtime.block_on(pull.compare()).unwrap();
    assert_eq!((found.different, found.missing, found.extra), (2, 3, 0), "{found:?}");
    // A comparison does not take for gone what is refused.
    scene.runtime.block_on(pull.resync()).unwrap();
    scene.pull(&mut pull).unwrap();
    assert_eq!((rows().len(), pull.progress().unwrap().refused), (5, 5));
    // What is mended comes whole, though only a part of it is told; whether it was refused before or just now.
    set(1, doc! { "$set": { "s": "fits" } });
    set(3, doc! { "$set": { "s": 1, "n": 30 } });
    set(3, doc! { "$set": { "s": "also" } });
    set(2, doc! { "$unset": { "n": 1 } });
    run(
        doc! { "delete": "t", "deletes": [{ "q": { "_id": { "$in": ["key", 7, { "a": 1 }] } }, "limit": 0 }] },
    );
    scene.pull(&mut pull).unwrap();
    check_refused(&scene, &mut pull, &[]);
    let rows = scene.rows("SELECT _id || ' ' || coalesce(n, '-') || ' ' || s FROM t ORDER BY _id");
    assert_eq!(rows, [row("1 10 fits"), row("2 - x"), row("3 30 also"), row("4 4 x"), row("5 5 x")]);
    assert!(scene.runtime.block_on(pull.compare()).unwrap().is_equal());
    // A table that is dropped here is made anew from what documents hold now.
    set(5, doc! { "$set": { "s": 5 } });
    scene.pull(&mut pull).unwrap();
    check_refused(&scene, &mut pull, &[("i5", "`s`: it is a number")]);
    Connection::open(scene.database()).unwrap().execute_batch("DROP TABLE t").unwrap();
    scene.runtime.block_on(pull.resync()).unwrap();
    scene.pull(&mut pull).unwrap();
    check_refused(&scene, &mut pull, &[]);
    let types = scene.rows("SELECT group_concat(typeof(s), ' ') FROM (SELECT s FROM t ORDER BY _id)");
    assert_eq!(types, [row("text text text text integer")]);
    set(5, doc! { "$set": { "s": "x" } });
    // By one copy it is told, too.
    set(4, doc! { "$set": { "at": DateTime::from_millis(i64::MAX) } });
    let other = Scene::with_url(scene.url.clone());
    let copied = other.runtime.block_on(other.pulling().copy_once(Parts::All, |_| ())).unwrap();
    let refused: Vec<_> = copied.refused.iter().map(|row| row.key.join(" ")).collect();
    assert_eq!(refused, ["i4"]);
    let found = copied.found.unwrap();
    assert!(found.is_equal() && found.rows == 5, "{found:?}");
}

/// Documents are read in the order of keys of all kinds, page by page, and found by each.
#[test]
fn keys_of_all_types_are_read_in_their_order() {
    let scene = Scene::with_url(server().url("inward_keys"));
    let count = 700;
    let ids = |of: &dyn Fn(i32) -> Bson| {
        (0..count).map(|nth| doc! { "_id": of(nth), "x": nth }).collect::<Vec<_>>()
    };
    let text = |nth: i32| format!("{}'{nth}", if nth % 2 == 0 { "é" } else { "B" });
    let object_id = |nth: i32| ObjectId::from_parts(nth as u32, [7; 5], [1; 3]);
    let uuid = |nth: i32| Binary::from_uuid(Uuid::from_bytes((nth as u128 * 7).to_be_bytes()));
    insert("inward_keys", "t1", ids(&|nth| text(nth).into()));
    insert(
        "inward_keys",
        "t2",
        ids(&|nth| if nth % 3 == 0 { Bson::Int32(nth) } else { Bson::Double(f64::from(nth) + 0.5) }),
    );
    insert("inward_keys", "t3", ids(&|nth| object_id(nth).into()));
    insert("inward_keys", "t4", ids(&|nth| DateTime::from_millis(i64::from(nth)).into()));
    insert(
        "inward_keys",
        "t5",
        ids(&|nth| doc! { "b": text(nth / 10), "a": nth, "d": decimal(&format!("{nth}.10")) }.into()),
    );
    insert("inward_keys", "t6", ids(&|nth| uuid(nth).into()));
    insert(
        "inward_keys",
        "t7",
        ids(&|nth| Binary { subtype: BinarySubtype::Generic, bytes: vec![1; nth as usize] }.into()),
    );
    insert(
        "inward_keys",
        "t8",
        ids(&|nth| match nth % 7 {
            0 => nth.into(),
            1 => text(nth).into(),
            2 => object_id(nth).into(),
            3 => doc! { "z": nth, "a": { "n": nth } }.into(),
            4 => DateTime::from_millis(i64::from(nth)).into(),
            5 => decimal(&format!("{nth}.5")).into(),
            _ => uuid(nth).into(),
        }),
    );
    insert(
        "inward_keys",
        "t9",
        ids(&|nth| if nth % 2 == 0 { doc! { "n": nth }.into() } else { doc! { "m": nth, "n": 1 }.into() }),
    );
    let mut pull = scene.pulled();
    let counts = || -> Vec<String> {
        (1..=9)
            .map(|table| scene.rows(&format!("SELECT count(*) || '' FROM t{table}"))[0][0].clone().unwrap())
            .collect()
    };
    assert_eq!(counts(), vec![count.to_string(); 9]);
    assert_eq!(
        scene.rows("SELECT group_concat(name) FROM pragma_table_info('t5') WHERE pk"),
        [[Some("b,a,d".to_owned())]]
    );
    for table in 1..=9 {
        let name = format!("t{table}");
        let update = doc! { "update": &name, "updates": [{ "q": { "x": { "$mod": [3, 0] } }, "u": { "$inc": { "x": 10_000 } }, "multi": true }] };
        server().run("inward_keys", update).unwrap();
        server()
            .run(
                "inward_keys",
                doc! { "delete": &name, "deletes": [{ "q": { "x": { "$mod": [5, 0] } }, "limit": 0 }] },
            )
            .unwrap();
    }
    scene.pull(&mut pull).unwrap();
    let there: Vec<String> = (1..=9)
        .map(|table| server().count("inward_keys", &format!("t{table}")).unwrap().to_string())
        .collect();
    assert_eq!(counts(), there);
    let found = scene.runtime.block_on(pull.compare()).unwrap();
    assert!(found.is_equal() && found.rows > 9 * 500, "{found:?}");
    // What is otherwise here is found by its key.
    let db = Connection::open(scene.database()).unwrap();
    (1..=9).for_each(|table| {
        db.execute_batch(&format!("UPDATE t{table} SET x = -1 WHERE rowid % 100 = 7")).unwrap()
    });
    let found = scene.runtime.block_on(pull.compare()).unwrap();
    assert!(found.different >= 9 && found.missing + found.extra == 0, "{found:?}");
    scene.runtime.block_on(pull.resync()).unwrap();
    scene.pull(&mut pull).unwrap();
    assert!(scene.runtime.block_on(pull.compare()).unwrap().is_equal());
    check_refused(&scene, &mut pull, &[]);
}

/// Rows of a table as SQL writes them.
fn written(path: &std::path::Path, table: &str, columns: &str) -> Vec<String> {
    let db = Connection::open(path).unwrap();
    let columns: Vec<String> = columns.split(',').map(|column| format!("quote({column})")).collect();
    let sql = format!("SELECT {} FROM {table}", columns.join(" || ' ' || "));
    let mut rows: Vec<String> =
        db.prepare(&sql).unwrap().query_map((), |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap();
    rows.sort();
    rows
}

/// Goal: what litekeep pushes comes back with every value as it was, by the copy and by what follows.
#[test]
fn what_was_pushed_comes_back() {
    let pushing = Pushing::new("inward_back", ODD);
    let mut push = pushing.pushed();
    let back = Scene::with_url(pushing.url.clone());
    let mut pull = back.pulled();
    check_refused(&back, &mut pull, &[]);
    let odd = "id,big,small,name,price,ratio,photo,is_on,born,made,seen,doc,anything,string,exact,fine,total";
    let tables = [(r#""Odd ""`Types""#, odd), ("pairs", "a,b,c"), ("bare", "a,b"), ("empty", "id,at,is_on")];
    let assert_same = || {
        for (table, columns) in tables {
            assert_eq!(
                written(&pushing.database(), table, columns),
                written(&back.database(), table, columns),
                "{table}"
            );
        }
    };
    assert_same();
    pushing.commit(
        r#"UPDATE "Odd ""`Types" SET small = 8, anything = 'now ' || id, made = '2020-01-01 00:00:00'; UPDATE pairs SET c = a;
           INSERT INTO empty VALUES (1, '2026-02-28 00:00:00', 1); INSERT INTO bare VALUES ('new', 2.5); DELETE FROM pairs WHERE b = 2;
           INSERT INTO "Odd ""`Types" (big, name, price, is_on, exact) VALUES (3, 'n', 7, 0, '-0.5')"#,
    );
    pushing.push(&mut push).unwrap();
    back.pull(&mut pull).unwrap();
    check_refused(&back, &mut pull, &[]);
    assert_same();
    pushing.commit(
        "ALTER TABLE pairs ADD COLUMN more TEXT DEFAULT 'all'; UPDATE pairs SET more = 'one' WHERE a = 'y'",
    );
    pushing.push(&mut push).unwrap();
    back.pull(&mut pull).unwrap();
    assert_eq!(
        written(&pushing.database(), "pairs", "a,b,c,more"),
        written(&back.database(), "pairs", "a,b,c,more")
    );
    assert!(back.runtime.block_on(pull.compare()).unwrap().is_equal());
    // The primary keys are those of SQLite.
    let keys = back.rows(r#"SELECT group_concat(name) FROM pragma_table_info('pairs') WHERE pk UNION ALL SELECT name FROM pragma_table_info('Odd "`Types') WHERE pk"#);
    assert_eq!(keys, [[Some("a,b".to_owned())], [Some("id".to_owned())]]);
}

#[test]
fn what_cannot_be_is_refused_with_what_to_do() {
    let guarded = Mongodb::start_as(Of::Guarded).unwrap();
    let run = |database: &str, command| guarded.run(database, command).unwrap();
    run("rights", doc! { "insert": "fine", "documents": [{ "_id": 1, "x": "a" }] });
    let find = doc! { "resource": { "db": "rights", "collection": "" }, "actions": ["find", "listCollections", "listIndexes"] };
    run("admin", doc! { "createRole": "finder", "privileges": [find], "roles": [] });
    run("admin", doc! { "createUser": "reader", "pwd": "secret", "roles": ["finder"] });
    let url = |login: &str, database: &str| format!("{}?authSource=admin", guarded.url_with(login, database));
    let scene = Scene::with_url(url("reader:secret@", "rights"));
    let told =
        |said: String, words: &[&str]| words.iter().for_each(|word| assert!(said.contains(word), "{said}"));
    // Without the right to read changes, and without any.
    let (kind, said) = scene.refused(scene.pulling());
    assert_eq!(kind, Kind::Invalid, "{said}");
    told(
        said,
        &[
            "not authorized on rights",
            "db.grantRolesToUser(\"reader\", [{ role: \"read\", db: \"rights\" }])",
        ],
    );
    let other = Scene::with_url(url("reader:secret@", "other"));
    told(other.refused(other.pulling()).1, &["not authorized on other", "role: \"read\", db: \"other\""]);
    let wrong = Scene::with_url(url("reader:wrong@", "rights"));
    let said = wrong.refused(wrong.pulling()).1;
    assert!(said.contains("db.changeUserPassword(\"reader\"") && !said.contains("wrong"), "{said}");
    // And what it says is enough.
    run("admin", doc! { "grantRolesToUser": "reader", "roles": [{ "role": "read", "db": "rights" }] });
    scene.pull_in_the_end(&mut scene.pulling());
    assert_eq!(scene.rows("SELECT x FROM fine"), [[Some("a".to_owned())]]);

    // Servers that tell no changes.
    let alone = Mongodb::start_as(Of::Alone).unwrap();
    let of_alone = Scene::with_url(alone.url("alone"));
    told(of_alone.refused(of_alone.pulling()).1, &["it is no replica set", "rs.initiate()"]);

    // Collections.
    run("kinds", doc! { "create": "capped", "capped": true, "size": 4096 });
    run("kinds", doc! { "create": "times", "timeseries": { "timeField": "at" } });
    run("kinds", doc! { "create": "seen", "viewOn": "fine", "pipeline": [] });
    run("kinds", doc! { "insert": "cases", "documents": [{ "_id": 1, "Name": 1 }, { "_id": 2, "name": 1 }] });
    let wide: Document = (0..2_001).map(|nth| (format!("f{nth}"), Bson::Int32(nth))).collect();
    run("kinds", doc! { "insert": "wide", "documents": [wide] });
    run("kinds", doc! { "create": "sqlite_x" });
    run("kinds", doc! { "create": "none" });
    let kinds = Scene::with_url(guarded.url("kinds"));
    let of = |tables: &[&str]| kinds.refused(kinds.pulling_from(&kinds.url, tables)).1;
    told(of(&["capped"]), &["`capped` cannot be pulled: is capped", "leave it out"]);
    told(of(&["times"]), &["`times` cannot be pulled: is a time series"]);
    told(of(&["seen"]), &["there is no collection `seen`", "a view is none"]);
    told(of(&["cases"]), &["its fields `Name` and `name` are one column for SQLite"]);
    told(of(&["wide"]), &["more fields than a table of SQLite has columns"]);
    told(of(&["sqlite_x"]), &["SQLite cannot have a table `sqlite_x`", "`rename`"]);
    assert!(!kinds.database().exists(), "what nothing came into is not made");
    // One without documents gets its columns with them.
    let mut none = kinds.pulling_from(&kinds.url, &["none"]);
    kinds.pull_in_the_end(&mut none);
    run(
        "kinds",
        doc! { "insert": "none", "documents": [{ "x": 1 }, { "_id": "key", "y": "b" }, { "_id": "0123456789abcdef01234567" }] },
    );
    kinds.pull(&mut none).unwrap();
    assert_eq!(kinds.rows("SELECT group_concat(length(_id) || ':' || coalesce(x, '') || coalesce(y, ''), ' ') FROM (SELECT * FROM none ORDER BY x DESC)"), [[Some("24:1 3:b".to_owned())]]);
    check_refused(&kinds, &mut none, &[("s\"0123456789abcdef01234567\"", "just as a key of another type")]);
}

#[test]
fn a_copy_has_one_moment_and_keeps_nothing() {
    let scene = Scene::with_url(server().url("inward_moment"));
    insert("inward_moment", "t", (0..30_000).map(|nth| doc! { "_id": nth, "x": "y".repeat(100) }).collect());
    let (mut told, mut changed) = (vec![], false);
    let mut pull = scene.pulling();
    let copied = scene.runtime.block_on(pull.copy_once(Parts::All, |rows| {
        told.push(rows);
        if rows > 0 && !std::mem::replace(&mut changed, true) {
            // What changes meanwhile is of another moment.
            std::thread::spawn(|| {
                server().run("inward_moment", doc! { "delete": "t", "deletes": [{ "q": { "_id": { "$gt": 15_000 } }, "limit": 0 }] }).unwrap();
                server().run("inward_moment", doc! { "insert": "t", "documents": [{ "_id": 50_000, "new": 1 }] }).unwrap();
            })
            .join()
            .unwrap();
        }
    }));
    let copied = copied.unwrap();
    assert!(changed && told.is_sorted() && copied.found.unwrap().is_equal());
    assert_eq!(copied.tables, [("t".to_owned(), 30_000)]);
    let tables =
        scene.rows("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%'");
    assert_eq!(tables, [[Some("t".to_owned())]]);
    // Into tables that the application has made.
    let other = Scene::with_url(scene.url.clone());
    Connection::open(other.database())
        .unwrap()
        .execute_batch("CREATE TABLE t(_id INTEGER PRIMARY KEY, x TEXT, new INT, mine TEXT)")
        .unwrap();
    let settings = pull::Settings {
        name: "copy".into(),
        database: other.database(),
        creates: true,
        cut: litekeep_sync::cut::Cut::default(),
    };
    let copied = other
        .runtime
        .block_on(Pull::new(settings, pulled::source(&other.url, &[])).copy_once(Parts::Rows, |_| ()))
        .unwrap();
    assert!(copied.found.unwrap().is_equal());
    assert_eq!(copied.tables, [("t".to_owned(), 15_002)]);
}
