//! Time, passed explicitly so that tests can own it.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

/// Where a component reads the time.
pub trait Clock: Send + Sync {
    /// Wall clock, milliseconds since the Unix epoch. May jump in either direction.
    fn unix_ms(&self) -> i64;
    /// Time since some fixed moment; never goes back and counts suspension (CLOCK_BOOTTIME).
    fn boottime(&self) -> Duration;
}

/// The machine's clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods)] // the one place that reads the wall clock
    fn unix_ms(&self) -> i64 {
        match std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH) {
            Ok(d) => d.as_millis() as i64,
            Err(e) => -(e.duration().as_millis() as i64),
        }
    }

    fn boottime(&self) -> Duration {
        clock(libc::CLOCK_BOOTTIME)
    }
}

impl SystemClock {
    /// As [`Clock::boottime`], without the time of suspension (CLOCK_MONOTONIC).
    pub fn monotonic(&self) -> Duration {
        clock(libc::CLOCK_MONOTONIC)
    }
}

fn clock(id: libc::clockid_t) -> Duration {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `t` is a valid timespec for the duration of the call.
    #[allow(unsafe_code)]
    let r = unsafe { libc::clock_gettime(id, &mut t) };
    assert_eq!(r, 0, "both clocks exist since Linux 2.6.39");
    Duration::new(t.tv_sec as u64, t.tv_nsec as u32)
}

/// A clock that moves only when told to.
#[derive(Debug, Default)]
pub struct ManualClock {
    unix_ms: AtomicI64,
    boottime_ms: AtomicU64,
}

impl ManualClock {
    /// Starts at the given wall time, boot time zero.
    pub fn new(unix_ms: i64) -> ManualClock {
        ManualClock { unix_ms: AtomicI64::new(unix_ms), boottime_ms: AtomicU64::new(0) }
    }

    /// Both clocks move on.
    pub fn advance(&self, by: Duration) {
        self.unix_ms.fetch_add(by.as_millis() as i64, SeqCst);
        self.boottime_ms.fetch_add(by.as_millis() as u64, SeqCst);
    }

    /// Only the wall clock jumps, as when an operator or NTP sets it.
    pub fn jump(&self, by_ms: i64) {
        self.unix_ms.fetch_add(by_ms, SeqCst);
    }
}

impl Clock for ManualClock {
    fn unix_ms(&self) -> i64 {
        self.unix_ms.load(SeqCst)
    }

    fn boottime(&self) -> Duration {
        Duration::from_millis(self.boottime_ms.load(SeqCst))
    }
}
