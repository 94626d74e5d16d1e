//! From command line and configuration to databases and stores.
//!
//! - [`lookup`]: which file, and what it says.
//! - [`database`]: the databases it names.
//! - [`members`]: those of a folder.
//! - [`stores`]: one client for each distinct store.

pub(crate) mod database;
pub(crate) mod lookup;
pub(crate) mod members;
pub(crate) mod stores;

pub(crate) use database::Database;
pub(crate) use lookup::Settings;
pub(crate) use stores::Stores;

use std::path::{Path, PathBuf};

use litekeep_config::{Destination, StoreUrl};

/// The folder that a database is backed up to when nobody says otherwise: `app.db-backup` beside `app.db`.
pub(crate) fn default_backup(database: &Path) -> PathBuf {
    let mut name = database.file_name().unwrap_or_default().to_owned();
    name.push("-backup");
    database.with_file_name(name)
}

/// The default destination of a database.
pub(crate) fn default_destination(database: &Path) -> Destination {
    Destination::new(StoreUrl::File { path: default_backup(database) })
}

/// Whether an argument names a backup and not a database: a URL, or a folder.
pub(crate) fn is_store(argument: &str) -> bool {
    argument.contains("://") || Path::new(argument).is_dir()
}

/// The value of an environment variable.
pub(crate) fn env(name: &str) -> Option<String> {
    std::env::var(name).ok()
}
