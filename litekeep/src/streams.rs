//! The logs of the databases that are replicated here, for live copies that stream.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use litekeep_config::Stream;
use litekeep_env::{Clock as _, SystemClock};
use litekeep_ltx::Txid;
use litekeep_replicate::replicator::{Following, Tail};
use litekeep_stream::{Log, Logs, Next, Now, Refused, router};

use crate::dashboard::is_meant;
use crate::replication::Current;

pub(crate) fn routes(config: &Stream, replication: Current) -> Router {
    let scheme = if config.tls.is_some() { "https" } else { "http" };
    tracing::info!("live copies stream from {scheme}://{}/", config.addr);
    router(config.token.expose(), Arc::new(Primary(replication)))
}

struct Primary(Current);

impl Logs for Primary {
    fn open(&self, name: &str, backup: &str) -> Result<Arc<dyn Log>, Refused> {
        let replication = self.0.upgrade().ok_or(Refused::Away)?;
        let all: Vec<PathBuf> = replication.statuses().into_iter().map(|status| status.path).collect();
        let meant: Vec<&PathBuf> = all.iter().filter(|path| is_meant(path, name)).collect();
        match meant.as_slice() {
            [] => Err(Refused::Unknown(format!("no database `{name}` is replicated here"))),
            [path] => {
                let tail = replication.tail_of(path, backup).ok_or(Refused::Away)?;
                Ok(Arc::new(End(tail)))
            }
            _ => {
                Err(Refused::Unknown(format!("several databases end with `{name}`: write more of the path")))
            }
        }
    }
}

/// The end of a log.
struct End(Tail);

#[async_trait::async_trait]
impl Log for End {
    async fn next(&self, after: Txid, patience: Duration) -> Next {
        match self.0.next(after, patience).await {
            Following::File(txid, file) => Next::File(txid, file),
            Following::Nothing => Next::Nothing,
            Following::NotKept => Next::Refused(Refused::NotKept),
            Following::Beyond => Next::Refused(Refused::Beyond),
            Following::Away => Next::Refused(Refused::Away),
        }
    }

    fn now(&self) -> Now {
        let reached = self.0.reached().unwrap_or_default();
        let text = |txid: Option<Txid>| txid.map_or(String::new(), |txid| txid.to_string());
        Now {
            confirmed: text(reached.confirmed),
            captured: text(reached.captured),
            unix_ms: SystemClock.unix_ms(),
        }
    }
}
