//! Live copies of a database: a plain file that any process reads with its own SQLite, kept at the end of the log.
//!
//! Promises:
//! - Readers see states after transactions of the log, whole and in their order, never one again that was followed by
//!   another. What is far behind comes in fewer steps: several transactions as one.
//! - What somebody else has written into the file is found before anything is written over it, while the follower runs and at
//!   its start, and ends the following: nothing is overwritten.
//! - No page of another log than before comes into the file, unless a person says so.
//! - After a kill it goes on from exactly where it was, after a power cut from where it was synced last, in one transaction to
//!   the end of the log.
//!
//! What is kept beside the file, in the folder of [local state](litekeep_replicate::local):
//!
//! | file | what it is |
//! | --- | --- |
//! | `lock` | who follows, with the process id |
//! | `replica` | the [position](Position): two slots written in turn, with what is under way |
//! | `replica-pages` | the checksum of each page as the file must have it |
//! | `replica.json` | where the log is |
//! | `stream.json` | how it goes with a primary that tells of the log's end, at most a second old |
//! | `replica-next`, `replica-proof` | what the file is compared with, pages or their checksums; removed afterwards |
//! | `trouble.json` | why it does not go on |
//!
//! - [`Follower`] reads the log and keeps the file up to it. `log` finds what comes next, from a [`Source`] or in the store, `batch` makes one transaction of it,
//!   `replica` applies that, `start` finds out where a file stands.
//! - In a cluster a copy becomes the database that transactions come from ([`Follower::claim`], [`Follower::hand_over`]), and that a copy again
//!   ([`rejoin()`]), which keeps what only it had as a [`Fork`].

mod batch;
mod comparison;
mod follower;
mod fork;
mod log;
mod position;
mod promotion;
mod rejoin;
mod replica;
mod source;
mod start;
mod state;

pub use follower::{Applied, Follower, Options, Proof};
pub use fork::{About, Fork};
pub use litekeep_replicate::{Error, Kind};
pub use position::{Held, Position};
pub use rejoin::{LetGo, Standing, is_source_of, rejoin};
pub use replica::WAL_LIMIT;
pub use source::{Came, Source};
pub use state::{State, Streaming, is_replica};
