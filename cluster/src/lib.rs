//! The roles of a node, and what follows when they change.
//!
//! Promises, of each node for itself and all of them together:
//! - Only a [`Primary`](Role::Primary) writes, and there is one at a time: from before its lease can be another's, nobody writes on the former one
//!   ([`Member::block`]).
//! - Who becomes primary has all of the log, and the former primary cannot put anything into it from then on ([`Member::lead`]).
//! - A former primary stays blocked until it knows who comes after it: either nobody has, and it goes on where it was, or its databases
//!   become copies again, and what only they had is kept ([`Member::follow`]).
//! - What ends on purpose ends with everything confirmed ([`Member::complete`]), or does not end.
//!
//! [`Machine`] decides when; a [`Member`] does it, and knows databases and processes. A crash leaves what it leaves: the next start
//! begins blocked if its databases are not copies.

mod keeper;
mod machine;
mod member;

pub use machine::{Ask, Authority, Machine, Settings};
pub use member::{Failure, Member, Role, Situation, Term};
