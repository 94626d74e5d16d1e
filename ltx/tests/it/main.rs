//! The codec as its callers see it.

mod chunks;
mod damage;
mod limits;
mod merging;
mod round_trip;
mod sample;
