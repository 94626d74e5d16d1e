//! Goal: three nodes have one database: one writes at a time, the others follow and take over, and whatever happens nothing that was
//! committed is lost silently. Method: the real binary three times on one machine, with a writer on the primary whose operations
//! have numbers of their own and a chain of checksums, so that a state is known to be a beginning of another one; kills, stops and
//! handovers; in the end every operation that was acknowledged is in the database or in a fork.

mod acknowledged;
mod facing;
mod failovers;
mod fencing;
mod operator;
mod partitions;
mod scene;
mod streaming;

use std::time::Duration;

use litekeep_testkit::process::eventually;
use scene::{Cluster, NODES};

use crate::Place;
use crate::scene::LONG;
use crate::shapes;

/// What a node runs besides the writer: it tells in which roles it has been, and of signals.
const TOLD: &str = r#"
import os, signal, time
print("as", os.environ["LITEKEEP_ROLE"], flush=True)
signal.signal(signal.SIGHUP, lambda *_: print("hup", flush=True))
while True: time.sleep(0.05)
"#;

#[test]
fn a_planned_handoff_loses_nothing_and_processes_follow_the_roles() {
    let rest = r#"
[process.told]
command = ["python3", "told.py"]
[process.signalled]
command = ["python3", "told.py"]
on_role_change = "SIGHUP"
[job.everywhere]
command = "true"
every = "1h"
if_primary = false
[job.nightly]
command = "true"
every = "1h"
"#;
    let mut cluster = Cluster::new(false, rest);
    for node in NODES {
        std::fs::write(cluster.path(node, "told.py"), TOLD).unwrap();
        cluster.start(node);
    }
    let first = cluster.primary();
    cluster.acknowledges(first, 20);
    let other = NODES.into_iter().find(|node| *node != first).unwrap();
    let log = |node, process: &str| {
        std::fs::read_to_string(cluster.path(node, &format!(".litekeep/log/{process}.log")))
            .unwrap_or_default()
    };
    eventually("it runs on a replica", LONG, || Ok(log(other, "told") == "as replica\n")).unwrap();
    let handed_over = cluster.litekeep(first, &["handoff", other, "--json"]).succeeded().json();
    shapes::matches("handoff", &handed_over);
    cluster.until_primary(other);
    cluster.acknowledges(other, 20);
    // Who leads is written beside the copies, and not on the primary.
    let note =
        |node| std::fs::read_to_string(cluster.path(node, ".app.db-litekeep/primary")).unwrap_or_default();
    eventually("the notes tell of the new primary", LONG, || {
        Ok(NODES
            .into_iter()
            .all(|node| note(node) == if node == other { String::new() } else { format!("{other}\n") }))
    })
    .unwrap();
    eventually("processes are told of their roles", LONG, || {
        let is_restarted = log(first, "told").ends_with("as primary\nas replica\n");
        Ok(is_restarted
            && log(first, "signalled").trim_end().ends_with("hup")
            && log(other, "told").ends_with("as replica\nas primary\n"))
    })
    .unwrap();
    assert_eq!(log(first, "signalled").matches("as ").count(), 1, "it goes on");
    let status = cluster.litekeep(other, &["status", "--json"]).json();
    shapes::matches("stack", &status["stack"]);
    let jobs = |status: &serde_json::Value| status["stack"]["jobs"].as_array().map_or(0, Vec::len);
    assert_eq!(jobs(&status), 2, "{status}");
    let mut status = cluster.litekeep(first, &["status", "--json"]).json();
    assert_eq!(jobs(&status), 1, "{status}");
    assert_eq!(
        (status["ok"].as_bool(), status["copies"].as_array().map(Vec::len)),
        (Some(true), Some(1)),
        "{status}"
    );
    status["stack"] = serde_json::Value::Null;
    shapes::matches("status", &status);
    // On a node that is not the primary: the lease is taken from the one that has it.
    let third = NODES.into_iter().find(|node| *node != first && *node != other).unwrap();
    let promoted = cluster.litekeep(third, &["promote", "--json"]).succeeded().json();
    shapes::matches("promote", &promoted);
    cluster.until_primary(third);
    cluster.acknowledges(third, 20);
    cluster.litekeep(third, &["handoff", "nobody"]).failed_with(&["there is no node `nobody`"]);
    let report = cluster.settle();
    assert_eq!(report.forks, 0, "nothing was lost on the way");
    let status = cluster.litekeep(first, &["cluster", "status", "--json"]).json();
    shapes::matches("cluster-status", &status);
}

/// Whoever asks where there is no cluster hears of that, and not of a bucket.
#[test]
fn the_status_of_no_cluster_is_refused() {
    let place = Place::new();
    place.write_all(&[("litekeep.toml", "[[database]]\npath = \"app.db\"\nbackup = \"s3://nowhere/app\"\n")]);
    let refused = place.run(&["cluster", "status"]);
    assert!(refused.code == 2 && refused.stderr.contains("there is no [cluster]"), "{}", refused.stderr);
}

/// The bucket of an S3 server, and a primary that is killed with all that it runs.
#[test]
fn a_bucket_has_lease_and_log() {
    let mut cluster = Cluster::new(true, "");
    for node in NODES {
        cluster.start(node);
    }
    let first = cluster.primary();
    cluster.acknowledges(first, 20);
    // Before that nobody else could take over.
    let is_there = |node: &&str| cluster.path(node, "app.db").exists();
    eventually("all have it", LONG, || Ok(NODES.iter().all(is_there))).unwrap();
    cluster.kill(first);
    let second = cluster.primary();
    assert_ne!(first, second);
    cluster.acknowledges(second, 20);
    cluster.start(first);
    cluster.settle();
}

/// A restart of litekeep alone is no reason to change the primary: its processes go on meanwhile.
#[test]
fn a_primary_that_starts_again_at_once_goes_on() {
    let mut cluster = Cluster::new(false, "");
    cluster.start("a");
    cluster.until_primary("a");
    cluster.start("b");
    cluster.acknowledges("a", 20);
    cluster.kill_litekeep("a");
    cluster.start("a");
    cluster.until_primary("a");
    cluster.acknowledges("a", 20);
    std::thread::sleep(Duration::from_secs(1));
    let report = cluster.settle();
    assert_eq!((report.forks, report.changes), (0, 0));
}

/// Who is always the primary needs no lease, and nobody else takes over.
#[test]
fn a_fixed_primary_needs_no_lease() {
    let mut cluster = Cluster::new(false, "");
    for node in NODES {
        cluster.configure(node, "primary = \"b\"", "");
        cluster.start(node);
    }
    cluster.until_primary("b");
    cluster.acknowledges("b", 20);
    cluster.litekeep("a", &["promote"]).failed_with(&["the configuration says that `b` is the primary"]);
    cluster.kill("b");
    std::thread::sleep(Duration::from_secs(4));
    assert!(!cluster.is_primary("a") && !cluster.is_primary("c"));
    cluster.start("b");
    let report = cluster.settle();
    assert_eq!((report.forks, report.changes), (0, 0));
    assert!(!cluster.path("", "log/litekeep/lease").exists());
}
