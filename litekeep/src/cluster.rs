//! A node of a cluster: `litekeep up` where the configuration has `[cluster]`.
//!
//! [`litekeep_cluster`] says when the node becomes what; [`node`] does it with databases and processes, [`copies`] follows logs, [`upstream`] by streams, too;
//! [`link`] is asked from outside, [`promotion`] is what it does when it shall lead, [`facing`] is asked by the proxies. [`records`] is what the nodes
//! tell each other, and [`members`] what one of them makes of it.

mod copies;
mod facing;
mod link;
mod members;
mod node;
mod promotion;
mod records;
mod run;
mod upstream;

pub(crate) use facing::Facing;
pub(crate) use link::{Copied, DatabaseView, Link, REPORT};
pub(crate) use members::{AllTold, ClusterView, NodeView, Presence, views};
pub(crate) use promotion::{AtRisk, Promotion};
pub(crate) use records::{NodeRecord, Records};
pub(crate) use run::{primary_store, run};
