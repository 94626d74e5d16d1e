//! Processes under litekeep's care.
//!
//! [`policy`] says when one that ended is started again.

#![forbid(unsafe_code)]

pub mod policy;
