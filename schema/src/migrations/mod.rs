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
mod lint;
mod model;
mod rewrite;
mod run;
mod survey;

pub use convention::{Convention, new_file};
pub use folder::{Folder, Migration};
pub use guard::{CODES as HARMS, Harm};
pub use lint::{Finding, lint};
pub use rewrite::{Rebuild, Rewritten, rewrite};
pub use run::{Attend, Done, State, Status, down, status, up};
pub use survey::{Survey, copy};
