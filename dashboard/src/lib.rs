//! The status page: one page and its JSON over HTTP, live while somebody looks.
//!
//! Promises:
//! - Where there is a token, nobody sees anything without it. Without one, only requests to this machine by its own name are
//!   answered: a foreign page whose name was made to point here ([DNS rebinding]) is not.
//! - It reads. A request that changes something exists only with `actions`, and needs the token and the page's own origin.
//! - Rows of a cache are given to programs, and to no page of a foreign site, which could otherwise have them fetched.
//! - While nobody looks it costs nothing, and however many look, the source is asked once a second.
//! - Whoever follows changes and does not take them is cut off; nothing piles up for them.
//!
//! [DNS rebinding]: https://en.wikipedia.org/wiki/DNS_rebinding

mod changes;
mod got;
mod guard;
mod live;
mod page;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::middleware;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use tokio::sync::{Mutex, Semaphore};
use tokio::time::Instant;

use guard::Guard;

/// How often the source is asked while somebody looks.
const EVERY: Duration = Duration::from_secs(1);
/// Live connections at the same time.
const LOOKERS: usize = 64;
/// Those that follow changed rows: each holds the map of its database's pages.
const FOLLOWERS: usize = 16;
/// Those that ask for a row.
const GETTERS: usize = 1_024;

/// Where everything comes from.
pub trait Source: Send + Sync + 'static {
    /// How everything is now. Must not wait for long: what is not known yet is left out.
    fn shown(&self) -> BoxFuture<'_, Shown>;
    /// What can be restored, as JSON.
    fn history(&self) -> BoxFuture<'_, String>;
    /// What happened lately, and then what happens.
    fn news(&self) -> BoxStream<'static, News>;
    /// Changed rows of a database, as they come.
    fn changes(&self, asked: Asked) -> BoxFuture<'_, Result<BoxStream<'static, Told>, Refused>>;
    /// A row of a cache.
    fn get(&self, wanted: Wanted) -> BoxFuture<'_, Result<Got, Refused>>;
    /// Does what somebody asked for, and says what should be known of it; or says why not.
    fn act(&self, act: Act) -> BoxFuture<'_, Result<String, NotDone>>;
}

/// How everything is.
#[derive(Clone, Debug, Default)]
pub struct Shown {
    /// Whether the sentence is good news.
    pub safe: bool,
    /// What the page begins with.
    pub sentence: String,
    /// What is wrong, the backup's troubles first.
    pub problems: Vec<String>,
    /// All of it, these three as well, as a JSON object.
    pub json: String,
}

/// Something new.
#[derive(Clone, Debug)]
pub enum News {
    /// Something happened: a JSON object.
    Event(String),
    /// A process printed a line: a JSON object.
    Line(String),
}

/// Which changes somebody wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The database's path, or the end of it.
    pub database: String,
    /// The position to go on after; `None`: now.
    pub after: Option<String>,
    /// Only of these tables; empty: of all.
    pub tables: Vec<String>,
}

/// Which row somebody wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The database's path, or the end of it.
    pub database: String,
    /// The table.
    pub table: String,
    /// The key, as people write it.
    pub key: String,
}

/// A row, or that there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Got {
    /// A JSON object.
    pub row: Option<String>,
    /// Where it is from: a word.
    pub cache: String,
    /// How long ago that was known.
    pub age: Duration,
    /// Why it is not newer, or not kept.
    pub trouble: Option<String>,
}

/// What is told of changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// A change: a JSON object.
    Change(String),
    /// Everything up to this position was told.
    Position(String),
}

/// Why changes or a row are not told, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// There is no such database, or it is not clear which.
    Unknown(String),
    /// What was asked for is nothing that there can be.
    Invalid(String),
    /// The position is not in the log any more: going on from it would leave something out.
    Gone(String),
    /// Not now.
    Unavailable(String),
    /// Who would know refuses.
    Failed(String),
}

/// What the page can ask for with `actions`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Start a process again.
    Restart(String),
    /// Take the configuration as it is now.
    Reload,
    /// Let another node of the cluster lead.
    HandOff(String),
    /// Let this node lead; `yes`: although something may be missing then.
    Promote {
        /// Somebody knows what.
        yes: bool,
    },
}

/// Why something was not done, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotDone {
    /// It cannot be.
    Failed(String),
    /// Not unless somebody wants it although he knows this.
    Unasked(String),
}

/// Who may look, and do what.
#[derive(Clone, Default)]
pub struct Access {
    /// What whoever looks must show.
    pub token: Option<String>,
    /// The address is one of this machine only.
    pub is_local: bool,
    /// Processes can be restarted from the page, and another node made the primary.
    pub actions: bool,
}

/// The routes.
pub fn router(access: Access, source: Arc<dyn Source>) -> Router {
    // Without a token anybody could.
    let actions = access.actions && access.token.is_some();
    let app = Arc::new(App {
        guard: Guard::new(access.token.as_deref(), access.is_local),
        actions,
        source,
        kept: Mutex::new(None),
        lookers: Arc::new(Semaphore::new(LOOKERS)),
        followers: Arc::new(Semaphore::new(FOLLOWERS)),
        getters: Arc::new(Semaphore::new(GETTERS)),
    });
    let mut router = Router::new()
        .route("/", get(page::index))
        .route(page::STYLE, get(page::style))
        .route(page::ICON, get(page::icon))
        .route("/app.js", get(page::script))
        .route("/api/status", get(status))
        .route("/api/history", get(history))
        .route("/api/live", get(live::stream))
        .route("/changes/{*database}", get(changes::stream))
        .route("/get/{*row}", get(got::row));
    if actions {
        router = router
            .route("/api/restart", post(restart))
            .route("/api/reload", post(reload))
            .route("/api/handoff", post(hand_off))
            .route("/api/promote", post(promote));
    }
    router.layer(middleware::from_fn_with_state(app.clone(), guard::guard)).with_state(app)
}

struct App {
    guard: Guard,
    actions: bool,
    source: Arc<dyn Source>,
    /// What the source said last, for all who look within [`EVERY`].
    kept: Mutex<Option<(Instant, Arc<Shown>)>>,
    lookers: Arc<Semaphore>,
    followers: Arc<Semaphore>,
    getters: Arc<Semaphore>,
}

impl App {
    async fn shown(&self) -> Arc<Shown> {
        let mut kept = self.kept.lock().await;
        // A little less, so that a look each second is not answered by the second before.
        if let Some((at, shown)) = &*kept
            && at.elapsed() < EVERY * 9 / 10
        {
            return shown.clone();
        }
        let shown = Arc::new(self.source.shown().await);
        *kept = Some((Instant::now(), shown.clone()));
        shown
    }
}

fn json(text: String) -> Response {
    ([(CONTENT_TYPE, "application/json")], text).into_response()
}

async fn status(State(app): State<Arc<App>>) -> Response {
    json(app.shown().await.json.clone())
}

async fn history(State(app): State<Arc<App>>) -> Response {
    json(app.source.history().await)
}

async fn restart(State(app): State<Arc<App>>, request: Request) -> Response {
    match guard::parameter(request.uri(), "process") {
        Some(name) => act(&app, Act::Restart(name)).await,
        None => (StatusCode::BAD_REQUEST, "say which: ?process=NAME\n").into_response(),
    }
}

async fn reload(State(app): State<Arc<App>>) -> Response {
    act(&app, Act::Reload).await
}

async fn hand_off(State(app): State<Arc<App>>, request: Request) -> Response {
    match guard::parameter(request.uri(), "to") {
        Some(name) => act(&app, Act::HandOff(name)).await,
        None => (StatusCode::BAD_REQUEST, "say to whom: ?to=NODE\n").into_response(),
    }
}

async fn promote(State(app): State<Arc<App>>, request: Request) -> Response {
    let yes = guard::parameter(request.uri(), "yes").is_some_and(|value| value == "1");
    act(&app, Act::Promote { yes }).await
}

async fn act(app: &App, act: Act) -> Response {
    tracing::info!("asked on the status page: {act:?}");
    match app.source.act(act).await {
        Ok(said) if said.is_empty() => StatusCode::NO_CONTENT.into_response(),
        Ok(said) => said.into_response(),
        Err(NotDone::Failed(why)) => (StatusCode::CONFLICT, why).into_response(),
        Err(NotDone::Unasked(why)) => (StatusCode::PRECONDITION_REQUIRED, why).into_response(),
    }
}
