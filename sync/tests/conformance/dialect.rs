//! Goal: what litekeep says of statements written for SQLite is what the server does with them. Method: SQLite and the server are asked the
//! same; where the server refuses, or answers otherwise, exactly that must have been said, and nothing where the answers are alike.

use litekeep_schema::portable::dialect::{Fate, findings};
use rusqlite::Connection;
use rusqlite::types::ValueRef;

use crate::server::{DIALECT, Server, server};

const DATABASE: &str = "dialect";

/// What both have.
const TABLES: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, name VARCHAR(20), n INTEGER, doc JSON);
    INSERT INTO t VALUES(1, 'Ann', 7, '{\"a\": 1}');
    INSERT INTO t VALUES(2, 'bob', NULL, '{\"a\": \"x\"}');
    CREATE TABLE u(id INTEGER PRIMARY KEY, x INTEGER);
    CREATE INDEX t_name ON t(name);";

const STATEMENTS: &[&str] = &[
    // What all understand alike.
    "SELECT id, name FROM t WHERE n IS NULL OR n IS NOT NULL ORDER BY id LIMIT 1 OFFSET 1",
    "SELECT coalesce(n, 0), upper(name), abs(-3), substr(name, 2, 1), trim('  a '), replace('abc', 'b', 'x') FROM t ORDER BY id",
    "SELECT count(*), sum(n), min(n), max(n) FROM t",
    "SELECT name, row_number() OVER (ORDER BY id DESC) FROM t ORDER BY id",
    "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 3) SELECT i FROM c ORDER BY i",
    "SELECT CASE WHEN n > 5 THEN 'much' ELSE 'little' END FROM t ORDER BY id",
    "SELECT name FROM t WHERE id IN (SELECT id FROM t WHERE n = 7) AND EXISTS (SELECT 1 FROM u UNION SELECT 1)",
    "INSERT INTO u(id, x) VALUES(1, 1), (2, 2)",
    "UPDATE u SET x = x + 1 WHERE id = 1",
    "SELECT id, x FROM u ORDER BY id -- || == `x`",
    "SELECT 'it''s || == [x]' /* PRAGMA */",
    "SELECT concat_ws('-', 'a', 'b')",
    "CREATE TABLE alike(id INTEGER PRIMARY KEY, a VARCHAR(10) NOT NULL DEFAULT 'x', b DECIMAL(10, 2), c TIMESTAMP DEFAULT CURRENT_TIMESTAMP, UNIQUE(a))",
    "CREATE INDEX alike_b ON alike(b)",
    "DELETE FROM u WHERE id = 2",
    // Functions.
    "SELECT strftime('%Y', '2026-11-30')",
    "SELECT datetime('2026-11-30 10:00:00')",
    "SELECT julianday('2026-11-30')",
    "SELECT unixepoch('2026-11-30')",
    "SELECT ifnull(n, 0) FROM t ORDER BY id",
    "SELECT iif(n IS NULL, 0, 1) FROM t ORDER BY id",
    "SELECT group_concat(name) FROM (SELECT name FROM t WHERE id = 1) s",
    "SELECT group_concat(name, '+') FROM (SELECT name FROM t WHERE id = 1) s",
    "SELECT json_group_array(id) FROM t WHERE id = 1",
    "SELECT json_group_object(name, id) FROM t WHERE id = 1",
    "SELECT json_extract(doc, '$.a') FROM t WHERE id = 2",
    "SELECT json_array_length('[1, 2]')",
    "SELECT last_insert_rowid()",
    "SELECT changes()",
    "SELECT total_changes()",
    "SELECT typeof(n) FROM t",
    "SELECT printf('%d', 1)",
    "SELECT total(n) FROM t",
    "SELECT random() > 2 OR random() > 2 OR random() > 2 OR random() > 2 OR random() > 2 OR random() > 2 OR random() < -2",
    "SELECT count(randomblob(2))",
    "SELECT count(zeroblob(2))",
    "SELECT hex('A')",
    "SELECT instr('abc', 'c')",
    "SELECT unicode('A')",
    "SELECT glob('a*', 'abc')",
    "SELECT sqlite_version() IS NOT NULL",
    "SELECT length('\u{e9}')",
    "SELECT max(1, 2)",
    "SELECT min(n, 5) FROM t WHERE id = 1",
    "SELECT date('2026-11-30', '+1 day')",
    "SELECT time('10:00:00', '+1 hour')",
    "SELECT date('now') IS NULL",
    "SELECT format('%d', 1)",
    "SELECT count(*) FILTER (WHERE n = 7) FROM t",
    // Signs.
    "SELECT `id` FROM t WHERE id = 1",
    "SELECT [id] FROM t WHERE id = 1",
    "SELECT \"name\" FROM t WHERE id = 1",
    "SELECT 'a' || 'b'",
    "SELECT name FROM t WHERE id == 1",
    "SELECT doc ->> '$.a' FROM t WHERE id = 1",
    "SELECT doc -> 'a' FROM t WHERE id = 1",
    "SELECT 7 / 2",
    "SELECT x'41'",
    // Words.
    "CREATE TABLE a1(id INTEGER PRIMARY KEY AUTOINCREMENT)",
    "INSERT OR IGNORE INTO u VALUES(1, 1)",
    "UPDATE OR REPLACE u SET x = 3",
    "REPLACE INTO u VALUES(1, 2)",
    "INSERT INTO u VALUES(1, 1) ON CONFLICT(id) DO NOTHING",
    "SELECT name FROM t WHERE name GLOB 'A*'",
    "SELECT name FROM t WHERE name LIKE 'ANN'",
    "SELECT name FROM t WHERE n IS 7",
    "SELECT name FROM t WHERE n IS NOT 7",
    "SELECT name FROM t WHERE n IS NOT DISTINCT FROM 7",
    "SELECT name FROM t ORDER BY n NULLS LAST",
    "SELECT t.name FROM t FULL JOIN u ON t.id = u.id ORDER BY 1",
    "SELECT name FROM t ORDER BY id LIMIT 1, 1",
    "SELECT name FROM t INDEXED BY t_name WHERE name = 'Ann'",
    "SELECT name FROM t WHERE name = 'ann' COLLATE NOCASE",
    "SELECT name FROM t WHERE name = 'Ann ' COLLATE RTRIM",
    "SELECT rowid FROM t ORDER BY id",
    "SELECT name FROM t WHERE t._rowid_ = 1 AND oid = 1",
    // Statements.
    "UPDATE u SET x = t.n FROM t WHERE t.id = u.id AND t.id = 1",
    "INSERT INTO u VALUES(5, 5) RETURNING id",
    "UPDATE u SET x = 9 WHERE id = 1 RETURNING x",
    "DELETE FROM u WHERE id = 5 RETURNING id",
    "PRAGMA user_version",
    "ATTACH ':memory:' AS m",
    "VACUUM",
    "BEGIN IMMEDIATE",
    "CREATE VIRTUAL TABLE f USING fts5(x)",
    "CREATE TRIGGER g AFTER INSERT ON u BEGIN DELETE FROM u WHERE id = 99; END",
    "CREATE INDEX IF NOT EXISTS t_n ON t(n)",
    "CREATE INDEX some_n ON t(n) WHERE n > 3",
    "DROP INDEX t_name",
    "CREATE TABLE a2(id INTEGER PRIMARY KEY) STRICT",
    "CREATE TABLE a3(id INTEGER PRIMARY KEY) WITHOUT ROWID",
    "CREATE TABLE a4(id INTEGER PRIMARY KEY, b BLOB)",
    "CREATE TABLE a5(id INTEGER PRIMARY KEY, b DATETIME)",
    "CREATE TABLE a6(id INTEGER PRIMARY KEY, b TINYINT)",
    "CREATE TABLE a7(id INTEGER PRIMARY KEY, b MEDIUMINT)",
    "CREATE TABLE a8(id INTEGER PRIMARY KEY, b LONGTEXT)",
    "CREATE TABLE a9(id INTEGER PRIMARY KEY, b NVARCHAR(9))",
    "CREATE TABLE a10(id INTEGER PRIMARY KEY, datetime INTEGER)",
    "SELECT CAST(7 AS TEXT)",
    "SELECT CAST('7' AS INTEGER)",
    "SELECT CAST(7 AS BLOB) IS NULL",
    "SELECT CAST('7.5' AS REAL)",
];

#[test]
fn lint_says_of_statements_what_the_server_does() {
    let server = server();
    server.query(&format!("CREATE DATABASE {DATABASE}")).unwrap();
    let sqlite = Connection::open_in_memory().unwrap();
    sqlite.execute_batch(TABLES).unwrap();
    for statement in TABLES.split_inclusive(';') {
        server.query_in(DATABASE, statement).unwrap();
    }
    let mut wrong = vec![];
    for sql in STATEMENTS {
        let here = answer(&sqlite, sql);
        let there = ask(&server, sql);
        let said = findings(sql, DIALECT);
        let refused = said.iter().any(|found| found.fate == Fate::Refused);
        let is_told = match &there {
            Err(_) => refused,
            Ok(rows) if *rows != here => !refused && !said.is_empty(),
            Ok(_) => said.is_empty(),
        };
        if !is_told {
            wrong.push(format!("{sql}\n  SQLite: {here:?}\n  server: {there:?}\n  said: {said:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn ask(server: &Server, sql: &str) -> Result<Vec<Vec<Option<String>>>, String> {
    let rows = server.query_in(DATABASE, sql).map_err(|e| format!("{e:#}"))?;
    // One writes a boolean so.
    let plain = |value: Option<String>| {
        value.map(|text| match &*text {
            "t" => "1".to_owned(),
            "f" => "0".to_owned(),
            _ => text,
        })
    };
    Ok(rows.into_iter().map(|row| row.into_iter().map(plain).collect()).collect())
}

fn answer(sqlite: &Connection, sql: &str) -> Vec<Vec<Option<String>>> {
    let mut statement = sqlite.prepare(sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
    let columns = statement.column_count();
    let mut rows = statement.query([]).unwrap();
    let (mut all, is_question) =
        (vec![], sql.starts_with("SELECT") || sql.starts_with("WITH") || sql.contains("RETURNING"));
    while let Some(row) = rows.next().unwrap() {
        let text = |n| match row.get_ref_unwrap(n) {
            ValueRef::Null => None,
            ValueRef::Integer(n) => Some(n.to_string()),
            ValueRef::Real(x) => Some(x.to_string()),
            ValueRef::Text(bytes) | ValueRef::Blob(bytes) => {
                Some(String::from_utf8_lossy(bytes).into_owned())
            }
        };
        all.push((0..columns).map(text).collect());
    }
    drop(rows);
    drop(statement);
    // Whatever was begun.
    if !sqlite.is_autocommit() {
        sqlite.execute_batch("ROLLBACK").unwrap();
    }
    if is_question { all } else { vec![] }
}
