//! What is asked for seldom and shown often.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use litekeep_env::{Clock, SystemClock};

/// The last answer, while the next one may be under way.
#[derive(Debug)]
pub(super) struct Seldom<T>(Arc<Mutex<Kept<T>>>);

#[derive(Debug)]
struct Kept<T> {
    answer: Option<Arc<T>>,
    /// When it came, by the clock that stands still for nothing.
    at: Duration,
    is_asked: bool,
}

impl<T> Clone for Seldom<T> {
    fn clone(&self) -> Self {
        Seldom(self.0.clone())
    }
}

impl<T> Default for Seldom<T> {
    fn default() -> Self {
        Seldom(Arc::new(Mutex::new(Kept { answer: None, at: Duration::ZERO, is_asked: false })))
    }
}

impl<T: Send + Sync + 'static> Seldom<T> {
    /// The last answer. Asks for the next one, which begins with the last one, when that is `every` old; does not wait.
    pub(super) fn get<F>(&self, every: Duration, ask: impl FnOnce(Option<Arc<T>>) -> F) -> Option<Arc<T>>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let mut kept = self.kept();
        if !kept.is_asked && (kept.answer.is_none() || SystemClock.boottime() >= kept.at + every) {
            kept.is_asked = true;
            let (asked, own) = (ask(kept.answer.clone()), self.clone());
            tokio::spawn(async move {
                let answer = asked.await;
                let mut kept = own.kept();
                *kept = Kept { answer: Some(Arc::new(answer)), at: SystemClock.boottime(), is_asked: false };
            });
        }
        kept.answer.clone()
    }

    /// The last answer, whatever its age.
    pub(super) fn last(&self) -> Option<Arc<T>> {
        self.kept().answer.clone()
    }

    fn kept(&self) -> MutexGuard<'_, Kept<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
