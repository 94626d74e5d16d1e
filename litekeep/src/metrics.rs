//! Prometheus metrics over HTTP, at `/metrics`.

mod streams;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use litekeep_env::{Clock, SystemClock};
use litekeep_ltx::Txid;
use litekeep_replicate::replicator::{DestinationStatus, Phase, Status};
use litekeep_store::Counts as Requests;
use litekeep_sync::cache::figures::Counts;

use crate::cluster::{DatabaseView, NodeRecord};
use crate::dashboard::Board;
use crate::feeds::FeedStatus;
use crate::replication::Current;
use crate::stack::{ProcessStatus, Stack, StackStatus};
use crate::syncs::SyncStatus;
use crate::verification::Verified;

/// What is at `/metrics`.
pub(crate) fn routes(replication: Current, stack: Option<Weak<Stack>>, board: Arc<Board>) -> Router {
    let page = move || {
        // At the end there is a moment without replication, in which the page is empty.
        let mut text = replication.upgrade().map_or(String::new(), |replication| {
            let verified = |path: &Path| replication.verifications().of(path);
            let (statuses, now_ms) = (replication.statuses(), SystemClock.unix_ms());
            let (feeds, syncs) = (board.feeds(&statuses, now_ms), board.syncs(&statuses, now_ms));
            render(&statuses, &replication.stores().counts(), &verified, now_ms)
                + &render_followers("feed", &OF_FEEDS, &feeds, |feed| &feed.name)
                + &render_followers("sync", &OF_SYNCS, &syncs, |sync| &sync.name)
                + &render_caches(&syncs)
        });
        let stack = stack.as_ref().and_then(Weak::upgrade);
        let served = replication.upgrade().map(|replication| replication.audience().told());
        let copies = stack.as_ref().map(|stack| stack.copied());
        text.push_str(&streams::render(&served.unwrap_or_default(), &copies.unwrap_or_default()));
        if let Some(stack) = stack {
            text.push_str(&render_stack(&stack.status()));
            if let Some(link) = stack.link() {
                text.push_str(&render_node(&link.own(), link.is_writable()));
            }
        }
        async move { ([(CONTENT_TYPE, "text/plain; version=0.0.4")], text) }
    };
    Router::new().route("/metrics", get(page))
}

/// One metric: name, type, help, and the value of each database.
type Metric = (&'static str, &'static str, &'static str, fn(&Status, i64) -> Option<f64>);

const METRICS: [Metric; 10] = [
    ("up", "gauge", "1 while replication goes well, 0 when somebody has to look.", |status, _| {
        // One that is not there is not replicated.
        Some(f64::from(u8::from(!status.phase.is_red() && status.phase != Phase::Waiting)))
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
    ("lag_bytes", "gauge", "Captured bytes that no destination has confirmed.", |status, _| {
        Some(status.behind_bytes as f64)
    }),
    ("durable_txid", "gauge", "The last transaction that a destination has confirmed.", |status, _| {
        Some(status.durable?.get() as f64)
    }),
    ("confirmed_timestamp_seconds", "gauge", "When the last transaction was confirmed.", |status, _| {
        Some(status.confirmed_ms? as f64 / 1000.0)
    }),
    ("wal_bytes", "gauge", "Size of the WAL.", |status, _| Some(status.wal_bytes as f64)),
    ("wal_resets_total", "counter", "Resets of the WAL.", |status, _| Some(status.resets as f64)),
    (
        "wal_breaks_total",
        "counter",
        "Times when the WAL did not lead on and page checksums were compared; without starts on an empty WAL.",
        |status, _| Some(status.breaks as f64),
    ),
    ("commits_total", "counter", "Commits of the application that were shipped.", |status, _| {
        Some(status.commits as f64)
    }),
];

/// A metric of a destination: name, help, and value.
type OfDestination = (&'static str, &'static str, fn(&DestinationStatus) -> usize);

const OF_DESTINATIONS: [OfDestination; 3] = [
    (
        "destination_up",
        "1 while the destination takes what comes, 0 while it is away or has to catch up.",
        |destination| usize::from(destination.is_up),
    ),
    ("waiting_files", "Files that wait for a destination.", |destination| destination.waiting),
    (
        "destination_unfenced",
        "1 where the store ignores conditional writes, so that a second writer cannot be told apart.",
        |destination| usize::from(destination.unfenced),
    ),
];

fn render(
    statuses: &[Status],
    stores: &[(String, Requests)],
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
    head(&mut out, "verified_timestamp_seconds", "gauge", "When the last verification ended.");
    for (path, last) in &verified {
        let (database, at) = (escaped(&path.to_string_lossy()), last.at_ms as f64 / 1000.0);
        let _ = writeln!(out, "litekeep_verified_timestamp_seconds{{database=\"{database}\"}} {at}");
    }
    for (name, help, value) in OF_DESTINATIONS {
        head(&mut out, name, "gauge", help);
        for status in statuses {
            for destination in &status.destinations {
                let (database, value) = (escaped(&status.path.to_string_lossy()), value(destination));
                let place = escaped(&destination.identity);
                let _ = writeln!(
                    out,
                    "litekeep_{name}{{database=\"{database}\",destination=\"{place}\"}} {value}"
                );
            }
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

/// A metric of what follows a database: a feed or a sync.
type Of<T> = (&'static str, &'static str, &'static str, fn(&T) -> Option<f64>);

const OF_FEEDS: [Of<FeedStatus>; 4] = [
    ("feed_up", "gauge", "1 while the feed delivers, 0 when somebody has to look.", |feed| {
        Some(f64::from(u8::from(feed.error.is_none())))
    }),
    ("feed_lag_transactions", "gauge", "Transactions of the backup that are not delivered.", |feed| {
        Some(feed.lag_transactions? as f64)
    }),
    ("feed_lag_seconds", "gauge", "How old the oldest of them can be.", |feed| feed.lag_seconds_at_most),
    ("feed_delivered_timestamp_seconds", "gauge", "When the last event was confirmed.", |feed| {
        seconds(feed.delivered_at.as_ref())
    }),
];

const OF_SYNCS: [Of<SyncStatus>; 6] = [
    ("sync_up", "gauge", "1 while the sync goes on, 0 when somebody has to look.", |sync| {
        Some(f64::from(u8::from(sync.problems().is_empty())))
    }),
    ("sync_lag_transactions", "gauge", "Transactions of the backup that are not there.", |sync| {
        Some(sync.lag_transactions? as f64)
    }),
    ("sync_lag_seconds", "gauge", "How old the oldest of them can be.", |sync| sync.lag_seconds_at_most),
    ("sync_refused_rows", "gauge", "Rows that the side that is written to cannot hold.", |sync| {
        Some(sync.refused_rows as f64)
    }),
    ("sync_paused_tables", "gauge", "Tables that stand still.", |sync| Some(sync.paused_tables.len() as f64)),
    ("sync_confirmed_timestamp_seconds", "gauge", "When something was last confirmed.", |sync| {
        seconds(sync.confirmed_at.as_ref())
    }),
];

const OF_CACHES: [Of<SyncStatus>; 8] = [
    ("cache_rows", "gauge", "Rows that the cache has.", |sync| of_cache(sync, |counts| counts.rows)),
    ("cache_hits_total", "counter", "Rows that were in the cache and new enough.", |sync| {
        of_cache(sync, |counts| counts.hits)
    }),
    ("cache_negative_hits_total", "counter", "What was known not to be there.", |sync| {
        of_cache(sync, |counts| counts.negative_hits)
    }),
    ("cache_stale_total", "counter", "Rows that were given older than `ttl`.", |sync| {
        of_cache(sync, |counts| counts.stale)
    }),
    ("cache_misses_total", "counter", "What the server was asked for while somebody waited.", |sync| {
        of_cache(sync, |counts| counts.misses)
    }),
    ("cache_refreshes_total", "counter", "What it was asked for behind a row that was given.", |sync| {
        of_cache(sync, |counts| counts.refreshes)
    }),
    ("cache_evictions_total", "counter", "Rows that went to make room.", |sync| {
        of_cache(sync, |counts| counts.evictions)
    }),
    ("cache_errors_total", "counter", "Questions to the server that had no answer.", |sync| {
        of_cache(sync, |counts| counts.errors)
    }),
];

fn of_cache(sync: &SyncStatus, of: fn(&Counts) -> u64) -> Option<f64> {
    Some(of(&sync.cache.as_ref()?.counts) as f64)
}

fn render_caches(syncs: &[(PathBuf, SyncStatus)]) -> String {
    let caches: Vec<_> = syncs.iter().filter(|(_, sync)| sync.cache.is_some()).cloned().collect();
    render_followers("sync", &OF_CACHES, &caches, |sync| &sync.name)
}

fn seconds(time: Option<&String>) -> Option<f64> {
    let at: jiff::Timestamp = time?.parse().ok()?;
    Some(at.as_millisecond() as f64 / 1000.0)
}

/// `label`: what they are.
fn render_followers<T>(
    label: &str,
    metrics: &[Of<T>],
    followers: &[(PathBuf, T)],
    of: impl Fn(&T) -> &str,
) -> String {
    let labelled = followers.iter().map(|(path, follower)| {
        let (database, name) = (escaped(&path.to_string_lossy()), escaped(of(follower)));
        (format!("database=\"{database}\",{label}=\"{name}\""), follower)
    });
    render_each(metrics, &labelled.collect::<Vec<_>>())
}

/// Of each its labels.
fn render_each<T>(metrics: &[Of<T>], all: &[(String, impl std::borrow::Borrow<T>)]) -> String {
    let mut out = String::new();
    for (name, kind, help, value) in metrics.iter().filter(|_| !all.is_empty()) {
        head(&mut out, name, kind, help);
        for (labels, one) in all {
            if let Some(value) = value(one.borrow()) {
                let _ = writeln!(out, "litekeep_{name}{{{labels}}} {value}");
            }
        }
    }
    out
}

/// What a process has for a metric.
type OfProcess = (&'static str, &'static str, &'static str, fn(&ProcessStatus) -> Option<f64>);

const OF_PROCESSES: [OfProcess; 3] = [
    (
        "process_up",
        "gauge",
        "1 while the process is as it should be, 0 when somebody has to look.",
        |process| Some(f64::from(u8::from(!process.is_red()))),
    ),
    ("process_restarts_total", "counter", "Restarts after ends that nobody asked for.", |process| {
        Some(process.restarts as f64)
    }),
    ("process_probe_seconds", "gauge", "How long the last probe took.", |process| {
        let probe = process.health.as_ref().or(process.liveness.as_ref())?;
        Some(probe.took_ms / 1000.0)
    }),
];

fn render_stack(stack: &StackStatus) -> String {
    let mut out = String::new();
    for (name, kind, help, value) in OF_PROCESSES {
        head(&mut out, name, kind, help);
        for process in &stack.processes {
            if let Some(value) = value(process) {
                let _ = writeln!(out, "litekeep_{name}{{process=\"{}\"}} {value}", escaped(&process.name));
            }
        }
    }
    head(&mut out, "job_up", "gauge", "1 while the job's last run ended well or there was none, else 0.");
    for job in &stack.jobs {
        let is_good = u8::from(!job.is_red());
        let _ = writeln!(out, "litekeep_job_up{{job=\"{}\"}} {is_good}", escaped(&job.name));
    }
    out
}

const ROLES: [&str; 4] = ["replica", "promoting", "primary", "fencing"];

/// This node of a cluster; the others tell of themselves.
fn render_node(node: &NodeRecord, is_writable: bool) -> String {
    let mut out = String::new();
    head(&mut out, "cluster_role", "gauge", "1 for the role that this node has, 0 for the others.");
    for role in ROLES {
        let has = u8::from(node.role == role);
        let _ =
            writeln!(out, "litekeep_cluster_role{{node=\"{}\",role=\"{role}\"}} {has}", escaped(&node.node));
    }
    let is_well = matches!(node.role.as_str(), "replica" | "primary")
        && node.trouble.is_none()
        && node.databases.iter().all(|database| database.trouble.is_none());
    let of_node = [
        (
            "cluster_up",
            "1 while the node is as it should be, 0 when somebody has to look.",
            u64::from(is_well),
        ),
        (
            "cluster_writable",
            "1 while applications can write on this node: on one of all nodes at most.",
            u64::from(is_writable),
        ),
        (
            "cluster_epoch",
            "How often the lease has been taken, as far as this node knows.",
            node.epoch.unwrap_or_default(),
        ),
    ];
    for (name, help, value) in of_node {
        head(&mut out, name, "gauge", help);
        let _ = writeln!(out, "litekeep_{name}{{node=\"{}\"}} {value}", escaped(&node.node));
    }
    type Figure = fn(&DatabaseView) -> Option<f64>;
    let of_databases: [(&str, &str, Figure); 3] = [
        (
            "cluster_lag_seconds",
            "Age of the oldest thing that the copy lacks, or on the primary the log.",
            |database| Some(database.lag_ms?.max(0) as f64 / 1000.0),
        ),
        ("cluster_txid", "The last transaction that the copy has, or on the primary the log.", |database| {
            let txid: Txid = database.txid.as_ref()?.parse().ok()?;
            Some(txid.get() as f64)
        }),
        ("cluster_forks", "What was committed on this node and is not in the log.", |database| {
            Some(database.forks as f64)
        }),
    ];
    for (name, help, value) in of_databases {
        head(&mut out, name, "gauge", help);
        for database in &node.databases {
            if let Some(value) = value(database) {
                let path = escaped(&database.path.to_string_lossy());
                let _ = writeln!(out, "litekeep_{name}{{database=\"{path}\"}} {value}");
            }
        }
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
    use std::collections::BTreeMap;

    use super::*;
    use crate::cluster::Copied;
    use crate::streams::{Audience, Told};
    use crate::syncs::CacheFigures;

    fn node() -> NodeRecord {
        let database = DatabaseView {
            path: "/a.db".into(),
            there: true,
            txid: Some("000000000000002a".to_owned()),
            lag_ms: Some(1_500),
            forks: 2,
            trouble: None,
            stream: None,
        };
        NodeRecord {
            node: "b".to_owned(),
            role: "replica".to_owned(),
            since: None,
            epoch: Some(7),
            at: String::new(),
            candidate: true,
            trouble: None,
            databases: vec![database],
        }
    }

    #[test]
    fn a_node_tells_of_itself() {
        let node = node();
        let text = render_node(&node, false);
        for line in [
            "litekeep_cluster_role{node=\"b\",role=\"replica\"} 1",
            "litekeep_cluster_role{node=\"b\",role=\"primary\"} 0",
            "litekeep_cluster_up{node=\"b\"} 1",
            "litekeep_cluster_writable{node=\"b\"} 0",
            "litekeep_cluster_epoch{node=\"b\"} 7",
            "litekeep_cluster_lag_seconds{database=\"/a.db\"} 1.5",
            "litekeep_cluster_txid{database=\"/a.db\"} 42",
            "litekeep_cluster_forks{database=\"/a.db\"} 2",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        let node = NodeRecord { trouble: Some("no answer".to_owned()), ..node };
        assert!(render_node(&node, false).contains("litekeep_cluster_up{node=\"b\"} 0"));
    }

    #[test]
    fn feeds_are_told_by_their_names() {
        let text = render_followers("feed", &OF_FEEDS, &[("/a.db".into(), feed())], |feed| &feed.name);
        for (name, value) in [
            ("up", "0"),
            ("lag_transactions", "2"),
            ("lag_seconds", "1.5"),
            ("delivered_timestamp_seconds", "2.5"),
        ] {
            let line = format!("litekeep_feed_{name}{{database=\"/a.db\",feed=\"orders\"}} {value}");
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn syncs_are_told_by_their_names() {
        let text = render_followers("sync", &OF_SYNCS, &[("/a.db".into(), sync())], |sync| &sync.name);
        for (name, value) in [
            ("up", "0"),
            ("lag_transactions", "3"),
            ("lag_seconds", "2.5"),
            ("refused_rows", "4"),
            ("paused_tables", "1"),
            ("confirmed_timestamp_seconds", "2.5"),
        ] {
            let line = format!("litekeep_sync_{name}{{database=\"/a.db\",sync=\"pg\"}} {value}");
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn caches_are_told_by_their_names() {
        let text = render_caches(&[("/a.db".into(), sync()), ("/a.db".into(), cache())]);
        for (name, value) in [
            ("rows", "1"),
            ("hits_total", "2"),
            ("negative_hits_total", "3"),
            ("stale_total", "4"),
            ("misses_total", "5"),
            ("refreshes_total", "6"),
            ("evictions_total", "7"),
            ("errors_total", "8"),
        ] {
            let line = format!("litekeep_cache_{name}{{database=\"/a.db\",sync=\"users\"}} {value}");
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("\"pg\""), "{text}");
    }

    fn cache() -> SyncStatus {
        let counts = r#"{"rows": 1, "hits": 2, "negative_hits": 3, "stale": 4, "misses": 5, "refreshes": 6, "evictions": 7, "errors": 8}"#;
        let cache = CacheFigures { counts: serde_json::from_str(counts).unwrap(), hit_rate: None };
        SyncStatus { name: "users".into(), cache: Some(cache), ..sync() }
    }

    fn served() -> BTreeMap<PathBuf, Told> {
        let audience = Arc::new(Audience::default());
        audience.is_at(Path::new("/a.db"), "b", litekeep_ltx::Txid::new(9).unwrap());
        audience.told()
    }

    fn copied() -> Copied {
        Copied { is_live: true, lag_ms: Some(1500), fallbacks: 2 }
    }

    #[test]
    fn streams_are_told_on_both_sides() {
        let text = streams::render(&served(), &[("/a.db".into(), copied())]);
        for line in [
            "litekeep_stream_connections{database=\"/a.db\"} 0",
            "litekeep_stream_replica_txid{database=\"/a.db\",node=\"b\"} 9",
            "litekeep_stream_live{database=\"/a.db\"} 1",
            "litekeep_stream_lag_seconds{database=\"/a.db\"} 1.5",
            "litekeep_stream_fallbacks_total{database=\"/a.db\"} 2",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }

    fn feed() -> FeedStatus {
        FeedStatus {
            name: "orders".into(),
            to: "nats://h:4222/s".into(),
            txid: Some("0000000000000001".into()),
            lag_transactions: Some(2),
            lag_seconds_at_most: Some(1.5),
            delivered_at: Some("1970-01-01T00:00:02.500Z".into()),
            error: Some("no".into()),
            hint: None,
            error_since: None,
        }
    }

    fn sync() -> SyncStatus {
        let sync = r#"{"name": "pg", "direction": "push", "cache": null, "other": "postgres://h/d", "copied_rows": null, "txid": "0000000000000001",
            "position": null, "lag_transactions": 3, "lag_seconds_at_most": 2.5, "refused_rows": 4, "conflicts": 0,
            "paused_tables": [{"table": "t", "reason": "it was dropped"}], "confirmed_at": "1970-01-01T00:00:02.500Z",
            "error": null, "hint": null, "error_since": null}"#;
        serde_json::from_str(sync).unwrap()
    }

    fn stack() -> StackStatus {
        let stack = r#"{"pid": 1, "up": true, "started": "", "state_dir": "/", "processes": [{"name": "web", "state": "healthy", "reason": "",
            "since": "", "pid": 2, "instance": null, "started": null, "restarts": 1, "restart_reason": "", "last_exit": null,
            "health": {"at": "", "took_ms": 1.5, "ok": true}, "liveness": null, "needs_reload": false}],
            "jobs": [{"name": "report", "schedule": "", "next_due": null, "running_since": null, "history": []}]}"#;
        serde_json::from_str(stack).unwrap()
    }

    /// Name, type, labels and meaning of each metric, as they are rendered.
    fn rendered() -> Vec<[String; 4]> {
        let txid = litekeep_ltx::Txid::new(1);
        let destinations = vec![DestinationStatus { place: "/b".into(), ..DestinationStatus::default() }];
        let status = Status {
            captured: txid,
            durable: txid,
            confirmed_ms: Some(1),
            destinations,
            ..Status::default()
        };
        let verified = |_: &Path| Some(Verified { proven: true, at_ms: 2500 });
        let text = render(&[status], &[("s3://b".to_owned(), Requests::default())], &verified, 1)
            + &render_followers("feed", &OF_FEEDS, &[("/a.db".into(), feed())], |feed| &feed.name)
            + &render_followers("sync", &OF_SYNCS, &[("/a.db".into(), sync())], |sync| &sync.name)
            + &render_caches(&[("/a.db".into(), cache())])
            + &streams::render(&served(), &[("/a.db".into(), copied())])
            + &render_stack(&stack())
            + &render_node(&node(), false);
        let each = text.split("# HELP ").skip(1).map(|metric| {
            let (name, rest) = metric.split_once(' ').unwrap();
            let (help, rest) = rest.split_once('\n').unwrap();
            let (kind, rest) =
                rest.strip_prefix(&format!("# TYPE {name} ")).unwrap().split_once('\n').unwrap();
            let sample = rest.lines().next().unwrap_or_else(|| panic!("{name} has no value"));
            let (labels, _) = sample.split_once('{').unwrap().1.split_once('}').unwrap();
            let labels = labels.split(',').map(|label| format!("`{}`", label.split('=').next().unwrap()));
            let labels: Vec<_> = labels.collect();
            [format!("`{name}`"), kind.to_owned(), labels.join(", "), help.trim_end_matches('.').to_owned()]
        });
        each.collect()
    }

    #[test]
    fn the_documented_metrics_are_those_that_are_there() {
        let page = include_str!("../../docs/configuration.md");
        let rows = page.lines().filter(|line| line.starts_with("| `litekeep_"));
        let rows =
            rows.map(|row| row.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect());
        let documented: Vec<Vec<String>> = rows.collect();
        let rendered: Vec<Vec<String>> = rendered().into_iter().map(Vec::from).collect();
        let table: Vec<_> = rendered.iter().map(|row| format!("| {} |", row.join(" | "))).collect();
        assert!(documented == rendered, "the table is:\n{}", table.join("\n"));
    }

    #[test]
    fn the_text_format() {
        let (phase, behind_since_ms) = (Phase::Following, Some(1000));
        let status = Status { path: "/a\"b.db".into(), phase, behind_since_ms, ..Status::default() };
        let counts = Requests { put: 7, errors: 1, ..Requests::default() };
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
