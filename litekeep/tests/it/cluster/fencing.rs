//! Goal: a lease goes only with everything that was committed, and never to a node that lacks what another has. Method: the real binary.

use litekeep_testkit::process::eventually;
use rusqlite::Connection;

use super::scene::Cluster;
use crate::scene::LONG;

/// A transaction that is open commits after the lease has gone, if nobody waits for it: it would be a fork.
#[test]
fn a_handoff_waits_for_a_transaction_that_is_open() {
    let mut cluster = Cluster::new(false, "");
    cluster.start("a");
    cluster.until_primary("a");
    cluster.start("b");
    cluster.acknowledges("a", 10);
    eventually("b has a copy", LONG, || Ok(cluster.path("b", "app.db").exists())).unwrap();
    let app = Connection::open(cluster.path("a", "app.db")).unwrap();
    app.busy_timeout(LONG).unwrap();
    app.execute_batch("BEGIN IMMEDIATE; CREATE TABLE own(x); INSERT INTO own VALUES(1)").unwrap();
    let refused = cluster.litekeep("a", &["handoff", "b"]);
    assert!(refused.code != 0, "{}", refused.stdout);
    assert!(refused.stderr.contains("a transaction that writes is open"), "{}", refused.stderr);
    app.execute_batch("COMMIT").unwrap();
    // It goes on where it was.
    cluster.until_primary("a");
    cluster.acknowledges("a", 5);
    cluster.litekeep("a", &["handoff", "b"]).succeeded();
    cluster.until_primary("b");
    let own: i64 = (Connection::open(cluster.path("b", "app.db")).unwrap())
        .query_row("SELECT count(*) FROM own", [], |row| row.get(0))
        .unwrap();
    assert_eq!(own, 1);
    assert_eq!(cluster.settle().forks, 0);
}
