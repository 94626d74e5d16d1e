//! SQLite and PostgreSQL in step in both directions: real logs, real logical replication, and both sides read by others than litekeep.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use litekeep_schema::portable::postgres::Options;
use litekeep_store::Store;
use litekeep_sync::cut::Cut;
use litekeep_sync::push;
use litekeep_sync::push::Step;
use litekeep_sync::target::key_text;
use litekeep_sync::two_way::{Conflict, Policies, Policy, Settings};
use litekeep_sync::{Error, Flow as _, Kind, Logs, TwoWay, Value};
use litekeep_sync_postgres::source::Wanted;
use litekeep_sync_postgres::{Address, PostgresSource};
use litekeep_testkit::process::eventually;
use rusqlite::Connection;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::server::server;
use crate::shipping::ship;

const PATIENCE: Duration = Duration::from_secs(60);

/// A database of SQLite with its log, and a sync with a database of a server.
struct Node {
    dir: TempDir,
    runtime: Runtime,
    store: Store,
    url: String,
    policies: Policies,
    flow: Option<TwoWay<PostgresSource>>,
}

type Rows = Vec<Vec<Option<String>>>;

impl Node {
    fn new(url: &str, policy: Policy, sql: &str) -> Node {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&litekeep_store::Target::Folder(dir.path().join("log"))).unwrap();
        let policies = Policies { all: policy, ..Policies::default() };
        let runtime = Runtime::new().unwrap();
        let node = Node { dir, runtime, store, url: url.to_owned(), policies, flow: None };
        node.run(&format!("PRAGMA journal_mode = WAL; {sql}"));
        node.ship();
        node
    }

    fn database(&self) -> PathBuf {
        self.dir.path().join("app.db")
    }

    fn run(&self, sql: &str) {
        Connection::open(self.database()).unwrap().execute_batch(sql).unwrap();
    }

    /// What was written comes into the log, all in one file.
    fn ship(&self) {
        ship(&self.runtime, &self.database(), &self.store);
    }

    fn new_flow(&self) -> TwoWay<PostgresSource> {
        let push = push::Settings {
            name: "both".into(),
            logs: Logs::new(vec![self.store.clone()]).unwrap(),
            tables: vec![],
            cut: Cut::default(),
            scratch: self.dir.path().join("scratch"),
        };
        let (database, policies) = (self.database(), self.policies.clone());
        let settings = Settings { push, database, policies, durable: None };
        let address = Address::parse(&self.url).unwrap();
        TwoWay::new(settings, PostgresSource::two_way(address, Wanted::default(), Options::default()))
    }

    /// Until each side has what the other has now, as far as the log says it.
    fn sync(&mut self) -> Result<(), Error> {
        let mut flow = self.flow.take().unwrap_or_else(|| self.new_flow());
        flow.begin_anew();
        let done = self.runtime.block_on(async {
            let begin = Instant::now();
            while flow.step().await? == Step::More {
                assert!(begin.elapsed() < PATIENCE, "it does not come to rest: {:?}", flow.progress());
            }
            Ok(())
        });
        self.flow = Some(flow);
        done
    }

    /// The same, with what comes of it.
    fn settle(&mut self) {
        for _ in 0..3 {
            self.ship();
            self.sync().unwrap();
        }
    }

    fn rows(&self, sql: &str) -> Rows {
        let db = Connection::open(self.database()).unwrap();
        let mut select = db.prepare(sql).unwrap();
        let columns = select.column_count();
        let rows = select.query_map((), |row| (0..columns).map(|nth| row.get(nth)).collect()).unwrap();
        rows.collect::<Result<_, _>>().unwrap()
    }

    fn conflicts(&self) -> Vec<Conflict> {
        let (conflicts, count) = self.runtime.block_on(self.new_flow().conflicts()).unwrap();
        assert_eq!(conflicts.len() as u64, count);
        conflicts
    }

    /// Pushes there, and transactions of the log.
    fn commits(&self) -> (String, u64) {
        let name = self.url.rsplit('/').next().unwrap();
        let pushes = server().query_in(
            name,
            "SELECT content::json ->> 'pushes' FROM _litekeep_sync WHERE item = 'stage' ORDER BY 1",
        );
        let last = self.runtime.block_on(self.store.list()).unwrap().last().unwrap().get();
        (format!("{:?}", pushes.unwrap()), last)
    }
}

/// A new database of the shared server.
fn database(name: &str, sql: &str) -> String {
    let server = server();
    server.query(&format!("CREATE DATABASE {name}")).unwrap();
    server.query_in(name, sql).unwrap();
    server.url(name)
}

/// The server has no more than fifty slots.
struct Slots(&'static str);

impl Drop for Slots {
    fn drop(&mut self) {
        let sql = format!(
            "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE database = '{0}' AND active; \
             SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = '{0}' AND NOT active",
            self.0
        );
        let _ = server().query(&sql);
    }
}

const ALL: &str = "SELECT id || ' ' || coalesce(v, '-') FROM t ORDER BY id";

fn there(name: &str) -> Rows {
    server().query_in(name, "SELECT id || ' ' || coalesce(v, '-') FROM t ORDER BY id").unwrap()
}

fn shown(rows: &Rows) -> String {
    rows.iter().map(|row| row[0].clone().unwrap()).collect::<Vec<_>>().join(", ")
}

const TABLE: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT);";

#[test]
fn rows_go_both_ways_and_come_to_rest() {
    let (name, _slots) = ("two_ways", Slots("two_ways"));
    let url = database(
        name,
        "CREATE TABLE parts(a int, b text, n numeric(12, 2), at timestamptz, long text, PRIMARY KEY(a, b)); \
         ALTER TABLE parts ALTER COLUMN long SET STORAGE EXTERNAL; \
         INSERT INTO parts VALUES (1, 'x', 1.50, '2026-01-02 03:04:05+02', repeat('l', 9000)), (2, 'y', NULL, NULL, NULL)",
    );
    let many = "WITH n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n WHERE i < 5000) INSERT INTO t SELECT i, 'v' || i FROM n;";
    let mut node = Node::new(&url, Policy::Server, &format!("{TABLE}{many}"));
    // One side may have the table, when it has no rows.
    let mut other = Node::new(&url, Policy::Server, TABLE);
    node.settle();
    other.settle();
    let parts = "SELECT a || ' ' || b || ' ' || coalesce(n, '-') || ' ' || coalesce(at, '-') || ' ' || coalesce(length(long), '-') FROM parts ORDER BY a";
    for node in [&node, &other] {
        assert_eq!(node.rows(ALL), there(name));
        assert_eq!(shown(&node.rows(parts)), "1 x 1.50 2026-01-02T01:04:05.000000Z 9000, 2 y - - -");
    }
    // Each of the three changes something.
    node.run("UPDATE t SET v = 'node' WHERE id = 1; DELETE FROM t WHERE id = 2; INSERT INTO t VALUES (6001, 'new'); UPDATE t SET id = 7000 WHERE id = 3");
    other.run("UPDATE t SET v = 'other' WHERE id = 11; INSERT INTO parts VALUES (3, 'z', '2.5', '2026-01-01 00:00:00+00', 'short')");
    server().query_in(name, "UPDATE t SET v = 'server' WHERE id = 21; UPDATE t SET id = 8000 WHERE id = 22; UPDATE parts SET n = 7 WHERE a = 1").unwrap();
    for _ in 0..2 {
        node.settle();
        other.settle();
    }
    let expected = there(name);
    assert!(shown(&expected).starts_with("1 node, 4 v4,"), "{}", shown(&expected));
    for node in [&node, &other] {
        assert_eq!(node.rows(ALL), expected);
        // What the server makes of a value comes back.
        assert_eq!(
            shown(&node.rows(parts)),
            "1 x 7.00 2026-01-02T01:04:05.000000Z 9000, 2 y - - -, 3 z 2.50 2026-01-01T00:00:00.000000Z 5"
        );
        assert_eq!(node.conflicts(), []);
    }
    // Nothing goes in circles.
    let before = (node.commits(), other.commits());
    for _ in 0..3 {
        node.settle();
        other.settle();
    }
    assert_eq!((node.commits(), other.commits()), before);
    let found = node.runtime.block_on(node.new_flow().compare()).unwrap();
    assert!(found.is_equal() && found.rows > 5000, "{found:?}");
}

/// What each side does to a row that both had as `1 a`; row 2 was on neither.
const EDITS: [(&str, &str, &str); 4] = [
    ("update, update", "UPDATE t SET v = 'here' WHERE id = 1", "UPDATE t SET v = 'there' WHERE id = 1"),
    ("update, delete", "UPDATE t SET v = 'here' WHERE id = 1", "DELETE FROM t WHERE id = 1"),
    ("delete, update", "DELETE FROM t WHERE id = 1", "UPDATE t SET v = 'there' WHERE id = 1"),
    ("insert, insert", "INSERT INTO t VALUES (2, 'here')", "INSERT INTO t VALUES (2, 'there')"),
];

#[test]
fn conflicts_are_decided_alike_and_listed() {
    // Here first, then there: what is later is there.
    let cases: [(&'static str, Policy, bool, [&str; 4]); 4] = [
        ("conflict_server", Policy::Server, true, ["1 there", "", "1 there", "1 a, 2 there"]),
        ("conflict_sqlite", Policy::Sqlite, true, ["1 here", "1 here", "", "1 a, 2 here"]),
        ("conflict_later_there", Policy::Latest, true, ["1 there", "1 here", "1 there", "1 a, 2 there"]),
        ("conflict_later_here", Policy::Latest, false, ["1 here", "1 here", "1 there", "1 a, 2 here"]),
    ];
    for (name, policy, here_first, expected) in cases {
        let _slots = Slots(name);
        let url = database(name, "");
        let mut node = Node::new(&url, policy, &format!("{TABLE} INSERT INTO t VALUES (1, 'a');"));
        node.settle();
        for ((what, here, elsewhere), expected) in EDITS.into_iter().zip(expected) {
            node.run("DELETE FROM t; INSERT INTO t VALUES (1, 'a')");
            node.settle();
            assert_eq!(shown(&there(name)), "1 a");
            let listed = node.conflicts().len();
            let there_now = || drop(server().query_in(name, elsewhere).unwrap());
            if !here_first {
                there_now();
                std::thread::sleep(Duration::from_millis(30));
            }
            node.run(here);
            node.ship();
            if here_first {
                std::thread::sleep(Duration::from_millis(30));
                there_now();
            }
            node.settle();
            let said = format!("{name}: {what}");
            assert_eq!(shown(&node.rows(ALL)), expected, "{said}");
            assert_eq!(shown(&there(name)), expected, "{said}");
            let conflicts = node.conflicts();
            assert_eq!(conflicts.len(), listed + 1, "{said}: {conflicts:#?}");
            let conflict = &conflicts[listed];
            let of = |row: &Option<Vec<String>>| row.as_ref().map_or("gone".to_owned(), |row| row[1].clone());
            let sides = [of(&conflict.kept), of(&conflict.lost)];
            for side in [here, elsewhere] {
                let image =
                    side.split('\'').nth(1).map_or("gone".to_owned(), |v| key_text(&Value::Text(v.into())));
                assert!(sides.contains(&image), "{said}: {image} is not in {conflict:?}");
            }
        }
    }
}

/// A change that is made here while the pull writes the same table, and comes into the log in the same file, is pushed; what the pull wrote is
/// not pushed back.
#[test]
fn what_the_application_does_beside_the_pull_is_pushed() {
    let (name, _slots) = ("two_beside", Slots("two_beside"));
    let url = database(name, "");
    let mut node = Node::new(
        &url,
        Policy::Server,
        &format!("{TABLE} INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c');"),
    );
    node.settle();
    let (pushes, _) = node.commits();
    server().query_in(name, "UPDATE t SET v = 'there' WHERE id IN (1, 2)").unwrap();
    node.sync().unwrap();
    assert_eq!(shown(&node.rows(ALL)), "1 there, 2 there, 3 c");
    // Of the rows that came one is changed on, and one back to what it was before; another one beside them.
    node.run("UPDATE t SET v = 'further' WHERE id = 1; UPDATE t SET v = 'b' WHERE id = 2; INSERT INTO t VALUES (4, 'd')");
    node.settle();
    assert_eq!(shown(&there(name)), "1 further, 2 b, 3 c, 4 d");
    assert_eq!(node.rows(ALL), there(name));
    assert_eq!(node.conflicts(), []);
    let count = |pushes: &str| pushes.split('"').nth(1).unwrap().parse::<u64>().unwrap();
    assert_eq!(count(&node.commits().0), count(&pushes) + 1);
}

/// While a push has not come back, what others did before it is passed over.
#[test]
fn a_row_that_was_there_and_back_is_not_mistaken() {
    let (name, _slots) = ("two_back", Slots("two_back"));
    let url = database(name, "");
    let mut node = Node::new(&url, Policy::Server, &format!("{TABLE} INSERT INTO t VALUES (1, 'a');"));
    node.settle();
    node.run("UPDATE t SET v = 'here' WHERE id = 1");
    node.ship();
    server().query_in(name, "UPDATE t SET v = 'x' WHERE id = 1").unwrap();
    server().query_in(name, "UPDATE t SET v = 'a' WHERE id = 1").unwrap();
    node.settle();
    assert_eq!(shown(&there(name)), "1 here");
    assert_eq!(node.rows(ALL), there(name));
}

#[test]
fn what_has_rows_on_both_sides_waits_for_a_word() {
    let (name, _slots) = ("two_filled", Slots("two_filled"));
    let url = database(
        name,
        "CREATE TABLE t(id bigint PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'same'), (2, 'there'), (3, 'only there')",
    );
    let mut node = Node::new(
        &url,
        Policy::Sqlite,
        &format!("{TABLE} INSERT INTO t VALUES (1, 'same'), (2, 'here'), (4, 'only here');"),
    );
    let error = node.sync().unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
    assert!(error.to_string().contains("`t` has rows on both sides"), "{error}");
    assert!(error.hint().unwrap().contains("`litekeep sync resync both`"), "{error:?}");
    assert_eq!(shown(&there(name)), "1 same, 2 there, 3 only there");
    let mut flow = node.new_flow();
    node.runtime.block_on(flow.resync()).unwrap();
    node.settle();
    assert_eq!(shown(&there(name)), "1 same, 2 here, 3 only there, 4 only here");
    assert_eq!(node.rows(ALL), there(name));
    let conflicts = node.conflicts();
    assert_eq!(conflicts.len(), 1);
    assert_eq!(
        (conflicts[0].winner.as_str(), &conflicts[0].lost),
        ("sqlite", &Some(vec!["i2".into(), "sthere".into()]))
    );
}

/// The server makes something else of what comes, which comes back once; what cannot be there is listed, and goes when it is mended.
#[test]
fn rules_of_the_server_are_kept() {
    let (name, _slots) = ("two_rules", Slots("two_rules"));
    let url = database(
        name,
        "CREATE TABLE t(id bigint PRIMARY KEY, v text UNIQUE CHECK (v <> 'bad')); \
         CREATE FUNCTION upper_v() RETURNS trigger AS 'BEGIN NEW.v := upper(NEW.v); RETURN NEW; END' LANGUAGE plpgsql; \
         CREATE TRIGGER up BEFORE INSERT OR UPDATE ON t FOR EACH ROW WHEN (NEW.v LIKE 'up%') EXECUTE FUNCTION upper_v()",
    );
    let mut node = Node::new(
        &url,
        Policy::Server,
        &format!("{TABLE} INSERT INTO t VALUES (1, 'up1'), (2, 'b'), (3, 'c');"),
    );
    node.settle();
    assert_eq!(shown(&node.rows(ALL)), "1 UP1, 2 b, 3 c");
    node.run("UPDATE t SET v = 'up2' WHERE id = 1");
    node.settle();
    assert_eq!(shown(&node.rows(ALL)), "1 UP2, 2 b, 3 c");
    assert_eq!(node.conflicts(), []);
    // Two exchange what must be unique, one breaks a rule.
    node.run("UPDATE t SET v = 'x' WHERE id = 2; UPDATE t SET v = 'b' WHERE id = 3; UPDATE t SET v = 'c' WHERE id = 2; UPDATE t SET v = 'bad' WHERE id = 1");
    node.settle();
    assert_eq!(shown(&there(name)), "1 UP2, 2 c, 3 b");
    assert_eq!(node.flow.as_ref().unwrap().progress().unwrap().refused, 1);
    let listed = node.runtime.block_on(node.new_flow().listed()).unwrap().unwrap();
    assert!(listed.len() == 1 && listed[0].reason.contains("check constraint"), "{listed:?}");
    node.run("UPDATE t SET v = 'good' WHERE id = 1");
    node.settle();
    assert_eq!(shown(&there(name)), "1 good, 2 c, 3 b");
    assert_eq!(node.rows(ALL), there(name));
    assert_eq!(node.flow.as_ref().unwrap().progress().unwrap().refused, 0);
}

#[test]
fn a_slot_that_is_gone_costs_a_comparison() {
    let (name, _slots) = ("two_slotless", Slots("two_slotless"));
    let url = database(name, "");
    let mut node = Node::new(
        &url,
        Policy::Server,
        &format!("{TABLE} INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c');"),
    );
    node.settle();
    node.flow = None;
    eventually("the slot is gone", PATIENCE, || {
        drop(Slots(name));
        Ok(server()
            .query(&format!("SELECT 1 FROM pg_replication_slots WHERE database = '{name}'"))?
            .is_empty())
    })
    .unwrap();
    server()
        .query_in(name, "UPDATE t SET v = 'there' WHERE id = 1; INSERT INTO t VALUES (4, 'there')")
        .unwrap();
    node.run("UPDATE t SET v = 'here' WHERE id = 2; INSERT INTO t VALUES (5, 'here')");
    node.settle();
    assert_eq!(node.rows(ALL), there(name));
    // What the hub keeps of the last push tells who has changed a row.
    assert_eq!(shown(&there(name)), "1 there, 2 here, 3 c, 4 there, 5 here");
    assert_eq!(node.conflicts(), []);
    // Where nothing is kept nobody knows: the policy decides, and says so.
    node.flow = None;
    server().query_in(name, "DELETE FROM _litekeep_sync; UPDATE t SET v = 'again' WHERE id = 1").unwrap();
    node.run("UPDATE t SET v = 'again' WHERE id = 2; DELETE FROM _litekeep_sync WHERE item LIKE 'row/%'");
    node.settle();
    assert_eq!(node.rows(ALL), there(name));
    assert_eq!(shown(&there(name)), "1 again, 2 here, 3 c, 4 there, 5 here");
    assert_eq!(node.conflicts().len(), 2);
}

#[test]
fn what_cannot_go_both_ways_is_refused_with_what_to_do() {
    let (name, _slots) = ("two_refused", Slots("two_refused"));
    let url = database(name, "CREATE TABLE t(id bigint PRIMARY KEY, v text, more text)");
    let mut node = Node::new(&url, Policy::Server, TABLE);
    let refused = |node: &mut Node| {
        let error = node.sync().unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid, "{error}");
        error.to_string()
    };
    assert!(refused(&mut node).contains("`t.more: is not in SQLite: both sides must have the same columns`"));
    server().query_in(name, "DROP TABLE t; CREATE TABLE t(id bigint, v text PRIMARY KEY)").unwrap();
    assert!(refused(&mut node).contains("must have the same primary key on both sides"));
    server().query_in(name, "DROP TABLE t; CREATE TABLE t(id bigint PRIMARY KEY, v int[])").unwrap();
    assert!(refused(&mut node).contains("whose values are read and not written"));
    server().query_in(name, "DROP TABLE t; CREATE TABLE bare(a text)").unwrap();
    assert!(refused(&mut node).contains("bare: has no primary key"));
    server().query_in(name, "DROP TABLE bare").unwrap();
    node.settle();
    // A table that is changed stands still, and goes on when both sides are the same again.
    node.run("ALTER TABLE t ADD COLUMN more TEXT; INSERT INTO t VALUES (1, 'a', 'm')");
    node.settle();
    let paused = node.flow.as_ref().unwrap().progress().unwrap().paused;
    assert!(paused.len() == 1 && paused[0].1.contains("its columns were changed here"), "{paused:?}");
    server()
        .query_in(name, "ALTER TABLE t ADD COLUMN more text; INSERT INTO t VALUES (2, 'b', 'n')")
        .unwrap();
    let mut flow = node.new_flow();
    node.runtime.block_on(flow.resync()).unwrap();
    node.settle();
    let rows = "SELECT id || v || more FROM t ORDER BY id";
    assert_eq!(shown(&node.rows(rows)), "1am, 2bn");
    assert_eq!(node.rows(rows), server().query_in(name, rows).unwrap());
    // And is forgotten.
    let mut flow = node.new_flow();
    node.flow = None;
    node.runtime.block_on(flow.forget()).unwrap();
    for left in [
        "pg_replication_slots WHERE database = 'two_refused'",
        "pg_publication",
        "pg_class WHERE relname = '_litekeep_sync'",
    ] {
        assert_eq!(server().query_in(name, &format!("SELECT 1 FROM {left}")).unwrap().len(), 0, "{left}");
    }
    assert_eq!(node.rows("SELECT name FROM sqlite_schema WHERE name = '_litekeep_sync'").len(), 0);
}

/// The server may have foreign keys that the order of the tables knows nothing of: rows come and go all the same, and those that a key takes along
/// are as gone as they should be.
#[test]
fn rows_come_and_go_as_foreign_keys_admit_it() {
    let (name, _slots) = ("two_keys", Slots("two_keys"));
    let url = database(name, "");
    let mut node = Node::new(
        &url,
        Policy::Server,
        "CREATE TABLE a(id INTEGER PRIMARY KEY, b INT); CREATE TABLE b(id INTEGER PRIMARY KEY, c INT); CREATE TABLE c(id INTEGER PRIMARY KEY);
         CREATE TABLE part(id INTEGER PRIMARY KEY, whole INT); INSERT INTO a VALUES (9, NULL)",
    );
    node.settle();
    let keys = "ALTER TABLE a ADD FOREIGN KEY (b) REFERENCES b DEFERRABLE INITIALLY DEFERRED;
         ALTER TABLE b ADD FOREIGN KEY (c) REFERENCES c ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED;
         ALTER TABLE part ADD FOREIGN KEY (whole) REFERENCES c ON DELETE CASCADE";
    server().query_in(name, keys).unwrap();
    let all = "SELECT (SELECT count(*) FROM a) || ' ' || (SELECT count(*) FROM b) || ' ' || (SELECT count(*) FROM c) || ' ' || (SELECT count(*) FROM part)";
    for (sql, expected) in [
        (
            "INSERT INTO c VALUES (1), (2); INSERT INTO b VALUES (1, 1), (2, 2); INSERT INTO a VALUES (1, 1), (2, 2); INSERT INTO part VALUES (1, 1), (2, 2)",
            "3 2 2 2",
        ),
        (
            "DELETE FROM part WHERE whole = 1; DELETE FROM a WHERE b = 1; DELETE FROM b WHERE c = 1; DELETE FROM c WHERE id = 1",
            "2 1 1 1",
        ),
        ("DELETE FROM part; DELETE FROM a; DELETE FROM b; DELETE FROM c", "0 0 0 0"),
    ] {
        node.run(sql);
        node.settle();
        let progress = node.flow.as_ref().unwrap().progress().unwrap();
        assert_eq!((progress.refused, progress.conflicts), (0, 0), "{sql}: {progress:?}");
        for rows in [node.rows(all), server().query_in(name, all).unwrap()] {
            assert_eq!(shown(&rows), expected, "{sql}");
        }
    }
}
