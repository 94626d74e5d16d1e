//! `[cluster]`.

use std::time::Duration;

use super::{DAY, SECOND};
use crate::node::{Entry, entry};
use crate::process::{OnRoleChange, ProcessConfig};
use crate::reader::Reader;
use crate::settings::{ClusterConfig, ClusterLease, DatabaseConfig, Destination};

const KEYS: [&str; 6] = ["node", "lease", "primary", "ttl", "candidate", "priority"];
/// Shorter ones would end by a slow request.
const TTL: (Duration, Duration) = (SECOND, DAY);
const MOST_PRIORITY: u32 = 100;

impl Reader<'_> {
    pub(super) fn cluster(&mut self, found: &Entry, databases: &[DatabaseConfig]) -> Option<ClusterConfig> {
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
        self.fill(entries, "ttl", &mut cluster.ttl, |r, f| r.duration(f, "5s", TTL));
        self.fill(entries, "candidate", &mut cluster.candidate, Self::boolean);
        self.fill(entries, "priority", &mut cluster.priority, |r, f| r.count(f, 0..=MOST_PRIORITY));
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
