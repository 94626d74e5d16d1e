//! The change feed on its way to others: a file, NATS, Redis, RabbitMQ.
//!
//! Promises:
//! - Every event is delivered at least once, in the order of the log. The position moves when the other side has confirmed
//!   every event of a transaction, never before, and is kept durably ([`State`]).
//! - An event has the same [id](Event::id) each time it is delivered, as long as the log keeps its transaction apart.
//! - Where events are no longer in the log, the feed says so and stands still: it never goes on without them.
//! - Nothing grows while the other side does not answer: one part of a transaction waits.
//!
//! What a crash leaves: a position that is older than what was delivered, so that the last events come again. A file knows
//! by itself what it has, and gets each event once.

mod delivery;
mod event;
mod file;
#[cfg(feature = "nats")]
mod nats;
#[cfg(feature = "rabbitmq")]
mod rabbitmq;
#[cfg(feature = "redis")]
mod redis;
mod sink;
mod state;

pub use delivery::{Delivery, Settings, resume};
pub use event::Event;
pub use litekeep_rows::{Error, Kind};
pub use sink::{Sink, open};
pub use state::State;
