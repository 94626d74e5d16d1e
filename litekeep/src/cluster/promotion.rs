//! A node that is asked to lead.
//!
//! A primary that is there hands over, and nothing is lost. The lease of one that is silent can be taken when it has run out; what that one
//! committed and the log has not is missing then. A candidate would take it anyway, by itself; another node only when whoever asks knows
//! what may be missing.

use litekeep_cluster::{Ask, Role, Situation};
use litekeep_env::random_u64;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use anyhow::Result;

use super::link::{DatabaseView, Link, PATIENCE, PAUSE};
use super::members::NodeView;
use super::records::Wish;
use crate::report::{Failure, Kind, text};

/// What came of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Promotion {
    /// This node is the primary.
    pub(crate) leads: bool,
    /// Who led before, and was asked.
    pub(crate) former: Option<String>,
    /// What is not here now, or would not be.
    pub(crate) at_risk: Option<AtRisk>,
}

/// What a node may have that the log has not.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct AtRisk {
    /// `None`: whoever wrote before there was a cluster.
    pub(crate) node: Option<String>,
    /// How long it has told nothing; `None` where nothing is known of it.
    pub(crate) silent_ms: Option<i64>,
    /// How its databases were then.
    pub(crate) databases: Vec<AtRiskDatabase>,
}

/// One database of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct AtRiskDatabase {
    pub(crate) path: std::path::PathBuf,
    /// The end of the log.
    pub(crate) txid: Option<String>,
    /// How old the oldest commit was that the log had not.
    pub(crate) lag_ms: Option<i64>,
}

impl AtRisk {
    fn of(name: &str, node: Option<&NodeView>) -> AtRisk {
        let databases = node.map(|node| node.told.databases.as_slice()).unwrap_or_default();
        let database = |DatabaseView { path, txid, lag_ms, .. }: &DatabaseView| AtRiskDatabase {
            path: path.clone(),
            txid: txid.clone(),
            lag_ms: *lag_ms,
        };
        AtRisk {
            node: Some(name.to_owned()),
            silent_ms: node.map(|node| node.silent_ms),
            databases: databases.iter().map(database).collect(),
        }
    }

    pub(crate) fn text(&self) -> String {
        let Some(name) = &self.node else {
            return "no node has led yet, and this one has its databases from the log: what whoever wrote to it has, and the log has not, would not be here".to_owned();
        };
        let then = match self.silent_ms {
            None => format!("`{name}` led until its lease ran out, and nothing else is known of it"),
            Some(ms) => {
                let age = text::age(ms);
                format!(
                    "`{name}` led until its lease ran out, and was heard of last {age} ago, by the clock of the store"
                )
            }
        };
        let database = |own: &AtRiskDatabase| {
            let path = own.path.display();
            let end = own
                .txid
                .as_ref()
                .map_or("was not known".to_owned(), |txid| format!("was transaction {txid}"));
            let rest = match own.lag_ms {
                None => String::new(),
                Some(0) => ", and no commit was waiting".to_owned(),
                Some(ms) => format!(", and commits had been waiting for {ms} ms"),
            };
            format!("; then the end of the log of `{path}` {end}{rest}")
        };
        let databases: String = self.databases.iter().map(database).collect();
        format!(
            "{then}{databases}. What it has committed and the log has not stays on `{name}` alone, as a fork when it comes back"
        )
    }
}

impl Link {
    /// Takes the lead from whoever has it. `even_lapsed`: also from one that does not answer any more; else a node that is no candidate asks first.
    ///
    /// # Errors
    /// When that does not come about.
    pub(crate) async fn promote(&self, even_lapsed: bool) -> Result<Promotion> {
        if self.situation().role == Role::Primary {
            return Ok(Promotion { leads: true, former: None, at_risk: None });
        }
        let epoch = self.epoch_of_lease()?;
        self.require_copies()?;
        if epoch.is_none() && !even_lapsed && !self.candidate && self.has_copies() {
            let at_risk = Some(AtRisk { node: None, silent_ms: None, databases: vec![] });
            return Ok(Promotion { leads: false, former: None, at_risk });
        }
        let within = self.ttl * PATIENCE;
        self.ask(Ask::Lead { within, even_lapsed }).await?;
        let until = Instant::now() + within;
        let (mut wished, mut former) = (None, None);
        loop {
            let now = self.situation();
            if now.role == Role::Primary {
                let at_risk = match now.lapse_of {
                    Some(name) => Some(self.at_risk(&name).await),
                    None => None,
                };
                return Ok(Promotion { leads: true, former, at_risk });
            }
            if let Some(primary) = now.primary.as_ref().filter(|primary| primary.name != self.name) {
                former = Some(primary.name.clone());
                if now.is_lapsed && !even_lapsed && !self.candidate {
                    self.ask(Ask::Lead { within: Default::default(), even_lapsed }).await?;
                    let at_risk = Some(self.at_risk(&primary.name).await);
                    return Ok(Promotion { leads: false, former, at_risk });
                }
                if !now.is_lapsed && wished != now.epoch {
                    wished = now.epoch;
                    self.wish_to_lead(now.epoch).await;
                }
            }
            if Instant::now() >= until {
                return Err(self.not_promoted(&now, within.as_secs()).await);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// One that does not answer any more loses the lease by itself.
    async fn wish_to_lead(&self, epoch: Option<u64>) {
        let Some(epoch) = epoch else { return };
        if let Err(error) = self.wish(Some(self.name.clone()), epoch).await {
            tracing::warn!("could not ask the primary for the lease: {error:#}");
        }
    }

    pub(super) async fn wish(&self, to: Option<String>, epoch: u64) -> Result<()> {
        self.records.wish(&Wish { to, epoch, nonce: random_u64() }).await
    }

    /// `None`: nobody has ever had it.
    pub(super) fn epoch_of_lease(&self) -> Result<Option<u64>> {
        let Situation { epoch, primary, .. } = self.situation();
        match (epoch, primary) {
            (None, Some(primary)) => {
                let failure = Failure::invalid(format!(
                    "the configuration says that `{}` is the primary, and there is no lease",
                    primary.name
                ));
                Err(failure.hint("change `primary` below [cluster] on every node").into())
            }
            (epoch, _) => Ok(epoch),
        }
    }

    /// A copy that does not go on cannot have all of the log.
    fn require_copies(&self) -> Result<()> {
        let over = self.shown.over();
        let Some((path, trouble)) = over.first() else { return Ok(()) };
        let failure =
            Failure::invalid(format!("`{}` cannot take what the log has: {trouble}", path.display()));
        Err(failure.hint("`litekeep promote` on a node whose copies go on").into())
    }

    async fn at_risk(&self, name: &str) -> AtRisk {
        let told = self.all_told().await.unwrap_or_default();
        AtRisk::of(name, told.iter().find(|node| node.told.node == name))
    }

    async fn not_promoted(&self, now: &Situation, seconds: u64) -> anyhow::Error {
        let mut why: Vec<String> = now.trouble.iter().cloned().collect();
        if let Some(primary) = now.primary.as_ref().filter(|_| !now.is_lapsed) {
            let name = &primary.name;
            why.push(format!("`{name}` renews the lease, and has not handed over"));
            let told = self.all_told().await.unwrap_or_default();
            let told = told.into_iter().find(|node| node.told.node == *name);
            why.extend(told.into_iter().flat_map(|node| node.told.trouble));
        }
        why.extend(self.own().databases.into_iter().filter_map(|database| database.trouble));
        let why = if why.is_empty() { String::new() } else { format!(": {}", why.join("; ")) };
        let failure = Failure::new(
            Kind::Unavailable,
            format!("this node has not become the primary within {seconds} s{why}"),
        );
        let hint = "`litekeep cluster status` shows who leads, and what is wrong; a primary hands over when the store has everything, and its own log says why it did not";
        failure.hint(hint).into()
    }
}
