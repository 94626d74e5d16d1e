//! Changed rows of a database for whoever follows them over HTTP.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use litekeep_dashboard::{Asked, Refused, Told};
use litekeep_env::{Clock, SystemClock};
use litekeep_feed::{Event, Kind, resume};
use litekeep_ltx::Point;
use litekeep_rows::feed::Feed;
use litekeep_rows::{Error, Selection};
use litekeep_store::Store;

use super::view::{Board, file_name, is_meant};
use crate::replication::Current;

/// Between two looks at what the replicator has confirmed, which cost nothing to speak of.
const LOOK: Duration = Duration::from_millis(50);
/// Between two tries while the store does not answer.
const OUTAGE_PAUSE: Duration = Duration::from_secs(1);
/// A log that has not what the replicator has confirmed for so long is told of no more: whoever comes back gets another one.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is told to one of them.
struct Following {
    feed: Feed,
    name: String,
    path: PathBuf,
    replication: Current,
    due: VecDeque<Told>,
    /// There are other backups to read.
    has_others: bool,
    /// Since when there is more than where it stands.
    confirmed: Option<Duration>,
}

impl Board {
    /// Follows the changes of a database.
    ///
    /// # Errors
    /// As [`Refused`].
    pub(super) async fn changes(&self, asked: Asked) -> Result<BoxStream<'static, Told>, Refused> {
        let (path, stores) = self.backups_of(&asked.database)?;
        let mut begun = Err(Refused::Unavailable("its backup cannot be opened now\n".to_owned()));
        for (nth, store) in stores.iter().enumerate() {
            match begin(store, &asked).await {
                Err(error) if nth == 0 => begun = Err(error),
                // What the first one says is what it is about.
                Err(_) => {}
                Ok(feed) => {
                    begun = Ok(feed);
                    break;
                }
            }
        }
        let feed = begun?;
        let due = VecDeque::from([Told::Position(feed.at().to_string())]);
        let (name, replication) = (file_name(&path), self.replication());
        let (has_others, confirmed) = (stores.len() > 1, None);
        let following = Following { feed, name, path, replication, due, has_others, confirmed };
        let told =
            stream::unfold(following, async |mut following| Some((following.next().await?, following)));
        Ok(told.boxed())
    }

    /// The database that somebody means, and where to read its log, the best first.
    fn backups_of(&self, wanted: &str) -> Result<(PathBuf, Vec<Store>), Refused> {
        let all: Vec<PathBuf> = self.statuses().into_iter().map(|status| status.path).collect();
        let meant: Vec<&PathBuf> = all.iter().filter(|path| is_meant(path, wanted)).collect();
        let [path] = meant.as_slice() else {
            let of = if meant.is_empty() { all.iter().collect() } else { meant };
            let names: Vec<String> = of.iter().map(|path| format!("/changes{}", path.display())).collect();
            return Err(Refused::Unknown(format!("say which database: {}\n", names.join(", "))));
        };
        let stores = self.configured(path).and_then(|database| self.stores(&database)).unwrap_or_default();
        let mut stores: Vec<Store> = stores.into_iter().map(|(_, store)| store).collect();
        stores.sort_by_key(|store| store.as_folder().is_none());
        Ok(((*path).clone(), stores))
    }
}

async fn begin(store: &Store, asked: &Asked) -> Result<Feed, Refused> {
    let refused = |error: &Error| match error.kind() {
        Kind::Unavailable => Refused::Unavailable(format!("{error}\n")),
        _ => Refused::Gone(format!("{error}; without a position it begins now\n")),
    };
    let log = store.list().await.map_err(|error| refused(&error.into()))?;
    let Some(last) = log.last() else {
        return Err(Refused::Unavailable("nothing is in the backup yet\n".to_owned()));
    };
    let at = match &asked.after {
        None => last,
        Some(text) => {
            let is_none = |_| Refused::Invalid(format!("`{text}` is no position\n"));
            let point: Point = text.parse().map_err(is_none)?;
            // From the middle of a transaction it tells all of it: again rather than never.
            point
                .whole()
                .ok_or_else(|| Refused::Gone("the first transaction is the database itself\n".to_owned()))?
        }
    };
    let wanted = Selection { tables: asked.tables.clone(), ..Selection::default() };
    let feed = resume(store, &log, at, wanted).await.map_err(|error| refused(&error))?;
    feed.check_tables().await.map_err(|error| match error.kind() {
        Kind::Invalid => Refused::Invalid(format!("{error}\n")),
        _ => refused(&error),
    })?;
    Ok(feed)
}

impl Following {
    /// The next of it; `None` when it cannot go on: whoever comes back is told why.
    async fn next(&mut self) -> Option<Told> {
        loop {
            if let Some(told) = self.due.pop_front() {
                return Some(told);
            }
            match self.feed.next().await {
                Ok(Some(part)) => {
                    self.confirmed = None;
                    let events = Event::of(&self.name, &part, SystemClock.unix_ms());
                    self.due.extend(events.into_iter().map(|event| Told::Change(event.line)));
                    if part.is_last {
                        self.due.push_back(Told::Position(part.txid.to_string()));
                    }
                }
                Ok(None) if self.is_left() => {
                    tracing::warn!(
                        path = %self.path.display(),
                        "a follower of its changes is sent away: the backup that is read lacks what is confirmed"
                    );
                    return None;
                }
                Ok(None) => self.news().await,
                Err(error) if error.kind() == Kind::Unavailable && !self.is_left() => {
                    self.confirmed.get_or_insert_with(|| SystemClock.boottime());
                    tokio::time::sleep(OUTAGE_PAUSE).await;
                }
                Err(error) => {
                    tracing::warn!(path = %self.path.display(), "could not tell its changes any more: {error}");
                    return None;
                }
            }
        }
    }

    /// Whether the log has kept it waiting too long, and another one may not.
    fn is_left(&self) -> bool {
        self.has_others
            && self.confirmed.is_some_and(|since| SystemClock.boottime().saturating_sub(since) >= PATIENCE)
    }

    /// Waits until the replicator has confirmed more. Asks no store.
    async fn news(&mut self) {
        let at = Some(self.feed.at().txid);
        loop {
            tokio::time::sleep(if self.confirmed.is_some() { OUTAGE_PAUSE } else { LOOK }).await;
            if self.replication.upgrade().and_then(|replication| replication.durable(&self.path)) > at {
                self.confirmed.get_or_insert_with(|| SystemClock.boottime());
                return;
            }
        }
    }
}
