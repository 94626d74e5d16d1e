//! What follows the log goes on after errors: when it tries again, and what is said meanwhile.

use std::time::Duration;

use litekeep_env::{Clock as _, SystemClock, random_u64};
use litekeep_ltx::Txid;
use serde::{Deserialize, Serialize};

use crate::Error;

const FIRST: Duration = Duration::from_millis(250);
const LONGEST: Duration = Duration::from_secs(30);

/// The pauses between tries: each twice as long as the one before.
#[derive(Debug)]
pub struct Pauses(Duration);

impl Default for Pauses {
    fn default() -> Pauses {
        Pauses(FIRST)
    }
}

impl Pauses {
    /// The next one: half to all of it, so that many do not come together.
    pub fn longer(&mut self) -> Duration {
        let half = self.0 / 2;
        self.0 = (self.0 * 2).min(LONGEST);
        half + Duration::from_millis(random_u64() % (half.as_millis() as u64 + 1))
    }
}

/// Of a log that is read: whether it has what is confirmed.
#[derive(Debug, Default)]
pub struct Lacking(Option<(Option<Txid>, Duration)>);

impl Lacking {
    /// A log that has not what is confirmed for so long is left for another one.
    pub const PATIENCE: Duration = Duration::from_secs(5);

    /// More than up to a transaction is confirmed, and is to be read.
    pub fn confirmed(&mut self, at: Option<Txid>) {
        self.0.get_or_insert_with(|| (at, SystemClock.boottime()));
    }

    /// The log has nothing after a transaction: for how long although more is confirmed.
    pub fn lasts(&mut self, at: Option<Txid>) -> Option<Duration> {
        self.0.take_if(|(stood, _)| *stood != at);
        self.0.map(|(_, since)| SystemClock.boottime().saturating_sub(since))
    }
}

/// What keeps somebody from going on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// Place and cause.
    pub message: String,
    /// What to type next.
    pub hint: Option<String>,
    /// Since when, milliseconds since the epoch.
    pub since_ms: i64,
}

impl Trouble {
    /// After an error, where `known` was before; and whether that is news.
    pub fn after(known: Option<&Trouble>, error: &Error, now_ms: i64) -> (Trouble, bool) {
        let (message, hint) = (error.to_string(), error.hint().map(str::to_owned));
        let is_news = known.is_none_or(|known| known.message != message);
        let since_ms = known.map_or(now_ms, |known| known.since_ms);
        (Trouble { message, hint, since_ms }, is_news)
    }

    /// With what to type next, in a line.
    pub fn line(&self) -> String {
        let hint = self.hint.as_ref().map_or(String::new(), |hint| format!("; {hint}"));
        format!("{}{hint}", self.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound() {
        let mut pauses = Pauses::default();
        let all: Vec<Duration> = (0..20).map(|_| pauses.longer()).collect();
        assert!(all[0] >= FIRST / 2 && all[0] <= FIRST, "{all:?}");
        assert!(all[19] >= LONGEST / 2 && all.iter().all(|pause| *pause <= LONGEST), "{all:?}");
    }
}
