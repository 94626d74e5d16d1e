//! A shop: POST /orders, GET /orders, GET /health.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::FromRawFd as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::serve::Listener;
use axum::{Json, Router};
use rusqlite::{Connection, TransactionBehavior};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

type Error = Box<dyn std::error::Error + Send + Sync>;
/// One connection, and everybody who needs it in turn: there is one writer anyway.
type Database = Arc<Mutex<Connection>>;

fn database() -> Result<Connection, Error> {
    let db = Connection::open("app.db")?;
    db.busy_timeout(Duration::from_secs(5))?;
    db.execute_batch("PRAGMA synchronous=NORMAL; PRAGMA foreign_keys=ON; PRAGMA cache_size=-64000")?;
    Ok(db)
}

/// The socket that litekeep holds, or a port.
fn listen() -> Result<TcpListener, Error> {
    if std::env::var("LISTEN_FDS").as_deref() == Ok("1") {
        // SAFETY: litekeep hands the socket over as descriptor 3, and nothing else in this program has it.
        return Ok(unsafe { TcpListener::from_raw_fd(3) });
    }
    let port = std::env::var("PORT").unwrap_or_else(|_| "8080".into());
    Ok(TcpListener::bind(("127.0.0.1", port.parse()?))?)
}

/// A door that can be closed without disturbing who is inside: hyper drops connections whose request it has not read yet
/// when it is told to shut down, so the last ones that came in get a moment first.
struct Door {
    listener: tokio::net::TcpListener,
    is_closed: watch::Receiver<bool>,
}

impl Listener for Door {
    type Io = TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        tokio::select! {
            () = closed(&mut self.is_closed) => std::future::pending().await,
            visitor = Listener::accept(&mut self.listener) => visitor,
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

async fn closed(is_closed: &mut watch::Receiver<bool>) {
    _ = is_closed.wait_for(|is_closed| *is_closed).await;
}

/// Runs a piece of work on the database, off the threads that serve.
async fn with(
    db: Database,
    status: StatusCode,
    work: impl FnOnce(&mut Connection) -> rusqlite::Result<Value> + Send + 'static,
) -> (StatusCode, Json<Value>) {
    let done = tokio::task::spawn_blocking(move || work(&mut db.lock().expect("no panic while held"))).await;
    match done {
        Ok(Ok(value)) => (status, Json(value)),
        Ok(Err(error)) => (StatusCode::INTERNAL_SERVER_ERROR, Json(json!({ "error": error.to_string() }))),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, Json(json!({ "error": error.to_string() }))),
    }
}

fn count(db: &Connection) -> rusqlite::Result<i64> {
    db.query_row("SELECT count(*) FROM orders", (), |row| row.get(0))
}

async fn health(State(db): State<Database>) -> (StatusCode, Json<Value>) {
    let instance = std::env::var("LITEKEEP_INSTANCE").unwrap_or_default();
    with(db, StatusCode::OK, move |db| count(db).map(|_| json!({ "instance": instance }))).await
}

async fn orders(State(db): State<Database>) -> (StatusCode, Json<Value>) {
    with(db, StatusCode::OK, |db| Ok(json!({ "orders": count(db)? }))).await
}

async fn order(State(db): State<Database>, what: String) -> (StatusCode, Json<Value>) {
    with(db, StatusCode::CREATED, move |db| {
        // The write lock at the start, where `busy_timeout` can wait for it.
        let order = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        order.execute("INSERT INTO orders(what) VALUES (?)", [what])?;
        let id = order.last_insert_rowid();
        order.commit()?;
        Ok(json!({ "id": id }))
    })
    .await
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let db = database()?;
    if std::env::args().nth(1).as_deref() == Some("optimize") {
        return Ok(db.execute_batch("PRAGMA optimize")?);
    }
    let db = Arc::new(Mutex::new(db));
    let shop = Router::new().route("/health", get(health)).route("/orders", get(orders).post(order));
    let listener = listen()?;
    listener.set_nonblocking(true)?;
    let (close, is_closed) = watch::channel(false);
    let door = Door { listener: tokio::net::TcpListener::from_std(listener)?, is_closed };
    let mut told_to_end = signal(SignalKind::terminate())?;
    println!("the shop is open");
    let end = async move {
        told_to_end.recv().await;
        close.send_replace(true);
        tokio::time::sleep(Duration::from_millis(500)).await;
    };
    // What has been accepted is answered, then this returns.
    axum::serve(door, shop.with_state(db.clone())).with_graceful_shutdown(end).await?;
    if let Some(db) = Arc::into_inner(db).and_then(|db| db.into_inner().ok()) {
        db.close().map_err(|(_, error)| error)?;
    }
    println!("the shop is closed");
    Ok(())
}
