//! Rows that both sides have changed, column by column.

use litekeep_sync::two_way::{Conflict, Policy};

use crate::server::server;
use crate::two_way_scene::{Database, Node, Rows};

const TABLE: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT, b TEXT, c TEXT CHECK (c <> 'no'));";
const ROW: &str = "INSERT INTO t VALUES (1, '', '', '');";
const HERE: &str = "SELECT id || ' ' || a || ',' || b || ',' || c FROM t ORDER BY id";
const THERE: &str = "SELECT concat(id, ' ', a, ',', b, ',', c) FROM t ORDER BY id";

fn there(database: &Database) -> Rows {
    server().query_in(database.0, THERE).unwrap()
}

/// What has won and what has lost of a conflict, by column.
fn told(conflict: &Conflict) -> String {
    let of = |row: &Option<Vec<String>>| row.as_ref().map_or("gone".to_owned(), |row| row.join(" "));
    format!(
        "{} {}: {} over {}",
        conflict.winner,
        conflict.columns.join(" "),
        of(&conflict.kept),
        of(&conflict.lost)
    )
}

/// A table here forbids what comes of it.
const FORBIDDEN: &str = "forbidden";

/// What both sides do to a row, what comes of it, and the conflict that is told.
type Case = (&'static str, &'static str, &'static str, Option<&'static str>);

#[test]
fn changes_of_different_columns_live_both() {
    let differ = ("a = 'h', b = 'h'", "c = 't'", "h,h,t", None);
    let same = ("a = 'h', b = 'x'", "b = 'x', c = 't'", "h,x,t", None);
    let policies: [(&'static str, Policy, [Case; 4]); 3] = [
        (
            "merge_server",
            Policy::MergeServer,
            [
                differ,
                same,
                ("a = 'h', b = 'h'", "b = 't', c = 't'", "h,t,t", Some("server b: st over sh")),
                // Not the whole of it, which the table forbids.
                ("a = 'h', b = 'h'", "a = 't', c = 'no'", "h,h,", Some(FORBIDDEN)),
            ],
        ),
        (
            "merge_sqlite",
            Policy::MergeSqlite,
            [
                differ,
                same,
                ("a = 'h', b = 'h'", "b = 't', c = 't'", "h,h,t", Some("sqlite b: sh over st")),
                (
                    "a = 'h', b = 'h'",
                    "a = 't', c = 'no'",
                    "h,h,",
                    Some("sqlite id a b c: i3 sh sh s over i3 st s sno"),
                ),
            ],
        ),
        (
            "merge_latest",
            Policy::MergeLatest,
            // What is there is later.
            [
                differ,
                same,
                ("a = 'h', b = 'h'", "b = 't', c = 't'", "h,t,t", Some("server b: st over sh")),
                ("b = 'h'", "b = 't'", ",t,", Some("server b: st over sh")),
            ],
        ),
    ];
    for (name, policy, cases) in policies {
        let database = Database::new(name);
        let rows = "INSERT INTO t VALUES (0, '', '', ''), (1, '', '', ''), (2, '', '', ''), (3, '', '', '');";
        let mut node = Node::new(&database.url(), policy, &format!("{TABLE} {rows}"));
        node.sync().unwrap();
        let edits = |of: fn(&Case) -> &str| -> Vec<String> {
            let edit = |(id, case): (usize, &Case)| format!("UPDATE t SET {} WHERE id = {id};", of(case));
            cases.iter().enumerate().map(edit).collect()
        };
        node.run(&edits(|case| case.0).concat());
        node.ship();
        if policy == Policy::MergeLatest {
            // MariaDB tells the second of it.
            std::thread::sleep(std::time::Duration::from_millis(1_100));
        }
        edits(|case| case.1).iter().for_each(|edit| drop(database.query(edit)));
        node.settle();
        let conflicts = node.conflicts();
        let refused = node.runtime.block_on(node.new_flow().listed()).unwrap().unwrap();
        for (nth, (.., expected, conflict)) in cases.into_iter().enumerate() {
            let key = format!("i{nth}");
            let of_row = |row: Rows| row[nth][0].clone().unwrap();
            assert_eq!(of_row(node.rows(HERE)), format!("{nth} {expected}"), "{name}");
            if conflict == Some(FORBIDDEN) {
                // The server has it otherwise, which cannot be here.
                assert_eq!(of_row(there(&database)), format!("{nth} t,,no"), "{name}");
                assert!(
                    refused.iter().any(|row| row.key == [key.clone()] && row.reason.contains("CHECK")),
                    "{refused:?}"
                );
            } else {
                assert_eq!(of_row(there(&database)), format!("{nth} {expected}"), "{name}");
            }
            let found: Vec<String> =
                conflicts.iter().filter(|told| told.key == [key.clone()]).map(told).collect();
            let expected = conflict.filter(|told| *told != FORBIDDEN);
            assert_eq!(found, expected.into_iter().collect::<Vec<_>>(), "{name}");
        }
    }
}

/// Goal: an edit is as late as it was made, also after it was brought together with others. Method: a column is changed here, and after that first
/// another column there and then the same one.
#[test]
fn a_merged_row_is_no_later_than_its_edits() {
    let database = Database::new("merge_times");
    let mut node = Node::new(&database.url(), Policy::MergeLatest, &format!("{TABLE} {ROW}"));
    node.settle();
    node.run("UPDATE t SET a = 'early'");
    node.ship();
    std::thread::sleep(std::time::Duration::from_millis(1_100));
    for edit in ["b = 't1'", "c = 't2'", "a = 'late'"] {
        database.query(&format!("UPDATE t SET {edit}"));
    }
    node.settle();
    assert_eq!(node.rows(HERE)[0][0].as_deref(), Some("1 late,t1,t2"));
    assert_eq!(there(&database), node.rows(HERE));
    assert_eq!(node.conflicts().iter().map(told).collect::<Vec<_>>(), ["server a: slate over searly"]);
}

/// Goal: of edits to columns that meet none is lost without a word, and all machines come to the same. Method: three databases and somebody at the server add their
/// names to columns of few rows, cut off from each other for a while each time, from a seed; in the end each name is in a row, or among what has lost.
#[test]
fn edits_of_columns_on_three_machines_converge() {
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    let (name, policies) = ("merging", [Policy::MergeServer, Policy::MergeSqlite, Policy::MergeLatest]);
    let policy = policies[random.usize(0..3)];
    let database = Database::new(name);
    let rows = "INSERT INTO t VALUES (0, '', '', ''), (1, '', '', '');";
    let mut nodes = vec![Node::new(&database.url(), policy, &format!("{TABLE} {rows}"))];
    nodes.extend((0..2).map(|_| Node::new(&database.url(), policy, TABLE)));
    for node in &mut nodes {
        node.sync_in_the_end();
    }
    let mut names = vec![];
    for round in 0..4 {
        for nth in 0..4 {
            let (row, column) = (random.u8(0..2), ["a", "b", "c"][random.usize(0..3)]);
            let edit = format!("{round}{}.", ["x", "y", "z", "s"][nth]);
            let set = |new: String| format!("UPDATE t SET {column} = {new} WHERE id = {row}");
            match nodes.get(nth) {
                Some(node) => node.run(&set(format!("{column} || '{edit}'"))),
                None => drop(database.query(&set(format!("concat({column}, '{edit}')")))),
            }
            names.push(edit);
        }
        let node = &mut nodes[random.usize(0..3)];
        node.ship();
        node.sync_in_the_end();
    }
    let mut rounds = 0;
    while nodes.iter().any(|node| node.rows(HERE) != there(&database)) {
        rounds += 1;
        assert!(rounds < 8, "seed {seed}, {policy:?}: they do not come to the same");
        for node in &mut nodes {
            node.ship();
            node.sync_in_the_end();
        }
    }
    let lost = nodes.iter().flat_map(Node::conflicts).flat_map(|conflict| conflict.lost.unwrap_or_default());
    let told: String = lost.chain([format!("{:?}", there(&database))]).collect();
    let missing: Vec<&String> = names.iter().filter(|edit| !told.contains(edit.as_str())).collect();
    assert!(missing.is_empty(), "seed {seed}, {policy:?}: {missing:?} are lost: {told}");
}
