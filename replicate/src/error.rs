//! Errors of this crate.

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
            Error::Sqlite(e) => match e {
                litekeep_sql::Error::Busy { .. } | litekeep_sql::Error::Unavailable { .. } => {
                    Kind::Unavailable
                }
                litekeep_sql::Error::Corrupt { .. } => Kind::Corrupt,
                litekeep_sql::Error::Refused { .. } | litekeep_sql::Error::Build(_) => Kind::Invalid,
            },
            Error::Format { .. } => Kind::Corrupt,
            Error::Ltx { source, .. } => match source.kind() {
                litekeep_ltx::ErrorKind::Corrupt => Kind::Corrupt,
                litekeep_ltx::ErrorKind::Io => Kind::Unavailable,
                litekeep_ltx::ErrorKind::Invalid => Kind::Internal,
            },
            Error::Store(e) => match e.kind() {
                litekeep_store::ErrorKind::Unavailable => Kind::Unavailable,
                litekeep_store::ErrorKind::Fenced => Kind::Fenced,
                litekeep_store::ErrorKind::Corrupt => Kind::Corrupt,
                litekeep_store::ErrorKind::Invalid => Kind::Invalid,
                litekeep_store::ErrorKind::Internal => Kind::Internal,
            },
            Error::Other { kind, .. } => *kind,
        }
    }

    /// What to type next, when there is something.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Error::Other { hint, .. } => hint.as_deref(),
            _ => None,
        }
    }

    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Error {
        Error::Other { kind, message: message.into(), hint: None }
    }

    pub(crate) fn with_hint(kind: Kind, message: impl Into<String>, hint: impl Into<String>) -> Error {
        Error::Other { kind, message: message.into(), hint: Some(hint.into()) }
    }

    pub(crate) fn file(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
        move |source| Error::File { doing, path: path.to_owned(), source }
    }
}
