//! One request on its way to an instance, and the answer on its way back.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Request, Response, StatusCode, Version};
use hyper_util::rt::TokioIo;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::Settings;
use crate::body::{Answer, Held, text};
use crate::headers;
use crate::instances::{Busy, Instances, Sender};

/// How long an instance may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// How long the machine of an instance may be silent; the application may take as long as it likes.
const SILENCE: Duration = Duration::from_secs(5);
/// Before an instance that did not accept a connection is tried again.
pub(crate) const PAUSE: Duration = Duration::from_millis(20);

pub(crate) type Outgoing = Request<UnsyncBoxBody<Bytes, hyper::Error>>;

/// Answers a request by an instance.
pub(crate) async fn answer(
    mut request: Request<Incoming>,
    client: SocketAddr,
    instances: &Instances,
    settings: Settings,
) -> Response<Answer> {
    let upgrade = headers::upgrade(request.headers()).map(|_| hyper::upgrade::on(&mut request));
    headers::strip(request.headers_mut());
    headers::forwarded(request.headers_mut(), client);
    let mut outgoing = request.map(|body| body.boxed_unsync());
    *outgoing.version_mut() = Version::HTTP_11;
    let deadline = Instant::now() + settings.patience;
    loop {
        let Ok(busy) = tokio::time::timeout_at(deadline, instances.choose()).await else {
            return unavailable("no instance of the application is ready");
        };
        match send(&busy, outgoing).await {
            Ok(answer) => return answered(answer, busy, upgrade),
            Err(Unsent::Again(request)) if Instant::now() + PAUSE < deadline => {
                outgoing = *request;
                drop(busy);
                tokio::time::sleep(PAUSE).await;
            }
            Err(Unsent::Again(_)) => return unavailable("the application does not accept connections"),
            Err(Unsent::Lost(error)) => {
                tracing::warn!(instance = %busy.instance().address(), "a request got no answer: {error}");
                return reply(
                    StatusCode::BAD_GATEWAY,
                    "the application ended the connection before it answered",
                );
            }
        }
    }
}

/// Why there is no answer.
pub(crate) enum Unsent {
    /// The instance has seen nothing of the request.
    Again(Box<Outgoing>),
    /// It may have.
    Lost(hyper::Error),
}

pub(crate) async fn send(busy: &Busy, mut request: Outgoing) -> Result<Response<Incoming>, Unsent> {
    // A connection that waited may be closed in this moment; then the request comes back unsent.
    while let Some(mut sender) = busy.instance().take_idle() {
        match sender.try_send_request(request).await {
            Ok(answer) => {
                keep(busy, sender);
                return Ok(answer);
            }
            Err(mut error) => match error.take_message() {
                Some(unsent) => request = unsent,
                None => return Err(Unsent::Lost(error.into_error())),
            },
        }
    }
    let Some(mut sender) = connect(busy).await else { return Err(Unsent::Again(Box::new(request))) };
    match sender.try_send_request(request).await {
        Ok(answer) => {
            keep(busy, sender);
            Ok(answer)
        }
        Err(mut error) => match error.take_message() {
            Some(unsent) => Err(Unsent::Again(Box::new(unsent))),
            None => Err(Unsent::Lost(error.into_error())),
        },
    }
}

async fn connect(busy: &Busy) -> Option<Sender> {
    let address = busy.instance().address();
    let stream = tokio::time::timeout(CONNECT, TcpStream::connect(address)).await.ok()?.ok()?;
    _ = stream.set_nodelay(true);
    notice_silence(&stream);
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(instance = %address, "connection ended: {error}");
        }
    });
    Some(sender)
}

/// A connection ends when nothing on the way answers any more: what waits for another node would wait for ever behind a network that is cut.
fn notice_silence(stream: &TcpStream) {
    let socket = SockRef::from(stream);
    let alive = TcpKeepalive::new().with_time(SILENCE / 2).with_interval(SILENCE / 5).with_retries(3);
    _ = socket.set_tcp_keepalive(&alive);
    #[cfg(target_os = "linux")]
    {
        _ = socket.set_tcp_user_timeout(Some(SILENCE));
    }
}

/// Keeps the connection for the next request, once this one's answer has been read.
fn keep(busy: &Busy, mut sender: Sender) {
    let instance = busy.instance().clone();
    tokio::spawn(async move {
        if sender.ready().await.is_ok() {
            instance.keep(sender);
        }
    });
}

pub(crate) fn answered(
    mut answer: Response<Incoming>,
    busy: Busy,
    upgrade: Option<hyper::upgrade::OnUpgrade>,
) -> Response<Answer> {
    if let (StatusCode::SWITCHING_PROTOCOLS, Some(client)) = (answer.status(), upgrade) {
        let instance = hyper::upgrade::on(&mut answer);
        headers::strip(answer.headers_mut());
        let head = answer.map(|_| text(String::new()));
        tokio::spawn(async move {
            let _busy = busy;
            if let (Ok(client), Ok(instance)) = (client.await, instance.await) {
                let (mut client, mut instance) = (TokioIo::new(client), TokioIo::new(instance));
                _ = tokio::io::copy_bidirectional(&mut client, &mut instance).await;
            }
        });
        return head;
    }
    headers::strip(answer.headers_mut());
    answer.map(|body| Held { body, _busy: busy }.boxed_unsync())
}

pub(crate) fn unavailable(why: &str) -> Response<Answer> {
    let mut answer = reply(StatusCode::SERVICE_UNAVAILABLE, why);
    answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    answer
}

pub(crate) fn reply(status: StatusCode, why: &str) -> Response<Answer> {
    let mut answer = Response::new(text(format!("litekeep: {why}\n")));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    answer
}
