//! What SQLite, and litekeep with it, are not for.

use serde::Serialize;

/// One of them, with what to use then.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Limit {
    pub(super) name: &'static str,
    pub(super) text: &'static str,
    pub(super) instead: &'static str,
}

const fn limit(name: &'static str, text: &'static str, instead: &'static str) -> Limit {
    Limit { name, text, instead }
}

pub(super) const ALL: [Limit; 9] = [
    limit(
        "writers",
        "several machines or instances that write",
        "Postgres or MySQL; SQLite has one writer, on one machine",
    ),
    limit("analytics", "analytics over large tables", "DuckDB, also on a copy from the backup"),
    limit("many_joins", "joins of twenty tables", "Postgres, or tables made for the query"),
    limit("extensions", "vectors and geography as pgvector and PostGIS have them", "Postgres"),
    limit("roles", "roles and row-level security", "Postgres; whoever may open the file may read all of it"),
    limit(
        "scaling_out",
        "a database that outgrows one machine",
        "a server that scales out, or one file for each tenant",
    ),
    limit(
        "documents",
        "documents that change on many devices offline",
        "CouchDB, Firestore or MongoDB, beside SQLite or instead of it",
    ),
    limit(
        "wal",
        "what WAL mode does not mend",
        "long readers, deferred transactions that write, network disks: the checks above",
    ),
    limit(
        "availability",
        "going on elsewhere within seconds",
        "a database with standbys; a backup is not high availability",
    ),
];
