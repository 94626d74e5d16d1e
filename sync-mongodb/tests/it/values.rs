//! Every value of the first copy and of changes.

use litekeep_sync::Stage;
use mongodb::bson::{Bson, doc};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{Config, TestRunner};
use rusqlite::types::Value as Sql;

use crate::scene::Scene;
use crate::server::{self, server};

/// Types as applications declare them, with what they hold.
pub(crate) const ODD: &str = r#"
    CREATE TABLE "Odd ""`Types" (
        id INTEGER PRIMARY KEY AUTOINCREMENT, big BIGINT NOT NULL, small TINYINT DEFAULT 7, name VARCHAR(20) NOT NULL DEFAULT 'it''s',
        price DECIMAL(10,2), ratio REAL, photo BLOB, is_on BOOLEAN DEFAULT 1, born DATE, made DATETIME DEFAULT CURRENT_TIMESTAMP,
        seen TIMESTAMP, doc JSON, anything, string STRING, exact DECIMAL_TEXT, fine DATETIME,
        total INTEGER GENERATED ALWAYS AS (small * 2) STORED, twice AS (small * 2));
    INSERT INTO "Odd ""`Types" (big, name, price, ratio, photo, is_on, born, made, seen, doc, anything, string, exact, fine) VALUES
        (9223372036854775807, 'tab	newline
backslash \ \N ''end', 10, 0.1, x'00ff5c270a09f09f', 1, '2026-02-28', '2026-02-28 23:59:59', '2026-02-28T23:59:59.120Z', '{"b": 1,  "a": [null]}', 1, 'x', '10.20', '2026-02-28 23:59:59.123456'),
        (-9223372036854775808, '', 10.25, 0.0, x'', 0, '0001-01-01', '9999-12-31 00:00:00', '1969-12-31T23:59:59.999Z', '"\u0000"', 'one', '', '-0.000001', NULL),
        (0, 'é😀' || char(0) || ' ', -1e30, 1e300, NULL, NULL, NULL, NULL, NULL, NULL, x'01', NULL, 'no number', '2026-02-28 23:59:59.000001'),
        (10010000000000001, 'NULL', 1e20, 5e-324, x'61', 1, '2024-02-29', '2024-02-29 12:00:00', '2024-02-29T12:00:00.000Z', '[]', 9e999, 'y', '1.0', NULL);
    INSERT INTO "Odd ""`Types" (id, big) VALUES (0, 0), (-5, 1);
    CREATE TABLE pairs (a TEXT, b INTEGER, c, PRIMARY KEY (b, a)) WITHOUT ROWID;
    INSERT INTO pairs VALUES ('x', 1, NULL), ('x', 2, NULL), ('y', 1, NULL);
    CREATE UNIQUE INDEX pairs_desc ON pairs(a, b DESC); CREATE INDEX pairs_lower ON pairs(a COLLATE NOCASE);
    CREATE TABLE bare (a TEXT, b REAL); INSERT INTO bare VALUES ('x', 1), ('x', 1), (NULL, NULL), ('x', 2), ('z', 0.0), ('z', 1e-300);
    CREATE TABLE empty (id INTEGER PRIMARY KEY, at DATETIME, is_on BOOLEAN);
    CREATE VIEW seen AS SELECT 1; CREATE VIRTUAL TABLE words USING fts5(t);"#;

#[test]
fn every_value_arrives_as_it_is() {
    let scene = Scene::new("odd", ODD);
    let mut push = scene.pushed();
    let kept = push.kept().unwrap().clone();
    assert_eq!((kept.refused, kept.paused.len()), (0, 0));
    assert!(matches!(&kept.stage, Stage::Following { .. }), "{:?}", kept.stage);
    let names: Vec<&str> = kept.tables.iter().map(|table| table.0.source.as_str()).collect();
    assert_eq!(names, ["Odd \"`Types", "pairs", "bare", "empty"]);
    let types: Vec<_> = kept.tables[0].0.columns.iter().map(|column| column.kind.name()).collect();
    assert_eq!(
        types,
        [
            "long", "long", "long", "string", "number", "double", "binary", "bool", "date", "date", "date",
            "string", "any", "string", "decimal", "string", "long"
        ]
    );
    scene.assert_equal(&kept.tables, &server());
    let first = server().documents("odd", "Odd \"`Types").unwrap().swap_remove(2);
    let exact: mongodb::bson::Decimal128 = "10.20".parse().unwrap();
    assert_eq!(first.get("exact"), Some(&Bson::Decimal128(exact)));
    assert_eq!(
        first.get_datetime("seen").unwrap().try_to_rfc3339_string().unwrap(),
        "2026-02-28T23:59:59.12Z"
    );
    assert_eq!(
        (first.get_i64("_id").unwrap(), first.get("id"), first.get_bool("is_on").unwrap()),
        (1, None, true)
    );
    let pair = server().documents("odd", "pairs").unwrap().swap_remove(0);
    assert_eq!(pair, doc! { "_id": { "b": 1_i64, "a": "x" }, "c": null });
    // What is unique stays so, and the order of an index is as it was.
    let twice =
        doc! { "insert": "pairs", "documents": [{ "_id": { "b": 1_i64, "a": "x", "more": 1 }, "c": null }] };
    let twice = server().run("odd", twice).unwrap_err().to_string();
    assert!(twice.contains("E11000") && twice.contains("pairs_desc"), "{twice}");
    // All rows go and come again.
    scene.commit(
        r#"UPDATE "Odd ""`Types" SET small = 8; UPDATE pairs SET c = a; UPDATE bare SET b = b + 1 WHERE a = 'x';
           DELETE FROM bare WHERE a = 'z' AND rowid % 2 = 0"#,
    );
    scene.push(&mut push).unwrap();
    assert_eq!(push.kept().unwrap().refused, 0);
    scene.assert_equal(&push.kept().unwrap().tables, &server());
}

/// What SQLite tells apart in a key is two documents there, too, and both sides have them in one order.
#[test]
fn keys_that_look_alike_stay_apart() {
    let words = "('a'), ('a '), ('A'), ('ä'), ('Ä'), ('a' || char(0)), (''), (' '), ('ss'), ('ß'), ('😀'), ('😁'), (char(228)), ('a' || char(776))";
    let scene = Scene::new(
        "alike",
        &format!(
            "CREATE TABLE words(word TEXT PRIMARY KEY) WITHOUT ROWID; INSERT OR IGNORE INTO words VALUES {words};
             CREATE TABLE more(id INTEGER PRIMARY KEY, word TEXT UNIQUE); INSERT INTO more(word) SELECT word FROM words;
             INSERT INTO more VALUES (1000, NULL), (1001, NULL);
             CREATE TABLE bytes(b BLOB PRIMARY KEY) WITHOUT ROWID; INSERT INTO bytes VALUES (x''), (x'00'), (x'0000'), (x'20'), (x'2020'), (x'ff');
             CREATE TABLE mixed(a, b, PRIMARY KEY (a, b)) WITHOUT ROWID;
             INSERT INTO mixed VALUES (1, 'x'), (1.5, x'02'), (1.5, x'0101'), (2, 'y'), ('2', 0), (x'02', ''), (x'0101', 7), (-1e300, 9223372036854775807);
             CREATE TABLE days(day DATE PRIMARY KEY, is_on BOOLEAN UNIQUE); INSERT INTO days VALUES ('2026-01-01', 1), ('1969-01-01', 0), ('0001-01-01', NULL), ('2027-01-01', NULL);"
        ),
    );
    let mut push = scene.pushed();
    assert_eq!(push.kept().unwrap().refused, 0);
    scene.assert_equal(&push.kept().unwrap().tables, &server());
    scene.commit(
        "DELETE FROM words WHERE word IN ('a', 'Ä', 'ß'); DELETE FROM bytes WHERE b = x'00'; UPDATE more SET id = id + 5000;
         DELETE FROM mixed WHERE a = 1.5 AND b = x'02'; UPDATE days SET is_on = 2 WHERE is_on = 1; UPDATE days SET is_on = 1 WHERE is_on = 0; INSERT INTO days VALUES ('soon', 7)",
    );
    scene.push(&mut push).unwrap();
    assert_eq!(push.kept().unwrap().refused, 0);
    scene.assert_equal(&push.kept().unwrap().tables, &server());
    let (settings, mut target) = scene.sides();
    let compared = litekeep_sync::compare::run(&settings, &mut target, false);
    let found = scene.runtime.block_on(compared).unwrap();
    assert!(found.is_equal(), "{found:#?}");
}

/// Goal: numbers and texts of any kind arrive bit by bit. Method: random ones, by the first copy and by a commit.
#[test]
fn any_number_and_any_text_arrives() {
    let scene =
        Scene::new("numbers", "CREATE TABLE n(id INTEGER PRIMARY KEY, f REAL, d NUMERIC, t TEXT, b BLOB, a)");
    let strategy = (
        any::<f64>().prop_filter("SQLite makes NULL of it", |f| !f.is_nan()),
        any::<f64>().prop_filter("SQLite makes NULL of it", |f| !f.is_nan()),
        ".{0,40}",
        prop::collection::vec(any::<u8>(), 0..40),
        prop_oneof![
            any::<i64>().prop_map(Sql::Integer),
            any::<String>().prop_map(Sql::Text),
            any::<f64>().prop_filter("NULL", |f| !f.is_nan()).prop_map(Sql::Real)
        ],
    );
    let mut runner = TestRunner::new(Config::default());
    let mut rows =
        move || (0..1500).map(|_| strategy.new_tree(&mut runner).unwrap().current()).collect::<Vec<_>>();
    let fill = |first: i64, rows: Vec<_>| {
        scene.write(|db| {
            let tx = db.transaction().unwrap();
            for (nth, (f, d, t, b, a)) in rows.into_iter().enumerate() {
                let row: (i64, f64, f64, String, Vec<u8>, Sql) = (first + nth as i64, f, d, t, b, a);
                tx.execute("INSERT INTO n VALUES (?1, ?2, ?3, ?4, ?5, ?6)", row).unwrap();
            }
            tx.commit().unwrap();
        });
    };
    fill(0, rows());
    let mut push = scene.pushed();
    assert_eq!(push.kept().unwrap().refused, 0);
    scene.assert_equal(&push.kept().unwrap().tables, &server());
    fill(10_000, rows());
    scene.push(&mut push).unwrap();
    assert_eq!(push.kept().unwrap().refused, 0);
    scene.assert_equal(&push.kept().unwrap().tables, &server());
}

#[test]
fn what_a_document_has_no_room_for_is_refused() {
    let scene = Scene::new(
        "room",
        "CREATE TABLE t(k TEXT PRIMARY KEY, b BLOB); INSERT INTO t VALUES ('short', x'00'), ('first', zeroblob(16777216))",
    );
    let mut push = scene.pushed();
    assert_eq!(push.kept().unwrap().refused, 1);
    scene.commit("INSERT INTO t VALUES ('large', zeroblob(17000000)), ('fine', zeroblob(16700000)), ('also', zeroblob(16700000)), (NULL, x'01')");
    scene.push(&mut push).unwrap();
    let listed = server::listed(&server(), "room");
    let has = |words: &str| listed.iter().filter(|row| row.contains(words)).count();
    assert_eq!(
        (has("16777216 at most"), has("`k`: it is in the primary key and NULL")),
        (2, 1),
        "{listed:?}"
    );
    assert_eq!(server::count(&server(), "room", "t"), 3);
    scene.commit("DELETE FROM t WHERE k IS NULL OR length(b) > 16777000; UPDATE t SET b = x'02'");
    scene.push(&mut push).unwrap();
    assert_eq!((push.kept().unwrap().refused, server::listed(&server(), "room").len()), (0, 0));
    scene.assert_equal(&push.kept().unwrap().tables, &server());
}

/// Goal: what others have made of a document is told, and mended.
#[test]
fn what_only_looks_the_same_is_told() {
    let scene = Scene::new(
        "looks",
        "CREATE TABLE t(id INTEGER PRIMARY KEY, n INT, is_on BOOLEAN, at DATETIME, x TEXT);
         INSERT INTO t VALUES (1, 1, 1, '2026-01-01 00:00:00', 'a'), (2, 1, 1, '2026-01-01 00:00:00', 'a'), (3, 1, 1, '2026-01-01 00:00:00', 'a'),
             (4, 1, 1, '2026-01-01 00:00:00', 'a'), (5, 1, 1, '2026-01-01 00:00:00', 'a'), (6, 1, 1, '2026-01-01 00:00:00', 'a')",
    );
    scene.pushed();
    let change = |id: i64, set| server::update(&server(), "looks", "t", doc! { "_id": id }, set);
    change(1, doc! { "n": 1.0 });
    change(2, doc! { "n": 1_i32 });
    change(3, doc! { "is_on": 1_i64 });
    change(4, doc! { "at": mongodb::bson::DateTime::from_millis(1_767_225_600_001) });
    change(5, doc! { "more": "theirs" });
    let unset = doc! { "update": "t", "updates": [{ "q": { "_id": 6 }, "u": { "$unset": { "x": 1 } } }] };
    server().run("looks", unset).unwrap();
    let compared = |mend: bool| {
        let (settings, mut target) = scene.sides();
        scene.runtime.block_on(litekeep_sync::compare::run(&settings, &mut target, mend)).unwrap()
    };
    let told: Vec<String> =
        compared(false).told.iter().map(|one| format!("{} {}", one.key[0], one.what)).collect();
    assert_eq!(told, ["i1 n", "i2 n", "i3 is_on", "i4 at", "i6 x"]);
    compared(true);
    let push = scene.pushed();
    scene.assert_equal(&push.kept().unwrap().tables, &server());
}
