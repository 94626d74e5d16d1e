//! The pages for people and monitors over HTTP: they come, change and go with the configuration.

mod patience;
mod tls;

use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::middleware::map_response;
use axum::response::Response;
use futures::StreamExt as _;
use litekeep_config::{Dashboard, Metrics, Stream};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::dashboard::{self, Board};
use crate::metrics;
use crate::replication::Current;
use crate::report::{Failure, Kind, text};
use crate::stack::Stack;
use crate::streams;
use patience::Patient;
use tls::{Certificate, Encrypted};

/// How long those who are being answered may take when a page goes.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// What is served, and what it shows.
pub(crate) struct Pages {
    board: Arc<Board>,
    replication: Current,
    stack: Option<Weak<Stack>>,
    dashboard: Option<Served>,
    metrics: Option<Served>,
    stream: Option<Served>,
}

impl Pages {
    /// Nothing is served yet.
    pub(crate) fn new(board: Arc<Board>, replication: Current, stack: Option<Weak<Stack>>) -> Pages {
        Pages { board, replication, stack, dashboard: None, metrics: None, stream: None }
    }

    /// Serves the status page so from now on, to nobody by an earlier token.
    ///
    /// # Errors
    /// When the address is taken or not ours; then that of before goes on if it has another address.
    pub(crate) async fn dashboard(&mut self, wanted: Option<&Dashboard>) -> Result<(), Failure> {
        let wanted =
            wanted.map(|wanted| Wanted::plain(wanted.addr, dashboard::routes(wanted, self.board.clone())));
        replace(&mut self.dashboard, wanted, "the status page", "[dashboard]").await
    }

    /// The same of the metrics.
    ///
    /// # Errors
    /// As [`dashboard`](Self::dashboard).
    pub(crate) async fn metrics(&mut self, wanted: Option<&Metrics>) -> Result<(), Failure> {
        let routes = || metrics::routes(self.replication.clone(), self.stack.clone(), self.board.clone());
        let wanted = wanted.map(|wanted| Wanted::plain(wanted.addr, routes()));
        replace(&mut self.metrics, wanted, "metrics", "[metrics]").await
    }

    /// The same of the stream for live copies.
    ///
    /// # Errors
    /// As [`dashboard`](Self::dashboard), and when its certificate cannot be read; then that of before goes on.
    pub(crate) async fn stream(&mut self, wanted: Option<&Stream>) -> Result<(), Failure> {
        let wanted = match wanted {
            None => None,
            Some(wanted) => Some(Wanted {
                certificate: wanted.tls.as_ref().map(Certificate::load).transpose()?,
                ..Wanted::plain(wanted.addr, streams::routes(wanted, self.replication.clone()))
            }),
        };
        replace(&mut self.stream, wanted, "live copies", "[stream]").await
    }
}

/// What is to be served.
struct Wanted {
    addr: SocketAddr,
    routes: Router,
    /// With TLS.
    certificate: Option<Certificate>,
}

impl Wanted {
    fn plain(addr: SocketAddr, routes: Router) -> Wanted {
        Wanted { addr, routes, certificate: None }
    }
}

async fn replace(
    old: &mut Option<Served>,
    wanted: Option<Wanted>,
    what: &'static str,
    table: &str,
) -> Result<(), Failure> {
    let addr = wanted.as_ref().map(|wanted| wanted.addr);
    if let Some(old) = old.take_if(|old| Some(old.addr) == addr) {
        old.end().await;
    }
    let new = match wanted {
        Some(wanted) => Some(Served::begin(wanted, what, table).await?),
        None => None,
    };
    if let Some(old) = std::mem::replace(old, new) {
        old.end().await;
    }
    Ok(())
}

/// One page, for as long as this lives.
struct Served {
    addr: SocketAddr,
    end: watch::Sender<()>,
    task: JoinHandle<()>,
}

impl Served {
    async fn begin(wanted: Wanted, what: &'static str, table: &str) -> Result<Served, Failure> {
        let Wanted { addr, routes, certificate } = wanted;
        let listener = TcpListener::bind(addr).await.map_err(|error| {
            let cause = text::io_error(&error);
            Failure::new(Kind::Invalid, format!("listen on {addr} for {what}: {cause}"))
                .hint(format!("choose another `addr` below {table}"))
        })?;
        let (end, ended) = watch::channel(());
        let until = ended.clone();
        let routes = routes.layer(map_response(move |answer| cut(answer, until.clone())));
        let task = tokio::spawn(async move {
            let (listener, end) = (Patient(listener), gone(ended));
            let served = match certificate {
                None => axum::serve(listener, routes).with_graceful_shutdown(end).await,
                Some(certificate) => {
                    let listener = Encrypted::new(listener, certificate);
                    axum::serve(listener, routes).with_graceful_shutdown(end).await
                }
            };
            if let Err(error) = served {
                tracing::error!("{what}: no longer served: {error}");
            }
        });
        Ok(Served { addr, end, task })
    }

    /// Its address is free afterwards.
    async fn end(self) {
        drop(self.end);
        _ = tokio::time::timeout(LAST_ANSWERS, self.task).await;
    }
}

async fn gone(mut end: watch::Receiver<()>) {
    while end.changed().await.is_ok() {}
}

/// An answer without an end of its own ends with the page.
async fn cut(answer: Response, ended: watch::Receiver<()>) -> Response {
    let kind = answer.headers().get(CONTENT_TYPE);
    if kind.is_none_or(|kind| kind != "text/event-stream" && kind != litekeep_stream::KIND) {
        return answer;
    }
    let (head, body) = answer.into_parts();
    Response::from_parts(head, Body::from_stream(body.into_data_stream().take_until(Box::pin(gone(ended)))))
}
