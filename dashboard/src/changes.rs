//! Server-sent events: changed rows of one database.
//!
//! A change has no `id`: only the `position` behind the last one of a transaction has, so that a browser that comes back
//! (`Last-Event-ID`) begins after the last transaction that it has whole.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use futures::stream::BoxStream;
use futures::{StreamExt as _, stream};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::timeout;

use crate::{App, Asked, Refused, Told, guard};

/// What waits for somebody who does not read; the network's own buffers come on top.
const WAITING: usize = 64;
/// Whoever takes nothing for so long is cut off.
const PATIENCE: Duration = Duration::from_secs(30);
/// What can be asked for.
const PARAMETERS: [&str; 3] = ["from", "tables", "token"];
/// Proxies close connections on which nothing comes.
const HEARTBEAT: Duration = Duration::from_secs(15);

pub(crate) async fn stream(
    State(app): State<Arc<App>>,
    Path(database): Path<String>,
    request: Request,
) -> Response {
    let Ok(place) = app.followers.clone().try_acquire_owned() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "too many follow changes already\n").into_response();
    };
    if let Some(name) = guard::parameter_names(request.uri()).find(|name| !PARAMETERS.contains(name)) {
        let why = format!("there is no parameter `{name}`: `from` and `tables` are\n");
        return (StatusCode::BAD_REQUEST, why).into_response();
    }
    let asked = asked(database, &request);
    // Whoever follows has nothing more to say, and a body cannot be shared.
    drop(request);
    let told = match app.source.changes(asked).await {
        Ok(told) => told,
        Err(Refused::Unknown(why)) => return (StatusCode::NOT_FOUND, why).into_response(),
        Err(Refused::Invalid(why)) => return (StatusCode::BAD_REQUEST, why).into_response(),
        Err(Refused::Gone(why)) => return (StatusCode::GONE, why).into_response(),
        Err(Refused::Unavailable(why)) => return (StatusCode::SERVICE_UNAVAILABLE, why).into_response(),
        Err(Refused::Failed(why)) => return (StatusCode::BAD_GATEWAY, why).into_response(),
    };
    let (send, receive) = mpsc::channel(WAITING);
    tokio::spawn(pass_on(told, send, place));
    let events = stream::unfold(receive, async |mut receive| Some((receive.recv().await?, receive)));
    let events = events.map(|told| Ok::<_, Infallible>(event(told)));
    let events = Sse::new(events).keep_alive(KeepAlive::new().interval(HEARTBEAT));
    ([("x-accel-buffering", "no")], events).into_response()
}

fn asked(database: String, request: &Request) -> Asked {
    let parameter = |name| guard::parameter(request.uri(), name).filter(|value| !value.is_empty());
    let last = request.headers().get("last-event-id").and_then(|id| id.to_str().ok()).map(str::to_owned);
    let tables = parameter("tables").unwrap_or_default();
    let tables = tables.split(',').map(str::trim).filter(|table| !table.is_empty());
    // What a browser has seen is newer than the address that it was opened with.
    let after = last.filter(|id| !id.is_empty()).or_else(|| parameter("from"));
    Asked { database, after, tables: tables.map(str::to_owned).collect() }
}

/// Ends when there is nothing more, nobody is there any more, or nobody takes anything.
async fn pass_on(mut told: BoxStream<'static, Told>, send: mpsc::Sender<Told>, _place: OwnedSemaphorePermit) {
    loop {
        let next = tokio::select! {
            next = told.next() => next,
            () = send.closed() => return,
        };
        let Some(next) = next else { return };
        if !matches!(timeout(PATIENCE, send.send(next)).await, Ok(Ok(()))) {
            return;
        }
    }
}

fn event(told: Told) -> Event {
    match told {
        Told::Change(json) => Event::default().data(json),
        Told::Position(txid) => {
            let data = format!("{{\"txid\":\"{txid}\"}}");
            Event::default().event("position").id(txid).data(data)
        }
    }
}
