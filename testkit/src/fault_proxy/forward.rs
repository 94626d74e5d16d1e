//! The data path of the proxy: one upstream connection for each one downstream, bodies streamed both ways.
//!
//! A reset is a zero linger time on the client's socket followed by its close, so the client sees ECONNRESET and not an
//! orderly end.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::http1::SendRequest;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;

use super::{Count, Fault, Kind, Shared};

type Answer = Response<BoxBody<Bytes, io::Error>>;

pub(super) async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        // Only running out of descriptors fails here; the next connection may find one.
        let Ok((socket, _)) = listener.accept().await else {
            tokio::task::yield_now().await;
            continue;
        };
        let _ = socket.set_nodelay(true);
        tokio::spawn(connection(socket, shared.clone()));
    }
}

async fn connection(socket: TcpStream, shared: Arc<Shared>) {
    let upstream = Mutex::new(None);
    let service = service_fn(|request| answer(&shared, &upstream, request));
    let mut connection =
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), service);
    if (&mut connection).await.is_err() {
        // A fault, or a client that broke off and sees nothing of this.
        let _ = connection.into_parts().io.into_inner().set_zero_linger();
    }
}

/// What stands for "reset the connection": hyper drops a connection whose service fails.
fn reset() -> io::Error {
    io::Error::from(io::ErrorKind::ConnectionReset)
}

async fn answer(
    shared: &Arc<Shared>,
    upstream: &Mutex<Option<SendRequest<Metered>>>,
    request: Request<Incoming>,
) -> io::Result<Answer> {
    let kind = Kind::of(request.method(), request.uri());
    let path = request.uri().path_and_query().map_or("", |path| path.as_str());
    // Taken before the fault is decided, so that a `clear` in between is not missed.
    let mut cleared = shared.cleared.subscribe();
    let (number, delay, fault) = shared.arrive(kind, path, request.headers());
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
    match fault {
        Some(Fault::Status(status)) => refuse(request, status).await,
        Some(Fault::Reset) => Err(reset()),
        Some(Fault::Hang) => {
            let _ = cleared.changed().await;
            Err(reset())
        }
        Some(Fault::CutUpload(limit)) => {
            // The store may answer early, or see the upload break off: for the client both are a reset.
            let _ = forward(shared, upstream, request, kind, Some(limit)).await;
            Err(reset())
        }
        Some(Fault::LoseReply) => {
            let reply = forward(shared, upstream, request, kind, None).await?;
            // An S3 server may answer first and act while it sends the body: only a body at its end proves the act.
            reply.into_body().collect().await.map_err(io::Error::other)?;
            Err(reset())
        }
        Some(Fault::CutReply(limit)) => {
            let reply = forward(shared, upstream, request, kind, None).await?;
            Ok(reply.map(|body| Metered::new(body, shared, kind, bytes_out, Some(limit)).boxed()))
        }
        None => {
            let reply = forward(shared, upstream, request, kind, None).await?;
            if reply.status().as_u16() < 400 {
                shared.succeed(kind, number);
            }
            Ok(reply.map(|body| Metered::new(body, shared, kind, bytes_out, None).boxed()))
        }
    }
}

/// Passes a request on and returns the head of the answer, the body to come.
async fn forward(
    shared: &Arc<Shared>,
    upstream: &Mutex<Option<SendRequest<Metered>>>,
    request: Request<Incoming>,
    kind: Kind,
    limit: Option<u64>,
) -> io::Result<Response<Incoming>> {
    // Held for the whole exchange, which costs nothing: HTTP/1.1 has one at a time.
    let mut sender = upstream.lock().await;
    let usable = match sender.as_mut() {
        Some(open) => open.ready().await.is_ok(),
        None => false,
    };
    if !usable {
        *sender = Some(connect(shared).await?);
    }
    let request = request.map(|body| Metered::new(body, shared, kind, bytes_in, limit));
    match sender.as_mut() {
        Some(open) => open.send_request(request).await.map_err(io::Error::other),
        None => Err(reset()),
    }
}

async fn connect(shared: &Shared) -> io::Result<SendRequest<Metered>> {
    let socket = TcpStream::connect(shared.upstream).await?;
    socket.set_nodelay(true)?;
    let (sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(socket)).await.map_err(io::Error::other)?;
    // Ends when the sender is dropped; its errors come out of `send_request` too.
    tokio::spawn(connection);
    Ok(sender)
}

/// Answers as S3 does when it will not act now; the request is read to its end, so that the client reads the answer.
async fn refuse(mut request: Request<Incoming>, status: u16) -> io::Result<Answer> {
    while let Some(frame) = request.frame().await {
        frame.map_err(io::Error::other)?;
    }
    let code = if status == 503 { "SlowDown" } else { "InjectedFault" };
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>{code}</Code><Message>injected</Message></Error>"
    );
    let mut answer = Response::new(Full::from(body).map_err(|never| match never {}).boxed());
    *answer.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    answer.headers_mut().insert("content-type", hyper::header::HeaderValue::from_static("application/xml"));
    Ok(answer)
}

fn bytes_in(count: &mut Count, bytes: u64) {
    count.bytes_in += bytes;
}

fn bytes_out(count: &mut Count, bytes: u64) {
    count.bytes_out += bytes;
}

/// A body that counts what passes, and fails once `left` bytes have.
pub(super) struct Metered {
    body: Incoming,
    shared: Arc<Shared>,
    kind: Kind,
    add: fn(&mut Count, u64),
    left: Option<u64>,
}

impl Metered {
    fn new(
        body: Incoming,
        shared: &Arc<Shared>,
        kind: Kind,
        add: fn(&mut Count, u64),
        left: Option<u64>,
    ) -> Self {
        Self { body, shared: shared.clone(), kind, add, left }
    }
}

impl Body for Metered {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.left == Some(0) {
            return Poll::Ready(Some(Err(reset())));
        }
        let frame = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
            None => return Poll::Ready(None),
            Some(Err(error)) => return Poll::Ready(Some(Err(io::Error::other(error)))),
            Some(Ok(frame)) => frame,
        };
        let Ok(mut data) = frame.into_data() else {
            // Trailers do not occur: S3 clients put their checksums inside the chunked encoding of the body.
            return Poll::Ready(None);
        };
        if let Some(left) = &mut self.left {
            data.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= data.len() as u64;
        }
        let bytes = data.len() as u64;
        self.shared.count(self.kind, |count| (self.add)(count, bytes));
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
