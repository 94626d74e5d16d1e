//! Failovers at random.

use std::time::Duration;

use anyhow::{Context, Result};
use litekeep_testkit::campaign;

use super::scene::{Cluster, NODES};

/// What happens to the primary in one round, one after the other.
const BLOWS: usize = 3;

#[test]
fn nothing_acknowledged_is_lost_in_failovers() {
    campaign::rounds("failovers", 1, |seed| {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut cluster = Cluster::new(random.u8(0..3) == 0, "");
        let played = play(&mut cluster, &mut random);
        if played.is_err() {
            cluster.keep();
        }
        played.with_context(|| format!("all is kept as it was; {}", cluster.said()))
    });
}

fn play(cluster: &mut Cluster, random: &mut fastrand::Rng) -> Result<()> {
    for node in NODES {
        cluster.start(node);
    }
    for _ in 0..BLOWS {
        let primary = cluster.primary();
        cluster.acknowledges(primary, 10);
        std::thread::sleep(Duration::from_millis(random.u64(..500)));
        cluster.look();
        match random.u8(..4) {
            // The machine goes off, and comes back.
            0 => {
                cluster.kill(primary);
                std::thread::sleep(Duration::from_millis(random.u64(..6_000)));
                cluster.start(primary);
            }
            // litekeep dies, and the application goes on without it.
            1 => {
                cluster.kill_litekeep(primary);
                std::thread::sleep(Duration::from_millis(random.u64(..6_000)));
                cluster.start(primary);
            }
            // litekeep sleeps for longer than its lease holds, and wakes.
            2 => {
                cluster.signal(primary, libc::SIGSTOP);
                std::thread::sleep(Duration::from_millis(random.u64(1_000..8_000)));
                cluster.signal(primary, libc::SIGCONT);
            }
            // On purpose, with somebody killed in the middle of it.
            _ => {
                cluster.litekeep(primary, &["handoff"]);
                if random.bool() {
                    let next = cluster.primary();
                    cluster.kill(next);
                    cluster.start(next);
                }
            }
        }
        cluster.look();
    }
    cluster.try_settle().map(drop)
}
