//! The store against real folders and real servers.

mod azure;
mod compacting;
mod files;
mod folder;
mod google;
#[cfg(any(feature = "sftp", feature = "webdav"))]
mod remote;
mod s3;
mod suite;
