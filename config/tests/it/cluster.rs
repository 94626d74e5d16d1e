//! `[cluster]`, and what goes with it.

use std::time::Duration;

use litekeep_config::{Acknowledge, ClusterConfig, ClusterLease, OnRoleChange, StoreUrl};

use crate::{brief, toml};

const DATABASE: &str = "[[database]]\npath = \"app.db\"\nbackup = \"./backup\"\n";

#[test]
fn everything_about_a_cluster_is_read() {
    assert_eq!(toml(DATABASE).unwrap().cluster, None);
    let least = toml(&format!("{DATABASE}[cluster]\n")).unwrap();
    assert_eq!(least.cluster, Some(ClusterConfig::default()));
    assert_eq!(ClusterConfig::default().ttl, Duration::from_secs(5));
    let in_etcd = toml(&format!("{DATABASE}[cluster]\nlease = \"etcd://h/app\"\n")).unwrap().cluster.unwrap();
    assert_eq!(in_etcd.ttl, Duration::from_secs(3));
    let all = format!(
        "{DATABASE}[cluster]\nnode = \"a\"\nlease = \"etcd://user:pw@h:2379/app\"\nttl = \"2s\"\ncandidate = false\npriority = 3\n\
         [process.web]\ncommand = \"web\"\non_role_change = \"SIGHUP\"\n\
         [process.worker]\ncommand = \"worker\"\nif_primary = true\n\
         [job.here]\ncommand = \"here\"\nevery = \"1h\"\nif_primary = false\n"
    );
    let all = toml(&all).unwrap();
    let cluster = all.cluster.unwrap();
    assert_eq!((cluster.node.as_deref(), cluster.priority, cluster.candidate), (Some("a"), 3, false));
    assert_eq!(cluster.ttl, Duration::from_secs(2));
    assert!(matches!(&cluster.lease, ClusterLease::Etcd(url) if url.expose() == "etcd://user:pw@h:2379/app"));
    assert!(!format!("{cluster:?}").contains("pw"), "{cluster:?}");
    assert_eq!(all.processes[0].on_role_change, OnRoleChange::Signal("HUP".into()));
    assert!(all.processes[1].if_primary && !all.jobs[0].if_primary);
    let lease =
        |lease: &str| toml(&format!("{DATABASE}[cluster]\n{lease}\n")).unwrap().cluster.unwrap().lease;
    assert!(matches!(lease("lease = \"./lease\""), ClusterLease::Store(store)
        if store.url == StoreUrl::File { path: "/etc/lease".into() }));
    assert_eq!(lease("primary = \"b\""), ClusterLease::Fixed("b".into()));
}

#[test]
fn mistakes_about_a_cluster_are_told() {
    let errors = |text: &str| brief(&toml(text).unwrap_err());
    let of = |rest: &str| errors(&format!("{DATABASE}{rest}"));
    assert_eq!(
        of("[cluster]\nlease = \"./lease\"\nprimary = \"a\"\n"),
        ["6:1 a cluster has a `lease`, or always the same `primary`, not both"]
    );
    assert_eq!(of("[cluster]\nname = \"a\"\n"), ["5:1 unknown key `name`: here it is `node`"]);
    assert_eq!(errors("[cluster]\n")[0], "1:2 a cluster needs a [[database]] that its nodes share");
    let two = "[[database]]\npath = \"app.db\"\nbackup = [\"./a\", \"./b\"]\n[cluster]\n";
    assert_eq!(
        errors(two),
        [
            "4:2 in a cluster `/etc/app.db` does not work so: it has several destinations: it can have one, by which the nodes know of each other's transactions"
        ]
    );
    assert_eq!(
        of("[process.web]\ncommand = \"web\"\nif_primary = true\n"),
        ["6:1 `if_primary` is for nodes of a cluster: add [cluster], or remove it"]
    );
    assert_eq!(
        of(
            "[cluster]\n[process.web]\ncommand = \"web\"\ndepends_on = [\"worker\"]\n[process.worker]\ncommand = \"w\"\nif_primary = true\n"
        ),
        [
            "5:10 `web` runs on every node and waits for `worker`, which runs on the primary only: give both the same `if_primary`"
        ]
    );
    assert_eq!(
        of("[cluster]\n[process.web]\ncommand = \"web\"\non_role_change = \"reload\"\n"),
        ["7:18 `on_role_change`: it is \"restart\", \"nothing\", or a signal such as \"SIGHUP\""]
    );
}

#[test]
fn when_writes_are_acknowledged_is_read() {
    let of = |acknowledge: &str, stream: &str| {
        toml(&format!(
            "{DATABASE}[cluster]\naddress = \"10.0.0.1\"\n[cluster.proxy]\nacknowledge = {acknowledge:?}\n{stream}"
        ))
    };
    let stream = "[stream]\naddr = \"127.0.0.1:7433\"\ntoken = \"0123456789abcdef\"\n";
    let modes = [
        ("local", Acknowledge::Local),
        ("bucket", Acknowledge::Bucket),
        ("replica", Acknowledge::Replicas(1)),
        ("replica:3", Acknowledge::Replicas(3)),
    ];
    for (text, mode) in modes {
        assert_eq!(of(text, stream).unwrap().cluster.unwrap().proxy.acknowledge, mode, "{text}");
    }
    assert_eq!(
        brief(&of("replica", "").unwrap_err()),
        ["7:15 `acknowledge`: replicas say over [stream] what they have: add it on each node"]
    );
    for text in ["replica:0", "replica:65", "replica:all"] {
        assert_eq!(
            brief(&of(text, stream).unwrap_err()),
            ["7:15 `acknowledge`: write how many replicas, 1 to 64: \"replica:2\""]
        );
    }
}
