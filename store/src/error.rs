//! What can go wrong with the log in the store, by what the caller must do.

use std::fmt;

use litekeep_ltx::{Txid, WriterId};

/// This crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What the caller must do about an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The store does not answer, refuses, or lacks what was asked for: try again later.
    Unavailable,
    /// Another writer owns this place: stop writing.
    Fenced,
    /// Bytes in the store are not what they must be.
    Corrupt,
    /// The request or its settings cannot work: change them.
    Invalid,
    /// A promise of this crate was broken.
    Internal,
}

/// A failure of the store or of a plan over it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The store gave no usable answer.
    #[error("{action}: {cause}")]
    Unavailable {
        /// What was tried, as a verb phrase with the place.
        action: String,
        /// What the store or the network said.
        cause: String,
    },
    /// The store answered that it will not let us.
    #[error("{action}: access denied: {cause} ({})", what_to_check(.cause))]
    Denied {
        /// What was tried, as a verb phrase with the place.
        action: String,
        /// What the store said.
        cause: String,
    },
    /// The file system will not let us.
    #[error("{action}: {cause}{} (run litekeep as the owner of the folder, or change its permissions)", as_user(*.user))]
    Forbidden {
        /// What was tried, as a verb phrase with the path.
        action: String,
        /// What the system said.
        cause: String,
        /// Who litekeep is.
        user: Option<u32>,
    },
    /// The object is not there.
    #[error("{action}: there is no such object or bucket")]
    Missing {
        /// What was tried, as a verb phrase with the place.
        action: String,
    },
    /// Nothing is left of a log that was there.
    #[error(
        "nothing is left of the log at `{place}` (if its disk is not mounted, mount it, and replication goes on; if it was \
         deleted on purpose, start litekeep once with --new-timeline, which begins a new backup there)"
    )]
    Vanished {
        /// The log's place.
        place: String,
    },
    /// Another writer put different bytes under the name that we wanted.
    #[error(
        "write `{place}`: it is there already, from {theirs}, and differs from ours, {ours}: another replicator writes \
         to this place (stop one of the two, or give each its own path)"
    )]
    Fenced {
        /// The object's key.
        place: String,
        /// What we wanted to put.
        ours: Box<Origin>,
        /// What stands there.
        theirs: Box<Origin>,
    },
    /// Another writer put other bytes under a record's name that we wanted.
    #[error("write `{place}`: another writer was first")]
    Taken {
        /// The record's key.
        place: String,
    },
    /// The store's bytes are damaged or are no LTX file.
    #[error("{action}: {cause}")]
    Corrupt {
        /// What was tried, as a verb phrase with the place.
        action: String,
        /// What is wrong with the bytes.
        cause: String,
    },
    /// A setting or an argument cannot work.
    #[error("{action}: {cause}")]
    Invalid {
        /// What was tried, as a verb phrase with the place.
        action: String,
        /// What is wrong and what would be right.
        cause: String,
    },
    /// There is nothing to restore from.
    #[error("plan a restore: the log is empty")]
    Empty,
    /// The transaction asked for is not in the log.
    #[error("plan a restore to {wanted}: the log ends at {last}")]
    BeyondEnd {
        /// The transaction asked for.
        wanted: Txid,
        /// The last one in the log.
        last: Txid,
    },
    /// Transactions are missing between what can be restored and what was asked for.
    #[error(
        "plan a restore to {wanted}: transactions {first_missing} to {last_missing} are missing from the log; {}",
        nearest_phrase(*.nearest)
    )]
    Hole {
        /// The transaction asked for.
        wanted: Txid,
        /// The first transaction that no usable file holds.
        first_missing: Txid,
        /// The last one before the log goes on.
        last_missing: Txid,
        /// The greatest transaction before the hole that can be restored.
        nearest: Option<Txid>,
    },
    /// The transaction was merged with its neighbours and cannot be told apart from them any more.
    #[error(
        "plan a restore to {wanted}: compaction merged it with its neighbours; {}; the next one after it is {after}",
        nearest_phrase(*.before)
    )]
    Merged {
        /// The transaction asked for.
        wanted: Txid,
        /// The greatest restorable transaction before it.
        before: Option<Txid>,
        /// The smallest restorable transaction after it.
        after: Txid,
    },
    /// A promise of this crate was broken.
    #[error("{action}: {cause}")]
    Internal {
        /// What was tried, as a verb phrase with the place.
        action: String,
        /// What was found instead of what must hold.
        cause: String,
    },
}

fn as_user(user: Option<u32>) -> String {
    user.map_or_else(String::new, |user| format!(" to user {user}"))
}

fn nearest_phrase(nearest: Option<Txid>) -> String {
    match nearest {
        Some(txid) => format!("the nearest intact transaction before it is {txid}"),
        None => "no transaction before it can be restored".to_owned(),
    }
}

impl Error {
    /// What the caller must do.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::Unavailable { .. }
            | Error::Denied { .. }
            | Error::Forbidden { .. }
            | Error::Missing { .. }
            | Error::Vanished { .. } => ErrorKind::Unavailable,
            Error::Fenced { .. } | Error::Taken { .. } => ErrorKind::Fenced,
            Error::Corrupt { .. } | Error::Hole { .. } => ErrorKind::Corrupt,
            Error::Invalid { .. } | Error::Empty | Error::BeyondEnd { .. } | Error::Merged { .. } => {
                ErrorKind::Invalid
            }
            Error::Internal { .. } => ErrorKind::Internal,
        }
    }

    /// Whether the object was absent: after a listing, compaction has replaced it and a new listing helps.
    pub fn is_missing(&self) -> bool {
        matches!(self, Error::Missing { .. })
    }

    /// An object store's error, with what was tried.
    pub(crate) fn from_store(action: impl Into<String>, error: object_store::Error) -> Error {
        use object_store::Error as E;
        let action = action.into();
        match error {
            E::NotFound { .. } => Error::Missing { action },
            E::PermissionDenied { source, .. } if is_of_system(source.as_ref()) => {
                Error::Forbidden { action, cause: "permission denied".into(), user: litekeep_env::user_id() }
            }
            E::PermissionDenied { source, .. } | E::Unauthenticated { source, .. } => {
                Error::Denied { action, cause: brief(&causes(source.as_ref())) }
            }
            E::InvalidPath { source } => Error::Invalid { action, cause: source.to_string() },
            E::NotSupported { source } => Error::Invalid { action, cause: source.to_string() },
            e @ (E::NotImplemented { .. } | E::UnknownConfigurationKey { .. }) => {
                Error::Invalid { action, cause: e.to_string() }
            }
            E::JoinError { source } => Error::Internal { action, cause: source.to_string() },
            E::Generic { source, .. } => {
                // A refused listing comes without a type of its own; only the text has the status.
                let cause = causes(source.as_ref());
                let status = |code: &str| cause.contains(&format!("status code: {code}"));
                let brief = brief(&cause);
                if status("401") || status("403") {
                    Error::Denied { action, cause: brief }
                } else if status("404") {
                    Error::Missing { action }
                } else {
                    Error::Unavailable { action, cause: brief }
                }
            }
            e => Error::Unavailable { action, cause: brief(&causes(&e)) },
        }
    }
}

/// What a person does about a refusal. Signatures hold for minutes, by the server's clock.
fn what_to_check(cause: &str) -> &'static str {
    if cause.contains("RequestTimeTooSkewed") || cause.contains("RequestExpired") {
        "set the clock of this machine, and keep it right with NTP"
    } else {
        "check the keys and what they may do: put, get, list, delete"
    }
}

/// An error with its sources, each said once.
fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let more = inner.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        source = inner.source();
    }
    text
}

/// The error of a system call here, not one that a server answered with.
fn is_of_system(error: &(dyn std::error::Error + 'static)) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|e| e.raw_os_error().is_some())
}

/// Characters of a server's answer that are shown.
const LONGEST_ANSWER: usize = 200;

/// On one line: the cause with the status, then the request. `object_store` tells in one text, and in no type that can
/// be asked, also how often and how long it tried, and the whole answer of the server.
fn brief(text: &str) -> String {
    let whole = || one_line(text, usize::MAX);
    let Some((_, performed)) = text.rsplit_once("Error performing ") else { return whole() };
    let Some((request, cause)) = performed.split_once(" - ") else { return whole() };
    let mut words = request.split_whitespace();
    let (Some(method), Some(target)) = (words.next(), words.next()) else { return whole() };
    // A query is long, and may be a signature.
    let target = target.split('?').next().unwrap_or_default();
    let cause = cause.strip_prefix("HTTP error: ").unwrap_or(cause);
    let answer = ["Server returned non-2xx status code: ", "Server returned error response: "];
    let cause = match answer.iter().find_map(|prefix| cause.strip_prefix(prefix)) {
        Some(answer) => answered(answer),
        None => one_line(cause, usize::MAX),
    };
    let asked_for_keys = METADATA.iter().any(|host| target.contains(host));
    let why = if asked_for_keys {
        "no keys in the configuration or the environment, and none from the role of this machine: "
    } else {
        ""
    };
    format!("{why}{cause} ({method} {target})")
}

/// Where the machines of a cloud ask for the keys of their role: Amazon's and Azure's instances, Amazon's containers,
/// Google's instances.
const METADATA: [&str; 3] = ["//169.254.169.254", "//169.254.170.2", "//metadata.google.internal"];

/// A status and what the server says, without the XML around it.
fn answered(text: &str) -> String {
    let element = |name: &str| {
        let (_, begun) = text.split_once(&format!("<{name}>"))?;
        Some(one_line(begun.split_once("</")?.0, LONGEST_ANSWER))
    };
    let status = text.split(['<', '{', '\n']).next().unwrap_or_default().trim_end_matches([':', ' ']);
    match (element("Code"), element("Message")) {
        (None, None) => one_line(text.trim_end_matches([':', ' ']), LONGEST_ANSWER),
        (code, message) => {
            let said = [Some(status.to_owned()), code, message].into_iter().flatten();
            said.filter(|part| !part.is_empty()).collect::<Vec<_>>().join(": ")
        }
    }
}

fn one_line(text: &str, longest: usize) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(longest) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

/// Who wrote an LTX file and what it claims to hold, as far as its bytes tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A readable header.
    File {
        /// The run of the replicator that wrote it; 0 for Litestream.
        node: WriterId,
        /// First transaction.
        min: Txid,
        /// Last transaction.
        max: Txid,
        /// Milliseconds since the epoch.
        timestamp_ms: i64,
    },
    /// Not an LTX file.
    Unreadable {
        /// How long the object is.
        bytes: u64,
    },
}

impl Origin {
    pub(crate) fn of(bytes: &[u8]) -> Origin {
        match litekeep_ltx::Header::parse(bytes) {
            Ok(h) => {
                Origin::File { node: h.node, min: h.min_txid, max: h.max_txid, timestamp_ms: h.timestamp_ms }
            }
            Err(_) => Origin::Unreadable { bytes: bytes.len() as u64 },
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::File { node, min, max, timestamp_ms } => {
                write!(f, "writer {node} (transactions {min} to {max}, ")?;
                match jiff::Timestamp::from_millisecond(*timestamp_ms) {
                    Ok(time) => write!(f, "{time})"),
                    Err(_) => write!(f, "{timestamp_ms} ms)"),
                }
            }
            Origin::Unreadable { bytes } => write!(f, "an object of {bytes} bytes that is no LTX file"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_not_ours_is_no_matter_of_keys() {
        let key = object_store::path::Path::from("ltx/0/x.ltx");
        let of_system = std::io::Error::from_raw_os_error(libc::EACCES);
        let error = crate::folder::store_error(&key, of_system);
        let text = Error::from_store("write `/srv/backup/ltx/0/x.ltx`", error).to_string();
        let user = litekeep_env::user_id().unwrap();
        assert!(text.starts_with("write `/srv/backup/ltx/0/x.ltx`: permission denied"), "{text}");
        assert!(text.contains(&format!("user {user}")) && !text.contains("keys"), "{text}");
        let of_server = std::io::Error::new(std::io::ErrorKind::PermissionDenied, "the server refuses");
        let error = crate::folder::store_error(&key, of_server);
        assert!(Error::from_store("read", error).to_string().contains("access denied: the server refuses"));
    }

    #[test]
    fn a_wrong_clock_is_no_matter_of_keys() {
        let skewed = |cause: &str| Error::Denied { action: "write".into(), cause: cause.into() }.to_string();
        let text = skewed("403 Forbidden: RequestTimeTooSkewed: request time is too far from server time");
        assert!(text.contains("set the clock") && !text.contains("keys"), "{text}");
        assert!(skewed("403 Forbidden: InvalidAccessKeyId").contains("check the keys"));
    }

    #[test]
    fn long_texts_become_cause_status_and_request() {
        let tries = "in 1.2s, after 2 retries, max_retries: 2, retry_timeout: 20s ";
        let performing = |request: &str, cause: &str| format!("Error performing {request} {tries} - {cause}");
        let refused = "HTTP error: error sending request: client error (Connect): Connection refused";
        let slow = "Server returned non-2xx status code: 503 Service Unavailable: <?xml version=\"1.0\"?>\n<Error>\
                    <Code>SlowDown</Code>\n<Message>Please reduce\nyour rate.</Message><HostId>x</HostId></Error>";
        for (long, brief_text) in [
            (
                performing("PUT http://h:1/b/app/0000/x.ltx", slow),
                "503 Service Unavailable: SlowDown: Please reduce your rate. (PUT http://h:1/b/app/0000/x.ltx)",
            ),
            (
                format!(
                    "Error performing list request: {}",
                    performing("GET http://h/b?list-type=2&sig=x", refused)
                ),
                "error sending request: client error (Connect): Connection refused (GET http://h/b)",
            ),
            (
                performing("GET REDACTED", "Server returned non-2xx status code: 502 Bad Gateway: "),
                "502 Bad Gateway (GET REDACTED)",
            ),
            (
                performing("PUT http://169.254.169.254/latest/api/token", refused),
                "no keys in the configuration or the environment, and none from the role of this machine: \
                 error sending request: client error (Connect): Connection refused \
                 (PUT http://169.254.169.254/latest/api/token)",
            ),
            ("no answer\nwithin 15 s".to_owned(), "no answer within 15 s"),
        ] {
            assert_eq!(brief(&long), brief_text);
        }
        let html = format!("500 Internal Server Error: <html>\n{}</html>", "no ".repeat(400));
        let long = performing("GET http://h/b", &format!("Server returned non-2xx status code: {html}"));
        assert!(
            brief(&long).len() < 260 && brief(&long).contains("500 Internal Server Error"),
            "{}",
            brief(&long)
        );
    }
}
