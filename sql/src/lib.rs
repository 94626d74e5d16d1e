//! The one home of rusqlite: how litekeep opens databases and what it asks SQLite to do.
//!
//! Promises:
//! - An [`Observer`] never checkpoints by itself, not on commit and not on close, and writes into no table of the user's;
//!   its only write is the switch to WAL mode, on request.
//! - An [`Application`] is an ordinary connection, for databases that are litekeep's own.
//! - An [`Examiner`] answers questions about a database and writes nothing; a [`RowReader`] reads all rows of one moment with it.
//! - A [`RowEditor`] changes single rows of the user's database, when it is told to.
//! - A [`PageWriter`] writes whole pages into a database that is litekeep's own and that others read.
//! - A [`Mirror`] writes into the user's database what another server has.
//! - A [`TableReader`] reads CREATE TABLE statements, a [`RowFilter`] looks at single rows; they open no file.
//! - A [`Tuner`] changes what persists in the user's database besides its tables, when it is told to.
//! - A [`Migrator`] changes the user's database, in transactions that are held against what they said they would do.
//!
//! A crash leaves what any SQLite reader leaves: locks go with the process.

mod alteration;
mod application;
mod declaration;
mod examination;
mod migration;
mod mirror;
mod observer;
mod page_writer;
mod parameter;
mod row_editor;
mod row_filter;
mod table_reader;
mod tuning;

pub use alteration::{Alteration, Altered, alterations, rename};
pub use application::{Application, Value};
pub use declaration::{
    Declaration, DeclaredColumn, DeclaredIndex, ForeignKey, Generated, IndexPart, NoSuchCut, Order, Profile,
    RowReader,
};
pub use examination::{Examiner, Layout, Stale, Unindexed};
pub use migration::{
    Aims, Census, Migrator, Object, Stopped, Transaction as MigrationTransaction, statements,
};
pub use mirror::{Mirror, MirrorColumn, MirrorForeignKey, MirrorRules, MirrorTable, SYNC_TABLE, is_mirrored};
pub use observer::{Checkpoint, Observer, Snapshot};
pub use page_writer::PageWriter;
pub use row_editor::{
    Dangling, Reference, RowEditor, TableKind, Written, is_full_text, is_full_text_of, module,
};
pub use row_filter::RowFilter;
pub use table_reader::TableReader;
pub use tuning::Tuner;

/// What went wrong in SQLite, by what the caller can do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Somebody holds a lock; later may be better.
    #[error("{context}: the database is locked by another connection")]
    Busy {
        /// What was being done.
        context: &'static str,
    },
    /// The file is not a database, or damaged.
    #[error("{context}: {message}")]
    Corrupt {
        /// What was being done.
        context: &'static str,
        /// SQLite's words.
        message: String,
    },
    /// The file cannot be opened or written.
    #[error("{context}: {message}")]
    Unavailable {
        /// What was being done.
        context: &'static str,
        /// SQLite's words.
        message: String,
    },
    /// Anything else that SQLite refuses.
    #[error("{context}: {message}")]
    Refused {
        /// What was being done.
        context: &'static str,
        /// SQLite's words.
        message: String,
    },
    /// The linked SQLite lacks what litekeep needs.
    #[error("{0}")]
    Build(String),
}

impl Error {
    /// Whether trying again later can help.
    pub fn is_busy(&self) -> bool {
        matches!(self, Error::Busy { .. })
    }

    /// Whether a file or its folder is not to be written to, which WAL mode needs also for reading.
    pub fn may_not_write(&self) -> bool {
        matches!(self, Error::Unavailable { message, .. } if message.contains("readonly"))
    }

    fn new(context: &'static str, e: rusqlite::Error) -> Error {
        use rusqlite::ErrorCode::*;
        let message = e.to_string();
        match e.sqlite_error_code() {
            Some(DatabaseBusy | DatabaseLocked) => Error::Busy { context },
            Some(DatabaseCorrupt | NotADatabase) => Error::Corrupt { context, message },
            Some(CannotOpen | ReadOnly | PermissionDenied | DiskFull | SystemIoFailure) => {
                Error::Unavailable { context, message }
            }
            _ => Error::Refused { context, message },
        }
    }
}

/// A name as SQL has it.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Checks the linked SQLite once at start. Versions 3.7.0 to 3.51.2 can corrupt a WAL that another process checkpoints
/// while it is reset, and rusqlite's bundled build sets neither of the two options unless `LIBSQLITE3_FLAGS` says so.
pub fn check_build() -> Result<(), Error> {
    let version = rusqlite::version_number();
    if version < 3_051_003 {
        return Err(Error::Build(format!(
            "litekeep is linked with SQLite {}, which has the WAL-reset bug; build it with 3.51.3 or later",
            rusqlite::version()
        )));
    }
    for option in ["ENABLE_SNAPSHOT", "ENABLE_DBPAGE_VTAB"] {
        let c = std::ffi::CString::new(option).expect("no NUL inside");
        // SAFETY: the argument is a NUL-terminated string that outlives the call.
        #[allow(unsafe_code)]
        let used = unsafe { rusqlite::ffi::sqlite3_compileoption_used(c.as_ptr()) } != 0;
        if !used {
            return Err(Error::Build(format!(
                "litekeep's SQLite was built without {option}; build from the repository, whose .cargo/config.toml sets LIBSQLITE3_FLAGS"
            )));
        }
    }
    Ok(())
}

/// The version of the linked SQLite.
pub fn version() -> &'static str {
    rusqlite::version()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_linked_sqlite_is_fit() {
        super::check_build().unwrap();
    }
}
