//! The keys of Litestream's configuration reference, 0.3.13 and 0.5, and what litekeep makes of each.

/// What becomes of a key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    /// It is read.
    Mapped,
    /// It is accepted with a warning that gives this reason.
    NoEffect(&'static str),
    /// It is an error, for this reason, unless its value is empty.
    Refused(&'static str),
}

use Known::{Mapped, NoEffect, Refused};

const AGE: &str = "litekeep does not encrypt backups itself, and storing in the clear what was to be encrypted would be \
     worse than not starting; use the bucket's own encryption, and remove this block";
const SSE: &str =
    "encryption per request is not supported; make it the bucket's default encryption and remove this line";
const NATS: &str = "it is for NATS, which litekeep does not write to";
const PLANNED_UPLOADS: &str = "litekeep plans the parts of its uploads itself";
const OWN_CHECKPOINTS: &str =
    "litekeep resets the WAL at `wal_limit` (64MiB), without holding up the application";

pub(super) const ROOT: &[(&str, Known)] = &[
    ("addr", Mapped),
    ("dbs", Mapped),
    ("exec", Mapped),
    ("logging", Mapped),
    ("snapshot", Mapped),
    ("retention", Mapped),
    ("validation", Mapped),
    ("l0-retention", Mapped),
    ("shutdown-sync-timeout", Mapped),
    (
        "shutdown-sync-interval",
        NoEffect("the last upload is tried again without pause until `shutdown-sync-timeout`"),
    ),
    (
        "levels",
        NoEffect("litekeep plans its compactions itself, so that any second of the last 24h can be restored"),
    ),
    ("l0-retention-check-interval", NoEffect("files are removed when they expire, not by polling")),
    ("verify-compaction", NoEffect("each compaction is always verified before its sources are removed")),
    (
        "heartbeat-url",
        NoEffect("nothing is pinged: watch the metrics, or the exit code of `litekeep status`"),
    ),
    (
        "heartbeat-interval",
        NoEffect("nothing is pinged: watch the metrics, or the exit code of `litekeep status`"),
    ),
    ("socket", NoEffect("there is no control socket")),
    ("mcp-addr", NoEffect("there is no MCP server; every command has --json")),
];

pub(super) const DATABASE: &[(&str, Known)] = &[
    ("path", Mapped),
    ("dir", Mapped),
    ("pattern", Mapped),
    ("recursive", Mapped),
    ("watch", Mapped),
    ("snapshot", Mapped),
    ("meta-path", Mapped),
    ("meta-dir", Mapped),
    ("restore-if-db-not-exists", Mapped),
    ("replica", Mapped),
    ("replicas", Mapped),
    ("monitor-interval", NoEffect("litekeep is woken by each commit and polls nothing")),
    ("checkpoint-interval", NoEffect(OWN_CHECKPOINTS)),
    ("min-checkpoint-page-count", NoEffect(OWN_CHECKPOINTS)),
    ("max-checkpoint-page-count", NoEffect(OWN_CHECKPOINTS)),
    ("truncate-page-n", NoEffect(OWN_CHECKPOINTS)),
    ("max-sync-wal-bytes", NoEffect("the WAL is read as a stream, in bounded memory")),
    ("busy-timeout", NoEffect("litekeep never waits for a lock while it holds one")),
];

/// What a replica has besides [`REPLICA_SETTINGS`].
pub(super) const REPLICA: &[(&str, Known)] = &[
    ("type", Mapped),
    ("url", Mapped),
    ("path", Mapped),
    ("retention", Mapped),
    ("snapshot-interval", Mapped),
    ("name", NoEffect("destinations are told apart by their URLs")),
    ("retention-check-interval", NoEffect("files are removed when they expire, not by polling")),
];

/// What a replica has and, since 0.5.3, the root too, as the default of all replicas.
pub(super) const REPLICA_SETTINGS: &[(&str, Known)] = &[
    ("sync-interval", Mapped),
    ("validation-interval", Mapped),
    ("access-key-id", Mapped),
    ("secret-access-key", Mapped),
    ("region", Mapped),
    ("bucket", Mapped),
    ("endpoint", Mapped),
    ("force-path-style", Mapped),
    ("skip-verify", Mapped),
    ("sign-payload", Mapped),
    ("account-name", Mapped),
    ("account-key", Mapped),
    ("sas-token", Mapped),
    ("host", Mapped),
    ("user", Mapped),
    ("password", Mapped),
    ("key-path", Mapped),
    ("host-key", Mapped),
    ("webdav-url", Mapped),
    ("webdav-username", Mapped),
    ("webdav-password", Mapped),
    ("age", Refused(AGE)),
    ("sse-customer-algorithm", Refused(SSE)),
    ("sse-customer-key", Refused(SSE)),
    ("sse-customer-key-path", Refused(SSE)),
    ("sse-kms-key-id", Refused(SSE)),
    ("auto-recover", NoEffect("after a break litekeep compares page checksums and uploads what differs")),
    ("max-sync-ltx-files", NoEffect(PLANNED_UPLOADS)),
    ("part-size", NoEffect(PLANNED_UPLOADS)),
    ("concurrency", NoEffect(PLANNED_UPLOADS)),
    ("concurrent-writes", NoEffect(PLANNED_UPLOADS)),
    ("require-content-md5", NoEffect("each file carries its own checksum, verified on every read")),
    ("storage-class", NoEffect("the bucket's default class is used: set a lifecycle rule there")),
    ("jwt", NoEffect(NATS)),
    ("seed", NoEffect(NATS)),
    ("creds", NoEffect(NATS)),
    ("nkey", NoEffect(NATS)),
    ("username", NoEffect(NATS)),
    ("token", NoEffect(NATS)),
    ("tls", NoEffect(NATS)),
    ("root-cas", NoEffect(NATS)),
    ("client-cert", NoEffect(NATS)),
    ("client-key", NoEffect(NATS)),
    ("max-reconnects", NoEffect(NATS)),
    ("reconnect-wait", NoEffect(NATS)),
    ("timeout", NoEffect(NATS)),
];

/// Advice about a key that is known in another place.
pub(super) fn elsewhere(key: &str, place: &str) -> Option<String> {
    let has = |table: &[(&str, Known)]| table.iter().any(|(name, _)| *name == key);
    if has(ROOT) && place != "the root" {
        return Some("it belongs at the root of the file".into());
    }
    if has(DATABASE) && place != "a database" {
        return Some("it belongs to a database, below `dbs`".into());
    }
    if (has(REPLICA) || has(REPLICA_SETTINGS)) && place != "a replica" {
        return Some("it belongs below `replica`".into());
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_has_two_meanings_in_one_place() {
        for tables in [vec![ROOT, REPLICA_SETTINGS], vec![DATABASE], vec![REPLICA, REPLICA_SETTINGS]] {
            let mut names: Vec<&str> =
                tables.iter().flat_map(|table| table.iter()).map(|(name, _)| *name).collect();
            names.sort_unstable();
            let total = names.len();
            names.dedup();
            assert_eq!(names.len(), total);
        }
    }
}
