//! When a commit is safe, for those who ask the litekeep that replicates it: applications by HTTP, and `litekeep wait --replicas`.
//!
//! Promise: what is said to be safe was committed before the answer in the time of one primary, and whoever leads next has it. A
//! transaction that somebody names is a number: of whose commits it is, only the primary that told it knows.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::http::StatusCode;
use litekeep_ltx::Txid;
use litekeep_proxy::Safety;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::cluster::Link;
use crate::dashboard::is_meant;
use crate::replication::Current;
use crate::report::{Failure, Kind, Report};
use crate::verification::canonical;

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(5);
/// How long an application waits that does not say so, and at most.
const TIMES: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(60));

/// What is waited for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Wanted {
    /// Its path, or the end of it; `None`: the only one.
    pub(crate) database: Option<String>,
    /// `None`: everything that is committed now.
    pub(crate) txid: Option<String>,
    /// How many replicas shall have it, beside the backup.
    pub(crate) replicas: u32,
    pub(crate) timeout: Duration,
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Waited {
    /// Whether it is as safe as that.
    pub(crate) ok: bool,
    pub(crate) database: PathBuf,
    /// The transaction that was waited for; `None`: it was not known in time.
    pub(crate) txid: Option<String>,
    /// How far the backup is; of a copy, how far that is.
    pub(crate) confirmed: Option<String>,
    /// How many replicas have the transaction; `None` on one of them, which does not know.
    pub(crate) replicas: Option<usize>,
    pub(crate) seconds: f64,
}

/// Who knows.
#[derive(Clone)]
pub(crate) struct Waiting {
    pub(crate) replication: Current,
    pub(crate) link: Option<Arc<Link>>,
}

/// Where a transaction is.
struct Stand {
    confirmed: Option<Txid>,
    replicas: Option<usize>,
}

impl Waiting {
    /// # Errors
    /// When it cannot be known here.
    pub(crate) async fn wait(&self, wanted: &Wanted) -> Result<Waited, Failure> {
        let begun = Instant::now();
        let until = begun + wanted.timeout;
        let path = self.find(wanted.database.as_deref())?;
        let named = wanted.txid.as_deref().map(|txid| txid.parse::<Txid>());
        let named = named.transpose().map_err(|error| Failure::invalid(format!("`txid`: {error}")))?;
        let term = self.link.as_ref().map(|link| link.term());
        let is_copy = term == Some(None);
        if is_copy && (named.is_none() || wanted.replicas > 0) {
            let primary = self.link.as_ref().and_then(|link| link.situation().primary);
            let who = primary.map_or("nobody".to_owned(), |primary| format!("`{}`", primary.name));
            let message =
                format!("this node is a replica, which knows its own copy only; the primary is {who}");
            return Err(Failure::new(Kind::Unavailable, message)
                .hint("ask there, or for the copy here with a `txid` and without replicas"));
        }
        let mut goal = named;
        loop {
            if goal.is_none()
                && let Some(replication) = self.replication.upgrade()
            {
                goal = tokio::time::timeout_at(until, replication.position(&path)).await.ok().flatten();
            }
            let stand = self.stand(&path, goal, is_copy);
            let is_there = goal.is_some_and(|goal| {
                stand.confirmed >= Some(goal) && stand.replicas.unwrap_or(0) >= wanted.replicas as usize
            });
            if self.link.as_ref().map(|link| link.term()) != term {
                let message = "another node is primary, or was: whether it is safe is not known";
                return Err(Failure::new(Kind::Unavailable, message).hint("ask again"));
            }
            if is_there || Instant::now() >= until {
                let text = |txid: Option<Txid>| txid.map(|txid| txid.to_string());
                return Ok(Waited {
                    ok: is_there,
                    database: path,
                    txid: text(goal),
                    confirmed: text(stand.confirmed),
                    replicas: stand.replicas,
                    seconds: begun.elapsed().as_secs_f64(),
                });
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn stand(&self, path: &Path, goal: Option<Txid>, is_copy: bool) -> Stand {
        if is_copy {
            let held = self.link.as_ref().and_then(|link| link.held(path));
            return Stand { confirmed: held, replicas: None };
        }
        let Some(replication) = self.replication.upgrade() else {
            return Stand { confirmed: None, replicas: Some(0) };
        };
        let having = goal.map_or(0, |goal| replication.audience().having(&[(path.to_owned(), goal)]));
        Stand { confirmed: replication.durable(path), replicas: Some(having) }
    }

    /// The database that is meant, as the replicator spells it.
    fn find(&self, name: Option<&str>) -> Result<PathBuf, Failure> {
        let all: Vec<PathBuf> = match &self.link {
            Some(link) => link.paths().map(|path| canonical(path)).collect(),
            None => {
                let replication = self.replication.upgrade();
                let statuses = replication.map(|replication| replication.statuses()).unwrap_or_default();
                statuses.into_iter().map(|status| status.path).collect()
            }
        };
        let mut meant: Vec<PathBuf> =
            all.into_iter().filter(|path| name.is_none_or(|name| is_meant(path, name))).collect();
        let what = name.map_or("no name".to_owned(), |name| format!("`{name}`"));
        match (meant.pop(), meant.is_empty()) {
            (Some(path), true) => Ok(path),
            (Some(_), false) => Err(Failure::invalid(format!(
                "several databases are meant by {what}: write more of the path"
            ))),
            (None, _) => {
                Err(Failure::invalid(format!("no database is replicated here that is meant by {what}")))
            }
        }
    }
}

/// The query of an application.
fn parse(query: &str) -> Result<Wanted, String> {
    let mut wanted = Wanted { timeout: TIMES.0, ..Wanted::default() };
    let (mut replicas, mut waits_for_replicas) = (None, false);
    for (key, value) in form_urlencoded::parse(query.as_bytes()) {
        match &*key {
            "database" => wanted.database = Some(value.into_owned()),
            "txid" => wanted.txid = Some(value.into_owned()),
            "mode" if value == "bucket" => waits_for_replicas = false,
            "mode" if value == "replica" => waits_for_replicas = true,
            "mode" => return Err("`mode` is `bucket` or `replica`".to_owned()),
            "replicas" => {
                let count = value.parse::<u32>().ok().filter(|count| *count > 0);
                replicas = Some(count.ok_or("`replicas` is how many, from 1")?);
            }
            "timeout" => {
                let timeout =
                    litekeep_config::parse_duration(&value).map_err(|e| format!("`timeout`: {e}"))?;
                wanted.timeout = timeout.min(TIMES.1);
            }
            key => {
                return Err(format!(
                    "unknown parameter `{key}`: there are `database`, `txid`, `mode`, `replicas` and `timeout`"
                ));
            }
        }
    }
    if replicas.is_some() && !waits_for_replicas {
        return Err("`replicas` goes with `mode=replica`".to_owned());
    }
    wanted.replicas = replicas.unwrap_or(u32::from(waits_for_replicas));
    Ok(wanted)
}

#[async_trait]
impl Safety for Waiting {
    async fn wait(&self, query: &str) -> (StatusCode, String) {
        let waited = match parse(query) {
            Ok(wanted) => Waiting::wait(self, &wanted).await,
            Err(why) => Err(Failure::invalid(why)),
        };
        match waited {
            Ok(waited) => {
                let status = if waited.ok { StatusCode::OK } else { StatusCode::GATEWAY_TIMEOUT };
                (status, serde_json::to_string(&waited).unwrap_or_default() + "\n")
            }
            Err(failure) => {
                let Report { kind, message, hint, .. } = Report::of(&failure.into());
                let status = match kind {
                    Kind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
                    _ => StatusCode::BAD_REQUEST,
                };
                (status, serde_json::json!({ "error": message, "hint": hint }).to_string() + "\n")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_application_wants_is_read() {
        let least = Wanted { timeout: TIMES.0, ..Wanted::default() };
        assert_eq!(parse("").unwrap(), least);
        assert_eq!(parse("mode=replica").unwrap(), Wanted { replicas: 1, ..least.clone() });
        let all = "database=data%2Fapp.db&txid=000000000000002a&mode=replica&replicas=2&timeout=2h";
        let wanted = Wanted {
            database: Some("data/app.db".into()),
            txid: Some("000000000000002a".into()),
            replicas: 2,
            timeout: TIMES.1,
        };
        assert_eq!(parse(all).unwrap(), wanted);
        for (query, why) in [
            ("mode=disk", "`mode`"),
            ("replicas=2", "`mode=replica`"),
            ("mode=replica&replicas=0", "from 1"),
            ("timeout=2", "`timeout`"),
            ("tx=1", "unknown parameter `tx`"),
        ] {
            let error = parse(query).unwrap_err();
            assert!(error.contains(why), "{query}: {error}");
        }
    }
}
