//! The first copy.

use litekeep_schema::portable::Level;
use litekeep_schema::portable::postgres::Options;
use litekeep_sync::{Flow as _, Stage, Target, copy};
use litekeep_sync_postgres::{Address, Postgres};

use crate::scene::{Scene, server};

/// Types as applications declare them, with what they hold.
const ODD: &str = r#"
    CREATE TABLE "Odd ""Types""" (
        id INTEGER PRIMARY KEY AUTOINCREMENT, big BIGINT NOT NULL, small TINYINT DEFAULT 7, name VARCHAR(20) NOT NULL DEFAULT 'it''s',
        price DECIMAL(10,2), ratio REAL, photo BLOB, is_on BOOLEAN DEFAULT 1, born DATE, made DATETIME DEFAULT CURRENT_TIMESTAMP,
        seen TIMESTAMP, doc JSON, anything, string STRING, total INTEGER GENERATED ALWAYS AS (small * 2) STORED, twice AS (small * 2));
    INSERT INTO "Odd ""Types""" (big, name, price, ratio, photo, is_on, born, made, seen, doc, anything, string) VALUES
        (9223372036854775807, 'tab	newline
backslash \ \N end', 10, 0.1, x'00ff5c', 1, '2026-02-28', '2026-02-28 23:59:59', '2026-02-28T23:59:59.120Z', '{"b": 1,  "a": [null]}', 1, 'x'),
        (-9223372036854775808, '', 10.25, -0.0, x'', 0, '0001-01-01', '9999-12-31 00:00:00', '1969-12-31T23:59:59.999Z', '"\u0000"', 'one', ''),
        (0, 'é😀', -1e300, 1e300, NULL, NULL, NULL, NULL, NULL, NULL, x'01', NULL),
        (10010000000000001, 'NULL', 1e20, 9e999, x'61', 1, '2024-02-29', '2024-02-29 12:00:00', '2024-02-29T12:00:00.000Z', '[]', 2.5, 'y');
    CREATE TABLE pairs (a TEXT, b INTEGER, c, PRIMARY KEY (b, a)) WITHOUT ROWID;
    INSERT INTO pairs VALUES ('x', 1, NULL), ('x', 2, NULL), ('y', 1, NULL);
    CREATE UNIQUE INDEX pairs_lower ON pairs(a COLLATE NOCASE, b DESC);
    CREATE TABLE bare (a TEXT, b REAL); INSERT INTO bare VALUES ('x', 1), ('x', 1), (NULL, NULL), ('x', 2);
    CREATE TABLE empty (id INTEGER PRIMARY KEY, at DATETIME, is_on BOOLEAN);
    CREATE VIEW seen AS SELECT 1; CREATE VIRTUAL TABLE words USING fts5(t);"#;

#[test]
fn every_value_arrives_as_it_is() {
    let scene = Scene::new("odd", ODD);
    let push = scene.pushed();
    let kept = push.kept().unwrap();
    assert_eq!((kept.refused, kept.paused.len()), (0, 0));
    assert!(matches!(&kept.stage, Stage::Following { .. }), "{:?}", kept.stage);
    let names: Vec<&str> = kept.tables.iter().map(|table| table.0.source.as_str()).collect();
    assert_eq!(names, ["Odd \"Types\"", "pairs", "bare", "empty"]);
    let types: Vec<&str> = kept.tables[0].0.columns.iter().map(|column| column.pg.name()).collect();
    assert_eq!(
        types,
        [
            "bigint",
            "bigint",
            "bigint",
            "text",
            "numeric",
            "double precision",
            "bytea",
            "boolean",
            "date",
            "timestamp",
            "timestamptz",
            "json",
            "tagged",
            "text",
            "bigint"
        ]
    );
    let server = server();
    scene.assert_equal(&kept.tables, &server);
    // The next row gets the next number, the defaults are there, and what is unique stays so.
    let inserted =
        r#"INSERT INTO "Odd ""Types""" (big) VALUES (1) RETURNING id, small, name, is_on, made IS NOT NULL"#;
    let row: Vec<String> =
        server.query_in("odd", inserted).unwrap().remove(0).into_iter().flatten().collect();
    assert_eq!(row, ["5", "7", "it's", "t", "t"]);
    let twice = server.query_in("odd", "INSERT INTO pairs VALUES ('X', 2)").unwrap_err();
    assert!(format!("{twice:?}").contains("pairs_lower"), "{twice:?}");
}

#[test]
fn a_copy_goes_on_where_it_was_interrupted() {
    let rows = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 50000)";
    let scene = Scene::new(
        "interrupted",
        &format!(
            "CREATE TABLE a(id INTEGER PRIMARY KEY, x TEXT); {rows} INSERT INTO a SELECT i, 'x' || i FROM n;
             CREATE TABLE b(k TEXT PRIMARY KEY, x) WITHOUT ROWID; {rows} INSERT INTO b SELECT 'k' || i, i FROM n;
             CREATE TABLE c(x); {rows} INSERT INTO c SELECT i % 7 FROM n;"
        ),
    );
    // Each step in a process of its own, as it were.
    let mut rows = vec![];
    for _ in 0..100 {
        let mut push = scene.pushing();
        scene.runtime.block_on(async {
            push.step().await.unwrap();
            push.step().await.unwrap();
            if push.kept().is_some_and(|kept| matches!(kept.stage, Stage::Copying { .. })) {
                push.step().await.unwrap();
            }
        });
        match &push.kept().unwrap().stage {
            Stage::Copying { rows: copied, .. } => rows.push(*copied),
            Stage::Following { .. } => break,
        }
        if rows.len() == 4 {
            // The application goes on meanwhile.
            scene.commit("DELETE FROM a WHERE id % 3 = 0; UPDATE b SET x = -x; INSERT INTO c VALUES (100)");
        }
    }
    assert!(rows.len() > 6 && rows.is_sorted() && rows.last() == Some(&150_000), "{rows:?}");
    let push = scene.pushed();
    scene.assert_equal(&push.kept().unwrap().tables, &server());
}

#[test]
fn a_schema_and_other_names_are_used() {
    let scene = Scene::new(
        "renamed",
        "CREATE TABLE t(id INTEGER PRIMARY KEY, x); INSERT INTO t VALUES (1, 'a'), (2, 'b')",
    );
    let options = Options {
        schema: Some("from \"lite\"".into()),
        names: [("t".to_owned(), "T o".to_owned())].into(),
        types: [("t.x".to_owned(), litekeep_schema::portable::postgres::PgType::Tagged)].into(),
    };
    let mut push = scene.pushing_to(&scene.url, options);
    scene.push(&mut push).unwrap();
    scene.commit("UPDATE t SET x = 7 WHERE id = 2; INSERT INTO t VALUES (3, x'00')");
    scene.push(&mut push).unwrap();
    let rows =
        server().query_in("renamed", r#"SELECT id, x FROM "from ""lite"""."T o" ORDER BY id"#).unwrap();
    let values: Vec<String> = rows.into_iter().map(|row| row[1].clone().unwrap()).collect();
    assert_eq!(values, [r#"{"t":"s","v":"a"}"#, r#"{"t":"i","v":"7"}"#, r#"{"t":"b","v":"00"}"#]);
}

/// Goal: each statement that is made for a declared table is one that PostgreSQL takes.
#[test]
fn notes_tell_what_is_not_there() {
    let scene = Scene::new(
        "notes",
        "CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT DEFAULT (lower('X')), b INT CHECK (b > 0), c TEXT PRIMARY_KEY, d DATETIME);
         INSERT INTO t(b, d) SELECT 1, '2026-01-01' UNION ALL SELECT 2, '2026-01-01 00:00:00';
         CREATE INDEX part ON t(a) WHERE b > 1; CREATE INDEX expr ON t(lower(a));
         CREATE TABLE mixed(k TEXT PRIMARY KEY, n INT); INSERT INTO mixed VALUES (NULL, 1), ('x', 'text');",
    );
    let surveyed = copy::survey(&scene.database(), |_| true).unwrap();
    let target = Postgres::new(Address::parse(&scene.url).unwrap(), "n", Options::default());
    let mut notes = vec![];
    for (declared, profiles) in &surveyed {
        notes.extend(target.map(declared, profiles).1);
    }
    let shown: Vec<(String, Level)> = notes.iter().map(|note| (note.to_string(), note.level)).collect();
    let expected = [
        ("t.a: its default `lower('X')` is not translated", Level::Rule),
        ("t.d: holds dates that are not written in one form: text", Level::Info),
        ("t: its CHECK constraints are not translated", Level::Rule),
        ("t: its index `part` is not translated", Level::Rule),
        ("t: its index `expr` is not translated", Level::Rule),
        ("mixed.n: holds values of several types", Level::Info),
        ("mixed.k: is in the primary key and NULL in 1 rows", Level::Rule),
        ("mixed: has no primary key", Level::Info),
    ];
    assert_eq!(shown.len(), expected.len(), "{shown:#?}");
    for ((text, level), (words, expected)) in shown.iter().zip(expected) {
        assert!(text.starts_with(words) && *level == expected, "{text} ({level:?}), not {words}");
    }
}
