//! A node of a cluster: `litekeep up` where the configuration has `[cluster]`.
//!
//! [`litekeep_cluster`] says when the node becomes what; [`node`] does it with databases and processes, [`copies`] follows logs, [`upstream`] by streams, too;
//! [`link`] is asked from outside, [`facing`] by the proxies, and [`records`] is what the nodes tell each other.

mod copies;
mod facing;
mod link;
mod node;
mod records;
mod run;
mod upstream;

pub(crate) use facing::Facing;
pub(crate) use link::{ClusterView, Copied, DatabaseView, Link};
pub(crate) use records::Records;
pub(crate) use run::{primary_store, run};
