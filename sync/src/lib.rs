//! SQLite in step with other databases.
//!
//! - [`target`]: what a database must be able to do to be kept in step; one crate implements it for each kind.
//! - [`push`]: from the log to a target: first a copy of one state, then every transaction after it.
//! - [`copy`]: the rows of one state, table by table.
//! - [`transfer`]: a database taken whole to a target, or from a source, once.
//! - [`compare`]: which rows differ, and how to mend them.
//! - [`ledger`], [`halves`]: what targets share: how far a sync is, as they keep it; finding the rows that a server refuses.
//! - [`source`]: what a database must be able to do so that SQLite is kept as it is.
//! - [`pull`]: from a source to SQLite: first its rows, then every transaction after that.
//! - [`hub`]: what a database must be able to do for both directions.
//! - [`two_way`]: SQLite and a hub in step in both directions.
//! - [`budget`]: how many connections there may be to a server.
//! - [`cache`]: rows of a source in SQLite, by their keys, as they are asked for.
//! - [`worker`]: a push or a pull that goes on by itself.
//!
//! Promises:
//! - What was done and how far it is are committed in one transaction of the database that is written to, so whatever is killed, no row is lost and
//!   none comes twice.
//! - A transaction is seen on the other side whole or not at all.
//! - A row that the other side cannot hold exactly is *refused*: that side keeps what it had of it, it is listed there with the
//!   reason, and the others go on.
//! - A push neither reads nor writes the application's database: rows come from the log. A pull writes it in ordinary transactions, and so does what goes both ways.

mod batch;
pub mod budget;
pub mod cache;
pub mod compare;
pub mod copy;
pub mod cut;
mod gathering;
pub mod halves;
pub mod hub;
pub mod ledger;
mod local;
mod logs;
pub mod pause;
pub mod pull;
pub mod push;
mod reach;
pub mod source;
pub mod target;
pub mod transfer;
pub mod two_way;
pub mod worker;

pub use batch::{Change, Refused};
pub use budget::{Budget, Permits};
pub use cache::Cache;
pub use hub::Hub;
pub use litekeep_rows::{Error, Kind, Value};
pub use logs::Logs;
pub use pull::Pull;
pub use push::{Push, Settings};
pub use reach::unreachable;
pub use source::Source;
pub use target::{Kept, Stage, Target};
pub use two_way::TwoWay;
pub use worker::Flow;
