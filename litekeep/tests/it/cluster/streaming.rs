//! Goal: the copies of a cluster stream from whichever node is the primary, and whoever is not let in reads the backup and says why. Method: three nodes
//! with TLS, of which one trusts nobody and then shows another token; the primary is killed, and comes back.

use litekeep_testkit::Certificates;
use litekeep_testkit::process::eventually;
use serde_json::Value;

use super::scene::{Cluster, NODES};
use crate::scene::LONG;
use crate::shapes;
use crate::up::free_port;

const TOKEN: &str = "of at least 16 characters";

/// How the copy of a node streams, as its status says.
fn stream(cluster: &Cluster, node: &str) -> Value {
    let status = cluster.litekeep(node, &["cluster", "status", "--json"]);
    let status: Value = serde_json::from_str(&status.stdout).unwrap_or_default();
    let nodes = status["nodes"].as_array().cloned().unwrap_or_default();
    let own = nodes.into_iter().find(|one| one["node"] == node).unwrap_or_default();
    own["databases"][0]["stream"].clone()
}

#[track_caller]
fn streams(cluster: &Cluster, node: &str, port: u16) {
    let mut said = Value::Null;
    let url = format!("https://localhost:{port}/app.db");
    let lives = eventually("it streams", LONG, || {
        said = stream(cluster, node);
        Ok(said["live"] == true && said["url"] == url.as_str() && said["lag_ms"].is_i64())
    });
    lives.unwrap_or_else(|error| panic!("{error}: `{node}`: {said}\n{}", cluster.said()));
}

#[track_caller]
fn reads_the_backup(cluster: &Cluster, node: &str, why: &str) {
    let mut said = Value::Null;
    let tells = eventually("it says why it does not stream", LONG, || {
        said = stream(cluster, node);
        Ok(said["live"] == false && said["error"].as_str().is_some_and(|error| error.contains(why)))
    });
    tells.unwrap_or_else(|error| panic!("{error}: `{node}`: {said}\n{}", cluster.said()));
    let status = cluster.litekeep(node, &["status"]);
    assert!(status.stdout.contains(why), "{}\n{}", status.stdout, cluster.said());
}

#[test]
fn copies_stream_from_whoever_is_the_primary() {
    let certificates = Certificates::make().unwrap();
    let ((cert, key), ca) = (certificates.files(), certificates.ca_file());
    let mut cluster = Cluster::new(false, "");
    let ports = NODES.map(|_| free_port());
    let configure = |cluster: &Cluster, nth: usize, keys: &str, token: &str| {
        let stream = format!(
            "[stream]\naddr = \"127.0.0.1:{}\"\ntoken = {token:?}\ntls_cert = {cert:?}\ntls_key = {key:?}\n{keys}",
            ports[nth]
        );
        let candidate = NODES[nth] != "c";
        let node = format!("address = \"localhost\"\ncandidate = {candidate}");
        cluster.configure(NODES[nth], &node, &stream);
    };
    let trusting = format!("tls_ca = {ca:?}");
    configure(&cluster, 0, &trusting, TOKEN);
    configure(&cluster, 1, &trusting, TOKEN);
    configure(&cluster, 2, "", TOKEN);
    for node in NODES {
        cluster.start(node);
        if node == "a" {
            cluster.until_primary("a");
        }
    }
    cluster.acknowledges("a", 20);
    streams(&cluster, "b", ports[0]);
    reads_the_backup(&cluster, "c", "certificate");
    cluster.restart("c", |cluster| configure(cluster, 2, &trusting, "another one, not shorter"));
    reads_the_backup(&cluster, "c", "401");
    let text = cluster.litekeep("c", &["cluster", "status"]).stdout;
    assert!(
        text.contains("not streaming from https://localhost") && text.contains("token is wrong"),
        "{text}"
    );
    cluster.restart("c", |cluster| configure(cluster, 2, &trusting, TOKEN));
    streams(&cluster, "c", ports[0]);
    let status = cluster.litekeep("c", &["cluster", "status", "--json"]).json();
    shapes::matches("cluster-status", &status);
    let status = cluster.litekeep("c", &["status", "--json"]).json();
    assert_eq!(status["copies"][0]["stream"]["live"], true, "{status}");

    cluster.kill("a");
    cluster.until_primary("b");
    cluster.acknowledges("b", 20);
    streams(&cluster, "c", ports[1]);
    cluster.start("a");
    cluster.acknowledges("b", 20);
    streams(&cluster, "a", ports[1]);
    // Whoever leads does not stream.
    assert_eq!(stream(&cluster, "b"), Value::Null);
    cluster.litekeep("b", &["handoff", "a"]).succeeded();
    cluster.until_primary("a");
    cluster.acknowledges("a", 20);
    streams(&cluster, "b", ports[0]);
    streams(&cluster, "c", ports[0]);
    cluster.settle();
}
