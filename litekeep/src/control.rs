//! How `litekeep status`, `restart` and the others talk to a running `litekeep up`: one question and its answers, a JSON
//! object a line, over a unix socket that only the same user and root may use.

mod client;
mod server;
mod socket;

pub(crate) use client::{Client, is_up, not_taken, talk};
pub(crate) use server::{Out, serve};
pub(crate) use socket::Home;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use socket::socket;

use crate::report::Report;
use crate::waiting::Wanted;

/// A question.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub(crate) enum Ask {
    /// Where everything stands: one item.
    Status,
    Start {
        names: Vec<String>,
    },
    Stop {
        names: Vec<String>,
    },
    Restart {
        names: Vec<String>,
    },
    /// Reads the configuration again, migrates, and replaces what these processes run.
    Reload {
        names: Vec<String>,
    },
    /// An item a line of output.
    Logs {
        names: Vec<String>,
        lines: usize,
        follow: bool,
    },
    /// What happened: an item an event.
    Events {
        lines: usize,
        follow: bool,
    },
    /// What the status page shows: one item.
    Board,
    /// The node and its cluster: one item.
    Cluster,
    /// To take the lease of the cluster: one item. `yes`: although something may be missing.
    Promote {
        yes: bool,
    },
    /// To give the lease away; answered when it is given.
    HandOff {
        to: Option<String>,
    },
    /// Until a transaction is safe: one item.
    Wait(Wanted),
    /// Ends everything; answered when the backup is complete.
    Down,
}

/// A line of the answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    /// It was understood, and is being done.
    Heard,
    /// A part of what was asked for.
    Item(Value),
    /// That was all.
    Done,
    /// It could not be done.
    Error(Report),
}
