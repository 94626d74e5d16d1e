//! What servers that speak SQL must do when they are kept in step in both directions; and the like of what others do in their own way.

use anyhow::Result;
use litekeep_sync::Flow as _;
use litekeep_sync::two_way::Policy;

use crate::hub::{self, PARTS, RULES, WHY_NOT, query_at};
use crate::server::{Server, is_kept, server};
use crate::two_way_scene::Edit::{self, Set};
use crate::two_way_scene::{ALL, Database, Node, Rows, TABLE, shown};

impl Database {
    /// A new one in which this was done.
    pub(crate) fn with(name: &'static str, sql: &str) -> Database {
        let there = Database::new(name);
        there.query(sql);
        there
    }

    pub(crate) fn query(&self, sql: &str) -> Rows {
        server().query_in(self.0, sql).unwrap()
    }
}

/// A table `t` with such rows.
pub(crate) fn fill(server: &Server, database: &str, rows: &[(i64, &str)]) {
    let rows: Vec<String> = rows.iter().map(|(id, v)| format!("({id}, '{v}')")).collect();
    let sql = format!(
        "CREATE TABLE t(id bigint PRIMARY KEY, v varchar(2000)); INSERT INTO t VALUES {}",
        rows.join(", ")
    );
    server.query_in(database, &sql).unwrap();
}

/// All rows of `t`.
pub(crate) fn all(server: &Server, database: &str) -> Rows {
    server.query_in(database, "SELECT concat(id, ' ', coalesce(v, '-')) FROM t ORDER BY id").unwrap()
}

fn in_sql(edits: &[Edit]) -> String {
    edits.iter().map(Edit::sql).collect::<Vec<_>>().join("; ")
}

/// Somebody does this.
pub(crate) fn edit(server: &Server, database: &str, edits: &[Edit]) -> Result<()> {
    server.query_in(database, &in_sql(edits)).map(drop)
}

/// The same, who logs in by himself.
pub(crate) fn edit_at(login: &str, edits: &[Edit]) -> Result<()> {
    query_at(login, &in_sql(edits)).map(drop)
}

/// The item of each node that says how far it is.
pub(crate) fn stages(server: &Server, database: &str) -> Vec<String> {
    let sql = "SELECT content FROM _litekeep_sync WHERE item = 'stage' ORDER BY name";
    server.query_in(database, sql).unwrap().into_iter().flatten().flatten().collect()
}

/// All that is kept of nodes is gone.
pub(crate) fn lose(server: &Server, database: &str) {
    server.query_in(database, "DELETE FROM _litekeep_sync").unwrap();
}

/// Values that the server writes in its own way come so, and come back so.
#[test]
fn what_the_server_makes_of_values_comes_back() {
    let there = Database::with("two_parts_of", PARTS);
    let mut node = Node::new(&there.url(), Policy::Server, TABLE);
    let mut other = Node::new(&there.url(), Policy::Server, TABLE);
    node.settle();
    other.settle();
    let parts = "SELECT a || ' ' || b || ' ' || coalesce(n, '-') || ' ' || coalesce(at, '-') || ' ' || coalesce(length(body), '-') FROM parts ORDER BY a";
    for node in [&node, &other] {
        assert_eq!(shown(&node.rows(parts)), "1 x 1.50 2026-01-02T01:04:05.000000Z 9000, 2 y - - -");
    }
    other.run("INSERT INTO parts VALUES (3, 'z', '2.5', '2026-01-01T00:00:00Z', 'short')");
    there.query("UPDATE parts SET n = 7 WHERE a = 1");
    for _ in 0..2 {
        node.settle();
        other.settle();
    }
    for node in [&node, &other] {
        assert_eq!(
            shown(&node.rows(parts)),
            "1 x 7.00 2026-01-02T01:04:05.000000Z 9000, 2 y - - -, 3 z 2.50 2026-01-01T00:00:00.000000Z 5"
        );
        assert_eq!(node.conflicts(), []);
    }
}

/// Goal: of two transactions that wait for each other the server ends one, and that is done again. Method: an application that takes two rows in
/// the other order, and asks for the second one when the first one of both is taken.
#[test]
fn what_the_server_ends_is_done_again() {
    let name = "two_deadlocked";
    let there = Database::new(name);
    let mut node = Node::new(
        &there.url(),
        Policy::Server,
        &format!("{TABLE} INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c');"),
    );
    node.settle();
    node.run("UPDATE t SET v = 'here'");
    node.ship();
    let open = hub::holding(name, &[Set(2, "there"), Set(1, "there")], 2.0);
    let failed_here = node.sync_in_the_end();
    let failed_there = open.join().unwrap().is_err();
    assert_eq!((failed_here > 0) as u8 + failed_there as u8, 1, "{failed_here} {failed_there}");
    node.settle();
    let expected = if failed_there { "1 here, 2 here, 3 here" } else { "1 there, 2 there, 3 here" };
    assert_eq!(shown(&there.all()), expected);
    assert_eq!(node.rows(ALL), there.all());
    assert_eq!(node.conflicts().len(), if failed_there { 0 } else { 2 });
}

/// The server makes something else of what comes, which comes back once; what cannot be there is listed, and goes when it is mended.
#[test]
fn rules_of_the_server_are_kept() {
    let there = Database::with("two_rules", RULES);
    let mut node = Node::new(
        &there.url(),
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
    assert_eq!(shown(&there.all()), "1 UP2, 2 c, 3 b");
    assert_eq!(node.flow.as_ref().unwrap().progress().unwrap().refused, 1);
    let listed = node.runtime.block_on(node.new_flow().listed()).unwrap().unwrap();
    assert!(listed.len() == 1 && listed[0].reason.contains(WHY_NOT), "{listed:?}");
    node.run("UPDATE t SET v = 'good' WHERE id = 1");
    node.settle();
    assert_eq!(shown(&there.all()), "1 good, 2 c, 3 b");
    assert_eq!(node.rows(ALL), there.all());
    assert_eq!(node.flow.as_ref().unwrap().progress().unwrap().refused, 0);
}

#[test]
fn what_cannot_go_both_ways_is_refused_with_what_to_do() {
    let there = Database::with("two_refused", "CREATE TABLE t(id bigint PRIMARY KEY, v text, more text)");
    let mut node = Node::new(&there.url(), Policy::Server, TABLE);
    let more = node.refused();
    assert!(more.contains("`t.more: is not in SQLite: both sides must have the same columns`"), "{more}");
    there.query("DROP TABLE t; CREATE TABLE t(id bigint, v varchar(9) PRIMARY KEY)");
    assert!(node.refused().contains("must have the same primary key on both sides"));
    there.query("DROP TABLE t; CREATE TABLE bare(a text)");
    assert!(node.refused().contains("bare: has no primary key"));
    there.query("DROP TABLE bare");
    node.settle();
    // A table that is changed stands still, and goes on when both sides are the same again.
    node.run("ALTER TABLE t ADD COLUMN more TEXT; INSERT INTO t VALUES (1, 'a', 'm')");
    node.settle();
    let paused = node.flow.as_ref().unwrap().progress().unwrap().paused;
    assert!(paused.len() == 1 && paused[0].1.contains("its columns were changed here"), "{paused:?}");
    there.query("ALTER TABLE t ADD COLUMN more text; INSERT INTO t VALUES (2, 'b', 'n')");
    let mut flow = node.new_flow();
    node.runtime.block_on(flow.resync()).unwrap();
    node.settle();
    assert_eq!(shown(&node.rows("SELECT id || v || more FROM t ORDER BY id")), "1am, 2bn");
    assert_eq!(shown(&there.query("SELECT concat(id, v, more) FROM t ORDER BY id")), "1am, 2bn");
    // And so does one that is changed there, or emptied.
    let paused_by = |node: &mut Node, sql: &str, why: &str| {
        there.query(sql);
        node.settle();
        let paused = node.flow.as_ref().unwrap().progress().unwrap().paused;
        assert!(paused.len() == 1 && paused[0].1.contains(why), "{sql}: {paused:?}");
        assert_eq!(shown(&node.rows("SELECT CAST(count(*) AS TEXT) FROM t")), "2");
    };
    paused_by(
        &mut node,
        "ALTER TABLE t ADD COLUMN most text; UPDATE t SET most = 'x'",
        "its columns were changed there",
    );
    let mut flow = node.new_flow();
    let error = node.runtime.block_on(flow.resync()).unwrap_err().to_string();
    assert!(error.contains("t.most: is not in SQLite"), "{error}");
    there.query("ALTER TABLE t DROP COLUMN most");
    node.runtime.block_on(flow.resync()).unwrap();
    node.settle();
    paused_by(&mut node, "TRUNCATE TABLE t", "it was emptied there by TRUNCATE");
    node.runtime.block_on(flow.resync()).unwrap();
    node.settle();
    assert_eq!(node.rows(ALL), there.all());
    // And is forgotten.
    let mut flow = node.new_flow();
    node.flow = None;
    node.runtime.block_on(flow.forget()).unwrap();
    assert!(!is_kept(&server(), there.0), "what is kept of it is still there");
    assert_eq!(hub::left(&server(), there.0), [""; 0]);
    assert_eq!(node.rows("SELECT name FROM sqlite_schema WHERE name = '_litekeep_sync'").len(), 0);
}

/// The server may have foreign keys that the order of the tables knows nothing of: rows come and go all the same, and those that a key takes along
/// are as gone as they should be.
#[test]
fn rows_come_and_go_as_foreign_keys_admit_it() {
    let there = Database::new("two_keys");
    let mut node = Node::new(
        &there.url(),
        Policy::Server,
        "CREATE TABLE a(id INTEGER PRIMARY KEY, b INT); CREATE TABLE b(id INTEGER PRIMARY KEY, c INT); CREATE TABLE c(id INTEGER PRIMARY KEY);
         CREATE TABLE part(id INTEGER PRIMARY KEY, whole INT); INSERT INTO a VALUES (9, NULL)",
    );
    node.settle();
    there.query(&hub::keys());
    let counted = ["a", "b", "c", "part"].map(|table| format!("(SELECT count(*) FROM {table})"));
    let (here, elsewhere) = (counted.join(" || ' ' || "), counted.join(", ' ', "));
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
        assert_eq!(shown(&node.rows(&format!("SELECT {here}"))), expected, "{sql}");
        assert_eq!(shown(&there.query(&format!("SELECT concat({elsewhere})"))), expected, "{sql}");
    }
    // What a key of the server's forbids is not there, and is listed.
    node.run("INSERT INTO b VALUES (7, 7)");
    node.settle();
    assert_eq!(node.flow.as_ref().unwrap().progress().unwrap().refused, 1);
    assert_eq!(there.query("SELECT 1 FROM b").len(), 0);
}
