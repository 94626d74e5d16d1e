//! The end of a log over HTTP: a primary gives the files of level 0 as its backup confirms them, and a live copy takes them
//! without a request to the backup for each.
//!
//! Promises:
//! - Nobody is given anything without the token.
//! - Nothing piles up for whoever is slow: what is kept is kept for all, and whoever is further behind is sent to the backup.
//! - What is taken is bounded in memory, and nothing here says that it is right: whoever applies it verifies each file.
//! - A primary that says nothing for [`SILENCE`] counts as gone.
//!
//! `GET /v1/log/NAME?after=TXID&backup=IDENTITY` with `Authorization: Bearer TOKEN`; NAME is the path of a database or the end of it,
//! IDENTITY the place of the backup that the copy reads, which says which one is meant where the name does not. The answer has no end of its own; it consists of [frames](frame):
//! files, in between once a second how far the log is, and at last why it ends. Refused with a text:
//!
//! `POST /v1/at/NAME?txid=TXID&node=NODE&backup=IDENTITY`, likewise: the copy of a node has everything up to that transaction; answered with 204.
//! It is said after each transaction, and once a second.
//!
//! | status | why |
//! | --- | --- |
//! | 400 | `after` or `txid` is no transaction, `node` no name |
//! | 401 | the token is missing or wrong |
//! | 404 | no such database, or several |
//! | 409 | the log ends before that transaction |
//! | 410 | what follows is only in the backup |
//! | 503 | too many are here, or the database is not replicated now |

mod client;
mod frame;
mod server;

pub use client::{Access, Address, Client, Error, Files, State};
pub use frame::Now;
pub use server::{KIND, Log, Logs, Next, Refused, router};

use std::time::Duration;

/// How often a primary says how far it is.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(1);
/// After so long without a word a primary is gone.
pub const SILENCE: Duration = Duration::from_secs(4);
/// The largest file that is told, bytes.
pub(crate) const LARGEST: usize = 16 << 20;
