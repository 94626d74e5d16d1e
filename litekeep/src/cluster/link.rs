//! A node, for those who ask: the commands, and the other nodes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use litekeep_cluster::{Ask, Role, Situation};
use litekeep_env::{Clock, SystemClock};
use litekeep_ltx::Txid;
use litekeep_replica::{Fork, Streaming};
use litekeep_replicate::local::StateFile;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::copies::CopyState;
use super::facing::Terms;
use super::members::{DOWN, Presence};
use super::records::{NodeRecord, Records};
use crate::replication::Current;
use crate::report::{Failure, Kind, text};
use crate::stack::NodeStatus;

/// Between two looks whether the node leads.
pub(super) const PAUSE: Duration = Duration::from_millis(50);
/// Between two words of a node about itself.
pub(crate) const REPORT: Duration = Duration::from_secs(5);
/// How long the end waits until the others are told.
const GOODBYE: Duration = Duration::from_secs(2);
/// What was asked for is done within so many times the time of a lease, or it has failed.
pub(super) const PATIENCE: u32 = 12;

/// One database on one node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct DatabaseView {
    pub(crate) path: PathBuf,
    /// The file is there.
    #[serde(default)]
    pub(crate) there: bool,
    /// The last transaction of the log that it has.
    pub(crate) txid: Option<String>,
    /// How old the oldest thing is that it lacks, or that the log lacks.
    pub(crate) lag_ms: Option<i64>,
    pub(crate) forks: usize,
    pub(crate) trouble: Option<String>,
    /// How it streams, where that is so; of a copy.
    #[serde(default)]
    pub(crate) stream: Option<StreamView>,
}

/// How a copy streams from the primary.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct StreamView {
    pub(crate) url: String,
    /// Else it reads the backup.
    pub(crate) live: bool,
    /// How long after its capture the last transaction was there.
    pub(crate) lag_ms: Option<i64>,
    /// Why it ended last.
    pub(crate) error: Option<String>,
}

impl StreamView {
    fn of(told: Streaming) -> StreamView {
        let Streaming { url, is_live: live, lag_ms, error, .. } = told;
        StreamView { url, live, lag_ms, error: error.map(|(error, _)| error) }
    }
}

/// How a copy streams, in figures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Copied {
    pub(crate) is_live: bool,
    pub(crate) lag_ms: Option<i64>,
    /// Times when it went over to the backup.
    pub(crate) fallbacks: u64,
}

/// What is known of the node, and how it is asked.
pub(crate) struct Link {
    pub(super) name: String,
    pub(super) candidate: bool,
    pub(super) ttl: Duration,
    pub(super) situation: watch::Receiver<Situation>,
    pub(super) asks: mpsc::Sender<Ask>,
    pub(super) records: Records,
    pub(super) shown: Arc<Shown>,
}

/// The databases of the node, for those who ask.
pub(super) struct Shown {
    /// With their local state.
    pub(super) databases: Vec<(PathBuf, PathBuf)>,
    pub(super) copies: Mutex<BTreeMap<PathBuf, Arc<Mutex<CopyState>>>>,
    pub(super) replication: Current,
    pub(super) terms: Terms,
}

impl Shown {
    /// Copies that do not go on by themselves, with why.
    pub(super) fn over(&self) -> Vec<(PathBuf, String)> {
        let copies = self.copies.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let over = |(path, state): (PathBuf, Arc<Mutex<CopyState>>)| {
            let state = state.lock().unwrap_or_else(PoisonError::into_inner);
            state.is_over.then(|| (path, state.trouble.clone().unwrap_or_default()))
        };
        copies.into_iter().filter_map(over).collect()
    }

    fn databases(&self) -> Vec<DatabaseView> {
        let replication = self.replication.upgrade();
        let statuses = replication.map(|replication| replication.statuses()).unwrap_or_default();
        let copies = self.copies.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let now_ms = SystemClock.unix_ms();
        let view = |(path, meta_dir): &(PathBuf, PathBuf)| {
            let forks = Fork::all(meta_dir).map_or(0, |forks| forks.len());
            let own = DatabaseView {
                path: path.clone(),
                there: path.exists(),
                txid: None,
                lag_ms: None,
                forks,
                trouble: None,
                stream: None,
            };
            if let Some(state) = copies.get(path) {
                let state = state.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let behind = state.held.filter(|_| !state.is_level).map_or(0, |held| now_ms - held.time_ms);
                let txid = state.held.map(|held| held.txid.to_string());
                let stream = state.stream.map(StreamView::of);
                return DatabaseView { txid, lag_ms: Some(behind), trouble: state.trouble, stream, ..own };
            }
            let canonical = crate::verification::canonical(path);
            if let Some(status) = statuses.iter().find(|status| status.path == canonical) {
                let behind = status.behind_since_ms.map_or(0, |since| now_ms - since);
                let txid = status.durable.map(|txid| txid.to_string());
                return DatabaseView { txid, lag_ms: Some(behind), trouble: status.message.clone(), ..own };
            }
            let known = StateFile::peek(&meta_dir.join("state"));
            DatabaseView { txid: known.map(|known| known.txid.to_string()), ..own }
        };
        self.databases.iter().map(view).collect()
    }
}

impl Link {
    /// The time as primary that is not over, counted.
    pub(crate) fn term(&self) -> Option<u64> {
        self.shown.terms.valid()
    }

    /// Its databases.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        self.shown.databases.iter().map(|(path, _)| path)
    }

    /// The copies that stream, or would.
    pub(crate) fn copied(&self) -> Vec<(PathBuf, Copied)> {
        let copies = self.shown.copies.lock().unwrap_or_else(PoisonError::into_inner);
        let copied = copies.iter().filter_map(|(path, state)| {
            let state = state.lock().unwrap_or_else(PoisonError::into_inner);
            let Streaming { is_live, lag_ms, .. } = state.stream.clone()?;
            Some((path.clone(), Copied { is_live, lag_ms, fallbacks: state.fallbacks }))
        });
        copied.collect()
    }

    /// Where the copy of a database is, if it is one.
    pub(crate) fn held(&self, path: &Path) -> Option<Txid> {
        let copies = self.shown.copies.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, state) = copies.iter().find(|(own, _)| crate::verification::canonical(own) == path)?;
        let held = state.lock().unwrap_or_else(PoisonError::into_inner).held;
        held.map(|held| held.txid)
    }

    pub(crate) fn situation(&self) -> Situation {
        self.situation.borrow().clone()
    }

    pub(super) fn has_copies(&self) -> bool {
        !self.shown.copies.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// What the node tells of itself.
    pub(crate) fn own(&self) -> NodeRecord {
        let Situation { role, since, epoch, trouble, .. } = self.situation();
        let for_ms = SystemClock.boottime().saturating_sub(since).as_millis() as i64;
        NodeRecord {
            node: self.name.clone(),
            role: role.name().to_owned(),
            since: Some(text::rfc3339(SystemClock.unix_ms() - for_ms)),
            epoch,
            at: text::rfc3339(SystemClock.unix_ms()),
            candidate: self.candidate,
            trouble,
            databases: self.shown.databases(),
        }
    }

    /// How the node stands.
    pub(crate) fn status(&self) -> NodeStatus {
        let Situation { role, epoch, primary, trouble, .. } = self.situation();
        NodeStatus {
            name: self.name.clone(),
            role: role.name().to_owned(),
            epoch,
            primary: primary.map(|primary| primary.name),
            trouble,
        }
    }

    /// Gives the lead to another node.
    ///
    /// # Errors
    /// When that does not come about: the primary goes on then.
    pub(crate) async fn hand_off(&self, to: Option<String>) -> Result<()> {
        if let Some(to) = &to {
            self.require_up(to).await?;
        }
        let situation = self.situation();
        if situation.role == Role::Primary {
            return self.hand_over(to).await;
        }
        let (epoch, former) = (self.epoch_of_lease()?, situation.primary);
        let (Some(epoch), Some(former)) = (epoch, former) else {
            return Err(Failure::new(Kind::Unavailable, "there is no primary that could hand over").into());
        };
        self.wish(to, epoch).await?;
        let until = Instant::now() + self.ttl * PATIENCE;
        while Instant::now() < until {
            let now = self.situation();
            if now.epoch > Some(epoch) {
                return Ok(());
            }
            tokio::time::sleep(PAUSE).await;
        }
        let failure = Failure::new(Kind::Unavailable, format!("`{}` has not handed over", former.name));
        Err(failure
            .hint("`litekeep promote` on the node that shall lead takes the lease when it has run out")
            .into())
    }

    /// The same, of the primary.
    async fn hand_over(&self, to: Option<String>) -> Result<()> {
        if to.as_ref() == Some(&self.name) {
            return Ok(());
        }
        let (reply, answer) = oneshot::channel();
        self.ask(Ask::HandOff { to, reply }).await?;
        let ended = || Failure::new(Kind::Unavailable, "the node ends");
        let answer = answer.await.map_err(|_| ended())?;
        answer.map_err(|failure| Failure::new(Kind::Unavailable, failure.to_string()).into())
    }

    /// Nobody leads for a while where the lease is left to somebody who does not take it.
    async fn require_up(&self, name: &str) -> Result<()> {
        let told = self.all_told().await.map_err(|silence| Failure::new(Kind::Unavailable, silence))?;
        let why = match told.iter().find(|node| node.told.node == name) {
            None => format!("there is no node `{name}`"),
            Some(node) if node.presence != Presence::Up => format!("`{name}` is not up"),
            Some(_) => return Ok(()),
        };
        Err(Failure::invalid(why).hint("`litekeep cluster status` shows who is").into())
    }

    /// Tells the others that this node was ended on purpose.
    pub(super) async fn say_goodbye(&self) {
        let own = NodeRecord {
            role: DOWN.to_owned(),
            since: Some(text::rfc3339(SystemClock.unix_ms())),
            ..self.own()
        };
        match tokio::time::timeout(GOODBYE, self.records.put(&own)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!("tell the other nodes: {error:#}"),
            Err(_) => tracing::debug!("tell the other nodes: no answer"),
        }
    }

    pub(super) async fn ask(&self, ask: Ask) -> Result<()> {
        let ended = |_| Failure::new(Kind::Unavailable, "the node ends");
        Ok(self.asks.send(ask).await.map_err(ended)?)
    }

    /// Tells the others of this node, and does as primary what they wish. Does not return.
    pub(super) async fn keep_in_touch(&self) {
        let (mut told, mut told_at) = (None, Instant::now());
        let mut done = None;
        loop {
            let own = self.own();
            // A primary that goes away soon is to have said that it has begun.
            let has: Vec<_> =
                own.databases.iter().map(|database| (database.there, database.txid.is_some())).collect();
            let essence = (own.role.clone(), own.epoch, own.trouble.clone(), has);
            if told.as_ref() != Some(&essence) || told_at.elapsed() >= REPORT {
                match self.records.put(&own).await {
                    Ok(()) => (told, told_at) = (Some(essence), Instant::now()),
                    Err(error) => tracing::debug!("tell the other nodes: {error:#}"),
                }
            }
            if self.situation().role == Role::Primary
                && let Ok(Some(wish)) = self.records.wished().await
                && Some(wish.epoch) == self.situation().epoch
                && done != Some(wish.nonce)
                && wish.to.as_ref() != Some(&self.name)
            {
                done = Some(wish.nonce);
                tracing::info!(
                    "asked to hand over{}",
                    wish.to.as_ref().map_or(String::new(), |to| format!(" to `{to}`"))
                );
                if let Err(error) = self.hand_over(wish.to).await {
                    tracing::warn!("could not hand over: {error:#}");
                }
            }
            tokio::time::sleep(self.ttl / 5).await;
        }
    }
}
