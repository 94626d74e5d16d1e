//! Where the copies of a node stream from: the primary of the moment, whose lease says where that is.

use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context as _, Result};
use litekeep_cluster::Situation;
use litekeep_config::{ClusterConfig, Stream};
use litekeep_env::{Clock as _, SystemClock};
use litekeep_replica::{Follower, Held, Streaming};
use litekeep_store::Store;
use litekeep_stream::Access;
use tokio::sync::watch;

use crate::report::Failure;
use crate::streamed::Streamed;

/// The URL from which the other nodes stream while this one is the primary; `None`: they cannot.
pub(super) fn own_url(cluster: &ClusterConfig, stream: Option<&Stream>) -> Option<String> {
    let (address, stream) = cluster.address.as_ref().zip(stream)?;
    let is_local = |ip: IpAddr| ip.is_loopback();
    let bare = address.trim_matches(['[', ']']);
    if is_local(stream.addr.ip()) && !bare.parse().map_or(bare == "localhost", is_local) {
        tracing::warn!(
            "[stream] listens on {} only, so the other nodes, which know this one as `{address}`, read the backup",
            stream.addr
        );
        return None;
    }
    let scheme = if stream.tls.is_some() { "https" } else { "http" };
    Some(format!("{scheme}://{address}:{}", stream.addr.port()))
}

/// How this node asks others; `None`: its configuration has no token for that.
///
/// # Errors
/// When the authorities cannot be read.
pub(super) fn access(stream: Option<&Stream>) -> Result<Option<Access>> {
    let Some(stream) = stream else { return Ok(None) };
    let read =
        |path: &Path| std::fs::read(path).with_context(|| format!("read `tls_ca`, `{}`", path.display()));
    let ca = stream.ca_file.as_deref().map(read).transpose()?;
    let access = Access::new(stream.token.expose(), ca.as_deref(), stream.insecure);
    Ok(Some(access.map_err(|error| Failure::invalid(error.to_string())).context("use [stream]")?))
}

/// Who is asked for what comes next.
#[derive(Clone)]
pub(super) struct Upstreams {
    /// The name of this one.
    pub(super) node: String,
    pub(super) access: Option<Access>,
    pub(super) situation: watch::Receiver<Situation>,
}

impl Upstreams {
    /// The primary's, if it has one that this node can ask.
    fn url(&self) -> Option<String> {
        self.access.as_ref()?;
        self.situation.borrow().primary.as_ref()?.stream.clone()
    }

    /// For one copy.
    pub(super) fn of(&self, store: &Store) -> Upstream {
        Upstream { all: self.clone(), store: store.clone(), url: None, from: Origin::Nobody }
    }
}

/// What one copy streams from.
pub(super) struct Upstream {
    all: Upstreams,
    store: Store,
    /// Of the primary that is asked.
    url: Option<String>,
    from: Origin,
}

enum Origin {
    Nobody,
    Primary(Streamed),
    /// One that may not be asked.
    Refused(Streaming),
}

impl Upstream {
    /// Turns to whoever is the primary now.
    pub(super) fn turn(&mut self, follower: &mut Follower) {
        let url = self.all.url();
        if url == self.url {
            return;
        }
        self.url.clone_from(&url);
        self.let_go(follower);
        let Some((url, access)) = url.zip(self.all.access.as_ref()) else { return };
        let name = follower.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
        self.from = match access.database(&url, &name) {
            Ok(address) => {
                let streamed =
                    Streamed::start(address, &format!("{url}/{name}"), &self.store, Some(&self.all.node));
                follower.listen_to(Some(streamed.source()));
                Origin::Primary(streamed)
            }
            Err(error) => {
                tracing::warn!(path = %follower.path().display(), "not streaming, reading the backup instead: {error}");
                let now = SystemClock.unix_ms();
                let streaming = Streaming {
                    url,
                    is_live: false,
                    since_ms: now,
                    at_ms: now,
                    primary_txid: None,
                    lag_ms: None,
                    error: Some((error.to_string(), now)),
                };
                Streaming::tell(follower.path(), Some(&streaming));
                Origin::Refused(streaming)
            }
        };
    }

    /// From now on the copy reads the store alone, which is all that counts for the next primary.
    pub(super) fn let_go(&mut self, follower: &mut Follower) {
        self.from = Origin::Nobody;
        follower.listen_to(None);
        Streaming::tell(follower.path(), None);
    }

    /// Something came into the copy.
    pub(super) fn applied(&mut self, held: &Held) {
        if let Origin::Primary(streamed) = &mut self.from {
            streamed.applied(held);
        }
    }

    /// Tells those who look, and says, how it goes.
    pub(super) fn tell(&mut self, follower: &Follower) -> Option<Streaming> {
        match &mut self.from {
            Origin::Nobody => None,
            Origin::Refused(streaming) => Some(streaming.clone()),
            Origin::Primary(streamed) => {
                streamed.tell(follower.path());
                Some(streamed.now())
            }
        }
    }

    /// Waits until something may have come; `pause`: how long while only the store says that.
    pub(super) async fn rest(&self, pause: std::time::Duration) {
        match &self.from {
            Origin::Primary(streamed) => streamed.rest(pause).await,
            Origin::Nobody | Origin::Refused(_) => tokio::time::sleep(pause).await,
        }
    }
}
