//! The copies of a database's log, of which one is read at a time.

use std::time::Duration;

use litekeep_env::{Clock as _, SystemClock};
use litekeep_ltx::Txid;
use litekeep_store::Store;

use crate::{Error, Kind};

/// Between two questions to the best one while another is read.
const ASKS: Duration = Duration::from_secs(60);

/// The log of a database, in each of its destinations.
#[derive(Clone, Debug)]
pub struct Logs {
    /// The best first: a folder costs nothing to ask.
    stores: Vec<Store>,
    nth: usize,
    /// When the best one was last asked.
    asked: Duration,
    /// How many of them have failed since something was read, and whether the last one is still to be told of.
    failed: usize,
    has_failed: bool,
}

impl Logs {
    /// Those of a database, the best first.
    ///
    /// # Errors
    /// `Invalid` when there is none.
    pub fn new(stores: Vec<Store>) -> Result<Logs, Error> {
        if stores.is_empty() {
            return Err(Error::new(Kind::Invalid, "the database has no backup, and a sync is read from it"));
        }
        Ok(Logs { stores, nth: 0, asked: SystemClock.boottime(), failed: 0, has_failed: false })
    }

    /// The last transaction that any of them has; that one is read from now on. Asks all of them.
    ///
    /// # Errors
    /// When none answers, or one does not and no other has anything.
    pub(crate) async fn last(&mut self) -> Result<Option<Txid>, Error> {
        let (mut best, mut failed) = ((self.nth, None), None);
        for nth in (0..self.stores.len()).map(|n| (self.nth + n) % self.stores.len()) {
            match self.stores[nth].list().await {
                Ok(log) if log.last() > best.1 => best = (nth, log.last()),
                Ok(_) => {}
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        let ((nth, last), failed) = (best, failed.filter(|_| best.1.is_none()));
        self.nth = nth;
        failed.map_or(Ok(last), |error| Err(error.into()))
    }

    /// Whether another than the one that is read has more than up to a transaction; that one is read from now on.
    ///
    /// # Errors
    /// As [`last`](Self::last).
    pub(crate) async fn have_more(&mut self, at: Txid) -> Result<bool, Error> {
        if self.stores.len() < 2 {
            return Ok(false);
        }
        let was = self.nth;
        Ok(self.last().await? > Some(at) && self.nth != was)
    }

    /// Where another than the best is read: whether that has a transaction again; it is read from now on. Asks now and then.
    pub(crate) async fn is_best_back(&mut self, at: Txid) -> bool {
        let now = SystemClock.boottime();
        if self.nth == 0 || now.saturating_sub(self.asked) < ASKS {
            return false;
        }
        self.asked = now;
        let is_back = self.stores[0].list().await.is_ok_and(|log| log.last() >= Some(at));
        if is_back {
            self.nth = 0;
        }
        is_back
    }

    /// The one that is read has failed in the middle of what it has: the next is read from now on.
    pub(crate) fn leave(&mut self) {
        self.take_next();
        (self.failed, self.has_failed) = (self.failed + 1, true);
    }

    /// Whether one was [left](Self::leave) since that was asked last, and the next may have what that could not tell.
    pub(crate) fn may_go_on(&mut self) -> bool {
        std::mem::take(&mut self.has_failed) && self.failed < self.stores.len()
    }

    /// What was read is kept on the other side.
    pub(crate) fn has_told(&mut self) {
        self.failed = 0;
    }

    fn take_next(&mut self) {
        self.nth = (self.nth + 1) % self.stores.len();
    }

    /// Reads something from one of them: the one that is read, or the first of the others from which it can be; that one
    /// is read from now on.
    ///
    /// # Errors
    /// Where none can: what may pass by itself, if there is such an error.
    pub(crate) async fn read<T, F: Future<Output = Result<T, Error>>>(
        &mut self,
        attempt: impl Fn(Store) -> F,
    ) -> Result<T, Error> {
        let mut failed: Option<Error> = None;
        for _ in 0..self.stores.len() {
            match attempt(self.stores[self.nth].clone()).await {
                Ok(found) => return Ok(found),
                Err(error) => {
                    self.take_next();
                    let may_pass = |error: &Error| error.kind() == Kind::Unavailable;
                    if failed.as_ref().is_none_or(|failed| !may_pass(failed) && may_pass(&error)) {
                        failed = Some(error);
                    }
                }
            }
        }
        Err(failed.expect("there is one at least"))
    }
}
