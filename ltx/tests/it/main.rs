//! The codec as its callers see it.

mod chunks;
mod damage;
mod golden;
mod limits;
mod merging;
mod mutations;
mod round_trip;
mod sample;
