use std::io;

use crate::{Checksum, FileName};

/// What went wrong with an LTX file.
///
/// Byte offsets count from the beginning of the file, or of the chunk or block that was given.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The bytes are not what any writer of LTX leaves behind: fetch the file again, or use another copy.
    #[error("corrupt LTX file at byte {offset}: {what}")]
    Corrupt {
        /// Where the damage was seen, which may be after the place where it happened.
        offset: u64,
        /// What was expected there.
        what: String,
    },
    /// The file is well formed, but not the one that was written.
    #[error("corrupt LTX file: checksum mismatch (expected {expected}, found {found})")]
    Checksum {
        /// The checksum in the trailer.
        expected: Checksum,
        /// The checksum of the bytes that were read.
        found: Checksum,
    },
    /// The caller asked for something that LTX cannot express: a bug or bad input on this side.
    #[error("invalid LTX input: {0}")]
    Invalid(String),
    /// One of several files could not be read.
    #[error("read `{file}`")]
    InFile {
        /// Which one.
        file: FileName,
        /// The cause.
        source: Box<Error>,
    },
    /// Reading or writing failed.
    #[error("{doing}")]
    Io {
        /// A verb phrase.
        doing: &'static str,
        /// The cause.
        source: io::Error,
    },
}

/// What the caller must do about an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// This copy of the file is damaged.
    Corrupt,
    /// The request cannot succeed as it stands.
    Invalid,
    /// The reader or writer failed; the cause says whether a retry can help.
    Io,
}

impl Error {
    /// What the caller must do.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::Corrupt { .. } | Error::Checksum { .. } => ErrorKind::Corrupt,
            Error::InFile { source, .. } => source.kind(),
            Error::Invalid(_) => ErrorKind::Invalid,
            Error::Io { .. } => ErrorKind::Io,
        }
    }

    pub(crate) fn corrupt(offset: u64, what: impl Into<String>) -> Error {
        Error::Corrupt { offset, what: what.into() }
    }

    pub(crate) fn invalid(what: impl Into<String>) -> Error {
        Error::Invalid(what.into())
    }
}
