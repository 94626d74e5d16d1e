//! What the server's errors ask of the caller.

use litekeep_sync::{Error, Kind};
use tokio_postgres::error::SqlState;

use crate::Address;

/// With what was being done.
pub(crate) fn server(address: &Address, doing: &str, error: &tokio_postgres::Error) -> Error {
    match error.as_db_error() {
        Some(db) => said(address, doing, db.code(), db.message(), db.detail()),
        None => {
            let cause = std::error::Error::source(error);
            lost(address, doing, &cause.map_or_else(|| error.to_string(), ToString::to_string))
        }
    }
}

/// The same without an answer of the server's.
pub(crate) fn lost(address: &Address, doing: &str, cause: &str) -> Error {
    let message = format!("{doing} in {}: {cause}", address.name());
    match is_about_trust(cause) {
        true => Error::with_hint(Kind::Invalid, message, TRUST),
        false => litekeep_sync::unreachable(message, cause),
    }
}

/// The same with the parts of its answer.
pub(crate) fn said(
    address: &Address,
    doing: &str,
    code: &SqlState,
    message: &str,
    detail: Option<&str>,
) -> Error {
    let detail = detail.map_or(String::new(), |detail| format!(" ({detail})"));
    let message = format!("{doing} in {}: {message}{detail}", address.name());
    match hint(address, code) {
        Some(hint) => Error::with_hint(kind(code), message, hint),
        None => Error::new(kind(code), message),
    }
}

const TRUST: &str = "`sslrootcert=FILE` in the URL names the authority that signed the server's certificate; `sslmode=disable` does without TLS";

fn is_about_trust(cause: &str) -> bool {
    ["certificate", "does not support TLS", "UnknownIssuer"].iter().any(|words| cause.contains(words))
}

fn kind(code: &SqlState) -> Kind {
    let class = &code.code()[..2];
    // A server that starts, ends, fails over or has no place; a conflict with another transaction.
    match class {
        "08" | "40" | "53" | "57" | "58" => Kind::Unavailable,
        _ if [SqlState::READ_ONLY_SQL_TRANSACTION, SqlState::OBJECT_IN_USE].contains(code) => {
            Kind::Unavailable
        }
        _ => Kind::Invalid,
    }
}

fn hint(address: &Address, code: &SqlState) -> Option<String> {
    let (user, database) = (quoted(address.user()), quoted(address.database()));
    if [SqlState::INVALID_PASSWORD, SqlState::INVALID_AUTHORIZATION_SPECIFICATION].contains(code) {
        return Some(format!("as an administrator: ALTER ROLE {user} LOGIN PASSWORD '...';"));
    }
    if *code == SqlState::INVALID_CATALOG_NAME {
        return Some(format!("as an administrator: CREATE DATABASE {database} OWNER {user};"));
    }
    if *code == SqlState::INSUFFICIENT_PRIVILEGE {
        return Some(format!(
            "as an administrator: GRANT CREATE ON DATABASE {database} TO {user}; GRANT USAGE, CREATE ON SCHEMA public TO {user}; \
             and for tables that are there: GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {user};"
        ));
    }
    None
}

fn quoted(name: &str) -> String {
    litekeep_schema::portable::postgres::quoted(name)
}

/// Whether a row is to blame, and not the server: a value, or a rule of the table.
pub(crate) fn is_about_data(error: &tokio_postgres::Error) -> bool {
    error.code().is_some_and(|code| ["22", "23"].contains(&&code.code()[..2]))
}

/// Whether another row has what must be unique.
pub(crate) fn is_about_uniqueness(error: &tokio_postgres::Error) -> bool {
    error.code() == Some(&SqlState::UNIQUE_VIOLATION)
}

/// What the server says of a row.
pub(crate) fn words(error: &tokio_postgres::Error) -> String {
    let Some(db) = error.as_db_error() else { return error.to_string() };
    match db.detail() {
        Some(detail) => format!("{}: {detail}", db.message()),
        None => db.message().to_owned(),
    }
}
