//! What every server must do that is kept in step in both directions: real logs, a real server, and both sides read by others than litekeep.

use std::slice::from_ref;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use litekeep_sync::target::key_text;
use litekeep_sync::two_way::Policy;
use litekeep_sync::{Flow as _, Kind, Value};
use litekeep_testkit::process::eventually;

use crate::hub::{self, SECOND};
use crate::server::start;
use crate::two_way_scene::Edit::{Append, Delete, Insert, Set};
use crate::two_way_scene::{ALL, Database, Edit, Node, PATIENCE, TABLE, shown};

#[test]
fn rows_go_both_ways_and_come_to_rest() {
    let there = Database::new("two_ways");
    let url = there.url();
    let many = "WITH n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n WHERE i < 5000) INSERT INTO t SELECT i, 'v' || i FROM n;";
    let mut node = Node::new(&url, Policy::Server, &format!("{TABLE}{many}"));
    // One side may have the table, when it has no rows.
    let mut other = Node::new(&url, Policy::Server, TABLE);
    node.settle();
    other.settle();
    for node in [&node, &other] {
        assert_eq!(node.rows(ALL), there.all());
    }
    // Each of the three changes something.
    node.run("UPDATE t SET v = 'node' WHERE id = 1; DELETE FROM t WHERE id = 2; INSERT INTO t VALUES (6001, 'new'); UPDATE t SET id = 7000 WHERE id = 3");
    other.run("UPDATE t SET v = 'other' WHERE id = 11; DELETE FROM t WHERE id = 12");
    there.edit(&[Set(21, "server"), Delete(22), Insert(8000, "v22"), Append(23, " more".to_owned())]);
    for _ in 0..2 {
        node.settle();
        other.settle();
    }
    let expected = there.all();
    assert!(shown(&expected).starts_with("1 node, 4 v4,"), "{}", shown(&expected));
    for node in [&node, &other] {
        assert_eq!(node.rows(ALL), expected);
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
    assert!(found.is_equal() && found.rows as usize == expected.len(), "{found:?}");
}

/// What each side does to a row that both had as `1 a`; row 2 was on neither.
const EDITS: [(&str, Edit, Edit); 4] = [
    ("update, update", Set(1, "here"), Set(1, "there")),
    ("update, delete", Set(1, "here"), Delete(1)),
    ("delete, update", Delete(1), Set(1, "there")),
    ("insert, insert", Insert(2, "here"), Insert(2, "there")),
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
        let there = Database::new(name);
        let mut node = Node::new(&there.url(), policy, &format!("{TABLE} INSERT INTO t VALUES (1, 'a');"));
        node.settle();
        for ((what, here, elsewhere), expected) in EDITS.into_iter().zip(expected) {
            node.run("DELETE FROM t; INSERT INTO t VALUES (1, 'a')");
            node.settle();
            assert_eq!(shown(&there.all()), "1 a");
            let listed = node.conflicts().len();
            if !here_first {
                there.edit(from_ref(&elsewhere));
                thread::sleep(SECOND);
            }
            node.run(&here.sql());
            node.ship();
            if here_first {
                thread::sleep(Duration::from_millis(30));
                there.edit(from_ref(&elsewhere));
            }
            node.settle();
            let said = format!("{name}: {what}");
            decided(&node, &there, (expected, listed), [&here, &elsewhere], &said);
        }
    }
}

const SERVER_WINS: [&str; 4] = ["1 there", "", "1 there", "1 a, 2 there"];
const SQLITE_WINS: [&str; 4] = ["1 here", "1 here", "", "1 a, 2 here"];

/// Both sides have what is expected, and one conflict more than were listed is, with what both have done.
fn decided(node: &Node, there: &Database, (expected, listed): (&str, usize), edits: [&Edit; 2], said: &str) {
    assert_eq!(shown(&node.rows(ALL)), expected, "{said}");
    assert_eq!(shown(&there.all()), expected, "{said}");
    let conflicts = node.conflicts();
    assert_eq!(conflicts.len(), listed + 1, "{said}: {conflicts:#?}");
    let conflict = &conflicts[listed];
    let of = |row: &Option<Vec<String>>| row.as_ref().map_or("gone".to_owned(), |row| row[1].clone());
    let sides = [of(&conflict.kept), of(&conflict.lost)];
    for side in edits {
        let image = match side {
            Insert(_, v) | Set(_, v) => key_text(&Value::Text((*v).into())),
            _ => "gone".to_owned(),
        };
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
        let there = Database::new(name);
        let mut node = Node::new(&there.url(), policy, &format!("{TABLE} INSERT INTO t VALUES (1, 'a');"));
        node.settle();
        for ((what, here, elsewhere), expected) in EDITS.into_iter().zip(expected) {
            node.run("DELETE FROM t; INSERT INTO t VALUES (1, 'a')");
            node.settle();
            let listed = node.conflicts().len();
            node.run(&here.sql());
            node.ship();
            let open = hub::holding(name, from_ref(&elsewhere), 0.7);
            node.sync_in_the_end();
            open.join().unwrap().unwrap();
            node.settle();
            decided(&node, &there, (expected, listed), [&here, &elsewhere], &format!("{name}: {what}"));
        }
    }
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
        let there = Database::new(name);
        let rows = "INSERT INTO t VALUES (0, ''), (1, ''), (2, '');";
        let mut node = Node::new(&there.url(), policy, &format!("{TABLE} {rows}"));
        node.settle();
        let (login, is_over) = (hub::login(name), AtomicBool::new(false));
        let edits_there = thread::scope(|threads| {
            let writer = threads.spawn(|| {
                for nth in 0.. {
                    let edit = Append((nth % 3) as i64, format!(" t{nth}."));
                    // The server may end it for the sake of another one.
                    while hub::edit_at(&login, from_ref(&edit)).is_err() {}
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
    let there = Database::with_rows(name, (0..20).map(|id| (id, "")));
    let (login, is_over) = (hub::login(name), AtomicBool::new(false));
    let mut nodes: Vec<Node> = (0..4).map(|_| Node::new(&there.url(), Policy::Sqlite, TABLE)).collect();
    thread::scope(|threads| {
        for writer in 0..2 {
            let (login, is_over) = (&login, &is_over);
            threads.spawn(move || {
                for nth in 0.. {
                    let (id, of_its_own) = (nth % 20, 100 * (writer + 1) + nth % 20);
                    let edit = match nth % 7 {
                        0 => Delete(of_its_own),
                        1 => Insert(of_its_own, "new"),
                        _ => Append(id, ".".to_owned()),
                    };
                    // What is there, or is not, or is ended for another one's sake.
                    let _ = hub::edit_at(login, &[edit]);
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
    let there = Database::new("two_beside");
    let mut node = Node::new(
        &there.url(),
        Policy::Server,
        &format!("{TABLE} INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c');"),
    );
    node.settle();
    let (pushes, _) = node.commits();
    there.edit(&[Set(1, "there"), Set(2, "there")]);
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
    let there = Database::new("two_back");
    let mut node =
        Node::new(&there.url(), Policy::Server, &format!("{TABLE} INSERT INTO t VALUES (1, 'a');"));
    node.settle();
    node.run("UPDATE t SET v = 'here' WHERE id = 1");
    node.ship();
    there.edit(&[Set(1, "x")]);
    there.edit(&[Set(1, "a")]);
    node.settle();
    assert_eq!(shown(&there.all()), "1 here");
    assert_eq!(node.rows(ALL), there.all());
}

#[test]
fn what_has_rows_on_both_sides_waits_for_a_word() {
    let there = Database::with_rows("two_filled", [(1, "same"), (2, "there"), (3, "only there")]);
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
    hub::edit(&server, name, &[Set(1, "there"), Insert(4, "there")]).unwrap();
    eventually("the changes are gone", PATIENCE, || hub::let_go(&server, &node.database())).unwrap();
    node.run("UPDATE t SET v = 'here' WHERE id = 2; INSERT INTO t VALUES (5, 'here')");
    node.settle();
    assert_eq!(node.rows(ALL), hub::all(&server, name));
    // What the hub keeps of the last push tells who has changed a row.
    assert_eq!(shown(&hub::all(&server, name)), "1 there, 2 here, 3 c, 4 there, 5 here");
    assert_eq!(node.conflicts(), []);
    // Where nothing is kept nobody knows: the policy decides, and says so.
    node.flow = None;
    hub::lose(&server, name);
    hub::edit(&server, name, &[Set(1, "again")]).unwrap();
    node.run("UPDATE t SET v = 'again' WHERE id = 2; DELETE FROM _litekeep_sync WHERE item LIKE 'row/%'");
    node.settle();
    assert_eq!(node.rows(ALL), hub::all(&server, name));
    assert_eq!(shown(&hub::all(&server, name)), "1 again, 2 here, 3 c, 4 there, 5 here");
    assert_eq!(node.conflicts().len(), 2);
    hub::end(&server, name);
}
