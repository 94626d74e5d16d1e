//! Processes under litekeep's care.
//!
//! [`Supervisor`] starts [`Service`]s in the order of their dependencies and stops them in reverse. Each [`Process`] is a task of its
//! own: [`spawn`] is what it is made of, [`policy`] says when it is started again, [`health`] and [`limits`] whether it is fit,
//! [`log`] keeps what it prints, and `tree` ends all that it started.

#![forbid(unsafe_code)]

pub mod cgroup;
mod error;
pub mod health;
pub mod limits;
pub mod log;
pub mod policy;
pub mod process;
pub mod spawn;
mod supervisor;
mod tree;

pub use error::{Error, Kind, Result};
pub use process::{Condition, Process, Spec, State, Status};
pub use supervisor::{Service, Supervisor, Until};
