//! One request to a node of a cluster.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, combinators::UnsyncBoxBody};
use hyper::body::{Body as _, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Request, Response, StatusCode, Version};
use tokio::time::Instant;

use super::{HEADER, Node, Positions, Settings, Withheld, Writer};
use crate::body::{Answer, text};
use crate::forward::{Outgoing, PAUSE, Unsent, answered, reply, send, unavailable};
use crate::headers;
use crate::instances::{Busy, Instances};
use crate::waits::Waits;

/// Says that a node has sent a request on, so that no two of them send one to and fro.
const SENT_ON: HeaderName = HeaderName::from_static("litekeep-sent-on");
/// Says in an answer that the request has been seen by nobody but a node that is not primary.
const NOT_PRIMARY: HeaderName = HeaderName::from_static("litekeep-not-primary");

/// How long an answer of a former primary is waited for.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// A body of this many bytes at most is kept, to be sent again to who is primary next.
const KEPT_BYTES: u64 = 64 << 10;

pub(super) struct Proxy {
    here: Arc<Instances>,
    /// The proxy of the primary that was known last.
    there: Mutex<Option<(String, Arc<Instances>)>>,
    node: Arc<dyn Node>,
    waits: Waits,
    settings: Settings,
}

/// A body on its way to whoever takes it.
enum Body {
    Kept(Bytes),
    /// `None`: it has been sent to somebody.
    Once(Option<UnsyncBoxBody<Bytes, hyper::Error>>),
}

/// Who answers.
enum Place {
    /// This node, as primary in this time, or as a copy.
    Here(Option<u64>),
    There(String),
}

impl Proxy {
    pub(super) fn new(here: Arc<Instances>, node: Arc<dyn Node>, waits: Waits, settings: Settings) -> Proxy {
        Proxy { here, there: Mutex::default(), node, waits, settings }
    }

    pub(super) async fn answer(
        &self,
        mut request: Request<Incoming>,
        client: SocketAddr,
    ) -> Response<Answer> {
        if request.uri().path() == self.settings.health {
            return self.health();
        }
        if let Some(answer) = self.waits.answer(&request, client).await {
            return answer;
        }
        let upgrade = headers::upgrade(request.headers()).map(|_| hyper::upgrade::on(&mut request));
        let (mut parts, body) = request.into_parts();
        let may_write = self.settings.may_write(&parts);
        let was_sent_on = parts.headers.remove(SENT_ON).is_some();
        let seen = Positions::seen(&parts.headers);
        headers::strip(&mut parts.headers);
        headers::forwarded(&mut parts.headers, client);
        parts.version = Version::HTTP_11;
        let deadline = Instant::now() + self.settings.patience;
        let mut body = match kept(body).await {
            Ok(body) => body,
            Err(e) => {
                return reply(StatusCode::BAD_REQUEST, &format!("the body of the request ended early: {e}"));
            }
        };
        loop {
            let Ok(place) = tokio::time::timeout_at(deadline, self.place(may_write, &seen)).await else {
                return unavailable("no node is primary now");
            };
            let (term, there) = match place {
                Place::Here(term) => (term, None),
                Place::There(_) if was_sent_on => return not_primary(),
                Place::There(authority) => (None, Some(authority)),
            };
            let Some(outgoing) = outgoing(&parts, &mut body, there.is_some()) else {
                return unavailable("the primary has changed while the request was sent");
            };
            let sent = match &there {
                None => self.send_here(outgoing, deadline).await,
                Some(authority) => tokio::select! {
                    sent = self.send_there(authority, outgoing) => sent,
                    () = self.left(authority) => {
                        return unavailable("the primary has changed before it answered; whether this was done is not known");
                    }
                },
            };
            match sent {
                Ok((answer, _)) if there.is_some() && answer.headers().contains_key(NOT_PRIMARY) => {}
                Ok((mut answer, busy)) => {
                    if there.is_none()
                        && let Err(refused) = self.release(&mut answer, term, may_write, &seen).await
                    {
                        return refused;
                    }
                    return answered(answer, busy, upgrade);
                }
                Err(Unsent::Again(request)) => {
                    // Nobody has seen it, nor its body.
                    body.take_back(*request);
                    if let Some(authority) = &there {
                        self.forget(authority);
                    }
                }
                Err(Unsent::Lost(error)) => {
                    tracing::warn!("a request got no answer: {error}");
                    return reply(StatusCode::BAD_GATEWAY, "the connection ended before there was an answer");
                }
            }
            if Instant::now() + PAUSE >= deadline {
                return unavailable("neither the application nor the primary has accepted it in time");
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Who is to answer; waits until somebody may.
    async fn place(&self, may_write: bool, seen: &Positions) -> Place {
        if !may_write && !matches!(self.node.writer(), Writer::Here(_)) {
            let has = tokio::time::timeout(self.settings.read_patience, self.node.has(seen)).await;
            if has.is_ok() {
                return Place::Here(None);
            }
        }
        loop {
            match self.node.writer() {
                Writer::Here(term) => return Place::Here(Some(term)),
                Writer::At(authority) => return Place::There(authority),
                Writer::Nobody => self.node.writer_changed(&Writer::Nobody).await,
            }
        }
    }

    async fn send_here(
        &self,
        outgoing: Outgoing,
        deadline: Instant,
    ) -> Result<(Response<Incoming>, Busy), Unsent> {
        match tokio::time::timeout_at(deadline, self.here.choose()).await {
            Ok(busy) => send(&busy, outgoing).await.map(|answer| (answer, busy)),
            Err(_) => Err(Unsent::Again(Box::new(outgoing))),
        }
    }

    async fn send_there(
        &self,
        authority: &str,
        outgoing: Outgoing,
    ) -> Result<(Response<Incoming>, Busy), Unsent> {
        let Some(instances) = self.proxy_at(authority).await else {
            return Err(Unsent::Again(Box::new(outgoing)));
        };
        let busy = instances.choose().await;
        send(&busy, outgoing).await.map(|answer| (answer, busy))
    }

    /// Returns when a node is the primary no more, and has had the time to answer what it has done: one that sleeps never answers.
    async fn left(&self, authority: &str) {
        self.node.writer_changed(&Writer::At(authority.to_owned())).await;
        tokio::time::sleep(LAST_WORDS).await;
    }

    async fn proxy_at(&self, authority: &str) -> Option<Arc<Instances>> {
        let known = self.there.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((_, instances)) = known.filter(|(known, _)| known == authority) {
            return Some(instances);
        }
        let found = tokio::net::lookup_host(authority).await;
        let found = found.inspect_err(|e| tracing::warn!("look up the primary at {authority}: {e}"));
        let address = found.ok()?.next()?;
        let instances = Arc::new(Instances::default());
        instances.add(address);
        let known = (authority.to_owned(), instances.clone());
        *self.there.lock().unwrap_or_else(PoisonError::into_inner) = Some(known);
        Some(instances)
    }

    /// Its name may lead to another address next time.
    fn forget(&self, authority: &str) {
        let mut there = self.there.lock().unwrap_or_else(PoisonError::into_inner);
        if there.as_ref().is_some_and(|(known, _)| known == authority) {
            *there = None;
        }
    }

    /// Waits until an answer of this node may be given, and tells the client where it is then.
    async fn release(
        &self,
        answer: &mut Response<Incoming>,
        term: Option<u64>,
        may_write: bool,
        seen: &Positions,
    ) -> Result<(), Response<Answer>> {
        let refused = |why: String| {
            let what = if may_write { "; whether it was done is not known" } else { "" };
            unavailable(&format!("this node may not answer: {why}{what}"))
        };
        let at = self.node.positions().await.map_err(refused)?;
        if let Some(term) = term.filter(|_| may_write || self.settings.reads_wait) {
            let acknowledged = self.node.acknowledge(term, &at, may_write).await;
            acknowledged.map_err(|withheld| match withheld {
                Withheld::Lost(why) => refused(why),
                // To be asked again it is not: it would be done twice.
                Withheld::Late(why) => {
                    let mut answer =
                        reply(StatusCode::GATEWAY_TIMEOUT, &format!("this request was done, but {why}"));
                    at.tell(answer.headers_mut());
                    answer
                }
            })?;
        }
        answer.headers_mut().remove(HEADER);
        if at != *seen {
            at.tell(answer.headers_mut());
        }
        Ok(())
    }

    fn health(&self) -> Response<Answer> {
        let lag = self.node.lag();
        let role = match self.node.writer() {
            Writer::Here(_) => "primary",
            _ => "replica",
        };
        let is_healthy = lag.is_some_and(|lag| lag <= self.settings.max_lag);
        let lag_ms = lag.map_or("null".to_owned(), |lag| lag.as_millis().to_string());
        let mut answer = Response::new(text(format!("{{\"role\":\"{role}\",\"lag_ms\":{lag_ms}}}\n")));
        if !is_healthy {
            *answer.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        }
        answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        answer
    }
}

impl Body {
    /// A body that came back unsent; one that is kept is there still.
    fn take_back(&mut self, request: Outgoing) {
        if let Body::Once(body) = self {
            *body = Some(request.into_body());
        }
    }
}

/// A short body is kept.
async fn kept(body: Incoming) -> Result<Body, hyper::Error> {
    let most = body.size_hint().upper().filter(|bytes| *bytes <= KEPT_BYTES);
    match most {
        Some(_) => Ok(Body::Kept(body.collect().await?.to_bytes())),
        None => Ok(Body::Once(Some(body.boxed_unsync()))),
    }
}

/// The request once more; `None`: its body has been sent to somebody.
fn outgoing(parts: &Parts, body: &mut Body, is_sent_on: bool) -> Option<Outgoing> {
    let body = match body {
        Body::Kept(bytes) => Full::new(bytes.clone()).map_err(|never| match never {}).boxed_unsync(),
        Body::Once(body) => body.take()?,
    };
    let mut request = Request::from_parts(parts.clone(), body);
    if is_sent_on {
        request.headers_mut().insert(SENT_ON, HeaderValue::from_static("1"));
    }
    Some(request)
}

fn not_primary() -> Response<Answer> {
    let mut answer = unavailable("this node is not primary");
    answer.headers_mut().insert(NOT_PRIMARY, HeaderValue::from_static("1"));
    answer
}
