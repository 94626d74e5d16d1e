//! The nodes of a cluster, as one of them sees them.
//!
//! No node's clock counts: one has been silent for as long as its record is older than the newest one, by the clock of the store, for each node puts
//! its own anew every few seconds. Nothing depends on these records: one that is deleted comes again while its node is there.

use std::time::Duration;

use litekeep_cluster::{Role, Situation};
use serde::{Deserialize, Serialize};

use super::link::{Link, REPORT};
use super::records::{NodeRecord, Told};
use crate::report::text;

/// Whoever has not been heard of for so long should have been.
const SILENT: Duration = REPORT.saturating_mul(4);
/// Whoever has not been heard of for so long is listed apart, and alarms nobody.
const GONE: Duration = Duration::from_secs(24 * 3_600);

/// The role of a node that was ended on purpose.
pub(super) const DOWN: &str = "down";

/// Whether a node is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Presence {
    Up,
    /// It was ended on purpose.
    Down,
    /// It should have been heard of.
    Silent,
    /// Down or silent for a day.
    Gone,
}

/// One node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct NodeView {
    #[serde(flatten)]
    pub(crate) told: NodeRecord,
    pub(crate) presence: Presence,
    /// How long it has told nothing.
    pub(crate) silent_ms: i64,
}

/// The cluster, as one node sees it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ClusterView {
    pub(crate) node: String,
    pub(crate) role: String,
    pub(crate) epoch: Option<u64>,
    pub(crate) primary: Option<String>,
    /// Since when that one leads, as it says.
    pub(crate) since: Option<String>,
    /// Its lease has run out, and nobody has taken it yet.
    pub(crate) lapsed: bool,
    /// Applications can write on this node.
    pub(crate) writable: bool,
    pub(crate) ok: bool,
    /// What is wrong with this node.
    pub(crate) trouble: Option<String>,
    /// All that is wrong.
    pub(crate) problems: Vec<String>,
    pub(crate) nodes: Vec<NodeView>,
}

/// What all nodes told last; or why that is not known.
pub(crate) type AllTold = Result<Vec<NodeView>, String>;

/// How long each has been silent. `now_ms`: where no node may be there whose record is new.
pub(crate) fn views(told: Vec<Told>, now_ms: Option<i64>) -> Vec<NodeView> {
    let newest_ms = told.iter().map(|told| told.put_ms).chain(now_ms).max().unwrap_or_default();
    let view = |Told { node, put_ms }| {
        let silent_ms: i64 = newest_ms - put_ms;
        let silence = Duration::from_millis(silent_ms.unsigned_abs());
        let presence = match silence {
            _ if silence >= GONE => Presence::Gone,
            _ if node.role == DOWN => Presence::Down,
            _ if silence >= SILENT => Presence::Silent,
            _ => Presence::Up,
        };
        NodeView { told: node, presence, silent_ms }
    };
    told.into_iter().map(view).collect()
}

impl NodeView {
    /// What is wrong with a node, in the words of another one.
    fn problems(&self) -> Vec<String> {
        let name = &self.told.node;
        match self.presence {
            Presence::Up => {
                let databases = self.told.databases.iter();
                let databases = databases.filter_map(|database| {
                    Some(format!("{}: {}", database.path.display(), database.trouble.as_ref()?))
                });
                self.told
                    .trouble
                    .iter()
                    .cloned()
                    .chain(databases)
                    .map(|what| format!("{name}: {what}"))
                    .collect()
            }
            Presence::Silent => {
                vec![format!("{name} has not been heard of for {}", text::age(self.silent_ms))]
            }
            Presence::Down | Presence::Gone => vec![],
        }
    }
}

impl ClusterView {
    /// All that is wrong.
    fn find_problems(&self) -> Vec<String> {
        let mut problems: Vec<String> = self.trouble.iter().cloned().collect();
        match (self.role.as_str(), &self.primary) {
            ("fencing", _) if problems.is_empty() => {
                problems.push("nobody can write here until it is known who leads".to_owned());
            }
            ("replica", Some(primary)) if self.lapsed => {
                problems.push(format!("the lease of {primary} has run out, and nobody has taken it"));
            }
            ("replica", None) => problems.push("no node is the primary".to_owned()),
            _ => {}
        }
        let all = self.nodes.iter().flat_map(NodeView::problems);
        let own = self.trouble.as_ref().map(|trouble| format!("{}: {trouble}", self.node));
        problems.extend(all.filter(|problem| own.as_ref() != Some(problem)));
        problems
    }
}

impl Link {
    /// Applications can write on this node.
    pub(crate) fn is_writable(&self) -> bool {
        self.situation().role == Role::Primary && self.shown.terms.valid().is_some()
    }

    /// What all nodes told last.
    pub(crate) async fn all_told(&self) -> AllTold {
        let told = self.records.nodes().await;
        told.map(|told| views(told, None))
            .map_err(|error| format!("the other nodes are not known: {error:#}"))
    }

    /// The whole cluster.
    pub(crate) async fn view(&self) -> ClusterView {
        self.view_with(self.all_told().await)
    }

    /// The same, of the others what they told last.
    pub(crate) fn view_with(&self, told: AllTold) -> ClusterView {
        let Situation { role, epoch, primary, is_lapsed, trouble, .. } = self.situation();
        let (mut nodes, silence) = told.map_or_else(|silence| (vec![], Some(silence)), |nodes| (nodes, None));
        nodes.retain(|node| node.told.node != self.name);
        nodes.push(NodeView { told: self.own(), presence: Presence::Up, silent_ms: 0 });
        nodes.sort_by(|a, b| a.told.node.cmp(&b.told.node));
        let primary = primary.map(|primary| primary.name);
        let leads = |node: &&NodeView| {
            Some(&node.told.node) == primary.as_ref()
                && node.told.epoch == epoch
                && node.told.role == "primary"
        };
        let mut view = ClusterView {
            node: self.name.clone(),
            role: role.name().to_owned(),
            epoch,
            since: nodes.iter().find(leads).and_then(|node| node.told.since.clone()),
            primary,
            lapsed: is_lapsed,
            writable: self.is_writable(),
            ok: true,
            trouble: trouble.or(silence),
            problems: vec![],
            nodes,
        };
        view.problems = view.find_problems();
        view.ok = view.problems.is_empty() && role != Role::Promoting;
        view
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(name: &str, role: &str, put_ms: i64) -> Told {
        let node = NodeRecord {
            node: name.to_owned(),
            role: role.to_owned(),
            since: None,
            epoch: Some(3),
            // Which says nothing.
            at: "1999-01-01T00:00:00Z".to_owned(),
            candidate: true,
            trouble: None,
            databases: vec![],
        };
        Told { node, put_ms }
    }

    #[test]
    fn who_is_silent_is_told_by_the_store_alone() {
        let day_ms = 24 * 3_600_000;
        let all = || {
            vec![
                told("a", "primary", day_ms),
                told("b", "replica", day_ms - 9_000),
                told("c", "replica", day_ms - 20_000),
                told("d", DOWN, day_ms - 20_000),
                told("e", "replica", 0),
                told("f", DOWN, 0),
            ]
        };
        let found = |now_ms| views(all(), now_ms).iter().map(|node| node.presence).collect::<Vec<_>>();
        use Presence::{Down, Gone, Silent, Up};
        assert_eq!(found(None), [Up, Up, Silent, Down, Gone, Gone]);
        // Where nobody may be there, by the own clock.
        assert_eq!(found(Some(day_ms + 20_000)), [Silent, Silent, Silent, Down, Gone, Gone]);
        assert_eq!(found(Some(0)), found(None), "one that goes slow makes nobody come back");
    }
}
