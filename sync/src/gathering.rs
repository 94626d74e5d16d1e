//! How long transactions that have come wait for others, to be committed together with them.

use std::time::{Duration, Instant};

/// For each other one.
const GATHER: Duration = Duration::from_millis(5);
/// The first one waits no longer, however steadily others come.
const AT_MOST: Duration = Duration::from_millis(20);

/// Since when the first one waits.
#[derive(Debug, Default)]
pub(crate) struct Gathering(Option<Instant>);

impl Gathering {
    /// How long the next event may take, and `otherwise` where nothing waits; `None`: what waits is to be committed now.
    pub(crate) fn patience(
        &mut self,
        is_waiting: bool,
        otherwise: Duration,
        now: Instant,
    ) -> Option<Duration> {
        if !is_waiting {
            self.0 = None;
            return Some(otherwise);
        }
        let first = *self.0.get_or_insert(now);
        let left = AT_MOST.checked_sub(now - first).filter(|left| !left.is_zero())?;
        Some(left.min(GATHER))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A thousand transactions a second leave no pause in which everything before could be committed.
    #[test]
    fn what_comes_steadily_is_committed_all_the_same() {
        let (mut gathering, begin) = (Gathering::default(), Instant::now());
        let long = Duration::from_secs(2);
        assert_eq!(gathering.patience(false, long, begin), Some(long));
        let mut commits = 0;
        for ms in 0..1000 {
            let now = begin + Duration::from_millis(ms);
            match gathering.patience(true, long, now) {
                Some(patience) => assert!(patience <= GATHER),
                None => {
                    commits += 1;
                    assert_eq!(gathering.patience(false, long, now), Some(long));
                }
            }
        }
        assert!(commits >= 40, "{commits}");
    }
}
