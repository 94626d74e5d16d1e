//! The HTTP proxy in front of applications that cannot take a listening socket: each instance has a port of its own, and
//! clients see one address that never refuses.
//!
//! Promises:
//! - A request goes to an instance that is ready. While there is none it waits, for [`Settings::patience`] at most.
//! - An instance that is retired gets no new request; the caller learns when its last one is over.
//! - A request is sent again only where the instance cannot have seen it.
//! - Bodies stream in both directions, upgraded connections (WebSockets) too; nothing is kept in memory.

#![forbid(unsafe_code)]

mod body;
pub mod cluster;
mod forward;
mod headers;
mod instances;
mod waits;

pub use instances::{Instance, Instances};
pub use waits::{Safety, WAIT};

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use body::Answer;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;

/// How a client may take to send the head of a request.
const HEAD: Duration = Duration::from_secs(30);

/// How requests are treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How long a request waits for an instance before it is answered with 503.
    pub patience: Duration,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { patience: Duration::from_secs(30) }
    }
}

/// Serves requests from a listening socket until the task is aborted. `safety`: who is asked at [`WAIT`].
pub async fn serve(
    listener: TcpListener,
    instances: Arc<Instances>,
    safety: Option<Arc<dyn Safety>>,
    settings: Settings,
) {
    let waits = Arc::new(waits::Waits::new(safety));
    let each = move |request: Request<Incoming>, client| {
        let (instances, waits) = (instances.clone(), waits.clone());
        async move {
            match waits.answer(&request, client).await {
                Some(answer) => answer,
                None => forward::answer(request, client, &instances, settings).await,
            }
        }
    };
    listen(listener, each).await;
}

async fn listen<F>(
    listener: TcpListener,
    each: impl Fn(Request<Incoming>, SocketAddr) -> F + Clone + Send + Sync + 'static,
) where
    F: Future<Output = Response<Answer>> + Send + 'static,
{
    loop {
        let (stream, client) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Of descriptors there may be more in a moment.
                tracing::warn!("could not accept a connection: {error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        _ = stream.set_nodelay(true);
        tokio::spawn(connection(stream, client, each.clone()));
    }
}

async fn connection<F>(
    stream: tokio::net::TcpStream,
    client: SocketAddr,
    each: impl Fn(Request<Incoming>, SocketAddr) -> F + Clone + Send + 'static,
) where
    F: Future<Output = Response<Answer>> + Send + 'static,
{
    let service = service_fn(move |request| {
        let answer = each(request, client);
        async move { Ok::<_, std::convert::Infallible>(answer.await) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD);
    let served = http.serve_connection(TokioIo::new(stream), service).with_upgrades().await;
    if let Err(error) = served {
        tracing::debug!(%client, "connection ended: {error}");
    }
}
