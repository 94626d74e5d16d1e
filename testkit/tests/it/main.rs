//! The helpers themselves, each against what it claims to do.

mod proxy;
mod s3;
