//! What of a pull is PostgreSQL's own: its types, its slots, its rights, and poolers.

use std::time::Duration;

use litekeep_sync::cut::Cut;
use litekeep_sync::{Flow as _, Kind};
use litekeep_sync_postgres::source::Wanted;
use litekeep_sync_postgres::{Address, PostgresSource};
use rusqlite::Connection;

use crate::pull_scene::Scene;
use crate::server::{Server, cut_off, server};

pub(crate) use litekeep_sync_postgres::PostgresSource as Source;

pub(crate) use crate::pulled_in_sql::{
    ID, add_orders, add_parts, add_states, churn, delete_order, make, make_notes, make_tables, name_orders,
    rename_order, there,
};

pub(crate) fn source(url: &str, tables: &[&str]) -> Source {
    let tables = tables.iter().map(|table| (*table).to_owned()).collect();
    PostgresSource::new(Address::parse(url).unwrap(), Wanted { tables, ..Wanted::default() })
}

/// Of a server that has just begun.
pub(crate) const DATABASE: &str = "postgres";
pub(crate) const TABLES: &str = "CREATE TABLE orders(id bigint PRIMARY KEY, name text UNIQUE, body bytea, amount numeric(12, 2));
     CREATE TABLE parts(a int, b text, long text, PRIMARY KEY(a, b)); ALTER TABLE parts ALTER COLUMN long SET STORAGE EXTERNAL;";

/// Their columns as text.
pub(crate) const ORDERS: &str = "id::text, name, encode(body, 'hex'), amount::text";
pub(crate) const PARTS: &str = "a::text, b, long";
pub(crate) const NAMES: &str = "id::text, name";
pub(crate) const LONG: &str = "long";
/// So that their changes come with all values.
pub(crate) const WHOLE: &str =
    "ALTER TABLE orders REPLICA IDENTITY FULL; ALTER TABLE parts REPLICA IDENTITY FULL;";
pub(crate) const BYTES: &str = "bytea";

/// The server has no more than fifty slots.
pub(crate) fn end(name: &str) {
    let sql = format!(
        "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE database = '{name}' AND active; \
         SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = '{name}' AND NOT active"
    );
    let _ = server().query(&sql);
}

/// How often `orders` was read. A connection tells what it has done when it ends.
pub(crate) fn lookups(server: &Server, name: &str) -> u64 {
    cut_off(server);
    let count = || {
        let sql = "SELECT (coalesce(seq_scan, 0) + coalesce(idx_scan, 0))::text FROM pg_stat_user_tables WHERE relname = 'orders'";
        server.query_in(name, sql).unwrap()[0][0].as_ref().unwrap().parse::<u64>().unwrap()
    };
    let connections = "SELECT count(*)::text FROM pg_stat_activity WHERE application_name = 'litekeep'";
    while server.query(connections).unwrap()[0][0].as_deref() != Some("0") {
        std::thread::sleep(Duration::from_millis(10));
    }
    count()
}

/// Orders of these numbers.
pub(crate) fn orders(first: u32, last: u32) -> String {
    format!("INSERT INTO orders SELECT i, 'n' || i, NULL, i FROM generate_series({first}, {last}) i")
}

/// Parts of these numbers, with something long.
pub(crate) fn parts(first: u32, last: u32, long: &str) -> String {
    format!("INSERT INTO parts SELECT i, 'b', {long} FROM generate_series({first}, {last}) i")
}

/// Statements that are one transaction.
pub(crate) fn transaction(statements: &str) -> String {
    statements.to_owned()
}

/// A change.
pub(crate) fn statement(random: &mut fastrand::Rng) -> String {
    let (id, other) = (random.u32(0..200), random.u32(0..200));
    match random.u32(0..100) {
        0..35 => format!(
            "INSERT INTO orders VALUES({id}, 'n{}', decode('{:02x}', 'hex'), {other}.50) ON CONFLICT DO NOTHING;",
            random.u64(..),
            random.u8(..)
        ),
        35..45 => format!("UPDATE orders SET amount = NULL, body = NULL WHERE id = {id};"),
        45..55 => format!("DELETE FROM orders WHERE id BETWEEN {id} AND {id} + 3;"),
        // The row goes where no other is.
        55..62 => format!(
            "UPDATE orders SET id = {other} WHERE id = {id} AND NOT EXISTS (SELECT 1 FROM orders WHERE id = {other});"
        ),
        // What is long is not sent again when something else changes.
        62..80 => format!(
            "INSERT INTO parts VALUES({id}, 'b{}', repeat('x', 9000) || {other}) ON CONFLICT(a, b) DO UPDATE SET long = excluded.long;",
            random.u32(0..3)
        ),
        80..92 => format!(
            "UPDATE parts SET a = {other} WHERE a = {id} AND NOT EXISTS (SELECT 1 FROM parts WHERE a = {other});"
        ),
        92..98 => format!("DELETE FROM parts WHERE a = {id};"),
        98 => "TRUNCATE parts;".to_owned(),
        // Two exchange what is unique.
        _ => format!(
            "UPDATE orders SET name = name || 'x' WHERE id = {id}; UPDATE orders o SET name = (SELECT p.name || 'y' FROM orders p WHERE p.id = {other}) WHERE id = {id} AND EXISTS (SELECT 1 FROM orders WHERE id = {other});"
        ),
    }
}

#[test]
fn every_type_comes_as_it_is() {
    let scene = Scene::new(
        "inward_types",
        "CREATE TYPE mood AS ENUM ('sad', 'glad'); CREATE DOMAIN age AS int;
         CREATE TABLE all_types(id int PRIMARY KEY, b boolean, i2 smallint, i8 bigint, r real, d double precision, n numeric, t text, v varchar(9), c char(3),
            by bytea, u uuid, da date, ti time, ts timestamp, tz timestamptz, iv interval, j json, jb jsonb, ia int[], ta text[], m mood, g age, ip inet, bi bit(3));
         INSERT INTO all_types VALUES(1, true, -3, 9223372036854775807, 0.1, 1e300, 12345678901234567890.10, E'a\\tb\\nc\\\\d', 'v', 'c',
            '\\x00ff', '00000000-0000-0000-0000-000000000001', '2026-02-28', '23:59:59.5', '2026-02-28 01:02:03.5', '2026-02-28 01:02:03+02', '1 day 2 hours',
            '{\"a\": [1]}', '{\"a\": [1]}', '{1,NULL}', '{\"a,b\",c}', 'glad', 7, '10.0.0.1', B'101');
         INSERT INTO all_types(id, d, tz, da) VALUES(2, 'NaN', 'infinity', 'infinity'); INSERT INTO all_types(id, d, t) VALUES(3, '-Infinity', '');",
    );
    let mut pull = scene.pulled();
    let expected = [
        ("b", "integer 1"),
        ("i2", "integer -3"),
        ("i8", "integer 9223372036854775807"),
        ("r", "real 0.1"),
        ("d", "real 1.0e+300"),
        ("n", "text 12345678901234567890.10"),
        ("t", "text a\tb\nc\\d"),
        ("v", "text v"),
        ("c", "text c  "),
        ("hex(by)", "text 00FF"),
        ("u", "text 00000000-0000-0000-0000-000000000001"),
        ("da", "text 2026-02-28"),
        ("ti", "text 23:59:59.5"),
        ("ts", "text 2026-02-28 01:02:03.500000"),
        ("tz", "text 2026-02-27T23:02:03.000000Z"),
        ("iv", "text P1DT2H"),
        ("j", "text {\"a\": [1]}"),
        ("jb", "text {\"a\": [1]}"),
        ("ia", "text [1,null]"),
        ("ta", "text [\"a,b\",\"c\"]"),
        ("m", "text glad"),
        ("g", "integer 7"),
        ("ip", "text 10.0.0.1"),
        ("bi", "text 101"),
    ];
    let check = |scene: &Scene| {
        for (column, value) in expected {
            let sql = format!("SELECT typeof({column}) || ' ' || {column} FROM all_types WHERE id = 1");
            assert_eq!(scene.rows(&sql), [[Some(value.to_owned())]], "{column}");
        }
        let odd = scene.rows("SELECT d, tz, da FROM all_types WHERE id = 2");
        assert_eq!(odd, [["NaN", "infinity", "infinity"].map(|text| Some(text.to_owned()))]);
        let least = "SELECT 'it is' FROM all_types WHERE id = 3 AND d < -1e308 AND t = '' AND b IS NULL";
        assert_eq!(scene.rows(least).len(), 1);
    };
    check(&scene);
    // By the log the values come as by the copy.
    server()
        .query_in(
            "inward_types",
            "CREATE TEMP TABLE kept AS SELECT * FROM all_types; DELETE FROM all_types; INSERT INTO all_types SELECT * FROM kept",
        )
        .unwrap();
    scene.pull(&mut pull).unwrap();
    check(&scene);
    assert!(scene.runtime.block_on(pull.compare()).unwrap().is_equal());
}

/// Goal: where changes were let go of, rows are compared, and those that are gone there go here.
#[test]
fn a_slot_that_is_gone_costs_a_comparison_and_no_row() {
    let scene = Scene::new("inward_slot", TABLES);
    let mut random = fastrand::Rng::with_seed(8);
    churn(&server(), "inward_slot", &mut random);
    drop(scene.pulled());
    let old = std::fs::read(scene.database()).unwrap();
    let backup = scene.database().with_extension("old");
    Connection::open(scene.database())
        .unwrap()
        .execute("VACUUM INTO ?1", [backup.to_str().unwrap()])
        .unwrap();
    assert!(!old.is_empty());
    let drop_slot = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE database = 'inward_slot' AND active; \
                     SELECT pg_sleep(0.3); SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = 'inward_slot'";
    server().query(drop_slot).unwrap();
    churn(&server(), "inward_slot", &mut random);
    server()
        .query_in("inward_slot", "DELETE FROM orders WHERE id % 2 = 0; DELETE FROM parts WHERE a % 2 = 1")
        .unwrap();
    drop(scene.pulled());
    scene.assert_equal(&server());
    // A database that was set back knows less than the server has let go of.
    for end in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{end}", scene.database().display()));
    }
    std::fs::rename(&backup, scene.database()).unwrap();
    drop(scene.pulled());
    scene.assert_equal(&server());
}

#[test]
fn one_database_is_pulled_by_one() {
    let scene = Scene::new("inward_two", TABLES);
    let mut first = scene.pulled();
    let mut second = scene.pulling();
    // The server gives the changes to one only.
    let error = scene.pull(&mut second).unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable, "{error}");
    assert!(error.to_string().contains("is active for PID"), "{error}");
    server().query_in("inward_two", "INSERT INTO orders VALUES(1)").unwrap();
    scene.pull(&mut first).unwrap();
    scene.assert_equal(&server());
}

#[test]
fn what_is_over_leaves_nothing_on_the_server() {
    let scene = Scene::new("inward_forgotten", TABLES);
    let mut pull = scene.pulled();
    scene.runtime.block_on(pull.forget()).unwrap();
    for catalog in ["pg_replication_slots WHERE database = 'inward_forgotten'", "pg_publication"] {
        let left = server().query_in("inward_forgotten", &format!("SELECT 1 FROM {catalog}")).unwrap();
        assert_eq!(left.len(), 0, "{catalog}");
    }
    let tables = scene
        .rows("SELECT name FROM sqlite_schema WHERE type = 'table' AND name IN ('orders', '_litekeep_sync')");
    assert_eq!(tables, [[Some("orders".to_owned())]]);
}

#[test]
fn what_cannot_be_is_refused_with_what_to_do() {
    let scene =
        Scene::new("inward_refused", "CREATE TABLE bare(a text); CREATE TABLE fine(id int PRIMARY KEY)");
    let (kind, said) = scene.refused(scene.pulling());
    assert_eq!(kind, Kind::Invalid);
    assert!(
        said.contains("`bare` cannot be pulled: has no primary key")
            && said.contains("ALTER TABLE \"public\".\"bare\""),
        "{said}"
    );
    let (_, said) = scene.refused(scene.pulling_from(&scene.url, &["nothing"]));
    assert!(said.contains("there is no table `public.nothing`"), "{said}");
    // What nothing came into is not made.
    assert!(!scene.database().exists());
    // A user without the right to take changes.
    server()
        .query_in("inward_refused", "CREATE ROLE taker LOGIN PASSWORD 'r'; GRANT SELECT ON fine TO taker")
        .unwrap();
    let url = server().url_with("taker:r@", "inward_refused");
    let (kind, said) = scene.refused(scene.pulling_from(&url, &["fine"]));
    assert_eq!(kind, Kind::Invalid);
    assert!(said.contains("ALTER ROLE \"taker\" REPLICATION"), "{said}");
    server().query("ALTER ROLE taker REPLICATION").unwrap();
    let (_, said) = scene.refused(scene.pulling_from(&url, &["fine"]));
    assert!(said.contains("make the publication") && said.contains("CREATE PUBLICATION"), "{said}");
    let url = server().url_with("taker:wrong@", "inward_refused");
    let (kind, said) = scene.refused(scene.pulling_from(&url, &["fine"]));
    assert_eq!(kind, Kind::Invalid);
    assert!(said.contains("password") && !said.contains("wrong@"), "{said}");
    let pooler = server().pooler().unwrap();
    let (_, said) = scene.refused(scene.pulling_from(&pooler.url("inward_refused"), &["fine"]));
    assert!(said.contains("the server itself, and not a pooler"), "{said}");
    // Rows of somebody else's are not overwritten.
    let other = Scene::with_url(scene.url.clone());
    let db = Connection::open(other.database()).unwrap();
    db.execute_batch("CREATE TABLE fine(id INTEGER PRIMARY KEY); INSERT INTO fine VALUES(1)").unwrap();
    let (_, said) = other.refused(other.pulling_from(&other.url, &["fine"]));
    assert!(
        said.contains("the table `fine` is there and has rows") && said.contains("DROP TABLE \"fine\""),
        "{said}"
    );
}

fn rows_with(table: &str, condition: &str) -> Cut {
    Cut { rows: [(table.to_owned(), condition.to_owned())].into(), ..Cut::default() }
}

/// Goal: no row is left out for want of a value that stayed as it was, which the server does not send again.
#[test]
fn a_condition_needs_the_rows_as_they_were() {
    let scene = Scene::new(
        "inward_identity",
        "CREATE TABLE docs(id int PRIMARY KEY, state text, body text); ALTER TABLE docs ALTER COLUMN body SET STORAGE EXTERNAL;
         CREATE TABLE pieces(id int PRIMARY KEY, state text) PARTITION BY RANGE (id); CREATE TABLE pieces_1 PARTITION OF pieces DEFAULT;
         ALTER TABLE pieces REPLICA IDENTITY FULL; CREATE TABLE plain(id int PRIMARY KEY, n bigint, note text);
         INSERT INTO docs VALUES(1, 'draft', repeat('y', 9000)), (2, 'public', repeat('y', 9001)), (3, 'public', repeat('x', 9002))",
    );
    let query = |sql: &str| server().query_in("inward_identity", sql).unwrap();
    let cut = rows_with("docs", "state = 'public' AND body LIKE 'y%'");
    let (kind, said) = scene.refused(scene.pulling_cut(&cut));
    assert_eq!(kind, Kind::Invalid);
    assert!(
        said.contains("`docs` cannot be pulled")
            && said.contains("ALTER TABLE \"public\".\"docs\" REPLICA IDENTITY FULL;"),
        "{said}"
    );
    let (_, said) = scene.refused(scene.pulling_cut(&rows_with("pieces", "state = 'x'")));
    assert!(said.contains("\"pieces_1\" REPLICA IDENTITY FULL;"), "{said}");
    assert!(!said.contains("\"pieces\" REPLICA"), "{said}");
    // Where nothing is long nothing is needed.
    let other = Scene::with_url(scene.url.clone());
    let columns = [("plain".to_owned(), vec!["id".to_owned(), "n".to_owned()])].into();
    other.pull_in_the_end(&mut other.pulling_cut(&Cut { columns, ..rows_with("plain", "n > 1") }));

    query("ALTER TABLE docs REPLICA IDENTITY FULL");
    let mut pull = scene.pulling_cut(&cut);
    scene.pull_in_the_end(&mut pull);
    let here = || {
        scene
            .rows("SELECT group_concat(id || ':' || length(body), ' ') FROM (SELECT * FROM docs ORDER BY id)")
    };
    let is_here = |rows: &str| assert_eq!(here(), [[Some(rows.to_owned())]]);
    is_here("2:9001");
    query("UPDATE docs SET state = 'public' WHERE id = 1");
    scene.pull(&mut pull).unwrap();
    is_here("1:9000 2:9001");
    query("UPDATE docs SET state = 'draft' WHERE id = 2");
    scene.pull(&mut pull).unwrap();
    is_here("1:9000");
    // Somebody takes it back.
    query("ALTER TABLE docs REPLICA IDENTITY DEFAULT");
    query("UPDATE docs SET state = 'public' WHERE id = 2");
    scene.pull(&mut pull).unwrap();
    let paused = pull.progress().unwrap().paused;
    assert!(paused.len() == 1 && paused[0].1.contains("\"docs\" REPLICA IDENTITY FULL;"), "{paused:?}");
    is_here("1:9000");
    query("ALTER TABLE docs REPLICA IDENTITY FULL");
    // What the server has not yet seen confirmed comes once more, as it came.
    for _ in 0..10 {
        scene.runtime.block_on(pull.resync()).unwrap();
        scene.pull(&mut pull).unwrap();
        if pull.progress().unwrap().paused.is_empty() {
            break;
        }
    }
    assert_eq!(pull.progress().unwrap().paused, []);
    is_here("1:9000 2:9001");
}
