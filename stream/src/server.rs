//! The primary's side.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, WWW_AUTHENTICATE};
use axum::http::{StatusCode, Uri};
use axum::middleware::{self, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use futures::stream;
use litekeep_ltx::Txid;
use sha2::{Digest as _, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::frame::{Frame, Now};
use crate::{HEARTBEAT, LARGEST};

/// Copies that stream at the same time.
const FOLLOWERS: usize = 64;
/// Of the name of a node, bytes.
const LONGEST_NAME: usize = 256;
/// A wrong token is answered this much later.
const WRONG: Duration = Duration::from_millis(300);

/// The logs of a primary.
pub trait Logs: Send + Sync + 'static {
    /// The log of a database, for whoever reads this backup of it.
    ///
    /// # Errors
    /// As [`Refused`].
    fn open(&self, name: &str, backup: &str) -> Result<Arc<dyn Log>, Refused>;

    /// The copy of a node is at this transaction.
    ///
    /// # Errors
    /// As [`Refused`].
    fn is_at(&self, name: &str, backup: &str, node: &str, at: Txid) -> Result<(), Refused>;
}

/// The end of a log.
#[async_trait]
pub trait Log: Send + Sync {
    /// What follows a transaction; waits for it at most so long.
    async fn next(&self, after: Txid, patience: Duration) -> Next;
    /// How far it is.
    fn now(&self) -> Now;
}

/// What follows a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// The file of this transaction.
    File(Txid, Bytes),
    /// Nothing yet.
    Nothing,
    /// Nothing that can be told: why.
    Refused(Refused),
}

/// Why a log is not told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// There is no such database, or it is not clear which.
    Unknown(String),
    /// The log ends before.
    Beyond,
    /// Only the backup has what follows.
    NotKept,
    /// Not now.
    Away,
}

impl Refused {
    fn status(&self) -> StatusCode {
        match self {
            Refused::Unknown(_) => StatusCode::NOT_FOUND,
            Refused::Beyond => StatusCode::CONFLICT,
            Refused::NotKept => StatusCode::GONE,
            Refused::Away => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    fn text(&self) -> String {
        match self {
            Refused::Unknown(why) => why.clone(),
            Refused::Beyond => "the primary's log ends before that transaction".to_owned(),
            Refused::NotKept => "what follows that transaction is only in the backup".to_owned(),
            Refused::Away => "the primary does not replicate this database now".to_owned(),
        }
    }
}

struct App {
    /// Only digests are compared, so the time that takes says nothing about the token.
    token: [u8; 32],
    logs: Arc<dyn Logs>,
    places: Arc<Semaphore>,
}

/// The routes, for whoever shows this token.
pub fn router(token: &str, logs: Arc<dyn Logs>) -> Router {
    let places = Arc::new(Semaphore::new(FOLLOWERS));
    let app = Arc::new(App { token: digest(token), logs, places });
    Router::new()
        .route("/v1/log/{*name}", get(tell))
        .route("/v1/at/{*name}", post(hear))
        .layer(from_fn_with_state(app.clone(), guard))
        .with_state(app)
}

fn digest(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

async fn guard(State(app): State<Arc<App>>, request: Request, next: middleware::Next) -> Response {
    let shown = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    match shown.and_then(|value| value.strip_prefix("Bearer ")) {
        Some(token) if digest(token) == app.token => return next.run(request).await,
        Some(_) => tokio::time::sleep(WRONG).await,
        None => {}
    }
    let text = match shown {
        Some(_) => "the token is wrong\n",
        None => "a token is needed\n",
    };
    (StatusCode::UNAUTHORIZED, [(WWW_AUTHENTICATE, "Bearer")], text).into_response()
}

fn parameter(uri: &Uri, name: &str) -> String {
    let query = uri.query().unwrap_or_default();
    let found = form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == name);
    found.map_or(String::new(), |(_, value)| value.into_owned())
}

fn refuse(refused: &Refused) -> Response {
    (refused.status(), format!("{}\n", refused.text())).into_response()
}

async fn hear(State(app): State<Arc<App>>, Path(name): Path<String>, uri: Uri) -> Response {
    let (node, backup) = (parameter(&uri, "node"), parameter(&uri, "backup"));
    let Ok(at) = parameter(&uri, "txid").parse() else {
        return (StatusCode::BAD_REQUEST, "`txid` is no transaction\n").into_response();
    };
    if node.is_empty() || node.len() > LONGEST_NAME {
        return (StatusCode::BAD_REQUEST, "`node` is no name\n").into_response();
    }
    match app.logs.is_at(&name, &backup, &node, at) {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(refused) => refuse(&refused),
    }
}

async fn tell(State(app): State<Arc<App>>, Path(name): Path<String>, uri: Uri) -> Response {
    let (after, backup) = (parameter(&uri, "after"), parameter(&uri, "backup"));
    let Ok(place) = app.places.clone().try_acquire_owned() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "too many follow already\n").into_response();
    };
    let Ok(after) = after.parse() else {
        return (StatusCode::BAD_REQUEST, "`after` is no transaction\n").into_response();
    };
    let log = match app.logs.open(&name, &backup) {
        Ok(log) => log,
        Err(refused) => return refuse(&refused),
    };
    if let Next::Refused(refused) = log.next(after, Duration::ZERO).await {
        return refuse(&refused);
    }
    tracing::info!("a live copy of `{name}` streams from transaction {after} on");
    let telling = Telling { log, after, said_at: None, rest: None, has_ended: false, _place: place };
    let pieces = stream::unfold(telling, async |mut telling| {
        let piece = telling.next().await?;
        Some((Ok::<_, std::convert::Infallible>(piece), telling))
    });
    let headers = [(CONTENT_TYPE, KIND), (CACHE_CONTROL, "no-store")];
    // A proxy that collects would tell everything late.
    (headers, [("x-accel-buffering", "no")], Body::from_stream(pieces)).into_response()
}

/// The content type of an answer.
pub const KIND: &str = "application/vnd.litekeep.log";

/// One answer: made as the other side takes it.
struct Telling {
    log: Arc<dyn Log>,
    after: Txid,
    said_at: Option<Instant>,
    /// What follows the head of a piece.
    rest: Option<Bytes>,
    has_ended: bool,
    _place: OwnedSemaphorePermit,
}

impl Telling {
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(rest) = self.rest.take() {
            return Some(rest);
        }
        if self.has_ended {
            return None;
        }
        let [head, rest] = self.frame().await.into_bytes();
        self.rest = Some(rest);
        Some(head)
    }

    async fn frame(&mut self) -> Frame {
        loop {
            let left = self.said_at.map_or(Duration::ZERO, |at| HEARTBEAT.saturating_sub(at.elapsed()));
            if left.is_zero() {
                self.said_at = Some(Instant::now());
                return Frame::Now(self.log.now());
            }
            match self.log.next(self.after, left).await {
                Next::Nothing => {}
                Next::File(txid, file) if file.len() <= LARGEST => {
                    self.after = txid;
                    return Frame::File(file);
                }
                Next::File(..) => return self.end(&Refused::NotKept),
                Next::Refused(refused) => return self.end(&refused),
            }
        }
    }

    fn end(&mut self, refused: &Refused) -> Frame {
        self.has_ended = true;
        Frame::End(refused.text())
    }
}
