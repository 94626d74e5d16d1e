//! Every value of the first copy.

use litekeep_sync::Stage;

use crate::scene::Scene;
use crate::server::server;

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
    let types: Vec<&str> = kept.tables[0].0.columns.iter().map(|column| column.kind.name()).collect();
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
