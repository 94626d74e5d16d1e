//! What can go wrong with a process under care.

use std::io;

/// This crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What the caller must do about an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The process or the machine is not ready: try again.
    Unavailable,
    /// A setting cannot work: change it.
    Invalid,
    /// A promise of this crate was broken.
    Internal,
}

/// A failure around a process.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A program did not start.
    #[error("start `{process}`: {step}: {cause}")]
    Start {
        /// The process's name.
        process: String,
        /// What was tried, as a verb phrase.
        step: String,
        /// What the system said.
        cause: String,
    },
    /// A process ended or stayed unready when it should have become ready.
    #[error("start `{process}`: {reason}")]
    Unready {
        /// The process's name.
        process: String,
        /// Why it is not ready.
        reason: String,
    },
    /// The new run of a process is unfit; the old one goes on.
    #[error("reload `{process}`: {cause}; the one before {fate}")]
    Reload {
        /// The process's name.
        process: String,
        /// What is wrong with the new one.
        cause: Box<Error>,
        /// What becomes of the old one.
        fate: &'static str,
    },
    /// Processes of a tree outlived SIGKILL.
    #[error(
        "stop `{process}`: {left} of its processes outlive SIGKILL (they hang in the kernel: look at its disks)"
    )]
    Unkillable {
        /// The process's name.
        process: String,
        /// How many.
        left: usize,
    },
    /// Settings that cannot work.
    #[error("{place}: {cause}")]
    Invalid {
        /// What is wrong, by its name.
        place: String,
        /// Why, and what would be right.
        cause: String,
    },
    /// A file of a process's surroundings cannot be used.
    #[error("{action}: {cause}")]
    File {
        /// What was tried, as a verb phrase with the path.
        action: String,
        /// What the system said.
        cause: String,
    },
    /// The supervisor is gone or going.
    #[error("ask `{process}`: its supervisor has ended")]
    Ended {
        /// The process's name.
        process: String,
    },
}

impl Error {
    /// What the caller must do.
    pub fn kind(&self) -> Kind {
        match self {
            Error::Start { .. } | Error::Unready { .. } | Error::Unkillable { .. } | Error::File { .. } => {
                Kind::Unavailable
            }
            Error::Reload { cause, .. } => cause.kind(),
            Error::Invalid { .. } => Kind::Invalid,
            Error::Ended { .. } => Kind::Internal,
        }
    }

    pub(crate) fn file(action: String) -> impl FnOnce(io::Error) -> Error {
        move |cause| Error::File { action, cause: cause.to_string() }
    }

    pub(crate) fn invalid(place: impl Into<String>, cause: impl Into<String>) -> Error {
        Error::Invalid { place: place.into(), cause: cause.into() }
    }
}
