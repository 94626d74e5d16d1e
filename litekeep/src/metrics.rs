//! Prometheus metrics over HTTP, at `/metrics`.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Weak;

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use litekeep_env::{Clock, SystemClock};
use litekeep_replicate::replicator::Status;
use litekeep_store::Counts;

use crate::replication::Replication;
use crate::report::{Failure, Kind, text};
use crate::verification::Verified;

/// Listens from now on.
///
/// # Errors
/// When the address is taken or not ours.
pub(crate) async fn serve(addr: SocketAddr, replication: Weak<Replication>) -> Result<(), Failure> {
    let listener = tokio::net::TcpListener::bind(addr).await.map_err(|error| {
        Failure::new(Kind::Invalid, format!("listen on {addr} for metrics: {}", text::io_error(&error)))
            .hint("choose another `addr` below [metrics]")
    })?;
    let page = move || {
        // At the end there is a moment without replication, in which the page is empty.
        let text = replication.upgrade().map_or(String::new(), |replication| {
            let verified = |path: &Path| replication.verifications().of(path);
            render(&replication.statuses(), &replication.stores().counts(), &verified, SystemClock.unix_ms())
        });
        async move { ([(CONTENT_TYPE, "text/plain; version=0.0.4")], text) }
    };
    let router = Router::new().route("/metrics", get(page));
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!("metrics are no longer served: {error}");
        }
    });
    Ok(())
}

/// One metric: name, type, help, and the value of each database.
type Metric = (&'static str, &'static str, &'static str, fn(&Status, i64) -> Option<f64>);

const METRICS: [Metric; 9] = [
    ("up", "gauge", "1 while replication goes well, 0 when somebody has to look.", |status, _| {
        Some(f64::from(u8::from(!status.phase.is_red())))
    }),
    (
        "lag_seconds",
        "gauge",
        "Age of the oldest commit that no destination has confirmed.",
        |status, now_ms| {
            Some(status.behind_since_ms.map_or(0.0, |since_ms| (now_ms - since_ms).max(0) as f64 / 1000.0))
        },
    ),
    ("lag_transactions", "gauge", "Captured transactions that no destination has confirmed.", |status, _| {
        let captured = status.captured?.get();
        Some(captured.saturating_sub(status.durable.map_or(0, |txid| txid.get())) as f64)
    }),
    ("durable_txid", "gauge", "The last transaction that a destination has confirmed.", |status, _| {
        Some(status.durable?.get() as f64)
    }),
    ("confirmed_timestamp_seconds", "gauge", "When that was.", |status, _| {
        Some(status.confirmed_ms? as f64 / 1000.0)
    }),
    ("wal_bytes", "gauge", "Size of the WAL.", |status, _| Some(status.wal_bytes as f64)),
    ("wal_resets_total", "counter", "Resets of the WAL.", |status, _| Some(status.resets as f64)),
    ("wal_breaks_total", "counter", "Times when page checksums had to be compared.", |status, _| {
        Some(status.breaks as f64)
    }),
    ("commits_total", "counter", "Commits of the application that were shipped.", |status, _| {
        Some(status.commits as f64)
    }),
];

fn render(
    statuses: &[Status],
    stores: &[(String, Counts)],
    verified: &dyn Fn(&Path) -> Option<Verified>,
    now_ms: i64,
) -> String {
    let mut out = String::new();
    for (name, kind, help, value) in METRICS {
        head(&mut out, name, kind, help);
        for status in statuses {
            if let Some(value) = value(status, now_ms) {
                let database = escaped(&status.path.to_string_lossy());
                let _ = writeln!(out, "litekeep_{name}{{database=\"{database}\"}} {value}");
            }
        }
    }
    let verified: Vec<_> =
        statuses.iter().filter_map(|status| Some((&status.path, verified(&status.path)?))).collect();
    head(&mut out, "verified", "gauge", "1 when the last verification proved the backup, 0 when it did not.");
    for (path, last) in &verified {
        let (database, proven) = (escaped(&path.to_string_lossy()), u8::from(last.proven));
        let _ = writeln!(out, "litekeep_verified{{database=\"{database}\"}} {proven}");
    }
    head(&mut out, "verified_timestamp_seconds", "gauge", "When that was.");
    for (path, last) in &verified {
        let (database, at) = (escaped(&path.to_string_lossy()), last.at_ms as f64 / 1000.0);
        let _ = writeln!(out, "litekeep_verified_timestamp_seconds{{database=\"{database}\"}} {at}");
    }
    head(&mut out, "waiting_files", "gauge", "Files that wait for a destination.");
    for status in statuses {
        for destination in &status.destinations {
            let (database, place) = (escaped(&status.path.to_string_lossy()), escaped(&destination.place));
            let waiting = destination.waiting;
            let _ = writeln!(
                out,
                "litekeep_waiting_files{{database=\"{database}\",destination=\"{place}\"}} {waiting}"
            );
        }
    }
    head(&mut out, "requests_total", "counter", "Requests to a store.");
    for (place, counts) in stores {
        let kinds = [
            ("put", counts.put),
            ("get", counts.get),
            ("list", counts.list),
            ("head", counts.head),
            ("delete", counts.delete),
        ];
        for (kind, count) in kinds {
            let _ = writeln!(
                out,
                "litekeep_requests_total{{store=\"{}\",kind=\"{kind}\"}} {count}",
                escaped(place)
            );
        }
    }
    head(&mut out, "request_errors_total", "counter", "Requests to a store that failed.");
    for (place, counts) in stores {
        let _ =
            writeln!(out, "litekeep_request_errors_total{{store=\"{}\"}} {}", escaped(place), counts.errors);
    }
    out
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP litekeep_{name} {help}\n# TYPE litekeep_{name} {kind}");
}

/// A label's value, as the text format wants it.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_format() {
        let status = Status { path: "/a\"b.db".into(), behind_since_ms: Some(1000), ..Status::default() };
        let counts = Counts { put: 7, errors: 1, ..Counts::default() };
        let verified = |_: &Path| Some(Verified { proven: true, at_ms: 2500 });
        let text = render(&[status], &[("s3://b".to_owned(), counts)], &verified, 3500);
        for line in [
            "# TYPE litekeep_lag_seconds gauge",
            "litekeep_lag_seconds{database=\"/a\\\"b.db\"} 2.5",
            "litekeep_up{database=\"/a\\\"b.db\"} 1",
            "litekeep_verified{database=\"/a\\\"b.db\"} 1",
            "litekeep_verified_timestamp_seconds{database=\"/a\\\"b.db\"} 2.5",
            "litekeep_requests_total{store=\"s3://b\",kind=\"put\"} 7",
            "litekeep_request_errors_total{store=\"s3://b\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }
}
