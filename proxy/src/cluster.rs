//! The proxy on each node of a cluster, of which one may write.
//!
//! Promises:
//! - What may write goes to the primary, from whichever node it comes to; while there is none it waits, for
//!   [`Settings::patience`](crate::Settings::patience) at most, and is not sent twice where somebody may have seen it.
//! - An answer to it is released when the node says that it is [acknowledged](Node::acknowledge), and by nobody who is not primary any more.
//! - A read is answered here once this node [has](Node::has) all that its client has seen, else by the primary. What a client has seen it carries in
//!   a cookie, and whoever keeps none in a header ([`Positions`]).
//! - Nothing of that needs the other node's trust: a request that was sent on once is not sent on again.

mod answer;
mod positions;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hyper::Method;
use hyper::http::request::Parts;
use tokio::net::TcpListener;

use crate::instances::Instances;
use crate::waits::Waits;
use crate::{Safety, headers, listen};

pub use positions::{COOKIE, HEADER, Positions};

/// Where what writes is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Writer {
    /// By this node, in its time as primary of this number.
    Here(u64),
    /// By another one, whose proxy is at this host and port.
    At(String),
    /// By nobody, for now.
    Nobody,
}

/// Why an answer is not released.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Withheld {
    /// The node may not answer any more: what was done may be lost.
    Lost(String),
    /// What was done stays, and was not as safe in time as it should be.
    Late(String),
}

impl From<String> for Withheld {
    fn from(why: String) -> Withheld {
        Withheld::Lost(why)
    }
}

/// What the proxy must know of its node.
#[async_trait]
pub trait Node: Send + Sync {
    /// Who is primary, as far as this node knows. [`Writer::Here`] only while nobody else can be, and nothing keeps applications from
    /// writing.
    fn writer(&self) -> Writer;

    /// Ends when somebody else than this is.
    async fn writer_changed(&self, from: &Writer);

    /// Where its databases are, with everything that was committed before the call. An error is why it may not answer any more.
    async fn positions(&self) -> Result<Positions, String>;

    /// Ends when everything up to there is as safe as its configuration wants it, and that time as primary is not over. `may_write`: it is
    /// for a request that may have written.
    async fn acknowledge(&self, term: u64, positions: &Positions, may_write: bool) -> Result<(), Withheld>;

    /// Ends when its databases are there or further.
    async fn has(&self, positions: &Positions);

    /// How far it is behind the primary; `None`: nobody knows.
    fn lag(&self) -> Option<Duration>;
}

/// How requests are treated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How long a request waits for an instance of the application, and for a primary, before it is answered with 503.
    pub patience: Duration,
    /// How long a read waits for what its client has seen, before the primary answers it.
    pub read_patience: Duration,
    /// Whether a read on the primary waits until what it may have seen is acknowledged.
    pub reads_wait: bool,
    /// Requests of which the path begins so go to the primary whatever their method.
    pub to_primary: Vec<String>,
    /// Whether connections that change their protocol (WebSockets) stay on the node.
    pub upgrades_stay: bool,
    /// The path that tells how the node is.
    pub health: String,
    /// A node that is further behind is not healthy.
    pub max_lag: Duration,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            patience: Duration::from_secs(30),
            read_patience: Duration::from_secs(2),
            reads_wait: false,
            to_primary: vec![],
            upgrades_stay: false,
            health: "/.litekeep/health".to_owned(),
            max_lag: Duration::from_secs(10),
        }
    }
}

impl Settings {
    /// Whether a request may write. Methods that are safe (RFC 9110, section 9.2.1) do not.
    fn may_write(&self, request: &Parts) -> bool {
        let is_upgrade = headers::upgrade(&request.headers).is_some();
        let is_safe = [Method::GET, Method::HEAD, Method::OPTIONS, Method::TRACE].contains(&request.method);
        let path = request.uri.path();
        !is_safe
            || is_upgrade && !self.upgrades_stay
            || self.to_primary.iter().any(|begin| path.starts_with(begin.as_str()))
    }
}

/// Serves requests from a listening socket until the task is aborted. `safety`: who is asked at [`WAIT`](crate::WAIT).
pub async fn serve(
    listener: TcpListener,
    instances: Arc<Instances>,
    node: Arc<dyn Node>,
    safety: Option<Arc<dyn Safety>>,
    settings: Settings,
) {
    let proxy = Arc::new(answer::Proxy::new(instances, node, Waits::new(safety), settings));
    let each = move |request, client: SocketAddr| {
        let proxy = proxy.clone();
        async move { proxy.answer(request, client).await }
    };
    listen(listener, each).await;
}
