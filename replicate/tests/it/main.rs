//! Capture, restore and verify against real databases and stores.

mod origin;
mod places;
mod replicator;
mod restore;
mod restore_in_place;
mod restore_v03;
