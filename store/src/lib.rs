//! The log in object storage: put, list, read, compaction, retention and restore plans.
//!
//! LTX files are the truth; nothing here keeps a second record of what the log holds. [`Store`] moves bytes, [`plan`]
//! decides over a listing ([`Log`]) without any I/O, [`Store::compact`] executes a merge. No SQLite here.

mod checks;
mod compact;
mod counters;
mod error;
pub mod folder;
mod http;
mod log;
mod object;
mod packs;
mod pages;
pub mod plan;
pub mod price;
mod record;
#[cfg(any(feature = "sftp", feature = "webdav"))]
mod remote;
mod store;
mod stream;
mod target;
mod upload;

pub use counters::{Counters, Counts, Request};
pub use error::{Error, ErrorKind, Origin, Result};
pub use log::{FileRef, Layout, Log, SNAPSHOT_LEVEL, Times};
pub use object::ObjectRef;
pub use packs::PackRef;
pub use pages::PageFile;
pub use store::{Conditional, Put, Store, time_limit};
pub use stream::{RangeReader, StreamWriter};
pub use target::{Azure, Gcs, S3, Secret, Sftp, Target, WebDav};
pub use upload::Upload;
