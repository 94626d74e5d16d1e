//! Who may write: one holder at a time.
//!
//! A lease is a chain of [`Record`]s in a [`Register`], each of which is put only where nobody has put another after the one before: by
//! the holder, to renew it, or by somebody who takes over. Two of them cannot both be next, so whoever loses learns it from his own
//! put. What follows from it ([`Lease`]):
//!
//! 1. **Nobody's clock is compared with another's.** A holder is one for `ttl` from the moment *before* it sent the put that made it
//!    one, by its own clock. Others take over when the newest record has been the same for that `ttl` and a [margin](margin), counted
//!    by their own clocks from the moment *after* they first read it. The record was in the register before it was read, so they wait
//!    longer than it holds, as long as no clock runs more than a fifth faster than another. The clock counts suspension
//!    (CLOCK_BOOTTIME), so whoever wakes up knows that it is too late.
//! 2. **A lost reply is no answer.** The record may have come or not. A holder tries the same put again, and its time counts from the
//!    first try.
//! 3. **Epochs only grow.** Whoever takes over counts one on from the record that it follows, and the newest record is never deleted. An epoch has
//!    one holder, for a name alone is not enough: each holding has a number at random.
//!
//! A lease alone does not keep a holder that has just slept from what it was about to do. That is why it is asked at each answer to a
//! client ([`Validity::is_valid`]), and why the log's own names can be put only once.

mod bucket;
mod error;
mod etcd;
mod holder;
mod record;
mod register;

pub use bucket::Bucket;
pub use error::{Error, ErrorKind, Result};
pub use etcd::{Etcd, EtcdAddress};
pub use holder::{Attempt, Holding, Lease, Validity, margin};
pub use record::{Node, Record, Release};
pub use register::{Put, Register};
