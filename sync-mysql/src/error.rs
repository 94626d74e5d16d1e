//! What the server's errors ask of the caller.

use litekeep_schema::portable::mysql::quoted;
use litekeep_sync::{Error, Kind};
use mysql_async::{DriverError, Error as Cause, IoError, ServerError};

use crate::Address;

/// Errors by number (<https://dev.mysql.com/doc/mysql-errors/en/server-error-reference.html>,
/// <https://mariadb.com/kb/en/mariadb-error-codes/>).
mod number {
    pub(super) const UNKNOWN_DATABASE: u16 = 1049;
    pub(super) const DUPLICATE: u16 = 1062;
    pub(super) const NO_TABLE: u16 = 1146;
    /// A user, a host, a database, a table, a column; an operation; a procedure.
    pub(super) const DENIED: [u16; 8] = [1044, 1045, 1130, 1142, 1143, 1227, 1370, 1698];
    pub(super) const BAD_LOGIN: [u16; 3] = [1045, 1130, 1698];
    /// Too many connections, a full disk, no memory, starting or stopping, locks, read only, a lost or killed connection.
    pub(super) const LATER: [u16; 24] = [
        1020, 1021, 1037, 1040, 1041, 1053, 1077, 1079, 1114, 1152, 1158, 1159, 1160, 1161, 1180, 1203, 1205,
        1206, 1213, 1226, 1290, 1317, 1836, 1927,
    ];
    /// What is wrong with the log, in words.
    pub(super) const LOG: u16 = 1236;
    /// LOAD DATA LOCAL is not allowed, of three servers.
    pub(super) const NO_LOCAL_FILE: [u16; 3] = [1148, 3948, 4166];
    /// A value or a rule of the table, where the class of the state does not say so.
    pub(super) const DATA: [u16; 14] =
        [1048, 1118, 1264, 1265, 1292, 1364, 1366, 1367, 1406, 1526, 1690, 1713, 3819, 4025];
    /// A value that cannot be compared with others.
    pub(super) const COMPARING: [u16; 5] = [1267, 1270, 1525, 3854, 3988];
}

/// With what was being done.
pub(crate) fn server(address: &Address, doing: &str, error: &Cause) -> Error {
    let name = address.name();
    let Cause::Server(said) = error else {
        let cause = cause(error);
        let message = format!("{doing} in {name}: {cause}");
        return match is_about_trust(error) {
            true => Error::with_hint(Kind::Invalid, message, TRUST),
            false => litekeep_sync::unreachable(message, &cause),
        };
    };
    let kind = if number::LATER.contains(&said.code) { Kind::Unavailable } else { Kind::Invalid };
    let message = format!("{doing} in {name}: {}", said.message);
    match hint(address, said.code) {
        Some(hint) => Error::with_hint(kind, message, hint),
        None => Error::new(kind, message),
    }
}

const TRUST: &str = "`ssl-ca=FILE` in the URL names the authority that signed the server's certificate; `ssl-mode=disabled` does without TLS";

fn is_about_trust(error: &Cause) -> bool {
    matches!(
        error,
        Cause::Io(IoError::Tls(_))
            | Cause::Driver(
                DriverError::NoClientSslFlagFromServer
                    | DriverError::CleartextPluginDisabled
                    | DriverError::MysqlOldPasswordDisabled
                    | DriverError::UnknownAuthPlugin { .. }
            )
    ) || std::error::Error::source(error).is_some_and(|cause| cause.to_string().contains("certificate"))
}

/// What a library says, without the name of its own error.
fn cause(error: &Cause) -> String {
    match error {
        Cause::Io(IoError::Io(cause)) => cause.to_string(),
        Cause::Io(IoError::Tls(cause)) => format!("TLS: {cause}"),
        Cause::Driver(DriverError::NoClientSslFlagFromServer) => "the server does not support TLS".to_owned(),
        Cause::Driver(cause) => cause.to_string(),
        other => other.to_string(),
    }
}

fn hint(address: &Address, code: u16) -> Option<String> {
    let (user, database) = (address.user(), quoted(address.database()));
    let user = format!("'{}'@'%'", user.replace('\'', "''"));
    if number::BAD_LOGIN.contains(&code) {
        return Some(format!("as an administrator: ALTER USER {user} IDENTIFIED BY '...';"));
    }
    if code == number::UNKNOWN_DATABASE {
        return Some(format!("as an administrator: CREATE DATABASE {database} CHARACTER SET utf8mb4;"));
    }
    if number::DENIED.contains(&code) {
        return Some(format!(
            "as an administrator: GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, INDEX, DROP, LOCK TABLES ON {database}.* TO {user};"
        ));
    }
    None
}

/// Of the connection on which the server sends its log, as replica of this number.
pub(crate) fn of_log(address: &Address, error: &Cause, server_id: u32) -> Error {
    const DOING: &str = "take changes";
    let Some(said) = said(error) else { return server(address, DOING, error) };
    let message = format!("{DOING} from {}: {}", address.name(), said.message);
    // Who is let in is known by then.
    if number::DENIED.contains(&said.code) {
        return Error::with_hint(Kind::Invalid, message, grant_log(address));
    }
    if said.message.contains("same server_uuid/server_id") {
        let hint =
            format!("another one takes them as the replica {server_id}, which this sync is: end one of them");
        return Error::with_hint(Kind::Unavailable, message, hint);
    }
    if said.code != number::LOG {
        return server(address, DOING, error);
    }
    if said.message.contains("max_allowed_packet") {
        let hint = "as an administrator: SET GLOBAL max_allowed_packet = 1073741824;";
        return Error::with_hint(Kind::Invalid, message, hint);
    }
    // The next try asks what is there.
    Error::new(Kind::Unavailable, message)
}

/// Whether the server has let go of what was asked for, or never had it.
pub(crate) fn is_no_log(error: &Cause) -> bool {
    const WORDS: [&str; 8] = [
        "purged",
        "Could not find first log file",
        "could not find next log",
        "Could not find GTID state",
        "not in the master's binlog",
        "more GTIDs than",
        "impossible position",
        "position > file size",
    ];
    said(error)
        .is_some_and(|said| said.code == number::LOG && WORDS.iter().any(|word| said.message.contains(word)))
}

/// What lets a user take changes.
pub(crate) fn grant_log(address: &Address) -> String {
    let user = format!("'{}'@'%'", address.user().replace('\'', "''"));
    let database = quoted(address.database());
    format!(
        "as an administrator: GRANT SELECT ON {database}.* TO {user}; GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO {user};"
    )
}

fn said(error: &Cause) -> Option<&ServerError> {
    match error {
        Cause::Server(said) => Some(said),
        _ => None,
    }
}

/// Whether a row is to blame, and not the server: a value, or a rule of the table.
pub(crate) fn is_about_data(error: &Cause) -> bool {
    said(error).is_some_and(|said| {
        // 45000 is what a trigger says.
        let is_class = ["22", "23", "45"].iter().any(|class| said.state.starts_with(class));
        number::DATA.contains(&said.code) || (is_class && !number::LATER.contains(&said.code))
    })
}

/// Whether a value cannot be compared with those of a column: it has other characters, or is none of its type.
pub(crate) fn is_about_comparing(error: &Cause) -> bool {
    is_about_data(error) || said(error).is_some_and(|said| number::COMPARING.contains(&said.code))
}

/// Whether another row has what must be unique.
pub(crate) fn is_about_uniqueness(error: &Cause) -> bool {
    said(error).is_some_and(|said| said.code == number::DUPLICATE)
}

/// Whether the server does not take rows as a file.
pub(crate) fn is_about_local_files(error: &Cause) -> bool {
    said(error).is_some_and(|said| number::NO_LOCAL_FILE.contains(&said.code))
}

/// Whether the user may not.
pub(crate) fn is_denied(error: &Cause) -> bool {
    said(error).is_some_and(|said| number::DENIED.contains(&said.code))
}

/// Whether there is no such table.
pub(crate) fn is_no_table(error: &Cause) -> bool {
    said(error).is_some_and(|said| [number::NO_TABLE, number::UNKNOWN_DATABASE].contains(&said.code))
}

/// Whether it is another try's turn: the server cannot now, or does not answer.
pub(crate) fn is_for_later(error: &Cause) -> bool {
    said(error).is_none_or(|said| number::LATER.contains(&said.code))
}

/// What the server says of a row.
pub(crate) fn words(error: &Cause) -> String {
    said(error).map_or_else(|| cause(error), |said| said.message.clone())
}
