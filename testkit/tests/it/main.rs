//! The helpers themselves, each against what it claims to do.

mod bank;
mod churn;
mod contents;
mod leavings;
mod litestream;
mod power_cut;
mod proxy;
mod s3;
mod usage;
