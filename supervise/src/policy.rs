//! When an ended process is started again: pure, with no clock and no chance of its own.
//!
//! The first restart is immediate; from the second crash on the wait grows from `shortest` to `longest`, with full jitter.
//! A run of `stable` forgives everything before it. After `limit` crashes the process counts as failed, which is shown;
//! it is still tried again, slowly, so nothing is dead for ever. A clean end that is followed by a start has the same waits, but is
//! no crash: it never makes a process failed.

use std::time::Duration;

pub use litekeep_config::Restart;

/// How a process is restarted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Which ends are followed by a new start.
    pub restart: Restart,
    /// The least wait from the second crash on.
    pub shortest: Duration,
    /// The greatest wait before the limit.
    pub longest: Duration,
    /// A run of this length forgives the crashes before it.
    pub stable: Duration,
    /// After this many crashes without a stable run between them the process is failed.
    pub limit: u32,
    /// How long a failed process rests before each further try.
    pub retry: Duration,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            restart: Restart::default(),
            shortest: Duration::from_millis(100),
            longest: Duration::from_secs(30),
            stable: Duration::from_secs(60),
            limit: 10,
            retry: Duration::from_secs(300),
        }
    }
}

/// What happened to the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// It ended by itself.
    Exited {
        /// With exit code 0.
        clean: bool,
        /// How long it ran.
        ran: Duration,
        /// 64 random bits.
        chance: u64,
    },
    /// It could not be started, or we ended it because it was unfit (liveness, a limit).
    Unfit {
        /// How long it ran.
        ran: Duration,
        /// 64 random bits.
        chance: u64,
    },
    /// A person or a deploy asked for a start: the past is forgiven.
    Asked,
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Start it after this wait.
    Start {
        /// Zero for at once.
        after: Duration,
    },
    /// Show it as failed, and try again after this wait.
    Fail {
        /// Until the next try.
        retry: Duration,
    },
    /// It is over: a clean end, or one that is not to be followed by a start.
    Rest,
}

/// The restart policy of one process.
#[derive(Clone, Debug)]
pub struct Policy {
    settings: Settings,
    /// Ends since the last stable run.
    ends: u32,
    /// Those of them that were not clean.
    crashes: u32,
}

impl Policy {
    /// Nothing has happened yet.
    pub fn new(settings: Settings) -> Policy {
        Policy { settings, ends: 0, crashes: 0 }
    }

    /// Crashes since the last stable run.
    pub fn crashes(&self) -> u32 {
        self.crashes
    }

    /// Takes note of an event and says what follows.
    pub fn step(&mut self, event: Event) -> Action {
        let (clean, ran, chance) = match event {
            Event::Asked => {
                (self.ends, self.crashes) = (0, 0);
                return Action::Start { after: Duration::ZERO };
            }
            Event::Exited { clean, ran, chance } => (clean, ran, chance),
            Event::Unfit { ran, chance } => (false, ran, chance),
        };
        let follows = match self.settings.restart {
            Restart::Always => true,
            Restart::OnFailure => !clean,
            Restart::Never => false,
        };
        if !follows {
            return Action::Rest;
        }
        if ran >= self.settings.stable {
            (self.ends, self.crashes) = (0, 0);
        }
        self.ends = self.ends.saturating_add(1);
        self.crashes = self.crashes.saturating_add(u32::from(!clean));
        if !clean && self.crashes > self.settings.limit {
            // A tenth more or less, so that a hundred failed processes do not come back in one instant.
            let tenth = self.settings.retry / 10;
            return Action::Fail {
                retry: between(self.settings.retry - tenth, self.settings.retry + tenth, chance),
            };
        }
        let after = match self.ends {
            1 => Duration::ZERO,
            n => between(self.settings.shortest, self.ceiling(n), chance),
        };
        Action::Start { after }
    }

    /// The longest wait after the n-th end, n >= 2: twice as long each time.
    fn ceiling(&self, n: u32) -> Duration {
        let factor = 1u32.checked_shl(n - 1).filter(|factor| *factor != 0).unwrap_or(u32::MAX);
        self.settings.shortest.saturating_mul(factor).min(self.settings.longest).max(self.settings.shortest)
    }
}

/// A point from `low` to `high`, in nanoseconds, chosen by 64 random bits.
fn between(low: Duration, high: Duration, chance: u64) -> Duration {
    let width = high.saturating_sub(low).as_nanos();
    low + Duration::from_nanos(((width * u128::from(chance)) >> 64) as u64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn crash(chance: u64) -> Event {
        Event::Exited { clean: false, ran: Duration::from_secs(1), chance }
    }

    #[test]
    fn the_first_restart_is_immediate_and_a_stable_run_forgives() {
        let mut policy = Policy::new(Settings::default());
        assert_eq!(policy.step(crash(7)), Action::Start { after: Duration::ZERO });
        assert!(
            matches!(policy.step(crash(7)), Action::Start { after } if after >= Duration::from_millis(100))
        );
        let stable = Event::Exited { clean: false, ran: Duration::from_secs(60), chance: 7 };
        assert_eq!(policy.step(stable), Action::Start { after: Duration::ZERO });
        assert_eq!(policy.crashes(), 1);
    }

    #[test]
    fn after_the_limit_it_is_failed_and_still_tried_again() {
        let settings = Settings { limit: 2, ..Settings::default() };
        let mut policy = Policy::new(settings);
        policy.step(crash(0));
        policy.step(crash(0));
        for chance in [0, 1, u64::MAX] {
            let Action::Fail { retry } = policy.step(crash(chance)) else { panic!("failed after the limit") };
            assert!(retry >= Duration::from_secs(270) && retry <= Duration::from_secs(330), "{retry:?}");
        }
        assert_eq!(policy.step(Event::Asked), Action::Start { after: Duration::ZERO });
        assert_eq!(policy.crashes(), 0);
    }

    #[test]
    fn who_rests_follows_the_setting() {
        let clean = Event::Exited { clean: true, ran: Duration::ZERO, chance: 0 };
        let policy = |restart| Policy::new(Settings { restart, ..Settings::default() });
        assert_eq!(policy(Restart::OnFailure).step(clean), Action::Rest);
        assert_eq!(policy(Restart::Never).step(crash(0)), Action::Rest);
        assert_eq!(policy(Restart::Always).step(clean), Action::Start { after: Duration::ZERO });
    }

    /// A worker may have nothing to do for a long time.
    #[test]
    fn clean_ends_wait_as_crashes_do_and_never_make_it_failed() {
        let settings = Settings { restart: Restart::Always, limit: 2, ..Settings::default() };
        let mut policy = Policy::new(settings);
        let clean = |chance| Event::Exited { clean: true, ran: Duration::from_secs(1), chance };
        assert_eq!(policy.step(clean(0)), Action::Start { after: Duration::ZERO });
        for _ in 0..100 {
            let Action::Start { after } = policy.step(clean(u64::MAX)) else { panic!("it is no crash") };
            assert!(after > settings.shortest && after <= settings.longest, "{after:?}");
        }
        assert_eq!(policy.crashes(), 0);
        // Nor do they forgive crashes.
        policy.step(crash(0));
        policy.step(clean(0));
        policy.step(crash(0));
        assert!(matches!(policy.step(crash(0)), Action::Fail { .. }));
        assert!(matches!(policy.step(clean(0)), Action::Start { .. }));
    }

    fn any_event() -> impl Strategy<Value = Event> {
        let ran = (0u64..100_000).prop_map(Duration::from_millis);
        prop_oneof![
            8 => (any::<bool>(), ran.clone(), any::<u64>())
                .prop_map(|(clean, ran, chance)| Event::Exited { clean, ran, chance }),
            3 => (ran, any::<u64>()).prop_map(|(ran, chance)| Event::Unfit { ran, chance }),
            1 => Just(Event::Asked),
        ]
    }

    proptest! {
        #[test]
        fn waits_stay_within_their_bounds_and_only_rest_ends_it(
            events in prop::collection::vec(any_event(), 1..200),
            limit in 0u32..80,
            always in any::<bool>(),
        ) {
            let restart = if always { Restart::Always } else { Restart::OnFailure };
            let settings = Settings { limit, restart, ..Settings::default() };
            let mut policy = Policy::new(settings);
            for event in events {
                let before = policy.crashes();
                let is_clean = matches!(event, Event::Exited { clean: true, .. });
                match policy.step(event) {
                    Action::Rest => {
                        prop_assert!(is_clean && !always);
                        prop_assert_eq!(policy.crashes(), before);
                    }
                    Action::Start { after } if after.is_zero() => prop_assert!(policy.ends <= 1),
                    Action::Start { after } => {
                        prop_assert!(after >= settings.shortest && after <= settings.longest);
                        prop_assert!(policy.ends >= 2 && (is_clean || policy.crashes() <= limit));
                    }
                    Action::Fail { retry } => {
                        prop_assert!(!is_clean && policy.crashes() > limit);
                        prop_assert!(retry >= settings.retry * 9 / 10 && retry <= settings.retry * 11 / 10);
                    }
                }
            }
        }

        #[test]
        fn the_ceiling_never_shrinks(n in 2u32..200) {
            let policy = Policy::new(Settings::default());
            prop_assert!(policy.ceiling(n) <= policy.ceiling(n + 1));
        }
    }
}
