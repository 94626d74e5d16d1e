//! What every server must do that is kept in step in both directions: real logs, a real server, and both sides read by others than litekeep.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use litekeep_sync::target::key_text;
use litekeep_sync::two_way::Policy;
use litekeep_sync::{Flow as _, Kind, Value};
use litekeep_testkit::process::eventually;

use crate::hub::{self, PARTS, RULES, SECOND, WHY_NOT};
use crate::server::{is_kept, server, start};
use crate::two_way_scene::{ALL, Database, Node, PATIENCE, TABLE, all, shown};

#[test]
fn rows_go_both_ways_and_come_to_rest() {
    let there = Database::new("two_ways", PARTS);
    let url = there.url();
    let many = "WITH n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n WHERE i < 5000) INSERT INTO t SELECT i, 'v' || i FROM n;";
    let mut node = Node::new(&url, Policy::Server, &format!("{TABLE}{many}"));
    // One side may have the table, when it has no rows.
    let mut other = Node::new(&url, Policy::Server, TABLE);
    node.settle();
    other.settle();
    let parts = "SELECT a || ' ' || b || ' ' || coalesce(n, '-') || ' ' || coalesce(at, '-') || ' ' || coalesce(length(body), '-') FROM parts ORDER BY a";
    for node in [&node, &other] {
        assert_eq!(node.rows(ALL), there.all());
        assert_eq!(shown(&node.rows(parts)), "1 x 1.50 2026-01-02T01:04:05.000000Z 9000, 2 y - - -");
    }
    // Each of the three changes something.
    node.run("UPDATE t SET v = 'node' WHERE id = 1; DELETE FROM t WHERE id = 2; INSERT INTO t VALUES (6001, 'new'); UPDATE t SET id = 7000 WHERE id = 3");
    other.run("UPDATE t SET v = 'other' WHERE id = 11; INSERT INTO parts VALUES (3, 'z', '2.5', '2026-01-01T00:00:00Z', 'short')");
    there.query("UPDATE t SET v = 'server' WHERE id = 21; UPDATE t SET id = 8000 WHERE id = 22; UPDATE parts SET n = 7 WHERE a = 1");
    for _ in 0..2 {
        node.settle();
        other.settle();
    }
    let expected = there.all();
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
        ("conflict_server", Policy::Server, true, SERVER_WINS),
        ("conflict_sqlite", Policy::Sqlite, true, SQLITE_WINS),
        ("conflict_later_there", Policy::Latest, true, ["1 there", "1 here", "1 there", "1 a, 2 there"]),
        ("conflict_later_here", Policy::Latest, false, ["1 here", "1 here", "1 there", "1 a, 2 here"]),
    ];
    for (name, policy, here_first, expected) in cases {
        let there = Database::new(name, "");
        let mut node = Node::new(&there.url(), policy, &format!("{TABLE} INSERT INTO t VALUES (1, 'a');"));
        node.settle();
        for ((what, here, elsewhere), expected) in EDITS.into_iter().zip(expected) {
            node.run("DELETE FROM t; INSERT INTO t VALUES (1, 'a')");
            node.settle();
            assert_eq!(shown(&there.all()), "1 a");
            let listed = node.conflicts().len();
            if !here_first {
                there.query(elsewhere);
                thread::sleep(SECOND);
            }
            node.run(here);
            node.ship();
            if here_first {
                thread::sleep(Duration::from_millis(30));
                there.query(elsewhere);
            }
            node.settle();
            let said = format!("{name}: {what}");
            decided(&node, &there, (expected, listed), (here, elsewhere), &said);
        }
    }
}

const SERVER_WINS: [&str; 4] = ["1 there", "", "1 there", "1 a, 2 there"];
const SQLITE_WINS: [&str; 4] = ["1 here", "1 here", "", "1 a, 2 here"];

/// Both sides have what is expected, and one conflict more than were listed is, with what both have done.
fn decided(
    node: &Node,
    there: &Database,
    (expected, listed): (&str, usize),
    edits: (&str, &str),
    said: &str,
) {
    assert_eq!(shown(&node.rows(ALL)), expected, "{said}");
    assert_eq!(shown(&there.all()), expected, "{said}");
    let conflicts = node.conflicts();
    assert_eq!(conflicts.len(), listed + 1, "{said}: {conflicts:#?}");
    let conflict = &conflicts[listed];
    let of = |row: &Option<Vec<String>>| row.as_ref().map_or("gone".to_owned(), |row| row[1].clone());
    let sides = [of(&conflict.kept), of(&conflict.lost)];
    for side in [edits.0, edits.1] {
        let image = side.split('\'').nth(1).map_or("gone".to_owned(), |v| key_text(&Value::Text(v.into())));
        assert!(sides.contains(&image), "{said}: {image} is not in {conflict:?}");
    }
}

/// Goal: a transaction there that is not over when rows of it are to be written is waited for, and what it did is not overwritten. Method: all
/// conflicts once more, each with a transaction that somebody holds open.
#[test]
fn what_an_open_transaction_does_is_not_overwritten() {
    for (name, policy, expected) in
        [("open_server", Policy::Server, SERVER_WINS), ("open_sqlite", Policy::Sqlite, SQLITE_WINS)]
    {
        let there = Database::new(name, "");
        let mut node = Node::new(&there.url(), policy, &format!("{TABLE} INSERT INTO t VALUES (1, 'a');"));
        node.settle();
        for ((what, here, elsewhere), expected) in EDITS.into_iter().zip(expected) {
            node.run("DELETE FROM t; INSERT INTO t VALUES (1, 'a')");
            node.settle();
            let listed = node.conflicts().len();
            node.run(here);
            node.ship();
            let open = hub::holding(name, &[elsewhere], 0.7);
            node.sync_in_the_end();
            open.join().unwrap().unwrap();
            node.settle();
            decided(&node, &there, (expected, listed), (here, elsewhere), &format!("{name}: {what}"));
        }
    }
}

/// Goal: of two transactions that wait for each other the server ends one, and that is done again. Method: an application that takes two rows in
/// the other order, and asks for the second one when the first one of both is taken.
#[test]
fn what_the_server_ends_is_done_again() {
    let name = "two_deadlocked";
    let there = Database::new(name, "");
    let mut node = Node::new(
        &there.url(),
        Policy::Server,
        &format!("{TABLE} INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c');"),
    );
    node.settle();
    node.run("UPDATE t SET v = 'here'");
    node.ship();
    let edits = ["UPDATE t SET v = 'there' WHERE id = 2", "UPDATE t SET v = 'there' WHERE id = 1"];
    let open = hub::holding(name, &edits, 2.0);
    let failed_here = node.sync_in_the_end();
    let failed_there = open.join().unwrap().is_err();
    assert_eq!((failed_here > 0) as u8 + failed_there as u8, 1, "{failed_here} {failed_there}");
    node.settle();
    let expected = if failed_there { "1 here, 2 here, 3 here" } else { "1 there, 2 there, 3 here" };
    assert_eq!(shown(&there.all()), expected);
    assert_eq!(node.rows(ALL), there.all());
    assert_eq!(node.conflicts().len(), if failed_there { 0 } else { 2 });
}

/// Goal: of edits that meet at the same moment none is lost without a word. Method: somebody writes a few rows there without a pause, and an
/// application the same rows here, beside a sync that goes on all the time. Each edit adds its name to the row; in the end each name is in
/// a row, or among what has lost.
#[test]
fn edits_of_the_same_moment_are_not_lost_without_a_word() {
    const EDITS: usize = 6;
    // Else there are more conflicts than are kept, on a slow machine, too.
    const BETWEEN: Duration = Duration::from_millis(30);
    const MOST: usize = 800;
    for (name, policy) in
        [("hot_server", Policy::Server), ("hot_sqlite", Policy::Sqlite), ("hot_latest", Policy::Latest)]
    {
        let there = Database::new(name, "");
        let rows = "INSERT INTO t VALUES (0, ''), (1, ''), (2, '');";
        let mut node = Node::new(&there.url(), policy, &format!("{TABLE} {rows}"));
        node.settle();
        let (login, is_over) = (hub::login(name), AtomicBool::new(false));
        let edits_there = thread::scope(|threads| {
            let writer = threads.spawn(|| {
                let edit =
                    |nth: usize| format!("UPDATE t SET v = concat(v, ' t{nth}.') WHERE id = {}", nth % 3);
                for nth in 0.. {
                    // The server may end it for the sake of another one.
                    while hub::query_at(&login, &edit(nth)).is_err() {}
                    thread::sleep(BETWEEN);
                    if is_over.load(Ordering::Relaxed) || nth + 1 == MOST {
                        return nth + 1;
                    }
                }
                0
            });
            let mut flow = node.new_flow();
            for nth in 0..EDITS {
                node.run(&format!("UPDATE t SET v = v || ' h{nth}.' WHERE id = {}", nth % 3));
                node.ship();
                for _ in 0..4 {
                    if let Err(error) = node.runtime.block_on(flow.step()) {
                        assert_eq!(error.kind(), Kind::Unavailable, "{name}: {error}");
                        flow.begin_anew();
                    }
                }
            }
            is_over.store(true, Ordering::Relaxed);
            writer.join().unwrap()
        });
        node.settle();
        node.settle();
        assert_eq!(node.rows(ALL), there.all(), "{name}");
        let conflicts = node.conflicts();
        let lost = conflicts.iter().filter_map(|conflict| Some(conflict.lost.as_ref()?[1].clone()));
        let told: String = lost.chain([shown(&there.all())]).collect();
        let names_there = (0..edits_there).map(|nth| format!(" t{nth}."));
        let names = names_there.chain((0..EDITS).map(|nth| format!(" h{nth}.")));
        let missing: Vec<String> = names.filter(|name| !told.contains(name)).collect();
        assert!(
            missing.is_empty(),
            "{name}: of {edits_there} edits there {missing:?} are lost: {conflicts:#?}"
        );
        assert!(!conflicts.is_empty(), "{name}: of {edits_there} edits there none has met one here");
    }
}

/// Goal: what is written there while both sides are compared is neither missed nor taken for a change here. Method: databases without rows that
/// join one after the other while somebody writes without a pause: none of them has a conflict.
#[test]
fn those_who_join_beside_writers_have_no_conflicts() {
    let name = "two_joining";
    let rows = (0..20).map(|id| format!("({id}, '')")).collect::<Vec<_>>().join(", ");
    let made = format!("CREATE TABLE t(id bigint PRIMARY KEY, v varchar(2000)); INSERT INTO t VALUES {rows}");
    let there = Database::new(name, &made);
    let (login, is_over) = (hub::login(name), AtomicBool::new(false));
    let mut nodes: Vec<Node> = (0..4).map(|_| Node::new(&there.url(), Policy::Sqlite, TABLE)).collect();
    thread::scope(|threads| {
        for writer in 0..2 {
            let (login, is_over) = (&login, &is_over);
            threads.spawn(move || {
                for nth in 0.. {
                    let id = nth % 20;
                    let sql = match nth % 7 {
                        0 => format!("DELETE FROM t WHERE id = {}{id}", writer + 1),
                        1 => format!("INSERT INTO t VALUES ({}{id}, 'new')", writer + 1),
                        _ => format!("UPDATE t SET v = concat(v, '.') WHERE id = {id}"),
                    };
                    // What is there, or is not, or is ended for another one's sake.
                    let _ = hub::query_at(login, &sql);
                    if is_over.load(Ordering::Relaxed) {
                        return;
                    }
                }
            });
        }
        for node in &mut nodes {
            // So that the whole of it is among what is written.
            let mut flow = node.new_flow();
            for _ in 0..30 {
                if let Err(error) = node.runtime.block_on(flow.step()) {
                    assert_eq!(error.kind(), Kind::Unavailable, "{error}");
                    flow.begin_anew();
                }
            }
        }
        is_over.store(true, Ordering::Relaxed);
    });
    for node in &mut nodes {
        node.settle();
        assert_eq!(node.rows(ALL), there.all());
        assert_eq!(node.conflicts(), []);
    }
}

/// A change that is made here while the pull writes the same table, and comes into the log in the same file, is pushed; what the pull wrote is
/// not pushed back.
#[test]
fn what_the_application_does_beside_the_pull_is_pushed() {
    let there = Database::new("two_beside", "");
    let mut node = Node::new(
        &there.url(),
        Policy::Server,
        &format!("{TABLE} INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c');"),
    );
    node.settle();
    let (pushes, _) = node.commits();
    there.query("UPDATE t SET v = 'there' WHERE id IN (1, 2)");
    node.sync().unwrap();
    assert_eq!(shown(&node.rows(ALL)), "1 there, 2 there, 3 c");
    // Of the rows that came one is changed on, and one back to what it was before; another one beside them.
    node.run("UPDATE t SET v = 'further' WHERE id = 1; UPDATE t SET v = 'b' WHERE id = 2; INSERT INTO t VALUES (4, 'd')");
    node.settle();
    assert_eq!(shown(&there.all()), "1 further, 2 b, 3 c, 4 d");
    assert_eq!(node.rows(ALL), there.all());
    assert_eq!(node.conflicts(), []);
    assert_eq!(node.commits().0[0], pushes[0] + 1);
}

/// While a push has not come back, what others did before it is passed over.
#[test]
fn a_row_that_was_there_and_back_is_not_mistaken() {
    let there = Database::new("two_back", "");
    let mut node =
        Node::new(&there.url(), Policy::Server, &format!("{TABLE} INSERT INTO t VALUES (1, 'a');"));
    node.settle();
    node.run("UPDATE t SET v = 'here' WHERE id = 1");
    node.ship();
    there.query("UPDATE t SET v = 'x' WHERE id = 1");
    there.query("UPDATE t SET v = 'a' WHERE id = 1");
    node.settle();
    assert_eq!(shown(&there.all()), "1 here");
    assert_eq!(node.rows(ALL), there.all());
}

#[test]
fn what_has_rows_on_both_sides_waits_for_a_word() {
    let there = Database::new(
        "two_filled",
        "CREATE TABLE t(id bigint PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'same'), (2, 'there'), (3, 'only there')",
    );
    let mut node = Node::new(
        &there.url(),
        Policy::Sqlite,
        &format!("{TABLE} INSERT INTO t VALUES (1, 'same'), (2, 'here'), (4, 'only here');"),
    );
    let error = node.sync().unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
    assert!(error.to_string().contains("`t` has rows on both sides"), "{error}");
    assert!(error.hint().unwrap().contains("`litekeep sync resync both`"), "{error:?}");
    assert_eq!(shown(&there.all()), "1 same, 2 there, 3 only there");
    let mut flow = node.new_flow();
    node.runtime.block_on(flow.resync()).unwrap();
    node.settle();
    assert_eq!(shown(&there.all()), "1 same, 2 here, 3 only there, 4 only here");
    assert_eq!(node.rows(ALL), there.all());
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
    let there = Database::new("two_rules", RULES);
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
fn changes_that_the_server_has_let_go_of_cost_a_comparison() {
    let server = start();
    let name = hub::DATABASE;
    let mut node = Node::new(
        &server.url(name),
        Policy::Server,
        &format!("{TABLE} INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c');"),
    );
    node.settle();
    node.flow = None;
    server
        .query_in(name, "UPDATE t SET v = 'there' WHERE id = 1; INSERT INTO t VALUES (4, 'there')")
        .unwrap();
    eventually("the changes are gone", PATIENCE, || hub::let_go(&server)).unwrap();
    node.run("UPDATE t SET v = 'here' WHERE id = 2; INSERT INTO t VALUES (5, 'here')");
    node.settle();
    assert_eq!(node.rows(ALL), all(&server, name));
    // What the hub keeps of the last push tells who has changed a row.
    assert_eq!(shown(&all(&server, name)), "1 there, 2 here, 3 c, 4 there, 5 here");
    assert_eq!(node.conflicts(), []);
    // Where nothing is kept nobody knows: the policy decides, and says so.
    node.flow = None;
    server.query_in(name, "DELETE FROM _litekeep_sync; UPDATE t SET v = 'again' WHERE id = 1").unwrap();
    node.run("UPDATE t SET v = 'again' WHERE id = 2; DELETE FROM _litekeep_sync WHERE item LIKE 'row/%'");
    node.settle();
    assert_eq!(node.rows(ALL), all(&server, name));
    assert_eq!(shown(&all(&server, name)), "1 again, 2 here, 3 c, 4 there, 5 here");
    assert_eq!(node.conflicts().len(), 2);
    hub::end(&server, name);
}

#[test]
fn what_cannot_go_both_ways_is_refused_with_what_to_do() {
    let there = Database::new("two_refused", "CREATE TABLE t(id bigint PRIMARY KEY, v text, more text)");
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
    let there = Database::new("two_keys", "");
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
