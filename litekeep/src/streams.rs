//! The logs of the databases that are replicated here, for live copies that stream.

mod audience;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use litekeep_config::Stream;
use litekeep_env::{Clock as _, SystemClock};
use litekeep_ltx::Txid;
use litekeep_replicate::replicator::{Following, Status, Tail};
use litekeep_stream::{Log, Logs, Next, Now, Refused, router};

use crate::dashboard::is_meant;
use crate::replication::{Current, Replication};
use audience::Listener;
pub(crate) use audience::{Audience, Told};

pub(crate) fn routes(config: &Stream, replication: Current) -> Router {
    let scheme = if config.tls.is_some() { "https" } else { "http" };
    tracing::info!("live copies stream from {scheme}://{}/", config.addr);
    router(config.token.expose(), Arc::new(Primary(replication)))
}

struct Primary(Current);

impl Primary {
    /// The database that is meant, as the replicator spells it.
    fn find(&self, name: &str, backup: &str) -> Result<(Arc<Replication>, PathBuf), Refused> {
        let replication = self.0.upgrade().ok_or(Refused::Away)?;
        let all = replication.statuses();
        let meant: Vec<&Status> = all.iter().filter(|status| is_meant(&status.path, name)).collect();
        let has_backup = |status: &&Status| status.destinations.iter().any(|place| place.identity == backup);
        let of_backup: Vec<&Status> = meant.iter().copied().filter(has_backup).collect();
        match (meant.as_slice(), of_backup.as_slice()) {
            ([status], _) | (_, [status]) => Ok((replication, status.path.clone())),
            ([], _) => Err(Refused::Unknown(format!("no database `{name}` is replicated here"))),
            _ => {
                Err(Refused::Unknown(format!("several databases end with `{name}`: write more of the path")))
            }
        }
    }
}

impl Logs for Primary {
    fn open(&self, name: &str, backup: &str) -> Result<Arc<dyn Log>, Refused> {
        let (replication, path) = self.find(name, backup)?;
        let tail = replication.tail_of(&path, backup).ok_or(Refused::Away)?;
        Ok(Arc::new(End { tail, listener: Listener::of(replication.audience().clone(), path) }))
    }

    fn is_at(&self, name: &str, backup: &str, node: &str, at: Txid) -> Result<(), Refused> {
        let (replication, path) = self.find(name, backup)?;
        replication.audience().is_at(&path, node, at);
        Ok(())
    }
}

/// The end of a log.
struct End {
    tail: Tail,
    listener: Listener,
}

#[async_trait::async_trait]
impl Log for End {
    async fn next(&self, after: Txid, patience: Duration) -> Next {
        match self.tail.next(after, patience).await {
            Following::File(txid, file) => {
                self.listener.was_told(file.len());
                Next::File(txid, file)
            }
            Following::Nothing => Next::Nothing,
            Following::NotKept => Next::Refused(Refused::NotKept),
            Following::Beyond => Next::Refused(Refused::Beyond),
            Following::Away => Next::Refused(Refused::Away),
        }
    }

    fn now(&self) -> Now {
        let reached = self.tail.reached().unwrap_or_default();
        let text = |txid: Option<Txid>| txid.map_or(String::new(), |txid| txid.to_string());
        Now {
            confirmed: text(reached.confirmed),
            captured: text(reached.captured),
            unix_ms: SystemClock.unix_ms(),
        }
    }
}
