//! Every value of the first copy and of changes.

use litekeep_sync::Stage;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{Config, TestRunner};
use rusqlite::types::Value as Sql;

use crate::scene::Scene;
use crate::server::server;

/// Types as applications declare them, with what they hold.
const ODD: &str = r#"
    CREATE TABLE "Odd ""`Types" (
        id INTEGER PRIMARY KEY AUTOINCREMENT, big BIGINT NOT NULL, small TINYINT DEFAULT 7, name VARCHAR(20) NOT NULL DEFAULT 'it''s',
        price DECIMAL(10,2), ratio REAL, photo BLOB, is_on BOOLEAN DEFAULT 1, born DATE, made DATETIME DEFAULT CURRENT_TIMESTAMP,
        seen TIMESTAMP, doc JSON, anything, string STRING, total INTEGER GENERATED ALWAYS AS (small * 2) STORED, twice AS (small * 2));
    INSERT INTO "Odd ""`Types" (big, name, price, ratio, photo, is_on, born, made, seen, doc, anything, string) VALUES
        (9223372036854775807, 'tab	newline
backslash \ \N ''end', 10, 0.1, x'00ff5c270a09f09f', 1, '2026-02-28', '2026-02-28 23:59:59', '2026-02-28T23:59:59.120Z', '{"b": 1,  "a": [null]}', 1, 'x'),
        (-9223372036854775808, '', 10.25, 0.0, x'', 0, '0001-01-01', '9999-12-31 00:00:00', '1969-12-31T23:59:59.999Z', '"\u0000"', 'one', ''),
        (0, 'é😀' || char(0) || ' ', -1e30, 1e300, NULL, NULL, NULL, NULL, NULL, NULL, x'01', NULL),
        (10010000000000001, 'NULL', 1e20, 5e-324, x'61', 1, '2024-02-29', '2024-02-29 12:00:00', '2024-02-29T12:00:00.000Z', '[]', 9e999, 'y');
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
    let types: Vec<_> = kept.tables[0].0.columns.iter().map(|column| column.kind.sql()).collect();
    assert_eq!(
        types,
        [
            "bigint",
            "bigint",
            "bigint",
            "longtext",
            "decimal(65,30)",
            "double",
            "longblob",
            "tinyint(1)",
            "date",
            "datetime(6)",
            "datetime(6)",
            "longtext",
            "longtext",
            "longtext",
            "bigint"
        ]
    );
    scene.assert_equal(&kept.tables, &server());
    // The next row gets the next number, the defaults are there, and what is unique stays so.
    let inserted = "INSERT INTO `Odd \"``Types` (big) VALUES (1); \
                    SELECT id, small, name, is_on, made IS NOT NULL FROM `Odd \"``Types` WHERE id = last_insert_id()";
    let row: Vec<String> =
        server().query_in("odd", inserted).unwrap().remove(0).into_iter().flatten().collect();
    assert_eq!(row, ["5", "7", "it's", "1", "1"]);
    server().query_in("odd", "DELETE FROM `Odd \"``Types` WHERE id = 5").unwrap();
    let twice = server().query_in("odd", "INSERT INTO pairs VALUES ('x', 2, NULL)").unwrap_err();
    assert!(format!("{twice:?}").contains("Duplicate entry"), "{twice:?}");
    // The same by statements, where all rows go and come again.
    scene.commit(
        r#"UPDATE "Odd ""`Types" SET small = 8; UPDATE pairs SET c = a; UPDATE bare SET b = b + 1 WHERE a = 'x';
           DELETE FROM bare WHERE a = 'z' AND rowid % 2 = 0"#,
    );
    scene.push(&mut push).unwrap();
    assert_eq!(push.kept().unwrap().refused, 0);
    scene.assert_equal(&push.kept().unwrap().tables, &server());
}

/// What SQLite tells apart in a key is two rows there, too.
#[test]
fn keys_that_look_alike_stay_apart() {
    let words = "('a'), ('a '), ('A'), ('ä'), ('Ä'), ('a' || char(0)), (''), (' '), ('ss'), ('ß'), ('😀'), ('😁'), (char(228)), ('a' || char(776))";
    let scene = Scene::new(
        "alike",
        &format!(
            "CREATE TABLE words(word TEXT PRIMARY KEY) WITHOUT ROWID; INSERT OR IGNORE INTO words VALUES {words};
             CREATE TABLE more(id INTEGER PRIMARY KEY, word TEXT UNIQUE); INSERT INTO more(word) SELECT word FROM words;
             CREATE TABLE bytes(b BLOB PRIMARY KEY) WITHOUT ROWID; INSERT INTO bytes VALUES (x''), (x'00'), (x'0000'), (x'20'), (x'2020'), (x'ff');"
        ),
    );
    let mut push = scene.pushed();
    assert_eq!(push.kept().unwrap().refused, 0);
    scene.assert_equal(&push.kept().unwrap().tables, &server());
    scene.commit("DELETE FROM words WHERE word IN ('a', 'Ä', 'ß'); DELETE FROM bytes WHERE b = x'00'; UPDATE more SET id = id + 1000");
    scene.push(&mut push).unwrap();
    assert_eq!(push.kept().unwrap().refused, 0);
    scene.assert_equal(&push.kept().unwrap().tables, &server());
    // In the order of their bytes on both sides.
    let (settings, mut target) = scene.sides();
    let compared = litekeep_sync::compare::run(&settings, &mut target, false);
    assert!(scene.runtime.block_on(compared).unwrap().is_equal());
}

/// Goal: numbers and texts of any kind arrive bit by bit, by LOAD DATA as by statements. Method: random ones, one commit.
#[test]
fn any_number_and_any_text_arrives() {
    let scene =
        Scene::new("numbers", "CREATE TABLE n(id INTEGER PRIMARY KEY, f REAL, d NUMERIC, t TEXT, b BLOB, a)");
    let strategy = (
        any::<f64>().prop_filter("no NULL, and what has a like", |f| {
            f.is_finite() && f.to_bits() != (-0.0_f64).to_bits()
        }),
        prop_oneof![
            any::<i64>().prop_map(|i| i as f64 / 1024.0),
            (-1e15..1e15),
            Just(f64::MIN_POSITIVE * 1e300)
        ],
        ".{0,40}",
        prop::collection::vec(any::<u8>(), 0..40),
        prop_oneof![any::<i64>().prop_map(Sql::Integer), any::<String>().prop_map(Sql::Text)],
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
    let seldom = push.kept().unwrap().refused;
    assert_eq!(seldom, 0);
    scene.assert_equal(&push.kept().unwrap().tables, &server());
}

#[test]
fn what_a_key_or_a_packet_has_no_room_for_is_refused() {
    let scene = Scene::new(
        "room",
        "CREATE TABLE t(k TEXT PRIMARY KEY, b BLOB) WITHOUT ROWID; INSERT INTO t VALUES ('short', x'00');
         CREATE TABLE f(id INTEGER PRIMARY KEY, f REAL); INSERT INTO f VALUES (1, 9e999), (2, -9e999), (3, 3)",
    );
    let mut push = scene.pushed();
    assert_eq!(push.kept().unwrap().refused, 2, "there is no infinity");
    scene.commit(
        "INSERT INTO t VALUES (printf('%.768c', 'k'), x'01'), (printf('%.769c', 'k'), x'02'), ('large', zeroblob(17000000)), ('fine', zeroblob(5000000))",
    );
    scene.push(&mut push).unwrap();
    let listed = scene.runtime.block_on(async {
        let (_, mut target) = scene.sides();
        litekeep_sync::Target::connect(&mut target).await.unwrap();
        litekeep_sync::Target::listed(&mut target).await.unwrap()
    });
    let reasons: Vec<&str> = listed.iter().map(|row| row.reason.as_str()).collect();
    assert_eq!(listed.len(), 4, "{reasons:?}");
    for words in
        ["infinity has no like there", "more than 768 characters", "`max_allowed_packet` there admits"]
    {
        assert!(reasons.iter().any(|reason| reason.contains(words)), "{words}: {reasons:?}");
    }
    let there = server().query_in("room", "SELECT length(k), length(b) FROM t ORDER BY k").unwrap();
    let there: Vec<String> = there.into_iter().flatten().flatten().collect();
    assert_eq!(there, ["4", "5000000", "768", "1", "5", "1"]);
    scene.commit("DELETE FROM t WHERE length(k) > 768 OR length(b) > 6000000; UPDATE f SET f = id");
    scene.push(&mut push).unwrap();
    assert_eq!(push.kept().unwrap().refused, 0);
    scene.assert_equal(&push.kept().unwrap().tables, &server());
}
