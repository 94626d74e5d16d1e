//! What the log costs a month, by the price list of one well-known store.
//!
//! The figures are list prices of Amazon S3 Standard, us-east-1, in US dollars without tax or free tier; those of today
//! stand on <https://aws.amazon.com/s3/pricing/>. It is an estimate to compare settings with, not a bill: most
//! compatible stores charge less, and some nothing for requests.

use std::time::Duration;

use crate::counters::Counts;

/// PUT, COPY, POST and LIST: dollars for 1,000 requests.
pub const WRITE_PER_1000: f64 = 0.005;
/// GET, HEAD and the rest: dollars for 1,000 requests. DELETE is free.
pub const READ_PER_1000: f64 = 0.0004;
/// Storage: dollars for a GB (10^9 bytes) and month, the first 50 TB.
pub const STORAGE_PER_GB_MONTH: f64 = 0.023;
/// Transfer out to the internet: dollars for a GB; none within the region, and none for what comes in.
pub const EGRESS_PER_GB: f64 = 0.09;

/// A month: 30 days.
const MONTH: Duration = Duration::from_secs(30 * 24 * 3600);
const GB: f64 = 1e9;

/// An estimate for a month, US dollars.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Price {
    /// Requests.
    pub requests: f64,
    /// Bytes that stand in the store.
    pub storage: f64,
    /// Bytes read, as if over the internet.
    pub egress: f64,
}

impl Price {
    /// The sum.
    pub fn total(&self) -> f64 {
        self.requests + self.storage + self.egress
    }
}

/// What a month costs in which everything goes on as in `observed` time, with `stored_bytes` in the store.
/// Too short a time to tell (zero) prices the storage alone.
pub fn monthly(counts: &Counts, observed: Duration, stored_bytes: u64) -> Price {
    let storage = stored_bytes as f64 / GB * STORAGE_PER_GB_MONTH;
    if observed.is_zero() {
        return Price { storage, ..Price::default() };
    }
    let factor = MONTH.as_secs_f64() / observed.as_secs_f64();
    let writes = (counts.put + counts.list) as f64;
    let reads = (counts.get + counts.head) as f64;
    Price {
        requests: (writes * WRITE_PER_1000 + reads * READ_PER_1000) / 1000.0 * factor,
        storage,
        egress: counts.bytes_in as f64 / GB * EGRESS_PER_GB * factor,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_put_a_second_for_a_month() {
        let counts = Counts { put: 3600, ..Counts::default() };
        let price = monthly(&counts, Duration::from_secs(3600), 0);
        // 2,592,000 puts at 5 dollars a million.
        assert!((price.total() - 12.96).abs() < 1e-9, "{price:?}");
    }

    #[test]
    fn an_idle_database_pays_for_its_bytes_only() {
        let price = monthly(&Counts::default(), Duration::from_secs(60), 2_000_000_000);
        assert!((price.total() - 0.046).abs() < 1e-9, "{price:?}");
        assert_eq!(price.requests, 0.0);
    }
}
