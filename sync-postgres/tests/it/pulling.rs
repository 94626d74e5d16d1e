//! SQLite as PostgreSQL has it: real logical replication, and both sides read by others than litekeep and held against each other.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use litekeep_sync::pull::Settings;
use litekeep_sync::push::Step;
use litekeep_sync::{Error, Flow as _, Kind, Pull};
use litekeep_sync_postgres::source::Wanted;
use litekeep_sync_postgres::{Address, PostgresSource};
use litekeep_testkit::postgres::Postgres as Server;
use rusqlite::Connection;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::server::server;

const PATIENCE: Duration = Duration::from_secs(60);

/// A database of a server, and one of SQLite that is kept as it.
pub(crate) struct Scene {
    dir: TempDir,
    pub(crate) runtime: Runtime,
    pub(crate) url: String,
}

impl Scene {
    /// A new database of the shared server, from these statements.
    pub(crate) fn new(name: &str, sql: &str) -> Scene {
        let server = server();
        server.query(&format!("CREATE DATABASE {name}")).unwrap();
        server.query_in(name, sql).unwrap();
        Scene::with_url(server.url(name))
    }

    fn with_url(url: String) -> Scene {
        Scene { dir: tempfile::tempdir().unwrap(), runtime: Runtime::new().unwrap(), url }
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.dir.path().join("app.db")
    }

    pub(crate) fn pulling(&self) -> Pull<PostgresSource> {
        self.pulling_from(&self.url, Wanted::default())
    }

    pub(crate) fn pulling_from(&self, url: &str, wanted: Wanted) -> Pull<PostgresSource> {
        let settings = Settings { name: "orders".into(), database: self.database(), creates: true };
        Pull::new(settings, PostgresSource::new(Address::parse(url).unwrap(), wanted))
    }

    /// Until SQLite has everything that the server has now, which it is asked anew.
    fn pull(&self, pull: &mut Pull<PostgresSource>) -> Result<(), Error> {
        pull.begin_anew();
        self.runtime.block_on(async {
            while pull.step().await? == Step::More {}
            Ok(())
        })
    }

    /// Until SQLite has everything, whatever is not there for a while.
    fn pull_in_the_end(&self, pull: &mut Pull<PostgresSource>) {
        for _ in 0..100 {
            match self.pull(pull) {
                Ok(()) => return,
                Err(error) if error.kind() == Kind::Unavailable => {
                    std::thread::sleep(Duration::from_millis(100))
                }
                Err(error) => panic!("{error}"),
            }
        }
        panic!("it does not come to its end");
    }

    fn pulled(&self) -> Pull<PostgresSource> {
        let mut pull = self.pulling();
        self.pull_in_the_end(&mut pull);
        pull
    }

    /// Goes on with what has begun until something holds.
    fn follow(&self, pull: &mut Pull<PostgresSource>, mut holds: impl FnMut() -> bool) {
        let begin = Instant::now();
        while !holds() {
            assert!(begin.elapsed() < PATIENCE, "it does not come");
            self.runtime.block_on(pull.step()).unwrap();
        }
    }

    /// Rows of SQLite as text.
    pub(crate) fn rows(&self, sql: &str) -> Vec<Vec<Option<String>>> {
        let db = Connection::open(self.database()).unwrap();
        let mut select = db.prepare(sql).unwrap();
        let columns = select.column_count();
        let rows = select.query_map((), |row| (0..columns).map(|nth| row.get(nth)).collect()).unwrap();
        rows.collect::<Result<_, _>>().unwrap()
    }

    fn name(&self) -> &str {
        self.url.rsplit('/').next().unwrap()
    }

    /// Holds all rows of the tables of [`TABLES`] against each other.
    fn assert_equal(&self, server: &Server) {
        assert_eq!(self.difference(server), None);
    }

    fn difference(&self, server: &Server) -> Option<String> {
        for (table, columns, here) in [
            (
                "orders",
                "id::text, name, encode(body, 'hex'), amount::text",
                "CAST(id AS TEXT), name, lower(hex(body)), amount",
            ),
            ("parts", "a::text, b, long", "CAST(a AS TEXT), b, long"),
        ] {
            // hex() makes an empty text of NULL.
            let here = here.replace("lower(hex(body))", "iif(body IS NULL, NULL, lower(hex(body)))");
            let mut there = server.query_in(self.name(), &format!("SELECT {columns} FROM {table}")).unwrap();
            let mut here = self.rows(&format!("SELECT {here} FROM {table}"));
            there.sort();
            here.sort();
            let missing: Vec<_> = there.iter().filter(|row| !here.contains(row)).take(3).collect();
            let extra: Vec<_> = here.iter().filter(|row| !there.contains(row)).take(3).collect();
            if here != there {
                return Some(format!("{table}: missing {missing:?}, too many {extra:?}"));
            }
        }
        None
    }
}

impl Drop for Scene {
    /// The server has no more than fifty slots.
    fn drop(&mut self) {
        let sql = format!(
            "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE database = '{0}' AND active; \
             SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = '{0}' AND NOT active",
            self.name()
        );
        let _ = server().query(&sql);
    }
}

const TABLES: &str = "CREATE TABLE orders(id bigint PRIMARY KEY, name text UNIQUE, body bytea, amount numeric(12, 2));
     CREATE TABLE parts(a int, b text, long text, PRIMARY KEY(a, b)); ALTER TABLE parts ALTER COLUMN long SET STORAGE EXTERNAL;";

/// Some transactions of all kinds.
fn churn(server: &Server, name: &str, random: &mut fastrand::Rng) {
    for _ in 0..random.u32(1..6) {
        let mut sql = String::new();
        for _ in 0..random.u32(1..20) {
            let (id, other) = (random.u32(0..200), random.u32(0..200));
            sql.push_str(&match random.u32(0..100) {
                0..35 => format!(
                    "INSERT INTO orders VALUES({id}, 'n{}', decode('{:02x}', 'hex'), {other}.50) ON CONFLICT DO NOTHING;",
                    random.u64(..),
                    random.u8(..)
                ),
                35..45 => format!("UPDATE orders SET amount = NULL, body = NULL WHERE id = {id};"),
                45..55 => format!("DELETE FROM orders WHERE id BETWEEN {id} AND {id} + 3;"),
                // The row goes where no other is.
                55..62 => format!("UPDATE orders SET id = {other} WHERE id = {id} AND NOT EXISTS (SELECT 1 FROM orders WHERE id = {other});"),
                // What is long is not sent again when something else changes.
                62..80 => format!("INSERT INTO parts VALUES({id}, 'b{}', repeat('x', 9000) || {other}) ON CONFLICT(a, b) DO UPDATE SET long = excluded.long;", random.u32(0..3)),
                80..92 => format!(
                    "UPDATE parts SET a = {other} WHERE a = {id} AND NOT EXISTS (SELECT 1 FROM parts WHERE a = {other});"
                ),
                92..98 => format!("DELETE FROM parts WHERE a = {id};"),
                98 => "TRUNCATE parts;".to_owned(),
                // Two exchange what is unique.
                _ => format!(
                    "UPDATE orders SET name = name || 'x' WHERE id = {id}; UPDATE orders o SET name = (SELECT p.name || 'y' FROM orders p WHERE p.id = {other}) WHERE id = {id} AND EXISTS (SELECT 1 FROM orders WHERE id = {other});"
                ),
            });
        }
        server.query_in(name, &sql).unwrap();
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

#[test]
fn what_happens_there_happens_here() {
    let scene = Scene::new("inward_churn", TABLES);
    let mut random = fastrand::Rng::with_seed(5);
    let mut pull = scene.pulling();
    for round in 0..25 {
        churn(&server(), "inward_churn", &mut random);
        match round % 5 {
            0 => scene.pull(&mut pull).unwrap(),
            _ => scene.follow(&mut pull, || scene.difference(&server()).is_none()),
        }
        scene.assert_equal(&server());
    }
    let found = scene.runtime.block_on(pull.compare()).unwrap();
    assert!(found.is_equal() && found.rows > 0, "{found:?}");
    assert_eq!(scene.rows("SELECT name FROM sqlite_schema WHERE type = 'index' AND sql NOT NULL").len(), 1);
}

/// Goal: no row is lost and none comes twice, whenever the server is killed, the connection cut, or the puller begins anew; in the copy, too,
/// and while rows change.
#[test]
fn kills_lose_nothing_and_repeat_nothing() {
    let mut server = Server::start().unwrap();
    server.query(TABLES).unwrap();
    server
        .query("INSERT INTO orders SELECT i, 'n' || i, NULL, i FROM generate_series(1000, 30000) i; INSERT INTO parts SELECT i, 'b', repeat('y', 3000) FROM generate_series(1000, 3000) i")
        .unwrap();
    let scene = Scene::with_url(server.url("postgres"));
    let mut random = fastrand::Rng::with_seed(12);
    let mut pull = scene.pulling();
    for round in 0..18 {
        for _ in 0..random.u32(1..4) {
            churn(&server, "postgres", &mut random);
        }
        let steps = random.u32(0..4);
        let moment = Duration::from_micros(random.u64(100..40_000));
        scene.runtime.block_on(async {
            for _ in 0..steps {
                let _ = pull.step().await;
            }
            let _ = tokio::time::timeout(moment, pull.step()).await;
        });
        match round % 3 {
            0 => pull = scene.pulling(),
            1 => {
                server.kill().unwrap();
                let error = scene.pull(&mut pull).unwrap_err();
                assert_eq!(error.kind(), Kind::Unavailable, "{error}");
                server.resume().unwrap();
            }
            _ => {
                server.query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'litekeep'").unwrap();
                pull = scene.pulling();
            }
        }
    }
    scene.pull_in_the_end(&mut pull);
    scene.assert_equal(&server);
}

/// Goal: a transaction that is too big to be held is seen here whole or not at all.
#[test]
fn a_big_transaction_is_one() {
    let scene = Scene::new("inward_big", TABLES);
    let mut pull = scene.pulled();
    let sql = "INSERT INTO parts SELECT i, 'b', repeat('z', 2000) FROM generate_series(1, 20000) i";
    server().query_in("inward_big", sql).unwrap();
    let db = Connection::open(scene.database()).unwrap();
    let mut seen = vec![];
    scene.follow(&mut pull, || {
        let count: i64 = db.query_row("SELECT count(*) FROM parts", (), |row| row.get(0)).unwrap();
        seen.push(count);
        count == 20_000
    });
    assert!(seen.iter().all(|count| [0, 20_000].contains(count)), "{seen:?}");
    scene.assert_equal(&server());
}

#[test]
fn columns_that_are_added_come_with_their_values() {
    let scene = Scene::new("inward_columns", TABLES);
    server().query_in("inward_columns", "INSERT INTO orders VALUES(1, 'a'), (2, 'b')").unwrap();
    let mut pull = scene.pulled();
    let sql = "ALTER TABLE orders ADD COLUMN state text NOT NULL DEFAULT 'new'; INSERT INTO orders(id, name) VALUES(3, 'c'); UPDATE orders SET state = 'old' WHERE id = 2";
    server().query_in("inward_columns", sql).unwrap();
    scene.pull(&mut pull).unwrap();
    let states = scene.rows("SELECT state FROM orders ORDER BY id");
    assert_eq!(states, [["new"], ["old"], ["new"]].map(|[state]| [Some(state.to_owned())]));
    assert_eq!(pull.progress().unwrap().paused, []);
    scene.assert_equal(&server());
}

#[test]
fn a_table_that_changes_otherwise_stands_still_and_the_others_go_on() {
    let scene = Scene::new("inward_changed", TABLES);
    server().query_in("inward_changed", "INSERT INTO orders VALUES(1, 'a')").unwrap();
    let mut pull = scene.pulled();
    let sql = "ALTER TABLE orders DROP COLUMN body; INSERT INTO orders VALUES(2, 'b'); INSERT INTO parts VALUES(1, 'x', 'y')";
    server().query_in("inward_changed", sql).unwrap();
    scene.pull(&mut pull).unwrap();
    assert_eq!(scene.rows("SELECT count(*) || '' FROM orders"), [[Some("1".to_owned())]]);
    assert_eq!(scene.rows("SELECT b FROM parts"), [[Some("x".to_owned())]]);
    let paused = pull.progress().unwrap().paused;
    assert_eq!(paused, [("orders".to_owned(), "its column `body` is gone or has another name".to_owned())]);
    // A rename is told, though no row of it comes any more.
    server()
        .query_in(
            "inward_changed",
            "ALTER TABLE parts RENAME TO pieces; INSERT INTO pieces VALUES(2, 'x', 'y')",
        )
        .unwrap();
    scene.pull(&mut pull).unwrap();
    let paused = pull.progress().unwrap().paused;
    assert!(paused[1].1.contains("dropped there, or has another name"), "{paused:?}");
    server()
        .query_in(
            "inward_changed",
            "ALTER TABLE pieces RENAME TO parts; ALTER TABLE orders ADD COLUMN body bytea",
        )
        .unwrap();
    scene.runtime.block_on(pull.resync()).unwrap();
    scene.pull(&mut pull).unwrap();
    assert_eq!(pull.progress().unwrap().paused, []);
    scene.assert_equal(&server());
}

/// Goal: where changes were let go of, rows are compared, and those that are gone there go here.
#[test]
fn a_slot_that_is_gone_costs_a_comparison_and_no_row() {
    let scene = Scene::new("inward_slot", TABLES);
    let mut random = fastrand::Rng::with_seed(8);
    churn(&server(), "inward_slot", &mut random);
    drop(scene.pulled());
    let old = std::fs::read(scene.database()).unwrap();
    let backup = scene.dir.path().join("old.db");
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

/// A table of the application's that has the name of a new one there is not taken for one of the sync's.
#[test]
fn nobody_elses_rows_are_swept_away() {
    let scene = Scene::new("inward_swept", TABLES);
    let mut pull = scene.pulled();
    let db = Connection::open(scene.database()).unwrap();
    db.execute_batch(
        "CREATE TABLE notes(id INTEGER PRIMARY KEY, text TEXT); INSERT INTO notes VALUES(1, 'mine')",
    )
    .unwrap();
    server().query_in("inward_swept", "CREATE TABLE notes(id int PRIMARY KEY, text text)").unwrap();
    let error = scene.runtime.block_on(pull.resync()).unwrap_err();
    assert!(error.to_string().contains("the table `notes` is there and has rows"), "{error}");
    scene.pull_in_the_end(&mut pull);
    assert_eq!(scene.rows("SELECT text FROM notes"), [[Some("mine".to_owned())]]);
    scene.assert_equal(&server());
}

#[test]
fn what_differs_is_found_and_mended() {
    let scene = Scene::new("inward_differs", TABLES);
    let rows = "INSERT INTO orders SELECT i, 'n' || i, NULL, 1.50 FROM generate_series(1, 50) i";
    server().query_in("inward_differs", rows).unwrap();
    let mut pull = scene.pulled();
    let db = Connection::open(scene.database()).unwrap();
    db.execute_batch("UPDATE orders SET name = 'other' WHERE id = 7; DELETE FROM orders WHERE id = 9; INSERT INTO orders VALUES(99, 'x', NULL, NULL)").unwrap();
    let found = scene.runtime.block_on(pull.compare()).unwrap();
    assert_eq!((found.rows, found.missing, found.extra, found.different), (50, 1, 1, 1), "{found:?}");
    assert!(found.told.iter().any(|one| one.key == ["i7"] && one.what == "name"), "{found:?}");
    scene.runtime.block_on(pull.resync()).unwrap();
    scene.pull(&mut pull).unwrap();
    scene.assert_equal(&server());
    assert!(scene.runtime.block_on(pull.compare()).unwrap().is_equal());
}

/// What the application forbids in its own table is listed, and comes when it is mended there.
#[test]
fn rows_that_are_forbidden_here_are_listed() {
    let scene = Scene::new("inward_forbidden", TABLES);
    let db = Connection::open(scene.database()).unwrap();
    db.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE orders(id INTEGER PRIMARY KEY, name TEXT CHECK(name NOT LIKE 'bad%'), body BLOB, amount TEXT)").unwrap();
    server()
        .query_in("inward_forbidden", "INSERT INTO orders VALUES(1, 'good'), (2, 'bad'), (3, 'fine')")
        .unwrap();
    let mut pull = scene.pulled();
    assert_eq!(pull.progress().unwrap().refused, 1);
    server().query_in("inward_forbidden", "UPDATE orders SET name = 'bad too' WHERE id = 1").unwrap();
    scene.pull(&mut pull).unwrap();
    let listed = scene.runtime.block_on(scene.pulling().listed()).unwrap().unwrap();
    let keys: Vec<_> = listed.iter().map(|row| row.key.clone()).collect();
    assert!(keys.contains(&vec!["i1".to_owned()]) && keys.contains(&vec!["i2".to_owned()]), "{listed:?}");
    assert!(listed[0].reason.contains("CHECK"), "{listed:?}");
    server()
        .query_in("inward_forbidden", "UPDATE orders SET name = 'better' || id WHERE name LIKE 'bad%'")
        .unwrap();
    scene.pull(&mut pull).unwrap();
    assert_eq!(pull.progress().unwrap().refused, 0);
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
    let tables = scene.rows("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name");
    assert_eq!(tables, [[Some("orders".to_owned())], [Some("parts".to_owned())]]);
}

#[test]
fn what_cannot_be_is_refused_with_what_to_do() {
    let scene =
        Scene::new("inward_refused", "CREATE TABLE bare(a text); CREATE TABLE fine(id int PRIMARY KEY)");
    let refused = |scene: &Scene, mut pull: Pull<PostgresSource>| {
        let error = scene.pull(&mut pull).unwrap_err();
        (error.kind(), format!("{error}; {}", error.hint().unwrap_or_default()))
    };
    let only = |table: &str| Wanted { tables: vec![table.to_owned()], ..Wanted::default() };
    let (kind, said) = refused(&scene, scene.pulling());
    assert_eq!(kind, Kind::Invalid);
    assert!(
        said.contains("`bare` cannot be pulled: has no primary key")
            && said.contains("ALTER TABLE \"public\".\"bare\""),
        "{said}"
    );
    let (_, said) = refused(&scene, scene.pulling_from(&scene.url, only("nothing")));
    assert!(said.contains("there is no table `public.nothing`"), "{said}");
    // What nothing came into is not made.
    assert!(!scene.database().exists());
    // A user without the right to take changes.
    server()
        .query_in("inward_refused", "CREATE ROLE taker LOGIN PASSWORD 'r'; GRANT SELECT ON fine TO taker")
        .unwrap();
    let url = server().url_with("taker:r@", "inward_refused");
    let (kind, said) = refused(&scene, scene.pulling_from(&url, only("fine")));
    assert_eq!(kind, Kind::Invalid);
    assert!(said.contains("ALTER ROLE \"taker\" REPLICATION"), "{said}");
    server().query("ALTER ROLE taker REPLICATION").unwrap();
    let (_, said) = refused(&scene, scene.pulling_from(&url, only("fine")));
    assert!(said.contains("make the publication") && said.contains("CREATE PUBLICATION"), "{said}");
    let url = server().url_with("taker:wrong@", "inward_refused");
    let (kind, said) = refused(&scene, scene.pulling_from(&url, only("fine")));
    assert_eq!(kind, Kind::Invalid);
    assert!(said.contains("password") && !said.contains("wrong@"), "{said}");
    let pooler = server().pooler().unwrap();
    let (_, said) = refused(&scene, scene.pulling_from(&pooler.url("inward_refused"), only("fine")));
    assert!(said.contains("the server itself, and not a pooler"), "{said}");
    // Rows of somebody else's are not overwritten.
    let other = Scene::with_url(scene.url.clone());
    let db = Connection::open(other.database()).unwrap();
    db.execute_batch("CREATE TABLE fine(id INTEGER PRIMARY KEY); INSERT INTO fine VALUES(1)").unwrap();
    let (_, said) = refused(&other, other.pulling_from(&other.url, only("fine")));
    assert!(
        said.contains("the table `fine` is there and has rows") && said.contains("DROP TABLE \"fine\""),
        "{said}"
    );
}
