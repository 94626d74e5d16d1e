//! The store against real folders and a real S3 server.

mod compacting;
mod files;
mod folder;
mod s3;
mod suite;
