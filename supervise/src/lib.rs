//! Processes under litekeep's care.
//!
//! [`Supervisor`] starts [`Service`]s in the order of their dependencies and stops them in reverse. Each [`Process`] is a task of its
//! own: [`spawn`] is what it is made of, [`policy`] says when it is started again, [`health`] and [`limits`] whether it is fit,
//! [`log`] keeps what it prints, and `tree` ends all that it started. [`job`]s run now and then, [`watch`] sees files change,
//! [`events`] holds what happened, and by [`survivors`] the next litekeep finds what one that was killed had in its care.

#![forbid(unsafe_code)]

mod accepted;
pub mod cgroup;
mod error;
pub mod events;
mod front;
mod handle;
pub mod health;
pub mod job;
pub mod limits;
pub mod log;
pub mod notify;
pub mod policy;
pub mod process;
mod run;
pub mod spawn;
mod supervisor;
pub mod survivors;
mod tree;
pub mod watch;

pub use error::{Error, Kind, Result};
pub use events::{Event, Events};
pub use front::Front;
pub use job::Job;
pub use process::{Condition, Process, Spec, State, Status};
pub use supervisor::{Applied, Begun, Renewed, Service, Setup, Supervisor, Until, Wanted};
