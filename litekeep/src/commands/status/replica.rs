//! The status of a live copy.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use litekeep_config::Destination;
use litekeep_env::file::sibling;
use litekeep_env::{Clock, SystemClock};
use litekeep_replica::{State, Streaming, WAL_LIMIT};
use litekeep_replicate::capture::readers;
use litekeep_store::Store;
use serde::Serialize;

use super::LONGEST_WATCH;
use super::live::wal_in_use;
use crate::report::{self, Format, Outcome, text};
use crate::settings::{Stores, env};

/// Between two looks whether a follower that is behind moves.
const LOOK: Duration = Duration::from_millis(100);

#[derive(Serialize)]
struct Status {
    ok: bool,
    at: String,
    replica: Replica,
}

/// A copy.
#[derive(Serialize)]
pub(super) struct Replica {
    path: PathBuf,
    /// Why it is not well.
    red: Vec<String>,
    url: Option<String>,
    follower_pid: Option<u32>,
    has: Option<Has>,
    /// What a primary tells beside the backup.
    stream: Option<Stream>,
    size_bytes: Option<u64>,
    wal_bytes: Option<u64>,
    /// Who keeps a WAL from being begun anew that is longer than its limit.
    wal_reader_pid: Option<u32>,
    /// Of the backup.
    last_txid: Option<String>,
    behind_transactions: Option<u64>,
    /// Why the backup cannot be asked.
    error: Option<String>,
}

/// The state that it has.
#[derive(Serialize)]
struct Has {
    txid: String,
    time: String,
    applied_at: String,
    lag_ms: i64,
    pages: u32,
    page_size: u32,
}

/// How it goes with a primary.
#[derive(Serialize)]
struct Stream {
    url: String,
    live: bool,
    since: String,
    primary_txid: Option<String>,
    lag_ms: Option<i64>,
    error: Option<String>,
    error_at: Option<String>,
}

impl Stream {
    /// `is_followed`: somebody keeps what is told of it up to date.
    fn of(told: Streaming, is_followed: bool) -> Stream {
        let is_live = told.is_live && is_followed;
        let (error, error_at) = told.error.unzip();
        Stream {
            url: told.url,
            live: is_live,
            since: text::rfc3339(if told.is_live == is_live { told.since_ms } else { told.at_ms }),
            primary_txid: told.primary_txid.filter(|_| is_live),
            lag_ms: told.lag_ms.filter(|_| is_live),
            error,
            error_at: error_at.map(text::rfc3339),
        }
    }

    fn text(&self) -> String {
        let Stream { url, since, .. } = self;
        let mut out = match (self.live, self.lag_ms) {
            (true, Some(lag_ms)) => {
                format!(
                    "    streams from {url} since {since}, the last transaction {lag_ms} ms after its commit\n"
                )
            }
            (true, None) => format!("    streams from {url} since {since}\n"),
            (false, _) => format!("    not streaming from {url} since {since}: it reads the backup\n"),
        };
        if let Some((error, at)) = self.error.as_ref().zip(self.error_at.as_ref()) {
            out.push_str(&format!("    the stream ended last at {at}: {error}\n"));
        }
        out
    }
}

pub(super) async fn run(state: State, format: Format) -> Outcome {
    let replica = of(state, None).await;
    let status = Status { ok: replica.is_ok(), at: text::rfc3339(SystemClock.unix_ms()), replica };
    report::result(format, &status, || status.replica.text());
    if status.ok { Outcome::Done } else { Outcome::No }
}

/// How a copy stands; `by`: what makes it and follows, where that is not `litekeep follow`.
pub(super) async fn of(mut state: State, by: Option<&str>) -> Replica {
    // Before the listing: what comes meanwhile makes nobody late.
    let last = match &state.url {
        Some(url) => last(url).await,
        None => Err("nothing says where the backup is".to_owned()),
    };
    let (last, error) = match last {
        Ok(last) => (last, None),
        Err(error) => (None, Some(error)),
    };
    let mut red = vec![];
    let is_behind = |state: &State| last > state.held.map(|held| held.txid.get());
    let before = state.held;
    let begin = Instant::now();
    while state.follower_pid.is_some() && state.trouble.is_none() && is_behind(&state) && state.held == before
    {
        if begin.elapsed() > LONGEST_WATCH {
            red.push("transactions are waiting and the follower does not move: look at its log".to_owned());
            break;
        }
        tokio::time::sleep(LOOK).await;
        state = State::read(&state.path).unwrap_or(state);
    }
    let (path, held) = (state.path, state.held);
    let exists = path.exists();
    let command = || {
        if let Some(by) = by {
            return by.to_owned();
        }
        let url = state.url.as_deref().map_or("URL".to_owned(), text::shell_word);
        format!("litekeep follow {url} -o {}", text::shell_word(&path.to_string_lossy()))
    };
    if let Some(trouble) = &state.trouble {
        let hint = trouble.hint.as_ref().map_or(String::new(), |hint| format!("; {hint}"));
        red.push(format!("{} at {}: {}{hint}", trouble.phase, text::rfc3339(trouble.at_ms), trouble.message));
    }
    if !exists {
        red.push(format!("the file is gone: `{}` makes it anew", command()));
    } else if held.is_none() {
        red.push(format!("it was never whole: `{}` goes on", command()));
    } else if state.follower_pid.is_none() && state.trouble.is_none() {
        red.push(format!("nobody follows: start `{}`", command()));
    }
    let length = |path: &PathBuf| std::fs::metadata(path).ok().map(|file| file.len());
    let pins = wal_in_use(&path) > WAL_LIMIT;
    let readers = if pins { readers(&path).unwrap_or_default() } else { vec![] };
    Replica {
        size_bytes: length(&path),
        wal_bytes: length(&sibling(&path, "-wal")),
        wal_reader_pid: readers.into_iter().find(|pid| Some(*pid) != state.follower_pid),
        behind_transactions: last.zip(held).map(|(last, held)| last.saturating_sub(held.txid.get())),
        last_txid: last.and_then(litekeep_ltx::Txid::new).map(|txid| txid.to_string()),
        has: held.map(|held| Has {
            txid: held.txid.to_string(),
            time: text::rfc3339(held.time_ms),
            applied_at: text::rfc3339(held.applied_ms),
            lag_ms: held.applied_ms - held.time_ms,
            pages: held.page_count,
            page_size: held.page_size.get(),
        }),
        stream: state.streaming.map(|told| Stream::of(told, state.follower_pid.is_some())),
        path,
        red,
        url: state.url,
        follower_pid: state.follower_pid,
        error,
    }
}

/// The last transaction of the backup.
async fn last(url: &str) -> Result<Option<u64>, String> {
    let destination = Destination::parse(url, &env).map_err(|e| e.to_string())?;
    let store: Store = Stores::default().open(&destination).map_err(|e| format!("{e:#}"))?;
    let log = store.list().await.map_err(|e| e.to_string())?;
    Ok(log.last().map(litekeep_ltx::Txid::get))
}

impl Replica {
    pub(super) fn is_ok(&self) -> bool {
        self.red.is_empty()
    }

    pub(super) fn text(&self) -> String {
        let replica = self;
        let state = if self.is_ok() { "ok " } else { "RED" };
        let of = replica.url.as_ref().map_or(String::new(), |url| format!(", a copy of {url}"));
        let mut out = format!("{state} {}{of}\n", replica.path.display());
        replica.red.iter().for_each(|reason| out.push_str(&format!("    ! {reason}\n")));
        if let Some(has) = &replica.has {
            let behind = match (replica.behind_transactions, &replica.last_txid) {
                (Some(0), _) => "the last one of the backup".to_owned(),
                (Some(n), Some(last)) => {
                    let count = text::count(usize::try_from(n).unwrap_or(usize::MAX), "transaction");
                    format!("{count} before {last}, the last one of the backup")
                }
                _ => "how far the backup is cannot be told".to_owned(),
            };
            let Has { txid, time, lag_ms, .. } = has;
            out.push_str(&format!("    transaction {txid} of {time}, applied {lag_ms} ms later: {behind}\n"));
        }
        replica.stream.iter().for_each(|stream| out.push_str(&stream.text()));
        let size = |bytes: Option<u64>| bytes.map_or("none".to_owned(), text::size);
        let by = replica.follower_pid.map_or(String::new(), |pid| format!(", followed by process {pid}"));
        out.push_str(&format!(
            "    file {}, WAL {}{by}\n",
            size(replica.size_bytes),
            size(replica.wal_bytes)
        ));
        if let Some(pid) = replica.wal_reader_pid {
            out.push_str(&format!("    the WAL grows because process {pid} has a read transaction open\n"));
        }
        if let Some(error) = &replica.error {
            out.push_str(&format!("    the backup cannot be asked: {error}\n"));
        }
        out
    }
}
