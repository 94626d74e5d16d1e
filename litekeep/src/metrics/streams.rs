//! Who streams from here, and what the copies here stream from others.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::{Of, escaped, render_each};
use crate::cluster::Copied;
use crate::streams::Told;

const SERVED: [Of<Told>; 3] = [
    ("stream_connections", "gauge", "Copies that stream from here.", |told| Some(told.connections as f64)),
    ("stream_connections_total", "counter", "Connections of copies that there have been.", |told| {
        Some(told.begun as f64)
    }),
    ("stream_bytes_total", "counter", "Bytes of the log that were streamed to copies.", |told| {
        Some(told.bytes as f64)
    }),
];

const REPLICAS: [Of<f64>; 1] =
    [("stream_replica_txid", "gauge", "The transaction that the copy of a node has.", |txid| Some(*txid))];

const COPIES: [Of<Copied>; 3] = [
    (
        "stream_live",
        "gauge",
        "1 while the copy here streams from the primary, 0 while it reads the backup.",
        |copy| Some(f64::from(u8::from(copy.is_live))),
    ),
    (
        "stream_lag_seconds",
        "gauge",
        "How long after its capture the last transaction was in the copy.",
        |copy| Some(copy.lag_ms? as f64 / 1000.0),
    ),
    (
        "stream_fallbacks_total",
        "counter",
        "Times when a copy that streamed went over to the backup.",
        |copy| Some(copy.fallbacks as f64),
    ),
];

/// Of all databases; `copies` are those that could stream.
pub(super) fn render(served: &BTreeMap<PathBuf, Told>, copies: &[(PathBuf, Copied)]) -> String {
    let database = |path: &PathBuf| format!("database=\"{}\"", escaped(&path.to_string_lossy()));
    let replicas = served.iter().flat_map(|(path, told)| {
        told.nodes().map(move |(node, txid)| {
            (format!("{},node=\"{}\"", database(path), escaped(node)), txid.get() as f64)
        })
    });
    let served: Vec<_> = served.iter().map(|(path, told)| (database(path), told.clone())).collect();
    let copies: Vec<_> = copies.iter().map(|(path, copy)| (database(path), copy.clone())).collect();
    render_each(&SERVED, &served)
        + &render_each(&REPLICAS, &replicas.collect::<Vec<_>>())
        + &render_each(&COPIES, &copies)
}
