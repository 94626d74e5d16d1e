//! The rules: when a lease may be taken, and how long it is held.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use litekeep_env::Clock;

use crate::error::{Error, ErrorKind, Result};
use crate::record::{Node, Record, Release};
use crate::register::{Put, Register};

/// A register that is slower cannot hold a lease.
const PATIENCE: Duration = Duration::from_secs(10);

/// What others wait longer than a holder holds, for clocks do not run alike.
#[must_use]
pub fn margin(ttl: Duration) -> Duration {
    ttl / 5
}

/// One node's part in a lease.
pub struct Lease {
    register: Arc<dyn Register>,
    clock: Arc<dyn Clock>,
    node: Node,
    ttl: Duration,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    newest: Option<Seen>,
    /// Since when it is known that there has never been a record.
    nobody_since: Option<Duration>,
    /// A put of ours that takes over and was not answered.
    unanswered: Option<Try>,
    /// A holding of this node that is over.
    over: Option<Record>,
}

/// A put that takes over.
struct Try {
    ours: Record,
    follows: Option<Record>,
    /// Before it was sent.
    began: Duration,
}

#[derive(Clone)]
struct Seen {
    record: Record,
    /// When the first read of it was over, by the own clock.
    since: Duration,
}

/// How an attempt to take a lease ended.
#[derive(Debug)]
pub enum Attempt {
    /// It is ours.
    Held(Holding),
    /// It is another's.
    Waits {
        /// The newest record; `None`: there has never been one.
        newest: Option<Record>,
        /// How long until it may be taken, if nothing new comes.
        left: Duration,
    },
    /// Another one has just come.
    Lost,
}

/// A lease that is held, for as long as it is valid.
#[derive(Debug)]
pub struct Holding {
    record: Record,
    follows: Option<Record>,
    /// When the first put of the next record began, while nobody has answered.
    unanswered: Option<Duration>,
    validity: Validity,
}

/// Whether a holding is valid, for all who must know.
#[derive(Clone)]
pub struct Validity {
    /// Nanoseconds of the own clock.
    until: Arc<AtomicU64>,
    clock: Arc<dyn Clock>,
}

impl Lease {
    /// Nothing is asked yet. `ttl`: how long a record of ours holds.
    #[must_use]
    pub fn new(register: Arc<dyn Register>, clock: Arc<dyn Clock>, node: Node, ttl: Duration) -> Lease {
        Lease { register, clock, node, ttl, known: Mutex::default() }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest record, and how long until it may be taken by this node after a `handicap`, if nothing new comes.
    ///
    /// # Errors
    /// Those of the register.
    pub async fn look(&self, handicap: Duration) -> Result<Option<(Record, Duration)>> {
        let known = self.known().newest.clone();
        let mut newest = self.newest(known.as_ref().map(|seen| &seen.record)).await?;
        // After the read, for the record may have come in the middle of it.
        let mut now = self.clock.boottime();
        let is_due = |seen: &Seen| seen.since + self.waits_for(&seen.record, handicap) <= now;
        if known.as_ref().is_some_and(|seen| newest.as_ref() == Some(&seen.record) && is_due(seen)) {
            // It may be old: whoever slept knows one of which those that follow are deleted.
            newest = self.newest(None).await?;
            now = self.clock.boottime();
        }
        let seen = newest.map(|record| match known {
            Some(known) if known.record == record => known,
            _ => Seen { record, since: now },
        });
        {
            let mut known = self.known();
            known.newest.clone_from(&seen);
            known.nobody_since = if seen.is_some() { None } else { known.nobody_since.or(Some(now)) };
        }
        Ok(seen.map(|seen| {
            let until = seen.since + self.waits_for(&seen.record, handicap);
            (seen.record, until.saturating_sub(now))
        }))
    }

    /// The newest record. A register that does not answer is asked anew, for the way to it may have died without a word.
    async fn newest(&self, known: Option<&Record>) -> Result<Option<Record>> {
        self.within(PATIENCE, self.register.newest(known)).await
    }

    /// Nobody knows what came of it when the time is over.
    async fn within<T>(&self, time: Duration, asked: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::time::timeout(time, asked).await.unwrap_or_else(|_| {
            let what = format!("{} has not answered within {} ms", self.register.place(), time.as_millis());
            Err(Error::new(ErrorKind::Unavailable, what))
        })
    }

    /// Puts the next record of a holding, twice where the first request is not answered soon: the way by which it went may have died without a
    /// word. Both put the same.
    async fn put_again(&self, before: &Record, next: &Record) -> Result<Put> {
        let put = || self.register.put(Some(before), next);
        let mut first = std::pin::pin!(put());
        if let Ok(answered) = tokio::time::timeout(self.ttl / 4, &mut first).await {
            return answered;
        }
        let mut second = std::pin::pin!(put());
        let either = async {
            tokio::select! {
                answered = &mut first => if answered.is_ok() { answered } else { second.await },
                answered = &mut second => if answered.is_ok() { answered } else { first.await },
            }
        };
        self.within(PATIENCE, either).await
    }

    /// Notes that a holding of this node is over and that nobody counts on it: its process is dead, or has given it up. Where it is the
    /// newest one, nobody has to wait for it.
    pub fn note_over(&self, record: &Record) {
        self.known().over = Some(record.clone());
    }

    fn waits_for(&self, record: &Record, handicap: Duration) -> Duration {
        let is_over = self.known().over.as_ref().is_some_and(|over| over.is_of_holding(record));
        match &record.released {
            None if is_over => handicap,
            Some(Release { to: Some(to) }) if *to == self.node.name => Duration::ZERO,
            Some(Release { to: None }) => handicap,
            _ => record.ttl() + margin(record.ttl()) + handicap,
        }
    }

    /// Takes the lease if it may be taken, and after `handicap` more, which leaves it to those who are to come first.
    ///
    /// # Errors
    /// Those of the register; whether the lease is ours then, the next attempt tells.
    pub async fn attempt(&self, handicap: Duration) -> Result<Attempt> {
        let newest = self.look(handicap).await?;
        let unanswered = self.known().unanswered.take();
        if let (Some((newest, _)), Some(tried)) = (&newest, unanswered)
            && *newest == tried.ours
        {
            let holding = self.holding(tried);
            if holding.validity.is_valid() {
                return Ok(Attempt::Held(holding));
            }
        }
        let before = match newest {
            Some((newest, left)) if !left.is_zero() => {
                return Ok(Attempt::Waits { newest: Some(newest), left });
            }
            None => {
                let since = self.known().nobody_since.unwrap_or_default();
                let left = (since + handicap).saturating_sub(self.clock.boottime());
                if !left.is_zero() {
                    return Ok(Attempt::Waits { newest: None, left });
                }
                None
            }
            Some((record, _)) => Some(record),
        };
        let ours = Record {
            turn: before.as_ref().map_or(1, |before| before.turn + 1),
            epoch: before.as_ref().map_or(1, |before| before.epoch + 1),
            holder: self.node.clone(),
            nonce: fastrand::u64(..),
            ttl_ms: self.ttl.as_millis() as u64,
            released: None,
        };
        let tried = Try { ours, follows: before, began: self.clock.boottime() };
        match self.within(PATIENCE, self.register.put(tried.follows.as_ref(), &tried.ours)).await {
            Ok(Put::Done) => {
                self.known().newest = None;
                Ok(Attempt::Held(self.holding(tried)))
            }
            Ok(Put::Lost) => {
                // What is known may be old: the next look begins from nothing.
                self.known().newest = None;
                Ok(Attempt::Lost)
            }
            Err(e) => {
                self.known().unanswered = Some(tried);
                Err(e)
            }
        }
    }

    fn holding(&self, Try { ours: record, follows, began }: Try) -> Holding {
        let validity = Validity { until: Arc::default(), clock: self.clock.clone() };
        validity.begins(began, record.ttl());
        Holding { record, follows, unanswered: None, validity }
    }

    /// Holds it for another `ttl`. `false`: it is lost, and no renewal brings it back.
    ///
    /// # Errors
    /// Those of the register: to be tried again for as long as the holding is valid.
    pub async fn renew(&self, holding: &mut Holding) -> Result<bool> {
        let next = Record { turn: holding.record.turn + 1, ..holding.record.clone() };
        let now = self.clock.boottime();
        if !holding.validity.is_valid() {
            return Ok(false);
        }
        let began = *holding.unanswered.get_or_insert(now);
        match self.put_again(&holding.record, &next).await? {
            Put::Done => {
                holding.validity.begins(began, next.ttl());
                (holding.record, holding.unanswered) = (next, None);
                Ok(holding.validity.is_valid())
            }
            Put::Lost => {
                holding.validity.end();
                Ok(false)
            }
        }
    }

    /// Gives the lease up, to a node or to whoever comes first. The holding is not valid any more from the beginning, so
    /// whatever it stood for must have ended before. `false`: it was lost already.
    ///
    /// # Errors
    /// Those of the register: the others may have to wait then, as if the holder had died.
    pub async fn release(&self, holding: Holding, to: Option<String>) -> Result<bool> {
        let released = Some(Release { to });
        let next = Record { turn: holding.record.turn + 1, released, ..holding.record.clone() };
        let was_valid = holding.validity.is_valid();
        holding.validity.end();
        Ok(was_valid && self.register.put(Some(&holding.record), &next).await? == Put::Done)
    }
}

impl Holding {
    /// Its newest record.
    #[must_use]
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// The record of the holding before it.
    #[must_use]
    pub fn follows(&self) -> Option<&Record> {
        self.follows.as_ref()
    }

    /// Whether it is valid, also after renewals.
    #[must_use]
    pub fn validity(&self) -> Validity {
        self.validity.clone()
    }
}

impl Validity {
    fn begins(&self, at: Duration, ttl: Duration) {
        self.until.store((at + ttl).as_nanos() as u64, SeqCst);
    }

    fn end(&self) {
        self.until.store(0, SeqCst);
    }

    /// Whether nobody else can hold the lease now. To be asked before each answer that depends on it.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        !self.left().is_zero()
    }

    /// How long it is valid without a renewal.
    #[must_use]
    pub fn left(&self) -> Duration {
        Duration::from_nanos(self.until.load(SeqCst)).saturating_sub(self.clock.boottime())
    }
}

impl std::fmt::Debug for Validity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Validity").field(&self.left()).finish()
    }
}
