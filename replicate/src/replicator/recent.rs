//! The newest files of a log in memory, for those who follow it closely: whoever is less close reads the backup.
//!
//! Promises:
//! - A file is here only once a destination has it. Whoever follows one destination is given nothing that it does not have:
//!   a copy is never ahead of the log that it would go on with when this process is gone.
//! - Nothing is kept while nobody asks, and never more than a limit.

use super::database::{Database, lock};
use crate::capture::{Body, Segment};
use bytes::Bytes;
use litekeep_ltx::Txid;
use std::collections::VecDeque;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// Bytes of files that are kept for all who follow.
const LIMIT: u64 = 16 << 20;
/// Nobody has asked for so long: nothing is kept.
const WANTED: Duration = Duration::from_secs(60);

/// What is kept.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    kept: Mutex<Kept>,
    /// Rings when a destination has something new.
    bell: Notify,
}

#[derive(Debug, Default)]
struct Kept {
    /// Without a gap, ascending.
    files: VecDeque<(Txid, Bytes)>,
    bytes: u64,
    asked: Option<Instant>,
}

impl Kept {
    fn clear(&mut self) {
        (self.files, self.bytes) = (VecDeque::new(), 0);
    }

    fn is_wanted(&self) -> bool {
        self.asked.is_some_and(|asked| asked.elapsed() < WANTED)
    }

    fn push(&mut self, txid: Txid, bytes: Option<&Bytes>) {
        let last = self.files.back().map(|(last, _)| *last);
        // A second destination has it, too.
        if last.is_some_and(|last| txid <= last) {
            return;
        }
        let bytes = bytes.filter(|bytes| self.is_wanted() && bytes.len() as u64 <= LIMIT);
        if bytes.is_none() || last.is_some_and(|last| last.next() != txid) {
            self.clear();
        }
        let Some(bytes) = bytes else { return };
        self.bytes += bytes.len() as u64;
        self.files.push_back((txid, bytes.clone()));
        while self.bytes > LIMIT
            && let Some((_, gone)) = self.files.pop_front()
        {
            self.bytes -= gone.len() as u64;
        }
    }

    fn get(&self, txid: Txid) -> Option<Bytes> {
        let (first, _) = self.files.front()?;
        let nth = txid.get().checked_sub(first.get())?;
        self.files.get(usize::try_from(nth).ok()?).map(|(_, bytes)| bytes.clone())
    }
}

impl Recent {
    /// A destination has a file.
    pub(super) fn landed(&self, segment: &Segment) {
        let bytes = match &segment.body {
            Body::Memory(bytes) => Some(bytes),
            Body::Spooled => None,
        };
        lock(&self.kept).push(segment.txid(), bytes);
        self.bell.notify_waiters();
    }

    /// Frees what nobody asks for any more.
    pub(super) fn tidy(&self) {
        let mut kept = lock(&self.kept);
        if !kept.is_wanted() {
            kept.clear();
        }
    }
}

/// What follows a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Following {
    /// The file of the next one.
    File(Txid, Bytes),
    /// Nothing yet.
    Nothing,
    /// The log goes on, with what is not kept here.
    NotKept,
    /// The log ends before that transaction.
    Beyond,
    /// The database is not replicated any more, or not yet.
    Away,
}

/// How far the log is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reached {
    /// The last transaction that may be followed.
    pub confirmed: Option<Txid>,
    /// The last one that was captured.
    pub captured: Option<Txid>,
}

/// The end of a database's log, as it grows.
#[derive(Clone, Debug)]
pub struct Tail {
    database: Weak<Database>,
    recent: Arc<Recent>,
    /// The [identity](litekeep_store::Store::identity) of the destination that is followed.
    destination: String,
}

impl Tail {
    pub(super) fn new(database: &Arc<Database>, destination: &str) -> Tail {
        let recent = database.recent.clone();
        Tail { database: Arc::downgrade(database), recent, destination: destination.to_owned() }
    }

    /// Waits until something follows a transaction, at most so long. Asks no store.
    pub async fn next(&self, after: Txid, patience: Duration) -> Following {
        let until = tokio::time::Instant::now() + patience;
        loop {
            let mut rung = std::pin::pin!(self.recent.bell.notified());
            rung.as_mut().enable();
            match self.following(after) {
                Following::Nothing => {}
                found => return found,
            }
            if tokio::time::timeout_at(until, rung).await.is_err() {
                return self.following(after);
            }
        }
    }

    fn following(&self, after: Txid) -> Following {
        let Some(reached) = self.reached() else { return Following::Away };
        let Some(confirmed) = reached.confirmed else { return Following::Away };
        let mut kept = lock(&self.recent.kept);
        kept.asked = Some(Instant::now());
        match after.cmp(&confirmed) {
            std::cmp::Ordering::Equal => Following::Nothing,
            std::cmp::Ordering::Greater => Following::Beyond,
            std::cmp::Ordering::Less => {
                let next = after.next();
                kept.get(next).map_or(Following::NotKept, |bytes| Following::File(next, bytes))
            }
        }
    }

    /// How far the log is at the destination; where it cannot be told which of several that is, at all of them. `None`: the
    /// database is not replicated here any more.
    pub fn reached(&self) -> Option<Reached> {
        // Whoever was overtaken knows nothing of the log any more.
        let database = self.database.upgrade().filter(|database| !database.fenced.load(SeqCst))?;
        let destinations = database.destinations();
        let is_meant = |store: &litekeep_store::Store| store.identity() == self.destination;
        let own = destinations.iter().find(|d| destinations.len() > 1 && is_meant(&d.store));
        let confirmed = match own {
            Some(own) => own.durable,
            None => destinations.iter().map(|d| d.durable).min().flatten(),
        };
        let queued = destinations.iter().filter_map(|d| Some(d.queue.back()?.txid())).max();
        Some(Reached { confirmed, captured: confirmed.max(queued) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn txid(n: u64) -> Txid {
        Txid::new(n).unwrap()
    }

    fn file(len: u64) -> Bytes {
        vec![7; usize::try_from(len).unwrap()].into()
    }

    #[test]
    fn files_are_kept_without_a_gap_and_within_the_limit() {
        let mut kept = Kept::default();
        kept.push(txid(1), Some(&file(10)));
        assert_eq!(kept.get(txid(1)), None, "nobody has asked");
        kept.asked = Some(Instant::now());
        for n in 2..=5 {
            kept.push(txid(n), Some(&file(LIMIT / 3)));
        }
        kept.push(txid(4), Some(&file(10)));
        let there = |kept: &Kept| (1..=9).filter(|n| kept.get(txid(*n)).is_some()).collect::<Vec<_>>();
        assert_eq!((there(&kept), kept.bytes), (vec![3, 4, 5], LIMIT / 3 * 3));
        // One of them is on the disk only.
        kept.push(txid(6), None);
        assert_eq!((there(&kept), kept.bytes), (vec![], 0));
        kept.push(txid(7), Some(&file(10)));
        kept.push(txid(9), Some(&file(10)));
        assert_eq!((there(&kept), kept.bytes), (vec![9], 10));
    }
}
