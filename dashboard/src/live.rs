//! Server-sent events: `status` once a second, `happened` and `line` as they come.

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse as _, Response};
use futures::{StreamExt as _, stream};
use tokio::time::{MissedTickBehavior, interval};

use crate::{App, EVERY, News};

pub(crate) async fn stream(State(app): State<Arc<App>>) -> Response {
    let Ok(place) = app.lookers.clone().try_acquire_owned() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "too many look already\n").into_response();
    };
    let news = app.source.news().map(|news| match news {
        News::Event(json) => Event::default().event("happened").data(json),
        News::Line(json) => Event::default().event("line").data(json),
    });
    let mut ticks = interval(EVERY);
    // Who was asleep wants the present only.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let statuses = stream::unfold((app, ticks), async |(app, mut ticks)| {
        ticks.tick().await;
        let shown = app.shown().await;
        Some((Event::default().event("status").data(&shown.json), (app, ticks)))
    });
    let both = stream::select(statuses.boxed(), news).map(move |event| {
        // Given back when the stream ends.
        let _ = &place;
        Ok::<_, Infallible>(event)
    });
    // A proxy that collects would show everything late.
    ([("x-accel-buffering", "no")], Sse::new(both)).into_response()
}
