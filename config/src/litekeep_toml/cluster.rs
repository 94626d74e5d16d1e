//! `[cluster]`.

use std::time::Duration;

use super::run::each;
use super::{DAY, SECOND};
use crate::node::{Entry, entry};
use crate::process::{OnRoleChange, ProcessConfig};
use crate::reader::Reader;
use crate::settings::{Acknowledge, ClusterConfig, ClusterLease, ClusterProxy, DatabaseConfig, Destination};

const KEYS: [&str; 8] = ["node", "address", "lease", "primary", "ttl", "candidate", "priority", "proxy"];
const PROXY_KEYS: [&str; 7] =
    ["acknowledge", "acknowledge_patience", "read_patience", "max_lag", "to_primary", "websockets", "health"];
const ACKNOWLEDGE: [(&str, Acknowledge); 3] =
    [("local", Acknowledge::Local), ("bucket", Acknowledge::Bucket), ("replica", Acknowledge::Replicas(1))];
/// As many as stream at the same time.
const MOST_REPLICAS: u32 = 64;
/// Whether they stay on the node.
const WEBSOCKETS: [(&str, bool); 2] = [("primary", false), ("here", true)];
/// Shorter ones would end by a slow request.
const TTL: (Duration, Duration) = (SECOND, DAY);
/// It answers within milliseconds, and what is asked costs nothing.
const TTL_IN_ETCD: Duration = Duration::from_secs(3);
const ANY: (Duration, Duration) = (Duration::ZERO, DAY);
const MOST_PRIORITY: u32 = 100;

impl Reader<'_> {
    pub(super) fn cluster(
        &mut self,
        found: &Entry,
        databases: &[DatabaseConfig],
        has_stream: bool,
    ) -> Option<ClusterConfig> {
        let entries = self.table(found)?;
        self.check_keys(entries, "[cluster]", &KEYS, |key| match key {
            "name" | "hostname" => Some("here it is `node`".to_owned()),
            "timeout" | "lease_ttl" => Some("here it is `ttl`".to_owned()),
            _ => None,
        });
        let get = |key: &str| entry(entries, key);
        let node = get("node").and_then(|found| self.name_of(found));
        let lease = match (get("lease"), get("primary")) {
            (Some(_), Some(primary)) => {
                let message = "a cluster has a `lease`, or always the same `primary`, not both";
                self.report.error(&primary.key_span, message);
                ClusterLease::Beside
            }
            (Some(lease), None) => self.lease(lease)?,
            (None, Some(primary)) => ClusterLease::Fixed(self.name_of(primary)?),
            (None, None) => ClusterLease::Beside,
        };
        let mut cluster = ClusterConfig { node, lease, ..ClusterConfig::default() };
        if matches!(cluster.lease, ClusterLease::Etcd(_)) {
            cluster.ttl = TTL_IN_ETCD;
        }
        self.fill(entries, "ttl", &mut cluster.ttl, |r, f| r.duration(f, "5s", TTL));
        self.fill(entries, "candidate", &mut cluster.candidate, Self::boolean);
        self.fill(entries, "priority", &mut cluster.priority, |r, f| r.count(f, 0..=MOST_PRIORITY));
        cluster.address = get("address").and_then(|found| self.host(found));
        if let (Some(address), ClusterLease::Fixed(_)) = (get("address"), &cluster.lease) {
            let message = "nodes find each other's `address` in the lease, which a fixed `primary` does without: remove one of them";
            self.report.error(&address.key_span, message);
        }
        if let Some(found) = get("proxy") {
            if cluster.address.is_none() {
                let message = "nodes send requests to each other at an `address`: add it to [cluster]";
                self.report.error(&found.key_span, message);
            }
            cluster.proxy = self.cluster_proxy(found, has_stream).unwrap_or_default();
        }
        if databases.is_empty() {
            self.report.error(&found.key_span, "a cluster needs a [[database]] that its nodes share");
        }
        for database in databases {
            let why = if database.source.is_folder() {
                "is a folder: name each database by `path`"
            } else if database.destinations.len() != 1 {
                "has several destinations: it can have one, by which the nodes know of each other's transactions"
            } else if database.meta_dir.is_some() {
                "has a `meta_dir`: remove it, litekeep's state is beside the database"
            } else {
                continue;
            };
            let message = format!("in a cluster `{}` does not work so: it {why}", database.source);
            self.report.error(&found.key_span, message);
        }
        Some(cluster)
    }

    /// A host without a port, which is that of each process.
    fn host(&mut self, found: &Entry) -> Option<String> {
        let text = self.non_empty(found)?;
        let is_v6 = text.parse::<std::net::Ipv6Addr>().is_ok();
        if is_v6 {
            return Some(format!("[{text}]"));
        }
        let is_host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        if !text.chars().all(is_host) {
            self.refuse(
                found,
                "it is the name or the IP address of this host, without a port, such as \"10.0.0.1\"",
            );
            return None;
        }
        Some(text)
    }

    fn cluster_proxy(&mut self, found: &Entry, has_stream: bool) -> Option<ClusterProxy> {
        let entries = self.table(found)?;
        self.check_keys(entries, "[cluster.proxy]", &PROXY_KEYS, |_| None);
        let mut proxy = ClusterProxy::default();
        self.fill(entries, "acknowledge", &mut proxy.acknowledge, Self::acknowledge);
        if let (Acknowledge::Replicas(_), Some(found), false) =
            (proxy.acknowledge, entry(entries, "acknowledge"), has_stream)
        {
            self.refuse(found, "replicas say over [stream] what they have: add it on each node");
        }
        self.fill(entries, "acknowledge_patience", &mut proxy.acknowledge_patience, |r, f| {
            r.duration(f, "10s", ANY)
        });
        self.fill(entries, "read_patience", &mut proxy.read_patience, |r, f| r.duration(f, "2s", ANY));
        self.fill(entries, "max_lag", &mut proxy.max_lag, |r, f| r.duration(f, "10s", ANY));
        self.fill(entries, "websockets", &mut proxy.websockets_stay, |r, f| r.one_of(f, &WEBSOCKETS));
        self.fill(entries, "health", &mut proxy.health, Self::http_path);
        self.fill(entries, "to_primary", &mut proxy.to_primary, |r, f| {
            each(f).iter().map(|one| r.http_path(one)).collect()
        });
        Some(proxy)
    }

    /// How many replicas stands after a colon.
    fn acknowledge(&mut self, found: &Entry) -> Option<Acknowledge> {
        let text = self.non_empty(found)?;
        let Some(count) = text.strip_prefix("replica:") else { return self.one_of(found, &ACKNOWLEDGE) };
        match count.parse() {
            Ok(count) if (1..=MOST_REPLICAS).contains(&count) => Some(Acknowledge::Replicas(count)),
            _ => {
                self.refuse(found, format!("write how many replicas, 1 to {MOST_REPLICAS}: \"replica:2\""));
                None
            }
        }
    }

    fn http_path(&mut self, found: &Entry) -> Option<String> {
        let text = self.non_empty(found)?;
        if !text.starts_with('/') {
            self.refuse(found, "a path begins with `/`");
            return None;
        }
        Some(text)
    }

    fn lease(&mut self, found: &Entry) -> Option<ClusterLease> {
        let text = self.non_empty(found)?;
        if text.starts_with("etcd://") || text.starts_with("etcds://") {
            return Some(ClusterLease::Etcd(crate::Secret::new(text)));
        }
        self.destination_url(found, false).map(|url| ClusterLease::Store(Box::new(Destination::new(url))))
    }

    /// What a process does when the role of its node changes.
    pub(super) fn on_role_change(&mut self, found: &Entry) -> Option<OnRoleChange> {
        let text = self.non_empty(found)?;
        Some(match text.as_str() {
            "restart" => OnRoleChange::Restart,
            "nothing" => OnRoleChange::Nothing,
            signal if signal.starts_with("SIG") => {
                OnRoleChange::Signal(signal.trim_start_matches("SIG").to_owned())
            }
            _ => {
                self.refuse(found, "it is \"restart\", \"nothing\", or a signal such as \"SIGHUP\"");
                return None;
            }
        })
    }

    /// What goes with a cluster only, and what a cluster must not be told.
    pub(super) fn check_roles(&mut self, root: &[Entry], processes: &[ProcessConfig], has_cluster: bool) {
        for key in ["process", "job"] {
            let of_kind = entry(root, key).and_then(|found| self.table(found)).unwrap_or(&[]).to_vec();
            for named in &of_kind {
                for role_key in ["if_primary", "on_role_change"] {
                    if let Some(found) = named.node.entry(role_key).filter(|_| !has_cluster) {
                        let message =
                            format!("`{role_key}` is for nodes of a cluster: add [cluster], or remove it");
                        self.report.error(&found.key_span, message);
                    }
                }
            }
        }
        let only_on_primary =
            |name: &str| processes.iter().any(|other| other.name == name && other.if_primary);
        for process in processes.iter().filter(|process| !process.if_primary) {
            if let Some((other, _)) = process.depends_on.iter().find(|(other, _)| only_on_primary(other)) {
                let span = entry(root, "process").and_then(|found| found.node.entry(&process.name));
                let span = span.map_or(0..0, |found| found.key_span.clone());
                let message = format!(
                    "`{}` runs on every node and waits for `{other}`, which runs on the primary only: give both the same `if_primary`",
                    process.name
                );
                self.report.error(&span, message);
            }
        }
    }
}
