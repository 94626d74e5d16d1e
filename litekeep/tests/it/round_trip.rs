//! Goal: a database that goes to a server and comes back is what it was, or what is otherwise was said. Method: the real binary and each kind of server; a shop with all that real
//! schemas have, of which every table must have the same canonical checksum, and tables with every odd value, of which each column that comes back otherwise must have been named, and
//! each row that does not come back listed.

use std::collections::{BTreeMap, BTreeSet};

use litekeep_testkit::mysql::{Flavor, Mysql};
use litekeep_testkit::postgres::Postgres;
use rusqlite::Connection;
use rusqlite::types::ValueRef;
use serde_json::Value as Json;

use crate::Place;

/// A shop of records: keys that number themselves, keys of two columns, keys to the same table, money, days and moments, NULLs, defaults, pictures.
const SHOP: &str = "
    CREATE TABLE artists(id INTEGER PRIMARY KEY AUTOINCREMENT, name VARCHAR(120) NOT NULL, website TEXT);
    CREATE UNIQUE INDEX artists_by_name ON artists(name);
    CREATE TABLE albums(id INTEGER PRIMARY KEY, title VARCHAR(160) NOT NULL, artist_id INTEGER NOT NULL REFERENCES artists(id) ON DELETE CASCADE,
      released DATE, cover BLOB);
    CREATE INDEX albums_by_artist ON albums(artist_id, released);
    CREATE TABLE genres(code VARCHAR(8) PRIMARY KEY, label TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE tracks(id INTEGER PRIMARY KEY, album_id INTEGER REFERENCES albums(id) ON DELETE SET NULL, genre VARCHAR(8) REFERENCES genres(code),
      name VARCHAR(200) NOT NULL, milliseconds INTEGER NOT NULL, bytes BIGINT, unit_price NUMERIC(10,2) NOT NULL DEFAULT 0.99, explicit BOOLEAN NOT NULL DEFAULT 0, rating REAL);
    CREATE INDEX tracks_by_album ON tracks(album_id);
    CREATE TABLE employees(id INTEGER PRIMARY KEY, name VARCHAR(80) NOT NULL, reports_to INTEGER REFERENCES employees(id), hired DATE NOT NULL, birthday DATE, salary DECIMAL(12,2));
    CREATE TABLE customers(id INTEGER PRIMARY KEY, email VARCHAR(120) NOT NULL UNIQUE, name TEXT NOT NULL, company TEXT, support_rep INTEGER REFERENCES employees(id),
      country CHAR(2) NOT NULL DEFAULT 'DE', joined DATETIME NOT NULL DEFAULT CURRENT_TIMESTAMP, settings JSON);
    CREATE TABLE invoices(id INTEGER PRIMARY KEY, customer_id INTEGER NOT NULL REFERENCES customers(id), issued DATETIME NOT NULL, paid DATETIME, total NUMERIC(12,2) NOT NULL);
    CREATE INDEX invoices_by_customer ON invoices(customer_id, issued DESC);
    CREATE TABLE invoice_lines(invoice_id INTEGER NOT NULL REFERENCES invoices(id) ON DELETE CASCADE, line INTEGER NOT NULL, track_id INTEGER NOT NULL REFERENCES tracks(id),
      unit_price NUMERIC(10,2) NOT NULL, quantity INTEGER NOT NULL DEFAULT 1, PRIMARY KEY (invoice_id, line));
    CREATE TABLE playlists(id INTEGER PRIMARY KEY, name TEXT);
    CREATE TABLE playlist_tracks(playlist_id INTEGER REFERENCES playlists(id), track_id INTEGER REFERENCES tracks(id), PRIMARY KEY (playlist_id, track_id)) WITHOUT ROWID;
    CREATE TABLE visits(at DATETIME, path TEXT, customer_id INTEGER);

    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 60)
    INSERT INTO artists(name, website) SELECT 'Künstler ' || i, iif(i % 3 = 0, NULL, 'https://a' || i || '.example/?q=\"x\"&y=''z''') FROM n;
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200)
    INSERT INTO albums SELECT i, 'Album №' || i, 1 + i % 60, iif(i % 7 = 0, NULL, date('1970-01-01', (i * 97) || ' days')), iif(i % 2 = 0, unhex(printf('00ff%08x', i)), NULL) FROM n;
    INSERT INTO genres VALUES ('rock', 'Rock'), ('jazz', 'Jazz & Blues'), ('neue', 'Neue Musik'), ('j-pop', 'Jポップ');
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 900)
    INSERT INTO tracks SELECT i, iif(i % 11 = 0, NULL, 1 + i % 200), CASE i % 5 WHEN 0 THEN 'rock' WHEN 1 THEN 'jazz' WHEN 2 THEN 'neue' WHEN 3 THEN 'j-pop' END, 'Track ' || i || char(9) || '🎵\\',
      i * 1013, iif(i % 4 = 0, NULL, i * 9007199254740993 / 7), round(0.49 + (i % 9) / 2.0, 2), i % 13 = 0, iif(i % 6 = 0, NULL, i / 7.0) FROM n;
    INSERT INTO employees VALUES (1, 'Nancy', NULL, '2002-08-14', '1962-02-18', 81234.50), (2, 'Jane', 1, '2003-04-01', NULL, 60000), (3, 'Steve', 2, '2003-10-17', '1965-03-03', NULL);
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 120)
    INSERT INTO customers SELECT i, 'c' || i || '@example.org', 'Customer ' || i, iif(i % 4 = 0, 'Company ' || i, NULL), iif(i % 5 = 0, NULL, 1 + i % 3), substr('DEFRJPUS', 1 + 2 * (i % 4), 2),
      datetime('2020-01-01', (i * 7717) || ' minutes'), iif(i % 3 = 0, NULL, json_object('news', i % 2, 'tags', json_array('a', i))) FROM n;
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 400)
    INSERT INTO invoices SELECT i, 1 + i % 120, datetime('2021-01-01', (i * 911) || ' minutes'), iif(i % 6 = 0, NULL, datetime('2021-02-01', (i * 911) || ' minutes')), i * 1.25 FROM n;
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1500)
    INSERT INTO invoice_lines SELECT 1 + i % 400, 1 + i / 400, 1 + i % 900, 0.99, 1 + i % 3 FROM n;
    INSERT INTO playlists VALUES (1, 'Alle'), (2, NULL);
    INSERT INTO playlist_tracks SELECT 1 + id % 2, id FROM tracks WHERE id % 3 = 0;
    INSERT INTO visits SELECT joined, '/', id FROM customers UNION ALL SELECT joined, '/', id FROM customers WHERE id % 9 = 0;";

/// What no schema should have, and some do.
const ODD: &str = "
    CREATE TABLE numbers(id INTEGER PRIMARY KEY, i INTEGER, r REAL, d DECIMAL(30,10), b BOOLEAN);
    INSERT INTO numbers VALUES (-9223372036854775808, 9223372036854775807, 1.7976931348623157e308, 12345.678, 1), (0, 0, -0.0, 0, 0), (1, -1, 5e-324, -0.5, NULL),
      (2, 10010000000000001, 0.1, 99999999999999, 1), (9223372036854775807, -9223372036854775808, -2.2250738585072014e-308, NULL, 0);
    CREATE TABLE infinities(id INTEGER PRIMARY KEY, r REAL);
    INSERT INTO infinities VALUES (1, 9e999), (2, -9e999), (3, 1.5);
    CREATE TABLE texts(id INTEGER PRIMARY KEY, t TEXT, c VARCHAR(10));
    INSERT INTO texts VALUES (1, '', ' x '), (2, 'a''b\"c\\d' || char(10) || char(13) || char(9), 'ä'), (3, '🦆 Ünïcödé ' || char(0x10ffff), NULL), (4, 'x' || char(0) || 'y', 'nul'),
      (5, CAST(x'ff41' AS TEXT), 'bytes'), (6, 'NULL', 'longer than ten'), (7, '007', '1e3'), (8, '\\N', '\\\\N');
    CREATE TABLE blobs(k BLOB PRIMARY KEY, v BLOB) WITHOUT ROWID;
    INSERT INTO blobs VALUES (x'', x''), (x'00', x'5c4e'), (x'ff00ff', NULL), (x'0a0d09', zeroblob(3000));
    CREATE TABLE mixed(id INTEGER PRIMARY KEY, v, w TEXT, n INT);
    INSERT INTO mixed VALUES (1, 1, 'a', 1), (2, 1.5, 'b', 'two'), (3, 'text', x'00', 3.5), (4, x'626c6f62', NULL, NULL), (5, NULL, 'e', 5);
    CREATE TABLE days(id INTEGER PRIMARY KEY, one DATE, many DATETIME, zoned TIMESTAMP, epoch TIMESTAMP);
    INSERT INTO days VALUES (1, '2024-02-29', '2024-02-29 12:00:00', '2024-02-29T12:00:00Z', 1709208000), (2, '0001-01-01', 'yesterday', '2024-02-29T12:00:00.123Z', 0), (3, NULL, '2024-02-29', NULL, NULL);
    CREATE TABLE documents(id INTEGER PRIMARY KEY, j JSON);
    INSERT INTO documents VALUES (1, '{\"b\": 1, \"a\": [1.0, null]}'), (2, '[ ]'), (3, NULL), (4, '\"x\"');
    CREATE TABLE nocase(k TEXT COLLATE NOCASE PRIMARY KEY, v TEXT COLLATE RTRIM);
    INSERT INTO nocase VALUES ('Abc', 'x '), ('abd', 'x'), ('É', NULL), ('é', '');
    CREATE TABLE computed(id INTEGER PRIMARY KEY, a INT, twice INT AS (a * 2), kept INT AS (a * 3) STORED);
    INSERT INTO computed(id, a) VALUES (1, 10), (2, NULL);
    CREATE TABLE bare(a, b TEXT);
    INSERT INTO bare VALUES (1, 'x'), (1, 'x'), (NULL, NULL), (2, 'y');
    CREATE TABLE \"Odd \"\"name\"\"\"(\"order\" INTEGER PRIMARY KEY, \"a b\" TEXT, \"GROUP\" INT DEFAULT -1);
    INSERT INTO \"Odd \"\"name\"\"\" VALUES (1, 'x', 2);
    CREATE TABLE empty(id INTEGER PRIMARY KEY, x TEXT);";

/// The rows of a table, each value as it is for whoever reads it, whatever holds it: a number by its value where the column is of decimals, a moment in
/// one form where it is of dates.
fn canonical(db: &Connection, table: &str, columns: &[(String, String)]) -> BTreeMap<String, u64> {
    let there = tables(db).remove(table).unwrap_or_default();
    let has = |name: &str| there.iter().any(|(there, _)| there == name);
    // MongoDB has a key of one column under its own name.
    let name = |(name, _): &(String, String)| if has(name) { name.clone() } else { "_id".to_owned() };
    let quoted = |name: String| format!("\"{}\"", name.replace('"', "\"\""));
    let names: Vec<String> = columns.iter().map(name).map(quoted).collect();
    let sql = format!("SELECT {} FROM \"{}\"", names.join(", "), table.replace('"', "\"\""));
    let mut select = db.prepare(&sql).unwrap();
    let mut rows = select.query(()).unwrap();
    let mut found = BTreeMap::new();
    while let Some(row) = rows.next().unwrap() {
        let value = |(nth, (_, kind)): (usize, &(String, String))| one(row.get_ref(nth).unwrap(), kind);
        let row: Vec<String> = columns.iter().enumerate().map(value).collect();
        *found.entry(row.join(" | ")).or_default() += 1;
    }
    found
}

fn one(value: ValueRef<'_>, kind: &str) -> String {
    let is = |words: &[&str]| words.iter().any(|word| kind.contains(word));
    let is_decimal = is(&["DECIMAL", "NUMERIC"]);
    match value {
        ValueRef::Null => "NULL".to_owned(),
        ValueRef::Integer(i) if is_decimal => format!("n{:e}", i as f64),
        ValueRef::Real(f) if is_decimal => format!("n{f:e}"),
        ValueRef::Integer(i) => format!("i{i}"),
        ValueRef::Real(f) => format!("r{f:e}"),
        ValueRef::Blob(b) => format!("b{b:?}"),
        ValueRef::Text(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) if is_decimal => text.parse().map_or(format!("s{text}"), |f: f64| format!("n{f:e}")),
            Ok(text) if is(&["DATE", "TIMESTAMP"]) => format!("s{}", moment(text)),
            _ => format!("s{bytes:?}"),
        },
    }
}

/// `2024-02-29T12:00:00.120000Z` and `2024-02-29 12:00:00.12` are one moment, and a day is its first one.
fn moment(text: &str) -> String {
    let text = text.replacen('T', " ", 1);
    let text = text.strip_suffix('Z').unwrap_or(&text);
    let moment = match text.split_once('.') {
        Some((second, fraction)) if fraction.bytes().all(|byte| byte.is_ascii_digit()) => {
            format!("{second}.{}", fraction.trim_end_matches('0')).trim_end_matches('.').to_owned()
        }
        _ => text.to_owned(),
    };
    moment.strip_suffix(" 00:00:00").map_or(moment.clone(), str::to_owned)
}

/// Tables by their names, with the columns that are not computed and what they declare.
fn tables(db: &Connection) -> BTreeMap<String, Vec<(String, String)>> {
    let of = |sql: &str| -> Vec<(String, String)> {
        let mut select = db.prepare(sql).unwrap();
        let rows = select.query_map((), |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        rows.collect::<Result<_, _>>().unwrap()
    };
    let names = of("SELECT name, '' FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'");
    let columns = |name: &str| of(&format!("SELECT name, upper(type) FROM pragma_table_info('{name}')"));
    names.into_iter().map(|(name, _)| (name.clone(), columns(&name))).collect()
}

/// What a copy has said: of tables and columns, and of how many rows of a table that they are not there.
#[derive(Default)]
struct Said {
    columns: BTreeSet<(String, Option<String>)>,
    refused: BTreeMap<String, u64>,
}

impl Said {
    fn hear(&mut self, copied: &Json) {
        let text = |value: &Json| value.as_str().map(str::to_owned);
        for note in copied["notes"].as_array().unwrap() {
            self.columns.insert((text(&note["table"]).unwrap(), text(&note["column"])));
        }
        for row in copied["refused"].as_array().unwrap() {
            *self.refused.entry(text(&row["table"]).unwrap()).or_default() += 1;
        }
        assert_eq!(
            (&copied["differences"], &copied["failed"]),
            (&Json::Array(vec![]), &Json::Array(vec![])),
            "{copied:#}"
        );
    }
}

/// Takes a database there and back into another file; what was said.
fn there_and_back(place: &Place, (from, back): (&str, &str), url: &str) -> Said {
    let mut said = Said::default();
    for arguments in [["copy", from, url, "--json"], ["copy", url, back, "--json"]] {
        let ran = place.run(&arguments);
        assert!(ran.code <= 1, "{}{}", ran.stdout, ran.stderr);
        said.hear(&ran.json());
    }
    said
}

/// `urls`: of two databases there without tables.
fn goes_and_comes_back(urls: [String; 2], has_rules: bool) {
    let place = Place::new();
    for (file, sql) in [("shop.db", SHOP), ("odd.db", ODD)] {
        Connection::open(place.path(file)).unwrap().execute_batch(sql).unwrap();
    }
    let said = there_and_back(&place, ("shop.db", "shop-back.db"), &urls[0]);
    assert_eq!(said.refused, BTreeMap::new());
    let [shop, back] = ["shop.db", "shop-back.db"].map(|file| Connection::open(place.path(file)).unwrap());
    for (table, columns) in tables(&shop) {
        assert_eq!(canonical(&shop, &table, &columns), canonical(&back, &table, &columns), "{table}");
    }
    if has_rules {
        let rules = |db: &Connection, sql: &str| -> BTreeSet<String> {
            let sql = format!("SELECT {sql} AND m.type = 'table' AND m.name NOT LIKE 'sqlite_%'");
            let mut select = db.prepare(&sql).unwrap();
            let rows = select.query_map((), |row| row.get(0)).unwrap();
            rows.collect::<Result<_, _>>().unwrap()
        };
        for sql in [
            "m.name || ' ' || f.\"from\" || ' ' || f.\"table\" || ' ' || f.\"to\" || ' ' || f.on_delete FROM sqlite_schema m, pragma_foreign_key_list(m.name) f WHERE 1",
            "m.name || ' ' || t.name || ' ' || t.\"notnull\" || (t.dflt_value IS NOT NULL) FROM sqlite_schema m, pragma_table_info(m.name) t WHERE t.pk = 0",
            "m.name || ' ' || t.name || ' ' || t.pk FROM sqlite_schema m, pragma_table_info(m.name) t WHERE t.pk > 0",
        ] {
            assert_eq!(rules(&back, sql), rules(&shop, sql));
        }
        let sql = "m.name || ' ' || (SELECT group_concat(c.name) FROM pragma_index_info(i.name) c) || ' ' || i.\"unique\" FROM sqlite_schema m, pragma_index_list(m.name) i WHERE i.origin <> 'pk'";
        let [before, after] = [&shop, &back].map(|db| rules(db, sql));
        // InnoDB makes some for foreign keys by itself.
        assert!(before.is_subset(&after), "{before:#?} {after:#?}");
        let dangling = "SELECT count(*) FROM pragma_foreign_key_check";
        assert_eq!(back.query_row(dangling, (), |row| row.get::<_, i64>(0)).unwrap(), 0);
    }

    let said = there_and_back(&place, ("odd.db", "odd-back.db"), &urls[1]);
    let [odd, back] = ["odd.db", "odd-back.db"].map(|file| Connection::open(place.path(file)).unwrap());
    for (table, columns) in tables(&odd) {
        let [all, come] = [&odd, &back].map(|db| canonical(db, &table, &columns).values().sum::<u64>());
        let refused = said.refused.get(&table).copied().unwrap_or_default();
        assert_eq!(all - come, refused, "rows of {table} that nobody has told of");
        // Of columns that nobody has named, all values of the rows that have come.
        let is_named = |column: &String| said.columns.contains(&(table.clone(), Some(column.clone())));
        let unnamed: Vec<(String, String)> =
            columns.into_iter().filter(|(name, _)| !is_named(name)).collect();
        let before = canonical(&odd, &table, &unnamed);
        let after = canonical(&back, &table, &unnamed);
        let surplus =
            |row: &String, count: u64| count.saturating_sub(before.get(row).copied().unwrap_or_default());
        let made_up: u64 = after.iter().map(|(row, count)| surplus(row, *count)).sum();
        assert_eq!(made_up, 0, "{table}: {before:#?} {after:#?}");
    }
}

#[test]
fn through_postgres() {
    let server = Postgres::start().unwrap();
    server.query("CREATE DATABASE odd").unwrap();
    goes_and_comes_back(["postgres", "odd"].map(|name| server.url(name)), true);
}

fn through(flavor: Flavor) {
    let server = Mysql::start(flavor).unwrap();
    server.query("CREATE DATABASE shop").unwrap();
    server.query("CREATE DATABASE odd").unwrap();
    goes_and_comes_back(["shop", "odd"].map(|name| server.url(name)), true);
}

#[test]
fn through_mariadb() {
    through(Flavor::Mariadb);
}

#[test]
fn through_mysql() {
    if Flavor::Mysql.is_available() {
        through(Flavor::Mysql);
    }
}

#[cfg(feature = "mongodb")]
#[test]
fn through_mongodb() {
    let server = litekeep_testkit::mongodb::Mongodb::start().unwrap();
    goes_and_comes_back(["shop", "odd"].map(|name| server.url(name)), false);
}
