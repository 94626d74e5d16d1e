//! What is asked of a cluster by those who look after it.

use litekeep_testkit::chromium::Chromium;
use litekeep_testkit::process::eventually;
use serde_json::Value;

use super::scene::Cluster;
use crate::dashboard::{TOKEN, ask, keep_picture};
use crate::scene::LONG;
use crate::shapes;
use crate::up::free_port;

fn status(cluster: &Cluster, node: &str) -> Value {
    let status = cluster.litekeep(node, &["cluster", "status", "--json"]).json();
    shapes::matches("cluster-status", &status);
    status
}

fn node<'a>(status: &'a Value, name: &str) -> Option<&'a Value> {
    status["nodes"].as_array().unwrap().iter().find(|node| node["node"] == name)
}

#[test]
fn promote_names_what_may_be_missing_and_a_primary_that_is_there_hands_over() {
    let mut cluster = Cluster::new(false, "");
    cluster.configure("b", "candidate = false", "");
    cluster.start("a");
    cluster.until_primary("a");
    cluster.acknowledges("a", 10);
    cluster.start("b");
    eventually("the other one has a copy, and is known", LONG, || {
        let status = status(&cluster, "b");
        let has_txid =
            |name| node(&status, name).is_some_and(|node| node["databases"][0]["txid"].is_string());
        Ok(status["primary"] == "a" && status["ok"] == true && has_txid("a") && has_txid("b"))
    })
    .unwrap();
    assert_eq!(status(&cluster, "a")["writable"], true);
    assert_eq!(status(&cluster, "b")["writable"], false);
    // To somebody who is not there nothing is handed over.
    cluster.litekeep("a", &["handoff", "c"]).failed_with(&["there is no node `c`"]);
    assert!(cluster.is_primary("a"));

    cluster.kill("a");
    cluster.litekeep("b", &["promote"]).failed_with(&[
        "`a` led until its lease ran out",
        "app.db` was transaction",
        "as a fork",
        "--yes",
    ]);
    let status_of_b = status(&cluster, "b");
    assert_eq!((status_of_b["lapsed"].as_bool(), status_of_b["ok"].as_bool()), (Some(true), Some(false)));
    assert!(!cluster.is_primary("b"), "nothing is taken without a word");
    let promoted = cluster.litekeep("b", &["promote", "--yes", "--json"]).succeeded().json();
    shapes::matches("promote", &promoted);
    assert_eq!((promoted["former"].as_str(), promoted["at_risk"]["node"].as_str()), (Some("a"), Some("a")));
    assert!(promoted["at_risk"]["databases"][0]["txid"].is_string(), "{promoted}");
    cluster.acknowledges("b", 10);

    // The former one comes back, and is asked to lead: the primary that is there hands over.
    cluster.start("a");
    eventually("it follows", LONG, || Ok(status(&cluster, "a")["role"] == "replica")).unwrap();
    let promoted = cluster.litekeep("a", &["promote", "--json"]).succeeded().json();
    shapes::matches("promote", &promoted);
    assert_eq!((promoted["former"].as_str(), promoted["at_risk"].is_null()), (Some("b"), true), "{promoted}");
    cluster.until_primary("a");
    cluster.acknowledges("a", 10);
    cluster.settle();
}

#[test]
fn who_is_down_is_listed_until_he_is_forgotten() {
    let mut cluster = Cluster::new(false, "");
    cluster.start("a");
    cluster.until_primary("a");
    cluster.start("b");
    eventually("both are known", LONG, || Ok(node(&status(&cluster, "a"), "b").is_some())).unwrap();
    cluster.litekeep("a", &["cluster", "forget", "b"]).failed_with(&["`b` was heard of", "litekeep down"]);
    cluster.litekeep("a", &["cluster", "forget", "c"]).failed_with(&["there is no node `c`"]);
    cluster.stop("b");
    let seen = status(&cluster, "a");
    let own = node(&seen, "b").unwrap();
    assert_eq!((own["presence"].as_str(), own["role"].as_str()), (Some("down"), Some("down")), "{own}");
    assert_eq!(
        (seen["ok"].as_bool(), seen["problems"].as_array().map(Vec::len)),
        (Some(true), Some(0)),
        "{seen}"
    );
    let forgot = cluster.litekeep("a", &["cluster", "forget", "--gone", "--json"]).succeeded().json();
    assert_eq!(forgot["nodes"].as_array().map(Vec::len), Some(0), "nobody has been away for a day");
    let forgot = cluster.litekeep("a", &["cluster", "forget", "b", "--json"]).succeeded().json();
    shapes::matches("cluster-forget", &forgot);
    assert!(node(&status(&cluster, "a"), "b").is_none());
    // He is known again when he is there again.
    cluster.start("b");
    eventually("he is known again", LONG, || {
        Ok(node(&status(&cluster, "a"), "b").is_some_and(|node| node["presence"] == "up"))
    })
    .unwrap();
}

#[test]
fn the_status_page_shows_the_nodes_and_makes_one_the_primary() {
    let mut cluster = Cluster::new(false, "");
    let ports = ["a", "b"].map(|node| (node, free_port(), free_port()));
    for (node, port, metrics) in ports {
        let rest = format!(
            "[dashboard]\naddr = \"127.0.0.1:{port}\"\ntoken = \"{TOKEN}\"\nactions = true\n[metrics]\naddr = \"127.0.0.1:{metrics}\"\n"
        );
        cluster.configure(node, "", &rest);
    }
    cluster.start("a");
    cluster.until_primary("a");
    cluster.acknowledges("a", 10);
    cluster.start("b");
    let [_, (_, port, metrics)] = ports;
    let bearer = format!("Authorization: Bearer {TOKEN}");
    let mut seen = Value::Null;
    eventually("the page of a replica knows both nodes", LONG, || {
        if std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            return Ok(false);
        }
        seen = ask(port, "GET /api/status", &[&bearer]).json();
        Ok(seen["safe"] == true && seen["cluster"]["nodes"].as_array().is_some_and(|nodes| nodes.len() == 2))
    })
    .unwrap_or_else(|error| panic!("{error}: {seen:#}"));
    shapes::matches("board", &seen);
    let sentence = seen["sentence"].as_str().unwrap();
    assert!(sentence.starts_with("This node follows a and has all of app.db up to "), "{sentence}");
    let has = |line: &str| ask(metrics, "GET /metrics", &[]).body.lines().any(|own| own == line);
    for line in [
        "litekeep_cluster_role{node=\"b\",role=\"replica\"} 1",
        "litekeep_cluster_writable{node=\"b\"} 0",
        "litekeep_cluster_epoch{node=\"b\"} 1",
    ] {
        assert!(has(line), "{line}: {}", ask(metrics, "GET /metrics", &[]).body);
    }

    let mut browser = Chromium::start().unwrap();
    browser.open(&format!("http://127.0.0.1:{port}/?token={TOKEN}"), (1280, 900)).unwrap();
    browser.until("document.querySelector('[data-lead=\"b\"]') !== null").unwrap();
    let text = "document.body.innerText";
    for there in
        ["This node follows a", "a leads since ", ", epoch 1", "applications cannot write on this node"]
    {
        browser
            .until(&format!("{text}.includes({there:?})"))
            .unwrap_or_else(|e| panic!("{e}: {}", browser.value(text).unwrap()));
    }
    keep_picture(&mut browser, "replica");
    let click = "(() => { window.confirm = () => true; window.alert = (said) => { window.said = said; }; \
                 document.querySelector('[data-lead=\"b\"]').click(); return true; })()";
    browser.value(click).unwrap();
    browser.until(&format!("{text}.includes('applications can write on this node')")).unwrap_or_else(|e| {
        panic!("{e}: {}{}", browser.value("window.said || ''").unwrap(), browser.value(text).unwrap())
    });
    assert_eq!(browser.value("window.said || ''").unwrap(), "");
    browser.until(&format!("{text}.includes('b leads since ')")).unwrap();
    browser.until("document.querySelector('[data-lead=\"a\"]') !== null").unwrap();
    keep_picture(&mut browser, "primary");
    cluster.until_primary("b");
    eventually("the metrics, too", LONG, || Ok(has("litekeep_cluster_writable{node=\"b\"} 1"))).unwrap();
    let asked = ask(port, "POST /api/handoff?to=nobody", &[&bearer]);
    assert!(asked.code == 409 && asked.body.contains("there is no node `nobody`"), "{}", asked.body);
    assert_eq!(ask(port, "POST /api/promote", &[]).code, 401);
}
