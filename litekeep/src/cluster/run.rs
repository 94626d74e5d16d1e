//! The flow of `litekeep up` on a node of a cluster: from the configuration to the end.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use litekeep_cluster::{Authority, Machine, Role};
use litekeep_config::{ClusterConfig, ClusterLease};
use litekeep_env::SystemClock;
use litekeep_env::notify::ServiceManager;
use litekeep_lease::{Bucket, Etcd, EtcdAddress, Lease, Node as LeaseNode, Record, Register};
use litekeep_store::Store;
use tokio::sync::{mpsc, watch};

use super::facing::Terms;
use super::link::{Link, Shown};
use super::node::{Node, Shared};
use super::records::Records;
use super::upstream::{self, Upstreams};
use crate::args::ConfigArgs;
use crate::child::Signals;
use crate::commands::replicate::checkpoint;
use crate::control::Home;
use crate::dashboard::Board;
use crate::feeds::Feed;
use crate::replication;
use crate::report::{Failure, Format, Outcome};
use crate::served::Pages;
use crate::settings::{Database, Settings, Stores, database};
use crate::stack::{Stack, note_primary};
use crate::syncs::DatabaseSync;

/// Between two tries to reach the lease at the start.
const OUTAGE_PAUSE: Duration = Duration::from_secs(1);

/// The store that has the log of the first database, by which the nodes know of each other.
///
/// # Errors
/// When it cannot be opened.
pub(crate) fn primary_store(settings: &Settings) -> Result<Store> {
    let databases = database::all(settings)?;
    let first = databases.first().ok_or_else(|| Failure::invalid("the configuration has no database"))?;
    Stores::default().open(&first.destinations[0])
}

/// The name of this node.
fn name_of(cluster: &ClusterConfig) -> Result<String> {
    if let Some(name) = &cluster.node {
        return Ok(name.clone());
    }
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").context("read the host's name")?;
    let host = host.trim();
    if !litekeep_config::is_name(host) {
        let failure = Failure::invalid(format!("the host's name `{host}` cannot name a node"));
        return Err(failure.hint("name it below [cluster]: node = \"a\"").into());
    }
    Ok(host.to_owned())
}

/// Runs a node until it is told to end.
pub(crate) async fn run(
    settings: Settings,
    args: &ConfigArgs,
    stack: &Arc<Stack>,
    home: &Home,
    prints: Option<Format>,
) -> Result<Outcome> {
    let cluster = settings.config.cluster.clone().unwrap_or_default();
    let mut signals = Signals::catch().context("catch signals")?;
    let name = name_of(&cluster)?;
    let stores = Stores::default();
    let mut shared = Vec::new();
    for database in database::all(&settings)? {
        if let Some(rival) = replication::rival(&database) {
            return Err(rival.into());
        }
        let store = stores.open(&database.destinations[0])?;
        shared.push(Shared { database, store });
    }
    let databases: Vec<Database> = shared.iter().map(|shared| shared.database.clone()).collect();
    let records = Records::of(&shared.first().context("find a database")?.store);
    let access = upstream::access(settings.config.stream.as_ref())?;
    let stream = upstream::own_url(&cluster, settings.config.stream.as_ref());
    let own = LeaseNode { name: name.clone(), address: cluster.address.clone(), stream };
    let opening = authority(&cluster, &own, &shared[0].store, &stores);
    let authority = tokio::select! {
        opened = opening => opened?,
        () = stack.ended_by(&mut signals) => return Ok(Outcome::Done),
    };
    let former =
        std::fs::read(home.lease()).ok().and_then(|text| serde_json::from_slice::<Record>(&text).ok());
    let own = litekeep_cluster::Settings {
        name: name.clone(),
        candidate: cluster.candidate,
        priority: cluster.priority,
        ttl: cluster.ttl,
    };
    let machine = Machine::new(authority, own, Arc::new(SystemClock), former);
    let (asks, asked) = mpsc::channel(8);
    let (stop, stopped) = watch::channel(false);
    let places = databases.iter().map(|database| (database.path.clone(), database.meta_dir.clone()));
    let shown = Arc::new(Shown {
        databases: places.collect(),
        copies: std::sync::Mutex::default(),
        replication: stack.replication(),
        terms: Terms::default(),
    });
    let link = Arc::new(Link {
        name,
        candidate: cluster.candidate,
        ttl: cluster.ttl,
        situation: machine.situation(),
        asks,
        records,
        shown: shown.clone(),
    });
    stack.is_node(&link);
    show(&settings, args, stack, &databases).await?;
    let upstreams = Upstreams { node: link.name.clone(), access, situation: link.situation.clone() };
    let mut node = Node::new(settings, stack.clone(), home.clone(), shared, args.clone(), shown, upstreams);
    let beside = [
        tokio::spawn(note(link.clone(), databases.clone())),
        tokio::spawn({
            let link = link.clone();
            async move { link.keep_in_touch().await }
        }),
        tokio::spawn(ready(link.clone())),
    ];
    {
        let mut playing = std::pin::pin!(machine.run(&mut node, asked, stopped));
        tokio::select! {
            () = &mut playing => {}
            () = stack.ended_by(&mut signals) => {
                _ = ServiceManager::from_env().map(|manager| manager.stopping());
                stop.send_replace(true);
                playing.await;
            }
            () = stack.print(prints) => unreachable!("printing has no end"),
        }
    }
    let stopped = stack.stop().await;
    let closed = node.close().await;
    beside.iter().for_each(tokio::task::JoinHandle::abort);
    link.say_goodbye().await;
    for database in &databases {
        _ = note_primary(&database.meta_dir, None);
        if closed.is_ok() {
            checkpoint(database);
        }
    }
    stopped.and(closed).map(|()| Outcome::Done)
}

/// Puts up the board, and serves the pages where that is wanted.
async fn show(
    settings: &Settings,
    args: &ConfigArgs,
    stack: &Arc<Stack>,
    databases: &[Database],
) -> Result<()> {
    let (feeds, syncs) = (Feed::all(settings)?, DatabaseSync::all(settings)?);
    let of_stack = Some(Arc::downgrade(stack));
    let board = Board::new(stack.replication(), of_stack.clone(), (databases, &[]), (&feeds, &syncs), args);
    let board = Arc::new(board);
    let mut pages = Pages::new(board.clone(), stack.replication(), of_stack);
    pages.metrics(settings.config.metrics.as_ref()).await?;
    pages.dashboard(settings.config.dashboard.as_ref()).await?;
    pages.stream(settings.config.stream.as_ref()).await?;
    stack.shown_on(&board, pages).await;
    Ok(())
}

/// Who says which node is the primary. A lease that cannot be reached is waited for.
async fn authority(
    cluster: &ClusterConfig,
    own: &LeaseNode,
    beside: &Store,
    stores: &Stores,
) -> Result<Authority> {
    let store = match &cluster.lease {
        ClusterLease::Fixed(primary) => return Ok(Authority::Fixed { primary: primary.clone() }),
        ClusterLease::Etcd(url) => {
            let etcd =
                EtcdAddress::parse(url.expose()).and_then(Etcd::open).context("use the lease in etcd")?;
            return Ok(lease(Arc::new(etcd), own, cluster.ttl));
        }
        ClusterLease::Beside => beside.clone(),
        ClusterLease::Store(destination) => stores.open(destination)?,
    };
    let mut is_told = false;
    loop {
        match Bucket::open(store.clone()).await {
            Ok(bucket) => return Ok(lease(Arc::new(bucket), own, cluster.ttl)),
            Err(error) if error.kind() == litekeep_lease::ErrorKind::Unavailable => {
                if !std::mem::replace(&mut is_told, true) {
                    tracing::warn!("the lease cannot be reached: {error}; trying again");
                }
                tokio::time::sleep(OUTAGE_PAUSE).await;
            }
            Err(error) => return Err(Failure::invalid(error.to_string()).into()),
        }
    }
}

fn lease(register: Arc<dyn Register>, own: &LeaseNode, ttl: Duration) -> Authority {
    Authority::Lease(Arc::new(Lease::new(register, Arc::new(SystemClock), own.clone(), ttl)))
}

/// Keeps the names of the primary beside the databases. Does not return.
async fn note(link: Arc<Link>, databases: Vec<Database>) {
    let mut situation = link.situation.clone();
    loop {
        let primary = situation.borrow_and_update().primary.clone();
        let others = primary.filter(|primary| primary.name != link.name);
        for database in &databases {
            let noted = note_primary(&database.meta_dir, others.as_ref().map(|other| other.name.as_str()));
            if let Err(error) = noted {
                tracing::warn!(path = %database.path.display(), "note who is the primary: {error}");
            }
        }
        if tokio::time::timeout(Duration::from_secs(1), situation.changed())
            .await
            .is_ok_and(|changed| changed.is_err())
        {
            return;
        }
    }
}

/// Tells the service manager when the node has a role.
async fn ready(link: Arc<Link>) {
    let mut situation = link.situation.clone();
    let has_role =
        |situation: &litekeep_cluster::Situation| matches!(situation.role, Role::Primary | Role::Replica);
    if situation.wait_for(has_role).await.is_ok() {
        _ = ServiceManager::from_env().map(|manager| manager.ready());
    }
}
