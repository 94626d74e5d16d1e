//! What of a sync in both directions is MySQL's and MariaDB's own: their log, their types, and their rights.

use std::path::Path;
use std::thread::{JoinHandle, spawn};
use std::time::Duration;

use anyhow::Result;
use litekeep_schema::portable::mysql::Options;
use litekeep_sync::two_way::Policy;
use litekeep_sync::{Flow as _, Kind};
use litekeep_sync_mysql::source::Wanted;
use litekeep_sync_mysql::{Address, MysqlSource};
pub(crate) use litekeep_testkit::mysql::query_at;
use litekeep_testkit::process::eventually;

use crate::pulled::ALL_TYPES;
use crate::server::{Server, server, start};
use crate::two_way_scene::{ALL, Database, Edit, Node, PATIENCE, TABLE, shown};

pub(crate) use crate::two_way_in_sql::{all, edit, edit_at, fill, lose, stages};

pub(crate) type Hub = MysqlSource;

/// Of a server that has just begun.
pub(crate) const DATABASE: &str = "test";
/// A table with values that the server writes in its own way, and a long one.
pub(crate) const PARTS: &str = "CREATE TABLE parts(a int, b varchar(9), n decimal(12, 2), at timestamp(6) NULL, body longtext, PRIMARY KEY(a, b));
     SET time_zone = '+02:00';
     INSERT INTO parts VALUES (1, 'x', 1.50, '2026-01-02 03:04:05', repeat('l', 9000)), (2, 'y', NULL, NULL, NULL)";
/// A table whose `v` is unique, never `bad`, and in capitals where it begins with `up`.
pub(crate) const RULES: &str = "CREATE TABLE t(id bigint PRIMARY KEY, v varchar(20) UNIQUE, CHECK (v <> 'bad'));
     CREATE TRIGGER inserted BEFORE INSERT ON t FOR EACH ROW SET NEW.v = if(NEW.v LIKE 'up%', upper(NEW.v), NEW.v);
     CREATE TRIGGER updated BEFORE UPDATE ON t FOR EACH ROW SET NEW.v = if(NEW.v LIKE 'up%', upper(NEW.v), NEW.v)";
/// What is said of a value that is `bad`.
pub(crate) const WHY_NOT: &str = match crate::FLAVOR {
    litekeep_testkit::mysql::Flavor::Mariadb => "CONSTRAINT",
    litekeep_testkit::mysql::Flavor::Mysql => "Check constraint",
};
/// After so long the server tells that something was later.
pub(crate) const SECOND: Duration = match crate::FLAVOR {
    litekeep_testkit::mysql::Flavor::Mariadb => Duration::from_millis(1_100),
    litekeep_testkit::mysql::Flavor::Mysql => Duration::from_millis(30),
};

pub(crate) fn hub(url: &str) -> Hub {
    MysqlSource::two_way(Address::parse(url).unwrap(), Wanted::default(), Options::default())
}

/// Foreign keys from `a` to `b` and on to `c`, and from `part` to `c`. Only MySQL logs what they take along.
pub(crate) fn keys() -> String {
    let cascades = if server().is_mariadb() { "" } else { "ON DELETE CASCADE" };
    format!(
        "ALTER TABLE a ADD FOREIGN KEY (b) REFERENCES b(id); ALTER TABLE b ADD FOREIGN KEY (c) REFERENCES c(id) {cascades};
         ALTER TABLE part ADD FOREIGN KEY (whole) REFERENCES c(id) {cascades}"
    )
}

/// The server keeps nothing.
pub(crate) fn end(_: &Server, _: &str) {}

/// The server lets go of the changes that are in its log; whether it has.
pub(crate) fn let_go(server: &Server, _: &Path) -> Result<bool> {
    server.query("FLUSH BINARY LOGS")?;
    let last = server.query("SHOW BINARY LOGS")?.last().unwrap()[0].clone().unwrap();
    // One that somebody reads stays.
    server.query(&format!("PURGE BINARY LOGS TO '{last}'"))?;
    Ok(server.query("SHOW BINARY LOGS")?.len() == 1)
}

/// What is left of a sync beside its table.
pub(crate) fn left(_: &Server, _: &str) -> Vec<String> {
    vec![]
}

/// How somebody else logs in.
pub(crate) fn login(database: &str) -> String {
    server().login(database)
}

/// A transaction of others' that is open for a while after each of its statements, once it has done the first one.
pub(crate) fn holding(database: &'static str, edits: &[Edit], seconds: f64) -> JoinHandle<Result<()>> {
    let held: Vec<String> =
        edits.iter().map(|edit| format!("{}; SELECT sleep({seconds})", edit.sql())).collect();
    let sql = format!("START TRANSACTION; {}; COMMIT", held.join("; "));
    let login = login(database);
    let open = spawn(move || query_at(&login, &sql).map(drop));
    eventually("it holds a row", PATIENCE, || {
        let sql = format!(
            "SELECT 1 FROM information_schema.processlist WHERE db = '{database}' AND state = 'User sleep'"
        );
        Ok(!server().query(&sql)?.is_empty())
    })
    .unwrap();
    open
}

/// Goal: a row of values of every type goes back as it has come. Method: each row is changed in SQLite in one column, so that all of it is written.
#[test]
fn every_type_goes_there_and_back() {
    let there = Database::with("two_types", ALL_TYPES);
    // The empty value of an ENUM is none that can be written.
    there.query("ALTER TABLE all_types ADD COLUMN touched int; UPDATE all_types SET e = 'sad' WHERE id = 2");
    let columns = "SELECT group_concat(concat('hex(', column_name, ')') ORDER BY ordinal_position) FROM information_schema.columns \
                   WHERE table_schema = 'two_types' AND column_name <> 'touched'";
    let columns =
        there.query(&format!("SET SESSION group_concat_max_len = 100000; {columns}"))[0][0].clone().unwrap();
    let rows = format!("SELECT {columns}, id, f, d FROM all_types ORDER BY id");
    let before = there.query(&rows);
    let mut node = Node::new(&there.url(), Policy::Server, TABLE);
    node.settle();
    node.run("UPDATE all_types SET touched = id * 7");
    node.settle();
    let progress = node.flow.as_ref().unwrap().progress().unwrap();
    assert_eq!((progress.refused, progress.conflicts), (0, 0), "{progress:?}");
    assert_eq!(
        there.query("SELECT count(*) FROM all_types WHERE touched = id * 7"),
        [[Some("3".to_owned())]]
    );
    assert_eq!(there.query(&rows), before);
    // And is written anew where it was gone.
    node.run("CREATE TABLE kept AS SELECT * FROM all_types; DELETE FROM all_types");
    node.settle();
    assert_eq!(there.query("SELECT 1 FROM all_types").len(), 0);
    node.run("INSERT INTO all_types SELECT * FROM kept");
    node.settle();
    assert_eq!(there.query(&rows), before);
    let found = node.runtime.block_on(node.new_flow().compare()).unwrap();
    assert!(found.is_equal(), "{found:?}");
}

/// Types of SQLite that have no like of the same form there.
#[test]
fn values_of_sqlite_go_there_and_back() {
    let there = Database::new("two_forms");
    let mut node = Node::new(
        &there.url(),
        Policy::Server,
        "CREATE TABLE v(id INTEGER PRIMARY KEY, is_on BOOLEAN, n NUMERIC, at DATETIME, day DATE, any, r REAL, b BLOB, k TEXT UNIQUE, touched INT);
         INSERT INTO v(id, is_on, n, at, day, any, r, b, k) VALUES (1, 1, 12.5, '2026-01-02T03:04:05Z', '2026-01-02', 7, 0.1, x'00ff', 'a'),
         (2, 0, 7, '2026-12-31T23:59:59Z', '1999-12-31', 'seven', 1e300, x'', 'A'), (3, NULL, NULL, NULL, NULL, x'07', NULL, NULL, 'a ')",
    );
    node.settle();
    let rows = "SELECT id || quote(is_on) || quote(n) || quote(at) || quote(day) || quote(any) || quote(r) || quote(b) || quote(k) FROM v ORDER BY id";
    let before = node.rows(rows);
    // Each is written there by somebody else, and comes back.
    there.query("UPDATE v SET touched = 1; UPDATE v SET n = n + 1, at = at + INTERVAL 1 DAY WHERE id = 1");
    node.settle();
    let after = node.rows(rows);
    assert_eq!(after[1..], before[1..]);
    assert_eq!(
        shown(&after).split(", ").next().unwrap(),
        "1113.5'2026-01-03T03:04:05Z''2026-01-02'70.1X'00FF''a'"
    );
    node.run("UPDATE v SET touched = 2");
    node.settle();
    let progress = node.flow.as_ref().unwrap().progress().unwrap();
    assert_eq!((progress.refused, progress.conflicts), (0, 0), "{progress:?}");
    assert_eq!(there.query("SELECT count(*) FROM v WHERE touched = 2"), [[Some("3".to_owned())]]);
    assert_eq!(node.rows(rows), after);
    let found = node.runtime.block_on(node.new_flow().compare()).unwrap();
    assert!(found.is_equal(), "{found:?}");
}

#[test]
fn what_a_column_would_not_keep_is_refused_with_what_to_do() {
    let there = Database::with("two_unfit", "CREATE TABLE t(id bigint PRIMARY KEY, v bigint unsigned)");
    let mut node =
        Node::new(&there.url(), Policy::Server, "CREATE TABLE t(id INTEGER PRIMARY KEY, v INTEGER)");
    let unsigned = node.refused();
    assert!(unsigned.contains("t.v: is `bigint") && unsigned.contains("no integers of 2^63"), "{unsigned}");
    let (_, mends) = unsigned.split_once("2^63 and more: ").unwrap();
    there.query(mends.split_once(" there,").unwrap().0);
    node.settle();
    for (there_is, here_is, why) in [
        ("v decimal(10, 2)", "v DECIMAL(10, 2)", "declare it TEXT"),
        ("v datetime", "v DATETIME", "declare it TEXT"),
        ("v varchar(9)", "v INTEGER", "declare it TEXT"),
        ("v int", "v TEXT", "declare it INTEGER"),
        ("v double", "v INTEGER", "declare it REAL"),
    ] {
        there.query(&format!("DROP TABLE IF EXISTS u; CREATE TABLE u(id bigint PRIMARY KEY, {there_is})"));
        let mut node = Node::new(
            &there.url(),
            Policy::Server,
            &format!("CREATE TABLE u(id INTEGER PRIMARY KEY, {here_is})"),
        );
        let refused = node.refused();
        assert!(refused.contains("u.v: is `") && refused.contains(why), "{there_is}: {refused}");
    }
    let mut statements = vec![
        (
            "CREATE TABLE u(id bigint PRIMARY KEY) ENGINE=MyISAM",
            "is MyISAM's",
            "ALTER TABLE `u` ENGINE=InnoDB",
        ),
        ("CREATE TABLE u(id bigint)", "has no primary key", "ALTER TABLE `u` ADD PRIMARY KEY (id)"),
    ];
    if server().is_mariadb() {
        statements.push((
            "CREATE TABLE u(id bigint PRIMARY KEY, t bigint, CONSTRAINT k FOREIGN KEY (t) REFERENCES t(id) ON DELETE SET NULL)",
            "has the foreign key `k` (ON DELETE SET NULL), by which rows change that the server does not log",
            "ALTER TABLE `u` DROP FOREIGN KEY `k`",
        ));
    }
    for (made, why, mends) in statements {
        there.query(&format!("DROP TABLE IF EXISTS u; {made}"));
        let mut node = Node::new(&there.url(), Policy::Server, "CREATE TABLE other(id INTEGER PRIMARY KEY)");
        let refused = node.refused();
        assert!(refused.contains(why), "{made}: {refused}");
        assert!(
            refused.contains(mends.split_once(" (id)").map_or(mends, |(head, _)| head)),
            "{made}: {refused}"
        );
        there.query(mends);
        node.settle();
    }
}

/// What a user needs, and that what is said of it is enough.
#[test]
fn rights_are_told() {
    let there = Database::with(
        "two_rights",
        "CREATE TABLE t(id bigint PRIMARY KEY, v varchar(9)); INSERT INTO t VALUES (1, 'a')",
    );
    there.query(
        "CREATE USER both_ways@'%' IDENTIFIED BY 'secret'; GRANT SELECT ON two_rights.* TO both_ways@'%'",
    );
    there.query("GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO both_ways@'%'");
    let url = server().url_with("both_ways:secret@", there.0);
    let mut node = Node::new(&url, Policy::Server, TABLE);
    for granted in ["INSERT, UPDATE ON", "DELETE ON", "CREATE ON"] {
        let error = node.runtime.block_on(node.new_flow().pairs()).unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid, "{error}");
        assert!(error.to_string().contains("denied"), "{error}");
        assert!(
            error.hint().unwrap().contains("CREATE, ALTER, INDEX, DROP, LOCK TABLES ON `two_rights`.*"),
            "{error:?}"
        );
        there.query(&format!("GRANT {granted} two_rights.* TO both_ways@'%'"));
    }
    if !server().is_mariadb() {
        let error = node.runtime.block_on(node.new_flow().pairs()).unwrap_err();
        assert!(error.to_string().contains("lock a table"), "{error}");
        there.query("GRANT LOCK TABLES ON two_rights.* TO both_ways@'%'");
    }
    node.settle();
    node.run("UPDATE t SET v = 'b'");
    node.settle();
    assert_eq!(shown(&there.all()), "1 b");
}

/// Goal: a server whose transactions have no numbers, or several kinds of them, is kept in step, too, and so is what is seen of its settings.
#[test]
fn numbers_and_files_are_followed_both_ways() {
    let server = start();
    // What is set of the server, and of those who write there.
    let modes: &[(&str, &str)] = match server.is_mariadb() {
        true => &[("SET GLOBAL sync_binlog = 1", "SET gtid_domain_id = 5;")],
        false => &[
            ("SET GLOBAL binlog_transaction_compression = ON", "SET gtid_next = 'AUTOMATIC:tag';"),
            (
                "SET GLOBAL gtid_mode = ON_PERMISSIVE; SET GLOBAL gtid_mode = OFF_PERMISSIVE; SET GLOBAL gtid_mode = OFF",
                "",
            ),
        ],
    };
    let mut node =
        Node::new(&server.url(DATABASE), Policy::Server, &format!("{TABLE} INSERT INTO t VALUES (1, 'a');"));
    node.settle();
    for (nth, (mode, before)) in modes.iter().enumerate() {
        server.query(mode).unwrap();
        let (here, elsewhere) = (10 + nth, 20 + nth);
        for round in 0..3 {
            node.run(&format!(
                "INSERT INTO t VALUES ({here}{round}, 'here'); UPDATE t SET v = 'here' WHERE id = 1"
            ));
            node.ship();
            let sql = format!(
                "{before} INSERT INTO t VALUES ({elsewhere}{round}, 'there'); UPDATE t SET v = 'there{nth}{round}' WHERE id = 1"
            );
            server.query_in(DATABASE, &sql).unwrap();
            node.settle();
            assert_eq!(node.rows(ALL), all(&server, DATABASE), "{mode}");
            assert_eq!(
                shown(&server.query_in(DATABASE, "SELECT v FROM t WHERE id = 1").unwrap()),
                format!("there{nth}{round}")
            );
        }
    }
    server.query("SET GLOBAL binlog_row_image = MINIMAL").unwrap();
    let refused = node.refused();
    assert!(
        refused.contains("logs a part of each row") && refused.contains("binlog_row_image = FULL;"),
        "{refused}"
    );
}

/// A session that logs only a part of each row, which it may where it is allowed to, is told.
#[test]
fn a_part_of_a_row_is_not_followed() {
    let there = Database::new("two_parts");
    let mut node =
        Node::new(&there.url(), Policy::Server, &format!("{TABLE} INSERT INTO t VALUES (1, 'a');"));
    node.settle();
    there.query("SET SESSION binlog_row_image = MINIMAL; UPDATE t SET v = 'there'");
    let refused = node.refused();
    assert!(refused.contains("a row of `t` without all of its columns"), "{refused}");
    let mut flow = node.new_flow();
    node.flow = None;
    node.runtime.block_on(flow.resync()).unwrap();
    node.settle();
    assert_eq!(node.rows(ALL), there.all());
}

/// What is computed there is not written, and what goes beside it is.
#[test]
fn computed_columns_are_left_out() {
    let there = Database::with(
        "two_computed",
        "CREATE TABLE t(id bigint PRIMARY KEY, v varchar(9), twice varchar(20) AS (concat(v, v)) STORED, thrice varchar(30) AS (concat(v, v, v)) VIRTUAL)",
    );
    let mut node =
        Node::new(&there.url(), Policy::Server, &format!("{TABLE} INSERT INTO t VALUES (1, 'a');"));
    node.settle();
    there.query("INSERT INTO t(id, v) VALUES (2, 'b')");
    node.run("UPDATE t SET v = 'c' WHERE id = 1");
    node.settle();
    assert_eq!(shown(&there.query("SELECT concat(id, twice, thrice) FROM t ORDER BY id")), "1ccccc, 2bbbbb");
    assert_eq!(node.rows(ALL), there.all());
}

/// Goal: a table whose changes are not all in the log any more stands still, whether somebody looks when that is made so or not.
#[test]
fn what_the_log_does_not_tell_any_more_stands_still() {
    let there = Database::with(
        "two_cascading",
        "CREATE TABLE whole(id bigint PRIMARY KEY); INSERT INTO whole VALUES (1)",
    );
    let mut node = Node::new(
        &there.url(),
        Policy::Server,
        &format!("{TABLE} CREATE TABLE u(id INTEGER PRIMARY KEY, w INT);"),
    );
    node.settle();
    let paused = |node: &Node| node.flow.as_ref().unwrap().progress().unwrap().paused;
    let is_mariadb = server().is_mariadb();
    let (made, why) = match is_mariadb {
        true => (
            "ALTER TABLE u ADD FOREIGN KEY (w) REFERENCES whole(id) ON DELETE CASCADE",
            "by which rows change that the server does not log",
        ),
        false => ("ALTER TABLE u ENGINE=MyISAM", "whose changes are logged apart from transactions"),
    };
    there.query("CREATE INDEX other ON t(id)");
    there.query(made);
    node.settle();
    let found = paused(&node);
    assert!(found.len() == 1 && found[0].0 == "u" && found[0].1.contains(why), "{found:?}");
    // It is made good, and another one is like it while nobody looks.
    there.query(if is_mariadb {
        "ALTER TABLE u DROP FOREIGN KEY u_ibfk_1"
    } else {
        "ALTER TABLE u ENGINE=InnoDB"
    });
    let mut flow = node.new_flow();
    node.runtime.block_on(flow.resync()).unwrap();
    node.settle();
    assert_eq!(paused(&node), []);
    there.query(&format!("SET SESSION sql_log_bin = 0; {made}"));
    node.settle();
    let found = paused(&node);
    assert!(found.len() == 1 && found[0].1.contains(why), "{found:?}");
}

/// Goal: tables that somebody is writing are locked when he has ended.
#[test]
fn a_beginning_waits_for_those_who_write() {
    let there = Database::with(
        "two_begun",
        "CREATE TABLE t(id bigint PRIMARY KEY, v varchar(9)); INSERT INTO t VALUES (1, 'a')",
    );
    let mut node = Node::new(&there.url(), Policy::Server, TABLE);
    let open = holding(there.0, &[Edit::Set(1, "b")], 0.7);
    node.sync_in_the_end();
    open.join().unwrap().unwrap();
    node.settle();
    assert_eq!(shown(&node.rows(ALL)), "1 b");
    assert_eq!(node.conflicts(), []);
}

/// Goal: a row that the server has no room for is in nobody's way: it is kept and told until it is mended, and then it goes. Method: one that is
/// longer than a packet, of which what is kept is longer still.
#[test]
fn a_row_that_is_too_long_for_the_server_is_told() {
    let server = start();
    server.query("SET GLOBAL max_allowed_packet = 2097152").unwrap();
    let mut node = Node::new(
        &server.url(DATABASE),
        Policy::Server,
        "CREATE TABLE b(id INTEGER PRIMARY KEY, v BLOB); INSERT INTO b VALUES (1, x'01')",
    );
    node.settle();
    node.run("INSERT INTO b VALUES (2, zeroblob(2100000)), (3, x'03')");
    node.settle();
    let refused = |node: &mut Node| {
        node.flow = None;
        let mut flow = node.new_flow();
        node.runtime.block_on(flow.listed()).unwrap().unwrap()
    };
    let query = |sql: &str| server.query_in(DATABASE, sql).unwrap();
    let told = refused(&mut node);
    assert!(told.len() == 1 && told[0].reason.contains("`max_allowed_packet`"), "{told:?}");
    assert_eq!(shown(&query("SELECT concat(id, hex(v)) FROM b ORDER BY id")), "101, 303");
    let parts = "SELECT 1 FROM _litekeep_sync WHERE item LIKE 'part/%'";
    assert!(query(parts).len() > 3);
    node.run("UPDATE b SET v = x'02' WHERE id = 2");
    node.settle();
    assert_eq!(refused(&mut node), []);
    assert_eq!(shown(&query("SELECT concat(id, hex(v)) FROM b ORDER BY id")), "101, 202, 303");
    assert_eq!(query(parts).len(), 0);
}
