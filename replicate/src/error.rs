//! Errors of this crate.

use litekeep_ltx::Txid;
use std::io;
use std::path::{Path, PathBuf};

/// What the caller must do about an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Try again later.
    Unavailable,
    /// Another writer owns the log: stop.
    Fenced,
    /// Bytes are damaged or missing.
    Corrupt,
    /// The request or the situation needs a person's decision.
    Invalid,
    /// A bug.
    Internal,
}

impl From<litekeep_store::ErrorKind> for Kind {
    fn from(kind: litekeep_store::ErrorKind) -> Kind {
        match kind {
            litekeep_store::ErrorKind::Unavailable => Kind::Unavailable,
            litekeep_store::ErrorKind::Fenced => Kind::Fenced,
            litekeep_store::ErrorKind::Corrupt => Kind::Corrupt,
            litekeep_store::ErrorKind::Invalid => Kind::Invalid,
            litekeep_store::ErrorKind::Internal => Kind::Internal,
        }
    }
}

impl From<&litekeep_sql::Error> for Kind {
    fn from(error: &litekeep_sql::Error) -> Kind {
        match error {
            litekeep_sql::Error::Busy { .. } | litekeep_sql::Error::Unavailable { .. } => Kind::Unavailable,
            litekeep_sql::Error::Corrupt { .. } => Kind::Corrupt,
            litekeep_sql::Error::Refused { .. } | litekeep_sql::Error::Build(_) => Kind::Invalid,
        }
    }
}

/// What can be had where a restore could not do what was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instead {
    /// The state after this transaction.
    Txid(Txid),
    /// The state at this instant, milliseconds since the epoch.
    Time(i64),
    /// The same over the file that is there, with [`Options::force`](crate::restore::Options::force).
    Force,
    /// An earlier point of the log: the database was damaged when this one was captured.
    Earlier,
}

/// Why capture, restore or verify could not go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call on a local file failed.
    #[error("{doing} `{path}`: {source}", path = path.display())]
    File {
        /// A verb phrase.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// SQLite refused.
    #[error(transparent)]
    Sqlite(#[from] litekeep_sql::Error),
    /// The bytes of the database or its WAL.
    #[error("{doing} `{path}`: {source}", path = path.display())]
    Format {
        /// A verb phrase.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: litekeep_format::Error,
    },
    /// What pages of the log hold.
    #[error("read the database in the log: {0}")]
    Pages(#[from] litekeep_format::Error),
    /// An LTX file.
    #[error("{doing}: {source}")]
    Ltx {
        /// A verb phrase with the file's name.
        doing: String,
        /// The cause.
        source: litekeep_ltx::Error,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] litekeep_store::Error),
    /// What was asked for cannot be restored, but something near it can.
    #[error("{message}")]
    Instead {
        /// What the caller must do.
        kind: Kind,
        /// Place and cause.
        message: String,
        /// What can be restored.
        instead: Instead,
    },
    /// Anything that has a kind and a sentence of its own.
    #[error("{message}")]
    Other {
        /// What the caller must do.
        kind: Kind,
        /// Place and cause.
        message: String,
        /// What to type next.
        hint: Option<String>,
    },
}

impl Error {
    /// What the caller must do.
    pub fn kind(&self) -> Kind {
        match self {
            Error::File { source, .. } => match source.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied | io::ErrorKind::AlreadyExists => {
                    Kind::Invalid
                }
                _ => Kind::Unavailable,
            },
            Error::Sqlite(e) => e.into(),
            Error::Format { .. } | Error::Pages(_) => Kind::Corrupt,
            Error::Ltx { source, .. } => match source.kind() {
                litekeep_ltx::ErrorKind::Corrupt => Kind::Corrupt,
                litekeep_ltx::ErrorKind::Io => Kind::Unavailable,
                litekeep_ltx::ErrorKind::Invalid => Kind::Internal,
            },
            Error::Store(e) => e.kind().into(),
            Error::Instead { kind, .. } | Error::Other { kind, .. } => *kind,
        }
    }

    /// What to type next, when there is something.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Error::Other { hint, .. } => hint.as_deref(),
            _ => None,
        }
    }

    /// What can be restored in place of what was asked for.
    pub fn instead(&self) -> Option<Instead> {
        match self {
            Error::Instead { instead, .. } => Some(*instead),
            _ => None,
        }
    }

    /// An error of another crate of the same layer.
    pub fn new(kind: Kind, message: impl Into<String>) -> Error {
        Error::Other { kind, message: message.into(), hint: None }
    }

    /// One with what to type next.
    pub fn with_hint(kind: Kind, message: impl Into<String>, hint: impl Into<String>) -> Error {
        Error::Other { kind, message: message.into(), hint: Some(hint.into()) }
    }

    /// One of a local file; `doing`: a verb phrase.
    pub fn file(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
        move |source| Error::File { doing, path: path.to_owned(), source }
    }
}
