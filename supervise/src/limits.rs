//! How much memory a whole tree uses, and when that is too much.
//!
//! Measured by the tree's cgroup where one counts, else as the sum of the proportional set sizes of all its processes, so a
//! command behind `sh -c` counts like any other. One sample may be a peak; only several in a row are a reason.

use std::time::Duration;

use crate::tree::{Tree, proportional_memory};

/// A limit on the memory of a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Bytes.
    pub max: u64,
    /// So many samples in a row above it are too much.
    pub samples: u32,
    /// From one sample to the next.
    pub every: Duration,
}

impl Memory {
    /// A limit with the usual patience.
    pub fn new(max: u64) -> Memory {
        Memory { max, samples: 3, every: Duration::from_secs(5) }
    }

    /// Waits until the tree uses too much, and says so.
    pub(crate) async fn exceeded(&self, tree: &Tree) -> String {
        let mut above = 0;
        loop {
            let used = used(tree).await;
            above = if used > self.max { above + 1 } else { 0 };
            if above >= self.samples.max(1) {
                let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
                return format!(
                    "its processes use {:.1} MiB, the limit is {:.1} MiB",
                    mib(used),
                    mib(self.max)
                );
            }
            tokio::time::sleep(self.every).await;
        }
    }
}

async fn used(tree: &Tree) -> u64 {
    if let Some(bytes) = tree.group_memory() {
        return bytes;
    }
    let members = tree.members_now().await;
    let sum = move || proportional_memory(&members);
    tokio::task::spawn_blocking(sum).await.expect("reading /proc does not panic")
}
