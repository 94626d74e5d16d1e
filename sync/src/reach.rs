//! What to do about a server that does not answer.

use crate::{Error, Kind};

/// Words of the system and of the drivers, and what to look at.
const CAUSES: [(&[&str], &str); 3] = [
    (&["onnection refused"], "nothing listens there: start the server, or correct host and port in the URL"),
    (
        &["lookup address", "Name or service not known", "no record found", "name resolution"],
        "nobody knows a host of this name: correct it in the URL, or look whether this machine has a name server",
    ),
    (
        &["timed out", "imeout", "unreachable", "No route to host"],
        "nothing answers there: look at the server's firewall and address, and at host and port in the URL",
    ),
];

/// The error, with what to look at where the cause tells.
pub fn unreachable(message: String, cause: &str) -> Error {
    let known = CAUSES.iter().find(|(words, _)| words.iter().any(|word| cause.contains(word)));
    match known {
        Some((_, hint)) => Error::with_hint(Kind::Unavailable, message, *hint),
        None => Error::new(Kind::Unavailable, message),
    }
}
