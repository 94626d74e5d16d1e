//! Errors of this crate.

use std::io;
use std::path::{Path, PathBuf};

/// What the caller must do about an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Try again later.
    Unavailable,
    /// The database is damaged.
    Corrupt,
    /// A file, a name or the request must be changed.
    Invalid,
}

/// Why migrations could not be read or run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder.
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
    /// A statement failed or is refused; the database is as it was.
    #[error("run `{path}`, line {line}: {message}", path = path.display())]
    Statement {
        /// The file.
        path: PathBuf,
        /// Where in it the statement begins, from 1.
        line: usize,
        /// The cause.
        message: String,
    },
    /// The file did what it did not say; the database is as it was.
    #[error("run `{path}`: {}", harms.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "), path = path.display())]
    Harm {
        /// The file.
        path: PathBuf,
        /// What would have been lost.
        harms: Vec<crate::migrations::Harm>,
    },
    /// Anything else that a person must decide.
    #[error("{message}")]
    Invalid {
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
                io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied | io::ErrorKind::NotADirectory => {
                    Kind::Invalid
                }
                _ => Kind::Unavailable,
            },
            Error::Sqlite(litekeep_sql::Error::Busy { .. } | litekeep_sql::Error::Unavailable { .. }) => {
                Kind::Unavailable
            }
            Error::Sqlite(litekeep_sql::Error::Corrupt { .. }) => Kind::Corrupt,
            Error::Sqlite(_) | Error::Statement { .. } | Error::Harm { .. } | Error::Invalid { .. } => {
                Kind::Invalid
            }
        }
    }

    /// What to type next.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Harm { harms, .. } => harms.first().map(crate::migrations::Harm::fix),
            Error::Statement { path, message, .. } => refuses_rebuild(message).then(|| rewriting(path)),
            Error::Invalid { hint, .. } => hint.clone(),
            _ => None,
        }
    }

    pub(crate) fn invalid(message: impl Into<String>, hint: impl Into<String>) -> Error {
        Error::Invalid { message: message.into(), hint: Some(hint.into()) }
    }
}

/// Whether SQLite refused the last step of a rebuild, the rename: when a table gets another name it reads every view and trigger, also
/// those of the table that was dropped before.
pub(crate) fn refuses_rebuild(message: &str) -> bool {
    ["error in view ", "error in trigger "].iter().any(|error| message.contains(error))
        && message.contains("no such table: ")
}

/// What to do about it.
pub(crate) fn rewriting(path: &Path) -> String {
    format!(
        "`litekeep migrate rewrite {} --db DB`, with the database for DB, writes the rebuild so that views and triggers stay",
        path.display()
    )
}
