//! What of a pull is MySQL's and MariaDB's own: their types, their log, and their rights.

use litekeep_sync::cut::Cut;
use litekeep_sync::{Flow as _, Kind};
use litekeep_sync_mysql::source::Wanted;
use litekeep_sync_mysql::{Address, MysqlSource};
use litekeep_testkit::process::eventually;
use rusqlite::Connection;
use std::time::Duration;

use crate::pull_scene::Scene;
use crate::server::{Server, server, start};

pub(crate) use litekeep_sync_mysql::MysqlSource as Source;

pub(crate) use crate::pulled_in_sql::{
    ID, add_orders, add_parts, add_states, churn, delete_order, make, make_notes, make_tables, name_orders,
    rename_order, there,
};

pub(crate) fn source(url: &str, tables: &[&str]) -> Source {
    let tables = tables.iter().map(|table| (*table).to_owned()).collect();
    MysqlSource::new(Address::parse(url).unwrap(), Wanted { tables, ..Wanted::default() })
}

/// Of a server that has just begun.
pub(crate) const DATABASE: &str = "test";
pub(crate) const TABLES: &str =
    "CREATE TABLE orders(id bigint PRIMARY KEY, name varchar(60) UNIQUE, body blob, amount decimal(12, 2));
     CREATE TABLE parts(a int, b varchar(9), `long` longtext, PRIMARY KEY(a, b));";
/// Their columns as text.
pub(crate) const ORDERS: &str = "CAST(id AS CHAR), name, lower(hex(body)), CAST(amount AS CHAR)";
pub(crate) const PARTS: &str = "CAST(a AS CHAR), b, `long`";
pub(crate) const NAMES: &str = "CAST(id AS CHAR), name";
pub(crate) const LONG: &str = "`long`";
/// So that their changes come with all values.
pub(crate) const WHOLE: &str = "";
pub(crate) const BYTES: &str = "blob";

/// Nothing is left of a sync on the server.
pub(crate) fn end(_: &str) {}

/// How often rows were read by their keys: only litekeep prepares statements.
pub(crate) fn lookups(server: &Server, _: &str) -> u64 {
    let rows = server.query("SHOW GLOBAL STATUS LIKE 'Com_stmt_execute'").unwrap();
    rows[0][1].as_ref().unwrap().parse().unwrap()
}

/// Orders of these numbers.
pub(crate) fn orders(first: u32, last: u32) -> String {
    format!("INSERT INTO orders SELECT i, concat('n', i), NULL, i FROM {}", series(first, last))
}

/// Parts of these numbers, with something long.
pub(crate) fn parts(first: u32, last: u32, long: &str) -> String {
    format!("INSERT INTO parts SELECT i, 'b', {long} FROM {}", series(first, last))
}

fn series(first: u32, last: u32) -> String {
    let digits = "(SELECT 0 d UNION SELECT 1 UNION SELECT 2 UNION SELECT 3 UNION SELECT 4 UNION SELECT 5 UNION SELECT 6 UNION SELECT 7 UNION SELECT 8 UNION SELECT 9)";
    format!(
        "(SELECT a.d + 10 * b.d + 100 * c.d + 1000 * e.d + 10000 * f.d i FROM {digits} a, {digits} b, {digits} c, {digits} e, {digits} f) s \
         WHERE i BETWEEN {first} AND {last}"
    )
}

/// Statements that are one transaction.
pub(crate) fn transaction(statements: &str) -> String {
    format!("START TRANSACTION; {statements} COMMIT;")
}

/// A change.
pub(crate) fn statement(random: &mut fastrand::Rng) -> String {
    let (id, other) = (random.u32(0..200), random.u32(0..200));
    match random.u32(0..100) {
        0..35 => format!(
            "INSERT IGNORE INTO orders VALUES({id}, 'n{}', x'{:02x}', {other}.50);",
            random.u64(..),
            random.u8(..)
        ),
        35..45 => format!("UPDATE orders SET amount = NULL, body = NULL WHERE id = {id};"),
        45..55 => format!("DELETE FROM orders WHERE id BETWEEN {id} AND {id} + 3;"),
        // The row goes where no other is.
        55..62 => format!("UPDATE IGNORE orders SET id = {other} WHERE id = {id};"),
        62..80 => format!(
            "INSERT INTO parts VALUES({id}, 'b{}', concat(repeat('x', 9000), {other})) ON DUPLICATE KEY UPDATE `long` = VALUES(`long`);",
            random.u32(0..3)
        ),
        80..92 => format!("UPDATE IGNORE parts SET a = {other} WHERE a = {id};"),
        92..96 => format!("DELETE FROM parts WHERE a = {id};"),
        // A part of a transaction that is taken back.
        96..98 => format!("SAVEPOINT s; DELETE FROM orders WHERE id = {id}; ROLLBACK TO s;"),
        98 => "TRUNCATE parts; START TRANSACTION;".to_owned(),
        // Two exchange what is unique.
        _ => format!(
            "UPDATE orders SET name = concat(name, 'x') WHERE id = {id}; \
             UPDATE orders o JOIN orders p ON p.id = {other} SET o.name = concat(left(p.name, 40), 'y', o.id) WHERE o.id = {id};"
        ),
    }
}

/// A table with a column of every type, and rows of usual and unusual values.
pub(crate) const ALL_TYPES: &str = "CREATE TABLE all_types(id int PRIMARY KEY, t1 tinyint(1), i3 mediumint, u8 bigint unsigned, i8 bigint, f float, d double, n decimal(30, 10), n2 decimal(5, 2),
            c char(5), v varchar(300), tx text CHARACTER SET utf8mb4, b binary(4), vb varbinary(300), bl mediumblob, bi bit(10), da date, ti time, t3 time(3), dt datetime, d6 datetime(6),
            ts timestamp NULL, t6 timestamp(6) NULL, y year, u3 int unsigned, e enum('sad', 'glad', 'it''s'), s set('a', 'b', 'c'), j json, g point,
            l varchar(9) CHARACTER SET latin1, cy varchar(9) CHARACTER SET cp1251, u16 varchar(9) CHARACTER SET utf16, k varchar(9) CHARACTER SET koi8r,
            e2 enum('é', 'ö') CHARACTER SET latin1, st int AS (id + 1) STORED, vi int AS (id + 2) VIRTUAL);
         SET time_zone = '+02:00';
         INSERT INTO all_types(id, t1, i3, u8, i8, f, d, n, n2, c, v, tx, b, vb, bl, bi, da, ti, t3, dt, d6, ts, t6, y, u3, e, s, j, g, l, cy, u16, k, e2) VALUES(1, 1, -8388608, 18446744073709551615, -9223372036854775808, 0.1, 1e300, 12345678901234567890.10, -0.05,
            'c ', 'v ', 'a\\tb\\nc\\\\d 😀', x'0100', x'00ff', x'ff00', b'1000000001', '2026-02-28', '-838:59:59', '23:59:59.5', '2026-02-28 01:02:03', '2026-02-28 01:02:03.000004',
            '2026-02-28 01:02:03', '2026-02-28 01:02:03.5', 2155, 4294967295, 'it''s', 'a,c', '{\"a\": [1, 2.50, \"x\\\\n\"], \"b\": null}', ST_GeomFromText('POINT(1 2)'),
            'é€', 'Привет', 'ж😀', 'мир', 'ö');
         SET sql_mode = '';
         INSERT INTO all_types(id, da, dt, ts, t1, u8, c, b, e, s, y, ti) VALUES(2, '0000-00-00', '0000-00-00 00:00:00', '0000-00-00 00:00:00', 127, 7, '', '', '', '', 0, '00:00:00'),
            (3, '2026-00-00', '9999-12-31 23:59:59', NULL, 0, 9223372036854775807, 'ende', x'01020304', 'sad', 'b', 1901, '-00:00:01');";

#[test]
fn every_type_comes_as_it_is() {
    let scene = Scene::new("inward_types", ALL_TYPES);
    let mut pull = scene.pulled();
    let json = match server().is_mariadb() {
        true => r#"text {"a": [1, 2.50, "x\n"], "b": null}"#,
        false => r#"text {"a": [1, 2.5, "x\n"], "b": null}"#,
    };
    let expected = [
        ("t1", "integer 1"),
        ("i3", "integer -8388608"),
        ("u8", "text 18446744073709551615"),
        ("i8", "integer -9223372036854775808"),
        ("f", "real 0.1"),
        ("d", "real 1.0e+300"),
        ("n", "text 12345678901234567890.1000000000"),
        ("n2", "text -0.05"),
        ("c", "text c"),
        ("v", "text v "),
        ("tx", "text a\tb\nc\\d 😀"),
        ("hex(b)", "text 01000000"),
        ("hex(vb)", "text 00FF"),
        ("hex(bl)", "text FF00"),
        ("hex(bi)", "text 0201"),
        ("da", "text 2026-02-28"),
        ("ti", "text -838:59:59"),
        ("t3", "text 23:59:59.500"),
        ("dt", "text 2026-02-28 01:02:03.000000"),
        ("d6", "text 2026-02-28 01:02:03.000004"),
        ("ts", "text 2026-02-27T23:02:03.000000Z"),
        ("t6", "text 2026-02-27T23:02:03.500000Z"),
        ("y", "integer 2155"),
        ("u3", "integer 4294967295"),
        ("e", "text it's"),
        ("s", "text a,c"),
        ("j", json),
        ("hex(g)", "text 000000000101000000000000000000F03F0000000000000040"),
        ("l", "text é€"),
        ("cy", "text Привет"),
        ("u16", "text ж😀"),
        ("k", "text мир"),
        ("e2", "text ö"),
        ("st", "integer 2"),
    ];
    let check = |scene: &Scene| {
        for (column, value) in expected {
            let sql = format!("SELECT typeof({column}) || ' ' || {column} FROM all_types WHERE id = 1");
            assert_eq!(scene.rows(&sql), [[Some(value.to_owned())]], "{column}");
        }
        let odd = scene.rows("SELECT da, dt, ts, t1 || ' ' || u8, c, hex(b), e, s, y || '', ti FROM all_types ORDER BY id LIMIT 2 OFFSET 1");
        let text = |row: [&str; 10]| row.map(|text| Some(text.to_owned())).to_vec();
        let zero = "0000-00-00 00:00:00";
        assert_eq!(
            odd[0],
            text([
                "0000-00-00",
                "0000-00-00 00:00:00.000000",
                zero,
                "127 7",
                "",
                "00000000",
                "",
                "",
                "0",
                "00:00:00"
            ])
        );
        let mut last = text([
            "2026-00-00",
            "9999-12-31 23:59:59.000000",
            "",
            "0 9223372036854775807",
            "ende",
            "01020304",
            "sad",
            "b",
            "1901",
            "-00:00:01",
        ]);
        last[2] = None;
        assert_eq!(odd[1], last);
        assert_eq!(
            scene.rows("SELECT 1 || '' FROM pragma_table_info('all_types') WHERE name = 'vi'").len(),
            0
        );
    };
    check(&scene);
    // By the log the values come as by the copy.
    server()
        .query_in(
            "inward_types",
            "SET sql_mode = ''; CREATE TABLE kept LIKE all_types; ALTER TABLE kept DROP COLUMN st, DROP COLUMN vi;
             INSERT INTO kept SELECT id, t1, i3, u8, i8, f, d, n, n2, c, v, tx, b, vb, bl, bi, da, ti, t3, dt, d6, ts, t6, y, u3, e, s, j, g, l, cy, u16, k, e2 FROM all_types;
             DELETE FROM all_types;
             INSERT INTO all_types(id, t1, i3, u8, i8, f, d, n, n2, c, v, tx, b, vb, bl, bi, da, ti, t3, dt, d6, ts, t6, y, u3, e, s, j, g, l, cy, u16, k, e2) SELECT * FROM kept",
        )
        .unwrap();
    scene.pull(&mut pull).unwrap();
    assert_eq!(pull.progress().unwrap().paused, []);
    check(&scene);
    let found = scene.runtime.block_on(pull.compare()).unwrap();
    assert!(found.is_equal() && found.rows == 3, "{found:?}");
}

/// A document that comes by the log is the text that the server makes of it.
#[test]
fn documents_come_as_the_server_writes_them() {
    let scene = Scene::new("inward_json", "CREATE TABLE docs(id int PRIMARY KEY, doc json)");
    let mut pull = scene.pulled();
    let long = "x".repeat(70_000);
    let mut documents: Vec<String> = [
        "null",
        "true",
        "[]",
        "{}",
        "0",
        "-1",
        "32767",
        "-32769",
        "65536",
        "-2147483649",
        "9223372036854775807",
        "18446744073709551615",
        "1.0",
        "0.1",
        "1e20",
        "1e-7",
        "123456789012345680000",
        "1.7976931348623157e308",
        "1000000000000000.5",
        "100000000000000000000",
        "0.000001",
        "1e15",
        "999999999999999.9",
        r#""a\"\\\/\b\f\n\r\té\u0001😀""#,
        r#"{"bb": 1, "a": {"c": [1, [2, {"d": null}]]}, "": 2}"#,
        "[70000, 3.14, -0.0, 1e16, 12345678.9]",
    ]
    .map(str::to_owned)
    .to_vec();
    documents.push(format!(r#"{{"long": "{long}", "n": [100000, true]}}"#));
    documents.push(format!("[{}]", (0..20_000).map(|n| n.to_string()).collect::<Vec<_>>().join(", ")));
    for (id, document) in documents.iter().enumerate() {
        let sql = format!("INSERT INTO docs VALUES({id}, '{}')", document.replace('\\', "\\\\"));
        server().query_in("inward_json", &sql).unwrap();
    }
    if !server().is_mariadb() {
        // Types that documents have by functions only.
        server().query_in("inward_json", "INSERT INTO docs VALUES(100, JSON_ARRAY(CAST('2026-02-28' AS date), CAST('2026-02-28 01:02:03.5' AS datetime(6)), CAST('-12:30:00' AS time), CAST(1.50 AS decimal(5,2)), CAST(x'00ff' AS binary), CAST(repeat('x', 100) AS binary), CAST(18446744073709551615 AS unsigned)))").unwrap();
    }
    scene.pull(&mut pull).unwrap();
    let mut there =
        server().query_in("inward_json", "SELECT CAST(id AS char), CAST(doc AS char) FROM docs").unwrap();
    let mut here = scene.rows("SELECT CAST(id AS TEXT), doc FROM docs");
    there.sort();
    here.sort();
    for (there, here) in there.iter().zip(&here) {
        assert_eq!(there, here);
    }
    assert_eq!(there.len(), here.len());
    assert!(scene.runtime.block_on(pull.compare()).unwrap().is_equal());
}

/// Rows are read in the order of keys of all kinds, and go on after each.
#[test]
fn keys_of_all_types_are_read_in_their_order() {
    let scene = Scene::new(
        "inward_keys",
        "CREATE TABLE t1(k varchar(20) PRIMARY KEY, x int); CREATE TABLE t2(k bigint unsigned PRIMARY KEY, x int);
         CREATE TABLE t3(a enum('z', 'y', 'x'), b datetime(3), x int, PRIMARY KEY(a, b)); CREATE TABLE t4(k binary(3) PRIMARY KEY, x int);
         CREATE TABLE t5(k timestamp(6) PRIMARY KEY, x int); CREATE TABLE t6(a decimal(10,3), b bit(12), x int, PRIMARY KEY(a, b));
         CREATE TABLE t7(a int NOT NULL, b varchar(20) CHARACTER SET latin1 NOT NULL, x int, UNIQUE KEY(b, a));",
    );
    let count = 1_500;
    let series = series(1, count);
    for statement in [
        format!("INSERT INTO t1 SELECT concat(if(i % 2, 'a', 'B'), '''', i), i FROM {series}"),
        format!("INSERT INTO t2 SELECT i, i FROM {series}"),
        format!(
            "INSERT INTO t3 SELECT 1 + i % 3, '2026-01-01 00:00:00.123' + INTERVAL i SECOND, i FROM {series}"
        ),
        format!("INSERT INTO t4 SELECT unhex(lpad(hex(i * 7), 6, '0')), i FROM {series}"),
        format!("INSERT INTO t5 SELECT '2026-01-01 00:00:00.000123' + INTERVAL i HOUR, i FROM {series}"),
        format!("INSERT INTO t6 SELECT i / 8, i % 4, i FROM {series}"),
        format!("INSERT INTO t7 SELECT i, concat('é', i % 10), i FROM {series}"),
    ] {
        server().query_in("inward_keys", &statement).unwrap();
    }
    let mut pull = scene.pulled();
    let counts = scene.rows("SELECT (SELECT count(*) FROM t1) || ' ' || (SELECT count(*) FROM t2) || ' ' || (SELECT count(*) FROM t3) || ' ' || (SELECT count(*) FROM t4) || ' ' || (SELECT count(*) FROM t5) || ' ' || (SELECT count(*) FROM t6) || ' ' || (SELECT count(*) FROM t7)");
    assert_eq!(counts, [[Some(vec![count.to_string(); 7].join(" "))]]);
    for table in 1..=7 {
        server()
            .query_in(
                "inward_keys",
                &format!("UPDATE t{table} SET x = -x WHERE x % 3 = 0; DELETE FROM t{table} WHERE x % 5 = 0"),
            )
            .unwrap();
    }
    // What SQLite has no integer for is no rowid.
    server()
        .query_in("inward_keys", "INSERT INTO t2 VALUES(18446744073709551615, 0), (9223372036854775807, 0)")
        .unwrap();
    scene.pull(&mut pull).unwrap();
    let listed = scene.runtime.block_on(scene.pulling().listed()).unwrap().unwrap();
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert!(
        listed[0].key == ["s18446744073709551615"] && listed[0].reason.contains("mismatch"),
        "{listed:?}"
    );
    server().query_in("inward_keys", "DELETE FROM t2 WHERE k = 18446744073709551615").unwrap();
    scene.pull(&mut pull).unwrap();
    assert_eq!(pull.progress().unwrap().refused, 0);
    let found = scene.runtime.block_on(pull.compare()).unwrap();
    assert!(found.is_equal() && found.rows > 7 * u64::from(count) / 2, "{found:?}");
}

/// Goal: where the log was let go of, rows are compared, and those that are gone there go here.
#[test]
fn a_log_that_is_gone_costs_a_comparison_and_no_row() {
    let server = start();
    server.query_in(DATABASE, TABLES).unwrap();
    let scene = Scene::with_url(server.url(DATABASE));
    let mut random = fastrand::Rng::with_seed(8);
    churn(&server, DATABASE, &mut random);
    drop(scene.pulled());
    let backup = scene.database().with_extension("old");
    Connection::open(scene.database())
        .unwrap()
        .execute("VACUUM INTO ?1", [backup.to_str().unwrap()])
        .unwrap();
    let purge = || {
        server.query("FLUSH BINARY LOGS").unwrap();
        let files = server.query("SHOW BINARY LOGS").unwrap();
        let last = files.last().unwrap()[0].clone().unwrap();
        // Until whoever reads an older one has ended.
        eventually("the log is purged", Duration::from_secs(30), || {
            server.query(&format!("PURGE BINARY LOGS TO '{last}'"))?;
            Ok(server.query("SHOW BINARY LOGS")?.len() == 1)
        })
        .unwrap();
    };
    churn(&server, DATABASE, &mut random);
    server
        .query_in(DATABASE, "DELETE FROM orders WHERE id % 2 = 0; DELETE FROM parts WHERE a % 2 = 1")
        .unwrap();
    purge();
    drop(scene.pulled());
    scene.assert_equal(&server);
    // A database that was set back knows less than the server has let go of.
    purge();
    for end in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{end}", scene.database().display()));
    }
    std::fs::rename(&backup, scene.database()).unwrap();
    churn(&server, DATABASE, &mut random);
    drop(scene.pulled());
    scene.assert_equal(&server);
    // A server that begins its log anew has other transactions under the numbers that are known.
    server.query(if server.is_mariadb() { "RESET MASTER" } else { "RESET BINARY LOGS AND GTIDS" }).unwrap();
    server.query_in(DATABASE, "DELETE FROM orders WHERE id % 3 = 0").unwrap();
    drop(scene.pulled());
    scene.assert_equal(&server);
}

#[test]
fn what_is_told_of_tables_is_followed() {
    let scene = Scene::new("inward_ddl", TABLES);
    let query = |sql: &str| drop(server().query_in("inward_ddl", sql).unwrap());
    query(&orders(1, 500));
    let mut pull = scene.pulled();
    // An index, a comment, a view: nothing that matters.
    query(
        "CREATE INDEX a ON orders(amount); ALTER TABLE orders COMMENT 'x', ADD KEY (amount, name); CREATE VIEW v AS SELECT 1; DROP VIEW v",
    );
    query("INSERT INTO orders(id) VALUES(1000)");
    scene.pull(&mut pull).unwrap();
    assert_eq!(pull.progress().unwrap().paused, []);
    scene.assert_equal(&server());
    // A type that rounds what is there, in no row of the log.
    query("UPDATE orders SET amount = 1.25 WHERE id = 3; ALTER TABLE orders MODIFY amount decimal(12, 1)");
    scene.pull(&mut pull).unwrap();
    scene.assert_equal(&server());
    // A column between others, and one that goes and comes again.
    query(
        "ALTER TABLE orders ADD COLUMN n int DEFAULT 7 AFTER id; INSERT INTO orders(id, name) VALUES(1001, 'x'); ALTER TABLE orders ADD COLUMN m int FIRST; UPDATE orders SET m = id WHERE id < 9",
    );
    scene.pull(&mut pull).unwrap();
    assert_eq!(pull.progress().unwrap().paused, []);
    scene.assert_equal(&server());
    let sum = "SELECT sum(n) || ' ' || sum(m) FROM orders";
    let there = server().query_in("inward_ddl", "SELECT concat(sum(n), ' ', sum(m)) FROM orders").unwrap();
    assert_eq!(scene.rows(sum), there);
    query("ALTER TABLE orders DROP COLUMN n, ADD COLUMN n int DEFAULT 8");
    scene.pull(&mut pull).unwrap();
    let there = server().query_in("inward_ddl", "SELECT concat(sum(n), ' ', sum(m)) FROM orders").unwrap();
    assert_eq!(scene.rows(sum), there);
    assert!(scene.runtime.block_on(pull.compare()).unwrap().is_equal());
    // A table under whose name another one comes.
    query(
        "CREATE TABLE other LIKE parts; INSERT INTO other VALUES(1, 'o', 'other'); RENAME TABLE parts TO old, other TO parts",
    );
    scene.pull(&mut pull).unwrap();
    let paused = pull.progress().unwrap().paused;
    assert!(paused.len() == 1 && paused[0].0 == "parts", "{paused:?}");
    scene.runtime.block_on(pull.resync()).unwrap();
    scene.pull(&mut pull).unwrap();
    assert_eq!(pull.progress().unwrap().paused, []);
    scene.assert_equal(&server());
    // One that was asked for by its name keeps the others up no more than any.
    let mut named = scene.pulling_from(&scene.url, &["orders", "parts"]);
    scene.pull_in_the_end(&mut named);
    query(
        "DROP TABLE parts; INSERT INTO orders(id) VALUES(2000); ALTER TABLE orders ADD COLUMN o int DEFAULT 3",
    );
    scene.pull_in_the_end(&mut named);
    let paused = named.progress().unwrap().paused;
    assert!(
        paused.iter().any(|(table, _)| table == "parts") && paused.iter().all(|(table, _)| table != "orders"),
        "{paused:?}"
    );
    assert_eq!(scene.rows("SELECT o || '' FROM orders WHERE id = 2000"), [[Some("3".to_owned())]]);
}

/// A transaction of XA that is prepared is not there yet, and may be later.
#[test]
fn prepared_transactions_are_told() {
    let scene = Scene::new("inward_xa", &format!("{TABLES} CREATE TABLE elsewhere(id int PRIMARY KEY)"));
    let only = || scene.pulling_from(&scene.url, &["orders", "parts"]);
    let mut pull = only();
    scene.pull_in_the_end(&mut pull);
    let xa = |sql: &str, end: &str| {
        let statement =
            format!("XA START 'x{end}'; {sql}; XA END 'x{end}'; XA PREPARE 'x{end}'; XA {end} 'x{end}'");
        server().query_in("inward_xa", &statement).unwrap();
    };
    xa("INSERT INTO elsewhere VALUES(1)", "COMMIT");
    server().query_in("inward_xa", "INSERT INTO orders(id) VALUES(1)").unwrap();
    scene.pull(&mut pull).unwrap();
    scene.assert_equal(&server());
    xa("INSERT INTO orders(id) VALUES(2)", "COMMIT");
    let error = scene.pull(&mut pull).unwrap_err();
    assert!(
        error.kind() == Kind::Invalid && error.to_string().contains("a transaction that XA prepared"),
        "{error}"
    );
    assert!(error.hint().unwrap().contains("sync resync"), "{error}");
    scene.runtime.block_on(pull.resync()).unwrap();
    scene.pull(&mut pull).unwrap();
    scene.assert_equal(&server());
}

#[test]
fn what_is_over_leaves_nothing() {
    let scene = Scene::new("inward_forgotten", TABLES);
    let mut pull = scene.pulled();
    scene.runtime.block_on(pull.forget()).unwrap();
    let tables = scene
        .rows("SELECT name FROM sqlite_schema WHERE type = 'table' AND name IN ('orders', '_litekeep_sync')");
    assert_eq!(tables, [[Some("orders".to_owned())]]);
}

#[test]
fn one_database_is_pulled_by_one() {
    let scene = Scene::new("inward_two", TABLES);
    let mut first = scene.pulled();
    let mut second = scene.pulling();
    // The server ends the one that came before, and each commit here looks for what its own last one left.
    scene.pull_in_the_end(&mut second);
    server().query_in("inward_two", "INSERT INTO orders(id) VALUES(1)").unwrap();
    scene.pull_in_the_end(&mut second);
    server().query_in("inward_two", "INSERT INTO orders(id) VALUES(2)").unwrap();
    let error = scene.runtime.block_on(async {
        loop {
            if let Err(error) = first.step().await {
                break error;
            }
        }
    });
    assert!(
        error.kind() == Kind::Unavailable
            && error.hint().is_some_and(|hint| hint.contains("end one of them")),
        "{error}"
    );
    scene.pull_in_the_end(&mut second);
    scene.assert_equal(&server());
}

#[test]
fn what_cannot_be_is_refused_with_what_to_do() {
    let scene = Scene::new(
        "inward_refused",
        "CREATE TABLE bare(a text); CREATE TABLE fine(id int PRIMARY KEY); CREATE TABLE old(id int PRIMARY KEY) ENGINE=MyISAM;
         CREATE TABLE cjk(id int PRIMARY KEY, t varchar(9) CHARACTER SET gbk);",
    );
    let url = &scene.url;
    let of = |tables: &[&str]| {
        let (kind, said) = scene.refused(scene.pulling_from(url, tables));
        assert_eq!(kind, Kind::Invalid, "{said}");
        said
    };
    let told =
        |said: String, words: &[&str]| words.iter().for_each(|word| assert!(said.contains(word), "{said}"));
    told(of(&[]), &["`bare` cannot be pulled: has no primary key", "ALTER TABLE `bare` ADD PRIMARY KEY"]);
    told(of(&["old"]), &["MyISAM", "ALTER TABLE `old` ENGINE=InnoDB"]);
    told(
        of(&["cjk"]),
        &["the character set gbk", "ALTER TABLE `cjk` MODIFY `t` varchar(9) CHARACTER SET utf8mb4"],
    );
    told(of(&["nothing"]), &["there is no table `nothing`"]);
    // What nothing came into is not made.
    assert!(!scene.database().exists());
    // A user without the right to take changes.
    server()
        .query("CREATE USER taker@'%' IDENTIFIED BY 'r'; GRANT SELECT ON inward_refused.* TO taker@'%'")
        .unwrap();
    let taker = server().url_with("taker:r@", "inward_refused");
    let (kind, said) = scene.refused(scene.pulling_from(&taker, &["fine"]));
    assert_eq!(kind, Kind::Invalid, "{said}");
    told(said, &["GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO 'taker'@'%'"]);
    // And what it says is enough.
    server().query("GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO 'taker'@'%'").unwrap();
    scene.pull_in_the_end(&mut scene.pulling_from(&taker, &["fine"]));
    let wrong = server().url_with("taker:wrong@", "inward_refused");
    let (kind, said) = scene.refused(scene.pulling_from(&wrong, &["fine"]));
    assert!(
        kind == Kind::Invalid && said.contains("ALTER USER 'taker'") && !said.contains("wrong@"),
        "{said}"
    );
    // Rows of somebody else's are not overwritten.
    let other = Scene::with_url(scene.url.clone());
    let db = Connection::open(other.database()).unwrap();
    db.execute_batch("CREATE TABLE fine(id INTEGER PRIMARY KEY); INSERT INTO fine VALUES(1)").unwrap();
    let (_, said) = other.refused(other.pulling_from(&other.url, &["fine"]));
    told(said, &["the table `fine` is there and has rows", "DROP TABLE \"fine\""]);
}

/// Goal: what a foreign key does to rows comes, where the server logs it; where it does not, the table is refused.
#[test]
fn what_cascades_comes_or_is_refused() {
    let scene = Scene::new(
        "inward_cascades",
        "CREATE TABLE parent(id int PRIMARY KEY); INSERT INTO parent VALUES(1), (2), (3);
         CREATE TABLE child(id int PRIMARY KEY, f int, CONSTRAINT fk FOREIGN KEY (f) REFERENCES parent(id) ON DELETE CASCADE ON UPDATE SET NULL);
         INSERT INTO child SELECT id, id FROM parent;",
    );
    if server().is_mariadb() {
        let (_, said) = scene.refused(scene.pulling());
        assert!(
            said.contains("ON DELETE CASCADE") && said.contains("ALTER TABLE `child` DROP FOREIGN KEY `fk`"),
            "{said}"
        );
        return;
    }
    let mut pull = scene.pulled();
    let sql = "DELETE FROM parent WHERE id = 1; UPDATE parent SET id = 7 WHERE id = 2";
    server().query_in("inward_cascades", sql).unwrap();
    scene.pull(&mut pull).unwrap();
    assert_eq!(
        scene.rows("SELECT group_concat(id || ':' || coalesce(f, '-'), ' ') FROM child"),
        [[Some("2:- 3:3".to_owned())]]
    );
    assert!(scene.runtime.block_on(pull.compare()).unwrap().is_equal());
}

/// Goal: a server is followed that packs transactions, tags their numbers, or numbers none, in which case by the files of its log.
#[test]
fn numbers_tags_and_files_are_followed() {
    let server = start();
    if server.is_mariadb() {
        // Its numbers have domains.
        server.query_in(DATABASE, TABLES).unwrap();
        let scene = Scene::with_url(server.url(DATABASE));
        let mut pull = scene.pulled();
        server.query_in(DATABASE, "SET gtid_domain_id = 5; INSERT INTO orders(id) VALUES(1); SET gtid_domain_id = 0; INSERT INTO orders(id) VALUES(2)").unwrap();
        scene.pull(&mut pull).unwrap();
        scene.assert_equal(&server);
        let position = pull.progress().unwrap().position.unwrap();
        assert!(position.starts_with("0-1-") && position.contains(",5-1-1"), "{position}");
        drop(scene.pulled());
        return;
    }
    server.query_in(DATABASE, TABLES).unwrap();
    let scene = Scene::with_url(server.url(DATABASE));
    let mut random = fastrand::Rng::with_seed(4);
    let mut pull = scene.pulled();
    server.query("SET GLOBAL binlog_transaction_compression = ON").unwrap();
    server
        .query_in(DATABASE, "SET gtid_next = 'AUTOMATIC:tag'; INSERT INTO orders(id) VALUES(1000)")
        .unwrap();
    for _ in 0..5 {
        churn(&server, DATABASE, &mut random);
        scene.pull(&mut pull).unwrap();
        scene.assert_equal(&server);
    }
    let position = pull.progress().unwrap().position.unwrap();
    assert!(position.contains(":tag:1"), "{position}");
    for mode in ["ON_PERMISSIVE", "OFF_PERMISSIVE", "OFF"] {
        server.query(&format!("SET GLOBAL gtid_mode = {mode}")).unwrap();
    }
    for round in 0..8 {
        churn(&server, DATABASE, &mut random);
        if round % 3 == 0 {
            server.query("FLUSH BINARY LOGS").unwrap();
        }
        if round == 5 {
            pull = scene.pulling();
        }
        scene.pull(&mut pull).unwrap();
        scene.assert_equal(&server);
    }
    let position = pull.progress().unwrap().position.unwrap();
    assert!(position.starts_with("binlog.0"), "{position}");
    drop(pull);
    churn(&server, DATABASE, &mut random);
    server.query("FLUSH BINARY LOGS").unwrap();
    eventually("the log is purged", Duration::from_secs(30), || {
        let last = server.query("SHOW BINARY LOGS")?.last().unwrap()[0].clone().unwrap();
        server.query(&format!("PURGE BINARY LOGS TO '{last}'"))?;
        Ok(server.query("SHOW BINARY LOGS")?.len() == 1)
    })
    .unwrap();
    drop(scene.pulled());
    scene.assert_equal(&server);
}

/// What a server that logs otherwise must be set to, and that it is enough.
#[test]
fn settings_are_told() {
    let server = start();
    server.query_in(DATABASE, TABLES).unwrap();
    let scene = Scene::with_url(server.url(DATABASE));
    let own = match server.is_mariadb() {
        true => ("log_bin_compress", "ON", "OFF"),
        false => ("binlog_row_value_options", "PARTIAL_JSON", "''"),
    };
    for (setting, value, back) in [
        ("binlog_format", "MIXED", "ROW"),
        ("binlog_row_image", "MINIMAL", "FULL"),
        ("binlog_row_metadata", "MINIMAL", "FULL"),
        own,
    ] {
        server.query(&format!("SET GLOBAL {setting} = {value}")).unwrap();
        let (kind, said) = scene.refused(scene.pulling());
        assert_eq!(kind, Kind::Invalid, "{said}");
        assert!(said.contains(&format!("{setting} = {back};")), "{said}");
        server.query(&format!("SET GLOBAL {setting} = {back}")).unwrap();
    }
    let mut pull = scene.pulled();
    // A session that logs statements though the server does not.
    server.query_in(DATABASE, "SET binlog_format = STATEMENT; INSERT INTO orders(id) VALUES(1)").unwrap();
    let error = scene.pull(&mut pull).unwrap_err();
    assert!(error.kind() == Kind::Invalid && error.to_string().contains("logged as a statement"), "{error}");
    scene.runtime.block_on(pull.resync()).unwrap();
    scene.pull(&mut pull).unwrap();
    scene.assert_equal(&server);
    if server.is_mariadb() {
        // Another one has other transactions under the same numbers.
        server.query("SET GLOBAL server_id = 7").unwrap();
        let (kind, said) = scene.refused(scene.pulling());
        assert!(
            kind == Kind::Invalid
                && said.contains("is another server")
                && said.contains("sync resync orders"),
            "{said}"
        );
        scene.runtime.block_on(scene.pulling().resync()).unwrap();
        drop(scene.pulled());
    }
}

/// Values that change with a column change which rows fulfil a condition, though no row of the log says so.
#[test]
fn a_condition_is_looked_at_again_when_columns_change() {
    let scene = Scene::new(
        "inward_narrowed",
        "CREATE TABLE t(id int PRIMARY KEY, n int, note varchar(9)); INSERT INTO t VALUES(1, 5, 'a'), (2, 500, 'b'), (3, 127, 'c')",
    );
    let rows = [("t".to_owned(), "n > 127".to_owned())].into();
    let cut = Cut {
        columns: [("t".to_owned(), vec!["id".to_owned(), "note".to_owned()])].into(),
        rows,
        ..Cut::default()
    };
    let mut pull = scene.pulling_cut(&cut);
    scene.pull_in_the_end(&mut pull);
    let here = || scene.rows("SELECT id || note FROM t ORDER BY id");
    assert_eq!(here(), [[Some("2b".to_owned())]]);
    let sql = "SET sql_mode = ''; ALTER TABLE t MODIFY n tinyint";
    server().query_in("inward_narrowed", sql).unwrap();
    scene.pull(&mut pull).unwrap();
    assert_eq!((here().len(), pull.progress().unwrap().paused), (0, vec![]));
    // A session that logs a part of each row leaves out what the condition asks for.
    let sql =
        "ALTER TABLE t MODIFY n int; SET binlog_row_image = MINIMAL; UPDATE t SET note = 'x' WHERE id = 2";
    server().query_in("inward_narrowed", sql).unwrap();
    let error = scene.pull(&mut pull).unwrap_err();
    assert!(error.to_string().contains("a row of `t` without all of its columns"), "{error}");
    scene.runtime.block_on(pull.resync()).unwrap();
    scene.pull(&mut pull).unwrap();
    assert!(scene.runtime.block_on(pull.compare()).unwrap().is_equal());
}
