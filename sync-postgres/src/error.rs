//! What the server's errors ask of the caller.

use litekeep_sync::{Error, Kind};
use tokio_postgres::error::SqlState;

use crate::Address;

/// With what was being done.
pub(crate) fn server(address: &Address, doing: &str, error: &tokio_postgres::Error) -> Error {
    let name = address.name();
    let Some(db) = error.as_db_error() else {
        let cause = std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string);
        let kind = if is_about_trust(&cause) { Kind::Invalid } else { Kind::Unavailable };
        let message = format!("{doing} in {name}: {cause}");
        return match kind {
            Kind::Invalid => Error::with_hint(kind, message, TRUST),
            _ => Error::new(kind, message),
        };
    };
    let mut message = format!("{doing} in {name}: {}", db.message());
    if let Some(detail) = db.detail() {
        message.push_str(&format!(" ({detail})"));
    }
    let hint = hint(address, db.code());
    match hint {
        Some(hint) => Error::with_hint(kind(db.code()), message, hint),
        None => Error::new(kind(db.code()), message),
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
        _ if *code == SqlState::READ_ONLY_SQL_TRANSACTION => Kind::Unavailable,
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
