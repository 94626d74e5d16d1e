//! `GET /.litekeep/wait`: an application asks when a commit is safe.
//!
//! Promises:
//! - Only who is on this machine is answered; from anywhere else, also through another proxy here, the path is the application's like any other.
//! - No more wait at the same time than [`PLACES`].

use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, FORWARDED, HeaderValue, VIA};
use hyper::{Method, Request, Response, StatusCode};
use tokio::sync::Semaphore;

use crate::body::{Answer, text};
use crate::forward::{reply, unavailable};

/// Where it is asked.
pub const WAIT: &str = "/.litekeep/wait";

/// Those who wait at the same time.
const PLACES: usize = 64;
/// A proxy puts it in that is not litekeep's.
const FORWARDED_FOR: &str = "x-forwarded-for";

/// Knows when transactions are safe.
#[async_trait]
pub trait Safety: Send + Sync {
    /// Waits as a query wants it, for a bounded time: a status, and an answer in JSON.
    async fn wait(&self, query: &str) -> (StatusCode, String);
}

pub(crate) struct Waits {
    safety: Option<Arc<dyn Safety>>,
    places: Semaphore,
}

impl Waits {
    pub(crate) fn new(safety: Option<Arc<dyn Safety>>) -> Waits {
        Waits { safety, places: Semaphore::new(PLACES) }
    }

    /// `None`: it is for the application.
    pub(crate) async fn answer(
        &self,
        request: &Request<Incoming>,
        client: SocketAddr,
    ) -> Option<Response<Answer>> {
        let safety = self.safety.as_ref().filter(|_| request.uri().path() == WAIT)?;
        let came_by_another = [FORWARDED.as_str(), VIA.as_str(), FORWARDED_FOR]
            .iter()
            .any(|name| request.headers().contains_key(*name));
        if !client.ip().to_canonical().is_loopback() || came_by_another {
            return None;
        }
        if request.method() != Method::GET {
            let mut answer = reply(StatusCode::METHOD_NOT_ALLOWED, "it is asked by GET");
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
            return Some(answer);
        }
        let Ok(_place) = self.places.try_acquire() else {
            return Some(unavailable("too many wait already"));
        };
        let (status, json) = safety.wait(request.uri().query().unwrap_or_default()).await;
        let mut answer = Response::new(text(json));
        *answer.status_mut() = status;
        answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        Some(answer)
    }
}
