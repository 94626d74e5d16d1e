//! What can go wrong with a lease, by what the caller must do.

/// This crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What the caller must do about an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// Nobody answers: try again.
    Unavailable,
    /// What stands there is no record of a lease.
    Corrupt,
    /// The settings cannot work: a person changes them.
    Invalid,
}

/// A failure of a register.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    kind: ErrorKind,
    message: String,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error { kind, message: message.into() }
    }

    /// What the caller must do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}

impl From<litekeep_store::Error> for Error {
    fn from(e: litekeep_store::Error) -> Error {
        use litekeep_store::ErrorKind as Store;
        let kind = match e.kind() {
            Store::Corrupt => ErrorKind::Corrupt,
            Store::Invalid => ErrorKind::Invalid,
            Store::Unavailable | Store::Fenced | Store::Internal => ErrorKind::Unavailable,
        };
        Error::new(kind, e.to_string())
    }
}
