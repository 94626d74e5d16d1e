//! Migrations: numbered files of SQL that each run once, in order.
//!
//! Promises:
//! - The write lock is taken before the history is read, so of several processes that start at once one runs what is
//!   pending, and the others wait and find nothing to do.
//! - A file and its entry in the history are one transaction. Whatever fails leaves the database as it was before that file.
//! - A file that loses rows, indexes, triggers or views which none of its statements names is refused ([`Harm`]).
//!
//! Folder and history are those of a tool that is known ([`Convention`]): either program goes on where the other stopped.

mod convention;
mod folder;
mod guard;
mod run;

pub use convention::Convention;
pub use convention::dbmate::new_file;
pub use folder::{Folder, Migration};
pub use guard::Harm;
pub use run::{Done, State, Status, down, status, up};
