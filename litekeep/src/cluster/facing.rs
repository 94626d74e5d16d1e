//! A node, for the proxies before its applications.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use litekeep_cluster::{Role, Term};
use litekeep_config::{Acknowledge, ClusterProxy};
use litekeep_ltx::Txid;
use litekeep_proxy::cluster::{Node, Positions, Settings, Withheld, Writer};
use tokio::time::Instant;

use super::copies::CopyState;
use super::link::Link;
use crate::verification::canonical;

/// Between two looks how far something is.
const PAUSE: Duration = Duration::from_millis(5);

/// The times of this node as primary, counted.
#[derive(Default)]
pub(super) struct Terms(Mutex<(u64, Option<Term>)>);

impl Terms {
    fn lock(&self) -> MutexGuard<'_, (u64, Option<Term>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn begin(&self, term: &Term) {
        let mut now = self.lock();
        *now = (now.0 + 1, Some(term.clone()));
    }

    /// The one that is not over.
    pub(super) fn valid(&self) -> Option<u64> {
        let now = self.lock();
        now.1.as_ref().filter(|term| term.is_valid()).map(|_| now.0)
    }
}

/// The proxy at one port, which is the same on each node.
pub(crate) struct Facing {
    link: Arc<Link>,
    port: u16,
    acknowledge: Acknowledge,
    patience: Duration,
}

impl Facing {
    pub(crate) fn new(link: &Arc<Link>, port: u16, config: &ClusterProxy) -> (Facing, Settings) {
        let ClusterProxy {
            acknowledge,
            acknowledge_patience: patience,
            read_patience,
            max_lag,
            to_primary,
            websockets_stay,
            health,
        } = config.clone();
        let settings = Settings {
            read_patience,
            // What was read may not be lost either.
            reads_wait: acknowledge != Acknowledge::Local,
            to_primary,
            upgrades_stay: websockets_stay,
            health,
            max_lag,
            ..Settings::default()
        };
        (Facing { link: link.clone(), port, acknowledge, patience }, settings)
    }

    /// The databases, each by a name that is the same on all nodes.
    fn databases(&self) -> Vec<(String, PathBuf)> {
        let mut names = BTreeSet::new();
        let named = self.link.shown.databases.iter().map(|(path, _)| {
            let own = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let name = (1..).map(|nth| if nth == 1 { own.clone() } else { format!("{own}-{nth}") });
            let name = name.into_iter().find(|name| !names.contains(name)).expect("there is always one more");
            names.insert(name.clone());
            (name, path.clone())
        });
        named.collect()
    }

    fn copy(&self, path: &Path) -> Option<CopyState> {
        let copies = self.link.shown.copies.lock().unwrap_or_else(PoisonError::into_inner);
        let state = copies.get(path)?.clone();
        drop(copies);
        Some(state.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    /// Where the copies are.
    fn held(&self) -> Result<Positions, String> {
        let held = |(name, path): (String, PathBuf)| {
            let held = self.copy(&path).and_then(|copy| copy.held);
            held.map(|held| (name, held.txid))
                .ok_or_else(|| format!("`{}` is no copy of the log now", path.display()))
        };
        self.databases().into_iter().map(held).collect::<Result<_, _>>().map(Positions)
    }

    /// Where the copies are at least as far as anybody has seen them: what is applied shows before its position does.
    async fn visible(&self) -> Result<Positions, String> {
        for (_, path) in self.databases() {
            let Some(CopyState { is_applying: true, steps, .. }) = self.copy(&path) else { continue };
            while self.copy(&path).is_some_and(|copy| copy.steps == steps) {
                tokio::time::sleep(PAUSE).await;
            }
        }
        self.held()
    }

    async fn committed(&self) -> Result<Positions, String> {
        let ended = || "it does not replicate any more".to_owned();
        let mut all = Positions::default();
        for (name, path) in self.databases() {
            let path = canonical(&path);
            let txid = loop {
                let replication = self.link.shown.replication.upgrade().ok_or_else(ended)?;
                if let Some(txid) = replication.position(&path).await {
                    break txid;
                }
                self.link_is_leading()?;
                tokio::time::sleep(PAUSE).await;
            };
            all.0.insert(name, txid);
        }
        Ok(all)
    }

    fn link_is_leading(&self) -> Result<u64, String> {
        self.link.shown.terms.valid().ok_or_else(|| "its lease has run out".to_owned())
    }

    fn require(&self, term: u64) -> Result<(), String> {
        match self.link_is_leading()? {
            now if now == term => Ok(()),
            _ => Err("it has not been primary all the time".to_owned()),
        }
    }

    fn is_durable(&self, positions: &Positions) -> Result<bool, String> {
        let replication = self.link.shown.replication.upgrade().ok_or("it does not replicate any more")?;
        let durable = |(name, path): (String, PathBuf)| -> Option<(String, Txid)> {
            Some((name, replication.durable(&canonical(&path))?))
        };
        let durable = Positions(self.databases().into_iter().filter_map(durable).collect());
        Ok(durable.reach(positions))
    }

    /// Waits until so many replicas have it.
    async fn replicated(&self, term: u64, positions: &Positions, replicas: u32) -> Result<(), Withheld> {
        let wanted: Vec<(PathBuf, Txid)> = self
            .databases()
            .into_iter()
            .filter_map(|(name, path)| Some((canonical(&path), *positions.0.get(&name)?)))
            .collect();
        let until = Instant::now() + self.patience;
        loop {
            let replication =
                self.link.shown.replication.upgrade().ok_or("it does not replicate any more".to_owned())?;
            let having = replication.audience().having(&wanted);
            if having >= replicas as usize {
                return Ok(());
            }
            self.require(term)?;
            if Instant::now() >= until {
                return Err(Withheld::Late(format!(
                    "only {having} of {replicas} replicas have it after {} s; the backup has it: `litekeep cluster status` shows which ones stream",
                    self.patience.as_secs_f64()
                )));
            }
            drop(replication);
            tokio::time::sleep(PAUSE).await;
        }
    }
}

#[async_trait]
impl Node for Facing {
    fn writer(&self) -> Writer {
        let situation = self.link.situation();
        if situation.role == Role::Primary {
            return self.link.shown.terms.valid().map_or(Writer::Nobody, Writer::Here);
        }
        let other = situation.primary.filter(|primary| primary.name != self.link.name);
        match other.and_then(|primary| primary.address) {
            Some(address) if situation.role == Role::Replica => {
                Writer::At(format!("{address}:{}", self.port))
            }
            _ => Writer::Nobody,
        }
    }

    async fn writer_changed(&self, from: &Writer) {
        let mut situation = self.link.situation.clone();
        while self.writer() == *from {
            // A lease runs out without a word.
            _ = tokio::time::timeout(PAUSE * 10, situation.changed()).await;
        }
    }

    async fn positions(&self) -> Result<Positions, String> {
        match self.link.shown.terms.valid() {
            Some(_) => self.committed().await,
            None => self.visible().await,
        }
    }

    async fn acknowledge(&self, term: u64, positions: &Positions, may_write: bool) -> Result<(), Withheld> {
        if self.acknowledge != Acknowledge::Local {
            while !self.is_durable(positions)? {
                self.require(term)?;
                tokio::time::sleep(PAUSE).await;
            }
        }
        // What is only read is safe enough in the backup, and readable while replicas are away.
        if let (Acknowledge::Replicas(replicas), true) = (self.acknowledge, may_write) {
            self.replicated(term, positions, replicas).await?;
        }
        Ok(self.require(term)?)
    }

    async fn has(&self, positions: &Positions) {
        while !self.held().is_ok_and(|held| held.reach(positions)) {
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn lag(&self) -> Option<Duration> {
        let role = self.link.situation().role;
        if role == Role::Primary {
            return self.link.shown.terms.valid().map(|_| Duration::ZERO);
        }
        let databases = self.link.own().databases;
        let lags = databases.iter().map(|database| database.lag_ms.filter(|_| database.trouble.is_none()));
        let lag_ms = lags.collect::<Option<Vec<i64>>>()?.into_iter().max()?;
        (role == Role::Replica).then(|| Duration::from_millis(lag_ms.unsigned_abs()))
    }
}
