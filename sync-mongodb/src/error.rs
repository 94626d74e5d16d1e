//! What the server's errors ask of the caller.

use litekeep_sync::{Error, Kind};
use mongodb::error::{Error as Cause, ErrorKind, TRANSIENT_TRANSACTION_ERROR, WriteFailure};

use crate::Address;

/// Errors by number (<https://github.com/mongodb/mongo/blob/master/src/mongo/base/error_codes.yml>).
pub(crate) mod code {
    pub(crate) const UNAUTHORIZED: i32 = 13;
    pub(crate) const AUTHENTICATION: i32 = 18;
    pub(crate) const NO_REPLICA_SET: i32 = 20;
    pub(crate) const NAMESPACE_EXISTS: i32 = 48;
    pub(crate) const TOO_SLOW: i32 = 50;
    pub(crate) const WRITE_CONFLICT: i32 = 112;
    pub(crate) const CAPPED_POSITION_LOST: i32 = 136;
    pub(crate) const SNAPSHOT_TOO_OLD: i32 = 239;
    pub(crate) const NO_SUCH_TRANSACTION: i32 = 251;
    pub(crate) const INVALID_RESUME_TOKEN: i32 = 260;
    pub(crate) const CHANGE_STREAM_FATAL: i32 = 280;
    pub(crate) const HISTORY_LOST: i32 = 286;
    pub(crate) const TRANSACTION_TOO_LONG: i32 = 290;
    pub(crate) const TRANSACTION_TOO_LARGE: i32 = 409;
    pub(crate) const DOCUMENT_TOO_LARGE: i32 = 10334;
    pub(crate) const DUPLICATE: [i32; 2] = [11000, 11001];
    /// No answer, no primary, starting or stopping, locks, limits of time, a full disk, a cursor or a transaction that is gone.
    pub(super) const LATER: &[i32] = &[
        6, 7, 24, 43, 46, 50, 64, 89, 91, 100, 112, 134, 175, 189, 202, 225, 234, 237, 246, 251, 262, 267,
        290, 317, 384, 391, 9001, 10107, 11600, 11601, 11602, 13435, 13436, 14031,
    ];
}

/// What a user needs to write, and to read.
pub(crate) const WRITES: &str = "readWrite";
pub(crate) const READS: &str = "read";

/// With what was being done.
pub(crate) fn server(address: &Address, doing: &str, error: &Cause) -> Error {
    server_as(address, WRITES, doing, error)
}

/// The same of a user who needs another role.
pub(crate) fn server_as(address: &Address, role: &str, doing: &str, error: &Cause) -> Error {
    let message = format!("{doing} in {}: {}", address.name(), cause(error));
    if is_about_trust(&message) {
        return Error::with_hint(Kind::Invalid, message, TRUST);
    }
    let kind = match &*error.kind {
        ErrorKind::Authentication { .. }
        | ErrorKind::InvalidArgument { .. }
        | ErrorKind::InvalidTlsConfig { .. }
        | ErrorKind::IncompatibleServer { .. }
        | ErrorKind::SessionsNotSupported => Kind::Invalid,
        _ if is_for_later(error) => Kind::Unavailable,
        _ => Kind::Invalid,
    };
    match hint(address, role, error) {
        Some(hint) => Error::with_hint(kind, message, hint),
        None if kind == Kind::Unavailable => litekeep_sync::unreachable(message, &cause(error)),
        None => Error::new(kind, message),
    }
}

const TRUST: &str = "`tlsCAFile=FILE` in the URL names the authority that signed the server's certificate; `tls=false` does without TLS";

/// What makes a replica set of a server that is none.
pub(crate) const REPLICA_SET: &str = "transactions and change streams need a replica set, of one server at least: start mongod with `--replSet rs0`, and once run in mongosh: rs.initiate()";

fn is_about_trust(message: &str) -> bool {
    [
        "certificate",
        "CertificateUnknown",
        "UnknownIssuer",
        "HandshakeFailure",
        "InvalidContentType",
        "corrupt message",
    ]
    .iter()
    .any(|word| message.contains(word))
}

/// What a library says, without the name of its own error.
pub(crate) fn cause(error: &Cause) -> String {
    match &*error.kind {
        ErrorKind::Command(said) => said.message.clone(),
        ErrorKind::Write(WriteFailure::WriteError(said)) => said.message.clone(),
        ErrorKind::Write(WriteFailure::WriteConcernError(said)) => said.message.clone(),
        ErrorKind::InvalidArgument { message, .. } => message.clone(),
        ErrorKind::Io(cause) => cause.to_string(),
        other => other.to_string(),
    }
}

fn hint(address: &Address, role: &str, error: &Cause) -> Option<String> {
    let (user, source) = address.user();
    let is_login = matches!(&*error.kind, ErrorKind::Authentication { .. });
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    match number(error) {
        _ if is_login => {}
        Some(code::AUTHENTICATION) => {}
        Some(code::UNAUTHORIZED) if user.is_empty() => {
            return Some("name a user in the URL: mongodb://user:password@...".to_owned());
        }
        Some(code::UNAUTHORIZED) => {
            return Some(format!(
                "as an administrator, in the database `{source}`: db.grantRolesToUser({}, [{{ role: \"{role}\", db: {} }}])",
                quoted(user),
                quoted(address.database())
            ));
        }
        Some(code::NO_REPLICA_SET) => return Some(REPLICA_SET.to_owned()),
        Some(code::SNAPSHOT_TOO_OLD) => {
            return Some(
                "as an administrator: db.adminCommand({ setParameter: 1, minSnapshotHistoryWindowInSeconds: 3600 }) keeps a state for an hour"
                    .to_owned(),
            );
        }
        // Not every version has a number for it.
        number if number == Some(code::TRANSACTION_TOO_LARGE) || cause(error).contains("will not fit") => {
            return Some(
                "mongod's cache is too small for it: raise `storage.wiredTiger.engineConfig.cacheSizeGB`"
                    .to_owned(),
            );
        }
        _ => return None,
    }
    Some(format!(
        "as an administrator, in the database `{source}`: db.changeUserPassword({}, passwordPrompt()); `authSource` in the URL names the database that knows the user",
        quoted(user)
    ))
}

/// The number of what the server says.
pub(crate) fn number(error: &Cause) -> Option<i32> {
    match &*error.kind {
        ErrorKind::Command(said) => Some(said.code),
        ErrorKind::Write(WriteFailure::WriteError(said)) => Some(said.code),
        ErrorKind::Write(WriteFailure::WriteConcernError(said)) => Some(said.code),
        _ => None,
    }
}

/// Whether it is another try's turn: the server cannot now, or does not answer.
pub(crate) fn is_for_later(error: &Cause) -> bool {
    error.contains_label(TRANSIENT_TRANSACTION_ERROR)
        || number(error).is_none_or(|code| code::LATER.contains(&code))
}

/// Whether what the server says of a document is about that document.
pub(crate) fn is_about_data(number: i32) -> bool {
    number != code::UNAUTHORIZED && !code::LATER.contains(&number)
}

/// The same, where somebody else may soon be done.
pub(crate) fn is_transient(error: &Cause) -> bool {
    // A server that does not answer is nobody in the way: each try would wait for it once more.
    let is_away = matches!(
        *error.kind,
        ErrorKind::Io(_) | ErrorKind::ServerSelection { .. } | ErrorKind::ConnectionPoolCleared { .. }
    );
    if is_away {
        return false;
    }
    error.contains_label(TRANSIENT_TRANSACTION_ERROR)
        || number(error).is_some_and(|number| {
            [code::WRITE_CONFLICT, code::NO_SUCH_TRANSACTION, code::TRANSACTION_TOO_LONG, 11601, 246, 267]
                .contains(&number)
        })
}
