//! From the log to a sink.

use std::path::PathBuf;
use std::time::Duration;

use litekeep_config::{FeedFrom, FeedUrl};
use litekeep_env::{Clock, SystemClock};
use litekeep_ltx::Txid;
use litekeep_replicate::Instead;
use litekeep_replicate::restore::Goal;
use litekeep_rows::Selection;
use litekeep_rows::feed::Feed;
use litekeep_rows::retry::{Lacking, Pauses, Trouble};
use litekeep_store::{FileRef, Log, Store, plan};
use tokio::sync::watch;

use crate::state::{Position, State};
use crate::{Error, Event, Kind, Sink, sink};

/// Between two looks at a log that has not what the replicator has confirmed.
const LOOK: Duration = Duration::from_millis(500);

/// What is delivered where.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The feed's name.
    pub name: String,
    /// The database's name, as events tell it.
    pub database: String,
    /// The logs of the database, the best first.
    pub stores: Vec<Store>,
    /// Which rows.
    pub wanted: Selection,
    /// Where it begins when it has no position yet.
    pub from: FeedFrom,
    /// Where to.
    pub to: FeedUrl,
    /// Certificate authorities to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// Where its position is kept.
    pub position: PathBuf,
}

/// A feed on its way.
pub struct Delivery {
    settings: Settings,
    position: Position,
    sink: Option<Box<dyn Sink>>,
    feed: Option<Feed>,
    /// One that was opened to look at the tables.
    opened: Option<Feed>,
    /// What the sink has not confirmed.
    waiting: Option<Waiting>,
    /// How many events it has.
    events: u64,
    /// Which of the stores is read.
    store: usize,
    /// Where it stood when a log lacked what the replicator had confirmed, which only going on disproves.
    stuck: Option<Option<Txid>>,
    /// What the sink said of itself, so that it is said once.
    caveat: Option<String>,
}

/// A part of a transaction.
struct Waiting {
    events: Vec<Event>,
    txid: Txid,
    time_ms: i64,
    is_last: bool,
}

impl Delivery {
    /// Reads the position. Nothing is opened yet.
    ///
    /// # Errors
    /// `Invalid` for a position that cannot be read.
    pub fn new(settings: Settings) -> Result<Delivery, Error> {
        let position = Position::read(&settings.position, settings.to.to_string())?;
        let (sink, feed, opened) = (None, None, None);
        let (waiting, stuck, caveat) = (None, None, None);
        Ok(Delivery { settings, position, sink, feed, opened, waiting, events: 0, store: 0, stuck, caveat })
    }

    /// How it stands.
    pub fn state(&self) -> &State {
        &self.position.state
    }

    /// How many events were confirmed, those that came again among them.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// Whether each of the wanted tables is there, in the state after which it begins or in the last one of the log. To be asked
    /// before the first step: nothing is delivered, no sink opened and no position written. A log that cannot be gone on with is
    /// for that step to tell.
    ///
    /// # Errors
    /// `Invalid` for one that is in neither; those of a restore of the last state.
    pub async fn check_tables(&mut self) -> Result<(), Error> {
        let Some(store) = self.settings.stores.first().filter(|_| self.names_tables()).cloned() else {
            return Ok(());
        };
        let Ok(Some(feed)) = self.open_at(&store).await else { return Ok(()) };
        feed.check_tables().await?;
        self.opened = Some(feed);
        Ok(())
    }

    fn names_tables(&self) -> bool {
        !self.settings.wanted.tables.is_empty()
    }

    /// Delivers the next part of a transaction; `false` when there is none yet. Costs the store one request then. After an
    /// error it can be asked again, and goes on with what was not confirmed.
    ///
    /// # Errors
    /// Those of the log and of the sink.
    pub async fn step(&mut self) -> Result<bool, Error> {
        let Some(sink) = &mut self.sink else {
            return self.open_sink().await.map(|()| true);
        };
        let Some(feed) = &mut self.feed else { return self.open_feed().await };
        let waiting = match &self.waiting {
            Some(waiting) => waiting,
            None => {
                let part = match feed.next().await {
                    Ok(Some(part)) => part,
                    Ok(None) => {
                        self.position.keep().await?;
                        return Ok(false);
                    }
                    Err(error) => {
                        if matches!(error.kind(), Kind::Unavailable | Kind::Corrupt) {
                            self.take_next_store();
                        }
                        if error.kind() != Kind::Unavailable {
                            // Opened anew, which also says what is not in the log any more.
                            self.feed = None;
                        }
                        return Err(error);
                    }
                };
                let events = Event::of(&self.settings.database, &part, SystemClock.unix_ms());
                let (txid, time_ms, is_last) = (part.txid, part.time_ms, part.is_last);
                self.waiting.insert(Waiting { events, txid, time_ms, is_last })
            }
        };
        if !waiting.events.is_empty()
            && let Err(error) = sink::deliver(&mut **sink, &self.settings.to, &waiting.events).await
        {
            // How it stands is not known any more.
            self.sink = None;
            return Err(error);
        }
        let state = &mut self.position.state;
        self.events += waiting.events.len() as u64;
        if !waiting.events.is_empty() {
            state.delivered_ms = Some(SystemClock.unix_ms());
        }
        if waiting.is_last {
            (state.txid, state.time_ms) = (Some(waiting.txid.to_string()), Some(waiting.time_ms));
        }
        self.waiting = None;
        self.position.keep().await?;
        Ok(true)
    }

    /// Writes the position.
    ///
    /// # Errors
    /// `Unavailable` when the disk does not take it.
    pub async fn keep(&mut self) -> Result<(), Error> {
        self.position.keep_now().await
    }

    /// Delivers until `stop` says so. What fails is tried again, is kept beside the position and is logged once. `news` waits
    /// until more than up to a transaction is confirmed: by one of the destinations, of which another is read when this one has
    /// not got it.
    pub async fn follow(mut self, mut stop: watch::Receiver<bool>, news: impl AsyncFn(Option<Txid>)) {
        let mut pauses = Pauses::default();
        let mut lacking = Lacking::default();
        let mut is_unchecked = self.names_tables();
        loop {
            let stepped = tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => break,
                stepped = self.step() => stepped,
            };
            match stepped {
                Ok(more) => {
                    if self.is_well() {
                        pauses = Pauses::default();
                    }
                    if let Some(feed) = self.feed.as_ref().filter(|_| is_unchecked) {
                        let checked = tokio::select! {
                            biased;
                            _ = stop.wait_for(|stop| *stop) => break,
                            checked = feed.check_tables() => checked,
                        };
                        is_unchecked = checked.as_ref().is_err_and(|error| error.kind() == Kind::Unavailable);
                        // Nothing of it is delivered, and it may be made yet.
                        if let Err(error) = checked
                            && error.kind() == Kind::Invalid
                        {
                            tracing::warn!(feed = self.settings.name, "{error}");
                        }
                    }
                    if more {
                        continue;
                    }
                    let at = self.state().at();
                    let look = match lacking.lasts(at) {
                        None => Duration::ZERO,
                        Some(lasts) if lasts < Lacking::PATIENCE => LOOK,
                        Some(_) => {
                            let error = self.lacks_what_is_confirmed(at);
                            self.failed(&error).await;
                            lacking = Lacking::default();
                            pauses.longer()
                        }
                    };
                    // What was confirmed a moment ago is not written yet, and nothing may come for a long time.
                    let is_kept = self.position.is_kept();
                    let news = async {
                        tokio::time::sleep(look).await;
                        news(at).await;
                    };
                    tokio::select! {
                        _ = stop.wait_for(|stop| *stop) => break,
                        () = news, if is_kept => lacking.confirmed(at),
                        () = tokio::time::sleep(crate::state::EVERY), if !is_kept => {}
                    }
                }
                Err(error) => {
                    self.failed(&error).await;
                    tokio::select! {
                        _ = stop.wait_for(|stop| *stop) => break,
                        () = tokio::time::sleep(pauses.longer()) => {}
                    }
                }
            }
        }
        if let Err(error) = self.keep().await {
            tracing::warn!(feed = self.settings.name, "{error}; the last events will come again");
        }
    }

    /// Leaves a log for that of another destination, where there is one.
    fn take_next_store(&mut self) {
        let count = self.settings.stores.len();
        if count > 1 {
            (self.feed, self.store) = (None, (self.store + 1) % count);
        }
    }

    /// Leaves the log that is read; the error that says why.
    fn lacks_what_is_confirmed(&mut self, at: Option<Txid>) -> Error {
        let place = |nth: usize| self.settings.stores.get(nth).map_or(String::new(), Store::place);
        let (left, was) = (place(self.store), self.store);
        let has = at.map_or("nothing".to_owned(), |at| format!("nothing after transaction {at}"));
        self.stuck = Some(at);
        self.take_next_store();
        let next = match self.store {
            same if same == was => String::new(),
            next => format!("; going on with {}", self.settings.stores[next].place()),
        };
        let lacks = format!("{left} has {has}, although more is confirmed{next}");
        Error::with_hint(Kind::Unavailable, lacks, "`litekeep status` shows which destination is away")
    }

    /// Whether everything is open and nothing waits: then what was wrong is over.
    fn is_well(&mut self) -> bool {
        let is_open = self.waiting.is_none() && self.sink.is_some() && self.feed.is_some();
        let is_well = is_open && self.stuck.is_none_or(|stuck| self.position.state.at() > stuck);
        if is_well {
            self.stuck = None;
        }
        if is_well && self.position.state.trouble.take().is_some() {
            tracing::info!(feed = self.settings.name, "delivers again to {}", self.settings.to);
        }
        is_well
    }

    async fn failed(&mut self, error: &Error) {
        let known = self.position.state.trouble.as_ref();
        let (trouble, is_news) = Trouble::after(known, error, SystemClock.unix_ms());
        if is_news {
            tracing::warn!(feed = self.settings.name, "does not deliver: {}", trouble.line());
        }
        self.position.state.trouble = Some(trouble);
        // A disk that does not take it is the next thing that fails.
        let _ = self.position.keep().await;
    }

    async fn open_sink(&mut self) -> Result<(), Error> {
        let Settings { name, to, ca_file, .. } = &self.settings;
        let opened = sink::open(to, ca_file.as_deref(), name, self.position.state.at()).await?;
        let caveat = opened.caveat().map(str::to_owned);
        if caveat != self.caveat
            && let Some(caveat) = &caveat
        {
            tracing::warn!(feed = name, "{caveat}");
        }
        self.caveat = caveat;
        self.sink = Some(opened);
        Ok(())
    }

    /// `false` when the log has nothing yet.
    async fn open_feed(&mut self) -> Result<bool, Error> {
        let Some(store) = self.settings.stores.get(self.store).cloned() else {
            return Err(Error::new(Kind::Invalid, "the database has no backup, and a feed is read from it"));
        };
        // A sink may know better where it begins than a position that is lost.
        let knows_better =
            self.position.state.at().is_none() && self.sink.as_ref().is_some_and(|sink| sink.at().is_some());
        let opened = match self.opened.take().filter(|_| !knows_better) {
            Some(feed) => Ok(Some(feed)),
            None => self.open_at(&store).await,
        };
        if opened.is_err() {
            // Another one may have it.
            self.take_next_store();
        }
        let Some(feed) = opened? else { return Ok(false) };
        let state = &mut self.position.state;
        // From now on the position is its own, whatever `from` says.
        state.txid = Some(feed.at().txid.to_string());
        self.feed = Some(feed);
        self.position.keep_now().await?;
        Ok(true)
    }

    async fn open_at(&mut self, store: &Store) -> Result<Option<Feed>, Error> {
        let log = store.list().await?;
        let Some(last) = log.last() else { return Ok(None) };
        let wanted = self.settings.wanted.clone();
        let begun = self.position.state.at().or(self.sink.as_ref().and_then(|sink| sink.at()));
        let at = match (begun, self.settings.from) {
            (Some(at), _) => at,
            (None, FeedFrom::Txid(txid)) => {
                Txid::new(txid).ok_or_else(|| Error::new(Kind::Invalid, "0 is no transaction"))?
            }
            (None, FeedFrom::Now) => last,
            (None, FeedFrom::Beginning) => first(&log).ok_or(litekeep_store::Error::Empty)?,
        };
        match resume(store, &log, at, wanted).await {
            Ok(feed) => Ok(Some(feed)),
            Err(error) => Err(self.not_there(&log, (at, last), error)),
        }
    }

    /// The log does not have the position any more, or not yet.
    fn not_there(&self, log: &Log, (at, last): (Txid, Txid), error: Error) -> Error {
        if error.kind() == Kind::Unavailable {
            return error;
        }
        let name = &self.settings.name;
        let first = first(log).unwrap_or(last);
        let lost = if at < first {
            format!(
                "the feed `{name}` stands at transaction {at}, and the log begins at {first}: what happened in between is \
                 not in it any more"
            )
        } else if at > last && self.settings.stores.len() > 1 {
            // Another destination may have it.
            let lacks = format!("the feed `{name}` stands at transaction {at}, and this log ends at {last}");
            let hint = "`litekeep status` shows which destination is behind";
            return Error::with_hint(Kind::Unavailable, lacks, hint);
        } else if at > last {
            format!("the feed `{name}` stands at transaction {at}, and the log ends at {last}")
        } else {
            format!("the feed `{name}` cannot go on after transaction {at}: {error}")
        };
        let path = self.position.path.display();
        let hint = format!(
            "to go on without it: stop litekeep, `rm '{path}'`, and start again; `from` then says where it begins"
        );
        Error::with_hint(Kind::Invalid, lost, hint)
    }
}

/// Goes on after a transaction of a log. Where compaction has merged it with later ones, it begins before it: some changes
/// come again.
///
/// # Errors
/// Those of a restore of the state.
pub async fn resume(store: &Store, log: &Log, at: Txid, wanted: Selection) -> Result<Feed, Error> {
    match Feed::open(store, Goal::Txid(at), wanted.clone()).await {
        Err(error) => match before(log, at, &error) {
            Some(before) => Feed::open(store, Goal::Txid(before), wanted).await,
            None => Err(error),
        },
        feed => feed,
    }
}

/// The oldest state that the log still has.
fn first(log: &Log) -> Option<Txid> {
    log.files().filter(|file| file.is_base()).map(FileRef::max).min()
}

/// The state before a transaction that was merged with its neighbours, from which the log leads on without a hole.
fn before(log: &Log, at: Txid, error: &Error) -> Option<Txid> {
    let Some(Instead::Txid(before)) = error.instead() else { return None };
    let leads_on = log.last().is_some_and(|last| at <= last) && plan::steps(log, before).is_ok();
    (before < at && leads_on).then_some(before)
}
