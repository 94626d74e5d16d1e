//! The helpers themselves, each against what it claims to do.

mod s3;
